//! F2, O5: each record is in exactly one group, whole and in order; a group that fails is one fault with all of its
//! records.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use streambreaker::fault::FloodGuard;
use streambreaker::prelude::*;
use streambreaker::{Position, Processor, Record, memory};

#[derive(Arbitrary, Debug)]
struct Input {
    keys: Vec<u8>,
    items: u8,
    bytes: Option<u8>,
    linger_ms: u8,
    side_by_side: u8,
    /// How each group ends, by its turn.
    ends: Vec<End>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum End {
    Ok,
    Late(u8),
    Fault,
    Transient,
    Panic,
    Hang,
}

type Groups = Arc<Mutex<Vec<(u8, Vec<u64>)>>>;

/// The fuzzer ends the process at every panic; those that are injected must come through.
fn spare_panics_on_purpose() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"a handler panics") {
            abort(info);
        }
    }));
}

fuzz_target!(init: spare_panics_on_purpose(), |input: Input| {
    let keys: Vec<u8> = input.keys.iter().take(60).copied().collect();
    let limit = usize::from(input.items % 8) + 1;
    let mut window = Window::items(limit).linger(Duration::from_millis(input.linger_ms.into()));
    if let Some(bytes) = input.bytes {
        window = window.bytes(usize::from(bytes) + 1);
    }
    let resource = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::exponential().max_attempts(2))
        .on_exhausted(streambreaker::OnExhausted::Fault)
        .seed(1)
        .build()
        .expect("valid");
    let (done, faults) = (Groups::default(), memory::faults());
    let ends: Arc<Mutex<Vec<End>>> = Arc::new(Mutex::new(input.ends.clone()));
    let (seen, side_by_side) = (done.clone(), usize::from(input.side_by_side % 6) + 1);
    let processor = Processor::builder("p")
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .pipeline("q", move |flow| {
            let (seen, ends) = (seen.clone(), ends.clone());
            flow.json::<u8>().group_by(|key| **key, window).parallel(
                side_by_side,
                &resource,
                async move |group: &Group<u8, Event<u8>>| {
                    let end = ends.lock().expect("not poisoned").pop().unwrap_or(End::Ok);
                    match end {
                        End::Ok => {}
                        End::Late(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
                        End::Fault => return Err("wrong").fault(),
                        End::Transient => return Err("gone").transient(),
                        End::Panic => panic!("a handler panics"),
                        End::Hang => std::future::pending().await,
                    }
                    let at = |event: &Event<u8>| event.record().position().as_u64().expect("a number");
                    let positions = group.items.iter().map(at).collect();
                    seen.lock().expect("not poisoned").push((group.key, positions));
                    Ok(())
                },
            )
        })
        .build()
        .expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let records = keys.iter().zip(0u64..).map(|(key, at)| {
        Record::new("s", "0", Position::from(at), key.to_string())
    });
    let outcome = runtime.block_on(async {
        let run = processor.process(records.collect::<Vec<_>>());
        tokio::time::timeout(Duration::from_secs(86_400), run).await.expect("it never ends")
    });

    let mut groups = done.lock().expect("not poisoned").clone();
    for event in faults.events() {
        assert!(event.grouped || event.records.len() == 1);
        let at = |n: usize| event.records[n].record.position().as_u64().expect("a number");
        let positions: Vec<u64> = (0..event.records.len()).map(at).collect();
        groups.push((keys[positions[0] as usize], positions));
    }
    let mut fates: BTreeMap<u64, usize> = BTreeMap::new();
    for (key, positions) in &groups {
        assert!(positions.len() <= limit, "O5: a group has at most so many");
        assert!(positions.is_sorted_by(|a, b| a < b), "F2: in its order");
        for position in positions {
            assert_eq!(keys[*position as usize], *key, "O5: of one key");
            *fates.entry(*position).or_default() += 1;
        }
    }
    assert_eq!(fates.len(), keys.len(), "O5: every record is in a group");
    assert!(fates.values().all(|count| *count == 1), "O5: and in no other");
    assert!(outcome.returned.is_empty());
    assert_eq!(outcome.settled.len() + outcome.faulted.len(), keys.len());
});
