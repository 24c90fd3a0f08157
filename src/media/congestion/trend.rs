//! Whether the delay of what arrives grows: libwebrtc's way (inter-arrival groups, a line through the last
//! of their delays, an adaptive threshold), after draft-ietf-rmcat-gcc-02 §5.

/// What the delays say of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Delays stay.
    Normal,
    /// They grow: more is sent than goes through.
    Over,
    /// They shrink: a queue drains.
    Under,
}

/// Follows the delays of packets.
#[derive(Debug)]
pub struct TrendDetector {
    groups: Groups,
    line: Line,
    threshold: f64,
    threshold_at_us: Option<i64>,
    over_us: f64,
    over_count: u32,
    last_trend: f64,
    usage: Usage,
}

impl Default for TrendDetector {
    fn default() -> Self {
        Self {
            groups: Groups::default(),
            line: Line::default(),
            threshold: THRESHOLD_START,
            threshold_at_us: None,
            over_us: 0.0,
            over_count: 0,
            last_trend: 0.0,
            usage: Usage::Normal,
        }
    }
}

impl TrendDetector {
    /// A packet that was sent at `sent_us` arrived at `arrived_us`; the clocks need not agree.
    pub fn on_packet(&mut self, sent_us: i64, arrived_us: i64) {
        let Some(delta) = self.groups.on_packet(sent_us, arrived_us) else {
            return;
        };
        let trend = self
            .line
            .on_delay(delta.arrived_us - delta.sent_us, delta.at_us);
        self.detect(trend, delta.sent_us as f64, delta.at_us);
    }

    /// What the delays say at present.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn detect(&mut self, trend: f64, sent_delta_us: f64, at_us: i64) {
        let deltas = self.line.deltas.min(DELTAS_MAX);
        if deltas < 2 {
            self.usage = Usage::Normal;
            return;
        }
        // Milliseconds of growth over so many groups, times a gain.
        let modified = f64::from(deltas) * trend * GAIN;
        if modified > self.threshold {
            // On average it began in the middle of the last distance.
            self.over_us += if self.over_count == 0 {
                sent_delta_us / 2.0
            } else {
                sent_delta_us
            };
            self.over_count += 1;
            if self.over_us > OVER_US_MIN && self.over_count > 1 && trend >= self.last_trend {
                (self.over_us, self.over_count) = (0.0, 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_us, self.over_count) = (0.0, 0);
            self.usage = if modified < -self.threshold {
                Usage::Under
            } else {
                Usage::Normal
            };
        }
        self.last_trend = trend;
        self.adapt(modified.abs(), at_us);
    }

    /// The threshold follows what is usual on this path (draft-ietf-rmcat-gcc-02 §5.4), so that flows
    /// which fill queues do not starve this one.
    fn adapt(&mut self, modified: f64, at_us: i64) {
        let last = self.threshold_at_us.replace(at_us).unwrap_or(at_us);
        if modified > self.threshold + SPIKE {
            return;
        }
        let gain = if modified < self.threshold {
            THRESHOLD_DOWN
        } else {
            THRESHOLD_UP
        };
        let elapsed_ms = (at_us - last).clamp(0, 100_000) as f64 / 1000.0;
        self.threshold += gain * (modified - self.threshold) * elapsed_ms;
        self.threshold = self.threshold.clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }
}

/// What lies between two groups of packets.
#[derive(Debug, Clone, Copy)]
struct GroupDelta {
    sent_us: i64,
    arrived_us: i64,
    /// When the later one arrived.
    at_us: i64,
}

/// Packets sent as one burst are one group: what lies inside of it says nothing of the path.
#[derive(Debug, Default)]
struct Groups {
    current: Option<Group>,
    former: Option<Group>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent_us: i64,
    sent_us: i64,
    first_arrived_us: i64,
    arrived_us: i64,
}

impl Groups {
    /// The distance of the last two complete groups, if the packet begins another one.
    fn on_packet(&mut self, sent_us: i64, arrived_us: i64) -> Option<GroupDelta> {
        let begun = Group {
            first_sent_us: sent_us,
            sent_us,
            first_arrived_us: arrived_us,
            arrived_us,
        };
        let Some(current) = &mut self.current else {
            self.current = Some(begun);
            return None;
        };
        if sent_us < current.first_sent_us {
            // Reordered: of a group that is over.
            return None;
        }
        if (arrived_us - current.arrived_us).abs() > JUMP_US {
            // The receiver's clock jumped, or nothing came for long: nothing to compare with.
            (self.current, self.former) = (Some(begun), None);
            return None;
        }
        if current.takes(sent_us, arrived_us) {
            current.sent_us = current.sent_us.max(sent_us);
            current.arrived_us = current.arrived_us.max(arrived_us);
            return None;
        }
        let delta = self.former.map(|former| GroupDelta {
            sent_us: current.sent_us - former.sent_us,
            arrived_us: current.arrived_us - former.arrived_us,
            at_us: current.arrived_us,
        });
        self.former = self.current.replace(begun);
        // Groups that arrive in the wrong order say nothing.
        delta.filter(|delta| delta.arrived_us >= 0)
    }
}

impl Group {
    fn takes(&self, sent_us: i64, arrived_us: i64) -> bool {
        if sent_us - self.first_sent_us <= GROUP_US {
            return true;
        }
        // Delivered in one piece after the link was blocked.
        let (sent, arrived) = (sent_us - self.sent_us, arrived_us - self.arrived_us);
        arrived - sent < 0
            && arrived <= GROUP_US
            && arrived_us - self.first_arrived_us < BURST_US_MAX
    }
}

/// A line through the last delays, by least squares.
#[derive(Debug, Default)]
struct Line {
    points: [(f64, f64); POINTS],
    len: usize,
    next: usize,
    first_us: Option<i64>,
    /// How many distances were taken; only small numbers matter.
    deltas: u32,
    accumulated_ms: f64,
    smoothed_ms: f64,
    trend: f64,
}

impl Line {
    /// The slope after another distance: milliseconds of delay for each millisecond.
    fn on_delay(&mut self, delta_us: i64, at_us: i64) -> f64 {
        self.deltas = self.deltas.saturating_add(1);
        self.accumulated_ms += delta_us as f64 / 1000.0;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        let first_us = *self.first_us.get_or_insert(at_us);
        self.points[self.next] = ((at_us - first_us) as f64 / 1000.0, self.smoothed_ms);
        self.next = (self.next + 1) % POINTS;
        self.len = (self.len + 1).min(POINTS);
        if self.len == POINTS
            && let Some(slope) = self.slope()
        {
            self.trend = slope;
        }
        self.trend
    }

    fn slope(&self) -> Option<f64> {
        let n = POINTS as f64;
        let (sum_x, sum_y) = self
            .points
            .iter()
            .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let (mut above, mut below) = (0.0, 0.0);
        for (x, y) in &self.points {
            above += (x - mean_x) * (y - mean_y);
            below += (x - mean_x) * (x - mean_x);
        }
        (below > 0.0).then(|| above / below)
    }
}

// All chosen by libwebrtc (TrendlineEstimator, InterArrivalDelta), unless said otherwise.
const GROUP_US: i64 = 5_000;
const BURST_US_MAX: i64 = 100_000;
const JUMP_US: i64 = 3_000_000;
const POINTS: usize = 20;
const SMOOTHING: f64 = 0.9;
const GAIN: f64 = 4.0;
const DELTAS_MAX: u32 = 60;
const OVER_US_MIN: f64 = 10_000.0;
const THRESHOLD_START: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
const SPIKE: f64 = 15.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The usage after `packets` sent every 10 ms, each delayed by that of the one before and `growth_us`.
    fn after(packets: i64, growth_us: i64) -> Vec<Usage> {
        let mut detector = TrendDetector::default();
        (0..packets)
            .map(|n| {
                detector.on_packet(n * 10_000, 5_000_000 + n * (10_000 + growth_us));
                detector.usage()
            })
            .collect()
    }

    #[test]
    fn growing_delays_are_overuse_and_steady_ones_are_not() {
        assert!(after(300, 0).iter().all(|usage| *usage == Usage::Normal));
        assert!(after(100, 1_000).contains(&Usage::Over));
        assert!(after(100, -500).contains(&Usage::Under));
    }

    #[test]
    fn jumps_and_reordering_do_no_harm() {
        let mut detector = TrendDetector::default();
        for n in 0..2000_i64 {
            let jump = if n > 1000 { 100_000_000 } else { 0 };
            let swap = if n % 7 == 0 { 30_000 } else { 0 };
            detector.on_packet(n * 10_000, n * 10_000 + jump + swap);
        }
        detector.on_packet(i64::from(i32::MIN), i64::from(i32::MAX));
        assert_ne!(detector.usage(), Usage::Over);
    }
}
