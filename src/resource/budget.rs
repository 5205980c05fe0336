//! How long one unit may take at a resource, from its first start to its decision, and when it is given
//! up before.

use std::time::Duration;

use tokio::time::Instant;

use super::Resource;
use super::account::Count;
use crate::clock::FAR;
use crate::error::{Class, StepError};

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

impl Resource {
    /// How long to back off before the next attempt, after `made` of them; a retry that is granted is
    /// taken from the quota and counted.
    ///
    /// `started` is when the first attempt began. Where there is neither a deadline nor a wall-clock
    /// budget, `max_wait` bounds how long a throttle is waited for.
    ///
    /// # Errors
    /// Why there is none; counted as exhausted where `on_exhausted` is to decide.
    pub(crate) fn next_retry(
        &self,
        made: u32,
        started: Instant,
        now: Instant,
        error: &StepError,
        deadline: Option<Instant>,
    ) -> Result<Duration, GiveUp> {
        let next = self.plan_retry(made, started, now, error, deadline);
        match next {
            Ok(_) => {
                self.0.account.add(Count::Retry);
            }
            Err(why) => {
                if why == GiveUp::Quota {
                    self.0.account.add(Count::QuotaRefused);
                }
                if why.is_exhausted() {
                    self.0.account.add(Count::Exhausted);
                }
            }
        }
        next
    }

    fn plan_retry(
        &self,
        made: u32,
        started: Instant,
        now: Instant,
        error: &StepError,
        deadline: Option<Instant>,
    ) -> Result<Duration, GiveUp> {
        if !error.class().is_retryable() {
            return Err(GiveUp::NotRetryable);
        }
        let retry = self.retry();
        let backoff = retry.delay(made, &self.0.random).ok_or(GiveUp::Attempts)?;
        let asked = match error.class() {
            Class::Throttled => error.after().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let delay = backoff.max(asked).min(FAR);
        let spent = now.saturating_duration_since(started);
        match (deadline, retry.budget()) {
            (_, Some(budget)) if spent.saturating_add(delay) > budget => {
                return Err(GiveUp::Elapsed);
            }
            (None, None) if asked > self.max_wait() => return Err(GiveUp::Throttle),
            _ => {}
        }
        if deadline.is_some_and(|deadline| now + delay + self.timeout() > deadline) {
            return Err(GiveUp::Deadline);
        }
        if self.0.quota.try_spend(now) { Ok(delay) } else { Err(GiveUp::Quota) }
    }

    /// The worst case of one unit, where `waiters` units at most queue for the rate together.
    pub(crate) fn budget(&self, waiters: usize) -> Budget {
        let settings = &self.0.settings;
        let attempts = settings.retry.attempts();
        let calls = settings.timeout.saturating_mul(attempts);
        let backoffs = settings.retry.worst_case();
        let mut tries = calls.saturating_add(backoffs);
        if let Some(elapsed) = settings.retry.budget() {
            tries = tries.min(elapsed.saturating_add(settings.timeout));
        }
        let queued = waiters.min(settings.concurrency.unwrap_or(usize::MAX));
        let rate = settings.rate.map_or(Duration::ZERO, |rate| rate.queue(queued));
        Budget {
            attempts,
            timeout: settings.timeout,
            calls,
            backoffs,
            rate,
            total: tries.saturating_add(rate),
        }
    }
}
