//! What shards say to each other about a room that lives on several of them, as plain data.
//!
//! A shard with subscribers of a track that is published on another shard *wants* that track there. From then
//! on it gets each opened packet once, and fans it out to its own peers. A want lives from
//! [`RelayMessage::Want`] to [`RelayMessage::Unwant`], whether the track exists yet, goes, or comes back.
//!
//! Between two shards, messages that are not media arrive in their order, and all of them; media may be lost,
//! and may overtake them or be overtaken. So a packet says which run and which description of its track it belongs to.
//!
//! Nothing here assumes shared memory beyond `Bytes`. The instants are of the one clock of this machine; an edge
//! that carries a message to another machine replaces them by ages.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::ids::{
    Bitrate, EncodingIndex, EncodingSet, LayerId, MediaKind, Mid, Rid, RoomId, RtpTime, SeqNo,
    TrackKey, WantKey,
};
use crate::wire::codec::CodecMapping;
use crate::wire::extension::ExtensionMap;
use crate::wire::rtcp::NtpTime;
use crate::wire::rtp::RtpHeader;

/// From one shard to another. A message about a want that the receiver does not know is ignored (and counted).
#[derive(Debug, Clone)]
pub enum RelayMessage {
    /// The sender has forgotten everything about the receiver: wants of either are void. What the receiver
    /// still wants, it says again.
    Reset,
    /// The sender has subscribers of a track of that room.
    Want {
        /// What the sender calls it from now on.
        want: WantKey,
        /// The room: a track of another one is never relayed.
        room: RoomId,
        /// The track; one that is not there (yet) is waited for.
        track: TrackKey,
        /// Which of its encodings, to begin with.
        selection: Selection,
    },
    /// The sender's subscribers need other encodings of the track.
    Select {
        /// The want.
        want: WantKey,
        /// Which they need from now on.
        selection: Selection,
    },
    /// The sender has no subscribers of the track any more.
    Unwant {
        /// Which want ends.
        want: WantKey,
    },
    /// The wanted track is there, or its description has changed.
    Started {
        /// Which want this answers.
        want: WantKey,
        /// The track.
        track: Box<RelayedTrack>,
    },
    /// The wanted track has ended. The want stays: should the track come back, it starts again.
    Ended {
        /// The want.
        want: WantKey,
    },
    /// The want is void, because too many wait already.
    Refused {
        /// The want.
        want: WantKey,
    },
    /// The publisher's sender report (RFC 3550 §6.4.1).
    Clock {
        /// The want.
        want: WantKey,
        /// Whose clock it is; told of all encodings, whichever are selected.
        encoding: EncodingIndex,
        /// What it says.
        clock: RelayedClock,
    },
    /// What the wanted track has to offer, and what that takes: all of it, also what is not selected.
    Layers {
        /// The want.
        want: WantKey,
        /// Every layer, from low to high.
        layers: Box<[RelayedLayer]>,
    },
    /// Other encodings of the wanted track flow than before.
    Flow {
        /// The want.
        want: WantKey,
        /// Those that its publisher sends at present.
        flowing: EncodingSet,
    },
    /// A subscriber on the sender's side needs a keyframe.
    KeyframeWanted {
        /// The want.
        want: WantKey,
        /// Of which encoding.
        encoding: EncodingIndex,
    },
    /// Who speaks among the sender's own publishers of a room: to every shard that wants sound of them, as long as
    /// anybody is heard.
    Voices {
        /// The room.
        room: RoomId,
        /// What is heard there.
        voices: Box<RelayedVoices>,
    },
    /// A packet of the track.
    Packet(RelayedPacket),
}

/// Who speaks, as one shard hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedVoices {
    /// Who has the floor, as the sender sees it.
    pub dominant: Option<TrackKey>,
    /// Its own publishers who spoke of late, at most [`RelayedVoices::MAX`].
    pub voices: Vec<RelayedVoice>,
}

/// How one track was heard of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedVoice {
    /// The track.
    pub track: TrackKey,
    /// Which of the last 32 ticks of 100 ms held speech; the latest is the lowest bit.
    pub spoken: u32,
    /// How loud it was, in -dBov (RFC 6464).
    pub level: u8,
}

impl RelayedVoices {
    /// More do not speak at once, as far as anybody can tell.
    pub const MAX: usize = 64;
}

/// A track as the shards that want it need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedTrack {
    /// The track.
    pub key: TrackKey,
    /// The publisher's section.
    pub mid: Mid,
    /// Audio or video.
    pub kind: MediaKind,
    /// What its payload types carry.
    pub codecs: Vec<CodecMapping>,
    /// Its header extension ids.
    pub extensions: ExtensionMap,
    /// What this description is called: none of this track, or of one that had its key before, was called so.
    pub version: u32,
    /// Its encodings, from the lowest quality to the highest.
    pub encodings: Vec<RelayedEncoding>,
}

/// An encoding as the shards that want its track need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedEncoding {
    /// Its id.
    pub rid: Option<Rid>,
    /// The present run of its packets.
    pub run: u64,
    /// Whether its publisher sends it at present.
    pub is_flowing: bool,
}

/// A layer of a track, as measured where that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedLayer {
    /// Which.
    pub layer: LayerId,
    /// What it takes, with all it needs below.
    pub bitrate: Bitrate,
    /// Width and height of its pictures, where known.
    pub size: Option<(u16, u16)>,
    /// Its pictures in a second; 0: not known.
    pub frames_per_second: u16,
    /// Whether it comes at present.
    pub is_flowing: bool,
}

/// Which encodings of a track the subscribers on one shard need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those they receive or wait for: only these cross.
    pub received: EncodingSet,
    /// Those they would like: a publisher need not make others.
    pub wished: EncodingSet,
}

/// How an encoding's timestamps stand to its publisher's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedClock {
    /// The run it speaks of.
    pub run: u64,
    /// The wall clock time of the report.
    pub ntp: NtpTime,
    /// The same moment on the encoding's own clock.
    pub rtp_time: RtpTime,
    /// When the report came.
    pub received: Instant,
}

/// An opened packet of an encoding, with its place there.
#[derive(Debug, Clone)]
pub struct RelayedPacket {
    /// Whose want it is for.
    pub want: WantKey,
    /// The encoding.
    pub encoding: EncodingIndex,
    /// Audio or video: what is dropped first under overload.
    pub kind: MediaKind,
    /// Which description its header is to be read by.
    pub version: u32,
    /// Which run of the source it belongs to; a new one makes former clocks void.
    pub run: u64,
    /// The encoding's own number.
    pub seq: SeqNo,
    /// The encoding's own timestamp.
    pub timestamp: RtpTime,
    /// When it came to its publisher's shard.
    pub arrived: Instant,
    /// The header, parsed.
    pub header: RtpHeader,
    /// The whole packet, opened.
    pub packet: Bytes,
}

/// What becomes of a message when the receiver is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayClass {
    /// Is never dropped.
    Control,
    /// The next one of its kind makes up for it.
    Feedback,
    /// Dropped last, the oldest first.
    Audio,
    /// Dropped first, the oldest first.
    Video,
}

impl RelayedPacket {
    /// Whether it has waited for so long that it is of no use any more. Queues between shards are bounded by what they
    /// hold, which of a single stream is half a minute: a shard with more to do than it can would stay as far behind.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        let age_max = match self.kind {
            MediaKind::Audio => AUDIO_AGE_MAX,
            MediaKind::Video => VIDEO_AGE_MAX,
        };
        now.saturating_duration_since(self.arrived) > age_max
    }
}

/// Pictures wait no longer for a subscriber's pacer either.
const VIDEO_AGE_MAX: Duration = Duration::from_secs(1);
/// Sound is dropped last, and taken first: it waits so long only where a shard does next to nothing.
const AUDIO_AGE_MAX: Duration = Duration::from_secs(2);

impl RelayMessage {
    /// How it is queued.
    #[must_use]
    pub fn class(&self) -> RelayClass {
        match self {
            Self::Packet(packet) => match packet.kind {
                MediaKind::Audio => RelayClass::Audio,
                MediaKind::Video => RelayClass::Video,
            },
            Self::Clock { .. }
            | Self::Layers { .. }
            | Self::KeyframeWanted { .. }
            | Self::Voices { .. } => RelayClass::Feedback,
            Self::Reset
            | Self::Want { .. }
            | Self::Unwant { .. }
            | Self::Select { .. }
            | Self::Started { .. }
            | Self::Flow { .. }
            | Self::Ended { .. }
            | Self::Refused { .. } => RelayClass::Control,
        }
    }
}
