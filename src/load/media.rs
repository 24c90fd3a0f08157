//! Synthetic media: RTP packets as an Opus or VP8 sender makes them, in size, number and timing, with
//! a [`Stamp`] where sound or picture would be. Keeps to a schedule; reads no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::base::ids::{MediaKind, PayloadType, RtpTime, SeqNo, SeqNo16, Ssrc};
use crate::load::datagrams::Datagrams;
use crate::load::stamp::{STAMP_LEN, Stamp};
use crate::transport::srtp::Sealer;
use crate::wire::extension::ExtensionId;
use crate::wire::rtcp::{NtpTime, SenderReport};
use crate::wire::rtp::{OutgoingHeader, write_header};

/// What one stream is like.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The publisher's number.
    pub publisher: u32,
    /// Its stream: 0 is audio.
    pub stream: u8,
    /// The SSRC.
    pub ssrc: Ssrc,
    /// What it carries.
    pub content: Content,
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Opus-like: a packet each [`AUDIO_PERIOD`].
    Audio,
    /// VP8-like: some packets for each frame.
    Video {
        /// Payload bits a second.
        bitrate: u64,
        /// Frames a second.
        fps: u32,
        /// Whether the packets of a frame are spread as libwebrtc's pacer does, instead of going out together.
        is_paced: bool,
    },
}

impl Content {
    /// Audio or video.
    #[must_use]
    pub fn kind(self) -> MediaKind {
        match self {
            Self::Audio => MediaKind::Audio,
            Self::Video { .. } => MediaKind::Video,
        }
    }

    fn clock_rate(self) -> u64 {
        match self {
            Self::Audio => 48_000,
            Self::Video { .. } => 90_000,
        }
    }

    fn period(self) -> Duration {
        match self {
            Self::Audio => AUDIO_PERIOD,
            Self::Video { fps, .. } => Duration::from_secs(1) / fps.max(1),
        }
    }
}

/// What the descriptions settled for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFormat {
    /// The payload type.
    pub payload_type: PayloadType,
    /// The header extensions that every packet carries.
    pub extensions: Vec<(ExtensionId, Vec<u8>)>,
    /// Under which id they are numbered through all streams of their transport, if they are.
    pub number_id: Option<ExtensionId>,
}

/// One stream being sent.
#[derive(Debug)]
pub struct Stream {
    plan: StreamPlan,
    format: SendFormat,
    rng: StdRng,
    /// When the run began: stamps and timestamps count from here.
    zero: Instant,
    seq: SeqNo,
    timestamp_base: u32,
    next_at: Instant,
    counter: u64,
    octets: u64,
    is_keyframe_due: bool,
    keyframe_at: Instant,
    picture_id: u16,
    /// Bytes of past keyframes that later frames have yet to save.
    debt: u64,
    /// Parts of pictures that wait for their time.
    parts: VecDeque<Part>,
    /// When the next part may go out.
    free_at: Instant,
}

/// What one packet carries.
struct Body<'a> {
    /// How long it is at least.
    len: usize,
    /// What it begins with.
    head: &'a [u8],
    /// It is the last of its picture.
    is_last: bool,
    timestamp: RtpTime,
}

/// A part of a picture.
#[derive(Debug)]
struct Part {
    at: Instant,
    len: usize,
    head: [u8; 14],
    is_last: bool,
    timestamp: RtpTime,
}

impl Stream {
    /// A stream whose first packet is due within a period of `now`, so that many do not march in step.
    #[must_use]
    pub fn new(
        now: Instant,
        zero: Instant,
        plan: StreamPlan,
        format: SendFormat,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let phase = plan.content.period().mul_f64(rng.random_range(0.0..1.0));
        Self {
            format,
            zero,
            // RFC 3711 §3.3.1: not near the wrap, or a loss of the first packets could be fatal.
            seq: SeqNo(u64::from(rng.random_range(0..0x8000u16))),
            timestamp_base: rng.random_range(0..u32::MAX),
            next_at: now + phase,
            counter: 0,
            octets: 0,
            is_keyframe_due: true,
            keyframe_at: now + phase,
            picture_id: rng.random_range(0..0x8000),
            debt: 0,
            parts: VecDeque::new(),
            free_at: now,
            rng,
            plan,
        }
    }

    /// What it is like.
    #[must_use]
    pub fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    /// How many packets were made.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counter
    }

    /// When the next packet is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let part = self.parts.front().map(|part| part.at);
        part.map_or(self.next_at, |at| at.min(self.next_at))
    }

    /// Makes the next frame one that can be decoded alone, unless the last such one is very new.
    pub fn request_keyframe(&mut self, now: Instant) {
        if now.saturating_duration_since(self.keyframe_at) >= KEYFRAME_SPACING {
            self.is_keyframe_due = true;
        }
    }

    /// Makes and seals the packets that are due, and says how many; `numbers` goes on with the transport-wide ones. A
    /// sender that comes too late by more than [`LATE_MAX`] does not make up for what it has missed.
    pub fn write_due(
        &mut self,
        now: Instant,
        numbers: &mut SeqNo16,
        sealer: &mut Sealer,
        out: &mut Datagrams,
    ) -> u64 {
        let before = self.counter;
        if now.saturating_duration_since(self.next_at) > LATE_MAX {
            self.next_at = now;
        }
        while self.next_at <= now {
            self.next_at += self.plan.content.period();
            match self.plan.content {
                Content::Audio => {
                    let body = Body {
                        len: AUDIO_BODY,
                        head: &OPUS_HEAD,
                        is_last: false,
                        timestamp: self.timestamp(now),
                    };
                    self.write_packet(now, &body, numbers, sealer, out);
                }
                Content::Video {
                    bitrate,
                    fps,
                    is_paced,
                } => {
                    let mean = bitrate / 8 / u64::from(fps.max(1));
                    let pace = is_paced.then_some(bitrate as f64 * PACING / 8.0);
                    self.make_frame(now, mean, pace);
                }
            }
        }
        while let Some(part) = self.parts.pop_front_if(|part| part.at <= now) {
            let body = Body {
                len: part.len,
                head: &part.head,
                is_last: part.is_last,
                timestamp: part.timestamp,
            };
            self.write_packet(now, &body, numbers, sealer, out);
        }
        self.counter - before
    }

    /// The parts of a picture; `pace` in bytes a second spreads them.
    fn make_frame(&mut self, now: Instant, mean: u64, pace: Option<f64>) {
        let is_due = now.saturating_duration_since(self.keyframe_at) >= KEYFRAME_PERIOD;
        let is_key = std::mem::take(&mut self.is_keyframe_due) || is_due;
        // A frame is now larger, now smaller than the mean, and after a keyframe a bit smaller.
        let size = (mean as f64 * self.rng.random_range(0.8..1.2)) as u64;
        let size = if is_key {
            self.keyframe_at = now;
            self.debt = (KEYFRAME_FACTOR - 1) * mean;
            size * KEYFRAME_FACTOR
        } else {
            let saved = self.debt.min(size / 4);
            self.debt -= saved;
            size - saved
        } as usize;
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        // Parts of equal size, but for a byte, as libwebrtc's packetizers make them.
        let count = size.div_ceil(VIDEO_BODY_MAX).max(1);
        for index in 0..count {
            let len = size / count + usize::from(index < size % count);
            let at = self.free_at.max(now);
            let taken = pace.map_or(0.0, |pace| len as f64 / pace);
            self.free_at = at + Duration::from_secs_f64(taken);
            self.parts.push_back(Part {
                at,
                len,
                head: self.vp8_head(index == 0, is_key),
                is_last: index + 1 == count,
                timestamp: self.timestamp(now),
            });
        }
    }

    /// The VP8 payload descriptor with a 15-bit picture id (RFC 7741 §4.2), and the frame's own
    /// header (RFC 6386 §9.1), which only its first packet has and the others' payload stands for.
    fn vp8_head(&self, is_first: bool, is_key: bool) -> [u8; 14] {
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        let start = u8::from(is_first) << 4;
        let tag = u8::from(!(is_first && is_key));
        // Start code and 640 by 360 pixels.
        [
            0x80 | start,
            0x80,
            high,
            low,
            tag,
            0,
            0,
            0x9d,
            0x01,
            0x2a,
            0x80,
            0x02,
            0x68,
            0x01,
        ]
    }

    fn write_packet(
        &mut self,
        now: Instant,
        body: &Body<'_>,
        numbers: &mut SeqNo16,
        sealer: &mut Sealer,
        out: &mut Datagrams,
    ) {
        let fields = OutgoingHeader {
            payload_type: self.format.payload_type,
            marker: body.is_last,
            seq: self.seq.on_wire(),
            timestamp: body.timestamp,
            ssrc: self.plan.ssrc,
            padding: false,
        };
        let stamp = Stamp {
            publisher: self.plan.publisher,
            stream: self.plan.stream,
            counter: self.counter,
            sent: now.saturating_duration_since(self.zero),
        };
        let number = numbers.0.to_be_bytes();
        let number_id = self.format.number_id;
        numbers.0 = numbers.0.wrapping_add(u16::from(number_id.is_some()));
        let extensions = &self.format.extensions;
        let roc = self.seq.roc();
        let head_len = body.head.len();
        let body_len = body.len.max(head_len + STAMP_LEN);
        out.push_with(|arena| {
            let start = arena.len();
            let elements = extensions.iter().map(|(id, value)| (*id, &value[..]));
            let elements = elements.chain(number_id.map(|id| (id, &number[..])));
            let header_len = write_header(arena, &fields, elements);
            let from = arena.len();
            arena.extend_from_slice(body.head);
            arena.resize(from + body_len, FILLER);
            stamp.write(&mut arena[from + head_len..]);
            sealer.rtp().seal(arena, start, header_len, roc);
        });
        self.seq = SeqNo(self.seq.0 + 1);
        self.counter += 1;
        self.octets += body_len as u64;
    }

    fn timestamp(&self, now: Instant) -> RtpTime {
        let ns = now.saturating_duration_since(self.zero).as_nanos();
        let ticks = ns * u128::from(self.plan.content.clock_rate()) / 1_000_000_000;
        RtpTime(self.timestamp_base.wrapping_add(ticks as u32))
    }

    /// What a sender report says now; `ntp` is the wall clock's time at `now`.
    #[must_use]
    pub fn report(&self, now: Instant, ntp: NtpTime) -> SenderReport {
        SenderReport {
            ssrc: self.plan.ssrc,
            ntp,
            rtp_time: self.timestamp(now),
            packets: self.counter as u32,
            octets: self.octets as u32,
        }
    }
}

/// Bytes of a payload before its stamp.
#[must_use]
pub fn head_len(kind: MediaKind) -> usize {
    match kind {
        MediaKind::Audio => OPUS_HEAD.len(),
        MediaKind::Video => 14,
    }
}

/// 50 packets a second, as every browser sends.
pub const AUDIO_PERIOD: Duration = Duration::from_millis(20);
/// How much faster than the stream's rate a paced frame goes out (libwebrtc's `kDefaultPaceMultiplier`).
const PACING: f64 = 2.5;
/// Bytes of an audio payload: 40 kbit/s.
const AUDIO_BODY: usize = 100;
/// The most bytes of a video payload, as browsers have it.
const VIDEO_BODY_MAX: usize = 1100;
/// A table of contents: full band, 20 ms, mono, one frame (RFC 6716 §3.1).
const OPUS_HEAD: [u8; 1] = [0x78];
const FILLER: u8 = 0x5a;
/// A keyframe is this many times as large as the mean frame.
const KEYFRAME_FACTOR: u64 = 4;
/// The longest time without a keyframe.
const KEYFRAME_PERIOD: Duration = Duration::from_secs(10);
/// The shortest time between two.
const KEYFRAME_SPACING: Duration = Duration::from_millis(300);
/// How late a packet may be made up for.
const LATE_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::SrtpProfile;
    use crate::transport::keys::MasterKey;
    use crate::transport::srtp::Opener;
    use crate::wire::rtp::RtpHeader;
    use bytes::BytesMut;

    const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;

    fn stream(now: Instant, content: Content) -> Stream {
        let plan = StreamPlan {
            publisher: 9,
            stream: 1,
            ssrc: Ssrc(77),
            content,
        };
        let format = SendFormat {
            payload_type: PayloadType(96),
            extensions: vec![(ExtensionId::new(4).unwrap(), b"v".to_vec())],
            number_id: ExtensionId::new(3),
        };
        Stream::new(now, now, plan, format, 1)
    }

    /// Runs for a time in steps of a millisecond; the packets as a subscriber would read them.
    fn run(stream: &mut Stream, t0: Instant, ms: u64) -> Vec<(RtpHeader, Vec<u8>)> {
        let key = MasterKey::new(PROFILE, &[1; 16], &[2; 12]).unwrap();
        let mut sealer = Sealer::new(PROFILE, &key);
        let mut opener = Opener::new(PROFILE, &key);
        let mut out = Datagrams::default();
        let mut numbers = SeqNo16(u16::MAX - 10);
        for step in 0..ms {
            let now = t0 + Duration::from_millis(step);
            if stream.poll_timeout() <= now {
                stream.write_due(now, &mut numbers, &mut sealer, &mut out);
            }
        }
        let packets = out.iter().map(|datagram| {
            let mut packet = BytesMut::from(datagram);
            let header = opener.open_rtp(&mut packet).unwrap();
            (header, header.payload(&packet).unwrap().to_vec())
        });
        packets.collect()
    }

    #[test]
    fn audio_comes_fifty_times_a_second() {
        let t0 = Instant::now();
        let mut stream = stream(t0, Content::Audio);
        let packets = run(&mut stream, t0, 2000);
        // The last one may be due a fraction of a millisecond after the end.
        assert!((99..=100).contains(&packets.len()), "{}", packets.len());
        for (counter, (header, payload)) in packets.iter().enumerate() {
            assert!(!header.marker && header.ssrc == Ssrc(77));
            let stamp = Stamp::read(&payload[head_len(MediaKind::Audio)..]).unwrap();
            assert_eq!((stamp.counter, stamp.publisher), (counter as u64, 9));
        }
        let ticks = packets[50]
            .0
            .timestamp
            .0
            .wrapping_sub(packets[0].0.timestamp.0);
        assert!((47_900..48_100).contains(&ticks), "{ticks}");
    }

    #[test]
    fn video_has_its_bitrate_in_even_bursts() {
        let t0 = Instant::now();
        let content = Content::Video {
            bitrate: 1_000_000,
            fps: 30,
            is_paced: false,
        };
        let mut stream = stream(t0, content);
        let packets = run(&mut stream, t0, 9000);
        let bits: usize = packets.iter().map(|(_, p)| p.len() * 8).sum();
        assert!((8_600_000..9_400_000).contains(&bits), "{bits}");
        let frames = packets.iter().filter(|(h, _)| h.marker).count();
        assert!((269..=270).contains(&frames), "{frames}");
        assert!(packets.iter().all(|(_, p)| p.len() <= VIDEO_BODY_MAX));
        let keyframes = packets
            .iter()
            .filter(|(_, p)| p[0] & 0x10 != 0 && p[4] & 1 == 0);
        assert_eq!(keyframes.count(), 1);
        for pair in packets.windows(2) {
            let same_frame = pair[0].0.timestamp == pair[1].0.timestamp;
            assert_eq!(same_frame, !pair[0].0.marker);
            if same_frame {
                assert!(pair[0].1.len() - pair[1].1.len() <= 1);
                assert_eq!(pair[0].1[2..4], pair[1].1[2..4], "one picture id a frame");
            }
            let stamp = Stamp::read(&pair[1].1[head_len(MediaKind::Video)..]);
            assert!(stamp.is_some());
        }
        let report = stream.report(t0, NtpTime(1));
        assert_eq!(u64::from(report.packets), stream.sent());
    }

    #[test]
    fn a_paced_frame_is_spread_over_the_time_of_its_bits() {
        let t0 = Instant::now();
        let content = Content::Video {
            bitrate: 1_000_000,
            fps: 30,
            is_paced: true,
        };
        let mut stream = stream(t0, content);
        let packets = run(&mut stream, t0, 3000);
        let bits: usize = packets.iter().map(|(_, p)| p.len() * 8).sum();
        assert!((2_700_000..3_300_000).contains(&bits), "{bits}");
        let sent = |at: usize| Stamp::read(&packets[at].1[14..]).unwrap().sent;
        for at in 1..packets.len() {
            let least = packets[at - 1].1.len() as f64 * 8.0 / 2.5e6;
            let gap = (sent(at) - sent(at - 1)).as_secs_f64();
            // The clock of the test moves in milliseconds.
            assert!(gap >= least - 0.001, "{at}: {gap} {least}");
        }
        assert!(
            packets
                .windows(2)
                .any(|p| p[0].0.timestamp == p[1].0.timestamp)
        );
    }

    #[test]
    fn keyframes_are_sent_when_asked_for_but_not_too_often() {
        let t0 = Instant::now();
        let content = Content::Video {
            bitrate: 500_000,
            fps: 20,
            is_paced: false,
        };
        let mut stream = stream(t0, content);
        let keys = |packets: &[(RtpHeader, Vec<u8>)]| {
            let keys = packets
                .iter()
                .filter(|(_, p)| p[0] & 0x10 != 0 && p[4] & 1 == 0);
            keys.count()
        };
        assert_eq!(keys(&run(&mut stream, t0, 200)), 1);
        let t1 = t0 + Duration::from_millis(200);
        stream.request_keyframe(t1);
        assert_eq!(keys(&run(&mut stream, t1, 200)), 0);
        let t2 = t1 + Duration::from_millis(200);
        stream.request_keyframe(t2);
        assert_eq!(keys(&run(&mut stream, t2, 200)), 1);
        let t3 = t2 + Duration::from_secs(60);
        assert_eq!(keys(&run(&mut stream, t3, 100)), 1, "now and then anyway");
        assert!(stream.sent() < 100, "a stall is not made up for");
    }
}
