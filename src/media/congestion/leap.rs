//! Raising the estimate without evidence, for a peer to which no padding can be sent: nothing but what it waits for can
//! show whether that fits. What turned out to be too much is not tried again soon.

/// When the estimate may be raised, and how far.
#[derive(Debug)]
pub struct Leaps {
    /// To what the estimate was last raised, as long as it has not fallen again.
    held: Option<f64>,
    next_us: i64,
    /// What was too much, and until when nothing like it is tried.
    too_much: Option<f64>,
    retry_us: i64,
    backoff_us: i64,
}

impl Default for Leaps {
    fn default() -> Self {
        Self {
            held: None,
            next_us: 0,
            too_much: None,
            retry_us: 0,
            backoff_us: BACKOFF_US_MIN,
        }
    }
}

impl Leaps {
    /// The estimate is `estimate`, and more is waited for. Whether to take `wanted` for it from now on; all in bits per
    /// second.
    pub fn may_leap(&mut self, now_us: i64, estimate: f64, wanted: f64) -> bool {
        let is_too_much = self
            .too_much
            .is_some_and(|too_much| now_us < self.retry_us && wanted > too_much * LIKE);
        if now_us < self.next_us || is_too_much || wanted <= estimate {
            return false;
        }
        self.next_us = now_us + STEP_US;
        self.held = Some(wanted);
        true
    }

    /// What the estimate did not stay at, for whatever reason, was too much. True if that has turned out just now.
    pub fn has_failed(&mut self, now_us: i64, estimate: f64) -> bool {
        let Some(held) = self.held.filter(|held| estimate < held * HELD) else {
            return false;
        };
        self.held = None;
        if now_us - self.retry_us > BACKOFF_US_MAX {
            self.backoff_us = BACKOFF_US_MIN;
        }
        self.too_much = Some(held);
        self.retry_us = now_us + self.backoff_us;
        self.backoff_us = (self.backoff_us * 2).min(BACKOFF_US_MAX);
        true
    }
}

/// Three of them reach 2.4 Mbit/s from the start rate, each half a second after the other: feedback on the one is there.
const STEP_US: i64 = 500_000;
const BACKOFF_US_MIN: i64 = 1_000_000;
/// One that is too much fills the path's queue for a moment, and the sound waits with it.
const BACKOFF_US_MAX: i64 = 60_000_000;
/// As much as that share of what was too much may be too much, too.
const LIKE: f64 = 0.9;
/// Below that share of it the estimate has fallen.
const HELD: f64 = 0.9;

#[cfg(test)]
mod tests {
    use super::*;

    /// When it leaps within `seconds`, in s, on a path that carries `capacity` and falls back to `floor` when that was
    /// exceeded.
    fn run(capacity: f64, floor: f64, wanted: f64, seconds: i64) -> Vec<(i64, f64)> {
        let (mut leaps, mut estimate) = (Leaps::default(), floor);
        let mut made = Vec::new();
        for step in 0..seconds * 5 {
            let now_us = step * 200_000;
            if estimate > capacity {
                estimate = floor;
            } else if estimate < wanted {
                let to = (estimate * 2.0).min(wanted);
                leaps.has_failed(now_us, estimate);
                if leaps.may_leap(now_us, estimate, to) {
                    made.push((now_us / 1_000_000, to));
                    estimate = to;
                }
            }
        }
        made
    }

    #[test]
    fn what_fits_is_reached_soon() {
        let made = run(1e9, 3e5, 2.4e6, 60);
        assert_eq!(made, [(0, 6e5), (0, 1.2e6), (1, 2.4e6)]);
    }

    #[test]
    fn what_does_not_is_tried_ever_less_often() {
        // Of each fall several steps lead up again: they do not count as success.
        for floor in [7.5e4, 3e5, 9e5] {
            let made = run(1e6, floor, 1.5e6, 300);
            let failed: Vec<_> = made.iter().filter(|(_, to)| *to > 1e6).collect();
            assert!((5..=12).contains(&failed.len()), "{made:?}");
            let [.., before, last] = failed[..] else {
                unreachable!("there are five")
            };
            assert!(last.0 - before.0 >= 60, "{made:?}");
        }
    }
}
