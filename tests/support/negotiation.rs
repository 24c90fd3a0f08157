//! The client's side of offer and answer: transceivers as JSEP (RFC 9429) has them, the polite peer of
//! perfect negotiation.

use crate::support::flavor::Flavor;
use crate::support::media::{LEVEL_URI, MID_URI, SendFormat};
use crate::support::sdp::{CodecLine, Description, Direction, SectionText};
use crate::support::transport::Credentials;

/// A local track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTrack {
    pub id: String,
    pub stream: String,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
}

/// What a section brings from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTrack {
    pub peer: String,
    pub track: String,
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Transceiver {
    pub video: bool,
    /// Its section's index and mid, once it has one.
    pub section: Option<(usize, String)>,
    pub local: Option<LocalTrack>,
    pub ever_sent: bool,
    pub wants_recv: bool,
    pub stopped: bool,
    pub negotiated: Direction,
    pub codecs: Vec<CodecLine>,
    pub extensions: Vec<(u8, String)>,
    pub remote: Option<RemoteTrack>,
}

impl Transceiver {
    fn new(video: bool) -> Self {
        Self {
            video,
            section: None,
            local: None,
            ever_sent: false,
            wants_recv: true,
            stopped: false,
            negotiated: Direction::INACTIVE,
            codecs: Vec::new(),
            extensions: Vec::new(),
            remote: None,
        }
    }

    pub fn mid(&self) -> &str {
        self.section.as_ref().map_or("", |(_, mid)| mid)
    }

    /// What the sender sends with, while the section lets it send.
    pub fn send_format(&self) -> Option<SendFormat> {
        if !self.negotiated.send || self.local.is_none() || self.stopped {
            return None;
        }
        let wanted = if self.video { "vp8" } else { "opus" };
        let codec = self.codecs.iter().find(|c| c.name() == wanted)?;
        let rtx = self
            .codecs
            .iter()
            .find(|c| c.name() == "rtx" && c.apt() == Some(codec.payload_type));
        let extension = |uri: &str| self.extensions.iter().find(|(_, u)| u == uri).map(|e| e.0);
        Some(SendFormat {
            mid: self.mid().to_owned(),
            payload_type: codec.payload_type,
            rtx_payload_type: rtx.map(|c| c.payload_type),
            mid_extension: extension(MID_URI),
            level_extension: extension(LEVEL_URI),
        })
    }
}

/// Offer/answer state (RFC 9429 §3.2 without provisional answers).
pub struct Negotiation {
    pub flavor: Flavor,
    pub transceivers: Vec<Transceiver>,
    /// While an own offer is out: what there was before it.
    pending: Option<Before>,
    pub needed: bool,
    next_mid: u32,
    version: u64,
    /// How many sections the session has.
    pub sections: usize,
    /// What each number has stood for so far, whoever gave it: one bundle is one RTP session.
    numbers: Vec<CodecLine>,
    extension_ids: Vec<(u8, String)>,
    pub offers_made: u64,
    pub offers_taken: u64,
    pub rollbacks: u64,
    pub cname: String,
    /// `a=setup` of own offers.
    pub offer_setup: &'static str,
}

/// What a withdrawn offer leaves as it was.
struct Before {
    transceivers: Vec<Transceiver>,
    numbers: Vec<CodecLine>,
    extension_ids: Vec<(u8, String)>,
}

/// What a remote description says of the transport.
pub struct RemoteTransport {
    pub ice: Credentials,
    pub fingerprint: Option<String>,
    pub setup: String,
    pub candidates: Vec<std::net::SocketAddr>,
}

/// The own side of the transport, for descriptions.
pub struct LocalTransport<'a> {
    pub ice: &'a Credentials,
    pub fingerprint: &'a str,
}

impl Negotiation {
    pub fn new(flavor: Flavor, cname: &str) -> Self {
        Self {
            flavor,
            transceivers: Vec::new(),
            pending: None,
            needed: false,
            next_mid: 0,
            version: 1,
            sections: 0,
            numbers: Vec::new(),
            extension_ids: Vec::new(),
            offers_made: 0,
            offers_taken: 0,
            rollbacks: 0,
            cname: cname.to_owned(),
            offer_setup: "actpass",
        }
    }

    pub fn has_pending_offer(&self) -> bool {
        self.pending.is_some()
    }

    /// `addTrack`: takes a section that never sent, be it one that receives somebody else's track.
    pub fn add_track(&mut self, video: bool, track: LocalTrack) {
        self.needed = true;
        let free = self
            .transceivers
            .iter_mut()
            .find(|t| t.video == video && t.local.is_none() && !t.ever_sent && !t.stopped);
        match free {
            Some(transceiver) => transceiver.local = Some(track),
            None => {
                let mut transceiver = Transceiver::new(video);
                transceiver.local = Some(track);
                self.transceivers.push(transceiver);
            }
        }
    }

    /// `addTransceiver(kind, {direction: "recvonly"})`.
    pub fn add_receiver(&mut self, video: bool) {
        self.needed = true;
        self.transceivers.push(Transceiver::new(video));
    }

    /// `removeTrack`; returns whether the track was there.
    pub fn remove_track(&mut self, id: &str) -> bool {
        for transceiver in &mut self.transceivers {
            if transceiver.local.as_ref().is_some_and(|l| l.id == id) {
                transceiver.local = None;
                self.needed = true;
                return true;
            }
        }
        false
    }

    pub fn remote_tracks(&self) -> Vec<RemoteTrack> {
        self.transceivers
            .iter()
            .filter(|t| !t.stopped && t.negotiated.recv)
            .filter_map(|t| t.remote.clone())
            .collect()
    }

    /// Makes an offer and takes it as local description.
    pub fn create_offer(&mut self, transport: &LocalTransport<'_>) -> String {
        assert!(self.pending.is_none(), "one offer at a time");
        self.pending = Some(Before {
            transceivers: self.transceivers.clone(),
            numbers: self.numbers.clone(),
            extension_ids: self.extension_ids.clone(),
        });
        self.needed = false;
        self.offers_made += 1;
        for at in 0..self.transceivers.len() {
            if self.transceivers[at].section.is_none() && !self.transceivers[at].stopped {
                let index = self.sections;
                self.sections += 1;
                let mid = format!("{}", self.next_mid);
                self.next_mid += 1;
                let video = self.transceivers[at].video;
                let (codecs, extensions) = self.own_formats(video);
                let transceiver = &mut self.transceivers[at];
                transceiver.section = Some((index, mid));
                transceiver.codecs = codecs;
                transceiver.extensions = extensions;
            }
        }
        let wanted = |t: &Transceiver| Direction {
            send: t.local.is_some(),
            recv: t.wants_recv,
        };
        self.write(transport, self.offer_setup, wanted)
    }

    /// The formats of a new section: under the numbers that they have in this session, under this
    /// flavor's own otherwise, under any free one where that is taken.
    fn own_formats(&mut self, video: bool) -> (Vec<CodecLine>, Vec<(u8, String)>) {
        let mut renumbered = Vec::new();
        let mut codecs = Vec::new();
        for mut codec in self.flavor.codecs(video) {
            if let Some(apt) = codec.apt() {
                let now = renumbered.iter().find(|(own, _)| *own == apt);
                codec.fmtp = now.map(|(_, now)| format!("apt={now}"));
            }
            let own = codec.payload_type;
            let known = self.numbers.iter().find(|k| same_format(k, &codec));
            codec.payload_type = known.map_or_else(|| self.free_number(own), |k| k.payload_type);
            renumbered.push((own, codec.payload_type));
            self.note_codec(&codec);
            codecs.push(codec);
        }
        let mut extensions = Vec::new();
        for (own, uri) in self.flavor.extensions(video) {
            let known = self.extension_ids.iter().find(|(_, u)| *u == uri);
            let is_free = |id: &u8| self.extension_ids.iter().all(|(taken, _)| taken != id);
            let id = known.map(|(id, _)| *id);
            let id = id.or_else(|| std::iter::once(own).chain(1..15).find(is_free));
            if let Some(id) = id {
                self.note_extension(&(id, uri.clone()));
                extensions.push((id, uri));
            }
        }
        (codecs, extensions)
    }

    fn free_number(&self, own: u8) -> u8 {
        let is_free = |pt: &u8| self.numbers.iter().all(|k| k.payload_type != *pt);
        let mut candidates = std::iter::once(own).chain(96..128).chain(35..64);
        candidates.find(is_free).expect("there are enough numbers")
    }

    fn note_codec(&mut self, codec: &CodecLine) {
        if self
            .numbers
            .iter()
            .all(|k| k.payload_type != codec.payload_type)
        {
            self.numbers.push(codec.clone());
        }
    }

    fn note_extension(&mut self, extension: &(u8, String)) {
        if self.extension_ids.iter().all(|(id, _)| *id != extension.0) {
            self.extension_ids.push(extension.clone());
        }
    }

    /// The server must not use a number in another sense than one that was agreed on.
    fn check_numbers(&self, description: &Description, sdp: &str) {
        for section in description.sections.iter().filter(|s| !s.rejected) {
            for codec in &section.codecs {
                let mut known = self.numbers.iter();
                let known = known.find(|k| k.payload_type == codec.payload_type);
                let agrees = known.is_none_or(|known| same_format(known, codec));
                assert!(agrees, "{} was {known:?}: {sdp}", codec.payload_type);
            }
            for (id, uri) in &section.extensions {
                let known = self.extension_ids.iter().find(|(known, _)| known == id);
                let agrees = known.is_none_or(|(_, known)| known == uri);
                assert!(agrees, "extension {id} was {known:?}: {sdp}");
            }
        }
    }

    /// Takes the server's offer (rolling an own one back) and answers it.
    pub fn handle_offer(
        &mut self,
        sdp: &str,
        transport: &LocalTransport<'_>,
    ) -> (RemoteTransport, String) {
        let offer = Description::parse(sdp);
        assert!(offer.ice_lite, "the server says that it is lite: {sdp}");
        if let Some(before) = self.pending.take() {
            self.roll_back(before);
        }
        self.check_numbers(&offer, sdp);
        self.offers_taken += 1;
        assert!(
            offer.sections.len() >= self.sections,
            "sections stay: {sdp}"
        );
        self.sections = offer.sections.len();
        for (index, section) in offer.sections.iter().enumerate() {
            self.take_offered(index, section, sdp);
        }
        let answer = self.write(transport, "active", |t| t.negotiated);
        let setup = match offer.setup.as_str() {
            "actpass" | "passive" => "active",
            other => panic!("a server's offer says {other}: {sdp}"),
        };
        (remote_transport(offer, setup), answer)
    }

    fn roll_back(&mut self, before: Before) {
        self.rollbacks += 1;
        self.needed = true;
        // Sections that only the withdrawn offer had are gone again; tracks stay.
        for (at, transceiver) in self.transceivers.iter_mut().enumerate() {
            match before.transceivers.get(at) {
                Some(old) => transceiver.section.clone_from(&old.section),
                None => transceiver.section = None,
            }
        }
        self.numbers = before.numbers;
        self.extension_ids = before.extension_ids;
        let used = self.transceivers.iter().filter_map(|t| t.section.as_ref());
        self.sections = used.map(|(index, _)| index + 1).max().unwrap_or(0);
    }

    fn take_offered(&mut self, index: usize, section: &SectionText, sdp: &str) {
        let video = section.kind == "video";
        let at = self.transceiver_at(index, section);
        let flavor = self.flavor;
        let transceiver = &mut self.transceivers[at];
        assert_eq!(transceiver.video, video, "a section keeps its kind: {sdp}");
        if section.rejected {
            transceiver.stopped = true;
            transceiver.negotiated = Direction::INACTIVE;
            transceiver.remote = None;
            transceiver.codecs.clone_from(&section.codecs);
            return;
        }
        let own = flavor.codecs(video);
        let takes = |codec: &CodecLine| own.iter().any(|o| o.name() == codec.name());
        let mut codecs: Vec<CodecLine> = section
            .codecs
            .iter()
            .filter(|c| takes(c))
            .cloned()
            .collect();
        let primaries: Vec<u8> = codecs.iter().map(|c| c.payload_type).collect();
        codecs.retain(|c| c.apt().is_none_or(|apt| primaries.contains(&apt)));
        assert!(!codecs.is_empty(), "a common codec: {sdp}");
        transceiver.codecs = codecs;
        let known = flavor.extensions(video);
        transceiver.extensions = section.extensions.clone();
        transceiver
            .extensions
            .retain(|(_, uri)| known.iter().any(|(_, own)| own == uri));
        transceiver.remote = remote_track(section);
        transceiver.negotiated = Direction {
            send: section.direction.recv && transceiver.local.is_some(),
            recv: section.direction.send && transceiver.wants_recv,
        };
        transceiver.ever_sent |= transceiver.negotiated.send;
        let (codecs, extensions) = (transceiver.codecs.clone(), transceiver.extensions.clone());
        codecs.iter().for_each(|codec| self.note_codec(codec));
        extensions.iter().for_each(|e| self.note_extension(e));
    }

    /// The transceiver of a section of the server's offer (RFC 9429 §5.10).
    fn transceiver_at(&mut self, index: usize, section: &SectionText) -> usize {
        let video = section.kind == "video";
        let there = self
            .transceivers
            .iter()
            .position(|t| t.section.as_ref().is_some_and(|(i, _)| *i == index));
        if let Some(at) = there {
            if self.transceivers[at].mid() == section.mid {
                return at;
            }
            let old = &mut self.transceivers[at];
            assert!(
                old.stopped,
                "only a stopped section is used for another mid"
            );
            old.section = None;
        }
        let waiting = self.transceivers.iter().position(|t| {
            let fits = t.section.is_none() && t.video == video && !t.stopped;
            fits && t.local.is_some() && section.direction.recv
        });
        let at = waiting.unwrap_or_else(|| {
            self.transceivers.push(Transceiver::new(video));
            self.transceivers.len() - 1
        });
        self.transceivers[at].section = Some((index, section.mid.clone()));
        at
    }

    /// Takes the server's answer to the own offer.
    pub fn handle_answer(&mut self, sdp: &str) -> RemoteTransport {
        let answer = Description::parse(sdp);
        assert!(answer.ice_lite, "the server says that it is lite: {sdp}");
        self.check_numbers(&answer, sdp);
        self.pending.take().expect("an answer follows an own offer");
        assert_eq!(
            answer.sections.len(),
            self.sections,
            "as many sections: {sdp}"
        );
        for (index, section) in answer.sections.iter().enumerate() {
            let found = self
                .transceivers
                .iter_mut()
                .find(|t| t.section.as_ref().is_some_and(|(i, _)| *i == index));
            let Some(transceiver) = found else {
                assert!(section.rejected, "an old section stays rejected: {sdp}");
                continue;
            };
            assert_eq!(transceiver.mid(), section.mid, "mids match: {sdp}");
            take_answered(transceiver, section, sdp);
        }
        let setup = match answer.setup.as_str() {
            "passive" => "active",
            "active" => "passive",
            other => panic!("an answer says {other}: {sdp}"),
        };
        remote_transport(answer, setup)
    }

    fn write(
        &mut self,
        transport: &LocalTransport<'_>,
        setup: &str,
        direction: impl Fn(&Transceiver) -> Direction,
    ) -> String {
        let mut sections = Vec::new();
        for index in 0..self.sections {
            let transceiver = self
                .transceivers
                .iter()
                .find(|t| t.section.as_ref().is_some_and(|(i, _)| *i == index))
                .expect("every section has a transceiver");
            sections.push(section_text(
                transceiver,
                direction(transceiver),
                &self.cname,
            ));
        }
        let bundle = sections.iter().filter(|s| !s.rejected);
        let description = Description {
            ice: transport.ice.clone(),
            fingerprint: Some(transport.fingerprint.to_owned()),
            setup: setup.to_owned(),
            ice_lite: false,
            bundle: bundle.map(|s| s.mid.clone()).collect(),
            candidates: Vec::new(),
            sections,
        };
        self.version += 1;
        description.write(self.version)
    }
}

/// The same codec in the same variant. Parameters that only ask for something may differ.
fn same_format(a: &CodecLine, b: &CodecLine) -> bool {
    let variant = |codec: &CodecLine| {
        let fmtp = codec.fmtp.clone().unwrap_or_default();
        let mut parameters: Vec<String> = fmtp
            .split(';')
            .map(str::trim)
            .filter(|p| {
                [
                    "apt=",
                    "packetization-mode=",
                    "profile-level-id=",
                    "profile-id=",
                    "profile=",
                ]
                .iter()
                .any(|name| p.starts_with(name))
            })
            .map(str::to_owned)
            .collect();
        parameters.retain(|p| p != "profile-id=0" && p != "profile=0");
        parameters.sort();
        parameters
    };
    a.name() == b.name() && variant(a) == variant(b)
}

fn take_answered(transceiver: &mut Transceiver, section: &SectionText, sdp: &str) {
    if section.rejected {
        transceiver.stopped = true;
        transceiver.negotiated = Direction::INACTIVE;
        transceiver.remote = None;
        return;
    }
    for codec in &section.codecs {
        let offered = transceiver
            .codecs
            .iter()
            .any(|c| c.payload_type == codec.payload_type && c.name() == codec.name());
        assert!(offered, "only offered payload types are answered: {sdp}");
    }
    for extension in &section.extensions {
        let offered = transceiver.extensions.contains(extension);
        assert!(offered, "only offered extensions are answered: {sdp}");
    }
    let direction = Direction {
        send: section.direction.recv,
        recv: section.direction.send,
    };
    assert!(
        !direction.recv || transceiver.wants_recv,
        "direction: {sdp}"
    );
    // The track may have been removed since the offer; the next one says so.
    transceiver.negotiated = direction;
    transceiver.ever_sent |= direction.send;
    transceiver.codecs.clone_from(&section.codecs);
    transceiver.extensions.clone_from(&section.extensions);
    transceiver.remote = remote_track(section);
}

fn remote_track(section: &SectionText) -> Option<RemoteTrack> {
    let (peer, track) = section.msid.clone()?;
    section.direction.send.then(|| RemoteTrack {
        peer,
        track,
        ssrc: section.primary_ssrc(),
        rtx_ssrc: section.fid.map(|(_, rtx)| rtx),
    })
}

fn remote_transport(description: Description, own_setup: &str) -> RemoteTransport {
    RemoteTransport {
        ice: description.ice,
        fingerprint: description.fingerprint,
        setup: own_setup.to_owned(),
        candidates: description.candidates,
    }
}

fn section_text(transceiver: &Transceiver, direction: Direction, cname: &str) -> SectionText {
    let mut section = SectionText {
        kind: if transceiver.video { "video" } else { "audio" }.to_owned(),
        mid: transceiver.mid().to_owned(),
        rejected: transceiver.stopped,
        direction,
        codecs: transceiver.codecs.clone(),
        extensions: transceiver.extensions.clone(),
        msid: None,
        ssrcs: Vec::new(),
        fid: None,
        cname: Some(cname.to_owned()),
    };
    if let Some(local) = transceiver.local.as_ref().filter(|_| direction.send) {
        section.msid = Some((local.stream.clone(), local.id.clone()));
        section.ssrcs.push(local.ssrc);
        let has_rtx = section.codecs.iter().any(|c| c.name() == "rtx");
        if let Some(rtx) = local.rtx_ssrc.filter(|_| has_rtx) {
            section.ssrcs.push(rtx);
            section.fid = Some((local.ssrc, rtx));
        }
    }
    section
}
