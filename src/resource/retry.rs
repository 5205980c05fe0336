//! When to try again: the schedule of backoffs, as a value.
//!
//! The schedule says only *how long to wait*. Whether a retry happens at all also hangs on the class of
//! the error, the wall-clock budget, the deadline and the [`RetryQuota`](super::RetryQuota).

use std::time::Duration;

use crate::clock::Random;
use crate::config::ConfigError;

/// How the backoff is drawn from its ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Jitter {
    /// Uniformly from zero to the ceiling.
    Full,
    /// Uniformly from the interval, less and more this share of it.
    #[cfg_attr(not(feature = "backoff"), allow(dead_code))]
    Around(f64),
}

/// A schedule of retries: a quick first one, then exponential backoff with full jitter up to a cap.
///
/// A plain value: compare it, print it, keep it in a `const`. Nearly all failures of a moment are over
/// at once, so the first retry comes within 50 ms; what is not over then gets time, and jitter keeps
/// those who failed together from coming back together ("Exponential Backoff And Jitter", AWS
/// Architecture Blog, 2015: *full jitter*).
///
/// ```
/// use std::time::Duration;
/// use streambreaker::Retry;
///
/// const PATIENT: Retry = Retry::exponential().max_attempts(6).cap(Duration::from_secs(2));
///
/// // an iterator for anybody: one backoff less than attempts, the same for the same seed
/// let delays: Vec<Duration> = PATIENT.delays(7).collect();
/// assert_eq!(delays.len(), 5);
/// assert!(delays[0] <= Duration::from_millis(50));
/// assert!(delays.iter().sum::<Duration>() <= PATIENT.worst_case());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    pub(super) attempts: u32,
    pub(super) quick: Option<Duration>,
    pub(super) base: Duration,
    pub(super) cap: Duration,
    factor: f64,
    jitter: Jitter,
    pub(super) elapsed: Option<Duration>,
}

impl Default for Retry {
    /// [`Retry::exponential`].
    fn default() -> Self {
        Self::exponential()
    }
}

impl Retry {
    /// 4 attempts in all; the first retry within 50 ms, then 100 ms doubling up to 5 s, with full
    /// jitter; no limit of wall-clock time.
    pub const fn exponential() -> Self {
        Self {
            attempts: 4,
            quick: Some(Duration::from_millis(50)),
            base: Duration::from_millis(100),
            cap: Duration::from_secs(5),
            factor: 2.0,
            jitter: Jitter::Full,
            elapsed: None,
        }
    }

    /// One attempt, no retry.
    pub const fn none() -> Self {
        Self::exponential().max_attempts(1)
    }

    /// Attempts in all, the first included. Default 4; zero is refused by `build()`.
    #[must_use]
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The ceiling of the first exponential backoff. Default 100 ms; zero is refused by `build()`.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The ceiling that no backoff passes. Default 5 s; less than the base is refused by `build()`.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The first retry comes within this time, before the exponential ones begin. Default 50 ms; zero
    /// means at once.
    #[must_use]
    pub const fn quick(mut self, within: Duration) -> Self {
        self.quick = Some(within);
        self
    }

    /// No quick first retry: the first backoff is already an exponential one.
    #[must_use]
    pub const fn no_quick(mut self) -> Self {
        self.quick = None;
        self
    }

    /// The wall-clock budget from the start of the first attempt: none is started after it. Default
    /// none, so that attempts alone count; zero is refused by `build()`.
    #[must_use]
    pub const fn elapsed(mut self, budget: Duration) -> Self {
        self.elapsed = Some(budget);
        self
    }

    /// The schedule of a `backoff::ExponentialBackoff`, with its multiplier, its randomisation and its
    /// elapsed time, and no limit of attempts but what [`max_attempts`](Retry::max_attempts) sets
    /// afterwards. Its current interval and its clock are not taken over: each unit begins anew, in
    /// the time of `tokio::time`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use streambreaker::Retry;
    ///
    /// let retry = Retry::from_backoff(backoff::ExponentialBackoff::default()).max_attempts(3);
    /// assert_eq!(retry.delays(1).count(), 2);
    /// ```
    #[cfg(feature = "backoff")]
    #[must_use]
    pub fn from_backoff(schedule: backoff::ExponentialBackoff) -> Self {
        Self {
            attempts: u32::MAX,
            quick: None,
            base: schedule.initial_interval,
            cap: schedule.max_interval,
            factor: schedule.multiplier,
            jitter: Jitter::Around(schedule.randomization_factor),
            elapsed: schedule.max_elapsed_time,
        }
    }

    /// The attempts in all.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The wall-clock budget, if one is set.
    pub const fn budget(&self) -> Option<Duration> {
        self.elapsed
    }

    /// How long to wait after attempt number `attempt` (the first is 1) before the next one, or `None`
    /// if it was the last. Before the first attempt (0) there is nothing to wait for.
    ///
    /// The wall-clock budget is not looked at: it needs a clock.
    pub fn delay(&self, attempt: u32, random: &Random) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let (least, most) = self.range(attempt);
        let spread = (most - least).as_secs_f64() * random.next_f64();
        // near Duration::MAX the f64 may round above what a Duration holds
        let spread = Duration::try_from_secs_f64(spread).unwrap_or(most - least);
        Some(least.saturating_add(spread).min(most))
    }

    /// The backoffs of one unit, drawn from this seed. Ends where the attempts do, or where the backoffs
    /// alone pass the wall-clock budget.
    pub fn delays(&self, seed: u64) -> Delays {
        Delays { retry: *self, random: Random::seeded(seed), attempt: 0, waited: Duration::ZERO }
    }

    /// The sum of the largest backoffs there can be, at most the wall-clock budget.
    pub fn worst_case(&self) -> Duration {
        // a multiplier near 1 takes ages to reach the cap: from here on the cap is bound enough
        const EXACT: u32 = 4096;
        let last = self.attempts.saturating_sub(1);
        let mut sum = Duration::ZERO;
        for attempt in 1..=last.min(EXACT) {
            sum = sum.saturating_add(self.range(attempt).1);
        }
        let rest = self.spread(self.cap).1.saturating_mul(last.saturating_sub(EXACT));
        sum = sum.saturating_add(rest);
        self.elapsed.map_or(sum, |budget| sum.min(budget))
    }

    /// The least and the largest backoff after this attempt.
    fn range(&self, attempt: u32) -> (Duration, Duration) {
        let exponent = match (self.quick, attempt) {
            (_, 0) => return (Duration::ZERO, Duration::ZERO),
            (Some(within), 1) => return (Duration::ZERO, within),
            (Some(_), n) => n - 2,
            (None, n) => n - 1,
        };
        let growth = self.factor.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
        let interval = self.base.as_secs_f64() * growth;
        // too large for a Duration, infinite, or NaN (a zero base that grew for ever): the cap
        let interval = Duration::try_from_secs_f64(interval).unwrap_or(self.cap).min(self.cap);
        self.spread(interval)
    }

    fn spread(&self, interval: Duration) -> (Duration, Duration) {
        match self.jitter {
            Jitter::Full => (Duration::ZERO, interval),
            Jitter::Around(share) => {
                let delta = Duration::try_from_secs_f64(interval.as_secs_f64() * share)
                    .unwrap_or(interval)
                    .min(interval);
                (interval - delta, interval.saturating_add(delta))
            }
        }
    }

    pub(super) fn check(&self, of: &str) -> Result<(), ConfigError> {
        let wrong = |field: &str, found: &dyn std::fmt::Display, accepted: &str| {
            Err(ConfigError::new(format!("{of}: retry {field}"), found, accepted))
        };
        if self.attempts == 0 {
            return wrong("max_attempts", &0, "a number from 1, the first attempt included");
        }
        if self.base.is_zero() {
            return wrong("base", &"zero", "a duration above zero");
        }
        if self.cap < self.base {
            let found = format!("{:?}", self.cap);
            return wrong("cap", &found, &format!("at least the base, {:?}", self.base));
        }
        if self.elapsed.is_some_and(|budget| budget.is_zero()) {
            return wrong("elapsed", &"zero", "a duration above zero; one attempt: Retry::none()");
        }
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return wrong("multiplier", &self.factor, "a finite number from 1");
        }
        match self.jitter {
            Jitter::Around(share) if !(0.0..=1.0).contains(&share) => {
                wrong("randomization_factor", &share, "a number from 0 to 1")
            }
            _ => Ok(()),
        }
    }
}

/// The backoffs of one unit, by [`Retry::delays`].
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless they are advanced"]
pub struct Delays {
    retry: Retry,
    random: Random,
    attempt: u32,
    waited: Duration,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.attempt = self.attempt.checked_add(1)?;
        let delay = self.retry.delay(self.attempt, &self.random)?;
        self.waited = self.waited.saturating_add(delay);
        match self.retry.elapsed {
            Some(budget) if self.waited > budget => None,
            _ => Some(delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::from_nanos(1)),
            Just(Duration::MAX),
            (0u64..100_000).prop_map(Duration::from_millis),
            (any::<u64>(), 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n)),
        ]
    }

    proptest! {
        #[test]
        fn t1_no_overflow_and_never_above_the_cap(
            attempts in prop_oneof![0u32..20, Just(u32::MAX)], attempt in prop_oneof![0u32..100, any::<u32>()],
            base in any_duration(), cap in any_duration(), quick in proptest::option::of(any_duration()),
            elapsed in proptest::option::of(any_duration()), seed: u64,
        ) {
            let mut retry = Retry::exponential().max_attempts(attempts).base(base).cap(cap);
            retry.quick = quick;
            retry.elapsed = elapsed;
            let random = Random::seeded(seed);
            let delay = retry.delay(attempt, &random);
            prop_assert_eq!(delay.is_some(), attempt < attempts);
            if let Some(delay) = delay {
                prop_assert!(delay <= cap.max(quick.unwrap_or_default()));
            }
            let worst = retry.worst_case();
            prop_assert!(elapsed.is_none_or(|budget| worst <= budget));
        }

        #[test]
        fn t1_the_first_retry_is_quick_and_ceilings_double(seed: u64) {
            let retry = Retry::exponential().max_attempts(12);
            let random = Random::seeded(seed);
            let mut ceiling = Duration::from_millis(100);
            prop_assert!(retry.delay(1, &random) <= Some(Duration::from_millis(50)));
            for attempt in 2..12 {
                prop_assert_eq!(retry.range(attempt), (Duration::ZERO, ceiling));
                prop_assert!(retry.delay(attempt, &random) <= Some(ceiling));
                ceiling = (ceiling * 2).min(Duration::from_secs(5));
            }
        }

        #[test]
        fn t1_the_sum_of_backoffs_stays_below_the_worst_case(
            attempts in 1u32..40, base in 1u64..500, cap in 500u64..9_000, seed: u64,
        ) {
            let retry = Retry::exponential().max_attempts(attempts)
                .base(Duration::from_millis(base)).cap(Duration::from_millis(cap));
            prop_assert!(retry.delays(seed).sum::<Duration>() <= retry.worst_case());
            prop_assert_eq!(retry.delays(seed).count(), attempts as usize - 1);
        }
    }

    #[test]
    fn t1_jitter_spreads_over_the_whole_range() {
        let retry = Retry::exponential();
        let random = Random::seeded(3);
        let delays: Vec<_> = (0..1000).filter_map(|_| retry.delay(3, &random)).collect();
        let mean = delays.iter().sum::<Duration>() / 1000;
        assert!(delays.iter().any(|d| *d < Duration::from_millis(10)));
        assert!(delays.iter().any(|d| *d > Duration::from_millis(190)));
        assert!((Duration::from_millis(90)..Duration::from_millis(110)).contains(&mean));
    }

    #[test]
    fn t1_a_jitter_around_the_longest_there_is_does_not_overflow() {
        let mut retry = Retry::exponential().no_quick().base(Duration::MAX).cap(Duration::MAX);
        retry.jitter = Jitter::Around(0.5);
        let random = Random::seeded(1);
        for _ in 0..100 {
            let delay = retry.delay(1, &random).expect("four attempts");
            assert!(delay >= Duration::MAX / 3, "{delay:?}");
        }
        assert_eq!(retry.worst_case(), Duration::MAX);
    }

    #[test]
    fn t1_worst_case_of_endless_retries_is_found_quickly() {
        let endless = Retry::exponential().max_attempts(u32::MAX);
        assert!(endless.worst_case() > Duration::from_secs(20_000_000_000));
        assert_eq!(endless.cap(Duration::MAX).worst_case(), Duration::MAX);
        let bounded = endless.elapsed(Duration::from_secs(60));
        assert_eq!(bounded.worst_case(), Duration::from_secs(60));
        assert_eq!(
            Retry::exponential().worst_case(),
            Duration::from_millis(50 + 100 + 200),
            "the documented default"
        );
        assert_eq!(Retry::none().worst_case(), Duration::ZERO);
    }

    #[test]
    fn delays_end_with_the_wall_clock_budget() {
        let retry = Retry::exponential().max_attempts(1000).elapsed(Duration::from_secs(3));
        assert!(retry.delays(1).sum::<Duration>() <= Duration::from_secs(3));
        assert!(retry.delays(1).count() < 40);
    }

    #[test]
    fn t1_jitter_around_an_interval_stays_within_its_share_of_it() {
        let mut retry = Retry::exponential()
            .no_quick()
            .base(Duration::from_secs(10))
            .cap(Duration::from_secs(60));
        retry.jitter = Jitter::Around(0.25);
        let around = (Duration::from_millis(7_500), Duration::from_millis(12_500));
        assert_eq!(retry.range(1), around);
        let random = Random::seeded(3);
        let delays: Vec<_> = (0..1_000).filter_map(|_| retry.delay(1, &random)).collect();
        assert!(delays.iter().all(|delay| (around.0..=around.1).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(7_700)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(12_300)));
    }

    #[test]
    fn t1_delays_that_fit_the_budget_are_all_there() {
        let retry = Retry::exponential().max_attempts(5);
        assert_eq!(retry.elapsed(Duration::from_secs(3_600)).delays(1).count(), 4);
    }

    #[test]
    fn what_is_just_right_is_no_mistake() {
        let mut retry =
            Retry::exponential().base(Duration::from_secs(1)).cap(Duration::from_secs(1));
        for share in [0.0, 1.0] {
            retry.jitter = Jitter::Around(share);
            assert!(retry.check("x").is_ok());
        }
        for share in [-0.1, 1.1, f64::NAN] {
            retry.jitter = Jitter::Around(share);
            assert!(retry.check("x").is_err());
        }
        retry.jitter = Jitter::Full;
        for factor in [0.9, f64::INFINITY, f64::NAN] {
            retry.factor = factor;
            assert!(retry.check("x").is_err(), "{factor}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let text = |retry: Retry| retry.check("resource `db`").expect_err("refused").to_string();
        assert!(text(Retry::exponential().max_attempts(0)).contains("retry max_attempts is 0"));
        assert!(text(Retry::exponential().base(Duration::ZERO)).contains("retry base is zero"));
        assert!(
            text(Retry::exponential().cap(Duration::from_millis(1)))
                .contains("retry cap is 1ms; accepted: at least the base, 100ms")
        );
        assert!(text(Retry::exponential().elapsed(Duration::ZERO)).contains("retry elapsed"));
        assert!(Retry::none().check("x").is_ok());
    }

    #[cfg(feature = "backoff")]
    #[test]
    fn a_foreign_schedule_keeps_its_numbers() {
        let retry = Retry::from_backoff(backoff::ExponentialBackoff::default());
        assert!(retry.check("x").is_ok());
        assert_eq!(retry.budget(), Some(Duration::from_secs(15 * 60)));
        let (least, most) = retry.range(1);
        assert_eq!((least, most), (Duration::from_millis(250), Duration::from_millis(750)));
        let wild =
            backoff::ExponentialBackoff { randomization_factor: f64::NAN, ..Default::default() };
        assert!(Retry::from_backoff(wild).check("x").is_err());
    }
}
