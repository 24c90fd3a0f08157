//! The unspecified IPv6 address as "every address of this machine".

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Binds with `bind`; where `address` is `[::]` and the machine has no IPv6, binds `0.0.0.0` instead.
///
/// # Errors
/// What `bind` says.
pub(in crate::io) fn bind_or_fall_back<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    match bind(address) {
        Err(error) if is_every_address(address) && is_ipv6_missing(&error) => bind(
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        ),
        result => result,
    }
}

/// Whether `address` stands for every address, of IPv4 too.
pub(in crate::io) fn is_every_address(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified())
}

/// Without the protocol there is no socket; with it switched off there is no address (both seen on
/// Linux: `ipv6.disable=1` and `disable_ipv6=1`).
fn is_ipv6_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_back_only_from_every_address_and_only_without_ipv6() {
        let missing = libc::EAFNOSUPPORT;
        let cases = [
            ("[::]:5", missing, Ok("0.0.0.0:5")),
            ("[::]:5", libc::EADDRNOTAVAIL, Ok("0.0.0.0:5")),
            ("[::]:5", libc::EADDRINUSE, Err(libc::EADDRINUSE)),
            ("[::1]:5", missing, Err(missing)),
        ];
        for (address, error, expected) in cases {
            let result = bind_or_fall_back(address.parse().unwrap(), |address| {
                match address.is_ipv6() {
                    true => Err(io::Error::from_raw_os_error(error)),
                    false => Ok(address.to_string()),
                }
            });
            let result = result.map_err(|e| e.raw_os_error().unwrap());
            assert_eq!(result.as_deref(), expected.as_deref(), "{address} {error}");
        }
    }
}
