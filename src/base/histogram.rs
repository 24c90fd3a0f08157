//! How long things take: counts of durations in buckets that grow with the duration.

use std::time::Duration;

/// Counts durations in buckets a quarter of an octave wide, from about 1 µs to about 1 s, so that a
/// quantile is told with an error of at most 25 % at a fixed size and cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// The first takes everything shorter than [`OCTAVE_FIRST`], the last everything longer.
    buckets: [u64; BUCKETS],
    sum: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        self.buckets[bucket_of(duration.as_nanos() as u64)] += 1;
        self.sum += duration;
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// What was counted since `earlier`, a copy of this histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        for (bucket, former) in rest.buckets.iter_mut().zip(earlier.buckets) {
            *bucket = bucket.saturating_sub(former);
        }
        rest.sum = self.sum.saturating_sub(earlier.sum);
        rest
    }

    /// A duration that at least `per_mille` thousandths of those counted do not exceed: the upper end
    /// of their bucket. Zero if none was counted; what exceeds the last bucket counts as its lower end.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let wanted = (self.count() * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if wanted > 0 && seen >= wanted {
                return upper_end(index.min(BUCKETS - 2));
            }
        }
        Duration::ZERO
    }

    /// Pairs of an upper end, one octave after the other, and how many were not longer; what exceeds the
    /// last is in [`Histogram::count`] only. This is what Prometheus calls cumulative buckets.
    pub fn octaves(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut seen = 0;
        self.buckets[..BUCKETS - 1]
            .iter()
            .enumerate()
            .filter_map(move |(index, count)| {
                seen += count;
                (index % QUARTERS == 0).then(|| (upper_end(index), seen))
            })
    }
}

#[inline]
fn bucket_of(nanos: u64) -> usize {
    if nanos < 1 << OCTAVE_FIRST {
        return 0;
    }
    let octave = nanos.ilog2();
    // The two bits behind the leading one.
    let quarter = (nanos >> (octave - 2)) & 3;
    let index = (octave - OCTAVE_FIRST) as usize * QUARTERS + quarter as usize + 1;
    index.min(BUCKETS - 1)
}

/// Where bucket `index` ends and the next begins.
fn upper_end(index: usize) -> Duration {
    let (octave, quarter) = (index / QUARTERS, index % QUARTERS);
    let base = 1_u64 << (OCTAVE_FIRST as usize + octave);
    Duration::from_nanos(base + base / QUARTERS as u64 * quarter as u64)
}

const QUARTERS: usize = 4;
/// The first bucket ends at 2^10 ns, about 1 µs: a turn that finds nothing takes less.
const OCTAVE_FIRST: u32 = 10;
/// 20 octaves, to 2^30 ns, about 1 s.
const OCTAVES: usize = 20;
const BUCKETS: usize = OCTAVES * QUARTERS + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_quarter_too_long() {
        for nanos in [1_024_u64, 1_500, 77_777, 1_000_000, 999_999_999] {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_nanos(nanos));
            let told = histogram.quantile(990).as_nanos() as u64;
            assert!(
                told > nanos && told <= nanos + nanos / 4 + 1,
                "{nanos} {told}"
            );
        }
    }

    #[test]
    fn the_tail_is_found_and_the_past_taken_off() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(990), Duration::ZERO);
        for _ in 0..985 {
            histogram.record(Duration::from_micros(10));
        }
        for _ in 0..15 {
            histogram.record(Duration::from_millis(3));
        }
        assert!(histogram.quantile(500) < Duration::from_micros(13));
        assert!(histogram.quantile(990) > Duration::from_millis(3));
        let earlier = histogram.clone();
        histogram.record(Duration::from_micros(1));
        let rest = histogram.since(&earlier);
        assert_eq!((rest.count(), rest.sum()), (1, Duration::from_micros(1)));
    }

    #[test]
    fn octaves_are_cumulative_and_leave_out_what_is_longer() {
        let mut histogram = Histogram::default();
        for duration in [1, 1_100, 1_000_000, 5_000_000_000].map(Duration::from_nanos) {
            histogram.record(duration);
        }
        let octaves: Vec<_> = histogram.octaves().collect();
        assert_eq!(octaves[0], (Duration::from_nanos(1024), 1));
        assert_eq!(octaves[1], (Duration::from_nanos(2048), 2));
        assert_eq!(octaves[10], (Duration::from_nanos(1 << 20), 3));
        assert_eq!(octaves.last(), Some(&(Duration::from_nanos(1 << 30), 3)));
        assert_eq!(octaves.len(), OCTAVES + 1);
        assert_eq!(histogram.count(), 4);
    }
}
