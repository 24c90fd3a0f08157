//! The client-to-mixer audio level header extension (RFC 6464).

/// How loud the audio of one packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// Whether the sender believes that it holds voice (RFC 6464 §3, the V bit). Not every sender that sets the
    /// level looks for voice.
    pub is_voice: bool,
    /// The level, 0 (the loudest) to 127 (silence), in -dBov.
    pub level: u8,
}

impl AudioLevel {
    /// The level of digital silence, in -dBov.
    pub const SILENCE: u8 = 127;

    /// Reads the extension's value: its first byte, as the two-byte form may pad it (RFC 6464 §3).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let byte = *value.first()?;
        Some(Self {
            is_voice: byte & VOICE != 0,
            level: byte & !VOICE,
        })
    }
}

const VOICE: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_holds_voice_and_level() {
        let level = |is_voice, level| Some(AudioLevel { is_voice, level });
        let cases: [(&[u8], _); 5] = [
            (&[], None),
            (&[0x00], level(false, 0)),
            (&[0x80 | 30], level(true, 30)),
            (&[0x7f], level(false, AudioLevel::SILENCE)),
            (&[0xff, 0], level(true, AudioLevel::SILENCE)),
        ];
        for (value, expected) in cases {
            assert_eq!(AudioLevel::parse(value), expected, "{value:?}");
        }
    }
}
