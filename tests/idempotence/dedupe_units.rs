//! What `dedupe` and `record_done` make of units of every kind.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use streambreaker::idempotence::MemoryLedger;
use streambreaker::memory::{self, Collect, Stream};
use streambreaker::prelude::*;
use streambreaker::{Lineage, Position, Record};

use crate::dedupe::run;
use crate::ledgers::{Frail, Slow};
use crate::{DAY, Step, resource, step};

#[tokio::test(start_paused = true)]
async fn an_event_without_an_id_is_known_by_its_place() {
    let ledger = MemoryLedger::new(DAY, 1_000);
    let effects = Arc::new(AtomicU32::new(0));
    let (db, seen, done) = (resource("db"), effects.clone(), ledger.clone());
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.dedupe(2, &db, done.clone())
                .call(&db, async move |_| {
                    seen.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
                .record_done(2, &db, done.clone())
        })
        .build()
        .unwrap();
    let record = |n: u64| Record::new("s", "0", Position::from(n), "no JSON").with_key("k");
    for records in [vec![record(1), record(2)], vec![record(2), record(3)], vec![record(1)]] {
        processor.process(records).await;
    }
    assert_eq!((effects.load(Ordering::Relaxed), ledger.len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn f2_the_events_of_a_group_are_recorded_together_and_a_faulted_group_not_at_all() {
    let ledger = Frail::new();
    let stream = Stream::new("steps", 1);
    for n in 0..12 {
        // order 1 has a bad one among its good ones, and each event comes twice within its group
        let what = if n == 7 { "bad" } else { "paid" };
        stream.push(step(n % 3, what, i64::from(n)).json());
        stream.push(step(n % 3, what, i64::from(n)).json());
    }
    stream.close();
    let (db, done) = (resource("db"), ledger.clone());
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("groups", move |flow| {
            flow.dedupe(4, &db, done.clone())
                .json::<Step>()
                .group_by(|step| step.order, Window::items(100))
                .parallel(4, &db, async |group: &Group<u32, Event<Step>>| {
                    let bad = group.items.iter().any(|step| step.what == "bad");
                    if bad { Err("bad").fault() } else { Ok(()) }
                })
                .record_done(4, &db, done.clone())
        })
        .build()
        .unwrap();
    let all = run(processor).await;
    assert_eq!((all.done, all.faulted, ledger.ledger.len()), (16, 8, 8));
    assert!(ledger.was_asked_well());
}

#[tokio::test(start_paused = true)]
async fn f3_of_a_bulk_write_only_the_items_that_were_taken_are_recorded() {
    let (ledger, sink) = (MemoryLedger::new(DAY, 1_000), Collect::<Event<Step>>::new());
    sink.decide(
        |_, step: &Event<Step>| {
            if step.order % 4 == 3 { memory::Verdict::Reject } else { memory::Verdict::Done }
        },
    );
    let (db, done, target) = (resource("db"), ledger.clone(), sink.clone());
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("bulk", move |flow| {
            flow.dedupe(4, &db, done.clone())
                .json::<Step>()
                .bulk_write(&db, target.clone())
                .record_done(4, &db, done.clone())
        })
        .build()
        .unwrap();
    let records = || {
        let json = |n: u64| step(n as u32, "paid", 1).json();
        (0..12).map(move |n| Record::new("s", "0", Position::from(n), json(n)))
    };
    let first = processor.process(records()).await;
    assert_eq!((first.settled.len(), first.faulted.len(), ledger.len()), (9, 3, 9));
    sink.decide(|_, _| memory::Verdict::Done);
    assert_eq!(processor.process(records()).await.settled.len(), 12);
    assert_eq!((sink.len(), ledger.len()), (12, 12));
}

#[tokio::test(start_paused = true)]
async fn behind_a_split_parts_are_done_one_by_one() {
    let ledger = MemoryLedger::new(DAY, 1_000);
    let parts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let broken = Arc::new(AtomicBool::new(true));
    let (db, seen, bad, done) = (resource("db"), parts.clone(), broken.clone(), ledger.clone());
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("parts", move |flow| {
            let (seen, bad) = (seen.clone(), bad.clone());
            flow.json::<Vec<u32>>()
                .split(|all| all.into_inner())
                .dedupe(4, &db, done.clone())
                .call(&db, async move |part: &u32| {
                    if *part == 2 && bad.load(Ordering::Relaxed) {
                        return Err("not yet").fault();
                    }
                    seen.lock().unwrap().push(*part);
                    Ok(())
                })
                .record_done(4, &db, done.clone())
        })
        .build()
        .unwrap();
    let record = || Record::new("s", "0", Position::from(1), "[1,2,3]");
    assert_eq!(processor.process([record()]).await.faulted.len(), 1);
    broken.store(false, Ordering::Relaxed);
    assert_eq!(processor.process([record()]).await.settled.len(), 1);
    let mut seen = parts.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!((seen, ledger.len()), (vec![1, 2, 3], 3));
}

#[tokio::test(start_paused = true)]
async fn a_unit_of_no_records_goes_through_and_is_nobodys_copy() {
    let (ledger, seen) = (Frail::new(), Arc::new(AtomicU32::new(0)));
    let (db, done, count) = (resource("db"), ledger.clone(), seen.clone());
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let count = count.clone();
            flow.map(|_| ())
                .through(|units| {
                    let made = futures::stream::iter([Lineage::join([]).with(())]);
                    futures::StreamExt::chain(units, made)
                })
                .dedupe(2, &db, done.clone())
                .inspect(move |()| {
                    count.fetch_add(1, Ordering::Relaxed);
                })
                .record_done(2, &db, done.clone())
        })
        .build()
        .unwrap();
    let outcome = processor.process([Record::new("s", "0", Position::from(1), "x")]).await;
    assert_eq!((outcome.settled.len(), outcome.faulted.len()), (1, 0));
    // the record's unit, and the one that was made
    assert_eq!((seen.load(Ordering::Relaxed), ledger.ledger.len()), (2, 1));
    assert!(ledger.was_asked_well());
}

#[tokio::test(start_paused = true)]
async fn o1_dedupe_keeps_the_order_of_the_records_keys() {
    let stream = Stream::new("steps", 1);
    for n in 0..200 {
        stream.push_keyed((n % 3).to_string(), step(n % 3, "paid", i64::from(n)).json());
    }
    stream.close();
    let seen: Arc<Mutex<Vec<(u32, i64)>>> = Arc::default();
    let (db, order) = (resource("db"), seen.clone());
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let order = order.clone();
            flow.dedupe(10, &db, Slow::default())
                .json::<Step>()
                .call(&db, async move |step: &Event<Step>| {
                    order.lock().unwrap().push((step.order, step.timestamp));
                    Ok(())
                })
                .record_done(10, &db, Slow::default())
        })
        .build()
        .unwrap();
    assert_eq!(run(processor).await.done, 200);
    let seen = seen.lock().unwrap();
    assert!(!seen.is_sorted_by_key(|(_, at)| *at), "one at a time: nothing was shown");
    for key in 0..3 {
        assert!(seen.iter().filter(|(order, _)| *order == key).is_sorted_by_key(|(_, at)| *at));
    }
}

#[test]
fn build_refuses_a_dedupe_that_would_do_nothing_or_lose() {
    type Make = fn(Flow<Input>, &Resource, MemoryLedger) -> streambreaker::flow::BoxedFlow<()>;
    let cases: [(Make, &str); 5] = [
        (
            |flow, db, ledger| flow.dedupe(1, db, ledger).map(drop).boxed(),
            "dedupe is without a `record_done`",
        ),
        (
            |flow, db, ledger| flow.record_done(1, db, ledger).boxed(),
            "record_done is without a `dedupe` above it",
        ),
        (
            |flow, db, ledger| {
                flow.record_done(1, db, ledger.clone()).dedupe(1, db, ledger).boxed()
            },
            "record_done is without a `dedupe` above it",
        ),
        (
            |flow, db, ledger| {
                flow.dedupe(1, db, ledger.clone()).record_done(1, db, ledger).map(|()| ()).boxed()
            },
            "record_done is followed by other stages",
        ),
        (
            |flow, db, ledger| {
                flow.dedupe(1, db, ledger.clone())
                    .split(|record| [record.clone(), record])
                    .record_done(1, db, ledger)
                    .boxed()
            },
            "dedupe is above a `split`, and its `record_done` below",
        ),
    ];
    for (make, message) in cases {
        let (db, ledger) = (resource("db"), MemoryLedger::new(DAY, 10));
        let refused = Processor::builder("p")
            .faults(memory::faults())
            .pipeline("all", move |flow| make(flow, &db, ledger.clone()))
            .build();
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(&format!("pipeline `all`: {message}")), "{text}");
    }
}
