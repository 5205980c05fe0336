//! `filter_map`: make another value of some, and keep out the others.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

struct FilterMap<F>(F);

impl<T, U, F: Fn(T) -> Option<U>> Step<T> for FilterMap<F> {
    type Out = U;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<U>> {
        let (value, lineage) = unit.into_parts();
        match cx.catch(|| (self.0)(value)) {
            Ok(Some(value)) => Some(lineage.with(value)),
            Ok(None) => {
                cx.filtered(lineage.with(()));
                None
            }
            Err(panic) => {
                cx.fault(lineage.with(()), panic);
                None
            }
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Makes another value of those for which `f` has one; the others end as `Filtered`.
    ///
    /// A panic of `f` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["7", "0", "2"], |flow| {
    ///     flow.json::<u64>().filter_map(|n| 100u64.checked_div(*n))
    /// })
    /// .await;
    /// assert_eq!((report.done, report.filtered), (2, 1));
    /// # }
    /// ```
    pub fn filter_map<F, U>(self, f: F) -> Flow<impl Stage<Out = U> + use<S, F, U>>
    where
        F: Fn(S::Out) -> Option<U>,
        U: Send + Sync + 'static,
    {
        self.add(StagePlan::new("filter_map"), |above, cx| Inline::new(above, cx, FilterMap(f)))
    }
}
