//! Repair towards publishers, and what is known of the ways there and back: what is missing is asked for, what comes again on a stream
//! of its own is taken apart, and what peers report of round trips and loss is kept.
//!
//! Only the publisher's shard asks: what is repaired is relayed like everything else.

use std::time::Instant;

use bytes::BytesMut;

use crate::base::ids::{EncodingIndex, SeqNo, SeqNo16, Ssrc};
use crate::media::nack::Arrival;
use crate::media::rtt::reference_reply;
use crate::media::rtx::{NotRestored, restore};
use crate::room::batch::Batch;
use crate::room::doubling::{CONFIRM, Doubling};
use crate::room::output::Output;
use crate::room::path::Link;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot};
use crate::room::source::Source;
use crate::room::state::Room;
use crate::wire::ntp::NtpTime;
use crate::wire::rtcp::{ReportBlock, write_nack};
use crate::wire::rtp::RtpHeader;
use crate::wire::xr::{REPLIES_MAX, ReferenceReply, write_reference_replies};

impl Room {
    /// How well a peer is connected.
    #[must_use]
    pub fn link(&self, now: Instant, slot: PeerSlot) -> Option<Link> {
        let peer = self.peers.get(slot)?;
        let mut link = Link {
            rtt: peer.path.rtt.smoothed(),
            ..Link::default()
        };
        for (_, slot) in &peer.subscriptions {
            let subscription = self.subscriptions.get(*slot);
            if let Some(reported) = subscription.and_then(|s| s.reports.latest()) {
                link.loss_down.add(now, reported);
            }
        }
        let tracks = peer.tracks.iter().filter_map(|slot| self.tracks.get(*slot));
        for encoding in tracks.flat_map(|track| &track.encodings) {
            if let Some(stats) = &encoding.stats {
                let (expected, lost) = stats.last_interval();
                link.loss_up.expected += expected;
                link.loss_up.lost += lost;
                link.loss_up.total += stats.total_lost().max(0).unsigned_abs();
            }
        }
        Some(link)
    }

    /// Takes an opened packet of a retransmission stream: what it stands for waits in `batch`, if it was missing.
    pub(in crate::room) fn take_repair(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        header: &RtpHeader,
        mut packet: BytesMut,
        batch: &mut Batch,
        output: &mut Output,
    ) {
        let counters = &mut output.counters;
        counters.rtp_rtx += 1;
        let Some(track) = self.tracks.get_mut(slot.track) else {
            return;
        };
        let Some(payload_type) = track.kinds.repaired_by(header.payload_type) else {
            counters.rtp_unknown_payload_type += 1;
            return;
        };
        let Some(encoding) = track.encoding_mut(slot.index) else {
            return;
        };
        let declared = encoding.config.rtx_ssrc == Some(header.ssrc);
        let media = encoding.config.ssrc.filter(|_| declared);
        let Some(media) = media.or(encoding.stream.ssrc()) else {
            counters.rtx_unneeded += 1;
            return;
        };
        let header = match restore(&mut packet, header, media, payload_type) {
            Ok(header) => header,
            Err(NotRestored::Padding) => {
                counters.rtx_padding += 1;
                return;
            }
            Err(NotRestored::Malformed) => {
                counters.rtp_malformed += 1;
                return;
            }
        };
        let stream = &mut encoding.stream;
        let place = stream.accept_repaired(header.ssrc, header.seq, header.timestamp);
        let arrival = place.map(|place| encoding.nack.on_packet(now, place.source_seq, true));
        match (place, arrival) {
            (Err(_), _) | (_, Err(_)) => counters.rtp_too_old += 1,
            (_, Ok(Arrival::Unexpected)) => counters.rtx_unneeded += 1,
            (Ok(place), _) => {
                counters.rtx_recovered += 1;
                let packet = packet.freeze();
                let named = (&header, &place);
                self.enqueue(now, slot, named, packet, batch, output);
            }
        }
    }

    /// Asks a publisher for what is missing of its tracks and due.
    pub(in crate::room) fn send_due_nacks(
        &mut self,
        now: Instant,
        publisher: PeerSlot,
        output: &mut Output,
    ) {
        let Room { peers, tracks, .. } = self;
        let Some(peer) = peers.get_mut(publisher) else {
            return;
        };
        let rtt = peer.path.rtt.smoothed();
        let (mut numbers, mut compound, mut stuck) = (Vec::new(), Vec::new(), Vec::new());
        for &track_slot in &peer.tracks {
            let Some(track) = tracks.get_mut(track_slot) else {
                continue;
            };
            for (index, encoding) in (0..).map(EncodingIndex).zip(&mut track.encodings) {
                let due = encoding.nack.handle_timeout(now, rtt, &mut numbers);
                output.counters.nack_given_up += u64::from(due.given_up);
                if due.needs_keyframe {
                    stuck.push(EncodingSlot {
                        track: track_slot,
                        index,
                    });
                }
                let Some(media) = encoding.stream.ssrc() else {
                    continue;
                };
                output.counters.nack_packets_asked += numbers.len() as u64;
                for numbers in numbers.chunks(MESSAGE_NUMBERS_MAX) {
                    if compound.is_empty() {
                        compound = peer.start_compound();
                    }
                    write_nack(&mut compound, peer.rtcp_ssrc, media, numbers);
                    if compound.len() > COMPOUND_BYTES_MAX {
                        peer.transport.seal_rtcp(&compound, &mut output.outbox);
                        compound.clear();
                    }
                }
                numbers.clear();
            }
        }
        if !compound.is_empty() {
            peer.transport.seal_rtcp(&compound, &mut output.outbox);
        }
        for encoding in stuck {
            output.counters.gap_keyframes_wanted += 1;
            self.request_keyframe(now, encoding, output);
        }
    }

    /// A stream of a peer has ended: nothing more of it will come, asked for or not.
    pub(in crate::room) fn on_bye(&mut self, from: PeerSlot, ssrc: Ssrc) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        if let Some(Source::Media(slot)) = peer.sources.find(ssrc)
            && let Some(track) = self.tracks.get_mut(slot.track)
            && let Some(encoding) = track.encoding_mut(slot.index)
            && encoding.stream.ssrc() == Some(ssrc)
        {
            encoding.nack.restart();
        }
        peer.sources.forget(ssrc);
    }

    /// A peer says how it receives what it is sent.
    pub(in crate::room) fn on_reports(
        &mut self,
        now: Instant,
        from: PeerSlot,
        blocks: &[ReportBlock],
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let (mut packets, mut lost) = (0_u32, 0_u32);
        for block in blocks {
            // Reports on retransmission streams tell nothing that is used here.
            let Some(slot) = peer.subscription(block.ssrc) else {
                continue;
            };
            let Some(subscription) = self.subscriptions.get_mut(slot) else {
                continue;
            };
            if let Some(rtt) = subscription.reports.on_report(now, block) {
                peer.path.rtt.on_sample(rtt);
            }
            subscription.on_received(SeqNo16(block.highest_seq as u16));
            if let Some(reported) = subscription.reports.latest() {
                packets = packets.saturating_add(reported.expected);
                lost = lost.saturating_add(reported.lost);
            }
        }
        if let Some(level) = peer.path.on_reported(now, packets, lost) {
            self.set_doubling(now, from, level, output);
        }
    }

    /// What is repeated for a peer changes, or goes on.
    pub(in crate::room) fn set_doubling(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        level: Doubling,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get(slot) else {
            return;
        };
        let subscriptions: Vec<SubscriptionSlot> =
            peer.subscriptions.iter().map(|(_, slot)| *slot).collect();
        for subscription in subscriptions {
            self.double(now, subscription, level);
        }
        // Sound counts before video divides what is left.
        self.allocate_soon(now, slot, output);
    }

    /// What is repeated for a subscription follows what holds for its peer.
    pub(in crate::room) fn double(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        level: Doubling,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let track = subscription
            .track
            .and_then(|track| self.tracks.get_mut(track));
        let Some(track) = track.filter(|_| subscription.routes.makes_red()) else {
            return;
        };
        let tip = track.encoding(EncodingIndex(0)).and_then(|e| e.tip);
        let next = tip.map_or(SeqNo(0), |tip| SeqNo(tip.seq.0 + 1));
        subscription.doubled.set(level > Doubling::Off, next);
        // A peer that is not heard of any more is not made anything for.
        let until = Some(now + CONFIRM * 3);
        if level > Doubling::Off {
            track.doubled_until = until;
        }
        if level == Doubling::Twice {
            track.doubled_twice_until = until;
        }
    }

    /// A peer answers reference times, this server's perhaps among them.
    pub(in crate::room) fn on_reference_replies(
        &mut self,
        now: Instant,
        from: PeerSlot,
        replies: &[ReferenceReply],
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let own = replies.iter().filter(|reply| reply.ssrc == peer.rtcp_ssrc);
        for reply in own {
            peer.path.on_reply(now, reply);
        }
    }

    /// Answers a peer's reference times, at once: it may receive only, and is sent no reports to wait for.
    pub(in crate::room) fn answer_reference_times(
        &mut self,
        now: Instant,
        from: PeerSlot,
        times: &[(Ssrc, NtpTime)],
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let replies: Vec<ReferenceReply> = times
            .iter()
            .take(REPLIES_MAX)
            .map(|(sender, ntp)| reference_reply(*sender, *ntp))
            .collect();
        if !replies.is_empty() && peer.path.takes_reply(now) {
            let mut compound = peer.start_compound();
            write_reference_replies(&mut compound, peer.rtcp_ssrc, &replies);
            peer.transport.seal_rtcp(&compound, &mut output.outbox);
        }
    }
}

/// Numbers of one request: 400 bytes at most.
const MESSAGE_NUMBERS_MAX: usize = 100;
/// Requests beyond go into a datagram of their own: with one more message it still fits any path.
const COMPOUND_BYTES_MAX: usize = 600;
