//! Rules T1 to T6, B1 to B4 and R1 to R3, through flows.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker::{Position, Processor, Record, Shutdown};
use support::*;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn t2_no_attempt_starts_that_cannot_end_before_the_deadline_of_a_process() {
    let begun = Instant::now();
    let starts: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let cancelled = Arc::new(AtomicU32::new(0));
    let (seen, cut) = (starts.clone(), cancelled.clone());
    struct Cut(Arc<AtomicU32>, bool);
    impl Drop for Cut {
        fn drop(&mut self) {
            self.0.fetch_add(u32::from(!self.1), Ordering::SeqCst);
        }
    }
    let db = resource("db");
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let (seen, cut) = (seen.clone(), cut.clone());
            flow.json::<u64>().call(&db, async move |_| {
                seen.lock().unwrap().push(begun.elapsed());
                let mut cut = Cut(cut.clone(), false);
                millis(900).await;
                cut.1 = true;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let records = (0..20u64).map(|n| Record::new("s", "0", Position::from(n), n.to_string()));
    let outcome = processor.process(records).within(Duration::from_secs(5)).await;
    assert_eq!((outcome.settled.len(), outcome.returned.len()), (5, 15));
    assert!(begun.elapsed() <= Duration::from_millis(5_001), "{:?}", begun.elapsed());
    let last = *starts.lock().unwrap().last().unwrap();
    assert!(last <= Duration::from_secs(4), "an attempt of a second starts at {last:?} of 5 s");
    assert_eq!(cancelled.load(Ordering::SeqCst), 0, "none is cut off");
}

#[tokio::test(start_paused = true)]
async fn t4_what_is_not_transient_is_not_retried() {
    let stream = numbers(10, 1);
    stream.close();
    let effects = Effects::default();
    let seen = effects.clone();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(3, &db, async move |n: &Event<u64>| {
                seen.note(**n);
                Err::<(), _>(std::io::Error::other("bad")).fault()
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].faulted, 10);
    assert!(effects.all().values().all(|tries| *tries == 1));
}

#[tokio::test(start_paused = true)]
async fn t5_one_by_one_leases_are_extended_while_a_unit_waits_in_its_backoff() {
    let stream = numbers(3, 1);
    stream.close();
    let effects = Effects::default();
    let seen = effects.clone();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(
            Retry::exponential()
                .max_attempts(2)
                .no_quick()
                .base(Duration::from_secs(8))
                .cap(Duration::from_secs(16)),
        )
        .seed(3)
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(30)))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                if seen.note(**n) < 2 { Err("down").transient() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.redelivered), (3, 3, 0), "{report}");
    assert!(effects.all().values().all(|tries| *tries == 2));
}

fn paused(concurrency: usize) -> Resource {
    Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .concurrency(concurrency)
        .breaker(
            Breaker::failure_ratio(0.5)
                .min_calls(4)
                .cool_down(Duration::from_secs(90))
                .on_open(OnOpen::Pause),
        )
        .seed(1)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn b1_after_a_long_pause_the_units_that_waited_get_their_permits_in_turn() {
    let stream = numbers(40, 1);
    stream.close();
    let up_at = Instant::now() + Duration::from_secs(60);
    let db = paused(1);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(16, &db, async move |_| {
                millis(200).await;
                if Instant::now() < up_at { Err("down").transient() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let report =
        tokio::time::timeout(HOUR, processor.run(Shutdown::never())).await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!(all.done, 40, "{report}");
    // one for the failures that opened it; none for the queue behind the pause
    assert_eq!(all.restarts, 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn s5_a_pause_counts_as_a_return_in_drain() {
    let stream = numbers(40, 1);
    let db = paused(4);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(8, &db, async |_| Err::<(), _>("down").transient())
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(30).await;
    let begun = Instant::now();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(report.drained && report.pipelines["all"].returned == 40, "{report}");
}

#[tokio::test(start_paused = true)]
async fn b4_breaker_and_permits_are_shared_over_shards_and_pipelines_and_none_leaks() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let db = Resource::builder("db")
        .timeout(Duration::from_millis(50))
        .retry(Retry::exponential().max_attempts(2))
        .on_exhausted(OnExhausted::Fault)
        .concurrency(5)
        .seed(1)
        .build()
        .unwrap();
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    for round in 0..3 {
        let stream = numbers(200, 4);
        stream.close();
        let mut builder = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .flood_guard(streambreaker::fault::FloodGuard::off());
        for name in ["one", "two"] {
            let (running, most, db) = (running.clone(), most.clone(), db.clone());
            builder = builder.pipeline(name, move |flow| {
                let (running, most) = (running.clone(), most.clone());
                flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    let _running = Running(running.clone());
                    match **n % 10 {
                        // hangs, panics, fails and goes well
                        1 => std::future::pending().await,
                        2 => panic!("two"),
                        3 => Err("down").transient(),
                        _ => {
                            millis(**n % 4).await;
                            Ok(())
                        }
                    }
                })
            });
        }
        let processor = builder.build().unwrap();
        let run = processor.run(Shutdown::never());
        if round == 1 {
            // cancelled in the middle
            let _ = tokio::time::timeout(Duration::from_millis(120), run).await;
            millis(1).await;
        } else {
            let report = tokio::time::timeout(HOUR, run).await.expect("ends").unwrap();
            assert_eq!(report.pipelines["two"].faulted, 60, "{report}");
        }
        assert_eq!(running.load(Ordering::SeqCst), 0);
        let permits = db.status().permits.expect("it has permits");
        assert_eq!(permits.in_use, 0, "round {round}: a permit leaked");
    }
    assert_eq!(most.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn r1_r3_every_window_holds_over_shards_pipelines_and_retries() {
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .rate(Rate::per(20, Duration::from_secs(1)).burst(5))
        .retry(Retry::exponential().max_attempts(3))
        .max_wait(HOUR)
        .seed(1)
        .build()
        .unwrap();
    let stream = numbers(150, 3);
    stream.close();
    let mut builder = Processor::builder("p").source(stream.consumer("g")).faults(memory::faults());
    for name in ["one", "two"] {
        let (seen, db, effects) = (starts.clone(), db.clone(), Effects::default());
        builder = builder.pipeline(name, move |flow| {
            let (seen, effects) = (seen.clone(), effects.clone());
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                seen.lock().unwrap().push(Instant::now());
                if **n % 3 == 0 && effects.note(**n) == 1 {
                    Err("down").transient()
                } else {
                    Ok(())
                }
            })
        });
    }
    let processor = builder.build().unwrap();
    let begun = Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["one"].done, report.pipelines["two"].done), (150, 150));
    let starts = starts.lock().unwrap();
    assert_eq!(starts.len(), 400, "retries count");
    for (i, first) in starts.iter().enumerate() {
        let within =
            starts[i..].iter().take_while(|s| **s - *first <= Duration::from_secs(1)).count();
        assert!(within <= 25, "R1: {within} starts within a second");
    }
    let rate = starts.len() as f64 / begun.elapsed().as_secs_f64();
    assert!(rate >= 0.95 * 20.0, "R2: {rate} a second");
}

#[tokio::test(start_paused = true)]
async fn r2_a_waiter_that_is_dropped_frees_its_place() {
    let db = Resource::builder("db")
        .timeout(Duration::from_millis(500))
        .rate(Rate::per(1, Duration::from_secs(10)))
        .max_wait(HOUR)
        .build()
        .unwrap();
    let processor = |stream: &memory::Stream| {
        let db = db.clone();
        Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("all", move |flow| flow.parallel(8, &db, async |_| Ok(())))
            .build()
            .unwrap()
    };
    let first = numbers(8, 1);
    {
        let one = processor(&first);
        let run = one.run(Shutdown::never());
        // seven wait for their turn; then they are gone
        assert!(tokio::time::timeout(Duration::from_secs(5), run).await.is_err());
    }
    millis(1).await;
    let second = numbers(2, 1);
    second.close();
    let begun = Instant::now();
    let report = processor(&second).run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 2);
    assert!(begun.elapsed() <= Duration::from_secs(16), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b1_what_went_well_counts_before_what_failed_after_it_in_the_same_turn() {
    let stream = numbers(60, 1);
    stream.close();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .on_exhausted(OnExhausted::Fault)
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
        .build()
        .unwrap();
    let dependency = db.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(64, &dependency, async |n: &Event<u64>| {
                if **n < 31 { Ok(()) } else { Err("down").transient() }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted), (31, 29), "{report}");
    // 29 of 60: without the good ones it would have opened with the twentieth
    let breaker = db.status().breaker.unwrap();
    assert_eq!((breaker.opened, breaker.calls, breaker.failures), (0, 60, 29));
    assert_eq!((db.status().successes, db.status().attempts), (31, 60));
}

#[tokio::test(start_paused = true)]
async fn b1_the_good_result_that_makes_the_calls_enough_opens_it_before_the_next_begins() {
    for width in [None, Some(8)] {
        let stream = numbers(60, 1);
        stream.close();
        let db = Resource::builder("db")
            .timeout(Duration::from_secs(1))
            .retry(Retry::none())
            .on_exhausted(OnExhausted::Fault)
            .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
            .build()
            .unwrap();
        let dependency = db.clone();
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("all", move |flow| {
                let work = async |n: &Event<u64>| {
                    if **n < 10 { Err("down").transient() } else { Ok(()) }
                };
                match width {
                    None => flow.json::<u64>().call(&dependency, work).boxed(),
                    Some(n) => flow.json::<u64>().parallel(n, &dependency, work).boxed(),
                }
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        let all = &report.pipelines["all"];
        let (status, ran) = (db.status(), (all.done, all.faulted));
        assert_eq!((ran, status.attempts, status.breaker_refused), ((10, 50), 20, 40), "{width:?}");
    }
}
