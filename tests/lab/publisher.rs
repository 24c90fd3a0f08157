//! A publisher as a browser is one: Opus, and VP8 or AV1 with temporal layers or H.264 in one or more encodings, or VP9 or AV1
//! with spatial layers in one; it answers keyframe requests and NACKs. Each payload says which frame it is part of and on which frame that depends, so that a
//! receiver knows exactly what it could decode.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardcast::base::ids::{PayloadType, Rid, RtpTime, SeqNo16, Ssrc};
use shardcast::control::{EncodingConfig, TrackConfig};
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::{Extension, ExtensionId, ExtensionMap};
use shardcast::wire::rtcp::RtcpPacket;
use shardcast::wire::rtp::{OutgoingHeader, write_header};

use crate::layered_pictures::Source;
use crate::support::{Rtp, codec, extensions, track_of};

pub const OPUS: u8 = 111;
pub const RED: u8 = 63;
pub const VP8: u8 = 96;
pub const VP8_RTX: u8 = 97;

pub const MID_ID: u8 = 4;
pub const LEVEL_ID: u8 = 1;
pub const TRANSPORT_ID: u8 = 3;
const SEND_TIME_ID: u8 = 2;
const RID_ID: u8 = 10;
const REPAIRED_RID_ID: u8 = 11;
pub const DESCRIPTOR_ID: u8 = 12;

const AUDIO_EVERY: Duration = Duration::from_millis(20);
/// libwebrtc begins so, and goes down to that.
const REMB_START: u64 = 300_000;
const REMB_LEAST: u64 = 30_000;
/// What its sound takes, headers included.
const SOUND_BPS: u64 = 45_000;
/// 32 kbit/s.
const OPUS_BYTES: usize = 80;
const PACKET_BYTES_MAX: usize = 1100;
/// libwebrtc makes at most one keyframe in that time.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);
const SENT_MAX: usize = 2048;
/// What each spatial layer takes by itself, of what the best one does: as [`SIMULCAST`].
const LAYER_SHARES: [f64; 3] = [0.06, 0.2, 1.0];
const MAGIC: [u8; 4] = *b"SCla";
pub const STAMP_BYTES: usize = 32;

/// One simulcast stream.
#[derive(Debug, Clone, Copy)]
pub struct EncodingSpec {
    pub rid: &'static str,
    pub bits_per_s: u64,
    pub size: (u16, u16),
}

/// What Chromium makes of a 720p camera, low to high.
pub const SIMULCAST: [EncodingSpec; 3] = [
    EncodingSpec {
        rid: "q",
        bits_per_s: 150_000,
        size: (320, 180),
    },
    EncodingSpec {
        rid: "h",
        bits_per_s: 500_000,
        size: (640, 360),
    },
    EncodingSpec {
        rid: "f",
        bits_per_s: 2_500_000,
        size: (1280, 720),
    },
];

/// How a publisher makes its pictures.
#[derive(Debug, Clone, Copy)]
pub struct Camera {
    pub frames_per_s: u32,
    /// What a keyframe is in sizes of other frames.
    pub keyframe_sizes: usize,
    /// A request for one encoding is answered with keyframes of all, as libwebrtc's VP8 does.
    pub keys_all: bool,
}

impl Default for Camera {
    fn default() -> Self {
        Self {
            frames_per_s: 30,
            keyframe_sizes: 5,
            keys_all: false,
        }
    }
}

/// What a payload says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub encoding: u8,
    pub temporal: u8,
    pub is_keyframe: bool,
    pub frame: u32,
    /// The frame it cannot be decoded without.
    pub depends_on: u32,
    pub part: u16,
    pub parts: u16,
    pub capture_us: u64,
}

impl Stamp {
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(MAGIC);
        out.extend([self.encoding, self.temporal, u8::from(self.is_keyframe), 0]);
        out.extend(self.frame.to_be_bytes());
        out.extend(self.depends_on.to_be_bytes());
        out.extend(self.part.to_be_bytes());
        out.extend(self.parts.to_be_bytes());
        out.extend(self.capture_us.to_be_bytes());
        out.resize(start + STAMP_BYTES, 0);
    }

    pub fn read(body: &[u8]) -> Option<Self> {
        let body = body.get(..STAMP_BYTES)?;
        let be32 = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"));
        let be16 = |at: usize| u16::from_be_bytes(body[at..at + 2].try_into().expect("two bytes"));
        (body[..4] == MAGIC).then(|| Self {
            encoding: body[4],
            temporal: body[5],
            is_keyframe: body[6] != 0,
            frame: be32(8),
            depends_on: be32(12),
            part: be16(16),
            parts: be16(18),
            capture_us: u64::from(be32(20)) << 32 | u64::from(be32(24)),
        })
    }
}

/// How a publisher learns what it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// From feedback on each packet: what it makes of that is its own business, and here it sends what it has.
    TransportWide,
    /// It is told (REMB), and does as it is told; its packets say when they were sent, or only when captured.
    Remb { has_send_times: bool },
}

/// Who publishes: one track of sound and one of pictures.
pub struct Publisher {
    pub audio: TrackConfig,
    pub video: TrackConfig,
    pub camera: Camera,
    zero: Instant,
    rng: StdRng,
    sound: Stream,
    encodings: Vec<Encoding>,
    next_audio: Instant,
    next_video: Instant,
    next_report: Instant,
    transport_number: u16,
    feedback: Feedback,
    /// What it may send, in bits a second.
    pub told: Option<u64>,
    /// When keyframes were asked for and of which encoding.
    pub keyframe_requests: Vec<(Instant, usize)>,
    /// Keyframes made.
    pub keyframes: u64,
    pub nacked: u64,
}

struct Encoding {
    spec: EncodingSpec,
    coding: Codec,
    /// What makes its pictures, if they have spatial layers.
    layered: Option<Source>,
    stream: Stream,
    rtx_ssrc: u32,
    rtx_seq: u16,
    frame: u32,
    picture: u16,
    tl0: u8,
    /// Position in the pattern of temporal layers.
    turn: usize,
    /// The last frame of each temporal layer.
    last: [u32; 3],
    is_keyframe_due: bool,
    keyframe_at: Option<Instant>,
}

/// The numbers of one SSRC.
struct Stream {
    ssrc: u32,
    seq: u16,
    timestamp_base: u32,
    clock_rate: u64,
    packets: u32,
    octets: u32,
    sent: VecDeque<(u16, Vec<u8>)>,
}

/// What a packet says of its sending.
enum SendingStamp {
    Number([u8; 2]),
    Time([u8; 3]),
    None,
}

impl SendingStamp {
    fn values(&self) -> Option<(u8, &[u8])> {
        match self {
            Self::Number(number) => Some((TRANSPORT_ID, number)),
            Self::Time(time) => Some((SEND_TIME_ID, time)),
            Self::None => None,
        }
    }
}

/// What it wants to send.
pub enum Outgoing {
    Rtp(Vec<u8>),
    Rtcp(Vec<u8>),
}

impl Publisher {
    pub fn new(
        zero: Instant,
        at: usize,
        key: shardcast::base::ids::PeerKey,
        specs: &[EncodingSpec],
        coding: Codec,
        feedback: Feedback,
        seed: u64,
    ) -> Self {
        let mut audio = track_of(key, 0, &[codec(OPUS, Codec::Opus)]);
        audio.extensions = publisher_extensions(false, feedback);
        let mut video = track_of(key, 1, &[video_codec(coding)]);
        video.codecs[0].transport_cc = feedback == Feedback::TransportWide;
        video.extensions = publisher_extensions(true, feedback);
        let ssrc = |index: usize| 10_000 * (at as u32 + 1) + index as u32;
        let is_simulcast = specs.len() > 1;
        video.encodings = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| EncodingConfig {
                rid: is_simulcast.then(|| Rid::new(spec.rid).expect("a valid id")),
                ssrc: Some(Ssrc(ssrc(index))),
                rtx_ssrc: Some(Ssrc(ssrc(index) + 100)),
            })
            .collect();
        audio.encodings[0].ssrc = Some(Ssrc(ssrc(50)));
        let mut rng = StdRng::seed_from_u64(seed);
        let encodings = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| Encoding {
                spec: *spec,
                coding,
                layered: Source::new(coding, is_simulcast.then_some(index as u8), seed as u16),
                stream: Stream::new(ssrc(index), 90_000, &mut rng),
                rtx_ssrc: ssrc(index) + 100,
                rtx_seq: rng.random(),
                frame: 0,
                picture: rng.random_range(0..0x8000),
                tl0: rng.random(),
                turn: 0,
                last: [0; 3],
                is_keyframe_due: true,
                keyframe_at: None,
            })
            .collect();
        Self {
            audio,
            video,
            camera: Camera::default(),
            zero,
            sound: Stream::new(ssrc(50), 48_000, &mut rng),
            rng,
            encodings,
            next_audio: zero,
            // Not with the sound, nor with another publisher's pictures, and never the same with another seed.
            next_video: zero + Duration::from_millis(7 * (at as u64 + 1) + seed * 11 % 33),
            next_report: zero + Duration::from_millis(100),
            transport_number: 65_000,
            feedback,
            told: (feedback != Feedback::TransportWide).then_some(REMB_START),
            keyframe_requests: Vec::new(),
            keyframes: 0,
            nacked: 0,
        }
    }

    pub fn poll_timeout(&self) -> Instant {
        self.next_audio.min(self.next_video).min(self.next_report)
    }

    pub fn poll(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut out = Vec::new();
        if self.next_audio <= now {
            self.next_audio += AUDIO_EVERY;
            out.push(Outgoing::Rtp(self.sound(now)));
        }
        if self.next_video <= now {
            self.next_video += Duration::from_secs(1) / self.camera.frames_per_s;
            for index in 0..self.encodings.len() {
                out.extend(self.frame(now, index).into_iter().map(Outgoing::Rtp));
            }
        }
        if self.next_report <= now {
            self.next_report += Duration::from_secs(1);
            let since_zero = now - self.zero;
            let streams = self.encodings.iter().map(|encoding| &encoding.stream);
            for stream in streams.chain([&self.sound]) {
                out.push(Outgoing::Rtcp(stream.report(since_zero)));
            }
        }
        out
    }

    fn sound(&mut self, now: Instant) -> Vec<u8> {
        let stamp = Stamp {
            encoding: 0,
            temporal: 0,
            is_keyframe: false,
            frame: self.sound.packets,
            depends_on: 0,
            part: 0,
            parts: 1,
            capture_us: (now - self.zero).as_micros() as u64,
        };
        let mut payload = Vec::new();
        stamp.write(&mut payload);
        payload.resize(OPUS_BYTES, 0x55);
        let level = [0x80 | 30];
        let values: [(u8, &[u8]); 2] = [(MID_ID, b"0"), (LEVEL_ID, &level)];
        let sending = self.stamp(now);
        self.sound
            .packet(now - self.zero, OPUS, false, &values, &sending, &payload)
    }

    fn stamp(&mut self, now: Instant) -> SendingStamp {
        match self.feedback {
            Feedback::TransportWide => {
                let number = self.transport_number;
                self.transport_number = number.wrapping_add(1);
                SendingStamp::Number(number.to_be_bytes())
            }
            Feedback::Remb { has_send_times } => {
                // Seconds in 6.18 fixed point, of a clock of its own.
                let us = (now - self.zero).as_micros() as u64 + 59_000_000;
                let [.., a, b, c] = ((us << 18) / 1_000_000).to_be_bytes();
                match has_send_times {
                    true => SendingStamp::Time([a, b, c]),
                    false => SendingStamp::None,
                }
            }
        }
    }

    /// The next frame of an encoding, as packets.
    fn frame(&mut self, now: Instant, index: usize) -> Vec<Vec<u8>> {
        let noise: f64 = self.rng.random_range(0.8..1.2);
        let encoding = &mut self.encodings[index];
        let is_keyframe = encoding.is_keyframe_due
            && encoding
                .keyframe_at
                .is_none_or(|at| now - at >= KEYFRAME_INTERVAL);
        if is_keyframe {
            encoding.is_keyframe_due = false;
            encoding.keyframe_at = Some(now);
            encoding.turn = 0;
            self.keyframes += 1;
        }
        let (temporal, depends_on) = encoding.step(is_keyframe);
        let allowed = self.told.map_or(u64::MAX, |told| {
            told.saturating_sub(SOUND_BPS).max(REMB_LEAST)
        });
        let rate = encoding.spec.bits_per_s.min(allowed);
        let mean = rate / 8 / u64::from(self.camera.frames_per_s);
        let sizes = if is_keyframe {
            self.camera.keyframe_sizes
        } else {
            1
        };
        let bytes = ((mean as f64 * noise) as usize * sizes).max(STAMP_BYTES);
        if encoding.layered.is_some() {
            return self.layered_picture(now, index, is_keyframe, bytes);
        }
        let parts = bytes.div_ceil(PACKET_BYTES_MAX);
        let since_zero = now - self.zero;
        (0..parts)
            .map(|part| {
                let sending = self.stamp(now);
                let encoding = &mut self.encodings[index];
                let mut payload = match encoding.coding {
                    Codec::Vp8 => encoding.descriptor(part == 0, temporal, is_keyframe),
                    _ => fragment(part, parts, is_keyframe),
                };
                let stamp = Stamp {
                    encoding: index as u8,
                    temporal,
                    is_keyframe,
                    frame: encoding.frame,
                    depends_on,
                    part: part as u16,
                    parts: parts as u16,
                    capture_us: since_zero.as_micros() as u64,
                };
                stamp.write(&mut payload);
                payload.resize((bytes / parts).max(payload.len()), 0x33);
                let rid = encoding.spec.rid.as_bytes();
                let mut values: Vec<(u8, &[u8])> = vec![(MID_ID, b"1")];
                if self.video.encodings.len() > 1 {
                    values.push((RID_ID, rid));
                }
                let is_last = part + 1 == parts;
                encoding
                    .stream
                    .packet(since_zero, VP8, is_last, &values, &sending, &payload)
            })
            .collect()
    }

    /// The same with spatial layers; `bytes` is what the best one has.
    fn layered_picture(
        &mut self,
        now: Instant,
        index: usize,
        is_keyframe: bool,
        bytes: usize,
    ) -> Vec<Vec<u8>> {
        let since_zero = now - self.zero;
        let is_simulcast = self.video.encodings.len() > 1;
        let sizes = match is_simulcast {
            true => [bytes; 3],
            false => LAYER_SHARES.map(|share| ((bytes as f64 * share) as usize).max(STAMP_BYTES)),
        };
        let source = self.encodings[index].layered.as_mut();
        let parts = source.expect("it has layers").picture(
            is_keyframe,
            sizes,
            PACKET_BYTES_MAX,
            since_zero.as_micros() as u64,
        );
        let packets = parts.into_iter().map(|part| {
            let sending = self.stamp(now);
            let mut payload = part.header;
            part.stamp.write(&mut payload);
            payload.resize(part.bytes.max(payload.len()), 0x33);
            let mut values: Vec<(u8, &[u8])> = vec![(MID_ID, b"1")];
            if is_simulcast {
                values.push((RID_ID, self.encodings[index].spec.rid.as_bytes()));
            }
            let descriptor = part.descriptor.as_deref();
            values.extend(descriptor.map(|descriptor| (DESCRIPTOR_ID, descriptor)));
            self.encodings[index].stream.packet(
                since_zero,
                VP8,
                part.marker,
                &values,
                &sending,
                &payload,
            )
        });
        packets.collect()
    }

    /// What the server says: requests are answered.
    pub fn handle_rtcp(&mut self, now: Instant, packet: &RtcpPacket) -> Vec<Outgoing> {
        match packet {
            RtcpPacket::Pli { media } => self.request_keyframe(now, media.0),
            RtcpPacket::Fir { entries } => {
                for (ssrc, _) in entries {
                    self.request_keyframe(now, ssrc.0);
                }
            }
            RtcpPacket::Remb(remb) => {
                assert!(self.told.is_some(), "it takes feedback on each packet");
                self.told = Some(remb.bitrate.0);
            }
            RtcpPacket::TransportFeedback(_) => {
                assert!(self.told.is_none(), "it takes no feedback on packets");
            }
            RtcpPacket::Nack { media, seqs, .. } => {
                let seqs: Vec<u16> = seqs.iter().map(|seq| seq.0).collect();
                return self.resend(now, media.0, &seqs);
            }
            _ => {}
        }
        Vec::new()
    }

    fn request_keyframe(&mut self, now: Instant, ssrc: u32) {
        let found = self.encodings.iter_mut().enumerate();
        if let Some((index, encoding)) = found.into_iter().find(|(_, e)| e.stream.ssrc == ssrc) {
            encoding.is_keyframe_due = true;
            self.keyframe_requests.push((now, index));
            if self.camera.keys_all {
                self.encodings
                    .iter_mut()
                    .for_each(|e| e.is_keyframe_due = true);
            }
        }
    }

    fn resend(&mut self, now: Instant, ssrc: u32, seqs: &[u16]) -> Vec<Outgoing> {
        let mut out = Vec::new();
        for seq in seqs {
            self.nacked += 1;
            let sending = self.stamp(now);
            let Some(encoding) = self.encodings.iter_mut().find(|e| e.stream.ssrc == ssrc) else {
                continue;
            };
            let Some((_, packet)) = encoding.stream.sent.iter().find(|(kept, _)| kept == seq)
            else {
                continue;
            };
            let rid = (self.video.encodings.len() > 1).then_some(encoding.spec.rid);
            let resent = retransmission(packet, encoding.rtx_ssrc, encoding.rtx_seq, rid, &sending);
            out.push(Outgoing::Rtp(resent));
            encoding.rtx_seq = encoding.rtx_seq.wrapping_add(1);
        }
        out
    }
}

impl Encoding {
    /// The temporal layer of the next frame and the frame it depends on: 0 2 1 2, as libwebrtc has it.
    fn step(&mut self, is_keyframe: bool) -> (u8, u32) {
        let pattern = match self.coding {
            Codec::Vp8 => [0, 2, 1, 2],
            _ => [0; 4],
        };
        let temporal = pattern[self.turn % 4];
        let depends_on = match (temporal, self.turn % 4) {
            (0 | 1, _) | (2, 1) => self.last[0],
            _ => self.last[1],
        };
        self.turn += 1;
        self.frame += 1;
        self.picture = (self.picture + 1) & 0x7fff;
        self.last[usize::from(temporal)] = self.frame;
        if temporal == 0 {
            self.tl0 = self.tl0.wrapping_add(1);
        }
        (temporal, if is_keyframe { 0 } else { depends_on })
    }

    /// RFC 7741 §4.2 and, where the frame starts, the beginning of §4.3.
    fn descriptor(&self, is_start: bool, temporal: u8, is_keyframe: bool) -> Vec<u8> {
        let [high, low] = self.picture.to_be_bytes();
        let mut payload = vec![
            0x80 | u8::from(is_start) << 4,
            0xe0,
            0x80 | high,
            low,
            self.tl0,
        ];
        payload.push(temporal << 6 | u8::from(temporal > 0) << 5);
        if is_start {
            payload.extend([0x10 | u8::from(!is_keyframe), 0x02, 0x00]);
            if is_keyframe {
                let (width, height) = self.spec.size;
                payload.extend([0x9d, 0x01, 0x2a]);
                payload.extend(width.to_le_bytes());
                payload.extend(height.to_le_bytes());
            }
        }
        payload
    }
}

/// RFC 6184 §5.6 and §5.8: a picture is one NAL unit, whole or in fragments.
fn fragment(part: usize, parts: usize, is_keyframe: bool) -> Vec<u8> {
    let kind = if is_keyframe { 5 } else { 1 };
    if parts == 1 {
        return vec![0x60 | kind];
    }
    let (starts, ends) = (part == 0, part + 1 == parts);
    vec![0x7c, u8::from(starts) << 7 | u8::from(ends) << 6 | kind]
}

impl Stream {
    fn new(ssrc: u32, clock_rate: u64, rng: &mut StdRng) -> Self {
        Self {
            ssrc,
            // So that it wraps.
            seq: 65_300 + rng.random_range(0..200),
            timestamp_base: rng.random(),
            clock_rate,
            packets: 0,
            octets: 0,
            sent: VecDeque::new(),
        }
    }

    fn timestamp(&self, since_zero: Duration) -> u32 {
        let ticks = since_zero.as_micros() as u64 * self.clock_rate / 1_000_000;
        self.timestamp_base.wrapping_add(ticks as u32)
    }

    fn packet(
        &mut self,
        since_zero: Duration,
        payload_type: u8,
        marker: bool,
        values: &[(u8, &[u8])],
        sending: &SendingStamp,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut values = values.to_vec();
        values.extend(sending.values());
        let packet = write(&Rtp {
            ssrc: self.ssrc,
            seq: self.seq,
            timestamp: self.timestamp(since_zero),
            payload_type: payload_type | u8::from(marker) << 7,
            extensions: &values,
            payload,
        });
        self.packets += 1;
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        self.sent.push_back((self.seq, packet.clone()));
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        self.seq = self.seq.wrapping_add(1);
        packet
    }

    /// A sender report (RFC 3550 §6.4.1).
    fn report(&self, since_zero: Duration) -> Vec<u8> {
        let mut report = vec![0x80, 200, 0, 6];
        report.extend(self.ssrc.to_be_bytes());
        let seconds = 3_988_000_000 + since_zero.as_secs() as u32;
        let fraction = (u64::from(since_zero.subsec_nanos()) << 32) / 1_000_000_000;
        report.extend(seconds.to_be_bytes());
        report.extend((fraction as u32).to_be_bytes());
        report.extend(self.timestamp(since_zero).to_be_bytes());
        report.extend(self.packets.to_be_bytes());
        report.extend(self.octets.to_be_bytes());
        report
    }
}

/// RFC 4588 §4: the packet with its number in front of its payload.
fn retransmission(
    packet: &[u8],
    ssrc: u32,
    seq: u16,
    rid: Option<&str>,
    sending: &SendingStamp,
) -> Vec<u8> {
    let header = shardcast::wire::rtp::RtpHeader::parse(packet).expect("a packet of its own");
    let mut payload = header.seq.0.to_be_bytes().to_vec();
    payload.extend(header.payload(packet).expect("a packet of its own"));
    let mut values: Vec<(u8, &[u8])> = vec![(MID_ID, b"1")];
    values.extend(sending.values());
    if let Some(rid) = rid {
        values.push((REPAIRED_RID_ID, rid.as_bytes()));
    }
    let mut extensions = header.extensions(packet);
    let descriptor = extensions.find(|(id, _)| id.value() == DESCRIPTOR_ID);
    values.extend(descriptor.map(|(_, descriptor)| (DESCRIPTOR_ID, descriptor)));
    write(&Rtp {
        ssrc,
        seq,
        timestamp: header.timestamp.0,
        payload_type: VP8_RTX | u8::from(header.marker) << 7,
        extensions: &values,
        payload: &payload,
    })
}

/// With extensions in the two-byte form where one is longer than the other form allows.
fn write(packet: &Rtp<'_>) -> Vec<u8> {
    if packet.extensions.iter().all(|(_, value)| value.len() <= 16) {
        return packet.bytes();
    }
    let header = OutgoingHeader {
        payload_type: PayloadType(packet.payload_type & 0x7f),
        marker: packet.payload_type & 0x80 != 0,
        seq: SeqNo16(packet.seq),
        timestamp: RtpTime(packet.timestamp),
        ssrc: Ssrc(packet.ssrc),
        padding: false,
    };
    let id = |id: &u8| ExtensionId::new(*id).expect("an id");
    let values = packet.extensions.iter();
    let mut bytes = Vec::new();
    write_header(
        &mut bytes,
        &header,
        values.map(|(at, value)| (id(at), *value)),
    );
    bytes.extend(packet.payload);
    bytes
}

/// Under the payload types of VP8, whatever it is.
pub fn video_codec(coding: Codec) -> CodecMapping {
    CodecMapping {
        rtx: Some(PayloadType(VP8_RTX)),
        transport_cc: true,
        remb: true,
        ..codec(VP8, coding)
    }
}

fn publisher_extensions(is_video: bool, feedback: Feedback) -> ExtensionMap {
    let mut map = extensions(&[(Extension::Mid, MID_ID)]);
    let own = match feedback {
        Feedback::TransportWide => Some((Extension::TransportSequenceNumber, TRANSPORT_ID)),
        Feedback::Remb { has_send_times } => {
            has_send_times.then_some((Extension::AbsSendTime, SEND_TIME_ID))
        }
    };
    if let Some((extension, id)) = own {
        map.insert(extension, ExtensionId::new(id).expect("an id"));
    }
    let ids: &[(Extension, u8)] = if is_video {
        &[
            (Extension::RtpStreamId, RID_ID),
            (Extension::RepairedRtpStreamId, REPAIRED_RID_ID),
            (Extension::DependencyDescriptor, DESCRIPTOR_ID),
        ]
    } else {
        &[(Extension::AudioLevel, LEVEL_ID)]
    };
    for (extension, id) in ids {
        map.insert(*extension, ExtensionId::new(*id).expect("an id"));
    }
    map
}
