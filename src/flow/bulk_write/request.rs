//! One request of `bulk_write`: written again until each of its items is decided.
//!
//! A request decides its items one by one and hands them over as it goes, so that nothing which the sink has
//! confirmed is lost when the request itself is dropped at a timeout or a drain.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::error::{Class, StepError};
use crate::flow::bulk::{Call, Sorted, alike, sort};
use crate::flow::guard::{Ended, Guard, NotNow, Trail, Verdict, timed_out};
use crate::flow::panicked;
use crate::flow::slots::{Elapsed, SlotId, Span};
use crate::sink::{OutcomeLog, Sink};
use crate::unit::{Lineage, Uow};

/// What the requests in flight share.
pub(super) struct Writer<T, K> {
    pub(super) guard: Guard,
    pub(super) sink: K,
    decided: Mutex<Decided<T>>,
}

/// What has been decided since the stage looked last.
pub(super) struct Decided<T> {
    pub(super) done: Vec<Uow<T>>,
    /// The key of every item that was decided, and whether it was returned.
    pub(super) keys: Vec<(u64, bool)>,
}

impl<T, K> Writer<T, K> {
    pub(super) fn new(guard: Guard, sink: K) -> Self {
        let decided = Mutex::new(Decided { done: Vec::new(), keys: Vec::new() });
        Self { guard, sink, decided }
    }

    pub(super) fn decided(&self) -> MutexGuard<'_, Decided<T>> {
        self.decided.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An item of a request: where it came from, and what it is ordered by.
pub(super) type Origin = (Lineage, u64);

/// Writes until every item is decided.
pub(super) async fn request<T, K>(
    writer: Arc<Writer<T, K>>,
    mut values: Vec<T>,
    mut origins: Vec<Origin>,
    slot: SlotId,
) where
    T: Send + Sync + 'static,
    K: Sink<T> + 'static,
{
    let guard = &writer.guard;
    let resource = &guard.resource;
    let mut trail: Option<Box<Trail>> = None;
    loop {
        let strictest = strictest(&origins);
        let admitted = match guard.try_admit(strictest) {
            Ok(admitted) => admitted,
            Err(NotNow) => match guard.admit(slot, strictest, &mut trail).await {
                Ok(admitted) => admitted,
                Err(verdict) => {
                    writer.end_all(origins, verdict, trail.as_deref());
                    return;
                }
            },
        };
        let mut log = OutcomeLog::new(values.len());
        let call = {
            let mut outcomes = log.outcomes();
            // the call itself may panic, not only what it returns
            let write = async { writer.sink.write(&values, &mut outcomes).await };
            let write = AssertUnwindSafe(write).catch_unwind();
            match guard.deadlines.limit(slot, Span::of(resource.timeout()), write).await {
                Ok(Ok(result)) => Call::Returned(result),
                Ok(Err(panic)) => Call::Broken(panicked(panic)),
                Err(Elapsed) => Call::Broken(timed_out(resource.timeout())),
            }
        };
        if log.strays() > 0 {
            if let Some(requests) = guard.cx.lane.pipeline.lines.strays.due() {
                tracing::warn!(
                    target: "streambreaker::sink",
                    resource = resource.name(),
                    notes = log.strays(),
                    requests,
                    "the sink noted outcomes that make no sense; those items count as not confirmed",
                );
            }
        }
        let now = Instant::now();
        let items = values.into_iter().zip(origins).collect();
        let Sorted { done, failed, after } = sort(items, log, call);
        // what the request says of the dependency: one answer for the breaker and the rate
        let failed: Vec<_> =
            failed.into_iter().map(|(item, error)| (item, resource.classify(error))).collect();
        let verdict = telling(&failed, done.is_empty(), after);
        match &verdict {
            Some(error) => resource.failed(admitted.pass, error, now),
            None => resource.succeeded(admitted.pass, now),
        }
        drop(admitted.permit);
        writer.confirm(done);
        if failed.is_empty() {
            return;
        }
        let begun = guard.cx.lane.instant(admitted.begun);
        let noted = trail.get_or_insert_with(|| Trail::new(begun));
        let class = verdict.as_ref().map_or_else(|| failed[0].1.class(), StepError::class);
        noted.note(guard.cx.lane.clock.now(), begun, now, class);
        let (left, last): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(_, error)| error.class().is_retryable());
        for ((_, origin), error) in last {
            let verdict = match error.class() {
                Class::Fatal => Verdict::Fatal(error),
                _ => Verdict::Fault { error, counts: true },
            };
            writer.end_one(origin, verdict, trail.as_deref());
        }
        let Some((_, first)) = left.first() else { return };
        let asked = after.map(|after| StepError::throttled(after, first.message()));
        let (made, began) = match &trail {
            Some(trail) => (trail.made(), trail.first()),
            None => return,
        };
        let deadline = left.iter().filter_map(|((_, origin), _)| origin.0.deadline()).min();
        match resource.next_retry(made, began, now, asked.as_ref().unwrap_or(first), deadline) {
            Ok(delay) => {
                (values, origins) =
                    left.into_iter().map(|((value, origin), _)| (value, origin)).unzip();
                let place = origins.first().and_then(|(lineage, _)| lineage.place());
                guard.back_off(slot, place, delay).await;
            }
            Err(why) => {
                for ((_, origin), error) in left {
                    let verdict = guard.gave_up(why, &origin.0, error);
                    writer.end_one(origin, verdict, trail.as_deref());
                }
                return;
            }
        }
    }
}

/// The lineage with the earliest deadline: the request must be done by then.
fn strictest(origins: &[Origin]) -> &Lineage {
    &origins
        .iter()
        .min_by_key(|(lineage, _)| {
            // no deadline is later than any
            lineage.deadline().map_or((1, None), |deadline| (0, Some(deadline)))
        })
        .expect("a request has items")
        .0
}

/// What a request says of its dependency, if it does not speak well of it: a throttle where any item was
/// throttled, a failure where nothing went through that could have.
fn telling<I>(
    failed: &[(I, StepError)],
    none_done: bool,
    after: Option<Duration>,
) -> Option<StepError> {
    let of = |class| failed.iter().find(|(_, error)| error.class() == class);
    if let Some((_, error)) = of(Class::Throttled) {
        return Some(StepError::throttled(after.unwrap_or_default(), error.message()));
    }
    let (_, error) = of(Class::Transient)
        .or_else(|| failed.iter().find(|(_, error)| error.class() != Class::Fault))?;
    none_done.then(|| alike(error))
}

impl<T, K> Writer<T, K> {
    fn confirm(&self, done: Vec<(T, Origin)>) {
        if done.is_empty() {
            return;
        }
        let mut decided = self.decided();
        for (value, (lineage, key)) in done {
            decided.done.push(lineage.with(value));
            decided.keys.push((key, false));
        }
    }

    fn end_one(&self, (lineage, key): Origin, verdict: Verdict, trail: Option<&Trail>) {
        let ended: Ended<()> = self.guard.end(lineage, verdict, trail);
        self.decided().keys.push((key, matches!(ended, Ended::Returned)));
    }

    /// No request could be made: all items end alike.
    fn end_all(&self, origins: Vec<Origin>, verdict: Verdict, trail: Option<&Trail>) {
        for origin in origins {
            let verdict = match &verdict {
                Verdict::Fault { error, counts } => {
                    Verdict::Fault { error: alike(error), counts: *counts }
                }
                Verdict::Fatal(error) => Verdict::Fatal(alike(error)),
                Verdict::Return(class) => Verdict::Return(*class),
                Verdict::PutBack => Verdict::PutBack,
                Verdict::Again(_) => Verdict::Return(Class::Returned),
            };
            self.end_one(origin, verdict, trail);
        }
    }
}
