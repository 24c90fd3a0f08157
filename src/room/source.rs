//! Which SSRC of a peer belongs to which encoding of its tracks.

use std::collections::VecDeque;

use crate::base::ids::{Mid, Rid, Ssrc};
use crate::room::slots::EncodingSlot;
use crate::wire::extension::{Extension, ExtensionId, ExtensionMap};

/// What an SSRC carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The media of an encoding.
    Media(EncodingSlot),
    /// Retransmissions for an encoding.
    Rtx(EncodingSlot),
}

/// Under which ids a peer's packets say what they carry: one for all sections of a bundle (RFC 9143 §9.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceIds {
    /// Of `mid`.
    pub mid: Option<ExtensionId>,
    /// Of `rtp-stream-id`.
    pub rid: Option<ExtensionId>,
    /// Of `repaired-rtp-stream-id`.
    pub repaired_rid: Option<ExtensionId>,
}

impl SourceIds {
    /// As these sections have them.
    pub fn new<'m>(sections: impl Iterator<Item = &'m ExtensionMap> + Clone) -> Self {
        let id = |extension| sections.clone().filter_map(|map| map.id(extension)).next();
        Self {
            mid: id(Extension::Mid),
            rid: id(Extension::RtpStreamId),
            repaired_rid: id(Extension::RepairedRtpStreamId),
        }
    }
}

/// The SSRCs of one peer: those its description declares, and those learned from packets.
#[derive(Debug, Default)]
pub struct SourceTable {
    /// Apart from what they stand for, so that a search reads one short run of memory.
    ssrcs: Vec<Ssrc>,
    entries: Vec<Entry>,
    /// What packets under an SSRC said of themselves, the oldest first.
    names: VecDeque<(Ssrc, SourceName)>,
}

/// What packets say of themselves by header extensions, or source descriptions of their streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceName {
    /// `mid`.
    pub mid: Mid,
    /// `rtp-stream-id` or `repaired-rtp-stream-id`.
    pub rid: Option<Rid>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    source: Source,
    is_learned: bool,
}

impl SourceTable {
    /// What `ssrc` carries, if it is known.
    #[inline]
    pub fn find(&self, ssrc: Ssrc) -> Option<Source> {
        let at = self.ssrcs.iter().position(|known| *known == ssrc)?;
        Some(self.entries[at].source)
    }

    /// Remembers what an unknown SSRC carries. False if the table is full: [`LEARNED_MAX`].
    pub fn learn(&mut self, ssrc: Ssrc, source: Source) -> bool {
        let learned = self.entries.iter().filter(|entry| entry.is_learned);
        if learned.count() >= LEARNED_MAX {
            return false;
        }
        self.push(ssrc, source, true);
        true
    }

    /// Keeps the name of an SSRC for as long as the peer stays, whatever becomes of its track: libwebrtc names
    /// an SSRC until a report acknowledges it and never again, even if its section stops and then sends
    /// another track under it. At most [`NAMES_MAX`]; the oldest goes.
    pub fn name(&mut self, ssrc: Ssrc, name: SourceName) {
        self.names.retain(|(known, _)| *known != ssrc);
        if self.names.len() == NAMES_MAX {
            self.names.pop_front();
        }
        self.names.push_back((ssrc, name));
    }

    /// The same from a source description in RTCP (RFC 9143 §9.2). What it does not say stays as it was said before.
    pub fn describe(&mut self, ssrc: Ssrc, mid: Option<Mid>, rid: Option<Rid>) {
        let former = self.name_of(ssrc);
        if let Some(mid) = mid.or(former.map(|name| name.mid)) {
            let former_rid = former
                .filter(|name| name.mid == mid)
                .and_then(|name| name.rid);
            let rid = rid.or(former_rid);
            let name = SourceName { mid, rid };
            if former != Some(name) {
                self.name(ssrc, name);
            }
        }
    }

    /// The name that an SSRC once had.
    #[must_use]
    pub fn name_of(&self, ssrc: Ssrc) -> Option<SourceName> {
        let named = self.names.iter().find(|(known, _)| *known == ssrc);
        named.map(|(_, name)| *name)
    }

    /// Forgets a learned SSRC (its sender said BYE). A declared one stays as long as it is declared.
    pub fn forget(&mut self, ssrc: Ssrc) {
        if let Some(at) = self.ssrcs.iter().position(|known| *known == ssrc)
            && self.entries[at].is_learned
        {
            self.ssrcs.swap_remove(at);
            self.entries.swap_remove(at);
        }
    }

    /// Takes a new description: what it declares, and of what was learned only that which belongs to
    /// an encoding that lives on. Returns how many declarations were refused: an SSRC that is declared
    /// already for something else, or more than [`DECLARED_MAX`].
    pub fn declare(
        &mut self,
        declared: impl Iterator<Item = (Ssrc, Source)>,
        lives_on: impl Fn(EncodingSlot) -> bool,
    ) -> u64 {
        let names = std::mem::take(&mut self.names);
        let former = std::mem::take(self);
        self.names = names;
        let mut refused = 0;
        for (ssrc, source) in declared {
            match self.find(ssrc) {
                Some(known) => refused += u64::from(known != source),
                None if self.ssrcs.len() == DECLARED_MAX => refused += 1,
                None => self.push(ssrc, source, false),
            }
        }
        for (ssrc, entry) in former.ssrcs.into_iter().zip(former.entries) {
            let (Source::Media(encoding) | Source::Rtx(encoding)) = entry.source;
            if entry.is_learned && lives_on(encoding) && self.find(ssrc).is_none() {
                self.push(ssrc, entry.source, true);
            }
        }
        refused
    }

    fn push(&mut self, ssrc: Ssrc, source: Source, is_learned: bool) {
        self.ssrcs.push(ssrc);
        self.entries.push(Entry { source, is_learned });
    }
}

/// SSRCs learned for one peer; a browser needs one or two per section that declares none.
const LEARNED_MAX: usize = 32;
/// Names kept for one peer: media and RTX of the tracks that it may publish with three encodings each.
const NAMES_MAX: usize = 96;
/// SSRCs declared by one peer, with RTX: 128 tracks.
const DECLARED_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{EncodingIndex, MediaKind, Mid, PeerKey, TrackKey};
    use crate::base::slab::Slab;
    use crate::control::{EncodingConfig, IceCredentials, TrackConfig};
    use crate::room::origin::Origin;
    use crate::room::peer::Peer;
    use crate::room::track::Track;
    use crate::transport::{DtlsIdentity, Transport};
    use std::sync::Arc;
    use std::time::Instant;

    /// Two places of encodings; the tracks themselves do not matter here.
    fn slots() -> [EncodingSlot; 2] {
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let ice = IceCredentials {
            ufrag: "ufrag".into(),
            pwd: "0123456789012345678901".into(),
        };
        let transport = Transport::new(Instant::now(), identity, ice);
        let publisher = Slab::new().insert(Peer::new(PeerKey(1), transport, Ssrc(1)));
        let config = TrackConfig {
            key: TrackKey {
                peer: PeerKey(1),
                index: 0,
            },
            mid: Mid::new("0").unwrap(),
            kind: MediaKind::Audio,
            codecs: Vec::new(),
            extensions: ExtensionMap::default(),
            reference_times: false,
            encodings: vec![EncodingConfig::default()],
        };
        let mut slab = Slab::new();
        [(); 2].map(|()| EncodingSlot {
            track: slab.insert(Track::new(config.clone(), Origin::Local(publisher))),
            index: EncodingIndex::LOWEST,
        })
    }

    #[test]
    fn declared_wins_over_learned_and_ends_with_its_description() {
        let [a, b] = slots();
        let mut table = SourceTable::default();
        let declared = [
            (Ssrc(1), Source::Media(a)),
            (Ssrc(2), Source::Rtx(a)),
            (Ssrc(1), Source::Media(b)),
        ];
        assert_eq!(table.declare(declared.into_iter(), |_| true), 1);
        assert_eq!(table.find(Ssrc(1)), Some(Source::Media(a)));
        assert_eq!(table.find(Ssrc(2)), Some(Source::Rtx(a)));
        assert!(table.learn(Ssrc(7), Source::Media(b)));
        assert!(table.learn(Ssrc(8), Source::Media(a)));

        table.declare([(Ssrc(7), Source::Media(a))].into_iter(), |slot| slot == b);
        assert_eq!(table.find(Ssrc(1)), None, "not declared any more");
        assert_eq!(table.find(Ssrc(7)), Some(Source::Media(a)));
        assert_eq!(table.find(Ssrc(8)), None, "its track is gone");
    }

    #[test]
    fn what_is_learned_is_bounded_and_can_be_forgotten() {
        let [a, _] = slots();
        let mut table = SourceTable::default();
        table.declare([(Ssrc(1000), Source::Media(a))].into_iter(), |_| true);
        let learned = (0..100)
            .filter(|ssrc| table.learn(Ssrc(*ssrc), Source::Media(a)))
            .count();
        assert_eq!(learned, LEARNED_MAX);
        table.forget(Ssrc(1000));
        assert!(table.find(Ssrc(1000)).is_some(), "declared");
        table.forget(Ssrc(3));
        assert!(table.find(Ssrc(3)).is_none());
        assert!(table.learn(Ssrc(200), Source::Media(a)));
        assert!(table.find(Ssrc(31)).is_some());
    }

    #[test]
    fn names_outlast_tracks_and_are_bounded() {
        let name = |rid: &str| SourceName {
            mid: Mid::new("1").unwrap(),
            rid: Rid::new(rid),
        };
        let mut table = SourceTable::default();
        table.name(Ssrc(7), name("q"));
        table.name(Ssrc(7), name("h"));
        table.declare(std::iter::empty(), |_| false);
        table.forget(Ssrc(7));
        assert_eq!(table.name_of(Ssrc(7)), Some(name("h")), "the latest");
        for ssrc in 100..100 + NAMES_MAX as u32 {
            table.name(Ssrc(ssrc), name("q"));
        }
        assert_eq!(table.name_of(Ssrc(7)), None);
        assert!(table.name_of(Ssrc(100)).is_some());
    }

    #[test]
    fn a_description_adds_to_what_packets_said() {
        let (mid, rid) = (Mid::new("1"), Rid::new("q"));
        let mut table = SourceTable::default();
        table.describe(Ssrc(7), None, rid);
        assert_eq!(table.name_of(Ssrc(7)), None, "no section, no name");
        table.describe(Ssrc(7), mid, None);
        table.describe(Ssrc(7), None, rid);
        table.describe(Ssrc(7), None, None);
        let mid = mid.unwrap();
        assert_eq!(table.name_of(Ssrc(7)), Some(SourceName { mid, rid }));
    }

    #[test]
    fn declarations_are_bounded() {
        let [a, _] = slots();
        let mut table = SourceTable::default();
        let many = (0..300).map(|ssrc| (Ssrc(ssrc), Source::Media(a)));
        assert_eq!(table.declare(many, |_| true), 44);
    }
}
