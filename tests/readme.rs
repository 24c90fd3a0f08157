//! The README says what the code does: every error code, every option and every message stands in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use shardcast::base::ids::{
    Bitrate, EncodingIndex, LayerId, MediaKind, PeerId, PeerKey, Rid, RoomId, ShardId,
    SubscriptionKey, TrackId, TrackKey,
};
use shardcast::config::{Config, ConfigError};
use shardcast::control::layers::{EncodingWanted, LayerChange, LayersWanted};
use shardcast::control::{LayerReason, PeerInfo, TrackInfo};
use shardcast::signaling::message::{self, ErrorCode, InboundEvent, Refusal};
use shardcast::signaling::outbound::Outbound;

const README: &str = include_str!("../README.md");

#[test]
fn every_error_code_is_documented() {
    for code in ErrorCode::ALL {
        let row = format!("| `{code}` | ");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}

#[test]
fn every_layer_reason_is_documented() {
    for reason in LayerReason::ALL {
        let row = format!("| `{reason}` | ");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}

#[test]
fn every_option_is_documented() {
    let args = ["shardcast", "--help"].map(Into::into);
    let unreadable = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let Err(ConfigError::Information(help)) = Config::load(args, |_| None, unreadable, 2) else {
        panic!("--help gives information");
    };
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split([' ', '[']).next())
        .filter(|name| !["config", "help", "version"].contains(name))
        .collect();
    assert!(flags.len() >= 10, "{flags:?}");
    for flag in flags {
        let row = format!("| `--{flag}` | `SHARDCAST_");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}

/// A line of one of the tables of messages.
struct Row {
    events: BTreeSet<&'static str>,
    data: &'static str,
    refusals: BTreeSet<&'static str>,
}

/// The messages of a direction, `in` or `out`.
fn rows(direction: &str) -> Vec<Row> {
    let start = format!("| {direction} | ");
    let lines = README.lines().filter_map(|line| line.strip_prefix(&start));
    lines
        .map(|line| {
            let mut cells = line.trim_end_matches('|').split(" | ");
            let mut cell = || cells.next().unwrap_or_default();
            Row {
                events: spans(cell()).collect(),
                data: cell(),
                refusals: spans(cell()).collect(),
            }
        })
        .collect()
}

/// What stands in backticks.
fn spans(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// The names in a description of data such as `{a, b: {c?}}`.
fn names(span: &'static str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = span.split(|c| !is_of_name(c)).filter(|w| !w.is_empty());
    words.map(str::to_owned).collect()
}

/// All names of fields in a value.
fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.keys().cloned();
            own.chain(fields.values().flat_map(keys)).collect()
        }
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_message_of_the_server_is_documented_with_its_fields() {
    let rows = rows("out");
    let mut told = BTreeSet::new();
    for text in messages() {
        let frame: Value = serde_json::from_str(&text).unwrap();
        let event = frame["event"].as_str().unwrap().to_owned();
        let row = rows.iter().find(|row| row.events.contains(&*event));
        let row = row.unwrap_or_else(|| panic!("README.md lacks {event}"));
        let data = match &frame["data"] {
            // Of the predecessor's protocol: JSON in a string.
            Value::String(text) => serde_json::from_str(text).unwrap(),
            data => data.clone(),
        };
        let documented = names(spans(row.data).next().unwrap());
        assert_eq!(documented, keys(&data), "the fields of {event}");
        told.insert(event);
    }
    let documented: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| row.events.iter().map(|&event| event.to_owned()))
        .collect();
    assert_eq!(documented, told, "the messages");
}

/// One of each, with everything in it that it can have.
fn messages() -> Vec<String> {
    let peer = PeerInfo {
        id: PeerId::new("p").unwrap(),
        name: Some("name".into()),
        metadata: Some(Arc::new(json!(1))),
    };
    let key = TrackKey {
        peer: PeerKey(1),
        index: 0,
    };
    let track = TrackInfo {
        key,
        peer: peer.id.clone(),
        id: TrackId::new("t").unwrap(),
        kind: MediaKind::Video,
        shard: ShardId(0),
    };
    let change = LayerChange {
        subscription: SubscriptionKey(1),
        track: key,
        layer: Some(LayerId {
            encoding: EncodingIndex(0),
            spatial: 0,
            temporal: 0,
        }),
        rid: Rid::new("l"),
        reason: LayerReason::Bandwidth,
        available: Some(Bitrate(2)),
        bitrate: Bitrate(1),
        next: Some(Bitrate(3)),
        size: Some((320, 180)),
    };
    let wanted = LayersWanted {
        track: key,
        encodings: vec![EncodingWanted {
            index: EncodingIndex(0),
            rid: Rid::new("l"),
            is_wanted: true,
        }],
    };
    let refusal = Refusal::new(ErrorCode::BadData, "message");
    let all = [
        Outbound::Offer("v=0"),
        Outbound::Answer("v=0"),
        Outbound::Candidate {
            line: "candidate:",
            mid: "0",
            index: 0,
            ufrag: "u",
        },
        Outbound::Joined {
            peer: &peer.id,
            room: &RoomId::new("r").unwrap(),
            peers: &[],
            tracks: &[],
            ice_servers: &[],
        },
        Outbound::PeerJoined(&peer),
        Outbound::PeerLeft(&peer.id),
        Outbound::TrackPublished(&track),
        Outbound::TrackUnpublished(&track),
        Outbound::LayerChanged(&track, &change),
        Outbound::LayersWanted(&track, &wanted),
        Outbound::ActiveSpeakers {
            dominant: Some(&peer.id),
            speakers: &[(&peer.id, 20)],
        },
        Outbound::Error {
            refusal: &refusal,
            event: Some("subscribe"),
        },
    ];
    for message in &all {
        // A new kind of message does not compile here: it belongs into the list above and into the README.
        match message {
            Outbound::Offer(_)
            | Outbound::Answer(_)
            | Outbound::Candidate { .. }
            | Outbound::Joined { .. }
            | Outbound::PeerJoined(_)
            | Outbound::PeerLeft(_)
            | Outbound::TrackPublished(_)
            | Outbound::TrackUnpublished(_)
            | Outbound::LayerChanged(..)
            | Outbound::LayersWanted(..)
            | Outbound::ActiveSpeakers { .. }
            | Outbound::Error { .. } => {}
        }
    }
    all.iter().map(Outbound::to_text).collect()
}

/// What a client says so that it is understood, by event.
fn requests() -> Vec<(InboundEvent, Value)> {
    let candidate = "candidate:1 1 udp 1 192.0.2.1 9 typ host";
    let data = [
        ("joinRoom", json!({"self_id": "p", "room_id": "r"})),
        ("leaveRoom", json!({})),
        ("offer", json!({"offer": {"type": "offer", "sdp": "v=0"}})),
        (
            "answer",
            json!({"answer": {"type": "answer", "sdp": "v=0"}}),
        ),
        (
            "ice-candidate",
            json!({"candidate": {"candidate": candidate}}),
        ),
        (
            "subscribe",
            json!({"subscriptions": [{"peer_id": "p", "track_id": "t"}]}),
        ),
    ];
    data.into_iter()
        .map(|(event, data)| {
            let event = parse(event, &data).unwrap_or_else(|code| panic!("{event}: {code}"));
            // A new event does not compile here: it belongs into the list above and into the README.
            match &event {
                InboundEvent::Join(_)
                | InboundEvent::Leave
                | InboundEvent::Offer(_)
                | InboundEvent::Answer(_)
                | InboundEvent::Candidate
                | InboundEvent::Subscribe(_) => {}
            }
            (event, data)
        })
        .collect()
}

fn parse(event: &str, data: &Value) -> Result<InboundEvent, ErrorCode> {
    let frame = json!({"event": event, "data": data}).to_string();
    let inbound = message::parse(&frame).map_err(|error| error.refusal.code)?;
    assert_eq!(inbound.event.name(), event);
    Ok(inbound.event)
}

#[test]
fn every_message_of_a_client_is_documented_with_its_errors() {
    let rows = rows("in");
    let requests = requests();
    let known: BTreeSet<&str> = requests.iter().map(|(event, _)| event.name()).collect();
    let documented: BTreeSet<&str> = rows.iter().flat_map(|row| row.events.clone()).collect();
    assert_eq!(documented, known);
    let codes: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    for row in &rows {
        assert!(row.refusals.is_subset(&codes), "{:?}", row.refusals);
    }
}

/// Whatever is documented is looked at: something impossible in its place is refused.
#[test]
fn every_documented_field_of_a_client_is_read() {
    /// What any JSON may stand in, what is for later versions, and what a server that needs no candidates does not read.
    const UNREAD: [&str; 5] = [
        "metadata",
        "protocol",
        "sdpMid",
        "sdpMLineIndex",
        "usernameFragment",
    ];
    let requests = requests();
    for row in rows("in") {
        let mut events = row.events.iter();
        let event = *events.next().unwrap();
        let (_, data) = requests.iter().find(|(e, _)| e.name() == event).unwrap();
        let described = spans(row.data).filter(|span| span.starts_with('{'));
        for field in described.flat_map(names) {
            if UNREAD.contains(&&*field) {
                continue;
            }
            let places = places(data, &field);
            let is_read = places.iter().any(|data| parse(event, data).is_err());
            assert!(is_read, "{event} takes anything for {field}");
        }
    }
}

/// A request with something impossible for a field, in each place where it could stand.
fn places(value: &Value, field: &str) -> Vec<Value> {
    let impossible = json!([[0]]);
    match value {
        Value::Object(fields) => {
            let mut with: Map<String, Value> = fields.clone();
            with.insert(field.to_owned(), impossible);
            let inside = fields.iter().flat_map(|(name, inner)| {
                places(inner, field).into_iter().map(|inner| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), inner);
                    Value::Object(fields)
                })
            });
            std::iter::once(Value::Object(with)).chain(inside).collect()
        }
        Value::Array(values) => {
            let inside = values.iter().flat_map(|inner| places(inner, field));
            inside.map(|inner| json!([inner])).collect()
        }
        _ => Vec::new(),
    }
}
