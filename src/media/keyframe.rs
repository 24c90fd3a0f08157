//! Keyframe requests of one track: many subscribers ask, the publisher is asked once.

use std::time::{Duration, Instant};

/// Merges requests: at most one goes up in each interval; what is asked inside it goes up once, at
/// its end.
#[derive(Debug)]
pub struct KeyframeRequests {
    interval: Duration,
    last: Option<Instant>,
    is_waiting: bool,
}

impl KeyframeRequests {
    /// Nobody has asked yet. `interval` is [`KEYFRAME_INTERVAL`] or [`RELAY_INTERVAL`].
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            is_waiting: false,
        }
    }

    /// Somebody wants a keyframe. True: ask the publisher now.
    #[must_use]
    pub fn handle_request(&mut self, now: Instant) -> bool {
        self.is_waiting = true;
        self.handle_timeout(now)
    }

    /// True: ask the publisher now.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if !self.is_waiting || self.window_end().is_some_and(|end| now < end) {
            return false;
        }
        self.is_waiting = false;
        self.last = Some(now);
        true
    }

    /// Whether the publisher was asked so lately that its answer may be under way.
    #[must_use]
    pub fn is_under_way(&self, now: Instant) -> bool {
        self.window_end().is_some_and(|end| now < end)
    }

    /// When a request that waits may go up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.window_end().filter(|_| self.is_waiting)
    }

    fn window_end(&self) -> Option<Instant> {
        self.last.map(|last| last + self.interval)
    }
}

/// A keyframe costs a publisher several times a usual frame, so one in half a second is the most
/// that helps.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);
/// How often one shard asks another for a keyframe of one track. Short, because the publisher's shard merges
/// what all of them ask: two intervals one after the other would make a subscriber wait for a second.
pub const RELAY_INTERVAL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_merged_and_spaced() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut requests = KeyframeRequests::new(KEYFRAME_INTERVAL);
        assert_eq!(requests.poll_timeout(), None);
        assert!(requests.handle_request(at(0)));
        assert!(!requests.handle_timeout(at(10)), "nothing waits");
        assert!(!requests.handle_request(at(100)));
        assert!(!requests.handle_request(at(400)));
        assert_eq!(requests.poll_timeout(), Some(at(500)));
        assert!(!requests.handle_timeout(at(499)));
        assert!(requests.handle_timeout(at(500)));
        assert_eq!(requests.poll_timeout(), None);
        assert!(requests.is_under_way(at(999)) && !requests.is_under_way(at(1000)));
        assert!(!requests.handle_timeout(at(2000)), "asked once");
        assert!(requests.handle_request(at(2000)));
    }
}
