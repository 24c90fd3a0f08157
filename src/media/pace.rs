//! When a subscription may be given more than it has.
//!
//! Keeps what a subscription gets from going up and down again. Knows neither what there is to divide nor how.

use std::time::{Duration, Instant};

use crate::base::ids::LayerId;
use crate::base::layer_reason::LayerReason;
use crate::media::allocation::Share;

/// When a subscription may be given more than it has: some time after it was last given more, and longer after more was
/// too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// When it last rose.
    rose_at: Option<Instant>,
    /// It does not rise before.
    rise_at: Option<Instant>,
    /// What was too much, and since when that is known.
    failed: Option<(LayerId, Instant)>,
    /// How long it waits after the next fall.
    backoff: Duration,
    /// It has lost everything since it last proved right.
    was_dark: bool,
    /// Since when it has its lowest layer although that does not fit.
    clings_since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rose_at: None,
            rise_at: None,
            failed: None,
            backoff: BACKOFF_MIN,
            was_dark: false,
            clings_since: None,
        }
    }
}

impl Pace {
    /// Whether it may be given more.
    #[must_use]
    pub fn may_rise(&self, now: Instant) -> bool {
        self.rise_at.is_none_or(|at| now >= at)
    }

    /// Whether it may be given more, where another one shows that there is room for it: others have caused the fall, and its pause
    /// would be their gain.
    #[must_use]
    pub fn may_follow(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let has_waited = self.failed.is_some_and(|(_, at)| since(at) >= FOLLOW_AFTER);
        has_waited && self.rose_at.is_none_or(|at| since(at) >= RISE_INTERVAL)
    }

    /// Below which layer it may be given more although it has to wait for that one: what a step too far has cost besides.
    #[must_use]
    pub fn rises_below(&self, now: Instant) -> Option<LayerId> {
        let (layer, at) = self.failed?;
        (now.saturating_duration_since(at) >= REGAIN_AFTER).then_some(layer)
    }

    /// Whether it may keep its lowest layer although that does not fit.
    #[must_use]
    pub fn may_cling(&self, now: Instant) -> bool {
        let since = self.clings_since;
        since.is_none_or(|since| now.saturating_duration_since(since) < CLING_FOR)
    }

    /// When it may be given more, if it has to wait for that.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let regains_at = self.failed.map(|(_, at)| at + REGAIN_AFTER);
        let times = [self.rise_at, regains_at].into_iter().flatten();
        times.filter(|at| *at > now).min()
    }

    /// It was given `share`, and had `before`.
    pub fn on_share(&mut self, now: Instant, before: Option<LayerId>, share: &Share) {
        match share.is_clinging {
            true => _ = self.clings_since.get_or_insert(now),
            // What was given up must not cling to the next beginning either, until it fits.
            false if share.layer.is_some() => self.clings_since = None,
            false => {}
        }
        if share.layer > before {
            self.rose_at = Some(now);
            let next = now + RISE_INTERVAL;
            self.rise_at = Some(self.rise_at.map_or(next, |at| at.max(next)));
            return;
        }
        let rose_at = self.rose_at;
        let has_proved = |at: Instant| now.saturating_duration_since(at) >= PROVED_AFTER;
        // What lasts below the layer that was too much says nothing of that one.
        let is_regained = self
            .failed
            .is_none_or(|(layer, _)| share.layer >= Some(layer));
        if rose_at.is_some_and(has_proved) && is_regained {
            (self.rose_at, self.backoff, self.was_dark) = (None, BACKOFF_MIN, false);
            self.failed = None;
        }
        if share.layer < before && share.reason == LayerReason::Bandwidth {
            // The lowest encoding is not given back sooner than its own pace says.
            let blamed = before.filter(|before| before.encoding.0 > 0);
            self.failed = blamed.map(|before| self.blame(now, before)).or(self.failed);
            if self.rose_at.take().is_some() {
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
            // Who gets nothing at all waits shorter, once: a black picture is worse than a step that is taken back.
            let goes_dark = share.layer.is_none();
            let is_first = goes_dark && !std::mem::replace(&mut self.was_dark, goes_dark);
            self.rise_at = Some(now + if is_first { RESUME_AFTER } else { self.backoff });
        }
    }

    /// The encoding that was too much; in falls that follow each other, the first.
    fn blame(&self, now: Instant, before: LayerId) -> (LayerId, Instant) {
        let layer = LayerId {
            spatial: 0,
            temporal: 0,
            ..before
        };
        match self.failed {
            Some((known, at)) if now.saturating_duration_since(at) < REGAIN_AFTER => {
                (known.max(layer), now)
            }
            _ => (layer, now),
        }
    }

    /// The client wants something else, or the source is another: what was learned is void.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Between two steps up: a keyframe, and time for the estimate to follow.
const RISE_INTERVAL: Duration = Duration::from_secs(1);
/// A step up that lasted so long was right.
const PROVED_AFTER: Duration = Duration::from_secs(8);
/// After a fall: the queue has drained and the estimate says something again.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// After everything had to be given up for the first time: a round trip or two.
const RESUME_AFTER: Duration = Duration::from_millis(400);
/// How long the lowest layer is kept although it does not fit: as long as an estimate that undershot takes to recover.
const CLING_FOR: Duration = Duration::from_secs(1);
/// What a step too far has cost besides itself is given back after so long: a second or two is what draining takes.
const REGAIN_AFTER: Duration = Duration::from_secs(2);
/// As soon as that: an estimate has recovered by then.
const FOLLOW_AFTER: Duration = Duration::from_secs(4);
/// However often a step up was too much, it is tried again after this long.
const BACKOFF_MAX: Duration = Duration::from_secs(16);
