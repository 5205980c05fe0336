//! A resource at one moment, for people and their tools.

use serde::Serialize;

use super::state::BreakerStatus;

/// A resource at one moment. Counts are those of this process, since the resource was built.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// Attempts that ended; those that were cancelled are not among them.
    pub attempts: u64,
    /// Attempts that went well.
    pub successes: u64,
    /// Attempts that did not.
    pub failures: FailureCounts,
    /// Retries begun.
    pub retries: u64,
    /// Units whose budget of retries ran out.
    pub exhausted: u64,
    /// Retries that the quota refused; their units are among the exhausted.
    pub quota_refused: u64,
    /// Retries that the quota still holds; `None` is no limit.
    pub quota_left: Option<u64>,
    /// Attempts that the open circuit refused.
    pub breaker_refused: u64,
    /// How often a unit had to wait.
    pub waits: WaitCounts,
    /// Its breaker.
    pub breaker: Option<BreakerStatus>,
    /// Its rate.
    pub rate: Option<RateStatus>,
    /// Seconds for which the dependency still wants to be left alone.
    pub held_back_seconds: Option<f64>,
    /// Its permits.
    pub permits: Option<PermitStatus>,
}

/// Failed attempts by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailureCounts {
    /// Not worth a retry.
    pub fault: u64,
    /// Worth a retry, timeouts included.
    pub transient: u64,
    /// The dependency asked for less.
    pub throttled: u64,
    /// Nobody can handle it.
    pub fatal: u64,
    /// User code panicked.
    pub panic: u64,
}

/// How often a unit had to wait, by what it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitCounts {
    /// For the circuit to close.
    pub breaker: u64,
    /// For a permit.
    pub permit: u64,
    /// For the rate.
    pub rate: u64,
}

/// A rate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RateStatus {
    /// Starts a second that hold now.
    pub per_second: f64,
    /// Starts a second that are configured.
    pub configured_per_second: f64,
    /// How many may start at one instant.
    pub burst: u32,
}

/// Permits at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PermitStatus {
    /// Taken now.
    pub in_use: usize,
    /// In all.
    pub limit: usize,
}
