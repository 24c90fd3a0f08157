//! The dependency descriptor, an RTP header extension (AV1 RTP specification, appendix A): which layer a
//! frame belongs to, which frames it builds on, and for which decode targets it is needed.
//!
//! Most packets name a template of a structure that came with a keyframe, so a reader keeps that structure.
//! What a server changes on the way is the frame number and the mask of active decode targets.

use crate::wire::payload::bits::{BitReader, BitWriter};

/// What the descriptor of one packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DependencyDescriptor {
    /// The packet is the first of its frame.
    pub starts_frame: bool,
    /// The packet is the last of its frame.
    pub ends_frame: bool,
    /// The frame's number, in decoding order over all layers.
    pub frame_number: u16,
    /// A new structure comes with this packet.
    pub has_structure: bool,
    /// Which decode targets the sender still produces, from this packet on; bit 0 is target 0.
    pub active_targets: Option<u32>,
    /// The frame's spatial layer, 0–3.
    pub spatial: u8,
    /// The frame's temporal layer, 0–7.
    pub temporal: u8,
    /// What the frame is to each decode target.
    pub indications: Indications,
    /// How far back each frame lies that this one builds on, in frame numbers.
    differences: [u16; DIFFERENCES_MAX],
    differences_len: u8,
    /// The largest width and height of the spatial layer in pixels.
    pub size: Option<(u16, u16)>,
    /// How many decode targets the structure has.
    targets: u8,
    /// Where the mask stands or would stand, in bits.
    mask_at: u16,
    /// Where the descriptor ends, in bits.
    end: u16,
}

/// What a frame is to each decode target (DTI); bit 0 of each set is target 0. Who is in no set does not
/// contain the frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indications {
    /// Nothing else of the target builds on it.
    pub discardable: u32,
    /// If it can be decoded, all later frames of the target can.
    pub switch: u32,
    /// Later frames of the target build on it.
    pub required: u32,
}

/// What templates, decode targets and chains a stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateStructure {
    id_offset: u8,
    targets: u8,
    chains: u8,
    templates: Vec<Template>,
    target_layers: [(u8, u8); TARGETS_MAX],
    sizes: Option<[(u16, u16); SPATIAL_MAX]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Template {
    spatial: u8,
    temporal: u8,
    indications: Indications,
    differences: [u16; DIFFERENCES_MAX],
    differences_len: u8,
}

/// The flags of the extended fields.
#[derive(Default)]
struct Flags {
    structure: bool,
    active_targets: bool,
    custom_indications: bool,
    custom_differences: bool,
    custom_chains: bool,
}

/// The frame number of a descriptor, for which no structure is needed.
#[must_use]
pub fn frame_number(descriptor: &[u8]) -> Option<u16> {
    match descriptor {
        [_, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// Whether a descriptor brings a structure; for which none is needed.
#[must_use]
pub fn has_structure(descriptor: &[u8]) -> bool {
    matches!(descriptor, [_, _, _, flags, ..] if flags & 0x80 != 0)
}

/// Gives a descriptor another frame number, in place. For a descriptor that cannot be read further.
pub fn set_frame_number(descriptor: &mut [u8], number: u16) {
    if let Some(place) = descriptor.get_mut(1..3) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

impl DependencyDescriptor {
    /// Reads a descriptor with the structure that holds for it, unless it brings one itself, which is then
    /// returned. `None` if it is malformed, or refers to what is not known.
    #[must_use]
    pub fn parse(
        bytes: &[u8],
        known: Option<&TemplateStructure>,
    ) -> Option<(Self, Option<TemplateStructure>)> {
        let mut bits = BitReader::new(bytes);
        let (starts_frame, ends_frame) = (bits.flag()?, bits.flag()?);
        let template_id = bits.bits(6)? as u8;
        let frame_number = bits.bits(16)? as u16;
        let mut flags = Flags::default();
        if bytes.len() > MANDATORY_LEN {
            flags = Flags {
                structure: bits.flag()?,
                active_targets: bits.flag()?,
                custom_indications: bits.flag()?,
                custom_differences: bits.flag()?,
                custom_chains: bits.flag()?,
            };
        }
        let new = match flags.structure {
            true => Some(TemplateStructure::read(&mut bits)?),
            false => None,
        };
        let structure = new.as_ref().or(known)?;
        let targets = u32::from(structure.targets);
        let mask_at = bits.position() as u16;
        let active_targets = match flags.active_targets {
            true => Some(bits.bits(targets)?),
            false => None,
        };
        let index = template_id.wrapping_sub(structure.id_offset) % TEMPLATES_MAX as u8;
        let template = structure.templates.get(usize::from(index))?;
        let mut frame = *template;
        if flags.custom_indications {
            frame.indications = Indications::read(&mut bits, targets)?;
        }
        if flags.custom_differences {
            frame.read_custom_differences(&mut bits)?;
        }
        if flags.custom_chains {
            for _ in 0..structure.chains {
                bits.bits(8)?;
            }
        }
        let descriptor = Self {
            starts_frame,
            ends_frame,
            frame_number,
            has_structure: flags.structure,
            active_targets,
            spatial: frame.spatial,
            temporal: frame.temporal,
            indications: frame.indications,
            differences: frame.differences,
            differences_len: frame.differences_len,
            size: structure.size(frame.spatial),
            targets: structure.targets,
            mask_at,
            end: bits.position() as u16,
        };
        Some((descriptor, new))
    }

    /// How far back each frame lies that this one builds on, in frame numbers.
    #[must_use]
    pub fn differences(&self) -> &[u16] {
        &self.differences[..usize::from(self.differences_len)]
    }

    /// Where a mask stands or would stand, and where the descriptor ends, in bits; and how wide the mask is: what decides, beside
    /// the source, what [`Self::write`] makes.
    #[must_use]
    pub fn layout(&self) -> (u16, u16, u8) {
        (self.mask_at, self.end, self.targets)
    }

    /// Writes `source`, which this was read from, with another frame number and, where given, another mask of
    /// active decode targets. Returns how many bytes it took; `None` if `into` is too short.
    #[must_use]
    pub fn write(
        &self,
        source: &[u8],
        frame_number: u16,
        active_targets: Option<u32>,
        into: &mut [u8],
    ) -> Option<usize> {
        let Some(mask) = active_targets else {
            let copy = into.get_mut(..source.len())?;
            copy.copy_from_slice(source);
            set_frame_number(copy, frame_number);
            return Some(source.len());
        };
        let (mask_at, end) = (usize::from(self.mask_at), usize::from(self.end));
        let mask_bits = u32::from(self.targets);
        let mut out = BitWriter::new(into);
        out.copy(source, 0..8)?;
        out.bits(u32::from(frame_number), 16)?;
        if source.len() > MANDATORY_LEN {
            out.copy(source, 24..25)?;
            out.bits(1, 1)?;
            out.copy(source, 26..mask_at)?;
        } else {
            out.bits(0b01000, 5)?;
        }
        out.bits(mask, mask_bits)?;
        if source.len() > MANDATORY_LEN {
            let old_bits = if self.active_targets.is_some() {
                mask_bits as usize
            } else {
                0
            };
            out.copy(source, mask_at + old_bits..end)?;
        }
        Some(out.bytes_len())
    }
}

impl Indications {
    fn read(bits: &mut BitReader<'_>, targets: u32) -> Option<Self> {
        let mut indications = Self::default();
        for target in 0..targets {
            match bits.bits(2)? {
                0 => {}
                1 => indications.discardable |= 1 << target,
                2 => indications.switch |= 1 << target,
                _ => indications.required |= 1 << target,
            }
        }
        Some(indications)
    }

    /// The targets that contain the frame.
    #[must_use]
    pub fn present(&self) -> u32 {
        self.discardable | self.switch | self.required
    }
}

impl Template {
    fn add_difference(&mut self, difference: u32) -> Option<()> {
        let place = self
            .differences
            .get_mut(usize::from(self.differences_len))?;
        *place = difference as u16;
        self.differences_len += 1;
        Some(())
    }

    fn read_custom_differences(&mut self, bits: &mut BitReader<'_>) -> Option<()> {
        self.differences_len = 0;
        loop {
            match bits.bits(2)? {
                0 => return Some(()),
                nibbles => self.add_difference(bits.bits(4 * nibbles)? + 1)?,
            }
        }
    }
}

impl TemplateStructure {
    fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        let id_offset = bits.bits(6)? as u8;
        let targets = bits.bits(5)? as u8 + 1;
        let mut templates = read_layers(bits)?;
        for template in &mut templates {
            template.indications = Indications::read(bits, u32::from(targets))?;
        }
        for template in &mut templates {
            while bits.flag()? {
                template.add_difference(bits.bits(4)? + 1)?;
            }
        }
        let chains = bits.non_symmetric(u32::from(targets) + 1)?;
        if chains > 0 {
            for _ in 0..targets {
                bits.non_symmetric(chains)?;
            }
            for _ in 0..templates.len() * chains as usize {
                bits.bits(4)?;
            }
        }
        let mut sizes = None;
        if bits.flag()? {
            let spatial_max = templates.last()?.spatial;
            let mut all = [(0, 0); SPATIAL_MAX];
            for size in &mut all[..=usize::from(spatial_max)] {
                let mut side = || Some((bits.bits(16)? as u16).saturating_add(1));
                *size = (side()?, side()?);
            }
            sizes = Some(all);
        }
        Some(Self {
            id_offset,
            targets,
            chains: chains as u8,
            target_layers: target_layers(&templates),
            templates,
            sizes,
        })
    }

    /// How many decode targets there are, 1–32.
    #[must_use]
    pub fn targets(&self) -> usize {
        usize::from(self.targets)
    }

    /// What the frame of each template is to the decode targets.
    pub fn frames(&self) -> impl Iterator<Item = &Indications> + '_ {
        self.templates.iter().map(|template| &template.indications)
    }

    /// The highest spatial and temporal layer of a decode target.
    #[must_use]
    pub fn target_layer(&self, target: usize) -> (u8, u8) {
        self.target_layers[target % TARGETS_MAX]
    }

    /// The largest width and height of a spatial layer in pixels.
    #[must_use]
    pub fn size(&self, spatial: u8) -> Option<(u16, u16)> {
        let size = self.sizes.as_ref()?.get(usize::from(spatial))?;
        Some(*size).filter(|size| *size != (0, 0))
    }
}

/// The layers of the templates, in order (`template_layers`).
fn read_layers(bits: &mut BitReader<'_>) -> Option<Vec<Template>> {
    let mut templates = Vec::new();
    let (mut spatial, mut temporal) = (0, 0);
    loop {
        if templates.len() == TEMPLATES_MAX
            || spatial >= SPATIAL_MAX as u8
            || temporal >= TEMPORAL_MAX
        {
            return None;
        }
        templates.push(Template {
            spatial,
            temporal,
            ..Template::default()
        });
        match bits.bits(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => return Some(templates),
        }
    }
}

/// The highest layers of which each target contains a frame (`decode_target_layers`).
fn target_layers(templates: &[Template]) -> [(u8, u8); TARGETS_MAX] {
    let mut layers = [(0, 0); TARGETS_MAX];
    for (target, layer) in layers.iter_mut().enumerate() {
        for template in templates {
            if template.indications.present() & 1 << target != 0 {
                *layer = (
                    layer.0.max(template.spatial),
                    layer.1.max(template.temporal),
                );
            }
        }
    }
    layers
}

/// The fields that every descriptor has, in bytes.
const MANDATORY_LEN: usize = 3;
/// Template ids have six bits.
const TEMPLATES_MAX: usize = 64;
/// `dt_cnt_minus_one` has five bits.
const TARGETS_MAX: usize = 32;
/// An AV1 OBU's `spatial_id` has two bits, its `temporal_id` three (AV1 §5.3.3).
const SPATIAL_MAX: usize = 4;
const TEMPORAL_MAX: u8 = 8;
/// AV1 frames have seven references at most; VP9 frames three.
const DIFFERENCES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// L2T2 with one chain for each spatial layer and sizes: id offset 5, targets S0T0, S0T1, S1T0, S1T1.
    /// Templates: key S0, S0T0, S0T1, key S1, S1T0, S1T1.
    fn structure(out: &mut BitWriter) {
        out.bits(5, 6).unwrap();
        out.bits(3, 5).unwrap();
        for idc in [0, 1, 2, 0, 1, 3] {
            out.bits(idc, 2).unwrap();
        }
        for row in ["SSSS", "SSRR", "-D-R", "--SS", "--SS", "---D"] {
            indications(out, row);
        }
        for differences in [&[][..], &[4], &[2], &[1], &[4, 1], &[2, 1]] {
            for difference in differences {
                out.bits(1, 1).unwrap();
                out.bits(difference - 1, 4).unwrap();
            }
            out.bits(0, 1).unwrap();
        }
        out.non_symmetric(2, 5).unwrap();
        for chain in [0, 0, 1, 1] {
            out.non_symmetric(chain, 2).unwrap();
        }
        for difference in [0, 0, 4, 3, 2, 1, 1, 1, 1, 1, 3, 2] {
            out.bits(difference, 4).unwrap();
        }
        out.bits(1, 1).unwrap();
        for side in [319, 179, 639, 359] {
            out.bits(side, 16).unwrap();
        }
    }

    fn indications(out: &mut BitWriter, row: &str) {
        for dti in row.chars() {
            out.bits("-DSR".find(dti).unwrap() as u32, 2).unwrap();
        }
    }

    fn build(fill: impl FnOnce(&mut BitWriter)) -> Vec<u8> {
        let mut bytes = [0; 255];
        let mut out = BitWriter::new(&mut bytes);
        fill(&mut out);
        let len = out.bytes_len();
        bytes[..len].to_vec()
    }

    fn mandatory(out: &mut BitWriter, template: u32, number: u32) {
        out.bits(0b10, 2).unwrap();
        out.bits(template, 6).unwrap();
        out.bits(number, 16).unwrap();
    }

    /// A keyframe of the lowest layer with the structure.
    fn keyframe() -> Vec<u8> {
        build(|out| {
            mandatory(out, 5, 0xfffe);
            out.bits(0b10000, 5).unwrap();
            structure(out);
        })
    }

    /// A frame of S1T1 with everything its own, and a mask.
    fn custom() -> Vec<u8> {
        build(|out| {
            mandatory(out, 10, 7);
            out.bits(0b01111, 5).unwrap();
            out.bits(0b0011, 4).unwrap();
            indications(out, "--DS");
            for (nibbles, difference) in [(1, 16), (2, 256), (3, 4096)] {
                out.bits(nibbles, 2).unwrap();
                out.bits(difference - 1, 4 * nibbles).unwrap();
            }
            out.bits(0, 2).unwrap();
            out.bits(0x1234, 16).unwrap();
        })
    }

    fn known() -> TemplateStructure {
        DependencyDescriptor::parse(&keyframe(), None)
            .unwrap()
            .1
            .unwrap()
    }

    #[test]
    fn reads_a_structure() {
        let (frame, structure) = DependencyDescriptor::parse(&keyframe(), None).unwrap();
        let structure = structure.unwrap();
        assert!(frame.starts_frame && !frame.ends_frame && frame.has_structure);
        assert_eq!((frame.spatial, frame.temporal), (0, 0));
        assert_eq!(frame.frame_number, 0xfffe);
        assert_eq!(frame.indications.switch, 0b1111);
        assert_eq!(frame.size, Some((320, 180)));
        assert!(frame.differences().is_empty());
        let layers: Vec<_> = (0..4)
            .map(|target| structure.target_layer(target))
            .collect();
        assert_eq!(layers, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(structure.targets(), 4);
        assert_eq!(structure.size(1), Some((640, 360)));
        assert_eq!(structure.size(2), None);
        assert!(has_structure(&keyframe()) && !has_structure(&custom()));
    }

    #[test]
    fn a_template_says_it_all() {
        let known = known();
        // (template id, layer, present, differences)
        let cases = [
            (6, (0, 0), 0b1111, vec![4]),
            (7, (0, 1), 0b1010, vec![2]),
            (9, (1, 0), 0b1100, vec![4, 1]),
            (10, (1, 1), 0b1000, vec![2, 1]),
        ];
        for (id, layer, present, differences) in cases {
            let bytes = [0x40 | id, 0, 9];
            let (frame, new) = DependencyDescriptor::parse(&bytes, Some(&known)).unwrap();
            assert!(new.is_none() && frame.ends_frame && !frame.starts_frame);
            assert_eq!((frame.spatial, frame.temporal), layer);
            assert_eq!(frame.indications.present(), present);
            assert_eq!(frame.differences(), differences);
        }
        for unknown in [4, 11, 63] {
            let bytes = [unknown, 0, 9];
            assert!(DependencyDescriptor::parse(&bytes, Some(&known)).is_none());
        }
        assert!(DependencyDescriptor::parse(&[6, 0, 9], None).is_none());
    }

    #[test]
    fn a_frame_may_differ_from_its_template() {
        let (frame, _) = DependencyDescriptor::parse(&custom(), Some(&known())).unwrap();
        assert_eq!(frame.active_targets, Some(0b0011));
        assert_eq!(frame.differences(), [16, 256, 4096]);
        let expected = Indications {
            discardable: 0b0100,
            switch: 0b1000,
            required: 0,
        };
        assert_eq!(frame.indications, expected);
    }

    #[test]
    fn writes_another_number_and_mask() {
        let known = known();
        let short = vec![0xc0 | 9, 0, 1];
        for source in [keyframe(), custom(), short] {
            let (frame, structure) = DependencyDescriptor::parse(&source, Some(&known)).unwrap();
            for mask in [None, Some(0b0101)] {
                let mut buffer = [0xaa; 255];
                let len = frame.write(&source, 0xabcd, mask, &mut buffer).unwrap();
                assert!(len <= source.len() + 2);
                let (again, structure_again) =
                    DependencyDescriptor::parse(&buffer[..len], Some(&known)).unwrap();
                assert_eq!(again.frame_number, 0xabcd);
                assert_eq!(again.active_targets, mask.or(frame.active_targets));
                assert_eq!(structure_again, structure);
                assert_eq!(
                    (again.indications, again.differences()),
                    (frame.indications, frame.differences())
                );
                let read = |f: &DependencyDescriptor| (f.spatial, f.temporal, f.starts_frame);
                assert_eq!(read(&again), read(&frame));
                assert_eq!(frame.write(&source, 1, mask, &mut [0; 2]), None);
            }
        }
    }

    #[test]
    fn malformed_descriptors_are_refused_or_read() {
        let known = known();
        for whole in [keyframe(), custom()] {
            for len in 0..whole.len() {
                let cut = &whole[..len];
                // Three bytes are a whole descriptor.
                let is_read = DependencyDescriptor::parse(cut, Some(&known)).is_some();
                assert_eq!(is_read, len == 3, "{len} bytes");
            }
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                check(&flipped, &known);
            }
        }
        // Endless templates, layers and references.
        for byte in [0x00, 0xff, 0x55, 0xaa] {
            let mut bytes = vec![0x80, 0, 0, 0x80];
            bytes.extend([byte; 251]);
            check(&bytes, &known);
        }
    }

    /// What is read can be written, and reads the same.
    fn check(bytes: &[u8], known: &TemplateStructure) {
        let Some((frame, new)) = DependencyDescriptor::parse(bytes, Some(known)) else {
            return;
        };
        let mut buffer = [0; 300];
        let len = frame.write(bytes, 1, Some(0), &mut buffer).unwrap();
        let (again, again_new) = DependencyDescriptor::parse(&buffer[..len], Some(known)).unwrap();
        assert_eq!(again.active_targets, Some(0));
        assert_eq!(again_new, new);
        assert_eq!(again.indications, frame.indications);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..255)) {
            check(&bytes, &known());
        }
    }
}
