//! The server's side of ICE in descriptions: credentials and host candidates (RFC 8839). The server
//! is ICE-lite: it gathers nothing but its own addresses and needs none of the client's.

use std::net::{IpAddr, SocketAddr};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::base::ids::ShardId;
use crate::base::ufrag::{ICE_CHARS, mark_of};
use crate::control::IceCredentials;

/// Fresh credentials: the mark of the peer's shard and 12 characters (72 bits) for the user fragment,
/// which tells peers of one port apart, and 32 (192 bits) for the password; RFC 8445 §5.3 asks for 24 and
/// 128 bits at least.
#[must_use]
pub fn credentials(shard: ShardId, rng: &mut StdRng) -> IceCredentials {
    let mut word = |len: usize| -> String {
        (0..len)
            .map(|_| char::from(ICE_CHARS[rng.random_range(0..ICE_CHARS.len())]))
            .collect()
    };
    IceCredentials {
        ufrag: format!("{}{}", mark_of(shard), word(UFRAG_CHARS)).into(),
        pwd: word(PWD_CHARS).into(),
    }
}

const UFRAG_CHARS: usize = 12;
const PWD_CHARS: usize = 32;

/// One host candidate line for each address, all of one component over UDP (RFC 8839 §5.1).
#[must_use]
pub fn candidate_lines(addresses: &[SocketAddr]) -> Vec<String> {
    addresses
        .iter()
        .take(CANDIDATES_MAX)
        .enumerate()
        .map(|(index, address)| {
            format!(
                "candidate:{} 1 udp {} {} {} typ host",
                index + 1,
                priority(address.ip(), index),
                address.ip(),
                address.port()
            )
        })
        .collect()
}

/// Candidates told at most.
pub const CANDIDATES_MAX: usize = 64;

/// RFC 8445 §5.1.2.1 with a local preference that is different for each address: IPv6 before IPv4
/// (RFC 8421 §4 leaves the order to the implementation), what reaches this link or host only last.
fn priority(ip: IpAddr, index: usize) -> u32 {
    let class: u32 = match ip {
        ip if ip.is_loopback() => 1_000,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 2_000,
        IpAddr::V4(ip) if ip.is_link_local() => 3_000,
        IpAddr::V4(_) => 50_000,
        IpAddr::V6(ip) if ip.is_unique_local() => 40_000,
        IpAddr::V6(_) => 60_000,
    };
    let local_preference = class - index as u32;
    (HOST_PREFERENCE << 24) | (local_preference << 8) | (256 - 1)
}

const HOST_PREFERENCE: u32 = 126;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;
    use crate::base::ufrag::shard_named_by;

    #[test]
    fn credentials_are_ice_chars_and_never_the_same() {
        let mut rng = StdRng::seed_from_u64(1);
        let shard = ShardId(63);
        let (a, b) = (credentials(shard, &mut rng), credentials(shard, &mut rng));
        assert_ne!(a, b);
        assert_eq!(shard_named_by(b.ufrag.as_bytes()), Some(shard));
        assert!(a.ufrag.len() >= 4 && a.pwd.len() >= 22);
        for c in a.ufrag.chars().chain(a.pwd.chars()) {
            assert!(c.is_ascii_alphanumeric() || c == '+' || c == '/');
        }
    }

    #[test]
    fn priorities_are_distinct_and_put_loopback_last() {
        let addresses: Vec<SocketAddr> = [
            "127.0.0.1:5000",
            "192.0.2.1:5000",
            "[2001:db8::1]:5000",
            "[::1]:5000",
            "192.0.2.2:5000",
            "[fe80::1]:5000",
        ]
        .map(|a| a.parse().unwrap())
        .to_vec();
        let lines = candidate_lines(&addresses);
        assert!(lines[1].starts_with("candidate:2 1 udp "));
        assert!(lines[1].ends_with(" 192.0.2.1 5000 typ host"));
        let priorities: Vec<u32> = lines
            .iter()
            .map(|l| l.split(' ').nth(3).unwrap().parse().unwrap())
            .collect();
        assert_eq!(priorities.iter().collect::<HashSet<_>>().len(), 6);
        let order = |i: usize, j: usize| assert!(priorities[i] > priorities[j], "{i} {j}");
        order(2, 1);
        order(1, 4);
        order(4, 5);
        order(5, 0);
        order(0, 3);
    }
}
