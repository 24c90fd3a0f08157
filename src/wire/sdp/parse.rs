//! Text to descriptions: attributes get their meaning, and hostile text its bounds.

use std::collections::HashSet;
use std::io::Cursor;

use rtc_sdp::description::media::{MediaDescription, MediaName};
use rtc_sdp::description::session::SessionDescription;

use crate::base::ids::{MediaKind, Mid, PayloadType, Ssrc};
use crate::wire::codec::{Codec, CodecMapping, fmtp_parameter};
use crate::wire::extension::{Extension, ExtensionId, ExtensionMap};
use crate::wire::sdp::description::{
    CodecLine, Description, Direction, FingerprintLine, IceLines, Media, Msid, RTP_PROTO, SdpError,
    Section, Setup,
};
use crate::wire::sdp::simulcast::{RIDS_MAX, RidLine, Simulcast};

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
    simulcast_group: Vec<Ssrc>,
    rids: Vec<RidLine<'a>>,
    simulcast: Option<&'a str>,
    rtcp_xr_rtt: bool,
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
            "ssrc-group" => self.read_group(value),
            "rid" => push_bounded(&mut self.rids, RIDS_MAX, RidLine::parse(value)),
            "simulcast" => self.simulcast = self.simulcast.or(Some(value)),
            "rtcp-xr" => {
                self.rtcp_xr_rtt |= value.split_whitespace().any(|w| w.starts_with("rcvr-rtt"));
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

    /// `<semantics> <SSRC> <SSRC>…` (RFC 5576 §4.2): pairs, and the first group of a simulcast.
    fn read_group(&mut self, value: &'a str) {
        let mut words = value.split_whitespace();
        let semantics = words.next().unwrap_or("");
        let mut ssrcs = words.map_while(|w| w.parse().ok()).map(Ssrc);
        if semantics == "SIM" {
            let group: Vec<Ssrc> = ssrcs.take(SSRCS_MAX).collect();
            let distinct: HashSet<Ssrc> = group.iter().copied().collect();
            if self.simulcast_group.is_empty() && distinct.len() == group.len() {
                self.simulcast_group = group;
            }
        } else if let (Some(primary), Some(other)) = (ssrcs.next(), ssrcs.next()) {
            push_bounded(&mut self.groups, SSRCS_MAX, [(semantics, primary, other)]);
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

    /// The known header extensions and every id in use; session lines hold for all sections.
    fn extensions(&self, session: &Self) -> (ExtensionMap, Vec<ExtensionId>) {
        let (mut map, mut ids) = (ExtensionMap::default(), Vec::new());
        for (id, uri) in self.extmaps.iter().chain(&session.extmaps) {
            if ids.contains(id) {
                continue; // The first wins: an id stands for one thing (RFC 8285 §5).
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
                        nack: allows("nack"),
                        transport_cc: allows("transport-cc"),
                        remb: video && allows("goog-remb"),
                    },
                    pli: video && allows("nack pli"),
                    fir: video && allows("ccm fir"),
                    rrtr: allows("rrtr"),
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
    let (media_kind, payload_types) = parse_media(&media.media_name);
    let kind = match media_kind {
        Media::Rtp(kind) => Some(kind),
        Media::Other { .. } => None,
    };
    let (extensions, extension_ids) = own.extensions(session);
    let ice = match (own.ufrag.or(session.ufrag), own.pwd.or(session.pwd)) {
        (Some(ufrag), Some(pwd)) => Some(IceLines {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
        }),
        _ => None,
    };
    let codecs = kind.map_or_else(Vec::new, |kind| own.codecs(kind, &payload_types));
    let is_known = |pt| codecs.iter().any(|line| line.mapping.payload_type == pt);
    let simulcast = own.simulcast.map_or_else(Simulcast::default, |value| {
        Simulcast::parse(value, &own.rids, &is_known)
    });
    let secondary = |ssrc: &Ssrc| own.groups.iter().any(|g| g.2 == *ssrc);
    let fid = own.groups.iter().filter(|g| g.0 == "FID");
    Ok(Section {
        media: media_kind,
        mid: own.mid.and_then(Mid::new).ok_or(SdpError::Mid)?,
        rejected: media.media_name.port.value == 0 && !own.bundle_only,
        direction: own
            .direction
            .or(session.direction)
            .unwrap_or(Direction::SendRecv),
        ice,
        setup: own.setup.or(session.setup),
        rtcp_mux: own.rtcp_mux,
        rtcp_rsize: own.rtcp_rsize,
        rtcp_xr_rtt: own.rtcp_xr_rtt || session.rtcp_xr_rtt,
        simulcast,
        codecs,
        payload_types,
        extensions,
        extension_ids,
        rtx_ssrcs: fid.map(|g| (g.1, g.2)).collect(),
        ssrcs: own
            .ssrcs
            .iter()
            .copied()
            .filter(|ssrc| !secondary(ssrc))
            .collect(),
        simulcast_ssrcs: own.simulcast_group,
        fingerprints: if own.fingerprints.is_empty() {
            session.fingerprints.clone()
        } else {
            own.fingerprints
        },
        cname: own.cname,
        msid: own.msid,
    })
}

/// What the m-line is for, and its payload types, each once.
fn parse_media(name: &MediaName) -> (Media, Vec<PayloadType>) {
    let proto = name.protos.join("/");
    let kind = match name.media.as_str() {
        "audio" => Some(MediaKind::Audio),
        "video" => Some(MediaKind::Video),
        _ => None,
    };
    let Some(kind) = kind.filter(|_| proto == RTP_PROTO || proto == "RTP/SAVPF") else {
        let formats = name.formats.iter().take(FORMATS_ECHOED_MAX);
        let other = Media::Other {
            media: name.media.clone(),
            proto,
            formats: formats.cloned().collect(),
        };
        return (other, Vec::new());
    };
    let (mut seen, mut payload_types) = (0u128, Vec::new());
    for format in &name.formats {
        if let Some(number) = format.parse::<u8>().ok().filter(|n| *n < 128)
            && seen & (1 << number) == 0
        {
            seen |= 1 << number;
            payload_types.push(PayloadType(number));
        }
    }
    (Media::Rtp(kind), payload_types)
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
