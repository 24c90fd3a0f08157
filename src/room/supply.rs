//! What a track has to offer: its layers, what each takes, and which of them flow.
//!
//! Measured where the track is published; another shard is told. A layer that does not flow any more stays known: its
//! publisher may have stopped it because nobody wanted it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, EncodingIndex, EncodingSet, LayerId};
use crate::control::relay::RelayedLayer;
use crate::media::ladder::{Step, Wanted, ladder, ladder_within};
use crate::room::encoding::Encoding;

/// The layers of a video track.
#[derive(Debug, Default)]
pub struct Supply {
    /// Every layer that was ever seen, from low to high.
    known: Vec<RelayedLayer>,
    /// Those that flow, from low to high.
    offered: Vec<Step>,
    /// Those of them that are worth their price.
    steps: Vec<Step>,
    /// As of when.
    at: Option<Instant>,
    /// Encodings that were silent for so long that a keyframe was asked for.
    asked: EncodingSet,
}

/// What a measurement found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Other encodings flow than before.
    pub has_changed: bool,
    /// Encodings that should have come by now: a keyframe will tell whether they are still made.
    pub overdue: EncodingSet,
}

impl Supply {
    /// Measures the layers anew. `wanted` are the encodings that their publisher thinks are wanted.
    ///
    /// One that stops while others go on has been stopped; all together may be a still picture. But below all that go on,
    /// one that is wanted comes back: an encoder that must save begins with the best, and libvpx leaves pictures
    /// of the smallest size out for a second and more after a large keyframe. Whoever has no room for a better one would see
    /// nothing at all otherwise.
    pub fn measure(
        &mut self,
        now: Instant,
        encodings: &[Encoding],
        wanted: EncodingSet,
    ) -> Measured {
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        self.at = Some(now);
        let before = self.flowing();
        let mut overdue = EncodingSet::NONE;
        self.known.iter_mut().for_each(|l| l.is_flowing = false);
        let lowest_fresh = encodings
            .iter()
            .position(|e| e.rates.is_any_flowing(now, FRESH));
        for (index, encoding) in (0..).map(EncodingIndex).zip(encodings) {
            // The rate of one that has just stopped falls, but not what it would take.
            let is_fresh = encoding.rates.is_any_flowing(now, FRESH);
            let comes_back = lowest_fresh.is_some_and(|fresh| index.at() < fresh);
            let silence = match lowest_fresh {
                Some(_) if comes_back && wanted.contains(index) => GIVEN_UP_AFTER,
                Some(_) => STOPPED_AFTER,
                None => SILENT_AFTER,
            };
            let is_overdue = silence == GIVEN_UP_AFTER
                && encoding.rates.is_any_flowing(now, GIVEN_UP_AFTER)
                && !encoding.rates.is_any_flowing(now, OVERDUE_AFTER);
            if is_overdue && !self.asked.contains(index) {
                overdue.insert(index);
            }
            if is_fresh {
                self.asked.remove(index);
            }
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
        self.asked = self.asked.union(overdue);
        self.known
            .retain(|layer| layer.layer.encoding.at() < encodings.len());
        self.lay_out();
        Measured {
            has_changed: self.flowing() != before,
            overdue,
        }
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

    /// What can be had at present: a ladder.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// All layers that flow, from low to high, whether they are worth their price or not.
    pub fn offered(&self) -> &[Step] {
        &self.offered
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

    /// The ladder of what of that is wanted, for who has `present`.
    pub fn steps_within(&self, wanted: &Wanted, present: Option<LayerId>) -> Cow<'_, [Step]> {
        match wanted.is_everything() {
            true => Cow::Borrowed(&self.steps),
            false => Cow::Owned(ladder_within(&self.offered, wanted, present)),
        }
    }

    /// The ladder of what is wanted of everything that was ever seen, whether it flows or not.
    pub fn known_steps(&self, wanted: &Wanted) -> Vec<Step> {
        ladder_within(&self.all_steps(), wanted, None)
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
        self.offered = all
            .filter(|(_, layer)| layer.is_flowing)
            .map(|(step, _)| step)
            .collect();
        self.steps.clone_from(&self.offered);
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

/// Where a codec does not tell the size of its pictures: each encoding, and each spatial layer inside one, has half the
/// width of the next, which is what browsers do unless they are told otherwise, and the best is a 720p camera's.
fn guess_sizes(steps: &mut [Step]) {
    let level = |step: &Step| u32::from(step.layer.encoding.0) + u32::from(step.layer.spatial);
    let Some(top) = steps.iter().map(level).max() else {
        return;
    };
    let known = steps.iter().rev().find_map(|step| {
        let (width, height) = step.size?;
        Some((level(step), width, height))
    });
    let (reference, width, height) = known.unwrap_or((top, GUESSED_SIZE.0, GUESSED_SIZE.1));
    for step in steps.iter_mut().filter(|step| step.size.is_none()) {
        let at = level(step);
        let scaled = |side: u16| {
            let scaled = (u32::from(side) << at.saturating_sub(reference).min(SCALE_MAX))
                >> reference.saturating_sub(at).min(SCALE_MAX);
            u16::try_from(scaled.max(1)).unwrap_or(u16::MAX)
        };
        step.size = Some((scaled(width), scaled(height)));
    }
}

/// How long nothing of a track may come until it counts as silent: a still screen has a picture in a second or two.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// How long nothing of one encoding may come while others of its track flow.
const STOPPED_AFTER: Duration = Duration::from_secs(1);
/// How long nothing of the lowest encodings may come while better ones flow, until a keyframe is asked for: longer than
/// libvpx takes to make good for a keyframe, which is mostly below a second.
const OVERDUE_AFTER: Duration = Duration::from_secs(2);
/// How long until they are taken for stopped, whatever was asked.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(4);
/// A track of which something came within this time flows.
const FRESH: Duration = Duration::from_millis(600);
/// Two seconds of rates, so that one keyframe does not count as a better picture.
const SMOOTHED_OVER_MS: u64 = 2_000;
const GUESSED_SIZE: (u16, u16) = (1280, 720);
/// Sixteen times as large is beyond what a track has layers for.
const SCALE_MAX: u32 = 4;

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

    /// Measures where all is wanted. True if others flow than before.
    fn measure(supply: &mut Supply, now: Instant, encodings: &[Encoding]) -> bool {
        let all = EncodingSet::lowest(3);
        supply.measure(now, encodings, all).has_changed
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
        assert!(!measure(&mut supply, t0, &encodings) && !supply.is_known());
        feed(&mut encodings, t0, &[0, 1, 2]);
        assert!(measure(&mut supply, t0 + second, &encodings));
        assert_eq!(flowing(&supply), [0, 1, 2]);
        for (step, rate) in supply.steps().iter().zip(RATES) {
            let told = step.bitrate.0 as usize;
            assert!(told.abs_diff(rate) < rate / 8, "{told} for {rate}");
        }
        assert_eq!(supply.steps()[0].size, Some((320, 180)));
        // The highest is stopped.
        feed(&mut encodings, t0 + second, &[0, 1]);
        feed(&mut encodings, t0 + 2 * second, &[0, 1]);
        assert!(measure(&mut supply, t0 + 3 * second, &encodings));
        assert_eq!(flowing(&supply), [0, 1]);
        assert_eq!(supply.steps()[0].size, Some((320, 180)), "as before");
        let known = supply.known_steps(&Wanted::default());
        assert_eq!(known.len(), 3);
        assert!(known[2].bitrate.0 > 1_300_000, "as it was last");
        // A pause of all is no stop, for a while.
        measure(&mut supply, t0 + 5 * second, &encodings);
        assert!(supply.is_flowing());
        assert!(measure(&mut supply, t0 + 7 * second, &encodings));
        assert!(!supply.is_flowing() && supply.is_known());
        let mut told = Supply::default();
        assert!(!told.replace(t0, supply.layers()) && told.is_known());
    }

    #[test]
    fn the_lowest_is_expected_back_while_better_ones_flow() {
        let t0 = Instant::now();
        let half = Duration::from_millis(500);
        let at = |halves: u32| t0 + halves * half;
        let mut encodings = encodings();
        let mut supply = Supply::default();
        let all = EncodingSet::lowest(3);
        feed(&mut encodings, t0, &[0, 1, 2]);
        supply.measure(at(2), &encodings, all);
        let rate = supply.steps()[0].bitrate;
        // The lowest is silent from the end of the first second on.
        let mut asked_at = Vec::new();
        let mut gone_at = None;
        for halves in 3..=12 {
            if halves % 2 == 1 {
                feed(&mut encodings, at(halves - 1), &[1, 2]);
            }
            let measured = supply.measure(at(halves), &encodings, all);
            if !measured.overdue.is_empty() {
                assert_eq!(measured.overdue, EncodingSet::lowest(1));
                asked_at.push(halves);
            }
            if flowing(&supply) == [1, 2] {
                gone_at.get_or_insert(halves);
            } else {
                let kept = supply.steps()[0].bitrate;
                assert!(kept.0 > rate.0 * 3 / 4, "nearly as it was last: {kept:?}");
            }
        }
        assert_eq!(
            (asked_at, gone_at),
            (vec![6], Some(10)),
            "2 and 4 s of silence"
        );
        // It comes, and stops again, unwanted this time.
        feed(&mut encodings, at(12), &[0, 1, 2]);
        assert!(supply.measure(at(14), &encodings, all).has_changed);
        feed(&mut encodings, at(14), &[1, 2]);
        feed(&mut encodings, at(16), &[1, 2]);
        let measured = supply.measure(at(17), &encodings, EncodingSet::only(EncodingIndex(1)));
        assert_eq!(flowing(&supply), [1, 2]);
        assert!(measured.overdue.is_empty());
    }

    #[test]
    fn one_keyframe_is_not_a_better_picture() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut encodings = encodings();
        let mut supply = Supply::default();
        for n in 0..3 {
            feed(&mut encodings, t0 + n * second, &[1]);
            measure(&mut supply, t0 + (n + 1) * second, &encodings);
        }
        let before = supply.steps()[0].bitrate.0;
        feed(&mut encodings, t0 + 3 * second, &[1]);
        // As much again.
        let keyframe = t0 + Duration::from_millis(3_500);
        encodings[1].rates.on_packet(keyframe, (0, 0), 62_500, true);
        measure(&mut supply, t0 + Duration::from_millis(3_600), &encodings);
        let after = supply.steps()[0].bitrate.0;
        assert!(after < before * 3 / 2, "{before} {after}");
    }

    #[test]
    fn sizes_are_guessed_from_those_that_are_known() {
        let layered = |encoding, spatial, size| Step {
            layer: LayerId {
                encoding: EncodingIndex(encoding),
                spatial,
                temporal: 0,
            },
            bitrate: Bitrate(1),
            size,
            frames_per_second: None,
        };
        let step = |encoding, size| layered(encoding, 0, size);
        let mut steps = [step(0, None), step(1, Some((480, 270))), step(2, None)];
        guess_sizes(&mut steps);
        let sizes = steps.map(|step| step.size.unwrap());
        assert_eq!(sizes, [(240, 135), (480, 270), (960, 540)]);
        let mut steps = [0, 1, 2].map(|spatial| layered(0, spatial, None));
        guess_sizes(&mut steps);
        let sizes = steps.map(|step| step.size.unwrap());
        assert_eq!(sizes, [(320, 180), (640, 360), (1280, 720)]);
    }
}
