//! How much of its time a thread is at work, for those who place peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Measures the thread that owns it, window by window.
#[derive(Debug)]
pub(in crate::io) struct BusyMeter {
    percent: Arc<AtomicU8>,
    window_start: Instant,
    woken: Instant,
    busy: Duration,
}

impl BusyMeter {
    /// Publishes into `percent` what it measures from `now` on.
    pub fn new(now: Instant, percent: Arc<AtomicU8>) -> Self {
        Self {
            percent,
            window_start: now,
            woken: now,
            busy: Duration::ZERO,
        }
    }

    /// The thread has something to do.
    pub fn on_wake(&mut self, now: Instant) {
        self.woken = now;
    }

    /// The thread has done it. It never sleeps for longer than a window, so that the percentage stays true.
    pub fn on_sleep(&mut self, now: Instant) {
        self.busy += now.saturating_duration_since(self.woken);
        // What lies between this and the next wake-up is sleep.
        self.woken = now;
        let window = now.saturating_duration_since(self.window_start);
        if window < WINDOW {
            return;
        }
        let percent = self.busy.as_nanos() * 100 / window.as_nanos().max(1);
        self.percent
            .store(percent.min(100) as u8, Ordering::Relaxed);
        (self.window_start, self.busy) = (now, Duration::ZERO);
    }
}

/// Long enough to even out bursts of frames, short against the time people take to join.
const WINDOW: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_the_busy_part_of_each_window() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let percent = Arc::new(AtomicU8::new(0));
        let mut meter = BusyMeter::new(t0, Arc::clone(&percent));
        for turn in 0..5 {
            meter.on_wake(at(turn * 100));
            meter.on_sleep(at(turn * 100 + 30));
        }
        assert_eq!(percent.load(Ordering::Relaxed), 0, "not before its end");
        meter.on_wake(at(500));
        meter.on_sleep(at(600));
        assert_eq!(percent.load(Ordering::Relaxed), 41, "250 of 600 ms");
        meter.on_wake(at(600));
        meter.on_sleep(at(2000));
        assert_eq!(percent.load(Ordering::Relaxed), 100);
        meter.on_wake(at(3000));
        meter.on_sleep(at(3000));
        assert_eq!(percent.load(Ordering::Relaxed), 0);
    }
}
