//! One connection's thread: answers HTTP requests, and drives a [`Session`] once the connection has
//! become a WebSocket.
//!
//! Knows nothing of the frames' meaning: it carries texts to the session, and the session's outputs to
//! the client, the registry of rooms and the shards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::ids::{PeerId, PeerKey, RoomId, ShardId};
use crate::control::{Changes, Command, JoinRefused, JoinRequest, Joined, Revision, TrackInfo};
use crate::io::api::{self, Described, NoAnswer, Question};
use crate::io::connection::{Arrival, Connection, Waiter};
use crate::io::http::{self, Answer, Head, Response, Status};
use crate::io::mailbox::{Mail, Mailbox};
use crate::io::stats::Stats;
use crate::io::websocket::{Flushed, Incoming, Link, SendError};
use crate::signaling::session::{CloseReason, Output, Session, SessionConfig};

/// What connections need of the rest of the server. Shared by all their threads; nothing here but
/// [`Backend::describe`] may block for long.
pub trait Backend: Send + Sync + 'static {
    /// Joins a room; from then on the room's events go to `mailbox`.
    ///
    /// # Errors
    /// [`JoinRefused`] says which bound is reached.
    fn join(&self, request: JoinRequest, mailbox: Arc<Mailbox>) -> Result<Joined, JoinRefused>;

    /// Leaves; nothing happens if the peer is not (or no longer) in the room.
    fn leave(&self, room: &RoomId, peer: PeerKey);

    /// Replaces what the peer publishes, as the others are told.
    fn set_tracks(&self, room: &RoomId, peer: PeerKey, tracks: Vec<Arc<TrackInfo>>);

    /// What happened after `since`; `None` if the peer is not (or no longer) in the room.
    fn changes_since(&self, room: &RoomId, peer: PeerKey, since: Revision) -> Option<Changes>;

    /// Hands a command to a shard.
    fn send(&self, shard: ShardId, command: Command);

    /// Asks a peer's shard what it receives and why. Waits for the answer, for a few seconds at most.
    ///
    /// # Errors
    /// [`NoAnswer`] says why there is none.
    fn describe(&self, room: &RoomId, peer: &PeerId) -> Result<Described, NoAnswer>;

    /// The server's metrics in Prometheus' text format, each line ended; those of connections are
    /// added to it.
    fn metrics(&self) -> String;
}

/// The bounds of connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections at a time; each has a thread.
    pub connections_max: usize,
    /// The most of them from one IPv4 address or IPv6 /64.
    pub connections_per_source_max: Option<usize>,
    /// How long a request's head may take to come, and an answer to be taken.
    pub head_timeout: Duration,
    /// How long a closing connection may take to take what was said last.
    pub close_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_source_max: None,
            head_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(1),
        }
    }
}

/// What every connection of one server shares.
pub(in crate::io) struct Shared {
    pub backend: Arc<dyn Backend>,
    pub session_config: Arc<SessionConfig>,
    pub limits: Limits,
    pub stats: Stats,
}

/// Serves a connection until it ends.
pub(in crate::io) fn run(mut connection: Connection, shared: &Shared) {
    let opening = serve_http(&mut connection, shared);
    let deadline = Instant::now() + shared.limits.close_timeout;
    match opening {
        HttpEnd::WebSocket(leftover) => {
            Stats::count(&shared.stats.websockets);
            let (stream, waiter) = connection.into_parts();
            SignalingThread::new(stream, waiter, leftover, shared).run();
        }
        HttpEnd::Answered => connection.linger(deadline),
        HttpEnd::Gone => {}
    }
}

/// How a connection's HTTP part ends.
enum HttpEnd {
    /// As a WebSocket, with the bytes read behind the request.
    WebSocket(Vec<u8>),
    /// With an answer that the client should get to read.
    Answered,
    /// With nothing more to say.
    Gone,
}

/// The most requests on one connection.
const REQUESTS_MAX: usize = 200;

fn serve_http(connection: &mut Connection, shared: &Shared) -> HttpEnd {
    let mut buffer = Vec::new();
    for turn in 1..=REQUESTS_MAX {
        let deadline = Instant::now() + shared.limits.head_timeout;
        let (request, len) = match read_head(connection, &mut buffer, deadline) {
            Ok(head) => head,
            Err(None) => return HttpEnd::Gone,
            Err(Some(status)) => {
                Stats::count(&shared.stats.requests);
                let bytes = Response::error(status).encode(false, false);
                connection.write(&bytes, Instant::now() + shared.limits.close_timeout);
                return HttpEnd::Answered;
            }
        };
        buffer.drain(..len);
        Stats::count(&shared.stats.requests);
        let metrics = || shared.backend.metrics() + &shared.stats.render();
        let answer = http::answer(&request, metrics, |path| ask(&*shared.backend, path));
        let keep_alive = request.keep_alive && turn < REQUESTS_MAX;
        let (response, is_websocket) = match answer {
            Answer::Http(response) => (response, false),
            Answer::WebSocket(response) => (response, true),
        };
        let bytes = response.encode(request.is_head, keep_alive);
        // Taking an answer may last as long as sending a request.
        let deadline = Instant::now() + shared.limits.head_timeout;
        if !connection.write(&bytes, deadline) {
            return HttpEnd::Gone;
        }
        if is_websocket {
            return HttpEnd::WebSocket(buffer);
        }
        if !keep_alive {
            break;
        }
    }
    HttpEnd::Answered
}

/// Answers a path of the REST interface. May take as long as [`Backend::describe`].
fn ask(backend: &dyn Backend, path: &str) -> (Status, String) {
    let (status, body) = match Question::parse(path) {
        Ok(question) => {
            let Question::Subscriptions { room, peer } = &question;
            question.answer(backend.describe(room, peer))
        }
        Err(status) => api::error(status),
    };
    (status, format!("{body}\n"))
}

/// The next request's head. The error is what to answer, if anything.
fn read_head(
    connection: &mut Connection,
    buffer: &mut Vec<u8>,
    deadline: Instant,
) -> Result<(http::Request, usize), Option<Status>> {
    loop {
        match http::parse_head(buffer) {
            Head::Complete(request, len) => return Ok((request, len)),
            Head::Refused(status) => return Err(Some(status)),
            Head::Incomplete => {}
        }
        // A trickle of bytes does not move the deadline.
        if !buffer.is_empty() && Instant::now() >= deadline {
            return Err(Some(Status::RequestTimeout));
        }
        match connection.read(buffer, deadline) {
            Arrival::Bytes => {}
            Arrival::TimedOut if !buffer.is_empty() => return Err(Some(Status::RequestTimeout)),
            // A kept connection that is not used again ends without a word.
            Arrival::TimedOut | Arrival::End | Arrival::Shutdown => return Err(None),
        }
    }
}

/// Why a WebSocket ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client closed it, or is gone.
    ByClient,
    /// This side closes it, with a close frame of this code and reason.
    ByServer(u16, String),
}

/// The reason beside a close code that says it all (RFC 6455 §7.4.1).
const VIOLATION_REASON: &str = "protocol-error";

struct SignalingThread<'s> {
    shared: &'s Shared,
    link: Link<TcpStream>,
    waiter: Waiter,
    session: Session,
    stay: Option<Stay<'s>>,
    end: Option<End>,
}

impl<'s> SignalingThread<'s> {
    fn new(stream: TcpStream, waiter: Waiter, leftover: Vec<u8>, shared: &'s Shared) -> Self {
        let config = Arc::clone(&shared.session_config);
        Self {
            shared,
            link: Link::new(stream, leftover),
            waiter,
            session: Session::new(Instant::now(), config, StdRng::from_rng(&mut rand::rng())),
            stay: None,
            end: None,
        }
    }

    fn run(mut self) {
        let end = loop {
            let now = Instant::now();
            self.drain_outputs(now);
            self.take_mail(now);
            self.take_messages(now);
            self.take_timeout(now);
            match self.link.flush() {
                Flushed::All => self.link.trim(),
                Flushed::Pending => {}
                Flushed::Gone => self.end = self.end.take().or(Some(End::ByClient)),
            }
            if let Some(end) = self.end.take() {
                break end;
            }
            if !self.link.is_starved() {
                self.waiter.wait(self.session.poll_timeout());
            }
        };
        // The room is left before the goodbye, which may take its time.
        let now = Instant::now();
        self.session.handle_closed(now);
        self.end = Some(End::ByClient);
        self.drain_outputs(now);
        self.stay = None;
        self.say_goodbye(&end);
    }

    fn take_mail(&mut self, now: Instant) {
        while self.end.is_none()
            && let Some(mail) = self.waiter.poll_mail()
        {
            match mail {
                Mail::Event(event) => self.session.handle_event(now, event),
                // Its socket may still take something: the session tells it why.
                Mail::Overflow => {
                    Stats::count(&self.shared.stats.slow_consumers);
                    self.session.handle_slow_consumer(now);
                }
            }
            self.drain_outputs(now);
        }
    }

    fn take_messages(&mut self, now: Instant) {
        self.link.begin_turn();
        while self.end.is_none() {
            match self.link.poll() {
                Incoming::Text(text) => self.session.handle_text(now, text.as_str()),
                Incoming::Binary => self.session.handle_binary(now),
                Incoming::Activity => self.session.handle_activity(now),
                Incoming::Oversized => {
                    self.session.handle_oversized(now);
                    self.drain_outputs(now);
                    // Nothing can be read any more, whatever the session thinks of it.
                    self.end_by_server(1009, "too-large");
                }
                Incoming::Violation(code) => self.end_by_server(code, VIOLATION_REASON),
                Incoming::Closed => self.end = Some(End::ByClient),
                Incoming::Idle => return,
            }
            self.drain_outputs(now);
        }
    }

    fn take_timeout(&mut self, now: Instant) {
        if self.end.is_none() && self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.handle_timeout(now);
            self.drain_outputs(now);
        }
    }

    fn drain_outputs(&mut self, now: Instant) {
        while let Some(output) = self.session.poll_output() {
            self.execute(now, output);
        }
    }

    fn execute(&mut self, now: Instant, output: Output) {
        match output {
            // What the session says after the end is for nobody.
            Output::Send(_) | Output::Ping | Output::Close(_) if self.end.is_some() => {}
            Output::Send(text) => {
                let sent = self.link.send_text(text);
                self.on_sent(sent);
            }
            Output::Ping => {
                let sent = self.link.send_ping();
                self.on_sent(sent);
            }
            Output::Close(CloseReason::SlowConsumer) => self.end_slow_consumer(),
            Output::Close(reason) => self.end_by_server(reason.code(), reason.reason()),
            Output::Join(request) => self.join(now, request),
            Output::PullChanges(since) => {
                let changes = self.stay.as_ref().and_then(|s| s.changes_since(since));
                self.session.handle_changes(now, changes);
            }
            Output::SetTracks(tracks) => {
                if let Some(stay) = &self.stay {
                    stay.backend.set_tracks(&stay.room, stay.peer, tracks);
                }
            }
            Output::Leave => {
                if let Some(stay) = &mut self.stay {
                    stay.leave();
                }
            }
            Output::Shard(command) => {
                if let Some(stay) = &mut self.stay {
                    stay.send(command);
                }
            }
        }
    }

    fn join(&mut self, now: Instant, request: JoinRequest) {
        // A former stay ends first: one connection is one peer.
        self.stay = None;
        let room = request.room.clone();
        let backend = &*self.shared.backend;
        let result = backend.join(request, Arc::clone(self.waiter.mailbox()));
        if let Ok(joined) = &result {
            self.stay = Some(Stay {
                backend,
                room,
                peer: joined.key,
                shard: joined.shard,
                is_in_room: true,
                is_on_shard: true,
            });
        }
        self.session.handle_joined(now, result);
    }

    fn on_sent(&mut self, sent: Result<(), SendError>) {
        match sent {
            Ok(()) => {}
            Err(SendError::SlowConsumer) => self.end_slow_consumer(),
            Err(SendError::Gone) => self.end = Some(End::ByClient),
        }
    }

    fn end_slow_consumer(&mut self) {
        if self.end.is_none() {
            Stats::count(&self.shared.stats.slow_consumers);
            let reason = CloseReason::SlowConsumer;
            self.end_by_server(reason.code(), reason.reason());
        }
    }

    /// The first reason counts.
    fn end_by_server(&mut self, code: u16, reason: &str) {
        if self.end.is_none() {
            self.end = Some(End::ByServer(code, reason.to_owned()));
        }
    }

    /// Brings what is queued and the close frame to the client, for a bounded time.
    fn say_goodbye(mut self, end: &End) {
        let deadline = Instant::now() + self.shared.limits.close_timeout;
        let mut flushed = match end {
            End::ByServer(code, reason) => self.link.close(*code, reason),
            // The reply to the client's close frame.
            End::ByClient => self.link.flush(),
        };
        while flushed == Flushed::Pending && Instant::now() < deadline {
            self.waiter.wait(Some(deadline));
            flushed = self.link.flush();
        }
        Connection::from_parts(self.link.into_inner(), self.waiter).linger(deadline);
    }
}

/// A stay in a room. Dropping it leaves: however the thread ends, by a panic too, no ghost remains.
struct Stay<'s> {
    backend: &'s dyn Backend,
    room: RoomId,
    peer: PeerKey,
    shard: ShardId,
    is_in_room: bool,
    is_on_shard: bool,
}

impl Stay<'_> {
    fn changes_since(&self, since: Revision) -> Option<Changes> {
        self.backend.changes_since(&self.room, self.peer, since)
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.is_in_room) {
            self.backend.leave(&self.room, self.peer);
        }
    }

    fn send(&mut self, command: Command) {
        if matches!(&command, Command::RemovePeer { peer } if *peer == self.peer) {
            self.is_on_shard = false;
        }
        self.backend.send(self.shard, command);
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.leave();
        if std::mem::take(&mut self.is_on_shard) {
            let peer = self.peer;
            self.backend.send(self.shard, Command::RemovePeer { peer });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use tungstenite::Message;

    use super::*;
    use crate::control::{Event, PeerInfo, TransportEvent};
    use crate::io::testing::{
        Call, Server, join_text, read_close, read_event, read_to_end, wait_until,
    };

    const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n";

    fn short_limits() -> Limits {
        Limits {
            head_timeout: Duration::from_millis(200),
            ..Limits::default()
        }
    }

    #[test]
    fn requests_share_a_connection_until_one_closes_it() {
        let server = Server::start(Limits::default());
        let requests = format!(
            "{HEALTH}\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n{HEALTH}Connection: close\r\n\r\n{HEALTH}\r\n"
        );
        let text = server.request(&requests);
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
        assert!(
            text.contains("fake_metric 1\n# HELP shardcast_connections "),
            "{text}"
        );
        assert!(
            text.contains("\nshardcast_http_requests_total 2\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\nok\n"), "{text}");
    }

    #[test]
    fn a_refused_request_gets_its_answer_though_bytes_are_left() {
        let server = Server::start(Limits::default());
        let cases = [
            (
                format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}",
                    "b".repeat(100_000)
                ),
                "405",
            ),
            (
                format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(100_000)),
                "431",
            ),
            (format!("GET /{}", "b".repeat(100_000)), "414"),
            ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(), "400"),
        ];
        for (request, status) in cases {
            let text = server.request(&request);
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
            assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
        }
    }

    #[test]
    fn slow_heads_are_timed_out_and_silence_ends_without_a_word() {
        let server = Server::start(short_limits());
        let mut slow = server.connect();
        let began = Instant::now();
        // One byte after another never gets anywhere near the end.
        let mut trickle = slow.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            while trickle.write_all(b"G").is_ok() && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let text = read_to_end(&mut slow);
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert!(began.elapsed() < Duration::from_secs(4));
        slow.shutdown(Shutdown::Both).unwrap();
        writer.join().unwrap();
        assert_eq!(read_to_end(&mut server.connect()), "");
    }

    #[test]
    fn a_session_is_driven_from_join_to_close() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send("nonsense".into()).unwrap();
        assert_eq!(
            read_event(&mut socket),
            ("error".to_owned(), "bad-json".to_owned())
        );
        socket.send(join_text("full", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "error");
        socket.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        socket.send(Message::Ping("x".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("x".into()));
        server.backend.add_change(PeerInfo {
            id: crate::base::ids::PeerId::new("b").unwrap(),
            name: None,
            metadata: None,
        });
        server.backend.post("a", |_| Event::RoomChanged);
        assert_eq!(read_event(&mut socket).0, "peer-joined");
        socket.close(None).unwrap();
        assert!(read_close(&mut socket).0 != 1006, "the close is answered");
        wait_until(|| server.backend.has_left("a"));
        let calls = server.backend.calls();
        let first = calls.iter().find(|call| matches!(call, Call::Shard(_)));
        assert!(
            matches!(first, Some(Call::Shard(Command::AddPeer { .. }))),
            "{calls:?}"
        );
        assert_eq!(calls.iter().filter(|call| **call == Call::Leave).count(), 1);
    }

    #[test]
    fn who_vanishes_has_left() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        drop(socket);
        wait_until(|| server.backend.has_left("a"));
    }

    #[test]
    fn a_replaced_connection_is_told_why_and_closed() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        server.backend.post("a", Event::Replaced);
        assert_eq!(
            read_event(&mut socket),
            ("error".to_owned(), "replaced".to_owned())
        );
        let (code, reason) = read_close(&mut socket);
        assert!(
            code >= 1000 && code != 1006 && !reason.is_empty(),
            "{code} {reason}"
        );
    }

    #[test]
    fn a_frame_too_long_is_told_before_the_close() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        // The client may still be writing when the answer comes.
        let _ = socket.send("a".repeat((256 << 10) + 1).into());
        assert_eq!(
            read_event(&mut socket),
            ("error".to_owned(), "too-large".to_owned())
        );
        assert_eq!(read_close(&mut socket).0, 1009);
    }

    #[test]
    fn what_is_no_websocket_frame_ends_only_its_own_connection() {
        let server = Server::start(Limits::default());
        let mut other = server.upgrade();
        for seed in 0..20u8 {
            let mut socket = server.upgrade();
            socket.send(join_text("r", "a").into()).unwrap();
            assert_eq!(read_event(&mut socket).0, "joined");
            // Whole frames: reserved bits, no mask, any opcode, and no sense (RFC 6455 §5.2).
            let mut garbage: Vec<u8> = (0..200u8).map(|n| n.wrapping_mul(seed)).collect();
            garbage[..2].copy_from_slice(&[0x70 | (seed % 16), 0x50]);
            socket.get_mut().write_all(&garbage).unwrap();
            assert_eq!(read_close(&mut socket).0, 1002, "{seed}");
        }
        wait_until(|| server.backend.has_left("a"));
        other.send(join_text("r", "b").into()).unwrap();
        assert_eq!(read_event(&mut other).0, "joined");
    }

    #[test]
    fn a_client_that_does_not_read_is_disconnected() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        // The kernel's buffers take some MiB first.
        let metadata = serde_json::Value::String("m".repeat(100_000));
        for n in 0..1000 {
            server.backend.add_change(PeerInfo {
                id: crate::base::ids::PeerId::new(&format!("b{n}")).unwrap(),
                name: None,
                metadata: Some(Arc::new(metadata.clone())),
            });
            server.backend.post("a", |_| Event::RoomChanged);
            if server.backend.has_left("a") {
                break;
            }
            std::thread::yield_now();
        }
        wait_until(|| server.backend.has_left("a"));
        let text = server.request("GET /metrics HTTP/1.0\r\n\r\n");
        assert!(
            text.contains("\nshardcast_slow_consumers_total 1\n"),
            "{text}"
        );
    }

    #[test]
    fn a_full_mailbox_is_told_before_the_close() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send(join_text("r", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        // Faster than the thread can take them, sooner or later.
        wait_until(|| {
            for _ in 0..1000 {
                let lost = |key| Event::Transport(key, TransportEvent::ConsentLost);
                server.backend.post("a", lost);
            }
            server.backend.has_left("a")
        });
        assert_eq!(
            read_event(&mut socket),
            ("error".to_owned(), "slow-consumer".to_owned())
        );
        let (code, reason) = read_close(&mut socket);
        assert_eq!((code, reason.as_str()), (4004, "slow-consumer"));
    }

    #[test]
    fn a_panic_leaves_no_ghost() {
        let server = Server::start(Limits::default());
        let mut socket = server.upgrade();
        socket.send(join_text("panic", "a").into()).unwrap();
        assert_eq!(read_event(&mut socket).0, "joined");
        server.backend.post("a", |_| Event::RoomChanged);
        wait_until(|| server.backend.has_left("a"));
        let text = server.request(&format!("{HEALTH}Connection: close\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }
}
