//! First offers of real clients, as captured, and the answers to them.

use serde_json::{Value, json};

use crate::control::Command;
use crate::signaling::harness::Room;
use crate::signaling::session::Output;
use crate::wire::sdp::{CodecLine, Description, Media};

const CLIENTS: [(&str, &str, usize, usize); 9] = [
    (
        "chromium",
        include_str!("../../fuzz/seeds/sdp/chromium-sendrecv.sdp"),
        2,
        2,
    ),
    (
        "chromium",
        include_str!("../../fuzz/seeds/sdp/chromium-recvonly.sdp"),
        0,
        2,
    ),
    (
        "firefox",
        include_str!("../../fuzz/seeds/sdp/firefox-sendrecv.sdp"),
        2,
        2,
    ),
    (
        "firefox",
        include_str!("../../fuzz/seeds/sdp/firefox-recvonly.sdp"),
        0,
        2,
    ),
    (
        "pion",
        include_str!("../../fuzz/seeds/sdp/pion-sendrecv.sdp"),
        2,
        2,
    ),
    (
        "gstreamer",
        include_str!("../../fuzz/seeds/sdp/gstreamer-sendonly.sdp"),
        2,
        0,
    ),
    (
        "chromium",
        include_str!("../../fuzz/seeds/sdp/chromium-simulcast.sdp"),
        2,
        0,
    ),
    (
        "firefox",
        include_str!("../../fuzz/seeds/sdp/firefox-simulcast.sdp"),
        2,
        0,
    ),
    (
        "mediasoup-client",
        include_str!("../../fuzz/seeds/sdp/chromium-ssrc-group.sdp"),
        2,
        0,
    ),
];

/// Each client's first offer, in a room where somebody publishes a track of each kind.
#[test]
fn real_clients_are_answered() {
    for (name, sdp, published, received) in CLIENTS {
        let mut room = Room::new();
        room.connects = false;
        room.publisher("other");
        let a = room.connect(name);
        room.members[a].auto = false;
        room.say(a, "joinRoom", json!({"self_id": name, "room_id": "room"}));
        let now = room.now;
        let frame = json!({"event": "offer", "data": {"offer": {"type": "offer", "sdp": sdp}}});
        let session = &mut room.members[a].session;
        session.handle_text(now, &frame.to_string());
        let mut answer = None;
        let (mut tracks, mut subscriptions) = (Vec::new(), Vec::new());
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(text) if text.contains("\"event\":\"answer\"") => answer = Some(text),
                Output::Send(text) => assert!(text.contains("\"candidate\""), "{name}: {text}"),
                Output::Shard(Command::Configure {
                    tracks: t,
                    subscriptions: s,
                    ..
                }) => (tracks, subscriptions) = (t, s),
                _ => {}
            }
        }
        let answer: Value = serde_json::from_str(&answer.expect(name)).unwrap();
        let answer: Value = serde_json::from_str(answer["data"].as_str().unwrap()).unwrap();
        check_answer(name, sdp, answer["sdp"].as_str().unwrap());
        let flows = (tracks.len(), subscriptions.len());
        assert_eq!(flows, (published, received), "{name}");
        assert!(tracks.iter().all(|t| !t.codecs.is_empty()), "{name}");
    }
}

/// An answer has the offer's sections and nothing in them that was not offered.
fn check_answer(name: &str, offer: &str, answer: &str) {
    let answer = Description::parse(answer).unwrap();
    let offer = Description::parse(offer).unwrap();
    assert_eq!(answer.sections.len(), offer.sections.len(), "{name}");
    for (answered, offered) in answer.sections.iter().zip(&offer.sections) {
        assert_eq!(answered.mid, offered.mid);
        if matches!(offered.media, Media::Other { .. }) {
            assert!(answered.rejected);
            continue;
        }
        assert!(!answered.rejected, "{name}");
        assert_eq!(answered.rtcp_rsize, offered.rtcp_rsize);
        for line in &answered.codecs {
            let same = |l: &&CodecLine| l.mapping.payload_type == line.mapping.payload_type;
            let offered = offered.codecs.iter().find(same).unwrap();
            assert_eq!(offered.mapping.codec, line.mapping.codec);
            assert!(offered.fir || !line.fir, "only feedback that was offered");
            let (ours, theirs) = (line.mapping, offered.mapping);
            assert!(theirs.transport_cc || !ours.transport_cc, "{name}");
            assert!(
                (theirs.remb || !ours.remb) && (offered.rrtr || !line.rrtr),
                "{name}"
            );
        }
        for (extension, id) in answered.extensions.iter() {
            assert_eq!(offered.extensions.id(extension), Some(id), "{name}");
        }
        assert_eq!(answered.simulcast.recv, offered.simulcast.send, "{name}");
    }
}

/// RFC 5506: reduced-size RTCP is agreed on for each section, and only where the client offers it.
#[test]
fn reduced_size_rtcp_is_answered_where_it_is_offered() {
    let (_, chromium, ..) = CLIENTS[0];
    let line = "a=rtcp-rsize\r\n";
    assert!(chromium.contains(line), "the offer has it");
    let without = chromium.replace(line, "");
    let first_only = chromium.replacen(line, "", 1);
    for offer in [chromium, &without, &first_only] {
        let mut room = Room::new();
        room.connects = false;
        let a = room.connect("a");
        room.members[a].auto = false;
        room.say(a, "joinRoom", json!({"self_id": "a", "room_id": "room"}));
        let now = room.now;
        let frame = json!({"event": "offer", "data": {"offer": {"type": "offer", "sdp": offer}}});
        let session = &mut room.members[a].session;
        session.handle_text(now, &frame.to_string());
        let mut answers = std::iter::from_fn(|| session.poll_output()).filter_map(answer_of);
        let answer = Description::parse(&answers.next().expect("an answer")).unwrap();
        let offer = Description::parse(offer).unwrap();
        let agreed = |description: &Description| -> Vec<bool> {
            let sections = description.sections.iter();
            sections.map(|section| section.rtcp_rsize).collect()
        };
        assert_eq!(agreed(&answer), agreed(&offer));
    }
}

/// The SDP of an `answer` event.
fn answer_of(output: Output) -> Option<String> {
    let Output::Send(text) = output else {
        return None;
    };
    let event: Value = serde_json::from_str(&text).unwrap();
    if event["event"] != "answer" {
        return None;
    }
    let answer: Value = serde_json::from_str(event["data"].as_str()?).unwrap();
    answer["sdp"].as_str().map(str::to_owned)
}
