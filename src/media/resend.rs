//! How much one subscription may be sent again, and how often.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::base::growth;
use crate::base::ids::SeqNo;
use crate::media::rewrite::SENT_WINDOW;

/// Bounds retransmissions of one subscription, for each packet and in all: a NACK must not be a
/// lever for traffic.
#[derive(Debug, Default)]
pub struct ResendBudget {
    resent: Option<Box<Ring>>,
    bytes: u64,
}

/// What was sent again of the last numbers; made with the first NACK.
#[derive(Debug)]
struct Ring {
    /// When it was made.
    start: Instant,
    entries: Sparse,
}

/// [`SENT_WINDOW`] entries, of which only those take memory that were written of late: what was sent again before is in
/// no cache any more.
#[derive(Debug, Default)]
struct Sparse(Vec<(u16, Resent)>);

#[derive(Debug, Clone, Copy, Default)]
struct Resent {
    /// Which turn of the ring the count belongs to.
    turn: u32,
    /// When it was last sent again, since the ring was made.
    at: Duration,
    times: u8,
}

/// Why a packet is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotResent {
    /// It was sent again less than a round trip ago: it is under way.
    UnderWay,
    /// It was sent again as often as is allowed, or too much was.
    OverBudget,
}

impl ResendBudget {
    /// When the packet `seq` may be sent again once more: a round trip after the last time. `None` if it was not sent
    /// again. `rtt`: as for [`ResendBudget::take`].
    #[must_use]
    pub fn next_at(&self, rtt: Option<Duration>, seq: SeqNo) -> Option<Instant> {
        let ring = self.resent.as_ref()?;
        let entry = &ring.entries[(seq.0 % SENT_WINDOW) as usize];
        let is_known = entry.turn == (seq.0 / SENT_WINDOW) as u32 && entry.times > 0;
        is_known.then(|| ring.start + entry.at + spacing(rtt))
    }

    /// Takes the packet `seq` of `bytes` for sent again, after `sent_bytes` were sent in all. `rtt`: how
    /// long the receiver needs to ask for it once more, and so the shortest time between two copies.
    ///
    /// # Errors
    /// [`NotResent`] says why it may not.
    pub fn take(
        &mut self,
        now: Instant,
        rtt: Option<Duration>,
        seq: SeqNo,
        bytes: usize,
        sent_bytes: u64,
    ) -> Result<(), NotResent> {
        if self.next_at(rtt, seq).is_some_and(|at| now < at) {
            return Err(NotResent::UnderWay);
        }
        let ring = self.resent.get_or_insert_with(|| Box::new(Ring::new(now)));
        let at = now.saturating_duration_since(ring.start);
        let entry = &mut ring.entries[(seq.0 % SENT_WINDOW) as usize];
        let turn = (seq.0 / SENT_WINDOW) as u32;
        if entry.turn != turn {
            *entry = Resent {
                turn,
                ..Resent::default()
            };
        }
        let after = self.bytes + bytes as u64;
        if entry.times >= TIMES_MAX || after > BYTES_FREE + sent_bytes / SHARE {
            return Err(NotResent::OverBudget);
        }
        (entry.times, entry.at) = (entry.times + 1, at);
        self.bytes = after;
        Ok(())
    }
}

impl Ring {
    fn new(now: Instant) -> Self {
        Self {
            start: now,
            entries: Sparse::default(),
        }
    }
}

/// How far apart a packet is sent again.
fn spacing(rtt: Option<Duration>) -> Duration {
    rtt.unwrap_or_default().max(SPACING_MIN)
}

impl Sparse {
    fn find(&self, at: usize) -> Result<usize, usize> {
        self.0
            .binary_search_by_key(&at, |(index, _)| usize::from(*index))
    }

    /// What is written next makes the list longer: what is of no use any more goes first.
    fn forget_old(&mut self) {
        let latest = self.0.iter().map(|(_, resent)| resent.at).max();
        let latest = latest.unwrap_or_default();
        self.0.retain(|(_, resent)| latest - resent.at <= KEPT);
        if self.0.len() < self.0.capacity() / 2 {
            self.0.shrink_to_fit();
        }
    }
}

impl Index<usize> for Sparse {
    type Output = Resent;

    fn index(&self, at: usize) -> &Resent {
        match self.find(at) {
            Ok(found) => &self.0[found].1,
            Err(_) => &NEVER_RESENT,
        }
    }
}

impl IndexMut<usize> for Sparse {
    fn index_mut(&mut self, at: usize) -> &mut Resent {
        if self.find(at).is_err() {
            if self.0.len() == self.0.capacity() {
                self.forget_old();
            }
            let place = self
                .0
                .partition_point(|(other, _)| usize::from(*other) < at);
            // Below SENT_WINDOW: fits.
            growth::insert(&mut self.0, place, (at as u16, NEVER_RESENT));
        }
        let found = self
            .0
            .partition_point(|(other, _)| usize::from(*other) < at);
        &mut self.0[found].1
    }
}

const NEVER_RESENT: Resent = Resent {
    turn: 0,
    at: Duration::ZERO,
    times: 0,
};
/// How long what was sent again is known: longer than packets are cached.
const KEPT: Duration = Duration::from_secs(3);

/// libwebrtc's receivers ask up to ten times for one packet; what eight copies do not bring across,
/// a keyframe must.
const TIMES_MAX: u8 = 8;
/// Retransmissions are at most one in so many bytes sent: what is left of media at a loss of one third.
const SHARE: u64 = 2;
/// What may be sent again from the start, in bytes: one keyframe.
const BYTES_FREE: u64 = 128 * 1024;

/// Until a round trip is known, and at least: libwebrtc's receivers ask every 20 ms at most, and one asks with an
/// error of a few milliseconds.
const SPACING_MIN: Duration = Duration::from_millis(15);

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1);

    #[test]
    fn each_packet_is_sent_again_a_few_times() {
        let t0 = Instant::now();
        let mut budget = ResendBudget::default();
        let mut take = |i: u32, seq| budget.take(t0 + LONG * i, None, SeqNo(seq), 1, 0);
        let taken = (0..20).filter(|i| take(*i, 5).is_ok()).count();
        assert_eq!(taken, usize::from(TIMES_MAX));
        assert_eq!(take(20, 5), Err(NotResent::OverBudget));
        assert_eq!(take(20, 6), Ok(()));
        assert_eq!(take(20, 5 + SENT_WINDOW), Ok(()), "the ring's next turn");
    }

    #[test]
    fn no_packet_is_sent_again_twice_within_a_round_trip() {
        let t0 = Instant::now();
        let mut budget = ResendBudget::default();
        let rtt = Some(Duration::from_millis(200));
        let cases = [
            (0, None, Ok(())),
            (14, None, Err(NotResent::UnderWay)),
            (15, None, Ok(())),
            (214, rtt, Err(NotResent::UnderWay)),
            (215, rtt, Ok(())),
            (225, Some(Duration::ZERO), Err(NotResent::UnderWay)),
        ];
        for (ms, rtt, expected) in cases {
            let now = t0 + Duration::from_millis(ms);
            assert_eq!(budget.take(now, rtt, SeqNo(5), 1, 0), expected, "{ms}");
        }
    }

    #[test]
    fn memory_is_by_what_is_lost() {
        let t0 = Instant::now();
        let mut budget = ResendBudget::default();
        // 200 packets a second, of which a twentieth is lost, for five minutes.
        for seq in (0..60_000).step_by(20) {
            let now = t0 + Duration::from_millis(5 * seq);
            assert_eq!(budget.take(now, None, SeqNo(seq), 1, 60_000), Ok(()));
            let again = budget.take(now, None, SeqNo(seq), 1, 60_000);
            assert_eq!(again, Err(NotResent::UnderWay));
        }
        let kept = budget.resent.unwrap().entries.0.capacity();
        assert!((20..64).contains(&kept), "{kept}");
    }

    #[test]
    fn all_together_stay_below_their_share_of_what_was_sent() {
        let t0 = Instant::now();
        let mut budget = ResendBudget::default();
        let mut turn = 0;
        let mut take_all = |sent| {
            turn += 1;
            (0..1000)
                .filter(|seq| {
                    let now = t0 + LONG * turn;
                    budget.take(now, None, SeqNo(*seq), 1024, sent).is_ok()
                })
                .count()
        };
        assert_eq!(take_all(0), 128);
        assert_eq!(take_all(20 * 1024), 10);
        assert_eq!(take_all(20 * 1024), 0);
    }
}
