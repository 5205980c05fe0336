//! Rule S9, clause by clause: the iterator age is how long the oldest record that is not settled has waited, read or not.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::clock::PausedClock;
use streambreaker::memory::{self, Consumer, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::source::{Behind, Caps, Change, Read, Reader, Room, Source, SourceError};
use streambreaker::{By, Handle, Position, Record, ShardId, Timestamp, WaitsFor};
use support::*;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A stream of one shard, and the clock that goes with the time of the test.
fn stream() -> (Stream, Arc<PausedClock>) {
    let clock = Arc::new(PausedClock::starting_at(START));
    (Stream::with_clock("numbers", [ShardId::new("0")], clock.clone()), clock)
}

/// The age of the only shard, in seconds. It is read often enough that it must not be below zero once.
fn age(handle: &Handle) -> f64 {
    let age = handle.status().lanes[0].iterator_age_seconds;
    assert!(age >= 0.0, "{age}");
    age
}

fn run(processor: Processor) -> Handle {
    let handle = processor.handle();
    tokio::spawn(async move { processor.run(Shutdown::never()).await });
    handle
}

/// As `near` seconds as a tick of the clock allows.
#[track_caller]
fn assert_near(age: f64, seconds: f64) {
    assert!((seconds - 0.1..=seconds + 0.1).contains(&age), "{age}, and not {seconds}");
}

#[tokio::test(start_paused = true)]
async fn s9_it_is_the_arrival_of_the_oldest_that_is_open_whatever_was_settled_behind_it() {
    let (stream, clock) = stream();
    let db = Resource::builder("db").timeout(Duration::from_secs(1_000)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(8, &db, async |n: &Event<u64>| {
                secs(if **n == 1 { 60 } else { 0 }).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = run(processor);
    stream.push("0");
    secs(10).await;
    assert_near(age(&handle), 0.0);
    stream.push("1");
    secs(10).await;
    stream.push("2");
    stream.push("3");
    secs(10).await;
    // 1 has waited for 20 s, although 2 and 3 are done
    assert_eq!(handle.status().pipelines["all"].records.done, 3);
    assert_near(age(&handle), 20.0);
    secs(50).await;
    assert_near(age(&handle), 0.0);
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn s9_it_counts_while_paused_and_while_a_lane_waits_to_be_built_anew() {
    let (stream, clock) = stream();
    let up = Arc::new(AtomicBool::new(false));
    let told = up.clone();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().call(&db, async move |_: &Event<u64>| {
                if told.load(Ordering::SeqCst) { Ok(()) } else { Err("down").transient() }
            })
        })
        .build()
        .unwrap();
    let by = By::new("ada", "a test");
    processor.handle().pause("all", &by).unwrap();
    let handle = run(processor);
    stream.push("0");
    secs(40).await;
    assert_near(age(&handle), 40.0);
    handle.resume("all", &by).unwrap();
    secs(300).await;
    assert_eq!(handle.status().lanes[0].waits_for, WaitsFor::Restart);
    assert_near(age(&handle), 340.0);
    up.store(true, Ordering::SeqCst);
    secs(40).await;
    assert_near(age(&handle), 0.0);
}

#[tokio::test(start_paused = true)]
async fn s9_with_nothing_open_and_reads_that_hang_it_is_the_transports_own_age() {
    let (stream, clock) = stream();
    for n in 0..100u64 {
        stream.push(n.to_string());
        millis(1_000).await;
    }
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .in_flight(4, 1 << 20)
        .pipeline("all", |flow| {
            // a record a second, so that there is something left when reads begin to hang
            flow.json::<u64>().rate_limit(Rate::per_second(1).burst(1))
        })
        .build()
        .unwrap();
    let handle = run(processor);
    secs(10).await;
    stream.inject(Inject::Stall);
    secs(20).await;
    let lane = handle.status().lanes[0].clone();
    assert_eq!(lane.in_flight, 0);
    let at = lane.position.unwrap().as_u64().unwrap();
    assert!((5..50).contains(&at), "some are left: {at}");
    // the next one came in second at + 1, and now it is second 130
    assert_near(age(&handle), 130.0 - (at + 1) as f64);
    secs(60).await;
    assert_near(age(&handle), 190.0 - (at + 1) as f64);
}

#[tokio::test(start_paused = true)]
async fn s9_with_nothing_known_of_what_is_left_it_is_the_arrival_of_what_was_settled_last() {
    let (stream, clock) = stream();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = run(processor);
    secs(10).await;
    stream.push("0");
    secs(30).await;
    // its end is known
    assert_near(age(&handle), 0.0);
    stream.inject(Inject::ReadErrors(1_000_000));
    stream.push("1");
    secs(100).await;
    assert_near(age(&handle), 130.0);
}

#[tokio::test(start_paused = true)]
async fn s9_a_shard_that_cannot_be_read_from_its_first_moment_has_an_age() {
    let (stream, clock) = stream();
    stream.inject(Inject::ReadErrors(1_000_000));
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = run(processor);
    secs(100).await;
    assert_near(age(&handle), 100.0);
}

#[tokio::test(start_paused = true)]
async fn s9_it_is_never_negative_be_the_arrival_in_the_future() {
    let (stream, clock) = stream();
    let db = Resource::builder("db").timeout(Duration::from_secs(1_000)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |_: &Event<u64>| {
                secs(60).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = run(processor);
    let tomorrow = START.plus(Duration::from_secs(86_400));
    let record = Record::new("numbers", "0", Position::from(0), "1").with_arrival(tomorrow);
    stream.push_record(record).unwrap();
    secs(30).await;
    assert_eq!((handle.status().lanes[0].in_flight, age(&handle)), (1, 0.0));
}

#[tokio::test(start_paused = true)]
async fn s9_one_by_one_what_was_given_back_counts_before_what_was_read_since() {
    let (stream, clock) = stream();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(600)))
        .faults(memory::faults())
        .clock(clock)
        .max_deliveries(1_000)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| match **n {
                0 => Err("down").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let handle = run(processor);
    stream.push("0");
    let mut given_back = 0;
    for n in 1..=100u64 {
        stream.push(n.to_string());
        secs(3).await;
        // whether it is here just now or at the source, it is the oldest
        given_back += u32::from(handle.status().lanes[0].in_flight == 0);
        assert_near(age(&handle), 3.0 * n as f64);
    }
    assert!(given_back > 50, "{given_back}");
}

#[tokio::test(start_paused = true)]
async fn s9_one_by_one_what_is_given_back_is_not_forgotten_before_the_source_has_heard_of_it() {
    let (stream, clock) = stream();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(60)))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |_: &Event<u64>| Err::<(), _>("down").transient())
        })
        .build()
        .unwrap();
    let handle = run(processor);
    stream.push("0");
    // the broker neither hears nor says anything, for longer than its lease
    stream.inject(Inject::CommitErrors(1_000_000));
    millis(1).await;
    stream.inject(Inject::Stall);
    secs(600).await;
    assert_eq!(handle.status().lanes[0].in_flight, 0);
    assert_near(age(&handle), 600.0);
}

#[tokio::test(start_paused = true)]
async fn s9_one_by_one_a_copy_that_is_settled_stands_for_the_one_that_was_given_back() {
    let (stream, clock) = stream();
    let (db, effects) = (once("db"), Effects::default());
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(600)))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            let effects = effects.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                if effects.note(**n) == 1 { Err("down").transient() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let handle = run(processor);
    stream.inject(Inject::Duplicate(1));
    stream.push("0");
    secs(100).await;
    assert!(stream.is_settled("g"));
    assert_eq!(handle.status().pipelines["all"].records.redelivered, 1);
    assert_eq!(age(&handle), 0.0);
}

/// A consumer whose transport says of what is left that it is as old as can be.
struct Ancient(Consumer);

struct AncientReader(<Consumer as Source>::Reader);

#[async_trait]
impl Source for Ancient {
    type Reader = AncientReader;
    type Acker = <Consumer as Source>::Acker;

    fn caps(&self) -> Caps {
        self.0.caps()
    }

    async fn next(&mut self) -> Result<Option<Change<AncientReader, Self::Acker>>, SourceError> {
        Ok(self.0.next().await?.map(|change| match change {
            Change::Assigned { shard, reader, acker } => {
                Change::Assigned { shard, reader: AncientReader(reader), acker }
            }
            other => unreachable!("{other:?}"),
        }))
    }
}

#[async_trait]
impl Reader for AncientReader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        Ok(match self.0.read(room).await? {
            Read::Records { records, .. } => {
                let behind = Behind { records: Some(u64::MAX), age: Some(Duration::MAX) };
                Read::Records { records, behind }
            }
            other => other,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn s9_an_age_that_cannot_grow_any_more_is_no_panic() {
    let (stream, _) = stream();
    stream.push("1");
    let processor = Processor::builder("p")
        .source(Ancient(stream.consumer("g")))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(10).await;
    assert_eq!(age(&handle), Duration::MAX.as_secs_f64());
    assert!(!run.is_finished() && stream.is_settled("g"));
    run.abort();
}
