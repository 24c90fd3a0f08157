//! The last packets of a track, in plaintext, shared by all its subscriptions: what a NACK is
//! answered from.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::ids::{MediaKind, RtpTime, SeqNo};

/// A packet as its publisher sent it, with its place in the track.
#[derive(Debug, Clone)]
pub struct CachedPacket {
    /// The track's number.
    pub seq: SeqNo,
    /// The track's timestamp.
    pub timestamp: RtpTime,
    /// The whole decrypted RTP packet.
    pub packet: Bytes,
    /// How many bytes of padding its copies got (RFC 3550 §5.1): those sent again get as many.
    pub padding: u8,
    /// Which earlier frames its copies repeat where redundant audio is made (RFC 2198), a bit for each: those sent
    /// again repeat the same.
    pub repeated: u32,
    /// When it came.
    pub arrived: Instant,
}

/// Keeps packets up to a count, an age and a total size; the oldest go first.
#[derive(Debug)]
pub struct PacketCache {
    /// A ring indexed by sequence number; made with the first packet.
    slots: Vec<Option<CachedPacket>>,
    count_max: u64,
    /// Every packet kept lies in `oldest..next`.
    oldest: u64,
    next: u64,
    bytes: usize,
}

impl PacketCache {
    /// An empty cache, as large as a track of that kind needs.
    #[must_use]
    pub fn new(kind: MediaKind) -> Self {
        Self {
            slots: Vec::new(),
            count_max: match kind {
                MediaKind::Audio => AUDIO_COUNT_MAX,
                MediaKind::Video => VIDEO_COUNT_MAX,
            },
            oldest: 0,
            next: 0,
            bytes: 0,
        }
    }

    /// Keeps a packet. One that is older than the cache reaches, or is there already, is not kept.
    pub fn insert(&mut self, packet: CachedPacket) {
        let (seq, now) = (packet.seq.0, packet.arrived);
        if self.slots.is_empty() {
            self.slots.resize(self.count_max as usize, None);
        }
        if self.oldest == self.next {
            (self.oldest, self.next) = (seq, seq);
        }
        if seq >= self.next {
            let oldest = (seq + 1).saturating_sub(self.count_max);
            while self.oldest < oldest.min(self.next) {
                self.remove_oldest();
            }
            self.oldest = self.oldest.max(oldest);
            self.next = seq + 1;
        } else if seq + self.count_max < self.next {
            return;
        }
        self.oldest = self.oldest.min(seq);
        let slot = self.index(seq);
        if self.slots[slot].is_none() {
            self.bytes += packet.packet.len();
            self.slots[slot] = Some(packet);
        }
        while self.bytes > BYTES_MAX {
            self.remove_oldest();
        }
        self.expire(now);
    }

    /// The packet with that number, if it is kept.
    #[must_use]
    pub fn get(&self, seq: SeqNo) -> Option<&CachedPacket> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[self.index(seq.0)].as_ref();
        slot.filter(|packet| packet.seq == seq)
    }

    /// Drops what is older than two seconds.
    pub fn expire(&mut self, now: Instant) {
        while self.oldest < self.next {
            let oldest = &self.slots[self.index(self.oldest)];
            if let Some(packet) = oldest
                && now.saturating_duration_since(packet.arrived) <= AGE_MAX
            {
                return;
            }
            self.remove_oldest();
        }
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.oldest == self.next
    }

    fn remove_oldest(&mut self) {
        let slot = self.index(self.oldest);
        if let Some(packet) = self.slots[slot].take() {
            self.bytes -= packet.packet.len();
        }
        self.oldest += 1;
    }

    fn index(&self, seq: u64) -> usize {
        (seq % self.count_max) as usize
    }
}

/// One second of video at 8 Mbit/s; libwebrtc's receivers ask for no more than the last 1000.
const VIDEO_COUNT_MAX: u64 = 1024;
/// Two seconds of audio at 10 ms a packet and some.
const AUDIO_COUNT_MAX: u64 = 256;
/// Longer than a NACK is of use to a jitter buffer.
const AGE_MAX: Duration = Duration::from_secs(2);
/// 2 MiB a track.
const BYTES_MAX: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: Instant, seq: u64, len: usize) -> CachedPacket {
        CachedPacket {
            seq: SeqNo(seq),
            timestamp: RtpTime(seq as u32),
            packet: Bytes::from(vec![seq as u8; len]),
            padding: 0,
            repeated: 0,
            arrived: at,
        }
    }

    fn kept(cache: &PacketCache, seqs: std::ops::Range<u64>) -> Vec<u64> {
        seqs.filter(|seq| cache.get(SeqNo(*seq)).is_some())
            .collect()
    }

    #[test]
    fn keeps_what_comes_in_any_order_once() {
        let t0 = Instant::now();
        let mut cache = PacketCache::new(MediaKind::Video);
        assert!(cache.get(SeqNo(1)).is_none());
        for (seq, len) in [(100, 5), (103, 5), (101, 5), (98, 5), (101, 9)] {
            cache.insert(packet(t0, seq, len));
        }
        assert_eq!(kept(&cache, 0..2000), [98, 100, 101, 103]);
        assert_eq!(cache.get(SeqNo(101)).unwrap().packet.len(), 5);
        assert_eq!(cache.bytes, 20);
    }

    #[test]
    fn count_age_and_size_are_bounded() {
        let t0 = Instant::now();
        let mut cache = PacketCache::new(MediaKind::Video);
        for seq in 0..3000 {
            cache.insert(packet(t0, seq, 1));
        }
        assert_eq!(
            kept(&cache, 0..4000),
            (3000 - 1024..3000).collect::<Vec<_>>()
        );
        cache.insert(packet(t0, 100, 1));
        assert!(cache.get(SeqNo(100)).is_none(), "older than the ring");
        assert_eq!(cache.bytes, 1024);

        // A jump over the whole ring leaves nothing behind.
        cache.insert(packet(t0, 10_000, 3));
        assert_eq!((kept(&cache, 0..20_000), cache.bytes), (vec![10_000], 3));

        let later = t0 + AGE_MAX;
        cache.insert(packet(later, 10_001, 1));
        assert_eq!(kept(&cache, 10_000..10_010), [10_000, 10_001]);
        cache.expire(later + Duration::from_millis(1));
        assert_eq!(kept(&cache, 10_000..10_010), [10_001]);
        cache.expire(later + AGE_MAX * 2);
        assert_eq!(cache.bytes, 0);

        for seq in 0..100 {
            cache.insert(packet(later, 20_000 + seq, 60_000));
        }
        assert!(cache.bytes <= BYTES_MAX);
        assert_eq!(kept(&cache, 20_000..20_100).len(), BYTES_MAX / 60_000);
    }
}
