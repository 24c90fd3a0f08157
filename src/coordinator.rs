//! The registry of rooms: which shards hold each, who is in it, and what changed.
//!
//! One [`Stripe`] holds the rooms whose names hash to it; the locks around the stripes live in `io`.
//! A stripe never sees media and sends nothing: each change returns the endpoints of the peers that
//! are to be told, and they ask with [`Stripe::changes_since`] what happened. Because what is told is
//! the room's own log, everybody learns the changes in the same order, however the telling races.

pub mod placement;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::base::ids::{PeerId, PeerKey, RoomId, ShardId};
use crate::control::{
    Change, Changes, JoinRefused, JoinRequest, PeerInfo, Revision, Roster, TrackInfo,
};

/// The rooms of one stripe. `E` is where a peer's session can be told that its room has changed.
#[derive(Debug)]
pub struct Stripe<E> {
    rooms: HashMap<RoomId, Room<E>>,
    limits: Limits,
}

/// How much a stripe takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most peers in one room; one more is refused.
    pub peers_per_room_max: usize,
}

/// A join that was let in.
#[derive(Debug)]
pub struct JoinOutcome<E> {
    /// The shard that is to hold the joiner.
    pub shard: ShardId,
    /// The room without the joiner.
    pub roster: Roster,
    /// The connection that had the same peer id, and its shard; it is out of the room already.
    pub replaced: Option<(PeerKey, ShardId, E)>,
    /// Everybody who is to look at the room's changes.
    pub notify: Vec<E>,
}

/// A leave that took place.
#[derive(Debug)]
pub struct LeaveOutcome<E> {
    /// The shard that held the peer.
    pub shard: ShardId,
    /// Whether the room went with it.
    pub room_ended: bool,
    /// Everybody who is to look at the room's changes.
    pub notify: Vec<E>,
}

/// A peer that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What its stay is called inside the server.
    pub key: PeerKey,
    /// The shard that holds it.
    pub shard: ShardId,
    /// What the others in its room publish.
    pub others: Vec<Arc<TrackInfo>>,
}

#[derive(Debug)]
struct Room<E> {
    revision: Revision,
    /// In the order in which they joined.
    peers: Vec<Member<E>>,
    /// The latest changes, each with the revision it led to and whose doing it was.
    log: VecDeque<(Revision, PeerKey, Change)>,
}

#[derive(Debug)]
struct Member<E> {
    key: PeerKey,
    info: Arc<PeerInfo>,
    tracks: Vec<Arc<TrackInfo>>,
    shard: ShardId,
    endpoint: E,
}

impl<E: Clone> Stripe<E> {
    /// A stripe without rooms.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            rooms: HashMap::new(),
            limits,
        }
    }

    /// Lets a peer into its room, which comes into being with its first peer. `place` names the peer's
    /// shard, knowing on which shards how many of the room's peers are (none for a new room), in the order
    /// in which the room came there. A live peer of the same id is put out first: the newer connection wins.
    ///
    /// # Errors
    /// [`JoinRefused::RoomFull`] by the limits, [`JoinRefused::TooManyRooms`] when `place` names
    /// no shard.
    pub fn join(
        &mut self,
        key: PeerKey,
        request: JoinRequest,
        endpoint: E,
        place: impl FnOnce(&[(ShardId, usize)]) -> Option<ShardId>,
    ) -> Result<JoinOutcome<E>, JoinRefused> {
        let peers_max = self.limits.peers_per_room_max;
        let known = self.rooms.get(&request.room);
        let twin = known.and_then(|room| room.position_of_id(&request.info.id));
        if twin.is_none() && known.is_some_and(|room| room.peers.len() >= peers_max) {
            return Err(JoinRefused::RoomFull);
        }
        let spread = known.map_or_else(Vec::new, |room| room.spread_without(twin));
        let shard = place(&spread).ok_or(JoinRefused::TooManyRooms)?;
        let room = self.rooms.entry(request.room).or_insert_with(Room::new);
        let replaced = twin.map(|index| {
            let former = room.remove(index);
            (former.key, former.shard, former.endpoint)
        });
        let roster = room.roster_without(key);
        let notify = room.endpoints_without(key);
        room.record(key, Change::PeerJoined(key, request.info.clone()));
        room.peers.push(Member {
            key,
            info: request.info,
            tracks: Vec::new(),
            shard,
            endpoint,
        });
        Ok(JoinOutcome {
            shard,
            // The joiner's own arrival is no news to it.
            roster: Roster {
                revision: room.revision,
                ..roster
            },
            replaced,
            notify,
        })
    }

    /// Takes a peer out of its room; the room goes with its last peer. `None`, and nothing changes,
    /// when the peer is not there (it was replaced).
    pub fn leave(&mut self, room_id: &RoomId, key: PeerKey) -> Option<LeaveOutcome<E>> {
        let room = self.rooms.get_mut(room_id)?;
        let index = room.position_of_key(key)?;
        let left = room.remove(index);
        let outcome = LeaveOutcome {
            shard: left.shard,
            room_ended: room.peers.is_empty(),
            notify: room.endpoints_without(key),
        };
        if outcome.room_ended {
            self.rooms.remove(room_id);
        }
        Some(outcome)
    }

    /// A peer by its name; `None` when it is not there.
    #[must_use]
    pub fn find(&self, room_id: &RoomId, peer: &PeerId) -> Option<Found> {
        let room = self.rooms.get(room_id)?;
        let member = &room.peers[room.position_of_id(peer)?];
        Some(Found {
            key: member.key,
            shard: member.shard,
            others: room.roster_without(member.key).tracks,
        })
    }

    /// Replaces the list of what a peer publishes and returns whom to tell. Tracks are told apart by
    /// their keys.
    pub fn set_tracks(
        &mut self,
        room_id: &RoomId,
        key: PeerKey,
        tracks: Vec<Arc<TrackInfo>>,
    ) -> Vec<E> {
        let Some(room) = self.rooms.get_mut(room_id) else {
            return Vec::new();
        };
        let Some(index) = room.position_of_key(key) else {
            return Vec::new();
        };
        let former = std::mem::replace(&mut room.peers[index].tracks, tracks.clone());
        let missing_in =
            |list: &[Arc<TrackInfo>], from: Vec<Arc<TrackInfo>>| -> Vec<Arc<TrackInfo>> {
                from.into_iter()
                    .filter(|track| !list.iter().any(|other| other.key == track.key))
                    .collect()
            };
        let published = missing_in(&former, tracks.clone());
        let ended = missing_in(&tracks, former);
        if published.is_empty() && ended.is_empty() {
            return Vec::new();
        }
        if !ended.is_empty() {
            room.record(key, Change::TracksUnpublished(ended));
        }
        if !published.is_empty() {
            room.record(key, Change::TracksPublished(published));
        }
        room.endpoints_without(key)
    }

    /// What others did in the room after `since`; `None` when the asking peer is not in it.
    #[must_use]
    pub fn changes_since(
        &self,
        room_id: &RoomId,
        key: PeerKey,
        since: Revision,
    ) -> Option<Changes> {
        let room = self.rooms.get(room_id)?;
        room.position_of_key(key)?;
        let oldest_known = room.log.front().map_or(room.revision.0 + 1, |c| c.0.0);
        if since.0 + 1 < oldest_known {
            return Some(Changes::Snapshot(room.roster_without(key)));
        }
        let changes = room
            .log
            .iter()
            .rev()
            .take_while(|(revision, ..)| *revision > since)
            .filter(|(_, by, _)| *by != key)
            .map(|(.., change)| change.clone());
        let mut changes: Vec<Change> = changes.collect();
        changes.reverse();
        Some(Changes::Log(room.revision, changes))
    }

    /// How many rooms there are, and how many peers in all of them.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let peers = self.rooms.values().map(|room| room.peers.len()).sum();
        (self.rooms.len(), peers)
    }
}

impl<E: Clone> Room<E> {
    fn new() -> Self {
        Self {
            revision: Revision::default(),
            peers: Vec::new(),
            log: VecDeque::new(),
        }
    }

    /// How many peers are on which shard, one of them not counted, in the order in which the room came there.
    fn spread_without(&self, leaving: Option<usize>) -> Vec<(ShardId, usize)> {
        let mut spread: Vec<(ShardId, usize)> = Vec::new();
        for (index, member) in self.peers.iter().enumerate() {
            let counts = usize::from(Some(index) != leaving);
            match spread.iter_mut().find(|(shard, _)| *shard == member.shard) {
                Some((_, peers)) => *peers += counts,
                None => spread.push((member.shard, counts)),
            }
        }
        spread
    }

    fn position_of_key(&self, key: PeerKey) -> Option<usize> {
        self.peers.iter().position(|member| member.key == key)
    }

    fn position_of_id(&self, id: &PeerId) -> Option<usize> {
        self.peers.iter().position(|member| member.info.id == *id)
    }

    fn remove(&mut self, index: usize) -> Member<E> {
        let mut member = self.peers.remove(index);
        let tracks = std::mem::take(&mut member.tracks);
        if !tracks.is_empty() {
            self.record(member.key, Change::TracksUnpublished(tracks));
        }
        self.record(
            member.key,
            Change::PeerLeft(member.key, member.info.id.clone()),
        );
        member
    }

    fn record(&mut self, by: PeerKey, change: Change) {
        self.revision.0 += 1;
        if self.log.len() == LOG_CHANGES_MAX {
            self.log.pop_front();
        }
        self.log.push_back((self.revision, by, change));
    }

    fn roster_without(&self, key: PeerKey) -> Roster {
        let others = || self.peers.iter().filter(|member| member.key != key);
        Roster {
            revision: self.revision,
            peers: others().map(|m| (m.key, m.info.clone())).collect(),
            tracks: others().flat_map(|m| m.tracks.iter().cloned()).collect(),
        }
    }

    fn endpoints_without(&self, key: PeerKey) -> Vec<E> {
        self.peers
            .iter()
            .filter(|member| member.key != key)
            .map(|member| member.endpoint.clone())
            .collect()
    }
}

/// Changes kept for those who are slow to ask; who is further behind gets the whole roster. Enough
/// for a room of some hundred peers to come and go while one session is descheduled.
const LOG_CHANGES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{MediaKind, TrackId, TrackKey};

    const LIMITS: Limits = Limits {
        peers_per_room_max: 3,
    };

    fn room(name: &str) -> RoomId {
        RoomId::new(name).unwrap()
    }

    fn join(stripe: &mut Stripe<u64>, key: u64, room_name: &str, id: &str) -> JoinOutcome<u64> {
        try_join(stripe, key, room_name, id).unwrap()
    }

    fn try_join(
        stripe: &mut Stripe<u64>,
        key: u64,
        room_name: &str,
        id: &str,
    ) -> Result<JoinOutcome<u64>, JoinRefused> {
        let info = PeerInfo {
            id: PeerId::new(id).unwrap(),
            name: None,
            metadata: None,
        };
        let request = JoinRequest {
            room: room(room_name),
            info: Arc::new(info),
        };
        // Two on the first shard, all others on the second.
        let place = |spread: &[(ShardId, usize)]| match spread.first() {
            _ if room_name == "nowhere" => None,
            Some((_, 2..)) => Some(ShardId(8)),
            Some(_) | None => Some(ShardId(7)),
        };
        stripe.join(PeerKey(key), request, key, place)
    }

    fn track(peer: u64, index: u32) -> Arc<TrackInfo> {
        Arc::new(TrackInfo {
            key: TrackKey {
                peer: PeerKey(peer),
                index,
            },
            peer: PeerId::new("p").unwrap(),
            id: TrackId::new(&format!("t{index}")).unwrap(),
            kind: MediaKind::Audio,
            shard: ShardId(7),
        })
    }

    fn log(stripe: &Stripe<u64>, key: u64, since: Revision) -> (Revision, Vec<Change>) {
        match stripe.changes_since(&room("r"), PeerKey(key), since) {
            Some(Changes::Log(revision, changes)) => (revision, changes),
            other => panic!("expected a log, got {other:?}"),
        }
    }

    #[test]
    fn a_joiner_gets_the_roster_and_the_others_get_the_news() {
        let mut stripe = Stripe::new(LIMITS);
        let first = join(&mut stripe, 1, "r", "ann");
        assert_eq!((first.shard, first.roster.peers.len()), (ShardId(7), 0));
        assert!(first.notify.is_empty());
        assert!(
            stripe
                .set_tracks(&room("r"), PeerKey(1), vec![track(1, 0)])
                .is_empty()
        );

        let second = join(&mut stripe, 2, "r", "bob");
        assert_eq!(second.notify, [1]);
        assert_eq!(second.roster.tracks, [track(1, 0)]);

        let (revision, changes) = log(&stripe, 1, first.roster.revision);
        assert!(matches!(&changes[..], [Change::PeerJoined(PeerKey(2), _)]));
        assert_eq!(log(&stripe, 1, revision).1, []);
        assert_eq!(log(&stripe, 2, second.roster.revision).1, []);
    }

    #[test]
    fn a_second_connection_of_the_same_id_replaces_the_first() {
        let mut stripe = Stripe::new(LIMITS);
        join(&mut stripe, 1, "r", "ann");
        let watcher = join(&mut stripe, 2, "r", "bob");
        stripe.set_tracks(&room("r"), PeerKey(1), vec![track(1, 0)]);
        let again = join(&mut stripe, 3, "r", "ann");
        assert_eq!(again.replaced, Some((PeerKey(1), ShardId(7), 1)));
        assert_eq!(again.notify, [2]);
        let (_, changes) = log(&stripe, 2, watcher.roster.revision);
        assert!(
            matches!(
                &changes[..],
                [
                    Change::TracksPublished(_),
                    Change::TracksUnpublished(_),
                    Change::PeerLeft(PeerKey(1), _),
                    Change::PeerJoined(PeerKey(3), _)
                ]
            ),
            "{changes:?}"
        );
        // The replaced connection can no longer change anything.
        assert!(stripe.leave(&room("r"), PeerKey(1)).is_none());
        assert!(
            stripe
                .set_tracks(&room("r"), PeerKey(1), vec![track(1, 1)])
                .is_empty()
        );
        assert!(
            stripe
                .changes_since(&room("r"), PeerKey(1), Revision(0))
                .is_none()
        );
        assert_eq!(stripe.size(), (1, 2));
    }

    #[test]
    fn rooms_go_with_their_last_peer() {
        let mut stripe = Stripe::new(LIMITS);
        join(&mut stripe, 1, "r", "ann");
        join(&mut stripe, 2, "r", "bob");
        let left = stripe.leave(&room("r"), PeerKey(1)).unwrap();
        assert_eq!((left.notify, left.room_ended), (vec![2], false));
        assert_eq!(stripe.size(), (1, 1));
        let left = stripe.leave(&room("r"), PeerKey(2)).unwrap();
        assert_eq!((left.notify, left.room_ended), (vec![], true));
        assert_eq!(stripe.size(), (0, 0));
    }

    #[test]
    fn peers_of_one_room_are_placed_one_by_one() {
        let mut stripe = Stripe::new(LIMITS);
        let shards = [(1, "ann"), (2, "bob"), (3, "cid")]
            .map(|(key, id)| join(&mut stripe, key, "r", id).shard);
        assert_eq!(shards, [ShardId(7), ShardId(7), ShardId(8)]);
        // Her former connection does not count any more.
        let again = join(&mut stripe, 4, "r", "ann");
        assert_eq!(again.shard, ShardId(7));
        let left = stripe.leave(&room("r"), PeerKey(3)).unwrap();
        assert_eq!(left.shard, ShardId(8));
    }

    #[test]
    fn limits_refuse_but_never_a_replacement() {
        let mut stripe = Stripe::new(LIMITS);
        for (key, id) in [(1, "a"), (2, "b"), (3, "c")] {
            join(&mut stripe, key, "r", id);
        }
        assert_eq!(
            try_join(&mut stripe, 4, "r", "d").unwrap_err(),
            JoinRefused::RoomFull
        );
        assert!(join(&mut stripe, 5, "r", "a").replaced.is_some());
        assert_eq!(
            try_join(&mut stripe, 7, "nowhere", "a").unwrap_err(),
            JoinRefused::TooManyRooms
        );
        assert_eq!(stripe.size(), (1, 3));
    }

    #[test]
    fn who_is_too_far_behind_gets_the_roster() {
        let mut stripe = Stripe::new(LIMITS);
        let watcher = join(&mut stripe, 1, "r", "ann");
        join(&mut stripe, 2, "r", "bob");
        for index in 0..LOG_CHANGES_MAX as u32 {
            let notified = stripe.set_tracks(&room("r"), PeerKey(2), vec![track(2, index)]);
            assert_eq!(notified, [1]);
        }
        let since = watcher.roster.revision;
        let Some(Changes::Snapshot(roster)) = stripe.changes_since(&room("r"), PeerKey(1), since)
        else {
            panic!("the log cannot reach back that far");
        };
        assert_eq!(roster.tracks, [track(2, LOG_CHANGES_MAX as u32 - 1)]);
        assert_eq!(log(&stripe, 1, roster.revision).1, []);
    }

    #[test]
    fn setting_the_same_tracks_again_is_no_news() {
        let mut stripe = Stripe::new(LIMITS);
        join(&mut stripe, 1, "r", "ann");
        join(&mut stripe, 2, "r", "bob");
        let tracks = vec![track(1, 0), track(1, 1)];
        assert_eq!(
            stripe.set_tracks(&room("r"), PeerKey(1), tracks.clone()),
            [2]
        );
        assert!(stripe.set_tracks(&room("r"), PeerKey(1), tracks).is_empty());
    }
}
