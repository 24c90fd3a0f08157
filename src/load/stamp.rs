//! What a synthetic payload says of itself: who sent it, when, and in what order. Read again by the
//! subscribers.

use std::time::Duration;

/// Marks a payload as one of this tool's.
const MAGIC: [u8; 4] = *b"SLd1";
/// Bytes of a stamp: magic, publisher, stream, length, counter, time.
pub const STAMP_LEN: usize = 4 + 4 + 1 + 2 + 8 + 8;

/// What a payload carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The publisher's number in this run.
    pub publisher: u32,
    /// Which of its streams: 0 is audio, from 1 on video (with simulcast, its layers).
    pub stream: u8,
    /// Counts the stream's packets from 0.
    pub counter: u64,
    /// When it was sent, since the run began, by the clock that publishers and subscribers share.
    pub sent: Duration,
}

impl Stamp {
    /// Writes the stamp over the start of `body`, which must have [`STAMP_LEN`] bytes or more.
    /// False, with nothing written, where it has not.
    pub fn write(&self, body: &mut [u8]) -> bool {
        let Ok(len) = u16::try_from(body.len()) else {
            return false;
        };
        let Some(out) = body.first_chunk_mut::<STAMP_LEN>() else {
            return false;
        };
        let sent_ns = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        out[8] = self.stream;
        out[9..11].copy_from_slice(&len.to_be_bytes());
        out[11..19].copy_from_slice(&self.counter.to_be_bytes());
        out[19..].copy_from_slice(&sent_ns.to_be_bytes());
        true
    }

    /// Reads the stamp at the start of `body`. `None` where there is none, or `body` is not as long
    /// as it was when it was sent.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let stamp = body.first_chunk::<STAMP_LEN>()?;
        let number = |range: std::ops::Range<usize>| {
            let bytes = stamp[range].iter();
            bytes.fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        if stamp[..4] != MAGIC || number(9..11) != body.len() as u64 {
            return None;
        }
        Some(Self {
            publisher: number(4..8) as u32,
            stream: stamp[8],
            counter: number(11..19),
            sent: Duration::from_nanos(number(19..27)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written_and_not_otherwise() {
        let stamp = Stamp {
            publisher: 0xdead_beef,
            stream: 3,
            counter: u64::MAX - 1,
            sent: Duration::from_nanos(0x0102_0304_0506_0708),
        };
        let mut body = vec![0xaa; 300];
        assert!(stamp.write(&mut body));
        assert_eq!(Stamp::read(&body), Some(stamp));
        assert!(body[STAMP_LEN..].iter().all(|byte| *byte == 0xaa));
        for len in 0..300 {
            assert_eq!(Stamp::read(&body[..len]), None, "{len}");
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(Stamp::read(&longer), None);
        body[0] ^= 1;
        assert_eq!(Stamp::read(&body), None);
        assert!(!stamp.write(&mut [0; STAMP_LEN - 1]));
        assert!(!stamp.write(&mut vec![0; 70_000]));
    }
}
