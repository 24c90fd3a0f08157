//! A track: what one peer publishes in one section, here or on another shard.

use std::time::{Duration, Instant};

use crate::base::ids::{ClockRate, MediaKind};
use crate::control::TrackConfig;
use crate::media::cache::PacketCache;
use crate::media::keyframe::{KEYFRAME_INTERVAL, KeyframeRequests, RELAY_INTERVAL};
use crate::media::receive_stats::ReceiveStats;
use crate::media::sender_report::{LastSenderReport, TrackClock};
use crate::media::stream::{Normalised, Stream};
use crate::room::origin::{Origin, Sink};
use crate::room::payload::PayloadKinds;
use crate::room::slots::SubscriptionSlot;
use crate::room::targets::Targets;
use crate::wire::codec::Codec;
use crate::wire::rtp::RtpHeader;

/// A published track and everything that its subscriptions share.
#[derive(Debug)]
pub struct Track {
    /// As its publisher's description has it.
    pub config: TrackConfig,
    /// Who brings its packets.
    pub origin: Origin,
    /// Which other shards get them. Empty while the room lives on this one only.
    pub sinks: Vec<Sink>,
    /// Counts the changes of its description, for `sinks`.
    pub version: u32,
    /// Counts the runs of its source, for `sinks`.
    pub run: u64,
    /// What each payload type carries.
    pub kinds: PayloadKinds,
    /// Its numbering.
    pub stream: Stream,
    /// How its present run of packets is received.
    pub stats: Option<ReceiveStats>,
    /// The last sender report of its present run.
    pub last_sr: Option<LastSenderReport>,
    /// How its timestamps stand to the publisher's clock.
    pub clock: Option<TrackClock>,
    /// Its last packets.
    pub cache: PacketCache,
    /// Who wants a keyframe.
    pub keyframes: KeyframeRequests,
    /// Who has subscribed to it.
    pub subscriptions: Vec<SubscriptionSlot>,
    /// Those of them that its packets go to at present.
    pub targets: Targets,
}

impl Track {
    /// A track without packets and subscriptions.
    pub fn new(config: TrackConfig, origin: Origin) -> Self {
        Self {
            origin,
            sinks: Vec::new(),
            version: 0,
            run: 0,
            kinds: PayloadKinds::new(&config.codecs),
            stream: Stream::new(clock_rate(config.kind)),
            stats: None,
            last_sr: None,
            clock: None,
            cache: PacketCache::new(config.kind),
            keyframes: KeyframeRequests::new(keyframe_interval(origin)),
            subscriptions: Vec::new(),
            targets: Targets::default(),
            config,
        }
    }

    /// Ticks per second of its timestamps.
    pub fn clock_rate(&self) -> ClockRate {
        clock_rate(self.config.kind)
    }

    /// A packet was taken.
    pub fn on_packet(&mut self, now: Instant, header: &RtpHeader, place: &Normalised) {
        if place.restarted {
            self.run += 1;
            // What was reported of the former run says nothing of this one.
            (self.stats, self.last_sr, self.clock) = (None, None, None);
        }
        let rate = self.clock_rate();
        let stats = self
            .stats
            .get_or_insert_with(|| ReceiveStats::new(now, header.ssrc, rate, place.source_seq));
        stats.on_packet(now, place.source_seq, header.timestamp);
    }
}

fn keyframe_interval(origin: Origin) -> Duration {
    match origin {
        Origin::Local(_) => KEYFRAME_INTERVAL,
        Origin::Remote(_) => RELAY_INTERVAL,
    }
}

/// All codecs of one kind share a clock rate.
fn clock_rate(kind: MediaKind) -> ClockRate {
    match kind {
        MediaKind::Audio => Codec::Opus.clock_rate(),
        MediaKind::Video => Codec::Vp8.clock_rate(),
    }
}
