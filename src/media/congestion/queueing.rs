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
}

impl Queueing {
    /// A packet that was sent at `sent_us` arrived at `arrived_us`.
    pub fn on_packet(&mut self, sent_us: i64, arrived_us: i64) {
        if sent_us.saturating_sub(self.period_from_us) > PERIOD_US {
            self.period_from_us = sent_us;
            self.least_us = [None, self.least_us[0]];
        }
        let delay = arrived_us.saturating_sub(sent_us);
        let least = self.least_us[0].get_or_insert(delay);
        *least = delay.min(*least);
        let batch = self.batch_us.get_or_insert(delay);
        *batch = delay.min(*batch);
        self.batch_len += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_queue_is_told_from_a_burst() {
        let mut queueing = Queueing::default();
        let mut batch = |at: i64, delays: &[i64]| {
            for delay in delays {
                queueing.on_packet(at, at - 77_000_000 + delay);
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
}
