//! An encoding: one stream of packets of a track. Without simulcast a track has one, with it one for each quality.
//!
//! It is the unit of forwarding: what is numbered, kept, relayed and fanned out together.

use std::time::{Duration, Instant};

use crate::base::ids::{ClockRate, MediaKind, RtpTime, SeqNo};
use crate::control::EncodingConfig;
use crate::media::cache::PacketCache;
use crate::media::keyframe::{KEYFRAME_INTERVAL, KeyframeRequests, RELAY_INTERVAL};
use crate::media::layer_rates::{LayerRates, SPATIAL_MAX};
use crate::media::layers::reader::LayerReader;
use crate::media::nack::{Arrival, NackGenerator};
use crate::media::receive_stats::ReceiveStats;
use crate::media::recovered::Recovered;
use crate::media::sender_report::{LastSenderReport, TrackClock};
use crate::media::stream::{Normalised, Stream};
use crate::media::timeline::End;
use crate::room::origin::Origin;
use crate::room::redundancy::Repeats;
use crate::room::targets::Targets;
use crate::wire::rtp::RtpHeader;

/// One encoding of a track, and everything that its subscriptions share.
#[derive(Debug)]
pub struct Encoding {
    /// As its publisher's description has it.
    pub config: EncodingConfig,
    /// Counts the runs of its source, for the shards that want it.
    pub run: u64,
    /// Its numbering.
    pub stream: Stream,
    /// How its present run of packets is received.
    pub stats: Option<ReceiveStats>,
    /// What each of its layers takes.
    pub rates: LayerRates,
    /// Width and height of each spatial layer's pictures, where a packet told.
    sizes: [Option<(u16, u16)>; SPATIAL_MAX],
    /// What is missing of it.
    pub nack: NackGenerator,
    /// What of it came inside redundant audio only.
    pub recovered: Recovered,
    /// What its packets repeat, where redundant audio is made of them.
    pub repeats: Repeats,
    /// The last sender report of its present run.
    pub last_sr: Option<LastSenderReport>,
    /// How its timestamps stand to the publisher's clock.
    pub clock: Option<TrackClock>,
    /// Its last packets.
    pub cache: PacketCache,
    /// Who wants a keyframe.
    pub keyframes: KeyframeRequests,
    /// The subscriptions that its packets go to at present.
    pub targets: Targets,
    /// Its latest packet.
    pub tip: Option<Tip>,
    /// When its last packet came. Of an encoding of another shard: only while it is selected.
    pub last_packet: Option<Instant>,
    /// Whether its publisher sends it at present, as far as that can be told: see `switching`.
    pub is_flowing: bool,
    /// What its packets say of layers; of video, from the first packet on.
    pub layers: Option<Box<LayerReader>>,
    /// When its publisher is asked again for a keyframe that somebody waits for.
    pub retry: Option<Retry>,
}

/// The packet with the highest number of an encoding.
#[derive(Debug, Clone, Copy)]
pub struct Tip {
    /// Its number.
    pub seq: SeqNo,
    /// Its timestamp, on the encoding's own clock.
    pub timestamp: RtpTime,
    /// When it came.
    pub arrived: Instant,
}

/// A keyframe request that will be repeated.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// When.
    pub at: Instant,
    /// How long after the last one that is.
    pub interval: Duration,
}

impl Encoding {
    /// An encoding without packets and targets.
    pub fn new(config: EncodingConfig, kind: MediaKind, rate: ClockRate, origin: Origin) -> Self {
        Self {
            config,
            run: 0,
            stream: Stream::new(rate),
            stats: None,
            rates: LayerRates::new(),
            sizes: [None; SPATIAL_MAX],
            nack: NackGenerator::new(kind),
            recovered: Recovered::default(),
            repeats: Repeats::default(),
            last_sr: None,
            clock: None,
            cache: PacketCache::new(kind),
            keyframes: KeyframeRequests::new(keyframe_interval(origin)),
            targets: Targets::default(),
            tip: None,
            last_packet: None,
            is_flowing: false,
            layers: None,
            retry: None,
        }
    }

    /// A packet of its publisher was taken. `asks`: whether what is missing before it may be asked for.
    pub fn on_packet(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        place: &Normalised,
        rate: ClockRate,
        asks: bool,
    ) -> Arrival {
        if place.restarted {
            self.run += 1;
            // What was reported of the former run says nothing of this one.
            (self.stats, self.last_sr, self.clock) = (None, None, None);
            self.nack.restart();
        }
        let stats = self
            .stats
            .get_or_insert_with(|| ReceiveStats::new(now, header.ssrc, rate, place.source_seq));
        stats.on_packet(now, place.source_seq, header.timestamp);
        self.nack.on_packet(now, place.source_seq, asks)
    }

    /// A packet of one of its layers, `bytes` long, is forwarded; `ends_frame` if it is the last of its picture there.
    #[inline]
    pub fn on_layer(
        &mut self,
        now: Instant,
        (spatial, temporal): (u8, u8),
        bytes: usize,
        ends_frame: bool,
        size: Option<(u16, u16)>,
    ) {
        self.rates
            .on_packet(now, (spatial, temporal), bytes, ends_frame);
        if size.is_some()
            && let Some(known) = self.sizes.get_mut(usize::from(spatial))
        {
            *known = size;
        }
    }

    /// Width and height of a spatial layer's pictures, where known.
    pub fn size(&self, spatial: u8) -> Option<(u16, u16)> {
        let own = self.sizes.get(usize::from(spatial)).copied().flatten();
        own.or_else(|| self.layers.as_ref()?.size(spatial))
    }

    /// A packet has got its number, here or on its publisher's shard: called once for each.
    #[inline]
    pub fn on_numbered(&mut self, now: Instant, seq: SeqNo, timestamp: RtpTime) {
        self.last_packet = Some(now);
        if self.tip.is_none_or(|tip| tip.seq < seq) {
            self.tip = Some(Tip {
                seq,
                timestamp,
                arrived: now,
            });
        }
    }

    /// How far it has got.
    pub fn end(&self) -> Option<End> {
        let tip = self.tip?;
        Some(End {
            timestamp: tip.timestamp,
            arrived: tip.arrived,
            clock: self.clock,
        })
    }
}

fn keyframe_interval(origin: Origin) -> Duration {
    match origin {
        Origin::Local(_) => KEYFRAME_INTERVAL,
        Origin::Remote(_) => RELAY_INTERVAL,
    }
}
