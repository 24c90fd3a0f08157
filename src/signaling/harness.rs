//! Test support: a room in which sessions and clients are wired to each other by a coordinator of
//! plain data.

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::ids::{MediaKind, PeerId, PeerKey, ShardId};
use crate::control::{
    Change, Changes, Command, Event, Fingerprint, FingerprintAlgorithm, Joined, Revision, Roster,
    SrtpProfile, SubscriptionConfig, TrackConfig, TrackInfo, TransportEvent,
};
use crate::signaling::fake_client::{CHROMIUM, Client};
use crate::signaling::outbound::IceServer;
use crate::signaling::session::{CloseReason, Output, Session, SessionConfig};

/// One connection.
#[derive(Debug)]
pub struct Member {
    pub session: Session,
    pub client: Client,
    pub id: String,
    pub key: Option<PeerKey>,
    pub frames: Vec<Value>,
    pub commands: Vec<Command>,
    pub published: Vec<Arc<TrackInfo>>,
    pub tracks: Vec<TrackConfig>,
    pub subscriptions: Vec<SubscriptionConfig>,
    pub closed: Option<CloseReason>,
    pub pings: usize,
    /// Answers offers and repeats rolled-back offers by itself.
    pub auto: bool,
    /// What comes is only kept: the test speaks for the client.
    pub by_hand: bool,
    connected: bool,
    changed: bool,
}

impl Member {
    /// How many frames of this event came.
    pub fn count(&self, event: &str) -> usize {
        self.frames.iter().filter(|f| f["event"] == event).count()
    }

    /// The codes of the errors that came.
    pub fn errors(&self) -> Vec<&str> {
        self.frames
            .iter()
            .filter(|f| f["event"] == "error")
            .map(|f| f["data"]["code"].as_str().unwrap())
            .collect()
    }
}

/// A room with its coordinator.
pub struct Room {
    pub now: Instant,
    pub members: Vec<Member>,
    log: Vec<(PeerKey, Change)>,
    roster: Roster,
    next_key: u64,
    /// DTLS comes up as soon as a peer's certificate is known.
    pub connects: bool,
    /// Every pull is answered with a snapshot.
    pub snapshots: bool,
}

pub fn config() -> Arc<SessionConfig> {
    Arc::new(SessionConfig {
        fingerprint: Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: vec![0xab; 32],
        },
        ice_servers: Arc::from([IceServer {
            urls: vec!["stun:stun.example.org".to_owned()],
            username: None,
            credential: None,
        }]),
    })
}

impl Room {
    pub fn new() -> Self {
        Self {
            now: Instant::now(),
            members: Vec::new(),
            log: Vec::new(),
            roster: Roster::default(),
            next_key: 1,
            connects: true,
            snapshots: false,
        }
    }

    /// A connection that has joined nothing.
    pub fn connect(&mut self, id: &str) -> usize {
        let seed = self.members.len() as u64;
        self.members.push(Member {
            session: Session::new(self.now, config(), StdRng::seed_from_u64(seed)),
            client: Client::new(CHROMIUM),
            id: id.to_owned(),
            key: None,
            frames: Vec::new(),
            commands: Vec::new(),
            published: Vec::new(),
            tracks: Vec::new(),
            subscriptions: Vec::new(),
            closed: None,
            pings: 0,
            auto: true,
            by_hand: false,
            connected: false,
            changed: false,
        });
        self.members.len() - 1
    }

    /// A connection that has joined.
    pub fn join(&mut self, id: &str) -> usize {
        let member = self.connect(id);
        self.say(
            member,
            "joinRoom",
            json!({"self_id": id, "room_id": "room"}),
        );
        member
    }

    /// A connection that has joined and offered a microphone and a camera.
    pub fn publisher(&mut self, id: &str) -> usize {
        let member = self.join(id);
        let client = &mut self.members[member].client;
        client.add_track(MediaKind::Audio, id, &format!("{id}-audio"));
        client.add_track(MediaKind::Video, id, &format!("{id}-video"));
        self.offer(member);
        member
    }

    /// The client offers.
    pub fn offer(&mut self, member: usize) {
        let sdp = self.members[member].client.offer();
        self.say(
            member,
            "offer",
            json!({"offer": {"type": "offer", "sdp": sdp}}),
        );
    }

    pub fn say(&mut self, member: usize, event: &str, data: Value) {
        let text = json!({"event": event, "data": data}).to_string();
        self.text(member, &text);
    }

    pub fn text(&mut self, member: usize, text: &str) {
        let now = self.now;
        self.members[member].session.handle_text(now, text);
        self.settle();
    }

    /// Something happened to the transport of a member.
    pub fn transport(&mut self, member: usize, event: TransportEvent) {
        let key = self.members[member].key.expect("joined");
        self.event(member, Event::Transport(key, event));
    }

    pub fn event(&mut self, member: usize, event: Event) {
        let now = self.now;
        self.members[member].session.handle_event(now, event);
        self.settle();
    }

    /// Time passes for everybody; the sockets are alive.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        for member in &mut self.members {
            member.session.handle_activity(now);
            member.session.handle_timeout(now);
        }
        self.settle();
    }

    /// Does everything that follows until nothing more does.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for index in 0..self.members.len() {
                while let Some(output) = self.members[index].session.poll_output() {
                    quiet = false;
                    self.output(index, output);
                }
                if std::mem::take(&mut self.members[index].changed) {
                    quiet = false;
                    let now = self.now;
                    self.members[index]
                        .session
                        .handle_event(now, Event::RoomChanged);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the room does not come to rest");
    }

    fn output(&mut self, index: usize, output: Output) {
        let now = self.now;
        let member = &mut self.members[index];
        assert!(member.closed.is_none(), "after Close: {output:?}");
        match output {
            Output::Ping => member.pings += 1,
            Output::Close(reason) => member.closed = Some(reason),
            Output::Send(text) => self.frame(index, &text),
            Output::Join(request) => {
                let key = PeerKey(self.next_key);
                self.next_key += 1;
                member.key = Some(key);
                member.connected = false;
                let mut roster = self.roster.clone();
                roster.revision = Revision(self.log.len() as u64);
                self.roster.peers.push((key, request.info.clone()));
                self.change(key, Change::PeerJoined(key, request.info));
                let joined = Joined {
                    key,
                    shard: ShardId(0),
                    addresses: Arc::from([
                        "192.0.2.1:40000".parse().unwrap(),
                        "[2001:db8::1]:40000".parse().unwrap(),
                    ]),
                    roster,
                };
                self.members[index].session.handle_joined(now, Ok(joined));
            }
            Output::PullChanges(revision) => {
                let key = member.key.unwrap();
                let changes = self.changes_since(key, revision);
                self.members[index]
                    .session
                    .handle_changes(now, Some(changes));
            }
            Output::SetTracks(tracks) => self.set_tracks(index, tracks),
            Output::Leave => {
                let Some(key) = member.key.take() else { return };
                self.set_tracks_of(key, Vec::new());
                self.roster.peers.retain(|(k, _)| *k != key);
                let id = PeerId::new(&self.members[index].id).unwrap();
                self.change(key, Change::PeerLeft(key, id));
            }
            Output::Shard(command) => {
                member.commands.push(command.clone());
                match command {
                    Command::Configure {
                        tracks,
                        subscriptions,
                        ..
                    } => (member.tracks, member.subscriptions) = (tracks, subscriptions),
                    Command::RemovePeer { .. } => {
                        (member.tracks, member.subscriptions) = (Vec::new(), Vec::new());
                    }
                    Command::SetRemoteDtls { .. } if self.connects => self.connected(index),
                    _ => {}
                }
            }
        }
    }

    /// DTLS of a member comes up.
    pub fn connected(&mut self, index: usize) {
        let now = self.now;
        self.members[index].connected = true;
        let profile = SrtpProfile::AeadAes128Gcm;
        let key = self.members[index].key.expect("joined");
        let event = Event::Transport(key, TransportEvent::Connected { profile });
        self.members[index].session.handle_event(now, event);
    }

    fn frame(&mut self, index: usize, text: &str) {
        let now = self.now;
        let frame: Value = serde_json::from_str(text).unwrap();
        let member = &mut self.members[index];
        let held = |frame: &Value| -> Value {
            serde_json::from_str(frame["data"].as_str().expect("a JSON string")).unwrap()
        };
        member.frames.push(frame.clone());
        if member.by_hand {
            return;
        }
        match frame["event"].as_str().unwrap() {
            "offer" if member.auto => {
                let description = held(&frame);
                let sdp = member.client.answer(description["sdp"].as_str().unwrap());
                let answer = json!({"event": "answer",
                    "data": {"answer": {"type": "answer", "sdp": sdp}}});
                member.session.handle_text(now, &answer.to_string());
                if member.client.dirty {
                    let sdp = member.client.offer();
                    let offer = json!({"event": "offer",
                        "data": {"offer": {"type": "offer", "sdp": sdp}}});
                    member.session.handle_text(now, &offer.to_string());
                }
            }
            "answer" => {
                let description = held(&frame);
                member
                    .client
                    .take_answer(description["sdp"].as_str().unwrap());
            }
            "candidate" => {
                let candidate = held(&frame);
                let client = &mut member.client;
                if member.auto {
                    assert_eq!(candidate["usernameFragment"], client.server_ufrag);
                }
                let index = candidate["sdpMLineIndex"].as_u64().unwrap() as usize;
                assert!(candidate["sdpMid"].is_string());
                if let Some(section) = client.sections.get(index).filter(|_| member.auto) {
                    assert_eq!(candidate["sdpMid"], section.mid.as_str());
                }
                client.candidates += 1;
            }
            _ => {}
        }
    }

    fn changes_since(&self, key: PeerKey, revision: Revision) -> Changes {
        let now = Revision(self.log.len() as u64);
        if self.snapshots {
            let mut roster = self.roster.clone();
            roster.revision = now;
            roster.peers.retain(|(k, _)| *k != key);
            roster.tracks.retain(|t| t.key.peer != key);
            return Changes::Snapshot(roster);
        }
        let changes = self.log[revision.0 as usize..]
            .iter()
            .filter(|(by, _)| *by != key)
            .map(|(_, change)| change.clone())
            .collect();
        Changes::Log(now, changes)
    }

    fn change(&mut self, by: PeerKey, change: Change) {
        self.log.push((by, change));
        for member in &mut self.members {
            member.changed |= member.key.is_some_and(|key| key != by) && member.closed.is_none();
        }
    }

    fn set_tracks(&mut self, index: usize, tracks: Vec<Arc<TrackInfo>>) {
        let key = self.members[index].key.unwrap();
        self.members[index].published.clone_from(&tracks);
        self.set_tracks_of(key, tracks);
    }

    fn set_tracks_of(&mut self, key: PeerKey, tracks: Vec<Arc<TrackInfo>>) {
        let (old, others): (Vec<_>, Vec<_>) = self
            .roster
            .tracks
            .drain(..)
            .partition(|t| t.key.peer == key);
        self.roster.tracks = others;
        self.roster.tracks.extend(tracks.clone());
        let gone: Vec<_> = old
            .iter()
            .filter(|t| !tracks.contains(t))
            .cloned()
            .collect();
        let new: Vec<_> = tracks
            .iter()
            .filter(|t| !old.contains(t))
            .cloned()
            .collect();
        if !gone.is_empty() {
            self.change(key, Change::TracksUnpublished(gone));
        }
        if !new.is_empty() {
            self.change(key, Change::TracksPublished(new));
        }
    }

    /// A member's socket goes away.
    pub fn drop_socket(&mut self, index: usize) {
        let now = self.now;
        self.members[index].session.handle_closed(now);
        self.settle();
    }

    /// What flows to a member: `<peer> <track>` as its client sees it, checked against what the
    /// shard was told.
    pub fn flows(&self, index: usize) -> BTreeSet<String> {
        let member = &self.members[index];
        let seen: BTreeSet<String> = member
            .client
            .sections
            .iter()
            .filter_map(|s| s.remote.as_ref())
            .map(|m| format!("{} {}", m.stream, m.track.as_deref().unwrap()))
            .collect();
        let sent: BTreeSet<String> = member
            .subscriptions
            .iter()
            .filter(|s| s.active)
            .filter_map(|s| {
                let source = self.roster.tracks.iter().find(|t| t.key == s.source)?;
                assert!(
                    self.members
                        .iter()
                        .any(|m| m.tracks.iter().any(|t| t.key == s.source)),
                    "the source is not configured"
                );
                Some(format!("{} {}", source.peer, source.id))
            })
            .collect();
        assert_eq!(seen, sent, "client and shard agree for {}", member.id);
        seen
    }
}

/// A set of texts.
pub fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}
