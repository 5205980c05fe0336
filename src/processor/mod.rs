//! The processor: drives pipelines over a source, and sees to it that every record ends in one fate.

use std::fmt;
use std::sync::{Arc, Mutex};

use self::budget::TimeBudget;
pub use self::builder::{BuildError, ProcessorBuilder};
use self::core::Core;
pub use self::handle::{By, Handle, Skip, SwitchError};
pub use self::process::{Process, Processed};
pub use self::shutdown::{Shutdown, Trigger, shutdown};
pub use self::status::{FaultStatus, LaneStatus, Phase, PipelineStatus, SourceStatus, Status};
use crate::record::Record;
use crate::settle::Report;
use crate::source::{BoxSource, Source, SourceError, boxed};

mod budget;
mod builder;
mod commit;
mod core;
mod drive;
mod explain;
mod gate;
mod gauges;
mod handle;
mod lane;
mod observe;
mod process;
mod run;
mod shard;
mod shutdown;
mod status;

/// Why a processor did not run to an orderly end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is nothing to read from, or not any more.
    #[error("the processor has no source; give one to the builder, once a run, or use `run_from`")]
    NoSource,
    /// The worst case of a pipeline is above the deadline of this source.
    #[error("{0}")]
    OverBudget(String),
    /// The source failed for good, or one of the processor's own tasks died. What was in flight has been
    /// drained; the report accounts for it.
    #[error("the processor ended: {error}")]
    Ended {
        /// What happened.
        error: String,
        /// What became of every record all the same.
        report: Box<Report>,
        /// What the source said, where it was the source: its own causes say what to do. They are its
        /// text, for people, and not in the report.
        source: Option<SourceError>,
    },
}

impl RunError {
    /// What became of every record, if anything ran.
    pub fn report(&self) -> Option<&Report> {
        match self {
            RunError::Ended { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// Drives one or several pipelines over a source.
///
/// It has no type parameters: source and sinks are exchangeable. Cloning is cheap, and the clones are one
/// processor.
///
/// ```
/// use streambreaker::prelude::*;
/// use streambreaker::{Processor, Shutdown, memory};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let faults = memory::faults();
/// let processor = Processor::builder("numbers")
///     .source(memory::stream(["1", "2", "three"]))
///     .faults(faults.clone())
///     .pipeline("even", |flow| flow.json::<u64>().filter(|n| **n % 2 == 0))
///     .build()?;
///
/// let report = processor.run(Shutdown::never()).await?;
/// let even = &report.pipelines["even"];
/// assert_eq!((even.read, even.done, even.filtered, even.faulted), (3, 1, 1, 1));
/// assert_eq!(faults.events()[0].records[0].record.payload(), "three");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Processor {
    core: Arc<Core>,
    source: Arc<Mutex<Option<BoxSource>>>,
    budgets: Arc<[TimeBudget]>,
}

impl Processor {
    /// Begins a processor of this name, which stands in fault events, their ids, logs and metrics.
    pub fn builder(name: impl Into<String>) -> ProcessorBuilder {
        ProcessorBuilder::new(name.into())
    }

    pub(crate) fn new(
        core: Arc<Core>,
        source: Option<BoxSource>,
        budgets: Vec<TimeBudget>,
    ) -> Self {
        Self { core, source: Arc::new(Mutex::new(source)), budgets: budgets.into() }
    }

    /// Runs the builder's source until it ends or `shutdown` says so; then everything in flight goes on to its
    /// end, within the limit of the drain.
    ///
    /// # Errors
    /// [`RunError::NoSource`] without a source, and at a second run; [`RunError::Ended`] when the source fails
    /// for good.
    ///
    /// # Cancel safety
    /// Dropping it cancels everything: what is not committed will be delivered again.
    pub async fn run(&self, shutdown: Shutdown) -> Result<Report, RunError> {
        let source = self.source.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match source {
            Some(source) => self.run_boxed(source, shutdown).await,
            None => Err(RunError::NoSource),
        }
    }

    /// Runs another source through the same pipelines and guards: a replay, a resubmission, a test.
    ///
    /// # Errors
    /// [`RunError::OverBudget`] if a pipeline does not fit the deadline of this source; [`RunError::Ended`] when
    /// the source fails for good.
    ///
    /// # Cancel safety
    /// As for [`run`](Self::run).
    pub async fn run_from(
        &self,
        source: impl Source,
        shutdown: Shutdown,
    ) -> Result<Report, RunError> {
        self.run_boxed(boxed(source), shutdown).await
    }

    async fn run_boxed(&self, source: BoxSource, shutdown: Shutdown) -> Result<Report, RunError> {
        let deadline = self.core.deadline.or(source.caps().deadline);
        let over = builder::over_budget(&self.budgets, deadline);
        if !over.is_empty() {
            return Err(RunError::OverBudget(over.join("\n")));
        }
        let (report, source) = run::run_source(self.core.clone(), source, shutdown).await;
        match &report.error {
            None => Ok(report),
            Some(error) => {
                Err(RunError::Ended { error: error.clone(), report: Box::new(report), source })
            }
        }
    }

    /// Processes one finite batch: groups close at its end, every fault is stored before it returns, nothing
    /// runs on after it. A return is final: it is reported, not tried again.
    ///
    /// For hosts that call with records and want to know what became of each, and for tests.
    pub fn process(&self, records: impl IntoIterator<Item = Record>) -> Process {
        Process::new(self.core.clone(), records.into_iter().collect())
    }

    /// Its name, as in fault events.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Whether a pipeline of this name takes part, or one that had it ([`formerly`](ProcessorBuilder::formerly)): to
    /// it faults go back that name it.
    pub fn has_pipeline(&self, name: &str) -> bool {
        self.core.pipelines.iter().any(|pipeline| pipeline.enabled && pipeline.info.is_called(name))
    }

    /// Looks at the processor, and turns its switches, from anywhere, while it runs.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// The effective plan, to be read: limits, the stages of every pipeline with their guards, and the table of
    /// its time budget, which is what one unit may take at worst.
    pub fn explain(&self) -> String {
        explain::explain(&self.core, &self.budgets)
    }
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.core, f)
    }
}
