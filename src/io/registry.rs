//! What all threads share: the coordinator's stripes behind their locks, and the way to each shard.
//!
//! A stripe's lock is held for map work only; peers are told after it is released. What they are
//! told is "look", so the order of telling does not matter (see [`crate::coordinator`]).

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::ids::{PeerId, PeerKey, RoomId, ShardId};
use crate::control::{
    Changes, Command, Event, JoinRefused, JoinRequest, Joined, Revision, TrackInfo,
};
use crate::coordinator::placement::{Policy, ShardLoad};
use crate::coordinator::{Limits, Stripe};
use crate::io::api::{Described, NoAnswer};
use crate::io::mailbox::Mailbox;
use crate::io::shard_metrics;
use crate::io::shard_thread::ShardHandle;
use crate::io::signaling_thread::Backend;

/// The registry of rooms and the handles of the shards that hold them.
#[derive(Debug)]
pub struct Registry {
    stripes: Box<[Mutex<Stripe<Arc<Mailbox>>>]>,
    hasher: RandomState,
    shards: Box<[ShardHandle]>,
    next_peer: AtomicU64,
    rooms: AtomicUsize,
    rooms_max: usize,
    policy: Policy,
    closing: AtomicBool,
    /// How many addresses the kernel steers, where shards share a port.
    steered: Option<Arc<AtomicUsize>>,
}

impl Registry {
    /// A registry without rooms over at least one shard.
    #[must_use]
    pub fn new(
        shards: Vec<ShardHandle>,
        rooms_max: usize,
        peers_per_room_max: usize,
        policy: Policy,
    ) -> Self {
        assert!(!shards.is_empty(), "there is at least one shard");
        let limits = Limits { peers_per_room_max };
        Self {
            stripes: (0..STRIPES)
                .map(|_| Mutex::new(Stripe::new(limits)))
                .collect(),
            hasher: RandomState::new(),
            shards: shards.into(),
            next_peer: AtomicU64::new(1),
            rooms: AtomicUsize::new(0),
            rooms_max,
            policy,
            closing: AtomicBool::new(false),
            steered: None,
        }
    }

    /// Has the metrics tell how many addresses are steered.
    #[must_use]
    pub fn with_steered(mut self, steered: Option<Arc<AtomicUsize>>) -> Self {
        self.steered = steered;
        self
    }

    /// Refuses every further join.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Lets the shards finish what is queued and end.
    pub fn stop_shards(&self) {
        for shard in &self.shards {
            shard.stop();
        }
    }

    fn stripe(&self, room: &RoomId) -> &Mutex<Stripe<Arc<Mailbox>>> {
        let hash = self.hasher.hash_one(room);
        &self.stripes[hash as usize % STRIPES]
    }

    fn shard(&self, shard: ShardId) -> &ShardHandle {
        &self.shards[usize::from(shard.0)]
    }

    /// The shard for one more peer of a room that is spread like that over shards; a new one (which is on none)
    /// only if one more room is allowed.
    fn place(&self, spread: &[(ShardId, usize)]) -> Option<ShardId> {
        if spread.is_empty() && self.rooms.fetch_add(1, Ordering::AcqRel) >= self.rooms_max {
            self.rooms.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let load = |shard: &ShardHandle| ShardLoad {
            shard: shard.id(),
            peers: shard.peers(),
            busy_percent: shard.busy_percent(),
        };
        let loads: Vec<ShardLoad> = self.shards.iter().map(load).collect();
        self.policy.place(spread, &loads)
    }
}

impl Backend for Registry {
    fn join(&self, request: JoinRequest, mailbox: Arc<Mailbox>) -> Result<Joined, JoinRefused> {
        if self.closing.load(Ordering::Acquire) {
            return Err(JoinRefused::ShuttingDown);
        }
        let key = PeerKey(self.next_peer.fetch_add(1, Ordering::Relaxed));
        let stripe = self.stripe(&request.room);
        let outcome = stripe
            .lock()
            .join(key, request, Arc::clone(&mailbox), |spread| {
                self.place(spread)
            })?;
        let shard = self.shard(outcome.shard);
        shard.attach(key, mailbox);
        if let Some((replaced, former, mailbox)) = outcome.replaced {
            self.shard(former).on_left();
            mailbox.post(Event::Replaced(replaced));
        }
        notify(&outcome.notify);
        Ok(Joined {
            key,
            shard: outcome.shard,
            addresses: shard.addresses(),
            roster: outcome.roster,
        })
    }

    fn leave(&self, room: &RoomId, peer: PeerKey) {
        let Some(outcome) = self.stripe(room).lock().leave(room, peer) else {
            return;
        };
        self.shard(outcome.shard).on_left();
        if outcome.room_ended {
            self.rooms.fetch_sub(1, Ordering::AcqRel);
        }
        notify(&outcome.notify);
    }

    fn set_tracks(&self, room: &RoomId, peer: PeerKey, tracks: Vec<Arc<TrackInfo>>) {
        let told = self.stripe(room).lock().set_tracks(room, peer, tracks);
        notify(&told);
    }

    fn changes_since(&self, room: &RoomId, peer: PeerKey, since: Revision) -> Option<Changes> {
        self.stripe(room).lock().changes_since(room, peer, since)
    }

    fn send(&self, shard: ShardId, command: Command) {
        self.shard(shard).send(command);
    }

    fn describe(&self, room: &RoomId, peer: &PeerId) -> Result<Described, NoAnswer> {
        let found = self.stripe(room).lock().find(room, peer);
        let found = found.ok_or(NoAnswer::NotFound)?;
        let peer = self.shard(found.shard).describe(found.key)?;
        let tracks = found.others;
        Ok(Described { peer, tracks })
    }

    fn metrics(&self) -> String {
        let peers: usize = self.shards.iter().map(ShardHandle::peers).sum();
        let rooms = self.rooms.load(Ordering::Acquire);
        let mut text = format!(
            "# TYPE shardcast_rooms gauge\nshardcast_rooms {rooms}\n\
             # TYPE shardcast_peers gauge\nshardcast_peers {peers}\n"
        );
        if let Some(steered) = &self.steered {
            let steered = steered.load(Ordering::Relaxed);
            let _ = writeln!(text, "# TYPE shardcast_steered_addresses gauge");
            let _ = writeln!(text, "shardcast_steered_addresses {steered}");
        }
        let per_shard: Vec<_> = self.shards.iter().map(|s| (s.id(), s.snapshot())).collect();
        text + &shard_metrics::render(&per_shard)
    }
}

fn notify(mailboxes: &[Arc<Mailbox>]) {
    for mailbox in mailboxes {
        mailbox.post(Event::RoomChanged);
    }
}

/// Locks the rooms are spread over: many more than cores, so that two joins seldom meet.
const STRIPES: usize = 64;
