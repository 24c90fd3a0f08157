//! Reads the layers of one encoding, packet by packet, and keeps what later packets refer to.

use crate::base::ids::{RtpTime, SeqNo};
use crate::media::layers::info::{Dependency, LayerInfo, Layering, References};
use crate::media::layers::numbering::{Extender, LastNumbers};
use crate::media::layers::structures::{Limit, Structure};
use crate::wire::codec::Codec;
use crate::wire::payload::av1::Av1Aggregation;
use crate::wire::payload::dependency::{
    DependencyDescriptor, TemplateStructure, frame_number, has_structure,
};
use crate::wire::payload::h264::H264Payload;
use crate::wire::payload::vp8::Vp8Descriptor;
use crate::wire::payload::vp9::Vp9Descriptor;

/// Reads the packets of one encoding.
#[derive(Debug)]
pub struct LayerReader {
    at: Position,
    /// Where the run before the present one ended.
    former: Position,
    /// Packets below belong to a former run.
    first_seq: SeqNo,
    highest_seq: Option<SeqNo>,
    codec: Option<Codec>,
    /// How wide the picture ids are.
    picture_id_bits: u32,
    frames: Extender,
    numbers: Extender,
    /// The present structure, and the one before.
    structures: [Option<Structure>; 2],
    /// Which decode targets the publisher makes, from which frame number on: the last two times that it said so.
    active: [Option<(u64, u32)>; 2],
    /// H.264: parameter sets come with the keyframes.
    has_parameters: bool,
    top: Limit,
    sizes: [Option<(u16, u16)>; LAYERS_MAX],
}

/// How far an encoding has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The run.
    pub run: u32,
    /// The highest frame, if there is one.
    pub frame: Option<u64>,
    /// The timestamp of that frame.
    pub picture: Option<RtpTime>,
    /// Its numbers.
    pub last: LastNumbers,
}

/// A packet as its reader takes it.
#[derive(Debug, Clone, Copy)]
pub struct LayerPacket<'p> {
    /// What its payload type stands for.
    pub codec: Codec,
    /// Its number in the encoding.
    pub seq: SeqNo,
    /// Its timestamp in the encoding.
    pub timestamp: RtpTime,
    /// The marker bit.
    pub marker: bool,
    /// What it carries.
    pub payload: &'p [u8],
    /// The value of its dependency descriptor extension.
    pub descriptor: Option<&'p [u8]>,
}

impl LayerReader {
    /// A reader for an encoding without packets. Its runs are counted from `first_run` on; those of different
    /// encodings that one subscription may get must differ: see [`RUNS_MAX`].
    #[must_use]
    pub fn new(first_run: u32) -> Self {
        let at = Position {
            run: first_run,
            frame: None,
            picture: None,
            last: LastNumbers::default(),
        };
        Self {
            at,
            former: at,
            first_seq: SeqNo(0),
            highest_seq: None,
            codec: None,
            picture_id_bits: 0,
            frames: Extender::default(),
            numbers: Extender::default(),
            structures: [None, None],
            active: [None; 2],
            has_parameters: false,
            top: Limit {
                spatial: 0,
                temporal: 0,
            },
            sizes: [None; LAYERS_MAX],
        }
    }

    /// Reads a packet that came for the first time.
    pub fn read(&mut self, packet: &LayerPacket<'_>) -> LayerInfo {
        if self.codec != Some(packet.codec) {
            if self.codec.is_some() {
                self.restart(packet.seq);
            }
            self.codec = Some(packet.codec);
        }
        let (mut info, mut new) = self.place(packet);
        if packet.seq < self.first_seq {
            // Of a former run: what its numbers meant is forgotten.
            info.layering = Layering::Unknown;
            (info.picture_id, info.tl0_pic_idx, info.dependency) = (None, None, None);
            return info;
        }
        if self.has_jumped(packet, &info) {
            self.restart(packet.seq);
            (info, new) = self.place(packet);
        }
        self.note(packet, &info, new);
        info
    }

    /// Reads a packet once more, as it was read before. `None` if it belongs to a former run, or refers to
    /// what is no longer known.
    #[must_use]
    pub fn read_again(&self, packet: &LayerPacket<'_>) -> Option<LayerInfo> {
        let is_old = packet.seq < self.first_seq || self.codec != Some(packet.codec);
        let (info, new) = self.place(packet);
        let is_known = match info.dependency {
            // Only where it is sure that this structure was known when the packet came first.
            Some(dependency) if dependency.descriptor.is_some() && new.is_none() => self
                .structure(dependency.number)
                .is_some_and(|structure| structure.since <= packet.seq),
            _ => true,
        };
        (!is_old && is_known).then_some(info)
    }

    /// The source starts anew with the packet `seq`: its numbers have nothing to do with those before.
    pub fn restart(&mut self, seq: SeqNo) {
        if self.highest_seq.is_none() {
            return;
        }
        self.former = self.at;
        let run = self.at.run;
        let next = (run & !(RUNS_MAX - 1)) | (run.wrapping_add(1) & (RUNS_MAX - 1));
        *self = Self {
            former: self.at,
            first_seq: seq,
            codec: self.codec,
            ..Self::new(next)
        };
    }

    /// How far it has come.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// Where the run before the present one ended.
    #[must_use]
    pub fn former(&self) -> Position {
        self.former
    }

    /// The structure that holds for a frame, by the number in its dependency descriptor.
    #[must_use]
    pub fn structure(&self, number: u64) -> Option<&Structure> {
        self.structures
            .iter()
            .flatten()
            .find(|structure| structure.from <= number)
    }

    /// Which decode targets the publisher makes in a frame, by the number in its dependency descriptor.
    #[must_use]
    pub fn active_targets(&self, number: u64) -> u32 {
        let mut told = self.active.iter().flatten();
        told.find(|(from, _)| *from <= number)
            .map_or(u32::MAX, |(_, mask)| *mask)
    }

    /// The highest layers of the present run so far, each for itself.
    #[must_use]
    pub fn top(&self) -> Limit {
        self.top
    }

    /// Whether only the first packet of the present run has come, and it is not the first run.
    #[must_use]
    pub fn is_new_run(&self) -> bool {
        self.highest_seq == Some(self.first_seq) && self.former.run != self.at.run
    }

    /// The last width and height of a spatial layer in pixels.
    #[must_use]
    pub fn size(&self, spatial: u8) -> Option<(u16, u16)> {
        *self.sizes.get(usize::from(spatial))?
    }

    /// What a packet is, without taking note of it.
    fn place(&self, packet: &LayerPacket<'_>) -> (LayerInfo, Option<TemplateStructure>) {
        let mut info = LayerInfo {
            spatial: 0,
            temporal: 0,
            is_keyframe_start: false,
            starts_frame: self.at.picture != Some(packet.timestamp),
            ends_frame: packet.marker,
            can_switch_up: false,
            size: None,
            run: self.at.run,
            frame: 0,
            picture: packet.timestamp,
            layering: Layering::Single,
            picture_id: None,
            tl0_pic_idx: None,
            dependency: None,
        };
        let mut new = None;
        if let Some(bytes) = packet.descriptor {
            (info.dependency, new) = self.read_descriptor(bytes);
        }
        match packet.codec {
            Codec::Vp8 => self.place_vp8(packet, &mut info),
            Codec::Vp9 { .. } => self.place_vp9(packet, &mut info),
            Codec::H264 { .. } => {
                if let Some(found) = H264Payload::parse(packet.payload) {
                    info.is_keyframe_start =
                        found.has_parameters || found.starts_idr && !self.has_parameters;
                    info.size = found.size;
                }
                place_described(&mut info);
            }
            Codec::Av1 { .. } => {
                let header = Av1Aggregation::parse(packet.payload);
                info.is_keyframe_start = header.is_some_and(|header| header.starts_sequence);
                place_described(&mut info);
            }
            Codec::Opus | Codec::Red => {}
        }
        (info, new)
    }

    fn read_descriptor(&self, bytes: &[u8]) -> (Option<Dependency>, Option<TemplateStructure>) {
        let Some(number) = frame_number(bytes) else {
            return (None, None);
        };
        let number = self.numbers.place(number, 16);
        let known = match has_structure(bytes) {
            true => None,
            false => self.structure(number).map(|known| &known.templates),
        };
        let (descriptor, new) = match DependencyDescriptor::parse(bytes, known) {
            Some((descriptor, new)) => (Some(descriptor), new),
            None => (None, None),
        };
        (Some(Dependency { number, descriptor }), new)
    }

    fn place_vp8(&self, packet: &LayerPacket<'_>, info: &mut LayerInfo) {
        let Some(read) = Vp8Descriptor::parse(packet.payload) else {
            info.layering = Layering::Unknown;
            return;
        };
        info.is_keyframe_start = read.is_keyframe;
        info.starts_frame = read.starts_frame;
        info.size = read.size;
        (info.picture_id, info.tl0_pic_idx) = (read.picture_id, read.tl0_pic_idx);
        // Without a number for each frame, none can be left out unseen.
        if let Some(id) = read.picture_id {
            info.frame = self.frames.place(id.value, id.bits());
            info.temporal = read.temporal.unwrap_or(0);
            info.can_switch_up = read.is_layer_sync;
            info.layering = Layering::Vp8 {
                is_key: read.is_keyframe,
            };
        }
    }

    fn place_vp9(&self, packet: &LayerPacket<'_>, info: &mut LayerInfo) {
        let Some(read) = Vp9Descriptor::parse(packet.payload) else {
            info.layering = Layering::Unknown;
            return;
        };
        let layer = read.layer.unwrap_or_default();
        let is_key = !read.is_inter_picture && layer.spatial == 0 && !layer.is_inter_layer;
        info.is_keyframe_start = is_key && read.starts_frame;
        info.starts_frame = read.starts_frame;
        info.ends_frame = read.ends_frame;
        let structure = read.structure;
        info.size = structure.and_then(|structure| structure.size(layer.spatial));
        (info.picture_id, info.tl0_pic_idx) = (read.picture_id, read.tl0_pic_idx);
        if let Some(id) = read.picture_id {
            info.frame =
                self.frames.place(id.value, id.bits()) * VP9_SPATIAL_MAX + u64::from(layer.spatial);
            (info.spatial, info.temporal) = (layer.spatial, layer.temporal);
            info.can_switch_up = layer.is_switching_up_point;
            let distances = read.references().iter();
            let references = References::new(
                distances.map(|pictures| u16::from(*pictures) * VP9_SPATIAL_MAX as u16),
            );
            info.layering = Layering::Vp9 {
                is_key,
                is_inter_picture: read.is_inter_picture,
                is_inter_layer: layer.is_inter_layer,
                references: read.is_flexible.then_some(references),
            };
        }
    }

    /// Whether frames have lower numbers than those before, in packets that came after them: the encoder
    /// started anew under the same SSRC, or writes its numbers otherwise.
    fn has_jumped(&self, packet: &LayerPacket<'_>, info: &LayerInfo) -> bool {
        let is_next = self.highest_seq.is_some_and(|highest| packet.seq > highest);
        let is_lower = !matches!(info.layering, Layering::Single | Layering::Unknown)
            && self.at.frame.is_some_and(|highest| info.frame < highest);
        let id_bits = info.picture_id.map_or(0, |id| id.bits());
        let is_other = self.picture_id_bits != 0 && id_bits != 0 && id_bits != self.picture_id_bits;
        is_next && is_lower || is_other
    }

    fn note(&mut self, packet: &LayerPacket<'_>, info: &LayerInfo, new: Option<TemplateStructure>) {
        self.highest_seq = self.highest_seq.max(Some(packet.seq));
        if let Some(id) = info.picture_id {
            self.picture_id_bits = id.bits();
        }
        self.has_parameters |= matches!(packet.codec, Codec::H264 { .. })
            && info.is_keyframe_start
            && info.size.is_some();
        if let Some(dependency) = info.dependency {
            self.numbers.note(dependency.number);
            if let Some(read) = dependency.descriptor
                && (read.has_structure || read.active_targets.is_some())
            {
                self.note_active(dependency.number, read.active_targets.unwrap_or(u32::MAX));
            }
            if let Some(templates) = new {
                self.keep(dependency.number, packet.seq, templates);
            }
        }
        match info.layering {
            Layering::Vp8 { .. } => self.frames.note(info.frame),
            Layering::Vp9 { .. } => self.frames.note(info.frame / VP9_SPATIAL_MAX),
            Layering::Single | Layering::Described { .. } | Layering::Unknown => {}
        }
        self.top = Limit {
            spatial: self.top.spatial.max(info.spatial),
            temporal: self.top.temporal.max(info.temporal),
        };
        if info.size.is_some() {
            self.sizes[usize::from(info.spatial).min(LAYERS_MAX - 1)] = info.size;
            self.note_sizes(packet);
        }
        // Of a single layer, frames have no numbers: the last packet counts.
        let is_single = matches!(info.layering, Layering::Single | Layering::Unknown);
        if is_single || self.at.frame.is_none_or(|highest| info.frame >= highest) {
            self.at.picture = Some(info.picture);
            if !is_single {
                self.at.frame = Some(info.frame);
            }
            let last = &mut self.at.last;
            last.picture_id = info.picture_id.map(|id| id.value).or(last.picture_id);
            last.tl0_pic_idx = info.tl0_pic_idx.map(|i| i.value).or(last.tl0_pic_idx);
            let number = info.dependency.map(|dependency| dependency.number as u16);
            last.frame_number = number.or(last.frame_number);
        }
    }

    /// The publisher says which decode targets it makes, from a frame on.
    fn note_active(&mut self, from: u64, mask: u32) {
        match self.active[0] {
            // It came late, or is repeated.
            Some((known, _)) if from < known => {}
            Some((_, before)) if before == mask => {}
            _ => self.active = [Some((from, mask)), self.active[0]],
        }
    }

    /// VP9 tells the sizes of all layers with the lowest one's keyframe (RFC 9628 §4.2.1).
    fn note_sizes(&mut self, packet: &LayerPacket<'_>) {
        if !matches!(packet.codec, Codec::Vp9 { .. }) {
            return;
        }
        let structure = Vp9Descriptor::parse(packet.payload).and_then(|read| read.structure);
        for (spatial, size) in (0..).zip(&mut self.sizes) {
            let told = structure.and_then(|structure| structure.size(spatial));
            *size = told.or(*size);
        }
    }

    /// Keeps a structure that holds from the frame `from` on.
    fn keep(&mut self, from: u64, seq: SeqNo, templates: TemplateStructure) {
        let since = self.highest_seq.map_or(seq, |highest| highest.max(seq));
        let [present, former] = &mut self.structures;
        match present {
            // It came late, or is repeated.
            Some(known) if from < known.from || known.templates == templates => {}
            _ => {
                *former = present.take();
                *present = Some(Structure::new(from, since, templates));
            }
        }
    }
}

/// Lets the dependency descriptor decide, where there is one.
fn place_described(info: &mut LayerInfo) {
    let Some(dependency) = info.dependency else {
        return;
    };
    info.frame = dependency.number;
    let Some(read) = dependency.descriptor else {
        info.layering = Layering::Unknown;
        return;
    };
    info.starts_frame = read.starts_frame;
    info.ends_frame = read.ends_frame;
    (info.spatial, info.temporal) = (read.spatial, read.temporal);
    info.can_switch_up = read.indications.switch != 0;
    info.is_keyframe_start |=
        read.has_structure && read.starts_frame && read.differences().is_empty();
    info.size = info.size.or(read.size);
    info.layering = Layering::Described {
        indications: read.indications,
        references: References::new(read.differences().iter().copied()),
    };
}

/// Runs of one encoding that are told apart; the bits above are for the encoding.
pub const RUNS_MAX: u32 = 1 << 24;
/// Spatial layers whose sizes are kept apart: browsers make three.
const LAYERS_MAX: usize = 4;
/// SID has three bits (RFC 9628 §4.2).
const VP9_SPATIAL_MAX: u64 = 8;
