//! How long one unit may take at a resource, from its first start to its decision.

use std::time::Duration;

/// The worst case of one unit, in the parts that a table shows. Queueing for permits and for an open
/// circuit is no part of it: that is handled at run time, by not starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) attempts: u32,
    /// Of one attempt.
    pub(crate) timeout: Duration,
    /// All attempts, each up to its timeout.
    pub(crate) calls: Duration,
    /// All backoffs, each at its largest.
    pub(crate) backoffs: Duration,
    /// The queue before the rate limiter.
    pub(crate) rate: Duration,
    /// At most the sum of the three above: less where a wall-clock budget ends the retries sooner.
    pub(crate) total: Duration,
}

/// Why a unit is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// Its error is not worth it.
    NotRetryable,
    /// It has had all its attempts.
    Attempts,
    /// The wall-clock budget of the retries would be over.
    Elapsed,
    /// The dependency asks for more patience than there is.
    Throttle,
    /// The resource has spent its retries.
    Quota,
    /// The attempt would not fit before the deadline: the unit is returned, never faulted.
    Deadline,
}

impl GiveUp {
    /// Whether this is what `on_exhausted` decides on.
    pub(crate) const fn is_exhausted(self) -> bool {
        matches!(self, Self::Attempts | Self::Elapsed | Self::Throttle | Self::Quota)
    }
}
