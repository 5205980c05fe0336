//! Rule O7 and F5 in bytes: an hour of an outage, in virtual time, in which nothing succeeds; the source has ever more.
//! What is allocated stays within what the configuration says, and does not grow.
//!
//! A test binary of its own, with one test that counts, as the allocator counts for the whole process.

#![allow(clippy::unwrap_used)] // a test may

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use streambreaker::fault::FloodGuard;
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::source::{
    self, Acknowledge, Behind, Caps, Change, CommitError, Read, Room, Settled, SourceError,
};
use streambreaker::{Position, Processor, Record, ShardId, Shutdown, Sink, Source};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is allocated now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

const SHARDS: u64 = 2;
const RECORDS: usize = 500;
const PAYLOAD: usize = 400;
/// Larger than what the records of the limit take: it is the records that bound.
const BYTES: usize = 1 << 20;
/// What a record in flight may take beside its payload: itself, its state, its key, its unit, its attempts, its fault.
const BESIDE: usize = 2_048;
/// What does not depend on the records: tasks, buffers, maps.
const FIXED: usize = 512 << 10;

/// A source that never ends, and keeps nothing.
struct Endless {
    shards: std::ops::Range<u64>,
    read: Arc<AtomicU64>,
    committed: Arc<AtomicU64>,
}

struct Reader(ShardId, u64, Arc<AtomicU64>);

struct Acker(Arc<AtomicU64>);

#[async_trait]
impl Source for Endless {
    type Reader = Reader;
    type Acker = Acker;

    fn caps(&self) -> Caps {
        Caps::new("endless", "events", Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<Reader, Acker>>, SourceError> {
        match self.shards.next() {
            Some(shard) => {
                let shard = ShardId::from(shard.to_string());
                Ok(Some(Change::Assigned {
                    reader: Reader(shard.clone(), 0, self.read.clone()),
                    acker: Acker(self.committed.clone()),
                    shard,
                }))
            }
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl source::Reader for Reader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let n = room.records.min(room.bytes / PAYLOAD).max(1);
        let records: Vec<Record> = (self.1..self.1 + n as u64)
            .map(|at| {
                let mut payload = format!("{at:0>20}").into_bytes();
                payload.resize(PAYLOAD, b' ');
                Record::new("events", self.0.clone(), Position::from(at), Bytes::from(payload))
            })
            .collect();
        self.1 += n as u64;
        self.2.fetch_add(n as u64, Ordering::SeqCst);
        Ok(Read::Records { records, behind: Behind::unknown() })
    }
}

#[async_trait]
impl source::Acker for Acker {
    async fn settle(&mut self, _: Settled<'_>) -> Result<(), CommitError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A sink of which half of the items fail, and of the others nothing is heard; it keeps nothing.
struct Down;

#[async_trait]
impl<T: Sync> Sink<T> for Down {
    fn limits(&self) -> Limits {
        Limits::items(100)
    }

    fn size(&self, _: &T) -> usize {
        100
    }

    async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        (0..items.len()).step_by(2).for_each(|index| outcomes.retry(index, "no shard is there"));
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Plain,
    Grouped,
    Keyed,
    Bulk,
    /// Everything is a fault, and the fault sink is down.
    FaultSink,
}

/// Most fail at once, some hang.
async fn fail(tries: &AtomicU64) -> Result<(), StepError> {
    match tries.fetch_add(1, Ordering::Relaxed) % 20 {
        0 => std::future::pending().await,
        _ => Err("the table is down").transient(),
    }
}

fn processor(case: Case, read: &Arc<AtomicU64>, committed: &Arc<AtomicU64>) -> Processor {
    let source = Endless { shards: 0..SHARDS, read: read.clone(), committed: committed.clone() };
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(2))
        .retry(Retry::exponential().max_attempts(4))
        .seed(1)
        .build()
        .unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let number = |record: &Received| record.position().as_u64().unwrap();
    let builder = Processor::builder("outage")
        .source(source)
        .faults(Down)
        .flood_guard(FloodGuard::off())
        .in_flight(RECORDS, BYTES)
        .seed(1);
    let builder = match case {
        Case::Plain => builder.pipeline("q", move |flow| {
            let tries = tries.clone();
            flow.parallel(16, &db, async move |_: &Received| fail(&tries).await)
        }),
        Case::Keyed => builder.pipeline("q", move |flow| {
            let tries = tries.clone();
            let key = move |record: &Received| number(record) % 40;
            flow.parallel_by_key(16, key, &db, async move |_: &Received| fail(&tries).await)
        }),
        Case::Grouped => builder.pipeline("q", move |flow| {
            let tries = tries.clone();
            let window = Window::items(10).linger(Duration::from_millis(100));
            let key = move |record: &Received| number(record) % 40;
            flow.group_by(key, window)
                .parallel(8, &db, async move |_: &Group<u64, Received>| fail(&tries).await)
        }),
        Case::Bulk => builder.pipeline("q", move |flow| {
            flow.map(move |record: Received| number(&record)).bulk_write(&db, Down)
        }),
        Case::FaultSink => builder.pipeline("q", move |flow| {
            flow.parallel(16, &db, async |_: &Received| Err::<(), _>("poison").fault())
        }),
    };
    builder.build().unwrap()
}

/// What was allocated above the start, minute by minute.
fn outage(case: Case) -> Vec<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let (read, committed) = (Arc::default(), Arc::default());
    let before = live();
    let samples = runtime.block_on(async {
        let processor = processor(case, &read, &committed);
        let run = processor.run(Shutdown::never());
        tokio::pin!(run);
        let mut samples = Vec::with_capacity(60);
        for _ in 0..60 {
            let mut most = 0;
            for _ in 0..60 {
                tokio::select! {
                    biased;
                    report = &mut run => panic!("{case:?}: it ended: {report:?}"),
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
                most = most.max(live().saturating_sub(before));
            }
            samples.push(most);
        }
        samples
    });
    let read = read.load(Ordering::SeqCst);
    assert!(read > 0 && read <= SHARDS * RECORDS as u64, "{case:?}: {read} records were read");
    assert_eq!(committed.load(Ordering::SeqCst), 0, "{case:?}: nothing is settled");
    samples
}

#[test]
fn o7_f5_an_hour_of_an_outage_stays_within_the_configured_bounds() {
    let bound = SHARDS as usize * RECORDS * (PAYLOAD + BESIDE) + FIXED;
    for case in [Case::Plain, Case::Grouped, Case::Keyed, Case::Bulk, Case::FaultSink] {
        let samples = outage(case);
        let most = *samples.iter().max().unwrap();
        let (early, late) =
            (samples[..10].iter().max().unwrap(), samples[50..].iter().max().unwrap());
        eprintln!(
            "{case:?}: at most {most} bytes; {early} in the first ten minutes, {late} in the last"
        );
        assert!(most <= bound, "{case:?}: {most} bytes, of {bound}");
        // what is there after ten minutes is all that there will be, but for the growth of a buffer
        assert!(*late <= early + early / 10, "{case:?}: it grows: {samples:?}");
    }
}
