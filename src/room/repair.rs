//! Repair towards subscribers: what they miss is sent again from the caches of its tracks.
//!
//! They ask with NACKs (RFC 4585 §6.2.1), and those who say when packets arrive are not waited for: what their feedback
//! calls missing is sent again too. Both are answered once in a round trip, whoever comes first; but what has been waited
//! for so long that pictures stand still goes out twice, and where that took too long already, a keyframe is asked for.

use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, SeqNo, SeqNo16, Ssrc};
use crate::media::resend::NotResent;
use crate::media::rewrite;
use crate::room::output::Output;
use crate::room::peer::Peer;
use crate::room::sending::Way;
use crate::room::sent_names::SentName;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::state::Room;
use crate::room::subscription::Subscription;
use crate::room::track::Track;

/// Who misses a packet, and of what.
struct Asker<'a> {
    peer: &'a mut Peer,
    slot: SubscriptionSlot,
    subscription: &'a mut Subscription,
    track_slot: TrackSlot,
    track: &'a Track,
}

/// What became of a packet that is to be sent again.
enum Resend {
    Sent { on_own_stream: bool, copies: u8 },
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
        let Some((slot, _)) = self.subscribed(from, media) else {
            output.counters.rtcp_unknown_stream += 1;
            return;
        };
        for seq in seqs {
            match self.send_again(now, slot, *seq, output) {
                Resend::Sent { .. } => {}
                Resend::NotHeld => output.counters.nack_not_held += 1,
                Resend::Refused(NotResent::UnderWay) => output.counters.nack_under_way += 1,
                Resend::Refused(NotResent::OverBudget) => output.counters.nack_over_budget += 1,
            }
        }
    }

    /// Sends again what a peer's feedback on arrivals calls missing. What cannot be is not counted: NACKs are the
    /// measure of that.
    pub(in crate::room) fn repair_lost(
        &mut self,
        now: Instant,
        from: PeerSlot,
        lost: &[SentName],
        output: &mut Output,
    ) {
        for name in lost {
            let subscription = self.subscriptions.get(name.subscription);
            // Its slot may have become another peer's.
            if subscription.is_none_or(|subscription| subscription.subscriber != from) {
                continue;
            }
            let sent = self.send_again(now, name.subscription, name.seq, output);
            output.counters.feedback_repaired += u64::from(matches!(sent, Resend::Sent { .. }));
        }
    }

    fn send_again(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        seq: SeqNo16,
        output: &mut Output,
    ) -> Resend {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
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
            slot,
            subscription,
            track_slot,
            track,
        };
        let (sent, stuck) = resend(now, asker, seq, output);
        if let Resend::Sent {
            on_own_stream,
            copies,
        } = sent
        {
            let counters = &mut output.counters;
            counters.rtp_retransmitted += u64::from(copies);
            counters.rtp_retransmitted_rtx += u64::from(on_own_stream) * u64::from(copies);
        }
        if let Some(encoding) = stuck {
            output.counters.stuck_keyframes_wanted += 1;
            self.request_keyframe(now, encoding, output);
        }
        sent
    }
}

/// Sends a packet again, if it can and may be; and says of which encoding a keyframe is needed, if the packet was waited
/// for too long.
fn resend(
    now: Instant,
    asker: Asker<'_>,
    seq: SeqNo16,
    output: &mut Output,
) -> (Resend, Option<EncodingSlot>) {
    const NOT_HELD: (Resend, Option<EncodingSlot>) = (Resend::NotHeld, None);
    let Asker {
        peer,
        slot,
        subscription,
        track_slot,
        track,
    } = asker;
    let (asked, waited) = match find_asked(now, subscription, track, peer, seq) {
        Ok(found) => found,
        Err(refused) => return (refused, None),
    };
    let encoding = EncodingSlot {
        track: track_slot,
        index: asked.encoding,
    };
    let is_late = track.config.kind == MediaKind::Video && waited >= STUCK;
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
    let bytes = incoming.packet().len();
    peer.congestion.charge_repair(now, bytes);
    let urgent_at = rtt.map_or(URGENT, |rtt| URGENT.max(rtt * 2));
    let take_twin = || subscription.take_twin(rtt, asked.out, &shape);
    let is_urgent = waited >= urgent_at
        && !asked.is_first
        && peer.congestion.admits_twin(now, bytes, take_twin);
    let copies = 1 + u8::from(is_urgent);
    let mut way = Way::new(now, path, peer.congestion.account(), slot);
    let numbering = (asked.out, asked.timestamp(incoming.timestamp));
    let outbox = &mut output.outbox;
    let mut on_own_stream = None;
    for _ in 0..copies {
        on_own_stream = subscription.send_again(&incoming, &shape, numbering, &mut way, outbox);
    }
    let sent = on_own_stream.map(|on_own_stream| Resend::Sent {
        on_own_stream,
        copies,
    });
    sent.map_or(NOT_HELD, |sent| (sent, stuck))
}

/// The packet that is asked for, and how long it may have been waited for, if it can be sent again. Asks nothing that
/// costs more than a look: who asks too often is not to cost more than that.
fn find_asked(
    now: Instant,
    subscription: &Subscription,
    track: &Track,
    peer: &Peer,
    seq: SeqNo16,
) -> Result<(rewrite::Resend, Duration), Resend> {
    let asked = subscription.find_asked(seq).ok_or(Resend::NotHeld)?;
    let (age, waited) = waits(now, track, &asked).ok_or(Resend::NotHeld)?;
    let rtt = peer.path.rtt.lowest();
    // It was late, and has only just gone out: what is asked for was asked for before.
    let is_young = !asked.is_first && rtt.is_some_and(|rtt| age < rtt * 7 / 8);
    if is_young || subscription.is_under_way(now, rtt, asked.out) {
        return Err(Resend::Refused(NotResent::UnderWay));
    }
    Ok((asked, waited))
}

/// How long ago a packet came here; and how long somebody may have waited for it: since then, or since the one after it
/// came, if that overtook it. `None` if it is not kept any more.
fn waits(now: Instant, track: &Track, asked: &rewrite::Resend) -> Option<(Duration, Duration)> {
    let cache = &track.encoding(asked.encoding)?.cache;
    let own = cache.get(asked.seq)?.arrived;
    let next = cache.get(SeqNo(asked.seq.0 + 1)).map(|next| next.arrived);
    let first = next.map_or(own, |next| own.min(next));
    let since = |then: Instant| now.saturating_duration_since(then);
    Some((since(own), since(first)))
}

/// From then on (and from two round trips on) what is sent again goes out twice: with a tenth lost each way, one of 5 000
/// would otherwise be lost more often than fits into a second. Nothing else is ever sent twice within a round trip.
const URGENT: Duration = Duration::from_millis(500);
/// When a keyframe is asked for beside, once. Later than where a gap of the publisher's is (`media::nack`): what went out
/// twice may still have to come, and a keyframe costs everybody.
const STUCK: Duration = Duration::from_millis(800);
