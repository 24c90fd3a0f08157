//! UDP in batches: up to 64 messages a system call, and in each as many datagrams as the kernel takes
//! (`UDP_SEGMENT`) or has put together (`UDP_GRO`).
//!
//! The only file with `unsafe` code: `recvmmsg` and `sendmmsg` take arrays of pointers, control messages
//! are written into and read from memory, and some socket options have no safe wrapper. Elsewhere than
//! on Linux the same is done one datagram a call. Knows nothing of what is in a datagram.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::io::dual_stack::{bind_or_fall_back, is_every_address};
use crate::io::steer_program::Instruction;
pub use crate::io::udp_batch::{BATCH_MAX, DATAGRAM_MAX, RecvBatch, SendReport};
use crate::io::udp_batch::{for_family, is_about_another};
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
    rx: platform::RecvArrays,
    tx: platform::Sender,
    /// As the kernel last told it, which wraps.
    drops_told: u32,
    drops: u64,
}

/// The sockets of one port, as the kernel chooses among them.
#[derive(Debug)]
pub struct PortGroup(mio::net::UdpSocket);

/// How large the kernel made a socket's buffers, in bytes as it accounts them (Linux counts its own
/// bookkeeping too and reports twice what was asked for).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams that wait to be received.
    pub receive: usize,
    /// For datagrams that wait to be sent.
    pub send: usize,
}

impl BufferSizes {
    /// What was asked for, as the kernel would report it had it given all.
    pub const WANTED: Self = Self {
        receive: SOCKET_BUFFER * REPORTED_FACTOR,
        send: SOCKET_BUFFER * REPORTED_FACTOR,
    };
}

/// See [`BufferSizes`].
const REPORTED_FACTOR: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

impl UdpSocket {
    /// Binds a socket. `::` takes IPv4 too, and stands for `0.0.0.0` where there is no IPv6. Port 0
    /// is any free port.
    ///
    /// # Errors
    /// What the system says: the port is taken, the address is not of this machine.
    pub fn bind(ip: IpAddr, port: u16) -> io::Result<Self> {
        bind_or_fall_back(SocketAddr::new(ip, port), |address| {
            Self::bind_at(address, false)
        })
    }

    /// Binds `count` sockets, at least one, to one port (`SO_REUSEPORT`). The kernel gives each datagram
    /// to one of them, the same for the same source. Like [`UdpSocket::bind`] otherwise: a port that
    /// another process has is refused, though it shares its port too.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind_group(ip: IpAddr, port: u16, count: usize) -> io::Result<Vec<Self>> {
        // The first is bound alone and made ready to share only then; that is what refuses a port that
        // somebody else shares, or that the system chooses for two.
        let first = Self::bind(ip, port)?;
        SockRef::from(&first.socket).set_reuse_port(true)?;
        let address = first.local;
        let mut group = vec![first];
        while group.len() < count {
            group.push(Self::bind_at(address, true)?);
        }
        Ok(group)
    }

    /// A handle on the group of sockets that [`UdpSocket::bind_group`] made.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn port_group(&self) -> io::Result<PortGroup> {
        let twin = SockRef::from(&self.socket).try_clone()?;
        Ok(PortGroup(mio::net::UdpSocket::from_std(twin.into())))
    }

    fn bind_at(address: SocketAddr, is_shared: bool) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!is_every_address(address))?;
        }
        if is_shared {
            socket.set_reuse_port(true)?;
        }
        // What was got is reported; a smaller buffer is no reason not to start.
        if !platform::force_buffers(&socket, SOCKET_BUFFER) {
            let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
            let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        }
        let buffer_sizes = BufferSizes {
            receive: socket.recv_buffer_size()?,
            send: socket.send_buffer_size()?,
        };
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = mio::net::UdpSocket::from_std(socket.into());
        platform::set_gro(&socket, true);
        Ok(Self {
            local: socket.local_addr()?,
            buffer_sizes,
            rx: platform::RecvArrays::default(),
            tx: platform::Sender::new(&socket),
            socket,
            drops_told: 0,
            drops: 0,
        })
    }

    /// Takes datagrams one by one, as a browser's socket does. On loopback a sender's segmented message otherwise goes
    /// through uncut, which makes the sender look cheaper than it is.
    pub fn disable_coalescing(&self) {
        platform::set_gro(&self.socket, false);
    }

    /// Has the kernel tell of each datagram when it arrived here (`SO_TIMESTAMPNS`), however long it waits to be received:
    /// see [`RecvBatch::take_arrivals`].
    ///
    /// # Errors
    /// The system has no such times.
    pub fn tell_arrivals(&self) -> io::Result<()> {
        platform::tell_arrivals(&self.socket)
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

    /// How many datagrams the kernel has dropped at this socket, because its buffer was full or their
    /// checksum wrong. 0 where the system does not tell. One system call.
    pub fn kernel_drops(&mut self) -> u64 {
        if let Some(told) = platform::drops(&self.socket) {
            self.drops += u64::from(told.wrapping_sub(self.drops_told));
            self.drops_told = told;
        }
        self.drops
    }

    /// Receives up to [`BATCH_MAX`] messages into `batch`, which must have been drained. Says how
    /// many were taken from the kernel, those too long and thus dropped included: 0 means that none
    /// is left and the poll will tell of the next one. Each is one datagram, or several that the kernel
    /// had put together.
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

    /// Sends messages in order, up to [`BATCH_MAX`] a system call, and never allocates. What
    /// does not fit the kernel's buffer is dropped: media that waits is worth less than the media behind
    /// it. Short datagrams, as sound is, are tried for a millisecond before that.
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

impl PortGroup {
    /// Lets `program` choose the socket of each datagram from now on, instead of a hash of its addresses.
    /// The sockets count from 0 in the order in which they were bound. Replaces the program before.
    ///
    /// # Errors
    /// What the system says: it knows no such programs, or this one is too long for it.
    pub fn attach(&self, program: &[Instruction]) -> io::Result<()> {
        platform::attach(&self.0, program)
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

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;
    use std::io;
    use std::mem::{self, size_of, size_of_val};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
    use std::os::fd::{AsRawFd, RawFd};
    use std::ptr;
    use std::time::{Duration, SystemTime};

    use crate::io::steer_program::Instruction;
    use crate::io::udp_batch::{
        BATCH_MAX, Patience, RecvBatch, SLOT_MAX, Segmentation, SendReport, Wire, rescue,
        short_ones, transmit,
    };
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
        patience: Patience,
    }

    /// Control data of one message, aligned as the kernel wants it: how long each datagram is, told to the
    /// kernel as 16 bits (`UDP_SEGMENT`) and by it as an integer (`UDP_GRO`).
    #[derive(Debug, Clone, Copy)]
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_LEN]);

    impl Sender {
        pub(in crate::io::udp) fn new(socket: &mio::net::UdpSocket) -> Self {
            // A kernel before 4.18 does not know the option; it would send one long datagram instead.
            let segmentation = if knows_segments(socket) {
                Segmentation::START
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
                patience: Patience::FULL,
            }
        }

        pub(in crate::io::udp) fn can_segment(&self) -> bool {
            self.segmentation != Segmentation::Off
        }

        #[cfg(test)]
        pub(in crate::io::udp) fn stop_segmenting(&mut self) {
            self.segmentation = Segmentation::Off;
        }

        /// What becomes of messages, a batch at most, that find the kernel's buffer full.
        #[cfg(test)]
        pub(in crate::io::udp) fn drop_all<'a>(
            &mut self,
            socket: &mio::net::UdpSocket,
            messages: impl Iterator<Item = Transmit<'a>>,
        ) -> SendReport {
            let messages = messages.enumerate();
            let count = messages.map(|(at, message)| self.point(at, &message));
            let (count, fd) = (count.count(), socket.as_raw_fd());
            let mut call = Call {
                fd,
                sender: self,
                count,
            };
            call.drop_from(0)
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
                let batch = transmit(&datagrams[..count], &mut call);
                if batch.dropped_full == 0 {
                    self.patience = Patience::FULL;
                }
                report += batch;
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
            let whole = arrays.iovecs[offset];
            let name = arrays.names[offset];
            segmentation.on_refused(read_name(&name), error);
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

        #[cold]
        fn drop_from(&mut self, offset: usize) -> SendReport {
            let (datagrams, count) = self.point_at_short(offset);
            let (fd, sender) = (self.fd, &mut *self.sender);
            let send = |at: usize| {
                // SAFETY: `Call::point_at_short` has just written these headers. Each points at one name and one iovec in
                // `Sender::singles`, whose bytes lie within those of a message, which are borrowed by whoever made the
                // call that this one is. There is no control data.
                unsafe { sendmmsg(fd, &mut sender.singles.headers[at..count]) }
            };
            let mut report = rescue(count, &mut sender.patience, send, std::thread::sleep);
            report.dropped_full += datagrams - count as u64;
            report
        }
    }

    impl Call<'_> {
        /// How many datagrams the messages from `offset` on have, and points `singles` at the first of them that are short, a
        /// batch at most. Says how many these are.
        fn point_at_short(&mut self, offset: usize) -> (u64, usize) {
            let Sender {
                arrays,
                segment_lens,
                singles,
                counts,
                ..
            } = &mut *self.sender;
            let mut count = 0;
            let messages = segment_lens[..self.count].iter().enumerate();
            for (message, segment_len) in messages.skip(offset) {
                let whole = arrays.iovecs[message];
                let name_len = arrays.headers[message].msg_hdr.msg_namelen;
                let short = short_ones(whole.iov_len, *segment_len);
                for range in short.take(BATCH_MAX - count) {
                    singles.names[count] = arrays.names[message];
                    let data = whole.iov_base.cast::<u8>().wrapping_add(range.start);
                    singles.point(count, data, range.len(), name_len as usize);
                    count += 1;
                }
            }
            let datagrams = counts[offset..self.count].iter().copied();
            (datagrams.map(u64::from).sum(), count)
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

        fn drop_from(&mut self, offset: usize) -> SendReport {
            let dropped_full = (self.headers.len() - offset) as u64;
            SendReport {
                dropped_full,
                ..SendReport::default()
            }
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
    /// `CMSG_SPACE` of 16 bits, and of an integer.
    const CONTROL_LEN: usize = CONTROL_HEADER_LEN + size_of::<usize>();
    /// What `recvmmsg` takes, allocated once.
    pub(in crate::io::udp) struct RecvArrays {
        messages: Arrays,
        controls: Box<[RecvControl]>,
    }

    /// Room for what the kernel tells of one received message, aligned as it wants it: how long each datagram is
    /// (`UDP_GRO`), and when it came (`SO_TIMESTAMPNS`).
    #[derive(Debug, Clone, Copy)]
    #[repr(C, align(8))]
    struct RecvControl([u8; RECV_CONTROL_LEN]);

    /// `CMSG_SPACE` of an integer, and of a time.
    const RECV_CONTROL_LEN: usize = CONTROL_LEN + CONTROL_HEADER_LEN + size_of::<libc::timespec>();

    impl Default for RecvArrays {
        fn default() -> Self {
            Self {
                messages: Arrays::default(),
                controls: vec![RecvControl([0; RECV_CONTROL_LEN]); BATCH_MAX].into(),
            }
        }
    }

    impl fmt::Debug for RecvArrays {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("RecvArrays").finish_non_exhaustive()
        }
    }

    impl RecvArrays {
        /// One `recvmmsg`.
        pub(in crate::io::udp) fn recv(
            &mut self,
            socket: &mio::net::UdpSocket,
            batch: &mut RecvBatch,
        ) -> io::Result<usize> {
            let mut count = 0;
            for slot in batch.slots_mut() {
                let name_len = size_of::<Name>();
                self.messages
                    .point(count, slot.as_mut_ptr(), SLOT_MAX, name_len);
                let header = &mut self.messages.headers[count].msg_hdr;
                header.msg_control = ptr::from_mut(&mut self.controls[count]).cast();
                header.msg_controllen = RECV_CONTROL_LEN as _;
                count += 1;
            }
            // SAFETY: the first `count` headers have just been written. Each points at a name and at control data
            // of the lengths it says, in `self`, and at one iovec with a slot of the scratch block of its
            // own, which is SLOT_MAX long; all of it outlives the call. There is no timeout.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.messages.headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
            for index in 0..received {
                let header = &self.messages.headers[index];
                let len = header.msg_len as usize;
                let is_truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
                match read_name(&self.messages.names[index]) {
                    Some(from) if !is_truncated => {
                        let Told { segment, arrived } = told(&header.msg_hdr);
                        batch.take(from, index, len, segment.unwrap_or(len), arrived);
                    }
                    _ => batch.truncated += 1,
                }
            }
            Ok(received)
        }
    }

    /// What the kernel tells of a received message.
    #[derive(Debug, Default)]
    struct Told {
        /// How long its datagrams are, all but the last, if the kernel put several together.
        segment: Option<usize>,
        /// When it arrived, if it was asked to tell that.
        arrived: Option<SystemTime>,
    }

    fn told(header: &libc::msghdr) -> Told {
        let mut told = Told::default();
        // SAFETY: the kernel has filled in `msg_control` and `msg_controllen`, of which the pointers that
        // CMSG_FIRSTHDR and CMSG_NXTHDR return are inside; the data is read as bytes, whatever its place.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(header);
            while !at.is_null() {
                match ((*at).cmsg_level, (*at).cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let len: libc::c_int = ptr::read_unaligned(libc::CMSG_DATA(at).cast());
                        told.segment = usize::try_from(len).ok();
                    }
                    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) => {
                        let time: libc::timespec = ptr::read_unaligned(libc::CMSG_DATA(at).cast());
                        let since = Duration::new(
                            time.tv_sec.unsigned_abs(),
                            time.tv_nsec.unsigned_abs() as u32,
                        );
                        told.arrived = Some(SystemTime::UNIX_EPOCH + since);
                    }
                    _ => {}
                }
                at = libc::CMSG_NXTHDR(header, at);
            }
        }
        told
    }

    /// Has the kernel tell when each datagram arrived. Its clock is that of [`SystemTime`].
    pub(in crate::io::udp) fn tell_arrivals(socket: &mio::net::UdpSocket) -> io::Result<()> {
        set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
    }

    /// Asks the kernel to put datagrams of one source together where it can (Linux 5.0), or not to.
    pub(in crate::io::udp) fn set_gro(socket: &mio::net::UdpSocket, is_on: bool) {
        // Without it every message is one datagram, and nothing else changes.
        let _ = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, &i32::from(is_on));
    }

    /// Sets both buffers beyond the system's limits, which needs CAP_NET_ADMIN; says whether it could.
    pub(in crate::io::udp) fn force_buffers(socket: &socket2::Socket, bytes: usize) -> bool {
        use rustix::net::sockopt;
        sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_ok()
            && sockopt::set_socket_send_buffer_size_force(socket, bytes).is_ok()
    }

    /// The kernel's count of datagrams dropped at a socket (Linux 4.12).
    pub(in crate::io::udp) fn drops(socket: &mio::net::UdpSocket) -> Option<u32> {
        let mut numbers = [0_u32; SK_MEMINFO_DROPS + 1];
        let mut len = size_of_val(&numbers) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of `numbers`, of which any bytes are valid.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let is_whole = result == 0 && len as usize == size_of_val(&numbers);
        is_whole.then_some(numbers[SK_MEMINFO_DROPS])
    }

    /// Has a classic BPF program choose among the sockets of a port (Linux 4.5). Needs no privilege.
    pub(in crate::io::udp) fn attach(
        socket: &mio::net::UdpSocket,
        program: &[Instruction],
    ) -> io::Result<()> {
        let mut filter: Vec<libc::sock_filter> = program
            .iter()
            .map(|i| libc::sock_filter {
                code: i.code,
                jt: i.jt,
                jf: i.jf,
                k: i.k,
            })
            .collect();
        let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // The kernel copies the instructions, which `filter` holds until then, and checks them.
        let program = libc::sock_fprog {
            len,
            filter: filter.as_mut_ptr(),
        };
        set_option(socket, libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program)
    }

    pub(in crate::io::udp) fn set_option<T>(
        socket: &mio::net::UdpSocket,
        level: libc::c_int,
        name: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        // SAFETY: `value` is a plain C value of the size told, alive during the call. What a pointer inside
        // it leads to, its caller keeps alive.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// asm-generic/socket.h; `libc` has neither. Where a system numbers them otherwise, it refuses them.
    const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
    const SO_MEMINFO: libc::c_int = 55;
    /// linux/sock_diag.h: the last number of `SO_MEMINFO`.
    const SK_MEMINFO_DROPS: usize = 8;

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

    /// Receives until there are `count` datagrams, those too long included, which on loopback takes no time.
    fn receive(
        socket: &mut UdpSocket,
        count: usize,
        recv: impl Fn(&mut UdpSocket, &mut RecvBatch) -> io::Result<usize>,
    ) -> (Vec<(SocketAddr, BytesMut)>, u64) {
        let mut batch = RecvBatch::default();
        let mut datagrams = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while datagrams.len() + (batch.truncated as usize) < count && Instant::now() < deadline {
            // An error is that of a datagram sent before.
            let _ = recv(socket, &mut batch);
            while !batch.is_empty() {
                datagrams.extend(batch.drain());
            }
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
    #[cfg(target_os = "linux")]
    fn arrivals_are_told_where_they_were_asked_for() {
        use std::time::SystemTime;
        let (mut a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
        b.tell_arrivals().unwrap();
        let to = b.local_addr();
        let mut batch = RecvBatch::default();
        // The kernel begins some time after it was asked to; until then it tells when a datagram was received.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let before = SystemTime::now();
            a.send_batch([(to, &b"one"[..]), (to, &b"another"[..])]);
            let after = SystemTime::now();
            std::thread::sleep(Duration::from_millis(20));
            b.recv_batch(&mut batch).unwrap();
            let arrivals = batch.take_arrivals();
            assert_eq!((arrivals.len(), batch.drain().len()), (2, 2));
            if arrivals.iter().all(|at| (before..=after).contains(at)) {
                break;
            }
            assert!(Instant::now() < deadline, "{after:?} {arrivals:?}");
        }
        b.send_batch([(a.local_addr(), &b"back"[..])]);
        while a.recv_batch(&mut batch).unwrap() == 0 {}
        assert!(batch.take_arrivals().is_empty());
    }

    #[test]
    fn too_long_datagrams_are_dropped_and_counted() {
        type Recv = fn(&mut UdpSocket, &mut RecvBatch) -> io::Result<usize>;
        let cases: [(Recv, usize); 2] = [
            (UdpSocket::recv_batch, DATAGRAM_MAX),
            (
                |s, batch| portable::RecvArrays.recv(&s.socket, batch),
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
    fn of_what_finds_a_full_buffer_the_short_ones_go_out() {
        let (mut sender, mut receiver) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = receiver.local_addr();
        let picture = [1; 1000];
        let mut outbox = crate::transport::outbox::Outbox::default();
        // Pictures with sound at their end, sound alone, pictures with sound, sound alone.
        for len in [1000, 1000, 120, 90, 1000, 1000, 80, 70] {
            outbox.push(to, &picture[..len]);
        }
        assert_eq!(outbox.messages().len(), 4);
        let report = sender.tx.drop_all(&sender.socket, outbox.messages());
        let expected = SendReport {
            sent: 4,
            dropped_full: 4,
            ..SendReport::default()
        };
        assert_eq!(report, expected);
        let (received, _) = receive(&mut receiver, 4, UdpSocket::recv_batch);
        let lens: Vec<usize> = received.iter().map(|(_, d)| d.len()).collect();
        assert_eq!(lens, [120, 90, 80, 70]);
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
        for last in 0..40 {
            assert!(a.can_segment() || last > 30);
            for _ in 0..2 {
                let elsewhere = SocketAddr::from(([127, 1, 1, last], 9));
                let refused = Transmit {
                    to: elsewhere,
                    ..message(&many[..], 1)
                };
                assert_eq!(a.send_batch([refused]).sent, 200);
            }
        }
        assert!(!a.can_segment(), "many in a row do");
        assert_eq!(a.send_batch([message(&long[..], 1000)]).sent, 11);
    }

    #[test]
    fn a_group_shares_a_port_with_itself_only() {
        let ip = LOOPBACK.parse().unwrap();
        let group = UdpSocket::bind_group(ip, 0, 3).unwrap();
        let port = group[0].local_addr().port();
        assert!(group.iter().all(|s| s.local_addr().port() == port));
        for result in [
            UdpSocket::bind(ip, port).map(|_| ()),
            UdpSocket::bind_group(ip, port, 2).map(|_| ()),
        ] {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    /// Sends from every client to the group, and says how much reached the socket that `owner` names.
    #[cfg(target_os = "linux")]
    fn received_by_owner(
        clients: &mut [UdpSocket],
        group: &mut [UdpSocket],
        to: SocketAddr,
        owner: impl Fn(usize) -> usize,
    ) -> usize {
        for client in clients.iter_mut() {
            assert_eq!(client.send_batch([(to, &b"hello"[..])]).sent, 1);
        }
        let ports: Vec<u16> = clients.iter().map(|c| c.local_addr().port()).collect();
        let (mut all, mut right) = (0, 0);
        for (index, socket) in group.iter_mut().enumerate() {
            let mut batch = RecvBatch::default();
            while socket.recv_batch(&mut batch).unwrap() > 0 {
                for (from, _) in batch.drain() {
                    let client = ports.iter().position(|port| *port == from.port());
                    all += 1;
                    right += usize::from(owner(client.expect("a client")) == index);
                }
            }
        }
        assert_eq!(all, clients.len());
        right
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_follows_a_steering_program() {
        use crate::io::steer_program::compile;

        for (bind, ip) in [(LOOPBACK, LOOPBACK), ("::", LOOPBACK), ("::1", "::1")] {
            if bind != LOOPBACK && !has_ipv6() {
                continue;
            }
            let mut group = UdpSocket::bind_group(bind.parse().unwrap(), 0, 3).unwrap();
            let to = loopback(&group[0], ip);
            let mut clients: Vec<UdpSocket> = (0..24).map(|_| socket(ip)).collect();
            let ports = group[0].port_group().unwrap();
            // Each program replaces the one before.
            for shift in 0..3 {
                let owner = move |client: usize| (client + shift) % 3;
                let addresses = clients.iter().enumerate();
                let table = addresses.map(|(n, c)| (c.local_addr(), owner(n) as u16));
                ports.attach(&compile(table)).unwrap();
                let right = received_by_owner(&mut clients, &mut group, to, owner);
                assert_eq!(right, clients.len(), "{bind}");
            }
            // Whom the program does not know, the kernel's hash places.
            ports.attach(&compile([])).unwrap();
            let all_first = received_by_owner(&mut clients, &mut group, to, |_| 0);
            assert!(all_first < clients.len(), "one of 3^24 times");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn datagrams_that_the_kernel_put_together_are_cut_apart() {
        let (a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = b.local_addr();
        linux::set_option(&a.socket, libc::SOL_UDP, libc::UDP_SEGMENT, &100_i32).unwrap();
        let payload: Vec<u8> = (0..950_u32).map(|n| (n / 100) as u8).collect();
        a.socket.send_to(&payload, to).unwrap();
        let mut batch = RecvBatch::default();
        let deadline = Instant::now() + Duration::from_secs(5);
        while batch.len() < 10 && Instant::now() < deadline {
            b.recv_batch(&mut batch).unwrap();
        }
        let datagrams: Vec<_> = batch.drain().collect();
        assert_eq!(datagrams.len(), 10);
        for (n, (from, datagram)) in datagrams.iter().enumerate() {
            let len = if n == 9 { 50 } else { 100 };
            assert_eq!(
                (*from, &datagram[..]),
                (a.local_addr(), &vec![n as u8; len][..])
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_kernel_drops_is_counted() {
        let (mut a, mut b) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = b.local_addr();
        assert_eq!(b.kernel_drops(), 0);
        SockRef::from(&b.socket).set_recv_buffer_size(4096).unwrap();
        let payload = [0; 1000];
        assert_eq!(a.send_batch([(to, &payload[..]); 100]).sent, 100);
        let (received, _) = receive(&mut b, 1, UdpSocket::recv_batch);
        assert!(received.len() < 100);
        assert_eq!(b.kernel_drops(), 100 - received.len() as u64);
        assert_eq!(b.kernel_drops(), 100 - received.len() as u64, "told once");
    }
}
