//! The whole chain beside the same work by hand.
//!
//! By hand nothing is kept of what the chain promises: no retry, no breaker, no fault that is stored, no
//! commit that waits for what is undecided, no bound of what is in flight but the width. So the difference is
//! what the promises cost, and not a competition.

#[path = "chain/mod.rs"]
mod chain;

use std::sync::Arc;
use std::time::Duration;

use chain::{Handler, Prebuilt};
use criterion::{BatchSize, Criterion, Throughput};
use futures::StreamExt;
use streambreaker::Record;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const EVENTS: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(5);

async fn work(record: &Record, handler: Handler) -> usize {
    if handler == Handler::Yields {
        tokio::task::yield_now().await;
    }
    record.payload().len()
}

/// One after the other: what the work itself costs.
async fn plain_loop(batches: Vec<Vec<Record>>, handler: Handler) -> usize {
    let mut sum = 0;
    for record in batches.iter().flatten().filter(|record| !record.payload().is_empty()) {
        sum += work(record, handler).await;
    }
    sum
}

/// 64 at once in one task, a timer each.
async fn buffered(batches: Vec<Vec<Record>>, handler: Handler) -> usize {
    let records = futures::stream::iter(batches.into_iter().flatten());
    records
        .filter(|record| futures::future::ready(!record.payload().is_empty()))
        .map(|record| async move {
            tokio::time::timeout(TIMEOUT, work(&record, handler)).await.unwrap_or_default()
        })
        .buffer_unordered(64)
        .fold(0, |sum, n| futures::future::ready(sum + n))
        .await
}

/// A task an event, 64 at once.
async fn a_task_an_event(batches: Vec<Vec<Record>>, handler: Handler) -> usize {
    let permits = Arc::new(Semaphore::new(64));
    let mut tasks = JoinSet::new();
    let mut sum = 0;
    for record in batches.into_iter().flatten().filter(|record| !record.payload().is_empty()) {
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        tasks.spawn(async move {
            let result = tokio::time::timeout(TIMEOUT, work(&record, handler)).await;
            drop(permit);
            result.unwrap_or_default()
        });
        while let Some(done) = tasks.try_join_next() {
            sum += done.expect("no panic");
        }
    }
    while let Some(done) = tasks.join_next().await {
        sum += done.expect("no panic");
    }
    sum
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let runtime = chain::runtime();
    for (name, handler) in [("ready", Handler::Ready), ("yields", Handler::Yields)] {
        let mut group = criterion.benchmark_group(format!("chain, {name}"));
        group.throughput(Throughput::Elements(EVENTS));
        group.bench_function("streambreaker", |bencher| {
            bencher.iter_batched(
                || chain::processor(EVENTS, handler).0,
                |processor| chain::measured_run(&runtime, &processor),
                BatchSize::PerIteration,
            );
        });
        let batches = || Prebuilt::new(EVENTS).into_batches();
        let expected = 16 * EVENTS as usize;
        group.bench_function("plain loop", |bencher| {
            let run =
                |batches| assert_eq!(runtime.block_on(plain_loop(batches, handler)), expected);
            bencher.iter_batched(batches, run, BatchSize::PerIteration);
        });
        group.bench_function("buffer_unordered and timeout", |bencher| {
            let run = |batches| assert_eq!(runtime.block_on(buffered(batches, handler)), expected);
            bencher.iter_batched(batches, run, BatchSize::PerIteration);
        });
        group.bench_function("a task an event", |bencher| {
            let run = |batches| {
                assert_eq!(runtime.block_on(a_task_an_event(batches, handler)), expected);
            };
            bencher.iter_batched(batches, run, BatchSize::PerIteration);
        });
        group.finish();
    }
    criterion.final_summary();
}
