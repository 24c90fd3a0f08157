//! How loud one audio track was since it was last asked: what the packets said (RFC 6464) becomes one number
//! for each tick.

use std::time::Duration;

use crate::wire::audio_level::AudioLevel;

/// How often everybody's loudness is looked at. Five packets of the usual 20 ms: enough to be a mean, and short
/// against the pauses between words.
pub const TICK: Duration = Duration::from_millis(100);

/// How loud something is, in dB above silence (-127 dBov): 0 to 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Loudness(u8);

impl Loudness {
    /// Nothing is heard.
    pub const SILENCE: Self = Self(0);

    /// So many dB below the overload point (RFC 6464: -dBov).
    #[must_use]
    pub const fn below_overload(level: u8) -> Self {
        Self(AudioLevel::SILENCE.saturating_sub(level))
    }

    /// The level as RFC 6464 counts it: 0 (the loudest) to 127, in -dBov.
    #[must_use]
    pub const fn level(self) -> u8 {
        AudioLevel::SILENCE - self.0
    }

    /// So many dB above silence.
    #[must_use]
    pub fn decibels(self) -> u8 {
        self.0
    }

    /// Louder by so many dB.
    #[must_use]
    pub fn plus(self, decibels: u8) -> Self {
        Self(self.0.saturating_add(decibels).min(AudioLevel::SILENCE))
    }
}

/// What the packets of a track said since the last tick.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hearing {
    sum: u32,
    packets: u16,
    /// The last packet did not say how loud it is.
    is_deaf: bool,
}

impl Hearing {
    /// A packet came; with no level if it does not say.
    #[inline]
    pub fn on_packet(&mut self, level: Option<AudioLevel>) {
        self.is_deaf = level.is_none();
        if let Some(level) = level
            && self.packets < u16::MAX
        {
            self.sum += u32::from(Loudness::below_overload(level.level).decibels());
            self.packets += 1;
        }
    }

    /// Whether it cannot be told how loud the track is, because its packets do not say.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// The mean since the last tick, which begins anew. `None` if no packet said anything (DTX, muted, lost): that is
    /// silence.
    pub fn take(&mut self) -> Option<Loudness> {
        let mean = self.sum.checked_div(u32::from(self.packets));
        (self.sum, self.packets) = (0, 0);
        // A mean of values up to 127.
        mean.map(|mean| Loudness(mean.min(u32::from(AudioLevel::SILENCE)) as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(level: u8) -> Option<AudioLevel> {
        Some(AudioLevel {
            is_voice: true,
            level,
        })
    }

    #[test]
    fn a_tick_is_the_mean_of_its_packets() {
        let mut hearing = Hearing::default();
        assert_eq!(hearing.take(), None);
        for l in [20, 30, 40] {
            hearing.on_packet(level(l));
        }
        assert_eq!(hearing.take(), Some(Loudness::below_overload(30)));
        assert_eq!(hearing.take(), None, "what was said is over");
        hearing.on_packet(level(127));
        assert_eq!(hearing.take(), Some(Loudness::SILENCE));
    }

    #[test]
    fn packets_that_do_not_say_are_told_from_silent_ones() {
        let mut hearing = Hearing::default();
        assert!(!hearing.is_deaf());
        hearing.on_packet(None);
        assert!(hearing.is_deaf());
        assert_eq!(hearing.take(), None);
        hearing.on_packet(level(10));
        assert!(!hearing.is_deaf());
    }

    #[test]
    fn a_flood_of_packets_cannot_overflow() {
        let mut hearing = Hearing::default();
        for _ in 0..100_000 {
            hearing.on_packet(level(0));
        }
        assert_eq!(hearing.take(), Some(Loudness::below_overload(0)));
    }
}
