//! What a subscription is to be sent.

use std::time::Instant;

use crate::base::ids::LayerId;
use crate::base::layer_reason::LayerReason;
use crate::room::output::Output;
use crate::room::slots::SubscriptionSlot;
use crate::room::state::Room;

/// What a subscription is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This layer.
    Layer(LayerId),
    /// Nothing.
    Paused(LayerReason),
}

impl Room {
    /// Sends a subscription another layer, or nothing.
    pub fn set_target(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        wish: Wish,
        output: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let is_paused = matches!(wish, Wish::Paused(_));
        if std::mem::replace(&mut subscription.is_paused, is_paused) == is_paused {
            return;
        }
        let config = &subscription.config;
        let (source, shard) = (config.source, config.source_shard);
        self.note_source(source, shard);
        self.route(slot, output);
        if !is_paused {
            self.want_keyframe(now, slot, output);
        }
    }
}
