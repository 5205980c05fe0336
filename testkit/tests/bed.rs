//! The test bed tells what became of events, and says so when it is not what was expected.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use streambreaker::Class;
use streambreaker::Fate::{self, Done, Faulted, Filtered, Returned};
use streambreaker::Timestamp;
use streambreaker::memory::Collect;
use streambreaker::prelude::*;
use streambreaker_testkit::bed::{
    Effects, Flaky, Message, TestBed, same_however_fed, same_however_late,
};

fn db() -> Resource {
    Resource::builder("db").timeout(Duration::from_secs(1)).seed(1).build().unwrap()
}

/// What a failed assertion says.
fn said(assertion: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(AssertUnwindSafe(assertion)).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

/// Numbers: even ones are done, odd ones filtered, what is no number is faulted.
fn even() -> TestBed {
    TestBed::new()
        .feed(["0", "1", "two", "3", "4"])
        .pipeline("even", |flow| flow.json::<u64>().filter(|n| **n % 2 == 0))
        .pipeline("all", |flow| flow.json::<u64>())
}

const EVEN: [Fate; 5] = [Done, Filtered, Faulted, Filtered, Done];

#[tokio::test(start_paused = true)]
async fn each_event_has_its_fate_in_each_pipeline() {
    let ran = even().run().await;
    ran.assert_fates("even", EVEN);
    ran.assert_fates("all", [Done, Done, Faulted, Done, Done]);
    assert_eq!((ran.faults().len(), ran.fault_of("all", 2).class), (2, Class::Fault));
    assert_eq!(ran.report().pipelines["even"].filtered, 2);
}

#[tokio::test(start_paused = true)]
async fn fates_are_by_event_however_they_were_fed() {
    for seed in 0..5 {
        let ran = even().twice().shuffled(seed).shards(3).run().await;
        ran.assert_fates("even", EVEN);
        let as_fed = ran.fates_as_fed("even");
        assert_eq!(as_fed.len(), 10);
        assert!(as_fed.iter().all(|(event, fate)| EVEN[*event] == *fate), "{as_fed:?}");
        assert_eq!(ran.report().pipelines["even"].read, 10);
    }
    let orders: Vec<Vec<usize>> = {
        let mut all = Vec::new();
        for seed in [1, 1, 2] {
            let ran = even().shuffled(seed).run().await;
            all.push(ran.fates_as_fed("even").into_iter().map(|(event, _)| event).collect());
        }
        all
    };
    assert!(orders[0] == orders[1] && orders[0] != orders[2], "{orders:?}");
}

#[tokio::test(start_paused = true)]
async fn parts_groups_and_what_a_stage_holds_have_fates_too() {
    let db = db();
    let ran = TestBed::new()
        .feed_json([vec![1u64, 2], vec![], vec![3, 0]])
        .pipeline("parts", |flow| {
            flow.json::<Vec<u64>>()
                .split(|list| list.to_vec())
                .try_map(|n| if n > 0 { Ok(n) } else { Err("nought").fault() })
        })
        .pipeline("groups", move |flow| {
            flow.json::<Vec<u64>>()
                .group_by(|list| list.len(), Window::items(2))
                .call(&db, async |_| Ok(()))
        })
        .run()
        .await;
    ran.assert_fates("parts", [Done, Filtered, Faulted]);
    ran.assert_fates("groups", [Done, Done, Done]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_assertion_says_what_differs() {
    let ran = even().run().await;
    let text = said(|| ran.assert_fates("even", [Done, Done, Done, Filtered, Done]));
    assert!(text.contains("event 1 1: expected done, was filtered"), "{text}");
    assert!(text.contains("event 2 two: expected done, was faulted (fault in even/json"), "{text}");
    assert!(!text.contains("event 0") && !text.contains("event 3"), "{text}");
    let text = said(|| ran.assert_fates("odd", EVEN));
    assert!(text.contains(r#"no pipeline "odd", but ["all", "even"]"#), "{text}");
    let text = said(|| drop(ran.fault_of("even", 0).clone()));
    assert!(text.contains("event 0 has no fault") && text.contains("even/json"), "{text}");
    let text = said(|| ran.assert_no_faults());
    assert!(text.contains("records at 2"), "{text}");

    let effects = Effects::new();
    for effect in [("a", 1), ("b", 1), ("a", 3), ("a", 2)] {
        effects.note(effect);
    }
    effects.assert_in_any_order([("a", 1), ("a", 2), ("a", 3), ("b", 1)]);
    let text = said(|| effects.assert_in_any_order([("a", 1), ("a", 1), ("a", 2), ("b", 1)]));
    assert!(text.contains(r#"missing: [("a", 1)]"#) && text.contains(r#"[("a", 3)]"#), "{text}");
    let text = said(|| effects.assert_order_of(|(key, _)| *key, |(_, rank)| *rank));
    assert!(text.contains(r#"key "a": ("a", 2) after ("a", 3)"#), "{text}");
    let text = said(|| effects.assert_in_order([("a", 1), ("b", 1), ("a", 2), ("a", 3)]));
    assert!(text.contains('+') && text.contains('-'), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_says_what_it_waits_for_and_one_with_a_limit_returns_it() {
    let hangs = || {
        let db = Resource::builder("db").timeout(Duration::from_secs(20)).build().unwrap();
        TestBed::new().feed(["1", "2"]).pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| match **n {
                1 => Ok(()),
                _ => std::future::pending().await,
            })
        })
    };
    let run = AssertUnwindSafe(hangs().run()).catch_unwind().await;
    let text = *run.err().unwrap().downcast::<String>().unwrap();
    assert!(
        text.contains("not at the end after 3600s") && text.contains("all over shard 0"),
        "{text}"
    );
    let ran = hangs().run_within(Duration::from_secs(30)).await;
    ran.assert_fates("all", [Done, Returned]);
    ran.assert_no_faults();
    assert!(!ran.is_complete());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_idempotent_or_depends_on_order_is_seen() {
    let sums = async |bed: TestBed| {
        let (sum, db) = (Arc::new(Mutex::new(0)), db());
        let added = sum.clone();
        bed.pipeline("sums", move |flow| {
            let added = added.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                *added.lock().unwrap() += **n;
                Ok(())
            })
        })
        .run()
        .await;
        *sum.lock().unwrap()
    };
    let run = AssertUnwindSafe(same_however_fed(["1", "2"], sums)).catch_unwind().await;
    let text = *run.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("fed by `.twice()`") && text.contains("- 3\n  + 6"), "{text}");

    let last = async |bed: TestBed| {
        let (rows, db) = (Arc::new(Mutex::new(BTreeMap::new())), db());
        let set = rows.clone();
        bed.pipeline("last", move |flow| {
            let set = set.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                set.lock().unwrap().insert("row", **n);
                Ok(())
            })
        })
        .run()
        .await;
        rows.lock().unwrap().clone()
    };
    let run = AssertUnwindSafe(same_however_fed(["1", "2", "3"], last)).catch_unwind().await;
    let text = *run.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("fed by `.shuffled("), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_flaky_sink_loses_nothing_and_every_trouble_is_met() {
    let collect = Collect::sized(|_: &u64| 1);
    let flaky = Flaky::new(collect.clone(), 3)
        .fails(0.1)
        .loses_replies(0.1)
        .hangs(0.1)
        .throttles(0.1, Duration::from_secs(3))
        .writes_parts(0.2)
        .at_most(60);
    let (sink, db) = (flaky.clone(), db());
    let ran = TestBed::new()
        .feed_json(0..300u64)
        .pipeline("all", move |flow| {
            let window = Window::items(3).linger(Duration::from_millis(5));
            flow.json::<u64>().map(|n| *n).bulk_write(&db, sink.clone()).window(window)
        })
        .run()
        .await;
    ran.assert_fates("all", vec![Done; 300]);
    let mut items = collect.items();
    items.sort();
    items.dedup();
    assert_eq!(items, (0..300).collect::<Vec<_>>());
    let met = flaky.troubles();
    let each = [met.failed, met.replies_lost, met.hung, met.throttled, met.partial];
    assert!(each.iter().all(|n| *n > 0) && met.total() <= 60, "{met:?}");
}

#[tokio::test(start_paused = true)]
async fn keys_and_headers_come_along_and_keys_choose_the_shard() {
    let (seen, db) = (Effects::new(), db());
    let noted = seen.clone();
    let events: Vec<Message> = (0..20)
        .map(|n| Message::new(n.to_string()).with_key(format!("k{}", n % 4)).with_header("h", "v"))
        .collect();
    TestBed::new()
        .feed(events)
        .shards(2)
        .pipeline("all", move |flow| {
            let noted = noted.clone();
            flow.json::<u64>().parallel_by_key(
                4,
                |n| n.key().unwrap_or_default().into_owned(),
                &db,
                async move |n: &Event<u64>| {
                    assert_eq!(n.header("h").unwrap(), "v");
                    noted.note((n.key().unwrap_or_default().into_owned(), **n));
                    Ok(())
                },
            )
        })
        .run()
        .await
        .assert_no_faults();
    assert_eq!(seen.len(), 20);
    seen.assert_order_of(|(key, _)| key.clone(), |(_, n)| *n);
}

/// A number is the second in which it happened.
fn second(message: &Message) -> Timestamp {
    let second: i64 = String::from_utf8_lossy(&message.payload).parse().unwrap();
    Timestamp::from_millis(1_000 * second)
}

#[tokio::test(start_paused = true)]
async fn late_events_are_late_by_the_limit_at_most() {
    let order = async |seed| {
        let ran = TestBed::new()
            .feed((0..50u64).map(|n| n.to_string()))
            .twice()
            .late(seed, Duration::from_secs(10), second)
            .pipeline("all", |flow| flow.json::<u64>())
            .run()
            .await;
        ran.fates_as_fed("all").into_iter().map(|(event, _)| event).collect::<Vec<usize>>()
    };
    let (first, other) = (order(1).await, order(2).await);
    assert_eq!(first.len(), 100);
    assert!(first != other && first == order(1).await);
    // whoever comes after an event that happened more than ten seconds later was too late
    let mut newest = 0;
    for event in &first {
        newest = newest.max(*event);
        assert!(event + 10 >= newest, "{event} after {newest} in {first:?}");
    }
    assert!(first.windows(2).filter(|pair| pair[0] > pair[1]).count() > 20, "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn what_stands_no_such_lateness_is_seen() {
    // refuses what is more than so far behind
    let behind = |most: u64| {
        async move |bed: TestBed| {
            let (newest, db) = (Arc::new(Mutex::new(0)), db());
            bed.pipeline("ticks", move |flow| {
                let newest = newest.clone();
                flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                    let mut newest = newest.lock().unwrap();
                    *newest = n.max(*newest);
                    if **n + most < *newest { Err("late").fault() } else { Ok(()) }
                })
            })
            .run()
            .await
            .faults()
            .len()
        }
    };
    let ticks = || (0..100u64).map(|n| n.to_string());
    same_however_late(ticks(), Duration::from_secs(10), second, behind(10)).await;
    let run = same_however_late(ticks(), Duration::from_secs(10), second, behind(3));
    let text =
        *AssertUnwindSafe(run).catch_unwind().await.err().unwrap().downcast::<String>().unwrap();
    assert!(text.contains("fed by `.late(1, …)`"), "{text}");
}
