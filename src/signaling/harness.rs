//! Test support: a client that behaves as a browser's peer connection does, and a room in which
//! sessions and such clients are wired to each other by a coordinator of plain data.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::ids::{MediaKind, Mid, PeerId, PeerKey, ShardId, Ssrc};
use crate::control::{
    Change, Changes, Command, Event, Fingerprint, FingerprintAlgorithm, Joined, Revision, Roster,
    SrtpProfile, SubscriptionConfig, TrackConfig, TrackInfo, TransportEvent,
};
use crate::signaling::message::IceServer;
use crate::signaling::session::{CloseReason, Output, Session, SessionConfig};
use crate::wire::sdp::{
    self, Description, Direction, FingerprintLine, IceLines, Media, Msid, Setup,
};

pub const CHROMIUM: &str = include_str!("../../fuzz/seeds/sdp/chromium-sendrecv.sdp");

/// What a browser keeps of one m-line.
#[derive(Debug, Clone)]
pub struct ClientSection {
    pub mid: Mid,
    pub media: Media,
    pub sends: Option<Msid>,
    pub wants: bool,
    pub stopped: bool,
    /// What the server sends there.
    pub remote: Option<Msid>,
}

type Pending = (MediaKind, Option<Msid>, bool);

/// A browser's peer connection as far as its descriptions go.
#[derive(Debug)]
pub struct Client {
    pub sections: Vec<ClientSection>,
    /// Added, in no section yet: kind, what it sends, whether it receives.
    pub pending: Vec<Pending>,
    /// An offer of ours waits for an answer: how it was before.
    local_offer: Option<(Vec<ClientSection>, Vec<Pending>)>,
    pub dirty: bool,
    pub rolled_back: usize,
    /// Refuse new sections of this kind in answers.
    pub rejects: Option<MediaKind>,
    pub ufrag: String,
    pub fingerprint: u8,
    pub setup: Setup,
    next_mid: u32,
    template: Description,
    ssrcs_seen: HashMap<Ssrc, Msid>,
    pub server_ufrag: String,
    pub candidates: usize,
}

impl Client {
    pub fn new(template: &str) -> Self {
        Self {
            sections: Vec::new(),
            pending: Vec::new(),
            local_offer: None,
            dirty: false,
            rolled_back: 0,
            rejects: None,
            ufrag: "ufr1".to_owned(),
            fingerprint: 7,
            setup: Setup::ActPass,
            next_mid: 0,
            template: Description::parse(template).unwrap(),
            ssrcs_seen: HashMap::new(),
            server_ufrag: String::new(),
            candidates: 0,
        }
    }

    /// `addTrack`: takes the first section of that kind on which nothing was ever sent.
    pub fn add_track(&mut self, kind: MediaKind, stream: &str, track: &str) {
        let msid = Msid {
            stream: stream.to_owned(),
            track: Some(track.to_owned()),
        };
        self.dirty = true;
        let free = self
            .sections
            .iter_mut()
            .find(|s| s.media == Media::Rtp(kind) && s.sends.is_none() && !s.stopped);
        match free {
            Some(section) => section.sends = Some(msid),
            None => self.pending.push((kind, Some(msid), true)),
        }
    }

    /// `addTransceiver(kind, {direction: "recvonly"})`
    pub fn add_receiver(&mut self, kind: MediaKind) {
        self.dirty = true;
        self.pending.push((kind, None, true));
    }

    pub fn offer(&mut self) -> String {
        self.local_offer = Some((self.sections.clone(), self.pending.clone()));
        self.dirty = false;
        for (kind, sends, wants) in std::mem::take(&mut self.pending) {
            self.sections.push(ClientSection {
                mid: Mid::new(&self.next_mid.to_string()).unwrap(),
                media: Media::Rtp(kind),
                sends,
                wants,
                stopped: false,
                remote: None,
            });
            self.next_mid += 1;
        }
        let sections = self
            .sections
            .iter()
            .map(|section| {
                let mut described = self.blank(section);
                described.direction = Direction::new(section.sends.is_some(), section.wants);
                described.setup = Some(self.setup);
                if let Some(template) = self.template_of(&section.media) {
                    described.codecs.clone_from(&template.codecs);
                    described.payload_types.clone_from(&template.payload_types);
                    described.extensions = template.extensions;
                }
                described
            })
            .collect();
        self.print(sections)
    }

    /// `setRemoteDescription` of an answer.
    pub fn take_answer(&mut self, text: &str) {
        assert!(self.local_offer.take().is_some(), "an answer to nothing");
        let answer = self.check(text);
        assert_eq!(answer.sections.len(), self.sections.len());
        for (section, described) in self.sections.iter_mut().zip(&answer.sections) {
            assert_eq!(section.mid, described.mid);
            if described.rejected {
                section.stopped = true;
                section.remote = None;
                continue;
            }
            assert_ne!(described.setup, Some(Setup::ActPass));
            assert!(!described.direction.sends() || section.wants);
            assert!(!described.direction.receives() || section.sends.is_some());
            section.remote = described.msid.clone();
        }
    }

    /// `setRemoteDescription` of an offer, rolling back what is our own, and the answer.
    pub fn answer(&mut self, text: &str) -> String {
        if let Some((sections, pending)) = self.local_offer.take() {
            self.sections = sections;
            self.pending = pending;
            self.rolled_back += 1;
            self.dirty = true;
        }
        let offer = self.check(text);
        assert!(offer.sections.len() >= self.sections.len());
        let mut answered = Vec::new();
        for (index, described) in offer.sections.iter().enumerate() {
            let known = self.sections.get(index).filter(|s| s.mid == described.mid);
            let mut section = match known {
                Some(section) => section.clone(),
                None => {
                    if let Some(former) = self.sections.get(index) {
                        assert!(former.stopped, "only stopped sections are recycled");
                    }
                    let sends = self
                        .pending
                        .iter()
                        .position(|(kind, msid, _)| {
                            described.media == Media::Rtp(*kind)
                                && msid.is_some()
                                && described.direction.receives()
                        })
                        .and_then(|at| self.pending.remove(at).1);
                    ClientSection {
                        mid: described.mid,
                        media: described.media.clone(),
                        sends,
                        wants: true,
                        stopped: self
                            .rejects
                            .is_some_and(|k| described.media == Media::Rtp(k)),
                        remote: None,
                    }
                }
            };
            section.stopped |= described.rejected;
            let direction = Direction::new(
                section.sends.is_some() && described.direction.receives() && !section.stopped,
                section.wants && described.direction.sends() && !section.stopped,
            );
            section.remote = described.msid.clone().filter(|_| direction.receives());
            let mut own = self.blank(&section);
            own.direction = direction;
            own.setup = Some(Setup::Active);
            if !direction.sends() {
                (own.msid, own.ssrcs) = (None, Vec::new());
            }
            if let Some(template) = self.template_of(&section.media) {
                own.codecs = described.codecs.clone();
                own.codecs.retain(|l| {
                    template
                        .codecs
                        .iter()
                        .any(|t| t.mapping.codec == l.mapping.codec)
                });
                own.payload_types = own
                    .codecs
                    .iter()
                    .flat_map(|l| [Some(l.mapping.payload_type), l.mapping.rtx])
                    .flatten()
                    .collect();
                own.extensions = described.extensions;
            }
            answered.push(own);
            if index < self.sections.len() {
                self.sections[index] = section;
            } else {
                self.sections.push(section);
            }
        }
        self.print(answered)
    }

    /// What a browser would find wrong with the server's description, and what nobody may do.
    fn check(&mut self, text: &str) -> Description {
        let description = Description::parse(text).unwrap();
        assert!(description.ice_lite);
        let mut payload_types = HashMap::new();
        let mut extension_ids = HashMap::new();
        let mut ssrcs = BTreeSet::new();
        for section in description.sections.iter().filter(|s| !s.rejected) {
            let Media::Rtp(_) = section.media else {
                panic!("only audio and video are served");
            };
            assert!(description.bundle.as_ref().unwrap().contains(&section.mid));
            assert!(section.setup.is_some() && section.rtcp_mux);
            assert_eq!(section.fingerprints.len(), 1);
            let ice = section.ice.as_ref().unwrap();
            if ice.ufrag != self.server_ufrag {
                self.server_ufrag.clone_from(&ice.ufrag);
                self.candidates = 0;
            }
            for line in &section.codecs {
                let codec = line.mapping.codec;
                let before = payload_types.insert(line.mapping.payload_type, codec);
                assert!(before.is_none_or(|before| before == codec));
            }
            for (extension, id) in section.extensions.iter() {
                let before = extension_ids.insert(id, extension);
                assert!(before.is_none_or(|before| before == extension));
            }
            let repairs = section.rtx_ssrcs.iter().map(|(_, rtx)| *rtx);
            for ssrc in section.ssrcs.iter().copied().chain(repairs) {
                assert!(ssrcs.insert(ssrc), "an SSRC twice in one description");
                let msid = section.msid.clone().unwrap();
                let before = self.ssrcs_seen.insert(ssrc, msid.clone());
                assert!(before.is_none_or(|b| b == msid), "an SSRC came back");
            }
            assert_eq!(section.direction.sends(), section.msid.is_some());
        }
        description
    }

    fn template_of(&self, media: &Media) -> Option<&sdp::Section> {
        self.template
            .sections
            .iter()
            .find(|s| s.media == *media && matches!(media, Media::Rtp(_)))
    }

    fn blank(&self, section: &ClientSection) -> sdp::Section {
        let mut blank = self.template.sections[0].clone();
        blank.media = section.media.clone();
        blank.mid = section.mid;
        blank.rejected = section.stopped;
        blank.msid.clone_from(&section.sends);
        blank.codecs.clear();
        blank.payload_types.clear();
        blank.rtx_ssrcs.clear();
        let number = section
            .mid
            .as_bytes()
            .iter()
            .fold(0, |n, b| n * 256 + u32::from(*b));
        blank.ssrcs = section.sends.iter().map(|_| Ssrc(number)).collect();
        blank.ice = Some(IceLines {
            ufrag: self.ufrag.clone(),
            pwd: format!("{}-password-of-the-client", self.ufrag),
        });
        blank.fingerprints = vec![FingerprintLine {
            algorithm: "sha-256".to_owned(),
            digest: vec![self.fingerprint; 32],
        }];
        blank
    }

    fn print(&self, sections: Vec<sdp::Section>) -> String {
        Description {
            session_id: 5,
            session_version: 5,
            ice_lite: false,
            bundle: Some(
                sections
                    .iter()
                    .filter(|s| !s.rejected)
                    .map(|s| s.mid)
                    .collect(),
            ),
            sections,
        }
        .to_string()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Member {
    pub session: Session,
    pub client: Client,
    pub id: String,
    pub key: Option<PeerKey>,
    pub frames: Vec<Value>,
    pub commands: Vec<Command>,
    pub published: Vec<TrackInfo>,
    pub tracks: Vec<TrackConfig>,
    pub subscriptions: Vec<SubscriptionConfig>,
    pub closed: Option<CloseReason>,
    pub pings: usize,
    /// Answers offers and repeats rolled-back offers by itself.
    pub auto: bool,
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
            session: Session::new(self.now, config(), seed),
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
        let event = Event::Transport(TransportEvent::Connected { profile });
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

    fn set_tracks(&mut self, index: usize, tracks: Vec<TrackInfo>) {
        let key = self.members[index].key.unwrap();
        self.members[index].published.clone_from(&tracks);
        self.set_tracks_of(key, tracks);
    }

    fn set_tracks_of(&mut self, key: PeerKey, tracks: Vec<TrackInfo>) {
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
