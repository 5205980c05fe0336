//! `call`, `parallel`, `parallel_by_key`, `with`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use streambreaker::memory::Stream;

use super::*;

#[tokio::test(start_paused = true)]
async fn call_works_on_one_unit_at_a_time_in_log_order() {
    let (seen, running) = (Seen::new(), Arc::new(AtomicUsize::new(0)));
    let note = seen.clone();
    let db = resource("db");
    let ran = run(0..20, move |flow| {
        let (note, running) = (note.clone(), running.clone());
        flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
            assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0);
            tokio::time::sleep(Duration::from_millis(20 - **n)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            note.push(**n);
            Ok(())
        })
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((20, 0, 0), (0..20).collect()));
}

#[tokio::test(start_paused = true)]
async fn call_begins_nothing_behind_a_returned_unit_also_where_a_return_is_final() {
    let seen = Seen::new();
    let note = seen.clone();
    let db = once("db");
    let (outcome, _) = process((0..10).map(|n| record(n, n)), move |flow| {
        let note = note.clone();
        flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
            note.push(**n);
            if **n == 4 { Err("down").transient() } else { Ok(()) }
        })
    })
    .await;
    assert_eq!(seen.all(), [0, 1, 2, 3, 4]);
    assert_eq!((outcome.settled.len(), outcome.returned.len()), (4, 6));
    assert_eq!(outcome.first_returned("s", &"0".into()), Some(&Position::from(4)));
}

#[tokio::test(start_paused = true)]
async fn call_keeps_the_order_of_parts_of_one_record_through_a_return() {
    let (seen, tries) = (Seen::new(), Arc::new(AtomicUsize::new(0)));
    let note = seen.clone();
    let db = once("db");
    let ran = run([3], move |flow| {
        let (note, tries) = (note.clone(), tries.clone());
        flow.json::<u32>().split(|n| 0..*n).call(&db, async move |n: &u32| {
            if *n == 0 && tries.fetch_add(1, Ordering::Relaxed) < 2 {
                return Err("down").transient();
            }
            note.push(*n);
            Ok(())
        })
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((1, 0, 0), vec![0, 1, 2]));
}

#[tokio::test(start_paused = true)]
async fn o8_parallel_never_exceeds_its_width_and_reaches_it() {
    let (most, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = most.clone();
    let db = resource("db");
    let ran = run(0..100, move |flow| {
        let (peak, running) = (peak.clone(), running.clone());
        flow.parallel(7, &db, async move |_| {
            peak.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        })
    })
    .await;
    assert_eq!((ran.fates(), most.load(Ordering::Relaxed)), ((100, 0, 0), 7));
}

#[tokio::test(start_paused = true)]
async fn parallel_faults_errors_and_panics_of_the_call_and_of_the_future() {
    let db = resource("db");
    let ran = run(0..6, move |flow| {
        flow.json::<u64>().parallel(3, &db, |n: &Event<u64>| {
            let n = **n;
            assert_ne!(n, 0, "the call itself");
            async move {
                assert_ne!(n, 1, "the future");
                "x".repeat(usize::from(n != 2)).parse::<u64>().err();
                if n == 3 { Err("three").fault() } else { Ok(()) }
            }
        })
    })
    .await;
    assert_eq!(ran.fates(), (3, 0, 3));
    let mut classes = ran.classes();
    classes.sort();
    assert_eq!(classes, [Class::Fault, Class::Panic, Class::Panic]);
}

#[tokio::test(start_paused = true)]
async fn widths_of_nothing_are_refused() {
    let db = resource("db");
    let text = refused(move |flow| flow.parallel(0, &db, async |_| Ok(())));
    assert!(text.contains("parallel: units at once") && text.contains("from 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn with_keeps_the_value_beside_what_was_looked_up() {
    let seen = Seen::new();
    let note = seen.clone();
    let (read, write) = (resource("read"), resource("write"));
    let ran = run(0..4, move |flow| {
        let note = note.clone();
        flow.json::<u64>()
            .with(2, &read, async |n: &Event<u64>| match **n {
                3 => Err("unknown").fault(),
                n => Ok(n * 10),
            })
            .call(&write, async move |(n, found): &(Event<u64>, u64)| {
                note.push((**n, *found));
                Ok(())
            })
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((3, 0, 1), vec![(0, 0), (1, 10), (2, 20)]));
    assert_eq!((&*ran.faults[0].stage, ran.faults[0].resource.as_deref()), ("with", Some("read")));
}

/// In real time, because paused time stands still while anything is ready; what is asserted is an order.
#[tokio::test]
async fn t3_a_timeout_is_kept_while_other_units_are_always_ready() {
    let db = Resource::builder("db")
        .timeout(Duration::from_millis(20))
        .retry(Retry::none())
        .on_exhausted(OnExhausted::Fault)
        .build()
        .unwrap();
    struct Note(Seen<usize>, Arc<AtomicUsize>);
    impl Drop for Note {
        fn drop(&mut self) {
            self.0.push(self.1.load(Ordering::Relaxed));
        }
    }
    let (count, ended) = (Arc::new(AtomicUsize::new(0)), Seen::new());
    let note = ended.clone();
    let ran = run(0..6_000, move |flow| {
        let (count, note) = (count.clone(), note.clone());
        flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
            if **n == 0 {
                let _note = Note(note.clone(), count.clone());
                std::future::pending::<()>().await;
            }
            std::thread::sleep(Duration::from_micros(50));
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    })
    .await;
    assert_eq!(ran.fates(), (5_999, 0, 1));
    let at = ended.all()[0];
    assert!(at < 2_000, "dropped after {at} of 6,000 units");
}

#[tokio::test(start_paused = true)]
async fn o2_by_key_later_units_of_a_faulted_key_go_on() {
    let seen = Seen::new();
    let note = seen.clone();
    let db = resource("db");
    let ran = run(0..9, move |flow| {
        let note = note.clone();
        flow.json::<u64>().parallel_by_key(
            3,
            |n| **n % 3,
            &db,
            async move |n: &Event<u64>| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if **n == 1 {
                    return Err("one").fault();
                }
                note.push(**n);
                Ok(())
            },
        )
    })
    .await;
    assert_eq!(ran.fates(), (8, 0, 1));
    let of_key: Vec<u64> = seen.all().into_iter().filter(|n| n % 3 == 1).collect();
    assert_eq!(of_key, [4, 7]);
}

#[tokio::test(start_paused = true)]
async fn o3_a_hung_key_holds_its_slot_only() {
    let seen = Seen::new();
    let note = seen.clone();
    let db = once("db");
    let (outcome, _) = process((0..40).map(|n| record(n, n)), move |flow| {
        let note = note.clone();
        flow.json::<u64>().parallel_by_key(
            2,
            |n| u64::from(**n != 0) * **n,
            &db,
            async move |n| {
                if **n == 0 {
                    std::future::pending::<()>().await;
                }
                note.push(**n);
                Ok(())
            },
        )
    })
    .await;
    assert_eq!((seen.all().len(), outcome.returned.len()), (39, 1));
}

#[tokio::test(start_paused = true)]
async fn o1_by_key_returns_what_waits_behind_a_returned_unit_also_where_a_return_is_final() {
    let seen = Seen::new();
    let note = seen.clone();
    let db = once("db");
    let (outcome, _) = process((0..12).map(|n| record(n, n)), move |flow| {
        let note = note.clone();
        flow.json::<u64>().parallel_by_key(
            4,
            |n| **n % 2,
            &db,
            async move |n: &Event<u64>| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                note.push(**n);
                if **n == 3 { Err("down").transient() } else { Ok(()) }
            },
        )
    })
    .await;
    let odd: Vec<u64> = seen.all().into_iter().filter(|n| n % 2 == 1).collect();
    assert_eq!((odd, outcome.returned.len(), outcome.settled.len()), (vec![1, 3], 5, 7));
}

#[tokio::test(start_paused = true)]
async fn o1_a_unit_that_the_flood_guard_returned_keeps_later_ones_of_its_key_from_beginning() {
    let (seen, tries) = (Seen::new(), Arc::new(AtomicUsize::new(0)));
    let stream = Stream::new("s", 1);
    // 200 of other keys that are bad open the guard; then one of key 1000 fails until it is fixed
    for n in (0..200).chain([1_000, 1_001, 1_002]) {
        stream.push(n.to_string());
    }
    stream.close();
    let db = resource("db");
    let note = seen.clone();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mended = broken.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .flood_guard(FloodGuard::ratio(0.1).min(10).window(20))
        .seed(1)
        .pipeline("all", move |flow| {
            let (note, tries, broken) = (note.clone(), tries.clone(), broken.clone());
            flow.json::<u64>().parallel_by_key(
                300,
                |n| if **n >= 1_000 { 1_000 } else { **n },
                &db,
                async move |n: &Event<u64>| {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if **n <= 1_000 && broken.load(Ordering::Relaxed) {
                        tries.fetch_add(1, Ordering::Relaxed);
                        return Err("broken").fault();
                    }
                    note.push(**n);
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(seen.all().is_empty(), "{:?}", seen.all());
    mended.store(false, Ordering::Relaxed);
    run.await.unwrap().unwrap();
    let of_key: Vec<u64> = seen.all().into_iter().filter(|n| *n >= 1_000).collect();
    assert_eq!(of_key, [1_000, 1_001, 1_002]);
}

#[tokio::test(start_paused = true)]
async fn a_returned_key_begins_again_on_a_source_that_acknowledges_one_by_one() {
    let stream = Stream::new("s", 1);
    for n in 0..20u64 {
        stream.push(n.to_string());
    }
    stream.close();
    let db = once("db");
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(30)))
        .faults(memory::faults())
        .seed(1)
        .pipeline("all", move |flow| {
            let count = count.clone();
            flow.json::<u64>().parallel_by_key(
                4,
                |n| **n % 2,
                &db,
                async move |n: &Event<u64>| {
                    if **n == 4 && count.fetch_add(1, Ordering::Relaxed) < 3 {
                        return Err("down").transient();
                    }
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let run = tokio::time::timeout(Duration::from_secs(600), processor.run(Shutdown::never()));
    let report = run.await.expect("the key never began again").unwrap();
    assert_eq!((report.pipelines["all"].done, tries.load(Ordering::Relaxed)), (20, 4), "{report}");
}

#[derive(Clone, Debug)]
struct Plan {
    key: u8,
    millis: u64,
    /// How often it fails before it succeeds; class transient, with one attempt: a return.
    returns: usize,
    fault: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    (0u8..5, 0u64..4, prop_oneof![9 => Just(0usize), 1 => 1usize..3], proptest::bool::weighted(0.1))
        .prop_map(|(key, millis, returns, fault)| Plan { key, millis, returns, fault })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn o1_to_o3_keys_keep_their_order_through_returns_and_faults(
        plans in proptest::collection::vec(plan(), 1..60),
        width in 1usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let effects = Seen::new();
        let running: Arc<Mutex<BTreeSet<u8>>> = Arc::default();
        let overlaps = Arc::new(AtomicUsize::new(0));
        let tries: Arc<Vec<AtomicUsize>> =
            Arc::new(plans.iter().map(|_| AtomicUsize::new(0)).collect());
        let (note, all, over) = (effects.clone(), plans.clone(), overlaps.clone());
        let db = once("db");
        let ran = runtime.block_on(run(0..plans.len(), move |flow| {
            let (note, all, tries) = (note.clone(), Arc::new(all.clone()), tries.clone());
            let (running, over, keys) = (running.clone(), over.clone(), all.clone());
            flow.json::<usize>().parallel_by_key(
                width,
                move |n| keys[**n].key,
                &db,
                async move |n: &Event<usize>| {
                    let plan = &all[**n];
                    if !running.lock().unwrap().insert(plan.key) {
                        over.fetch_add(1, Ordering::Relaxed);
                    }
                    if plan.millis > 0 {
                        tokio::time::sleep(Duration::from_millis(plan.millis)).await;
                    }
                    running.lock().unwrap().remove(&plan.key);
                    if tries[**n].fetch_add(1, Ordering::Relaxed) < plan.returns {
                        return Err("down").transient();
                    }
                    if plan.fault {
                        return Err("bad").fault();
                    }
                    note.push((plan.key, **n));
                    Ok(())
                },
            )
        }));
        let bad = plans.iter().filter(|plan| plan.fault).count() as u64;
        prop_assert_eq!(ran.fates(), (plans.len() as u64 - bad, 0, bad));
        prop_assert_eq!(overlaps.load(Ordering::Relaxed), 0);
        let mut of_key: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (key, n) in effects.all() {
            of_key.entry(key).or_default().push(n);
        }
        for (key, got) in of_key {
            let mut first = Vec::new();
            for n in got {
                if !first.contains(&n) {
                    first.push(n);
                }
            }
            let of = |n: &usize| plans[*n].key == key && !plans[*n].fault;
            let want: Vec<usize> = (0..plans.len()).filter(of).collect();
            prop_assert_eq!(first, want);
        }
    }
}
