//! How much may go out at once: a token bucket, and the queue of what has to wait for it.
//!
//! A packet goes straight through while there are tokens. Video waits else; sound never does, but what it
//! takes is missing for the rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A token bucket, in bytes.
#[derive(Debug, Default)]
pub struct Budget {
    tokens: f64,
    filled_at: Option<Instant>,
    /// Bytes a second and at most; `None`: nothing is paced.
    rate: Option<(f64, f64)>,
    /// How many times as fast what waits may go out, where there is much of it.
    haste: f64,
    /// Bytes that wait.
    backlog: f64,
    is_draining: bool,
}

impl Budget {
    /// Sets what may be sent, in bits per second; `None` paces nothing.
    pub fn set_rate(&mut self, estimate: Option<f64>, pace: Pace) {
        let (factor, depth, haste) = match pace {
            Pace::Loose => LOOSE,
            Pace::Tight => TIGHT,
            Pace::Shared => SHARED,
            Pace::Draining => DRAINING,
        };
        self.haste = haste;
        let is_draining = pace == Pace::Draining;
        if is_draining && !std::mem::replace(&mut self.is_draining, is_draining) {
            // What was saved up stands in the queue of the path: as much again would overflow it.
            self.tokens = self.tokens.min(0.0);
        }
        self.is_draining = is_draining;
        self.rate = estimate.map(|estimate| {
            let bytes = estimate * factor / 8.0;
            (bytes, (estimate * depth / 8.0).max(DEPTH_BYTES_MIN))
        });
    }

    /// As [`Budget::set_rate`], for what is sent again: a part of the estimate, and in bursts as losses come in bursts.
    pub fn set_repair_rate(&mut self, estimate: Option<f64>) {
        self.rate = estimate.map(|estimate| {
            let (factor, depth) = REPAIR;
            let depth = (estimate * depth / 8.0).max(REPAIR_BYTES_MIN);
            (estimate * factor / 8.0, depth)
        });
    }

    /// Whether nothing is paced.
    #[inline]
    pub fn is_unlimited(&self) -> bool {
        self.rate.is_none()
    }

    /// So many bytes wait. Where they would wait for long, they go out faster: who sends too much is not helped by
    /// late pictures, but by fewer, and that is decided elsewhere.
    pub fn set_backlog(&mut self, bytes: usize) {
        self.backlog = bytes as f64;
    }

    /// Brings the tokens up to date: before anything is asked or taken, once for each moment.
    #[inline]
    pub fn fill(&mut self, now: Instant) {
        if let Some((rate, depth)) = self.rate
            && self.filled_at != Some(now)
        {
            let since = self.filled_at.replace(now);
            let elapsed = since.map_or(FIRST, |at| now.saturating_duration_since(at));
            let rate = rate.max((self.backlog / BACKLOG_SECONDS).min(rate * self.haste));
            self.tokens = (self.tokens + rate * elapsed.as_secs_f64()).min(depth);
        }
    }

    /// Whether a packet that can wait has to.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.tokens <= 0.0 && self.rate.is_some()
    }

    /// Takes the tokens for a packet that goes out.
    #[inline]
    pub fn charge(&mut self, bytes: usize) {
        if let Some((_, depth)) = self.rate {
            self.tokens = (self.tokens - bytes as f64).max(-depth - DEBT_BYTES_MAX);
        }
    }

    /// How long until something may go out again.
    pub fn wait(&self) -> Duration {
        match self.rate {
            Some((rate, _)) if self.tokens <= 0.0 => {
                let rate = rate.max((self.backlog / BACKLOG_SECONDS).min(rate * self.haste));
                let seconds = (1.0 - self.tokens) / rate.max(1.0);
                Duration::from_secs_f64(seconds.min(1.0)).max(STEP)
            }
            _ => Duration::ZERO,
        }
    }
}

/// How the estimate is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Far less is sent than could be: a usual frame passes at once.
    Loose,
    /// About as much is sent as can be.
    Tight,
    /// The rate is a part of what several may send together.
    Shared,
    /// Less is to be sent than goes through, so that a queue drains.
    Draining,
}

/// Packets that wait, oldest first, bounded by time and bytes: what is too much is refused, and what waits for too long
/// is [overdue](PacingQueue::overdue). Whoever puts them in decides what else falls with them.
#[derive(Debug)]
pub struct PacingQueue<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    bytes: usize,
    packet: T,
}

impl<T> Default for PacingQueue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> PacingQueue<T> {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves a packet. False if there is no room for it.
    #[must_use]
    pub fn push(&mut self, now: Instant, bytes: usize, packet: T) -> bool {
        if self.bytes + bytes > QUEUE_BYTES_MAX || self.waiting.len() >= QUEUE_LEN_MAX {
            return false;
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            since: now,
            bytes,
            packet,
        });
        true
    }

    /// The oldest packet.
    pub fn front(&self) -> Option<&T> {
        self.waiting.front().map(|oldest| &oldest.packet)
    }

    /// The oldest packet, if it has waited for too long.
    pub fn overdue(&self, now: Instant) -> Option<&T> {
        let oldest = self.waiting.front()?;
        let waited = now.saturating_duration_since(oldest.since);
        (waited > QUEUE_TIME_MAX).then_some(&oldest.packet)
    }

    /// Takes the oldest packet out.
    pub fn pop(&mut self) -> Option<T> {
        let oldest = self.waiting.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest.packet)
    }

    /// Drops all packets but those that are to `stay`. Returns how many that were.
    pub fn retain(&mut self, mut stay: impl FnMut(&T) -> bool) -> usize {
        let (before, mut bytes) = (self.waiting.len(), 0);
        self.waiting.retain(|entry| {
            let stays = stay(&entry.packet);
            bytes += if stays { entry.bytes } else { 0 };
            stays
        });
        self.bytes = bytes;
        before - self.waiting.len()
    }
}

/// How often a queue is drained: a frame's burst becomes a handful of smaller ones.
pub const STEP: Duration = Duration::from_millis(5);
/// In so long what waits is to be gone: a keyframe of ten times a usual frame's size passes at the paced rate.
const BACKLOG_SECONDS: f64 = 0.25;
/// How long a packet waits at most, where nothing could be sent meanwhile: the receiver has asked again for it.
pub const QUEUE_TIME_MAX: Duration = Duration::from_secs(1);
/// How much waits at most for one subscriber, in bytes: that time at 4 Mbit/s.
pub const QUEUE_BYTES_MAX: usize = 512 * 1024;
const QUEUE_LEN_MAX: usize = 1024;
/// Factor of the estimate, depth in seconds of it, and how much faster a backlog may go out. libwebrtc paces with 2.5: then a
/// keyframe of a higher layer is a queue of 100 ms on the path, and the estimate falls that has just allowed that layer (lab,
/// 2026-11-22). With 1.1 it waits here instead, where what is out of date can still be dropped.
const TIGHT: (f64, f64, f64) = (1.1, 0.010, 1.3);
/// Deep enough for a usual frame, so that it goes out as one message (measured: with 15 ms an eighth of all packets went out
/// alone, at half as much CPU again for each).
const LOOSE: (f64, f64, f64) = (1.1, 0.040, 1.3);
/// Its user knows what several may send: there is no haste beyond that.
const SHARED: (f64, f64, f64) = (1.0, 0.010, 1.0);
const DRAINING: (f64, f64, f64) = (1.0, 0.005, 1.0);
const DEPTH_BYTES_MIN: f64 = 1_500.0;
/// The same for what is sent again. When a queue overflows, everything is asked for again that could not pass, and would
/// be more than what passes (seen in the lab, 2026-11-22: 5 Mbit/s of it at an estimate of 147 kbit/s).
const REPAIR: (f64, f64) = (0.5, 0.2);
const REPAIR_BYTES_MIN: f64 = 5_000.0;
/// How far sound can go into debt.
const DEBT_BYTES_MAX: f64 = 3_000.0;
const FIRST: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the tokens for a packet that can wait. False if it has to.
    fn take(budget: &mut Budget, bytes: usize) -> bool {
        if budget.is_spent() {
            return false;
        }
        budget.charge(bytes);
        true
    }

    #[test]
    fn bursts_are_spread_and_sound_goes_first() {
        let t0 = Instant::now();
        let mut budget = Budget::default();
        assert!(take(&mut budget, 1_000_000), "nothing is paced");
        budget.set_rate(Some(1e6), Pace::Tight);
        budget.fill(t0);
        let burst = (0..10).filter(|_| take(&mut budget, 1000)).count();
        assert_eq!(burst, 2, "1500 bytes");
        budget.charge(200);
        assert!(budget.is_spent());
        // 137.5 bytes a millisecond.
        assert!(budget.wait() >= STEP);
        budget.fill(t0 + budget.wait());
        assert!(take(&mut budget, 1000));
        let mut sent = 0;
        for ms in 5..1005 {
            budget.fill(t0 + Duration::from_millis(ms));
            while take(&mut budget, 1000) {
                sent += 1000;
            }
        }
        assert!((130_000..145_000).contains(&sent), "{sent}");
        // A keyframe: faster than the rate, but not at once.
        let mut queue = PacingQueue::default();
        for n in 0..100 {
            assert!(queue.push(t0, 1000, n));
        }
        let mut ms = 1005;
        while !queue.is_empty() {
            ms += 5;
            budget.set_backlog(queue.bytes());
            budget.fill(t0 + Duration::from_millis(ms));
            while !budget.is_spent() && queue.pop().is_some() {
                budget.charge(1000);
            }
        }
        assert!((1450..1700).contains(&ms), "{ms}");
        budget.set_backlog(0);
        budget.charge(1_000_000);
        assert!(
            budget.wait() < Duration::from_millis(100),
            "debts are bounded"
        );
    }

    #[test]
    fn what_was_saved_up_is_void_when_a_queue_stands() {
        let t0 = Instant::now();
        let mut budget = Budget::default();
        budget.set_rate(Some(4e6), Pace::Loose);
        budget.fill(t0);
        budget.set_rate(Some(2e5), Pace::Draining);
        assert!(budget.is_spent());
        budget.fill(t0 + Duration::from_millis(20));
        assert!(take(&mut budget, 1000));
        // Only when it begins.
        budget.fill(t0 + Duration::from_millis(200));
        budget.set_rate(Some(2e5), Pace::Draining);
        assert!(!budget.is_spent());
    }

    #[test]
    fn what_waits_is_bounded() {
        let t0 = Instant::now();
        let mut queue = PacingQueue::default();
        for n in 0..2000 {
            assert_eq!(queue.push(t0, 100, n), n < 1024);
        }
        assert_eq!(queue.retain(|n| *n >= 10), 10);
        assert_eq!((queue.front(), queue.bytes()), (Some(&10), 101_400));
        assert_eq!(queue.pop(), Some(10));
        assert_eq!(queue.retain(|_| false), 1013);
        assert!(queue.is_empty() && queue.bytes() == 0);
        assert!(queue.push(t0, QUEUE_BYTES_MAX, 1));
        assert!(!queue.push(t0, 1, 2), "full");
        assert_eq!(queue.overdue(t0 + QUEUE_TIME_MAX), None);
        assert_eq!(queue.overdue(t0 + QUEUE_TIME_MAX + STEP), Some(&1));
        assert_eq!((queue.pop(), queue.bytes()), (Some(1), 0));
    }
}
