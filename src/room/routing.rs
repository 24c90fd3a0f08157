//! Keeps the tables of targets as subscriptions and transports are: a subscription is in the tables of the encodings
//! that it receives or waits for exactly while it is active and its subscriber can be sent to.

use crate::base::ids::EncodingIndex;
use crate::room::output::Output;
use crate::room::slots::{PeerSlot, SubscriptionSlot};
use crate::room::state::Room;
use crate::room::targets::Target;

impl Room {
    /// Puts a subscription into its encodings' tables, or takes it out: after anything that it depends on
    /// has changed.
    pub(in crate::room) fn route(&mut self, slot: SubscriptionSlot, output: &mut Output) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let subscriber = subscription.subscriber;
        // Without a track it was paused when that ended.
        let Some(track) = subscription
            .track
            .and_then(|track| self.tracks.get_mut(track))
        else {
            return;
        };
        let peer = self.peers.get(subscriber);
        let path = peer.and_then(|peer| peer.transport.rtp_path());
        let open = path.filter(|_| subscription.is_open());
        if open.is_none() {
            let reception = subscription.reception;
            subscription.reception = reception.interrupted(track.is_simulcast);
        }
        let received = subscription.received();
        let is_paused = open.is_none() || received.is_empty();
        if is_paused {
            subscription.pause();
        }
        let mut was_routed = false;
        for (index, encoding) in (0..).map(EncodingIndex).zip(&mut track.encodings) {
            match open {
                Some((to, sealer)) if received.contains(index) => encoding.targets.set(Target {
                    subscriber,
                    subscription: slot,
                    to,
                    sealer: sealer.clone(),
                }),
                _ => was_routed |= encoding.targets.remove((subscriber, slot)),
            }
        }
        let is_lost = was_routed && path.is_none();
        output.counters.subscription_unreachable += u64::from(is_lost);
        if is_paused {
            self.discard_waiting(slot);
        }
    }

    /// Follows a peer to where its transport says it is: after every input to that.
    pub(in crate::room) fn follow_transport(
        &mut self,
        slot: PeerSlot,
        has_new_keys: bool,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let path = peer.transport.remote();
        let former = std::mem::replace(&mut peer.routed, path);
        if former == path && !has_new_keys {
            return;
        }
        self.subnets.on_moved(slot, former, path);
        for at in 0.. {
            let subscriptions = self.peers.get(slot).map(|peer| &peer.subscriptions);
            let Some(&(_, subscription)) = subscriptions.and_then(|all| all.get(at)) else {
                return;
            };
            self.route(subscription, output);
        }
    }
}
