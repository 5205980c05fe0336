//! `inspect`: look at each value on its way.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

struct Inspect<F>(F);

impl<T, F: Fn(&T)> Step<T> for Inspect<F> {
    type Out = T;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<T>> {
        match cx.catch(|| (self.0)(unit.value())) {
            Ok(()) => Some(unit),
            Err(panic) => {
                cx.fault(unit, panic);
                None
            }
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Looks at each value on its way. A panic of `f` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// let sum = Arc::new(AtomicU64::new(0));
    /// let total = sum.clone();
    /// run(["1", "2", "3"], move |flow| {
    ///     let total = total.clone();
    ///     flow.json::<u64>().inspect(move |n| {
    ///         total.fetch_add(**n, Ordering::Relaxed);
    ///     })
    /// })
    /// .await;
    /// assert_eq!(sum.load(Ordering::Relaxed), 6);
    /// # }
    /// ```
    pub fn inspect<F>(self, f: F) -> Flow<impl Stage<Out = S::Out> + use<S, F>>
    where
        F: Fn(&S::Out),
    {
        self.add(StagePlan::new("inspect"), |above, cx| Inline::new(above, cx, Inspect(f)))
    }
}
