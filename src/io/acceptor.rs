//! The listening socket: gives each connection a thread, up to a bound, and ends them all at shutdown.
//!
//! Knows nothing of what is spoken on a connection, except the answer to one too many.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use crate::base::time::earliest;
use crate::control::Event;
use crate::io::connection::Connection;
use crate::io::dual_stack::{bind_or_fall_back, is_every_address};
use crate::io::http::{Response, Status};
use crate::io::mailbox::Mailbox;
use crate::io::signaling_thread::{self, Backend, Limits, Shared};
use crate::io::stats::Stats;
use crate::signaling::session::SessionConfig;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// The stack of a connection's thread, in bytes: the deepest call there parses JSON of depth 32.
const STACK: usize = 256 << 10;

/// How long the acceptor rests when the system has no descriptors or threads left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused connection is kept so that its client can read why, and how many are.
const REFUSED_KEPT: Duration = Duration::from_millis(500);
const REFUSED_MAX: usize = 64;

/// How long connections may take to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A bound listening socket.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    local: SocketAddr,
}

/// A running acceptor and its connections.
#[derive(Debug)]
pub struct AcceptorHandle {
    thread: JoinHandle<usize>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Acceptor {
    /// Binds. `[::]` takes IPv4 too, and stands for `0.0.0.0` where there is no IPv6. Port 0 is any
    /// free port.
    ///
    /// # Errors
    /// What the system says: the port is taken, the address is not of this machine.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        bind_or_fall_back(address, |address| {
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(!is_every_address(address))?;
            }
            // A restart must not wait for the last run's connections to time out.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into());
            Ok(Self {
                local: listener.local_addr()?,
                listener,
            })
        })
    }

    /// Where the socket is bound: the port is the real one, the address may be unspecified.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Starts to accept.
    ///
    /// # Errors
    /// What the system says if it has no descriptor or thread left.
    pub fn start(
        mut self,
        backend: Arc<dyn Backend>,
        session_config: Arc<SessionConfig>,
        limits: Limits,
    ) -> io::Result<AcceptorHandle> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        poll.registry()
            .register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        // Every connection says once that it ended, one that got no thread too: there is always room.
        let (ended_tx, ended_rx) = bounded(limits.connections_max + 1);
        let accepting = Accepting {
            listener: self.listener,
            waker: Arc::clone(&waker),
            stop: Arc::clone(&stop),
            shared: Arc::new(Shared {
                backend,
                session_config,
                limits,
                stats: Stats::default(),
            }),
            live: HashMap::new(),
            by_source: HashMap::new(),
            next: 0,
            ended_tx,
            ended_rx,
            refused: VecDeque::new(),
            retry: None,
        };
        let thread = thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || accepting.run(poll))?;
        Ok(AcceptorHandle {
            thread,
            stop,
            waker,
        })
    }
}

impl AcceptorHandle {
    /// Closes the listening socket, tells every connection that the server is stopping and waits for
    /// their threads, at most 3 s. Says how many did not end in time.
    pub fn shutdown(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "could not wake the acceptor");
            return 0;
        }
        self.thread.join().unwrap_or_else(|_| {
            tracing::error!("the acceptor had panicked");
            0
        })
    }
}

/// A connection that has a thread.
struct Live {
    mailbox: Arc<Mailbox>,
    thread: JoinHandle<()>,
    source: IpAddr,
}

/// What the acceptor's thread owns.
struct Accepting {
    listener: TcpListener,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    live: HashMap<u64, Live>,
    /// How many of them each source has: one at least.
    by_source: HashMap<IpAddr, usize>,
    next: u64,
    ended_tx: Sender<u64>,
    ended_rx: Receiver<u64>,
    /// Connections over the bound that were answered, oldest first, and when they are closed.
    refused: VecDeque<(Instant, TcpStream)>,
    /// When to accept again, after the system had nothing left.
    retry: Option<Instant>,
}

impl Accepting {
    /// Accepts until told to stop; says how many connections did not end in time.
    fn run(mut self, mut poll: Poll) -> usize {
        let mut events = Events::with_capacity(8);
        while !self.stop.load(Ordering::SeqCst) {
            let due = earliest(self.retry, self.refused.front().map(|(due, _)| *due));
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            if let Err(error) = poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the acceptor cannot wait");
                thread::sleep(EXHAUSTED_PAUSE);
            }
            let now = Instant::now();
            self.reap();
            self.close_refused(now);
            let is_retry_due = self.retry.is_some_and(|due| due <= now);
            if is_retry_due || events.iter().any(|event| event.token() == LISTENER) {
                self.accept_all(now);
            }
        }
        self.shut_down()
    }

    fn accept_all(&mut self, now: Instant) {
        self.retry = None;
        loop {
            // One who ended makes room for one who waits.
            self.reap();
            match self.listener.accept() {
                Ok((stream, from)) => self.admit(stream, source(from.ip()), now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // This client has gone already.
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    _ => {
                        tracing::warn!(%error, "cannot accept connections for now");
                        self.retry = Some(now + EXHAUSTED_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, source: IpAddr, now: Instant) {
        let limits = &self.shared.limits;
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        let per_source = limits.connections_per_source_max;
        if self.live.len() >= limits.connections_max || per_source.is_some_and(|m| of_source >= m) {
            return self.refuse(stream, now);
        }
        if let Err(error) = self.spawn(stream, source) {
            tracing::warn!(%error, "cannot serve a connection");
            Stats::count(&self.shared.stats.refused);
        }
    }

    fn spawn(&mut self, stream: TcpStream, source: IpAddr) -> io::Result<()> {
        let connection = Connection::new(stream)?;
        let mailbox = Arc::clone(connection.mailbox());
        let shared = Arc::clone(&self.shared);
        let id = self.next;
        self.next += 1;
        let ending = Ending {
            id,
            ended_tx: self.ended_tx.clone(),
            waker: Arc::clone(&self.waker),
        };
        let thread = thread::Builder::new()
            .name(format!("signaling-{id}"))
            .stack_size(STACK)
            .spawn(move || {
                let _ending = ending;
                let _counted = Counted::new(&shared.stats);
                signaling_thread::run(connection, &shared);
            })?;
        let live = Live {
            mailbox,
            thread,
            source,
        };
        self.live.insert(id, live);
        *self.by_source.entry(source).or_default() += 1;
        Ok(())
    }

    /// Answers one connection too many, without a thread.
    fn refuse(&mut self, mut stream: TcpStream, now: Instant) {
        Stats::count(&self.shared.stats.refused);
        let bytes = Response::error(Status::ServiceUnavailable).encode(false, false);
        // A fresh socket's buffer takes it whole; who is gone already needs no answer.
        if stream.write_all(&bytes).is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((now + REFUSED_KEPT, stream));
    }

    fn close_refused(&mut self, now: Instant) {
        while self.refused.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, mut stream)) = self.refused.pop_front() {
                // Bytes left unread would turn the close into a reset.
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    }

    /// Joins the threads that have ended.
    fn reap(&mut self) {
        while let Ok(id) = self.ended_rx.try_recv() {
            self.join(id);
        }
    }

    fn join(&mut self, id: u64) {
        let Some(live) = self.live.remove(&id) else {
            return;
        };
        if let Some(of_source) = self.by_source.get_mut(&live.source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&live.source);
            }
        }
        if live.thread.join().is_err() {
            tracing::error!(connection = id, "a signaling thread panicked");
        }
    }

    fn shut_down(mut self) -> usize {
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        self.refused.clear();
        for live in self.live.values() {
            live.mailbox.post(Event::Shutdown);
        }
        while !self.live.is_empty()
            && let Ok(id) = self.ended_rx.recv_deadline(deadline)
        {
            self.join(id);
        }
        if !self.live.is_empty() {
            tracing::warn!(
                connections = self.live.len(),
                "some connections did not end in time"
            );
        }
        self.live.len()
    }
}

/// Who an address counts as: one IPv6 customer has a whole /64 at least (RFC 6177).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Says that a connection's thread ends, however it does.
struct Ending {
    id: u64,
    ended_tx: Sender<u64>,
    waker: Arc<Waker>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // The channel has room for every connection; a closed one means that nobody waits any more.
        if self.ended_tx.try_send(self.id).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::debug!(%error, "could not wake the acceptor");
        }
    }
}

/// Counts a connection from its thread's start to its end.
struct Counted<'s>(&'s Stats);

impl<'s> Counted<'s> {
    fn new(stats: &'s Stats) -> Self {
        Stats::count(&stats.accepted);
        Self(stats)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        Stats::count(&self.0.ended);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::io::testing::{Server, TIMEOUT, join_text, read_close, read_event, wait_until};

    #[test]
    fn one_connection_too_many_is_answered_and_the_next_finds_room() {
        let limits = Limits {
            connections_max: 2,
            ..Limits::default()
        };
        let server = Server::start(limits);
        let first = server.upgrade();
        let second = server.upgrade();
        for _ in 0..2 {
            let text = server.request("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
            assert!(text.contains("Retry-After: 5\r\n"), "{text}");
        }
        drop(first);
        // The place is free as soon as the thread has ended.
        wait_until(|| {
            let text =
                server.request("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            text.starts_with("HTTP/1.1 200 ") && text.contains("\nshardcast_connections 2\n")
        });
        drop(second);
        assert_eq!(server.handle.shutdown(), 0);
    }

    #[test]
    fn one_source_takes_no_more_than_its_share() {
        let limits = Limits {
            connections_per_source_max: Some(1),
            ..Limits::default()
        };
        let server = Server::start(limits);
        let first = server.upgrade();
        let health = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert!(server.request(health).starts_with("HTTP/1.1 503 "));
        drop(first);
        wait_until(|| server.request(health).starts_with("HTTP/1.1 200 "));
        assert_eq!(server.handle.shutdown(), 0);
    }

    #[test]
    fn addresses_of_one_customer_are_one_source() {
        let cases = [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ];
        for (address, expected) in cases {
            assert_eq!(source(address.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn shutdown_tells_every_connection_and_joins_its_thread() {
        let server = Server::start(Limits::default());
        let mut joined = server.upgrade();
        joined.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut joined).0, "joined");
        let mut idle = server.upgrade();
        let mut silent = server.connect();
        let address = server.address;
        let backend = Arc::clone(&server.backend);
        let shutdown = thread::spawn(move || server.handle.shutdown());
        for socket in [&mut joined, &mut idle] {
            assert_eq!(read_close(socket).0, 1001);
        }
        assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
        drop((joined, idle));
        assert_eq!(shutdown.join().unwrap(), 0);
        assert!(backend.has_left("a"));
        assert!(std::net::TcpStream::connect_timeout(&address, TIMEOUT).is_err());
    }

    #[test]
    fn every_address_takes_ipv4() {
        let acceptor = Acceptor::bind("[::]:0".parse().unwrap()).unwrap();
        let address = (Ipv4Addr::LOCALHOST, acceptor.local_addr().port());
        assert!(std::net::TcpStream::connect(address).is_ok());
        let taken = Acceptor::bind(acceptor.local_addr()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
