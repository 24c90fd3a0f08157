//! The template structures of one encoding's dependency descriptors, and which decode targets lie inside a
//! subscriber's limit.

use crate::base::ids::SeqNo;
use crate::wire::payload::dependency::{Indications, TemplateStructure};

/// The highest layers that a subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The highest spatial layer.
    pub spatial: u8,
    /// The highest temporal layer.
    pub temporal: u8,
}

impl Limit {
    /// Everything there is.
    pub const ALL: Self = Self {
        spatial: u8::MAX,
        temporal: u8::MAX,
    };

    /// The lower of both, each for itself.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            spatial: self.spatial.min(other.spatial),
            temporal: self.temporal.min(other.temporal),
        }
    }

    /// Whether nothing lies above, of layers up to `top`.
    #[must_use]
    pub fn covers(self, top: Self) -> bool {
        self.takes(top.spatial, top.temporal)
    }

    /// Whether a layer lies inside.
    #[must_use]
    pub fn takes(self, spatial: u8, temporal: u8) -> bool {
        spatial <= self.spatial && temporal <= self.temporal
    }

    fn at(self) -> usize {
        let top = (GRID - 1) as u8;
        usize::from(self.spatial.min(top)) * GRID + usize::from(self.temporal.min(top))
    }
}

/// A structure, and since when it holds.
#[derive(Debug)]
pub struct Structure {
    /// The first frame it holds for.
    pub from: u64,
    /// The highest packet when it came: packets from here on were read with it.
    pub since: SeqNo,
    /// What it says.
    pub templates: TemplateStructure,
    /// The decode targets inside each limit.
    inside: [u32; GRID * GRID],
    /// The best of them.
    best: [u32; GRID * GRID],
}

impl Structure {
    /// A structure that came with the frame `from`, when `since` was the highest packet.
    #[must_use]
    pub fn new(from: u64, since: SeqNo, templates: TemplateStructure) -> Self {
        let (mut inside, mut best) = ([0; GRID * GRID], [0; GRID * GRID]);
        for spatial in 0..GRID as u8 {
            for temporal in 0..GRID as u8 {
                // The last column and row stand for all that is above, too.
                let open = |layer: u8| {
                    if layer + 1 == GRID as u8 {
                        u8::MAX
                    } else {
                        layer
                    }
                };
                let at = Limit { spatial, temporal }.at();
                let limit = Limit {
                    spatial: open(spatial),
                    temporal: open(temporal),
                };
                (inside[at], best[at]) = targets_inside(&templates, limit);
            }
        }
        Self {
            from,
            since,
            templates,
            inside,
            best,
        }
    }

    /// The decode targets all of whose frames go to a subscriber with this limit, as a mask.
    #[must_use]
    pub fn active(&self, limit: Limit) -> u32 {
        let mut active = self.inside[limit.at()];
        for frame in self.templates.frames() {
            if !self.needs(limit, frame) {
                active &= !frame.present();
            }
        }
        active
    }

    /// All decode targets.
    #[must_use]
    pub fn all(&self) -> u32 {
        self.active(Limit::ALL)
    }

    /// Whether a frame goes to a subscriber with this limit: the best target inside contains it, or a lower one
    /// does and builds on it. The latter may be more than the decoder needs now (with keyframe SVC), but then
    /// the subscriber can go down anywhere. What nothing builds on and the best target does not contain is left out.
    #[must_use]
    pub fn needs(&self, limit: Limit, frame: &Indications) -> bool {
        if limit == Limit::ALL {
            return true;
        }
        let firm = frame.switch | frame.required;
        firm & self.inside[limit.at()] != 0 || frame.discardable & self.best[limit.at()] != 0
    }

    /// Whether a subscriber that can decode this frame can decode all later ones inside the limit.
    #[must_use]
    pub fn switches(&self, limit: Limit, frame: &Indications) -> bool {
        frame.switch & self.best[limit.at()] != 0
    }
}

fn targets_inside(templates: &TemplateStructure, limit: Limit) -> (u32, u32) {
    let (mut inside, mut best) = (0, None);
    for target in 0..templates.targets() {
        let layer = templates.target_layer(target);
        if limit.takes(layer.0, layer.1) {
            inside |= 1 << target;
            if best.is_none_or(|(_, highest)| layer > highest) {
                best = Some((target, layer));
            }
        }
    }
    (inside, best.map_or(0, |(target, _)| 1 << target))
}

/// Layers of each kind that are told apart: browsers make three; what is above counts as the fourth.
const GRID: usize = 4;
