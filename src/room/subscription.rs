//! A subscription: one peer's copy of a track.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::base::ids::{
    EncodingSet, MediaKind, PayloadType, RtpTime, SeqNo, SeqNo16, ShardId, Ssrc, TrackKey,
};
use crate::control::{SubscriptionConfig, cname};
use crate::media::layers::munger::{DESCRIPTOR_MAX, Edit};
use crate::media::layers::selector::Selector;
use crate::media::red::{RedLayout, write_red};
use crate::media::resend::{NotResent, ResendBudget};
use crate::media::rewrite::{Resend, Rewriter};
use crate::media::rtt::ReceiverReports;
use crate::media::rtx::RtxNumbers;
use crate::media::sender_report::TrackClock;
use crate::media::timeline::{End, Timeline};
use crate::room::allotment::Allotment;
use crate::room::doubling::Doubled;
use crate::room::incoming::Incoming;
use crate::room::payload::{Route, Routes};
use crate::room::reception::{Reception, Wish};
use crate::room::sending::{Stamping, Way};
use crate::room::slots::{EncodingSlot, PeerSlot, TrackSlot};
use crate::room::track::{Track, clock_rate};
use crate::transport::Transport;
use crate::transport::outbox::Outbox;
use crate::wire::codec::CodecMapping;
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
    pub routes: Arc<Routes>,
    /// Its numbering.
    pub rewriter: Rewriter,
    /// Its timestamps.
    pub timeline: Timeline,
    /// Which layers of its encoding it gets: only where that is not all, or its numbers are not the publisher's.
    pub layers: Option<Box<Selector>>,
    /// What its packets tell of their sending.
    stamping: Stamping,
    /// What it was given, if it is a video.
    pub allotment: Option<Box<Allotment>>,
    /// Whether redundant audio is made for it, where its subscriber takes that.
    pub doubled: Doubled,
    /// How much is sent again.
    resends: ResendBudget,
    /// A keyframe was asked for because a packet below was waited for too long.
    stalls_covered: SeqNo,
    /// The numbers of its retransmission stream.
    rtx: RtxNumbers,
    /// What its subscriber reports of it.
    pub reports: ReceiverReports,
    /// Others spoke later, so that it gets nothing: see `last_n`.
    pub is_outside_last_n: bool,
    /// A video that was outside of last-n and is not any more, or of which nothing went out for a while: what came
    /// meanwhile is missing to its decoder, and the numbers do not tell, so that it goes on with a keyframe.
    pub comes_back: bool,
    /// A sender report goes out as soon as there is one.
    pub is_report_due: bool,
    packets: u32,
    octets: u32,
    bytes: u64,
    /// The last packet that went out, while its numbers are the publisher's.
    pub(in crate::room) last_sent: Option<(EncodingSlot, SeqNo)>,
}

/// What a packet becomes at one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'p> {
    payload_type: PayloadType,
    payload: &'p [u8],
    red: Red,
    /// Numbers that are changed in it.
    pub edit: Option<Edit>,
}

/// What becomes of redundant audio.
#[derive(Debug, Clone, Copy)]
enum Red {
    /// The payload goes out as it is.
    None,
    /// It is redundant; its blocks get this payload type.
    Rename(RedLayout, PayloadType),
    /// It is made redundant; the blocks have this payload type.
    Make(PayloadType),
}

/// Under which names a packet goes out.
struct Names {
    ssrc: Ssrc,
    payload_type: PayloadType,
    seq: SeqNo,
    timestamp: RtpTime,
    /// Of a retransmission: the number it first had (RFC 4588 §4).
    original: Option<SeqNo16>,
}

impl Names {
    /// The number it went out under first.
    fn first_seq(&self) -> SeqNo16 {
        self.original.unwrap_or(self.seq.on_wire())
    }
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
    /// A subscription that waits for its track; `routes` lead nowhere. Its numbers start at random.
    pub fn new(
        config: SubscriptionConfig,
        subscriber: PeerSlot,
        routes: Arc<Routes>,
        rng: &mut StdRng,
    ) -> Self {
        Self {
            stamping: Stamping::new(&config),
            layers: None,
            timeline: Timeline::new(clock_rate(config.kind), rng.random()),
            config,
            subscriber,
            track: None,
            wish: Wish::default(),
            reception: Reception::default(),
            routes,
            rewriter: Rewriter::new(rng.random()),
            doubled: Doubled::default(),
            resends: ResendBudget::default(),
            stalls_covered: SeqNo(0),
            allotment: None,
            rtx: RtxNumbers::new(rng.random()),
            reports: ReceiverReports::default(),
            is_outside_last_n: false,
            comes_back: false,
            is_report_due: false,
            packets: 0,
            octets: 0,
            bytes: 0,
            last_sent: None,
        }
    }

    /// Reads what the next packet needs, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let last = self.last_sent.map_or(0, |(_, seq)| seq.0);
        let names = self.config.ssrc.0 ^ self.packets;
        last ^ self.bytes
            ^ u64::from(names)
            ^ u64::from(self.layers.is_some())
            ^ self.rewriter.touch()
    }

    /// Whether anything is to be sent at all.
    pub fn is_open(&self) -> bool {
        self.config.active && !self.is_outside_last_n
    }

    /// What a packet becomes here. Depends on nothing but the packet, the two descriptions and [`Doubled`], so
    /// that a packet sent again is the same byte for byte.
    #[inline]
    pub fn shape<'p>(&self, packet: &'p Incoming) -> Result<Shape<'p>, Misfit> {
        let payload = packet.payload();
        let whole = |payload_type| Shape {
            payload_type,
            payload,
            red: Red::None,
            edit: None,
        };
        match self.routes.get(packet.payload_type) {
            Route::As(payload_type) => Ok(whole(payload_type)),
            Route::MakeRed { plain, .. }
                if packet.redundancy.set().is_empty() || !self.doubled.holds_for(packet.seq) =>
            {
                Ok(whole(plain))
            }
            Route::MakeRed { red, plain } => Ok(Shape {
                red: Red::Make(plain),
                ..whole(red)
            }),
            Route::None => Err(Misfit::NoCodec),
            Route::Red(red) => {
                let layout = packet.red.ok_or(Misfit::MalformedRed)?;
                let (Route::As(primary) | Route::MakeRed { plain: primary, .. }) =
                    self.routes.get(layout.primary)
                else {
                    return Err(Misfit::NoCodec);
                };
                match red {
                    Some(payload_type) if layout.is_uniform => Ok(Shape {
                        red: Red::Rename(layout, primary),
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

    /// Numbers a packet, and writes and seals it: the one place where a number is taken for what goes out. False if the
    /// packet has no number here: it is from before the present encoding began, or was sent already.
    #[inline]
    pub fn send_first(
        &mut self,
        packet: &Incoming,
        shape: &Shape<'_>,
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) -> bool {
        let Some(seq) = self.rewriter.forward(packet.seq) else {
            return false;
        };
        self.note_edit(seq, shape);
        let timestamp = self.rewriter.timestamp(packet.timestamp);
        self.send(packet, shape, (seq, timestamp), way, outbox);
        self.on_sent(shape);
        // One that came late is not the last.
        if self.layers.is_none() && self.rewriter.next().0 == seq.0 + 1 {
            self.last_sent = Some((packet.encoding, packet.seq));
        }
        true
    }

    /// Writes and seals the packet under a number and timestamp that the rewriter gave for it.
    #[inline]
    fn send(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        (seq, timestamp): (SeqNo, RtpTime),
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) {
        let names = Names {
            ssrc: self.config.ssrc,
            payload_type: shape.payload_type,
            seq,
            timestamp,
            original: None,
        };
        self.make(packet, shape, &names, way, outbox);
    }

    /// Writes and seals a packet that went out under this number and timestamp once more: on its own stream where that was
    /// negotiated (RFC 4588): true; else the identical datagram: false. `None` if neither can be, which
    /// [`Subscription::can_send_again`] tells before.
    pub fn send_again(
        &mut self,
        packet: &Incoming,
        shape: &Shape<'_>,
        (seq, timestamp): (SeqNo, RtpTime),
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) -> Option<bool> {
        let Some((ssrc, payload_type)) = self.own_stream(shape) else {
            if !self.stamping.is_none() {
                return None;
            }
            self.send(packet, shape, (seq, timestamp), way, outbox);
            return Some(false);
        };
        let names = Names {
            ssrc,
            payload_type,
            seq: self.rtx.take(),
            timestamp,
            original: Some(seq.on_wire()),
        };
        self.make(packet, shape, &names, way, outbox);
        Some(true)
    }

    /// Whether a packet of this shape can be sent again: on a stream of its own, so that it need not be the same, or as it
    /// went out under its number, if it did. Another packet would be another one under the same nonce; so would
    /// be the same one, stamped anew.
    pub fn can_send_again(&self, asked: &Resend, shape: &Shape<'_>) -> bool {
        self.own_stream(shape).is_some()
            || self.repeats(shape) && (asked.is_first || self.may_repeat(asked.out, shape))
    }

    /// Whether a packet of this shape is sent again under its number, as the identical datagram, and not otherwise.
    pub fn repeats(&self, shape: &Shape<'_>) -> bool {
        self.stamping.is_none() && self.own_stream(shape).is_none()
    }

    fn own_stream(&self, shape: &Shape<'_>) -> Option<(Ssrc, PayloadType)> {
        let is_original = |mapping: &&CodecMapping| mapping.payload_type == shape.payload_type;
        let mapping = self.config.codecs.iter().find(is_original)?;
        Some((self.config.rtx_ssrc?, mapping.rtx?))
    }

    #[inline]
    fn make(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        names: &Names,
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) {
        let Some(edit) = &shape.edit else {
            return self.write(packet, shape, None, names, way, outbox);
        };
        let mut buffer = [0; DESCRIPTOR_MAX];
        let source = packet.extension(Extension::DependencyDescriptor);
        let source = source.filter(|_| !edit.leaves_out_descriptor());
        let descriptor = source.and_then(|source| edit.descriptor(source, &mut buffer));
        self.write(packet, shape, descriptor, names, way, outbox);
    }

    /// As [`Subscription::make`], with `descriptor` for the dependency descriptor, if that is another one here.
    #[inline]
    fn write(
        &self,
        packet: &Incoming,
        shape: &Shape<'_>,
        descriptor: Option<&[u8]>,
        names: &Names,
        way: &mut Way<'_>,
        outbox: &mut Outbox,
    ) {
        let (edit, config) = (shape.edit.as_ref(), &self.config);
        // Padding is for messages of equal lengths; a retransmission's payload has none (RFC 4588 §4).
        let padding = match names.original {
            Some(_) => 0,
            None => packet.padding,
        };
        let header = OutgoingHeader {
            payload_type: names.payload_type,
            marker: packet.marker || edit.is_some_and(|edit| edit.ends_picture),
            seq: names.seq.on_wire(),
            timestamp: names.timestamp,
            ssrc: names.ssrc,
            padding: padding > 0,
        };
        let mid = config.extensions.id(Extension::Mid);
        let forwarded = packet.extensions();
        let stamp = way.stamp(&self.stamping);
        let extensions = mid
            .map(|id| (id, config.mid.as_bytes()))
            .into_iter()
            .chain(stamp.extensions())
            .chain(forwarded.filter_map(|(extension, value)| {
                let value = match (extension, descriptor) {
                    (Extension::DependencyDescriptor, Some(own)) => own,
                    (Extension::DependencyDescriptor, None)
                        if edit.is_some_and(Edit::leaves_out_descriptor) =>
                    {
                        return None;
                    }
                    _ => value,
                };
                config.extensions.id(extension).map(|id| (id, value))
            }));
        let (sealer, before) = (way.sealer, outbox.bytes_len());
        outbox.push_with(way.to, |arena| {
            let start = arena.len();
            let len = shape.payload.len() + usize::from(padding);
            arena.reserve(HEADER_ROOM + len + sealer.overhead());
            let header_len = write_header(arena, &header, extensions);
            if let Some(original) = names.original {
                arena.extend_from_slice(&original.0.to_be_bytes());
            }
            write_payload(arena, packet, shape);
            if padding > 0 {
                // The last byte says how many there are, itself included (RFC 3550 §5.1).
                arena.resize(arena.len() + usize::from(padding) - 1, 0);
                arena.push(padding);
            }
            sealer.seal(arena, start, header_len, names.seq.roc());
            true
        });
        way.on_sent(&stamp, outbox.bytes_len() - before, Some(names.first_seq()));
    }

    /// Whether its packets have transport-wide numbers.
    pub fn is_numbered(&self) -> bool {
        self.stamping.is_numbered()
    }

    /// Whether padding can go out on its retransmission stream: the subscriber knows that stream, and says when it
    /// arrives.
    pub fn takes_padding(&self) -> bool {
        self.is_numbered()
            && self.is_open()
            && self.config.rtx_ssrc.is_some()
            && (self.config.codecs.iter()).any(|mapping| mapping.rtx.is_some())
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
        way.on_sent(&stamp, bytes, None);
        bytes
    }

    /// The number under which its subscriber asks for a packet again, if that may be sent to it.
    pub fn find_asked(&self, seq: SeqNo16) -> Option<Resend> {
        let asked = self.rewriter.resend(seq)?;
        // What came before a switch has been replaced by its keyframe.
        (self.rewriter.encoding() == Some(asked.encoding)).then_some(asked)
    }

    /// The subscriber's description has changed.
    pub fn set_config(&mut self, config: SubscriptionConfig) {
        self.stamping = Stamping::new(&config);
        self.config = config;
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
        // Where it cannot be told what a packet begins, none is waited for.
        if self.comes_back && packet.layers.is_some() && !packet.starts_keyframe {
            return Entry::NoKeyframe;
        }
        // Late, from before that encoding was left: its other packets went out under other numbers.
        if self.rewriter.has_passed(to, packet.seq) || self.rewriter.is_before_stop(to, packet.seq)
        {
            return Entry::NoKeyframe;
        }
        self.comes_back = false;
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
        self.rewriter.forget_left();
        (self.track, self.reception) = (None, Reception::Off);
        self.last_sent = None;
    }

    /// How far the encoding that goes out has got.
    fn end(&self, track: &Track) -> Option<End> {
        track.encoding(self.timeline.encoding()?)?.end()
    }

    /// A packet was sent for the first time.
    #[inline]
    fn on_sent(&mut self, shape: &Shape<'_>) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(shape.payload.len() as u32);
        self.bytes += shape.payload.len() as u64;
    }

    /// When a packet that was sent again may be once more. `rtt`: as for [`Subscription::take_resend`].
    pub fn may_resend_at(&self, rtt: Option<Duration>, seq: SeqNo) -> Option<Instant> {
        self.resends.next_at(rtt, seq)
    }

    /// Takes a packet sent before for sent again. `rtt`: the shortest round trip to the subscriber.
    ///
    /// # Errors
    /// [`NotResent`] says why it may not be.
    pub fn take_resend(
        &mut self,
        now: Instant,
        rtt: Option<Duration>,
        seq: SeqNo,
        shape: &Shape<'_>,
    ) -> Result<(), NotResent> {
        let bytes = shape.payload.len();
        self.resends.take(now, rtt, seq, bytes, self.bytes)
    }

    /// A packet was waited for too long. True if no keyframe was asked for because of that since it was first sent.
    pub fn is_new_stall(&mut self, seq: SeqNo) -> bool {
        let is_new = seq >= self.stalls_covered;
        if is_new {
            self.stalls_covered = self.rewriter.next();
        }
        is_new
    }

    /// The descriptions have changed what packets look like here.
    pub fn reshape(&mut self, routes: Arc<Routes>) {
        self.routes = routes;
        self.rewriter.reshape();
    }

    /// Nothing goes out until the next packet that can: it will follow without a gap. Of a video that is the next keyframe,
    /// where keyframes can be told: what builds on packets that did not go out is of no use.
    pub fn pause(&mut self) {
        if self.rewriter.encoding().is_some() {
            self.rewriter.stop();
            self.comes_back |= self.config.kind == MediaKind::Video;
        }
    }

    /// Some of what was to go out is lost here: nothing goes out until the next keyframe.
    pub fn interrupt(&mut self) {
        self.pause();
        self.comes_back = true;
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
        write_sender_report(&mut compound, &report, &cname(self.config.source.peer));
        let sent = transport.seal_rtcp(&compound, outbox);
        if sent {
            self.is_report_due = false;
            self.reports.on_report_sent(now, ntp);
        }
        sent
    }
}

#[inline]
fn write_payload(arena: &mut Vec<u8>, packet: &Incoming, shape: &Shape<'_>) {
    let start = arena.len();
    match &shape.red {
        Red::None => arena.extend_from_slice(shape.payload),
        Red::Rename(layout, payload_type) => {
            arena.extend_from_slice(shape.payload);
            layout.set_payload_type(&mut arena[start..], *payload_type);
        }
        Red::Make(payload_type) => {
            let blocks = packet.redundancy.blocks(packet.timestamp);
            write_red(arena, *payload_type, blocks, shape.payload);
        }
    }
    if let Some(edit) = &shape.edit {
        edit.apply(&mut arena[start..]);
    }
}

/// A header with the usual extensions; only a hint for the arena.
const HEADER_ROOM: usize = 64;
/// A sender report with a CNAME of usual length; only a hint.
const COMPOUND_ROOM: usize = 96;
/// As much as its last byte can tell (RFC 3550 §5.1).
const PADDING_LEN: u8 = 255;
