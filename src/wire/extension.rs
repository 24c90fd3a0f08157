//! The RTP header extensions this server knows (RFC 8285), and which id a peer uses for each.

use std::fmt;
use std::num::NonZeroU8;

/// A header extension this server negotiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Extension {
    /// `mid` (RFC 9143 §15): rewritten for every subscriber.
    Mid,
    /// `rtp-stream-id` (RFC 8852): read from publishers, never forwarded.
    RtpStreamId,
    /// `repaired-rtp-stream-id` (RFC 8852): read from publishers, never forwarded.
    RepairedRtpStreamId,
    /// Client-to-mixer audio level (RFC 6464): forwarded as it is.
    AudioLevel,
    /// Coordination of video orientation (3GPP TS 26.114 §7.4.5): forwarded as it is.
    VideoOrientation,
    /// Absolute capture time: forwarded as it is.
    AbsCaptureTime,
    /// Playout delay: forwarded as it is.
    PlayoutDelay,
    /// AV1 dependency descriptor: forwarded as it is.
    DependencyDescriptor,
    /// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01): each hop has its own.
    TransportSequenceNumber,
    /// Absolute send time: each hop has its own.
    AbsSendTime,
}

impl Extension {
    /// Every known extension, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Mid,
        Self::RtpStreamId,
        Self::RepairedRtpStreamId,
        Self::AudioLevel,
        Self::VideoOrientation,
        Self::AbsCaptureTime,
        Self::PlayoutDelay,
        Self::DependencyDescriptor,
        Self::TransportSequenceNumber,
        Self::AbsSendTime,
    ];

    /// The URI that names the extension in SDP.
    #[must_use]
    pub fn uri(self) -> &'static str {
        match self {
            Self::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Self::RtpStreamId => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Self::RepairedRtpStreamId => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Self::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Self::VideoOrientation => "urn:3gpp:video-orientation",
            Self::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
            Self::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            Self::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            Self::TransportSequenceNumber => {
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
            }
            Self::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
        }
    }

    /// The extension a URI names.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.uri() == uri)
    }

    /// Whether subscribers get the publisher's value unchanged.
    #[must_use]
    pub fn is_forwarded(self) -> bool {
        !matches!(
            self,
            Self::Mid
                | Self::RtpStreamId
                | Self::RepairedRtpStreamId
                | Self::TransportSequenceNumber
                | Self::AbsSendTime
        )
    }
}

/// An extension's local identifier, 1–255; 1–14 fit the one-byte form (RFC 8285 §4.2, §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtensionId(NonZeroU8);

impl ExtensionId {
    /// Accepts 1–14 and 16–255: 0 is padding, 15 ends the one-byte form.
    #[must_use]
    pub fn new(id: u8) -> Option<Self> {
        NonZeroU8::new(id).filter(|id| id.get() != 15).map(Self)
    }

    /// The number on the wire.
    #[must_use]
    pub fn value(self) -> u8 {
        self.0.get()
    }
}

/// Which id one peer uses for each extension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtensionMap {
    ids: [Option<ExtensionId>; Extension::ALL.len()],
}

impl ExtensionMap {
    /// The id used for `extension`, if it was negotiated.
    #[must_use]
    pub fn id(&self, extension: Extension) -> Option<ExtensionId> {
        self.ids[extension as usize]
    }

    /// Negotiates `extension` under `id`.
    pub fn insert(&mut self, extension: Extension, id: ExtensionId) {
        self.ids[extension as usize] = Some(id);
    }

    /// What `id` stands for.
    #[must_use]
    pub fn extension(&self, id: ExtensionId) -> Option<Extension> {
        Extension::ALL
            .into_iter()
            .find(|e| self.ids[*e as usize] == Some(id))
    }

    /// Every negotiated extension with its id.
    pub fn iter(&self) -> impl Iterator<Item = (Extension, ExtensionId)> + '_ {
        Extension::ALL
            .into_iter()
            .filter_map(|e| self.id(e).map(|id| (e, id)))
    }
}

impl fmt::Display for ExtensionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_distinct_and_found_again() {
        for extension in Extension::ALL {
            assert_eq!(Extension::from_uri(extension.uri()), Some(extension));
        }
        assert_eq!(Extension::from_uri("urn:example:unknown"), None);
    }

    #[test]
    fn map_goes_both_ways() {
        let mut map = ExtensionMap::default();
        let id = ExtensionId::new(4).unwrap();
        map.insert(Extension::Mid, id);
        assert_eq!(map.id(Extension::Mid), Some(id));
        assert_eq!(map.extension(id), Some(Extension::Mid));
        assert_eq!(map.id(Extension::AudioLevel), None);
        assert!(ExtensionId::new(0).is_none() && ExtensionId::new(15).is_none());
    }
}
