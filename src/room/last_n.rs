//! Last-n: of all the pictures that a peer has subscribed to, it gets those of the publishers who spoke last. The
//! others wait, and come with a keyframe when they speak.
//!
//! Who spoke last changes only when somebody begins or stops to talk (see `media::speakers`), so a picture neither
//! comes with a cough nor goes with a pause. Publishers who never spoke follow in the order in which they joined,
//! so that there are always n.

use std::time::Instant;

use crate::base::ids::{MediaKind, PeerKey};
use crate::room::floor::ComingBack;
use crate::room::output::Output;
use crate::room::peer::Peer;
use crate::room::slots::{PeerSlot, SubscriptionSlot};
use crate::room::state::Room;

impl Room {
    /// The order of the speakers has changed, or not everybody's pictures follow that yet: as many as one tick allows,
    /// those first who have waited longest.
    pub(in crate::room) fn review_last_n(&mut self, now: Instant, output: &mut Output) {
        let version = self.floor.order_version;
        let behind = (self.peers.iter()).filter(|(_, peer)| peer.order_version != version);
        let mut behind: Vec<(u32, PeerSlot, usize)> = behind
            .map(|(slot, peer)| {
                let has_last_n = peer.has_last_n || self.last_n_of(peer).is_some();
                let work = if has_last_n {
                    peer.subscriptions.len()
                } else {
                    1
                };
                (version.wrapping_sub(peer.order_version), slot, work)
            })
            .collect();
        behind.sort_unstable_by_key(|(waits, slot, _)| (std::cmp::Reverse(*waits), *slot));
        let (mut behind, mut left) = (behind.into_iter(), REVIEWED_MAX);
        while left > 0
            && let Some((_, slot, work)) = behind.next()
        {
            left = left.saturating_sub(work);
            self.review_last_n_of(now, slot, output);
        }
        self.floor.is_behind = behind.len() > 0;
        self.review_wants(output);
    }

    /// Something that decides whose pictures a peer gets has changed: what it has subscribed to, how many it wants,
    /// who spoke. Wants are to be reviewed after it.
    pub(in crate::room) fn review_last_n_of(
        &mut self,
        now: Instant,
        peer_slot: PeerSlot,
        output: &mut Output,
    ) {
        let version = self.floor.order_version;
        let Some(peer) = self.peers.get_mut(peer_slot) else {
            return;
        };
        peer.order_version = version;
        let Some(peer) = self.peers.get(peer_slot) else {
            return;
        };
        let limit = self.last_n_of(peer);
        if limit.is_none() && !peer.has_last_n {
            return;
        }
        let subscriptions = peer.subscriptions.iter().map(|(_, slot)| *slot);
        let mut videos: Vec<(u32, PeerKey, SubscriptionSlot)> = subscriptions
            .filter_map(|slot| {
                let subscription = self.subscriptions.get(slot)?;
                let publisher = subscription.config.source.peer;
                let is_video = subscription.config.kind == MediaKind::Video;
                is_video.then(|| (self.floor.rank_of(publisher), publisher, slot))
            })
            .collect();
        // By publisher last: who joined first comes first.
        videos.sort_unstable();
        let (mut publishers, mut latest) = (0, None);
        for (_, publisher, slot) in videos {
            let takes_place = self.takes_place(peer_slot, slot);
            if takes_place && latest != Some(publisher) {
                (publishers, latest) = (publishers + 1, Some(publisher));
            }
            let is_outside = takes_place && limit.is_some_and(|limit| publishers > limit);
            self.set_outside_last_n(now, slot, is_outside, output);
        }
        if let Some(peer) = self.peers.get_mut(peer_slot) {
            peer.has_last_n = limit.is_some();
        }
    }

    /// How many publishers' pictures a peer gets at most.
    fn last_n_of(&self, peer: &Peer) -> Option<usize> {
        let wanted = peer.preferences.last_n.map(usize::from);
        [self.floor.options.last_n, wanted]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a picture counts: not one that its client does not take, or wants whoever speaks.
    fn takes_place(&self, peer: PeerSlot, slot: SubscriptionSlot) -> bool {
        let (Some(peer), Some(subscription)) = (self.peers.get(peer), self.subscriptions.get(slot))
        else {
            return false;
        };
        let preference = peer.preferences.of(subscription.config.source);
        subscription.config.active && !preference.is_paused && preference.priority < PRIORITY_EXEMPT
    }

    fn set_outside_last_n(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        is_outside: bool,
        output: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if std::mem::replace(&mut subscription.is_outside_last_n, is_outside) == is_outside {
            return;
        }
        output.counters.last_n_stopped += u64::from(is_outside);
        subscription.comes_back = !is_outside;
        if subscription.comes_back {
            let coming_back = &mut self.floor.coming_back;
            coming_back.retain(|other| other.subscription != slot);
            coming_back.push(ComingBack {
                subscription: slot,
                attempts_left: KEYFRAME_ATTEMPTS,
            });
        }
        let subscriber = subscription.subscriber;
        let (source, shard) = (subscription.config.source, subscription.config.source_shard);
        self.note_source(source, shard);
        self.route(slot, output);
        self.want_keyframe(now, slot, output);
        self.allocate_soon(now, subscriber, output);
    }

    /// Asks again for the keyframes with which pictures come back: a request may be lost, and who sees nothing asks
    /// for nothing.
    pub(in crate::room) fn urge_comebacks(&mut self, now: Instant, output: &mut Output) {
        let mut coming = std::mem::take(&mut self.floor.coming_back);
        coming.retain_mut(|one| {
            let subscription = self.subscriptions.get(one.subscription);
            let waits = subscription.is_some_and(|s| s.comes_back && s.is_open());
            if waits {
                one.attempts_left -= 1;
                self.want_keyframe(now, one.subscription, output);
            }
            waits && one.attempts_left > 0
        });
        self.floor.coming_back = coming;
    }
}

/// Subscriptions that are looked at in one tick: some milliseconds of work. A room of 250 peers here and 1000 in all takes
/// half a second to follow.
const REVIEWED_MAX: usize = 50_000;
/// How often a keyframe is asked for: once a tick, of which those within half a second become one request. A publisher
/// that sends nothing for three seconds sends a keyframe when it begins again.
const KEYFRAME_ATTEMPTS: u8 = 30;
/// From this priority on a track is wanted whoever speaks: it is pinned, or a shared screen.
const PRIORITY_EXEMPT: u8 = 80;
