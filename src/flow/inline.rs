//! The stage behind all combinators that decide on a unit at once, without waiting.
//!
//! What they do is a [`Step`], not a closure: a closure that is made in a method of `Flow<S>` carries `S` in its
//! type. With the stage above beside it, types would double with every combinator, and ten of them would be more
//! than the compiler can hold.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::timer::yield_turn;
use super::{Stage, StageCx, UNITS_A_POLL};
use crate::unit::Uow;

/// What is done with each unit: it is handed on, or has been decided.
pub(crate) trait Step<T> {
    type Out;

    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<Self::Out>>;
}

/// Passes each unit through `step`, which hands one on or has decided it.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub(crate) struct Inline<S, F> {
    #[pin]
    above: S,
    cx: StageCx,
    step: F,
}

impl<S: Stage, F: Step<S::Out>> Inline<S, F> {
    pub(crate) fn new(above: S, cx: StageCx, step: F) -> Self {
        Self { above, cx, step }
    }
}

impl<S: Stage, F: Step<S::Out>> Stage for Inline<S, F> {
    type Out = F::Out;

    // always: a chain of such stages is one loop then, and no unit is handed on through memory
    #[inline(always)]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<F::Out>>> {
        let mut this = self.project();
        for _ in 0..UNITS_A_POLL {
            match ready!(this.above.as_mut().poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(unit) => {
                    if let Some(out) = this.step.step(this.cx, unit) {
                        return Poll::Ready(Some(out));
                    }
                }
            }
        }
        // units that are ready at once keep a set above from being looked at: at least once a turn it is
        this.above.poll_progress(cx);
        yield_turn(cx);
        Poll::Pending
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.project().above.poll_progress(cx);
    }
}
