//! The send arena: datagrams laid out one after another in one reused buffer, and the messages in
//! which they are handed to the kernel.
//!
//! Knows what a segmented message may hold (Linux: `UDP_SEGMENT`), but makes no system call.

use std::net::SocketAddr;

/// Datagrams that wait to be sent, in order. Emptied by the edge after each turn; the memory is kept
/// and used again, so that in steady state nothing is allocated.
///
/// Neighbours to one address share a message where the kernel can tell them apart again: all as long
/// as the first, but for the last one, which may be shorter.
#[derive(Debug)]
pub struct Outbox {
    arena: Vec<u8>,
    messages: Vec<Message>,
    datagrams: usize,
    segments_max: usize,
}

/// Datagrams to one address that lie one after another in the arena.
#[derive(Debug)]
struct Message {
    to: SocketAddr,
    start: usize,
    end: usize,
    segment_len: usize,
    segments: usize,
}

/// What one message carries to one address: one datagram or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// Where it goes.
    pub to: SocketAddr,
    /// The datagrams, one after another.
    pub bytes: &'a [u8],
    /// How long each datagram is, in bytes; the last may be shorter. As long as `bytes` where there
    /// is only one.
    pub segment_len: usize,
}

impl<'a> Transmit<'a> {
    /// The datagrams, in order.
    pub fn datagrams(self) -> impl Iterator<Item = (SocketAddr, &'a [u8])> {
        (0..self.datagrams_len()).map(move |at| {
            let start = at * self.segment_len;
            let end = self.bytes.len().min(start + self.segment_len);
            (self.to, &self.bytes[start..end])
        })
    }

    /// How many datagrams there are.
    #[must_use]
    pub fn datagrams_len(&self) -> usize {
        self.bytes.len().div_ceil(self.segment_len.max(1)).max(1)
    }
}

impl<'a> From<(SocketAddr, &'a [u8])> for Transmit<'a> {
    fn from((to, bytes): (SocketAddr, &'a [u8])) -> Self {
        let segment_len = bytes.len();
        Self {
            to,
            bytes,
            segment_len,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            arena: Vec::new(),
            messages: Vec::new(),
            datagrams: 0,
            segments_max: SEGMENTS_MAX,
        }
    }
}

impl Outbox {
    /// Appends a copy of `datagram`.
    pub fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.push_with(to, |arena| {
            arena.extend_from_slice(datagram);
            true
        });
    }

    /// Appends a datagram that `write` makes in place: it gets the arena, must only append to it,
    /// and says whether what it appended is to be sent. What it appended is taken back otherwise.
    #[inline]
    pub fn push_with(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.arena.len();
        let keep = write(&mut self.arena);
        debug_assert!(self.arena.len() >= start, "the writer only appends");
        if !keep || self.arena.len() <= start {
            self.arena.truncate(start);
            return false;
        }
        self.datagrams += 1;
        let (end, len) = (self.arena.len(), self.arena.len() - start);
        match self.messages.last_mut() {
            Some(last) if last.takes(to, len, self.segments_max) => {
                last.end = end;
                last.segments += 1;
            }
            _ => self.messages.push(Message {
                to,
                start,
                end,
                segment_len: len,
                segments: 1,
            }),
        }
        true
    }

    /// Every message, oldest first.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Transmit<'_>> + '_ {
        self.messages.iter().map(|message| Transmit {
            to: message.to,
            bytes: &self.arena[message.start..message.end],
            segment_len: message.segment_len,
        })
    }

    /// Every datagram with where it goes, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> + '_ {
        self.messages().flat_map(Transmit::datagrams)
    }

    /// How many datagrams wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams
    }

    /// How many bytes wait.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.arena.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Forgets every datagram and keeps the memory, unless that is far more than a turn needs.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT_MAX);
        self.messages.clear();
        self.datagrams = 0;
    }

    /// Whether the socket can take messages of several datagrams; at first it is taken to. Datagrams
    /// that wait stay as they are.
    pub fn set_segmentation(&mut self, is_possible: bool) {
        self.segments_max = if is_possible { SEGMENTS_MAX } else { 1 };
    }

    /// Whether datagrams of one length share a message.
    #[must_use]
    pub fn is_segmenting(&self) -> bool {
        self.segments_max > 1
    }
}

impl Message {
    /// Whether a datagram of `len` bytes can be this message's next.
    #[inline]
    fn takes(&self, to: SocketAddr, len: usize, segments_max: usize) -> bool {
        let bytes = self.end - self.start;
        // A shorter one was the last: then the bytes are no multiple.
        bytes == self.segments * self.segment_len
            && len <= self.segment_len
            && self.segments < segments_max
            && bytes + len <= MESSAGE_BYTES_MAX
            && self.to == to
    }
}

/// The most datagrams in one message. What one costs falls from 6.1 µs alone to 2.3 in messages of eight
/// (DESIGN.md §3) and little beyond. Sixteen full packets are 19 kB, which libwebrtc's pacer lets go
/// in one burst too (40 ms at 4 Mbit/s): a subscriber's access link sees no larger ones than its
/// publisher made. The kernel takes up to 64.
pub const SEGMENTS_MAX: usize = 16;
/// What is kept of the arena, in bytes: several times what is laid out before it is sent.
const ARENA_KEPT_MAX: usize = 4 << 20;
/// The length field of UDP over IPv4 holds 65 507 bytes.
const MESSAGE_BYTES_MAX: usize = 65_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn keeps_order_and_takes_back_what_is_not_sent() {
        let to = address(5);
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

    #[test]
    fn neighbours_of_one_length_share_a_message_and_a_shorter_one_ends_it() {
        // (port, length) pushed; (port, segments, bytes) of the messages.
        type Case<'a> = (&'a [(u16, usize)], &'a [(u16, usize, usize)]);
        let cases: [Case<'_>; 6] = [
            (&[(1, 9), (1, 9), (1, 9)], &[(1, 3, 27)]),
            (&[(1, 9), (1, 5), (1, 5), (1, 5)], &[(1, 2, 14), (1, 2, 10)]),
            (&[(1, 5), (1, 9)], &[(1, 1, 5), (1, 1, 9)]),
            (
                &[(1, 9), (2, 9), (1, 9)],
                &[(1, 1, 9), (2, 1, 9), (1, 1, 9)],
            ),
            (&[(1, 9); 17], &[(1, 16, 144), (1, 1, 9)]),
            (&[(1, 13_000); 6], &[(1, 5, 65_000), (1, 1, 13_000)]),
        ];
        for (pushed, expected) in cases {
            let mut outbox = Outbox::default();
            for (port, len) in pushed {
                outbox.push(address(*port), &vec![7; *len]);
            }
            let messages: Vec<_> = outbox
                .messages()
                .map(|m| (m.to.port(), m.datagrams_len(), m.bytes.len()))
                .collect();
            assert_eq!(messages, expected);
            assert_eq!(outbox.len(), pushed.len());
        }
        let mut outbox = Outbox::default();
        outbox.set_segmentation(false);
        outbox.push(address(1), b"same");
        outbox.push(address(1), b"size");
        assert_eq!(outbox.messages().len(), 2);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            pushed in proptest::collection::vec((0_u16..2, 1_usize..4), 0..60),
        ) {
            let mut outbox = Outbox::default();
            for (at, (port, len)) in pushed.iter().enumerate() {
                outbox.push(address(*port), &vec![at as u8; *len]);
            }
            let sent: Vec<_> = outbox.iter().map(|(to, d)| (to, d.to_vec())).collect();
            let expected = pushed.iter().enumerate();
            let expected = expected.map(|(at, (port, len))| (address(*port), vec![at as u8; *len]));
            prop_assert_eq!(sent, expected.collect::<Vec<_>>());
            prop_assert!(outbox.messages().all(|m| m.datagrams_len() <= SEGMENTS_MAX));
        }
    }
}
