//! Which codecs and header extensions are negotiated, and under which numbers.
//!
//! All sections share one transport, so a payload type or an extension id stands for one thing in all
//! of them (RFC 9143 §9.1, RFC 8285 §5). Answers use the client's numbers; offers use those the
//! client is known to use, and the defaults below for the rest where they are free.

use crate::base::ids::{MediaKind, PayloadType};
use crate::wire::codec::{Codec, CodecMapping, H264Profile};
use crate::wire::extension::{Extension, ExtensionId, ExtensionMap};
use crate::wire::sdp::{CodecLine, Media, Section};

/// Codecs negotiated in one section at most; there are not more distinct ones.
pub const CODECS_MAX: usize = 32;

/// Whether feedback on each packet is negotiated (draft-holmer-rmcat-transport-wide-cc-extensions-01). Only while the
/// media plane gives it: Chromium takes its absence for a path that carries nothing, and falls to 90 kbit/s.
pub const TRANSPORT_WIDE: bool = true;

/// The codecs of a client's section that the server forwards, in the client's order, each once.
/// RED stays only beside the Opus it holds.
#[must_use]
pub fn supported(section: &Section) -> Vec<CodecLine> {
    let mut lines: Vec<CodecLine> = Vec::new();
    for line in &section.codecs {
        let codec = line.mapping.codec;
        if is_supported(codec)
            && lines.len() < CODECS_MAX
            && lines.iter().all(|known| known.mapping.codec != codec)
        {
            let mut line = *line;
            line.mapping.transport_cc &= TRANSPORT_WIDE;
            lines.push(line);
        }
    }
    if lines.iter().all(|line| line.mapping.codec == Codec::Red) {
        lines.clear();
    }
    lines
}

/// The header extensions of a client's section that the server negotiates; those that name simulcast
/// streams only where it has such streams (`has_rids`).
#[must_use]
pub fn supported_extensions(kind: MediaKind, section: &Section, has_rids: bool) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    let rids = [Extension::RtpStreamId, Extension::RepairedRtpStreamId];
    let rids = rids.into_iter().filter(|_| has_rids);
    for extension in extensions_of(kind).chain(rids) {
        if let Some(id) = section.extensions.id(extension) {
            map.insert(extension, id);
        }
    }
    map
}

fn is_supported(codec: Codec) -> bool {
    match codec {
        Codec::Opus | Codec::Red | Codec::Vp8 => true,
        Codec::Vp9 { profile } => matches!(profile, 0 | 2),
        Codec::Av1 { profile } => profile == 0,
        Codec::H264 { profile, .. } => profile != H264Profile::PredictiveHigh444,
    }
}

fn extensions_of(kind: MediaKind) -> impl Iterator<Item = Extension> {
    let all: &[Extension] = match kind {
        MediaKind::Audio => &[
            Extension::Mid,
            Extension::TransportSequenceNumber,
            Extension::AudioLevel,
            Extension::AbsSendTime,
            Extension::AbsCaptureTime,
        ],
        MediaKind::Video => &[
            Extension::Mid,
            Extension::TransportSequenceNumber,
            Extension::DependencyDescriptor,
            Extension::AbsSendTime,
            Extension::VideoOrientation,
            Extension::AbsCaptureTime,
            Extension::PlayoutDelay,
        ],
    };
    let is_used = |e: &Extension| TRANSPORT_WIDE || *e != Extension::TransportSequenceNumber;
    all.iter().copied().filter(is_used)
}

/// The numbers one client uses, as far as its descriptions told.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    codecs: Vec<(Codec, PayloadType, Option<PayloadType>)>,
    /// Payload types that stand for anything in the client's descriptions, a bit each.
    payload_types_taken: u128,
    extensions: ExtensionMap,
    extension_ids_taken: [u128; 2],
    /// The codecs of each kind in the client's order of preference.
    order: [Vec<Codec>; 2],
}

impl Numbers {
    /// Learns from a section of the client's.
    pub fn learn(&mut self, section: &Section) {
        for payload_type in &section.payload_types {
            self.payload_types_taken |= 1 << (payload_type.0 & 127);
        }
        for line in supported(section) {
            let CodecMapping {
                payload_type,
                codec,
                rtx,
                ..
            } = line.mapping;
            // What stood under these numbers, and the codec's former numbers, are void.
            self.codecs.retain(|(known, pt, known_rtx)| {
                let clashes = |n: PayloadType| *pt == n || *known_rtx == Some(n);
                *known != codec && !clashes(payload_type) && !rtx.is_some_and(clashes)
            });
            self.codecs.push((codec, payload_type, rtx));
        }
        for id in &section.extension_ids {
            self.extension_ids_taken[usize::from(id.value() >> 7)] |= 1 << (id.value() & 127);
        }
        for (extension, id) in section.extensions.iter() {
            self.extensions.insert(extension, id);
        }
    }

    /// Learns which codecs the client prefers, from an offer of its own: the first section of a kind in which
    /// it sends says so. Chromium sends the first codec of what it is offered, so an order of the server's
    /// own would overrule the page's.
    pub fn learn_order<'a>(&mut self, sections: impl Iterator<Item = &'a Section> + Clone) {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let of_kind = sections.clone().filter(|s| s.media == Media::Rtp(kind));
            if let Some(section) = of_kind.clone().find(|s| s.direction.sends()) {
                let lines = supported(section).into_iter();
                self.order[kind as usize] = lines.map(|line| line.mapping.codec).collect();
            }
        }
    }

    /// What the server offers for a new section of `kind`.
    #[must_use]
    pub fn offer(&self, kind: MediaKind) -> (Vec<CodecLine>, ExtensionMap) {
        (self.offer_codecs(kind), self.offer_extensions(kind))
    }

    fn offer_codecs(&self, kind: MediaKind) -> Vec<CodecLine> {
        let mut taken = self.payload_types_taken;
        for (_, pt, rtx) in &self.codecs {
            taken |= 1 << pt.0;
            taken |= rtx.map_or(0, |rtx| 1 << rtx.0);
        }
        let mut number = |default: u8| {
            let free = |pt: &u8| taken & (1 << *pt) == 0;
            let found = free(&default)
                .then_some(default)
                .or_else(|| SPARE.into_iter().flatten().find(free))?;
            taken |= 1 << found;
            Some(PayloadType(found))
        };
        let video = kind == MediaKind::Video;
        // Both kinds are numbered, so that a number is the same whichever kind is offered first.
        let mut lines: Vec<CodecLine> = DEFAULTS
            .iter()
            .filter_map(|&(codec, pt, rtx)| {
                let known = self.codecs.iter().find(|(known, ..)| *known == codec);
                let (payload_type, rtx) = match known {
                    Some((_, pt, rtx)) => (*pt, *rtx),
                    None => (number(pt)?, rtx.and_then(&mut number)),
                };
                Some(CodecLine {
                    mapping: CodecMapping {
                        payload_type,
                        codec,
                        rtx,
                        nack: video,
                        // As Chromium has it: of RED's packets the feedback is Opus's.
                        transport_cc: TRANSPORT_WIDE && codec != Codec::Red,
                        remb: video,
                    },
                    pli: video,
                    fir: video,
                    rrtr: false,
                })
            })
            .filter(|line| line.mapping.codec.kind() == kind)
            .collect();
        lines.sort_by_key(|line| {
            let order = &self.order[kind as usize];
            let place = order.iter().position(|codec| *codec == line.mapping.codec);
            place.unwrap_or(order.len())
        });
        lines
    }

    fn offer_extensions(&self, kind: MediaKind) -> ExtensionMap {
        let mut taken = self.extension_ids_taken;
        // Both kinds are numbered, so that an id is the same whichever kind is offered first.
        let mut all = self.extensions;
        for kind in [MediaKind::Audio, MediaKind::Video] {
            for extension in extensions_of(kind) {
                let Some(default) = default_id(extension).filter(|_| all.id(extension).is_none())
                else {
                    continue;
                };
                let free = std::iter::once(default)
                    .chain(1..=ONE_BYTE_ID_MAX)
                    .find(|id| taken[0] & (1 << id) == 0)
                    .and_then(ExtensionId::new);
                if let Some(id) = free {
                    taken[0] |= 1 << id.value();
                    all.insert(extension, id);
                }
            }
        }
        let mut map = ExtensionMap::default();
        for extension in extensions_of(kind) {
            if let Some(id) = all.id(extension) {
                map.insert(extension, id);
            }
        }
        map
    }
}

/// The id under which an extension is offered to a client that has named none: where one stands for something else in the
/// client's own sections, Chromium (seen with 156) makes an offer that it then refuses itself, and Firefox (153) counts on
/// from the highest id it has seen, for up to two of its own, and refuses ids above 14. So these are libwebrtc's defaults
/// up to 12. `VideoOrientation` (13 there) takes that of the layers allocation, which comes with simulcast only and which the SDK
/// leaves out. What no id is left for is offered only under one of the client's.
fn default_id(extension: Extension) -> Option<u8> {
    match extension {
        Extension::AudioLevel => Some(1),
        Extension::AbsSendTime => Some(2),
        Extension::TransportSequenceNumber => Some(3),
        Extension::Mid => Some(4),
        Extension::PlayoutDelay => Some(5),
        Extension::VideoOrientation => Some(9),
        Extension::DependencyDescriptor => Some(12),
        // 6–8 are content type, timing and colour space, 10 and 11 the names of simulcast streams.
        Extension::AbsCaptureTime | Extension::RtpStreamId | Extension::RepairedRtpStreamId => None,
    }
}

/// The highest id of the one-byte form (RFC 8285 §4.2).
const ONE_BYTE_ID_MAX: u8 = 14;

const fn h264(profile: H264Profile, packetization_mode: u8) -> Codec {
    Codec::H264 {
        profile,
        packetization_mode,
    }
}

/// Numbers for codecs whose own the client uses for something else: dynamic ones (RFC 3551 §6) and then
/// those that RFC 3551 leaves unassigned, none of them a default; 64–95 would look like RTCP (RFC 5761 §4).
const SPARE: [std::ops::RangeInclusive<u8>; 3] = [120..=127, 35..=44, 47..=62];

/// What the server offers, in its order of preference, with the payload types it uses where the
/// client has not named any: codec, its number, that of its retransmissions.
const DEFAULTS: [(Codec, u8, Option<u8>); 14] = [
    (Codec::Opus, 111, None),
    (Codec::Red, 63, None),
    (Codec::Vp8, 96, Some(97)),
    (Codec::Vp9 { profile: 0 }, 98, Some(99)),
    (Codec::Vp9 { profile: 2 }, 100, Some(101)),
    (h264(H264Profile::ConstrainedBaseline, 1), 102, Some(103)),
    (h264(H264Profile::ConstrainedBaseline, 0), 104, Some(105)),
    (h264(H264Profile::Baseline, 1), 106, Some(107)),
    (h264(H264Profile::Baseline, 0), 108, Some(109)),
    (h264(H264Profile::Main, 1), 112, Some(113)),
    (h264(H264Profile::Main, 0), 114, Some(115)),
    (h264(H264Profile::High, 1), 116, Some(117)),
    (h264(H264Profile::ConstrainedHigh, 1), 118, Some(119)),
    (Codec::Av1 { profile: 0 }, 45, Some(46)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdp::Description;

    const CHROMIUM: &str = include_str!("../../../fuzz/seeds/sdp/chromium-sendrecv.sdp");

    #[test]
    fn chromium_keeps_its_order_and_loses_the_unknown() {
        let description = Description::parse(CHROMIUM).unwrap();
        let numbers = |index: usize| -> Vec<u8> {
            supported(&description.sections[index])
                .iter()
                .map(|l| l.mapping.payload_type.0)
                .collect()
        };
        assert_eq!(numbers(0), [111, 63]);
        assert_eq!(numbers(1), [96, 102, 104, 108, 114, 116, 39, 45, 98, 100]);
        let ids = |has_rids| -> Vec<_> {
            let map = supported_extensions(MediaKind::Video, &description.sections[1], has_rids);
            map.iter().map(|(e, id)| (e, id.value())).collect()
        };
        let mut alone = vec![
            (Extension::Mid, 4),
            (Extension::VideoOrientation, 13),
            (Extension::PlayoutDelay, 5),
            (Extension::TransportSequenceNumber, 3),
            (Extension::AbsSendTime, 2),
        ];
        alone.retain(|(e, _)| TRANSPORT_WIDE || *e != Extension::TransportSequenceNumber);
        assert_eq!(ids(false), alone);
        let with_rids = ids(true);
        assert!(with_rids.contains(&(Extension::RtpStreamId, 10)));
        assert!(with_rids.contains(&(Extension::RepairedRtpStreamId, 11)));
        assert_eq!(with_rids.len(), alone.len() + 2);
    }

    #[test]
    fn red_alone_is_nothing() {
        let mut section = Description::parse(CHROMIUM).unwrap().sections.remove(0);
        section.codecs.retain(|l| l.mapping.codec == Codec::Red);
        assert!(supported(&section).is_empty());
    }

    #[test]
    fn offers_never_use_a_number_twice() {
        let mut numbers = Numbers::default();
        let check = |numbers: &Numbers| {
            let mut seen = numbers.payload_types_taken;
            for kind in [MediaKind::Audio, MediaKind::Video] {
                let (codecs, extensions) = numbers.offer(kind);
                assert!(!codecs.is_empty() && extensions.id(Extension::Mid).is_some());
                for line in codecs {
                    let known = numbers.codecs.iter().any(|c| c.0 == line.mapping.codec);
                    for pt in [Some(line.mapping.payload_type), line.mapping.rtx] {
                        let Some(pt) = pt else { continue };
                        if !known {
                            assert_eq!(seen & (1 << pt.0), 0, "{pt}");
                            seen |= 1 << pt.0;
                        }
                    }
                }
            }
        };
        check(&numbers);
        let description = Description::parse(CHROMIUM).unwrap();
        for section in &description.sections {
            numbers.learn(section);
        }
        check(&numbers);
        let (video, extensions) = numbers.offer(MediaKind::Video);
        let main = video
            .iter()
            .find(|l| l.mapping.codec == h264(H264Profile::Main, 0))
            .unwrap();
        assert_eq!(main.mapping.payload_type, PayloadType(39));
        assert_eq!(main.mapping.rtx, Some(PayloadType(40)));
        assert_eq!(
            extensions.id(Extension::VideoOrientation).unwrap().value(),
            13
        );
        // Every id may be one that Chromium has for something else.
        assert_eq!(extensions.id(Extension::AbsCaptureTime), None);
    }

    #[test]
    fn who_is_offered_first_finds_the_ids_it_has_itself() {
        let description = Description::parse(CHROMIUM).unwrap();
        let numbers = Numbers::default();
        for (kind, section) in [MediaKind::Audio, MediaKind::Video]
            .into_iter()
            .zip(&description.sections)
        {
            let (_, offered) = numbers.offer(kind);
            for (extension, id) in offered.iter() {
                let own = section.extensions.extension(id);
                let is_free = !section.extension_ids.contains(&id);
                assert!(is_free || own == Some(extension), "{extension:?}: {id}");
                // Firefox adds two above the highest.
                assert!(id.value() + 2 <= ONE_BYTE_ID_MAX);
            }
        }
    }

    #[test]
    fn a_number_that_changes_its_meaning_is_forgotten() {
        let mut numbers = Numbers::default();
        let mut section = Description::parse(CHROMIUM).unwrap().sections.remove(1);
        numbers.learn(&section);
        section.codecs.truncate(1);
        section.codecs[0].mapping.codec = Codec::Vp9 { profile: 0 };
        numbers.learn(&section);
        let (video, _) = numbers.offer(MediaKind::Video);
        let on_96: Vec<Codec> = video
            .iter()
            .filter(|l| l.mapping.payload_type.0 == 96)
            .map(|l| l.mapping.codec)
            .collect();
        assert_eq!(on_96, [Codec::Vp9 { profile: 0 }]);
        let vp8 = video.iter().find(|l| l.mapping.codec == Codec::Vp8);
        let vp8 = vp8.unwrap().mapping.payload_type;
        assert!(vp8 != PayloadType(96) && SPARE.iter().any(|r| r.contains(&vp8.0)));
    }

    #[test]
    fn a_codec_whose_number_is_taken_is_offered_under_another() {
        // GStreamer's first payload type is 96 whatever the codec: here Opus and RED on VP8's.
        let mut section = Description::parse(CHROMIUM).unwrap().sections.remove(0);
        section.payload_types = vec![PayloadType(96), PayloadType(97)];
        section.codecs.truncate(2);
        section.codecs[0].mapping.payload_type = PayloadType(96);
        section.codecs[1].mapping.payload_type = PayloadType(97);
        let mut numbers = Numbers::default();
        numbers.learn(&section);
        let (video, _) = numbers.offer(MediaKind::Video);
        assert_eq!(video[0].mapping.codec, Codec::Vp8);
        assert_eq!(video[0].mapping.payload_type, PayloadType(120));
        assert_eq!(video[0].mapping.rtx, Some(PayloadType(121)));
        assert_eq!(video.len(), 12, "none is missing");
    }

    #[test]
    fn spare_numbers_are_no_defaults() {
        for (_, pt, rtx) in DEFAULTS {
            for number in [Some(pt), rtx].into_iter().flatten() {
                assert!(SPARE.iter().all(|range| !range.contains(&number)));
            }
        }
    }
}
