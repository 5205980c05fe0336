//! The engine end to end, on the in-memory transport in paused time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Class, Position, Processor, Record, Shutdown};

fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().expect("valid")
}

fn numbers(n: u64, shards: usize) -> Stream {
    let stream = Stream::new("numbers", shards);
    for i in 0..n {
        stream.push_keyed(i.to_string(), i.to_string());
    }
    stream
}

#[tokio::test(start_paused = true)]
async fn i4_with_nothing_injected_every_record_has_one_effect_and_poison_alone_is_faulted() {
    let stream = numbers(1_000, 4);
    stream.push("poison");
    stream.close();
    let faults = memory::faults();
    let effects: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let db = resource("db");
    let seen = effects.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().filter(|n| **n % 10 != 0).parallel(
                8,
                &db,
                async move |n: &Event<u64>| {
                    if **n % 3 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    *seen.lock().unwrap().entry(**n).or_default() += 1;
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.filtered, all.faulted), (1_001, 900, 100, 1), "{report}");
    assert_eq!((all.returned, all.open, report.exit_code()), (0, 0, 0));
    assert!(effects.lock().unwrap().values().all(|n| *n == 1));
    assert_eq!(faults.events().len(), 1);
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn o12_a_returned_unit_beside_a_slow_healthy_one() {
    let stream = numbers(20, 1);
    stream.close();
    let tries: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(2))
        .retry(Retry::none())
        .seed(1)
        .build()
        .unwrap();
    let seen = tries.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .seed(1)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                let count = {
                    let mut seen = seen.lock().unwrap();
                    let count = seen.entry(**n).or_default();
                    *count += 1;
                    *count
                };
                match **n {
                    3 if count < 10 => Err("down").transient(),
                    5 => {
                        tokio::time::sleep(Duration::from_millis(900)).await;
                        Ok(())
                    }
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.returned), (20, 20, 0), "{report}");
    assert!(all.restarts >= 9);
    let tries = tries.lock().unwrap();
    assert_eq!((tries[&3], tries[&5]), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn f5_a_fault_sink_that_is_down_is_back_pressure() {
    let stream = Stream::new("numbers", 1);
    for i in 0..500u64 {
        stream.push(if i % 2 == 0 { "bad".to_owned() } else { i.to_string() });
    }
    stream.close();
    let faults = memory::faults();
    faults.down();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .in_flight(50, 1 << 20)
        .flood_guard(FloodGuard::off())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn({
        let processor = processor.clone();
        async move { processor.run(Shutdown::never()).await }
    });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stream.committed("g", 0), None);
    faults.up();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (250, 250));
    assert_eq!((report.faults_stored, faults.events().len()), (250, 250));
}

#[tokio::test(start_paused = true)]
async fn f2_a_group_faults_whole_in_its_order() {
    let stream = numbers(100, 1);
    stream.close();
    let faults = memory::faults();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>().group_by(|n| **n % 10, Window::items(4)).parallel(
                3,
                &db,
                async |group: &Group<u64, Event<u64>>| {
                    if group.key == 7 { Err("no sevens").fault() } else { Ok(()) }
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted), (90, 10), "{report}");
    let events = faults.events();
    let mut sizes: Vec<usize> = events.iter().map(|e| e.records.len()).collect();
    sizes.sort();
    assert_eq!(sizes, [2, 4, 4]);
    for event in &events {
        let positions: Vec<_> = event.records.iter().map(|r| r.record.position().clone()).collect();
        assert!(positions.is_sorted());
    }
}

#[tokio::test(start_paused = true)]
async fn t3_a_hung_handler_is_dropped_at_its_timeout_and_retried_then_returned_until_it_answers() {
    let stream = numbers(1, 1);
    stream.close();
    let calls = Arc::new(AtomicU32::new(0));
    let db = resource("db");
    let seen = calls.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.call(&db, async move |_| {
                if seen.fetch_add(1, Ordering::Relaxed) < 9 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 1);
    assert_eq!((calls.load(Ordering::Relaxed), report.pipelines["all"].restarts), (10, 2));
}

#[tokio::test(start_paused = true)]
async fn k1_a_bulk_write_settles_every_item_under_a_hostile_sink() {
    let stream = numbers(500, 1);
    stream.close();
    let faults = memory::faults();
    let sink =
        memory::Collect::<Event<u64>>::new().with_limits(streambreaker::sink::Limits::items(50));
    let mut state = 1u64;
    sink.decide(move |_, n: &Event<u64>| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match (**n, (state >> 33) % 5) {
            (n, _) if n % 100 == 7 => memory::Verdict::Reject,
            (_, 0) => memory::Verdict::Retry,
            (_, 1) => memory::Verdict::Silent,
            _ => memory::Verdict::Done,
        }
    });
    let index = Resource::builder("index")
        .timeout(Duration::from_secs(1))
        .retry(Retry::exponential().max_attempts(20))
        .retry_quota(RetryQuota::unlimited())
        .seed(1)
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
    assert_eq!((all.done, all.faulted), (495, 5), "{report}");
    assert_eq!(sink.len(), 495);
}

#[tokio::test(start_paused = true)]
async fn s5_a_drain_settles_what_is_in_flight_and_commits_it() {
    let stream = numbers(100, 2);
    let db = resource("db");
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>()
                .group_by(|n| **n % 3, Window::items(1000).linger(Duration::from_secs(3600)))
                .parallel(2, &db, async |_| {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok(())
                })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(report.drained && report.stopped, "{report}");
    assert_eq!(report.pipelines["all"].done, 100);
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn process_says_what_became_of_each_record() {
    let db = resource("db");
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| match **n {
                3 => Err("down").transient(),
                4 => Err("bad").fault(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let records = (0..6u64).map(|n| Record::new("s", "0", Position::from(n), n.to_string()));
    let outcome = processor.process(records).await;
    assert_eq!((outcome.settled.len(), outcome.faulted.len(), outcome.returned.len()), (4, 1, 1));
    // another stream has shards of the same names
    let both = [("s", 21u64, "3"), ("t", 8, "3"), ("s", 20, "1"), ("t", 9, "3")];
    let records = both.map(|(stream, at, n)| Record::new(stream, "0", Position::from(at), n));
    let two = processor.process(records).await;
    let first = |stream| two.first_returned(stream, &"0".into()).and_then(Position::as_u64);
    assert_eq!([first("s"), first("t"), first("u")], [Some(21), Some(8), None]);
    assert_eq!(outcome.first_returned("s", &"0".into()), Some(&Position::from(3)));
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_is_a_fault_of_its_unit() {
    let stream = numbers(10, 1);
    stream.close();
    let faults = memory::faults();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>()
                .filter(|n| if **n == 1 { panic!("filter") } else { true })
                .map(|n| if *n == 2 { panic!("map") } else { n })
                .parallel_by_key(
                    2,
                    |n| if **n == 3 { panic!("key") } else { **n % 2 },
                    &db,
                    async |n| {
                        assert!(**n != 4, "handler");
                        Ok(**n)
                    },
                )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (6, 4), "{report}");
    assert!(faults.events().iter().all(|e| e.class == Class::Panic));
}

#[tokio::test(start_paused = true)]
async fn a_finite_batch_above_the_in_flight_limit_ends_although_its_head_is_returned() {
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .in_flight(10, 1 << 20)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| match **n {
                0 => Err("down").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let records = (0..100u64).map(|n| Record::new("s", "0", Position::from(n), n.to_string()));
    let outcome = processor.process(records).await;
    assert_eq!((outcome.settled.len(), outcome.returned.len()), (99, 1));
}

#[tokio::test(start_paused = true)]
async fn s5_a_paused_pipeline_does_not_hold_the_drain() {
    let stream = numbers(10, 1);
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let by = streambreaker::By::new("ada", "a test");
    processor.handle().pause("all", &by).unwrap();
    let began = tokio::time::Instant::now();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(7));
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].returned), (0, 10));
}
