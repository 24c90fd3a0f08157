//! From a publisher's payload types to a subscriber's: tables that are made once per change of
//! description.

use std::sync::Arc;

use crate::base::ids::PayloadType;
use crate::wire::codec::{Codec, CodecMapping, H264Profile};

/// What a payload type of a publisher carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Not negotiated.
    Unknown,
    /// Media of a codec.
    Media,
    /// Redundant audio.
    Red,
    /// Retransmissions.
    Rtx,
}

/// The kind of each payload type of one track, and what was agreed on for it.
#[derive(Debug, Clone)]
pub struct PayloadKinds {
    kinds: [PayloadKind; PAYLOAD_TYPES],
    /// A bit for each that may be asked for again (generic NACK).
    nacks: u128,
    /// Payload types of retransmissions, each with that of what it repairs.
    repairs: Vec<(PayloadType, PayloadType)>,
}

impl PayloadKinds {
    /// Lays the table out.
    pub fn new(codecs: &[CodecMapping]) -> Self {
        let mut kinds = [PayloadKind::Unknown; PAYLOAD_TYPES];
        let (mut nacks, mut repairs) = (0, Vec::new());
        for mapping in codecs {
            nacks |= u128::from(mapping.nack) << index(mapping.payload_type);
            if let Some(rtx) = mapping.rtx {
                kinds[index(rtx)] = PayloadKind::Rtx;
                repairs.push((rtx, mapping.payload_type));
            }
        }
        for mapping in codecs {
            kinds[index(mapping.payload_type)] = match mapping.codec {
                Codec::Red => PayloadKind::Red,
                _ => PayloadKind::Media,
            };
        }
        Self {
            kinds,
            nacks,
            repairs,
        }
    }

    /// What `payload_type` carries.
    pub fn get(&self, payload_type: PayloadType) -> PayloadKind {
        self.kinds[index(payload_type)]
    }

    /// Whether packets of `payload_type` may be asked for again.
    #[inline]
    pub fn is_repairable(&self, payload_type: PayloadType) -> bool {
        self.nacks & (1 << index(payload_type)) != 0
    }

    /// What retransmissions of `payload_type` repair (RFC 4588 §8.1, `apt`).
    pub fn repaired_by(&self, payload_type: PayloadType) -> Option<PayloadType> {
        let of = |(rtx, _): &&(PayloadType, PayloadType)| *rtx == payload_type;
        self.repairs.iter().find(of).map(|(_, original)| *original)
    }
}

/// What becomes of a publisher's payload type at one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The subscriber does not take it.
    None,
    /// Goes out under this payload type.
    As(PayloadType),
    /// Plain audio that the subscriber takes redundantly too.
    MakeRed {
        /// The payload type of redundant audio.
        red: PayloadType,
        /// That of each block in it, and of a packet that has nothing to repeat.
        plain: PayloadType,
    },
    /// Redundant audio: whole under this payload type, or only its primary block.
    Red(Option<PayloadType>),
}

/// The route of each of a publisher's payload types at one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes([Route; PAYLOAD_TYPES]);

impl Routes {
    /// A subscriber that takes nothing.
    pub fn none() -> Self {
        Self([Route::None; PAYLOAD_TYPES])
    }

    /// Maps each payload type of `source` to the best of `sink`: the same codec, else one that
    /// decodes it; the first in the subscriber's order of preference.
    pub fn new(source: &[CodecMapping], sink: &[CodecMapping]) -> Self {
        let mut routes = Self::none();
        for from in source {
            let fitting = |fits: fn(Codec, Codec) -> bool| {
                let mapping = sink.iter().find(|to| fits(from.codec, to.codec));
                mapping.map(|mapping| mapping.payload_type)
            };
            let to = fitting(|source, sink| source == sink)
                .or_else(|| fitting(decodes_same_mode))
                .or_else(|| fitting(decodes));
            let red = || sink.iter().find(|to| to.codec == Codec::Red);
            routes.0[index(from.payload_type)] = match (from.codec, to) {
                (Codec::Red, to) => Route::Red(to),
                (Codec::Opus, Some(plain)) if let Some(red) = red() => Route::MakeRed {
                    red: red.payload_type,
                    plain,
                },
                (_, Some(to)) => Route::As(to),
                (_, None) => Route::None,
            };
        }
        routes
    }

    /// Whether redundant audio is made of plain audio.
    pub fn makes_red(&self) -> bool {
        let makes_red = |route: &Route| matches!(route, Route::MakeRed { .. });
        self.0.iter().any(makes_red)
    }

    /// The route of `payload_type`.
    #[inline]
    pub fn get(&self, payload_type: PayloadType) -> Route {
        self.0[index(payload_type)]
    }
}

/// The routes of a room's subscriptions: whoever has the same shares them, as most do.
#[derive(Debug)]
pub struct RouteTables {
    none: Arc<Routes>,
    known: Vec<Arc<Routes>>,
}

impl Default for RouteTables {
    fn default() -> Self {
        Self {
            none: Arc::new(Routes::none()),
            known: Vec::new(),
        }
    }
}

impl RouteTables {
    /// [`Routes::none`].
    pub fn none(&self) -> Arc<Routes> {
        Arc::clone(&self.none)
    }

    /// [`Routes::new`].
    pub fn of(&mut self, source: &[CodecMapping], sink: &[CodecMapping]) -> Arc<Routes> {
        let routes = Routes::new(source, sink);
        if let Some(same) = self.known.iter().find(|known| ***known == routes) {
            return Arc::clone(same);
        }
        let routes = Arc::new(routes);
        if self.known.len() >= TABLES_MAX {
            self.known.retain(|known| Arc::strong_count(known) > 1);
        }
        if self.known.len() < TABLES_MAX {
            self.known.push(Arc::clone(&routes));
        }
        routes
    }
}

/// Different routes of one room that are shared at most; further subscriptions have their own. Each pair of kinds of
/// clients makes one or two for sound and for pictures.
const TABLES_MAX: usize = 64;

/// Payload types are seven bits (RFC 3550 §5.1).
const PAYLOAD_TYPES: usize = 128;

fn index(payload_type: PayloadType) -> usize {
    usize::from(payload_type.0) % PAYLOAD_TYPES
}

/// Whether a decoder of the H.264 profile of `sink` decodes `source`, packetized alike.
fn decodes_same_mode(source: Codec, sink: Codec) -> bool {
    let mode = |codec| match codec {
        Codec::H264 {
            packetization_mode, ..
        } => Some(packetization_mode),
        _ => None,
    };
    mode(source) == mode(sink) && decodes(source, sink)
}

/// Whether a decoder of the H.264 profile of `sink` decodes `source`. What mode 0 allows, mode 1
/// allows too (RFC 6184 §6.3).
fn decodes(source: Codec, sink: Codec) -> bool {
    match (source, sink) {
        (
            Codec::H264 {
                profile: from,
                packetization_mode: from_mode,
            },
            Codec::H264 {
                profile: to,
                packetization_mode: to_mode,
            },
        ) => from_mode <= to_mode && is_subset(from, to),
        _ => false,
    }
}

/// Whether every stream of profile `a` is one that a decoder of profile `b` takes (H.264 §A.2).
fn is_subset(a: H264Profile, b: H264Profile) -> bool {
    use H264Profile::{
        Baseline, ConstrainedBaseline, ConstrainedHigh, High, Main, PredictiveHigh444,
    };
    match a {
        ConstrainedBaseline => true,
        // Has slice groups and redundant slices, which no other profile decodes.
        Baseline => b == Baseline,
        // Has interlacing and B slices, which the constrained profiles lack.
        Main => matches!(b, Main | High | PredictiveHigh444),
        ConstrainedHigh => matches!(b, ConstrainedHigh | High | PredictiveHigh444),
        High => matches!(b, High | PredictiveHigh444),
        PredictiveHigh444 => b == PredictiveHigh444,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(payload_type: u8, codec: Codec) -> CodecMapping {
        CodecMapping {
            payload_type: PayloadType(payload_type),
            codec,
            rtx: (codec.kind() == crate::base::ids::MediaKind::Video)
                .then_some(PayloadType(payload_type + 1)),
            nack: false,
            transport_cc: false,
            remb: false,
        }
    }

    fn h264(profile: H264Profile, packetization_mode: u8) -> Codec {
        Codec::H264 {
            profile,
            packetization_mode,
        }
    }

    #[test]
    fn a_codec_goes_out_under_the_subscribers_payload_type() {
        let source = [
            mapping(96, Codec::Vp8),
            mapping(98, Codec::Vp9 { profile: 0 }),
            mapping(100, Codec::Vp9 { profile: 2 }),
            mapping(111, Codec::Opus),
            mapping(63, Codec::Red),
        ];
        let sink = [
            mapping(120, Codec::Vp9 { profile: 0 }),
            mapping(102, Codec::Vp8),
            mapping(109, Codec::Opus),
        ];
        let routes = Routes::new(&source, &sink);
        let cases = [
            (96, Route::As(PayloadType(102))),
            (98, Route::As(PayloadType(120))),
            (100, Route::None),
            (111, Route::As(PayloadType(109))),
            (63, Route::Red(None)),
            (97, Route::None),
            (0, Route::None),
        ];
        for (from, route) in cases {
            assert_eq!(routes.get(PayloadType(from)), route, "{from}");
        }
        assert!(!routes.makes_red());
        let with_red = [mapping(50, Codec::Red), mapping(51, Codec::Opus)];
        let with_red = Routes::new(&source, &with_red);
        assert_eq!(
            with_red.get(PayloadType(63)),
            Route::Red(Some(PayloadType(50)))
        );
        let made = Route::MakeRed {
            red: PayloadType(50),
            plain: PayloadType(51),
        };
        assert_eq!(with_red.get(PayloadType(111)), made);
        assert!(with_red.makes_red());
    }

    #[test]
    fn who_has_the_same_routes_shares_them() {
        let mut tables = RouteTables::default();
        let source = [mapping(96, Codec::Vp8)];
        let to = |payload_type| [mapping(payload_type, Codec::Vp8)];
        let first = tables.of(&source, &to(100));
        assert!(Arc::ptr_eq(&first, &tables.of(&source, &to(100))));
        assert!(!Arc::ptr_eq(&first, &tables.of(&source, &to(101))));
        assert_eq!(*tables.none(), Routes::none());
        // What nobody has any more makes room; what does not fit is not shared.
        for payload_type in 0..100 {
            let routes = tables.of(&source, &to(payload_type));
            assert_eq!(
                routes.get(PayloadType(96)),
                Route::As(PayloadType(payload_type))
            );
        }
        assert!(tables.known.len() <= TABLES_MAX);
        assert!(Arc::ptr_eq(&first, &tables.of(&source, &to(100))));
        let kept: Vec<_> = (0..100).map(|pt| tables.of(&source, &to(pt))).collect();
        assert_eq!(tables.known.len(), TABLES_MAX);
        assert!(!Arc::ptr_eq(&kept[99], &tables.of(&source, &to(99))));
    }

    #[test]
    fn h264_goes_to_the_same_profile_else_to_one_that_decodes_it() {
        use H264Profile::*;
        let sink = [
            mapping(10, h264(High, 1)),
            mapping(12, h264(Baseline, 1)),
            mapping(14, h264(ConstrainedBaseline, 0)),
            mapping(16, h264(ConstrainedBaseline, 1)),
        ];
        let cases = [
            (h264(ConstrainedBaseline, 1), Route::As(PayloadType(16))),
            (h264(ConstrainedBaseline, 0), Route::As(PayloadType(14))),
            (h264(Main, 1), Route::As(PayloadType(10))),
            (h264(ConstrainedHigh, 1), Route::As(PayloadType(10))),
            (h264(Baseline, 1), Route::As(PayloadType(12))),
            // No sink has its mode; mode 1 takes what mode 0 may carry.
            (h264(High, 0), Route::As(PayloadType(10))),
            (h264(PredictiveHigh444, 1), Route::None),
        ];
        for (codec, route) in cases {
            let routes = Routes::new(&[mapping(96, codec)], &sink);
            assert_eq!(routes.get(PayloadType(96)), route, "{codec:?}");
        }
        let mode_0_only = Routes::new(&[mapping(96, h264(Main, 1))], &[mapping(10, h264(High, 0))]);
        assert_eq!(mode_0_only.get(PayloadType(96)), Route::None);
    }

    #[test]
    fn kinds_know_media_red_and_retransmissions() {
        let kinds = PayloadKinds::new(&[mapping(96, Codec::Vp8), mapping(63, Codec::Red)]);
        let cases = [
            (96, PayloadKind::Media),
            (97, PayloadKind::Rtx),
            (63, PayloadKind::Red),
            (111, PayloadKind::Unknown),
        ];
        for (payload_type, kind) in cases {
            assert_eq!(kinds.get(PayloadType(payload_type)), kind);
        }
        let repaired = |pt| kinds.repaired_by(PayloadType(pt));
        assert_eq!(repaired(97), Some(PayloadType(96)));
        assert_eq!(repaired(96), None);
        let asks = CodecMapping {
            nack: true,
            ..mapping(96, Codec::Vp8)
        };
        assert!(PayloadKinds::new(&[asks]).is_repairable(PayloadType(96)));
        assert!(!kinds.is_repairable(PayloadType(96)));
    }
}
