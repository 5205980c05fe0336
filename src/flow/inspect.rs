//! `inspect`: look at each value on its way.

use super::inline::Inline;
use super::plan::StagePlan;
use super::{Flow, Stage};

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
        self.add(StagePlan::new("inspect"), |above, cx| {
            Inline::new(above, cx, move |cx, unit| match cx.catch(|| f(unit.value())) {
                Ok(()) => Some(unit),
                Err(panic) => {
                    cx.fault(unit, panic);
                    None
                }
            })
        })
    }
}
