//! The hot path: a packet of a publisher becomes a packet for each subscription of its track.
//!
//! In two steps, so that what came together goes out together: each packet is opened, numbered and put
//! into a batch; then the batch is fanned out.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::base::counters::Counters;
use crate::base::ids::MediaKind;
use crate::media::cache::CachedPacket;
use crate::media::nack::Arrival;
use crate::media::sender_report::TrackClock;
use crate::media::stream::{Normalised, Refused, Stream};
use crate::room::batch::{Batch, Forwarded, Run};
use crate::room::incoming::Incoming;
use crate::room::measure::MEASURE_INTERVAL;
use crate::room::output::Output;
use crate::room::padding::equalise;
use crate::room::payload::PayloadKind;
use crate::room::peer::{Peer, REPORT_INTERVAL};
use crate::room::relay::relay_packet;
use crate::room::select::Selected;
use crate::room::sending::{Waiting, Way};
use crate::room::slots::{EncodingSlot, PeerSlot};
use crate::room::source::Source;
use crate::room::speakers::hear;
use crate::room::state::Room;
use crate::room::subscription::{Entry, Misfit, Subscription};
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
        if peer.uplink.on_arrival(now, &header, &packet) {
            output.rescheduled.push(peer.key);
        }
        let encoding = match self.locate(from, &header, &packet, output) {
            Some(Source::Media(encoding)) => encoding,
            Some(Source::Rtx(encoding)) => {
                return self.take_repair(now, encoding, &header, packet, batch, output);
            }
            None => return,
        };
        let is_first = self.encoding(encoding).is_some_and(|e| e.stats.is_none());
        let packet = packet.freeze();
        let Some(place) = self.take_opened(now, encoding, &header, packet, batch, output) else {
            return;
        };
        let Some(publisher) = self.peers.get_mut(from) else {
            return;
        };
        if publisher.report_at.is_none() {
            publisher.report_at = Some(now + REPORT_INTERVAL);
            publisher.measure_at = Some(now + MEASURE_INTERVAL);
            output.rescheduled.push(publisher.key);
        }
        // A new run shows no gap, and yet what came before is of no use to its decoders; and of an
        // encoding whose first packets came too early, the keyframe is lost.
        if place.restarted && (!is_first || publisher.had_unknown) {
            self.request_keyframe(now, encoding, output);
        }
    }

    /// Takes an opened packet of an encoding, and gives it its number there. It waits in `batch` to be
    /// fanned out. `None` if it has no place in the encoding.
    pub fn take_opened(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        header: &RtpHeader,
        packet: Bytes,
        batch: &mut Batch,
        output: &mut Output,
    ) -> Option<Normalised> {
        let track = self.tracks.get_mut(slot.track)?;
        let rate = track.clock_rate();
        let kind = track.kinds.get(header.payload_type);
        let is_repairable = track.kinds.is_repairable(header.payload_type);
        let has_sinks = !track.sinks.is_empty();
        let publisher = track.config.key.peer;
        let encoding = track.encoding_mut(slot.index)?;
        let place = admit(now, &mut encoding.stream, kind, header, &packet, output)?;
        // What nobody receives is not worth asking for.
        let asks = is_repairable && (has_sinks || !encoding.targets.is_empty());
        let tip = encoding.tip;
        match encoding.on_packet(now, header, &place, rate, asks) {
            Arrival::AfterGap => output.rescheduled.push(publisher),
            Arrival::Unexpected if encoding.recovered.contains(place.seq) => {
                output.counters.red_superseded += 1;
                return None;
            }
            _ => {}
        }
        if kind == PayloadKind::Red
            && !place.restarted
            && let Some(tip) = tip.filter(|tip| tip.seq.0 + 1 < place.seq.0)
        {
            self.recover(now, slot, (tip, header, &place), &packet, batch, output);
        }
        self.enqueue(now, slot, (header, &place), packet, batch, output)?;
        Some(place)
    }

    /// A packet has its place, sent for the first time or again: it goes to the shards that want its track, and waits in
    /// `batch` to be fanned out.
    #[inline]
    pub(in crate::room) fn enqueue(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        (header, place): (&RtpHeader, &Normalised),
        packet: Bytes,
        batch: &mut Batch,
        output: &mut Output,
    ) -> Option<()> {
        let track = self.tracks.get_mut(slot.track)?;
        let kind = track.kinds.get(header.payload_type);
        let is_sound = track.config.kind == MediaKind::Audio;
        let encoding = track.encoding_mut(slot.index)?;
        let bytes = packet.len();
        if is_sound {
            encoding.on_layer(now, (0, 0), bytes, header.marker, None);
        }
        encoding.on_numbered(now, place.seq, place.timestamp);
        let starts_flow = !std::mem::replace(&mut encoding.is_flowing, true);
        let misses = !encoding.nack.is_complete();
        if is_sound {
            self.floor.wake(now, &self.id, output);
            if !hear(track, header, &packet, output) {
                return Some(());
            }
        }
        let numbering = (place.seq, place.timestamp);
        if !track.sinks.is_empty() {
            relay_packet(now, track, slot.index, header, numbering, &packet, output);
        }
        let kind = (track.config.kind, kind);
        let ids = &track.config.extensions;
        let mut incoming = Incoming::read(slot, packet, header, numbering, kind, ids)?;
        let codec = track.codec(header.payload_type);
        self.read_layers(&mut incoming, codec, (now, place.restarted), output);
        let track = self.tracks.get_mut(slot.track)?;
        if let Some(info) = &incoming.layers {
            let layer = (info.spatial, info.temporal);
            let encoding = track.encoding_mut(slot.index)?;
            encoding.on_layer(now, layer, bytes, info.ends_frame, info.size);
        }
        let has_others = track.is_simulcast;
        if !has_others && !misses {
            batch.packets.push(incoming);
            return Some(());
        }
        if incoming.starts_keyframe
            && let Some(encoding) = track.encoding_mut(slot.index)
        {
            encoding.nack.on_keyframe(place.source_seq);
        }
        if has_others {
            let origin = track.origin;
            if track.watch_flow(now) {
                self.reschedule_origin(origin, output);
            }
            if starts_flow {
                self.on_flow_started(now, slot, incoming.starts_keyframe, output);
            }
        }
        batch.packets.push(incoming);
        Some(())
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
        let Batch {
            packets,
            runs,
            changed,
            ..
        } = batch;
        while let Some(subscriber) = self.next_subscriber(runs) {
            if output.outbox.bytes_len() >= bytes_max {
                return false;
            }
            self.read_ahead(runs);
            let mut peer = self.peers.get_mut(subscriber);
            if let Some(peer) = &mut peer {
                peer.congestion.begin(now);
            }
            for run in &mut *runs {
                let Some(track) = self.tracks.get(run.encoding.track) else {
                    continue;
                };
                let Some(encoding) = track.encoding(run.encoding.index) else {
                    continue;
                };
                let is_next = |target: &&Target| target.subscriber == subscriber;
                while let Some(target) = encoding.targets.get(run.next_target).filter(is_next) {
                    run.next_target += 1;
                    let Some(subscription) = self.subscriptions.get_mut(target.subscription) else {
                        continue;
                    };
                    let Some(peer) = peer.as_deref_mut() else {
                        continue;
                    };
                    for packet in &packets[run.packets.clone()] {
                        let to = (target, &mut *peer);
                        let forwarded = forward(now, subscription, track, to, packet, output);
                        if forwarded != Forwarded::Usual {
                            changed.push((target.subscription, forwarded));
                        }
                    }
                    if subscription.is_report_due
                        && subscription.rewriter.encoding() == Some(run.encoding.index)
                        && let Some(clock) = &encoding.clock
                    {
                        report(now, subscription, clock, peer, output);
                    }
                }
            }
            if let Some(peer) = peer
                && peer.congestion.take_wake()
            {
                output.rescheduled.push(peer.key);
            }
        }
        if !changed.is_empty() {
            self.settle_changed(now, changed, output);
        }
        batch.clear();
        true
    }

    /// Reads a little of what the next targets of each run need, when those of before are served. Between two batches most of
    /// it falls out of the cache: read for many subscribers at once, it is fetched at the same time, where serving one after
    /// another would wait for each line.
    #[inline]
    fn read_ahead(&self, runs: &mut [Run]) {
        let is_due = |run: &&mut Run| run.next_target >= run.read_to;
        for run in runs.iter_mut().filter(is_due) {
            run.read_to = run.next_target + AHEAD;
            let Some(encoding) = self.encoding(run.encoding) else {
                continue;
            };
            let mut all = 0;
            for target in encoding.targets.from(run.next_target, AHEAD) {
                all ^= target.sealer.touch();
                if let Some(subscription) = self.subscriptions.get(target.subscription) {
                    all ^= subscription.touch();
                }
                if let Some(peer) = self.peers.get(target.subscriber) {
                    all ^= peer.congestion.touch();
                }
            }
            std::hint::black_box(all);
        }
    }

    /// What is done once for each packet: its padding is decided, and it is kept for retransmission.
    fn prepare(&mut self, now: Instant, batch: &mut Batch, is_segmenting: bool) {
        let Batch { packets, runs, .. } = batch;
        for run in runs {
            let Some(track) = self.tracks.get_mut(run.encoding.track) else {
                continue;
            };
            let holds = |until: Option<Instant>| until.is_some_and(|until| now < until);
            let makes_red = holds(track.doubled_until);
            let loses_much = holds(track.doubled_twice_until);
            let Some(encoding) = track.encoding_mut(run.encoding.index) else {
                continue;
            };
            let packets = &mut packets[run.packets.clone()];
            if is_segmenting && !encoding.targets.is_empty() {
                equalise(packets);
            }
            for packet in packets {
                if makes_red {
                    let (cache, repeating) = (&encoding.cache, packet.repeating());
                    packet.redundancy = encoding.repeats.of(cache, &repeating, loses_much);
                }
                encoding.cache.insert(CachedPacket {
                    seq: packet.seq,
                    timestamp: packet.timestamp,
                    packet: packet.packet().clone(),
                    padding: packet.padding,
                    repeated: packet.redundancy.set().bits(),
                    arrived: now,
                });
            }
        }
    }

    /// The first subscriber that was not served yet.
    #[inline]
    fn next_subscriber(&self, runs: &[Run]) -> Option<PeerSlot> {
        let next = |run: &Run| {
            let encoding = self.encoding(run.encoding)?;
            Some(encoding.targets.get(run.next_target)?.subscriber)
        };
        runs.iter().filter_map(next).min()
    }

    /// What a packet belongs to: by its SSRC where that is declared or learned; else what its header
    /// extensions tell.
    fn locate(
        &mut self,
        from: PeerSlot,
        header: &RtpHeader,
        packet: &[u8],
        output: &mut Output,
    ) -> Option<Source> {
        let peer = self.peers.get(from)?;
        match peer.sources.find(header.ssrc) {
            Some(source) => Some(source),
            None => self.learn(from, header, packet, output),
        }
    }
}

/// Where a packet stands in its encoding, if it has a place there.
fn admit(
    now: Instant,
    stream: &mut Stream,
    kind: PayloadKind,
    header: &RtpHeader,
    packet: &[u8],
    output: &mut Output,
) -> Option<Normalised> {
    let counters = &mut output.counters;
    let dropped = match kind {
        PayloadKind::Rtx => &mut counters.rtp_rtx,
        PayloadKind::Unknown => &mut counters.rtp_unknown_payload_type,
        PayloadKind::Media | PayloadKind::Red if header.payload(packet).is_none() => {
            &mut counters.rtp_malformed
        }
        PayloadKind::Media | PayloadKind::Red => {
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
    now: Instant,
    subscription: &mut Subscription,
    track: &Track,
    (target, peer): (&Target, &mut Peer),
    packet: &Incoming,
    output: &mut Output,
) -> Forwarded {
    let counters = &mut output.counters;
    let mut shape = match subscription.shape(packet) {
        Ok(shape) => shape,
        Err(Misfit::NoCodec) => {
            counters.forward_no_codec += 1;
            return Forwarded::Usual;
        }
        Err(Misfit::MalformedRed) => {
            counters.forward_malformed_red += 1;
            return Forwarded::Usual;
        }
    };
    let mut forwarded = Forwarded::Usual;
    if subscription.rewriter.encoding() != Some(packet.encoding.index) {
        match subscription.enter(now, track, packet) {
            Entry::Switched => forwarded = Forwarded::Switched,
            Entry::Resumed => {}
            Entry::NotReceived => {
                counters.forward_other_encoding += 1;
                return Forwarded::Usual;
            }
            Entry::NoKeyframe => {
                counters.forward_awaits_keyframe += 1;
                return Forwarded::Usual;
            }
        }
        // What waits of the former encoding is replaced by this keyframe, and would only delay it.
        peer.congestion.discard(target.subscription);
    }
    match subscription.select(track, packet) {
        Selected::Whole => {}
        Selected::Edited(edit) => shape.edit = Some(edit),
        Selected::LeftOut => {
            subscription.rewriter.skip(packet.seq);
            counters.forward_layer_left_out += 1;
            return forwarded;
        }
    }
    if peer.congestion.delays(packet) {
        return match delay(now, subscription, (target, peer), packet, output) {
            true => forwarded,
            false => Forwarded::Interrupted,
        };
    }
    let path = (target.to, &target.sealer);
    let mut way = Way::new(now, path, peer.congestion.account(), target.subscription);
    if subscription.send_first(packet, &shape, &mut way, &mut output.outbox) {
        peer.congestion.charge(packet);
        count_forwarded(packet, counters);
    } else {
        counters.forward_late += 1;
    }
    forwarded
}

/// A sender report goes out behind the first packets.
#[cold]
fn report(
    now: Instant,
    subscription: &mut Subscription,
    clock: &TrackClock,
    peer: &mut Peer,
    output: &mut Output,
) {
    let sent = subscription.send_report(now, clock, &mut peer.transport, &mut output.outbox);
    output.counters.sender_reports_sent += u64::from(sent);
}

/// A packet waits for the pacer. False if it cannot, and nothing else of its subscription does any more.
#[cold]
fn delay(
    now: Instant,
    subscription: &mut Subscription,
    (target, peer): (&Target, &mut Peer),
    packet: &Incoming,
    output: &mut Output,
) -> bool {
    let waiting = Waiting {
        subscription: target.subscription,
        stay: subscription.rewriter.stay(),
        encoding: packet.encoding.index,
        seq: packet.seq,
    };
    output.counters.paced += 1;
    let is_taken = peer.congestion.delay(now, packet, waiting);
    if !is_taken {
        output.counters.paced_dropped += 1;
        peer.congestion.discard(target.subscription);
        subscription.interrupt();
    }
    is_taken
}

/// A packet went out for the first time.
#[inline]
pub(in crate::room) fn count_forwarded(packet: &Incoming, counters: &mut Counters) {
    counters.rtp_forwarded += 1;
    counters.rtp_padded += u64::from(packet.padding > 0);
    counters.rtp_padding_bytes += u64::from(packet.padding);
}

/// How many subscribers' state is read together: as much as the nearest cache holds beside the packets.
const AHEAD: usize = 16;
