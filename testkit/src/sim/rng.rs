//! Randomness with a stream that is the same on every platform and in every release.
//!
//! A seed names several streams, one for each purpose, so that a choice more in one place does not change
//! those of all others: it keeps a shrunk case close to the one it was shrunk from.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// One stream of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(ChaCha8Rng);

impl Rng {
    /// Stream `stream` of `seed`.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 up to, and without, `n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // the bias of a modulo of 64 bits is far below what any run could see
        if n == 0 { 0 } else { self.u64() % n }
    }

    /// From `low` up to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        // 53 bits: as many as a float holds
        ((self.u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_stays_what_it_is() {
        // were these to change, kept seeds would no longer mean what they meant
        let mut rng = Rng::new(7, 1);
        let first: Vec<u64> = (0..3).map(|_| rng.below(1_000_000)).collect();
        assert_eq!(first, [311_175, 288_533, 443_538]);
    }

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(Rng::new(7, 1).u64(), Rng::new(7, 2).u64());
    }

    #[test]
    fn a_chance_of_nothing_and_of_all_is_certain() {
        let mut rng = Rng::new(1, 1);
        assert!((0..1_000).all(|_| !rng.chance(0.0) && rng.chance(1.0)));
    }
}
