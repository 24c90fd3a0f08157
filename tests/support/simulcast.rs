//! A publisher of one picture in several encodings, and a subscriber that checks that what it gets is one stream. VP8,
//! without a network.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shardcast::base::ids::{EncodingIndex, Rid, RtpTime, Ssrc};
use shardcast::control::{EncodingConfig, TrackConfig};
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{NtpTime, SenderReport};
use shardcast::wire::rtp::RtpHeader;

use crate::support::{Rtp, World, codec, extensions, track};

/// The publisher's payload type.
pub const PAYLOAD_TYPE: u8 = 96;
const RIDS: [&str; 4] = ["q", "h", "f", "x"];
const MID_ID: u8 = 4;
const RID_ID: u8 = 5;
const REPAIRED_RID_ID: u8 = 6;

/// How a description names the encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By RID: SSRCs are not declared.
    Rid,
    /// By an SSRC group.
    Ssrc,
}

/// Makes the packets of one picture in several encodings.
pub struct Simulcast {
    pub config: TrackConfig,
    pub layers: Vec<Layer>,
    zero: Instant,
    picture: u32,
}

/// One encoding.
pub struct Layer {
    pub ssrc: u32,
    pub seq: u16,
    timestamp_base: u32,
    /// Counts its frames, from anywhere.
    picture_id: u16,
    /// Counts its packets.
    pub counter: u32,
    pub is_active: bool,
    pub keyframe_due: bool,
    /// How often a keyframe was asked for.
    pub requests: usize,
}

/// One packet that a publisher has made.
#[derive(Debug, Clone)]
pub struct Made {
    pub encoding: usize,
    pub is_keyframe: bool,
    pub is_first: bool,
    pub bytes: Vec<u8>,
}

impl Simulcast {
    /// `count` encodings of the track `index` of a client.
    pub fn new(world: &World, at: usize, index: u32, count: usize, naming: Naming) -> Self {
        let mut config = track(world, at, index, &[codec(PAYLOAD_TYPE, Codec::Vp8)]);
        config.extensions = extensions(&[
            (Extension::Mid, MID_ID),
            (Extension::RtpStreamId, RID_ID),
            (Extension::RepairedRtpStreamId, REPAIRED_RID_ID),
        ]);
        let base = 100_000 * (at as u32 + 1) + 100 * index;
        let layers: Vec<Layer> = (0..count as u32)
            .map(|layer| Layer {
                ssrc: base + 10 * layer,
                // Near the end, so that it wraps.
                seq: 65_500 - 100 * layer as u16,
                timestamp_base: 0x7000_0000_u32.wrapping_mul(layer + 1),
                picture_id: 0x7ff0 - 3000 * layer as u16,
                counter: 0,
                is_active: true,
                keyframe_due: true,
                requests: 0,
            })
            .collect();
        config.encodings = layers
            .iter()
            .zip(RIDS)
            .map(|(layer, rid)| match naming {
                Naming::Rid => EncodingConfig {
                    rid: Rid::new(rid),
                    ..EncodingConfig::default()
                },
                Naming::Ssrc => EncodingConfig {
                    rid: None,
                    ssrc: Some(Ssrc(layer.ssrc)),
                    rtx_ssrc: Some(Ssrc(layer.ssrc + 1)),
                },
            })
            .collect();
        Self {
            config,
            layers,
            zero: world.now,
            picture: 0,
        }
    }

    /// One picture in all active encodings: two packets in the lowest, and one more in each higher one.
    pub fn picture(&mut self, now: Instant) -> Vec<Made> {
        self.picture += 1;
        (0..self.layers.len())
            .filter(|at| self.layers[*at].is_active)
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|at| self.frame(now, at))
            .collect()
    }

    fn frame(&mut self, now: Instant, at: usize) -> Vec<Made> {
        let is_keyframe = std::mem::take(&mut self.layers[at].keyframe_due);
        let count = at + if is_keyframe { 4 } else { 2 };
        let layer = &mut self.layers[at];
        layer.picture_id = layer.picture_id.wrapping_add(1) & 0x7fff;
        (0..count)
            .map(|part| self.packet(now, at, is_keyframe, (part, count)))
            .collect()
    }

    fn packet(
        &mut self,
        now: Instant,
        at: usize,
        is_keyframe: bool,
        (part, count): (usize, usize),
    ) -> Made {
        let timestamp = self.timestamp(now, at);
        let layer = &mut self.layers[at];
        let (is_first, is_last) = (part == 0, part + 1 == count);
        let stamp = Stamp {
            encoding: at as u8,
            counter: layer.counter,
            picture: self.picture,
            taken_ms: now.saturating_duration_since(self.zero).as_millis() as u32,
            picture_id: layer.picture_id,
            tl0_pic_idx: layer.picture_id as u8,
            is_keyframe,
            is_first,
        };
        let mid = self.config.mid;
        let packet = Rtp {
            ssrc: layer.ssrc,
            seq: layer.seq,
            timestamp,
            payload_type: PAYLOAD_TYPE | u8::from(is_last) << 7,
            extensions: &[(MID_ID, mid.as_bytes()), (RID_ID, RIDS[at].as_bytes())],
            payload: &stamp.payload(),
        };
        layer.seq = layer.seq.wrapping_add(1);
        layer.counter += 1;
        Made {
            encoding: at,
            is_keyframe,
            is_first,
            bytes: packet.bytes(),
        }
    }

    /// What an encoding's timestamps are at a moment.
    pub fn timestamp(&self, now: Instant, at: usize) -> u32 {
        let elapsed = now.saturating_duration_since(self.zero);
        let ticks = elapsed.as_micros() * 90_000 / 1_000_000;
        self.layers[at].timestamp_base.wrapping_add(ticks as u32)
    }

    /// The sender report of an encoding.
    pub fn report(&self, now: Instant, at: usize) -> SenderReport {
        let elapsed = now.saturating_duration_since(self.zero);
        SenderReport {
            ssrc: Ssrc(self.layers[at].ssrc),
            ntp: ntp(elapsed),
            rtp_time: RtpTime(self.timestamp(now, at)),
            packets: self.layers[at].counter,
            octets: self.layers[at].counter,
        }
    }

    /// Somebody asks for a keyframe of an SSRC.
    pub fn request_keyframe(&mut self, ssrc: Ssrc) {
        let layer = self.layers.iter_mut().find(|layer| layer.ssrc == ssrc.0);
        let layer = layer.expect("an SSRC of the publisher");
        layer.keyframe_due = true;
        layer.requests += 1;
    }

    /// Starts or stops an encoding.
    pub fn set_active(&mut self, at: usize, is_active: bool) {
        let layer = &mut self.layers[at];
        layer.keyframe_due |= is_active && !layer.is_active;
        layer.is_active = is_active;
    }
}

/// The publisher's wall clock, `elapsed` after it started.
pub fn ntp(elapsed: Duration) -> NtpTime {
    NtpTime((5_000 << 32) + ((elapsed.as_nanos() << 32) / 1_000_000_000) as u64)
}

/// What a payload says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub encoding: u8,
    /// Counts the encoding's packets.
    pub counter: u32,
    pub picture: u32,
    /// When it was taken, after the publisher's beginning.
    pub taken_ms: u32,
    /// What decoders follow (RFC 7741 §4.2): rewritten on the way.
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
    pub is_keyframe: bool,
    pub is_first: bool,
}

impl Stamp {
    /// A VP8 descriptor with picture id, TL0PICIDX and TID 0 (RFC 7741 §4.2), the beginning of a
    /// keyframe (RFC 6386 §9.1; each higher encoding has twice the size), and the stamp.
    fn payload(&self) -> Vec<u8> {
        let descriptor = if self.is_first { 0x90 } else { 0x80 };
        let mut payload = vec![descriptor, 0xe0];
        payload.extend((0x8000 | self.picture_id).to_be_bytes());
        payload.extend([self.tl0_pic_idx, 0]);
        payload.extend([u8::from(!self.is_keyframe), 0, 0, 0x9d, 0x01, 0x2a]);
        payload.extend((320_u16 << self.encoding).to_le_bytes());
        payload.extend((180_u16 << self.encoding).to_le_bytes());
        payload.push(self.encoding);
        payload.extend(self.counter.to_be_bytes());
        payload.extend(self.picture.to_be_bytes());
        payload.extend(self.taken_ms.to_be_bytes());
        // Higher encodings cost more.
        payload.resize(200 << self.encoding.min(2), 0);
        payload
    }

    pub fn parse(payload: &[u8]) -> Option<Self> {
        Some(Self {
            is_first: payload.first()? & 0x10 != 0,
            picture_id: u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?) & 0x7fff,
            tl0_pic_idx: *payload.get(4)?,
            is_keyframe: payload.get(6)? & 1 == 0,
            encoding: *payload.get(16)?,
            counter: u32::from_be_bytes(payload.get(17..21)?.try_into().ok()?),
            picture: u32::from_be_bytes(payload.get(21..25)?.try_into().ok()?),
            taken_ms: u32::from_be_bytes(payload.get(25..29)?.try_into().ok()?),
        })
    }
}

/// What one subscriber got of one track, packet by packet. Panics where it is not one stream.
pub struct Checker {
    /// The highest sequence number so far, extended.
    highest: Option<i64>,
    /// What came under each number.
    seen: HashMap<i64, Seen>,
    /// The present stay in one encoding.
    stay: Option<Stay>,
    /// The encodings it got, one after another.
    pub encodings: Vec<EncodingIndex>,
    /// When the picture of the last new packet was taken, and its timestamp.
    last: Option<(u32, u32)>,
    /// The publisher's beginning.
    zero: Instant,
    /// How many packets it got for the first time.
    pub packets: u64,
    /// When the last packet came that was not there before.
    pub last_at: Option<Instant>,
    /// Time between two of them.
    pub silence_max: Duration,
}

struct Seen {
    stamp: Stamp,
    timestamp: u32,
    sealed: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Stay {
    encoding: u8,
    /// The number of the first packet, and its place in the encoding.
    first: i64,
    counter: u32,
}

impl Checker {
    pub fn new(zero: Instant) -> Self {
        Self {
            zero,
            highest: None,
            seen: HashMap::new(),
            stay: None,
            encodings: Vec::new(),
            last: None,
            packets: 0,
            last_at: None,
            silence_max: Duration::ZERO,
        }
    }

    /// The encoding it gets at present.
    pub fn present(&self) -> Option<usize> {
        self.encodings.last().map(|index| index.at())
    }

    /// How many numbers there are since it got another encoding, or began anew with it.
    pub fn since_switch(&self) -> u16 {
        let numbers = self
            .highest
            .zip(self.stay)
            .map(|(highest, stay)| highest + 1 - stay.first);
        numbers.unwrap_or(0) as u16
    }

    /// The highest number it got.
    pub fn last_number(&self) -> Option<u16> {
        self.highest.map(|highest| highest as u16)
    }

    /// The mute or unmute of a subscription: what comes next may start anywhere.
    pub fn on_pause(&mut self) {
        self.last_at = None;
    }

    /// Takes a packet, opened and as it came.
    pub fn take(&mut self, now: Instant, packet: &[u8], sealed: &[u8]) {
        let header = RtpHeader::parse(packet).unwrap();
        let stamp = Stamp::parse(header.payload(packet).unwrap()).expect("a stamp");
        let wire = header.seq.0;
        let seq = match self.highest {
            None => i64::from(wire),
            Some(highest) => highest + i64::from(wire.wrapping_sub(highest as u16) as i16),
        };
        if let Some(seen) = self.seen.get(&seq) {
            assert_eq!(seen.sealed, sealed, "one nonce for two packets");
            return;
        }
        if self.highest.is_none_or(|highest| seq > highest) {
            self.take_new(now, seq, stamp, header.timestamp.0);
        }
        self.check_place(seq, stamp);
        self.check_frame(seq, stamp, header.timestamp.0);
        let seen = Seen {
            stamp,
            timestamp: header.timestamp.0,
            sealed: sealed.to_vec(),
        };
        self.seen.insert(seq, seen);
        self.packets += 1;
        if let Some(before) = self.last_at.replace(now) {
            self.silence_max = self.silence_max.max(now.saturating_duration_since(before));
        }
    }

    fn take_new(&mut self, now: Instant, seq: i64, stamp: Stamp, timestamp: u32) {
        let before = self.highest.replace(seq);
        let is_change = self.stay.is_none_or(|stay| stay.encoding != stamp.encoding);
        if let Some((at, last)) = self.last.replace((stamp.taken_ms, timestamp)) {
            let ahead = timestamp.wrapping_sub(last) as i32;
            assert!(ahead >= 0, "{ahead} ticks back");
            // Within an encoding they are the publisher's own.
            let now_ms = now.saturating_duration_since(self.zero).as_millis() as i64;
            let elapsed = (now_ms - i64::from(at)) * 90;
            let is_allowed = i64::from(ahead) <= elapsed + AHEAD_TICKS_MAX;
            assert!(!is_change || is_allowed, "{ahead} ticks in {elapsed}");
        }
        if is_change {
            assert!(stamp.is_keyframe && stamp.is_first, "{stamp:?} starts");
            assert!(before.is_none_or(|before| seq == before + 1), "a gap");
            self.encodings.push(EncodingIndex(stamp.encoding));
        }
        // After a pause in one encoding the numbers close up too.
        let goes_on = stamp.is_keyframe && stamp.is_first && before == Some(seq - 1);
        if is_change || goes_on {
            self.stay = Some(Stay {
                encoding: stamp.encoding,
                first: seq,
                counter: stamp.counter,
            });
        }
    }

    /// Within a stay, numbers are as far apart as the publisher's.
    fn check_place(&self, seq: i64, stamp: Stamp) {
        let stay = self.stay.expect("it began");
        if stay.encoding == stamp.encoding && seq >= stay.first {
            let place = i64::from(stamp.counter) - i64::from(stay.counter);
            assert_eq!(seq - stay.first, place, "{stamp:?}");
        }
    }

    /// Packets of one frame share a timestamp, neighbours of different frames do not.
    fn check_frame(&self, seq: i64, stamp: Stamp, timestamp: u32) {
        for neighbour in [seq - 1, seq + 1] {
            let Some(other) = self.seen.get(&neighbour) else {
                continue;
            };
            let frame = |stamp: Stamp| (stamp.encoding, stamp.picture);
            let is_same = frame(other.stamp) == frame(stamp);
            assert_eq!(
                is_same,
                other.timestamp == timestamp,
                "{stamp:?} beside {:?}",
                other.stamp
            );
            // The decoder's numbers count frames, over every change; after a pause they may have gone on meanwhile.
            let (before, after) = match neighbour < seq {
                true => (other.stamp, stamp),
                false => (stamp, other.stamp),
            };
            let ids = after.picture_id.wrapping_sub(before.picture_id) & 0x7fff;
            let indices = after.tl0_pic_idx.wrapping_sub(before.tl0_pic_idx);
            let step = u16::from(!is_same);
            let is_begun = after.is_keyframe && after.is_first;
            let is_next = ids == step && u16::from(indices) == step;
            let is_later = is_begun && (1..0x4000).contains(&ids);
            assert!(is_next || is_later, "{before:?} before {after:?}");
        }
    }
}

/// By how much timestamps may advance beyond the time where the encoding changes: 250 ms.
const AHEAD_TICKS_MAX: i64 = 90 * 250;
