//! UDP in batches: up to 64 datagrams a system call.
//!
//! The only file with `unsafe` code: `recvmmsg` and `sendmmsg` take arrays of pointers, and control
//! messages (`UDP_SEGMENT`) are written into memory. Elsewhere than on Linux the same is done one
//! datagram a call. Knows nothing of what is in a datagram.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::io::dual_stack::{bind_or_fall_back, is_every_address};
use crate::io::udp_batch::is_about_another;
pub use crate::io::udp_batch::{BATCH_MAX, DATAGRAM_MAX, RecvBatch, SendReport};
use crate::transport::outbox::Transmit;

#[cfg(not(target_os = "linux"))]
use crate::io::udp_portable as platform;
#[cfg(target_os = "linux")]
use linux as platform;

/// The kernel buffers asked for, each way, in bytes: about 50 ms at 500 Mbit/s. The kernel may give
/// less (`net.core.rmem_max`, `net.core.wmem_max`).
const SOCKET_BUFFER: usize = 4 << 20;

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: mio::net::UdpSocket,
    local: SocketAddr,
    buffer_sizes: BufferSizes,
    rx: platform::Arrays,
    tx: platform::Sender,
}

/// How large the kernel made a socket's buffers, in bytes as it accounts them (Linux counts its own
/// bookkeeping too and reports twice what was asked for).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams that wait to be received.
    pub receive: usize,
    /// For datagrams that wait to be sent.
    pub send: usize,
}

impl UdpSocket {
    /// Binds a socket. `::` takes IPv4 too, and stands for `0.0.0.0` where there is no IPv6. Port 0
    /// is any free port.
    ///
    /// # Errors
    /// What the system says: the port is taken, the address is not of this machine.
    pub fn bind(ip: IpAddr, port: u16) -> io::Result<Self> {
        bind_or_fall_back(SocketAddr::new(ip, port), Self::bind_at)
    }

    fn bind_at(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!is_every_address(address))?;
        }
        // What was got is reported; a smaller buffer is no reason not to start.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let buffer_sizes = BufferSizes {
            receive: socket.recv_buffer_size()?,
            send: socket.send_buffer_size()?,
        };
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = mio::net::UdpSocket::from_std(socket.into());
        Ok(Self {
            local: socket.local_addr()?,
            buffer_sizes,
            rx: platform::Arrays::default(),
            tx: platform::Sender::new(&socket),
            socket,
        })
    }

    /// Where the socket is bound: the port is the real one, the address may be unspecified.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// How large the kernel's buffers are.
    #[must_use]
    pub fn buffer_sizes(&self) -> BufferSizes {
        self.buffer_sizes
    }

    /// Receives up to [`BATCH_MAX`] datagrams into `batch`, which must have been drained. Says how
    /// many were taken from the kernel, those too long and thus dropped included: 0 means that none
    /// is left and the poll will tell of the next one.
    ///
    /// # Errors
    /// A broken socket. Errors that tell of an earlier datagram's fate (ICMP) are skipped.
    pub fn recv_batch(&mut self, batch: &mut RecvBatch) -> io::Result<usize> {
        for _ in 0..RECV_ERRORS_MAX {
            match self.rx.recv(&self.socket, batch) {
                Ok(received) => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if is_about_another(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    /// Sends messages in order, up to [`BATCH_MAX`] a system call, and never blocks or allocates. What
    /// does not fit the kernel's buffer is dropped: media that waits is worth less than the media behind
    /// it.
    ///
    /// A message of several datagrams goes out as one (`UDP_SEGMENT`) where that is possible, and else
    /// one by one: see [`UdpSocket::can_segment`].
    pub fn send_batch<'a, M: Into<Transmit<'a>>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
    ) -> SendReport {
        let is_ipv6 = self.local.is_ipv6();
        let mut unreachable = 0;
        let sendable = messages.into_iter().filter_map(|message| {
            let message = message.into();
            match for_family(message.to, is_ipv6) {
                Some(to) => Some(Transmit { to, ..message }),
                None => {
                    unreachable += message.datagrams_len() as u64;
                    None
                }
            }
        });
        let mut report = self.tx.send(&self.socket, sendable);
        report.failed += unreachable;
        report
    }

    /// Whether messages of several datagrams go out as one. Not where the system has no `UDP_SEGMENT`, and
    /// not any more once the kernel refused one for lack of it: then it is better not to make any.
    #[must_use]
    pub fn can_segment(&self) -> bool {
        self.tx.can_segment()
    }
}

impl Source for UdpSocket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.socket.register(registry, token, interest)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.socket.reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}

/// How many errors that tell of other datagrams are skipped before a receive gives up its turn.
const RECV_ERRORS_MAX: usize = 16;

/// An address as a socket of one family takes it; `None` if it cannot.
fn for_family(to: SocketAddr, is_ipv6: bool) -> Option<SocketAddr> {
    match (to, is_ipv6) {
        (SocketAddr::V4(v4), true) => {
            let mapped = v4.ip().to_ipv6_mapped();
            Some(SocketAddr::new(mapped.into(), v4.port()))
        }
        (SocketAddr::V6(v6), false) => {
            let ip = v6.ip().to_ipv4_mapped()?;
            Some(SocketAddr::new(ip.into(), v6.port()))
        }
        _ => Some(to),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;
    use std::io;
    use std::mem::{self, size_of};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
    use std::os::fd::{AsRawFd, RawFd};
    use std::ptr;

    use crate::io::udp_batch::{BATCH_MAX, DATAGRAM_MAX, RecvBatch, SendReport, Wire, transmit};
    use crate::transport::outbox::Transmit;

    /// A socket address as the kernel reads and writes it.
    #[derive(Clone, Copy)]
    #[repr(C)]
    union Name {
        family: libc::sa_family_t,
        v4: libc::sockaddr_in,
        v6: libc::sockaddr_in6,
    }

    /// What `recvmmsg` and `sendmmsg` take, allocated once.
    pub(in crate::io::udp) struct Arrays {
        names: Box<[Name]>,
        iovecs: Box<[libc::iovec]>,
        headers: Box<[libc::mmsghdr]>,
    }

    // SAFETY: the pointers in `iovecs` and `headers` are written anew before every system call and
    // never followed otherwise, so what they held when the arrays moved to another thread is not used.
    unsafe impl Send for Arrays {}

    impl Default for Arrays {
        fn default() -> Self {
            // SAFETY: all three are plain C structs (and a union of such) of integers and pointers,
            // for which all bytes zero is a valid value.
            let (name, iovec, header) = unsafe {
                (
                    mem::zeroed::<Name>(),
                    mem::zeroed::<libc::iovec>(),
                    mem::zeroed::<libc::mmsghdr>(),
                )
            };
            Self {
                names: vec![name; BATCH_MAX].into(),
                iovecs: vec![iovec; BATCH_MAX].into(),
                headers: vec![header; BATCH_MAX].into(),
            }
        }
    }

    impl fmt::Debug for Arrays {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Arrays").finish_non_exhaustive()
        }
    }

    impl Arrays {
        /// Points message `index` at `len` bytes at `data` and at a name of `name_len` bytes.
        fn point(&mut self, index: usize, data: *mut u8, len: usize, name_len: usize) {
            self.iovecs[index] = libc::iovec {
                iov_base: data.cast(),
                iov_len: len,
            };
            let header = &mut self.headers[index];
            header.msg_len = 0;
            header.msg_hdr.msg_name = ptr::from_mut(&mut self.names[index]).cast();
            header.msg_hdr.msg_namelen = name_len as libc::socklen_t;
            header.msg_hdr.msg_iov = ptr::from_mut(&mut self.iovecs[index]);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_flags = 0;
        }

        /// One `recvmmsg`.
        pub(in crate::io::udp) fn recv(
            &mut self,
            socket: &mio::net::UdpSocket,
            batch: &mut RecvBatch,
        ) -> io::Result<usize> {
            let mut count = 0;
            for slot in batch.scratch.chunks_exact_mut(DATAGRAM_MAX) {
                self.point(count, slot.as_mut_ptr(), slot.len(), size_of::<Name>());
                count += 1;
            }
            // SAFETY: the first `count` headers have just been written. Each points at a name of the length it
            // says, in `self.names`, and at one iovec with a slot of the scratch block of its own; all
            // of it outlives the call. There is no control data, and no timeout.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
            for index in 0..received {
                let header = &self.headers[index];
                let len = header.msg_len as usize;
                let is_truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
                match read_name(&self.names[index]) {
                    Some(from) if !is_truncated => batch.take(from, index, len),
                    _ => batch.truncated += 1,
                }
            }
            Ok(received)
        }
    }

    /// Sends messages, several datagrams in one where the kernel can.
    #[derive(Debug)]
    pub(in crate::io::udp) struct Sender {
        arrays: Arrays,
        controls: Box<[Control]>,
        /// How long each datagram of a message is, and how many there are.
        segment_lens: [usize; BATCH_MAX],
        counts: [u16; BATCH_MAX],
        /// For the datagrams of one message that have to go one by one.
        singles: Arrays,
        segmentation: Segmentation,
    }

    /// Control data of one message, aligned as the kernel wants it: how long each datagram is.
    #[derive(Debug, Clone, Copy)]
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_LEN]);

    /// Whether the kernel takes messages of several datagrams.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Segmentation {
        /// It should. So many in a row were refused.
        On { refused: u32 },
        /// It has no `UDP_SEGMENT`, or not for the way these datagrams go.
        Off,
    }

    impl Segmentation {
        /// A message was refused: at once for good where the device or route cannot do checksums (EIO). A
        /// datagram that is too long for its path may be that of one destination, so only after many.
        fn on_refused(&mut self, error: &io::Error) {
            if let Self::On { refused } = self {
                *refused += 1;
                if error.raw_os_error() == Some(libc::EIO) || *refused >= REFUSED_MAX {
                    *self = Self::Off;
                }
            }
        }

        fn on_taken(&mut self) {
            if let Self::On { refused } = self {
                *refused = 0;
            }
        }
    }

    impl Sender {
        pub(in crate::io::udp) fn new(socket: &mio::net::UdpSocket) -> Self {
            // A kernel before 4.18 does not know the option; it would send one long datagram instead.
            let segmentation = if knows_segments(socket) {
                Segmentation::On { refused: 0 }
            } else {
                Segmentation::Off
            };
            Self {
                arrays: Arrays::default(),
                controls: vec![Control([0; CONTROL_LEN]); BATCH_MAX].into(),
                segment_lens: [0; BATCH_MAX],
                counts: [0; BATCH_MAX],
                singles: Arrays::default(),
                segmentation,
            }
        }

        pub(in crate::io::udp) fn can_segment(&self) -> bool {
            self.segmentation != Segmentation::Off
        }

        #[cfg(test)]
        pub(in crate::io::udp) fn stop_segmenting(&mut self) {
            self.segmentation = Segmentation::Off;
        }

        /// Sends `messages`, whose addresses are of the socket's family.
        pub(in crate::io::udp) fn send<'a>(
            &mut self,
            socket: &mio::net::UdpSocket,
            messages: impl Iterator<Item = Transmit<'a>>,
        ) -> SendReport {
            let fd = socket.as_raw_fd();
            if self.can_segment() {
                self.send_all(fd, messages)
            } else {
                self.send_all(fd, messages.flat_map(Transmit::datagrams).map(Into::into))
            }
        }

        fn send_all<'a>(
            &mut self,
            fd: RawFd,
            mut messages: impl Iterator<Item = Transmit<'a>>,
        ) -> SendReport {
            let mut report = SendReport::default();
            loop {
                let mut count = 0;
                for message in messages.by_ref().take(BATCH_MAX) {
                    self.point(count, &message);
                    count += 1;
                }
                if count == 0 {
                    return report;
                }
                let datagrams = self.counts;
                let mut call = Call {
                    fd,
                    sender: self,
                    count,
                };
                report += transmit(&datagrams[..count], &mut call);
            }
        }

        fn point(&mut self, index: usize, message: &Transmit<'_>) {
            let name_len = write_name(&mut self.arrays.names[index], message.to);
            // The kernel does not write to what it sends.
            let data = message.bytes.as_ptr().cast_mut();
            self.arrays
                .point(index, data, message.bytes.len(), name_len);
            let datagrams = message.datagrams_len();
            self.segment_lens[index] = message.segment_len;
            self.counts[index] = u16::try_from(datagrams).unwrap_or(u16::MAX);
            let header = &mut self.arrays.headers[index].msg_hdr;
            if datagrams > 1 {
                self.controls[index] = segment_control(message.segment_len);
                header.msg_control = ptr::from_mut(&mut self.controls[index]).cast();
                header.msg_controllen = CONTROL_LEN as _;
            } else {
                header.msg_control = ptr::null_mut();
                header.msg_controllen = 0;
            }
        }
    }

    /// The first `count` messages of a sender, which point at bytes that are borrowed meanwhile.
    struct Call<'s> {
        fd: RawFd,
        sender: &'s mut Sender,
        count: usize,
    }

    impl Wire for Call<'_> {
        fn send(&mut self, offset: usize) -> io::Result<usize> {
            let rest = &mut self.sender.arrays.headers[offset..self.count];
            // SAFETY: `Sender::point` has just written these headers. Each points at one name of the length it
            // says, at one iovec, and at one control block or none, all in the sender's arrays; the bytes
            // are borrowed by whoever made this call.
            let sent = unsafe { sendmmsg(self.fd, rest) }?;
            let taken = &self.sender.counts[offset..offset + sent.min(rest.len())];
            if taken.iter().any(|datagrams| *datagrams > 1) {
                self.sender.segmentation.on_taken();
            }
            Ok(sent)
        }

        fn split(&mut self, offset: usize, error: &io::Error) -> SendReport {
            let Sender {
                arrays,
                segment_lens,
                singles,
                segmentation,
                ..
            } = &mut *self.sender;
            segmentation.on_refused(error);
            let whole = arrays.iovecs[offset];
            let name = arrays.names[offset];
            let name_len = arrays.headers[offset].msg_hdr.msg_namelen;
            let segment_len = segment_lens[offset].max(1);
            let mut report = SendReport::default();
            let mut starts = (0..whole.iov_len).step_by(segment_len).peekable();
            while starts.peek().is_some() {
                let mut count = 0;
                for start in starts.by_ref().take(BATCH_MAX) {
                    singles.names[count] = name;
                    let data = whole.iov_base.cast::<u8>().wrapping_add(start);
                    let len = segment_len.min(whole.iov_len - start);
                    singles.point(count, data, len, name_len as usize);
                    count += 1;
                }
                let headers = &mut singles.headers[..count];
                report += transmit(
                    &[1; BATCH_MAX][..count],
                    &mut Singles {
                        fd: self.fd,
                        headers,
                    },
                );
            }
            report
        }
    }

    /// The datagrams of one message, which point at its bytes.
    struct Singles<'s> {
        fd: RawFd,
        headers: &'s mut [libc::mmsghdr],
    }

    impl Wire for Singles<'_> {
        fn send(&mut self, offset: usize) -> io::Result<usize> {
            // SAFETY: `Call::split` has just written these headers. Each points at one name and one iovec in
            // `Sender::singles`, whose bytes lie within those of the message, which are borrowed by
            // whoever made that call. There is no control data.
            unsafe { sendmmsg(self.fd, &mut self.headers[offset..]) }
        }

        fn split(&mut self, _: usize, _: &io::Error) -> SendReport {
            SendReport::default()
        }
    }

    /// One `sendmmsg`.
    ///
    /// # Safety
    /// Everything the headers point at must be valid for as many bytes as they say.
    unsafe fn sendmmsg(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let len = headers.len() as libc::c_uint;
        // SAFETY: `headers` are `len` initialised headers; what they point at is the caller's promise.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), len, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Whether the kernel has `UDP_SEGMENT` (Linux 4.18).
    fn knows_segments(socket: &mio::net::UdpSocket) -> bool {
        let mut value: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option's value is an int; `value` is one, and `len` says so.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                ptr::from_mut(&mut value).cast(),
                &mut len,
            )
        };
        result == 0
    }

    /// `UDP_SEGMENT` as control data: a header, and the length as 16 bits.
    fn segment_control(segment_len: usize) -> Control {
        let mut control = Control([0; CONTROL_LEN]);
        // SAFETY: all bytes zero is a valid value of this struct of integers (and padding).
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        header.cmsg_len = (CONTROL_HEADER_LEN + size_of::<u16>()) as _;
        // SAFETY: a block has room for a header and is aligned for one.
        unsafe {
            ptr::from_mut(&mut control)
                .cast::<libc::cmsghdr>()
                .write(header)
        };
        // A datagram is no longer than 65 507 bytes; a longer one the kernel refuses in any case.
        let len = u16::try_from(segment_len).unwrap_or(u16::MAX).to_ne_bytes();
        control.0[CONTROL_HEADER_LEN..CONTROL_HEADER_LEN + len.len()].copy_from_slice(&len);
        control
    }

    /// Where the value starts (`CMSG_LEN(0)`): the header is as long as its alignment asks for.
    const CONTROL_HEADER_LEN: usize = size_of::<libc::cmsghdr>();
    /// `CMSG_SPACE` of 16 bits.
    const CONTROL_LEN: usize = CONTROL_HEADER_LEN + size_of::<usize>();
    /// How many messages in a row are refused before none is made any more.
    const REFUSED_MAX: u32 = 32;

    fn write_name(name: &mut Name, to: SocketAddr) -> usize {
        match to {
            SocketAddr::V4(v4) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                size_of::<libc::sockaddr_in6>()
            }
        }
    }

    fn read_name(name: &Name) -> Option<SocketAddr> {
        // SAFETY: every variant is made of integers, for which any bytes are valid, and all bytes of
        // the union were initialised at first; the kernel wrote the variant that `family`, the first
        // field of each, names.
        unsafe {
            match libc::c_int::from(name.family) {
                libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from(name.v4.sin_addr.s_addr.to_ne_bytes()),
                    u16::from_be(name.v4.sin_port),
                ))),
                libc::AF_INET6 => Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(name.v6.sin6_addr.s6_addr),
                    u16::from_be(name.v6.sin6_port),
                    0,
                    name.v6.sin6_scope_id,
                ))),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::BytesMut;

    use super::*;
    use crate::io::udp_portable as portable;

    const LOOPBACK: &str = "127.0.0.1";

    fn socket(ip: &str) -> UdpSocket {
        UdpSocket::bind(ip.parse().unwrap(), 0).unwrap()
    }

    /// Containers often have no IPv6, not even its loopback address.
    fn has_ipv6() -> bool {
        std::net::UdpSocket::bind("[::1]:0").is_ok()
    }

    fn loopback(socket: &UdpSocket, ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), socket.local_addr().port())
    }

    /// Receives until `count` datagrams were taken from the kernel, which on loopback takes no time.
    fn receive(
        socket: &mut UdpSocket,
        count: usize,
        recv: impl Fn(&mut UdpSocket, &mut RecvBatch) -> io::Result<usize>,
    ) -> (Vec<(SocketAddr, BytesMut)>, u64) {
        let mut batch = RecvBatch::default();
        let (mut taken, mut datagrams) = (0, Vec::new());
        let deadline = Instant::now() + Duration::from_secs(5);
        while taken < count && Instant::now() < deadline {
            taken += recv(socket, &mut batch).unwrap_or(0);
            datagrams.extend(batch.drain());
        }
        (datagrams, batch.take_truncated())
    }

    #[test]
    fn batches_larger_than_a_call_arrive_whole_and_in_order() {
        for (from_ip, to_ip) in [(LOOPBACK, LOOPBACK), ("::", LOOPBACK), ("::1", "::1")] {
            if to_ip == "::1" && !has_ipv6() {
                continue;
            }
            let (mut a, mut b) = (socket(from_ip), socket(to_ip));
            let to = loopback(&b, to_ip);
            let payloads: Vec<Vec<u8>> = (0..150u8).map(|n| vec![n; 1 + usize::from(n)]).collect();
            let report = a.send_batch(payloads.iter().map(|p| (to, &p[..])));
            assert_eq!((report.sent, report.failed), (150, 0));
            let (datagrams, truncated) = receive(&mut b, 150, UdpSocket::recv_batch);
            assert_eq!(truncated, 0);
            assert!(datagrams.iter().map(|(_, d)| &d[..]).eq(payloads.iter()));
            let from = loopback(&a, to_ip);
            assert!(datagrams.iter().all(|(f, _)| *f == from), "{from_ip}");
            assert_eq!(b.recv_batch(&mut RecvBatch::default()).unwrap(), 0);
        }
    }

    #[test]
    fn a_dual_stack_socket_tells_ipv4_addresses_as_such() {
        if !has_ipv6() {
            return;
        }
        let (mut dual, mut v4, mut v6) = (socket("::"), socket(LOOPBACK), socket("::1"));
        v4.send_batch([(loopback(&dual, LOOPBACK), &b"4"[..])]);
        v6.send_batch([(loopback(&dual, "::1"), &b"6"[..])]);
        let (mut datagrams, _) = receive(&mut dual, 2, UdpSocket::recv_batch);
        datagrams.sort();
        let sources: Vec<SocketAddr> = datagrams.iter().map(|(from, _)| *from).collect();
        assert_eq!(sources, [v4.local_addr(), v6.local_addr()]);
        let report = dual.send_batch(datagrams.iter().map(|(from, d)| (*from, &d[..])));
        assert_eq!(report.sent, 2);
        assert_eq!(receive(&mut v4, 1, UdpSocket::recv_batch).0[0].1, b"4"[..]);
        assert_eq!(receive(&mut v6, 1, UdpSocket::recv_batch).0[0].1, b"6"[..]);
    }

    #[test]
    fn too_long_datagrams_are_dropped_and_counted() {
        type Recv = fn(&mut UdpSocket, &mut RecvBatch) -> io::Result<usize>;
        let cases: [(Recv, usize); 2] = [
            (UdpSocket::recv_batch, DATAGRAM_MAX),
            (
                |s, batch| portable::Arrays.recv(&s.socket, batch),
                DATAGRAM_MAX - 1,
            ),
        ];
        for (recv, longest) in cases {
            let (mut a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
            let to = b.local_addr();
            let payload = [7; DATAGRAM_MAX + 1];
            let datagrams = [&payload[..], &payload[..longest], &[], &payload[..3]];
            assert_eq!(a.send_batch(datagrams.map(|d| (to, d))).sent, 4);
            let (received, truncated) = receive(&mut b, 4, recv);
            let lengths: Vec<usize> = received.iter().map(|(_, d)| d.len()).collect();
            assert_eq!((lengths, truncated), (vec![longest, 0, 3], 1));
        }
    }

    #[test]
    fn a_poisoned_datagram_does_not_stop_the_others() {
        let too_long = vec![0; 70_000];
        let (mut a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = b.local_addr();
        let datagrams = [
            (to, &b"first"[..]),
            (to, &too_long[..]),
            ("[2001:db8::1]:9".parse().unwrap(), &b"other family"[..]),
            (to, &b"last"[..]),
        ];
        let expected = SendReport {
            sent: 2,
            failed: 2,
            ..SendReport::default()
        };
        assert_eq!(a.send_batch(datagrams), expected);
        let messages = datagrams[..2].iter().map(|d| Transmit::from(*d));
        let mut sender = portable::Sender::new(&a.socket);
        assert!(!sender.can_segment());
        let report = sender.send(&a.socket, messages);
        assert_eq!((report.sent, report.failed), (1, 1));
        let (received, _) = receive(&mut b, 3, UdpSocket::recv_batch);
        let texts: Vec<&[u8]> = received.iter().map(|(_, d)| &d[..]).collect();
        assert_eq!(texts, [&b"first"[..], b"last", b"first"]);
    }

    /// Ten datagrams of `segment_len` bytes and a shorter one, as one message.
    fn segments(segment_len: usize) -> Vec<u8> {
        let len = 10 * segment_len + segment_len / 2;
        (0..len).map(|at| (at / segment_len) as u8).collect()
    }

    #[test]
    fn datagrams_of_one_message_arrive_apart_and_in_order() {
        for (from_ip, to_ip) in [(LOOPBACK, LOOPBACK), ("::", LOOPBACK), ("::1", "::1")] {
            if to_ip == "::1" && !has_ipv6() {
                continue;
            }
            let (mut a, mut b) = (socket(from_ip), socket(to_ip));
            let to = loopback(&b, to_ip);
            let (long, short) = (segments(1200), segments(100));
            let message = |bytes, segment_len| Transmit {
                to,
                bytes,
                segment_len,
            };
            let messages = [message(&long[..], 1200), message(&short, 100)];
            let expected: Vec<&[u8]> = long.chunks(1200).chain(short.chunks(100)).collect();
            let one_by_one = cfg!(not(target_os = "linux"));
            for stopped in [false, true] {
                if stopped {
                    a.tx.stop_segmenting();
                }
                assert_eq!(a.can_segment(), !stopped && !one_by_one);
                let report = a.send_batch(messages);
                assert_eq!((report.sent, report.split), (22, 0), "{report:?}");
                let (datagrams, _) = receive(&mut b, 22, UdpSocket::recv_batch);
                assert!(
                    datagrams
                        .iter()
                        .map(|(_, d)| &d[..])
                        .eq(expected.iter().copied())
                );
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_message_that_the_kernel_refuses_is_sent_one_by_one() {
        let (mut a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = b.local_addr();
        // More segments than any kernel takes (128 since 6.9), so this is EINVAL.
        let many = [7; 200];
        let long = segments(1000);
        let message = |bytes, segment_len| Transmit {
            to,
            bytes,
            segment_len,
        };
        let report = a.send_batch([message(&many[..], 1), message(&long, 1000)]);
        assert_eq!((report.sent, report.split), (211, 1), "{report:?}");
        assert!(a.can_segment(), "one destination does not spoil it");
        let (datagrams, _) = receive(&mut b, 211, UdpSocket::recv_batch);
        assert_eq!(datagrams.len(), 211);
        for _ in 0..40 {
            let report = a.send_batch([message(&many[..], 1)]);
            assert_eq!((report.sent, report.failed), (200, 0));
            receive(&mut b, 200, UdpSocket::recv_batch);
        }
        assert!(!a.can_segment(), "many in a row do");
        assert_eq!(a.send_batch([message(&long[..], 1000)]).sent, 11);
    }
}
