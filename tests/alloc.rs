//! Forwarding in steady state allocates nothing: from the socket through a shard to the socket, on the
//! thread that does it.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/layered.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod layered;
#[path = "lab/layered_pictures.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod layered_pictures;
#[path = "lab/publisher.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod publisher;
#[path = "lab/subscriber.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod subscriber;
#[path = "support/shard_world.rs"]
mod support;
#[path = "support/twcc.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod twcc;
#[path = "lab/world.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::publisher::SIMULCAST;
use crate::world::{Lab, Meter};
use bytes::BytesMut;
use shardcast::base::counters::Counters;
use shardcast::base::ids::{SeqNo16, ShardId, Ssrc};
use shardcast::io::relay::RelayLinks;
use shardcast::io::shard_thread::shard_poll;
use shardcast::io::udp::{RecvBatch, UdpSocket};
use shardcast::network::{Conditions, QueueLimit};
use shardcast::wire::bandwidth::TransportFeedback;
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::Extension;
use support::{Rtp, World, codec, extensions, subscription, track};

/// A shard with a real socket, a publisher of video and sound with a socket of its own, and subscribers
/// whose addresses nobody listens at.
struct Loop {
    world: World,
    server: UdpSocket,
    publisher: UdpSocket,
    batch: RecvBatch,
    start: Instant,
    sealed: std::vec::IntoIter<BytesMut>,
    kind: Kind,
    /// How many packets with numbers each subscriber was told to have.
    answered: u64,
}

/// What packets are sent like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// With transport-wide numbers that are answered, and a stream for what is sent again.
    Numbered,
}

impl Loop {
    fn new(subscribers: usize, packets: u16, kind: Kind) -> Self {
        let bind = || UdpSocket::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
        let (server, publisher) = (bind(), bind());
        let mut world = World::new();
        let at = world.add("room");
        world.clients[at].address = publisher.local_addr();
        world.connect(at);
        let numbered = |mapping: CodecMapping| CodecMapping {
            transport_cc: kind == Kind::Numbered,
            ..mapping
        };
        let video = track(&world, at, 0, &[numbered(codec(96, Codec::Vp8))]);
        let audio = track(&world, at, 1, &[codec(111, Codec::Opus)]);
        world.configure(at, &[video.clone(), audio.clone()], &[]);
        for _ in 0..subscribers {
            let subscriber = world.add("room");
            let [_, _, high, low] = (subscriber as u32).to_be_bytes();
            world.clients[subscriber].address = ([127, 1, high, low], 9).into();
            world.connect(subscriber);
            let mut wanted = [
                subscription(0, &video, &[numbered(codec(120, Codec::Vp8))]),
                subscription(1, &audio, &[codec(109, Codec::Opus)]),
            ];
            if kind == Kind::Numbered {
                wanted[0].rtx_ssrc = Some(Ssrc(0x6000_0000));
                wanted[0].extensions =
                    extensions(&[(Extension::Mid, 9), (Extension::TransportSequenceNumber, 3)]);
            }
            world.configure(subscriber, &[], &wanted);
        }
        let start = world.now;
        let payload = [0x5a; 1101];
        // 160 kbit/s pass at once before an estimate has grown.
        let picture = if kind == Kind::Plain { 1100 } else { 200 };
        // Frames of four packets of slightly different length, and a packet of sound behind each.
        let sealed: Vec<BytesMut> = (0..packets)
            .map(|at| {
                let (frame, part) = (at / 5, at % 5);
                let packet = Rtp {
                    ssrc: if part < 4 { 1000 } else { 1001 },
                    seq: if part < 4 { 4 * frame + part } else { frame },
                    timestamp: u32::from(frame) * 3000,
                    payload_type: if part < 4 { 96 } else { 111 },
                    extensions: &[(4, if part < 4 { b"0" } else { b"1" })],
                    payload: &payload[..if part < 4 {
                        picture + usize::from(part % 2)
                    } else {
                        80
                    }],
                };
                world.clients[0].seal_rtp(&packet.bytes())
            })
            .collect();
        Self {
            world,
            server,
            publisher,
            batch: RecvBatch::default(),
            start,
            sealed: sealed.into_iter(),
            kind,
            answered: 0,
        }
    }

    /// All subscribers say that everything came at once. Feedback may allocate, and does not count.
    fn answer(&mut self, sent: u64) {
        let now_ticks = (self.world.now - self.start).as_micros() as i64 / 250;
        for at in 1..self.world.clients.len() {
            let feedback = TransportFeedback {
                sender: Ssrc(9),
                media: Ssrc(0x5000_0000),
                base: SeqNo16(self.answered as u16),
                reference: (now_ticks / 256) as i32,
                count: 0,
                arrivals: vec![Some((now_ticks % 256) as i32); sent as usize],
            };
            self.world.send_rtcp(at, |out| {
                feedback.write(out);
            });
        }
        self.answered += sent;
    }

    /// Brings `packets` from the publisher's socket to the subscribers, `together` at a time, and says
    /// how many allocations the server's part of that made.
    fn run(&mut self, packets: usize, together: usize) -> u64 {
        let server = self.server.local_addr();
        let mut allocations = 0;
        for _ in 0..packets / together {
            let sent: Vec<BytesMut> = self.sealed.by_ref().take(together).collect();
            self.publisher
                .send_batch(sent.iter().map(|d| (server, &d[..])));
            // 100 packets a second, so that caches reach their age and memory comes back.
            self.world.now += Duration::from_millis(10) * together as u32;
            let before = counting::allocations();
            self.turn(together);
            allocations += counting::allocations() - before;
            if self.kind == Kind::Numbered {
                // Four of five are pictures.
                self.answer(together as u64 * 4 / 5);
            }
        }
        allocations
    }

    /// What a shard's thread does in a turn.
    fn turn(&mut self, expected: usize) {
        let mut received = 0;
        while received < expected {
            received += self.server.recv_batch(&mut self.batch).unwrap();
            let World { shard, now, .. } = &mut self.world;
            shard.handle_batch(*now, self.batch.drain());
            while let Some(outbox) = shard.poll_outbox(*now) {
                let report = self.server.send_batch(outbox.messages());
                assert_eq!(report.failed, 0);
                outbox.clear();
            }
        }
    }
}

fn allocations(subscribers: usize, together: usize, kind: Kind) -> u64 {
    const PACKETS: usize = 2000;
    let mut world = Loop::new(subscribers, 2 * PACKETS as u16, kind);
    let warm_up = world.run(PACKETS, together);
    assert!(warm_up > 0, "the counter counts");
    let before = world.world.count("rtp_forwarded");
    let allocations = world.run(PACKETS, together);
    let forwarded = world.world.count("rtp_forwarded") - before;
    assert_eq!(forwarded, (PACKETS * subscribers) as u64);
    let padded = world.world.count("rtp_padded");
    assert_eq!(padded > 0, together > 1, "{padded} packets were padded");
    let answers = world.world.count("transport_feedback_received");
    assert_eq!(answers > 0, kind == Kind::Numbered);
    allocations
}

/// Not one allocation from receive to send: not for a subscriber, not for a packet (payloads share pooled
/// chunks, also while they are kept for retransmission), not for a batch. Reports once a second and
/// whatever belongs to a handshake or a command are not part of it.
#[test]
fn forwarding_allocates_nothing() {
    for (subscribers, together) in [(1, 1), (50, 1), (50, 5), (50, 50)] {
        let made = allocations(subscribers, together, Kind::Plain);
        assert_eq!(made, 0, "{subscribers} subscribers, {together} at a time");
    }
}

/// Nor do transport-wide numbers and what keeps account of them, while feedback comes. The feedback itself and what is due
/// beside are not counted.
#[test]
fn nor_does_forwarding_with_transport_wide_numbers() {
    for (subscribers, together) in [(1, 5), (20, 5)] {
        let made = allocations(subscribers, together, Kind::Numbered);
        assert_eq!(made, 0, "{subscribers} subscribers, {together} at a time");
    }
}

/// Nor does anything of what subscribers behind bad networks get: layers that are left out, redundant audio that is made, what
/// waits for the pacer and goes out when its deadline comes, and is sent again. Deadlines at which reports go out, too, do not count.
#[test]
fn nor_does_forwarding_over_bad_networks() {
    let path = |rate_bps, loss| Conditions {
        delay: Duration::from_millis(30),
        rate_bps,
        loss,
        queue: QueueLimit::Time(Duration::from_millis(300)),
        ..Conditions::default()
    };
    let mut lab = Lab::new(5);
    let near = lab.link(path(None, 0.0));
    let publisher = lab.party(near, near);
    lab.publish(publisher, &SIMULCAST);
    let up = lab.link(path(None, 0.0));
    let (mut made_for, mut downs) = (publisher, Vec::new());
    let lossy = [350_000, 700_000, 1_500_000].map(|rate| (rate, 0.05));
    let narrow = [300_000, 600_000, 1_200_000, 2_400_000].map(|rate| (rate, 0.0));
    for (rate, loss) in narrow.into_iter().chain(lossy) {
        let down = lab.link(path(Some(rate), loss));
        downs.push(down);
        made_for = lab.party(up, down);
        lab.subscribe(made_for, publisher, Duration::from_millis(60));
    }
    // Keyframes, which are asked for after such losses, are more than may go out at once.
    let run = |lab: &mut Lab, from: usize, to: usize| {
        for at in from..to {
            lab.drop_next(downs[at % downs.len()], 20);
            lab.run_to(Duration::from_secs(at as u64 + 1));
        }
    };
    run(&mut lab, 0, 40);
    let before = *lab.world.shard.counters();
    lab.meter = Some(Meter::new(counting::allocations));
    run(&mut lab, 40, 60);
    let meter = lab.meter.expect("it was put in");
    let now = *lab.world.shard.counters();
    let more = |count: fn(&Counters) -> u64| count(&now) - count(&before);
    assert!(more(|c| c.paced) > 100, "the pacer had a backlog");
    assert!(more(|c| c.forward_layer_left_out) > 500, "layers");
    assert!(more(|c| c.rtp_retransmitted) > 50, "repairs");
    let heard = &lab.subscriber(made_for).receptions[0];
    assert!(heard.redundant > 100, "redundant audio was made");
    // No packet costs any; changes of layers do, and rings that grow to their size.
    let forwarded = more(|c| c.rtp_forwarded);
    assert!(meter.forwarding * 300 < forwarded, "{forwarded}: {meter:?}");
    // What is looked at every 100 ms falls on some of these deadlines; what went out at them did not allocate.
    assert!(meter.pacings > 100, "{meter:?}");
    assert!(meter.pacings_allocating * 5 < meter.pacings, "{meter:?}");
}

/// Nor does a packet that crosses to another shard, on either: out of the publisher's, through the rings between them, to the
/// subscribers there.
#[test]
fn nor_does_a_relay() {
    const SUBSCRIBERS: usize = 10;
    let mut links = RelayLinks::mesh(2);
    let mut worlds = [0, 1].map(|id| World::of_shard(ShardId(id), usize::from(id) * 100));
    let mut polls = Vec::new();
    for link in &links {
        let (poll, waker) = shard_poll().expect("a descriptor");
        polls.push(poll);
        link.connect(waker);
    }
    let at = worlds[0].join("room");
    let tracks = [
        track(&worlds[0], at, 0, &[codec(96, Codec::Vp8)]),
        track(&worlds[0], at, 1, &[codec(111, Codec::Opus)]),
    ];
    worlds[0].configure(at, &tracks, &[]);
    for _ in 0..SUBSCRIBERS {
        let subscriber = worlds[1].join("room");
        let wanted = [
            subscription(0, &tracks[0], &[codec(120, Codec::Vp8)]),
            subscription(1, &tracks[1], &[codec(109, Codec::Opus)]),
        ];
        worlds[1].configure(subscriber, &[], &wanted);
    }
    // Wants and what answers them.
    for _ in 0..4 {
        for (world, links) in worlds.iter_mut().zip(&mut links) {
            exchange(world, links);
        }
    }
    let mut chunk = BytesMut::new();
    let mut measure = |worlds: &mut [World; 2], from: u16, to: u16| {
        let mut allocations = 0;
        for seq in from..to {
            let is_sound = seq % 5 == 4;
            let packet = Rtp {
                ssrc: 1000 + u32::from(is_sound),
                seq: if is_sound { seq / 5 } else { seq - seq / 5 },
                timestamp: u32::from(seq / 5) * 3000,
                payload_type: if is_sound { 111 } else { 96 },
                extensions: &[(4, if is_sound { b"1" } else { b"0" })],
                payload: &[0x5a; 300],
            };
            let sealed = worlds[0].clients[at].seal_rtp(&packet.bytes());
            if chunk.capacity() < sealed.len() {
                // Shared from the beginning, as the socket's are.
                chunk = BytesMut::with_capacity(1 << 16);
                drop(chunk.split());
            }
            chunk.extend_from_slice(&sealed);
            let datagram = [(worlds[0].clients[at].address, chunk.split())];
            let before = counting::allocations();
            let now = worlds[0].now + Duration::from_millis(10);
            worlds[0].shard.handle_batch(now, datagram);
            for (world, links) in worlds.iter_mut().zip(&mut links) {
                world.now = now;
                exchange(world, links);
            }
            allocations += counting::allocations() - before;
        }
        allocations
    };
    let warm_up = measure(&mut worlds, 0, 2000);
    assert!(warm_up > 0, "the counter counts");
    let before = worlds[1].count("rtp_forwarded");
    let made = measure(&mut worlds, 2000, 4000);
    let forwarded = worlds[1].count("rtp_forwarded") - before;
    assert_eq!(forwarded, (2000 * SUBSCRIBERS) as u64);
    assert_eq!(made, 0, "for {forwarded} packets");
}

/// What shards say to each other, as their threads do it; what goes to subscribers is thrown away.
fn exchange(world: &mut World, links: &mut RelayLinks) {
    let World { shard, now, .. } = world;
    links.take_control(|from, message| shard.handle_relay(*now, from, message));
    links.take_media(|from, message| shard.handle_relay(*now, from, message));
    while let Some(outbox) = shard.poll_outbox(*now) {
        outbox.clear();
    }
    while let Some((to, message)) = shard.poll_relay() {
        links.push(to, message);
    }
    links.ring();
}
