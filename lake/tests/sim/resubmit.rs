//! Sending faults again: L8. To the pipeline that refused them, and no more than once unless somebody says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::{By, Position, Record};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, Refused};
use streambreaker_testkit::sim::{Gates, Life};

use super::store::Hostile;
use super::{PATIENCE, TEN, kills};

/// How often each pipeline did each number.
type Effects = Arc<Mutex<BTreeMap<(&'static str, u64), u32>>>;

fn component(gates: &Gates, lake: &Lake, effects: &Effects, bad: u64) -> Processor {
    let table = Resource::builder("table")
        .timeout(Duration::from_secs(5))
        .retry(Retry::none())
        .on_exhausted(streambreaker::resource::OnExhausted::Fault)
        .seed(1)
        .build()
        .unwrap();
    let mut builder =
        Processor::builder("numbers").release("1.0").faults(FaultLake::new(lake)).seed(7);
    for name in ["one", "other"] {
        let (gates, effects, table) = (gates.clone(), effects.clone(), table.clone());
        builder = builder.pipeline(name, move |flow| {
            let (gates, effects) = (gates.clone(), effects.clone());
            flow.json::<u64>()
                .validate(move |n| if name == "one" && *n < bad { Err("not yet") } else { Ok(()) })
                .parallel(2, &table, async move |n: &Event<u64>| {
                    gates.pass("handler before").await;
                    *effects.lock().unwrap().entry((name, **n)).or_default() += 1;
                    gates.pass("handler after").await;
                    Ok(())
                })
        });
    }
    builder.build().unwrap()
}

pub(crate) fn scenario(gates: &Gates, seed: u64, named: Option<&[u64]>) -> Vec<u64> {
    let kills = kills(gates, named);
    let (bad, all) = (1 + gates.below(6), 8);
    let store = Hostile::new(gates);
    let effects = Effects::default();
    // the faults are made while all is well
    let calm = Gates::new(seed);
    calm.heal();
    let quiet = Hostile::new(&calm);
    let made = calm.live(None, PATIENCE, async || {
        let records = (0..all).map(|n| {
            Record::new("numbers", "0", Position::from(n), n.to_string()).with_arrival(TEN)
        });
        let outcome = component(&calm, &quiet.lake(), &effects, bad).process(records).await;
        for path in quiet.paths().await {
            let bytes = quiet.bytes_of(&path).await;
            store.intrude(&path, bytes).await;
        }
        outcome.faults.len() as u64
    });
    assert_eq!(made, Life::Ended(bad));

    let again = |unfinished: bool| {
        let again = store.lake().resubmit(FaultSelection::of("numbers"), By::new("ada", "mended"));
        let again = again.release("1.1");
        if unfinished { again.unfinished() } else { again }
    };
    let once = |effects: &Effects, whose: &str| {
        for ((pipeline, n), times) in &*effects.lock().unwrap() {
            assert!(*times <= 1, "L8: {n} has {times} effects in {pipeline}: {whose}");
        }
    };
    let mut awaits = Vec::new();
    for at in kills.iter().map(|at| Some(*at)).chain([None]) {
        let ended = gates.live(at, PATIENCE, async || {
            let mended = component(gates, &store.lake(), &effects, 0);
            // the store may end a run: then somebody starts another one
            for _ in 0..20 {
                match again(false).run(&mended).await {
                    Ok(report) => return Some(report),
                    Err(_) => gates.note("run ended by the store"),
                }
            }
            None
        });
        awaits.push(gates.awaits());
        once(&effects, "nobody said that it may be sent twice");
        match ended {
            Life::Killed => gates.note("killed"),
            Life::Ended(Some(report)) => {
                let unfinished = |why: &Refused| *why == Refused::Unfinished;
                if report.refused.values().any(unfinished) {
                    gates.note("left to people");
                }
            }
            Life::Ended(None) => gates.note("gave up"),
            _ => panic!("it hangs"),
        }
    }
    // the store is well, and somebody looks at what was left unfinished
    gates.heal();
    let ended = gates.live(None, PATIENCE, async || {
        let mended = component(gates, &store.lake(), &effects, 0);
        again(true).run(&mended).await.unwrap();
        let report = again(false).run(&mended).await.unwrap();
        (report.sent, report.settled_before)
    });
    assert_eq!(ended, Life::Ended((0, bad)), "L8: all are settled, and none is sent again");
    let effects = effects.lock().unwrap();
    for n in 0..all {
        let (one, other) = (effects.get(&("one", n)), effects.get(&("other", n)));
        assert!(one.is_some(), "L8: {n} was never done");
        assert_eq!(other, Some(&1), "L8: {n} went to a pipeline that had not refused it");
    }
    awaits
}

#[test]
fn l8_a_fault_is_sent_to_its_pipeline_and_once_whoever_dies() {
    super::random(
        "resubmit",
        scenario,
        &["killed", "left to people", "reply lost", "run ended by the store", "throttled"],
    );
}

#[test]
fn s6_l8_whoever_dies_at_any_gate_has_no_fault_done_twice() {
    super::exhaustive("resubmit", scenario);
}
