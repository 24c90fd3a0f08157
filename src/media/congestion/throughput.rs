//! How much arrives: bits per second over the last moments, by the receiver's clock.

/// Bytes that arrived, in slots of 10 ms.
#[derive(Debug)]
pub struct Throughput {
    slots: [u32; SLOTS],
    /// Which slot of all time is the last one.
    last: Option<i64>,
    /// Since when packets come without a long break.
    since: i64,
}

impl Default for Throughput {
    fn default() -> Self {
        Self {
            slots: [0; SLOTS],
            last: None,
            since: 0,
        }
    }
}

impl Throughput {
    /// `bytes` arrived.
    pub fn on_arrival(&mut self, at_us: i64, bytes: u16) {
        let at = at_us.div_euclid(SLOT_US);
        let last = match self.last {
            Some(last) if at - last < GAP_SLOTS && last - at < SLOTS as i64 => last,
            _ => {
                (self.slots, self.since) = ([0; SLOTS], at);
                at
            }
        };
        for skipped in (last + 1..=at).rev().take(SLOTS) {
            self.slots[index(skipped)] = 0;
        }
        self.last = Some(last.max(at));
        self.slots[index(at)] += u32::from(bytes);
    }

    /// Bits per second over the last 250 ms that anything arrived in. `None` while less is known.
    pub fn rate(&self) -> Option<f64> {
        self.rate_over(SHORT_SLOTS)
    }

    /// As [`Throughput::rate`], over the last 120 ms only: for what has just changed greatly.
    pub fn latest_rate(&self) -> Option<f64> {
        self.rate_over(LATEST_SLOTS)
    }

    /// As [`Throughput::rate`], over half a second: bursts weigh less.
    pub fn smooth_rate(&self) -> Option<f64> {
        self.rate_over(SLOTS as i64).or_else(|| self.rate())
    }

    fn rate_over(&self, slots: i64) -> Option<f64> {
        let last = self.last?;
        if last - self.since < slots {
            return None;
        }
        // The last slot is not over yet.
        let bytes: u64 = (last - slots + 1..=last)
            .map(|at| u64::from(self.slots[index(at)]))
            .sum();
        Some(bytes as f64 * 8e6 / (slots * SLOT_US) as f64)
    }
}

fn index(slot: i64) -> usize {
    slot.rem_euclid(SLOTS as i64) as usize
}

const SLOT_US: i64 = 10_000;
const SLOTS: usize = 50;
const SHORT_SLOTS: i64 = 25;
const LATEST_SLOTS: i64 = 12;
/// After two seconds without a packet what was before says nothing.
const GAP_SLOTS: i64 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_moments() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.rate(), None);
        for n in 0..200 {
            throughput.on_arrival(-1_000_000 + n * 10_000, 1250);
        }
        assert_eq!(throughput.rate(), Some(1e6));
        for n in 0..25 {
            throughput.on_arrival(1_000_000 + n * 10_000, 625);
        }
        assert_eq!(throughput.rate(), Some(5e5));
        assert_eq!(throughput.smooth_rate(), Some(7.5e5));
        throughput.on_arrival(60_000_000, 100);
        assert_eq!(throughput.rate(), None, "after a break");
        throughput.on_arrival(i64::MIN / 2, 100);
        assert_eq!(throughput.rate(), None);
    }
}
