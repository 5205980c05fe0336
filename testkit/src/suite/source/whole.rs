//! A whole processor over the source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use streambreaker::prelude::*;
use streambreaker::{Report, memory};
use tokio::time::timeout;

use super::harness::{Cannot, SourceHarness, must};
use super::held::{Held, message, payloads, publish};

/// How often the handler was done with each payload, over all lives.
type Effects = Arc<Mutex<BTreeMap<Bytes, u32>>>;

fn note(effects: &Effects, payload: &Bytes) {
    let mut effects = effects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *effects.entry(payload.clone()).or_default() += 1;
}

fn count(effects: &Effects) -> usize {
    effects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
}

/// A processor over a new consumer; a payload of `poison` is faulted.
async fn processor<H: SourceHarness>(
    harness: &H,
    effects: &Effects,
    faults: &memory::Collect<streambreaker::FaultEvent>,
    pace: Duration,
) -> Processor {
    let source = must("make a consumer", harness.consumer().await);
    let effects = effects.clone();
    // short: a transport may have a deadline of a second
    let db =
        Resource::builder("db").timeout(Duration::from_millis(500)).retry(Retry::none()).build();
    let db = db.expect("a resource with a timeout is valid");
    Processor::builder("suite")
        .source(source)
        .faults(faults.clone())
        .seed(1)
        // so that a drain leaves something
        .in_flight(16, 1 << 20)
        .pipeline("all", move |flow| {
            let effects = effects.clone();
            flow.parallel(4, &db, async move |record: &Received| {
                tokio::time::sleep(pace).await;
                if record.payload().starts_with(b"poison") {
                    return Err("poison").fault();
                }
                note(&effects, record.payload());
                Ok(())
            })
        })
        .build()
        .unwrap_or_else(|error| panic!("the suite's processor: {error}"))
}

/// Runs it until `done` holds, and drains it.
async fn run_until<H: SourceHarness>(
    harness: &H,
    processor: Processor,
    done: impl Fn() -> bool,
) -> Report {
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = processor.run(shutdown);
    tokio::pin!(run);
    let patience = timeout(harness.time().patience(), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let result = tokio::select! {
        biased;
        result = &mut run => result,
        waited = patience => {
            assert!(waited.is_ok(), "the processor does not get through all of it");
            trigger.pull();
            run.await
        }
    };
    result.unwrap_or_else(|error| panic!("the processor ends with {error}"))
}

/// With nothing injected: one effect a record, poison alone faulted, and the next life has nothing to do.
pub async fn i4_a_processor_settles_all_of_it<H: SourceHarness>(harness: &H) {
    for n in 0..200 {
        must("publish", harness.publish(0, &message(n)).await);
        if n % 20 == 0 {
            let poison = super::Message::new(format!("poison {n}"));
            must("publish", harness.publish(0, &poison).await);
        }
    }
    let ends = !harness.cannot().contains(&Cannot::End);
    if ends {
        must("close the stream", harness.close().await);
    }
    let (effects, faults) = (Effects::default(), memory::faults());
    let processor = processor(harness, &effects, &faults, Duration::ZERO).await;
    let all = || count(&effects) == 200 && faults.len() == 10;
    let report = match ends {
        // it comes to its end by itself
        true => timeout(harness.time().patience(), processor.run(Shutdown::never()))
            .await
            .unwrap_or_else(|_| panic!("the stream is closed, and the processor does not end"))
            .unwrap_or_else(|error| panic!("the processor ends with {error}")),
        false => run_until(harness, processor, all).await,
    };
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted, all.returned, all.open), (200, 10, 0, 0), "{report}");
    assert_eq!(report.exit_code(), 0, "{report}");
    assert_eq!(faults.len(), 10, "a fault a poison");
    let effects = effects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let twice: Vec<_> = effects.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "I4: nothing went wrong, and these were done twice: {twice:?}");
    Held::open(harness).await.quiet().await;
}

/// A drain in the middle commits what is done; the next life does the rest, and little twice.
pub async fn s5_what_a_drain_leaves_the_next_life_reads<H: SourceHarness>(harness: &H) {
    publish(harness, 0..100).await;
    let (effects, faults) = (Effects::default(), memory::faults());
    let pace = Duration::from_millis(20);
    let first = processor(harness, &effects, &faults, pace).await;
    let report = run_until(harness, first, || count(&effects) >= 30).await;
    assert!(report.drained, "it does not drain: {report}");
    let second = processor(harness, &effects, &faults, pace).await;
    let report = run_until(harness, second, || count(&effects) == 100).await;
    assert!(report.drained, "it does not drain: {report}");
    let seen: Vec<Bytes> = {
        let effects = effects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let twice: Vec<_> = effects.iter().filter(|(_, times)| **times > 1).collect();
        assert!(
            twice.is_empty(),
            "S5: a drain settles what is done, and these were done twice: {twice:?}"
        );
        effects.keys().cloned().collect()
    };
    let mut expected = payloads(0..100);
    expected.sort();
    assert_eq!(seen, expected);
    Held::open(harness).await.quiet().await;
}

/// Killed at several moments: in the end every record was done, at least once, and all is settled.
pub async fn s6_killed_and_run_again_nothing_is_lost<H: SourceHarness>(harness: &H) {
    publish(harness, 0..60).await;
    let (effects, faults) = (Effects::default(), memory::faults());
    let pace = Duration::from_millis(20);
    for kill_after in [0, 1, 20] {
        let processor = processor(harness, &effects, &faults, pace).await;
        let before = count(&effects);
        let killed = async {
            while count(&effects) < before + kill_after {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            () = killed => {}
            result = processor.run(Shutdown::never()) => panic!("it ended by itself: {result:?}"),
            () = tokio::time::sleep(harness.time().patience()) => panic!("nothing is done"),
        }
    }
    let last = processor(harness, &effects, &faults, pace).await;
    let report = run_until(harness, last, || count(&effects) == 60).await;
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(faults.is_empty(), "nothing was wrong with any record: {:?}", faults.events());
    Held::open(harness).await.quiet().await;
}
