//! Datagrams on their way between the kernel and the server: received ones with their memory, and what
//! became of sent ones.
//!
//! Makes no system call itself.

use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::SystemTime;

use bytes::BytesMut;

use crate::io::chunks::Chunks;

/// The most datagrams moved by one system call. More gain nothing: the cost of the call is spread
/// thin enough (measured, DESIGN.md §3).
pub const BATCH_MAX: usize = 64;

/// The longest datagram received, in bytes; WebRTC clients send at most 1500. Longer ones are dropped
/// and counted.
pub const DATAGRAM_MAX: usize = 2048;

/// What became of the datagrams given to `UdpSocket::send_batch`. Each is counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendReport {
    /// The kernel took them.
    pub sent: u64,
    /// Dropped, because the kernel's buffer was full.
    pub dropped_full: u64,
    /// Refused by the kernel for themselves: no route, too long, an address of the wrong family.
    pub failed: u64,
    /// Messages of several datagrams that the kernel refused as such; they were sent one by one.
    pub split: u64,
}

impl AddAssign for SendReport {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.dropped_full += other.dropped_full;
        self.failed += other.failed;
        self.split += other.split;
    }
}

/// The longest message that the kernel can hand over: what UDP's own length field allows.
pub(in crate::io) const SLOT_MAX: usize = 1 << 16;

/// From one slot to the next: 17 cache lines more than a slot, because with a power of two the first lines
/// of all slots would compete for the same few places in the cache.
const SLOT_STRIDE: usize = SLOT_MAX + 17 * 64;

/// Received datagrams, and the memory to receive more.
///
/// The kernel writes into one reused block; each datagram is then copied to the end of a shared chunk.
/// The copy costs less than handing out slots of full length would: a voice packet kept for
/// retransmission would hold 2 KiB.
#[derive(Debug)]
pub struct RecvBatch {
    /// Only touched, and thus only backed by memory, as far as messages are long.
    scratch: Vec<u8>,
    chunks: Chunks,
    datagrams: Vec<(SocketAddr, BytesMut)>,
    /// When each of them arrived; empty unless the socket tells.
    arrivals: Vec<SystemTime>,
    pub(in crate::io) truncated: u64,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::of(BATCH_MAX)
    }
}

impl RecvBatch {
    /// Room for so many messages a system call, at most [`BATCH_MAX`]. Fewer cost less where few are expected.
    #[must_use]
    pub fn of(messages: usize) -> Self {
        Self {
            scratch: vec![0; messages.clamp(1, BATCH_MAX) * SLOT_STRIDE],
            chunks: Chunks::default(),
            datagrams: Vec::with_capacity(BATCH_MAX),
            arrivals: Vec::new(),
            truncated: 0,
        }
    }

    /// The next datagrams with where they came from, at most [`BATCH_MAX`], in the order of arrival; an
    /// IPv4 address is always an IPv4 address.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (SocketAddr, BytesMut)> + '_ {
        self.datagrams.drain(..self.datagrams.len().min(BATCH_MAX))
    }

    /// How many datagrams wait to be drained.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Drops every datagram that `keep` does not want, or has taken away.
    pub fn retain(&mut self, mut keep: impl FnMut(SocketAddr, &mut BytesMut) -> bool) {
        self.datagrams
            .retain_mut(|(from, datagram)| keep(*from, datagram));
    }

    /// Appends a datagram that came another way.
    pub fn push(&mut self, from: SocketAddr, datagram: BytesMut) {
        self.datagrams.push((canonical(from), datagram));
    }

    /// When each datagram that waits to be drained arrived at the socket, by the system's clock, in their order. Nothing
    /// where the socket was not told to keep these times, or the system has none.
    pub fn take_arrivals(&mut self) -> Vec<SystemTime> {
        std::mem::take(&mut self.arrivals)
    }

    /// How many datagrams longer than [`DATAGRAM_MAX`] were dropped since this was last asked.
    pub fn take_truncated(&mut self) -> u64 {
        std::mem::take(&mut self.truncated)
    }

    /// The slots of the scratch block, each at least [`SLOT_MAX`] bytes.
    pub(in crate::io) fn slots_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.scratch.chunks_exact_mut(SLOT_STRIDE)
    }

    /// Takes over one message of `len` bytes from a slot of the scratch block: datagrams of `segment` bytes
    /// each, the last of which may be shorter.
    pub(in crate::io) fn take(
        &mut self,
        from: SocketAddr,
        slot: usize,
        len: usize,
        segment: usize,
        arrived: Option<SystemTime>,
    ) {
        let from = canonical(from);
        let message = &self.scratch[slot * SLOT_STRIDE..][..len];
        // An empty message is one datagram too.
        let (first, rest) = message.split_at(segment.min(len));
        for datagram in std::iter::once(first).chain(rest.chunks(segment.max(1))) {
            if datagram.len() > DATAGRAM_MAX {
                self.truncated += 1;
                continue;
            }
            self.datagrams.push((from, self.chunks.copy(datagram)));
            self.arrivals.extend(arrived);
        }
    }
}

/// IPv4 addresses as such, however the socket tells them.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), v6.port()),
            None => from,
        },
        SocketAddr::V4(_) => from,
    }
}

/// Whether an error says nothing of this call: an interruption, or the late fate of a datagram sent
/// before (ICMP).
pub(in crate::io) fn is_about_another(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Whether an error says that the kernel's buffer is full.
pub(in crate::io) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Whether an error may say that a message of several datagrams cannot be sent as such: the device or
/// route has no checksum offload (EIO), a datagram is longer than the path takes (EINVAL, EMSGSIZE).
fn is_about_segments(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
    )
}

/// How messages, which are counted from 0, get to the kernel.
pub(in crate::io) trait Wire {
    /// Tries those from `offset` on and says how many went out.
    fn send(&mut self, offset: usize) -> io::Result<usize>;

    /// Sends the datagrams of one message, which was refused with `error`, one by one.
    fn split(&mut self, offset: usize, error: &io::Error) -> SendReport;
}

/// Sends messages, of so many datagrams each.
pub(in crate::io) fn transmit(datagrams: &[u16], wire: &mut impl Wire) -> SendReport {
    let sum = |datagrams: &[u16]| datagrams.iter().map(|n| u64::from(*n)).sum::<u64>();
    let mut report = SendReport::default();
    let mut offset = 0;
    let mut retried = None;
    while offset < datagrams.len() {
        match wire.send(offset) {
            Ok(sent) if sent > 0 => {
                let end = datagrams.len().min(offset + sent);
                report.sent += sum(&datagrams[offset..end]);
                offset = end;
            }
            Err(error) if is_full(&error) => {
                report.dropped_full += sum(&datagrams[offset..]);
                return report;
            }
            // Such an error is gone once it was told; should it stay, it is this message's.
            Err(error) if is_about_another(&error) && retried != Some(offset) => {
                retried = Some(offset);
            }
            // Any other error is that of the first message.
            Err(error) if datagrams[offset] > 1 && is_about_segments(&error) => {
                report.split += 1;
                report += wire.split(offset, &error);
                offset += 1;
            }
            Ok(_) | Err(_) => {
                report.failed += u64::from(datagrams[offset]);
                offset += 1;
            }
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as it is told to; of what is sent one by one, one fails.
    struct Script<'a> {
        answers: &'a [Result<usize, i32>],
        asked: Vec<usize>,
        split: Vec<usize>,
    }

    impl Wire for Script<'_> {
        fn send(&mut self, offset: usize) -> io::Result<usize> {
            let answer = self.answers[self.asked.len()];
            self.asked.push(offset);
            answer.map_err(io::Error::from_raw_os_error)
        }

        fn split(&mut self, offset: usize, _: &io::Error) -> SendReport {
            self.split.push(offset);
            SendReport {
                sent: 2,
                failed: 1,
                ..SendReport::default()
            }
        }
    }

    #[test]
    fn sending_resumes_steps_over_and_drops() {
        let full = Err(libc::EAGAIN);
        // (answers in turn, offsets asked for, sent, dropped, failed) of five messages, the last but one of
        // three datagrams.
        type Case<'a> = (&'a [Result<usize, i32>], &'a [usize], u64, u64, u64);
        let cases: [Case<'_>; 9] = [
            (&[Ok(5)], &[0], 7, 0, 0),
            (&[Ok(2), Ok(3)], &[0, 2], 7, 0, 0),
            (&[Ok(2), full], &[0, 2], 2, 5, 0),
            (&[Err(libc::ENOBUFS)], &[0], 0, 7, 0),
            (&[Ok(1), Err(libc::EINVAL), Ok(3)], &[0, 1, 2], 6, 0, 1),
            (&[Err(libc::ECONNREFUSED), Ok(5)], &[0, 0], 7, 0, 0),
            (
                &[Err(libc::ECONNREFUSED), Err(libc::ECONNREFUSED), Ok(4)],
                &[0, 0, 1],
                6,
                0,
                1,
            ),
            // Sent one by one, of which one fails.
            (&[Ok(3), Err(libc::EINVAL), Ok(1)], &[0, 3, 4], 6, 0, 1),
            (&[Ok(3), Err(libc::EPERM), Ok(1)], &[0, 3, 4], 4, 0, 3),
        ];
        for (answers, offsets, sent, dropped_full, failed) in cases {
            let mut wire = Script {
                answers,
                asked: Vec::new(),
                split: Vec::new(),
            };
            let report = transmit(&[1, 1, 1, 3, 1], &mut wire);
            assert!(wire.split.iter().all(|offset| *offset == 3));
            let expected = SendReport {
                sent,
                dropped_full,
                failed,
                split: wire.split.len() as u64,
            };
            assert_eq!((report, &wire.asked[..]), (expected, offsets));
        }
    }

    #[test]
    fn a_message_is_cut_into_its_datagrams() {
        let from = "[::ffff:192.0.2.1]:1".parse().unwrap();
        // (length of the message, of its datagrams, what is taken, what is too long)
        type Case<'a> = (usize, usize, &'a [usize], u64);
        let cases: [Case<'_>; 7] = [
            (0, 0, &[0], 0),
            (100, 100, &[100], 0),
            (300, 100, &[100, 100, 100], 0),
            (250, 100, &[100, 100, 50], 0),
            (100, 1200, &[100], 0),
            (5000, 5000, &[], 1),
            (2 * DATAGRAM_MAX + 3, DATAGRAM_MAX + 1, &[1], 2),
        ];
        for (len, segment, expected, truncated) in cases {
            let mut batch = RecvBatch::default();
            batch.take(from, 1, len, segment, None);
            let taken: Vec<usize> = batch.drain().map(|(_, d)| d.len()).collect();
            assert_eq!(taken, expected, "{len} {segment}");
            assert_eq!(batch.take_truncated(), truncated);
        }
    }

    #[test]
    fn a_turn_drains_no_more_than_a_batch_and_strays_come_out() {
        let from = "192.0.2.1:1".parse().unwrap();
        let mut batch = RecvBatch::default();
        batch.take(from, 0, 200, 2, None);
        assert_eq!(batch.drain().len(), BATCH_MAX);
        assert_eq!(batch.drain().len(), 100 - BATCH_MAX);
        assert!(batch.is_empty());
        for text in [&b"mine"[..], b"stray", b"mine too"] {
            batch.push(from, BytesMut::from(text));
        }
        batch.retain(|_, d| d != "stray");
        assert_eq!(batch.len(), 2);
    }
}
