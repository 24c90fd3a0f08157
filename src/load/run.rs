//! One run from the first client to the report.

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::base::ids::{MediaKind, Ssrc};
use crate::base::time::Interval;
use crate::io::file_limit;
use crate::load::media::Content;
use crate::load::negotiation::{NegotiationError, OwnTrack, RIDS};
use crate::load::options::Options;
use crate::load::peer::PeerPlan;
use crate::load::process::{Snapshot, socket_drops};
use crate::load::report::{Outside, Report};
use crate::load::shared::{Phase, Setup, Shared};
use crate::load::tally::Harvest;
use crate::load::worker::{Start, Worker};
use crate::network::QueueLimit;
use crate::transport::identity::{DtlsIdentity, TransportError};
use crate::wire::rtcp::NtpTime;

/// Why there was no run.
#[derive(Debug)]
pub enum LoadError {
    /// Options that make no sense together.
    Usage(String),
    /// The server cannot be reached.
    Connect(SocketAddr, io::Error),
    /// The system allows fewer open files than the clients need.
    FileLimit {
        /// What it allows.
        limit: u64,
        /// What they need.
        wanted: u64,
    },
    /// No certificate can be made.
    Identity(TransportError),
    /// A thread or its poll cannot be had, or broke.
    Worker(io::Error),
    /// There is no such process to observe.
    NoProcess(u32),
    /// The server takes no simulcast.
    NoSimulcast,
    /// The JSON cannot be written.
    Json(PathBuf, io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Connect(address, error) => write!(f, "cannot connect to {address}: {error}"),
            Self::FileLimit { limit, wanted } => write!(
                f,
                "the system allows {limit} open files, the clients need {wanted} (ulimit -n)"
            ),
            Self::Identity(error) => error.fmt(f),
            Self::Worker(error) => write!(f, "a worker failed: {error}"),
            Self::NoProcess(pid) => {
                write!(f, "there is no process {pid} that can be read in /proc")
            }
            Self::NoSimulcast => NegotiationError::NoSimulcast.fmt(f),
            Self::Json(path, error) => write!(f, "cannot write {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for LoadError {}

/// Loads the server as `options` say, with a line on `progress` each second. Ends early, with what was
/// measured so far, once `stop` is set.
///
/// # Errors
/// [`LoadError`], if nothing could be measured at all.
pub fn run(
    options: &Options,
    stop: &AtomicBool,
    progress: &mut dyn Write,
) -> Result<Report, LoadError> {
    options.check().map_err(LoadError::Usage)?;
    let address = options.target.address;
    TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .map_err(|error| LoadError::Connect(address, error))?;
    let wanted = u64::from(options.clients()) * FILES_PER_CLIENT + FILES_OF_PROCESS;
    let limit = file_limit::raise(wanted).map_err(LoadError::Worker)?;
    if limit < wanted {
        return Err(LoadError::FileLimit { limit, wanted });
    }
    let mut run = Run::start(options)?;
    run.wait_for_ramp(stop, progress);
    if run.shared.is_pointless() {
        run.end()?;
        return Err(LoadError::NoSimulcast);
    }
    run.measure(stop, progress)?;
    let harvest = run.end()?;
    Ok(Report::new(options, &harvest, &run.outside))
}

struct Run<'a> {
    options: &'a Options,
    shared: Arc<Shared>,
    zero: Instant,
    workers: Vec<JoinHandle<io::Result<Harvest>>>,
    outside: Outside,
    lines: Interval,
    /// What had arrived when the last line was written.
    line: (Instant, u64, u64),
    drops_before: u64,
}

impl<'a> Run<'a> {
    fn start(options: &'a Options) -> Result<Self, LoadError> {
        let identity = Arc::new(DtlsIdentity::generate().map_err(LoadError::Identity)?);
        let count = options.workers();
        let mut outside = Outside::default();
        if let Some(pid) = options.server_pid {
            let at_start = Snapshot::of(pid).ok_or(LoadError::NoProcess(pid))?;
            outside.server = Some([at_start.clone(), at_start.clone(), at_start]);
        }
        let own = own_snapshot();
        outside.load = [own.clone(), own.clone(), own];
        let zero = Instant::now();
        let shared = Arc::new(Shared::new(
            zero,
            count,
            options.rooms as usize,
            options.publishers,
        ));
        let mut plans: Vec<Vec<Start>> = (0..count).map(|_| Vec::new()).collect();
        for number in 0..options.clients() {
            let at = zero + options.ramp.offset(number, options.clients());
            let room = number / (options.publishers + options.subscribers);
            let plan = plan(options, number);
            plans[number as usize % count].push((at, room as usize, plan));
        }
        let mut workers = Vec::new();
        for (worker, plans) in plans.into_iter().enumerate() {
            let setup = Setup {
                worker,
                server: options.target.address,
                url: options.target.url.clone(),
                zero,
                zero_ntp: ntp_now(),
                impairment: options.impairment(),
                join_timeout: options.join_timeout,
                open_one_of: options.verify.one_of,
            };
            let shared = Arc::clone(&shared);
            let seed = options.seed.wrapping_add(worker as u64);
            let worker_thread = Worker::new(setup, shared, Arc::clone(&identity), plans, seed)
                .and_then(|state| {
                    let builder = thread::Builder::new().name(format!("load-{worker}"));
                    builder.spawn(move || state.run())
                })
                .map_err(LoadError::Worker)?;
            workers.push(worker_thread);
        }
        Ok(Self {
            options,
            shared,
            zero,
            workers,
            outside,
            lines: Interval::new(zero, LINE_INTERVAL),
            line: (zero, 0, 0),
            drops_before: 0,
        })
    }

    /// Until everybody is in or out: each client's own time is limited.
    fn wait_for_ramp(&mut self, stop: &AtomicBool, progress: &mut dyn Write) {
        let clients = u64::from(self.options.clients());
        loop {
            let tally = self.shared.tally();
            let is_over = tally.ready + tally.failed >= clients || self.has_ended_worker();
            if is_over || self.shared.is_pointless() || stop.load(Ordering::Relaxed) {
                self.outside.ramp = Instant::now().saturating_duration_since(self.zero);
                return;
            }
            self.tick(progress);
        }
    }

    fn measure(&mut self, stop: &AtomicBool, progress: &mut dyn Write) -> Result<(), LoadError> {
        // What the last joins brought about is not to be measured.
        let until = Instant::now() + SETTLE_TIME.max(self.options.warm_up);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            self.tick(progress);
        }
        self.drops_before = socket_drops(&self.shared.server_ports());
        self.shared.set_phase(Phase::Steady);
        let before = self.shared.tally();
        self.observe(1)?;
        let began = Instant::now();
        let until = began + self.options.duration;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) && !self.has_ended_worker() {
            let tally = self.shared.tally();
            if tally.ready == 0 {
                break;
            }
            self.tick(progress);
        }
        let after = self.shared.tally();
        self.outside.steady = Instant::now().saturating_duration_since(began);
        self.observe(2)?;
        self.outside.arrived = (
            after.media_arrived() - before.media_arrived(),
            after.bytes_arrived - before.bytes_arrived,
        );
        Ok(())
    }

    /// Stops the publishers, lets arrive what is on its way, and sends everybody home.
    fn end(&mut self) -> Result<Harvest, LoadError> {
        self.shared.set_phase(Phase::Quiet);
        thread::sleep(quiet_time(self.options));
        // While the sockets are still there.
        let at_server = socket_drops(&self.shared.server_ports());
        self.outside.drops = (
            socket_drops(&self.shared.local_ports()),
            at_server.saturating_sub(self.drops_before),
        );
        self.shared.set_phase(Phase::End);
        let mut sum = Harvest::default();
        for worker in self.workers.drain(..) {
            let result = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            sum.merge(result.map_err(LoadError::Worker)?);
        }
        Ok(sum)
    }

    /// Looks at the processes for the time `index`.
    fn observe(&mut self, index: usize) -> Result<(), LoadError> {
        if let (Some(pid), Some(times)) = (self.options.server_pid, &mut self.outside.server) {
            times[index] = Snapshot::of(pid).ok_or(LoadError::NoProcess(pid))?;
        }
        self.outside.load[index] = own_snapshot();
        Ok(())
    }

    fn has_ended_worker(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Lets a bit of time pass; writes a line when one is due.
    fn tick(&mut self, progress: &mut dyn Write) {
        thread::sleep(TICK);
        let now = Instant::now();
        if !self.lines.take_due(now) {
            return;
        }
        let tally = self.shared.tally();
        let recent = self.shared.take_recent();
        let (then, sent, arrived) = self.line;
        let seconds = now.saturating_duration_since(then).as_secs_f64().max(1e-9);
        let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / seconds;
        let p99 = match recent.count() {
            0 => "-".to_owned(),
            _ => format!("{:.2} ms", recent.quantile(0.99).as_secs_f64() * 1e3),
        };
        let missing = tally.missing as f64 / (tally.missing + tally.rtp_received).max(1) as f64;
        // Nobody has to read it.
        let _ = writeln!(
            progress,
            "{:>4.0} s  joined {}  connected {}  ready {}/{}  failed {}  in {:.0}/s  out {:.0}/s  loss {:.3} %  p99 {p99}",
            now.saturating_duration_since(self.zero).as_secs_f64(),
            tally.joined,
            tally.connected,
            tally.ready,
            self.options.clients(),
            tally.failed,
            rate(tally.rtp_arrived, arrived),
            rate(tally.rtp_sent, sent),
            missing * 100.0,
        );
        self.line = (now, tally.rtp_sent, tally.rtp_arrived);
    }
}

/// What the client of a number is to do. In each room publishers come first, so that viewers have
/// something to be offered.
fn plan(options: &Options, number: u32) -> PeerPlan {
    let size = options.publishers + options.subscribers;
    let (room, place) = (number / size, number % size);
    let is_publisher = place < options.publishers;
    let tracks = if is_publisher {
        tracks(options, number)
    } else {
        Vec::new()
    };
    let others = options.publishers - u32::from(is_publisher);
    let per_publisher = u32::from(options.audio) + u32::from(options.video_bitrate > 0);
    let run = std::process::id();
    PeerPlan {
        number,
        room_numbers: room * size..(room + 1) * size,
        id: format!("{}{place}", if is_publisher { 'p' } else { 's' }),
        room: format!("load-{run}-{room}"),
        tracks,
        expected_tracks: (others * per_publisher) as usize,
        is_idle: options.idle,
        has_transport_cc: options.transport_cc,
        // Far from those of the neighbours, as they are also combined.
        seed: options
            .seed
            .wrapping_add(u64::from(number))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

fn tracks(options: &Options, number: u32) -> Vec<(OwnTrack, Vec<Content>)> {
    // SSRCs only have to differ within a room's publishers to be easy to follow.
    let ssrc = |stream: u32| Ssrc(0x1000_0000 + number * 8 + stream);
    let mut tracks = Vec::new();
    if options.audio {
        let track = OwnTrack {
            kind: MediaKind::Audio,
            ssrcs: vec![ssrc(0)],
        };
        tracks.push((track, vec![Content::Audio]));
    }
    if options.video_bitrate > 0 {
        let layers = if options.simulcast {
            RIDS.len() as u32
        } else {
            1
        };
        let track = OwnTrack {
            kind: MediaKind::Video,
            ssrcs: (1..=layers).map(ssrc).collect(),
        };
        // Half the width and height make a quarter of the pixels.
        let contents = (0..layers).rev().map(|smaller| Content::Video {
            bitrate: options.video_bitrate >> (2 * smaller),
            fps: options.fps,
            is_paced: options.paced,
        });
        tracks.push((track, contents.collect()));
    }
    tracks
}

fn own_snapshot() -> Snapshot {
    Snapshot::of(std::process::id()).unwrap_or_default()
}

/// How long what was sent may be on its way: what comes later counts as lost.
fn quiet_time(options: &Options) -> Duration {
    // There and back, and once more for what is asked for again.
    let ways = options.delay * 4;
    let queues = match options.impairment().queue {
        QueueLimit::Time(time) if options.rate > 0 => 2 * time + PACED_MAX,
        _ => Duration::ZERO,
    };
    QUIET_TIME + ways + queues
}

/// The wall clock as RTCP has it (RFC 3550 §4).
fn ntp_now() -> NtpTime {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since_1970.as_secs() + SECONDS_1900_TO_1970;
    let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
    NtpTime(seconds << 32 | fraction)
}

const SECONDS_1900_TO_1970: u64 = 2_208_988_800;
/// UDP and TCP.
const FILES_PER_CLIENT: u64 = 2;
/// Polls, standard streams, what `/proc` needs.
const FILES_OF_PROCESS: u64 = 600;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const LINE_INTERVAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);
/// Between the last join and the beginning of measuring.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// Between the last packet sent and the end, without impairment.
const QUIET_TIME: Duration = Duration::from_millis(500);
/// As long as the server lets pictures wait for a narrow line.
const PACED_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn plans_fill_room_after_room_publishers_first() {
        let args = "load ws://127.0.0.1:1 --rooms 2 --publishers 2 --subscribers 1 --audio";
        let options = Options::try_parse_from(args.split(' ')).unwrap();
        let plans: Vec<_> = (0..options.clients()).map(|n| plan(&options, n)).collect();
        let ids: Vec<_> = plans
            .iter()
            .map(|p| (&p.id[..], p.expected_tracks))
            .collect();
        let room = [("p0", 2), ("p1", 2), ("s2", 4)];
        assert_eq!(ids, [room, room].concat());
        assert!(plans[0].room == plans[2].room && plans[2].room != plans[3].room);
        assert_eq!(plans[4].room_numbers, 3..6);
        assert_eq!(plans[4].tracks.len(), 2);
        assert!(plans[5].tracks.is_empty());
        let ssrcs: std::collections::BTreeSet<_> = plans
            .iter()
            .flat_map(|p| p.tracks.iter().flat_map(|(t, _)| t.ssrcs.clone()))
            .collect();
        assert_eq!(ssrcs.len(), 8);
    }

    #[test]
    fn what_waits_at_the_end_is_waited_for() {
        let quiet = |args: &str| {
            let args = format!("load ws://127.0.0.1:1 {args}");
            quiet_time(&Options::try_parse_from(args.split_whitespace()).unwrap()).as_millis()
        };
        assert_eq!((quiet(""), quiet("--delay 50ms")), (500, 700));
        // Two queues of 300 ms, and the server's pacer.
        assert_eq!(quiet("--rate 1M --delay 50ms"), 2300);
    }

    #[test]
    fn simulcast_layers_grow() {
        let args = "load ws://127.0.0.1:1 --simulcast --video-bitrate 1600k";
        let options = Options::try_parse_from(args.split(' ')).unwrap();
        let tracks = tracks(&options, 0);
        assert_eq!(tracks[0].0.ssrcs.len(), 3);
        let rates: Vec<_> = tracks[0]
            .1
            .iter()
            .map(|content| match content {
                Content::Video { bitrate, .. } => *bitrate,
                Content::Audio => 0,
            })
            .collect();
        assert_eq!(rates, [100_000, 400_000, 1_600_000]);
    }
}
