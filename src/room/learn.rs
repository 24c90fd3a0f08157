//! What an unknown SSRC carries, as the first packets under it tell.

use crate::base::ids::{EncodingIndex, Mid, Rid};
use crate::room::output::Output;
use crate::room::payload::PayloadKind;
use crate::room::peer::Peer;
use crate::room::slots::{EncodingSlot, PeerSlot};
use crate::room::source::{Source, SourceName};
use crate::room::state::Room;
use crate::room::track::Track;
use crate::wire::extension::ExtensionId;
use crate::wire::rtp::RtpHeader;

impl Room {
    /// Finds the track by its `mid`, else by the payload type, if that fits one track only (RFC 9143 §9.2); and of a
    /// track with several encodings the one that `rtp-stream-id` names, or for retransmissions
    /// `repaired-rtp-stream-id` (RFC 8852 §3). What an SSRC said of itself before holds until it says otherwise.
    #[cold]
    pub(in crate::room) fn learn(
        &mut self,
        from: PeerSlot,
        header: &RtpHeader,
        packet: &[u8],
        output: &mut Output,
    ) -> Option<Source> {
        let Room { peers, tracks, .. } = self;
        let peer = peers.get_mut(from)?;
        let mut own = peer
            .tracks
            .iter()
            .filter_map(|slot| Some((*slot, tracks.get(*slot)?)));
        let former = peer.sources.name_of(header.ssrc);
        let mid = value(header, packet, peer.source_ids.mid).and_then(Mid::from_bytes);
        let mid = mid.or(former.map(|name| name.mid));
        let kind = |track: &Track| track.kinds.get(header.payload_type);
        let found = match mid {
            Some(mid) => own.find(|(_, track)| track.config.mid == mid),
            None => {
                let is_declared = |track: &Track| {
                    let mut configs = track.encodings.iter().map(|encoding| &encoding.config);
                    configs.any(|config| config.ssrc.is_some())
                };
                let mut fitting = own.filter(|(_, track)| {
                    !is_declared(track) && kind(track) != PayloadKind::Unknown
                });
                let first = fitting.next();
                first.filter(|_| fitting.next().is_none())
            }
        };
        let Some((slot, track)) = found else {
            peer.had_unknown = true;
            output.counters.rtp_unknown_track += 1;
            return None;
        };
        let (rid, source): (_, fn(EncodingSlot) -> Source) = match kind(track) {
            PayloadKind::Media | PayloadKind::Red => (peer.source_ids.rid, Source::Media),
            PayloadKind::Rtx => (peer.source_ids.repaired_rid, Source::Rtx),
            PayloadKind::Unknown => {
                output.counters.rtp_unknown_payload_type += 1;
                return None;
            }
        };
        let rid = value(header, packet, rid).and_then(Rid::from_bytes);
        let rid = rid.or(former.and_then(|name| name.rid));
        let Some(index) = encoding_of(track, rid) else {
            peer.had_unknown = true;
            output.counters.rtp_unknown_encoding += 1;
            return None;
        };
        let mid = track.config.mid;
        peer.sources.name(header.ssrc, SourceName { mid, rid });
        remember(
            peer,
            header,
            source(EncodingSlot { track: slot, index }),
            output,
        )
    }
}

/// The encoding that a packet with this stream id belongs to. One without an id is taken only where there is no choice.
fn encoding_of(track: &Track, rid: Option<Rid>) -> Option<EncodingIndex> {
    match (&track.encodings[..], rid) {
        ([_], None) => Some(EncodingIndex::LOWEST),
        ([only], _) if only.config.rid.is_none() => Some(EncodingIndex::LOWEST),
        (_, None) => None,
        (encodings, rid) => {
            let at = encodings.iter().position(|e| e.config.rid == rid)?;
            Some(EncodingIndex(at as u8))
        }
    }
}

fn remember(
    peer: &mut Peer,
    header: &RtpHeader,
    source: Source,
    output: &mut Output,
) -> Option<Source> {
    if !peer.sources.learn(header.ssrc, source) {
        output.counters.rtp_sources_full += 1;
        return None;
    }
    Some(source)
}

fn value<'p>(header: &RtpHeader, packet: &'p [u8], id: Option<ExtensionId>) -> Option<&'p [u8]> {
    let id = id?;
    let mut extensions = header.extensions(packet);
    extensions
        .find(|(other, _)| *other == id)
        .map(|(_, value)| value)
}
