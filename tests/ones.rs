//! Every limit at its least, one: nothing waits for what cannot come, and the outcome is as ever.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::time::Duration;

use async_trait::async_trait;
use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Collect, Consumer, Stream};
use streambreaker::prelude::*;
use streambreaker::sink::Limits;
use streambreaker::source::{Caps, Change, SourceError};
use streambreaker::{FaultEvent, Processor, ProcessorBuilder, Report, Source};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);
const RECORDS: u64 = 24;

/// A consumer of a broker that hands out one record, and nothing more before it has heard of it.
struct Prefetch(Consumer);

#[async_trait]
impl Source for Prefetch {
    type Reader = memory::Reader;
    type Acker = memory::Acker;

    fn caps(&self) -> Caps {
        self.0.caps().with_most_unsettled(1, "prefetch_count")
    }

    async fn next(&mut self) -> Result<Option<Change<memory::Reader, memory::Acker>>, SourceError> {
        self.0.next().await
    }
}

/// What the pipelines of one case write to, over all its lives.
#[derive(Clone)]
struct World {
    db: Resource,
    seen: Effects,
    /// The first attempt of every third number fails.
    tries: Effects,
    index: Collect<u64>,
}

impl World {
    fn new(retries: Retry) -> Self {
        let db = Resource::builder("db").timeout(Duration::from_secs(1)).retry(retries);
        Self {
            db: db.retry_quota(RetryQuota::unlimited()).concurrency(1).seed(1).build().unwrap(),
            seen: Effects::default(),
            tries: Effects::default(),
            index: Collect::new().with_limits(Limits::items(1)),
        }
    }

    async fn write(&self, n: u64) -> Result<(), StepError> {
        millis(1).await;
        if n % 3 == 0 && self.tries.note(n) == 1 {
            return Err("down").transient();
        }
        self.seen.note(n);
        Ok(())
    }
}

/// Where the numbers below `RECORDS` are found in the end, but for 7, which is poison.
enum Found {
    Seen,
    Indexed,
    /// Of those of a key only the newest goes on: some.
    Newest,
}

type Case = (&'static str, Found, fn(ProcessorBuilder, World) -> ProcessorBuilder);

fn numbers_of(flow: Flow<Input>) -> Flow<impl Stage<Out = u64>> {
    let check = |n: &u64| if *n == 7 { Err("poison") } else { Ok(()) };
    flow.json::<u64>().validate(check).map(|n| *n)
}

fn long(items: usize) -> Window {
    Window::items(items).linger(HOUR)
}

fn cases() -> Vec<Case> {
    vec![
        ("call", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                numbers_of(flow).call(&db, async move |n: &u64| world.write(*n).await)
            })
        }),
        ("parallel", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                numbers_of(flow).parallel(1, &db, async move |n: &u64| world.write(*n).await)
            })
        }),
        ("parallel_by_key", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let write = async move |n: &u64| world.write(*n).await;
                numbers_of(flow).parallel_by_key(1, |n| *n % 4, &db, write)
            })
        }),
        ("group_by", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let write = async move |group: &Group<u64, u64>| {
                    for n in group {
                        world.write(*n).await?;
                    }
                    Ok(())
                };
                numbers_of(flow).group_by(|n| *n % 2, long(10)).parallel(1, &db, write)
            })
        }),
        ("split", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let write = async move |n: &u64| world.write(*n).await;
                numbers_of(flow).split(|n| vec![n; 3]).parallel(1, &db, write)
            })
        }),
        ("split, and its parts in groups", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let write = async move |group: &Group<u64, u64>| world.write(group.key).await;
                let parts = numbers_of(flow).split(|n| vec![n; 5]);
                parts.group_by(|n| *n, long(2)).parallel_by_key(1, |group| group.key, &db, write)
            })
        }),
        ("compact", Found::Newest, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let write = async move |n: &u64| world.write(*n).await;
                numbers_of(flow).compact(|_| (), long(10)).call(&db, write)
            })
        }),
        ("bulk_write", Found::Indexed, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (sink, window) = (world.index.clone(), long(10));
                numbers_of(flow).bulk_write(&world.db, sink).in_flight(1).window(window)
            })
        }),
        ("an ordered bulk_write", Found::Indexed, |builder, world| {
            builder.pipeline("all", move |flow| {
                let sink = world.index.clone().with_limits(Limits::items(10));
                let write = numbers_of(flow).bulk_write(&world.db, sink).in_flight(1);
                write.window(long(10)).ordered_by(|n| *n % 2)
            })
        }),
        ("groups beside calls", Found::Seen, |builder, world| {
            let other = world.clone();
            let builder = builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                numbers_of(flow).call(&db, async move |n: &u64| world.write(*n).await)
            });
            builder.pipeline("groups", move |flow| {
                let groups = numbers_of(flow).group_by(|n| *n % 2, long(10));
                groups.map(|group| group.key).bulk_write(&other.db, other.index.clone())
            })
        }),
        ("one behind the other", Found::Seen, |builder, world| {
            builder.pipeline("all", move |flow| {
                let (world, db) = (world.clone(), world.db.clone());
                let first = numbers_of(flow).parallel(1, &db, async |n: &u64| Ok(*n));
                first.parallel(1, &db, async move |n: &u64| world.write(*n).await)
            })
        }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Prefix,
    Each,
    Prefetch,
}

fn life(stream: &Stream, way: Way, faults: &Collect<FaultEvent>) -> ProcessorBuilder {
    let builder = Processor::builder("p");
    let consumer = stream.consumer("g");
    let builder = match way {
        Way::Prefix => builder.source(consumer),
        Way::Each => builder.source(consumer.each(HOUR * 3)),
        Way::Prefetch => builder.source(Prefetch(consumer.each(HOUR * 3))),
    };
    builder
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .in_flight(1, 1)
        .in_flight_total(1, 1)
        .commit_every(Duration::from_millis(1), 1)
        .seed(1)
}

/// Runs until the source ends, or until it is told to stop after so long.
async fn live(what: &str, processor: Processor, stop_after: Option<Duration>) -> Report {
    let (trigger, shutdown) = Shutdown::by_hand();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    if let Some(after) = stop_after {
        tokio::time::sleep(after).await;
        trigger.pull();
    }
    // below what a window lingers
    match tokio::time::timeout(HOUR / 2, run).await {
        Ok(report) => report.unwrap().unwrap(),
        Err(_) => panic!("{what}: it stands still: {:#?}", handle.status()),
    }
}

fn check(what: &str, found: &Found, world: &World, stream: &Stream, faults: &Collect<FaultEvent>) {
    assert!(stream.is_settled("g") && stream.unacked("g") == 0, "{what}");
    let poison: Vec<_> = faults
        .events()
        .iter()
        .flat_map(|event| &event.records)
        .map(|record| record.record.payload().clone())
        .collect();
    assert!(!poison.is_empty() && poison.iter().all(|payload| *payload == "7"), "{what}");
    let items = world.index.items();
    let missing: Vec<u64> = (0..RECORDS)
        .filter(|n| *n != 7)
        .filter(|n| match found {
            Found::Seen => world.seen.of(*n) == 0,
            Found::Indexed => !items.contains(n),
            Found::Newest => *n == RECORDS - 1 && world.seen.of(*n) == 0,
        })
        .collect();
    assert!(missing.is_empty(), "{what}: {missing:?} are missing");
}

/// Retried within the unit, or returned at once.
fn retries() -> [(&'static str, Retry); 2] {
    let quick = Retry::exponential().max_attempts(4).base(Duration::from_millis(1));
    [("retried", quick), ("returned", Retry::none())]
}

#[tokio::test(start_paused = true)]
async fn o5_o7_with_every_limit_at_one_all_is_settled() {
    for way in [Way::Prefix, Way::Each, Way::Prefetch] {
        for (name, found, pipeline) in cases() {
            for (again, retry) in retries() {
                let what = format!("{name}, {way:?}, {again}");
                let (stream, world, faults) =
                    (numbers(RECORDS, 1), World::new(retry), memory::faults());
                stream.close();
                let processor =
                    pipeline(life(&stream, way, &faults), world.clone()).build().unwrap();
                let report = live(&what, processor, None).await;
                let all = &report.pipelines["all"];
                assert_eq!((all.read, all.faulted), (RECORDS, 1), "{what}: {report}");
                assert_eq!(all.done, RECORDS - 1, "{what}: {report}");
                assert_eq!((report.unsettled(), report.exit_code()), (0, 0), "{what}: {report}");
                check(&what, &found, &world, &stream, &faults);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s5_with_every_limit_at_one_a_drain_at_any_moment_loses_nothing() {
    for way in [Way::Prefix, Way::Each, Way::Prefetch] {
        for (name, found, pipeline) in cases() {
            for (again, retry) in retries() {
                let what = format!("{name}, {way:?}, {again}");
                let (stream, world, faults) =
                    (numbers(RECORDS, 1), World::new(retry), memory::faults());
                for after in 0..12 {
                    let processor =
                        pipeline(life(&stream, way, &faults), world.clone()).build().unwrap();
                    let report = live(&what, processor, Some(Duration::from_millis(after))).await;
                    assert!(report.drained && report.stopped, "{what}: {report}");
                    assert!(report.pipelines.values().all(|p| p.open == 0), "{what}: {report}");
                }
                stream.close();
                let processor =
                    pipeline(life(&stream, way, &faults), world.clone()).build().unwrap();
                let report = live(&what, processor, None).await;
                assert_eq!(report.exit_code(), 0, "{what}: {report}");
                check(&what, &found, &world, &stream, &faults);
            }
        }
    }
}
