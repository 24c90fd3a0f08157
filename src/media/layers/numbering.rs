//! Numbers that wrap, extended; and the last ones that a stream had.

/// Extends the numbers of one stream, of any width up to 16 bits, in whatever order they come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extender {
    highest: Option<u64>,
}

impl Extender {
    /// The extended number nearest to the highest so far. The first one lies far above 0.
    #[must_use]
    pub fn place(&self, value: u16, bits: u32) -> u64 {
        let modulus = 1_u64 << bits;
        let value = u64::from(value) & (modulus - 1);
        let Some(highest) = self.highest else {
            return FIRST + value;
        };
        let ahead = value.wrapping_sub(highest) & (modulus - 1);
        if ahead < modulus / 2 {
            highest + ahead
        } else {
            (highest + ahead).saturating_sub(modulus)
        }
    }

    /// A number was taken.
    pub fn note(&mut self, extended: u64) {
        self.highest = self.highest.max(Some(extended));
    }

    /// The highest so far.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }
}

/// The numbers of the last frame of a stream, which another one continues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastNumbers {
    /// The picture id; its upper bits mean nothing.
    pub picture_id: Option<u16>,
    /// The index of the last picture of the lowest temporal layer.
    pub tl0_pic_idx: Option<u8>,
    /// The frame number of the dependency descriptor.
    pub frame_number: Option<u16>,
}

/// A multiple of every width's modulus; below it there is room for what was reordered.
const FIRST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_any_width() {
        for bits in [7, 15, 16] {
            let top = ((1_u32 << bits) - 1) as u16;
            let mut extender = Extender::default();
            let first = extender.place(top, bits);
            extender.note(first);
            assert_eq!(extender.place(0, bits), first + 1, "{bits} bits");
            assert_eq!(extender.place(top - 1, bits), first - 1);
            extender.note(first + 5);
            extender.note(first + 1);
            assert_eq!(extender.highest(), Some(first + 5));
            assert_eq!(extender.place(top, bits), first);
        }
    }
}
