//! Layers inside an encoding: reads them once for each packet, and keeps each subscription's [`Selector`] in step with
//! what it wishes and with what its encoding has.

use std::time::Instant;

use crate::base::ids::{EncodingIndex, SeqNo, SeqNo16};
use crate::media::layers::info::LayerInfo;
use crate::media::layers::munger::Edit;
use crate::media::layers::reader::{LayerPacket, LayerReader, RUNS_MAX};
use crate::media::layers::selector::Selector;
use crate::media::layers::structures::Limit;
use crate::room::encoding::Encoding;
use crate::room::incoming::Incoming;
use crate::room::output::Output;
use crate::room::reception::{Reception, Wish};
use crate::room::slots::{EncodingSlot, SubscriptionSlot};
use crate::room::state::Room;
use crate::room::subscription::{Shape, Subscription};
use crate::room::track::Track;
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;

impl Encoding {
    /// See [`Room::read_layers`]. True if there are other layers than before, or a new run.
    fn read_layers(
        &mut self,
        packet: &mut Incoming,
        codec: Option<Codec>,
        restarted: bool,
    ) -> bool {
        let Some(packet_of) = layer_packet(packet, codec) else {
            return false;
        };
        let first_run = u32::from(packet.encoding.index.0) * RUNS_MAX;
        let reader = self
            .layers
            .get_or_insert_with(|| Box::new(LayerReader::new(first_run)));
        let before = (reader.top(), reader.position().run);
        if restarted {
            reader.restart(packet_of.seq);
        }
        let info = reader.read(&packet_of);
        let after = (reader.top(), reader.position().run);
        packet.starts_keyframe = info.is_keyframe_start;
        packet.layers = Some(info);
        before != after
    }

    /// Reads the layers of a packet that is sent again.
    fn read_layers_again(&self, packet: &Incoming, codec: Option<Codec>) -> Option<LayerInfo> {
        let reader = self.layers.as_ref()?;
        reader.read_again(&layer_packet(packet, codec)?)
    }
}

fn layer_packet(packet: &Incoming, codec: Option<Codec>) -> Option<LayerPacket<'_>> {
    Some(LayerPacket {
        codec: codec.filter(|codec| !matches!(codec, Codec::Opus | Codec::Red))?,
        seq: packet.seq,
        timestamp: packet.timestamp,
        marker: packet.marker,
        payload: packet.payload(),
        descriptor: packet.extension(Extension::DependencyDescriptor),
    })
}

impl Subscription {
    /// Which layers of an encoding it is to get.
    fn limit(&self, of: EncodingIndex) -> Limit {
        let Wish::Layer(layer) = self.wish else {
            return Limit::ALL;
        };
        if of == layer.encoding {
            Limit {
                spatial: layer.spatial,
                temporal: layer.temporal,
            }
        } else if of > layer.encoding && matches!(self.reception, Reception::Switching { .. }) {
            // Too much already: as little as possible, until the keyframe of the lower encoding comes.
            Limit {
                spatial: 0,
                temporal: 0,
            }
        } else {
            Limit::ALL
        }
    }

    /// What it is to get of the layers that go out has changed, or what layers there are. True if a keyframe is
    /// needed for that.
    pub(in crate::room) fn review_layers(&mut self, track: &Track) -> bool {
        let Some(index) = self.rewriter.encoding() else {
            return false;
        };
        let Some(reader) = track.encoding(index).and_then(|e| e.layers.as_deref()) else {
            return false;
        };
        let wanted = self.limit(index);
        let limit = if wanted.covers(reader.top()) {
            Limit::ALL
        } else {
            wanted
        };
        if self.layers.is_none() && limit != Limit::ALL {
            self.layers = Some(self.selector(track, limit, reader));
        }
        let Some(selector) = self.layers.as_mut() else {
            return false;
        };
        selector.set_wish(limit);
        selector.needs_keyframe(reader.top().spatial)
    }

    /// Packets of another encoding go out from now on, or of the same after a pause; `before` went out last. The
    /// numbers that a decoder follows go on.
    pub(in crate::room) fn begin_layers(&mut self, track: &Track, before: Option<EncodingIndex>) {
        if before.is_some_and(|before| self.rewriter.encoding() != Some(before)) {
            self.keep_numbers(track, before);
        }
        if let Some(selector) = self.layers.as_mut() {
            selector.begin();
        }
        self.review_layers(track);
    }

    /// The encoding that went out last, if one did, is left: where the numbers that a decoder follows have got to is kept.
    pub(in crate::room) fn keep_numbers(&mut self, track: &Track, last: Option<EncodingIndex>) {
        if self.layers.is_none()
            && self.has_sent()
            && let Some(encoding) = last.and_then(|last| track.encoding(last))
            && let Some(reader) = encoding.layers.as_deref()
        {
            self.layers = Some(self.selector(track, Limit::ALL, reader));
        }
    }

    /// For a subscription that took everything so far. What it let through may still wait.
    fn selector(&self, track: &Track, limit: Limit, reader: &LayerReader) -> Box<Selector> {
        let position = reader.position();
        let selector = Selector::new(limit, &position);
        let sent = self.last_sent.and_then(|(slot, seq)| {
            let packet = track.recall(slot, seq)?;
            let codec = track.codec(packet.payload_type);
            track
                .encoding(slot.index)?
                .read_layers_again(&packet, codec)
        });
        // What is not held any more went out long ago.
        Box::new(selector.after(sent.map_or(position.last, |info| info.numbers())))
    }

    /// What a packet becomes that comes for the first time, where layers are selected. `None`: it does not go out.
    #[inline]
    pub(in crate::room) fn select(&mut self, track: &Track, packet: &Incoming) -> Selected {
        let Some(selector) = self.layers.as_mut() else {
            return Selected::Whole;
        };
        let encoding = track.encoding(packet.encoding.index);
        let (Some(info), Some(reader)) =
            (&packet.layers, encoding.and_then(|e| e.layers.as_deref()))
        else {
            return Selected::Whole;
        };
        match selector.handle(info, reader) {
            Some(edit) => Selected::Edited(edit),
            None => Selected::LeftOut,
        }
    }

    /// What became of a packet that is sent again.
    fn select_again(&self, track: &Track, packet: &Incoming) -> Selected {
        let Some(selector) = &self.layers else {
            return Selected::Whole;
        };
        let encoding = track.encoding(packet.encoding.index);
        let Some((encoding, reader)) =
            encoding.and_then(|encoding| Some((encoding, encoding.layers.as_deref()?)))
        else {
            return Selected::Whole;
        };
        let info = encoding.read_layers_again(packet, track.codec(packet.payload_type));
        match info.and_then(|info| selector.edit_of(&info, reader)) {
            Some(edit) => Selected::Edited(edit),
            None => Selected::LeftOut,
        }
    }

    /// What a packet that has its number here becomes, the same each time. `None`: it does not go out.
    pub(in crate::room) fn shape_again<'p>(
        &self,
        track: &Track,
        packet: &'p Incoming,
    ) -> Option<Shape<'p>> {
        let mut shape = self.shape(packet).ok()?;
        match self.select_again(track, packet) {
            Selected::Whole => {}
            Selected::Edited(edit) => shape.edit = Some(edit),
            Selected::LeftOut => return None,
        }
        Some(shape)
    }

    /// A packet goes out for the first time under the number `seq`. What it looks like is kept (20 KiB for what a client
    /// may ask for) only where it may have to go out again as it was: see [`Subscription::repeats`].
    #[inline]
    pub(in crate::room) fn note_edit(&mut self, seq: SeqNo, shape: &Shape<'_>) {
        if let Some(edit) = &shape.edit {
            let may_repeat = self.repeats(shape);
            if let Some(selector) = &mut self.layers {
                selector.on_sent(seq, edit, may_repeat);
            }
        }
    }

    /// Whether a packet that went out under the number `seq` may go out under it again: it looks the same.
    pub(in crate::room) fn may_repeat(&self, seq: SeqNo, shape: &Shape<'_>) -> bool {
        match (&shape.edit, &self.layers) {
            (None, _) => true,
            (Some(edit), Some(selector)) => selector.sent.is_same(seq, edit),
            (Some(_), None) => false,
        }
    }

    /// The subscriber reports how far it has got the stream (RFC 3550 §6.4.1): it has got that packet.
    pub(in crate::room) fn on_received(&mut self, highest: SeqNo16) {
        if let Some(selector) = &mut self.layers
            && let Some(sent) = self.rewriter.resend(highest)
        {
            selector.on_received(sent.out);
        }
    }

    /// Whether it is to get fewer spatial layers than go out.
    pub(in crate::room) fn leaves_layers(&self, track: &Track) -> bool {
        let encoding = self.rewriter.encoding().and_then(|e| track.encoding(e));
        let reader = encoding.and_then(|encoding| encoding.layers.as_deref());
        let selector = self.layers.as_deref();
        selector.zip(reader).is_some_and(|(selector, reader)| {
            let current = selector.current().spatial.min(reader.top().spatial);
            selector.wish().spatial < current
        })
    }

    /// Whether it waits for a keyframe of an encoding because of its layers.
    pub(in crate::room) fn awaits_layers(&self, track: &Track, index: EncodingIndex) -> bool {
        let reader = track.encoding(index).and_then(|e| e.layers.as_deref());
        self.rewriter.encoding() == Some(index)
            && self
                .layers
                .as_ref()
                .zip(reader)
                .is_some_and(|(selector, reader)| selector.needs_keyframe(reader.top().spatial))
    }
}

/// What the selection of layers makes of a packet.
#[derive(Debug, Clone, Copy)]
pub enum Selected {
    /// It goes out as it is.
    Whole,
    /// It goes out with other numbers.
    Edited(Edit),
    /// It does not go out.
    LeftOut,
}

impl Room {
    /// Reads the layers of a packet of video that came for the first time, `restarted` with a new run of its source.
    #[inline]
    pub(in crate::room) fn read_layers(
        &mut self,
        packet: &mut Incoming,
        codec: Option<Codec>,
        (now, restarted): (Instant, bool),
        output: &mut Output,
    ) {
        let slot = packet.encoding;
        let encoding = self.tracks.get_mut(slot.track);
        if let Some(encoding) = encoding.and_then(|track| track.encoding_mut(slot.index))
            && encoding.read_layers(packet, codec, restarted)
        {
            self.on_layers_changed(slot);
        }
        if packet.layers.is_some_and(|info| info.lacks_structure()) {
            self.on_structure_lost(now, slot, output);
        }
    }

    /// The structure that says what the packets of an encoding are was lost: who gets only a part of them gets nothing until
    /// it comes again, with a keyframe. Asked for again by each packet that cannot be read, as often as that is allowed.
    #[cold]
    fn on_structure_lost(&mut self, now: Instant, slot: EncodingSlot, output: &mut Output) {
        let Some(track) = self.tracks.get(slot.track) else {
            return;
        };
        let is_asked = |encoding: &Encoding| encoding.keyframes.is_under_way(now);
        if track.encoding(slot.index).is_none_or(is_asked) {
            return;
        }
        let mut subscriptions = track.subscriptions.iter();
        let is_missed = subscriptions.any(|subscription| {
            let subscription = self.subscriptions.get(*subscription);
            subscription.is_some_and(|subscription| {
                subscription.rewriter.encoding() == Some(slot.index)
                    && (subscription.layers.as_deref()).is_some_and(Selector::is_limited)
            })
        });
        if is_missed {
            self.request_keyframe(now, slot, output);
        }
    }

    /// A subscription's wish has changed: the layers it gets follow, as soon as its decoder can.
    pub(in crate::room) fn review_layers(
        &mut self,
        now: Instant,
        slot: SubscriptionSlot,
        output: &mut Output,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        let Some(track) = subscription.track else {
            return;
        };
        let Some(copied) = self.tracks.get(track) else {
            return;
        };
        if subscription.review_layers(copied)
            && let Some(index) = subscription.rewriter.encoding()
        {
            let slot = EncodingSlot { track, index };
            self.repeat_keyframe(now, slot, output);
            self.request_keyframe(now, slot, output);
        }
    }

    /// An encoding has other layers than before, or a new run of its source began: its subscriptions follow. Those that
    /// took what came as it came need numbers of their own from a new run on.
    #[cold]
    fn on_layers_changed(&mut self, slot: EncodingSlot) {
        let Some(track) = self.tracks.get(slot.track) else {
            return;
        };
        let Some(reader) = track.encoding(slot.index).and_then(|e| e.layers.as_deref()) else {
            return;
        };
        for subscription in &track.subscriptions {
            let Some(subscription) = self.subscriptions.get_mut(*subscription) else {
                continue;
            };
            if subscription.rewriter.encoding() != Some(slot.index) {
                continue;
            }
            if reader.is_new_run() && subscription.layers.is_none() {
                let former = reader.former();
                subscription.layers = Some(Box::new(Selector::new(Limit::ALL, &former)));
            }
            subscription.review_layers(track);
        }
    }
}
