//! A bad access link between a client and the server, one direction: it loses, delays, and takes
//! only so many bits a second. Seeded, so that a run can be repeated; knows no socket.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How bad a link is, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impairment {
    /// The share of datagrams that is lost, 0–1.
    pub loss: f64,
    /// How long each is on its way.
    pub delay: Duration,
    /// Bits a second; `None` for no limit.
    pub rate: Option<u64>,
}

impl Impairment {
    /// Whether it changes anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One direction of one client's link.
#[derive(Debug)]
pub struct Link {
    impairment: Impairment,
    rng: StdRng,
    /// When the line is free for the next datagram.
    free_at: Instant,
    /// In order of their times, as the delay is the same for all.
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    dropped: u64,
}

impl Link {
    /// An idle link. The same seed loses the same datagrams.
    #[must_use]
    pub fn new(now: Instant, impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            rng: StdRng::seed_from_u64(seed),
            free_at: now,
            on_the_way: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Puts a datagram onto the link. It is dropped by chance, or where more than [`QUEUE_TIME_MAX`]
    /// of the line's time or [`QUEUE_LEN_MAX`] datagrams wait before it.
    pub fn push(&mut self, now: Instant, datagram: &[u8]) {
        let is_lost = self.impairment.loss > 0.0 && self.rng.random_bool(self.impairment.loss);
        let starts_at = self.free_at.max(now);
        let waits = starts_at.saturating_duration_since(now);
        if is_lost || waits > QUEUE_TIME_MAX || self.on_the_way.len() >= QUEUE_LEN_MAX {
            self.dropped += 1;
            return;
        }
        if let Some(rate) = self.impairment.rate {
            let bits = (datagram.len() + HEADERS_LEN) as u64 * 8;
            let time = Duration::from_nanos(bits * 1_000_000_000 / rate.max(1));
            self.free_at = starts_at + time;
        } else {
            self.free_at = starts_at;
        }
        let arrives_at = self.free_at + self.impairment.delay;
        self.on_the_way.push_back((arrives_at, datagram.to_vec()));
    }

    /// The next datagram that has arrived by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (at, _) = self.on_the_way.front()?;
        if *at > now {
            return None;
        }
        self.on_the_way.pop_front().map(|(_, datagram)| datagram)
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.on_the_way.front().map(|(at, _)| *at)
    }

    /// How many datagrams were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// As much as a home router's buffer commonly holds; what comes behind it is dropped.
pub const QUEUE_TIME_MAX: Duration = Duration::from_millis(300);
/// The most datagrams on the way, whatever the delay; further ones are dropped.
pub const QUEUE_LEN_MAX: usize = 8192;
/// IPv4 and UDP headers, which take line time too.
const HEADERS_LEN: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(link: &mut Link, until: Instant) -> Vec<u8> {
        std::iter::from_fn(|| link.pop(until))
            .map(|datagram| datagram[0])
            .collect()
    }

    #[test]
    fn loss_is_by_chance_and_the_same_for_the_same_seed() {
        let t0 = Instant::now();
        let run = |seed| {
            let impairment = Impairment {
                loss: 0.1,
                ..Impairment::default()
            };
            let mut link = Link::new(t0, impairment, seed);
            let mut passed = Vec::new();
            for n in 0..10_000u32 {
                link.push(t0, &n.to_be_bytes());
                passed.extend(link.pop(t0));
            }
            assert_eq!(link.take_dropped() as usize + passed.len(), 10_000);
            assert_eq!(link.take_dropped(), 0);
            passed
        };
        let (one, same, other) = (run(1), run(1), run(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert!((8_800..9_200).contains(&one.len()), "{}", one.len());
    }

    #[test]
    fn delay_keeps_the_order() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        let impairment = Impairment {
            delay: ms(50),
            ..Impairment::default()
        };
        let mut link = Link::new(t0, impairment, 0);
        link.push(t0, &[1]);
        link.push(t0 + ms(10), &[2]);
        assert_eq!(link.poll_timeout(), Some(t0 + ms(50)));
        assert!(link.pop(t0 + ms(49)).is_none());
        assert_eq!(arrivals(&mut link, t0 + ms(59)), [1]);
        assert_eq!(arrivals(&mut link, t0 + ms(60)), [2]);
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn the_rate_spreads_a_burst_and_a_full_queue_drops() {
        let t0 = Instant::now();
        let impairment = Impairment {
            rate: Some(1_000_000),
            ..Impairment::default()
        };
        let mut link = Link::new(t0, impairment, 0);
        // 1250 bytes with headers: 10 ms each at 1 Mbit/s.
        for n in 0..100u8 {
            link.push(t0, &[n; 1250 - HEADERS_LEN]);
        }
        let kept = arrivals(&mut link, t0 + Duration::from_secs(10));
        assert_eq!(kept, (0..31).collect::<Vec<u8>>());
        assert_eq!(link.take_dropped(), 69);
        let later = t0 + Duration::from_secs(1);
        link.push(later, &[7; 1250 - HEADERS_LEN]);
        assert_eq!(
            link.poll_timeout(),
            Some(later + Duration::from_millis(10)),
            "an idle line saves nothing up"
        );
    }

    #[test]
    fn the_number_on_the_way_is_bounded() {
        let t0 = Instant::now();
        let impairment = Impairment {
            delay: Duration::from_secs(60),
            ..Impairment::default()
        };
        let mut link = Link::new(t0, impairment, 0);
        for _ in 0..QUEUE_LEN_MAX + 5 {
            link.push(t0, &[0]);
        }
        assert_eq!(link.take_dropped(), 5);
    }
}
