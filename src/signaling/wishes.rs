//! What a client says in `subscribe`: how large it shows each track, how much each matters, what it has no use for.
//!
//! A wish names a track by the ids of its publisher and its own, and stays until the client says something else, leaves
//! the room, or has said too much else: it outlives renegotiation, and also the track itself, should one of the same
//! ids be published again. A track that is not there (yet) is no error; the wish waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::ids::{InvalidId, PeerId, TrackId};
use crate::control::TrackInfo;
use crate::control::layers::{Preference, Preferences};
use crate::signaling::refusal::{ErrorCode, Refusal};

/// Tracks in one `subscribe` at most.
pub const SUBSCRIBE_TRACKS_MAX: usize = 256;
/// Wishes that are kept at most; beyond that the one that was made first goes.
pub const WISHES_MAX: usize = 1024;
/// The largest width and height that can be asked for, in pixels: what AV1 and VP8 go up to.
pub const SIDE_MAX: u16 = 16_384;
/// The highest frame rate that can be asked for.
pub const FRAMERATE_MAX: u16 = 1_000;
/// The highest `last_n`.
pub const LAST_N_MAX: u16 = 1_000;

/// The data of `subscribe`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// What is said of single tracks. Of two entries for one track the later counts.
    pub tracks: Vec<(PeerId, TrackId, Preference)>,
    /// `last_n`, where the frame has it; `Some(None)` takes a former one back.
    pub last_n: Option<Option<u16>>,
}

impl Subscribe {
    /// Reads the event's data.
    ///
    /// # Errors
    /// [`Refusal`] says what is wrong; nothing of the frame has effect then.
    pub fn parse(mut data: Map<String, Value>) -> Result<Self, Refusal> {
        let tracks = match data.remove("subscriptions") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) if entries.len() <= SUBSCRIBE_TRACKS_MAX => entries
                .into_iter()
                .map(parse_entry)
                .collect::<Result<_, _>>()?,
            Some(Value::Array(_)) => {
                return Err(Refusal::bad_data("subscriptions has more than 256 entries"));
            }
            Some(_) => return Err(Refusal::bad_data("subscriptions is not an array")),
        };
        let last_n = match data.remove("last_n") {
            None => None,
            Some(Value::Null) => Some(None),
            Some(value) => Some(Some(whole(&value, "last_n", LAST_N_MAX)?)),
        };
        Ok(Self { tracks, last_n })
    }
}

fn parse_entry(entry: Value) -> Result<(PeerId, TrackId, Preference), Refusal> {
    let Value::Object(entry) = entry else {
        return Err(Refusal::bad_data("a subscription is not an object"));
    };
    let id = |name: &str| match entry.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(bad_id(name, "is missing")),
    };
    let invalid = |name: &'static str| move |why: InvalidId| bad_id(name, &why.to_string());
    let peer = PeerId::new(id("peer_id")?).map_err(invalid("peer_id"))?;
    let track = TrackId::new(id("track_id")?).map_err(invalid("track_id"))?;
    let number = |name: &'static str| entry.get(name).filter(|value| !value.is_null());
    let side = |name| number(name).map(|v| pixels(v, name)).transpose();
    let rate = |name| {
        let rate = number(name).map(|v| whole(v, name, FRAMERATE_MAX));
        rate.transpose()
    };
    let priority = match number("priority") {
        None => Preference::PRIORITY_DEFAULT,
        // At most 100: fits.
        Some(value) => whole(value, "priority", u16::from(Preference::PRIORITY_MAX))? as u8,
    };
    let is_paused = match entry.get("paused") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_paused)) => *is_paused,
        Some(_) => return Err(Refusal::bad_data("paused is neither true nor false")),
    };
    let preference = Preference {
        width: side("width")?,
        height: side("height")?,
        max_framerate: rate("max_framerate")?,
        priority,
        is_paused,
    };
    Ok((peer, track, preference))
}

fn bad_id(name: &str, why: &str) -> Refusal {
    Refusal::new(ErrorCode::BadId, format!("{name} {why}"))
}

/// A whole number from 0 to `max`.
fn whole(value: &Value, name: &str, max: u16) -> Result<u16, Refusal> {
    let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
    number
        .filter(|n| *n <= max)
        .ok_or_else(|| Refusal::bad_data(format!("{name} is not a whole number from 0 to {max}")))
}

/// A number of pixels, rounded up: sizes of elements on a page are fractions.
fn pixels(value: &Value, name: &str) -> Result<u16, Refusal> {
    let number = value.as_f64().map(f64::ceil);
    number
        .filter(|n| (0.0..=f64::from(SIDE_MAX)).contains(n))
        // Within the range of a u16, and whole.
        .map(|n| n as u16)
        .ok_or_else(|| Refusal::bad_data(format!("{name} is not a number from 0 to {SIDE_MAX}")))
}

/// All that a client has said in `subscribe`.
#[derive(Debug, Default)]
pub struct Wishes {
    tracks: HashMap<(PeerId, TrackId), Wish>,
    last_n: Option<u16>,
    /// Numbers the wishes in the order in which they were made.
    next: u64,
}

#[derive(Debug)]
struct Wish {
    preference: Preference,
    made: u64,
}

impl Wishes {
    /// Takes what a client says: it replaces what it said of the same tracks before.
    pub fn take(&mut self, subscribe: Subscribe) {
        for (peer, track, preference) in subscribe.tracks {
            let made = self.next;
            self.next += 1;
            let id = (peer, track);
            if self.tracks.len() >= WISHES_MAX && !self.tracks.contains_key(&id) {
                self.forget_oldest();
            }
            self.tracks.insert(id, Wish { preference, made });
        }
        if let Some(last_n) = subscribe.last_n {
            self.last_n = last_n;
        }
    }

    /// Whether anything is said of a track.
    #[must_use]
    pub fn has(&self, track: &TrackInfo) -> bool {
        self.of(track).is_some()
    }

    /// What this means for the tracks that there are.
    #[must_use]
    pub fn preferences(&self, tracks: &[Arc<TrackInfo>]) -> Preferences {
        let tracks = match self.tracks.is_empty() {
            true => Vec::new(),
            false => tracks
                .iter()
                .filter_map(|track| Some((track.key, self.of(track)?)))
                .collect(),
        };
        Preferences {
            tracks,
            last_n: self.last_n,
        }
    }

    fn of(&self, track: &TrackInfo) -> Option<Preference> {
        if self.tracks.is_empty() {
            return None;
        }
        let wish = self.tracks.get(&(track.peer.clone(), track.id.clone()))?;
        Some(wish.preference)
    }

    fn forget_oldest(&mut self) {
        let oldest = self.tracks.iter().min_by_key(|(_, wish)| wish.made);
        if let Some(id) = oldest.map(|(id, _)| id.clone()) {
            self.tracks.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::ids::{MediaKind, PeerKey, ShardId, TrackKey};

    fn parse(data: Value) -> Result<Subscribe, ErrorCode> {
        let Value::Object(data) = data else {
            panic!("an object");
        };
        Subscribe::parse(data).map_err(|refusal| refusal.code)
    }

    fn one(mut entry: Value) -> Result<Preference, ErrorCode> {
        entry["peer_id"] = json!("p");
        entry["track_id"] = json!("t");
        parse(json!({"subscriptions": [entry]})).map(|subscribe| subscribe.tracks[0].2)
    }

    #[test]
    fn entries_have_defaults_and_bounds() {
        let default = Preference::default();
        assert_eq!(one(json!({})), Ok(default));
        let all = json!({"width": 319.2, "height": 180, "max_framerate": 15, "priority": 100,
            "paused": true, "later": "ignored"});
        let expected = Preference {
            width: Some(320),
            height: Some(180),
            max_framerate: Some(15),
            priority: 100,
            is_paused: true,
        };
        assert_eq!(one(all), Ok(expected));
        let nulls = json!({"width": null, "priority": null, "paused": null});
        assert_eq!(one(nulls), Ok(default));
        for bad in [
            json!({"width": -1}),
            json!({"width": 16_385}),
            json!({"height": "180"}),
            json!({"max_framerate": 29.97}),
            json!({"max_framerate": 1001}),
            json!({"priority": 101}),
            json!({"priority": -1}),
            json!({"paused": 1}),
        ] {
            assert_eq!(one(bad.clone()), Err(ErrorCode::BadData), "{bad}");
        }
        assert_eq!(one(json!({"width": 0})).map(|p| p.width), Ok(Some(0)));
    }

    #[test]
    fn frames_are_bounded_and_name_tracks() {
        let entry = json!({"peer_id": "p", "track_id": "t"});
        let count = |n: usize| parse(json!({"subscriptions": vec![entry.clone(); n]}));
        assert_eq!(count(256).map(|s| s.tracks.len()), Ok(256));
        assert_eq!(count(257), Err(ErrorCode::BadData));
        assert_eq!(parse(json!({})), Ok(Subscribe::default()));
        assert_eq!(parse(json!({"subscriptions": {}})), Err(ErrorCode::BadData));
        assert_eq!(
            parse(json!({"subscriptions": [7]})),
            Err(ErrorCode::BadData)
        );
        for entry in [
            json!({"track_id": "t"}),
            json!({"peer_id": "p"}),
            json!({"peer_id": "", "track_id": "t"}),
            json!({"peer_id": "p", "track_id": "a\nb"}),
        ] {
            assert_eq!(
                parse(json!({"subscriptions": [entry]})),
                Err(ErrorCode::BadId)
            );
        }
        for (value, expected) in [
            (json!(null), Ok(Some(None))),
            (json!(0), Ok(Some(Some(0)))),
            (json!(1001), Err(ErrorCode::BadData)),
            (json!("3"), Err(ErrorCode::BadData)),
        ] {
            let last_n = parse(json!({"last_n": value})).map(|subscribe| subscribe.last_n);
            assert_eq!(last_n, expected, "{value}");
        }
    }

    fn track(peer: &str, id: &str, key: u64) -> Arc<TrackInfo> {
        Arc::new(TrackInfo {
            key: TrackKey {
                peer: PeerKey(key),
                index: 0,
            },
            peer: PeerId::new(peer).unwrap(),
            id: TrackId::new(id).unwrap(),
            kind: MediaKind::Video,
            shard: ShardId(0),
        })
    }

    fn wish(id: &str, priority: u8) -> Subscribe {
        parse(json!({"subscriptions": [{"peer_id": "p", "track_id": id, "priority": priority}]}))
            .unwrap()
    }

    #[test]
    fn a_wish_holds_for_its_track_whenever_that_comes() {
        let mut wishes = Wishes::default();
        let cam = track("p", "cam", 1);
        wishes.take(wish("cam", 70));
        wishes.take(parse(json!({"last_n": 3})).unwrap());
        assert!(wishes.has(&cam) && !wishes.has(&track("q", "cam", 1)));
        assert_eq!(wishes.preferences(&[]).tracks, []);
        let priority = |wishes: &Wishes, track: &Arc<TrackInfo>| {
            let preferences = wishes.preferences(std::slice::from_ref(track));
            assert_eq!(preferences.last_n, Some(3));
            preferences
                .tracks
                .first()
                .map(|(key, p)| (*key, p.priority))
        };
        assert_eq!(priority(&wishes, &cam), Some((cam.key, 70)));
        // Published again: another key, the same ids.
        let again = track("p", "cam", 2);
        wishes.take(wish("screen", 100));
        assert_eq!(priority(&wishes, &again), Some((again.key, 70)));
        wishes.take(wish("cam", 10));
        assert_eq!(priority(&wishes, &cam), Some((cam.key, 10)));
    }

    #[test]
    fn too_many_wishes_push_the_oldest_out() {
        let mut wishes = Wishes::default();
        for n in 0..WISHES_MAX {
            wishes.take(wish(&n.to_string(), 1));
        }
        wishes.take(wish("0", 2));
        wishes.take(wish("new", 1));
        assert_eq!(wishes.tracks.len(), WISHES_MAX);
        let has = |id: &str| wishes.has(&track("p", id, 1));
        assert!(has("new") && has("0") && !has("1") && has("2"));
    }
}
