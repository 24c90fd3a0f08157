//! What tracks have to offer and which of it anybody wants: measured and told about twice a second.
//!
//! A publisher is told which of its encodings nobody wants, so that it can stop making them: an encoding that is not
//! wanted for a while, and at once that it is wanted again.

use std::time::{Duration, Instant};

use crate::base::ids::{ENCODINGS_MAX, EncodingIndex, MediaKind, TrackKey, WantKey};
use crate::base::time::earliest;
use crate::control::Event;
use crate::control::layers::{EncodingWanted, LayersWanted};
use crate::control::relay::RelayedLayer;
use crate::room::origin::Origin;
use crate::room::output::Output;
use crate::room::relay::push_layers;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::track::Track;

impl Room {
    /// Measures what a peer's tracks offer, tells who is to know, if that is due.
    pub(in crate::room) fn measure_if_due(
        &mut self,
        now: Instant,
        publisher: PeerSlot,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(publisher) else {
            return;
        };
        if peer.measure_at.is_none_or(|at| now < at) {
            return;
        }
        // While reports are due, packets come or may.
        let mut goes_on = peer.report_at.is_some();
        let mut due = None;
        for at in 0.. {
            let track = self.peers.get(publisher).and_then(|p| p.tracks.get(at));
            let Some(&slot) = track else {
                break;
            };
            let Some(track) = self.tracks.get_mut(slot) else {
                continue;
            };
            if track.config.kind != MediaKind::Video {
                continue;
            }
            let wanted = track.wanted.told;
            let measured = track.supply.measure(now, &track.encodings, wanted);
            goes_on |= track.supply.is_flowing();
            for served in &track.sinks {
                push_layers(track, served.sink, &mut output.relay);
            }
            self.review_wanted_of(now, slot, output);
            let track = self.tracks.get(slot);
            due = earliest(due, track.and_then(|track| track.wanted.poll_timeout()));
            if measured.has_changed {
                self.allocate_receivers(now, slot, output);
            }
            for index in measured.overdue.iter() {
                let encoding = EncodingSlot { track: slot, index };
                self.request_keyframe(now, encoding, output);
            }
        }
        if let Some(peer) = self.peers.get_mut(publisher) {
            let next = goes_on.then_some(now + MEASURE_INTERVAL);
            peer.measure_at = earliest(next, due.map(|due| due.max(now + MEASURE_INTERVAL)));
        }
    }

    /// A subscription wishes other encodings than before: its track's publisher may have to know.
    pub(in crate::room) fn review_wanted(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        if let Some(track) = self.subscriptions.get(slot).and_then(|s| s.track) {
            self.review_wanted_of(now, track, output);
        }
    }

    /// What is wanted of a local track may have changed.
    pub(in crate::room) fn review_wanted_of(
        &mut self,
        now: Instant,
        slot: TrackSlot,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        let Origin::Local(publisher) = track.origin else {
            return;
        };
        if track.config.kind != MediaKind::Video {
            return;
        }
        let mut wanted = self.wished_encodings(slot);
        // What does not exist is not told of.
        let beyond = track.encodings.len()..ENCODINGS_MAX;
        beyond.for_each(|index| wanted.insert(EncodingIndex(index as u8)));
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let is_news = track.wanted.update(now, wanted);
        let Some(peer) = self.peers.get_mut(publisher) else {
            return;
        };
        if is_news {
            let event = Event::LayersWanted(peer.key, layers_wanted(track));
            output.told.push_back((peer.key, event));
        }
        if let Some(due) = track.wanted.poll_timeout() {
            peer.measure_at = earliest(peer.measure_at, Some(due));
            output.rescheduled.push(peer.key);
        }
    }

    /// What another shard says its track has to offer.
    pub fn handle_layers(
        &mut self,
        now: Instant,
        want: WantKey,
        layers: &[RelayedLayer],
        output: &mut Output,
    ) {
        let slot = self.remotes.get(&want).and_then(|remote| remote.track);
        let track = slot.and_then(|slot| self.tracks.get_mut(slot));
        let (Some(slot), Some(track)) = (slot, track) else {
            output.counters.relay_stale += 1;
            return;
        };
        if track.supply.replace(now, layers) {
            self.allocate_receivers(now, slot, output);
        }
    }

    /// Other shards wish other encodings of a track than before.
    pub(in crate::room) fn review_wanted_by_key(
        &mut self,
        now: Instant,
        track: TrackKey,
        output: &mut Output,
    ) {
        if let Some(slot) = self.tracks_by_key.get(&track).copied() {
            self.review_wanted_of(now, slot, output);
        }
    }
}

fn layers_wanted(track: &Track) -> LayersWanted {
    let encodings = (0..).map(EncodingIndex).zip(&track.encodings);
    LayersWanted {
        track: track.config.key,
        encodings: encodings
            .map(|(index, encoding)| EncodingWanted {
                index,
                rid: encoding.config.rid,
                is_wanted: track.wanted.told.contains(index),
            })
            .collect(),
    }
}

/// How often what tracks offer is measured.
pub const MEASURE_INTERVAL: Duration = Duration::from_millis(500);
