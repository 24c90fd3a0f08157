//! Which peers of a room may share a bottleneck, because their addresses have one prefix, and which were seen to: the flow
//! groups of RFC 8699, found by the bursts of `fairness`.
//!
//! Knows of peers only where they are in the room.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::base::ids::Bitrate;
use crate::media::shared_bottleneck::{BurstStrength, Evidence};
use crate::room::slots::PeerSlot;

/// The peers of a room by the prefixes of their addresses.
#[derive(Debug, Default)]
pub struct Subnets(HashMap<Prefix, Subnet>);

/// Addresses that differ no more than those in one house or office do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 7]),
}

/// Peers whose addresses have one prefix.
#[derive(Debug, Default)]
pub struct Subnet {
    /// At most [`MEMBERS_MAX`]; who comes later is taken for alone.
    members: Vec<PeerSlot>,
    pairs: Vec<Pair>,
    /// The burst whose effect is awaited.
    pub burst: Option<Burst>,
}

#[derive(Debug)]
struct Pair {
    /// In order.
    of: [PeerSlot; 2],
    evidence: Evidence,
    strength: BurstStrength,
    /// When a burst of one was last looked for in the other's packets.
    burst_at: Instant,
    /// Whose that was.
    burst_by: PeerSlot,
    /// How often, while that is not known.
    tries: u32,
}

/// Another peer that may share the bottleneck of one, and why that would be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Which.
    pub peer: PeerSlot,
    /// Something follows from it.
    pub matters: bool,
    /// Somebody is to yield for that.
    pub decides: bool,
    /// The other one can look as well.
    pub takes_turns: bool,
}

/// A burst that one sent, and others are to be seen in.
#[derive(Debug)]
pub struct Burst {
    /// When.
    pub at: Instant,
    /// Who.
    pub by: PeerSlot,
    /// How fast.
    pub rate: Bitrate,
    /// Whose packets are watched.
    pub watched: Vec<PeerSlot>,
}

impl Prefix {
    fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            // A site has a /56 at most, commonly (RFC 6177).
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

impl Subnets {
    /// A peer is reached at another address, or not any more.
    pub fn on_moved(&mut self, peer: PeerSlot, from: Option<SocketAddr>, to: Option<SocketAddr>) {
        let (from, to) = (from.map(Prefix::of), to.map(Prefix::of));
        if from == to {
            return;
        }
        if let Some(prefix) = from
            && let Some(subnet) = self.0.get_mut(&prefix)
        {
            subnet.remove(peer);
            if subnet.members.is_empty() {
                self.0.remove(&prefix);
            }
        }
        if let Some(prefix) = to {
            let subnet = self.0.entry(prefix).or_default();
            if subnet.members.len() < MEMBERS_MAX {
                subnet.members.push(peer);
            }
        }
    }

    /// That of a peer at an address, if there are others in it.
    pub fn get(&self, address: SocketAddr) -> Option<&Subnet> {
        let subnet = self.0.get(&Prefix::of(address))?;
        (subnet.members.len() > 1).then_some(subnet)
    }

    /// As [`Subnets::get`].
    pub fn get_mut(&mut self, address: SocketAddr) -> Option<&mut Subnet> {
        let subnet = self.0.get_mut(&Prefix::of(address))?;
        (subnet.members.len() > 1).then_some(subnet)
    }
}

impl Subnet {
    /// Who else is in it.
    pub fn others(&self, peer: PeerSlot) -> impl Iterator<Item = PeerSlot> {
        let is_member = self.members.contains(&peer);
        let members = self.members.iter().copied();
        members.filter(move |other| is_member && *other != peer)
    }

    /// Those that share a peer's bottleneck: its flow group (RFC 8699), but for itself.
    pub fn flow_group(&self, peer: PeerSlot) -> impl Iterator<Item = PeerSlot> {
        let pairs = self.pairs.iter();
        pairs
            .filter(|pair| pair.evidence.is_shared())
            .filter_map(move |pair| match pair.of {
                [one, other] if one == peer => Some(other),
                [other, one] if one == peer => Some(other),
                _ => None,
            })
    }

    /// Whether `by` is to look (again) whether it shares with another one.
    pub fn is_due(&self, now: Instant, by: PeerSlot, candidate: Candidate) -> bool {
        let Candidate {
            peer: other,
            matters,
            decides,
            takes_turns,
        } = candidate;
        let of = ordered([by, other]);
        let Some(pair) = self.pairs.iter().find(|pair| pair.of == of) else {
            return matters;
        };
        let since = now.saturating_duration_since(pair.burst_at);
        let interval = match pair.evidence.is_settled() {
            // What cannot be found out is asked less and less often.
            false => (BURSTS_EVERY * (1 << (pair.tries / TRIES).min(8))).min(CONFIRMED_EVERY),
            true if decides && pair.evidence.is_shared() => DECIDED_EVERY,
            true => CONFIRMED_EVERY,
        };
        // One that has a narrower place of its own behind the shared one is seen to wait, and is not seen when it sends: so
        // both have their say.
        let is_others_turn = takes_turns && pair.burst_by == by;
        let interval = interval + TURN * u32::from(is_others_turn);
        (matters || pair.evidence.is_shared()) && since >= interval
    }

    /// How strong a burst of one is to be so that it is seen in the other's packets.
    pub fn strength(&self, peers: [PeerSlot; 2]) -> BurstStrength {
        let known = self.pairs.iter().find(|pair| pair.of == ordered(peers));
        known.map(|pair| pair.strength).unwrap_or_default()
    }

    /// While one sent a burst, its packets and those of `other` waited so long, as far as that is known.
    pub fn on_burst(&mut self, burst: &Burst, other: PeerSlot, waited: Option<[Duration; 2]>) {
        let (at, peers) = (burst.at, ordered([burst.by, other]));
        let known = self.pairs.iter().position(|pair| pair.of == peers);
        let index = known.unwrap_or_else(|| {
            self.pairs.push(Pair {
                of: peers,
                evidence: Evidence::default(),
                strength: BurstStrength::default(),
                burst_at: at,
                burst_by: burst.by,
                tries: 0,
            });
            self.pairs.len() - 1
        });
        let pair = &mut self.pairs[index];
        (pair.burst_at, pair.burst_by) = (at, burst.by);
        if let Some([own, other]) = waited {
            pair.strength.on_burst(burst.rate, own);
            pair.evidence.on_burst(own, other);
        }
        if pair.evidence.is_settled() && !pair.evidence.is_shared() {
            // The path of the one says nothing of what the other's takes.
            pair.strength = BurstStrength::default();
        }
        pair.tries = match pair.evidence.is_settled() {
            true => 0,
            false => pair.tries.saturating_add(1),
        };
    }

    fn remove(&mut self, peer: PeerSlot) {
        self.members.retain(|member| *member != peer);
        self.pairs.retain(|pair| !pair.of.contains(&peer));
        if let Some(burst) = &mut self.burst {
            burst.watched.retain(|watched| *watched != peer);
            if burst.by == peer {
                self.burst = None;
            }
        }
    }
}

fn ordered(mut peers: [PeerSlot; 2]) -> [PeerSlot; 2] {
    peers.sort_unstable();
    peers
}

/// More than share a line at home. Bounds what is kept for pairs of them.
const MEMBERS_MAX: usize = 16;
/// Bursts follow each other in this time at least: what one of a usual probe's length adds is some 20 kbit/s.
const BURSTS_EVERY: Duration = Duration::from_secs(2);
/// So much later than the other one, so that who can look does so first: bandwidth is divided twice a second.
const TURN: Duration = Duration::from_millis(400);
/// So many at that pace, half as many in twice the time, and so on.
const TRIES: u32 = 6;
/// What is known is looked at again; sooner while somebody gets less for it.
const DECIDED_EVERY: Duration = Duration::from_secs(8);
const CONFIRMED_EVERY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Slab;
    use crate::room::slots::OfPeers;

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 5000)
    }

    fn peers<const N: usize>() -> [PeerSlot; N] {
        let mut slab = Slab::<(), OfPeers>::new();
        std::array::from_fn(|_| slab.insert(()))
    }

    fn candidate(peer: PeerSlot, matters: bool, decides: bool) -> Candidate {
        Candidate {
            peer,
            matters,
            decides,
            takes_turns: false,
        }
    }

    #[test]
    fn who_has_one_prefix_is_in_one_subnet() {
        let table = [
            ("192.0.2.1", "192.0.2.200", true),
            ("192.0.2.1", "::ffff:192.0.2.9", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8:0:11::1", "2001:db8:0:1f::2", true),
            ("2001:db8:0:11::1", "2001:db8:0:111::2", false),
        ];
        for (one, other, is_near) in table {
            let [a, b] = peers();
            let mut subnets = Subnets::default();
            subnets.on_moved(a, None, Some(address(one)));
            assert!(subnets.get(address(one)).is_none(), "alone");
            subnets.on_moved(b, None, Some(address(other)));
            let others = subnets.get(address(one)).map(|h| h.others(a).collect());
            let expected = is_near.then(|| vec![b]);
            assert_eq!(others, expected, "{one} {other}");
            subnets.on_moved(a, Some(address(one)), None);
            subnets.on_moved(b, Some(address(other)), None);
            assert!(subnets.0.is_empty());
        }
    }

    #[test]
    fn what_is_known_of_a_peer_goes_with_it() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let at = address("192.0.2.1");
        let [a, b, c] = peers();
        let mut subnets = Subnets::default();
        for peer in [a, b, c] {
            subnets.on_moved(peer, None, Some(at));
        }
        let subnet = subnets.get_mut(at).unwrap();
        let rate = Bitrate(1_000_000);
        let burst = |at, by| Burst {
            at,
            by,
            rate,
            watched: vec![a, c],
        };
        for n in 0..3 {
            let then = now + BURSTS_EVERY * n;
            assert!(subnet.is_due(then, b, candidate(a, true, true)));
            assert!(!subnet.is_due(then, b, candidate(a, false, false)));
            subnet.on_burst(&burst(then, b), a, Some([ms(20), ms(20)]));
            subnet.on_burst(&burst(then, b), c, Some([ms(20), ms(0)]));
            subnet.on_burst(&burst(then, c), a, Some([ms(5), ms(0)]));
        }
        let flow_group = |subnet: &Subnet, of| subnet.flow_group(of).collect::<Vec<_>>();
        assert_eq!(flow_group(subnet, a), [b]);
        assert_eq!(flow_group(subnet, b), [a]);
        assert_eq!(flow_group(subnet, c), []);
        let strength = |subnet: &Subnet, peers| subnet.strength(peers).rate(rate);
        assert!(strength(subnet, [a, c]) > strength(subnet, [a, b]));
        let last = now + BURSTS_EVERY * 2;
        assert!(!subnet.is_due(last + BURSTS_EVERY, a, candidate(b, true, true)));
        assert!(subnet.is_due(last + DECIDED_EVERY, a, candidate(b, true, true)));
        assert!(!subnet.is_due(last + DECIDED_EVERY, b, candidate(c, true, true)));
        assert!(subnet.is_due(last + CONFIRMED_EVERY, a, candidate(b, false, false)));
        assert!(subnet.is_due(last + CONFIRMED_EVERY, b, candidate(c, true, false)));
        subnet.burst = Some(Burst {
            watched: vec![b, c],
            ..burst(last, a)
        });
        subnets.on_moved(b, Some(at), Some(address("198.51.100.1")));
        let subnet = subnets.get_mut(at).unwrap();
        assert_eq!(flow_group(subnet, a), []);
        assert_eq!(subnet.burst.as_ref().unwrap().watched, [c]);
        subnets.on_moved(c, Some(at), None);
        assert!(subnets.get(at).is_none());
    }

    #[test]
    fn what_cannot_be_found_out_is_asked_less_and_less_often() {
        let at = address("192.0.2.1");
        let [a, b] = peers();
        let mut subnets = Subnets::default();
        subnets.on_moved(a, None, Some(at));
        subnets.on_moved(b, None, Some(at));
        let subnet = subnets.get_mut(at).unwrap();
        let now = Instant::now();
        let mut bursts = 0;
        for second in 0..600 {
            let now = now + Duration::from_secs(second);
            if subnet.is_due(now, a, candidate(b, true, true)) {
                bursts += 1;
                let burst = Burst {
                    at: now,
                    by: a,
                    rate: Bitrate(1_000_000),
                    watched: vec![b],
                };
                subnet.on_burst(&burst, b, None);
            }
        }
        assert!((35..45).contains(&bursts), "{bursts}");
    }

    #[test]
    fn both_have_their_say() {
        let at = address("192.0.2.1");
        let [a, b] = peers();
        let mut subnets = Subnets::default();
        subnets.on_moved(a, None, Some(at));
        subnets.on_moved(b, None, Some(at));
        let subnet = subnets.get_mut(at).unwrap();
        let (rate, ms) = (Bitrate(1_000_000), Duration::from_millis);
        let mut now = Instant::now();
        let mut by_whom = Vec::new();
        // What one sends fills the place that both share; what the other one sends, a narrower one of its own.
        for _ in 0..80 {
            now += Duration::from_millis(500);
            for (by, other, waits) in [(a, b, 20), (b, a, 0)] {
                let candidate = Candidate {
                    takes_turns: true,
                    ..candidate(other, true, true)
                };
                if subnet.is_due(now, by, candidate) {
                    let burst = Burst {
                        at: now,
                        by,
                        rate,
                        watched: vec![other],
                    };
                    subnet.on_burst(&burst, other, Some([ms(20), ms(waits)]));
                    by_whom.push(by == a);
                }
            }
            assert_eq!(subnet.flow_group(a).count(), 0);
        }
        assert!(by_whom.len() >= 3, "{by_whom:?}");
        assert!(
            by_whom.windows(2).all(|two| two[0] != two[1]),
            "{by_whom:?}"
        );
    }

    #[test]
    fn a_subnet_is_bounded() {
        let at = address("192.0.2.1");
        let all: [PeerSlot; MEMBERS_MAX + 1] = peers();
        let mut subnets = Subnets::default();
        for peer in all {
            subnets.on_moved(peer, None, Some(at));
        }
        let subnet = subnets.get(at).unwrap();
        assert_eq!(subnet.others(all[0]).count(), MEMBERS_MAX - 1);
        assert_eq!(subnet.others(all[MEMBERS_MAX]).count(), 0);
    }
}
