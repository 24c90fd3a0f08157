//! One TCP connection as its thread sees it: a socket and a mailbox, waited for together.
//!
//! Knows nothing of HTTP or WebSocket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::control::Event;
use crate::io::mailbox::{Mail, Mailbox, MailboxReader, mailbox};

const SOCKET: Token = Token(0);
const MAILBOX: Token = Token(1);

/// How much is read at a time, in bytes.
const READ_CHUNK: usize = 4 << 10;

/// A connection.
#[derive(Debug)]
pub(in crate::io) struct Connection {
    stream: TcpStream,
    waiter: Waiter,
}

/// What a connection sleeps on. The poll is edge-triggered: whoever waits has read and written until the
/// socket would block.
#[derive(Debug)]
pub(in crate::io) struct Waiter {
    poll: Poll,
    events: Events,
    mail: MailboxReader,
}

/// What reading from a connection led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum Arrival {
    /// More bytes.
    Bytes,
    /// The client will send no more, or is gone.
    End,
    /// Nothing came before the deadline.
    TimedOut,
    /// The server is stopping.
    Shutdown,
}

impl Connection {
    /// Takes over an accepted stream.
    ///
    /// # Errors
    /// What the system says if it has no descriptors left.
    pub fn new(mut stream: TcpStream) -> io::Result<Self> {
        let poll = Poll::new()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, SOCKET, interest)?;
        let (_, mail) = mailbox(poll.registry(), MAILBOX)?;
        // Frames are small and wait for answers. A socket that cannot is only slower.
        let _ = stream.set_nodelay(true);
        let events = Events::with_capacity(2);
        Ok(Self {
            stream,
            waiter: Waiter { poll, events, mail },
        })
    }

    /// Where events for this connection are posted.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        self.waiter.mailbox()
    }

    /// Appends what comes before `deadline` to `buffer`.
    pub fn read(&mut self, buffer: &mut Vec<u8>, deadline: Instant) -> Arrival {
        let mut chunk = [0; READ_CHUNK];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Arrival::End,
                Ok(len) => {
                    buffer.extend_from_slice(&chunk[..len]);
                    return Arrival::Bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Arrival::TimedOut;
                    }
                    self.waiter.wait(Some(deadline));
                    if self.waiter.is_shutdown() {
                        return Arrival::Shutdown;
                    }
                }
                Err(_) => return Arrival::End,
            }
        }
    }

    /// Writes all of `bytes`; `false` if that could not be done before `deadline`, or the
    /// server is stopping.
    pub fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> bool {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return false,
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return false;
                    }
                    self.waiter.wait(Some(deadline));
                    if self.waiter.is_shutdown() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Closes so that the client gets what was written: ends the sending side, then reads and forgets
    /// until the client ends its own or `deadline` has come. Closing with bytes unread would reset the
    /// connection, and the last words with it (RFC 9112 §9.6).
    pub fn linger(self, deadline: Instant) {
        let Self {
            mut stream,
            mut waiter,
        } = self;
        if stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut chunk = [0; READ_CHUNK];
        while Instant::now() < deadline {
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    waiter.wait(Some(deadline));
                }
                Err(_) => return,
            }
        }
    }

    /// The stream and what it is waited for with.
    pub fn into_parts(self) -> (TcpStream, Waiter) {
        (self.stream, self.waiter)
    }

    /// What [`Connection::into_parts`] gave.
    pub fn from_parts(stream: TcpStream, waiter: Waiter) -> Self {
        Self { stream, waiter }
    }
}

impl Waiter {
    /// Sleeps until the socket or the mailbox has something, or until `deadline`; sometimes for no
    /// reason at all.
    pub fn wait(&mut self, deadline: Option<Instant>) {
        let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // A poll fails only if its own descriptor is broken, and then would fail forever.
            tracing::error!(%error, "a connection cannot wait");
            std::thread::sleep(BROKEN_POLL_PAUSE);
        }
        self.mail.rearm();
    }

    /// The next thing posted.
    pub fn poll_mail(&self) -> Option<Mail> {
        self.mail.poll()
    }

    /// Where events for this connection are posted.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        self.mail.mailbox()
    }

    /// Whether the server is stopping. For those who have no session yet, to whom nothing else is
    /// posted.
    fn is_shutdown(&self) -> bool {
        std::iter::from_fn(|| self.mail.poll()).any(|mail| mail == Mail::Event(Event::Shutdown))
    }
}

/// Keeps a thread whose poll is broken from spinning.
const BROKEN_POLL_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
