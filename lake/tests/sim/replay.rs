//! The replay: L6. It reaches all that is selected, goes on where it was, and writes nothing but how far it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::{Record, memory};
use streambreaker_lake::{LakeWriter, Selection};
use streambreaker_testkit::sim::{Gates, Life};
use uuid::Uuid;

use super::store::Hostile;
use super::{PATIENCE, kills, log};

/// A record by its place.
type Place = (String, u64);

fn place(record: &Record) -> Place {
    (record.shard().to_string(), record.position().as_u64().unwrap())
}

/// What is outside of the process: what it has done, and how far it has noted that it is.
#[derive(Default)]
struct World {
    done: BTreeSet<Place>,
    /// The last position that is noted as settled, by shard.
    noted: BTreeMap<String, u64>,
    twice: u64,
}

/// Writes these, some of them by two owners at once, who do not see each other's objects.
async fn write(store: &Hostile, all: &[Record], records: usize, overlap: usize) {
    for from in (0..all.len()).step_by(records) {
        let chunk = &all[from..(from + records + overlap).min(all.len())];
        store.hide_all().await;
        let mut log = OutcomeLog::new(chunk.len());
        LakeWriter::new(&store.lake()).write(chunk, &mut log.outcomes()).await.unwrap();
        assert!((0..chunk.len()).all(|at| log.is_done(at)));
    }
}

/// A processor whose handler takes its time, passes gates, and fails now and then.
fn processor(gates: &Gates, world: &Arc<Mutex<World>>) -> Processor {
    let table = Resource::builder("table").timeout(Duration::from_secs(5)).seed(1).build().unwrap();
    let (gates, world) = (gates.clone(), world.clone());
    Processor::builder("replayed")
        .faults(memory::faults())
        .commit_every(Duration::from_millis(50), 1 + gates.below(20))
        .seed(gates.below(1_000))
        .pipeline("all", move |flow| {
            let (gates, world) = (gates.clone(), world.clone());
            flow.parallel(3, &table, async move |received: &Received| {
                gates.pass("handler before").await;
                if gates.happens("handler failed", 0.1) {
                    return Err(StepError::new(streambreaker::Class::Transient, "injected"));
                }
                {
                    let (mut world, place) = (world.lock().unwrap(), place(received.record()));
                    assert!(received.delivery().is_replay(), "L7: a replayed record says so");
                    let noted = world.noted.get(&place.0).copied();
                    assert!(
                        noted.is_none_or(|noted| noted < place.1),
                        "L6: {place:?} comes again, and {noted:?} was settled"
                    );
                    if !world.done.insert(place) {
                        world.twice += 1;
                    }
                }
                gates.pass("handler after").await;
                Ok(())
            })
        })
        .build()
        .unwrap()
}

pub(crate) fn scenario(gates: &Gates, seed: u64, named: Option<&[u64]>) -> Vec<u64> {
    let kills = kills(gates, named);
    let (all, store) = (log(gates, named), Hostile::new(gates));
    let records = 1 + gates.below(20) as usize;
    let overlap = gates.below(2) as usize * gates.below(9) as usize;
    // what is to be read is written while all is well
    let calm = Gates::new(seed);
    calm.heal();
    let quiet = Hostile::new(&calm);
    let wrote = calm.live(None, PATIENCE, async || {
        write(&quiet, &all, records, overlap).await;
        for path in quiet.paths().await {
            let bytes = quiet.bytes_of(&path).await;
            store.intrude(&path, bytes).await;
        }
        if named.is_none() {
            store.intrude("stream=orders/date=2013-01-01/hour=10/notes.txt", "of people").await;
            // a half of an object, whose records are in others
            let torn = "stream=orders/date=2013-01-01/hour=10/0-0-3-1.parquet";
            store.intrude(torn, &b"PAR1"[..]).await;
        }
        store.paths().await
    });
    let Life::Ended(before) = wrote else { panic!("it cannot be written") };
    let world: Arc<Mutex<World>> = Arc::default();
    let cursor = world.clone();
    store.watch(move |path, bytes| {
        if !path.as_ref().contains("/_replays/") {
            return;
        }
        let noted: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let settled = noted["settled"].as_u64().or_else(|| noted["settled"].as_str()?.parse().ok());
        let settled = settled.unwrap_or_else(|| panic!("a position in {noted}"));
        let shard = path.filename().unwrap().trim_end_matches(".json").to_owned();
        let shard = shard.trim_start_matches("shard=").to_owned();
        let mut world = cursor.lock().unwrap();
        for n in 0..=settled {
            assert!(world.done.contains(&(shard.clone(), n)), "I1: {shard}/{n} is noted, not done");
        }
        world.noted.insert(shard, settled);
    });
    let id = Uuid::from_u128(u128::from(seed) + 1);
    let mut awaits = Vec::new();
    for at in kills.iter().map(|at| Some(*at)).chain([None]) {
        let ended = gates.live(at, PATIENCE, async || {
            let processor = processor(gates, &world);
            let source = store.lake().replay(Selection::of("orders")).resumable(id);
            let report = processor.run_from(source, Shutdown::never()).await.unwrap();
            report.pipelines["all"].faulted
        });
        awaits.push(gates.awaits());
        match ended {
            Life::Killed => gates.note("killed"),
            Life::Ended(faulted) => assert_eq!(faulted, 0),
            _ => panic!("the replay hangs"),
        }
    }
    let world = world.lock().unwrap();
    let wanted: BTreeSet<Place> = all.iter().map(place).collect();
    assert_eq!(world.done, wanted, "L6: all that is selected");
    if world.twice > 0 {
        gates.note("done again");
    }
    if !world.noted.is_empty() {
        gates.note("resumed from a note");
    }
    drop(world);
    gates.heal();
    let after = gates.live(None, PATIENCE, async || store.paths().await);
    let Life::Ended(after) = after else { panic!("it cannot be listed") };
    // its cursors, and the lake's own index, are all that is new
    let new: Vec<_> =
        after.iter().filter(|path| !before.contains(path) && !path.contains("/_")).collect();
    assert!(new.is_empty(), "L6: it wrote {new:?}");
    assert!(before.iter().all(|path| after.contains(path)), "L6: it removed something");
    awaits
}

#[test]
fn l6_a_replay_reaches_all_and_goes_on_where_it_was_whoever_dies() {
    super::random(
        "replay",
        scenario,
        &[
            "done again",
            "handler failed",
            "killed",
            "reply lost",
            "resumed from a note",
            "throttled",
            "timed out",
        ],
    );
}

#[test]
fn s6_l6_a_replay_that_dies_at_any_gate_goes_on() {
    super::exhaustive("replay", scenario);
}
