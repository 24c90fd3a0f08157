//! A track: what one peer publishes in one section, here or on another shard.

use std::time::Instant;

use crate::base::ids::{
    ClockRate, ENCODINGS_MAX, EncodingIndex, EncodingSet, MediaKind, PayloadType,
};
use crate::control::{EncodingConfig, TrackConfig};
use crate::media::hearing::Hearing;
use crate::room::encoding::Encoding;
use crate::room::origin::{Origin, Served};
use crate::room::payload::PayloadKinds;
use crate::room::slots::SubscriptionSlot;
use crate::room::supply::Supply;
use crate::room::wanted::Wanted;
use crate::wire::codec::Codec;

/// A published track and everything that its encodings share.
#[derive(Debug)]
pub struct Track {
    /// As its publisher's description has it.
    pub config: TrackConfig,
    /// Who brings its packets.
    pub origin: Origin,
    /// Which other shards get them. Empty while the room lives on this one only.
    pub sinks: Vec<Served>,
    /// What its present description is called, for `sinks`.
    pub version: u32,
    /// What each payload type carries.
    pub kinds: PayloadKinds,
    /// It has several encodings, or once had.
    pub is_simulcast: bool,
    /// What it is sent in, from the lowest quality to the highest: one at least.
    pub encodings: Vec<Encoding>,
    /// Until when redundant audio is made of it for somebody: see `doubling`.
    pub doubled_until: Option<Instant>,
    /// Until when two frames of sound are repeated in that instead of one.
    pub doubled_twice_until: Option<Instant>,
    /// What of that flows, and what it takes: of videos only.
    pub supply: Supply,
    /// What of it is wanted, if it is a video of this shard.
    pub wanted: Wanted,
    /// When it is next looked whether its encodings still flow; `None` while none does, or there is only one.
    pub flow_check_at: Option<Instant>,
    /// When the first of them flowed again, after all were silent.
    pub flows_since: Option<Instant>,
    /// Who has subscribed to it.
    pub subscriptions: Vec<SubscriptionSlot>,
    /// How loud it is, if it is sound.
    pub hearing: Hearing,
    /// It goes to nobody at present, because other streams are louder.
    pub is_held_back: bool,
}

impl Track {
    /// A track without packets and subscriptions.
    pub fn new(mut config: TrackConfig, origin: Origin) -> Self {
        limit(&mut config);
        let rate = clock_rate(config.kind);
        let encoding =
            |encoding: &EncodingConfig| Encoding::new(*encoding, config.kind, rate, origin);
        Self {
            origin,
            sinks: Vec::new(),
            version: 0,
            kinds: PayloadKinds::new(&config.codecs),
            is_simulcast: config.encodings.len() > 1,
            encodings: config.encodings.iter().map(encoding).collect(),
            doubled_until: None,
            doubled_twice_until: None,
            supply: Supply::default(),
            wanted: Wanted::default(),
            flow_check_at: None,
            flows_since: None,
            subscriptions: Vec::new(),
            hearing: Hearing::default(),
            is_held_back: false,
            config,
        }
    }

    /// Ticks per second of its timestamps.
    pub fn clock_rate(&self) -> ClockRate {
        clock_rate(self.config.kind)
    }

    /// The codec of a payload type.
    pub fn codec(&self, payload_type: PayloadType) -> Option<Codec> {
        let mapping = (self.config.codecs.iter()).find(|m| m.payload_type == payload_type)?;
        Some(mapping.codec)
    }

    /// Those of its encodings that its publisher sends at present.
    pub fn flowing(&self) -> EncodingSet {
        let mut flowing = EncodingSet::NONE;
        for (index, encoding) in (0..).map(EncodingIndex).zip(&self.encodings) {
            if encoding.is_flowing {
                flowing.insert(index);
            }
        }
        flowing
    }

    /// One of its encodings, if it has so many.
    #[inline]
    pub fn encoding(&self, index: EncodingIndex) -> Option<&Encoding> {
        self.encodings.get(index.at())
    }

    /// One of its encodings, if it has so many.
    #[inline]
    pub fn encoding_mut(&mut self, index: EncodingIndex) -> Option<&mut Encoding> {
        self.encodings.get_mut(index.at())
    }

    /// Takes a new description. True if there are more or fewer encodings than before, or others: what was sent
    /// of them may not be sent again.
    pub fn describe(&mut self, mut config: TrackConfig) -> bool {
        limit(&mut config);
        let rate = clock_rate(config.kind);
        let mut changed = config.encodings.len() != self.encodings.len();
        self.encodings.truncate(config.encodings.len());
        for (at, described) in config.encodings.iter().enumerate() {
            match self.encodings.get_mut(at) {
                Some(known) => {
                    changed |= known.config.rid != described.rid;
                    known.config = *described;
                }
                None => {
                    let new = Encoding::new(*described, config.kind, rate, self.origin);
                    self.encodings.push(new);
                }
            }
        }
        self.is_simulcast |= config.encodings.len() > 1;
        self.config = config;
        changed
    }
}

/// A track has one encoding at least, and not more than are told apart.
fn limit(config: &mut TrackConfig) {
    config.encodings.truncate(ENCODINGS_MAX);
    if config.encodings.is_empty() {
        config.encodings.push(EncodingConfig::default());
    }
}

/// All codecs of one kind share a clock rate.
pub fn clock_rate(kind: MediaKind) -> ClockRate {
    match kind {
        MediaKind::Audio => Codec::Opus.clock_rate(),
        MediaKind::Video => Codec::Vp8.clock_rate(),
    }
}
