//! What each subscriber gets of each video.

use std::time::Instant;

use crate::control::layers::Preferences;
use crate::room::output::Output;
use crate::room::slots::PeerSlot;
use crate::room::state::Room;

impl Room {
    /// Takes what a peer wants of what it receives.
    pub fn set_preferences(
        &mut self,
        _now: Instant,
        slot: PeerSlot,
        preferences: Preferences,
        _output: &mut Output,
    ) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.preferences = preferences;
        }
    }
}
