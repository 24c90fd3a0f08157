//! RTP packets (RFC 3550 §5.1, RFC 8285) and what a datagram carries (RFC 7983).
//!
//! Works on borrowed bytes: nothing here allocates, but for the output buffer of [`write_header`]
//! growing. Knows nothing of keys: a header can be read before its payload is decrypted.

use crate::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc};
use crate::wire::extension::ExtensionId;

/// What a datagram carries, told by its first byte (RFC 7983 §7), RTCP by its second (RFC 5761 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// A STUN message (RFC 8489).
    Stun,
    /// DTLS records (RFC 6347).
    Dtls,
    /// An RTP packet, protected by SRTP.
    Rtp,
    /// An RTCP compound packet, protected by SRTCP.
    Rtcp,
    /// Nothing this server takes: ZRTP, a TURN channel, an empty or unknown datagram.
    Other,
}

impl PacketKind {
    /// Tells what `datagram` claims to be; whether it is that, its parser decides.
    #[must_use]
    pub fn of(datagram: &[u8]) -> Self {
        match datagram {
            [0..=3, ..] => Self::Stun,
            [20..=63, ..] => Self::Dtls,
            [128..=191, 192..=223, ..] => Self::Rtcp,
            [128..=191, _, ..] => Self::Rtp,
            _ => Self::Other,
        }
    }
}

/// The header of one RTP packet (RFC 3550 §5.1), as values and offsets into the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// The payload type.
    pub payload_type: PayloadType,
    /// The marker bit: for video the last packet of a frame.
    pub marker: bool,
    /// The sequence number.
    pub seq: SeqNo16,
    /// The timestamp.
    pub timestamp: RtpTime,
    /// The synchronization source.
    pub ssrc: Ssrc,
    /// Whether the packet ends with padding.
    pub padding: bool,
    /// How many contributing sources are listed (0–15).
    pub csrc_count: u8,
    /// Bytes of fixed header, CSRC list and extension block: where the payload begins.
    pub header_len: usize,
    /// The extension elements, where the packet has a block of a form that RFC 8285 defines.
    extension: Option<ExtensionBlock>,
}

/// Where the elements of a header extension are and how they are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ExtensionBlock {
    start: usize,
    form: ExtensionForm,
}

/// The two layouts of RFC 8285.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtensionForm {
    /// RFC 8285 §4.2.
    OneByte,
    /// RFC 8285 §4.3.
    TwoByte,
}

impl RtpHeader {
    /// Reads the header of `packet`, encrypted or not. `None` where a length leads outside of the
    /// packet or the version is not 2. An extension block of an unknown profile is stepped over.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (fixed, rest) = packet.split_first_chunk::<FIXED_LEN>()?;
        if fixed[0] >> 6 != VERSION {
            return None;
        }
        let csrc_count = fixed[0] & 0x0f;
        let csrc_len = usize::from(csrc_count) * 4;
        let mut header_len = FIXED_LEN + csrc_len;
        let mut extension = None;
        if fixed[0] & EXTENSION_BIT != 0 {
            let (block, body) = rest
                .get(csrc_len..)?
                .split_first_chunk::<EXTENSION_HEADER_LEN>()?;
            let profile = u16::from_be_bytes([block[0], block[1]]);
            let len = usize::from(u16::from_be_bytes([block[2], block[3]])) * 4;
            if body.len() < len {
                return None;
            }
            let start = header_len + EXTENSION_HEADER_LEN;
            header_len = start + len;
            extension =
                ExtensionForm::of_profile(profile).map(|form| ExtensionBlock { start, form });
        }
        if packet.len() < header_len {
            return None;
        }
        Some(Self {
            payload_type: PayloadType(fixed[1] & 0x7f),
            marker: fixed[1] & MARKER_BIT != 0,
            seq: SeqNo16(u16::from_be_bytes([fixed[2], fixed[3]])),
            timestamp: RtpTime(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])),
            ssrc: Ssrc(u32::from_be_bytes([
                fixed[8], fixed[9], fixed[10], fixed[11],
            ])),
            padding: fixed[0] & PADDING_BIT != 0,
            csrc_count,
            header_len,
            extension,
        })
    }

    /// Writes payload type, sequence number and SSRC into a packet that is otherwise as this header says. One
    /// that is shorter than a header is left as it is.
    pub fn write_names(&self, packet: &mut [u8]) {
        let Some(fixed) = packet.first_chunk_mut::<FIXED_LEN>() else {
            return;
        };
        fixed[1] = (fixed[1] & MARKER_BIT) | (self.payload_type.0 & !MARKER_BIT);
        fixed[2..4].copy_from_slice(&self.seq.0.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.0.to_be_bytes());
    }

    /// The extension elements of `packet`, which must be the packet this header was read from (of
    /// another, the elements mean nothing, but nothing worse happens).
    #[must_use]
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> ExtensionIter<'a> {
        let (rest, form) = match self.extension {
            Some(block) => (
                packet.get(block.start..self.header_len).unwrap_or(&[]),
                block.form,
            ),
            None => (&[] as &[u8], ExtensionForm::OneByte),
        };
        ExtensionIter { rest, form }
    }

    /// The payload of `packet`, decrypted, without padding. `None` where the padding's length is 0
    /// or more than there is (RFC 3550 §5.1). Empty for a packet that is all padding.
    #[must_use]
    pub fn payload<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let body = packet.get(self.header_len..)?;
        if !self.padding {
            return Some(body);
        }
        let padding_len = usize::from(*body.last()?);
        if padding_len == 0 {
            return None;
        }
        body.get(..body.len().checked_sub(padding_len)?)
    }
}

impl ExtensionForm {
    fn of_profile(profile: u16) -> Option<Self> {
        if profile == ONE_BYTE_PROFILE {
            Some(Self::OneByte)
        } else if profile & 0xfff0 == TWO_BYTE_PROFILE {
            // The low four bits are the application's (RFC 8285 §4.3).
            Some(Self::TwoByte)
        } else {
            None
        }
    }
}

/// The elements of one header extension, in order. Ends at the first one that is malformed.
#[derive(Debug, Clone)]
pub struct ExtensionIter<'a> {
    rest: &'a [u8],
    form: ExtensionForm,
}

impl<'a> ExtensionIter<'a> {
    fn take(&mut self, header_len: usize, len: usize) -> Option<&'a [u8]> {
        let value = self.rest.get(header_len..header_len + len);
        self.rest = match value {
            Some(_) => &self.rest[header_len + len..],
            None => &[],
        };
        value
    }
}

impl<'a> Iterator for ExtensionIter<'a> {
    type Item = (ExtensionId, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let first = *self.rest.first()?;
            if first == 0 {
                self.rest = &self.rest[1..];
                continue;
            }
            let (id, value) = match self.form {
                ExtensionForm::OneByte => {
                    let (id, len) = (first >> 4, usize::from(first & 0x0f) + 1);
                    if id == 0 || id == 15 {
                        // RFC 8285 §4.2: both end the block here.
                        self.rest = &[];
                        return None;
                    }
                    (id, self.take(1, len)?)
                }
                ExtensionForm::TwoByte => {
                    let Some(len) = self.rest.get(1).copied() else {
                        self.rest = &[];
                        return None;
                    };
                    (first, self.take(2, usize::from(len))?)
                }
            };
            // 15 cannot be negotiated (RFC 8285 §4.2): such an element is nobody's.
            if let Some(id) = ExtensionId::new(id) {
                return Some((id, value));
            }
        }
    }
}

/// The fields of a header to be written. There is no CSRC list: this server never mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingHeader {
    /// The payload type; only the low 7 bits are written.
    pub payload_type: PayloadType,
    /// The marker bit.
    pub marker: bool,
    /// The sequence number.
    pub seq: SeqNo16,
    /// The timestamp.
    pub timestamp: RtpTime,
    /// The synchronization source.
    pub ssrc: Ssrc,
    /// Whether what is appended after the header ends with padding.
    pub padding: bool,
}

/// Appends an RTP header to `out` and returns its length in bytes.
///
/// The extension block has the one-byte form where every id is at most 14 and every value has 1–16
/// bytes, and else the two-byte form, padded to 32 bits; there is none where `extensions` is empty.
/// An element that no form can carry (more than 255 bytes) and all after the first
/// [`EXTENSIONS_MAX`] are left out: every caller takes them from a packet that had no more.
pub fn write_header<'a>(
    out: &mut Vec<u8>,
    fields: &OutgoingHeader,
    extensions: impl Iterator<Item = (ExtensionId, &'a [u8])>,
) -> usize {
    let start = out.len();
    out.extend_from_slice(&fixed_header(fields));
    // The form depends on all elements, so they are noted first.
    let mut elements: [Option<(ExtensionId, &[u8])>; EXTENSIONS_MAX] = [None; EXTENSIONS_MAX];
    let mut count = 0;
    let mut one_byte = true;
    let carried = extensions.filter(|(_, value)| value.len() <= ELEMENT_LEN_MAX);
    for (slot, (id, value)) in elements.iter_mut().zip(carried) {
        one_byte &= id.value() <= 14 && (1..=16).contains(&value.len());
        *slot = Some((id, value));
        count += 1;
    }
    if count == 0 {
        return out.len() - start;
    }
    out[start] |= EXTENSION_BIT;
    let profile = if one_byte {
        ONE_BYTE_PROFILE
    } else {
        TWO_BYTE_PROFILE
    };
    out.extend_from_slice(&profile.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    let block = out.len();
    for (id, value) in elements.into_iter().flatten() {
        if one_byte {
            out.push(id.value() << 4 | (value.len() - 1) as u8);
        } else {
            out.extend_from_slice(&[id.value(), value.len() as u8]);
        }
        out.extend_from_slice(value);
    }
    let len = (out.len() - block).next_multiple_of(4);
    out.resize(block + len, 0);
    out[block - 2..block].copy_from_slice(&((len / 4) as u16).to_be_bytes());
    out.len() - start
}

fn fixed_header(fields: &OutgoingHeader) -> [u8; FIXED_LEN] {
    let mut fixed = [0; FIXED_LEN];
    fixed[0] = VERSION << 6;
    if fields.padding {
        fixed[0] |= PADDING_BIT;
    }
    fixed[1] = fields.payload_type.0 & 0x7f;
    if fields.marker {
        fixed[1] |= MARKER_BIT;
    }
    fixed[2..4].copy_from_slice(&fields.seq.0.to_be_bytes());
    fixed[4..8].copy_from_slice(&fields.timestamp.0.to_be_bytes());
    fixed[8..12].copy_from_slice(&fields.ssrc.0.to_be_bytes());
    fixed
}

/// The most extension elements that [`write_header`] writes: twice what this server negotiates.
pub const EXTENSIONS_MAX: usize = 16;

/// What the two-byte form's length field can say.
const ELEMENT_LEN_MAX: usize = 255;
/// Bytes before the CSRC list (RFC 3550 §5.1).
const FIXED_LEN: usize = 12;
/// Bytes of profile and length before the extension elements (RFC 3550 §5.3.1).
const EXTENSION_HEADER_LEN: usize = 4;
const VERSION: u8 = 2;
const PADDING_BIT: u8 = 0x20;
const EXTENSION_BIT: u8 = 0x10;
const MARKER_BIT: u8 = 0x80;
/// RFC 8285 §4.2.
const ONE_BYTE_PROFILE: u16 = 0xbede;
/// RFC 8285 §4.3, with the application bits 0.
const TWO_BYTE_PROFILE: u16 = 0x1000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields() -> OutgoingHeader {
        OutgoingHeader {
            payload_type: PayloadType(96),
            marker: true,
            seq: SeqNo16(0xfffe),
            timestamp: RtpTime(0xdead_beef),
            ssrc: Ssrc(0x0102_0304),
            padding: false,
        }
    }

    fn written(elements: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let elements = elements
            .iter()
            .map(|(id, value)| (ExtensionId::new(*id).unwrap(), *value));
        let len = write_header(&mut out, &fields(), elements);
        assert_eq!(&out[..6], b"before");
        assert_eq!(out.len(), 6 + len);
        out.split_off(6)
    }

    fn read_elements(packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let header = RtpHeader::parse(packet).unwrap();
        header
            .extensions(packet)
            .map(|(id, value)| (id.value(), value.to_vec()))
            .collect()
    }

    fn with_block(profile: u16, block: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend_from_slice(&profile.to_be_bytes());
        packet.extend_from_slice(&((block.len() / 4) as u16).to_be_bytes());
        packet.extend_from_slice(block);
        packet
    }

    #[test]
    fn first_bytes_tell_the_kind() {
        let cases: [(&[u8], PacketKind); 12] = [
            (&[], PacketKind::Other),
            (&[0, 1], PacketKind::Stun),
            (&[3], PacketKind::Stun),
            (&[4], PacketKind::Other),
            (&[16], PacketKind::Other), // ZRTP
            (&[20], PacketKind::Dtls),
            (&[63], PacketKind::Dtls),
            (&[64], PacketKind::Other), // TURN channel
            (&[128, 191], PacketKind::Rtp),
            (&[128, 192], PacketKind::Rtcp),
            (&[191, 223], PacketKind::Rtcp),
            (&[191, 224], PacketKind::Rtp),
        ];
        for (datagram, kind) in cases {
            assert_eq!(PacketKind::of(datagram), kind, "{datagram:?}");
        }
        assert_eq!(PacketKind::of(&[192, 200]), PacketKind::Other);
        assert_eq!(PacketKind::of(&[128]), PacketKind::Other);
    }

    #[test]
    fn header_fields_are_where_the_rfc_puts_them() {
        let packet = [
            0xb2, 0xe0, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7,
            8, // fixed: P, X, two CSRCs, M, PT 96
            9, 9, 9, 9, 9, 9, 9, 9, // CSRCs
            0xbe, 0xde, 0, 1, 0x30, 0x77, 0, 0, // one element, padded
            0xaa, 0xbb, 0, 2, // payload with two bytes of padding
        ];
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(header.payload_type, PayloadType(96));
        assert!(header.marker && header.padding);
        assert_eq!(header.seq, SeqNo16(0x1234));
        assert_eq!(header.timestamp, RtpTime(0x0102_0304));
        assert_eq!(header.ssrc, Ssrc(0x0506_0708));
        assert_eq!((header.csrc_count, header.header_len), (2, 28));
        assert_eq!(header.payload(&packet), Some(&[0xaa, 0xbb][..]));
        assert_eq!(read_elements(&packet), [(3, vec![0x77])]);
        for len in 0..28 {
            assert!(RtpHeader::parse(&packet[..len]).is_none(), "{len} bytes");
        }
        let mut version_1 = packet;
        version_1[0] = 0x72;
        assert!(RtpHeader::parse(&version_1).is_none());
    }

    #[test]
    fn padding_is_validated() {
        let mut packet = vec![0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(header.payload(&packet), None, "no padding count at all");
        packet.extend_from_slice(&[7, 7, 0]);
        assert_eq!(header.payload(&packet), None, "a count of 0");
        *packet.last_mut().unwrap() = 4;
        assert_eq!(header.payload(&packet), None, "more than there is");
        *packet.last_mut().unwrap() = 3;
        assert_eq!(header.payload(&packet), Some(&[][..]), "padding only");
    }

    #[test]
    fn hostile_extension_blocks_end_where_they_break() {
        type Case<'a> = (&'a str, u16, &'a [u8], Vec<(u8, Vec<u8>)>);
        let none: Vec<(u8, Vec<u8>)> = vec![];
        let cases: [Case<'_>; 9] = [
            (
                "padding between",
                0xbede,
                &[0, 0x10, 1, 0, 0x20, 2, 0, 0],
                vec![(1, vec![1]), (2, vec![2])],
            ),
            (
                "value beyond the block",
                0xbede,
                &[0x10, 1, 0x2f, 2],
                vec![(1, vec![1])],
            ),
            (
                "id 15 ends",
                0xbede,
                &[0x10, 1, 0xf0, 2, 0x20, 3, 0, 0],
                vec![(1, vec![1])],
            ),
            (
                "id 0 with a length ends",
                0xbede,
                &[0x01, 9, 9, 0x10],
                none.clone(),
            ),
            (
                "two-byte, empty value",
                0x1000,
                &[1, 0, 2, 1, 7, 0, 0, 0],
                vec![(1, vec![]), (2, vec![7])],
            ),
            (
                "two-byte, application bits",
                0x1005,
                &[20, 1, 7, 0],
                vec![(20, vec![7])],
            ),
            (
                "two-byte, cut length",
                0x1000,
                &[1, 1, 7, 2],
                vec![(1, vec![7])],
            ),
            (
                "two-byte, id 15 is skipped",
                0x1000,
                &[15, 1, 7, 3, 1, 8, 0, 0],
                vec![(3, vec![8])],
            ),
            ("unknown profile", 0x2000, &[0x10, 1, 0, 0], none),
        ];
        for (name, profile, block, expected) in cases {
            assert_eq!(
                read_elements(&with_block(profile, block)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn the_shortest_form_that_fits_is_written() {
        let long = [7u8; 17];
        type Case<'a> = (&'a str, &'a [(u8, &'a [u8])], Option<u16>, usize);
        let cases: [Case<'_>; 6] = [
            ("none", &[], None, 12),
            (
                "one byte",
                &[(1, b"a"), (14, b"0123456789abcdef")],
                Some(0xbede),
                36,
            ),
            ("padded", &[(1, b"ab")], Some(0xbede), 20),
            ("id above 14", &[(16, b"a")], Some(0x1000), 20),
            ("empty value", &[(1, b"")], Some(0x1000), 20),
            ("long value", &[(1, &long)], Some(0x1000), 36),
        ];
        for (name, elements, profile, len) in cases {
            let packet = written(elements);
            assert_eq!(packet.len(), len, "{name}");
            let read = (packet.len() > 12).then(|| u16::from_be_bytes([packet[12], packet[13]]));
            assert_eq!(read, profile, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_carried_is_left_out() {
        let huge = [0u8; 256];
        assert_eq!(written(&[(1, &huge)]).len(), 12);
        let many: Vec<(u8, &[u8])> = (0..20).map(|_| (1, &b"x"[..])).collect();
        assert_eq!(read_elements(&written(&many)).len(), EXTENSIONS_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(packet in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = PacketKind::of(&packet);
            if let Some(header) = RtpHeader::parse(&packet) {
                prop_assert!(header.header_len <= packet.len());
                let _ = header.payload(&packet);
                let block_len: usize = header.extensions(&packet).map(|(_, v)| v.len()).sum();
                prop_assert!(block_len <= packet.len());
            }
        }

        #[test]
        fn extension_bytes_never_escape_the_block(
            two_byte in any::<bool>(),
            mut block in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            block.resize(block.len().next_multiple_of(4), 0);
            let packet = with_block(if two_byte { 0x1000 } else { 0xbede }, &block);
            let header = RtpHeader::parse(&packet).unwrap();
            let total: usize = header.extensions(&packet).map(|(_, v)| v.len() + 1).sum();
            prop_assert!(total <= block.len());
        }

        #[test]
        fn what_is_written_reads_back(
            payload_type in 0u8..128, marker: bool, padding: bool,
            seq: u16, timestamp: u32, ssrc: u32,
            elements in proptest::collection::vec(
                (1u8..=255, proptest::collection::vec(any::<u8>(), 0..40)), 0..EXTENSIONS_MAX),
        ) {
            let fields = OutgoingHeader {
                payload_type: PayloadType(payload_type), marker, padding,
                seq: SeqNo16(seq), timestamp: RtpTime(timestamp), ssrc: Ssrc(ssrc),
            };
            let elements: Vec<(ExtensionId, &[u8])> = elements.iter()
                .filter_map(|(id, value)| Some((ExtensionId::new(*id)?, &value[..])))
                .collect();
            let mut packet = Vec::new();
            let len = write_header(&mut packet, &fields, elements.iter().copied());
            let header = RtpHeader::parse(&packet).unwrap();
            prop_assert_eq!(header.header_len, len);
            prop_assert_eq!(
                (header.payload_type, header.marker, header.padding),
                (fields.payload_type, marker, padding)
            );
            prop_assert_eq!(
                (header.seq, header.timestamp, header.ssrc),
                (fields.seq, fields.timestamp, fields.ssrc)
            );
            let read: Vec<_> = header.extensions(&packet).collect();
            prop_assert_eq!(read, elements);
        }
    }
}
