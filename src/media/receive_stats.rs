//! How one incoming stream is received: loss and jitter for the reception reports this server
//! sends (RFC 3550 §6.4.1, §A.3, §A.8).

use std::time::Instant;

use crate::base::ids::{ClockRate, RtpTime, SeqNo, Ssrc};
use crate::media::sender_report::LastSenderReport;
use crate::wire::rtcp::ReportBlock;

/// Counts one run of packets of one SSRC.
#[derive(Debug)]
pub struct ReceiveStats {
    ssrc: Ssrc,
    clock_rate: ClockRate,
    start: Instant,
    lowest: SeqNo,
    highest: SeqNo,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// Expected and lost in the last report's interval.
    last_interval: (u64, u64),
    /// Arrival minus timestamp of the last packet, in ticks, modulo 2^32.
    transit: Option<u32>,
    /// In 1/16 ticks.
    jitter: u32,
}

impl ReceiveStats {
    /// Starts with the run's first packet, which still has to be given to
    /// [`ReceiveStats::on_packet`].
    #[must_use]
    pub fn new(now: Instant, ssrc: Ssrc, clock_rate: ClockRate, first: SeqNo) -> Self {
        Self {
            ssrc,
            clock_rate,
            start: now,
            lowest: first,
            highest: first,
            received: 0,
            expected_before: 0,
            received_before: 0,
            last_interval: (0, 0),
            transit: None,
            jitter: 0,
        }
    }

    /// A packet came.
    pub fn on_packet(&mut self, now: Instant, seq: SeqNo, timestamp: RtpTime) {
        self.received += 1;
        self.lowest = self.lowest.min(seq);
        self.highest = self.highest.max(seq);
        let elapsed_us = now.saturating_duration_since(self.start).as_micros() as u64;
        let arrival = (elapsed_us * u64::from(self.clock_rate.0) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp.0);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit.wrapping_sub(before) as i32).unsigned_abs();
            // RFC 3550 §A.8, in integers; a clock that jumps counts as one second.
            let difference = difference.min(self.clock_rate.0);
            self.jitter = (self.jitter + difference).saturating_sub((self.jitter + 8) >> 4);
        }
    }

    /// Whether a packet came since the last report.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.received > self.received_before
    }

    /// Packets expected, and of them lost, in the interval of the last report.
    #[must_use]
    pub fn last_interval(&self) -> (u64, u64) {
        self.last_interval
    }

    /// Lost since the start, negative where duplicates came.
    #[must_use]
    pub fn total_lost(&self) -> i64 {
        (self.highest.0 - self.lowest.0 + 1) as i64 - self.received as i64
    }

    /// What to tell the sender; the next report starts here.
    pub fn report(&mut self, now: Instant, last_sr: Option<&LastSenderReport>) -> ReportBlock {
        let expected = self.highest.0 - self.lowest.0 + 1;
        let expected_now = expected.saturating_sub(self.expected_before);
        let received_now = self.received - self.received_before;
        let lost_now = expected_now.saturating_sub(received_now);
        self.last_interval = (expected_now, lost_now);
        self.expected_before = expected;
        self.received_before = self.received;
        let lost = self.total_lost();
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost_now * 256)
                .checked_div(expected_now)
                .map_or(0, |fraction| fraction.min(255) as u8),
            total_lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            // The extended numbers start one cycle up (media/sequence).
            highest_seq: self.highest.0.wrapping_sub(1 << 16) as u32,
            jitter_ticks: self.jitter >> 4,
            last_sr: last_sr.map_or(0, |sr| sr.ntp.middle()),
            delay_since_last_sr: last_sr.map_or(0, |sr| sr.delay(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtcp::NtpTime;
    use std::time::Duration;

    const CYCLE: u64 = 1 << 16;

    fn stats(t0: Instant) -> ReceiveStats {
        ReceiveStats::new(t0, Ssrc(5), ClockRate(8000), SeqNo(CYCLE + 10))
    }

    #[test]
    fn loss_is_counted_over_all_and_since_the_last_report() {
        let t0 = Instant::now();
        let mut stats = stats(t0);
        for seq in [10, 11, 13, 14] {
            stats.on_packet(t0, SeqNo(CYCLE + seq), RtpTime(0));
        }
        let block = stats.report(t0, None);
        assert_eq!((block.fraction_lost, block.total_lost), (51, 1), "1 of 5");
        assert_eq!((block.highest_seq, block.ssrc), (14, Ssrc(5)));
        assert!(!stats.has_news());

        // The missing one comes late, then duplicates: loss may fall below zero.
        for seq in [12, 12, 15] {
            stats.on_packet(t0, SeqNo(CYCLE + seq), RtpTime(0));
        }
        let block = stats.report(t0, None);
        assert_eq!((block.fraction_lost, block.total_lost), (0, -1));
        stats.on_packet(t0, SeqNo(2 * CYCLE + 1), RtpTime(0));
        assert_eq!(stats.report(t0, None).highest_seq, CYCLE as u32 + 1);
    }

    #[test]
    fn jitter_follows_the_change_of_transit() {
        let t0 = Instant::now();
        let mut stats = stats(t0);
        // 20 ms apart (160 ticks), each on time: no jitter.
        for i in 0..10 {
            let now = t0 + Duration::from_millis(20 * i);
            stats.on_packet(now, SeqNo(CYCLE + 10 + i), RtpTime(160 * i as u32));
        }
        assert_eq!(stats.report(t0, None).jitter_ticks, 0);
        // Every other one 10 ms (80 ticks) late: converges to 80 from below.
        for i in 10..200 {
            let early = if i % 2 == 0 { 0 } else { 10 };
            let now = t0 + Duration::from_millis(20 * i + early);
            stats.on_packet(now, SeqNo(CYCLE + 10 + i), RtpTime(160 * i as u32));
        }
        let jitter = stats.report(t0, None).jitter_ticks;
        assert!((75..=80).contains(&jitter), "{jitter}");
    }

    #[test]
    fn names_the_last_sender_report_and_its_age() {
        let t0 = Instant::now();
        let mut stats = stats(t0);
        stats.on_packet(t0, SeqNo(CYCLE + 10), RtpTime(0));
        let sr = LastSenderReport {
            ntp: NtpTime(0x1122_3344_5566_7788),
            received: t0,
        };
        let block = stats.report(t0 + Duration::from_millis(1500), Some(&sr));
        assert_eq!(block.last_sr, 0x3344_5566);
        assert_eq!(block.delay_since_last_sr, 98_304);
    }
}
