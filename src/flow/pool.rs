//! The stage behind `call`, `parallel` and `with`: units are worked on side by side, in slots.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::calls::{Calls, Made, Rest};
use super::guard::{Ended, Guarded};
use super::queue::Queue;
use super::slots::SlotId;
use super::timer::yield_turn;
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
    /// One was returned. The lane's own halt comes later, or not at all: when all parts of a record are
    /// decided, and never where a return is final.
    stopped: bool,
    running: W,
    ready: Queue<Uow<U>>,
    ended: bool,
}

impl<S, W, U> Pool<S, W, U> {
    pub(crate) fn new(above: S, cx: StageCx, ordered: bool, running: W) -> Self {
        Self { above, cx, ordered, stopped: false, running, ready: Queue::new(), ended: false }
    }
}

/// Takes over how a unit ended; what goes on, if it does.
#[inline]
fn over<U>(ended: Ended<U>, stopped: &mut bool, stage: &StageCx) -> Option<Uow<U>> {
    match ended {
        Ended::Out(unit) => return Some(unit),
        Ended::Returned => *stopped |= stage.keeps_order(),
        Ended::Faulted => {}
    }
    None
}

impl<S, H, U, C, FA, A, FR, R> Stage for Pool<S, Calls<H, S::Out, U, C, FA, A, FR, R>, U>
where
    S: Stage,
    C: Copy,
    FA: Fn(Arc<Guarded<H>>, S::Out, SlotId, C) -> A,
    A: Future<Output = Made<S::Out, U>>,
    FR: Fn(Arc<Guarded<H>>, Rest<S::Out>, C) -> R,
    R: Future<Output = Ended<U>>,
{
    type Out = U;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let mut this = self.project();
        if let Some(unit) = this.ready.pop() {
            return Poll::Ready(Some(unit));
        }
        let mut left = UNITS_A_POLL;
        loop {
            let mut waits = false;
            while !*this.ended && !this.running.is_full() {
                if left == 0 {
                    this.above.as_mut().poll_progress(cx);
                    yield_turn(cx);
                    waits = true;
                    break;
                }
                left -= 1;
                match this.above.as_mut().poll_next(cx) {
                    Poll::Ready(Some(unit)) => {
                        if *this.ordered && (*this.stopped || this.cx.is_halted()) {
                            this.cx.put_back(unit);
                            continue;
                        }
                        if let Some(ended) = this.running.start(unit) {
                            if let Some(unit) = over(ended, this.stopped, this.cx) {
                                return Poll::Ready(Some(unit));
                            }
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
            let (ready, stopped, stage) = (&mut *this.ready, &mut *this.stopped, &*this.cx);
            this.running.poll(cx, |ended| {
                if let Some(unit) = over(ended, stopped, stage) {
                    ready.push(unit);
                }
            });
            if let Some(unit) = this.ready.pop() {
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
        let (ready, stopped, stage) = (&mut *this.ready, &mut *this.stopped, &*this.cx);
        this.running.poll(cx, |ended| {
            if let Some(unit) = over(ended, stopped, stage) {
                ready.push(unit);
            }
        });
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}
