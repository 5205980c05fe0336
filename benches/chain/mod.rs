//! The chain that is measured: prebuilt batches, a filter, a guarded handler with 64 units in flight,
//! settlement and commit, through the public API alone.
//!
//! All promises are on: breaker, timeout, retry with its quota, panics caught, the flood guard, commits, the
//! report. The making of the records is left out, as it is the transport's; releasing them is counted.

// each of the programs that share this file uses a part of it
#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use streambreaker::Source;
use streambreaker::prelude::*;
use streambreaker::source::{
    self, Acknowledge, Behind, Caps, Change, CommitError, Read, Room, Settled, SourceError,
};
use streambreaker::{Position, Report, ShardId, memory};

/// Records a read, unless a test asks for something else.
pub(crate) const BATCH: u64 = 500;

/// A source of one shard whose reads are there already, and whose commits only remember the position.
pub(crate) struct Prebuilt {
    shard: Option<Reader>,
    committed: Arc<AtomicU64>,
}

/// Hands out one batch a read.
pub(crate) struct Reader {
    batches: VecDeque<Vec<streambreaker::Record>>,
    /// What is left of a batch that there was no room for.
    rest: std::vec::IntoIter<streambreaker::Record>,
}

/// Notes how far the shard is committed.
pub(crate) struct Acker(Arc<AtomicU64>);

impl Prebuilt {
    /// `n` records in batches of [`BATCH`], with a few bytes each.
    pub(crate) fn new(n: u64) -> Self {
        Self::with(n, |_| Bytes::from_static(b"0123456789abcdef"))
    }

    /// `n` records with the payloads that `payload` makes of their positions.
    pub(crate) fn with(n: u64, payload: impl Fn(u64) -> Bytes) -> Self {
        let (stream, shard): (Arc<str>, _) = ("events".into(), ShardId::new("0"));
        let record = |position: u64| {
            streambreaker::Record::new(
                stream.clone(),
                shard.clone(),
                Position::from(position),
                payload(position),
            )
        };
        let batches = (0..n)
            .step_by(BATCH as usize)
            .map(|from| (from..n.min(from + BATCH)).map(record).collect())
            .collect();
        let rest = Vec::new().into_iter();
        Self { shard: Some(Reader { batches, rest }), committed: Arc::default() }
    }

    /// The batches themselves, for work by hand.
    pub(crate) fn into_batches(self) -> Vec<Vec<streambreaker::Record>> {
        self.shard.into_iter().flat_map(|reader| reader.batches).collect()
    }

    /// The last position that was committed.
    pub(crate) fn committed(&self) -> Arc<AtomicU64> {
        self.committed.clone()
    }
}

#[async_trait]
impl Source for Prebuilt {
    type Reader = Reader;
    type Acker = Acker;

    fn caps(&self) -> Caps {
        Caps::new("prebuilt", "events", Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<Reader, Acker>>, SourceError> {
        Ok(self.shard.take().map(|reader| Change::Assigned {
            shard: ShardId::new("0"),
            reader,
            acker: Acker(self.committed.clone()),
        }))
    }
}

#[async_trait]
impl source::Reader for Reader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        if self.rest.len() == 0 {
            match self.batches.pop_front() {
                None => return Ok(Read::End),
                Some(records) if records.len() <= room.records => {
                    return Ok(Read::Records { records, behind: Behind::unknown() });
                }
                Some(records) => self.rest = records.into_iter(),
            }
        }
        let records = self.rest.by_ref().take(room.records).collect();
        Ok(Read::Records { records, behind: Behind::unknown() })
    }
}

#[async_trait]
impl source::Acker for Acker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        if let Settled::Through(position) = settled {
            self.0.store(position.as_u64().expect("an integer"), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A resource with all of its guards but rate and concurrency.
pub(crate) fn dependency() -> Resource {
    Resource::builder("dependency")
        .timeout(Duration::from_secs(5))
        .retry(Retry::exponential().max_attempts(4))
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
        .build()
        .expect("a valid resource")
}

/// What the handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// Ready at once.
    Ready,
    /// Yields to the scheduler once.
    Yields,
}

/// The effect that a handler has.
pub(crate) type Effect = Arc<AtomicU64>;

/// A processor of one pipeline, ready to run.
pub(crate) fn processor_of<F, S>(source: Prebuilt, pipeline: F) -> Processor
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    let builder = Processor::builder("cost").source(source).faults(memory::faults());
    builder.pipeline("all", pipeline).build().expect("a valid processor")
}

/// The processor of the whole chain over `n` records, ready to run, and its source's committed position.
pub(crate) fn processor(n: u64, handler: Handler) -> (Processor, Arc<AtomicU64>) {
    let source = Prebuilt::new(n);
    let committed = source.committed();
    let dependency = dependency();
    let effect = Effect::default();
    let processor = match handler {
        Handler::Ready => processor_of(source, move |flow| {
            let effect = effect.clone();
            flow.filter(wanted).parallel(64, &dependency, async move |r: &Received| {
                effect.store(r.payload().len() as u64, Ordering::Relaxed);
                Ok(())
            })
        }),
        Handler::Yields => processor_of(source, move |flow| {
            let effect = effect.clone();
            flow.filter(wanted).parallel(64, &dependency, async move |r: &Received| {
                tokio::task::yield_now().await;
                effect.store(r.payload().len() as u64, Ordering::Relaxed);
                Ok(())
            })
        }),
    };
    (processor, committed)
}

/// Lets every event through: an event that is filtered costs less, and is not what is measured.
pub(crate) fn wanted(record: &Received) -> bool {
    !record.payload().is_empty()
}

/// Runs it to its end. A function of its own, and never inlined, so that a profiler can be told to count in
/// here alone.
#[inline(never)]
pub(crate) fn measured_run(runtime: &tokio::runtime::Runtime, processor: &Processor) -> Report {
    runtime.block_on(processor.run(Shutdown::never())).expect("a run")
}

/// Runs `n` events and checks that every one of them is done and committed.
pub(crate) fn run(runtime: &tokio::runtime::Runtime, n: u64, handler: Handler) {
    let (processor, committed) = processor(n, handler);
    let report = measured_run(runtime, &processor);
    assert_eq!(report.pipelines["all"].done, n, "{report}");
    assert_eq!(committed.load(Ordering::Relaxed), n - 1, "{report}");
}

/// One thread, so that what is counted does not depend on the scheduling of threads.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}
