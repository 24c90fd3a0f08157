//! Listens to a room: takes the loudness that packets tell, asks once in a tick who speaks, and tells the peers, the
//! other shards of the room, and who holds streams back.
//!
//! Each shard hears its own publishers only. It reports to the shards that want sound of them, and so each of these
//! knows of everybody whom its own peers can hear.

use std::sync::Arc;
use std::time::Instant;

use crate::base::ids::{MediaKind, SeqNo, ShardId, TrackKey};
use crate::control::RoomOptions;
use crate::control::relay::{RelayMessage, RelayedVoice, RelayedVoices};
use crate::media::hearing::{Loudness, TICK};
use crate::media::loudest::Heard;
use crate::media::speakers::{Turn, VoiceReport};
use crate::room::encoding::Tip;
use crate::room::origin::Origin;
use crate::room::output::Output;
use crate::room::slots::{PeerSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::track::Track;
use crate::wire::audio_level::AudioLevel;
use crate::wire::extension::Extension;
use crate::wire::rtp::RtpHeader;

// --- for each packet -----------------------------------------------------------------------------

/// Hears a packet of a local audio track. False if the packet goes to nobody, because other streams are louder.
#[inline]
pub fn hear(track: &mut Track, header: &RtpHeader, packet: &[u8], output: &mut Output) -> bool {
    let id = track.config.extensions.id(Extension::AudioLevel);
    let level = id.and_then(|id| {
        let mut extensions = header.extensions(packet);
        let (_, value) = extensions.find(|(other, _)| *other == id)?;
        AudioLevel::parse(value)
    });
    track.hearing.on_packet(level);
    output.counters.audio_held_back += u64::from(track.is_held_back);
    !track.is_held_back
}

impl Room {
    /// What holds for this room.
    pub fn set_options(&mut self, options: RoomOptions) {
        self.floor.set_options(options);
    }

    /// What comes next of a stream follows on what went out last, although packets are missing: it was held back.
    pub(in crate::room) fn close_gap(&mut self, slot: TrackSlot) {
        let subscriptions = self.tracks.get(slot).map(|track| &track.subscriptions);
        for subscription in subscriptions.into_iter().flatten() {
            if let Some(subscription) = self.subscriptions.get_mut(*subscription) {
                subscription.pause();
            }
        }
    }

    // --- for each tick ---------------------------------------------------------------------------

    /// When [`Room::handle_floor_timeout`] is next due.
    #[must_use]
    pub fn poll_floor_timeout(&self) -> Option<Instant> {
        self.floor.tick_at
    }

    /// A tick may be over.
    pub fn handle_floor_timeout(&mut self, now: Instant, output: &mut Output) {
        if self.floor.tick_at.is_none_or(|at| now < at) {
            return;
        }
        let heard = self.take_heard();
        let is_idle = heard.is_empty() && self.floor.speakers.is_quiet();
        let turn = self.floor.speakers.on_tick(heard);
        output.counters.speaker_switches += u64::from(turn.dominant);
        self.hold_back();
        if turn.order {
            self.floor.rank();
        }
        if turn.order || self.floor.is_behind {
            self.review_last_n(now, output);
        }
        self.urge_comebacks(now, output);
        self.report_voices(turn, output);
        if let Some(news) = self.floor.take_news(now, self.peers.len()) {
            let connected = self.peers.iter().filter(|(_, peer)| peer.routed.is_some());
            let told = connected.map(|(_, peer)| (peer.key, Arc::clone(&news)));
            output.speakers.extend(told);
        }
        let floor = &mut self.floor;
        let waits = floor.is_telling(now) || floor.is_behind || !floor.coming_back.is_empty();
        floor.idle_ticks = match is_idle && !waits {
            true => floor.idle_ticks + 1,
            false => 0,
        };
        // The rhythm is kept, but what was missed is not made up for.
        let next = floor
            .tick_at
            .map_or(now, |at| at + TICK)
            .max(now + TICK / 2);
        floor.tick_at = (floor.idle_ticks < IDLE_TICKS).then_some(next);
    }

    /// A track is new or described anew: if it is sound, it is listened to.
    pub(in crate::room) fn note_sound(&mut self, slot: TrackSlot) {
        if let Some(track) = self.tracks.get(slot)
            && track.config.kind == MediaKind::Audio
            && self.sounds.iter().all(|(_, other)| *other != slot)
        {
            self.sounds.push((track.config.key, slot));
        }
    }

    /// What the packets of sound said since the last tick.
    fn take_heard(&mut self) -> Vec<(TrackKey, Loudness)> {
        let mut heard = Vec::new();
        for (key, slot) in &self.sounds {
            if let Some(track) = self.tracks.get_mut(*slot)
                && track.config.kind == MediaKind::Audio
                && let Some(loudness) = track.hearing.take()
            {
                heard.push((*key, loudness));
            }
        }
        heard
    }

    /// Lets the loudest streams through and holds the others back, if there is a limit. What does not say how loud it
    /// is goes through.
    fn hold_back(&mut self) {
        let Some(mut loudest) = self.floor.loudest.take() else {
            return;
        };
        let speakers = &self.floor.speakers;
        let heard = |stream| {
            let (speaks, loudness) = speakers.voice(stream);
            Heard {
                stream,
                speaks,
                loudness,
            }
        };
        let audible = |slot: &TrackSlot| {
            let track = self.tracks.get(*slot);
            track.is_some_and(|track| is_heard_here(track) && !is_deaf(track))
        };
        let local = self.sounds.iter().filter(|(_, slot)| audible(slot));
        let mut all: Vec<_> = local
            .map(|(key, _)| *key)
            .chain(speakers.reported())
            .map(heard)
            .collect();
        all.sort_unstable_by_key(|heard| heard.stream);
        all.dedup_by_key(|heard| heard.stream);
        loudest.on_tick(&all);
        self.floor.loudest = Some(loudest);
        let mut held = Vec::new();
        for (key, slot) in &self.sounds {
            let Some(track) = self.tracks.get_mut(*slot) else {
                continue;
            };
            let holds = is_heard_here(track) && !is_deaf(track) && !self.floor.lets_through(*key);
            if std::mem::replace(&mut track.is_held_back, holds) != holds && holds {
                held.push(*slot);
            }
        }
        for slot in held {
            self.close_gap(slot);
        }
    }

    // --- for others ------------------------------------------------------------------------------

    /// Tells a peer that can be reached from now on.
    pub(in crate::room) fn tell_speakers(&self, slot: PeerSlot, output: &mut Output) {
        if let Some(peer) = self.peers.get(slot)
            && let Some(told) = self.floor.told()
        {
            output.speakers.push_back((peer.key, Arc::clone(told)));
        }
    }

    /// Tells the shards that want sound of here who speaks here: every second tick while anybody does, and once more
    /// when nobody does any longer.
    fn report_voices(&mut self, turn: Turn, output: &mut Output) {
        self.floor.is_report_due ^= true;
        if !self.floor.is_report_due && !turn.dominant {
            return;
        }
        let mut shards: Vec<ShardId> = Vec::new();
        for (_, slot) in &self.sounds {
            if let Some(track) = self.tracks.get(*slot)
                && is_heard_here(track)
            {
                shards.extend(sink_shards(track));
            }
        }
        if shards.is_empty() {
            return;
        }
        shards.sort_unstable();
        shards.dedup();
        let speakers = &self.floor.speakers;
        let mut reports: Vec<_> = speakers.reports().collect();
        let (has_reports, had) = (!reports.is_empty(), self.floor.has_reported);
        self.floor.has_reported = has_reports;
        if !has_reports && !had {
            return;
        }
        reports.sort_by_key(|(_, report)| std::cmp::Reverse((report.spoken, report.loudness)));
        reports.truncate(RelayedVoices::MAX);
        let voices = RelayedVoices {
            dominant: speakers.dominant(),
            voices: reports.into_iter().map(relayed).collect(),
        };
        for shard in shards {
            let message = RelayMessage::Voices {
                room: self.id.clone(),
                voices: Box::new(voices.clone()),
            };
            output.relay.push(shard, message);
        }
    }

    /// What another shard hears.
    pub fn handle_voices(
        &mut self,
        now: Instant,
        from: ShardId,
        voices: &RelayedVoices,
        output: &mut Output,
    ) {
        for voice in &voices.voices {
            // Of its own publishers this shard knows better.
            if self.is_local(voice.track) {
                continue;
            }
            let report = VoiceReport {
                spoken: voice.spoken,
                loudness: Loudness::below_overload(voice.level),
            };
            let forgotten = !self.floor.speakers.on_report(voice.track, report);
            output.counters.speakers_forgotten += u64::from(forgotten);
        }
        // So that all agree, the lowest shard decides among those that hear each other.
        let leads = match self.floor.leader {
            Some((leader, until)) => from <= leader || now >= until,
            None => true,
        };
        if from < self.shard && leads && self.is_heard_by(from) {
            self.floor.leader = Some((from, now + 10 * TICK));
            if let Some(dominant) = voices.dominant {
                self.floor.speakers.follow(dominant);
            }
        }
        self.floor.wake(now, &self.id, output);
    }

    fn is_local(&self, key: TrackKey) -> bool {
        let slot = self.tracks_by_key.get(&key);
        let track = slot.and_then(|slot| self.tracks.get(*slot));
        track.is_some_and(|track| matches!(track.origin, Origin::Local(_)))
    }

    fn is_heard_by(&self, shard: ShardId) -> bool {
        self.sounds.iter().any(|(_, slot)| {
            let track = self.tracks.get(*slot);
            track.is_some_and(|t| is_heard_here(t) && sink_shards(t).any(|s| s == shard))
        })
    }
}

fn relayed((track, report): (TrackKey, VoiceReport)) -> RelayedVoice {
    RelayedVoice {
        track,
        spoken: report.spoken,
        level: report.loudness.level(),
    }
}

/// Whether a relayed stream of sound was held back where it is published, until this packet.
#[inline]
pub fn is_held_gap(tip: Option<Tip>, seq: SeqNo) -> bool {
    tip.is_some_and(|tip| seq.0 > tip.seq.0 + AUDIO_GAP_MAX)
}

/// The shards that a track's packets go to.
fn sink_shards(track: &Track) -> impl Iterator<Item = ShardId> + '_ {
    track.sinks.iter().map(|served| served.sink.shard)
}

/// Whether it is sound of a peer of this shard.
fn is_heard_here(track: &Track) -> bool {
    track.config.kind == MediaKind::Audio && matches!(track.origin, Origin::Local(_))
}

/// Whether nobody can tell how loud it is.
fn is_deaf(track: &Track) -> bool {
    track.config.extensions.id(Extension::AudioLevel).is_none() || track.hearing.is_deaf()
}

/// After more missing packets in a row (half a second of the usual 20 ms) a relayed audio stream was held back, or
/// its repair is of no use any more.
const AUDIO_GAP_MAX: u64 = 25;
/// After so many ticks without sound (five seconds) nothing is listened to until there is some again.
const IDLE_TICKS: u32 = 50;
