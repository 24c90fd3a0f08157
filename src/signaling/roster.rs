//! The room as one session knows it, and what is new when the coordinator tells more.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::growth::push;
use crate::base::ids::{PeerId, PeerKey, TrackKey};
use crate::control::{Change, Changes, PeerInfo, Revision, Roster, TrackInfo};

/// One thing to tell the client.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A peer joined.
    PeerJoined(Arc<PeerInfo>),
    /// A peer left.
    PeerLeft(PeerId),
    /// A track was published.
    Published(Arc<TrackInfo>),
    /// A track ended.
    Unpublished(Arc<TrackInfo>),
}

/// Who is there and what they publish, as far as the client was told.
#[derive(Debug, Clone)]
pub struct KnownRoster {
    roster: Roster,
}

impl KnownRoster {
    /// As the joiner finds it.
    #[must_use]
    pub fn new(mut roster: Roster) -> Self {
        roster.peers.shrink_to_fit();
        roster.tracks.shrink_to_fit();
        Self { roster }
    }

    /// Up to which change it is known.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.roster.revision
    }

    /// The other peers.
    #[must_use]
    pub fn peers(&self) -> &[(PeerKey, Arc<PeerInfo>)] {
        &self.roster.peers
    }

    /// What a peer is called, if it is one of the others.
    #[must_use]
    pub fn peer_id(&self, key: PeerKey) -> Option<&PeerId> {
        let mut peers = self.roster.peers.iter();
        peers.find(|(k, _)| *k == key).map(|(_, info)| &info.id)
    }

    /// Their tracks.
    #[must_use]
    pub fn tracks(&self) -> &[Arc<TrackInfo>] {
        &self.roster.tracks
    }

    /// Takes changes over and returns what of them is new, in the order in which it happened. What is
    /// known already is passed over, and a peer's tracks end before it leaves, whatever was said.
    pub fn apply(&mut self, changes: Changes) -> Vec<News> {
        let mut news = Vec::new();
        match changes {
            Changes::Log(revision, changes) => {
                for change in changes {
                    self.apply_change(change, &mut news);
                }
                self.roster.revision = revision;
            }
            Changes::Snapshot(roster) => self.apply_snapshot(roster, &mut news),
        }
        news
    }

    fn apply_change(&mut self, change: Change, news: &mut Vec<News>) {
        match change {
            Change::PeerJoined(key, info) => self.add_peer(key, info, news),
            Change::PeerLeft(key, _) => self.remove_peers(|k| k == key, news),
            Change::TracksPublished(tracks) => {
                for track in tracks {
                    self.add_track(track, news);
                }
            }
            Change::TracksUnpublished(tracks) => {
                let gone: HashSet<TrackKey> = tracks.iter().map(|t| t.key).collect();
                self.remove_tracks(|key| gone.contains(&key), news);
            }
        }
    }

    fn apply_snapshot(&mut self, new: Roster, news: &mut Vec<News>) {
        let tracks: HashSet<TrackKey> = new.tracks.iter().map(|t| t.key).collect();
        self.remove_tracks(|key| !tracks.contains(&key), news);
        let peers: HashSet<PeerKey> = new.peers.iter().map(|(key, _)| *key).collect();
        self.remove_peers(|key| !peers.contains(&key), news);
        for (key, info) in new.peers {
            self.add_peer(key, info, news);
        }
        for track in new.tracks {
            self.add_track(track, news);
        }
        self.roster.revision = new.revision;
    }

    fn add_peer(&mut self, key: PeerKey, info: Arc<PeerInfo>, news: &mut Vec<News>) {
        if self.roster.peers.iter().all(|(known, _)| *known != key) {
            news.push(News::PeerJoined(Arc::clone(&info)));
            push(&mut self.roster.peers, (key, info));
        }
    }

    fn add_track(&mut self, track: Arc<TrackInfo>, news: &mut Vec<News>) {
        if self
            .roster
            .tracks
            .iter()
            .all(|known| known.key != track.key)
        {
            news.push(News::Published(Arc::clone(&track)));
            push(&mut self.roster.tracks, track);
        }
    }

    fn remove_tracks(&mut self, gone: impl Fn(TrackKey) -> bool, news: &mut Vec<News>) {
        self.roster.tracks.retain(|track| {
            let ends = gone(track.key);
            if ends {
                news.push(News::Unpublished(Arc::clone(track)));
            }
            !ends
        });
    }

    fn remove_peers(&mut self, gone: impl Fn(PeerKey) -> bool, news: &mut Vec<News>) {
        self.remove_tracks(|track| gone(track.peer), news);
        self.roster.peers.retain(|(key, info)| {
            let leaves = gone(*key);
            if leaves {
                news.push(News::PeerLeft(info.id.clone()));
            }
            !leaves
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{MediaKind, ShardId, TrackId};

    fn peer(key: u64) -> (PeerKey, Arc<PeerInfo>) {
        let id = PeerId::new(&format!("p{key}")).unwrap();
        let info = PeerInfo {
            id,
            name: None,
            metadata: None,
        };
        (PeerKey(key), Arc::new(info))
    }

    fn track(key: u64, index: u32) -> Arc<TrackInfo> {
        Arc::new(TrackInfo {
            key: TrackKey {
                peer: PeerKey(key),
                index,
            },
            peer: peer(key).1.id.clone(),
            id: TrackId::new(&format!("t{index}")).unwrap(),
            kind: MediaKind::Audio,
            shard: ShardId(0),
        })
    }

    fn known() -> KnownRoster {
        KnownRoster::new(Roster {
            revision: Revision(3),
            peers: vec![peer(1), peer(2)],
            tracks: vec![track(1, 0), track(2, 0)],
        })
    }

    #[test]
    fn a_log_is_told_in_order_and_only_once() {
        let mut roster = known();
        let (key, info) = peer(3);
        let news = roster.apply(Changes::Log(
            Revision(7),
            vec![
                Change::PeerJoined(PeerKey(1), peer(1).1),
                Change::PeerJoined(key, info.clone()),
                Change::TracksPublished(vec![track(3, 0), track(1, 0)]),
                Change::TracksUnpublished(vec![track(1, 0), track(1, 9)]),
                Change::PeerLeft(PeerKey(2), peer(2).1.id.clone()),
            ],
        ));
        assert_eq!(
            news,
            [
                News::PeerJoined(info),
                News::Published(track(3, 0)),
                News::Unpublished(track(1, 0)),
                News::Unpublished(track(2, 0)),
                News::PeerLeft(peer(2).1.id.clone()),
            ]
        );
        assert_eq!(roster.revision(), Revision(7));
        assert_eq!(roster.tracks(), [track(3, 0)]);
    }

    #[test]
    fn a_snapshot_is_told_as_the_difference() {
        let mut roster = known();
        // Peer 2 was replaced by a new connection with the same id.
        let (_, info) = peer(2);
        let news = roster.apply(Changes::Snapshot(Roster {
            revision: Revision(90),
            peers: vec![peer(1), (PeerKey(8), info.clone())],
            tracks: vec![track(1, 0), track(1, 1)],
        }));
        assert_eq!(
            news,
            [
                News::Unpublished(track(2, 0)),
                News::PeerLeft(info.id.clone()),
                News::PeerJoined(info),
                News::Published(track(1, 1)),
            ]
        );
        assert_eq!(roster.revision(), Revision(90));
    }
}
