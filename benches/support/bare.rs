//! The least a relay can do: receive, open, rewrite, seal and send, straight on system calls and `ring`. What the
//! ratios of the benches are taken to.
#![allow(dead_code, reason = "each bench uses its part")]

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::ops::Range;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// As 1 Mbit/s at 30 frames a second makes them, about.
pub const PAYLOAD_LEN: usize = 1100;
/// With the `mid` header extension.
pub const HEADER_LEN: usize = 20;
const TAG_LEN: usize = 16;
/// As many as the server puts into one message.
const SEGMENTS_MAX: usize = 16;
/// A share of a core's second-level cache, in both.
const SEALED_BYTES_MAX: usize = shardcast::shard::OUTBOX_BYTES;

/// The loop without anything around it.
pub struct Bare {
    pub socket: StdSocket,
    publisher: StdSocket,
    key: LessSafeKey,
    /// Each viewer's key, and where it is.
    viewers: Vec<(LessSafeKey, libc::sockaddr_in)>,
    seq: u32,
    received: Vec<u8>,
    arena: Vec<u8>,
}

impl Bare {
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
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

    /// The publisher sends packets for one turn.
    pub fn feed(&mut self, batch: usize) {
        let to = self.socket.local_addr().expect("bound");
        for at in 0..batch as u32 {
            let packet = published(self.seq + at, PAYLOAD_LEN);
            self.publisher.send_to(&packet, to).expect("sent");
        }
    }

    /// Relays what waits, which is `batch` packets of one length.
    pub fn turn(&mut self, batch: usize, with_send: bool) {
        let lens = self.receive();
        assert_eq!(lens.len(), batch);
        self.relay(0..batch, lens[0], with_send);
        self.seq += batch as u32;
    }

    /// Relays whatever waits; packets that have one length and come one after another go out together. Says how many
    /// came.
    pub fn turn_any(&mut self) -> usize {
        let lens = self.receive();
        let mut start = 0;
        for run in lens.chunk_by(|a, b| a == b) {
            for at in (0..run.len()).step_by(SEGMENTS_MAX) {
                let end = run.len().min(at + SEGMENTS_MAX);
                self.relay(start + at..start + end, run[0], true);
            }
            start += run.len();
        }
        lens.len()
    }

    /// Opens, rewrites, seals and sends some of the packets received, each of `len` bytes.
    fn relay(&mut self, packets: Range<usize>, len: usize, with_send: bool) {
        for at in packets.clone() {
            let packet = &mut self.received[at * 2048..][..len];
            let (header, sealed) = packet.split_at_mut(HEADER_LEN);
            let opened = self
                .key
                .open_in_place(nonce(header), Aad::from(&*header), sealed);
            opened.expect("authentic");
        }
        let message_len = packets.len() * len;
        let viewers = std::mem::take(&mut self.viewers);
        for viewers in viewers.chunks((SEALED_BYTES_MAX / message_len).clamp(1, 64)) {
            self.arena.clear();
            for (key, _) in viewers {
                for at in packets.clone() {
                    let start = self.arena.len();
                    let packet = &self.received[at * 2048..][..len - TAG_LEN];
                    self.arena.extend_from_slice(packet);
                    // SSRC; the number stays the publisher's.
                    self.arena[start + 8..start + 12].copy_from_slice(&[1, 2, 3, 4]);
                    seal(key, &mut self.arena, start);
                }
            }
            if with_send {
                self.send(viewers, message_len, packets.len());
            }
        }
        self.viewers = viewers;
    }

    /// How long each packet is that was there.
    fn receive(&mut self) -> Vec<usize> {
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
        let got = usize::try_from(got).unwrap_or(0);
        let lens = headers[..got].iter().map(|header| header.msg_len as usize);
        lens.collect()
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

/// A packet as the publisher protects it.
pub fn published(seq: u32, payload_len: usize) -> Vec<u8> {
    let mut packet = vec![0x90; HEADER_LEN];
    packet[4..8].copy_from_slice(&seq.to_be_bytes());
    packet.resize(HEADER_LEN + payload_len, 0x5a);
    seal(&key(0), &mut packet, 0);
    packet
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

pub fn loopback_socket() -> StdSocket {
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

/// The calling thread, and what it starts from now on, stays on that core; where there is no such core, on any.
pub fn on_core(core: usize) {
    // SAFETY: a set of bits.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is inside of the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: reads the set. If there is no such core, nothing changes.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
}

/// The CPU time of this thread that `act` takes, in ns.
pub fn cpu_ns(act: impl FnOnce()) -> u64 {
    let start = thread_ns();
    act();
    thread_ns() - start
}

/// The CPU time of this thread so far, in ns.
pub fn thread_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to the struct it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
