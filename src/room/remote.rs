//! A room on several shards: what this shard's part of it *wants* of the others for its own subscriptions. A remote track has
//! caches, clocks and keyframe requests of its own here; only its packets and their numbers come from outside.

use std::time::{Duration, Instant};

use crate::base::ids::{EncodingIndex, EncodingSet, MediaKind, ShardId, TrackKey, WantKey};
use crate::base::time::earliest;
use crate::control::relay::{
    RelayMessage, RelayedClock, RelayedEncoding, RelayedPacket, RelayedTrack, Selection,
};
use crate::control::{EncodingConfig, TrackConfig};
use crate::media::sender_report::TrackClock;
use crate::room::batch::Batch;
use crate::room::incoming::Incoming;
use crate::room::origin::{Origin, Remote};
use crate::room::output::{Output, WantChange};
use crate::room::slots::{EncodingSlot, SubscriptionSlot, TrackSlot};
use crate::room::speakers::is_held_gap;
use crate::room::state::Room;
use crate::room::track::Track;

impl Room {
    /// Makes this shard's wants fit its subscriptions: a track of another shard is wanted while an active subscription
    /// copies it.
    pub(in crate::room) fn review_wants(&mut self, output: &mut Output) {
        for source in std::mem::take(&mut self.unreviewed) {
            match (self.needed(source), self.wants.get(&source).copied()) {
                (Some((shard, selection)), None) => self.want(shard, source, selection, output),
                (Some((_, selection)), Some(want)) => self.select(want, selection, output),
                (None, Some(want)) => self.unwant(want, output),
                (None, None) => {}
            }
        }
    }

    /// The track's subscriptions have changed, if it is one of another shard.
    pub(in crate::room) fn note_source(&mut self, source: TrackKey, shard: ShardId) {
        if shard != self.shard {
            self.unreviewed.push(source);
        }
    }

    /// The shard that active subscriptions copy a track from, if that is another one, and which encodings they need.
    fn needed(&self, source: TrackKey) -> Option<(ShardId, Selection)> {
        let attached = self.tracks_by_key.get(&source);
        let attached = attached.and_then(|slot| self.tracks.get(*slot));
        let subscriptions: &[SubscriptionSlot] = match attached {
            Some(track) => &track.subscriptions,
            None => self.waiting.get(&source).map_or(&[], Vec::as_slice),
        };
        let mut needed: Option<(ShardId, Selection)> = None;
        for slot in subscriptions {
            if let Some(subscription) = self.subscriptions.get(*slot)
                && subscription.is_open()
                && subscription.config.source_shard != self.shard
            {
                let from = subscription.config.source_shard;
                let (_, selection) = needed.get_or_insert((from, Selection::default()));
                selection.received = selection.received.union(subscription.received());
                selection.wished = selection.wished.union(subscription.wished(attached));
            }
        }
        needed
    }

    fn want(
        &mut self,
        shard: ShardId,
        source: TrackKey,
        selection: Selection,
        output: &mut Output,
    ) {
        let want = output.relay.name_want();
        let remote = Remote {
            shard,
            source,
            track: None,
            version: 0,
            selection,
            expire_at: None,
        };
        self.remotes.insert(want, remote);
        self.wants.insert(source, want);
        output.relay.changed.push(WantChange::Made(want));
        self.say_want(want, output);
    }

    fn select(&mut self, want: WantKey, selection: Selection, output: &mut Output) {
        if let Some(remote) = self.remotes.get_mut(&want)
            && std::mem::replace(&mut remote.selection, selection) != selection
        {
            let message = RelayMessage::Select { want, selection };
            output.relay.push(remote.shard, message);
        }
    }

    fn say_want(&self, want: WantKey, output: &mut Output) {
        if let Some(remote) = self.remotes.get(&want) {
            let message = RelayMessage::Want {
                want,
                room: self.id.clone(),
                track: remote.source,
                selection: remote.selection,
            };
            output.relay.push(remote.shard, message);
        }
    }

    fn unwant(&mut self, want: WantKey, output: &mut Output) {
        if let Some(remote) = self.forget_want(want, output) {
            let message = RelayMessage::Unwant { want };
            output.relay.push(remote.shard, message);
            // Its subscribers do not want it now, but under the same SSRC they may again: no BYE.
            if let Some(track) = remote.track {
                self.part_from_track(track);
            }
        }
    }

    fn forget_want(&mut self, want: WantKey, output: &mut Output) -> Option<Remote> {
        let remote = self.remotes.remove(&want)?;
        self.wants.remove(&remote.source);
        output.relay.changed.push(WantChange::Ended(want));
        Some(remote)
    }

    /// A wanted track is there, or is described anew.
    pub fn handle_started(
        &mut self,
        now: Instant,
        want: WantKey,
        track: RelayedTrack,
        output: &mut Output,
    ) {
        let Some(remote) = self.remotes.get_mut(&want) else {
            output.counters.relay_stale += 1;
            return;
        };
        let known = self.tracks_by_key.get(&track.key).copied();
        // Only what was asked for, and never instead of a track of this shard.
        if remote.source != track.key || known != remote.track {
            output.counters.track_refused += 1;
            return;
        }
        remote.version = track.version;
        let described = |encoding: &RelayedEncoding| EncodingConfig {
            rid: encoding.rid,
            ..EncodingConfig::default()
        };
        let config = TrackConfig {
            key: track.key,
            mid: track.mid,
            kind: track.kind,
            codecs: track.codecs,
            extensions: track.extensions,
            reference_times: false,
            encodings: track.encodings.iter().map(described).collect(),
        };
        let bring_up = |here: &mut Track| {
            for (encoding, relayed) in here.encodings.iter_mut().zip(&track.encodings) {
                encoding.run = encoding.run.max(relayed.run);
                encoding.is_flowing = relayed.is_flowing;
            }
        };
        match known {
            Some(slot) => {
                self.update_track(now, slot, config, output);
                self.note_sound(slot);
                self.tracks.get_mut(slot).map(bring_up);
                self.on_flow_changed(now, slot, None, output);
            }
            None => {
                let mut here = Track::new(config, Origin::Remote(want));
                bring_up(&mut here);
                let slot = self.start_track(now, here, output);
                if let Some(remote) = self.remotes.get_mut(&want) {
                    remote.track = Some(slot);
                }
            }
        }
        self.review_wants(output);
    }

    /// A wanted track has ended, as its publisher's shard says.
    pub fn handle_ended(&mut self, want: WantKey, output: &mut Output) {
        let Some(remote) = self.remotes.get_mut(&want) else {
            output.counters.relay_stale += 1;
            return;
        };
        remote.expire_at = None;
        if let Some(track) = remote.track.take() {
            self.end_track(track, output);
        }
    }

    /// The other shard does not serve a want. It is made again when a subscription of the track is next configured.
    pub fn handle_refused(&mut self, want: WantKey, output: &mut Output) {
        self.handle_ended(want, output);
        self.forget_want(want, output);
    }

    /// A shard has forgotten everything about this one: what it relayed has ended, and is asked for anew.
    pub fn handle_reset(&mut self, shard: ShardId, output: &mut Output) {
        self.forget_sinks(shard);
        let of_shard = self.remotes.iter().filter(|(_, r)| r.shard == shard);
        let wants: Vec<WantKey> = of_shard.map(|(want, _)| *want).collect();
        for want in wants {
            self.handle_ended(want, output);
            self.say_want(want, output);
        }
    }

    /// Other encodings of a remote track flow than before.
    pub fn handle_flow(
        &mut self,
        now: Instant,
        want: WantKey,
        flowing: EncodingSet,
        output: &mut Output,
    ) {
        let slot = self.remote_track(want).map(|(track, _)| track);
        let Some(track) = slot.and_then(|slot| self.tracks.get_mut(slot)) else {
            output.counters.relay_stale += 1;
            return;
        };
        for (index, encoding) in (0..).map(EncodingIndex).zip(&mut track.encodings) {
            encoding.is_flowing = flowing.contains(index);
        }
        if let Some(slot) = slot {
            self.on_flow_changed(now, slot, None, output);
        }
    }

    /// What the publisher of a remote track says of an encoding's clocks.
    pub fn handle_clock(
        &mut self,
        now: Instant,
        want: WantKey,
        index: EncodingIndex,
        clock: RelayedClock,
        output: &mut Output,
    ) {
        let slot = self.remote_track(want).map(|(track, _)| track);
        let track = slot.and_then(|slot| self.tracks.get_mut(slot));
        let rate = track.as_ref().map(|track| track.clock_rate());
        let encoding = track.and_then(|track| track.encoding_mut(index));
        let (Some(track), Some(rate), Some(encoding)) = (slot, rate, encoding) else {
            output.counters.relay_stale += 1;
            return;
        };
        if clock.run < encoding.run {
            output.counters.relay_stale += 1;
            return;
        }
        encoding.run = clock.run;
        let report = TrackClock::new(clock.received, clock.ntp, clock.rtp_time, rate);
        encoding.clock = Some(report);
        self.pass_on_sender_report(now, EncodingSlot { track, index }, output);
    }

    /// A packet of a remote track. It waits in `batch` to be fanned out.
    pub fn handle_relayed(
        &mut self,
        now: Instant,
        packet: RelayedPacket,
        batch: &mut Batch,
        output: &mut Output,
    ) {
        let Some((slot, remote)) = self.remote_track(packet.want) else {
            output.counters.relay_stale += 1;
            return;
        };
        if remote.version != packet.version {
            output.counters.relay_stale += 1;
            return;
        }
        if packet.is_late(now) {
            output.counters.relay_late += 1;
            return;
        }
        if remote.expire_at.is_none() {
            remote.expire_at = Some(now + EXPIRE_INTERVAL);
            output.relay.rescheduled.push(packet.want);
        }
        let index = packet.encoding;
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let kind = (
            track.config.kind,
            track.kinds.get(packet.header.payload_type),
        );
        let ids = track.config.extensions;
        let codec = track.codec(packet.header.payload_type);
        let Some(encoding) = track.encoding_mut(index) else {
            output.counters.relay_stale += 1;
            return;
        };
        output.counters.relay_packets_received += 1;
        // Sound counts before video divides what is left; what pictures take, the publisher's shard says.
        if packet.kind == MediaKind::Audio {
            encoding.on_layer(now, (0, 0), packet.packet.len(), packet.header.marker, None);
        }
        let restarted = packet.run > encoding.run;
        if restarted {
            encoding.run = packet.run;
            // What was reported of the former run says nothing of this one.
            encoding.clock = None;
        }
        let (header, numbering) = (&packet.header, (packet.seq, packet.timestamp));
        let slot = EncodingSlot { track: slot, index };
        let has_gap = kind.0 == MediaKind::Audio && is_held_gap(encoding.tip, packet.seq);
        encoding.on_numbered(now, packet.seq, packet.timestamp);
        let incoming = Incoming::read(slot, packet.packet, header, numbering, kind, &ids);
        let Some(mut incoming) = incoming else {
            return;
        };
        self.read_layers(&mut incoming, codec, (now, restarted), output);
        batch.packets.push(incoming);
        if has_gap {
            self.close_gap(slot.track);
        }
    }

    fn remote_track(&mut self, want: WantKey) -> Option<(TrackSlot, &mut Remote)> {
        let remote = self.remotes.get_mut(&want)?;
        Some((remote.track?, remote))
    }

    /// When a remote track next needs [`Room::handle_remote_timeout`].
    #[must_use]
    pub fn poll_remote_timeout(&self, want: WantKey) -> Option<Instant> {
        let remote = self.remotes.get(&want)?;
        let track = self.tracks.get(remote.track?)?;
        let encodings = track.encodings.iter();
        encodings
            .map(|encoding| encoding.keyframes.poll_timeout())
            .chain([track.poll_encodings()])
            .fold(remote.expire_at, earliest)
    }

    /// Does what is due for a remote track.
    pub fn handle_remote_timeout(&mut self, now: Instant, want: WantKey, output: &mut Output) {
        let Some((slot, remote)) = self.remote_track(want) else {
            return;
        };
        let (shard, expires) = (remote.shard, remote.expire_at.is_some_and(|at| at <= now));
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let mut holds_packets = false;
        for (encoding, here) in (0..).map(EncodingIndex).zip(&mut track.encodings) {
            if here.keyframes.handle_timeout(now) {
                let message = RelayMessage::KeyframeWanted { want, encoding };
                output.relay.push(shard, message);
            }
            if expires {
                here.cache.expire(now);
                holds_packets |= !here.cache.is_empty();
            }
        }
        if expires {
            let next = holds_packets.then_some(now + EXPIRE_INTERVAL);
            if let Some(remote) = self.remotes.get_mut(&want) {
                remote.expire_at = next;
            }
        }
        self.handle_encodings_timeout(now, slot, output);
        output.relay.rescheduled.push(want);
    }

    /// Asks for a keyframe of a remote encoding, at once or when that is next allowed.
    pub(in crate::room) fn relay_keyframe_request(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        want: WantKey,
        output: &mut Output,
    ) {
        if let Some(remote) = self.remotes.get(&want)
            && let Some(track) = self.tracks.get_mut(slot.track)
            && let Some(encoding) = track.encoding_mut(slot.index)
        {
            if encoding.keyframes.handle_request(now) {
                let encoding = slot.index;
                let message = RelayMessage::KeyframeWanted { want, encoding };
                output.relay.push(remote.shard, message);
            } else {
                output.relay.rescheduled.push(want);
            }
        }
    }
}

/// How often the cache of a remote track is looked through once nothing comes any more.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
