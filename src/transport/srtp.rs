//! SRTP and SRTCP for one peer (RFC 3711, RFC 7714): [`Opener`] for what it sends, [`Sealer`] for
//! what it is sent.
//!
//! The RTP path works in place and allocates nothing but for the first packet of an SSRC. Knows
//! nothing of addresses or of DTLS.

use std::fmt;

use bytes::BytesMut;

use crate::base::ids::SeqNo16;
use crate::control::SrtpProfile;
use crate::transport::cipher::{Cipher, RTCP_HEADER_LEN};
use crate::transport::keys::MasterKey;
use crate::transport::replay::{Place, ReplayWindows, estimate_index};
use crate::wire::rtp::RtpHeader;

/// Why a packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// DTLS is not up, or the peer's fingerprint is not known yet.
    NotReady,
    /// Too short, or a length leads outside of the packet.
    Malformed,
    /// It was received before, or is too old to tell.
    Replayed,
    /// The authentication tag is wrong.
    Unauthentic,
    /// An RTCP packet that is not encrypted (E flag 0), which WebRTC does not have (RFC 8827 §6.5).
    NotEncrypted,
    /// The peer has used as many SSRCs as are remembered, and this is another one.
    TooManySenders,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "SRTP has no keys yet",
            Self::Malformed => "malformed packet",
            Self::Replayed => "replayed packet",
            Self::Unauthentic => "wrong authentication tag",
            Self::NotEncrypted => "unencrypted RTCP",
            Self::TooManySenders => "too many SSRCs",
        })
    }
}

impl std::error::Error for OpenError {}

/// Opens what one peer sends.
pub struct Opener {
    rtp: Cipher,
    rtcp: Cipher,
    rtp_windows: ReplayWindows,
    rtcp_windows: ReplayWindows,
}

impl Opener {
    /// Derives the session keys from the peer's master key.
    #[must_use]
    pub fn new(profile: SrtpProfile, remote: &MasterKey) -> Self {
        Self {
            rtp: Cipher::rtp(profile, remote),
            rtcp: Cipher::rtcp(profile, remote),
            rtp_windows: ReplayWindows::default(),
            rtcp_windows: ReplayWindows::default(),
        }
    }

    /// Decrypts an RTP packet in place and cuts the tag off.
    ///
    /// # Errors
    /// [`OpenError`] says why not; the packet's bytes are then worthless.
    pub fn open_rtp(&mut self, packet: &mut BytesMut) -> Result<RtpHeader, OpenError> {
        let header = RtpHeader::parse(packet).ok_or(OpenError::Malformed)?;
        let place = self.rtp_windows.find(header.ssrc.0);
        let SeqNo16(seq) = header.seq;
        let index = match place {
            Place::Known(at) => {
                let window = self.rtp_windows.window(at);
                estimate_index(window.highest(), seq)
                    .filter(|index| window.is_fresh(*index))
                    .ok_or(OpenError::Replayed)?
            }
            // RFC 3711 §3.3.1: the rollover count of a new sender is 0.
            Place::New(_) => u64::from(seq),
            Place::Full => return Err(OpenError::TooManySenders),
        };
        let len = self
            .rtp
            .open_rtp(packet, header.header_len, (index >> 16) as u32)
            .ok_or(OpenError::Unauthentic)?;
        self.rtp_windows.accept(place, header.ssrc.0, index);
        packet.truncate(len);
        Ok(header)
    }

    /// Decrypts an RTCP compound packet in place and cuts index and tag off.
    ///
    /// # Errors
    /// [`OpenError`] says why not; the packet's bytes are then worthless.
    pub fn open_rtcp(&mut self, packet: &mut BytesMut) -> Result<(), OpenError> {
        let (index, encrypted) = self.rtcp.rtcp_index(packet).ok_or(OpenError::Malformed)?;
        if packet[0] >> 6 != RTP_VERSION {
            return Err(OpenError::Malformed);
        }
        if !encrypted {
            return Err(OpenError::NotEncrypted);
        }
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let place = self.rtcp_windows.find(ssrc);
        match place {
            Place::Known(at) => {
                if !self.rtcp_windows.window(at).is_fresh(u64::from(index)) {
                    return Err(OpenError::Replayed);
                }
            }
            Place::New(_) => {}
            Place::Full => return Err(OpenError::TooManySenders),
        }
        let len = self
            .rtcp
            .open_rtcp(packet, index)
            .ok_or(OpenError::Unauthentic)?;
        self.rtcp_windows.accept(place, ssrc, u64::from(index));
        packet.truncate(len);
        Ok(())
    }
}

/// Seals what one peer is sent.
pub struct Sealer {
    rtp: RtpSealer,
    rtcp: Cipher,
    rtcp_index: u32,
}

impl Sealer {
    /// Derives the session keys from our master key.
    #[must_use]
    pub fn new(profile: SrtpProfile, local: &MasterKey) -> Self {
        Self {
            rtp: RtpSealer {
                cipher: Cipher::rtp(profile, local),
            },
            rtcp: Cipher::rtcp(profile, local),
            rtcp_index: 0,
        }
    }

    /// What seals RTP.
    #[must_use]
    pub fn rtp(&self) -> &RtpSealer {
        &self.rtp
    }

    /// Appends the RTCP compound packet `compound` to `out`, encrypted, with index and tag. False,
    /// with nothing appended, where `compound` has less than 8 bytes, or 2^31 packets have been
    /// sealed: then this key has no index left (RFC 3711 §9.2).
    pub fn seal_rtcp(&mut self, compound: &[u8], out: &mut Vec<u8>) -> bool {
        if compound.len() < RTCP_HEADER_LEN || self.rtcp_index >= RTCP_INDEX_END {
            return false;
        }
        let start = out.len();
        out.extend_from_slice(compound);
        // One count for all of our SSRCs: it grows with each packet of every one.
        self.rtcp.seal_rtcp(out, start, self.rtcp_index);
        self.rtcp_index += 1;
        true
    }
}

/// Seals the RTP packets that one peer is sent. A clone shares the keys, so that a table of where packets
/// go can hold one beside each address.
#[derive(Clone)]
pub struct RtpSealer {
    cipher: Cipher,
}

impl RtpSealer {
    /// Reads a little of what sealing needs, so that the cache has it when that begins. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        self.cipher.touch()
    }

    /// How many bytes longer [`RtpSealer::seal`] makes a packet.
    #[must_use]
    pub fn overhead(&self) -> usize {
        self.cipher.tag_len()
    }

    /// Encrypts the plaintext RTP packet `arena[start..]`, whose header has `header_len` bytes (at
    /// least 12), in place and appends the tag.
    ///
    /// The outcome is a function of key, packet and `roc` alone. Two different packets of one SSRC
    /// must never have the same sequence number and rollover count: with GCM that gives the
    /// authentication key away (RFC 7714 §8.4).
    ///
    /// # Panics
    /// If the packet is shorter than its header, which is the caller's mistake.
    #[inline]
    pub fn seal(&self, arena: &mut Vec<u8>, start: usize, header_len: usize, roc: u32) {
        debug_assert!(header_len >= 12, "an RTP header has 12 bytes");
        self.cipher.seal_rtp(arena, start, header_len, roc);
    }
}

impl fmt::Debug for RtpSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RtpSealer").finish_non_exhaustive()
    }
}

/// The SRTCP index has 31 bits.
const RTCP_INDEX_END: u32 = 1 << 31;
/// RFC 3550 §6.4.1.
const RTP_VERSION: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{PayloadType, RtpTime, Ssrc};
    use crate::transport::replay::SENDERS_MAX;
    use crate::wire::rtp::{OutgoingHeader, write_header};
    use rtc_crypto::RTCCryptoProvider;
    use rtc_crypto::providers::RingProvider;
    use rtc_srtp::context::Context;
    use rtc_srtp::protection_profile::ProtectionProfile;

    const PROFILES: [(SrtpProfile, ProtectionProfile, usize); 3] = [
        (
            SrtpProfile::AeadAes128Gcm,
            ProtectionProfile::AeadAes128Gcm,
            16,
        ),
        (
            SrtpProfile::AeadAes256Gcm,
            ProtectionProfile::AeadAes256Gcm,
            16,
        ),
        (
            SrtpProfile::Aes128CmSha1_80,
            ProtectionProfile::Aes128CmHmacSha1_80,
            10,
        ),
    ];

    fn secrets(profile: ProtectionProfile) -> (Vec<u8>, Vec<u8>) {
        let key = (0..profile.key_len() as u8).map(|i| i ^ 0xa5).collect();
        let salt = (0..profile.salt_len() as u8).map(|i| i ^ 0x5a).collect();
        (key, salt)
    }

    fn master(profile: SrtpProfile, theirs: ProtectionProfile) -> MasterKey {
        let (key, salt) = secrets(theirs);
        MasterKey::new(profile, &key, &salt).unwrap()
    }

    fn pair(profile: SrtpProfile, theirs: ProtectionProfile) -> (Sealer, Opener) {
        let master = master(profile, theirs);
        (Sealer::new(profile, &master), Opener::new(profile, &master))
    }

    /// webrtc-rs's own implementation, under the same key.
    fn reference(profile: ProtectionProfile) -> Context {
        let (key, salt) = secrets(profile);
        let provider = RingProvider::new();
        Context::new(&key, &salt, profile, None, None, provider.crypto()).unwrap()
    }

    fn rtp(ssrc: u32, seq: u16, payload: &[u8]) -> (Vec<u8>, usize) {
        let mut packet = Vec::new();
        let header = OutgoingHeader {
            payload_type: PayloadType(96),
            marker: seq & 1 == 0,
            seq: SeqNo16(seq),
            timestamp: RtpTime(90_000),
            ssrc: Ssrc(ssrc),
            padding: false,
        };
        let mid = crate::wire::extension::ExtensionId::new(4).unwrap();
        let len = write_header(&mut packet, &header, [(mid, &b"0"[..])].into_iter());
        packet.extend_from_slice(payload);
        (packet, len)
    }

    fn sealed(sealer: &mut Sealer, ssrc: u32, seq: u16, roc: u32) -> BytesMut {
        let mut arena = b"another packet".to_vec();
        let start = arena.len();
        let (packet, header_len) = rtp(ssrc, seq, &seq.to_be_bytes());
        arena.extend_from_slice(&packet);
        sealer.rtp().seal(&mut arena, start, header_len, roc);
        assert_eq!(&arena[..start], b"another packet");
        assert_eq!(arena.len(), start + packet.len() + sealer.rtp().overhead());
        BytesMut::from(&arena[start..])
    }

    /// A receiver report without blocks and a source description, as libwebrtc sends them.
    fn rtcp(ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 201, 0, 1];
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&[0x81, 202, 0, 3]);
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&[1, 4, b'n', b'a', b'm', b'e', 0, 0]);
        packet
    }

    #[test]
    fn rtp_agrees_with_webrtc_rs_both_ways() {
        for (profile, theirs, overhead) in PROFILES {
            let (sealer, mut opener) = pair(profile, theirs);
            let (mut out, mut back) = (reference(theirs), reference(theirs));
            assert_eq!(sealer.rtp().overhead(), overhead);
            // Across two rollovers of the sequence number, with the sizes of audio and video.
            for index in (0..0x2_4000u32).step_by(0x3fff) {
                let (seq, roc) = (index as u16, index >> 16);
                let payload = vec![index as u8; 1 + index as usize % 1100];
                let (plain, header_len) = rtp(7, seq, &payload);
                let mut arena = plain.clone();
                sealer.rtp().seal(&mut arena, 0, header_len, roc);
                assert_eq!(
                    back.decrypt_rtp(&arena).unwrap(),
                    plain,
                    "{profile:?} {index}"
                );
                let mut theirs = out.encrypt_rtp(&plain).unwrap();
                assert_eq!(theirs, arena, "{profile:?} {index}");
                let header = opener.open_rtp(&mut theirs).unwrap();
                assert_eq!(theirs, plain, "{profile:?} {index}");
                assert_eq!((header.seq, header.header_len), (SeqNo16(seq), header_len));
            }
        }
    }

    #[test]
    fn rtcp_agrees_with_webrtc_rs_both_ways() {
        for (profile, theirs, _) in PROFILES {
            let (mut sealer, mut opener) = pair(profile, theirs);
            let (mut out, mut back) = (reference(theirs), reference(theirs));
            for ssrc in [1, 2, 1, 0xffff_ffff] {
                let plain = rtcp(ssrc);
                let mut sealed = b"before".to_vec();
                assert!(sealer.seal_rtcp(&plain, &mut sealed));
                assert_eq!(&sealed[..6], b"before");
                assert_eq!(
                    back.decrypt_rtcp(&sealed[6..]).unwrap(),
                    plain,
                    "{profile:?}"
                );
                let mut theirs = out.encrypt_rtcp(&plain).unwrap();
                opener.open_rtcp(&mut theirs).unwrap();
                assert_eq!(theirs, plain, "{profile:?}");
            }
        }
    }

    #[test]
    fn any_changed_bit_is_noticed_and_leaves_no_trace() {
        for (profile, theirs, _) in PROFILES {
            let (mut sealer, mut opener) = pair(profile, theirs);
            let good = sealed(&mut sealer, 7, 100, 0);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(opener.open_rtp(&mut bad).is_err(), "{profile:?} bit {bit}");
            }
            assert_eq!(
                opener.rtp_windows.find(7),
                Place::New(0),
                "nothing remembered"
            );
            opener.open_rtp(&mut good.clone()).unwrap();

            let mut good = Vec::new();
            assert!(sealer.seal_rtcp(&rtcp(7), &mut good));
            for bit in 0..good.len() * 8 {
                let mut bad = BytesMut::from(&good[..]);
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(opener.open_rtcp(&mut bad).is_err(), "{profile:?} bit {bit}");
            }
            assert_eq!(
                opener.rtcp_windows.find(7),
                Place::New(0),
                "nothing remembered"
            );
            opener.open_rtcp(&mut BytesMut::from(&good[..])).unwrap();
        }
    }

    #[test]
    fn each_packet_opens_once_in_any_order() {
        for (profile, theirs, _) in PROFILES {
            let (mut sealer, mut opener) = pair(profile, theirs);
            let first = sealed(&mut sealer, 7, 0xfff0, 0);
            let late = sealed(&mut sealer, 7, 0xfff5, 0);
            let wrapped = sealed(&mut sealer, 7, 3, 1);
            for (name, packet) in [("first", &first), ("wrapped", &wrapped), ("late", &late)] {
                assert!(opener.open_rtp(&mut packet.clone()).is_ok(), "{name}");
                assert_eq!(
                    opener.open_rtp(&mut packet.clone()),
                    Err(OpenError::Replayed),
                    "{name}"
                );
            }
            let mut report = Vec::new();
            assert!(sealer.seal_rtcp(&rtcp(7), &mut report));
            assert_eq!(opener.open_rtcp(&mut BytesMut::from(&report[..])), Ok(()));
            assert_eq!(
                opener.open_rtcp(&mut BytesMut::from(&report[..])),
                Err(OpenError::Replayed)
            );
        }
    }

    #[test]
    fn unencrypted_rtcp_is_refused_even_if_authentic() {
        let (profile, theirs, _) = PROFILES[2];
        let (_, mut opener) = pair(profile, theirs);
        let mut packet = BytesMut::from(&rtcp(7)[..]);
        packet.extend_from_slice(&[0, 0, 0, 1]);
        packet.extend_from_slice(&[0; 10]);
        assert_eq!(opener.open_rtcp(&mut packet), Err(OpenError::NotEncrypted));
    }

    #[test]
    fn short_and_foreign_packets_are_malformed() {
        for (profile, theirs, _) in PROFILES {
            let (_, mut opener) = pair(profile, theirs);
            for len in 0..12 {
                let mut packet = BytesMut::from(&vec![0x80; len][..]);
                assert_eq!(opener.open_rtp(&mut packet), Err(OpenError::Malformed));
            }
            for len in 0..22 {
                let mut packet = BytesMut::from(&vec![0x80; len][..]);
                assert_eq!(opener.open_rtcp(&mut packet), Err(OpenError::Malformed));
            }
            let mut packet = BytesMut::from(&[0xff; 60][..]);
            assert_eq!(opener.open_rtcp(&mut packet), Err(OpenError::Malformed));
        }
    }

    #[test]
    fn one_sender_too_many_is_refused_and_the_others_go_on() {
        let (profile, theirs, _) = PROFILES[0];
        let (mut sealer, mut opener) = pair(profile, theirs);
        for ssrc in 0..SENDERS_MAX as u32 {
            let mut packet = sealed(&mut sealer, ssrc, 1, 0);
            opener.open_rtp(&mut packet).unwrap();
        }
        let mut packet = sealed(&mut sealer, u32::MAX, 1, 0);
        assert_eq!(opener.open_rtp(&mut packet), Err(OpenError::TooManySenders));
        let mut packet = sealed(&mut sealer, 5, 2, 0);
        assert!(opener.open_rtp(&mut packet).is_ok());
    }

    #[test]
    fn sealing_rtp_is_a_function_and_sealing_rtcp_counts() {
        for (profile, theirs, _) in PROFILES {
            let (mut sealer, _) = pair(profile, theirs);
            let packet = sealed(&mut sealer, 7, 1, 0);
            assert_ne!(
                packet,
                sealed(&mut sealer, 7, 1, 1),
                "the rollover count matters"
            );
            assert_eq!(packet, sealed(&mut sealer, 7, 1, 0));
            let (mut one, mut two) = (Vec::new(), Vec::new());
            assert!(sealer.seal_rtcp(&rtcp(7), &mut one) && sealer.seal_rtcp(&rtcp(7), &mut two));
            assert_ne!(one, two);
            sealer.rtcp_index = RTCP_INDEX_END;
            assert!(
                !sealer.seal_rtcp(&rtcp(7), &mut one),
                "no index is used twice"
            );
            assert!(!sealer.seal_rtcp(&[0x80; 7], &mut two));
        }
    }
}
