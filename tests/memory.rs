//! What one more subscription costs, in bytes that stay allocated: on the shard that holds its subscriber and in that
//! one's session. The packet cache is not part of it: it belongs to the track.
//!
//! What is needed only while a description is being exchanged is not here, because it is given back; `shardcast load --idle --server-pid` measures the whole.

#[path = "support/shard_world.rs"]
mod support;
#[path = "support/weighing.rs"]
mod weighing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use shardcast::base::ids::{
    MediaKind, PayloadType, PeerId, PeerKey, RoomId, ShardId, Ssrc, TrackId, TrackKey,
};
use shardcast::control::{
    Event, Fingerprint, FingerprintAlgorithm, JoinRequest, Joined, PeerInfo, SrtpProfile,
    SubscriptionConfig, TrackConfig, TrackInfo, TransportEvent,
};
use shardcast::coordinator::{Limits, Stripe};
use shardcast::signaling::session::{Output, Session, SessionConfig};
use shardcast::wire::codec::{Codec, CodecMapping};
use support::{Rtp, World, codec, subscription, track};
use weighing::live_bytes;

/// Bytes of a further subscription on its shard, at most.
const SHARD_BYTES_MAX: i64 = 850;
/// The same of one that follows its second source, whose pictures it has to number anew and may get in part.
const SELECTING_BYTES_MAX: i64 = 1750;
/// Bytes of a further subscription in its session and the coordinator, at most. Both together stay below 2 KiB, which
/// leaves some for what tests do not see (queues, the kernel).
const SESSION_BYTES_MAX: i64 = 256;
/// Bytes that one more peer in a room costs each session of it, at most, if it publishes nothing.
const PEER_BYTES_MAX: i64 = 32;

/// How many tracks there are at first, and how many more.
const FEW: usize = 2;
const FURTHER: usize = 40;
/// How many subscribe to them.
const SUBSCRIBERS: usize = 8;

// ---------------------------------------------------------------------------------------------
// The shard
// ---------------------------------------------------------------------------------------------

/// What browsers agree on with this server, more or less.
fn codecs(kind: MediaKind) -> Vec<CodecMapping> {
    let rtx = |mapping: CodecMapping| CodecMapping {
        rtx: Some(PayloadType(mapping.payload_type.0 + 1)),
        nack: true,
        transport_cc: true,
        ..mapping
    };
    match kind {
        MediaKind::Audio => vec![codec(111, Codec::Opus), codec(63, Codec::Red)],
        MediaKind::Video => [
            codec(96, Codec::Vp8),
            codec(98, Codec::Vp9 { profile: 0 }),
            codec(100, Codec::Vp9 { profile: 2 }),
            codec(45, Codec::Av1 { profile: 0 }),
        ]
        .map(rtx)
        .to_vec(),
    }
}

/// What the tracks have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Nothing,
    Packets,
    /// And more, with numbers that begin anew.
    OfTwoSources,
}

/// The bytes that a shard takes once each of the subscribers receives `count` of the tracks.
fn shard_bytes(kind: MediaKind, count: usize, media: Media) -> i64 {
    let mut world = World::new();
    let publisher = world.join("room");
    let tracks: Vec<TrackConfig> = (0..(FEW + FURTHER) as u32)
        .map(|index| track(&world, publisher, index, &codecs(kind)))
        .collect();
    world.configure(publisher, &tracks, &[]);
    let subscribers: Vec<usize> = (0..SUBSCRIBERS).map(|_| world.join("room")).collect();
    let wanted = |count: usize| -> Vec<SubscriptionConfig> {
        // A session makes one list for all its sections that take the same.
        let list: Arc<[CodecMapping]> = codecs(kind).into();
        (0..)
            .zip(&tracks[..count])
            .map(|(number, track)| SubscriptionConfig {
                codecs: Arc::clone(&list),
                rtx_ssrc: (kind == MediaKind::Video).then_some(Ssrc(0x6000_0000 + number)),
                ..subscription(number, track, &[])
            })
            .collect()
    };
    // One by one, as tracks are published while the room is there.
    for count in FEW..=count {
        let wanted = wanted(count);
        for at in &subscribers {
            world.configure(*at, &[], &wanted);
        }
    }
    let frames: Vec<u16> = match media {
        Media::Nothing => Vec::new(),
        Media::Packets => (0..60).collect(),
        Media::OfTwoSources => (0..30).chain(20_000..20_030).collect(),
    };
    for frame in frames {
        for (index, track) in (0..).zip(&tracks) {
            let mid = index.to_string();
            let packet = Rtp {
                ssrc: track.encodings[0].ssrc.unwrap().0,
                seq: frame,
                timestamp: u32::from(frame) * 3000,
                payload_type: track.codecs[0].payload_type.0,
                extensions: &[(4, mid.as_bytes())],
                // VP8 with a picture id of its own, all of them keyframes.
                payload: &[0x90, 0x80, frame as u8 & 0x7f, 0, 2, 3, 4, 5, 6, 7, 8],
            };
            world.send_rtp(publisher, &packet.bytes());
        }
        world.advance(Duration::from_millis(33));
    }
    // What the clients keep is not the shard's.
    (world.events, world.clients) = (Vec::new(), Vec::new());
    live_bytes()
}

/// Run in a thread of its own, whose allocations are all that is counted.
fn alone<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(run).join().unwrap()
}

fn shard_bytes_each(kind: MediaKind, media: Media) -> i64 {
    // What is made once in a process (identities, tables) is made before.
    alone(move || shard_bytes(kind, FEW, Media::Nothing));
    let few = alone(move || shard_bytes(kind, FEW, media));
    let many = alone(move || shard_bytes(kind, FEW + FURTHER, media));
    (many - few) / (FURTHER * SUBSCRIBERS) as i64
}

#[test]
fn a_further_subscription_is_small_on_its_shard() {
    for kind in [MediaKind::Audio, MediaKind::Video] {
        for media in [Media::Nothing, Media::Packets, Media::OfTwoSources] {
            let bytes = shard_bytes_each(kind, media);
            println!("{kind}, {media:?}: {bytes} bytes");
            assert!(bytes > 200, "{bytes} bytes: is anything counted?");
            let max = match (kind, media) {
                (MediaKind::Video, Media::OfTwoSources) => SELECTING_BYTES_MAX,
                _ => SHARD_BYTES_MAX,
            };
            assert!(bytes <= max, "{kind}, {media:?}: {bytes} bytes");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// The session
// ---------------------------------------------------------------------------------------------

/// A room of sessions over the real coordinator.
struct Sessions {
    now: Instant,
    stripe: Stripe<usize>,
    room: RoomId,
    members: Vec<Member>,
    next_key: u64,
}

struct Member {
    session: Session,
    key: PeerKey,
    /// How many sections its client has described.
    sections: usize,
}

impl Sessions {
    fn new() -> Self {
        let limits = Limits {
            peers_per_room_max: 10_000,
        };
        Self {
            now: Instant::now(),
            stripe: Stripe::new(limits),
            room: RoomId::new("room").unwrap(),
            members: Vec::new(),
            next_key: 1,
        }
    }

    fn take_key(&mut self) -> PeerKey {
        self.next_key += 1;
        PeerKey(self.next_key - 1)
    }

    /// A peer without a session joins: what it publishes and that it is there is all that is of interest. Nobody is told.
    fn join_other(&mut self, published: Option<MediaKind>) {
        let key = self.take_key();
        let id = PeerId::new(&format!("a peer with some name {key}")).unwrap();
        let request = JoinRequest {
            room: self.room.clone(),
            info: Arc::new(PeerInfo {
                id: id.clone(),
                name: Some("Ann Other".into()),
                metadata: None,
            }),
        };
        let outcome = (self.stripe).join(key, request, usize::MAX, |_| Some(ShardId(0)));
        outcome.unwrap();
        let Some(kind) = published else { return };
        let track = TrackInfo {
            key: TrackKey {
                peer: key,
                index: 0,
            },
            peer: id,
            id: TrackId::new(&format!("a-track-id-as-browsers-make-{key}")).unwrap(),
            kind,
            shard: ShardId(0),
        };
        (self.stripe).set_tracks(&self.room, key, vec![Arc::new(track)]);
    }

    /// A client that watches.
    fn join_viewer(&mut self) {
        let config = Arc::new(SessionConfig {
            fingerprint: Fingerprint {
                algorithm: FingerprintAlgorithm::Sha256,
                digest: vec![0xab; 32],
            },
            ice_servers: Arc::from([]),
        });
        let member = self.members.len();
        let rng = StdRng::seed_from_u64(member as u64);
        self.members.push(Member {
            session: Session::new(self.now, config, rng),
            key: PeerKey(0),
            sections: 0,
        });
        let data =
            json!({"self_id": format!("viewer {member}"), "room_id": "room", "offerer": "server"});
        let text = json!({"event": "joinRoom", "data": data}).to_string();
        self.members[member].session.handle_text(self.now, &text);
        self.drain(member);
        let profile = SrtpProfile::AeadAes128Gcm;
        let event = TransportEvent::Connected { profile };
        let event = Event::Transport(self.members[member].key, event);
        self.members[member].session.handle_event(self.now, event);
        self.drain(member);
    }

    fn tell(&mut self, members: Vec<usize>) {
        self.now += Duration::from_secs(1);
        for member in members {
            let session = &mut self.members[member].session;
            session.handle_activity(self.now);
            session.handle_event(self.now, Event::RoomChanged);
            self.drain(member);
        }
    }

    fn drain(&mut self, at: usize) {
        let now = self.now;
        while let Some(output) = self.members[at].session.poll_output() {
            match output {
                Output::Join(request) => {
                    let key = self.take_key();
                    let outcome = self.stripe.join(key, request, at, |_| Some(ShardId(0)));
                    let outcome = outcome.unwrap();
                    let joined = Joined {
                        key,
                        shard: outcome.shard,
                        addresses: Arc::from(["192.0.2.1:40000".parse().unwrap()]),
                        roster: outcome.roster,
                    };
                    self.members[at].key = key;
                    self.members[at].session.handle_joined(now, Ok(joined));
                    self.tell(outcome.notify);
                }
                Output::PullChanges(since) => {
                    let member = &mut self.members[at];
                    let changes = self.stripe.changes_since(&self.room, member.key, since);
                    member.session.handle_changes(now, changes);
                }
                Output::Send(text) => self.take_frame(at, &text),
                Output::Close(reason) => panic!("{reason:?}"),
                _ => {}
            }
        }
    }

    fn take_frame(&mut self, at: usize, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        assert_ne!(frame["event"], "error", "{text}");
        if frame["event"] != "offer" {
            return;
        }
        let offer: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        let sdp = answer(offer["sdp"].as_str().unwrap());
        self.members[at].sections = sdp.matches("\r\nm=").count();
        let data = json!({"answer": {"type": "answer", "sdp": sdp}});
        let text = json!({"event": "answer", "data": data}).to_string();
        self.members[at].session.handle_text(self.now, &text);
    }
}

/// A viewer's answer that takes all of an offer.
fn answer(offer: &str) -> String {
    let is_kept = |line: &&str| {
        let of_the_sender = ["a=msid:", "a=ssrc", "a=ice-lite"];
        !of_the_sender.iter().any(|start| line.starts_with(start))
    };
    let lines = offer.split("\r\n").filter(is_kept);
    let lines = lines.map(|line| match line {
        "a=sendonly" | "a=sendrecv" => "a=recvonly",
        "a=setup:actpass" => "a=setup:active",
        line => line,
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

/// The bytes that sessions and coordinator take once `count` tracks are received and `idle` further peers are there.
fn session_bytes(viewers: usize, kind: MediaKind, count: usize, idle: usize) -> i64 {
    let mut sessions = Sessions::new();
    for _ in 0..viewers {
        sessions.join_viewer();
    }
    let tracks = std::iter::repeat_n(Some(kind), count);
    for (at, published) in (1..).zip(tracks.chain(std::iter::repeat_n(None, idle))) {
        sessions.join_other(published);
        if at % 10 == 0 || at == count + idle {
            sessions.tell((0..viewers).collect());
        }
    }
    for member in &sessions.members {
        assert_eq!(member.sections, count, "each track has its section");
    }
    live_bytes()
}

#[test]
fn a_further_subscription_is_small_in_its_session() {
    for kind in [MediaKind::Audio, MediaKind::Video] {
        let of = |count| alone(move || session_bytes(SUBSCRIBERS, kind, count, 0));
        let (_warm_up, few, many) = (of(FEW), of(FEW), of(FEW + FURTHER));
        let bytes = (many - few) / (FURTHER * SUBSCRIBERS) as i64;
        println!("{kind}: {bytes} bytes");
        assert!(bytes > 50, "{bytes} bytes: is anything counted?");
        assert!(bytes <= SESSION_BYTES_MAX, "{kind}: {bytes} bytes");
    }
}

/// Rooms of hundreds have mostly peers that only watch; each session knows of all of them.
#[test]
fn a_further_peer_is_small_in_the_sessions_of_others() {
    const IDLE: usize = 300;
    let of = |viewers, idle| alone(move || session_bytes(viewers, MediaKind::Video, FEW, idle));
    let further = |viewers| of(viewers, 2 * IDLE) - of(viewers, IDLE);
    // What the coordinator keeps of a peer, it keeps once.
    let bytes = (further(SUBSCRIBERS) - further(0)) / (IDLE * SUBSCRIBERS) as i64;
    println!("{bytes} bytes");
    assert!(bytes > 10, "{bytes} bytes: is anything counted?");
    assert!(bytes <= PEER_BYTES_MAX, "{bytes} bytes");
}
