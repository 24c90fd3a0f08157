//! A listening server with a backend that only takes notes, and clients for it: for the tests of `io`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tungstenite::{Message, WebSocket};

use crate::base::ids::{PeerId, PeerKey, RoomId, ShardId};
use crate::control::{
    Change, Changes, Command, Event, Fingerprint, FingerprintAlgorithm, JoinRefused, JoinRequest,
    Joined, PeerInfo, Revision, Roster, TrackInfo,
};
use crate::io::acceptor::{Acceptor, AcceptorHandle};
use crate::io::api::{Described, NoAnswer};
use crate::io::mailbox::Mailbox;
use crate::io::signaling_thread::{Backend, Limits};
use crate::signaling::session::SessionConfig;

/// How long a test waits for what must come.
pub(in crate::io) const TIMEOUT: Duration = Duration::from_secs(10);

/// What a backend was asked for.
#[derive(Debug, Clone)]
pub(in crate::io) enum Call {
    Join,
    Leave,
    Shard(Command),
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[derive(Default)]
struct Notes {
    calls: Vec<Call>,
    peers: Vec<(String, PeerKey, Arc<Mailbox>)>,
    left: HashMap<PeerKey, (bool, bool)>,
    changes: Vec<Change>,
}

/// A backend whose rooms are never full (but for `full`) and never change (but for
/// [`FakeBackend::add_change`]); in the room `panic`, asking for changes panics.
#[derive(Default)]
pub(in crate::io) struct FakeBackend {
    notes: Mutex<Notes>,
}

impl FakeBackend {
    /// Everything asked for so far.
    pub fn calls(&self) -> Vec<Call> {
        self.notes.lock().calls.clone()
    }

    /// Posts to the latest connection that joined as `id`.
    pub fn post(&self, id: &str, event: impl FnOnce(PeerKey) -> Event) {
        let notes = self.notes.lock();
        let peer = notes.peers.iter().rev().find(|(peer, ..)| peer == id);
        let (_, key, mailbox) = peer.expect("the peer has joined");
        mailbox.post(event(*key));
    }

    /// Whether everyone who joined as `id` has left its room and its shard.
    pub fn has_left(&self, id: &str) -> bool {
        let notes = self.notes.lock();
        let mut peers = notes.peers.iter().filter(|(peer, ..)| peer == id);
        peers.all(|(_, key, _)| notes.left.get(key) == Some(&(true, true)))
    }

    /// Another peer has joined, as told to whoever asks for changes.
    pub fn add_change(&self, info: PeerInfo) {
        let changes = &mut self.notes.lock().changes;
        let key = PeerKey(1_000_000 + changes.len() as u64);
        changes.push(Change::PeerJoined(key, Arc::new(info)));
    }
}

impl Backend for FakeBackend {
    fn join(&self, request: JoinRequest, mailbox: Arc<Mailbox>) -> Result<Joined, JoinRefused> {
        if request.room.as_str() == "full" {
            return Err(JoinRefused::RoomFull);
        }
        let mut notes = self.notes.lock();
        notes.calls.push(Call::Join);
        let key = PeerKey(notes.peers.len() as u64);
        notes
            .peers
            .push((request.info.id.as_str().to_owned(), key, mailbox));
        Ok(Joined {
            key,
            shard: ShardId(3),
            addresses: Arc::from([SocketAddr::from(([192, 0, 2, 1], 40_000))]),
            roster: Roster::default(),
        })
    }

    fn leave(&self, _room: &RoomId, peer: PeerKey) {
        let mut notes = self.notes.lock();
        notes.calls.push(Call::Leave);
        notes.left.entry(peer).or_default().0 = true;
    }

    fn set_tracks(&self, _room: &RoomId, _peer: PeerKey, _tracks: Vec<Arc<TrackInfo>>) {}

    fn changes_since(&self, room: &RoomId, _peer: PeerKey, since: Revision) -> Option<Changes> {
        assert_ne!(room.as_str(), "panic", "this panic is part of a test");
        let notes = self.notes.lock();
        let revision = Revision(notes.changes.len() as u64);
        let changes = notes.changes.get(since.0 as usize..)?.to_vec();
        Some(Changes::Log(revision, changes))
    }

    fn send(&self, shard: ShardId, command: Command) {
        assert_eq!(shard, ShardId(3));
        let mut notes = self.notes.lock();
        if let Command::RemovePeer { peer } = command {
            notes.left.entry(peer).or_default().1 = true;
        }
        notes.calls.push(Call::Shard(command));
    }

    fn describe(&self, _room: &RoomId, _peer: &PeerId) -> Result<Described, NoAnswer> {
        Err(NoAnswer::NotFound)
    }

    fn metrics(&self) -> String {
        "fake_metric 1\n".to_owned()
    }
}

/// A running acceptor on a loopback port.
pub(in crate::io) struct Server {
    pub address: SocketAddr,
    pub backend: Arc<FakeBackend>,
    pub handle: AcceptorHandle,
}

impl Server {
    pub fn start(limits: Limits) -> Self {
        let acceptor = Acceptor::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = acceptor.local_addr();
        let backend = Arc::new(FakeBackend::default());
        let config = Arc::new(SessionConfig {
            fingerprint: Fingerprint {
                algorithm: FingerprintAlgorithm::Sha256,
                digest: vec![0; 32],
            },
            ice_servers: Arc::new([]),
        });
        let handle = acceptor
            .start(Arc::clone(&backend) as Arc<dyn Backend>, config, limits)
            .unwrap();
        Self {
            address,
            backend,
            handle,
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Sends bytes and reads everything until the server closes.
    pub fn request(&self, text: &str) -> String {
        let mut stream = self.connect();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(text.as_bytes());
        read_to_end(&mut stream)
    }

    /// Opens a WebSocket.
    pub fn upgrade(&self) -> WebSocket<TcpStream> {
        let url = format!("ws://{}/ws", self.address);
        tungstenite::client(url, self.connect()).unwrap().0
    }
}

pub(in crate::io) fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(in crate::io) fn join_text(room: &str, peer: &str) -> String {
    format!(r#"{{"event":"joinRoom","data":{{"room_id":"{room}","self_id":"{peer}"}}}}"#)
}

/// The next frame's event, and its code if it is an error.
pub(in crate::io) fn read_event(socket: &mut WebSocket<TcpStream>) -> (String, String) {
    let message = socket.read().unwrap();
    let frame: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&frame["event"]), text(&frame["data"]["code"]))
}

/// Reads up to the close frame: its code and reason. A close without a code has 1005.
pub(in crate::io) fn read_close(socket: &mut WebSocket<TcpStream>) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => {
                return (frame.code.into(), frame.reason.as_str().to_owned());
            }
            Ok(Message::Close(None)) => return (1005, String::new()),
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return (1005, String::new()),
            Err(error) => return (1006, error.to_string()),
        }
    }
}

/// Waits for what another thread is about to do.
pub(in crate::io) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::yield_now();
    }
}
