//! A subscription: one peer's copy of a track.

use std::time::Instant;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::base::ids::{EncodingIndex, EncodingSet, PayloadType, RtpTime, SeqNo, SeqNo16};
use crate::control::SubscriptionConfig;
use crate::media::red::RedLayout;
use crate::media::resend::ResendBudget;
use crate::media::rewrite::Rewriter;
use crate::media::rtx::RtxNumbers;
use crate::media::sender_report::TrackClock;
use crate::room::incoming::Incoming;
use crate::room::payload::{Route, Routes};
use crate::room::sending::{Stamping, Way};
use crate::room::slots::{EncodingSlot, PeerSlot, TrackSlot};
use crate::room::track::Track;
use crate::transport::Transport;
use crate::transport::outbox::Outbox;
use crate::wire::extension::Extension;
use crate::wire::rtcp::{SenderReport, write_sender_report};
use crate::wire::rtp::{OutgoingHeader, RtpHeader, write_header};

/// One peer's copy of a track.
#[derive(Debug)]
pub struct Subscription {
    /// As the subscriber's description has it.
    pub config: SubscriptionConfig,
    /// Who receives it.
    pub subscriber: PeerSlot,
    /// What it copies, once that is known.
    pub track: Option<TrackSlot>,
    /// Which payload type each of the track's goes out under.
    pub routes: Routes,
    /// Its numbering.
    pub rewriter: Rewriter,
    /// Retransmissions.
    pub resends: ResendBudget,
    /// The numbers of its retransmission stream.
    rtx: RtxNumbers,
    /// What its packets tell of their sending.
    stamping: Stamping,
    /// A sender report goes out as soon as there is one.
    pub is_report_due: bool,
    packets: u32,
    octets: u32,
    bytes: u64,
}

/// What a packet becomes at one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'p> {
    payload_type: PayloadType,
    payload: &'p [u8],
    /// The payload type that the blocks of redundant audio get.
    blocks: Option<(RedLayout, PayloadType)>,
}

/// Why a packet cannot go to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It takes no codec like this.
    NoCodec,
    /// Redundant audio that is malformed.
    MalformedRed,
}

impl Subscription {
    /// A subscription that waits for its track. Its numbers start at random.
    pub fn new(config: SubscriptionConfig, subscriber: PeerSlot, rng: &mut StdRng) -> Self {
        Self {
            stamping: Stamping::new(&config),
            config,
            subscriber,
            track: None,
            routes: Routes::none(),
            rewriter: Rewriter::new(rng.random(), rng.random()),
            resends: ResendBudget::default(),
            rtx: RtxNumbers::new(rng.random()),
            is_report_due: false,
            packets: 0,
            octets: 0,
            bytes: 0,
        }
    }

    /// What a packet becomes here. Depends on nothing but the packet and the two descriptions, so
    /// that a packet sent again is the same byte for byte.
    #[inline]
    pub fn shape<'p>(&self, packet: &'p Incoming) -> Result<Shape<'p>, Misfit> {
        let payload = packet.payload();
        let whole = |payload_type| Shape {
            payload_type,
            payload,
            blocks: None,
        };
        match self.routes.get(packet.payload_type) {
            Route::As(payload_type) => Ok(whole(payload_type)),
            Route::None => Err(Misfit::NoCodec),
            Route::Red(red) => {
                let layout = packet.red.ok_or(Misfit::MalformedRed)?;
                let Route::As(primary) = self.routes.get(layout.primary) else {
                    return Err(Misfit::NoCodec);
                };
                match red {
                    Some(payload_type) if layout.is_uniform => Ok(Shape {
                        blocks: Some((layout, primary)),
                        ..whole(payload_type)
                    }),
                    _ => Ok(Shape {
                        payload: &payload[layout.primary_range(payload)],
                        ..whole(primary)
                    }),
                }
            }
        }
    }

    /// Writes and seals the packet under the number `seq`, which the rewriter gave for it.
    #[inline]
    pub fn send(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        seq: SeqNo,
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) {
        let config = &self.config;
        let header = OutgoingHeader {
            payload_type: shape.payload_type,
            marker: packet.marker,
            seq: seq.on_wire(),
            timestamp: self.rewriter.timestamp(packet.timestamp),
            ssrc: config.ssrc,
            padding: packet.padding > 0,
        };
        let mid = config.extensions.id(Extension::Mid);
        let forwarded = packet.extensions();
        let stamp = way.stamp(&self.stamping);
        let extensions = mid
            .map(|id| (id, config.mid.as_bytes()))
            .into_iter()
            .chain(stamp.extensions())
            .chain(forwarded.filter_map(|(extension, value)| {
                config.extensions.id(extension).map(|id| (id, value))
            }));
        let (sealer, before) = (way.sealer, outbox.bytes_len());
        outbox.push_with(way.to, |arena| {
            let start = arena.len();
            let padding = usize::from(packet.padding);
            arena.reserve(HEADER_ROOM + shape.payload.len() + padding + sealer.overhead());
            let header_len = write_header(arena, &header, extensions);
            arena.extend_from_slice(shape.payload);
            if let Some((layout, payload_type)) = &shape.blocks {
                layout.set_payload_type(&mut arena[start + header_len..], *payload_type);
            }
            if padding > 0 {
                // The last byte says how many there are, itself included (RFC 3550 §5.1).
                arena.resize(arena.len() + padding - 1, 0);
                arena.push(packet.padding);
            }
            sealer.seal(arena, start, header_len, seq.roc());
            true
        });
        way.on_sent(&stamp, outbox.bytes_len() - before);
    }

    /// Whether padding can go out on its retransmission stream: the subscriber knows that stream, and says when it
    /// arrives.
    pub fn takes_padding(&self) -> bool {
        self.stamping.is_numbered()
            && self.config.active
            && self.has_sent()
            && self.config.rtx_ssrc.is_some()
    }

    /// Sends one packet of nothing but padding on its retransmission stream (RFC 3550 §5.1). Returns how long the
    /// datagram is; 0 if it has no such stream.
    pub fn send_padding(&mut self, way: &mut Way<'_>, outbox: &mut Outbox) -> usize {
        let config = &self.config;
        let rtx = config.codecs.iter().find_map(|mapping| mapping.rtx);
        let (Some(ssrc), Some(payload_type)) = (config.rtx_ssrc, rtx) else {
            return 0;
        };
        let seq = self.rtx.take();
        let header = OutgoingHeader {
            payload_type,
            marker: false,
            seq: seq.on_wire(),
            timestamp: RtpTime(0),
            ssrc,
            padding: true,
        };
        let mid = config.extensions.id(Extension::Mid);
        let mid = mid.map(|id| (id, config.mid.as_bytes()));
        let stamp = way.stamp(&self.stamping);
        let (sealer, before) = (way.sealer, outbox.bytes_len());
        outbox.push_with(way.to, |arena| {
            let start = arena.len();
            let extensions = mid.into_iter().chain(stamp.extensions());
            let header_len = write_header(arena, &header, extensions);
            arena.resize(arena.len() + usize::from(PADDING_LEN) - 1, 0);
            arena.push(PADDING_LEN);
            sealer.seal(arena, start, header_len, seq.roc());
            true
        });
        let bytes = outbox.bytes_len() - before;
        way.on_sent(&stamp, bytes);
        bytes
    }

    /// A packet that has got the number `seq` here, as far as it is still kept.
    pub fn recall(
        &self,
        slot: TrackSlot,
        track: &Track,
        seq: SeqNo16,
    ) -> Option<(SeqNo, Incoming)> {
        let index = self.awaited();
        let (out, seq) = self.rewriter.resend(seq)?;
        let cached = track.encoding(index)?.cache.get(seq)?;
        let header = RtpHeader::parse(&cached.packet)?;
        let kind = (track.config.kind, track.kinds.get(header.payload_type));
        let slot = EncodingSlot { track: slot, index };
        let mut incoming = Incoming::read(
            slot,
            cached.packet.clone(),
            &header,
            (cached.seq, cached.timestamp),
            kind,
            &track.config.extensions,
        )?;
        incoming.padding = cached.padding;
        Some((out, incoming))
    }

    /// The subscriber's description has changed.
    pub fn set_config(&mut self, config: SubscriptionConfig) {
        self.stamping = Stamping::new(&config);
        self.config = config;
    }

    /// Which encodings of its track it is sent, or waits for.
    pub fn received(&self) -> EncodingSet {
        EncodingSet::only(EncodingIndex::LOWEST)
    }

    /// The encoding it is being sent, if any is.
    pub fn running(&self) -> Option<EncodingIndex> {
        self.rewriter.is_running().then_some(EncodingIndex::LOWEST)
    }

    /// The encoding a keyframe of which it needs, when it needs one.
    pub fn awaited(&self) -> EncodingIndex {
        EncodingIndex::LOWEST
    }

    /// A packet was sent for the first time.
    #[inline]
    pub fn on_sent(&mut self, shape: &Shape<'_>) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(shape.payload.len() as u32);
        self.bytes += shape.payload.len() as u64;
    }

    /// Whether a packet sent before may be sent again.
    pub fn take_resend(&mut self, seq: SeqNo, shape: &Shape<'_>) -> bool {
        self.resends.take(seq, shape.payload.len(), self.bytes)
    }

    /// The descriptions have changed what packets look like here.
    pub fn reshape(&mut self, routes: Routes) {
        self.routes = routes;
        self.rewriter.reshape();
    }

    /// Nothing goes out until the next packet that can: it will follow without a gap.
    pub fn pause(&mut self) {
        if self.rewriter.is_running() {
            self.rewriter.stop();
        }
    }

    /// Whether anything was ever sent.
    pub fn has_sent(&self) -> bool {
        self.bytes > 0
    }

    /// Sends a sender report as of `now`. False if the transport cannot.
    pub fn send_report(
        &mut self,
        now: Instant,
        clock: &TrackClock,
        transport: &mut Transport,
        outbox: &mut Outbox,
    ) -> bool {
        let (ntp, rtp_time) = clock.at(now);
        let report = SenderReport {
            ssrc: self.config.ssrc,
            ntp,
            rtp_time: self.rewriter.timestamp(rtp_time),
            packets: self.packets,
            octets: self.octets,
        };
        let mut compound = Vec::with_capacity(COMPOUND_ROOM);
        write_sender_report(&mut compound, &report, &self.config.cname);
        let sent = transport.seal_rtcp(&compound, outbox);
        self.is_report_due &= !sent;
        sent
    }
}

/// A header with the usual extensions; only a hint for the arena.
const HEADER_ROOM: usize = 64;
/// A sender report with a CNAME of usual length; only a hint.
const COMPOUND_ROOM: usize = 96;
/// As much as its last byte can tell (RFC 3550 §5.1).
const PADDING_LEN: u8 = 255;
