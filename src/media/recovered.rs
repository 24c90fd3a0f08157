//! Which of the last packets of a stream came inside others only (redundant audio, RFC 2198), so that they must not go out
//! again when they come themselves.

use crate::base::ids::SeqNo;

/// The numbers of the last packets of an encoding that were recovered.
#[derive(Debug, Clone, Copy)]
pub struct Recovered {
    newest: SeqNo,
    /// A bit for each of the numbers up to `newest`, the lowest for that; none of them if nothing was recovered.
    bits: u64,
}

impl Default for Recovered {
    fn default() -> Self {
        Self {
            newest: SeqNo(0),
            bits: 0,
        }
    }
}

impl Recovered {
    /// A packet was recovered.
    pub fn insert(&mut self, seq: SeqNo) {
        let ahead = seq.0.saturating_sub(self.newest.0);
        if ahead > 0 || self.bits == 0 {
            self.bits = self.bits.checked_shl(ahead as u32).unwrap_or(0);
            self.newest = seq;
        }
        let back = self.newest.0 - seq.0;
        self.bits |= 1_u64.checked_shl(back as u32).unwrap_or(0);
    }

    /// Whether a packet was recovered, and goes out no more if it comes itself. One that is too old to tell is taken for
    /// such: two packets under one number would be two under one nonce.
    #[must_use]
    pub fn contains(&self, seq: SeqNo) -> bool {
        let Some(back) = self.newest.0.checked_sub(seq.0).filter(|_| self.bits != 0) else {
            return false;
        };
        back >= u64::from(u64::BITS) || self.bits & (1 << back) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recovered_is_known_for_a_while() {
        let mut recovered = Recovered::default();
        assert!(!recovered.contains(SeqNo(0)) && !recovered.contains(SeqNo(1 << 20)));
        let base = 1 << 20;
        for seq in [7, 5, 6, 60] {
            recovered.insert(SeqNo(base + seq));
        }
        let known = |seq: u64| recovered.contains(SeqNo(base + seq));
        let found: Vec<u64> = (0..70).filter(|seq| known(*seq)).collect();
        assert_eq!(found, [5, 6, 7, 60]);
        recovered.insert(SeqNo(base + 1000));
        assert!(recovered.contains(SeqNo(base + 60)), "too old to tell");
        assert!(!recovered.contains(SeqNo(base + 999)));
        recovered.insert(SeqNo(base + 900));
        assert!(recovered.contains(SeqNo(base + 900)));
    }
}
