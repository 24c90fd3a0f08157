//! Retransmissions to one peer: which of the last ones are known to have arrived, and which are followed by another one at a
//! certain time, whether that is asked for or not. Requests are lost as packets are, and who waits for one more of them
//! waits for a round trip longer. And when what the pacer held back went out first, as that is not when it came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::ids::{EncodingIndex, SeqNo, SeqNo16};
use crate::room::sent_names::{Lost, SentName};
use crate::room::slots::SubscriptionSlot;
use crate::wire::bandwidth::TransportFeedback;

/// What is known of retransmissions that went out to a peer.
#[derive(Debug, Default)]
pub struct Retransmissions {
    /// The last that were sent again, oldest first: at most [`RETRANSMISSIONS_MAX`], and none older than [`AGE_MAX`], so that no
    /// name or number is taken for a later one. What falls out is sent again when it is asked for.
    sent: Vec<Retransmission>,
    /// What the pacer held back and then let go, oldest first: at most [`PACED_MAX`].
    paced: VecDeque<PacedRun>,
    /// When the last of those went out that fell out of `paced` too early.
    paced_unknown: Option<Instant>,
}

/// Packets with consecutive numbers that went out at one time.
#[derive(Debug)]
struct PacedRun {
    at: Instant,
    of: (SubscriptionSlot, EncodingIndex),
    first: SeqNo,
    len: u64,
}

impl PacedRun {
    fn contains(&self, (subscription, encoding, seq): Original) -> bool {
        let ahead = seq.0.wrapping_sub(self.first.0);
        self.of == (subscription, encoding) && ahead < self.len
    }
}

/// A packet of a subscription, by its encoding's number.
pub type Original = (SubscriptionSlot, EncodingIndex, SeqNo);

#[derive(Debug)]
struct Retransmission {
    at: Instant,
    name: SentName,
    /// Its transport-wide number, if it has one.
    number: Option<SeqNo16>,
    /// By feedback, this retransmission or another one of the packet arrived.
    has_arrived: bool,
    /// What follows, if this is the last one.
    then: Option<FollowUp>,
}

/// One more sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowUp {
    /// When it goes out, unless the one before is known to have arrived.
    pub at: Instant,
    /// Nobody asked for it; and so many more may follow it like this.
    pub unasked: Option<u8>,
}

impl Retransmissions {
    /// A packet is sent again now, under a transport-wide number, if it has one.
    pub fn note(
        &mut self,
        now: Instant,
        name: SentName,
        number: Option<SeqNo16>,
        then: Option<FollowUp>,
    ) {
        for former in self.sent.iter_mut().filter(|sent| sent.name == name) {
            former.then = None;
        }
        self.push(Retransmission {
            at: now,
            name,
            number,
            has_arrived: false,
            then,
        });
    }

    /// It is too early for one more retransmission of a packet.
    pub fn defer(&mut self, now: Instant, name: SentName, next: FollowUp) {
        match self.sent.iter_mut().rfind(|sent| sent.name == name) {
            Some(sent) => sent.then = Some(next).filter(|_| !sent.has_arrived),
            None => self.push(Retransmission {
                at: now,
                name,
                number: None,
                has_arrived: false,
                then: Some(next),
            }),
        }
    }

    /// The peer's feedback: what arrived is not sent again any more, and of `lost`, only that stays of which no later
    /// retransmission is under way or there.
    pub fn on_feedback(
        &mut self,
        now: Instant,
        feedback: &TransportFeedback,
        lost: &mut Vec<Lost>,
    ) {
        self.forget_old(now);
        let arrivals = &feedback.arrivals;
        for at in 0..self.sent.len() {
            let Retransmission { name, number, .. } = self.sent[at];
            if self.sent[at].has_arrived {
                continue;
            }
            let ahead = number.map(|number| number.0.wrapping_sub(feedback.base.0));
            let arrival = ahead.and_then(|ahead| arrivals.get(usize::from(ahead)));
            if arrival.is_some_and(Option::is_some) {
                for sent in self.sent.iter_mut().filter(|sent| sent.name == name) {
                    (sent.has_arrived, sent.then) = (true, None);
                }
            }
        }
        lost.retain(|lost| {
            let last = self.sent.iter().rfind(|sent| sent.name == lost.name);
            last.is_none_or(|sent| {
                !sent.has_arrived && sent.number.is_none_or(|number| number == lost.number)
            })
        });
    }

    /// A packet goes out for the first time, after it had waited.
    pub fn note_paced(&mut self, now: Instant, packet: Original) {
        let (subscription, encoding, seq) = packet;
        let of = (subscription, encoding);
        if let Some(last) = self.paced.back_mut()
            && (last.at, last.of, last.first.0 + last.len) == (now, of, seq.0)
        {
            last.len += 1;
            return;
        }
        let is_young = |at: Instant| now.saturating_duration_since(at) <= PACED_AGE_MAX;
        while let Some(oldest) = self.paced.front()
            && (self.paced.len() >= PACED_MAX || !is_young(oldest.at))
        {
            self.paced_unknown = Some(oldest.at).filter(|at| is_young(*at));
            self.paced.pop_front();
        }
        self.paced.push_back(PacedRun {
            at: now,
            of,
            first: seq,
            len: 1,
        });
    }

    /// When a packet first went out that came here at `came`: not before.
    pub fn went_out_at(&self, packet: Original, came: Instant) -> Instant {
        match self.paced.iter().rfind(|run| run.contains(packet)) {
            Some(run) => run.at.max(came),
            // It may have been among those of which that is not known any more.
            None => self.paced_unknown.map_or(came, |unknown| unknown.max(came)),
        }
    }

    /// When the next retransmission goes out.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sent
            .iter()
            .filter_map(|sent| Some(sent.then?.at))
            .min()
    }

    /// A retransmission that is due: once.
    pub fn poll_due(&mut self, now: Instant) -> Option<(SentName, FollowUp)> {
        let mut retransmissions = self.sent.iter_mut();
        retransmissions
            .find_map(|sent| Some((sent.name, sent.then.take_if(|then| then.at <= now)?)))
    }

    /// A subscription has ended: its place may become another's.
    pub fn forget(&mut self, of: SubscriptionSlot) {
        self.sent.retain(|sent| sent.name.subscription != of);
        self.paced.retain(|run| run.of.0 != of);
    }

    fn forget_old(&mut self, now: Instant) {
        let is_young = |sent: &Retransmission| now.saturating_duration_since(sent.at) <= AGE_MAX;
        let old = self.sent.iter().position(is_young);
        self.sent.drain(..old.unwrap_or(self.sent.len()));
    }

    fn push(&mut self, sent: Retransmission) {
        self.forget_old(sent.at);
        if self.sent.len() >= RETRANSMISSIONS_MAX {
            self.sent.remove(0);
        }
        self.sent.push(sent);
    }
}

/// Two of each packet of a burst as long as feedback tells of at once.
const RETRANSMISSIONS_MAX: usize = 128;
/// Longer than packets are cached, and far less than the time in which 16-bit numbers come round.
const AGE_MAX: Duration = Duration::from_secs(3);
/// The pacer lets packets go every 5 ms at most (`media::congestion::pacer`), commonly of one picture: more than two seconds.
const PACED_MAX: usize = 512;
/// As long as packets are cached (`media::cache`).
const PACED_AGE_MAX: Duration = Duration::from_secs(2);

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

    fn after(t0: Instant, ms: u64, unasked: Option<u8>) -> FollowUp {
        FollowUp {
            at: t0 + Duration::from_millis(ms),
            unasked,
        }
    }

    /// Which of these losses, as name and number, are still news.
    fn news(
        retransmissions: &mut Retransmissions,
        feedback: &TransportFeedback,
        lost: &[(u16, u16)],
    ) -> Vec<u16> {
        let mut lost: Vec<Lost> = lost
            .iter()
            .map(|(seq, number)| Lost {
                name: name(*seq),
                number: SeqNo16(*number),
            })
            .collect();
        retransmissions.on_feedback(Instant::now(), feedback, &mut lost);
        lost.iter().map(|lost| lost.name.seq.0).collect()
    }

    #[test]
    fn the_loss_of_a_copy_counts_until_there_is_a_later_one() {
        let t0 = Instant::now();
        let mut retransmissions = Retransmissions::default();
        let nothing = feedback(0, "");
        assert_eq!(
            news(&mut retransmissions, &nothing, &[(5, 100)]),
            [5],
            "the first"
        );
        retransmissions.note(t0, name(5), Some(SeqNo16(65_535)), None);
        assert_eq!(news(&mut retransmissions, &nothing, &[(5, 100)]), [0; 0]);
        assert_eq!(news(&mut retransmissions, &nothing, &[(5, 65_535)]), [5]);
        // A message tells of both: the first was lost, the second came.
        assert_eq!(
            news(&mut retransmissions, &feedback(65_534, "-+"), &[(5, 100)]),
            [0; 0]
        );
        assert_eq!(news(&mut retransmissions, &nothing, &[(5, 65_535)]), [0; 0]);
        // One that was asked for too early has no retransmission yet.
        retransmissions.defer(t0, name(6), after(t0, 0, None));
        assert_eq!(news(&mut retransmissions, &nothing, &[(6, 101)]), [6]);
    }

    #[test]
    fn what_has_arrived_is_not_followed() {
        let t0 = Instant::now();
        let mut retransmissions = Retransmissions::default();
        assert_eq!(retransmissions.poll_timeout(), None);
        retransmissions.note(
            t0,
            name(5),
            Some(SeqNo16(10)),
            Some(after(t0, 200, Some(1))),
        );
        retransmissions.note(
            t0,
            name(6),
            Some(SeqNo16(11)),
            Some(after(t0, 100, Some(0))),
        );
        retransmissions.note(t0, name(7), None, Some(after(t0, 150, Some(0))));
        assert_eq!(
            retransmissions.poll_timeout(),
            Some(after(t0, 100, None).at)
        );
        retransmissions.on_feedback(t0, &feedback(10, "-+"), &mut Vec::new());
        retransmissions.defer(t0, name(6), after(t0, 0, None));
        assert_eq!(
            retransmissions.poll_timeout(),
            Some(after(t0, 150, None).at)
        );
        let at = |ms| t0 + Duration::from_millis(ms);
        assert_eq!(retransmissions.poll_due(at(149)), None);
        // It was asked for meanwhile.
        retransmissions.defer(t0, name(5), after(t0, 160, None));
        let due = |retransmissions: &mut Retransmissions| {
            retransmissions
                .poll_due(at(160))
                .map(|(n, next)| (n.seq.0, next))
        };
        assert_eq!(due(&mut retransmissions), Some((5, after(t0, 160, None))));
        assert_eq!(
            due(&mut retransmissions),
            Some((7, after(t0, 150, Some(0))))
        );
        assert_eq!(due(&mut retransmissions), None, "once");
    }

    #[test]
    fn what_waited_went_out_later() {
        let t0 = Instant::now();
        let mut retransmissions = Retransmissions::default();
        let of = |seq: u64| (name(0).subscription, EncodingIndex(0), SeqNo(seq));
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        // A picture of 400 packets, ten at a time: a run each.
        for seq in 0..400 {
            retransmissions.note_paced(at(5 * (seq / 10)), of(seq));
        }
        assert_eq!(retransmissions.paced.len(), 40);
        for seq in 0..400 {
            assert_eq!(retransmissions.went_out_at(of(seq), t0), at(5 * (seq / 10)));
        }
        assert_eq!(retransmissions.went_out_at(of(400), at(7)), at(7));
        // Another encoding, and a gap.
        let (subscription, ..) = of(0);
        retransmissions.note_paced(at(200), (subscription, EncodingIndex(1), SeqNo(400)));
        retransmissions.note_paced(at(200), of(402));
        assert_eq!(retransmissions.went_out_at(of(400), t0), t0);
        assert_eq!(retransmissions.went_out_at(of(402), t0), at(200));
        retransmissions.note_paced(at(2201), of(403));
        assert_eq!(retransmissions.paced.len(), 1);
        assert_eq!(retransmissions.went_out_at(of(402), t0), t0, "long ago");
    }

    #[test]
    fn what_is_not_known_any_more_went_out_late_rather_than_early() {
        let t0 = Instant::now();
        let mut retransmissions = Retransmissions::default();
        let of = |seq: u64| (name(0).subscription, EncodingIndex(0), SeqNo(seq));
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        for ms in 0..1000 {
            retransmissions.note_paced(at(ms), of(ms));
        }
        assert_eq!(retransmissions.paced.len(), PACED_MAX);
        let known = 1000 - PACED_MAX as u64;
        assert_eq!(retransmissions.went_out_at(of(known), t0), at(known));
        assert_eq!(
            retransmissions.went_out_at(of(known - 1), t0),
            at(known - 1)
        );
        assert_eq!(retransmissions.went_out_at(of(7), t0), at(known - 1));
        let came = at(known + 5);
        assert_eq!(retransmissions.went_out_at(of(2000), came), came);
        // Until that matters no more.
        retransmissions.note_paced(at(5000), of(5000));
        assert_eq!(retransmissions.went_out_at(of(7), t0), t0);
    }

    #[test]
    fn the_last_ones_are_kept() {
        let t0 = Instant::now();
        let mut retransmissions = Retransmissions::default();
        for seq in 0..1000 {
            let next = after(t0, u64::from(seq), None);
            retransmissions.note(t0, name(seq), None, Some(next));
        }
        assert_eq!(retransmissions.sent.len(), RETRANSMISSIONS_MAX);
        assert_eq!(
            retransmissions.poll_timeout(),
            Some(after(t0, 872, None).at)
        );
        retransmissions.forget(name(0).subscription);
        assert_eq!(retransmissions.poll_timeout(), None);
        retransmissions.note(t0, name(5), Some(SeqNo16(10)), None);
        retransmissions.on_feedback(t0 + AGE_MAX, &feedback(0, ""), &mut Vec::new());
        assert_eq!(retransmissions.sent.len(), 1);
        let later = t0 + AGE_MAX + Duration::from_millis(1);
        retransmissions.on_feedback(later, &feedback(0, ""), &mut Vec::new());
        assert_eq!(retransmissions.sent.len(), 0, "the number comes round");
    }
}
