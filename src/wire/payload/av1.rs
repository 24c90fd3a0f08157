//! The AV1 aggregation header (AV1 RTP specification §4.4). All else about layers stands in the dependency
//! descriptor.

/// What the first byte of an AV1 payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Av1Aggregation {
    /// The first element continues one of the packet before (Z).
    pub continues: bool,
    /// The last element goes on in the next packet (Y).
    pub goes_on: bool,
    /// The packet is the first of a coded video sequence, so a keyframe begins (N).
    pub starts_sequence: bool,
}

impl Av1Aggregation {
    /// Reads the first byte of a payload. `None` if there is nothing behind it, or if it contradicts itself:
    /// a sequence does not begin in the middle of an element.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [first, _, ..] = payload else {
            return None;
        };
        let header = Self {
            continues: first & 0x80 != 0,
            goes_on: first & 0x40 != 0,
            starts_sequence: first & 0x08 != 0,
        };
        (!(header.continues && header.starts_sequence)).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_bits() {
        let cases = [
            (0x18, Some((false, false, true))),
            (0x50, Some((false, true, false))),
            (0x90, Some((true, false, false))),
            (0x88, None),
        ];
        for (first, expected) in cases {
            let read = Av1Aggregation::parse(&[first, 0x0a]);
            let read = read.map(|h| (h.continues, h.goes_on, h.starts_sequence));
            assert_eq!(read, expected, "{first:x}");
            assert_eq!(Av1Aggregation::parse(&[first]), None);
        }
        assert_eq!(Av1Aggregation::parse(&[]), None);
    }
}
