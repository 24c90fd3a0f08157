//! The impairment lab: the real shard with publishers and receivers as browsers are, over bad networks, in virtual
//! time. Each scenario asserts what is promised of it, and leaves a graph and its numbers in `target/lab/`.
//!
//! The network is the model of `shardcast impair`; everything is seeded, so that a run repeats exactly.

mod graph;
#[path = "../support/layered.rs"]
#[allow(dead_code, reason = "the lab uses its part")]
mod layered;
mod layered_pictures;
mod publisher;
mod sharing;
mod squeeze;
mod stalls;
mod start;
mod subscriber;
#[path = "../support/shard_world.rs"]
mod support;
#[path = "../support/twcc.rs"]
mod twcc;
mod world;

use std::time::Duration;

use shardcast::network::{Conditions, Jitter, QueueLimit, Reordering};

use shardcast::wire::codec::{Codec, H264Profile};

use crate::graph::{Check, Track};
use crate::publisher::{EncodingSpec, Feedback, SIMULCAST};
use crate::subscriber::PLAYOUT_LATEST;
use crate::world::{Lab, LinkId, Sample};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A way that takes so long; its line takes so much, and queues what a home router does.
fn path(delay_ms: u64, rate_bps: Option<u64>) -> Conditions {
    Conditions {
        delay: ms(delay_ms),
        rate_bps,
        queue: QueueLimit::Time(ms(300)),
        ..Conditions::default()
    }
}

/// A publisher near the server and a subscriber behind `down`.
struct Pair {
    lab: Lab,
    publisher_up: LinkId,
    down: LinkId,
    publisher: usize,
    subscriber: usize,
}

impl Pair {
    fn new(seed: u64, encodings: &[EncodingSpec], up: Conditions, down: Conditions) -> Self {
        Self::far(seed, encodings, path(5, None), up, down)
    }

    /// With a publisher behind `publish_up`.
    fn far(
        seed: u64,
        encodings: &[EncodingSpec],
        publish_up: Conditions,
        up: Conditions,
        down: Conditions,
    ) -> Self {
        Self::coded(seed, Codec::Vp8, encodings, [publish_up, up, down])
    }

    /// The same, with pictures coded otherwise.
    fn coded(
        seed: u64,
        coding: Codec,
        encodings: &[EncodingSpec],
        [publish_up, up, down]: [Conditions; 3],
    ) -> Self {
        let mut lab = Lab::new(seed);
        lab.coding = coding;
        let publisher_down = lab.link(path(publish_up.delay.as_millis() as u64, None));
        let publisher_up = lab.link(publish_up);
        let publisher = lab.party(publisher_up, publisher_down);
        let rtt = up.delay + down.delay;
        let (up, down) = (lab.link(up), lab.link(down));
        let subscriber = lab.party(up, down);
        lab.publish(publisher, encodings);
        lab.subscribe(subscriber, publisher, rtt);
        Self {
            lab,
            publisher_up,
            down,
            publisher,
            subscriber,
        }
    }

    fn samples(&self) -> &[Sample] {
        self.lab.samples(self.subscriber)
    }

    /// When a picture of an encoding is first shown after a time, in s from then.
    fn first_shown(&self, encoding: u8, from_s: f64) -> f64 {
        let video = &self.lab.subscriber(self.subscriber).receptions[1].video;
        let at = |at: std::time::Instant| (at - self.lab.zero).as_secs_f64();
        let shown = video.shown.iter().map(|(when, e, _)| (at(*when), *e));
        shown
            .into_iter()
            .find(|(at, e)| *at >= from_s && *e == encoding)
            .map_or(f64::INFINITY, |(at, _)| at - from_s)
    }

    /// When the estimate first is as high, in s.
    fn first_estimate(&self, bps: f64) -> f64 {
        let mut samples = self.samples().iter();
        let found = samples.find(|s| s.estimate_bps.is_some_and(|estimate| estimate >= bps));
        found.map_or(f64::INFINITY, |s| s.at_s)
    }

    /// The longest time between two pictures shown between two times (in s), in ms.
    fn freeze_ms(&self, from_s: f64, to_s: f64) -> f64 {
        freeze_ms(&self.lab, self.subscriber, from_s, to_s)
    }

    /// The share of the sound between two times that was never there in time.
    fn audio_loss(&self, from_s: f64, to_s: f64) -> f64 {
        let heard = &self.lab.subscriber(self.subscriber).receptions[0].heard;
        let earliest = heard.values().map(|(at, captured)| at - captured).min();
        let latest = earliest.unwrap_or(0) + PLAYOUT_LATEST.as_micros() as u64;
        let range = (from_s * 50.0) as u32..(to_s * 50.0) as u32;
        let expected = range.len() as f64;
        let in_time = heard
            .range(range)
            .filter(|(_, (at, captured))| at - captured <= latest);
        1.0 - in_time.count() as f64 / expected
    }

    /// Nothing that a decoder would stumble over.
    fn continuity(&self) -> Check {
        let found = self.lab.subscriber(self.subscriber).receptions[1].discontinuities();
        check(
            "numbers go on across switches",
            found.first().map_or("yes".to_owned(), Clone::clone),
            found.is_empty(),
        )
    }

    /// Writes the book's page, then fails if something does not hold.
    fn conclude(&self, name: &str, title: &str, checks: Vec<Check>) {
        let track = Track {
            name: "subscriber",
            samples: self.samples(),
        };
        conclude(name, title, &[track], checks);
    }
}

fn conclude(name: &str, title: &str, tracks: &[Track<'_>], checks: Vec<Check>) {
    graph::write(name, title, tracks, &checks);
    report(name, &checks);
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.holds).collect();
    assert!(failed.is_empty(), "{title}: {failed:#?}");
}

fn report(name: &str, checks: &[Check]) {
    for check in checks {
        let word = if check.holds { "pass" } else { "FAIL" };
        println!("{name}: {word}: {}: {}", check.what, check.measured);
    }
}

fn check(what: &str, measured: String, holds: bool) -> Check {
    Check {
        what: what.to_owned(),
        measured,
        holds,
    }
}

/// The mean estimate between two times, in bits a second; 0 where there is none.
fn mean_estimate(samples: &[Sample], from_s: f64, to_s: f64) -> f64 {
    mean(samples, from_s, to_s, |s| s.estimate_bps.unwrap_or(0.0))
}

fn mean(samples: &[Sample], from_s: f64, to_s: f64, value: impl Fn(&Sample) -> f64) -> f64 {
    let within = samples.iter().filter(|s| s.at_s > from_s && s.at_s <= to_s);
    let values: Vec<f64> = within.map(value).collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The longest time between two pictures that are shown to a subscriber between two times (in s), in ms.
fn freeze_ms(lab: &Lab, subscriber: usize, from_s: f64, to_s: f64) -> f64 {
    let video = &lab.subscriber(subscriber).receptions[1].video;
    let at = |at: std::time::Instant| (at - lab.zero).as_secs_f64();
    let shown = video.shown.iter().map(|(when, ..)| at(*when));
    let within = shown.filter(|at| (from_s..to_s).contains(at));
    let mut last = from_s;
    let mut longest: f64 = 0.0;
    for at in within.chain([to_s]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest * 1000.0
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn queue_checks(sorted: &[f64], when: &str) -> [Check; 2] {
    let (median, p95) = (quantile(sorted, 0.5), quantile(sorted, 0.95));
    [
        check(
            &format!("queue delay below 25 ms at the median{when}"),
            format!("{median:.1} ms"),
            median < 25.0,
        ),
        check(
            &format!("queue delay below 100 ms at p95{when}"),
            format!("{p95:.1} ms"),
            p95 < 100.0,
        ),
    ]
}

/// Within 10 % below the capacity, on average over a time.
fn settles(samples: &[Sample], from_s: f64, to_s: f64, capacity: f64) -> Check {
    let share = mean_estimate(samples, from_s, to_s) / capacity;
    check(
        &format!(
            "the estimate is within 10 % below {:.1} Mbit/s from {from_s} s to {to_s} s",
            capacity / 1e6
        ),
        format!("{:.1} % of it", share * 100.0),
        (0.9..=1.0).contains(&share),
    )
}

const MBIT: f64 = 1e6;
const H264: Codec = Codec::H264 {
    profile: H264Profile::ConstrainedBaseline,
    packetization_mode: 1,
};
/// What is promised of congestion control is promised whatever the frames' sizes, and whenever they come: each scenario
/// runs with all of these.
const SEEDS: [u64; 6] = [1, 2, 3, 4, 5, 6];

/// As [`path`], with a jitter that differs from seed to seed.
fn line(seed: u64, delay_ms: u64, rate_bps: u64) -> Conditions {
    Conditions {
        jitter: Jitter {
            up_to: ms(seed % 4),
            keeps_order: true,
        },
        ..path(delay_ms, Some(rate_bps))
    }
}

/// When something changes, after about 20 s: at any moment between two probes, reports and frames.
fn moment(seed: u64) -> Duration {
    s(20) + ms(seed * 437 % 2000)
}

/// Runs a scenario with every seed, and fails if one does not hold; each leaves its page.
fn every_seed(name: &str, title: &str, run: impl Fn(u64) -> (Vec<Vec<Sample>>, Vec<Check>)) {
    let mut failed = Vec::new();
    for seed in SEEDS {
        let (samples, checks) = run(seed);
        let names = ["subscriber", "another"];
        let tracks: Vec<Track<'_>> = names
            .into_iter()
            .zip(&samples)
            .map(|(name, samples)| Track { name, samples })
            .collect();
        let page = format!("{name}-{seed}");
        graph::write(&page, &format!("{title} (seed {seed})"), &tracks, &checks);
        report(&page, &checks);
        let broken = checks.into_iter().filter(|check| !check.holds);
        failed.extend(broken.map(|check| (seed, check)));
    }
    assert!(failed.is_empty(), "{title}: {failed:#?}");
}

/// 100 ms there and back, and a line of 1 Mbit/s which becomes one of `rate_bps` at a moment.
fn capacity_changes(seed: u64, rate_bps: u64) -> (Vec<Vec<Sample>>, Vec<Check>) {
    let mut pair = Pair::new(seed, &SIMULCAST, path(50, None), line(seed, 50, 1_000_000));
    let at = moment(seed);
    pair.lab.schedule(pair.down, at, line(seed, 50, rate_bps));
    pair.lab.run_to(at + s(20));
    let at_s = at.as_secs_f64();
    let samples = pair.samples();
    let capacity = rate_bps as f64;
    let mut checks = vec![
        settles(samples, at_s + 5.0, at_s + 10.0, capacity),
        settles(samples, at_s + 10.0, at_s + 20.0, capacity),
        pair.continuity(),
    ];
    for (from_s, to_s, when) in [
        (5.0, at_s, " before"),
        (at_s + 5.0, at_s + 20.0, " after 5 s of recovery"),
    ] {
        let queued = pair.lab.queued(pair.subscriber, from_s, to_s);
        checks.extend(queue_checks(&queued, when));
    }
    (vec![samples.to_vec()], checks)
}

#[test]
fn one_megabit() {
    every_seed("one-megabit", "1 Mbit/s, 100 ms RTT", |seed| {
        let down = line(seed, 50, 1_000_000);
        let mut pair = Pair::new(seed, &SIMULCAST, path(50, None), down);
        pair.lab.run_to(s(40));
        let samples = pair.samples();
        let mut checks = vec![
            settles(samples, 5.0, 10.0, MBIT),
            settles(samples, 10.0, 40.0, MBIT),
            pair.continuity(),
        ];
        let queued = pair.lab.queued(pair.subscriber, 0.0, 40.0);
        checks.extend(queue_checks(&queued, ""));
        (vec![samples.to_vec()], checks)
    });
}

#[test]
fn capacity_doubles() {
    every_seed("capacity-doubles", "1 Mbit/s becomes 2", |seed| {
        capacity_changes(seed, 2_000_000)
    });
}

#[test]
fn capacity_halves() {
    every_seed("capacity-halves", "1 Mbit/s becomes 0.5", |seed| {
        capacity_changes(seed, 500_000)
    });
}

#[test]
fn a_good_network_shows_720p_soon() {
    every_seed("good-network", "20 Mbit/s: 720p within 3 s", |seed| {
        let delay_ms = [10, 50, 100][seed as usize % 3];
        let down = line(seed, delay_ms, 20_000_000);
        let mut pair = Pair::new(seed, &SIMULCAST, path(delay_ms, None), down);
        pair.lab.run_to(s(10));
        let (estimated, shown) = (pair.first_estimate(2.5 * MBIT), pair.first_shown(2, 0.0));
        let checks = vec![
            check(
                "the estimate allows the best layer within 3 s",
                format!("{estimated:.1} s"),
                estimated < 3.0,
            ),
            check(
                "the best layer is shown within 3 s",
                format!("{shown:.1} s"),
                shown < 3.0,
            ),
            pair.continuity(),
        ];
        (vec![pair.samples().to_vec()], checks)
    });
}

#[test]
fn ten_percent_loss() {
    let title = "10 % loss each way, 200 ms RTT";
    lossy("ten-percent-loss", title, Codec::Vp8);
}

/// Without temporal layers: each packet is one that all later pictures need.
#[test]
fn h264_ten_percent_loss() {
    let title = "H.264, 10 % loss each way, 200 ms RTT";
    lossy("ten-percent-loss-h264", title, H264);
}

fn lossy(name: &str, title: &str, coding: Codec) {
    let lossy = |rate| Conditions {
        loss: 0.1,
        ..path(100, rate)
    };
    every_seed(name, title, |seed| {
        let ways = [path(5, None), lossy(None), lossy(Some(5_000_000))];
        let mut pair = Pair::coded(50 + seed, coding, &SIMULCAST, ways);
        pair.lab.run_to(s(60));
        let (loss, freeze) = (pair.audio_loss(2.0, 58.0), pair.freeze_ms(3.0, 59.0));
        let checks = vec![
            check(
                "audio loss after repair below 1 %",
                format!("{:.2} %", loss * 100.0),
                loss < 0.01,
            ),
            check(
                "no freeze above 1 s",
                format!("{freeze:.0} ms"),
                freeze < 1000.0,
            ),
            pair.continuity(),
        ];
        (vec![pair.samples().to_vec()], checks)
    });
}

#[test]
fn bursts_of_twenty() {
    let mut pair = Pair::new(6, &SIMULCAST, path(50, None), path(50, Some(5_000_000)));
    pair.lab.run_to(s(10));
    let before = pair.lab.publisher(pair.publisher).keyframe_requests.len();
    let mut freezes = Vec::new();
    for at in [10, 15, 20, 25] {
        pair.lab.run_to(s(at));
        pair.lab.drop_next(pair.down, 20);
        pair.lab.run_to(s(at + 5));
        freezes.push(pair.freeze_ms(at as f64, at as f64 + 4.9));
    }
    let requests = pair.lab.publisher(pair.publisher).keyframe_requests.len() - before;
    let longest = freezes.iter().copied().fold(0.0, f64::max);
    let checks = vec![
        check(
            "at most one keyframe for each of 4 bursts",
            format!("{requests} asked for"),
            requests <= 4,
        ),
        check(
            "pictures go on within 500 ms",
            format!("{longest:.0} ms"),
            longest < 500.0,
        ),
        pair.continuity(),
    ];
    pair.conclude(
        "bursts-of-twenty",
        "20 packets lost in a row, four times",
        checks,
    );
}

#[test]
fn a_publisher_behind_loss() {
    let lossy = Conditions {
        loss: 0.1,
        ..path(50, None)
    };
    let mut pair = Pair::far(8, &SIMULCAST[..1], lossy, path(20, None), path(20, None));
    for at in [10, 20] {
        pair.lab.run_to(s(at));
        pair.lab.drop_next(pair.publisher_up, 20);
    }
    pair.lab.run_to(s(30));
    let freeze = pair.freeze_ms(3.0, 29.0);
    let checks = vec![
        check(
            "no freeze above 1 s",
            format!("{freeze:.0} ms"),
            freeze < 1000.0,
        ),
        pair.continuity(),
    ];
    pair.conclude(
        "publisher-behind-loss",
        "A publisher behind 10 % loss, 100 ms RTT and two bursts of 20",
        checks,
    );
}

#[test]
fn jitter_reordering_and_duplicates() {
    let down = Conditions {
        jitter: Jitter {
            up_to: ms(20),
            keeps_order: true,
        },
        reordering: Some(Reordering {
            chance: 0.01,
            held: ms(15),
        }),
        duplication: 0.01,
        ..path(30, Some(4_000_000))
    };
    let mut pair = Pair::new(9, &SIMULCAST, path(30, None), down);
    pair.lab.run_to(s(40));
    let samples = pair.samples();
    let best = mean(samples, 10.0, 40.0, |s| {
        f64::from(u8::from(s.layer.is_some_and(|(encoding, _)| encoding == 2)))
    });
    let freeze = pair.freeze_ms(5.0, 39.0);
    let checks = vec![
        check(
            "the best layer for 95 % of the time from 10 s on",
            format!("{:.0} %", best * 100.0),
            best > 0.95,
        ),
        check(
            "no freeze above 500 ms",
            format!("{freeze:.0} ms"),
            freeze < 500.0,
        ),
        pair.continuity(),
    ];
    pair.conclude(
        "jitter",
        "4 Mbit/s, 20 ms jitter, 1 % overtaken, 1 % twice",
        checks,
    );
}

#[test]
fn a_path_changes() {
    let mut pair = Pair::new(10, &SIMULCAST, path(15, None), path(15, Some(4_000_000)));
    // From Wi-Fi to a phone's network, and back.
    let mobile = Conditions {
        jitter: Jitter {
            up_to: ms(10),
            keeps_order: true,
        },
        ..path(60, Some(1_200_000))
    };
    pair.lab.schedule(pair.down, s(15), mobile);
    pair.lab
        .schedule(pair.down, s(30), path(15, Some(4_000_000)));
    pair.lab.run_to(s(50));
    let samples = pair.samples();
    let freeze = pair.freeze_ms(5.0, 49.0);
    let share = mean_estimate(samples, 20.0, 30.0) / 1.2e6;
    let best = mean(samples, 40.0, 50.0, |s| {
        f64::from(u8::from(s.layer.is_some_and(|(encoding, _)| encoding == 2)))
    });
    let mut checks = vec![
        check(
            "the estimate is between 80 and 100 % of the slower path's capacity",
            format!("{:.1} %", share * 100.0),
            (0.8..=1.0).contains(&share),
        ),
        check(
            "no freeze above 1 s",
            format!("{freeze:.0} ms"),
            freeze < 1000.0,
        ),
        check(
            "the best layer again 10 s after the way back",
            format!("{:.0} % of the time", best * 100.0),
            best > 0.95,
        ),
        pair.continuity(),
    ];
    checks.extend(queue_checks(
        &pair.lab.queued(pair.subscriber, 20.0, 50.0),
        " from 20 s on",
    ));
    pair.conclude(
        "path-change",
        "30 ms RTT and 4 Mbit/s; from 15 s to 30 s 75 ms, jitter and 1.2 Mbit/s",
        checks,
    );
}

#[test]
fn sound_comes_first() {
    let mut pair = Pair::new(11, &SIMULCAST, path(30, None), path(30, Some(130_000)));
    pair.lab.run_to(s(40));
    let loss = pair.audio_loss(10.0, 38.0);
    let checks = vec![
        check(
            "audio loss below 1 % from 10 s on",
            format!("{:.2} %", loss * 100.0),
            loss < 0.01,
        ),
        pair.continuity(),
    ];
    pair.conclude("sound-first", "130 kbit/s: too little for pictures", checks);
}

/// A publisher that takes no feedback on packets, only an estimate (REMB), behind a line of 1, 2 and 0.5 Mbit/s.
fn a_publisher_is_told(seed: u64, has_send_times: bool) -> (Vec<Vec<Sample>>, Vec<Check>) {
    let mut lab = Lab::new(seed);
    let (up, down) = (
        lab.link(line(seed, 50, 1_000_000)),
        lab.link(path(50, None)),
    );
    let publisher = lab.party(up, down);
    let near = lab.link(path(5, None));
    let subscriber = lab.party(near, near);
    lab.publish_by(
        publisher,
        &SIMULCAST[2..],
        Feedback::Remb { has_send_times },
    );
    lab.subscribe(subscriber, publisher, ms(10));
    lab.schedule(up, s(20), line(seed, 50, 2_000_000));
    lab.schedule(up, s(40), line(seed, 50, 500_000));
    lab.run_to(s(60));
    let samples = lab.samples_up(publisher);
    let mut checks = Vec::new();
    for (from_s, to_s, capacity) in [(5.0, 20.0, 1.0), (28.0, 40.0, 2.0), (45.0, 60.0, 0.5)] {
        let told = mean_estimate(samples, from_s, to_s) / capacity / MBIT;
        let sent = mean(samples, from_s, to_s, |s| s.sent_bps) / capacity / MBIT;
        checks.push(check(
            &format!("84 to 101 % of {capacity} Mbit/s are told, and 92 to 101 % sent, from {from_s} s on"),
            format!("{:.0} % and {:.0} %", told * 100.0, sent * 100.0),
            (0.84..1.01).contains(&told) && (0.92..1.01).contains(&sent),
        ));
        let queued = lab.queued_up(publisher, from_s, to_s);
        let (median, p95) = (quantile(&queued, 0.5), quantile(&queued, 0.95));
        // Whole frames are sent at once here: the last packet of one waits for 33 ms by itself.
        checks.push(check(
            "packets wait below 45 ms at the median and 150 at p95",
            format!("{median:.0} and {p95:.0} ms"),
            median < 45.0 && p95 < 150.0,
        ));
    }
    let remb_sent = lab.world.shard.counters().remb_sent;
    checks.push(check(
        "told once to five times a second",
        format!("{remb_sent} in 60 s"),
        (60..360).contains(&remb_sent),
    ));
    (vec![samples.to_vec()], checks)
}

#[test]
fn a_publisher_without_feedback_on_packets_is_told_what_it_may_send() {
    let title = "A publisher that takes REMB, behind 1, 2 and 0.5 Mbit/s";
    every_seed("remb", title, |seed| a_publisher_is_told(seed, true));
    let title = "The same, without times of sending";
    every_seed("remb-timestamps", title, |seed| {
        a_publisher_is_told(seed, false)
    });
}
