//! Session descriptions as a browser writes and reads them: text, section by section.
//!
//! Shares nothing with the server's SDP code. Reading asserts what a browser would reject.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::support::transport::Credentials;

/// A media direction, seen from whoever wrote the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    pub send: bool,
    pub recv: bool,
}

impl Direction {
    pub const INACTIVE: Self = Self {
        send: false,
        recv: false,
    };

    fn parse(name: &str) -> Option<Self> {
        let (send, recv) = match name {
            "sendrecv" => (true, true),
            "sendonly" => (true, false),
            "recvonly" => (false, true),
            "inactive" => (false, false),
            _ => return None,
        };
        Some(Self { send, recv })
    }

    fn name(self) -> &'static str {
        match (self.send, self.recv) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }
}

/// One payload type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecLine {
    pub payload_type: u8,
    /// As `a=rtpmap` says it: `VP8/90000`.
    pub rtpmap: String,
    pub fmtp: Option<String>,
    pub feedback: Vec<String>,
}

impl CodecLine {
    pub fn name(&self) -> String {
        let name = self.rtpmap.split('/').next().unwrap_or_default();
        name.to_ascii_lowercase()
    }

    /// The payload type that an RTX line repairs.
    pub fn apt(&self) -> Option<u8> {
        self.fmtp.as_deref()?.strip_prefix("apt=")?.parse().ok()
    }
}

#[derive(Debug, Clone)]
pub struct SectionText {
    pub kind: String,
    pub mid: String,
    pub rejected: bool,
    pub direction: Direction,
    pub codecs: Vec<CodecLine>,
    pub extensions: Vec<(u8, String)>,
    /// Stream and track id.
    pub msid: Option<(String, String)>,
    pub ssrcs: Vec<u32>,
    /// Primary and RTX SSRC.
    pub fid: Option<(u32, u32)>,
    pub cname: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Description {
    pub ice: Credentials,
    pub fingerprint: Option<String>,
    pub setup: String,
    pub ice_lite: bool,
    pub bundle: Vec<String>,
    pub candidates: Vec<SocketAddr>,
    pub sections: Vec<SectionText>,
}

impl Description {
    /// Reads a description that the server wrote; panics where a browser would refuse it.
    pub fn parse(sdp: &str) -> Self {
        assert!(sdp.starts_with("v=0\r\n"), "SDP begins with v=0: {sdp}");
        assert!(sdp.ends_with("\r\n"), "SDP ends with a line break: {sdp}");
        let mut description = Self {
            ice: Credentials {
                ufrag: String::new(),
                pwd: String::new(),
            },
            fingerprint: None,
            setup: String::new(),
            ice_lite: false,
            bundle: Vec::new(),
            candidates: Vec::new(),
            sections: Vec::new(),
        };
        for line in sdp.trim_end().split("\r\n") {
            let (key, value) = line.split_once('=').expect("a line is key=value");
            match key {
                "m" => description.sections.push(SectionText::begin(value)),
                "a" => description.attribute(value),
                _ => {}
            }
        }
        description.check(sdp);
        description
    }

    fn attribute(&mut self, text: &str) {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        match name {
            "ice-ufrag" => self.ice.ufrag = value.to_owned(),
            "ice-pwd" => self.ice.pwd = value.to_owned(),
            "ice-lite" => self.ice_lite = true,
            "fingerprint" => {
                let (algorithm, digest) = value.split_once(' ').expect("hash and digest");
                assert_eq!(algorithm.to_ascii_lowercase(), "sha-256");
                self.fingerprint = Some(digest.to_ascii_uppercase());
            }
            "setup" => self.setup = value.to_owned(),
            "group" => {
                let mids = value.strip_prefix("BUNDLE").expect("the group is a bundle");
                self.bundle = mids.split_whitespace().map(str::to_owned).collect();
            }
            "candidate" => self.candidates.extend(parse_candidate(text)),
            _ => {
                if let Some(section) = self.sections.last_mut() {
                    section.attribute(name, value);
                }
            }
        }
    }

    fn check(&self, sdp: &str) {
        for section in &self.sections {
            assert!(!section.mid.is_empty(), "every section has a mid: {sdp}");
            let bundled = self.bundle.contains(&section.mid);
            assert!(
                bundled || section.rejected,
                "{} is bundled: {sdp}",
                section.mid
            );
            let twins = self.sections.iter().filter(|s| s.mid == section.mid);
            assert_eq!(twins.count(), 1, "the mid {} is unique: {sdp}", section.mid);
            assert!(
                !section.codecs.is_empty() || section.rejected,
                "codecs: {sdp}"
            );
        }
        let ssrcs: Vec<u32> = self.sections.iter().flat_map(|s| s.ssrcs.clone()).collect();
        for ssrc in &ssrcs {
            let uses = ssrcs.iter().filter(|other| *other == ssrc).count();
            assert_eq!(uses, 1, "SSRC {ssrc} is unique: {sdp}");
        }
        // One bundle is one RTP session: a number must mean the same thing in every section.
        let live = || self.sections.iter().filter(|s| !s.rejected);
        for codec in live().flat_map(|s| &s.codecs) {
            for other in live().flat_map(|s| &s.codecs) {
                if codec.payload_type == other.payload_type {
                    assert_eq!(codec.rtpmap, other.rtpmap, "payload types agree: {sdp}");
                    assert_eq!(codec.fmtp, other.fmtp, "payload types agree: {sdp}");
                }
            }
        }
        for (id, uri) in live().flat_map(|s| &s.extensions) {
            for (other_id, other_uri) in live().flat_map(|s| &s.extensions) {
                assert_eq!(
                    id == other_id,
                    uri == other_uri,
                    "extension ids agree: {sdp}"
                );
            }
        }
    }

    pub fn write(&self, session_version: u64) -> String {
        let mut out = String::new();
        let line = &mut out;
        let mids = self.bundle.join(" ");
        write!(
            line,
            "v=0\r\no=- 4611731400430051336 {session_version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
             a=group:BUNDLE {mids}\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n"
        )
        .expect("a String takes all");
        for section in &self.sections {
            section.write(line, self);
        }
        out
    }
}

impl SectionText {
    fn begin(value: &str) -> Self {
        let words: Vec<&str> = value.split(' ').collect();
        assert!(words.len() >= 4, "m={value}");
        assert_eq!(words[2], "UDP/TLS/RTP/SAVPF");
        let codecs = words[3..].iter().map(|pt| CodecLine {
            payload_type: pt.parse().expect("a payload type"),
            rtpmap: String::new(),
            fmtp: None,
            feedback: Vec::new(),
        });
        Self {
            kind: words[0].to_owned(),
            mid: String::new(),
            rejected: words[1] == "0",
            direction: Direction {
                send: true,
                recv: true,
            },
            codecs: codecs.collect(),
            extensions: Vec::new(),
            msid: None,
            ssrcs: Vec::new(),
            fid: None,
            cname: None,
        }
    }

    fn attribute(&mut self, name: &str, value: &str) {
        if let Some(direction) = Direction::parse(name) {
            self.direction = direction;
            return;
        }
        let (first, rest) = value.split_once(' ').unwrap_or((value, ""));
        match name {
            "mid" => self.mid = value.to_owned(),
            "rtpmap" => {
                if let Some(codec) = self.codec(first) {
                    codec.rtpmap = rest.to_owned();
                }
            }
            "fmtp" => {
                if let Some(codec) = self.codec(first) {
                    codec.fmtp = Some(rest.to_owned());
                }
            }
            "rtcp-fb" => {
                for codec in &mut self.codecs {
                    if first == "*" || first == codec.payload_type.to_string() {
                        codec.feedback.push(rest.to_owned());
                    }
                }
            }
            "extmap" => {
                let id = first.split('/').next().unwrap_or_default();
                let id = id.parse().expect("an extension id");
                self.extensions.push((id, rest.to_owned()));
            }
            "msid" if value != "-" && !rest.is_empty() => {
                self.msid = Some((first.to_owned(), rest.to_owned()));
            }
            "ssrc" => {
                let ssrc = first.parse().expect("an SSRC");
                if !self.ssrcs.contains(&ssrc) {
                    self.ssrcs.push(ssrc);
                }
                if let Some(cname) = rest.strip_prefix("cname:") {
                    self.cname = Some(cname.to_owned());
                }
            }
            "ssrc-group" if first == "FID" => {
                let (primary, rtx) = rest.split_once(' ').expect("two SSRCs");
                self.fid = Some((primary.parse().expect("SSRC"), rtx.parse().expect("SSRC")));
            }
            _ => {}
        }
    }

    fn codec(&mut self, payload_type: &str) -> Option<&mut CodecLine> {
        self.codecs
            .iter_mut()
            .find(|c| c.payload_type.to_string() == payload_type)
    }

    /// The SSRC of the media itself.
    pub fn primary_ssrc(&self) -> Option<u32> {
        self.fid.map(|(p, _)| p).or(self.ssrcs.first().copied())
    }

    fn write(&self, out: &mut String, session: &Description) {
        let port = if self.rejected { 0 } else { 9 };
        let numbers: Vec<String> = self
            .codecs
            .iter()
            .map(|c| c.payload_type.to_string())
            .collect();
        let mut text = format!(
            "m={} {port} UDP/TLS/RTP/SAVPF {}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
             a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle\r\n",
            self.kind,
            numbers.join(" "),
            session.ice.ufrag,
            session.ice.pwd
        );
        if let Some(fingerprint) = &session.fingerprint {
            text += &format!("a=fingerprint:sha-256 {fingerprint}\r\n");
        }
        text += &format!("a=setup:{}\r\na=mid:{}\r\n", session.setup, self.mid);
        for (id, uri) in &self.extensions {
            text += &format!("a=extmap:{id} {uri}\r\n");
        }
        text += &format!("a={}\r\n", self.direction.name());
        if let Some((stream, track)) = &self.msid {
            text += &format!("a=msid:{stream} {track}\r\n");
        }
        text += "a=rtcp-mux\r\na=rtcp-rsize\r\n";
        for codec in &self.codecs {
            let pt = codec.payload_type;
            text += &format!("a=rtpmap:{pt} {}\r\n", codec.rtpmap);
            for feedback in &codec.feedback {
                text += &format!("a=rtcp-fb:{pt} {feedback}\r\n");
            }
            if let Some(fmtp) = &codec.fmtp {
                text += &format!("a=fmtp:{pt} {fmtp}\r\n");
            }
        }
        if let Some((primary, rtx)) = self.fid {
            text += &format!("a=ssrc-group:FID {primary} {rtx}\r\n");
        }
        for ssrc in &self.ssrcs {
            let cname = self.cname.as_deref().unwrap_or("c");
            text += &format!("a=ssrc:{ssrc} cname:{cname}\r\n");
            if let Some((stream, track)) = &self.msid {
                text += &format!("a=ssrc:{ssrc} msid:{stream} {track}\r\n");
            }
        }
        out.push_str(&text);
    }
}

/// The address of a host candidate over UDP (RFC 8839 §5.1).
pub fn parse_candidate(text: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = text.split(' ').collect();
    assert!(words.len() >= 8, "a candidate: {text}");
    assert!(words[0].starts_with("candidate:"), "a candidate: {text}");
    assert_eq!(
        (words[1], words[6], words[7]),
        ("1", "typ", "host"),
        "{text}"
    );
    if !words[2].eq_ignore_ascii_case("udp") {
        return None;
    }
    Some(SocketAddr::new(
        words[4].parse().expect("an address"),
        words[5].parse().expect("a port"),
    ))
}
