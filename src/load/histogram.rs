//! Counts durations in buckets whose width grows with the value, so that a percentile is known to
//! about 3 % whatever its size, in fixed memory. Knows nothing of what is measured.

use std::time::Duration;

/// Values below this (in ns) have a bucket each; above, each power of two has this many buckets.
const SUB_BUCKETS: usize = 32;
/// log2 of [`SUB_BUCKETS`].
const SUB_BITS: u32 = 5;
/// One group for the values below [`SUB_BUCKETS`], and one for each higher power of two in 64 bits.
const BUCKETS: usize = SUB_BUCKETS * (64 - SUB_BITS as usize + 1);

/// A histogram of durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one duration. More than 584 years count as that.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest duration, exactly; zero where there is none.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The duration that the share `quantile` (0–1) of all does not exceed: the upper end of its
    /// bucket, but never more than the maximum. Zero where nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile.clamp(0.0, 1.0) * self.count as f64)
            .ceil()
            .max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_end(index).min(self.max_ns));
            }
        }
        self.max()
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += theirs;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.max_ns = 0;
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS as u64 {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - SUB_BITS;
    let group = shift as usize + 1;
    group * SUB_BUCKETS + (ns >> shift) as usize - SUB_BUCKETS
}

/// The largest value of a bucket, in ns.
fn upper_end(index: usize) -> u64 {
    let (group, sub) = (index / SUB_BUCKETS, (index % SUB_BUCKETS) as u64);
    if group == 0 {
        return sub;
    }
    let shift = group as u32 - 1;
    let next = u128::from(SUB_BUCKETS as u64 + sub + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut ends = (0..BUCKETS).map(upper_end);
        let mut last = ends.next().unwrap();
        assert_eq!(bucket_of(last), 0);
        for (index, end) in ends.enumerate() {
            assert_eq!(bucket_of(last + 1), index + 1);
            assert_eq!(bucket_of(end), index + 1);
            assert!(end > last);
            last = end;
        }
        assert_eq!(last, u64::MAX);
    }

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut histogram = Histogram::default();
        for n in 1..=10_000 {
            histogram.record(us(n));
        }
        for (quantile, exact) in [(0.5, us(5000)), (0.95, us(9500)), (0.99, us(9900))] {
            let found = histogram.quantile(quantile);
            let off = found.as_secs_f64() / exact.as_secs_f64() - 1.0;
            assert!((0.0..0.032).contains(&off), "{quantile}: {found:?}");
        }
        assert_eq!(histogram.quantile(1.0), us(10_000));
        assert_eq!(histogram.quantile(0.0).as_nanos() / 100, 10);
        assert_eq!((histogram.count(), histogram.max()), (10_000, us(10_000)));
    }

    #[test]
    fn empty_merged_and_cleared() {
        let mut sum = Histogram::default();
        assert_eq!(sum.quantile(0.99), Duration::ZERO);
        let mut other = Histogram::default();
        other.record(Duration::MAX);
        other.record(us(3));
        sum.merge(&other);
        assert_eq!((sum.count(), sum.max().as_nanos()), (2, u64::MAX.into()));
        assert!(sum.quantile(0.5) < us(4));
        sum.clear();
        assert_eq!((sum.count(), sum.max()), (0, Duration::ZERO));
    }
}
