//! What one turn of a shard produces.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::counters::Counters;
use crate::base::ids::{PeerKey, RoomId, ShardId, WantKey};
use crate::control::relay::RelayMessage;
use crate::control::{ActiveSpeakers, Event, LayerReason, TransportEvent};
use crate::transport::outbox::Outbox;

/// What comes of an input: datagrams, events, counts. Drained by the shard after every input.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams to send.
    pub outbox: Outbox,
    /// What was done and dropped.
    pub counters: Counters,
    /// What happened to transports; one input makes a few for one peer.
    pub events: VecDeque<(PeerKey, TransportEvent)>,
    /// Peers whose next deadline may have come nearer.
    pub rescheduled: Vec<PeerKey>,
    /// What clients are told of layers: for each division of a peer's bandwidth at most one for each of its
    /// subscriptions, and one for each track whose encodings are wanted differently.
    pub told: VecDeque<(PeerKey, Event)>,
    /// How often subscriptions were sent another layer than before, by the reason of the new one.
    pub layer_switches: [u64; LayerReason::COUNT],
    /// The shard cannot take on more work.
    pub is_busy: bool,
    /// Who is to be told who speaks; at most once for each peer of a room in a tick.
    pub speakers: VecDeque<(PeerKey, Arc<ActiveSpeakers>)>,
    /// Rooms that began to listen.
    pub floors: Vec<RoomId>,
    /// What other shards are to hear.
    pub relay: RelayOutput,
}

/// What other shards are to hear, and what became of this shard's wants. Empty while every room lives on one shard.
#[derive(Debug, Default)]
pub struct RelayOutput {
    /// Messages, oldest first; one input makes at most a few for each track and shard.
    pub messages: VecDeque<(ShardId, RelayMessage)>,
    /// What the next want is called.
    pub next_want: u64,
    /// What the last description of a track was called.
    pub last_version: u32,
    /// Wants that a room has made or ended.
    pub changed: Vec<WantChange>,
    /// Wants whose next deadline may have come nearer.
    pub rescheduled: Vec<WantKey>,
}

/// What a room did about a track of another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantChange {
    /// It wants it.
    Made(WantKey),
    /// It does not any more.
    Ended(WantKey),
}

impl RelayOutput {
    /// Leaves a message for another shard.
    pub fn push(&mut self, to: ShardId, message: RelayMessage) {
        self.messages.push_back((to, message));
    }

    /// A name that no description had before, of this track or of one that had its key: media that waited longer than what is
    /// said of its track is then known to be an earlier one's.
    pub fn name_version(&mut self) -> u32 {
        self.last_version = self.last_version.wrapping_add(1);
        self.last_version
    }

    /// A name that no want had before.
    pub fn name_want(&mut self) -> WantKey {
        let want = WantKey(self.next_want);
        self.next_want = self.next_want.wrapping_add(1);
        want
    }
}
