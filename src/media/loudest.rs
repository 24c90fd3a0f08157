//! Which audio streams of a very large room go on to anybody: the loudest few.
//!
//! A stream comes in with the first tick in which it speaks, if there is a place: a place is free when who has it was
//! silent for a second. While all who have one talk, only a clearly louder one takes a place over. So in a room with no more
//! streams than places nothing is ever held back, and no stream comes and goes faster than it speaks and stops.

use crate::media::hearing::Loudness;

/// The streams that are let through, by whatever `K` names them.
#[derive(Debug)]
pub struct Loudest<K> {
    places: usize,
    held: Vec<Place<K>>,
}

/// A stream that is let through.
#[derive(Debug, Clone, Copy)]
struct Place<K> {
    stream: K,
    /// Ticks since it came in.
    age: u32,
    /// Ticks since it last spoke.
    silent: u32,
    loudness: Loudness,
}

/// What one tick brought of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<K> {
    /// Which it is.
    pub stream: K,
    /// Whether it spoke in this tick.
    pub speaks: bool,
    /// How loud its late speech is.
    pub loudness: Loudness,
}

impl<K: Copy + Ord> Loudest<K> {
    /// Lets so many through.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            places,
            held: Vec::new(),
        }
    }

    /// Whether a stream is let through.
    #[must_use]
    pub fn contains(&self, stream: K) -> bool {
        self.held.iter().any(|place| place.stream == stream)
    }

    /// A tick is over. `heard` has every stream there is, sorted by its name; one that is not in it has ended.
    pub fn on_tick(&mut self, heard: &[Heard<K>]) {
        let find = |stream: K| {
            let at = heard.binary_search_by_key(&stream, |h| h.stream).ok()?;
            heard.get(at)
        };
        self.held.retain_mut(|place| {
            let Some(heard) = find(place.stream) else {
                return false;
            };
            place.age = place.age.saturating_add(1);
            place.silent = match heard.speaks {
                true => 0,
                false => place.silent.saturating_add(1),
            };
            place.loudness = heard.loudness;
            true
        });
        let outside = |held: &[Place<K>], heard: &&Heard<K>| {
            held.iter().all(|place| place.stream != heard.stream)
        };
        let speaking = heard.iter().filter(|heard| heard.speaks);
        let mut coming: Vec<_> = speaking.filter(|h| outside(&self.held, h)).collect();
        coming.sort_by_key(|heard| (std::cmp::Reverse(heard.loudness), heard.stream));
        for heard in coming {
            if self.held.len() < self.places || self.make_place(heard.loudness) {
                self.held.push(Place::new(heard));
            }
        }
        // What is left goes to those who are silent, so that they need not wait for a place when they speak.
        for heard in heard {
            if self.held.len() >= self.places {
                break;
            }
            if outside(&self.held, &heard) {
                self.held.push(Place::new(heard));
            }
        }
    }

    /// Takes a place away from one that needs it less, if there is such.
    fn make_place(&mut self, loudness: Loudness) -> bool {
        let places = || self.held.iter().enumerate();
        let silent = places()
            .filter(|(_, place)| place.silent >= SILENT_TICKS)
            .max_by_key(|(_, place)| (place.silent, place.stream));
        let softest = || {
            places()
                .filter(|(_, place)| place.age >= STAY_TICKS)
                .min_by_key(|(_, place)| (place.loudness, place.stream))
                .filter(|(_, place)| loudness >= place.loudness.plus(LOUDER_DECIBELS))
        };
        let found = silent.or_else(softest).map(|(at, _)| at);
        if let Some(at) = found {
            self.held.swap_remove(at);
        }
        found.is_some()
    }
}

impl<K: Copy> Place<K> {
    fn new(heard: &Heard<K>) -> Self {
        Self {
            stream: heard.stream,
            age: 0,
            // One that has not spoken gives its place to the first that does.
            silent: if heard.speaks { 0 } else { SILENT_TICKS },
            loudness: heard.loudness,
        }
    }
}

/// Who is silent for so long (a second) gives its place to who speaks.
const SILENT_TICKS: u32 = 10;
/// Who talks keeps its place at least so long (two seconds).
const STAY_TICKS: u32 = 20;
/// How much louder than who talks one must be to take its place, in dB.
const LOUDER_DECIBELS: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stream: who speaks at which level, the others silent.
    fn heard(streams: u32, speaking: &[(u32, u8)]) -> Vec<Heard<u32>> {
        let of = |stream| speaking.iter().find(|(s, _)| *s == stream);
        (0..streams)
            .map(|stream| Heard {
                stream,
                speaks: of(stream).is_some(),
                loudness: of(stream).map_or(Loudness::SILENCE, |(_, level)| {
                    Loudness::below_overload(*level)
                }),
            })
            .collect()
    }

    fn held(loudest: &Loudest<u32>) -> Vec<u32> {
        let mut held: Vec<_> = loudest.held.iter().map(|p| p.stream).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn all_go_through_where_there_is_room() {
        let mut loudest = Loudest::new(3);
        loudest.on_tick(&heard(2, &[]));
        assert_eq!(held(&loudest), [0, 1]);
        loudest.on_tick(&heard(5, &[]));
        assert_eq!(held(&loudest), [0, 1, 2]);
        assert!(loudest.contains(2) && !loudest.contains(3));
    }

    #[test]
    fn who_speaks_comes_in_at_once_and_stays_through_pauses() {
        let mut loudest = Loudest::new(2);
        loudest.on_tick(&heard(6, &[]));
        loudest.on_tick(&heard(6, &[(4, 40)]));
        assert!(loudest.contains(4));
        loudest.on_tick(&heard(6, &[(4, 40), (5, 50)]));
        assert_eq!(held(&loudest), [4, 5]);
        // Pauses of less than a second, while others try.
        for t in 0..100 {
            let mut tick = heard(6, &[(4, 40), (5, 50), (1, 48)]);
            for stream in [4, 5] {
                tick[stream].speaks = t % 9 == 0;
            }
            loudest.on_tick(&tick);
            assert_eq!(held(&loudest), [4, 5], "tick {t}");
        }
        for _ in 0..11 {
            loudest.on_tick(&heard(6, &[(4, 40), (1, 48)]));
        }
        assert_eq!(held(&loudest), [1, 4], "5 was silent for a second");
    }

    #[test]
    fn among_many_talkers_only_a_clearly_louder_one_takes_over() {
        let mut loudest = Loudest::new(2);
        let talkers = [(0, 40), (1, 35), (2, 36)];
        let mut changes = 0;
        for _ in 0..300 {
            let before = held(&loudest);
            loudest.on_tick(&heard(4, &talkers));
            changes += u32::from(held(&loudest) != before);
        }
        assert_eq!((held(&loudest), changes), (vec![1, 2], 1));
        let talkers = [(0, 29), (1, 35), (2, 36)];
        loudest.on_tick(&heard(4, &talkers));
        assert_eq!(held(&loudest), [0, 1], "7 dB louder than 2");
        for _ in 0..300 {
            loudest.on_tick(&heard(4, &talkers));
            assert_eq!(held(&loudest), [0, 1], "2 is not louder by enough");
        }
    }

    #[test]
    fn a_swap_is_not_undone_within_two_seconds() {
        let mut loudest = Loudest::new(1);
        let mut last = (0, 0);
        for t in 0..400_u32 {
            // Each is the loudest in turn, half a second long.
            let loud = t / 5 % 3;
            let talkers: Vec<_> = (0..3)
                .map(|s| (s, if s == loud { 10 } else { 40 }))
                .collect();
            loudest.on_tick(&heard(3, &talkers));
            let now = held(&loudest)[0];
            if now != last.1 {
                assert!(
                    last.0 == 0 || t - last.0 >= STAY_TICKS,
                    "at {t} after {}",
                    last.0
                );
                last = (t, now);
            }
        }
        assert!(last.0 > 0);
    }

    #[test]
    fn who_has_ended_leaves_its_place() {
        let mut loudest = Loudest::new(2);
        loudest.on_tick(&heard(3, &[(0, 30), (1, 30)]));
        let mut rest = heard(3, &[(1, 30)]);
        rest.remove(0);
        loudest.on_tick(&rest);
        assert_eq!(held(&loudest), [1, 2]);
    }
}
