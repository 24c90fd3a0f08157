//! Which shard a peer's ICE user fragment names.
//!
//! The first character of every local ufrag is its peer's shard, so that any shard can tell whose a
//! connectivity check is without knowing the peer. It is no secret: the rest of the ufrag is random.

use crate::base::ids::ShardId;

/// The characters a ufrag is made of (RFC 8839 §5.4, `ice-char`). As many as there can be shards.
pub const ICE_CHARS: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The first character of the ufrags of a shard's peers.
#[must_use]
pub fn mark_of(shard: ShardId) -> char {
    char::from(ICE_CHARS[usize::from(shard.0) % ICE_CHARS.len()])
}

/// The shard that a ufrag names, which may be one that does not exist; `None` if it names none.
#[must_use]
pub fn shard_named_by(ufrag: &[u8]) -> Option<ShardId> {
    let shard = match ufrag.first()? {
        upper @ b'A'..=b'Z' => upper - b'A',
        lower @ b'a'..=b'z' => lower - b'a' + 26,
        digit @ b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(ShardId(u16::from(shard)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_mark_of_its_own() {
        for shard in (0..64).map(ShardId) {
            let ufrag = format!("{}rest", mark_of(shard));
            assert_eq!(shard_named_by(ufrag.as_bytes()), Some(shard));
        }
        for ufrag in [&b""[..], b":", b"-x", b"\xff"] {
            assert_eq!(shard_named_by(ufrag), None);
        }
    }
}
