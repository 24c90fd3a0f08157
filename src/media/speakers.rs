//! Who speaks: from the loudness of each source of a room, in ticks, to the one dominant speaker, those who talk
//! at present, and the order in which they last did.
//!
//! A simpler relative of the method of Volfin and Cohen ("Dominant speaker identification for multipoint
//! videoconferencing", 2012), which Jitsi and mediasoup use: like theirs it counts how many of the last
//! short intervals held speech, over windows of different length, so that a cough fills too few of them and a pause
//! between words empties too few. Where they compare likelihoods of the counts, here the counts themselves have
//! thresholds. Knows no clock, no peer and no packet. The same input gives the same result.

use std::collections::BTreeMap;

use crate::media::hearing::Loudness;

/// The sources of one room, by whatever `K` names them.
#[derive(Debug)]
pub struct Speakers<K> {
    voices: BTreeMap<K, Voice>,
    /// Those who ever talked: the dominant one, then those who talk now, as they began, then the others, who
    /// stopped last first.
    order: Vec<K>,
    dominant: Option<K>,
    /// How many ticks ago the dominant speaker changed.
    settled: u32,
    /// For so many ticks somebody else decides who is dominant.
    led: u32,
    /// What has changed outside of a tick.
    pending: Turn,
}

/// What one tick has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// Another dominant speaker, or none any more.
    pub dominant: bool,
    /// Who talks.
    pub talkers: bool,
    /// The order in which they last talked.
    pub order: bool,
}

/// What is told of a source elsewhere, to those who cannot hear it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoiceReport {
    /// Which of the last 32 ticks held speech; the latest is the lowest bit.
    pub spoken: u32,
    /// How loud the speech is.
    pub loudness: Loudness,
}

/// One source.
#[derive(Debug, Clone, Copy, Default)]
struct Voice {
    /// Which of the last 32 ticks held speech; the latest is the lowest bit.
    spoken: u32,
    /// The mean of late speech, in 1/16 dB above silence.
    loudness: u16,
    /// What is taken for noise, in 1/16 dB above silence.
    floor: u16,
    is_talking: bool,
    /// How many ticks ago it was last reported; `None`: it is heard here.
    reported: Option<u32>,
}

impl<K> Default for Speakers<K> {
    fn default() -> Self {
        Self {
            voices: BTreeMap::new(),
            order: Vec::new(),
            dominant: None,
            settled: SWITCH_TICKS,
            led: 0,
            pending: Turn::default(),
        }
    }
}

impl<K: Copy + Ord> Speakers<K> {
    /// A tick is over: this is what was heard in it. A source that is not named was silent; one that is new
    /// comes in.
    pub fn on_tick(&mut self, heard: impl IntoIterator<Item = (K, Loudness)>) -> Turn {
        for voice in self.voices.values_mut() {
            voice.age();
        }
        for (source, loudness) in heard {
            let voice = self.voices.entry(source).or_default();
            voice.hear(loudness);
        }
        self.settled = self.settled.saturating_add(1);
        let mut turn = std::mem::take(&mut self.pending);
        turn.talkers |= self.review_talkers();
        turn.order |= turn.talkers;
        if self.led > 0 {
            self.led -= 1;
        } else if let Some(next) = self.next_dominant() {
            turn.dominant = true;
            turn.order = true;
            self.make_dominant(next);
        }
        turn
    }

    /// What is told of a source that is not heard here, as often as it talks. False: there are too many, and the
    /// one that was not heard of for the longest time was forgotten.
    pub fn on_report(&mut self, source: K, report: VoiceReport) -> bool {
        let has_room = self.voices.contains_key(&source) || self.make_room();
        let voice = self.voices.entry(source).or_default();
        voice.spoken = report.spoken;
        voice.loudness = u16::from(report.loudness.decibels()) * 16;
        voice.reported = Some(0);
        has_room
    }

    /// Somebody who hears more has decided who is dominant, and decides it for the next second.
    pub fn follow(&mut self, dominant: K) {
        if !self.voices.contains_key(&dominant) {
            return;
        }
        self.led = LED_TICKS;
        if self.dominant != Some(dominant) {
            self.make_dominant(dominant);
            (self.pending.dominant, self.pending.order) = (true, true);
        }
    }

    /// A source has ended.
    pub fn remove(&mut self, source: K) {
        let Some(voice) = self.voices.remove(&source) else {
            return;
        };
        self.pending.talkers |= voice.is_talking;
        self.order.retain(|other| *other != source);
        if self.dominant == Some(source) {
            self.dominant = None;
            self.pending.dominant = true;
        }
    }

    /// Who is dominant: who spoke last, as long as nobody else does. `None` before anybody spoke, and when that
    /// source has ended.
    #[must_use]
    pub fn dominant(&self) -> Option<K> {
        self.dominant
    }

    /// Those who talk, the dominant one first, then as they began; and how loud they are.
    pub fn talkers(&self) -> impl Iterator<Item = (K, Loudness)> + '_ {
        self.order.iter().filter_map(|source| {
            let voice = self.voices.get(source)?;
            voice.is_talking.then_some((*source, voice.loudness()))
        })
    }

    /// Those who ever talked: the dominant one, those who talk, those who stopped, the latest first. Changes only
    /// when somebody begins or stops.
    #[must_use]
    pub fn order(&self) -> &[K] {
        &self.order
    }

    /// Those who are heard here and spoke in the last seconds, for those who cannot hear them.
    pub fn reports(&self) -> impl Iterator<Item = (K, VoiceReport)> + '_ {
        let here = self.voices.iter().filter(|(_, v)| v.reported.is_none());
        here.filter(|(_, v)| v.spoken != 0).map(|(source, voice)| {
            let report = VoiceReport {
                spoken: voice.spoken,
                loudness: voice.loudness(),
            };
            (*source, report)
        })
    }

    /// Whether a source spoke in the last tick, and how loud its late speech is.
    #[must_use]
    pub fn voice(&self, source: K) -> (bool, Loudness) {
        let voice = self.voices.get(&source);
        voice.map_or((false, Loudness::SILENCE), |voice| {
            (voice.spoken & 1 != 0, voice.loudness())
        })
    }

    /// Those who are not heard here.
    pub fn reported(&self) -> impl Iterator<Item = K> + '_ {
        let reported = self.voices.iter().filter(|(_, v)| v.reported.is_some());
        reported.map(|(source, _)| *source)
    }

    /// Whether anybody spoke in the last seconds.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.voices.values().all(|v| v.spoken == 0)
    }

    fn make_room(&mut self) -> bool {
        let reported = |(source, v): (&K, &Voice)| Some((v.reported?, *source));
        let is_full = self
            .voices
            .values()
            .filter(|v| v.reported.is_some())
            .count()
            >= REPORTED_MAX;
        if is_full && let Some((_, oldest)) = self.voices.iter().filter_map(reported).max() {
            self.remove(oldest);
        }
        !is_full
    }

    /// Notes who began and who stopped talking, and keeps the order. True if anybody did.
    fn review_talkers(&mut self) -> bool {
        let mut began: Vec<(Loudness, K)> = Vec::new();
        let mut stopped: Vec<K> = Vec::new();
        for (source, voice) in &mut self.voices {
            match voice.is_talking {
                false if voice.spoken_of(SHORT) >= BEGIN_MIN => {
                    voice.is_talking = true;
                    began.push((voice.loudness(), *source));
                }
                true if voice.spoken_of(PAUSE_MAX) == 0 => {
                    voice.is_talking = false;
                    stopped.push(*source);
                }
                _ => {}
            }
        }
        if began.is_empty() && stopped.is_empty() {
            return false;
        }
        began.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then(x.cmp(y)));
        let (voices, former) = (&self.voices, std::mem::take(&mut self.order));
        let changed =
            |source: &K| stopped.contains(source) || began.iter().any(|(_, s)| s == source);
        let talks = |source: &K| voices.get(source).is_some_and(|v| v.is_talking);
        let same: Vec<K> = former.into_iter().filter(|s| !changed(s)).collect();
        let talking = same.iter().copied().filter(talks);
        let others = same.iter().copied().filter(|s| !talks(s));
        let began = began.iter().map(|(_, source)| *source);
        self.order = talking
            .chain(began)
            .chain(stopped.iter().copied())
            .chain(others)
            .collect();
        if let Some(dominant) = self.dominant {
            self.lead_order(dominant);
        }
        true
    }

    /// Who becomes dominant now, if anybody does.
    fn next_dominant(&self) -> Option<K> {
        if self.settled < SWITCH_TICKS {
            return None;
        }
        let present = self.dominant.and_then(|source| self.voices.get(&source));
        let others = self
            .voices
            .iter()
            .filter(|(source, voice)| self.dominant != Some(**source) && voice.is_talking);
        let takes_over = |voice: &Voice| match present {
            // While the present one talks, only who is clearly louder for longer.
            Some(present) if present.spoken_of(SHORT) > QUIET_MAX => {
                voice.spoken_of(LONG) >= OVERLAP_MIN
                    && voice.loudness() >= present.loudness().plus(OVERLAP_DECIBELS)
            }
            _ => voice.spoken_of(SHORT) >= BEGIN_MIN,
        };
        others
            .filter(|(_, voice)| takes_over(voice))
            .max_by_key(|(source, v)| {
                (
                    v.spoken_of(SHORT),
                    v.loudness(),
                    std::cmp::Reverse(**source),
                )
            })
            .map(|(source, _)| *source)
    }

    fn make_dominant(&mut self, source: K) {
        self.dominant = Some(source);
        self.settled = 0;
        self.lead_order(source);
    }

    fn lead_order(&mut self, source: K) {
        match self.order.iter().position(|other| *other == source) {
            Some(at) => self.order[..=at].rotate_right(1),
            None => self.order.insert(0, source),
        }
    }
}

impl Voice {
    /// A tick in which nothing was heard of it, until [`Voice::hear`] knows better.
    fn age(&mut self) {
        match &mut self.reported {
            // Between two reports nothing is known.
            Some(ticks) if *ticks < REPORT_TICKS => *ticks += 1,
            Some(ticks) => {
                *ticks = ticks.saturating_add(1);
                self.spoken <<= 1;
            }
            None => self.spoken <<= 1,
        }
    }

    fn hear(&mut self, heard: Loudness) {
        if self.reported.take().is_some() {
            // It was elsewhere before, and is heard here from now on.
            self.spoken <<= 1;
        }
        let heard = u16::from(heard.decibels()) * 16;
        let speech_min = (self.floor + MARGIN).max(SPEECH_MIN);
        self.floor = heard.min(self.floor + FLOOR_RISE).min(FLOOR_MAX);
        if heard < speech_min {
            return;
        }
        self.spoken |= 1;
        // The mean at first, then one that follows.
        let ticks = self.spoken.count_ones().min(LOUDNESS_TICKS) as u16;
        self.loudness = (self.loudness * (ticks - 1) + heard) / ticks;
    }

    fn spoken_of(&self, ticks: u32) -> u32 {
        (self.spoken & ((1 << ticks) - 1)).count_ones()
    }

    fn loudness(&self) -> Loudness {
        Loudness::SILENCE.plus((self.loudness / 16).min(127) as u8)
    }
}

/// The window in which somebody begins to talk: a second.
const SHORT: u32 = 10;
/// How many ticks of [`SHORT`] hold speech when somebody talks. Fluent speech fills seven or eight; coughs and
/// assents ("mhm") last up to half a second and touch at most five or six, and one that does is not alone
/// enough to be dominant while another talks.
const BEGIN_MIN: u32 = 6;
/// Who fills no more ticks of [`SHORT`] has left the floor to others: what is left to who begins to talk when the other
/// stops.
const QUIET_MAX: u32 = SHORT - BEGIN_MIN;
/// Who is silent for so long has stopped talking: two seconds, longer than the pauses between sentences.
const PAUSE_MAX: u32 = 20;
/// The window for talking over somebody: two seconds.
const LONG: u32 = 20;
/// How many ticks of [`LONG`] who talks over somebody fills.
const OVERLAP_MIN: u32 = 13;
/// How much louder: twice the sound pressure.
const OVERLAP_DECIBELS: u8 = 6;
/// The dominant speaker changes at most once in so many ticks: a second.
const SWITCH_TICKS: u32 = 10;
/// How long another's decision holds: it is renewed while anybody talks.
const LED_TICKS: u32 = 10;
/// How many ticks lie between two reports at most, one lost included. After that silence is assumed.
const REPORT_TICKS: u32 = 5;
/// Sources known by report only. The one that was not heard of for the longest time makes room.
const REPORTED_MAX: usize = 256;
/// How many ticks of speech count for how loud it is.
const LOUDNESS_TICKS: u32 = 16;
/// Nothing below is speech: -55 dBov, in 1/16 dB above silence. A microphone with gain control brings speech to -40 to
/// -15, and a quiet room to -80 to -60.
const SPEECH_MIN: u16 = (127 - 55) * 16;
/// How far speech is above the noise, in 1/16 dB.
const MARGIN: u16 = 9 * 16;
/// How fast noise is believed, in 1/16 dB for each tick: 2 dB a second. Speech has pauses that bring it down again.
const FLOOR_RISE: u16 = 3;
/// No noise is louder: what is above -31 dBov counts as speech, whatever went before.
const FLOOR_MAX: u16 = (127 - 40) * 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// What one source does, tick by tick.
    type Pattern = Box<dyn Fn(u32) -> u8>;

    const A: u32 = 1;
    const B: u32 = 2;
    const C: u32 = 3;

    /// Speech of a level between two ticks, with a breath of 300 ms every 1.1 s.
    fn talk(level: u8, from: u32, to: u32) -> Pattern {
        Box::new(
            move |t| match (from..to).contains(&t) && (t + u32::from(level)) % 11 >= 3 {
                true => level,
                false => 70,
            },
        )
    }

    fn both(a: Pattern, b: Pattern) -> Pattern {
        Box::new(move |t| a(t).min(b(t)))
    }

    /// A burst without a breath.
    fn burst(level: u8, from: u32, ticks: u32) -> Pattern {
        Box::new(move |t| {
            if (from..from + ticks).contains(&t) {
                level
            } else {
                80
            }
        })
    }

    /// Runs sources for so many ticks: when who became dominant.
    fn run(
        speakers: &mut Speakers<u32>,
        sources: &[(u32, Pattern)],
        ticks: u32,
    ) -> Vec<(u32, u32)> {
        let mut switches = Vec::new();
        for t in 0..ticks {
            let heard = sources
                .iter()
                .map(|(k, p)| (*k, Loudness::below_overload(p(t))));
            let turn = speakers.on_tick(heard);
            if turn.dominant {
                switches.push((t, speakers.dominant().unwrap()));
            }
        }
        switches
    }

    #[test]
    fn a_speaker_is_dominant_within_a_second_and_stays_so_in_silence() {
        let mut speakers = Speakers::default();
        let switches = run(
            &mut speakers,
            &[(A, talk(30, 20, 60)), (B, talk(30, 500, 501))],
            200,
        );
        assert!(matches!(switches[..], [(20..30, A)]), "{switches:?}");
        assert_eq!(speakers.talkers().count(), 0);
        assert_eq!(speakers.order(), [A]);
        assert!(speakers.is_quiet());
    }

    #[test]
    fn turns_of_talk_switch_once_each_within_a_second() {
        let mut speakers = Speakers::default();
        let sources = [
            (A, both(talk(30, 0, 50), talk(30, 150, 200))),
            (B, talk(35, 52, 100)),
            (C, talk(25, 100, 148)),
        ];
        let switches = run(&mut speakers, &sources, 220);
        let expected = [(0, A), (52, B), (100, C), (150, A)];
        assert_eq!(switches.len(), expected.len(), "{switches:?}");
        for ((at, who), (from, speaker)) in switches.iter().zip(expected) {
            assert_eq!(*who, speaker);
            assert!((from..=from + 11).contains(at), "{who} at {at}");
        }
        assert_eq!(speakers.order(), [A, C, B]);
    }

    #[test]
    fn coughs_and_assents_do_not_switch() {
        for ticks in 1..=5 {
            let mut speakers = Speakers::default();
            // In the middle of speech, in its pauses, and after it.
            let coughs = both(
                burst(10, 23, ticks),
                both(
                    burst(10, 40, ticks),
                    both(burst(10, 61, ticks), burst(12, 90, ticks)),
                ),
            );
            let switches = run(&mut speakers, &[(A, talk(32, 0, 60)), (B, coughs)], 150);
            assert!(matches!(switches[..], [(_, A)]), "{ticks}: {switches:?}");
        }
    }

    #[test]
    fn who_is_talked_over_stays_unless_the_other_is_clearly_louder() {
        for (level, switches_max) in [(30, 1), (34, 1), (26, 1), (20, 2)] {
            let mut speakers = Speakers::default();
            let sources = [(A, talk(30, 0, 600)), (B, talk(level, 50, 600))];
            let switches = run(&mut speakers, &sources, 600);
            assert_eq!(switches.len(), switches_max, "{level}: {switches:?}");
        }
    }

    #[test]
    fn a_shouting_match_switches_at_most_once_a_second() {
        // A noise that is the same in each run (xorshift).
        let noise = |seed: u32| -> Pattern {
            Box::new(move |t| {
                let mut x = (t / 4 + 1).wrapping_mul(seed);
                for (left, right) in [(13, 17), (5, 9), (3, 7)] {
                    x ^= x << left;
                    x ^= x >> right;
                }
                if x % 5 == 0 {
                    80
                } else {
                    15 + (x >> 8) as u8 % 30
                }
            })
        };
        let mut speakers = Speakers::default();
        let sources: Vec<_> = (1..=6)
            .map(|k| (k, noise(2_654_435_761_u32.wrapping_mul(k) | 1)))
            .collect();
        let switches = run(&mut speakers, &sources, 3000);
        let too_soon = switches
            .windows(2)
            .filter(|w| w[1].0 - w[0].0 < SWITCH_TICKS);
        assert_eq!(too_soon.count(), 0, "{switches:?}");
        assert!(switches.len() < 3000 / 30, "{} in 5 min", switches.len());
    }

    #[test]
    fn steady_noise_is_no_speech_for_long() {
        let mut speakers = Speakers::default();
        let fan: Pattern = Box::new(|_| 50);
        let switches = run(&mut speakers, &[(A, fan)], 400);
        assert_eq!(switches.len(), 1, "at first it may pass for speech");
        assert_eq!(speakers.talkers().count(), 0, "not for 40 s");
        let sources: [(u32, Pattern); 2] = [(A, Box::new(|_| 50)), (B, talk(30, 5, 50))];
        let switches = run(&mut speakers, &sources, 50);
        assert!(matches!(switches[..], [(5..=15, B)]), "{switches:?}");
    }

    #[test]
    fn quiet_speech_counts_and_silence_does_not() {
        for (level, is_heard) in [
            (127, false),
            (70, false),
            (58, false),
            (50, true),
            (0, true),
        ] {
            let mut speakers = Speakers::default();
            run(&mut speakers, &[(A, talk(level, 0, 100))], 60);
            assert_eq!(speakers.dominant().is_some(), is_heard, "{level}");
        }
    }

    #[test]
    fn the_order_is_stable_while_all_of_it_talk() {
        let mut speakers = Speakers::default();
        let sources = [
            (A, talk(30, 0, 300)),
            (B, talk(31, 30, 300)),
            (C, talk(33, 60, 300)),
        ];
        run(&mut speakers, &sources, 90);
        assert_eq!(speakers.order(), [A, B, C]);
        let levels: Vec<_> = speakers.talkers().map(|(k, l)| (k, l.level())).collect();
        assert_eq!(
            levels.iter().map(|(k, _)| *k).collect::<Vec<_>>(),
            [A, B, C]
        );
        for ((_, level), expected) in levels.iter().zip([30_u8, 31, 33]) {
            assert!(level.abs_diff(expected) <= 2, "{level} for {expected}");
        }
        let mut orders = 0;
        for t in 90..300 {
            let heard = sources
                .iter()
                .map(|(k, p)| (*k, Loudness::below_overload(p(t))));
            orders += u32::from(speakers.on_tick(heard).order);
        }
        assert_eq!(orders, 0);
        // They stop at once; B begins again alone.
        run(&mut speakers, &[], 30);
        run(&mut speakers, &[(B, talk(30, 0, 100))], 20);
        assert_eq!(speakers.order(), [B, A, C]);
        speakers.remove(B);
        assert_eq!((speakers.dominant(), speakers.order()), (None, &[A, C][..]));
        let turn = speakers.on_tick([]);
        assert!(turn.dominant && turn.talkers);
        assert_eq!(speakers.on_tick([]), Turn::default());
    }

    /// What one half of a room tells the other, every second tick.
    fn tell(from: &Speakers<u32>, to: &mut Speakers<u32>) {
        for (source, report) in from.reports() {
            assert!(to.on_report(source, report));
        }
    }

    #[test]
    fn two_halves_of_a_room_agree() {
        let (mut here, mut there) = (Speakers::default(), Speakers::default());
        let sources = [
            (A, both(talk(30, 0, 60), talk(30, 100, 200))),
            (B, both(talk(33, 55, 95), talk(28, 100, 200))),
        ];
        let mut apart = 0;
        for t in 0..260 {
            let heard = |at: usize| (sources[at].0, Loudness::below_overload(sources[at].1(t)));
            here.on_tick([heard(0)]);
            there.on_tick([heard(1)]);
            if t % 2 == 0 {
                tell(&here, &mut there);
                tell(&there, &mut here);
                if let Some(dominant) = here.dominant() {
                    there.follow(dominant);
                }
            }
            apart += u32::from(here.dominant() != there.dominant());
            let switch = [60, 100].iter().any(|at| (*at..at + 15).contains(&t));
            assert!(
                t < 20 || switch || here.dominant() == there.dominant(),
                "{t}"
            );
        }
        assert!(apart < 12, "{apart} ticks apart");
        assert_eq!(
            there.talkers().count(),
            0,
            "silence is noticed without a word"
        );
        assert_eq!(here.talkers().count(), 0);
    }

    #[test]
    fn reported_sources_are_bounded() {
        let mut speakers = Speakers::default();
        let report = VoiceReport {
            spoken: u32::MAX,
            loudness: Loudness::below_overload(30),
        };
        for source in 0..REPORTED_MAX as u32 {
            assert!(speakers.on_report(source, report));
        }
        speakers.on_tick([]);
        assert!(speakers.on_report(0, report), "is known");
        assert!(!speakers.on_report(10_000, report));
        assert_eq!(speakers.voices.len(), REPORTED_MAX);
        assert!(speakers.voices.contains_key(&0) && speakers.voices.contains_key(&10_000));
        speakers.follow(77_777);
        assert_ne!(speakers.dominant(), Some(77_777), "nobody knows it");
    }
}
