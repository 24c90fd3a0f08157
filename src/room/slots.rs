//! Names for the places of peers, tracks and subscriptions in a room's slabs. They refer to each other
//! by these, so that none of their files needs to know the others.

use crate::base::ids::EncodingIndex;
use crate::base::slab::Slot;

/// Marks slots of peers.
pub enum OfPeers {}
/// Marks slots of tracks.
pub enum OfTracks {}
/// Marks slots of subscriptions.
pub enum OfSubscriptions {}

/// Where a peer is.
pub type PeerSlot = Slot<OfPeers>;
/// Where a track is.
pub type TrackSlot = Slot<OfTracks>;
/// Where a subscription is.
pub type SubscriptionSlot = Slot<OfSubscriptions>;

/// Where an encoding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EncodingSlot {
    /// Its track.
    pub track: TrackSlot,
    /// Which of the track's.
    pub index: EncodingIndex,
}
