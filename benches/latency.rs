//! One-way latency through the running server on loopback, with one shard and with two: from before a publisher's `send`
//! of one video packet until the last of 1 to 2000 subscribers has it. Server and clients share the machine, and one thread
//! reads the sockets of all subscribers, so on few cores this is an upper bound.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/loopback/live.rs"]
mod live;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/loopback/socket.rs"]
mod socket;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shardcast::config::Config;
use shardcast::server::Server;

use crate::live::{Live, drive};
use crate::support::client::Style;
use crate::support::flavor::Flavor;
use crate::support::media::Rate;

/// Checks, reports and keyframe requests are seen to after so many packets.
const PACKETS_BETWEEN_UPKEEP: u64 = 200;
/// One thread speaks for all of them, and their first checks are not to wait for it too long.
const JOIN_AT_ONCE: usize = 25;
const PATIENCE: Duration = Duration::from_secs(30);

struct Room {
    publisher: Live,
    subscribers: Vec<Live>,
    packets: VecDeque<Vec<u8>>,
    media_time: Instant,
    sent: u64,
}

impl Room {
    /// Everybody is in, and media flows. Subscribers come some at a time: this thread speaks for all of them.
    fn start(server: &Server, subscribers: usize) -> Self {
        let zero = Instant::now();
        let name_of_room = format!("room-{subscribers}");
        let http = server.http_addr();
        let mut room = Self {
            publisher: Live::join(http, &name_of_room, "publisher", Flavor::Chromium, zero),
            subscribers: Vec::new(),
            packets: VecDeque::new(),
            media_time: zero,
            sent: 0,
        };
        while room.subscribers.len() < subscribers {
            let next =
                room.subscribers.len()..subscribers.min(room.subscribers.len() + JOIN_AT_ONCE);
            room.subscribers.extend(next.map(|n| {
                let name = format!("s{n}");
                let mut live = Live::connect(http, &name_of_room, &name, Flavor::Chromium, zero);
                live.client.options.style = Style::Viewer;
                live.client.join(Instant::now());
                live
            }));
            let mut all: Vec<&mut Live> = room.subscribers.iter_mut().collect();
            all.push(&mut room.publisher);
            drive(&mut all, PATIENCE, "media flows to everybody", |live| {
                let (_publisher, subscribers) = live.split_last().expect("there is a publisher");
                subscribers
                    .iter()
                    .all(|s| s.packets().len() == 2 && s.packets()[0] > 5)
            });
        }
        room
    }

    /// The next video packet as the publisher's encoder would make it.
    fn next_packet(&mut self) -> Vec<u8> {
        let sender = self
            .publisher
            .client
            .senders
            .iter_mut()
            .find(|(id, _)| id.starts_with("video"))
            .map(|(_, sender)| sender)
            .expect("it publishes video");
        while self.packets.is_empty() {
            self.media_time += Duration::from_secs(1) / Rate::FULL.frames_per_s;
            let now = self.media_time.max(Instant::now());
            self.packets.extend(sender.poll_packets(now, Rate::FULL));
        }
        self.packets.pop_front().expect("just filled")
    }

    /// Keeps consent and answers reports, then lets what that set off run dry.
    fn keep_up(&mut self) {
        self.publisher.pump();
        for subscriber in &mut self.subscribers {
            subscriber.pump();
        }
        std::thread::sleep(Duration::from_millis(3));
        for live in self.subscribers.iter().chain([&self.publisher]) {
            while receive(&live.udp).is_some() {}
        }
    }

    /// How long one packet takes to reach everybody.
    fn measure(&mut self) -> Duration {
        if self.sent.is_multiple_of(PACKETS_BETWEEN_UPKEEP) {
            self.keep_up();
        }
        self.sent += 1;
        let packet = self.next_packet();
        self.publisher.client.transport.send_rtp(&packet);
        let mut datagrams = Vec::new();
        while let Some(datagram) = self.publisher.client.transport.poll_transmit() {
            datagrams.push(datagram);
        }
        let start = Instant::now();
        for (to, datagram) in &datagrams {
            self.publisher
                .udp
                .send_to(datagram, to)
                .expect("loopback takes it");
        }
        for subscriber in &self.subscribers {
            while !receive(&subscriber.udp).is_some_and(|is_rtp| is_rtp) {
                assert!(start.elapsed() < PATIENCE, "a packet was lost");
                std::hint::spin_loop();
            }
        }
        start.elapsed()
    }
}

/// Takes a datagram, if there is one, and says whether it is RTP (RFC 7983, RFC 5761 §4).
fn receive(udp: &UdpSocket) -> Option<bool> {
    let mut buffer = [0; 2048];
    let (length, _) = udp.recv_from(&mut buffer).ok()?;
    black_box(length);
    Some((128..192).contains(&buffer[0]) && !(192..224).contains(&buffer[1]))
}

fn latency(c: &mut Criterion) {
    for shards in [1, 2] {
        let mut group = c.benchmark_group(format!("latency/{shards}_shards"));
        for subscribers in [1, 10, 50, 500, 2000] {
            // Others who are still there would want checks and reports.
            let server = start_server(shards);
            let mut room = Room::start(&server, subscribers);
            group.throughput(Throughput::Elements(subscribers as u64));
            group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
                b.iter_custom(|packets| (0..packets).map(|_| room.measure()).sum());
            });
            server.shutdown();
        }
        group.finish();
    }
}

fn start_server(shards: usize) -> Server {
    let shards = format!("--shards={shards}");
    let arguments = [
        "shardcast",
        "--http=127.0.0.1:0",
        "--udp-bind=127.0.0.1",
        "--udp-port=0",
        "--announce=127.0.0.1",
        "--max-peers-per-room=3000",
        &shards,
    ];
    let unreadable = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let config = Config::load(arguments.map(Into::into), |_| None, unreadable, 1)
        .expect("the options are valid");
    Server::start(&config).expect("loopback ports are free")
}

criterion_group!(benches, latency);
criterion_main!(benches);
