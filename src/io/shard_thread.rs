//! One shard's thread: its UDP socket, its command queue, its clock; and the handle others hold.
//!
//! Each turn reads the clock once, takes what the socket and the queue hold (bounded), lets due
//! deadlines pass, and sends what came of it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

use crate::base::ids::{PeerKey, ShardId};
use crate::control::relay::RelayMessage;
use crate::control::{Command, Event};
use crate::io::load::BusyMeter;
use crate::io::mailbox::Mailbox;
use crate::io::relay::{Bell, RelayLinks};
use crate::io::udp::{BATCH_MAX, RecvBatch, SendReport, UdpSocket};
use crate::shard::Shard;
use crate::transport::DtlsIdentity;

/// Named counts of one shard, as of at most `SNAPSHOT_PERIOD` ago.
pub type CounterSnapshot = Vec<(&'static str, u64)>;

/// What other threads hold of a shard. Cheap to share; ends the thread with [`ShardHandle::stop`].
#[derive(Debug)]
pub struct ShardHandle {
    id: ShardId,
    addresses: Arc<[SocketAddr]>,
    tx: Sender<Message>,
    waker: Arc<Waker>,
    /// Set from the first message after the thread looked until it looks again: one wake-up will do.
    woken: Arc<AtomicBool>,
    peers: AtomicUsize,
    busy_percent: Arc<AtomicU8>,
    counters: Arc<Mutex<CounterSnapshot>>,
}

enum Message {
    /// Where this peer's events go; comes before its first command.
    Attach(PeerKey, Arc<Mailbox>),
    Command(Command),
    Stop,
}

impl ShardHandle {
    /// Starts a shard's thread on a bound socket. Clients are told `addresses`; `links` lead to the other shards.
    ///
    /// # Errors
    /// When the operating system refuses the poll, the waker or the thread.
    pub fn start(
        id: ShardId,
        socket: UdpSocket,
        addresses: Vec<SocketAddr>,
        identity: Arc<DtlsIdentity>,
        links: RelayLinks,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (tx, rx) = bounded(COMMANDS_MAX);
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let woken = Arc::new(AtomicBool::new(false));
        links.connect(Bell {
            woken: Arc::clone(&woken),
            waker: Arc::clone(&waker),
        });
        let busy_percent = Arc::new(AtomicU8::new(0));
        let counters = Arc::new(Mutex::new(CounterSnapshot::new()));
        let edge = Edge {
            id,
            poll,
            socket,
            batch: RecvBatch::default(),
            readable: true,
            rx,
            woken: Arc::clone(&woken),
            links,
            busy: BusyMeter::new(Instant::now(), Arc::clone(&busy_percent)),
            mailboxes: HashMap::new(),
            counters: Arc::clone(&counters),
            next_snapshot: Instant::now(),
            sent: SendReport::default(),
            truncated: 0,
            restarts: 0,
            stopping: false,
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{id}"))
            .spawn(move || edge.run(&identity))?;
        let handle = Self {
            id,
            addresses: addresses.into(),
            tx,
            waker,
            woken,
            peers: AtomicUsize::new(0),
            busy_percent,
            counters,
        };
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

    /// How much of its time the thread was at work of late, in percent.
    #[must_use]
    pub fn busy_percent(&self) -> u8 {
        self.busy_percent.load(Ordering::Relaxed)
    }

    /// The shard's counters.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        self.counters.lock().clone()
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

    /// Lets the thread finish what is queued and end.
    pub fn stop(&self) {
        self.push(Message::Stop);
    }

    fn push(&self, message: Message) {
        if self.tx.send(message).is_err() {
            tracing::error!(shard = %self.id, "the shard's thread is gone; a command is lost");
            return;
        }
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(shard = %self.id, %error, "cannot wake the shard");
        }
    }
}

/// Everything the thread owns apart from the shard itself, which is made anew should it break.
struct Edge {
    id: ShardId,
    poll: Poll,
    socket: UdpSocket,
    batch: RecvBatch,
    /// The socket may hold more: mio tells only of arrivals after the last "would block".
    readable: bool,
    rx: Receiver<Message>,
    woken: Arc<AtomicBool>,
    links: RelayLinks,
    busy: BusyMeter,
    mailboxes: HashMap<PeerKey, Arc<Mailbox>>,
    counters: Arc<Mutex<CounterSnapshot>>,
    next_snapshot: Instant,
    sent: SendReport,
    truncated: u64,
    restarts: u64,
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
            // A broken invariant fails this shard alone: its peers are told and come back to a new one.
            let turns = catch_unwind(AssertUnwindSafe(|| self.turn_until_stopped(&mut shard)));
            if turns.is_err() {
                self.restarts += 1;
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
        while !self.stopping {
            let now = Instant::now();
            self.busy.on_sleep(now);
            let timeout = self.timeout(shard, now);
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(shard = %self.id, %error, "poll failed");
                std::thread::sleep(Duration::from_millis(10));
            }
            self.readable |= events.iter().any(|event| event.token() == SOCKET);
            let now = Instant::now();
            self.busy.on_wake(now);
            self.turn(shard, now);
        }
    }

    fn turn(&mut self, shard: &mut Shard, now: Instant) {
        self.take_commands(shard, now);
        self.links
            .take(|from, message| shard.handle_relay(now, from, message));
        self.take_datagrams(shard, now);
        if shard.poll_timeout().is_some_and(|deadline| deadline <= now) {
            shard.handle_timeout(now);
        }
        while let Some((peer, event)) = shard.poll_event() {
            if let Some(mailbox) = self.mailboxes.get(&peer) {
                mailbox.post(event);
            }
        }
        // Before the system calls: the other shards work meanwhile.
        self.relay(shard, now);
        self.send(shard, now);
        self.snapshot(shard, now);
    }

    fn timeout(&self, shard: &Shard, now: Instant) -> Duration {
        if self.readable || !self.rx.is_empty() || !self.links.is_empty() {
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
        // Sequentially consistent with those who push: what they push after this wakes again.
        self.woken.swap(false, Ordering::SeqCst);
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
                Message::Stop => self.stopping = true,
            }
        }
    }

    fn take_datagrams(&mut self, shard: &mut Shard, now: Instant) {
        if !self.readable {
            return;
        }
        match self.socket.recv_batch(&mut self.batch) {
            Ok(received) => self.readable = received == BATCH_MAX,
            Err(error) => {
                tracing::error!(shard = %self.id, %error, "cannot receive");
                self.readable = false;
            }
        }
        shard.handle_batch(now, self.batch.drain());
        self.send(shard, now);
    }

    fn send(&mut self, shard: &mut Shard, now: Instant) {
        while let Some(outbox) = shard.poll_outbox(now) {
            self.sent += self.socket.send_batch(outbox.messages());
            outbox.clear();
            if outbox.is_segmenting() && !self.socket.can_segment() {
                outbox.set_segmentation(false);
                tracing::warn!(shard = %self.id, "no UDP segmentation offload: datagrams are sent one by one");
            }
        }
    }

    fn snapshot(&mut self, shard: &Shard, now: Instant) {
        if now < self.next_snapshot {
            return;
        }
        self.next_snapshot = now + SNAPSHOT_PERIOD;
        let mut counters: CounterSnapshot = shard.counters().iter().collect();
        self.truncated += self.batch.take_truncated();
        counters.extend([
            ("udp_sent", self.sent.sent),
            ("udp_send_dropped_full", self.sent.dropped_full),
            ("udp_send_failed", self.sent.failed),
            ("udp_send_split", self.sent.split),
            ("udp_receive_truncated", self.truncated),
            ("shard_restarts", self.restarts),
        ]);
        counters.extend(self.links.counters());
        *self.counters.lock() = counters;
    }
}

const WAKER: Token = Token(0);
const SOCKET: Token = Token(1);

/// Commands waiting at most; a sender waits when there are more.
const COMMANDS_MAX: usize = 4096;
/// Commands taken in one turn at most, so that a storm of joins does not hold up media for long.
const COMMANDS_PER_TURN: usize = 64;
/// How soon what did not fit into another shard's queue is tried again.
const HELD_RETRY: Duration = Duration::from_millis(1);
/// How often the counters are copied for the metrics page.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);
