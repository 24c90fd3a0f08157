//! One room of many viewers on one shard and on two, each shard on a thread of its own with its socket: how much more
//! two cores forward than one. Needs as many idle cores as shards.
//!
//! And what shards add to a packet's way while they work for 60 % of the time: from when its frame is there until a viewer's
//! copy is with the kernel. Beside it the same of two threads that only send as much on the same beat: no machine is
//! faster than its kernel. Both take turns, and the medians of the rounds' quantiles are printed: once with threads of
//! ordinary priority, which other work on the machine holds up now and then (by 3 to 9 ms on the machine of
//! docs/PERFORMANCE.md), and once with those of `--real-time`, where the system lets us; beside the median of the rounds' p99 the
//! worst. What lies outside the shards is not in it: receiving, waking up for that, timers, feedback.
//!
//! The viewers' sockets are never read, so that no core is spent on them; the kernel drops what they cannot hold, as
//! late as it would deliver it.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::{Events, Poll};
use shardcast::base::ids::{PeerKey, ShardId};
use shardcast::control::{SubscriptionConfig, TrackConfig};
use shardcast::io::relay::RelayLinks;
use shardcast::io::scheduling::before_ordinary_threads;
use shardcast::io::shard_thread::shard_poll;
use shardcast::io::shard_waker::ShardWaker;
use shardcast::io::udp::{BATCH_MAX, UdpSocket};
use shardcast::transport::outbox::Transmit;
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track_of};

#[path = "../tests/support/shard_world.rs"]
mod support;

const PAYLOAD_LEN: usize = 1100;
/// Packets that come together, as a frame of 1 Mbit/s at 30 frames a second has them.
const BATCH: usize = 4;
/// Of the forwarded packet: header with `mid`, and tag.
const DATAGRAM_LEN: usize = PAYLOAD_LEN + 20 + 16;
/// How many frames the publisher's shard may be ahead: less than the relay's queues hold.
const AHEAD_MAX: u64 = 64;

fn main() {
    // `cargo test --benches` runs this too; it only has to run then.
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    let (rounds, frames) = if is_test { (1, 20) } else { (5, 1000) };
    println!(
        "one room, frames of {BATCH} packets; packets/s are the best of {rounds} rounds that take turns"
    );
    println!(
        "                                                added at 60 % of 2 shards, us              sends alone, us"
    );
    println!(
        "viewers   1 shard  2 shards  ratio  priority         p50     p99   worst   p99.9        p50     p99   worst   p99.9"
    );
    let priorities: &[Priority] = match real_time_is_allowed() {
        true => &[Priority::Ordinary, Priority::RealTime],
        false => &[Priority::Ordinary],
    };
    for viewers in [50, 200, 500, 2000] {
        // As many packets as with 500: a frame for all is a moment already.
        let frames = frames.min((frames * 500 / viewers as u64).max(20));
        let sinks = Sinks::new(viewers);
        let packets = (frames as usize * BATCH * viewers) as f64;
        let (mut one, mut two) = (0.0_f64, 0.0_f64);
        for _ in 0..rounds {
            one = one.max(packets / race(1, &sinks, frames, Beat::None).0.as_secs_f64());
            two = two.max(packets / race(2, &sinks, frames, Beat::None).0.as_secs_f64());
        }
        let period = Duration::from_secs_f64((BATCH * viewers) as f64 / two / 0.6);
        for priority in priorities {
            let (mut added, mut sends) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                added.push(race(2, &sinks, frames, Beat::Every(period, *priority)).1);
                sends.push(race_of_sends(2, &sinks, frames, period, *priority));
            }
            let [a50, a99, worst, a999] = summary(&added);
            let [s50, s99, s_worst, s999] = summary(&sends);
            println!(
                "{viewers:7} {one:9.0} {two:9.0} {:6.2}  {priority:9?}    {a50:7} {a99:7} {worst:7} {a999:7}    {s50:7} {s99:7} {s_worst:7} {s999:7}",
                two / one,
            );
        }
    }
    if priorities.len() == 1 {
        println!("real-time priority was refused: run it as root, or with CAP_SYS_NICE");
    }
}

/// Before whom a thread goes.
#[derive(Debug, Clone, Copy)]
enum Priority {
    Ordinary,
    RealTime,
}

impl Priority {
    fn apply(self) {
        if let Self::RealTime = self {
            before_ordinary_threads().expect("tried before");
        }
    }
}

fn real_time_is_allowed() -> bool {
    let tried = std::thread::spawn(before_ordinary_threads).join();
    tried.expect("no panic").is_ok()
}

/// When frames come.
#[derive(Debug, Clone, Copy)]
enum Beat {
    /// As fast as it goes.
    None,
    /// One each time, to threads of that priority.
    Every(Duration, Priority),
}

/// Over all rounds, in us: the medians of p50 and of p99, the worst p99, and the median of p99.9.
fn summary(rounds: &[Delays]) -> [u64; 4] {
    let all = |share: f64| rounds.iter().map(move |round| round.quantile(share));
    let worst = all(0.99).max().unwrap_or(0) / 1000;
    [
        median(all(0.5)),
        median(all(0.99)),
        worst,
        median(all(0.999)),
    ]
}

fn median(all: impl Iterator<Item = u64>) -> u64 {
    let mut all: Vec<u64> = all.collect();
    all.sort_unstable();
    all[all.len() / 2] / 1000
}

/// The viewers' sockets.
struct Sinks(Vec<StdSocket>);

impl Sinks {
    fn new(count: usize) -> Self {
        let socket = || StdSocket::bind("127.0.0.1:0").expect("a free port");
        Self((0..count).map(|_| socket()).collect())
    }

    /// The share of one of `shards` shards.
    fn share(&self, shard: u16, shards: u16) -> Vec<SocketAddr> {
        let sockets = self
            .0
            .iter()
            .skip(usize::from(shard))
            .step_by(usize::from(shards));
        sockets
            .map(|socket| socket.local_addr().expect("bound"))
            .collect()
    }
}

/// What the threads share.
struct Race {
    /// Each shard's progress in frames.
    done: Vec<AtomicU64>,
    barrier: Barrier,
    frames: u64,
    beat: Beat,
    /// When the first thread began: all count from then.
    start: OnceLock<Instant>,
}

/// How long after its frame was there a number of packets went out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Delay {
    late: Duration,
    packets: u64,
}

#[derive(Default)]
struct Delays(Vec<Delay>);

impl Delays {
    fn note(&mut self, late: Duration, packets: u64) {
        self.0.push(Delay { late, packets });
    }

    /// In ns.
    fn quantile(&self, share: f64) -> u64 {
        let mut delays = self.0.clone();
        delays.sort_unstable();
        let all: u64 = delays.iter().map(|delay| delay.packets).sum();
        let mut left = (all as f64 * share) as u64;
        let at = |delay: &&Delay| {
            let is_here = left < delay.packets;
            left = left.saturating_sub(delay.packets);
            is_here
        };
        let found = delays.iter().find(at);
        found.map_or(0, |delay| delay.late.as_nanos() as u64)
    }
}

/// Two threads that send to their share of the viewers on the beat, and nothing else.
fn race_of_sends(
    shards: u16,
    sinks: &Sinks,
    frames: u64,
    period: Duration,
    priority: Priority,
) -> Delays {
    let shared = Arc::new((Barrier::new(usize::from(shards)), OnceLock::new()));
    let threads: Vec<_> = (0..shards)
        .map(|shard| {
            let (shared, viewers) = (Arc::clone(&shared), sinks.share(shard, shards));
            std::thread::spawn(move || {
                let mut socket = UdpSocket::bind([127, 0, 0, 1].into(), 0).expect("a free port");
                let bytes = vec![0x5a; BATCH * DATAGRAM_LEN];
                let mut delays = Delays::default();
                priority.apply();
                let (barrier, start) = &*shared;
                barrier.wait();
                let start = *start.get_or_init(Instant::now);
                for at in 0..frames {
                    let due = period * at as u32;
                    std::thread::sleep(due.saturating_sub(start.elapsed()));
                    for viewers in viewers.chunks(BATCH_MAX) {
                        let message = |to: &SocketAddr| Transmit {
                            to: *to,
                            bytes: &bytes,
                            segment_len: DATAGRAM_LEN,
                        };
                        let report = socket.send_batch(viewers.iter().map(message));
                        let late = start.elapsed().saturating_sub(due);
                        delays.note(late, report.sent);
                    }
                }
                delays
            })
        })
        .collect();
    let mut delays = Delays::default();
    for thread in threads {
        delays.0.extend(thread.join().expect("no panic").0);
    }
    delays
}

/// How long all frames took, and how late packets were.
fn race(shards: u16, sinks: &Sinks, frames: u64, beat: Beat) -> (Duration, Delays) {
    let race = Arc::new(Race {
        done: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        barrier: Barrier::new(usize::from(shards)),
        frames,
        beat,
        start: OnceLock::new(),
    });
    let threads: Vec<_> = (0..shards)
        .zip(RelayLinks::mesh(shards))
        .map(|(shard, links)| {
            let (race, viewers) = (Arc::clone(&race), sinks.share(shard, shards));
            std::thread::spawn(move || Runner::new(shard, links, &viewers).run(&race))
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let mut delays = Delays::default();
    for thread in threads {
        let (took, own) = thread.join().expect("no panic");
        slowest = slowest.max(took);
        delays.0.extend(own.0);
    }
    (slowest, delays)
}

/// One shard's thread.
struct Runner {
    shard: u16,
    world: World,
    links: RelayLinks,
    poll: Poll,
    waker: ShardWaker,
    socket: UdpSocket,
    delays: Delays,
    /// What the publisher sends, protected beforehand.
    frames: Vec<Vec<(SocketAddr, BytesMut)>>,
    forwarded: u64,
    viewers: usize,
}

impl Runner {
    fn new(shard: u16, links: RelayLinks, viewers: &[SocketAddr]) -> Self {
        let mut world = World::of_shard(ShardId(shard), usize::from(shard) * 10_000);
        if shard == 0 {
            let at = world.join("room");
            world.configure(at, &[video()], &[]);
        }
        for address in viewers {
            let viewer = world.add("room");
            world.clients[viewer].address = *address;
            world.connect(viewer);
            let wanted: SubscriptionConfig = subscription(0, &video(), &[codec(120, Codec::Vp8)]);
            world.configure(viewer, &[], &[wanted]);
        }
        let (poll, waker) = shard_poll().expect("a descriptor");
        links.connect(waker.clone());
        Self {
            shard,
            world,
            links,
            poll,
            waker,
            delays: Delays::default(),
            socket: UdpSocket::bind([127, 0, 0, 1].into(), 0).expect("a free port"),
            frames: Vec::new(),
            forwarded: 0,
            viewers: viewers.len(),
        }
    }

    /// How long it took to send all frames, and how late packets were.
    fn run(mut self, race: &Race) -> (Duration, Delays) {
        if self.shard == 0 {
            self.seal_frames(race.frames);
        }
        if let Beat::Every(_, priority) = race.beat {
            priority.apply();
        }
        // Everybody has said what it wants; then everybody has heard it; then the answers are there.
        for _ in 0..3 {
            self.exchange();
            race.barrier.wait();
        }
        let start = *race.start.get_or_init(Instant::now);
        match self.shard {
            0 => self.publish(race, start),
            _ => self.follow(race, start),
        }
        let took = start.elapsed();
        // Control messages may come on top.
        let expected = race.frames * (BATCH * self.viewers) as u64;
        assert!(
            self.forwarded >= expected,
            "a packet was lost before the kernel"
        );
        (took, self.delays)
    }

    fn seal_frames(&mut self, frames: u64) {
        let client = &mut self.world.clients[0];
        let mut seq = 0_u16;
        for frame in 0..frames {
            let packets = (0..BATCH).map(|_| {
                seq = seq.wrapping_add(1);
                let packet = Rtp {
                    ssrc: 1000,
                    seq,
                    timestamp: frame as u32 * 3000,
                    payload_type: 96,
                    extensions: &[(4, b"0")],
                    payload: &[0x5a; PAYLOAD_LEN],
                };
                (client.address, client.seal_rtp(&packet.bytes()))
            });
            self.frames.push(packets.collect());
        }
    }

    fn publish(&mut self, race: &Race, start: Instant) {
        for (at, datagrams) in (0..).zip(std::mem::take(&mut self.frames)) {
            let is_behind = |done: &AtomicU64| done.load(Ordering::Acquire) + AHEAD_MAX < at;
            while race.done.iter().any(is_behind) {
                std::hint::spin_loop();
            }
            if let Beat::Every(period, _) = race.beat {
                std::thread::sleep((period * at as u32).saturating_sub(start.elapsed()));
            }
            self.world.now += Duration::from_millis(10);
            let now = self.world.now;
            self.world.shard.handle_batch(now, datagrams);
            self.exchange();
            self.send(race, start);
            self.on_frames_done(race, at + 1);
        }
    }

    fn follow(&mut self, race: &Race, start: Instant) {
        let all = race.frames * (BATCH * self.viewers) as u64;
        let mut events = Events::with_capacity(8);
        while self.forwarded < all {
            if self.links.is_empty() {
                let timeout = Some(Duration::from_millis(100));
                self.poll.poll(&mut events, timeout).expect("a poll");
            }
            self.waker.rearm();
            self.world.now += Duration::from_millis(1);
            self.exchange();
            self.send(race, start);
            let frames = self.forwarded / (BATCH * self.viewers) as u64;
            self.on_frames_done(race, frames);
        }
    }

    fn on_frames_done(&self, race: &Race, frames: u64) {
        race.done[usize::from(self.shard)].store(frames, Ordering::Release);
    }

    /// What shards say to each other, as the shard's thread does it.
    fn exchange(&mut self) {
        let World { shard, now, .. } = &mut self.world;
        self.links
            .take_control(|from, message| shard.handle_relay(*now, from, message));
        self.links
            .take_media(|from, message| shard.handle_relay(*now, from, message));
        while let Some((to, message)) = shard.poll_relay() {
            self.links.push(to, message);
        }
        self.links.ring();
    }

    fn send(&mut self, race: &Race, start: Instant) {
        let World { shard, now, .. } = &mut self.world;
        while let Some(outbox) = shard.poll_outbox(*now) {
            let report = self.socket.send_batch(outbox.messages());
            outbox.clear();
            let frame = self.forwarded / (BATCH * self.viewers) as u64;
            if let Beat::Every(period, _) = race.beat {
                let late = start.elapsed().saturating_sub(period * frame as u32);
                self.delays.note(late, report.sent);
            }
            self.forwarded += report.sent;
        }
    }
}

/// The one track, of the first client of the first shard.
fn video() -> TrackConfig {
    track_of(PeerKey(1), 0, &[codec(96, Codec::Vp8)])
}
