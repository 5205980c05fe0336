//! What idempotent, order-agnostic handlers end in, whatever the stream does to their events (L10).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use streambreaker::flow::{NewEvent, Publication};
use streambreaker::idempotence::{
    Collected, EventStore, Ledger, MemoryEvents, MemoryLedger, MemoryVersions, Version,
    VersionedStore,
};
use streambreaker::memory::{self, Collect, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::{Delivery, Lineage, PipelineReport, Position, Record};
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Serialize, Deserialize)]
struct Step {
    id: String,
    timestamp: i64,
    order: u32,
    what: String,
}

impl Step {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

fn step(order: u32, what: &str, timestamp: i64) -> Step {
    Step { id: format!("{order}-{what}-{timestamp}"), timestamp, order, what: what.to_owned() }
}

fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().unwrap()
}

/// Puts `items` into an order that `seed` decides (Fisher and Yates).
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        items.swap(i, (seed >> 33) as usize % (i + 1));
    }
}

/// The steps twice each, in an order that `seed` decides, in a stream that delivers some again.
fn hostile(steps: &[Step], seed: u64, shards: usize) -> Stream {
    let mut all: Vec<&Step> = steps.iter().chain(steps).collect();
    shuffle(&mut all, seed);
    let stream = Stream::new("steps", shards);
    for step in all {
        // without a key: the events of an order are spread over the shards
        stream.push(step.json());
    }
    stream.close();
    stream.inject(Inject::Redeliver(7));
    stream.inject(Inject::Duplicate(2));
    stream.inject(Inject::CommitRepliesLost(1));
    stream
}

#[tokio::test(start_paused = true)]
async fn l10_a_view_ends_in_the_highest_versions_in_any_order() {
    let whats = ["ordered", "paid", "shipped", "returned"];
    let mut steps = Vec::new();
    for order in 0..20u32 {
        for (n, what) in whats.iter().enumerate().take(1 + order as usize % 4) {
            // some orders have all their steps in one moment: the ids decide
            steps.push(step(order, what, if order % 5 == 0 { 9 } else { n as i64 }));
        }
    }
    let mut expected: BTreeMap<u32, (i64, String, String)> = BTreeMap::new();
    for step in &steps {
        let new = (step.timestamp, step.id.clone(), step.what.clone());
        let newest = expected.entry(step.order).or_insert_with(|| new.clone());
        *newest = newest.clone().max(new);
    }
    for seed in 0..20 {
        let stream = hostile(&steps, seed, 3);
        let view = MemoryVersions::<u32, String>::new();
        let (db, store) = (resource("db"), view.clone());
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("view", move |flow| {
                let store = store.clone();
                flow.json::<Step>().parallel(4, &db, async move |step: &Event<Step>| {
                    tokio::time::sleep(Duration::from_millis(step.order as u64 % 3)).await;
                    let version = Version::of(step.received());
                    store.put_if_newer(&step.order, &version, &step.what).await?;
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        let all = &report.pipelines["view"];
        assert_eq!((all.faulted, all.returned, all.open), (0, 0, 0), "seed {seed}: {report}");
        assert!(all.done >= 2 * steps.len() as u64, "stale input is not an error: {report}");
        let got: BTreeMap<u32, String> =
            view.all().into_iter().map(|(order, stored)| (order, stored.value)).collect();
        let want: BTreeMap<u32, String> =
            expected.iter().map(|(order, (_, _, what))| (*order, what.clone())).collect();
        assert_eq!(got, want, "seed {seed}");
    }
}

/// An order is complete when it was paid and then shipped: the order of happening matters, that of coming not.
fn completed(steps: &[Collected<Step>]) -> bool {
    let mut whats = steps.iter().map(|step| &*step.event.what);
    whats.any(|what| what == "paid") && whats.any(|what| what == "shipped")
}

#[tokio::test(start_paused = true)]
async fn l10_collect_correlate_evaluate_publishes_the_same_in_any_order() {
    let mut steps = Vec::new();
    for order in 0..30u32 {
        match order % 3 {
            0 => steps.extend([step(order, "paid", 1), step(order, "shipped", 2)]),
            1 => steps.extend([step(order, "shipped", 1), step(order, "paid", 2)]),
            _ => steps.push(step(order, "paid", 1)),
        }
    }
    let mut first = None;
    for seed in 0..20 {
        let stream = hostile(&steps, seed, 3);
        let published = Collect::<Publication>::new();
        let events = MemoryEvents::new(DAY);
        let (db, out, sink) = (resource("db"), resource("out"), published.clone());
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("rules", move |flow| {
                let events = events.clone();
                flow.json::<Step>()
                    .parallel(4, &db, async move |step: &Event<Step>| {
                        let order = step.order.to_string();
                        let steps = events.collect(&Collected::of(step, &order)).await?;
                        if !completed(&steps) {
                            return Ok(None);
                        }
                        let new = NewEvent::json("order-completed", &order)?;
                        Ok(Some(new.with_key(&order).with_identity(order)))
                    })
                    .filter_map(|new| new)
                    .publish(&out, sink.clone())
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        assert_eq!(report.pipelines["rules"].faulted, 0, "seed {seed}: {report}");
        // a consumer that leaves out the ids it has seen sees each completion once
        let seen: BTreeMap<Uuid, Option<String>> =
            published.items().into_iter().map(|new| (new.id, new.key)).collect();
        let mut orders: Vec<u32> =
            seen.values().flatten().map(|order| order.parse().unwrap()).collect();
        orders.sort_unstable();
        assert_eq!(orders, (0..30).step_by(3).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen, "seed {seed}: other ids");
    }
}

/// Counts the effects of each event, as something would that cannot be made idempotent.
#[derive(Clone, Default)]
struct Mails(Arc<Mutex<BTreeMap<String, u32>>>);

impl Mails {
    fn send(&self, to: &str) {
        *self.0.lock().unwrap().entry(to.to_owned()).or_default() += 1;
    }

    fn sent(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().iter().map(|(to, n)| (to.clone(), *n)).collect()
    }
}

fn mailer<L: Ledger + Clone + 'static>(
    flow: Flow<Input>,
    [db, smtp]: &[Resource; 2],
    ledger: L,
    mails: Mails,
) -> Flow<impl Stage<Out = ()> + use<L>> {
    flow.dedupe(8, db, ledger.clone())
        .json::<Step>()
        .call(smtp, async move |step: &Event<Step>| {
            if step.what == "bad" {
                return Err("bad").fault();
            }
            mails.send(&step.id);
            Ok(())
        })
        .record_done(8, db, ledger)
}

fn mail_processor(
    stream: &Stream,
    ledger: impl Ledger + Clone + 'static,
    mails: &Mails,
) -> Processor {
    let (mails, resources) = (mails.clone(), [resource("ledger"), resource("smtp")]);
    Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("mails", move |flow| mailer(flow, &resources, ledger.clone(), mails.clone()))
        .build()
        .unwrap()
}

async fn run(processor: Processor) -> PipelineReport {
    let report = processor.run(Shutdown::never()).await.unwrap();
    report.pipelines.values().next().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn what_is_recorded_as_done_is_not_done_again_in_another_life() {
    let steps: Vec<Step> = (0..50).map(|n| step(n, "paid", 1)).collect();
    let (ledger, mails) = (MemoryLedger::new(DAY, 1_000), Mails::default());
    let mut filtered = 0;
    for seed in 0..3 {
        // three lives over the same events: nothing in the stream remembers that they are copies
        let mut all = steps.clone();
        shuffle(&mut all, seed);
        let stream = Stream::new("steps", 2);
        all.iter().for_each(|step| drop(stream.push(step.json())));
        stream.close();
        filtered += run(mail_processor(&stream, ledger.clone(), &mails)).await.filtered;
        assert!(stream.is_settled("g"));
    }
    assert_eq!((filtered, ledger.len()), (100, 50));
    assert!(mails.sent().iter().all(|(_, n)| *n == 1) && mails.sent().len() == 50);
}

/// A ledger whose records can be made to fail, or to hang.
#[derive(Clone)]
struct Frail {
    ledger: MemoryLedger,
    hangs: Arc<AtomicBool>,
    /// So many records fail although they were made.
    replies_lost: Arc<AtomicU32>,
    /// It was asked for none, or for one twice. A panic would be caught as any handler's.
    asked_badly: Arc<AtomicBool>,
}

impl Frail {
    fn new() -> Self {
        let ledger = MemoryLedger::new(DAY, 1_000);
        Self {
            ledger,
            hangs: Arc::default(),
            replies_lost: Arc::default(),
            asked_badly: Arc::default(),
        }
    }

    fn check(&self, ids: &[Uuid]) {
        if ids.is_empty() || !ids.is_sorted_by(|a, b| a < b) {
            self.asked_badly.store(true, Ordering::Relaxed);
        }
    }

    fn was_asked_well(&self) -> bool {
        !self.asked_badly.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Ledger for Frail {
    async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
        self.check(ids);
        self.ledger.are_done(ids).await
    }

    async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError> {
        self.check(ids);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.ledger.record_done(ids).await?;
        let lost = self.replies_lost.load(Ordering::Relaxed);
        if lost > 0 {
            self.replies_lost.store(lost - 1, Ordering::Relaxed);
            return Err("no answer").transient();
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_crash_between_the_last_step_and_the_record_repeats_and_loses_nothing() {
    let (ledger, mails) = (Frail::new(), Mails::default());
    let stream = Stream::new("steps", 1);
    (0..20).for_each(|n| drop(stream.push(step(n, "paid", 1).json())));
    stream.close();

    ledger.hangs.store(true, Ordering::Relaxed);
    let processor = mail_processor(&stream, ledger.clone(), &mails);
    let life = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    life.abort();
    assert!(life.await.unwrap_err().is_cancelled());
    let before = mails.sent();
    assert!(!before.is_empty(), "the crash came before the last step");
    assert!(ledger.ledger.is_empty(), "recorded before the end");

    ledger.hangs.store(false, Ordering::Relaxed);
    let all = run(mail_processor(&stream, ledger.clone(), &mails)).await;
    assert_eq!((all.done, all.filtered, all.faulted), (20, 0, 0));
    assert_eq!((mails.sent().len(), ledger.ledger.len()), (20, 20));
    assert!(stream.is_settled("g"));
    assert!(mails.sent().iter().any(|(_, n)| *n == 2), "nothing was interrupted");
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_reply_was_lost_ends_as_filtered_and_loses_nothing() {
    let (ledger, mails) = (Frail::new(), Mails::default());
    let stream = Stream::new("steps", 1);
    (0..20).for_each(|n| drop(stream.push(step(n, "paid", 1).json())));
    stream.close();
    // more than one unit's attempts: some come back to the head of the pipeline
    ledger.replies_lost.store(200, Ordering::Relaxed);
    let all = run(mail_processor(&stream, ledger.clone(), &mails)).await;
    assert_eq!((all.done + all.filtered, all.faulted, all.open), (20, 0, 0));
    assert!(all.filtered > 0 && all.restarts > 0, "{all:?}");
    assert!(mails.sent().len() == 20 && mails.sent().iter().all(|(_, n)| *n == 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_faulted_is_not_recorded_and_a_resubmission_is_done_once() {
    let (ledger, mails) = (MemoryLedger::new(DAY, 1_000), Mails::default());
    let stream = Stream::new("steps", 1);
    stream.push(step(1, "bad", 1).json());
    stream.push(step(2, "paid", 1).json());
    stream.push("no JSON");
    stream.close();
    let processor = mail_processor(&stream, ledger.clone(), &mails);
    let all = run(processor.clone()).await;
    assert_eq!((all.done, all.faulted, ledger.len()), (1, 2, 1));

    // the event has been mended, and comes back under its id, twice
    let mended = Step { what: "paid".to_owned(), ..step(1, "bad", 1) };
    let record = |n: u64, delivery| {
        Record::new("steps", "0", Position::from(n), mended.json()).with_delivery(delivery)
    };
    let resubmit = |attempt| Delivery::Resubmit {
        fault: Uuid::from_u128(7),
        attempt,
        part: streambreaker::PartPath::whole(),
    };
    for attempt in [1, 2] {
        let outcome = processor.process([record(0, resubmit(attempt))]).await;
        assert_eq!(outcome.settled.len(), 1);
    }
    assert_eq!(mails.sent(), [("1-bad-1".to_owned(), 1), ("2-paid-1".to_owned(), 1)]);

    // a replay is asked for on purpose: each run does it once
    for (n, run) in [(0, 1), (1, 1), (0, 2)] {
        let run = Uuid::from_u128(run);
        let outcome = processor.process([record(n, Delivery::Replay { run })]).await;
        assert_eq!(outcome.settled.len(), 1);
    }
    assert_eq!(mails.sent()[0].1, 3);
}

#[tokio::test(start_paused = true)]
async fn one_ledger_serves_pipelines_that_know_nothing_of_each_other() {
    let (ledger, one, other) = (MemoryLedger::new(DAY, 1_000), Mails::default(), Mails::default());
    let stream = Stream::new("steps", 1);
    (0..10).for_each(|n| drop(stream.push(step(n, "paid", 1).json())));
    stream.close();
    let (ledger_a, ledger_b, mails_a, mails_b) =
        (ledger.clone(), ledger.clone(), one.clone(), other.clone());
    let resources = [resource("ledger"), resource("smtp")];
    let same = resources.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("a", move |flow| mailer(flow, &resources, ledger_a.clone(), mails_a.clone()))
        .pipeline("b", move |flow| mailer(flow, &same, ledger_b.clone(), mails_b.clone()))
        .build()
        .unwrap();
    processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((one.sent().len(), other.sent().len(), ledger.len()), (10, 10, 20));
}

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

/// Answers the later the earlier it is asked.
#[derive(Clone, Default)]
struct Slow(Arc<AtomicU32>);

#[async_trait]
impl Ledger for Slow {
    async fn are_done(&self, _: &[Uuid]) -> Result<bool, StepError> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(u64::from(50 - asked % 50))).await;
        Ok(false)
    }

    async fn record_done(&self, _: &[Uuid]) -> Result<(), StepError> {
        Ok(())
    }
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
