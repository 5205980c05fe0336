//! `split`: one unit into several.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::plan::StagePlan;
use super::timer::yield_turn;
use super::{Flow, Stage, StageCx, UNITS_A_POLL};
use crate::error::{Class, StepError};
use crate::record::Delivery;
use crate::settle::Fate;
use crate::unit::{Lineage, Uow};

/// The most parts that the state of a record can count.
const MOST: usize = 0xffff;

#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
struct Split<S, F, U> {
    #[pin]
    above: S,
    cx: StageCx,
    parts: F,
    ready: VecDeque<Uow<U>>,
}

impl<S: Stage, I: IntoIterator<Item = U>, F: Fn(S::Out) -> I, U> Stage for Split<S, F, U> {
    type Out = U;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let mut this = self.project();
        for _ in 0..UNITS_A_POLL {
            if let Some(unit) = this.ready.pop_front() {
                return Poll::Ready(Some(unit));
            }
            match this.above.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(unit)) => split(this.cx, unit, this.parts, this.ready),
            }
        }
        this.above.poll_progress(cx);
        yield_turn(cx);
        Poll::Pending
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.project().above.poll_progress(cx);
    }
}

fn split<T, U, I: IntoIterator<Item = U>>(
    cx: &StageCx,
    unit: Uow<T>,
    parts: &impl Fn(T) -> I,
    ready: &mut VecDeque<Uow<U>>,
) {
    let (value, lineage) = unit.into_parts();
    // one more than there may be tells too many from all; an iterator without an end must not fill the memory
    let values: Vec<U> = match cx.catch(|| parts(value).into_iter().take(MOST + 1).collect()) {
        Ok(values) => values,
        Err(panic) => return cx.fault(lineage.with(()), panic),
    };
    // a unit that comes back from a fault is only the part that faulted
    let only = lineage.members().find_map(|(ticket, path)| match ticket.record().delivery() {
        Delivery::Resubmit { part, .. } => part.indices().get(path.indices().len()).copied(),
        _ => None,
    });
    if only.is_some_and(|only| only as usize >= values.len()) {
        // filtered, it would be gone without a trace: `parts` has made other parts than it did then
        let error =
            StepError::new(Class::Fault, "the part that is sent again is not made any more");
        return cx.fault(lineage.with(()), error.with_name("NoSuchPart"));
    }
    if values.is_empty() {
        return cx.filtered(lineage.with(()));
    }
    if values.len() > MOST {
        return too_many(cx, lineage);
    }
    let count = values.len() as u32;
    // where records are fed again because of another part, these have had their fault
    let faulted = lineage.faulted_parts();
    match lineage.split(count) {
        Ok(lineages) => {
            for (index, (value, lineage)) in values.into_iter().zip(lineages).enumerate() {
                if faulted.contains(&(index as u32)) {
                    lineage.decide(Fate::Faulted);
                } else if only.is_some_and(|only| only as usize != index) {
                    cx.filtered(lineage.with(()));
                } else {
                    ready.push_back(lineage.with(value));
                }
            }
        }
        Err(lineage) => too_many(cx, lineage),
    }
}

#[cold]
fn too_many(cx: &StageCx, lineage: Lineage) {
    let error = "a record cannot be split into so many parts; the most is 65,535";
    cx.fault(lineage.with(()), StepError::new(Class::Fault, error).with_name("TooManyParts"));
}

impl<S: Stage> Flow<S> {
    /// Makes several units of one. A record is settled when all its parts are: returned if any part was, else
    /// faulted if any, else done if any, else filtered. Without parts it is filtered.
    ///
    /// Each part that faults is a fault of its own, which holds the whole record and names the part; sent
    /// again, only that part passes here, so `parts` must make the same parts in the same order every time.
    /// A record whose other part was returned comes here again, without the parts that are faulted already.
    /// A record can have 65,535 parts at most. A panic of `parts` is a fault of the unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["[1, 2, 0]", "[3]"], |flow| {
    ///     flow.json::<Vec<u64>>()
    ///         .split(|numbers| numbers.into_inner())
    ///         .try_map(|n| if n == 0 { Err("a part that is bad").fault() } else { Ok(n) })
    /// })
    /// .await;
    /// // the first record is faulted with one of its parts
    /// assert_eq!((report.done, report.faulted), (1, 1));
    /// # }
    /// ```
    pub fn split<F, I, U>(self, parts: F) -> Flow<impl Stage<Out = U> + use<S, F, I, U>>
    where
        F: Fn(S::Out) -> I,
        I: IntoIterator<Item = U>,
        U: Send + Sync + 'static,
    {
        self.add(StagePlan::new("split"), |above, cx| Split {
            above,
            cx,
            parts,
            ready: VecDeque::new(),
        })
    }
}
