//! A token bucket: how much may come at once and how much in the long run.

use std::time::{Duration, Instant};

/// Holds up to `burst` tokens and gains one every `interval`.
#[derive(Debug, Clone)]
pub struct Bucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    /// Up to when gained tokens have been counted.
    counted: Instant,
}

impl Bucket {
    /// A full bucket. `interval` must not be zero.
    #[must_use]
    pub fn new(now: Instant, burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            tokens: burst,
            counted: now,
        }
    }

    /// Takes `count` tokens (or all a full bucket holds, if that is less); false and unchanged if there
    /// are not as many.
    pub fn take(&mut self, now: Instant, count: u32) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        let gained = passed.as_nanos() / self.interval.as_nanos().max(1);
        if gained >= u128::from(self.burst) {
            self.tokens = self.burst;
            self.counted = now;
        } else if gained > 0 {
            let gained = gained as u32; // Below `burst`.
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
            self.counted += self.interval * gained;
        }
        let count = count.min(self.burst);
        if self.tokens < count {
            return false;
        }
        self.tokens -= count;
        true
    }

    /// Puts `count` tokens back, up to a full bucket.
    pub fn give_back(&mut self, count: u32) {
        self.tokens = self.tokens.saturating_add(count).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        let mut bucket = Bucket::new(t0, 3, ms(100));
        let taken = (0..5).filter(|_| bucket.take(t0, 1)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take(t0 + ms(99), 1));
        assert!(bucket.take(t0 + ms(150), 1));
        // The other 50 ms were not lost.
        assert!(bucket.take(t0 + ms(200), 1));
        assert!(!bucket.take(t0 + ms(299), 1));
        // A pause fills it to the brim, not above.
        assert!(bucket.take(t0 + ms(100_000), 3));
        assert!(!bucket.take(t0 + ms(100_000), 1));
        // More than a full bucket costs a full one.
        assert!(bucket.take(t0 + ms(200_000), 99));
        bucket.give_back(2);
        assert!(bucket.take(t0 + ms(200_000), 2));
        assert!(!bucket.take(t0 + ms(200_000), 1));
    }
}
