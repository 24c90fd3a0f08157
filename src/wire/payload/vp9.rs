//! The VP9 payload descriptor (RFC 9628 §4.2), flexible and non-flexible.

use crate::wire::payload::numbers::{PictureId, Tl0PicIdx};

/// What the descriptor of one VP9 packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp9Descriptor {
    /// The picture's number (I): one for all spatial layers of one moment.
    pub picture_id: Option<PictureId>,
    /// The frame builds on earlier pictures (P).
    pub is_inter_picture: bool,
    /// The frame names its references (F).
    pub is_flexible: bool,
    /// The packet begins a frame of one spatial layer (B).
    pub starts_frame: bool,
    /// The packet ends one (E).
    pub ends_frame: bool,
    /// No upper spatial layer of this picture builds on this frame (Z).
    pub is_not_inter_layer_reference: bool,
    /// Which layer it belongs to (L).
    pub layer: Option<Vp9Layer>,
    /// The number of the picture of the lowest temporal layer; non-flexible mode only.
    pub tl0_pic_idx: Option<Tl0PicIdx>,
    /// How many pictures back each reference lies; flexible mode only.
    references: [u8; REFERENCES_MAX],
    references_len: u8,
    /// What the stream is made of (V).
    pub structure: Option<Vp9Structure>,
}

/// The layer indices of one packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vp9Layer {
    /// The temporal layer (TID).
    pub temporal: u8,
    /// From here on, higher temporal layers build on nothing above this layer that came before (U).
    pub is_switching_up_point: bool,
    /// The spatial layer (SID).
    pub spatial: u8,
    /// The frame builds on the next lower spatial layer of its picture (D).
    pub is_inter_layer: bool,
}

/// The scalability structure (RFC 9628 §4.2.1), as far as a server follows it: its picture group only says
/// what the layer indices of each packet say again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp9Structure {
    /// How many spatial layers there are, 1–8.
    pub spatial_layers: u8,
    sizes: [(u16, u16); SPATIAL_MAX],
    has_sizes: bool,
}

impl Vp9Descriptor {
    /// Reads the start of a payload. `None` if the descriptor runs past its end, or names more than three
    /// references.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let flags = *payload.first()?;
        let is = |bit: u8| flags & bit != 0;
        let mut at = 1;
        let mut picture_id = None;
        if is(HAS_PICTURE_ID) {
            let id = PictureId::read(payload, at)?;
            at += id.bytes_len();
            picture_id = Some(id);
        }
        let (mut layer, mut tl0_pic_idx) = (None, None);
        if is(HAS_LAYER) {
            layer = Some(Vp9Layer::read(*payload.get(at)?));
            at += 1;
            if !is(FLEXIBLE) {
                tl0_pic_idx = Some(Tl0PicIdx::read(payload, at)?);
                at += 1;
            }
        }
        let (mut references, mut references_len) = ([0; REFERENCES_MAX], 0);
        if is(FLEXIBLE) && is(INTER_PICTURE) {
            loop {
                let reference = *payload.get(at)?;
                at += 1;
                *references.get_mut(references_len)? = reference >> 1;
                references_len += 1;
                if reference & MORE_REFERENCES == 0 {
                    break;
                }
            }
        }
        let structure = match is(HAS_STRUCTURE) {
            true => Some(Vp9Structure::read(payload, &mut at)?),
            false => None,
        };
        payload.get(at..)?;
        Some(Self {
            picture_id,
            is_inter_picture: is(INTER_PICTURE),
            is_flexible: is(FLEXIBLE),
            starts_frame: is(STARTS_FRAME),
            ends_frame: is(ENDS_FRAME),
            is_not_inter_layer_reference: is(NOT_INTER_LAYER_REFERENCE),
            layer,
            tl0_pic_idx,
            references,
            references_len: references_len as u8,
            structure,
        })
    }

    /// How many pictures back each reference lies (P_DIFF); flexible mode only.
    #[must_use]
    pub fn references(&self) -> &[u8] {
        &self.references[..usize::from(self.references_len)]
    }
}

impl Vp9Layer {
    fn read(byte: u8) -> Self {
        Self {
            temporal: byte >> 5,
            is_switching_up_point: byte & SWITCHING_UP_POINT != 0,
            spatial: byte >> 1 & 0x07,
            is_inter_layer: byte & INTER_LAYER != 0,
        }
    }
}

impl Vp9Structure {
    fn read(payload: &[u8], at: &mut usize) -> Option<Self> {
        let mut byte = || {
            *at += 1;
            payload.get(*at - 1).copied()
        };
        let head = byte()?;
        let mut structure = Self {
            spatial_layers: (head >> 5) + 1,
            sizes: [(0, 0); SPATIAL_MAX],
            has_sizes: head & HAS_SIZES != 0,
        };
        if structure.has_sizes {
            for size in &mut structure.sizes[..usize::from(structure.spatial_layers)] {
                let width = u16::from_be_bytes([byte()?, byte()?]);
                *size = (width, u16::from_be_bytes([byte()?, byte()?]));
            }
        }
        if head & HAS_PICTURE_GROUP != 0 {
            for _ in 0..byte()? {
                let references = byte()? >> 2 & 0x03;
                for _ in 0..references {
                    byte()?;
                }
            }
        }
        Some(structure)
    }

    /// Width and height of a spatial layer in pixels.
    #[must_use]
    pub fn size(&self, spatial: u8) -> Option<(u16, u16)> {
        let is_known = self.has_sizes && spatial < self.spatial_layers;
        self.sizes
            .get(usize::from(spatial))
            .copied()
            .filter(|_| is_known)
    }
}

/// RFC 9628 §4.2: "up to 3 times".
const REFERENCES_MAX: usize = 3;
/// SID has three bits.
const SPATIAL_MAX: usize = 8;
// The first byte: I P L F B E V Z.
const HAS_PICTURE_ID: u8 = 0x80;
const INTER_PICTURE: u8 = 0x40;
const HAS_LAYER: u8 = 0x20;
const FLEXIBLE: u8 = 0x10;
const STARTS_FRAME: u8 = 0x08;
const ENDS_FRAME: u8 = 0x04;
const HAS_STRUCTURE: u8 = 0x02;
const NOT_INTER_LAYER_REFERENCE: u8 = 0x01;
// TID U SID D.
const SWITCHING_UP_POINT: u8 = 0x10;
const INTER_LAYER: u8 = 0x01;
// P_DIFF N.
const MORE_REFERENCES: u8 = 0x01;
// N_S Y G.
const HAS_SIZES: u8 = 0x10;
const HAS_PICTURE_GROUP: u8 = 0x08;

#[cfg(test)]
mod tests {
    use super::*;

    /// I L B V: a keyframe's first packet, picture id 0x0102, TID 0, U, SID 0, TL0PICIDX 9; three spatial
    /// layers with sizes, a picture group of two.
    const KEYFRAME: [u8; 24] = [
        0xaa, 0x81, 0x02, 0x10, 9, // descriptor
        0x58, 0x01, 0x40, 0x00, 0xb4, 0x02, 0x80, 0x01, 0x68, 0x05, 0x00, 0x02, 0xd0, // sizes
        2, 0x14, 2, 0x34, 1, // picture group
        0xff,
    ];

    #[test]
    fn reads_a_keyframe_with_its_structure() {
        let d = Vp9Descriptor::parse(&KEYFRAME).unwrap();
        assert_eq!(d.picture_id.unwrap().value, 0x102);
        assert_eq!(d.tl0_pic_idx.unwrap().value, 9);
        assert!(d.starts_frame && !d.ends_frame && !d.is_inter_picture && !d.is_flexible);
        assert!(!d.is_not_inter_layer_reference);
        let layer = d.layer.unwrap();
        assert_eq!((layer.spatial, layer.temporal), (0, 0));
        assert!(layer.is_switching_up_point && !layer.is_inter_layer);
        let structure = d.structure.unwrap();
        assert_eq!(structure.spatial_layers, 3);
        let sizes: Vec<_> = (0..5).map(|spatial| structure.size(spatial)).collect();
        let known = [(320, 180), (640, 360), (1280, 720)].map(Some);
        assert_eq!(sizes, [known[0], known[1], known[2], None, None]);
    }

    #[test]
    fn reads_delta_frames() {
        // Non-flexible: I P L E Z, 7-bit id 5, TID 2, SID 1, D, TL0PICIDX 10.
        let d = Vp9Descriptor::parse(&[0xe5, 5, 0x43, 10, 0]).unwrap();
        let layer = d.layer.unwrap();
        assert_eq!((layer.spatial, layer.temporal), (1, 2));
        assert!(layer.is_inter_layer && !layer.is_switching_up_point);
        assert!(d.is_inter_picture && d.is_not_inter_layer_reference && d.ends_frame);
        assert!(d.references().is_empty());
        // Flexible: I P L F, references 1 and 4 pictures back.
        let d = Vp9Descriptor::parse(&[0xf0, 5, 0x00, 0x03, 0x08]).unwrap();
        assert_eq!(d.references(), [1, 4]);
        assert_eq!(d.tl0_pic_idx, None);
        // Flexible, no layers: an intra picture has no references.
        let d = Vp9Descriptor::parse(&[0x98, 5, 0xff]).unwrap();
        assert!(d.references().is_empty() && d.layer.is_none());
        // Four references are one too many.
        assert_eq!(Vp9Descriptor::parse(&[0xd0, 5, 3, 3, 3, 2, 0]), None);
        // Nothing optional at all.
        assert!(Vp9Descriptor::parse(&[0x0c]).unwrap().starts_frame);
    }

    #[test]
    fn numbers_are_written_where_they_were_read() {
        let d = Vp9Descriptor::parse(&KEYFRAME).unwrap();
        let mut copy = KEYFRAME;
        d.picture_id.unwrap().write(&mut copy, 0xffff);
        d.tl0_pic_idx.unwrap().write(&mut copy, 1);
        assert_eq!(copy[..5], [0xaa, 0xff, 0xff, 0x10, 1]);
        assert_eq!(copy[5..], KEYFRAME[5..]);
    }

    #[test]
    fn malformed_packets_are_refused_or_read() {
        for len in 0..KEYFRAME.len() - 1 {
            assert_eq!(Vp9Descriptor::parse(&KEYFRAME[..len]), None, "{len} bytes");
        }
        for bit in 0..KEYFRAME.len() * 8 {
            let mut flipped = KEYFRAME;
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Some(d) = Vp9Descriptor::parse(&flipped) {
                assert!(d.references().len() <= REFERENCES_MAX);
            }
        }
        // A picture group of 255 with three references each needs 1021 bytes.
        let mut group = vec![0x02, 0x08, 255];
        group.extend([0x0c, 1, 1, 1].repeat(255));
        assert!(Vp9Descriptor::parse(&group).is_some());
        assert_eq!(Vp9Descriptor::parse(&group[..group.len() - 1]), None);
    }
}
