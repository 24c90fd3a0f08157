//! Where a track comes from and where else it goes, when its room lives on several shards.

use std::time::Instant;

use crate::base::ids::{ShardId, TrackKey, WantKey};
use crate::control::relay::Selection;
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

/// Another shard's want and what it is to get for it.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Whose it is.
    pub sink: Sink,
    /// Which encodings.
    pub selection: Selection,
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
    /// Which encodings the other shard was told to send.
    pub selection: Selection,
    /// When the cache is next looked through; `None` while it is empty.
    pub expire_at: Option<Instant>,
}
