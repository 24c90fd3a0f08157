//! How busy a shard's thread is: how long its turns take, and what share of the time they fill, for those
//! who place peers and for the metrics.
//!
//! Reads no clock: the thread does, once a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::base::histogram::Histogram;

/// What one thread records of itself.
#[derive(Debug)]
pub struct Load {
    turns: Histogram,
    /// Copies as of the last two times that [`TAIL_WINDOW`] was over, older first.
    marks: [Histogram; 2],
    next_mark: Instant,
    /// Which part of the last window was filled with turns, in percent.
    busy_percent: Arc<AtomicU8>,
    window_start: Instant,
    busy: Duration,
}

/// A thread's load as others see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadSnapshot {
    /// How long turns took since the thread started. Their sum is the time the thread did not wait.
    pub turns: Histogram,
    /// What 99 of 100 turns of the last 10 to 20 s did not exceed.
    pub turn_p99: Duration,
    /// Which part of the last half second or so the thread was busy, in percent.
    pub busy_percent: u8,
}

impl Load {
    /// Nothing recorded yet. What is measured from `now` on is published in `busy_percent`, window by
    /// window.
    #[must_use]
    pub fn new(now: Instant, busy_percent: Arc<AtomicU8>) -> Self {
        Self {
            turns: Histogram::default(),
            marks: [Histogram::default(), Histogram::default()],
            next_mark: now + TAIL_WINDOW,
            busy_percent,
            window_start: now,
            busy: Duration::ZERO,
        }
    }

    /// A turn ended at `now`, which took so long, waiting apart. The thread never waits for much longer than a
    /// window, so that the percentage stays true.
    #[inline]
    pub fn on_turn(&mut self, now: Instant, took: Duration) {
        self.turns.record(took);
        self.busy += took;
        let window = now.saturating_duration_since(self.window_start);
        if window >= BUSY_WINDOW {
            let percent = self.busy.as_nanos() * 100 / window.as_nanos();
            self.busy_percent
                .store(percent.min(100) as u8, Ordering::Relaxed);
            (self.window_start, self.busy) = (now, Duration::ZERO);
        }
    }

    /// What to tell others now; to be called once in a while.
    pub fn snapshot(&mut self, now: Instant) -> LoadSnapshot {
        let snapshot = LoadSnapshot {
            turns: self.turns.clone(),
            turn_p99: self.turns.since(&self.marks[0]).quantile(990),
            busy_percent: self.busy_percent.load(Ordering::Relaxed),
        };
        if now >= self.next_mark {
            self.next_mark = now + TAIL_WINDOW;
            self.marks.swap(0, 1);
            self.marks[1] = self.turns.clone();
        }
        snapshot
    }
}

/// Long enough to even out bursts of frames, short against the time people take to join.
const BUSY_WINDOW: Duration = Duration::from_millis(500);
/// See [`LoadSnapshot::turn_p99`].
const TAIL_WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_the_busy_part_of_each_window() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let percent = Arc::new(AtomicU8::new(0));
        let mut load = Load::new(t0, Arc::clone(&percent));
        let published = || percent.load(Ordering::Relaxed);
        for turn in 0..5 {
            load.on_turn(at(turn * 100 + 30), Duration::from_millis(30));
        }
        assert_eq!(published(), 0, "the window is not over");
        load.on_turn(at(500), Duration::ZERO);
        assert_eq!(published(), 30);
        load.on_turn(at(1500), Duration::from_secs(1));
        assert_eq!(published(), 100);
        load.on_turn(at(2500), Duration::ZERO);
        assert_eq!(published(), 0);
        assert_eq!(load.snapshot(at(2500)).turns.count(), 8);
    }

    #[test]
    fn a_slow_turn_leaves_the_p99_after_two_windows() {
        let zero = Instant::now();
        let mut load = Load::new(zero, Arc::default());
        load.on_turn(zero, Duration::from_millis(50));
        let p99: Vec<bool> = (1..=40)
            .map(|second| {
                let now = zero + Duration::from_secs(second);
                load.on_turn(now, Duration::from_micros(10));
                load.snapshot(now).turn_p99 >= Duration::from_millis(50)
            })
            .collect();
        assert!(p99[..10].iter().all(|slow| *slow));
        assert!(!p99[20..].iter().any(|slow| *slow));
    }
}
