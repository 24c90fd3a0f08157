//! H.264 payloads (RFC 6184): where a keyframe starts, and how large it is. The format knows no layers of
//! its own.

use crate::wire::payload::bits::BitReader;

/// What one H.264 packet holds, as far as a server follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct H264Payload {
    /// A sequence parameter set: a keyframe begins here where the encoder sends these with it.
    pub has_parameters: bool,
    /// The first byte of a slice of a keyframe (IDR).
    pub starts_idr: bool,
    /// Width and height in pixels, from the parameter set.
    pub size: Option<(u16, u16)>,
}

impl H264Payload {
    /// Reads a single NAL unit packet, a STAP-A or an FU-A (packetization modes 0 and 1). `None` for an
    /// empty payload and for packets of other kinds.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        match payload.first()? & TYPE {
            1..=23 => found.note(payload),
            STAP_A => {
                let mut rest = &payload[1..];
                while let Some((len, units)) = rest.split_first_chunk::<2>() {
                    let len = usize::from(u16::from_be_bytes(*len));
                    let unit = units.get(..len)?;
                    found.note(unit);
                    rest = &units[len..];
                }
            }
            FU_A => {
                let header = *payload.get(1)?;
                found.starts_idr = header & FU_START != 0 && header & TYPE == IDR;
            }
            _ => return None,
        }
        Some(found)
    }

    fn note(&mut self, unit: &[u8]) {
        match unit.first().map(|header| header & TYPE) {
            Some(IDR) => self.starts_idr = true,
            Some(SPS) => {
                self.has_parameters = true;
                self.size = size_of_sps(&unit[1..]);
            }
            _ => {}
        }
    }
}

/// Width and height from a sequence parameter set (H.264 §7.3.2.1.1). `None` if it is malformed, or of the
/// rare kind that brings scaling lists of its own.
fn size_of_sps(sps: &[u8]) -> Option<(u16, u16)> {
    let mut buffer = [0; SPS_MAX];
    let len = unescape(sps, &mut buffer);
    let mut bits = BitReader::new(&buffer[..len]);
    let profile = bits.bits(8)?;
    bits.bits(16)?; // constraints and level
    bits.exp_golomb()?; // seq_parameter_set_id
    let mut chroma = 1;
    if HIGH_PROFILES.contains(&profile) {
        chroma = bits.exp_golomb()?;
        if chroma == 3 {
            bits.flag()?; // separate_colour_plane_flag
        }
        bits.exp_golomb()?; // bit_depth_luma_minus8
        bits.exp_golomb()?; // bit_depth_chroma_minus8
        bits.flag()?; // qpprime_y_zero_transform_bypass_flag
        if bits.flag()? {
            return None; // seq_scaling_matrix_present_flag
        }
    }
    bits.exp_golomb()?; // log2_max_frame_num_minus4
    match bits.exp_golomb()? {
        0 => {
            bits.exp_golomb()?; // log2_max_pic_order_cnt_lsb_minus4
        }
        1 => {
            bits.flag()?; // delta_pic_order_always_zero_flag
            bits.signed_exp_golomb()?;
            bits.signed_exp_golomb()?;
            let cycle = bits.exp_golomb()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.signed_exp_golomb()?;
            }
        }
        2 => {}
        _ => return None,
    }
    bits.exp_golomb()?; // max_num_ref_frames
    bits.flag()?; // gaps_in_frame_num_value_allowed_flag
    let width = u64::from(bits.exp_golomb()?) + 1;
    let height = u64::from(bits.exp_golomb()?) + 1;
    let is_frames_only = bits.flag()?;
    if !is_frames_only {
        bits.flag()?; // mb_adaptive_frame_field_flag
    }
    bits.flag()?; // direct_8x8_inference_flag
    let fields = if is_frames_only { 1 } else { 2 };
    let (mut crop_x, mut crop_y) = (0, 0);
    if bits.flag()? {
        // In units of chroma samples (H.264 §7.4.2.1.1): 4:2:0 halves both, 4:2:2 the width.
        let (unit_x, unit_y) = match chroma {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let mut both = || Some(u64::from(bits.exp_golomb()?) + u64::from(bits.exp_golomb()?));
        crop_x = both()? * unit_x;
        crop_y = both()? * unit_y * fields;
    }
    let side = |blocks: u64, crop: u64| {
        let pixels = u16::try_from((blocks * 16).checked_sub(crop)?).ok()?;
        (pixels > 0).then_some(pixels)
    };
    Some((side(width, crop_x)?, side(height * fields, crop_y)?))
}

/// Takes out the bytes that keep start codes from appearing (H.264 §7.4.1.1). Returns the length.
fn unescape(unit: &[u8], into: &mut [u8; SPS_MAX]) -> usize {
    let (mut len, mut zeros) = (0, 0);
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        let Some(place) = into.get_mut(len) else {
            break;
        };
        *place = byte;
        len += 1;
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    len
}

// NAL unit types (H.264 table 7-1, RFC 6184 table 1).
const TYPE: u8 = 0x1f;
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const FU_START: u8 = 0x80;
/// Profiles whose parameter sets tell the chroma format (H.264 §7.3.2.1.1).
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];
/// What is looked at of a parameter set: the size stands long before, unless it is made to confuse.
const SPS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::payload::bits::BitWriter;

    /// Baseline, pic_order_cnt_type 2, 640x360: 40 by 23 blocks, 8 lines cropped.
    fn baseline() -> Vec<u8> {
        sps(66, 40, 23, Some([0, 0, 0, 4]))
    }

    fn sps(profile: u32, width: u32, height: u32, crop: Option<[u32; 4]>) -> Vec<u8> {
        let mut bytes = [0; 64];
        let mut bits = BitWriter::new(&mut bytes);
        bits.bits(0x67, 8).unwrap();
        bits.bits(profile, 8).unwrap();
        bits.bits(0xe01f, 16).unwrap();
        let golomb = |bits: &mut BitWriter, value: u32| {
            let width = (value + 1).ilog2();
            bits.bits(0, width).unwrap();
            bits.bits(value + 1, width + 1).unwrap();
        };
        golomb(&mut bits, 0);
        if profile == 100 {
            for value in [1, 0, 0] {
                golomb(&mut bits, value);
            }
            bits.bits(0, 2).unwrap();
        }
        golomb(&mut bits, 0);
        golomb(&mut bits, 2);
        golomb(&mut bits, 1);
        bits.bits(0, 1).unwrap();
        golomb(&mut bits, width - 1);
        golomb(&mut bits, height - 1);
        bits.bits(0b11, 2).unwrap();
        bits.bits(u32::from(crop.is_some()), 1).unwrap();
        for value in crop.into_iter().flatten() {
            golomb(&mut bits, value);
        }
        bits.bits(0b01, 2).unwrap();
        let len = bits.bytes_len();
        bytes[..len].to_vec()
    }

    fn stap(units: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0x78];
        for unit in units {
            packet.extend((unit.len() as u16).to_be_bytes());
            packet.extend(*unit);
        }
        packet
    }

    #[test]
    fn finds_where_a_keyframe_starts() {
        let pps: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
        let cases: [(Vec<u8>, bool, bool); 9] = [
            (baseline(), true, false),
            (pps.to_vec(), false, false),
            (stap(&[&baseline(), pps]), true, false),
            (stap(&[&baseline(), pps, &[0x65, 1]]), true, true),
            (vec![0x65, 0x88], false, true),
            (vec![0x61, 0x88], false, false),
            // FU-A: start of an IDR slice, its middle, start of another slice.
            (vec![0x7c, 0x85, 1], false, true),
            (vec![0x7c, 0x05, 1], false, false),
            (vec![0x7c, 0x81, 1], false, false),
        ];
        for (payload, has_parameters, starts_idr) in cases {
            let found = H264Payload::parse(&payload).unwrap();
            assert_eq!(
                (found.has_parameters, found.starts_idr),
                (has_parameters, starts_idr),
                "{payload:x?}"
            );
        }
        for refused in [&[][..], &[0x1d, 0], &[0x00], &[0x7c], &[0x78, 0, 9, 1]] {
            assert_eq!(H264Payload::parse(refused), None, "{refused:x?}");
        }
    }

    #[test]
    fn reads_sizes() {
        let size = |sps: Vec<u8>| H264Payload::parse(&sps).unwrap().size;
        assert_eq!(size(baseline()), Some((640, 360)));
        assert_eq!(size(sps(66, 80, 45, None)), Some((1280, 720)));
        assert_eq!(
            size(sps(100, 120, 68, Some([0, 0, 0, 4]))),
            Some((1920, 1080))
        );
        assert_eq!(size(sps(66, 1, 1, Some([8, 0, 0, 0]))), None, "all cropped");
        assert_eq!(size(sps(66, 5000, 1, None)), None, "wider than 65535");
    }

    #[test]
    fn escapes_are_taken_out() {
        let mut buffer = [0; SPS_MAX];
        let len = unescape(&[1, 0, 0, 3, 1, 0, 0, 3, 0, 0, 3], &mut buffer);
        assert_eq!(buffer[..len], [1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(unescape(&[7; 1000], &mut buffer), SPS_MAX);
    }

    #[test]
    fn malformed_packets_are_refused_or_read() {
        for whole in [
            baseline(),
            stap(&[&baseline(), &[0x65, 1]]),
            vec![0x7c, 0x85],
        ] {
            for len in 0..whole.len() {
                let _ = H264Payload::parse(&whole[..len]);
            }
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = H264Payload::parse(&flipped);
            }
        }
    }
}
