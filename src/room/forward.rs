//! The hot path: a packet of a publisher becomes a packet for each subscription of its track.
//!
//! In two steps, so that what came together goes out together: each packet is opened, numbered and put
//! into a batch; then the batch is fanned out.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::base::ids::Mid;
use crate::media::cache::CachedPacket;
use crate::media::stream::{Normalised, Refused};
use crate::room::batch::{Batch, Run};
use crate::room::incoming::Incoming;
use crate::room::output::Output;
use crate::room::padding::equalise;
use crate::room::payload::PayloadKind;
use crate::room::peer::REPORT_INTERVAL;
use crate::room::relay::relay_packet;
use crate::room::slots::{PeerSlot, TrackSlot};
use crate::room::source::Source;
use crate::room::state::Room;
use crate::room::subscription::{Misfit, Subscription};
use crate::room::targets::Target;
use crate::room::track::Track;
use crate::wire::rtp::RtpHeader;

impl Room {
    /// Takes a protected RTP packet of a peer. It waits in `batch` to be fanned out.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        from: PeerSlot,
        mut packet: BytesMut,
        batch: &mut Batch,
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
        let Some(track) = self.locate(from, &header, &packet, output) else {
            return;
        };
        let is_first = self.tracks.get(track).is_some_and(|t| t.stats.is_none());
        let packet = packet.freeze();
        let Some(place) = self.take_opened(now, track, &header, packet, batch, output) else {
            return;
        };
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
            self.request_keyframe(now, track, output);
        }
    }

    /// Takes an opened packet of a track, and gives it its number there. It waits in `batch` to be
    /// fanned out. `None` if it has no place in the track.
    pub fn take_opened(
        &mut self,
        now: Instant,
        slot: TrackSlot,
        header: &RtpHeader,
        packet: Bytes,
        batch: &mut Batch,
        output: &mut Output,
    ) -> Option<Normalised> {
        let track = self.tracks.get_mut(slot)?;
        let place = admit(now, track, header, &packet, output)?;
        track.on_packet(now, header, &place);
        let numbering = (place.seq, place.timestamp);
        if !track.sinks.is_empty() {
            relay_packet(track, header, numbering, &packet, output);
        }
        let kind = (track.config.kind, track.kinds.get(header.payload_type));
        let ids = &track.config.extensions;
        batch
            .packets
            .extend(Incoming::read(slot, packet, header, numbering, kind, ids));
        Some(place)
    }

    /// Sends the packets of a batch on to all who receive their tracks: subscriber by subscriber, all of
    /// one subscriber's packets one after another. Stops when `bytes_max` wait to be sent: then it is
    /// false, and is to be called again.
    pub fn fan_out(
        &mut self,
        now: Instant,
        batch: &mut Batch,
        bytes_max: usize,
        output: &mut Output,
    ) -> bool {
        if batch.lay_out() {
            self.prepare(now, batch, output.outbox.is_segmenting());
        }
        let Batch { packets, runs, .. } = batch;
        while let Some(subscriber) = self.next_subscriber(runs) {
            if output.outbox.bytes_len() >= bytes_max {
                return false;
            }
            for run in &mut *runs {
                let Some(track) = self.tracks.get(run.track) else {
                    continue;
                };
                let is_next = |target: &&Target| target.subscriber == subscriber;
                while let Some(target) = track.targets.get(run.next_target).filter(is_next) {
                    run.next_target += 1;
                    let Some(subscription) = self.subscriptions.get_mut(target.subscription) else {
                        continue;
                    };
                    for packet in &packets[run.packets.clone()] {
                        forward(subscription, target, packet, output);
                    }
                    if subscription.is_report_due
                        && let Some(clock) = &track.clock
                        && let Some(peer) = self.peers.get_mut(subscriber)
                    {
                        let transport = &mut peer.transport;
                        let outbox = &mut output.outbox;
                        let sent = subscription.send_report(now, clock, transport, outbox);
                        output.counters.sender_reports_sent += u64::from(sent);
                    }
                }
            }
        }
        batch.clear();
        true
    }

    /// What is done once for each packet: its padding is decided, and it is kept for retransmission.
    fn prepare(&mut self, now: Instant, batch: &mut Batch, is_segmenting: bool) {
        let Batch { packets, runs, .. } = batch;
        for run in runs {
            let Some(track) = self.tracks.get_mut(run.track) else {
                continue;
            };
            let packets = &mut packets[run.packets.clone()];
            if is_segmenting && !track.targets.is_empty() {
                equalise(packets);
            }
            for packet in packets {
                track.cache.insert(CachedPacket {
                    seq: packet.seq,
                    timestamp: packet.timestamp,
                    packet: packet.packet().clone(),
                    padding: packet.padding,
                    arrived: now,
                });
            }
        }
    }

    /// The first subscriber that was not served yet.
    #[inline]
    fn next_subscriber(&self, runs: &[Run]) -> Option<PeerSlot> {
        let next = |run: &Run| {
            let track = self.tracks.get(run.track)?;
            Some(track.targets.get(run.next_target)?.subscriber)
        };
        runs.iter().filter_map(next).min()
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
                    let encodings = &track.config.encodings;
                    encodings.iter().all(|encoding| encoding.ssrc.is_none())
                        && kind(track) != PayloadKind::Unknown
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

/// Where a packet stands in its track, if it has a place there.
fn admit(
    now: Instant,
    track: &mut Track,
    header: &RtpHeader,
    packet: &[u8],
    output: &mut Output,
) -> Option<Normalised> {
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
                Ok(place) => return Some(place),
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
    subscription: &mut Subscription,
    target: &Target,
    packet: &Incoming,
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
    let starts = !subscription.rewriter.is_running();
    let Some(seq) = subscription.rewriter.forward(packet.seq) else {
        counters.forward_late += 1;
        return;
    };
    let path = (target.to, &target.sealer);
    subscription.send(packet, &shape, seq, path, &mut output.outbox);
    subscription.on_sent(&shape);
    subscription.is_report_due |= starts;
    counters.rtp_forwarded += 1;
    counters.rtp_padded += u64::from(packet.padding > 0);
    counters.rtp_padding_bytes += u64::from(packet.padding);
}
