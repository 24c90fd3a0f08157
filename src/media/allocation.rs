//! How a subscriber's bandwidth is divided among the videos it receives.
//!
//! A pure function: what the network carries, what sound takes, and for each video the layers there are, what they
//! cost, how large the client shows it and how much it matters; out comes a layer for each (or none) and the reason.
//! [`Pace`] keeps a subscription from going up and down again. Knows no room, no packet and no clock.
//!
//! The rules, in this order:
//! 1. Sound first: video divides what sound leaves.
//! 2. Everybody gets a lowest layer, by priority, before anybody gets more. A lowest layer above [`THIN_MAX`] (a
//!    publisher without simulcast) is no such modest beginning, and competes under rule 3.
//! 3. What is left raises the videos of the highest priority as far as it goes, then those of the next. Among equals
//!    the cheapest step is taken first, so that all get one size before one gets the next.
//! 4. Nobody gets more than the wanted size and frame rate.
//! 5. Before a video that has its lowest layer is given up, that must not fit for a while: estimates undershoot when they
//!    fall, and a black picture is worse than a short queue.
//! 6. A step up needs room to spare, and time since the last step (see [`Pace`]); what no longer fits is given up at
//!    once. Where two want what is enough for one, who has it keeps it.
//!
//! LiveKit's allocator and Jitsi's are the models for rules 2 and 3; the numbers are ours.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, LayerId};
use crate::base::layer_reason::LayerReason;

/// One layer a subscriber could be given, with all it needs below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub layer: LayerId,
    /// What it takes.
    pub bitrate: Bitrate,
    /// Width and height of its pictures, where known.
    pub size: Option<(u16, u16)>,
    /// Its pictures in a second, where known.
    pub frames_per_second: Option<u16>,
}

/// What a client wants of a video at most. The default is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// How wide it is shown, in pixels.
    pub width: Option<u16>,
    /// How high it is shown, in pixels.
    pub height: Option<u16>,
    /// Pictures in a second that are of use.
    pub frames_per_second: Option<u16>,
}

/// One video of a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct VideoDemand<'s> {
    /// What there is: a [`ladder`].
    pub steps: &'s [Step],
    /// Why there is nothing above the last step.
    pub top: LayerReason,
    /// What the client wants of it.
    pub wanted: Wanted,
    /// 0–100; the higher, the sooner it is served.
    pub priority: u8,
    /// Why it gets nothing whatever there is, if that is so.
    pub off: Option<LayerReason>,
    /// What it was given last.
    pub present: Option<LayerId>,
    /// Whether it may be given more than that: [`Pace::may_rise`].
    pub may_rise: bool,
    /// If it may not: below which layer it may all the same ([`Pace::rises_below`]).
    pub rises_below: Option<LayerId>,
    /// Whether it may keep its lowest layer although that does not fit: [`Pace::may_cling`].
    pub may_cling: bool,
}

/// What there is to divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What the subscriber's network carries; `None` if nothing tells, then there is no limit.
    pub estimate: Option<Bitrate>,
    /// What sound takes of it.
    pub audio: Bitrate,
    /// The server cannot take on more work: nobody gets more than a beginning, or what it has.
    pub is_busy: bool,
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
    let room = purse.map(|purse| purse.room);
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

/// Makes a ladder of what a track offers: from low to high, each step dearer than the one before. A layer that costs no
/// less than a better one is left out, and so is a larger picture that hardly moves where a smaller one does.
pub fn ladder(steps: &mut Vec<Step>) {
    steps.sort_unstable_by_key(|step| step.layer);
    steps.dedup_by_key(|step| step.layer);
    let mut fastest = 0;
    steps.retain(|step| {
        let rate = step.frames_per_second.unwrap_or(0);
        let stutters = rate > 0 && rate < STUTTER_BELOW && 2 * rate <= fastest;
        fastest = fastest.max(rate);
        !stutters
    });
    // From the top: what is not cheaper than something better goes.
    let mut cheapest = u64::MAX;
    let mut keep = vec![false; steps.len()];
    for (at, step) in steps.iter().enumerate().rev() {
        keep[at] = step.bitrate.0 < cheapest;
        cheapest = cheapest.min(step.bitrate.0);
    }
    let mut at = 0;
    steps.retain(|_| {
        at += 1;
        keep[at - 1]
    });
}

/// What one demand is about to get.
struct Plan<'s> {
    demand: &'s VideoDemand<'s>,
    /// The last step that is of use; `None` if it is to get nothing.
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
    used: u64,
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
        let Some(cap) = self.cap else {
            return LayerReason::PublisherMuted;
        };
        if self.got == Some(cap) {
            return match cap + 1 == self.demand.steps.len() {
                true => self.demand.top,
                false => LayerReason::Wanted,
            };
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
        match is_held {
            true => self.room + self.room / 100 * TOLERANCE_PERCENT,
            false => self.room / (100 + MARGIN_PERCENT) * 100,
        }
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

/// The last step that is of use to a demand; `None` if it is to get nothing.
#[must_use]
pub fn cap_of(demand: &VideoDemand<'_>) -> Option<usize> {
    let steps = demand.steps;
    if demand.off.is_some() || steps.is_empty() {
        return None;
    }
    let wanted = &demand.wanted;
    let of_size = match steps.iter().position(|step| covers(wanted, step.size)) {
        // All steps of that size: they differ in frame rate only.
        Some(first) => {
            let is_same = |step: &Step| {
                let (layer, with) = (step.layer, steps[first].layer);
                (layer.encoding, layer.spatial) == (with.encoding, with.spatial)
            };
            first + steps[first..].iter().take_while(|s| is_same(s)).count() - 1
        }
        None => steps.len() - 1,
    };
    let Some(max) = wanted.frames_per_second else {
        return Some(of_size);
    };
    let top = steps[of_size].layer;
    let is_slow_enough = |step: &Step| {
        let rate = step.frames_per_second.map(u32::from);
        rate.is_none_or(|rate| rate * 10 <= u32::from(max) * 11)
    };
    let slower = steps[..=of_size].iter().rposition(|step| {
        let layer = step.layer;
        (layer.encoding, layer.spatial) == (top.encoding, top.spatial) && is_slow_enough(step)
    });
    // Even the slowest of that size is too fast: it is the best that can be done.
    let slowest = || {
        steps[..=of_size].iter().position(|step| {
            (step.layer.encoding, step.layer.spatial) == (top.encoding, top.spatial)
        })
    };
    slower.or_else(slowest)
}

/// Whether pictures of that size need not be enlarged (much) to be shown whole in the wanted frame: then one side
/// fills it.
fn covers(wanted: &Wanted, size: Option<(u16, u16)>) -> bool {
    let Some((width, height)) = size else {
        return false;
    };
    let fills = |has: u16, wanted: Option<u16>| {
        wanted.is_some_and(|wanted| u32::from(has) * 10 >= u32::from(wanted) * 9)
    };
    fills(width, wanted.width) || fills(height, wanted.height)
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

/// When a subscription may be given more than it has: some time after it was last given more, and longer after more was
/// too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// When it last rose.
    rose_at: Option<Instant>,
    /// It does not rise before.
    rise_at: Option<Instant>,
    /// What was too much, and since when that is known.
    failed: Option<(LayerId, Instant)>,
    /// How long it waits after the next fall.
    backoff: Duration,
    /// It has lost everything since it last proved right.
    was_dark: bool,
    /// Since when it has its lowest layer although that does not fit.
    clings_since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rose_at: None,
            rise_at: None,
            failed: None,
            backoff: BACKOFF_MIN,
            was_dark: false,
            clings_since: None,
        }
    }
}

impl Pace {
    /// Whether it may be given more.
    #[must_use]
    pub fn may_rise(&self, now: Instant) -> bool {
        self.rise_at.is_none_or(|at| now >= at)
    }

    /// Below which layer it may be given more although it has to wait for that one: what a step too far has cost besides.
    #[must_use]
    pub fn rises_below(&self, now: Instant) -> Option<LayerId> {
        let (layer, at) = self.failed?;
        (now.saturating_duration_since(at) >= REGAIN_AFTER).then_some(layer)
    }

    /// Whether it may keep its lowest layer although that does not fit.
    #[must_use]
    pub fn may_cling(&self, now: Instant) -> bool {
        let since = self.clings_since;
        since.is_none_or(|since| now.saturating_duration_since(since) < CLING_FOR)
    }

    /// When it may be given more, if it has to wait for that.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let regains_at = self.failed.map(|(_, at)| at + REGAIN_AFTER);
        let times = [self.rise_at, regains_at].into_iter().flatten();
        times.filter(|at| *at > now).min()
    }

    /// It was given `share`, and had `before`.
    pub fn on_share(&mut self, now: Instant, before: Option<LayerId>, share: &Share) {
        match share.is_clinging {
            true => _ = self.clings_since.get_or_insert(now),
            // What was given up must not cling to the next beginning either, until it fits.
            false if share.layer.is_some() => self.clings_since = None,
            false => {}
        }
        if share.layer > before {
            self.rose_at = Some(now);
            let next = now + RISE_INTERVAL;
            self.rise_at = Some(self.rise_at.map_or(next, |at| at.max(next)));
            return;
        }
        let rose_at = self.rose_at;
        let has_proved = |at: Instant| now.saturating_duration_since(at) >= PROVED_AFTER;
        // What lasts below the layer that was too much says nothing of that one.
        let is_regained = self
            .failed
            .is_none_or(|(layer, _)| share.layer >= Some(layer));
        if rose_at.is_some_and(has_proved) && is_regained {
            (self.rose_at, self.backoff, self.was_dark) = (None, BACKOFF_MIN, false);
            self.failed = None;
        }
        if share.layer < before && share.reason == LayerReason::Bandwidth {
            // The lowest encoding is not given back sooner than its own pace says.
            let blamed = before.filter(|before| before.encoding.0 > 0);
            self.failed = blamed.map(|before| self.blame(now, before)).or(self.failed);
            if self.rose_at.take().is_some() {
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
            // Who gets nothing at all waits shorter, once: a black picture is worse than a step that is taken back.
            let goes_dark = share.layer.is_none();
            let is_first = goes_dark && !std::mem::replace(&mut self.was_dark, goes_dark);
            self.rise_at = Some(now + if is_first { RESUME_AFTER } else { self.backoff });
        }
    }

    /// The encoding that was too much; in falls that follow each other, the first.
    fn blame(&self, now: Instant, before: LayerId) -> (LayerId, Instant) {
        let layer = LayerId {
            spatial: 0,
            temporal: 0,
            ..before
        };
        match self.failed {
            Some((known, at)) if now.saturating_duration_since(at) < REGAIN_AFTER => {
                (known.max(layer), now)
            }
            _ => (layer, now),
        }
    }

    /// The client wants something else, or the source is another: what was learned is void.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What counts as a modest beginning: the lowest of three layers takes 100–250 kbit/s in browsers.
pub const THIN_MAX: Bitrate = Bitrate(300_000);
/// Room to spare for a step up, in percent: together with [`TOLERANCE_PERCENT`] more than the noise of an estimate that
/// has settled (libwebrtc's moves by about 5 % either way).
const MARGIN_PERCENT: u64 = 15;
/// How far what one has may exceed the room, in percent: an encoder's rate over a second moves by as much.
const TOLERANCE_PERCENT: u64 = 5;
/// What one has counts as cheaper, in percent, so that noise does not make two change places.
const HELD_PERCENT: u64 = 65;
/// Fewer pictures a second than this stutter.
const STUTTER_BELOW: u16 = 10;
/// Between two steps up: a keyframe, and time for the estimate to follow.
const RISE_INTERVAL: Duration = Duration::from_secs(1);
/// A step up that lasted so long was right.
const PROVED_AFTER: Duration = Duration::from_secs(8);
/// After a fall: the queue has drained and the estimate says something again.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// After everything had to be given up for the first time: a round trip or two.
const RESUME_AFTER: Duration = Duration::from_millis(400);
/// How long the lowest layer is kept although it does not fit: as long as an estimate that undershot takes to recover.
const CLING_FOR: Duration = Duration::from_secs(1);
/// Who clings may make the whole exceed the room by this factor, but for the first, who always may.
const CLING_FACTOR: u64 = 2;
/// What a step too far has cost besides itself is given back after so long: a second or two is what draining takes.
const REGAIN_AFTER: Duration = Duration::from_secs(2);
/// However often a step up was too much, it is tried again after this long.
const BACKOFF_MAX: Duration = Duration::from_secs(16);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::EncodingIndex;

    fn layer(encoding: u8, temporal: u8) -> LayerId {
        LayerId {
            encoding: EncodingIndex(encoding),
            spatial: 0,
            temporal,
        }
    }

    fn step(encoding: u8, temporal: u8, kbits: u64, width: u16, rate: u16) -> Step {
        Step {
            layer: layer(encoding, temporal),
            bitrate: Bitrate(kbits * 1000),
            size: Some((width, width / 16 * 9)),
            frames_per_second: Some(rate),
        }
    }

    /// What Chromium sends of a 720p camera.
    fn simulcast() -> Vec<Step> {
        vec![
            step(0, 0, 150, 320, 30),
            step(1, 0, 500, 640, 30),
            step(2, 0, 1500, 1280, 30),
        ]
    }

    fn demand(steps: &[Step]) -> VideoDemand<'_> {
        VideoDemand {
            steps,
            top: LayerReason::Best,
            wanted: Wanted::default(),
            priority: 50,
            off: None,
            present: None,
            may_rise: true,
            rises_below: None,
            may_cling: false,
        }
    }

    fn budget(kbits: u64) -> Budget {
        Budget {
            estimate: Some(Bitrate(kbits * 1000)),
            audio: Bitrate(0),
            is_busy: false,
        }
    }

    /// The encodings given, -1 for none.
    fn given(budget: &Budget, demands: &[VideoDemand<'_>]) -> Vec<i8> {
        let encoding = |share: Share| share.layer.map_or(-1, |layer| layer.encoding.0 as i8);
        let shares = allocate(budget, demands);
        shares.into_iter().map(encoding).collect()
    }

    #[test]
    fn one_video_takes_the_best_that_fits_with_room_to_spare() {
        let steps = simulcast();
        let cases = [
            (100, -1),
            (160, -1),
            (180, 0),
            (560, 0),
            (580, 1),
            (1700, 1),
            (1730, 2),
            (9000, 2),
        ];
        for (kbits, expected) in cases {
            assert_eq!(
                given(&budget(kbits), &[demand(&steps)]),
                [expected],
                "{kbits}"
            );
        }
        let unlimited = Budget {
            estimate: None,
            ..budget(0)
        };
        assert_eq!(given(&unlimited, &[demand(&steps)]), [2]);
        assert_eq!(allocate(&unlimited, &[demand(&steps)])[0].available, None);
    }

    #[test]
    fn the_numbers_say_what_is_there_and_what_the_next_layer_needs() {
        let steps = simulcast();
        let mut budget = budget(400);
        budget.audio = Bitrate(40_000);
        let shares = allocate(&budget, &[demand(&steps), demand(&steps)]);
        let first = shares[0];
        assert_eq!(first.reason, LayerReason::Bandwidth);
        assert_eq!(
            first.available,
            Some(Bitrate(210_000)),
            "360 but for the other 150"
        );
        assert_eq!(first.bitrate, Bitrate(150_000));
        assert_eq!(first.next, Some(Bitrate(500_000)));
        assert_eq!(first.size, Some((320, 180)));
        // Sound leaves nothing: video pauses, and says so.
        budget.audio = Bitrate(380_000);
        let starved = allocate(&budget, &[demand(&steps)])[0];
        assert_eq!(
            (starved.layer, starved.reason),
            (None, LayerReason::Bandwidth)
        );
        assert_eq!(starved.next, Some(Bitrate(150_000)));
    }

    #[test]
    fn everybody_gets_a_beginning_before_anybody_gets_more() {
        let steps = simulcast();
        let mut demands = [demand(&steps); 4];
        demands[2].priority = 90;
        // The first to get one is the most important; then the order of the list.
        assert_eq!(given(&budget(200), &demands), [-1, -1, 0, -1]);
        assert_eq!(given(&budget(360), &demands), [0, -1, 0, -1]);
        // Nobody rises while somebody has nothing.
        assert_eq!(given(&budget(680), &demands), [0, 0, 0, -1]);
        assert_eq!(given(&budget(700), &demands), [0, 0, 0, 0]);
        // 600 for all, the rest for the most important: 350 and then 1000 more.
        assert_eq!(given(&budget(1100), &demands), [0, 0, 1, 0]);
        assert_eq!(given(&budget(2250), &demands), [0, 0, 2, 0]);
        // Then the others, together.
        assert_eq!(given(&budget(2700), &demands), [1, 0, 2, 0]);
        assert_eq!(given(&budget(3500), &demands), [1, 1, 2, 1]);
    }

    #[test]
    fn a_publisher_without_simulcast_competes_with_the_steps_of_others() {
        let steps = simulcast();
        let single = [step(0, 0, 1200, 1280, 30)];
        let demands = [demand(&single), demand(&steps), demand(&steps)];
        assert_eq!(given(&budget(400), &demands), [-1, 0, 0]);
        assert_eq!(given(&budget(1300), &demands), [-1, 1, 1]);
        assert_eq!(given(&budget(2600), &demands), [0, 1, 1]);
        // But not with those of a lower priority.
        let mut demands = demands;
        demands[0].priority = 80;
        assert_eq!(given(&budget(1750), &demands), [0, 0, 0]);
    }

    #[test]
    fn the_wanted_size_and_frame_rate_cap() {
        let mut steps = simulcast();
        steps.insert(1, step(0, 1, 200, 320, 30));
        steps[0].frames_per_second = Some(15);
        let cases = [
            ((None, None, None), layer(2, 0)),
            // All frame rates of the size; it may be a tenth larger than the pictures.
            ((Some(320), Some(180), None), layer(0, 1)),
            ((Some(350), Some(197), None), layer(0, 1)),
            ((Some(360), Some(203), None), layer(1, 0)),
            ((Some(1), None, None), layer(0, 1)),
            ((None, Some(720), None), layer(2, 0)),
            ((Some(4000), Some(2000), None), layer(2, 0)),
            // One side fills the frame: the other has bars.
            ((Some(300), Some(600), None), layer(0, 1)),
            ((Some(320), None, Some(20)), layer(0, 0)),
            ((Some(320), None, Some(1)), layer(0, 0)),
            ((None, None, Some(20)), layer(2, 0)),
        ];
        let unlimited = Budget {
            estimate: None,
            ..budget(0)
        };
        for ((width, height, frames_per_second), expected) in cases {
            let mut demand = demand(&steps);
            demand.wanted = Wanted {
                width,
                height,
                frames_per_second,
            };
            let share = allocate(&unlimited, &[demand])[0];
            assert_eq!(share.layer, Some(expected), "{:?}", demand.wanted);
            let is_top = expected == layer(2, 0);
            let reason = match is_top {
                true => LayerReason::Best,
                false => LayerReason::Wanted,
            };
            assert_eq!(share.reason, reason, "{:?}", demand.wanted);
        }
    }

    #[test]
    fn reasons_other_than_bandwidth() {
        let steps = simulcast();
        let reason = |change: &dyn Fn(&mut VideoDemand<'_>)| {
            let mut demand = demand(&steps);
            change(&mut demand);
            let share = allocate(&budget(9000), &[demand])[0];
            (share.layer.is_some(), share.reason)
        };
        for off in [
            LayerReason::Paused,
            LayerReason::LastN,
            LayerReason::PublisherMuted,
        ] {
            assert_eq!(reason(&|d| d.off = Some(off)), (false, off));
        }
        assert_eq!(
            reason(&|d| d.steps = &[]),
            (false, LayerReason::PublisherMuted)
        );
        assert_eq!(
            reason(&|d| d.top = LayerReason::NotSent),
            (true, LayerReason::NotSent)
        );
        let busy = Budget {
            is_busy: true,
            ..budget(9000)
        };
        let mut holder = demand(&steps);
        holder.present = Some(layer(1, 0));
        let shares = allocate(&busy, &[demand(&steps), holder]);
        assert_eq!(shares[0].layer, Some(layer(0, 0)));
        assert_eq!(shares[1].layer, Some(layer(1, 0)));
        assert!(shares.iter().all(|share| share.reason == LayerReason::Cpu));
    }

    #[test]
    fn a_ladder_has_only_steps_that_are_worth_their_price() {
        let mut steps = vec![
            step(1, 1, 600, 640, 30),
            step(0, 0, 100, 320, 8),
            step(0, 1, 150, 320, 15),
            step(0, 2, 200, 320, 30),
            // A larger picture at a quarter of the rate.
            step(1, 0, 300, 640, 8),
            // Costs more than the next better one.
            step(2, 0, 1600, 1280, 30),
            step(2, 1, 1500, 1280, 30),
        ];
        ladder(&mut steps);
        let layers: Vec<_> = steps.iter().map(|step| step.layer).collect();
        let expected = [(0, 0), (0, 1), (0, 2), (1, 1), (2, 1)].map(|(e, t)| layer(e, t));
        assert_eq!(layers, expected);
    }

    /// The room's part in a test: keeps what each has, and its pace.
    struct Subscriber<'s> {
        demands: Vec<VideoDemand<'s>>,
        paces: Vec<Pace>,
        changes: usize,
    }

    impl<'s> Subscriber<'s> {
        fn new(demands: Vec<VideoDemand<'s>>) -> Self {
            Self {
                paces: vec![Pace::default(); demands.len()],
                demands,
                changes: 0,
            }
        }

        fn allocate(&mut self, now: Instant, budget: &Budget) -> Vec<Share> {
            for (demand, pace) in self.demands.iter_mut().zip(&self.paces) {
                demand.may_rise = pace.may_rise(now);
                demand.rises_below = pace.rises_below(now);
                demand.may_cling = pace.may_cling(now);
            }
            let shares = allocate(budget, &self.demands);
            for (at, share) in shares.iter().enumerate() {
                let demand = &mut self.demands[at];
                self.paces[at].on_share(now, demand.present, share);
                self.changes += usize::from(demand.present != share.layer);
                demand.present = share.layer;
            }
            shares
        }
    }

    #[test]
    fn a_squeeze_steps_down_at_once_and_its_end_steps_up_soon() {
        let t0 = Instant::now();
        let ms = |ms| t0 + Duration::from_millis(ms);
        let steps = simulcast();
        let mut subscriber = Subscriber::new(vec![demand(&steps)]);
        let layer_at = |s: &mut Subscriber<'_>, at, kbits| {
            s.allocate(ms(at), &budget(kbits))[0]
                .layer
                .map(|l| l.encoding.0)
        };
        assert_eq!(layer_at(&mut subscriber, 0, 3000), Some(2));
        assert_eq!(layer_at(&mut subscriber, 400, 300), Some(0));
        // A rise that failed: four seconds; what is below it comes back sooner.
        assert_eq!(layer_at(&mut subscriber, 2_300, 3000), Some(0));
        assert_eq!(layer_at(&mut subscriber, 2_500, 3000), Some(1));
        assert_eq!(layer_at(&mut subscriber, 4_200, 3000), Some(1));
        assert_eq!(layer_at(&mut subscriber, 4_500, 3000), Some(2));
        // One that lasted is forgotten: two seconds.
        assert_eq!(layer_at(&mut subscriber, 15_000, 3000), Some(2));
        assert_eq!(layer_at(&mut subscriber, 15_200, 300), Some(0));
        assert_eq!(layer_at(&mut subscriber, 17_300, 3000), Some(2));
        // What fails again and again is tried less and less often.
        let mut rises = 0;
        for at in (18_000..200_000).step_by(200) {
            let before = subscriber.demands[0].present;
            let kbits = match before {
                Some(top) if top.encoding.0 == 2 => 300,
                _ => 3000,
            };
            layer_at(&mut subscriber, at, kbits);
            rises += usize::from(subscriber.demands[0].present > before);
        }
        // Two steps each time.
        assert!((16..=28).contains(&rises), "{rises}");
    }

    #[test]
    fn a_short_undershoot_gives_nothing_up() {
        let t0 = Instant::now();
        let steps = simulcast();
        let mut subscriber = Subscriber::new(vec![demand(&steps); 3]);
        let mut at = |ms, kbits| -> Vec<i8> {
            let now = t0 + Duration::from_millis(ms);
            let shares = subscriber.allocate(now, &budget(kbits));
            let of = |share: Share| share.layer.map_or(-1, |layer| layer.encoding.0 as i8);
            shares.into_iter().map(of).collect()
        };
        assert_eq!(at(0, 2_000), [1, 1, 1]);
        // A moment at a fifth of what two of them need: the first keeps something.
        assert_eq!(at(1_000, 70), [0, -1, -1]);
        assert_eq!(at(1_600, 400), [0, 0, -1]);
        assert_eq!(at(9_000, 250), [0, 0, -1], "twice as much is bearable");
        assert_eq!(at(9_900, 250), [0, 0, -1]);
        assert_eq!(at(10_000, 250), [0, -1, -1], "not for long");
        assert_eq!(at(10_200, 70), [0, -1, -1]);
        assert_eq!(at(11_200, 70), [-1, -1, -1]);
        assert_eq!(at(11_400, 70), [-1, -1, -1]);
        assert_eq!(at(11_700, 400), [0, 0, -1], "soon again");
    }

    #[test]
    fn noise_makes_nothing_flap() {
        let t0 = Instant::now();
        let steps = simulcast();
        // Every budget: those where something nearly fits are the hard ones.
        for kbits in (100..4_000).step_by(10) {
            let mut subscriber = Subscriber::new(vec![demand(&steps); 3]);
            subscriber.allocate(t0, &budget(kbits));
            for turn in 1..40 {
                subscriber.allocate(t0 + Duration::from_secs(turn), &budget(kbits));
            }
            subscriber.changes = 0;
            for turn in 40..240_u64 {
                // From -5 to +5 %, in no order.
                let noise = 950 + turn * 7_919 % 101;
                let budget = budget(kbits * noise / 1000);
                subscriber.allocate(t0 + Duration::from_secs(turn), &budget);
            }
            // Settling may use the best moment to rise, once each.
            assert!(subscriber.changes <= 3, "{kbits}: {}", subscriber.changes);
        }
    }

    #[test]
    fn a_turn_that_takes_the_place_of_another_waits_for_its_pace() {
        let t0 = Instant::now();
        let steps = simulcast();
        let mut subscriber = Subscriber::new(vec![demand(&steps); 2]);
        let got = |shares: Vec<Share>| -> Vec<u8> {
            let encoding = |s: &Share| s.layer.expect("fits").encoding.0;
            shares.iter().map(encoding).collect()
        };
        // Enough for two of the lowest and one of the next: whoever has it keeps it.
        assert_eq!(got(subscriber.allocate(t0, &budget(800))), [1, 0]);
        for second in 1..30 {
            let shares = subscriber.allocate(t0 + Duration::from_secs(second), &budget(800));
            assert_eq!(got(shares), [1, 0]);
        }
        // The other is pinned.
        subscriber.demands[1].priority = 100;
        subscriber.paces[1].reset();
        let shares = subscriber.allocate(t0 + Duration::from_secs(30), &budget(800));
        assert_eq!(got(shares), [0, 1]);
    }

    /// A publisher: its lowest layer, and by how much each further one costs more.
    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let factors = prop::collection::vec(105_u64..500, 0..8);
        (30_u64..600, factors).prop_map(|(lowest, factors)| {
            let mut kbits = lowest;
            let mut steps = vec![step(0, 0, lowest, 160, 30)];
            for (index, factor) in factors.into_iter().enumerate() {
                kbits = (kbits * factor / 100).max(kbits + 1);
                let index = index as u8 + 1;
                steps.push(step(index / 3, index % 3, kbits, 160 << (index / 3), 30));
            }
            steps
        })
    }

    type Video = (Vec<Step>, u8, Option<u16>, Option<usize>, bool);

    fn videos() -> impl Strategy<Value = Vec<Video>> {
        let priority = prop::sample::select(vec![0_u8, 50, 50, 100]);
        let width = prop::option::of(100_u16..2_000);
        let present = prop::option::of(0_usize..8);
        prop::collection::vec((steps(), priority, width, present, any::<bool>()), 1..12)
    }

    fn demands(videos: &[Video]) -> Vec<VideoDemand<'_>> {
        let mut demands = Vec::new();
        for (steps, priority, width, present, may_rise) in videos {
            let present = present.and_then(|at| steps.get(at));
            demands.push(VideoDemand {
                wanted: Wanted {
                    width: *width,
                    ..Wanted::default()
                },
                priority: *priority,
                present: present.map(|step| step.layer),
                may_rise: *may_rise,
                ..demand(steps)
            });
        }
        demands
    }

    proptest! {
        /// Never more than there is, but for the tolerance of what one has.
        #[test]
        fn nothing_is_given_that_is_not_there(
            videos in videos(),
            estimate in 0_u64..20_000_000,
            audio in 0_u64..200_000,
        ) {
            let budget = Budget {
                estimate: Some(Bitrate(estimate)),
                audio: Bitrate(audio),
                is_busy: false,
            };
            let demands = demands(&videos);
            let shares = allocate(&budget, &demands);
            prop_assert_eq!(shares.len(), demands.len());
            let used: u64 = shares.iter().map(|share| share.bitrate.0).sum();
            let room = estimate.saturating_sub(audio);
            prop_assert!(used <= room + room / 20, "{} of {}", used, room);
            for (share, demand) in shares.iter().zip(&demands) {
                let cap = cap_of(demand).map(|cap| demand.steps[cap].layer);
                prop_assert!(share.layer <= cap);
                prop_assert!(demand.may_rise || share.layer <= demand.present);
                if share.layer == cap {
                    prop_assert_ne!(share.reason, LayerReason::Bandwidth);
                }
            }
            prop_assert_eq!(&allocate(&budget, &demands), &shares, "deterministic");
        }

        /// Whoever alone has the highest priority never gets less when there is more.
        #[test]
        fn more_never_gives_less_to_the_first(
            videos in videos(),
            less in 0_u64..10_000_000,
            more in 0_u64..10_000_000,
        ) {
            let mut demands = demands(&videos);
            for demand in &mut demands {
                demand.priority = demand.priority.min(99);
                (demand.present, demand.may_rise) = (None, true);
            }
            demands[0].priority = 100;
            let first = |estimate: u64| allocate(&budget(estimate / 1000), &demands)[0].layer;
            prop_assert!(first(less) <= first(less + more));
        }

        /// Equals end at most one step apart, and nobody has nothing while another has more than a beginning.
        #[test]
        fn equals_get_the_same(
            lowest in 30_u64..300,
            factors in prop::collection::vec(2_u64..5, 0..6),
            count in 1_usize..8,
            kbits in 0_u64..20_000,
        ) {
            let mut steps = vec![step(0, 0, lowest, 160, 30)];
            for (index, factor) in factors.into_iter().enumerate() {
                let kbits = steps[index].bitrate.0 / 1000 * factor;
                steps.push(step(index as u8 + 1, 0, kbits, 320, 30));
            }
            let demands = vec![demand(&steps); count];
            let place = |share: &Share| match share.layer {
                None => 0,
                Some(layer) => 1 + steps.iter().position(|s| s.layer == layer).expect("a step"),
            };
            let places: Vec<usize> = allocate(&budget(kbits), &demands).iter().map(place).collect();
            let (low, high) = (places.iter().min(), places.iter().max());
            let (low, high) = (*low.expect("one"), *high.expect("one"));
            prop_assert!(high - low <= 1, "{:?}", places);
            prop_assert!(low > 0 || high <= 1, "{:?}", places);
        }
    }
}
