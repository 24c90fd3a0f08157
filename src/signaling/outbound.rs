//! What the server says: values to text frames. `message` documents the protocol, both ways.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::base::ids::{PeerId, PeerKey, RoomId};
use crate::control::layers::{EncodingWanted, LayerChange, LayersWanted};
use crate::control::{PeerInfo, TrackInfo};
use crate::signaling::message::PROTOCOL;
use crate::signaling::msid;
use crate::signaling::refusal::Refusal;

/// A STUN or TURN server as clients are told of it (`RTCIceServer`).
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct IceServer {
    /// `stun:` and `turn:` URLs.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// One frame to the client.
#[derive(Debug, Clone, Copy)]
pub enum Outbound<'a> {
    /// `offer` with its SDP.
    Offer(&'a str),
    /// `answer` with its SDP.
    Answer(&'a str),
    /// `candidate`
    Candidate {
        /// `candidate:…`
        line: &'a str,
        /// The section it is told under.
        mid: &'a str,
        /// That section's index.
        index: usize,
        /// The ICE user fragment it belongs to.
        ufrag: &'a str,
    },
    /// `joined`
    Joined {
        /// The joiner.
        peer: &'a PeerId,
        /// Its room.
        room: &'a RoomId,
        /// The others.
        peers: &'a [(PeerKey, Arc<PeerInfo>)],
        /// Their tracks.
        tracks: &'a [Arc<TrackInfo>],
        /// For the client's `RTCConfiguration`.
        ice_servers: &'a [IceServer],
    },
    /// `peer-joined`
    PeerJoined(&'a PeerInfo),
    /// `peer-left`
    PeerLeft(&'a PeerId),
    /// `track-published`
    TrackPublished(&'a TrackInfo),
    /// `track-unpublished`
    TrackUnpublished(&'a TrackInfo),
    /// `layer-changed`, of that track.
    LayerChanged(&'a TrackInfo, &'a LayerChange),
    /// `layers-wanted`, of that track of the client's own.
    LayersWanted(&'a TrackInfo, &'a LayersWanted),
    /// `active-speakers`
    ActiveSpeakers {
        /// Who has the floor.
        dominant: Option<&'a PeerId>,
        /// Who talks and how loud, in -dBov.
        speakers: &'a [(&'a PeerId, u8)],
    },
    /// `error`
    Error {
        /// Why.
        refusal: &'a Refusal,
        /// Which event it answers.
        event: Option<&'a str>,
    },
}

impl Outbound<'_> {
    /// The frame's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (event, data) = match *self {
            Self::Offer(sdp) => return description_text("offer", sdp),
            Self::Answer(sdp) => return description_text("answer", sdp),
            Self::Candidate {
                line,
                mid,
                index,
                ufrag,
            } => (
                "candidate",
                json!(
                    json!({
                        "candidate": line,
                        "sdpMid": mid,
                        "sdpMLineIndex": index,
                        "usernameFragment": ufrag,
                    })
                    .to_string()
                ),
            ),
            Self::Joined {
                peer,
                room,
                peers,
                tracks,
                ice_servers,
            } => (
                "joined",
                json!({
                    "peer_id": peer.as_str(),
                    "room_id": room.as_str(),
                    "peers": peers.iter().map(|(_, peer)| peer_json(peer)).collect::<Vec<_>>(),
                    "tracks": tracks.iter().map(|track| track_json(track)).collect::<Vec<_>>(),
                    "ice_servers": ice_servers,
                    "protocol": PROTOCOL,
                }),
            ),
            Self::PeerJoined(peer) => ("peer-joined", json!({"peer": peer_json(peer)})),
            Self::PeerLeft(peer) => ("peer-left", json!({"peer_id": peer.as_str()})),
            Self::TrackPublished(track) => ("track-published", json!({"track": track_json(track)})),
            Self::TrackUnpublished(track) => ("track-unpublished", track_json(track)),
            Self::LayerChanged(track, change) => ("layer-changed", change_json(track, change)),
            Self::LayersWanted(track, wanted) => ("layers-wanted", wanted_json(track, wanted)),
            Self::ActiveSpeakers { dominant, speakers } => {
                let speaker = |(peer, level): &(&PeerId, u8)| json!({"peer_id": peer.as_str(), "level": level});
                let data = json!({
                    "dominant": dominant.map(PeerId::as_str),
                    "speakers": speakers.iter().map(speaker).collect::<Vec<_>>(),
                });
                ("active-speakers", data)
            }
            Self::Error { refusal, event } => {
                let mut data = json!({
                    "code": refusal.code.as_str(),
                    "message": refusal.message,
                });
                if let Some(event) = event {
                    data["event"] = json!(event);
                }
                ("error", data)
            }
        };
        json!({"event": event, "data": data}).to_string()
    }
}

/// The longest frames: written without copies between, so that they do not leave holes in the heap.
fn description_text(kind: &'static str, sdp: &str) -> String {
    #[derive(Serialize)]
    struct Description<'a> {
        sdp: &'a str,
        r#type: &'static str,
    }
    #[derive(Serialize)]
    struct Frame<'a> {
        data: &'a str,
        event: &'static str,
    }
    let json = "text is always JSON";
    let held = serde_json::to_string(&Description { sdp, r#type: kind }).expect(json);
    let frame = Frame {
        data: &held,
        event: kind,
    };
    serde_json::to_string(&frame).expect(json)
}

fn peer_json(peer: &PeerInfo) -> Value {
    let mut value = json!({"id": peer.id.as_str()});
    if let Some(name) = &peer.name {
        value["name"] = json!(&**name);
    }
    if let Some(metadata) = &peer.metadata {
        value["metadata"] = Value::clone(metadata);
    }
    value
}

fn change_json(track: &TrackInfo, change: &LayerChange) -> Value {
    let mut value = json!({
        "peer_id": track.peer.as_str(),
        "track_id": track.id.as_str(),
    });
    if let Value::Object(fields) = &mut value {
        fields.extend(layer_fields(change));
    }
    value
}

/// What a subscription gets and why, as `layer-changed` and the REST interface tell it.
#[must_use]
pub fn layer_fields(change: &LayerChange) -> Map<String, Value> {
    let layer = change.layer.map(|layer| {
        let mut value = json!({
            "encoding": layer.encoding.0,
            "spatial": layer.spatial,
            "temporal": layer.temporal,
        });
        if let Some(rid) = change.rid {
            value["rid"] = json!(rid.as_str());
        }
        value
    });
    let mut fields = Map::new();
    fields.insert("layer".to_owned(), json!(layer));
    fields.insert("reason".to_owned(), json!(change.reason.as_str()));
    let available = change.available.map(|bitrate| bitrate.0);
    fields.insert("available_bps".to_owned(), json!(available));
    fields.insert("layer_bps".to_owned(), json!(change.bitrate.0));
    if let Some(next) = change.next {
        fields.insert("next_layer_bps".to_owned(), json!(next.0));
    }
    if let Some((width, height)) = change.size {
        fields.insert("width".to_owned(), json!(width));
        fields.insert("height".to_owned(), json!(height));
    }
    fields
}

fn wanted_json(track: &TrackInfo, wanted: &LayersWanted) -> Value {
    let encoding = |encoding: &EncodingWanted| {
        let mut value = json!({"index": encoding.index.0, "wanted": encoding.is_wanted});
        if let Some(rid) = encoding.rid {
            value["rid"] = json!(rid.as_str());
        }
        value
    };
    json!({
        "track_id": track.id.as_str(),
        "encodings": wanted.encodings.iter().map(encoding).collect::<Vec<_>>(),
    })
}

fn track_json(track: &TrackInfo) -> Value {
    json!({
        "peer_id": track.peer.as_str(),
        "track_id": track.id.as_str(),
        "kind": track.kind.as_str(),
        "stream_id": msid::encode(track.peer.as_str()),
        "msid_track": msid::encode(track.id.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{
        Bitrate, EncodingIndex, LayerId, MediaKind, Rid, ShardId, SubscriptionKey, TrackId,
        TrackKey,
    };
    use crate::base::layer_reason::LayerReason;
    use crate::signaling::refusal::ErrorCode;

    #[test]
    fn outbound_frames_have_the_documented_form() {
        let peer = PeerInfo {
            id: PeerId::new("Zoë").unwrap(),
            name: Some("Z".into()),
            metadata: None,
        };
        let track = TrackInfo {
            key: TrackKey {
                peer: PeerKey(1),
                index: 0,
            },
            peer: peer.id.clone(),
            id: TrackId::new("{t}").unwrap(),
            kind: MediaKind::Video,
            shard: ShardId(0),
        };
        let track_data = json!({"peer_id": "Zoë", "track_id": "{t}", "kind": "video",
            "stream_id": "Zo%C3%AB", "msid_track": "{t}"});
        let refusal = Refusal::new(ErrorCode::RoomFull, "full");
        let change = LayerChange {
            subscription: SubscriptionKey(1),
            track: track.key,
            layer: Some(LayerId {
                encoding: EncodingIndex(1),
                spatial: 0,
                temporal: 2,
            }),
            rid: Rid::new("m"),
            reason: LayerReason::Bandwidth,
            available: Some(Bitrate(600_000)),
            bitrate: Bitrate(450_000),
            next: Some(Bitrate(1_500_000)),
            size: Some((640, 360)),
        };
        let paused = LayerChange {
            layer: None,
            reason: LayerReason::LastN,
            available: None,
            bitrate: Bitrate(0),
            next: None,
            size: None,
            ..change
        };
        let encoding = |index, rid, is_wanted| EncodingWanted {
            index: EncodingIndex(index),
            rid,
            is_wanted,
        };
        let wanted = LayersWanted {
            track: track.key,
            encodings: vec![encoding(0, Rid::new("l"), true), encoding(1, None, false)],
        };
        let cases = [
            (
                Outbound::Answer("v=0"),
                json!({"event": "answer", "data": "{\"sdp\":\"v=0\",\"type\":\"answer\"}"}),
            ),
            (
                Outbound::PeerJoined(&peer),
                json!({"event": "peer-joined", "data": {"peer": {"id": "Zoë", "name": "Z"}}}),
            ),
            (
                Outbound::PeerLeft(&peer.id),
                json!({"event": "peer-left", "data": {"peer_id": "Zoë"}}),
            ),
            (
                Outbound::TrackPublished(&track),
                json!({"event": "track-published", "data": {"track": track_data}}),
            ),
            (
                Outbound::TrackUnpublished(&track),
                json!({"event": "track-unpublished", "data": track_data}),
            ),
            (
                Outbound::LayerChanged(&track, &change),
                json!({"event": "layer-changed", "data": {"peer_id": "Zoë", "track_id": "{t}",
                    "layer": {"encoding": 1, "rid": "m", "spatial": 0, "temporal": 2},
                    "reason": "bandwidth", "available_bps": 600_000, "layer_bps": 450_000,
                    "next_layer_bps": 1_500_000, "width": 640, "height": 360}}),
            ),
            (
                Outbound::LayerChanged(&track, &paused),
                json!({"event": "layer-changed", "data": {"peer_id": "Zoë", "track_id": "{t}",
                    "layer": null, "reason": "last-n", "available_bps": null, "layer_bps": 0}}),
            ),
            (
                Outbound::LayersWanted(&track, &wanted),
                json!({"event": "layers-wanted", "data": {"track_id": "{t}", "encodings": [
                    {"index": 0, "rid": "l", "wanted": true}, {"index": 1, "wanted": false}]}}),
            ),
            (
                Outbound::ActiveSpeakers {
                    dominant: Some(&track.peer),
                    speakers: &[(&track.peer, 34)],
                },
                json!({"event": "active-speakers", "data": {
                    "dominant": track.peer.as_str(),
                    "speakers": [{"peer_id": track.peer.as_str(), "level": 34}],
                }}),
            ),
            (
                Outbound::ActiveSpeakers {
                    dominant: None,
                    speakers: &[],
                },
                json!({"event": "active-speakers", "data": {"dominant": null, "speakers": []}}),
            ),
            (
                Outbound::Error {
                    refusal: &refusal,
                    event: Some("joinRoom"),
                },
                json!({"event": "error",
                    "data": {"code": "room-full", "message": "full", "event": "joinRoom"}}),
            ),
        ];
        for (frame, expected) in cases {
            let text = frame.to_text();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        }
        let text = Outbound::Candidate {
            line: "candidate:1",
            mid: "0",
            index: 0,
            ufrag: "u",
        }
        .to_text();
        let frame: Value = serde_json::from_str(&text).unwrap();
        let held: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        assert_eq!(
            held,
            json!({"candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "u"})
        );
    }
}
