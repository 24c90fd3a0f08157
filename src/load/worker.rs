//! One thread that drives many clients: one poll for all their sockets, one heap for their deadlines.
//!
//! Each client has a UDP socket of its own, because the server tells clients apart by their source
//! address. Sockets that share a port (`SO_REUSEPORT`) could not stand for several clients, and one
//! system call can receive from one socket only; so a turn costs one `recvmmsg` for each client that
//! has something, which takes all that it has.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use mio::{Events, Interest, Poll, Token};

use crate::base::time::earliest;
use crate::io::udp::{RecvBatch, UdpSocket};
use crate::load::connection::{self, Connection};
use crate::load::datagrams::Datagrams;
use crate::load::histogram::Histogram;
use crate::load::peer::{Context, Peer, PeerPlan};
use crate::load::sampler::Sampler;
use crate::load::shared::{Phase, Setup, Shared};
use crate::load::tally::Harvest;
use crate::network::Link;
use crate::transport::identity::DtlsIdentity;
use crate::wire::rtp::PacketKind;

/// Drives the clients of `plans`, each from its time on, until the run ends.
pub struct Worker {
    setup: Setup,
    shared: Arc<Shared>,
    identity: Arc<DtlsIdentity>,
    poll: Poll,
    slots: Vec<Slot>,
    /// Clients that have not begun, by their time.
    starts: VecDeque<(Instant, usize)>,
    /// Viewers whose time has come before their room's publishers were ready.
    blocked: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Sockets that were not emptied in one turn.
    again: Vec<usize>,
    /// Lent out while its datagrams are taken.
    batch: Option<RecvBatch>,
    out: Datagrams,
    harvest: Harvest,
    recent: Histogram,
    sampler: Sampler,
    phase: Phase,
    steady_from: Option<Instant>,
}

struct Slot {
    peer: Peer,
    room: usize,
    is_publisher: bool,
    net: Option<Net>,
    /// The deadline in the heap that counts; others are left over.
    timer: Option<Instant>,
    join_by: Instant,
    /// Whether the room's viewers were told that they need not wait for this publisher any more.
    is_announced: bool,
    is_counted_out: bool,
}

struct Net {
    socket: UdpSocket,
    connection: Connection,
    up: Option<Link<Vec<u8>>>,
    down: Option<Link<Vec<u8>>>,
}

/// When, in which room (by index), and what.
pub type Start = (Instant, usize, PeerPlan);

impl Worker {
    /// A worker for these clients, in the order of their times.
    ///
    /// # Errors
    /// The system refuses a poll.
    pub fn new(
        setup: Setup,
        shared: Arc<Shared>,
        identity: Arc<DtlsIdentity>,
        plans: Vec<Start>,
        seed: u64,
    ) -> io::Result<Self> {
        let mut starts = VecDeque::new();
        let mut slots = Vec::new();
        for (at, room, plan) in plans {
            starts.push_back((at, slots.len()));
            slots.push(Slot {
                room,
                is_publisher: !plan.tracks.is_empty(),
                peer: Peer::new(at, plan, &identity, setup.server.ip()),
                net: None,
                timer: None,
                join_by: at,
                is_announced: false,
                is_counted_out: false,
            });
        }
        Ok(Self {
            poll: Poll::new()?,
            sampler: Sampler::new(setup.open_one_of, seed),
            setup,
            shared,
            identity,
            slots,
            starts,
            blocked: Vec::new(),
            timers: BinaryHeap::new(),
            again: Vec::new(),
            batch: Some(RecvBatch::of(MESSAGES_MAX)),
            out: Datagrams::default(),
            harvest: Harvest::default(),
            recent: Histogram::default(),
            phase: Phase::Ramp,
            steady_from: None,
        })
    }

    /// Runs until the run ends.
    ///
    /// # Errors
    /// A broken poll or socket.
    pub fn run(mut self) -> io::Result<Harvest> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut published_at = Instant::now();
        loop {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let began = Instant::now();
            self.phase = self.shared.phase();
            self.steady_from = self.shared.steady_from();
            if self.phase == Phase::End {
                return Ok(self.finish(began));
            }
            for at in std::mem::take(&mut self.again) {
                self.receive(at)?;
            }
            for event in &events {
                let at = event.token().0 / 2;
                if event.token().0 % 2 == SIGNALING {
                    self.converse(at);
                } else {
                    self.receive(at)?;
                }
            }
            self.start_due(Instant::now());
            self.run_timers();
            let ended = Instant::now();
            if self.steady_from.is_some() {
                self.harvest
                    .turn
                    .record(ended.saturating_duration_since(began));
            }
            let is_due = ended.saturating_duration_since(published_at) >= PUBLISH_INTERVAL;
            if is_due {
                published_at = ended;
            }
            self.shared.publish(
                self.index(),
                self.harvest.tally,
                is_due.then_some(&mut self.recent),
            );
        }
    }

    fn index(&self) -> usize {
        self.setup.worker
    }

    fn timeout(&self, now: Instant) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let next = earliest(timer, self.starts.front().map(|(at, _)| *at));
        let most = if self.blocked.is_empty() {
            TURN_MAX
        } else {
            BLOCKED_INTERVAL
        };
        next.map_or(most, |at| at.saturating_duration_since(now).min(most))
    }

    fn start_due(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        let mut due: Vec<usize> = self.blocked.drain(..).collect();
        while self.starts.front().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.starts.pop_front().map(|(_, at)| at));
        }
        for at in due {
            let slot = &self.slots[at];
            let must_wait = !slot.is_publisher
                && shared.publishers_awaited[slot.room].load(Ordering::Relaxed) > 0;
            if must_wait {
                self.blocked.push(at);
            } else {
                self.start(now, at);
            }
        }
    }

    fn start(&mut self, now: Instant, at: usize) {
        self.harvest.tally.started += 1;
        let slot = &mut self.slots[at];
        slot.join_by = now + self.setup.join_timeout;
        match open(&self.setup, self.poll.registry(), at, now, slot.peer.plan()) {
            Ok(net) => {
                self.shared.add_local_port(net.socket.local_addr().port());
                slot.net = Some(net);
            }
            Err(error) => slot.peer.fail(format!("no socket: {error}")),
        }
        self.settle(now, at);
    }

    /// Takes what has come over signaling.
    fn converse(&mut self, at: usize) {
        while let Some(arrival) = self.slots[at]
            .net
            .as_mut()
            .and_then(|net| net.connection.poll())
        {
            // The answer to what one of them makes the client say may be here already.
            let now = Instant::now();
            match arrival {
                connection::Arrival::Opened => self.slots[at].peer.join(now),
                connection::Arrival::Frame(text) => {
                    self.with_peer(at, |peer, context| peer.handle_frame(now, &text, context));
                }
                connection::Arrival::Closed(why) => self.slots[at].peer.fail(why),
            }
            self.settle(now, at);
        }
    }

    /// Takes the datagrams that wait for one client.
    fn receive(&mut self, at: usize) -> io::Result<()> {
        for _ in 0..BATCHES_PER_TURN {
            let Some(net) = &mut self.slots[at].net else {
                return Ok(());
            };
            let mut batch = self
                .batch
                .take()
                .unwrap_or_else(|| RecvBatch::of(MESSAGES_MAX));
            let count = net.socket.recv_batch(&mut batch)?;
            let now = Instant::now();
            let waited = waits(batch.take_arrivals());
            let mut waited = waited.chain(std::iter::repeat(Duration::ZERO));
            // One call may bring more than one drain gives; nothing may be left for another client.
            while !batch.is_empty() {
                for ((_, datagram), waited) in batch.drain().zip(&mut waited) {
                    let arrived = now.checked_sub(waited).unwrap_or(now);
                    self.take_datagram(now, arrived, at, datagram);
                }
            }
            self.batch = Some(batch);
            self.settle(now, at);
            // The poll tells of the next datagram only once the socket was empty.
            if count < MESSAGES_MAX {
                return Ok(());
            }
        }
        self.again.push(at);
        Ok(())
    }

    fn take_datagram(&mut self, now: Instant, arrived: Instant, at: usize, datagram: BytesMut) {
        if PacketKind::of(&datagram) == PacketKind::Rtp {
            self.harvest.tally.rtp_arrived += 1;
            self.harvest.tally.bytes_arrived += datagram.len() as u64;
        }
        let down = self.slots[at]
            .net
            .as_mut()
            .and_then(|net| net.down.as_mut());
        match down {
            Some(link) => {
                link.push(now, datagram.len(), datagram.to_vec());
                self.harvest.tally.impaired_down += link.take_dropped();
            }
            None => self.with_peer(at, |peer, context| {
                peer.handle_datagram(now, arrived, datagram, context);
            }),
        }
    }

    fn run_timers(&mut self) {
        let mut now = Instant::now();
        for _ in 0..TIMERS_PER_TURN {
            let Some(&Reverse((deadline, at))) = self.timers.peek() else {
                return;
            };
            if deadline > now {
                return;
            }
            self.timers.pop();
            if self.slots[at].timer != Some(deadline) {
                continue;
            }
            self.slots[at].timer = None;
            now = Instant::now();
            while let Some(datagram) = self.arrived(now, at) {
                let datagram = BytesMut::from(&datagram[..]);
                self.with_peer(at, |peer, context| {
                    peer.handle_datagram(now, now, datagram, context)
                });
            }
            self.with_peer(at, |peer, context| peer.handle_timeout(now, context));
            let slot = &mut self.slots[at];
            if slot.join_by <= now && !slot.peer.is_ready() {
                slot.peer.fail(late_because(&slot.peer).to_owned());
            }
            self.settle(now, at);
        }
    }

    /// The next datagram that has passed the impaired way down.
    fn arrived(&mut self, now: Instant, at: usize) -> Option<Vec<u8>> {
        let arrival = self.slots[at].net.as_mut()?.down.as_mut()?.pop(now)?;
        Some(arrival.what)
    }

    fn with_peer(&mut self, at: usize, act: impl FnOnce(&mut Peer, &mut Context<'_>)) {
        let mut context = Context {
            zero: self.setup.zero,
            zero_ntp: self.setup.zero_ntp,
            steady_from: self.steady_from,
            is_sending: self.phase.is_sending(),
            out: &mut self.out,
            tally: &mut self.harvest.tally,
            latency: &mut self.harvest.latency,
            read_latency: &mut self.harvest.read_latency,
            recent: &mut self.recent,
            sampler: &mut self.sampler,
        };
        act(&mut self.slots[at].peer, &mut context);
    }

    /// Sends what an input has brought about and sets the next deadline.
    fn settle(&mut self, now: Instant, at: usize) {
        let slot = &mut self.slots[at];
        if let Some(net) = &mut slot.net {
            while let Some(frame) = slot.peer.poll_frame() {
                net.connection.send(frame);
            }
            if let Some(to) = slot.peer.address() {
                self.harvest.tally.impaired_up +=
                    net.send(now, to, &self.out, &mut self.harvest.tally.not_sent);
            }
        }
        self.out.clear();
        let is_failed = slot.peer.failure().is_some();
        if is_failed && !slot.is_counted_out {
            slot.is_counted_out = true;
            self.harvest.tally.failed += 1;
            if slot.peer.is_refused() {
                self.shared.give_up();
            }
            self.harvest.tally.ready -= u64::from(slot.peer.is_ready());
            if let Some(net) = &mut slot.net {
                net.connection.close();
            }
            slot.net = None;
        }
        if slot.is_publisher && !slot.is_announced && (is_failed || slot.peer.is_connected()) {
            slot.is_announced = true;
            self.shared.publishers_awaited[slot.room].fetch_sub(1, Ordering::Relaxed);
            self.shared.add_server_port(slot.peer.address());
        }
        self.schedule(at);
    }

    fn schedule(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let Some(net) = &slot.net else { return };
        let mut next = slot.peer.poll_timeout(self.phase.is_sending());
        for link in [&net.up, &net.down].into_iter().flatten() {
            next = earliest(next, link.poll_timeout());
        }
        if !slot.peer.is_ready() {
            next = earliest(next, Some(slot.join_by));
        }
        if let Some(next) = next
            && slot.timer.is_none_or(|timer| next < timer)
        {
            slot.timer = Some(next);
            self.timers.push(Reverse((next, at)));
        }
    }

    fn finish(mut self, now: Instant) -> Harvest {
        for at in 0..self.slots.len() {
            self.slots[at].peer.leave();
            self.settle(now, at);
            let slot = &mut self.slots[at];
            if let Some(net) = &mut slot.net {
                net.connection.close();
            }
            slot.peer.harvest(&mut self.harvest);
        }
        drop(self.identity);
        self.harvest
    }
}

impl Net {
    /// Sends to the server; returns how many datagrams the impairment took.
    fn send(&mut self, now: Instant, to: SocketAddr, out: &Datagrams, not_sent: &mut u64) -> u64 {
        let Some(link) = &mut self.up else {
            if !out.is_empty() {
                let report = self
                    .socket
                    .send_batch(out.iter().map(|datagram| (to, datagram)));
                *not_sent += report.dropped_full + report.failed;
            }
            return 0;
        };
        for datagram in out.iter() {
            link.push(now, datagram.len(), datagram.to_vec());
        }
        while let Some(arrival) = link.pop(now) {
            let report = self.socket.send_batch([(to, &arrival.what[..])]);
            *not_sent += report.dropped_full + report.failed;
        }
        link.take_dropped()
    }
}

/// The sockets of one client.
fn open(
    setup: &Setup,
    registry: &mio::Registry,
    at: usize,
    now: Instant,
    plan: &PeerPlan,
) -> io::Result<Net> {
    let ip: IpAddr = match setup.server.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut socket = UdpSocket::bind(ip, 0)?;
    socket.disable_coalescing();
    // Where the system cannot tell, arrivals are when this program gets to them.
    let _ = socket.tell_arrivals();
    registry.register(&mut socket, Token(2 * at + MEDIA), Interest::READABLE)?;
    let url = setup.url.clone();
    let connection = Connection::open(setup.server, url, registry, Token(2 * at + SIGNALING))?;
    let link = |direction| {
        let is_none = setup.impairment.is_none();
        (!is_none).then(|| Link::new(now, setup.impairment, plan.seed ^ direction))
    };
    Ok(Net {
        socket,
        connection,
        up: link(1),
        down: link(2),
    })
}

/// How long each datagram has waited at its socket for this program to read it, until now. Nothing of one whose clock
/// was set back meanwhile.
fn waits(arrivals: Vec<SystemTime>) -> impl Iterator<Item = Duration> {
    let now = SystemTime::now();
    let wait = move |at| now.duration_since(at).unwrap_or_default();
    arrivals.into_iter().map(wait)
}

fn late_because(peer: &Peer) -> &'static str {
    if peer.is_connected() {
        "not every track came in time"
    } else if peer.address().is_some() {
        "DTLS was not up in time"
    } else {
        "the server named no address that can be used in time"
    }
}

const SIGNALING: usize = 0;
const MEDIA: usize = 1;
/// Events taken from the poll at a time.
const EVENTS_MAX: usize = 1024;
/// How many batches are taken from one socket before others get their turn.
const BATCHES_PER_TURN: usize = 32;
/// Messages taken by one system call: as a frame has. Each place costs, used or not.
const MESSAGES_MAX: usize = 16;
/// How many deadlines pass before the sockets get their turn.
const TIMERS_PER_TURN: usize = 1024;
/// The longest a worker sleeps, so that it notices when the phase changes.
const TURN_MAX: Duration = Duration::from_millis(20);
/// How often viewers look whether their room is ready.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(5);
/// How often latencies are handed to the progress line.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
