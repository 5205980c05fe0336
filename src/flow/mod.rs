//! Flows: chains of combinators that wrap user handlers.
//!
//! A pipeline is a function from a [`Flow`] of [`Input`] to a flow of anything. Each combinator takes the
//! stage above it and is one itself; nothing is boxed an event, and whether a flow is `Send` is inferred where
//! it is spawned. A flow is built once for every lane, and again whenever a lane is built anew: what a
//! pipeline's function captures is cloned or shared, never moved out.
//!
//! | combinator | what it is for |
//! |---|---|
//! | [`with_unreadable`](Flow::with_unreadable) | let in what the transport could not read |
//! | [`filter`](Flow::filter), [`of_type`](Flow::of_type) | keep out what is not for this pipeline |
//! | [`not_in_replay`](Flow::not_in_replay) | keep what follows from a replay |
//! | [`map`](Flow::map), [`try_map`](Flow::try_map), [`filter_map`](Flow::filter_map), [`inspect`](Flow::inspect) | make another value |
//! | [`json`](Flow::json), [`decode`](Flow::decode), [`validate`](Flow::validate), [`ensure`](Flow::ensure) | from bytes to a value that can be relied on |
//! | [`group_by`](Flow::group_by), [`group_by_some`](Flow::group_by_some), [`compact`](Flow::compact) | several units into one |
//! | [`split`](Flow::split) | one unit into several |
//! | [`rate_limit`](Flow::rate_limit) | not more than so many a second |
//! | [`call`](Flow::call), [`parallel`](Flow::parallel), [`parallel_by_key`](Flow::parallel_by_key), [`with`](Flow::with) | call a dependency through its guards |
//! | [`bulk_write`](Flow::bulk_write), [`publish`](Flow::publish) | write to a bulk API whose items fail one by one |
//! | [`dedupe`](Flow::dedupe), [`record_done`](Flow::record_done) | leave out what has been done |
//! | [`through`](Flow::through), [`stage`](Flow::stage), [`boxed`](Flow::boxed), [`named`](Flow::named) | own steps, type erasure, names |
//!
//! A flow's type names every stage once. Above some thirty stages the compiler asks for a higher recursion limit; a
//! [`boxed`](Flow::boxed) in between does as well.
//!
//! The examples of the combinators use a helper: `run(payloads, pipeline)` gives a stream of these payloads to a
//! processor with this one pipeline, and answers with the pipeline's part of the report.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::gather::Window;
pub use self::input::Input;
pub(crate) use self::input::{Entry, Feed};
pub(crate) use self::plan::{StagePlan, named_stages};
pub(crate) use self::stage::panicked;
pub use self::stage::{Stage, StageCx, UNITS_A_POLL};
use crate::config::{ConfigError, StageConfig};
use crate::settle::LaneState;

pub(crate) mod bulk;
mod bulk_write;
mod calls;
mod compact;
mod deadlines;
mod decode;
mod dedupe;
mod filter;
mod filter_map;
mod gather;
mod group_by;
mod guard;
mod handler;
mod inline;
mod input;
mod inspect;
mod map;
mod not_in_replay;
mod of_type;
mod parallel;
mod parallel_by_key;
mod plan;
mod pool;
mod publish;
mod queue;
mod rate_limit;
pub(crate) mod slots;
mod split;
mod stage;
mod through;
pub(crate) mod timer;
mod try_map;
mod turns;
mod validate;

pub use self::bulk_write::BulkWrite;
pub use self::decode::{Codec, DecodeError};
pub(crate) use self::dedupe::misplaced;
pub(crate) use self::guard::timed_out;
pub use self::handler::Answer;
pub use self::of_type::TypeFilter;
pub use self::publish::{NewEvent, OnReplay, Publication, Publish};
use self::rate_limit::Rates;
pub use self::through::Units;

/// A chain of combinators, under construction.
#[must_use = "a flow does nothing unless a pipeline returns it"]
pub struct Flow<S> {
    pub(crate) stage: S,
    pub(crate) cx: FlowCx,
}

/// What a flow under construction knows: its lane, and what has been built so far.
#[derive(Clone)]
pub(crate) struct FlowCx {
    pub(crate) lane: Arc<LaneState>,
    pub(crate) plan: Vec<StagePlan>,
    pub(crate) mistakes: Vec<ConfigError>,
    pub(crate) rates: Rates,
}

/// A flow whose type has been erased.
pub type BoxedFlow<T> = Flow<Pin<Box<dyn Stage<Out = T> + Send>>>;

impl Flow<Input> {
    pub(crate) fn begin(lane: Arc<LaneState>, input: Input) -> Self {
        let rates = input.rates();
        Self { stage: input, cx: FlowCx { lane, plan: Vec::new(), mistakes: Vec::new(), rates } }
    }
}

impl<S> Flow<S> {
    /// Adds a stage: notes it in the plan, and hands `make` the stage above and the new stage's context.
    pub(crate) fn add<T>(mut self, plan: StagePlan, make: impl FnOnce(S, StageCx) -> T) -> Flow<T> {
        let id = u16::try_from(self.cx.plan.len()).unwrap_or(u16::MAX);
        if id == u16::MAX {
            self.mistake("stages", "65,535", "fewer");
        }
        self.cx.plan.push(plan);
        let cx = StageCx { lane: self.cx.lane.clone(), id };
        Flow { stage: make(self.stage, cx), cx: self.cx }
    }

    /// What the configuration says of the stage that is about to be added.
    pub(crate) fn configured(&self) -> StageConfig {
        self.configured_at(self.cx.plan.len())
    }

    /// What the configuration says of the stage that was added last.
    pub(crate) fn configured_last(&self) -> StageConfig {
        self.configured_at(self.cx.plan.len().saturating_sub(1))
    }

    fn configured_at(&self, stage: usize) -> StageConfig {
        let settings = self.cx.lane.pipeline.settings.get();
        settings.and_then(|all| all.get(stage)).copied().unwrap_or_default()
    }

    /// Notes a mistake in the configuration of the stage that is about to be added or was added last.
    pub(crate) fn mistake(&mut self, what: &str, found: impl fmt::Display, accepted: &str) {
        let pipeline = &self.cx.lane.pipeline.name;
        self.cx.mistakes.push(ConfigError::new(
            format!("pipeline `{pipeline}`: {what}"),
            found,
            accepted,
        ));
    }

    /// Names the stage that was added last. The name stands in fault events, their ids, and metrics; without
    /// one it is the combinator's, with `#2` and so on for repeats.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["1"], |flow| {
    ///     flow.json::<u64>().filter(|n| **n > 0).named("positive").filter(|n| **n < 9).named("small")
    /// })
    /// .await;
    /// assert_eq!(report.done, 1);
    /// # }
    /// ```
    pub fn named(mut self, name: impl Into<String>) -> Flow<S> {
        let name = name.into();
        if name.is_empty() || self.cx.plan.iter().any(|stage| stage.name.as_deref() == Some(&*name))
        {
            self.mistake("name of a stage", format!("`{name}`"), "a name that no other stage has");
        }
        match self.cx.plan.last_mut() {
            Some(last) => last.name = Some(name),
            None => self.mistake("named", "the first call", "a call after a combinator"),
        }
        self
    }

    /// Erases the type of the flow, where a name is needed for it: one allocation a lane, one dynamic call a
    /// unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use streambreaker::flow::BoxedFlow;
    ///
    /// fn numbers(flow: Flow<Input>, only_even: bool) -> BoxedFlow<Event<u64>> {
    ///     let numbers = flow.json::<u64>();
    ///     if only_even { numbers.filter(|n| **n % 2 == 0).boxed() } else { numbers.boxed() }
    /// }
    ///
    /// let report = run(["1", "2"], |flow| numbers(flow, true)).await;
    /// assert_eq!((report.done, report.filtered), (1, 1));
    /// # }
    /// ```
    pub fn boxed<T>(self) -> BoxedFlow<T>
    where
        S: Stage<Out = T> + Send + 'static,
    {
        Flow { stage: Box::pin(self.stage), cx: self.cx }
    }

    /// Adds a stage of your own: `make` gets the stage above and what the new one may ask its lane.
    ///
    /// Read the contract of [`Stage`] first; for most needs [`through`](Self::through) is enough.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::pin::Pin;
    /// use std::task::{Context, Poll, ready};
    /// use streambreaker::Uow;
    /// use streambreaker::flow::StageCx;
    ///
    /// /// Filters every second unit out.
    /// struct EverySecond<S> {
    ///     above: Pin<Box<S>>,
    ///     cx: StageCx,
    ///     odd: bool,
    /// }
    ///
    /// impl<S: Stage> Stage for EverySecond<S> {
    ///     type Out = S::Out;
    ///
    ///     fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
    ///         // two at most: what could go on for ever would count, and yield after 256
    ///         while let Some(unit) = ready!(self.above.as_mut().poll_next(cx)) {
    ///             self.odd = !self.odd;
    ///             if self.odd {
    ///                 return Poll::Ready(Some(unit));
    ///             }
    ///             self.cx.filtered(unit);
    ///         }
    ///         Poll::Ready(None)
    ///     }
    ///
    ///     fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
    ///         self.above.as_mut().poll_progress(cx);
    ///     }
    /// }
    ///
    /// let report = run(["1", "2", "3"], |flow| {
    ///     flow.stage("every_second", |s, cx| EverySecond { above: Box::pin(s), cx, odd: false })
    /// })
    /// .await;
    /// assert_eq!((report.done, report.filtered), (2, 1));
    /// # }
    /// ```
    pub fn stage<T: Stage>(
        self,
        name: &'static str,
        make: impl FnOnce(S, StageCx) -> T,
    ) -> Flow<T> {
        self.add(StagePlan::new(name), make)
    }
}

impl<S> fmt::Debug for Flow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(named_stages(&self.cx.plan).iter().map(|s| s.name.clone())).finish()
    }
}

/// Spans that are added up never overflow.
pub(crate) fn saturating_sum(spans: impl IntoIterator<Item = Duration>) -> Duration {
    spans.into_iter().fold(Duration::ZERO, Duration::saturating_add)
}
