//! A sink that keeps what it is given, and fails as it is told.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::error::{Class, ResultExt, StepError};
use crate::fault::FaultEvent;
use crate::sink::{Limits, Outcomes, Sink};

/// How a sink answers a whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// Writes nothing and fails with this class.
    Fail(Class),
    /// Writes nothing and asks to come back later.
    Throttle(Duration),
    /// Writes everything and then fails, of class `Transient`, with nothing noted: the reply was lost.
    ReplyLost,
    /// Hangs until [`Collect::resume`], then writes. Dropped before that, nothing is written.
    Hang,
    /// Writes everything, then hangs until [`Collect::resume`] before it notes that.
    ApplyThenHang,
    /// Writes nothing, notes nothing, and says that all is well.
    Silence,
}

/// What a sink does with one item: see [`Collect::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Written, and noted so.
    Done,
    /// Not written, and noted as worth another try.
    Retry,
    /// Not written, and noted as not before this time.
    Throttled(Duration),
    /// Not written, and noted as never to be.
    Reject,
    /// Not written, and nothing noted.
    Silent,
    /// Written, and nothing noted.
    ReplyLost,
}

/// A [`Sink`] that keeps what it is given. A handle: clones are the same sink.
///
/// ```
/// use streambreaker::Sink;
/// use streambreaker::memory::Collect;
/// use streambreaker::sink::OutcomeLog;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), streambreaker::StepError> {
/// let sink = Collect::new();
/// sink.write(&["a", "b"], &mut OutcomeLog::new(2).outcomes()).await?;
/// assert_eq!(sink.items(), ["a", "b"]);
/// # Ok(())
/// # }
/// ```
pub struct Collect<T>(Arc<Inner<T>>);

struct Inner<T> {
    size: Box<dyn Fn(&T) -> usize + Send + Sync>,
    changed: Notify,
    state: Mutex<State<T>>,
}

type Decide<T> = Box<dyn FnMut(usize, &T) -> Verdict + Send>;

struct State<T> {
    items: Vec<T>,
    requests: Vec<Vec<T>>,
    responses: VecDeque<Response>,
    decide: Option<Decide<T>>,
    down: bool,
    resumes: u64,
    limits: Limits,
}

impl<T> Collect<T> {
    /// An empty sink that takes 1,000 items a request, of no size.
    pub fn new() -> Self {
        Self::sized(|_| 0)
    }

    /// An empty sink that takes 1,000 items a request, of a size that `size` tells, in bytes.
    pub fn sized(size: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        let state = State {
            items: Vec::new(),
            requests: Vec::new(),
            responses: VecDeque::new(),
            decide: None,
            down: false,
            resumes: 0,
            limits: Limits::items(1_000),
        };
        let (size, changed) = (Box::new(size), Notify::new());
        Self(Arc::new(Inner { size, changed, state: Mutex::new(state) }))
    }

    /// The same sink with these limits a request.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        self.change(|state| state.limits = limits);
        self
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        change(&mut self.lock());
        self.0.changed.notify_waiters();
    }

    /// How many items were written.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fails every request with `Transient`, until [`up`](Collect::up).
    pub fn down(&self) {
        self.change(|state| state.down = true);
    }

    /// Ends what [`down`](Collect::down) began.
    pub fn up(&self) {
        self.change(|state| state.down = false);
    }

    /// Answers the next `times` requests so; after what was said before.
    pub fn respond(&self, times: usize, response: Response) {
        self.change(|state| state.responses.extend(std::iter::repeat_n(response, times)));
    }

    /// Decides about each item of every request from now on, by its index in the request and itself.
    pub fn decide(&self, decide: impl FnMut(usize, &T) -> Verdict + Send + 'static) {
        self.change(|state| state.decide = Some(Box::new(decide)));
    }

    /// Writes every item again, whatever [`decide`](Collect::decide) said.
    pub fn decide_no_more(&self) {
        self.change(|state| state.decide = None);
    }

    /// Lets every request go on that hangs.
    pub fn resume(&self) {
        self.change(|state| state.resumes += 1);
    }

    /// Waits until so many items were written.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn filled(&self, items: usize) {
        self.until(|state| state.items.len() >= items).await;
    }

    async fn until(&self, reached: impl Fn(&State<T>) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl<T: Clone> Collect<T> {
    /// The items that were written, in order; twice, if they were written twice.
    pub fn items(&self) -> Vec<T> {
        self.lock().items.clone()
    }

    /// The requests that arrived, in order, also those that failed.
    pub fn requests(&self) -> Vec<Vec<T>> {
        self.lock().requests.clone()
    }

    fn store(&self, items: &[T]) {
        self.change(|state| state.items.extend_from_slice(items));
    }
}

impl Collect<FaultEvent> {
    /// The fault events that were written.
    pub fn events(&self) -> Vec<FaultEvent> {
        self.items()
    }
}

#[async_trait]
impl<T: Clone + Send + Sync> Sink<T> for Collect<T> {
    fn limits(&self) -> Limits {
        self.lock().limits
    }

    fn size(&self, item: &T) -> usize {
        (self.0.size)(item)
    }

    async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        let (response, resumes) = {
            let mut state = self.lock();
            state.requests.push(items.to_vec());
            let down = state.down.then_some(Response::Fail(Class::Transient));
            (down.or_else(|| state.responses.pop_front()), state.resumes)
        };
        let resumed = |state: &State<T>| state.resumes != resumes;
        match response {
            None => {}
            Some(Response::Silence) => return Ok(()),
            Some(Response::Fail(class)) => {
                return Err(StepError::new(class, "the sink is down").with_name("SinkDown"));
            }
            Some(Response::Throttle(after)) => {
                return Err("the sink asks for less").throttled(after);
            }
            Some(Response::ReplyLost) => {
                self.store(items);
                return Err("the sink's reply was lost").transient();
            }
            Some(Response::Hang) => self.until(resumed).await,
            Some(Response::ApplyThenHang) => {
                self.store(items);
                self.until(resumed).await;
                outcomes.all_done();
                return Ok(());
            }
        }
        self.change(|state| {
            for (index, item) in items.iter().enumerate() {
                let verdict =
                    state.decide.as_mut().map_or(Verdict::Done, |decide| decide(index, item));
                if matches!(verdict, Verdict::Done | Verdict::ReplyLost) {
                    state.items.push(item.clone());
                }
                match verdict {
                    Verdict::Done => outcomes.done(index),
                    Verdict::Retry => outcomes.retry(index, "the sink did not take it"),
                    Verdict::Throttled(after) => {
                        outcomes.throttled(index, after, "the sink asks for less");
                    }
                    Verdict::Reject => outcomes.reject(index, "the sink will never take it"),
                    Verdict::Silent | Verdict::ReplyLost => {}
                }
            }
        });
        Ok(())
    }
}

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Collect<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collect({} items)", self.len())
    }
}
