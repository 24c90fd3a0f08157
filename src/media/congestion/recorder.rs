//! When a publisher's packets arrived, by their transport-wide numbers: what it is told in feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3).

use std::time::{Duration, Instant};

use crate::base::ids::{SeqNo16, Ssrc};
use crate::wire::bandwidth::{TICK_US, TICKS_PER_REFERENCE, TransportFeedback};

/// The arrivals from one publisher that are to be reported.
#[derive(Debug, Default)]
pub struct ArrivalRecorder {
    /// Arrival times in ticks since `epoch`, in a ring indexed by number; made with the first packet.
    ticks: Vec<Option<i64>>,
    epoch: Option<Instant>,
    /// One above the highest number that arrived, extended beyond 16 bits.
    next: u64,
    /// The lowest number that is in the ring.
    oldest: u64,
    /// The first number that the next message tells of.
    from: u64,
    count: u8,
    due: Option<Instant>,
    media: Option<Ssrc>,
}

impl ArrivalRecorder {
    /// A packet with the number `seq` arrived, of the stream `media`.
    pub fn on_packet(&mut self, now: Instant, seq: SeqNo16, media: Ssrc) {
        let epoch = *self.epoch.get_or_insert(now);
        let since = now.saturating_duration_since(epoch);
        let ticks = since.as_micros() as i64 / TICK_US;
        if self.ticks.is_empty() {
            self.ticks.resize(WINDOW as usize, None);
            self.restart(u64::from(seq.0) + START);
        }
        // The number nearest to the highest.
        let ahead = i64::from(seq.0.wrapping_sub(self.next as u16) as i16);
        let seq = self.next.saturating_add_signed(ahead);
        if ahead.unsigned_abs() >= WINDOW {
            // Another run of numbers; what was not reported is too old to be of use.
            self.restart(seq);
        } else if seq < self.oldest {
            return;
        }
        if seq >= self.next {
            for skipped in self.next..=seq {
                self.ticks[index(skipped)] = None;
            }
            self.next = seq + 1;
            let oldest = self.next.saturating_sub(WINDOW);
            self.oldest = self.oldest.max(oldest);
            self.from = self.from.max(oldest);
        }
        let slot = &mut self.ticks[index(seq)];
        if slot.is_none() {
            *slot = Some(ticks);
            // It came late, and was told of as missing: what is behind it is told again.
            self.from = self.from.min(seq);
        }
        self.media = Some(media);
        self.due.get_or_insert(now + FEEDBACK_INTERVAL);
    }

    /// When feedback is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Appends the feedback that is due, if it is, from this server's `sender`. True if it did.
    pub fn write_due(&mut self, now: Instant, sender: Ssrc, out: &mut Vec<u8>) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.due = None;
        // What is missing in front of the first arrival was told, or is told with the next late one.
        let first = (self.from..self.next).find_map(|seq| self.ticks[index(seq)].map(|t| (seq, t)));
        let (Some((first, ticks)), Some(media)) = (first, self.media) else {
            return false;
        };
        let from = if self.from == self.oldest {
            first
        } else {
            self.from
        };
        let reference = ticks.div_euclid(TICKS_PER_REFERENCE);
        let origin = reference * TICKS_PER_REFERENCE;
        let arrivals = (from..self.next)
            .map(|seq| self.ticks[index(seq)].map(|ticks| (ticks - origin) as i32))
            .collect();
        let feedback = TransportFeedback {
            sender,
            media,
            base: SeqNo16(from as u16),
            // 24 bits of it go onto the wire.
            reference: reference as i32,
            count: self.count,
            arrivals,
        };
        let told = feedback.write(out);
        if told == 0 {
            self.from = self.next;
            return false;
        }
        self.count = self.count.wrapping_add(1);
        self.from = from + told as u64;
        if self.from < self.next {
            self.due = Some(now);
        }
        true
    }

    fn restart(&mut self, seq: u64) {
        self.ticks.fill(None);
        (self.next, self.oldest, self.from) = (seq, seq, seq);
    }
}

fn index(seq: u64) -> usize {
    (seq % WINDOW) as usize
}

/// How long after an arrival it is reported: between libwebrtc's 50 and 250 ms.
pub const FEEDBACK_INTERVAL: Duration = Duration::from_millis(80);
/// How many numbers are kept: 80 ms of 150 Mbit/s, and for late packets half a second of 25 Mbit/s.
const WINDOW: u64 = 1024;
/// So that numbers before the first one have a place too.
const START: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn take(recorder: &mut ArrivalRecorder, now: Instant) -> Option<TransportFeedback> {
        let mut out = Vec::new();
        let wrote = recorder.write_due(now, Ssrc(1), &mut out);
        assert_eq!(wrote, !out.is_empty());
        wrote.then(|| TransportFeedback::parse(&out).unwrap())
    }

    #[test]
    fn arrivals_gaps_and_late_packets_are_told() {
        let t0 = Instant::now();
        let mut recorder = ArrivalRecorder::default();
        assert_eq!(recorder.poll_timeout(), None);
        for (at, seq) in [(0, 65_534_u16), (1, 65_535), (5, 1), (6, 2)] {
            recorder.on_packet(t0 + ms(at), SeqNo16(seq), Ssrc(7));
        }
        assert_eq!(recorder.poll_timeout(), Some(t0 + FEEDBACK_INTERVAL));
        assert_eq!(take(&mut recorder, t0 + ms(79)), None);
        let feedback = take(&mut recorder, t0 + ms(80)).unwrap();
        assert_eq!((feedback.base, feedback.count), (SeqNo16(65_534), 0));
        assert_eq!(
            feedback.arrivals,
            [Some(0), Some(4), None, Some(20), Some(24)]
        );
        assert_eq!(recorder.poll_timeout(), None);

        // 0 comes late, and 3 and 4 do not come in order.
        for (at, seq) in [(100, 0), (110, 4), (120, 3), (121, 3)] {
            recorder.on_packet(t0 + ms(at), SeqNo16(seq), Ssrc(7));
        }
        let feedback = take(&mut recorder, t0 + ms(200)).unwrap();
        assert_eq!((feedback.base, feedback.count), (SeqNo16(0), 1));
        let at = |ms: i32| Some(ms * 4 - feedback.reference * 256);
        assert_eq!(feedback.arrivals, [at(100), at(5), at(6), at(120), at(110)]);
        assert_eq!(feedback.reference, 1);
    }

    #[test]
    fn jumps_and_long_breaks_start_anew() {
        let t0 = Instant::now();
        let mut recorder = ArrivalRecorder::default();
        for n in 0..5000_u64 {
            recorder.on_packet(t0 + ms(n), SeqNo16(n as u16), Ssrc(7));
        }
        let feedback = take(&mut recorder, t0 + ms(5000)).unwrap();
        assert_eq!(feedback.arrivals.len(), WINDOW as usize);
        recorder.on_packet(t0 + ms(5100), SeqNo16(30_000), Ssrc(7));
        let feedback = take(&mut recorder, t0 + ms(5300)).unwrap();
        assert_eq!(
            (feedback.base, feedback.arrivals.len()),
            (SeqNo16(30_000), 1)
        );
        // A minute later: the distance cannot be written in one message.
        recorder.on_packet(t0 + ms(5301), SeqNo16(30_001), Ssrc(7));
        recorder.on_packet(t0 + ms(65_000), SeqNo16(30_002), Ssrc(7));
        let first = take(&mut recorder, t0 + ms(65_000)).unwrap();
        let second = take(&mut recorder, t0 + ms(65_000)).unwrap();
        assert_eq!((first.arrivals.len(), second.arrivals.len()), (1, 1));
        assert_eq!(second.base, SeqNo16(30_002));
    }
}
