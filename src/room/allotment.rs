//! What one subscription was given of a video, and what its client was told of it.

use std::time::{Duration, Instant};

use crate::base::ids::{EncodingSet, LayerId};
use crate::base::layer_reason::LayerReason;
use crate::media::allocation::Share;
use crate::media::fair_share::Consumption;
use crate::media::pace::Pace;

/// What one subscription was given of a video. Only videos have one, from their first allocation on.
#[derive(Debug, Default)]
pub struct Allotment {
    /// What it was given last.
    pub share: Option<Share>,
    /// When it may be given more.
    pub pace: Pace,
    /// The encodings it would take if its network carried them.
    pub wished: EncodingSet,
    /// What its client was told last.
    pub told: Option<(Option<LayerId>, LayerReason)>,
}

impl Allotment {
    /// The layer it was given last.
    pub fn layer(&self) -> Option<LayerId> {
        self.share.and_then(|share| share.layer)
    }

    /// Why it gets what it gets, which is `present`: that it waits for a keyframe, or what limits it.
    pub fn reason(&self, present: Option<LayerId>) -> LayerReason {
        match self.share {
            // Going down waits for a keyframe too, and yet that is not what limits it.
            Some(share) if share.layer > present => LayerReason::NoKeyframeYet,
            Some(share) => share.reason,
            None => LayerReason::PublisherMuted,
        }
    }

    /// Whether what it was given is not what it is sent (yet), which is `present`.
    pub fn is_waiting(&self, present: Option<LayerId>) -> bool {
        self.share.is_some_and(|share| share.layer != present)
    }
}

/// When a peer's bandwidth is divided anew.
#[derive(Debug, Default)]
pub struct Division {
    /// When it was last done.
    done_at: Option<Instant>,
    /// When it is done next; `None` while there is nothing to divide.
    pub due: Option<Instant>,
    /// What it came to.
    pub consumption: Consumption,
    /// Since when it gets more than another one that wants more and shares its bottleneck.
    pub ahead_since: Option<Instant>,
}

impl Division {
    /// It is to be done soon, but not more often than every [`DIVISION_INTERVAL`].
    pub fn hasten(&mut self, now: Instant) {
        let at = self
            .done_at
            .map_or(now, |done| now.max(done + DIVISION_INTERVAL));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// It is done now, and again at `next`.
    pub fn on_done(&mut self, now: Instant, next: Option<Instant>) {
        self.done_at = Some(now);
        self.due = next.map(|next| next.max(now + DIVISION_INTERVAL));
    }
}

/// Twice a round trip between continents; the estimate does not move in a meaningful way faster.
const DIVISION_INTERVAL: Duration = Duration::from_millis(200);
