//! How browsers differ: payload types, header extension ids, SRTP profiles, habits.

use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile as DtlsProfile;

use crate::support::media::{LEVEL_URI, MID_URI, TRANSPORT_CC_URI};
use crate::support::sdp::CodecLine;

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Chromium's numbers and its order of SRTP profiles.
    Chromium,
    /// Firefox's.
    Firefox,
    /// One that shares no number with either, knows no RTX and only the oldest SRTP profile.
    Odd,
    /// One that offers AES-256-GCM alone.
    Aes256,
    /// Chromium as it is: it says when packets arrive.
    Reporting,
    /// That, as the SDK makes it: sound is asked for again too.
    Repairing,
}

impl Flavor {
    pub const ALL: [Self; 4] = [Self::Chromium, Self::Firefox, Self::Odd, Self::Aes256];

    pub fn profiles(self) -> Vec<DtlsProfile> {
        const SHA1: DtlsProfile = DtlsProfile::Srtp_Aes128_Cm_Hmac_Sha1_80;
        const GCM128: DtlsProfile = DtlsProfile::Srtp_Aead_Aes_128_Gcm;
        const GCM256: DtlsProfile = DtlsProfile::Srtp_Aead_Aes_256_Gcm;
        match self {
            Self::Chromium | Self::Reporting | Self::Repairing => vec![SHA1, GCM256, GCM128],
            Self::Firefox => vec![GCM128, GCM256, SHA1],
            Self::Odd => vec![SHA1],
            Self::Aes256 => vec![GCM256],
        }
    }

    /// Whether it says when packets arrive (transport-cc).
    pub fn gives_feedback(self) -> bool {
        matches!(self, Self::Reporting | Self::Repairing)
    }

    pub fn has_rtx(self) -> bool {
        self != Self::Odd
    }

    pub fn codecs(self, video: bool) -> Vec<CodecLine> {
        let (opus, red, vp8, rtx, h264, h264_rtx) = match self {
            Self::Chromium | Self::Reporting | Self::Repairing => (111, 63, 96, 97, 103, 104),
            Self::Firefox => (109, 0, 120, 124, 126, 127),
            Self::Odd => (98, 0, 102, 0, 0, 0),
            Self::Aes256 => (96, 97, 100, 101, 0, 0),
        };
        let mut codecs = Vec::new();
        let video_feedback = match self.gives_feedback() {
            true => VIDEO_FEEDBACK,
            false => &VIDEO_FEEDBACK[1..],
        };
        if video {
            codecs.push(line(vp8, "VP8/90000", None, video_feedback));
            if rtx != 0 {
                codecs.push(line(rtx, "rtx/90000", Some(format!("apt={vp8}")), &[]));
            }
            if h264 != 0 {
                let fmtp = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";
                codecs.push(line(h264, "H264/90000", Some(fmtp.into()), video_feedback));
                let fmtp = Some(format!("apt={h264}"));
                codecs.push(line(h264_rtx, "rtx/90000", fmtp, &[]));
            }
        } else {
            let fmtp = Some("minptime=10;useinbandfec=1".into());
            let feedback: &[&str] = match self {
                Self::Repairing => &["nack", "transport-cc"],
                Self::Reporting => &["transport-cc"],
                _ => &[],
            };
            codecs.push(line(opus, "opus/48000/2", fmtp, feedback));
            if red != 0 {
                let fmtp = Some(format!("{opus}/{opus}"));
                codecs.push(line(red, "red/48000/2", fmtp, &[]));
            }
            codecs.push(line(8, "PCMA/8000", None, &[]));
        }
        codecs
    }

    pub fn extensions(self, video: bool) -> Vec<(u8, String)> {
        let (mid, level, time) = match self {
            Self::Chromium | Self::Reporting | Self::Repairing => (4, 1, 2),
            Self::Firefox => (3, 1, 4),
            Self::Odd => (14, 13, 12),
            Self::Aes256 => (1, 10, 9),
        };
        let mut extensions = vec![
            (
                time,
                "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time".to_owned(),
            ),
            (mid, MID_URI.to_owned()),
        ];
        if !video {
            extensions.insert(0, (level, LEVEL_URI.to_owned()));
        }
        if self.gives_feedback() {
            extensions.push((3, TRANSPORT_CC_URI.to_owned()));
        }
        extensions
    }
}

/// `transport-cc` first: who does not say when packets arrive must not offer to.
const VIDEO_FEEDBACK: &[&str] = &["transport-cc", "goog-remb", "ccm fir", "nack", "nack pli"];

fn line(payload_type: u8, rtpmap: &str, fmtp: Option<String>, feedback: &[&str]) -> CodecLine {
    CodecLine {
        payload_type,
        rtpmap: rtpmap.to_owned(),
        fmtp,
        feedback: feedback.iter().map(|f| (*f).to_owned()).collect(),
    }
}
