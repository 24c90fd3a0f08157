//! What may be sent to one peer: its feedback put together into one estimate.
//!
//! Knows numbers and times, no packet: its caller writes the numbers it gives into packets, and sends padding
//! when it asks for that.

use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, SeqNo16};
use crate::media::congestion::history::{Fate, SentHistory, SentPacket};
use crate::media::congestion::leap::Leaps;
use crate::media::congestion::loss::LossControl;
use crate::media::congestion::pacer::Pace;
use crate::media::congestion::probe::{BURST_US, ProbeResult, Prober, Situation, ceiling};
use crate::media::congestion::queueing::Queueing;
use crate::media::congestion::rate::{DelayControl, Observation, RATE_MIN, START};
use crate::media::congestion::throughput::Throughput;
use crate::media::congestion::trend::{TrendDetector, Usage};
use crate::wire::bandwidth::{TICK_US, TICKS_PER_REFERENCE, TransportFeedback};

/// The sending half of congestion control for one peer.
#[derive(Debug, Default)]
pub struct SendSide {
    /// The instant that all times below count from in microseconds: that of the first packet or input.
    epoch: Option<Instant>,
    /// The last instant that was asked for, and what it is in microseconds.
    latest: Option<(Instant, i64)>,
    history: SentHistory,
    trend: TrendDetector,
    queueing: Queueing,
    throughput: Throughput,
    delay: DelayControl,
    loss: LossControl,
    prober: Prober,
    sending: SendingRate,
    receiver: ReceiverClock,
    demand: Option<f64>,
    known_demand: f64,
    /// Pictures go out without numbers: feedback tells nothing of what they do to the path.
    is_partial: bool,
    leaps: Leaps,
    rtt_us: Option<i64>,
    /// When the first packet that no feedback has answered was sent.
    unanswered_us: Option<i64>,
    feedback_us: Option<i64>,
    /// When it is next looked at whether the peer has fallen silent.
    check_us: Option<i64>,
    /// The deadline may have come nearer by what was sent.
    wakes: bool,
    remb: Option<Told>,
    /// The estimate that its user last asked for.
    told: Option<Bitrate>,
    /// A moment whose packets are looked at.
    watch: Option<Watch>,
}

impl SendSide {
    /// The transport-wide number that the next packet carries.
    #[inline]
    #[must_use]
    pub fn next_number(&self) -> SeqNo16 {
        SeqNo16(self.history.next() as u16)
    }

    /// Reads what the next packet needs, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let latest = self.latest.map_or(0, |(_, us)| us);
        self.history.touch() ^ latest as u64 ^ self.sending.bytes ^ u64::from(self.wakes)
    }

    /// A datagram goes out now, with the number that [`SendSide::next_number`] gave: `bytes` on the path, all
    /// headers included.
    #[inline]
    pub fn on_sent(&mut self, now: Instant, bytes: usize) {
        let at_us = self.micros(now);
        if self.unanswered_us.is_none() {
            self.on_first_sent(at_us);
        }
        let bytes = bytes as u16;
        self.sending.bytes += u64::from(bytes);
        let cluster = self.prober.on_sent(at_us, bytes);
        self.history.push(SentPacket {
            at_us,
            bytes,
            cluster,
            fate: Fate::Unknown,
        });
    }

    /// Takes feedback on what was sent.
    pub fn on_feedback(&mut self, now: Instant, feedback: &TransportFeedback) {
        let now_us = self.micros(now);
        let Some(base) = self.history.extend(feedback.base) else {
            return;
        };
        let reference_us = self.receiver.on_reference(feedback.reference);
        let mut latest_sent_us = None;
        // What was not sent yet cannot have arrived.
        for (seq, arrival) in (base..self.history.next()).zip(&feedback.arrivals) {
            let Some(packet) = self.history.get_mut(seq) else {
                continue;
            };
            let former = packet.fate;
            let Some(ticks) = arrival else {
                if former == Fate::Unknown {
                    packet.fate = Fate::Missing;
                    self.queueing.on_missing(packet.bytes);
                    self.loss.on_packet(false, false);
                }
                continue;
            };
            if former == Fate::Arrived {
                continue;
            }
            packet.fate = Fate::Arrived;
            let packet = *packet;
            let arrived_us = reference_us + i64::from(*ticks) * TICK_US;
            latest_sent_us = latest_sent_us.max(Some(packet.at_us));
            self.loss.on_packet(true, former == Fate::Missing);
            self.trend.on_packet(packet.at_us, arrived_us);
            let waited_us = self
                .queueing
                .on_packet(packet.at_us, arrived_us, packet.bytes);
            if let Some(watch) = &mut self.watch {
                watch.on_packet(packet.at_us, waited_us);
            }
            self.throughput.on_arrival(arrived_us, packet.bytes);
            if let Some(id) = packet.cluster {
                self.prober
                    .on_arrival(id, packet.at_us, arrived_us, packet.bytes);
            }
        }
        let Some(sent_us) = latest_sent_us else {
            return;
        };
        let probed = self.prober.take_result(sent_us);
        self.queueing.on_batch_end();
        let rtt_us = (now_us - sent_us).max(1);
        let smoothed = self.rtt_us.map(|rtt| rtt + (rtt_us - rtt) / 8);
        self.rtt_us = Some(smoothed.unwrap_or(rtt_us));
        self.feedback_us = Some(now_us);
        self.unanswered_us = None;
        self.update(now_us, probed);
    }

    /// Takes a receiver's own estimate. It counts as long as there is no feedback on packets.
    pub fn on_remb(&mut self, now: Instant, bitrate: Bitrate) {
        let now_us = self.micros(now);
        let young_us = now_us + REMB_AGE_US;
        self.remb = Some(Told {
            rate: (bitrate.0 as f64).clamp(RATE_MIN, REMB_MAX),
            young_us,
        });
        self.check_us.get_or_insert(young_us);
    }

    /// What may be sent in all, once a queue that drains at present is gone. `None`: nothing is known, and nothing is
    /// limited.
    #[must_use]
    pub fn estimate(&self) -> Option<Bitrate> {
        self.known(self.limited(self.delay.lasting_rate()))
    }

    /// What may be sent in all at this moment.
    #[must_use]
    pub fn present_rate(&self) -> Option<Bitrate> {
        self.known(self.rate())
    }

    /// `rate` if feedback tells, what else is known if not.
    fn known(&self, rate: f64) -> Option<Bitrate> {
        if self.is_partial {
            return self.told_rate();
        }
        let latest_us = self.latest.map_or(0, |(_, us)| us);
        let is_young = self
            .unanswered_us
            .is_some_and(|since| latest_us - since < GRACE_US);
        if self.feedback_us.is_some() || (self.remb.is_none() && is_young) {
            return Some(Bitrate(rate as u64));
        }
        self.told_rate()
    }

    /// What the receiver says that it can take.
    #[must_use]
    pub fn told_rate(&self) -> Option<Bitrate> {
        self.remb.map(|told| Bitrate(told.rate as u64))
    }

    /// How the estimate differs from the one at the last change, if it does by so much that something may follow from that.
    pub fn take_change(&mut self) -> Option<Change> {
        let estimate = self.estimate();
        let is_same = match (self.told, estimate) {
            (None, None) => true,
            (Some(told), Some(now)) => told.0.abs_diff(now.0) as f64 <= told.0 as f64 * CHANGE_MIN,
            _ => false,
        };
        if is_same {
            return None;
        }
        let told = std::mem::replace(&mut self.told, estimate);
        let is_fall = matches!((told, estimate), (Some(told), Some(now)) if now.0 < told.0 / 2);
        Some(if is_fall { Change::Fall } else { Change::Usual })
    }

    /// What would be sent if nothing limited it: more is not probed for. `is_all`: if not, nobody knows how much more.
    pub fn set_demand(&mut self, demand: Bitrate, is_all: bool) {
        self.known_demand = demand.0 as f64;
        self.demand = is_all.then_some(self.known_demand);
    }

    /// Whether pictures go out without transport-wide numbers, so that feedback is on sound alone: then nothing but what the
    /// receiver says itself limits them.
    pub fn set_partial(&mut self, is_partial: bool) {
        self.is_partial = is_partial;
    }

    /// How long packets wait on the path, as far as that is known.
    #[must_use]
    pub fn queue_delay(&self) -> Option<Duration> {
        let us = self.queueing.standing_us()?;
        Some(Duration::from_micros(us.unsigned_abs()))
    }

    /// How the present rate is to be used.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match () {
            () if self.delay.is_draining() => Pace::Draining,
            () if self.sending.rate < HEADROOM_BELOW * self.rate() => Pace::Loose,
            () => Pace::Tight,
        }
    }

    /// Whether the deadline may have come nearer by what was sent since this was last asked.
    #[inline]
    pub fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.wakes)
    }

    /// The time as the `abs-send-time` header extension has it: seconds in 6.18 fixed point.
    #[must_use]
    pub fn send_time(&mut self, now: Instant) -> [u8; 3] {
        let us = self.micros(now).unsigned_abs();
        let [.., a, b, c] = ((us << 18) / 1_000_000).to_be_bytes();
        [a, b, c]
    }

    /// How many bytes of padding are to go out now, to probe the path; 0 for none.
    pub fn padding_due(&mut self, now: Instant) -> usize {
        let now_us = self.micros(now);
        self.prober.bytes_due(now_us)
    }

    /// What [`SendSide::padding_due`] asked for cannot be sent. Without this its deadline would stay due. If there is nothing
    /// to send padding on and more is wanted than the estimate allows, that is raised without a probe, see [`Leaps`].
    pub fn on_padding_refused(&mut self, now: Instant, refusal: Refusal) {
        let now_us = self.micros(now);
        let tried = self.prober.give_up(now_us);
        let rate = self.rate();
        if self.leaps.has_failed(now_us, rate) {
            // It may have been losses that showed it, and those of now say nothing of more.
            self.delay.limit(rate);
        }
        let is_awaited = rate < self.known_demand * ALLOCATED;
        let is_clear = !self.delay.is_draining() && self.loss.limit().is_none();
        if let Some(tried) = tried
            && refusal == Refusal::NoStream
            && is_awaited
            && is_clear
        {
            let wanted = tried.min(self.known_demand * USEFUL);
            if self.leaps.may_leap(now_us, rate, wanted) {
                self.delay.leap(wanted);
            }
        }
    }

    /// Sends a burst of padding now, at `rate` with all else, and watches what waits with it. False if that
    /// cannot be: there is a queue already, or something else is being tried.
    pub fn begin_burst(&mut self, now: Instant, rate: Bitrate) -> bool {
        let is_begun = self.is_quiet() && self.prober.try_burst(rate.0 as f64);
        if is_begun {
            self.watch_burst(now);
            self.wakes = true;
        }
        is_begun
    }

    /// Watches what waits of packets that are sent during a burst, which begins now.
    pub fn watch_burst(&mut self, now: Instant) {
        let now_us = self.micros(now);
        self.watch = Some(Watch {
            from_us: now_us + BURST_US / 2,
            to_us: now_us + BURST_US * 3 / 2,
            least_us: None,
        });
    }

    /// How long the luckiest packet waited of those that were sent during the last burst; once.
    pub fn take_watched(&mut self) -> Option<Duration> {
        let least_us = self.watch.take()?.least_us?;
        Some(Duration::from_micros(least_us.max(0).unsigned_abs()))
    }

    /// Whether there is neither a queue nor reason to think that there is: what waits then is seen.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let queue_us = self.queueing.standing_us();
        !self.delay.is_draining() && queue_us.is_some_and(|queue_us| queue_us < QUIET_US_MAX)
    }

    /// When padding may be due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, latest_us) = self.latest?;
        self.instant(self.prober.poll_timeout(latest_us)?)
    }

    /// When the silence of the peer tells something. That need not be exact.
    #[must_use]
    pub fn silence_timeout(&self) -> Option<Instant> {
        self.instant(self.check_us?)
    }

    fn instant(&self, at_us: i64) -> Option<Instant> {
        let since = Duration::from_micros(at_us.max(0).unsigned_abs());
        self.epoch.map(|epoch| epoch + since)
    }

    /// Does what is due, but for padding.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now_us = self.micros(now);
        if self.check_us.is_none_or(|at| now_us < at) {
            return;
        }
        let remb_us = self.age_remb(now_us);
        let unanswered = self
            .unanswered_us
            .is_some_and(|since| now_us - since >= SILENCE_US);
        let answered_us = self.feedback_us.filter(|_| unanswered);
        match answered_us {
            Some(_) => {
                self.delay.on_silence(now_us);
                self.check_us = Some(now_us + SILENCE_US / 2);
            }
            // As long as nothing is sent there is nothing to wait for.
            None => {
                let silent_us = self.unanswered_us.map(|since| since + SILENCE_US);
                self.check_us = silent_us.map(|at| at.max(now_us + SILENCE_US / 4));
            }
        }
        self.check_us = match (self.check_us, remb_us) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) | (None, one) => one,
        };
    }

    /// What a receiver said and does not repeat counts for less and less: it may have been of a bad moment, and nothing else
    /// would ever raise it. Says when that is next looked at.
    fn age_remb(&mut self, now_us: i64) -> Option<i64> {
        if self.feedback_us.is_some() && !self.is_partial {
            self.remb = None;
        }
        let told = self.remb.as_mut()?;
        if now_us >= told.young_us {
            told.rate *= REMB_GROWTH;
            told.young_us = now_us + REMB_STEP_US;
            if told.rate > ceiling(self.demand) {
                self.remb = None;
                return None;
            }
        }
        self.remb.map(|told| told.young_us)
    }

    fn update(&mut self, now_us: i64, probed: Option<ProbeResult>) {
        let is_app_limited = self.sending.update(now_us, self.rate() * APP_LIMITED);
        if self.queueing.has_just_stalled() {
            return;
        }
        let queue_us = self.queueing.standing_us().unwrap_or(0);
        let usage = self.trend.usage();
        self.delay.on_feedback(&Observation {
            now_us,
            usage,
            queue_us,
            backlog: self.queueing.backlog(),
            arriving: self.throughput.rate(),
            arriving_smooth: self.throughput.smooth_rate(),
            arriving_latest: self.throughput.latest_rate(),
            rtt_us: self.rtt_us.unwrap_or(0),
            sending: self.sending.rate,
            is_app_limited,
        });
        if self.delay.take_rebase() {
            self.queueing.rebase();
        }
        let is_congested =
            self.delay.is_draining() || usage == Usage::Over || queue_us >= PROBE_QUEUE_US_MAX;
        if let Some(result) = probed
            && usage != Usage::Over
        {
            self.delay.on_probe(result, self.throughput.smooth_rate());
            self.loss.on_probe(result.rate);
        }
        self.delay.limit(ceiling(self.demand));
        if self.delay.is_draining() {
            // What the full queue has dropped was sent before, and has been answered.
            self.loss.restart(now_us);
        } else {
            self.loss
                .on_feedback(now_us, self.rate(), self.rtt_us.unwrap_or(0));
        }
        self.prober.on_feedback(&Situation {
            now_us,
            estimate: self.rate(),
            demand: self.demand,
            is_congested,
            decreased_us: self.delay.decreased_us(),
            outgrown: self.delay.take_outgrown(),
            is_unused: self.delay.is_unused(),
            capacity: self.delay.capacity(),
            unconfirmed: self.delay.unconfirmed(now_us),
        });
    }

    /// The first packet since the last feedback, or of all.
    #[cold]
    fn on_first_sent(&mut self, now_us: i64) {
        self.unanswered_us = Some(now_us);
        if self.check_us.is_none() {
            self.check_us = Some(now_us + SILENCE_US);
            self.wakes = true;
        }
        if self.history.next() == 0 {
            self.prober.start(now_us, START, self.demand);
            self.wakes = true;
        }
    }

    fn rate(&self) -> f64 {
        self.limited(self.delay.rate())
    }

    fn limited(&self, rate: f64) -> f64 {
        self.loss.limit().map_or(rate, |limit| limit.min(rate))
    }

    #[inline]
    fn micros(&mut self, now: Instant) -> i64 {
        if let Some((latest, us)) = self.latest
            && latest == now
        {
            return us;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let us = now.saturating_duration_since(epoch).as_micros() as i64;
        self.latest = Some((now, us));
        us
    }
}

/// A moment of which it is asked how long its packets waited.
#[derive(Debug, Clone, Copy)]
struct Watch {
    from_us: i64,
    to_us: i64,
    least_us: Option<i64>,
}

impl Watch {
    fn on_packet(&mut self, sent_us: i64, waited_us: i64) {
        if (self.from_us..self.to_us).contains(&sent_us) {
            self.least_us = Some(
                self.least_us
                    .map_or(waited_us, |least| least.min(waited_us)),
            );
        }
    }
}

/// A receiver's own estimate.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// In bits per second.
    rate: f64,
    /// When it counts for less.
    young_us: i64,
}

/// Why padding was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// None of what the peer receives has a stream for it.
    NoStream,
    /// It could not go out at this moment.
    NotNow,
}

/// How an estimate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It can wait a little what follows from that.
    Usual,
    /// To less than half: what is sent is far too much.
    Fall,
}

/// How much is sent.
#[derive(Debug, Default)]
struct SendingRate {
    /// Since the last update.
    bytes: u64,
    updated_us: i64,
    /// Smoothed, in bits per second.
    rate: f64,
}

impl SendingRate {
    /// Brings the rate up to date, and says whether it is below `threshold`.
    fn update(&mut self, now_us: i64, threshold: f64) -> bool {
        let elapsed_us = now_us - self.updated_us;
        if elapsed_us >= SENDING_US_MIN {
            let rate = self.bytes as f64 * 8e6 / elapsed_us as f64;
            let weight = (elapsed_us as f64 / SENDING_US).min(1.0);
            self.rate += weight * (rate - self.rate);
            (self.bytes, self.updated_us) = (0, now_us);
        }
        self.rate < threshold
    }
}

/// The receiver's clock, from the 24 bits of its references (draft-holmer §3.1): unwrapped.
#[derive(Debug, Default)]
struct ReceiverClock {
    last: Option<(i32, i64)>,
}

impl ReceiverClock {
    fn on_reference(&mut self, reference: i32) -> i64 {
        let units = match self.last {
            // The shortest way around the circle of 2^24.
            Some((last, units)) => units + i64::from((reference.wrapping_sub(last) << 8) >> 8),
            None => i64::from(reference),
        };
        self.last = Some((reference, units));
        units * TICKS_PER_REFERENCE * TICK_US
    }
}

/// A peer that answers nothing for so long after its first packet sends no feedback.
const GRACE_US: i64 = 3_000_000;
/// No feedback for so long while something was sent: less is sent. libwebrtc's receivers send some at least
/// every 250 ms.
const SILENCE_US: i64 = 1_000_000;
/// libwebrtc's AlrDetector: below this share of the estimate, what is sent says nothing of the path.
const APP_LIMITED: f64 = 0.65;
/// Below this share of the estimate frames are not spread: the path has carried one before the next comes. Spreading costs
/// a system call for each part instead of one for the frame (measured: up to a third of the server's CPU at 1→50).
const HEADROOM_BELOW: f64 = 0.85;
const PROBE_QUEUE_US_MAX: i64 = 15_000;
/// So many times the demand and all of it is given, with the room to spare that a step up needs (`media::allocation`).
const ALLOCATED: f64 = 1.2;
/// More than that is of no use.
const USEFUL: f64 = 1.7;
/// Half of what a burst has to make to be seen.
const QUIET_US_MAX: i64 = 5_000;
/// What a receiver says beyond that means that nothing limits it.
const REMB_MAX: f64 = 1e9;
/// libwebrtc's receivers repeat an estimate every second at least; who says nothing for so long does not any more.
const REMB_AGE_US: i64 = 5_000_000;
/// From then on it grows as an estimate does that nothing speaks against: by 8 % a second (draft-ietf-rmcat-gcc-02 §5.5).
const REMB_STEP_US: i64 = 1_000_000;
const REMB_GROWTH: f64 = 1.08;
/// Smaller changes of the estimate than this are not told.
const CHANGE_MIN: f64 = 0.04;
const SENDING_US: f64 = 500_000.0;
const SENDING_US_MIN: i64 = 50_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Ssrc;
    use crate::media::congestion::recorder::ArrivalRecorder;

    #[test]
    fn what_a_receiver_said_once_does_not_limit_for_ever() {
        let t0 = Instant::now();
        let s = Duration::from_secs;
        let mut side = SendSide::default();
        side.on_remb(t0, Bitrate(500_000));
        let run = |side: &mut SendSide, to: Instant| {
            while let Some(at) = side.silence_timeout().filter(|at| *at <= to) {
                side.handle_timeout(at);
            }
            side.estimate().map(|estimate| estimate.0)
        };
        assert_eq!(run(&mut side, t0 + s(4)), Some(500_000));
        side.on_remb(t0 + s(4), Bitrate(400_000));
        assert_eq!(run(&mut side, t0 + s(8)), Some(400_000));
        let later = run(&mut side, t0 + s(19)).unwrap();
        assert!((800_000..1_400_000).contains(&later), "{later}");
        assert_eq!(
            run(&mut side, t0 + s(60)),
            None,
            "nothing is known any more"
        );
        assert_eq!(side.silence_timeout(), None);
        side.on_remb(t0 + s(61), Bitrate(300_000));
        assert_eq!(run(&mut side, t0 + s(62)), Some(300_000));
        // Of nothing nothing would grow.
        side.on_remb(t0 + s(63), Bitrate(0));
        assert_eq!(run(&mut side, t0 + s(64)), Some(50_000));
        assert_eq!(run(&mut side, t0 + s(180)), None);
    }

    /// Two that share a queue: packets of the one wait while the other sends a burst.
    #[test]
    fn a_burst_is_seen_in_the_packets_of_others() {
        let t0 = Instant::now();
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        let mut side = SendSide::default();
        assert!(!side.begin_burst(t0, Bitrate(2_000_000)), "not yet");
        let mut recorder = ArrivalRecorder::default();
        let mut send = |side: &mut SendSide, ms: u64, waits: u64| {
            let number = side.next_number();
            side.on_sent(at(ms), 100);
            recorder.on_packet(at(ms + 20 + waits), number, Ssrc(1));
            let mut out = Vec::new();
            if recorder.write_due(at(ms + 100), Ssrc(2), &mut out) {
                let feedback = TransportFeedback::parse(&out).unwrap();
                side.on_feedback(at(ms + 100), &feedback);
            }
        };
        (0..100).for_each(|n| send(&mut side, n * 20, 0));
        side.on_padding_refused(at(2000), Refusal::NotNow);
        assert!(side.is_quiet() && side.take_watched().is_none());
        assert!(side.begin_burst(at(2000), Bitrate(2_000_000)));
        assert!(
            !side.begin_burst(at(2000), Bitrate(2_000_000)),
            "one at a time"
        );
        assert!(side.padding_due(at(2000)) > 0);
        // Only the second half of the burst, and what is sent soon after, counts.
        for (n, waits) in [5, 12, 18, 15, 2, 0, 0, 0].into_iter().enumerate() {
            send(&mut side, 2000 + n as u64 * 19, waits);
        }
        (8..20).for_each(|n| send(&mut side, 2000 + n * 19, 0));
        assert_eq!(side.take_watched(), Some(Duration::from_millis(15)));
        assert_eq!(side.take_watched(), None);
    }

    #[test]
    fn a_probe_that_cannot_be_sent_leaves_no_deadline_behind() {
        let t0 = Instant::now();
        let mut side = SendSide::default();
        side.on_sent(t0, 200);
        let due = side
            .poll_timeout()
            .expect("the first packet starts a probe");
        let now = due.max(t0);
        side.handle_timeout(now);
        assert!(side.padding_due(now) > 0);
        side.on_padding_refused(now, Refusal::NotNow);
        assert!(side.poll_timeout().is_none_or(|at| at > now));
        assert_eq!(side.padding_due(now), 0);
    }
    /// What allocation needs is the demand and room to spare.
    #[test]
    fn who_cannot_be_probed_gets_to_what_is_wanted() {
        let t0 = Instant::now();
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        for demand in [400_000, 600_000, 1_000_000, 1_160_000, 2_300_000] {
            let mut side = SendSide::default();
            let mut recorder = ArrivalRecorder::default();
            for ms in (0..5000).step_by(20) {
                let wanted = if ms < 1000 { 50_000 } else { demand };
                // Something else has never sent anything yet.
                side.set_demand(Bitrate(wanted), false);
                let number = side.next_number();
                side.on_sent(at(ms), 150);
                recorder.on_packet(at(ms + 20), number, Ssrc(1));
                let mut out = Vec::new();
                if recorder.write_due(at(ms + 20), Ssrc(2), &mut out) {
                    let feedback = TransportFeedback::parse(&out).unwrap();
                    side.on_feedback(at(ms + 20), &feedback);
                }
                if side.padding_due(at(ms + 20)) > 0 {
                    side.on_padding_refused(at(ms + 20), Refusal::NoStream);
                }
            }
            let rate = side.rate() as u64;
            let most = (demand * 2).max(1_000_000);
            assert!(
                (demand * 23 / 20..=most).contains(&rate),
                "{rate} for {demand}"
            );
        }
    }
}
