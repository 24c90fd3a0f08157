//! A room on several shards: what this shard's part of it *serves* to the others. Each packet of an encoding goes once to
//! each shard that has selected it.

use std::time::Instant;

use bytes::Bytes;

use crate::base::ids::{EncodingIndex, RtpTime, SeqNo, ShardId, TrackKey};
use crate::control::relay::{
    RelayMessage, RelayedClock, RelayedEncoding, RelayedPacket, RelayedTrack, Selection,
};
use crate::media::sender_report::TrackClock;
use crate::room::encoding::Encoding;
use crate::room::origin::{Origin, Served, Sink};
use crate::room::output::{Output, RelayOutput};
use crate::room::slots::{EncodingSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::track::Track;
use crate::wire::rtp::RtpHeader;

impl Room {
    /// Another shard wants a track; one that is not there (yet) is waited for. False if too many wait.
    #[must_use]
    pub fn handle_want(
        &mut self,
        now: Instant,
        sink: Sink,
        track: TrackKey,
        selection: Selection,
        output: &mut Output,
    ) -> bool {
        let served = Served { sink, selection };
        if let Some(slot) = self.local_track(track)
            && let Some(track) = self.tracks.get_mut(slot)
        {
            if track.sinks.iter().all(|known| known.sink != sink) {
                track.sinks.push(served);
            }
            announce(track, sink, &mut output.relay);
            self.review_wanted_of(now, slot, output);
            return true;
        }
        if self.wanted.len() >= WANTED_MAX && !self.wanted.contains_key(&track) {
            return false;
        }
        let waiting = self.wanted.entry(track).or_default();
        if waiting.iter().all(|known| known.sink != sink) {
            waiting.push(served);
        }
        true
    }

    /// Another shard needs other encodings of a track than before.
    pub fn handle_select(
        &mut self,
        now: Instant,
        sink: Sink,
        key: TrackKey,
        selection: Selection,
        output: &mut Output,
    ) {
        let local = self.local_track(key);
        let track = local.and_then(|slot| self.tracks.get_mut(slot));
        let served = match track {
            Some(track) => Some(&mut track.sinks),
            None => self.wanted.get_mut(&key),
        };
        let known = served.and_then(|all| all.iter_mut().find(|served| served.sink == sink));
        if let Some(known) = known {
            known.selection = selection;
        }
        self.review_wanted_by_key(now, key, output);
    }

    /// Another shard has no subscribers of a track any more.
    pub fn handle_unwant(
        &mut self,
        now: Instant,
        sink: Sink,
        track: TrackKey,
        output: &mut Output,
    ) {
        if let Some(slot) = self.local_track(track)
            && let Some(track) = self.tracks.get_mut(slot)
        {
            track.sinks.retain(|other| other.sink != sink);
            self.review_wanted_of(now, slot, output);
        }
        if let Some(waiting) = self.wanted.get_mut(&track) {
            waiting.retain(|other| other.sink != sink);
            if waiting.is_empty() {
                self.wanted.remove(&track);
            }
        }
    }

    /// A subscriber on another shard needs a keyframe.
    pub fn handle_keyframe_wanted(
        &mut self,
        now: Instant,
        track: TrackKey,
        index: EncodingIndex,
        output: &mut Output,
    ) {
        if let Some(track) = self.local_track(track) {
            self.request_keyframe(now, EncodingSlot { track, index }, output);
        }
    }

    /// A shard has forgotten everything about this one: it wants nothing any more.
    pub(in crate::room) fn forget_sinks(&mut self, shard: ShardId) {
        for track in self.tracks_by_key.values() {
            if let Some(track) = self.tracks.get_mut(*track) {
                track.sinks.retain(|served| served.sink.shard != shard);
            }
        }
        self.wanted.retain(|_, waiting| {
            waiting.retain(|served| served.sink.shard != shard);
            !waiting.is_empty()
        });
    }

    /// A local track starts: who waits for it gets it from now on.
    pub(in crate::room) fn serve_waiting(&mut self, slot: TrackSlot, output: &mut Output) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        track.version = output.relay.name_version();
        if let Some(waiting) = self.wanted.remove(&track.config.key) {
            track.sinks = waiting;
            for served in &track.sinks {
                announce(track, served.sink, &mut output.relay);
            }
        }
    }

    /// A local track has ended: who wanted it waits for it from now on.
    pub(in crate::room) fn unserve(&mut self, ended: Track, output: &mut Output) {
        for Served { sink, .. } in &ended.sinks {
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
    let encoding = |encoding: &Encoding| RelayedEncoding {
        rid: encoding.config.rid,
        run: encoding.run,
        is_flowing: encoding.is_flowing,
    };
    let described = RelayedTrack {
        key: config.key,
        mid: config.mid,
        kind: config.kind,
        codecs: config.codecs.clone(),
        extensions: config.extensions,
        version: track.version,
        encodings: track.encodings.iter().map(encoding).collect(),
    };
    let started = RelayMessage::Started {
        want: sink.want,
        track: Box::new(described),
    };
    relay.push(sink.shard, started);
    for (index, encoding) in (0..).map(EncodingIndex).zip(&track.encodings) {
        if let Some(clock) = &encoding.clock {
            push_clock((index, encoding.run), clock, sink, relay);
        }
    }
    push_layers(track, sink, relay);
}

/// The description of a local track has changed: packets from now on are to be read by the new one.
pub fn relay_description(track: &mut Track, relay: &mut RelayOutput) {
    track.version = relay.name_version();
    for served in &track.sinks {
        announce(track, served.sink, relay);
    }
}

/// Other encodings of a local track flow than before.
pub fn relay_flow(track: &Track, relay: &mut RelayOutput) {
    for Served { sink, .. } in &track.sinks {
        let message = RelayMessage::Flow {
            want: sink.want,
            flowing: track.flowing(),
        };
        relay.push(sink.shard, message);
    }
}

/// An encoding of a local track has a new clock. All shards that want the track are told: it is what they switch
/// to another encoding by.
pub fn relay_clock(track: &Track, index: EncodingIndex, output: &mut Output) {
    if let Some(encoding) = track.encoding(index)
        && let Some(clock) = &encoding.clock
    {
        for served in &track.sinks {
            let of = (index, encoding.run);
            push_clock(of, clock, served.sink, &mut output.relay);
        }
    }
}

fn push_clock(
    (encoding, run): (EncodingIndex, u64),
    clock: &TrackClock,
    sink: Sink,
    relay: &mut RelayOutput,
) {
    let (ntp, rtp_time, received) = clock.report();
    let message = RelayMessage::Clock {
        want: sink.want,
        encoding,
        clock: RelayedClock {
            run,
            ntp,
            rtp_time,
            received,
        },
    };
    relay.push(sink.shard, message);
}

/// Tells a shard what a track has to offer.
pub fn push_layers(track: &Track, sink: Sink, relay: &mut RelayOutput) {
    if track.supply.is_known() {
        let message = RelayMessage::Layers {
            want: sink.want,
            layers: track.supply.layers().into(),
        };
        relay.push(sink.shard, message);
    }
}

/// A packet of a local track goes to the shards that have selected its encoding: once each, and without a copy.
#[cold]
pub fn relay_packet(
    now: Instant,
    track: &Track,
    index: EncodingIndex,
    header: &RtpHeader,
    (seq, timestamp): (SeqNo, RtpTime),
    packet: &Bytes,
    output: &mut Output,
) {
    let Some(encoding) = track.encoding(index) else {
        return;
    };
    let selects = |served: &&Served| served.selection.received.contains(index);
    for Served { sink, .. } in track.sinks.iter().filter(selects) {
        let relayed = RelayedPacket {
            want: sink.want,
            encoding: index,
            kind: track.config.kind,
            version: track.version,
            run: encoding.run,
            seq,
            timestamp,
            arrived: now,
            header: *header,
            packet: packet.clone(),
        };
        let message = RelayMessage::Packet(relayed);
        output.relay.push(sink.shard, message);
        output.counters.relay_packets_sent += 1;
    }
}

/// Tracks that may be waited for in one room: more than its peers publish, as a want may come before its track.
const WANTED_MAX: usize = 65_536;
