//! What each layer of an encoding costs at present: bits and frames of the last second, per spatial and temporal
//! layer.
//!
//! Knows no subscriber and no codec; whoever reads a packet's descriptor tells which layer it is of. Costs an
//! addition for each packet, and a few words to clear each fifth of a second.

use std::time::{Duration, Instant};

use crate::base::ids::Bitrate;

/// Spatial layers told apart inside one encoding; higher ones count as the highest.
pub const SPATIAL_MAX: usize = 4;
/// Temporal layers told apart inside one encoding; higher ones count as the highest.
pub const TEMPORAL_MAX: usize = 4;

/// Bits and frames of one encoding, by layer.
#[derive(Debug, Clone)]
pub struct LayerRates {
    /// When the first packet came.
    start: Option<Instant>,
    /// Which slice is being filled, counted from `start`.
    slice: u64,
    /// The slices of the window; `slice` is at its number modulo their count.
    slices: [Slice; SLICES],
    /// When each layer was last seen, in slices, counted from 1; 0 is never.
    seen: [u64; CELLS],
    /// When the encoding was first seen, or after a silence seen again, in milliseconds from `start`: a window
    /// that is not full yet is measured over what it has.
    since_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    bytes: [u32; CELLS],
    frames: [u16; CELLS],
}

/// What a layer with all below it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCost {
    /// The spatial layer inside the encoding.
    pub spatial: u8,
    /// The temporal layer inside the encoding.
    pub temporal: u8,
    /// Together with the layers below it.
    pub bitrate: Bitrate,
    /// Pictures in a second.
    pub frames_per_second: u16,
}

impl Default for LayerRates {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerRates {
    /// An encoding of which nothing has come.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: None,
            slice: 0,
            slices: [Slice::default(); SLICES],
            seen: [0; CELLS],
            since_ms: None,
        }
    }

    /// A packet of a layer came, `bytes` long as it is forwarded; `ends_frame` if it is the last of its picture
    /// in that layer.
    #[inline]
    pub fn on_packet(
        &mut self,
        now: Instant,
        (spatial, temporal): (u8, u8),
        bytes: usize,
        ends_frame: bool,
    ) {
        self.start.get_or_insert(now);
        let slice = self.slice_at(now);
        if slice > self.slice || self.since_ms.is_none() {
            self.turn_to(now, slice);
        }
        let cell = cell(spatial, temporal);
        let slice = &mut self.slices[self.slice as usize % SLICES];
        slice.bytes[cell] = slice.bytes[cell].saturating_add(bytes as u32);
        slice.frames[cell] = slice.frames[cell].saturating_add(u16::from(ends_frame));
        self.seen[cell] = self.slice + 1;
    }

    /// What a layer takes together with all below it that it needs: those of lower or equal spatial and temporal
    /// number.
    #[must_use]
    pub fn bitrate(&self, now: Instant, spatial: u8, temporal: u8) -> Bitrate {
        let bytes: u64 = cells_up_to(spatial, temporal)
            .map(|cell| self.sum(now, |slice| u64::from(slice.bytes[cell])))
            .sum();
        Bitrate(bytes * 8 * 1000 / self.covered_ms(now))
    }

    /// How many pictures a second a subscriber of a layer sees.
    #[must_use]
    pub fn frames_per_second(&self, now: Instant, spatial: u8, temporal: u8) -> u16 {
        // Each picture has a frame in each spatial layer, so that those of one spatial layer are counted.
        let spatial = usize::from(spatial).min(SPATIAL_MAX - 1);
        let frames: u64 = (0..=temporal.min(TEMPORAL_MAX as u8 - 1))
            .map(|t| cell(spatial as u8, t))
            .map(|cell| self.sum(now, |slice| u64::from(slice.frames[cell])))
            .sum();
        let covered = self.covered_ms(now);
        ((frames * 1000 + covered / 2) / covered) as u16
    }

    /// Whether a layer came within `silence`.
    #[must_use]
    pub fn is_flowing(&self, now: Instant, spatial: u8, temporal: u8, silence: Duration) -> bool {
        let seen = self.seen[cell(spatial, temporal)];
        seen > 0 && self.is_recent(now, seen, silence)
    }

    /// Whether anything of the encoding came within `silence`.
    #[must_use]
    pub fn is_any_flowing(&self, now: Instant, silence: Duration) -> bool {
        let seen = self.seen.iter().copied().max().unwrap_or(0);
        seen > 0 && self.is_recent(now, seen, silence)
    }

    /// The layers that came within `silence`, from low to high, with what each takes.
    pub fn layers(&self, now: Instant, silence: Duration) -> impl Iterator<Item = LayerCost> + '_ {
        (0..CELLS as u8)
            .map(|cell| (cell / TEMPORAL_MAX as u8, cell % TEMPORAL_MAX as u8))
            .filter(move |(spatial, temporal)| self.is_flowing(now, *spatial, *temporal, silence))
            .map(move |(spatial, temporal)| LayerCost {
                spatial,
                temporal,
                bitrate: self.bitrate(now, spatial, temporal),
                frames_per_second: self.frames_per_second(now, spatial, temporal),
            })
    }

    fn slice_at(&self, now: Instant) -> u64 {
        self.elapsed_ms(now) / SLICE_MS
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        let start = self.start.unwrap_or(now);
        now.saturating_duration_since(start).as_millis() as u64
    }

    fn turn_to(&mut self, now: Instant, slice: u64) {
        let passed = slice.saturating_sub(self.slice);
        if passed >= SLICES as u64 || self.since_ms.is_none() {
            self.since_ms = Some(self.elapsed_ms(now));
        }
        for passed in 1..=passed.min(SLICES as u64) {
            self.slices[(self.slice + passed) as usize % SLICES] = Slice::default();
        }
        self.slice += passed;
    }

    /// A sum over the slices that are inside the window as of `now`.
    fn sum(&self, now: Instant, of: impl Fn(&Slice) -> u64) -> u64 {
        let oldest = (self.slice_at(now) + 1).saturating_sub(SLICES as u64);
        (oldest..=self.slice)
            .rev()
            .take(SLICES)
            .map(|slice| of(&self.slices[slice as usize % SLICES]))
            .sum()
    }

    /// How much time the window covers, in milliseconds: from its oldest slice, or from the encoding's first
    /// packet, but never so little that one packet would be a flood.
    fn covered_ms(&self, now: Instant) -> u64 {
        let oldest = (self.slice_at(now) + 1).saturating_sub(SLICES as u64);
        let from = (oldest * SLICE_MS).max(self.since_ms.unwrap_or(0));
        let covered = self.elapsed_ms(now).saturating_sub(from);
        covered.max(COVERED_MS_MIN)
    }

    fn is_recent(&self, now: Instant, seen: u64, silence: Duration) -> bool {
        let silent_ms = (self.slice_at(now) + 1).saturating_sub(seen) * SLICE_MS;
        silent_ms <= silence.as_millis() as u64
    }
}

fn cell(spatial: u8, temporal: u8) -> usize {
    let spatial = usize::from(spatial).min(SPATIAL_MAX - 1);
    let temporal = usize::from(temporal).min(TEMPORAL_MAX - 1);
    spatial * TEMPORAL_MAX + temporal
}

fn cells_up_to(spatial: u8, temporal: u8) -> impl Iterator<Item = usize> {
    let spatial = spatial.min(SPATIAL_MAX as u8 - 1);
    let temporal = temporal.min(TEMPORAL_MAX as u8 - 1);
    (0..=spatial).flat_map(move |s| (0..=temporal).map(move |t| cell(s, t)))
}

const CELLS: usize = SPATIAL_MAX * TEMPORAL_MAX;
/// A slice is this long; five full ones and the one being filled are the window of about a second.
const SLICE_MS: u64 = 200;
const SLICES: usize = 6;
/// The least time a rate is measured over: several frames at 15 a second.
const COVERED_MS_MIN: u64 = 400;

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for a still screen at one picture in two seconds.
    const SILENCE: Duration = Duration::from_millis(2500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// `rate` bit/s in packets of 1000 bytes on one layer, for a time.
    fn feed(rates: &mut LayerRates, from: Instant, for_ms: u64, layer: (u8, u8), rate: u64) {
        let gap_us = 8_000 * 1_000_000 / rate;
        let mut at_us = 0;
        while at_us < for_ms * 1000 {
            rates.on_packet(from + Duration::from_micros(at_us), layer, 1000, true);
            at_us += gap_us;
        }
    }

    #[test]
    fn a_steady_rate_is_told_within_a_few_percent() {
        let t0 = Instant::now();
        for rate in [40_000, 150_000, 500_000, 2_500_000] {
            let mut rates = LayerRates::new();
            feed(&mut rates, t0 + ms(70), 3_000, (0, 0), rate);
            for at in [1_400, 1_950, 2_500, 3_000] {
                // What comes later is in the window too, but so is the time.
                let mut rates = LayerRates::new();
                feed(&mut rates, t0 + ms(70), at - 70, (0, 0), rate);
                let told = rates.bitrate(t0 + ms(at), 0, 0).0;
                // A packet more or less, and a little.
                let off = told.abs_diff(rate);
                assert!(off <= 8_000 + rate / 20, "{rate} at {at}: {told}");
            }
            assert!(rates.bitrate(t0 + ms(3_070), 0, 0).0 > 0);
        }
    }

    #[test]
    fn a_start_is_measured_over_what_has_passed() {
        let t0 = Instant::now();
        let mut rates = LayerRates::new();
        // The track was there long before its first packet.
        let start = t0 + ms(60_000);
        feed(&mut rates, start, 500, (0, 0), 800_000);
        let told = rates.bitrate(start + ms(500), 0, 0).0;
        assert!((700_000..=900_000).contains(&told), "{told}");
    }

    #[test]
    fn what_stops_decays_to_nothing_and_does_not_flow() {
        let t0 = Instant::now();
        let mut rates = LayerRates::new();
        assert!(!rates.is_any_flowing(t0, SILENCE));
        feed(&mut rates, t0, 2_000, (0, 1), 800_000);
        let at = |after: u64| rates.bitrate(t0 + ms(2_000 + after), 0, 1).0;
        assert!(at(0) > at(500) && at(500) > at(800) && at(1_300) == 0);
        let flows = |after: u64| rates.is_flowing(t0 + ms(2_000 + after), 0, 1, SILENCE);
        assert!(flows(0) && flows(2_300) && !flows(2_800));
        assert!(!rates.is_flowing(t0 + ms(2_000), 0, 0, SILENCE));
        assert!(rates.is_any_flowing(t0 + ms(2_000), SILENCE));
    }

    #[test]
    fn a_layer_costs_what_it_needs_below() {
        let t0 = Instant::now();
        let mut rates = LayerRates::new();
        for at in (0..2_000).step_by(20) {
            for (layer, bytes) in [((0, 0), 250), ((0, 1), 125), ((1, 0), 1000), ((1, 1), 500)] {
                rates.on_packet(t0 + ms(at), layer, bytes, true);
            }
        }
        let now = t0 + ms(2_000);
        let near = |spatial, temporal, expected: u64| {
            let told = rates.bitrate(now, spatial, temporal).0;
            assert!(
                told.abs_diff(expected) < expected / 8,
                "{spatial} {temporal}: {told}"
            );
        };
        near(0, 0, 100_000);
        near(0, 1, 150_000);
        near(1, 0, 500_000);
        near(1, 1, 750_000);
        let layers: Vec<_> = rates.layers(now, SILENCE).collect();
        let ids: Vec<_> = layers.iter().map(|l| (l.spatial, l.temporal)).collect();
        assert_eq!(ids, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }

    #[test]
    fn frames_are_counted_in_one_spatial_layer() {
        let t0 = Instant::now();
        let mut rates = LayerRates::new();
        for frame in 0..60_u64 {
            let now = t0 + ms(frame * 33);
            for spatial in 0..2 {
                rates.on_packet(now, (spatial, (frame % 2) as u8), 500, false);
                rates.on_packet(now, (spatial, (frame % 2) as u8), 500, true);
            }
        }
        let now = t0 + ms(60 * 33);
        assert!((14..=16).contains(&rates.frames_per_second(now, 1, 0)));
        assert!((29..=31).contains(&rates.frames_per_second(now, 1, 1)));
    }

    #[test]
    fn layers_beyond_what_is_told_apart_count_as_the_highest() {
        let t0 = Instant::now();
        let mut rates = LayerRates::new();
        rates.on_packet(t0, (255, 7), usize::MAX, true);
        rates.on_packet(t0, (255, 7), usize::MAX, true);
        assert!(rates.is_flowing(t0, 3, 3, SILENCE));
        assert!(rates.bitrate(t0, 255, 255).0 > 0);
        // Time that goes backwards (packets of one batch share an instant) is no harm.
        rates.on_packet(t0 + ms(900), (0, 0), 10, true);
        rates.on_packet(t0, (0, 0), 10, true);
    }
}
