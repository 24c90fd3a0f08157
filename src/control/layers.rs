//! What subscribers want of videos, what they get and why, and which encodings nobody wants.

use std::time::Duration;

use crate::base::ids::{
    Bitrate, ENCODINGS_MAX, EncodingIndex, LayerId, MediaKind, PeerKey, Rid, SubscriptionKey,
    TrackKey,
};
use crate::base::layer_reason::LayerReason;

/// What a client wants of one track. The default is what holds for tracks it has said nothing of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// How wide it is shown, in pixels; `None`: no limit.
    pub width: Option<u16>,
    /// How high it is shown, in pixels; `None`: no limit.
    pub height: Option<u16>,
    /// Pictures in a second that are of use; `None`: no limit.
    pub max_framerate: Option<u16>,
    /// 0–[`Preference::PRIORITY_MAX`]; the higher, the sooner it is served.
    pub priority: u8,
    /// Nothing of it is to be sent.
    pub is_paused: bool,
}

impl Preference {
    /// The highest priority.
    pub const PRIORITY_MAX: u8 = 100;
    /// The priority of a track of which nothing is said.
    pub const PRIORITY_DEFAULT: u8 = 50;
}

impl Default for Preference {
    fn default() -> Self {
        Self {
            width: None,
            height: None,
            max_framerate: None,
            priority: Self::PRIORITY_DEFAULT,
            is_paused: false,
        }
    }
}

/// All that a peer wants of what it receives. Replaces what it wanted before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    /// Each track of which the client has said something, at most once. The track need not be there (yet).
    pub tracks: Vec<(TrackKey, Preference)>,
    /// How many publishers' pictures it wants at most, those who spoke last; `None`: as the room has it.
    pub last_n: Option<u16>,
}

impl Preferences {
    /// What is wanted of a track. The list must be sorted by track.
    #[must_use]
    pub fn of(&self, track: TrackKey) -> Preference {
        let at = self.tracks.binary_search_by_key(&track, |(key, _)| *key);
        at.map_or_else(|_| Preference::default(), |at| self.tracks[at].1)
    }
}

/// What the videos of a shard's subscribers get, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerCensus {
    /// Subscriptions by reason, and by what they get: nothing, or the encoding of that index.
    pub subscriptions: [[u64; 1 + ENCODINGS_MAX]; LayerReason::COUNT],
    /// How often subscriptions were sent another layer than before, by the reason of the new one.
    pub switches: [u64; LayerReason::COUNT],
    /// Peers of which an estimate is known.
    pub estimates: u64,
    /// The sum of those, in bits per second.
    pub estimates_sum_bps: u64,
}

impl LayerCensus {
    /// One more subscription.
    pub fn add(&mut self, encoding: Option<EncodingIndex>, reason: LayerReason) {
        let at = encoding.map_or(0, |index| 1 + index.at().min(ENCODINGS_MAX - 1));
        self.subscriptions[reason.index()][at] += 1;
    }

    /// One more peer of which an estimate is known.
    pub fn add_estimate(&mut self, estimate: Bitrate) {
        self.estimates += 1;
        self.estimates_sum_bps = self.estimates_sum_bps.saturating_add(estimate.0);
    }
}

/// What a subscription gets from now on, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerChange {
    /// The subscription.
    pub subscription: SubscriptionKey,
    /// The track it copies.
    pub track: TrackKey,
    /// The layer that is sent; `None` if nothing is.
    pub layer: Option<LayerId>,
    /// What its publisher calls that encoding.
    pub rid: Option<Rid>,
    /// Why that, and not more.
    pub reason: LayerReason,
    /// What it could take without taking from others; `None` if nothing limits it.
    pub available: Option<Bitrate>,
    /// What the layer takes.
    pub bitrate: Bitrate,
    /// What the next better layer would take, if there is one.
    pub next: Option<Bitrate>,
    /// Width and height of its pictures, where known.
    pub size: Option<(u16, u16)>,
}

/// Which encodings of a track anybody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayersWanted {
    /// The publisher's track.
    pub track: TrackKey,
    /// Every encoding of it, from low to high.
    pub encodings: Vec<EncodingWanted>,
}

/// Whether anybody wants an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodingWanted {
    /// Which.
    pub index: EncodingIndex,
    /// What its publisher calls it.
    pub rid: Option<Rid>,
    /// If not, its publisher may stop sending it.
    pub is_wanted: bool,
}

/// A peer as its shard sees it at present.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerDescription {
    /// The peer.
    pub peer: PeerKey,
    /// What its network carries towards it, if anything tells.
    pub estimate: Option<Bitrate>,
    /// How long to it and back.
    pub rtt: Option<Duration>,
    /// Which part of what was sent to it of late was lost, 0–1.
    pub loss: Option<f32>,
    /// What it receives, in the order of their keys.
    pub subscriptions: Vec<SubscriptionDescription>,
}

/// A subscription as its shard sees it at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionDescription {
    /// Audio or video.
    pub kind: MediaKind,
    /// What it gets.
    pub change: LayerChange,
    /// What its client wants of it.
    pub preference: Preference,
}
