//! What the workers and the thread that waits for them share.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::load::histogram::Histogram;
use crate::load::tally::Tally;
use crate::network::Conditions;
use crate::wire::rtcp::NtpTime;

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Clients join.
    Ramp = 0,
    /// All have joined or failed: what happens now is measured.
    Steady = 1,
    /// Publishers have stopped; what is on its way may arrive.
    Quiet = 2,
    /// Everybody leaves.
    End = 3,
}

impl Phase {
    /// Whether publishers send.
    #[must_use]
    pub fn is_sending(self) -> bool {
        matches!(self, Self::Ramp | Self::Steady)
    }
}

/// What a worker is told at the start.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The worker's number, from 0.
    pub worker: usize,
    /// Where signaling is.
    pub server: SocketAddr,
    /// What the WebSocket asks for.
    pub url: String,
    /// When the run began, by both clocks.
    pub zero: Instant,
    /// See `zero`.
    pub zero_ntp: NtpTime,
    /// Of each client's link, each way.
    pub impairment: Conditions,
    /// How long a client may take to have everything.
    pub join_timeout: Duration,
    /// See `Sampler::new`.
    pub open_one_of: u32,
}

/// What passes between the threads.
#[derive(Debug)]
pub struct Shared {
    phase: AtomicU8,
    zero: Instant,
    /// In ns since `zero`; [`u64::MAX`] before.
    steady_from_ns: AtomicU64,
    /// For each room: how many publishers its viewers still wait for.
    pub publishers_awaited: Vec<AtomicU32>,
    workers: Vec<Mutex<Published>>,
    /// Whether the server does not do at all what was asked for, so that the run is pointless.
    is_pointless: AtomicBool,
    local_ports: Mutex<BTreeSet<u16>>,
    server_ports: Mutex<BTreeSet<u16>>,
}

#[derive(Debug, Default)]
struct Published {
    tally: Tally,
    recent: Histogram,
}

impl Shared {
    /// A run that begins.
    #[must_use]
    pub fn new(zero: Instant, workers: usize, rooms: usize, publishers: u32) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Ramp as u8),
            zero,
            steady_from_ns: AtomicU64::new(u64::MAX),
            publishers_awaited: (0..rooms).map(|_| AtomicU32::new(publishers)).collect(),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            is_pointless: AtomicBool::new(false),
            local_ports: Mutex::default(),
            server_ports: Mutex::default(),
        }
    }

    /// Where the run is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Ramp,
            1 => Phase::Steady,
            2 => Phase::Quiet,
            _ => Phase::End,
        }
    }

    /// Goes on to another phase.
    pub fn set_phase(&self, phase: Phase) {
        if phase == Phase::Steady {
            let since = Instant::now().saturating_duration_since(self.zero);
            let ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1);
            self.steady_from_ns.store(ns, Ordering::Release);
        }
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// When measuring began.
    #[must_use]
    pub fn steady_from(&self) -> Option<Instant> {
        match self.steady_from_ns.load(Ordering::Acquire) {
            u64::MAX => None,
            ns => Some(self.zero + Duration::from_nanos(ns)),
        }
    }

    /// A worker tells its counts and, now and then, its latencies, which it forgets then.
    pub fn publish(&self, worker: usize, tally: Tally, recent: Option<&mut Histogram>) {
        let mut published = self.workers[worker].lock();
        published.tally = tally;
        if let Some(recent) = recent.filter(|recent| recent.count() > 0) {
            published.recent.merge(recent);
            recent.clear();
        }
    }

    /// The counts of all workers.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for worker in &self.workers {
            sum += worker.lock().tally;
        }
        sum
    }

    /// The latencies that all workers have told since this was last asked.
    #[must_use]
    pub fn take_recent(&self) -> Histogram {
        let mut sum = Histogram::default();
        for worker in &self.workers {
            let mut published = worker.lock();
            sum.merge(&published.recent);
            published.recent.clear();
        }
        sum
    }

    /// The server refused what the run is about.
    pub fn give_up(&self) {
        self.is_pointless.store(true, Ordering::Release);
    }

    /// Whether the run is to end without having measured.
    #[must_use]
    pub fn is_pointless(&self) -> bool {
        self.is_pointless.load(Ordering::Acquire)
    }

    /// A client's UDP port.
    pub fn add_local_port(&self, port: u16) {
        self.local_ports.lock().insert(port);
    }

    /// Where a publisher sends.
    pub fn add_server_port(&self, address: Option<SocketAddr>) {
        self.server_ports.lock().extend(address.map(|a| a.port()));
    }

    /// All clients' UDP ports.
    #[must_use]
    pub fn local_ports(&self) -> BTreeSet<u16> {
        self.local_ports.lock().clone()
    }

    /// The server's UDP ports, as far as publishers use them.
    #[must_use]
    pub fn server_ports(&self) -> BTreeSet<u16> {
        self.server_ports.lock().clone()
    }
}
