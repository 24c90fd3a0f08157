//! Deadlines. Below `io` nobody reads a clock: `now` is always an argument.

use std::time::{Duration, Instant};

/// The earlier of two optional deadlines; `None` means "no deadline".
#[must_use]
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

/// A repeating deadline that never accumulates missed turns.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    period: Duration,
    next: Instant,
}

impl Interval {
    /// First due one `period` after `now`.
    #[must_use]
    pub fn new(now: Instant, period: Duration) -> Self {
        Self {
            period,
            next: now + period,
        }
    }

    /// When the interval is next due.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether the interval is due at `now`; if so, the next turn is one period after `now`.
    pub fn take_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.period;
        true
    }
}

/// A beat that many share, for what need not be exact: their deadlines fall on the same instants, and a thread that has
/// nothing else to do is woken once for all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beat {
    origin: Option<Instant>,
}

impl Beat {
    /// Begins to count at `now`, if it has not begun.
    pub fn start(&mut self, now: Instant) {
        self.origin.get_or_insert(now);
    }

    /// The first beat that is not before `at`: less than [`BEAT`] later. `at` itself before it has begun.
    #[must_use]
    pub fn not_before(&self, at: Instant) -> Instant {
        let Some(since) = self.origin.and_then(|o| at.checked_duration_since(o)) else {
            return at;
        };
        let over = (since.as_nanos() % BEAT.as_nanos()) as u64;
        match over {
            0 => at,
            over => at + BEAT.saturating_sub(Duration::from_nanos(over)),
        }
    }
}

/// The period of a [`Beat`].
pub const BEAT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_skips_missed_turns() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut interval = Interval::new(t0, second);
        assert!(!interval.take_due(t0));
        assert!(interval.take_due(t0 + 5 * second));
        assert!(!interval.take_due(t0 + 5 * second));
        assert_eq!(interval.deadline(), t0 + 6 * second);
    }

    #[test]
    fn what_need_not_be_exact_falls_on_beats() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut beat = Beat::default();
        assert_eq!(beat.not_before(at(7)), at(7));
        beat.start(at(1000));
        beat.start(at(1050));
        assert_eq!(beat.not_before(at(7)), at(7), "before the first");
        assert_eq!(beat.not_before(at(1000)), at(1000));
        assert_eq!(beat.not_before(at(1001)), at(1100));
        assert_eq!(beat.not_before(at(1099)), at(1100));
        assert_eq!(beat.not_before(at(5100)), at(5100));
    }

    #[test]
    fn earliest_of_none_is_the_other() {
        let t0 = Instant::now();
        assert_eq!(earliest(None, None), None);
        assert_eq!(earliest(Some(t0), None), Some(t0));
        assert_eq!(
            earliest(Some(t0 + Duration::from_secs(1)), Some(t0)),
            Some(t0)
        );
    }
}
