//! Rules I1 to I10: every record ends in one fate, and the checkpoint tells the truth.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use streambreaker::memory::{self, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::{Class, Position, Processor, Shutdown, WaitsFor};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn i9_what_is_settled_is_committed_in_time_although_its_batch_is_not() {
    let stream = numbers(100, 1);
    let db = Resource::builder("db").timeout(HOUR * 2).retry(Retry::none()).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| {
                millis(1).await;
                if **n == 50 {
                    tokio::time::sleep(HOUR).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(10).await;
    assert_eq!(stream.committed("g", 0), Some(Position::from(49)));
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn i9_one_by_one_what_is_settled_is_acknowledged_in_time_although_its_batch_is_not() {
    let stream = numbers(100, 1);
    let db = Resource::builder("db").timeout(HOUR * 2).retry(Retry::none()).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(7201)))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| {
                millis(1).await;
                if **n == 50 {
                    tokio::time::sleep(HOUR).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(10).await;
    assert_eq!(stream.unacked("g"), 1);
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn i10_two_pipelines_share_a_record_that_may_kill_the_process() {
    let stream = numbers(30, 2);
    stream.close();
    // five lives that decide nothing
    for _ in 0..5 {
        let db = resource("db");
        let processor = Processor::builder("p")
            .source(stream.consumer("g").counting())
            .faults(memory::faults())
            .pipeline("all", move |flow| {
                flow.call(&db, async |_| {
                    std::future::pending::<()>().await;
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
        millis(10).await;
        run.abort();
        let _ = run.await;
    }
    let running = Arc::new(AtomicUsize::new(0));
    let worst = Arc::new(AtomicUsize::new(0));
    let (one, two) = (resource("one"), resource("two"));
    let seen = (running.clone(), worst.clone());
    let processor = Processor::builder("p")
        .source(stream.consumer("g").counting())
        .faults(memory::faults())
        .pipeline("one", move |flow| {
            let (running, worst) = seen.clone();
            flow.parallel(8, &one, async move |_| {
                worst.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                millis(5).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        })
        .pipeline("two", move |flow| flow.parallel(8, &two, async |_| Ok(())))
        .build()
        .unwrap();
    let report = tokio::time::timeout(HOUR, processor.run(Shutdown::never()))
        .await
        .expect("it ends")
        .unwrap();
    for pipeline in ["one", "two"] {
        assert_eq!(report.pipelines[pipeline].done, 30, "{report}");
    }
    assert_eq!(worst.load(Ordering::SeqCst), 1, "such records run one at a time");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn i10_a_record_that_kills_the_process_becomes_a_fault_and_its_neighbours_do_not() {
    lives_until_all_is_settled(&[7], Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn i10_two_records_in_a_row_that_kill_at_once_both_become_faults() {
    // the second must not kill before the fault of the first is committed, life after life
    lives_until_all_is_settled(&[7, 8], Duration::ZERO).await;
}

async fn lives_until_all_is_settled(killers: &'static [u64], after: Duration) {
    let stream = numbers(20, 1);
    stream.close();
    let faults = memory::faults();
    for life in 0..40 {
        let db = resource("db");
        let (kill, mut killed) = tokio::sync::mpsc::unbounded_channel::<()>();
        let processor = Processor::builder("p")
            .source(stream.consumer("g").counting())
            .faults(faults.clone())
            .max_deliveries(6)
            .pipeline("all", move |flow| {
                let kill = kill.clone();
                flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                    if killers.contains(&**n) {
                        let _ = kill.send(());
                        std::future::pending::<()>().await;
                    }
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let mut run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
        tokio::select! {
            biased;
            Some(()) = killed.recv() => {
                run.abort();
                let _ = run.await;
            }
            report = &mut run => {
                let report = report.unwrap().unwrap();
                assert_eq!(report.unsettled(), 0, "{report}");
                break;
            }
        }
        assert!(life < 39, "it never becomes a fault");
    }
    let mut guilty = std::collections::BTreeSet::new();
    for event in faults.events() {
        assert_eq!(event.class, Class::CrashLoop);
        guilty.insert(String::from_utf8_lossy(event.records[0].record.payload()).into_owned());
    }
    assert_eq!(guilty, killers.iter().map(u64::to_string).collect());
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn i10_what_was_given_back_again_and_again_is_no_crash_loop() {
    let stream = numbers(20, 1);
    stream.close();
    let faults = memory::faults();
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let well = up.clone();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(30)))
        .faults(faults.clone())
        .max_deliveries(4)
        .pipeline("all", move |flow| {
            let up = up.clone();
            flow.json::<u64>().parallel(8, &db, async move |_: &Event<u64>| {
                if up.load(Ordering::Relaxed) { Ok(()) } else { Err("down").transient() }
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    // an outage in which each is given back far more often than four times
    tokio::time::sleep(Duration::from_secs(600)).await;
    well.store(true, Ordering::Relaxed);
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.faulted), (20, 0), "{report}");
    assert!(faults.events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn i7_dropping_the_run_frees_what_it_held_for_the_next_run() {
    let stream = numbers(100, 2);
    stream.close();
    let hang = Arc::new(AtomicU32::new(1));
    let db = resource("db");
    let hangs = hang.clone();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .in_flight(50, 1 << 20)
        .in_flight_total(60, 1 << 20)
        .pipeline("all", move |flow| {
            let hangs = hangs.clone();
            flow.json::<u64>().parallel(4, &db, async move |_| {
                if hangs.load(Ordering::SeqCst) == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = processor.run_from(stream.consumer("g"), Shutdown::never());
    assert!(tokio::time::timeout(Duration::from_millis(500), run).await.is_err());
    millis(1).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    hang.store(0, Ordering::SeqCst);
    let report = processor.run_from(stream.consumer("g"), Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.open, all.returned), (100, 100, 0, 0), "{report}");
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test(start_paused = true)]
async fn i8_shards_with_nothing_one_record_only_filtered_or_only_poison_reach_their_end() {
    let stream = Stream::new("numbers", 4);
    let record = |shard: &str, at: u64, payload: &str| {
        streambreaker::Record::new("numbers", shard, Position::from(at), payload.to_owned())
    };
    stream.push_record(record("1", 0, "1")).unwrap();
    for at in 0..30 {
        // positions may be sparse
        stream.push_record(record("2", at * 7, "0")).unwrap();
        stream.push_record(record("3", at * 1_000, "poison")).unwrap();
    }
    stream.close();
    watch_commits(&stream);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>().filter(|n| **n > 0))
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.filtered, all.faulted), (61, 1, 30, 30), "{report}");
    assert!(stream.is_settled("g"));
    assert_eq!(stream.committed("g", 2), Some(Position::from(29 * 7)));
}

#[tokio::test(start_paused = true)]
async fn i6_commits_that_fail_hang_or_lose_their_reply_are_made_again() {
    let stream = numbers(3_000, 3);
    stream.close();
    stream.inject(Inject::CommitErrors(2));
    stream.inject(Inject::CommitRepliesLost(2));
    stream.inject(Inject::CommitsHang(1));
    watch_commits(&stream);
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .commit_every(Duration::from_millis(10), 100)
        .commit_timeout(Duration::from_secs(2))
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 3_000, "{report}");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn i2_a_checkpoint_does_not_go_back_when_settled_records_come_again_to_a_new_ownership() {
    let stream = numbers(20, 1);
    watch_commits(&stream);
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(4, 1 << 20)
        .commit_every(Duration::from_millis(1), 1)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |_| {
                millis(10).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn({
        let processor = processor.clone();
        async move { processor.run(Shutdown::never()).await }
    });
    secs(5).await;
    assert_eq!(stream.committed("g", 0), Some(Position::from(19)));
    stream.assign("g", 0);
    stream.inject(Inject::Redeliver(10));
    secs(5).await;
    stream.push("20");
    stream.close();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.redelivered), (21, 21, 10), "{report}");
    assert_eq!(stream.committed("g", 0), Some(Position::from(20)));
}

#[tokio::test(start_paused = true)]
async fn i3_a_record_given_back_before_its_batch_is_over_counts_once() {
    let stream = numbers(2, 1);
    stream.close();
    let db = once("db");
    let effects = Effects::default();
    let seen = effects.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(60)))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                match (**n, seen.note(**n)) {
                    (0, 1) => Err("down").transient(),
                    (1, _) => {
                        // the batch is over long after its other record came again
                        millis(900).await;
                        Ok(())
                    }
                    _ => Ok(()),
                }
            })
        })
        .pipeline("other", |flow| flow.json::<u64>())
        .commit_every(Duration::from_millis(10), 100)
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    for pipeline in ["all", "other"] {
        let p = &report.pipelines[pipeline];
        assert_eq!((p.read, p.done, p.returned, p.open), (2, 2, 0, 0), "{pipeline}: {report}");
    }
    assert_eq!(report.pipelines["other"].redelivered, 1);
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test(start_paused = true)]
async fn i9_one_by_one_what_its_source_has_not_heard_of_is_bounded_in_count() {
    let stream = numbers(5_000, 1);
    stream.close();
    stream.inject(Inject::CommitErrors(60)); // with 10 s between two of them in the end
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(HOUR))
        .faults(memory::faults())
        .in_flight(100, 1 << 20)
        .commit_every(Duration::from_secs(1), 200)
        .seed(1)
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    for _ in 0..10 {
        secs(10).await;
        // 100 in flight, 300 of which it has not heard
        assert!((200..=400).contains(&stream.unacked("g")), "{}", stream.unacked("g"));
    }
    let report = tokio::time::timeout(HOUR, run).await.expect("it goes on").unwrap().unwrap();
    assert_eq!((report.pipelines["all"].done, stream.unacked("g")), (5_000, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn i9_what_is_not_committed_is_bounded_in_count_while_commits_fail() {
    let stream = numbers(5_000, 1);
    stream.close();
    stream.inject(Inject::CommitErrors(60)); // with 10 s between two of them in the end
    watch_commits(&stream);
    let life = || {
        Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .in_flight(100, 1 << 20)
            .commit_every(Duration::from_secs(1), 200)
            .seed(1)
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
            .unwrap()
    };
    let processor = life();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    for _ in 0..10 {
        secs(10).await;
        let status = handle.status();
        let read = status.pipelines["all"].records.read;
        // 100 in flight, 300 of which no commit tells
        assert!((300..=400).contains(&read), "{read}");
        assert_eq!((status.lanes[0].waits_for, status.lanes[0].in_flight), (WaitsFor::Commit, 0));
    }
    assert_eq!(stream.committed("g", 0), None);
    // so a crash repeats no more than that; and the next life gets on as soon as commits do
    run.abort();
    let _ = run.await;
    let processor = life();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    let report = tokio::time::timeout(HOUR, run).await.expect("it goes on").unwrap().unwrap();
    assert_eq!(report.pipelines["all"].done, 5_000, "{report}");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn i6_a_commit_that_was_due_by_count_is_made_again_after_its_backoff() {
    for each in [false, true] {
        let stream = numbers(1_000, 1);
        stream.inject(Inject::CommitErrors(3));
        let consumer = stream.consumer("g");
        let consumer = if each { consumer.each(HOUR) } else { consumer };
        let processor = Processor::builder("p")
            .source(consumer)
            .faults(memory::faults())
            .in_flight(100, 1 << 20)
            // by this alone it would be made again once an hour
            .commit_every(HOUR, 200)
            .seed(1)
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
            .unwrap();
        let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
        secs(60).await;
        let committed = stream.committed("g", 0).and_then(|at| at.as_u64());
        assert!(committed >= Some(700), "{committed:?}, one by one: {each}");
        run.abort();
    }
}
