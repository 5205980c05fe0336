//! What a configuration changes in what the code has set.

use std::time::Duration;

use super::settings::{
    BreakerConfig, FloodConfig, QuotaConfig, RateConfig, ResourceConfig, RetryConfig, StageConfig,
};
use super::units::Span;
use crate::fault::FloodGuard;
use crate::resource::{Breaker, Rate, ResourceBuilder, Retry, RetryQuota};

/// Sets `$value = $value.$set($field)` for every field that is there.
macro_rules! apply {
    ($value:ident, $($field:expr => $set:ident),* $(,)?) => {$(
        if let Some(field) = $field {
            $value = $value.$set(field);
        }
    )*};
}

fn get(span: Option<Span>) -> Option<Duration> {
    span.map(Span::get)
}

impl RateConfig {
    pub(crate) fn rate(&self) -> Rate {
        let mut rate = Rate::per(self.n, get(self.per).unwrap_or(Duration::from_secs(1)));
        apply!(rate, self.burst => burst);
        rate
    }
}

impl StageConfig {
    /// The fields that say something.
    pub(crate) fn named(&self) -> Vec<&'static str> {
        let Self { n, rate, items, bytes, linger } = self;
        let all = [
            ("n", n.is_some()),
            ("rate", rate.is_some()),
            ("items", items.is_some()),
            ("bytes", bytes.is_some()),
            ("linger", linger.is_some()),
        ];
        all.into_iter().filter_map(|(field, is_set)| is_set.then_some(field)).collect()
    }
}

impl FloodConfig {
    /// The guard that `guard` becomes.
    pub(crate) fn apply(&self, guard: FloodGuard) -> FloodGuard {
        if self.enabled == Some(false) {
            return FloodGuard::off();
        }
        let mut guard = match self.ratio {
            Some(ratio) => guard.with_ratio(ratio),
            None if guard.is_off() && self.enabled == Some(true) => FloodGuard::default(),
            None => guard,
        };
        apply!(guard, self.window => window, self.min => min);
        if self.cool_down.is_some() || self.longest.is_some() {
            let (first, longest) = guard.cool_downs();
            guard = guard.cool_down(
                get(self.cool_down).unwrap_or(first),
                get(self.longest).unwrap_or(longest),
            );
        }
        guard
    }
}

impl RetryConfig {
    pub(crate) fn apply(&self, mut retry: Retry) -> Retry {
        apply!(
            retry,
            self.max_attempts => max_attempts,
            get(self.base) => base,
            get(self.cap) => cap,
            get(self.quick) => quick,
            get(self.elapsed) => elapsed,
        );
        retry
    }
}

impl QuotaConfig {
    pub(crate) fn apply(&self, mut quota: RetryQuota) -> RetryQuota {
        if self.enabled == Some(false) {
            return RetryQuota::unlimited();
        }
        if let Some(ratio) = self.ratio {
            quota = quota.with_ratio(ratio);
        } else if self.enabled == Some(true) && quota == RetryQuota::unlimited() {
            quota = RetryQuota::default();
        }
        apply!(quota, self.floor => floor, self.reserve => reserve);
        quota
    }
}

impl BreakerConfig {
    pub(crate) fn apply(&self, breaker: Option<Breaker>) -> Option<Breaker> {
        if self.enabled == Some(false) {
            return None;
        }
        let mut breaker = match (breaker, self.ratio) {
            (Some(breaker), Some(ratio)) => breaker.with_failure_ratio(ratio),
            (Some(breaker), None) => breaker,
            (None, Some(ratio)) => Breaker::failure_ratio(ratio),
            (None, None) => return None,
        };
        apply!(
            breaker,
            get(self.window) => window,
            self.min_calls => min_calls,
            get(self.cool_down) => cool_down,
            self.half_open => half_open,
            self.on_open => on_open,
        );
        Some(breaker)
    }

    /// Whether it names settings that need a breaker to act on.
    pub(crate) fn wants_one(&self) -> bool {
        self.enabled != Some(false)
            && *self != BreakerConfig { enabled: self.enabled, ..BreakerConfig::default() }
    }
}

impl ResourceConfig {
    pub(crate) fn apply(&self, mut builder: ResourceBuilder) -> ResourceBuilder {
        apply!(
            builder,
            get(self.timeout) => timeout,
            self.rate.map(|rate| rate.rate()) => rate,
            self.concurrency => concurrency,
            self.on_exhausted => on_exhausted,
            self.return_limit => return_limit,
            get(self.max_wait) => max_wait,
        );
        builder.change(&self.retry, &self.retry_quota, &self.breaker)
    }
}
