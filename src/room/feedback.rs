//! RTCP in both directions: reports and keyframe requests; what is to be sent again, `loss` and `repair` do.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::base::ids::{MediaKind, Ssrc};
use crate::media::sender_report::{LastSenderReport, TrackClock};
use crate::room::encoding::Encoding;
use crate::room::origin::Origin;
use crate::room::output::Output;
use crate::room::peer::{Peer, REPORT_INTERVAL};
use crate::room::relay::relay_clock;
use crate::room::slots::{EncodingSlot, PeerSlot, SubscriptionSlot, TrackSlot};
use crate::room::source::Source;
use crate::room::state::Room;
use crate::wire::rtcp::{self, RtcpPacket, SenderReport, write_pli, write_receiver_report};
use crate::wire::sdes::SourceDescription;

impl Room {
    /// Takes a protected RTCP datagram of a peer.
    pub fn handle_rtcp(
        &mut self,
        now: Instant,
        from: PeerSlot,
        mut datagram: BytesMut,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        if peer.transport.open_rtcp(&mut datagram).is_err() {
            output.counters.rtcp_not_opened += 1;
            return;
        }
        output.counters.rtcp_received += 1;
        if !peer.rtcp_budget.admits(now) {
            output.counters.rtcp_over_budget += 1;
            return;
        }
        let compound = rtcp::parse(&datagram);
        peer.rtcp_budget.charge(&compound);
        output.counters.rtcp_malformed += u64::from(compound.dropped);
        let mut times = Vec::new();
        for packet in &compound.packets {
            match packet {
                RtcpPacket::SenderReport(report) => {
                    self.on_sender_report(now, from, report, output);
                }
                RtcpPacket::Pli { media } => self.on_keyframe_request(now, from, *media, output),
                RtcpPacket::Fir { entries } => {
                    for (ssrc, _) in entries {
                        self.on_keyframe_request(now, from, *ssrc, output);
                    }
                }
                RtcpPacket::Nack { media, seqs, .. } => {
                    self.on_nack(now, from, *media, seqs, output);
                }
                RtcpPacket::Bye { sources } => {
                    sources.iter().for_each(|ssrc| self.on_bye(from, *ssrc));
                }
                RtcpPacket::Reports { blocks, .. } => self.on_reports(now, from, blocks, output),
                RtcpPacket::ReferenceTime { sender, ntp } => times.push((*sender, *ntp)),
                RtcpPacket::ReferenceReplies(replies) => {
                    self.on_reference_replies(now, from, replies);
                }
                RtcpPacket::TransportFeedback(feedback) => {
                    self.on_transport_feedback(now, from, feedback, output);
                }
                RtcpPacket::Remb(remb) => self.on_remb(now, from, remb, output),
                RtcpPacket::Description(description) => self.on_description(from, description),
                RtcpPacket::Other => {}
            }
        }
        self.answer_reference_times(now, from, &times, output);
    }

    /// A source says where it belongs. What it is called does not matter: a publisher's canonical name is the session's to
    /// choose.
    fn on_description(&mut self, from: PeerSlot, description: &SourceDescription) {
        if let Some(peer) = self.peers.get_mut(from) {
            let SourceDescription {
                source, mid, rid, ..
            } = description;
            peer.sources.describe(*source, *mid, *rid);
        }
    }

    /// A subscription (re)starts: the publisher is asked for a keyframe, if pictures can flow.
    pub(in crate::room) fn want_keyframe(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get(slot) else {
            return;
        };
        if let Some(track) = subscription.track
            && subscription.is_open()
            && let Some(subscriber) = self.peers.get_mut(subscription.subscriber)
            && subscriber.transport.sealer().is_some()
        {
            let (reception, comes_back) = (subscription.reception, subscription.comes_back);
            let Some(index) = reception.awaited().or(reception.present()) else {
                return;
            };
            let encoding = EncodingSlot { track, index };
            self.request_keyframe(now, encoding, output);
            if comes_back {
                self.repeat_keyframe(now, encoding, output);
            } else if reception.awaited().is_some() {
                self.retry_keyframe(now, encoding, output);
            }
        }
    }

    /// Sends the keyframe requests of a publisher's tracks that waited.
    pub(in crate::room) fn send_due_keyframe_requests(
        &mut self,
        now: Instant,
        publisher: PeerSlot,
        output: &mut Output,
    ) {
        let Room { peers, tracks, .. } = self;
        let Some(peer) = peers.get_mut(publisher) else {
            return;
        };
        for at in 0..peer.tracks.len() {
            let track = tracks.get_mut(peer.tracks[at]);
            for encoding in track.into_iter().flat_map(|track| &mut track.encodings) {
                if encoding.keyframes.handle_timeout(now) {
                    send_keyframe_request(peer, encoding, output);
                }
            }
        }
    }

    /// Tells a publisher how it is received, if that is due.
    pub(in crate::room) fn send_due_report(
        &mut self,
        now: Instant,
        publisher: PeerSlot,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(publisher) else {
            return;
        };
        if peer.report_at.is_none_or(|at| now < at) {
            return;
        }
        let mut blocks = Vec::new();
        let (mut is_live, mut takes_times) = (false, false);
        for slot in &peer.tracks {
            let track = self.tracks.get_mut(*slot);
            takes_times |= track.as_ref().is_some_and(|t| t.config.reference_times);
            for encoding in track.into_iter().flat_map(|track| &mut track.encodings) {
                encoding.cache.expire(now);
                is_live |= !encoding.cache.is_empty();
                if let Some(stats) = encoding.stats.as_mut().filter(|stats| stats.has_news()) {
                    blocks.push(stats.report(now, encoding.last_sr.as_ref()));
                }
            }
        }
        if !blocks.is_empty() {
            let mut compound = Vec::new();
            write_receiver_report(&mut compound, peer.rtcp_ssrc, &blocks, RTCP_CNAME);
            if takes_times {
                let (path, ssrc) = (&mut peer.path, peer.rtcp_ssrc);
                path.write_reference_time(now, ssrc, &mut compound);
            }
            peer.transport.seal_rtcp(&compound, &mut output.outbox);
        }
        peer.report_at = is_live.then_some(now + REPORT_INTERVAL);
    }

    /// A publisher's report: what it says of the clocks goes to all subscribers at once.
    fn on_sender_report(
        &mut self,
        now: Instant,
        from: PeerSlot,
        report: &SenderReport,
        output: &mut Output,
    ) {
        let source = self
            .peers
            .get(from)
            .and_then(|peer| peer.sources.find(report.ssrc));
        let Some(Source::Media(slot)) = source else {
            output.counters.rtcp_unknown_stream += u64::from(source.is_none());
            return;
        };
        let Some(track) = self.tracks.get_mut(slot.track) else {
            return;
        };
        let rate = track.clock_rate();
        let Some(encoding) = track.encoding_mut(slot.index) else {
            return;
        };
        // Before the first packet, or of a former SSRC: there is nothing to translate it to.
        let Some(rtp_time) = encoding.stream.timestamp(report.ssrc, report.rtp_time) else {
            output.counters.rtcp_unknown_stream += 1;
            return;
        };
        let is_early = |last: &LastSenderReport| {
            now.saturating_duration_since(last.received) < SENDER_REPORT_INTERVAL_MIN
        };
        if encoding.last_sr.as_ref().is_some_and(is_early) {
            output.counters.rtcp_reports_too_frequent += 1;
            return;
        }
        encoding.last_sr = Some(LastSenderReport {
            ntp: report.ntp,
            received: now,
        });
        encoding.clock = Some(TrackClock::new(now, report.ntp, rtp_time, rate));
        relay_clock(track, slot.index, output);
        self.pass_on_sender_report(now, slot, output);
    }

    /// Sends the reports of all who receive an encoding whose clock is new.
    pub(in crate::room) fn pass_on_sender_report(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get(slot.track) else {
            return;
        };
        let index = slot.index;
        let Some(clock) = track.encoding(index).and_then(|e| e.clock.as_ref()) else {
            return;
        };
        for &slot in &track.subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(slot)
                && subscription.rewriter.encoding() == Some(index)
                && let Some(peer) = self.peers.get_mut(subscription.subscriber)
            {
                let transport = &mut peer.transport;
                let sent = subscription.send_report(now, clock, transport, &mut output.outbox);
                output.counters.sender_reports_sent += u64::from(sent);
            }
        }
    }

    fn on_keyframe_request(
        &mut self,
        now: Instant,
        from: PeerSlot,
        media: Ssrc,
        output: &mut Output,
    ) {
        match self.subscribed(from, media) {
            Some((slot, track)) => {
                let subscription = self.subscriptions.get(slot);
                if let Some(index) = subscription.and_then(|s| s.reception.present()) {
                    self.request_keyframe(now, EncodingSlot { track, index }, output);
                }
            }
            None => output.counters.rtcp_unknown_stream += 1,
        }
    }

    /// Asks the publisher of a video track for a keyframe of one encoding, at once or when that is next allowed.
    pub(in crate::room) fn request_keyframe(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(slot.track) else {
            return;
        };
        if track.config.kind != MediaKind::Video {
            return;
        }
        let publisher = match track.origin {
            Origin::Local(publisher) => publisher,
            Origin::Remote(want) => return self.relay_keyframe_request(now, slot, want, output),
        };
        // A stream that has not begun will begin with a keyframe.
        let Some(encoding) = track
            .encoding_mut(slot.index)
            .filter(|encoding| encoding.stream.ssrc().is_some())
        else {
            return;
        };
        let Some(publisher) = self.peers.get_mut(publisher) else {
            return;
        };
        if encoding.keyframes.handle_request(now) {
            send_keyframe_request(publisher, encoding, output);
        } else {
            output.rescheduled.push(publisher.key);
        }
    }

    /// What a peer receives under an SSRC, if that has a track.
    pub(in crate::room) fn subscribed(
        &self,
        peer: PeerSlot,
        ssrc: Ssrc,
    ) -> Option<(SubscriptionSlot, TrackSlot)> {
        let slot = self.peers.get(peer)?.subscription(ssrc)?;
        Some((slot, self.subscriptions.get(slot)?.track?))
    }
}

impl Peer {
    /// Starts a compound to this peer (RFC 3550 §6.1): an empty report and this server's name, as not
    /// every peer takes reduced-size RTCP (RFC 5506).
    pub(in crate::room) fn start_compound(&self) -> Vec<u8> {
        let mut compound = Vec::new();
        write_receiver_report(&mut compound, self.rtcp_ssrc, &[], RTCP_CNAME);
        compound
    }
}

/// Asks the publisher of `encoding` for a keyframe, with a PLI: whoever negotiates FIR takes that too.
fn send_keyframe_request(publisher: &mut Peer, encoding: &Encoding, output: &mut Output) {
    if let Some(media) = encoding.stream.ssrc() {
        let mut compound = publisher.start_compound();
        write_pli(&mut compound, publisher.rtcp_ssrc, media);
        let sent = publisher.transport.seal_rtcp(&compound, &mut output.outbox);
        output.counters.keyframe_requests_sent += u64::from(sent);
    }
}

/// The CNAME of this server's own reports: it sends no media of its own, so nothing is synchronized
/// by it.
const RTCP_CNAME: &str = "shardcast";
/// A publisher's reports are copied to every subscriber, so they may not come faster than this. Browsers
/// send one a second.
const SENDER_REPORT_INTERVAL_MIN: Duration = Duration::from_millis(100);
