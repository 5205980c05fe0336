//! `call`, `parallel` and `with`: call a dependency through its guards.

use std::ops::AsyncFn;
use std::sync::Arc;

use super::calls::{Calls, first};
use super::guard::{self, Guarded};
use super::plan::StagePlan;
use super::pool::Pool;
use super::slots::Deadlines;
use super::{Flow, Stage};
use crate::error::StepError;
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
    pub fn call<F, U>(
        self,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = U> + use<S, F, U>>
    where
        F: AsyncFn(&S::Out) -> Result<U, StepError>,
        U: Send + Sync + 'static,
    {
        self.pool("call", 1, true, resource, handler, |_, new| new)
    }

    /// Calls `handler` for up to `n` units at once, through the guards of `resource`; what it returns goes on, in
    /// any order.
    ///
    /// `n` is the bound of this lane; [`concurrency`](crate::resource::ResourceBuilder::concurrency) is the
    /// process's. Errors, panics and cancel safety are those of [`call`](Self::call).
    pub fn parallel<F, U>(
        self,
        n: usize,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = U> + use<S, F, U>>
    where
        F: AsyncFn(&S::Out) -> Result<U, StepError>,
        U: Send + Sync + 'static,
    {
        self.pool("parallel", n, false, resource, handler, |_, new| new)
    }

    /// Calls `handler` for up to `n` units at once, and keeps the value beside what it returned: look up, then
    /// write.
    ///
    /// Errors, panics and cancel safety are those of [`call`](Self::call).
    pub fn with<F, U>(
        self,
        n: usize,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = (S::Out, U)> + use<S, F, U>>
    where
        F: AsyncFn(&S::Out) -> Result<U, StepError>,
        U: Send + Sync + 'static,
    {
        self.pool("with", n, false, resource, handler, |old, new| (old, new))
    }

    pub(super) fn pool<F, U, V, C>(
        mut self,
        name: &'static str,
        n: usize,
        ordered: bool,
        resource: &Resource,
        handler: F,
        keep: C,
    ) -> Flow<impl Stage<Out = V> + use<S, F, U, V, C>>
    where
        F: AsyncFn(&S::Out) -> Result<U, StepError>,
        C: Fn(S::Out, U) -> V + Copy,
    {
        let n = self.configured().n.unwrap_or(n);
        let n = self.check_width(name, n);
        self.add(StagePlan::new(name).calls(resource, n), |above, cx| {
            let guarded = Guarded::new(cx.clone(), resource.clone(), Deadlines::new(n), handler);
            let rest = move |guarded, rest| guard::guarded(guarded, rest, keep);
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
