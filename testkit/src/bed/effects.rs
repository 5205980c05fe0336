//! What handlers did, noted by them.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::differ::difference;

/// A list of what was done, for handlers to note in and tests to look at. A handle: clones are the same list.
pub struct Effects<T>(Arc<Mutex<Vec<T>>>);

impl<T> Effects<T> {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this was done.
    pub fn note(&self, effect: T) {
        self.lock().push(effect);
    }

    /// How much was done.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Effects<T> {
    /// What was done, in order.
    pub fn list(&self) -> Vec<T> {
        self.lock().clone()
    }
}

impl<T: Debug + PartialEq> Effects<T> {
    /// That exactly this was done, in this order.
    ///
    /// # Panics
    /// Where something else was, with what differs.
    #[track_caller]
    pub fn assert_in_order(&self, expected: impl IntoIterator<Item = T>) {
        let (expected, found) = (expected.into_iter().collect::<Vec<T>>(), self.lock());
        if expected != *found {
            let difference = difference(&expected, &*found);
            drop(found);
            panic!("other effects than expected (-), or in another order (+):\n{difference}");
        }
    }

    /// That exactly this was done, as often, in any order.
    ///
    /// # Panics
    /// With what is missing, and what was done beyond it.
    #[track_caller]
    pub fn assert_in_any_order(&self, expected: impl IntoIterator<Item = T>) {
        let mut missing: Vec<T> = expected.into_iter().collect();
        let more: Vec<String> = {
            let found = self.lock();
            let unexpected = found.iter().filter(|effect| {
                let at = missing.iter().position(|expected| expected == *effect);
                at.map(|at| missing.swap_remove(at)).is_none()
            });
            unexpected.map(|effect| format!("{effect:?}")).collect()
        };
        assert!(
            missing.is_empty() && more.is_empty(),
            "effects that are missing: {missing:?}\neffects that nobody expected: [{}]",
            more.join(", ")
        );
    }

    /// That effects of one key were done in the order of their ranks: versions, sequence numbers, times.
    ///
    /// # Panics
    /// With the first two that are in the wrong order.
    #[track_caller]
    pub fn assert_order_of<K: Ord + Debug, R: Ord>(
        &self,
        key: impl Fn(&T) -> K,
        rank: impl Fn(&T) -> R,
    ) {
        let broken = {
            let found = self.lock();
            let mut last: BTreeMap<K, &T> = BTreeMap::new();
            found.iter().find_map(|effect| {
                let before = last.insert(key(effect), effect)?;
                let wrong = rank(before) > rank(effect);
                wrong.then(|| format!("key {:?}: {effect:?} after {before:?}", key(effect)))
            })
        };
        assert!(broken.is_none(), "out of order within a key: {}", broken.unwrap_or_default());
    }
}

impl<T> Clone for Effects<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Effects<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Effects<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effects({})", self.len())
    }
}
