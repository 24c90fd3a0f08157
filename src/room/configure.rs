//! A peer's full state, as its description has it, and what changes from the former one.
//!
//! What stays the same keeps its numbering, caches and reports.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use rand::rngs::StdRng;

use crate::base::growth::push;
use crate::base::ids::{EncodingIndex, SubscriptionKey, TrackKey};
use crate::control::{SubscriptionConfig, TrackConfig};
use crate::room::doubling::Doubled;
use crate::room::origin::Origin;
use crate::room::output::Output;
use crate::room::payload::{PayloadKinds, RouteTables};
use crate::room::relay::relay_description;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::source::{Source, SourceIds};
use crate::room::state::Room;
use crate::room::subscription::Subscription;
use crate::room::track::Track;
use crate::wire::rtcp::write_bye;

impl Room {
    /// Takes everything a peer publishes and receives from now on.
    pub fn configure(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        tracks: Vec<TrackConfig>,
        subscriptions: Vec<SubscriptionConfig>,
        rng: &mut StdRng,
        output: &mut Output,
    ) {
        self.configure_tracks(now, slot, tracks, output);
        self.configure_subscriptions(now, slot, subscriptions, rng, output);
        self.review_last_n_of(now, slot, output);
        self.review_wants(output);
        self.allocate_soon(now, slot, output);
    }

    /// Ends a track: its subscribers and the shards that want it are told; their subscriptions wait.
    pub(in crate::room) fn end_track(&mut self, slot: TrackSlot, output: &mut Output) {
        let Some((track, subscriptions)) = self.part_from_track(slot) else {
            return;
        };
        for subscription in &subscriptions {
            if let Some(subscription) = self.subscriptions.get(*subscription)
                && subscription.has_sent()
                && let Some(peer) = self.peers.get_mut(subscription.subscriber)
            {
                let mut compound = peer.start_compound();
                write_bye(&mut compound, subscription.config.ssrc);
                peer.transport.seal_rtcp(&compound, &mut output.outbox);
            }
        }
        self.unserve(track, output);
    }

    /// Takes a track out; its subscriptions, which are returned too, wait.
    pub(in crate::room) fn part_from_track(
        &mut self,
        slot: TrackSlot,
    ) -> Option<(Track, Vec<SubscriptionSlot>)> {
        let mut track = self.tracks.remove(slot)?;
        self.tracks_by_key.remove(&track.config.key);
        self.sounds.retain(|(_, other)| *other != slot);
        self.floor.speakers.remove(track.config.key);
        let subscriptions = std::mem::take(&mut track.subscriptions);
        for &slot in &subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(slot) {
                subscription.leave(&track);
            }
            self.discard_waiting(slot);
        }
        if !subscriptions.is_empty() {
            let key = track.config.key;
            self.waiting.insert(key, subscriptions.clone());
        }
        Some((track, subscriptions))
    }

    /// Ends a subscription, of which its peer forgets the slot.
    pub(in crate::room) fn end_subscription(&mut self, slot: SubscriptionSlot) {
        if let Some(subscription) = self.subscriptions.get(slot) {
            let config = &subscription.config;
            let (source, shard) = (config.source, config.source_shard);
            if let Some(peer) = self.peers.get_mut(subscription.subscriber) {
                peer.congestion.retransmissions.forget(slot);
            }
            self.note_source(source, shard);
        }
        self.detach(slot);
        self.subscriptions.remove(slot);
    }

    fn configure_tracks(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        configs: Vec<TrackConfig>,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let key = peer.key;
        let former = std::mem::take(&mut peer.tracks);
        let listed: HashSet<TrackKey> = configs.iter().map(|config| config.key).collect();
        for track in former {
            let is_listed = |track: &Track| listed.contains(&track.config.key);
            if !self.tracks.get(track).is_some_and(is_listed) {
                self.end_track(track, output);
            }
        }
        let mut tracks = Vec::with_capacity(configs.len());
        for config in configs {
            let known = self.tracks_by_key.get(&config.key).copied();
            if config.key.peer != key || known.is_some_and(|known| tracks.contains(&known)) {
                output.counters.track_refused += 1;
                continue;
            }
            tracks.push(match known {
                Some(known) => {
                    self.update_track(now, known, config, output);
                    self.note_sound(known);
                    known
                }
                None => {
                    let track = Track::new(config, Origin::Local(slot));
                    let track = self.start_track(now, track, output);
                    self.serve_waiting(track, output);
                    track
                }
            });
        }
        self.declare_sources(slot, tracks, output);
    }

    /// Starts a track: subscriptions that wait for it copy it from now on.
    pub(in crate::room) fn start_track(
        &mut self,
        now: Instant,
        track: Track,
        output: &mut Output,
    ) -> TrackSlot {
        let key = track.config.key;
        let slot = self.tracks.insert(track);
        self.tracks_by_key.insert(key, slot);
        self.note_sound(slot);
        for subscription in self.waiting.remove(&key).unwrap_or_default() {
            self.attach_to(subscription, slot, output);
            self.want_keyframe(now, subscription, output);
        }
        slot
    }

    /// Describes a track anew.
    pub(in crate::room) fn update_track(
        &mut self,
        now: Instant,
        track_slot: TrackSlot,
        config: TrackConfig,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(track_slot) else {
            return;
        };
        let mut reshapes =
            track.config.codecs != config.codecs || track.config.extensions != config.extensions;
        for &slot in &track.subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(slot)
                && let Some(index) = subscription.timeline.encoding()
                && index.at() >= config.encodings.len().max(1)
            {
                // Its encoding ends, the track does not.
                subscription.leave(track);
                subscription.track = Some(track_slot);
            }
        }
        let has_others = track.describe(config);
        reshapes |= has_others;
        if !reshapes {
            return;
        }
        track.kinds = PayloadKinds::new(&track.config.codecs);
        relay_description(track, &mut output.relay);
        let subscriptions = track.subscriptions.clone();
        for &slot in &subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(slot) {
                if has_others {
                    // An encoding that ended and comes back counts anew.
                    subscription.rewriter.forget_left();
                }
                reroute(subscription, track, &mut self.routes);
            }
        }
        for slot in subscriptions {
            self.review(now, slot, output);
        }
    }

    /// Lays out which SSRC belongs to which of the peer's `tracks`.
    fn declare_sources(&mut self, slot: PeerSlot, tracks: Vec<TrackSlot>, output: &mut Output) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let known = tracks
            .iter()
            .filter_map(|slot| Some((*slot, self.tracks.get(*slot)?)));
        let declared = known.clone().flat_map(|(slot, track)| {
            let configs = track.encodings.iter().map(|encoding| encoding.config);
            (0..)
                .map(EncodingIndex)
                .zip(configs)
                .flat_map(move |(index, config)| {
                    let encoding = EncodingSlot { track: slot, index };
                    let media = config.ssrc.map(|ssrc| (ssrc, Source::Media(encoding)));
                    let rtx = config.rtx_ssrc.map(|ssrc| (ssrc, Source::Rtx(encoding)));
                    media.into_iter().chain(rtx)
                })
        });
        let lives_on = |slot: EncodingSlot| {
            let track = self.tracks.get(slot.track);
            tracks.contains(&slot.track) && track.is_some_and(|t| t.encoding(slot.index).is_some())
        };
        let refused = peer.sources.declare(declared, lives_on);
        output.counters.source_refused += refused;
        let configs = known.map(|(_, track)| &track.config);
        peer.uplink.set_publishing(configs.clone());
        peer.source_ids = SourceIds::new(configs.map(|config| &config.extensions));
        peer.tracks = tracks;
    }

    fn configure_subscriptions(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        configs: Vec<SubscriptionConfig>,
        rng: &mut StdRng,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let former = std::mem::take(&mut peer.subscriptions);
        let mut former: HashMap<SubscriptionKey, SubscriptionSlot> = former
            .into_iter()
            .filter_map(|(_, slot)| Some((self.subscriptions.get(slot)?.config.key, slot)))
            .collect();
        let (mut keys, mut ssrcs) = (HashSet::new(), HashSet::new());
        let mut subscriptions = Vec::with_capacity(configs.len());
        for config in configs {
            // Two streams under one SSRC and key would share nonces.
            let is_taken = ssrcs.contains(&config.ssrc)
                || config.rtx_ssrc.is_some_and(|rtx| ssrcs.contains(&rtx))
                || config.rtx_ssrc == Some(config.ssrc);
            if is_taken || !keys.insert(config.key) {
                output.counters.subscription_refused += 1;
                continue;
            }
            ssrcs.insert(config.ssrc);
            ssrcs.extend(config.rtx_ssrc);
            let ssrc = config.ssrc;
            let same = former
                .get(&config.key)
                .copied()
                .filter(|slot| self.is_ssrc_of(*slot, &config));
            let subscription = match same {
                Some(known) => {
                    former.remove(&config.key);
                    self.update_subscription(now, known, config, output);
                    known
                }
                None => self.start_subscription(now, slot, config, rng, output),
            };
            subscriptions.push((ssrc, subscription));
        }
        for ended in former.into_values() {
            self.end_subscription(ended);
        }
        subscriptions.sort_unstable_by_key(|(ssrc, _)| *ssrc);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.subscriptions = subscriptions;
        }
    }

    fn is_ssrc_of(&self, slot: SubscriptionSlot, config: &SubscriptionConfig) -> bool {
        let subscription = self.subscriptions.get(slot);
        subscription.is_some_and(|subscription| subscription.config.ssrc == config.ssrc)
    }

    fn start_subscription(
        &mut self,
        now: Instant,
        subscriber: PeerSlot,
        config: SubscriptionConfig,
        rng: &mut StdRng,
        output: &mut Output,
    ) -> SubscriptionSlot {
        self.note_source(config.source, config.source_shard);
        let routes = self.routes.none();
        let subscription = Subscription::new(config, subscriber, routes, rng);
        let slot = self.subscriptions.insert(subscription);
        self.attach(slot, output);
        self.want_keyframe(now, slot, output);
        slot
    }

    fn update_subscription(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        config: SubscriptionConfig,
        output: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let (former, former_shard) = (subscription.config.source, subscription.config.source_shard);
        let (source, source_shard) = (config.source, config.source_shard);
        let is_moved = former != source || former_shard != source_shard;
        let wakes = config.active != subscription.config.active;
        let reshapes = subscription.config.codecs != config.codecs
            || subscription.config.extensions != config.extensions
            || subscription.config.rtx_ssrc != config.rtx_ssrc
            || subscription.config.mid != config.mid;
        let starts = config.active && (!subscription.config.active || is_moved);
        // A want that was refused is made again.
        if is_moved || wakes || !self.wants.contains_key(&source) {
            self.note_source(former, former_shard);
            self.note_source(source, source_shard);
        }
        if is_moved {
            // While the former source is still what the subscription names.
            self.detach(slot);
        }
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        if former.peer != source.peer {
            subscription.timeline.change_publisher();
        }
        if !config.active {
            subscription.pause();
        }
        subscription.set_config(config);
        if is_moved {
            self.attach(slot, output);
        } else {
            if reshapes {
                let track = subscription.track;
                let track = track.and_then(|track| self.tracks.get(track));
                match track {
                    Some(track) => reroute(subscription, track, &mut self.routes),
                    None => subscription.reshape(self.routes.none()),
                }
            }
            self.route(slot, output);
        }
        if starts || reshapes {
            self.want_keyframe(now, slot, output);
        }
    }

    /// Connects a subscription to its track, or lets it wait for that.
    fn attach(&mut self, slot: SubscriptionSlot, output: &mut Output) {
        let Some(subscription) = self.subscriptions.get(slot) else {
            return;
        };
        let source = subscription.config.source;
        match self.tracks_by_key.get(&source) {
            Some(track) => self.attach_to(slot, *track, output),
            None => self.waiting.entry(source).or_default().push(slot),
        }
    }

    fn attach_to(&mut self, slot: SubscriptionSlot, to: TrackSlot, output: &mut Output) {
        let (Some(subscription), Some(track)) =
            (self.subscriptions.get_mut(slot), self.tracks.get_mut(to))
        else {
            return;
        };
        push(&mut track.subscriptions, slot);
        subscription.track = Some(to);
        subscription.doubled = Doubled::default();
        reroute(subscription, track, &mut self.routes);
        self.turn_towards(slot, output);
    }

    fn detach(&mut self, slot: SubscriptionSlot) {
        self.discard_waiting(slot);
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        match subscription.track {
            Some(track) => {
                if let Some(track) = self.tracks.get_mut(track) {
                    subscription.leave(track);
                    track.subscriptions.retain(|other| *other != slot);
                    for encoding in &mut track.encodings {
                        encoding.targets.remove((subscription.subscriber, slot));
                    }
                }
            }
            None => {
                let source = subscription.config.source;
                if let Some(waiting) = self.waiting.get_mut(&source) {
                    waiting.retain(|other| *other != slot);
                    if waiting.is_empty() {
                        self.waiting.remove(&source);
                    }
                }
            }
        }
    }
}

/// Works out anew which of the track's payload types goes out under which.
fn reroute(subscription: &mut Subscription, track: &Track, tables: &mut RouteTables) {
    let routes = tables.of(&track.config.codecs, &subscription.config.codecs);
    subscription.reshape(routes);
}
