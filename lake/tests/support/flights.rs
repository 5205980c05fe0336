//! End to end on real events, in any lake: a component with a bug that faults one in fifty and miscounts the rest; mended; its
//! faults sent again, the year replayed into a fresh view, and that compared with what a computation over the raw file says
//! that shares nothing with it. `FLIGHTS` names another file than the sample of 5,000 events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use streambreaker::prelude::*;
use streambreaker::{By, Source, Timestamp, file, memory};
use streambreaker_lake::{FaultLake, FaultSelection, FaultState, Lake, LakeWriter, Selection};

fn raw() -> PathBuf {
    // this is a part of two crates, in two folders
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let sample =
        || above.map(|dir| dir.join("examples/data/flights.ndjson")).find(|path| path.exists());
    std::env::var_os("FLIGHTS").map_or_else(|| sample().expect("the sample"), Into::into)
}

/// Flights and minutes of delay, by airport and day.
type Totals = BTreeMap<(String, String), (u64, i64)>;

/// What the raw file says.
fn truth() -> Totals {
    let mut totals = Totals::new();
    for line in std::fs::read_to_string(raw()).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let flight = &event["flight"];
        let (Some(delay), "flight-departed") =
            (flight["arr_delay"].as_i64(), event["type"].as_str().unwrap())
        else {
            continue;
        };
        let day = flight["scheduled"].as_str().unwrap()[..10].to_owned();
        let total = totals.entry((flight["origin"].as_str().unwrap().to_owned(), day)).or_default();
        total.0 += 1;
        total.1 += delay;
    }
    totals
}

#[derive(Deserialize)]
struct Flight {
    id: String,
    flight: Details,
}

#[derive(Deserialize)]
struct Details {
    origin: String,
    scheduled: String,
    arr_delay: Option<i64>,
}

/// A view of the delays: an event counts once.
#[derive(Clone, Default)]
struct View(Arc<Mutex<(Totals, BTreeSet<String>)>>);

impl View {
    fn totals(&self) -> Totals {
        self.0.lock().unwrap().0.clone()
    }

    fn add(&self, flight: &Flight, delay: i64) {
        let (totals, seen) = &mut *self.0.lock().unwrap();
        if seen.insert(flight.id.clone()) {
            let day = flight.flight.scheduled[..10].to_owned();
            let total = totals.entry((flight.flight.origin.clone(), day)).or_default();
            total.0 += 1;
            total.1 += delay;
        }
    }
}

fn one_in_fifty(id: &str) -> bool {
    id.bytes().fold(7u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) % 50 == 0
}

fn delays(view: &View, release: &str, lake: &Lake) -> Processor {
    let (view, buggy) = (view.clone(), release == "1.0");
    let table = Resource::builder("table").timeout(Duration::from_secs(10)).build().unwrap();
    Processor::builder("delays")
        .release(release)
        .faults(FaultLake::new(lake))
        .pipeline("delays", move |flow| {
            let view = view.clone();
            flow.of_type("flight-departed")
                .json::<Flight>()
                .filter(|flight| flight.flight.arr_delay.is_some())
                .group_by(|flight| flight.flight.origin.clone(), Window::items(20))
                .parallel(4, &table, async move |group: &Group<String, Event<Flight>>| {
                    // the bug: some events are too much for it, and it is off by a minute
                    if buggy && group.items.iter().any(|flight| one_in_fifty(&flight.id)) {
                        return Err("an index that is out of range").fault();
                    }
                    for flight in &group.items {
                        let delay = flight.flight.arr_delay.unwrap_or_default();
                        view.add(flight, delay + i64::from(buggy));
                    }
                    Ok(())
                })
        })
        .flood_guard(streambreaker::fault::FloodGuard::off())
        .build()
        .unwrap()
}

fn arrival(line: &[u8]) -> Option<Timestamp> {
    let event: Value = serde_json::from_slice(line).ok()?;
    event["timestamp"].as_i64().map(Timestamp::from_millis)
}

fn stream() -> impl Source {
    file::Source::open(raw())
        .stream("flights")
        .shards(4)
        .key_field("partitionKey")
        .arrival_by(arrival)
}

fn count(totals: &Totals) -> u64 {
    totals.values().map(|total| total.0).sum()
}

/// The whole story; what is wrong on the way panics.
pub(crate) async fn a_bug_is_mended_its_faults_sent_again_and_the_stream_replayed(lake: &Lake) {
    let truth = truth();
    let store = Resource::builder("lake").timeout(Duration::from_secs(60)).build().unwrap();
    let writer = LakeWriter::new(lake).records(2_000).linger(Duration::from_secs(5)).hours(24 * 7);
    let storing = Processor::builder("lake-writer")
        .faults(memory::faults())
        .pipeline("store", writer.pipeline(&store))
        .build()
        .unwrap();
    storing.run_from(stream(), Shutdown::never()).await.unwrap();
    let verified = lake.verify("flights").await.unwrap();
    assert_eq!(verified.findings, []);
    let records = std::fs::read_to_string(raw()).unwrap().lines().count() as u64;
    assert_eq!(verified.records, records);
    let manifest = lake.manifest("flights").await.unwrap();
    let shards = manifest.shards();
    let covered = shards.iter().flat_map(|shard| manifest.covered(shard));
    assert_eq!(covered.map(|range| range.records).sum::<u64>(), records);
    assert!(shards.iter().all(|shard| manifest.gaps(shard).is_empty()), "{manifest:?}");
    lake.store_manifest(&manifest).await.unwrap();
    let again = lake.manifest("flights").await.unwrap();
    assert_eq!(again.objects, manifest.objects, "as it was stored");
    assert_eq!((again.missing, again.damaged), (vec![], vec![]));

    // the bug: groups of which one in fifty events is bad are set aside, the rest is wrong
    let view = View::default();
    let report = delays(&view, "1.0", lake).run_from(stream(), Shutdown::never()).await.unwrap();
    let faulted = report.pipelines["delays"].faulted;
    assert!(faulted > 0);
    assert_eq!(count(&view.totals()) + faulted, count(&truth));
    assert_ne!(view.totals(), truth);

    // mended: what was set aside is processed, as the groups that it was
    let faults = FaultSelection::of("flights").pipeline("delays").release("1.0");
    let mended = delays(&view, "1.1", lake);
    let by = || By::new("ada", "the index is in range now");
    let again = || lake.resubmit(faults.clone(), by()).most(100_000).release("1.1");
    let planned = again().dry_run(&mended).await.unwrap();
    assert_eq!(planned.records, faulted);
    let report = again().run(&mended).await.unwrap();
    assert_eq!((report.succeeded, report.records), (planned.sent, faulted), "{report}");
    assert_eq!(again().run(&mended).await.unwrap().settled_before, planned.sent);
    assert_eq!(count(&view.totals()), count(&truth), "every flight counts once");
    assert_ne!(view.totals(), truth, "but what was counted wrong stays wrong");
    for fault in lake.faults(&faults).await.unwrap().faults {
        let row = lake.ledger_of("flights", fault.id).await.unwrap();
        let states: Vec<FaultState> = row.into_iter().map(|entry| entry.state).collect();
        let succeeded = FaultState::Succeeded { release: Some("1.1".to_owned()) };
        assert_eq!(states, [FaultState::Resubmitted { attempt: 1 }, succeeded]);
    }
    let lessons = lake.lessons(&faults).await.unwrap();
    assert_eq!((lessons.len(), lessons[0].succeeded), (1, planned.sent));

    // so the stream is replayed into a fresh view
    let fresh = View::default();
    let replay = lake.replay(Selection::of("flights"));
    delays(&fresh, "1.1", lake).run_from(replay, Shutdown::never()).await.unwrap();
    assert_eq!(fresh.totals(), truth);
}
