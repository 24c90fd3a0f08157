//! Packets that came before, out of the cache of their encoding: for those who ask again, and for those who had to wait.

use crate::base::ids::SeqNo;
use crate::room::incoming::Incoming;
use crate::room::redundancy::{FrameSet, Redundancy};
use crate::room::slots::EncodingSlot;
use crate::room::track::Track;
use crate::wire::rtp::RtpHeader;

impl Track {
    /// The packet `seq` of an encoding of this track, as it was when it was fanned out, if it is still kept. It does not
    /// tell its layers.
    pub(in crate::room) fn recall(&self, slot: EncodingSlot, seq: SeqNo) -> Option<Incoming> {
        let encoding = self.encoding(slot.index)?;
        let cached = encoding.cache.get(seq)?;
        let header = RtpHeader::parse(&cached.packet)?;
        let kind = (self.config.kind, self.kinds.get(header.payload_type));
        let mut incoming = Incoming::read(
            slot,
            cached.packet.clone(),
            &header,
            (cached.seq, cached.timestamp),
            kind,
            &self.config.extensions,
        )?;
        incoming.padding = cached.padding;
        let repeated = FrameSet::from_bits(cached.repeated);
        if !repeated.is_empty() {
            let repeating = incoming.repeating();
            incoming.redundancy = Redundancy::gather(&encoding.cache, &repeating, repeated);
            // Another packet under this number would be another packet under its nonce.
            if incoming.redundancy.set() != repeated {
                return None;
            }
        }
        Some(incoming)
    }
}
