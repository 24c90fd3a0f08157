//! Whether two subscribers share a bottleneck (the aim of RFC 8382, by other means): one sends a short burst, and the other's
//! packets of that moment either wait with it or do not. How strong a burst has to be for that is found by trying.
//!
//! Knows no peer, room or clock.

use std::time::Duration;

use crate::base::ids::Bitrate;

/// Whether two subscribers share a bottleneck, as far as bursts have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    score: i8,
    is_shared: bool,
}

impl Evidence {
    /// While one sent a burst, its packets waited `own` at least, and the other's `other` at least.
    pub fn on_burst(&mut self, own: Duration, other: Duration) {
        if own < QUEUE_MIN {
            return;
        }
        let step = match () {
            () if other >= own.mul_f64(WAITED) => 1,
            () if other <= own.mul_f64(DID_NOT) => -2,
            () => return,
        };
        self.score = (self.score + step).clamp(-SURE, SURE);
        self.is_shared = match self.is_shared {
            true => self.score > UNSURE,
            false => self.score >= BELIEVED,
        };
    }

    /// Whether they are taken to share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether there is enough to go by: what is known is looked at again now and then.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_shared || self.score <= -BELIEVED
    }
}

/// How fast a burst has to be to make a queue that others can be seen in: found by trying, from one that is no faster than a
/// usual probe.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BurstStrength(Option<Bitrate>);

impl BurstStrength {
    /// How fast one is to be that is sent by somebody with this estimate.
    #[must_use]
    pub fn rate(self, estimate: Bitrate) -> Bitrate {
        let usual = Bitrate(estimate.0 * STRENGTH_FIRST);
        // An estimate moves: what made a queue before does so again, as the path is the same.
        self.0.map_or(usual, |rate| {
            rate.clamp(estimate, Bitrate(estimate.0 * STRENGTH_MAX))
        })
    }

    /// A burst at this rate made its own packets wait so long.
    pub fn on_burst(&mut self, rate: Bitrate, own: Duration) {
        let rate = match () {
            () if own < QUEUE_MIN => rate.0 as f64 * STRENGTH_STEP,
            () if own > QUEUE_LONG => rate.0 as f64 / STRENGTH_STEP,
            () => rate.0 as f64,
        };
        self.0 = Some(Bitrate(rate as u64));
    }
}

/// A queue that is longer than jitter is, in wired networks and over Wi-Fi that is not busy.
const QUEUE_MIN: Duration = Duration::from_millis(10);
/// Longer than is needed to see it.
const QUEUE_LONG: Duration = Duration::from_millis(25);
/// Who shares the queue waits as long, but for the moments at which packets come.
const WAITED: f64 = 0.5;
const DID_NOT: f64 = 0.25;
/// So many bursts that agree: another one's own queue falls into one of them now and then.
const BELIEVED: i8 = 3;
/// What was believed is given up when two say the contrary: packets that do not wait are no chance.
const SURE: i8 = 4;
const UNSURE: i8 = 1;
/// A usual probe's, in times the estimate.
const STRENGTH_FIRST: u64 = 2;
const STRENGTH_MAX: u64 = 8;
const STRENGTH_STEP: f64 = 1.4;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn it_takes_several_bursts_to_believe_and_to_doubt() {
        let mut evidence = Evidence::default();
        evidence.on_burst(ms(5), ms(5));
        assert_eq!(evidence, Evidence::default(), "no queue was made");
        evidence.on_burst(ms(20), ms(7));
        assert_eq!(evidence, Evidence::default(), "neither");
        for n in 1..=5 {
            evidence.on_burst(ms(20), ms(12));
            assert_eq!(evidence.is_shared(), n >= 3, "{n}");
        }
        for n in 1..=3 {
            evidence.on_burst(ms(20), ms(2));
            assert_eq!(evidence.is_shared(), n < 2, "{n}");
        }
        assert!(!evidence.is_settled());
        evidence.on_burst(ms(20), ms(2));
        assert!(evidence.is_settled() && !evidence.is_shared());
        // One that waits by chance now and then.
        let mut evidence = Evidence::default();
        for n in 0..60 {
            evidence.on_burst(ms(20), if n % 2 == 0 { ms(20) } else { ms(0) });
            assert!(!evidence.is_shared());
        }
    }

    #[test]
    fn bursts_get_as_strong_as_they_need_to_be() {
        let estimate = Bitrate(1_000_000);
        let mut strength = BurstStrength::default();
        let mut burst = |estimate, own| {
            let rate = strength.rate(estimate);
            strength.on_burst(rate, own);
            rate.0
        };
        assert_eq!(burst(estimate, ms(3)), 2_000_000);
        assert_eq!(burst(estimate, ms(15)), 2_800_000);
        assert_eq!(burst(Bitrate(1_500_000), ms(15)), 2_800_000);
        (0..20).for_each(|_| _ = burst(estimate, ms(0)));
        assert_eq!(burst(estimate, ms(60)), 8_000_000);
        assert_eq!(burst(estimate, ms(60)), 5_714_285);
        (0..20).for_each(|_| _ = burst(estimate, ms(60)));
        assert_eq!(burst(estimate, ms(60)), 1_000_000);
    }
}
