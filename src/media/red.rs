//! Redundant audio (RFC 2198): what is needed to pass it on under other payload types, to take only its
//! primary block, or to make it of plain audio.

use std::ops::Range;

use crate::base::ids::{PayloadType, RtpTime};

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

    /// The redundant blocks of `payload`, which is the one that was parsed: the latest first.
    pub fn redundant<'p>(&self, payload: &'p [u8]) -> impl Iterator<Item = RedundantBlock<'p>> {
        let mut end = self.primary_start;
        (0..self.redundant).rev().map_while(move |block| {
            let header = payload.get(4 * block..4 * block + 4)?;
            let fields = u32::from_be_bytes(header.try_into().ok()?);
            let len = (fields & 0x3ff) as usize;
            let start = end.checked_sub(len)?;
            let block = payload.get(start..end)?;
            end = start;
            Some(RedundantBlock {
                payload_type: PayloadType(header[0] & !MORE),
                age_ticks: (fields >> 10 & AGE_TICKS_MAX) as u16,
                payload: block,
            })
        })
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

/// A frame that a payload brings beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedundantBlock<'a> {
    /// What it is.
    pub payload_type: PayloadType,
    /// How much older it is than the packet, in ticks of the timestamp.
    pub age_ticks: u16,
    /// The frame.
    pub payload: &'a [u8],
}

/// A frame sent before, to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedBlock<'a> {
    /// How much older it is than the packet it is repeated in, in ticks of the timestamp.
    age_ticks: u16,
    payload: &'a [u8],
}

impl<'a> RedBlock<'a> {
    /// `None` if a block header cannot say its length or age (RFC 2198 §3), or the frame is empty.
    #[must_use]
    pub fn new(payload: &'a [u8], sent: RtpTime, now: RtpTime) -> Option<Self> {
        let age_ticks = now.0.wrapping_sub(sent.0);
        let fits = (1..=AGE_TICKS_MAX).contains(&age_ticks)
            && (1..=BLOCK_BYTES_MAX).contains(&payload.len());
        fits.then_some(Self {
            age_ticks: age_ticks as u16,
            payload,
        })
    }

    /// How many bytes it adds to a packet.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BLOCK_HEADER_LEN + self.payload.len()
    }
}

/// Appends a RED payload: `blocks`, the oldest first, and the `primary` one; all have one payload type.
pub fn write_red<'a>(
    out: &mut Vec<u8>,
    to: PayloadType,
    blocks: impl Iterator<Item = RedBlock<'a>> + Clone,
    primary: &[u8],
) {
    for block in blocks.clone() {
        let len = block.payload.len() as u32;
        let age_and_len = (u32::from(block.age_ticks) << 10) | len;
        out.push(MORE | to.0);
        out.extend_from_slice(&age_and_len.to_be_bytes()[1..]);
    }
    out.push(to.0 & !MORE);
    for block in blocks {
        out.extend_from_slice(block.payload);
    }
    out.extend_from_slice(primary);
}

/// A block's age has 14 bits (RFC 2198 §3): 341 ms of Opus.
const AGE_TICKS_MAX: u32 = (1 << 14) - 1;
/// A block's length has 10 bits.
const BLOCK_BYTES_MAX: usize = (1 << 10) - 1;
const BLOCK_HEADER_LEN: usize = 4;
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
        let block = |age_ticks, payload| RedundantBlock {
            payload_type: PayloadType(111),
            age_ticks,
            payload,
        };
        let redundant: Vec<_> = layout.redundant(&payload).collect();
        assert_eq!(redundant, [block(480, &[2, 2, 2]), block(960, &[1, 1])]);
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

    #[test]
    fn what_is_made_is_what_a_browser_would_send() {
        let now = RtpTime(5);
        let old = RedBlock::new(&[1, 1], RtpTime(5_u32.wrapping_sub(960 * 4)), now).unwrap();
        let last = RedBlock::new(&[2, 2, 2], RtpTime(5_u32.wrapping_sub(480)), now).unwrap();
        let mut payload = Vec::new();
        write_red(
            &mut payload,
            PayloadType(111),
            [old, last].into_iter(),
            &[3; 4],
        );
        let expected = [
            [0x80 | 111, 0x3c, 0x00, 2].as_slice(),
            &[0x80 | 111, 0x07, 0x80, 3],
            &[111, 1, 1, 2, 2, 2, 3, 3, 3, 3],
        ];
        assert_eq!(payload, expected.concat());
        let layout = RedLayout::parse(&payload).unwrap();
        assert!(layout.is_uniform && layout.primary == PayloadType(111));
        assert_eq!(&payload[layout.primary_range(&payload)], [3; 4]);
        assert_eq!(old.bytes() + last.bytes() + 1 + 4, payload.len());
    }

    #[test]
    fn what_a_block_header_cannot_say_is_no_block() {
        let cases = [
            (0, 10, false),
            (1, 10, true),
            (16_383, 1023, true),
            (16_384, 10, false),
            (960, 0, false),
            (960, 1024, false),
            (u32::MAX, 10, false),
        ];
        for (age, len, fits) in cases {
            let payload = vec![0; len];
            let block = RedBlock::new(&payload, RtpTime(0), RtpTime(age));
            assert_eq!(block.is_some(), fits, "{age} {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(layout) = RedLayout::parse(&bytes) {
                prop_assert!(!layout.primary_range(&bytes).is_empty());
                prop_assert_eq!(layout.redundant(&bytes).count(), layout.redundant);
                layout.set_payload_type(&mut bytes, PayloadType(1));
                prop_assert_eq!(RedLayout::parse(&bytes).map(|l| l.is_uniform), Some(true));
            }
        }
    }
}
