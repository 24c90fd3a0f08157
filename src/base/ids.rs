//! Newtypes for every identifier and number that must not be mixed up.

use std::fmt;
use std::sync::Arc;

/// The longest room, peer or track id, in characters.
pub const ID_CHARS_MAX: usize = 128;

/// Why a text is not a valid id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidId {
    /// The text is empty.
    Empty,
    /// The text has more than [`ID_CHARS_MAX`] characters.
    TooLong,
    /// The text has a character that cannot be printed (a control character, a line break).
    NotPrintable,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong => write!(f, "is longer than {ID_CHARS_MAX} characters"),
            Self::NotPrintable => f.write_str("has a character that cannot be printed"),
        }
    }
}

impl std::error::Error for InvalidId {}

fn validate(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.chars().count() > ID_CHARS_MAX {
        return Err(InvalidId::TooLong);
    }
    // U+2028 and U+2029 are line breaks that `is_control` does not count.
    if text
        .chars()
        .any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}')
    {
        return Err(InvalidId::NotPrintable);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Accepts 1 to 128 printable characters.
            ///
            /// # Errors
            /// [`InvalidId`] says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                validate(text)?;
                Ok(Self(text.into()))
            }

            /// The id as it came.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A room, as clients name it.
    RoomId
}
text_id! {
    /// A peer, as clients name it: unique among the live peers of one room.
    PeerId
}
text_id! {
    /// A track, as its publisher's `msid` names it: unique among that peer's tracks.
    TrackId
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// One joined connection: unique in this process, never used again.
    PeerKey(u64)
}
number! {
    /// One subscription of one peer: unique within that peer, never used again.
    SubscriptionKey(u32)
}
number! {
    /// A shard, counted from 0.
    ShardId(u16)
}
number! {
    /// One shard's want of a track of another shard: unique among those of all runs of that shard.
    WantKey(u64)
}
number! {
    /// A synchronization source (RFC 3550 §3).
    Ssrc(u32)
}
number! {
    /// An RTP payload type, 0–127 (RFC 3550 §5.1).
    PayloadType(u8)
}
number! {
    /// A sequence number as it stands on the wire (RFC 3550 §5.1): wraps.
    SeqNo16(u16)
}
number! {
    /// An extended sequence number: the wire's 16 bits below a rollover count (RFC 3711 §3.3.1).
    SeqNo(u64)
}
number! {
    /// An RTP timestamp in ticks of the codec's clock (RFC 3550 §5.1): wraps.
    RtpTime(u32)
}
number! {
    /// Ticks per second of an RTP clock, in Hz.
    ClockRate(u32)
}
number! {
    /// A rate in bits per second.
    Bitrate(u64)
}

number! {
    /// One encoding of a track, counted from 0: the higher, the better (RFC 8853). A track without simulcast has only 0.
    EncodingIndex(u8)
}

impl EncodingIndex {
    /// The lowest, which every track has.
    pub const LOWEST: Self = Self(0);

    /// Its place in a list of encodings.
    #[must_use]
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// Encodings of one track at most: browsers make three.
pub const ENCODINGS_MAX: usize = 4;

/// Some of a track's encodings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EncodingSet(u8);

impl EncodingSet {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// The lowest `count`.
    #[must_use]
    pub fn lowest(count: usize) -> Self {
        Self(((1_u16 << count.min(ENCODINGS_MAX)) - 1) as u8)
    }

    /// Only this one; none if a track cannot have so many.
    #[must_use]
    pub fn only(index: EncodingIndex) -> Self {
        let mut set = Self::NONE;
        set.insert(index);
        set
    }

    /// Adds one. An index beyond [`ENCODINGS_MAX`] is ignored.
    pub fn insert(&mut self, index: EncodingIndex) {
        if index.at() < ENCODINGS_MAX {
            self.0 |= 1 << index.0;
        }
    }

    /// Takes one out, if it is in.
    pub fn remove(&mut self, index: EncodingIndex) {
        if index.at() < ENCODINGS_MAX {
            self.0 &= !(1 << index.0);
        }
    }

    /// Whether it is in.
    #[inline]
    #[must_use]
    pub fn contains(self, index: EncodingIndex) -> bool {
        index.at() < ENCODINGS_MAX && self.0 & (1 << index.0) != 0
    }

    /// Those in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// From the lowest to the highest.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = EncodingIndex> {
        (0..ENCODINGS_MAX as u8)
            .map(EncodingIndex)
            .filter(move |index| self.contains(*index))
    }
}

/// What a subscriber may receive of a track, ordered from low to high: an encoding, and inside it a
/// spatial (SVC) and a temporal layer with all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId {
    /// Which encoding.
    pub encoding: EncodingIndex,
    /// The highest spatial layer inside it, counted from 0.
    pub spatial: u8,
    /// The highest temporal layer inside it, counted from 0.
    pub temporal: u8,
}

impl SeqNo {
    /// The low 16 bits, as they go onto the wire.
    #[must_use]
    pub fn on_wire(self) -> SeqNo16 {
        SeqNo16(self.0 as u16)
    }

    /// The rollover count (RFC 3711 §3.3.1).
    #[must_use]
    pub fn roc(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

/// One published track: unique in this process, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackKey {
    /// The publishing connection.
    pub peer: PeerKey,
    /// Counts the tracks that connection has published.
    pub index: u32,
}

impl fmt::Display for TrackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer, self.index)
    }
}

macro_rules! tag {
    ($(#[$doc:meta])* $name:ident, $takes:literal, $is_allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(Tag);

        impl $name {
            /// The longest one taken, in bytes.
            pub const LEN_MAX: usize = TAG_LEN_MAX;

            #[doc = concat!("Accepts 1–16 ", $takes, ".")]
            #[must_use]
            pub fn new(text: &str) -> Option<Self> {
                Self::from_bytes(text.as_bytes())
            }

            #[doc = concat!("As [`", stringify!($name), "::new`], from a header extension's value.")]
            #[must_use]
            pub fn from_bytes(text: &[u8]) -> Option<Self> {
                Tag::new(text, $is_allowed).map(Self)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }

            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

tag! {
    /// A media section's identification tag (RFC 5888 §4), short enough for the one-byte RTP header
    /// extension form (RFC 8285 §4.2): 1–16 bytes of token characters, kept in place.
    Mid, "visible ASCII characters", u8::is_ascii_graphic
}
tag! {
    /// An RTP stream id (RFC 8851 §10, RFC 8852 §3.3), short enough for the one-byte header extension form: 1–16
    /// letters, digits, `-` and `_`, kept in place.
    Rid, "ASCII letters, digits, `-` and `_`",
    |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// What the one-byte form of a header extension holds (RFC 8285 §4.2).
const TAG_LEN_MAX: usize = 16;

/// Some ASCII characters, kept in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Tag {
    bytes: [u8; TAG_LEN_MAX],
    len: u8,
}

impl Tag {
    /// `is_allowed` must not allow what is not ASCII.
    fn new(text: &[u8], is_allowed: impl Fn(&u8) -> bool) -> Option<Self> {
        if text.is_empty() || text.len() > TAG_LEN_MAX || !text.iter().all(is_allowed) {
            return None;
        }
        let mut bytes = [0; TAG_LEN_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Some(Self {
            bytes,
            len: text.len() as u8,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a tag holds ASCII only")
    }
}

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures: camera or screen.
    Video,
}

impl MediaKind {
    /// The word used in SDP and in the signaling protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

impl fmt::Display for MediaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_printable_text_of_1_to_128_characters() {
        let cases: [(&str, Result<(), InvalidId>); 6] = [
            ("a", Ok(())),
            ("Zoë's room 🎥", Ok(())),
            ("", Err(InvalidId::Empty)),
            ("a\nb", Err(InvalidId::NotPrintable)),
            ("a\u{2028}b", Err(InvalidId::NotPrintable)),
            ("\u{7f}", Err(InvalidId::NotPrintable)),
        ];
        for (text, expected) in cases {
            assert_eq!(RoomId::new(text).map(|_| ()), expected, "{text:?}");
        }
        assert!(PeerId::new(&"é".repeat(128)).is_ok());
        assert_eq!(PeerId::new(&"é".repeat(129)), Err(InvalidId::TooLong));
    }

    #[test]
    fn mid_is_short_visible_ascii() {
        assert_eq!(Mid::new("s12").unwrap().as_str(), "s12");
        assert!(Mid::new("").is_none());
        assert!(Mid::new("12345678901234567").is_none());
        assert!(Mid::new("a b").is_none());
        assert!(Mid::from_bytes(&[0xff]).is_none());
    }

    #[test]
    fn rid_is_short_and_of_token_characters() {
        assert_eq!(Rid::new("hi-2_x").unwrap().as_str(), "hi-2_x");
        for text in ["", "12345678901234567", "a b", "a;b", "é"] {
            assert!(Rid::new(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn layers_are_ordered_by_encoding_then_space_then_time() {
        let layer = |encoding, spatial, temporal| LayerId {
            encoding: EncodingIndex(encoding),
            spatial,
            temporal,
        };
        assert!(layer(0, 2, 2) < layer(1, 0, 0) && layer(1, 0, 2) < layer(1, 1, 0));
        assert!(layer(1, 1, 0) < layer(1, 1, 1));
    }

    #[test]
    fn seqno_splits_into_roc_and_wire() {
        let seq = SeqNo(0x3_fffe);
        assert_eq!((seq.roc(), seq.on_wire()), (3, SeqNo16(0xfffe)));
    }
}
