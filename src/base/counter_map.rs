//! Maps by numbers that this process has counted up itself: nobody outside chooses them, so that one multiplication
//! will do where `std`'s hash costs as much as what is looked up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by keys of this process's own, such as [`PeerKey`](crate::base::ids::PeerKey). Never by what a client chose: it could make them collide.
pub type CounterMap<K, V> = HashMap<K, V, BuildHasherDefault<CounterHasher>>;

/// Spreads numbers over all bits, as far as a table needs it (Fibonacci hashing: Knuth, TAOCP vol. 3, §6.4).
#[derive(Debug, Default)]
pub struct CounterHasher(u64);

impl Hasher for CounterHasher {
    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, and the multiplication mixes into the high ones.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(GOLDEN);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_in_a_row_are_spread() {
        let hash = |number: u64| {
            let mut hasher = CounterHasher::default();
            hasher.write_u64(number);
            hasher.finish()
        };
        for step in [1, 2, 16, 1 << 20] {
            let hashes = || (0..1024).map(|n| hash(n * step));
            // The low bits choose the place, the seven highest tell neighbours apart.
            let low: HashSet<_> = hashes().map(|hash| hash & 0xfff).collect();
            assert!(low.len() > 700, "{step}: {}", low.len());
            let high: HashSet<_> = hashes().map(|hash| hash >> 57).collect();
            assert!(high.len() > 100, "{step}: {}", high.len());
        }
    }
}
