//! Sinks and handlers that fail as real ones do.

use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::clock::Random;
use streambreaker::sink::{Limits, OutcomeLog, Outcomes};
use streambreaker::{ResultExt, Sink, StepError};

/// How often each trouble was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Troubles {
    /// Calls that failed before they had an effect.
    pub failed: u32,
    /// Calls that had their effect, and then failed.
    pub replies_lost: u32,
    /// Calls that hung, before or after their effect.
    pub hung: u32,
    /// Calls that were told to come back later.
    pub throttled: u32,
    /// Requests of which a part was written.
    pub partial: u32,
}

impl Troubles {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.failed + self.replies_lost + self.hung + self.throttled + self.partial
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    Fails,
    LosesReply,
    HangsBefore,
    HangsAfter,
    Throttles,
    Partial,
}

/// A sink, or what a handler calls, in trouble: by a seed, so that it repeats.
///
/// Shares are of calls; what is left of them goes well, and so does every call after the limit
/// ([`at_most`](Self::at_most), 100 unless told), so that a run comes to its end. A handle: clones are one.
///
/// Around a sink it is a sink. In a handler it goes around the call:
///
/// ```
/// use std::time::Duration;
///
/// use streambreaker::prelude::*;
/// use streambreaker_testkit::bed::{Effects, Flaky, TestBed};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # tokio::time::pause();
/// let (paid, flaky) = (Effects::new(), Flaky::new((), 7).fails(0.2).loses_replies(0.2).hangs(0.1));
/// let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
/// let (noted, trouble) = (paid.clone(), flaky.clone());
///
/// let ran = TestBed::new()
///     .feed_json(0..50u32)
///     .pipeline("numbers", move |flow| {
///         let (noted, trouble) = (noted.clone(), trouble.clone());
///         flow.json::<u32>().parallel(4, &db, async move |n: &Event<u32>| {
///             trouble.call(async {
///                 noted.note(**n);
///                 Ok(())
///             })
///             .await
///         })
///     })
///     .run()
///     .await;
///
/// ran.assert_no_faults();
/// assert!(flaky.troubles().total() > 0);
/// assert!(paid.len() >= 50); // more where a reply was lost: at least once
/// # }
/// ```
pub struct Flaky<S> {
    inner: S,
    shares: Vec<(Trouble, f64)>,
    throttle: Duration,
    at_most: u32,
    state: Arc<State>,
}

struct State {
    random: Random,
    met: Mutex<Troubles>,
}

impl<S> Flaky<S> {
    /// Around this; without trouble yet.
    pub fn new(inner: S, seed: u64) -> Self {
        let state = State { random: Random::seeded(seed), met: Mutex::default() };
        let (shares, throttle) = (Vec::new(), Duration::ZERO);
        Self { inner, shares, throttle, at_most: 100, state: Arc::new(state) }
    }

    fn share(mut self, trouble: Trouble, share: f64) -> Self {
        self.shares.push((trouble, share));
        self
    }

    /// This share of calls fails (`Transient`) before it has an effect.
    #[must_use]
    pub fn fails(self, share: f64) -> Self {
        self.share(Trouble::Fails, share)
    }

    /// This share has its effect, and then fails (`Transient`): the reply was lost.
    #[must_use]
    pub fn loses_replies(self, share: f64) -> Self {
        self.share(Trouble::LosesReply, share)
    }

    /// This share hangs, one half before its effect and one half after it, until it is dropped.
    #[must_use]
    pub fn hangs(self, share: f64) -> Self {
        self.share(Trouble::HangsBefore, share / 2.0).share(Trouble::HangsAfter, share / 2.0)
    }

    /// This share is told to come back after a while.
    #[must_use]
    pub fn throttles(mut self, share: f64, after: Duration) -> Self {
        self.throttle = after;
        self.share(Trouble::Throttles, share)
    }

    /// Of this share of requests a part is written, and the rest is to be tried again. A handler has no parts: there
    /// it fails.
    #[must_use]
    pub fn writes_parts(self, share: f64) -> Self {
        self.share(Trouble::Partial, share)
    }

    /// So much trouble and no more.
    #[must_use]
    pub fn at_most(mut self, troubles: u32) -> Self {
        self.at_most = troubles;
        self
    }

    /// What is inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How often each trouble was met.
    pub fn troubles(&self) -> Troubles {
        *self.state.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> Option<Trouble> {
        let mut drawn = self.state.random.next_f64();
        let mut met = self.state.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.total() >= self.at_most {
            return None;
        }
        let hit = self.shares.iter().find(|(_, share)| {
            drawn -= share;
            drawn < 0.0
        });
        let trouble = hit.map(|(trouble, _)| *trouble)?;
        *match trouble {
            Trouble::Fails => &mut met.failed,
            Trouble::LosesReply => &mut met.replies_lost,
            Trouble::HangsBefore | Trouble::HangsAfter => &mut met.hung,
            Trouble::Throttles => &mut met.throttled,
            Trouble::Partial => &mut met.partial,
        } += 1;
        Some(trouble)
    }

    fn throttled(&self) -> StepError {
        StepError::throttled(self.throttle, "flaky: come back later")
    }

    /// Does this, or fails to: what a handler awaits.
    ///
    /// # Errors
    /// Those of `work`, and those of the trouble it is in.
    ///
    /// # Cancel safety
    /// As `work`.
    pub async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        match self.draw() {
            None => work.await,
            Some(Trouble::Fails | Trouble::Partial) => Err("flaky: it failed").transient(),
            Some(Trouble::Throttles) => Err(self.throttled()),
            Some(Trouble::HangsBefore) => pending().await,
            Some(Trouble::HangsAfter) => {
                work.await?;
                pending().await
            }
            Some(Trouble::LosesReply) => {
                work.await?;
                Err("flaky: the reply was lost").transient()
            }
        }
    }
}

#[async_trait]
impl<T: Clone + Send + Sync, S: Sink<T>> Sink<T> for Flaky<S> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn size(&self, item: &T) -> usize {
        self.inner.size(item)
    }

    fn stream(&self) -> Option<&str> {
        self.inner.stream()
    }

    async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        let trouble = self.draw();
        match trouble {
            None => return self.inner.write(items, outcomes).await,
            Some(Trouble::Fails) => return Err("flaky: the request failed").transient(),
            Some(Trouble::Throttles) => return Err(self.throttled()),
            Some(Trouble::HangsBefore) => return pending().await,
            Some(Trouble::Partial) => {
                let written: Vec<usize> =
                    (0..items.len()).filter(|_| self.state.random.next_f64() < 0.5).collect();
                let part: Vec<T> = written.iter().map(|index| items[*index].clone()).collect();
                let mut log = OutcomeLog::new(part.len());
                if !part.is_empty() {
                    self.inner.write(&part, &mut log.outcomes()).await?;
                }
                for (at, index) in written.into_iter().enumerate() {
                    if log.is_done(at) {
                        outcomes.done(index);
                    }
                }
                return Err("flaky: a part was written").transient();
            }
            Some(Trouble::LosesReply | Trouble::HangsAfter) => {}
        }
        // the effect, of which nobody is told
        self.inner.write(items, &mut OutcomeLog::new(items.len()).outcomes()).await?;
        if trouble == Some(Trouble::HangsAfter) {
            return pending().await;
        }
        Err("flaky: the reply was lost").transient()
    }
}

impl<S: Clone> Clone for Flaky<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shares: self.shares.clone(),
            throttle: self.throttle,
            at_most: self.at_most,
            state: self.state.clone(),
        }
    }
}

impl<S> fmt::Debug for Flaky<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flaky({:?})", self.troubles())
    }
}
