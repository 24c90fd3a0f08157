//! The rate that losses allow (draft-ietf-rmcat-gcc-02 §6), with one addition: losses that do not get fewer
//! when less is sent are the path's own (radio, a bad line), and no reason to send less.

/// The loss-based half of the estimate, in bits per second.
#[derive(Debug, Default)]
pub struct LossControl {
    /// `None` while losses are no reason for anything.
    limit: Option<f64>,
    /// What is lost however little is sent, as a share.
    inherent: f64,
    /// A decrease whose effect is awaited.
    trial: Option<Trial>,
    window: Window,
    /// The share lost in the last complete window.
    share: f64,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    /// What was lost and sent before the first decrease.
    share: f64,
    rate: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    from_us: i64,
    packets: u32,
    lost: i32,
}

impl LossControl {
    /// A packet arrived, or is missing while one behind it has arrived. `was_missing`: it arrived after it
    /// had been told of as missing.
    pub fn on_packet(&mut self, arrived: bool, was_missing: bool) {
        let window = &mut self.window;
        if was_missing {
            window.lost -= i32::from(arrived);
            return;
        }
        window.packets += 1;
        window.lost += i32::from(!arrived);
    }

    /// Feedback is over; `rate` is the whole estimate, `rtt_us` the round trip.
    pub fn on_feedback(&mut self, now_us: i64, rate: f64, rtt_us: i64) {
        let window = self.window;
        let elapsed_us = now_us - window.from_us;
        if window.packets < PACKETS_MIN || elapsed_us < rtt_us + WINDOW_US {
            return;
        }
        self.window = Window {
            from_us: now_us,
            ..Window::default()
        };
        let share = f64::from(window.lost.max(0)) / f64::from(window.packets);
        self.share = share;
        self.inherent = self.inherent.min(share.max(self.inherent * INHERENT_KEEP));
        let excess = share - self.inherent;
        if let Some(trial) = self.trial
            && rate < trial.rate * TRIAL_RATE
        {
            // Where the path is full, as much goes through of less; where it loses by itself, less does.
            let before = (1.0 - trial.share) * trial.rate;
            let kept = (1.0 - share) * rate / before.max(1.0);
            if kept < f64::midpoint(rate / trial.rate, 1.0) {
                self.inherent = share.min(trial.share).min(INHERENT_MAX);
                self.limit = Some(trial.rate);
                self.trial = None;
                return;
            }
            self.trial = None;
        }
        if excess > HIGH {
            self.trial.get_or_insert(Trial { share, rate });
            self.limit = Some(rate * (1.0 - 0.5 * excess));
        } else if excess < LOW {
            self.trial = None;
            let seconds = (elapsed_us as f64 / 1e6).min(1.0);
            // Far above the estimate it limits nothing.
            self.limit = self
                .limit
                .map(|limit| limit * INCREASE.powf(seconds))
                .filter(|limit| *limit < rate * 2.0);
        }
    }

    /// What was counted so far says nothing of what is sent now.
    pub fn restart(&mut self, now_us: i64) {
        self.window = Window {
            from_us: now_us,
            ..Window::default()
        };
    }

    /// A probe got this much through, with few losses.
    pub fn on_probe(&mut self, rate: f64) {
        if let Some(limit) = &mut self.limit {
            *limit = rate.max(*limit);
        }
    }

    /// What losses allow; `None` if they are no reason for anything.
    pub fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// The share of packets lost lately, 0 to 1.
    pub fn share(&self) -> f64 {
        self.share
    }
}

// draft-ietf-rmcat-gcc-02 §6 and libwebrtc.
const HIGH: f64 = 0.10;
const LOW: f64 = 0.02;
const INCREASE: f64 = 1.08;
const WINDOW_US: i64 = 300_000;
// Ours.
const PACKETS_MIN: u32 = 20;
/// A trial has gone on long enough when the rate is down to this share.
const TRIAL_RATE: f64 = 0.85;
const INHERENT_MAX: f64 = 0.4;
/// A path that gets better is believed slowly.
const INHERENT_KEEP: f64 = 0.9;

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after `seconds` of 100 packets a second, of which `share` of the present rate is lost.
    fn run(control: &mut LossControl, seconds: i64, mut lost: impl FnMut(f64) -> f64) -> f64 {
        let (mut rate, mut debt) = (1e6, 0.0);
        let from = control.window.from_us;
        for n in 1..=seconds * 100 {
            debt += lost(rate);
            let is_lost = debt >= 1.0;
            debt -= if is_lost { 1.0 } else { 0.0 };
            control.on_packet(!is_lost, false);
            control.on_feedback(from + n * 10_000, rate, 50_000);
            rate = control
                .limit()
                .map_or(rate * 1.0008, |limit| limit.min(1e6));
        }
        control.limit().unwrap_or(f64::INFINITY).min(1e6)
    }

    #[test]
    fn losses_that_follow_the_rate_lower_it() {
        let mut control = LossControl::default();
        // A policer at 500 kbit/s.
        let rate = run(&mut control, 20, |rate| (1.0 - 5e5 / rate).max(0.0));
        assert!((4.5e5..6.2e5).contains(&rate), "{rate}");
    }

    #[test]
    fn losses_of_the_path_itself_do_not() {
        let mut control = LossControl::default();
        let rate = run(&mut control, 20, |_| 0.15);
        assert!(rate > 8e5, "{rate}");
        assert!(control.inherent > 0.1);
        // When it gets worse by congestion on top of that, that counts.
        let rate = run(&mut control, 10, |rate| 0.15 + (1.0 - 3e5 / rate).max(0.0));
        assert!(rate < 5e5, "{rate}");
    }

    #[test]
    fn few_losses_and_reordering_change_nothing() {
        let mut control = LossControl::default();
        assert_eq!(run(&mut control, 20, |_| 0.05), 1e6);
        let mut control = LossControl::default();
        for n in 0..2000 {
            control.on_packet(false, false);
            control.on_packet(true, true);
            control.on_feedback(n * 10_000, 1e6, 50_000);
        }
        assert_eq!(control.limit(), None);
    }
}
