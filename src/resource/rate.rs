//! How many attempts a second may start.
//!
//! A token bucket in exact integers. Its capacity is the burst *and all but a hair of one more token*: in
//! a window of length `W` that admits at most `N + burst` starts still, because the part of a token
//! cannot be spent, and it is what lets a limiter keep its rate although timers wake up to a
//! millisecond late: the token that fills while a waiter oversleeps is not lost at the brim.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::clock::FAR;
use crate::config::{ConfigError, Span};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A rate of attempts: in *every* window of the period at most `n` + [burst](Rate::burst) of them start,
/// retries included, for all units of the resource in this process together.
///
/// When the dependency answers that it is throttled, the rate falls to 70 % (at most once a second, not
/// below 5 % of what is configured) and climbs back by 5 % of it a second: additive increase,
/// multiplicative decrease, as in TCP (Chiu and Jain 1989) and the AWS SDKs' adaptive retry mode.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::Rate;
///
/// const QUOTA: Rate = Rate::per(1000, Duration::from_secs(60)).burst(5);
/// assert_ne!(QUOTA, Rate::per_second(17));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub(super) n: u32,
    pub(super) per: Duration,
    pub(super) burst: Option<u32>,
}

impl Rate {
    /// At most `n` a second. Zero is refused by `build()`.
    pub const fn per_second(n: u32) -> Self {
        Self::per(n, Duration::from_secs(1))
    }

    /// At most `n` in this time. Zero of either is refused by `build()`.
    pub const fn per(n: u32, period: Duration) -> Self {
        Self { n, per: period, burst: None }
    }

    /// How many may start at one instant. Default: what accrues in 10 ms, at least 1. Timers wake up to a
    /// millisecond late, so with less than 2 ms worth the full rate may not be reached. Zero is refused
    /// by `build()`.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    pub(super) fn allowed_burst(&self) -> u32 {
        let in_10_ms =
            (u128::from(self.n) * 10_000_000).div_ceil(self.per.as_nanos().max(1)).max(1);
        self.burst.unwrap_or_else(|| u32::try_from(in_10_ms).unwrap_or(u32::MAX))
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let per = Span::from(self.per);
        format!("at most {} in {per} and {} in one instant", self.n, self.allowed_burst())
    }

    pub(super) fn starts_per_second(&self) -> f64 {
        f64::from(self.n) / self.per.as_secs_f64()
    }

    /// How long `waiters` wait when all come at once.
    pub(super) fn queue(&self, waiters: usize) -> Duration {
        let nanos = self.per.as_nanos().saturating_mul(waiters as u128) / u128::from(self.n.max(1));
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }

    pub(crate) fn check(&self, of: &str) -> Result<(), ConfigError> {
        // so that the arithmetic of the bucket stays within 128 bits
        const LONGEST: Duration = Duration::from_secs(366 * 86_400);
        let wrong = |field: &str, found: String, accepted: &str| {
            Err(ConfigError::new(format!("{of}: rate {field}"), found, accepted))
        };
        if self.n == 0 {
            return wrong("n", "0".into(), "a number from 1");
        }
        if self.per.is_zero() || self.per > LONGEST {
            return wrong("period", format!("{:?}", self.per), "above zero, at most 366 days");
        }
        if self.burst == Some(0) {
            return wrong("burst", "0".into(), "a number from 1");
        }
        Ok(())
    }
}

/// The whole of the configured rate, in millionths.
const FULL: u32 = 1_000_000;
const LEAST: u32 = FULL / 20;
const STEP: u32 = FULL / 20;
const DECREASE_PERCENT: u32 = 70;
const SECOND: Duration = Duration::from_secs(1);

/// The limiter of one resource. There is one also where no rate was set: a dependency that says
/// "not before" is obeyed all the same.
#[derive(Debug)]
pub(crate) struct RateState {
    origin: Instant,
    /// Nanoseconds after `origin` before which nothing starts; 0 is no such hold.
    not_before: AtomicU64,
    bucket: Option<Mutex<Bucket>>,
    /// One permit, first come first served. Whoever waits for a token holds it, so that waiters are
    /// served in order, and one that is dropped makes place for the next.
    pub(crate) turnstile: Arc<Semaphore>,
}

impl RateState {
    pub(crate) fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            origin: now,
            not_before: AtomicU64::new(0),
            bucket: rate.map(|rate| Mutex::new(Bucket::new(rate, now))),
            turnstile: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether an attempt has to ask at all.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.bucket.is_some() || self.not_before.load(Ordering::Relaxed) != 0
    }

    /// Takes the right to start one attempt now.
    ///
    /// # Errors
    /// How long to wait before it is worth asking again; nothing was taken.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        if let Some(held) = self.held(now) {
            return Err(held);
        }
        match &self.bucket {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).admit(now),
            None => Ok(()),
        }
    }

    /// The dependency asked to be left alone for `after`: nothing starts until then, and the rate falls.
    pub(crate) fn throttled(&self, now: Instant, after: Duration) {
        if !after.is_zero() {
            let until = self.offset(now).saturating_add(nanos(after.min(FAR)));
            self.not_before.fetch_max(until, Ordering::Relaxed);
        }
        if let Some(bucket) = &self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).slow_down(now);
        }
    }

    /// How much longer the dependency wants to be left alone.
    pub(super) fn held(&self, now: Instant) -> Option<Duration> {
        let until = self.not_before.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let left = until.saturating_sub(self.offset(now));
        if left > 0 {
            return Some(Duration::from_nanos(left));
        }
        // a hold that came in between is kept; its loser only looks once more the next time
        let _ = self.not_before.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        None
    }

    /// The share of the configured rate that holds now, 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        self.bucket.as_ref().map_or(1.0, |bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.refill(now);
            f64::from(bucket.scale) / f64::from(FULL)
        })
    }

    fn offset(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A token costs `period × FULL`, a nanosecond pays `n × scale`: no division, so nothing is rounded.
#[derive(Debug)]
struct Bucket {
    n: u128,
    cost: u128,
    capacity: u128,
    level: u128,
    filled: Instant,
    /// The share of the rate that holds now, in millionths.
    scale: u32,
    lowered: Option<Instant>,
    stepped: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        let cost = rate.per.as_nanos() * u128::from(FULL);
        let capacity = cost * u128::from(rate.allowed_burst()) + (cost - 1);
        Self {
            n: u128::from(rate.n),
            cost,
            capacity,
            level: capacity,
            filled: now,
            scale: FULL,
            lowered: None,
            stepped: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let idle = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        let paid = u128::from(nanos(idle)) * self.n * u128::from(self.scale);
        self.level = self.level.saturating_add(paid).min(self.capacity);
        if self.scale < FULL {
            // time that has passed is paid at the old scale: too little, never too much
            let steps = now.saturating_duration_since(self.stepped).as_secs();
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            self.scale = self.scale.saturating_add(STEP.saturating_mul(steps)).min(FULL);
            self.stepped += SECOND.saturating_mul(steps);
        }
    }

    fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if let Some(left) = self.level.checked_sub(self.cost) {
            self.level = left;
            return Ok(());
        }
        let wait = (self.cost - self.level).div_ceil(self.n * u128::from(self.scale));
        Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)).min(FAR))
    }

    fn slow_down(&mut self, now: Instant) {
        self.refill(now);
        // all that were in flight hear of one overload at once: it is one reason to slow down
        if self.lowered.is_some_and(|at| now.saturating_duration_since(at) < SECOND) {
            return;
        }
        self.scale = (self.scale / 100 * DECREASE_PERCENT).max(LEAST);
        self.lowered = Some(now);
        self.stepped = self.stepped.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of waiters that is never empty, woken by timers that round up to milliseconds.
    fn saturate(state: &RateState, start: Instant, lasts: Duration) -> Vec<Duration> {
        let mut starts = Vec::new();
        let mut at = Duration::ZERO;
        while at < lasts {
            match state.admit(start + at) {
                Ok(()) => starts.push(at),
                Err(wait) => {
                    let ms = (at + wait).as_nanos().div_ceil(1_000_000);
                    at = Duration::from_millis(u64::try_from(ms).expect("small") + 1);
                }
            }
        }
        starts
    }

    fn all_windows_hold(starts: &[Duration], rate: Rate) {
        let most = rate.n as usize + rate.allowed_burst() as usize;
        for (i, first) in starts.iter().enumerate() {
            for (j, last) in starts.iter().enumerate().skip(i) {
                if *last - *first > rate.per {
                    break;
                }
                assert!(j - i < most, "{} starts within {:?} from {first:?}", j - i + 1, rate.per);
            }
        }
    }

    #[test]
    fn r2_saturated_it_keeps_95_percent_with_millisecond_timers() {
        for n in [1, 3, 7, 90, 333, 500, 750, 999, 1_000, 1_500, 7_777, 20_000] {
            let rate = Rate::per_second(n);
            let start = Instant::now();
            let state = RateState::new(Some(rate), start);
            let starts = saturate(&state, start, Duration::from_secs(20));
            let least = 0.95 * f64::from(n) * 20.0;
            assert!(starts.len() as f64 >= least, "{n} a second: {} starts", starts.len());
            if n <= 999 {
                all_windows_hold(&starts, rate);
            }
        }
    }

    #[test]
    fn r1_after_idle_no_more_than_the_burst_starts_at_once() {
        let start = Instant::now();
        let state = RateState::new(Some(Rate::per_second(10).burst(3)), start);
        let later = start + Duration::from_secs(86_400);
        assert_eq!((0..10).filter(|_| state.admit(later).is_ok()).count(), 3);
    }

    #[test]
    fn a_throttle_holds_all_starts_back_with_and_without_a_rate() {
        for rate in [None, Some(Rate::per_second(100))] {
            let start = Instant::now();
            let state = RateState::new(rate, start);
            assert_eq!(state.is_active(), rate.is_some());
            state.throttled(start, Duration::from_secs(5));
            state.throttled(start, Duration::from_secs(2));
            assert!(state.is_active());
            let early = start + Duration::from_millis(4_999);
            assert_eq!(state.admit(early), Err(Duration::from_millis(1)), "the longest holds");
            assert_eq!(state.admit(start + Duration::from_secs(5)), Ok(()));
            assert_eq!(state.is_active(), rate.is_some(), "the hold is over");
            state.throttled(start, Duration::MAX);
            assert!(state.admit(start + Duration::from_secs(1_000_000)).is_err());
        }
    }

    #[test]
    fn a_throttle_lowers_the_rate_once_a_second_and_it_recovers() {
        let start = Instant::now();
        let state = RateState::new(Some(Rate::per_second(100)), start);
        (0..50).for_each(|_| state.throttled(start, Duration::ZERO));
        assert!((state.share(start) - 0.7).abs() < 1e-3);
        let lowered = saturate(&state, start, Duration::from_millis(900)).len();
        assert!((55..=75).contains(&lowered), "{lowered}");
        assert!((state.share(start + Duration::from_secs(2)) - 0.8).abs() < 1e-3);
        assert!((state.share(start + Duration::from_secs(60)) - 1.0).abs() < 1e-9);
        for second in 100..200 {
            state.throttled(start + Duration::from_secs(second), Duration::ZERO);
        }
        let floor = state.share(start + Duration::from_secs(199));
        assert!((0.05..=0.12).contains(&floor), "{floor}: never below its floor");
    }

    #[test]
    fn mistakes_are_named() {
        let text = |rate: Rate| rate.check("resource `db`").expect_err("refused").to_string();
        assert!(text(Rate::per_second(0)).contains("rate n is 0"));
        assert!(text(Rate::per(1, Duration::ZERO)).contains("rate period is 0ns"));
        assert!(text(Rate::per(1, Duration::MAX)).contains("at most 366 days"));
        assert!(text(Rate::per_second(1).burst(0)).contains("rate burst is 0"));
        assert!(Rate::per(u32::MAX, Duration::from_nanos(1)).check("x").is_ok());
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        let extreme = [
            Rate::per(u32::MAX, Duration::from_nanos(1)),
            Rate::per(1, Duration::from_secs(366 * 86_400)).burst(u32::MAX),
            Rate::per(u32::MAX, Duration::from_secs(366 * 86_400)).burst(u32::MAX),
        ];
        for rate in extreme {
            let start = Instant::now();
            let state = RateState::new(Some(rate), start);
            let far = start + Duration::from_secs(400 * 365 * 86_400);
            assert!(state.admit(start).is_ok() && state.admit(far).is_ok());
            assert!(state.admit(start).is_ok(), "time that goes back is no time");
        }
    }
}
