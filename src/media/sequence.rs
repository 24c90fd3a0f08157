//! From the 16 bits on the wire to extended sequence numbers (RFC 3550 §A.1). The only place that
//! does this.

use crate::base::ids::{SeqNo, SeqNo16};

/// Extends the sequence numbers of one stream, in whatever order its packets come.
#[derive(Debug, Clone, Copy)]
pub struct SeqExtender {
    highest: SeqNo,
}

impl SeqExtender {
    /// Starts with the first packet that came, which need not be the first that was sent: the
    /// extended numbers start one cycle up, so that there is room below.
    #[must_use]
    pub fn new(first: SeqNo16) -> Self {
        Self {
            highest: SeqNo((1 << 16) | u64::from(first.0)),
        }
    }

    /// The number nearest to the highest so far, which it may become.
    pub fn extend(&mut self, seq: SeqNo16) -> SeqNo {
        let extended = nearest(self.highest, seq);
        self.highest = self.highest.max(extended);
        extended
    }

    /// The highest number so far.
    #[must_use]
    pub fn highest(&self) -> SeqNo {
        self.highest
    }
}

/// The extended number that ends in `seq` and lies nearest to `reference`. Below 2^15 there is
/// nothing nearer than the first cycle itself.
#[must_use]
pub fn nearest(reference: SeqNo, seq: SeqNo16) -> SeqNo {
    let distance = seq.0.wrapping_sub(reference.on_wire().0) as i16;
    match reference.0.checked_add_signed(i64::from(distance)) {
        Some(extended) => SeqNo(extended),
        None => SeqNo(u64::from(seq.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_across_cycles_in_any_order() {
        let cycle = 1_u64 << 16;
        let cases: [(u16, &[u16], &[u64]); 4] = [
            (
                10,
                &[10, 11, 9, 12],
                &[cycle + 10, cycle + 11, cycle + 9, cycle + 12],
            ),
            (
                65_534,
                &[65_535, 1, 0, 65_533],
                &[cycle + 65_535, 2 * cycle + 1, 2 * cycle, cycle + 65_533],
            ),
            // Reordered right at the start of the stream.
            (2, &[65_535], &[cycle - 1]),
            (
                0,
                &[20_000, 40_000, 60_000, 14_464],
                &[
                    cycle + 20_000,
                    cycle + 40_000,
                    cycle + 60_000,
                    2 * cycle + 14_464,
                ],
            ),
        ];
        for (first, wire, expected) in cases {
            let mut extender = SeqExtender::new(SeqNo16(first));
            let extended: Vec<u64> = wire
                .iter()
                .map(|s| extender.extend(SeqNo16(*s)).0)
                .collect();
            assert_eq!(extended, expected, "from {first}");
        }
    }

    #[test]
    fn nothing_lies_below_zero() {
        assert_eq!(nearest(SeqNo(3), SeqNo16(65_530)), SeqNo(65_530));
        assert_eq!(nearest(SeqNo(3), SeqNo16(1)), SeqNo(1));
    }
}
