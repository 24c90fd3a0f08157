//! How long packets wait on the path: their one-way delay above the least that was seen lately.
//!
//! The trend of delays says when a queue grows; this says how long it is, which decides how far the
//! rate has to go down so that it drains.

/// Follows the one-way delays of packets, up to the unknown offset of the two clocks.
#[derive(Debug, Default)]
pub struct Queueing {
    /// The least delays of the present period and of the one before.
    least_us: [Option<i64>; 2],
    period_from_us: i64,
    /// The least of the present feedback message.
    batch_us: Option<i64>,
    batch_len: usize,
    standing_us: Option<i64>,
    /// Packets that waited one after the other, up to the last one.
    run: Option<Run>,
    /// When the last packet was sent and came.
    last: Option<(i64, i64)>,
    /// When something came again after the path had stood still.
    stalled_until_us: Option<i64>,
    has_stalled: bool,
}

/// Packets that followed each other out of a queue that never was empty between them.
#[derive(Debug, Clone, Copy)]
struct Run {
    first_sent_us: i64,
    last_sent_us: i64,
    first_arrived_us: i64,
    last_arrived_us: i64,
    /// Without those of the first: they passed before it arrived.
    bytes: u64,
    /// What was lost between them.
    lost_bytes: u64,
    /// How long the last one waited.
    waited_us: i64,
}

/// A queue as the packets show it that passed through it one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backlog {
    /// What the path carried of these packets, in bits per second: it always had something to carry.
    pub carried: f64,
    /// As what they were sent.
    pub offered: f64,
    /// How long the last packet waited.
    pub waited_us: i64,
}

impl Queueing {
    /// A packet of `bytes` that was sent at `sent_us` arrived at `arrived_us`. Returns how long it waited.
    pub fn on_packet(&mut self, sent_us: i64, arrived_us: i64, bytes: u16) -> i64 {
        if sent_us.saturating_sub(self.period_from_us) > PERIOD_US {
            self.period_from_us = sent_us;
            self.least_us = [None, self.least_us[0]];
        }
        self.watch_stall(sent_us, arrived_us);
        let delay = arrived_us.saturating_sub(sent_us);
        let least = self.least_us[0].get_or_insert(delay);
        *least = delay.min(*least);
        let batch = self.batch_us.get_or_insert(delay);
        *batch = delay.min(*batch);
        self.batch_len += 1;
        let least = self.least_us.iter().flatten().min().copied();
        let waited_us = delay.saturating_sub(least.unwrap_or(delay));
        // What a queue that never empties carried long ago says little of now.
        let is_recent =
            |run: &Run| arrived_us.saturating_sub(run.first_arrived_us) <= RUN_TOOK_US_MAX;
        self.run = (waited_us >= RUN_US_MIN).then(|| match self.run.filter(is_recent) {
            Some(run) => Run {
                last_sent_us: sent_us.max(run.last_sent_us),
                last_arrived_us: arrived_us.max(run.last_arrived_us),
                bytes: run.bytes + u64::from(bytes),
                waited_us,
                ..run
            },
            None => Run {
                first_sent_us: sent_us,
                last_sent_us: sent_us,
                first_arrived_us: arrived_us,
                last_arrived_us: arrived_us,
                bytes: 0,
                lost_bytes: 0,
                waited_us,
            },
        });
        waited_us
    }

    /// Sees whether the path stood still before this packet: nothing came for long, though more was sent. On a path that has
    /// become slow packets come like that too, but soon another one.
    fn watch_stall(&mut self, sent_us: i64, arrived_us: i64) {
        if let Some((sent_before_us, came_before_us)) = self.last {
            let gap_us = arrived_us.saturating_sub(came_before_us);
            let sent_gap_us = sent_us.saturating_sub(sent_before_us);
            if gap_us >= STALL_US_MIN && sent_gap_us < gap_us / 2 {
                let before_us = self.stalled_until_us.replace(arrived_us);
                self.has_stalled = before_us
                    .is_none_or(|before| arrived_us.saturating_sub(before) > STALLS_APART_US);
            } else if let Some(until_us) = self.stalled_until_us
                && arrived_us.saturating_sub(until_us) > STALL_ECHO_US
            {
                self.has_stalled = false;
            }
        }
        let (sent, came) = self.last.unwrap_or((sent_us, arrived_us));
        self.last = Some((sent.max(sent_us), came.max(arrived_us)));
    }

    /// Whether the last packets are the first ones after the path stood still, as a Wi-Fi does while it scans: how late they
    /// are, and how few, says nothing of what it carries.
    pub fn has_just_stalled(&self) -> bool {
        self.has_stalled
    }

    /// A packet of `bytes` did not arrive with those about it.
    pub fn on_missing(&mut self, bytes: u16) {
        if let Some(run) = &mut self.run {
            run.lost_bytes += u64::from(bytes);
        }
    }

    /// The queue that the last packets passed through, if there were enough to tell.
    pub fn backlog(&self) -> Option<Backlog> {
        let run = self.run.filter(|run| run.bytes >= RUN_BYTES_MIN)?;
        let took_us = run.last_arrived_us.saturating_sub(run.first_arrived_us);
        let rate = |bytes: u64, us: i64| bytes as f64 * 8e6 / us.max(1) as f64;
        let sent_us = run.last_sent_us.saturating_sub(run.first_sent_us);
        (took_us >= RUN_TOOK_US_MIN).then(|| Backlog {
            carried: rate(run.bytes, took_us),
            offered: rate(run.bytes + run.lost_bytes, sent_us),
            waited_us: run.waited_us,
        })
    }

    /// A feedback message is over. One that tells of few packets is taken together with the next.
    pub fn on_batch_end(&mut self) {
        if self.batch_len < BATCH_MIN {
            return;
        }
        self.batch_len = 0;
        let Some(delay) = self.batch_us.take() else {
            return;
        };
        let least = self.least_us.iter().flatten().min();
        self.standing_us = least.map(|least| delay.saturating_sub(*least).max(0));
    }

    /// How long the luckiest of the last packets waited: what stands in the queue and does not only pass
    /// through it in bursts.
    pub fn standing_us(&self) -> Option<i64> {
        self.standing_us
    }

    /// The path has changed: what is the delay now is the least.
    pub fn rebase(&mut self) {
        *self = Self::default();
    }
}

/// The least delay is that of the last 10 to 20 s: long enough to hold a moment with an empty queue, as
/// the rate goes down every few seconds; short enough to follow the drift of clocks.
const PERIOD_US: i64 = 10_000_000;
const BATCH_MIN: usize = 3;
/// What waited less was delayed by jitter, or by the packet before it.
const RUN_US_MIN: i64 = 20_000;
/// As long as that and so much: what one gap, sound, or one burst of somebody else makes says nothing.
const RUN_TOOK_US_MIN: i64 = 50_000;
const RUN_BYTES_MIN: u64 = 2_000;
const RUN_TOOK_US_MAX: i64 = 500_000;
/// Longer than pictures are apart, and packets at 100 kbit/s. What came within so short a time after says nothing either. A stall
/// sooner after another one is no stall, but a slow path.
const STALL_US_MIN: i64 = 100_000;
const STALL_ECHO_US: i64 = 60_000;
const STALLS_APART_US: i64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_queue_is_told_from_a_burst() {
        let mut queueing = Queueing::default();
        let mut batch = |at: i64, delays: &[i64]| {
            for delay in delays {
                queueing.on_packet(at, at - 77_000_000 + delay, 1000);
            }
            queueing.on_batch_end();
            queueing.standing_us()
        };
        assert_eq!(batch(0, &[50_000, 50_000, 50_000]), Some(0));
        assert_eq!(
            batch(100_000, &[50_000, 70_000, 90_000]),
            Some(0),
            "a burst"
        );
        assert_eq!(batch(200_000, &[80_000, 75_000, 90_000]), Some(25_000));
        assert_eq!(batch(300_000, &[52_000]), Some(25_000), "too few");
        assert_eq!(batch(400_000, &[90_000, 90_000]), Some(2_000));
        // The path has become longer: known after two periods.
        assert_eq!(batch(11_000_000, &[99_000; 3]), Some(49_000));
        assert_eq!(batch(22_000_000, &[99_000; 3]), Some(0));
    }

    #[test]
    fn a_path_that_stood_still_is_told_from_a_slow_one() {
        let mut queueing = Queueing::default();
        let mut packet = |sent_ms: i64, arrived_ms: i64| {
            queueing.on_packet(sent_ms * 1000, arrived_ms * 1000 - 9_000_000, 1000);
            queueing.has_just_stalled()
        };
        assert!(!packet(0, 20) && !packet(10, 30));
        // Nothing was sent for long.
        assert!(!packet(500, 520) && !packet(510, 530));
        assert!(packet(520, 730) && packet(530, 731) && packet(560, 790));
        assert!(!packet(780, 800), "some time after");
        // Again, and then the packets come so slowly.
        assert!(packet(2000, 2020) || packet(2010, 2230));
        assert!(!packet(2020, 2430) && !packet(2030, 2630));
    }

    #[test]
    fn a_burst_shows_what_the_path_carries() {
        let mut queueing = Queueing::default();
        let mut packet = |sent_ms: i64, arrived_ms: i64, bytes| {
            queueing.on_packet(sent_ms * 1000, arrived_ms * 1000 - 9_000_000, bytes);
            queueing.backlog()
        };
        assert_eq!(packet(0, 50, 100), None);
        // 1000 bytes take 25 ms.
        assert_eq!(packet(100, 175, 1000), None);
        assert_eq!(packet(100, 200, 1000), None);
        let backlog = packet(101, 225, 1000).expect("two packets after the first");
        assert_eq!((backlog.carried, backlog.waited_us), (320_000.0, 74_000));
        assert_eq!(backlog.offered, 16e6);
        // What is lost between them was offered, too.
        queueing.on_missing(1000);
        let backlog = queueing.backlog().expect("it stands");
        assert_eq!((backlog.carried, backlog.offered), (320_000.0, 24e6));
        // One that did not wait ends it.
        queueing.on_packet(300_000, 350_000 - 9_000_000, 1000);
        queueing.on_missing(1000);
        assert_eq!(queueing.backlog(), None);
        // A queue that never empties tells of its last half second only.
        let mut packet = |sent_ms: i64, arrived_ms: i64| {
            queueing.on_packet(sent_ms * 1000, arrived_ms * 1000 - 9_000_000, 1000);
            queueing.backlog().map(|backlog| backlog.carried)
        };
        // 8 Mbit/s for three seconds, then 80 kbit/s.
        let fast = (0..3000).filter_map(|n| packet(400 + n, 550 + n)).last();
        assert_eq!(fast, Some(8e6));
        let slow = (1..10)
            .filter_map(|n| packet(3400 + n, 3550 + 100 * n))
            .last();
        assert_eq!(slow, Some(80_000.0));
        queueing.on_packet(5_000_000, 5_050_000 - 9_000_000, 1000);
        // Sound in a queue of others says nothing.
        for n in 0..20 {
            queueing.on_packet(
                5_100_000 + n * 20_000,
                5_200_000 + n * 24_000 - 9_000_000,
                90,
            );
            assert_eq!(queueing.backlog(), None);
        }
    }
}
