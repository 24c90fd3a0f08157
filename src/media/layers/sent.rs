//! What copies looked like that went out with changed numbers: so that a copy that goes out again under its number is
//! the same, whatever a publisher writes into its packets. Two different packets under one nonce would be
//! the end of its key (RFC 7714 §8.2).

use crate::base::ids::SeqNo;
use crate::media::layers::munger::{Edit, Print};

/// The prints of the last `SENT_MAX` edits.
#[derive(Debug, Default)]
pub struct SentEdits {
    /// Made with the first one.
    ring: Option<Box<[Entry; SENT_MAX]>>,
    /// What went out below went out as it came.
    first: Option<SeqNo>,
    /// The last numbers that told which decode targets are active, each at its place, 32 bits of them. Made with the
    /// first one.
    told: Option<Box<[u32; TOLD_MAX]>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: SeqNo,
    print: Print,
}

impl SentEdits {
    /// A packet that tells which decode targets are active goes out for the first time, under the number `seq`.
    pub fn note_told(&mut self, seq: SeqNo) {
        // At any place but its own it stands for none.
        let number = seq.0 as u32;
        let told = self
            .told
            .get_or_insert_with(|| Box::new([number; TOLD_MAX]));
        told[number as usize % TOLD_MAX] = number;
    }

    /// A packet that may be repeated goes out for the first time, under the number `seq`, with this edit.
    pub fn note(&mut self, seq: SeqNo, edit: &Edit) {
        self.first.get_or_insert(seq);
        let entry = Entry {
            seq,
            print: edit.print(),
        };
        let ring = self.ring.get_or_insert_with(|| {
            let nothing = Entry {
                seq: SeqNo(u64::MAX),
                ..entry
            };
            Box::new([nothing; SENT_MAX])
        });
        ring[(seq.0 % SENT_MAX as u64) as usize] = entry;
    }

    /// Whether a packet that went out under the number `seq` told which decode targets are active.
    #[must_use]
    pub fn has_told(&self, seq: SeqNo) -> bool {
        let number = seq.0 as u32;
        let told = self.told.as_ref();
        told.is_some_and(|told| told[number as usize % TOLD_MAX] == number)
    }

    /// Whether a packet that went out under the number `seq` looked as this edit would make it.
    #[must_use]
    pub fn is_same(&self, seq: SeqNo, edit: &Edit) -> bool {
        if self.first.is_none_or(|first| seq < first) {
            return edit.changes_nothing();
        }
        let ring = self.ring.as_ref();
        let entry = ring.map(|ring| &ring[(seq.0 % SENT_MAX as u64) as usize]);
        entry.is_some_and(|entry| entry.seq == seq && entry.print == edit.print())
    }
}

/// A quarter of a second of 2 Mbit/s has 60 packets; what is asked for later than after 512 is of no use.
const SENT_MAX: usize = 512;
/// A subscriber reports how far it has got: what it has not got yet of 2 Mbit/s at the longest round trip is less.
const TOLD_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RtpTime;
    use crate::media::layers::munger::Munger;
    use crate::media::layers::numbering::LastNumbers;
    use crate::media::layers::reader::{LayerPacket, LayerReader};
    use crate::wire::codec::Codec;

    /// Edits of the frame 5: as it came, and after a frame with the id 9.
    fn edits() -> (Edit, Edit) {
        let payload = [0x90, 0xe0, 0x80, 5, 1, 0, 1];
        let packet = LayerPacket {
            codec: Codec::Vp8,
            seq: SeqNo(1),
            timestamp: RtpTime(0),
            marker: false,
            payload: &payload,
            descriptor: None,
        };
        let info = LayerReader::new(0).read(&packet);
        let mut munger = Munger::new(LastNumbers {
            picture_id: Some(9),
            ..LastNumbers::default()
        });
        let same = munger.edit(&info, 0, false, None);
        munger.start(&info);
        (same, munger.edit(&info, 0, false, None))
    }

    #[test]
    fn a_number_stands_for_one_edit() {
        let (same, other) = edits();
        assert!(same.changes_nothing() && !other.changes_nothing());
        let mut sent = SentEdits::default();
        assert!(sent.is_same(SeqNo(99), &same) && !sent.is_same(SeqNo(99), &other));
        sent.note(SeqNo(100), &other);
        assert!(sent.is_same(SeqNo(100), &other) && !sent.is_same(SeqNo(100), &same));
        assert!(!sent.is_same(SeqNo(101), &same), "never sent");
        assert!(sent.is_same(SeqNo(99), &same), "from before");
        assert!(!sent.has_told(SeqNo(200)));
        sent.note_told(SeqNo(200));
        assert!(sent.has_told(SeqNo(200)));
        for not in [199, 201, 200 + TOLD_MAX as u64] {
            assert!(!sent.has_told(SeqNo(not)), "{not}");
        }
        sent.note(SeqNo(100 + SENT_MAX as u64), &same);
        assert!(!sent.is_same(SeqNo(100), &other), "too long ago");
    }
}
