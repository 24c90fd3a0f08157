//! Congestion control of a room's peers, both ways: what a publisher sends is reported to it; what a subscriber is sent
//! is numbered, paced and probed as its feedback allows. The machines themselves are `media::congestion`.
//!
//! A subscriber's pictures wait as names only: the packets are in the caches of their tracks, and get their numbers and
//! become datagrams when their turn comes. What does not go out after all has cost neither a number nor a part of the
//! budget. It goes as a whole: when a packet waited for too long, found no room or is not kept any more, nothing of its
//! subscription goes out until the next keyframe.

use std::time::Instant;

use crate::base::ids::Bitrate;
use crate::media::congestion::pacer::STEP;
use crate::media::congestion::send_side::{Change, Refusal};
use crate::room::forward::count_forwarded;
use crate::room::output::Output;
use crate::room::peer::Peer;
use crate::room::sending::{OwnShare, PATH_OVERHEAD, Waiting, Way};
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot};
use crate::room::state::Room;
use crate::room::subscription::Subscription;
use crate::wire::bandwidth::{Remb, TransportFeedback};

impl Room {
    /// What may be sent to a peer in all: where others share the way to it, no more than is fair. `None`: nothing is known,
    /// and nothing is limited.
    #[must_use]
    pub fn estimate(&self, slot: PeerSlot) -> Option<Bitrate> {
        let congestion = &self.peers.get(slot)?.congestion;
        let estimate = congestion.sender.estimate()?;
        let share = congestion.share.map(OwnShare::limit);
        Some(share.map_or(estimate, |share| estimate.min(share)))
    }

    /// A peer tells when packets arrived.
    pub(in crate::room) fn on_transport_feedback(
        &mut self,
        now: Instant,
        from: PeerSlot,
        feedback: &TransportFeedback,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        output.counters.transport_feedback_received += 1;
        peer.congestion.sender.on_feedback(now, feedback);
        let mut lost = peer.congestion.sent.on_feedback(feedback);
        peer.congestion
            .retransmissions
            .on_feedback(now, feedback, &mut lost);
        // Where a queue stands, it is the queue that loses, and more packets make it longer: NACKs and the estimate will do.
        let is_congested = peer.congestion.is_congested();
        let level = peer.path.on_feedback(now, feedback, is_congested);
        peer.congestion.refresh();
        output.rescheduled.push(peer.key);
        if !is_congested {
            self.repair_lost(now, from, &lost, output);
        }
        if let Some(level) = level {
            self.set_doubling(now, from, level, output);
        }
        self.follow_estimate(now, from, output);
    }

    /// A peer tells what it thinks it can take.
    pub(in crate::room) fn on_remb(
        &mut self,
        now: Instant,
        from: PeerSlot,
        remb: &Remb,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        output.counters.remb_received += 1;
        peer.congestion.sender.on_remb(now, remb.bitrate);
        output.rescheduled.push(peer.key);
        peer.congestion.refresh();
        self.follow_estimate(now, from, output);
    }

    /// What a peer is sent is divided anew, if the estimate has moved.
    fn follow_estimate(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let moved = self
            .peers
            .get_mut(slot)
            .and_then(|peer| peer.congestion.sender.take_change());
        match moved {
            // Until less is sent, most of it is lost.
            Some(Change::Fall) => {
                self.allocate(now, slot, output);
                self.silence_falling(now, slot, output);
            }
            Some(Change::Usual) => self.allocate_soon(now, slot, output),
            None => {}
        }
    }

    /// Does what is due for a peer: packets that wait, padding, feedback.
    pub(in crate::room) fn handle_congestion_timeout(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.congestion.sender.handle_timeout(now);
        peer.congestion.refresh();
        tell_publisher(now, peer, output);
        self.drain_waiting(now, slot, output);
        self.send_due_retransmissions(now, slot, output);
        self.send_due_padding(now, slot, output);
        self.follow_estimate(now, slot, output);
    }

    /// Sends what waits, as far as it may go now.
    fn drain_waiting(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let congestion = &mut peer.congestion;
        if congestion.drain_at.is_none_or(|at| now < at) {
            return;
        }
        congestion.budget.set_backlog(congestion.waiting.bytes());
        congestion.budget.fill(now);
        // Each time round, at least what is lost leaves the queue.
        while let Some(lost) = self.send_waiting(now, slot, output) {
            self.interrupt(now, lost, output);
        }
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let congestion = &mut peer.congestion;
        output.counters.paced_dropped += congestion.take_discarded() as u64;
        congestion.budget.set_backlog(congestion.waiting.bytes());
        let wait = congestion.budget.wait().max(STEP);
        congestion.drain_at = (!congestion.waiting.is_empty()).then(|| now + wait);
    }

    /// As [`Room::drain_waiting`], until a packet can go out no more that should. Then it says whose that was.
    fn send_waiting(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) -> Option<SubscriptionSlot> {
        let Room {
            peers,
            tracks,
            subscriptions,
            ..
        } = self;
        let Peer {
            congestion,
            transport,
            ..
        } = peers.get_mut(slot)?;
        let path = transport.rtp_path();
        if let Some(late) = congestion.waiting.overdue(now) {
            return Some(late.subscription);
        }
        while let Some(&Waiting {
            subscription: of,
            stay,
            encoding: index,
            seq,
        }) = congestion.waiting.front()
        {
            let subscription = subscriptions.get_mut(of);
            let present = subscription.filter(|subscription| subscription.rewriter.is_in(stay));
            let track = present.as_ref().and_then(|present| present.track);
            let (Some(subscription), Some(track), Some(path)) = (present, track, path) else {
                congestion.discard_oldest();
                continue;
            };
            if congestion.budget.is_spent() {
                return None;
            }
            let copied = tracks.get(track)?;
            let encoding = EncodingSlot { track, index };
            let Some(packet) = copied.recall(encoding, seq) else {
                return Some(of);
            };
            congestion.waiting.pop();
            let Some(shape) = subscription.shape_again(copied, &packet) else {
                subscription.rewriter.skip(seq);
                output.counters.paced_dropped += 1;
                continue;
            };
            let mut way = Way::new(now, path, congestion.account(), of);
            // Meanwhile it may have been asked for, and gone out: then it does not again.
            if subscription.send_first(&packet, &shape, &mut way, &mut output.outbox) {
                congestion.charge(&packet);
                congestion.retransmissions.note_paced(now, (of, index, seq));
                count_forwarded(&packet, &mut output.counters);
            } else {
                output.counters.forward_late += 1;
            }
        }
        None
    }

    /// What is to go out of a subscription is lost here: nothing of it does until its next keyframe.
    pub(in crate::room) fn interrupt(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        self.discard_waiting(slot);
        if let Some(subscription) = self.subscriptions.get_mut(slot) {
            subscription.interrupt();
            self.on_interrupted(now, slot, output);
        }
    }

    /// A subscription was interrupted: its publisher is asked for a keyframe, until that comes.
    #[cold]
    pub(in crate::room) fn on_interrupted(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        output.counters.subscription_interrupted += 1;
        let Some(subscription) = self.subscriptions.get(slot) else {
            return;
        };
        let track = subscription.track;
        let index = subscription.reception.present();
        if let Some((track, index)) = track.zip(index) {
            let encoding = EncodingSlot { track, index };
            self.repeat_keyframe(now, encoding, output);
            self.request_keyframe(now, encoding, output);
        }
    }

    /// What waits of a subscription does not go out: it stops, or goes on with something else.
    pub(in crate::room) fn discard_waiting(&mut self, slot: SubscriptionSlot) {
        let subscription = self.subscriptions.get(slot);
        let peer = subscription.and_then(|of| self.peers.get_mut(of.subscriber));
        if let Some(peer) = peer {
            peer.congestion.discard(slot);
        }
    }

    /// The subscription of a peer whose retransmission stream can carry padding, if there is one.
    pub(in crate::room) fn padding_carrier(&self, slot: PeerSlot) -> Option<SubscriptionSlot> {
        let subscriptions = &self.peers.get(slot)?.subscriptions;
        let takes_padding = |slot: &SubscriptionSlot| {
            let subscription = self.subscriptions.get(*slot);
            subscription.is_some_and(Subscription::takes_padding)
        };
        subscriptions
            .iter()
            .map(|(_, slot)| *slot)
            .find(takes_padding)
    }

    /// Sends the padding of a probe: on a retransmission stream, where it disturbs no numbers.
    pub(in crate::room) fn send_due_padding(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let due = peer.congestion.sender.padding_due(now);
        if due == 0 {
            return;
        }
        let carrier = self.padding_carrier(slot);
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let sender = &mut peer.congestion.sender;
        let Some(path) = peer.transport.rtp_path() else {
            return sender.on_padding_refused(now, Refusal::NotNow);
        };
        let carrier = carrier.and_then(|of| Some((of, self.subscriptions.get_mut(of)?)));
        let Some((of, subscription)) = carrier else {
            return sender.on_padding_refused(now, Refusal::NoStream);
        };
        let mut way = Way::new(now, path, peer.congestion.account(), of);
        let mut sent = 0;
        for _ in 0..PADDING_PACKETS_MAX {
            if sent >= due {
                break;
            }
            let bytes = subscription.send_padding(&mut way, &mut output.outbox);
            if bytes == 0 {
                break;
            }
            sent += bytes + PATH_OVERHEAD;
            output.counters.padding_packets_sent += 1;
        }
        if sent == 0 {
            let sender = &mut peer.congestion.sender;
            sender.on_padding_refused(now, Refusal::NotNow);
        }
    }
}

/// Tells a publisher what is due of the way from it.
fn tell_publisher(now: Instant, peer: &mut Peer, output: &mut Output) {
    let sender = peer.rtcp_ssrc;
    for _ in 0..FEEDBACK_MESSAGES_MAX {
        if !peer.uplink.is_feedback_due(now) {
            break;
        }
        let mut compound = peer.start_compound();
        if peer.uplink.write_feedback(now, sender, &mut compound) {
            let sent = peer.transport.seal_rtcp(&compound, &mut output.outbox);
            output.counters.transport_feedback_sent += u64::from(sent);
        }
    }
    let rtt = peer.path.rtt.smoothed();
    if let Some(remb) = peer.uplink.remb_due(now, sender, rtt) {
        let mut compound = peer.start_compound();
        remb.write(&mut compound);
        let sent = peer.transport.seal_rtcp(&compound, &mut output.outbox);
        output.counters.remb_sent += u64::from(sent);
    }
}

/// The most padding packets of one turn: 4 ms of 20 Mbit/s.
const PADDING_PACKETS_MAX: usize = 40;
/// Feedback is cut where packets came more than eight seconds apart.
const FEEDBACK_MESSAGES_MAX: usize = 4;
