//! The hot path: a packet of a publisher becomes a packet for each subscription of its track.

use std::time::Instant;

use bytes::BytesMut;

use crate::base::ids::Mid;
use crate::media::cache::CachedPacket;
use crate::media::sender_report::TrackClock;
use crate::media::stream::{Normalised, Refused};
use crate::room::output::Output;
use crate::room::payload::PayloadKind;
use crate::room::peer::{Peer, REPORT_INTERVAL};
use crate::room::slots::{PeerSlot, TrackSlot};
use crate::room::source::Source;
use crate::room::state::Room;
use crate::room::subscription::{Incoming, Misfit, Subscription};
use crate::room::track::Track;
use crate::wire::rtp::RtpHeader;

impl Room {
    /// Takes a protected RTP packet of a peer, and sends it on to all who receive its track.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        from: PeerSlot,
        mut packet: BytesMut,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let Ok(header) = peer.transport.open_rtp(&mut packet) else {
            output.counters.rtp_not_opened += 1;
            return;
        };
        output.counters.rtp_received += 1;
        if let Some(track) = self.locate(from, &header, &packet, output) {
            self.fan_out(now, from, track, &header, packet, output);
        }
    }

    fn fan_out(
        &mut self,
        now: Instant,
        from: PeerSlot,
        slot: TrackSlot,
        header: &RtpHeader,
        packet: BytesMut,
        output: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let Some((kind, place)) = admit(now, track, header, &packet, output) else {
            return;
        };
        let is_first = track.stats.is_none();
        track.on_packet(now, header, &place);
        let numbering = (place.seq, place.timestamp);
        let ids = &track.config.extensions;
        if let Some(incoming) = Incoming::read(&packet, header, numbering, kind, ids) {
            for &slot in &track.subscriptions {
                if let Some(subscription) = self.subscriptions.get_mut(slot)
                    && subscription.config.active
                    && let Some(peer) = self.peers.get_mut(subscription.subscriber)
                {
                    let clock = track.clock.as_ref();
                    forward(now, subscription, peer, &incoming, clock, output);
                }
            }
        }
        track.cache.insert(CachedPacket {
            seq: place.seq,
            timestamp: place.timestamp,
            packet: packet.freeze(),
            arrived: now,
        });
        let Some(publisher) = self.peers.get_mut(from) else {
            return;
        };
        if publisher.report_at.is_none() {
            publisher.report_at = Some(now + REPORT_INTERVAL);
            output.rescheduled.push(publisher.key);
        }
        // A new run shows no gap, and yet what came before is of no use to its decoders; and of a
        // track whose first packets came too early, the keyframe is lost.
        if place.restarted && (!is_first || publisher.had_unknown) {
            self.request_keyframe(now, slot, output);
        }
    }

    /// The track a packet belongs to: by its SSRC where that is declared or learned; else by its
    /// `mid`; else by its payload type, if that fits one track only (RFC 9143 §9.2).
    fn locate(
        &mut self,
        from: PeerSlot,
        header: &RtpHeader,
        packet: &[u8],
        output: &mut Output,
    ) -> Option<TrackSlot> {
        let peer = self.peers.get(from)?;
        let source = match peer.sources.find(header.ssrc) {
            Some(source) => source,
            None => self.learn(from, header, packet, output)?,
        };
        match source {
            Source::Media(track) => Some(track),
            Source::Rtx(_) => {
                output.counters.rtp_rtx += 1;
                None
            }
        }
    }

    #[cold]
    fn learn(
        &mut self,
        from: PeerSlot,
        header: &RtpHeader,
        packet: &[u8],
        output: &mut Output,
    ) -> Option<Source> {
        let Room { peers, tracks, .. } = self;
        let peer = peers.get_mut(from)?;
        let mid = peer.mid_extension.and_then(|mid| {
            let mut extensions = header.extensions(packet);
            let (_, value) = extensions.find(|(id, _)| *id == mid)?;
            Mid::from_bytes(value)
        });
        let mut own = peer
            .tracks
            .iter()
            .filter_map(|slot| Some((*slot, tracks.get(*slot)?)));
        let kind = |track: &Track| track.kinds.get(header.payload_type);
        let found = match mid {
            Some(mid) => own.find(|(_, track)| track.config.mid == mid),
            None => {
                let mut fitting = own.filter(|(_, track)| {
                    track.config.ssrcs.is_empty() && kind(track) != PayloadKind::Unknown
                });
                let first = fitting.next();
                first.filter(|_| fitting.next().is_none())
            }
        };
        let Some((slot, track)) = found else {
            peer.had_unknown = true;
            output.counters.rtp_unknown_track += 1;
            return None;
        };
        let source = match kind(track) {
            PayloadKind::Media | PayloadKind::Red => Source::Media(slot),
            PayloadKind::Rtx => Source::Rtx(slot),
            PayloadKind::Unknown => {
                output.counters.rtp_unknown_payload_type += 1;
                return None;
            }
        };
        if !peer.sources.learn(header.ssrc, source) {
            output.counters.rtp_sources_full += 1;
            return None;
        }
        Some(source)
    }
}

/// What a packet is and where it stands in its track, if it has a place there.
fn admit(
    now: Instant,
    track: &mut Track,
    header: &RtpHeader,
    packet: &[u8],
    output: &mut Output,
) -> Option<(PayloadKind, Normalised)> {
    let counters = &mut output.counters;
    let kind = track.kinds.get(header.payload_type);
    let dropped = match kind {
        PayloadKind::Rtx => &mut counters.rtp_rtx,
        PayloadKind::Unknown => &mut counters.rtp_unknown_payload_type,
        PayloadKind::Media | PayloadKind::Red if header.payload(packet).is_none() => {
            &mut counters.rtp_malformed
        }
        PayloadKind::Media | PayloadKind::Red => {
            let stream = &mut track.stream;
            match stream.accept(now, header.ssrc, header.seq, header.timestamp) {
                Ok(place) => return Some((kind, place)),
                Err(Refused::FormerSsrc) => &mut counters.rtp_former_ssrc,
                Err(Refused::TooOld) => &mut counters.rtp_too_old,
            }
        }
    };
    *dropped += 1;
    None
}

/// One packet to one subscriber.
#[inline]
fn forward(
    now: Instant,
    subscription: &mut Subscription,
    subscriber: &mut Peer,
    packet: &Incoming<'_>,
    clock: Option<&TrackClock>,
    output: &mut Output,
) {
    let counters = &mut output.counters;
    let shape = match subscription.shape(packet) {
        Ok(shape) => shape,
        Err(Misfit::NoCodec) => {
            counters.forward_no_codec += 1;
            return;
        }
        Err(Misfit::MalformedRed) => {
            counters.forward_malformed_red += 1;
            return;
        }
    };
    let Some(path) = subscriber.transport.sealer() else {
        subscription.pause();
        counters.forward_not_connected += 1;
        return;
    };
    let starts = !subscription.rewriter.is_running();
    let Some(seq) = subscription.rewriter.forward(packet.seq) else {
        counters.forward_late += 1;
        return;
    };
    subscription.send(packet, &shape, seq, path, &mut output.outbox);
    subscription.on_sent(&shape);
    counters.rtp_forwarded += 1;
    subscription.is_report_due |= starts;
    if subscription.is_report_due
        && let Some(clock) = clock
    {
        let transport = &mut subscriber.transport;
        let sent = subscription.send_report(now, clock, transport, &mut output.outbox);
        counters.sender_reports_sent += u64::from(sent);
    }
}
