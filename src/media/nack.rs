//! Which packets of one received stream are missing, and when their sender is asked for them again
//! (generic NACK, RFC 4585 §6.2.1).
//!
//! Knows the numbers of one run of one stream, and the time. What a number stands for, who is asked and
//! what a keyframe is, its owner knows. The policy is libwebrtc's (its `NackRequester`), but for a short
//! wait before the first request, which spares requests where a network reorders.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, SeqNo, SeqNo16};
use crate::base::time::earliest;

/// Finds gaps in the numbers of one stream and says when to ask for what fell into them.
#[derive(Debug)]
pub struct NackGenerator {
    kind: MediaKind,
    highest: Option<SeqNo>,
    /// Ascending; at most [`MISSING_MAX`].
    missing: VecDeque<Missing>,
    /// A keyframe was asked for (or came) after everything up to here.
    covered: SeqNo,
    /// Packets above `covered` are lost for good.
    has_hole: bool,
    next_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    seq: SeqNo,
    since: Instant,
    ask_at: Instant,
    times: u8,
}

/// What a packet's number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It follows the highest.
    Next,
    /// It is above the highest and leaves a gap: there is a new deadline.
    AfterGap,
    /// It was missing.
    Recovered,
    /// It is below the highest, and nobody waits for it: it came before, or is given up.
    Unexpected,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NackDue {
    /// How many packets are given up.
    pub given_up: u32,
    /// A gap stays or takes too long to close: only a keyframe helps. Never for sound.
    pub needs_keyframe: bool,
}

impl NackGenerator {
    /// Nothing came yet.
    #[must_use]
    pub fn new(kind: MediaKind) -> Self {
        Self {
            kind,
            highest: None,
            missing: VecDeque::new(),
            covered: SeqNo(0),
            has_hole: false,
            next_at: None,
        }
    }

    /// A packet came, sent for the first time or again. `asks`: whether what is missing before it may be
    /// asked for (the sender has agreed to NACK).
    #[inline]
    pub fn on_packet(&mut self, now: Instant, seq: SeqNo, asks: bool) -> Arrival {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return Arrival::Next;
        };
        if seq.0 == highest.0 + 1 {
            self.highest = Some(seq);
            return Arrival::Next;
        }
        if seq > highest {
            self.highest = Some(seq);
            if !asks {
                return Arrival::Next;
            }
            self.on_gap(now, highest, seq);
            return Arrival::AfterGap;
        }
        self.on_late(seq)
    }

    /// The source has started a new run: nothing of the former can be asked for.
    pub fn restart(&mut self) {
        *self = Self::new(self.kind);
    }

    /// A keyframe starts at `seq`: what is missing before it is still asked for, but no reason for another.
    pub fn on_keyframe(&mut self, seq: SeqNo) {
        self.covered = self.covered.max(seq);
        let is_left = |missing: &Missing| missing.seq > self.covered;
        self.has_hole &= self.missing.iter().any(is_left);
    }

    /// When [`NackGenerator::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_at
    }

    /// Whether nothing is missing that is still asked for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Appends the numbers to ask for now. `rtt`: how long an answer takes, where that is known.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        rtt: Option<Duration>,
        numbers: &mut Vec<SeqNo16>,
    ) -> NackDue {
        if self.next_at.is_none_or(|at| now < at) {
            return NackDue::default();
        }
        let retry = rtt.unwrap_or(RTT_UNKNOWN).clamp(RETRY_MIN, RETRY_MAX);
        let retry_late = (retry / 3).max(RETRY_MIN);
        let age_max = match self.kind {
            MediaKind::Audio => AUDIO_AGE_MAX,
            MediaKind::Video => VIDEO_AGE_MAX,
        };
        let is_video = self.kind == MediaKind::Video;
        let (before, covered) = (self.missing.len(), self.covered);
        let (mut has_hole, mut next_at) = (self.has_hole, None);
        self.missing.retain_mut(|missing| {
            let age = now.saturating_duration_since(missing.since);
            let holds_up = is_video && missing.seq > covered;
            has_hole |= holds_up && age >= STALL;
            if missing.ask_at <= now + SLACK {
                if missing.times >= TIMES_MAX || age > age_max {
                    has_hole |= missing.seq > covered;
                    return false;
                }
                missing.times += 1;
                let in_vain = missing.times > IN_VAIN;
                missing.ask_at = now + if in_vain { retry_late } else { retry };
                numbers.push(missing.seq.on_wire());
            }
            let stalls_at = (holds_up && age < STALL).then_some(missing.since + STALL);
            next_at = earliest(next_at, earliest(stalls_at, Some(missing.ask_at)));
            true
        });
        self.next_at = next_at;
        self.has_hole = false;
        if has_hole && let Some(highest) = self.highest {
            self.covered = highest;
        }
        NackDue {
            given_up: (before - self.missing.len()) as u32,
            needs_keyframe: has_hole && is_video,
        }
    }

    #[cold]
    fn on_gap(&mut self, now: Instant, highest: SeqNo, seq: SeqNo) {
        let gap = seq.0 - highest.0 - 1;
        let ask_at = now + REORDERING;
        if self.missing.len() as u64 + gap > MISSING_MAX {
            // Asking for all of it would cost more than it brings.
            self.missing.clear();
            self.has_hole = true;
            self.next_at = Some(now);
            return;
        }
        self.missing
            .extend((highest.0 + 1..seq.0).map(|seq| Missing {
                seq: SeqNo(seq),
                since: now,
                ask_at,
                times: 0,
            }));
        self.next_at = earliest(self.next_at, Some(ask_at));
    }

    #[cold]
    fn on_late(&mut self, seq: SeqNo) -> Arrival {
        let Ok(at) = self.missing.binary_search_by_key(&seq, |m| m.seq) else {
            return Arrival::Unexpected;
        };
        self.missing.remove(at);
        if self.missing.is_empty() && !self.has_hole {
            self.next_at = None;
        }
        Arrival::Recovered
    }
}

/// How long a packet may be overtaken before it counts as lost. Measured on nothing: a wireless link's
/// retransmissions take a few milliseconds, and a receiver's jitter buffer is deeper than this.
const REORDERING: Duration = Duration::from_millis(10);
/// What is due within this is asked for at once: one request instead of several.
const SLACK: Duration = Duration::from_millis(2);
/// Until a round trip is known (libwebrtc: `kDefaultRttMs`).
const RTT_UNKNOWN: Duration = Duration::from_millis(100);
/// A packet is asked for again after a round trip, but not sooner (libwebrtc: `kUpdateInterval`).
const RETRY_MIN: Duration = Duration::from_millis(20);
/// A round trip longer than this is no reason to wait longer: the jitter buffers do not.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Asked for so often without success, a packet is asked for three times in a round trip: the request itself may be what
/// is lost. A sender that is answering already does not answer twice.
const IN_VAIN: u8 = 1;
/// How often one packet is asked for (libwebrtc: `kMaxNackRetries`).
const TIMES_MAX: u8 = 10;
/// Pictures wait for a packet; a keyframe that was asked for at [`STALL`] has come by then.
const VIDEO_AGE_MAX: Duration = Duration::from_secs(2);
/// Sound is played without it by then.
const AUDIO_AGE_MAX: Duration = Duration::from_secs(1);
/// How long pictures may stand still before a keyframe is asked for beside: three requests at a round trip of
/// 200 ms, and then a keyframe still comes within a second.
const STALL: Duration = Duration::from_millis(600);
/// How many packets are asked for at a time. libwebrtc asks for up to 1000; a publisher at 2 Mbit/s fills
/// this in two seconds.
const MISSING_MAX: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Lab {
        t0: Instant,
        nack: NackGenerator,
    }

    impl Lab {
        fn new(kind: MediaKind) -> Self {
            Self {
                t0: Instant::now(),
                nack: NackGenerator::new(kind),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.t0 + Duration::from_millis(ms)
        }

        fn take(&mut self, ms: u64, seqs: &[u64]) -> Vec<Arrival> {
            let now = self.at(ms);
            let take = |seq: &u64| self.nack.on_packet(now, SeqNo(*seq), true);
            seqs.iter().map(take).collect()
        }

        fn due(&mut self, ms: u64, rtt_ms: Option<u64>) -> (Vec<u16>, NackDue) {
            let (now, mut numbers) = (self.at(ms), Vec::new());
            let rtt = rtt_ms.map(Duration::from_millis);
            let due = self.nack.handle_timeout(now, rtt, &mut numbers);
            (numbers.iter().map(|seq| seq.0).collect(), due)
        }

        /// Fires every timer up to `ms`; when it asked, for how many, and keyframes.
        fn run(&mut self, ms: u64, rtt_ms: u64) -> (Vec<(u64, usize)>, u32, u32) {
            let (mut asked, mut given_up, mut keyframes) = (Vec::new(), 0, 0);
            let rtt = Some(Duration::from_millis(rtt_ms));
            while let Some(now) = self.nack.poll_timeout().filter(|at| *at <= self.at(ms)) {
                let mut numbers = Vec::new();
                let due = self.nack.handle_timeout(now, rtt, &mut numbers);
                let at = now.saturating_duration_since(self.t0).as_millis() as u64;
                given_up += due.given_up;
                keyframes += u32::from(due.needs_keyframe);
                if !numbers.is_empty() {
                    asked.push((at, numbers.len()));
                }
            }
            (asked, given_up, keyframes)
        }
    }

    #[test]
    fn a_gap_is_asked_for_after_a_moment_and_again_after_a_round_trip() {
        let mut lab = Lab::new(MediaKind::Video);
        let arrivals = lab.take(0, &[10, 11, 14, 12]);
        use Arrival::*;
        assert_eq!(arrivals, [Next, Next, AfterGap, Recovered]);
        assert_eq!(lab.nack.poll_timeout(), Some(lab.at(10)));
        assert!(lab.due(9, None).0.is_empty());
        assert_eq!(lab.due(10, None).0, [13]);
        assert!(lab.due(50, None).0.is_empty());
        assert_eq!(lab.due(110, Some(30)).0, [13], "100 ms while it is unknown");
        assert_eq!(lab.due(140, Some(5)).0, [13]);
        assert_eq!(lab.due(160, Some(5)).0, [13], "20 ms at least");
        assert_eq!(
            lab.take(165, &[13, 13, 11]),
            [Recovered, Unexpected, Unexpected]
        );
        assert_eq!(lab.nack.poll_timeout(), None);
        assert!(lab.nack.is_complete());
    }

    #[test]
    fn what_never_comes_is_given_up() {
        let mut lab = Lab::new(MediaKind::Audio);
        lab.take(0, &[1, 3]);
        let (asked, given_up, keyframes) = lab.run(10_000, 50);
        assert_eq!((asked.len(), given_up, keyframes), (10, 1, 0));
        assert_eq!(asked[0], (10, 1));
        lab.take(20_000, &[5]);
        let (asked, given_up, _) = lab.run(30_000, 400);
        let times: Vec<u64> = asked.iter().map(|(at, _)| at - 20_000).collect();
        assert_eq!(times, [10, 410, 543, 676, 809, 943], "not after a second");
        assert_eq!(given_up, 1);
    }

    #[test]
    fn one_keyframe_covers_a_burst_that_stays_lost() {
        let mut lab = Lab::new(MediaKind::Video);
        lab.take(0, &[1, 22]);
        let (asked, given_up, keyframes) = lab.run(10_000, 200);
        assert_eq!(asked[..3], [(10, 20), (210, 20), (276, 20)]);
        assert_eq!((given_up, keyframes), (20, 1));
        lab.take(10_000, &[24]);
        assert_eq!(lab.run(20_000, 200).2, 1, "a new gap");

        // One that a keyframe follows anyway needs none.
        lab.take(20_000, &[26, 27]);
        lab.nack.on_keyframe(SeqNo(27));
        assert_eq!(lab.run(30_000, 200).2, 0);
    }

    #[test]
    fn a_huge_gap_is_not_asked_for() {
        for (kind, keyframes) in [(MediaKind::Audio, 0), (MediaKind::Video, 1)] {
            let mut lab = Lab::new(kind);
            assert_eq!(lab.take(0, &[1, 3, 1000])[2], Arrival::AfterGap);
            assert_eq!(lab.run(5000, 100), (vec![], 0, keyframes));
            assert_eq!(lab.take(5000, &[1001, 1003])[1], Arrival::AfterGap);
            assert_eq!(lab.due(5010, None).0, [1002]);
        }
    }

    #[test]
    fn who_has_not_agreed_is_not_asked() {
        let t0 = Instant::now();
        let mut nack = NackGenerator::new(MediaKind::Audio);
        for seq in [1, 2, 7] {
            assert_eq!(nack.on_packet(t0, SeqNo(seq), false), Arrival::Next);
        }
        assert_eq!(nack.poll_timeout(), None);
    }

    proptest! {
        /// Whatever comes, nothing is asked for that came, and never too often.
        #[test]
        fn requests_are_bounded(
            steps in proptest::collection::vec((0_u64..60, -30_i64..30), 1..300),
        ) {
            let t0 = Instant::now();
            let mut nack = NackGenerator::new(MediaKind::Video);
            let (mut now, mut seq) = (t0, 1_000_u64);
            let mut came = std::collections::HashSet::new();
            let mut asked = std::collections::HashMap::<u16, u8>::new();
            let mut numbers = Vec::new();
            for (ms, step) in steps {
                now += Duration::from_millis(ms);
                let this = seq.saturating_add_signed(step);
                nack.on_packet(now, SeqNo(this), true);
                came.insert(this as u16);
                seq = seq.max(this);
                numbers.clear();
                nack.handle_timeout(now, None, &mut numbers);
                for number in &numbers {
                    prop_assert!(!came.contains(&number.0));
                    let times = asked.entry(number.0).or_default();
                    *times += 1;
                    prop_assert!(*times <= TIMES_MAX);
                }
                prop_assert!(nack.missing.len() as u64 <= MISSING_MAX);
                prop_assert!(nack.missing.iter().is_sorted_by_key(|m| m.seq));
                prop_assert!(nack.poll_timeout().is_none_or(|at| at > now));
            }
        }
    }
}
