//! What crosses threads, as plain data: commands from sessions to shards, events back, and what the
//! coordinator tells of a room.
//!
//! Owns no channel. Every list here is bounded by the session or coordinator that makes it.

pub mod layers;
pub mod relay;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::ids::{
    MediaKind, Mid, PeerId, PeerKey, Rid, RoomId, ShardId, Ssrc, SubscriptionKey, TrackId, TrackKey,
};
pub use crate::base::layer_reason::LayerReason;
use crate::control::layers::{LayerChange, LayersWanted, Preferences};
use crate::wire::codec::CodecMapping;
use crate::wire::extension::ExtensionMap;

/// From a session to the shard that holds its peer. A shard ignores (and counts) a command for a
/// peer it does not know.
#[derive(Debug, Clone)]
pub enum Command {
    /// A peer joined a room: make its transport with these local ICE credentials.
    AddPeer {
        /// The new peer.
        peer: PeerKey,
        /// Its room; subscriptions reach only tracks of the same room.
        room: RoomId,
        /// What the peer's checks must carry.
        ice: IceCredentials,
    },
    /// An ICE restart (RFC 8445 §9): checks with the new credentials are taken from now on, those
    /// with the former ones until a check with the new ones has come.
    RestartIce {
        /// The peer.
        peer: PeerKey,
        /// The new local credentials.
        ice: IceCredentials,
    },
    /// What the peer's description says of its DTLS side. Before this nothing of DTLS-SRTP is
    /// taken for authenticated.
    SetRemoteDtls {
        /// The peer.
        peer: PeerKey,
        /// The certificate hashes, at least one of which must match (RFC 8122 §5).
        fingerprints: Vec<Fingerprint>,
        /// Which part the *server* plays.
        role: DtlsRole,
    },
    /// Everything the peer sends and receives from now on. Replaces the former state whole: tracks
    /// and subscriptions that are not listed end.
    Configure {
        /// The peer.
        peer: PeerKey,
        /// What it publishes.
        tracks: Vec<TrackConfig>,
        /// What it receives.
        subscriptions: Vec<SubscriptionConfig>,
    },
    /// What the peer wants of what it receives. Replaces what it wanted before; outlives what
    /// [`Command::Configure`] changes.
    Prefer {
        /// The peer.
        peer: PeerKey,
        /// All that it wants.
        preferences: Preferences,
    },
    /// The peer left: forget it. RTCP BYE goes to those who received from it.
    RemovePeer {
        /// The peer.
        peer: PeerKey,
    },
}

impl Command {
    /// Which peer the command is about.
    #[must_use]
    pub fn peer(&self) -> PeerKey {
        match self {
            Self::AddPeer { peer, .. }
            | Self::RestartIce { peer, .. }
            | Self::SetRemoteDtls { peer, .. }
            | Self::Configure { peer, .. }
            | Self::Prefer { peer, .. }
            | Self::RemovePeer { peer } => *peer,
        }
    }
}

/// An ICE user fragment and password (RFC 8445 §5.3). `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// `ice-ufrag`: 4–256 ice-chars (RFC 8839 §5.4).
    pub ufrag: Arc<str>,
    /// `ice-pwd`: 22–256 ice-chars.
    pub pwd: Arc<str>,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// A certificate hash (RFC 8122 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The hash function.
    pub algorithm: FingerprintAlgorithm,
    /// The digest, as long as the function makes it.
    pub digest: Vec<u8>,
}

/// The hash functions taken in `a=fingerprint` (RFC 8122 §5; older ones are refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FingerprintAlgorithm {
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

/// Which side of the DTLS handshake the server plays (`a=setup`, RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// The server waits for the ClientHello (`a=setup:passive`): the usual case.
    Server,
    /// The server sends the ClientHello, once a check has come (`a=setup:active`).
    Client,
}

/// A track as its publisher's shard needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackConfig {
    /// The track.
    pub key: TrackKey,
    /// The publisher's section.
    pub mid: Mid,
    /// Audio or video.
    pub kind: MediaKind,
    /// Payload types the publisher may send in that section.
    pub codecs: Vec<CodecMapping>,
    /// Header extension ids the publisher uses.
    pub extensions: ExtensionMap,
    /// Both descriptions say that reference times are sent and answered (RFC 3611 §5.1, `rcvr-rtt`, or `rrtr` as libwebrtc
    /// said it at first).
    pub reference_times: bool,
    /// What it sends of it, from the lowest quality to the highest: one, or with simulcast up to
    /// [`ENCODINGS_MAX`](crate::base::ids::ENCODINGS_MAX).
    pub encodings: Vec<EncodingConfig>,
}

/// One encoding of a track, as far as the publisher's description names it. The `mid`, `rtp-stream-id` and
/// `repaired-rtp-stream-id` header extensions tell what it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodingConfig {
    /// Its id (`a=rid`).
    pub rid: Option<Rid>,
    /// The SSRC of its media (`a=ssrc`).
    pub ssrc: Option<Ssrc>,
    /// The SSRC of its retransmissions (`a=ssrc-group:FID`).
    pub rtx_ssrc: Option<Ssrc>,
}

/// A subscription as the subscriber's shard needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionConfig {
    /// The subscription.
    pub key: SubscriptionKey,
    /// The track it copies; must be of the same room. A track that is not (or not yet) known is
    /// waited for.
    pub source: TrackKey,
    /// The shard of the track's publisher, as [`TrackInfo`] tells it.
    pub source_shard: ShardId,
    /// The subscriber's section.
    pub mid: Mid,
    /// Audio or video.
    pub kind: MediaKind,
    /// The subscription's own SSRC: no other subscription of this peer ever had it.
    pub ssrc: Ssrc,
    /// Its SSRC for retransmissions (RFC 4588), where negotiated.
    pub rtx_ssrc: Option<Ssrc>,
    /// Payload types the subscriber takes in that section; sections that take the same share the list.
    pub codecs: Arc<[CodecMapping]>,
    /// Header extension ids the subscriber uses.
    pub extensions: ExtensionMap,
    /// False while the subscriber's description does not want it (its direction says so): nothing
    /// is sent.
    pub active: bool,
}

/// The CNAME of everything that a publisher's subscribers get of it: one for all its tracks, which is what lets a client
/// play them in step (RFC 3550 §6.5.1).
#[must_use]
pub fn cname(publisher: PeerKey) -> String {
    format!("peer-{publisher}")
}

/// From a shard or the coordinator to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The room's roster has changed: ask the coordinator what happened since the last known
    /// revision. Says nothing more, so that any number of changes needs one place in a queue.
    RoomChanged,
    /// Another connection joined with the same peer id: this peer has been replaced. Names the peer,
    /// because one connection may have left and joined again meanwhile.
    Replaced(PeerKey),
    /// This peer's transport changed its state.
    Transport(PeerKey, TransportEvent),
    /// What one subscription of this peer gets has changed, or the reason has. Only the latest of each
    /// subscription counts.
    Layer(PeerKey, LayerChange),
    /// Other encodings of a track of this peer are wanted than before. Only the latest of each track counts.
    LayersWanted(PeerKey, LayersWanted),
    /// Others speak in this peer's room than before. Only the latest counts.
    Speakers(PeerKey, Arc<ActiveSpeakers>),
    /// The server is stopping.
    Shutdown,
}

/// Who speaks in a room. Only the latest counts: it replaces what was said before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActiveSpeakers {
    /// Who has the floor: who spoke last, as long as nobody else does.
    pub dominant: Option<PeerKey>,
    /// Those who talk, the dominant one first, then as they began; at most [`ActiveSpeakers::MAX`].
    pub speakers: Vec<Speaker>,
}

/// One who talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    /// Who.
    pub peer: PeerKey,
    /// How loud, in -dBov: 0 (the loudest) to 127 (RFC 6464).
    pub level: u8,
}

impl ActiveSpeakers {
    /// The most that are named: more cannot be followed by anybody.
    pub const MAX: usize = 8;
}

/// What holds for all rooms of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomOptions {
    /// How many publishers' pictures each peer gets at most, those who spoke last; `None`: all.
    pub last_n: Option<usize>,
    /// How many audio streams of a room are forwarded at most, the loudest; `None`: all.
    pub audio_streams_max: Option<usize>,
}

/// What happened to a peer's transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportEvent {
    /// DTLS is up and the fingerprint matched: media flows.
    Connected {
        /// What protects it.
        profile: SrtpProfile,
    },
    /// No valid check for 30 s (RFC 7675 §5.1): nothing is sent until one comes again.
    ConsentLost,
    /// A valid check came after [`TransportEvent::ConsentLost`].
    ConsentRegained,
    /// The transport cannot be used any more.
    Failed(TransportFailure),
}

/// Why a transport failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFailure {
    /// The peer's certificate has none of the hashes its description gave.
    FingerprintMismatch,
    /// The DTLS handshake failed (no common parameters, or no answer in time).
    DtlsHandshake,
    /// The peer closed DTLS.
    DtlsClosed,
}

/// How SRTP protects media (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// `SRTP_AEAD_AES_128_GCM`: preferred.
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM`.
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80`.
    Aes128CmSha1_80,
}

/// What a joiner asks of the coordinator.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The room.
    pub room: RoomId,
    /// Who joins.
    pub info: Arc<PeerInfo>,
}

/// A peer as others are told of it: one record, which the coordinator and all sessions of its room share.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// The name people see, at most 128 characters.
    pub name: Option<Arc<str>>,
    /// What the application attached, at most 4 KiB as JSON text.
    pub metadata: Option<Arc<serde_json::Value>>,
}

/// A track as others are told of it: one record, which the coordinator and all sessions of its room share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackInfo {
    /// The track.
    pub key: TrackKey,
    /// Its publisher.
    pub peer: PeerId,
    /// Its id: the second part of its `msid` everywhere.
    pub id: TrackId,
    /// Audio or video.
    pub kind: MediaKind,
    /// The shard that holds its publisher.
    pub shard: ShardId,
}

/// What the coordinator answers to a join.
#[derive(Debug, Clone)]
pub struct Joined {
    /// What this stay in the room is called inside the server.
    pub key: PeerKey,
    /// The shard that holds this peer; others of its room may be on other shards.
    pub shard: ShardId,
    /// Where that shard's UDP socket can be reached.
    pub addresses: Arc<[SocketAddr]>,
    /// The room as the joiner finds it, without itself.
    pub roster: Roster,
}

/// Why a join was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefused {
    /// The room has as many peers as the configuration allows.
    RoomFull,
    /// The server has as many rooms as the configuration allows.
    TooManyRooms,
    /// The server is stopping.
    ShuttingDown,
}

/// Counts the changes of one room, so that a session can ask for those it has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// Who is in a room and what they publish, as of one revision.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// As of which change.
    pub revision: Revision,
    /// The other peers, in the order in which they joined.
    pub peers: Vec<(PeerKey, Arc<PeerInfo>)>,
    /// Their tracks, in the order in which they were published.
    pub tracks: Vec<Arc<TrackInfo>>,
}

/// What happened in a room after the revision that a session knew.
#[derive(Debug, Clone)]
pub enum Changes {
    /// Each change by others, oldest first, and the revision they lead to.
    Log(Revision, Vec<Change>),
    /// Too much happened to list it: the roster as it is now.
    Snapshot(Roster),
}

/// One change of a room.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A peer joined.
    PeerJoined(PeerKey, Arc<PeerInfo>),
    /// A peer left; its tracks ended before.
    PeerLeft(PeerKey, PeerId),
    /// Tracks were published, all of one description.
    TracksPublished(Vec<Arc<TrackInfo>>),
    /// Tracks ended.
    TracksUnpublished(Vec<Arc<TrackInfo>>),
}
