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
