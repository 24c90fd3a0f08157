//! Who has the floor of a room: what this shard knows of who speaks, and what is made of that.
//!
//! Only data: `speakers` drives it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::ids::{PeerKey, RoomId, ShardId, TrackKey};
use crate::control::{ActiveSpeakers, RoomOptions, Speaker};
use crate::media::hearing::TICK;
use crate::media::loudest::Loudest;
use crate::media::speakers::Speakers;
use crate::room::output::Output;
use crate::room::slots::SubscriptionSlot;

/// Who speaks in a room, and what was told of it.
#[derive(Debug, Default)]
pub struct Floor {
    /// What holds for all rooms.
    pub options: RoomOptions,
    /// Those who speak, by their tracks.
    pub speakers: Speakers<TrackKey>,
    /// Which audio streams are forwarded, if not all are.
    pub loudest: Option<Loudest<TrackKey>>,
    /// When the next tick is over; `None` while nothing is heard.
    pub tick_at: Option<Instant>,
    /// For how many ticks nothing was heard, not even silence.
    pub idle_ticks: u32,
    /// The shard whose word on the dominant speaker counts, and until when.
    pub leader: Option<(ShardId, Instant)>,
    /// Whether other shards were told of somebody last time.
    pub has_reported: bool,
    /// Whether the others are told with this tick: every second one.
    pub is_report_due: bool,
    /// Pictures that come back with their next keyframe; each subscription is in here once.
    pub coming_back: Vec<ComingBack>,
    /// Counts the changes of who spoke when.
    pub order_version: u32,
    /// Some peers' pictures do not follow the last of them yet.
    pub is_behind: bool,
    /// What the peers were told last; `None` if nothing yet.
    told: Option<Arc<ActiveSpeakers>>,
    /// When they may be told again.
    tell_at: Option<Instant>,
    /// How recently each publisher spoke: the lower the later. Who never did has none.
    ranks: HashMap<PeerKey, u32>,
}

/// A subscription that was outside of last-n.
#[derive(Debug, Clone, Copy)]
pub struct ComingBack {
    /// Which.
    pub subscription: SubscriptionSlot,
    /// How often its keyframe is asked for yet.
    pub attempts_left: u8,
}

impl Floor {
    /// What holds from now on.
    pub fn set_options(&mut self, options: RoomOptions) {
        self.options = options;
        self.loudest = options.audio_streams_max.map(Loudest::new);
    }

    /// Something came that makes the next tick worth while.
    #[inline]
    pub fn wake(&mut self, now: Instant, room: &RoomId, output: &mut Output) {
        if self.tick_at.is_none() {
            self.tick_at = Some(now + TICK);
            self.idle_ticks = 0;
            output.floors.push(room.clone());
        }
    }

    /// What a peer that comes is told, if there is anything.
    pub fn told(&self) -> Option<&Arc<ActiveSpeakers>> {
        self.told.as_ref()
    }

    /// What all of `peers` peers are to be told now, if anything.
    pub fn take_news(&mut self, now: Instant, peers: usize) -> Option<Arc<ActiveSpeakers>> {
        if self.tell_at.is_some_and(|at| now < at) {
            return None;
        }
        let next = self.active();
        let names = |told: &ActiveSpeakers| -> Vec<PeerKey> {
            told.speakers.iter().map(|speaker| speaker.peer).collect()
        };
        let is_news = match &self.told {
            Some(told) => told.dominant != next.dominant || names(told) != names(&next),
            None => next.dominant.is_some() || !next.speakers.is_empty(),
        };
        if !is_news {
            return None;
        }
        let next = Arc::new(next);
        self.told = Some(Arc::clone(&next));
        let each = TELL_INTERVAL_PER_PEER.saturating_mul(u32::try_from(peers).unwrap_or(u32::MAX));
        self.tell_at = Some(now + TELL_INTERVAL + each);
        Some(next)
    }

    /// Whether something waits to be told.
    pub fn is_telling(&self, now: Instant) -> bool {
        self.tell_at.is_some_and(|at| now < at)
    }

    fn active(&self) -> ActiveSpeakers {
        let mut speakers: Vec<Speaker> = Vec::new();
        for (track, loudness) in self.speakers.talkers() {
            // One who talks on two tracks is one.
            if speakers.iter().any(|known| known.peer == track.peer) {
                continue;
            }
            if speakers.len() == ActiveSpeakers::MAX {
                break;
            }
            speakers.push(Speaker {
                peer: track.peer,
                level: loudness.level(),
            });
        }
        ActiveSpeakers {
            dominant: self.speakers.dominant().map(|track| track.peer),
            speakers,
        }
    }

    /// The order of the speakers has changed.
    pub fn rank(&mut self) {
        self.order_version = self.order_version.wrapping_add(1);
        self.ranks.clear();
        for (rank, track) in (0..).zip(self.speakers.order()) {
            self.ranks.entry(track.peer).or_insert(rank);
        }
    }

    /// How recently a publisher spoke: the lower the later.
    pub fn rank_of(&self, publisher: PeerKey) -> u32 {
        self.ranks.get(&publisher).copied().unwrap_or(u32::MAX)
    }

    /// Whether a stream goes on to those who want it.
    pub fn lets_through(&self, track: TrackKey) -> bool {
        let loudest = self.loudest.as_ref();
        loudest.is_none_or(|loudest| loudest.contains(track))
    }
}

/// The peers of a room are told of its speakers at most so often: often enough for a frame around a picture, seldom
/// enough not to flicker.
const TELL_INTERVAL: Duration = Duration::from_millis(400);
/// And so much less often for each peer that is told: a word to each of a thousand costs some 20 ms.
const TELL_INTERVAL_PER_PEER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::hearing::Loudness;

    fn track(peer: u64, index: u32) -> TrackKey {
        TrackKey {
            peer: PeerKey(peer),
            index,
        }
    }

    /// Lets these tracks speak for so many ticks.
    fn speak(floor: &mut Floor, ticks: u32, tracks: &[TrackKey]) {
        for _ in 0..ticks {
            let heard = tracks
                .iter()
                .map(|track| (*track, Loudness::below_overload(30)));
            floor.speakers.on_tick(heard);
        }
    }

    #[test]
    fn news_are_told_once_and_not_too_often() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut floor = Floor::default();
        assert_eq!(floor.take_news(at(0), 2), None, "nobody spoke yet");
        speak(&mut floor, 10, &[track(1, 0), track(1, 1)]);
        let news = floor.take_news(at(0), 2).unwrap();
        assert_eq!(news.dominant, Some(PeerKey(1)));
        let names: Vec<_> = news.speakers.iter().map(|s| (s.peer, s.level)).collect();
        assert_eq!(names, [(PeerKey(1), 30)], "two tracks, one peer");
        speak(&mut floor, 10, &[track(1, 0), track(2, 0)]);
        assert_eq!(floor.take_news(at(401), 2), None);
        assert!(floor.is_telling(at(401)));
        let news = floor.take_news(at(402), 2).unwrap();
        assert_eq!(news.speakers.len(), 2);
        assert_eq!(floor.take_news(at(5000), 2), None, "nothing new");
        speak(&mut floor, 40, &[]);
        let news = floor.take_news(at(5000), 1000).unwrap();
        assert_eq!((news.dominant, news.speakers.len()), (Some(PeerKey(1)), 0));
        assert!(
            floor.is_telling(at(6399)),
            "a thousand peers are told less often"
        );
        assert_eq!(floor.told(), Some(&news));
    }

    #[test]
    fn no_more_than_eight_are_named() {
        let mut floor = Floor::default();
        let tracks: Vec<_> = (0..50).map(|peer| track(peer, 0)).collect();
        speak(&mut floor, 10, &tracks);
        let news = floor.take_news(Instant::now(), 50).unwrap();
        assert_eq!(news.speakers.len(), ActiveSpeakers::MAX);
    }

    #[test]
    fn publishers_rank_by_who_spoke_last() {
        let mut floor = Floor::default();
        speak(&mut floor, 30, &[track(1, 0)]);
        speak(&mut floor, 30, &[track(2, 3)]);
        floor.rank();
        assert_eq!(
            [1, 2, 3].map(|peer| floor.rank_of(PeerKey(peer))),
            [1, 0, u32::MAX]
        );
    }
}
