//! What has been done, for effects that cannot be made idempotent themselves.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::expiry::Expiry;
use crate::error::StepError;

/// A record of what has been done, for [`Flow::dedupe`](crate::Flow::dedupe) and
/// [`Flow::record_done`](crate::Flow::record_done).
///
/// An id names one event in one pipeline: a UUID v5 over processor, pipeline, stream, event id (or place, where the
/// event has no id), replay run and part. So one ledger serves many components, and no pipeline takes what another
/// one did for its own work; a pipeline that is renamed begins anew.
///
/// A ledger may forget, after a time that should be longer than events can come again: the retention of the
/// stream, and the longest that a fault waits for its resubmission. What it has forgotten is done once more; so
/// forgetting too early costs a repetition, never a loss. It must not invent: an id that was not recorded
/// and is answered for is an event lost.
///
/// - SQL: `insert into done (id, at) … on conflict do nothing`; `select count(*) from done where id = any($1)`; rows
///   older than the time to live are deleted now and then.
/// - DynamoDB: a batch write of items with a TTL attribute; a consistent batch read, where an item past its TTL may
///   count as either.
/// - Redis: `SET id 1 EX ttl` in a pipeline; `EXISTS id…` equals the number of ids.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Whether *all* of these are recorded. There is at least one, and none twice.
    ///
    /// # Errors
    /// The ledger's own: what deserves another attempt says so (`.transient()`).
    ///
    /// # Cancel safety
    /// Dropped at its timeout.
    async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError>;

    /// Records all of these. There is at least one, and none twice; some may be recorded already.
    ///
    /// # Errors
    /// The ledger's own: what deserves another attempt says so (`.transient()`). Some may have been recorded then.
    ///
    /// # Cancel safety
    /// Dropped at its timeout, with all, some or none recorded; it is called again with the same ids.
    async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError>;
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        #[async_trait]
        impl<L: Ledger + ?Sized> Ledger for $type {
            async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
                (**self).are_done(ids).await
            }

            async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError> {
                (**self).record_done(ids).await
            }
        }
    )*};
}
forward!(&L, Arc<L>, Box<L>);

/// A [`Ledger`] in memory: it filters what comes twice within one life of the process, and forgets all at its
/// end. A handle: clones are the same ledger.
#[derive(Clone)]
pub struct MemoryLedger(Arc<Mutex<State>>);

struct State {
    most: usize,
    /// When each is forgotten.
    done: HashMap<Uuid, Instant>,
    expiry: Expiry<Uuid>,
}

impl MemoryLedger {
    /// An empty ledger that forgets each id `ttl` after it was first recorded, and the oldest before that when there are
    /// more than `most`. An id takes about 100 bytes.
    pub fn new(ttl: Duration, most: usize) -> Self {
        let state = State { most, done: HashMap::new(), expiry: Expiry::new(ttl) };
        Self(Arc::new(Mutex::new(state)))
    }

    /// How many ids it holds; of those whose time is over some may still be among them.
    pub fn len(&self) -> usize {
        self.lock().done.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // nothing in here panics, so nothing is ever half changed
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, end: Instant, id: Uuid) {
        // one that was recorded again after its time has another end
        if self.done.get(&id) == Some(&end) {
            self.done.remove(&id);
        }
    }

    fn record(&mut self, id: Uuid, now: Instant) {
        if self.done.get(&id).is_some_and(|end| now < *end) {
            return;
        }
        let end = self.expiry.begin(now, id);
        self.done.insert(id, end);
        let expired: Vec<_> = self.expiry.sweep(now).collect();
        for (end, id) in expired {
            self.forget(end, id);
        }
        while self.done.len() > self.most {
            let Some((end, id)) = self.expiry.pop() else { break };
            self.forget(end, id);
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
        let (state, now) = (self.lock(), Instant::now());
        Ok(ids.iter().all(|id| state.done.get(id).is_some_and(|end| now < *end)))
    }

    async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError> {
        let (mut state, now) = (self.lock(), Instant::now());
        for id in ids {
            state.record(*id, now);
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLedger({} ids)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u128>) -> Vec<Uuid> {
        range.map(Uuid::from_u128).collect()
    }

    async fn are_done(ledger: &dyn Ledger, range: std::ops::Range<u128>) -> bool {
        ledger.are_done(&ids(range)).await.expect("memory does not fail")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_is_forgotten_after_its_time_and_not_before() {
        let ledger = MemoryLedger::new(Duration::from_secs(10), 1_000);
        ledger.record_done(&ids(0..3)).await.expect("memory does not fail");
        assert!(are_done(&ledger, 0..3).await && !are_done(&ledger, 2..4).await);
        tokio::time::advance(Duration::from_secs(9)).await;
        // recorded again in its time it lives no longer
        ledger.record_done(&ids(2..4)).await.expect("memory does not fail");
        assert!(are_done(&ledger, 0..4).await);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!are_done(&ledger, 0..1).await && !are_done(&ledger, 2..3).await);
        assert!(are_done(&ledger, 3..4).await);
        // recorded again after its time it lives anew
        ledger.record_done(&ids(2..3)).await.expect("memory does not fail");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(are_done(&ledger, 2..3).await && !are_done(&ledger, 3..4).await);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_by_number_and_by_time() {
        let ledger = MemoryLedger::new(Duration::from_secs(10), 100);
        ledger.record_done(&ids(0..1_000)).await.expect("memory does not fail");
        assert_eq!(ledger.len(), 100);
        assert!(are_done(&ledger, 900..1_000).await && !are_done(&ledger, 899..900).await);
        tokio::time::advance(Duration::from_secs(11)).await;
        for n in 0..14 {
            ledger.record_done(&ids(n..n + 1)).await.expect("memory does not fail");
        }
        assert_eq!(ledger.len(), 14);
        assert_eq!(ledger.lock().expiry.queue_len(), 14);
    }
}
