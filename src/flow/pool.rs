//! The stage behind `call`, `parallel` and `with`: units are worked on side by side, in slots.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::guard::{Ended, Guarded, Handling};
use super::slots::{Deadlines, SlotId, Slots};
use super::timer::yield_turn;
use super::{Stage, StageCx, UNITS_A_POLL};
use crate::unit::Uow;

/// Works on up to so many units at once; `make` makes the future of one.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub(crate) struct Pool<S, M, F, U> {
    #[pin]
    above: S,
    cx: StageCx,
    make: M,
    /// Units keep their order: after one was returned, none behind it begins.
    ordered: bool,
    /// One was returned. The lane's own halt comes later, or not at all: when all parts of a record are
    /// decided, and never where a return is final.
    stopped: bool,
    running: Slots<F>,
    ready: VecDeque<Uow<U>>,
    ended: bool,
}

impl<S, M, F: Future, U> Pool<S, M, F, U> {
    pub(crate) fn new(
        above: S,
        cx: StageCx,
        width: usize,
        deadlines: Arc<Deadlines>,
        ordered: bool,
        make: M,
    ) -> Self {
        Self {
            above,
            cx,
            make,
            ordered,
            stopped: false,
            running: Slots::new(width, deadlines),
            ready: VecDeque::new(),
            ended: false,
        }
    }
}

/// Polls what was woken.
#[inline]
fn finish<F: Future<Output = Ended<U>>, U>(
    running: &mut Slots<F>,
    ready: &mut VecDeque<Uow<U>>,
    stopped: &mut bool,
    stage: &StageCx,
    cx: &mut Context<'_>,
) {
    running.poll(cx, |_, ended| match ended {
        Ended::Out(unit) => ready.push_back(unit),
        Ended::Returned => *stopped |= stage.keeps_order(),
        Ended::Faulted => {}
    });
}

impl<S, H, C, M, F, U> Stage for Pool<S, Handling<H, C, M>, F, U>
where
    S: Stage,
    C: Copy,
    M: Fn(Arc<Guarded<H>>, Uow<S::Out>, SlotId, C) -> F,
    F: Future<Output = Ended<U>>,
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
                    this.above.as_mut().poll_progress(cx);
                    yield_turn(cx);
                    waits = true;
                    break;
                }
                left -= 1;
                match this.above.as_mut().poll_next(cx) {
                    Poll::Ready(Some(unit)) => {
                        if *this.ordered && (*this.stopped || this.cx.is_halted()) {
                            this.cx.returned(unit);
                            continue;
                        }
                        let slot = this.running.next_free();
                        match this.running.start(slot, this.make.start(unit, slot)) {
                            Some(Ended::Out(unit)) => return Poll::Ready(Some(unit)),
                            Some(Ended::Returned) => *this.stopped |= this.cx.keeps_order(),
                            Some(Ended::Faulted) | None => {}
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
            finish(this.running, this.ready, this.stopped, this.cx, cx);
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
        finish(this.running, this.ready, this.stopped, this.cx, cx);
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}
