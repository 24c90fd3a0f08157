//! A subscriber whose line carries far less at once, at any moment between frames, reports and probes; and then all of it
//! again. The narrow line's queue holds 150 ms: with the 300 ms of the others, a full queue alone is most of the freeze
//! that is allowed.

use std::time::Duration;

use shardcast::base::ids::Bitrate;
use shardcast::base::layer_reason::LayerReason;
use shardcast::control::layers::LayerChange;
use shardcast::network::{Conditions, Jitter, QueueLimit};
use shardcast::wire::codec::Codec;

use crate::graph::Check;
use crate::publisher::{Camera, EncodingSpec, SIMULCAST};
use crate::{H264, Pair, check, ms, path, quantile, s};

/// What the browser tests' busy camera makes: many changes and small keyframes.
const BUSY: [EncodingSpec; 3] = [
    EncodingSpec {
        rid: "q",
        bits_per_s: 90_000,
        size: (320, 180),
    },
    EncodingSpec {
        rid: "h",
        bits_per_s: 260_000,
        size: (640, 360),
    },
    EncodingSpec {
        rid: "f",
        bits_per_s: 1_100_000,
        size: (1280, 720),
    },
];
const BUSY_CAMERA: Camera = Camera {
    frames_per_s: 10,
    keyframe_sizes: 2,
    keys_all: true,
};

/// What happens to whom.
struct Squeeze {
    seed: u64,
    coding: Codec,
    encodings: &'static [EncodingSpec],
    camera: Camera,
    feedback_every: Duration,
    wide: Option<u64>,
    at: Duration,
    lasts: Duration,
}

/// What was seen, in ms.
#[derive(Debug, Clone, Copy)]
struct Seen {
    down: f64,
    freeze_down: f64,
    up: f64,
    freeze_up: f64,
}

impl Squeeze {
    /// The last are of what the client was told.
    fn run(&self) -> (Pair, Seen, [Check; 2]) {
        let jitter = Jitter {
            up_to: ms(self.seed % 4),
            keeps_order: true,
        };
        let line = |rate| Conditions {
            jitter,
            ..path(20, rate)
        };
        let wide = line(self.wide);
        let narrow = Conditions {
            queue: QueueLimit::Time(ms(150)),
            ..line(Some(300_000))
        };
        let ways = [path(5, None), path(20, None), wide];
        let mut pair = Pair::coded(self.seed, self.coding, self.encodings, ways);
        pair.lab.set_camera(pair.publisher, self.camera);
        pair.lab
            .set_feedback_every(pair.subscriber, self.feedback_every);
        let end = self.at + self.lasts;
        pair.lab.schedule(pair.down, self.at, narrow);
        pair.lab.schedule(pair.down, end, wide);
        pair.lab.run_to(end + s(11));
        let (at, end) = (self.at.as_secs_f64(), end.as_secs_f64());
        let reasons = [
            self.why_less(&pair, at, end),
            self.why_best(&pair, end, end + 11.0),
        ];
        let down = pair.first_shown(0, at).min(pair.first_shown(1, at));
        let seen = Seen {
            down: down * 1000.0,
            freeze_down: pair.freeze_ms(at - 1.0, end),
            up: pair.first_shown(2, end) * 1000.0,
            freeze_up: pair.freeze_ms(end - 1.0, end + 11.0),
        };
        (pair, seen, reasons)
    }

    /// The client is told of less than the best, and in the end why: what there is does not do for the next layer, which it
    /// has to exceed a little. Until the chosen one has come, that one is the next, which fits.
    fn why_less(&self, pair: &Pair, from_s: f64, to_s: f64) -> Check {
        let told = pair.lab.told(pair.subscriber, from_s, to_s);
        let is_true = told.last().is_some_and(|last| {
            let (available, next) = (last.available.map(|r| r.0), last.next.map(|r| r.0));
            last.layer.is_some() && available.zip(next).is_some_and(|(a, n)| a * 100 < n * 115)
        });
        let is_bandwidth = |change: &LayerChange| change.reason == LayerReason::Bandwidth;
        let why = "told why: bandwidth, too little for the next layer";
        let holds = is_true && told.iter().all(is_bandwidth);
        check(why, in_words(&told), holds)
    }

    /// And of more, while a keyframe is waited for or what may be sent grows: of several encodings, of the best in the end. With
    /// spatial layers the best temporal layers may still be tried and given up then.
    fn why_best(&self, pair: &Pair, from_s: f64, to_s: f64) -> Check {
        let told = pair.lab.told(pair.subscriber, from_s, to_s);
        let reasons = [
            LayerReason::Best,
            LayerReason::Bandwidth,
            LayerReason::NoKeyframeYet,
        ];
        let last = told.last().map(|change| change.reason);
        let is_best = last == Some(LayerReason::Best) || self.encodings.len() == 1;
        let holds = is_best
            && !told.is_empty()
            && told.iter().all(|change| reasons.contains(&change.reason));
        check("told of more, and in the end why", in_words(&told), holds)
    }
}

/// The reasons, and what was there for what.
fn in_words(told: &[LayerChange]) -> String {
    let words = told.iter().map(|change| {
        let kbit =
            |rate: Option<Bitrate>| rate.map_or("-".to_owned(), |r| (r.0 / 1000).to_string());
        let (available, next) = (kbit(change.available), kbit(change.next));
        format!("{} ({available} for {next})", change.reason.as_str())
    });
    words.collect::<Vec<_>>().join(", ")
}

impl Seen {
    fn checks(&self) -> Vec<Check> {
        let at_most = |what: &str, value: f64, limit: f64| {
            check(
                &format!("{what} at most {limit} ms"),
                format!("{value:.0} ms"),
                value <= limit,
            )
        };
        vec![
            at_most("down after", self.down, 2000.0),
            at_most("a freeze on the way down of", self.freeze_down, 500.0),
            at_most("up after", self.up, 10_000.0),
            at_most("a freeze on the way up of", self.freeze_up, 500.0),
        ]
    }
}

#[test]
fn squeezed_and_released() {
    squeeze("squeezed", "5 Mbit/s, 300 kbit/s for 12 s", Codec::Vp8);
}

/// Without temporal layers: what is not sent of a picture is missing for all that follow.
#[test]
fn h264_squeezed_and_released() {
    squeeze(
        "squeezed-h264",
        "H.264, 5 Mbit/s, 300 kbit/s for 12 s",
        H264,
    );
}

/// Temporal layers by dependency descriptor, which each encoding has of its own.
#[test]
fn av1_squeezed_and_released() {
    squeeze(
        "squeezed-av1",
        "AV1, 5 Mbit/s, 300 kbit/s for 12 s",
        Codec::Av1 { profile: 0 },
    );
}

fn squeeze(name: &str, title: &str, coding: Codec) {
    crate::every_seed(name, title, |seed| {
        let (pair, seen, reasons) = Squeeze {
            seed,
            coding,
            encodings: &SIMULCAST,
            camera: Camera::default(),
            feedback_every: ms(100),
            wide: Some(5_000_000),
            at: s(12) + ms(seed * 437 % 1000),
            lasts: s(12),
        }
        .run();
        let mut checks = seen.checks();
        checks.extend(reasons);
        let first = pair.first_shown(2, 0.0);
        checks.push(check(
            "the best layer within 3 s of the start",
            format!("{first:.1} s"),
            first < 3.0,
        ));
        checks.push(pair.continuity());
        (vec![pair.samples().to_vec()], checks)
    });
}

/// As the browser test does it: ten pictures a second, so that one that is lost and one that is waited for are 200 ms, and
/// feedback as often as Chromium gives it.
#[test]
fn squeezed_at_any_moment() {
    at_any_moment("squeezed-at-any-moment", 20, |run| Squeeze {
        seed: 100 + run,
        coding: Codec::Vp8,
        encodings: &BUSY,
        camera: BUSY_CAMERA,
        feedback_every: ms(60),
        wide: None,
        at: s(9) + ms(run * 37 % 1000),
        lasts: s(6),
    });
}

/// Spatial layers in one stream, with feedback as often as Chromium gives it.
fn layered(run: u64, coding: Codec) -> Squeeze {
    Squeeze {
        seed: 200 + run,
        coding,
        encodings: &SIMULCAST[2..],
        camera: Camera::default(),
        feedback_every: ms(60),
        wide: Some(5_000_000),
        at: s(9) + ms(run * 87 % 1000),
        lasts: s(8),
    }
}

#[test]
fn vp9_layers_squeezed_at_any_moment() {
    let coding = Codec::Vp9 { profile: 0 };
    at_any_moment("squeezed-vp9-svc", 10, |run| layered(run, coding));
}

#[test]
fn av1_layers_squeezed_at_any_moment() {
    let coding = Codec::Av1 { profile: 0 };
    at_any_moment("squeezed-av1-svc", 10, |run| layered(run, coding));
}

fn at_any_moment(name: &str, moments: u64, at: impl Fn(u64) -> Squeeze) {
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for run in 0..moments {
        let (pair, seen, reasons) = at(run).run();
        let mut checks = seen.checks();
        checks.extend(reasons);
        checks.push(pair.continuity());
        failed.extend(checks.into_iter().filter(|c| !c.holds).map(|c| (run, c)));
        all.push(seen);
    }
    let spread = |what: &str, of: fn(&Seen) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let [median, most] = [0.5, 1.0].map(|share| quantile(&values, share));
        println!("{name}: {what}: {median:.0} ms at the median, {most:.0} at most");
    };
    spread("down after", |s| s.down);
    spread("freeze on the way down", |s| s.freeze_down);
    spread("up after", |s| s.up);
    spread("freeze on the way up", |s| s.freeze_up);
    assert!(failed.is_empty(), "{failed:#?}");
}
