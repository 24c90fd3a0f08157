//! How it begins: before anything is known of the path.

use std::time::Duration;

use shardcast::network::{Conditions, QueueLimit};

use crate::publisher::EncodingSpec;
use crate::world::{Lab, Repair};
use crate::{Check, H264, MBIT, Pair, check, every_seed, line, ms, path, s};

/// More than the rate that is sent at before anything is known.
fn one_size(bits_per_s: u64) -> [EncodingSpec; 1] {
    [EncodingSpec {
        rid: "",
        bits_per_s,
        size: (1280, 720),
    }]
}

/// Who has heard somebody so far turns to the pictures after 5 s. Others see them already: it is known what they take, and of
/// the path that it carries sound.
fn pictures_after_sound(
    seed: u64,
    bits_per_s: u64,
    rate_bps: u64,
    repair: Repair,
) -> (Pair, Check) {
    // Each loss would cost a keyframe where nothing is repaired.
    let loss = match repair {
        Repair::None => 0.0,
        Repair::Rtx | Repair::Plain => 0.02,
    };
    let lossy = |conditions| Conditions { loss, ..conditions };
    let mut lab = Lab::new(seed);
    lab.repair = repair;
    // Without temporal layers: there is nothing less to give.
    lab.coding = H264;
    let near = path(5, None);
    let [publisher, other] = [0, 1].map(|_| {
        let (up, down) = (lab.link(near), lab.link(near));
        lab.party(up, down)
    });
    let publisher_up = lab.link(near);
    let up = lab.link(lossy(path(20, None)));
    let down = lab.link(lossy(line(seed, 20, rate_bps)));
    let subscriber = lab.party(up, down);
    lab.publish(publisher, &one_size(bits_per_s));
    lab.subscribe(other, publisher, near.delay * 2);
    let rtt = near.delay * 8;
    lab.subscribe_sound(subscriber, publisher, rtt);
    lab.run_to(s(5));
    let estimate = lab.samples(subscriber).last().and_then(|s| s.estimate_bps);
    lab.subscribe_pictures(subscriber, publisher, rtt);
    let before = check(
        "before, the estimate does not allow pictures",
        format!("{:.0} kbit/s", estimate.unwrap_or(f64::NAN) / 1e3),
        estimate.is_some_and(|estimate| estimate < MBIT),
    );
    let pair = Pair {
        lab,
        publisher_up,
        down,
        publisher,
        subscriber,
    };
    (pair, before)
}

fn seen_soon(name: &str, title: &str, repair: Repair) {
    every_seed(name, title, |seed| {
        let bits_per_s = 800_000 + 100_000 * seed;
        let (mut pair, before) = pictures_after_sound(seed, bits_per_s, 20_000_000, repair);
        pair.lab.run_to(s(25));
        let (shown, freeze) = (pair.first_shown(0, 5.0), pair.freeze_ms(8.0, 24.0));
        let checks = vec![
            before,
            check("shown within 3 s", format!("{shown:.1} s"), shown < 3.0),
            check(
                "and on from there, no freeze above 1 s",
                format!("{freeze:.0} ms"),
                freeze < 1000.0,
            ),
            pair.continuity(),
        ];
        (vec![pair.samples().to_vec()], checks)
    });
}

/// Padding alone can show that the path carries more, before any picture.
#[test]
fn pictures_after_sound_are_seen() {
    let title = "20 Mbit/s, 2 % loss: 0.9 to 1.4 Mbit/s of one size, 5 s after the sound";
    seen_soon("pictures-after-sound", title, Repair::Rtx);
}

/// There is nothing to send padding on: the pictures themselves show it.
#[test]
fn pictures_after_sound_are_seen_without_repairs() {
    let title = "The same without loss and retransmissions";
    seen_soon("pictures-after-sound-without-repairs", title, Repair::None);
}

/// There is feedback on the sound alone, and nothing to be learnt from that.
#[test]
fn pictures_after_sound_are_seen_without_numbers() {
    let title = "The same with retransmissions, but no stream for them";
    seen_soon("pictures-after-sound-without-numbers", title, Repair::Plain);
}

/// Pictures that are too much for the path are tried again now and then, to who has no retransmissions: the sound
/// bears it.
#[test]
fn what_never_fits_spares_the_sound() {
    let title = "1 Mbit/s, no retransmissions: 1.5 Mbit/s of one size never fit";
    never_fits("never-fits-without-repairs", title, ms(300), [0.01, 0.05]);
}

/// What is too much is lost there, and never waits.
#[test]
fn what_a_policer_drops_spares_the_sound() {
    let title = "The same behind a policer";
    never_fits("never-fits-policed", title, ms(5), [0.03, 0.1]);
}

/// `most`: the share of the sound that may be lost, and of the time in which it may be tried.
fn never_fits(name: &str, title: &str, queue: Duration, most: [f64; 2]) {
    let [lost_most, tried_most] = most;
    every_seed(name, title, |seed| {
        let (mut pair, before) = pictures_after_sound(seed, 1_500_000, 1_000_000, Repair::None);
        let down = Conditions {
            queue: QueueLimit::Time(queue),
            ..line(seed, 20, 1_000_000)
        };
        pair.lab.schedule(pair.down, s(5), down);
        pair.lab.run_to(s(125));
        let loss = pair.audio_loss(20.0, 123.0);
        let sent = pair.samples().iter().filter(|s| s.at_s > 20.0);
        let tries = sent.filter(|s| s.sent_bps > 0.5 * MBIT).count() as f64 / 10.0;
        let checks = vec![
            before,
            check(
                "audio loss bounded",
                format!("{:.2} % of {:.0}", loss * 100.0, lost_most * 100.0),
                loss < lost_most,
            ),
            check(
                "tried for a small part of the time",
                format!("{tries:.1} s of 103"),
                tries > 0.0 && tries < 103.0 * tried_most,
            ),
        ];
        (vec![pair.samples().to_vec()], checks)
    });
}
