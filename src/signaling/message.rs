//! The wire protocol: JSON text frames `{"event": E, "data": D}` over one WebSocket; and what clients say, bytes to
//! values (`outbound` has the other way). Knows nothing of who is in which room.
//!
//! # From the client
//!
//! | event | data |
//! |---|---|
//! | `joinRoom` | `{self_id, room_id}`, optionally `token`, `name`, `metadata`, `protocol`, `offerer` |
//! | `leaveRoom` | nothing |
//! | `offer` | `{offer: {type: "offer", sdp}}` |
//! | `answer` | `{answer: {type: "answer", sdp}}` |
//! | `ice-candidate` | `{candidate: {candidate, sdpMid, sdpMLineIndex, usernameFragment}}` |
//! | `subscribe` | `{subscriptions: [{peer_id, track_id, width?, height?, max_framerate?, priority?, paused?}], last_n?}` |
//!
//! `self_id` and `room_id` may stand in every event; after `joinRoom` they must be those of the join.
//! A field that is absent, `null` or (an id only) empty was not sent: this is how clients of the
//! predecessor leave out what they forgot. `data`, `offer`, `answer` and `candidate` may be objects or
//! JSON strings that hold one. `name` has at most 128 characters, `metadata` at most 4 KiB as JSON.
//! `"offerer": "server"` says that the client only watches and waits to be offered tracks.
//!
//! # From the server
//!
//! | event | data |
//! |---|---|
//! | `offer`, `answer` | a JSON *string* holding `{type, sdp}` |
//! | `candidate` | a JSON *string* holding an `RTCIceCandidateInit`; follows the description it belongs to |
//! | `joined` | `{peer_id, room_id, peers, tracks, ice_servers, protocol}` |
//! | `peer-joined` | `{peer: {id, name?, metadata?}}` |
//! | `peer-left` | `{peer_id}` |
//! | `track-published` | `{track: {peer_id, track_id, kind, stream_id, msid_track}}` |
//! | `track-unpublished` | `{peer_id, track_id, kind, stream_id, msid_track}` of the track that ended |
//! | `layer-changed` | `{peer_id, track_id, layer: {encoding, rid?, spatial, temporal} or null, reason, available_bps, layer_bps, next_layer_bps?, width?, height?}` |
//! | `layers-wanted` | `{track_id, encodings: [{index, rid?, wanted}]}`: of a track of the client's own |
//! | `active-speakers` | `{dominant: peer id or null, speakers: [{peer_id, level}]}`, `level` in -dBov (RFC 6464) |
//! | `error` | `{code, message, event?}`: [`ErrorCode`] |
//!
//! `stream_id` and `msid_track` are the two parts of the track's `a=msid` as they stand in the
//! description (percent-encoded where an id is not an SDP token; `decodeURIComponent` restores it).

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::ids::{PeerId, RoomId};
use crate::control::PeerInfo;
pub use crate::signaling::refusal::{ErrorCode, Refusal};
use crate::signaling::wishes::Subscribe;

/// Bytes of a frame read at most.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Depth of nested arrays and objects read at most.
pub const DEPTH_MAX: usize = 32;
/// Characters of a peer's name at most.
pub const NAME_CHARS_MAX: usize = 128;
/// Bytes of a peer's metadata as JSON text at most.
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// Bytes of one ICE candidate line at most. Real ones have about 150.
pub const CANDIDATE_BYTES_MAX: usize = 1024;
/// The version of this protocol.
pub const PROTOCOL: u32 = 1;

/// An event that cannot be read, with its name where that much could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Why.
    pub refusal: Refusal,
    /// The event's name: at most [`EVENT_CHARS_MAX`] characters of it.
    pub event: Option<String>,
}

/// Characters of an unknown event's name that an `error` repeats at most.
pub const EVENT_CHARS_MAX: usize = 64;

/// One frame from the client.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// The peer's id, where sent.
    pub self_id: Option<PeerId>,
    /// The room's id, where sent.
    pub room_id: Option<RoomId>,
    /// What it is about.
    pub event: InboundEvent,
}

/// What a client can say.
#[derive(Debug, Clone, PartialEq)]
pub enum InboundEvent {
    /// `joinRoom`
    Join(Box<Join>),
    /// `leaveRoom`
    Leave,
    /// `offer`, with its SDP.
    Offer(String),
    /// `answer`, with its SDP.
    Answer(String),
    /// `ice-candidate`, syntactically valid. An ICE-lite server needs no more of it.
    Candidate,
    /// `subscribe`
    Subscribe(Subscribe),
}

impl InboundEvent {
    /// The event's name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Join(_) => "joinRoom",
            Self::Leave => "leaveRoom",
            Self::Offer(_) => "offer",
            Self::Answer(_) => "answer",
            Self::Candidate => "ice-candidate",
            Self::Subscribe(_) => "subscribe",
        }
    }
}

/// The data of `joinRoom`.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// The room.
    pub room: RoomId,
    /// Who joins.
    pub info: Arc<PeerInfo>,
    /// What proves that it may.
    pub token: Option<String>,
    /// `"offerer": "server"`: a pure viewer.
    pub viewer: bool,
}

/// Reads one text frame.
///
/// # Errors
/// [`ParseError`] says what to tell the client.
pub fn parse(text: &str) -> Result<Inbound, ParseError> {
    let nameless = |code, message: &'static str| ParseError {
        refusal: Refusal::new(code, message),
        event: None,
    };
    if text.len() > FRAME_BYTES_MAX {
        return Err(nameless(ErrorCode::TooLarge, "the frame is too large"));
    }
    if is_too_deep(text) {
        return Err(nameless(ErrorCode::TooDeep, "the JSON nests too deep"));
    }
    let frame: Value = serde_json::from_str(text)
        .map_err(|_| nameless(ErrorCode::BadJson, "the frame is not JSON"))?;
    let Value::Object(mut frame) = frame else {
        return Err(nameless(ErrorCode::BadJson, "the frame is not an object"));
    };
    let Some(Value::String(name)) = frame.remove("event") else {
        return Err(nameless(ErrorCode::BadJson, "the frame has no event"));
    };
    let data = frame.remove("data").unwrap_or(Value::Null);
    parse_event(&name, data).map_err(|refusal| ParseError {
        refusal,
        event: Some(name.chars().take(EVENT_CHARS_MAX).collect()),
    })
}

fn parse_event(name: &str, data: Value) -> Result<Inbound, Refusal> {
    if !matches!(
        name,
        "joinRoom" | "leaveRoom" | "offer" | "answer" | "ice-candidate" | "subscribe"
    ) {
        return Err(Refusal::new(ErrorCode::UnknownEvent, "unknown event"));
    }
    let mut data = object(data, "data")?;
    let id = |value: Option<Value>, name: &str| match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::new(
            ErrorCode::BadId,
            format!("{name} is not a string"),
        )),
    };
    let invalid = |name, why| Refusal::new(ErrorCode::BadId, format!("{name} {why}"));
    let self_id = id(data.remove("self_id"), "self_id")?
        .map(|text| PeerId::new(&text).map_err(|why| invalid("self_id", why)))
        .transpose()?;
    let room_id = id(data.remove("room_id"), "room_id")?
        .map(|text| RoomId::new(&text).map_err(|why| invalid("room_id", why)))
        .transpose()?;
    let event = match name {
        "joinRoom" => {
            let missing = |name| Refusal::new(ErrorCode::BadId, format!("{name} is missing"));
            let peer = self_id.clone().ok_or_else(|| missing("self_id"))?;
            let room = room_id.clone().ok_or_else(|| missing("room_id"))?;
            InboundEvent::Join(Box::new(parse_join(peer, room, data)?))
        }
        "leaveRoom" => InboundEvent::Leave,
        "offer" => InboundEvent::Offer(parse_sdp(data.remove("offer"), "offer")?),
        "answer" => InboundEvent::Answer(parse_sdp(data.remove("answer"), "answer")?),
        "subscribe" => InboundEvent::Subscribe(Subscribe::parse(data)?),
        _ => {
            check_candidate(data.remove("candidate"))?;
            InboundEvent::Candidate
        }
    };
    Ok(Inbound {
        self_id,
        room_id,
        event,
    })
}

fn parse_join(peer: PeerId, room: RoomId, mut data: Map<String, Value>) -> Result<Join, Refusal> {
    let name = text(data.remove("name"), "name")?;
    if let Some(name) = &name
        && (name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control))
    {
        return Err(Refusal::bad_data(
            "name is not at most 128 printable characters",
        ));
    }
    let metadata = data.remove("metadata").filter(|value| !value.is_null());
    if let Some(value) = &metadata
        && value.to_string().len() > METADATA_BYTES_MAX
    {
        return Err(Refusal::bad_data("metadata is larger than 4 KiB"));
    }
    let viewer = match text(data.remove("offerer"), "offerer")?.as_deref() {
        None | Some("client") => false,
        Some("server") => true,
        Some(_) => {
            return Err(Refusal::bad_data(
                "offerer is neither \"client\" nor \"server\"",
            ));
        }
    };
    Ok(Join {
        room,
        info: Arc::new(PeerInfo {
            id: peer,
            name: name.filter(|name| !name.is_empty()).map(Arc::from),
            metadata: metadata.map(Arc::new),
        }),
        token: text(data.remove("token"), "token")?,
        viewer,
    })
}

/// The SDP of `{type, sdp}`; a `type` that is there must fit the event.
fn parse_sdp(description: Option<Value>, event: &'static str) -> Result<String, Refusal> {
    let mut description = object(description.unwrap_or(Value::Null), event)?;
    match text(description.remove("type"), "type")? {
        Some(kind) if kind != event => {
            return Err(Refusal::bad_data(format!(
                "the description's type is not {event}"
            )));
        }
        _ => {}
    }
    text(description.remove("sdp"), "sdp")?
        .ok_or_else(|| Refusal::bad_data(format!("{event}.sdp is missing")))
}

/// An `RTCIceCandidateInit`, its line alone, or nothing (the end of candidates).
fn check_candidate(candidate: Option<Value>) -> Result<(), Refusal> {
    let refused = |why: &'static str| Refusal::new(ErrorCode::BadCandidate, why);
    let line = match candidate {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(line)) if !line.trim_start().starts_with('{') => line,
        Some(value) => {
            let mut init = object(value, "candidate")?;
            match init.remove("candidate") {
                None | Some(Value::Null) => return Ok(()),
                Some(Value::String(line)) => line,
                Some(_) => return Err(refused("candidate is not a string")),
            }
        }
    };
    let line = line.trim();
    if line.is_empty() {
        return Ok(());
    }
    if line.len() > CANDIDATE_BYTES_MAX || line.chars().any(char::is_control) {
        return Err(refused(
            "the candidate is not one line of at most 1024 bytes",
        ));
    }
    let line = line.strip_prefix("a=").unwrap_or(line);
    let mut words = line
        .strip_prefix("candidate:")
        .ok_or_else(|| refused("the candidate does not begin with \"candidate:\""))?
        .split_whitespace();
    // foundation component transport priority address port "typ" type (RFC 8839 §5.1)
    let mut word = || {
        words
            .next()
            .ok_or_else(|| refused("the candidate is cut short"))
    };
    word()?;
    let component = word()?.parse::<u16>().is_ok();
    word()?;
    let priority = word()?.parse::<u32>().is_ok();
    word()?;
    let port = word()?.parse::<u16>().is_ok();
    if !(component && priority && port) {
        return Err(refused("the candidate has a number that is none"));
    }
    if word()? != "typ" {
        return Err(refused("the candidate has no type"));
    }
    word().map(|_| ())
}

/// An object, or a JSON string that holds one; `null` is an empty one.
fn object(value: Value, name: &str) -> Result<Map<String, Value>, Refusal> {
    let value = match value {
        Value::String(text) if text.is_empty() => Value::Null,
        Value::String(text) if is_too_deep(&text) => {
            return Err(Refusal::new(ErrorCode::TooDeep, "the JSON nests too deep"));
        }
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        value => value,
    };
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(Refusal::bad_data(format!("{name} is not an object"))),
    }
}

fn text(value: Option<Value>, name: &str) -> Result<Option<String>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::bad_data(format!("{name} is not a string"))),
    }
}

/// Whether arrays and objects nest deeper than [`DEPTH_MAX`], found without recursion.
#[must_use]
pub fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn code(text: &str) -> Option<ErrorCode> {
        parse(text).err().map(|error| error.refusal.code)
    }

    fn join(data: Value) -> Result<Join, ErrorCode> {
        let mut data = data;
        data["self_id"] = json!("a");
        data["room_id"] = json!("r");
        match parse(&json!({"event": "joinRoom", "data": data}).to_string()) {
            Ok(Inbound {
                event: InboundEvent::Join(join),
                ..
            }) => Ok(*join),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.refusal.code),
        }
    }

    #[test]
    fn join_takes_what_is_optional() {
        let plain = join(json!({})).unwrap();
        assert_eq!((plain.info.id.as_str(), plain.room.as_str()), ("a", "r"));
        assert!(!plain.viewer && plain.info.name.is_none());
        let full = join(json!({
            "token": "t", "name": "Zoë", "metadata": {"x": [1]}, "protocol": 1, "offerer": "server",
        }))
        .unwrap();
        assert!(full.viewer);
        assert_eq!(full.info.name.as_deref(), Some("Zoë"));
        assert_eq!(full.info.metadata.as_deref(), Some(&json!({"x": [1]})));
        assert_eq!(full.token.as_deref(), Some("t"));
        let nulls = json!({"token": null, "name": null, "metadata": null, "offerer": null});
        assert_eq!(join(nulls).unwrap(), plain);
    }

    #[test]
    fn join_has_limits() {
        let bad = Err(ErrorCode::BadData);
        assert!(join(json!({"name": "é".repeat(NAME_CHARS_MAX)})).is_ok());
        assert_eq!(join(json!({"name": "é".repeat(NAME_CHARS_MAX + 1)})), bad);
        assert_eq!(join(json!({"name": "a\nb"})), bad);
        assert!(join(json!({"metadata": "x".repeat(METADATA_BYTES_MAX - 2)})).is_ok());
        assert_eq!(
            join(json!({"metadata": "x".repeat(METADATA_BYTES_MAX - 1)})),
            bad
        );
        assert_eq!(join(json!({"offerer": "nobody"})), bad);
        let ids = [
            json!({"self_id": 7, "room_id": "r"}),
            json!({"self_id": "x".repeat(129), "room_id": "r"}),
            json!({"self_id": "", "room_id": "r"}),
            json!({"self_id": "a", "room_id": "\u{7}"}),
            json!({"self_id": "a"}),
            json!({}),
        ];
        for data in ids {
            let text = json!({"event": "joinRoom", "data": data}).to_string();
            assert_eq!(code(&text), Some(ErrorCode::BadId), "{text}");
        }
    }

    #[test]
    fn descriptions_come_as_objects_or_strings() {
        let sdp = InboundEvent::Offer("v=0".to_owned());
        let held = json!({"type": "offer", "sdp": "v=0"}).to_string();
        let cases = [
            json!({"offer": {"type": "offer", "sdp": "v=0"}}),
            json!({"self_id": null, "offer": {"sdp": "v=0"}}),
            json!({"self_id": "", "room_id": "", "offer": {"type": null, "sdp": "v=0"}}),
            json!({"offer": held}),
            json!(json!({"offer": held}).to_string()),
        ];
        for data in cases {
            let text = json!({"event": "offer", "data": data}).to_string();
            let inbound = parse(&text).unwrap();
            assert_eq!(inbound.event, sdp, "{text}");
            assert_eq!((inbound.self_id, inbound.room_id), (None, None));
        }
        for data in [
            json!(null),
            json!([]),
            json!("x"),
            json!({"offer": "v=0"}),
            json!({"offer": {"type": "answer", "sdp": "v=0"}}),
            json!({"offer": {"type": "offer", "sdp": 5}}),
            json!({"offer": {"type": "offer"}}),
        ] {
            let text = json!({"event": "offer", "data": data}).to_string();
            assert_eq!(code(&text), Some(ErrorCode::BadData), "{text}");
        }
    }

    #[test]
    fn candidates_are_checked_for_their_form() {
        let udp = "candidate:842163049 1 udp 1677729535 203.0.113.5 46154 typ srflx raddr 0.0.0.0 rport 0 generation 0";
        let of = |candidate: Value| {
            code(&json!({"event": "ice-candidate", "data": {"candidate": candidate}}).to_string())
        };
        for good in [
            json!({"candidate": udp, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": "x"}),
            json!({"candidate": format!("a={udp}\r\n"), "sdpMid": null, "sdpMLineIndex": "1"}),
            json!({"candidate": "candidate:1 1 TCP 1518280447 192.0.2.1 9 typ host tcptype active"}),
            json!({"candidate": ""}),
            json!({"candidate": null}),
            json!({}),
            json!(udp),
            json!(json!({"candidate": udp}).to_string()),
            json!(null),
        ] {
            assert_eq!(of(good.clone()), None, "{good}");
        }
        for bad in [
            json!({"candidate": "candidate:1 1 udp"}),
            json!({"candidate": udp.replace("46154", "146154")}),
            json!({"candidate": udp.replace("1677729535", "-1")}),
            json!({"candidate": udp.replace("typ", "type")}),
            json!({"candidate": format!("{udp}\n{udp}")}),
            json!({"candidate": format!("{udp}{}", " x".repeat(600))}),
            json!({"candidate": 5}),
            json!("hello"),
        ] {
            assert_eq!(of(bad.clone()), Some(ErrorCode::BadCandidate), "{bad}");
        }
    }

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!is_too_deep(&nested(DEPTH_MAX)));
        assert!(is_too_deep(&nested(DEPTH_MAX + 1)));
        assert!(!is_too_deep(&format!("\"{}\"", "[".repeat(100))));
        assert!(!is_too_deep(&format!(r#""\"{}""#, "[".repeat(100))));
        assert!(is_too_deep(&format!(r#""\\"{}"#, "[".repeat(100))));
        assert!(!is_too_deep(&"[]".repeat(100)));
        let held = json!({"event": "offer", "data": nested(DEPTH_MAX + 1)}).to_string();
        assert_eq!(code(&held), Some(ErrorCode::TooDeep));
    }

    #[test]
    fn unknown_events_are_named_in_bounds() {
        let name = "é".repeat(500);
        let error = parse(&json!({"event": name}).to_string()).unwrap_err();
        assert_eq!(error.refusal.code, ErrorCode::UnknownEvent);
        assert_eq!(error.event.unwrap().chars().count(), EVENT_CHARS_MAX);
    }
}
