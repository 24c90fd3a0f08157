//! Forwarding in steady state allocates nothing: from the socket through a shard to the socket, on the
//! thread that does it.

#[path = "support/shard_world.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shardcast::base::ids::{SeqNo16, Ssrc};
use shardcast::io::udp::{RecvBatch, UdpSocket};
use shardcast::wire::bandwidth::TransportFeedback;
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::Extension;
use support::{Rtp, World, codec, extensions, subscription, track};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The allocator is also called while a thread ends, when there is nothing left to count with.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
            let before = ALLOCATIONS.with(Cell::get);
            self.turn(together);
            allocations += ALLOCATIONS.with(Cell::get) - before;
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
