//! `map`: make another value of each.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

struct Map<F>(F);

impl<T, U, F: Fn(T) -> U> Step<T> for Map<F> {
    type Out = U;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<U>> {
        let (value, lineage) = unit.into_parts();
        match cx.catch(|| (self.0)(value)) {
            Ok(value) => Some(lineage.with(value)),
            Err(panic) => {
                cx.fault(lineage.with(()), panic);
                None
            }
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Makes another value of each.
    ///
    /// A panic of `f` is a fault of that unit: the value is lost with it, the records are not.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["1", "2"], |flow| {
    ///     flow.json::<u64>().map(|n| n.to_string()).inspect(|text| assert_eq!(text.len(), 1))
    /// })
    /// .await;
    /// assert_eq!(report.done, 2);
    /// # }
    /// ```
    pub fn map<F, U>(self, f: F) -> Flow<impl Stage<Out = U> + use<S, F, U>>
    where
        F: Fn(S::Out) -> U,
        U: Send + Sync + 'static,
    {
        self.add(StagePlan::new("map"), |above, cx| Inline::new(above, cx, Map(f)))
    }
}
