//! Session descriptions (RFC 8866, RFC 8829) as the sections an offer/answer policy needs.
//!
//! `rtc-sdp` cuts the text into lines and puts it together again; this module gives the attributes
//! their meaning, in one type for both directions, and bounds what a hostile description may cost.
//! It knows nothing of tracks, subscriptions or who offers.

use std::collections::HashSet;
use std::fmt;
use std::io::Cursor;

use rtc_sdp::description::common::{Address, Attribute, ConnectionInformation};
use rtc_sdp::description::media::{MediaDescription, MediaName, RangedPort};
use rtc_sdp::description::session::{Origin, SessionDescription, TimeDescription, Timing};

use crate::base::ids::{MediaKind, Mid, PayloadType, Ssrc};
use crate::wire::codec::{Codec, CodecMapping, fmtp_parameter};
use crate::wire::extension::{Extension, ExtensionId, ExtensionMap};

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
        /// Its formats, at most [`FORMATS_ECHOED_MAX`].
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

    fn parse(key: &str) -> Option<Self> {
        Some(match key {
            "sendrecv" => Self::SendRecv,
            "sendonly" => Self::SendOnly,
            "recvonly" => Self::RecvOnly,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
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
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "active" => Self::Active,
            "passive" => Self::Passive,
            "actpass" => Self::ActPass,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
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
    /// Payload types and generic NACK.
    pub mapping: CodecMapping,
    /// `nack pli`.
    pub pli: bool,
    /// `ccm fir` (RFC 5104).
    pub fir: bool,
}

/// Why a description cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdpError {
    /// More than [`LINES_MAX`] lines or a line of more than [`LINE_BYTES_MAX`] bytes.
    TooLarge,
    /// Not lines in the order of RFC 8866 §5.
    Syntax,
    /// More than [`SECTIONS_PARSED_MAX`] sections.
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

/// Lines read at most. Chromium writes about 110 for a video section.
pub const LINES_MAX: usize = 32_768;
/// Bytes of one line read at most.
pub const LINE_BYTES_MAX: usize = 8_192;
/// Sections read at most.
pub const SECTIONS_PARSED_MAX: usize = 256;
/// SSRCs and SSRC groups of a section read at most; further ones are ignored.
pub const SSRCS_MAX: usize = 32;
/// Certificate hashes of a section read at most; further ones are ignored.
pub const FINGERPRINTS_MAX: usize = 8;
/// `a=rtpmap` and `a=fmtp` lines of a section read at most: twice the payload types there are.
pub const FORMAT_LINES_MAX: usize = 256;
/// `a=rtcp-fb` lines of a section read at most.
pub const FEEDBACK_LINES_MAX: usize = 1_024;
/// `a=extmap` lines of a section read at most.
pub const EXTMAPS_MAX: usize = 64;
/// Formats of an unknown section kept at most.
pub const FORMATS_ECHOED_MAX: usize = 8;

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// [`SdpError`] for what is not SDP, breaks a bound, or has sections that cannot be told apart.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        let mut lines = 0;
        for line in text.split('\n') {
            lines += 1;
            if lines > LINES_MAX || line.len() > LINE_BYTES_MAX {
                return Err(SdpError::TooLarge);
            }
        }
        let parsed = SessionDescription::unmarshal(&mut Cursor::new(text.as_bytes()))
            .map_err(|_| SdpError::Syntax)?;
        if parsed.media_descriptions.len() > SECTIONS_PARSED_MAX {
            return Err(SdpError::TooManySections);
        }
        let session = Attributes::new(
            parsed
                .attributes
                .iter()
                .map(|a| (a.key.as_str(), a.value.as_deref().unwrap_or(""))),
        );
        let mut mids = HashSet::new();
        let mut sections = Vec::with_capacity(parsed.media_descriptions.len());
        for media in &parsed.media_descriptions {
            let section = parse_section(media, &session)?;
            if !mids.insert(section.mid) {
                return Err(SdpError::DuplicateMid);
            }
            sections.push(section);
        }
        Ok(Self {
            session_id: parsed.origin.session_id,
            session_version: parsed.origin.session_version,
            ice_lite: parsed.attributes.iter().any(|a| a.key == "ice-lite"),
            bundle: parsed
                .attributes
                .iter()
                .filter(|a| a.key == "group")
                .find_map(|a| {
                    let mut words = a.value.as_deref()?.split_whitespace();
                    (words.next()? == "BUNDLE").then(|| words.filter_map(Mid::new).collect())
                }),
            sections,
        })
    }

    /// The section named `mid`.
    #[must_use]
    pub fn section(&self, mid: Mid) -> Option<&Section> {
        self.sections.iter().find(|s| s.mid == mid)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut session = SessionDescription {
            origin: Origin {
                username: "-".to_owned(),
                session_id: self.session_id,
                session_version: self.session_version,
                network_type: "IN".to_owned(),
                address_type: "IP4".to_owned(),
                unicast_address: "127.0.0.1".to_owned(),
            },
            session_name: "-".to_owned(),
            time_descriptions: vec![TimeDescription {
                timing: Timing {
                    start_time: 0,
                    stop_time: 0,
                },
                repeat_times: Vec::new(),
            }],
            ..SessionDescription::default()
        };
        if let Some(mids) = &self.bundle {
            let mut group = "BUNDLE".to_owned();
            for mid in mids {
                group.push(' ');
                group.push_str(mid.as_str());
            }
            session = session.with_value_attribute("group".to_owned(), group);
        }
        if self.ice_lite {
            session = session.with_property_attribute("ice-lite".to_owned());
        }
        session = session
            .with_value_attribute("ice-options".to_owned(), "trickle".to_owned())
            .with_property_attribute("extmap-allow-mixed".to_owned())
            .with_value_attribute("msid-semantic".to_owned(), " WMS *".to_owned());
        for section in &self.sections {
            session = session.with_media(print_section(section));
        }
        fmt::Display::fmt(&session, f)
    }
}

/// What of the session level holds for every section, and what a section says itself.
#[derive(Default)]
struct Attributes<'a> {
    direction: Option<Direction>,
    ufrag: Option<&'a str>,
    pwd: Option<&'a str>,
    fingerprints: Vec<FingerprintLine>,
    setup: Option<Setup>,
    mid: Option<&'a str>,
    bundle_only: bool,
    rtcp_mux: bool,
    rtcp_rsize: bool,
    msid: Option<Msid>,
    rtpmaps: Vec<(u8, &'a str)>,
    fmtps: Vec<(u8, &'a str)>,
    feedback: Vec<(Option<u8>, &'a str)>,
    extmaps: Vec<(ExtensionId, &'a str)>,
    ssrcs: Vec<Ssrc>,
    cname: Option<String>,
    groups: Vec<(&'a str, Ssrc, Ssrc)>,
}

impl<'a> Attributes<'a> {
    fn new(lines: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut this = Self::default();
        for (key, value) in lines {
            this.read(key, value.trim());
        }
        this
    }

    fn read(&mut self, key: &'a str, value: &'a str) {
        match key {
            "mid" => self.mid = Some(value),
            "ice-ufrag" => self.ufrag = Some(value),
            "ice-pwd" => self.pwd = Some(value),
            "setup" => self.setup = Setup::parse(value),
            "bundle-only" => self.bundle_only = true,
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp-rsize" => self.rtcp_rsize = true,
            "fingerprint" => {
                let line = parse_fingerprint(value);
                push_bounded(&mut self.fingerprints, FINGERPRINTS_MAX, line);
            }
            "msid" if self.msid.is_none() => {
                let mut words = value.split_whitespace();
                self.msid = words.next().map(|stream| Msid {
                    stream: stream.to_owned(),
                    track: words.next().map(str::to_owned),
                });
            }
            "rtpmap" => push_bounded(&mut self.rtpmaps, FORMAT_LINES_MAX, numbered(value)),
            "fmtp" => push_bounded(&mut self.fmtps, FORMAT_LINES_MAX, numbered(value)),
            "rtcp-fb" => {
                if let Some((number, rest)) = value.split_once(char::is_whitespace) {
                    let number = number.parse().ok().filter(|n| *n < 128);
                    if number.is_some() || value.starts_with("* ") {
                        let line = (number, rest.trim());
                        push_bounded(&mut self.feedback, FEEDBACK_LINES_MAX, [line]);
                    }
                }
            }
            "extmap" => push_bounded(&mut self.extmaps, EXTMAPS_MAX, parse_extmap(value)),
            "ssrc" => self.read_ssrc(value),
            "ssrc-group" => {
                let mut words = value.split_whitespace();
                let semantics = words.next().unwrap_or("");
                let mut ssrc = || words.next().and_then(|w| w.parse().ok()).map(Ssrc);
                if let (Some(primary), Some(other)) = (ssrc(), ssrc()) {
                    push_bounded(&mut self.groups, SSRCS_MAX, [(semantics, primary, other)]);
                }
            }
            _ => {
                if let Some(direction) = Direction::parse(key) {
                    self.direction = Some(direction);
                }
            }
        }
    }

    fn read_ssrc(&mut self, value: &str) {
        let (number, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        let Some(ssrc) = number.parse().ok().map(Ssrc) else {
            return;
        };
        if !self.ssrcs.contains(&ssrc) && self.ssrcs.len() < SSRCS_MAX {
            self.ssrcs.push(ssrc);
        }
        if let Some(cname) = rest.trim().strip_prefix("cname:")
            && self.cname.is_none()
        {
            self.cname = Some(cname.to_owned());
        }
    }

    /// The last line of `lines` for `number`.
    fn last(lines: &[(u8, &'a str)], number: u8) -> Option<&'a str> {
        lines
            .iter()
            .rev()
            .find(|(n, _)| *n == number)
            .map(|(_, text)| *text)
    }

    fn codecs(&self, kind: MediaKind, payload_types: &[PayloadType]) -> Vec<CodecLine> {
        let mut codecs: Vec<CodecLine> = Vec::new();
        let mut repairs: Vec<(PayloadType, PayloadType)> = Vec::new();
        for &payload_type in payload_types {
            let Some(rtpmap) = Self::last(&self.rtpmaps, payload_type.0) else {
                continue;
            };
            let fmtp = Self::last(&self.fmtps, payload_type.0).unwrap_or("");
            if let Some(codec) = Codec::parse(kind, rtpmap, fmtp) {
                let allows = |what: &str| {
                    self.feedback
                        .iter()
                        .any(|(n, fb)| n.is_none_or(|n| n == payload_type.0) && *fb == what)
                };
                let video = kind == MediaKind::Video;
                codecs.push(CodecLine {
                    mapping: CodecMapping {
                        payload_type,
                        codec,
                        rtx: None,
                        nack: video && allows("nack"),
                    },
                    pli: video && allows("nack pli"),
                    fir: video && allows("ccm fir"),
                });
            } else if rtpmap
                .get(..4)
                .is_some_and(|n| n.eq_ignore_ascii_case("rtx/"))
                && let Some(apt) = fmtp_parameter(fmtp, "apt").and_then(|apt| apt.parse().ok())
            {
                repairs.push((PayloadType(apt), payload_type));
            }
        }
        for (primary, repair) in repairs {
            if let Some(line) = codecs
                .iter_mut()
                .find(|c| c.mapping.payload_type == primary && c.mapping.rtx.is_none())
            {
                line.mapping.rtx = Some(repair);
            }
        }
        codecs
    }
}

fn parse_section(media: &MediaDescription, session: &Attributes<'_>) -> Result<Section, SdpError> {
    let own = Attributes::new(
        media
            .attributes
            .iter()
            .map(|a| (a.key.as_str(), a.value.as_deref().unwrap_or(""))),
    );
    let name = &media.media_name;
    let proto = name.protos.join("/");
    let kind = match name.media.as_str() {
        "audio" => Some(MediaKind::Audio),
        "video" => Some(MediaKind::Video),
        _ => None,
    }
    .filter(|_| proto == RTP_PROTO || proto == "RTP/SAVPF");
    let payload_types = kind.map_or_else(Vec::new, |_| payload_types(&name.formats));
    let (extensions, extension_ids) = extensions(own.extmaps.iter().chain(&session.extmaps));
    let ice = match (own.ufrag.or(session.ufrag), own.pwd.or(session.pwd)) {
        (Some(ufrag), Some(pwd)) => Some(IceLines {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
        }),
        _ => None,
    };
    let secondary = |ssrc: &Ssrc| own.groups.iter().any(|g| g.0 != "SIM" && g.2 == *ssrc);
    Ok(Section {
        mid: own.mid.and_then(Mid::new).ok_or(SdpError::Mid)?,
        rejected: name.port.value == 0 && !own.bundle_only,
        direction: own
            .direction
            .or(session.direction)
            .unwrap_or(Direction::SendRecv),
        ice,
        fingerprints: if own.fingerprints.is_empty() {
            session.fingerprints.clone()
        } else {
            own.fingerprints.clone()
        },
        setup: own.setup.or(session.setup),
        rtcp_mux: own.rtcp_mux,
        rtcp_rsize: own.rtcp_rsize,
        codecs: kind.map_or_else(Vec::new, |kind| own.codecs(kind, &payload_types)),
        payload_types,
        extensions,
        extension_ids,
        rtx_ssrcs: own
            .groups
            .iter()
            .filter(|g| g.0 == "FID")
            .map(|g| (g.1, g.2))
            .collect(),
        ssrcs: own
            .ssrcs
            .iter()
            .copied()
            .filter(|ssrc| !secondary(ssrc))
            .collect(),
        cname: own.cname,
        msid: own.msid,
        media: match kind {
            Some(kind) => Media::Rtp(kind),
            None => other_media(name, proto),
        },
    })
}

/// The payload types an `m=` line lists, each once.
fn payload_types(formats: &[String]) -> Vec<PayloadType> {
    let mut seen = 0u128;
    let numbers = formats.iter().filter_map(|format| {
        let number = format.parse::<u8>().ok().filter(|n| *n < 128)?;
        let is_new = seen & (1 << number) == 0;
        seen |= 1 << number;
        is_new.then_some(PayloadType(number))
    });
    numbers.collect()
}

/// The known extensions, and every id that is taken. The first line of an id wins: it stands for one
/// thing (RFC 8285 §5).
fn extensions<'a>(
    lines: impl Iterator<Item = &'a (ExtensionId, &'a str)>,
) -> (ExtensionMap, Vec<ExtensionId>) {
    let mut map = ExtensionMap::default();
    let mut ids = Vec::new();
    for (id, uri) in lines {
        if ids.contains(id) {
            continue;
        }
        ids.push(*id);
        if let Some(extension) = Extension::from_uri(uri)
            && map.id(extension).is_none()
        {
            map.insert(extension, *id);
        }
    }
    (map, ids)
}

fn other_media(name: &MediaName, proto: String) -> Media {
    let formats = name.formats.iter().take(FORMATS_ECHOED_MAX).cloned();
    Media::Other {
        media: name.media.clone(),
        proto,
        formats: formats.collect(),
    }
}

/// Appends what was read; what exceeds the bound is ignored, so that no section costs more than a
/// fixed amount of work however many lines it has.
fn push_bounded<T>(list: &mut Vec<T>, max: usize, line: impl IntoIterator<Item = T>) {
    if list.len() < max {
        list.extend(line);
    }
}

/// `<number> <rest>` of an `a=rtpmap` or `a=fmtp` line.
fn numbered(value: &str) -> Option<(u8, &str)> {
    let (number, rest) = value.split_once(char::is_whitespace)?;
    Some((number.parse().ok().filter(|n| *n < 128)?, rest.trim()))
}

/// `<hash function> <colon-separated bytes>`.
fn parse_fingerprint(value: &str) -> Option<FingerprintLine> {
    let (algorithm, bytes) = value.split_once(char::is_whitespace)?;
    let digest: Option<Vec<u8>> = bytes
        .trim()
        .split(':')
        .map(|byte| {
            (byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u8::from_str_radix(byte, 16).ok())
                .flatten()
        })
        .collect();
    Some(FingerprintLine {
        algorithm: algorithm.to_ascii_lowercase(),
        digest: digest?,
    })
}

/// `<id>[/<direction>] <uri> [<attributes>]` (RFC 8285 §5).
fn parse_extmap(value: &str) -> Option<(ExtensionId, &str)> {
    let mut words = value.split_whitespace();
    let id = words.next()?.split('/').next()?.parse().ok()?;
    Some((ExtensionId::new(id)?, words.next()?))
}

fn print_section(section: &Section) -> MediaDescription {
    let (media, proto, formats) = match &section.media {
        Media::Rtp(kind) => (
            kind.as_str().to_owned(),
            RTP_PROTO,
            section
                .payload_types
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        Media::Other {
            media,
            proto,
            formats,
        } => (media.clone(), proto.as_str(), formats.clone()),
    };
    let mut printed = MediaDescription {
        media_name: MediaName {
            media,
            port: RangedPort {
                value: if section.rejected { 0 } else { 9 },
                range: None,
            },
            protos: proto.split('/').map(str::to_owned).collect(),
            formats,
        },
        connection_information: Some(ConnectionInformation {
            network_type: "IN".to_owned(),
            address_type: "IP4".to_owned(),
            address: Some(Address {
                address: "0.0.0.0".to_owned(),
                ttl: None,
                range: None,
            }),
        }),
        ..MediaDescription::default()
    };
    let mut printer = Printer(&mut printed);
    printer.transport(section);
    if let Media::Rtp(_) = section.media {
        printer.rtp(section);
    }
    printed
}

/// Appends attributes to a section.
struct Printer<'a>(&'a mut MediaDescription);

impl Printer<'_> {
    fn flag(&mut self, key: &str) {
        self.0.attributes.push(Attribute {
            key: key.to_owned(),
            value: None,
        });
    }

    fn value(&mut self, key: &str, value: impl fmt::Display) {
        self.0.attributes.push(Attribute {
            key: key.to_owned(),
            value: Some(value.to_string()),
        });
    }

    fn transport(&mut self, section: &Section) {
        if let Some(ice) = &section.ice {
            self.value("ice-ufrag", &ice.ufrag);
            self.value("ice-pwd", &ice.pwd);
        }
        for fingerprint in &section.fingerprints {
            let digest: Vec<String> = fingerprint
                .digest
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            self.value(
                "fingerprint",
                format_args!("{} {}", fingerprint.algorithm, digest.join(":")),
            );
        }
        if let Some(setup) = section.setup {
            self.value("setup", setup.as_str());
        }
        self.value("mid", section.mid);
    }

    fn rtp(&mut self, section: &Section) {
        for (extension, id) in section.extensions.iter() {
            self.value("extmap", format_args!("{id} {}", extension.uri()));
        }
        self.flag(section.direction.as_str());
        if let Some(msid) = &section.msid {
            match &msid.track {
                Some(track) => self.value("msid", format_args!("{} {track}", msid.stream)),
                None => self.value("msid", &msid.stream),
            }
        }
        if section.rtcp_mux {
            self.flag("rtcp-mux");
        }
        if section.rtcp_rsize {
            self.flag("rtcp-rsize");
        }
        let opus = section
            .codecs
            .iter()
            .find(|line| line.mapping.codec == Codec::Opus)
            .map(|line| line.mapping.payload_type);
        for line in &section.codecs {
            self.codec(line, opus);
        }
        self.sources(section);
    }

    fn codec(&mut self, line: &CodecLine, opus: Option<PayloadType>) {
        let CodecMapping {
            payload_type,
            codec,
            rtx,
            nack,
        } = line.mapping;
        self.value("rtpmap", format_args!("{payload_type} {}", codec.rtpmap()));
        for (allowed, what) in [
            (nack, "nack"),
            (line.pli, "nack pli"),
            (line.fir, "ccm fir"),
        ] {
            if allowed {
                self.value("rtcp-fb", format_args!("{payload_type} {what}"));
            }
        }
        let fmtp = codec.fmtp(opus);
        if !fmtp.is_empty() {
            self.value("fmtp", format_args!("{payload_type} {fmtp}"));
        }
        if let Some(rtx) = rtx {
            self.value("rtpmap", format_args!("{rtx} rtx/{}", codec.clock_rate()));
            self.value("fmtp", format_args!("{rtx} apt={payload_type}"));
        }
    }

    /// SSRCs with CNAME and, for clients older than RFC 8830, `msid` once more.
    fn sources(&mut self, section: &Section) {
        for (primary, repair) in &section.rtx_ssrcs {
            self.value("ssrc-group", format_args!("FID {primary} {repair}"));
        }
        let repairs = section.rtx_ssrcs.iter().map(|(_, repair)| repair);
        for ssrc in section.ssrcs.iter().chain(repairs) {
            if let Some(cname) = &section.cname {
                self.value("ssrc", format_args!("{ssrc} cname:{cname}"));
            }
            if let Some(Msid {
                stream,
                track: Some(track),
            }) = &section.msid
            {
                self.value("ssrc", format_args!("{ssrc} msid:{stream} {track}"));
            }
        }
    }
}

const RTP_PROTO: &str = "UDP/TLS/RTP/SAVPF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::codec::H264Profile;

    const CHROMIUM: &str = include_str!("../../fuzz/seeds/sdp/chromium-sendrecv.sdp");
    const FIREFOX: &str = include_str!("../../fuzz/seeds/sdp/firefox-sendrecv.sdp");
    const PION: &str = include_str!("../../fuzz/seeds/sdp/pion-sendrecv.sdp");
    const GSTREAMER: &str = include_str!("../../fuzz/seeds/sdp/gstreamer-sendonly.sdp");

    fn pt(number: u8) -> PayloadType {
        PayloadType(number)
    }

    #[test]
    fn reads_chromium() {
        let description = Description::parse(CHROMIUM).unwrap();
        assert_eq!(description.sections.len(), 3);
        assert_eq!(description.bundle.as_ref().unwrap().len(), 3);
        let [audio, video, data] = &description.sections[..] else {
            panic!("three sections");
        };
        assert_eq!(audio.media, Media::Rtp(MediaKind::Audio));
        assert_eq!(audio.mid, Mid::new("0").unwrap());
        assert_eq!(audio.direction, Direction::SendRecv);
        assert_eq!(audio.setup, Some(Setup::ActPass));
        assert_eq!(audio.ice.as_ref().unwrap().ufrag, "OIkc");
        assert_eq!(audio.fingerprints[0].algorithm, "sha-256");
        assert_eq!(audio.fingerprints[0].digest.len(), 32);
        assert_eq!(audio.ssrcs, [Ssrc(2_713_097_960)]);
        assert_eq!(audio.cname.as_deref(), Some("bIEdxMk1Mz3XSpkj"));
        assert!(audio.rtcp_mux && audio.rtcp_rsize && !audio.rejected);
        assert_eq!(audio.codecs.len(), 2);
        assert_eq!(audio.payload_types.len(), 8);

        let codec = |n: u8| {
            video
                .codecs
                .iter()
                .find(|l| l.mapping.payload_type == pt(n))
                .unwrap()
        };
        assert_eq!(codec(96).mapping.codec, Codec::Vp8);
        assert_eq!(codec(96).mapping.rtx, Some(pt(97)));
        assert!(codec(96).mapping.nack && codec(96).pli && codec(96).fir);
        let h264 = Codec::H264 {
            profile: H264Profile::Main,
            packetization_mode: 0,
        };
        assert_eq!(
            (codec(39).mapping.codec, codec(39).mapping.rtx),
            (h264, Some(pt(40)))
        );
        assert_eq!(video.rtx_ssrcs, [(Ssrc(953_087_170), Ssrc(1_469_031_326))]);
        assert_eq!(video.ssrcs, [Ssrc(953_087_170)]);
        assert_eq!(video.extensions.id(Extension::Mid), ExtensionId::new(4));
        assert_eq!(video.extension_ids.len(), 11);
        assert_eq!(
            video.msid.as_ref().unwrap().track.as_deref(),
            Some("602a4a00-6552-441d-9c51-588f5d423be5")
        );
        let Media::Other { media, proto, .. } = &data.media else {
            panic!("a data channel section");
        };
        assert_eq!(
            (media.as_str(), proto.as_str()),
            ("application", "UDP/DTLS/SCTP")
        );
    }

    #[test]
    fn reads_session_level_lines_and_other_orders() {
        let firefox = Description::parse(FIREFOX).unwrap();
        let video = &firefox.sections[1];
        assert_eq!(video.fingerprints.len(), 1, "from the session level");
        assert_eq!(
            video.codecs[0].mapping.rtx,
            Some(pt(124)),
            "fmtp before rtpmap"
        );
        assert_eq!(video.ssrcs, [Ssrc(3_712_708_728)]);
        assert_eq!(
            video.msid.as_ref().unwrap().stream,
            "{c60cc4ca-1d1c-4a81-b316-7985c5388ad0}"
        );
        assert_eq!(
            video.extensions.id(Extension::PlayoutDelay),
            ExtensionId::new(6)
        );

        let pion = Description::parse(PION).unwrap();
        assert_eq!(pion.sections[1].codecs.len(), 3);

        let gstreamer = Description::parse(GSTREAMER).unwrap();
        let audio = &gstreamer.sections[1];
        assert_eq!(audio.mid, Mid::new("audio1").unwrap());
        assert_eq!(audio.codecs[0].mapping.codec, Codec::Opus);
        let video = &gstreamer.sections[0];
        assert_eq!(video.direction, Direction::SendOnly);
        assert!(!video.codecs[0].fir && video.codecs[0].pli);
    }

    #[test]
    fn writes_what_it_reads() {
        for text in [CHROMIUM, FIREFOX, PION, GSTREAMER] {
            let mut first = Description::parse(text).unwrap();
            for section in &mut first.sections {
                // Only what is known is written.
                let known = section.codecs.iter();
                section.payload_types = known
                    .flat_map(|l| [Some(l.mapping.payload_type), l.mapping.rtx])
                    .flatten()
                    .collect();
                section.extension_ids = section.extensions.iter().map(|(_, id)| id).collect();
                if matches!(section.media, Media::Other { .. }) {
                    section.direction = Direction::SendRecv;
                }
            }
            let second = Description::parse(&first.to_string()).unwrap();
            assert_eq!(first, second);
        }
    }

    #[test]
    fn port_zero_refuses_unless_bundled() {
        let at_zero = GSTREAMER.replace("m=audio 9", "m=audio 0");
        let description = Description::parse(&at_zero).unwrap();
        assert!(!description.sections[1].rejected, "bundle-only");
        let refused = at_zero.replace("a=bundle-only\r\n", "");
        assert!(Description::parse(&refused).unwrap().sections[1].rejected);
    }

    #[test]
    fn refuses_what_it_cannot_tell_apart_or_afford() {
        let long = format!("{CHROMIUM}a=x:{}\r\n", "y".repeat(LINE_BYTES_MAX));
        let many = format!("{CHROMIUM}{}", "a=x\r\n".repeat(LINES_MAX));
        let wide = format!(
            "v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\n{}",
            (0..300)
                .map(|n| format!("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:{n}\r\n"))
                .collect::<String>()
        );
        let cases = [
            ("", SdpError::Syntax),
            ("hello", SdpError::Syntax),
            (
                &CHROMIUM.replace("m=audio 9", "m=audio 99999"),
                SdpError::Syntax,
            ),
            (
                &CHROMIUM.replace("a=mid:1", "a=mid:0"),
                SdpError::DuplicateMid,
            ),
            (
                &CHROMIUM.replace("a=mid:1", "a=mid:12345678901234567"),
                SdpError::Mid,
            ),
            (&CHROMIUM.replace("a=mid:1\r\n", ""), SdpError::Mid),
            (&long, SdpError::TooLarge),
            (&many, SdpError::TooLarge),
            (&wide, SdpError::TooManySections),
        ];
        for (text, expected) in cases {
            assert_eq!(Description::parse(text), Err(expected), "{:.40}", text);
        }
    }

    #[test]
    fn hostile_lines_cost_no_more_than_their_bytes() {
        // Each of these would be quadratic if lines were searched without a bound.
        for line in [
            "a=rtpmap:111 VP8/90000\r\n",
            "a=rtcp-fb:* nack\r\n",
            "a=extmap:1 urn:x\r\n",
            "a=ssrc-group:FID 1 2\r\n",
            "a=ssrc:1 cname:x\r\n",
            "a=fingerprint:sha-256 00\r\n",
        ] {
            let lines = line.repeat(200 * 1024 / line.len());
            let text = CHROMIUM.replace("a=mid:1\r\n", &format!("a=mid:1\r\n{lines}"));
            let description = Description::parse(&text).unwrap();
            let video = &description.sections[1];
            assert!(video.ssrcs.len() <= SSRCS_MAX && video.rtx_ssrcs.len() <= SSRCS_MAX);
            assert!(video.fingerprints.len() <= FINGERPRINTS_MAX);
            assert!(video.extension_ids.len() <= EXTMAPS_MAX);
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_text(text in "\\PC{0,400}") {
            let _ = Description::parse(&text);
        }

        #[test]
        fn never_panics_on_changed_descriptions(
            seed in 0..4usize,
            cuts in proptest::collection::vec((0..6000usize, 0..40usize, "[ -~\r\n]{0,12}"), 1..6),
        ) {
            let mut text = [CHROMIUM, FIREFOX, PION, GSTREAMER][seed].to_owned();
            for (at, len, with) in cuts {
                let at = at.min(text.len());
                let end = (at + len).min(text.len());
                text.replace_range(at..end, &with);
            }
            if let Ok(description) = Description::parse(&text) {
                // What was understood can be said again.
                prop_assert!(Description::parse(&description.to_string()).is_ok());
            }
        }
    }
}
