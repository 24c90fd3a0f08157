//! Which encodings of a track anybody wants, as its publisher is told: less only after a while, more at once.

use std::time::{Duration, Instant};

use crate::base::ids::{ENCODINGS_MAX, EncodingSet};

/// Which encodings of a local track its publisher thinks are wanted.
#[derive(Debug)]
pub struct Wanted {
    /// What its publisher was told last; at first it sends whatever it likes.
    pub told: EncodingSet,
    /// What is wanted.
    wanted: EncodingSet,
    /// Since when less is wanted than was told.
    less_since: Option<Instant>,
}

impl Default for Wanted {
    fn default() -> Self {
        let all = EncodingSet::lowest(ENCODINGS_MAX);
        Self {
            told: all,
            wanted: all,
            less_since: None,
        }
    }
}

impl Wanted {
    /// What is wanted now. True if the publisher is to be told.
    pub fn update(&mut self, now: Instant, wanted: EncodingSet) -> bool {
        self.wanted = wanted;
        let is_more = wanted.union(self.told) != self.told;
        if is_more || wanted == self.told {
            self.less_since = None;
            // What is not wanted any more waits, whatever else is wanted: it may be wanted again.
            self.told = self.told.union(wanted);
            if self.told != wanted {
                self.less_since = Some(now);
            }
            return is_more;
        }
        let since = *self.less_since.get_or_insert(now);
        let is_due = now.saturating_duration_since(since) >= UNWANTED_AFTER;
        if is_due {
            (self.told, self.less_since) = (wanted, None);
        }
        is_due
    }

    /// When the publisher is to be told, if nothing changes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.less_since.map(|since| since + UNWANTED_AFTER)
    }
}

/// How long an encoding is not wanted until its publisher hears of it: stopping and starting one costs a keyframe, and
/// what is looked away from is often looked at again.
const UNWANTED_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::EncodingIndex;

    #[test]
    fn less_is_told_after_a_while_and_more_at_once() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let set = EncodingSet::lowest;
        let mut wanted = Wanted::default();
        assert!(!wanted.update(at(0), set(4)));
        assert!(!wanted.update(at(0), set(1)));
        assert_eq!(wanted.poll_timeout(), Some(at(5_000)));
        assert!(!wanted.update(at(4_000), set(2)), "less than told, still");
        assert!(wanted.update(at(5_000), set(2)));
        assert_eq!((wanted.told, wanted.poll_timeout()), (set(2), None));
        assert!(wanted.update(at(5_001), set(3)));
        assert!(!wanted.update(at(6_000), set(0)));
        assert!(!wanted.update(at(7_000), set(3)), "wanted again in time");
        assert_eq!(wanted.poll_timeout(), None);
        // One more is wanted, another is not any more.
        assert!(!wanted.update(at(8_000), set(0)));
        assert!(wanted.update(at(13_000), set(0)));
        assert!(wanted.update(at(13_001), EncodingSet::only(EncodingIndex(2))));
        assert!(wanted.update(at(13_002), set(1)));
        assert_eq!(
            wanted.told,
            set(1).union(EncodingSet::only(EncodingIndex(2)))
        );
        assert_eq!(wanted.poll_timeout(), Some(at(18_002)));
        assert!(wanted.update(at(18_002), set(1)));
        assert_eq!(wanted.told, set(1));
    }
}
