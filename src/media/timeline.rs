//! How one subscription's timestamps go on when it changes from one encoding to another, or from one track to
//! another: never back, and not further than time has.
//!
//! All encodings of a publisher tell how their timestamps stand to its wall clock (RFC 3550 §6.4.1); where they have
//! not yet, the times of arrival must do.

use std::time::{Duration, Instant};

use crate::base::ids::{ClockRate, EncodingIndex, RtpTime};
use crate::media::sender_report::TrackClock;
use crate::wire::rtcp::NtpTime;

/// The timestamps of one subscription.
#[derive(Debug)]
pub struct Timeline {
    clock_rate: ClockRate,
    /// What is added to the present encoding's timestamps, modulo 2^32.
    offset: u32,
    past: Past,
}

/// What came last.
#[derive(Debug)]
enum Past {
    Nothing,
    /// An encoding of the present track.
    Encoding(EncodingIndex),
    /// A track that ended, or that the subscription has left.
    Left(Box<Point>),
}

/// Where an encoding has got to.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Its latest timestamp.
    pub timestamp: RtpTime,
    /// When that came.
    pub arrived: Instant,
    /// How its timestamps stand to the publisher's clock.
    pub clock: Option<TrackClock>,
}

/// A moment, on each clock.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// The subscription's timestamp.
    timestamp: RtpTime,
    /// Here.
    at: Instant,
    /// At the publisher.
    ntp: Option<NtpTime>,
}

impl Timeline {
    /// Starts with `offset`, chosen at random (RFC 3550 §5.1).
    #[must_use]
    pub fn new(clock_rate: ClockRate, offset: u32) -> Self {
        Self {
            clock_rate,
            offset,
            past: Past::Nothing,
        }
    }

    /// The encoding of the present track that came last.
    #[must_use]
    pub fn encoding(&self) -> Option<EncodingIndex> {
        match self.past {
            Past::Encoding(encoding) => Some(encoding),
            Past::Nothing | Past::Left(_) => None,
        }
    }

    /// What is to be added to the timestamps of an encoding that goes out from the timestamp `first` on. `clock` is its
    /// clock, and `end` says how far [`Timeline::encoding`] has got.
    pub fn start(
        &mut self,
        now: Instant,
        encoding: EncodingIndex,
        first: RtpTime,
        clock: Option<&TrackClock>,
        end: Option<&End>,
    ) -> u32 {
        let former = match self.past {
            Past::Nothing => None,
            Past::Encoding(same) if same == encoding => None,
            Past::Encoding(_) => end.map(|end| self.point(end)),
            Past::Left(ref point) => Some(**point),
        };
        if let Some(former) = former {
            let ntp = clock.map(|clock| clock.ntp_at(first));
            let next = former
                .timestamp
                .0
                .wrapping_add(self.advance(now, &former, ntp));
            self.offset = next.wrapping_sub(first.0);
        }
        self.past = Past::Encoding(encoding);
        self.offset
    }

    /// The subscription leaves its track, or that ends; `end` says how far [`Timeline::encoding`] has got.
    pub fn leave(&mut self, end: Option<&End>) {
        if let (Past::Encoding(_), Some(end)) = (&self.past, end) {
            self.past = Past::Left(Box::new(self.point(end)));
        }
    }

    /// What comes next is another publisher's: its wall clock is another.
    pub fn change_publisher(&mut self) {
        if let Past::Left(point) = &mut self.past {
            point.ntp = None;
        }
    }

    fn point(&self, end: &End) -> Point {
        Point {
            timestamp: RtpTime(end.timestamp.0.wrapping_add(self.offset)),
            at: end.arrived,
            ntp: end.clock.map(|clock| clock.ntp_at(end.timestamp)),
        }
    }

    /// How many ticks lie between a former moment and one that is `ntp` at the publisher and now here.
    fn advance(&self, now: Instant, former: &Point, ntp: Option<NtpTime>) -> u32 {
        let elapsed = self.ticks(now.saturating_duration_since(former.at));
        let told = former.ntp.zip(ntp).map(|(before, after)| {
            let difference = i128::from(after.0.wrapping_sub(before.0) as i64);
            ((difference * i128::from(self.clock_rate.0)) >> 32) as i64
        });
        let doubt = self.ticks(DOUBT_MAX);
        match told {
            // A new picture needs another timestamp than the one before, also where that shows a later moment.
            Some(told) if (told - elapsed).abs() <= doubt => {
                told.clamp(1, elapsed + self.ticks(AHEAD_MAX)) as u32
            }
            _ => elapsed.max(1) as u32,
        }
    }

    fn ticks(&self, duration: Duration) -> i64 {
        let ticks = duration.as_micros() * u128::from(self.clock_rate.0) / 1_000_000;
        i64::try_from(ticks).unwrap_or(i64::MAX / 4)
    }
}

/// By how much more than the time since the last packet timestamps may advance: what a packet may be less late than
/// the one before it.
const AHEAD_MAX: Duration = Duration::from_millis(250);
/// Clocks that disagree by more with the times of arrival are not believed.
const DOUBT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: ClockRate = ClockRate(90_000);
    const LOW: EncodingIndex = EncodingIndex(0);
    const HIGH: EncodingIndex = EncodingIndex(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn clock(at: Instant, ntp_ms: i64, rtp: u32) -> TrackClock {
        let ntp = NtpTime((1_000_u64 << 32).wrapping_add_signed((ntp_ms << 32) / 1000));
        TrackClock::new(at, ntp, RtpTime(rtp), RATE)
    }

    /// Low ends at timestamp 9000 (100 ms by its clock) at 100 ms; high starts with 500 000 at `start` ms, `captured`
    /// ms by its clock. How many ticks lie between them at the subscriber.
    fn switch(start: u64, low_clock: bool, captured: Option<i64>) -> u32 {
        let t0 = Instant::now();
        let mut timeline = Timeline::new(RATE, 77);
        assert_eq!(timeline.start(t0, LOW, RtpTime(0), None, None), 77);
        let end = End {
            timestamp: RtpTime(9000),
            arrived: t0 + ms(100),
            clock: low_clock.then(|| clock(t0, 0, 0)),
        };
        let clock = captured.map(|captured| clock(t0, captured, 500_000));
        let first = RtpTime(500_000);
        let offset = timeline.start(t0 + ms(start), HIGH, first, clock.as_ref(), Some(&end));
        first.0.wrapping_add(offset).wrapping_sub(9000 + 77)
    }

    #[test]
    fn both_clocks_say_how_far_it_is_from_one_encoding_to_another() {
        let cases = [
            // The next picture, on time, early or late here.
            (133, Some(133), 33 * 90),
            (110, Some(133), 33 * 90),
            (190, Some(133), 33 * 90),
            // The same picture, or one before it.
            (105, Some(100), 1),
            (105, Some(67), 1),
            // Further than time has gone by.
            (105, Some(600), 5 * 90 + 250 * 90),
            // Without reason: the times of arrival.
            (133, Some(60_000), 33 * 90),
            (133, Some(-60_000), 33 * 90),
            (133, None, 33 * 90),
            (100, None, 1),
        ];
        for (start, captured, expected) in cases {
            let got = switch(start, true, captured);
            assert!(got.abs_diff(expected) <= 1, "{start} {captured:?}: {got}");
        }
        assert_eq!(switch(133, false, Some(900)), 33 * 90);
    }

    #[test]
    fn a_pause_changes_nothing_and_another_track_goes_on() {
        let t0 = Instant::now();
        let mut timeline = Timeline::new(RATE, 77);
        timeline.start(t0, LOW, RtpTime(0), None, None);
        let later = t0 + ms(5000);
        assert_eq!(timeline.start(later, LOW, RtpTime(1), None, None), 77);
        let end = End {
            timestamp: RtpTime(9000),
            arrived: later,
            clock: Some(clock(t0, 0, 0)),
        };
        timeline.leave(Some(&end));
        assert_eq!(timeline.encoding(), None);
        timeline.change_publisher();
        let other = clock(t0, 7, 3);
        let first = RtpTime(3);
        let offset = timeline.start(later + ms(10), LOW, first, Some(&other), None);
        assert_eq!(first.0.wrapping_add(offset), 9000 + 77 + 900);
    }
}
