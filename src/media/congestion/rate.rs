//! The rate that the delays allow: additive and multiplicative increase, decrease on overuse
//! (draft-ietf-rmcat-gcc-02 §5.5), with two things that libwebrtc's AIMD does not have: how far the rate goes
//! down follows how long the queue is, and once that has drained, the rate returns to just below what the
//! path was seen to carry.

use crate::media::congestion::capacity::Capacity;
use crate::media::congestion::probe::ProbeResult;
use crate::media::congestion::queueing::Backlog;
use crate::media::congestion::trend::Usage;

/// The delay-based half of the estimate, in bits per second.
#[derive(Debug)]
pub struct DelayControl {
    rate: f64,
    capacity: Capacity,
    phase: Phase,
    updated_us: i64,
    decreased_us: Option<i64>,
    /// The path seems to carry more than it was seen to: worth a probe.
    outgrew_capacity: bool,
    rebases: bool,
    is_unused: bool,
    /// When a probe last raised the rate.
    leapt_us: Option<i64>,
    /// What the last probe showed, if that was less than the rate and all that went through.
    lesser: Option<f64>,
    /// Since when a queue stands.
    stands_since_us: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Increase,
    /// The queue of an overuse drains.
    Drain(Drain),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drain {
    from_us: i64,
    /// What stood in it at the last decrease.
    queue_us: i64,
    /// When it was last looked whether it drains, and what stood in it then and the time before.
    looked_us: i64,
    looks_us: [i64; 2],
    /// The rate was lowered again although all of it arrived.
    is_repeated: bool,
    /// The path became a far slower one.
    is_collapse: bool,
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
    /// The queue that the last packets passed through one after the other.
    pub backlog: Option<Backlog>,
    /// What arrives, over a short and over a longer time.
    pub arriving: Option<f64>,
    /// The same, over a longer time.
    pub arriving_smooth: Option<f64>,
    /// The same, over a very short time.
    pub arriving_latest: Option<f64>,
    /// From the sending of a packet to its feedback.
    pub rtt_us: i64,
    /// What is sent, on average.
    pub sending: f64,
    /// Less is sent than could be.
    pub is_app_limited: bool,
}

impl Default for DelayControl {
    fn default() -> Self {
        Self {
            rate: START,
            capacity: Capacity::default(),
            phase: Phase::Increase,
            updated_us: 0,
            decreased_us: None,
            outgrew_capacity: false,
            rebases: false,
            is_unused: false,
            leapt_us: None,
            lesser: None,
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
        let share = match self.phase {
            Phase::Drain(drain) if drain.is_collapse => LASTING_COLLAPSED,
            Phase::Drain(_) => LASTING,
            Phase::Increase => 0.0,
        };
        let lasting = self.capacity.known().map(|capacity| capacity * share);
        self.rate.max(lasting.unwrap_or(0.0))
    }

    /// Whether a queue drains at present: nothing is to be probed.
    pub fn is_draining(&self) -> bool {
        self.phase != Phase::Increase
    }

    /// When the rate last went down.
    pub fn decreased_us(&self) -> Option<i64> {
        self.decreased_us
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
        self.is_unused = seen
            .arriving_smooth
            .is_some_and(|arriving| self.rate > HEADROOM * arriving + HEADROOM_FREE);
        let collapse = self.collapse(seen);
        let is_over = collapse.is_some()
            || (seen.usage == Usage::Over && self.exceeds(seen, self.trend_us(seen)))
            || self.exceeds(seen, QUEUE_US_MAX)
            || self.stands_for_long(seen);
        match self.phase {
            Phase::Drain(drain) => self.drain(seen, drain),
            Phase::Increase if is_over => self.decrease(seen),
            Phase::Increase if seen.usage == Usage::Normal => self.increase(seen, elapsed_us),
            Phase::Increase => {}
        }
        self.rate = self.rate.max(RATE_MIN);
    }

    /// A probe showed what goes through; `arriving` is what does of all that is sent.
    pub fn on_probe(&mut self, result: ProbeResult, arriving: Option<f64>) {
        if self.is_draining() {
            return;
        }
        if result.rate <= self.rate {
            // It was twice as fast and did not get through: if that happens twice, what one before showed was jitter.
            let former = self.lesser.take().filter(|_| result.is_saturated);
            match former {
                Some(former) => {
                    let shown = result.rate.max(former).max(arriving.unwrap_or(0.0));
                    self.rate = self.rate.min(shown);
                }
                None => self.lesser = Some(result.rate).filter(|_| result.is_saturated),
            }
            return;
        }
        self.lesser = None;
        if let Some(rate) = self.capacity.weigh(self.updated_us, &result)
            && rate > self.rate
        {
            self.leapt_us = Some(self.updated_us);
            self.rate = rate;
        }
    }

    /// Whether less is sent than the rate, so that it shows nothing of what more would do.
    pub fn is_unused(&self) -> bool {
        self.is_unused
    }

    /// What the path was seen to carry when it was full.
    pub fn capacity(&self) -> Option<f64> {
        self.capacity.known()
    }

    /// What a probe showed that another one is to confirm.
    pub fn unconfirmed(&self, now_us: i64) -> Option<f64> {
        self.capacity
            .unconfirmed(now_us)
            .filter(|rate| *rate > self.rate)
    }

    /// The path was seen to carry this: for who cannot probe. Not while a queue drains.
    pub fn raise(&mut self, rate: f64) {
        if !self.is_draining() {
            self.rate = self.rate.max(rate);
        }
    }

    /// Takes the path for one that carries this, which nothing has shown: what is measured soon after is of before. Not while a
    /// queue drains.
    pub fn leap(&mut self, rate: f64) {
        if !self.is_draining() && rate > self.rate {
            self.leapt_us = Some(self.updated_us);
            self.rate = rate;
        }
    }

    /// Nothing is to be above this.
    pub fn limit(&mut self, rate_max: f64) {
        self.rate = self.rate.min(rate_max).max(RATE_MIN);
    }

    /// No feedback has come for long.
    pub fn on_silence(&mut self, now_us: i64) {
        self.decreased_us = Some(now_us);
        self.rate = (self.rate * SILENCE_FACTOR).max(RATE_MIN);
    }

    fn drain(&mut self, seen: &Observation, mut drain: Drain) {
        if seen.now_us - drain.looked_us >= LOOK_US {
            drain.looked_us = seen.now_us;
            drain.looks_us = [seen.queue_us, drain.looks_us[0]];
        }
        self.phase = Phase::Drain(drain);
        if !self.exceeds(seen, QUEUE_US_MIN) {
            self.phase = Phase::Increase;
            if let Some(capacity) = self.capacity.known() {
                self.rate = self.rate.max(capacity * RESUME);
            }
        } else if seen.now_us - drain.from_us > DRAIN_US_MAX + seen.rtt_us {
            // What does not drain at a lower rate is no queue of ours.
            let stays = seen.queue_us as f64 > drain.looks_us[1] as f64 * STAYS;
            if stays && seen.usage != Usage::Over && self.is_obeyed(seen) {
                self.rebases = true;
                self.phase = Phase::Increase;
            } else {
                self.phase = Phase::Increase;
                self.decrease(seen);
            }
        } else if seen.queue_us > drain.queue_us + QUEUE_US_MIN && self.has_waited(seen) {
            // If all of it arrives, it is others who fill the queue; or what arrived was that of a moment ago, once.
            let is_less = seen.arriving.is_some_and(|arriving| arriving < self.rate);
            let is_less = is_less && !seen.is_app_limited;
            if is_less || !drain.is_repeated {
                drain.is_repeated |= !is_less;
                self.phase = Phase::Drain(drain);
                self.decrease(seen);
            }
        }
    }

    /// Whether what arrives is what the path carries: it is about what may be sent, or a queue was there all the time.
    fn is_full(&self, seen: &Observation, arriving: f64) -> bool {
        // What was measured is of before a leap for a while, and the queue may be that of a probe.
        let is_new = self
            .leapt_us
            .is_some_and(|at| seen.now_us - at < LEAP_US + seen.rtt_us);
        if is_new {
            return self.exceeds(seen, QUEUE_US_MAX);
        }
        let is_used = !seen.is_app_limited && arriving >= self.rate * USED;
        is_used || self.exceeds(seen, QUEUE_US_STANDING)
    }

    /// Whether the queue is as long as `limit_us`, which is for [`PACKET_AT`] and more: where few packets make a long
    /// queue, it takes a longer one.
    fn exceeds(&self, seen: &Observation, limit_us: i64) -> bool {
        let scale = (PACKET_AT / self.rate).clamp(1.0, PACKET_SCALE_MAX);
        seen.queue_us as f64 >= limit_us as f64 * scale
    }

    /// From which queue on a growing delay is an overuse. Who has just gone down lets others go first: of flows that share
    /// a queue one may see it a little earlier than the others each time, and would give way for ever.
    fn trend_us(&self, seen: &Observation) -> i64 {
        let since_us = self
            .decreased_us
            .map_or(f64::INFINITY, |at| (seen.now_us - at) as f64);
        let share = (-since_us / TURN_US).exp();
        QUEUE_US_TREND + (share * QUEUE_US_TURN) as i64
    }

    fn has_waited(&self, seen: &Observation) -> bool {
        // What a decrease does is seen a round trip later. But where far less arrives than was thought, the rate was that
        // of a moment ago: nothing needs to be waited for.
        let is_far_off = seen.arriving.is_some_and(|a| a < self.rate * FAR_OFF);
        let wait_us = match is_far_off {
            true => DECREASE_WAIT_US,
            false => seen.rtt_us + DECREASE_WAIT_US,
        };
        self.decreased_us
            .is_none_or(|at| seen.now_us - at >= wait_us)
    }

    /// Whether a queue stands that neither grows nor drains.
    fn stands_for_long(&mut self, seen: &Observation) -> bool {
        if !self.exceeds(seen, QUEUE_US_STANDING) {
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

    /// What the path carries, if that has become far less than what is sent: packets that left a queue one after the other
    /// show that before anything that is averaged does.
    fn collapse(&self, seen: &Observation) -> Option<f64> {
        let backlog = seen.backlog?;
        let is_far_less = backlog.carried < self.rate.min(seen.sending) * COLLAPSED;
        // Who sent little just then got little through a queue of others.
        let is_pushed = backlog.offered >= backlog.carried * PUSHED;
        let is_long = backlog.waited_us >= COLLAPSED_US;
        (is_far_less && is_pushed && is_long).then_some(backlog.carried)
    }

    fn decrease(&mut self, seen: &Observation) {
        let collapse = self.collapse(seen);
        let queue_us = match seen.backlog.filter(|_| collapse.is_some()) {
            Some(backlog) => backlog.waited_us.max(seen.queue_us),
            None => seen.queue_us,
        };
        let depth = (queue_us as f64 / DRAIN_TARGET_US).clamp(DEPTH_MIN, DEPTH_MAX);
        let (arriving, depth) = match (seen.arriving, seen.arriving_latest) {
            // A path that has become far slower shows in the latest moments first; and what is under way already will make the
            // queue far longer.
            (Some(usual), Some(latest)) if latest < usual * FAR_OFF => (Some(latest), DEPTH_MAX),
            (usual, _) => (usual, depth),
        };
        let factor = 1.0 - depth;
        let rate = match (collapse, arriving) {
            (Some(carried), _) => {
                self.capacity.on_collapse(seen.now_us, carried);
                carried * factor
            }
            // A queue is there, and yet all that is sent gets through, which is far less than could be: others fill it. If it
            // stays, that will be seen at the rate that is sent.
            (None, Some(arriving))
                if self.is_full(seen, arriving) && others_fill(seen, arriving) =>
            {
                arriving.max(seen.sending) * HEADROOM
            }
            // What arrives is what the path carries: a queue was there all the time.
            (None, Some(arriving)) if self.is_full(seen, arriving) => {
                if !seen.is_app_limited {
                    // The queue may be younger than the time that is measured: before it came less arrived than could.
                    let latest = seen.arriving_latest.unwrap_or(0.0) * LATEST_SHARE;
                    self.capacity.on_full(seen.now_us, arriving.max(latest));
                }
                arriving * factor
            }
            // Little is sent, or was a moment ago, and that little says nothing of the path.
            (None, Some(arriving)) => (arriving * factor).max(self.rate * APP_LIMITED_FACTOR),
            (None, None) => self.rate * factor,
        };
        self.rate = self.rate.min(rate);
        self.decreased_us = Some(seen.now_us);
        let former = match self.phase {
            Phase::Drain(drain) => Some(drain),
            Phase::Increase => None,
        };
        self.phase = Phase::Drain(Drain {
            from_us: seen.now_us,
            queue_us,
            looked_us: seen.now_us,
            looks_us: [queue_us; 2],
            is_repeated: former.is_some_and(|f| f.is_repeated),
            is_collapse: collapse.is_some() || former.is_some_and(|f| f.is_collapse),
        });
    }

    fn increase(&mut self, seen: &Observation, elapsed_us: i64) {
        if self.exceeds(seen, QUEUE_US_HOLD) || self.is_unused {
            return;
        }
        let elapsed = elapsed_us as f64 / 1e6;
        let capacity = self.capacity.known();
        if let Some(capacity) = capacity
            && self.rate > capacity * OUTGROWN
            && seen.arriving_smooth.is_some_and(|rate| rate > capacity)
        {
            self.outgrew_capacity = true;
        }
        let step = match capacity {
            Some(_) => ADDITIVE * elapsed * (ADDITIVE_AT / self.rate).clamp(0.6, 2.5),
            None => self.rate * (MULTIPLICATIVE.powf(elapsed) - 1.0),
        };
        self.rate += step;
    }
}

/// Whether all that is sent gets through, and it is far less than could be sent.
fn others_fill(seen: &Observation, arriving: f64) -> bool {
    seen.is_app_limited && arriving >= seen.sending * PASSES
}

/// The estimate to begin with, in bits per second: libwebrtc's. The first probes go to six times that.
pub const START: f64 = 300_000.0;
/// The least rate: sound goes on whatever happens.
pub const RATE_MIN: f64 = 50_000.0;
const ELAPSED_US_MAX: i64 = 500_000;
// Chosen by the simulation beside this module (2026-11-22), unless said otherwise.
/// At this rate a full packet takes 20 ms.
const PACKET_AT: f64 = 500_000.0;
const PACKET_SCALE_MAX: f64 = 3.0;
/// Below this a growing delay is jitter, and a queue counts as drained.
const QUEUE_US_MIN: i64 = 8_000;
/// From here on a growing delay is an overuse. High enough for all flows that share a queue to see it.
const QUEUE_US_TREND: i64 = 12_000;
/// So much more just after a decrease, and how fast that is forgotten.
const QUEUE_US_TURN: f64 = 18_000.0;
const TURN_US: f64 = 3_000_000.0;
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
/// A queue of which so much is left after that time does not drain.
const STAYS: f64 = 0.85;
const LOOK_US: i64 = 500_000;
const DRAIN_US_MAX: i64 = 1_500_000;
const RESUME: f64 = 0.93;
/// A little less than that, as the capacity was only just seen.
const LASTING: f64 = 0.88;
/// After a collapse: few packets have shown it, and one keyframe of what surely fits is there sooner than two.
const LASTING_COLLAPSED: f64 = 0.75;
/// libwebrtc: a decrease is followed by another one after a round trip and this.
const FAR_OFF: f64 = 0.7;
/// A path that carries less than this share of what is sent is another one than it was.
const COLLAPSED: f64 = 0.5;
/// So much more has to be sent than it carries while that is measured.
const PUSHED: f64 = 1.3;
/// The queue that this takes: longer than a burst makes on a path as fast as was thought.
const COLLAPSED_US: i64 = 45_000;
const DECREASE_WAIT_US: i64 = 100_000;
const LEAP_US: i64 = 500_000;
/// Less than this share of the rate does not fill the path.
const USED: f64 = 0.85;
/// Of what is sent, while what arrives is measured over a shorter time.
const PASSES: f64 = 0.9;
const APP_LIMITED_FACTOR: f64 = 0.85;
/// What arrived in the last moments is known less exactly.
const LATEST_SHARE: f64 = 0.95;
const OUTGROWN: f64 = 1.03;
/// Bits per second and second, at [`ADDITIVE_AT`]: slower for faster flows, so that those that share a
/// bottleneck meet.
const ADDITIVE: f64 = 60_000.0;
const ADDITIVE_AT: f64 = 1_000_000.0;
/// libwebrtc, for each second.
const MULTIPLICATIVE: f64 = 1.08;
/// libwebrtc lets the estimate grow to 1.5 times what arrives, and 10 kbit/s. Here probes tell what is above: with 1.5 or 1.3
/// it crept above the capacity while less than that was sent. A tenth is what frames of different sizes need.
const HEADROOM: f64 = 1.1;
const HEADROOM_FREE: f64 = 10_000.0;
const SILENCE_FACTOR: f64 = 0.75;
