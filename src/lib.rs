//! skeleton

// here and not for the workspace: tests and examples may
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

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
mod unit;

#[doc(inline)]
pub use config::{Config, ConfigError};
#[doc(inline)]
pub use error::{BoxError, Class, ResultExt, StepError};
#[doc(inline)]
pub use flow::{Flow, Input, Stage, Window};
pub use panics::hide_panic_messages;
#[doc(inline)]
pub use processor::{
    BuildError, By, FaultStatus, Handle, LaneStatus, Outcome, Phase, PipelineStatus, Process,
    Processor, ProcessorBuilder, RunError, Shutdown, SourceStatus, Status, SwitchError, Trigger,
    shutdown,
};
#[doc(inline)]
pub use record::{Delivery, Headers, PartPath, Position, Record, ShardId, Timestamp};
#[doc(inline)]
pub use resource::{Breaker, OnExhausted, OnOpen, Rate, Resource, Retry, RetryQuota};
pub use settle::{Fate, FaultKind, Gap, PipelineReport, Report, WaitsFor};
#[doc(inline)]
pub use sink::Sink;
#[doc(inline)]
pub use source::Source;
pub use unit::{Event, Group, Lineage, Received, Uow};

/// What most components import.
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
