//! `compact`: of units that share a key only the newest goes on.

use std::hash::Hash;

use super::gather::{Always, Gather, Gathering, KeyOf};
use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx, Window};
use crate::record::{Position, Timestamp};
use crate::unit::{Lineage, Uow};

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

/// Puts its version beside each value.
struct Versioned<W>(W);

impl<T, V, W: Fn(&T) -> V> Step<T> for Versioned<W> {
    type Out = (T, V);

    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<(T, V)>> {
        match cx.catch(|| (self.0)(unit.value())) {
            Ok(version) => Some(unit.map(|value| (value, version))),
            Err(panic) => {
                cx.fault(unit, panic);
                None
            }
        }
    }
}

struct OfFirst<F>(F);

impl<T, V, K, F: Fn(&T) -> K> KeyOf<(T, V), K> for OfFirst<F> {
    fn key(&self, (value, _): &(T, V)) -> Option<K> {
        Some((self.0)(value))
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
        let window = self.check_window("compact", window);
        self.add(StagePlan::new("compact").gathers(window).takes(Window::SETTINGS), |above, cx| {
            Gather::<S, _, K, Newest<S::Out>>::new(above, cx, Always(key), window)
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
        let window = self.check_window("compact_by", window);
        self.add(
            StagePlan::new("compact_by").gathers(window).takes(Window::SETTINGS),
            |above, cx| {
                let versioned = Inline::new(above, cx.clone(), Versioned(version));
                Gather::<_, _, K, Greatest<S::Out, V>>::new(versioned, cx, OfFirst(key), window)
            },
        )
    }
}
