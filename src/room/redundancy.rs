//! Earlier frames of sound that are repeated in a packet for who takes redundant audio (RFC 2198).
//!
//! Which they are is decided once for each packet, before its first copy, and kept with it by their distance: a packet
//! sent again repeats the same frames, or is not sent.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::ids::{PayloadType, RtpTime, SeqNo};
use crate::media::cache::PacketCache;
use crate::media::red::RedBlock;
use crate::wire::rtp::RtpHeader;

/// The frames that one packet repeats.
#[derive(Debug, Clone, Default)]
pub struct Redundancy {
    /// The latest first.
    frames: [Option<Frame>; FRAMES_MAX],
    set: FrameSet,
}

#[derive(Debug, Clone)]
struct Frame {
    payload: Bytes,
    timestamp: RtpTime,
}

/// Which of the frames before a packet: a bit for each, the lowest for the one right before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameSet(u32);

/// The packet that repeats them.
#[derive(Debug, Clone, Copy)]
pub struct Repeating {
    /// Its number.
    pub seq: SeqNo,
    /// Its timestamp.
    pub timestamp: RtpTime,
    /// Its payload type: only frames of that are repeated.
    pub payload_type: PayloadType,
    /// How long its own frame is, in bytes.
    pub payload_len: usize,
}

impl FrameSet {
    /// As a packet cache keeps it.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// As a packet cache kept it.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether it has none.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The frames right before, so many.
    fn last(count: u8) -> Self {
        Self((1 << count) - 1)
    }

    /// Adds the frame so many numbers before. False if that is too far.
    fn insert(&mut self, back: u64) -> bool {
        let fits = (1..=BACK_MAX).contains(&back);
        if fits {
            self.0 |= 1 << (back - 1);
        }
        fits
    }

    fn has(self, back: u64) -> bool {
        self.0 & (1 << (back - 1)) != 0
    }
}

impl Redundancy {
    /// Finds those of the frames before a packet that are kept, and fit.
    #[must_use]
    pub fn gather(cache: &PacketCache, of: &Repeating, wanted: FrameSet) -> Self {
        let mut redundancy = Self::default();
        let mut free = redundancy.frames.iter_mut();
        let mut bytes = of.payload_len;
        for back in (1..=BACK_MAX).filter(|back| wanted.has(*back)) {
            let seq = of.seq.0.checked_sub(back).map(SeqNo);
            let frame = seq.and_then(|seq| frame(cache, seq, of.payload_type));
            let Some(frame) = frame else {
                continue;
            };
            let Some(block) = RedBlock::new(&frame.payload, frame.timestamp, of.timestamp) else {
                continue;
            };
            bytes += block.bytes();
            if bytes > BYTES_MAX {
                break;
            }
            let Some(slot) = free.next() else {
                break;
            };
            *slot = Some(frame);
            redundancy.set.insert(back);
        }
        redundancy
    }

    /// Which they are.
    #[must_use]
    #[inline]
    pub fn set(&self) -> FrameSet {
        self.set
    }

    /// What to write before the frame of a packet with this timestamp: the oldest first.
    pub fn blocks(&self, now: RtpTime) -> impl Iterator<Item = RedBlock<'_>> + Clone {
        let frames = self.frames.iter().rev().flatten();
        frames.filter_map(move |frame| RedBlock::new(&frame.payload, frame.timestamp, now))
    }
}

/// What the packets of one encoding are to repeat: the frames right before; and those that came late, because they were
/// lost on the way here, so that no later packet has repeated them yet.
#[derive(Debug, Default)]
pub struct Repeats {
    newest: Option<SeqNo>,
    /// Each with how often it is still to be repeated; at most [`LATE_MAX`].
    late: VecDeque<(SeqNo, u8)>,
}

impl Repeats {
    /// The redundancy of the next packet. `loses_much`: who receives it.
    pub fn of(&mut self, cache: &PacketCache, of: &Repeating, loses_much: bool) -> Redundancy {
        let times = 1 + u8::from(loses_much);
        let mut wanted = FrameSet::last(times);
        if self.newest.is_some_and(|newest| of.seq < newest) {
            if self.late.len() == LATE_MAX {
                self.late.pop_front();
            }
            self.late.push_back((of.seq, times));
        } else {
            self.newest = Some(of.seq);
            self.late.retain_mut(|(seq, left)| {
                let is_near = wanted.insert(of.seq.0 - seq.0);
                *left -= 1;
                is_near && *left > 0
            });
        }
        Redundancy::gather(cache, of, wanted)
    }
}

fn frame(cache: &PacketCache, seq: SeqNo, payload_type: PayloadType) -> Option<Frame> {
    let cached = cache.get(seq)?;
    let header = RtpHeader::parse(&cached.packet)?;
    if header.payload_type != payload_type {
        return None;
    }
    let payload = header.payload(&cached.packet)?;
    (!payload.is_empty()).then(|| Frame {
        payload: cached.packet.slice_ref(payload),
        timestamp: cached.timestamp,
    })
}

/// Where much is lost, two frames, as of two packets in a row that are lost the third brings both; and one that was late.
const FRAMES_MAX: usize = 3;
/// A block's age has 14 bits (RFC 2198 §3): 17 frames of 20 ms.
const BACK_MAX: u64 = 17;
/// Frames that came late and are still to be repeated; the oldest is given up.
const LATE_MAX: usize = 8;
/// Frames that make a packet longer than this are not repeated: it must fit any path.
const BYTES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{MediaKind, SeqNo16, Ssrc};
    use crate::media::cache::CachedPacket;
    use crate::wire::rtp::{OutgoingHeader, write_header};
    use std::time::Instant;

    /// Packets 10, 11, ... of these lengths and payload types, 960 ticks apart.
    fn cache(packets: &[(usize, u8)]) -> PacketCache {
        let now = Instant::now();
        let mut cache = PacketCache::new(MediaKind::Audio);
        for (at, (len, payload_type)) in packets.iter().enumerate() {
            let header = OutgoingHeader {
                payload_type: PayloadType(*payload_type),
                marker: false,
                seq: SeqNo16(1),
                timestamp: RtpTime(1),
                ssrc: Ssrc(1),
                padding: false,
            };
            let mut packet = Vec::new();
            write_header(&mut packet, &header, std::iter::empty());
            packet.resize(packet.len() + len, at as u8);
            cache.insert(CachedPacket {
                seq: SeqNo(10 + at as u64),
                timestamp: RtpTime(960 * at as u32),
                packet: packet.into(),
                padding: 0,
                repeated: 0,
                arrived: now,
            });
        }
        cache
    }

    fn repeating(seq: u64, payload_len: usize) -> Repeating {
        Repeating {
            seq: SeqNo(seq),
            timestamp: RtpTime(960 * (seq - 10) as u32),
            payload_type: PayloadType(111),
            payload_len,
        }
    }

    fn lens(redundancy: &Redundancy, of: &Repeating) -> Vec<usize> {
        let blocks = redundancy.blocks(of.timestamp);
        blocks.map(|block| block.bytes() - 4).collect()
    }

    #[test]
    fn repeats_what_is_before_and_fits() {
        let packets = [
            (80, 111),
            (90, 111),
            (100, 111),
            (2, 13),
            (60, 111),
            (950, 111),
        ];
        let cache = cache(&packets);
        let cases: [(u64, u8, &[usize]); 7] = [
            (12, 2, &[80, 90]),
            (12, 1, &[90]),
            (12, 0, &[]),
            (11, 2, &[80]),
            // Another payload type.
            (14, 2, &[100]),
            // Too long together.
            (15, 1, &[]),
            // The packet before is missing.
            (17, 2, &[]),
        ];
        for (seq, wanted, expected) in cases {
            let len = packets.get((seq - 10) as usize).map_or(50, |p| p.0);
            let of = repeating(seq, len.min(960));
            let found = Redundancy::gather(&cache, &of, FrameSet::last(wanted));
            assert_eq!(lens(&found, &of), expected, "{seq} {wanted}");
            assert_eq!(found.set().is_empty(), expected.is_empty());
            // Sent again, it repeats the same.
            let again = Redundancy::gather(&cache, &of, found.set());
            assert_eq!(again.set(), found.set());
        }
    }

    #[test]
    fn what_came_late_is_repeated_by_what_comes_next() {
        let cache = cache(&[(80, 111), (81, 111), (82, 111), (83, 111), (84, 111)]);
        let mut repeats = Repeats::default();
        let mut next = |seq: u64| {
            let of = repeating(seq, 80);
            lens(&repeats.of(&cache, &of, false), &of)
        };
        assert!(next(10).is_empty());
        assert_eq!(next(13), [82]);
        assert_eq!(next(11), [80], "late");
        assert_eq!(next(14), [81, 83]);
        assert_eq!(next(15), [84], "once");
        next(12);
        assert!(next(30).is_empty(), "too far back");
    }
}
