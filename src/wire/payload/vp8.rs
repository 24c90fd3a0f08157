//! The VP8 payload descriptor (RFC 7741 §4.2) and the first bytes of a keyframe (RFC 6386 §9.1).

use crate::wire::payload::numbers::{PictureId, Tl0PicIdx};

/// What the descriptor of one VP8 packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// The packet begins a frame: its first partition starts here (S and PID).
    pub starts_frame: bool,
    /// No other frame refers to this one (N).
    pub is_discardable: bool,
    /// The frame's number.
    pub picture_id: Option<PictureId>,
    /// The number of the frame of the lowest temporal layer that this one builds on, or that it is.
    pub tl0_pic_idx: Option<Tl0PicIdx>,
    /// The temporal layer.
    pub temporal: Option<u8>,
    /// The frame builds on the lowest temporal layer only (Y).
    pub is_layer_sync: bool,
    /// The frame is a keyframe; known of its first packet only.
    pub is_keyframe: bool,
    /// A keyframe's width and height in pixels.
    pub size: Option<(u16, u16)>,
}

impl Vp8Descriptor {
    /// Reads the start of a payload. `None` if the descriptor runs past its end.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut at = 1;
        let mut byte = || {
            at += 1;
            payload.get(at - 1).copied()
        };
        let extended = if first & EXTENDED != 0 { byte()? } else { 0 };
        let mut descriptor = Self {
            starts_frame: first & START != 0 && first & PARTITION == 0,
            is_discardable: first & NON_REFERENCE != 0,
            picture_id: None,
            tl0_pic_idx: None,
            temporal: None,
            is_layer_sync: false,
            is_keyframe: false,
            size: None,
        };
        if extended & HAS_PICTURE_ID != 0 {
            let id = PictureId::read(payload, at)?;
            at += id.bytes_len();
            descriptor.picture_id = Some(id);
        }
        if extended & HAS_TL0_PIC_IDX != 0 {
            descriptor.tl0_pic_idx = Some(Tl0PicIdx::read(payload, at)?);
            at += 1;
        }
        if extended & (HAS_TEMPORAL | HAS_KEY_INDEX) != 0 {
            let layer = *payload.get(at)?;
            at += 1;
            if extended & HAS_TEMPORAL != 0 {
                descriptor.temporal = Some(layer >> 6);
                descriptor.is_layer_sync = layer & LAYER_SYNC != 0;
            }
        }
        let frame = payload.get(at..)?;
        if descriptor.starts_frame {
            descriptor.is_keyframe = frame.first()? & INTER_FRAME == 0;
            if descriptor.is_keyframe {
                descriptor.size = size_of_keyframe(frame);
            }
        }
        Some(descriptor)
    }
}

/// Width and height, from the uncompressed part of a keyframe's header (RFC 6386 §9.1); the upper two
/// bits of each are a scale that decoders leave to who displays.
fn size_of_keyframe(frame: &[u8]) -> Option<(u16, u16)> {
    let header = frame.get(..10)?;
    if header[3..6] != START_CODE {
        return None;
    }
    let width = u16::from_le_bytes([header[6], header[7]]) & 0x3fff;
    let height = u16::from_le_bytes([header[8], header[9]]) & 0x3fff;
    (width > 0 && height > 0).then_some((width, height))
}

// The first byte: X R N S R PID.
const EXTENDED: u8 = 0x80;
const NON_REFERENCE: u8 = 0x20;
const START: u8 = 0x10;
const PARTITION: u8 = 0x07;
// The second: I L T K RSV.
const HAS_PICTURE_ID: u8 = 0x80;
const HAS_TL0_PIC_IDX: u8 = 0x40;
const HAS_TEMPORAL: u8 = 0x20;
const HAS_KEY_INDEX: u8 = 0x10;
// TID Y KEYIDX.
const LAYER_SYNC: u8 = 0x20;
// The frame's own first byte (RFC 6386 §9.1).
const INTER_FRAME: u8 = 0x01;
const START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];

#[cfg(test)]
mod tests {
    use super::*;

    /// X=1 S=1, all four optional fields, picture id 0x1234, TL0PICIDX 7, TID 2, Y, KEYIDX 3, then a
    /// keyframe of 1280x720 with a scale.
    const KEYFRAME: [u8; 16] = [
        0x90, 0xf0, 0x92, 0x34, 7, 0xa3, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x00, 0x45, 0xd0, 0x02,
    ];

    #[test]
    fn reads_every_field() {
        let descriptor = Vp8Descriptor::parse(&KEYFRAME).unwrap();
        assert_eq!(descriptor.picture_id.unwrap().value, 0x1234);
        assert!(descriptor.picture_id.unwrap().is_long);
        assert_eq!(descriptor.tl0_pic_idx.unwrap().value, 7);
        assert_eq!(descriptor.temporal, Some(2));
        assert!(descriptor.is_layer_sync && descriptor.starts_frame && descriptor.is_keyframe);
        assert_eq!(descriptor.size, Some((1280, 720)));
    }

    #[test]
    fn fields_are_optional() {
        // (payload, starts, keyframe, picture id, temporal)
        let cases = [
            // No extension: a delta frame's start; a later partition; the middle of the first one.
            (&[0x10, 0x01][..], true, false, None, None),
            (&[0x11, 0x00], false, false, None, None),
            (&[0x00, 0x00], false, false, None, None),
            // A keyframe too short for its size.
            (&[0x10, 0x00], true, true, None, None),
            // A picture id of 7 bits.
            (&[0x90, 0x80, 0x7f, 1], true, false, Some(127), None),
            // KEYIDX only: the same byte, but no layer.
            (&[0x90, 0x10, 0xff, 1], true, false, None, None),
            (&[0x90, 0x20, 0x40, 1], true, false, None, Some(1)),
        ];
        for (payload, starts, keyframe, picture_id, temporal) in cases {
            let d = Vp8Descriptor::parse(payload).unwrap();
            assert_eq!(
                (d.starts_frame, d.is_keyframe, d.temporal),
                (starts, keyframe, temporal),
                "{payload:x?}"
            );
            assert_eq!(d.picture_id.map(|id| id.value), picture_id, "{payload:x?}");
            assert_eq!(d.size, None);
        }
    }

    #[test]
    fn numbers_are_written_where_they_were_read() {
        let descriptor = Vp8Descriptor::parse(&KEYFRAME).unwrap();
        let mut copy = KEYFRAME;
        descriptor.picture_id.unwrap().write(&mut copy, 0x7fff);
        descriptor.tl0_pic_idx.unwrap().write(&mut copy, 200);
        let again = Vp8Descriptor::parse(&copy).unwrap();
        assert_eq!(again.picture_id.unwrap().value, 0x7fff);
        assert_eq!(again.tl0_pic_idx.unwrap().value, 200);
        assert_eq!(again.temporal, Some(2));
        assert_eq!(copy[5..], KEYFRAME[5..]);
    }

    #[test]
    fn malformed_packets_are_refused_or_read() {
        for len in 0..7 {
            assert_eq!(Vp8Descriptor::parse(&KEYFRAME[..len]), None, "{len} bytes");
        }
        for len in 7..KEYFRAME.len() {
            let descriptor = Vp8Descriptor::parse(&KEYFRAME[..len]).unwrap();
            assert_eq!(descriptor.size, None, "{len} bytes");
        }
        for bit in 0..KEYFRAME.len() * 8 {
            let mut flipped = KEYFRAME;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = Vp8Descriptor::parse(&flipped);
        }
    }
}
