//! Drives a flow to its end: what comes out of it is done.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::config::ConfigError;
use crate::flow::timer::yield_turn;
use crate::flow::{Flow, Input, Stage, StagePlan, UNITS_A_POLL};
use crate::settle::LaneState;

/// A flow without its type.
pub(crate) trait Drive: Send {
    /// Lets the flow work; ready when it has ended.
    fn poll_drive(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

/// What a pipeline's function has built.
pub(crate) struct Built {
    pub(crate) drive: Pin<Box<dyn Drive>>,
    pub(crate) plan: Vec<StagePlan>,
    pub(crate) mistakes: Vec<ConfigError>,
}

pub(crate) type Make = Arc<dyn Fn(Flow<Input>) -> Built + Send + Sync>;

/// Erases a pipeline's function.
pub(crate) fn erase<F, S>(pipeline: F) -> Make
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    Arc::new(move |flow| {
        let flow = pipeline(flow);
        let lane = flow.cx.lane.clone();
        Built {
            drive: Box::pin(Finish { stage: flow.stage, lane }),
            plan: flow.cx.plan,
            mistakes: flow.cx.mistakes,
        }
    })
}

#[pin_project]
struct Finish<S> {
    #[pin]
    stage: S,
    lane: Arc<LaneState>,
}

impl<S: Stage + Send> Drive for Finish<S> {
    fn poll_drive(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        this.lane.begin_turn();
        let mut good = 0;
        let mut tell = 0;
        let poll = loop {
            match this.stage.as_mut().poll_next(cx) {
                Poll::Ready(Some(unit)) => {
                    let (value, lineage) = unit.into_parts();
                    drop(value);
                    tell += u32::from(lineage.done_quietly());
                    good += 1;
                    if good == UNITS_A_POLL {
                        // what is ready at once must not keep the rest from its deadlines
                        this.stage.as_mut().poll_progress(cx);
                        yield_turn(cx);
                        break Poll::Pending;
                    }
                }
                Poll::Ready(None) => break Poll::Ready(()),
                Poll::Pending => break Poll::Pending,
            }
        };
        // once a turn, not for every record while the reader stands at its limit
        if tell > 0 || (good > 0 && this.lane.is_awaited()) {
            this.lane.settled();
        }
        poll
    }
}
