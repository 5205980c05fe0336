//! What happens to a processor beside its records: counted, told to metrics, and said in the log at most once a minute.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Core;
use crate::minutely::Minutely;
use crate::processor::shard::Shard;
use crate::record::{Position, Record, ShardId};
use crate::settle::Gap;
use crate::source::{CommitError, SourceError};

/// Gaps that a report lists.
const MOST_GAPS: usize = 1_000;

/// What a processor says in the log, over all its shards, at most once a minute each.
#[derive(Default)]
pub(super) struct Lines {
    source: Minutely,
    commit: Minutely,
    gap: Minutely,
    stall: Minutely,
}

impl Core {
    /// The source lost records before they were read.
    pub(crate) fn note_gap(&self, shard: &Shard, from: &Position, to: &Position) {
        metrics::counter!(
            "streambreaker_gaps_total",
            "processor" => self.name.clone(), "stream" => self.stream_label(&shard.stream)
        )
        .increment(1);
        if let Some(count) = self.lines.gap.due() {
            tracing::error!(
                target: "streambreaker::lane",
                processor = %self.name,
                messaging.destination.name = %shard.stream,
                messaging.destination.partition.id = %shard.id,
                %from,
                %to,
                count,
                "records were lost before they were read",
            );
        }
        let mut book = self.book();
        // a source that reports gaps without end must not fill the memory; the metric counts all of them
        if book.gaps.len() < MOST_GAPS {
            book.gaps.push(Gap::new(shard.stream.to_string(), &shard.id, from, to));
        }
    }

    /// A shard stands still: whether to say so, and how often it was.
    pub(crate) fn stall_is_due(&self) -> Option<u64> {
        self.lines.stall.due()
    }

    pub(crate) fn note_unconfirmed(&self, faults: u64) {
        self.unconfirmed.fetch_add(faults, Ordering::AcqRel);
    }

    /// These go by the pipelines that are disabled; what is replayed or resubmitted was not meant for them.
    pub(crate) fn note_passed_by(&self, stream: &Arc<str>, shard: &ShardId, records: &[Record]) {
        let disabled = || self.pipelines.iter().filter(|pipeline| !pipeline.enabled);
        if disabled().next().is_none() {
            return;
        }
        // not the first and the last: where records are acknowledged one by one they come in any order
        let live = || records.iter().filter(|record| record.delivery().is_live());
        let positions = || live().map(Record::position);
        let (Some(first), Some(last)) = (positions().min(), positions().max()) else { return };
        let mut book = self.book();
        match book.passed_by.entry((stream.clone(), shard.clone())) {
            Entry::Occupied(mut known) => {
                // what comes again went by before
                let (from, to) = known.get_mut();
                if first < from {
                    *from = first.clone();
                }
                if last > to {
                    *to = last.clone();
                }
            }
            Entry::Vacant(new) => {
                new.insert((first.clone(), last.clone()));
                drop(book);
                // once a shard and life: a process that is killed makes no report
                let pipelines: Vec<_> = disabled().map(|pipeline| &pipeline.info.name).collect();
                tracing::warn!(
                    target: "streambreaker::lane",
                    processor = %self.name,
                    messaging.destination.name = %stream,
                    messaging.destination.partition.id = %shard,
                    from = %first,
                    ?pipelines,
                    "from here on records go by pipelines that are disabled",
                );
            }
        }
    }

    pub(crate) fn note_commit(&self, shard: &Shard) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(
            "streambreaker_commits_total",
            "processor" => self.name.clone(),
            "stream" => self.stream_label(&shard.stream),
            "outcome" => "done",
        )
        .increment(1);
    }

    pub(crate) fn note_commit_error(&self, shard: &Shard, error: &CommitError) {
        metrics::counter!(
            "streambreaker_commits_total",
            "processor" => self.name.clone(),
            "stream" => self.stream_label(&shard.stream),
            "outcome" => "failed",
        )
        .increment(1);
        if let Some(count) = self.lines.commit.due() {
            tracing::warn!(
                target: "streambreaker::lane",
                processor = %self.name,
                messaging.destination.name = %shard.stream,
                messaging.destination.partition.id = %shard.id,
                messaging.operation.type = "settle",
                error.type = match error {
                    CommitError::Transient(_) => "transient",
                    CommitError::Fenced => "fenced",
                },
                count,
                "a commit did not go through; it is tried again",
            );
        }
    }

    pub(crate) fn note_source_error(
        &self,
        stream: &str,
        shard: Option<&ShardId>,
        error: &SourceError,
    ) {
        metrics::counter!(
            "streambreaker_source_errors_total",
            "processor" => self.name.clone(), "stream" => self.stream_label(stream)
        )
        .increment(1);
        let fatal = matches!(error, SourceError::Fatal(_));
        // what ends the processor is always said
        if let Some(count) = self.lines.source.due().or(fatal.then_some(1)) {
            tracing::warn!(
                target: "streambreaker::lane",
                processor = %self.name,
                messaging.destination.name = %stream,
                messaging.destination.partition.id = shard.map(tracing::field::display),
                messaging.operation.type = "receive",
                error.type = if fatal { "fatal" } else { "transient" },
                count,
                "the source failed",
            );
        }
    }
}
