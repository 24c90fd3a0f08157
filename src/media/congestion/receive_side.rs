//! What a publisher may send, estimated where its packets arrive: for those that take no feedback on each packet and
//! obey a receiver's estimate instead (REMB, draft-alvestrand-rmcat-remb-03; draft-ietf-rmcat-gcc-02 §3.2).
//!
//! When a packet was sent is told by its `abs-send-time` where it has one. Elsewhere the RTP timestamp of a frame must do,
//! which is that of its capture: then only the first packet of each frame says something of the path, as it alone waits
//! for nothing but the path. From there on it is the machine of the sending side, but for two things: nothing can be probed, so
//! that the estimate climbs by what arrives; and what is lost is known from gaps in the numbers of pictures only.

use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, RtpTime, SeqNo16, Ssrc};
use crate::media::congestion::loss::LossControl;
use crate::media::congestion::queueing::Queueing;
use crate::media::congestion::rate::{DelayControl, Observation, RATE_MIN};
use crate::media::congestion::throughput::Throughput;
use crate::media::congestion::trend::{TrendDetector, Usage};

/// The receiving half of congestion control for one publisher.
#[derive(Debug)]
pub struct ReceiveSide {
    /// The instant that all times below count from in microseconds: that of the first packet.
    epoch: Option<Instant>,
    trend: TrendDetector,
    queueing: Queueing,
    throughput: Throughput,
    delay: DelayControl,
    loss: LossControl,
    /// The streams of pictures that come.
    sources: Vec<Source>,
    /// The last `abs-send-time`, and what it is on a clock that does not wrap.
    send_time: Option<(u32, i64)>,
    /// From sending to arrival, of the last packet that told: the clocks are not the same, so that only changes count.
    delay_us: Option<i64>,
    ramp: Ramp,
    /// From when on losses are those of what the publisher was told last.
    settled_us: i64,
    update_at: Option<Instant>,
    /// What it was told last, in bits per second, and when.
    told: Option<(f64, Instant)>,
}

/// What a packet tells of its way.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Its stream.
    pub ssrc: Ssrc,
    /// Its number there.
    pub seq: SeqNo16,
    /// Its timestamp, if it is of pictures: their clock has 90 000 ticks a second.
    pub picture: Option<RtpTime>,
    /// Its `abs-send-time`: seconds in 6.18 fixed point.
    pub send_time: Option<[u8; 3]>,
    /// How long it is, headers included.
    pub bytes: usize,
}

/// One stream of pictures.
#[derive(Debug, Clone, Copy)]
struct Source {
    ssrc: Ssrc,
    /// The highest number.
    highest: SeqNo16,
    /// The timestamp of the latest frame, and what it is since `anchor_us`.
    timestamp: RtpTime,
    ticks: i64,
    /// What its first frame's time of sending is taken for.
    anchor_us: i64,
    seen_us: i64,
}

/// How the estimate climbs while nothing is known to limit it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ramp {
    /// To so many times what arrives.
    Climbs(f64),
    /// It does not: the path was full.
    Over,
}

impl Default for ReceiveSide {
    fn default() -> Self {
        Self {
            epoch: None,
            trend: TrendDetector::default(),
            queueing: Queueing::default(),
            throughput: Throughput::default(),
            delay: DelayControl::default(),
            loss: LossControl::default(),
            sources: Vec::new(),
            send_time: None,
            delay_us: None,
            ramp: Ramp::Climbs(RAMP_START),
            settled_us: 0,
            update_at: None,
            told: None,
        }
    }
}

impl ReceiveSide {
    /// A packet has arrived. True if the deadline has come nearer by that.
    pub fn on_packet(&mut self, now: Instant, packet: &Arrived) -> bool {
        let epoch = *self.epoch.get_or_insert(now);
        let now_us = now.saturating_duration_since(epoch).as_micros() as i64;
        self.throughput
            .on_arrival(now_us, packet.bytes.min(usize::from(u16::MAX)) as u16);
        let frame = packet
            .picture
            .and_then(|timestamp| self.on_picture(now_us, packet, timestamp));
        let sent_us = match packet.send_time {
            Some(time) => Some(self.unwrap_send_time(time)),
            // Two ways to tell the time would be two clocks.
            None => frame.filter(|_| self.send_time.is_none()),
        };
        if let Some(sent_us) = sent_us {
            self.on_sending_known(sent_us, now_us);
        }
        let is_new = self.update_at.is_none();
        if is_new {
            self.update_at = Some(now + UPDATE_INTERVAL);
        }
        is_new
    }

    /// When something is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.update_at
    }

    /// Does what is due. `rtt` is the round trip, if that is known. Returns what the publisher is to be told now.
    pub fn handle_timeout(&mut self, now: Instant, rtt: Option<Duration>) -> Option<Bitrate> {
        if self.update_at.is_none_or(|at| now < at) {
            return None;
        }
        // Nothing is due again before something arrives.
        self.update_at = None;
        let epoch = self.epoch?;
        let now_us = now.saturating_duration_since(epoch).as_micros() as i64;
        self.update(now_us, rtt.unwrap_or(RTT_UNKNOWN).as_micros() as i64);
        // Less than that says nothing of the rate.
        self.throughput.rate()?;
        let rate = self.rate();
        let is_due = self.told.is_none_or(|(told, at)| {
            let since = now.saturating_duration_since(at);
            let is_rise = rate > told * (1.0 + CHANGE_MIN) && since >= RISE_INTERVAL_MIN;
            rate <= told * (1.0 - CHANGE_MIN) || is_rise || since >= REPEAT_INTERVAL
        });
        is_due.then(|| {
            self.told = Some((rate, now));
            Bitrate(rate as u64)
        })
    }

    /// The streams that what is told is of: those of pictures that came lately.
    pub fn streams(&self) -> impl Iterator<Item = Ssrc> + '_ {
        let latest_us = self.sources.iter().map(|source| source.seen_us).max();
        let young = move |source: &&Source| {
            latest_us.is_some_and(|latest| latest - source.seen_us < SOURCE_AGE_US)
        };
        self.sources.iter().filter(young).map(|source| source.ssrc)
    }

    /// The share of packets lost lately, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss.share()
    }

    /// What the publisher may send in all, in bits per second.
    fn rate(&self) -> f64 {
        let rate = self.delay.rate();
        let limit = self.loss.limit().map_or(rate, |limit| limit.min(rate));
        limit.max(RATE_MIN)
    }

    /// Counts a packet of pictures, and says when its frame was captured if it is the frame's first packet.
    fn on_picture(&mut self, now_us: i64, packet: &Arrived, timestamp: RtpTime) -> Option<i64> {
        let Some(at) = self.sources.iter().position(|s| s.ssrc == packet.ssrc) else {
            return Some(self.start_source(now_us, packet, timestamp));
        };
        let source = &mut self.sources[at];
        source.seen_us = now_us;
        let ahead = packet.seq.0.wrapping_sub(source.highest.0) as i16;
        let is_run = ahead.unsigned_abs() <= GAP_MAX;
        if is_run && ahead <= 0 {
            // It came late, and was counted as lost.
            self.loss.on_packet(true, true);
        } else {
            source.highest = packet.seq;
            // What another run left out, it has not lost.
            for _ in 1..ahead * i16::from(is_run) {
                self.loss.on_packet(false, false);
            }
            self.loss.on_packet(true, false);
        }
        let ticks = timestamp.0.wrapping_sub(source.timestamp.0) as i32;
        if ticks <= 0 {
            return None;
        }
        source.timestamp = timestamp;
        source.ticks = source.ticks.saturating_add(i64::from(ticks));
        let sent_us = source.anchor_us + source.ticks.saturating_mul(100) / 9;
        let delay_us = now_us.saturating_sub(sent_us);
        let last_us = self.delay_us.unwrap_or(0);
        if delay_us.abs_diff(last_us) < JUMP_US {
            return Some(sent_us);
        }
        // It has begun anew, or its clock jumped: as if it had come now.
        (source.anchor_us, source.ticks) = (now_us - last_us, 0);
        Some(source.anchor_us)
    }

    /// Another stream of pictures: its first frame is taken to have waited as long as what came last.
    fn start_source(&mut self, now_us: i64, packet: &Arrived, timestamp: RtpTime) -> i64 {
        let anchor_us = now_us - self.delay_us.unwrap_or(0);
        let source = Source {
            ssrc: packet.ssrc,
            highest: packet.seq,
            timestamp,
            ticks: 0,
            anchor_us,
            seen_us: now_us,
        };
        if self.sources.len() < SOURCES_MAX {
            self.sources.push(source);
        } else if let Some(oldest) = self.sources.iter_mut().min_by_key(|s| s.seen_us) {
            *oldest = source;
        }
        anchor_us
    }

    /// The time of sending on a clock that does not wrap after 64 s.
    fn unwrap_send_time(&mut self, [a, b, c]: [u8; 3]) -> i64 {
        let units = u32::from_be_bytes([0, a, b, c]);
        let unwrapped = match self.send_time {
            // The shortest way around the circle of 2^24.
            Some((last, unwrapped)) => {
                let ahead = ((units.wrapping_sub(last) << 8) as i32) >> 8;
                unwrapped + i64::from(ahead)
            }
            None => {
                // So far the timestamps had to do: another clock.
                self.restart();
                i64::from(units)
            }
        };
        self.send_time = Some((units, unwrapped));
        unwrapped.saturating_mul(1_000_000) >> 18
    }

    /// It is known when a packet was sent that has come now.
    fn on_sending_known(&mut self, sent_us: i64, now_us: i64) {
        let delay_us = now_us.saturating_sub(sent_us);
        if self
            .delay_us
            .is_some_and(|last| last.abs_diff(delay_us) >= JUMP_US)
        {
            self.restart();
        }
        self.delay_us = Some(delay_us);
        self.trend.on_packet(sent_us, now_us);
        // Without lengths: what is sent in all is not known here, so that no backlog is told.
        self.queueing.on_packet(sent_us, now_us, 0);
    }

    /// What was seen of delays says nothing any more.
    fn restart(&mut self) {
        self.delay_us = None;
        self.trend = TrendDetector::default();
        self.queueing.rebase();
    }

    fn update(&mut self, now_us: i64, rtt_us: i64) {
        self.queueing.on_batch_end();
        let queue_us = self.queueing.standing_us().unwrap_or(0);
        let usage = self.trend.usage();
        let arriving_smooth = self.throughput.smooth_rate();
        let rate = self.rate();
        self.delay.on_feedback(&Observation {
            now_us,
            usage,
            queue_us,
            backlog: None,
            arriving: self.throughput.rate(),
            arriving_smooth,
            arriving_latest: self.throughput.latest_rate(),
            rtt_us,
            sending: 0.0,
            // Behind a queue it is the path that limits what arrives.
            is_app_limited: usage != Usage::Over
                && queue_us < CLIMB_QUEUE_US_MAX
                && arriving_smooth.is_none_or(|arriving| arriving < rate * APP_LIMITED),
        });
        if self.delay.take_rebase() {
            self.queueing.rebase();
        }
        let has_outgrown = self.delay.take_outgrown();
        if self.delay.is_draining() {
            self.ramp = Ramp::Over;
            self.settled_us = now_us + rtt_us + SETTLE_US;
        } else {
            if has_outgrown && self.ramp == Ramp::Over {
                self.ramp = Ramp::Climbs(RAMP_AGAIN);
            }
            let is_free = usage != Usage::Over && queue_us < CLIMB_QUEUE_US_MAX;
            if let Some(arriving) = arriving_smooth.filter(|_| is_free) {
                // What arrives without a queue, the path has carried.
                let factor = match self.ramp {
                    Ramp::Climbs(factor) => factor,
                    Ramp::Over => 1.0,
                };
                self.delay.raise(arriving * factor);
            }
        }
        self.delay.limit(RATE_MAX);
        if now_us < self.settled_us {
            // What was lost meanwhile was sent before the publisher knew.
            self.loss.restart(now_us);
        } else {
            let former = self.rate();
            self.loss.on_feedback(now_us, former, rtt_us);
            if self.rate() < former {
                self.settled_us = now_us + rtt_us + SETTLE_US;
            }
        }
    }
}

/// How often the estimate is made anew while packets come: as often as a publisher with feedback is told.
const UPDATE_INTERVAL: Duration = Duration::from_millis(80);
/// libwebrtc's: an estimate that falls by so much is told at once, others after this.
const CHANGE_MIN: f64 = 0.03;
const RISE_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// An estimate that stays is told so often, as RTCP may be lost.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Who only publishes may not be told of a round trip.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);
/// Streams of pictures that are kept account of; the one that was not seen for longest goes.
const SOURCES_MAX: usize = 16;
/// A stream that is silent for so much longer than another is not what the estimate is of.
const SOURCE_AGE_US: i64 = 5_000_000;
/// Gaps of more packets than these are another run.
const GAP_MAX: u16 = 1000;
/// A delay does not change by so much from one packet to the next: a clock jumped.
const JUMP_US: u64 = 3_000_000;
/// libwebrtc's bound of the estimate, in what arrives. It is where the first seconds take it.
const RAMP_START: f64 = 1.5;
/// The same where a path seems to carry more than before: its queue is shared with what is sent already.
const RAMP_AGAIN: f64 = 1.2;
/// Behind a longer queue than this the estimate does not follow what arrives.
const CLIMB_QUEUE_US_MAX: i64 = 15_000;
/// An encoder takes a frame or two to follow.
const SETTLE_US: i64 = 100_000;
/// libwebrtc's AlrDetector: below this share of the estimate, what arrives says nothing of the path.
const APP_LIMITED: f64 = 0.65;
/// Nobody is told more than this, in bits per second.
const RATE_MAX: f64 = 50_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MBIT: f64 = 1e6;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A publisher that does as it is told, behind a line of its own: 30 frames a second, and 50 packets of sound.
    struct Uplink {
        side: ReceiveSide,
        zero: Instant,
        /// Bits per second, and what of the packets it loses.
        line: f64,
        loss: f64,
        /// Or all that is beyond so many bits per second, and what of them is left.
        policed: Option<(f64, f64)>,
        /// Packets tell when they were sent.
        has_times: bool,
        /// How much the publisher sends at most, and whether it is told anything.
        source_max: f64,
        obeys: bool,
        told: f64,
        /// What it will be told, and when.
        rembs: VecDeque<(Instant, f64)>,
        flying: VecDeque<(Instant, Arrived)>,
        free_at: Instant,
        frame: u64,
        seq: u16,
        noise: u64,
        /// When, how long a packet waited, and what was told and sent then.
        waits: Vec<(u64, f64)>,
        rates: Vec<(u64, f64)>,
        sent: Vec<(u64, usize)>,
        rembs_sent: Vec<u64>,
    }

    impl Uplink {
        fn new(line: f64, has_times: bool, seed: u64) -> Self {
            let zero = Instant::now();
            Self {
                side: ReceiveSide::default(),
                zero,
                line,
                loss: 0.0,
                policed: None,
                has_times,
                source_max: 2.5e6,
                obeys: true,
                // As libwebrtc begins.
                told: 3e5,
                rembs: VecDeque::new(),
                flying: VecDeque::new(),
                free_at: zero,
                frame: 0,
                seq: 65_000,
                noise: 0x9e37_79b9 * (seed + 1),
                waits: Vec::new(),
                rates: Vec::new(),
                sent: Vec::new(),
                rembs_sent: Vec::new(),
            }
        }

        fn noise(&mut self) -> f64 {
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            (self.noise >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Runs from one time to another, in ms.
        fn run(&mut self, from: u64, to: u64) {
            for at in from..to {
                let now = self.zero + ms(at);
                while self.rembs.front().is_some_and(|(due, _)| *due <= now) {
                    self.told = self.rembs.pop_front().unwrap().1;
                }
                if let Some((rate, left)) = &mut self.policed {
                    *left = (*left + *rate / 1e3).min(80_000.0);
                }
                if at % 20 == 0 {
                    self.send(now, at, 120, None);
                }
                // 30 a second, and not with the sound.
                if at * 3 / 100 != (at + 1) * 3 / 100 {
                    self.send_frame(now, at);
                }
                while self.flying.front().is_some_and(|(due, _)| *due <= now) {
                    let (due, packet) = self.flying.pop_front().unwrap();
                    self.side.on_packet(due, &packet);
                }
                let rtt = Some(ms(100));
                if let Some(remb) = self.side.handle_timeout(now, rtt) {
                    self.rembs_sent.push(at);
                    self.rembs.push_back((now + ms(50), remb.0 as f64));
                }
                self.rates.push((at, self.side.rate()));
            }
        }

        fn send_frame(&mut self, now: Instant, at: u64) {
            self.frame += 1;
            let rate = match self.obeys {
                true => self.told.min(self.source_max),
                false => self.source_max,
            };
            let timestamp = RtpTime((self.frame * 3000) as u32);
            let share = 0.8 + 0.4 * self.noise();
            let mut bytes = ((rate - 48_000.0).max(20_000.0) / 240.0 * share) as usize;
            while bytes > 0 {
                let packet = bytes.min(1150);
                bytes -= packet;
                self.send(now, at, packet, Some(timestamp));
            }
        }

        fn send(&mut self, now: Instant, at: u64, bytes: usize, picture: Option<RtpTime>) {
            self.sent.push((at, bytes));
            self.seq = self.seq.wrapping_add(u16::from(picture.is_some()));
            let waits = self.free_at.saturating_duration_since(now);
            let is_lost = waits > ms(300) || self.noise() < self.loss;
            if is_lost || !self.passes(bytes) {
                return;
            }
            self.waits.push((at, waits.as_secs_f64() * 1e3));
            let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / self.line);
            self.free_at = self.free_at.max(now) + takes;
            let units = (now - self.zero).as_micros() * (1 << 18) / 1_000_000;
            let [.., a, b, c] = (units as u64).to_be_bytes();
            let packet = Arrived {
                ssrc: Ssrc(7),
                seq: SeqNo16(self.seq),
                picture,
                send_time: self.has_times.then_some([a, b, c]),
                bytes,
            };
            self.flying.push_back((self.free_at + ms(50), packet));
        }

        fn passes(&mut self, bytes: usize) -> bool {
            let Some((_, left)) = &mut self.policed else {
                return true;
            };
            let passes = *left > 0.0;
            *left -= if passes { bytes as f64 * 8.0 } else { 0.0 };
            passes
        }

        fn mean_rate(&self, from: u64, to: u64) -> f64 {
            let within = self.rates.iter().filter(|(at, _)| (from..to).contains(at));
            within.map(|(_, rate)| rate).sum::<f64>() / (to - from) as f64
        }

        fn mean_sent(&self, from: u64, to: u64) -> f64 {
            let within = self.sent.iter().filter(|(at, _)| (from..to).contains(at));
            within.map(|(_, bytes)| *bytes as f64).sum::<f64>() * 8e3 / (to - from) as f64
        }

        /// The median of what packets waited, and what one in twenty waited longer than.
        fn waited(&self, from: u64, to: u64) -> (f64, f64) {
            let within = self.waits.iter().filter(|(at, _)| (from..to).contains(at));
            let mut waits: Vec<f64> = within.map(|(_, wait)| *wait).collect();
            waits.sort_by(f64::total_cmp);
            (waits[waits.len() / 2], waits[waits.len() * 19 / 20])
        }
    }

    /// In packets of 1150 bytes and frames in one burst, of which the last waits 30 ms at 1 Mbit/s by itself.
    #[test]
    fn an_obedient_publisher_fills_its_line_and_no_queue() {
        for (has_times, seed) in (0..12).map(|n| (n % 2 == 0, n)) {
            let mut up = Uplink::new(MBIT, has_times, seed);
            let mut at = 0;
            for line in [MBIT, 2.0 * MBIT, 0.5 * MBIT] {
                up.line = line;
                up.run(at, at + 40_000);
                let sent = up.mean_sent(at + 5_000, at + 40_000) / line;
                let told = up.mean_rate(at + 5_000, at + 40_000) / line;
                let (median, p95) = up.waited(at + 5_000, at + 40_000);
                let found = format!("{has_times} {seed} {line}: {told} {sent} {median} {p95}");
                assert!((0.88..1.02).contains(&told), "{found}");
                assert!((0.88..1.02).contains(&sent), "{found}");
                assert!(median < 45.0 && p95 < 160.0, "{found}");
                at += 40_000;
            }
            // Once a second at least, five times at most, and what falls beside.
            let rembs = up.rembs_sent.len() as u64;
            assert!((at / 1000..at / 200).contains(&rembs), "{rembs}");
        }
    }

    #[test]
    fn what_is_sent_all_the_same_is_not_called_too_much() {
        for has_times in [true, false] {
            let mut up = Uplink::new(20.0 * MBIT, has_times, 3);
            (up.obeys, up.source_max) = (false, 3.0 * MBIT);
            up.run(0, 30_000);
            let least = up.rates.iter().filter(|(at, _)| *at > 1000);
            let least = least.map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
            assert!(least > 3.0 * MBIT, "{least}");
            let most = up.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
            assert!(most < 6.0 * MBIT, "bounded by what arrives: {most}");
        }
    }

    #[test]
    fn a_good_line_is_climbed_within_seconds() {
        let mut up = Uplink::new(20.0 * MBIT, true, 4);
        up.run(0, 10_000);
        let (at, _) = up.rates.iter().find(|(_, rate)| *rate > 2.4e6).unwrap();
        assert!(*at < 5_000, "{at}");
    }

    #[test]
    fn losses_of_the_line_itself_are_told_from_those_of_a_full_one() {
        let mut up = Uplink::new(20.0 * MBIT, true, 5);
        up.loss = 0.04;
        up.run(0, 20_000);
        assert!(up.side.rate() > 2.0 * MBIT, "{}", up.side.rate());
        assert!((0.01..0.1).contains(&up.side.loss()), "{}", up.side.loss());
        // A policer: what is beyond is dropped at once, and no delay tells.
        let mut up = Uplink::new(20.0 * MBIT, true, 6);
        up.policed = Some((MBIT, 0.0));
        up.run(0, 40_000);
        let told = up.mean_rate(20_000, 40_000);
        assert!((0.6 * MBIT..1.4 * MBIT).contains(&told), "{told}");
    }

    #[test]
    fn nothing_is_told_while_nothing_comes() {
        let mut up = Uplink::new(MBIT, true, 6);
        assert_eq!(up.side.poll_timeout(), None);
        up.run(0, 5_000);
        let later = up.zero + ms(60_000);
        up.side.handle_timeout(later, None);
        assert_eq!(up.side.poll_timeout(), None);
        assert_eq!(up.side.handle_timeout(later + ms(60_000), None), None);
        assert_eq!(up.side.streams().collect::<Vec<_>>(), [Ssrc(7)]);
    }

    #[test]
    fn clocks_may_jump_and_streams_may_be_many() {
        let zero = Instant::now();
        let mut side = ReceiveSide::default();
        let mut noise = 7_u64;
        for n in 0..100_000_u64 {
            noise = noise
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let [a, b, c, d, e, f, ..] = noise.to_be_bytes();
            let packet = Arrived {
                ssrc: Ssrc(u32::from(a)),
                seq: SeqNo16(u16::from_be_bytes([b, c])),
                picture: (d & 1 == 0).then_some(RtpTime((noise >> 3) as u32)),
                send_time: (n > 50_000 && d & 2 == 0).then_some([d, e, f]),
                bytes: usize::from(u16::from_be_bytes([e, f])) * 2,
            };
            let now = zero + ms(n + u64::from(a == 0) * 100_000);
            side.on_packet(now, &packet);
            if let Some(remb) = side.handle_timeout(now, Some(ms(u64::from(b)))) {
                assert!((50_000..=50_000_000).contains(&remb.0), "{remb:?}");
            }
            assert!(side.streams().count() <= SOURCES_MAX);
        }
    }
}
