//! One finite batch through the same pipelines and guards: for hosts that call with records (a function as a
//! service, an HTTP endpoint), and for tests.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::core::Core;
use super::shard::{Command, Committed, Finite, Shard, run_shard};
use crate::clock::FAR;
use crate::record::{Position, Record, ShardId};
use crate::settle::{Fate, Flag};
use crate::source::{
    Acker, Acknowledge, Behind, Caps, CommitError, Read, Reader, Room, Settled, SourceError,
};

/// What became of the records of one [`Processor::process`](super::Processor::process).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Processed {
    /// Done, or kept out by every pipeline.
    pub settled: Vec<Record>,
    /// Faulted in at least one pipeline; every fault is stored.
    pub faulted: Vec<Record>,
    /// Not settled in at least one pipeline: to be given again.
    pub returned: Vec<Record>,
    /// The ids of the faults that were stored.
    pub faults: Vec<Uuid>,
}

impl Processed {
    /// Where to begin again in a shard of a stream: the first record that was returned. For partial-batch responses
    /// of ordered transports.
    pub fn first_returned(&self, stream: &str, shard: &ShardId) -> Option<&Position> {
        let of_shard = |record: &&Record| record.stream() == stream && record.shard() == shard;
        self.returned.iter().filter(of_shard).map(Record::position).min()
    }

    /// Whether nothing has to be given again.
    pub fn is_complete(&self) -> bool {
        self.returned.is_empty()
    }
}

/// A batch that is about to be processed: await it.
///
/// # Cancel safety
/// Dropping it cancels what runs; what has been written stays written, no record counts as settled.
#[must_use = "a batch is processed when this is awaited"]
pub struct Process {
    core: Arc<Core>,
    records: Vec<Record>,
    deadline: Option<Instant>,
    only: Option<String>,
}

impl Process {
    pub(crate) fn new(core: Arc<Core>, records: Vec<Record>) -> Self {
        Self { core, records, deadline: None, only: None }
    }

    /// By when it must be over: no attempt starts whose timeout does not fit, and what is not decided by then is
    /// returned.
    pub fn deadline(mut self, at: std::time::Instant) -> Self {
        self.deadline = Some(at.into());
        self
    }

    /// Within how long it must be over.
    pub fn within(mut self, span: Duration) -> Self {
        self.deadline = Some(Instant::now() + span.min(FAR));
        self
    }

    /// Only through this pipeline, by its name or a former one. An unknown one returns all records.
    pub fn only(mut self, pipeline: impl Into<String>) -> Self {
        self.only = Some(pipeline.into());
        self
    }

    async fn run(self) -> Processed {
        let Self { core, records, deadline, only } = self;
        let mut outcome = Processed::default();
        if let Some(only) = &only {
            if !core.pipelines.iter().any(|p| p.enabled && p.info.is_called(only)) {
                outcome.returned = records;
                return outcome;
            }
        }
        let mut shards: BTreeMap<(String, ShardId), Vec<Record>> = BTreeMap::new();
        for record in records {
            let key = (record.stream().to_owned(), record.shard().clone());
            shards.entry(key).or_default().push(record);
        }
        let mut runs = futures::stream::FuturesOrdered::new();
        for ((stream, id), records) in shards {
            runs.push_back(one(core.clone(), stream, id, records, deadline, only.clone()));
        }
        while let Some((records, faults)) = futures::StreamExt::next(&mut runs).await {
            outcome.faults.extend(faults);
            for (record, fate) in records {
                match fate {
                    Fate::Done | Fate::Filtered => outcome.settled.push(record),
                    Fate::Faulted => outcome.faulted.push(record),
                    Fate::Returned => outcome.returned.push(record),
                }
            }
        }
        outcome
    }
}

async fn one(
    core: Arc<Core>,
    stream: String,
    id: ShardId,
    records: Vec<Record>,
    deadline: Option<Instant>,
    only: Option<String>,
) -> (Vec<(Record, Fate)>, Vec<Uuid>) {
    let caps = Caps::new("process", stream, Acknowledge::Prefix);
    let (shard, lanes) = Shard::new(
        &core,
        caps,
        id,
        only.as_deref(),
        Some(Finite { until: deadline }),
        Committed::default(),
    );
    core.join(&shard);
    for lane in &shard.lanes {
        // a return is final: whoever called gives the record again
        lane.state.raise(Flag::FINAL);
    }
    let (commands, told) = mpsc::unbounded_channel();
    let total = records.len();
    let unread = records.clone();
    let reader = Box::new(Given { records: records.into_iter() });
    let mut run = std::pin::pin!(run_shard(shard, lanes, reader, Box::new(Nobody), told));
    let end = tokio::select! {
        biased;
        end = &mut run => end,
        () = async { match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        } } => {
            let _ = commands.send(Command::Drain(Duration::ZERO));
            run.await
        }
    };
    let mut outcomes = end.outcomes;
    // what was never read is returned
    let read = outcomes.len();
    debug_assert!(read <= total, "a record has one outcome");
    outcomes.extend(unread.into_iter().skip(read).map(|record| (record, Fate::Returned)));
    (outcomes, end.faults)
}

/// Yields the records it was given.
struct Given {
    records: std::vec::IntoIter<Record>,
}

#[async_trait]
impl Reader for Given {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let mut bytes = 0usize;
        let mut records = Vec::new();
        while records.len() < room.records && (bytes < room.bytes || records.is_empty()) {
            let Some(record) = self.records.next() else { break };
            bytes = bytes.saturating_add(record.size());
            records.push(record);
        }
        if records.is_empty() {
            return Ok(Read::End);
        }
        Ok(Read::Records { behind: Behind::records(self.records.len() as u64), records })
    }
}

/// Has nothing to commit to: the outcome is the commit.
struct Nobody;

#[async_trait]
impl Acker for Nobody {
    async fn settle(&mut self, _: Settled<'_>) -> Result<(), CommitError> {
        Ok(())
    }
}

impl IntoFuture for Process {
    type Output = Processed;
    type IntoFuture = Pin<Box<dyn Future<Output = Processed> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("records", &self.records.len()).finish_non_exhaustive()
    }
}
