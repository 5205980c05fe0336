//! What is in flight, in a shard and in all of them, and how much may be.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A limit of records and bytes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// How much all shards have in flight together.
#[derive(Default)]
pub(crate) struct InFlightTotal {
    records: AtomicUsize,
    bytes: AtomicUsize,
    freed: Notify,
}

impl InFlightTotal {
    pub(crate) fn change(&self, before: (usize, usize), now: (usize, usize)) {
        let apply = |total: &AtomicUsize, before: usize, now: usize| {
            if now >= before {
                total.fetch_add(now - before, Ordering::AcqRel);
            } else {
                total.fetch_sub(before - now, Ordering::AcqRel);
            }
        };
        apply(&self.records, before.0, now.0);
        apply(&self.bytes, before.1, now.1);
        if now.0 < before.0 || now.1 < before.1 {
            self.freed.notify_waiters();
        }
    }

    /// To be made before `free` is asked.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    pub(crate) fn free(&self, limits: InFlight) -> (usize, usize) {
        (
            limits.records.saturating_sub(self.records.load(Ordering::Acquire)),
            limits.bytes.saturating_sub(self.bytes.load(Ordering::Acquire)),
        )
    }

    pub(crate) fn now(&self) -> (usize, usize) {
        (self.records.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }
}
