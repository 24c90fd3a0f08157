//! One subscription's numbering: constant offsets from its track's sequence numbers and timestamps,
//! and the record of what was sent.
//!
//! This is where the rule about nonces is kept (RFC 7714 §8.2, RFC 3711 §9.1): a number goes out
//! once, and a second time only if nothing that shapes the packet has changed in between.

use crate::base::ids::{RtpTime, SeqNo, SeqNo16};
use crate::media::sequence::nearest;

/// Numbers the packets of one subscription.
#[derive(Debug)]
pub struct Rewriter {
    flow: Flow,
    /// What is added to the track's timestamps, modulo 2^32.
    time_offset: u32,
    /// Packets below were shaped by rules that no longer hold: they are not sent again.
    resend_min: SeqNo,
    sent: SentWindow,
}

#[derive(Debug, Clone, Copy)]
enum Flow {
    /// The next packet gets this number, whatever the track's is.
    Stopped { next: SeqNo },
    /// The track's number `track` goes out as `out`, and so on; nothing below.
    Running { track: SeqNo, out: SeqNo },
}

impl Rewriter {
    /// Starts at `first` with rollover count 0: chosen at random, below 2^15, so that a receiver
    /// that misses the first packets still guesses the count (RFC 3711 §3.3.1).
    #[must_use]
    pub fn new(first: u16, time_offset: u32) -> Self {
        let first = SeqNo(u64::from(first & 0x7fff));
        Self {
            flow: Flow::Stopped { next: first },
            time_offset,
            resend_min: first,
            sent: SentWindow::new(first),
        }
    }

    /// The number a packet of the track goes out with, which is recorded as sent: the caller sends it.
    /// `None` if it must not go out: it is older than where the subscription (re)started, was sent
    /// already, or is too old to know.
    #[inline]
    pub fn forward(&mut self, track: SeqNo) -> Option<SeqNo> {
        let out = match self.flow {
            Flow::Running { track: from, out } => SeqNo(out.0 + track.0.checked_sub(from.0)?),
            Flow::Stopped { next } => {
                self.flow = Flow::Running { track, out: next };
                next
            }
        };
        self.sent.insert(out).then_some(out)
    }

    /// The packet that went out with the 16-bit number `wire`, as (its number, the track's number), if
    /// it may be sent again.
    #[must_use]
    pub fn resend(&self, wire: SeqNo16) -> Option<(SeqNo, SeqNo)> {
        let Flow::Running { track, out: first } = self.flow else {
            return None;
        };
        let out = nearest(self.sent.next, wire);
        if out < self.resend_min || out < first || !self.sent.contains(out) {
            return None;
        }
        Some((out, SeqNo(track.0 + (out.0 - first.0))))
    }

    /// The subscription's timestamp for one of the track.
    #[inline]
    #[must_use]
    pub fn timestamp(&self, track: RtpTime) -> RtpTime {
        RtpTime(track.0.wrapping_add(self.time_offset))
    }

    /// Whether a packet went out since the start or the last [`Rewriter::stop`].
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.flow, Flow::Running { .. })
    }

    /// Nothing is sent for a while: the next packet follows the last one without a gap, and nothing
    /// from before is sent again.
    pub fn stop(&mut self) {
        self.reshape();
        self.flow = Flow::Stopped {
            next: self.sent.next,
        };
    }

    /// What packets look like changes (payload types, header extensions): nothing from before is
    /// sent again.
    pub fn reshape(&mut self) {
        self.resend_min = self.sent.next;
    }
}

/// Which of the last [`SENT_WINDOW`] numbers went out.
#[derive(Debug)]
struct SentWindow {
    /// One above the highest.
    next: SeqNo,
    /// The first number of all.
    first: SeqNo,
    bits: [u64; WORDS],
}

impl SentWindow {
    fn new(first: SeqNo) -> Self {
        Self {
            next: first,
            first,
            bits: [0; WORDS],
        }
    }

    /// False if it is in already, or too old to know.
    #[inline]
    fn insert(&mut self, seq: SeqNo) -> bool {
        if seq >= self.next {
            self.advance(seq);
        } else if !self.is_inside(seq) || self.bits[word(seq)] & bit(seq) != 0 {
            return false;
        }
        self.bits[word(seq)] |= bit(seq);
        true
    }

    fn contains(&self, seq: SeqNo) -> bool {
        seq < self.next && self.is_inside(seq) && self.bits[word(seq)] & bit(seq) != 0
    }

    fn is_inside(&self, seq: SeqNo) -> bool {
        seq >= self.first && seq.0 + SENT_WINDOW >= self.next.0
    }

    /// Makes `seq` the highest; what falls out of the window and what is skipped is unmarked.
    #[inline]
    fn advance(&mut self, seq: SeqNo) {
        if seq.0 - self.next.0 >= SENT_WINDOW {
            self.bits = [0; WORDS];
        } else {
            for skipped in self.next.0..=seq.0 {
                self.bits[word(SeqNo(skipped))] &= !bit(SeqNo(skipped));
            }
        }
        self.next = SeqNo(seq.0 + 1);
    }
}

fn word(seq: SeqNo) -> usize {
    (seq.0 / 64) as usize % WORDS
}

fn bit(seq: SeqNo) -> u64 {
    1 << (seq.0 % 64)
}

/// How far back a packet may come late or be asked for again: as many as a track's cache holds.
pub const SENT_WINDOW: u64 = 1024;
const WORDS: usize = (SENT_WINDOW / 64) as usize;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const BASE: u64 = 1 << 20;

    #[test]
    fn numbers_are_a_constant_offset_and_go_out_once() {
        let mut rewriter = Rewriter::new(0xffff, 7);
        let first = 0x7fff;
        let cases = [
            (5, Some(first)),
            (6, Some(first + 1)),
            (9, Some(first + 4)),
            (9, None),
            (8, Some(first + 3)),
            // Before the first one of all.
            (4, None),
            (5 + 2000, Some(first + 2000)),
            // Too old to know.
            (900, None),
            (1100, Some(first + 1095)),
        ];
        for (track, expected) in cases {
            assert_eq!(
                rewriter.forward(SeqNo(BASE + track)),
                expected.map(SeqNo),
                "{track}"
            );
        }
        assert_eq!(rewriter.timestamp(RtpTime(u32::MAX)), RtpTime(6));
    }

    #[test]
    fn after_a_stop_numbers_go_on_without_a_gap() {
        let mut rewriter = Rewriter::new(10, 0);
        rewriter.forward(SeqNo(BASE));
        rewriter.stop();
        assert!(!rewriter.is_running());
        assert_eq!(rewriter.resend(SeqNo16(10)), None);
        assert_eq!(rewriter.forward(SeqNo(BASE + 500)), Some(SeqNo(11)));
        assert_eq!(rewriter.resend(SeqNo16(10)), None);
        assert_eq!(
            rewriter.resend(SeqNo16(11)),
            Some((SeqNo(11), SeqNo(BASE + 500)))
        );
    }

    #[test]
    fn what_was_shaped_otherwise_is_not_sent_again() {
        let mut rewriter = Rewriter::new(10, 0);
        rewriter.forward(SeqNo(BASE));
        rewriter.forward(SeqNo(BASE + 2));
        assert_eq!(rewriter.resend(SeqNo16(10)), Some((SeqNo(10), SeqNo(BASE))));
        assert_eq!(rewriter.resend(SeqNo16(11)), None, "never sent");
        rewriter.reshape();
        assert_eq!(rewriter.resend(SeqNo16(10)), None);
        // A late one goes out for the first time, but not a second.
        assert_eq!(rewriter.forward(SeqNo(BASE + 1)), Some(SeqNo(11)));
        assert_eq!(rewriter.resend(SeqNo16(11)), None);
        assert_eq!(rewriter.forward(SeqNo(BASE + 3)), Some(SeqNo(13)));
        assert!(rewriter.resend(SeqNo16(13)).is_some());
    }

    #[derive(Debug, Clone)]
    enum Op {
        Forward(i64),
        Resend(i64),
        Stop,
        Reshape,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            20 => (-8_i64..5).prop_map(Op::Forward),
            1 => prop_oneof![Just(-1030), Just(3000), Just(1024), Just(1023)].prop_map(Op::Forward),
            8 => (-12_i64..3).prop_map(Op::Resend),
            1 => Just(Op::Stop),
            1 => Just(Op::Reshape),
        ]
    }

    proptest! {
        /// Under one number there is one packet of the track in one shape, whatever happens.
        #[test]
        fn a_number_stands_for_one_packet(
            first: u16,
            ops in proptest::collection::vec(op(), 1..400),
        ) {
            let mut rewriter = Rewriter::new(first, 0);
            let mut sent: HashMap<u64, (u64, u32)> = HashMap::new();
            let (mut highest, mut shape, mut last) = (BASE, 0_u32, first);
            for op in ops {
                let went_out = match op {
                    Op::Forward(step) => {
                        let track = (highest as i64 + step) as u64;
                        highest = highest.max(track);
                        rewriter.forward(SeqNo(track)).map(|out| (out, SeqNo(track)))
                    }
                    Op::Resend(back) => rewriter.resend(SeqNo16(last.wrapping_add_signed(back as i16))),
                    Op::Stop => { rewriter.stop(); shape += 1; None }
                    Op::Reshape => { rewriter.reshape(); shape += 1; None }
                };
                if let Some((out, track)) = went_out {
                    last = out.on_wire().0;
                    let known = *sent.entry(out.0).or_insert((track.0, shape));
                    prop_assert_eq!(known, (track.0, shape));
                }
            }
        }
    }
}
