//! Pictures in spatial and temporal layers of one stream (SVC, L3T3_KEY), and of AV1 with temporal layers only, as each stream of
//! simulcast has them (L1T3): what an encoder makes of them, and a decoder that takes a picture when all of it is there, up to
//! the packet that says it is the last.

use std::collections::{BTreeMap, BTreeSet};

use shardcast::wire::codec::Codec;

use crate::layered::{Encoder, Mode};
use crate::publisher::Stamp;

/// An encoder of three spatial layers, or of one of several encodings.
pub struct Source {
    encoder: Encoder,
    /// Which, if there are several.
    encoding: Option<u8>,
}

/// A packet, but for what fills it.
pub struct Part {
    pub stamp: Stamp,
    pub header: Vec<u8>,
    /// The dependency descriptor.
    pub descriptor: Option<Vec<u8>>,
    /// It ends the picture.
    pub marker: bool,
    pub bytes: usize,
}

impl Source {
    /// `None` if the coding has no such layers. `encoding`: which one it is of several.
    pub fn new(coding: Codec, encoding: Option<u8>, seed: u16) -> Option<Self> {
        let mode = match coding {
            Codec::Vp9 { .. } => Mode::Vp9L3T3Key,
            Codec::Av1 { .. } if encoding.is_some() => Mode::Av1L3T3,
            Codec::Av1 { .. } => Mode::Av1L3T3Key,
            _ => return None,
        };
        let mut encoder = Encoder::new(mode, seed);
        if encoding.is_some() {
            encoder.spatial_layers = 1;
        }
        Some(Self { encoder, encoding })
    }

    /// The next picture, with so many bytes in each spatial layer, in packets of `most` bytes.
    pub fn picture(
        &mut self,
        is_keyframe: bool,
        bytes: [usize; 3],
        most: usize,
        capture_us: u64,
    ) -> Vec<Part> {
        self.encoder.parts = Some(bytes.map(|bytes| bytes.div_ceil(most)));
        let mut part = 0;
        let encoding = self.encoding;
        // Each encoding counts its frames by itself.
        let name = |number: u32| number + (u32::from(encoding.unwrap_or(0)) << 24);
        let packets = self.encoder.picture(is_keyframe);
        let parts = packets.into_iter().map(|mut packet| {
            let frame = packet.frame;
            part = if packet.ends.0 { 0 } else { part + 1 };
            // The generator's own number: here the stamp tells it.
            packet.payload.truncate(packet.payload.len() - 4);
            Part {
                stamp: Stamp {
                    encoding: encoding.unwrap_or(frame.spatial),
                    temporal: frame.temporal,
                    is_keyframe: frame.is_key && frame.spatial == 0,
                    frame: name(frame.number),
                    depends_on: frame.references.first().copied().map_or(0, name),
                    part,
                    parts: frame.packets as u16,
                    capture_us,
                },
                header: packet.payload,
                descriptor: packet.descriptor,
                marker: packet.marker,
                bytes: bytes[usize::from(frame.spatial)] / frame.packets,
            }
        });
        parts.collect()
    }
}

/// What stands before the stamp: the aggregation header of AV1, the descriptor of VP9 with a picture number of 15 bits, layers
/// and the number of the last base layer.
pub fn header_len(coding: Codec) -> usize {
    match coding {
        Codec::Av1 { .. } => 1,
        _ => 5,
    }
}

/// Pictures that have come, and what was decoded of them.
#[derive(Default)]
pub struct Pictures {
    /// By extended timestamp.
    waiting: BTreeMap<u64, Picture>,
    decoded: BTreeSet<u32>,
}

#[derive(Default)]
struct Picture {
    /// By extended number.
    packets: BTreeMap<u64, Stamp>,
    last: Option<u64>,
}

/// A picture that was decoded.
pub struct Shown {
    pub timestamp: u64,
    pub first_seq: u64,
    pub spatial: u8,
    pub temporal: u8,
}

impl Pictures {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn take(&mut self, timestamp: u64, seq: u64, is_last: bool, stamp: Stamp) {
        let picture = self.waiting.entry(timestamp).or_default();
        picture.packets.insert(seq, stamp);
        if is_last {
            picture.last = Some(seq);
        }
        if self.waiting.len() > 600 {
            self.waiting.pop_first();
        }
    }

    /// The next picture that can be decoded: what is older is too late.
    pub fn decode(&mut self) -> Option<Shown> {
        let mut waiting = self.waiting.iter();
        let (&timestamp, _) = waiting.find(|(_, picture)| picture.is_ready(&self.decoded))?;
        let later = self.waiting.split_off(&(timestamp + 1));
        let picture = self.waiting.remove(&timestamp).expect("it was found");
        self.waiting = later;
        let (&first_seq, _) = picture.packets.first_key_value()?;
        let (_, top) = picture.packets.last_key_value()?;
        self.decoded.extend(picture.frames());
        Some(Shown {
            timestamp,
            first_seq,
            spatial: top.encoding,
            temporal: top.temporal,
        })
    }
}

impl Picture {
    fn frames(&self) -> impl Iterator<Item = u32> {
        self.packets.values().map(|stamp| stamp.frame)
    }

    /// All of it is there, and all that it builds on.
    fn is_ready(&self, decoded: &BTreeSet<u32>) -> bool {
        let Some(((first_seq, first), last)) = self.packets.first_key_value().zip(self.last) else {
            return false;
        };
        let is_whole = first.part == 0 && self.packets.len() as u64 == last + 1 - first_seq;
        let own: BTreeSet<u32> = self.frames().collect();
        let is_known = |stamp: &Stamp| {
            stamp.is_keyframe
                || decoded.contains(&stamp.depends_on)
                || own.contains(&stamp.depends_on)
        };
        is_whole && self.packets.values().all(is_known)
    }
}
