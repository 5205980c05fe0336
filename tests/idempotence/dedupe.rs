//! `dedupe` and `record_done` over lives, crashes, faults and replays.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::idempotence::{Ledger, MemoryLedger};
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Delivery, PipelineReport, Position, Record};
use uuid::Uuid;

use crate::ledgers::Frail;
use crate::{DAY, Step, resource, shuffle, step};

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

pub(crate) async fn run(processor: Processor) -> PipelineReport {
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
        run: None,
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
