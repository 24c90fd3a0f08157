//! Keyframe requests of one track: many subscribers ask, the publisher is asked once.

use std::time::{Duration, Instant};

/// Merges requests: at most one goes up in each [`KEYFRAME_INTERVAL`]; what is asked inside it
/// goes up once, at its end.
#[derive(Debug, Default)]
pub struct KeyframeRequests {
    last: Option<Instant>,
    is_waiting: bool,
}

impl KeyframeRequests {
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

    /// When a request that waits may go up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.window_end().filter(|_| self.is_waiting)
    }

    fn window_end(&self) -> Option<Instant> {
        self.last.map(|last| last + KEYFRAME_INTERVAL)
    }
}

/// A keyframe costs a publisher several times a usual frame, so one in half a second is the most
/// that helps.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_merged_and_spaced() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut requests = KeyframeRequests::default();
        assert_eq!(requests.poll_timeout(), None);
        assert!(requests.handle_request(at(0)));
        assert!(!requests.handle_timeout(at(10)), "nothing waits");
        assert!(!requests.handle_request(at(100)));
        assert!(!requests.handle_request(at(400)));
        assert_eq!(requests.poll_timeout(), Some(at(500)));
        assert!(!requests.handle_timeout(at(499)));
        assert!(requests.handle_timeout(at(500)));
        assert_eq!(requests.poll_timeout(), None);
        assert!(!requests.handle_timeout(at(2000)), "asked once");
        assert!(requests.handle_request(at(2000)));
    }
}
