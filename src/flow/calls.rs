//! Guarded calls of one handler, side by side in slots: what `call`, `parallel` and `with` are made of.
//!
//! Nearly every unit is admitted at once, and its first attempt goes well. So the first attempt is a small
//! future of its own, which holds the value and the handler's future and nothing else; lineage, admission and
//! deadline stay outside, and are written down only if it is not ready when first polled. A unit that has to
//! wait for its admission, or that is tried again, goes on in [`guarded`], boxed: that is rare, and then an
//! allocation does not matter.

use std::any::Any;
use std::future::Future;
use std::ops::AsyncFn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

use super::guard::{AtOnce, Ended, Guarded, Trail, Verdict, timed_out};
use super::slots::{Deadlines, SlotId, Slots};
use super::{Answer, panicked};
use crate::error::StepError;
use crate::unit::{Lineage, Uow};

/// What came of a first attempt.
pub(crate) enum Made<T, V> {
    /// What goes on.
    Out(V),
    /// A retry needs the value again.
    Failed(T, StepError),
    /// It ran into its timeout.
    Late(T),
    Panicked(Box<dyn Any + Send>),
}

/// The first attempt on a value.
#[inline]
// an `async fn` would hold its arguments twice
#[allow(clippy::manual_async_fn)]
pub(crate) fn first<T, R, V, H, C>(
    this: Arc<Guarded<H>>,
    value: T,
    slot: SlotId,
    keep: C,
) -> impl Future<Output = Made<T, V>>
where
    H: AsyncFn(&T) -> R,
    R: Answer,
    C: Fn(T, R::Ok) -> V,
{
    async move {
        // the call itself may panic, not only what it returns
        let call = match catch_unwind(AssertUnwindSafe(|| (this.handler)(&value))) {
            Ok(call) => call,
            Err(panic) => return Made::Panicked(panic),
        };
        let reply = Attempt { call, deadlines: &this.guard.deadlines, slot }.await;
        // kept in here, and not where it comes out: what is not wanted any more need not come out
        made(reply, value, keep)
    }
}

#[inline(always)]
fn made<T, U, V>(reply: Reply<U>, value: T, keep: impl Fn(T, U) -> V) -> Made<T, V> {
    match reply {
        Reply::Came(Ok(new)) => Made::Out(keep(value, new)),
        Reply::Came(Err(error)) => Made::Failed(value, error),
        Reply::Late => Made::Late(value),
        Reply::Panicked(panic) => Made::Panicked(panic),
    }
}

/// A call of a handler, caught if it panics and ended when its slot's time is over.
#[pin_project]
struct Attempt<'a, F> {
    #[pin]
    call: F,
    deadlines: &'a Deadlines,
    slot: SlotId,
}

enum Reply<U> {
    Came(Result<U, StepError>),
    Late,
    Panicked(Box<dyn Any + Send>),
}

impl<R, F> Future for Attempt<'_, F>
where
    F: Future<Output = R>,
    R: Answer,
{
    type Output = Reply<R::Ok>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<R::Ok>> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.call.poll(cx))) {
            // a result that comes in the same instant as the deadline counts
            Ok(Poll::Ready(answer)) => Poll::Ready(Reply::Came(answer.into_result())),
            Ok(Poll::Pending)
                if this.deadlines.is_expired(*this.slot) && !planted!("no-timeout") =>
            {
                Poll::Ready(Reply::Late)
            }
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Reply::Panicked(panic)),
        }
    }
}

/// What is under way in a slot.
#[pin_project(project = WorkNow)]
enum Work<A, R> {
    First(#[pin] A),
    Rest(Pin<Box<R>>),
}

impl<A: Future, R> Work<A, R> {
    /// Polls one that has just begun with a first attempt: what else it could be need not be looked at.
    #[inline(always)]
    fn poll_first(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project() {
            WorkNow::First(first) => first.poll(cx),
            WorkNow::Rest(_) => unreachable!("it has just begun"),
        }
    }
}

/// A first attempt that is under way.
struct Note {
    lineage: Lineage,
    admitted: AtOnce,
}

/// What a slot holds.
#[pin_project(project = HeldNow)]
struct Held<A, R> {
    #[pin]
    work: Work<A, R>,
    /// Of a first attempt that was not ready at once.
    note: Option<Note>,
}

impl<A, R> Held<A, R> {
    #[inline(always)]
    fn new(work: Work<A, R>) -> Self {
        Self { work, note: None }
    }
}

/// A first attempt that did not go well.
struct Failed<T, V> {
    slot: SlotId,
    made: Made<T, V>,
    note: Note,
}

/// Keeps the permit of a first attempt beside its slot: most resources have none, so it is not carried about.
#[cold]
fn hold(
    permits: &mut Vec<Option<OwnedSemaphorePermit>>,
    slot: SlotId,
    permit: OwnedSemaphorePermit,
) {
    if permits.len() <= slot.index() {
        permits.resize_with(slot.index() + 1, || None);
    }
    permits[slot.index()] = Some(permit);
}

#[inline(always)]
fn give_back(permits: &mut [Option<OwnedSemaphorePermit>], slot: SlotId) {
    if let Some(permit) = permits.get_mut(slot.index()) {
        *permit = None;
    }
}

/// The calls of one handler. `first` and `rest` are functions, not closures, for the reason that
/// [`Step`](super::inline::Step) is none.
pub(crate) struct Calls<H, T, V, C, FA, A, FR, R> {
    guarded: Arc<Guarded<H>>,
    first: FA,
    rest: FR,
    keep: C,
    running: Slots<Held<A, R>>,
    /// The permits of first attempts by slot, if attempts need any.
    permits: Vec<Option<OwnedSemaphorePermit>>,
    failed: Vec<Failed<T, V>>,
}

/// How a unit goes on that cannot be done with in a first attempt alone.
pub(crate) struct Rest<T> {
    pub(crate) unit: Uow<T>,
    pub(crate) slot: SlotId,
    /// What has been tried, and how long to wait before the next attempt.
    pub(crate) tried: Option<(Box<Trail>, std::time::Duration)>,
}

impl<H, T, V, C, FA, A, FR, R> Calls<H, T, V, C, FA, A, FR, R>
where
    C: Copy,
    FA: Fn(Arc<Guarded<H>>, T, SlotId, C) -> A,
    A: Future<Output = Made<T, V>>,
    FR: Fn(Arc<Guarded<H>>, Rest<T>, C) -> R,
    R: Future<Output = Ended<V>>,
{
    pub(crate) fn new(n: usize, guarded: Arc<Guarded<H>>, first: FA, rest: FR, keep: C) -> Self {
        let running = Slots::new(n, guarded.guard.deadlines.clone());
        let (permits, failed) = (Vec::new(), Vec::new());
        Self { guarded, first, rest, keep, running, permits, failed }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.running.is_full()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts on a unit, and polls it once: how it ended, if it is over already.
    ///
    /// # Panics
    /// If the set is full.
    #[inline(always)]
    pub(crate) fn start(&mut self, unit: Uow<T>) -> Option<Ended<V>> {
        let slot = self.running.next_free();
        let guard = &self.guarded.guard;
        let (value, lineage) = unit.into_parts();
        let word = match guard.admit_at_once() {
            Some(word) => word,
            None => match guard.admit_limited(&lineage) {
                Some((word, permit)) => {
                    if let Some(permit) = permit {
                        hold(&mut self.permits, slot, permit);
                    }
                    word
                }
                None => {
                    let unit = lineage.with(value);
                    return self.go_on(Rest { unit, slot, tried: None });
                }
            },
        };
        let this = self.guarded.clone();
        let mut place = self.running.empty(slot);
        place.fill(Held::new(Work::First((self.first)(this, value, slot, self.keep))));
        let made = match place.poll(|held, cx| held.project().work.poll_first(cx)) {
            Poll::Ready(Made::Out(new)) => {
                place.end();
                guard.went_well(word);
                give_back(&mut self.permits, slot);
                return Some(Ended::Out(lineage.with(new)));
            }
            Poll::Ready(made) => {
                place.end();
                made
            }
            Poll::Pending => {
                let admitted = guard.admitted(word);
                if let Some(held) = place.keep(guard.timeout) {
                    *held.project().note = Some(Note { lineage, admitted });
                }
                return None;
            }
        };
        let note = Note { lineage, admitted: guard.admitted(word) };
        self.again(Failed { slot, made, note })
    }

    /// Polls what was woken.
    #[inline(never)]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut out: impl FnMut(Ended<V>)) {
        loop {
            let Self { guarded, running, permits, failed, .. } = self;
            running.poll_by(cx, |slot, held, cx| {
                let HeldNow { work, note } = held.project();
                let first = match work.project() {
                    WorkNow::First(first) => first,
                    WorkNow::Rest(rest) => return rest.as_mut().poll(cx).map(&mut out),
                };
                let mut note =
                    || note.take().expect("a first attempt that is under way has a note");
                match first.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Made::Out(new)) => {
                        let Note { lineage, admitted } = note();
                        guarded.guard.went_well(admitted.word);
                        give_back(permits, slot);
                        out(Ended::Out(lineage.with(new)));
                    }
                    Poll::Ready(made) => failed.push(Failed { slot, made, note: note() }),
                }
                Poll::Ready(())
            });
            if self.failed.is_empty() {
                break;
            }
            // what is tried again starts in here: so the set is polled once more
            while let Some(failed) = self.failed.pop() {
                if let Some(ended) = self.again(failed) {
                    out(ended);
                }
            }
        }
        // whoever polls this does so before its turn ends
        self.guarded.guard.book();
    }

    /// A first attempt did not go well: the unit is tried again in its slot, or ends.
    #[cold]
    #[inline(never)]
    fn again(&mut self, failed: Failed<T, V>) -> Option<Ended<V>> {
        let Failed { slot, made, note: Note { lineage, admitted } } = failed;
        let guard = &self.guarded.guard;
        let (value, error) = match made {
            Made::Out(new) => {
                guard.went_well(admitted.word);
                give_back(&mut self.permits, slot);
                return Some(Ended::Out(lineage.with(new)));
            }
            Made::Failed(value, error) => (Some(value), error),
            Made::Late(value) => (Some(value), timed_out(guard.resource.timeout())),
            Made::Panicked(panic) => (None, panicked(panic)),
        };
        let mut trail = None;
        let verdict = guard.failed(admitted.of(guard), &lineage, error, &mut trail);
        give_back(&mut self.permits, slot);
        match (verdict, trail, value) {
            (Verdict::Again(delay), Some(trail), Some(value)) => {
                let unit = lineage.with(value);
                self.go_on(Rest { unit, slot, tried: Some((trail, delay)) })
            }
            (verdict, trail, value) => {
                drop(value);
                Some(guard.end(lineage, verdict, trail.as_deref()))
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn go_on(&mut self, rest: Rest<T>) -> Option<Ended<V>> {
        let slot = rest.slot;
        let work = Work::Rest(Box::pin((self.rest)(self.guarded.clone(), rest, self.keep)));
        self.running.claim(slot);
        let mut ended = None;
        self.running.start_by(slot, Held::new(work), |held, cx| {
            match held.project().work.project() {
                WorkNow::Rest(rest) => rest.as_mut().poll(cx).map(|new| ended = Some(new)),
                WorkNow::First(_) => unreachable!("what goes on is no first attempt"),
            }
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Received;

    /// The size of the future of a first attempt of this handler.
    fn size_of_first<H>(_: H) -> usize
    where
        H: AsyncFn(&Received) -> Result<(), StepError>,
    {
        fn size<H, C, A>(_: impl Fn(Arc<Guarded<H>>, Received, SlotId, C) -> A, _: C) -> usize {
            size_of::<A>()
        }
        size(
            first::<Received, Result<(), StepError>, (), H, _>,
            super::super::guard::new_only::<Received, ()>,
        )
    }

    #[test]
    fn the_future_of_a_first_attempt_stays_small() {
        // it is copied into its slot for every unit: what the handler holds, and little more
        let plain = size_of_first(async |_: &Received| Ok(()));
        assert!(plain <= 120, "{plain}");
        let holds = size_of_first(async |_: &Received| {
            let held = [1u8; 256];
            std::future::ready(()).await;
            if held[0] == 1 { Ok(()) } else { Err(std::fmt::Error.into()) }
        });
        assert!(holds <= 120 + 256 + 16, "{holds}");
    }
}
