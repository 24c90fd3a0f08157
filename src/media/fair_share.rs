//! A fair part of what several subscribers share.
//!
//! Layers are steps. Of two that share a path, one gets the next step first, and the other then finds no room for it; who
//! has the lesser layer fills no queue, so that congestion control alone never takes anything from who has more. The server
//! sends to both, and knows what each gets: once it is known that they share (`shared_bottleneck`), nobody keeps a layer beyond
//! an equal share while another one wants more. What is coupled is not the congestion control (RFC 8699), only what its results
//! are used for.
//!
//! Knows no peer, room or clock.

use crate::base::ids::Bitrate;

/// What one subscriber gets, and what it could do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumption {
    /// What its layers and its sound take.
    pub bitrate: Bitrate,
    /// It would get more if its network carried that.
    pub is_limited: bool,
    /// It has to wait before it gets more, as more was too much lately.
    pub is_waiting: bool,
}

impl Default for Consumption {
    fn default() -> Self {
        Self {
            bitrate: Bitrate(0),
            is_limited: false,
            is_waiting: false,
        }
    }
}

impl Consumption {
    /// Whether this is less than another one gets, for who wants more.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        self.is_limited && self.bitrate.0 * 100 < other.bitrate.0 * UNEVEN_BELOW_PERCENT
    }
}

/// What goes to one of the subscribers that share: a flow of their group (RFC 8699).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// What congestion control allows it.
    pub estimate: Bitrate,
    /// What it gets.
    pub consumption: Consumption,
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
pub fn fair_share(own: Flow, others: &[Flow]) -> FairShare {
    let all = || others.iter().chain([&own]);
    let taken: u64 = all().map(|flow| flow.consumption.bitrate.0).sum();
    let carried = |flow: &Flow| taken - flow.consumption.bitrate.0 + flow.estimate.0;
    let feel_it = others.iter().filter(|other| other.consumption.is_limited);
    let carried = feel_it.map(carried).fold(carried(&own), u64::min);
    let mut modest: Vec<u64> = others
        .iter()
        .filter(|other| !other.consumption.is_limited)
        .map(|other| other.consumption.bitrate.0)
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
            .filter(|other| other.consumption.is_behind(&own.consumption))
            .map(|other| Bitrate(other.consumption.bitrate.0 * 100 / UNEVEN_BELOW_PERCENT))
            .min(),
        is_behind: others
            .iter()
            .any(|other| own.consumption.is_behind(&other.consumption)),
        would_leave_behind: others.iter().any(|other| {
            let has_more = own.consumption.is_behind(&other.consumption);
            other.consumption.is_limited && other.consumption.is_waiting && !has_more
        }),
    }
}

/// What is promised: within 25 % of each other.
const UNEVEN_BELOW_PERCENT: u64 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(estimate: u64, bitrate: u64, is_limited: bool) -> Flow {
        let consumption = Consumption {
            bitrate: Bitrate(bitrate),
            is_limited,
            is_waiting: false,
        };
        Flow {
            estimate: Bitrate(estimate),
            consumption,
        }
    }

    #[test]
    fn a_share_is_fair() {
        // The one has 1330 of 2500, the other 630 and room for 1170.
        let (a, b) = (flow(1870, 1330, true), flow(1170, 630, true));
        let fair = fair_share(a, &[b]);
        assert_eq!(fair.bitrate, Bitrate(1250));
        assert_eq!((fair.level, fair.is_behind), (Some(Bitrate(787)), false));
        let fair = fair_share(b, &[a]);
        assert_eq!(fair.bitrate, Bitrate(1250));
        assert_eq!((fair.level, fair.is_behind), (None, true));
        // What the one believes that has less room counts.
        let fair = fair_share(a, &[flow(900, 630, true)]);
        assert_eq!(fair.bitrate, Bitrate(1115));
        // Who wants no more leaves the rest, whatever its estimate is.
        let modest = flow(700, 200, false);
        let fair = fair_share(flow(2300, 630, true), &[modest]);
        assert_eq!(fair.bitrate, Bitrate(2300));
        assert_eq!((fair.level, fair.is_behind), (None, false));
        let fair = fair_share(flow(2300, 630, true), &[modest, flow(2300, 630, true)]);
        assert_eq!(fair.bitrate, Bitrate((2300 + 200 + 630 - 200) / 2));
        // Who takes more than an equal share without wanting yet more does not shrink.
        let fair = fair_share(flow(600, 550, true), &[flow(2000, 1400, false)]);
        assert_eq!(fair.bitrate, Bitrate(1000));
        assert!(fair.is_behind);
        assert_eq!(fair_share(a, &[]).bitrate, Bitrate(1870));
    }
}
