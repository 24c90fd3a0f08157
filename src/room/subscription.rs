//! A subscription: one peer's copy of a track.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::ids::{EncodingIndex, EncodingSet, PayloadType, SeqNo};
use crate::control::SubscriptionConfig;
use crate::media::red::RedLayout;
use crate::media::resend::ResendBudget;
use crate::media::rewrite::Rewriter;
use crate::media::sender_report::TrackClock;
use crate::room::incoming::Incoming;
use crate::room::payload::{Route, Routes};
use crate::room::slots::{PeerSlot, TrackSlot};
use crate::transport::outbox::Outbox;
use crate::transport::{RtpSealer, Transport};
use crate::wire::extension::Extension;
use crate::wire::rtcp::{SenderReport, write_sender_report};
use crate::wire::rtp::{OutgoingHeader, write_header};

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
    /// A subscription that waits for its track. `first` and `time_offset` are chosen at random.
    pub fn new(
        config: SubscriptionConfig,
        subscriber: PeerSlot,
        first: u16,
        time_offset: u32,
    ) -> Self {
        Self {
            config,
            subscriber,
            track: None,
            routes: Routes::none(),
            rewriter: Rewriter::new(first, time_offset),
            resends: ResendBudget::default(),
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
        (to, sealer): (SocketAddr, &RtpSealer),
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
        let extensions =
            mid.map(|id| (id, config.mid.as_bytes()))
                .into_iter()
                .chain(forwarded.filter_map(|(extension, value)| {
                    config.extensions.id(extension).map(|id| (id, value))
                }));
        outbox.push_with(to, |arena| {
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
