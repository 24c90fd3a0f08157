//! What became of the last frames, so that late and repeated packets share their frame's fate.

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its packets go out.
    Forwarded,
    /// They do not, and the numbers after it close up.
    Dropped,
    /// They do not; later frames had their numbers already, so that its number stays open.
    DroppedLate,
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Above all known ones.
    New,
    /// Decided.
    Known(Fate),
    /// Between known ones: its packets are late.
    Late,
    /// Below the beginning.
    Before,
    /// Too old to know.
    TooOld,
}

/// The fate of the last [`WINDOW`] frames: two bits each.
#[derive(Debug)]
pub struct History {
    /// Frames below are older than the history.
    first: u64,
    /// One above the highest decided one.
    next: u64,
    /// Two bits each: neither is set while it is not decided.
    forwarded_or_late: [u64; WORDS],
    dropped_or_late: [u64; WORDS],
    /// How many frames were [`Fate::Dropped`].
    dropped_total: u64,
}

impl History {
    /// Begins with the frame `first`.
    #[must_use]
    pub fn new(first: u64) -> Self {
        Self {
            first,
            next: first,
            forwarded_or_late: [0; WORDS],
            dropped_or_late: [0; WORDS],
            dropped_total: 0,
        }
    }

    /// One above the highest frame that is decided.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Where a frame stands.
    #[inline]
    #[must_use]
    pub fn place(&self, frame: u64) -> Place {
        let (word, bit) = at(frame);
        if frame >= self.next {
            Place::New
        } else if frame < self.first {
            Place::Before
        } else if frame + WINDOW < self.next {
            Place::TooOld
        } else {
            let is_set = |bits: &[u64; WORDS]| bits[word] & bit != 0;
            match (
                is_set(&self.forwarded_or_late),
                is_set(&self.dropped_or_late),
            ) {
                (false, false) => Place::Late,
                (true, false) => Place::Known(Fate::Forwarded),
                (false, true) => Place::Known(Fate::Dropped),
                (true, true) => Place::Known(Fate::DroppedLate),
            }
        }
    }

    /// Keeps what becomes of a frame that is [`Place::New`] or [`Place::Late`].
    pub fn record(&mut self, frame: u64, fate: Fate) {
        if frame >= self.next {
            let from = self.next.max(frame.saturating_sub(WINDOW - 1));
            for skipped in from..=frame {
                let (word, bit) = at(skipped);
                self.forwarded_or_late[word] &= !bit;
                self.dropped_or_late[word] &= !bit;
            }
            self.next = frame + 1;
        }
        let (word, bit) = at(frame);
        if fate != Fate::Dropped {
            self.forwarded_or_late[word] |= bit;
        }
        if fate != Fate::Forwarded {
            self.dropped_or_late[word] |= bit;
        }
        self.dropped_total += u64::from(fate == Fate::Dropped);
    }

    /// How many frames up to this one were [`Fate::Dropped`], of all that ever were.
    #[must_use]
    pub fn dropped_up_to(&self, frame: u64) -> u64 {
        let mut after = 0;
        let mut above = frame + 1;
        while above < self.next {
            let (word, _) = at(above);
            let start = above % 64;
            let count = (64 - start).min(self.next - above);
            let mask = (u64::MAX >> (64 - count)) << start;
            let dropped = self.dropped_or_late[word] & !self.forwarded_or_late[word];
            after += u64::from((dropped & mask).count_ones());
            above += count;
        }
        self.dropped_total - after
    }
}

fn at(frame: u64) -> (usize, u64) {
    ((frame / 64) as usize % WORDS, 1 << (frame % 64))
}

/// How far back frames are known: as many as packets are cached of an encoding, and each frame has one at least.
pub const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn frames_share_the_fate_of_their_first_packet() {
        let mut history = History::new(100);
        assert_eq!(history.place(99), Place::Before);
        assert_eq!(history.place(100), Place::New);
        history.record(100, Fate::Forwarded);
        history.record(102, Fate::Dropped);
        assert_eq!(history.place(101), Place::Late);
        history.record(101, Fate::DroppedLate);
        assert_eq!(history.place(100), Place::Known(Fate::Forwarded));
        assert_eq!(history.place(101), Place::Known(Fate::DroppedLate));
        assert_eq!(history.place(102), Place::Known(Fate::Dropped));
        history.record(102 + WINDOW, Fate::Forwarded);
        assert_eq!(history.place(102), Place::TooOld);
        assert_eq!(history.place(103), Place::Late);
        assert_eq!(history.dropped_up_to(102 + WINDOW), 1);
    }

    proptest! {
        /// Against a map: what was dropped is counted, wherever one asks.
        #[test]
        fn counts_like_a_map(
            steps in proptest::collection::vec((0_u64..70, 0_u8..3), 1..300),
            jump in prop_oneof![Just(0_u64), Just(1990), Just(5000)],
        ) {
            let mut history = History::new(1000);
            let mut model = BTreeMap::new();
            let mut frame = 1000;
            for (at, (step, fate)) in steps.iter().enumerate() {
                frame += step + 1 + if at == 20 { jump } else { 0 };
                let fate = [Fate::Forwarded, Fate::Dropped, Fate::DroppedLate][usize::from(*fate)];
                history.record(frame, fate);
                model.insert(frame, fate);
            }
            for asked in (1000..=frame).filter(|asked| asked + WINDOW > frame) {
                let dropped = model.range(..=asked).filter(|(_, f)| **f == Fate::Dropped).count();
                prop_assert_eq!(history.dropped_up_to(asked), dropped as u64);
                let place = model.get(&asked).map_or(Place::Late, |fate| Place::Known(*fate));
                prop_assert_eq!(history.place(asked), place);
            }
        }
    }
}
