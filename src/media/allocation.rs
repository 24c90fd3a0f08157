//! How a subscriber's bandwidth is divided among the videos it receives.
//!
//! A pure function: what the network carries, what sound takes, and for each video the layers there are, what they
//! cost as far as they are wanted, and how much it matters; out comes a layer for each (or none) and the reason.
//! [`crate::media::pace`] keeps a subscription from going up and down again, [`crate::media::ladder`] makes the steps.
//! Knows no room, no packet and no clock.
//!
//! The rules, in this order:
//! 1. Sound first: video divides what sound leaves.
//! 2. Everybody gets a lowest layer, by priority, before anybody gets more. A lowest layer above [`THIN_MAX`] (a
//!    publisher without simulcast) is no such modest beginning, and competes under rule 3.
//! 3. What is left raises the videos of the highest priority as far as it goes, then those of the next. Among equals
//!    the cheapest step is taken first, so that all get one size before one gets the next.
//! 4. Nobody gets more than the wanted size and frame rate: what is above is not among the steps.
//! 5. Before a video that has its lowest layer is given up, that must not fit for a while: estimates undershoot when they
//!    fall, and a black picture is worse than a short queue.
//! 6. Where others share the way to this subscriber, it gets no further than to a fair part of that ([`crate::media::fair_share`]), and
//!    what exceeds this is given up when another one has been behind for a while.
//! 7. A step up needs room to spare, and time since the last step (see [`crate::media::pace`]); what no longer fits is given up at
//!    once. Where two want what is enough for one, who has it keeps it.
//!
//! LiveKit's allocator and Jitsi's are the models for rules 2 and 3; the numbers are ours.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::ids::{Bitrate, LayerId};
use crate::base::layer_reason::LayerReason;
use crate::media::fair_share::FairShare;
use crate::media::ladder::Step;

/// One video of a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct VideoDemand<'s> {
    /// What there is, as far as it is wanted: a [`crate::media::ladder`].
    pub steps: &'s [Step],
    /// Why there is nothing above the last step.
    pub top: LayerReason,
    /// 0–100; the higher, the sooner it is served.
    pub priority: u8,
    /// Why it gets nothing whatever there is, if that is so.
    pub off: Option<LayerReason>,
    /// What it was given last.
    pub present: Option<LayerId>,
    /// Whether it may be given more than that: [`crate::media::pace::Pace::may_rise`].
    pub may_rise: bool,
    /// If it may not: below which layer it may all the same ([`crate::media::pace::Pace::rises_below`]).
    pub rises_below: Option<LayerId>,
    /// Whether it may keep its lowest layer although that does not fit: [`crate::media::pace::Pace::may_cling`].
    pub may_cling: bool,
}

/// What there is to divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What the subscriber's network carries; `None` if nothing tells, then there is no limit.
    pub estimate: Option<Bitrate>,
    /// What sound takes of it.
    pub audio: Bitrate,
    /// What is fair, where others share the way to it.
    pub fair: Option<Fair>,
    /// The server cannot take on more work: nobody gets more than a beginning, or what it has.
    pub is_busy: bool,
}

/// What may be used where others share the bottleneck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fair {
    /// Of that, as it is now.
    pub share: FairShare,
    /// Another one was behind for long enough: nobody keeps more than that one gets.
    pub yields: bool,
    /// This one is behind, and may follow without room to spare.
    pub follows: bool,
}

/// What one video gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its layer; `None` if nothing.
    pub layer: Option<LayerId>,
    /// Why that, and not more.
    pub reason: LayerReason,
    /// What it could take without taking from the others; `None` if there is no limit.
    pub available: Option<Bitrate>,
    /// What its layer takes.
    pub bitrate: Bitrate,
    /// What the next better layer would take, if there is one.
    pub next: Option<Bitrate>,
    /// Width and height of its pictures, where known.
    pub size: Option<(u16, u16)>,
    /// It does not fit, and is given up soon if that stays so.
    pub is_clinging: bool,
}

/// Divides `budget`. The result has one share for each demand, in the same order.
#[must_use]
pub fn allocate(budget: &Budget, demands: &[VideoDemand<'_>]) -> Vec<Share> {
    let mut plans: Vec<Plan<'_>> = demands
        .iter()
        .map(|demand| Plan::new(demand, budget.is_busy))
        .collect();
    let mut purse = budget.estimate.map(|estimate| Purse {
        room: estimate.0.saturating_sub(budget.audio.0),
        fair: budget.fair.map(|fair| {
            let least = plans.iter().filter(|plan| plan.limit.is_some());
            let least = least.map(|plan| plan.bitrate(0)).sum();
            FairPurse::new(&fair, budget.audio, least)
        }),
        used: 0,
    });
    match &mut purse {
        // Nothing is risked by rising at once.
        None if !budget.is_busy => plans.iter_mut().for_each(|plan| plan.got = plan.cap),
        None => plans.iter_mut().for_each(|plan| plan.got = plan.limit),
        Some(purse) => {
            give_lowest(&mut plans, purse);
            raise(&mut plans, purse);
        }
    }
    let used = plans.iter().map(Plan::cost).sum();
    let room = purse.map(|purse| purse.available(used));
    plans
        .iter()
        .map(|plan| plan.share(room, used, budget.is_busy))
        .collect()
}

/// What the demands would take if there were no limit: how far it is worth while to probe the network.
#[must_use]
pub fn full_demand(demands: &[VideoDemand<'_>]) -> Bitrate {
    let caps = demands.iter().filter_map(|demand| {
        let cap = cap_of(demand)?;
        Some(demand.steps[cap].bitrate.0)
    });
    Bitrate(caps.sum())
}

/// What one demand is about to get.
struct Plan<'s> {
    demand: &'s VideoDemand<'s>,
    /// The last step; `None` if it is to get nothing.
    cap: Option<usize>,
    /// The last step it may be given now.
    limit: Option<usize>,
    /// The last step that it has already.
    held: Option<usize>,
    got: Option<usize>,
    is_clinging: bool,
}

/// What video may use, and what is used or set aside.
#[derive(Debug, Clone, Copy)]
struct Purse {
    room: u64,
    fair: Option<FairPurse>,
    used: u64,
}

/// What others leave of a purse.
#[derive(Debug, Clone, Copy)]
struct FairPurse {
    /// A fair part.
    room: u64,
    /// What nobody is to go without.
    least: u64,
    /// Who has more than that gives it up.
    held_max: u64,
    /// Nobody gets to more than that.
    new_max: u64,
    /// No room to spare is needed.
    follows: bool,
}

impl FairPurse {
    /// `least` is what nobody is to go without.
    fn new(fair: &Fair, audio: Bitrate, least: u64) -> Self {
        let share = &fair.share;
        let room = |bitrate: Bitrate| bitrate.0.saturating_sub(audio.0).max(least);
        Self {
            room: room(share.bitrate),
            least,
            held_max: share.level.filter(|_| fair.yields).map_or(u64::MAX, room),
            new_max: if share.would_leave_behind {
                least
            } else {
                u64::MAX
            },
            follows: fair.follows,
        }
    }
}

impl<'s> Plan<'s> {
    fn new(demand: &'s VideoDemand<'s>, is_busy: bool) -> Self {
        let cap = cap_of(demand);
        let held = demand.present.and_then(|present| {
            let below = demand.steps.partition_point(|step| step.layer <= present);
            below.checked_sub(1)
        });
        let held = held.min(cap);
        let limit = match (demand.may_rise, is_busy) {
            (true, false) => cap,
            (true, true) => held.or(cap.map(|_| 0)),
            (false, _) => {
                let below = demand.rises_below.filter(|_| !is_busy).and_then(|bound| {
                    let below = demand.steps.partition_point(|step| step.layer < bound);
                    below.checked_sub(1)
                });
                held.max(below.min(cap))
            }
        };
        Self {
            demand,
            cap,
            limit,
            held,
            got: None,
            is_clinging: false,
        }
    }

    fn bitrate(&self, step: usize) -> u64 {
        self.demand.steps[step].bitrate.0
    }

    fn cost(&self) -> u64 {
        self.got.map_or(0, |step| self.bitrate(step))
    }

    fn is_held(&self, step: usize) -> bool {
        self.held.is_some_and(|held| step <= held)
    }

    /// The step that comes next, if it may have one.
    fn next(&self) -> Option<usize> {
        let next = self.got.map_or(0, |step| step + 1);
        self.limit.filter(|limit| next <= *limit).map(|_| next)
    }

    /// Takes a step if there is room for it.
    fn take(&mut self, step: usize, purse: &mut Purse) -> bool {
        let before = self.cost();
        let after = purse.used - before + self.bitrate(step);
        if after > purse.limit(self.is_held(step)) {
            return false;
        }
        purse.used = after;
        self.got = Some(step);
        true
    }

    /// Keeps the lowest step although there is no room for it.
    fn cling(&mut self, is_first: bool, purse: &mut Purse) -> bool {
        let after = purse.used + self.bitrate(0);
        let is_bearable = is_first || after <= purse.room * CLING_FACTOR;
        if !self.demand.may_cling || !self.is_held(0) || !is_bearable {
            return false;
        }
        purse.used = after;
        (self.got, self.is_clinging) = (Some(0), true);
        true
    }

    /// Cheap steps come first, roughly; what somebody has comes before what somebody else would like.
    fn rank(&self, step: usize) -> (u32, bool) {
        let is_held = self.is_held(step);
        let cost = match is_held {
            true => self.bitrate(step) * HELD_PERCENT / 100,
            false => self.bitrate(step),
        };
        (coarse(cost), !is_held)
    }

    fn share(&self, room: Option<u64>, used: u64, is_busy: bool) -> Share {
        let steps = self.demand.steps;
        let next = match self.got {
            Some(step) => step + 1,
            None => 0,
        };
        Share {
            layer: self.got.map(|step| steps[step].layer),
            reason: self.reason(is_busy),
            available: room.map(|room| Bitrate(room.saturating_sub(used - self.cost()))),
            bitrate: Bitrate(self.cost()),
            next: steps.get(next).map(|step| step.bitrate),
            size: self.got.and_then(|step| steps[step].size),
            is_clinging: self.is_clinging,
        }
    }

    fn reason(&self, is_busy: bool) -> LayerReason {
        if let Some(off) = self.demand.off {
            return off;
        }
        if self.cap.is_none() {
            return LayerReason::PublisherMuted;
        }
        if self.got == self.cap {
            return self.demand.top;
        }
        match is_busy && self.got == self.limit {
            true => LayerReason::Cpu,
            false => LayerReason::Bandwidth,
        }
    }
}

impl Purse {
    /// How much may be used in all by who takes a step; the tolerance keeps what one has through noise.
    fn limit(&self, is_held: bool) -> u64 {
        if is_held {
            let most = self.room + self.room / 100 * TOLERANCE_PERCENT;
            return self.fair.map_or(most, |fair| most.min(fair.held_max));
        }
        let spare = |room: u64, percent: u64| room / (100 + percent) * 100;
        match self.fair {
            None => spare(self.room, MARGIN_PERCENT),
            Some(fair) if fair.follows => self.room.min(fair.room).min(fair.new_max),
            Some(fair) => spare(self.room, MARGIN_PERCENT)
                .min(spare(fair.room, FAIR_MARGIN_PERCENT).max(fair.least))
                .min(fair.new_max),
        }
    }

    /// What there is to use, in all.
    fn available(&self, used: u64) -> u64 {
        let fair = self.fair.map_or(u64::MAX, |fair| fair.room.max(used));
        self.room.min(fair)
    }
}

/// Rule 2. What does not fit is set aside all the same: nobody rises while somebody has nothing.
fn give_lowest(plans: &mut [Plan<'_>], purse: &mut Purse) {
    let mut order: Vec<usize> = (0..plans.len())
        .filter(|at| {
            let plan = &plans[*at];
            plan.limit.is_some() && plan.bitrate(0) <= THIN_MAX.0
        })
        .collect();
    order.sort_by_key(|at| {
        let plan = &plans[*at];
        (Reverse(plan.demand.priority), plan.rank(0))
    });
    let mut set_aside = 0;
    for (place, at) in order.into_iter().enumerate() {
        let plan = &mut plans[at];
        if !plan.take(0, purse) && !plan.cling(place == 0, purse) {
            set_aside += plan.bitrate(0);
            // It would jump the queue as soon as the others are served.
            plan.limit = None;
        }
    }
    purse.used += set_aside;
}

/// Rule 3.
fn raise(plans: &mut [Plan<'_>], purse: &mut Purse) {
    let entry = |plan: &Plan<'_>, at: usize| {
        let step = plan.next()?;
        Some((plan.demand.priority, Reverse((plan.rank(step), at))))
    };
    let mut queue: BinaryHeap<_> = plans
        .iter()
        .enumerate()
        .filter_map(|(at, plan)| entry(plan, at))
        .collect();
    while let Some((_, Reverse((_, at)))) = queue.pop() {
        let plan = &mut plans[at];
        if let Some(step) = plan.next()
            && plan.take(step, purse)
        {
            queue.extend(entry(plan, at));
        }
    }
}

/// The last step; `None` if it is to get nothing.
fn cap_of(demand: &VideoDemand<'_>) -> Option<usize> {
    match demand.off {
        Some(_) => None,
        None => demand.steps.len().checked_sub(1),
    }
}

/// Half octaves: what differs by less is the same but for noise.
fn coarse(bitrate: u64) -> u32 {
    match bitrate {
        0 | 1 => 0,
        _ => {
            let octave = bitrate.ilog2();
            2 * octave + ((bitrate >> (octave - 1)) & 1) as u32
        }
    }
}

/// What counts as a modest beginning: the lowest of three layers takes 100–250 kbit/s in browsers.
pub const THIN_MAX: Bitrate = Bitrate(300_000);
/// Room to spare for a step up, in percent: together with [`TOLERANCE_PERCENT`] more than the noise of an estimate that
/// has settled (libwebrtc's moves by about 5 % either way).
const MARGIN_PERCENT: u64 = 15;
/// The same of a fair part: it moves as all the estimates do that it is made of, and all rise at once (lab, 2026-11-23: with 15, a
/// step up every 20 s that was too much, where a part was 12 % more than that took).
const FAIR_MARGIN_PERCENT: u64 = 25;
/// How far what one has may exceed the room, in percent: an encoder's rate over a second moves by as much.
const TOLERANCE_PERCENT: u64 = 5;
/// What one has counts as cheaper, in percent, so that noise does not make two change places.
const HELD_PERCENT: u64 = 65;
/// Who clings may make the whole exceed the room by this factor, but for the first, who always may.
const CLING_FACTOR: u64 = 2;

#[cfg(test)]
mod tests;
