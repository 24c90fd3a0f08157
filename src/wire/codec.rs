//! The codecs this server forwards, as values that compare: two payload types carry the same thing
//! exactly when their [`Codec`]s are equal. Reads them from `a=rtpmap` and `a=fmtp` and writes them
//! back (RFC 8866 §6.6, §6.15).

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

    /// The codec that an `a=rtpmap` value (without the payload type, as `VP8/90000`) and its
    /// `a=fmtp` parameters (empty where absent) name; `None` for what this server does not know.
    #[must_use]
    pub fn parse(kind: MediaKind, rtpmap: &str, fmtp: &str) -> Option<Self> {
        let mut parts = rtpmap.trim().split('/');
        let name = parts.next()?;
        let clock: u32 = parts.next()?.parse().ok()?;
        let channels = parts.next();
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let codec = match kind {
            // Opus is always announced with two channels (RFC 7587 §7).
            MediaKind::Audio if is("opus") && channels == Some("2") => Self::Opus,
            MediaKind::Audio if is("red") && channels == Some("2") => Self::Red,
            MediaKind::Video if is("VP8") => Self::Vp8,
            MediaKind::Video if is("VP9") => Self::Vp9 {
                profile: small_number(fmtp, "profile-id", 3)?,
            },
            MediaKind::Video if is("AV1") => Self::Av1 {
                profile: small_number(fmtp, "profile", 2)?,
            },
            MediaKind::Video if is("H264") => Self::H264 {
                profile: match fmtp_parameter(fmtp, "profile-level-id") {
                    Some(text) => H264Profile::parse(text)?,
                    // RFC 6184 §8.1 says Baseline; libwebrtc takes what it itself sends.
                    None => H264Profile::ConstrainedBaseline,
                },
                packetization_mode: small_number(fmtp, "packetization-mode", 1)?,
            },
            _ => return None,
        };
        (codec.clock_rate() == ClockRate(clock)).then_some(codec)
    }

    /// The `a=rtpmap` value, without the payload type.
    #[must_use]
    pub fn rtpmap(self) -> &'static str {
        match self {
            Self::Opus => "opus/48000/2",
            Self::Red => "red/48000/2",
            Self::Vp8 => "VP8/90000",
            Self::Vp9 { .. } => "VP9/90000",
            Self::H264 { .. } => "H264/90000",
            Self::Av1 { .. } => "AV1/90000",
        }
    }

    /// The `a=fmtp` parameters, without the payload type; empty where the codec has none.
    ///
    /// RED names the payload types it may hold (RFC 2198 §5): `opus` is that of Opus.
    #[must_use]
    pub fn fmtp(self, opus: Option<PayloadType>) -> String {
        match self {
            Self::Opus => "minptime=10;useinbandfec=1".to_owned(),
            Self::Red => opus.map(|pt| format!("{pt}/{pt}")).unwrap_or_default(),
            Self::Vp8 => String::new(),
            Self::Vp9 { profile } => format!("profile-id={profile}"),
            Self::H264 {
                profile,
                packetization_mode,
            } => format!(
                "level-asymmetry-allowed=1;packetization-mode={packetization_mode};profile-level-id={}",
                profile.profile_level_id()
            ),
            // Level 3.1 and the main tier are the defaults (AV1 RTP specification §7.2.1).
            Self::Av1 { profile } => format!("level-idx=5;profile={profile};tier=0"),
        }
    }
}

impl H264Profile {
    /// From six hexadecimal digits: `profile_idc`, `profile-iop`, `level_idc` (RFC 6184 §8.1, table
    /// 5). The level is not kept: WebRTC endpoints let it differ (`level-asymmetry-allowed`).
    #[must_use]
    pub fn parse(profile_level_id: &str) -> Option<Self> {
        let text = profile_level_id.trim();
        if text.len() != 6 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let number = u32::from_str_radix(text, 16).ok()?;
        let (idc, iop) = ((number >> 16) as u8, (number >> 8) as u8);
        match idc {
            0x42 if iop & 0x4f == 0x40 => Some(Self::ConstrainedBaseline),
            0x4d if iop & 0x8f == 0x80 => Some(Self::ConstrainedBaseline),
            0x58 if iop & 0xcf == 0xc0 => Some(Self::ConstrainedBaseline),
            0x42 if iop & 0x4f == 0x00 => Some(Self::Baseline),
            0x58 if iop & 0xcf == 0x80 => Some(Self::Baseline),
            0x4d if iop & 0xaf == 0x00 => Some(Self::Main),
            0x64 if iop == 0x00 => Some(Self::High),
            0x64 if iop == 0x0c => Some(Self::ConstrainedHigh),
            0xf4 if iop == 0x00 => Some(Self::PredictiveHigh444),
            _ => None,
        }
    }

    /// The usual spelling, with level 3.1 (720p at 30 frames/s), which every WebRTC endpoint names.
    #[must_use]
    pub fn profile_level_id(self) -> &'static str {
        match self {
            Self::ConstrainedBaseline => "42e01f",
            Self::Baseline => "42001f",
            Self::Main => "4d001f",
            Self::ConstrainedHigh => "640c1f",
            Self::High => "64001f",
            Self::PredictiveHigh444 => "f4001f",
        }
    }
}

/// The value of one `key=value` parameter of an `a=fmtp` line, keys compared without case.
#[must_use]
pub fn fmtp_parameter<'a>(fmtp: &'a str, key: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case(key)
            .then_some(value.trim())
    })
}

/// A parameter that counts from 0 (its default) to `max`.
fn small_number(fmtp: &str, key: &str, max: u8) -> Option<u8> {
    match fmtp_parameter(fmtp, key) {
        None => Some(0),
        Some(text) => text.parse().ok().filter(|number| *number <= max),
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
    /// Whether congestion feedback for each packet was negotiated for it (`transport-cc`,
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01).
    pub transport_cc: bool,
    /// Whether REMB was negotiated for it (`goog-remb`, draft-alvestrand-rmcat-remb-03).
    pub remb: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_browsers_write() {
        let audio = |rtpmap| Codec::parse(MediaKind::Audio, rtpmap, "");
        assert_eq!(audio("opus/48000/2"), Some(Codec::Opus));
        assert_eq!(audio("OPUS/48000/2"), Some(Codec::Opus));
        assert_eq!(audio("red/48000/2"), Some(Codec::Red));
        assert_eq!(audio("multiopus/48000/6"), None);
        assert_eq!(audio("opus/16000/2"), None);
        assert_eq!(audio("PCMU/8000"), None);
        assert_eq!(audio("VP8/90000"), None);

        let video = |rtpmap, fmtp| Codec::parse(MediaKind::Video, rtpmap, fmtp);
        let h264 = |profile, packetization_mode| {
            Some(Codec::H264 {
                profile,
                packetization_mode,
            })
        };
        use H264Profile::*;
        let cases = [
            ("VP8/90000", "", Some(Codec::Vp8)),
            ("VP8/48000", "", None),
            ("red/90000", "", None),
            ("H265/90000", "", None),
            ("VP9/90000", "", Some(Codec::Vp9 { profile: 0 })),
            ("VP9/90000", "profile-id=2", Some(Codec::Vp9 { profile: 2 })),
            ("VP9/90000", "max-fs=12288;profile-id=9", None),
            (
                "AV1/90000",
                "level-idx=5;profile=0;tier=0",
                Some(Codec::Av1 { profile: 0 }),
            ),
            ("H264/90000", "", h264(ConstrainedBaseline, 0)),
            (
                "H264/90000",
                "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f",
                h264(Baseline, 1),
            ),
            (
                "H264/90000",
                "profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1",
                h264(ConstrainedBaseline, 1),
            ),
            ("H264/90000", "profile-level-id=4d0032", h264(Main, 0)),
            (
                "H264/90000",
                "packetization-mode=1; profile-level-id=640C34",
                h264(ConstrainedHigh, 1),
            ),
            ("H264/90000", "profile-level-id=64001f", h264(High, 0)),
            (
                "H264/90000",
                "profile-level-id=f4001f",
                h264(PredictiveHigh444, 0),
            ),
            ("H264/90000", "profile-level-id=+2e01f", None),
            ("H264/90000", "packetization-mode=2", None),
            ("H264", "", None),
        ];
        for (rtpmap, fmtp, expected) in cases {
            assert_eq!(video(rtpmap, fmtp), expected, "{rtpmap} {fmtp}");
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        use H264Profile::*;
        let mut codecs = vec![
            Codec::Opus,
            Codec::Red,
            Codec::Vp8,
            Codec::Vp9 { profile: 2 },
            Codec::Av1 { profile: 0 },
        ];
        for profile in [
            ConstrainedBaseline,
            Baseline,
            Main,
            ConstrainedHigh,
            High,
            PredictiveHigh444,
        ] {
            for packetization_mode in [0, 1] {
                codecs.push(Codec::H264 {
                    profile,
                    packetization_mode,
                });
            }
        }
        for codec in codecs {
            let fmtp = codec.fmtp(Some(PayloadType(111)));
            assert_eq!(
                Codec::parse(codec.kind(), codec.rtpmap(), &fmtp),
                Some(codec)
            );
        }
        assert_eq!(Codec::Red.fmtp(Some(PayloadType(111))), "111/111");
    }
}
