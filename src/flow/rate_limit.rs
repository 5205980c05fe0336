//! `rate_limit`: not more than so many units in any window of time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::time::Instant;

use super::plan::StagePlan;
use super::timer::{Timer, yield_turn};
use super::{Flow, Stage, StageCx, UNITS_A_POLL};
use crate::resource::{Rate, RateState};
use crate::unit::Uow;

/// The rates of a lane, by stage. They outlive its flows: a lane that is built anew again and again would else let a burst
/// through each time.
#[derive(Clone, Default)]
pub(crate) struct Rates(Arc<Mutex<BTreeMap<usize, Arc<RateState>>>>);

impl Rates {
    fn of(&self, stage: usize, rate: Rate) -> Arc<RateState> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = || Arc::new(RateState::new(Some(rate), Instant::now()));
        rates.entry(stage).or_insert_with(begun).clone()
    }
}

#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
struct RateLimit<S: Stage> {
    #[pin]
    above: S,
    cx: StageCx,
    state: Arc<RateState>,
    waiting: Option<Uow<S::Out>>,
    timer: Timer,
    ended: bool,
}

impl<S: Stage> Stage for RateLimit<S> {
    type Out = S::Out;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        let mut this = self.project();
        for _ in 0..UNITS_A_POLL {
            if this.waiting.is_none() {
                if *this.ended {
                    return Poll::Ready(None);
                }
                match this.above.as_mut().poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => *this.ended = true,
                    Poll::Ready(unit) => *this.waiting = unit,
                }
                continue;
            }
            let now = Instant::now();
            let Err(wait) = this.state.admit(now) else {
                return Poll::Ready(this.waiting.take());
            };
            if this.cx.is_halted() {
                // it has not begun, and the lane is not to be kept from being built anew
                this.waiting.take().into_iter().for_each(|unit| this.cx.put_back(unit));
            } else if this.timer.poll_at(now + wait, cx).is_pending() {
                this.above.as_mut().poll_progress(cx);
                return Poll::Pending;
            }
        }
        this.above.as_mut().poll_progress(cx);
        yield_turn(cx);
        Poll::Pending
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
    /// all lanes share belongs to a [`Resource`](crate::Resource). A unit that is returned, and comes again, counts again.
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
        let state = flow.cx.rates.of(flow.cx.plan.len(), rate);
        flow.add(StagePlan::new("rate_limit").takes(&["rate"]).lets_through(rate), |above, cx| {
            RateLimit { above, cx, state, waiting: None, timer: Timer::default(), ended: false }
        })
    }
}
