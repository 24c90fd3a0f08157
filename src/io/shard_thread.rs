//! One shard's thread: its UDP socket, its command queue, its clock; and the handle others hold.
//!
//! Each turn takes what the socket and the queues hold (bounded), lets due deadlines pass, and sends what
//! came of it. The clock is read once a turn, at its end, and once more after waiting.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

use crate::base::counter_map::CounterMap;
use crate::base::counters::Counters;
use crate::base::ids::{PeerKey, ShardId};
use crate::control::layers::{LayerCensus, PeerDescription};
use crate::control::relay::RelayMessage;
use crate::control::{Command, Event, LayerReason, RoomOptions};
use crate::io::api::NoAnswer;
use crate::io::crossing::Crossing;
use crate::io::load::{Load, LoadSnapshot};
use crate::io::mailbox::Mailbox;
use crate::io::relay::RelayLinks;
use crate::io::scheduling::Scheduling;
use crate::io::shard_waker::ShardWaker;
use crate::io::udp::{BATCH_MAX, RecvBatch, SendReport, UdpSocket};
use crate::shard::Shard;
use crate::transport::DtlsIdentity;

/// What one shard says of itself, as of at most `SNAPSHOT_PERIOD` ago.
#[derive(Debug, Clone, Default)]
pub struct ShardSnapshot {
    /// Named counts, always in the same order.
    pub counters: Vec<(&'static str, u64)>,
    /// How busy its thread is.
    pub load: LoadSnapshot,
    /// What its subscriptions get.
    pub layers: LayerCensus,
    /// How long its subscribers' videos were not sent, by reason: the sum over all.
    pub paused: [Duration; LayerReason::COUNT],
}

/// What a shard's thread is given.
#[derive(Debug)]
pub struct ShardSeat {
    /// Which shard it is.
    pub id: ShardId,
    /// Its bound socket.
    pub socket: UdpSocket,
    /// Where clients are told to send to.
    pub addresses: Vec<SocketAddr>,
    /// What it waits with, as made by [`shard_poll`].
    pub poll: Poll,
    /// What wakes that.
    pub waker: ShardWaker,
    /// The relays between it and the other shards.
    pub links: RelayLinks,
    /// The paths to the other shards, if they share its port.
    pub crossing: Option<Crossing>,
    /// How the system is to run the thread.
    pub scheduling: Scheduling,
    /// How long it waits for more when media woke it.
    pub batch_window: Duration,
    /// What holds for its rooms.
    pub rooms: RoomOptions,
}

/// What a shard's thread waits with, and what wakes it.
///
/// # Errors
/// The process has no descriptor left.
pub fn shard_poll() -> io::Result<(Poll, ShardWaker)> {
    let poll = Poll::new()?;
    let waker = ShardWaker::new(Waker::new(poll.registry(), WAKER)?);
    Ok((poll, waker))
}

/// What other threads hold of a shard. Cheap to share; ends the thread with [`ShardHandle::stop`].
#[derive(Debug)]
pub struct ShardHandle {
    id: ShardId,
    addresses: Arc<[SocketAddr]>,
    tx: Sender<Message>,
    waker: ShardWaker,
    peers: AtomicUsize,
    busy_percent: Arc<AtomicU8>,
    snapshot: Arc<Mutex<ShardSnapshot>>,
}

enum Message {
    /// Where this peer's events go; comes before its first command.
    Attach(PeerKey, Arc<Mailbox>),
    Command(Command),
    /// What a peer receives and why; the answer is taken at once, or not at all.
    Describe(PeerKey, Sender<Option<PeerDescription>>),
    Stop,
}

impl ShardHandle {
    /// Starts a shard's thread.
    ///
    /// # Errors
    /// When the operating system refuses the thread.
    pub fn start(
        seat: ShardSeat,
        identity: Arc<DtlsIdentity>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (tx, rx) = bounded(COMMANDS_MAX);
        seat.links.connect(seat.waker.clone());
        let busy_percent = Arc::new(AtomicU8::new(0));
        let snapshot = Arc::new(Mutex::new(ShardSnapshot::default()));
        let handle = Self {
            id: seat.id,
            addresses: seat.addresses.into(),
            tx,
            waker: seat.waker.clone(),
            peers: AtomicUsize::new(0),
            busy_percent: Arc::clone(&busy_percent),
            snapshot: Arc::clone(&snapshot),
        };
        let now = Instant::now();
        let edge = Edge {
            id: seat.id,
            poll: seat.poll,
            socket: seat.socket,
            batch: RecvBatch::default(),
            batch_window: seat.batch_window,
            rooms: seat.rooms,
            readable: true,
            rx,
            waker: seat.waker,
            links: seat.links,
            crossing: seat.crossing,
            mailboxes: CounterMap::default(),
            load: Load::new(now, busy_percent),
            snapshot,
            last_snapshot: now,
            next_snapshot: now,
            sent: SendReport::default(),
            truncated: 0,
            receive_failures: Failures::default(),
            restarts: 0,
            former: Counters::default(),
            former_switches: [0; LayerReason::COUNT],
            paused: [Duration::ZERO; LayerReason::COUNT],
            stopping: false,
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{}", seat.id))
            .spawn(move || {
                seat.scheduling.apply(seat.id);
                edge.run(&identity);
            })?;
        Ok((handle, thread))
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Where the shard's socket can be reached.
    #[must_use]
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addresses)
    }

    /// How many peers are placed here: what further ones are placed by.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.load(Ordering::Acquire)
    }

    /// What the shard last said of itself.
    #[must_use]
    pub fn snapshot(&self) -> ShardSnapshot {
        self.snapshot.lock().clone()
    }

    /// How much of its time the thread was at work of late, in percent.
    #[must_use]
    pub fn busy_percent(&self) -> u8 {
        self.busy_percent.load(Ordering::Relaxed)
    }

    /// Tells where a new peer's events go; before its first command.
    pub fn attach(&self, peer: PeerKey, mailbox: Arc<Mailbox>) {
        self.peers.fetch_add(1, Ordering::AcqRel);
        self.push(Message::Attach(peer, mailbox));
    }

    /// A peer placed here has left.
    pub fn on_left(&self) {
        self.peers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Queues a command. When the queue is full the calling signaling thread waits: commands are not
    /// lost, and a shard never waits for a signaling thread, so this ends.
    pub fn send(&self, command: Command) {
        self.push(Message::Command(command));
    }

    /// Asks what a peer receives, and why. Waits for the answer, `DESCRIBE_TIMEOUT` at most; never for a place in the
    /// queue, so that questions cannot hold up commands.
    ///
    /// # Errors
    /// [`NoAnswer`] says why there is none.
    pub fn describe(&self, peer: PeerKey) -> Result<PeerDescription, NoAnswer> {
        let (tx, rx) = bounded(1);
        self.tx
            .try_send(Message::Describe(peer, tx))
            .map_err(|_| NoAnswer::Busy)?;
        self.waker.wake();
        match rx.recv_timeout(DESCRIBE_TIMEOUT) {
            Ok(description) => description.ok_or(NoAnswer::NotFound),
            Err(_) => Err(NoAnswer::TimedOut),
        }
    }

    /// Lets the thread finish what is queued and end.
    pub fn stop(&self) {
        self.push(Message::Stop);
    }

    fn push(&self, message: Message) {
        if self.tx.send(message).is_err() {
            tracing::error!(shard = %self.id, "the shard's thread is gone; a command is lost");
            return;
        }
        self.waker.wake();
    }
}

/// Everything the thread owns apart from the shard itself, which is made anew should it break.
struct Edge {
    id: ShardId,
    poll: Poll,
    socket: UdpSocket,
    batch: RecvBatch,
    /// See [`ShardSeat::batch_window`].
    batch_window: Duration,
    rooms: RoomOptions,
    /// The socket may hold more: mio tells only of arrivals after the last "would block".
    readable: bool,
    rx: Receiver<Message>,
    waker: ShardWaker,
    links: RelayLinks,
    crossing: Option<Crossing>,
    mailboxes: CounterMap<PeerKey, Arc<Mailbox>>,
    load: Load,
    snapshot: Arc<Mutex<ShardSnapshot>>,
    last_snapshot: Instant,
    next_snapshot: Instant,
    sent: SendReport,
    truncated: u64,
    receive_failures: Failures,
    restarts: u64,
    /// What the shards counted that broke.
    former: Counters,
    former_switches: [u64; LayerReason::COUNT],
    paused: [Duration; LayerReason::COUNT],
    stopping: bool,
}

impl Edge {
    fn run(mut self, identity: &Arc<DtlsIdentity>) {
        let registered =
            self.poll
                .registry()
                .register(&mut self.socket, SOCKET, Interest::READABLE);
        if let Err(error) = registered {
            tracing::error!(shard = %self.id, %error, "cannot poll the UDP socket");
            return;
        }
        while !self.stopping {
            let mut shard = Shard::new(self.id, Arc::clone(identity), rand::random());
            shard.set_room_options(self.rooms);
            if let Some(crossing) = &self.crossing {
                shard.share_port(crossing.shards());
            }
            // A broken invariant fails this shard alone: its peers are told and come back to a new one.
            let turns = catch_unwind(AssertUnwindSafe(|| self.turn_until_stopped(&mut shard)));
            if turns.is_err() {
                self.restarts += 1;
                // Rates are made of these numbers: they must not fall.
                self.former.add(shard.counters());
                let switches = shard.layer_switches();
                for (former, switches) in self.former_switches.iter_mut().zip(switches) {
                    *former += switches;
                }
                tracing::error!(shard = %self.id, peers = self.mailboxes.len(), "the shard broke and starts anew");
                for (_, mailbox) in self.mailboxes.drain() {
                    mailbox.post(Event::Shutdown);
                }
                self.links.reset();
            }
        }
    }

    fn turn_until_stopped(&mut self, shard: &mut Shard) {
        let mut events = Events::with_capacity(8);
        let mut now = Instant::now();
        while !self.stopping {
            // Where more is known to wait in the socket there is nothing to ask the poll: what else it
            // could tell of is looked at in every turn.
            if !self.readable && self.batch.is_empty() {
                let timeout = self.timeout(shard, now);
                self.wait(&mut events, timeout);
                self.gather();
                if !timeout.is_zero() || !self.batch_window.is_zero() {
                    now = Instant::now();
                }
            }
            self.turn(shard, now);
            let end = Instant::now();
            self.load.on_turn(end, end.saturating_duration_since(now));
            now = end;
        }
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) {
        if let Err(error) = self.poll.poll(events, Some(timeout))
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(shard = %self.id, %error, "poll failed");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.readable |= events.iter().any(|event| event.token() == SOCKET);
    }

    /// Something came while there was nothing to do: waits a little for what else comes, if that is wanted.
    /// A thread that is at work all the time never gets here, and has full batches anyway.
    fn gather(&self) {
        let has_media = self.readable || !self.links.is_empty();
        if has_media && !self.batch_window.is_zero() {
            std::thread::sleep(self.batch_window);
        }
    }

    fn turn(&mut self, shard: &mut Shard, now: Instant) {
        self.waker.rearm();
        self.take_commands(shard, now);
        self.links
            .take_control(|from, message| shard.handle_relay(now, from, message));
        self.take_datagrams(shard, now);
        if shard.poll_timeout().is_some_and(|deadline| deadline <= now) {
            shard.handle_timeout(now);
        }
        self.pass_on(shard, now);
        self.send(shard, now);
        // A batch of its own, which is sealed and sent in portions too.
        self.links
            .take_media(|from, packet| shard.handle_relay(now, from, packet));
        self.send(shard, now);
        // What came of the batches, which nothing else may wake the thread for.
        self.pass_on(shard, now);
        self.tell(shard, now);
    }

    /// Tells sessions and other shards what has happened.
    fn pass_on(&mut self, shard: &mut Shard, now: Instant) {
        while let Some((peer, event)) = shard.poll_event() {
            if let Some(mailbox) = self.mailboxes.get(&peer) {
                mailbox.post(event);
            }
        }
        self.relay(shard, now);
    }

    fn timeout(&self, shard: &Shard, now: Instant) -> Duration {
        let is_crossed = self.crossing.as_ref().is_some_and(Crossing::is_ready);
        if is_crossed || !self.rx.is_empty() || !self.links.is_empty() {
            return Duration::ZERO;
        }
        let deadline = shard
            .poll_timeout()
            .map_or(self.next_snapshot, |d| d.min(self.next_snapshot));
        let timeout = deadline.saturating_duration_since(now);
        match self.links.is_holding() {
            true => timeout.min(HELD_RETRY),
            false => timeout,
        }
    }

    /// Hands over what other shards are to hear.
    fn relay(&mut self, shard: &mut Shard, now: Instant) {
        loop {
            while let Some((to, message)) = shard.poll_relay() {
                self.links.push(to, message);
            }
            match self.links.poll_overflow() {
                Some(other) => shard.handle_relay(now, other, RelayMessage::Reset),
                None => break,
            }
        }
        self.links.ring();
    }

    fn take_commands(&mut self, shard: &mut Shard, now: Instant) {
        for message in self.rx.try_iter().take(COMMANDS_PER_TURN) {
            match message {
                Message::Attach(peer, mailbox) => {
                    self.mailboxes.insert(peer, mailbox);
                }
                Message::Command(command) => {
                    if let Command::RemovePeer { peer } = &command {
                        self.mailboxes.remove(peer);
                    }
                    shard.handle_command(now, command);
                }
                Message::Describe(peer, reply) => {
                    // Who asked may have given up.
                    let _ = reply.try_send(shard.describe(now, peer));
                }
                Message::Stop => self.stopping = true,
            }
        }
    }

    fn take_datagrams(&mut self, shard: &mut Shard, now: Instant) {
        // What one call brought may be more than one turn takes.
        if self.batch.is_empty() {
            self.receive();
            if let Some(crossing) = &mut self.crossing {
                crossing.take_claims(shard, now);
                crossing.hand_over(shard, now, &mut self.batch);
            }
        }
        if let Some(crossing) = &mut self.crossing {
            crossing.take_strays(&mut self.batch);
        }
        if !self.batch.is_empty() {
            shard.handle_batch(now, self.batch.drain());
            // Before the system calls: the other shards work meanwhile.
            self.relay(shard, now);
            self.send(shard, now);
        }
    }

    fn receive(&mut self) {
        if !self.readable {
            return;
        }
        match self.socket.recv_batch(&mut self.batch) {
            Ok(received) => {
                self.readable = received == BATCH_MAX;
                self.receive_failures.on_success();
            }
            Err(error) => {
                if self.receive_failures.on_failure() {
                    tracing::error!(shard = %self.id, %error, "cannot receive");
                }
                self.readable = false;
            }
        }
    }

    fn send(&mut self, shard: &mut Shard, now: Instant) {
        // Before the answer to a check, so that whoever sends on its strength is known everywhere.
        if let Some(crossing) = &mut self.crossing {
            crossing.share_claims(shard);
        }
        while let Some(outbox) = shard.poll_outbox(now) {
            self.sent += self.socket.send_batch(outbox.messages());
            outbox.clear();
            if outbox.is_segmenting() && !self.socket.can_segment() {
                outbox.set_segmentation(false);
                tracing::warn!(shard = %self.id, "no UDP segmentation offload: datagrams are sent one by one");
            }
        }
    }

    /// Copies what others may read of the shard, now and then.
    fn tell(&mut self, shard: &mut Shard, now: Instant) {
        if now < self.next_snapshot {
            return;
        }
        let elapsed = now.saturating_duration_since(self.last_snapshot);
        (self.last_snapshot, self.next_snapshot) = (now, now + SNAPSHOT_PERIOD);
        self.truncated += self.batch.take_truncated();
        let crossed = self.crossing.as_ref().map(Crossing::counts);
        let crossed = crossed.unwrap_or_default();
        let mut counted = self.former;
        counted.add(shard.counters());
        let mut counters: Vec<_> = counted.iter().collect();
        counters.extend([
            ("udp_sent", self.sent.sent),
            ("udp_send_dropped_full", self.sent.dropped_full),
            ("udp_send_dropped_short", self.sent.dropped_short),
            ("udp_send_failed", self.sent.failed),
            ("udp_send_split", self.sent.split),
            ("udp_receive_truncated", self.truncated),
            ("udp_receive_failed", self.receive_failures.count),
            ("udp_kernel_dropped", self.socket.kernel_drops()),
            ("strays_handed_over", crossed.handed_over),
            ("strays_taken", crossed.taken),
            ("strays_dropped_full", crossed.dropped_full),
            ("stray_claims_dropped_full", crossed.claims_dropped_full),
            ("shard_restarts", self.restarts),
        ]);
        counters.extend(self.links.counters());
        let load = self.load.snapshot(now);
        shard.set_busy(load.busy_percent >= BUSY_PERCENT);
        let mut layers = shard.layer_census();
        for (switches, former) in layers.switches.iter_mut().zip(&self.former_switches) {
            *switches += former;
        }
        add_paused(&mut self.paused, &layers, elapsed);
        // Who reads it may be set aside meanwhile; the next one tells the same and more.
        if let Some(mut snapshot) = self.snapshot.try_lock() {
            *snapshot = ShardSnapshot {
                counters,
                load,
                layers,
                paused: self.paused,
            };
        }
    }
}

/// Failures in a row are told once.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    has_told: bool,
}

impl Failures {
    fn on_success(&mut self) {
        self.has_told = false;
    }

    /// Whether it is to be told.
    fn on_failure(&mut self) -> bool {
        self.count += 1;
        !std::mem::replace(&mut self.has_told, true)
    }
}

/// Whoever is not sent anything now was not for all the time since the last look, but for its last part.
fn add_paused(
    paused: &mut [Duration; LayerReason::COUNT],
    layers: &LayerCensus,
    elapsed: Duration,
) {
    for (paused, by_layer) in paused.iter_mut().zip(&layers.subscriptions) {
        *paused += elapsed * u32::try_from(by_layer[0]).unwrap_or(u32::MAX);
    }
}

const WAKER: Token = Token(0);
const SOCKET: Token = Token(1);

/// How long an answer about a peer is waited for: many turns of a shard under full load.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands waiting at most; a sender waits when there are more.
const COMMANDS_MAX: usize = 4096;
/// Commands taken in one turn at most, so that a storm of joins does not hold up media for long.
const COMMANDS_PER_TURN: usize = 64;
/// How soon what did not fit into another shard's queue is tried again.
const HELD_RETRY: Duration = Duration::from_millis(1);
/// How often the counters are copied for the metrics page.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);
/// From here on a shard takes on no more work: what is left is needed for bursts.
const BUSY_PERCENT: u8 = 95;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    /// A shard that waits so long for more: how many datagrams it got of a trickle, how many turns it took, and how long
    /// they were sent and all that lasted.
    fn trickle(batch_window: Duration) -> (u64, u64, Duration, Duration) {
        const DATAGRAMS: u64 = 60;
        let socket = UdpSocket::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let to = socket.local_addr();
        let (poll, waker) = shard_poll().unwrap();
        let seat = ShardSeat {
            id: ShardId(0),
            socket,
            addresses: vec![to],
            poll,
            waker,
            links: RelayLinks::mesh(1).remove(0),
            crossing: None,
            scheduling: Scheduling::default(),
            batch_window,
            rooms: RoomOptions::default(),
        };
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let start = Instant::now();
        let (handle, thread) = ShardHandle::start(seat, identity).unwrap();
        let client = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..DATAGRAMS {
            client.send_to(&[0x80; 100], to).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let sending = start.elapsed();
        let received = |snapshot: &ShardSnapshot| {
            let counters = &mut snapshot.counters.iter();
            let found = counters.find(|(name, _)| *name == "datagrams_received");
            found.map_or(0, |(_, count)| *count)
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut snapshot = handle.snapshot();
        while received(&snapshot) < DATAGRAMS && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            snapshot = handle.snapshot();
        }
        handle.stop();
        thread.join().unwrap();
        let turns = snapshot.load.turns.count();
        (received(&snapshot), turns, sending, start.elapsed())
    }

    #[test]
    fn failures_are_counted_and_told_once() {
        let mut failures = Failures::default();
        let told = [(); 3].map(|()| failures.on_failure());
        assert_eq!((told, failures.count), ([true, false, false], 3));
        failures.on_success();
        assert!(failures.on_failure());
    }

    #[test]
    fn paused_seconds_are_those_that_went_by() {
        let mut layers = LayerCensus::default();
        layers.subscriptions[1][0] = 3;
        let mut paused = [Duration::ZERO; LayerReason::COUNT];
        add_paused(&mut paused, &layers, Duration::from_millis(1500));
        add_paused(&mut paused, &layers, Duration::from_millis(500));
        assert_eq!(paused[1], Duration::from_secs(6));
        assert_eq!(paused[0], Duration::ZERO);
    }

    #[test]
    fn a_batch_window_makes_fewer_turns_and_loses_nothing() {
        let window = Duration::from_millis(50);
        let (received, turns, sending, lasted) = trickle(window);
        assert_eq!(received, 60);
        // One in each window at most, and those that a snapshot or the start causes.
        let turns_max = sending.as_millis() / window.as_millis() + lasted.as_millis() / 500 + 5;
        assert!(
            u128::from(turns) <= turns_max,
            "{turns} turns in {sending:?}, of {lasted:?}"
        );
        let (received, ..) = trickle(Duration::ZERO);
        assert_eq!(received, 60);
    }
}
