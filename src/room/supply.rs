//! What a track has to offer: its layers, what each takes, and which of them flow.
//!
//! Measured where the track is published; another shard is told. A layer that does not flow any more stays known: its
//! publisher may have stopped it because nobody wanted it.

use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, EncodingIndex, EncodingSet, LayerId};
use crate::control::relay::RelayedLayer;
use crate::media::allocation::{Step, ladder};
use crate::room::encoding::Encoding;

/// The layers of a video track.
#[derive(Debug, Default)]
pub struct Supply {
    /// Every layer that was ever seen, from low to high.
    known: Vec<RelayedLayer>,
    /// Those that flow and are worth their price.
    steps: Vec<Step>,
    /// As of when.
    at: Option<Instant>,
}

impl Supply {
    /// Measures the layers anew. True if others flow than before.
    pub fn measure(&mut self, now: Instant, encodings: &[Encoding]) -> bool {
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        self.at = Some(now);
        let before = self.flowing();
        self.known.iter_mut().for_each(|l| l.is_flowing = false);
        let is_any_fresh = encodings.iter().any(|e| e.rates.is_any_flowing(now, FRESH));
        for (index, encoding) in (0..).map(EncodingIndex).zip(encodings) {
            // One that stops while others go on has been stopped; all together may be a still picture.
            let silence = match is_any_fresh {
                true => STOPPED_AFTER,
                false => SILENT_AFTER,
            };
            // The rate of one that has just stopped falls, but not what it would take.
            let is_fresh = encoding.rates.is_any_flowing(now, FRESH);
            for cost in encoding.rates.layers(now, silence) {
                let layer = LayerId {
                    encoding: index,
                    spatial: cost.spatial,
                    temporal: cost.temporal,
                };
                let mut known = self.known.iter_mut();
                match known.find(|known| known.layer == layer) {
                    Some(known) if !is_fresh => known.is_flowing = true,
                    _ => {
                        let frames = cost.frames_per_second;
                        self.note(passed, layer, cost.bitrate, frames, encoding);
                    }
                }
            }
        }
        self.known
            .retain(|layer| layer.layer.encoding.at() < encodings.len());
        self.lay_out();
        self.flowing() != before
    }

    /// Takes what the publisher's shard has measured. True if others flow than before.
    pub fn replace(&mut self, now: Instant, layers: &[RelayedLayer]) -> bool {
        let before = self.flowing();
        self.at = Some(now);
        self.known = layers.to_vec();
        self.lay_out();
        self.flowing() != before
    }

    /// What another shard is told.
    pub fn layers(&self) -> &[RelayedLayer] {
        &self.known
    }

    /// What can be had at present.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether anything was ever seen.
    pub fn is_known(&self) -> bool {
        !self.known.is_empty()
    }

    /// Whether anything flows.
    pub fn is_flowing(&self) -> bool {
        !self.steps.is_empty()
    }

    /// The encodings that flow.
    pub fn flowing(&self) -> EncodingSet {
        let mut set = EncodingSet::NONE;
        let flowing = self.known.iter().filter(|layer| layer.is_flowing);
        flowing.for_each(|layer| set.insert(layer.layer.encoding));
        set
    }

    /// Everything that was ever seen as a ladder, whether it flows or not.
    pub fn known_steps(&self) -> Vec<Step> {
        let mut steps = self.all_steps();
        ladder(&mut steps);
        steps
    }

    fn note(
        &mut self,
        passed: Option<Duration>,
        layer: LayerId,
        bitrate: Bitrate,
        frames_per_second: u16,
        encoding: &Encoding,
    ) {
        let new = RelayedLayer {
            layer,
            bitrate,
            size: encoding.size(layer.spatial),
            frames_per_second,
            is_flowing: true,
        };
        match self.known.binary_search_by_key(&layer, |known| known.layer) {
            Ok(at) => {
                let bitrate = smooth(self.known[at].bitrate, bitrate, passed);
                self.known[at] = RelayedLayer { bitrate, ..new };
            }
            Err(at) => self.known.insert(at, new),
        }
    }

    fn lay_out(&mut self) {
        let all = self.all_steps().into_iter().zip(&self.known);
        self.steps = all
            .filter(|(_, layer)| layer.is_flowing)
            .map(|(step, _)| step)
            .collect();
        ladder(&mut self.steps);
    }

    fn all_steps(&self) -> Vec<Step> {
        let mut steps = self.known.iter().map(step).collect::<Vec<_>>();
        guess_sizes(&mut steps);
        steps
    }
}

fn step(layer: &RelayedLayer) -> Step {
    Step {
        layer: layer.layer,
        bitrate: layer.bitrate,
        size: layer.size,
        frames_per_second: (layer.frames_per_second > 0).then_some(layer.frames_per_second),
    }
}

/// A keyframe makes the rate of one second twice that of the next; what counts is the mean.
fn smooth(before: Bitrate, measured: Bitrate, passed: Option<Duration>) -> Bitrate {
    let passed_ms = passed.map_or(SMOOTHED_OVER_MS, |p| p.as_millis() as u64);
    let weight = passed_ms.min(SMOOTHED_OVER_MS);
    let kept = before.0 * (SMOOTHED_OVER_MS - weight);
    Bitrate((kept + measured.0 * weight) / SMOOTHED_OVER_MS)
}

/// Where a codec does not tell the size of its pictures: each encoding has half the width of the next, which is what
/// browsers do unless they are told otherwise, and the best is a 720p camera's.
fn guess_sizes(steps: &mut [Step]) {
    let Some(top) = steps.last().map(|step| step.layer.encoding) else {
        return;
    };
    let known = steps.iter().rev().find_map(|step| {
        let (width, height) = step.size?;
        Some((step.layer.encoding, width, height))
    });
    let (reference, width, height) = known.unwrap_or((top, GUESSED_SIZE.0, GUESSED_SIZE.1));
    for step in steps.iter_mut().filter(|step| step.size.is_none()) {
        let (at, of) = (step.layer.encoding.0, reference.0);
        let scaled = |side: u16| {
            let scaled = (u32::from(side) << at.saturating_sub(of)) >> of.saturating_sub(at);
            u16::try_from(scaled.max(1)).unwrap_or(u16::MAX)
        };
        step.size = Some((scaled(width), scaled(height)));
    }
}

/// How long nothing of a track may come until it counts as silent: a still screen has a picture in a second or two.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// How long nothing of one encoding may come while others of its track flow.
const STOPPED_AFTER: Duration = Duration::from_secs(1);
/// A track of which something came within this time flows.
const FRESH: Duration = Duration::from_millis(600);
/// Two seconds of rates, so that one keyframe does not count as a better picture.
const SMOOTHED_OVER_MS: u64 = 2_000;
const GUESSED_SIZE: (u16, u16) = (1280, 720);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ClockRate, MediaKind, WantKey};
    use crate::control::EncodingConfig;
    use crate::room::origin::Origin;

    const RATES: [usize; 3] = [150_000, 500_000, 1_500_000];

    fn encodings() -> Vec<Encoding> {
        let origin = Origin::Remote(WantKey(1));
        let config = EncodingConfig::default();
        let (kind, rate) = (MediaKind::Video, ClockRate(90_000));
        vec![(); 3]
            .into_iter()
            .map(|()| Encoding::new(config, kind, rate, origin))
            .collect()
    }

    /// 25 pictures a second of those encodings for a second.
    fn feed(encodings: &mut [Encoding], from: Instant, which: &[usize]) {
        for picture in 0..25 {
            let now = from + Duration::from_millis(picture * 40);
            for at in which {
                encodings[*at]
                    .rates
                    .on_packet(now, (0, 0), RATES[*at] / 200, true);
            }
        }
    }

    fn flowing(supply: &Supply) -> Vec<u8> {
        let steps = supply.steps().iter();
        steps.map(|step| step.layer.encoding.0).collect()
    }

    #[test]
    fn what_flows_is_offered_and_what_stopped_stays_known() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut encodings = encodings();
        let mut supply = Supply::default();
        assert!(!supply.measure(t0, &encodings) && !supply.is_known());
        feed(&mut encodings, t0, &[0, 1, 2]);
        assert!(supply.measure(t0 + second, &encodings));
        assert_eq!(flowing(&supply), [0, 1, 2]);
        for (step, rate) in supply.steps().iter().zip(RATES) {
            let told = step.bitrate.0 as usize;
            assert!(told.abs_diff(rate) < rate / 8, "{told} for {rate}");
        }
        assert_eq!(supply.steps()[0].size, Some((320, 180)));
        // The highest is stopped.
        feed(&mut encodings, t0 + second, &[0, 1]);
        feed(&mut encodings, t0 + 2 * second, &[0, 1]);
        assert!(supply.measure(t0 + 3 * second, &encodings));
        assert_eq!(flowing(&supply), [0, 1]);
        assert_eq!(supply.steps()[0].size, Some((320, 180)), "as before");
        let known = supply.known_steps();
        assert_eq!(known.len(), 3);
        assert!(known[2].bitrate.0 > 1_300_000, "as it was last");
        // A pause of all is no stop, for a while.
        supply.measure(t0 + 5 * second, &encodings);
        assert!(supply.is_flowing());
        assert!(supply.measure(t0 + 7 * second, &encodings));
        assert!(!supply.is_flowing() && supply.is_known());
        let mut told = Supply::default();
        assert!(!told.replace(t0, supply.layers()) && told.is_known());
    }

    #[test]
    fn one_keyframe_is_not_a_better_picture() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut encodings = encodings();
        let mut supply = Supply::default();
        for n in 0..3 {
            feed(&mut encodings, t0 + n * second, &[1]);
            supply.measure(t0 + (n + 1) * second, &encodings);
        }
        let before = supply.steps()[0].bitrate.0;
        feed(&mut encodings, t0 + 3 * second, &[1]);
        // As much again.
        let keyframe = t0 + Duration::from_millis(3_500);
        encodings[1].rates.on_packet(keyframe, (0, 0), 62_500, true);
        supply.measure(t0 + Duration::from_millis(3_600), &encodings);
        let after = supply.steps()[0].bitrate.0;
        assert!(after < before * 3 / 2, "{before} {after}");
    }

    #[test]
    fn sizes_are_guessed_from_those_that_are_known() {
        let step = |encoding, size| Step {
            layer: LayerId {
                encoding: EncodingIndex(encoding),
                spatial: 0,
                temporal: 0,
            },
            bitrate: Bitrate(1),
            size,
            frames_per_second: None,
        };
        let mut steps = [step(0, None), step(1, Some((480, 270))), step(2, None)];
        guess_sizes(&mut steps);
        let sizes = steps.map(|step| step.size.unwrap());
        assert_eq!(sizes, [(240, 135), (480, 270), (960, 540)]);
    }
}
