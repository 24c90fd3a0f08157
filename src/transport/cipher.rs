//! The transforms of SRTP and SRTCP: AES-GCM (RFC 7714) and AES-CM with HMAC-SHA1-80 (RFC 3711).
//!
//! In place, without allocation and without state: what comes out depends on key, packet and index
//! alone, so nothing here could use a nonce twice for two packets; who calls must not either.

use std::sync::Arc;

use aes::Aes128Enc;
use ctr::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use ctr::{CtrCore, flavors::Ctr128BE};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use crate::control::SrtpProfile;
use crate::transport::keys::{KeyLabel, MasterKey};

/// The session keys of one direction of either SRTP or SRTCP. A clone shares them.
#[derive(Clone)]
pub(crate) enum Cipher {
    /// AEAD_AES_128_GCM or AEAD_AES_256_GCM.
    Gcm(Arc<Gcm>),
    /// AES128_CM_HMAC_SHA1_80.
    CmSha1(Arc<CmSha1>),
}

impl Cipher {
    /// The cipher for RTP.
    pub(crate) fn rtp(profile: SrtpProfile, master: &MasterKey) -> Self {
        Self::derive(
            profile,
            master,
            KeyLabel::RtpEncryption,
            KeyLabel::RtpAuthentication,
            KeyLabel::RtpSalt,
        )
    }

    /// The cipher for RTCP.
    pub(crate) fn rtcp(profile: SrtpProfile, master: &MasterKey) -> Self {
        Self::derive(
            profile,
            master,
            KeyLabel::RtcpEncryption,
            KeyLabel::RtcpAuthentication,
            KeyLabel::RtcpSalt,
        )
    }

    fn derive(
        profile: SrtpProfile,
        master: &MasterKey,
        encryption: KeyLabel,
        authentication: KeyLabel,
        salt: KeyLabel,
    ) -> Self {
        match profile {
            SrtpProfile::AeadAes128Gcm => Self::Gcm(Arc::new(Gcm::new(
                &AES_128_GCM,
                &derived::<16>(master, encryption),
                derived(master, salt),
            ))),
            SrtpProfile::AeadAes256Gcm => Self::Gcm(Arc::new(Gcm::new(
                &AES_256_GCM,
                &derived::<32>(master, encryption),
                derived(master, salt),
            ))),
            SrtpProfile::Aes128CmSha1_80 => Self::CmSha1(Arc::new(CmSha1::new(
                &derived(master, encryption),
                &derived(master, authentication),
                derived(master, salt),
            ))),
        }
    }

    /// Reads a little of what sealing needs: see [`RtpSealer::touch`](crate::transport::RtpSealer::touch).
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        match self {
            Self::Gcm(gcm) => u64::from(gcm.salt[0]),
            Self::CmSha1(cm) => u64::from(cm.salt[0]),
        }
    }

    /// How many bytes longer a packet gets, without SRTCP's index.
    pub(crate) fn tag_len(&self) -> usize {
        match self {
            Self::Gcm(_) => GCM_TAG_LEN,
            Self::CmSha1(_) => SHA1_TAG_LEN,
        }
    }

    /// Protects the RTP packet `arena[start..]`, whose header has `header_len` bytes.
    pub(crate) fn seal_rtp(&self, arena: &mut Vec<u8>, start: usize, header_len: usize, roc: u32) {
        match self {
            Self::Gcm(gcm) => {
                let (header, payload) = arena[start..].split_at_mut(header_len);
                let nonce = gcm.rtp_nonce(header, roc);
                let tag = gcm.seal(nonce, header, payload);
                arena.extend_from_slice(&tag);
            }
            Self::CmSha1(cm) => {
                let (header, payload) = arena[start..].split_at_mut(header_len);
                cm.apply(cm.rtp_iv(header, roc), payload);
                let tag = cm.rtp_tag(&arena[start..], roc);
                arena.extend_from_slice(&tag);
            }
        }
    }

    /// Decrypts `packet` in place, if it is authentic, and returns how many bytes of it are header
    /// and payload. `header_len` must not be beyond the packet.
    pub(crate) fn open_rtp(&self, packet: &mut [u8], header_len: usize, roc: u32) -> Option<usize> {
        let plain_len = packet.len().checked_sub(self.tag_len())?;
        if plain_len < header_len {
            return None;
        }
        match self {
            Self::Gcm(gcm) => {
                let (header, sealed) = packet.split_at_mut(header_len);
                gcm.open(gcm.rtp_nonce(header, roc), header, sealed)?;
            }
            Self::CmSha1(cm) => {
                let (plain, tag) = packet.split_at_mut(plain_len);
                if !is_equal(&cm.rtp_tag(plain, roc), tag) {
                    return None;
                }
                let (header, payload) = plain.split_at_mut(header_len);
                cm.apply(cm.rtp_iv(header, roc), payload);
            }
        }
        Some(plain_len)
    }

    /// Protects the RTCP compound packet `arena[start..]`, of at least 8 bytes, under `index` (31
    /// bits).
    pub(crate) fn seal_rtcp(&self, arena: &mut Vec<u8>, start: usize, index: u32) {
        let word = (index | ENCRYPTED_BIT).to_be_bytes();
        match self {
            Self::Gcm(gcm) => {
                let (header, payload) = arena[start..].split_at_mut(RTCP_HEADER_LEN);
                let nonce = gcm.rtcp_nonce(header, index);
                let tag = gcm.seal(nonce, &gcm_rtcp_aad(header, word), payload);
                arena.extend_from_slice(&tag);
                arena.extend_from_slice(&word);
            }
            Self::CmSha1(cm) => {
                let (header, payload) = arena[start..].split_at_mut(RTCP_HEADER_LEN);
                cm.apply(cm.rtcp_iv(header, index), payload);
                arena.extend_from_slice(&word);
                let tag = cm.tag(&[&arena[start..]]);
                arena.extend_from_slice(&tag);
            }
        }
    }

    /// Finds the index of a protected RTCP packet and whether it claims to be encrypted, without
    /// authenticating it. `None` where it is too short.
    pub(crate) fn rtcp_index(&self, packet: &[u8]) -> Option<(u32, bool)> {
        let word_end = match self {
            Self::Gcm(_) => packet.len(),
            Self::CmSha1(_) => packet.len().checked_sub(SHA1_TAG_LEN)?,
        };
        if packet.len() < RTCP_HEADER_LEN + self.tag_len() + RTCP_INDEX_LEN {
            return None;
        }
        let word = packet.get(..word_end)?.last_chunk()?;
        let word = u32::from_be_bytes(*word);
        Some((word & !ENCRYPTED_BIT, word & ENCRYPTED_BIT != 0))
    }

    /// Decrypts an RTCP packet in place, if it is authentic, and returns the plaintext's length.
    /// `index` must come from [`Cipher::rtcp_index`] of the same packet, with encryption.
    pub(crate) fn open_rtcp(&self, packet: &mut [u8], index: u32) -> Option<usize> {
        let plain_len = packet
            .len()
            .checked_sub(self.tag_len() + RTCP_INDEX_LEN)
            .filter(|len| *len >= RTCP_HEADER_LEN)?;
        let word = (index | ENCRYPTED_BIT).to_be_bytes();
        match self {
            Self::Gcm(gcm) => {
                let (protected, _) = packet.split_at_mut(plain_len + GCM_TAG_LEN);
                let (header, sealed) = protected.split_at_mut(RTCP_HEADER_LEN);
                let aad = gcm_rtcp_aad(header, word);
                gcm.open(gcm.rtcp_nonce(header, index), &aad, sealed)?;
            }
            Self::CmSha1(cm) => {
                let (authenticated, tag) = packet.split_at_mut(plain_len + RTCP_INDEX_LEN);
                if !is_equal(&cm.tag(&[authenticated]), tag) {
                    return None;
                }
                let (header, payload) = authenticated[..plain_len].split_at_mut(RTCP_HEADER_LEN);
                cm.apply(cm.rtcp_iv(header, index), payload);
            }
        }
        Some(plain_len)
    }
}

/// AES-GCM as RFC 7714 uses it.
pub(crate) struct Gcm {
    key: LessSafeKey,
    salt: [u8; 12],
}

impl Gcm {
    fn new(algorithm: &'static ring::aead::Algorithm, key: &[u8], salt: [u8; 12]) -> Self {
        let key = UnboundKey::new(algorithm, key).expect("the key is as long as the algorithm's");
        Self {
            key: LessSafeKey::new(key),
            salt,
        }
    }

    /// RFC 7714 §8.1: two zero bytes, SSRC, rollover count, sequence number, mixed with the salt.
    fn rtp_nonce(&self, header: &[u8], roc: u32) -> Nonce {
        let mut nonce = self.salt;
        mix(&mut nonce[2..6], &header[8..12]);
        mix(&mut nonce[6..10], &roc.to_be_bytes());
        mix(&mut nonce[10..12], &header[2..4]);
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 7714 §9.1: two zero bytes, SSRC, two zero bytes, index, mixed with the salt.
    fn rtcp_nonce(&self, header: &[u8], index: u32) -> Nonce {
        let mut nonce = self.salt;
        mix(&mut nonce[2..6], &header[4..8]);
        mix(&mut nonce[8..12], &index.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, nonce: Nonce, aad: &[u8], payload: &mut [u8]) -> [u8; GCM_TAG_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), payload)
            .expect("a packet is shorter than GCM's limit of 64 GiB");
        tag.as_ref().try_into().expect("GCM's tag has 16 bytes")
    }

    fn open(&self, nonce: Nonce, aad: &[u8], sealed: &mut [u8]) -> Option<()> {
        self.key
            .open_in_place(nonce, Aad::from(aad), sealed)
            .ok()
            .map(|_| ())
    }
}

/// RFC 7714 §9.2: the first 8 bytes and the word of E flag and index.
fn gcm_rtcp_aad(header: &[u8], word: [u8; RTCP_INDEX_LEN]) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..8].copy_from_slice(&header[..8]);
    aad[8..].copy_from_slice(&word);
    aad
}

/// AES in counter mode with a truncated HMAC-SHA1 (RFC 3711 §4.1.1, §4.2.1).
pub(crate) struct CmSha1 {
    cipher: Aes128Enc,
    authentication: hmac::Key,
    salt: [u8; 14],
}

impl CmSha1 {
    fn new(key: &[u8; 16], authentication: &[u8; 20], salt: [u8; 14]) -> Self {
        Self {
            cipher: Aes128Enc::new(key.into()),
            authentication: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, authentication),
            salt,
        }
    }

    /// RFC 3711 §4.1.1: `salt << 16 ^ ssrc << 64 ^ index << 16`, of a 48-bit index.
    fn iv(&self, ssrc: &[u8], index: u64) -> [u8; 16] {
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&self.salt);
        mix(&mut iv[4..8], ssrc);
        mix(&mut iv[8..14], &index.to_be_bytes()[2..]);
        iv
    }

    fn rtp_iv(&self, header: &[u8], roc: u32) -> [u8; 16] {
        let seq = u64::from(u16::from_be_bytes([header[2], header[3]]));
        self.iv(&header[8..12], u64::from(roc) << 16 | seq)
    }

    fn rtcp_iv(&self, header: &[u8], index: u32) -> [u8; 16] {
        self.iv(&header[4..8], u64::from(index))
    }

    /// Encrypts or decrypts.
    fn apply(&self, iv: [u8; 16], payload: &mut [u8]) {
        // Borrowing the key schedule spares its expansion (or a copy) for each packet.
        let core = CtrCore::<&Aes128Enc, Ctr128BE>::inner_iv_init(&self.cipher, &iv.into());
        StreamCipherCoreWrapper::from_core(core).apply_keystream(payload);
    }

    fn rtp_tag(&self, packet: &[u8], roc: u32) -> [u8; SHA1_TAG_LEN] {
        self.tag(&[packet, &roc.to_be_bytes()])
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; SHA1_TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.authentication);
        for part in parts {
            context.update(part);
        }
        *context
            .sign()
            .as_ref()
            .first_chunk()
            .expect("SHA-1 has 20 bytes")
    }
}

fn derived<const N: usize>(master: &MasterKey, label: KeyLabel) -> [u8; N] {
    let mut key = [0; N];
    master.derive(label, &mut key);
    key
}

fn mix(into: &mut [u8], bytes: &[u8]) {
    for (into, byte) in into.iter_mut().zip(bytes) {
        *into ^= byte;
    }
}

/// Compares in a time that does not depend on where the two differ. (`ring` compares whole tags
/// only and has deprecated the function below that.)
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

/// RFC 7714 §14.2.
pub(crate) const GCM_TAG_LEN: usize = 16;
/// RFC 3711 §5.2.
pub(crate) const SHA1_TAG_LEN: usize = 10;
/// What SRTCP leaves in the clear: the first packet's header and SSRC (RFC 3711 §3.4).
pub(crate) const RTCP_HEADER_LEN: usize = 8;
/// The word of E flag and index.
pub(crate) const RTCP_INDEX_LEN: usize = 4;
/// The E flag (RFC 3711 §3.4).
const ENCRYPTED_BIT: u32 = 1 << 31;

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

    fn gcm(key_len: u8) -> Cipher {
        let algorithm = if key_len == 16 {
            &AES_128_GCM
        } else {
            &AES_256_GCM
        };
        let key: Vec<u8> = (0..key_len).collect();
        Cipher::Gcm(Arc::new(Gcm::new(algorithm, &key, *b"Quid pro quo")))
    }

    #[test]
    fn rtp_of_rfc_7714_16_1_and_16_2() {
        let plain = hex(
            "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120
             696e2070 61727465 73207472 6573",
        );
        let cases = [
            (
                16,
                "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f
                 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
            ),
            (
                32,
                "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3
                 b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
            ),
        ];
        for (key_len, sealed) in cases {
            let (cipher, sealed) = (gcm(key_len), hex(sealed));
            let mut arena = plain.clone();
            cipher.seal_rtp(&mut arena, 0, 12, 0);
            assert_eq!(arena, sealed, "{key_len}");
            let len = cipher.open_rtp(&mut arena, 12, 0);
            assert_eq!(len, Some(plain.len()));
            assert_eq!(arena[..plain.len()], plain);
        }
    }

    #[test]
    fn rtcp_of_rfc_7714_17_1() {
        let plain = hex(
            "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef
             deadbeef deadbeef deadbeef deadbeef",
        );
        let sealed = hex(
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1
             730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        );
        let cipher = gcm(16);
        let mut arena = plain.clone();
        cipher.seal_rtcp(&mut arena, 0, 0x5d4);
        assert_eq!(arena, sealed);
        assert_eq!(cipher.rtcp_index(&arena), Some((0x5d4, true)));
        assert_eq!(cipher.open_rtcp(&mut arena, 0x5d4), Some(plain.len()));
        assert_eq!(arena[..plain.len()], plain);
    }

    #[test]
    fn counter_mode_keystream_of_rfc_3711_b_2() {
        let cm = CmSha1::new(
            hex("2B7E151628AED2A6ABF7158809CF4F3C")[..]
                .try_into()
                .unwrap(),
            &[0; 20],
            hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD")[..].try_into().unwrap(),
        );
        let mut keystream = [0; 48];
        cm.apply(cm.iv(&[0; 4], 0), &mut keystream);
        let expected = hex(
            "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB
             41E95B3BB0A2E8DD477901E4FCA894C0",
        );
        assert_eq!(keystream[..], expected[..]);
    }

    #[test]
    fn too_short_for_a_tag_is_refused() {
        let master = MasterKey::new(SrtpProfile::Aes128CmSha1_80, &[1; 16], &[2; 14]).unwrap();
        let cm = Cipher::rtp(SrtpProfile::Aes128CmSha1_80, &master);
        for cipher in [gcm(16), cm] {
            for len in 12..12 + cipher.tag_len() {
                assert_eq!(cipher.open_rtp(&mut vec![0x80; len], 12, 0), None);
            }
            for len in 0..RTCP_HEADER_LEN + cipher.tag_len() + RTCP_INDEX_LEN {
                assert_eq!(cipher.rtcp_index(&vec![0x80; len]), None);
                assert_eq!(cipher.open_rtcp(&mut vec![0x80; len], 0), None);
            }
        }
    }

    #[test]
    fn comparison_sees_every_bit_and_the_length() {
        assert!(is_equal(&[1, 2, 3], &[1, 2, 3]));
        assert!(!is_equal(&[1, 2, 3], &[1, 2]));
        for bit in 0..24 {
            let mut other = [1u8, 2, 3];
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_equal(&[1, 2, 3], &other));
        }
    }
}
