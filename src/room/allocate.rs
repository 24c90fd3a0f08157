//! What each subscriber gets of each video: gathers what the allocator needs to know, and carries out what it decides.
//!
//! Runs when the estimate, the offers of publishers or the wishes of the client have changed, and twice a second; never
//! more often than that is of use, and never for a packet.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, EncodingIndex, EncodingSet, LayerId, MediaKind, SubscriptionKey};
use crate::base::layer_reason::LayerReason;
use crate::base::time::earliest;
use crate::control::Event;
use crate::control::layers::{LayerChange, Preference, Preferences};
use crate::media::allocation::{Budget, Share, VideoDemand, allocate, full_demand};
use crate::media::fair_share::Consumption;
use crate::media::ladder::{Step, Wanted};
use crate::media::layers::selector::Selector;
use crate::media::layers::structures::Limit;
use crate::room::allotment::Allotment;
use crate::room::output::Output;
use crate::room::reception::Wish;
use crate::room::sending::OwnShare;
use crate::room::slots::{PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::subscription::Subscription;
use crate::room::track::Track;

impl Room {
    /// Takes what a peer wants of what it receives.
    pub fn set_preferences(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        mut preferences: Preferences,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        preferences.tracks.sort_by_key(|(track, _)| *track);
        preferences.tracks.dedup_by_key(|(track, _)| *track);
        let former = std::mem::replace(&mut peer.preferences, preferences);
        for (_, subscription) in &peer.subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(*subscription)
                && let Some(allotment) = &mut subscription.allotment
            {
                let track = subscription.config.source;
                if former.of(track) != peer.preferences.of(track) {
                    // What the client has just asked for is not to wait for what failed before.
                    allotment.pace.reset();
                }
            }
        }
        self.review_last_n_of(now, slot, output);
        self.review_wants(output);
        self.allocate_soon(now, slot, output);
    }

    /// Something has changed that decides what a peer gets.
    pub(in crate::room) fn allocate_soon(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.division.hasten(now);
            output.rescheduled.push(peer.key);
        }
    }

    /// As [`Room::allocate_soon`], for all who receive a track.
    pub(in crate::room) fn allocate_receivers(
        &mut self,
        now: Instant,
        track: TrackSlot,
        output: &mut Output,
    ) {
        let subscriptions = self
            .tracks
            .get(track)
            .map(|track| track.subscriptions.len());
        for at in 0..subscriptions.unwrap_or(0) {
            let slot = self.tracks.get(track).and_then(|t| t.subscriptions.get(at));
            let subscription = slot.and_then(|slot| self.subscriptions.get(*slot));
            if let Some(subscriber) = subscription.map(|s| s.subscriber) {
                self.allocate_soon(now, subscriber, output);
            }
        }
    }

    /// Divides a peer's bandwidth anew, if that is due.
    pub(in crate::room) fn allocate_if_due(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) {
        let due = self.peers.get(slot).and_then(|peer| peer.division.due);
        if due.is_some_and(|due| due <= now) {
            self.allocate(now, slot, output);
        }
    }

    /// Divides a peer's bandwidth among the videos it receives.
    pub fn allocate(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let fair = self.fair(now, slot);
        let Some(peer) = self.peers.get(slot) else {
            return;
        };
        // Who cannot be sent to is looked at when it can.
        let (videos, audio) = match peer.routed {
            Some(_) => self.demands(now, slot, fair.is_some_and(|fair| fair.share.is_behind)),
            None => (Vec::new(), Bitrate(0)),
        };
        let is_partial = videos.iter().any(|video| !video.is_numbered);
        let budget = Budget {
            estimate: match is_partial {
                true => peer.congestion.sender.told_rate(),
                false => peer.congestion.sender.estimate(),
            },
            audio,
            fair,
            is_busy: output.is_busy,
        };
        let demands: Vec<VideoDemand<'_>> = videos.iter().map(Video::demand).collect();
        let shares = allocate(&budget, &demands);
        // What was never measured may be as much as it likes: until it was, nothing bounds what is probed for.
        let is_measured = videos.iter().all(|video| video.is_measured);
        let demand = Bitrate(full_demand(&demands).0 + audio.0);
        let consumption = Consumption {
            bitrate: Bitrate(audio.0 + shares.iter().map(|share| share.bitrate.0).sum::<u64>()),
            is_limited: shares.iter().any(|s| s.reason == LayerReason::Bandwidth),
            is_waiting: videos.iter().all(|video| video.is_waiting),
        };
        let decisions: Vec<_> = videos
            .iter()
            .zip(shares)
            .map(|(video, share)| (video.subscription, (video.wished, video.best), share))
            .collect();
        self.beat.start(now);
        let mut next = (!decisions.is_empty()).then(|| self.beat.not_before(now + PERIOD));
        for (subscription, wishes, share) in decisions {
            let again = self.carry_out(now, subscription, wishes, share, output);
            next = earliest(next, again);
        }
        self.review_wants(output);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.congestion.sender.set_demand(demand, is_measured);
            peer.congestion.sender.set_partial(is_partial);
            peer.congestion.share = fair.map(|fair| OwnShare {
                fair: fair.share.bitrate,
                used: consumption.bitrate,
            });
            peer.congestion.refresh();
            peer.division.on_done(now, next);
            output.rescheduled.push(peer.key);
        }
        self.compare(now, slot, consumption, output);
    }

    /// The videos that a peer receives, in the order of their keys, and what its sound takes.
    fn demands(&self, now: Instant, slot: PeerSlot, is_behind: bool) -> (Vec<Video<'_>>, Bitrate) {
        let (mut videos, mut audio) = (Vec::new(), 0);
        let Some(peer) = self.peers.get(slot) else {
            return (videos, Bitrate(0));
        };
        for (_, slot) in &peer.subscriptions {
            let subscription = self.subscriptions.get(*slot);
            let Some(subscription) = subscription.filter(|s| s.config.active) else {
                continue;
            };
            let track = subscription.track.and_then(|slot| self.tracks.get(slot));
            let Some(track) = track else {
                continue;
            };
            match track.config.kind {
                MediaKind::Audio => {
                    let rates = track.encodings.first().map(|e| e.rates.bitrate(now, 0, 0));
                    // Redundant audio is about twice as much.
                    let times = 1 + u64::from(subscription.doubled.is_on());
                    audio += rates.map_or(0, |rate| rate.0 * times + AUDIO_OVERHEAD.0);
                }
                MediaKind::Video => {
                    let preference = peer.preferences.of(track.config.key);
                    let video = Video::new(now, *slot, subscription, track, preference);
                    let allotment = subscription.allotment.as_deref();
                    videos.push(video.following(now, allotment, is_behind));
                }
            }
        }
        videos.sort_unstable_by_key(|video| video.key);
        (videos, Bitrate(audio))
    }

    /// Gives a subscription its share. Says when that is to be looked at again, if sooner than usual.
    fn carry_out(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        (wished, best): (EncodingSet, Option<LayerId>),
        share: Share,
        output: &mut Output,
    ) -> Option<Instant> {
        let subscription = self.subscriptions.get_mut(slot)?;
        let (source, shard) = (subscription.config.source, subscription.config.source_shard);
        let allotment = subscription.allotment.get_or_insert_default();
        let before = allotment.layer();
        allotment.pace.on_share(now, before, &share);
        allotment.share = Some(share);
        let wishes_differently = std::mem::replace(&mut allotment.wished, wished) != wished;
        let paused_until = allotment.pace.poll_timeout(now);
        let wish = match share.layer {
            // What its publisher does not send at present is taken with its first keyframe, where nothing limits.
            Some(layer) if share.available.is_none() && share.reason == LayerReason::NotSent => {
                Some(Wish::Layer(best.unwrap_or(layer)))
            }
            Some(layer) => Some(Wish::Layer(layer)),
            None => match share.reason {
                // It goes on as soon as its publisher does, or speaks.
                LayerReason::PublisherMuted | LayerReason::LastN => None,
                _ => Some(Wish::Paused),
            },
        };
        if let Some(wish) = wish {
            self.set_target(now, slot, wish, output);
        }
        if wishes_differently {
            self.note_source(source, shard);
            self.review_wanted(now, slot, output);
        }
        let is_waiting = self.tell(slot, share.layer != before, output);
        let limited_until = paused_until.filter(|_| share.reason == LayerReason::Bandwidth);
        earliest(is_waiting.then_some(now), limited_until)
    }

    /// A subscription is sent another encoding from now on.
    pub(in crate::room) fn on_switched(&mut self, slot: SubscriptionSlot, output: &mut Output) {
        self.tell(slot, false, output);
    }

    /// Tells the client what a subscription gets, if that is something else than before. True if it waits for
    /// something. `is_new`: something else was chosen just now.
    fn tell(&mut self, slot: SubscriptionSlot, is_new: bool, output: &mut Output) -> bool {
        let Some(subscription) = self.subscriptions.get(slot) else {
            return false;
        };
        let track = subscription.track.and_then(|slot| self.tracks.get(slot));
        let present = present_layer(subscription, track);
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let Some(allotment) = &mut subscription.allotment else {
            return false;
        };
        // Frame rates change with one of the next pictures: that is told when this is next looked at.
        let differs_in_time = is_same_picture(allotment.layer(), present);
        let is_waiting = allotment.is_waiting(present) && !differs_in_time;
        if is_new && differs_in_time && allotment.is_waiting(present) {
            return is_waiting;
        }
        let told = (present, allotment.reason(present));
        let before = allotment.told.replace(told);
        // Of a track that has never sent anything there is nothing to tell.
        let is_known = track.is_some_and(|track| track.supply.is_known());
        if before == Some(told) || !is_known {
            if !is_known {
                allotment.told = before;
            }
            return is_waiting;
        }
        if before.is_some_and(|(layer, _)| layer != present) {
            output.layer_switches[told.1.index()] += 1;
        }
        if let Some(change) = layer_change(subscription, track, present)
            && let Some(peer) = self.peers.get(subscription.subscriber)
        {
            output
                .told
                .push_back((peer.key, Event::Layer(peer.key, change)));
        }
        is_waiting
    }
}

/// One video of a subscriber, as the allocator sees it.
struct Video<'s> {
    key: SubscriptionKey,
    subscription: SubscriptionSlot,
    wished: EncodingSet,
    /// The best layer of use that was ever seen, whether it flows or not.
    best: Option<LayerId>,
    /// What there is, as far as it is wanted.
    steps: Cow<'s, [Step]>,
    /// All of the demand but the steps.
    demand: VideoDemand<'static>,
    /// What it takes is known, if it is wanted at all.
    is_measured: bool,
    /// It has to wait before it gets more.
    is_waiting: bool,
    /// There is feedback on its packets.
    is_numbered: bool,
}

impl<'s> Video<'s> {
    fn new(
        now: Instant,
        slot: SubscriptionSlot,
        subscription: &Subscription,
        track: &'s Track,
        preference: Preference,
    ) -> Self {
        let supply = &track.supply;
        let allotment = subscription.allotment.as_deref();
        let off = match () {
            () if preference.is_paused => Some(LayerReason::Paused),
            () if subscription.is_outside_last_n => Some(LayerReason::LastN),
            () if !supply.is_flowing() => Some(LayerReason::PublisherMuted),
            () => None,
        };
        let present = allotment.and_then(Allotment::layer);
        let wanted = Wanted {
            width: preference.width,
            height: preference.height,
            frames_per_second: preference.max_framerate,
        };
        let steps = supply.steps_within(&wanted, present);
        let mut demand = VideoDemand {
            steps: &[],
            top: LayerReason::Best,
            priority: preference.priority,
            off,
            present,
            may_rise: allotment.is_none_or(|allotment| allotment.pace.may_rise(now)),
            rises_below: allotment.and_then(|allotment| allotment.pace.rises_below(now)),
            may_cling: allotment.is_some_and(|allotment| allotment.pace.may_cling(now)),
        };
        let (wished, best) = wished(track, off, &wanted);
        demand.top = top(track, wished);
        let last = |steps: &[Step]| steps.last().map(|step| step.layer);
        if last(&steps) < last(supply.steps()) {
            demand.top = LayerReason::Wanted;
        }
        Self {
            key: subscription.config.key,
            subscription: slot,
            wished,
            best,
            is_measured: supply.is_known() || preference.is_paused,
            steps,
            is_waiting: !demand.may_rise,
            is_numbered: subscription.is_numbered(),
            demand,
        }
    }

    /// Who is behind others that share its bottleneck waits less for what was too much.
    fn following(mut self, now: Instant, allotment: Option<&Allotment>, is_behind: bool) -> Self {
        let may_follow = allotment.is_some_and(|allotment| allotment.pace.may_follow(now));
        self.demand.may_rise |= is_behind && may_follow;
        self
    }

    fn demand(&self) -> VideoDemand<'_> {
        VideoDemand {
            steps: &self.steps,
            ..self.demand
        }
    }
}

/// The encodings that a subscriber would take if its network carried them: all up to the one that covers what it wants;
/// and the layer that does.
fn wished(
    track: &Track,
    off: Option<LayerReason>,
    wanted: &Wanted,
) -> (EncodingSet, Option<LayerId>) {
    let all = EncodingSet::lowest(track.encodings.len());
    match off {
        Some(LayerReason::PublisherMuted) | None => {}
        // A speaker's picture is wanted at once: something of it always flows.
        Some(LayerReason::LastN) => return (EncodingSet::lowest(1), None),
        Some(_) => return (EncodingSet::NONE, None),
    }
    let last = |wanted: &Wanted| {
        let steps = track.supply.known_steps(wanted);
        steps.last().map(|step| step.layer)
    };
    let best = last(wanted);
    match best {
        Some(layer) if !wanted.is_everything() && best < last(&Wanted::default()) => {
            (EncodingSet::lowest(layer.encoding.at() + 1), best)
        }
        // What was never seen may be what is wanted.
        _ => (all, best),
    }
}

/// Why there is nothing better than what flows: it is not sent although it is wished, or not wished, or there is none.
fn top(track: &Track, wished: EncodingSet) -> LayerReason {
    let flowing = track.supply.flowing();
    let above = (0..track.encodings.len() as u8)
        .rev()
        .map(EncodingIndex)
        .take_while(|index| !flowing.contains(*index));
    let (mut is_any, mut is_wished) = (false, false);
    for index in above {
        is_any = true;
        is_wished |= wished.contains(index);
    }
    match (is_any, is_wished) {
        (false, _) => LayerReason::Best,
        (true, true) => LayerReason::NotSent,
        (true, false) => LayerReason::Wanted,
    }
}

/// Whether both are the same but for their frame rates.
fn is_same_picture(one: Option<LayerId>, other: Option<LayerId>) -> bool {
    let picture = |layer: LayerId| (layer.encoding, layer.spatial);
    one.map(picture) == other.map(picture)
}

/// What a subscription is sent at present, whatever was chosen: the best layer that flows of those that go out.
pub(in crate::room) fn present_layer(
    subscription: &Subscription,
    track: Option<&Track>,
) -> Option<LayerId> {
    let encoding = subscription.rewriter.encoding()?;
    let selector = subscription.layers.as_deref();
    let limit = selector.map_or(Limit::ALL, Selector::current);
    let goes_out = |step: &&Step| {
        let layer = step.layer;
        layer.encoding == encoding && limit.takes(layer.spatial, layer.temporal)
    };
    let offered = track.map_or(&[][..], |track| track.supply.offered());
    let best = offered.iter().rev().find(goes_out);
    let lowest = LayerId {
        encoding,
        spatial: 0,
        temporal: 0,
    };
    Some(best.map_or(lowest, |step| step.layer))
}

/// What a video's client is told who is sent `layer`; `None` if nothing was decided yet.
pub(in crate::room) fn layer_change(
    subscription: &Subscription,
    track: Option<&Track>,
    layer: Option<LayerId>,
) -> Option<LayerChange> {
    let allotment = subscription.allotment.as_deref()?;
    let share = allotment.share?;
    let offered = track.map_or(&[][..], |track| track.supply.offered());
    let at = offered.iter().position(|step| Some(step.layer) == layer);
    let encoding = |index: EncodingIndex| track.and_then(|track| track.encoding(index));
    // Until the chosen layer has come: the numbers of the present one, and the chosen one is the next.
    let next = match allotment.is_waiting(layer) && share.layer.is_some() {
        true => Some(share.bitrate),
        false => share.next.or_else(|| {
            let mut steps = track.into_iter().flat_map(|track| track.supply.steps());
            steps.find(|s| Some(s.layer) > layer).map(|s| s.bitrate)
        }),
    };
    Some(LayerChange {
        subscription: subscription.config.key,
        track: subscription.config.source,
        layer,
        rid: layer.and_then(|layer| encoding(layer.encoding)?.config.rid),
        reason: allotment.reason(layer),
        available: share.available,
        bitrate: at.map_or(Bitrate(0), |at| offered[at].bitrate),
        next,
        size: at.and_then(|at| offered[at].size),
    })
}

/// What SRTP, UDP and IP add to 50 packets of sound a second: 44 bytes each. To pictures they add next to nothing.
const AUDIO_OVERHEAD: Bitrate = Bitrate(50 * 44 * 8);
/// How often a peer's bandwidth is divided anew, about, if nothing calls for it sooner: rates of layers move.
const PERIOD: Duration = Duration::from_millis(500);
