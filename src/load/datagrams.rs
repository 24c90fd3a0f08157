//! Datagrams of one client on their way to its socket, in one reused buffer.

use std::ops::Range;

/// Datagrams in the order in which they are to be sent. Emptied after each input.
#[derive(Debug, Default)]
pub struct Datagrams {
    arena: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Datagrams {
    /// Appends a copy of `datagram`.
    pub fn push(&mut self, datagram: &[u8]) {
        self.push_with(|arena| arena.extend_from_slice(datagram));
    }

    /// Appends a datagram that `write` makes at the end of the buffer; one without bytes is none.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        if self.arena.len() > start {
            self.ranges.push(start..self.arena.len());
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Each datagram.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges.iter().map(|range| &self.arena[range.clone()])
    }

    /// Forgets all and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.ranges.clear();
    }
}
