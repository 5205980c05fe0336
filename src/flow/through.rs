//! `through`: any adapter of streams as a step.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::Stream;
use pin_project::pin_project;

use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::unit::Uow;

type Above<T> = Arc<Mutex<Option<Pin<Box<dyn Stage<Out = T> + Send>>>>>;

/// The one that the flow holds. When the flow is dropped, what lies above goes with it, wherever user code has put
/// its [`Units`]: the lane needs the input back.
struct Owned<T>(Above<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let above = lock(&self.0).take();
        drop(above);
    }
}

/// The units that come in at a [`through`](Flow::through), as a stream.
#[must_use = "streams do nothing unless polled"]
pub struct Units<T> {
    above: Above<T>,
    ended: bool,
}

impl<T> Stream for Units<T> {
    type Item = Uow<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<T>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match &mut *lock(&self.above) {
            Some(above) => above.as_mut().poll_next(cx),
            None => Poll::Ready(None),
        };
        self.ended = matches!(next, Poll::Ready(None));
        next
    }
}

impl<T> fmt::Debug for Units<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Units").field("ended", &self.ended).finish_non_exhaustive()
    }
}

fn lock<T>(
    above: &Above<T>,
) -> std::sync::MutexGuard<'_, Option<Pin<Box<dyn Stage<Out = T> + Send>>>> {
    above.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn progress<T>(above: &Above<T>, cx: &mut Context<'_>) {
    if let Some(above) = &mut *lock(above) {
        above.as_mut().poll_progress(cx);
    }
}

#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
struct Through<T, R> {
    #[pin]
    stream: R,
    above: Owned<T>,
    cx: StageCx,
    over: bool,
}

impl<T, U, R: Stream<Item = Uow<U>>> Stage for Through<T, R> {
    type Out = U;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        let stream = this.stream;
        match this.cx.catch(|| stream.poll_next(cx)) {
            Ok(Poll::Pending) => {
                // the user's stream may not have polled what lies above it
                progress(&this.above.0, cx);
                Poll::Pending
            }
            Ok(next) => {
                *this.over = matches!(next, Poll::Ready(None));
                next
            }
            Err(_) => {
                // which unit it was is not known: all that is in there goes back when the flow is dropped
                *this.over = true;
                this.cx.lane.halt();
                Poll::Ready(None)
            }
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        if !*this.over {
            progress(&this.above.0, cx);
        }
    }
}

impl<S: Stage> Flow<S> {
    /// Passes the units through any adapter of streams: it gets a `Stream` of units, and gives one.
    ///
    /// A unit that is dropped in there undecided is returned to the stream, and the second time faulted with
    /// class [`Dropped`](crate::Class::Dropped). While the adapter waits, what lies above it goes on. A panic
    /// in it returns what it holds; the unit that is lost in the panic is returned as well, and the second time
    /// faulted with class [`Panic`](crate::Class::Panic).
    ///
    /// Work inside the adapter itself is polled only when a unit is asked for: for calls to dependencies,
    /// [`parallel`](Self::parallel) is the better step.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use futures::StreamExt;
    ///
    /// let report = run(["1", "2", "3"], |flow| {
    ///     flow.json::<u64>().through(|units| units.map(|unit| unit.map(|n| *n * 2)))
    /// })
    /// .await;
    /// assert_eq!(report.done, 3);
    /// # }
    /// ```
    pub fn through<F, R, U>(self, adapter: F) -> Flow<impl Stage<Out = U> + use<S, F, R, U>>
    where
        S: Send + 'static,
        F: FnOnce(Units<S::Out>) -> R,
        R: Stream<Item = Uow<U>>,
        U: Send + Sync + 'static,
    {
        self.add(StagePlan::new("through"), |above, cx| {
            let above: Above<S::Out> = Arc::new(Mutex::new(Some(Box::pin(above))));
            let units = Units { above: above.clone(), ended: false };
            Through { stream: adapter(units), above: Owned(above), cx, over: false }
        })
    }
}
