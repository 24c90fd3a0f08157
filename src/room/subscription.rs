//! A subscription: one peer's copy of a track.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::ids::{EncodingSet, PayloadType, RtpTime, SeqNo, ShardId, TrackKey};
use crate::control::SubscriptionConfig;
use crate::media::layers::munger::{DESCRIPTOR_MAX, Edit};
use crate::media::layers::selector::Selector;
use crate::media::red::RedLayout;
use crate::media::resend::ResendBudget;
use crate::media::rewrite::Rewriter;
use crate::media::sender_report::TrackClock;
use crate::media::timeline::{End, Timeline};
use crate::room::allotment::Allotment;
use crate::room::incoming::Incoming;
use crate::room::payload::{Route, Routes};
use crate::room::reception::{Reception, Wish};
use crate::room::slots::{PeerSlot, TrackSlot};
use crate::room::track::{Track, clock_rate};
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
    /// What it is to get of that.
    pub wish: Wish,
    /// What it gets of that.
    pub reception: Reception,
    /// Which payload type each of the track's goes out under.
    pub routes: Routes,
    /// Its numbering.
    pub rewriter: Rewriter,
    /// Its timestamps.
    pub timeline: Timeline,
    /// Which layers of its encoding it gets: only where that is not all, or its numbers are not the publisher's.
    pub layers: Option<Box<Selector>>,
    /// Retransmissions.
    pub resends: ResendBudget,
    /// What it was given, if it is a video.
    pub allotment: Option<Box<Allotment>>,
    /// Others spoke later, so that it gets nothing: see `last_n`.
    pub is_outside_last_n: bool,
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
    /// Numbers that are changed in it.
    pub edit: Option<Edit>,
}

/// What a packet of an encoding does that does not go out yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The subscription gets this encoding from this packet on, instead of another or of nothing.
    Switched,
    /// The subscription goes on with its encoding.
    Resumed,
    /// It gets or awaits another encoding.
    NotReceived,
    /// It waits for a keyframe.
    NoKeyframe,
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
            timeline: Timeline::new(clock_rate(config.kind), time_offset),
            config,
            subscriber,
            track: None,
            wish: Wish::default(),
            reception: Reception::default(),
            routes: Routes::none(),
            rewriter: Rewriter::new(first),
            layers: None,
            resends: ResendBudget::default(),
            allotment: None,
            is_outside_last_n: false,
            is_report_due: false,
            packets: 0,
            octets: 0,
            bytes: 0,
        }
    }

    /// Whether anything is to be sent at all.
    pub fn is_open(&self) -> bool {
        self.config.active && !self.is_outside_last_n
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
            edit: None,
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

    /// Writes and seals the packet under the number `seq` and the timestamp, which the rewriter gave for it.
    #[inline]
    pub fn send(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        numbering: (SeqNo, RtpTime),
        path: (SocketAddr, &RtpSealer),
        outbox: &mut Outbox,
    ) {
        let Some(edit) = &shape.edit else {
            return self.write(packet, shape, None, numbering, path, outbox);
        };
        let mut buffer = [0; DESCRIPTOR_MAX];
        let source = packet.extension(Extension::DependencyDescriptor);
        let descriptor = source.and_then(|source| edit.descriptor(source, &mut buffer));
        self.write(packet, shape, descriptor, numbering, path, outbox);
    }

    /// As [`Subscription::send`], with `descriptor` for the dependency descriptor, if that is another one here.
    #[inline]
    fn write(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        descriptor: Option<&[u8]>,
        (seq, timestamp): (SeqNo, RtpTime),
        (to, sealer): (SocketAddr, &RtpSealer),
        outbox: &mut Outbox,
    ) {
        let edit = shape.edit.as_ref();
        let config = &self.config;
        let header = OutgoingHeader {
            payload_type: shape.payload_type,
            marker: packet.marker || edit.is_some_and(|edit| edit.ends_picture),
            seq: seq.on_wire(),
            timestamp,
            ssrc: config.ssrc,
            padding: packet.padding > 0,
        };
        let mid = config.extensions.id(Extension::Mid);
        let forwarded = packet.extensions();
        let extensions =
            mid.map(|id| (id, config.mid.as_bytes()))
                .into_iter()
                .chain(forwarded.filter_map(|(extension, value)| {
                    let value = match (extension, descriptor) {
                        (Extension::DependencyDescriptor, Some(own)) => own,
                        _ => value,
                    };
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
            if let Some(edit) = edit {
                edit.apply(&mut arena[start + header_len..]);
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

    /// The track it copies and the shard of that.
    pub fn source(&self) -> (TrackKey, ShardId) {
        (self.config.source, self.config.source_shard)
    }

    /// The encodings it needs. Before its track is known that is the lowest: there may be no other.
    pub fn received(&self) -> EncodingSet {
        match self.track {
            Some(_) => self.reception.encodings(),
            None => self.wish.encodings(1),
        }
    }

    /// The encodings it would like to get of its track, if its subscriber's network carried them: all, until that is
    /// known.
    pub fn wished(&self, track: Option<&Track>) -> EncodingSet {
        match self.allotment.as_deref() {
            Some(allotment) if allotment.share.is_some() => allotment.wished,
            _ if self.wish == Wish::Paused => EncodingSet::NONE,
            _ => EncodingSet::lowest(track.map_or(1, |track| track.encodings.len())),
        }
    }

    /// A packet came of an encoding that does not go out at present: changes over to that, if it is waited for and this
    /// is a keyframe, or goes on with it after a pause.
    #[cold]
    pub fn enter(&mut self, now: Instant, track: &Track, packet: &Incoming) -> Entry {
        let to = packet.encoding.index;
        let (entry, after) = match self.reception {
            Reception::Waiting { to: awaited } | Reception::Switching { to: awaited, .. }
                if awaited == to =>
            {
                (Entry::Switched, Reception::Steady { on: to })
            }
            Reception::Steady { on: present } | Reception::Switching { from: present, .. }
                if present == to =>
            {
                (Entry::Resumed, self.reception)
            }
            _ => return Entry::NotReceived,
        };
        // A track that never had several encodings is joined anywhere.
        if track.is_simulcast && !packet.starts_keyframe {
            return Entry::NoKeyframe;
        }
        self.reception = after;
        let before = self.timeline.encoding();
        let end = self.end(track);
        let clock = track.encoding(to).and_then(|encoding| encoding.clock);
        let timestamp = packet.timestamp;
        let time_offset = self
            .timeline
            .start(now, to, timestamp, clock.as_ref(), end.as_ref());
        self.rewriter.begin(to, packet.seq, time_offset);
        self.begin_layers(track, before);
        self.is_report_due = true;
        entry
    }

    /// It has no track any more.
    pub fn leave(&mut self, track: &Track) {
        self.pause();
        let end = self.end(track);
        self.keep_numbers(track, self.timeline.encoding());
        self.timeline.leave(end.as_ref());
        (self.track, self.reception) = (None, Reception::Off);
    }

    /// How far the encoding that goes out has got.
    fn end(&self, track: &Track) -> Option<End> {
        track.encoding(self.timeline.encoding()?)?.end()
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
        if self.rewriter.encoding().is_some() {
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
