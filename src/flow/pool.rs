//! The stage behind `call`, `parallel` and `with`: units are worked on side by side, in slots.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::calls::{Calls, Made, Rest};
use super::guard::{Ended, Guarded};
use super::slots::SlotId;
use super::{Stage, StageCx, UNITS_A_POLL};
use crate::unit::Uow;

/// Works on up to so many units at once.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub(crate) struct Pool<S, W, U> {
    #[pin]
    above: S,
    cx: StageCx,
    /// Units keep their order: after one was returned, none behind it begins.
    ordered: bool,
    running: W,
    ready: VecDeque<Uow<U>>,
    ended: bool,
}

impl<S, W, U> Pool<S, W, U> {
    pub(crate) fn new(above: S, cx: StageCx, ordered: bool, running: W) -> Self {
        Self { above, cx, ordered, running, ready: VecDeque::new(), ended: false }
    }
}

impl<S, H, N, U, C, FA, A, FR, R> Stage for Pool<S, Calls<H, S::Out, N, U, C, FA, A, FR, R>, U>
where
    S: Stage,
    C: Fn(S::Out, N) -> U,
    FA: Fn(Arc<Guarded<H>>, S::Out, SlotId) -> A,
    A: Future<Output = (S::Out, Made<N>)>,
    FR: Fn(Arc<Guarded<H>>, Rest<S::Out>) -> R,
    R: Future<Output = Ended<U>>,
{
    type Out = U;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let mut this = self.project();
        if let Some(unit) = this.ready.pop_front() {
            return Poll::Ready(Some(unit));
        }
        let mut left = UNITS_A_POLL;
        loop {
            let mut waits = false;
            while !*this.ended && !this.running.is_full() {
                if left == 0 {
                    cx.waker().wake_by_ref();
                    waits = true;
                    break;
                }
                left -= 1;
                match this.above.as_mut().poll_next(cx) {
                    Poll::Ready(Some(unit)) => {
                        if *this.ordered && this.cx.is_halted() {
                            this.cx.returned(unit);
                            continue;
                        }
                        if let Some(Ended::Out(unit)) = this.running.start(unit) {
                            return Poll::Ready(Some(unit));
                        }
                    }
                    Poll::Ready(None) => *this.ended = true,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if this.running.is_full() && !*this.ended {
                this.above.as_mut().poll_progress(cx);
            }
            let ready = &mut *this.ready;
            this.running.poll(cx, |_, ended| {
                if let Ended::Out(unit) = ended {
                    ready.push_back(unit);
                }
            });
            if let Some(unit) = this.ready.pop_front() {
                return Poll::Ready(Some(unit));
            }
            if *this.ended && this.running.is_empty() {
                return Poll::Ready(None);
            }
            if waits || this.running.is_full() || *this.ended {
                return Poll::Pending;
            }
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        let ready = &mut *this.ready;
        this.running.poll(cx, |_, ended| {
            if let Ended::Out(unit) = ended {
                ready.push_back(unit);
            }
        });
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}
