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
    /// How many clusters may still be sent to confirm what the last one showed.
    confirms_left: u8,
    /// The next cluster is to confirm the last one.
    is_confirming: bool,
    /// The last fall that is known, by its time.
    decreased_us: Option<i64>,
}

/// What a probe showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeResult {
    /// What went through, in bits per second.
    pub rate: f64,
    /// More did not.
    pub is_saturated: bool,
}

#[derive(Debug, Clone, Copy)]
struct Sending {
    id: ClusterId,
    rate: f64,
    /// How long it is at least.
    min_us: i64,
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
    /// When the estimate last fell.
    pub decreased_us: Option<i64>,
    /// More went through than the path was seen to carry.
    pub outgrown: bool,
    /// Less is sent than the estimate: nothing but probes shows whether there is more.
    pub is_unused: bool,
    /// What the path was seen to carry when it was full.
    pub capacity: Option<f64>,
    /// What a probe showed that is believed only if another one says the same.
    pub unconfirmed: Option<f64>,
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
            confirms_left: CONFIRMS_MAX,
            is_confirming: false,
            decreased_us: None,
        }
    }
}

impl Situation {
    /// How fast the next probe is: twice the estimate; twice what the path carried, where the estimate is below that
    /// for a moment, so that it can show what is believed.
    fn next(&self) -> f64 {
        let usual = self.capacity.map_or(0.0, |capacity| capacity * USUAL);
        2.0 * self.estimate.max(usual)
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
        if seen.decreased_us != self.decreased_us {
            self.decreased_us = seen.decreased_us;
            let soon_us = seen.decreased_us.map_or(0, |at| at + RECOVER_US);
            self.next_us = self.next_us.min(soon_us);
        }
        if seen.is_unused {
            self.backoff_us = self.backoff_us.min(BACKOFF_US_MAX_IDLE);
            self.next_us = self.next_us.min(seen.now_us + BACKOFF_US_MAX_IDLE);
        }
        let ceiling = ceiling(seen.demand);
        let next = seen.next();
        // Who fills a path that was full sees by that whether there is more.
        let is_seen = seen.capacity.is_some() && !seen.is_unused;
        if let Some(shown) = seen.unconfirmed
            && self.confirms_left > 0
        {
            self.confirms_left -= 1;
            self.is_confirming = true;
            self.send_cluster(shown / KEEP, seen.estimate);
        } else if seen.outgrown && seen.now_us >= self.outgrown_next_us {
            self.is_for_outgrown = true;
            self.try_rate(next.min(ceiling), seen.estimate);
        } else if seen.now_us >= self.next_us
            && !is_seen
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

    /// A burst of [`BURST_US`] is sent next, so that others' packets are seen to wait for it. False if something else is being
    /// tried.
    pub fn try_burst(&mut self, rate: f64) -> bool {
        let is_busy = self.sending.is_some()
            || self.waiting.iter().any(Option::is_some)
            || self.awaited.iter().any(Option::is_some);
        if is_busy || !self.started {
            return false;
        }
        // What it shows counts as a probe's result, but nothing was hoped for.
        self.is_confirming = true;
        self.waiting[0] = Some(rate.min(RATE_MAX));
        true
    }

    /// A packet of a probe arrived.
    pub fn on_arrival(&mut self, id: ClusterId, sent_us: i64, arrived_us: i64, bytes: u16) {
        let mut awaited = self.awaited.iter_mut().flatten();
        if let Some(cluster) = awaited.find(|cluster| cluster.id == id) {
            cluster.on_arrival(sent_us, arrived_us, u32::from(bytes));
        }
    }

    /// What a probe showed that is over: all of it has arrived, or something that was sent later, the latest of it at
    /// `sent_us`.
    pub fn take_result(&mut self, sent_us: i64) -> Option<ProbeResult> {
        let entry = self.awaited.iter_mut().find(|entry| {
            entry.is_some_and(|cluster| {
                let is_complete = cluster.arrived_packets == cluster.sent_packets;
                cluster
                    .ended_us
                    .is_some_and(|at| is_complete || sent_us > at)
            })
        })?;
        entry.take()?.result()
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
        let (id, rate, min_us) = (sending.id, sending.rate, sending.min_us);
        let (all_bytes, all_packets) = (sending.bytes, sending.packets);
        if let Some(cluster) = self.awaited.iter_mut().flatten().find(|c| c.id == id) {
            (cluster.sent_bytes, cluster.sent_packets) = (all_bytes, all_packets);
        }
        if f64::from(all_bytes) >= rate * min_us as f64 / 8e6 && all_packets >= PACKETS_MIN {
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
            self.next_us = seen.now_us;
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

    /// What is being sent, or was to be, cannot be: not before some time has passed. Says how fast it would have been.
    pub fn give_up(&mut self, now_us: i64) -> Option<f64> {
        let tried = self.sending.map(|sending| sending.rate);
        if let Some(sending) = self.sending.take() {
            for entry in &mut self.awaited {
                if entry.is_some_and(|cluster| cluster.id == sending.id) {
                    *entry = None;
                }
            }
        }
        self.waiting = [None; WAITING_MAX];
        self.hoped = None;
        // That says nothing of the path: who carries probes may just not have been there.
        self.next_us = now_us + GIVEN_UP_US;
        tried
    }

    fn back_off(&mut self, now_us: i64) {
        self.is_exploring = false;
        self.next_us = now_us + self.backoff_us;
        self.backoff_us = (self.backoff_us * 2).min(BACKOFF_US_MAX);
    }

    fn try_rate(&mut self, rate: f64, estimate: f64) {
        if rate > estimate * WORTHWHILE {
            self.confirms_left = CONFIRMS_MAX;
            self.send_cluster(rate, estimate);
        }
    }

    fn send_cluster(&mut self, rate: f64, estimate: f64) {
        self.waiting[0] = Some(rate);
        self.hoped = Some(estimate + HOPED * (rate - estimate));
    }

    fn begin(&mut self, rate: f64) {
        self.last_id = self.last_id.wrapping_add(1);
        let id = ClusterId(self.last_id);
        let min_us = match std::mem::take(&mut self.is_confirming) {
            true => CONFIRMING_US,
            false => CLUSTER_US,
        };
        self.sending = Some(Sending {
            id,
            rate,
            min_us,
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
        if self.arrived_packets * 3 < self.sent_packets * 2
            || self.arrived_bytes * 3 < self.sent_bytes * 2
            || self.arrived_packets < PACKETS_MIN - 2
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
        // What is there is not to be used to the last: of a path that just carries the probe as little as of one that
        // does not.
        Some(ProbeResult {
            rate: sent.min(arrived * KEEP),
            is_saturated: arrived < sent * SATURATED,
        })
    }
}

/// What is tried at most, in bits per second: nothing above is of use for what is sent.
pub fn ceiling(demand: Option<f64>) -> f64 {
    demand.map_or(UNKNOWN_MAX, |demand| {
        (demand * CEILING).clamp(CEILING_MIN, RATE_MAX)
    })
}

/// The estimate is not sought above so many times the demand.
const CEILING: f64 = 2.0;
/// And always up to this, in bits per second: what is wanted next may be more.
const CEILING_MIN: f64 = 1_000_000.0;
/// Up to this while nobody knows what is wanted: a 720p layer and the rest.
const UNKNOWN_MAX: f64 = 4_000_000.0;
/// The highest rate that is probed for, in bits per second.
const RATE_MAX: f64 = 20_000_000.0;
const WAITING_MAX: usize = 2;
/// libwebrtc's first two clusters.
const START_FACTORS: [f64; WAITING_MAX] = [3.0, 6.0];
/// libwebrtc: a cluster is at least 15 ms and 5 packets long; a little more smooths the timers.
const CLUSTER_US: i64 = 20_000;
const PACKETS_MIN: u32 = 5;
/// One that confirms another lasts longer than a frame of 30 a second, so that none of another sender is overlooked.
const CONFIRMING_US: i64 = BURST_US;
/// How long a burst lasts that others are to be seen in: each has at least one packet of sound in its second half.
pub const BURST_US: i64 = 40_000;
/// Each is as fast as the one before arrived: so it comes nearer to what is free.
const CONFIRMS_MAX: u8 = 2;
const CLUSTER_US_MAX: i64 = 200_000;
/// How far ahead of its rate a cluster is sent: the grain of the timers.
const STEP_US: i64 = 4_000;
const RESULT_US_MAX: i64 = 1_000_000;
// libwebrtc's ProbeBitrateEstimator, but for the share that has to arrive: four fifths there, two thirds here, as a path that
// loses a tenth by itself loses two of eight often enough.
const INTERVAL_US_MAX: i64 = 1_000_000;
const RATIO_MAX: f64 = 2.0;
const SATURATED: f64 = 0.9;
const KEEP: f64 = 0.95;
/// The grain of the timers makes short clusters look faster than they were meant to be.
const SENT_MAX: f64 = 1.25;
// Ours.
const BACKOFF_US_MIN: i64 = 1_000_000;
const GIVEN_UP_US: i64 = 200_000;
/// A path that has become fast again is to be found within ten seconds (lab, 2026-11-22).
const BACKOFF_US_MAX: i64 = 6_000_000;
/// As much when little is sent: nothing but a probe then shows that there is more, and a capacity that doubled is to be
/// known within five seconds, with two probes.
const BACKOFF_US_MAX_IDLE: i64 = 2_000_000;
/// Once it drained, a path is used as far as this share of what it carried.
const USUAL: f64 = 0.93;
/// What a probe showed holds if the path is not full after so long.
const LASTING_US: i64 = 3_000_000;
const OUTGROWN_US_MIN: i64 = 1_000_000;
const OUTGROWN_US_MAX: i64 = 2_000_000;
/// A probe was worth it if the estimate went so far towards it.
const HOPED: f64 = 0.7;
const WORTHWHILE: f64 = 1.05;
/// The demand is met, with room to spare.
const ENOUGH: f64 = 1.4;
const USEFUL: f64 = 1.7;
/// After a fall it is soon tried whether that was for a moment only.
const RECOVER_US: i64 = 1_000_000;
