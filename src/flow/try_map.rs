//! `try_map`: make another value of each, or say what is wrong with it.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::error::StepError;
use crate::unit::Uow;

struct TryMap<F>(F);

impl<T, U, F: Fn(T) -> Result<U, StepError>> Step<T> for TryMap<F> {
    type Out = U;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<U>> {
        let (value, lineage) = unit.into_parts();
        match cx.catch(|| (self.0)(value)).and_then(|result| result) {
            Ok(value) => Some(lineage.with(value)),
            Err(error) => {
                cx.fault(lineage.with(()), error);
                None
            }
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Makes another value of each; an error is a fault of that unit.
    ///
    /// There is no resource and thus no retry here: an error that says it is transient returns the unit to
    /// the stream. A panic of `f` is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run([r#""17""#, r#""seventeen""#], |flow| {
    ///     flow.json::<String>().try_map(|text| Ok(text.parse::<u64>()?))
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (1, 1));
    /// # }
    /// ```
    pub fn try_map<F, U>(self, f: F) -> Flow<impl Stage<Out = U> + use<S, F, U>>
    where
        F: Fn(S::Out) -> Result<U, StepError>,
        U: Send + Sync + 'static,
    {
        self.add(StagePlan::new("try_map"), |above, cx| Inline::new(above, cx, TryMap(f)))
    }
}
