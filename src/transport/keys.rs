//! SRTP keys: what DTLS exports (RFC 5764 §4.2) and what is derived from it (RFC 3711 §4.3,
//! RFC 7714 §11).

use std::fmt;

use aes::{Aes128Enc, Aes256Enc};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};

use crate::control::SrtpProfile;

/// The label with which DTLS exports SRTP keys (RFC 5764 §4.2).
pub const EXPORTER_LABEL: &str = "EXTRACTOR-dtls_srtp";

/// The master key and salt of one direction. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    key: Vec<u8>,
    salt: Vec<u8>,
}

impl MasterKey {
    /// Takes a key and salt as long as `profile` has them.
    #[must_use]
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Option<Self> {
        (key.len() == key_len(profile) && salt.len() == salt_len(profile)).then(|| Self {
            key: key.to_vec(),
            salt: salt.to_vec(),
        })
    }

    /// Fills `out` (at most 1 MiB) with the session key of `label` (RFC 3711 §4.3.1, with a key
    /// derivation rate of 0). RFC 7714 §11 uses the same function; its 96-bit salt is padded with
    /// zeros to 112 bits.
    pub(crate) fn derive(&self, label: KeyLabel, out: &mut [u8]) {
        let mut iv = [0; 16];
        iv[..self.salt.len()].copy_from_slice(&self.salt);
        iv[7] ^= label as u8;
        out.fill(0);
        if self.key.len() == 32 {
            Ctr128BE::<Aes256Enc>::new_from_slices(&self.key, &iv)
                .expect("the key has 256 bits")
                .apply_keystream(out);
        } else {
            Ctr128BE::<Aes128Enc>::new_from_slices(&self.key, &iv)
                .expect("every other profile's key has 128 bits")
                .apply_keystream(out);
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}

/// Which session key is derived (RFC 3711 §4.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyLabel {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The master keys of both directions of one association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKeys {
    /// What both are for.
    pub profile: SrtpProfile,
    /// Protects what we send.
    pub local: MasterKey,
    /// Protects what the peer sends.
    pub remote: MasterKey,
}

impl MasterKeys {
    /// How many bytes DTLS has to export for `profile`.
    #[must_use]
    pub fn exported_len(profile: SrtpProfile) -> usize {
        2 * (key_len(profile) + salt_len(profile))
    }

    /// Takes apart what DTLS exported: client key, server key, client salt, server salt (RFC 5764
    /// §4.2). `None` where it has not [`MasterKeys::exported_len`] bytes.
    #[must_use]
    pub fn from_exported(profile: SrtpProfile, exported: &[u8], is_client: bool) -> Option<Self> {
        if exported.len() != Self::exported_len(profile) {
            return None;
        }
        let (keys, salts) = exported.split_at(2 * key_len(profile));
        let (client_key, server_key) = keys.split_at(key_len(profile));
        let (client_salt, server_salt) = salts.split_at(salt_len(profile));
        let client = MasterKey::new(profile, client_key, client_salt)?;
        let server = MasterKey::new(profile, server_key, server_salt)?;
        let (local, remote) = if is_client {
            (client, server)
        } else {
            (server, client)
        };
        Some(Self {
            profile,
            local,
            remote,
        })
    }
}

/// The master key's length in bytes.
fn key_len(profile: SrtpProfile) -> usize {
    match profile {
        SrtpProfile::AeadAes128Gcm | SrtpProfile::Aes128CmSha1_80 => 16,
        SrtpProfile::AeadAes256Gcm => 32,
    }
}

/// The master salt's length in bytes (RFC 3711 §8.2, RFC 7714 §12).
fn salt_len(profile: SrtpProfile) -> usize {
    match profile {
        SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 12,
        SrtpProfile::Aes128CmSha1_80 => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn session_keys_are_those_of_rfc_3711_b_3() {
        let master = MasterKey::new(
            SrtpProfile::Aes128CmSha1_80,
            &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
            &hex("0EC675AD498AFEEBB6960B3AABE6"),
        )
        .unwrap();
        let cases = [
            (KeyLabel::RtpEncryption, "C61E7A93744F39EE10734AFE3FF7A087"),
            (KeyLabel::RtpSalt, "30CBBC08863D8C85D49DB34A9AE1"),
            (
                KeyLabel::RtpAuthentication,
                "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE",
            ),
        ];
        for (label, expected) in cases {
            let expected = hex(expected);
            let mut out = vec![0xff; expected.len()];
            master.derive(label, &mut out);
            assert_eq!(out, expected, "{label:?}");
        }
    }

    #[test]
    fn session_keys_of_256_bits_are_those_of_rfc_6188_7_2() {
        // RFC 6188's salt has 112 bits: the function does not care which profile asks.
        let master = MasterKey {
            key: hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6"),
            salt: hex("3b04803de51ee7c96423ab5b78d2"),
        };
        let mut key = [0; 32];
        master.derive(KeyLabel::RtpEncryption, &mut key);
        let expected = hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4");
        assert_eq!(key[..], expected[..]);
    }

    #[test]
    fn exported_keys_are_taken_apart_by_role() {
        let profile = SrtpProfile::AeadAes128Gcm;
        let exported: Vec<u8> = (0..56).collect();
        let server = MasterKeys::from_exported(profile, &exported, false).unwrap();
        assert_eq!(server.remote.key, exported[..16]);
        assert_eq!(server.local.key, exported[16..32]);
        assert_eq!(server.remote.salt, exported[32..44]);
        assert_eq!(server.local.salt, exported[44..]);
        let client = MasterKeys::from_exported(profile, &exported, true).unwrap();
        assert_eq!((client.local, client.remote), (server.remote, server.local));
        assert!(MasterKeys::from_exported(profile, &exported[1..], true).is_none());
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = MasterKeys::from_exported(SrtpProfile::AeadAes128Gcm, &[0x41; 56], true);
        let shown = format!("{keys:?}");
        assert!(!shown.contains("65") && !shown.contains("41"), "{shown}");
    }
}
