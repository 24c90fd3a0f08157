//! The rate that the delays allow: additive and multiplicative increase, decrease on overuse
//! (draft-ietf-rmcat-gcc-02 §5.5), with two things that libwebrtc's AIMD does not have: how far the rate goes
//! down follows how long the queue is, and once that has drained, the rate returns to just below what the
//! path was seen to carry.

use crate::media::congestion::probe::ProbeResult;
use crate::media::congestion::trend::Usage;

/// The delay-based half of the estimate, in bits per second.
#[derive(Debug)]
pub struct DelayControl {
    rate: f64,
    capacity: Option<f64>,
    phase: Phase,
    updated_us: i64,
    decreased_us: Option<i64>,
    /// The rate before the last great decrease.
    former: f64,
    /// The path seems to carry more than it was seen to: worth a probe.
    outgrew_capacity: bool,
    /// When a probe last raised the rate.
    leapt_us: Option<i64>,
    rebases: bool,
    /// Since when a queue stands.
    stands_since_us: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Increase,
    /// The queue of an overuse drains.
    Drain {
        from_us: i64,
        queue_us: i64,
    },
}

/// What feedback says, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// By the sender's clock.
    pub now_us: i64,
    /// What the delays do.
    pub usage: Usage,
    /// What stands in the queue.
    pub queue_us: i64,
    /// What arrives, over a short and over a longer time.
    pub arriving: Option<f64>,
    /// The same, over a longer time.
    pub arriving_smooth: Option<f64>,
    /// The same, over a very short time.
    pub arriving_latest: Option<f64>,
    /// From the sending of a packet to its feedback.
    pub rtt_us: i64,
    /// Less is sent than could be.
    pub is_app_limited: bool,
}

impl Default for DelayControl {
    fn default() -> Self {
        Self {
            rate: START,
            capacity: None,
            phase: Phase::Increase,
            updated_us: 0,
            decreased_us: None,
            former: 0.0,
            outgrew_capacity: false,
            leapt_us: None,
            rebases: false,
            stands_since_us: None,
        }
    }
}

impl DelayControl {
    /// What may be sent.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// What may be sent when the queue has drained that drains at present: what to choose qualities by, which must not
    /// be given up for a moment.
    pub fn lasting_rate(&self) -> f64 {
        match (self.phase, self.capacity) {
            (Phase::Drain { .. }, Some(capacity)) => self.rate.max(capacity * LASTING),
            _ => self.rate,
        }
    }

    /// Whether a queue drains at present: nothing is to be probed.
    pub fn is_draining(&self) -> bool {
        self.phase != Phase::Increase
    }

    /// When the rate last went down.
    pub fn decreased_us(&self) -> Option<i64> {
        self.decreased_us
    }

    /// The rate before the last decrease that was not a small one.
    pub fn former_rate(&self) -> f64 {
        self.former
    }

    /// Whether more went through than the path was seen to carry before; says so once.
    pub fn take_outgrown(&mut self) -> bool {
        std::mem::take(&mut self.outgrew_capacity)
    }

    /// Whether the delay stayed as it was although less was sent: then it is the path that became longer.
    /// Says so once.
    pub fn take_rebase(&mut self) -> bool {
        std::mem::take(&mut self.rebases)
    }

    /// Feedback came.
    pub fn on_feedback(&mut self, seen: &Observation) {
        let elapsed_us = (seen.now_us - self.updated_us).clamp(0, ELAPSED_US_MAX);
        self.updated_us = seen.now_us;
        let is_over = (seen.usage == Usage::Over && seen.queue_us >= QUEUE_US_TREND)
            || seen.queue_us >= QUEUE_US_MAX
            || self.stands_for_long(seen);
        match self.phase {
            Phase::Drain { from_us, queue_us } => {
                let drain_us = seen.now_us - from_us;
                if seen.queue_us <= QUEUE_US_MIN {
                    self.phase = Phase::Increase;
                    if let Some(capacity) = self.capacity {
                        self.rate = self.rate.max(capacity * RESUME);
                    }
                } else if drain_us > DRAIN_US_MAX + seen.rtt_us {
                    // What does not drain at a lower rate is no queue of ours.
                    if seen.queue_us > queue_us / 2
                        && seen.usage != Usage::Over
                        && self.is_obeyed(seen)
                    {
                        self.rebases = true;
                        self.phase = Phase::Increase;
                    } else {
                        self.decrease(seen);
                    }
                } else if seen.queue_us > queue_us && self.may_decrease_again(seen) {
                    self.decrease(seen);
                }
            }
            Phase::Increase if is_over => self.decrease(seen),
            Phase::Increase if seen.usage == Usage::Normal => self.increase(seen, elapsed_us),
            Phase::Increase => {}
        }
        self.rate = self.rate.max(RATE_MIN);
    }

    /// A probe showed what goes through. Where the path has been full before, and is full again, it may be
    /// others' packets that the probe pushed aside: then only half of the way is gone.
    pub fn on_probe(&mut self, result: ProbeResult) {
        if result.rate <= self.rate || self.is_draining() {
            return;
        }
        self.leapt_us = Some(self.updated_us);
        if result.is_saturated && self.capacity.is_some() {
            self.rate += (result.rate - self.rate) * SATURATED_STEP;
            return;
        }
        self.rate = result.rate;
        if self.capacity.is_some_and(|capacity| self.rate > capacity) {
            self.capacity = None;
        }
    }

    /// Nothing is to be above this.
    pub fn limit(&mut self, rate_max: f64) {
        self.rate = self.rate.min(rate_max).max(RATE_MIN);
    }

    /// No feedback has come for long.
    pub fn on_silence(&mut self, now_us: i64) {
        self.former = self.former.max(self.rate);
        self.decreased_us = Some(now_us);
        self.rate = (self.rate * SILENCE_FACTOR).max(RATE_MIN);
    }

    fn may_decrease_again(&self, seen: &Observation) -> bool {
        // What a decrease does is seen a round trip later. But where far less arrives than was thought, the rate was that
        // of a moment ago: nothing needs to be waited for.
        let is_far_off = seen.arriving.is_some_and(|a| a < self.rate * FAR_OFF);
        let wait_us = match is_far_off {
            true => DECREASE_WAIT_US,
            false => seen.rtt_us + DECREASE_WAIT_US,
        };
        let waited = self
            .decreased_us
            .is_none_or(|at| seen.now_us - at >= wait_us);
        // If all of it arrives, it is others who fill the queue.
        waited && seen.arriving.is_some_and(|arriving| arriving < self.rate)
    }

    /// Whether a queue stands that neither grows nor drains.
    fn stands_for_long(&mut self, seen: &Observation) -> bool {
        if seen.queue_us < QUEUE_US_STANDING {
            self.stands_since_us = None;
            return false;
        }
        let since = *self.stands_since_us.get_or_insert(seen.now_us);
        seen.now_us - since >= STANDING_US
    }

    /// Whether no more is sent than the rate.
    fn is_obeyed(&self, seen: &Observation) -> bool {
        let arriving = seen.arriving_smooth.unwrap_or(0.0);
        arriving <= self.rate * OBEYED
    }

    fn decrease(&mut self, seen: &Observation) {
        let factor = 1.0 - (seen.queue_us as f64 / DRAIN_TARGET_US).clamp(DEPTH_MIN, DEPTH_MAX);
        // A path that has become far slower shows in the latest moments first.
        let arriving = match (seen.arriving, seen.arriving_latest) {
            (Some(usual), Some(latest)) if latest < usual * FAR_OFF => Some(latest),
            (usual, _) => usual,
        };
        let rate = match arriving {
            // What arrives is what the path carries: a queue was there all the time.
            Some(arriving) if !seen.is_app_limited || seen.queue_us >= QUEUE_US_STANDING => {
                self.observe_capacity(arriving);
                arriving * factor
            }
            // Little is sent, and that little says nothing of the path.
            Some(arriving) => (arriving * factor).max(self.rate * APP_LIMITED_FACTOR),
            None => self.rate * factor,
        };
        if rate < self.rate * GREAT_DECREASE {
            // What was only tried a moment ago is nothing to go back to.
            let lasted = self.leapt_us.is_none_or(|at| seen.now_us - at > LASTING_US);
            self.former = if lasted { self.rate } else { 0.0 };
        }
        self.rate = self.rate.min(rate);
        self.decreased_us = Some(seen.now_us);
        self.phase = Phase::Drain {
            from_us: seen.now_us,
            queue_us: seen.queue_us,
        };
    }

    fn observe_capacity(&mut self, arriving: f64) {
        self.capacity = Some(match self.capacity {
            // Near what was known: averaged. Else it has changed.
            Some(known) if (arriving / known - 1.0).abs() < CAPACITY_BAND => {
                known + CAPACITY_GAIN * (arriving - known)
            }
            _ => arriving,
        });
    }

    fn increase(&mut self, seen: &Observation, elapsed_us: i64) {
        if seen.queue_us >= QUEUE_US_HOLD {
            return;
        }
        let elapsed = elapsed_us as f64 / 1e6;
        if let Some(capacity) = self.capacity
            && self.rate > capacity * OUTGROWN
            && seen.arriving_smooth.is_some_and(|rate| rate > capacity)
        {
            self.capacity = None;
            self.outgrew_capacity = true;
        }
        let step = match self.capacity {
            Some(_) => ADDITIVE * elapsed * (ADDITIVE_AT / self.rate).clamp(0.4, 2.5),
            None => self.rate * (MULTIPLICATIVE.powf(elapsed) - 1.0),
        };
        // Nobody knows whether more than that would go through.
        let limit = seen
            .arriving_smooth
            .map_or(self.rate, |rate| HEADROOM * rate + HEADROOM_FREE);
        if self.rate + step <= limit {
            self.rate += step;
        }
    }
}

/// The estimate to begin with, in bits per second: libwebrtc's. The first probes go to six times that.
pub const START: f64 = 300_000.0;
/// The least rate: sound goes on whatever happens.
pub const RATE_MIN: f64 = 50_000.0;
const ELAPSED_US_MAX: i64 = 500_000;
// Chosen by the simulation beside this module (2026-11-22), unless said otherwise.
/// Below this a growing delay is jitter, and a queue counts as drained.
const QUEUE_US_MIN: i64 = 8_000;
/// From here on a growing delay is an overuse. High enough for all flows that share a queue to see it.
const QUEUE_US_TREND: i64 = 15_000;
/// From here on the rate does not grow.
const QUEUE_US_HOLD: i64 = 20_000;
/// From here on a queue is not a burst of somebody else, and is not to stay for long.
const QUEUE_US_STANDING: i64 = 30_000;
const STANDING_US: i64 = 500_000;
/// The frames of a stream are not all of one size.
const OBEYED: f64 = 1.1;
/// Whatever the trend says, this is too long.
const QUEUE_US_MAX: i64 = 60_000;
/// A queue is to be gone after so long.
const DRAIN_TARGET_US: f64 = 400_000.0;
const DEPTH_MIN: f64 = 0.07;
const DEPTH_MAX: f64 = 0.5;
const DRAIN_US_MAX: i64 = 1_500_000;
const RESUME: f64 = 0.93;
/// A little less than that, as the capacity was only just seen.
const LASTING: f64 = 0.88;
const SATURATED_STEP: f64 = 0.3;
/// libwebrtc: a decrease is followed by another one after a round trip and this.
const FAR_OFF: f64 = 0.7;
const DECREASE_WAIT_US: i64 = 100_000;
const APP_LIMITED_FACTOR: f64 = 0.85;
/// libwebrtc's BitrateDropThreshold.
const GREAT_DECREASE: f64 = 0.66;
/// A rate that was held for so long was not a mere try.
const LASTING_US: i64 = 3_000_000;
const CAPACITY_BAND: f64 = 0.15;
const CAPACITY_GAIN: f64 = 0.3;
const OUTGROWN: f64 = 1.05;
/// Bits per second and second, at [`ADDITIVE_AT`]: slower for faster flows, so that those that share a
/// bottleneck meet.
const ADDITIVE: f64 = 35_000.0;
const ADDITIVE_AT: f64 = 1_000_000.0;
/// libwebrtc, for each second.
const MULTIPLICATIVE: f64 = 1.08;
/// libwebrtc lets the estimate grow to 1.5 times what arrives, and 10 kbit/s. Here probes tell what is above; with 1.5 it
/// crept to 111 % of the capacity while two thirds of that were sent (lab, 2026-11-22).
const HEADROOM: f64 = 1.3;
const HEADROOM_FREE: f64 = 10_000.0;
const SILENCE_FACTOR: f64 = 0.75;
