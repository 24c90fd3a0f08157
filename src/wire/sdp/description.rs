//! Descriptions and their sections as values.

use std::fmt;

use crate::base::ids::{MediaKind, Mid, PayloadType, Ssrc};
use crate::wire::codec::CodecMapping;
use crate::wire::extension::{ExtensionId, ExtensionMap};
use crate::wire::sdp::simulcast::Simulcast;

/// An offer or an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// `sess-id` of the `o=` line.
    pub session_id: u64,
    /// `sess-version` of the `o=` line.
    pub session_version: u64,
    /// `a=ice-lite` (RFC 8839 §5.3).
    pub ice_lite: bool,
    /// The sections that share one transport (`a=group:BUNDLE`, RFC 9143); `None` without a group.
    pub bundle: Option<Vec<Mid>>,
    /// The media sections, by m-line index.
    pub sections: Vec<Section>,
}

/// One media section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it is for.
    pub media: Media,
    /// Its identification tag: unique in the description.
    pub mid: Mid,
    /// Port 0 without `a=bundle-only`: refused or stopped.
    pub rejected: bool,
    /// Who sends, seen from the describing side.
    pub direction: Direction,
    /// ICE user fragment and password, from the section or the session.
    pub ice: Option<IceLines>,
    /// Certificate hashes, from the section or the session.
    pub fingerprints: Vec<FingerprintLine>,
    /// Who opens DTLS, from the section or the session.
    pub setup: Option<Setup>,
    /// `a=rtcp-mux` (RFC 5761).
    pub rtcp_mux: bool,
    /// `a=rtcp-rsize` (RFC 5506).
    pub rtcp_rsize: bool,
    /// `a=rtcp-xr:rcvr-rtt` (RFC 3611 §5.1): a receiver may ask for its round trip.
    pub rtcp_xr_rtt: bool,
    /// `a=msid` (RFC 8830), the first of several.
    pub msid: Option<Msid>,
    /// The known codecs in the order of preference.
    pub codecs: Vec<CodecLine>,
    /// Every payload type of the m-line, known or not.
    pub payload_types: Vec<PayloadType>,
    /// The known header extensions.
    pub extensions: ExtensionMap,
    /// Every header extension id that is in use, known or not.
    pub extension_ids: Vec<ExtensionId>,
    /// SSRCs (`a=ssrc`, RFC 5576), without those that repair or protect others.
    pub ssrcs: Vec<Ssrc>,
    /// Pairs of (primary, RTX) SSRC (`a=ssrc-group:FID`).
    pub rtx_ssrcs: Vec<(Ssrc, Ssrc)>,
    /// The primary SSRCs of one source in several qualities, lowest first (`a=ssrc-group:SIM`, as libwebrtc has it);
    /// empty without such a group.
    pub simulcast_ssrcs: Vec<Ssrc>,
    /// `a=simulcast` with its `a=rid` lines.
    pub simulcast: Simulcast,
    /// The CNAME of the SSRCs.
    pub cname: Option<String>,
}

/// What a section is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// Audio or video over `UDP/TLS/RTP/SAVPF`.
    Rtp(MediaKind),
    /// Anything else, kept as it stands so that it can be refused in the same words.
    Other {
        /// The m-line's first word.
        media: String,
        /// Its protocol.
        proto: String,
        /// Its formats, at most [`FORMATS_ECHOED_MAX`](crate::wire::sdp::FORMATS_ECHOED_MAX).
        formats: Vec<String>,
    },
}

/// Who sends (RFC 8866 §6.7), seen from the describing side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// Only the describing side.
    SendOnly,
    /// Only the other side.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// From the two halves.
    #[must_use]
    pub fn new(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }

    /// Whether the describing side sends.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the describing side receives.
    #[must_use]
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    pub(crate) fn parse(key: &str) -> Option<Self> {
        Some(match key {
            "sendrecv" => Self::SendRecv,
            "sendonly" => Self::SendOnly,
            "recvonly" => Self::RecvOnly,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }
}

/// `a=ice-ufrag` and `a=ice-pwd` (RFC 8839 §5.4). `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct IceLines {
    /// 4–256 ice-chars.
    pub ufrag: String,
    /// 22–256 ice-chars.
    pub pwd: String,
}

impl fmt::Debug for IceLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceLines")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// `a=fingerprint` (RFC 8122 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FingerprintLine {
    /// The hash function in lower case, as `sha-256`.
    pub algorithm: String,
    /// The digest.
    pub digest: Vec<u8>,
}

/// `a=setup` (RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Sends the ClientHello.
    Active,
    /// Waits for it.
    Passive,
    /// Leaves it to the other side.
    ActPass,
}

impl Setup {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "active" => Self::Active,
            "passive" => Self::Passive,
            "actpass" => Self::ActPass,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::ActPass => "actpass",
        }
    }
}

/// `a=msid:<stream> [<track>]` (RFC 8830 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msid {
    /// The media stream, `-` for none.
    pub stream: String,
    /// The track, where named.
    pub track: Option<String>,
}

/// A codec of a section with the feedback that may be sent for it (RFC 4585 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecLine {
    /// Payload types, and the feedback that the media plane acts on.
    pub mapping: CodecMapping,
    /// `nack pli`.
    pub pli: bool,
    /// `ccm fir` (RFC 5104).
    pub fir: bool,
    /// `rrtr`: as [`Section::rtcp_xr_rtt`], the way libwebrtc said it at first.
    pub rrtr: bool,
}

/// Why a description cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdpError {
    /// More than [`LINES_MAX`](crate::wire::sdp::LINES_MAX) lines or a line of more than [`LINE_BYTES_MAX`](crate::wire::sdp::LINE_BYTES_MAX) bytes.
    TooLarge,
    /// Not lines in the order of RFC 8866 §5.
    Syntax,
    /// More than [`SECTIONS_PARSED_MAX`](crate::wire::sdp::SECTIONS_PARSED_MAX) sections.
    TooManySections,
    /// A section without `a=mid`, or one that is longer than 16 visible ASCII characters.
    Mid,
    /// Two sections with the same `a=mid`.
    DuplicateMid,
}

impl fmt::Display for SdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the description has too many or too long lines",
            Self::Syntax => "the text is not a session description",
            Self::TooManySections => "the description has too many media sections",
            Self::Mid => "a media section has no usable a=mid (1 to 16 visible ASCII characters)",
            Self::DuplicateMid => "two media sections have the same a=mid",
        })
    }
}

impl std::error::Error for SdpError {}

/// The protocol of audio and video sections (RFC 5764 §9).
pub(crate) const RTP_PROTO: &str = "UDP/TLS/RTP/SAVPF";
