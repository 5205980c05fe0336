//! Whoever only looks: L4. What the store fails at for the moment is an error, or is tried again; it is never another answer.

use std::time::Duration;

use streambreaker::fault::FaultRecord;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::{Class, FaultEvent, Record};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, LakeError, LakeWriter, Selection};
use streambreaker_testkit::sim::{Gates, Life};

use super::store::Hostile;
use super::{PATIENCE, kills, log};

async fn write(lake: &Lake, items: &[Record]) {
    let mut log = OutcomeLog::new(items.len());
    LakeWriter::new(lake).write(items, &mut log.outcomes()).await.unwrap();
}

/// Stores these, some of them twice, and a fault for each.
async fn stored(all: &[Record], lake: &Lake, size: usize) {
    for chunk in all.chunks(size) {
        write(lake, chunk).await;
        let faults: Vec<FaultEvent> = chunk
            .iter()
            .map(|record| {
                let records = vec![FaultRecord::whole(record.clone())];
                FaultEvent::new("p", "q", "s", Class::Fault, records)
            })
            .collect();
        let mut log = OutcomeLog::new(faults.len());
        FaultLake::new(lake).write(&faults, &mut log.outcomes()).await.unwrap();
    }
}

/// What was found; none where the store failed for too long.
fn found<T>(gates: &Gates, looked: Result<T, LakeError>) -> Option<T> {
    match looked {
        Ok(found) => Some(found),
        Err(error) => {
            assert!(error.is_transient(), "{error}: {:?}", std::error::Error::source(&error));
            gates.note("given up");
            None
        }
    }
}

async fn look(gates: &Gates, lake: &Lake, records: u64, foreign: usize) {
    if let Some(manifest) = found(gates, lake.manifest("orders").await) {
        assert_eq!((&*manifest.damaged, &*manifest.missing), (&[][..], &[][..]));
        assert_eq!(manifest.objects.iter().map(|o| o.footer.records).sum::<u64>(), records);
        if found(gates, lake.store_manifest(&manifest).await).is_some() {
            gates.note("a manifest is stored");
        }
    }
    if let Some(report) = found(gates, lake.verify("orders").await) {
        gates.note("verified");
        assert_eq!((report.records, report.findings.len()), (records, foreign), "{report}");
    }
    if let Some(counts) = found(gates, lake.dry_run(&Selection::of("orders")).await) {
        gates.note("a dry run");
        assert_eq!((counts.records, &*counts.damaged), (records, &[][..]));
    }
    if let Some(faults) = found(gates, lake.faults(&FaultSelection::of("orders")).await) {
        gates.note("faults");
        assert_eq!((faults.faults.len() as u64, &*faults.damaged), (records, &[][..]));
    }
    if let Some(lessons) = found(gates, lake.lessons(&FaultSelection::of("orders")).await) {
        gates.note("lessons");
        assert_eq!(lessons.iter().map(|lesson| lesson.open).sum::<u64>(), records);
    }
}

pub(crate) fn scenario(gates: &Gates, seed: u64, named: Option<&[u64]>) -> Vec<u64> {
    let kills = kills(gates, named);
    let (all, store) = (log(gates, named), Hostile::new(gates));
    let size = 4 + gates.below(20) as usize;
    // what is looked at is written while all is well
    let calm = Gates::new(seed);
    calm.heal();
    let quiet = Hostile::new(&calm);
    let wrote = calm.live(None, PATIENCE, async || {
        stored(&all, &quiet.lake(), size).await;
        for path in quiet.paths().await {
            store.intrude(&path, quiet.bytes_of(&path).await).await;
        }
        store.intrude("stream=orders/README.txt", "not an object").await;
    });
    assert_eq!(wrote, Life::Ended(()));
    let mut awaits = Vec::new();
    for at in kills.iter().map(|at| Some(*at)).chain([None]) {
        let ended = gates.live(at, PATIENCE, async || {
            look(gates, &store.lake(), all.len() as u64, 1).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        awaits.push(gates.awaits());
        match ended {
            Life::Killed => gates.note("killed"),
            Life::Ended(()) => {}
            _ => panic!("a look hangs"),
        }
    }
    gates.heal();
    let ended =
        gates.live(None, PATIENCE, async || look(gates, &store.lake(), all.len() as u64, 1).await);
    assert_eq!(ended, Life::Ended(()));
    awaits
}

#[test]
fn l4_whoever_looks_sees_what_is_there_or_an_error() {
    super::random(
        "looks",
        scenario,
        &[
            "a dry run",
            "a manifest is stored",
            "cut off",
            "faults",
            "killed",
            "lessons",
            "listed twice",
            "throttled",
            "timed out",
            "verified",
        ],
    );
}

#[test]
fn s6_l4_a_look_that_dies_at_any_gate_changes_nothing() {
    super::exhaustive("looks", scenario);
}
