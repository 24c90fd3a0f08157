//! Which shard a joiner is put on.
//!
//! The policy: a room stays on one shard while that is cheap, because then nothing of it has to cross between
//! threads; it spills onto further shards by its size and by their load.
//!
//! 1. A new room starts on the shard with the fewest peers, if possible one that is not hot.
//! 2. A joiner goes to the first of its room's shards that has fewer than [`Policy::spill_peers`] peers of the room
//!    and is not hot ([`Policy::spill_load_percent`]).
//! 3. When all of them are full or hot, it goes to a shard that has nothing of the room yet and is not hot:
//!    the one with the fewest peers.
//! 4. When there is none, or only hot ones, it goes where the fewest peers of the room are: the room is everywhere
//!    by now, and its peers are spread evenly.
//!
//! Peers never move once they are placed: their transport lives on their shard's port.

use crate::base::ids::ShardId;

/// When a room spills onto another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Peers of one room on one shard, from which on the next goes elsewhere.
    pub spill_peers: usize,
    /// From this share of its time at work a shard is hot, in percent; above 100: never.
    pub spill_load_percent: u8,
}

/// A shard as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLoad {
    /// Which.
    pub shard: ShardId,
    /// Its peers, of all rooms.
    pub peers: usize,
    /// How much of its time it is at work, in percent.
    pub busy_percent: u8,
}

impl Policy {
    /// The shard for one more peer of a room that has `room` peers on each of some shards. `None` only
    /// if there are no shards.
    #[must_use]
    pub fn place(&self, room: &[(ShardId, usize)], shards: &[ShardLoad]) -> Option<ShardId> {
        let load = |shard: ShardId| shards.iter().find(|load| load.shard == shard);
        let is_cool = |load: &ShardLoad| load.busy_percent < self.spill_load_percent;
        let stays = room
            .iter()
            .find(|(shard, peers)| *peers < self.spill_peers && load(*shard).is_some_and(is_cool));
        if let Some((shard, _)) = stays {
            return Some(*shard);
        }
        let peers_here = |shard: ShardId| room.iter().find(|(s, _)| *s == shard).map_or(0, |r| r.1);
        let unused = shards.iter().filter(|load| peers_here(load.shard) == 0);
        let spills = unused
            .filter(|load| is_cool(load))
            .min_by_key(|load| load.peers);
        let spreads = || {
            shards
                .iter()
                .filter(|load| room.is_empty() || peers_here(load.shard) > 0 || is_cool(load))
                .min_by_key(|load| (peers_here(load.shard), load.busy_percent, load.peers))
        };
        spills.or_else(spreads).map(|load| load.shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        spill_peers: 3,
        spill_load_percent: 60,
    };

    /// Rooms are (shard, peers of the room), shards (peers, busy percent), counted from 0.
    fn place(room: &[(u16, usize)], shards: &[(usize, u8)]) -> Option<u16> {
        let room: Vec<_> = room.iter().map(|(s, n)| (ShardId(*s), *n)).collect();
        let shards: Vec<_> = (0..)
            .zip(shards)
            .map(|(index, (peers, busy_percent))| ShardLoad {
                shard: ShardId(index),
                peers: *peers,
                busy_percent: *busy_percent,
            })
            .collect();
        POLICY.place(&room, &shards).map(|shard| shard.0)
    }

    #[test]
    fn a_room_stays_while_it_is_cheap_and_spills_after_that() {
        type Case = (
            &'static [(u16, usize)],
            &'static [(usize, u8)],
            u16,
            &'static str,
        );
        let cases: [Case; 10] = [
            (&[], &[(5, 0), (4, 0)], 1, "starts where the fewest are"),
            (&[], &[(5, 10), (4, 60)], 0, "but not on a hot shard"),
            (&[], &[(5, 90), (4, 80)], 1, "unless all are"),
            (&[(0, 2)], &[(9, 59), (0, 0)], 0, "stays while it is small"),
            (&[(0, 3)], &[(9, 0), (5, 0), (4, 0)], 2, "spills by size"),
            (&[(0, 1)], &[(9, 60), (5, 0), (4, 61)], 1, "spills by load"),
            (&[(0, 3), (2, 1)], &[(9, 0), (0, 0), (9, 0)], 2, "fills up"),
            (
                &[(0, 4), (1, 3)],
                &[(9, 0), (50, 0)],
                1,
                "is spread evenly once it is everywhere",
            ),
            (
                &[(0, 4)],
                &[(9, 50), (0, 70)],
                0,
                "does not spill onto a hot shard",
            ),
            (
                &[(0, 4), (1, 4)],
                &[(9, 70), (9, 50)],
                1,
                "prefers the one with less to do",
            ),
        ];
        for (room, shards, expected, why) in cases {
            assert_eq!(place(room, shards), Some(expected), "{why}");
        }
        assert_eq!(place(&[], &[]), None);
    }

    #[test]
    fn a_big_room_ends_up_spread_evenly() {
        let mut counts = [0_usize; 3];
        for _ in 0..90 {
            let room: Vec<_> = (0..).zip(counts).filter(|(_, n)| *n > 0).collect();
            let at = place(&room, &counts.map(|n| (n, 0))).unwrap();
            counts[usize::from(at)] += 1;
        }
        assert_eq!(counts, [30, 30, 30]);
    }
}
