//! What happened at a resource, counted.
//!
//! An event pays one addition at most, whether anybody listens or not. Metrics are told of the
//! differences on the commit tick, so that no event ever looks up a recorder.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use crate::error::Class;

/// What is counted. The order is that of [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Success,
    Fault,
    Transient,
    Throttled,
    Fatal,
    Panic,
    Retry,
    Exhausted,
    QuotaRefused,
    CircuitRefused,
    WaitedForBreaker,
    WaitedForPermit,
    WaitedForRate,
}

const ATTEMPTS: &str = "streambreaker_attempts_total";
const WAITS: &str = "streambreaker_waits_total";

/// Metric, and its label beside `resource`.
const METRICS: [(&str, Option<(&str, &str)>); 13] = [
    (ATTEMPTS, Some(("outcome", "success"))),
    (ATTEMPTS, Some(("outcome", "fault"))),
    (ATTEMPTS, Some(("outcome", "transient"))),
    (ATTEMPTS, Some(("outcome", "throttled"))),
    (ATTEMPTS, Some(("outcome", "fatal"))),
    (ATTEMPTS, Some(("outcome", "panic"))),
    ("streambreaker_retries_total", None),
    ("streambreaker_exhausted_total", None),
    ("streambreaker_retry_quota_refused_total", None),
    ("streambreaker_breaker_refused_total", None),
    (WAITS, Some(("for", "breaker"))),
    (WAITS, Some(("for", "permit"))),
    (WAITS, Some(("for", "rate"))),
];

#[derive(Debug, Default)]
pub(crate) struct Account {
    counts: [AtomicU64; METRICS.len()],
    published: Mutex<[u64; METRICS.len()]>,
}

impl Account {
    #[inline]
    pub(crate) fn add(&self, count: Count) -> u64 {
        self.add_all(count, 1)
    }

    #[inline]
    pub(super) fn add_all(&self, count: Count, more: u64) -> u64 {
        self.counts[count as usize].fetch_add(more, Ordering::Relaxed) + more
    }

    pub(super) fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Tells metrics what came since the last time.
    pub(super) fn publish(&self, resource: &Arc<str>) {
        let mut published = match self.published.try_lock() {
            Ok(published) => published,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // another processor that shares the resource is at it
            Err(TryLockError::WouldBlock) => return,
        };
        for ((metric, label), (count, told)) in
            METRICS.iter().zip(self.counts.iter().zip(published.iter_mut()))
        {
            let now = count.load(Ordering::Relaxed);
            let more = now.wrapping_sub(*told);
            if more == 0 {
                continue;
            }
            *told = now;
            let resource = metrics::SharedString::from(Arc::clone(resource));
            match label {
                Some((key, value)) => {
                    let labels = [
                        metrics::Label::new("resource", resource),
                        metrics::Label::from_static_parts(key, value),
                    ];
                    metrics::counter!(*metric, labels.iter()).increment(more);
                }
                None => metrics::counter!(*metric, "resource" => resource).increment(more),
            }
        }
    }
}

/// Under which count an attempt that failed goes.
pub(super) const fn count_of(class: Class) -> Count {
    match class {
        Class::Transient => Count::Transient,
        Class::Throttled => Count::Throttled,
        Class::Fatal => Count::Fatal,
        Class::Panic => Count::Panic,
        // the others are decisions of ours; from a handler they are as good as a fault
        _ => Count::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_metric() {
        let last = Count::WaitedForRate as usize;
        assert_eq!(last + 1, METRICS.len());
        assert_eq!(METRICS[Count::Retry as usize].0, "streambreaker_retries_total");
        assert_eq!(
            METRICS[Count::CircuitRefused as usize].0,
            "streambreaker_breaker_refused_total"
        );
        assert_eq!(METRICS[count_of(Class::Panic) as usize].1, Some(("outcome", "panic")));
    }

    #[test]
    fn counts_are_told_once() {
        let account = Account::default();
        assert_eq!((account.add(Count::Retry), account.add(Count::Retry)), (1, 2));
        account.publish(&Arc::from("db"));
        assert_eq!(account.published.lock().expect("not poisoned")[Count::Retry as usize], 2);
        assert_eq!(account.get(Count::Retry), 2);
    }
}
