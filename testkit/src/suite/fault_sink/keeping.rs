//! Keeping faults: whole, byte for byte, before the checkpoint passes.

use std::collections::BTreeMap;
use std::time::Duration;

use streambreaker::fault::{FaultEvent, FaultRecord};
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Position, Sink};

use super::examples::{fault, group, hostile};
use crate::suite::sink::{Cannot, SinkHarness, cannot, must, state, write_all};

async fn read_back<H: SinkHarness<Item = FaultEvent>>(harness: &H) -> Option<Vec<FaultEvent>> {
    match cannot(harness, Cannot::ReadBack) {
        true => None,
        false => Some(must("read back", harness.stored().await)),
    }
}

/// What differs between what was written and what is stored, by the names of the fields.
fn differences(written: &FaultEvent, stored: &FaultEvent) -> String {
    let (a, b) = (written, stored);
    let mut fields = vec![
        ("timestamp", a.timestamp == b.timestamp),
        ("partition_key", a.partition_key == b.partition_key),
        ("class", a.class == b.class),
        ("err", a.err == b.err),
        ("attempts", a.attempts == b.attempts),
        ("grouped", a.grouped == b.grouped),
        ("derived", a.derived == b.derived),
        ("delivery", a.delivery == b.delivery),
        ("parent", (a.parent, a.resubmits) == (b.parent, b.resubmits)),
        ("trace", a.trace == b.trace),
        ("part", a.part == b.part),
        ("tags", a.tags == b.tags),
        ("instance", a.instance == b.instance),
        ("number of records", a.records.len() == b.records.len()),
    ];
    for (a, b) in a.records.iter().zip(&b.records) {
        fields.push(("a record's payload", a.record.payload() == b.record.payload()));
        fields.push(("a record's key", a.record.key() == b.record.key()));
        fields.push(("a record's headers", a.record.headers() == b.record.headers()));
        fields.push(("a record's wrapper", a == b));
    }
    let names: Vec<_> = fields.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
    if names.is_empty() { "something else".to_owned() } else { names.join(", ") }
}

/// Whatever a fault holds, it is read back as it was written.
pub async fn f7_a_fault_is_read_back_as_it_was_written<H: SinkHarness<Item = FaultEvent>>(
    harness: &H,
) {
    let sink = must("open the sink", harness.sink().await);
    let (mut faults, limit) = (hostile(), sink.limits().bytes);
    faults.retain(|fault| sink.size(fault) <= limit);
    for fault in &faults {
        write_all(&sink, std::slice::from_ref(fault)).await;
    }
    let Some(stored) = read_back(harness).await else { return };
    for fault in &faults {
        let Some(found) = stored.iter().find(|stored| stored.id == fault.id) else {
            panic!("F7: a fault was confirmed, and is not stored: {fault:?}");
        };
        assert!(
            found == fault,
            "F7: changed on its way: {} of {fault:?}",
            differences(fault, found)
        );
    }
}

/// The id of a fault is its own, in every write.
pub async fn f4_a_fault_that_is_written_again_has_one_id<H: SinkHarness<Item = FaultEvent>>(
    harness: &H,
) {
    for _ in 0..2 {
        // a life that is killed before the checkpoint passes writes it again
        let sink = must("open the sink", harness.sink().await);
        write_all(&sink, &[fault(0), fault(1)]).await;
    }
    let Some(stored) = read_back(harness).await else { return };
    for stored in &stored {
        let own = stored.id == fault(0).id || stored.id == fault(1).id;
        assert!(own && stored.computed_id() == stored.id, "F4: an id was made up: {stored:?}");
    }
}

/// A size below what the records hold would let a request through that the destination refuses.
pub async fn f6_a_size_counts_all_that_the_records_hold<H: SinkHarness<Item = FaultEvent>>(
    harness: &H,
) {
    let sink = must("open the sink", harness.sink().await);
    if sink.limits().bytes == usize::MAX {
        return state("has no limit in bytes");
    }
    for (records, bytes) in [(1, 0), (1, 10_000), (20, 1_000)] {
        let (fault, size) = (group(records, bytes), sink.size(&group(records, bytes)));
        assert!(
            size >= fault.record_bytes(),
            "F6: a fault that holds {} bytes has a size of {size}",
            fault.record_bytes()
        );
    }
}

/// A group whose fault is above the limit is stored in parts: none of its records is lost, the order is kept.
pub async fn f6_a_fault_too_large_is_stored_in_parts<H: SinkHarness<Item = FaultEvent>>(
    harness: &H,
) {
    let sink = must("open the sink", harness.sink().await);
    let limit = sink.limits().bytes;
    if limit > 256 << 20 {
        return state("has no limit in bytes that a fault would reach");
    }
    let (size, whole) = (limit / 8, group(12, limit / 8));
    assert!(
        sink.size(&whole) > limit,
        "F6: a fault of more than {limit} bytes has a size below it"
    );
    let records: Vec<FaultRecord> = whole.records;
    let processor = Processor::builder("suite")
        .source(memory::records(records.iter().map(|r| r.record.clone())).expect("they go up"))
        .faults(sink)
        .in_flight(100, 64 * size)
        .pipeline("all", |flow| {
            flow.group_by(|_| (), Window::items(12).bytes(usize::MAX))
                .try_map(|_| Err::<(), _>("a group that nobody takes").fault())
        })
        .build()
        .unwrap_or_else(|error| panic!("the suite's processor: {error}"));
    let run = tokio::time::timeout(harness.time().patience(), processor.run(Shutdown::never()));
    let report = run
        .await
        .unwrap_or_else(|_| panic!("F6: the fault of a group is too large, and is never stored"))
        .unwrap_or_else(|error| panic!("the processor ends with {error}"));
    assert_eq!(report.pipelines["all"].faulted, 12, "{report}");
    let Some(stored) = read_back(harness).await else { return };
    let mut found = BTreeMap::new();
    for event in &stored {
        let part = event.part.unwrap_or_else(|| panic!("F6: not a part of the whole: {event:?}"));
        assert_eq!(part.total, 12, "F6: a part of another whole");
        found.insert(part.first, event.records.clone());
    }
    assert!(found.len() > 1, "F6: more than the limit in one");
    let found: Vec<FaultRecord> = found.into_values().flatten().collect();
    assert!(found == records, "F6: the parts do not make the whole");
}

fn processor<H: SinkHarness<Item = FaultEvent>>(stream: &Stream, sink: H::Sink) -> Processor {
    Processor::builder("suite")
        .source(stream.consumer("suite"))
        .faults(sink)
        .seed(1)
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap_or_else(|error| panic!("the suite's processor: {error}"))
}

/// Ninety good ones, ten poisoned.
fn poisoned() -> Stream {
    let stream = Stream::new("numbers", 1);
    for n in 0..100 {
        stream.push(if n % 10 == 9 { format!("poison {n}") } else { n.to_string() });
    }
    stream
}

/// A processor over it stores every fault, with its record as it came.
pub async fn f1_a_processor_stores_each_fault<H: SinkHarness<Item = FaultEvent>>(harness: &H) {
    let stream = poisoned();
    stream.close();
    let processor = processor::<H>(&stream, must("open the sink", harness.sink().await));
    let run =
        tokio::time::timeout(harness.time().patience(), processor.run(Shutdown::never())).await;
    let report = run
        .unwrap_or_else(|_| panic!("the processor does not get through all of it"))
        .unwrap_or_else(|error| panic!("the processor ends with {error}"));
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted, report.faults_stored), (90, 10, 10), "{report}");
    assert!(stream.is_settled("suite"));
    let Some(stored) = read_back(harness).await else { return };
    let mut seen: Vec<_> = stored.iter().map(|f| f.records[0].record.payload().clone()).collect();
    seen.sort();
    let mut expected: Vec<_> = stream.records(0).iter().map(|r| r.payload().clone()).collect();
    expected.retain(|payload| payload.starts_with(b"poison"));
    expected.sort();
    assert_eq!(seen, expected, "F1: one fault a poisoned record, with its record");
}

/// A fault sink that is away is back-pressure: the checkpoint stands before the first fault, and goes on.
pub async fn f5_while_it_is_down_no_checkpoint_passes<H: SinkHarness<Item = FaultEvent>>(
    harness: &H,
) {
    if cannot(harness, Cannot::GoDown) {
        return;
    }
    let stream = poisoned();
    let processor = processor::<H>(&stream, must("open the sink", harness.sink().await));
    must("take it down", harness.down().await);
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = processor.run(shutdown);
    tokio::pin!(run);
    let away = harness.time().quiet().min(Duration::from_secs(60));
    tokio::select! {
        biased;
        ended = &mut run => panic!("it ended while its fault sink was down: {ended:?}"),
        () = tokio::time::sleep(away) => {}
    }
    let committed = stream.committed("suite", 0);
    assert!(
        committed.as_ref().is_none_or(|at| *at < Position::from(9)),
        "F5: the checkpoint has passed a fault that is not stored: {committed:?}"
    );
    must("let it up", harness.up().await);
    let all =
        async { tokio::time::timeout(harness.time().patience(), stream.settled("suite")).await };
    tokio::select! {
        biased;
        ended = &mut run => panic!("it ended by itself: {ended:?}"),
        settled = all => assert!(settled.is_ok(), "F5: the fault sink is back, and it does not go on"),
    }
    trigger.pull();
    let report = run.await.unwrap_or_else(|error| panic!("the processor ends with {error}"));
    assert_eq!(report.faults_stored, 10, "{report}");
    let Some(stored) = read_back(harness).await else { return };
    let ids: std::collections::BTreeSet<_> = stored.iter().map(|fault| fault.id).collect();
    assert_eq!(ids.len(), 10, "F5: not every fault is stored");
}
