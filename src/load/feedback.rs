//! Transport-wide numbers at a client's end: what its own packets are numbered with, and when the server's arrived
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! A receiver of its own: nothing of the server's congestion control is used here.

use std::time::{Duration, Instant};

use crate::base::ids::{SeqNo16, Ssrc};
use crate::wire::bandwidth::{TICK_US, TICKS_PER_REFERENCE, TransportFeedback};
use crate::wire::extension::ExtensionId;

/// The arrivals that a client has yet to report.
#[derive(Debug, Default)]
pub struct Feedback {
    /// Under which id numbers are, where they were negotiated.
    pub id: Option<ExtensionId>,
    /// Extended numbers, and ticks of 250 µs since the run began.
    fresh: Vec<(u64, i64)>,
    highest: Option<u64>,
    /// The first number that the next message tells of.
    from: Option<u64>,
    count: u8,
    due: Option<Instant>,
}

impl Feedback {
    /// A packet arrived, `since` the run began. True if a report has thereby become due some time.
    pub fn on_packet(&mut self, now: Instant, since: Duration, number: SeqNo16) -> bool {
        let highest = self.highest.unwrap_or(u64::from(number.0) + START);
        let ahead = i64::from(number.0.wrapping_sub(highest as u16) as i16);
        let number = highest.saturating_add_signed(ahead);
        self.highest = Some(highest.max(number));
        if self.fresh.len() < FRESH_MAX {
            self.fresh
                .push((number, since.as_micros() as i64 / TICK_US));
        }
        let was_due = self.due.replace(self.due.unwrap_or(now + INTERVAL));
        was_due.is_none()
    }

    /// When a report is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Appends the report that is due, if one is.
    pub fn write_due(&mut self, now: Instant, sender: Ssrc, media: Ssrc, out: &mut Vec<u8>) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        self.fresh.sort_unstable();
        let (Some(&(first, _)), Some(&(last, _))) = (self.fresh.first(), self.fresh.last()) else {
            return;
        };
        // What is missing in front is told, and what came late once more.
        let from = self.from.map_or(first, |from| from.min(first));
        let from = from.max(last.saturating_sub(SPAN_MAX));
        let told = self.fresh.iter().filter(|(number, _)| *number >= from);
        let Some(origin) = told.clone().map(|(_, ticks)| *ticks).min() else {
            return;
        };
        let reference = origin.div_euclid(TICKS_PER_REFERENCE);
        let mut arrivals = vec![None; (last - from + 1) as usize];
        for (number, ticks) in told {
            arrivals[(number - from) as usize] =
                Some((ticks - reference * TICKS_PER_REFERENCE) as i32);
        }
        let feedback = TransportFeedback {
            sender,
            media,
            base: SeqNo16(from as u16),
            reference: reference as i32,
            count: self.count,
            arrivals,
        };
        feedback.write(out);
        self.count = self.count.wrapping_add(1);
        self.from = Some(last + 1);
        self.fresh.clear();
    }
}

/// As browsers report at a megabit and more.
const INTERVAL: Duration = Duration::from_millis(100);
/// So many arrivals wait at most: 100 ms of 100 Mbit/s. Further ones are told as missing.
const FRESH_MAX: usize = 1024;
/// So many numbers are told of at once.
const SPAN_MAX: u64 = 2 * FRESH_MAX as u64;
/// So that numbers before the first one have a place too.
const START: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn take(feedback: &mut Feedback, now: Instant) -> Option<TransportFeedback> {
        let mut out = Vec::new();
        feedback.write_due(now, Ssrc(1), Ssrc(2), &mut out);
        (!out.is_empty()).then(|| TransportFeedback::parse(&out).unwrap())
    }

    #[test]
    fn arrivals_gaps_and_wraps_are_told_once_due() {
        let zero = Instant::now();
        let ms = Duration::from_millis;
        let mut feedback = Feedback::default();
        for (at, number) in [(1000, 65_534), (1001, 65_535), (1005, 1)] {
            let is_first = feedback.on_packet(zero + ms(at), ms(at), SeqNo16(number));
            assert_eq!(is_first, at == 1000);
        }
        assert_eq!(take(&mut feedback, zero + ms(1099)), None);
        let told = take(&mut feedback, zero + ms(1100)).unwrap();
        assert_eq!((told.base, told.count), (SeqNo16(65_534), 0));
        let origin = told.reference * 256;
        let at = |ms: i32| Some(ms * 4 - origin);
        assert_eq!(told.arrivals, [at(1000), at(1001), None, at(1005)]);
        assert_eq!(feedback.poll_timeout(), None);
        // 2 is missing, 0 comes late.
        for (at, number) in [(1110, 3), (1111, 0)] {
            feedback.on_packet(zero + ms(at), ms(at), SeqNo16(number));
        }
        let told = take(&mut feedback, zero + ms(1300)).unwrap();
        let origin = told.reference * 256;
        let at = |ms: i32| Some(ms * 4 - origin);
        assert_eq!((told.base, told.count), (SeqNo16(0), 1));
        assert_eq!(told.arrivals, [at(1111), None, None, at(1110)]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let zero = Instant::now();
        let mut feedback = Feedback::default();
        for number in 0..60_000_u16 {
            feedback.on_packet(zero, Duration::ZERO, SeqNo16(number.wrapping_mul(7)));
        }
        assert_eq!(feedback.fresh.len(), FRESH_MAX);
        let told = take(&mut feedback, zero + INTERVAL).unwrap();
        assert!(told.arrivals.len() as u64 <= SPAN_MAX + 1);
    }
}
