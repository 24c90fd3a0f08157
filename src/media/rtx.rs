//! Retransmissions on a stream of their own (RFC 4588, SSRC multiplexing): what a publisher sends there is
//! made the packet it stands for, and a subscription's are numbered.
//!
//! A retransmission's payload is the original's with its sequence number in front; all else of the header
//! is the original's but SSRC, payload type and number (RFC 4588 §4).

use bytes::{Buf, BytesMut};

use crate::base::ids::{PayloadType, SeqNo, SeqNo16, Ssrc};
use crate::wire::rtp::RtpHeader;

/// Bytes before the original's payload: its sequence number (RFC 4588 §4).
pub const OSN_LEN: usize = 2;

/// Why a packet of a retransmission stream stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRestored {
    /// It is all padding: libwebrtc probes for bandwidth with such.
    Padding,
    /// It is too short for a sequence number, or its padding runs past its start.
    Malformed,
}

/// Makes an opened packet of a retransmission stream, in place, the one it stands for: of `media`, with the
/// payload type `payload_type`. Returns that one's header.
///
/// # Errors
/// [`NotRestored`] says why it stands for none; the packet is as it was.
pub fn restore(
    packet: &mut BytesMut,
    header: &RtpHeader,
    media: Ssrc,
    payload_type: PayloadType,
) -> Result<RtpHeader, NotRestored> {
    let payload = header.payload(packet).ok_or(NotRestored::Malformed)?;
    let seq = match payload {
        [] => return Err(NotRestored::Padding),
        [_] => return Err(NotRestored::Malformed),
        [high, low, ..] => SeqNo16(u16::from_be_bytes([*high, *low])),
    };
    // The header moves up to the payload, over the number.
    packet.copy_within(..header.header_len, OSN_LEN);
    packet.advance(OSN_LEN);
    let mut restored = *header;
    (restored.payload_type, restored.seq, restored.ssrc) = (payload_type, seq, media);
    restored.write_names(packet);
    Ok(restored)
}

/// The numbers of one retransmission stream: each goes out once, so that no nonce stands for two packets
/// (RFC 7714 §8.2).
#[derive(Debug)]
pub struct RtxNumbers {
    next: SeqNo,
}

impl RtxNumbers {
    /// Starts at `first` with rollover count 0: chosen at random, below 2^15 (RFC 3711 §3.3.1).
    #[must_use]
    pub fn new(first: u16) -> Self {
        Self {
            next: SeqNo(u64::from(first & 0x7fff)),
        }
    }

    /// A number that no packet had.
    pub fn take(&mut self) -> SeqNo {
        let seq = self.next;
        self.next = SeqNo(seq.0 + 1);
        seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RtpTime;
    use crate::wire::extension::ExtensionId;
    use crate::wire::rtp::{OutgoingHeader, write_header};

    fn fields(payload_type: u8, seq: u16, ssrc: u32, padding: bool) -> OutgoingHeader {
        OutgoingHeader {
            payload_type: PayloadType(payload_type),
            marker: true,
            seq: SeqNo16(seq),
            timestamp: RtpTime(77),
            ssrc: Ssrc(ssrc),
            padding,
        }
    }

    fn packet(fields: &OutgoingHeader, payload: &[u8]) -> BytesMut {
        let mut bytes = Vec::new();
        let id = ExtensionId::new(3).unwrap();
        write_header(&mut bytes, fields, [(id, &b"mid"[..])].into_iter());
        bytes.extend_from_slice(payload);
        BytesMut::from(&bytes[..])
    }

    #[test]
    fn the_original_comes_back_byte_for_byte() {
        for (padding, tail) in [(false, &[][..]), (true, &[0, 0, 3][..])] {
            let original = packet(
                &fields(96, 65_535, 1, padding),
                &[&b"frame"[..], tail].concat(),
            );
            let payload = [&[0xff, 0xff][..], b"frame", tail].concat();
            let mut rtx = packet(&fields(97, 5, 2, padding), &payload);
            let header = RtpHeader::parse(&rtx).unwrap();
            let restored = restore(&mut rtx, &header, Ssrc(1), PayloadType(96)).unwrap();
            assert_eq!(rtx, original);
            assert_eq!(RtpHeader::parse(&rtx), Some(restored));
        }
    }

    #[test]
    fn padding_and_rubbish_stand_for_nothing() {
        let cases: [(bool, &[u8], NotRestored); 4] = [
            (true, &[0, 0, 3], NotRestored::Padding),
            (false, &[], NotRestored::Padding),
            (false, &[1], NotRestored::Malformed),
            (true, &[1, 2, 9], NotRestored::Malformed),
        ];
        for (padding, payload, expected) in cases {
            let mut rtx = packet(&fields(97, 5, 2, padding), payload);
            let (before, header) = (rtx.clone(), RtpHeader::parse(&rtx).unwrap());
            let restored = restore(&mut rtx, &header, Ssrc(1), PayloadType(96));
            assert_eq!(restored, Err(expected), "{payload:?}");
            assert_eq!(rtx, before);
        }
    }

    #[test]
    fn numbers_only_rise() {
        let mut numbers = RtxNumbers::new(0xffff);
        let taken: Vec<u64> = (0..3).map(|_| numbers.take().0).collect();
        assert_eq!(taken, [0x7fff, 0x8000, 0x8001]);
    }
}
