//! Sound that was lost on the way here and comes again inside redundant audio (RFC 2198): it becomes the plain packet it
//! was, under its own number, for all who receive the track. Who takes redundant audio could do without; who does not,
//! and the other shards, get it like any packet.
//!
//! RED does not say which packets its blocks were. As browsers send them, they are those right before, in a row; a block
//! is taken only if its timestamp fits to that.

use std::time::Instant;

use bytes::Bytes;

use crate::base::ids::{PayloadType, RtpTime, SeqNo, SeqNo16};
use crate::media::red::RedLayout;
use crate::media::stream::Normalised;
use crate::room::batch::Batch;
use crate::room::encoding::Tip;
use crate::room::output::Output;
use crate::room::payload::PayloadKind;
use crate::room::slots::EncodingSlot;
use crate::room::state::Room;
use crate::wire::extension::Extension;
use crate::wire::rtp::{OutgoingHeader, RtpHeader, write_header};

/// A frame that was lost.
struct Lost<'p> {
    /// How many numbers before the packet that brings it.
    back: u64,
    age_ticks: u32,
    payload_type: PayloadType,
    payload: &'p [u8],
}

impl Room {
    /// A packet of redundant audio is the first after a gap, which ends at `tip`: what it brings of that goes out before it.
    #[cold]
    pub(in crate::room) fn recover(
        &mut self,
        now: Instant,
        slot: EncodingSlot,
        (tip, header, place): (Tip, &RtpHeader, &Normalised),
        packet: &Bytes,
        batch: &mut Batch,
        output: &mut Output,
    ) {
        let Some(payload) = header.payload(packet) else {
            return;
        };
        let Some(layout) = RedLayout::parse(payload) else {
            return;
        };
        for lost in find(&layout, payload, tip, place) {
            let Some(track) = self.tracks.get_mut(slot.track) else {
                return;
            };
            if track.kinds.get(lost.payload_type) != PayloadKind::Media {
                continue;
            }
            let level_id = track.config.extensions.id(Extension::AudioLevel);
            let (restored, bytes) = restore(header, packet, &lost, level_id.map(|id| id.value()));
            let place = Normalised {
                seq: SeqNo(place.seq.0 - lost.back),
                timestamp: RtpTime(place.timestamp.0.wrapping_sub(lost.age_ticks)),
                source_seq: SeqNo(place.source_seq.0 - lost.back),
                restarted: false,
            };
            let (Some(restored), Some(encoding)) = (restored, track.encoding_mut(slot.index))
            else {
                return;
            };
            // It need not be asked for any more.
            encoding.nack.on_packet(now, place.source_seq, true);
            encoding.recovered.insert(place.seq);
            output.counters.red_recovered += 1;
            self.enqueue(now, slot, (&restored, &place), bytes, batch, output);
        }
    }
}

/// The blocks that bring what is missing between `tip` and a packet, the oldest first.
fn find<'p>(
    layout: &RedLayout,
    payload: &'p [u8],
    tip: Tip,
    place: &Normalised,
) -> impl Iterator<Item = Lost<'p>> {
    // Its caller says that there are some.
    let distance = place.seq.0.saturating_sub(tip.seq.0);
    let ticks = place.timestamp.0.wrapping_sub(tip.timestamp.0);
    // Without pauses (DTX) all frames are equally long.
    let frame =
        (u64::from(ticks) % distance.max(1) == 0).then(|| u64::from(ticks) / distance.max(1));
    let latest = layout.redundant(payload).take(RECOVERED_MAX);
    let blocks: Vec<_> = (1..).zip(latest).collect();
    blocks.into_iter().rev().filter_map(move |(back, block)| {
        let age = u32::from(block.age_ticks);
        let fits = back < distance
            && (1..ticks).contains(&age)
            && frame.is_none_or(|frame| u64::from(age) == back * frame);
        (fits && !block.payload.is_empty()).then_some(Lost {
            back,
            age_ticks: age,
            payload_type: block.payload_type,
            payload: block.payload,
        })
    })
}

/// Makes the packet that a block was. Its loudness is taken from the packet that brings it: silence would be wrong, and the
/// next frame is the best guess.
fn restore(
    header: &RtpHeader,
    packet: &[u8],
    lost: &Lost<'_>,
    level_id: Option<u8>,
) -> (Option<RtpHeader>, Bytes) {
    let fields = OutgoingHeader {
        payload_type: lost.payload_type,
        marker: false,
        seq: SeqNo16(header.seq.0.wrapping_sub(lost.back as u16)),
        timestamp: RtpTime(header.timestamp.0.wrapping_sub(lost.age_ticks)),
        ssrc: header.ssrc,
        padding: false,
    };
    let extensions = header.extensions(packet);
    let level = extensions.filter(|(id, _)| Some(id.value()) == level_id);
    let mut restored = Vec::with_capacity(HEADER_ROOM + lost.payload.len());
    write_header(&mut restored, &fields, level.take(1));
    restored.extend_from_slice(lost.payload);
    (RtpHeader::parse(&restored), restored.into())
}

/// Browsers send one or two redundant blocks. More would let one packet become many.
const RECOVERED_MAX: usize = 3;
/// A header with one extension; only a hint.
const HEADER_ROOM: usize = 24;
