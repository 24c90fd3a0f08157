//! Repair towards subscribers: what they miss is sent again from the caches of its tracks.
//!
//! They ask with NACKs (RFC 4585 §6.2.1), and those who say when packets arrive are not waited for: what their feedback
//! calls missing is sent again too. Both are answered once in a round trip, whoever comes first; but what has been waited
//! for so long that pictures stand still goes out twice, and where that took too long already, a keyframe is asked for.

use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, SeqNo, SeqNo16, Ssrc};
use crate::base::time::earliest;
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

/// What became of a packet that is to be sent again.
enum Resend {
    Sent,
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
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let taken = peer.path.nacks.take(now, seqs.len(), NACKED_MAX);
        output.counters.nack_flooded += (seqs.len() - taken) as u64;
        for seq in &seqs[..taken] {
            match self.send_again(now, slot, *seq, output) {
                Resend::Sent => {}
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
            output.counters.feedback_repaired += u64::from(matches!(sent, Resend::Sent));
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
        let of = (track_slot, track);
        let (sent, stuck) = resend(now, (slot, subscription), of, peer, seq, output);
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
    (slot, subscription): (SubscriptionSlot, &mut Subscription),
    (track_slot, track): (TrackSlot, &Track),
    peer: &mut Peer,
    seq: SeqNo16,
    output: &mut Output,
) -> (Resend, Option<EncodingSlot>) {
    const NOT_HELD: (Resend, Option<EncodingSlot>) = (Resend::NotHeld, None);
    let recalled = subscription.recall(track_slot, track, seq);
    // What came before a switch has been replaced by its keyframe.
    let current = subscription.rewriter.encoding();
    let Some((asked, incoming)) = recalled.filter(|(asked, _)| current == Some(asked.encoding))
    else {
        return NOT_HELD;
    };
    let (Some(path), Some(shape)) = (
        peer.transport.rtp_path(),
        subscription.shape_again(track, &incoming),
    ) else {
        return NOT_HELD;
    };
    // Another packet under this number would be another packet under its nonce.
    if !asked.is_first
        && !subscription.has_own_stream(&shape)
        && !subscription.may_repeat(asked.out, &shape)
    {
        return NOT_HELD;
    }
    let rtt = peer.path.rtt.lowest();
    let (age, waited) = waits(now, track, &asked);
    // It was late, and has only just gone out: what is asked for was asked for before.
    if !asked.is_first && rtt.is_some_and(|rtt| age < rtt * 7 / 8) {
        return (Resend::Refused(NotResent::UnderWay), None);
    }
    let bytes = incoming.packet().len();
    let admitted = match peer.congestion.admits_repair(now, bytes) {
        true => subscription.take_resend(now, rtt, asked.out, &shape),
        false => Err(NotResent::OverBudget),
    };
    let is_stuck = incoming.kind == MediaKind::Video
        && waited >= STUCK
        && admitted != Err(NotResent::UnderWay)
        && subscription.is_new_stall(asked.out);
    let stuck = is_stuck.then_some(incoming.encoding);
    if let Err(refused) = admitted {
        return (Resend::Refused(refused), stuck);
    }
    // One that came late, and whose place has been kept free, goes out now.
    if asked.is_first && !subscription.rewriter.fill(&asked) {
        return NOT_HELD;
    }
    if asked.is_first {
        subscription.note_edit(asked.out, &shape);
    }
    let is_urgent = waited >= rtt.map_or(URGENT, |rtt| URGENT.max(rtt * 2))
        && !asked.is_first
        && peer.congestion.waiting.is_empty()
        && peer.congestion.admits_repair(now, bytes)
        && subscription.take_twin(rtt, asked.out, &shape);
    let mut way = Way::new(now, path, peer.congestion.account(), slot);
    let numbering = (asked.out, asked.timestamp(incoming.timestamp));
    let (mut on_own_stream, copies) = (None, 1 + u64::from(is_urgent));
    for _ in 0..copies {
        let outbox = &mut output.outbox;
        on_own_stream = subscription.send_again(&incoming, &shape, numbering, &mut way, outbox);
    }
    let Some(on_own_stream) = on_own_stream else {
        return NOT_HELD;
    };
    output.counters.rtp_retransmitted += copies;
    output.counters.rtp_retransmitted_rtx += copies * u64::from(on_own_stream);
    (Resend::Sent, stuck)
}

/// How long ago a packet came here; and how long somebody may have waited for it: since then, or since the one after it
/// came, if that overtook it.
fn waits(now: Instant, track: &Track, asked: &rewrite::Resend) -> (Duration, Duration) {
    let cache = track
        .encoding(asked.encoding)
        .map(|encoding| &encoding.cache);
    let arrived = |seq| Some(cache?.get(seq)?.arrived);
    let own = arrived(asked.seq);
    let since = |then: Option<Instant>| {
        then.map_or(Duration::ZERO, |then| now.saturating_duration_since(then))
    };
    let next = arrived(SeqNo(asked.seq.0 + 1));
    (since(own), since(earliest(own, next)))
}

/// Packets asked for in a tenth of a second that are looked for: libwebrtc's receivers ask for 1000 of a stream at most.
const NACKED_MAX: usize = 2000;
/// From then on (and from two round trips on) what is sent again goes out twice: with a tenth lost each way, one of 5 000
/// would otherwise be lost more often than fits into a second. Nothing else is ever sent twice within a round trip.
const URGENT: Duration = Duration::from_millis(500);
/// When a keyframe is asked for beside, once. Later than where a gap of the publisher's is (`media::nack`): what went out
/// twice may still have to come, and a keyframe costs everybody.
const STUCK: Duration = Duration::from_millis(800);
