//! Datagrams on their way between the kernel and the server: received ones with their memory, and what
//! became of sent ones.
//!
//! Makes no system call itself.

use std::io;
use std::net::SocketAddr;
use std::ops::{AddAssign, Range};
use std::time::{Duration, SystemTime};

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
    /// Of these, those that were short, as sound is: of 400 bytes at most.
    pub dropped_short: u64,
    /// Refused by the kernel for themselves: no route, too long, an address of the wrong family.
    pub failed: u64,
    /// Messages of several datagrams that the kernel refused as such; they were sent one by one.
    pub split: u64,
}

impl AddAssign for SendReport {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.dropped_full += other.dropped_full;
        self.dropped_short += other.dropped_short;
        self.failed += other.failed;
        self.split += other.split;
    }
}

/// Datagrams up to this length, in bytes, are tried once more, and waited for a little, when the kernel's buffer is full: sound
/// (at 128 kbit/s and 20 ms a packet 360 bytes), reports, answers to checks. Nothing else tells sound from pictures here, and what
/// is short makes little of a full buffer.
pub(in crate::io) const SHORT_MAX: usize = 400;

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

/// An address as a socket of one family takes it; `None` if it cannot.
pub(in crate::io) fn for_family(to: SocketAddr, is_ipv6: bool) -> Option<SocketAddr> {
    match (to, is_ipv6) {
        (SocketAddr::V4(v4), true) => {
            let mapped = v4.ip().to_ipv6_mapped();
            Some(SocketAddr::new(mapped.into(), v4.port()))
        }
        (SocketAddr::V6(v6), false) => {
            let ip = v6.ip().to_ipv4_mapped()?;
            Some(SocketAddr::new(ip.into(), v6.port()))
        }
        _ => Some(to),
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

/// Whether the kernel takes messages of several datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum Segmentation {
    /// It should. So many in a row were refused, not counting twice in a row for one address.
    On {
        refused: u32,
        last: Option<SocketAddr>,
    },
    /// It has no `UDP_SEGMENT`, or not for the way these datagrams go.
    Off,
}

impl Segmentation {
    /// Nothing was refused yet.
    pub const START: Self = Self::On {
        refused: 0,
        last: None,
    };

    /// A message was refused: at once for good where the device or route cannot do checksums (EIO).
    /// That datagrams are too long for their path (EINVAL) may be the fault of one destination, so
    /// only after many.
    pub fn on_refused(&mut self, to: Option<SocketAddr>, error: &io::Error) {
        if let Self::On { refused, last } = self {
            *refused += u32::from(*last != to);
            *last = to;
            if error.raw_os_error() == Some(libc::EIO) || *refused >= REFUSED_MAX {
                *self = Self::Off;
            }
        }
    }

    /// One was taken.
    pub fn on_taken(&mut self) {
        if self != &Self::Off {
            *self = Self::START;
        }
    }
}

/// How many messages in a row are refused before none is made any more.
const REFUSED_MAX: u32 = 32;

/// How messages, which are counted from 0, get to the kernel.
pub(in crate::io) trait Wire {
    /// Tries those from `offset` on and says how many went out.
    fn send(&mut self, offset: usize) -> io::Result<usize>;

    /// Sends the datagrams of one message, which was refused with `error`, one by one.
    fn split(&mut self, offset: usize, error: &io::Error) -> SendReport;

    /// The kernel's buffer is full: drops those from `offset` on, but for what [`rescue`] can send of them.
    fn drop_from(&mut self, offset: usize) -> SendReport;
}

/// How often it is still waited for a full buffer. What was used up comes back when the buffer takes a whole batch again, so that
/// a thread whose socket stays full does not wait at all.
#[derive(Debug, Clone, Copy)]
pub(in crate::io) struct Patience(u32);

impl Patience {
    /// All of it.
    pub const FULL: Self = Self(WAITS_MAX);

    fn spend(&mut self) -> bool {
        let is_left = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        is_left
    }
}

/// Sends `count` short datagrams, of which `send` tries those from an offset on, through a buffer that is full: as long as
/// patience lasts, `wait` is called before each further try. Counts only these.
pub(in crate::io) fn rescue(
    count: usize,
    patience: &mut Patience,
    mut send: impl FnMut(usize) -> io::Result<usize>,
    mut wait: impl FnMut(Duration),
) -> SendReport {
    let mut report = SendReport::default();
    let mut offset = 0;
    while offset < count {
        match send(offset) {
            Ok(sent) if sent > 0 => {
                report.sent += sent as u64;
                offset += sent;
            }
            Err(error) if is_full(&error) => {
                if !patience.spend() {
                    report.dropped_short = (count - offset) as u64;
                    report.dropped_full = report.dropped_short;
                    return report;
                }
                wait(WAIT);
            }
            Ok(_) | Err(_) => {
                report.failed += 1;
                offset += 1;
            }
        }
    }
    report
}

/// Where the short ones of a message's datagrams are, which are `segment_len` bytes long but for the last: all or that one.
pub(in crate::io) fn short_ones(
    len: usize,
    segment_len: usize,
) -> impl Iterator<Item = Range<usize>> {
    let segment_len = segment_len.max(1);
    let last = len.saturating_sub(1) / segment_len * segment_len;
    let first = if segment_len <= SHORT_MAX { 0 } else { last };
    let ranges = (first..=last).step_by(segment_len);
    let ranges = ranges.map(move |start| start..len.min(start + segment_len));
    ranges.filter(|range| range.len() <= SHORT_MAX)
}

/// A line of 1 Gbit/s has carried 12 kB by then: several short datagrams.
const WAIT: Duration = Duration::from_micros(100);
/// A millisecond in all.
const WAITS_MAX: u32 = 10;

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
                report += wire.drop_from(offset);
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
        datagrams: &'a [u16],
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

        fn drop_from(&mut self, offset: usize) -> SendReport {
            let rest = self.datagrams[offset..].iter().copied();
            SendReport {
                dropped_full: rest.map(u64::from).sum(),
                ..SendReport::default()
            }
        }
    }

    #[test]
    fn short_ones_wait_a_little_for_a_full_buffer() {
        let full = Err(libc::EAGAIN);
        // (answers in turn, patience, sent, dropped, failed, waits) of five.
        type Case<'a> = (&'a [Result<usize, i32>], u32, u64, u64, u64, usize);
        let cases: [Case<'_>; 6] = [
            (&[Ok(5)], 3, 5, 0, 0, 0),
            (&[full, Ok(2), full, full, Ok(3)], 3, 5, 0, 0, 3),
            (&[full, Ok(2), full, full], 2, 2, 3, 0, 2),
            (&[full], 0, 0, 5, 0, 0),
            (&[Ok(1), Err(libc::EINVAL), Ok(3)], 0, 4, 0, 1, 0),
            (&[Err(libc::ENOBUFS), full, Ok(5)], 10, 5, 0, 0, 2),
        ];
        for (answers, waits, sent, dropped, failed, waited) in cases {
            let (mut patience, mut count) = (Patience(waits), 0);
            let mut next = answers.iter();
            let send = |_| next.next().unwrap().map_err(io::Error::from_raw_os_error);
            let report = rescue(5, &mut patience, send, |_| count += 1);
            let expected = SendReport {
                sent,
                dropped_full: dropped,
                dropped_short: dropped,
                failed,
                split: 0,
            };
            assert_eq!((report, count), (expected, waited), "{answers:?}");
            assert_eq!(next.next(), None);
        }
    }

    #[test]
    fn the_short_ones_of_a_message_are_found() {
        let found = |len, segment_len| short_ones(len, segment_len).collect::<Vec<_>>();
        assert_eq!(found(3120, 1000), vec![3000..3120]);
        assert!(found(3000, 1000).is_empty() && found(1000, 1000).is_empty());
        assert_eq!(found(250, 100), [0..100, 100..200, 200..250]);
        assert_eq!(found(SHORT_MAX, SHORT_MAX), vec![0..SHORT_MAX]);
        assert!(found(SHORT_MAX + 1, SHORT_MAX + 1).is_empty());
        assert_eq!(found(0, 0), vec![0..0]);
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
                datagrams: &[1, 1, 1, 3, 1],
                asked: Vec::new(),
                split: Vec::new(),
            };
            let report = transmit(&[1, 1, 1, 3, 1], &mut wire);
            assert!(wire.split.iter().all(|offset| *offset == 3));
            let expected = SendReport {
                sent,
                dropped_full,
                dropped_short: 0,
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
