//! One track's own sequence numbers and timestamps, which go on without a seam when its publisher
//! changes SSRC or starts its numbering anew (RFC 3550 §A.1).
//!
//! No two packets that are taken ever get one number: subscribers derive their nonces from it.

use std::time::Instant;

use crate::base::ids::{ClockRate, RtpTime, SeqNo, SeqNo16, Ssrc};
use crate::media::sequence::{SeqExtender, nearest};

/// Normalises the packets of one track.
#[derive(Debug)]
pub struct Stream {
    clock_rate: ClockRate,
    epoch: Option<Epoch>,
    /// SSRCs the track had before, oldest first.
    former: Vec<Ssrc>,
}

/// One run of packets that share SSRC and numbering.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    ssrc: Ssrc,
    extender: SeqExtender,
    /// What is added to the source's extended number, modulo 2^64.
    seq_offset: u64,
    /// Numbers below belong to a former epoch.
    seq_min: SeqNo,
    /// What is added to the source's timestamp, modulo 2^32.
    time_offset: u32,
    /// The track's highest number, its timestamp, and when it came.
    highest: SeqNo,
    highest_time: RtpTime,
    last_arrival: Instant,
}

/// A packet's place in its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalised {
    /// The track's number for it.
    pub seq: SeqNo,
    /// The track's timestamp for it.
    pub timestamp: RtpTime,
    /// The source's own extended number.
    pub source_seq: SeqNo,
    /// Whether it starts a new run of the source: statistics and reports start anew.
    pub restarted: bool,
}

/// Why a packet has no place in its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its SSRC was replaced by another, which still sends.
    FormerSsrc,
    /// It was sent before the present run started, or is older than anything still of use.
    TooOld,
}

impl Stream {
    /// A track that has no packet yet.
    #[must_use]
    pub fn new(clock_rate: ClockRate) -> Self {
        Self {
            clock_rate,
            epoch: None,
            former: Vec::new(),
        }
    }

    /// The SSRC the track has at present.
    #[must_use]
    pub fn ssrc(&self) -> Option<Ssrc> {
        self.epoch.map(|epoch| epoch.ssrc)
    }

    /// Gives a packet its place.
    ///
    /// # Errors
    /// [`Refused`] says why it has none.
    pub fn accept(
        &mut self,
        now: Instant,
        ssrc: Ssrc,
        seq: SeqNo16,
        timestamp: RtpTime,
    ) -> Result<Normalised, Refused> {
        let Some(mut epoch) = self.epoch else {
            return Ok(self.start(now, ssrc, seq, timestamp, None));
        };
        if ssrc != epoch.ssrc {
            let silent = now
                .saturating_duration_since(epoch.last_arrival)
                .as_millis();
            if self.former.contains(&ssrc) && silent < SILENCE_MS {
                return Err(Refused::FormerSsrc);
            }
            self.former.retain(|former| *former != ssrc);
            if self.former.len() == FORMER_MAX {
                self.former.remove(0);
            }
            self.former.push(epoch.ssrc);
            return Ok(self.start(now, ssrc, seq, timestamp, Some(epoch)));
        }
        let before = epoch.extender.highest();
        let source_seq = epoch.extender.extend(seq);
        if source_seq.0 > before.0 + DROPOUT_MAX {
            return Ok(self.start(now, ssrc, seq, timestamp, Some(epoch)));
        }
        let seq = SeqNo(source_seq.0.wrapping_add(epoch.seq_offset));
        // Wrapping: a number below the start of the track's numbering shows as a huge one.
        if seq < epoch.seq_min || seq.0 > epoch.highest.0 + DROPOUT_MAX {
            return Err(Refused::TooOld);
        }
        let timestamp = RtpTime(timestamp.0.wrapping_add(epoch.time_offset));
        if seq > epoch.highest {
            epoch.highest = seq;
            epoch.highest_time = timestamp;
        }
        epoch.last_arrival = now;
        self.epoch = Some(epoch);
        Ok(Normalised {
            seq,
            timestamp,
            source_seq,
            restarted: false,
        })
    }

    /// Gives a packet its place that was sent again on another stream (RFC 4588), under the SSRC and number it
    /// first had. It repairs the present run and never starts one, nor does it show that the source is alive.
    ///
    /// # Errors
    /// [`Refused`] says why it has none.
    pub fn accept_repaired(
        &mut self,
        ssrc: Ssrc,
        seq: SeqNo16,
        timestamp: RtpTime,
    ) -> Result<Normalised, Refused> {
        let Some(mut epoch) = self.epoch.filter(|epoch| epoch.ssrc == ssrc) else {
            return Err(Refused::FormerSsrc);
        };
        let source_seq = nearest(epoch.extender.highest(), seq);
        let seq = SeqNo(source_seq.0.wrapping_add(epoch.seq_offset));
        if seq < epoch.seq_min || seq.0 > epoch.highest.0 + REPAIR_AHEAD_MAX {
            return Err(Refused::TooOld);
        }
        epoch.extender.extend(source_seq.on_wire());
        let timestamp = RtpTime(timestamp.0.wrapping_add(epoch.time_offset));
        if seq > epoch.highest {
            epoch.highest = seq;
            epoch.highest_time = timestamp;
        }
        self.epoch = Some(epoch);
        Ok(Normalised {
            seq,
            timestamp,
            source_seq,
            restarted: false,
        })
    }

    /// The track's timestamp for one of the source, if that SSRC is the track's at present.
    #[must_use]
    pub fn timestamp(&self, ssrc: Ssrc, timestamp: RtpTime) -> Option<RtpTime> {
        let epoch = self.epoch.filter(|epoch| epoch.ssrc == ssrc)?;
        Some(RtpTime(timestamp.0.wrapping_add(epoch.time_offset)))
    }

    fn start(
        &mut self,
        now: Instant,
        ssrc: Ssrc,
        seq: SeqNo16,
        timestamp: RtpTime,
        former: Option<Epoch>,
    ) -> Normalised {
        let extender = SeqExtender::new(seq);
        let source_seq = extender.highest();
        let (highest, seq_min, highest_time) = match former {
            // The very first run may have lost its first packets to reordering.
            None => (SeqNo(FIRST), SeqNo(0), timestamp),
            Some(former) => {
                let next = SeqNo(former.highest.0 + 1);
                let ticks = self.ticks(now, former.last_arrival).max(1);
                (
                    next,
                    next,
                    RtpTime(former.highest_time.0.wrapping_add(ticks)),
                )
            }
        };
        self.epoch = Some(Epoch {
            ssrc,
            extender,
            seq_offset: highest.0.wrapping_sub(source_seq.0),
            seq_min,
            time_offset: highest_time.0.wrapping_sub(timestamp.0),
            highest,
            highest_time,
            last_arrival: now,
        });
        Normalised {
            seq: highest,
            timestamp: highest_time,
            source_seq,
            restarted: true,
        }
    }

    fn ticks(&self, now: Instant, then: Instant) -> u32 {
        let elapsed_us = now.saturating_duration_since(then).as_micros();
        (elapsed_us * u128::from(self.clock_rate.0) / 1_000_000) as u32
    }
}

/// A track's first number: high enough that nothing reordered lies below zero.
const FIRST: u64 = 1 << 20;
/// A jump ahead by more starts a new run (RFC 3550 §A.1, MAX_DROPOUT).
const DROPOUT_MAX: u64 = 3000;
/// How far ahead of all that came a repaired packet may be: what was sent last can be sent again before
/// anything else comes.
const REPAIR_AHEAD_MAX: u64 = 100;
/// How long the present SSRC must be silent before a former one may take the track back. Chosen
/// above the longest usual gap between two packets of a live stream (a 2 Hz screen share).
const SILENCE_MS: u128 = 500;
/// Former SSRCs remembered; the oldest is forgotten. As many as a peer's SSRC table learns.
const FORMER_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: Ssrc = Ssrc(1);
    const B: Ssrc = Ssrc(2);

    /// (ms, ssrc, seq, timestamp) -> (seq - FIRST, timestamp, restarted)
    type Step = (u64, Ssrc, u16, u32, Result<(i64, u32, bool), Refused>);

    fn run(steps: &[Step]) {
        let t0 = Instant::now();
        let mut stream = Stream::new(ClockRate(90_000));
        for (i, (ms, ssrc, seq, time, expected)) in steps.iter().enumerate() {
            let now = t0 + Duration::from_millis(*ms);
            let got = stream
                .accept(now, *ssrc, SeqNo16(*seq), RtpTime(*time))
                .map(|n| (n.seq.0 as i64 - FIRST as i64, n.timestamp.0, n.restarted));
            assert_eq!(got, *expected, "step {i}");
        }
    }

    #[test]
    fn one_source_keeps_its_gaps_and_order() {
        run(&[
            (0, A, 65_534, 100, Ok((0, 100, true))),
            (1, A, 65_533, 90, Ok((-1, 90, false))),
            (2, A, 1, 130, Ok((3, 130, false))),
            (3, A, 0, 120, Ok((2, 120, false))),
        ]);
    }

    #[test]
    fn a_new_ssrc_goes_on_where_the_former_stopped() {
        run(&[
            (0, A, 10, 1000, Ok((0, 1000, true))),
            (10, A, 12, 1900, Ok((2, 1900, false))),
            // 20 ms later, 1800 ticks at 90 kHz.
            (30, B, 500, 70, Ok((3, 3700, true))),
            (31, B, 501, 160, Ok((4, 3790, false))),
            // Before the new run's first packet: its number is taken.
            (32, B, 499, 70, Err(Refused::TooOld)),
            // The former SSRC is late, then comes back after a silence.
            (33, A, 13, 2000, Err(Refused::FormerSsrc)),
            (600, A, 900, 5, Ok((5, 3790 + 51_210, true))),
            (601, B, 502, 250, Err(Refused::FormerSsrc)),
        ]);
    }

    #[test]
    fn a_repaired_packet_finds_its_place_and_starts_nothing() {
        let t0 = Instant::now();
        let mut stream = Stream::new(ClockRate(90_000));
        let repair = |stream: &mut Stream, ssrc, seq| {
            let place = stream.accept_repaired(ssrc, SeqNo16(seq), RtpTime(70));
            place.map(|place| (place.seq.0 as i64 - FIRST as i64, place.timestamp.0))
        };
        assert_eq!(repair(&mut stream, A, 5), Err(Refused::FormerSsrc));
        stream.accept(t0, A, SeqNo16(2), RtpTime(50)).unwrap();
        stream.accept(t0, A, SeqNo16(5), RtpTime(80)).unwrap();
        let cases = [
            (A, 4, Ok((2, 70))),
            (A, 65_535, Ok((-3, 70))),
            (A, 7, Ok((5, 70))),
            (A, 108, Err(Refused::TooOld)),
            (B, 6, Err(Refused::FormerSsrc)),
        ];
        for (ssrc, seq, expected) in cases {
            assert_eq!(repair(&mut stream, ssrc, seq), expected, "{seq}");
        }
        // Of a former run nothing is repaired.
        stream.accept(t0, B, SeqNo16(900), RtpTime(0)).unwrap();
        assert_eq!(repair(&mut stream, B, 899), Err(Refused::TooOld));
        assert_eq!(repair(&mut stream, A, 8), Err(Refused::FormerSsrc));
        assert_eq!(stream.ssrc(), Some(B));
    }

    #[test]
    fn a_jump_beyond_reason_starts_a_new_run() {
        run(&[
            (0, A, 10, 0, Ok((0, 0, true))),
            (1, A, 3010, 9, Ok((3000, 9, false))),
            (2, A, 6011, 77, Ok((3001, 99, true))),
            (3, A, 6012, 78, Ok((3002, 100, false))),
            (3, A, 6010, 70, Err(Refused::TooOld)),
        ]);
    }

    #[test]
    fn a_source_timestamp_is_translated_while_its_ssrc_is_current() {
        let t0 = Instant::now();
        let mut stream = Stream::new(ClockRate(48_000));
        assert_eq!(stream.timestamp(A, RtpTime(5)), None);
        stream.accept(t0, A, SeqNo16(1), RtpTime(1000)).unwrap();
        stream.accept(t0, B, SeqNo16(1), RtpTime(500)).unwrap();
        assert_eq!(stream.timestamp(A, RtpTime(1000)), None);
        assert_eq!(stream.timestamp(B, RtpTime(500)), Some(RtpTime(1001)));
        assert_eq!(stream.ssrc(), Some(B));
    }
}
