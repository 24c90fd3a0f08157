//! Sessions wired to each other: what clients of every kind end up with.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::ids::MediaKind::{Audio, Video};
use crate::base::ids::Mid;
use crate::control::{Command, DtlsRole, Event, TransportEvent, TransportFailure};
use crate::signaling::fake_client::{CHROMIUM, Client, ClientSection};
use crate::signaling::harness::{Room, set};
use crate::signaling::negotiation::sections::SECTIONS_MAX;
use crate::signaling::session::CloseReason;
use crate::wire::sdp::{Media, Setup};

#[test]
fn three_publishers_receive_each_other() {
    let mut room = Room::new();
    let (a, b, c) = (
        room.publisher("a"),
        room.publisher("b"),
        room.publisher("c"),
    );
    assert_eq!(
        room.flows(a),
        set(&["b b-audio", "b b-video", "c c-audio", "c c-video"])
    );
    assert_eq!(
        room.flows(b),
        set(&["a a-audio", "a a-video", "c c-audio", "c c-video"])
    );
    assert_eq!(
        room.flows(c),
        set(&["a a-audio", "a a-video", "b b-audio", "b b-video"])
    );
    // c's own sections took a's tracks in the answer itself; b's came in one offer.
    let c = &room.members[c];
    assert_eq!(
        (c.count("answer"), c.count("offer"), c.client.candidates),
        (1, 1, 2)
    );
    assert_eq!(c.client.sections.len(), 4);
    assert_eq!(c.client.sections[0].remote.as_ref().unwrap().stream, "a");
    assert_eq!(c.errors(), [""; 0]);
    let joined = &c.frames[0];
    assert_eq!(joined["event"], "joined");
    assert_eq!(joined["data"]["protocol"], 1);
    assert_eq!(joined["data"]["peers"].as_array().unwrap().len(), 2);
    assert_eq!(joined["data"]["tracks"][0]["stream_id"], "a");
    assert_eq!(
        joined["data"]["ice_servers"][0]["urls"][0],
        "stun:stun.example.org"
    );
    // Candidates follow the description they belong to.
    let events: Vec<_> = c
        .frames
        .iter()
        .map(|f| f["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["joined", "answer", "candidate", "candidate", "offer"]
    );
}

#[test]
fn audio_and_video_of_a_newcomer_come_in_one_offer_after_their_events() {
    let mut room = Room::new();
    let a = room.publisher("a");
    let before = room.members[a].frames.len();
    room.publisher("b");
    let events: Vec<_> = room.members[a].frames[before..]
        .iter()
        .map(|f| f["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["peer-joined", "track-published", "track-published", "offer"]
    );
}

#[test]
fn an_offer_of_the_server_waits_for_dtls() {
    let mut room = Room::new();
    room.connects = false;
    let a = room.publisher("a");
    room.publisher("b");
    room.pass(Duration::from_secs(5));
    assert_eq!(room.members[a].count("offer"), 0);
    room.connected(a);
    room.settle();
    assert_eq!(room.members[a].count("offer"), 1);
    assert_eq!(room.flows(a), set(&["b b-audio", "b b-video"]));
}

#[test]
fn a_viewer_is_offered_what_the_room_has() {
    let mut room = Room::new();
    let early = room.connect("early");
    let join = |id: &str| json!({"self_id": id, "room_id": "room", "offerer": "server"});
    room.say(early, "joinRoom", join("early"));
    assert_eq!(room.members[early].count("offer"), 0, "an empty room");
    room.publisher("a");
    let late = room.connect("late");
    room.say(late, "joinRoom", join("late"));
    for viewer in [early, late] {
        let member = &room.members[viewer];
        assert_eq!((member.count("offer"), member.client.candidates), (1, 2));
        assert_eq!(room.flows(viewer), set(&["a a-audio", "a a-video"]));
        assert_eq!(member.client.sections[0].mid.as_str(), "s0");
    }
}

#[test]
fn who_does_not_offer_within_a_second_is_offered_tracks() {
    let mut room = Room::new();
    room.publisher("a");
    let b = room.join("b");
    assert_eq!(room.members[b].count("offer"), 0);
    let due = room.members[b].session.poll_timeout().unwrap();
    assert_eq!(due, room.now + Duration::from_secs(1));
    room.pass(Duration::from_secs(1));
    assert_eq!(room.members[b].count("offer"), 1);
    assert_eq!(room.flows(b), set(&["a a-audio", "a a-video"]));
    // It turns on its camera later: the browser re-uses the section it receives on.
    room.members[b].client.add_track(Video, "b", "cam");
    room.offer(b);
    assert_eq!(room.members[b].client.sections.len(), 2);
    assert_eq!(
        room.flows(b),
        set(&["a a-audio", "a a-video"]),
        "still received"
    );
    assert_eq!(room.members[b].published.len(), 1, "and sent");
    assert_eq!(room.flows(0), set(&["b cam"]));
}

#[test]
fn a_collision_costs_nothing_and_loses_nothing() {
    let mut room = Room::new();
    let a = room.publisher("a");
    room.members[a].auto = false;
    room.publisher("b"); // The server's offer to a is outstanding.
    let offer = room.members[a].frames.last().unwrap()["data"].clone();
    room.members[a].client.add_track(Video, "a", "screen");
    room.offer(a); // Collides.
    assert_eq!(room.members[a].count("answer"), 1, "the first one only");
    assert!(room.members[a].errors().is_empty());
    // The browser rolls back, answers, and offers again; while the former waits, more happens.
    room.publisher("c");
    assert_eq!(room.members[a].count("offer"), 1);
    let offer: Value = serde_json::from_str(offer.as_str().unwrap()).unwrap();
    let sdp = room.members[a]
        .client
        .answer(offer["sdp"].as_str().unwrap());
    assert_eq!(room.members[a].client.rolled_back, 1);
    room.members[a].auto = true;
    room.say(
        a,
        "answer",
        json!({"answer": {"type": "answer", "sdp": sdp}}),
    );
    assert_eq!(room.members[a].count("offer"), 2, "c's tracks, folded");
    // The browser's tracks were attached to an offered section at the latest with its own offer.
    if room.members[a].client.dirty {
        room.offer(a);
    }
    assert_eq!(room.members[a].published.len(), 3);
    assert_eq!(room.flows(a).len(), 4);
    for other in [1, 2] {
        assert!(room.flows(other).contains("a screen"));
    }
}

#[test]
fn an_answer_may_publish_what_a_rolled_back_offer_would_have() {
    let mut room = Room::new();
    room.publisher("a");
    let b = room.join("b");
    room.members[b].client.add_track(Audio, "b", "mic");
    room.members[b].client.add_track(Video, "b", "cam");
    room.members[b].client.dirty = false; // It never looks at negotiationneeded.
    room.pass(Duration::from_secs(1));
    let published: Vec<_> = room.members[b]
        .published
        .iter()
        .map(|t| t.id.to_string())
        .collect();
    assert_eq!(published, ["mic", "cam"]);
    assert_eq!(room.flows(0), set(&["b mic", "b cam"]));
}

#[test]
fn the_first_offer_has_room_for_each_kind_that_a_client_may_send() {
    let mut room = Room::new();
    let a = room.join("a");
    room.members[a].client.add_track(Audio, "a", "voice");
    room.offer(a);
    let b = room.join("b");
    room.members[b].client.add_track(Audio, "b", "mic");
    room.members[b].client.add_track(Video, "b", "cam");
    room.members[b].client.dirty = false; // It never looks at negotiationneeded.
    room.pass(Duration::from_secs(1));
    assert_eq!(room.members[b].published.len(), 2, "the room has no video");
    assert_eq!(room.flows(b), set(&["a voice"]));
    room.connected(a);
    assert_eq!(room.flows(a), set(&["b mic", "b cam"]));
}

#[test]
fn an_answer_that_never_comes_gives_way_to_an_offer_after_30_s() {
    let mut room = Room::new();
    let a = room.publisher("a");
    room.members[a].auto = false;
    room.publisher("b");
    room.offer(a);
    assert_eq!(room.members[a].count("answer"), 1, "ignored");
    room.pass(Duration::from_secs(29));
    room.offer(a);
    assert_eq!(room.members[a].count("answer"), 1, "still ignored");
    room.pass(Duration::from_secs(1));
    room.members[a].auto = true;
    room.offer(a);
    assert_eq!(room.members[a].count("answer"), 2);
    assert_eq!(room.flows(a), set(&["b b-audio", "b b-video"]));
    let sdp = "v=0\r\n";
    room.say(
        a,
        "answer",
        json!({"answer": {"type": "answer", "sdp": sdp}}),
    );
    assert_eq!(room.members[a].errors(), ["unexpected-answer"]);
}

#[test]
fn sections_are_recycled_over_50_joins_and_leaves() {
    let mut room = Room::new();
    let a = room.publisher("a");
    let stays = room.publisher("stays");
    for round in 0..50 {
        room.pass(Duration::from_secs(2));
        let x = room.publisher(&format!("x{round}"));
        let y = (round % 10 == 0).then(|| room.publisher(&format!("y{round}")));
        assert_eq!(room.flows(a).len(), if y.is_some() { 6 } else { 4 });
        room.say(x, "leaveRoom", json!({}));
        y.into_iter().for_each(|y| room.drop_socket(y));
        assert_eq!(
            room.flows(a),
            set(&["stays stays-audio", "stays stays-video"])
        );
    }
    // The busiest moment: three others with two tracks each, the first in a's own sections.
    assert!(room.members[a].client.sections.len() <= 6, "a");
    assert_eq!(room.members[stays].client.sections.len(), 6);
    assert_eq!(room.flows(stays), set(&["a a-audio", "a a-video"]));
}

#[test]
fn one_section_carries_two_unrelated_tracks_one_each_way() {
    let mut room = Room::new();
    let a = room.join("a");
    room.members[a].client.add_receiver(Video);
    room.offer(a);
    room.publisher("b");
    assert!(
        room.flows(a).contains("b b-video"),
        "in the section kept for it"
    );
    room.members[a].client.add_track(Video, "a", "cam");
    room.offer(a);
    let section = &room.members[a].client.sections[0];
    assert!(section.sends.is_some() && section.remote.is_some());
    let (tracks, subscriptions) = (&room.members[a].tracks, &room.members[a].subscriptions);
    assert_eq!(tracks[0].mid, section.mid);
    assert!(
        subscriptions
            .iter()
            .any(|s| s.mid == section.mid && s.active)
    );
    assert!(room.flows(1).contains("a cam"));
    // Each half ends by itself.
    room.members[a].client.sections[0].sends = None;
    room.offer(a);
    assert!(room.members[a].published.is_empty());
    assert!(room.flows(a).contains("b b-video"));
}

#[test]
fn muting_replacing_and_pausing_by_direction() {
    let mut room = Room::new();
    let (a, b) = (room.publisher("a"), room.publisher("b"));
    let first = room.members[a].published[1].key;
    // a stops sending video, b's copy ends; a sends again: a new track.
    let msid = room.members[a].client.sections[1].sends.take();
    room.offer(a);
    assert_eq!(room.flows(b), set(&["a a-audio"]));
    room.members[a].client.sections[1].sends = msid;
    room.offer(a);
    assert_eq!(room.flows(b), set(&["a a-audio", "a a-video"]));
    assert_ne!(room.members[a].published[1].key, first);
    // Another track in the same section.
    let section = &mut room.members[a].client.sections[1];
    section.sends.as_mut().unwrap().track = Some("other".to_owned());
    room.offer(a);
    assert_eq!(room.flows(b), set(&["a a-audio", "a other"]));
    assert!(room.members[b].count("track-unpublished") >= 2);
    // b pauses a's video and wants it again: the subscription stays the same.
    let at = room.members[b]
        .client
        .sections
        .iter()
        .position(|s| {
            s.remote
                .as_ref()
                .is_some_and(|m| m.track.as_deref() == Some("other"))
        })
        .unwrap();
    let key = room.members[b]
        .subscriptions
        .iter()
        .find(|s| s.active && s.kind == Video);
    let key = key.unwrap().key;
    room.members[b].client.sections[at].wants = false;
    room.offer(b);
    assert_eq!(room.flows(b), set(&["a a-audio"]));
    assert!(
        room.members[b]
            .subscriptions
            .iter()
            .any(|s| s.key == key && !s.active)
    );
    room.members[b].client.sections[at].wants = true;
    room.offer(b);
    assert!(
        room.members[b]
            .subscriptions
            .iter()
            .any(|s| s.key == key && s.active)
    );
    assert_eq!(room.flows(b).len(), 2);
}

#[test]
fn a_refused_track_is_not_offered_again() {
    let mut room = Room::new();
    let a = room.join("a");
    room.members[a].client.add_receiver(Audio);
    room.offer(a);
    room.members[a].client.rejects = Some(Video);
    room.publisher("b");
    assert_eq!(room.flows(a), set(&["b b-audio"]));
    let offers = room.members[a].count("offer");
    room.pass(Duration::from_secs(5));
    room.members[a].client.add_receiver(Audio);
    room.offer(a);
    assert_eq!(room.members[a].count("offer"), offers, "no loop");
    // Another's video takes the refused place under a new mid.
    room.members[a].client.rejects = None;
    let sections = room.members[a].client.sections.len();
    room.publisher("c");
    assert_eq!(room.flows(a), set(&["b b-audio", "c c-audio", "c c-video"]));
    assert_eq!(room.members[a].client.sections.len(), sections);
}

#[test]
fn ice_restarts_from_either_side() {
    let mut room = Room::new();
    let a = room.publisher("a");
    let restarts = |room: &Room| {
        let commands = room.members[a].commands.iter();
        commands
            .filter(|c| matches!(c, Command::RestartIce { .. }))
            .count()
    };
    room.offer(a);
    assert_eq!(
        (restarts(&room), room.members[a].client.candidates),
        (0, 2),
        "not a restart"
    );
    let former = room.members[a].client.server_ufrag.clone();
    room.members[a].client.ufrag = "ufr2".to_owned();
    room.offer(a);
    assert_eq!((restarts(&room), room.members[a].client.candidates), (1, 2));
    assert_ne!(room.members[a].client.server_ufrag, former);

    let former = room.members[a].client.server_ufrag.clone();
    room.members[a].auto = false;
    room.transport(a, TransportEvent::ConsentLost);
    room.transport(a, TransportEvent::ConsentRegained);
    room.transport(a, TransportEvent::ConsentLost);
    assert_eq!(
        (restarts(&room), room.members[a].count("offer")),
        (2, 1),
        "one at a time"
    );
    let offer = room.members[a]
        .frames
        .iter()
        .rfind(|f| f["event"] == "offer")
        .unwrap();
    let offer: Value = serde_json::from_str(offer["data"].as_str().unwrap()).unwrap();
    assert!(!offer["sdp"].as_str().unwrap().contains(&former));
    // Never answered: after 30 s the former credentials hold in an answer to the client's offer,
    // and the restart is offered again with those the shard already has.
    room.pass(Duration::from_secs(30));
    room.members[a].auto = true;
    room.offer(a);
    assert_eq!((restarts(&room), room.members[a].count("offer")), (2, 2));
    let ufrag = &room.members[a].client.server_ufrag;
    assert!(offer["sdp"].as_str().unwrap().contains(ufrag.as_str()));
}

#[test]
fn the_dtls_role_follows_the_client_once() {
    for (setup, role, answered) in [
        (Setup::ActPass, DtlsRole::Server, Setup::Passive),
        (Setup::Active, DtlsRole::Server, Setup::Passive),
        (Setup::Passive, DtlsRole::Client, Setup::Active),
    ] {
        let mut room = Room::new();
        let a = room.join("a");
        room.members[a].client.setup = setup;
        room.members[a].client.add_track(Audio, "a", "mic");
        room.offer(a);
        let text = room.members[a].frames[1]["data"]
            .as_str()
            .unwrap()
            .to_owned();
        let word = format!("a=setup:{}", format!("{answered:?}").to_lowercase());
        assert!(text.contains(&word), "{setup:?}");
        room.members[a].client.setup = Setup::ActPass;
        room.offer(a);
        let roles: Vec<_> = room.members[a]
            .commands
            .iter()
            .filter_map(|c| match c {
                Command::SetRemoteDtls { role, .. } => Some(*role),
                _ => None,
            })
            .collect();
        assert_eq!(roles, [role]);
        let text = room.members[a]
            .frames
            .iter()
            .rfind(|f| f["event"] == "answer")
            .unwrap();
        assert!(
            text["data"].as_str().unwrap().contains(&word),
            "the role stays"
        );
    }
}

#[test]
fn a_changed_fingerprint_needs_a_new_connection() {
    let mut room = Room::new();
    let a = room.publisher("a");
    room.members[a].client.fingerprint = 8;
    room.offer(a);
    assert_eq!(room.members[a].errors(), ["unsupported"]);
    // After leaving and joining again it is a new connection.
    room.say(a, "leaveRoom", json!({}));
    room.say(a, "joinRoom", json!({"self_id": "a", "room_id": "room"}));
    room.members[a].client = Client::new(CHROMIUM);
    room.members[a].client.fingerprint = 8;
    room.members[a].client.add_track(Audio, "a", "mic");
    room.offer(a);
    assert_eq!(room.members[a].count("answer"), 2);
    assert_eq!(room.members[a].published.len(), 1);
}

#[test]
fn snapshots_say_the_same_as_logs() {
    let mut room = Room::new();
    room.snapshots = true;
    let a = room.publisher("a");
    let b = room.publisher("b");
    assert_eq!(room.flows(a), set(&["b b-audio", "b b-video"]));
    room.drop_socket(b);
    assert_eq!(room.flows(a), set(&[]));
    assert_eq!(
        (
            room.members[a].count("peer-left"),
            room.members[a].count("track-unpublished")
        ),
        (1, 2)
    );
}

#[test]
fn transport_failures_are_told() {
    for (failure, code, closes) in [
        (
            TransportFailure::FingerprintMismatch,
            "fingerprint-mismatch",
            true,
        ),
        (TransportFailure::DtlsHandshake, "dtls-failed", true),
        (TransportFailure::DtlsClosed, "dtls-closed", false),
    ] {
        let mut room = Room::new();
        let (a, b) = (room.publisher("a"), room.publisher("b"));
        let former = room.members[a].key.expect("joined");
        room.transport(a, TransportEvent::Failed(failure));
        assert_eq!(room.members[a].errors(), [code]);
        let closed = closes.then_some(CloseReason::TransportFailed(failure));
        assert_eq!(room.members[a].closed, closed);
        assert_eq!(room.members[a].key, None, "left the room");
        assert_eq!(room.flows(b), set(&[]));
        if !closes {
            room.say(a, "joinRoom", json!({"self_id": "a", "room_id": "room"}));
            assert_eq!(room.members[a].count("joined"), 2);
            // A late event of the former stay does not touch the new one.
            room.event(a, Event::Transport(former, TransportEvent::Failed(failure)));
            room.event(a, Event::Replaced(former));
            assert!(room.members[a].key.is_some());
        }
    }
}

#[test]
fn more_tracks_than_sections_wait_for_a_place() {
    let mut room = Room::new();
    let viewer = room.connect("viewer");
    room.say(
        viewer,
        "joinRoom",
        json!({"self_id": "viewer", "room_id": "room", "offerer": "server"}),
    );
    let peers: Vec<_> = (0..SECTIONS_MAX / 2 + 3)
        .map(|n| {
            let member = room.join(&format!("p{n}"));
            room.members[member].auto = false; // They only send.
            room.members[member].client.add_track(Audio, "s", "mic");
            room.members[member].client.add_track(Video, "s", "cam");
            room.offer(member);
            member
        })
        .collect();
    assert_eq!(room.members[viewer].client.sections.len(), SECTIONS_MAX);
    assert_eq!(room.flows(viewer).len(), SECTIONS_MAX);
    room.drop_socket(peers[0]);
    assert_eq!(
        room.flows(viewer).len(),
        SECTIONS_MAX,
        "the next ones took the place"
    );
    assert!(
        room.flows(viewer)
            .contains(&format!("p{} mic", SECTIONS_MAX / 2))
    );
}

#[test]
fn the_largest_offer_fits_a_frame() {
    // A client's answer to the largest offer has at most what the offer has, where every codec is accepted;
    // Chromium adds two short lines to a section (`a=rtcp`, `a=ice-options`) and its streams to those it sends in.
    let mut room = Room::new();
    let viewer = room.connect("viewer");
    let join = json!({"self_id": "viewer", "room_id": "room", "offerer": "server"});
    room.say(viewer, "joinRoom", join);
    for n in 0..SECTIONS_MAX / 2 {
        let member = room.join(&format!("p{n}"));
        room.members[member].auto = false;
        room.members[member].client.add_track(Audio, "s", "mic");
        room.members[member].client.add_track(Video, "s", "cam");
        room.offer(member);
    }
    let offers = room.members[viewer]
        .frames
        .iter()
        .filter(|f| f["event"] == "offer");
    let largest = offers.map(|f| f.to_string().len()).max().unwrap();
    let limit = crate::signaling::message::FRAME_BYTES_MAX;
    assert!(largest < limit * 93 / 100, "{largest}");
}

#[test]
fn data_channels_are_refused_and_their_place_is_left_alone() {
    let mut room = Room::new();
    let a = room.join("a");
    let media = Media::Other {
        media: "application".to_owned(),
        proto: "UDP/DTLS/SCTP".to_owned(),
        formats: vec!["webrtc-datachannel".to_owned()],
    };
    room.members[a].client.sections.push(ClientSection {
        mid: Mid::new("data").unwrap(),
        media,
        sends: None,
        wants: true,
        stopped: false,
        remote: None,
    });
    room.members[a].client.add_track(Audio, "a", "mic");
    room.offer(a);
    assert!(room.members[a].client.sections[0].stopped);
    assert_eq!(room.members[a].published.len(), 1);
    room.publisher("b");
    assert_eq!(room.flows(a), set(&["b b-audio", "b b-video"]));
    let sections = &room.members[a].client.sections;
    assert_eq!(
        sections[0].mid.as_str(),
        "data",
        "its place is not recycled"
    );
    assert_eq!(sections.len(), 3);
}
