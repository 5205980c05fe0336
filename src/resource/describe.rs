//! The settings of a resource in words, for whoever reads a plan.

use std::fmt;

use super::breaker::{Breaker, OnOpen};
use super::quota::RetryQuota;
use super::retry::Retry;
use super::{OnExhausted, Resource};
use crate::config::Span;

/// Several lines, each indented, without one at the end.
pub(crate) struct Described<'a>(&'a Resource);

impl Resource {
    /// Its settings in words.
    pub(crate) fn describe(&self) -> Described<'_> {
        Described(self)
    }
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.0.0.settings;
        writeln!(f, "resource `{}`", self.0.name())?;
        write!(f, "  attempt: within {}", Span::from(settings.timeout))?;
        if let Some(n) = settings.concurrency {
            write!(f, "; {n} at once in the process")?;
        }
        if let Some(rate) = &settings.rate {
            write!(f, "; {}", rate.describe())?;
        }
        writeln!(f, "; waits up to {} for its turn", Span::from(settings.max_wait))?;
        retry(f, &settings.retry, &settings.retry_quota)?;
        if let Some(breaker) = &settings.breaker {
            circuit(f, breaker)?;
        }
        match (settings.on_exhausted, settings.return_limit) {
            (OnExhausted::Fault, _) => write!(f, "  exhausted: a fault"),
            (OnExhausted::Return, None) => write!(f, "  exhausted: returned, without end"),
            (OnExhausted::Return, Some(n)) => {
                write!(f, "  exhausted: returned up to {n} times, then a fault")
            }
        }
    }
}

fn retry(f: &mut fmt::Formatter<'_>, retry: &Retry, quota: &RetryQuota) -> fmt::Result {
    if retry.attempts <= 1 {
        return writeln!(f, "  retry: none");
    }
    write!(f, "  retry: {} attempts", retry.attempts)?;
    if let Some(quick) = retry.quick {
        write!(f, "; the first again within {}", Span::from(quick))?;
    }
    let (base, cap) = (Span::from(retry.base), Span::from(retry.cap));
    write!(f, "; backoff from {base} up to {cap}")?;
    if let Some(elapsed) = retry.elapsed {
        write!(f, "; none after {}", Span::from(elapsed))?;
    }
    match &quota.limits {
        None => writeln!(f, "; no quota"),
        Some(limits) => writeln!(
            f,
            "; all units together: {} % of the successes, {} a second in any case, {} saved up at most",
            limits.ratio * 100.0,
            limits.floor,
            limits.reserve
        ),
    }
}

fn circuit(f: &mut fmt::Formatter<'_>, breaker: &Breaker) -> fmt::Result {
    let on_open = match breaker.on_open {
        None | Some(OnOpen::Fault) => "a fault at once",
        Some(OnOpen::Pause) => "waits",
        Some(OnOpen::Siphon) => "siphoned off",
    };
    writeln!(
        f,
        "  breaker: opens at {} % failures of {} calls or more in {}; {} probes after {}; while open: {on_open}",
        breaker.ratio * 100.0,
        breaker.min_calls,
        Span::from(breaker.window),
        breaker.half_open,
        Span::from(breaker.cool_down),
    )
}
