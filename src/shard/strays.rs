//! Datagrams that reach the wrong shard, where all shards share one port.
//!
//! The kernel picks one of the port's sockets by source address and knows nothing of rooms. A check
//! names its shard in its ufrag (see [`crate::base::ufrag`]). For everything else each shard knows
//! which addresses are another's: an owner *claims* an address to all others when a check with the
//! peer's password has validated it, again at every later check, and gives it up when the peer lets go of it.
//! Only an owner's word counts, never a datagram's: a forged check can claim nothing. A claim that was
//! lost on the way is repeated with the peer's next check, some seconds later.
//!
//! Knows neither queues nor sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::ids::{PeerKey, ShardId};
use crate::base::ufrag::shard_named_by;
use crate::wire::rtp::PacketKind;
use crate::wire::stun::peek_local_ufrag;

/// What an owner tells the other shards of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The (canonical) address.
    pub address: SocketAddr,
    /// The shard that says so.
    pub owner: ShardId,
    /// The owner's peer.
    pub peer: PeerKey,
    /// What it says.
    pub kind: ClaimKind,
}

/// What a [`Claim`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// The address is the owner's since now.
    Taken,
    /// The address is still the owner's.
    Kept,
    /// The address is nobody's any more.
    GivenUp,
}

/// Where a datagram belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sorted {
    /// Here.
    Mine,
    /// On another shard.
    Of(ShardId),
    /// A check that names a shard which does not exist: dropped.
    UnknownShard,
    /// A check that would take an address from a live peer of another shard: dropped.
    AddressTaken,
}

/// One shard's knowledge of what is the others'.
#[derive(Debug)]
pub struct Strays {
    me: ShardId,
    shards: u16,
    claimed: HashMap<SocketAddr, Claimed>,
    /// Oldest first, at most [`ADDRESSES_MAX`] for each peer.
    by_peer: HashMap<PeerKey, Vec<SocketAddr>>,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Claimed {
    owner: ShardId,
    peer: PeerKey,
    at: Instant,
}

impl Strays {
    /// Knows of no claim yet. There are `shards` shards in all.
    #[must_use]
    pub fn new(me: ShardId, shards: u16) -> Self {
        Self {
            me,
            shards,
            claimed: HashMap::new(),
            by_peer: HashMap::new(),
            next_sweep: None,
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn me(&self) -> ShardId {
        self.me
    }

    /// Where a datagram from a (canonical) address belongs. `is_live_here` says whether a peer of this
    /// shard is sent to at that address; it is asked for checks that name another shard only.
    pub fn sort(
        &self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        is_live_here: impl FnOnce() -> bool,
    ) -> Sorted {
        let claimed = self.claimed.get(&from);
        let age = |c: &Claimed| now.saturating_duration_since(c.at);
        if PacketKind::of(datagram) != PacketKind::Stun {
            let claimed = claimed.filter(|c| age(c) < CLAIM_LIFETIME);
            return claimed.map_or(Sorted::Mine, |c| Sorted::Of(c.owner));
        }
        // What names nobody is counted here as what it is.
        let Some(named) = peek_local_ufrag(datagram).and_then(shard_named_by) else {
            return Sorted::Mine;
        };
        if named.0 >= self.shards {
            return Sorted::UnknownShard;
        }
        if claimed.is_some_and(|c| c.owner != named && age(c) < CLAIM_FRESH) {
            return Sorted::AddressTaken;
        }
        if named == self.me {
            Sorted::Mine
        } else if is_live_here() {
            Sorted::AddressTaken
        } else {
            Sorted::Of(named)
        }
    }

    /// Whether another shard claims an address, and did so lately.
    #[must_use]
    pub fn is_claimed(&self, now: Instant, address: SocketAddr) -> bool {
        let claimed = self.claimed.get(&address);
        claimed.is_some_and(|c| now.saturating_duration_since(c.at) < CLAIM_FRESH)
    }

    /// Takes another shard's claim. Says whether it stands; it does not against a fresher one of a third
    /// shard, or when there are as many as there may be.
    pub fn on_claim(&mut self, now: Instant, claim: &Claim) -> bool {
        self.sweep(now);
        let known = self.claimed.get(&claim.address);
        let is_known = known.is_some();
        if claim.kind == ClaimKind::GivenUp {
            if known.is_some_and(|known| known.peer == claim.peer) {
                self.forget(claim.address);
            }
            return true;
        }
        let is_contested = known.is_some_and(|known| {
            known.owner != claim.owner && now.saturating_duration_since(known.at) < CLAIM_FRESH
        });
        if is_contested || (!is_known && self.claimed.len() >= CLAIMS_MAX) {
            return false;
        }
        if known.is_none_or(|known| known.peer != claim.peer) {
            self.forget(claim.address);
            let held = self.by_peer.entry(claim.peer).or_default();
            held.push(claim.address);
            if held.len() > ADDRESSES_MAX {
                let oldest = held.remove(0);
                self.claimed.remove(&oldest);
            }
        }
        let claimed = Claimed {
            owner: claim.owner,
            peer: claim.peer,
            at: now,
        };
        self.claimed.insert(claim.address, claimed);
        true
    }

    /// Drops what is known of an address: it is this shard's now, or nobody's.
    pub fn forget(&mut self, address: SocketAddr) {
        let Some(Claimed { peer, .. }) = self.claimed.remove(&address) else {
            return;
        };
        if let Some(held) = self.by_peer.get_mut(&peer) {
            held.retain(|other| *other != address);
            if held.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// How many addresses are known to be another shard's.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claimed.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claimed.is_empty()
    }

    /// Forgets what was not claimed again, at most once in [`SWEEP_PERIOD`].
    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|due| now < due) {
            return;
        }
        self.next_sweep = Some(now + SWEEP_PERIOD);
        let is_live = |c: &Claimed| now.saturating_duration_since(c.at) < CLAIM_LIFETIME;
        self.claimed.retain(|_, claimed| is_live(claimed));
        let claimed = &self.claimed;
        self.by_peer.retain(|_, held| {
            held.retain(|address| claimed.contains_key(address));
            !held.is_empty()
        });
    }
}

/// How long a claim stands unless it is repeated. Checks come every 5 s or so (RFC 7675 §5.1), and
/// after 30 s without one the peer is not sent to any more.
pub const CLAIM_LIFETIME: Duration = Duration::from_secs(35);
/// How long a claim keeps every other shard from taking the address: two checks may be lost.
const CLAIM_FRESH: Duration = Duration::from_secs(15);
const SWEEP_PERIOD: Duration = Duration::from_secs(10);
/// Addresses claimed by others at most; one more is refused, and its media finds no way here until
/// another has expired. 16 for each of 4096 connections.
const CLAIMS_MAX: usize = 65_536;
/// Addresses of one peer at most, the oldest goes: as many as its own shard's routes hold.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ufrag::mark_of;

    const ME: ShardId = ShardId(1);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn claim(port: u16, owner: u16, peer: u64, kind: ClaimKind) -> Claim {
        Claim {
            address: address(port),
            owner: ShardId(owner),
            peer: PeerKey(peer),
            kind,
        }
    }

    /// A Binding request with a USERNAME and nothing else.
    fn check(local: &str) -> Vec<u8> {
        let username = format!("{local}:remote");
        let mut datagram = vec![0; 20];
        datagram[1] = 1;
        datagram.extend([0, 6, 0, username.len() as u8]);
        datagram.extend(username.bytes());
        datagram
    }

    fn to_shard(shard: u16) -> Vec<u8> {
        check(&format!("{}abc", mark_of(ShardId(shard))))
    }

    const MEDIA: &[u8] = &[128, 96, 0, 1];

    #[test]
    fn checks_go_where_they_say_and_only_to_shards_that_exist() {
        let strays = Strays::new(ME, 3);
        let now = Instant::now();
        let cases = [
            (to_shard(0), Sorted::Of(ShardId(0))),
            (to_shard(1), Sorted::Mine),
            (to_shard(2), Sorted::Of(ShardId(2))),
            (to_shard(3), Sorted::UnknownShard),
            (to_shard(63), Sorted::UnknownShard),
            (check("-x"), Sorted::Mine),
            (check(""), Sorted::Mine),
            (vec![0, 1], Sorted::Mine),
            (vec![], Sorted::Mine),
            (MEDIA.to_vec(), Sorted::Mine),
        ];
        for (datagram, expected) in cases {
            let sorted = strays.sort(now, address(1), &datagram, || false);
            assert_eq!(sorted, expected, "{datagram:?}");
        }
        let taken = strays.sort(now, address(1), &to_shard(0), || true);
        assert_eq!(taken, Sorted::AddressTaken);
    }

    #[test]
    fn media_follows_the_claim_until_it_is_given_up_or_forgotten() {
        let mut strays = Strays::new(ME, 3);
        let zero = Instant::now();
        let media = |strays: &Strays, now| strays.sort(now, address(1), MEDIA, || false);
        assert!(strays.on_claim(zero, &claim(1, 2, 7, ClaimKind::Taken)));
        assert_eq!(media(&strays, zero), Sorted::Of(ShardId(2)));
        // A former holder of the address cannot give it up.
        strays.on_claim(zero, &claim(1, 0, 6, ClaimKind::GivenUp));
        assert_eq!(media(&strays, zero), Sorted::Of(ShardId(2)));
        let later = zero + CLAIM_LIFETIME - Duration::from_secs(1);
        assert_eq!(media(&strays, later), Sorted::Of(ShardId(2)));
        assert!(strays.on_claim(later, &claim(1, 2, 7, ClaimKind::Kept)));
        assert_eq!(
            media(&strays, zero + CLAIM_LIFETIME),
            Sorted::Of(ShardId(2))
        );
        assert_eq!(media(&strays, later + CLAIM_LIFETIME), Sorted::Mine);
        strays.on_claim(later, &claim(1, 2, 7, ClaimKind::GivenUp));
        assert_eq!(media(&strays, later), Sorted::Mine);
        assert!(strays.is_empty() && strays.by_peer.is_empty());
    }

    #[test]
    fn a_live_peers_address_cannot_be_taken_from_another_shard() {
        let mut strays = Strays::new(ME, 3);
        let zero = Instant::now();
        strays.on_claim(zero, &claim(1, 2, 7, ClaimKind::Taken));
        for thief in [0, 1] {
            let sorted = strays.sort(zero, address(1), &to_shard(thief), || false);
            assert_eq!(sorted, Sorted::AddressTaken);
        }
        let own = strays.sort(zero, address(1), &to_shard(2), || false);
        assert_eq!(own, Sorted::Of(ShardId(2)));
        assert!(!strays.on_claim(zero, &claim(1, 0, 8, ClaimKind::Taken)));
        // Once the holder is not heard any more, the address is free.
        let later = zero + CLAIM_FRESH;
        let sorted = strays.sort(later, address(1), &to_shard(0), || false);
        assert_eq!(sorted, Sorted::Of(ShardId(0)));
        assert!(strays.on_claim(later, &claim(1, 0, 8, ClaimKind::Taken)));
        let media = strays.sort(later, address(1), MEDIA, || false);
        assert_eq!(media, Sorted::Of(ShardId(0)));
        assert!(!strays.by_peer.contains_key(&PeerKey(7)));
    }

    #[test]
    fn what_one_peer_claims_is_bounded_and_what_is_old_goes() {
        let mut strays = Strays::new(ME, 3);
        let zero = Instant::now();
        for port in 0..100 {
            strays.on_claim(zero, &claim(port, 2, 7, ClaimKind::Taken));
        }
        assert_eq!(strays.len(), ADDRESSES_MAX);
        let newest = strays.sort(zero, address(99), MEDIA, || false);
        assert_eq!(newest, Sorted::Of(ShardId(2)));
        strays.on_claim(zero + CLAIM_LIFETIME, &claim(500, 0, 9, ClaimKind::Taken));
        assert_eq!((strays.len(), strays.by_peer.len()), (1, 1));
        strays.forget(address(500));
        assert!(strays.is_empty() && strays.by_peer.is_empty());
    }

    #[test]
    fn claims_are_bounded() {
        let mut strays = Strays::new(ME, 3);
        let zero = Instant::now();
        for peer in 0..CLAIMS_MAX as u64 {
            let mut claim = claim(0, 2, peer, ClaimKind::Taken);
            claim.address = SocketAddr::from(([10, (peer >> 8) as u8, peer as u8, 1], 9));
            assert!(strays.on_claim(zero, &claim));
        }
        assert!(!strays.on_claim(zero, &claim(1, 2, 1 << 40, ClaimKind::Taken)));
        assert_eq!(strays.len(), CLAIMS_MAX);
    }
}
