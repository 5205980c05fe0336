//! Looking at a processor that runs, and turning its switches.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streambreaker::clock::PausedClock;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::resource::BreakerControl;
use streambreaker::{
    By, Class, Delivery, PartPath, Phase, Position, Record, ShardId, Skip, SwitchError, Timestamp,
    WaitsFor,
};
use uuid::Uuid;

fn by() -> By {
    By::new("ada", "a test")
}

fn stream(n: u64) -> Stream {
    let stream = Stream::new("numbers", 1);
    for i in 0..n {
        stream.push(i.to_string());
    }
    stream
}

#[tokio::test(start_paused = true)]
async fn a_paused_pipeline_takes_nothing_and_goes_on_when_resumed() {
    let stream = stream(10);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = processor.handle();
    assert_eq!((handle.status().phase, handle.ready()), (Phase::Idle, false));
    handle.pause("all", &by()).unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = handle.status();
    assert!(status.ready && status.live, "{status:?}");
    assert_eq!((status.lanes[0].in_flight, status.lanes[0].waits_for), (10, WaitsFor::Operator));
    assert_eq!(stream.committed("g", 0), None);
    handle.resume("all", &by()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(stream.is_settled("g"));
    assert_eq!(handle.status().lanes[0].waits_for, WaitsFor::Source);
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(report.pipelines["all"].done, 10);
    assert_eq!(handle.status().phase, Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn s5_a_drain_does_not_wait_for_a_pipeline_that_is_paused() {
    let stream = stream(10);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = processor.handle();
    handle.pause("all", &by()).unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = tokio::time::Instant::now();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (0, 10), "{report}");
    assert_eq!(stream.committed("g", 0), None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_returned_for_ever_can_be_skipped() {
    let stream = stream(10);
    let faults = memory::faults();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .build()
        .unwrap();
    let mended = Arc::new(AtomicBool::new(false));
    let told = mended.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                match **n == 4 && !told.load(Ordering::Relaxed) {
                    true => Err("never").transient(),
                    false => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn({
        let processor = processor.clone();
        async move { processor.run(Shutdown::never()).await }
    });
    tokio::time::sleep(Duration::from_secs(600)).await;
    let lane = handle.status().lanes[0].clone();
    assert_eq!(lane.waits_for, WaitsFor::Restart, "{lane:?}");
    assert_eq!(lane.last_class, Some(Class::Transient));
    let (shard, position) = (lane.shard.clone(), lane.oldest.clone().expect("stuck"));
    assert!(handle.skip(&ShardId::new("other"), &position, &by()).is_err());
    let settled = handle.skip(&shard, &Position::from(3), &by()).unwrap_err();
    assert!(settled.to_string().contains("record 3 of shard `0` is settled already"), "{settled}");
    assert_eq!(handle.skip(&shard, &Position::from(11), &by()).unwrap(), Skip::WhenItComes);
    let now = Skip::Now { pipelines: vec!["all".to_owned()] };
    assert_eq!(handle.skip(&shard, &position, &by()).unwrap(), now);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(handle.skip(&shard, &position, &by()), Err(SwitchError::Settled { .. })));
    assert_eq!(handle.status().lanes[0].oldest, None);
    stream.push("10");
    stream.push("11");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(faults.events().len(), 2, "what was skipped before it came");
    stream.close();
    let report = run.await.unwrap().unwrap();
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].faulted),
        (10, 2),
        "{report}"
    );
    assert!(faults.events().iter().all(|fault| fault.class == Class::Skipped));
    // the cause is mended: sent again from its fault, and in a replay, it is worked on
    mended.store(true, Ordering::Relaxed);
    let record = faults.events()[0].records[0].record.clone();
    let (fault, part) = (faults.events()[0].id, PartPath::whole());
    let again =
        record.clone().with_delivery(Delivery::Resubmit { fault, attempt: 1, part, run: None });
    let done = processor.process([again]).await;
    assert_eq!((done.settled.len(), done.faulted.len()), (1, 0));
    let replay = Stream::new("numbers", 1);
    replay.push_record(record.with_delivery(Delivery::Replay { run: fault })).unwrap();
    replay.close();
    let report = processor.run_from(replay.consumer("g"), Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].faulted, 2, "as before: {report}");
}

#[tokio::test(start_paused = true)]
async fn a_record_is_skipped_in_the_stream_and_not_in_what_runs_beside_it() {
    let stream = stream(10);
    let faults = memory::faults();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1_000))
        .retry(Retry::none())
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(16, &db, async |n: &Event<u64>| {
                if !n.delivery().is_live() {
                    tokio::time::sleep(Duration::from_secs(100)).await;
                } else if **n == 4 {
                    return Err("never").transient();
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let of = |delivery: Delivery| {
        let record = move |r: &Record| r.clone().with_delivery(delivery.clone());
        stream.records(0).iter().map(record).collect::<Vec<_>>()
    };
    let run = Uuid::from_u128(7);
    let replay = Stream::new("numbers", 1);
    for record in of(Delivery::Replay { run }) {
        replay.push_record(record).unwrap();
    }
    replay.close();
    let sent =
        of(Delivery::Resubmit { fault: run, attempt: 1, part: PartPath::whole(), run: None });
    let live = processor.run(Shutdown::never());
    let beside = async {
        tokio::join!(
            processor.run_from(replay.consumer("g"), Shutdown::never()),
            processor.process(sent).into_future(),
        )
    };
    let operator = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        let now = Skip::Now { pipelines: vec!["all".to_owned()] };
        let (shard, position) = (ShardId::new("0"), Position::from(4));
        assert_eq!(handle.skip(&shard, &position, &by()).unwrap(), now);
        tokio::time::sleep(Duration::from_secs(40)).await;
        // the others are still at it, and do not make it open
        assert!(matches!(handle.skip(&shard, &position, &by()), Err(SwitchError::Settled { .. })));
        stream.close();
    };
    let (report, (replayed, processed), ()) = tokio::join!(live, beside, operator);
    report.unwrap();
    assert_eq!(processed.settled.len(), 10);
    let report = replayed.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.faulted), (30, 29, 1), "{report}");
    assert!(faults.events()[0].delivery.is_live());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_given_back_is_skipped_when_it_comes_again() {
    let stream = stream(10);
    let faults = memory::faults();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .build()
        .unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(600)))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| match **n {
                4 => Err("never").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = handle.status();
    assert_eq!((status.pipelines["all"].records.done, status.lanes[0].in_flight), (9, 0));
    let shard = ShardId::new("0");
    assert_eq!(handle.skip(&shard, &Position::from(4), &by()).unwrap(), Skip::WhenItComes);
    stream.close();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (9, 1), "{report}");
    assert_eq!(faults.events()[0].class, Class::Skipped);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_can_be_held_open_and_a_pause_waits_for_it() {
    let stream = stream(10);
    let called = Arc::new(AtomicBool::new(false));
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Pause))
        .build()
        .unwrap();
    let seen = called.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |_| {
                seen.store(true, Ordering::Relaxed);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    handle.breaker("db", BreakerControl::HeldOpen, &by()).unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!called.load(Ordering::Relaxed));
    assert_eq!(handle.status().lanes[0].waits_for, WaitsFor::Breaker);
    handle.breaker("db", BreakerControl::Auto, &by()).unwrap();
    stream.close();
    let report = run.await.unwrap().unwrap();
    assert_eq!(report.pipelines["all"].done, 10);
}

#[tokio::test(start_paused = true)]
async fn s9_iterator_age_grows_while_stuck_and_is_zero_at_the_end() {
    let start = Timestamp::from_millis(1_700_000_000_000);
    let clock = Arc::new(PausedClock::starting_at(start));
    let stream = Stream::with_clock("numbers", [ShardId::new("0")], clock.clone());
    stream.push("1");
    let db = Resource::builder("db").timeout(Duration::from_secs(1000)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .clock(clock)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |_| {
                tokio::time::sleep(Duration::from_secs(100)).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(50)).await;
    let lane = handle.status().lanes[0].clone();
    assert!((49.9..51.0).contains(&lane.iterator_age_seconds), "{lane:?}");
    assert_eq!(lane.waits_for, WaitsFor::Handler);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(handle.status().lanes[0].iterator_age_seconds, 0.0);
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_is_an_error_that_lists_the_names() {
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", |flow| flow.json::<u64>())
        .pipeline("search", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let handle = processor.handle();
    let error = handle.pause("totls", &by()).unwrap_err().to_string();
    assert!(error.contains("totals, search"), "{error}");
    assert!(handle.breaker("db", BreakerControl::Auto, &by()).is_err());
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(json["pipelines"]["totals"]["flood_guard"], "closed");
}

#[tokio::test(start_paused = true)]
async fn what_a_part_of_a_record_waits_for_is_shown_whatever_the_other_parts_have_waited_for() {
    let stream = stream(1);
    let hour = Duration::from_secs(3600);
    let once_an_hour = Retry::exponential().no_quick().base(hour).cap(hour);
    let (quick, slow) = (
        Resource::builder("quick").timeout(Duration::from_secs(1)).seed(1).build().unwrap(),
        Resource::builder("slow")
            .timeout(Duration::from_secs(1))
            .retry(once_an_hour)
            .seed(1)
            .build()
            .unwrap(),
    );
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .seed(1)
        .pipeline("all", move |flow| {
            let failed = std::sync::atomic::AtomicBool::new(false);
            flow.split(|_| [0u32, 1])
                .parallel(2, &quick, async move |part: &u32| match *part {
                    // its backoff is over when that of the other one has just begun
                    1 if !failed.swap(true, Ordering::Relaxed) => Err("busy").transient(),
                    part => Ok(part),
                })
                .parallel(2, &slow, async |part: &u32| match *part {
                    0 => Err("down").transient(),
                    _ => Ok(()),
                })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(handle.status().lanes[0].waits_for, WaitsFor::Retry);
    run.abort();
}
