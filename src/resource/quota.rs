//! How many retries all units of a resource may make together.
//!
//! A limit of attempts bounds one unit; it does not bound the load on a dependency that is down, which
//! a limit of 4 multiplies by 4 just when it can bear the least. A quota that successes refill makes
//! retries a share of the traffic instead. The pattern is that of `tower::retry::budget` ("why budgets
//! and not max retries?", after Finagle) and of the retry quota in the AWS SDKs' standard mode.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ConfigError;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// One retry, in the unit in which tokens are counted: so that one a second is one a nanosecond, and the
/// floor is paid in without a remainder, however often it is asked for.
const TOKEN: u64 = 1_000_000_000;

/// A budget of retries, shared by all units of a resource: a bucket of tokens from which each retry
/// takes one, and into which each success puts a part of one.
///
/// ```
/// use streambreaker::RetryQuota;
///
/// // in the long run one retry on ten successes, but three a second in any case
/// let quota = RetryQuota::ratio(0.1).floor(3);
/// assert_ne!(quota, RetryQuota::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryQuota {
    /// `None`: no limit.
    pub(super) limits: Option<Limits>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) ratio: f64,
    pub(super) floor: u32,
    pub(super) reserve: u32,
}

impl Default for RetryQuota {
    /// `RetryQuota::ratio(0.2)`.
    fn default() -> Self {
        Self::ratio(0.2)
    }
}

impl RetryQuota {
    /// Retries may be at most this share of the successes, beside a [floor](RetryQuota::floor) of 10 a
    /// second and a [reserve](RetryQuota::reserve) of 100. A number above 0, at most 1.
    pub const fn ratio(ratio: f64) -> Self {
        Self { limits: Some(Limits { ratio, floor: 10, reserve: 100 }) }
    }

    /// The same with another ratio.
    pub(crate) const fn with_ratio(mut self, ratio: f64) -> Self {
        match &mut self.limits {
            Some(limits) => limits.ratio = ratio,
            None => self = Self::ratio(ratio),
        }
        self
    }

    /// No limit: a dependency that is down gets every attempt of every unit.
    pub const fn unlimited() -> Self {
        Self { limits: None }
    }

    /// So many retries a second are allowed whatever else happens, so that a lone failure on a quiet
    /// stream always has its retry. Default 10.
    #[must_use]
    pub const fn floor(mut self, per_second: u32) -> Self {
        if let Some(limits) = &mut self.limits {
            limits.floor = per_second;
        }
        self
    }

    /// How many retries can be saved up, and are there at the start. Default 100; zero is refused by
    /// `build()`.
    #[must_use]
    pub const fn reserve(mut self, retries: u32) -> Self {
        if let Some(limits) = &mut self.limits {
            limits.reserve = retries;
        }
        self
    }

    pub(super) fn check(&self, of: &str) -> Result<(), ConfigError> {
        let Some(limits) = self.limits else { return Ok(()) };
        if !(limits.ratio > 0.0 && limits.ratio <= 1.0) {
            let accepted = "a number above 0, at most 1; no limit: RetryQuota::unlimited()";
            return Err(ConfigError::new(
                format!("{of}: retry_quota ratio"),
                limits.ratio,
                accepted,
            ));
        }
        if limits.reserve == 0 {
            let field = format!("{of}: retry_quota reserve");
            return Err(ConfigError::new(field, 0, "a number from 1"));
        }
        Ok(())
    }
}

/// The bucket of one resource.
#[derive(Debug)]
pub(crate) struct QuotaState {
    /// `None`: no limit.
    limits: Option<Limits>,
    refund: u64,
    full: u64,
    tokens: AtomicU64,
    /// Up to when the floor has been paid in; taken by retries only, never by a success.
    paid: Mutex<Instant>,
}

impl QuotaState {
    pub(super) fn new(quota: RetryQuota, now: Instant) -> Self {
        let (refund, full) = quota.limits.map_or((0, 0), |limits| {
            ((limits.ratio * TOKEN as f64) as u64, u64::from(limits.reserve) * TOKEN)
        });
        Self {
            limits: quota.limits,
            refund,
            full,
            tokens: AtomicU64::new(full),
            paid: Mutex::new(now),
        }
    }

    /// So many calls succeeded. In good times the bucket is full, and this is one load.
    #[inline]
    pub(crate) fn refund(&self, calls: u32) {
        if self.tokens.load(Ordering::Relaxed) < self.full {
            // may overfill by these refunds; whoever spends next cuts it back
            self.tokens.fetch_add(self.refund * u64::from(calls), Ordering::Relaxed);
        }
    }

    /// Whether one more retry is within the quota; if so, it is spent.
    pub(crate) fn try_spend(&self, now: Instant) -> bool {
        let Some(limits) = self.limits else { return true };
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.saturating_duration_since(*paid);
        let floor = nanos(due).saturating_mul(u64::from(limits.floor));
        *paid = now.max(*paid);
        let spent = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
            let tokens = tokens.saturating_add(floor).min(self.full);
            Some(tokens.checked_sub(TOKEN).unwrap_or(tokens))
        });
        // fetch_update hands out what was there before: whether it sufficed is computed once more
        spent.is_ok_and(|before| before.saturating_add(floor).min(self.full) >= TOKEN)
    }

    /// Retries that could be made at this moment, by what was paid in so far; `None` is no limit.
    pub(super) fn left(&self) -> Option<u64> {
        self.limits.map(|_| self.tokens.load(Ordering::Relaxed).min(self.full) / TOKEN)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(quota: &QuotaState, now: Instant) -> u32 {
        let spent = (0..1_000).take_while(|_| quota.try_spend(now)).count();
        u32::try_from(spent).expect("at most a thousand")
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_bounded_and_a_lone_failure_is_not() {
        let start = Instant::now();
        let quota = QuotaState::new(RetryQuota::default(), start);
        assert_eq!(spend_all(&quota, start), 100, "the reserve");
        assert_eq!(spend_all(&quota, start + Duration::from_secs(2)), 20, "the floor");
        assert!(!quota.try_spend(start + Duration::from_millis(2_010)));
        assert!(quota.try_spend(start + Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_the_successes() {
        let start = Instant::now();
        let quota = QuotaState::new(RetryQuota::ratio(0.2).floor(0).reserve(50), start);
        assert_eq!(spend_all(&quota, start), 50);
        (0..50).for_each(|_| quota.refund(1));
        quota.refund(50);
        assert_eq!(spend_all(&quota, start + Duration::from_secs(9)), 20);
        (0..10_000).for_each(|_| quota.refund(1));
        assert_eq!(quota.left(), Some(50), "no more than the reserve is saved up");
        assert_eq!(spend_all(&quota, start), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_bucket_is_left_alone_and_one_that_is_not_takes_all_of_a_refund() {
        let start = Instant::now();
        let quota = QuotaState::new(RetryQuota::ratio(0.5).floor(0).reserve(2), start);
        let tokens = || quota.tokens.load(Ordering::Relaxed);
        quota.refund(7);
        assert_eq!(tokens(), 2 * TOKEN, "in good times nothing is written");
        assert!(quota.try_spend(start));
        quota.refund(6);
        assert_eq!((tokens(), quota.left()), (4 * TOKEN, Some(2)), "cut back by who spends next");
        assert!(quota.try_spend(start));
        assert_eq!((tokens(), quota.left()), (TOKEN, Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn unlimited_is_unlimited() {
        let now = Instant::now();
        let quota = QuotaState::new(RetryQuota::unlimited(), now);
        assert!((0..100_000).all(|_| quota.try_spend(now)));
        assert_eq!(quota.left(), None);
    }

    #[test]
    fn mistakes_are_named() {
        for ratio in [0.0, -1.0, 1.1, f64::NAN, f64::INFINITY] {
            assert!(RetryQuota::ratio(ratio).check("x").is_err(), "{ratio}");
        }
        assert!(RetryQuota::default().reserve(0).check("x").is_err());
        assert!(RetryQuota::unlimited().check("x").is_ok());
    }
}
