//! Sessions, with clients and coordinators that are tests.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::base::ids::{
    Bitrate, EncodingIndex, MediaKind, PeerId, ShardId, SubscriptionKey, TrackId, TrackKey,
};
use crate::control::layers::{EncodingWanted, LayerChange, LayersWanted, Preferences};
use crate::control::{Change, LayerReason, PeerInfo, Roster, Speaker};
use crate::signaling::fake_client::CHROMIUM;
use crate::signaling::harness::{Room, config};

pub(super) fn drain(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn frames_of(outputs: &[Output]) -> impl Iterator<Item = Value> {
    outputs.iter().filter_map(|output| match output {
        Output::Send(text) => Some(serde_json::from_str(text).unwrap()),
        _ => None,
    })
}

fn errors(outputs: &[Output]) -> Vec<String> {
    frames_of(outputs)
        .filter(|frame| frame["event"] == "error")
        .map(|frame| frame["data"]["code"].as_str().unwrap().to_owned())
        .collect()
}

pub(super) fn joined(key: u64) -> Joined {
    Joined {
        key: PeerKey(key),
        shard: ShardId(0),
        addresses: Arc::from(["192.0.2.1:40000".parse().unwrap()]),
        roster: Roster::default(),
    }
}

pub(super) const JOIN: &str = r#"{"event":"joinRoom","data":{"self_id":"a","room_id":"room"}}"#;

fn in_room(now: Instant) -> Session {
    let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
    session.handle_text(now, JOIN);
    session.handle_joined(now, Ok(joined(1)));
    drain(&mut session);
    session
}

/// What the predecessor's client says, and nothing more.
#[test]
fn the_old_client_gets_along() {
    let mut room = Room::new();
    let other = room.publisher("other");
    let old = room.connect("old");
    room.text(
        old,
        r#"{"event":"joinRoom","data":{"self_id":"old","room_id":"room"}}"#,
    );
    let client = &mut room.members[old].client;
    client.add_track(MediaKind::Audio, "s", "mic");
    client.add_track(MediaKind::Video, "s", "cam");
    let sdp = client.offer();
    client.dirty = false;
    room.say(
        old,
        "offer",
        json!({"self_id": "old", "room_id": "room", "offer": {"type": "offer", "sdp": sdp}}),
    );
    for candidate in [
        json!({"candidate": "candidate:1 1 udp 2113937151 4f8a-b.local 54021 typ host generation 0 ufrag OIkc network-cost 999", "sdpMid": "0", "sdpMLineIndex": 0}),
        json!({"candidate": "", "sdpMid": null, "sdpMLineIndex": "0"}),
        Value::Null,
    ] {
        let data = json!({"self_id": "old", "room_id": "room", "candidate": candidate});
        room.say(old, "ice-candidate", data);
    }
    // Its data may come as a JSON string, as the server's own does.
    let held = json!({"candidate": {"candidate": ""}}).to_string();
    room.say(old, "ice-candidate", json!(held));
    room.publisher("late");
    assert_eq!(room.members[old].errors(), [""; 0]);
    assert_eq!(room.flows(old).len(), 4);
    assert!(room.flows(other).contains("old mic"));
    let described = |frame: &&Value| frame["event"] == "offer" || frame["event"] == "answer";
    for frame in room.members[old].frames.iter().filter(described) {
        assert!(frame["data"].is_string(), "{frame}");
    }
    room.text(
        old,
        r#"{"event":"leaveRoom","data":{"self_id":"old","room_id":"room"}}"#,
    );
    assert!(room.members[old].closed.is_none());
}

/// Each code comes for the reason its documentation gives.
#[test]
fn every_error_code_is_reachable() {
    let now = Instant::now();
    let mut seen = BTreeSet::new();
    codes_without_a_room(now, &mut seen);
    codes_of_frames(now, &mut seen);
    codes_of_transports(now, &mut seen);
    codes_of_other_inputs(now, &mut seen);
    let all = ErrorCode::ALL.iter().map(|code| code.to_string()).collect();
    assert_eq!(seen, all);
}

fn note(seen: &mut BTreeSet<String>, expected: &str, session: &mut Session) {
    let codes = errors(&drain(session));
    assert!(
        codes.iter().any(|code| code == expected),
        "{expected}: {codes:?}"
    );
    seen.extend(codes);
}

fn offer_frame(sdp: &str) -> String {
    json!({"event": "offer", "data": {"offer": {"type": "offer", "sdp": sdp}}}).to_string()
}

fn codes_without_a_room(now: Instant, seen: &mut BTreeSet<String>) {
    let deep = format!(r#"{{"event":"offer","data":{}"#, "[".repeat(40));
    let before = [
        ("bad-json", "{"),
        ("bad-json", "[]"),
        ("bad-json", r#"{"data":{}}"#),
        ("too-deep", &deep),
        ("unknown-event", r#"{"event":"sing"}"#),
        ("bad-data", r#"{"event":"joinRoom","data":7}"#),
        ("bad-id", r#"{"event":"joinRoom","data":{"self_id":"a"}}"#),
        (
            "bad-id",
            r#"{"event":"joinRoom","data":{"self_id":"a","room_id":"b\n"}}"#,
        ),
        ("not-joined", r#"{"event":"leaveRoom"}"#),
    ];
    for (code, text) in before {
        let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
        session.handle_text(now, text);
        note(seen, code, &mut session);
    }
    for (refused, code) in [
        (JoinRefused::RoomFull, "room-full"),
        (JoinRefused::TooManyRooms, "too-many-rooms"),
        (JoinRefused::ShuttingDown, "shutting-down"),
    ] {
        let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
        session.handle_text(now, JOIN);
        session.handle_joined(now, Err(refused));
        note(seen, code, &mut session);
    }
}

fn codes_of_frames(now: Instant, seen: &mut BTreeSet<String>) {
    let within = [
        ("already-joined", JOIN.to_owned()),
        (
            "identity-mismatch",
            r#"{"event":"offer","data":{"self_id":"b","offer":{"sdp":""}}}"#.to_owned(),
        ),
        ("bad-description", offer_frame("v=1")),
        (
            "bad-description",
            offer_frame(&CHROMIUM.replace("a=setup", "a=x")),
        ),
        (
            "bad-description",
            offer_frame(&CHROMIUM.replace("a=fingerprint:sha-256", "a=fingerprint:sha-1")),
        ),
        (
            "bad-description",
            offer_frame(&CHROMIUM.replace("a=ice-pwd", "a=x")),
        ),
        (
            "bad-description",
            offer_frame(&CHROMIUM.replace("a=ice-ufrag:OIkc", "a=ice-ufrag:O")),
        ),
        (
            "unexpected-answer",
            offer_frame(CHROMIUM).replace("offer", "answer"),
        ),
        (
            "bad-candidate",
            r#"{"event":"ice-candidate","data":{"candidate":"x"}}"#.to_owned(),
        ),
    ];
    for (code, text) in within {
        let mut session = in_room(now);
        session.handle_text(now, &text);
        note(seen, code, &mut session);
    }
}

fn codes_of_transports(now: Instant, seen: &mut BTreeSet<String>) {
    let mut session = in_room(now);
    session.handle_text(now, &offer_frame(CHROMIUM));
    let changed = CHROMIUM.replace("8A:D7", "8B:D7");
    session.handle_text(now, &offer_frame(&changed));
    note(seen, "unsupported", &mut session);
    session.handle_event(
        now,
        Event::Transport(
            PeerKey(1),
            TransportEvent::Failed(TransportFailure::DtlsClosed),
        ),
    );
    note(seen, "dtls-closed", &mut session);
    for (failure, code) in [
        (
            TransportFailure::FingerprintMismatch,
            "fingerprint-mismatch",
        ),
        (TransportFailure::DtlsHandshake, "dtls-failed"),
    ] {
        let mut session = in_room(now);
        session.handle_text(now, &offer_frame(CHROMIUM));
        session.handle_event(
            now,
            Event::Transport(PeerKey(1), TransportEvent::Failed(failure)),
        );
        note(seen, code, &mut session);
    }
}

fn codes_of_other_inputs(now: Instant, seen: &mut BTreeSet<String>) {
    type Input = fn(&mut Session, Instant);
    let inputs: [(&str, Input); 9] = [
        ("replaced", |s, now| {
            s.handle_event(now, Event::Replaced(PeerKey(1)))
        }),
        ("replaced", |s, now| s.handle_changes(now, None)),
        ("shutting-down", |s, now| {
            s.handle_event(now, Event::Shutdown)
        }),
        ("too-large", |s, now| s.handle_oversized(now)),
        ("not-text", |s, now| s.handle_binary(now)),
        ("slow-consumer", |s, now| s.handle_slow_consumer(now)),
        ("timeout", |s, now| s.handle_timeout(now + ACTIVITY_TIMEOUT)),
        ("rate-limited", |s, now| {
            (0..=FRAMES_BURST).for_each(|_| s.handle_text(now, r#"{"event":"sing"}"#));
        }),
        ("rate-limited", |s, now| {
            (0..=FRAMES_BURST).for_each(|_| s.handle_activity(now));
        }),
    ];
    for (code, input) in inputs {
        let mut session = in_room(now);
        input(&mut session, now);
        note(seen, code, &mut session);
    }
    let mut session = in_room(now);
    for n in 0..=ERRORS_BURST {
        session.handle_text(now + FRAME_INTERVAL * n / 4, "{");
    }
    note(seen, "too-many-errors", &mut session);
}

#[test]
fn closing_tells_why_leaves_and_then_says_nothing_more() {
    let now = Instant::now();
    let mut session = in_room(now);
    session.handle_event(now, Event::Replaced(PeerKey(1)));
    let outputs = drain(&mut session);
    assert!(
        matches!(
            &outputs[..],
            [
                Output::Send(_),
                Output::Shard(Command::RemovePeer { peer: PeerKey(1) }),
                Output::Leave,
                Output::Close(CloseReason::Replaced)
            ]
        ),
        "{outputs:?}"
    );
    session.handle_text(now, JOIN);
    session.handle_event(now, Event::Shutdown);
    session.handle_closed(now);
    session.handle_timeout(now + JOIN_TIMEOUT);
    assert!(drain(&mut session).is_empty() && session.poll_timeout().is_none());
    assert_eq!(
        (CloseReason::Replaced.code(), CloseReason::Replaced.reason()),
        (4001, "replaced")
    );
}

#[test]
fn a_socket_that_goes_while_joining_gives_its_place_back() {
    let now = Instant::now();
    let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
    session.handle_text(now, JOIN);
    session.handle_closed(now);
    drain(&mut session);
    session.handle_joined(now, Ok(joined(1)));
    assert!(matches!(drain(&mut session)[..], [Output::Leave]));
}

#[test]
fn pings_and_deadlines() {
    let t0 = Instant::now();
    let second = Duration::from_secs(1);
    let mut session = Session::new(t0, config(), StdRng::seed_from_u64(1));
    assert_eq!(session.poll_timeout(), Some(t0 + 15 * second));
    session.handle_timeout(t0 + 15 * second);
    assert!(matches!(drain(&mut session)[..], [Output::Ping]));
    // A pong keeps it alive, but not without a room for ever.
    for n in 1..4 {
        session.handle_activity(t0 + n * 15 * second);
        session.handle_timeout(t0 + n * 15 * second);
    }
    drain(&mut session);
    session.handle_activity(t0 + 59 * second);
    assert_eq!(session.poll_timeout(), Some(t0 + 60 * second));
    session.handle_timeout(t0 + 60 * second);
    assert_eq!(errors(&drain(&mut session)), ["timeout"]);

    let mut session = in_room(t0);
    session.handle_timeout(t0 + 29 * second);
    assert!(errors(&drain(&mut session)).is_empty());
    session.handle_timeout(t0 + 30 * second);
    assert_eq!(errors(&drain(&mut session)), ["timeout"]);
}

#[test]
fn unknown_events_never_disconnect_at_a_bearable_rate() {
    let t0 = Instant::now();
    let mut session = in_room(t0);
    for n in 0..1_000 {
        session.handle_text(t0 + FRAME_INTERVAL * n, r#"{"event":"sing"}"#);
    }
    let outputs = drain(&mut session);
    assert_eq!(errors(&outputs).len(), 1_000);
    assert!(!outputs.iter().any(|o| matches!(o, Output::Close(_))));
}

#[test]
fn changes_are_asked_for_once_at_a_time() {
    let now = Instant::now();
    let mut session = in_room(now);
    let pulls = |session: &mut Session| {
        let outputs = drain(session);
        outputs
            .iter()
            .filter(|o| matches!(o, Output::PullChanges(_)))
            .count()
    };
    session.handle_event(now, Event::RoomChanged);
    session.handle_event(now, Event::RoomChanged);
    session.handle_event(now, Event::RoomChanged);
    assert_eq!(pulls(&mut session), 1);
    session.handle_changes(now, Some(Changes::Log(Revision(2), Vec::new())));
    assert_eq!(pulls(&mut session), 1, "asked again");
    session.handle_changes(now, Some(Changes::Log(Revision(3), Vec::new())));
    assert_eq!(pulls(&mut session), 0);
}

#[test]
fn speakers_are_told_by_the_ids_that_the_client_knows() {
    let now = Instant::now();
    let mut session = in_room(now);
    let told = |session: &mut Session, stay, keys: &[u64]| {
        let speaker = |key: &u64| Speaker {
            peer: PeerKey(*key),
            level: 40,
        };
        let speakers = ActiveSpeakers {
            dominant: keys.first().map(|key| PeerKey(*key)),
            speakers: keys.iter().map(speaker).collect(),
        };
        session.handle_event(now, Event::Speakers(PeerKey(stay), Arc::new(speakers)));
        let outputs = drain(session);
        let mut frames = outputs.iter().map(|output| match output {
            Output::Send(text) => serde_json::from_str::<Value>(text).unwrap(),
            other => panic!("{other:?}"),
        });
        frames.next().map(|frame| {
            assert_eq!(frame["event"], "active-speakers");
            frame["data"].clone()
        })
    };
    assert_eq!(told(&mut session, 9, &[1]), None, "of a former stay");
    let own = json!({"dominant": "a", "speakers": [{"peer_id": "a", "level": 40}]});
    assert_eq!(
        told(&mut session, 1, &[1, 2]),
        Some(own),
        "2 is not known yet"
    );
    let info = PeerInfo {
        id: PeerId::new("b").unwrap(),
        name: None,
        metadata: None,
    };
    let joined = Change::PeerJoined(PeerKey(2), Arc::new(info));
    session.handle_event(now, Event::RoomChanged);
    session.handle_changes(now, Some(Changes::Log(Revision(2), vec![joined])));
    drain(&mut session);
    let both = json!({"dominant": "b", "speakers": [
        {"peer_id": "b", "level": 40},
        {"peer_id": "a", "level": 40},
    ]});
    assert_eq!(told(&mut session, 1, &[2, 1]), Some(both));
    let none = json!({"dominant": null, "speakers": []});
    assert_eq!(told(&mut session, 1, &[]), Some(none));
}

#[test]
fn large_frames_count_for_more_but_asked_for_answers_for_nothing() {
    let now = Instant::now();
    let mut session = in_room(now);
    let padding = "x".repeat(200 * 1024);
    let text = format!(r#"{{"event":"sing","data":"{padding}"}}"#);
    for _ in 0..5 {
        session.handle_text(now, &text);
    }
    assert!(errors(&drain(&mut session)).contains(&"rate-limited".to_owned()));
    // 120 others publish at once, one after the other: 120 offers, 120 answers.
    let mut room = Room::new();
    let a = room.publisher("a");
    for n in 0..120 {
        let other = room.publisher(&format!("p{n}"));
        room.drop_socket(other);
    }
    assert!(room.members[a].count("offer") > 200);
    assert_eq!(room.members[a].closed, None);
}

pub(super) fn subscribe(peer: &str, mut entry: Value) -> String {
    entry["peer_id"] = json!(peer);
    entry["track_id"] = json!("video");
    json!({"event": "subscribe", "data": {"subscriptions": [entry]}}).to_string()
}

pub(super) fn change(peer: PeerKey, reason: LayerReason) -> LayerChange {
    LayerChange {
        subscription: SubscriptionKey(1),
        track: TrackKey { peer, index: 1 },
        layer: None,
        rid: None,
        reason,
        available: Some(Bitrate(180_000)),
        bitrate: Bitrate(0),
        next: Some(Bitrate(500_000)),
        size: None,
    }
}

fn preferences(outputs: &[Output]) -> Vec<Preferences> {
    let commands = outputs.iter().filter_map(|output| match output {
        Output::Shard(Command::Prefer { preferences, .. }) => Some(preferences.clone()),
        _ => None,
    });
    commands.collect()
}

/// The reasons of the layer changes that are told.
fn told(outputs: &[Output]) -> Vec<String> {
    frames_of(outputs)
        .filter(|frame| frame["event"] == "layer-changed")
        .map(|frame| frame["data"]["reason"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn wishes_reach_the_shard_when_their_track_is_there() {
    let now = Instant::now();
    let mut session = in_room(now);
    session.handle_text(now, &subscribe("p3", json!({"paused": true})));
    let sent = preferences(&drain(&mut session));
    assert_eq!(sent, [Preferences::default()], "the track is not there");
    // Others publish: the wish holds, and stays over what happens later.
    for peers in [1, 2, 3] {
        session.handle_changes(now, Some(Changes::Snapshot(roster(peers))));
        let sent = preferences(&drain(&mut session));
        assert_eq!(sent.len(), usize::from(peers == 2), "{peers}");
        for preferences in sent {
            let [(track, preference)] = preferences.tracks[..] else {
                panic!("{preferences:?}");
            };
            assert_eq!((track.peer, track.index), (PeerKey(3), 1));
            assert!(preference.is_paused);
        }
    }
    session.handle_text(now, r#"{"event":"subscribe","data":{"last_n":2}}"#);
    let sent = preferences(&drain(&mut session));
    assert_eq!((sent[0].tracks.len(), sent[0].last_n), (1, Some(2)));
    session.handle_text(now, &subscribe("p3", json!({"priority": 101})));
    let outputs = drain(&mut session);
    assert_eq!(errors(&outputs), ["bad-data"]);
    assert!(preferences(&outputs).is_empty());
}

#[test]
fn of_layers_the_client_is_told_the_latest_and_not_too_often() {
    let t0 = Instant::now();
    let mut session = in_room(t0);
    session.handle_changes(t0, Some(Changes::Snapshot(roster(1))));
    drain(&mut session);
    let layer = |peer, reason| Event::Layer(PeerKey(peer), change(PeerKey(2), reason));
    session.handle_event(t0, layer(1, LayerReason::Best));
    assert_eq!(told(&drain(&mut session)), ["best"]);
    for _ in 0..1_000 {
        session.handle_event(t0, layer(1, LayerReason::Best));
        session.handle_event(t0, layer(1, LayerReason::Bandwidth));
    }
    session.handle_event(t0, layer(7, LayerReason::Cpu));
    assert!(told(&drain(&mut session)).is_empty());
    let due = session.poll_timeout().unwrap();
    assert!(due <= t0 + Duration::from_millis(250));
    session.handle_timeout(due);
    assert_eq!(told(&drain(&mut session)), ["bandwidth"]);
    // What ended, or was never there, is not told.
    session.handle_event(due, layer(1, LayerReason::Paused));
    session.handle_changes(due, Some(Changes::Snapshot(roster(0))));
    let unknown = change(PeerKey(5), LayerReason::Best);
    session.handle_event(due, Event::Layer(PeerKey(1), unknown));
    session.handle_timeout(due + Duration::from_secs(1));
    assert!(told(&drain(&mut session)).is_empty());
}

#[test]
fn a_publisher_is_told_which_encodings_are_wanted() {
    let mut room = Room::new();
    let a = room.publisher("a");
    let member = &room.members[a];
    let key = member.published.iter().find(|t| t.kind == MediaKind::Video);
    let (key, peer) = (key.unwrap().key, member.key.unwrap());
    let wanted = LayersWanted {
        track: key,
        encodings: vec![EncodingWanted {
            index: EncodingIndex(0),
            rid: None,
            is_wanted: false,
        }],
    };
    room.event(a, Event::LayersWanted(peer, wanted));
    let frame = room.members[a].frames.last().unwrap();
    assert_eq!(frame["event"], "layers-wanted");
    assert_eq!(frame["data"]["track_id"], "a-video");
    assert_eq!(frame["data"]["encodings"][0]["wanted"], false);
}

/// So many peers with sound and pictures.
pub(super) fn roster(n: u8) -> Roster {
    let mut roster = Roster {
        revision: Revision(u64::from(n)),
        ..Roster::default()
    };
    for peer in 2..2 + u64::from(n) {
        let id = PeerId::new(&format!("p{peer}")).unwrap();
        let info = PeerInfo {
            id: id.clone(),
            name: None,
            metadata: None,
        };
        roster.peers.push((PeerKey(peer), Arc::new(info)));
        for (index, kind) in [(0, MediaKind::Audio), (1, MediaKind::Video)] {
            let track = TrackInfo {
                key: TrackKey {
                    peer: PeerKey(peer),
                    index,
                },
                peer: id.clone(),
                id: TrackId::new(kind.as_str()).unwrap(),
                kind,
                shard: ShardId(0),
            };
            roster.tracks.push(Arc::new(track));
        }
    }
    roster
}
