//! A guarded dependency: its timeout, retry, breaker, rate and concurrency.
//!
//! A [`Resource`] is one bulkhead for the whole process: all stages, shards and pipelines that call a
//! dependency hold the same one, so that what one of them learns of it the others know. What is here
//! are state machines without futures or timers: each is given the time and answers at once, so that
//! it can be tested exhaustively. A flow drives them, for each attempt in this order: wait for the breaker
//! (where it pauses), permit, rate, admission by the breaker, the attempt under its timeout,
//! classification, accounting.
//!
//! ```
//! use std::time::Duration;
//! use streambreaker::{Breaker, OnOpen, Rate, Resource, Retry};
//!
//! let orders = Resource::builder("orders-table")
//!     .timeout(Duration::from_millis(800))
//!     .retry(Retry::exponential().max_attempts(4))
//!     .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
//!     .rate(Rate::per_second(500))
//!     .concurrency(32)
//!     .build()?;
//! assert_eq!(orders.name(), "orders-table");
//! # Ok::<(), streambreaker::ConfigError>(())
//! ```

mod account;
mod breaker;
mod budget;
mod builder;
mod circuit;
mod classify;
mod describe;
mod pass;
mod quota;
mod rate;
mod retry;
mod state;
mod status;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use self::account::Count;
use self::account::{Account, count_of};
pub use self::breaker::{Breaker, OnOpen};
pub(crate) use self::budget::GiveUp;
pub use self::builder::ResourceBuilder;
use self::builder::Settings;
pub(crate) use self::circuit::{Circuit, Refused};
use self::classify::Classifier;
pub use self::classify::io_errors;
pub(crate) use self::pass::Pass;
use self::quota::QuotaState;
pub use self::quota::RetryQuota;
pub use self::rate::Rate;
pub(crate) use self::rate::RateState;
pub use self::retry::{Delays, Retry};
pub use self::state::{BreakerControl, BreakerState, BreakerStatus};
pub use self::status::{FailureCounts, PermitStatus, RateStatus, ResourceStatus, WaitCounts};
use crate::clock::Random;
use crate::config::ResourceConfig;
use crate::error::{Class, StepError};

/// What becomes of a unit whose retries are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnExhausted {
    /// It is left to the stream, until the dependency recovers or the event expires.
    #[default]
    Return,
    /// It is set aside as a fault.
    Fault,
}

/// A named dependency that handlers call, guarded for the whole process. Cheap to clone; clones are the
/// same resource.
///
/// `Debug` shows name and settings only.
#[derive(Clone)]
pub struct Resource(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    settings: Settings,
    classifier: Option<Classifier>,
    /// What the configuration said of it.
    taken: Option<ResourceConfig>,
    random: Random,
    quota: QuotaState,
    circuit: Option<Circuit>,
    rate: RateState,
    permits: Option<Arc<Semaphore>>,
    account: Account,
    /// Transient or throttled errors were seen: retry and breaker have something to work on.
    worked: AtomicBool,
}

/// So many faults without a transient error make one suspect that nothing is classified.
const SUSPICIOUS: u64 = 100;

impl Resource {
    /// Begins a resource of this name, which appears in logs, metrics and [`ResourceStatus`].
    pub fn builder(name: impl Into<String>) -> ResourceBuilder {
        ResourceBuilder::new(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How it does at the moment. Reads the clock of `tokio::time`.
    pub fn status(&self) -> ResourceStatus {
        self.status_at(Instant::now())
    }

    /// Whether both are the same resource, not only of the same name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it was built with this configuration.
    pub(crate) fn has_taken(&self, given: &ResourceConfig) -> bool {
        self.0.taken.as_ref() == Some(given)
    }

    /// Of one attempt; bounded so that it can be added to any instant of this century.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.settings.timeout
    }

    pub(crate) fn retry(&self) -> &Retry {
        &self.0.settings.retry
    }

    pub(crate) fn on_exhausted(&self) -> OnExhausted {
        self.0.settings.on_exhausted
    }

    pub(crate) fn return_limit(&self) -> Option<u32> {
        self.0.settings.return_limit
    }

    /// How long a unit may wait for permit or rate.
    pub(crate) fn max_wait(&self) -> Duration {
        self.0.settings.max_wait
    }

    /// The permits for attempts, first come first served; `None` is no limit.
    pub(crate) fn permits(&self) -> Option<&Arc<Semaphore>> {
        self.0.permits.as_ref()
    }

    /// The rate limiter, if an attempt has to ask it now. Keep its turnstile's permit while waiting for
    /// it; [`RateState::admit`] again after each wait.
    #[inline]
    pub(crate) fn rate(&self) -> Option<&RateState> {
        let rate = &self.0.rate;
        rate.is_active().then_some(rate)
    }

    /// The breaker, if there is one.
    #[inline]
    pub(crate) fn circuit(&self) -> Option<&Circuit> {
        self.0.circuit.as_ref()
    }

    /// The breaker's admission of one attempt: final, never waits. To be asked right before the
    /// attempt starts.
    ///
    /// # Errors
    /// The circuit is open; counted.
    #[inline]
    pub(crate) fn admit(&self, now: Instant) -> Result<Pass<'_>, Refused> {
        match &self.0.circuit {
            None => Ok(Pass::free()),
            Some(circuit) => circuit.admit(now).inspect_err(|_| {
                self.0.account.add(Count::CircuitRefused);
            }),
        }
    }

    /// Asks the classifier about an error that the handler left a fault.
    pub(crate) fn classify(&self, error: StepError) -> StepError {
        match &self.0.classifier {
            Some(classifier) => classifier.classify(error),
            None => error,
        }
    }

    /// Admits one attempt if there is nothing that could hold it back, which needs no clock: neither a limit
    /// of concurrency or rate, nor a circuit that is not closed. What it yields is for
    /// [`went_well`](Self::went_well) or [`pass`](Self::pass).
    #[inline(always)]
    pub(crate) fn admit_at_once(&self) -> Option<u64> {
        if self.0.permits.is_some() || self.0.rate.is_active() {
            return None;
        }
        match &self.0.circuit {
            None => Some(0),
            Some(circuit) => circuit.admit_closed(),
        }
    }

    /// The pass of an attempt that was admitted while the circuit was closed.
    pub(crate) fn pass(&self, word: u64) -> Pass<'_> {
        self.0.circuit.as_ref().map_or(Pass::free(), |circuit| Pass::new(circuit, word))
    }

    /// Whether the next success may open the circuit, as the call that makes them enough to judge by.
    #[inline(always)]
    pub(crate) fn is_near(&self) -> bool {
        self.0.circuit.as_ref().is_some_and(Circuit::is_near)
    }

    /// As [`succeeded`](Self::succeeded), of so many attempts that were admitted under this word, while the circuit
    /// was closed.
    pub(crate) fn went_well(&self, word: u64, attempts: u32, now: Instant) {
        self.0.account.add_all(Count::Success, attempts.into());
        self.0.quota.refund(attempts);
        if let Some(circuit) = &self.0.circuit {
            circuit.good(word, attempts, now);
        }
    }

    /// An attempt went well.
    pub(crate) fn succeeded(&self, pass: Pass<'_>, now: Instant) {
        self.0.account.add(Count::Success);
        self.0.quota.refund(1);
        pass.success(now);
    }

    /// An attempt failed; `error` is classified. A cancelled attempt is not reported at all: its pass is
    /// dropped.
    pub(crate) fn failed(&self, pass: Pass<'_>, error: &StepError, now: Instant) {
        let class = error.class();
        let count = self.0.account.add(count_of(class));
        match class {
            Class::Transient => {
                self.0.worked.store(true, Ordering::Relaxed);
                pass.failure(now);
            }
            Class::Throttled => {
                self.0.worked.store(true, Ordering::Relaxed);
                pass.ignored();
                self.0.rate.throttled(now, error.after().unwrap_or_default());
            }
            // it has answered: this unit is at fault, not the dependency
            Class::Fault => {
                pass.success(now);
                if count == SUSPICIOUS {
                    self.warn_if_nothing_is_classified();
                }
            }
            _ => pass.ignored(),
        }
    }

    fn warn_if_nothing_is_classified(&self) {
        let guarded = self.retry().attempts() > 1 || self.circuit().is_some();
        if guarded && !self.0.worked.load(Ordering::Relaxed) {
            tracing::warn!(
                target: "streambreaker::resource", resource = self.name(), faults = SUSPICIOUS,
                "its retry and breaker have nothing to work on: no error was transient; classify \
                 errors by `.transient()`, `.transient_if(…)` or a classifier"
            );
        }
    }

    /// Counts what only the driver sees: waits.
    #[inline]
    pub(crate) fn count(&self, count: Count) {
        self.0.account.add(count);
    }

    /// Tells metrics what came since the last time; to be called on the commit tick.
    pub(crate) fn publish_metrics(&self, now: Instant) {
        let resource = &self.0;
        resource.account.publish(&resource.name);
        let label = || metrics::SharedString::from(Arc::clone(&resource.name));
        if let Some(circuit) = &resource.circuit {
            circuit.publish_state();
        }
        if let Some(rate) = resource.settings.rate {
            let per_second = rate.starts_per_second() * resource.rate.share(now);
            metrics::gauge!("streambreaker_rate_per_second", "resource" => label()).set(per_second);
        }
        if let Some(permits) = self.permit_status() {
            metrics::gauge!("streambreaker_permits_in_use", "resource" => label())
                .set(permits.in_use as f64);
        }
    }

    fn permit_status(&self) -> Option<PermitStatus> {
        let limit = self.0.settings.concurrency?;
        let free = self.0.permits.as_ref()?.available_permits();
        Some(PermitStatus { in_use: limit.saturating_sub(free), limit })
    }

    pub(crate) fn status_at(&self, now: Instant) -> ResourceStatus {
        let resource = &self.0;
        let get = |count| resource.account.get(count);
        let failures = FailureCounts {
            fault: get(Count::Fault),
            transient: get(Count::Transient),
            throttled: get(Count::Throttled),
            fatal: get(Count::Fatal),
            panic: get(Count::Panic),
        };
        let FailureCounts { fault, transient, throttled, fatal, panic } = failures;
        let successes = get(Count::Success);
        ResourceStatus {
            name: resource.name.to_string(),
            attempts: successes + fault + transient + throttled + fatal + panic,
            successes,
            failures,
            retries: get(Count::Retry),
            exhausted: get(Count::Exhausted),
            quota_refused: get(Count::QuotaRefused),
            quota_left: resource.quota.left(),
            breaker_refused: get(Count::CircuitRefused),
            waits: WaitCounts {
                breaker: get(Count::WaitedForBreaker),
                permit: get(Count::WaitedForPermit),
                rate: get(Count::WaitedForRate),
            },
            breaker: resource.circuit.as_ref().map(|circuit| circuit.status(now)),
            rate: resource.settings.rate.map(|rate| RateStatus {
                per_second: rate.starts_per_second() * resource.rate.share(now),
                configured_per_second: rate.starts_per_second(),
                burst: rate.allowed_burst(),
            }),
            held_back_seconds: resource.rate.held(now).map(|left| left.as_secs_f64()),
            permits: self.permit_status(),
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.0.name)
            .field("settings", &self.0.settings)
            .finish()
    }
}

#[cfg(test)]
mod circuit_model;
#[cfg(test)]
mod rate_model;
#[cfg(test)]
mod tests;
#[cfg(all(test, shuttle))]
mod threads;
