//! Test support: a client that behaves as a browser's peer connection does, as far as descriptions go.

use std::collections::{BTreeSet, HashMap};

use crate::base::ids::{MediaKind, Mid, Ssrc};
use crate::wire::sdp::{
    self, Description, Direction, FingerprintLine, IceLines, Media, Msid, Setup,
};

pub const CHROMIUM: &str = include_str!("../../fuzz/seeds/sdp/chromium-sendrecv.sdp");

/// What a browser keeps of one m-line.
#[derive(Debug, Clone)]
pub struct ClientSection {
    pub mid: Mid,
    pub media: Media,
    pub sends: Option<Msid>,
    pub wants: bool,
    pub stopped: bool,
    /// What the server sends there.
    pub remote: Option<Msid>,
}

type Pending = (MediaKind, Option<Msid>, bool);

/// A browser's peer connection as far as its descriptions go.
#[derive(Debug)]
pub struct Client {
    pub sections: Vec<ClientSection>,
    /// Added, in no section yet: kind, what it sends, whether it receives.
    pub pending: Vec<Pending>,
    /// An offer of ours waits for an answer: how it was before.
    local_offer: Option<(Vec<ClientSection>, Vec<Pending>)>,
    pub dirty: bool,
    pub rolled_back: usize,
    /// Refuse new sections of this kind in answers.
    pub rejects: Option<MediaKind>,
    pub ufrag: String,
    pub fingerprint: u8,
    pub setup: Setup,
    next_mid: u32,
    template: Description,
    ssrcs_seen: HashMap<Ssrc, Msid>,
    pub server_ufrag: String,
    pub candidates: usize,
}

impl Client {
    pub fn new(template: &str) -> Self {
        Self {
            sections: Vec::new(),
            pending: Vec::new(),
            local_offer: None,
            dirty: false,
            rolled_back: 0,
            rejects: None,
            ufrag: "ufr1".to_owned(),
            fingerprint: 7,
            setup: Setup::ActPass,
            next_mid: 0,
            template: Description::parse(template).unwrap(),
            ssrcs_seen: HashMap::new(),
            server_ufrag: String::new(),
            candidates: 0,
        }
    }

    /// `addTrack`: takes the first section of that kind on which nothing was ever sent.
    pub fn add_track(&mut self, kind: MediaKind, stream: &str, track: &str) {
        let msid = Msid {
            stream: stream.to_owned(),
            track: Some(track.to_owned()),
        };
        self.dirty = true;
        let free = self
            .sections
            .iter_mut()
            .find(|s| s.media == Media::Rtp(kind) && s.sends.is_none() && !s.stopped);
        match free {
            Some(section) => section.sends = Some(msid),
            None => self.pending.push((kind, Some(msid), true)),
        }
    }

    /// `addTransceiver(kind, {direction: "recvonly"})`
    pub fn add_receiver(&mut self, kind: MediaKind) {
        self.dirty = true;
        self.pending.push((kind, None, true));
    }

    pub fn offer(&mut self) -> String {
        self.local_offer = Some((self.sections.clone(), self.pending.clone()));
        self.dirty = false;
        for (kind, sends, wants) in std::mem::take(&mut self.pending) {
            self.sections.push(ClientSection {
                mid: Mid::new(&self.next_mid.to_string()).unwrap(),
                media: Media::Rtp(kind),
                sends,
                wants,
                stopped: false,
                remote: None,
            });
            self.next_mid += 1;
        }
        let sections = self
            .sections
            .iter()
            .map(|section| {
                let mut described = self.blank(section);
                described.direction = Direction::new(section.sends.is_some(), section.wants);
                described.setup = Some(self.setup);
                if let Some(template) = self.template_of(&section.media) {
                    described.codecs.clone_from(&template.codecs);
                    described.payload_types.clone_from(&template.payload_types);
                    described.extensions = template.extensions;
                }
                described
            })
            .collect();
        self.print(sections)
    }

    /// `setRemoteDescription` of an answer.
    pub fn take_answer(&mut self, text: &str) {
        assert!(self.local_offer.take().is_some(), "an answer to nothing");
        let answer = self.check(text);
        assert_eq!(answer.sections.len(), self.sections.len());
        for (section, described) in self.sections.iter_mut().zip(&answer.sections) {
            assert_eq!(section.mid, described.mid);
            if described.rejected {
                section.stopped = true;
                section.remote = None;
                continue;
            }
            assert_ne!(described.setup, Some(Setup::ActPass));
            assert!(!described.direction.sends() || section.wants);
            assert!(!described.direction.receives() || section.sends.is_some());
            section.remote = described.msid.clone();
        }
    }

    /// `setRemoteDescription` of an offer, rolling back what is our own, and the answer.
    pub fn answer(&mut self, text: &str) -> String {
        if let Some((sections, pending)) = self.local_offer.take() {
            self.sections = sections;
            self.pending = pending;
            self.rolled_back += 1;
            self.dirty = true;
        }
        let offer = self.check(text);
        assert!(offer.sections.len() >= self.sections.len());
        let mut answered = Vec::new();
        for (index, described) in offer.sections.iter().enumerate() {
            let known = self.sections.get(index).filter(|s| s.mid == described.mid);
            let mut section = match known {
                Some(section) => section.clone(),
                None => {
                    if let Some(former) = self.sections.get(index) {
                        assert!(former.stopped, "only stopped sections are recycled");
                    }
                    self.attach(described)
                }
            };
            section.stopped |= described.rejected;
            let direction = Direction::new(
                section.sends.is_some() && described.direction.receives() && !section.stopped,
                section.wants && described.direction.sends() && !section.stopped,
            );
            section.remote = described.msid.clone().filter(|_| direction.receives());
            let mut own = self.blank(&section);
            own.direction = direction;
            own.setup = Some(Setup::Active);
            if !direction.sends() {
                (own.msid, own.ssrcs) = (None, Vec::new());
            }
            if let Some(template) = self.template_of(&section.media) {
                own.codecs = described.codecs.clone();
                own.codecs.retain(|l| {
                    template
                        .codecs
                        .iter()
                        .any(|t| t.mapping.codec == l.mapping.codec)
                });
                own.payload_types = own
                    .codecs
                    .iter()
                    .flat_map(|l| [Some(l.mapping.payload_type), l.mapping.rtx])
                    .flatten()
                    .collect();
                own.extensions = described.extensions;
            }
            answered.push(own);
            if index < self.sections.len() {
                self.sections[index] = section;
            } else {
                self.sections.push(section);
            }
        }
        self.print(answered)
    }

    /// A section for one that the server offers anew, with a waiting track of `addTrack`, if any.
    fn attach(&mut self, described: &sdp::Section) -> ClientSection {
        let waiting = self.pending.iter().position(|(kind, msid, _)| {
            described.media == Media::Rtp(*kind) && msid.is_some() && described.direction.receives()
        });
        ClientSection {
            mid: described.mid,
            media: described.media.clone(),
            sends: waiting.and_then(|at| self.pending.remove(at).1),
            wants: true,
            stopped: self
                .rejects
                .is_some_and(|kind| described.media == Media::Rtp(kind)),
            remote: None,
        }
    }

    /// What a browser would find wrong with the server's description, and what nobody may do.
    fn check(&mut self, text: &str) -> Description {
        let description = Description::parse(text).unwrap();
        assert!(description.ice_lite);
        let mut payload_types = HashMap::new();
        let mut extension_ids = HashMap::new();
        let mut ssrcs = BTreeSet::new();
        for section in description.sections.iter().filter(|s| !s.rejected) {
            let Media::Rtp(_) = section.media else {
                panic!("only audio and video are served");
            };
            assert!(description.bundle.as_ref().unwrap().contains(&section.mid));
            assert!(section.setup.is_some() && section.rtcp_mux);
            assert_eq!(section.fingerprints.len(), 1);
            let ice = section.ice.as_ref().unwrap();
            if ice.ufrag != self.server_ufrag {
                self.server_ufrag.clone_from(&ice.ufrag);
                self.candidates = 0;
            }
            for line in &section.codecs {
                let codec = line.mapping.codec;
                let before = payload_types.insert(line.mapping.payload_type, codec);
                assert!(before.is_none_or(|before| before == codec));
            }
            for (extension, id) in section.extensions.iter() {
                let before = extension_ids.insert(id, extension);
                assert!(before.is_none_or(|before| before == extension));
            }
            let repairs = section.rtx_ssrcs.iter().map(|(_, rtx)| *rtx);
            for ssrc in section.ssrcs.iter().copied().chain(repairs) {
                assert!(ssrcs.insert(ssrc), "an SSRC twice in one description");
                let msid = section.msid.clone().unwrap();
                let before = self.ssrcs_seen.insert(ssrc, msid.clone());
                assert!(before.is_none_or(|b| b == msid), "an SSRC came back");
            }
            assert_eq!(section.direction.sends(), section.msid.is_some());
        }
        description
    }

    fn template_of(&self, media: &Media) -> Option<&sdp::Section> {
        self.template
            .sections
            .iter()
            .find(|s| s.media == *media && matches!(media, Media::Rtp(_)))
    }

    fn blank(&self, section: &ClientSection) -> sdp::Section {
        let mut blank = self.template.sections[0].clone();
        blank.media = section.media.clone();
        blank.mid = section.mid;
        blank.rejected = section.stopped;
        blank.msid.clone_from(&section.sends);
        blank.codecs.clear();
        blank.payload_types.clear();
        blank.rtx_ssrcs.clear();
        let number = section
            .mid
            .as_bytes()
            .iter()
            .fold(0, |n, b| n * 256 + u32::from(*b));
        blank.ssrcs = section.sends.iter().map(|_| Ssrc(number)).collect();
        blank.ice = Some(IceLines {
            ufrag: self.ufrag.clone(),
            pwd: format!("{}-password-of-the-client", self.ufrag),
        });
        blank.fingerprints = vec![FingerprintLine {
            algorithm: "sha-256".to_owned(),
            digest: vec![self.fingerprint; 32],
        }];
        blank
    }

    fn print(&self, sections: Vec<sdp::Section>) -> String {
        Description {
            session_id: 5,
            session_version: 5,
            ice_lite: false,
            bundle: Some(
                sections
                    .iter()
                    .filter(|s| !s.rejected)
                    .map(|s| s.mid)
                    .collect(),
            ),
            sections,
        }
        .to_string()
    }
}
