//! Streams with layers, as encoders make them, and a decoder that only believes what it sees.
//!
//! Every packet ends with the number of its frame in the encoder's own count, so that the decoder knows what it holds
//! without believing any number that a server may have changed.

use std::collections::{BTreeMap, BTreeSet};

/// A frame of one layer, as its encoder knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub number: u32,
    pub picture: u32,
    pub spatial: u8,
    pub temporal: u8,
    /// What it builds on, by number.
    pub references: Vec<u32>,
    pub is_key: bool,
    pub packets: usize,
}

/// A packet of a stream.
#[derive(Debug, Clone)]
pub struct Packet {
    pub seq: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
    pub descriptor: Option<Vec<u8>>,
    pub frame: Frame,
    /// Whether it is the first and the last of its frame.
    pub ends: (bool, bool),
}

/// What an encoder makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// VP8, three temporal layers, not all of whose frames are layer syncs.
    Vp8L1T3,
    /// VP9, every layer of a picture builds on the one below.
    Vp9L3T3,
    /// The same, naming its references.
    Vp9L3T3Flexible,
    /// VP9, only the layers of keyframes do.
    Vp9L3T3Key,
    /// AV1 with a dependency descriptor.
    Av1L3T3,
    /// AV1 with a dependency descriptor; only the layers of keyframes build on each other.
    Av1L3T3Key,
}

impl Mode {
    pub const ALL: [Self; 6] = [
        Self::Vp8L1T3,
        Self::Vp9L3T3,
        Self::Vp9L3T3Flexible,
        Self::Vp9L3T3Key,
        Self::Av1L3T3,
        Self::Av1L3T3Key,
    ];

    pub fn spatial_layers(self) -> u8 {
        if self == Self::Vp8L1T3 { 1 } else { 3 }
    }

    fn is_key_only(self) -> bool {
        matches!(self, Self::Vp9L3T3Key | Self::Av1L3T3Key)
    }
}

/// An encoder: one picture after another.
#[derive(Debug)]
pub struct Encoder {
    mode: Mode,
    seq: u64,
    timestamp: u32,
    picture: u32,
    number: u32,
    /// Pictures since the last keyframe.
    since_key: u32,
    picture_id: u16,
    tl0_pic_idx: u8,
    /// The last frame of each spatial and temporal layer.
    last: [[Option<u32>; 3]; 3],
    /// The picture of each frame, for those that name their references.
    pictures: BTreeMap<u32, u32>,
    /// Dependency descriptors come with VP8 and VP9, too, as Chromium sends them.
    pub is_described: bool,
    /// They tell another temporal layer than the payload.
    pub is_lying: bool,
    /// Keyframes bring no structure.
    pub is_terse: bool,
    /// The id of the first template.
    pub template_offset: u32,
    /// How many packets the frames of each spatial layer have, if that is not to vary.
    pub parts: Option<[usize; 3]>,
    /// How many spatial layers AV1 has: one where it comes in several encodings.
    pub spatial_layers: u8,
}

/// The temporal layers of eight pictures.
const TEMPORAL: [u8; 8] = [0, 2, 1, 2, 0, 2, 1, 2];

impl Encoder {
    pub fn new(mode: Mode, seed: u16) -> Self {
        Self {
            mode,
            seq: 1000 + u64::from(seed),
            timestamp: u32::from(seed) << 16,
            picture: 0,
            number: u32::from(seed),
            since_key: 0,
            picture_id: seed,
            tl0_pic_idx: seed as u8,
            last: [[None; 3]; 3],
            pictures: BTreeMap::new(),
            is_described: matches!(mode, Mode::Av1L3T3 | Mode::Av1L3T3Key),
            is_lying: false,
            is_terse: false,
            template_offset: 60,
            parts: None,
            spatial_layers: mode.spatial_layers(),
        }
    }

    /// The sequence number of the next packet.
    pub fn next_seq(&self) -> u64 {
        self.seq
    }

    /// The packets of the next picture.
    pub fn picture(&mut self, is_key: bool) -> Vec<Packet> {
        if is_key || self.pictures.is_empty() {
            self.since_key = 0;
            self.last = [[None; 3]; 3];
        }
        let is_key = self.since_key == 0;
        let temporal = TEMPORAL[self.since_key as usize % 8];
        if temporal == 0 {
            self.tl0_pic_idx = self.tl0_pic_idx.wrapping_add(1);
        }
        let mut packets = Vec::new();
        for spatial in 0..self.spatial_layers {
            self.frame(spatial, temporal, is_key, &mut packets);
        }
        self.since_key += 1;
        self.picture += 1;
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        self.timestamp = self.timestamp.wrapping_add(3000);
        packets
    }

    fn frame(&mut self, spatial: u8, temporal: u8, is_key: bool, packets: &mut Vec<Packet>) {
        let (s, t) = (usize::from(spatial), usize::from(temporal));
        let at = self.since_key % 8;
        let mut references = Vec::new();
        if !is_key {
            // The last frame below, or of the own layer for the lowest; in the second half of eight pictures
            // VP8 also builds on its own layer, which is then no layer sync.
            references.extend(self.last[s][..=t.saturating_sub(1)].iter().flatten().max());
            if self.mode == Mode::Vp8L1T3 && at > 4 {
                references.extend(self.last[s][t]);
            }
        }
        if spatial > 0 && (is_key || !self.mode.is_key_only()) {
            references.push(self.number - 1);
        }
        let frame = Frame {
            number: self.number,
            picture: self.picture,
            spatial,
            temporal,
            references,
            is_key,
            packets: match self.parts {
                Some(parts) => parts[s],
                None => 1 + (self.number as usize * 7 + s) % 3,
            },
        };
        self.pictures.insert(self.number, self.picture);
        self.last[s][t] = Some(self.number);
        for index in 0..frame.packets {
            let ends = (index == 0, index + 1 == frame.packets);
            let mut payload = match self.mode {
                Mode::Vp8L1T3 => self.vp8(&frame, ends),
                Mode::Vp9L3T3 | Mode::Vp9L3T3Flexible | Mode::Vp9L3T3Key => self.vp9(&frame, ends),
                Mode::Av1L3T3 | Mode::Av1L3T3Key => {
                    vec![if is_key && ends.0 && spatial == 0 {
                        0x18
                    } else {
                        0x10
                    }]
                }
            };
            payload.extend(frame.number.to_be_bytes());
            packets.push(Packet {
                seq: self.seq,
                timestamp: self.timestamp,
                marker: ends.1 && spatial + 1 == self.spatial_layers,
                payload,
                descriptor: self.is_described.then(|| self.descriptor(&frame, ends)),
                frame: frame.clone(),
                ends,
            });
            self.seq += 1;
        }
        self.number += 1;
    }

    /// RFC 7741 §4.2: X, S; I L T; a 15-bit picture id; TL0PICIDX; TID and Y.
    fn vp8(&self, frame: &Frame, ends: (bool, bool)) -> Vec<u8> {
        let is_sync = self.since_key % 8 <= 4 && self.since_key % 8 != 3;
        let [high, low] = (0x8000 | self.picture_id).to_be_bytes();
        vec![
            0x80 | u8::from(ends.0) << 4,
            0xe0,
            high,
            low,
            self.tl0_pic_idx,
            frame.temporal << 6 | u8::from(is_sync && frame.temporal > 0) << 5,
            u8::from(!frame.is_key),
        ]
    }

    /// RFC 9628 §4.2: I and L always.
    fn vp9(&self, frame: &Frame, ends: (bool, bool)) -> Vec<u8> {
        let is_flexible = self.mode == Mode::Vp9L3T3Flexible;
        let is_inter_layer = frame.references.contains(&(frame.number - 1)) && frame.spatial > 0;
        let is_last_reference = frame.spatial == 2 || (self.mode.is_key_only() && !frame.is_key);
        let [high, low] = (0x8000 | self.picture_id).to_be_bytes();
        let mut bytes = vec![
            0xa0 | u8::from(!frame.is_key) << 6
                | u8::from(is_flexible) << 4
                | u8::from(ends.0) << 3
                | u8::from(ends.1) << 2
                | u8::from(is_last_reference),
            high,
            low,
            frame.temporal << 5 | 0x10 | frame.spatial << 1 | u8::from(is_inter_layer),
        ];
        if !is_flexible {
            bytes.push(self.tl0_pic_idx);
        } else if !frame.is_key {
            let earlier = frame
                .references
                .iter()
                .map(|r| frame.picture - self.pictures[r]);
            let back: Vec<u32> = earlier.filter(|pictures| *pictures > 0).collect();
            for (at, pictures) in back.iter().enumerate() {
                bytes.push((*pictures as u8) << 1 | u8::from(at + 1 < back.len()));
            }
        }
        bytes
    }

    /// The AV1 RTP specification, appendix A: a structure with each keyframe, a template for each layer, own
    /// indications and references for every frame.
    fn descriptor(&self, frame: &Frame, ends: (bool, bool)) -> Vec<u8> {
        let mut bits = Bits::default();
        bits.push(u32::from(ends.0), 1);
        bits.push(u32::from(ends.1), 1);
        let temporal = match self.is_lying {
            true => 2 - frame.temporal,
            false => frame.temporal,
        };
        let template = u32::from(frame.spatial) * 3 + u32::from(temporal);
        bits.push((template + self.template_offset) % 64, 6);
        bits.push(frame.number & 0xffff, 16);
        let has_structure = frame.is_key && ends.0 && frame.spatial == 0 && !self.is_terse;
        bits.push(u32::from(has_structure), 1);
        bits.push(0b0110, 4);
        if has_structure {
            let layers = u32::from(3 * self.spatial_layers);
            bits.push(self.template_offset, 6);
            bits.push(layers - 1, 5);
            for layer in 1..=layers {
                // A temporal layer follows, a spatial one, or none.
                let idc = if layer % 3 > 0 { 1 } else { 2 };
                bits.push(if layer == layers { 3 } else { idc }, 2);
            }
            for spatial in 0..self.spatial_layers {
                for temporal in 0..3 {
                    self.indications(spatial, temporal, false, &mut bits);
                }
            }
            bits.push(0, layers);
            // No chains: ns(n) of 0 has as many bits as the largest power of two in n = layers + 1. No resolutions.
            bits.push(0, (layers + 1).ilog2());
            bits.push(0, 1);
        }
        self.indications(frame.spatial, frame.temporal, frame.is_key, &mut bits);
        for reference in &frame.references {
            bits.push(2, 2);
            bits.push(frame.number - reference - 1, 8);
        }
        bits.push(0, 2);
        bits.bytes()
    }

    fn indications(&self, spatial: u8, temporal: u8, is_key: bool, bits: &mut Bits) {
        for target in 0..3 * self.spatial_layers {
            let what = self.indication((spatial, temporal), is_key, (target / 3, target % 3));
            bits.push("-DSR".find(what).expect("one of four") as u32, 2);
        }
    }

    /// What a frame is to a decode target.
    fn indication(&self, layer: (u8, u8), is_key: bool, target: (u8, u8)) -> char {
        let is_inside = layer.0 <= target.0 && layer.1 <= target.1;
        let is_own = layer.0 == target.0;
        if !is_inside || (self.mode.is_key_only() && !is_key && !is_own) {
            '-'
        } else if is_key || (is_own && layer.1 < 2) {
            'S'
        } else if is_own {
            'D'
        } else {
            'R'
        }
    }
}

#[derive(Debug, Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.0
            .extend((0..count).rev().map(|at| value >> at & 1 == 1));
    }

    fn bytes(self) -> Vec<u8> {
        let byte = |bits: &[bool]| {
            let bit = |(at, bit): (usize, &bool)| u8::from(*bit) << (7 - at);
            bits.iter().enumerate().map(bit).sum()
        };
        self.0.chunks(8).map(byte).collect()
    }
}

/// A packet as the subscriber gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
    pub descriptor: Option<Vec<u8>>,
}

/// The numbers that a decoder follows, read from a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub id: u16,
    pub tl0_pic_idx: Option<u8>,
    pub active: Option<u32>,
}

/// Reads the numbers of a received packet the way the generator wrote them.
pub fn numbers(mode: Mode, received: &Received) -> Numbers {
    let payload = &received.payload;
    let picture_id = |at: usize| u16::from_be_bytes([payload[at] & 0x7f, payload[at + 1]]);
    match mode {
        Mode::Vp8L1T3 => Numbers {
            id: picture_id(2),
            tl0_pic_idx: Some(payload[4]),
            active: None,
        },
        Mode::Vp9L3T3 | Mode::Vp9L3T3Key => Numbers {
            id: picture_id(1),
            tl0_pic_idx: Some(payload[4]),
            active: None,
        },
        Mode::Vp9L3T3Flexible => Numbers {
            id: picture_id(1),
            tl0_pic_idx: None,
            active: None,
        },
        Mode::Av1L3T3 | Mode::Av1L3T3Key => {
            let bytes = received.descriptor.as_ref().expect("AV1 has descriptors");
            Numbers {
                id: u16::from_be_bytes([bytes[1], bytes[2]]),
                tl0_pic_idx: None,
                active: active_targets(bytes),
            }
        }
    }
}

/// The mask, which stands behind the flags or behind the structure, whose length here never changes.
fn active_targets(bytes: &[u8]) -> Option<u32> {
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let structure_bits = 6 + 5 + 18 + 9 * 18 + 9 + 3 + 1;
    let start = 29 + if bit(24) { structure_bits } else { 0 };
    let read = |at: usize| (0..9).fold(0, |mask, i| mask << 1 | u32::from(bit(at + i)));
    match (bit(24), bit(25)) {
        (_, true) => Some(read(start)),
        (true, false) => Some(0x1ff),
        (false, false) => None,
    }
}

/// The number of the frame that a payload is of.
pub fn content(payload: &[u8]) -> u32 {
    let tail = payload.last_chunk().expect("the generator's tail");
    u32::from_be_bytes(*tail)
}

/// Frames that arrived whole, and those of them that can be decoded.
#[derive(Debug, Default)]
pub struct Decoder {
    parts: BTreeMap<u32, usize>,
    pub decoded: BTreeSet<u32>,
    /// Frames that arrived whole, without what they build on.
    pub broken: Vec<u32>,
}

impl Decoder {
    /// Takes a packet of `frame`.
    pub fn take(&mut self, frame: &Frame) {
        let parts = self.parts.entry(frame.number).or_default();
        *parts += 1;
        if *parts < frame.packets {
            return;
        }
        match frame.references.iter().all(|r| self.decoded.contains(r)) {
            true => {
                self.decoded.insert(frame.number);
            }
            false => self.broken.push(frame.number),
        }
    }
}
