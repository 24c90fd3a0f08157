//! The addresses at which clients may reach a media socket.
//!
//! Knows nothing of ports or shards.

use std::io;
use std::net::IpAddr;

/// The most addresses told to a client: each costs every client a candidate and its checks. A machine
/// with hundreds of bridges is told by its first ones in the order of [`candidates`].
pub const CANDIDATES_MAX: usize = 32;

/// The addresses to tell clients, best first, always in the same order for the same machine: those of
/// `announce` if there are any, in their order, otherwise those of every interface that is up,
/// loopback last. `bound` is the local address of the socket: addresses it cannot receive at are left
/// out. At most [`CANDIDATES_MAX`].
///
/// # Errors
/// What the system says if the interfaces cannot be listed.
pub fn candidates(announce: &[IpAddr], bound: IpAddr) -> io::Result<Vec<IpAddr>> {
    if !announce.is_empty() {
        return Ok(select_announced(announce, bound));
    }
    // An address given to the socket is an address, whatever the list of interfaces says.
    if !bound.is_unspecified() {
        return Ok(vec![bound.to_canonical()]);
    }
    let up = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|interface| interface.is_oper_up() || interface.is_loopback())
        .map(|interface| interface.ip());
    Ok(select_found(up, bound))
}

/// Where to bind a media socket that was to be bound at `bind`. A socket at the unspecified address
/// answers from the address that the kernel's route to the client prefers, and a client discards an
/// answer from another address than it asked (RFC 8445 §7.2.5.2.1). So where a single address of this
/// machine is announced, the socket is bound to just that one.
///
/// # Errors
/// What the system says if the interfaces cannot be listed.
pub fn bind_address(bind: IpAddr, announce: &[IpAddr]) -> io::Result<IpAddr> {
    let [announced] = announce else {
        return Ok(bind);
    };
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    let announced = announced.to_canonical();
    let is_own = announced.is_loopback()
        || if_addrs::get_if_addrs()?
            .iter()
            .any(|interface| interface.ip() == announced);
    Ok(if is_own { announced } else { bind })
}

/// Announced addresses that a socket at `bound` can receive behind 1:1 NAT: those of its family.
fn select_announced(announce: &[IpAddr], bound: IpAddr) -> Vec<IpAddr> {
    let mut selected = Vec::new();
    for ip in announce.iter().map(IpAddr::to_canonical) {
        let is_reachable = match bound.to_canonical() {
            IpAddr::V4(_) => ip.is_ipv4(),
            IpAddr::V6(v6) => v6.is_unspecified() || ip.is_ipv6(),
        };
        if is_reachable && !selected.contains(&ip) {
            selected.push(ip);
        }
    }
    selected.truncate(CANDIDATES_MAX);
    selected
}

/// Interface addresses that a socket at the unspecified address `bound` can receive, in order.
fn select_found(found: impl Iterator<Item = IpAddr>, bound: IpAddr) -> Vec<IpAddr> {
    let mut selected: Vec<IpAddr> = found
        .map(|ip| ip.to_canonical())
        .filter(|ip| is_told(*ip) && (bound.is_ipv6() || ip.is_ipv4()))
        .collect();
    selected.sort_by_key(|ip| (rank(*ip), *ip));
    selected.dedup();
    selected.truncate(CANDIDATES_MAX);
    selected
}

/// Whether an address means anything to a client. A link-local IPv6 address needs a scope, which a
/// candidate cannot carry (RFC 8445 §5.1.1.1 leaves them out too).
fn is_told(ip: IpAddr) -> bool {
    let is_scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !is_scoped && !ip.is_unspecified() && !ip.is_multicast()
}

/// IPv4 before IPv6, because LANs more often have a working IPv4; addresses that only reach
/// neighbours or this machine last.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => 3,
        IpAddr::V4(v4) if v4.is_link_local() => 2,
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_loopback() => 4,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_announced_address_of_this_machine_is_bound() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let cases = [
            ("::", vec!["127.0.0.2"], "127.0.0.2"),
            ("::", vec!["::1"], "::1"),
            // Behind 1:1 NAT the announced address is on no interface here.
            ("::", vec!["203.0.113.7"], "::"),
            ("::", vec!["127.0.0.2", "127.0.0.3"], "::"),
            ("::", vec![], "::"),
            ("127.0.0.1", vec!["127.0.0.2"], "127.0.0.1"),
        ];
        for (bind, announce, expected) in cases {
            let announce: Vec<IpAddr> = announce.into_iter().map(ip).collect();
            let bound = bind_address(ip(bind), &announce).unwrap();
            assert_eq!(bound, ip(expected), "{bind} {announce:?}");
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn found_addresses_are_filtered_by_family_and_ordered() {
        let found = [
            "::1",
            "127.0.0.1",
            "fe80::1",
            "2001:db8::2",
            "192.0.2.9",
            "10.0.0.1",
            "169.254.3.3",
            "10.0.0.1",
        ];
        let v4 = ["10.0.0.1", "192.0.2.9", "169.254.3.3", "127.0.0.1"];
        let both = [
            "10.0.0.1",
            "192.0.2.9",
            "2001:db8::2",
            "169.254.3.3",
            "127.0.0.1",
            "::1",
        ];
        for (bound, expected) in [("0.0.0.0", &v4[..]), ("::", &both[..])] {
            let selected = select_found(ips(&found).into_iter(), bound.parse().unwrap());
            assert_eq!(selected, ips(expected), "{bound}");
        }
    }

    #[test]
    fn announced_addresses_keep_their_order_and_replace_the_found() {
        let announce = ips(&["2001:db8::7", "203.0.113.7", "2001:db8::7"]);
        let cases: [(&str, &[&str]); 4] = [
            ("::", &["2001:db8::7", "203.0.113.7"]),
            ("0.0.0.0", &["203.0.113.7"]),
            ("10.0.0.1", &["203.0.113.7"]),
            ("fd00::1", &["2001:db8::7"]),
        ];
        for (bound, expected) in cases {
            let selected = candidates(&announce, bound.parse().unwrap()).unwrap();
            assert_eq!(selected, ips(expected), "{bound}");
        }
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let many = (0..=255u8).map(|n| IpAddr::from([10, 0, 0, n]));
        assert_eq!(
            select_found(many.clone(), "::".parse().unwrap()).len(),
            CANDIDATES_MAX
        );
        let announce: Vec<IpAddr> = many.collect();
        let selected = candidates(&announce, "::".parse().unwrap()).unwrap();
        assert_eq!(selected.len(), CANDIDATES_MAX);
    }

    #[test]
    fn a_bound_address_is_the_only_one_and_this_machine_has_loopback() {
        let bound = ips(&["127.0.0.1"]);
        assert_eq!(candidates(&[], bound[0]).unwrap(), bound);
        let all = candidates(&[], "0.0.0.0".parse().unwrap()).unwrap();
        assert!(all.contains(&bound[0]) && all.iter().all(IpAddr::is_ipv4));
    }
}
