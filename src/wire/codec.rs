//! The codecs this server forwards, as values that compare: two payload types carry the same thing
//! exactly when their [`Codec`]s are equal.

use crate::base::ids::{ClockRate, MediaKind, PayloadType};

/// A codec with the parameters that decide whether one side can decode what the other sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Opus (RFC 7587).
    Opus,
    /// Redundant Opus, `audio/red` (RFC 2198).
    Red,
    /// VP8 (RFC 7741).
    Vp8,
    /// VP9 (RFC 9628) of one profile (0–3).
    Vp9 {
        /// `profile-id`, 0 where absent.
        profile: u8,
    },
    /// H.264 (RFC 6184).
    H264 {
        /// From `profile-level-id`.
        profile: H264Profile,
        /// `packetization-mode`: 0 or 1.
        packetization_mode: u8,
    },
    /// AV1 (AV1 RTP specification) of one profile (0–2).
    Av1 {
        /// `profile`, 0 where absent.
        profile: u8,
    },
}

/// The H.264 profiles that WebRTC endpoints use (RFC 6184 §8.1, table 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum H264Profile {
    /// 42e0xx and its equals.
    ConstrainedBaseline,
    /// 4200xx.
    Baseline,
    /// 4d00xx.
    Main,
    /// 640cxx.
    ConstrainedHigh,
    /// 6400xx.
    High,
    /// f400xx.
    PredictiveHigh444,
}

impl Codec {
    /// Audio or video.
    #[must_use]
    pub fn kind(self) -> MediaKind {
        match self {
            Self::Opus | Self::Red => MediaKind::Audio,
            _ => MediaKind::Video,
        }
    }

    /// The RTP clock rate.
    #[must_use]
    pub fn clock_rate(self) -> ClockRate {
        match self.kind() {
            MediaKind::Audio => ClockRate(48_000),
            MediaKind::Video => ClockRate(90_000),
        }
    }
}

/// One payload type of one peer and what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecMapping {
    /// The peer's payload type for the codec.
    pub payload_type: PayloadType,
    /// What it carries.
    pub codec: Codec,
    /// The peer's payload type for retransmissions of it (RFC 4588), where negotiated.
    pub rtx: Option<PayloadType>,
    /// Whether generic NACK (RFC 4585 §6.2.1) was negotiated for it.
    pub nack: bool,
}
