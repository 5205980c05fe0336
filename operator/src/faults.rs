//! `faults …`: what was set aside.

mod dismiss;
mod group;
mod lessons;
mod ls;
mod show;

use std::collections::BTreeSet;

use clap::Subcommand;
use serde::Serialize;
use streambreaker::{BoxError, Class, FaultEvent, Position, ProcessorBuilder, ShardId, Timestamp};
use uuid::Uuid;

use crate::args::FaultArgs;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::places::{Pick, ledger_id};
use crate::text::counted;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Faults {
    /// List faults, the newest last
    Ls(ls::Ls),
    /// Show a fault with everything that is in it, and what became of it
    Show(show::Show),
    /// Count faults by kind, the most frequent first
    Group(group::Group),
    /// Note that faults need no processing
    Dismiss(dismiss::Dismiss),
    /// Report what there is to learn: which kinds succeed unchanged when they are resubmitted, which came with which release
    Lessons(lessons::Lessons),
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults(
        &self,
        faults: Faults,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        match faults {
            Faults::Ls(ls) => self.faults_ls(&ls, console).await,
            Faults::Show(show) => self.faults_show(&show, console).await,
            Faults::Group(group) => self.faults_group(&group, console).await,
            Faults::Dismiss(dismiss) => self.faults_dismiss(&dismiss, console).await,
            Faults::Lessons(lessons) => self.faults_lessons(&lessons, console).await,
        }
    }

    /// That of all faults that were named as many were found: one that is not there is a slip of the pen.
    pub(crate) fn all_named(&self, which: &FaultArgs, found: usize) -> Result<(), Failure> {
        let named = which.id.iter().collect::<BTreeSet<_>>().len();
        match named.saturating_sub(found) {
            0 => Ok(()),
            missing => Err(Failure::no(format!(
                "of {}, {missing} name no fault of {}: `faults ls` lists them",
                counted(named as u64, "id"),
                self.name
            ))),
        }
    }

    pub(crate) fn pick<'a>(&'a self, args: &'a FaultArgs) -> Pick<'a> {
        Pick { args, processor: &self.name, now: self.now() }
    }
}

/// Says what could not be read.
pub(crate) fn note_skipped(skipped: &[String], console: &mut Console) {
    const SHOWN: usize = 5;
    if skipped.is_empty() {
        return;
    }
    let count = u64::try_from(skipped.len()).unwrap_or(u64::MAX);
    console.note(&format!(
        "{} could not be read and stood in the way of nothing else:",
        counted(count, "place")
    ));
    for place in skipped.iter().take(SHOWN) {
        console.note(&format!("  {place}"));
    }
    if skipped.len() > SHOWN {
        console.note("  and others");
    }
}

/// How much of an error a list shows: what is wrong is often said behind what it is wrong with.
const ERROR: usize = 160;

/// What a list tells of a fault: no payload, no key.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) id: Uuid,
    #[serde(serialize_with = "printed")]
    pub(crate) timestamp: Timestamp,
    pub(crate) class: Class,
    processor: String,
    pub(crate) pipeline: String,
    pub(crate) stage: String,
    pub(crate) resource: Option<String>,
    pub(crate) release: Option<String>,
    pub(crate) fingerprint: String,
    pub(crate) error: ErrorSummary,
    pub(crate) stream: String,
    shard: Option<ShardId>,
    position: Option<Position>,
    pub(crate) records: usize,
    bytes: usize,
    attempts: usize,
    parent: Option<Uuid>,
    resubmits: u32,
    /// The fault under whose id it stands in the ledger.
    #[serde(skip)]
    pub(crate) whole: Uuid,
}

#[derive(Serialize)]
pub(crate) struct ErrorSummary {
    pub(crate) name: String,
    pub(crate) message: String,
}

impl Summary {
    pub(crate) fn of(fault: FaultEvent) -> Self {
        let first = fault.records.first().map(|first| &first.record);
        Self {
            stream: fault.stream().to_owned(),
            shard: first.map(|record| record.shard().clone()),
            position: first.map(|record| record.position().clone()),
            records: fault.records.len(),
            bytes: fault.record_bytes(),
            attempts: fault.attempts.len(),
            whole: ledger_id(&fault),
            id: fault.id,
            timestamp: fault.timestamp,
            class: fault.class,
            processor: fault.processor,
            pipeline: fault.pipeline,
            stage: fault.stage,
            resource: fault.resource,
            release: fault.release,
            fingerprint: fault.fingerprint,
            error: ErrorSummary { name: fault.err.name, message: fault.err.message },
            parent: fault.parent,
            resubmits: fault.resubmits,
        }
    }

    /// `totals/validate`.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.pipeline, self.stage)
    }
}

pub(crate) fn printed<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}
