//! The numbers that the sending side is held to, on a bottleneck of its own: a rate, a queue, a delay.
//! Frame sizes and jitter are random, from fixed seeds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, Ssrc};
use crate::base::time::earliest;
use crate::media::congestion::pacer::{Budget, PacingQueue, STEP};
use crate::media::congestion::recorder::ArrivalRecorder;
use crate::media::congestion::send_side::SendSide;
use crate::wire::bandwidth::TransportFeedback;

/// A link that several flows share.
struct Link {
    bits_per_second: f64,
    delay: Duration,
    queue_max: Duration,
    free_at: Instant,
    loss: f64,
    jitter: Duration,
    noise: Noise,
}

impl Link {
    /// When a packet sent now arrives, and how long it waited. `None`: it is lost.
    fn send(&mut self, now: Instant, bytes: usize) -> Option<(Instant, Duration)> {
        let waits = self.free_at.saturating_duration_since(now);
        if waits > self.queue_max || self.noise.next() < self.loss {
            return None;
        }
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second);
        self.free_at = self.free_at.max(now) + takes;
        let jitter = self.jitter.mul_f64(self.noise.next());
        Some((self.free_at + self.delay + jitter, waits))
    }
}

/// Numbers between 0 and 1 (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A subscriber: 30 frames a second as large as the estimate allows, and 50 packets of sound.
struct Flow {
    sender: SendSide,
    budget: Budget,
    queue: PacingQueue<usize>,
    recorder: ArrivalRecorder,
    /// What is on its way: arrival, number.
    flying: VecDeque<(Instant, crate::base::ids::SeqNo16)>,
    feedback: VecDeque<(Instant, TransportFeedback)>,
    noise: Noise,
    starts: Instant,
    frame_at: Instant,
    sound_at: Instant,
    /// The most that it sends, in bits per second.
    source_max: f64,
    waits: Vec<(Instant, Duration)>,
    estimates: Vec<(Instant, f64)>,
    sent: u64,
}

impl Flow {
    fn new(starts: Instant, demand: f64, source_max: f64, seed: u64) -> Self {
        let mut sender = SendSide::default();
        sender.set_demand(Bitrate(demand as u64), true);
        Self {
            sender,
            budget: Budget::default(),
            queue: PacingQueue::default(),
            recorder: ArrivalRecorder::default(),
            flying: VecDeque::new(),
            feedback: VecDeque::new(),
            noise: Noise(seed),
            starts,
            frame_at: starts + ms(seed * 7 % 33),
            sound_at: starts,
            source_max,
            waits: Vec::new(),
            estimates: Vec::new(),
            sent: 0,
        }
    }

    fn step(&mut self, now: Instant, link: &mut Link) {
        if now < self.starts {
            return;
        }
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let (at, seq) = self.flying.pop_front().unwrap();
            self.recorder.on_packet(at, seq, Ssrc(1));
        }
        let mut out = Vec::new();
        if self.recorder.write_due(now, Ssrc(2), &mut out) {
            let feedback = TransportFeedback::parse(&out).unwrap();
            self.feedback.push_back((now + link.delay, feedback));
        }
        while self.feedback.front().is_some_and(|(at, _)| *at <= now) {
            let (_, feedback) = self.feedback.pop_front().unwrap();
            self.sender.on_feedback(now, &feedback);
        }
        let silence = self.sender.silence_timeout();
        if earliest(self.sender.poll_timeout(), silence).is_some_and(|at| at <= now) {
            self.sender.handle_timeout(now);
            let mut padding = self.sender.padding_due(now);
            while padding > 0 {
                self.send(now, 280, link);
                padding = padding.saturating_sub(280);
            }
        }
        let estimate = self.sender.present_rate().map(|bitrate| bitrate.0 as f64);
        self.estimates.push((now, estimate.unwrap_or(0.0)));
        self.budget.set_rate(estimate, self.sender.pace());
        self.budget.fill(now);
        if self.sound_at <= now {
            self.sound_at += Duration::from_millis(20);
            self.budget.charge(120);
            self.send(now, 120, link);
        }
        if self.frame_at <= now {
            self.frame_at += Duration::from_micros(33_333);
            let rate = estimate.unwrap_or(f64::INFINITY).min(self.source_max) - 48_000.0;
            let mut bytes = (rate.max(20_000.0) / 240.0 * (0.8 + 0.4 * self.noise.next())) as usize;
            while bytes > 0 {
                let packet = bytes.min(1150);
                bytes -= packet;
                while !self.queue.push(now, packet, packet) {
                    self.queue.pop();
                }
            }
        }
        while self.queue.overdue(now).is_some() {
            self.queue.pop();
        }
        self.budget.set_backlog(self.queue.bytes());
        while !self.budget.is_spent()
            && let Some(bytes) = self.queue.pop()
        {
            self.budget.charge(bytes);
            self.send(now, bytes, link);
        }
    }

    fn send(&mut self, now: Instant, bytes: usize, link: &mut Link) {
        self.sent += bytes as u64;
        let seq = self.sender.next_number();
        self.sender.on_sent(now, bytes);
        if let Some((at, waited)) = link.send(now, bytes) {
            self.waits.push((now, waited));
            // The link's jitter may reorder; a queue per flow keeps them sorted.
            let place = self.flying.partition_point(|(other, _)| *other <= at);
            self.flying.insert(place, (at, seq));
        }
    }

    fn wait_percentile(&self, from: Instant, percent: usize) -> Duration {
        let mut waits: Vec<_> = self
            .waits
            .iter()
            .filter(|w| w.0 >= from)
            .map(|w| w.1)
            .collect();
        waits.sort_unstable();
        waits[(waits.len() - 1) * percent / 100]
    }

    /// The same, between two moments.
    fn wait_between(&self, from: Instant, to: Instant, percent: usize) -> Duration {
        let within = self.waits.iter().filter(|w| w.0 >= from && w.0 < to);
        let mut waits: Vec<_> = within.map(|w| w.1).collect();
        waits.sort_unstable();
        waits[(waits.len() - 1) * percent / 100]
    }

    fn mean_estimate(&self, from: Instant, to: Instant) -> f64 {
        let span = self.estimates.iter().filter(|e| e.0 >= from && e.0 < to);
        let estimates: Vec<f64> = span.map(|e| e.1).collect();
        estimates.iter().sum::<f64>() / estimates.len() as f64
    }

    /// Percentile of the estimates between two moments.
    fn estimate_percentile(&self, from: Instant, to: Instant, percent: usize) -> f64 {
        let span = self.estimates.iter().filter(|e| e.0 >= from && e.0 < to);
        let mut estimates: Vec<_> = span.map(|e| e.1).collect();
        estimates.sort_unstable_by(f64::total_cmp);
        estimates[(estimates.len() - 1) * percent / 100]
    }
}

fn link(t0: Instant, bits_per_second: f64) -> Link {
    seeded_link(t0, bits_per_second, 0)
}

/// As [`link`], with a jitter that differs from seed to seed.
fn seeded_link(t0: Instant, bits_per_second: f64, seed: u64) -> Link {
    Link {
        bits_per_second,
        delay: ms(50),
        queue_max: ms(500),
        free_at: t0,
        loss: 0.0,
        jitter: ms(seed % 4),
        noise: Noise(0x9e37_79b9_7f4a_7c15 ^ (seed * 7919)),
    }
}

fn run(t0: Instant, from: Duration, to: Duration, link: &mut Link, flows: &mut [&mut Flow]) {
    let mut now = t0 + from;
    while now < t0 + to {
        for flow in &mut *flows {
            flow.step(now, link);
        }
        now += STEP / 5;
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// How often chance is asked for what is promised.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

/// Within 10 % below the capacity, and the queue short.
fn assert_settled(flow: &Flow, from: Instant, to: Instant, capacity: f64, seed: u64) {
    let share = flow.mean_estimate(from, to) / capacity;
    let wait = |percent| flow.wait_between(from, to, percent);
    assert!((0.9..=1.0).contains(&share), "seed {seed}: {share}");
    assert!(wait(50) < ms(25), "seed {seed}: {:?}", wait(50));
    assert!(wait(95) < ms(100), "seed {seed}: {:?}", wait(95));
}

#[test]
fn settles_below_capacity_with_a_short_queue() {
    for seed in SEEDS {
        let t0 = Instant::now();
        let mut link = seeded_link(t0, 1e6, seed);
        let mut flow = Flow::new(t0, 2.5e6, 10e6, seed);
        run(t0, s(0), s(60), &mut link, &mut [&mut flow]);
        assert_settled(&flow, t0 + s(5), t0 + s(10), 1e6, seed);
        assert_settled(&flow, t0 + s(10), t0 + s(60), 1e6, seed);
        let at = |percent| flow.estimate_percentile(t0 + s(5), t0 + s(60), percent) / 1e6;
        assert!(at(10) > 0.85 && at(95) < 1.08);
    }
}

#[test]
fn follows_a_capacity_that_doubles_and_halves() {
    for seed in SEEDS {
        let t0 = Instant::now();
        let mut link = seeded_link(t0, 1e6, seed);
        let mut flow = Flow::new(t0, 4e6, 10e6, seed);
        let doubled = s(20) + ms(137 * seed);
        run(t0, s(0), doubled, &mut link, &mut [&mut flow]);
        link.bits_per_second = 2e6;
        let halved = doubled + s(20);
        run(t0, doubled, halved, &mut link, &mut [&mut flow]);
        link.bits_per_second = 1e6;
        let end = halved + s(20);
        run(t0, halved, end, &mut link, &mut [&mut flow]);
        for (from, capacity) in [(doubled, 2e6), (halved, 1e6)] {
            let from = t0 + from;
            assert_settled(&flow, from + s(5), from + s(10), capacity, seed);
            assert_settled(&flow, from + s(10), from + s(20), capacity, seed);
        }
    }
}

#[test]
fn two_flows_share_a_bottleneck() {
    for (seed, later) in SEEDS.zip([0, 3, 10, 0, 5, 20, 20, 10]) {
        let t0 = Instant::now();
        let mut link = seeded_link(t0, 2e6, seed);
        let mut a = Flow::new(t0, 2.5e6, 10e6, seed);
        let mut b = Flow::new(t0 + s(later), 2.5e6, 10e6, seed + 100);
        run(t0, s(0), s(50), &mut link, &mut [&mut a, &mut b]);
        let before = (a.sent, b.sent);
        run(t0, s(50), s(90), &mut link, &mut [&mut a, &mut b]);
        let ratio = (a.sent - before.0) as f64 / (b.sent - before.1) as f64;
        let total = (a.sent - before.0 + b.sent - before.1) as f64 * 8.0 / 40.0 / 2e6;
        let wait = |percent| a.wait_percentile(t0 + s(50), percent);
        assert!(
            ratio.max(1.0 / ratio) < 1.25,
            "seed {seed}, later {later}: {ratio}"
        );
        assert!(total > 0.9, "{total}");
        assert!(wait(50) < ms(25), "{:?}", wait(50));
        assert!(wait(95) < ms(100), "{:?}", wait(95));
    }
}

#[test]
fn reaches_a_720p_layer_soon_on_a_good_network() {
    for (delay, jitter) in [(ms(5), ms(0)), (ms(50), ms(5)), (ms(100), ms(10))] {
        let t0 = Instant::now();
        let mut link = link(t0, 50e6);
        (link.delay, link.jitter) = (delay, jitter);
        let mut flow = Flow::new(t0, 2.5e6, 2.5e6, 1);
        run(t0, s(0), s(20), &mut link, &mut [&mut flow]);
        let reached = flow.estimates.iter().find(|e| e.1 >= 2e6).unwrap().0 - t0;
        let lowest = flow.estimate_percentile(t0 + s(5), t0 + s(20), 0);
        assert!(reached < s(3), "{reached:?}");
        assert!(lowest > 2.2e6, "{lowest}");
    }
}

#[test]
fn a_quiet_flow_keeps_its_estimate() {
    let t0 = Instant::now();
    let mut link = link(t0, 3e6);
    let mut flow = Flow::new(t0, 2.5e6, 10e6, 1);
    run(t0, s(0), s(10), &mut link, &mut [&mut flow]);
    let before = flow.estimates.last().unwrap().1;
    flow.source_max = 100_000.0;
    run(t0, s(10), s(60), &mut link, &mut [&mut flow]);
    let after = flow.estimates.last().unwrap().1;
    assert!(after > 0.7 * before && after < 5.5e6, "{before} {after}");
}

#[test]
fn random_losses_do_not_starve_it() {
    let t0 = Instant::now();
    let mut link = link(t0, 3e6);
    (link.delay, link.loss) = (ms(100), 0.1);
    let mut flow = Flow::new(t0, 2.5e6, 2.5e6, 1);
    run(t0, s(0), s(40), &mut link, &mut [&mut flow]);
    let at = |percent| flow.estimate_percentile(t0 + s(10), t0 + s(40), percent) / 1e6;
    assert!(at(50) > 1.0, "{}", at(50));
}

#[test]
fn jitter_is_no_congestion() {
    let t0 = Instant::now();
    let mut link = link(t0, 5e6);
    link.jitter = ms(30);
    let mut flow = Flow::new(t0, 2e6, 2e6, 1);
    run(t0, s(0), s(40), &mut link, &mut [&mut flow]);
    let at = |percent| flow.estimate_percentile(t0 + s(10), t0 + s(40), percent) / 1e6;
    assert!(at(10) > 1.5, "{}", at(10));
}

#[test]
fn an_outage_lowers_it_and_a_longer_path_does_not() {
    let t0 = Instant::now();
    let mut link = link(t0, 3e6);
    let mut flow = Flow::new(t0, 2e6, 2e6, 1);
    run(t0, s(0), s(10), &mut link, &mut [&mut flow]);
    link.loss = 1.0;
    run(t0, s(10), s(14), &mut link, &mut [&mut flow]);
    let during = flow.estimates.last().unwrap().1;
    assert!(during < 1e6, "{during}");
    link.loss = 0.0;
    run(t0, s(14), s(24), &mut link, &mut [&mut flow]);
    let back = flow.estimates.last().unwrap().1;
    link.delay = ms(130);
    run(t0, s(24), s(34), &mut link, &mut [&mut flow]);
    let longer = flow.estimates.last().unwrap().1;
    assert!(back > 1.8e6, "{back}");
    assert!(longer > 1.8e6, "{longer}");
}
