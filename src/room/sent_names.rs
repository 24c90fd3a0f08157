//! Which packets went out to one peer under which transport-wide numbers, so that its feedback tells which of them it
//! misses. That is a second way to be asked: where requests are lost as packets are, four in a row are not rare, and
//! pictures would stand still for a second.

use crate::base::ids::SeqNo16;
use crate::room::slots::SubscriptionSlot;
use crate::wire::bandwidth::TransportFeedback;

/// The names of the last packets that may be sent again, by the low bits of their transport-wide numbers. Grows while
/// more are under way than it holds, up to [`NAMES_MAX`].
#[derive(Debug, Default)]
pub struct SentNames {
    ring: Vec<Entry>,
    /// The number after the last that feedback spoke of.
    answered: u16,
    /// Missing, but nearly nothing that was sent after them had come yet: they may be late. At most [`UNDECIDED_MAX`].
    undecided: Vec<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: SentName,
    number: u16,
}

/// A packet of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentName {
    /// Whose it is.
    pub subscription: SubscriptionSlot,
    /// Its number there, also where it was sent again under another.
    pub seq: SeqNo16,
}

/// A packet that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Which.
    pub name: SentName,
    /// The transport-wide number that was lost.
    pub number: SeqNo16,
}

impl SentNames {
    /// A packet goes out under the transport-wide number `number`.
    #[inline]
    pub fn note(&mut self, number: SeqNo16, name: SentName) {
        let number = number.0;
        if self.ring.is_empty() {
            self.answered = number;
        }
        let under_way = number.wrapping_sub(self.answered);
        if usize::from(under_way) >= self.ring.len() {
            self.make_room(name);
        }
        let at = self.place(number);
        self.ring[at] = Entry { name, number };
    }

    /// Reads where the packet of a number is noted, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self, number: SeqNo16) -> u64 {
        let entry = self.ring.get(self.place(number.0));
        entry.map_or(0, |entry| u64::from(entry.number))
    }

    /// What the peer misses, by its feedback: never more than [`LOST_MAX`] for one message.
    pub fn on_feedback(&mut self, feedback: &TransportFeedback) -> Vec<Lost> {
        let mut lost = Vec::new();
        let (base, arrivals) = (feedback.base.0, &feedback.arrivals);
        self.answered = base.wrapping_add(arrivals.len() as u16);
        if self.ring.is_empty() {
            return lost;
        }
        let has_come = |number: u16| {
            let arrival = arrivals.get(usize::from(number.wrapping_sub(base)));
            arrival.is_some_and(Option::is_some)
        };
        // As many came after what was undecided.
        let later = arrivals.iter().flatten().take(LATER_MIN).count();
        let mut undecided = std::mem::take(&mut self.undecided);
        undecided.retain(|number| {
            let is_decided = later == LATER_MIN;
            if is_decided && !has_come(*number) {
                self.take_lost(*number, &mut lost);
            }
            !is_decided && !has_come(*number)
        });
        let mut later = 0;
        for (ahead, arrival) in arrivals.iter().enumerate().rev() {
            let number = base.wrapping_add(ahead as u16);
            match arrival {
                Some(_) => later += 1,
                None if later >= LATER_MIN => self.take_lost(number, &mut lost),
                None if undecided.len() < UNDECIDED_MAX => undecided.push(number),
                None => {}
            }
        }
        self.undecided = undecided;
        lost
    }

    /// The packet of a number that did not arrive, if it is known.
    fn take_lost(&self, number: u16, lost: &mut Vec<Lost>) {
        let Some(name) = self.name(number) else {
            return;
        };
        if lost.len() < LOST_MAX {
            let number = SeqNo16(number);
            lost.push(Lost { name, number });
        }
    }

    fn name(&self, number: u16) -> Option<SentName> {
        let entry = self.ring.get(self.place(number))?;
        (entry.number == number).then_some(entry.name)
    }

    fn place(&self, number: u16) -> usize {
        // The length is a power of two.
        usize::from(number) & self.ring.len().wrapping_sub(1)
    }

    #[cold]
    fn make_room(&mut self, name: SentName) {
        if self.ring.len() >= NAMES_MAX {
            return;
        }
        let len = (self.ring.len() * 2).max(NAMES_MIN);
        // A number that has its place elsewhere: nothing is known there.
        let blank = |at: usize| Entry {
            name,
            number: !(at as u16),
        };
        let former = std::mem::replace(&mut self.ring, (0..len).map(blank).collect());
        for (place, entry) in former.iter().enumerate() {
            let is_blank = usize::from(entry.number) & (former.len() - 1) != place;
            if !is_blank {
                let at = self.place(entry.number);
                self.ring[at] = *entry;
            }
        }
    }
}

/// Three and a half seconds of 2.5 Mbit/s. A power of two; 8 KiB.
const NAMES_MAX: usize = 1024;
const NAMES_MIN: usize = 64;
/// A packet is lost once so many that were sent after it have come: where a network reorders, it is mostly by less.
/// (RFC 9002 §6.1.1 recommends the same number.)
const LATER_MIN: usize = 3;
/// What is missing at the end of one message; more waits for the peer's requests.
const UNDECIDED_MAX: usize = 32;
/// A burst of as many; more waits for the peer's requests.
const LOST_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Ssrc;
    use crate::base::slab::Slab;
    use crate::room::slots::OfSubscriptions;

    fn slot() -> SubscriptionSlot {
        Slab::<(), OfSubscriptions>::new().insert(())
    }

    fn feedback(base: u16, arrived: &str) -> TransportFeedback {
        let arrivals = arrived.bytes().map(|come| (come == b'+').then_some(0));
        TransportFeedback {
            sender: Ssrc(1),
            media: Ssrc(2),
            base: SeqNo16(base),
            reference: 0,
            count: 0,
            arrivals: arrivals.collect(),
        }
    }

    /// Sends the numbers from `first` on, each under its distance to that, or that of `names`.
    fn sent(first: u16, names: &[u16]) -> SentNames {
        let mut all = SentNames::default();
        let subscription = slot();
        for (ahead, name) in (0..).zip(names) {
            let seq = SeqNo16(*name);
            let name = SentName { subscription, seq };
            all.note(SeqNo16(first.wrapping_add(ahead)), name);
        }
        all
    }

    fn lost(names: &mut SentNames, base: u16, arrived: &str) -> Vec<u16> {
        let lost = names.on_feedback(&feedback(base, arrived));
        let mut seqs: Vec<u16> = lost.iter().map(|lost| lost.name.seq.0).collect();
        seqs.sort_unstable();
        seqs
    }

    #[test]
    fn what_three_have_overtaken_is_lost() {
        let names: Vec<u16> = (100..130).collect();
        let mut names = sent(65_530, &names);
        assert_eq!(lost(&mut names, 65_530, "+-+-+++-+"), [101, 103]);
        assert_eq!(lost(&mut names, 3, "++"), [0; 0], "may be late");
        assert_eq!(lost(&mut names, 5, "+++"), [107]);
        assert_eq!(lost(&mut names, 8, "++-"), [0; 0]);
        assert_eq!(lost(&mut names, 10, "+++++"), [0; 0], "was late");
    }

    #[test]
    fn the_number_that_was_lost_tells_copies_apart() {
        let mut names = sent(5, &[7, 8, 7, 9, 10, 11]);
        let lost = names.on_feedback(&feedback(5, "-+-+++"));
        let lost: Vec<_> = lost.iter().map(|l| (l.name.seq.0, l.number.0)).collect();
        assert_eq!(lost, [(7, 7), (7, 5)]);
        assert_eq!(names.on_feedback(&feedback(500, "-+++")), [], "unknown");
    }

    #[test]
    fn what_was_never_sent_has_no_name() {
        // Some numbers go to packets without a name; then the ring grows.
        let mut names = sent(0, &(0..60).collect::<Vec<u16>>());
        let subscription = slot();
        for number in 64..200 {
            let seq = SeqNo16(number);
            names.note(seq, SentName { subscription, seq });
        }
        let known = (0..=u16::MAX).filter(|number| names.name(*number).is_some());
        assert!(
            known
                .into_iter()
                .all(|number| number < 60 || (64..200).contains(&number))
        );
    }

    #[test]
    fn many_under_way_are_remembered_and_lies_are_bounded() {
        let all: Vec<u16> = (0..5000).collect();
        let mut names = sent(0, &all);
        assert_eq!(names.ring.len(), NAMES_MAX);
        assert_eq!(lost(&mut names, 3970, "-+++"), [0; 0], "overwritten");
        assert_eq!(lost(&mut names, 3980, "-+++"), [3980]);
        let nothing = "-".repeat(1000) + "+++";
        assert_eq!(lost(&mut names, 3990, &nothing).len(), LOST_MAX);
        assert!(lost(&mut names, 3990, &"-".repeat(1000)).is_empty());
        assert_eq!(names.undecided.len(), UNDECIDED_MAX);
        // One that is answered at once needs no more.
        let mut names = SentNames::default();
        let subscription = slot();
        for number in 0..1000 {
            let seq = SeqNo16(number);
            names.note(seq, SentName { subscription, seq });
            names.on_feedback(&feedback(number, "+"));
        }
        assert_eq!(names.ring.len(), NAMES_MIN);
    }
}
