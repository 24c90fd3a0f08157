//! What a peer gets and why, for whoever asks; and how many get what, for the metrics.

use std::time::Instant;

use crate::base::ids::{Bitrate, EncodingIndex, LayerId, MediaKind};
use crate::base::layer_reason::LayerReason;
use crate::control::layers::{LayerChange, PeerDescription, SubscriptionDescription};
use crate::room::allocate::{layer_change, present_layer};
use crate::room::slots::{PeerSlot, SubscriptionSlot};
use crate::room::state::Room;

impl Room {
    /// What a peer receives, and why; `None` if it is not here.
    #[must_use]
    pub fn describe(&self, now: Instant, slot: PeerSlot) -> Option<PeerDescription> {
        let peer = self.peers.get(slot)?;
        let subscriptions = peer.subscriptions.iter();
        let mut subscriptions: Vec<SubscriptionDescription> = subscriptions
            .filter_map(|(_, slot)| {
                let change = self.layer_of(now, *slot)?;
                Some(SubscriptionDescription {
                    kind: self.subscriptions.get(*slot)?.config.kind,
                    change,
                    preference: peer.preferences.of(change.track),
                })
            })
            .collect();
        subscriptions.sort_unstable_by_key(|one| one.change.subscription);
        let link = self.link(now, slot);
        Some(PeerDescription {
            peer: peer.key,
            estimate: self.estimate(slot),
            rtt: link.as_ref().and_then(|link| link.rtt),
            loss: link.and_then(|link| link.loss_down.fraction()),
            subscriptions,
        })
    }

    /// Counts what the videos of all peers get, and why.
    pub fn count_layers(&self, mut count: impl FnMut(Option<EncodingIndex>, LayerReason)) {
        for (slot, subscription) in self.subscriptions.iter() {
            if subscription.config.kind == MediaKind::Video
                && subscription.config.active
                && let Some(change) = self.video_layer(slot)
            {
                count(change.layer.map(|layer| layer.encoding), change.reason);
            }
        }
    }

    /// The estimates of all peers that have one.
    pub fn estimates(&self) -> impl Iterator<Item = Bitrate> + '_ {
        self.peers
            .iter()
            .filter_map(|(slot, _)| self.estimate(slot))
    }

    fn layer_of(&self, now: Instant, slot: SubscriptionSlot) -> Option<LayerChange> {
        let subscription = self.subscriptions.get(slot)?;
        let config = &subscription.config;
        let is_video = config.kind == MediaKind::Video;
        if config.active
            && is_video
            && let Some(change) = self.video_layer(slot)
        {
            return Some(change);
        }
        let running = subscription.rewriter.encoding();
        let layer = running.filter(|_| config.active).map(|encoding| LayerId {
            encoding,
            spatial: 0,
            temporal: 0,
        });
        let track = subscription.track.and_then(|slot| self.tracks.get(slot));
        let encoding = track.and_then(|track| track.encoding(layer?.encoding));
        let reason = match (config.active, layer.is_some()) {
            (false, _) => LayerReason::Paused,
            (true, false) => LayerReason::PublisherMuted,
            (true, true) => LayerReason::Best,
        };
        Some(LayerChange {
            subscription: config.key,
            track: config.source,
            layer,
            rid: encoding.and_then(|encoding| encoding.config.rid),
            reason,
            available: None,
            bitrate: encoding.map_or(Bitrate(0), |e| e.rates.bitrate(now, u8::MAX, u8::MAX)),
            next: None,
            size: None,
        })
    }

    fn video_layer(&self, slot: SubscriptionSlot) -> Option<LayerChange> {
        let subscription = self.subscriptions.get(slot)?;
        let track = subscription.track.and_then(|slot| self.tracks.get(slot));
        layer_change(subscription, track, present_layer(subscription, track))
    }
}
