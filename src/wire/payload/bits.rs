//! Bits in network order: read with an end, written into a buffer with an end.

/// Reads bits from the most significant one of the first byte on.
#[derive(Debug, Clone)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits read so far.
    at: usize,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bits were read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `count` bits (at most 32). `None` if there are fewer.
    pub fn bits(&mut self, count: u32) -> Option<u32> {
        if count > 32 || self.at + count as usize > self.bytes.len() * 8 {
            return None;
        }
        let mut value = 0_u64;
        for _ in 0..count {
            let bit = self.bytes[self.at / 8] >> (7 - self.at % 8) & 1;
            value = value << 1 | u64::from(bit);
            self.at += 1;
        }
        Some(value as u32)
    }

    /// The next bit.
    pub fn flag(&mut self) -> Option<bool> {
        Some(self.bits(1)? == 1)
    }

    /// A value below `below`, in as few bits as that allows (AV1 §4.10.7, `ns(n)`).
    pub fn non_symmetric(&mut self, below: u32) -> Option<u32> {
        let width = below.checked_ilog2()? + 1;
        let short = (1_u64 << width) - u64::from(below);
        let value = self.bits(width - 1)?;
        if u64::from(value) < short {
            return Some(value);
        }
        let extra = self.bits(1)?;
        Some(((u64::from(value) << 1) - short + u64::from(extra)) as u32)
    }

    /// An unsigned Exp-Golomb code (H.264 §9.1, `ue(v)`).
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.bits(zeros)?;
        Some(((1_u64 << zeros) - 1 + u64::from(rest)) as u32)
    }

    /// A signed Exp-Golomb code (H.264 §9.1.1, `se(v)`).
    pub fn signed_exp_golomb(&mut self) -> Option<i32> {
        let code = self.exp_golomb()?;
        let magnitude = code.div_ceil(2) as i32;
        Some(if code % 2 == 1 { magnitude } else { -magnitude })
    }
}

/// Writes bits into a buffer of fixed length, which starts as zeros.
#[derive(Debug)]
pub struct BitWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> BitWriter<'a> {
    /// Starts at the first bit of `bytes`, all of which it clears.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        bytes.fill(0);
        Self { bytes, at: 0 }
    }

    /// Appends the low `count` bits of `value` (at most 32). `None` if there is no room.
    pub fn bits(&mut self, value: u32, count: u32) -> Option<()> {
        if count > 32 || self.at + count as usize > self.bytes.len() * 8 {
            return None;
        }
        for shift in (0..count).rev() {
            let bit = (value >> shift & 1) as u8;
            self.bytes[self.at / 8] |= bit << (7 - self.at % 8);
            self.at += 1;
        }
        Some(())
    }

    /// Appends the bits of `from` between two positions. `None` if they are not there or there is no room.
    pub fn copy(&mut self, from: &[u8], range: std::ops::Range<usize>) -> Option<()> {
        let mut reader = BitReader {
            bytes: from,
            at: range.start,
        };
        let mut left = range.len();
        while left > 0 {
            let count = left.min(32);
            let value = reader.bits(count as u32)?;
            self.bits(value, count as u32)?;
            left -= count;
        }
        Some(())
    }

    /// Appends `value`, which is below `below` (AV1 §4.10.7, `ns(n)`).
    pub fn non_symmetric(&mut self, value: u32, below: u32) -> Option<()> {
        let width = below.checked_ilog2()? + 1;
        let short = (1_u64 << width) - u64::from(below);
        if u64::from(value) < short {
            return self.bits(value, width - 1);
        }
        self.bits((u64::from(value) + short) as u32, width)
    }

    /// How many bytes the bits so far take; the rest of the last one is zero.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.at.div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_network_order_and_stops_at_the_end() {
        let mut reader = BitReader::new(&[0b1010_0000, 0xff, 0x01]);
        assert_eq!(reader.bits(3), Some(0b101));
        assert_eq!(reader.bits(0), Some(0));
        assert_eq!(reader.bits(9), Some(0b0_0000_1111));
        assert_eq!(reader.position(), 12);
        assert_eq!(reader.bits(13), None, "12 are left");
        assert_eq!(reader.bits(12), Some(0xf01));
        assert_eq!(reader.flag(), None);
    }

    #[test]
    fn small_ranges_take_few_bits() {
        // n = 5: values 0–2 in two bits, 3 and 4 in three (the table of AV1 §4.10.7).
        let codes = [(0, "00"), (1, "01"), (2, "10"), (3, "110"), (4, "111")];
        for (value, code) in codes {
            let mut bytes = [0xff; 1];
            let mut writer = BitWriter::new(&mut bytes);
            writer.non_symmetric(value, 5).unwrap();
            let mut reader = BitReader::new(&bytes);
            let read: String = (0..code.len())
                .map(|_| if reader.flag().unwrap() { '1' } else { '0' })
                .collect();
            assert_eq!(read, code);
            let mut reader = BitReader::new(&bytes);
            assert_eq!(reader.non_symmetric(5), Some(value));
            assert_eq!(reader.position(), code.len());
        }
        assert_eq!(BitReader::new(&[]).non_symmetric(1), Some(0));
        assert_eq!(BitReader::new(&[]).non_symmetric(0), None);
    }

    #[test]
    fn exp_golomb_codes() {
        // 1 010 011 00100 00111
        let bytes = [0b1010_0110, 0b0100_0011, 0b1000_0000];
        let mut reader = BitReader::new(&bytes);
        let codes: Vec<_> = (0..5).map(|_| reader.exp_golomb().unwrap()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 6]);
        let mut reader = BitReader::new(&bytes);
        let codes: Vec<_> = (0..5)
            .map(|_| reader.signed_exp_golomb().unwrap())
            .collect();
        assert_eq!(codes, [0, 1, -1, 2, -3]);
        assert_eq!(BitReader::new(&[0; 9]).exp_golomb(), None);
    }

    #[test]
    fn copies_across_bytes() {
        let from: Vec<u8> = (0..16).collect();
        let mut bytes = [0; 16];
        let mut writer = BitWriter::new(&mut bytes);
        writer.bits(1, 3).unwrap();
        writer.copy(&from, 5..77).unwrap();
        assert_eq!(writer.bytes_len(), 10);
        let (mut a, mut b) = (BitReader::new(&bytes), BitReader::new(&from));
        a.bits(3).unwrap();
        b.bits(5).unwrap();
        for _ in 5..77 {
            assert_eq!(a.flag(), b.flag());
        }
        assert_eq!(BitWriter::new(&mut [0; 1]).copy(&from, 0..9), None);
    }
}
