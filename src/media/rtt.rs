//! How long a packet takes to a peer and back, and how much is lost on the way there: from what the peer
//! reports of the streams sent to it (RFC 3550 §6.4.1), and from its answers to this server's reference
//! times where it only sends (RFC 3611 §4.4, §4.5).

use std::time::{Duration, Instant};

use crate::base::ids::Ssrc;
use crate::wire::ntp::NtpTime;
use crate::wire::rtcp::ReportBlock;
use crate::wire::xr::ReferenceReply;

/// The round trip to one peer, of all its reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    latest: Option<Duration>,
    lowest: Option<Duration>,
}

impl Rtt {
    /// A report told of a round trip. One beyond reason is not believed.
    pub fn on_sample(&mut self, sample: Duration) {
        if sample > RTT_MAX {
            return;
        }
        self.latest = Some(sample);
        // RFC 6298 §2.3: an eighth of what is new.
        self.smoothed = Some(match self.smoothed {
            Some(smoothed) => (smoothed * 7 + sample) / 8,
            None => sample,
        });
        self.lowest = Some(match self.lowest {
            // Follows a longer way within some reports.
            Some(lowest) if sample > lowest => lowest + (sample - lowest) / 8,
            _ => sample,
        });
    }

    /// The average of the last reports; `None` until the first.
    #[must_use]
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The shortest of late: what comes sooner than this cannot be an answer.
    #[must_use]
    pub fn lowest(&self) -> Option<Duration> {
        self.lowest
    }

    /// As the last report told.
    #[must_use]
    pub fn latest(&self) -> Option<Duration> {
        self.latest
    }
}

/// How the peer receives one stream that this server sends it.
#[derive(Debug, Default)]
pub struct ReceiverReports {
    /// When the first sender report went out.
    start: Option<Instant>,
    /// The last ones: the middle of their wall clock, and when they went out after that, in 1/65536 s modulo 2^32, as
    /// report blocks count. The wall clock is that of the stream's publisher, so only this tells when it was.
    sent: [(u32, u32); SENT_MAX],
    next: u8,
    latest: Option<Reported>,
}

/// What the last report block on a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// When it came.
    pub at: Instant,
    /// As it came.
    pub block: ReportBlock,
    /// How many packets were sent since the report before it.
    pub expected: u32,
    /// How many of those did not arrive at first.
    pub lost: u32,
}

impl ReceiverReports {
    /// A sender report goes out.
    pub fn on_report_sent(&mut self, now: Instant, ntp: NtpTime) {
        let start = *self.start.get_or_insert(now);
        let next = usize::from(self.next) % SENT_MAX;
        self.sent[next] = (
            ntp.middle(),
            to_ntp_short(now.saturating_duration_since(start)),
        );
        self.next = (next + 1) as u8;
    }

    /// The peer reports on the stream. Returns the round trip, if it answers a sender report.
    pub fn on_report(&mut self, now: Instant, block: &ReportBlock) -> Option<Duration> {
        let before = self.latest.map(|latest| latest.block.highest_seq);
        let expected = before.map_or(0, |before| block.highest_seq.wrapping_sub(before));
        // Backwards, or a jump that no stream makes between two reports.
        let expected = if expected > EXPECTED_MAX { 0 } else { expected };
        let lost = (u64::from(expected) * u64::from(block.fraction_lost)).div_ceil(256);
        self.latest = Some(Reported {
            at: now,
            block: *block,
            expected,
            lost: lost as u32,
        });
        if block.last_sr == 0 {
            return None;
        }
        let start = self.start?;
        let (_, sent) = self.sent.iter().find(|(ntp, _)| *ntp == block.last_sr)?;
        let since = to_ntp_short(now.saturating_duration_since(start)).wrapping_sub(*sent);
        let rtt = since.wrapping_sub(block.delay_since_last_sr) as i32;
        Some(from_ntp_short(rtt.max(0).unsigned_abs()))
    }

    /// The last report, if there was one.
    #[must_use]
    pub fn latest(&self) -> Option<&Reported> {
        self.latest.as_ref()
    }
}

/// Loss over several streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Packets sent in the time that the last reports cover.
    pub expected: u64,
    /// How many of those did not arrive at first.
    pub lost: u64,
    /// Lost since the streams began, as reported.
    pub total: u64,
}

impl Loss {
    /// Adds a stream, unless its last report is old.
    pub fn add(&mut self, now: Instant, reported: &Reported) {
        if now.saturating_duration_since(reported.at) <= REPORT_AGE_MAX {
            self.expected += u64::from(reported.expected);
            self.lost += u64::from(reported.lost);
        }
        self.total += u64::from(reported.block.total_lost.max(0).unsigned_abs());
    }

    /// Which part of the packets was lost, 0–1; `None` without recent reports.
    #[must_use]
    pub fn fraction(&self) -> Option<f32> {
        (self.expected > 0).then(|| self.lost as f32 / self.expected as f32)
    }
}

/// This server's clock towards one peer, for reference times (RFC 3611 §4.4): its own beginning, as the peer only
/// sends the middle 32 bits of it back.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceClock {
    start: Instant,
}

impl ReferenceClock {
    /// Starts one second up: 0 stands for no reference time (RFC 3611 §4.5).
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { start: now }
    }

    /// What to send.
    #[must_use]
    pub fn at(&self, now: Instant) -> NtpTime {
        let elapsed = now.saturating_duration_since(self.start) + Duration::from_secs(1);
        NtpTime(((elapsed.as_nanos() << 32) / 1_000_000_000) as u64)
    }

    /// The round trip that an answer tells of, if it is one.
    #[must_use]
    pub fn rtt(&self, now: Instant, reply: &ReferenceReply) -> Option<Duration> {
        if reply.last_rr == 0 {
            return None;
        }
        let since = self.at(now).middle().wrapping_sub(reply.last_rr);
        let rtt = since.wrapping_sub(reply.delay) as i32;
        // Rounding may make a short way shorter than nothing.
        (rtt > -ROUNDING).then(|| from_ntp_short(rtt.max(0).unsigned_abs()))
    }
}

/// What a peer's reference time is answered with, at once.
#[must_use]
pub fn reference_reply(sender: Ssrc, ntp: NtpTime) -> ReferenceReply {
    ReferenceReply {
        ssrc: sender,
        last_rr: ntp.middle(),
        delay: 0,
    }
}

/// In 1/65536 s, modulo 2^32.
fn to_ntp_short(duration: Duration) -> u32 {
    ((duration.as_nanos() << 16) / 1_000_000_000) as u32
}

/// From 1/65536 s.
fn from_ntp_short(ticks: u32) -> Duration {
    Duration::from_nanos((u64::from(ticks) * 1_000_000_000) >> 16)
}

/// Sender reports that one may answer: browsers' come once a second.
const SENT_MAX: usize = 4;
/// A longer round trip is no conversation.
const RTT_MAX: Duration = Duration::from_secs(10);
/// 60 000 packets in one second are more than any stream has.
const EXPECTED_MAX: u32 = 1 << 16;
/// Chromium reports on sound every five seconds.
const REPORT_AGE_MAX: Duration = Duration::from_secs(12);
/// In 1/65536 s: 1 ms.
const ROUNDING: i32 = 66;

#[cfg(test)]
mod tests {
    use super::*;

    fn block(highest_seq: u32, fraction_lost: u8, last_sr: u32, delay_ms: u32) -> ReportBlock {
        ReportBlock {
            ssrc: Ssrc(1),
            fraction_lost,
            total_lost: 3,
            highest_seq,
            jitter_ticks: 0,
            last_sr,
            delay_since_last_sr: delay_ms * 65_536 / 1000,
        }
    }

    fn near(a: Option<Duration>, ms: u64) -> bool {
        a.is_some_and(|a| a.abs_diff(Duration::from_millis(ms)) < Duration::from_millis(1))
    }

    #[test]
    fn a_report_that_answers_one_sent_tells_the_round_trip() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut reception = ReceiverReports::default();
        assert_eq!(reception.on_report(at(0), &block(0, 0, 7, 0)), None);
        for i in 0..6 {
            let ntp = NtpTime((100 + i) << 16);
            reception.on_report_sent(at(1000 * i), ntp);
        }
        assert!(near(
            reception.on_report(at(5300), &block(1, 0, 105, 100)),
            200
        ));
        assert!(near(
            reception.on_report(at(5300), &block(1, 0, 102, 3000)),
            300
        ));
        assert!(near(
            reception.on_report(at(5300), &block(1, 0, 105, 9000)),
            0
        ));
        let no_answers = [0, 101, 999];
        for last_sr in no_answers {
            assert_eq!(
                reception.on_report(at(5300), &block(1, 0, last_sr, 0)),
                None
            );
        }
    }

    #[test]
    fn loss_is_weighed_by_how_much_was_sent() {
        let t0 = Instant::now();
        let (mut a, mut b) = (ReceiverReports::default(), ReceiverReports::default());
        let mut loss = Loss::default();
        assert_eq!(loss.fraction(), None);
        for (reception, highest, fraction) in [(&mut a, 900, 64), (&mut b, 100, 0)] {
            reception.on_report(t0, &block(u32::MAX, 0, 0, 0));
            reception.on_report(t0, &block(highest - 1, fraction, 0, 0));
            loss.add(t0, reception.latest().unwrap());
        }
        assert_eq!((loss.expected, loss.lost, loss.total), (1000, 225, 6));
        assert_eq!(loss.fraction(), Some(0.225));
        // A counter that goes back says nothing; nor does an old report.
        a.on_report(t0, &block(3, 255, 0, 0));
        let mut loss = Loss::default();
        loss.add(t0, a.latest().unwrap());
        loss.add(t0 + REPORT_AGE_MAX * 2, b.latest().unwrap());
        assert_eq!(loss.fraction(), None);
    }

    #[test]
    fn a_reference_time_comes_back() {
        let t0 = Instant::now();
        let clock = ReferenceClock::new(t0);
        let sent = t0 + Duration::from_secs(90_000);
        let mut reply = reference_reply(Ssrc(1), clock.at(sent));
        reply.delay = 65_536;
        let later = |ms| sent + Duration::from_millis(ms);
        assert!(near(clock.rtt(later(1150), &reply), 150));
        assert!(near(clock.rtt(later(1000), &reply), 0));
        assert_eq!(clock.rtt(later(500), &reply), None, "before it was sent");
        reply.last_rr = 0;
        assert_eq!(clock.rtt(later(1000), &reply), None);
    }

    #[test]
    fn the_average_follows_slowly_and_believes_no_nonsense() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.smoothed(), None);
        rtt.on_sample(Duration::from_millis(80));
        rtt.on_sample(Duration::from_millis(160));
        rtt.on_sample(Duration::from_secs(60));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(90)));
        assert_eq!(rtt.latest(), Some(Duration::from_millis(160)));
        rtt.on_sample(Duration::from_millis(60));
        rtt.on_sample(Duration::from_millis(140));
        assert_eq!(rtt.lowest(), Some(Duration::from_millis(70)));
    }
}
