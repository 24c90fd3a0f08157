//! Subscribers that share a bottleneck: how that is found out, and what is a fair part of it.
//!
//! Layers are steps. Of two that share a path, one gets the next step first, and the other then finds no room for it; who
//! has the lesser layer fills no queue, so that congestion control alone never takes anything from who has more. The server
//! sends to both, and knows what each gets: once it is known that they share, nobody keeps a layer beyond an equal share while
//! another one wants more.
//!
//! That they share is measured, not guessed (the aim of RFC 8382, by other means): one sends a short burst, and the others'
//! packets either wait with it or do not. What is coupled is not the congestion control (RFC 8699), only what its results
//! are used for.
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
pub struct Strength(Option<Bitrate>);

impl Strength {
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

/// What one subscriber gets, and what it could do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What its layers and its sound take.
    pub bitrate: Bitrate,
    /// It would get more if its network carried that.
    pub is_limited: bool,
    /// It has to wait before it gets more, as more was too much lately.
    pub is_waiting: bool,
}

impl Default for Taken {
    fn default() -> Self {
        Self {
            bitrate: Bitrate(0),
            is_limited: false,
            is_waiting: false,
        }
    }
}

impl Taken {
    /// Whether this is less than another one gets, for who wants more.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        self.is_limited && self.bitrate.0 * 100 < other.bitrate.0 * UNEVEN_BELOW_PERCENT
    }
}

/// One of those that share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharer {
    /// What congestion control allows it.
    pub estimate: Bitrate,
    /// What it gets.
    pub taken: Taken,
}

/// A fair part of what several share, from the point of view of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairShare {
    /// That.
    pub bitrate: Bitrate,
    /// If another one wants more and gets less: what is as much as that one gets, within what is even.
    pub level: Option<Bitrate>,
    /// This one wants more, and another one gets more.
    pub is_behind: bool,
    /// Another one wants more, has no more, and could not follow.
    pub would_leave_behind: bool,
}

/// What is fair for `own`, which shares a bottleneck with `others`.
///
/// What the path carries is what one may send and the others do send; where they do not agree about that, what the least
/// says of those that feel it. Who needs less than an equal share leaves the rest to the others.
#[must_use]
pub fn fair_share(own: Sharer, others: &[Sharer]) -> FairShare {
    let all = || others.iter().chain([&own]);
    let taken: u64 = all().map(|sharer| sharer.taken.bitrate.0).sum();
    let carried = |sharer: &Sharer| taken - sharer.taken.bitrate.0 + sharer.estimate.0;
    let feel_it = others.iter().filter(|other| other.taken.is_limited);
    let carried = feel_it.map(carried).fold(carried(&own), u64::min);
    let mut modest: Vec<u64> = others
        .iter()
        .filter(|other| !other.taken.is_limited)
        .map(|other| other.taken.bitrate.0)
        .collect();
    modest.sort_unstable();
    let (mut left, mut heads) = (carried, others.len() as u64 + 1);
    for needs in modest {
        if needs < left / heads {
            left -= needs;
            heads -= 1;
        }
    }
    FairShare {
        bitrate: Bitrate(left / heads),
        level: others
            .iter()
            .filter(|other| other.taken.is_behind(&own.taken))
            .map(|other| Bitrate(other.taken.bitrate.0 * 100 / UNEVEN_BELOW_PERCENT))
            .min(),
        is_behind: others.iter().any(|other| own.taken.is_behind(&other.taken)),
        would_leave_behind: others.iter().any(|other| {
            let has_more = own.taken.is_behind(&other.taken);
            other.taken.is_limited && other.taken.is_waiting && !has_more
        }),
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
/// What is promised: within 25 % of each other.
const UNEVEN_BELOW_PERCENT: u64 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn sharer(estimate: u64, bitrate: u64, is_limited: bool) -> Sharer {
        let taken = Taken {
            bitrate: Bitrate(bitrate),
            is_limited,
            is_waiting: false,
        };
        Sharer {
            estimate: Bitrate(estimate),
            taken,
        }
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
        let mut strength = Strength::default();
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

    #[test]
    fn a_share_is_fair() {
        // The one has 1330 of 2500, the other 630 and room for 1170.
        let (a, b) = (sharer(1870, 1330, true), sharer(1170, 630, true));
        let fair = fair_share(a, &[b]);
        assert_eq!(fair.bitrate, Bitrate(1250));
        assert_eq!((fair.level, fair.is_behind), (Some(Bitrate(787)), false));
        let fair = fair_share(b, &[a]);
        assert_eq!(fair.bitrate, Bitrate(1250));
        assert_eq!((fair.level, fair.is_behind), (None, true));
        // What the one believes that has less room counts.
        let fair = fair_share(a, &[sharer(900, 630, true)]);
        assert_eq!(fair.bitrate, Bitrate(1115));
        // Who wants no more leaves the rest, whatever its estimate is.
        let modest = sharer(700, 200, false);
        let fair = fair_share(sharer(2300, 630, true), &[modest]);
        assert_eq!(fair.bitrate, Bitrate(2300));
        assert_eq!((fair.level, fair.is_behind), (None, false));
        let fair = fair_share(sharer(2300, 630, true), &[modest, sharer(2300, 630, true)]);
        assert_eq!(fair.bitrate, Bitrate((2300 + 200 + 630 - 200) / 2));
        // Who takes more than an equal share without wanting yet more does not shrink.
        let fair = fair_share(sharer(600, 550, true), &[sharer(2000, 1400, false)]);
        assert_eq!(fair.bitrate, Bitrate(1000));
        assert!(fair.is_behind);
        assert_eq!(fair_share(a, &[]).bitrate, Bitrate(1870));
    }
}
