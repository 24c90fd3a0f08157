//! WebSocket (RFC 6455) over a non-blocking stream: bounded reading by turns, bounded writing.
//!
//! Knows nothing of what the messages say.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message, Utf8Bytes};

/// The longest message taken, in bytes, however many frames it has; a description of a large room is
/// some tens of KiB.
pub(in crate::io) const MESSAGE_MAX: usize = 256 << 10;

/// How many bytes may wait for a client before a further message ends its connection. The message that
/// passes the bound is still kept, because the roster of a large room alone can be longer.
pub(in crate::io) const OUTGOING_MAX: usize = 1 << 20;

/// A last bound on the buffer, whatever one message holds.
const BUFFER_MAX: usize = 16 << 20;

/// How much is read before others get their turn, in bytes; each call counts as at least
/// [`READ_COST_MIN`], so that a flood of tiny frames ends its turn too.
const TURN_BYTES: usize = 512 << 10;
const READ_COST_MIN: usize = 1 << 10;

/// Messages are collected up to this many bytes before they are written.
const WRITE_BUFFER: usize = 16 << 10;
const READ_BUFFER: usize = 4 << 10;

/// The buffers grow to the longest message and stay so; after one longer than this they are given back.
const BUFFER_KEPT_MAX: usize = 8 << 10;

/// The most bytes of a close frame's reason (RFC 6455 §5.5: 125 with the code).
const REASON_MAX: usize = 123;

/// The longest header of a frame that a server sends (RFC 6455 §5.2).
const FRAME_HEADER_MAX: usize = 10;

/// The shortest header of a frame that a client sends, with its mask (RFC 6455 §5.2).
const CLIENT_HEADER_MIN: usize = 6;

/// One WebSocket, server side.
#[derive(Debug)]
pub(in crate::io) struct Link<S> {
    stream: Metered<S>,
    context: WebSocketContext,
    /// Bytes given to the socket since the buffer was last empty.
    queued: usize,
    /// Bytes that the messages read so far took at least. As many as were read: no part of one waits in a buffer.
    accounted: usize,
    /// The longest message either way since the buffers were new.
    longest: usize,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message; its bytes are of no interest.
    Binary,
    /// A ping (already answered) or a pong.
    Activity,
    /// A frame or message longer than [`MESSAGE_MAX`]: nothing can be read any more.
    Oversized,
    /// The client broke the protocol: nothing can be read any more; close with this code.
    Violation(u16),
    /// The client closes, with its reply in the buffer, or is gone.
    Closed,
    /// Nothing more for now.
    Idle,
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum SendError {
    /// More than [`OUTGOING_MAX`] bytes wait already: the client does not read.
    SlowConsumer,
    /// There is no connection any more.
    Gone,
}

/// What became of the bytes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum Flushed {
    /// None waits.
    All,
    /// The stream takes no more for now.
    Pending,
    /// There is nothing to write to any more.
    Gone,
}

impl<S: Read + Write> Link<S> {
    /// Takes over `stream` after the opening handshake; `leftover` was read behind the request.
    pub fn new(stream: S, leftover: Vec<u8>) -> Self {
        let stream = Metered {
            stream,
            budget: TURN_BYTES,
            is_starved: false,
            read: leftover.len(),
            written: 0,
        };
        Self {
            stream,
            context: WebSocketContext::from_partially_read(leftover, Role::Server, Some(config())),
            queued: 0,
            accounted: 0,
            longest: 0,
        }
    }

    /// Gives the memory of long messages back, if none is under way: most clients exchange a few long
    /// descriptions when they join, and then stay for an hour.
    pub fn trim(&mut self) {
        let is_idle = self.queued == 0 && self.accounted == self.stream.read;
        if self.longest <= BUFFER_KEPT_MAX || !is_idle || !self.context.can_write() {
            return;
        }
        self.context = WebSocketContext::new(Role::Server, Some(config()));
        (self.stream.read, self.accounted, self.longest) = (0, 0, 0);
    }

    /// Begins a turn of reading: up to [`TURN_BYTES`].
    pub fn begin_turn(&mut self) {
        self.stream.budget = TURN_BYTES;
        self.stream.is_starved = false;
    }

    /// Whether the turn ended before the stream had no more: another one is due at once.
    pub fn is_starved(&self) -> bool {
        self.stream.is_starved
    }

    /// The next message. After [`Incoming::Oversized`], [`Incoming::Violation`] and
    /// [`Incoming::Closed`] this must not be called again.
    pub fn poll(&mut self) -> Incoming {
        let read = self.context.read(&mut self.stream);
        if let Ok(message) = &read {
            self.on_read(message.len());
        }
        match read {
            Ok(Message::Text(text)) => Incoming::Text(text),
            Ok(Message::Binary(_)) => Incoming::Binary,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Incoming::Activity,
            Ok(Message::Close(_)) => Incoming::Closed,
            Err(Error::Io(error)) if is_for_later(&error) => Incoming::Idle,
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Incoming::Oversized,
            Err(Error::Utf8(_)) => Incoming::Violation(CloseCode::Invalid.into()),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Incoming::Closed,
            Err(Error::Protocol(_)) => Incoming::Violation(CloseCode::Protocol.into()),
            Err(_) => Incoming::Closed,
        }
    }

    /// Counts what a message took of the stream, if it came in one frame: that of several is counted too
    /// short, and [`Link::trim`] then leaves the buffers alone.
    fn on_read(&mut self, len: usize) {
        let extended = match len {
            ..126 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        self.accounted = self
            .accounted
            .wrapping_add(CLIENT_HEADER_MIN + extended + len);
        self.longest = self.longest.max(len);
    }

    /// Queues a text message; [`Link::flush`] sends it.
    pub fn send_text(&mut self, text: String) -> Result<(), SendError> {
        self.send(Message::text(text))
    }

    /// Queues a ping.
    pub fn send_ping(&mut self) -> Result<(), SendError> {
        self.send(Message::Ping(Bytes::new()))
    }

    fn send(&mut self, message: Message) -> Result<(), SendError> {
        if self.waiting_bytes() > OUTGOING_MAX {
            return Err(SendError::SlowConsumer);
        }
        self.queued += message.len() + FRAME_HEADER_MAX;
        self.longest = self.longest.max(message.len());
        match self.context.write(&mut self.stream, message) {
            Ok(()) => Ok(()),
            // The message is in the buffer.
            Err(Error::Io(error)) if is_for_later(&error) => Ok(()),
            Err(Error::WriteBufferFull(_)) => Err(SendError::SlowConsumer),
            Err(_) => Err(SendError::Gone),
        }
    }

    /// How many bytes wait, at most.
    fn waiting_bytes(&self) -> usize {
        self.queued.saturating_sub(self.stream.written)
    }

    /// Writes what waits, as far as the stream takes it.
    pub fn flush(&mut self) -> Flushed {
        match self.context.flush(&mut self.stream) {
            Ok(()) => {
                self.queued = 0;
                self.stream.written = 0;
                Flushed::All
            }
            Err(Error::Io(error)) if is_for_later(&error) => Flushed::Pending,
            Err(_) => Flushed::Gone,
        }
    }

    /// Queues a close frame behind what waits and flushes. No message can be sent afterwards.
    pub fn close(&mut self, code: u16, reason: &str) -> Flushed {
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let frame = CloseFrame {
            code: code.into(),
            reason: reason[..end].into(),
        };
        match self.context.close(&mut self.stream, Some(frame)) {
            Ok(()) => Flushed::All,
            Err(Error::Io(error)) if is_for_later(&error) => Flushed::Pending,
            Err(_) => Flushed::Gone,
        }
    }

    /// The stream below.
    pub fn into_inner(self) -> S {
        self.stream.stream
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(BUFFER_MAX)
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A stream that ends a turn of reading after some bytes, and counts what was written.
#[derive(Debug)]
struct Metered<S> {
    stream: S,
    budget: usize,
    is_starved: bool,
    /// Since the buffers were new, modulo 2^64.
    read: usize,
    written: usize,
}

impl<S: Read> Read for Metered<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.budget == 0 {
            self.is_starved = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.stream.read(buffer)?;
        self.budget = self.budget.saturating_sub(len.max(READ_COST_MIN));
        self.read = self.read.wrapping_add(len);
        Ok(len)
    }
}

impl<S: Write> Write for Metered<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let len = self.stream.write(buffer)?;
        self.written += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A stream in memory: what it gives, and how much it still takes.
    #[derive(Default)]
    struct Fake {
        input: VecDeque<u8>,
        is_ended: bool,
        output: Vec<u8>,
        room: usize,
    }

    impl Read for Fake {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.input.is_empty() && !self.is_ended {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => self.input.read(buffer),
            }
        }
    }

    impl Write for Fake {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.room);
            if len == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= len;
            self.output.extend_from_slice(&buffer[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A masked frame (the mask is zero); `first` is the byte of FIN and opcode.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ ..126 => bytes.push(0x80 | len as u8),
            len @ ..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn link(input: Vec<u8>) -> Link<Fake> {
        let fake = Fake {
            input: input.into(),
            room: usize::MAX,
            ..Fake::default()
        };
        Link::new(fake, Vec::new())
    }

    /// Everything up to the first thing that ends reading.
    fn read_all(link: &mut Link<Fake>) -> Vec<Incoming> {
        let mut all = Vec::new();
        loop {
            let incoming = link.poll();
            let is_last = !matches!(
                incoming,
                Incoming::Text(_) | Incoming::Binary | Incoming::Activity
            );
            all.push(incoming);
            if is_last {
                return all;
            }
        }
    }

    #[test]
    fn what_comes_in_is_told_apart() {
        let longest = "a".repeat(MESSAGE_MAX);
        let halves = [
            frame(0x01, &longest.as_bytes()[..MESSAGE_MAX / 2]),
            frame(0x80, &longest.as_bytes()[..MESSAGE_MAX / 2 + 1]),
        ];
        let text = |t: &str| Incoming::Text(t.into());
        let cases: [(Vec<u8>, Vec<Incoming>); 9] = [
            (frame(0x81, b"hi"), vec![text("hi"), Incoming::Idle]),
            (
                [frame(0x01, b"a"), frame(0x80, b"b")].concat(),
                vec![text("ab"), Incoming::Idle],
            ),
            (
                frame(0x81, longest.as_bytes()),
                vec![text(&longest), Incoming::Idle],
            ),
            (frame(0x82, b"\xff"), vec![Incoming::Binary, Incoming::Idle]),
            (
                [frame(0x89, b"p"), frame(0x8a, b"")].concat(),
                vec![Incoming::Activity, Incoming::Activity, Incoming::Idle],
            ),
            (
                frame(0x81, &[b'a'; MESSAGE_MAX + 1]),
                vec![Incoming::Oversized],
            ),
            (halves.concat(), vec![Incoming::Oversized]),
            (frame(0x81, b"\xff"), vec![Incoming::Violation(1007)]),
            (
                vec![0x81, 0x02, b'h', b'i'],
                vec![Incoming::Violation(1002)],
            ),
        ];
        for (input, expected) in cases {
            assert_eq!(
                read_all(&mut link(input.clone())),
                expected,
                "{:?}",
                &input[..4]
            );
        }
    }

    #[test]
    fn bytes_read_behind_the_request_come_first() {
        let rest = frame(0x81, b"two");
        let fake = Fake {
            input: rest[1..].to_vec().into(),
            ..Fake::default()
        };
        let mut link = Link::new(fake, [frame(0x81, b"one"), rest[..1].to_vec()].concat());
        assert_eq!(link.poll(), Incoming::Text("one".into()));
        assert_eq!(link.poll(), Incoming::Text("two".into()));
        assert_eq!(link.poll(), Incoming::Idle);
    }

    #[test]
    fn a_close_is_answered_and_an_end_without_one_is_a_close_too() {
        let mut closing = link(frame(0x88, &1000u16.to_be_bytes()));
        assert_eq!(closing.poll(), Incoming::Closed);
        assert_eq!(closing.flush(), Flushed::Gone);
        assert_eq!(closing.into_inner().output, [0x88, 2, 0x03, 0xe8]);
        let mut ended = link(Vec::new());
        ended.stream.stream.is_ended = true;
        assert_eq!(ended.poll(), Incoming::Closed);
    }

    #[test]
    fn a_flood_ends_its_turn() {
        // Never a whole message: without the budget this would be read in one go.
        let flood = [frame(0x01, b"")]
            .into_iter()
            .chain(std::iter::repeat_n(frame(0x00, b""), 200_000))
            .flatten()
            .collect();
        let mut link = link(flood);
        let mut turns = 0;
        loop {
            link.begin_turn();
            assert_eq!(link.poll(), Incoming::Idle);
            turns += 1;
            if !link.is_starved() {
                break;
            }
        }
        assert!((2..10).contains(&turns), "{turns}");
    }

    #[test]
    fn a_client_that_does_not_read_is_told_from_one_that_reads_slowly() {
        let mut link = link(Vec::new());
        let text = "a".repeat(100_000);
        for room in [usize::MAX, 0] {
            link.stream.stream.room = room;
            // 30 messages are three times the bound: too much only for the one who takes nothing.
            let sent = (0..30).map_while(|_| {
                let sent = link.send_text(text.clone());
                link.flush();
                sent.ok()
            });
            assert_eq!(sent.count(), if room == 0 { 11 } else { 30 });
        }
        assert_eq!(link.send_text(text.clone()), Err(SendError::SlowConsumer));
        link.stream.stream.room = usize::MAX;
        assert_eq!(link.flush(), Flushed::All);
        assert_eq!(link.send_ping(), Ok(()));
        // One message larger than the bound passes on an empty buffer.
        assert_eq!(link.send_text("a".repeat(OUTGOING_MAX * 2)), Ok(()));
    }

    #[test]
    fn buffers_of_long_messages_are_given_back_only_between_messages() {
        let long = vec![b'x'; BUFFER_KEPT_MAX + 1];
        let short = frame(0x81, b"short");
        let split = [frame(0x01, &long), frame(0x80, b"end")].concat();
        let cases = [
            ("a whole message", frame(0x81, &long), true),
            ("a short one", short.clone(), false),
            (
                "with a part of the next",
                [&frame(0x81, &long)[..], &short[..3]].concat(),
                false,
            ),
            ("a message in two frames", split, false),
        ];
        for (name, input, is_trimmed) in cases {
            let mut link = link(input);
            link.begin_turn();
            while link.poll() != Incoming::Idle {}
            assert_eq!(link.flush(), Flushed::All, "{name}");
            link.trim();
            assert_eq!(link.longest == 0, is_trimmed, "{name}");
            let rest = match name {
                "with a part of the next" => &short[3..],
                _ => &short[..],
            };
            link.stream.stream.input.extend(rest);
            assert_eq!(link.poll(), Incoming::Text("short".into()), "{name}");
        }
    }

    #[test]
    fn a_close_comes_behind_what_waits_and_its_reason_is_cut() {
        let mut link = link(Vec::new());
        link.send_text("last".to_owned()).unwrap();
        assert_eq!(link.close(4001, &"é".repeat(100)), Flushed::All);
        assert_eq!(link.send_text("late".to_owned()), Err(SendError::Gone));
        let output = link.into_inner().output;
        assert_eq!(output[..6], *b"\x81\x04last");
        assert_eq!(output[6..10], [0x88, 2 + 122, 0x0f, 0xa1]);
        assert_eq!(String::from_utf8_lossy(&output[10..]), "é".repeat(61));
    }
}
