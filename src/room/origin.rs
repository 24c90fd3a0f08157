//! Where a track comes from and where else it goes, when its room lives on several shards.

use std::time::Instant;

use crate::base::ids::{ShardId, TrackKey, WantKey};
use crate::room::slots::{PeerSlot, TrackSlot};

/// Who brings a track's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A peer of this shard publishes it.
    Local(PeerSlot),
    /// Another shard relays it, for this want.
    Remote(WantKey),
}

impl Origin {
    /// The publisher, if it is a peer of this shard.
    pub fn publisher(self) -> Option<PeerSlot> {
        match self {
            Self::Local(peer) => Some(peer),
            Self::Remote(_) => None,
        }
    }
}

/// Another shard's want of a track of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sink {
    /// Who wants it.
    pub shard: ShardId,
    /// What that shard calls it.
    pub want: WantKey,
}

/// This shard's want of a track of another one.
#[derive(Debug)]
pub struct Remote {
    /// Whose track it is.
    pub shard: ShardId,
    /// The track's name.
    pub source: TrackKey,
    /// The track, while the other shard has it.
    pub track: Option<TrackSlot>,
    /// Packets with another description are not looked at.
    pub version: u32,
    /// The latest run of the source that was heard of.
    pub run: u64,
    /// When the cache is next looked through; `None` while it is empty.
    pub expire_at: Option<Instant>,
}
