//! The seeded network: what is lost, late, doubled or out of order, by the model that the load tester and the
//! lab use too. Clients share its two links: nothing here has a rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shardcast::network::{self, Jitter, Link};

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

impl Conditions {
    fn link(self, loss: f64) -> network::Conditions {
        network::Conditions {
            delay: self.delay,
            jitter: Jitter {
                up_to: self.jitter,
                keeps_order: false,
            },
            loss,
            duplication: self.duplication,
            ..network::Conditions::default()
        }
    }
}

/// Things under way: frames reliably, datagrams over one link each way, with the load tester's model.
pub struct Network<T> {
    frames: VecDeque<(Instant, T)>,
    up: Link<T>,
    down: Link<T>,
    delay: Duration,
    pub conditions: Conditions,
}

impl<T: Clone> Network<T> {
    pub fn new(now: Instant, seed: u64, conditions: Conditions) -> Self {
        let link =
            |loss, direction: u64| Link::new(now, conditions.link(loss), seed ^ (direction << 40));
        Self {
            frames: VecDeque::new(),
            up: link(conditions.loss_up, 1),
            down: link(conditions.loss_down, 2),
            delay: conditions.delay,
            conditions,
        }
    }

    /// Changes how bad the way is from now on.
    pub fn set_conditions(&mut self, now: Instant, conditions: Conditions) {
        let (up, down) = (
            conditions.link(conditions.loss_up),
            conditions.link(conditions.loss_down),
        );
        self.up.set_conditions(now, up);
        self.down.set_conditions(now, down);
        self.delay = conditions.delay;
        self.conditions = conditions;
    }

    /// Reliable and in order: what a WebSocket carries.
    pub fn send_frame(&mut self, now: Instant, what: T) {
        self.frames.push_back((now + self.delay, what));
    }

    /// As the conditions have it.
    pub fn send_datagram(&mut self, now: Instant, up: bool, what: T) {
        let link = if up { &mut self.up } else { &mut self.down };
        // Nothing here has a rate, so the length does not matter.
        link.push(now, 0, what);
    }

    pub fn next_at(&self) -> Option<Instant> {
        let frame = self.frames.front().map(|(at, _)| *at);
        [frame, self.up.poll_timeout(), self.down.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What arrives at `now`, one at a time.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.frames.front().is_some_and(|(at, _)| *at <= now) {
            return self.frames.pop_front().map(|(_, what)| what);
        }
        let arrival = self.up.pop(now).or_else(|| self.down.pop(now))?;
        Some(arrival.what)
    }
}
