//! `group_by`: units that belong together become one unit of work.

use std::hash::Hash;

use super::gather::{Always, Gather, Gathering, KeyOf, Maybe};
use super::plan::StagePlan;
use super::{Flow, Stage, Window};
use crate::unit::{Group, Lineage};

struct Items<T>(Vec<T>);

impl<K, T> Gathering<K, T> for Items<T> {
    type Out = Group<K, T>;

    fn begin(value: T, _: &Lineage) -> Self {
        Self(vec![value])
    }

    fn add(&mut self, value: T, _: &Lineage) {
        self.0.push(value);
    }

    fn finish(self, key: K) -> Group<K, T> {
        Group { key, items: self.0 }
    }
}

impl<S: Stage> Flow<S> {
    /// Makes one unit of work of units that share a key: they succeed or fail as one, and a fault holds all
    /// their records in order.
    ///
    /// A key function that answers `Option` is a mistake that `build()` reports: all units without a key would
    /// be one group. Use [`group_by_some`](Self::group_by_some), or name the key that they are to share.
    /// A panic of `key` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let db = resource("db");
    /// let report = run(["1", "2", "3", "4"], move |flow| {
    ///     flow.json::<u64>()
    ///         .group_by(|n| **n % 2, Window::items(100).linger(Duration::from_millis(5)))
    ///         .call(&db, async |group: &Group<u64, Event<u64>>| {
    ///             // one write for all members; if it fails, all of them are one fault
    ///             if group.key == 1 { Err("no odd ones").fault() } else { Ok(()) }
    ///         })
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (2, 2));
    /// # }
    /// ```
    pub fn group_by<F, K>(
        mut self,
        key: F,
        window: Window,
    ) -> Flow<impl Stage<Out = Group<K, S::Out>> + use<S, F, K>>
    where
        F: Fn(&S::Out) -> K,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        S::Out: Send + Sync + 'static,
    {
        if std::any::type_name::<K>().starts_with("core::option::Option<") {
            self.mistake(
                "group_by: the key",
                "an `Option`",
                "a key that every unit has; or `group_by_some`, which faults what has none",
            );
        }
        self.grouped("group_by", Always(key), window)
    }

    /// As [`group_by`](Self::group_by), for a key that may be missing: a unit without one is a fault.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run([r#"{"customer":"c"}"#, "{}"], |flow| {
    ///     flow.json::<serde_json::Value>()
    ///         .group_by_some(|event| event["customer"].as_str().map(str::to_owned), Window::items(100))
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (1, 1));
    /// # }
    /// ```
    pub fn group_by_some<F, K>(
        self,
        key: F,
        window: Window,
    ) -> Flow<impl Stage<Out = Group<K, S::Out>> + use<S, F, K>>
    where
        F: Fn(&S::Out) -> Option<K>,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        S::Out: Send + Sync + 'static,
    {
        self.grouped("group_by_some", Maybe(key), window)
    }

    fn grouped<F, K>(
        mut self,
        name: &'static str,
        key: F,
        window: Window,
    ) -> Flow<impl Stage<Out = Group<K, S::Out>> + use<S, F, K>>
    where
        F: KeyOf<S::Out, K>,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        S::Out: Send + Sync + 'static,
    {
        let window = self.check_window(name, window);
        self.add(StagePlan::new(name).gathers(window).takes(Window::SETTINGS), |above, cx| {
            Gather::<S, F, K, Items<S::Out>>::new(above, cx, key, window)
        })
    }
}
