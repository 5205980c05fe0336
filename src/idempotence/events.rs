//! Events kept for a while, so that what they mean together can be found in any order: collect, correlate,
//! evaluate.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::expiry::Expiry;
use crate::error::StepError;
use crate::record::Timestamp;
use crate::unit::Event;

/// An event as an [`EventStore`] keeps it.
///
/// `Debug` shows the time alone.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected<E> {
    /// What events that mean something together share: the correlation key.
    pub key: String,
    /// What identifies it among all that share the key.
    pub id: String,
    /// When it happened.
    pub time: Timestamp,
    /// The event.
    pub event: E,
}

impl<E> Collected<E> {
    /// An event that happened at `time`.
    pub fn new(key: impl Into<String>, id: impl Into<String>, time: Timestamp, event: E) -> Self {
        Self { key: key.into(), id: id.into(), time, event }
    }

    /// This event under a correlation key: with its id, or its [`idempotency_key`](Event::idempotency_key) where it
    /// has none, and its time, or its arrival in the stream where it does not say.
    ///
    /// Where ids are unique only within a stream, and several streams are collected under one key, use
    /// [`new`](Self::new) with an id that says the stream too: of alike ids only the first is kept.
    pub fn of(event: &Event<E>, key: impl Into<String>) -> Self
    where
        E: Clone,
    {
        let received = event.received();
        Self::new(key, super::identity(received), super::moment(received), (**event).clone())
    }
}

impl<E> fmt::Debug for Collected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collected({})", self.time)
    }
}

/// A store of events for rules over several of them: "paid and shipped", "ordered, and not shipped in two days".
///
/// A handler [`collect`](Self::collect)s its event, gets all that share its key in the order in which they happened,
/// and evaluates them with a pure function. That is idempotent and order-agnostic: each event leads to an
/// evaluation of all there is, so whichever comes last sees them all, whatever the order; and one that comes again
/// leads to the same evaluation again. What the evaluation publishes needs an id that does not depend on which event
/// led to it: [`NewEvent::with_identity`](crate::flow::NewEvent::with_identity).
///
/// Events are forgotten after a time to live, which is the implementation's; it should be longer than the longest
/// span of the rules and than events can be late.
///
/// - SQL: `insert … on conflict (key, id) do nothing`; `select … where key = $1 and expires > now() order by time, id`;
///   what has expired is deleted now and then.
/// - DynamoDB: partition key `key`, sort key `id`, a TTL attribute; a put under `attribute_not_exists(id)`; a query
///   with a *consistent* read (no global index, it lags), sorted by time in the client, expired items left out.
/// - Redis: `HSETNX key id event` with `EXPIRE key`; `HVALS key`, sorted in the client.
///
/// ```
/// use streambreaker::flow::NewEvent;
/// use streambreaker::idempotence::{Collected, EventStore, MemoryEvents};
/// use streambreaker::prelude::*;
///
/// #[derive(Clone, serde::Deserialize)]
/// struct Step { order: String, what: String }
///
/// fn completed(steps: &[Collected<Step>]) -> bool {
///     ["paid", "shipped"].iter().all(|what| steps.iter().any(|step| step.event.what == *what))
/// }
///
/// fn orders(
///     flow: Flow<Input>,
///     db: &Resource,
///     events: MemoryEvents<Step>,
/// ) -> Flow<impl Stage<Out = NewEvent> + use<>> {
///     flow.json::<Step>()
///         .parallel(16, db, async move |step: &Event<Step>| {
///             let steps = events.collect(&Collected::of(step, &step.order)).await?;
///             if !completed(&steps) {
///                 return Ok(None);
///             }
///             let new = NewEvent::json("order-completed", &step.order)?;
///             Ok(Some(new.with_identity(&step.order)))
///         })
///         .filter_map(|new| new)
/// }
/// ```
#[async_trait]
pub trait EventStore<E: Send + Sync + 'static>: Send + Sync {
    /// Keeps an event; does nothing if one of this key and id is there.
    ///
    /// It does not say which: a handler that left out the rest for an event that was there would lose the
    /// evaluation that a crash interrupted.
    ///
    /// # Errors
    /// The store's own: what deserves another attempt says so (`.transient()`).
    ///
    /// # Cancel safety
    /// Dropped at its timeout, with the event kept or not; put again it is kept once.
    async fn put(&self, event: &Collected<E>) -> Result<(), StepError>;

    /// The events of a key that have not expired, in the order in which they happened; those of the same moment by
    /// id.
    ///
    /// Sees every [`put`](Self::put) that ended before, in any process: of two events that are collected at the
    /// same time at least one handler must see both.
    ///
    /// # Errors
    /// The store's own: what deserves another attempt says so (`.transient()`).
    ///
    /// # Cancel safety
    /// Dropped at its timeout.
    async fn correlated(&self, key: &str) -> Result<Vec<Collected<E>>, StepError>;

    /// Forgets the events of a key before their time.
    ///
    /// An event of it that comes again after that begins anew, and may lead to another outcome: letting them expire is
    /// safer. For what must not be kept (a person who asked to be forgotten).
    ///
    /// # Errors
    /// The store's own: what deserves another attempt says so (`.transient()`).
    ///
    /// # Cancel safety
    /// Dropped at its timeout, with all, some or none forgotten.
    async fn delete(&self, key: &str) -> Result<(), StepError>;

    /// Puts an event, and then gives all that share its key: in this order, for the other one misses events that
    /// come at the same time.
    ///
    /// # Errors
    /// Those of [`put`](Self::put) and [`correlated`](Self::correlated).
    ///
    /// # Cancel safety
    /// Dropped at its timeout; called again it gives what is there by then.
    async fn collect(&self, event: &Collected<E>) -> Result<Vec<Collected<E>>, StepError> {
        self.put(event).await?;
        self.correlated(&event.key).await
    }
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        #[async_trait]
        impl<E: Send + Sync + 'static, S: EventStore<E> + ?Sized> EventStore<E> for $type {
            async fn put(&self, event: &Collected<E>) -> Result<(), StepError> {
                (**self).put(event).await
            }

            async fn correlated(&self, key: &str) -> Result<Vec<Collected<E>>, StepError> {
                (**self).correlated(key).await
            }

            async fn delete(&self, key: &str) -> Result<(), StepError> {
                (**self).delete(key).await
            }

            async fn collect(&self, event: &Collected<E>) -> Result<Vec<Collected<E>>, StepError> {
                (**self).collect(event).await
            }
        }
    )*};
}
forward!(&S, Arc<S>, Box<S>);

/// An [`EventStore`] in memory, for tests and for rules over what comes within one life of the process. A handle:
/// clones are the same store.
///
/// It holds what came within its time to live, and a little more: what has expired is never shown, and given up a
/// few at each put.
pub struct MemoryEvents<E>(Arc<Mutex<State<E>>>);

struct State<E> {
    /// By correlation key, then by id.
    kept: HashMap<String, BTreeMap<String, Kept<E>>>,
    expiry: Expiry<(String, String)>,
}

struct Kept<E> {
    end: Instant,
    time: Timestamp,
    event: E,
}

impl<E> MemoryEvents<E> {
    /// An empty store that forgets each event `ttl` after it was first put.
    pub fn new(ttl: Duration) -> Self {
        Self(Arc::new(Mutex::new(State { kept: HashMap::new(), expiry: Expiry::new(ttl) })))
    }

    /// How many events it holds; of those whose time is over some may still be among them.
    pub fn len(&self) -> usize {
        self.lock().kept.values().map(BTreeMap::len).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.lock().kept.is_empty()
    }

    // an event that panics in `clone` leaves nothing half changed
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> State<E> {
    fn sweep(&mut self, now: Instant) {
        for (end, (key, id)) in self.expiry.sweep(now) {
            let Some(events) = self.kept.get_mut(&key) else { continue };
            // one that was put again after its time has another end
            if events.get(&id).is_some_and(|kept| kept.end == end) {
                events.remove(&id);
                if events.is_empty() {
                    self.kept.remove(&key);
                }
            }
        }
    }
}

impl<E> Clone for MemoryEvents<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> fmt::Debug for MemoryEvents<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryEvents({} events)", self.len())
    }
}

#[async_trait]
impl<E: Clone + Send + Sync + 'static> EventStore<E> for MemoryEvents<E> {
    async fn put(&self, event: &Collected<E>) -> Result<(), StepError> {
        let (copy, now) = (event.event.clone(), Instant::now());
        let mut state = self.lock();
        state.sweep(now);
        let State { kept, expiry } = &mut *state;
        let events = kept.entry(event.key.clone()).or_default();
        if events.get(&event.id).is_none_or(|kept| kept.end <= now) {
            let end = expiry.begin(now, (event.key.clone(), event.id.clone()));
            events.insert(event.id.clone(), Kept { end, time: event.time, event: copy });
        }
        Ok(())
    }

    async fn correlated(&self, key: &str) -> Result<Vec<Collected<E>>, StepError> {
        let (state, now) = (self.lock(), Instant::now());
        let mut all: Vec<_> = state
            .kept
            .get(key)
            .into_iter()
            .flatten()
            .filter(|(_, kept)| now < kept.end)
            .map(|(id, kept)| Collected::new(key, id, kept.time, kept.event.clone()))
            .collect();
        // stable: those of one moment stay in the order of their ids
        all.sort_by_key(|collected| collected.time);
        Ok(all)
    }

    async fn delete(&self, key: &str) -> Result<(), StepError> {
        self.lock().kept.remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn event(key: &str, id: &str, millis: i64) -> Collected<String> {
        Collected::new(key, id, Timestamp::from_millis(millis), format!("{key}/{id}"))
    }

    async fn put(store: &MemoryEvents<String>, event: &Collected<String>) {
        store.put(event).await.expect("memory does not fail");
    }

    async fn ids(store: &dyn EventStore<String>, key: &str) -> Vec<String> {
        let all = store.correlated(key).await.expect("memory does not fail");
        all.into_iter().map(|collected| collected.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn l10_events_are_kept_once_and_given_in_the_order_in_which_they_happened() {
        let store = MemoryEvents::new(MINUTE);
        for (id, at) in [("c", 2), ("b", 1), ("d", 1), ("a", 3), ("b", 1)] {
            put(&store, &event("k", id, at)).await;
        }
        put(&store, &event("other", "b", 0)).await;
        assert_eq!(ids(&store, "k").await, ["b", "d", "c", "a"]);
        assert_eq!(ids(&store, "none").await, [""; 0]);
        // a second event of the same id changes nothing, whatever it says
        put(&store, &event("k", "b", 9)).await;
        assert_eq!(ids(&store, "k").await, ["b", "d", "c", "a"]);
    }

    proptest! {
        #[test]
        fn l10_any_order_and_repetition_is_collected_alike(
            order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec(0..12usize, 0..12),
        ) {
            // needs a runtime for the clock of tokio only
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime");
            let _entered = runtime.enter();
            let store = MemoryEvents::new(MINUTE);
            let mut last = None;
            for n in again.iter().chain(&order).chain(&again) {
                let new = event("k", &n.to_string(), (*n as i64) / 3);
                last = store.collect(&new).now_or_never().and_then(Result::ok);
            }
            let last: Vec<String> = last.into_iter().flatten().map(|c| c.id).collect();
            prop_assert_eq!(last, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "10", "11", "9"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_is_not_shown_although_nothing_has_swept_it() {
        let store = MemoryEvents::new(MINUTE);
        put(&store, &event("k", "a", 1)).await;
        tokio::time::advance(MINUTE / 2).await;
        put(&store, &event("k", "b", 2)).await;
        put(&store, &event("k", "a", 1)).await;
        tokio::time::advance(MINUTE / 2).await;
        assert_eq!(ids(&store, "k").await, ["b"]);
        assert_eq!(store.len(), 2);
        // put again after its time, it begins anew, and the end of its first life does not end the second
        for id in ["a", "c"] {
            put(&store, &event("k", id, 1)).await;
        }
        tokio::time::advance(MINUTE / 2).await;
        put(&store, &event("k", "d", 4)).await;
        assert_eq!(ids(&store, "k").await, ["a", "c", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_by_what_came_within_the_time_to_live() {
        let store = MemoryEvents::new(MINUTE);
        for n in 0..10_000 {
            put(&store, &event(&n.to_string(), "a", 1)).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(store.len() <= 61, "{store:?}");
        let state = store.lock();
        assert!(state.kept.len() <= 61 && state.expiry.queue_len() <= 61);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_is_gone_and_may_come_again() {
        let store = MemoryEvents::new(MINUTE);
        put(&store, &event("k", "a", 1)).await;
        store.delete("k").await.expect("memory does not fail");
        assert!(store.is_empty());
        tokio::time::advance(MINUTE / 2).await;
        put(&store, &event("k", "a", 1)).await;
        tokio::time::advance(MINUTE / 2).await;
        put(&store, &event("k", "b", 1)).await;
        assert_eq!(ids(&store, "k").await, ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn l12_debug_of_what_is_collected_tells_no_secrets() {
        let store = MemoryEvents::new(MINUTE);
        let secret = event("hunter2", "hunter2", 1);
        put(&store, &secret).await;
        let printed = format!("{store:?} {secret:?}");
        assert!(printed.contains("1 events") && !printed.contains("hunter2"), "{printed}");
    }
}
