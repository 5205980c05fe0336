//! `not_in_replay`: keep what follows from a replay.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

struct NotInReplay;

impl<T> Step<T> for NotInReplay {
    type Out = T;

    #[inline(always)]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<T>> {
        if unit.lineage.is_replay() {
            cx.filtered(unit);
            return None;
        }
        Some(unit)
    }
}

impl<S: Stage> Flow<S> {
    /// Ends a replay here: what follows sees no unit of one, whatever has become of the event by then. Such a unit ends as
    /// `Filtered`.
    ///
    /// For what must not happen a second time, as a mail or a payment. A write goes on as if it had been done where it says
    /// [`on_replay(OnReplay::Mute)`](Flow::on_replay), which [`publish`](Flow::publish) does by itself; a handler that is
    /// not called has no value to go on with. A unit of which a part is no replay's, as a group may be, goes through, and so
    /// does what is resubmitted, unless a replay made its fault: it has not happened yet.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (view, mail) = (resource("view"), resource("mail"));
    /// let report = run([r#"{"id":"order-1","total":7}"#], move |flow| {
    ///     flow.json::<serde_json::Value>()
    ///         .map(|order| order["total"].as_u64())
    ///         .with(4, &view, async |_total| Ok(())) // again, in a replay
    ///         .not_in_replay()
    ///         .parallel(4, &mail, async |(_total, _)| Ok(())) // once
    /// })
    /// .await;
    /// assert_eq!(report.done, 1);
    /// # }
    /// ```
    pub fn not_in_replay(self) -> Flow<impl Stage<Out = S::Out> + use<S>> {
        self.add(StagePlan::new("not_in_replay"), |above, cx| Inline::new(above, cx, NotInReplay))
    }
}
