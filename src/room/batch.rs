//! What one receive brought for one room: packets that are opened, numbered and not sent on yet.

use std::ops::Range;

use crate::base::ids::MediaKind;
use crate::room::incoming::Incoming;
use crate::room::slots::{EncodingSlot, SubscriptionSlot};

/// Packets of one room that are fanned out together. Used again and again, so that in steady state
/// nothing is allocated; its owner bounds how many go in.
///
/// `Room::handle_rtp` and `Room::take_opened` fill it. Then it is given to `Room::fan_out` until that has
/// done all, with nothing else said to the room in between.
#[derive(Debug, Default)]
pub struct Batch {
    pub(in crate::room) packets: Vec<Incoming>,
    pub(in crate::room) runs: Vec<Run>,
    /// Subscriptions to which something happened on the way.
    pub(in crate::room) changed: Vec<(SubscriptionSlot, Forwarded)>,
    is_laid_out: bool,
}

/// What becomes of a subscription with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::room) enum Forwarded {
    /// Nothing.
    Usual,
    /// It has changed over to another encoding.
    Switched,
    /// The packet could neither be sent nor wait, and it awaits a keyframe.
    Interrupted,
}

/// The packets of one encoding.
#[derive(Debug)]
pub(in crate::room) struct Run {
    /// The encoding.
    pub encoding: EncodingSlot,
    /// Which packets of the batch are its.
    pub packets: Range<usize>,
    /// Which of the encoding's targets is next.
    pub next_target: usize,
    /// Of which of them was read what they need: those below.
    pub read_to: usize,
}

impl Batch {
    /// How many packets it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether it is being fanned out: nothing may be added then.
    #[must_use]
    pub fn is_laid_out(&self) -> bool {
        self.is_laid_out
    }

    /// Puts the packets of each encoding together, in their order. False if that was done before.
    pub(in crate::room) fn lay_out(&mut self) -> bool {
        if std::mem::replace(&mut self.is_laid_out, true) {
            return false;
        }
        let Self { packets, runs, .. } = self;
        // Video first: what comes last in a message may be shorter, as sound is.
        let is_audio = |packet: &Incoming| packet.kind == MediaKind::Audio;
        packets.sort_unstable_by_key(|packet| (is_audio(packet), packet.encoding, packet.seq));
        for (at, packet) in packets.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.encoding == packet.encoding => run.packets.end = at + 1,
                _ => runs.push(Run {
                    encoding: packet.encoding,
                    packets: at..at + 1,
                    next_target: 0,
                    read_to: 0,
                }),
            }
        }
        true
    }

    /// Forgets everything and keeps the memory.
    pub(in crate::room) fn clear(&mut self) {
        self.packets.clear();
        self.runs.clear();
        self.is_laid_out = false;
    }
}
