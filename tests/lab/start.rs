//! How it begins: before anything is known of the path.

use shardcast::network::Conditions;

use crate::publisher::EncodingSpec;
use crate::world::Lab;
use crate::{Check, MBIT, Pair, check, every_seed, line, path, s};

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
fn pictures_after_sound(seed: u64, bits_per_s: u64, rate_bps: u64, has_rtx: bool) -> (Pair, Check) {
    let lossy = |conditions| Conditions {
        loss: 0.02,
        ..conditions
    };
    let mut lab = Lab::new(seed);
    lab.has_rtx = has_rtx;
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

fn seen_soon(name: &str, title: &str, has_rtx: bool) {
    every_seed(name, title, |seed| {
        let bits_per_s = 800_000 + 100_000 * seed;
        let (mut pair, before) = pictures_after_sound(seed, bits_per_s, 20_000_000, has_rtx);
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
    seen_soon("pictures-after-sound", title, true);
}

/// There is nothing to send padding on: the pictures themselves show it.
#[test]
fn pictures_after_sound_are_seen_without_rtx() {
    let title = "The same without retransmission streams";
    seen_soon("pictures-after-sound-without-rtx", title, false);
}

/// Pictures that are too much for the path are tried again now and then, to who has no retransmission streams: the sound bears it.
#[test]
fn what_never_fits_spares_the_sound() {
    let title = "1 Mbit/s, 2 % loss, no retransmission streams: 1.5 Mbit/s of one size never fit";
    every_seed("never-fits-without-rtx", title, |seed| {
        let (mut pair, before) = pictures_after_sound(seed, 1_500_000, 1_000_000, false);
        pair.lab.run_to(s(125));
        let loss = pair.audio_loss(20.0, 123.0);
        let sent = pair.samples().iter().filter(|s| s.at_s > 20.0);
        let tries = sent.filter(|s| s.sent_bps > 0.5 * MBIT).count() as f64 / 10.0;
        let checks = vec![
            before,
            check(
                "audio loss after repair below 1 %",
                format!("{:.2} %", loss * 100.0),
                loss < 0.01,
            ),
            check(
                "tried for less than a twentieth of the time",
                format!("{tries:.1} s of 103"),
                tries > 0.0 && tries < 5.0,
            ),
        ];
        (vec![pair.samples().to_vec()], checks)
    });
}
