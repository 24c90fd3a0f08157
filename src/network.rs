//! The model of a bad network, one direction of one link: a line of some rate behind a drop-tail queue, then a way
//! that takes time, loses, doubles and reorders. Conditions may change while things are under way.
//!
//! The load tester, `shardcast impair` and the tests share it. Time is an argument and chance is seeded, so a
//! run can be repeated; knows no socket, and not what it carries. Two receivers behind one bottleneck are one link
//! whose parcels say for whom they are.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How bad one direction is. Probabilities are per datagram, 0–1. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Conditions {
    /// How long each datagram is on its way, behind the line.
    pub delay: Duration,
    /// What is added at random.
    pub jitter: Jitter,
    /// The share that is lost, whatever happens to its neighbours.
    pub loss: f64,
    /// Losses that come together.
    pub bursts: Option<Bursts>,
    /// Single datagrams that others overtake.
    pub reordering: Option<Reordering>,
    /// The share that arrives twice.
    pub duplication: f64,
    /// The line, with IP and UDP headers, in bits a second; `None` for no limit (and no queue).
    pub rate_bps: Option<u64>,
    /// How much waits for the line.
    pub queue: QueueLimit,
}

/// A random addition to the delay, even between nothing and `up_to`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Jitter {
    /// The most that is added.
    pub up_to: Duration,
    /// Whether what was sent first still arrives first, as it does on most links. Otherwise, more jitter than
    /// there is between two datagrams reorders them.
    pub keeps_order: bool,
}

/// Loss after Gilbert and Elliott: a good state, in which [`Conditions::loss`] holds, and a bad one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// From good to bad.
    pub enter: f64,
    /// From bad to good: bursts are `1 / leave` datagrams long on average.
    pub leave: f64,
    /// The share that is lost in the bad state.
    pub loss: f64,
}

/// Datagrams that are held up on their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reordering {
    /// How many are.
    pub chance: f64,
    /// By how much.
    pub held: Duration,
}

/// How much waits for the line before what comes is dropped, besides the one that is on the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QueueLimit {
    /// Bytes, with IP and UDP headers.
    Bytes(u64),
    /// Time of the line.
    Time(Duration),
}

impl Default for QueueLimit {
    /// As much as a home router's buffer commonly holds.
    fn default() -> Self {
        Self::Time(Duration::from_millis(300))
    }
}

impl Conditions {
    /// Whether they change anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        let without_queue = Self {
            queue: QueueLimit::default(),
            ..*self
        };
        without_queue == Self::default()
    }
}

/// What a link has done so far, in datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Put onto it.
    pub pushed: u64,
    /// Arrived at the other end, copies counted.
    pub arrived: u64,
    /// Bytes of these, without headers.
    pub arrived_bytes: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Made twice.
    pub doubled: u64,
}

/// Something that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<T> {
    /// What was pushed.
    pub what: T,
    /// When it was pushed.
    pub pushed_at: Instant,
    /// How long it waited for the line.
    pub queued: Duration,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link<T> {
    conditions: Conditions,
    /// What will hold later, in order.
    schedule: VecDeque<(Instant, Conditions)>,
    rng: StdRng,
    is_bad: bool,
    /// How many are to be lost next, whatever the conditions say.
    drop_next: u32,
    /// Behind the one that is on the line.
    queue: VecDeque<Waiting<T>>,
    queue_bytes: u64,
    line: Option<(Instant, Waiting<T>)>,
    /// When the line is free for the next.
    free_at: Instant,
    under_way: BinaryHeap<Reverse<Parcel<T>>>,
    /// The latest arrival that a datagram in order must not overtake.
    last_arrival: Option<Instant>,
    next_number: u64,
    stats: LinkStats,
    dropped_taken: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    what: T,
    len: u64,
    pushed_at: Instant,
    queued: Duration,
}

#[derive(Debug)]
struct Parcel<T> {
    at: Instant,
    number: u64,
    len: u64,
    arrival: Arrival<T>,
}

impl<T> PartialEq for Parcel<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Parcel<T> {}

impl<T> PartialOrd for Parcel<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Parcel<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T: Clone> Link<T> {
    /// An idle link. The same seed does the same to the same datagrams.
    #[must_use]
    pub fn new(now: Instant, conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            schedule: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
            is_bad: false,
            drop_next: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            line: None,
            free_at: now,
            under_way: BinaryHeap::new(),
            last_arrival: None,
            next_number: 0,
            stats: LinkStats::default(),
            dropped_taken: 0,
        }
    }

    /// The conditions that hold now.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Changes the conditions: of what waits and what comes, not of what has left the line.
    pub fn set_conditions(&mut self, now: Instant, conditions: Conditions) {
        self.advance(now);
        self.change(conditions);
    }

    /// Lets the conditions change by themselves at `at`.
    pub fn schedule(&mut self, at: Instant, conditions: Conditions) {
        let index = self.schedule.partition_point(|(other, _)| *other <= at);
        self.schedule.insert(index, (at, conditions));
    }

    /// Loses the next `count` that leave the line.
    pub fn drop_next(&mut self, now: Instant, count: u32) {
        self.advance(now);
        self.drop_next = count;
    }

    /// Puts something of `len` bytes onto the link. It is dropped where the queue is full, or
    /// [`UNDER_WAY_MAX`] are under way.
    pub fn push(&mut self, now: Instant, len: usize, what: T) {
        self.advance(now);
        self.stats.pushed += 1;
        let len = len as u64;
        let on_line = len + HEADERS_LEN;
        if !self.has_room(now, on_line) {
            self.stats.overflowed += 1;
            return;
        }
        self.queue_bytes += on_line;
        self.queue.push_back(Waiting {
            what,
            len,
            pushed_at: now,
            queued: Duration::ZERO,
        });
        self.advance(now);
    }

    fn has_room(&self, now: Instant, len: u64) -> bool {
        if self.queue.len() + self.under_way.len() >= UNDER_WAY_MAX {
            return false;
        }
        match (self.conditions.rate_bps, self.conditions.queue) {
            (None, _) => true,
            (Some(_), QueueLimit::Time(most)) => self.queue_delay(now) <= most,
            // An idle line takes anything.
            (Some(_), QueueLimit::Bytes(most)) => {
                self.line.is_none() || self.queue_bytes + len <= most
            }
        }
    }

    /// How long something that came now would wait for the line.
    #[must_use]
    pub fn queue_delay(&self, now: Instant) -> Duration {
        let on_line = self.line.as_ref().map_or(Duration::ZERO, |(until, _)| {
            until.saturating_duration_since(now)
        });
        on_line + line_time(self.queue_bytes, self.conditions.rate_bps)
    }

    /// Lets happen what happens up to `now`, in the order of its time.
    fn advance(&mut self, now: Instant) {
        loop {
            self.load_line();
            let changes_at = self.schedule.front().map(|(at, _)| *at);
            let leaves_at = self.line.as_ref().map(|(at, _)| *at);
            let next = changes_at.into_iter().chain(leaves_at).min();
            if next.is_none_or(|at| at > now) {
                return;
            }
            if changes_at == next {
                let (_, conditions) = self.schedule.pop_front().expect("there is a change");
                self.change(conditions);
            } else {
                let (at, parcel) = self.line.take().expect("something leaves the line");
                self.send_off(at, parcel);
            }
        }
    }

    fn change(&mut self, conditions: Conditions) {
        self.conditions = conditions;
        // A new path owes the old one no order.
        self.last_arrival = None;
        if conditions.bursts.is_none() {
            self.is_bad = false;
        }
    }

    /// The head of the queue goes onto the line when that is free.
    fn load_line(&mut self) {
        if self.line.is_some() {
            return;
        }
        let Some(mut head) = self.queue.pop_front() else {
            return;
        };
        let len = head.len + HEADERS_LEN;
        self.queue_bytes -= len;
        let starts_at = self.free_at.max(head.pushed_at);
        head.queued = starts_at.saturating_duration_since(head.pushed_at);
        self.free_at = starts_at + line_time(len, self.conditions.rate_bps);
        self.line = Some((self.free_at, head));
    }

    /// What has left the line goes on its way, or not.
    fn send_off(&mut self, at: Instant, parcel: Waiting<T>) {
        if self.is_lost() {
            self.stats.lost += 1;
            return;
        }
        if self.chance(self.conditions.duplication) {
            self.stats.doubled += 1;
            let copy = Waiting {
                what: parcel.what.clone(),
                ..parcel
            };
            self.travel(at, copy);
        }
        self.travel(at, parcel);
    }

    fn is_lost(&mut self) -> bool {
        if self.drop_next > 0 {
            self.drop_next -= 1;
            return true;
        }
        let Some(bursts) = self.conditions.bursts else {
            return self.chance(self.conditions.loss);
        };
        let turn = if self.is_bad {
            bursts.leave
        } else {
            bursts.enter
        };
        if self.chance(turn) {
            self.is_bad = !self.is_bad;
        }
        self.chance(if self.is_bad {
            bursts.loss
        } else {
            self.conditions.loss
        })
    }

    fn travel(&mut self, left_at: Instant, parcel: Waiting<T>) {
        let jitter = self.conditions.jitter;
        let mut at = left_at + self.conditions.delay;
        if !jitter.up_to.is_zero() {
            let most_us = u64::try_from(jitter.up_to.as_micros()).unwrap_or(u64::MAX);
            at += Duration::from_micros(self.rng.random_range(0..=most_us));
        }
        if jitter.keeps_order {
            at = self.last_arrival.map_or(at, |last| last.max(at));
            self.last_arrival = Some(at);
        }
        if let Some(reordering) = self.conditions.reordering
            && self.chance(reordering.chance)
        {
            at += reordering.held;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.under_way.push(Reverse(Parcel {
            at,
            number,
            len: parcel.len,
            arrival: Arrival {
                what: parcel.what,
                pushed_at: parcel.pushed_at,
                queued: parcel.queued,
            },
        }));
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability.min(1.0))
    }

    /// The next that has arrived by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Arrival<T>> {
        self.advance(now);
        if self.under_way.peek()?.0.at > now {
            return None;
        }
        let Reverse(parcel) = self.under_way.pop()?;
        self.stats.arrived += 1;
        self.stats.arrived_bytes += parcel.len;
        Some(parcel.arrival)
    }

    /// When to ask [`Link::pop`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let arrives_at = self.under_way.peek().map(|Reverse(parcel)| parcel.at);
        let leaves_at = self.line.as_ref().map(|(at, _)| *at);
        arrives_at.into_iter().chain(leaves_at).min()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// How many were lost or dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        let dropped = self.stats.lost + self.stats.overflowed;
        dropped - std::mem::replace(&mut self.dropped_taken, dropped)
    }
}

fn line_time(bytes: u64, rate_bps: Option<u64>) -> Duration {
    rate_bps.map_or(Duration::ZERO, |rate| {
        let bits = u128::from(bytes) * 8;
        let nanos = bits * 1_000_000_000 / u128::from(rate.max(1));
        // A century, where the rate is next to nothing.
        Duration::from_nanos(
            u64::try_from(nanos)
                .unwrap_or(u64::MAX)
                .min(LINE_TIME_MAX_NS),
        )
    })
}

/// The most that wait or are on their way, whatever the conditions; further ones are dropped.
pub const UNDER_WAY_MAX: usize = 8192;
/// IPv4 and UDP headers, which take line time too.
pub const HEADERS_LEN: u64 = 28;
const LINE_TIME_MAX_NS: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// With headers 1250 bytes: 10 ms at 1 Mbit/s.
    const LEN: usize = 1250 - HEADERS_LEN as usize;

    fn slow() -> Conditions {
        Conditions {
            rate_bps: Some(1_000_000),
            ..Conditions::default()
        }
    }

    /// What arrives, and when.
    fn drain(link: &mut Link<u32>, t0: Instant, until: Instant) -> Vec<(u32, u64)> {
        let mut arrivals = Vec::new();
        while let Some(at) = link.poll_timeout().filter(|at| *at <= until) {
            while let Some(arrival) = link.pop(at) {
                arrivals.push((arrival.what, (at - t0).as_millis() as u64));
            }
        }
        arrivals
    }

    /// Which of `count` datagrams, one a millisecond, arrive, in their order.
    fn passed(conditions: Conditions, seed: u64, count: u32) -> Vec<u32> {
        let t0 = Instant::now();
        let mut link = Link::new(t0, conditions, seed);
        let mut arrivals = Vec::new();
        for n in 0..count {
            link.push(t0 + n * MS, 100, n);
            arrivals.extend(drain(&mut link, t0, t0 + n * MS));
        }
        arrivals.extend(drain(&mut link, t0, t0 + Duration::from_secs(10_000)));
        let stats = *link.stats();
        assert_eq!(
            stats.arrived,
            stats.pushed - stats.lost - stats.overflowed + stats.doubled
        );
        arrivals.into_iter().map(|(n, _)| n).collect()
    }

    fn is_sorted(numbers: &[u32]) -> bool {
        numbers.is_sorted()
    }

    #[test]
    fn nothing_is_changed_by_default() {
        let all: Vec<u32> = (0..1000).collect();
        assert_eq!(passed(Conditions::default(), 1, 1000), all);
        assert!(Conditions::default().is_none() && !slow().is_none());
    }

    #[test]
    fn loss_is_by_chance_and_the_same_for_the_same_seed() {
        let conditions = Conditions {
            loss: 0.1,
            ..Conditions::default()
        };
        let runs = [1, 1, 2].map(|seed| passed(conditions, seed, 10_000));
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        assert!((8_800..9_200).contains(&runs[0].len()), "{}", runs[0].len());
    }

    #[test]
    fn bursts_lose_neighbours() {
        let conditions = Conditions {
            bursts: Some(Bursts {
                enter: 0.005,
                leave: 0.05,
                loss: 1.0,
            }),
            ..Conditions::default()
        };
        let passed = passed(conditions, 3, 40_000);
        let lost = 40_000 - passed.len();
        let gaps = passed.windows(2).filter(|w| w[1] != w[0] + 1).count();
        // A tenth of the time it is bad, in bursts of twenty.
        assert!((2_500..4_800).contains(&lost), "{lost}");
        let mean = lost as f64 / gaps as f64;
        assert!((14.0..27.0).contains(&mean), "{mean}");
    }

    #[test]
    fn the_next_can_be_lost() {
        let t0 = Instant::now();
        let mut link = Link::new(t0, slow(), 0);
        for n in 0..10 {
            link.push(t0, LEN, n);
        }
        // Three have left the line.
        link.drop_next(t0 + 30 * MS, 4);
        let numbers: Vec<u32> = drain(&mut link, t0, t0 + 500 * MS)
            .iter()
            .map(|a| a.0)
            .collect();
        assert_eq!(numbers, [0, 1, 2, 7, 8, 9]);
        assert_eq!(link.take_dropped(), 4);
        assert_eq!(link.take_dropped(), 0);
    }

    #[test]
    fn delay_keeps_the_order() {
        let t0 = Instant::now();
        let conditions = Conditions {
            delay: 50 * MS,
            ..Conditions::default()
        };
        let mut link = Link::new(t0, conditions, 0);
        link.push(t0, 1, 1);
        link.push(t0 + 10 * MS, 1, 2);
        assert!(link.pop(t0 + 49 * MS).is_none());
        assert_eq!(drain(&mut link, t0, t0 + 100 * MS), [(1, 50), (2, 60)]);
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn jitter_reorders_or_does_not() {
        let jittery = |keeps_order| Conditions {
            delay: 20 * MS,
            jitter: Jitter {
                up_to: 30 * MS,
                keeps_order,
            },
            ..Conditions::default()
        };
        let kept = passed(jittery(true), 4, 1000);
        let mixed = passed(jittery(false), 4, 1000);
        assert!(is_sorted(&kept) && !is_sorted(&mixed));
        assert_eq!((kept.len(), mixed.len()), (1000, 1000));
    }

    #[test]
    fn single_datagrams_are_overtaken_or_doubled() {
        let conditions = Conditions {
            reordering: Some(Reordering {
                chance: 0.01,
                held: 5 * MS,
            }),
            duplication: 0.02,
            ..Conditions::default()
        };
        let passed = passed(conditions, 5, 10_000);
        assert!((10_130..10_280).contains(&passed.len()), "{}", passed.len());
        let overtaken = passed.windows(2).filter(|w| w[1] < w[0]).count();
        assert!((70..140).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn the_rate_spreads_a_burst_and_a_full_queue_drops() {
        let limits = [
            (QueueLimit::Time(300 * MS), 31),
            // One on the line, and eight behind it.
            (QueueLimit::Bytes(10_000), 9),
        ];
        for (queue, kept) in limits {
            let t0 = Instant::now();
            let conditions = Conditions { queue, ..slow() };
            let mut link = Link::new(t0, conditions, 0);
            for n in 0..100 {
                link.push(t0, LEN, n);
            }
            let expected: Vec<(u32, u64)> =
                (0..kept).map(|n| (n, (u64::from(n) + 1) * 10)).collect();
            assert_eq!(link.queue_delay(t0), kept * 10 * MS);
            assert_eq!(drain(&mut link, t0, t0 + 900 * MS), expected);
            assert_eq!(link.take_dropped(), u64::from(100 - kept));
            // An idle line saves nothing up.
            link.push(t0 + 1000 * MS, LEN, 7);
            assert_eq!(drain(&mut link, t0, t0 + 2000 * MS), [(7, 1010)]);
        }
    }

    #[test]
    fn it_is_told_how_long_each_waited() {
        let t0 = Instant::now();
        let mut link = Link::new(t0, slow(), 0);
        for n in 0..3 {
            link.push(t0 + n * 4 * MS, LEN, n);
        }
        let waited: Vec<u128> = std::iter::from_fn(|| link.pop(t0 + 500 * MS))
            .map(|arrival| arrival.queued.as_millis())
            .collect();
        assert_eq!(waited, [0, 6, 12]);
    }

    #[test]
    fn the_path_changes_on_time_however_seldom_it_is_asked() {
        let run = |step_ms: u32| {
            let t0 = Instant::now();
            let mut link = Link::new(t0, slow(), 0);
            let faster = Conditions {
                rate_bps: Some(10_000_000),
                delay: 7 * MS,
                ..Conditions::default()
            };
            link.schedule(t0 + 35 * MS, faster);
            link.schedule(t0 + 43 * MS, slow());
            for n in 0..8 {
                link.push(t0, LEN, n);
            }
            let mut order = Vec::new();
            for at in (0..200).step_by(step_ms as usize) {
                while let Some(arrival) = link.pop(t0 + at * MS) {
                    order.push((arrival.what, arrival.queued.as_millis()));
                }
            }
            order
        };
        let expected = [0, 10, 20, 30, 40, 41, 42, 43];
        for step_ms in [1, 5, 50, 199] {
            let mut order = run(step_ms);
            order.sort_unstable();
            assert_eq!(
                order.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(),
                expected
            );
        }
    }

    #[test]
    fn the_number_under_way_is_bounded() {
        let t0 = Instant::now();
        let conditions = Conditions {
            delay: Duration::from_secs(60),
            ..Conditions::default()
        };
        let mut link = Link::new(t0, conditions, 0);
        for n in 0..UNDER_WAY_MAX as u32 + 5 {
            link.push(t0, 1, n);
        }
        assert_eq!(link.take_dropped(), 5);
    }
}
