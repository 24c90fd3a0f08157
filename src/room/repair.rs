//! Repair towards subscribers: what they miss is sent again from the caches of its tracks.
//!
//! They ask with NACKs (RFC 4585 §6.2.1), and those who say when packets arrive are not waited for: what their feedback
//! calls missing, be it a packet or a retransmission, is sent again too. Requests and feedback are lost as packets are, so
//! that pictures which have been waited for for longer than one request takes are followed up unasked until they are
//! known to have arrived. Whatever the reason, no two of them are less than a round trip apart; and where it took too
//! long, a keyframe is asked for beside.

use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, SeqNo, SeqNo16, Ssrc};
use crate::media::resend::NotResent;
use crate::media::rewrite;
use crate::room::output::Output;
use crate::room::peer::Peer;
use crate::room::retransmissions::FollowUp;
use crate::room::sending::Way;
use crate::room::sent_names::{Lost, SentName};
use crate::room::slots::{EncodingSlot, PeerSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::subscription::Subscription;
use crate::room::track::Track;

/// Who misses a packet, and of what.
struct Asker<'a> {
    peer: &'a mut Peer,
    subscription: &'a mut Subscription,
    track_slot: TrackSlot,
    track: &'a Track,
    reason: Reason,
}

/// Why a packet is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The peer asked for it.
    Nack,
    /// By its feedback the peer does not have it.
    Feedback,
    /// Nothing says whether the last one arrived; so many more may follow it like this.
    Unasked(u8),
}

/// What became of a packet that is to be sent again.
enum Resend {
    Sent { on_own_stream: bool },
    NotHeld,
    Refused(NotResent),
}

impl Room {
    /// Answers a NACK with the same packets.
    pub(in crate::room) fn on_nack(
        &mut self,
        now: Instant,
        from: PeerSlot,
        media: Ssrc,
        seqs: &[SeqNo16],
        output: &mut Output,
    ) {
        let Some((subscription, _)) = self.subscribed(from, media) else {
            output.counters.rtcp_unknown_stream += 1;
            return;
        };
        for &seq in seqs {
            let name = SentName { subscription, seq };
            match self.send_again(now, name, Reason::Nack, output) {
                Resend::Sent { .. } => {}
                Resend::NotHeld => output.counters.nack_not_held += 1,
                Resend::Refused(NotResent::UnderWay) => output.counters.nack_under_way += 1,
                Resend::Refused(NotResent::OverBudget) => output.counters.nack_over_budget += 1,
            }
        }
        if let Some(peer) = self.peers.get(from) {
            output.rescheduled.push(peer.key);
        }
    }

    /// Sends again what a peer's feedback on arrivals calls missing. What cannot be is not counted: NACKs are the
    /// measure of that.
    pub(in crate::room) fn repair_lost(
        &mut self,
        now: Instant,
        from: PeerSlot,
        lost: &[Lost],
        output: &mut Output,
    ) {
        for lost in lost {
            if self.is_of(from, lost.name) {
                let sent = self.send_again(now, lost.name, Reason::Feedback, output);
                output.counters.feedback_repaired += u64::from(sent.is_sent());
            }
        }
    }

    /// Sends the retransmissions that are due to a peer.
    pub(in crate::room) fn send_due_retransmissions(
        &mut self,
        now: Instant,
        to: PeerSlot,
        output: &mut Output,
    ) {
        while let Some(peer) = self.peers.get_mut(to)
            && let Some((name, next)) = peer.congestion.retransmissions.poll_due(now)
        {
            let is_free = peer.congestion.waiting.is_empty() && !peer.congestion.is_congested();
            if self.is_of(to, name) && (next.unasked.is_none() || is_free) {
                let reason = next.unasked.map_or(Reason::Nack, Reason::Unasked);
                let sent = self.send_again(now, name, reason, output);
                output.counters.repeated_unasked +=
                    u64::from(next.unasked.is_some() && sent.is_sent());
            }
        }
    }

    /// Whether a packet is a peer's: the slot of its subscription may have become another's.
    fn is_of(&self, peer: PeerSlot, name: SentName) -> bool {
        let subscription = self.subscriptions.get(name.subscription);
        subscription.is_some_and(|subscription| subscription.subscriber == peer)
    }

    fn send_again(
        &mut self,
        now: Instant,
        name: SentName,
        reason: Reason,
        output: &mut Output,
    ) -> Resend {
        let Some(subscription) = self.subscriptions.get_mut(name.subscription) else {
            return Resend::NotHeld;
        };
        let track = subscription.track;
        let (Some(track_slot), Some(track), Some(peer)) = (
            track,
            track.and_then(|track| self.tracks.get(track)),
            self.peers.get_mut(subscription.subscriber),
        ) else {
            return Resend::NotHeld;
        };
        let asker = Asker {
            peer,
            subscription,
            track_slot,
            track,
            reason,
        };
        let (sent, stuck) = resend(now, asker, name, output);
        if let Resend::Sent { on_own_stream } = sent {
            output.counters.rtp_retransmitted += 1;
            output.counters.rtp_retransmitted_rtx += u64::from(on_own_stream);
        }
        if let Some(encoding) = stuck {
            output.counters.stuck_keyframes_wanted += 1;
            self.request_keyframe(now, encoding, output);
        }
        sent
    }
}

impl Reason {
    /// How many retransmissions may follow this one unasked.
    fn follow_ups(self) -> u8 {
        match self {
            Self::Nack | Self::Feedback => UNASKED_MAX,
            Self::Unasked(more) => more,
        }
    }
}

impl Resend {
    fn is_sent(&self) -> bool {
        matches!(self, Self::Sent { .. })
    }
}

/// Sends a packet again, if it can and may be; and says of which encoding a keyframe is needed, if the packet was waited
/// for too long.
fn resend(
    now: Instant,
    mut asker: Asker<'_>,
    name: SentName,
    output: &mut Output,
) -> (Resend, Option<EncodingSlot>) {
    const NOT_HELD: (Resend, Option<EncodingSlot>) = (Resend::NotHeld, None);
    let (asked, waited) = match find_asked(now, &mut asker, name) {
        Ok(found) => found,
        Err(refused) => return (refused, None),
    };
    let Asker {
        peer,
        subscription,
        track_slot,
        track,
        reason,
    } = asker;
    let encoding = EncodingSlot {
        track: track_slot,
        index: asked.encoding,
    };
    let is_video = track.config.kind == MediaKind::Video;
    let is_needed = !matches!(reason, Reason::Unasked(_));
    let is_late = is_needed && is_video && waited >= STUCK;
    if !peer.congestion.admits_repair(now) {
        let is_stuck = is_late && subscription.is_new_stall(asked.out);
        let refused = Resend::Refused(NotResent::OverBudget);
        return (refused, is_stuck.then_some(encoding));
    }
    let (Some(incoming), Some(path)) =
        (track.recall(encoding, asked.seq), peer.transport.rtp_path())
    else {
        return NOT_HELD;
    };
    let shape = subscription.shape_again(track, &incoming);
    let Some(shape) = shape.filter(|shape| subscription.can_send_again(&asked, shape)) else {
        return NOT_HELD;
    };
    let is_stuck = is_late && subscription.is_new_stall(asked.out);
    let stuck = is_stuck.then_some(encoding);
    let rtt = peer.path.rtt.lowest();
    if let Err(refused) = subscription.take_resend(now, rtt, asked.out, &shape) {
        return (Resend::Refused(refused), stuck);
    }
    // One that came late, and whose place has been kept free, goes out now.
    if asked.is_first {
        if !subscription.rewriter.fill(&asked) {
            return NOT_HELD;
        }
        subscription.note_edit(asked.out, &shape);
    }
    peer.congestion.charge_repair(now, incoming.packet().len());
    let is_urgent = rtt.is_some_and(|rtt| waited >= URGENT.max(rtt * 5 / 4));
    let unasked = reason.follow_ups().checked_sub(1);
    let then = subscription
        .may_resend_at(rtt, asked.out)
        .filter(|_| is_video && is_urgent && !asked.is_first && unasked.is_some())
        .map(|at| FollowUp { at, unasked });
    let congestion = &mut peer.congestion;
    let number = congestion.sender.next_number();
    let number = subscription.is_numbered().then_some(number);
    congestion.retransmissions.note(now, name, number, then);
    let mut way = Way::new(now, path, congestion.account(), name.subscription);
    let numbering = (asked.out, asked.timestamp(incoming.timestamp));
    let outbox = &mut output.outbox;
    match subscription.send_again(&incoming, &shape, numbering, &mut way, outbox) {
        Some(on_own_stream) => (Resend::Sent { on_own_stream }, stuck),
        None => NOT_HELD,
    }
}

/// The packet that is asked for, and how long it may have been waited for, if it can be sent again. Asks nothing that
/// costs more than a look: who asks too often is not to cost more than that.
fn find_asked(
    now: Instant,
    asker: &mut Asker<'_>,
    name: SentName,
) -> Result<(rewrite::Resend, Duration), Resend> {
    let subscription = &*asker.subscription;
    let asked = subscription.find_asked(name.seq).ok_or(Resend::NotHeld)?;
    let (came, waited) = waits(now, asker.track, &asked).ok_or(Resend::NotHeld)?;
    let rtt = asker.peer.path.rtt.lowest();
    let retransmissions = &mut asker.peer.congestion.retransmissions;
    let original = (name.subscription, asked.encoding, asked.seq);
    // If it was late, and has only just gone out, what is asked for was asked for before.
    let first = match rtt {
        Some(rtt) if !asked.is_first => Some(retransmissions.went_out_at(original, came) + rtt),
        _ => None,
    };
    let again = subscription.may_resend_at(rtt, asked.out);
    match first.max(again).filter(|at| now < *at) {
        Some(at) => {
            // A request may be from before the last one came. But the round trip varies: who asks again exactly after
            // one would often wait for a second one.
            let is_soon = rtt.is_some_and(|rtt| at - now <= rtt / 8);
            let unasked = match asker.reason {
                Reason::Unasked(more) => Some(more),
                Reason::Nack | Reason::Feedback => None,
            };
            if is_soon || asker.reason != Reason::Nack {
                let next = FollowUp { at, unasked };
                retransmissions.defer(now, name, next);
            }
            Err(Resend::Refused(NotResent::UnderWay))
        }
        None => Ok((asked, waited)),
    }
}

/// When a packet came here; and how long somebody may have waited for it: since then, or since the one after it
/// came, if that overtook it. `None` if it is not kept any more.
fn waits(now: Instant, track: &Track, asked: &rewrite::Resend) -> Option<(Instant, Duration)> {
    let cache = &track.encoding(asked.encoding)?.cache;
    let own = cache.get(asked.seq)?.arrived;
    let next = cache.get(SeqNo(asked.seq.0 + 1)).map(|next| next.arrived);
    let first = next.map_or(own, |next| own.min(next));
    Some((own, now.saturating_duration_since(first)))
}

/// From then on, and from five quarters of a round trip on, pictures are late: a request or a retransmission was lost. With a
/// tenth lost each way and 200 ms, the fifth retransmission is the last that comes within a second: none of them may start late.
const URGENT: Duration = Duration::from_millis(250);
/// So many follow one that was asked for: the third comes when nobody has asked any more for three round trips.
const UNASKED_MAX: u8 = 3;
/// When a keyframe is asked for beside, once. Later than where a gap of the publisher's is (`media::nack`): what was sent
/// again may still have to come, and a keyframe costs everybody.
const STUCK: Duration = Duration::from_millis(800);
