//! What the shards count, in Prometheus' text format.

use std::fmt::Write as _;
use std::time::Duration;

use crate::base::ids::ShardId;
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

/// Exact, whatever the size.
fn seconds(duration: Duration) -> String {
    format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::io::load::Load;

    #[test]
    fn every_shard_has_its_counters_and_a_cumulative_histogram() {
        let zero = Instant::now();
        let mut load = Load::new(zero, Arc::default());
        load.on_turn(zero, Duration::from_micros(3));
        load.on_turn(zero + Duration::from_secs(4), Duration::from_secs(2));
        let first = ShardSnapshot {
            counters: vec![("rtp_received", 7)],
            load: load.snapshot(zero + Duration::from_secs(4)),
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
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(render(&[]), "");
    }
}
