//! `compact`: of units that share a key only the newest goes on.

use std::hash::Hash;

use super::gather::{Gather, Gathering};
use super::plan::StagePlan;
use super::{Flow, Stage, Window};
use crate::record::{Position, Timestamp};
use crate::unit::Lineage;

struct Newest<T> {
    value: T,
    age: (Option<Timestamp>, Option<Position>),
}

/// When the event happened, then where it lies: events without a time are older than those with one.
fn age(lineage: &Lineage) -> (Option<Timestamp>, Option<Position>) {
    match lineage.first() {
        None => (None, None),
        Some(ticket) => {
            let record = ticket.record();
            (ticket.batch.batch.envelope.time(record), Some(record.position().clone()))
        }
    }
}

impl<K, T> Gathering<K, T> for Newest<T> {
    type Out = T;

    fn begin(value: T, lineage: &Lineage) -> Self {
        Self { value, age: age(lineage) }
    }

    fn add(&mut self, value: T, lineage: &Lineage) {
        let new = age(lineage);
        if new >= self.age {
            *self = Self { value, age: new };
        }
    }

    fn finish(self, _: K) -> T {
        self.value
    }
}

/// Newest by what the user says.
struct Greatest<T, V> {
    value: T,
    version: V,
}

impl<K, T, V: Ord> Gathering<K, (T, V)> for Greatest<T, V> {
    type Out = T;

    fn begin((value, version): (T, V), _: &Lineage) -> Self {
        Self { value, version }
    }

    fn add(&mut self, (value, version): (T, V), _: &Lineage) {
        if version >= self.version {
            *self = Self { value, version };
        }
    }

    fn finish(self, _: K) -> T {
        self.value
    }
}

impl<S: Stage> Flow<S> {
    /// Of units that share a key within a window, only the newest goes on: by the event's time as its
    /// envelope says, then by position. The older ones join its lineage and its fate.
    ///
    /// A panic of `key` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let changes = [
    ///     r#"{"type":"t","timestamp":2,"entity":"a","state":"new"}"#,
    ///     r#"{"type":"t","timestamp":1,"entity":"a","state":"old"}"#,
    /// ];
    /// let report = run(changes, |flow| {
    ///     flow.json::<serde_json::Value>()
    ///         .compact(|event| event["entity"].to_string(), Window::items(100))
    ///         .inspect(|event| assert_eq!(event["state"], "new"))
    /// })
    /// .await;
    /// assert_eq!(report.done, 2); // the older one shares the fate of the newer
    /// # }
    /// ```
    pub fn compact<F, K>(
        mut self,
        key: F,
        window: Window,
    ) -> Flow<impl Stage<Out = S::Out> + use<S, F, K>>
    where
        F: Fn(&S::Out) -> K,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        S::Out: Send + Sync + 'static,
    {
        self.check_window("compact", window);
        self.add(StagePlan::new("compact").lingers(window.linger), |above, cx| {
            let key = move |value: &S::Out| Some(key(value));
            Gather::<S, _, K, Newest<S::Out>>::new(above, cx, key, window)
        })
    }

    /// As [`compact`](Self::compact), with another idea of what is newest: the greatest `version`, the later
    /// one of equals.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run([r#"{"version":7}"#, r#"{"version":3}"#], |flow| {
    ///     flow.json::<serde_json::Value>()
    ///         .compact_by(|_| (), |event| event["version"].as_u64(), Window::items(100))
    ///         .inspect(|event| assert_eq!(event["version"], 7))
    /// })
    /// .await;
    /// assert_eq!(report.done, 2);
    /// # }
    /// ```
    pub fn compact_by<F, K, W, V>(
        mut self,
        key: F,
        version: W,
        window: Window,
    ) -> Flow<impl Stage<Out = S::Out> + use<S, F, K, W, V>>
    where
        F: Fn(&S::Out) -> K,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        W: Fn(&S::Out) -> V,
        V: Ord + Send + Sync + 'static,
        S::Out: Send + Sync + 'static,
    {
        self.check_window("compact_by", window);
        self.add(StagePlan::new("compact_by").lingers(window.linger), |above, cx| {
            let versioned = super::inline::Inline::new(above, cx.clone(), move |cx, unit| match cx
                .catch(|| version(unit.value()))
            {
                Ok(version) => Some(unit.map(|value| (value, version))),
                Err(panic) => {
                    cx.fault(unit, panic);
                    None
                }
            });
            let key = move |(value, _): &(S::Out, V)| Some(key(value));
            Gather::<_, _, K, Greatest<S::Out, V>>::new(versioned, cx, key, window)
        })
    }
}
