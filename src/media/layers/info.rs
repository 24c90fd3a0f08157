//! What one packet is to the layers of its encoding.

use crate::base::ids::RtpTime;
use crate::media::layers::numbering::LastNumbers;
use crate::wire::payload::dependency::{DependencyDescriptor, Indications};
use crate::wire::payload::numbers::{PictureId, Tl0PicIdx};

/// What one packet is to the layers of its encoding: read once for all subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// The spatial layer inside the encoding, 0 where there are none.
    pub spatial: u8,
    /// The temporal layer inside the encoding, 0 where there are none.
    pub temporal: u8,
    /// The packet is the first of a keyframe: a decoder that knows nothing can start here.
    pub is_keyframe_start: bool,
    /// The packet is the first of a frame of one layer.
    pub starts_frame: bool,
    /// The packet is the last of a frame of one layer.
    pub ends_frame: bool,
    /// The publisher says that a subscriber can go up to a higher layer here, if it has what this frame builds on.
    pub can_switch_up: bool,
    /// Width and height in pixels, where the packet tells.
    pub size: Option<(u16, u16)>,
    /// Which run of which source it belongs to: numbers of different runs have nothing to do with each other.
    pub run: u32,
    /// The number of its frame, in decoding order; layers of one picture have one each.
    pub frame: u64,
    /// The timestamp, which all layers of one picture share.
    pub picture: RtpTime,
    /// What decides about it.
    pub layering: Layering,
    /// The picture id, and where it stands.
    pub picture_id: Option<PictureId>,
    /// The index of the last picture of the lowest temporal layer, and where it stands.
    pub tl0_pic_idx: Option<Tl0PicIdx>,
    /// Its dependency descriptor.
    pub dependency: Option<Dependency>,
}

impl LayerInfo {
    /// The numbers it has from its publisher.
    #[must_use]
    pub fn numbers(&self) -> LastNumbers {
        LastNumbers {
            picture_id: self.picture_id.map(|id| id.value),
            tl0_pic_idx: self.tl0_pic_idx.map(|index| index.value),
            frame_number: self.dependency.map(|dependency| dependency.number as u16),
        }
    }

    /// Whether nothing is known of its layers because the structure that its descriptor refers to was lost.
    #[inline]
    #[must_use]
    pub fn lacks_structure(&self) -> bool {
        self.layering == Layering::Unknown
            && self
                .dependency
                .is_some_and(|read| read.descriptor.is_none())
    }
}

/// What decides which subscribers need a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layering {
    /// There is one layer only.
    Single,
    /// The temporal layer of VP8 (RFC 7741 §4.2).
    Vp8 {
        /// The packet is the first of a keyframe.
        is_key: bool,
    },
    /// The layer indices of VP9 (RFC 9628 §4.2).
    Vp9 {
        /// The frame belongs to the lowest spatial layer of a keyframe.
        is_key: bool,
        /// The frame builds on earlier pictures.
        is_inter_picture: bool,
        /// The frame builds on the next lower spatial layer of its picture.
        is_inter_layer: bool,
        /// The frames of earlier pictures it builds on, where it names them.
        references: Option<References>,
    },
    /// The dependency descriptor.
    Described {
        /// What the frame is to each decode target.
        indications: Indications,
        /// The frames it builds on.
        references: References,
    },
    /// There are layers, but what tells them is malformed, or not known yet.
    Unknown,
}

/// Which frames a frame builds on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct References {
    back: [u16; REFERENCES_MAX],
    len: u8,
}

/// The dependency descriptor of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// The frame number, extended.
    pub number: u64,
    /// All of it, if it could be read.
    pub descriptor: Option<DependencyDescriptor>,
}

impl References {
    /// Of distances back, in numbers of frames. More than eight are not kept: no codec has them.
    #[must_use]
    pub fn new(distances: impl IntoIterator<Item = u16>) -> Self {
        let mut references = Self::default();
        for (place, distance) in references.back.iter_mut().zip(distances) {
            *place = distance;
            references.len += 1;
        }
        references
    }

    /// The numbers of the frames that the frame `of` builds on.
    pub fn of(&self, of: u64) -> impl Iterator<Item = u64> + '_ {
        let back = &self.back[..usize::from(self.len)];
        back.iter()
            .map(move |distance| of.saturating_sub(u64::from(*distance)))
    }
}

/// As many as a dependency descriptor may name.
const REFERENCES_MAX: usize = 8;
