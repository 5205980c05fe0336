//! `filter`: keep units out.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

struct Filter<P>(P);

impl<T, P: Fn(&T) -> bool> Step<T> for Filter<P> {
    type Out = T;

    #[inline(always)]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<T>> {
        match cx.catch(|| (self.0)(unit.value())) {
            Ok(true) => Some(unit),
            Ok(false) => {
                cx.filtered(unit);
                None
            }
            Err(panic) => {
                cx.fault(unit, panic);
                None
            }
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Lets through only the units for which `keep` says so; the others end as `Filtered`.
    ///
    /// A panic of `keep` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["1", "2", "3", "4"], |flow| {
    ///     flow.json::<u64>().filter(|n| **n % 2 == 0)
    /// })
    /// .await;
    /// assert_eq!((report.done, report.filtered), (2, 2));
    /// # }
    /// ```
    pub fn filter<P>(self, keep: P) -> Flow<impl Stage<Out = S::Out> + use<S, P>>
    where
        P: Fn(&S::Out) -> bool,
    {
        self.add(StagePlan::new("filter"), |above, cx| Inline::new(above, cx, Filter(keep)))
    }
}
