//! The writer: L1, L2. A checkpoint passes a record only when an object holds it, whatever dies when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::clock::PausedClock;
use streambreaker::memory::{Commit, CommitOutcome, Inject, Stream, What};
use streambreaker::prelude::*;
use streambreaker::{Delivery, Record, memory};
use streambreaker_lake::{Finding, LakeWriter, Selection};
use streambreaker_testkit::sim::{Gates, Life};

use super::store::Hostile;
use super::{PATIENCE, TEN, kills, log};

/// Positions of objects that were stored, first and last, by shard.
type Durable = Arc<Mutex<BTreeMap<String, Vec<(u64, u64)>>>>;

/// What an object's path says that it holds; none is an object of ours.
fn held(path: &str) -> Option<(String, u64, u64)> {
    let name = path.strip_suffix(".parquet")?.rsplit('/').next()?;
    let mut parts = name.split('-');
    let shard = parts.next()?.to_owned();
    Some((shard, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn writer(gates: &Gates, store: &Hostile) -> LakeWriter {
    let records = 1 + gates.below(12) as usize;
    LakeWriter::new(&store.lake()).records(records).linger(Duration::from_millis(500))
}

/// A life of the writer: to the end of the stream.
async fn store_all(gates: &Gates, stream: &Stream, store: &Hostile) -> u64 {
    let timeout = Duration::from_secs([1, 40][gates.below(2) as usize]);
    let resource = Resource::builder("lake")
        .timeout(timeout)
        .retry(Retry::exponential().max_attempts(3))
        .build()
        .unwrap();
    let faults = memory::faults();
    let processor = Processor::builder("lake-writer")
        .source(stream.consumer("lake"))
        .faults(faults.clone())
        .in_flight(1 + gates.below(40) as usize, 1 << 20)
        .commit_every(Duration::from_millis(100), 1 + gates.below(10))
        .pipeline("store", writer(gates, store).pipeline(&resource))
        .seed(gates.below(1_000))
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert!(faults.events().is_empty(), "L1: a record is a fault: {:?}", faults.events());
    report.pipelines["store"].returned
}

/// Leaves there what others leave: notes, and halves of objects, under names that ours could have.
async fn intrude(gates: &Gates, store: &Hostile) -> Vec<String> {
    let mut torn = Vec::new();
    store.intrude("stream=orders/README.txt", "not an object").await;
    if gates.below(2) == 0 {
        let first = gates.below(30);
        let path = format!(
            "stream=orders/date=2013-01-01/hour=10/0-{first}-{}.parquet",
            first + gates.below(10)
        );
        // it is left behind, not put in the place of a whole one
        if !store.paths().await.contains(&path) {
            store.intrude(&path, &b"PAR1 and then the power failed"[..]).await;
            gates.note("torn object");
            torn.push(path);
        }
    }
    torn
}

fn watch(gates: &Gates, stream: &Stream, store: &Hostile) {
    let durable = Durable::default();
    let stored = durable.clone();
    store.watch(move |path, _| {
        if let Some((shard, first, last)) = held(path.as_ref()) {
            stored.lock().unwrap().entry(shard).or_default().push((first, last));
        }
    });
    let gates = gates.clone();
    stream.on_commit(move |commit: &Commit| {
        let What::Through(through) = &commit.what else { return };
        if !matches!(commit.outcome, CommitOutcome::Applied | CommitOutcome::ReplyLost) {
            return;
        }
        gates.note("committed");
        let durable = durable.lock().unwrap();
        let objects = durable.get(commit.shard.as_str()).map_or(&[][..], Vec::as_slice);
        for n in 0..=through.as_u64().unwrap() {
            let is_held = objects.iter().any(|(first, last)| (*first..=*last).contains(&n));
            assert!(is_held, "L2: {n} is passed, and no object holds it");
        }
    });
}

pub(crate) fn scenario(gates: &Gates, _: u64, named: Option<&[u64]>) -> Vec<u64> {
    let kills = kills(gates, named);
    let (all, store) = (log(gates, named), Hostile::new(gates));
    let mut shards: Vec<_> = all.iter().map(|record| record.shard().clone()).collect();
    shards.dedup();
    let mut stream = None;
    let mut awaits = Vec::new();
    let mut torn = Vec::new();
    for (life, at) in kills.iter().map(|at| Some(*at)).chain([None]).enumerate() {
        let ended = gates.live(at, PATIENCE, async || {
            let stream = stream.get_or_insert_with(|| {
                let stream =
                    Stream::with_clock("orders", shards.clone(), PausedClock::starting_at(TEN));
                all.iter().for_each(|record| stream.push_record(record.clone()).unwrap());
                stream.close();
                watch(gates, &stream, &store);
                stream
            });
            if named.is_none() && life == 1 {
                torn = intrude(gates, &store).await;
            }
            if gates.happens("commit lost", 0.3) {
                stream.inject(Inject::CommitRepliesLost(2));
            }
            store_all(gates, stream, &store).await
        });
        awaits.push(gates.awaits());
        match ended {
            Life::Killed => gates.note("killed"),
            Life::Ended(returned) => {
                if returned > 0 {
                    gates.note("returned");
                }
            }
            _ => panic!("the writer hangs"),
        }
    }
    let stream = stream.unwrap();
    assert!(stream.is_settled("lake"), "I1: at the end all is committed");
    gates.heal();
    let ended = gates.live(None, PATIENCE, async || {
        let (report, found) = replayed(&store).await;
        assert_eq!(found, all, "L1: what a replay yields is what the stream yielded");
        let unexpected: Vec<_> = report
            .into_iter()
            .filter(|finding| match finding {
                Finding::Foreign { .. } | Finding::Unproven { .. } => false,
                Finding::Duplicate { .. } => {
                    gates.note("stored twice");
                    false
                }
                Finding::Damaged { path, .. } => !torn.contains(path),
                _ => true,
            })
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    });
    assert_eq!(ended, Life::Ended(()));
    awaits
}

/// What is wrong with the lake, and what a replay of it yields.
async fn replayed(store: &Hostile) -> (Vec<Finding>, Vec<Record>) {
    let lake = store.lake();
    let report = lake.verify("orders").await.unwrap();
    let found = memory::Collect::new();
    let (target, collect) = (
        found.clone(),
        Resource::builder("collect").timeout(Duration::from_secs(1)).build().unwrap(),
    );
    let processor = Processor::builder("replayed")
        .faults(memory::faults())
        .pipeline("collect", move |flow| {
            flow.map(|received: Received| received.record().clone())
                .bulk_write(&collect, target.clone())
                .in_flight(1)
        })
        .build()
        .unwrap();
    processor.run_from(lake.replay(Selection::of("orders")), Shutdown::never()).await.unwrap();
    let mut records: Vec<Record> = found.items();
    records.sort_by(|a, b| (a.shard(), a.position()).cmp(&(b.shard(), b.position())));
    let live = records.into_iter().map(|record| record.with_delivery(Delivery::Live)).collect();
    (report.findings, live)
}

#[test]
fn l1_l2_a_stream_is_stored_whole_whatever_the_store_does_and_whoever_dies() {
    super::random(
        "writer",
        scenario,
        &[
            "committed",
            "killed",
            "listed late",
            "reply lost",
            "reply lost late",
            "slow",
            "throttled",
            "timed out",
            "torn object",
        ],
    );
}

#[test]
fn s6_l2_a_writer_that_dies_at_any_gate_loses_nothing() {
    super::exhaustive("writer", scenario);
}
