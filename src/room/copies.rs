//! What was sent again to one peer of late: which of these copies are known to have arrived, and which are followed by
//! another one at a certain time, whether that is asked for or not. Requests are lost as packets are, and who waits for
//! one more of them waits for a round trip longer. And when what waited here went out first, as that is not when it came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::ids::{EncodingIndex, SeqNo, SeqNo16};
use crate::room::sent_names::{Lost, SentName};
use crate::room::slots::SubscriptionSlot;
use crate::wire::bandwidth::TransportFeedback;

/// What is known of copies that went out to a peer.
#[derive(Debug, Default)]
pub struct Copies {
    /// The last that were sent again, oldest first: at most [`COPIES_MAX`], and none older than [`COPY_AGE_MAX`], so that no
    /// name or number is taken for a later one. What falls out is sent again when it is asked for.
    again: Vec<Copy>,
    /// When packets that waited went out, oldest first: at most [`PACED_MAX`]. What falls out is taken for sent when it
    /// came.
    paced: VecDeque<(Instant, Original)>,
}

/// A packet of a subscription, by its encoding's number.
pub type Original = (SubscriptionSlot, EncodingIndex, SeqNo);

#[derive(Debug)]
struct Copy {
    at: Instant,
    name: SentName,
    /// Its transport-wide number, if it has one.
    number: Option<SeqNo16>,
    /// By feedback, this copy or another one of the packet arrived.
    has_arrived: bool,
    /// What follows, if this is the last one.
    then: Option<Next>,
}

/// One more copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// When it goes out, unless the one before is known to have arrived.
    pub at: Instant,
    /// Nobody asked for it; and so many more may follow it like this.
    pub unasked: Option<u8>,
}

impl Copies {
    /// A packet is sent again now, under a transport-wide number, if it has one.
    pub fn note(
        &mut self,
        now: Instant,
        name: SentName,
        number: Option<SeqNo16>,
        then: Option<Next>,
    ) {
        for former in self.again.iter_mut().filter(|copy| copy.name == name) {
            former.then = None;
        }
        self.push(Copy {
            at: now,
            name,
            number,
            has_arrived: false,
            then,
        });
    }

    /// It is too early for one more copy of a packet.
    pub fn defer(&mut self, now: Instant, name: SentName, next: Next) {
        match self.again.iter_mut().rfind(|copy| copy.name == name) {
            Some(copy) => copy.then = Some(next).filter(|_| !copy.has_arrived),
            None => self.push(Copy {
                at: now,
                name,
                number: None,
                has_arrived: false,
                then: Some(next),
            }),
        }
    }

    /// The peer's feedback: what arrived needs no more copies, and of `lost`, only that stays of which no later copy is
    /// under way or there.
    pub fn on_feedback(
        &mut self,
        now: Instant,
        feedback: &TransportFeedback,
        lost: &mut Vec<Lost>,
    ) {
        self.forget_old(now);
        let arrivals = &feedback.arrivals;
        for at in 0..self.again.len() {
            let Copy { name, number, .. } = self.again[at];
            if self.again[at].has_arrived {
                continue;
            }
            let ahead = number.map(|number| number.0.wrapping_sub(feedback.base.0));
            let arrival = ahead.and_then(|ahead| arrivals.get(usize::from(ahead)));
            if arrival.is_some_and(Option::is_some) {
                for copy in self.again.iter_mut().filter(|copy| copy.name == name) {
                    (copy.has_arrived, copy.then) = (true, None);
                }
            }
        }
        lost.retain(|lost| {
            let last = self.again.iter().rfind(|copy| copy.name == lost.name);
            last.is_none_or(|copy| {
                !copy.has_arrived && copy.number.is_none_or(|number| number == lost.number)
            })
        });
    }

    /// A packet goes out for the first time, after it had waited.
    pub fn note_paced(&mut self, now: Instant, packet: Original) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > PACED_AGE_MAX;
        while self.paced.len() >= PACED_MAX || self.paced.front().is_some_and(|(at, _)| is_old(*at))
        {
            self.paced.pop_front();
        }
        self.paced.push_back((now, packet));
    }

    /// When it went out, if it had waited.
    pub fn paced_at(&self, packet: Original) -> Option<Instant> {
        let found = self.paced.iter().rfind(|(_, other)| *other == packet);
        found.map(|(at, _)| *at)
    }

    /// When the next copy goes out.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.again
            .iter()
            .filter_map(|copy| Some(copy.then?.at))
            .min()
    }

    /// A copy that is due: once.
    pub fn poll_due(&mut self, now: Instant) -> Option<(SentName, Next)> {
        let mut copies = self.again.iter_mut();
        copies.find_map(|copy| Some((copy.name, copy.then.take_if(|then| then.at <= now)?)))
    }

    /// A subscription has ended: its place may become another's.
    pub fn forget(&mut self, of: SubscriptionSlot) {
        self.again.retain(|copy| copy.name.subscription != of);
        self.paced.retain(|(_, (other, ..))| *other != of);
    }

    fn forget_old(&mut self, now: Instant) {
        let is_young = |copy: &Copy| now.saturating_duration_since(copy.at) <= COPY_AGE_MAX;
        let old = self.again.iter().position(is_young);
        self.again.drain(..old.unwrap_or(self.again.len()));
    }

    fn push(&mut self, copy: Copy) {
        self.forget_old(copy.at);
        if self.again.len() >= COPIES_MAX {
            self.again.remove(0);
        }
        self.again.push(copy);
    }
}

/// Two of each packet of a burst as long as feedback tells of at once.
const COPIES_MAX: usize = 128;
/// Longer than packets are cached, and far less than the time in which 16-bit numbers come round.
const COPY_AGE_MAX: Duration = Duration::from_secs(3);
/// A round trip of 300 ms at 4 Mbit/s.
const PACED_MAX: usize = 128;
/// A longer round trip is no conversation.
const PACED_AGE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Ssrc;
    use crate::base::slab::Slab;
    use crate::room::slots::OfSubscriptions;

    fn name(seq: u16) -> SentName {
        SentName {
            subscription: Slab::<(), OfSubscriptions>::new().insert(()),
            seq: SeqNo16(seq),
        }
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

    fn after(t0: Instant, ms: u64, unasked: Option<u8>) -> Next {
        Next {
            at: t0 + Duration::from_millis(ms),
            unasked,
        }
    }

    /// Which of these losses, as name and number, are still news.
    fn news(copies: &mut Copies, feedback: &TransportFeedback, lost: &[(u16, u16)]) -> Vec<u16> {
        let mut lost: Vec<Lost> = lost
            .iter()
            .map(|(seq, number)| Lost {
                name: name(*seq),
                number: SeqNo16(*number),
            })
            .collect();
        copies.on_feedback(Instant::now(), feedback, &mut lost);
        lost.iter().map(|lost| lost.name.seq.0).collect()
    }

    #[test]
    fn the_loss_of_a_copy_counts_until_there_is_a_later_one() {
        let t0 = Instant::now();
        let mut copies = Copies::default();
        let nothing = feedback(0, "");
        assert_eq!(news(&mut copies, &nothing, &[(5, 100)]), [5], "the first");
        copies.note(t0, name(5), Some(SeqNo16(65_535)), None);
        assert_eq!(news(&mut copies, &nothing, &[(5, 100)]), [0; 0]);
        assert_eq!(news(&mut copies, &nothing, &[(5, 65_535)]), [5]);
        // A message tells of both: the first was lost, the second came.
        assert_eq!(
            news(&mut copies, &feedback(65_534, "-+"), &[(5, 100)]),
            [0; 0]
        );
        assert_eq!(news(&mut copies, &nothing, &[(5, 65_535)]), [0; 0]);
        // One that was asked for too early has no copy yet.
        copies.defer(t0, name(6), after(t0, 0, None));
        assert_eq!(news(&mut copies, &nothing, &[(6, 101)]), [6]);
    }

    #[test]
    fn what_has_arrived_is_not_followed() {
        let t0 = Instant::now();
        let mut copies = Copies::default();
        assert_eq!(copies.poll_timeout(), None);
        copies.note(
            t0,
            name(5),
            Some(SeqNo16(10)),
            Some(after(t0, 200, Some(1))),
        );
        copies.note(
            t0,
            name(6),
            Some(SeqNo16(11)),
            Some(after(t0, 100, Some(0))),
        );
        copies.note(t0, name(7), None, Some(after(t0, 150, Some(0))));
        assert_eq!(copies.poll_timeout(), Some(after(t0, 100, None).at));
        copies.on_feedback(t0, &feedback(10, "-+"), &mut Vec::new());
        copies.defer(t0, name(6), after(t0, 0, None));
        assert_eq!(copies.poll_timeout(), Some(after(t0, 150, None).at));
        let at = |ms| t0 + Duration::from_millis(ms);
        assert_eq!(copies.poll_due(at(149)), None);
        // It was asked for meanwhile.
        copies.defer(t0, name(5), after(t0, 160, None));
        let due = |copies: &mut Copies| copies.poll_due(at(160)).map(|(n, next)| (n.seq.0, next));
        assert_eq!(due(&mut copies), Some((5, after(t0, 160, None))));
        assert_eq!(due(&mut copies), Some((7, after(t0, 150, Some(0)))));
        assert_eq!(due(&mut copies), None, "once");
    }

    #[test]
    fn what_waited_went_out_later() {
        let t0 = Instant::now();
        let mut copies = Copies::default();
        let of = |seq: u64| (name(0).subscription, EncodingIndex(0), SeqNo(seq));
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        for ms in 0..1000 {
            copies.note_paced(at(ms), of(ms));
        }
        let oldest = 1000 - PACED_MAX as u64;
        assert_eq!(copies.paced_at(of(oldest)), Some(at(oldest)));
        assert_eq!(copies.paced_at(of(oldest - 1)), None);
        copies.note_paced(at(1990), of(1990));
        assert_eq!(copies.paced.len(), 11);
    }

    #[test]
    fn the_last_copies_are_kept() {
        let t0 = Instant::now();
        let mut copies = Copies::default();
        for seq in 0..1000 {
            let next = after(t0, u64::from(seq), None);
            copies.note(t0, name(seq), None, Some(next));
        }
        assert_eq!(copies.again.len(), COPIES_MAX);
        assert_eq!(copies.poll_timeout(), Some(after(t0, 872, None).at));
        copies.forget(name(0).subscription);
        assert_eq!(copies.poll_timeout(), None);
        copies.note(t0, name(5), Some(SeqNo16(10)), None);
        copies.on_feedback(t0 + COPY_AGE_MAX, &feedback(0, ""), &mut Vec::new());
        assert_eq!(copies.again.len(), 1);
        let later = t0 + COPY_AGE_MAX + Duration::from_millis(1);
        copies.on_feedback(later, &feedback(0, ""), &mut Vec::new());
        assert_eq!(copies.again.len(), 0, "the number comes round");
    }
}
