//! An embeddable framework for stream processors: a team writes the handlers; the crate takes events from any
//! transport, runs them through a chain of combinators, and makes sure that a bad event never blocks good ones, that
//! a sick dependency never turns into a storm, and that nothing is lost.
//!
//! Every event ends in exactly one recorded *fate*. What cannot be processed is set aside as a *fault event* with all
//! that is needed to send it again to exactly the pipeline that refused it, and the checkpoint moves on: the *stream
//! circuit breaker* pattern.
//!
//! # A first processor
//!
//! ```
//! use std::time::Duration;
//!
//! use serde::Deserialize;
//! use streambreaker::memory::{self, Collect};
//! use streambreaker::prelude::*;
//!
//! #[derive(Clone, Deserialize)]
//! struct Order {
//!     customer: u64,
//!     amount: i64,
//! }
//!
//! impl Order {
//!     fn check(&self) -> Result<(), String> {
//!         if self.amount > 0 { Ok(()) } else { Err("the amount is not above zero".into()) }
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Db; // a pool of connections
//!
//! impl Db {
//!     async fn upsert(&self, orders: &Group<u64, Event<Order>>) -> std::io::Result<()> {
//!         assert!(orders.items.iter().all(|order| order.customer == orders.key));
//!         Ok(())
//!     }
//! }
//!
//! // a pipeline as a function: `use<>` says that the flow borrows none of its arguments
//! fn totals(flow: Flow<Input>, db: Db, orders: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
//!     flow.of_type(["order-submitted", "order-changed"])
//!         .json::<Order>() // bad JSON: a fault, not a crash; yields `Event<Order>`
//!         .validate(Order::check) // as the events flow, not up front
//!         .group_by(|o| o.customer, Window::items(100).linger(Duration::from_millis(50)))
//!         .parallel(16, orders, async move |group: &Group<u64, Event<Order>>| {
//!             Ok(db.upsert(group).await.transient()?) // what deserves a retry says so
//!         })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orders = Resource::builder("orders-table") // a guarded dependency, shared by all that call it
//!     .timeout(Duration::from_millis(800)) // of one attempt; always explicit
//!     .retry(Retry::exponential().max_attempts(4)) // first retry quick, then backoff with jitter
//!     .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
//!     .rate(Rate::per_second(500))
//!     .concurrency(32) // for the whole process
//!     .build()?;
//! let search = Resource::builder("search").timeout(Duration::from_secs(2)).build()?;
//!
//! let (db, index) = (Db, Collect::new());
//! # let found = index.clone();
//! let source = memory::stream([
//!     r#"{"id":"1","type":"order-submitted","customer":7,"amount":40}"#,
//!     r#"{"id":"2","type":"order-changed","customer":7,"amount":-1}"#,
//!     r#"{"id":"3","type":"customer-moved","customer":7,"amount":0}"#,
//! ]);
//! let processor = Processor::builder("order-totals")
//!     .release(env!("CARGO_PKG_VERSION"))
//!     .source(source) // any `Source`
//!     .faults(memory::faults()) // any `Sink<FaultEvent>`
//!     .pipeline("totals", move |flow| totals(flow, db.clone(), &orders))
//!     .pipeline("search", move |flow| {
//!         flow.json::<Order>().map(|order| order.amount).bulk_write(&search, index.clone())
//!     })
//!     .build()?; // refuses a plan whose worst case breaks the source's deadline
//!
//! // SIGTERM or SIGINT drains; here the source ends by itself
//! let report = processor.run(streambreaker::shutdown()).await?;
//! println!("{report}"); // every event accounted for
//!
//! let totals = &report.pipelines["totals"];
//! assert_eq!((totals.read, totals.done, totals.filtered, totals.faulted), (3, 1, 1, 1));
//! # assert_eq!(found.items(), [40, -1, 0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to begin
//!
//! The [guide]: from an empty folder to a running component in [ten minutes](guide::first_steps), what to write for each
//! kind of [error](guide::errors), how to choose the limits of a [resource](guide::resources), what a
//! [file may change](guide::configuration), how to [test](guide::testing) and how to [operate](guide::operating) it.
//!
//! # Where things are
//!
//! | | |
//! |---|---|
//! | [`Processor`], [`Shutdown`], [`Report`] | what drives the pipelines, how it is told to end, and what it says when it has |
//! | [`flow`]: [`Flow`], [`Stage`], [`Window`] | the combinators, each with an example |
//! | [`resource`]: [`Resource`], [`Retry`], [`Breaker`], [`Rate`] | a dependency and its guards |
//! | [`error`]: [`StepError`], [`ResultExt`], [`Class`] | what a handler says went wrong, and what is to be done about it |
//! | [`Record`], [`Event`], [`Group`], [`Uow`] | what flows: the stream's wrapper, a decoded event, events that belong together, a value with its lineage |
//! | [`envelope`] | what an event's id, type, time and key are: plain JSON, CloudEvents |
//! | [`fault`] | the fault event, its JSON form, the flood guard, the scrubber |
//! | [`source`], [`sink`] | what a transport implements to be read from and written to |
//! | [`memory`], [`mod@file`] | the two transports that need nothing: for tests, and for lines of JSON |
//! | [`idempotence`] | what helps a handler to stand repetition and disorder: versions, an event store, a ledger |
//! | [`config`]: [`Config`] | what a file may set |
//! | [`Handle`], `admin` (feature `admin`) | status, probes and switches; the same over HTTP |
//! | [`clock`] | the wall clock, for tests to replace |
//!
//! [`prelude`] has what most components import.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | [`Record`] | the full stream wrapper as the transport delivered it |
//! | unit of work, [`Uow`] | a value plus its *lineage*: the records it came from. A group is one unit of work |
//! | [`Fate`] | how a record ends in a pipeline: done, filtered, faulted or returned |
//! | [`Source`], shard | where records come from; a shard is an ordered part of it |
//! | lane | the task that drives one pipeline over one shard |
//! | [`Stage`], [`Flow`] | one combinator; the builder that chains them |
//! | [`Resource`] | a dependency that handlers call, guarded for the whole process |
//! | [`Sink`] | where items are written in bulk, with one outcome an item |
//! | fault event | the durable record of a unit that could not be processed |
//! | replay, resubmit | send records of the lake, or faulted units, back to one processor |
//! | iterator age | how long the oldest unsettled record of a shard has waited |
//!
//! # Errors, and what to do about them
//!
//! A handler is an async closure or function of `&T` that answers `Result<_, StepError>`. The class of the error says
//! what happens next:
//!
//! | class | how | what happens |
//! |---|---|---|
//! | fault | any error by `?` | set aside at once, no retry: start conservative |
//! | transient | [`.transient()`](ResultExt::transient), [`.transient_if(…)`](ResultExt::transient_if), a timeout, a [classifier](resource::ResourceBuilder::classify) | retried within the budget; then [`OnExhausted`]: back to the stream, or set aside |
//! | throttled | [`.throttled(after)`](ResultExt::throttled) | retried, never sooner; lowers the rate, does not trip the breaker |
//! | fatal | [`.fatal()`](ResultExt::fatal) | the lane halts and feeds the unit again after a backoff |
//! | panic | caught around every handler | a fault of that unit |
//!
//! A handler runs at least once and may run again: after a timeout, a restart, a redelivery. It must be idempotent
//! ([`Event::idempotency_key`] is the same every time) and stand events out of order.
//!
//! # What holds
//!
//! - A record is settled by a decision, never by a drop: the checkpoint never passes one that is undecided, returned,
//!   or whose fault is not yet stored.
//! - A group faults whole, in its order; of a bulk write only the items that failed are faulted.
//! - A fault has the same id however often the unit is faulted.
//! - Memory is bounded: at the in-flight limit the reader stops.
//! - Everything that waits can be cancelled, and cancelling is no failure.
//! - Logs, metrics, [`Report`] and `Debug` never show payloads, keys, header values or error texts; those are in fault
//!   events only, scrubbed.
//!
//! # What the compiler says, and what is meant
//!
//! | it says | do |
//! |---|---|
//! | *a handler returns `Result<_, StepError>`, not `Result<_, MyError>`* | end with `Ok(work(x).await?)` instead of `work(x).await`: `?` makes it a `StepError` |
//! | *a handler returns `Result<_, StepError>`, not `()`* | end the handler with `Ok(())` |
//! | *`?` couldn't convert the error: `String: Cause` is not satisfied* | text and boxed errors are no error types: say what is to be done about them, as in `work(x).await.fault()?` |
//! | *returning this value requires that `'1` must outlive `'2`* where a pipeline is added | write `-> Flow<impl Stage<Out = …> + use<>>`: without `use<>` the flow borrows what the function was given by reference |
//! | *`Rc<…>` cannot be sent between threads safely* | share by `Arc`, `Mutex` or atomics; hold no guard over an `.await` |
//! | *`…` does not write items of type `…`* | `map` the values to what the sink takes |
//!
//! Two of these are not in our words, and cannot be. Lifetimes are checked when all traits have been asked, where no trait
//! has a say: that of a missing `use<>` is the compiler's own. That something is not [`Send`] is said by `Send`, which
//! names what it is; a trait of ours in its place would say what to do and hide where, so our words are a note beside the
//! bound that it shows.

// here and not for the workspace: tests and examples may
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

#[macro_use]
mod planted;

#[cfg(feature = "admin")]
pub mod admin;
pub mod clock;
pub mod config;
pub mod envelope;
pub mod error;
pub mod fault;
pub mod file;
pub mod flow;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod idempotence;
mod labels;
pub mod memory;
mod minutely;
mod panics;
mod processor;
pub mod record;
pub mod resource;
mod settle;
pub mod sink;
pub mod source;
mod sync;
#[cfg(all(test, shuttle))]
mod threads;
mod unit;

#[doc(inline)]
pub use config::{Config, ConfigError};
#[doc(inline)]
pub use error::{BoxError, Class, ResultExt, StepError};
#[doc(inline)]
pub use fault::FaultEvent;
#[doc(inline)]
pub use flow::{Flow, Input, Stage, Window};
pub use panics::hide_panic_messages;
#[doc(inline)]
pub use processor::{
    BuildError, By, FaultStatus, Handle, LaneStatus, Phase, PipelineStatus, Process, Processed,
    Processor, ProcessorBuilder, RunError, Shutdown, Skip, SourceStatus, Status, SwitchError,
    Trigger, shutdown,
};
#[doc(inline)]
pub use record::{Delivery, Headers, PartPath, Position, Record, ShardId, Timestamp};
#[doc(inline)]
pub use resource::{Breaker, OnExhausted, OnOpen, Rate, Resource, Retry, RetryQuota};
pub use settle::{Fate, FaultKind, Gap, PassedBy, PipelineReport, Report, WaitsFor};
#[doc(inline)]
pub use sink::Sink;
#[doc(inline)]
pub use source::Source;
pub use unit::{Event, Group, Lineage, Received, Uow};

/// What most components import: `use streambreaker::prelude::*;`.
pub mod prelude {
    pub use crate::error::{ResultExt, StepError};
    pub use crate::flow::{Flow, Input, Stage, Window};
    pub use crate::processor::{Processor, Shutdown};
    pub use crate::resource::{Breaker, OnExhausted, OnOpen, Rate, Resource, Retry, RetryQuota};
    pub use crate::unit::{Event, Group, Received, Uow};
}

/// The code of the README, so that it is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeProgram;
