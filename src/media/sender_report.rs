//! Sender reports: from a publisher's to those of each subscription, so that lip sync survives the
//! server (RFC 3550 §6.4.1).
//!
//! The wall clock stays the publisher's; only the RTP side is translated. All tracks of one publisher
//! keep their common clock that way, and this server needs none of its own.

use std::time::Instant;

use crate::base::ids::{ClockRate, RtpTime};
use crate::wire::rtcp::NtpTime;

/// The last report of one SSRC, for the reports that answer it.
#[derive(Debug, Clone, Copy)]
pub struct LastSenderReport {
    /// Its wall clock time.
    pub ntp: NtpTime,
    /// When it came.
    pub received: Instant,
}

impl LastSenderReport {
    /// How long ago it came, in 1/65536 s (DLSR).
    #[must_use]
    pub fn delay(&self, now: Instant) -> u32 {
        let delay = now.saturating_duration_since(self.received);
        u32::try_from(delay.as_micros() * 65_536 / 1_000_000).unwrap_or(u32::MAX)
    }
}

/// How a track's timestamps stand to its publisher's wall clock.
#[derive(Debug, Clone, Copy)]
pub struct TrackClock {
    ntp: NtpTime,
    rtp_time: RtpTime,
    received: Instant,
    clock_rate: ClockRate,
}

impl TrackClock {
    /// From a publisher's report that came at `now`; `rtp_time` is on the track's own clock.
    #[must_use]
    pub fn new(now: Instant, ntp: NtpTime, rtp_time: RtpTime, clock_rate: ClockRate) -> Self {
        Self {
            ntp,
            rtp_time,
            received: now,
            clock_rate,
        }
    }

    /// The report it was made from: wall clock, the track's own clock, and when it came.
    #[must_use]
    pub fn report(&self) -> (NtpTime, RtpTime, Instant) {
        (self.ntp, self.rtp_time, self.received)
    }

    /// The publisher's wall clock at one of the track's timestamps.
    #[must_use]
    pub fn ntp_at(&self, timestamp: RtpTime) -> NtpTime {
        let ticks = timestamp.0.wrapping_sub(self.rtp_time.0) as i32;
        let ntp = (i64::from(ticks) << 32) / i64::from(self.clock_rate.0);
        NtpTime(self.ntp.0.wrapping_add_signed(ntp))
    }

    /// Both clocks as they must stand at `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> (NtpTime, RtpTime) {
        let elapsed = now.saturating_duration_since(self.received);
        let ntp = (elapsed.as_nanos() << 32) / 1_000_000_000;
        let ticks = elapsed.as_nanos() * u128::from(self.clock_rate.0) / 1_000_000_000;
        (
            NtpTime(self.ntp.0.wrapping_add(ntp as u64)),
            RtpTime(self.rtp_time.0.wrapping_add(ticks as u32)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn both_clocks_go_on_alike() {
        let t0 = Instant::now();
        let clock = TrackClock::new(t0, NtpTime(7 << 32), RtpTime(u32::MAX), ClockRate(90_000));
        let cases = [
            (0, 7 << 32, u32::MAX),
            (500, (7 << 32) + (1 << 31), 44_999),
            (2000, 9 << 32, 179_999),
        ];
        for (ms, ntp, rtp) in cases {
            let now = t0 + Duration::from_millis(ms);
            assert_eq!(clock.at(now), (NtpTime(ntp), RtpTime(rtp)), "{ms} ms");
        }
    }

    #[test]
    fn a_delay_saturates() {
        let t0 = Instant::now();
        let sr = LastSenderReport {
            ntp: NtpTime(0),
            received: t0,
        };
        assert_eq!(sr.delay(t0 + Duration::from_secs(1)), 65_536);
        assert_eq!(sr.delay(t0 + Duration::from_secs(100_000)), u32::MAX);
    }
}
