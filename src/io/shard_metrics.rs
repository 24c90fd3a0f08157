//! What the shards count, in Prometheus' text format.

use std::fmt::Write as _;
use std::time::Duration;

use crate::base::ids::ShardId;
use crate::control::LayerReason;
use crate::control::layers::LayerCensus;
use crate::io::load::LoadSnapshot;
use crate::io::shard_thread::ShardSnapshot;

/// Every number of every shard.
pub(in crate::io) fn render(shards: &[(ShardId, ShardSnapshot)]) -> String {
    let mut text = String::new();
    let Some((_, first)) = shards.first() else {
        return text;
    };
    for (index, (name, _)) in first.counters.iter().enumerate() {
        let _ = writeln!(text, "# TYPE shardcast_{name}_total counter");
        for (shard, snapshot) in shards {
            // A shard that has not looked at its counters yet has none.
            let value = snapshot.counters.get(index).map_or(0, |(_, value)| *value);
            let _ = writeln!(text, "shardcast_{name}_total{{shard=\"{shard}\"}} {value}");
        }
    }
    gauge(
        &mut text,
        shards,
        "shard_busy_ratio",
        "Share of the last half second in which the shard's thread did not wait.",
        |load| f64::from(load.busy_percent) / 100.0,
    );
    gauge(
        &mut text,
        shards,
        "shard_turn_p99_seconds",
        "What 99 of 100 turns of the last 10 to 20 s did not exceed.",
        |load| load.turn_p99.as_secs_f64(),
    );
    turns(&mut text, shards);
    layers(&mut text, shards);
    text
}

fn gauge(
    text: &mut String,
    shards: &[(ShardId, ShardSnapshot)],
    name: &str,
    help: &str,
    value: impl Fn(&LoadSnapshot) -> f64,
) {
    let _ = writeln!(text, "# HELP shardcast_{name} {help}");
    let _ = writeln!(text, "# TYPE shardcast_{name} gauge");
    for (shard, snapshot) in shards {
        let value = value(&snapshot.load);
        let _ = writeln!(text, "shardcast_{name}{{shard=\"{shard}\"}} {value}");
    }
}

fn turns(text: &mut String, shards: &[(ShardId, ShardSnapshot)]) {
    const NAME: &str = "shardcast_shard_turn_seconds";
    let _ = writeln!(
        text,
        "# HELP {NAME} How long a turn of the shard's loop took, waiting apart."
    );
    let _ = writeln!(text, "# TYPE {NAME} histogram");
    for (shard, snapshot) in shards {
        let turns = &snapshot.load.turns;
        let mut bucket = |end: &str, count: u64| {
            let _ = writeln!(
                text,
                "{NAME}_bucket{{shard=\"{shard}\",le=\"{end}\"}} {count}"
            );
        };
        for (end, count) in turns.octaves() {
            bucket(&seconds(end), count);
        }
        bucket("+Inf", turns.count());
        let _ = writeln!(
            text,
            "{NAME}_sum{{shard=\"{shard}\"}} {}",
            seconds(turns.sum())
        );
        let _ = writeln!(text, "{NAME}_count{{shard=\"{shard}\"}} {}", turns.count());
    }
}

/// What subscriptions get: a row for each reason and encoding that occurs, so that their number is bounded.
fn layers(text: &mut String, shards: &[(ShardId, ShardSnapshot)]) {
    const SUBSCRIPTIONS: &str = "shardcast_video_subscriptions";
    const SWITCHES: &str = "shardcast_layer_switches_total";
    const PAUSED: &str = "shardcast_video_paused_seconds_total";
    let _ = writeln!(
        text,
        "# HELP {SUBSCRIPTIONS} Videos that peers receive, by the encoding they are sent and the reason.\n\
         # TYPE {SUBSCRIPTIONS} gauge"
    );
    for (shard, snapshot) in shards {
        for reason in LayerReason::ALL {
            let by_layer = snapshot.layers.subscriptions[reason.index()];
            for (at, count) in by_layer.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                let encoding = at
                    .checked_sub(1)
                    .map_or("none".to_owned(), |at| at.to_string());
                let _ = writeln!(
                    text,
                    "{SUBSCRIPTIONS}{{shard=\"{shard}\",encoding=\"{encoding}\",reason=\"{reason}\"}} {count}"
                );
            }
        }
    }
    let mut by_reason =
        |name: &str, help: &str, value: &dyn Fn(&ShardSnapshot, usize) -> String| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (shard, snapshot) in shards {
                for reason in LayerReason::ALL {
                    let value = value(snapshot, reason.index());
                    let _ = writeln!(
                        text,
                        "{name}{{shard=\"{shard}\",reason=\"{reason}\"}} {value}"
                    );
                }
            }
        };
    by_reason(
        SWITCHES,
        "Changes of the layer that a subscription is sent, by the new one's reason.",
        &|snapshot, reason| snapshot.layers.switches[reason].to_string(),
    );
    by_reason(
        PAUSED,
        "Time in which a subscription's video was not sent, by reason.",
        &|snapshot, reason| snapshot.paused[reason].as_secs().to_string(),
    );
    for (name, help, value) in [
        (
            "estimated_peers",
            "Peers of which is known what their network carries.",
            (|layers| layers.estimates) as fn(&LayerCensus) -> u64,
        ),
        (
            "estimates_sum_bps",
            "What their networks carry together, in bits per second.",
            |layers| layers.estimates_sum_bps,
        ),
    ] {
        let _ = writeln!(
            text,
            "# HELP shardcast_{name} {help}\n# TYPE shardcast_{name} gauge"
        );
        for (shard, snapshot) in shards {
            let value = value(&snapshot.layers);
            let _ = writeln!(text, "shardcast_{name}{{shard=\"{shard}\"}} {value}");
        }
    }
}

/// Exact, whatever the size.
fn seconds(duration: Duration) -> String {
    format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::base::ids::{Bitrate, EncodingIndex};
    use crate::io::load::Load;

    #[test]
    fn every_shard_has_its_counters_and_a_cumulative_histogram() {
        let zero = Instant::now();
        let mut load = Load::new(zero, Arc::default());
        load.on_turn(zero, Duration::from_micros(3));
        load.on_turn(zero + Duration::from_secs(4), Duration::from_secs(2));
        let mut layers = LayerCensus::default();
        layers.add(None, LayerReason::LastN);
        layers.add(Some(EncodingIndex(2)), LayerReason::Best);
        layers.add(Some(EncodingIndex(2)), LayerReason::Best);
        layers.add_estimate(Bitrate(700_000));
        layers.switches[LayerReason::Bandwidth.index()] = 5;
        let mut paused = [Duration::ZERO; LayerReason::COUNT];
        paused[LayerReason::Bandwidth.index()] = Duration::from_millis(3_700);
        let first = ShardSnapshot {
            counters: vec![("rtp_received", 7)],
            load: load.snapshot(zero + Duration::from_secs(4)),
            layers,
            paused,
        };
        let text = render(&[(ShardId(0), first), (ShardId(1), ShardSnapshot::default())]);
        for line in [
            "# TYPE shardcast_rtp_received_total counter",
            "shardcast_rtp_received_total{shard=\"0\"} 7",
            "shardcast_rtp_received_total{shard=\"1\"} 0",
            "shardcast_shard_busy_ratio{shard=\"0\"} 0.5",
            "shardcast_shard_turn_seconds_bucket{shard=\"0\",le=\"0.000002048\"} 0",
            "shardcast_shard_turn_seconds_bucket{shard=\"0\",le=\"0.000004096\"} 1",
            "shardcast_shard_turn_seconds_bucket{shard=\"0\",le=\"1.073741824\"} 1",
            "shardcast_shard_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 2",
            "shardcast_shard_turn_seconds_sum{shard=\"0\"} 2.000003000",
            "shardcast_shard_turn_seconds_count{shard=\"1\"} 0",
            "shardcast_video_subscriptions{shard=\"0\",encoding=\"none\",reason=\"last-n\"} 1",
            "shardcast_video_subscriptions{shard=\"0\",encoding=\"2\",reason=\"best\"} 2",
            "shardcast_layer_switches_total{shard=\"0\",reason=\"bandwidth\"} 5",
            "shardcast_layer_switches_total{shard=\"1\",reason=\"cpu\"} 0",
            "shardcast_video_paused_seconds_total{shard=\"0\",reason=\"bandwidth\"} 3",
            "shardcast_estimated_peers{shard=\"0\"} 1",
            "shardcast_estimates_sum_bps{shard=\"0\"} 700000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(render(&[]), "");
    }
}
