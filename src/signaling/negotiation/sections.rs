//! The media sections of one peer, by m-line index, and what flows in each.
//!
//! A section has two independent halves. The *receive half* is a track that the client publishes; the
//! *send half* is a subscription to somebody else's track. A browser's `addTrack` re-uses the section
//! on which it receives somebody's video, so both halves may be in use, with unrelated tracks.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::growth::push;
use crate::base::ids::{
    MediaKind, Mid, PeerId, PeerKey, ShardId, Ssrc, SubscriptionKey, TrackId, TrackKey,
};
use crate::control::{EncodingConfig, SubscriptionConfig, TrackConfig, TrackInfo, cname};
use crate::signaling::msid;
use crate::signaling::negotiation::codecs::{self, Numbers};
use crate::signaling::negotiation::encodings;
use crate::signaling::negotiation::tracks::RoomTracks;
use crate::wire::codec::{Codec, CodecMapping};
use crate::wire::extension::{Extension, ExtensionMap};
use crate::wire::sdp::{self, CodecLine, Direction, Media, Msid, RidStream, Simulcast};

/// Sections of one description at most: a client's answer to an offer of that many stays within the
/// frame limit (`the_largest_offer_fits_a_frame` checks it).
pub const SECTIONS_MAX: usize = 96;
/// Tracks that one peer publishes at most.
pub const TRACKS_MAX: usize = 16;

/// One place in the description.
#[derive(Debug, Clone)]
pub enum Slot {
    /// In use.
    Live(Box<Section>),
    /// Refused or stopped: port 0. Its place may be taken under a new `mid`.
    Rejected(Box<Rejected>),
}

/// What is left of a section that was refused or stopped.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// As it stood, to be repeated.
    pub media: Media,
    /// As it stood.
    pub mid: Mid,
}

impl Slot {
    /// A section that is not in use (any more), as a description has it.
    #[must_use]
    pub fn rejected(described: &sdp::Section) -> Self {
        Self::Rejected(Box::new(Rejected {
            media: described.media.clone(),
            mid: described.mid,
        }))
    }

    /// The section, if it is in use.
    #[must_use]
    pub fn live(&self) -> Option<&Section> {
        match self {
            Self::Live(section) => Some(section),
            Self::Rejected(_) => None,
        }
    }

    /// The section, if it is in use.
    pub fn live_mut(&mut self) -> Option<&mut Section> {
        match self {
            Self::Live(section) => Some(section),
            Self::Rejected(_) => None,
        }
    }

    /// Its `mid`, in use or not.
    #[must_use]
    pub fn mid(&self) -> Mid {
        match self {
            Self::Live(section) => section.mid,
            Self::Rejected(rejected) => rejected.mid,
        }
    }
}

/// A section in use.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its identification tag.
    pub mid: Mid,
    /// Audio or video.
    pub kind: MediaKind,
    /// As negotiated last, or as the server offers it. Sections that have the same share the list.
    pub codecs: Arc<[CodecLine]>,
    /// As negotiated last, or as the server offers it.
    pub extensions: ExtensionMap,
    /// Reduced-size RTCP (RFC 5506).
    pub rtcp_rsize: bool,
    /// The client may ask for its round trip (RFC 3611).
    pub rtcp_xr_rtt: bool,
    /// The simulcast streams that are taken, in the client's order. They outlast the client's sending: a
    /// browser that sends nothing for now still names them, and loses all but one that is not answered.
    pub simulcast: Box<[RidStream]>,
    /// Whether the client takes media here when the server has some.
    pub client_receives: bool,
    /// What the client sends.
    pub receive: Option<Box<Published>>,
    /// What the server sends.
    pub send: Option<Subscription>,
}

/// A track of the client's.
#[derive(Debug, Clone)]
pub struct Published {
    /// The track.
    pub key: TrackKey,
    /// Its id.
    pub id: TrackId,
    /// As the section says: when it changes, this is another track.
    pub msid: Option<Msid>,
    /// What it sends of it, lowest quality first; never empty.
    pub encodings: Vec<EncodingConfig>,
    /// Every SSRC that the section declares, for media or repair.
    pub declared_ssrcs: Vec<Ssrc>,
}

impl Published {
    /// Takes over what the client's description says of its streams.
    fn read(&mut self, sent: &sdp::Section) {
        self.encodings = encodings::of(sent);
        let repairs = sent.rtx_ssrcs.iter().map(|(_, rtx)| *rtx);
        self.declared_ssrcs = sent.ssrcs.iter().copied().chain(repairs).collect();
    }
}

/// A subscription of the client's.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The subscription.
    pub key: SubscriptionKey,
    /// What it copies.
    pub source: Arc<TrackInfo>,
    /// Its SSRC.
    pub ssrc: Ssrc,
    /// Its SSRC for retransmissions, used where they are negotiated.
    pub rtx_ssrc: Ssrc,
    /// Whether both sides know of it. Until the server's offer is answered, the client does not.
    pub agreed: bool,
}

impl Section {
    /// A section that has just come into being.
    #[must_use]
    pub fn new(mid: Mid, kind: MediaKind) -> Self {
        Self {
            mid,
            kind,
            codecs: Arc::default(),
            extensions: ExtensionMap::default(),
            rtcp_rsize: true,
            // Offered; what the client's description says counts.
            rtcp_xr_rtt: true,
            simulcast: Box::default(),
            client_receives: true,
            receive: None,
            send: None,
        }
    }

    /// Whether it can take a waiting track.
    #[must_use]
    pub fn is_free_for(&self, kind: MediaKind) -> bool {
        self.kind == kind && self.send.is_none() && self.client_receives
    }

    /// Whether media goes to the client now.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.send.is_some() && self.client_receives
    }

    /// What the client may send here, for the shard. RED is Opus, and shares its feedback; feedback on
    /// packets needs the number that tells them apart.
    fn received_mappings(&self) -> Vec<CodecMapping> {
        let mut mappings: Vec<CodecMapping> = self.codecs.iter().map(|line| line.mapping).collect();
        let is_numbered = self
            .extensions
            .id(Extension::TransportSequenceNumber)
            .is_some();
        let opus = mappings
            .iter()
            .any(|m| m.codec == Codec::Opus && m.transport_cc);
        for mapping in &mut mappings {
            mapping.transport_cc |= opus && mapping.codec == Codec::Red;
            mapping.transport_cc &= is_numbered;
        }
        mappings
    }

    /// What the server may send here, for the shard. Without RTX, a packet that is asked for again is the
    /// identical datagram, with an outdated transport-wide number: such codecs get none.
    fn sent_mappings(&self) -> (Vec<CodecMapping>, ExtensionMap) {
        let mut mappings = self.received_mappings();
        for mapping in &mut mappings {
            mapping.transport_cc &= mapping.rtx.is_some() || !mapping.nack;
        }
        let is_numbered = mappings.iter().any(|mapping| mapping.transport_cc);
        let mut extensions = ExtensionMap::default();
        for (extension, id) in self.extensions.iter() {
            if is_numbered || extension != Extension::TransportSequenceNumber {
                extensions.insert(extension, id);
            }
        }
        (mappings, extensions)
    }

    /// Whether the client answers reference times (RFC 3611 §4.4).
    fn takes_reference_times(&self) -> bool {
        self.rtcp_xr_rtt || self.codecs.iter().any(|line| line.rrtr)
    }

    fn has_rtx(&self) -> bool {
        self.codecs.iter().any(|line| line.mapping.rtx.is_some())
    }

    /// The section as a description says it, without its transport lines.
    #[must_use]
    pub fn describe(&self, direction: Direction) -> sdp::Section {
        let mut described = blank(Media::Rtp(self.kind), self.mid);
        described.direction = direction;
        described.rtcp_mux = true;
        described.rtcp_rsize = self.rtcp_rsize;
        described.rtcp_xr_rtt = self.rtcp_xr_rtt;
        // Without the client's restrictions: what it may send within them is taken anyway.
        let streams = self.simulcast.iter().map(|stream| RidStream {
            pixels_max: None,
            ..*stream
        });
        described.simulcast.recv = streams.collect();
        described.codecs = self.codecs.to_vec();
        described.payload_types = self
            .codecs
            .iter()
            .flat_map(|line| [Some(line.mapping.payload_type), line.mapping.rtx])
            .flatten()
            .collect();
        described.extensions = self.extensions;
        if let Some(subscription) = self.send.as_ref().filter(|_| direction.sends()) {
            described.msid = Some(Msid {
                stream: msid::encode(subscription.source.peer.as_str()),
                track: Some(msid::encode(subscription.source.id.as_str())),
            });
            described.cname = Some(cname(subscription.source.key.peer));
            described.ssrcs = vec![subscription.ssrc];
            if self.has_rtx() {
                described.rtx_ssrcs = vec![(subscription.ssrc, subscription.rtx_ssrc)];
            }
        }
        described
    }
}

/// A section with nothing in it.
fn blank(media: Media, mid: Mid) -> sdp::Section {
    sdp::Section {
        media,
        mid,
        rejected: false,
        direction: Direction::Inactive,
        ice: None,
        fingerprints: Vec::new(),
        setup: None,
        rtcp_mux: false,
        rtcp_rsize: false,
        rtcp_xr_rtt: false,
        msid: None,
        codecs: Vec::new(),
        payload_types: Vec::new(),
        extensions: ExtensionMap::default(),
        extension_ids: Vec::new(),
        ssrcs: Vec::new(),
        rtx_ssrcs: Vec::new(),
        simulcast_ssrcs: Vec::new(),
        simulcast: Simulcast::default(),
        cname: None,
    }
}

/// A refused section: port 0, the words it was offered with.
#[must_use]
pub fn describe_rejected(rejected: &Rejected) -> sdp::Section {
    let mut described = blank(rejected.media.clone(), rejected.mid);
    described.rejected = true;
    if let Media::Rtp(kind) = &rejected.media {
        // A format must stand there (RFC 8866 §5.14); its meaning does not matter.
        let (codecs, _) = Numbers::default().offer(*kind);
        described.codecs = codecs.into_iter().take(1).collect();
        for line in &mut described.codecs {
            line.mapping.rtx = None;
            described.payload_types.push(line.mapping.payload_type);
        }
    }
    described
}

/// All sections of a peer, and what numbers its tracks, subscriptions and sections.
#[derive(Debug)]
pub struct Sections {
    /// By m-line index.
    pub slots: Vec<Slot>,
    /// The client's payload types and extension ids.
    pub numbers: Numbers,
    peer: PeerKey,
    next_track: u32,
    next_subscription: u32,
    next_mid: u32,
    ssrc_origin: u32,
    next_ssrc: u32,
}

/// Odd, so that its multiples run through all 32-bit numbers before one comes again (the golden
/// ratio of 2^32, which scatters neighbours).
const SSRC_STEP: u32 = 0x9e37_79b1;

impl Sections {
    /// No section yet. `ssrc_origin` is random.
    #[must_use]
    pub fn new(peer: PeerKey, ssrc_origin: u32) -> Self {
        Self {
            slots: Vec::new(),
            numbers: Numbers::default(),
            peer,
            next_track: 0,
            next_subscription: 0,
            next_mid: 0,
            ssrc_origin,
            next_ssrc: 0,
        }
    }

    /// The sections in use.
    pub fn live(&self) -> impl Iterator<Item = &Section> {
        self.slots.iter().filter_map(Slot::live)
    }

    /// The sections in use.
    pub fn live_mut(&mut self) -> impl Iterator<Item = &mut Section> {
        self.slots.iter_mut().filter_map(Slot::live_mut)
    }

    /// The tracks that wait for a section, oldest first.
    #[must_use]
    pub fn waiting<'a>(&self, tracks: &'a RoomTracks) -> Vec<&'a Arc<TrackInfo>> {
        let carried: HashSet<TrackKey> = self
            .live()
            .filter_map(|section| section.send.as_ref())
            .map(|subscription| subscription.source.key)
            .collect();
        tracks
            .wanted()
            .filter(|track| !carried.contains(&track.key))
            .collect()
    }

    /// Frees the send halves whose track has ended.
    pub fn free_ended(&mut self, tracks: &RoomTracks) {
        for section in self.live_mut() {
            section
                .send
                .take_if(|subscription| !tracks.contains(subscription.source.key));
        }
    }

    /// A new subscription to `source`. Its key and SSRCs were never used before and never will be
    /// again: under one SRTP key, an SSRC that comes back would repeat GCM nonces.
    pub fn subscribe(&mut self, source: Arc<TrackInfo>, agreed: bool) -> Subscription {
        let key = SubscriptionKey(self.next_subscription);
        self.next_subscription += 1;
        let ssrc = self.take_ssrc();
        let rtx_ssrc = self.take_ssrc();
        Subscription {
            key,
            source,
            ssrc,
            rtx_ssrc,
            agreed,
        }
    }

    fn take_ssrc(&mut self) -> Ssrc {
        loop {
            let number = self
                .ssrc_origin
                .wrapping_add(self.next_ssrc.wrapping_mul(SSRC_STEP));
            self.next_ssrc += 1;
            let ssrc = Ssrc(number);
            let declared = self
                .live()
                .filter_map(|section| section.receive.as_ref())
                .any(|published| published.declared_ssrcs.contains(&ssrc));
            if number != 0 && !declared {
                return ssrc;
            }
        }
    }

    /// A `mid` that no section of the client's has.
    pub fn take_mid(&mut self) -> Mid {
        loop {
            let mid =
                Mid::new(&format!("s{}", self.next_mid)).expect("s and a u32 are short ASCII");
            self.next_mid += 1;
            if self.slots.iter().all(|slot| slot.mid() != mid) {
                return mid;
            }
        }
    }

    /// Puts a slot at `index`, or after the last.
    pub fn set(&mut self, index: usize, slot: Slot) {
        match self.slots.get_mut(index) {
            Some(place) => *place = slot,
            None => push(&mut self.slots, slot),
        }
    }

    /// The list of a section that has the same codecs; else a new one.
    #[must_use]
    pub fn share_codecs(&self, codecs: Vec<CodecLine>) -> Arc<[CodecLine]> {
        let mut lists = self.live().map(|section| &section.codecs);
        let same = lists.find(|known| known[..] == codecs[..]);
        same.map_or_else(|| codecs.into(), Arc::clone)
    }

    /// Takes over what the client's description says of the section at `index`: numbers, codecs,
    /// and which SSRCs belong to what it sends. Returns whether the client sends there.
    pub fn read(&mut self, index: usize, described: &sdp::Section) -> bool {
        self.numbers.learn(described);
        let codecs = self.share_codecs(codecs::supported(described));
        let Some(section) = self.slots.get_mut(index).and_then(Slot::live_mut) else {
            return false;
        };
        section.codecs = codecs;
        section.rtcp_rsize = described.rtcp_rsize;
        section.rtcp_xr_rtt = described.rtcp_xr_rtt;
        if described.direction.sends() || !described.simulcast.send.is_empty() {
            section.simulcast = encodings::accepted(described).into();
        }
        let has_rids = !section.simulcast.is_empty();
        section.extensions = codecs::supported_extensions(section.kind, described, has_rids);
        described.direction.sends() && !section.codecs.is_empty()
    }

    /// Brings the receive halves into line with what the client sends: `sent[i]` is its section `i`
    /// if it sends there. Tracks end first, so that an id may move from one section to another.
    /// Returns how many tracks were too many and are not taken.
    pub fn publish(&mut self, sent: &[Option<&sdp::Section>]) -> usize {
        for (slot, sent) in self.slots.iter_mut().zip(sent) {
            if let Some(section) = slot.live_mut() {
                section
                    .receive
                    .take_if(|published| sent.is_none_or(|sent| sent.msid != published.msid));
                if let (Some(published), Some(sent)) = (&mut section.receive, sent) {
                    published.read(sent);
                }
            }
        }
        let mut refused = 0;
        for (index, sent) in sent.iter().enumerate() {
            let Some(sent) = sent else { continue };
            if self.slots[index].live().is_none_or(|s| s.receive.is_some()) {
                continue;
            }
            if self.live().filter(|s| s.receive.is_some()).count() >= TRACKS_MAX {
                refused += 1;
                continue;
            }
            let mut published = Published {
                key: TrackKey {
                    peer: self.peer,
                    index: self.next_track,
                },
                id: self.track_id(sent),
                msid: sent.msid.clone(),
                encodings: Vec::new(),
                declared_ssrcs: Vec::new(),
            };
            published.read(sent);
            self.next_track += 1;
            if let Some(section) = self.slots[index].live_mut() {
                section.receive = Some(Box::new(published));
            }
        }
        refused
    }

    /// The track's id: as its `msid` says, or made of the section's `mid`; different from the
    /// peer's other tracks.
    fn track_id(&self, sent: &sdp::Section) -> TrackId {
        let named = sent
            .msid
            .as_ref()
            .and_then(|msid| msid.track.as_deref())
            .filter(|track| *track != "-")
            .map(str::to_owned);
        let made = format!("mid-{}", sent.mid);
        let others = (2..).map(|n| format!("{made}-{n}"));
        named
            .into_iter()
            .chain([made.clone()])
            .chain(others)
            .filter_map(|text| TrackId::new(&text).ok())
            .find(|id| {
                self.live()
                    .filter_map(|section| section.receive.as_ref())
                    .all(|published| published.id != *id)
            })
            .expect("a peer has fewer tracks than there are numbers")
    }

    /// What the client publishes, for the shard.
    #[must_use]
    pub fn track_configs(&self) -> Vec<TrackConfig> {
        self.live()
            .filter_map(|section| {
                let published = section.receive.as_ref()?;
                Some(TrackConfig {
                    key: published.key,
                    mid: section.mid,
                    kind: section.kind,
                    codecs: section.received_mappings(),
                    extensions: section.extensions,
                    reference_times: section.takes_reference_times(),
                    encodings: published.encodings.clone(),
                })
            })
            .collect()
    }

    /// What the client publishes, for the room; records of `former` that still hold are used again.
    #[must_use]
    pub fn track_infos(
        &self,
        peer: &PeerId,
        shard: ShardId,
        former: &[Arc<TrackInfo>],
    ) -> Vec<Arc<TrackInfo>> {
        self.live()
            .filter_map(|section| {
                let published = section.receive.as_ref()?;
                let info = TrackInfo {
                    key: published.key,
                    peer: peer.clone(),
                    id: published.id.clone(),
                    kind: section.kind,
                    shard,
                };
                let same = former.iter().find(|former| ***former == info);
                Some(same.map_or_else(|| Arc::new(info), Arc::clone))
            })
            .collect()
    }

    /// What the client receives, for the shard.
    #[must_use]
    pub fn subscription_configs(&self) -> Vec<SubscriptionConfig> {
        let mut lists: Vec<Arc<[CodecMapping]>> = Vec::new();
        self.live()
            .filter_map(|section| {
                let subscription = section.send.as_ref()?;
                let (codecs, extensions) = section.sent_mappings();
                Some(SubscriptionConfig {
                    key: subscription.key,
                    source: subscription.source.key,
                    source_shard: subscription.source.shard,
                    mid: section.mid,
                    kind: section.kind,
                    ssrc: subscription.ssrc,
                    rtx_ssrc: section.has_rtx().then_some(subscription.rtx_ssrc),
                    codecs: share(&mut lists, codecs),
                    extensions,
                    active: subscription.agreed && section.client_receives,
                })
            })
            .collect()
    }
}

/// The one of `lists` that says the same; else a new one, which is added.
fn share(lists: &mut Vec<Arc<[CodecMapping]>>, codecs: Vec<CodecMapping>) -> Arc<[CodecMapping]> {
    if let Some(same) = lists.iter().find(|known| known[..] == codecs[..]) {
        return Arc::clone(same);
    }
    let list: Arc<[CodecMapping]> = codecs.into();
    lists.push(Arc::clone(&list));
    list
}
