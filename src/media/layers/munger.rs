//! The numbers that one subscriber's decoder follows: picture ids, TL0PICIDX and frame numbers without a seam, from
//! whatever encoding or source they come.
//!
//! Within a run all of them are a constant offset from the publisher's. Only VP8's picture ids also close up over
//! frames that were left out: libwebrtc waits for a frame whose id is missing. In VP9 and in the dependency
//! descriptor references are differences of these numbers, so that gaps must stay.

use crate::media::layers::info::{LayerInfo, Layering};
use crate::media::layers::numbering::LastNumbers;
use crate::wire::payload::dependency::{DependencyDescriptor, set_frame_number};
use crate::wire::payload::numbers::{PictureId, Tl0PicIdx};

/// The offsets of one subscription.
#[derive(Debug, Clone, Copy)]
pub struct Munger {
    picture_id_offset: u16,
    tl0_pic_idx_offset: u8,
    frame_number_offset: u16,
    /// Of the highest frame that went out, as the subscriber sees them.
    last: LastNumbers,
}

/// What is changed in one subscriber's copy of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// The marker bit is set, whatever the publisher's is: the picture ends here for this subscriber.
    pub ends_picture: bool,
    picture_id: Option<(PictureId, u16)>,
    tl0_pic_idx: Option<(Tl0PicIdx, u8)>,
    dependency: Option<DependencyEdit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DependencyEdit {
    number: u16,
    /// The publisher's.
    source: u16,
    active_targets: Option<u32>,
    descriptor: Option<DependencyDescriptor>,
    /// The copy has no descriptor.
    is_left_out: bool,
}

impl Munger {
    /// Numbers go on as the publisher has them, after `last`.
    #[must_use]
    pub fn new(last: LastNumbers) -> Self {
        Self {
            picture_id_offset: 0,
            tl0_pic_idx_offset: 0,
            frame_number_offset: 0,
            last,
        }
    }

    /// A new run begins with this packet: its numbers will follow the last ones.
    pub fn start(&mut self, first: &LayerInfo) {
        let last = self.last;
        if let Some((last, id)) = last.picture_id.zip(first.picture_id) {
            self.picture_id_offset = last.wrapping_add(1).wrapping_sub(id.value);
        }
        if let Some((last, index)) = last.tl0_pic_idx.zip(first.tl0_pic_idx) {
            self.tl0_pic_idx_offset = last.wrapping_add(1).wrapping_sub(index.value);
        }
        if let Some((last, dependency)) = last.frame_number.zip(first.dependency) {
            self.frame_number_offset = last.wrapping_add(1).wrapping_sub(dependency.number as u16);
        }
    }

    /// The packet's numbers here, where `dropped` frames of its run were left out before it, and `active_targets`
    /// is to be told with it.
    #[must_use]
    pub fn edit(
        &self,
        info: &LayerInfo,
        dropped: u64,
        ends_picture: bool,
        active_targets: Option<u32>,
    ) -> Edit {
        let closing = match info.layering {
            Layering::Vp8 { .. } => dropped as u16,
            _ => 0,
        };
        let picture_id = info.picture_id.map(|id| {
            let value = id.value.wrapping_add(self.picture_id_offset);
            (id, value.wrapping_sub(closing))
        });
        let tl0_pic_idx = info
            .tl0_pic_idx
            .map(|index| (index, index.value.wrapping_add(self.tl0_pic_idx_offset)));
        let dependency = info.dependency.map(|dependency| DependencyEdit {
            number: (dependency.number as u16).wrapping_add(self.frame_number_offset),
            source: dependency.number as u16,
            active_targets,
            descriptor: dependency.descriptor,
            is_left_out: false,
        });
        Edit {
            ends_picture,
            picture_id,
            tl0_pic_idx,
            dependency,
        }
    }

    /// The highest frame so far goes out with this edit.
    pub fn on_sent(&mut self, edit: &Edit) {
        edit.note_in(&mut self.last);
    }

    /// What came after these numbers did not go out after all.
    pub fn rewind(&mut self, last: LastNumbers) {
        self.last = last;
    }
}

/// All that an edit makes of a packet, for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print {
    ends_picture: bool,
    picture_id: Option<u16>,
    tl0_pic_idx: Option<u8>,
    number: Option<u16>,
    mask: Option<(u32, (u16, u16, u8))>,
    is_left_out: bool,
}

impl Print {
    /// Whether it tells which decode targets are active.
    #[must_use]
    pub fn tells_targets(&self) -> bool {
        self.mask.is_some() && !self.is_left_out
    }
}

impl Edit {
    /// What it makes of the packet that it was made for.
    #[must_use]
    pub fn print(&self) -> Print {
        let dependency = self.dependency.as_ref();
        let mask = dependency.and_then(|edit| Some((edit.active_targets?, edit.descriptor?)));
        Print {
            ends_picture: self.ends_picture,
            picture_id: self.picture_id.map(|(_, value)| value),
            tl0_pic_idx: self.tl0_pic_idx.map(|(_, value)| value),
            number: dependency.map(|edit| edit.number),
            mask: mask.map(|(mask, descriptor)| (mask, descriptor.layout())),
            is_left_out: self.leaves_out_descriptor(),
        }
    }

    /// Its numbers are the last ones of a stream now, as far as it has any.
    pub fn note_in(&self, last: &mut LastNumbers) {
        last.picture_id = self.picture_id.map(|(_, value)| value).or(last.picture_id);
        let tl0_pic_idx = self.tl0_pic_idx.map(|(_, value)| value);
        last.tl0_pic_idx = tl0_pic_idx.or(last.tl0_pic_idx);
        let number = self.dependency.map(|dependency| dependency.number);
        last.frame_number = number.or(last.frame_number);
    }

    /// The subscriber's copy has no dependency descriptor.
    pub fn leave_out_descriptor(&mut self) {
        if let Some(edit) = &mut self.dependency {
            edit.is_left_out = true;
        }
    }

    /// Whether the subscriber's copy has no dependency descriptor.
    #[inline]
    #[must_use]
    pub fn leaves_out_descriptor(&self) -> bool {
        self.dependency.is_some_and(|edit| edit.is_left_out)
    }

    /// Whether it tells which decode targets are active.
    #[must_use]
    pub fn tells_targets(&self) -> bool {
        self.print().tells_targets()
    }

    /// The publisher's number of the frame, where a dependency descriptor tells it.
    #[must_use]
    pub fn source_number(&self) -> Option<u16> {
        self.dependency.map(|dependency| dependency.source)
    }

    /// Whether the copy it was made for is as the publisher's packet.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        let dependency = self.dependency.as_ref();
        !self.ends_picture
            && self.picture_id.is_none_or(|(id, value)| id.value == value)
            && self
                .tl0_pic_idx
                .is_none_or(|(index, value)| index.value == value)
            && dependency.is_none_or(|edit| {
                edit.number == edit.source && edit.active_targets.is_none() && !edit.is_left_out
            })
    }

    /// Changes a copy of the payload it was made for. No length changes.
    pub fn apply(&self, payload: &mut [u8]) {
        if let Some((id, value)) = self.picture_id {
            id.write(payload, value);
        }
        if let Some((index, value)) = self.tl0_pic_idx {
            index.write(payload, value);
        }
    }

    /// The subscriber's dependency descriptor instead of `source`, which it was made for, in `buffer`.
    #[must_use]
    pub fn descriptor<'b>(
        &self,
        source: &[u8],
        buffer: &'b mut [u8; DESCRIPTOR_MAX],
    ) -> Option<&'b [u8]> {
        let edit = self.dependency.as_ref()?;
        if let Some(read) = &edit.descriptor
            && edit.active_targets.is_some()
            && let Some(len) = read.write(source, edit.number, edit.active_targets, buffer)
        {
            return Some(&buffer[..len]);
        }
        // Without the mask: it could not be read, or there is no room.
        let copy = buffer.get_mut(..source.len())?;
        copy.copy_from_slice(source);
        set_frame_number(copy, edit.number);
        Some(copy)
    }
}

/// What the two-byte form of a header extension can hold (RFC 8285 §4.3).
pub const DESCRIPTOR_MAX: usize = 255;
