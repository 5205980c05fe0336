//! Rules F1 to F11: what could not be processed is stored, once, whole, and holds nobody up.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use streambreaker::fault::{FaultEvent, FloodGuard, Scrubber};
use streambreaker::memory::{self, Stream, Verdict};
use streambreaker::prelude::*;
use streambreaker::sink::Limits;
use streambreaker::{Class, Lineage, Position, Processor, Shutdown};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);

fn poison(n: u64) -> Stream {
    let stream = Stream::new("numbers", 1);
    for _ in 0..n {
        stream.push("poison");
    }
    stream.close();
    stream
}

#[tokio::test(start_paused = true)]
async fn f1_a_fault_is_stored_before_the_checkpoint_passes_its_record() {
    let stream = numbers(300, 2);
    stream.close();
    let faults = memory::faults();
    // every fourth request is lost
    let mut requests = 0;
    faults.decide(move |index, _| {
        requests += u32::from(index == 0);
        if requests % 4 == 0 { Verdict::Retry } else { Verdict::Done }
    });
    let stored = faults.clone();
    let records = stream.clone();
    stream.on_commit(move |commit| {
        let streambreaker::memory::What::Through(at) = &commit.what else { return };
        let shard = records.shards().iter().position(|id| *id == commit.shard).unwrap();
        let durable: BTreeSet<Position> = stored
            .events()
            .iter()
            .flat_map(|event| event.records.iter())
            .filter(|fault| *fault.record.shard() == commit.shard)
            .map(|fault| fault.record.position().clone())
            .collect();
        for record in records.records(shard).iter().filter(|record| record.position() <= at) {
            let n: u64 = std::str::from_utf8(record.payload()).unwrap().parse().unwrap();
            assert!(n % 3 != 0 || durable.contains(record.position()), "I1: {n} is not stored");
        }
    });
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .commit_every(Duration::from_millis(5), 10)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| {
                millis(**n % 7).await;
                if **n % 3 == 0 { Err("bad").fault() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].faulted, 100, "{report}");
    let ids: BTreeSet<_> = faults.events().iter().map(|event| event.id).collect();
    assert_eq!((ids.len(), faults.len(), report.faults_stored), (100, 100, 100));
}

#[tokio::test(start_paused = true)]
async fn f5_a_fault_that_its_sink_never_takes_keeps_no_other_from_it() {
    let stream = Stream::new("numbers", 1);
    for n in 0..20u64 {
        stream.push(format!("poison {n}"));
    }
    stream.close();
    // one item a request, and the third record's fault is never taken
    let faults = memory::faults().with_limits(Limits::items(1));
    faults.decide(|_, event: &FaultEvent| {
        if event.records[0].record.payload() == "poison 2" {
            Verdict::Reject
        } else {
            Verdict::Done
        }
    });
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(5).await;
    assert_eq!(faults.len(), 19);
    assert_eq!(stream.committed("g", 0), Some(Position::from(1)));
    secs(600).await;
    let asked = faults.requests().len();
    assert!((30..200).contains(&asked), "neither given up nor stormed: {asked} requests");
    faults.decide_no_more();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.faults_stored, faults.len()), (20, 20));
}

struct Panics(Arc<AtomicU32>);

impl Scrubber for Panics {
    fn scrub<'a>(&self, _: &'a str) -> std::borrow::Cow<'a, str> {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("scrubber")
    }
}

#[tokio::test(start_paused = true)]
async fn f5_a_scrubber_that_panics_costs_the_text_and_not_the_fault() {
    let stream = poison(3);
    let faults = memory::faults();
    let asked = Arc::new(AtomicU32::new(0));
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .scrubber(Panics(asked.clone()))
        .pipeline("all", move |flow| {
            flow.call(&db, async |_| Err::<(), _>("the password is hunter2").fault())
        })
        .build()
        .unwrap();
    let run = processor.run(Shutdown::never());
    let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap();
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert_eq!((report.pipelines["all"].faulted, faults.len()), (3, 3), "{report}");
    assert!(
        faults
            .events()
            .iter()
            .all(|event| !String::from_utf8_lossy(&event.to_json()).contains("hunter2"))
    );
}

#[tokio::test(start_paused = true)]
async fn f5_a_fault_sink_whose_size_panics_holds_the_checkpoint_and_not_silently() {
    let stream = poison(3);
    let broken = Arc::new(AtomicBool::new(true));
    let told = broken.clone();
    let faults = memory::Collect::sized(move |_: &FaultEvent| {
        assert!(!told.load(Ordering::SeqCst), "size");
        1
    });
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(60).await;
    assert_eq!(stream.committed("g", 0), None);
    broken.store(false, Ordering::SeqCst);
    let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap().unwrap();
    assert_eq!((report.pipelines["all"].faulted, faults.len()), (3, 3), "{report}");
    assert_eq!(report.faults_unconfirmed, 0);
}

#[tokio::test(start_paused = true)]
async fn f5_parts_that_wait_for_a_sink_that_is_down_are_not_faulted_again_with_each_restart() {
    let stream = numbers(2, 1);
    stream.close();
    let faults = memory::faults();
    faults.down();
    let mended = Arc::new(AtomicBool::new(false));
    let told = mended.clone();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().split(|n| [(*n, 0u32), (*n, 1)]).parallel(
                4,
                &db,
                async move |(n, part): &(u64, u32)| match (n, part) {
                    (0, 0) => Err("bad").fault(),
                    _ if told.load(Ordering::SeqCst) => Ok(()),
                    _ => Err("down").transient(),
                },
            )
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(3_000).await;
    mended.store(true, Ordering::SeqCst);
    faults.up();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted), (1, 1), "{report}");
    assert!(faults.len() <= 2, "{} events of one part", faults.len());
}

#[tokio::test(start_paused = true)]
async fn f8_fatal_units_make_no_fault_and_are_tried_again_after_a_backoff() {
    let stream = numbers(10, 1);
    stream.close();
    let faults = memory::faults();
    let effects = Effects::default();
    let seen = effects.clone();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                if **n == 4 && seen.note(4) < 5 { Err("broken").fatal() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let begun = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 10, "{report}");
    assert_eq!(report.pipelines["all"].restarts, 4);
    assert!(begun.elapsed() > Duration::from_millis(20));
    assert!(faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn f8_one_by_one_a_returned_unit_comes_again_to_its_key() {
    let stream = numbers(6, 1);
    stream.close();
    let effects = Effects::default();
    let seen = effects.clone();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(30)))
        .faults(memory::faults())
        .max_deliveries(100)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel_by_key(
                2,
                |_| "one key",
                &db,
                async move |n: &Event<u64>| {
                    if **n == 0 && seen.note(0) < 3 { Err("down").transient() } else { Ok(()) }
                },
            )
        })
        .build()
        .unwrap();
    let run = processor.run(Shutdown::never());
    let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.returned), (6, 6, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn f8_only_its_own_returns_count_against_a_units_limit() {
    let stream = numbers(4, 1);
    stream.close();
    let faults = memory::faults();
    let effects = Effects::default();
    let seen = effects.clone();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .return_limit(3)
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                millis(if **n == 0 { 10 } else { 100 }).await;
                match (**n, seen.note(**n)) {
                    // those beside it are cancelled five times, which is not their doing
                    (0, 1..=5) => Err("broken").fatal(),
                    (1, 1..=2) => Err("down").transient(),
                    (2, _) => Err("down for ever").transient(),
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted), (3, 1), "{report}");
    assert_eq!(faults.events()[0].class, Class::Returned);
    assert_eq!(faults.events()[0].records[0].record.payload(), "2");
    assert_eq!(effects.of(2), 4, "returned three times, and then once more");
}

/// A value whose `drop` panics, once made so.
struct Grenade(u64, bool);

impl Drop for Grenade {
    fn drop(&mut self) {
        assert!(!self.1 || std::thread::panicking(), "drop");
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_in_the_drop_of_a_value_is_a_fault_of_its_unit() {
    for stage in 0..4 {
        let stream = numbers(20, 1);
        stream.close();
        let faults = memory::faults();
        let db = resource("db");
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(faults.clone())
            .pipeline("all", move |flow| {
                let flow = flow.json::<u64>().map(|n| Grenade(*n, *n == 7));
                match stage {
                    0 => flow.boxed(),
                    1 => flow.filter(|grenade| grenade.0 != 7).boxed(),
                    2 => {
                        flow.parallel(4, &db, async |_| Ok(())).map(|()| Grenade(0, false)).boxed()
                    }
                    _ => {
                        flow.parallel(4, &db, async |grenade: &Grenade| {
                            if grenade.0 == 7 { Err("bad").fault() } else { Ok(()) }
                        })
                        .map(|()| Grenade(0, false))
                        .boxed()
                    }
                }
            })
            .build()
            .unwrap();
        let run = processor.run(Shutdown::never());
        let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap();
        let all = &report.pipelines["all"];
        assert_eq!(all.done + all.filtered, 20 - all.faulted, "stage {stage}: {report}");
        assert!(all.faulted <= 1, "stage {stage}: {report}");
        assert_eq!(faults.len() as u64, all.faulted, "stage {stage}");
        assert!(stream.is_settled("g"));
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_inside_an_adapter_of_streams_is_a_fault_of_the_unit_it_held() {
    let stream = numbers(20, 1);
    stream.close();
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", |flow| {
            flow.json::<u64>().through(|units| {
                units.map(|unit| {
                    assert!(**unit.value() != 7, "seven");
                    unit
                })
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (19, 1));
    assert_eq!(faults.events()[0].class, Class::Panic);
}

#[tokio::test(start_paused = true)]
async fn f9_what_an_adapter_drops_twice_is_a_fault() {
    let stream = numbers(20, 1);
    stream.close();
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", |flow| {
            flow.json::<u64>()
                .through(|units| units.filter(|unit| std::future::ready(**unit.value() != 7)))
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (19, 1));
    assert_eq!(faults.events()[0].class, Class::Dropped);
}

#[tokio::test(start_paused = true)]
async fn f11_a_unit_of_no_records_that_fails_is_no_fault_that_waits_for_ever() {
    let stream = numbers(3, 1);
    stream.close();
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", |flow| {
            flow.json::<u64>()
                .through(|units| {
                    units.flat_map(|unit| {
                        // an adapter that adds what no record said
                        let extra = Lineage::join([]).with(None);
                        futures::stream::iter([unit.map(|n| Some(*n)), extra])
                    })
                })
                .try_map(|n: Option<u64>| n.ok_or("nobody's").fault())
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.faults_stored), (3, 0), "{report}");
    assert_eq!((report.faults_unconfirmed, report.exit_code()), (0, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn f10_an_open_circuit_faults_at_once_without_a_call() {
    let stream = numbers(400, 1);
    stream.close();
    let faults = memory::faults();
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .on_exhausted(OnExhausted::Fault)
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Siphon))
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().call(&db, async move |_| {
                seen.fetch_add(1, Ordering::SeqCst);
                Err::<(), _>("down").transient()
            })
        })
        .build()
        .unwrap();
    let begun = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "sooner than one attempt's timeout");
    assert_eq!(report.pipelines["all"].faulted, 400, "{report}");
    assert!(calls.load(Ordering::SeqCst) < 400);
    assert!(faults.events().iter().any(|event| event.class == Class::CircuitOpen));
}

#[tokio::test(start_paused = true)]
async fn f11_a_flood_trip_loses_none_and_the_counter_is_what_is_stored() {
    let stream = Stream::new("numbers", 2);
    for n in 0..600u64 {
        stream.push(n.to_string());
    }
    stream.close();
    let mended = Arc::new(AtomicBool::new(false));
    let told = mended.clone();
    let faults = memory::faults();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().parallel(8, &db, async move |_| {
                if told.load(Ordering::SeqCst) { Ok(()) } else { Err("a bug").fault() }
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(20).await;
    assert!((90..=110).contains(&faults.len()), "{} faults", faults.len());
    mended.store(true, Ordering::SeqCst);
    let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done + all.faulted, all.returned), (600, 600, 0), "{report}");
    assert_eq!(faults.len() as u64, all.faulted);
    assert_eq!(report.faults_stored, all.faulted);
}

/// A fault counts at once, a good unit only after its linger and its write: what is on its way must not look as
/// if only faults were decided.
#[tokio::test(start_paused = true)]
async fn f11_the_flood_guard_stands_a_healthy_pipeline_that_lingers() {
    let stream = streambreaker::memory::Stream::new("numbers", 4);
    for n in 0..20_000u64 {
        stream.push_keyed(n.to_string(), n.to_string());
    }
    stream.close();
    let db = streambreaker::Resource::builder("db")
        .timeout(std::time::Duration::from_secs(1))
        .build()
        .unwrap();
    let processor = streambreaker::Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(streambreaker::memory::faults())
        .pipeline("all", move |flow| {
            let window =
                streambreaker::Window::items(75).linger(std::time::Duration::from_millis(200));
            flow.json::<u64>()
                .validate(|n: &u64| if n % 100 == 7 { Err("poison") } else { Ok(()) })
                .group_by(|n| **n % 400, window)
                .parallel(2, &db, async |_| {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    Ok(())
                })
        })
        .build()
        .unwrap();
    let report = processor.run(streambreaker::Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted, all.restarts), (19_800, 200, 0), "{report}");
}

/// Numbers are split into two parts, of which the first are faulted together, and the second returned for a while.
fn split_and_grouped(
    split_first: bool,
    stream: &Stream,
    faults: &memory::Collect<FaultEvent>,
) -> Processor {
    let tries = Effects::default();
    let db = once("db");
    Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let tries = tries.clone();
            let handle = async move |part: &u64| match part {
                0 => Err("bad").fault(),
                // two of three times it is returned, and then all come again
                _ if tries.note(1) % 3 != 0 => Err("down").transient(),
                _ => Ok(()),
            };
            let window = Window::items(4).linger(Duration::from_millis(50));
            match split_first {
                true => flow
                    .json::<u64>()
                    .split(|_| [0u64, 1])
                    .group_by(|part| *part, window)
                    .map(|group| group.key)
                    .parallel(4, &db, handle)
                    .boxed(),
                false => flow
                    .json::<u64>()
                    .group_by(|_| (), window)
                    .split(|_| [0u64, 1])
                    .parallel(4, &db, handle)
                    .boxed(),
            }
        })
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn f1_f11_parts_that_were_faulted_in_a_group_are_not_faulted_again_with_each_restart() {
    for split_first in [true, false] {
        let stream = numbers(8, 1);
        stream.close();
        let faults = memory::faults();
        let run = split_and_grouped(split_first, &stream, &faults);
        let report = tokio::time::timeout(HOUR, run.run(Shutdown::never())).await.unwrap().unwrap();
        let all = &report.pipelines["all"];
        assert!(all.restarts >= 2, "{split_first}: {report}");
        assert_eq!((all.read, all.faulted, all.returned), (8, 8, 0), "{split_first}: {report}");
        // the counter is what is durable: each unit once in this life
        let ids: BTreeSet<_> = faults.events().iter().map(|event| event.id).collect();
        assert_eq!(ids.len() as u64, report.faults_stored, "{split_first}");
        assert_eq!(ids.len(), faults.len(), "{split_first}");
        let held: Vec<Position> = faults
            .events()
            .iter()
            .flat_map(|event| event.records.iter())
            .map(|held| held.record.position().clone())
            .collect();
        assert_eq!(held.len(), 8, "{split_first}: each record is in one of them: {held:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f5_a_fault_about_a_fault_says_its_depth_and_the_third_is_returned_instead() {
    let refuse = async |payload: Vec<u8>| {
        let faults = memory::faults();
        let processor = Processor::builder("monitor")
            .faults(faults.clone())
            .pipeline("all", |flow| {
                flow.decode(|_: &streambreaker::Received| {
                    Err::<u64, _>(streambreaker::BoxError::from("never"))
                })
            })
            .build()
            .unwrap();
        let record = streambreaker::Record::new("faults", "0", Position::from(0), payload);
        let done = processor.process([record]).await;
        (faults.items().first().cloned(), done.returned.len())
    };
    let mut payload = b"no fault at all".to_vec();
    for depth in 0..2 {
        let (event, returned) = refuse(payload).await;
        let event = event.expect("it is stored");
        assert_eq!((event.depth, returned), (depth, 0));
        payload = event.to_json();
    }
    let (event, returned) = refuse(payload).await;
    assert!(event.is_none() && returned == 1, "somebody reads his own faults");
}

#[tokio::test(start_paused = true)]
async fn f6_f11_a_fault_that_is_too_large_comes_in_parts_and_the_counter_is_what_is_stored() {
    let stream = Stream::new("numbers", 1);
    for n in 0..12u64 {
        stream.push(format!("{n:>1000}"));
    }
    stream.close();
    let faults = memory::faults().with_limits(Limits::items(10).with_bytes(6_000));
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>()
                .group_by(|_| 0, Window::items(12))
                .call(&db, async |_| Err::<(), _>("bad").fault())
        })
        .build()
        .unwrap();
    let run = processor.run(Shutdown::never());
    let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap();
    let events = faults.items();
    assert!(events.len() > 2, "{} events", events.len());
    assert!(events.iter().all(|event| event.to_json().len() <= 6_000));
    let held: Vec<_> = events.iter().flat_map(|event| event.records.iter()).collect();
    let positions: BTreeSet<Position> =
        held.iter().map(|held| held.record.position().clone()).collect();
    assert_eq!((held.len(), positions.len()), (12, 12), "each record is in one, whole");
    assert!(held.iter().all(|held| held.record.payload().len() == 1_000));
    assert_eq!(report.pipelines["all"].faulted, 12, "{report}");
    assert_eq!(report.faults_stored, events.len() as u64, "{report}");
}

#[tokio::test(start_paused = true)]
async fn f3_a_bulk_write_faults_what_ran_out_and_sends_what_was_accepted_no_more() {
    let stream = numbers(40, 1);
    stream.close();
    let faults = memory::faults();
    let sink = memory::Collect::<Event<u64>>::new().with_limits(Limits::items(10));
    sink.decide(|_, n: &Event<u64>| if **n % 10 == 3 { Verdict::Retry } else { Verdict::Done });
    let index = Resource::builder("index")
        .timeout(Duration::from_secs(1))
        .retry(Retry::exponential().max_attempts(3))
        .retry_quota(RetryQuota::unlimited())
        .on_exhausted(OnExhausted::Fault)
        .build()
        .unwrap();
    let target = sink.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| flow.json::<u64>().bulk_write(&index, target.clone()))
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted, all.restarts), (36, 4, 0), "{report}");
    let mut refused: Vec<String> = faults
        .events()
        .iter()
        .map(|event| {
            assert_eq!((event.records.len(), event.attempts.len()), (1, 3));
            String::from_utf8_lossy(event.records[0].record.payload()).into_owned()
        })
        .collect();
    refused.sort();
    assert_eq!(refused, ["13", "23", "3", "33"]);
    let mut sent: std::collections::BTreeMap<u64, u32> = Default::default();
    for item in sink.requests().iter().flatten() {
        *sent.entry(**item).or_default() += 1;
    }
    assert!(sent.iter().all(|(n, times)| *times == if n % 10 == 3 { 3 } else { 1 }), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn f1_f11_parts_of_a_group_that_forms_differently_from_flow_to_flow_have_no_fault_twice() {
    let stream = Stream::new("numbers", 1);
    (0..6).for_each(|n| drop(stream.push(n.to_string())));
    stream.close();
    let faults = memory::faults();
    let (flows, tries) = (AtomicUsize::new(0), Effects::default());
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .seed(1)
        .pipeline("all", move |flow| {
            // of two, then with others, and of the same two again
            let sizes = [2, 3, 2, 6, 2, 3, 2];
            let items = sizes[flows.fetch_add(1, Ordering::SeqCst) % sizes.len()];
            let tries = tries.clone();
            flow.json::<u64>()
                .compact(|_| 0, Window::items(items))
                .split(|n| [(*n, 0), (*n, 1)])
                .parallel(8, &db, async move |(_, part): &(u64, u32)| {
                    if *part == 0 {
                        Err("poison").fault()
                    } else if tries.note(1) < 40 {
                        Err("down").transient()
                    } else {
                        Ok(())
                    }
                })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].faulted, 6, "{report}");
    let events = faults.events();
    let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
    assert_eq!((events.len(), report.faults_stored), (ids.len(), ids.len() as u64));
}
