//! Rules T6 and S6: a processor is killed after every turn of its runtime in which it could be, and what it has left is
//! as the rules say.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::memory::{self, Collect, Stream};
use streambreaker::prelude::*;
use streambreaker::{FaultEvent, Position, Record};
use support::*;
use uuid::Uuid;

const RECORDS: u64 = 12;

/// What the dependency has seen.
type Seen = Arc<Mutex<BTreeMap<u64, u32>>>;

fn poison(n: u64) -> bool {
    n % 5 == 3
}

/// One life: decodes, groups by two, and writes; it waits wherever it can, and every fifth number is poison.
fn life(
    stream: &Stream,
    each: bool,
    faults: &Collect<FaultEvent>,
    seen: &Seen,
    db: &Resource,
) -> Processor {
    let consumer = stream.consumer("g");
    let consumer = if each { consumer.each(Duration::from_secs(10)) } else { consumer };
    let (seen, db) = (seen.clone(), db.clone());
    Processor::builder("p")
        .source(consumer)
        .faults(faults.clone())
        .commit_every(Duration::from_millis(3), 2)
        .in_flight(6, 1 << 20)
        .seed(1)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>()
                .validate(|n: &u64| if poison(*n) { Err("poison") } else { Ok(()) })
                .group_by(|n| **n / 2, Window::items(2).linger(Duration::from_millis(2)))
                .parallel(2, &db, async move |group: &Group<u64, Event<u64>>| {
                    tokio::task::yield_now().await;
                    millis(1).await;
                    for n in group {
                        *seen.lock().unwrap().entry(**n).or_default() += 1;
                    }
                    tokio::task::yield_now().await;
                    Ok(())
                })
        })
        .build()
        .unwrap()
}

/// What is below the checkpoint has its effect, or its fault (I1), whatever was going on.
fn check(stream: &Stream, faults: &Collect<FaultEvent>, seen: &Seen, turn: usize) {
    let stored: BTreeSet<Position> = faults
        .items()
        .iter()
        .flat_map(|event| event.records.iter())
        .map(|held| held.record.position().clone())
        .collect();
    let Some(committed) = stream.committed("g", 0) else { return };
    for record in stream.records(0).iter().filter(|record| *record.position() <= committed) {
        let n = number(record);
        let accounted = match poison(n) {
            true => stored.contains(record.position()),
            false => seen.lock().unwrap().contains_key(&n),
        };
        assert!(accounted, "killed in turn {turn}: {n} is committed and neither done nor stored");
    }
}

fn number(record: &Record) -> u64 {
    std::str::from_utf8(record.payload()).unwrap().parse().unwrap()
}

#[test]
fn t6_s6_killed_in_any_turn_every_unit_is_settled_or_not_and_the_next_life_does_the_rest() {
    killed_in_any_turn(false);
}

#[test]
fn t6_s6_one_by_one_killed_in_any_turn_the_next_life_does_the_rest() {
    killed_in_any_turn(true);
}

fn killed_in_any_turn(each: bool) {
    let (mut turn, mut survived, mut amidst) = (0, false, 0);
    while !survived {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let stream = numbers(RECORDS, 1);
        stream.close();
        let (faults, seen) = (memory::faults(), Seen::default());
        let db = Resource::builder("db")
            .timeout(Duration::from_millis(50))
            .concurrency(1)
            .seed(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let processor = life(&stream, each, &faults, &seen, &db);
            let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
            for step in 1..=turn {
                if run.is_finished() {
                    break;
                }
                // every task gets its turn; and now and then, when all wait, time goes on
                tokio::task::yield_now().await;
                if step % 16 == 0 {
                    millis(1).await;
                }
            }
            survived = run.is_finished();
            run.abort();
            let _ = run.await;
        });
        // whatever it had begun is gone with its runtime
        drop(runtime);
        check(&stream, &faults, &seen, turn);
        let committed = stream.committed("g", 0).and_then(|at| at.as_u64());
        amidst += usize::from(committed.is_some_and(|at| at + 1 < RECORDS));
        assert_eq!(db.status().permits.unwrap().in_use, 0, "killed in turn {turn}");

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let report = runtime.block_on(async {
            life(&stream, each, &faults, &seen, &db).run(Shutdown::never()).await.unwrap()
        });
        assert!(stream.is_settled("g"), "killed in turn {turn}: {report}");
        assert_eq!(report.unsettled(), 0, "killed in turn {turn}: {report}");
        let seen = seen.lock().unwrap();
        for n in (0..RECORDS).filter(|n| !poison(*n)) {
            let effects = seen.get(&n).copied().unwrap_or(0);
            assert!((1..=2).contains(&effects), "killed in turn {turn}: {effects} effects of {n}");
        }
        let ids: BTreeSet<Uuid> = faults.items().iter().map(|event| event.id).collect();
        assert_eq!(ids.len() as u64, (0..RECORDS).filter(|n| poison(*n)).count() as u64);
        turn += 1;
        assert!(turn < 5_000, "it does not end");
    }
    assert!(turn > 20 && amidst > 5, "{turn} turns, {amidst} kills with half the work done");
}
