//! One subscription's numbering: from the numbers of the encodings it gets, one after another, to its own, and the
//! record of what was sent.
//!
//! This is where the rule about nonces is kept (RFC 7714 §8.2, RFC 3711 §9.1): a number goes out
//! once, and a second time only if nothing that shapes the packet has changed in between.

use std::collections::VecDeque;

use crate::base::ids::{EncodingIndex, RtpTime, SeqNo, SeqNo16};
use crate::media::sequence::nearest;

/// Numbers the packets of one subscription.
#[derive(Debug)]
pub struct Rewriter {
    /// The last piece, while packets go out.
    running: Option<Piece>,
    /// The first number since the present encoding goes out.
    segment: SeqNo,
    /// The pieces before, as far as their packets may be sent again. None while nothing is switched or skipped.
    pieces: Option<Box<Pieces>>,
    /// When it was stopped, the first number of its encoding that had not gone out; 0 if there is none.
    left: SeqNo,
    /// Packets below were shaped by rules that no longer hold: they are not sent again.
    resend_min: SeqNo,
    sent: SentWindow,
}

/// The time that one encoding goes out without a break: what waits to be sent belongs to one, and is void when that is
/// over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay(u32);

/// From here to the next piece, the encoding's number `from` goes out as `out`, and so on.
#[derive(Debug, Clone, Copy)]
struct Piece {
    encoding: EncodingIndex,
    from: SeqNo,
    out: SeqNo,
    /// What is added to the encoding's timestamps, modulo 2^32.
    time_offset: u32,
}

/// Pieces in the order of their numbers. Boxed where it is kept: most subscriptions have none.
#[derive(Debug, Default)]
struct Pieces(VecDeque<Piece>);

/// A number that is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resend {
    /// The number.
    pub out: SeqNo,
    /// The encoding of its packet.
    pub encoding: EncodingIndex,
    /// The encoding's number for it.
    pub seq: SeqNo,
    /// The packet has not gone out yet: it came too late, or before a keyframe started here. See [`Rewriter::fill`].
    pub is_first: bool,
    time_offset: u32,
}

impl Rewriter {
    /// Starts at `first` with rollover count 0: chosen at random, below 2^15, so that a receiver
    /// that misses the first packets still guesses the count (RFC 3711 §3.3.1).
    #[must_use]
    pub fn new(first: u16) -> Self {
        let first = SeqNo(u64::from(first & 0x7fff));
        Self {
            running: None,
            segment: first,
            left: SeqNo(0),
            pieces: None,
            resend_min: first,
            sent: SentWindow::new(first),
        }
    }

    /// The encoding whose packets go out, if any do.
    #[inline]
    #[must_use]
    pub fn encoding(&self) -> Option<EncodingIndex> {
        self.running.map(|piece| piece.encoding)
    }

    /// Reads what the next packet needs, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let running = self.running.map_or(0, |piece| piece.from.0);
        let next = self.sent.next;
        running ^ next.0 ^ self.sent.bits[word(next)]
    }

    /// One above the highest number that went out.
    #[must_use]
    pub fn next(&self) -> SeqNo {
        self.sent.next
    }

    /// The present stay in that encoding.
    #[must_use]
    pub fn stay(&self) -> Stay {
        Stay(self.sent.stay)
    }

    /// Whether packets of a stay may still go out.
    #[must_use]
    pub fn is_in(&self, stay: Stay) -> bool {
        self.running.is_some() && self.sent.stay == stay.0
    }

    /// From its packet `first` on, the packets of an encoding go out. They follow the last one that was sent without a gap;
    /// what is still under way or waits of a former encoding does not go out any more.
    pub fn begin(&mut self, encoding: EncodingIndex, first: SeqNo, time_offset: u32) {
        self.sent.stay = self.sent.stay.wrapping_add(1);
        let out = self.sent.next;
        // Numbers that were left free for packets of the former encoding are used now.
        if let Some(Pieces(pieces)) = self.pieces.as_deref_mut() {
            while pieces.back().is_some_and(|piece| piece.out >= out) {
                pieces.pop_back();
            }
        }
        if let Some(former) = self.running.filter(|piece| piece.out < out) {
            self.keep(former);
        }
        self.segment = out;
        self.running = Some(Piece {
            encoding,
            from: first,
            out,
            time_offset,
        });
    }

    /// Whether packets of an encoding from `seq` on went out in a former stay, and may be sent again.
    #[must_use]
    pub fn has_passed(&self, encoding: EncodingIndex, seq: SeqNo) -> bool {
        let mut end = self.sent.next;
        let newest_first = self.running.iter().chain(self.pieces().rev());
        for piece in newest_first {
            let passed = SeqNo(piece.from.0 + end.0.saturating_sub(piece.out.0));
            if piece.encoding == encoding && piece.out < end && seq < passed {
                return true;
            }
            end = piece.out;
        }
        false
    }

    /// Whether a packet is from before the last stop: others of its encoding that follow it went out then.
    #[must_use]
    pub fn is_before_stop(&self, encoding: EncodingIndex, seq: SeqNo) -> bool {
        self.sent.left == encoding && seq < self.left
    }

    /// The encodings are others from now on, with other numbers.
    pub fn forget_left(&mut self) {
        self.left = SeqNo(0);
    }

    /// The number a packet of the present encoding goes out with, which is recorded as sent: the caller sends it now, so
    /// that no number is taken that is not sent. Packets that have to wait get theirs when they leave.
    /// `None` if it must not go out: it is older than where that began, was left out or sent already, or is too old
    /// to know.
    #[inline]
    pub fn forward(&mut self, seq: SeqNo) -> Option<SeqNo> {
        let piece = self.running?;
        let out = match seq.0.checked_sub(piece.from.0) {
            Some(distance) => SeqNo(piece.out.0 + distance),
            None => self.late(seq)?,
        };
        self.sent.insert(out).then_some(out)
    }

    /// A packet of the present encoding is left out on purpose: those after it close up. If one after it went out
    /// already, its number stays free.
    pub fn skip(&mut self, seq: SeqNo) {
        let Some(piece) = self.running else {
            return;
        };
        let Some(distance) = seq.0.checked_sub(piece.from.0) else {
            return;
        };
        let out = SeqNo(piece.out.0 + distance);
        if out < self.sent.next {
            return;
        }
        if distance > 0 {
            self.keep(piece);
        }
        self.running = Some(Piece {
            from: SeqNo(seq.0 + 1),
            out,
            ..piece
        });
    }

    /// What the 16-bit number `wire` stands for, if that may be sent again or for the first time.
    #[must_use]
    pub fn resend(&self, wire: SeqNo16) -> Option<Resend> {
        let running = self.running?;
        let out = nearest(self.sent.next, wire);
        if out < self.resend_min || out >= self.sent.next || !self.sent.is_inside(out) {
            return None;
        }
        let piece = match out >= running.out {
            true => &running,
            false => self.pieces().rev().find(|piece| piece.out <= out)?,
        };
        Some(Resend {
            out,
            encoding: piece.encoding,
            seq: SeqNo(piece.from.0 + (out.0 - piece.out.0)),
            is_first: !self.sent.contains(out),
            time_offset: piece.time_offset,
        })
    }

    /// A number that had not gone out goes out now. False if it did meanwhile.
    pub fn fill(&mut self, resend: &Resend) -> bool {
        self.sent.insert(resend.out)
    }

    /// The subscription's timestamp for one of the present encoding.
    #[inline]
    #[must_use]
    pub fn timestamp(&self, timestamp: RtpTime) -> RtpTime {
        let offset = self.running.map_or(0, |piece| piece.time_offset);
        RtpTime(timestamp.0.wrapping_add(offset))
    }

    /// Nothing is sent for a while: the next packet follows the last one without a gap, and nothing
    /// from before is sent again.
    pub fn stop(&mut self) {
        self.sent.stay = self.sent.stay.wrapping_add(1);
        self.reshape();
        self.pieces = None;
        if let Some(piece) = self
            .running
            .take()
            .filter(|piece| piece.out < self.sent.next)
        {
            self.left = SeqNo(piece.from.0 + (self.sent.next.0 - piece.out.0));
            self.sent.left = piece.encoding;
        }
    }

    /// What packets look like changes (payload types, header extensions): nothing from before is
    /// sent again.
    pub fn reshape(&mut self) {
        self.resend_min = self.sent.next;
    }

    /// The number of a packet from before the last piece.
    #[cold]
    fn late(&self, seq: SeqNo) -> Option<SeqNo> {
        let mut end = self.running?.out;
        let present = self.pieces().rev();
        for piece in present.take_while(|piece| piece.out >= self.segment) {
            if let Some(distance) = seq.0.checked_sub(piece.from.0) {
                let out = SeqNo(piece.out.0 + distance);
                return (out < end).then_some(out);
            }
            end = piece.out;
        }
        None
    }

    #[cold]
    fn keep(&mut self, piece: Piece) {
        let Pieces(pieces) = &mut **self.pieces.get_or_insert_default();
        while pieces.len() >= PIECES_MAX
            || (pieces.get(1)).is_some_and(|second| !self.sent.is_inside(second.out))
        {
            pieces.pop_front();
        }
        pieces.push_back(piece);
    }

    fn pieces(&self) -> impl DoubleEndedIterator<Item = &Piece> {
        self.pieces.iter().flat_map(|pieces| pieces.0.iter())
    }
}

impl Resend {
    /// The subscription's timestamp for the packet's.
    #[must_use]
    pub fn timestamp(&self, timestamp: RtpTime) -> RtpTime {
        RtpTime(timestamp.0.wrapping_add(self.time_offset))
    }
}

/// Which of the last [`SENT_WINDOW`] numbers went out.
#[derive(Debug)]
struct SentWindow {
    /// One above the highest.
    next: SeqNo,
    /// The first number of all, which is below 2^15.
    first: u16,
    /// Which [`Stay`] is the present one: here it takes no room.
    stay: u32,
    /// Which encoding [`Rewriter::left`] is of: it takes no room here, either.
    left: EncodingIndex,
    bits: [u64; WORDS],
}

impl SentWindow {
    fn new(first: SeqNo) -> Self {
        Self {
            next: first,
            first: first.on_wire().0,
            stay: 0,
            left: EncodingIndex(0),
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
        seq.0 >= u64::from(self.first) && seq.0 + SENT_WINDOW >= self.next.0
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
/// Pieces kept at most; what was sent before the oldest is not sent again. A subscription that leaves out every other of
/// 60 pictures a second makes as many while a packet is cached, which is two seconds.
const PIECES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const BASE: u64 = 1 << 20;
    const LOW: EncodingIndex = EncodingIndex(0);
    const HIGH: EncodingIndex = EncodingIndex(1);

    #[test]
    fn what_went_out_before_is_known() {
        let at = |n: u64| SeqNo(BASE + n);
        let mut rewriter = running(100);
        assert!(!rewriter.has_passed(LOW, at(0)), "nothing went out yet");
        for n in 0..10 {
            rewriter.forward(at(n));
        }
        rewriter.begin(HIGH, at(500), 0);
        rewriter.forward(at(500));
        assert!(rewriter.has_passed(LOW, at(9)) && !rewriter.has_passed(LOW, at(10)));
        assert!(rewriter.has_passed(HIGH, at(500)) && !rewriter.has_passed(HIGH, at(501)));
        rewriter.stop();
        assert!(!rewriter.has_passed(LOW, at(9)), "it is not sent again");
        let is_before = |rewriter: &Rewriter, n| rewriter.is_before_stop(HIGH, at(n));
        assert!(is_before(&rewriter, 500) && !is_before(&rewriter, 501));
        assert!(!rewriter.is_before_stop(LOW, at(9)));
        rewriter.begin(LOW, at(12), 0);
        rewriter.stop();
        assert!(is_before(&rewriter, 500), "nothing has gone out since");
        rewriter.forget_left();
        assert!(!is_before(&rewriter, 500));
    }

    fn running(first: u16) -> Rewriter {
        let mut rewriter = Rewriter::new(first);
        rewriter.begin(LOW, SeqNo(BASE), 0);
        rewriter
    }

    /// What stands under a number: encoding, its number, and whether it is still to go out.
    fn asked(rewriter: &Rewriter, wire: u16) -> Option<(EncodingIndex, u64, bool)> {
        let resend = rewriter.resend(SeqNo16(wire))?;
        assert_eq!(resend.out.on_wire().0, wire);
        Some((resend.encoding, resend.seq.0 - BASE, resend.is_first))
    }

    fn forward(rewriter: &mut Rewriter, seq: u64) -> Option<u64> {
        rewriter.forward(SeqNo(BASE + seq)).map(|out| out.0)
    }

    #[test]
    fn numbers_are_a_constant_offset_and_go_out_once() {
        let mut rewriter = Rewriter::new(0xffff);
        assert_eq!(forward(&mut rewriter, 0), None, "nothing has begun");
        rewriter.begin(LOW, SeqNo(BASE + 5), 7);
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
            assert_eq!(forward(&mut rewriter, track), expected, "{track}");
        }
        assert_eq!(rewriter.timestamp(RtpTime(u32::MAX)), RtpTime(6));
    }

    #[test]
    fn after_a_stop_numbers_go_on_without_a_gap() {
        let mut rewriter = running(10);
        forward(&mut rewriter, 0);
        rewriter.stop();
        assert_eq!(rewriter.encoding(), None);
        assert_eq!(asked(&rewriter, 10), None);
        rewriter.begin(LOW, SeqNo(BASE + 500), 0);
        assert_eq!(forward(&mut rewriter, 500), Some(11));
        assert_eq!(asked(&rewriter, 10), None);
        assert_eq!(asked(&rewriter, 11), Some((LOW, 500, false)));
    }

    #[test]
    fn what_was_shaped_otherwise_is_not_sent_again() {
        let mut rewriter = running(10);
        forward(&mut rewriter, 0);
        forward(&mut rewriter, 2);
        assert_eq!(asked(&rewriter, 10), Some((LOW, 0, false)));
        assert_eq!(asked(&rewriter, 11), Some((LOW, 1, true)), "never sent");
        assert_eq!(asked(&rewriter, 13), None, "not there yet");
        rewriter.reshape();
        assert_eq!(asked(&rewriter, 10), None);
        // A late one goes out for the first time, but not a second.
        assert_eq!(forward(&mut rewriter, 1), Some(11));
        assert_eq!(asked(&rewriter, 11), None);
        assert_eq!(forward(&mut rewriter, 3), Some(13));
        assert!(asked(&rewriter, 13).is_some());
    }

    #[test]
    fn a_switch_leaves_no_gap_and_forgets_nothing() {
        let mut rewriter = running(10);
        for seq in [0, 1, 3] {
            forward(&mut rewriter, seq);
        }
        rewriter.begin(HIGH, SeqNo(BASE + 700), 9);
        assert_eq!(forward(&mut rewriter, 700), Some(14));
        assert_eq!(forward(&mut rewriter, 702), Some(16));
        assert_eq!(forward(&mut rewriter, 699), None, "before the keyframe");
        let cases = [
            (10, Some((LOW, 0, false))),
            (12, Some((LOW, 2, true))),
            (13, Some((LOW, 3, false))),
            (14, Some((HIGH, 700, false))),
            (15, Some((HIGH, 701, true))),
            (9, None),
        ];
        for (wire, expected) in cases {
            assert_eq!(asked(&rewriter, wire), expected, "{wire}");
        }
        let missing = rewriter.resend(SeqNo16(12)).unwrap();
        assert_eq!(missing.timestamp(RtpTime(5)), RtpTime(5));
        assert_eq!(rewriter.timestamp(RtpTime(5)), RtpTime(14));
        assert!(rewriter.fill(&missing) && !rewriter.fill(&missing));
        assert_eq!(asked(&rewriter, 12), Some((LOW, 2, false)));
    }

    #[test]
    fn what_is_left_out_closes_up_unless_it_comes_too_late() {
        let mut rewriter = running(10);
        assert_eq!(forward(&mut rewriter, 0), Some(10));
        rewriter.skip(SeqNo(BASE + 1));
        rewriter.skip(SeqNo(BASE + 2));
        assert_eq!(forward(&mut rewriter, 3), Some(11));
        assert_eq!(forward(&mut rewriter, 6), Some(14));
        // Its number is kept free: who comes after it has gone.
        rewriter.skip(SeqNo(BASE + 5));
        rewriter.skip(SeqNo(BASE + 8));
        assert_eq!(forward(&mut rewriter, 9), Some(16));
        assert_eq!(forward(&mut rewriter, 7), Some(15), "late");
        assert_eq!(forward(&mut rewriter, 4), Some(12), "very late");
        for left_out in [1, 2, 8] {
            assert_eq!(forward(&mut rewriter, left_out), None);
        }
        let expected = [
            (10, 0),
            (11, 3),
            (12, 4),
            (13, 5),
            (14, 6),
            (15, 7),
            (16, 9),
        ];
        for (wire, seq) in expected {
            assert_eq!(asked(&rewriter, wire), Some((LOW, seq, seq == 5)), "{wire}");
        }
    }

    #[test]
    fn pieces_are_bounded() {
        let mut rewriter = running(10);
        for seq in (0..4000).step_by(2) {
            assert_eq!(forward(&mut rewriter, seq), Some(10 + seq / 2));
            rewriter.skip(SeqNo(BASE + seq + 1));
        }
        assert_eq!(rewriter.pieces().count(), PIECES_MAX);
        assert_eq!(asked(&rewriter, 10 + 1999), Some((LOW, 3998, false)));
        assert_eq!(
            asked(&rewriter, 10 + 2000 - PIECES_MAX as u16),
            Some((LOW, 4000 - 2 * PIECES_MAX as u64, false))
        );
        assert_eq!(asked(&rewriter, 10 + 1999 - PIECES_MAX as u16), None);
        // With pieces of usual length they go with what may be sent again.
        let mut rewriter = running(10);
        for seq in 0..20_000 {
            match seq % 10 {
                0 => rewriter.skip(SeqNo(BASE + seq)),
                _ => assert!(forward(&mut rewriter, seq).is_some()),
            }
        }
        let kept = rewriter.pieces().count();
        assert!(kept <= PIECES_MAX, "{kept}");
    }

    #[derive(Debug, Clone)]
    enum Op {
        Forward(i64),
        Skip(i64),
        Resend(i64),
        Begin(u8, i64),
        Stop,
        Reshape,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            20 => (-8_i64..5).prop_map(Op::Forward),
            1 => prop_oneof![Just(-1030), Just(3000), Just(1024), Just(1023)].prop_map(Op::Forward),
            6 => (-4_i64..4).prop_map(Op::Skip),
            8 => (-12_i64..3).prop_map(Op::Resend),
            1 => (0_u8..4, -3_i64..10).prop_map(|(encoding, step)| Op::Begin(encoding, step)),
            1 => Just(Op::Stop),
            1 => Just(Op::Reshape),
        ]
    }

    proptest! {
        /// Under one number there is one packet of one encoding in one shape, and each packet has one number only,
        /// whatever happens.
        #[test]
        fn a_number_stands_for_one_packet(
            first: u16,
            ops in proptest::collection::vec(op(), 1..400),
        ) {
            let mut rewriter = Rewriter::new(first);
            let mut sent: HashMap<u64, (EncodingIndex, u64, u32)> = HashMap::new();
            let mut taken: HashMap<(EncodingIndex, u64, u32), u64> = HashMap::new();
            let mut highest = [BASE; 4];
            // The shape a number got when it went out, or will get.
            let (mut shape, mut epoch, mut last) = (0_u32, 0_u32, first);
            for op in ops {
                let now = rewriter.encoding();
                let went_out = match op {
                    Op::Forward(step) => now.and_then(|encoding| {
                        let highest = &mut highest[encoding.at()];
                        let seq = (*highest as i64 + step) as u64;
                        *highest = seq.max(*highest);
                        let out = rewriter.forward(SeqNo(seq))?;
                        // One packet of one stay in an encoding never goes out under two numbers.
                        let before = *taken.entry((encoding, seq, epoch)).or_insert(out.0);
                        prop_assert_eq_opt(before, out.0)?;
                        Some((out, encoding, seq))
                    }),
                    Op::Skip(step) => {
                        if let Some(encoding) = now {
                            let highest = &mut highest[encoding.at()];
                            let seq = (*highest as i64 + step) as u64;
                            *highest = seq.max(*highest);
                            rewriter.skip(SeqNo(seq));
                        }
                        None
                    }
                    Op::Resend(back) => {
                        let asked = rewriter.resend(SeqNo16(last.wrapping_add_signed(back as i16)));
                        asked.filter(|asked| !asked.is_first || rewriter.fill(asked))
                            .map(|asked| (asked.out, asked.encoding, asked.seq.0))
                    }
                    Op::Begin(encoding, step) => {
                        let encoding = EncodingIndex(encoding);
                        let highest = &mut highest[encoding.at()];
                        let seq = (*highest as i64 + step) as u64;
                        *highest = seq.max(*highest);
                        epoch += 1;
                        let next = rewriter.sent.next;
                        rewriter.begin(encoding, SeqNo(seq), 0);
                        let out = rewriter.forward(SeqNo(seq));
                        prop_assert_eq!(out, Some(next), "without a gap");
                        Some((next, encoding, seq))
                    }
                    Op::Stop => { rewriter.stop(); shape += 1; None }
                    Op::Reshape => { rewriter.reshape(); shape += 1; None }
                };
                if let Some((out, encoding, seq)) = went_out {
                    last = out.on_wire().0;
                    let known = *sent.entry(out.0).or_insert((encoding, seq, shape));
                    prop_assert_eq!(known, (encoding, seq, shape));
                }
            }
        }
    }

    fn prop_assert_eq_opt(a: u64, b: u64) -> Option<()> {
        assert_eq!(a, b, "two numbers for one packet");
        Some(())
    }
}
