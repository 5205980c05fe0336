//! Records that their transport could not read, among others that are skipped, returned, or worked on as any.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::source::UNREADABLE;
use streambreaker::{By, Class, Position, Record, ShardId, SwitchError};
use support::*;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Unreadable,
    /// An operator has it skipped before it comes.
    Skipped,
    /// Both: what cannot be read is not looked at any further where it is no event.
    Both,
}

impl Kind {
    fn is_unreadable(self) -> bool {
        matches!(self, Kind::Unreadable | Kind::Both)
    }

    fn is_skipped(self) -> bool {
        matches!(self, Kind::Skipped | Kind::Both)
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Good),
        2 => Just(Kind::Unreadable),
        1 => Just(Kind::Skipped),
        1 => Just(Kind::Both),
    ]
}

fn record(n: u64, kind: Kind) -> Record {
    let payload = if kind.is_unreadable() { String::new() } else { n.to_string() };
    let record = Record::new("numbers", "0", Position::from(n), payload);
    if kind.is_unreadable() { record.with_header(UNREADABLE, format!("lost {n}")) } else { record }
}

async fn run(kinds: Vec<Kind>, each: bool, returned: BTreeSet<u64>, in_flight: usize) {
    let stream = Stream::new("numbers", 1);
    let kept: Arc<Mutex<BTreeMap<u64, Record>>> = Arc::default();
    let (faults, tries) = (memory::faults(), Effects::default());
    let (keeps, reads) = (once("keeps"), once("reads"));
    let (into, of_keep, of_read) = (kept.clone(), tries.clone(), tries.clone());
    let again = returned.clone();
    let consumer = stream.consumer("g");
    let processor = Processor::builder("p")
        .source(if each { consumer.each(Duration::from_secs(60)) } else { consumer })
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .in_flight(in_flight, 1 << 20)
        .seed(1)
        .pipeline("keep", move |flow| {
            let (into, tries, again) = (into.clone(), of_keep.clone(), again.clone());
            flow.with_unreadable().map(|received| received.record().clone()).parallel(
                3,
                &keeps,
                async move |record: &Record| {
                    let n = record.position().as_u64().unwrap();
                    if again.contains(&n) && tries.note(n) == 1 {
                        return Err("down").transient();
                    }
                    into.lock().unwrap().insert(n, record.clone());
                    Ok(())
                },
            )
        })
        .pipeline("read", move |flow| {
            let (tries, again) = (of_read.clone(), returned.clone());
            flow.json::<u64>().parallel(3, &reads, async move |n: &Event<u64>| {
                if again.contains(n) && tries.note(1_000 + **n) == 1 {
                    return Err("down").transient();
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    millis(1).await;
    let by = By::new("ada", "a test");
    for (n, _) in (0u64..).zip(&kinds).filter(|(_, kind)| kind.is_skipped()) {
        handle.skip(&ShardId::new("0"), &Position::from(n), &by).unwrap();
    }
    for (n, kind) in (0u64..).zip(&kinds) {
        stream.push_record(record(n, *kind)).unwrap();
    }
    stream.close();
    let report = tokio::time::timeout(Duration::from_secs(3_600), run).await.unwrap();
    let report = report.unwrap().unwrap();
    assert_eq!((report.unsettled(), stream.unacked("g")), (0, 0), "{report}");

    let mut expected = BTreeSet::new();
    for (n, kind) in (0u64..).zip(&kinds) {
        if kind.is_skipped() {
            expected.insert(("keep", Class::Skipped, n));
        }
        match kind {
            Kind::Unreadable | Kind::Both => expected.insert(("read", Class::Fault, n)),
            Kind::Skipped => expected.insert(("read", Class::Skipped, n)),
            Kind::Good => false,
        };
    }
    let events = faults.events();
    let found: BTreeSet<_> = events
        .iter()
        .map(|fault| {
            let pipeline = if fault.pipeline == "keep" { "keep" } else { "read" };
            (pipeline, fault.class, fault.records[0].record.position().as_u64().unwrap())
        })
        .collect();
    // one fault each: the same one again where a record came again, which the other pipeline had given back
    let ids: BTreeSet<_> = events.iter().map(|fault| fault.id).collect();
    assert_eq!((&found, ids.len()), (&expected, expected.len()), "{kinds:?}");
    assert!(each || events.len() == expected.len(), "{kinds:?}");
    let faulted: u64 = report.pipelines.values().map(|pipeline| pipeline.faulted).sum();
    assert_eq!(faulted, expected.len() as u64, "{report}");
    let kept = kept.lock().unwrap();
    for (n, kind) in (0u64..).zip(&kinds) {
        assert_eq!(kept.contains_key(&n), !kind.is_skipped(), "{n} of {kinds:?}");
        if let Some(kept) = kept.get(&n) {
            let (mine, theirs) = (record(n, *kind), kept);
            assert_eq!((mine.payload(), mine.headers()), (theirs.payload(), theirs.headers()));
        }
    }
    // all of them are settled, and that is said
    let last = Position::from(kinds.len() as u64 - 1);
    let said = handle.skip(&ShardId::new("0"), &last, &by);
    assert!(matches!(said, Err(SwitchError::Unknown { .. })), "the shard has ended: {said:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn i5_l1_what_cannot_be_read_is_kept_by_who_takes_it_and_is_one_fault_of_who_does_not(
        kinds in prop::collection::vec(kind(), 1..30),
        each: bool,
        returned in prop::collection::btree_set(0..30u64, 0..6),
        in_flight in 1..40usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(kinds, each, returned, in_flight));
    }
}
