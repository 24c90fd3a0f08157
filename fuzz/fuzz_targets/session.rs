//! One session from frames to outputs: a client that sends anything (valid descriptions with any
//! sections among it), a coordinator stripe with others who come, go and publish, transport events,
//! and time. The session must not panic, and must keep its promises to the rest of the server.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use shardcast::base::ids::{
    Bitrate, EncodingIndex, MediaKind, PeerId, PeerKey, Rid, RoomId, ShardId, SubscriptionKey,
    TrackId, TrackKey,
};
use shardcast::base::layer_reason::LayerReason;
use shardcast::control::layers::{EncodingWanted, LayerChange, LayersWanted};
use shardcast::control::{
    ActiveSpeakers, Command, Event, Fingerprint, FingerprintAlgorithm, JoinRequest, Joined,
    PeerInfo, Speaker, SrtpProfile, TrackInfo, TransportEvent, TransportFailure,
};
use shardcast::coordinator::{Limits, Stripe};
use shardcast::signaling::session::{Output, Session, SessionConfig};

/// Outputs after one input: more would be a loop.
const OUTPUTS_MAX: usize = 5_000;

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    /// Any text.
    Raw(&'a str),
    /// A known event with any JSON text as data.
    Event(u8, &'a str),
    Join(Option<&'a str>, bool),
    Leave,
    Offer(Sdp<'a>),
    /// Answers the server's last offer, with changes.
    Answer(AnswerChanges),
    Candidate(&'a str),
    Binary,
    Oversized,
    /// Milliseconds pass.
    Wait(u16),
    /// Somebody else joins, or leaves if there already.
    Other(u8),
    /// Somebody else publishes these kinds.
    Publish(u8, u8),
    Transport(u8),
    Replaced,
    Shutdown,
}

#[derive(Debug, Arbitrary)]
struct Sdp<'a> {
    sections: Vec<Section<'a>>,
    fingerprint: bool,
    setup: u8,
    restart: bool,
    tail: &'a str,
}

#[derive(Debug, Arbitrary)]
struct Section<'a> {
    video: bool,
    direction: u8,
    rejected: bool,
    mid: u8,
    codecs: u8,
    numbers: u8,
    msid: Option<u8>,
    ssrc: Option<u32>,
    extra: &'a str,
}

#[derive(Debug, Arbitrary)]
struct AnswerChanges {
    /// Bits say which sections are refused.
    rejected: u16,
    /// Bits say which are inactive.
    inactive: u16,
    /// Lines to leave out, by index.
    dropped: Option<u8>,
    sends: bool,
}

struct Stage {
    now: Instant,
    session: Session,
    stripe: Stripe<u64>,
    room: Option<RoomId>,
    key: PeerKey,
    next_key: u64,
    others: HashMap<u8, (PeerKey, u32)>,
    last_offer: Option<String>,
    closed: bool,
    added: HashSet<PeerKey>,
    sections_configured: usize,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let seed = input.arbitrary().unwrap_or(0);
    let mut stage = Stage::new(seed);
    while let Ok(step) = Step::arbitrary(&mut input) {
        stage.take(&step);
        stage.drain();
        if input.is_empty() || stage.closed {
            break;
        }
    }
    stage.session.handle_closed(stage.now);
    stage.drain();
    assert!(
        stage.added.is_empty(),
        "a closed session leaves no peer behind"
    );
});

impl Stage {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let config = SessionConfig {
            fingerprint: Fingerprint {
                algorithm: FingerprintAlgorithm::Sha256,
                digest: vec![7; 32],
            },
            ice_servers: Arc::from([]),
        };
        Self {
            now,
            session: Session::new(now, Arc::new(config), StdRng::seed_from_u64(seed)),
            stripe: Stripe::new(Limits {
                peers_per_room_max: 20,
            }),
            room: None,
            key: PeerKey(0),
            next_key: 1,
            others: HashMap::new(),
            last_offer: None,
            closed: false,
            added: HashSet::new(),
            sections_configured: 0,
        }
    }

    fn take(&mut self, step: &Step<'_>) {
        let now = self.now;
        match step {
            Step::Raw(text) => self.session.handle_text(now, text),
            Step::Event(which, data) => {
                let events = ["joinRoom", "leaveRoom", "offer", "answer", "ice-candidate"];
                // Above the others, so that the seeds keep their meaning.
                let event = match *which >= 250 {
                    true => "subscribe",
                    false => events[usize::from(*which) % events.len()],
                };
                let text = format!("{{\"event\":\"{event}\",\"data\":{data}}}");
                self.session.handle_text(now, &text);
            }
            Step::Join(name, server_offers) => {
                let mut data = json!({"self_id": "me", "room_id": "room"});
                if let Some(name) = name {
                    data["name"] = json!(name);
                }
                if *server_offers {
                    data["offerer"] = json!("server");
                }
                self.frame("joinRoom", data);
            }
            Step::Leave => self.frame("leaveRoom", json!({})),
            Step::Offer(sdp) => {
                let sdp = sdp.to_text();
                self.frame("offer", json!({"offer": {"type": "offer", "sdp": sdp}}));
            }
            Step::Answer(changes) => {
                let sdp = changes.answer(self.last_offer.as_deref().unwrap_or(""));
                self.frame("answer", json!({"answer": {"type": "answer", "sdp": sdp}}));
            }
            Step::Candidate(text) => {
                let candidate = json!({"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0});
                self.frame("ice-candidate", json!({"candidate": candidate}));
            }
            Step::Binary => self.session.handle_binary(now),
            Step::Oversized => self.session.handle_oversized(now),
            Step::Wait(ms) => self.wait(Duration::from_millis(u64::from(*ms))),
            Step::Other(who) => self.other(*who % 8),
            Step::Publish(who, kinds) => self.publish(*who % 8, *kinds),
            Step::Transport(which) => self.transport(*which),
            Step::Replaced => self.session.handle_event(now, Event::Replaced(self.key)),
            Step::Shutdown => self.session.handle_event(now, Event::Shutdown),
        }
    }

    fn frame(&mut self, event: &str, data: Value) {
        let text = json!({"event": event, "data": data}).to_string();
        self.session.handle_text(self.now, &text);
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..1000 {
            match self.session.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.session.handle_timeout(self.now);
                    self.drain();
                    if self.closed {
                        return;
                    }
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("a deadline that does not move");
    }

    fn other(&mut self, who: u8) {
        let Some(room) = self.room.clone() else {
            return;
        };
        let told = if let Some((key, _)) = self.others.remove(&who) {
            self.stripe.leave(&room, key).map(|left| left.notify)
        } else {
            let key = PeerKey(self.next_key);
            self.next_key += 1;
            self.others.insert(who, (key, 0));
            let request = JoinRequest {
                room,
                info: Arc::new(PeerInfo {
                    id: PeerId::new(&format!("other {who}")).expect("printable"),
                    name: None,
                    metadata: None,
                }),
            };
            let joined = self.stripe.join(key, request, key.0, |_| Some(ShardId(0)));
            joined.ok().map(|joined| joined.notify)
        };
        self.tell(told.unwrap_or_default());
    }

    fn publish(&mut self, who: u8, kinds: u8) {
        let Some(room) = self.room.clone() else {
            return;
        };
        let Some((key, next)) = self.others.get_mut(&who) else {
            return;
        };
        let tracks = (0..8)
            .filter(|bit| kinds & (1 << bit) != 0)
            .map(|bit| {
                *next += 1;
                Arc::new(TrackInfo {
                    key: TrackKey {
                        peer: *key,
                        index: *next,
                    },
                    peer: PeerId::new(&format!("other {who}")).expect("printable"),
                    id: TrackId::new(&format!("track {bit}")).expect("printable"),
                    kind: if bit % 2 == 0 {
                        MediaKind::Audio
                    } else {
                        MediaKind::Video
                    },
                    shard: ShardId(0),
                })
            })
            .collect();
        let told = self.stripe.set_tracks(&room, *key, tracks);
        self.tell(told);
    }

    fn tell(&mut self, told: Vec<u64>) {
        if self.room.is_some() && told.contains(&self.key.0) {
            self.session.handle_event(self.now, Event::RoomChanged);
        }
    }

    fn transport(&mut self, which: u8) {
        // Above the others, so that the seeds keep their meaning.
        if which >= 240 {
            return self.layer(which - 240);
        }
        if which >= 224 {
            return self.speakers(which - 224);
        }
        let event = match which % 6 {
            0 => TransportEvent::Connected {
                profile: SrtpProfile::AeadAes128Gcm,
            },
            1 => TransportEvent::ConsentLost,
            2 => TransportEvent::ConsentRegained,
            3 => TransportEvent::Failed(TransportFailure::FingerprintMismatch),
            4 => TransportEvent::Failed(TransportFailure::DtlsHandshake),
            _ => TransportEvent::Failed(TransportFailure::DtlsClosed),
        };
        self.session
            .handle_event(self.now, Event::Transport(self.key, event));
    }

    /// Others speak than before, the client itself and peers that nobody has heard of among them; or somebody of a
    /// former stay is told that.
    fn speakers(&mut self, which: u8) {
        let strangers = [self.key, PeerKey(u64::MAX), PeerKey(0)];
        let mut known: Vec<PeerKey> = self.others.values().map(|(key, _)| *key).collect();
        known.sort_unstable();
        let all = known.into_iter().chain(strangers);
        let speakers = all.take(usize::from(which)).map(|peer| Speaker {
            peer,
            level: which.wrapping_mul(17),
        });
        let speakers: Vec<Speaker> = speakers.collect();
        let dominant = speakers.get(usize::from(which / 2)).map(|s| s.peer);
        let told = match which {
            15 => PeerKey(self.key.0.wrapping_sub(1)),
            _ => self.key,
        };
        let news = Arc::new(ActiveSpeakers { dominant, speakers });
        let event = Event::Speakers(told, news);
        self.session.handle_event(self.now, event);
    }

    /// A subscription's layer changes, or (of a track of its own) what others want.
    fn layer(&mut self, which: u8) {
        let source = self.others.values().next().map(|(key, next)| TrackKey {
            peer: *key,
            index: *next,
        });
        let own = TrackKey {
            peer: self.key,
            index: u32::from(which),
        };
        let event = match source.filter(|_| which % 2 == 0) {
            Some(track) => Event::Layer(
                self.key,
                LayerChange {
                    subscription: SubscriptionKey(1),
                    track,
                    layer: None,
                    rid: Rid::new("q"),
                    reason: LayerReason::ALL[usize::from(which) % LayerReason::COUNT],
                    available: Some(Bitrate(u64::MAX)),
                    bitrate: Bitrate(0),
                    next: Some(Bitrate(1)),
                    size: Some((u16::MAX, 0)),
                },
            ),
            None => Event::LayersWanted(
                self.key,
                LayersWanted {
                    track: own,
                    encodings: vec![EncodingWanted {
                        index: EncodingIndex(0),
                        rid: None,
                        is_wanted: which > 7,
                    }],
                },
            ),
        };
        self.session.handle_event(self.now, event);
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            match self.session.poll_output() {
                Some(output) => self.perform(output),
                None => return,
            }
        }
        panic!("the outputs do not end");
    }

    fn perform(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Send(text) => self.check_frame(&text),
            Output::Ping => {}
            Output::Join(request) => self.join(request),
            Output::Leave => {
                let room = self.room.take().expect("leaves only where it joined");
                self.stripe.leave(&room, self.key);
            }
            Output::SetTracks(tracks) => {
                let room = self.room.clone().expect("publishes only where it joined");
                let ids: HashSet<_> = tracks.iter().map(|track| track.id.clone()).collect();
                assert_eq!(ids.len(), tracks.len(), "track ids are unique");
                assert!(tracks.iter().all(|track| track.key.peer == self.key));
                self.stripe.set_tracks(&room, self.key, tracks);
            }
            Output::PullChanges(since) => {
                let room = self.room.clone();
                let changes = room.and_then(|r| self.stripe.changes_since(&r, self.key, since));
                self.session.handle_changes(now, changes);
            }
            Output::Shard(command) => self.check_command(command),
            Output::Close(_) => self.closed = true,
        }
    }

    fn join(&mut self, request: JoinRequest) {
        assert!(self.room.is_none(), "one room at a time");
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        let room = request.room.clone();
        let outcome = self.stripe.join(key, request, key.0, |_| Some(ShardId(0)));
        let result = outcome.map(|outcome| Joined {
            key,
            shard: outcome.shard,
            addresses: Arc::new(["192.0.2.1:40000".parse().expect("an address")]),
            roster: outcome.roster,
        });
        if result.is_ok() {
            self.key = key;
            self.room = Some(room);
        }
        self.session.handle_joined(self.now, result);
    }

    fn check_frame(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        let event = frame["event"].as_str().expect("an event");
        if event == "offer" {
            let inner = frame["data"].as_str().expect("a JSON string");
            let inner: Value = serde_json::from_str(inner).expect("that holds JSON");
            self.last_offer = inner["sdp"].as_str().map(str::to_owned);
        }
    }

    fn check_command(&mut self, command: Command) {
        assert_eq!(command.peer(), self.key, "commands are for the own peer");
        match command {
            Command::AddPeer { peer, .. } => assert!(self.added.insert(peer), "added once"),
            Command::RemovePeer { peer } => assert!(self.added.remove(&peer), "was added"),
            Command::Prefer { peer, preferences } => {
                assert!(self.added.contains(&peer), "added before");
                let tracks: HashSet<_> = preferences.tracks.iter().map(|(key, _)| *key).collect();
                assert_eq!(tracks.len(), preferences.tracks.len(), "each track once");
            }
            Command::Configure {
                tracks,
                subscriptions,
                peer,
            } => {
                assert!(self.added.contains(&peer), "added before");
                self.sections_configured = tracks.len() + subscriptions.len();
                let ssrcs: HashSet<_> = subscriptions.iter().map(|s| s.ssrc).collect();
                assert_eq!(ssrcs.len(), subscriptions.len(), "own SSRCs");
                let keys: HashSet<_> = subscriptions.iter().map(|s| s.key).collect();
                assert_eq!(keys.len(), subscriptions.len(), "own keys");
                let mids: HashSet<_> = subscriptions.iter().map(|s| s.mid).collect();
                assert_eq!(mids.len(), subscriptions.len(), "one a section");
            }
            Command::SetRemoteDtls {
                fingerprints, peer, ..
            } => {
                assert!(self.added.contains(&peer), "added before");
                assert!(!fingerprints.is_empty(), "something to compare with");
            }
            Command::RestartIce { peer, .. } => assert!(self.added.contains(&peer)),
        }
    }
}

const DIRECTIONS: [&str; 4] = ["sendrecv", "sendonly", "recvonly", "inactive"];

impl Sdp<'_> {
    fn to_text(&self) -> String {
        let mut text = String::from("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
        let mids: Vec<String> = self.sections.iter().map(|s| s.mid.to_string()).collect();
        text += &format!("a=group:BUNDLE {}\r\n", mids.join(" "));
        let ufrag = if self.restart { "abcd" } else { "efgh" };
        text += &format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{}\r\n", "p".repeat(24));
        if self.fingerprint {
            let digest = ["AB"; 32].join(":");
            text += &format!("a=fingerprint:sha-256 {digest}\r\n");
        }
        let setup = ["actpass", "active", "passive", "holdconn"][usize::from(self.setup) % 4];
        text += &format!("a=setup:{setup}\r\n");
        for section in &self.sections {
            section.write(&mut text);
        }
        text.push_str(self.tail);
        text
    }
}

impl Section<'_> {
    fn write(&self, text: &mut String) {
        let (kind, codecs): (_, &[&str]) = if self.video {
            (
                "video",
                &[
                    "VP8/90000",
                    "VP9/90000",
                    "H264/90000",
                    "AV1/90000",
                    "rtx/90000",
                ],
            )
        } else {
            ("audio", &["opus/48000/2", "red/48000/2", "PCMU/8000"])
        };
        let base = 96 + self.numbers % 20;
        let chosen: Vec<(u8, &str)> = codecs
            .iter()
            .enumerate()
            .filter(|(at, _)| self.codecs & (1 << at) != 0)
            .map(|(at, name)| (base + at as u8, *name))
            .collect();
        let numbers: Vec<String> = chosen.iter().map(|(pt, _)| pt.to_string()).collect();
        let port = if self.rejected { 0 } else { 9 };
        *text += &format!(
            "m={kind} {port} UDP/TLS/RTP/SAVPF {}\r\na=mid:{}\r\na=rtcp-mux\r\na={}\r\n",
            numbers.join(" "),
            self.mid,
            DIRECTIONS[usize::from(self.direction) % 4]
        );
        *text += "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n";
        for (pt, name) in chosen {
            *text += &format!("a=rtpmap:{pt} {name}\r\na=rtcp-fb:{pt} nack\r\n");
            if name.starts_with("rtx") {
                *text += &format!("a=fmtp:{pt} apt={base}\r\n");
            }
        }
        if let Some(track) = self.msid {
            *text += &format!("a=msid:stream track{track}\r\n");
        }
        if let Some(ssrc) = self.ssrc {
            *text += &format!("a=ssrc:{ssrc} cname:c\r\n");
        }
        text.push_str(self.extra);
        if !self.extra.is_empty() {
            *text += "\r\n";
        }
    }
}

impl AnswerChanges {
    /// Turns an offer round as a client would, and then some.
    fn answer(&self, offer: &str) -> String {
        let mut text = String::new();
        let mut section = 0u32;
        for (index, line) in offer.split("\r\n").enumerate() {
            if self.dropped.is_some_and(|d| usize::from(d) == index) || line.is_empty() {
                continue;
            }
            if line.starts_with("m=") {
                section += 1;
            }
            let bit = 1u16 << (section.saturating_sub(1) % 16);
            let line = match line {
                "a=ice-lite" => continue,
                "a=setup:actpass" => "a=setup:active".to_owned(),
                "a=sendonly" | "a=sendrecv" if self.inactive & bit != 0 => "a=inactive".to_owned(),
                "a=sendonly" => "a=recvonly".to_owned(),
                "a=recvonly" if self.sends => "a=sendonly".to_owned(),
                "a=recvonly" => "a=inactive".to_owned(),
                m if m.starts_with("m=") && self.rejected & bit != 0 => m.replacen(" 9 ", " 0 ", 1),
                other if other.starts_with("a=ssrc") || other.starts_with("a=msid") => continue,
                other => other.to_owned(),
            };
            text += &line;
            text += "\r\n";
        }
        text
    }
}
