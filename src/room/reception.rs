//! Which encoding of its track a subscription gets, and which it waits for.

use crate::base::ids::{EncodingIndex, EncodingSet, LayerId};

/// What a subscription is to get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// The highest encoding that flows.
    #[default]
    Best,
    /// The encoding of this layer; while that does not flow, the next lower one that does.
    Layer(LayerId),
    /// Nothing.
    Paused,
}

/// What a subscription gets at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reception {
    /// Nothing: it has no track, or is paused.
    #[default]
    Off,
    /// Nothing yet: the next keyframe of an encoding.
    Waiting {
        /// Which.
        to: EncodingIndex,
    },
    /// One encoding.
    Steady {
        /// Which.
        on: EncodingIndex,
    },
    /// One encoding, until the next keyframe of another.
    Switching {
        /// Which it gets.
        from: EncodingIndex,
        /// Which it waits for.
        to: EncodingIndex,
    },
}

impl Wish {
    /// The encodings that are asked for, of a track with so many, whether they flow or not.
    pub fn encodings(self, count: usize) -> EncodingSet {
        match self.highest(count) {
            Some(index) => EncodingSet::only(index),
            None => EncodingSet::NONE,
        }
    }

    /// The encoding to go for, of a track with `count` of them, some of which flow. `None`: nothing.
    pub fn aim(
        self,
        count: usize,
        present: Option<EncodingIndex>,
        flows: impl Fn(EncodingIndex) -> bool,
    ) -> Option<EncodingIndex> {
        let highest = self.highest(count)?;
        let index = |at| EncodingIndex(at as u8);
        let lower = (0..=highest.at()).rev().map(index).find(|at| flows(*at));
        let higher = || (highest.at() + 1..count).map(index).find(|at| flows(*at));
        // An encoder under a low limit leaves pictures out for half a second and more after a keyframe. A better
        // encoding in their place is what the wish forbids; should they not come again, whoever wishes wishes anew.
        let kept = present.filter(|present| *present <= highest);
        // While nothing flows there is nothing to choose.
        let found = lower.or(kept).or_else(higher).or(present);
        Some(found.unwrap_or(EncodingIndex::LOWEST))
    }

    fn highest(self, count: usize) -> Option<EncodingIndex> {
        let top = EncodingIndex(count.saturating_sub(1) as u8);
        match self {
            Self::Best => Some(top),
            Self::Layer(layer) => Some(layer.encoding.min(top)),
            Self::Paused => None,
        }
    }
}

impl Reception {
    /// The encodings whose packets are needed.
    pub fn encodings(self) -> EncodingSet {
        match self {
            Self::Off => EncodingSet::NONE,
            Self::Waiting { to: only } | Self::Steady { on: only } => EncodingSet::only(only),
            Self::Switching { from, to } => EncodingSet::only(from).union(EncodingSet::only(to)),
        }
    }

    /// The encoding that goes out, or will first.
    pub fn present(self) -> Option<EncodingIndex> {
        match self {
            Self::Off => None,
            Self::Waiting { to: index }
            | Self::Steady { on: index }
            | Self::Switching { from: index, .. } => Some(index),
        }
    }

    /// The encoding whose next keyframe changes what goes out.
    pub fn awaited(self) -> Option<EncodingIndex> {
        match self {
            Self::Off | Self::Steady { .. } => None,
            Self::Waiting { to } | Self::Switching { to, .. } => Some(to),
        }
    }

    /// What becomes of it when nothing goes out for a while: with several encodings, a keyframe is needed then.
    pub fn interrupted(self, is_simulcast: bool) -> Self {
        match self {
            Self::Steady { on: to } | Self::Switching { to, .. } if is_simulcast => {
                Self::Waiting { to }
            }
            other => other,
        }
    }

    /// What becomes of it when `aim` is to be got, of a track with `count` encodings. One that never
    /// had several is joined anywhere: whose picture it is decides what that is worth.
    pub fn towards(self, aim: Option<EncodingIndex>, count: usize, is_simulcast: bool) -> Self {
        let Some(to) = aim else {
            return Self::Off;
        };
        if !is_simulcast {
            return Self::Steady { on: to };
        }
        match self {
            Self::Steady { on: from } | Self::Switching { from, .. } if from.at() < count => {
                match from == to {
                    true => Self::Steady { on: to },
                    false => Self::Switching { from, to },
                }
            }
            _ => Self::Waiting { to },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn index(at: u8) -> EncodingIndex {
        EncodingIndex(at)
    }

    fn layer(encoding: u8) -> Wish {
        Wish::Layer(LayerId {
            encoding: index(encoding),
            spatial: 0,
            temporal: 0,
        })
    }

    #[test]
    fn a_wish_aims_at_what_flows() {
        /// Wish, number of encodings, which flow, the present one, what is aimed at.
        type Case = (Wish, usize, &'static [u8], Option<u8>, Option<u8>);
        let cases: [Case; 12] = [
            (Wish::Best, 3, &[0, 1, 2], None, Some(2)),
            (Wish::Best, 3, &[0, 1], Some(2), Some(1)),
            (Wish::Best, 1, &[], None, Some(0)),
            (layer(1), 3, &[0, 1, 2], Some(2), Some(1)),
            (layer(1), 3, &[0, 2], Some(2), Some(0)),
            (layer(0), 3, &[2], None, Some(2)),
            (layer(0), 3, &[1, 2], Some(0), Some(0)),
            (layer(0), 3, &[1, 2], Some(2), Some(1)),
            (layer(9), 3, &[0, 1, 2], None, Some(2)),
            (layer(2), 3, &[], Some(1), Some(1)),
            (layer(2), 3, &[], None, Some(0)),
            (Wish::Paused, 3, &[0, 1, 2], Some(1), None),
        ];
        for (wish, count, flowing, present, expected) in cases {
            let aim = wish.aim(count, present.map(index), |at| flowing.contains(&at.0));
            assert_eq!(aim, expected.map(index), "{wish:?} {flowing:?}");
        }
    }

    #[test]
    fn a_switch_keeps_what_goes_out_until_it_is_done() {
        use Reception::{Off, Steady, Switching, Waiting};
        let (low, high) = (index(0), index(2));
        let cases = [
            (Off, Some(high), 3, Waiting { to: high }),
            (Off, Some(low), 1, Steady { on: low }),
            (Waiting { to: low }, Some(high), 3, Waiting { to: high }),
            (Steady { on: low }, Some(low), 3, Steady { on: low }),
            (
                Steady { on: low },
                Some(high),
                3,
                Switching {
                    from: low,
                    to: high,
                },
            ),
            (
                Switching {
                    from: low,
                    to: high,
                },
                Some(low),
                3,
                Steady { on: low },
            ),
            (
                Switching {
                    from: low,
                    to: high,
                },
                None,
                3,
                Off,
            ),
            // What goes out is no encoding of the track any more.
            (Steady { on: high }, Some(low), 2, Waiting { to: low }),
            (Steady { on: high }, Some(low), 1, Waiting { to: low }),
        ];
        for (before, aim, count, after) in cases {
            let is_simulcast = count > 1 || before != Off;
            assert_eq!(
                before.towards(aim, count, is_simulcast),
                after,
                "{before:?} {aim:?}"
            );
        }
    }
}
