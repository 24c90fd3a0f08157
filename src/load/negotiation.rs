//! The client's side of offer and answer: publishes a few tracks, receives whatever it is offered,
//! and gives way when both sides offer at once (RFC 9429 §4.1.8.2).
//!
//! Descriptions in, descriptions out; knows no socket.

use crate::base::ids::{MediaKind, Mid, PayloadType, Rid, Ssrc};
use crate::control::{Fingerprint, FingerprintAlgorithm};
use crate::load::media::SendFormat;
use crate::wire::codec::{Codec, CodecMapping};
use crate::wire::extension::{Extension, ExtensionId, ExtensionMap};
use crate::wire::sdp::{
    CodecLine, Description, Direction, FingerprintLine, IceLines, Media, Msid, RidStream, Section,
    Setup, Simulcast,
};

/// A track to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// One SSRC for each stream: one, or with simulcast one for each of [`RIDS`].
    pub ssrcs: Vec<Ssrc>,
}

impl OwnTrack {
    fn is_simulcast(&self) -> bool {
        self.ssrcs.len() > 1
    }

    /// The names of its streams, smallest first; none without simulcast.
    fn rids(&self) -> impl Iterator<Item = Rid> {
        let names = RIDS.iter().filter(|_| self.is_simulcast());
        names.map(|name| Rid::new(name).expect("a rid is a letter"))
    }

    fn mid(&self) -> Mid {
        Mid::new(self.kind.as_str()).expect("a kind is a short word")
    }
}

/// The layers of simulcast by the names that Chromium's users give them, smallest first: quarter,
/// half and full size.
pub const RIDS: [&str; 3] = ["q", "h", "f"];

/// A track that the server says it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its SSRC.
    pub ssrc: Ssrc,
    /// Audio or video.
    pub kind: MediaKind,
    /// The SSRC of what is sent again, and of padding, where that was taken.
    pub rtx_ssrc: Option<Ssrc>,
}

/// The server's end of the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What checks must carry.
    pub ice: IceLines,
    /// The hashes of its certificate.
    pub fingerprints: Vec<Fingerprint>,
}

/// Why a description of the server cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NegotiationError {
    /// It cannot be read.
    Unreadable,
    /// It has no credentials or no fingerprint that is known.
    NoTransport,
    /// It has fewer sections than the one before, or others.
    Sections,
    /// An answer, but nothing was offered.
    NotOffered,
    /// It does not take what is to be published.
    TrackRefused,
    /// It takes no simulcast.
    NoSimulcast,
}

impl std::fmt::Display for NegotiationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the server's description cannot be read",
            Self::NoTransport => "the server's description has no ICE credentials or fingerprint",
            Self::Sections => "the server's description does not continue the one before",
            Self::NotOffered => "the server answered what was not offered",
            Self::TrackRefused => "the server refused to receive a track",
            Self::NoSimulcast => {
                "the server does not accept simulcast (its answer has no a=simulcast); run without --simulcast"
            }
        })
    }
}

impl std::error::Error for NegotiationError {}

/// Offer/answer state of one client.
#[derive(Debug)]
pub struct Negotiation {
    ice: IceLines,
    fingerprint: FingerprintLine,
    /// Names the stream in `a=msid` and the sender in `a=ssrc`.
    cname: String,
    tracks: Vec<OwnTrack>,
    /// Whether packets are numbered and reported both ways (transport-cc), and repaired by RTX, without which servers do
    /// not number them.
    has_transport_cc: bool,
    /// As this side described them last.
    sections: Vec<Section>,
    /// As the server described them last.
    remote: Vec<Section>,
    /// While an own offer waits for its answer: how many sections there were before.
    offered_from: Option<usize>,
    version: u64,
}

impl Negotiation {
    /// Nothing is described yet.
    #[must_use]
    pub fn new(
        ice: IceLines,
        fingerprint: &Fingerprint,
        cname: String,
        tracks: Vec<OwnTrack>,
        has_transport_cc: bool,
    ) -> Self {
        Self {
            ice,
            fingerprint: fingerprint_line(fingerprint),
            cname,
            tracks,
            has_transport_cc,
            sections: Vec::new(),
            remote: Vec::new(),
            offered_from: None,
            version: 0,
        }
    }

    /// An offer that adds the own tracks that have no section yet; `None` where all have one or
    /// another offer waits.
    pub fn create_offer(&mut self) -> Option<String> {
        let fresh: Vec<Section> = self
            .tracks
            .iter()
            .filter(|track| self.sections.iter().all(|s| s.mid != track.mid()))
            .map(|track| self.section(track))
            .collect();
        if fresh.is_empty() || self.offered_from.is_some() {
            return None;
        }
        self.offered_from = Some(self.sections.len());
        self.sections.extend(fresh);
        for section in &mut self.sections {
            section.setup = Some(Setup::ActPass);
        }
        Some(self.describe())
    }

    /// Takes the server's answer.
    ///
    /// # Errors
    /// [`NegotiationError`]: the client can only give up.
    pub fn handle_answer(&mut self, sdp: &str) -> Result<Remote, NegotiationError> {
        let answer = Description::parse(sdp).map_err(|_| NegotiationError::Unreadable)?;
        self.offered_from
            .take()
            .ok_or(NegotiationError::NotOffered)?;
        if !self
            .sections
            .iter()
            .map(|s| s.mid)
            .eq(answer.sections.iter().map(|s| s.mid))
        {
            return Err(NegotiationError::Sections);
        }
        for track in &self.tracks {
            let section = answer.sections.iter().find(|s| s.mid == track.mid());
            if section.is_none_or(|s| s.rejected || !s.direction.receives()) {
                return Err(NegotiationError::TrackRefused);
            }
            let taken = section.map_or(0, |s| s.simulcast.recv.len());
            if track.is_simulcast() && taken < track.ssrcs.len() {
                return Err(NegotiationError::NoSimulcast);
            }
        }
        self.remote = answer.sections;
        remote(&self.remote)
    }

    /// Takes the server's offer, withdrawing an own one, and answers it. Where an own offer was
    /// withdrawn, [`Negotiation::create_offer`] has another one.
    ///
    /// # Errors
    /// [`NegotiationError`]: the client can only give up.
    pub fn handle_offer(&mut self, sdp: &str) -> Result<(Remote, String), NegotiationError> {
        let offer = Description::parse(sdp).map_err(|_| NegotiationError::Unreadable)?;
        if let Some(len) = self.offered_from.take() {
            self.sections.truncate(len);
        }
        if offer.sections.len() < self.sections.len() {
            return Err(NegotiationError::Sections);
        }
        let answered = offer.sections.iter().map(|offered| self.answer(offered));
        self.sections = answered.collect();
        self.remote = offer.sections;
        Ok((remote(&self.remote)?, self.describe()))
    }

    /// The tracks that the server sends, as far as its last description says.
    pub fn incoming(&self) -> impl Iterator<Item = Incoming> + '_ {
        self.remote.iter().filter_map(|section| {
            let Media::Rtp(kind) = section.media else {
                return None;
            };
            let ssrc = *section.ssrcs.first()?;
            let sends = !section.rejected && section.direction.sends();
            let repair = section.rtx_ssrcs.iter().find(|(media, _)| *media == ssrc);
            let rtx_ssrc = repair.map(|(_, repair)| *repair);
            sends.then_some(Incoming {
                ssrc,
                kind,
                rtx_ssrc: rtx_ssrc.filter(|_| self.has_transport_cc),
            })
        })
    }

    /// Under which id the server's packets have transport-wide numbers: one for all that share a transport.
    #[must_use]
    pub fn number_id(&self) -> Option<ExtensionId> {
        if !self.has_transport_cc {
            return None;
        }
        self.remote.iter().find_map(number_id)
    }

    /// How each stream of an own track is to be sent, once the server has taken it.
    #[must_use]
    pub fn send_formats(&self, track: &OwnTrack) -> Option<Vec<(Ssrc, SendFormat)>> {
        let described = self.remote.iter().find(|s| s.mid == track.mid())?;
        if described.rejected || !described.direction.receives() {
            return None;
        }
        let codec = described.codecs.iter().find(|c| is_used(c.mapping.codec))?;
        let value = |extension: Extension, value: &str| {
            let id = described.extensions.id(extension);
            id.map(|id| (id, value.as_bytes().to_vec()))
        };
        let streams = track.ssrcs.iter().enumerate().map(|(index, ssrc)| {
            let mut extensions = Vec::from_iter(value(Extension::Mid, track.mid().as_str()));
            if track.is_simulcast() {
                extensions.extend(value(Extension::RtpStreamId, RIDS[index % RIDS.len()]));
            }
            let format = SendFormat {
                payload_type: codec.mapping.payload_type,
                extensions,
                number_id: number_id(described).filter(|_| self.has_transport_cc),
            };
            (*ssrc, format)
        });
        Some(streams.collect())
    }

    fn section(&self, track: &OwnTrack) -> Section {
        let codec = codec_line(track.kind, self.has_transport_cc);
        let mut extensions = ExtensionMap::default();
        let mut offer = |extension, id| {
            if let Some(id) = ExtensionId::new(id) {
                extensions.insert(extension, id);
            }
        };
        offer(Extension::Mid, MID_ID);
        if track.is_simulcast() {
            offer(Extension::RtpStreamId, RID_ID);
        }
        if self.has_transport_cc {
            offer(Extension::TransportSequenceNumber, NUMBER_ID);
        }
        let extension_ids = extensions.iter().map(|(_, id)| id).collect();
        Section {
            media: Media::Rtp(track.kind),
            mid: track.mid(),
            rejected: false,
            direction: Direction::SendRecv,
            ice: None,
            fingerprints: Vec::new(),
            setup: None,
            rtcp_mux: true,
            rtcp_rsize: true,
            rtcp_xr_rtt: false,
            msid: Some(Msid {
                stream: self.cname.clone(),
                track: Some(track.kind.as_str().to_owned()),
            }),
            payload_types: vec![codec.mapping.payload_type],
            codecs: vec![codec],
            extensions,
            extension_ids,
            // As Chromium has it: with RIDs, no SSRC is declared.
            ssrcs: if track.is_simulcast() {
                Vec::new()
            } else {
                track.ssrcs.clone()
            },
            rtx_ssrcs: Vec::new(),
            simulcast_ssrcs: Vec::new(),
            simulcast: Simulcast {
                send: track.rids().map(RidStream::new).collect(),
                recv: Vec::new(),
            },
            cname: Some(self.cname.clone()),
        }
    }

    /// The answer to one section: of the codecs the one that is used, and of the extensions those that are.
    fn answer(&self, offered: &Section) -> Section {
        let own = self.tracks.iter().find(|track| track.mid() == offered.mid);
        let was = self.sections.iter().find(|s| s.mid == offered.mid);
        let mut section = Section {
            ssrcs: Vec::new(),
            rtx_ssrcs: Vec::new(),
            simulcast: Simulcast::default(),
            msid: None,
            cname: None,
            ..offered.clone()
        };
        section.setup = Some(Setup::Active);
        section.codecs.retain(|line| is_used(line.mapping.codec));
        for line in &mut section.codecs {
            line.mapping.remb = false;
            if !self.has_transport_cc {
                (line.mapping.rtx, line.mapping.transport_cc) = (None, false);
            }
        }
        section.payload_types = section
            .codecs
            .iter()
            .flat_map(|c| [Some(c.mapping.payload_type), c.mapping.rtx])
            .flatten()
            .collect();
        section.extensions = ExtensionMap::default();
        let numbers = Extension::TransportSequenceNumber;
        let numbers = self.has_transport_cc.then_some(numbers);
        let used = [Extension::Mid, Extension::RtpStreamId].into_iter();
        for extension in used.chain(numbers) {
            if let Some(id) = offered.extensions.id(extension) {
                section.extensions.insert(extension, id);
            }
        }
        if offered.rejected || section.codecs.is_empty() {
            section.rejected = true;
            section.payload_types.clone_from(&offered.payload_types);
        }
        let sends = own.is_some() && offered.direction.receives();
        if let Some(was) = was.filter(|_| sends) {
            section.msid.clone_from(&was.msid);
            section.ssrcs.clone_from(&was.ssrcs);
            section.cname.clone_from(&was.cname);
            let is_taken = |stream: &RidStream| offered.simulcast.recv.contains(stream);
            let streams = was.simulcast.send.iter().copied();
            section.simulcast.send = streams.filter(is_taken).collect();
        }
        section.direction = Direction::new(sends, offered.direction.sends());
        section
    }

    /// The own sections as text.
    fn describe(&mut self) -> String {
        self.version += 1;
        for section in &mut self.sections {
            section.ice = Some(self.ice.clone());
            section.fingerprints = vec![self.fingerprint.clone()];
        }
        let used = self.sections.iter().filter(|s| !s.rejected);
        let description = Description {
            session_id: SESSION_ID,
            session_version: self.version,
            ice_lite: false,
            bundle: Some(used.map(|s| s.mid).collect()),
            sections: self.sections.clone(),
        };
        description.to_string()
    }
}

fn remote(sections: &[Section]) -> Result<Remote, NegotiationError> {
    let mut used = sections.iter().filter(|s| !s.rejected);
    let section = used
        .find(|s| s.ice.is_some())
        .ok_or(NegotiationError::NoTransport)?;
    let fingerprints: Vec<Fingerprint> = section
        .fingerprints
        .iter()
        .filter(|line| line.algorithm == "sha-256")
        .map(|line| Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: line.digest.clone(),
        })
        .collect();
    match &section.ice {
        Some(ice) if !fingerprints.is_empty() => Ok(Remote {
            ice: ice.clone(),
            fingerprints,
        }),
        _ => Err(NegotiationError::NoTransport),
    }
}

fn fingerprint_line(fingerprint: &Fingerprint) -> FingerprintLine {
    let algorithm = match fingerprint.algorithm {
        FingerprintAlgorithm::Sha256 => "sha-256",
        FingerprintAlgorithm::Sha384 => "sha-384",
        FingerprintAlgorithm::Sha512 => "sha-512",
    };
    FingerprintLine {
        algorithm: algorithm.to_owned(),
        digest: fingerprint.digest.clone(),
    }
}

fn number_id(section: &Section) -> Option<ExtensionId> {
    let has_feedback = section.codecs.iter().any(|line| line.mapping.transport_cc);
    let is_used = has_feedback && !section.rejected;
    let id = section.extensions.id(Extension::TransportSequenceNumber);
    id.filter(|_| is_used)
}

fn is_used(codec: Codec) -> bool {
    matches!(codec, Codec::Opus | Codec::Vp8)
}

/// What is offered, under the numbers that Chromium uses.
fn codec_line(kind: MediaKind, transport_cc: bool) -> CodecLine {
    let (codec, number) = match kind {
        MediaKind::Audio => (Codec::Opus, 111),
        MediaKind::Video => (Codec::Vp8, 96),
    };
    let is_video = kind == MediaKind::Video;
    CodecLine {
        mapping: CodecMapping {
            payload_type: PayloadType(number),
            codec,
            rtx: None,
            nack: is_video,
            transport_cc,
            remb: false,
        },
        pli: is_video,
        fir: is_video,
        rrtr: false,
    }
}

/// Chromium's ids.
const NUMBER_ID: u8 = 3;
const MID_ID: u8 = 4;
const RID_ID: u8 = 10;
/// Any number will do: a client has one session.
const SESSION_ID: u64 = 4_611_731_400_430_051_336;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(tracks: Vec<OwnTrack>) -> Negotiation {
        let ice = IceLines {
            ufrag: "ufrag".to_owned(),
            pwd: "password-of-22-characters".to_owned(),
        };
        let fingerprint = Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: vec![7; 32],
        };
        Negotiation::new(ice, &fingerprint, "p1".to_owned(), tracks, false)
    }

    fn track(kind: MediaKind, ssrcs: &[u32]) -> OwnTrack {
        OwnTrack {
            kind,
            ssrcs: ssrcs.iter().copied().map(Ssrc).collect(),
        }
    }

    fn publisher() -> Negotiation {
        client(vec![
            track(MediaKind::Audio, &[1]),
            track(MediaKind::Video, &[2]),
        ])
    }

    /// What a server would say to `offer`, after `change` to each of its sections.
    fn answer(offer: &str, change: impl Fn(&mut Section)) -> String {
        let mut description = Description::parse(offer).unwrap();
        for section in &mut description.sections {
            section.setup = Some(Setup::Passive);
            section.direction = Direction::RecvOnly;
            section.ssrcs.clear();
            change(section);
        }
        description.to_string()
    }

    /// An offer of the server's, with one video behind `sections`.
    fn offer(mut sections: Vec<Section>) -> String {
        let mut other = publisher();
        let mut section = Description::parse(&other.create_offer().unwrap())
            .unwrap()
            .sections
            .remove(1);
        section.mid = Mid::new("s0").unwrap();
        section.ssrcs = vec![Ssrc(99)];
        for line in &mut section.codecs {
            line.mapping.rtx = Some(PayloadType(97));
        }
        section.payload_types.push(PayloadType(97));
        sections.push(section);
        let description = Description {
            bundle: Some(sections.iter().map(|s| s.mid).collect()),
            sections,
            ..Description::default()
        };
        description.to_string()
    }

    #[test]
    fn publishes_what_the_server_takes() {
        let mut client = publisher();
        let offered = client.create_offer().unwrap();
        assert!(client.create_offer().is_none(), "one at a time");
        let remote = client.handle_answer(&answer(&offered, |_| {})).unwrap();
        assert_eq!(remote.ice.ufrag, "ufrag");
        assert_eq!(remote.fingerprints[0].digest, [7; 32]);
        let video = client.tracks[1].clone();
        let formats = client.send_formats(&video).unwrap();
        assert_eq!(formats[0].0, Ssrc(2));
        assert_eq!(formats[0].1.payload_type, PayloadType(96));
        assert_eq!(formats[0].1.extensions[0].1, b"video");
        assert!(client.create_offer().is_none(), "all is published");
        assert_eq!(client.incoming().count(), 0);
    }

    #[test]
    fn answers_offers_and_keeps_its_own_sections() {
        let mut client = publisher();
        let offered = client.create_offer().unwrap();
        client.handle_answer(&answer(&offered, |_| {})).unwrap();
        let offer = offer(client.remote.clone());
        let (_, answered) = client.handle_offer(&offer).unwrap();
        let answered = Description::parse(&answered).unwrap();
        assert_eq!(answered.sections.len(), 3);
        assert_eq!(answered.sections[1].direction, Direction::SendOnly);
        assert_eq!(answered.sections[1].ssrcs, [Ssrc(2)]);
        let added = &answered.sections[2];
        assert_eq!(added.direction, Direction::RecvOnly);
        assert_eq!(added.setup, Some(Setup::Active));
        assert_eq!(added.payload_types, [PayloadType(96)]);
        assert!(added.codecs[0].mapping.rtx.is_none() && added.ssrcs.is_empty());
        let incoming: Vec<_> = client.incoming().collect();
        assert_eq!(incoming[0].ssrc, Ssrc(99));
    }

    #[test]
    fn gives_way_when_both_offer() {
        let mut client = publisher();
        client.create_offer().unwrap();
        let (_, answered) = client.handle_offer(&offer(Vec::new())).unwrap();
        assert_eq!(Description::parse(&answered).unwrap().sections.len(), 1);
        let again = client.create_offer().unwrap();
        let again = Description::parse(&again).unwrap();
        assert_eq!(again.sections.len(), 3);
        assert_eq!(again.sections[0].mid.as_str(), "s0");
        assert!(
            again
                .sections
                .iter()
                .all(|s| s.setup == Some(Setup::ActPass))
        );
    }

    #[test]
    fn simulcast_is_offered_with_rids_and_must_be_accepted() {
        let mut client = client(vec![track(MediaKind::Video, &[1, 2, 3])]);
        let offered = client.create_offer().unwrap();
        for line in ["a=rid:q send", "a=rid:f send", "a=simulcast:send q;h;f"] {
            assert!(offered.contains(&format!("\r\n{line}\r\n")), "{offered}");
        }
        assert!(!offered.contains("a=ssrc"), "{offered}");
        let plain = answer(&offered, |section| section.simulcast = Simulcast::default());
        let error = client.handle_answer(&plain).unwrap_err();
        assert_eq!(error, NegotiationError::NoSimulcast);
        assert!(error.to_string().contains("--simulcast"));
        client.offered_from = Some(0);
        let accepted = answer(&offered, |section| {
            section.simulcast.recv = std::mem::take(&mut section.simulcast.send);
        });
        client.handle_answer(&accepted).unwrap();
        let video = client.tracks[0].clone();
        let formats = client.send_formats(&video).unwrap();
        let rids: Vec<_> = formats
            .iter()
            .map(|(_, f)| f.extensions[1].1.clone())
            .collect();
        assert_eq!(rids, [b"q", b"h", b"f"]);
    }

    #[test]
    fn numbers_and_repairs_are_taken_only_where_they_are_wanted() {
        for is_wanted in [false, true] {
            let mut client = Negotiation {
                has_transport_cc: is_wanted,
                ..publisher()
            };
            let offered = client.create_offer().unwrap();
            assert_eq!(offered.contains("transport-cc"), is_wanted, "{offered}");
            client.handle_answer(&answer(&offered, |_| {})).unwrap();
            let video = client.tracks[1].clone();
            let format = &client.send_formats(&video).unwrap()[0].1;
            let id = ExtensionId::new(NUMBER_ID).filter(|_| is_wanted);
            assert_eq!((format.number_id, client.number_id()), (id, id));

            let mut sections = client.remote.clone();
            sections[1].rtx_ssrcs.clear();
            let mut theirs = Description::parse(&offer(sections)).unwrap();
            let added = theirs.sections.last_mut().unwrap();
            added.rtx_ssrcs = vec![(Ssrc(99), Ssrc(100))];
            added.extensions.insert(
                Extension::TransportSequenceNumber,
                ExtensionId::new(NUMBER_ID).unwrap(),
            );
            added.codecs[0].mapping.transport_cc = true;
            let (_, answered) = client.handle_offer(&theirs.to_string()).unwrap();
            let answered = Description::parse(&answered).unwrap();
            let rtx = answered.sections[2].codecs[0].mapping.rtx;
            assert_eq!(rtx, is_wanted.then_some(PayloadType(97)));
            let incoming: Vec<_> = client.incoming().collect();
            assert_eq!(incoming[0].rtx_ssrc, is_wanted.then_some(Ssrc(100)));
        }
    }

    #[test]
    fn unusable_descriptions_are_told_apart() {
        use NegotiationError::{NoTransport, NotOffered, Sections, TrackRefused, Unreadable};
        let go = |text: &dyn Fn(&str) -> String| {
            let mut client = publisher();
            let offered = client.create_offer().unwrap();
            client.handle_answer(&text(&offered)).unwrap_err()
        };
        assert_eq!(go(&|_| "v=1".to_owned()), Unreadable);
        assert_eq!(go(&|o| answer(o, |s| s.ice = None)), NoTransport);
        assert_eq!(go(&|o| answer(o, |s| s.fingerprints.clear())), NoTransport);
        assert_eq!(
            go(&|o| answer(o, |s| s.direction = Direction::Inactive)),
            TrackRefused
        );
        assert_eq!(go(&|o| o.replace("a=mid:audio", "a=mid:other")), Sections);
        let mut idle = client(Vec::new());
        assert!(idle.create_offer().is_none());
        let text = offer(Vec::new());
        assert_eq!(idle.handle_answer(&text).unwrap_err(), NotOffered);
        idle.handle_offer(&text).unwrap();
        let empty = Description::default().to_string();
        assert_eq!(idle.handle_offer(&empty).unwrap_err(), Sections);
    }
}
