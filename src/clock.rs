//! The wall clock, read once a batch, and the one source of randomness.
//!
//! Waiting goes by `tokio::time` alone, so a test can pause it. The wall clock only stamps and
//! measures age; it may jump by years without harm.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::record::Timestamp;

/// As good as never, and still to be added to any instant.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// What time it is outside.
///
/// A test replaces it, mostly by [`PausedClock`].
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC. May go backwards.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock; the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that goes with `tokio::time`: it starts at a chosen moment and advances as tokio's time
/// does, so that ages are exact in a test that pauses time.
#[derive(Clone, Copy, Debug)]
pub struct PausedClock {
    start: Timestamp,
    since: tokio::time::Instant,
}

impl PausedClock {
    /// A clock that shows `start` now.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, since: tokio::time::Instant::now() }
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.since.elapsed())
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// Seedable randomness that many threads share: SplitMix64 (Steele, Lea, Flood 2014), whose stream
/// is the same on every platform and release. For jitter, not for secrets.
#[derive(Clone)]
pub struct Random(Arc<AtomicU64>);

impl Random {
    /// The stream of numbers that this seed names.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// A stream seeded by the operating system.
    pub fn from_entropy() -> Self {
        Self::seeded(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    /// The next number.
    pub fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0.0..1.0`.
    pub fn next_f64(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_stream() {
        // reference values of SplitMix64 for seed 1234567
        let random = Random::seeded(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
        assert!((0.0..1.0).contains(&random.next_f64()));
    }
}
