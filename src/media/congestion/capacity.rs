//! What a path was seen to carry, and whether what a probe shows beyond that is believed.
//!
//! A path that was never full is believed at once. Where it was full, others may send there as well, and a short burst
//! pushes their packets aside: it shows more than would last. So it takes a second burst that says the same, and either far
//! more than was there, or some time since; after each time that this was wrong, twice as much of it.

use crate::media::congestion::probe::ProbeResult;

/// What is known of the capacity of a path, in bits per second.
#[derive(Debug, Default)]
pub struct Capacity {
    /// What arrived when the path was last full, averaged, and when that was.
    full: Option<Full>,
    /// What one probe showed that another one is to confirm.
    shown: Option<Shown>,
    /// How long a path that was full is taken for as full as it was.
    patience_us: i64,
    /// When more than it carried was last believed.
    leapt_us: Option<i64>,
    /// When the first probe showed something.
    begun_us: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Full {
    rate: f64,
    at_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    rate: f64,
    at_us: i64,
}

impl Capacity {
    /// What went through when the path was last full; `None` while it is not known to have been.
    pub fn known(&self) -> Option<f64> {
        self.full.map(|full| full.rate)
    }

    /// The path is full, and this much arrives.
    pub fn on_full(&mut self, now_us: i64, arriving: f64) {
        if let Some(leapt_us) = self.leapt_us.take() {
            self.patience_us = match now_us - leapt_us < LASTING_US {
                true => (self.patience_us * 2).clamp(PATIENCE_US_MIN, PATIENCE_US_MAX),
                false => 0,
            };
        }
        let rate = match self.full {
            // Near what was known: averaged. Else it has changed.
            Some(known) if (arriving / known.rate - 1.0).abs() < BAND => {
                known.rate + GAIN * (arriving - known.rate)
            }
            _ => arriving,
        };
        self.full = Some(Full {
            rate,
            at_us: now_us,
        });
        self.shown = None;
    }

    /// The path carries far less than a moment ago, and only this much: what was believed of it before was right then, and the
    /// next that shows more need not wait for that.
    pub fn on_collapse(&mut self, now_us: i64, carried: f64) {
        (self.leapt_us, self.patience_us, self.shown) = (None, 0, None);
        self.full = Some(Full {
            rate: carried,
            at_us: now_us,
        });
    }

    /// More goes through for a while than it carried: that is not known any more.
    pub fn forget(&mut self) {
        (self.full, self.shown) = (None, None);
    }

    /// A probe showed that more goes through than is sent. Returns what to make of it.
    pub fn weigh(&mut self, now_us: i64, result: &ProbeResult) -> Option<f64> {
        let rate = result.rate;
        // What it carried already needs no proof.
        let begun_us = *self.begun_us.get_or_insert(now_us);
        let carried = self.full.map(|full| full.rate * USABLE);
        match carried {
            Some(carried) if rate <= carried => return Some(rate),
            // What went through as it was sent is one.
            None if !result.is_saturated || now_us - begun_us < BEGINNING_US => {
                return Some(rate);
            }
            _ => {}
        }
        let former = self.shown.replace(Shown {
            rate,
            at_us: now_us,
        });
        let Some(former) = former.filter(|former| now_us - former.at_us < CONFIRM_US_MAX) else {
            return carried;
        };
        let lesser = rate.min(former.rate);
        if !self.is_enough(now_us, lesser) {
            return carried;
        }
        self.leapt_us = Some(now_us);
        self.forget();
        Some(lesser)
    }

    /// What one probe showed and would be believed if another one, just as fast as that, showed it too: that one pushes
    /// less of others' packets aside.
    pub fn unconfirmed(&self, now_us: i64) -> Option<f64> {
        let shown = self.shown?;
        let is_recent = now_us - shown.at_us < CONFIRM_US_MAX;
        (is_recent && self.is_enough(now_us, shown.rate)).then_some(shown.rate)
    }

    fn is_enough(&self, now_us: i64, rate: f64) -> bool {
        self.full
            .is_none_or(|full| rate >= full.rate * LEAP || now_us - full.at_us >= self.patience_us)
    }
}

/// Throughput that differs by less is the same but for the burstiness of what is sent.
const BAND: f64 = 0.15;
const GAIN: f64 = 0.3;
/// Where one other flow sends as much as this one did, a probe at twice the rate gets 4/3 of it through, and 8/5 where
/// that flow uses only half of its share. What is more is room that nobody uses.
const LEAP: f64 = 1.65;
/// At first anything is better than what one begins with, and jitter makes many a probe look as if it had not gone through.
const BEGINNING_US: i64 = 5_000_000;
/// Nothing is to be used to the last.
const USABLE: f64 = 0.97;
/// A probe's feedback comes a round trip later, of up to a second.
const CONFIRM_US_MAX: i64 = 2_500_000;
/// After so long, whoever filled the path may be gone.
const PATIENCE_US_MIN: i64 = 8_000_000;
const PATIENCE_US_MAX: i64 = 120_000_000;
/// More than was known, for so long: it was right to believe that.
const LASTING_US: i64 = 30_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn weigh(capacity: &mut Capacity, now_us: i64, rate: f64) -> Option<f64> {
        let is_saturated = true;
        capacity.weigh(now_us, &ProbeResult { rate, is_saturated })
    }

    #[test]
    fn what_goes_through_as_it_was_sent_is_believed_where_the_path_was_never_full() {
        let mut capacity = Capacity::default();
        let all = ProbeResult {
            rate: 5e6,
            is_saturated: false,
        };
        assert_eq!(capacity.weigh(0, &all), Some(5e6));
        assert_eq!(capacity.unconfirmed(0), None);
        assert_eq!(weigh(&mut capacity, 4 * S, 6e6), Some(6e6), "at first");
        // What did not may have pushed others' packets aside.
        assert_eq!(weigh(&mut capacity, 6 * S, 8e6), None);
        assert_eq!(capacity.unconfirmed(6 * S), Some(8e6));
        assert_eq!(weigh(&mut capacity, 7 * S, 7e6), Some(7e6));
    }

    #[test]
    fn where_it_was_far_more_has_to_go_through_twice() {
        let mut capacity = Capacity::default();
        capacity.on_full(-3, 1e6);
        assert_eq!(weigh(&mut capacity, -2, 1.5e6), Some(1e6 * USABLE));
        assert_eq!(weigh(&mut capacity, -1, 1.5e6), Some(1.5e6));
        // It was not so.
        capacity.on_full(0, 1e6);
        assert_eq!(capacity.known(), Some(1e6));
        assert_eq!(weigh(&mut capacity, S, 0.95e6), Some(0.95e6), "as before");
        // What is left by another flow.
        let carried = Some(0.97e6);
        assert_eq!(weigh(&mut capacity, S, 1.4e6), carried);
        assert_eq!(capacity.unconfirmed(S), None);
        assert_eq!(weigh(&mut capacity, 2 * S, 1.4e6), carried);
        // Its packets were pushed aside once.
        assert_eq!(weigh(&mut capacity, 3 * S, 1.9e6), carried);
        assert_eq!(capacity.unconfirmed(3 * S), Some(1.9e6));
        assert_eq!(weigh(&mut capacity, 3 * S + S / 5, 1.4e6), carried);
        assert_eq!(capacity.unconfirmed(3 * S + S / 5), None);
        // There is room.
        assert_eq!(weigh(&mut capacity, 6 * S, 1.9e6), carried);
        assert_eq!(weigh(&mut capacity, 6 * S + S / 5, 1.8e6), Some(1.8e6));
        assert_eq!(capacity.known(), None);
    }

    #[test]
    fn less_is_believed_too_but_later_after_each_mistake() {
        let mut capacity = Capacity::default();
        let (carried, mut at) = (Some(0.97e6), 0);
        for wait in [0, 8 * S, 16 * S, 32 * S, 64 * S, 120 * S, 120 * S] {
            capacity.on_full(at, 1e6);
            let believed = at + wait.max(2);
            if wait > 0 {
                assert_eq!(weigh(&mut capacity, believed - 2, 1.3e6), carried);
            }
            assert_eq!(weigh(&mut capacity, believed - 1, 1.3e6), carried, "{wait}");
            assert_eq!(weigh(&mut capacity, believed, 1.3e6), Some(1.3e6));
            at = believed + S;
        }
        // It was right for once.
        at += 200 * S;
        capacity.on_full(at, 1.3e6);
        assert_eq!(weigh(&mut capacity, at + 1, 1.5e6), Some(1.3e6 * USABLE));
        assert_eq!(weigh(&mut capacity, at + 2, 1.5e6), Some(1.5e6));
    }

    #[test]
    fn what_it_carries_is_averaged_while_it_changes_little() {
        let mut capacity = Capacity::default();
        capacity.on_full(0, 1e6);
        capacity.on_full(S, 1.1e6);
        let known = capacity.known().unwrap();
        assert!((1.02e6..1.04e6).contains(&known), "{known}");
        capacity.on_full(2 * S, 0.5e6);
        assert_eq!(capacity.known(), Some(0.5e6));
    }

    #[test]
    fn after_a_collapse_nothing_was_a_mistake() {
        let mut capacity = Capacity::default();
        capacity.on_full(0, 1e6);
        assert_eq!(weigh(&mut capacity, S, 3e6), Some(1e6 * USABLE));
        assert_eq!(weigh(&mut capacity, S, 3e6), Some(3e6));
        capacity.on_collapse(2 * S, 3e5);
        assert_eq!(capacity.known(), Some(3e5));
        // It takes two, and no more.
        assert_eq!(weigh(&mut capacity, 3 * S, 4e5), Some(3e5 * USABLE));
        assert_eq!(capacity.unconfirmed(3 * S), Some(4e5));
        assert_eq!(weigh(&mut capacity, 3 * S, 4e5), Some(4e5));
    }
}
