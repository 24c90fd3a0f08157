//! Whether a decoder that knows nothing can start with a packet: the first one of a keyframe, with all it needs.

use crate::wire::codec::Codec;

/// Whether a payload is the first of a keyframe.
///
/// VP8: RFC 7741 §4.2, §4.3. VP9: RFC 9628 §4.2. H.264: RFC 6184 §5.6–5.8; a stream may change its size only with
/// its parameter sets, so these are what counts. AV1: AV1 RTP specification §4.4, N.
#[must_use]
pub fn is_keyframe_start(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => is_vp8(payload).unwrap_or(false),
        Codec::Vp9 { .. } => is_vp9(payload).unwrap_or(false),
        Codec::H264 { .. } => is_h264(payload).unwrap_or(false),
        Codec::Av1 { .. } => payload.first().is_some_and(|first| first & 0x88 == 0x08),
        Codec::Opus | Codec::Red => true,
    }
}

fn is_vp8(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    // S, and the first partition.
    if first & 0x17 != 0x10 {
        return Some(false);
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        let extended = *payload.get(at)?;
        at += 1;
        if extended & 0x80 != 0 {
            let is_long = payload.get(at)? & 0x80 != 0;
            at += if is_long { 2 } else { 1 };
        }
        at += usize::from(extended & 0x40 != 0);
        at += usize::from(extended & 0x30 != 0);
    }
    Some(payload.get(at)? & 0x01 == 0)
}

fn is_vp9(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    let (has_id, is_inter, has_layers) = (first & 0x80, first & 0x40, first & 0x20);
    if is_inter != 0 || first & 0x08 == 0 {
        return Some(false);
    }
    let mut at = 1;
    if has_id != 0 {
        let is_long = payload.get(at)? & 0x80 != 0;
        at += if is_long { 2 } else { 1 };
    }
    match has_layers {
        0 => Some(true),
        // The lowest spatial layer.
        _ => Some(payload.get(at)? & 0x0e == 0),
    }
}

fn is_h264(payload: &[u8]) -> Option<bool> {
    match payload.first()? & 0x1f {
        SPS => Some(true),
        STAP_A => {
            let mut rest = payload.get(1..)?;
            while let Some((len, after)) = rest.split_first_chunk::<2>() {
                let unit = after.get(..usize::from(u16::from_be_bytes(*len)))?;
                if unit.first()? & 0x1f == SPS {
                    return Some(true);
                }
                rest = &after[unit.len()..];
            }
            Some(false)
        }
        _ => Some(false),
    }
}

const SPS: u8 = 7;
const STAP_A: u8 = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::H264Profile;

    #[test]
    fn only_the_first_packet_of_a_keyframe_starts() {
        let vp9 = Codec::Vp9 { profile: 0 };
        let av1 = Codec::Av1 { profile: 0 };
        let h264 = Codec::H264 {
            profile: H264Profile::ConstrainedBaseline,
            packetization_mode: 1,
        };
        let cases: [(Codec, &[u8], bool); 24] = [
            (Codec::Vp8, &[0x10, 0x50], true),
            (Codec::Vp8, &[0x10, 0x51], false),
            (Codec::Vp8, &[0x00, 0x50], false),
            (Codec::Vp8, &[0x11, 0x50], false),
            // A long picture id, TL0PICIDX and TID.
            (Codec::Vp8, &[0x90, 0xe0, 0x80, 0x01, 7, 0, 0x50], true),
            (Codec::Vp8, &[0x90, 0xe0, 0x80, 0x01, 7, 0, 0x51], false),
            (Codec::Vp8, &[0x90, 0x80, 0x01, 0x50], true),
            (Codec::Vp8, &[0x90, 0xe0, 0x80], false),
            (Codec::Vp8, &[], false),
            (vp9, &[0x88, 0x01], true),
            (vp9, &[0xc8, 0x01], false),
            (vp9, &[0x80, 0x01], false),
            (vp9, &[0xa8, 0x81, 0x01, 0x00], true),
            (vp9, &[0xa8, 0x81, 0x01, 0x02], false),
            (vp9, &[0xa8, 0x81], false),
            (h264, &[0x67, 0x42], true),
            (h264, &[0x65, 0x42], false),
            (h264, &[0x78, 0, 2, 0x67, 1, 0, 1, 0x68], true),
            (h264, &[0x78, 0, 1, 0x06, 0, 2, 0x67, 1], true),
            (h264, &[0x78, 0, 9, 0x67], false),
            (h264, &[0x7c, 0x85], false),
            (av1, &[0x18, 0x0a], true),
            (av1, &[0x10, 0x0a], false),
            (av1, &[0x98, 0x0a], false),
        ];
        for (codec, payload, expected) in cases {
            let got = is_keyframe_start(codec, payload);
            assert_eq!(got, expected, "{codec:?} {payload:x?}");
        }
    }
}
