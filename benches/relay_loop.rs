//! What forwarding costs at least, and what it costs here: a bare relay loop (receive, open, rewrite, seal,
//! send: nothing else, straight on system calls and `ring`) beside the same traffic through a shard and its
//! socket, on loopback sockets.
//!
//! Both take turns, so that whatever else the machine does hits both. Prints medians of the CPU time of the
//! thread, which includes the kernel's part of sending and, on loopback, of delivering. The receivers are
//! drained between the turns, outside of what is measured.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use bare::{Bare, PAYLOAD_LEN, cpu_ns, loopback_socket};
use bytes::BytesMut;
use shardcast::io::udp::{RecvBatch, UdpSocket};
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track};

#[path = "support/bare.rs"]
mod bare;
#[path = "../tests/support/shard_world.rs"]
mod support;

fn main() {
    // `cargo test --benches` runs this too; it only has to run then.
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    println!("ns of CPU per forwarded packet (medians); user: without the sends");
    println!("viewers batch    bare  shard  ratio    bare user  shard user");
    for viewers in [50, 200] {
        for batch in [1, 4, 8] {
            let packets = if is_test { 2_000 } else { 400_000 };
            let turns = (packets / (viewers * batch)).clamp(3, 2000);
            let [bare, shard, bare_user, shard_user] = compare(viewers, batch, turns);
            println!(
                "{viewers:7} {batch:5} {bare:7.0} {shard:6.0} {:6.2} {bare_user:12.0} {shard_user:11.0}",
                shard / bare
            );
        }
    }
}

/// Bare and shard, with and without the sends, in ns per forwarded packet.
fn compare(viewers: usize, batch: usize, turns: usize) -> [f64; 4] {
    let receivers = Receivers::new(viewers);
    let mut bare = Bare::new(receivers.addresses());
    let mut real = Real::new(receivers.addresses());
    let mut times: [Vec<u64>; 4] = Default::default();
    for _ in 0..turns {
        bare.feed(batch);
        times[0].push(cpu_ns(|| bare.turn(batch, true)));
        receivers.drain(batch);
        real.feed(batch);
        times[1].push(cpu_ns(|| real.turn(batch, true)));
        receivers.drain(batch);
        bare.feed(batch);
        times[2].push(cpu_ns(|| bare.turn(batch, false)));
        real.feed(batch);
        times[3].push(cpu_ns(|| real.turn(batch, false)));
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2] as f64 / (viewers * batch) as f64
    })
}

/// The viewers' sockets.
struct Receivers(Vec<StdSocket>);

impl Receivers {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| loopback_socket()).collect())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let address = |socket: &StdSocket| socket.local_addr().expect("bound");
        self.0.iter().map(address).collect()
    }

    /// Everyone got everything.
    fn drain(&self, expected: usize) {
        let mut buffer = [0; 2048];
        for socket in &self.0 {
            let media = std::iter::from_fn(|| socket.recv(&mut buffer).ok());
            let count = media.filter(|len| *len > PAYLOAD_LEN).count();
            assert_eq!(count, expected, "a datagram was lost");
        }
    }
}

/// A shard with its socket, as its thread drives it.
struct Real {
    world: World,
    socket: UdpSocket,
    publisher: StdSocket,
    received: RecvBatch,
    seq: u16,
}

impl Real {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        let mut world = World::new();
        let publisher = loopback_socket();
        let at = world.add("room");
        world.clients[at].address = publisher.local_addr().expect("bound");
        world.connect(at);
        let track = track(&world, at, 0, &[codec(96, Codec::Vp8)]);
        world.configure(at, std::slice::from_ref(&track), &[]);
        for address in addresses {
            let viewer = world.add("room");
            world.clients[viewer].address = address;
            world.connect(viewer);
            let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
            world.configure(viewer, &[], &[wanted]);
        }
        Self {
            world,
            socket: UdpSocket::bind([127, 0, 0, 1].into(), 0).expect("a free port"),
            publisher,
            received: RecvBatch::default(),
            seq: 0,
        }
    }

    fn feed(&mut self, batch: usize) {
        for _ in 0..batch {
            self.seq = self.seq.wrapping_add(1);
            let packet = Rtp {
                ssrc: 1000,
                seq: self.seq,
                timestamp: u32::from(self.seq),
                payload_type: 96,
                extensions: &[(4, b"0")],
                payload: &[0x5a; PAYLOAD_LEN],
            };
            let sealed: BytesMut = self.world.clients[0].seal_rtp(&packet.bytes());
            let sent = self.publisher.send_to(&sealed, self.socket.local_addr());
            sent.expect("sent");
        }
        self.world.now += Duration::from_millis(10);
    }

    fn turn(&mut self, batch: usize, with_send: bool) {
        let World { shard, now, .. } = &mut self.world;
        let received = self.socket.recv_batch(&mut self.received);
        assert_eq!(received.expect("received"), batch);
        shard.handle_batch(*now, self.received.drain());
        while let Some(outbox) = shard.poll_outbox(*now) {
            if with_send {
                let report = self.socket.send_batch(outbox.messages());
                assert_eq!(report.sent, outbox.len() as u64, "{report:?}");
            }
            outbox.clear();
        }
    }
}
