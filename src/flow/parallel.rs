//! `call`, `parallel` and `with`: call a dependency through its guards.

use std::ops::AsyncFn;
use std::sync::Arc;

use super::calls::{Calls, first};
use super::guard::{self, Guarded, both, new_only};
use super::plan::StagePlan;
use super::pool::Pool;
use super::slots::Deadlines;
use super::{Answer, Flow, Stage};
use crate::resource::Resource;

impl<S: Stage> Flow<S>
where
    S::Out: Send + Sync + 'static,
{
    /// Calls `handler` for one unit at a time, in log order, through the guards of `resource`; what it returns
    /// goes on.
    ///
    /// A unit that is returned keeps those behind it from beginning. An error by `?` is a fault; see
    /// [`ResultExt`](crate::ResultExt) for the others. A panic is a fault of that unit.
    ///
    /// # Cancel safety
    /// `handler` is dropped at its timeout, and when the shard is given up: it must be safe to run again.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let ledger = resource("ledger");
    /// let report = run(["1", "2", "3"], move |flow| {
    ///     flow.json::<u64>().call(&ledger, async |n: &Event<u64>| {
    ///         if **n == 2 { Err("refused").fault() } else { Ok(**n * 2) }
    ///     })
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (2, 1));
    /// # }
    /// ```
    pub fn call<F, R>(
        self,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = R::Ok> + use<S, F, R>>
    where
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        R::Ok: Send + Sync + 'static,
    {
        self.pool("call", 1, true, resource, handler, new_only)
    }

    /// Calls `handler` for up to `n` units at once, through the guards of `resource`; what it returns goes on, in
    /// any order.
    ///
    /// `n` is the bound of this lane; [`concurrency`](crate::resource::ResourceBuilder::concurrency) is the
    /// process's. Errors, panics and cancel safety are those of [`call`](Self::call).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// async fn upsert(_: u64) -> std::io::Result<()> {
    ///     Ok(()) // a call to a database
    /// }
    ///
    /// let db = resource("db");
    /// let report = run(["1", "2", "3"], move |flow| {
    ///     flow.json::<u64>().parallel(16, &db, async |n: &Event<u64>| {
    ///         Ok(upsert(**n).await.transient()?) // what deserves a retry says so
    ///     })
    /// })
    /// .await;
    /// assert_eq!(report.done, 3);
    /// # }
    /// ```
    pub fn parallel<F, R>(
        self,
        n: usize,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = R::Ok> + use<S, F, R>>
    where
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        R::Ok: Send + Sync + 'static,
    {
        self.pool("parallel", n, false, resource, handler, new_only)
    }

    /// Calls `handler` for up to `n` units at once, and keeps the value beside what it returned: look up, then
    /// write.
    ///
    /// Errors, panics and cancel safety are those of [`call`](Self::call).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (read, write) = (resource("customers"), resource("orders"));
    /// let report = run(["1", "2"], move |flow| {
    ///     flow.json::<u64>()
    ///         .with(8, &read, async |id: &Event<u64>| Ok(format!("customer {}", **id)))
    ///         .parallel(8, &write, async |(id, customer): &(Event<u64>, String)| {
    ///             assert!(customer.ends_with(&id.to_string()));
    ///             Ok(())
    ///         })
    /// })
    /// .await;
    /// assert_eq!(report.done, 2);
    /// # }
    /// ```
    pub fn with<F, R>(
        self,
        n: usize,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = (S::Out, R::Ok)> + use<S, F, R>>
    where
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        R::Ok: Send + Sync + 'static,
    {
        self.pool("with", n, false, resource, handler, both)
    }

    pub(super) fn pool<F, R, V, C>(
        mut self,
        name: &'static str,
        n: usize,
        ordered: bool,
        resource: &Resource,
        handler: F,
        keep: C,
    ) -> Flow<impl Stage<Out = V> + use<S, F, R, V, C>>
    where
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        C: Fn(S::Out, R::Ok) -> V + Copy,
    {
        // one at a time is a promise of order, which no configuration takes back
        let plan = StagePlan::new(name);
        let (n, plan) = match ordered {
            true => (n, plan),
            false => (self.configured().n.unwrap_or(n), plan.takes(&["n"])),
        };
        let n = self.check_width(name, n);
        self.add(plan.calls(resource, n), |above, cx| {
            let guarded = Guarded::new(cx.clone(), resource.clone(), Deadlines::new(n), handler);
            let rest = guard::guarded::<S::Out, R, V, F, C>;
            Pool::new(above, cx, ordered, Calls::new(n, Arc::new(guarded), first, rest, keep))
        })
    }
}

impl<S> Flow<S> {
    /// A width that can be worked with; a mistake is reported by `build()`.
    pub(crate) fn check_width(&mut self, combinator: &str, n: usize) -> usize {
        const MOST: usize = 1 << 20;
        if n == 0 || n > MOST {
            self.mistake(
                &format!("{combinator}: units at once"),
                n,
                "a number from 1 to 1,048,576",
            );
        }
        n.clamp(1, MOST)
    }
}
