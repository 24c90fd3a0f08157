//! A room on several shards: what this shard's part of it says to the others, and what it makes of what they say.
//!
//! Towards the others it *serves* wants: each packet of a local track goes once to each shard that wants the
//! track. From the others it *wants* tracks for its own subscriptions; such a remote track has its own cache,
//! clock and keyframe requests here, and only its packets and numbers come from outside.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::ids::{RtpTime, SeqNo, ShardId, TrackKey, WantKey};
use crate::base::time::earliest;
use crate::control::relay::{RelayMessage, RelayedClock, RelayedPacket, RelayedTrack};
use crate::control::{EncodingConfig, TrackConfig};
use crate::media::sender_report::TrackClock;
use crate::room::batch::Batch;
use crate::room::incoming::Incoming;
use crate::room::origin::{Origin, Remote, Sink};
use crate::room::output::{Output, RelayOutput, WantChange};
use crate::room::slots::{SubscriptionSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::track::Track;
use crate::wire::rtp::RtpHeader;

// --- tracks of this shard, for others ------------------------------------------------------------

impl Room {
    /// Another shard wants a track; one that is not there (yet) is waited for. False if too many wait.
    #[must_use]
    pub fn handle_want(&mut self, sink: Sink, track: TrackKey, output: &mut Output) -> bool {
        if let Some(slot) = self.local_track(track)
            && let Some(track) = self.tracks.get_mut(slot)
        {
            if !track.sinks.contains(&sink) {
                track.sinks.push(sink);
            }
            announce(track, sink, &mut output.relay);
            return true;
        }
        if self.wanted.len() >= WANTED_MAX && !self.wanted.contains_key(&track) {
            return false;
        }
        let waiting = self.wanted.entry(track).or_default();
        if !waiting.contains(&sink) {
            waiting.push(sink);
        }
        true
    }

    /// Another shard has no subscribers of a track any more.
    pub fn handle_unwant(&mut self, sink: Sink, track: TrackKey) {
        if let Some(slot) = self.local_track(track)
            && let Some(track) = self.tracks.get_mut(slot)
        {
            track.sinks.retain(|other| *other != sink);
        }
        if let Some(waiting) = self.wanted.get_mut(&track) {
            waiting.retain(|other| *other != sink);
            if waiting.is_empty() {
                self.wanted.remove(&track);
            }
        }
    }

    /// A subscriber on another shard needs a keyframe.
    pub fn handle_keyframe_wanted(&mut self, now: Instant, track: TrackKey, output: &mut Output) {
        if let Some(slot) = self.local_track(track) {
            self.request_keyframe(now, slot, output);
        }
    }

    /// A local track starts: who waits for it gets it from now on.
    pub(in crate::room) fn serve_waiting(&mut self, slot: TrackSlot, output: &mut Output) {
        if let Some(track) = self.tracks.get_mut(slot)
            && let Some(waiting) = self.wanted.remove(&track.config.key)
        {
            track.sinks = waiting;
            for sink in &track.sinks {
                announce(track, *sink, &mut output.relay);
            }
        }
    }

    /// A local track has ended: who wanted it waits for it from now on.
    pub(in crate::room) fn unserve(&mut self, ended: Track, output: &mut Output) {
        for sink in &ended.sinks {
            let message = RelayMessage::Ended { want: sink.want };
            output.relay.push(sink.shard, message);
        }
        if !ended.sinks.is_empty() {
            self.wanted.insert(ended.config.key, ended.sinks);
        }
    }

    fn local_track(&self, key: TrackKey) -> Option<TrackSlot> {
        let slot = *self.tracks_by_key.get(&key)?;
        let track = self.tracks.get(slot)?;
        matches!(track.origin, Origin::Local(_)).then_some(slot)
    }
}

/// The description of a local track has changed, or it is new to a shard.
fn announce(track: &Track, sink: Sink, relay: &mut RelayOutput) {
    let config = &track.config;
    let described = RelayedTrack {
        key: config.key,
        mid: config.mid,
        kind: config.kind,
        codecs: config.codecs.clone(),
        extensions: config.extensions,
        version: track.version,
        run: track.run,
    };
    let started = RelayMessage::Started {
        want: sink.want,
        track: Box::new(described),
    };
    relay.push(sink.shard, started);
    if let Some(clock) = &track.clock {
        push_clock(track.run, clock, sink, relay);
    }
}

/// The description of a local track has changed: packets from now on are to be read by the new one.
pub fn relay_description(track: &mut Track, relay: &mut RelayOutput) {
    track.version = track.version.wrapping_add(1);
    for sink in &track.sinks {
        announce(track, *sink, relay);
    }
}

/// A local track has a new clock.
pub fn relay_clock(track: &Track, output: &mut Output) {
    if let Some(clock) = &track.clock {
        for sink in &track.sinks {
            push_clock(track.run, clock, *sink, &mut output.relay);
        }
    }
}

fn push_clock(run: u64, clock: &TrackClock, sink: Sink, relay: &mut RelayOutput) {
    let (ntp, rtp_time, received) = clock.report();
    let message = RelayMessage::Clock {
        want: sink.want,
        clock: RelayedClock {
            run,
            ntp,
            rtp_time,
            received,
        },
    };
    relay.push(sink.shard, message);
}

/// A packet of a local track goes to the shards that want it: once each, and without a copy.
#[cold]
pub fn relay_packet(
    track: &Track,
    header: &RtpHeader,
    (seq, timestamp): (SeqNo, RtpTime),
    packet: &Bytes,
    output: &mut Output,
) {
    for sink in &track.sinks {
        let relayed = RelayedPacket {
            want: sink.want,
            kind: track.config.kind,
            version: track.version,
            run: track.run,
            seq,
            timestamp,
            header: *header,
            packet: packet.clone(),
        };
        let message = RelayMessage::Packet(relayed);
        output.relay.push(sink.shard, message);
        output.counters.relay_packets_sent += 1;
    }
}

// --- tracks of other shards ----------------------------------------------------------------------

impl Room {
    /// Makes this shard's wants fit its subscriptions: a track of another shard is wanted while an active subscription
    /// copies it.
    pub(in crate::room) fn review_wants(&mut self, output: &mut Output) {
        for source in std::mem::take(&mut self.unreviewed) {
            let wanted_from = self.wanted_from(source);
            match (wanted_from, self.wants.get(&source).copied()) {
                (Some(shard), None) => self.want(shard, source, output),
                (None, Some(want)) => self.unwant(want, output),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }

    /// The track's subscriptions have changed, if it is one of another shard.
    pub(in crate::room) fn note_source(&mut self, source: TrackKey, shard: ShardId) {
        if shard != self.shard {
            self.unreviewed.push(source);
        }
    }

    /// The shard that active subscriptions copy a track from, if that is another one.
    fn wanted_from(&self, source: TrackKey) -> Option<ShardId> {
        let attached = self.tracks_by_key.get(&source);
        let attached = attached.and_then(|slot| self.tracks.get(*slot));
        let subscriptions: &[SubscriptionSlot] = match attached {
            Some(track) => &track.subscriptions,
            None => self.waiting.get(&source).map_or(&[], Vec::as_slice),
        };
        let configs = subscriptions
            .iter()
            .filter_map(|slot| Some(&self.subscriptions.get(*slot)?.config));
        configs
            .filter(|config| config.active && config.source_shard != self.shard)
            .map(|config| config.source_shard)
            .next()
    }

    fn want(&mut self, shard: ShardId, source: TrackKey, output: &mut Output) {
        let want = output.relay.name_want();
        let remote = Remote {
            shard,
            source,
            track: None,
            version: 0,
            run: 0,
            expire_at: None,
        };
        self.remotes.insert(want, remote);
        self.wants.insert(source, want);
        output.relay.changed.push(WantChange::Made(want));
        self.say_want(want, output);
    }

    fn say_want(&self, want: WantKey, output: &mut Output) {
        if let Some(remote) = self.remotes.get(&want) {
            let message = RelayMessage::Want {
                want,
                room: self.id.clone(),
                track: remote.source,
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
        if remote.track.is_none() || track.run > remote.run {
            remote.run = track.run;
        }
        let config = TrackConfig {
            key: track.key,
            mid: track.mid,
            kind: track.kind,
            codecs: track.codecs,
            extensions: track.extensions,
            encodings: vec![EncodingConfig::default()],
        };
        match known {
            Some(slot) => self.update_track(slot, config, output),
            None => {
                let slot = self.start_track(now, Origin::Remote(want), config, output);
                if let Some(remote) = self.remotes.get_mut(&want) {
                    remote.track = Some(slot);
                }
            }
        }
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
        for track in self.tracks_by_key.values() {
            if let Some(track) = self.tracks.get_mut(*track) {
                track.sinks.retain(|sink| sink.shard != shard);
            }
        }
        self.wanted.retain(|_, waiting| {
            waiting.retain(|sink| sink.shard != shard);
            !waiting.is_empty()
        });
        let of_shard = self.remotes.iter().filter(|(_, r)| r.shard == shard);
        let wants: Vec<WantKey> = of_shard.map(|(want, _)| *want).collect();
        for want in wants {
            self.handle_ended(want, output);
            self.say_want(want, output);
        }
    }

    /// What the publisher of a remote track says of its clocks.
    pub fn handle_clock(
        &mut self,
        now: Instant,
        want: WantKey,
        clock: RelayedClock,
        output: &mut Output,
    ) {
        let Some((slot, remote)) = self.remote_track(want) else {
            output.counters.relay_stale += 1;
            return;
        };
        if clock.run < remote.run {
            output.counters.relay_stale += 1;
            return;
        }
        remote.run = clock.run;
        if let Some(track) = self.tracks.get_mut(slot) {
            let rate = track.clock_rate();
            let report = TrackClock::new(clock.received, clock.ntp, clock.rtp_time, rate);
            track.clock = Some(report);
            self.pass_on_sender_report(now, slot, output);
        }
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
        if remote.expire_at.is_none() {
            remote.expire_at = Some(now + EXPIRE_INTERVAL);
            output.relay.rescheduled.push(packet.want);
        }
        let restarted = packet.run > remote.run;
        remote.run = remote.run.max(packet.run);
        if restarted && let Some(track) = self.tracks.get_mut(slot) {
            // What was reported of the former run says nothing of this one.
            track.clock = None;
        }
        output.counters.relay_packets_received += 1;
        if let Some(track) = self.tracks.get_mut(slot) {
            let header = &packet.header;
            let kind = (track.config.kind, track.kinds.get(header.payload_type));
            let numbering = (packet.seq, packet.timestamp);
            let ids = &track.config.extensions;
            let incoming = Incoming::read(slot, packet.packet, header, numbering, kind, ids);
            batch.packets.extend(incoming);
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
        earliest(track.keyframes.poll_timeout(), remote.expire_at)
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
        if track.keyframes.handle_timeout(now) {
            output
                .relay
                .push(shard, RelayMessage::KeyframeWanted { want });
        }
        if expires {
            track.cache.expire(now);
            let next = (!track.cache.is_empty()).then_some(now + EXPIRE_INTERVAL);
            if let Some(remote) = self.remotes.get_mut(&want) {
                remote.expire_at = next;
            }
        }
        output.relay.rescheduled.push(want);
    }

    /// Asks for a keyframe of a remote track, at once or when that is next allowed.
    pub(in crate::room) fn relay_keyframe_request(
        &mut self,
        now: Instant,
        slot: TrackSlot,
        want: WantKey,
        output: &mut Output,
    ) {
        if let Some(remote) = self.remotes.get(&want)
            && let Some(track) = self.tracks.get_mut(slot)
        {
            if track.keyframes.handle_request(now) {
                let message = RelayMessage::KeyframeWanted { want };
                output.relay.push(remote.shard, message);
            } else {
                output.relay.rescheduled.push(want);
            }
        }
    }
}

/// Tracks that may be waited for in one room: more than its peers publish, as a want may come before its track.
const WANTED_MAX: usize = 65_536;
/// How often the cache of a remote track is looked through once nothing comes any more.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
