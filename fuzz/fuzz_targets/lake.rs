//! L4, L5: whatever lies in a lake, reading it ends, in bounded memory, without a panic; and of an object whose bytes
//! have changed no record is yielded that was not stored, and none is left out in silence.

#![no_main]

use std::alloc::System;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use streambreaker::fault::{FaultEvent, FaultRecord};
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Change, Read, Reader, Room, Source, SourceError};
use streambreaker::{Class, Delivery, Position, Record, Timestamp};
use streambreaker_lake::object_store::memory::InMemory;
use streambreaker_lake::object_store::path::Path;
use streambreaker_lake::object_store::{ObjectStore, ObjectStoreExt};
use streambreaker_lake::{
    Bounds, Counts, FaultLake, FaultSelection, Finding, Lake, LakeError, LakeWriter, Selection,
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Far below the defaults, so that what goes beyond is seen in objects of a few bytes.
const BOUNDS: Bounds = Bounds {
    object_bytes: 64 << 10,
    group_bytes: 256 << 10,
    records: 1_000,
    record_bytes: 16 << 10,
};

/// What one look at the lake may allocate, all that it frees again included: what is within the bounds, several times.
const MOST: usize = 64 << 20;

const STREAM: &str = "orders";
const RUN: Uuid = Uuid::from_u128(7);
const FAULT: Uuid = Uuid::from_u128(9);

/// Paths and bytes.
type Objects = BTreeMap<String, Vec<u8>>;

fn arrival(n: u64) -> Timestamp {
    Timestamp::from_micros(1_357_034_400_000_000 + n as i64)
}

fn record(shard: &str, n: u64) -> Record {
    let payload = format!(r#"{{"id":"{shard}-{n}","type":"t{}","timestamp":{n}}}"#, n % 2);
    let record =
        Record::new(STREAM, shard, Position::from(n * 3), payload).with_arrival(arrival(n));
    if n % 3 == 0 {
        record
    } else {
        record.with_key(format!("k{n}")).with_header("n", "1").with_header("n", "")
    }
}

/// What was stored, by shard and position.
fn originals() -> BTreeMap<(String, Position), Record> {
    let all = (0..6).map(|n| record("0", n)).chain((0..3).map(|n| record("1", n)));
    all.map(|r| ((r.shard().to_string(), r.position().clone()), r)).collect()
}

fn fault(n: u64) -> FaultEvent {
    let records = vec![FaultRecord::whole(record("0", n))];
    FaultEvent::new("p", "q", "s", Class::Fault, records)
}

/// A lake as it is written: two objects of one shard, one of another, one of faults, a manifest.
fn sound() -> &'static Objects {
    static SOUND: OnceLock<Objects> = OnceLock::new();
    SOUND.get_or_init(|| {
        let store = Arc::new(InMemory::new());
        let lake = Lake::new(store.clone());
        in_time(async {
            let writer = LakeWriter::new(&lake);
            for items in [
                (0..4).map(|n| record("0", n)).collect::<Vec<_>>(),
                (4..6).map(|n| record("0", n)).collect(),
                (0..3).map(|n| record("1", n)).collect(),
            ] {
                let mut log = OutcomeLog::new(items.len());
                writer.write(&items, &mut log.outcomes()).await.expect("stored");
            }
            let faults = FaultLake::new(&lake);
            let items = [fault(1), fault(2)];
            let mut log = OutcomeLog::new(items.len());
            faults.write(&items, &mut log.outcomes()).await.expect("stored");
            let manifest = lake.manifest(STREAM).await.expect("a manifest");
            lake.store_manifest(&manifest).await.expect("stored");
            let mut objects = Objects::new();
            let list = store.list_with_delimiter(None).await.expect("a list");
            let mut folders = list.common_prefixes;
            while let Some(folder) = folders.pop() {
                let list = store.list_with_delimiter(Some(&folder)).await.expect("a list");
                folders.extend(list.common_prefixes);
                for meta in list.objects {
                    let bytes = store.get(&meta.location).await.expect("there");
                    let bytes = bytes.bytes().await.expect("read").to_vec();
                    objects.insert(meta.location.to_string(), bytes);
                }
            }
            assert_eq!(objects.len(), 5);
            objects
        })
    })
}

fn in_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let limited = async { tokio::time::timeout(Duration::from_secs(3_600), work).await };
    runtime.block_on(limited).expect("L4: it never ends")
}

/// What was found in a lake.
#[derive(Default)]
struct Found {
    replayed: Vec<Record>,
    /// Whether anything was said to be wrong: by the verifier, by the replay.
    verify_told: bool,
    replay_told: bool,
    faults: Vec<FaultEvent>,
    faults_told: bool,
    /// How many records there are of a time, and of a kind, a key and an id.
    of_time: Option<u64>,
    narrow: Option<u64>,
}

/// What may end the work: a note of the lake's own that cannot be read, and a seal, whose key nobody gave. The store never
/// fails, so nothing else is an error.
fn may_end(error: &LakeError) -> bool {
    use LakeError::{Document, OtherSelection, Sealed};
    matches!(error, Document { .. } | OtherSelection(_) | Sealed { .. })
}

fn told<T>(result: Result<T, LakeError>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(error) if may_end(&error) => None,
        Err(error) => panic!("L4: {error}: {:?}", std::error::Error::source(&error)),
    }
}

/// Whether this error of a source ends a replay for a reason.
fn ends(error: SourceError) {
    match &error {
        SourceError::Fatal(cause) if cause.downcast_ref().is_some_and(may_end) => {}
        error => panic!("L4: {error:?}: {:?}", std::error::Error::source(error)),
    }
}

async fn replay(lake: &Lake, selection: Selection, resumed: bool, found: &mut Found) {
    let mut source = lake.replay(selection);
    if resumed {
        source = source.resumable(RUN);
    }
    let progress = source.progress();
    loop {
        let mut reader = match source.next().await {
            Ok(None) => break,
            Ok(Some(Change::Assigned { reader, .. })) => reader,
            Ok(Some(_)) => unreachable!("a lake assigns"),
            Err(error) => {
                ends(error);
                found.replay_told = true;
                return;
            }
        };
        loop {
            match reader.read(Room { records: 100, bytes: 1 << 20 }).await {
                Ok(Read::Records { records, .. }) => {
                    assert!(!records.is_empty(), "an answer of nothing");
                    assert!(found.replayed.len() < 10_000, "L5: records without end");
                    found.replayed.extend(records);
                }
                Ok(Read::Gap { .. }) => found.replay_told = true,
                Ok(Read::End) => break,
                Ok(other) => panic!("what a lake never says: {other:?}"),
                Err(error) => {
                    ends(error);
                    found.replay_told = true;
                    return;
                }
            }
        }
    }
    found.replay_told |= !progress.counts().damaged.is_empty();
}

/// Everything that reads a lake.
async fn look(objects: &Objects, resumed: bool) -> Found {
    let store = Arc::new(InMemory::new());
    for (path, bytes) in objects {
        let path = Path::parse(path).expect("a path");
        store.put(&path, bytes.clone().into()).await.expect("put");
    }
    let lake = Lake::new(store).with_bounds(BOUNDS);
    let mut found = Found::default();
    let before = allocated();
    let manifest = told(lake.manifest(STREAM).await).expect("a manifest is made anew");
    let _ = (manifest.shards(), lake.streams().await.expect("streams"));
    found.replay_told |= !manifest.missing.is_empty() || !manifest.foreign.is_empty();
    let report = told(lake.verify(STREAM).await).expect("what is wrong is in the report");
    let _ = (report.to_string(), serde_json::to_string(&report).expect("it prints"));
    found.verify_told = report.findings.iter().any(Finding::is_grave);
    let selection = || Selection::of(STREAM);
    let counts = told(lake.dry_run(&selection()).await);
    replay(&lake, selection(), resumed, &mut found).await;
    if let Some(counts) = counts.filter(|_| !resumed) {
        assert_eq!(counts.records, found.replayed.len() as u64, "a dry run is what a replay is");
    }
    let records = |counts: Counts| counts.records;
    found.of_time = told(lake.dry_run(&selection().from(arrival(3))).await).map(records);
    // by bloom filters
    let narrow = selection().kind("t1").key("k1").id("0-1");
    found.narrow = told(lake.dry_run(&narrow).await).map(records);
    match told(lake.faults(&FaultSelection::of(STREAM)).await) {
        Some(faults) => {
            (found.faults, found.faults_told) = (faults.faults, !faults.damaged.is_empty())
        }
        None => found.faults_told = true,
    }
    told(lake.ledger_of(STREAM, FAULT).await);
    let spent = allocated() - before;
    assert!(spent < MOST, "L5: {spent} bytes were allocated");
    found
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    // `bytes_allocated` counts what a block was grown by, too
    stats.bytes_allocated
}

/// Bytes as what they claim to be.
fn hostile(kind: u8, bytes: &[u8]) {
    let mut objects = sound().clone();
    let folder = format!("stream={STREAM}");
    let path = match kind {
        // a name that the sound lake has not, one that it has, and one of another shard
        0 => format!("{folder}/date=2013-01-01/hour=10/0-30-39.parquet"),
        1 => objects
            .keys()
            .find(|path| path.ends_with("0-0-9.parquet"))
            .expect("it is there")
            .clone(),
        2 => format!("{folder}/date=2013-01-01/hour=10/shard%200-7-m%2D1.parquet"),
        3 => format!("{folder}/_manifest.json"),
        4 => format!("{folder}/_replays/{RUN}/0.json"),
        5 => format!("{folder}/_ledger/{FAULT}/0000.json"),
        _ => format!("{folder}/kind=fault/date=2013-01-01/hour=10/{FAULT}.ndjson"),
    };
    objects.insert(path, bytes.to_vec());
    let known = originals();
    in_time(async {
        let found = look(&objects, kind == 4).await;
        // what the hostile object does not touch is there all the same
        if !matches!(kind, 1 | 4) {
            let whole = |shard: &str, position: &Position| {
                found
                    .replayed
                    .iter()
                    .any(|r| r.shard().as_str() == shard && r.position() == position)
            };
            let all = known.keys().all(|(shard, position)| whole(shard, position));
            assert!(all || found.replay_told || found.verify_told, "L4: left out in silence");
        }
        if kind != 1 && kind < 6 {
            assert_eq!(found.faults.len(), 2);
        }
    });
}

/// A sound lake with some bytes changed: three bytes say which of an object's, and by what. The first says which object.
fn changed(data: &[u8]) {
    let mut objects = sound().clone();
    let Some((which, flips)) = data.split_first() else { return };
    let nth = usize::from(which % 4);
    let records: Vec<String> =
        objects.keys().filter(|path| path.ends_with(".parquet")).cloned().collect();
    let ndjson = || objects.keys().find(|path| path.ends_with(".ndjson")).cloned();
    let path = records.get(nth).cloned().or_else(ndjson).expect("four objects");
    // half of the time without a manifest
    if which & 4 == 0 {
        objects.retain(|path, _| !path.ends_with("_manifest.json"));
    }
    let bytes = objects.get_mut(&path).expect("it is there");
    if which & 8 != 0 {
        if let [low, high, ..] = flips {
            bytes.truncate(usize::from(u16::from_le_bytes([*low, *high])) % (bytes.len() + 1));
        }
    }
    for flip in flips.chunks_exact(3).take(200) {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([flip[0], flip[1]])) % bytes.len();
        bytes[at] ^= flip[2];
    }
    let untouched = sound()[&path] == *bytes;
    let known = originals();
    in_time(async {
        let found = look(&objects, false).await;
        if path.ends_with(".ndjson") {
            // what a fault says has no checksum, and where a line ends it can be cut: but something is read, or it is named
            assert!(
                !found.faults.is_empty() || found.faults_told,
                "L4: faults left out in silence"
            );
            return;
        }
        for record in &found.replayed {
            let key = (record.shard().to_string(), record.position().clone());
            let original = known.get(&key).expect("L4: a record that was never stored");
            let record = record.clone().with_delivery(Delivery::Live);
            assert_eq!(&record, original, "L4: another record");
        }
        let all = found.replayed.len() == known.len();
        assert!(all || found.replay_told, "L4: the replay leaves records out in silence");
        assert!(all || found.verify_told, "L4: the verifier is silent");
        if !found.verify_told {
            assert_eq!(
                (found.of_time, found.narrow),
                (Some(3), Some(1)),
                "L4: a selection leaves records out"
            );
        }
        if untouched {
            assert!(all && !found.replay_told && !found.verify_told, "nothing is wrong");
        }
    });
}

/// The Parquet library may panic, which is caught; the fuzzer would end the process before. So panics are kept quiet,
/// and one that nobody caught ends it here.
static LAST: Mutex<String> = Mutex::new(String::new());

fn panics_are_judged_by_who_catches_them() {
    std::panic::set_hook(Box::new(|info| {
        *LAST.lock().unwrap_or_else(|e| e.into_inner()) = info.to_string();
    }));
    sound();
}

fuzz_target!(init: panics_are_judged_by_who_catches_them(), |data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let run = || match kind % 8 {
        7 => changed(bytes),
        kind => hostile(kind, bytes),
    };
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(|e| e.into_inner()));
        std::process::abort();
    }
});
