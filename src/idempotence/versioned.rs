//! The inverse optimistic lock.
//!
//! An optimistic lock fails the write if the version has changed, and somebody has to do it again. A consumer of
//! events has nothing to do again: what it holds is old, and will not become newer. So the condition is turned
//! round (write only what is newer than what is there) and a write that was not made is a success.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::Version;
use crate::error::StepError;

/// What became of a write. Both are successes: a handler that got either is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Put {
    /// It was newer than what was stored, or nothing was.
    Written,
    /// What is stored is as new or newer, and stays.
    Stale,
}

/// A value and its version.
///
/// `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned<T, V = Version> {
    /// The greater, the newer.
    pub version: V,
    /// What it is the version of.
    pub value: T,
}

impl<T, V: Ord> Versioned<T, V> {
    /// A value of this version.
    pub fn new(version: V, value: T) -> Self {
        Self { version, value }
    }

    /// Takes the place of this one if it is newer: the inverse optimistic lock itself.
    ///
    /// ```
    /// use streambreaker::idempotence::{Put, Versioned};
    ///
    /// let mut stored = Versioned::new(2, "shipped");
    /// assert_eq!(stored.put_if_newer(Versioned::new(1, "ordered")), Put::Stale);
    /// assert_eq!(stored.put_if_newer(Versioned::new(2, "shipped")), Put::Stale);
    /// assert_eq!(stored.put_if_newer(Versioned::new(3, "returned")), Put::Written);
    /// assert_eq!(stored.value, "returned");
    /// ```
    pub fn put_if_newer(&mut self, new: Self) -> Put {
        if new.version > self.version {
            *self = new;
            Put::Written
        } else {
            Put::Stale
        }
    }
}

impl<T, V> fmt::Debug for Versioned<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Versioned")
    }
}

/// A store under an inverse optimistic lock: a materialised view that any order and any repetition of its events
/// leaves in the state of the highest version.
///
/// That holds for events that carry the whole state of their key. Where some carry one part of it and some another,
/// give each part a version of its own (a key of its own, or a pair of columns), or a late event of one kind is
/// taken for stale because one of another kind came. A removal is a newer version too: store that it is gone
/// (`T` an `Option`), for an older event that comes late would bring back what was deleted.
///
/// Comparing and writing must be one step of the store, and what it compares must be the order of `V`:
///
/// - SQL: `insert … on conflict (key) do update set … where (excluded.time, excluded.id) > (view.time, view.id)`;
///   no row changed is `Stale`. The collation of a text version must be that of its bytes (`collate "C"`).
/// - DynamoDB: a put under `attribute_not_exists(pk) or version < :version`; a condition that failed is `Stale`.
/// - Redis: one script that reads the version, compares, and writes.
///
/// ```
/// use streambreaker::idempotence::{MemoryVersions, Version, VersionedStore};
/// use streambreaker::prelude::*;
///
/// # #[derive(Clone, serde::Deserialize)] struct Order { customer: String, status: String }
/// fn view(
///     flow: Flow<Input>,
///     db: &Resource,
///     orders: MemoryVersions<String, String>,
/// ) -> Flow<impl Stage<Out = ()> + use<>> {
///     flow.json::<Order>().parallel(16, db, async move |order: &Event<Order>| {
///         orders.put_if_newer(&order.customer, &Version::of(order.received()), &order.status).await?;
///         Ok(())
///     })
/// }
/// ```
#[async_trait]
pub trait VersionedStore<K, T, V = Version>: Send + Sync {
    /// Stores `value` under `key`, unless what is stored there has this version or a greater one.
    ///
    /// # Errors
    /// The store's own: what deserves another attempt says so (`.transient()`). Stale input is none.
    ///
    /// # Cancel safety
    /// Dropped at its timeout, with the write made or not made, never half; made again it is `Stale`.
    async fn put_if_newer(&self, key: &K, version: &V, value: &T) -> Result<Put, StepError>;
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        #[async_trait]
        impl<K: Sync, T: Sync, V: Sync, S> VersionedStore<K, T, V> for $type
        where
            S: VersionedStore<K, T, V> + ?Sized,
        {
            async fn put_if_newer(&self, key: &K, version: &V, value: &T) -> Result<Put, StepError> {
                (**self).put_if_newer(key, version, value).await
            }
        }
    )*};
}
forward!(&S, Arc<S>, Box<S>);

/// A [`VersionedStore`] in memory, for tests and for views that are made anew at every start. A handle: clones are
/// the same store.
///
/// It keeps every key for as long as it lives.
pub struct MemoryVersions<K, T, V = Version>(Arc<Mutex<BTreeMap<K, Versioned<T, V>>>>);

impl<K: Ord + Clone, T: Clone, V: Ord + Clone> MemoryVersions<K, T, V> {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is stored under `key`.
    pub fn get(&self, key: &K) -> Option<Versioned<T, V>> {
        self.lock().get(key).cloned()
    }

    /// Everything that is stored, by key.
    pub fn all(&self) -> BTreeMap<K, Versioned<T, V>> {
        self.lock().clone()
    }
}

impl<K, T, V> MemoryVersions<K, T, V> {
    // a key that panics in `cmp` leaves nothing half changed
    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Versioned<T, V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T, V> Default for MemoryVersions<K, T, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T, V> Clone for MemoryVersions<K, T, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, T, V> fmt::Debug for MemoryVersions<K, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryVersions({} keys)", self.lock().len())
    }
}

#[async_trait]
impl<K, T, V> VersionedStore<K, T, V> for MemoryVersions<K, T, V>
where
    K: Ord + Clone + Send + Sync,
    T: Clone + Send + Sync,
    V: Ord + Clone + Send + Sync,
{
    async fn put_if_newer(&self, key: &K, version: &V, value: &T) -> Result<Put, StepError> {
        let new = Versioned::new(version.clone(), value.clone());
        Ok(match self.lock().entry(key.clone()) {
            Entry::Occupied(mut stored) => stored.get_mut().put_if_newer(new),
            Entry::Vacant(free) => {
                free.insert(new);
                Put::Written
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn l10_any_order_and_repetition_ends_in_the_highest_version(
            events in prop::collection::vec((0u8..4, 0u32..20), 1..40),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        ) {
            // an event is known by key and version; what it says follows from them
            let store = MemoryVersions::<u8, String, u32>::new();
            let mut highest = BTreeMap::new();
            let put = |&(key, version): &(u8, u32)| {
                store
                    .put_if_newer(&key, &version, &format!("{key}@{version}"))
                    .now_or_never()
                    .and_then(Result::ok)
            };
            let again = picks.iter().map(|pick| pick.get(&events));
            for event in again.clone().chain(&events).chain(again) {
                let newest = highest.entry(event.0).or_insert(event.1);
                let newer = *newest < event.1 || store.get(&event.0).is_none();
                *newest = (*newest).max(event.1);
                prop_assert_eq!(put(event), Some(if newer { Put::Written } else { Put::Stale }));
            }
            for (key, version) in highest {
                let newest = Versioned::new(version, format!("{key}@{version}"));
                prop_assert!(store.get(&key) == Some(newest));
            }
        }
    }

    #[test]
    fn a_versioned_store_is_object_safe() {
        let store = MemoryVersions::<u8, u8, u8>::new();
        let erased: Arc<dyn VersionedStore<u8, u8, u8>> = Arc::new(store.clone());
        assert!(matches!(erased.put_if_newer(&1, &1, &7).now_or_never(), Some(Ok(Put::Written))));
        assert_eq!(store.get(&1).map(|stored| stored.value), Some(7));
    }

    #[test]
    fn l12_debug_of_what_is_stored_tells_no_secrets() {
        let store = MemoryVersions::new();
        let put = store.put_if_newer(&"hunter2", &"hunter2", &"hunter2").now_or_never();
        assert!(matches!(put, Some(Ok(Put::Written))));
        let printed = format!("{store:?} {:?}", store.get(&"hunter2"));
        assert!(printed.contains("1 keys") && !printed.contains("hunter2"), "{printed}");
    }
}
