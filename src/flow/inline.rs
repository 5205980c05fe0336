//! The stage behind all combinators that decide on a unit at once, without waiting.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::timer::yield_turn;
use super::{Stage, StageCx, UNITS_A_POLL};
use crate::unit::Uow;

/// Passes each unit through `f`, which hands one on or has decided it.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub(crate) struct Inline<S, F> {
    #[pin]
    above: S,
    cx: StageCx,
    f: F,
}

impl<S: Stage, F> Inline<S, F> {
    pub(crate) fn new<U>(above: S, cx: StageCx, f: F) -> Self
    where
        F: FnMut(&StageCx, Uow<S::Out>) -> Option<Uow<U>>,
    {
        Self { above, cx, f }
    }
}

impl<S: Stage, U, F: FnMut(&StageCx, Uow<S::Out>) -> Option<Uow<U>>> Stage for Inline<S, F> {
    type Out = U;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let mut this = self.project();
        for _ in 0..UNITS_A_POLL {
            match ready!(this.above.as_mut().poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(unit) => {
                    if let Some(out) = (this.f)(this.cx, unit) {
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
