//! Which packets are opened: all, or on average one of so many.

/// Chooses at random rather than each nth: the packets of a frame come in a pattern, and the first of
/// a burst is always the fastest.
#[derive(Debug, Clone)]
pub struct Sampler {
    one_of: u32,
    until_next: u32,
    state: u64,
}

impl Sampler {
    /// One of `one_of` on average; all with 1 (or 0).
    #[must_use]
    pub fn new(one_of: u32, seed: u64) -> Self {
        Self {
            one_of: one_of.clamp(1, ONE_OF_MAX),
            until_next: 0,
            // Any state but 0 will do.
            state: seed | 1,
        }
    }

    /// Whether this packet is one to open.
    pub fn take(&mut self) -> bool {
        if self.until_next > 0 {
            self.until_next -= 1;
            return false;
        }
        // Marsaglia's xorshift: good enough to break a pattern, and nearly free.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // From 0 to twice the mean.
        self.until_next = (self.state >> 33) as u32 % (2 * self.one_of - 1);
        true
    }
}

/// So that between two opened packets of a stream the sequence number cannot wrap unseen
/// (RFC 3711 §3.3.1 can follow it over 2^15).
pub const ONE_OF_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_of_so_many_in_no_pattern() {
        for one_of in [1u32, 2, 16, 1000] {
            let mut sampler = Sampler::new(one_of, 42);
            let total = 200_000;
            let taken: Vec<usize> = (0..total).filter(|_| sampler.take()).collect();
            let ratio = total as f64 / taken.len() as f64 / f64::from(one_of);
            assert!((0.8..1.2).contains(&ratio), "{one_of}: {ratio}");
            if one_of == 16 {
                let firsts = taken.iter().filter(|at| *at % 4 == 0).count();
                let share = firsts as f64 / taken.len() as f64;
                assert!((0.2..0.3).contains(&share), "{share}");
            }
        }
        let mut all = Sampler::new(0, 0);
        assert!((0..100).all(|_| all.take()));
    }
}
