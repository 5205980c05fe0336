//! Behind a pipeline's last stage: notes which records came through.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use streambreaker::Uow;
use streambreaker::prelude::*;

/// The positions that came to a pipeline's end.
#[derive(Clone, Default)]
pub(super) struct Reached(Arc<Mutex<BTreeSet<u64>>>);

impl Reached {
    pub(super) fn has(&self, position: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&position)
    }

    pub(super) fn tap<S: Stage + Send + 'static>(&self, flow: Flow<S>) -> Flow<Tap<S>> {
        let reached = self.clone();
        flow.stage("bed", move |above, _| Tap { above: Box::pin(above), reached })
    }
}

/// Hands on what it is given.
pub(super) struct Tap<S> {
    above: Pin<Box<S>>,
    reached: Reached,
}

impl<S: Stage> Stage for Tap<S> {
    type Out = S::Out;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        let unit = ready!(self.above.as_mut().poll_next(cx));
        if let Some(unit) = &unit {
            let mut reached = self.reached.0.lock().unwrap_or_else(PoisonError::into_inner);
            reached.extend(unit.records().filter_map(|record| record.position().as_u64()));
        }
        Poll::Ready(unit)
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.above.as_mut().poll_progress(cx);
    }
}
