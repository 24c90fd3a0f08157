//! One received stream: what has come, what is missing, what came twice or late, by sequence numbers
//! alone, which are in the clear.

use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, SeqNo16, Ssrc};
use crate::load::stamp::Stamp;
use crate::wire::rtcp::ReportBlock;

/// Where a packet stands among those that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The newest so far, after this many that are missing.
    Next(u64),
    /// One that was missing.
    Late,
    /// It was here before.
    Duplicate,
    /// Older than the window, so that nobody can tell.
    TooOld,
}

/// One received stream.
#[derive(Debug, Clone)]
pub struct Reception {
    /// Its SSRC.
    pub ssrc: Ssrc,
    /// Audio or video.
    pub kind: MediaKind,
    origin: Origin,
    /// Whether the server may leave packets out, which its own numbers do not show.
    may_be_thinned: bool,
    numbers: Option<Numbers>,
    last_arrival: Option<Instant>,
    missing: Vec<Missing>,
    reported: (u64, u64),
}

/// From where a stream comes, as its payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Unknown,
    /// One stream of one publisher; `offset` is counter minus extended sequence number, wrapping.
    Stream {
        publisher: u32,
        stream: u8,
        offset: u64,
    },
    /// Several video streams of one publisher, by turns: layers of simulcast, each with counters
    /// of its own; or one with pauses.
    Layers {
        publisher: u32,
    },
}

/// Extended sequence numbers: the wire's 16 bits continued, starting above [`BASE`].
#[derive(Debug, Clone)]
struct Numbers {
    first: u64,
    highest: u64,
    /// One bit for each of the last [`WINDOW`] numbers.
    seen: [u64; WINDOW as usize / 64],
    received: u64,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    seq: u64,
    tries: u8,
    ask_at: Instant,
}

impl Reception {
    /// A stream of which nothing has come yet. `may_be_thinned`: the server may leave video out, where it estimates what
    /// the client can take.
    #[must_use]
    pub fn new(ssrc: Ssrc, kind: MediaKind, may_be_thinned: bool) -> Self {
        Self {
            ssrc,
            kind,
            origin: Origin::Unknown,
            may_be_thinned: may_be_thinned && kind == MediaKind::Video,
            numbers: None,
            last_arrival: None,
            missing: Vec::new(),
            reported: (0, 0),
        }
    }

    /// Takes a packet's number.
    pub fn on_packet(&mut self, now: Instant, seq: SeqNo16) -> Arrival {
        self.last_arrival = Some(now);
        let Some(numbers) = &mut self.numbers else {
            self.numbers = Some(Numbers::starting_with(BASE + u64::from(seq.0)));
            return Arrival::Next(0);
        };
        let seq = numbers.extend(seq);
        let before = numbers.highest;
        let arrival = numbers.accept(seq);
        match arrival {
            Arrival::Next(1..) if self.kind == MediaKind::Video => {
                // Of a long gap the newest: the oldest would come too late to be shown anyway.
                let room = MISSING_MAX.saturating_sub(self.missing.len()) as u64;
                let from = (before + 1).max(seq.saturating_sub(room));
                self.missing.extend((from..seq).map(|seq| Missing {
                    seq,
                    tries: 0,
                    ask_at: now,
                }));
            }
            Arrival::Late => self.missing.retain(|missing| missing.seq != seq),
            _ => {}
        }
        arrival
    }

    /// Takes what the payload of the packet `seq`, just received, says. False where it contradicts
    /// what earlier ones said: another stream, or another number for the same packet.
    pub fn on_stamp(&mut self, seq: SeqNo16, stamp: &Stamp) -> bool {
        let Some(numbers) = &self.numbers else {
            return false;
        };
        let said = Origin::Stream {
            publisher: stamp.publisher,
            stream: stamp.stream,
            offset: stamp.counter.wrapping_sub(numbers.extend(seq)),
        };
        match self.origin {
            Origin::Unknown => self.origin = said,
            Origin::Layers { publisher } => return publisher == stamp.publisher,
            Origin::Stream {
                publisher, stream, ..
            } => {
                let is_other_layer = stream != stamp.stream && stream != 0 && stamp.stream != 0;
                let is_later_part = self.may_be_thinned && stream == stamp.stream;
                let is_same = self.origin == said;
                if publisher == stamp.publisher && !is_same && (is_other_layer || is_later_part) {
                    self.origin = Origin::Layers { publisher };
                    return true;
                }
                return is_same;
            }
        }
        true
    }

    /// Whose stream it is and which, where it is one and known.
    #[must_use]
    pub fn origin(&self) -> Option<(u32, u8)> {
        match self.origin {
            Origin::Stream {
                publisher, stream, ..
            } => Some((publisher, stream)),
            Origin::Unknown | Origin::Layers { .. } => None,
        }
    }

    /// Different packets received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.numbers.as_ref().map_or(0, |numbers| numbers.received)
    }

    /// How many packets there were to receive from the first to the last one that came.
    #[must_use]
    pub fn expected(&self) -> u64 {
        let numbers = self.numbers.as_ref();
        numbers.map_or(0, |numbers| numbers.highest - numbers.first + 1)
    }

    /// The counter of the first packet, where the origin is known: what came before it was sent
    /// before this stream was received.
    #[must_use]
    pub fn first_counter(&self) -> u64 {
        match (&self.numbers, self.origin) {
            (Some(numbers), Origin::Stream { offset, .. }) => numbers.first.wrapping_add(offset),
            _ => 0,
        }
    }

    /// Whether it had begun and came no more long before its publisher stopped, at `end`.
    #[must_use]
    pub fn has_stopped_before(&self, end: Instant) -> bool {
        self.last_arrival
            .is_some_and(|last| end.saturating_duration_since(last) > STOPPED_AFTER)
    }

    /// The packets to ask for again now (RFC 4585 §6.2.1), each for [`NACK_TRIES`] times at most.
    pub fn poll_nack(&mut self, now: Instant) -> Vec<SeqNo16> {
        let mut wanted = Vec::new();
        self.missing.retain_mut(|missing| {
            if missing.ask_at > now {
                return true;
            }
            if missing.tries == NACK_TRIES {
                return false;
            }
            missing.tries += 1;
            missing.ask_at = now + NACK_AGAIN;
            wanted.push(SeqNo16(missing.seq as u16));
            true
        });
        wanted
    }

    /// When there is something to ask for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.ask_at).min()
    }

    /// What a receiver report says of the stream; `None` where nothing has come.
    pub fn report(&mut self) -> Option<ReportBlock> {
        let numbers = self.numbers.as_ref()?;
        let expected = numbers.highest - numbers.first + 1;
        let (expected_before, received_before) = self.reported;
        let expected_now = expected - expected_before;
        let lost_now = expected_now.saturating_sub(numbers.received - received_before);
        self.reported = (expected, numbers.received);
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost_now * 256 / expected_now.max(1)).min(255) as u8,
            total_lost: i32::try_from(expected.saturating_sub(numbers.received))
                .unwrap_or(i32::MAX),
            highest_seq: (numbers.highest - BASE) as u32,
            // Nobody reads these three yet.
            jitter_ticks: 0,
            last_sr: 0,
            delay_since_last_sr: 0,
        })
    }
}

impl Numbers {
    fn starting_with(seq: u64) -> Self {
        let mut numbers = Self {
            first: seq,
            highest: seq,
            seen: [0; WINDOW as usize / 64],
            received: 1,
        };
        numbers.set(seq, true);
        numbers
    }

    /// The number nearest to the highest one that ends in these 16 bits.
    fn extend(&self, seq: SeqNo16) -> u64 {
        let step = seq.0.wrapping_sub(self.highest as u16) as i16;
        self.highest.saturating_add_signed(i64::from(step))
    }

    fn accept(&mut self, seq: u64) -> Arrival {
        if seq > self.highest {
            let gap = seq - self.highest - 1;
            if gap >= WINDOW {
                self.seen.fill(0);
            } else {
                for skipped in self.highest + 1..seq {
                    self.set(skipped, false);
                }
            }
            self.highest = seq;
            self.set(seq, true);
            self.received += 1;
            return Arrival::Next(gap);
        }
        if self.highest - seq >= WINDOW {
            return Arrival::TooOld;
        }
        let bit = seq % WINDOW;
        // Before the first packet the window is empty: such a one came late, too.
        if self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1 {
            return Arrival::Duplicate;
        }
        self.first = self.first.min(seq);
        self.set(seq, true);
        self.received += 1;
        Arrival::Late
    }

    fn set(&mut self, seq: u64, seen: bool) {
        let bit = seq % WINDOW;
        let (word, mask) = (&mut self.seen[(bit / 64) as usize], 1 << (bit % 64));
        if seen {
            *word |= mask;
        } else {
            *word &= !mask;
        }
    }
}

/// Far enough from 0 that a packet from before the first one has a number.
const BASE: u64 = 1 << 16;
/// Streams have a packet a second at least.
const STOPPED_AFTER: Duration = Duration::from_secs(3);
/// How far back duplicates are known, in packets.
const WINDOW: u64 = 1024;
/// The most packets asked for again at a time.
const MISSING_MAX: usize = 256;
/// As often as libwebrtc asks at most.
const NACK_TRIES: u8 = 10;
/// About the longest round trip the demo page is used over; libwebrtc takes the measured one.
const NACK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn reception() -> Reception {
        Reception::new(Ssrc(7), MediaKind::Video, false)
    }

    fn take(reception: &mut Reception, seqs: &[u16]) -> Vec<Arrival> {
        let now = Instant::now();
        seqs.iter()
            .map(|seq| reception.on_packet(now, SeqNo16(*seq)))
            .collect()
    }

    #[test]
    fn order_is_told_across_the_wrap() {
        use Arrival::{Duplicate, Late, Next};
        let mut reception = reception();
        let arrivals = take(
            &mut reception,
            &[65_534, 65_535, 1, 0, 0, 1, 65_533, 4, 2, 3],
        );
        let expected = [
            Next(0),
            Next(0),
            Next(1),
            Late,
            Duplicate,
            Duplicate,
            Late,
            Next(2),
            Late,
            Late,
        ];
        assert_eq!(arrivals, expected);
        assert_eq!((reception.received(), reception.expected()), (8, 8));
        assert_eq!(
            take(&mut reception, &[2004, 4]),
            [Next(1999), Arrival::TooOld]
        );
        assert_eq!(reception.expected() - reception.received(), 1999);
    }

    #[test]
    fn what_the_server_left_out_is_neither_loss_nor_another_stream() {
        let stamp = |stream, counter| Stamp {
            publisher: 1,
            stream,
            counter,
            sent: Duration::ZERO,
        };
        for may_be_thinned in [false, true] {
            let mut reception = Reception::new(Ssrc(7), MediaKind::Video, may_be_thinned);
            take(&mut reception, &[100, 101]);
            assert!(reception.on_stamp(SeqNo16(100), &stamp(1, 50)));
            let fits = reception.on_stamp(SeqNo16(101), &stamp(1, 80));
            assert_eq!(fits, may_be_thinned);
            assert!(!reception.on_stamp(
                SeqNo16(101),
                &Stamp {
                    publisher: 2,
                    ..stamp(1, 81)
                }
            ));
            assert_eq!(reception.origin().is_none(), may_be_thinned);
        }
    }

    #[test]
    fn the_counter_of_the_first_packet_is_known() {
        let mut reception = reception();
        take(&mut reception, &[100, 101]);
        let stamp = |stream, counter| Stamp {
            publisher: 1,
            stream,
            counter,
            sent: Duration::ZERO,
        };
        assert!(reception.on_stamp(SeqNo16(101), &stamp(2, 11)));
        assert!(reception.on_stamp(SeqNo16(100), &stamp(2, 10)));
        assert!(
            !reception.on_stamp(SeqNo16(100), &stamp(2, 11)),
            "renumbered"
        );
        assert!(!reception.on_stamp(SeqNo16(100), &stamp(0, 10)), "audio");
        assert_eq!(reception.origin(), Some((1, 2)));
        assert_eq!((reception.expected(), reception.first_counter()), (2, 10));
        take(&mut reception, &[99]);
        assert_eq!((reception.expected(), reception.first_counter()), (3, 9));
        assert!(reception.on_stamp(SeqNo16(101), &stamp(1, 500)), "a layer");
        assert_eq!((reception.origin(), reception.first_counter()), (None, 0));
    }

    #[test]
    fn what_is_missing_is_asked_for_a_few_times() {
        let t0 = Instant::now();
        let mut reception = reception();
        reception.on_packet(t0, SeqNo16(5));
        reception.on_packet(t0, SeqNo16(8));
        assert_eq!(reception.poll_timeout(), Some(t0));
        assert_eq!(reception.poll_nack(t0), [SeqNo16(6), SeqNo16(7)]);
        assert_eq!(reception.poll_nack(t0), []);
        reception.on_packet(t0, SeqNo16(6));
        let mut asked = 0;
        while let Some(at) = reception.poll_timeout() {
            asked += reception.poll_nack(at).len();
        }
        assert_eq!(asked, usize::from(NACK_TRIES) - 1);
        // A gap longer than the list costs its oldest.
        reception.on_packet(t0, SeqNo16(1000));
        let wanted = reception.poll_nack(t0);
        assert_eq!(wanted.len(), MISSING_MAX);
        assert_eq!(wanted.last(), Some(&SeqNo16(999)));
    }

    #[test]
    fn a_stream_that_ends_early_is_seen() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut reception = reception();
        assert!(!reception.has_stopped_before(at(9_000)), "it never began");
        reception.on_packet(t0, SeqNo16(1));
        reception.on_packet(at(1_000), SeqNo16(2));
        assert!(!reception.has_stopped_before(at(3_900)));
        assert!(reception.has_stopped_before(at(4_100)));
    }

    #[test]
    fn audio_is_not_asked_for_again() {
        let mut reception = Reception::new(Ssrc(7), MediaKind::Audio, true);
        take(&mut reception, &[5, 8]);
        assert_eq!(reception.poll_timeout(), None);
    }

    #[test]
    fn reports_tell_loss_since_the_last_and_in_all() {
        let mut reception = reception();
        assert_eq!(reception.report(), None);
        take(&mut reception, &[0, 1, 2, 7]);
        let block = reception.report().unwrap();
        assert_eq!((block.fraction_lost, block.total_lost), (128, 4));
        assert_eq!(block.highest_seq, 7);
        take(&mut reception, &[8, 9]);
        let block = reception.report().unwrap();
        assert_eq!((block.fraction_lost, block.total_lost), (0, 4));
    }
}
