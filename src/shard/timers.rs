//! When each peer (or remote track) next needs attention: a heap, so that a turn costs nothing for those that do
//! not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;
use std::time::Instant;

use crate::base::counter_map::CounterMap;
use crate::base::ids::PeerKey;

/// One deadline for each peer, or whatever else `K` names. Entries of the heap that a nearer deadline has made void are stepped
/// over when their time comes.
#[derive(Debug)]
pub struct Timers<K = PeerKey> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    /// The entry of each peer that counts.
    queued: CounterMap<K, Instant>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::default(),
            queued: CounterMap::default(),
        }
    }
}

impl<K: Copy + Ord + Hash> Timers<K> {
    /// The peer needs attention at `deadline`. A deadline that was nearer stays: when it comes, the
    /// peer is found not due and asked anew.
    pub fn schedule(&mut self, peer: K, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            return;
        };
        if self.queued.get(&peer).is_some_and(|at| *at <= deadline) {
            return;
        }
        self.queued.insert(peer, deadline);
        self.heap.push(Reverse((deadline, peer)));
        if self.heap.len() > 2 * self.queued.len() + VOID_MAX {
            self.heap = self
                .queued
                .iter()
                .map(|(peer, at)| Reverse((*at, *peer)))
                .collect();
        }
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: K) {
        self.queued.remove(&peer);
    }

    /// The nearest deadline. May be one that is void: then nobody is found due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next peer whose deadline has come; it has none until it is scheduled again.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        while let Some(Reverse((at, peer))) = self.heap.peek().copied()
            && at <= now
        {
            self.heap.pop();
            if self.queued.get(&peer) == Some(&at) {
                self.queued.remove(&peer);
                return Some(peer);
            }
        }
        None
    }
}

/// Void entries that are not worth a clean-up.
const VOID_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn peers_come_due_in_order_once() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut timers: Timers = Timers::default();
        assert_eq!(timers.poll_timeout(), None);
        timers.schedule(A, Some(at(30)));
        timers.schedule(B, Some(at(20)));
        timers.schedule(A, Some(at(10)));
        timers.schedule(B, Some(at(25)));
        timers.schedule(B, None);
        assert_eq!(timers.poll_timeout(), Some(at(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(40)), Some(A));
        assert_eq!(timers.pop_due(at(40)), Some(B), "the nearer one stayed");
        assert_eq!(timers.pop_due(at(40)), None, "what A had before is void");
        assert_eq!(timers.poll_timeout(), None);
    }

    #[test]
    fn a_removed_peer_never_comes_due() {
        let t0 = Instant::now();
        let mut timers: Timers = Timers::default();
        timers.schedule(A, Some(t0));
        timers.remove(A);
        assert_eq!(timers.pop_due(t0), None);
    }

    #[test]
    fn void_entries_do_not_pile_up() {
        let t0 = Instant::now();
        let mut timers: Timers = Timers::default();
        for ms in (0..10_000).rev() {
            timers.schedule(A, Some(t0 + Duration::from_millis(ms)));
        }
        assert!(timers.heap.len() <= 2 + VOID_MAX + 1);
        assert_eq!(timers.pop_due(t0), Some(A));
    }
}
