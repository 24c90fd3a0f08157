//! RTCP about congestion: transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01)
//! and the receiver's estimate (draft-alvestrand-rmcat-remb-03): bytes to bounded values, and back.
//!
//! Reads and writes whole messages with their common header. Knows nothing of clocks or of what
//! follows from the numbers.

use crate::base::ids::{Bitrate, SeqNo16, Ssrc};

/// When a run of packets arrived, by their transport-wide numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportFeedback {
    /// Who reports.
    pub sender: Ssrc,
    /// A stream that is reported on; receivers put any of them here.
    pub media: Ssrc,
    /// The number of the first packet.
    pub base: SeqNo16,
    /// The receiver's clock at the message's origin, in units of 64 ms; 24 bits, signed, wraps.
    pub reference: i32,
    /// Counts the feedback messages; wraps.
    pub count: u8,
    /// For each packet from `base` on, when it arrived: in ticks of 250 µs since `reference`, `None` if it
    /// did not (yet). At most [`PACKETS_MAX`].
    pub arrivals: Vec<Option<i32>>,
}

/// What a receiver says it can take in all (draft-alvestrand-rmcat-remb-03 §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remb {
    /// Who reports.
    pub sender: Ssrc,
    /// The sum of all streams named.
    pub bitrate: Bitrate,
    /// The streams, at most 255.
    pub ssrcs: Vec<Ssrc>,
}

impl TransportFeedback {
    /// Reads one message, which is as long as its header says. `None` if it is malformed or speaks of more
    /// than [`PACKETS_MAX`] packets.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (sender, media, body) = split_feedback(message)?;
        let (fixed, mut rest) = body.split_first_chunk::<8>()?;
        let packets = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if packets == 0 || packets > PACKETS_MAX {
            return None;
        }
        let mut symbols = Vec::with_capacity(packets);
        while symbols.len() < packets {
            let (chunk, after) = rest.split_first_chunk::<2>()?;
            push_symbols(&mut symbols, u16::from_be_bytes(*chunk), packets);
            rest = after;
        }
        let mut ticks = 0_i32;
        let mut arrivals = Vec::with_capacity(packets);
        for symbol in symbols {
            let delta = match symbol {
                Symbol::Missing => {
                    arrivals.push(None);
                    continue;
                }
                Symbol::Small => {
                    let (delta, after) = rest.split_first()?;
                    rest = after;
                    i32::from(*delta)
                }
                Symbol::Large => {
                    let (delta, after) = rest.split_first_chunk::<2>()?;
                    rest = after;
                    i32::from(i16::from_be_bytes(*delta))
                }
                Symbol::Reserved => return None,
            };
            // At most PACKETS_MAX deltas of 16 bits: cannot overflow.
            ticks += delta;
            arrivals.push(Some(ticks));
        }
        Some(Self {
            sender,
            media,
            base: SeqNo16(u16::from_be_bytes([fixed[0], fixed[1]])),
            // Sign-extends 24 bits.
            reference: i32::from_be_bytes([fixed[4], fixed[5], fixed[6], 0]) >> 8,
            count: fixed[7],
            arrivals,
        })
    }

    /// Appends the message. Says how many packets it tells of: all, unless there are more than
    /// [`PACKETS_MAX`], or one arrived so long after the one before it that the distance cannot be
    /// written (8 s): that one and those after it then belong into a message with another reference.
    pub fn write(&self, out: &mut Vec<u8>) -> usize {
        let mut ticks = 0;
        let mut symbols = Vec::with_capacity(self.arrivals.len());
        for arrival in self.arrivals.iter().take(PACKETS_MAX) {
            let Some(at) = *arrival else {
                symbols.push(Symbol::Missing);
                continue;
            };
            let delta = i64::from(at) - i64::from(ticks);
            if i16::try_from(delta).is_err() {
                break;
            }
            ticks = at;
            symbols.push(if (0..=0xff).contains(&delta) {
                Symbol::Small
            } else {
                Symbol::Large
            });
        }
        if symbols.is_empty() {
            return 0;
        }
        let start = out.len();
        out.extend_from_slice(&[0x80 | FORMAT_TRANSPORT_CC, TRANSPORT_FEEDBACK, 0, 0]);
        out.extend_from_slice(&self.sender.0.to_be_bytes());
        out.extend_from_slice(&self.media.0.to_be_bytes());
        out.extend_from_slice(&self.base.0.to_be_bytes());
        out.extend_from_slice(&(symbols.len() as u16).to_be_bytes());
        out.extend_from_slice(&self.reference.to_be_bytes()[1..]);
        out.push(self.count);
        write_chunks(out, &symbols);
        let mut ticks = 0;
        for at in self.arrivals.iter().take(symbols.len()).flatten() {
            let delta = at - ticks;
            ticks = *at;
            match u8::try_from(delta) {
                Ok(small) => out.push(small),
                Err(_) => out.extend_from_slice(&(delta as i16).to_be_bytes()),
            }
        }
        finish(out, start);
        symbols.len()
    }
}

impl Remb {
    /// Reads one application-layer feedback message (RFC 4585 §6.4), which is as long as its header
    /// says. `None` if it is malformed or of another application.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (sender, _, body) = split_feedback(message)?;
        let (fixed, rest) = body.split_first_chunk::<8>()?;
        if fixed[..4] != REMB {
            return None;
        }
        let ssrcs = rest.get(..usize::from(fixed[4]) * 4)?;
        let exponent = u32::from(fixed[5] >> 2);
        let mantissa = u64::from(u32::from_be_bytes([0, fixed[5] & 3, fixed[6], fixed[7]]));
        let bits = u128::from(mantissa) << exponent;
        Some(Self {
            sender,
            bitrate: Bitrate(u64::try_from(bits).unwrap_or(BITRATE_MAX)),
            ssrcs: ssrcs
                .chunks_exact(4)
                .map(|ssrc| Ssrc(u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]])))
                .collect(),
        })
    }

    /// Appends the message, with at most 255 streams. The rate is rounded down to 18 significant bits.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let ssrcs = &self.ssrcs[..self.ssrcs.len().min(255)];
        let significant = u64::BITS - self.bitrate.0.leading_zeros();
        let exponent = significant.saturating_sub(MANTISSA_BITS);
        let mantissa = (self.bitrate.0 >> exponent) as u32;
        out.extend_from_slice(&[0x80 | FORMAT_APPLICATION, PAYLOAD_FEEDBACK, 0, 0]);
        out.extend_from_slice(&self.sender.0.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&REMB);
        out.push(ssrcs.len() as u8);
        out.push((exponent as u8) << 2 | (mantissa >> 16) as u8);
        out.extend_from_slice(&(mantissa as u16).to_be_bytes());
        for ssrc in ssrcs {
            out.extend_from_slice(&ssrc.0.to_be_bytes());
        }
        finish(out, start);
    }
}

/// The most packets that one feedback message is read or written for: more than a receiver of
/// 40 Mbit/s gets in a second.
pub const PACKETS_MAX: usize = 4096;
/// The FMT of transport-wide feedback (draft-holmer §3.1).
pub const FORMAT_TRANSPORT_CC: u8 = 15;
/// The FMT of application-layer feedback (RFC 4585 §6.4), which REMB is.
pub const FORMAT_APPLICATION: u8 = 15;
/// How long a tick of an arrival is, in microseconds.
pub const TICK_US: i64 = 250;
/// How many ticks a unit of the reference time has: 64 ms.
pub const TICKS_PER_REFERENCE: i64 = 256;

const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const REMB: [u8; 4] = *b"REMB";
const MANTISSA_BITS: u32 = 18;
/// What does not fit is taken for this: the most that both forms can say.
const BITRATE_MAX: u64 = 0x3_ffff << (u64::BITS - MANTISSA_BITS);
/// How many packets a run-length chunk can tell of (13 bits).
const RUN_MAX: usize = 0x1fff;

/// What became of a packet (draft-holmer §3.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Missing = 0,
    Small = 1,
    Large = 2,
    Reserved = 3,
}

impl Symbol {
    fn of(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Missing,
            1 => Self::Small,
            2 => Self::Large,
            _ => Self::Reserved,
        }
    }
}

/// Takes the common header, the two SSRCs and the padding off.
fn split_feedback(message: &[u8]) -> Option<(Ssrc, Ssrc, &[u8])> {
    let (header, body) = message.split_first_chunk::<12>()?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let is_padded = header[0] & 0x20 != 0;
    let padding = match body.last() {
        Some(len) if is_padded => usize::from(*len),
        _ => 0,
    };
    let body = body.get(..body.len().checked_sub(padding)?)?;
    Some((Ssrc(word(4)), Ssrc(word(8)), body))
}

/// Reads one chunk (draft-holmer §3.1.3, §3.1.4); `packets` is where the list ends.
fn push_symbols(symbols: &mut Vec<Symbol>, chunk: u16, packets: usize) {
    let left = packets - symbols.len();
    if chunk & 0x8000 == 0 {
        let run = usize::from(chunk) & RUN_MAX;
        symbols.extend(std::iter::repeat_n(Symbol::of(chunk >> 13), run.min(left)));
    } else if chunk & 0x4000 == 0 {
        let bits = (0..14).rev().map(|bit| Symbol::of(chunk >> bit & 1));
        symbols.extend(bits.take(left));
    } else {
        let pairs = (0..7).rev().map(|pair| Symbol::of(chunk >> (2 * pair)));
        symbols.extend(pairs.take(left));
    }
}

/// Writes the symbols as runs where these are long, and as vectors elsewhere.
fn write_chunks(out: &mut Vec<u8>, symbols: &[Symbol]) {
    let mut rest = symbols;
    while let Some(&first) = rest.first() {
        let run = rest.iter().take(RUN_MAX).take_while(|s| **s == first);
        let run = run.count();
        let window = &rest[..rest.len().min(14)];
        let has_large = window.contains(&Symbol::Large);
        let vector_len = if has_large { 7 } else { 14 }.min(rest.len());
        let (chunk, told) = if run >= vector_len {
            ((first as u16) << 13 | run as u16, run)
        } else if has_large {
            let pairs = rest[..vector_len].iter().enumerate();
            let bits = pairs.fold(0, |bits, (at, s)| bits | (*s as u16) << (12 - 2 * at));
            (0xc000 | bits, vector_len)
        } else {
            let pairs = rest[..vector_len].iter().enumerate();
            let bits = pairs.fold(0, |bits, (at, s)| bits | (*s as u16) << (13 - at));
            (0x8000 | bits, vector_len)
        };
        out.extend_from_slice(&chunk.to_be_bytes());
        rest = &rest[told..];
    }
}

/// Pads the message that begins at `start` to whole words, and writes its length.
fn finish(out: &mut Vec<u8>, start: usize) {
    let padding = (out.len() - start).next_multiple_of(4) - (out.len() - start);
    if padding > 0 {
        out.resize(out.len() + padding - 1, 0);
        out.push(padding as u8);
        out[start] |= 0x20;
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feedback(arrivals: Vec<Option<i32>>) -> TransportFeedback {
        TransportFeedback {
            sender: Ssrc(0xfa17_fa17),
            media: Ssrc(0x0102_0304),
            base: SeqNo16(65_530),
            reference: -3,
            count: 7,
            arrivals,
        }
    }

    fn written(feedback: &TransportFeedback) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(feedback.write(&mut out), feedback.arrivals.len());
        assert_eq!(out.len() % 4, 0);
        out
    }

    /// Put together by hand after draft-holmer §3.1: a run, a vector of one-bit symbols, one of two-bit
    /// symbols.
    #[test]
    fn every_kind_of_chunk_is_read() {
        let message = [
            0x8f, 205, 0, 7, // FMT 15, RTPFB
            0, 0, 0, 1, 0, 0, 0, 2, // sender, media
            0x12, 0x34, 0, 23, // base, 23 packets
            0xff, 0xff, 0xfe, 9, // reference -2, count 9
            0x20, 2, // a run of two small ones
            0x90, 0x00, // one bit: none, small, and then none
            0xd8, 0x00, // two bits: small, large, and then none
            4, 8, // the run
            1, // the vector of one-bit symbols
            2, 0xff, 0xfc, // the vector of two-bit symbols: 2, -4
        ];
        let read = TransportFeedback::parse(&message).unwrap();
        assert_eq!((read.sender, read.media), (Ssrc(1), Ssrc(2)));
        assert_eq!(
            (read.base, read.reference, read.count),
            (SeqNo16(0x1234), -2, 9)
        );
        let mut expected = vec![Some(4), Some(12), None, Some(13)];
        expected.extend([None; 12]);
        expected.extend([Some(15), Some(11), None, None, None, None, None]);
        assert_eq!(read.arrivals, expected);
    }

    #[test]
    fn what_is_written_is_what_others_write() {
        // libwebrtc's way: 20 small deltas make one run.
        let message = written(&feedback((1..=20).map(|n| Some(n * 4)).collect()));
        assert_eq!(message[..4], [0x8f | 0x20, 205, 0, 10]);
        assert_eq!(message[20..22], [0x20, 20], "a run of 20 small ones");
        assert_eq!(message[22..42], [4; 20]);
        assert_eq!(message[42..], [0, 2], "padding");
    }

    #[test]
    fn hostile_messages_are_refused() {
        let good = written(&feedback(vec![Some(1), None, Some(-300), Some(9000)]));
        assert!(TransportFeedback::parse(&good).is_some());
        for len in 0..good.len() - 3 {
            assert!(TransportFeedback::parse(&good[..len]).is_none(), "{len}");
        }
        let mut none = good.clone();
        none[14..16].copy_from_slice(&[0, 0]);
        assert!(TransportFeedback::parse(&none).is_none(), "no packet");
        let mut many = good.clone();
        many[14..16].copy_from_slice(&[0xff, 0xff]);
        assert!(TransportFeedback::parse(&many).is_none(), "65535 packets");
        let mut reserved = good.clone();
        reserved[20..22].copy_from_slice(&[0xff, 0xff]);
        assert!(TransportFeedback::parse(&reserved).is_none(), "symbol 3");
        let mut padding = good;
        let last = padding.len() - 1;
        (padding[0], padding[last]) = (0xaf, 200);
        assert!(TransportFeedback::parse(&padding).is_none(), "all padding");
        // An empty run does not advance, and does not hang either.
        let mut empty_runs = vec![0x8f, 205, 0, 6];
        empty_runs.extend([0; 8]);
        empty_runs.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        empty_runs.extend([0x20, 0, 0x20, 0, 0x20, 0, 0x20, 0]);
        assert!(TransportFeedback::parse(&empty_runs).is_none());
    }

    #[test]
    fn a_distance_that_cannot_be_written_ends_the_message() {
        let mut out = Vec::new();
        let long = feedback(vec![Some(0), None, Some(40_000), Some(40_001)]);
        assert_eq!(long.write(&mut out), 2);
        let read = TransportFeedback::parse(&out).unwrap();
        assert_eq!(read.arrivals, [Some(0), None]);
        out.clear();
        assert_eq!(feedback(vec![Some(i32::MIN)]).write(&mut out), 0);
        assert!(out.is_empty());
    }

    #[test]
    fn remb_is_read_and_written() {
        // draft-alvestrand-rmcat-remb-03 §2.2, as libwebrtc's test has it: 0x3fb93 << 1, three streams.
        let message = [
            0x8f, 206, 0, 7, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 3, 0x07,
            0xfb, 0x93, 0x23, 0x45, 0x67, 0x89, 0x23, 0x45, 0x67, 0x8a, 0x23, 0x45, 0x67, 0x8b,
        ];
        let remb = Remb::parse(&message).unwrap();
        assert_eq!(remb.bitrate, Bitrate(522_022));
        assert_eq!(
            remb.ssrcs,
            [0x2345_6789, 0x2345_678a, 0x2345_678b].map(Ssrc)
        );
        let mut out = Vec::new();
        remb.write(&mut out);
        assert_eq!(out, message);
        for len in 0..message.len() {
            assert!(Remb::parse(&message[..len]).is_none(), "{len}");
        }
        let mut most = message;
        most[17..20].copy_from_slice(&[0xff; 3]);
        assert_eq!(Remb::parse(&most).unwrap().bitrate, Bitrate(BITRATE_MAX));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            deltas in proptest::collection::vec(
                proptest::option::of(prop_oneof![0..256_i32, -32_768..32_768_i32, Just(3)]),
                1..600,
            ),
        ) {
            let mut ticks = 0;
            let arrivals = deltas.into_iter().map(|delta| {
                ticks += delta?;
                Some(ticks)
            });
            let feedback = feedback(arrivals.collect());
            prop_assert_eq!(TransportFeedback::parse(&written(&feedback)), Some(feedback));
        }

        #[test]
        fn rates_keep_eighteen_bits(bits: u64) {
            let remb = Remb { sender: Ssrc(1), bitrate: Bitrate(bits), ssrcs: vec![Ssrc(9)] };
            let mut out = Vec::new();
            remb.write(&mut out);
            let read = Remb::parse(&out).unwrap().bitrate.0;
            prop_assert!(read <= bits && bits - read <= bits >> 17);
        }

        #[test]
        fn nothing_panics(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TransportFeedback::parse(&message);
            let _ = Remb::parse(&message);
        }
    }
}
