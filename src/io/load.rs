//! How busy a shard's thread is: how long its turns take, and what share of the time they fill.
//!
//! Reads no clock: the thread does, once a turn.

use std::time::{Duration, Instant};

use crate::base::histogram::Histogram;

/// What one thread records of itself.
#[derive(Debug)]
pub struct Load {
    turns: Histogram,
    /// Copies as of the last two times that [`WINDOW`] was over, older first.
    marks: [Histogram; 2],
    next_mark: Instant,
    looked_at: Instant,
    busy_then: Duration,
}

/// A thread's load as others see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadSnapshot {
    /// How long turns took since the thread started. Their sum is the time the thread did not wait.
    pub turns: Histogram,
    /// What 99 of 100 turns of the last 10 to 20 s did not exceed.
    pub turn_p99: Duration,
    /// Which part of the time between the last two snapshots the thread was busy, in thousandths.
    pub busy_per_mille: u32,
}

impl Load {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            turns: Histogram::default(),
            marks: [Histogram::default(), Histogram::default()],
            next_mark: now + WINDOW,
            looked_at: now,
            busy_then: Duration::ZERO,
        }
    }

    /// A turn took so long, waiting apart.
    #[inline]
    pub fn on_turn(&mut self, took: Duration) {
        self.turns.record(took);
    }

    /// What to tell others now; to be called once in a while.
    pub fn snapshot(&mut self, now: Instant) -> LoadSnapshot {
        let passed = now.saturating_duration_since(self.looked_at);
        let busy = self.turns.sum().saturating_sub(self.busy_then);
        let per_mille = busy.as_micros() * 1000 / passed.as_micros().max(1);
        self.looked_at = now;
        self.busy_then = self.turns.sum();
        let snapshot = LoadSnapshot {
            turns: self.turns.clone(),
            turn_p99: self.turns.since(&self.marks[0]).quantile(990),
            busy_per_mille: per_mille.min(1000) as u32,
        };
        if now >= self.next_mark {
            self.next_mark = now + WINDOW;
            self.marks.swap(0, 1);
            self.marks[1] = self.turns.clone();
        }
        snapshot
    }
}

/// See [`LoadSnapshot::turn_p99`].
const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_a_share_of_the_time_between_snapshots() {
        let zero = Instant::now();
        let mut load = Load::new(zero);
        for _ in 0..100 {
            load.on_turn(Duration::from_millis(2));
        }
        let one = load.snapshot(zero + Duration::from_secs(1));
        assert_eq!((one.busy_per_mille, one.turns.count()), (200, 100));
        let two = load.snapshot(zero + Duration::from_secs(2));
        assert_eq!(two.busy_per_mille, 0);
        assert_eq!(
            load.snapshot(zero + Duration::from_secs(2)).busy_per_mille,
            0
        );
    }

    #[test]
    fn a_slow_turn_leaves_the_p99_after_two_windows() {
        let zero = Instant::now();
        let mut load = Load::new(zero);
        load.on_turn(Duration::from_millis(50));
        let p99: Vec<bool> = (1..=40)
            .map(|second| {
                load.on_turn(Duration::from_micros(10));
                let snapshot = load.snapshot(zero + Duration::from_secs(second));
                snapshot.turn_p99 >= Duration::from_millis(50)
            })
            .collect();
        assert!(p99[..10].iter().all(|slow| *slow));
        assert!(!p99[20..].iter().any(|slow| *slow));
    }
}
