//! The tracks of the room as one peer is concerned: all that others publish, in the order in which
//! they did, and which of them this peer has refused.

use std::sync::Arc;

use crate::base::growth::push;
use crate::base::ids::TrackKey;
use crate::control::TrackInfo;

/// What others publish.
#[derive(Debug, Clone, Default)]
pub struct RoomTracks {
    list: Vec<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    info: Arc<TrackInfo>,
    refused: bool,
}

impl RoomTracks {
    /// A track was published.
    pub fn add(&mut self, info: Arc<TrackInfo>) {
        if !self.contains(info.key) {
            let refused = false;
            push(&mut self.list, Known { info, refused });
        }
    }

    /// A track ended.
    pub fn remove(&mut self, key: TrackKey) {
        self.list.retain(|known| known.info.key != key);
    }

    /// Whether the track is still published.
    #[must_use]
    pub fn contains(&self, key: TrackKey) -> bool {
        self.list.iter().any(|known| known.info.key == key)
    }

    /// The client stopped the section that carried it: it is not offered again.
    pub fn refuse(&mut self, key: TrackKey) {
        for known in &mut self.list {
            known.refused |= known.info.key == key;
        }
    }

    /// The tracks that are to be received, oldest first.
    pub fn wanted(&self) -> impl Iterator<Item = &Arc<TrackInfo>> {
        self.list
            .iter()
            .filter(|known| !known.refused)
            .map(|known| &known.info)
    }
}
