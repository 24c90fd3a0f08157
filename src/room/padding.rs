//! How much padding makes packets of one encoding equally long, so that their copies share a message
//! (Linux: `UDP_SEGMENT` takes datagrams of one length, but for the last).
//!
//! Padding is RTP's own (RFC 3550 §5.1): a receiver cuts it off before it looks at the payload, and the
//! payload formats of VP8 (RFC 7741 §4), VP9 (RFC 9628 §4), H.264 (RFC 6184 §5.6) and AV1 provide for it. A
//! sender report counts octets without it (RFC 3550 §6.4.1). No negotiated header extension speaks of the
//! packet's length.

use crate::base::ids::MediaKind;
use crate::room::incoming::Incoming;
use crate::transport::outbox::SEGMENTS_MAX;

/// Sets the padding of packets that are sent one after another.
///
/// Depends on which packets happen to come together, so what it decides is kept with each packet.
pub fn equalise(mut packets: &mut [Incoming]) {
    while packets.len() > 1 {
        let (together, rest) = packets.split_at_mut(fitting(packets));
        let longest = together.iter().map(Incoming::copy_len).max();
        let longest = longest.expect("there is one packet at least");
        // The last one of a message may be shorter.
        let last = together.len() - 1;
        for packet in &mut together[..last] {
            packet.padding = (longest - packet.copy_len()) as u8;
        }
        packets = rest;
    }
}

/// How many packets from the first on can share a message.
fn fitting(packets: &[Incoming]) -> usize {
    let (mut longest, mut reach) = (0, usize::MAX);
    let most = packets.len().min(SEGMENTS_MAX);
    for (at, packet) in packets[..most].iter().enumerate() {
        let len = packet.copy_len();
        if len > reach {
            return at;
        }
        if len + padding_max(packet) < longest {
            return at + 1;
        }
        longest = longest.max(len);
        reach = reach.min(len + padding_max(packet));
    }
    most
}

/// How far a packet may be padded: a thirty-second of it, 37 bytes for one of 1200.
///
/// One more packet in a message spares about 4 µs of CPU, a byte of padding costs less than 1 ns (seal and
/// copies): for the server alone, any padding would pay. What it must not cost is the subscribers'
/// bandwidth, of which this is 3 % at worst. libwebrtc's packetisers cut a frame into parts that differ
/// by one byte, or by the header extensions of the first and last.
///
/// Sound is never padded: its packets are small and come one by one. Nor are packets that came with
/// padding: whoever sends those (to probe for bandwidth) does not send frames' parts of one length.
fn padding_max(packet: &Incoming) -> usize {
    match packet.kind {
        MediaKind::Video if !packet.was_padded => {
            (packet.payload().len() / PADDING_SHARE).min(usize::from(u8::MAX))
        }
        MediaKind::Video | MediaKind::Audio => 0,
    }
}

const PADDING_SHARE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{EncodingIndex, PayloadType, RtpTime, SeqNo, SeqNo16, Ssrc};
    use crate::base::slab::Slab;
    use crate::room::payload::PayloadKind;
    use crate::room::slots::{EncodingSlot, OfTracks};
    use crate::wire::extension::ExtensionMap;
    use crate::wire::rtp::{OutgoingHeader, RtpHeader, write_header};
    use bytes::Bytes;
    use proptest::prelude::*;

    /// A packet with a payload of `len` bytes.
    fn packet(len: usize, kind: MediaKind, padding: bool) -> Incoming {
        let encoding = EncodingSlot {
            track: Slab::<(), OfTracks>::new().insert(()),
            index: EncodingIndex::LOWEST,
        };
        let mut bytes = Vec::new();
        let fields = OutgoingHeader {
            payload_type: PayloadType(96),
            marker: false,
            seq: SeqNo16(1),
            timestamp: RtpTime(1),
            ssrc: Ssrc(1),
            padding,
        };
        write_header(&mut bytes, &fields, std::iter::empty());
        bytes.resize(bytes.len() + len, 0);
        if padding {
            bytes.push(1);
        }
        let header = RtpHeader::parse(&bytes).unwrap();
        let ids = ExtensionMap::default();
        let numbering = (SeqNo(1), RtpTime(1));
        let kind = (kind, PayloadKind::Media);
        Incoming::read(encoding, Bytes::from(bytes), &header, numbering, kind, &ids).unwrap()
    }

    fn paddings(packets: &[Incoming]) -> Vec<u8> {
        packets.iter().map(|packet| packet.padding).collect()
    }

    #[test]
    fn parts_of_a_frame_become_equal_but_for_the_last() {
        let cases: [(&[usize], &[u8]); 8] = [
            (&[1100, 1101, 1101, 1100], &[1, 0, 0, 0]),
            (&[1100, 1099, 300], &[0, 1, 0]),
            (&[1100], &[0]),
            // Too far apart to pay: the longer ones start anew.
            (&[1000, 1100, 1101], &[0, 1, 0]),
            (&[1100, 1000, 1000], &[0, 0, 0]),
            (&[1100, 1080, 1110], &[10, 30, 0]),
            (&[320, 325, 326], &[6, 1, 0]),
            (&[0, 0, 1], &[0, 0, 0]),
        ];
        for (lens, expected) in cases {
            let mut packets: Vec<_> = lens
                .iter()
                .map(|len| packet(*len, MediaKind::Video, false))
                .collect();
            equalise(&mut packets);
            assert_eq!(paddings(&packets), expected, "{lens:?}");
        }
    }

    #[test]
    fn sound_and_what_was_padded_stay_as_they_are() {
        for (kind, padding) in [(MediaKind::Audio, false), (MediaKind::Video, true)] {
            let mut packets: Vec<_> = [1100, 1101, 1102]
                .map(|len| packet(len, kind, padding))
                .into();
            equalise(&mut packets);
            assert_eq!(paddings(&packets), [0, 0, 0]);
        }
    }

    proptest! {
        #[test]
        fn padding_is_bounded_and_never_parts_more_than_before(
            lens in proptest::collection::vec(prop_oneof![0_usize..1200, 1090_usize..1110], 1..64),
        ) {
            let messages = |packets: &[Incoming], padded: bool| {
                let mut messages = 0;
                let (mut len, mut count, mut is_open) = (0, 0, false);
                for packet in packets {
                    let pad = if padded { usize::from(packet.padding) } else { 0 };
                    let this = packet.copy_len() + pad;
                    if is_open && this <= len && count < SEGMENTS_MAX {
                        (count, is_open) = (count + 1, this == len);
                    } else {
                        messages += 1;
                        (len, count, is_open) = (this, 1, true);
                    }
                }
                messages
            };
            let mut packets: Vec<_> = lens
                .iter()
                .map(|len| packet(*len, MediaKind::Video, false))
                .collect();
            equalise(&mut packets);
            for packet in &packets {
                prop_assert!(usize::from(packet.padding) <= packet.payload().len() / PADDING_SHARE);
            }
            prop_assert!(messages(&packets, true) <= messages(&packets, false));
        }
    }
}
