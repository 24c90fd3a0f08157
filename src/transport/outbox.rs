//! The send arena: datagrams laid out one after another in one reused buffer.

use std::net::SocketAddr;
use std::ops::Range;

/// Datagrams that wait to be sent, in order. Emptied by the edge after each turn; the memory is kept
/// and used again, so that in steady state nothing is allocated.
#[derive(Debug, Default)]
pub struct Outbox {
    arena: Vec<u8>,
    datagrams: Vec<(SocketAddr, Range<usize>)>,
}

impl Outbox {
    /// Appends a copy of `datagram`.
    pub fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        let start = self.arena.len();
        self.arena.extend_from_slice(datagram);
        self.datagrams.push((to, start..self.arena.len()));
    }

    /// Appends a datagram that `write` makes in place: it gets the arena, must only append to it,
    /// and says whether what it appended is to be sent. What it appended is taken back otherwise.
    pub fn push_with(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.arena.len();
        let keep = write(&mut self.arena);
        debug_assert!(self.arena.len() >= start, "the writer only appends");
        if keep && self.arena.len() > start {
            self.datagrams.push((to, start..self.arena.len()));
            true
        } else {
            self.arena.truncate(start);
            false
        }
    }

    /// Every datagram with where it goes, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SocketAddr, &[u8])> + '_ {
        self.datagrams
            .iter()
            .map(|(to, range)| (*to, &self.arena[range.clone()]))
    }

    /// How many datagrams wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Forgets every datagram and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.datagrams.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_takes_back_what_is_not_sent() {
        let to: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let mut outbox = Outbox::default();
        outbox.push(to, b"one");
        assert!(!outbox.push_with(to, |arena| {
            arena.extend_from_slice(b"dropped");
            false
        }));
        assert!(outbox.push_with(to, |arena| {
            arena.extend_from_slice(b"two");
            true
        }));
        let sent: Vec<&[u8]> = outbox.iter().map(|(_, d)| d).collect();
        assert_eq!(sent, [b"one".as_slice(), b"two".as_slice()]);
        outbox.clear();
        assert!(outbox.is_empty());
    }
}
