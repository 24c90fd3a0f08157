//! Moves subscriptions between the encodings of their tracks: as they wish, and as the encodings flow.
//!
//! A subscription that is to get another encoding is a target of both until a keyframe of the new one has come;
//! `forward` then changes over in the middle of a batch, and `settle_changed` tidies up behind it.

use std::time::{Duration, Instant};

use crate::base::ids::{EncodingIndex, EncodingSet};
use crate::base::time::earliest;
use crate::room::batch::Forwarded;
use crate::room::encoding::{Encoding, Retry};
use crate::room::origin::Origin;
use crate::room::output::Output;
use crate::room::reception::{Reception, Wish};
use crate::room::relay::relay_flow;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::track::Track;

impl Room {
    /// What a subscription is to get from now on. It takes hold at the next keyframe of the encoding that serves it.
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
        if std::mem::replace(&mut subscription.wish, wish) != wish {
            let (source, shard) = subscription.source();
            self.note_source(source, shard);
            self.review(now, slot, output);
            self.review_layers(now, slot, output);
            self.review_wants(output);
        }
    }

    /// The encodings of a track that somebody would like to get, here or on another shard: its publisher need not make the
    /// others. Of a track of another shard: that somebody here would like to get.
    #[must_use]
    pub fn wished_encodings(&self, slot: TrackSlot) -> EncodingSet {
        let Some(track) = self.tracks.get(slot) else {
            return EncodingSet::NONE;
        };
        let subscriptions = track.subscriptions.iter();
        let here = subscriptions
            .filter_map(|slot| self.subscriptions.get(*slot))
            .filter(|subscription| subscription.is_open())
            .map(|subscription| subscription.wished(Some(track)));
        let elsewhere = track.sinks.iter().map(|served| served.selection.wished);
        here.chain(elsewhere)
            .fold(EncodingSet::NONE, EncodingSet::union)
    }

    /// Chooses anew which encoding a subscription gets: after anything that it depends on has changed.
    pub(in crate::room) fn review(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        if self.turn_towards(slot, output) {
            self.want_keyframe(now, slot, output);
        }
    }

    /// As [`Room::review`], but asks for no keyframe. True if one is waited for now that was not before: to change over to
    /// another encoding, or to go on after a pause.
    pub(in crate::room) fn turn_towards(
        &mut self,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let Some(track) = subscription.track.and_then(|track| self.tracks.get(track)) else {
            return false;
        };
        let count = track.encodings.len();
        if subscription
            .rewriter
            .encoding()
            .is_some_and(|index| index.at() >= count)
        {
            subscription.pause();
        }
        let before = subscription.reception;
        let flows = |index| track.encoding(index).is_some_and(|e| e.is_flowing);
        let aim = subscription.wish.aim(count, before.present(), flows);
        let after = before.towards(aim, count, track.is_simulcast);
        if after == before {
            return false;
        }
        subscription.reception = after;
        let goes_on = before == Reception::Off && subscription.comes_back;
        subscription.review_layers(track);
        let (source, shard) = subscription.source();
        self.note_source(source, shard);
        self.route(slot, output);
        goes_on || after.awaited().is_some() && after.awaited() != before.awaited()
    }

    /// A peer's network carries not half of what it did: what it still gets of encodings that are too much, until a keyframe of
    /// a lesser one comes, would be lost for the most part, and would be in the way of that keyframe. So nothing goes out
    /// of them any more, neither new nor again. Where spatial layers of one encoding are too much, the lower ones could
    /// go on; but the last pictures are lost but for those, and receivers show none of which not all has come.
    #[cold]
    pub(in crate::room) fn silence_falling(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) {
        for at in 0.. {
            let subscriptions = self.peers.get(slot).map(|peer| &peer.subscriptions);
            let Some(&(_, slot)) = subscriptions.and_then(|all| all.get(at)) else {
                break;
            };
            let Some(subscription) = self.subscriptions.get_mut(slot) else {
                continue;
            };
            let track = subscription.track.and_then(|track| self.tracks.get(track));
            if track.is_some_and(|track| subscription.leaves_layers(track)) {
                output.counters.subscription_silenced += 1;
                self.interrupt(now, slot, output);
                continue;
            }
            let Reception::Switching { from, to } = subscription.reception else {
                continue;
            };
            if to >= from {
                continue;
            }
            subscription.reception = Reception::Waiting { to };
            subscription.pause();
            let (source, shard) = subscription.source();
            output.counters.subscription_silenced += 1;
            self.note_source(source, shard);
            self.discard_waiting(slot);
            self.route(slot, output);
        }
        self.review_wants(output);
    }

    /// An encoding flows that did not. Where that is with a keyframe, none is asked for.
    #[cold]
    pub(in crate::room) fn on_flow_started(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        with_keyframe: bool,
        output: &mut Output,
    ) {
        self.on_flow_changed(
            now,
            slot.track,
            Some(slot).filter(|_| with_keyframe),
            output,
        );
    }

    /// Other encodings of a track flow than before. `begun` is one that has just come with a keyframe.
    pub(in crate::room) fn on_flow_changed(
        &mut self,
        now: Instant,
        slot: TrackSlot,
        begun: Option<EncodingSlot>,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        if !track.is_simulcast {
            return;
        }
        relay_flow(track, &mut output.relay);
        for at in 0.. {
            let subscriptions = self.tracks.get(slot).map(|track| &track.subscriptions);
            let Some(&subscription) = subscriptions.and_then(|all| all.get(at)) else {
                break;
            };
            if !self.turn_towards(subscription, output) {
                continue;
            }
            let reception = self.subscriptions.get(subscription).map(|s| s.reception);
            match begun {
                Some(begun) if reception.and_then(|r| r.awaited()) == Some(begun.index) => {
                    self.retry_keyframe(now, begun, output);
                }
                _ => self.want_keyframe(now, subscription, output),
            }
        }
        self.review_wants(output);
    }

    /// Subscriptions that have changed over while a batch was fanned out are no targets of their former encodings any
    /// more; for those that were interrupted a keyframe is asked for.
    #[cold]
    pub(in crate::room) fn settle_changed(
        &mut self,
        now: Instant,
        changed: &mut Vec<(SubscriptionSlot, Forwarded)>,
        output: &mut Output,
    ) {
        for (slot, forwarded) in changed.drain(..) {
            // It may have changed over just before it was interrupted.
            if let Some(subscription) = self.subscriptions.get(slot) {
                let (source, shard) = subscription.source();
                self.note_source(source, shard);
            }
            self.route(slot, output);
            if forwarded == Forwarded::Interrupted {
                self.on_interrupted(now, slot, output);
            } else {
                output.counters.subscription_switched += 1;
                self.on_switched(slot, output);
            }
        }
        self.review_wants(output);
    }

    /// Somebody waits for a keyframe of an encoding: it is asked for again while that is so.
    pub(in crate::room) fn retry_keyframe(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        output: &mut Output,
    ) {
        let track = self.tracks.get(slot.track);
        if track.is_some_and(|track| track.is_simulcast) {
            self.repeat_keyframe(now, slot, output);
        }
    }

    /// A keyframe of an encoding is asked for again while somebody waits for one.
    pub(in crate::room) fn repeat_keyframe(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(slot.track) else {
            return;
        };
        let origin = track.origin;
        if let Some(encoding) = track.encoding_mut(slot.index)
            && encoding.retry.is_none()
        {
            encoding.retry = Some(Retry {
                at: now + RETRY_FIRST,
                interval: RETRY_FIRST,
            });
            self.reschedule_origin(origin, output);
        }
    }

    /// Somebody's deadline has come nearer: the publisher's, or that of the want.
    pub(in crate::room) fn reschedule_origin(&self, origin: Origin, output: &mut Output) {
        match origin {
            Origin::Local(peer) => {
                if let Some(peer) = self.peers.get(peer) {
                    output.rescheduled.push(peer.key);
                }
            }
            Origin::Remote(want) => output.relay.rescheduled.push(want),
        }
    }

    /// Does what is due for a track with several encodings.
    pub(in crate::room) fn handle_encodings_timeout(
        &mut self,
        now: Instant,
        slot: TrackSlot,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let is_due = track.is_simulcast && track.flow_check_at.is_some_and(|at| at <= now);
        if is_due && check_flow(now, track) {
            self.on_flow_changed(now, slot, None, output);
        }
        for index in (0..).map(EncodingIndex) {
            let track = self.tracks.get_mut(slot);
            let Some(encoding) = track.and_then(|track| track.encoding_mut(index)) else {
                return;
            };
            let Some(retry) = encoding.retry.take_if(|retry| retry.at <= now) else {
                continue;
            };
            let slot = EncodingSlot { track: slot, index };
            if !self.is_awaited(slot) {
                continue;
            }
            let interval = (retry.interval * 2).min(RETRY_MAX);
            if let Some(track) = self.tracks.get_mut(slot.track)
                && let Some(encoding) = track.encoding_mut(index)
            {
                encoding.retry = Some(Retry {
                    at: now + interval,
                    interval,
                });
            }
            self.request_keyframe(now, slot, output);
        }
    }

    /// Whether somebody who can be sent to waits for a keyframe of an encoding.
    fn is_awaited(&self, slot: EncodingSlot) -> bool {
        let Some(track) = self.tracks.get(slot.track) else {
            return false;
        };
        let mut waiting = track
            .subscriptions
            .iter()
            .filter_map(|slot| self.subscriptions.get(*slot));
        waiting.any(|subscription| {
            let is_waiting = subscription.reception.awaited() == Some(slot.index)
                || subscription.comes_back && subscription.reception.present() == Some(slot.index)
                || subscription.awaits_layers(track, slot.index);
            is_waiting
                && subscription.is_open()
                && (self.peers.get(subscription.subscriber))
                    .is_some_and(|peer| peer.routed.is_some())
        })
    }
}

impl Track {
    /// When [`Room::handle_encodings_timeout`] is next due for it.
    pub(in crate::room) fn poll_encodings(&self) -> Option<Instant> {
        let flow_check_at = self.flow_check_at.filter(|_| self.is_simulcast);
        let retries = self.encodings.iter().map(|e| e.retry.map(|retry| retry.at));
        retries.fold(flow_check_at, earliest)
    }

    /// A packet of one of its encodings has come from its publisher. True if the deadline has come nearer.
    #[inline]
    pub(in crate::room) fn watch_flow(&mut self, now: Instant) -> bool {
        if self.flow_check_at.is_some() {
            return false;
        }
        self.flows_since = Some(now);
        self.flow_check_at = Some(now + FLOW_SILENCE);
        true
    }
}

/// Whether encodings have stopped while others flow. When all are silent, the publisher has paused them all, and
/// nothing is learned of one.
fn check_flow(now: Instant, track: &mut Track) -> bool {
    let since = track.flows_since;
    let heard = |encoding: &Encoding| encoding.last_packet.max(since);
    let is_silent = |at: Instant| now.saturating_duration_since(at) >= FLOW_SILENCE;
    let last = track.encodings.iter().filter_map(|e| e.last_packet).max();
    if last.is_none_or(is_silent) {
        track.flow_check_at = None;
        return false;
    }
    let mut has_stopped = false;
    let mut next = now + FLOW_SILENCE;
    for encoding in track.encodings.iter_mut().filter(|e| e.is_flowing) {
        match heard(encoding) {
            Some(at) if !is_silent(at) => next = next.min(at + FLOW_SILENCE),
            _ => {
                encoding.is_flowing = false;
                has_stopped = true;
            }
        }
    }
    track.flow_check_at = Some(next);
    has_stopped
}

/// How long an encoding is silent, while another of its track is not, before it is taken for stopped: longer than
/// between two pictures of the slowest screen share that browsers send in several encodings (5 a second).
const FLOW_SILENCE: Duration = Duration::from_millis(500);
/// How soon a keyframe that did not come is asked for again.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// How seldom it is in the end.
const RETRY_MAX: Duration = Duration::from_secs(4);
