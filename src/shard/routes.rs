//! From a datagram to its peer: by source address once a check has validated that, and by ufrag
//! for the checks themselves (RFC 8445 §7.3).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::ids::PeerKey;
use crate::base::slab::Slot;
use crate::room::Room;
use crate::room::slots::PeerSlot;

/// Where a peer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What it is called.
    pub key: PeerKey,
    /// Its room.
    pub room: Slot<Room>,
    /// Its place there.
    pub peer: PeerSlot,
}

/// The addresses and ufrags of all peers of a shard.
#[derive(Debug, Default)]
pub struct RouteTable {
    by_address: HashMap<SocketAddr, Route>,
    by_ufrag: HashMap<Arc<str>, Route>,
    /// What leads to each peer.
    held: HashMap<PeerKey, Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Oldest first, at most [`ADDRESSES_MAX`].
    addresses: Vec<SocketAddr>,
    ufrags: Vec<Arc<str>>,
}

/// IPv4 addresses as such, whatever kind of socket they came through, so that one source is one key.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl RouteTable {
    /// The peer that holds a (canonical) address.
    #[inline]
    #[must_use]
    pub fn at_address(&self, address: SocketAddr) -> Option<Route> {
        self.by_address.get(&address).copied()
    }

    /// The peer whose checks carry a ufrag.
    #[must_use]
    pub fn at_ufrag(&self, ufrag: &str) -> Option<Route> {
        self.by_ufrag.get(ufrag).copied()
    }

    /// A check validated an address for a peer, which holds it from now on. The oldest of too many
    /// is released. Returns whether the peer did not hold it before.
    pub fn hold_address(&mut self, address: SocketAddr, route: Route) -> bool {
        let former = self.by_address.insert(address, route);
        if former.is_some_and(|former| former.key == route.key) {
            return false;
        }
        if let Some(former) = former
            && let Some(held) = self.held.get_mut(&former.key)
        {
            held.addresses.retain(|other| *other != address);
        }
        let held = self.held.entry(route.key).or_default();
        held.addresses.push(address);
        if held.addresses.len() > ADDRESSES_MAX {
            let oldest = held.addresses.remove(0);
            self.by_address.remove(&oldest);
        }
        true
    }

    /// A peer does not use an address any more.
    pub fn release_address(&mut self, address: SocketAddr, key: PeerKey) {
        if let Some(held) = self.held.get_mut(&key)
            && let Some(at) = held.addresses.iter().position(|other| *other == address)
        {
            held.addresses.remove(at);
            self.by_address.remove(&address);
        }
    }

    /// Makes exactly `ufrags` lead to a peer. Returns how many are refused: another peer has them.
    pub fn hold_ufrags<'a>(
        &mut self,
        route: Route,
        ufrags: impl Iterator<Item = &'a Arc<str>>,
    ) -> u64 {
        let held = self.held.entry(route.key).or_default();
        for former in held.ufrags.drain(..) {
            self.by_ufrag.remove(&former);
        }
        let mut refused = 0;
        for ufrag in ufrags {
            if self.by_ufrag.contains_key(ufrag) {
                refused += 1;
            } else {
                self.by_ufrag.insert(ufrag.clone(), route);
                held.ufrags.push(ufrag.clone());
            }
        }
        refused
    }

    /// Forgets everything that leads to a peer. Returns the addresses that it held.
    pub fn remove(&mut self, key: PeerKey) -> Vec<SocketAddr> {
        let Some(held) = self.held.remove(&key) else {
            return Vec::new();
        };
        for address in &held.addresses {
            self.by_address.remove(address);
        }
        for ufrag in held.ufrags {
            self.by_ufrag.remove(&ufrag);
        }
        held.addresses
    }
}

/// Addresses of one peer: Wi-Fi and mobile with IPv4 and IPv6 are four, and some are on their way out.
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{RoomId, ShardId};
    use crate::base::slab::Slab;
    use crate::control::IceCredentials;
    use crate::transport::{DtlsIdentity, Transport};
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::time::Instant;

    fn routes() -> [Route; 2] {
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let ice = IceCredentials {
            ufrag: "ufrag".into(),
            pwd: "0123456789012345678901".into(),
        };
        let mut rng = StdRng::seed_from_u64(1);
        let mut room = Room::new(RoomId::new("room").unwrap(), ShardId(0));
        let peers = [PeerKey(0), PeerKey(1)].map(|key| {
            let transport = Transport::new(Instant::now(), identity.clone(), ice.clone());
            (key, room.add_peer(key, transport, &mut rng))
        });
        let room = Slab::new().insert(room);
        peers.map(|(key, peer)| Route { key, room, peer })
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn mapped_and_plain_ipv4_are_one_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), address(7));
        let six: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(canonical(six), six);
    }

    #[test]
    fn an_address_leads_to_who_held_it_last() {
        let [a, b] = routes();
        let mut table = RouteTable::default();
        table.hold_address(address(1), a);
        table.hold_address(address(1), b);
        table.release_address(address(1), a.key);
        assert_eq!(table.at_address(address(1)), Some(b), "not a's to release");
        table.remove(a.key);
        assert_eq!(table.at_address(address(1)), Some(b));
        table.remove(b.key);
        assert_eq!(table.at_address(address(1)), None);
    }

    #[test]
    fn addresses_are_bounded_and_the_oldest_goes() {
        let [a, _] = routes();
        let mut table = RouteTable::default();
        for port in 0..40 {
            table.hold_address(address(port), a);
            table.hold_address(address(port), a);
        }
        assert_eq!(table.by_address.len(), ADDRESSES_MAX);
        assert!(table.at_address(address(39)).is_some());
        assert!(table.at_address(address(23)).is_none());
    }

    #[test]
    fn ufrags_are_replaced_whole_and_never_taken_over() {
        let [a, b] = routes();
        let ufrags: Vec<Arc<str>> = vec!["one".into(), "two".into(), "three".into()];
        let mut table = RouteTable::default();
        assert_eq!(table.hold_ufrags(a, ufrags[..2].iter()), 0);
        assert_eq!(table.hold_ufrags(b, ufrags[1..].iter()), 1);
        assert_eq!(table.at_ufrag("two"), Some(a));
        assert_eq!(table.at_ufrag("three"), Some(b));
        table.hold_ufrags(a, ufrags[1..2].iter());
        assert_eq!(table.at_ufrag("one"), None);
        table.remove(a.key);
        assert_eq!(table.at_ufrag("two"), None);
        assert_eq!(table.at_ufrag("three"), Some(b));
    }
}
