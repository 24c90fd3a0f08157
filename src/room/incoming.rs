//! A packet of a track, read once for all subscriptions.

use bytes::Bytes;

use crate::base::ids::{MediaKind, PayloadType, RtpTime, SeqNo};
use crate::media::layers::info::LayerInfo;
use crate::media::red::RedLayout;
use crate::room::payload::PayloadKind;
use crate::room::redundancy::{Redundancy, Repeating};
use crate::room::slots::EncodingSlot;
use crate::wire::extension::{Extension, ExtensionMap};
use crate::wire::rtp::RtpHeader;

/// An opened packet and where its parts lie.
#[derive(Debug, Clone)]
pub struct Incoming {
    packet: Bytes,
    /// Its encoding.
    pub encoding: EncodingSlot,
    /// Audio or video.
    pub kind: MediaKind,
    /// The encoding's number.
    pub seq: SeqNo,
    /// The encoding's timestamp.
    pub timestamp: RtpTime,
    /// The publisher's payload type.
    pub payload_type: PayloadType,
    /// The marker bit.
    pub marker: bool,
    /// How many bytes of padding its copies get (RFC 3550 §5.1). Decided once, before the first copy,
    /// and kept with the packet: a copy sent again must be the same.
    pub padding: u8,
    /// Earlier frames of sound that copies repeat where redundant audio is made. Decided once, too.
    pub redundancy: Redundancy,
    /// Whether the publisher padded it. That padding is not passed on.
    pub was_padded: bool,
    /// Whether a decoder can start with it.
    pub starts_keyframe: bool,
    /// What it is to the layers of its encoding: of video, when it comes for the first time.
    pub layers: Option<LayerInfo>,
    /// Where its redundant audio lies, if it is that.
    pub red: Option<RedLayout>,
    payload: Span,
    extensions: [(Extension, Span); Extension::ALL.len()],
    extensions_len: usize,
}

/// A part of a packet.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u16,
    len: u16,
}

impl Incoming {
    /// Reads what all subscriptions need. `None` if the payload runs past the packet's end, or the packet
    /// is longer than a datagram can be.
    #[must_use]
    pub fn read(
        encoding: EncodingSlot,
        packet: Bytes,
        header: &RtpHeader,
        (seq, timestamp): (SeqNo, RtpTime),
        (kind, payload_kind): (MediaKind, PayloadKind),
        ids: &ExtensionMap,
    ) -> Option<Self> {
        u16::try_from(packet.len()).ok()?;
        let payload = header.payload(&packet)?;
        let span = |part: &[u8]| Span {
            start: (part.as_ptr() as usize - packet.as_ptr() as usize) as u16,
            len: part.len() as u16,
        };
        let red = match payload_kind {
            PayloadKind::Red => RedLayout::parse(payload),
            _ => None,
        };
        let mut extensions = [(Extension::Mid, Span::default()); Extension::ALL.len()];
        let mut extensions_len = 0;
        for (id, value) in header.extensions(&packet) {
            if let Some(extension) = ids.extension(id).filter(|e| e.is_forwarded())
                && let Some(entry) = extensions.get_mut(extensions_len)
            {
                *entry = (extension, span(value));
                extensions_len += 1;
            }
        }
        let payload = span(payload);
        Some(Self {
            encoding,
            kind,
            seq,
            timestamp,
            payload_type: header.payload_type,
            marker: header.marker,
            padding: 0,
            redundancy: Redundancy::default(),
            was_padded: header.padding,
            starts_keyframe: false,
            layers: None,
            red,
            payload,
            extensions,
            extensions_len,
            packet,
        })
    }

    /// The whole packet, as its publisher sent it.
    pub fn packet(&self) -> &Bytes {
        &self.packet
    }

    /// What it carries.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.part(self.payload)
    }

    /// What decides which frames it repeats.
    pub fn repeating(&self) -> Repeating {
        Repeating {
            seq: self.seq,
            timestamp: self.timestamp,
            payload_type: self.payload_type,
            payload_len: self.payload().len(),
        }
    }

    /// The header extensions that subscribers get.
    #[inline]
    pub fn extensions(&self) -> impl Iterator<Item = (Extension, &[u8])> + '_ {
        let present = &self.extensions[..self.extensions_len];
        present
            .iter()
            .map(|(extension, span)| (*extension, self.part(*span)))
    }

    /// One of the header extensions that subscribers get.
    pub fn extension(&self, wanted: Extension) -> Option<&[u8]> {
        let mut all = self.extensions();
        all.find_map(|(extension, value)| (extension == wanted).then_some(value))
    }

    /// How long a copy is without fixed header and padding, as far as that differs from packet to packet, for
    /// a subscriber that takes all its extensions, in the one-byte form (RFC 8285 §4.2) and with a
    /// `mid` of one character.
    pub fn copy_len(&self) -> usize {
        let elements: usize = self.extensions().map(|(_, value)| 1 + value.len()).sum();
        (MID_ELEMENT_LEN + elements).next_multiple_of(4) + self.payload().len()
    }

    #[inline]
    fn part(&self, span: Span) -> &[u8] {
        let start = usize::from(span.start);
        &self.packet[start..start + usize::from(span.len)]
    }
}

const MID_ELEMENT_LEN: usize = 2;
