//! Redundant audio (RFC 2198): what is needed to pass it on under other payload types, or to take
//! only its primary block.

use std::ops::Range;

use crate::base::ids::PayloadType;

/// Where the parts of a RED payload lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedLayout {
    /// How many redundant blocks come before the primary one.
    redundant: usize,
    /// Where the primary block starts; it ends with the payload.
    primary_start: usize,
    /// The payload type of the primary block.
    pub primary: PayloadType,
    /// Whether every block has the primary's payload type.
    pub is_uniform: bool,
}

impl RedLayout {
    /// `None` if the payload is not RED: headers or blocks run past its end, the primary block is
    /// empty, or there are more than eight others.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut types = [0_u8; REDUNDANT_MAX];
        let (mut redundant, mut blocks_bytes) = (0, 0);
        let primary = loop {
            let header = payload.get(4 * redundant..)?;
            let first = *header.first()?;
            if first & MORE == 0 {
                break first;
            }
            *types.get_mut(redundant)? = first & !MORE;
            let length = u16::from_be_bytes([*header.get(2)?, *header.get(3)?]) & 0x3ff;
            blocks_bytes += usize::from(length);
            redundant += 1;
        };
        let primary_start = 4 * redundant + 1 + blocks_bytes;
        (primary_start < payload.len()).then_some(Self {
            redundant,
            primary_start,
            primary: PayloadType(primary),
            is_uniform: types[..redundant].iter().all(|t| *t == primary),
        })
    }

    /// The primary block of `payload`, which is the one that was parsed.
    #[must_use]
    pub fn primary_range(&self, payload: &[u8]) -> Range<usize> {
        self.primary_start.min(payload.len())..payload.len()
    }

    /// Gives every block of a copy of the payload the payload type `to`.
    pub fn set_payload_type(&self, payload: &mut [u8], to: PayloadType) {
        for block in 0..=self.redundant {
            if let Some(header) = payload.get_mut(4 * block) {
                *header = (*header & MORE) | (to.0 & !MORE);
            }
        }
    }
}

/// The bit that says that another block header follows.
const MORE: u8 = 0x80;
/// Browsers send one or two redundant blocks.
const REDUNDANT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two redundant blocks of 2 and 3 bytes, a primary one of 4.
    fn packet(types: [u8; 3]) -> Vec<u8> {
        let mut payload = vec![
            0x80 | types[0],
            0x0f,
            0x00,
            2,
            0x80 | types[1],
            0x07,
            0x80,
            3,
        ];
        payload.push(types[2]);
        payload.extend([1, 1, 2, 2, 2, 3, 3, 3, 3]);
        payload
    }

    #[test]
    fn finds_the_primary_block() {
        let payload = packet([111, 111, 111]);
        let layout = RedLayout::parse(&payload).unwrap();
        assert_eq!(layout.primary, PayloadType(111));
        assert!(layout.is_uniform);
        assert_eq!(&payload[layout.primary_range(&payload)], [3, 3, 3, 3]);
        assert!(!RedLayout::parse(&packet([111, 0, 111])).unwrap().is_uniform);
    }

    #[test]
    fn renames_every_block_and_nothing_else() {
        let mut payload = packet([111, 111, 111]);
        let layout = RedLayout::parse(&payload).unwrap();
        layout.set_payload_type(&mut payload, PayloadType(96));
        assert_eq!(payload, packet([96, 96, 96]));
    }

    #[test]
    fn refuses_what_runs_past_the_end() {
        let whole = packet([111; 3]);
        for len in 0..whole.len() - 3 {
            assert_eq!(RedLayout::parse(&whole[..len]), None, "{len} bytes");
        }
        let endless: Vec<u8> = [0xef, 0, 0, 0].repeat(20);
        assert_eq!(RedLayout::parse(&endless), None);
        assert_eq!(RedLayout::parse(&[111]), None, "an empty primary block");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(layout) = RedLayout::parse(&bytes) {
                prop_assert!(!layout.primary_range(&bytes).is_empty());
                layout.set_payload_type(&mut bytes, PayloadType(1));
                prop_assert_eq!(RedLayout::parse(&bytes).map(|l| l.is_uniform), Some(true));
            }
        }
    }
}
