//! `dedupe` and `record_done`: leave out what has been done.
//!
//! Two stages and not one: what is done is known only at the end of a pipeline, and what must be left out has to
//! be known at its head. Recording first would be one stage, and would lose every event that a crash
//! interrupts after it.

use bytes::Bytes;
use uuid::Uuid;

use super::guard::new_only;
use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::config::ConfigError;
use crate::fault::done_id;
use crate::idempotence::Ledger;
use crate::resource::Resource;
use crate::unit::{Lineage, Uow};

const HEAD: &str = "dedupe";
const TAIL: &str = "record_done";

/// A value beside what its unit is called in the ledger.
struct Marked<T> {
    value: T,
    ids: Vec<Uuid>,
    /// What keeps its order: the key of the first record.
    key: Bytes,
}

/// The events of a unit, each once, as this pipeline calls them.
fn ids(cx: &StageCx, lineage: &Lineage) -> Vec<Uuid> {
    let pipeline = &cx.lane.pipeline;
    let mut ids: Vec<Uuid> = lineage
        .members()
        .map(|(ticket, part)| {
            let record = ticket.record();
            let event = ticket.batch.batch.envelope.id(record);
            done_id(&pipeline.processor, &pipeline.name, record, event.as_deref(), part)
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

struct Mark;

impl<T> Step<T> for Mark {
    type Out = Marked<T>;

    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<Marked<T>>> {
        // an envelope is user code, and may panic
        let ids = match cx.catch(|| ids(cx, &unit.lineage)) {
            Ok(ids) => ids,
            Err(panic) => {
                cx.fault(unit, panic);
                return None;
            }
        };
        let first = unit.lineage.records().next();
        let key = match first.and_then(|record| record.key()) {
            Some(key) => key.clone(),
            // keeps no order, but waits for its own copies
            None => ids.first().map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        };
        Some(unit.map(|value| Marked { value, ids, key }))
    }
}

/// A value, and whether it was done before.
fn looked_up<T>(unit: Marked<T>, done: bool) -> (T, bool) {
    (unit.value, done)
}

/// Keeps what has been done out.
struct LeaveOut;

impl<T> Step<(T, bool)> for LeaveOut {
    type Out = T;

    fn step(&mut self, cx: &StageCx, unit: Uow<(T, bool)>) -> Option<Uow<T>> {
        if unit.value.1 {
            cx.filtered(unit);
            return None;
        }
        Some(unit.map(|(value, _)| value))
    }
}

impl<S> Flow<S> {
    fn marked<T>(self) -> Flow<impl Stage<Out = Marked<T>> + use<S, T>>
    where
        S: Stage<Out = T>,
    {
        // what marks belongs to the stage that is added next, and has no place of its own in the plan
        let id = u16::try_from(self.cx.plan.len()).unwrap_or(u16::MAX);
        let cx = StageCx { lane: self.cx.lane.clone(), id };
        Flow { stage: Inline::new(self.stage, cx, Mark), cx: self.cx }
    }
}

impl<S: Stage> Flow<S>
where
    S::Out: Send + Sync + 'static,
{
    /// Leaves out the units whose events the ledger has recorded as done in this pipeline; they end as `Filtered`.
    /// At the head of a pipeline that ends with [`record_done`](Self::record_done).
    ///
    /// The ledger is asked for up to `n` units at once, through the guards of `resource`. Units keep the order of their
    /// records' keys, as in [`parallel_by_key`](Self::parallel_by_key); those without a key may overtake each
    /// other where `n` is not 1. A unit of several records is left out only if all are done. An event is known by the
    /// id that its envelope says, within its stream; where it has none, by its place
    /// ([`idempotency_key`](crate::Received::idempotency_key)).
    ///
    /// A replay is asked for on purpose: there only what was done in the same replay is left out. A resubmission
    /// counts with the live stream.
    ///
    /// Two copies of an event that are in flight at once both pass, for neither is done. Put what the handler writes
    /// under a condition of the store, or the handlers behind
    /// [`parallel_by_key`](Self::parallel_by_key) with the event's id as the key, so that the second finds what
    /// the first has written.
    ///
    /// ```
    /// use std::time::Duration;
    /// use streambreaker::idempotence::MemoryLedger;
    /// use streambreaker::prelude::*;
    ///
    /// # async fn send_mail(_: &str) -> Result<(), std::io::Error> { Ok(()) }
    /// fn mails(
    ///     flow: Flow<Input>,
    ///     smtp: &Resource,
    ///     db: &Resource,
    ///     ledger: MemoryLedger,
    /// ) -> Flow<impl Stage<Out = ()> + use<>> {
    ///     flow.dedupe(16, db, ledger.clone())
    ///         .json::<String>()
    ///         .parallel(4, smtp, async |to: &Event<String>| Ok(send_mail(to).await.transient()?))
    ///         .record_done(16, db, ledger)
    /// }
    /// ```
    ///
    /// # Errors
    /// `build()` refuses one without a `record_done` below it, or with a [`split`](Self::split) between the two: a part
    /// is not its record, so nothing would ever be left out. Behind the `split` both work, part by part.
    ///
    /// An error of the ledger is one of the unit. A panic of the envelope is a fault of it.
    ///
    /// # Cancel safety
    /// That of [`Ledger::are_done`].
    pub fn dedupe<L>(
        self,
        n: usize,
        resource: &Resource,
        ledger: L,
    ) -> Flow<impl Stage<Out = S::Out> + use<S, L>>
    where
        L: Ledger + 'static,
    {
        let look = async move |unit: &Marked<S::Out>| {
            // a unit of no records is nobody's copy
            Ok(!unit.ids.is_empty() && ledger.are_done(&unit.ids).await?)
        };
        let key = |unit: &Marked<S::Out>| unit.key.clone();
        let Flow { stage, cx } = self.marked().by_key(HEAD, n, key, resource, look, looked_up);
        let id = u16::try_from(cx.plan.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let stage_cx = StageCx { lane: cx.lane.clone(), id };
        let stage = Inline::new(stage, stage_cx, LeaveOut);
        Flow { stage, cx }
    }

    /// Records the events of the units that come here as done: the last step of a pipeline that begins with
    /// [`dedupe`](Self::dedupe).
    ///
    /// Whatever ends elsewhere (faulted, returned, filtered, or cut off by a crash) is not recorded, so it is done when it
    /// comes again. A crash between the last step and the record leads to a repetition, never to a loss. The events of
    /// a group are recorded together.
    ///
    /// The ledger is told of up to `n` units at once, through the guards of `resource`. Let that resource return what is
    /// exhausted, which is its default: a unit that is faulted here is one whose work is done.
    ///
    /// # Errors
    /// `build()` refuses one that is not the last stage, for what fails after it would count as done; or one without a
    /// `dedupe` above it.
    ///
    /// An error of the ledger is one of the unit. A panic of the envelope is a fault of it.
    ///
    /// # Cancel safety
    /// That of [`Ledger::record_done`].
    pub fn record_done<L>(
        self,
        n: usize,
        resource: &Resource,
        ledger: L,
    ) -> Flow<impl Stage<Out = ()> + use<S, L>>
    where
        L: Ledger + 'static,
    {
        let record = async move |unit: &Marked<S::Out>| {
            if unit.ids.is_empty() {
                return Ok(());
            }
            ledger.record_done(&unit.ids).await
        };
        self.marked().pool(TAIL, n, false, resource, record, new_only)
    }
}

/// What is wrong with how the two stand in a pipeline.
pub(crate) fn misplaced(pipeline: &str, plan: &[StagePlan]) -> Vec<ConfigError> {
    let at = |name: &str| plan.iter().position(|stage| stage.combinator == name);
    let refuse = |field: &str, found: &str, accepted: &str| {
        vec![ConfigError::new(format!("pipeline `{pipeline}`: {field}"), found, accepted)]
    };
    match (at(HEAD), at(TAIL)) {
        (None, None) => Vec::new(),
        (Some(_), None) => refuse(HEAD, "without a `record_done`", "one as the last stage"),
        (head, Some(tail)) if head.is_none_or(|head| head > tail) => {
            refuse(TAIL, "without a `dedupe` above it", "one at the head of the pipeline")
        }
        (_, Some(tail)) if tail + 1 < plan.len() => refuse(
            TAIL,
            "followed by other stages",
            "the last stage: what fails after it would count as done",
        ),
        (Some(head), Some(tail))
            if plan[head..tail].iter().any(|stage| stage.combinator == "split") =>
        {
            refuse(
                HEAD,
                "above a `split`, and its `record_done` below",
                "both on one side of the `split`: a part is not its record",
            )
        }
        _ => Vec::new(),
    }
}
