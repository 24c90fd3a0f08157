//! Probes: short clusters of packets, faster than the estimate, that show whether more would go through.
//!
//! Decides when and how fast, and reads the result off the feedback. What the packets are (padding,
//! retransmissions, media that happens to be sent meanwhile) is its caller's.

/// Names a cluster; wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub u8);

/// Decides about probes and reads their results.
#[derive(Debug)]
pub struct Prober {
    started: bool,
    last_id: u8,
    /// Rates in bits per second that are to be tried one after another.
    waiting: [Option<f64>; WAITING_MAX],
    sending: Option<Sending>,
    /// The last clusters whose results are awaited.
    awaited: [Option<Cluster>; WAITING_MAX],
    /// When the demand may be probed for again, and how long to wait after that fails.
    next_us: i64,
    backoff_us: i64,
    /// The estimate is still found by doubling.
    is_exploring: bool,
    /// The last sent cluster should raise the estimate above this.
    hoped: Option<f64>,
    /// The same two for growth that the path showed by itself.
    outgrown_next_us: i64,
    outgrown_backoff_us: i64,
    is_for_outgrown: bool,
    /// The last probe that was worth it, at that time: until the path turns out to be full after all.
    succeeded_us: Option<i64>,
    /// How many probes in a row were worth it.
    streak: u32,
    /// The last fall that was tried to be undone, by its time.
    recovered_us: Option<i64>,
}

/// What a probe showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeResult {
    /// What went through, in bits per second.
    pub rate: f64,
    /// More did not: the path was full, perhaps of what others send.
    pub is_saturated: bool,
}

#[derive(Debug, Clone, Copy)]
struct Sending {
    id: ClusterId,
    rate: f64,
    from_us: Option<i64>,
    bytes: u32,
    packets: u32,
}

/// What is known of a cluster that was sent.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    id: ClusterId,
    rate: f64,
    ended_us: Option<i64>,
    sent_bytes: u32,
    sent_packets: u32,
    arrived_bytes: u32,
    arrived_packets: u32,
    first_sent_us: i64,
    last_sent_us: i64,
    last_sent_bytes: u32,
    first_arrived_us: i64,
    last_arrived_us: i64,
    first_arrived_bytes: u32,
}

/// What decides whether to probe.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// By the sender's clock.
    pub now_us: i64,
    /// The estimate, in bits per second.
    pub estimate: f64,
    /// What would be sent if it could; `None` while nobody has said.
    pub demand: Option<f64>,
    /// A queue is there, or drains: not now.
    pub is_congested: bool,
    /// The estimate was higher before it fell, at that time.
    pub former: Option<(f64, i64)>,
    /// More went through than the path was seen to carry.
    pub outgrown: bool,
    /// Far less is sent than the estimate.
    pub is_app_limited: bool,
    /// The path was full not long ago: a leap would hit those it is shared with.
    pub is_careful: bool,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            started: false,
            last_id: 0,
            waiting: [None; WAITING_MAX],
            sending: None,
            awaited: [None; WAITING_MAX],
            next_us: 0,
            backoff_us: BACKOFF_US_MIN,
            is_exploring: true,
            hoped: None,
            outgrown_next_us: 0,
            outgrown_backoff_us: OUTGROWN_US_MIN,
            is_for_outgrown: false,
            succeeded_us: None,
            streak: 0,
            recovered_us: None,
        }
    }
}

impl Situation {
    /// How far above the estimate the next probe goes: twice as fast; but where the path was full not long ago,
    /// the less the more there is already, so that flows which share a path come nearer to each other.
    /// Each one in a row that was worth it makes the next step twice as large.
    fn step(&self, streak: u32) -> f64 {
        let estimate = self.estimate;
        if !self.is_careful {
            return estimate;
        }
        let step = CAREFUL_STEP * CAREFUL_AT / estimate.max(1.0) * f64::from(1 << streak);
        step.clamp(estimate * CAREFUL_MIN, estimate)
    }
}

impl Prober {
    /// The first packets go out: the start rate is tried three and six times as fast, as libwebrtc does.
    pub fn start(&mut self, now_us: i64, rate: f64, demand: Option<f64>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let ceiling = ceiling(demand);
        let rates = START_FACTORS.map(|factor| (rate * factor).min(ceiling));
        self.waiting = rates.map(|to| (to > rate).then_some(to));
        self.hoped = Some(rates[WAITING_MAX - 1] * HOPED);
        self.next_us = now_us + BACKOFF_US_MIN;
    }

    /// Feedback came: perhaps something is worth a probe.
    pub fn on_feedback(&mut self, seen: &Situation) {
        self.forget_stale(seen.now_us);
        let is_busy = self.sending.is_some() || self.waiting.iter().any(Option::is_some);
        if is_busy || self.awaited.iter().any(Option::is_some) {
            if seen.is_congested {
                self.waiting = [None; WAITING_MAX];
            }
            return;
        }
        self.judge(seen);
        self.reconsider(seen);
        if seen.is_congested || !self.started {
            return;
        }
        if seen.is_app_limited {
            self.backoff_us = self.backoff_us.min(BACKOFF_US_MAX_IDLE);
            self.next_us = self.next_us.min(seen.now_us + BACKOFF_US_MAX_IDLE);
        }
        let ceiling = ceiling(seen.demand);
        let next = seen.estimate + seen.step(self.streak);
        if let Some((former, at_us)) = seen.former
            && seen.estimate < former * RECOVER_BELOW
            && (RECOVER_US_MIN..RECOVER_US_MAX).contains(&(seen.now_us - at_us))
            && self.recovered_us != Some(at_us)
        {
            self.recovered_us = Some(at_us);
            self.try_rate((former * RECOVER).min(ceiling), seen.estimate);
        } else if seen.outgrown && seen.now_us >= self.outgrown_next_us {
            self.is_for_outgrown = true;
            self.try_rate(next.min(ceiling), seen.estimate);
        } else if seen.now_us >= self.next_us
            && seen
                .demand
                .is_none_or(|demand| seen.estimate < demand * ENOUGH)
        {
            let rate = match seen.demand {
                // Not more than is of use.
                Some(demand) => next.min(demand * USEFUL),
                None if self.is_exploring => next,
                None => return,
            };
            self.try_rate(rate.min(ceiling), seen.estimate);
        }
    }

    /// The probe's result so far, after the feedback on one of its packets.
    pub fn on_arrival(
        &mut self,
        id: ClusterId,
        sent_us: i64,
        arrived_us: i64,
        bytes: u16,
    ) -> Option<ProbeResult> {
        let entry = self
            .awaited
            .iter_mut()
            .find(|cluster| cluster.is_some_and(|cluster| cluster.id == id))?;
        let cluster = entry.as_mut()?;
        cluster.on_arrival(sent_us, arrived_us, u32::from(bytes));
        let result = cluster.result()?;
        if cluster.arrived_packets == cluster.sent_packets {
            *entry = None;
        }
        Some(result)
    }

    /// How many bytes of probe are to go out now, at least; 0 if none. Call it before [`Prober::on_sent`]
    /// is told of packets, and again when [`Prober::poll_timeout`] says.
    pub fn bytes_due(&mut self, now_us: i64) -> usize {
        if self.sending.is_none()
            && let Some(entry) = self.waiting.iter_mut().find(|entry| entry.is_some())
            && let Some(rate) = entry.take()
        {
            self.begin(rate);
        }
        let Some(sending) = &mut self.sending else {
            return 0;
        };
        let from_us = *sending.from_us.get_or_insert(now_us);
        if now_us - from_us > CLUSTER_US_MAX {
            // Nothing could be sent in time.
            self.finish(now_us);
            return 0;
        }
        let ahead_us = now_us - from_us + STEP_US;
        let due = sending.rate * ahead_us as f64 / 8e6;
        (due as usize).saturating_sub(sending.bytes as usize)
    }

    /// A packet goes out: it belongs to the cluster that is being sent, if there is one.
    #[inline]
    pub fn on_sent(&mut self, now_us: i64, bytes: u16) -> Option<ClusterId> {
        let sending = self.sending.as_mut()?;
        sending.from_us?;
        sending.bytes += u32::from(bytes);
        sending.packets += 1;
        let (id, rate) = (sending.id, sending.rate);
        let (all_bytes, all_packets) = (sending.bytes, sending.packets);
        if let Some(cluster) = self.awaited.iter_mut().flatten().find(|c| c.id == id) {
            (cluster.sent_bytes, cluster.sent_packets) = (all_bytes, all_packets);
        }
        if f64::from(all_bytes) >= rate * CLUSTER_US as f64 / 8e6 && all_packets >= PACKETS_MIN {
            self.finish(now_us);
        }
        Some(id)
    }

    /// When [`Prober::bytes_due`] is next to be called.
    pub fn poll_timeout(&self, now_us: i64) -> Option<i64> {
        match &self.sending {
            Some(Sending { from_us: None, .. }) => Some(now_us),
            Some(sending) => {
                let from_us = sending.from_us?;
                let sent_us = (f64::from(sending.bytes) * 8e6 / sending.rate) as i64;
                Some((from_us + sent_us).min(from_us + CLUSTER_US_MAX + 1))
            }
            None => self.waiting.iter().any(Option::is_some).then_some(now_us),
        }
    }

    /// Whether the last probe was worth it; what was not is not repeated soon.
    fn judge(&mut self, seen: &Situation) {
        let Some(hoped) = self.hoped.take() else {
            return;
        };
        let is_for_outgrown = std::mem::take(&mut self.is_for_outgrown);
        if seen.estimate >= hoped {
            self.succeeded_us = Some(seen.now_us);
            self.streak = (self.streak + 1).min(STREAK_MAX);
            self.next_us = seen.now_us + if seen.is_careful { CAREFUL_US } else { 0 };
            return;
        }
        self.back_off(seen.now_us);
        if is_for_outgrown {
            self.outgrown_next_us = seen.now_us + self.outgrown_backoff_us;
            self.outgrown_backoff_us = (self.outgrown_backoff_us * 2).min(OUTGROWN_US_MAX);
        }
    }

    /// A probe that seemed to be worth it was not if the path is full soon after.
    fn reconsider(&mut self, seen: &Situation) {
        let Some(at_us) = self.succeeded_us else {
            return;
        };
        let since_us = seen.now_us - at_us;
        if seen.is_congested && since_us < LASTING_US {
            self.succeeded_us = None;
            self.back_off(seen.now_us);
        } else if since_us >= LASTING_US {
            self.succeeded_us = None;
            (self.backoff_us, self.outgrown_backoff_us) = (BACKOFF_US_MIN, OUTGROWN_US_MIN);
        }
    }

    /// What is being sent, or was to be, cannot be: not before some time has passed.
    pub fn give_up(&mut self, now_us: i64) {
        if let Some(sending) = self.sending.take() {
            for entry in &mut self.awaited {
                if entry.is_some_and(|cluster| cluster.id == sending.id) {
                    *entry = None;
                }
            }
        }
        self.waiting = [None; WAITING_MAX];
        self.hoped = None;
        self.back_off(now_us);
    }

    fn back_off(&mut self, now_us: i64) {
        self.streak = 0;
        self.is_exploring = false;
        self.next_us = now_us + self.backoff_us;
        self.backoff_us = (self.backoff_us * 2).min(BACKOFF_US_MAX);
    }

    fn try_rate(&mut self, rate: f64, estimate: f64) {
        if rate > estimate * WORTHWHILE {
            self.waiting[0] = Some(rate);
            self.hoped = Some(estimate + HOPED * (rate - estimate));
        }
    }

    fn begin(&mut self, rate: f64) {
        self.last_id = self.last_id.wrapping_add(1);
        let id = ClusterId(self.last_id);
        self.sending = Some(Sending {
            id,
            rate,
            from_us: None,
            bytes: 0,
            packets: 0,
        });
        let at = self.awaited.iter().position(Option::is_none).unwrap_or(0);
        self.awaited[at] = Some(Cluster {
            id,
            rate,
            ended_us: None,
            sent_bytes: 0,
            sent_packets: 0,
            arrived_bytes: 0,
            arrived_packets: 0,
            first_sent_us: i64::MAX,
            last_sent_us: i64::MIN,
            last_sent_bytes: 0,
            first_arrived_us: i64::MAX,
            last_arrived_us: i64::MIN,
            first_arrived_bytes: 0,
        });
    }

    fn finish(&mut self, now_us: i64) {
        if let Some(sending) = self.sending.take()
            && let Some(cluster) = self
                .awaited
                .iter_mut()
                .flatten()
                .find(|cluster| cluster.id == sending.id)
        {
            cluster.ended_us = Some(now_us);
        }
    }

    fn forget_stale(&mut self, now_us: i64) {
        for entry in &mut self.awaited {
            let is_stale = |cluster: &Cluster| {
                let since = cluster.ended_us.map(|at| now_us - at);
                since.is_some_and(|since| since > RESULT_US_MAX)
            };
            if entry.as_ref().is_some_and(is_stale) {
                *entry = None;
            }
        }
    }
}

impl Cluster {
    fn on_arrival(&mut self, sent_us: i64, arrived_us: i64, bytes: u32) {
        self.arrived_bytes += bytes;
        self.arrived_packets += 1;
        self.first_sent_us = self.first_sent_us.min(sent_us);
        if sent_us >= self.last_sent_us {
            (self.last_sent_us, self.last_sent_bytes) = (sent_us, bytes);
        }
        if arrived_us < self.first_arrived_us {
            (self.first_arrived_us, self.first_arrived_bytes) = (arrived_us, bytes);
        }
        self.last_arrived_us = self.last_arrived_us.max(arrived_us);
    }

    /// What went through: the lesser of how fast it was sent and how fast it arrived. `None` while too
    /// little has arrived, or if it says nothing.
    fn result(&self) -> Option<ProbeResult> {
        self.ended_us?;
        if self.arrived_packets * 5 < self.sent_packets * 4
            || self.arrived_bytes * 5 < self.sent_bytes * 4
            || self.arrived_packets < PACKETS_MIN - 1
        {
            return None;
        }
        let sent_us = (self.last_sent_us - self.first_sent_us).max(1);
        let arrived_us = (self.last_arrived_us - self.first_arrived_us).max(1);
        if sent_us > INTERVAL_US_MAX || arrived_us > INTERVAL_US_MAX {
            return None;
        }
        // What lies between two ends is without the last packet sent, or the first that arrived.
        let sent = f64::from(self.arrived_bytes - self.last_sent_bytes) * 8e6 / sent_us as f64;
        let sent = sent.min(self.rate * SENT_MAX);
        let arrived = self.arrived_bytes.saturating_sub(self.first_arrived_bytes);
        let arrived = f64::from(arrived) * 8e6 / arrived_us as f64;
        if arrived > sent * RATIO_MAX {
            // Held back on the way and then delivered at once: nothing is known.
            return None;
        }
        // That is all that goes through.
        let is_saturated = arrived < sent * SATURATED;
        let rate = if is_saturated {
            arrived * SATURATED_KEEP
        } else {
            arrived.min(sent)
        };
        Some(ProbeResult { rate, is_saturated })
    }
}

/// What is tried at most: nothing above is of use for what is sent.
fn ceiling(demand: Option<f64>) -> f64 {
    demand.map_or(RATE_MAX, |demand| {
        (demand * CEILING).clamp(CEILING_MIN, RATE_MAX)
    })
}

/// The estimate is not sought above so many times the demand.
pub const CEILING: f64 = 2.0;
/// And always up to this, in bits per second: what is wanted next may be more.
pub const CEILING_MIN: f64 = 1_000_000.0;
/// The highest rate that is probed for, in bits per second.
pub const RATE_MAX: f64 = 20_000_000.0;
const WAITING_MAX: usize = 2;
/// libwebrtc's first two clusters.
const START_FACTORS: [f64; WAITING_MAX] = [3.0, 6.0];
/// libwebrtc: a cluster is at least 15 ms and 5 packets long; a little more smooths the timers.
const CLUSTER_US: i64 = 20_000;
const PACKETS_MIN: u32 = 5;
const CLUSTER_US_MAX: i64 = 200_000;
/// How far ahead of its rate a cluster is sent: the grain of the timers.
const STEP_US: i64 = 4_000;
const RESULT_US_MAX: i64 = 1_000_000;
// libwebrtc's ProbeBitrateEstimator.
const INTERVAL_US_MAX: i64 = 1_000_000;
const RATIO_MAX: f64 = 2.0;
const SATURATED: f64 = 0.9;
const SATURATED_KEEP: f64 = 0.95;
/// The grain of the timers makes short clusters look faster than they were meant to be.
const SENT_MAX: f64 = 1.25;
// Ours.
const BACKOFF_US_MIN: i64 = 1_000_000;
/// A path that has become fast again is to be found within ten seconds (lab, 2026-11-22).
const BACKOFF_US_MAX: i64 = 6_000_000;
/// As much when little is sent: nothing but a probe then shows that there is more.
const BACKOFF_US_MAX_IDLE: i64 = 4_000_000;
/// What a probe showed holds if the path is not full after so long.
const LASTING_US: i64 = 3_000_000;
const OUTGROWN_US_MIN: i64 = 3_000_000;
const OUTGROWN_US_MAX: i64 = 15_000_000;
/// A probe was worth it if the estimate went so far towards it.
const HOPED: f64 = 0.7;
const WORTHWHILE: f64 = 1.05;
/// In bits per second, at an estimate of [`CAREFUL_AT`].
const CAREFUL_STEP: f64 = 350_000.0;
const CAREFUL_AT: f64 = 1_000_000.0;
const CAREFUL_MIN: f64 = 0.15;
/// How long a step has to hold before the next one.
const CAREFUL_US: i64 = 500_000;
const STREAK_MAX: u32 = 3;
/// The demand is met, with room to spare.
const ENOUGH: f64 = 1.1;
const USEFUL: f64 = 1.5;
/// libwebrtc: some seconds after a fall, most of the former rate is tried again.
const RECOVER_US_MIN: i64 = 1_000_000;
const RECOVER_US_MAX: i64 = 5_000_000;
const RECOVER_BELOW: f64 = 0.7;
const RECOVER: f64 = 0.85;
