//! What forwarding costs at least, and what it costs here: a bare relay loop (receive, open, rewrite, seal,
//! send: nothing else, straight on system calls and `ring`) beside the same traffic through a shard and its
//! socket, on loopback sockets.
//!
//! Both take turns, so that whatever else the machine does hits both. Prints medians of the CPU time of the
//! thread, which includes the kernel's part of sending and, on loopback, of delivering. The receivers are
//! drained between the turns, outside of what is measured.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use bytes::BytesMut;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use shardcast::io::udp::{RecvBatch, UdpSocket};
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track};

#[path = "../tests/support/shard_world.rs"]
mod support;

/// As 1 Mbit/s at 30 frames a second makes them, about.
const PAYLOAD_LEN: usize = 1100;
/// With the `mid` header extension.
const HEADER_LEN: usize = 20;
const TAG_LEN: usize = 16;
/// A share of a core's second-level cache, in both.
const SEALED_BYTES_MAX: usize = shardcast::shard::OUTBOX_BYTES;

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

/// The loop without anything around it.
struct Bare {
    socket: StdSocket,
    publisher: StdSocket,
    key: LessSafeKey,
    /// Each viewer's key, and where it is.
    viewers: Vec<(LessSafeKey, libc::sockaddr_in)>,
    seq: u32,
    received: Vec<u8>,
    arena: Vec<u8>,
}

impl Bare {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            socket: loopback_socket(),
            publisher: loopback_socket(),
            key: key(0),
            viewers: (1..)
                .zip(addresses)
                .map(|(at, to)| (key(at), sockaddr(to)))
                .collect(),
            seq: 0,
            received: vec![0; 64 * 2048],
            arena: Vec::new(),
        }
    }

    fn feed(&mut self, batch: usize) {
        let to = self.socket.local_addr().expect("bound");
        for at in 0..batch as u32 {
            let mut packet = vec![0x90; HEADER_LEN];
            packet[4..8].copy_from_slice(&(self.seq + at).to_be_bytes());
            packet.resize(HEADER_LEN + PAYLOAD_LEN, 0x5a);
            seal(&self.key, &mut packet, 0);
            self.publisher.send_to(&packet, to).expect("sent");
        }
    }

    fn turn(&mut self, batch: usize, with_send: bool) {
        let lens = self.receive(batch);
        for (at, len) in lens.into_iter().enumerate().take(batch) {
            let packet = &mut self.received[at * 2048..][..len];
            let (header, sealed) = packet.split_at_mut(HEADER_LEN);
            let opened = self
                .key
                .open_in_place(nonce(header), Aad::from(&*header), sealed);
            opened.expect("authentic");
        }
        let message_len = batch * (HEADER_LEN + PAYLOAD_LEN + TAG_LEN);
        let viewers = std::mem::take(&mut self.viewers);
        for viewers in viewers.chunks((SEALED_BYTES_MAX / message_len).clamp(1, 64)) {
            self.arena.clear();
            for (key, _) in viewers {
                for at in 0..batch {
                    let start = self.arena.len();
                    let packet = &self.received[at * 2048..][..HEADER_LEN + PAYLOAD_LEN];
                    self.arena.extend_from_slice(packet);
                    // SSRC; the number stays the publisher's.
                    self.arena[start + 8..start + 12].copy_from_slice(&[1, 2, 3, 4]);
                    seal(key, &mut self.arena, start);
                }
            }
            if with_send {
                self.send(viewers, message_len, batch);
            }
        }
        self.viewers = viewers;
        self.seq += batch as u32;
    }

    fn receive(&mut self, batch: usize) -> [usize; 64] {
        let mut lens = [0; 64];
        // SAFETY: plain C structs of integers and pointers.
        let mut headers: [libc::mmsghdr; 64] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut iovecs: [libc::iovec; 64] = unsafe { std::mem::zeroed() };
        for (at, slot) in self.received.chunks_mut(2048).enumerate() {
            iovecs[at].iov_base = slot.as_mut_ptr().cast();
            iovecs[at].iov_len = slot.len();
            headers[at].msg_hdr.msg_iov = &raw mut iovecs[at];
            headers[at].msg_hdr.msg_iovlen = 1;
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        // SAFETY: 64 headers, each with one slot of its own; no names.
        let got = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                64,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(got, batch as i32);
        for (len, header) in lens.iter_mut().zip(&headers) {
            *len = header.msg_len as usize;
        }
        lens
    }

    fn send(
        &mut self,
        viewers: &[(LessSafeKey, libc::sockaddr_in)],
        message_len: usize,
        batch: usize,
    ) {
        #[repr(C, align(8))]
        #[derive(Clone, Copy)]
        struct Control(libc::cmsghdr, [u16; 4]);
        let control = Control(
            libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + 2,
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            [(message_len / batch) as u16; 4],
        );
        // SAFETY: plain C structs of integers and pointers.
        let mut headers: [libc::mmsghdr; 64] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut iovecs: [libc::iovec; 64] = unsafe { std::mem::zeroed() };
        let messages = self.arena.chunks_mut(message_len).zip(viewers);
        for (at, (message, (_, name))) in messages.enumerate() {
            iovecs[at].iov_base = message.as_mut_ptr().cast();
            iovecs[at].iov_len = message.len();
            let header = &mut headers[at].msg_hdr;
            header.msg_iov = &raw mut iovecs[at];
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::from_ref(name).cast_mut().cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            if batch > 1 {
                header.msg_control = std::ptr::from_ref(&control).cast_mut().cast();
                header.msg_controllen = size_of::<Control>();
            }
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        // SAFETY: as many headers as viewers, which point at what lives here; the kernel only reads.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), viewers.len() as u32, 0) };
        assert_eq!(sent, viewers.len() as i32);
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

fn key(of: usize) -> LessSafeKey {
    let key = UnboundKey::new(&AES_128_GCM, &[of as u8; 16]);
    LessSafeKey::new(key.expect("16 bytes"))
}

fn nonce(header: &[u8]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[2..].copy_from_slice(&header[2..12]);
    Nonce::assume_unique_for_key(nonce)
}

fn seal(key: &LessSafeKey, arena: &mut Vec<u8>, start: usize) {
    let (header, payload) = arena[start..].split_at_mut(HEADER_LEN);
    let tag = key.seal_in_place_separate_tag(nonce(header), Aad::from(&*header), payload);
    arena.extend_from_slice(tag.expect("short").as_ref());
}

fn loopback_socket() -> StdSocket {
    let socket = StdSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_nonblocking(true).expect("a socket");
    socket
}

fn sockaddr(address: SocketAddr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    }
}

/// The CPU time of this thread that `act` takes, in ns.
fn cpu_ns(act: impl FnOnce()) -> u64 {
    let now = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes to the struct it is given.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let start = now();
    act();
    now() - start
}
