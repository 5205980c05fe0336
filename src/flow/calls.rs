//! Guarded calls of one handler, side by side in slots: what `call`, `parallel` and `with` are made of.
//!
//! Nearly every unit is admitted at once, and its first attempt goes well. So the first attempt is a small
//! future of its own, which holds the value and the handler's future and nothing else; lineage, admission and
//! deadline stay outside, and are written down only if it is not ready when first polled. A unit that has to
//! wait for its admission, or that is tried again, goes on in [`guarded`], boxed: that is rare, and then an
//! allocation does not matter.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::ops::AsyncFn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

use super::guard::{AtOnce, Ended, Guarded, Trail, Verdict, timed_out};
use super::panicked;
use super::slots::{SlotId, Slots};
use crate::error::StepError;
use crate::unit::{Lineage, Uow};

/// What came of a first attempt.
pub(crate) enum Made<U> {
    Answered(Result<U, StepError>),
    Panicked(Box<dyn Any + Send>),
    /// It ran into its timeout.
    Late,
}

/// The first attempt on a value, which comes back with it: a retry needs it again.
#[inline]
// an `async fn` would hold its arguments twice
#[allow(clippy::manual_async_fn)]
pub(crate) fn first<T, U, H>(
    this: Arc<Guarded<H>>,
    value: T,
    slot: SlotId,
) -> impl Future<Output = (T, Made<U>)>
where
    H: AsyncFn(&T) -> Result<U, StepError>,
{
    async move {
        let made = {
            // the call itself may panic, not only what it returns: so it is made inside
            let mut call = pin!(async { (this.handler)(&value).await });
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
                // a result that comes in the same instant as the deadline counts
                Ok(Poll::Ready(result)) => Poll::Ready(Made::Answered(result)),
                Ok(Poll::Pending) if this.guard.deadlines.is_expired(slot) => {
                    Poll::Ready(Made::Late)
                }
                Ok(Poll::Pending) => Poll::Pending,
                Err(panic) => Poll::Ready(Made::Panicked(panic)),
            })
            .await
        };
        (value, made)
    }
}

/// What is in a slot.
#[pin_project(project = WorkNow)]
enum Work<A, R> {
    First(#[pin] A),
    Rest(Pin<Box<R>>),
}

enum Done<T, U, V> {
    First(T, Made<U>),
    Rest(Ended<V>),
}

impl<A, R, T, U, V> Work<A, R>
where
    A: Future<Output = (T, Made<U>)>,
    R: Future<Output = Ended<V>>,
{
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done<T, U, V>> {
        match self.project() {
            WorkNow::First(first) => first.poll(cx).map(|(value, made)| Done::First(value, made)),
            WorkNow::Rest(rest) => rest.as_mut().poll(cx).map(Done::Rest),
        }
    }
}

type Makes<T, U, V> = fn() -> (T, U, V);

/// A [`Work`] as a future, so that slots take it.
#[pin_project]
struct Working<A, R, T, U, V> {
    #[pin]
    work: Work<A, R>,
    output: PhantomData<Makes<T, U, V>>,
}

impl<A, R, T, U, V> Future for Working<A, R, T, U, V>
where
    A: Future<Output = (T, Made<U>)>,
    R: Future<Output = Ended<V>>,
{
    type Output = Done<T, U, V>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done<T, U, V>> {
        self.project().work.poll(cx)
    }
}

/// A first attempt that is under way.
struct Note {
    lineage: Lineage,
    admitted: AtOnce,
}

/// A first attempt that did not go well.
struct Failed<T, U> {
    slot: SlotId,
    value: T,
    made: Made<U>,
    note: Note,
}

#[inline]
fn give_back(permit: &mut Option<OwnedSemaphorePermit>) {
    if permit.is_some() {
        *permit = None;
    }
}

/// The calls of one handler. `first` and `rest` are functions, not closures, for the reason that
/// [`Step`](super::inline::Step) is none.
pub(crate) struct Calls<H, T, U, V, C, FA, A, FR, R> {
    guarded: Arc<Guarded<H>>,
    first: FA,
    rest: FR,
    keep: C,
    running: Slots<Working<A, R, T, U, V>>,
    /// By slot.
    notes: Vec<Option<Note>>,
    /// The permits of first attempts, by slot.
    permits: Vec<Option<OwnedSemaphorePermit>>,
    failed: Vec<Failed<T, U>>,
}

/// How a unit goes on that cannot be done with in a first attempt alone.
pub(crate) struct Rest<T> {
    pub(crate) unit: Uow<T>,
    pub(crate) slot: SlotId,
    /// What has been tried, and how long to wait before the next attempt.
    pub(crate) tried: Option<(Box<Trail>, std::time::Duration)>,
}

impl<H, T, U, V, C, FA, A, FR, R> Calls<H, T, U, V, C, FA, A, FR, R>
where
    C: Fn(T, U) -> V + Copy,
    FA: Fn(Arc<Guarded<H>>, T, SlotId) -> A,
    A: Future<Output = (T, Made<U>)>,
    FR: Fn(Arc<Guarded<H>>, Rest<T>, C) -> R,
    R: Future<Output = Ended<V>>,
{
    pub(crate) fn new(n: usize, guarded: Arc<Guarded<H>>, first: FA, rest: FR, keep: C) -> Self {
        let running = Slots::new(n, guarded.guard.deadlines.clone());
        let (notes, permits, failed) = (Vec::new(), Vec::new(), Vec::new());
        Self { guarded, first, rest, keep, running, notes, permits, failed }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.running.is_full()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts on a unit, and polls it once.
    ///
    /// # Panics
    /// If the set is full.
    #[inline]
    pub(crate) fn start(&mut self, unit: Uow<T>) -> Option<Ended<V>> {
        let slot = self.running.next_free();
        if self.permits.len() <= slot.index() {
            self.grow(slot);
        }
        let guard = &self.guarded.guard;
        let permit = &mut self.permits[slot.index()];
        let Some(admitted) = guard.admit_at_once(&unit.lineage, permit) else {
            return self.go_on(Rest { unit, slot, tried: None });
        };
        let (value, lineage) = unit.into_parts();
        let first = (self.first)(self.guarded.clone(), value, slot);
        let work = Working { work: Work::First(first), output: PhantomData };
        match self.running.start(slot, work) {
            None => {
                self.running.ask(slot, guard.timeout);
                self.notes[slot.index()] = Some(Note { lineage, admitted });
                None
            }
            Some(Done::First(value, Made::Answered(Ok(new)))) => {
                admitted.succeeded(guard);
                give_back(permit);
                Some(Ended::Out(lineage.with((self.keep)(value, new))))
            }
            Some(Done::First(value, made)) => {
                self.again(Failed { slot, value, made, note: Note { lineage, admitted } })
            }
            Some(Done::Rest(ended)) => Some(ended),
        }
    }

    #[cold]
    fn grow(&mut self, slot: SlotId) {
        self.notes.resize_with(slot.index() + 1, || None);
        self.permits.resize_with(slot.index() + 1, || None);
    }

    /// Polls what was woken.
    #[inline(never)]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut out: impl FnMut(SlotId, Ended<V>)) {
        loop {
            let Self { guarded, keep, running, notes, permits, failed, .. } = self;
            running.poll(cx, |slot, done| match done {
                Done::Rest(ended) => out(slot, ended),
                Done::First(value, made) => {
                    let note = notes[slot.index()].take();
                    let note = note.expect("a first attempt that is under way has a note");
                    match made {
                        Made::Answered(Ok(new)) => {
                            note.admitted.succeeded(&guarded.guard);
                            give_back(&mut permits[slot.index()]);
                            out(slot, Ended::Out(note.lineage.with(keep(value, new))));
                        }
                        made => failed.push(Failed { slot, value, made, note }),
                    }
                }
            });
            if self.failed.is_empty() {
                return;
            }
            // what is tried again starts in here: so the set is polled once more
            while let Some(failed) = self.failed.pop() {
                let slot = failed.slot;
                if let Some(ended) = self.again(failed) {
                    out(slot, ended);
                }
            }
        }
    }

    /// A first attempt did not go well: the unit is tried again in its slot, or ends.
    #[cold]
    #[inline(never)]
    fn again(&mut self, failed: Failed<T, U>) -> Option<Ended<V>> {
        let Failed { slot, value, made, note: Note { lineage, admitted } } = failed;
        let guard = &self.guarded.guard;
        let error = match made {
            Made::Answered(Ok(new)) => {
                admitted.succeeded(guard);
                give_back(&mut self.permits[slot.index()]);
                return Some(Ended::Out(lineage.with((self.keep)(value, new))));
            }
            Made::Answered(Err(error)) => error,
            Made::Panicked(panic) => panicked(panic),
            Made::Late => timed_out(guard.resource.timeout()),
        };
        let mut trail = None;
        let verdict = guard.failed(admitted.of(guard), &lineage, error, &mut trail);
        give_back(&mut self.permits[slot.index()]);
        match (verdict, trail) {
            (Verdict::Again(delay), Some(trail)) => {
                let unit = lineage.with(value);
                self.go_on(Rest { unit, slot, tried: Some((trail, delay)) })
            }
            (verdict, trail) => {
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
        let work = Working { work, output: PhantomData };
        match self.running.start(slot, work) {
            Some(Done::Rest(ended)) => Some(ended),
            Some(Done::First(..)) => unreachable!("what goes on is no first attempt"),
            None => None,
        }
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
        fn size<H, A>(_: impl Fn(Arc<Guarded<H>>, Received, SlotId) -> A) -> usize {
            size_of::<A>()
        }
        size(first::<Received, (), H>)
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
