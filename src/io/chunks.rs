//! The memory of received datagrams: chunks that many share, taken back when all of them are gone.
//!
//! Knows nothing of sockets.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Hands out memory for datagrams from a ring of chunks. While the traffic is steady, nothing is
/// allocated: what is kept for retransmission ends in the order in which it came, so the oldest chunk is
/// free when the next one is needed.
#[derive(Debug)]
pub(in crate::io) struct Chunks {
    current: BytesMut,
    /// Full ones, oldest first.
    full: VecDeque<BytesMut>,
}

impl Chunks {
    /// A copy of `datagram`.
    pub fn copy(&mut self, datagram: &[u8]) -> BytesMut {
        if self.current.capacity() < datagram.len() {
            self.turn();
        }
        self.current.extend_from_slice(datagram);
        self.current.split()
    }

    /// Goes on in the oldest chunk, if nothing in it is in use, or in a new one.
    fn turn(&mut self) {
        let is_free = |chunk: &mut BytesMut| chunk.try_reclaim(CHUNK);
        let next = if self.full.front_mut().is_some_and(is_free) {
            // After a peak, one that nobody needs is given back with each turn.
            if self.full.get_mut(SPARE_MAX).is_some_and(is_free) {
                self.full.pop_front();
            }
            self.full.pop_front()
        } else {
            // Forgotten here, a chunk lives on until its last datagram is gone.
            if self.full.len() >= CHUNKS_MAX {
                self.full.pop_front();
            }
            None
        };
        let next = next.unwrap_or_else(|| BytesMut::with_capacity(CHUNK));
        let full = std::mem::replace(&mut self.current, next);
        self.full.push_back(full);
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            current: BytesMut::with_capacity(CHUNK),
            full: VecDeque::with_capacity(CHUNKS_MAX),
        }
    }
}

/// A chunk's size in bytes: some 50 video packets. One datagram that is kept holds its whole chunk.
const CHUNK: usize = 64 << 10;
/// Free chunks that are kept in any case.
const SPARE_MAX: usize = 8;
/// Chunks that may come back: two seconds, as long as packets are kept, at 130 Mbit/s. Beyond that,
/// memory is allocated.
const CHUNKS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(chunks: &mut Chunks, kept: &mut VecDeque<BytesMut>, kept_max: usize, turns: usize) {
        for _ in 0..turns * CHUNK / 1000 {
            kept.push_back(chunks.copy(&[7; 1000]));
            while kept.len() > kept_max {
                kept.pop_front();
            }
        }
    }

    #[test]
    fn memory_that_is_free_again_is_used_again() {
        let (mut chunks, mut kept) = (Chunks::default(), VecDeque::new());
        // Some 3 chunks' worth is kept at any time.
        turns(&mut chunks, &mut kept, 200, 50);
        assert!(chunks.full.len() <= 6, "{}", chunks.full.len());
        assert!(kept.iter().all(|datagram| datagram[..] == [7; 1000]));
    }

    #[test]
    fn after_a_peak_memory_is_given_back() {
        let (mut chunks, mut kept) = (Chunks::default(), VecDeque::new());
        turns(&mut chunks, &mut kept, 100 * 65, 120);
        assert!(chunks.full.len() > 90);
        turns(&mut chunks, &mut kept, 65, 400);
        assert!(chunks.full.len() <= SPARE_MAX + 3, "{}", chunks.full.len());
    }

    #[test]
    fn what_is_kept_for_ever_does_not_pile_up_here() {
        let mut chunks = Chunks::default();
        let mut kept = VecDeque::new();
        turns(&mut chunks, &mut kept, usize::MAX, CHUNKS_MAX + 50);
        assert_eq!(chunks.full.len(), CHUNKS_MAX);
    }
}
