//! Faults in the lake, sent again: to the pipeline that refused them, and once.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::fault::FaultRecord;
use streambreaker::memory::Collect;
use streambreaker::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::{By, Class, FaultEvent, Position, Record, memory};
use streambreaker_lake::{
    FaultLake, FaultSelection, FaultState, Lake, LakeError, LakeWriter, Refused, Resubmission,
    Selection,
};
use support::{Fail, Shaky, TEN};
use uuid::Uuid;

/// What a component does with numbers: how often it did it.
#[derive(Clone, Default)]
struct Effects(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Effects {
    fn add(&self, n: u64) {
        *self.0.lock().unwrap().entry(n).or_default() += 1;
    }

    fn of(&self, n: u64) -> u32 {
        self.0.lock().unwrap().get(&n).copied().unwrap_or(0)
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<Record> {
    range
        .map(|n| Record::new("numbers", "0", Position::from(n), n.to_string()).with_arrival(TEN))
        .collect()
}

/// A component that refuses what `bad` says; both pipelines note what they do.
fn component(lake: &Lake, effects: &Effects, bad: fn(u64) -> bool) -> Processor {
    let (one, other) = (effects.clone(), effects.clone());
    Processor::builder("numbers")
        .release("1.0")
        .faults(FaultLake::new(lake))
        .pipeline("one", move |flow| {
            let effects = one.clone();
            flow.json::<u64>()
                .validate(move |n| if bad(*n) { Err("not yet") } else { Ok(()) })
                .inspect(move |n| effects.add(**n))
        })
        .pipeline("other", move |flow| {
            let effects = other.clone();
            flow.json::<u64>().inspect(move |n| effects.add(1_000 + **n))
        })
        .build()
        .unwrap()
}

fn by() -> By {
    By::new("ada", "mended")
}

fn all() -> FaultSelection {
    FaultSelection::of("numbers")
}

fn again(lake: &Lake) -> Resubmission {
    lake.resubmit(all(), by()).release("1.1")
}

#[tokio::test(start_paused = true)]
async fn l8_a_fault_goes_to_the_pipeline_that_refused_it_and_only_there_and_once() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let outcome = component(&lake, &effects, |n| n % 3 == 0).process(numbers(0..9)).await;
    assert_eq!(outcome.faults.len(), 3);
    assert_eq!((effects.of(3), effects.of(1_003)), (0, 1));

    let mended = component(&lake, &effects, |_| false);
    let before = shaky.paths().await;
    let report = again(&lake).dry_run(&mended).await.unwrap();
    assert_eq!((report.sent, report.records, shaky.paths().await), (3, 3, before));
    let report = again(&lake).run(&mended).await.unwrap();
    assert_eq!((report.sent, report.succeeded, report.refused.len()), (3, 3, 0), "{report}");
    assert_eq!((effects.of(3), effects.of(1_003)), (1, 1));
    // the same faults twice have one effect
    let report = again(&lake).run(&mended).await.unwrap();
    assert_eq!((report.sent, report.settled_before), (0, 3));
    assert_eq!(effects.of(3), 1);
    let row = lake.ledger_of("numbers", outcome.faults[0]).await.unwrap();
    let states: Vec<FaultState> = row.iter().map(|entry| entry.state.clone()).collect();
    let succeeded = FaultState::Succeeded { release: Some("1.1".into()) };
    assert_eq!(states, [FaultState::Resubmitted { attempt: 1 }, succeeded]);
    assert_eq!((&*row[0].who, &*row[0].why), ("ada", "mended"));
}

#[tokio::test(start_paused = true)]
async fn l8_a_unit_that_fails_again_links_its_new_fault_and_has_an_end() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let broken = component(&lake, &effects, |n| n == 3);
    let first = broken.process(numbers(0..9)).await.faults[0];
    let mut fault = first;
    for attempt in 1..=3 {
        let report = again(&lake).run(&broken).await.unwrap();
        let new = report.failed_again[&fault].clone();
        assert_eq!(new.len(), 1);
        let found = lake.faults(&all().id(new[0])).await.unwrap().faults.remove(0);
        assert_eq!((found.parent, found.resubmits), (Some(fault), attempt));
        fault = new[0];
    }
    // the loop guard
    let report = again(&lake).run(&broken).await.unwrap();
    assert_eq!(report.refused[&fault], Refused::TooOften { attempts: 3 });
    assert_eq!(effects.of(3), 0);
    assert!(lake.dismiss("numbers", fault, &by()).await.unwrap());
    assert!(!lake.dismiss("numbers", fault, &by()).await.unwrap(), "it is not open any more");
    let report = again(&lake).run(&broken).await.unwrap();
    assert_eq!((report.settled_before, report.refused.len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_too_many_fail_again() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let broken = component(&lake, &effects, |n| n % 2 == 0);
    broken.process(numbers(0..100)).await;
    let report = again(&lake).run(&broken).await.unwrap();
    assert!(report.stopped);
    assert_eq!((report.considered, report.sent, report.more), (10, 10, true));
    let said = report.to_string();
    assert!(said.contains("look at the new faults") && !said.contains("run it again"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_between_faults_and_not_behind_the_last() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 3).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    let began = tokio::time::Instant::now();
    let rate = std::num::NonZeroU32::new(1).unwrap();
    assert_eq!(again(&lake).rate(rate).run(&mended).await.unwrap().succeeded, 3);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_or_refused_leaves_room_for_the_others() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n % 3 == 0).process(numbers(0..600)).await;
    let other = Processor::builder("others")
        .faults(FaultLake::new(&lake))
        .pipeline("one", |flow| {
            flow.json::<u64>().validate(|n| if *n % 3 == 0 { Err("not ours") } else { Ok(()) })
        })
        .build()
        .unwrap();
    other.process(numbers(0..210)).await;
    let mended = component(&lake, &effects, |_| false);
    let mut sent = Vec::new();
    // a run at a time: none of them is spent on what was settled by those before, nor on what is another's
    for _ in 0..5 {
        let before = shaky.paths().await;
        let dry = again(&lake).most(45).dry_run(&mended).await.unwrap();
        assert_eq!(shaky.paths().await, before);
        let report = again(&lake).most(45).run(&mended).await.unwrap();
        assert_eq!((dry.sent, dry.records, dry.more), (report.sent, report.records, report.more));
        let passed = report.settled_before + report.refused.len() as u64;
        assert_eq!(report.considered, report.sent + passed);
        sent.push((report.sent, report.more));
    }
    assert_eq!(sent, [(45, true), (45, true), (45, true), (45, true), (20, false)]);
    assert!((0..600).all(|n| effects.of(n) == 1));
}

#[tokio::test(start_paused = true)]
async fn l8_it_ends_in_peace_when_it_is_told_to() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n % 3 == 0).process(numbers(0..90)).await;
    let mended = component(&lake, &effects, |_| false);
    let (seen, heard) = (Arc::new(Mutex::new(Vec::new())), Duration::from_millis(2_050));
    let watched = seen.clone();
    let report = again(&lake)
        .rate(std::num::NonZeroU32::new(10).unwrap())
        .stop_on(tokio::time::sleep(heard))
        .each(move |report| watched.lock().unwrap().push(report.succeeded))
        .run(&mended)
        .await
        .unwrap();
    assert!(report.interrupted && report.more && !report.stopped);
    assert!((10..=21).contains(&report.sent), "{report}");
    assert_eq!(*seen.lock().unwrap(), (1..=report.sent).collect::<Vec<u64>>());
    // none of them was left in between
    let sent = report.sent;
    let report = again(&lake).run(&mended).await.unwrap();
    assert_eq!((report.sent, report.settled_before, report.refused.len()), (30 - sent, sent, 0));
}

#[tokio::test(start_paused = true)]
async fn l8_two_at_once_send_a_fault_once() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 20).process(numbers(0..40)).await;
    let mended = component(&lake, &effects, |_| false);
    let (a, b) = tokio::join!(again(&lake).run(&mended), again(&lake).run(&mended));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.succeeded + b.succeeded, 20, "{a}\n{b}");
    assert!((0..20).all(|n| effects.of(n) == 1), "one effect each");
}

#[tokio::test(start_paused = true)]
async fn l8_whoever_dies_while_sending_leaves_it_to_people_to_send_again() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 5).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    let cut = tokio::time::timeout(Duration::from_millis(130), again(&lake).run(&mended)).await;
    assert!(cut.is_err(), "it is killed in the middle");
    let report = again(&lake).run(&mended).await.unwrap();
    let unfinished = report.refused.values().filter(|why| **why == Refused::Unfinished).count();
    assert_eq!(unfinished, report.refused.len());
    assert!((0..5).all(|n| effects.of(n) <= 1), "none of them twice");
    let report = again(&lake).unfinished().run(&mended).await.unwrap();
    assert_eq!(report.succeeded, unfinished as u64);
    assert!((0..5).all(|n| effects.of(n) >= 1), "and all of them once");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_loses_replies_keeps_the_ledger_right() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 5).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    for nth in 0..16 {
        // the nth write of a run is stored, but its answer is an error: the run ends there
        shaky.writes(std::iter::repeat_n(Fail::Not, nth % 4).chain([Fail::LosesReply]));
        let _ = again(&lake).run(&mended).await;
        shaky.writes_as_ever();
    }
    assert!((0..5).all(|n| effects.of(n) <= 1), "none of them twice");
    again(&lake).unfinished().run(&mended).await.unwrap();
    let report = again(&lake).run(&mended).await.unwrap();
    assert_eq!((report.settled_before, report.sent), (5, 0), "{report}");
}

/// A fault that came back by hand, or from elsewhere.
async fn tampered(lake: &Lake, change: impl Fn(&mut FaultEvent)) -> Vec<FaultEvent> {
    let mut faults = lake.faults(&all()).await.unwrap().faults;
    faults.iter_mut().for_each(change);
    faults
}

#[tokio::test(start_paused = true)]
async fn l8_a_fault_that_comes_back_is_input() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let mut log = OutcomeLog::new(10);
    LakeWriter::new(&lake).write(&numbers(0..10), &mut log.outcomes()).await.unwrap();
    component(&lake, &effects, |n| n == 3).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    let run = |faults: Vec<FaultEvent>| {
        let (lake, mended) = (lake.clone(), mended.clone());
        async move {
            let report = lake.resubmit(all(), by()).faults(faults).run(&mended).await.unwrap();
            assert_eq!(report.sent, 0, "{report}");
            report.refused.into_values().next().unwrap()
        }
    };
    let other_id = tampered(&lake, |fault| fault.id = Uuid::from_u128(1)).await;
    assert_eq!(run(other_id).await, Refused::OtherId);
    let other_pipeline = tampered(&lake, |fault| {
        fault.pipeline = "gone".into();
        fault.id = fault.computed_id();
    })
    .await;
    assert_eq!(run(other_pipeline).await, Refused::NoPipeline { pipeline: "gone".into() });
    let other_processor = tampered(&lake, |fault| {
        fault.processor = "letters".into();
        fault.id = fault.computed_id();
    })
    .await;
    let expected = Refused::OtherProcessor { processor: "letters".into() };
    assert_eq!(run(other_processor).await, expected);
    // a position names a record, so its id does not tell; the lake does
    let other_record = tampered(&lake, |fault| {
        let record = &fault.records[0].record;
        fault.records[0].record =
            Record::new("numbers", "0", record.position().clone(), "5").with_arrival(TEN);
    })
    .await;
    assert_eq!(run(other_record.clone()).await, Refused::OtherRecord { position: "3".into() });
    assert_eq!((effects.of(3), effects.of(5)), (0, 1));
    let trusted = lake.resubmit(all(), by()).faults(other_record).trusted();
    assert_eq!(trusted.run(&mended).await.unwrap().succeeded, 1);
    assert_eq!(effects.of(5), 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_left_out_of_its_fault_is_fetched_from_the_lake() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n == 3).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    let claimed =
        tampered(&lake, |fault| fault.records[0] = fault.records[0].claimed("lake")).await;
    let send = || lake.resubmit(all(), by()).faults(claimed.clone());
    let refused = send().run(&mended).await.unwrap().refused;
    assert_eq!(refused.into_values().next(), Some(Refused::NoRecord { position: "3".into() }));
    let mut log = OutcomeLog::new(10);
    LakeWriter::new(&lake).write(&numbers(0..10), &mut log.outcomes()).await.unwrap();
    assert_eq!(send().run(&mended).await.unwrap().succeeded, 1);
    assert_eq!(effects.of(3), 1);
}

#[tokio::test(start_paused = true)]
async fn what_lies_together_is_read_once() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let records = numbers(0..5_000);
    let mut log = OutcomeLog::new(records.len());
    LakeWriter::new(&lake).write(&records, &mut log.outcomes()).await.unwrap();
    let odd = component(&lake, &effects, |n| n % 100 == 7).process(records).await;
    assert_eq!(odd.faults.len(), 50);
    let objects = lake.manifest("numbers").await.unwrap().objects;
    let stored = objects.iter().map(|object| object.size).sum::<u64>();
    shaky.bytes_read();
    let mended = component(&lake, &effects, |_| false);
    assert_eq!(again(&lake).dry_run(&mended).await.unwrap().sent, 50);
    // faults lie there as well; one by one it would be each fault's share
    let read = shaky.bytes_read();
    assert!(read < 10 * stored, "{read} bytes were read of {stored}");
    // a store that fails now and then ends nothing
    shaky.fails_every(2);
    assert_eq!(again(&lake).dry_run(&mended).await.unwrap().sent, 50);
}

#[tokio::test(start_paused = true)]
async fn l6_l8_what_a_replay_faulted_is_sent_again_as_of_that_replay_and_whatever_was_done_before()
{
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let mut log = OutcomeLog::new(10);
    LakeWriter::new(&lake).write(&numbers(0..10), &mut log.outcomes()).await.unwrap();
    let (broken, mended) =
        (component(&lake, &effects, |n| n == 3), component(&lake, &effects, |_| false));
    broken.process(numbers(0..10)).await;
    assert_eq!(again(&lake).run(&mended).await.unwrap().succeeded, 1);
    assert_eq!(effects.of(3), 1);

    // into a fresh view, and the bug is back
    let replay = lake.replay(Selection::of("numbers"));
    broken.run_from(replay, Shutdown::never()).await.unwrap();
    let report = again(&lake).run(&broken).await.unwrap();
    assert_eq!((report.settled_before, report.failed_again.len(), report.records), (1, 1, 1));
    let faults = lake.faults(&all()).await.unwrap().faults;
    let runs: BTreeSet<Option<Uuid>> = faults.iter().map(|fault| fault.delivery.run()).collect();
    assert_eq!((faults.len(), runs.len()), (3, 2), "of the stream, and twice of the replay");
    let report = again(&lake).run(&mended).await.unwrap();
    assert_eq!((report.succeeded, report.records), (1, 1), "it is other work than the stream's");
    assert_eq!(effects.of(3), 2);
}

/// A component that adds numbers up in groups of `size`.
fn sums(lake: &Lake, size: usize, found: &Collect<Vec<u64>>, bad: bool) -> Processor {
    let found = found.clone();
    let guard = Resource::builder("sums").timeout(Duration::from_secs(1)).build().unwrap();
    Processor::builder("sums")
        .faults(FaultLake::new(lake))
        .flood_guard(streambreaker::fault::FloodGuard::off())
        .pipeline("sums", move |flow| {
            let found = found.clone();
            flow.json::<u64>().group_by(|n| **n % 2, Window::items(size)).call(
                &guard,
                async move |group: &Group<u64, Event<u64>>| {
                    if bad && group.key == 1 {
                        return Err("no odd ones").fault();
                    }
                    let values: Vec<u64> = group.items.iter().map(|n| **n).collect();
                    let mut log = OutcomeLog::new(1);
                    found.write(&[values], &mut log.outcomes()).await
                },
            )
        })
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_records_of_a_group_are_claimed_at_once() {
    let shaky = Shaky::default();
    let (lake, found) = (shaky.lake(), Collect::new());
    sums(&lake, 100, &found, true).process(numbers(0..20)).await;
    let began = tokio::time::Instant::now();
    let report = again(&lake).run(&sums(&lake, 3, &found, false)).await.unwrap();
    assert_eq!((report.succeeded, report.records), (1, 10));
    // each write takes 20 ms of the paused clock: sent, ten claims, succeeded
    assert_eq!(began.elapsed(), Duration::from_millis(60));
}

#[tokio::test(start_paused = true)]
async fn l8_f2_a_group_comes_back_as_a_group_and_overlapping_ones_apply_a_record_once() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let found = Collect::new();
    // the same records, grouped differently in two lives: two faults that overlap
    sums(&lake, 100, &found, true).process(numbers(0..20)).await;
    sums(&lake, 100, &found, true).process(numbers(10..30)).await;
    let faults = lake.faults(&all()).await.unwrap().faults;
    assert_eq!(faults.iter().map(|fault| fault.records.len()).collect::<Vec<_>>(), [10, 10]);
    let found = Collect::new();
    let report = again(&lake).run(&sums(&lake, 3, &found, false)).await.unwrap();
    assert_eq!((report.succeeded, report.records), (2, 15));
    let mut groups = found.items();
    groups.sort_by_key(Vec::len);
    assert_eq!(
        groups.iter().map(Vec::len).collect::<Vec<_>>(),
        [5, 10],
        "whole, and each record once"
    );
    let mut all: Vec<u64> = groups.concat();
    all.sort_unstable();
    assert_eq!(all, (0..30).filter(|n| n % 2 == 1).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn faults_are_found_by_what_they_say_and_each_once() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let broken = component(&lake, &effects, |n| n == 3);
    broken.process(numbers(0..10)).await;
    // the same again, in another object
    broken.process(numbers(3..9)).await;
    broken.process([Record::new("numbers", "0", Position::from(90), "x")]).await;
    let count =
        async |selection: FaultSelection| lake.faults(&selection).await.unwrap().faults.len();
    assert_eq!(count(all()).await, 3);
    assert_eq!(count(all().stage("validate")).await, 1);
    assert_eq!(count(all().pipeline("other")).await, 1);
    assert_eq!(count(all().class(Class::Transient)).await, 0);
    assert_eq!(count(all().release("1.0")).await, 3);
    assert_eq!(count(all().release("2.0")).await, 0);
    assert_eq!(count(FaultSelection::of("other")).await, 0);
    let one = lake.faults(&all().stage("validate")).await.unwrap().faults.remove(0);
    assert_eq!(count(all().fingerprint(&*one.fingerprint).since(one.timestamp)).await, 1);
    assert_eq!(count(all().until(one.timestamp).id(one.id)).await, 0);
    // records and faults do not get in each other's way
    assert_eq!(lake.verify("numbers").await.unwrap().findings, []);
}

#[tokio::test(start_paused = true)]
async fn objects_of_faults_are_read_side_by_side_and_in_their_order() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let component = component(&lake, &effects, |_| true);
    let mut stored = Vec::new();
    for n in 0..32 {
        stored.extend(component.process(numbers(n..n + 1)).await.faults);
        tokio::time::advance(Duration::from_secs(3_600)).await;
    }
    assert_eq!(stored.len(), 32);
    let order = async |reads_fail| -> Vec<Uuid> {
        let mut scan = lake.scan_faults(&all()).await.unwrap();
        shaky.reads_fail(reads_fail);
        let (mut found, mut failed) = (Vec::new(), 0);
        loop {
            match scan.next().await {
                Ok(Some(fault)) => found.push(fault.id),
                Ok(None) => break,
                Err(_) => failed += 1,
            }
        }
        assert_eq!(failed > 0, reads_fail > 0);
        found
    };
    let found = order(0).await;
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), stored.iter().collect());
    shaky.reads_take(Duration::from_millis(50));
    let began = tokio::time::Instant::now();
    assert_eq!(order(0).await, found);
    assert_eq!(began.elapsed(), Duration::from_millis(100), "two rounds of sixteen");
    assert_eq!(order(100).await, found, "a store that fails for long loses nothing");
}

#[tokio::test(start_paused = true)]
async fn l4_faults_that_cannot_be_read_are_named_and_skipped() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 3).process(numbers(0..10)).await;
    let path = shaky.paths().await.remove(0);
    let mut bytes = shaky.bytes_of(&path).await.to_vec();
    let end = bytes.len() - 40;
    bytes.truncate(end);
    shaky.put_bytes(&path, bytes).await;
    let found = lake.faults(&all()).await.unwrap();
    assert_eq!((found.faults.len(), found.damaged.len()), (2, 1));
    assert_eq!(found.damaged[0].0, path);
}

#[tokio::test(start_paused = true)]
async fn l4_objects_of_faults_that_hold_none_or_cannot_be_opened_are_named_and_skipped() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n == 3).process(numbers(0..10)).await;
    let folder = "stream=numbers/kind=fault/date=2013-01-01/hour=10";
    let junk: [(&str, &[u8]); 4] = [
        ("empty.ndjson", b""),
        ("lines.ndjson", b"\n\n"),
        ("else.ndjson", b"{\"some\":\"thing\"}\n\xff\xfe\n"),
        ("unnamed", b"hello"),
    ];
    for (name, bytes) in junk {
        shaky.put_bytes(&format!("{folder}/{name}"), bytes).await;
    }
    let found = lake.faults(&all()).await.unwrap();
    assert_eq!((found.faults.len(), found.damaged.len()), (1, junk.len()), "{found:?}");
    let report = again(&lake).run(&component(&lake, &effects, |_| false)).await.unwrap();
    assert_eq!((report.succeeded, report.damaged), (1, junk.len() as u64), "{report}");
}

/// A ledger of five faults, of which an entry or a claim of one was damaged.
async fn damaged_ledger(shaky: &Shaky, effects: &Effects, of: &str) -> String {
    let lake = shaky.lake();
    component(&lake, effects, |n| n < 5).process(numbers(0..10)).await;
    let dead = component(&lake, effects, |_| false);
    let cut = tokio::time::timeout(Duration::from_millis(50), again(&lake).run(&dead)).await;
    assert!(cut.is_err(), "it is killed in the middle");
    let paths = shaky.paths().await;
    let path = paths.iter().find(|path| path.contains(of)).unwrap_or_else(|| panic!("{paths:#?}"));
    shaky.put_bytes(path, "{").await;
    path.clone()
}

#[tokio::test(start_paused = true)]
async fn l4_l8_a_ledger_that_cannot_be_read_keeps_its_fault_back_and_no_other() {
    for of in ["/_ledger/records/", "/0000.json"] {
        let (shaky, effects) = (Shaky::default(), Effects::default());
        let path = damaged_ledger(&shaky, &effects, of).await;
        let (lake, mended) = (shaky.lake(), component(&shaky.lake(), &effects, |_| false));
        let report = again(&lake).unfinished().run(&mended).await.unwrap();
        assert_eq!((report.succeeded, report.refused.len()), (4, 1), "{report}");
        let refused: Vec<_> = report.refused.values().collect();
        assert_eq!(refused, [&Refused::Ledger { path: path.clone() }]);
        let lessons = lake.lessons(&all()).await.unwrap();
        assert_eq!((lessons[0].succeeded, lessons[0].open), (4, 1));
        // somebody looks, and deletes it
        shaky.remove(&path).await;
        let report = again(&lake).unfinished().run(&mended).await.unwrap();
        assert_eq!((report.succeeded, report.refused.len()), (1, 0), "{report}");
        assert!((0..5).all(|n| effects.of(n) >= 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_of_a_fault_that_cannot_be_read_is_an_error_of_whoever_asks_for_it() {
    let (shaky, effects) = (Shaky::default(), Effects::default());
    let path = damaged_ledger(&shaky, &effects, "/0000.json").await;
    let id = path.split('/').nth_back(1).unwrap().parse().unwrap();
    let lake = shaky.lake();
    let (asked, dismissed) =
        (lake.ledger_of("numbers", id).await, lake.dismiss("numbers", id, &by()).await);
    for error in [asked.map(|_| ()).unwrap_err(), dismissed.map(|_| ()).unwrap_err()] {
        assert!(matches!(&error, LakeError::Document { path: at, .. } if *at == path), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn lessons_tell_what_time_alone_has_mended() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    component(&lake, &effects, |n| n < 4).process(numbers(0..10)).await;
    let mended = component(&lake, &effects, |_| false);
    lake.resubmit(all(), by()).release("1.0").most(1).run(&mended).await.unwrap();
    let lessons = lake.lessons(&all()).await.unwrap();
    assert_eq!(lessons.len(), 1);
    assert_eq!((lessons[0].faults, lessons[0].open, lessons[0].unchanged), (4, 3, 1));
    assert_eq!(lessons[0].releases, BTreeMap::from([("1.0".to_owned(), 4)]));
    assert!(lessons[0].deserves_a_retry() && lessons[0].time_alone_mended());
    let mut open_circuit = lessons[0].clone();
    open_circuit.class = Class::CircuitOpen;
    assert!(open_circuit.time_alone_mended() && !open_circuit.deserves_a_retry());
    again(&lake).run(&mended).await.unwrap();
    let lessons = lake.lessons(&all()).await.unwrap();
    assert_eq!((lessons[0].succeeded, lessons[0].unchanged), (4, 1));
    assert!(!lessons[0].deserves_a_retry(), "another release mended the others");
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_too_early_hides_no_lesson() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let broken = component(&lake, &effects, |n| n < 2);
    broken.process(numbers(0..10)).await;
    let sent = || lake.resubmit(all(), by()).release("1.0").most(1);
    assert_eq!(sent().run(&broken).await.unwrap().failed_again.len(), 1);
    let mended = component(&lake, &effects, |_| false);
    assert_eq!(sent().run(&mended).await.unwrap().succeeded, 1);
    let lesson = lake.lessons(&all()).await.unwrap().remove(0);
    assert_eq!((lesson.faults, lesson.failed_again, lesson.open, lesson.unchanged), (3, 1, 1, 1));
    assert!(!lesson.time_alone_mended(), "one that failed again may be open still");
    assert_eq!(sent().run(&mended).await.unwrap().succeeded, 1);
    let lesson = lake.lessons(&all()).await.unwrap().remove(0);
    assert_eq!((lesson.failed_again, lesson.open, lesson.unchanged), (1, 0, 2));
    assert!(lesson.deserves_a_retry());
}

/// A lake of many faults, and what its selections and lessons take.
#[tokio::test(start_paused = true)]
async fn many_faults_are_looked_at_side_by_side_and_each_object_once() {
    const FAULTS: u64 = 2_000;
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let faults: Vec<FaultEvent> = numbers(0..FAULTS)
        .into_iter()
        .map(|n| FaultEvent::new("p", "q", "s", Class::Fault, vec![FaultRecord::whole(n)]))
        .collect();
    for items in faults.chunks(500) {
        let mut log = OutcomeLog::new(items.len());
        FaultLake::new(&lake).write(items, &mut log.outcomes()).await.unwrap();
    }
    let objects = shaky.paths().await.len();
    assert_eq!(objects, 4);
    shaky.reads();
    let found = lake.faults(&all()).await.unwrap();
    assert_eq!((found.faults.len() as u64, shaky.reads().0), (FAULTS, objects));
    shaky.reads_take(Duration::from_millis(20));
    let lessons = lake.lessons(&all()).await.unwrap();
    assert_eq!((lessons[0].faults, lessons[0].open), (FAULTS, FAULTS));
    // of each the first entry, which is not there
    assert_eq!(shaky.reads(), (objects + FAULTS as usize, 16));
}

#[tokio::test(start_paused = true)]
async fn a_look_at_faults_is_not_ended_by_a_store_that_fails_now_and_then() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let broken = component(&lake, &effects, |_| true);
    for n in 0..20 {
        broken.process(numbers(n..n + 1)).await;
    }
    shaky.reads_fail(3);
    assert_eq!(lake.faults(&all()).await.unwrap().faults.len(), 20);
    shaky.reads_fail(3);
    assert_eq!(lake.lessons(&all()).await.unwrap()[0].faults, 20);
    shaky.cuts(3);
    let found = lake.faults(&all()).await.unwrap();
    assert_eq!((found.faults.len(), found.damaged.len()), (20, 0));
    shaky.lists_twice();
    shaky.reads();
    assert_eq!(lake.faults(&all()).await.unwrap().faults.len(), 20);
    assert_eq!(shaky.reads().0, 20);
}

#[tokio::test(start_paused = true)]
async fn lessons_are_of_a_pipeline() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let both = Processor::builder("numbers")
        .faults(FaultLake::new(&lake))
        .pipeline("one", |flow| flow.json::<u64>())
        .pipeline("other", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let record = Record::new("numbers", "0", Position::from(1), "one").with_arrival(TEN);
    assert_eq!(both.process([record]).await.faults.len(), 2);
    let lessons = lake.lessons(&all()).await.unwrap();
    assert_eq!(lessons[0].fingerprint, lessons[1].fingerprint, "the stages are called alike");
    let told: Vec<_> = lessons.iter().map(|l| (&*l.pipeline, l.faults, l.open)).collect();
    assert_eq!(told, [("one", 1, 1), ("other", 1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn f5_a_fault_is_stored_however_the_store_behaves() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    shaky.writes([Fail::Throttled, Fail::LosesReply, Fail::LosesReplyAndHangs, Fail::Hangs]);
    let broken = component(&lake, &effects, |n| n % 2 == 0);
    let outcome = broken.process(numbers(0..20)).await;
    assert_eq!(outcome.faults.len(), 10);
    assert_eq!(lake.faults(&all()).await.unwrap().faults.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn faults_of_a_file_can_be_sent_too() {
    let shaky = Shaky::default();
    let (lake, effects) = (shaky.lake(), Effects::default());
    let elsewhere = memory::faults();
    let broken = Processor::builder("numbers")
        .faults(elsewhere.clone())
        .pipeline("one", |flow| flow.json::<u64>().validate(|_| Err("not yet")))
        .build()
        .unwrap();
    broken.process(numbers(0..3)).await;
    let mended = component(&lake, &effects, |_| false);
    let report = lake.resubmit(all(), by()).faults(elsewhere.events()).run(&mended).await.unwrap();
    assert_eq!((report.succeeded, effects.of(2)), (3, 1));
}
