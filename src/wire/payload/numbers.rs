//! The numbers in a payload descriptor that a decoder follows, and where they stand.

/// A picture id of VP8 (RFC 7741 §4.2) or VP9 (RFC 9628 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    /// Its value: 7 or 15 bits.
    pub value: u16,
    /// Whether it has 15 bits.
    pub is_long: bool,
    /// Where it starts in the payload, in bytes.
    at: u8,
}

/// The index of a picture of the lowest temporal layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tl0PicIdx {
    /// Its value, which wraps.
    pub value: u8,
    /// Where it stands in the payload, in bytes.
    at: u8,
}

impl PictureId {
    /// Reads the one or two bytes at `at`; the descriptors before it are shorter than 256 bytes.
    #[must_use]
    pub fn read(payload: &[u8], at: usize) -> Option<Self> {
        let first = *payload.get(at)?;
        let is_long = first & LONG_BIT != 0;
        let high = u16::from(first & !LONG_BIT);
        Some(Self {
            value: match is_long {
                true => high << 8 | u16::from(*payload.get(at + 1)?),
                false => high,
            },
            is_long,
            at: u8::try_from(at).ok()?,
        })
    }

    /// How many bits it has.
    #[must_use]
    pub fn bits(self) -> u32 {
        if self.is_long { 15 } else { 7 }
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn bytes_len(self) -> usize {
        if self.is_long { 2 } else { 1 }
    }

    /// Writes `value` in its place, in as many bits as there are, into a copy of the payload it was
    /// read from. Of another payload nothing is written that is too short.
    pub fn write(self, payload: &mut [u8], value: u16) {
        let at = usize::from(self.at);
        if let Some(place) = payload.get_mut(at..at + self.bytes_len()) {
            match place {
                [only] => *only = value as u8 & !LONG_BIT,
                [high, low] => {
                    *high = LONG_BIT | (value >> 8) as u8;
                    *low = value as u8;
                }
                _ => {}
            }
        }
    }
}

impl Tl0PicIdx {
    /// Reads the byte at `at`.
    #[must_use]
    pub fn read(payload: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            value: *payload.get(at)?,
            at: u8::try_from(at).ok()?,
        })
    }

    /// Writes `value` in its place, into a copy of the payload it was read from.
    pub fn write(self, payload: &mut [u8], value: u8) {
        if let Some(place) = payload.get_mut(usize::from(self.at)) {
            *place = value;
        }
    }
}

/// The bit that says that a picture id has 15 bits (M).
const LONG_BIT: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_id_keeps_its_length() {
        for (bytes, value, new, expected) in [
            ([0x85, 0x01, 9], 0x501, 0x8123_u16, [0x81, 0x23, 9]),
            ([0x05, 0x01, 9], 5, 0x8123, [0x23, 0x01, 9]),
        ] {
            let id = PictureId::read(&bytes, 0).unwrap();
            assert_eq!(id.value, value);
            let mut copy = bytes;
            id.write(&mut copy, new);
            assert_eq!(copy, expected);
            id.write(&mut copy[..0], 0);
        }
        assert_eq!(PictureId::read(&[0x80], 0), None);
        assert_eq!(PictureId::read(&[0; 300], 256), None);
    }
}
