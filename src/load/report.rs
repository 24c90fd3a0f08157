//! What a run has shown: as a table, as JSON, and as a verdict.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::load::histogram::Histogram;
use crate::load::options::Options;
use crate::load::process::{CpuTime, Snapshot};
use crate::load::tally::{Harvest, JoinTimes};

/// The numbers of a run. Names end with their units.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked for.
    pub plan: Plan,
    /// How the clients got in.
    pub joins: Joins,
    /// RTP over the whole run.
    pub packets: Packets,
    /// One way from publisher to subscriber's socket, of the packets opened while the run was steady.
    pub latency_us: Spread,
    /// The same until this program had read them, which holds what it takes for that on the server's machine.
    pub read_latency_us: Spread,
    /// What clients received while the run was steady.
    pub steady: Steady,
    /// The server's process, where it was named and could be read.
    pub server: Option<Process>,
    /// This program's own process.
    pub load: Process,
    /// One turn of a worker's loop while the run was steady: what the latency to being read holds of this program.
    pub turn_us: Spread,
    /// Whether all that was demanded holds.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Rooms.
    pub rooms: u32,
    /// Publishers in each.
    pub publishers: u32,
    /// Viewers in each.
    pub subscribers: u32,
    /// Whether audio is sent.
    pub audio: bool,
    /// Of each publisher's video, 0 for none.
    pub video_bitrate_bps: u64,
    /// Frames a second.
    pub fps: u32,
    /// Whether in layers.
    pub simulcast: bool,
    /// Whether frames are spread.
    pub paced: bool,
    /// Whether packets are numbered and reported.
    pub transport_cc: bool,
    /// Whether nothing is sent.
    pub idle: bool,
    /// Each way, 0–1.
    pub impaired_loss: f64,
    /// Each way.
    pub impaired_delay_ms: f64,
    /// Each way, 0 for no limit.
    pub impaired_rate_bps: u64,
    /// One of so many packets was opened.
    pub opened_one_of: u32,
    /// Worker threads.
    pub threads: usize,
}

/// How the clients got in.
#[derive(Debug, Clone, Serialize)]
pub struct Joins {
    /// How many there were to be.
    pub clients: u64,
    /// Those that had all and lasted.
    pub ready: u64,
    /// Those that did not.
    pub failed: u64,
    /// Why, and how many each.
    pub failures: BTreeMap<String, u64>,
    /// From joinRoom to the server's confirmation.
    pub joined_ms: Spread,
    /// From joinRoom to DTLS being up.
    pub connected_ms: Spread,
    /// From joinRoom to the first RTP packet.
    pub media_ms: Spread,
    /// From the first client's start until all had joined or failed.
    pub ramp_s: f64,
}

/// RTP over the whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Packets {
    /// By publishers.
    pub sent: u64,
    /// By subscribers, each once.
    pub received: u64,
    /// To be received, since the first packet of each stream.
    pub expected: u64,
    /// Of these not received.
    pub lost: u64,
    /// The same as a share, 0–1.
    pub loss: f64,
    /// Received again.
    pub duplicates: u64,
    /// Received after later ones.
    pub reordered: u64,
    /// Received too late to tell.
    pub too_old: u64,
    /// Of streams that no description names.
    pub unknown_ssrc: u64,
    /// Decrypted.
    pub opened: u64,
    /// Not to be decrypted.
    pub not_opened: u64,
    /// Decrypted, but not what was sent.
    pub wrong_payload: u64,
    /// Asked for again.
    pub nacked: u64,
    /// Retransmissions and padding on streams of their own, not counted as received.
    pub rtx: u64,
    /// Packets that were missing and came on one of these.
    pub repaired: u64,
    /// Keyframes that publishers were asked for.
    pub keyframe_requests: u64,
    /// Tracks promised of which nothing came.
    pub silent_tracks: u64,
    /// Datagrams dropped by the impairment, on the way up.
    pub impaired_up: u64,
    /// Datagrams dropped by the impairment, on the way down.
    pub impaired_down: u64,
    /// Datagrams that the kernel did not take from this program.
    pub not_sent: u64,
    /// Datagrams dropped because this program did not read its sockets in time. Counted as lost, too.
    pub dropped_by_load: u64,
    /// Datagrams dropped because the server did not read its sockets in time.
    pub dropped_at_server: u64,
}

/// What clients received while the run was steady.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Steady {
    /// How long.
    pub seconds: f64,
    /// RTP packets that came from the server.
    pub packets: u64,
    /// Bytes of those datagrams.
    pub bytes: u64,
    /// Both a second.
    pub packets_per_s: f64,
    /// Of all clients together.
    pub bitrate_bps: f64,
}

/// Some percentiles.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Spread {
    /// How many values.
    pub count: u64,
    /// Half are not above.
    pub p50: f64,
    /// 95 % are not above.
    pub p95: f64,
    /// 99 % are not above.
    pub p99: f64,
    /// The highest.
    pub max: f64,
}

/// What a process has used while the run was steady.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// In the program.
    pub cpu_user_s: f64,
    /// In the kernel for it.
    pub cpu_system_s: f64,
    /// Of one core, 0–1 and above.
    pub cpu_share: f64,
    /// For each RTP packet that came from the server; none where none came.
    pub cpu_us_per_packet: Option<f64>,
    /// Of that in the program.
    pub user_us_per_packet: Option<f64>,
    /// Resident memory before the first client.
    pub rss_start_kib: u64,
    /// Resident memory at the end.
    pub rss_end_kib: u64,
    /// The most it ever was.
    pub rss_max_kib: u64,
    /// What it grew by from start to end, for each client.
    pub rss_per_client_kib: f64,
    /// CPU share by the threads' names, busiest first; idle ones together, with a star.
    pub threads: Vec<(String, f64)>,
}

/// Whether all that was demanded holds.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// It does.
    pub pass: bool,
    /// What does not.
    pub reasons: Vec<String>,
    /// What makes the numbers doubtful.
    pub warnings: Vec<String>,
}

/// What the thread that waits for the workers has measured itself.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Until all had joined or failed.
    pub ramp: Duration,
    /// How long was measured.
    pub steady: Duration,
    /// RTP packets and their bytes that came meanwhile.
    pub arrived: (u64, u64),
    /// The server at the start, at the beginning of measuring, and at its end.
    pub server: Option<[Snapshot; 3]>,
    /// This program at the same times.
    pub load: [Snapshot; 3],
    /// Datagrams dropped at this program's sockets, and at the server's.
    pub drops: (u64, u64),
}

impl Report {
    /// Puts everything together.
    #[must_use]
    pub fn new(options: &Options, harvest: &Harvest, outside: &Outside) -> Self {
        let clients = u64::from(options.clients());
        let mut report = Self {
            plan: Plan::new(options),
            joins: joins(clients, harvest, outside.ramp),
            packets: packets(harvest, outside.drops),
            latency_us: Spread::of(&harvest.latency, 1e6),
            read_latency_us: Spread::of(&harvest.read_latency, 1e6),
            steady: steady(outside),
            server: outside
                .server
                .as_ref()
                .map(|times| process(times, outside, clients)),
            load: process(&outside.load, outside, clients),
            turn_us: Spread::of(&harvest.turn, 1e6),
            verdict: Verdict {
                pass: true,
                reasons: Vec::new(),
                warnings: Vec::new(),
            },
        };
        let reasons = report.complaints(options);
        report.verdict = Verdict {
            pass: reasons.is_empty(),
            reasons,
            warnings: report.warnings(),
        };
        report
    }

    fn complaints(&self, options: &Options) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut complain = |is_wrong: bool, what: String| {
            if is_wrong {
                reasons.push(what);
            }
        };
        let Joins { clients, ready, .. } = self.joins;
        complain(
            ready < clients,
            format!("{} of {clients} clients failed", clients - ready),
        );
        let packets = &self.packets;
        complain(
            packets.silent_tracks > 0,
            format!("{} tracks were silent", packets.silent_tracks),
        );
        complain(
            packets.not_opened > 0,
            format!("{} packets could not be decrypted", packets.not_opened),
        );
        complain(
            packets.wrong_payload > 0,
            format!("{} packets were not what was sent", packets.wrong_payload),
        );
        if let Some(max) = options.max_loss {
            complain(
                packets.expected == 0,
                "no loss could be measured, as nothing was received".to_owned(),
            );
            let text = format!(
                "loss {:.3} % is above {:.3} %",
                packets.loss * 100.0,
                max * 100.0
            );
            complain(packets.loss > max, text);
        }
        if let Some(max) = options.max_p99 {
            let max = max.as_secs_f64() * 1e6;
            let text = format!("p99 {:.0} µs is above {max:.0} µs", self.latency_us.p99);
            complain(self.latency_us.p99 > max, text);
            complain(
                self.latency_us.count == 0,
                "no latency was measured".to_owned(),
            );
        }
        reasons
    }

    /// Where this program itself may have made what it measured.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let turn = self.turn_us.p99 / 1e3;
        if turn > SLOW_TURN_MS {
            warnings.push(format!(
                "this program was too slow (p99 of its turns {turn:.0} ms): latency and loss are not the \
                 server's alone"
            ));
        }
        if self.packets.dropped_by_load > 0 {
            warnings.push(format!(
                "{} datagrams were dropped at this program's own sockets and count as lost",
                self.packets.dropped_by_load
            ));
        }
        warnings
    }

    /// The numbers as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts only")
    }
}

impl Plan {
    fn new(options: &Options) -> Self {
        Self {
            rooms: options.rooms,
            publishers: options.publishers,
            subscribers: options.subscribers,
            audio: options.audio,
            video_bitrate_bps: options.video_bitrate,
            fps: options.fps,
            simulcast: options.simulcast,
            paced: options.paced,
            transport_cc: options.transport_cc,
            idle: options.idle,
            impaired_loss: options.loss,
            impaired_delay_ms: options.delay.as_secs_f64() * 1e3,
            impaired_rate_bps: options.rate,
            opened_one_of: options.verify.one_of,
            threads: options.workers(),
        }
    }
}

impl Spread {
    fn of(histogram: &Histogram, per_second: f64) -> Self {
        let at = |quantile| histogram.quantile(quantile).as_secs_f64() * per_second;
        Self {
            count: histogram.count(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max().as_secs_f64() * per_second,
        }
    }
}

fn joins(clients: u64, harvest: &Harvest, ramp: Duration) -> Joins {
    let spread = |pick: fn(&JoinTimes) -> Option<Duration>| {
        let mut histogram = Histogram::default();
        harvest
            .joins
            .iter()
            .filter_map(pick)
            .for_each(|time| histogram.record(time));
        Spread::of(&histogram, 1e3)
    };
    Joins {
        clients,
        ready: harvest.tally.ready,
        failed: harvest.tally.failed,
        failures: harvest.failures.clone(),
        joined_ms: spread(|times| times.joined),
        connected_ms: spread(|times| times.connected),
        media_ms: spread(|times| times.media),
        ramp_s: ramp.as_secs_f64(),
    }
}

fn packets(harvest: &Harvest, drops: (u64, u64)) -> Packets {
    let tally = &harvest.tally;
    let (expected, lost) = harvest.loss();
    Packets {
        sent: tally.rtp_sent,
        received: tally.rtp_received,
        expected,
        lost,
        loss: lost as f64 / expected.max(1) as f64,
        duplicates: tally.duplicates,
        reordered: tally.reordered,
        too_old: tally.too_old,
        unknown_ssrc: tally.unknown_ssrc,
        opened: tally.opened,
        not_opened: tally.not_opened,
        wrong_payload: tally.wrong_payload,
        nacked: tally.nacked,
        rtx: tally.rtx_arrived,
        repaired: tally.repaired,
        keyframe_requests: tally.keyframe_requests,
        silent_tracks: harvest.silent_tracks,
        impaired_up: tally.impaired_up,
        impaired_down: tally.impaired_down,
        not_sent: tally.not_sent,
        dropped_by_load: drops.0,
        dropped_at_server: drops.1,
    }
}

fn steady(outside: &Outside) -> Steady {
    let seconds = outside.steady.as_secs_f64();
    let (packets, bytes) = outside.arrived;
    let per_second = |count: u64| {
        if seconds > 0.0 {
            count as f64 / seconds
        } else {
            0.0
        }
    };
    Steady {
        seconds,
        packets,
        bytes,
        packets_per_s: per_second(packets),
        bitrate_bps: per_second(bytes * 8),
    }
}

fn process([start, before, after]: &[Snapshot; 3], outside: &Outside, clients: u64) -> Process {
    let seconds = outside.steady.as_secs_f64().max(1e-9);
    let share = |cpu: CpuTime| cpu.total().as_secs_f64() / seconds;
    let cpu = after.cpu.since(before.cpu);
    let packets = outside.arrived.0;
    let per_packet =
        |time: Duration| (packets > 0).then(|| time.as_secs_f64() * 1e6 / packets as f64);
    let grown = after.rss_kib.saturating_sub(start.rss_kib);
    let mut threads: Vec<(String, f64)> = Vec::new();
    for (name, cpu) in after.threads_since(before) {
        let kind = format!("{}*", name.trim_end_matches(|c: char| c.is_ascii_digit()));
        let name = if share(cpu) < IDLE_SHARE { kind } else { name };
        if let Some((_, sum)) = threads.iter_mut().find(|(known, _)| *known == name) {
            *sum += share(cpu);
        } else if threads.len() < THREADS_SHOWN {
            threads.push((name, share(cpu)));
        }
    }
    Process {
        cpu_user_s: cpu.user.as_secs_f64(),
        cpu_system_s: cpu.system.as_secs_f64(),
        cpu_share: share(cpu),
        cpu_us_per_packet: per_packet(cpu.total()),
        user_us_per_packet: per_packet(cpu.user),
        rss_start_kib: start.rss_kib,
        rss_end_kib: after.rss_kib,
        rss_max_kib: after.rss_max_kib,
        rss_per_client_kib: grown as f64 / clients.max(1) as f64,
        threads,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write_joins(&mut text)?;
        self.write_media(&mut text)?;
        if let Some(server) = &self.server {
            write_process(&mut text, "server", server)?;
        }
        write_process(&mut text, "load tester", &self.load)?;
        let turn = &self.turn_us;
        writeln!(
            text,
            "  its turns        p50 {:.0} µs  p99 {:.0} µs  max {:.0} µs",
            turn.p50, turn.p99, turn.max
        )?;
        for warning in &self.verdict.warnings {
            writeln!(text, "WARNING: {warning}")?;
        }
        match &self.verdict.reasons[..] {
            [] => writeln!(text, "PASS")?,
            reasons => writeln!(text, "FAIL: {}", reasons.join("; "))?,
        }
        f.write_str(&text)
    }
}

impl Report {
    fn write_joins(&self, out: &mut String) -> fmt::Result {
        let plan = &self.plan;
        let joins = &self.joins;
        writeln!(
            out,
            "{} of {} and {}: {}, {} ready, {} failed, in {:.1} s",
            counted(plan.rooms, "room"),
            counted(plan.publishers, "publisher"),
            counted(plan.subscribers, "subscriber"),
            counted(joins.clients, "client"),
            joins.ready,
            joins.failed,
            joins.ramp_s
        )?;
        for (why, count) in &joins.failures {
            writeln!(out, "  {count} × {why}")?;
        }
        writeln!(
            out,
            "from joinRoom, ms       p50      p95      p99      max"
        )?;
        let rows = [
            ("to joined", &joins.joined_ms),
            ("to DTLS up", &joins.connected_ms),
            ("to first media", &joins.media_ms),
        ];
        for (name, spread) in rows {
            write_spread(out, name, spread, 1)?;
        }
        Ok(())
    }

    fn write_media(&self, out: &mut String) -> fmt::Result {
        let packets = &self.packets;
        writeln!(
            out,
            "one way, µs             p50      p95      p99      max"
        )?;
        write_spread(out, "to arrival", &self.latency_us, 0)?;
        write_spread(out, "to being read", &self.read_latency_us, 0)?;
        writeln!(
            out,
            "packets              {} sent, {} received, {} lost of {} ({:.4} %)",
            packets.sent,
            packets.received,
            packets.lost,
            packets.expected,
            packets.loss * 100.0
        )?;
        writeln!(
            out,
            "  {} duplicates, {} out of order, {} asked for again, {} opened, {} keyframe requests",
            packets.duplicates,
            packets.reordered,
            packets.nacked,
            packets.opened,
            packets.keyframe_requests
        )?;
        let remarks = [
            (packets.silent_tracks, "tracks of which nothing came"),
            (packets.too_old, "too old to tell"),
            (packets.rtx, "retransmissions and padding on RTX"),
            (packets.repaired, "of which were missing"),
            (packets.unknown_ssrc, "of an SSRC that no description names"),
            (packets.not_opened, "not to be decrypted"),
            (packets.wrong_payload, "not what was sent"),
            (
                packets.impaired_up,
                "dropped by the impairment on the way up",
            ),
            (
                packets.impaired_down,
                "dropped by the impairment on the way down",
            ),
            (packets.not_sent, "not taken by this machine's kernel"),
            (
                packets.dropped_at_server,
                "dropped because the server was too slow to receive",
            ),
        ];
        for (count, what) in remarks.iter().filter(|(count, _)| *count > 0) {
            writeln!(out, "  {count} {what}")?;
        }
        let steady = &self.steady;
        writeln!(
            out,
            "steady for {:.1} s     {:.0} packets/s, {:.2} Mbit/s to all subscribers",
            steady.seconds,
            steady.packets_per_s,
            steady.bitrate_bps / 1e6
        )
    }
}

/// `1 room`, `2 rooms`.
fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn write_spread(out: &mut String, name: &str, spread: &Spread, digits: usize) -> fmt::Result {
    let Spread {
        p50, p95, p99, max, ..
    } = spread;
    if spread.count == 0 {
        return writeln!(
            out,
            "  {name:<16} {:>8} {:>8} {:>8} {:>8}",
            "-", "-", "-", "-"
        );
    }
    writeln!(
        out,
        "  {name:<16} {p50:>8.digits$} {p95:>8.digits$} {p99:>8.digits$} {max:>8.digits$}"
    )
}

fn write_process(out: &mut String, name: &str, process: &Process) -> fmt::Result {
    write!(
        out,
        "{name:<18} CPU {:.1} % (user {:.2} s, system {:.2} s)",
        process.cpu_share * 100.0,
        process.cpu_user_s,
        process.cpu_system_s
    )?;
    if let (Some(total), Some(user)) = (process.cpu_us_per_packet, process.user_us_per_packet) {
        write!(out, ", {total:.2} µs per forwarded packet (user {user:.2})")?;
    }
    writeln!(
        out,
        "\n  memory           {:.1} MiB, at most {:.1}; {:.1} KiB more per client",
        process.rss_end_kib as f64 / 1024.0,
        process.rss_max_kib as f64 / 1024.0,
        process.rss_per_client_kib
    )?;
    let threads: Vec<String> = process
        .threads
        .iter()
        .map(|(name, share)| format!("{name} {:.1} %", share * 100.0))
        .collect();
    writeln!(out, "  threads          {}", threads.join(", "))
}

/// Names of threads that are shown; those of the shards are the busiest.
const THREADS_SHOWN: usize = 16;
/// Threads below this share of a core are taken together by what their names begin with.
const IDLE_SHARE: f64 = 0.01;
/// A turn longer than this is itself a latency to be seen.
const SLOW_TURN_MS: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn report(args: &[&str], harvest: &Harvest) -> Report {
        let args = ["load", "ws://127.0.0.1:1"].iter().chain(args);
        let options = Options::try_parse_from(args).unwrap();
        let cpu = |ms| Snapshot {
            cpu: CpuTime {
                user: Duration::from_millis(ms),
                system: Duration::from_millis(3 * ms),
            },
            rss_kib: 1000 + ms,
            ..Snapshot::default()
        };
        let outside = Outside {
            steady: Duration::from_secs(10),
            arrived: (100_000, 1_000_000),
            server: Some([cpu(0), cpu(100), cpu(200)]),
            ..Outside::default()
        };
        Report::new(&options, harvest, &outside)
    }

    fn good() -> Harvest {
        let mut harvest = Harvest::default();
        harvest.tally.ready = 2;
        harvest.latency.record(Duration::from_micros(900));
        harvest.sent = vec![((0, 1), 1000)];
        harvest.received = vec![crate::load::tally::Received {
            origin: Some((0, 1)),
            received: 999,
            expected_seen: 999,
            first_counter: 0,
        }];
        harvest
    }

    #[test]
    fn cpu_is_told_per_forwarded_packet() {
        let report = report(&[], &good());
        let server = report.server.as_ref().unwrap();
        assert_eq!(server.cpu_us_per_packet, Some(4.0));
        assert_eq!(server.user_us_per_packet, Some(1.0));
        assert!((server.cpu_share - 0.04).abs() < 1e-9);
        assert!((server.rss_per_client_kib - 100.0).abs() < 1e-9);
        assert!((report.steady.bitrate_bps - 800_000.0).abs() < 1e-9);
        let text = report.to_string();
        assert!(text.contains("4.00 µs per forwarded packet"), "{text}");
        assert!(text.ends_with("PASS\n"), "{text}");
    }

    #[test]
    fn verdicts() {
        let verdict = |args: &[&str], harvest: &Harvest| report(args, harvest).verdict;
        let demands = ["--max-loss", "0.2%", "--max-p99", "1ms"];
        assert!(verdict(&demands, &good()).pass);
        let strict = ["--max-loss", "0.05%", "--max-p99", "800us"];
        let reasons = verdict(&strict, &good()).reasons;
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(
            reasons[0].contains("0.100 %") && reasons[1].contains("900 µs"),
            "{reasons:?}"
        );
        let mut bad = good();
        bad.tally.ready = 1;
        bad.tally.wrong_payload = 3;
        bad.silent_tracks = 1;
        assert_eq!(verdict(&[], &bad).reasons.len(), 3);
        let mut silent = Harvest::default();
        silent.tally.ready = 2;
        assert!(verdict(&[], &silent).pass);
        // What was not measured does not hold.
        for demand in [["--max-p99", "1s"], ["--max-loss", "100%"]] {
            assert_eq!(verdict(&demand, &silent).reasons.len(), 1, "{demand:?}");
        }
        assert!(verdict(&[], &good()).warnings.is_empty());
        let mut slow = good();
        slow.turn.record(Duration::from_millis(100));
        let verdict = verdict(&[], &slow);
        assert!(verdict.pass && verdict.warnings.len() == 1, "{verdict:?}");
    }

    #[test]
    fn json_can_be_read() {
        let json: serde_json::Value =
            serde_json::from_str(&report(&[], &good()).to_json()).unwrap();
        assert_eq!(json["packets"]["lost"], 1);
        assert_eq!(json["joins"]["clients"], 2);
        assert_eq!(json["verdict"]["pass"], true);
        assert_eq!(json["server"]["cpu_us_per_packet"], 4.0);
    }
}
