//! The REST interface: what an operator (or a program) may ask of the server, as JSON over GET.
//!
//! Pure: paths to questions, answers to JSON. It is as open as `/metrics`: whoever may not see who is in a room must not
//! reach this port.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::base::ids::{PeerId, RoomId};
use crate::control::TrackInfo;
use crate::control::layers::{PeerDescription, SubscriptionDescription};
use crate::io::http::Status;
use crate::signaling::outbound::layer_fields;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::io) enum Question {
    /// What a peer receives, and why: `/api/v1/rooms/{room}/peers/{peer}/subscriptions`.
    Subscriptions { room: RoomId, peer: PeerId },
}

/// A peer's shard's answer, and the names of what it speaks of.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The answer.
    pub peer: PeerDescription,
    /// The tracks of the peer's room.
    pub tracks: Vec<Arc<TrackInfo>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// No such room, or no such peer in it.
    NotFound,
    /// The peer's shard has no room for a question.
    Busy,
    /// The peer's shard did not answer in time.
    TimedOut,
}

impl Question {
    /// Reads a path below `/api/`.
    ///
    /// # Errors
    /// What to answer to a path that is no question.
    pub fn parse(path: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = path.split('/').collect();
        let [
            "",
            "api",
            "v1",
            "rooms",
            room,
            "peers",
            peer,
            "subscriptions",
        ] = parts[..]
        else {
            return Err(Status::NotFound);
        };
        let room = percent_decoded(room).and_then(|text| RoomId::new(&text).ok());
        let peer = percent_decoded(peer).and_then(|text| PeerId::new(&text).ok());
        match (room, peer) {
            (Some(room), Some(peer)) => Ok(Self::Subscriptions { room, peer }),
            // What is no id is nobody's.
            _ => Err(Status::NotFound),
        }
    }

    /// The answer as JSON, and its status.
    pub fn answer(&self, answer: Result<Described, NoAnswer>) -> (Status, Value) {
        let Self::Subscriptions { peer, .. } = self;
        match answer {
            Ok(described) => (Status::Ok, described_json(peer, &described)),
            Err(NoAnswer::NotFound) => error(Status::NotFound),
            Err(NoAnswer::Busy) => error(Status::ServiceUnavailable),
            Err(NoAnswer::TimedOut) => error(Status::GatewayTimeout),
        }
    }
}

/// A part of a path as text (RFC 3986 §2.1); `None` if it is not UTF-8, or a `%` is followed by something else.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A status that is no success, as JSON.
pub(in crate::io) fn error(status: Status) -> (Status, Value) {
    let (code, message) = match status {
        Status::NotFound => ("not-found", "there is no such thing"),
        Status::ServiceUnavailable => ("busy", "the server is too busy to answer"),
        Status::GatewayTimeout => ("timeout", "the peer's shard did not answer in time"),
        _ => ("failed", "the request cannot be answered"),
    };
    let body = json!({"error": {"code": code, "message": message}});
    (status, body)
}

fn described_json(peer: &PeerId, described: &Described) -> Value {
    let description = &described.peer;
    let of = |one: &SubscriptionDescription| subscription_json(one, &described.tracks);
    json!({
        "peer_id": peer.as_str(),
        "estimate_bps": description.estimate.map(|bitrate| bitrate.0),
        "rtt_ms": description.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "loss": description.loss,
        "subscriptions": description.subscriptions.iter().map(of).collect::<Vec<_>>(),
    })
}

fn subscription_json(one: &SubscriptionDescription, tracks: &[Arc<TrackInfo>]) -> Value {
    // A track that has just ended has no name any more.
    let track = tracks.iter().find(|track| track.key == one.change.track);
    let mut fields = Map::new();
    fields.insert("peer_id".to_owned(), json!(track.map(|t| t.peer.as_str())));
    fields.insert("track_id".to_owned(), json!(track.map(|t| t.id.as_str())));
    fields.insert("kind".to_owned(), json!(one.kind.as_str()));
    fields.extend(layer_fields(&one.change));
    let wanted = &one.preference;
    let preference = json!({
        "width": wanted.width,
        "height": wanted.height,
        "max_framerate": wanted.max_framerate,
        "priority": wanted.priority,
        "paused": wanted.is_paused,
    });
    fields.insert("wanted".to_owned(), preference);
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::ids::{
        Bitrate, MediaKind, PeerKey, ShardId, SubscriptionKey, TrackId, TrackKey,
    };
    use crate::control::LayerReason;
    use crate::control::layers::{LayerChange, Preference};

    #[test]
    fn paths_are_decoded_and_anything_else_is_not_found() {
        let question = Question::parse("/api/v1/rooms/a%2Fb%20c/peers/Zo%C3%AB/subscriptions");
        let expected = Question::Subscriptions {
            room: RoomId::new("a/b c").unwrap(),
            peer: PeerId::new("Zoë").unwrap(),
        };
        assert_eq!(question, Ok(expected));
        let long = format!("/api/v1/rooms/{}/peers/a/subscriptions", "r".repeat(129));
        for path in [
            "/api/",
            "/api/v1/rooms/r/peers/p",
            "/api/v1/rooms/r/peers/p/subscriptions/",
            "/api/v2/rooms/r/peers/p/subscriptions",
            "/api/v1/rooms//peers/p/subscriptions",
            "/api/v1/rooms/%ff/peers/p/subscriptions",
            "/api/v1/rooms/a%0Ab/peers/p/subscriptions",
            "/api/v1/rooms/a%+1/peers/p/subscriptions",
            "/api/v1/rooms/a%4/peers/p/subscriptions",
            &long,
        ] {
            assert_eq!(Question::parse(path), Err(Status::NotFound), "{path}");
        }
    }

    #[test]
    fn the_answer_has_the_documented_form() {
        let peer = PeerId::new("me").unwrap();
        let question = Question::Subscriptions {
            room: RoomId::new("r").unwrap(),
            peer,
        };
        let key = TrackKey {
            peer: PeerKey(2),
            index: 0,
        };
        let track = Arc::new(TrackInfo {
            key,
            peer: PeerId::new("other").unwrap(),
            id: TrackId::new("cam").unwrap(),
            kind: MediaKind::Video,
            shard: ShardId(0),
        });
        let described = Described {
            peer: PeerDescription {
                peer: PeerKey(1),
                estimate: Some(Bitrate(800_000)),
                rtt: Some(Duration::from_micros(20_500)),
                loss: Some(0.25),
                subscriptions: vec![SubscriptionDescription {
                    kind: MediaKind::Video,
                    change: LayerChange {
                        subscription: SubscriptionKey(0),
                        track: key,
                        layer: None,
                        rid: None,
                        reason: LayerReason::Paused,
                        available: Some(Bitrate(800_000)),
                        bitrate: Bitrate(0),
                        next: Some(Bitrate(150_000)),
                        size: None,
                    },
                    preference: Preference::default(),
                }],
            },
            tracks: vec![track],
        };
        let (status, value) = question.answer(Ok(described));
        assert_eq!(status, Status::Ok);
        let expected = json!({
            "peer_id": "me", "estimate_bps": 800_000, "rtt_ms": 20.5, "loss": 0.25,
            "subscriptions": [{
                "peer_id": "other", "track_id": "cam", "kind": "video", "layer": null,
                "reason": "paused", "available_bps": 800_000, "layer_bps": 0,
                "next_layer_bps": 150_000,
                "wanted": {"width": null, "height": null, "max_framerate": null, "priority": 50,
                    "paused": false},
            }],
        });
        assert_eq!(value, expected);
        for (why, status) in [
            (NoAnswer::NotFound, Status::NotFound),
            (NoAnswer::Busy, Status::ServiceUnavailable),
            (NoAnswer::TimedOut, Status::GatewayTimeout),
        ] {
            let (told, value) = question.answer(Err(why));
            assert_eq!(told, status);
            assert!(value["error"]["code"].is_string());
        }
    }
}
