//! The steps by which a video can get better, out of all layers that its publisher sends.
//!
//! Knows no subscriber but for what it wants.

use crate::base::ids::{Bitrate, LayerId};

/// One layer a subscriber could be given, with all it needs below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub layer: LayerId,
    /// What it takes.
    pub bitrate: Bitrate,
    /// Width and height of its pictures, where known.
    pub size: Option<(u16, u16)>,
    /// Its pictures in a second, where known.
    pub frames_per_second: Option<u16>,
}

/// What a client wants of a video at most. The default is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// How wide it is shown, in pixels.
    pub width: Option<u16>,
    /// How high it is shown, in pixels.
    pub height: Option<u16>,
    /// Pictures in a second that are of use.
    pub frames_per_second: Option<u16>,
}

impl Wanted {
    /// Whether that is everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether pictures of that size need not be enlarged (much) to be shown whole in the wanted frame: then one side
    /// fills it.
    fn is_covered(&self, size: Option<(u16, u16)>) -> bool {
        let Some((width, height)) = size else {
            return false;
        };
        let fills = |has: u16, wanted: Option<u16>| {
            wanted.is_some_and(|wanted| u32::from(has) * 10 >= u32::from(wanted) * 9)
        };
        fills(width, self.width) || fills(height, self.height)
    }

    /// Whether a layer has no more pictures in a second than are of use. Rates are counted, and move: what one has
    /// may be a little faster.
    fn is_slow_enough(&self, step: &Step, is_present: bool) -> bool {
        let (Some(most), Some(rate)) = (self.frames_per_second, step.frames_per_second) else {
            return true;
        };
        let percent = match is_present {
            true => PRESENT_RATE_PERCENT,
            false => RATE_PERCENT,
        };
        u32::from(rate) * 100 <= u32::from(most) * percent
    }
}

/// Makes a ladder of what a track offers: from low to high, each step dearer than the one before. A layer that costs no
/// less than a better one is left out, and so is a larger picture that hardly moves where a smaller one does.
pub fn ladder(steps: &mut Vec<Step>) {
    steps.sort_unstable_by_key(|step| step.layer);
    steps.dedup_by_key(|step| step.layer);
    let mut fastest = 0;
    steps.retain(|step| {
        let rate = step.frames_per_second.unwrap_or(0);
        // Half of it, give or take a picture: rates are counted.
        let stutters =
            rate > 0 && rate < STUTTER_BELOW && 2 * rate <= fastest + 2 && rate < fastest;
        fastest = fastest.max(rate);
        !stutters
    });
    // From the top: what is not cheaper than something better goes.
    let mut cheapest = u64::MAX;
    let mut keep = vec![false; steps.len()];
    for (at, step) in steps.iter().enumerate().rev() {
        keep[at] = step.bitrate.0 < cheapest;
        cheapest = cheapest.min(step.bitrate.0);
    }
    let mut at = 0;
    steps.retain(|_| {
        at += 1;
        keep[at - 1]
    });
}

/// The ladder of those layers that are wanted: up to the size that covers the wanted one, and in each size those frame
/// rates that are not above what is of use, or the slowest. Chosen before the ladder is made: whether a layer is worth its
/// price depends on what else can be had, and the rates of the layers of a picture need not be on the way to the next larger.
///
/// `offered` is sorted by layer; `present` is the layer that the client has.
#[must_use]
pub fn ladder_within(offered: &[Step], wanted: &Wanted, present: Option<LayerId>) -> Vec<Step> {
    let picture = |step: &Step| (step.layer.encoding, step.layer.spatial);
    let mut covers = offered.iter().filter(|step| wanted.is_covered(step.size));
    let largest = covers.next().map(picture);
    let mut before = None;
    let mut steps: Vec<Step> = offered
        .iter()
        .take_while(|step| largest.is_none_or(|largest| picture(step) <= largest))
        .filter(|step| {
            let is_slowest = before.replace(picture(step)) != Some(picture(step));
            is_slowest || wanted.is_slow_enough(step, present == Some(step.layer))
        })
        .copied()
        .collect();
    ladder(&mut steps);
    steps
}

/// How far a frame rate may exceed the wanted one, in percent of that: a picture more in a second.
const RATE_PERCENT: u32 = 110;
/// The same for the frame rate that one has.
const PRESENT_RATE_PERCENT: u32 = 130;
/// Fewer pictures a second than this stutter.
const STUTTER_BELOW: u16 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::EncodingIndex;

    fn layer(encoding: u8, spatial: u8, temporal: u8) -> LayerId {
        LayerId {
            encoding: EncodingIndex(encoding),
            spatial,
            temporal,
        }
    }

    fn step(layer: LayerId, kbits: u64, rate: u16) -> Step {
        Step {
            layer,
            bitrate: Bitrate(kbits * 1000),
            size: None,
            frames_per_second: Some(rate),
        }
    }

    fn rate(frames_per_second: u16) -> Wanted {
        Wanted {
            frames_per_second: Some(frames_per_second),
            ..Wanted::default()
        }
    }

    fn layers(steps: &[Step]) -> Vec<LayerId> {
        steps.iter().map(|step| step.layer).collect()
    }

    #[test]
    fn a_ladder_has_only_steps_that_are_worth_their_price() {
        let mut steps = vec![
            step(layer(1, 0, 1), 600, 30),
            step(layer(0, 0, 0), 100, 8),
            step(layer(0, 0, 1), 150, 15),
            step(layer(0, 0, 2), 200, 30),
            // A larger picture at a quarter of the rate.
            step(layer(1, 0, 0), 300, 8),
            // Costs more than the next better one.
            step(layer(2, 0, 0), 1600, 30),
            step(layer(2, 0, 1), 1500, 30),
        ];
        ladder(&mut steps);
        let expected = [(0, 0), (0, 1), (0, 2), (1, 1), (2, 1)].map(|(e, t)| layer(e, 0, t));
        assert_eq!(layers(&steps), expected);
    }

    /// Spatial layers of 150, 500 and 1500 kbit/s, each with three frame rates.
    fn spatial(count: u8) -> Vec<Step> {
        let mut steps = Vec::new();
        for spatial in 0..count {
            let kbits = [150, 500, 1500][usize::from(spatial)];
            for (temporal, (share, rate)) in (0..).zip([(4, 8), (7, 15), (10, 30)]) {
                steps.push(step(layer(0, spatial, temporal), kbits * share / 10, rate));
            }
        }
        steps
    }

    #[test]
    fn a_wanted_frame_rate_holds_in_every_size() {
        for count in 1..=3 {
            let offered = spatial(count);
            for (wanted, temporal) in [(5, 0), (8, 0), (10, 0), (15, 1), (20, 1), (28, 2), (60, 2)]
            {
                let steps = ladder_within(&offered, &rate(wanted), None);
                let top = steps.last().expect("something").layer;
                assert_eq!(top, layer(0, count - 1, temporal), "{wanted} of {count}");
                assert!(steps.iter().all(|step| step.layer.temporal <= temporal));
                let sizes: Vec<u8> = steps.iter().map(|step| step.layer.spatial).collect();
                assert!(
                    (0..count).all(|spatial| sizes.contains(&spatial)),
                    "{sizes:?}"
                );
            }
        }
        // Simulcast without temporal layers: there is nothing slower.
        let simulcast: Vec<_> = (0..3)
            .map(|encoding| step(layer(encoding, 0, 0), 150 << encoding, 30))
            .collect();
        assert_eq!(ladder_within(&simulcast, &rate(10), None), simulcast);
    }

    /// A better layer that is not wanted makes none of those that are superfluous.
    #[test]
    fn a_wanted_size_has_all_its_frame_rates() {
        let mut offered = spatial(3);
        for step in &mut offered {
            step.size = Some((320 << step.layer.spatial, 180 << step.layer.spatial));
        }
        // The next larger size at half the rate costs as much.
        offered[2].bitrate = offered[4].bitrate;
        let top = |width| {
            let wanted = Wanted {
                width: Some(width),
                ..Wanted::default()
            };
            ladder_within(&offered, &wanted, None).last().unwrap().layer
        };
        assert_eq!([1, 320, 355].map(top), [layer(0, 0, 2); 3]);
        assert_eq!([356, 640, 711].map(top), [layer(0, 1, 2); 3]);
        assert_eq!([712, 5000].map(top), [layer(0, 2, 2); 2]);
        let all = ladder_within(&offered, &Wanted::default(), None);
        assert!(!layers(&all).contains(&layer(0, 0, 2)), "{all:?}");
    }

    #[test]
    fn a_rate_that_moves_makes_nothing_flap() {
        let mut offered = spatial(1);
        let top = |offered: &[Step], present| {
            ladder_within(offered, &rate(15), present)
                .last()
                .unwrap()
                .layer
                .temporal
        };
        assert_eq!(top(&offered, None), 1);
        for (rate, present, expected) in
            [(17, 1, 1), (19, 1, 1), (20, 1, 0), (17, 0, 0), (16, 0, 1)]
        {
            offered[1].frames_per_second = Some(rate);
            assert_eq!(
                top(&offered, Some(layer(0, 0, present))),
                expected,
                "{rate}"
            );
        }
    }
}
