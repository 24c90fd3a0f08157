//! A path that stands still now and then, though it carries what it did.

use std::time::Duration;

use shardcast::network::Conditions;

use crate::publisher::SIMULCAST;
use crate::{MBIT, Pair, check, every_seed, mean, ms, path, s};

/// A Wi-Fi that stops now and then, while it scans or somebody else talks, and then delivers quickly what came meanwhile. Nothing is
/// lost, and the line carries what it did.
#[test]
fn wifi_stalls() {
    let title = "4 Mbit/s that stand still for 200 to 300 ms every 4 s";
    every_seed("wifi-stalls", title, |seed| {
        let down = path(20, Some(4_000_000));
        let mut pair = Pair::new(seed, &SIMULCAST, path(20, None), down);
        for stall in 0..10 {
            let begins = s(12 + stall * 4) + ms(seed * 137 % 500);
            let lasts = ms(200 + (seed + stall) % 3 * 50);
            // What comes later is held for less, and comes ten times as fast as it was sent, in order.
            let step = Duration::from_micros(100);
            let steps = (lasts * 10 / 9).as_micros() / step.as_micros();
            for at in 0..=steps as u32 {
                let delay = down.delay + lasts.saturating_sub(step * at * 9 / 10);
                let held = Conditions { delay, ..down };
                pair.lab.schedule(pair.down, begins + step * at, held);
            }
            pair.lab.schedule(pair.down, begins + 2 * lasts, down);
        }
        pair.lab.run_to(s(54));
        let samples = pair.samples();
        let estimates = samples.iter().filter(|s| s.at_s > 12.0);
        let estimates = estimates.filter_map(|s| s.estimate_bps);
        let least = estimates.fold(f64::INFINITY, f64::min);
        let best = mean(samples, 12.0, 54.0, |s| {
            f64::from(u8::from(s.layer.is_some_and(|(encoding, _)| encoding == 2)))
        });
        let freeze = pair.freeze_ms(10.0, 53.0);
        let checks = vec![
            check(
                "the estimate stays above the best layer's 2.6 Mbit/s",
                format!("{:.2} Mbit/s at least", least / MBIT),
                least > 2.6 * MBIT,
            ),
            check(
                "the best layer all the time",
                format!("{:.0} %", best * 100.0),
                best > 0.99,
            ),
            check(
                "no freeze beyond that of the network",
                format!("{freeze:.0} ms"),
                freeze < 350.0,
            ),
            pair.continuity(),
        ];
        (vec![samples.to_vec()], checks)
    });
}
