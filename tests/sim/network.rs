//! The seeded network: what is lost, late, doubled or out of order, by one generator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How bad the way is. Probabilities are per datagram.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub delay: Duration,
    /// Added at random, evenly between nothing and this: more than the packet spacing reorders.
    pub jitter: Duration,
    pub loss_up: f64,
    pub loss_down: f64,
    pub duplication: f64,
}

impl Conditions {
    pub const PERFECT: Self = Self {
        delay: Duration::from_millis(15),
        jitter: Duration::ZERO,
        loss_up: 0.0,
        loss_down: 0.0,
        duplication: 0.0,
    };

    /// Nothing lost, much out of order, some of it twice.
    pub const REORDERING: Self = Self {
        jitter: Duration::from_millis(40),
        duplication: 0.02,
        ..Self::PERFECT
    };

    pub const LOSSY: Self = Self {
        jitter: Duration::from_millis(20),
        loss_up: 0.05,
        loss_down: 0.05,
        duplication: 0.01,
        ..Self::PERFECT
    };
}

/// Things under way, handed over in the order of their times, ties in the order of sending.
pub struct Network<T> {
    under_way: BinaryHeap<Reverse<Parcel<T>>>,
    sent: u64,
    rng: StdRng,
    pub conditions: Conditions,
    pub lost: u64,
}

struct Parcel<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl<T> PartialEq for Parcel<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Parcel<T> {}

impl<T> PartialOrd for Parcel<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Parcel<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T: Clone> Network<T> {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            under_way: BinaryHeap::new(),
            sent: 0,
            rng: StdRng::seed_from_u64(seed),
            conditions,
            lost: 0,
        }
    }

    /// Reliable and in order: what a WebSocket carries.
    pub fn send_frame(&mut self, now: Instant, what: T) {
        self.push(now + self.conditions.delay, what);
    }

    /// As the conditions have it.
    pub fn send_datagram(&mut self, now: Instant, up: bool, what: T) {
        let loss = if up {
            self.conditions.loss_up
        } else {
            self.conditions.loss_down
        };
        let copies = 1 + u32::from(self.chance(self.conditions.duplication));
        for _ in 0..copies {
            if self.chance(loss) {
                self.lost += 1;
                continue;
            }
            let jitter_us = self.conditions.jitter.as_micros() as u64;
            let late = self.rng.random_range(0..=jitter_us);
            let at = now + self.conditions.delay + Duration::from_micros(late);
            self.push(at, what.clone());
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }

    fn push(&mut self, at: Instant, what: T) {
        self.sent += 1;
        let number = self.sent;
        self.under_way.push(Reverse(Parcel { at, number, what }));
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(parcel)| parcel.at)
    }

    /// What arrives at `now`, one at a time.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        self.under_way.pop().map(|Reverse(parcel)| parcel.what)
    }
}
