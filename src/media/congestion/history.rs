//! What was sent to one peer under which transport-wide number: what its feedback is matched against.
//!
//! A ring that grows while more packets wait for feedback than it holds, up to [`HISTORY_MAX`]; in steady
//! state nothing is allocated.

use crate::base::ids::SeqNo16;
use crate::media::congestion::probe::ClusterId;

/// A packet that was sent.
#[derive(Debug, Clone, Copy)]
pub struct SentPacket {
    /// When, in microseconds since the sender's epoch.
    pub at_us: i64,
    /// The datagram's length.
    pub bytes: u16,
    /// The probe it was part of.
    pub cluster: Option<ClusterId>,
    /// What feedback said of it.
    pub fate: Fate,
}

/// What is known of a packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Unknown,
    /// It was missing when one behind it had arrived.
    Missing,
    /// It arrived.
    Arrived,
}

/// The last packets sent to one peer.
#[derive(Debug, Default)]
pub struct SentHistory {
    ring: Vec<SentPacket>,
    /// The number of the next packet, extended beyond 16 bits.
    next: u64,
    /// The lowest number that is not overwritten.
    oldest: u64,
}

impl SentHistory {
    /// Remembers a packet, and says which number it gets.
    #[inline]
    pub fn push(&mut self, packet: SentPacket) -> SeqNo16 {
        let len = self.ring.len() as u64;
        if self.next - self.oldest == len {
            self.make_room(packet.at_us);
        }
        let seq = self.next;
        let slot = self.slot(seq);
        self.ring[slot] = packet;
        self.next += 1;
        SeqNo16(seq as u16)
    }

    /// Reads where the next packet is noted, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let place = self.next & (self.ring.len() as u64).wrapping_sub(1);
        let packet = self.ring.get(place as usize);
        packet.map_or(0, |packet| packet.at_us as u64)
    }

    /// The number of the next packet, extended.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The extended number nearest to the last one sent. `None` before any was sent, or if it was not.
    pub fn extend(&self, seq: SeqNo16) -> Option<u64> {
        let last = self.next.checked_sub(1)?;
        // Feedback tells of what was sent: one that is ahead of the last, by the nearest way, was not.
        let back = (last as u16).wrapping_sub(seq.0) as i16;
        last.checked_sub(u64::try_from(back).ok()?)
    }

    /// The packet with an extended number, if it is still known.
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut SentPacket> {
        if seq < self.oldest || seq >= self.next {
            return None;
        }
        let slot = self.slot(seq);
        self.ring.get_mut(slot)
    }

    fn slot(&self, seq: u64) -> usize {
        // The length is a power of two.
        seq as usize & (self.ring.len() - 1)
    }

    /// The ring is full: it grows while feedback may still come on what would be overwritten first, and else lets that
    /// go. Kept small, it stays in the cache.
    fn make_room(&mut self, now_us: i64) {
        let oldest = (!self.ring.is_empty()).then(|| self.ring[self.slot(self.oldest)]);
        let is_awaited = oldest
            .is_none_or(|packet| packet.fate == Fate::Unknown && now_us - packet.at_us < YOUNG_US);
        if !is_awaited || self.ring.len() >= HISTORY_MAX {
            self.oldest += 1;
            return;
        }
        let former = std::mem::take(&mut self.ring);
        let blank = SentPacket {
            at_us: 0,
            bytes: 0,
            cluster: None,
            fate: Fate::Unknown,
        };
        self.ring.resize((former.len() * 2).max(HISTORY_MIN), blank);
        for seq in self.oldest..self.next {
            let slot = self.slot(seq);
            self.ring[slot] = former[seq as usize & (former.len() - 1)];
        }
    }
}

/// How many packets are kept at most: one and a half seconds at 40 Mbit/s. A power of two, and less than
/// half of the numbers that 16 bits tell apart.
pub const HISTORY_MAX: usize = 8192;
/// Feedback comes at least every 250 ms from libwebrtc; with the longest usual round trip it is here
/// after a second and a half.
const YOUNG_US: i64 = 1_500_000;
const HISTORY_MIN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at_us: i64) -> SentPacket {
        SentPacket {
            at_us,
            bytes: 100,
            cluster: None,
            fate: Fate::Unknown,
        }
    }

    #[test]
    fn young_packets_make_it_grow_and_old_ones_go() {
        let mut history = SentHistory::default();
        for n in 0..1000 {
            assert_eq!(history.push(packet(n)), SeqNo16(n as u16));
        }
        assert!((0..1000).all(|n| history.get_mut(n).unwrap().at_us == n as i64));
        assert_eq!(history.ring.len(), 1024);
        for n in 1000..100_000_i64 {
            // A hundred a second: 150 in what is young.
            history.push(packet(n * 10_000));
        }
        assert_eq!(history.ring.len(), 1024, "it need not grow any more");
        assert!(history.get_mut(98_000).is_none());
        assert_eq!(history.get_mut(99_999).unwrap().at_us, 999_990_000);
        for _ in 0..20_000 {
            history.push(packet(2_000_000_000));
        }
        assert_eq!(history.ring.len(), HISTORY_MAX, "bounded");
    }

    #[test]
    fn what_was_answered_makes_room() {
        let mut history = SentHistory::default();
        for n in 0..10_000 {
            history.push(packet(n));
            // Feedback is a hundred packets behind.
            let fate = if n % 10 == 0 {
                Fate::Missing
            } else {
                Fate::Arrived
            };
            if let Some(behind) = history.get_mut((n as u64).saturating_sub(100)) {
                behind.fate = fate;
            }
        }
        assert_eq!(history.ring.len(), HISTORY_MIN);
    }

    #[test]
    fn numbers_are_extended_backwards_only() {
        let mut history = SentHistory::default();
        assert_eq!(history.extend(SeqNo16(0)), None);
        for n in 0..70_000 {
            history.push(packet(n * 1000));
        }
        assert_eq!(
            history.extend(SeqNo16((69_999 - 65_536) as u16)),
            Some(69_999)
        );
        assert_eq!(history.extend(SeqNo16(65_535)), Some(65_535));
        let wire = |number: u64| SeqNo16(number as u16);
        for ahead in [1, 2, 100, 0x8000] {
            assert_eq!(history.extend(wire(69_999 + ahead)), None, "{ahead}");
        }
        assert_eq!(history.extend(wire(69_999 - 0x7fff)), Some(69_999 - 0x7fff));
    }
}
