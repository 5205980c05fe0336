//! `rate_limit`: not more than so many units in any window of time.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::time::Instant;

use super::plan::StagePlan;
use super::timer::Timer;
use super::{Flow, Stage};
use crate::resource::{Rate, RateState};
use crate::unit::Uow;

#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
struct RateLimit<S: Stage> {
    #[pin]
    above: S,
    state: RateState,
    waiting: Option<Uow<S::Out>>,
    timer: Timer,
    ended: bool,
}

impl<S: Stage> Stage for RateLimit<S> {
    type Out = S::Out;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        let mut this = self.project();
        if this.waiting.is_none() {
            if *this.ended {
                return Poll::Ready(None);
            }
            match this.above.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    *this.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(unit)) => *this.waiting = Some(unit),
            }
        }
        loop {
            let now = Instant::now();
            match this.state.admit(now) {
                Ok(()) => return Poll::Ready(this.waiting.take()),
                Err(wait) => {
                    if this.timer.poll_at(now + wait, cx).is_pending() {
                        this.above.as_mut().poll_progress(cx);
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Lets not more than `rate` units through in any window of time, for each lane by itself; a rate that
    /// all lanes share belongs to a [`Resource`](crate::Resource).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use streambreaker::Rate;
    ///
    /// let report = run(["1", "2", "3"], |flow| flow.rate_limit(Rate::per_second(100).burst(1))).await;
    /// assert_eq!(report.done, 3);
    /// # }
    /// ```
    pub fn rate_limit(self, rate: Rate) -> Flow<impl Stage<Out = S::Out> + use<S>> {
        let mut flow = self;
        let rate = flow.configured().rate.map_or(rate, |rate| rate.rate());
        if let Err(error) = rate.check("rate_limit") {
            flow.cx.mistakes.push(error);
        }
        flow.add(StagePlan::new("rate_limit").takes(&["rate"]).lets_through(rate), |above, _| {
            RateLimit {
                above,
                state: RateState::new(Some(rate), Instant::now()),
                waiting: None,
                timer: Timer::default(),
                ended: false,
            }
        })
    }
}
