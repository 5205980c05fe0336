//! What each combinator costs, in a processor of its own over 5,000 prebuilt records.
//!
//! The making of processor and records is left out. `none` is what all of them have in common: reading,
//! settlement and commit; what a combinator costs is the difference from it.

#[path = "chain/mod.rs"]
mod chain;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chain::Prebuilt;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use streambreaker::flow::NewEvent;
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{Sink, StepError};

const EVENTS: u64 = 5_000;

type Number = Event<u64>;

/// Takes everything at once.
struct Takes;

#[async_trait]
impl<T: Sync> Sink<T> for Takes {
    fn limits(&self) -> Limits {
        Limits::items(100)
    }

    fn size(&self, _: &T) -> usize {
        16
    }

    async fn write(&self, _: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        outcomes.all_done();
        Ok(())
    }
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    runtime: tokio::runtime::Runtime,
}

impl Bench<'_> {
    /// Over records that hold their number.
    fn measure<F, S>(&mut self, name: &str, pipeline: F)
    where
        F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + Clone + 'static,
        S: Stage + Send + 'static,
    {
        self.measure_over(name, |n| n.to_string(), pipeline);
    }

    fn measure_over<F, S>(&mut self, name: &str, payload: fn(u64) -> String, pipeline: F)
    where
        F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + Clone + 'static,
        S: Stage + Send + 'static,
    {
        let Self { group, runtime } = self;
        let processor = || {
            let source = Prebuilt::with(EVENTS, |n| Bytes::from(payload(n)));
            chain::processor_of(source, pipeline.clone())
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                processor,
                |processor| {
                    let report = chain::measured_run(runtime, &processor);
                    let all = &report.pipelines["all"];
                    assert_eq!(all.done + all.filtered, EVENTS, "{report}");
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    measure_all(&mut criterion);
    criterion.final_summary();
}

fn measure_all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("combinators");
    group.throughput(Throughput::Elements(EVENTS));
    all(Bench { group, runtime: chain::runtime() });
    criterion.final_summary();
}

fn all(mut bench: Bench<'_>) {
    let db = chain::dependency();
    let window = || Window::items(100);

    bench.measure("none", |flow| flow);
    bench.measure("filter", |flow| flow.filter(chain::wanted));
    bench.measure("filter_map", |flow| flow.filter_map(|r| Some(r.payload().len())));
    bench.measure("map", |flow| flow.map(|r| r.payload().len()));
    bench.measure("try_map", |flow| flow.try_map(|r| Ok(r.payload().len())));
    bench.measure("not_in_replay", |flow| flow.not_in_replay());
    bench.measure("inspect", |flow| flow.inspect(|r| drop(r.payload().clone())));
    let typed = |n| format!(r#"{{"type":"{}","n":{n}}}"#, if n % 2 == 0 { "a" } else { "c" });
    bench.measure_over("of_type", typed, |flow| flow.of_type(["a", "b"]));
    bench.measure("json", |flow| flow.json::<u64>());
    bench.measure("validate", |flow| {
        flow.json::<u64>().validate(|n| if *n < EVENTS { Ok(()) } else { Err("too large") })
    });
    bench.measure("group_by", move |flow| flow.json::<u64>().group_by(|n| **n % 10, window()));
    bench.measure("compact", move |flow| flow.json::<u64>().compact(|n| **n % 10, window()));
    bench.measure("split", |flow| flow.json::<u64>().split(|n| [*n, *n]));
    bench.measure("rate_limit", |flow| flow.rate_limit(Rate::per_second(1_000_000_000)));
    bench.measure("through", |flow| flow.through(|units| units));
    bench.measure("boxed", |flow| flow.boxed());
    bench.measure("call", {
        let db = db.clone();
        move |flow| flow.call(&db, async |_: &Received| Ok(()))
    });
    bench.measure("parallel", {
        let db = db.clone();
        move |flow| flow.parallel(64, &db, async |_: &Received| Ok(()))
    });
    bench.measure("with", {
        let db = db.clone();
        move |flow| flow.with(64, &db, async |_: &Received| Ok(()))
    });
    bench.measure("parallel_by_key", {
        let db = db.clone();
        move |flow| {
            let flow = flow.json::<u64>();
            flow.parallel_by_key(64, |n| **n % 100, &db, async |_: &Number| Ok(()))
        }
    });
    bench.measure("bulk_write", {
        let db = db.clone();
        move |flow| flow.bulk_write(&db, Takes)
    });
    bench.measure("publish", move |flow| {
        let events = flow.json::<u64>().try_map(|n| NewEvent::json("seen", &*n));
        events.publish(&db, Takes)
    });
    bench.group.finish();
}
