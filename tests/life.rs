//! Rules S1 to S9: what a source may do, and how a processor's life goes.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::memory::{self, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::source::{
    Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled, Source,
    SourceError,
};
use streambreaker::{Position, Processor, Record, Shutdown};
use support::*;

#[tokio::test(start_paused = true)]
async fn s1_redeliveries_duplicates_errors_empty_reads_and_stalls() {
    let stream = numbers(500, 2);
    watch_commits(&stream);
    stream.inject(Inject::ReadErrors(3));
    stream.inject(Inject::EmptyReads(5));
    stream.inject(Inject::Duplicate(3));
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(40, 1 << 20)
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(1).await;
    stream.inject(Inject::Redeliver(7));
    stream.inject(Inject::Stall);
    for i in 500..600u64 {
        stream.push_keyed(i.to_string(), i.to_string());
    }
    secs(100).await;
    stream.resume();
    stream.close();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.returned, all.open), (600, 600, 0, 0), "{report}");
    assert!(all.redelivered >= 6 + 7, "{report}");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn s2_what_retention_took_is_reported_as_a_gap() {
    let stream = numbers(100, 1);
    stream.truncate(0, &Position::from(40));
    stream.close();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 60);
    assert_eq!(report.gaps.len(), 1);
    assert_eq!((&*report.gaps[0].from, &*report.gaps[0].to), ("0", "40"));
}

#[tokio::test(start_paused = true)]
async fn s3_a_fenced_owner_commits_and_faults_nothing_more() {
    let stream = numbers(100, 1);
    let faults = memory::faults();
    let db = resource("db");
    let late = Arc::new(AtomicU32::new(0));
    let told = late.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().parallel(2, &db, async move |n: &Event<u64>| {
                millis(100).await;
                told.fetch_add(1, Ordering::SeqCst);
                if **n > 50 { Err("bad").fault() } else { Ok(()) }
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    millis(1_550).await;
    let committed = stream.committed("g", 0);
    stream.fence("g", 0);
    secs(2).await;
    let begun = late.load(Ordering::SeqCst);
    secs(10).await;
    assert_eq!(late.load(Ordering::SeqCst), begun, "its work is cancelled");
    assert_eq!(stream.committed("g", 0), committed);
    assert!(faults.events().is_empty());
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn s4_assigned_again_with_old_work_in_flight_every_record_is_dispatched_and_counted_once() {
    let stream = numbers(50, 1);
    watch_commits(&stream);
    let db = resource("db");
    let effects = Effects::default();
    let seen = effects.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                seen.note(**n);
                millis(100).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    millis(250).await;
    stream.assign("g", 0);
    millis(250).await;
    stream.revoke("g", 0, Duration::from_millis(50));
    millis(10).await;
    stream.assign("g", 0);
    stream.close();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.returned, all.open), (50, 50, 0, 0), "{report}");
    assert_eq!(effects.all().len(), 50);
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn s5_told_to_stop_during_a_restart_backoff_the_wait_ends_at_once() {
    let stream = numbers(10, 1);
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| match **n {
                3 => Err("down").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    // by then the backoff is half a minute at most, and some seconds at least
    secs(300).await;
    let begun = tokio::time::Instant::now();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    assert!(report.drained, "{report}");
    assert_eq!(stream.committed("g", 0), Some(Position::from(2)));
    assert_eq!(report.pipelines["all"].done, 3);
    assert_eq!(report.pipelines["all"].returned, 7, "{report}");
    assert_eq!(report.exit_code(), 3);
}

#[tokio::test(start_paused = true)]
async fn s5_over_its_limit_a_drain_commits_what_is_settled_and_says_so() {
    let stream = numbers(10, 1);
    let db = Resource::builder("db").timeout(Duration::from_secs(600)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .drain(Duration::from_secs(5))
        .commit_every(Duration::from_secs(3600), 1_000_000)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| {
                if **n == 4 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(1).await;
    let begun = tokio::time::Instant::now();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!report.drained);
    assert_eq!(stream.committed("g", 0), Some(Position::from(3)));
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].returned), (9, 1));
}

#[tokio::test(start_paused = true)]
async fn s5_lost_cancels_commits_nothing_and_faults_nothing() {
    let stream = numbers(10, 2);
    let faults = memory::faults();
    faults.down();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |_| Err::<(), _>("bad").fault())
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(5).await;
    stream.lose("g", 0);
    stream.lose("g", 1);
    millis(10).await;
    faults.up();
    secs(60).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(faults.events().is_empty());
    assert_eq!((stream.committed("g", 0), stream.committed("g", 1)), (None, None));
    assert_eq!(report.pipelines["all"].returned, 10, "{report}");
}

/// One shard whose acker hangs in `release`, and that is assigned once more after a while.
struct HangsOnRelease {
    given: u32,
}

struct Numbers(u64);

struct Hangs(Arc<AtomicBool>);

impl Drop for Hangs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Reader for Numbers {
    async fn read(&mut self, _: Room) -> Result<Read, SourceError> {
        let at = self.0;
        self.0 += 1;
        if at == 3 {
            return Ok(Read::End);
        }
        let record = Record::new("s", "0", Position::from(at), at.to_string());
        Ok(Read::Records { records: vec![record], behind: Behind::unknown() })
    }
}

#[async_trait]
impl Acker for Hangs {
    async fn settle(&mut self, _: Settled<'_>) -> Result<(), CommitError> {
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Source for HangsOnRelease {
    type Reader = Numbers;
    type Acker = Hangs;

    fn caps(&self) -> Caps {
        Caps::new("test", "s", Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<Numbers, Hangs>>, SourceError> {
        self.given += 1;
        match self.given {
            1 => Ok(Some(Change::Assigned {
                shard: "0".into(),
                reader: Numbers(0),
                acker: Hangs(Arc::default()),
            })),
            _ => Ok(None),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s5_a_release_that_hangs_does_not_keep_a_processor_alive() {
    let processor = Processor::builder("p")
        .source(HangsOnRelease { given: 0 })
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = processor.run(Shutdown::never());
    let report = tokio::time::timeout(Duration::from_secs(60), run).await.expect("ends").unwrap();
    assert_eq!(report.pipelines["all"].done, 3);
}

#[tokio::test(start_paused = true)]
async fn process_goes_on_behind_returned_records_above_the_limit_in_flight() {
    let db = once("db");
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .in_flight(10, 1 << 20)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| match **n % 10 {
                3 => Err("down").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let records: Vec<Record> =
        (0..100u64).map(|n| Record::new("s", "0", Position::from(n), n.to_string())).collect();
    let processing = processor.process(records).into_future();
    let outcome =
        tokio::time::timeout(Duration::from_secs(600), processing).await.expect("it ends");
    assert_eq!((outcome.settled.len(), outcome.returned.len()), (90, 10));
    assert_eq!(outcome.first_returned("s", &"0".into()), Some(&Position::from(3)));
    let order: Vec<_> = outcome.settled.iter().map(|r| r.position().clone()).collect();
    assert!(order.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_ends_before_its_input_does_not_stop_the_shard() {
    use futures::StreamExt;
    let stream = numbers(20, 1);
    stream.close();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>().through(|units| units.take(3)))
        .build()
        .unwrap();
    let run = processor.run(Shutdown::never());
    let report = tokio::time::timeout(Duration::from_secs(3600), run).await.expect("ends").unwrap();
    assert_eq!(report.pipelines["all"].done, 20, "{report}");
    assert!(report.pipelines["all"].restarts >= 6, "{report}");
}

/// The system's clock, years off whenever a test says so.
#[derive(Clone, Default)]
struct Jumps(Arc<std::sync::atomic::AtomicI64>);

impl streambreaker::clock::Clock for Jumps {
    fn now(&self) -> streambreaker::Timestamp {
        streambreaker::Timestamp::from_micros(
            1_700_000_000_000_000 + self.0.load(Ordering::SeqCst) * 31_536_000_000_000,
        )
    }
}

#[tokio::test(start_paused = true)]
async fn s8_a_wall_clock_that_jumps_by_years_changes_no_timeout() {
    let stream = numbers(40, 1);
    let faults = memory::faults();
    let clock = Jumps::default();
    let jumps = clock.clone();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .clock(clock)
        .pipeline("all", move |flow| {
            let jumps = jumps.clone();
            flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                let years = if **n % 2 == 0 { 300 } else { -300 };
                jumps.0.fetch_add(years * (**n as i64), Ordering::SeqCst);
                millis(900).await;
                match **n {
                    39 => Err("bad").fault(),
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    stream.close();
    let begun = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].faulted), (39, 1));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(faults.events()[0].attempts[0].duration >= Duration::from_millis(900));
}

#[test]
fn s7_a_handler_that_blocks_its_thread_does_not_stop_the_other_shards() {
    const EACH: u64 = 500;
    let stream = Stream::new("numbers", 2);
    for shard in ["0", "1"] {
        for n in 0..EACH {
            let record = Record::new("numbers", shard, Position::from(n), n.to_string());
            stream.push_record(record).unwrap();
        }
    }
    stream.close();
    let (free, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .commit_every(Duration::from_millis(10), 100)
        .pipeline("all", move |flow| {
            let blocked = blocked.clone();
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                if n.record().shard().as_str() == "0" && **n == 3 {
                    // not an await: the thread is gone until the test frees it, or gives up
                    let waited = blocked.lock().unwrap().recv_timeout(Duration::from_secs(60));
                    return waited.map_err(|_| StepError::from(std::fmt::Error));
                }
                tokio::task::yield_now().await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(async move {
        let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
        let last = Some(Position::from(EACH - 1));
        while stream.committed("g", 1) != last && !run.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(stream.committed("g", 0) < Some(Position::from(4)), "shard 0 is blocked");
        free.send(()).unwrap();
        run.await.unwrap().unwrap()
    });
    assert_eq!(report.pipelines["all"].done, 2 * EACH, "{report}");
}

/// A broker that hands out ten records, and nothing more before it hears of one of them.
#[derive(Clone)]
struct Prefetch(Arc<(Mutex<Handed>, tokio::sync::Notify)>);

#[derive(Default)]
struct Handed {
    next: u64,
    open: std::collections::BTreeSet<Position>,
    /// How many a call of the acker was about, at most.
    largest: usize,
    /// What a read takes.
    takes: Duration,
}

impl Prefetch {
    const MOST: u64 = 10;
    const ALL: u64 = 1_000;
}

#[async_trait]
impl Reader for Prefetch {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let (handed, news) = &*self.0;
        let takes = handed.lock().unwrap().takes;
        tokio::time::sleep(takes).await;
        loop {
            {
                let mut handed = handed.lock().unwrap();
                let left = Self::MOST - handed.open.len() as u64;
                let count = left.min(room.records as u64).min(Self::ALL - handed.next);
                if count > 0 {
                    let range = handed.next..handed.next + count;
                    let record =
                        |n: u64| Record::new("prefetch", "0", Position::from(n), n.to_string());
                    let records: Vec<_> = range.map(record).collect();
                    handed.open.extend(records.iter().map(|record| record.position().clone()));
                    handed.next += count;
                    return Ok(Read::Records {
                        records,
                        behind: Behind::records(Self::ALL - handed.next),
                    });
                }
                if handed.next == Self::ALL {
                    return Ok(Read::End);
                }
            }
            news.notified().await;
        }
    }
}

#[async_trait]
impl Acker for Prefetch {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let Settled::Each(settled) = settled else {
            return Err(CommitError::transient("one by one"));
        };
        let (handed, news) = &*self.0;
        let mut handed = handed.lock().unwrap();
        handed.largest = handed.largest.max(settled.len());
        for (position, _) in settled {
            assert!(
                handed.open.remove(position),
                "{position} was not handed out, or twice settled"
            );
        }
        news.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Source for Prefetch {
    type Reader = Self;
    type Acker = Self;

    fn caps(&self) -> Caps {
        Caps::new("prefetch", "prefetch", Acknowledge::Each)
            .with_most_unsettled(Self::MOST, "prefetch")
    }

    async fn next(&mut self) -> Result<Option<Change<Self, Self>>, SourceError> {
        if Arc::strong_count(&self.0) > 1 {
            return Ok(None);
        }
        let (reader, acker) = (self.clone(), self.clone());
        Ok(Some(Change::Assigned { shard: "0".into(), reader, acker }))
    }
}

#[tokio::test(start_paused = true)]
async fn s1_a_source_that_waits_to_hear_of_what_it_handed_out_hears_before_it_stands_still() {
    let source = Prefetch(Arc::default());
    let handed = Arc::downgrade(&source.0);
    let (sees, largest) = (handed.clone(), Arc::new(AtomicU32::new(0)));
    let most = largest.clone();
    let processor = Processor::builder("p")
        .source(source)
        .faults(memory::faults())
        .in_flight(Prefetch::MOST as usize, 1 << 20)
        // by this alone it would hear once an hour
        .commit_every(Duration::from_secs(3_600), u64::MAX)
        .pipeline("all", move |flow| {
            let (sees, most) = (sees.clone(), most.clone());
            flow.json::<u64>().inspect(move |_| {
                if let Some(handed) = sees.upgrade() {
                    let largest = handed.0.lock().unwrap().largest as u32;
                    most.fetch_max(largest, Ordering::Relaxed);
                }
            })
        })
        .build()
        .unwrap();
    let began = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (1_000, 0), "{report}");
    assert!(began.elapsed() < Duration::from_secs(1), "it stood still: {:?}", began.elapsed());
    let largest = largest.load(Ordering::Relaxed);
    assert!((2..=10).contains(&largest), "it hears of a part at a time: {largest} at once");
}

#[tokio::test(start_paused = true)]
async fn s1_such_a_source_hears_of_the_last_that_it_may_hand_out_while_groups_hold_the_others() {
    let hour = Duration::from_secs(3_600);
    let source = Prefetch(Arc::default());
    source.0.0.lock().unwrap().takes = Duration::from_millis(1);
    let processor = Processor::builder("p")
        .source(source)
        .faults(memory::faults())
        .in_flight(Prefetch::MOST as usize, 1 << 20)
        .commit_every(hour, u64::MAX)
        .pipeline("all", move |flow| {
            let rare = flow.json::<u64>().filter(|n| **n % 10 != 0);
            rare.group_by(|_| (), Window::items(1_000).linger(hour))
        })
        .build()
        .unwrap();
    let began = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (900, 0), "{report}");
    assert!(began.elapsed() < Duration::from_secs(1), "it stood still: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s5_a_grace_without_end_is_no_panic_and_ends_when_all_is_settled() {
    let stream = numbers(10, 1);
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.call(&db, async |_| {
                millis(700).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(1).await;
    stream.revoke("g", 0, Duration::MAX);
    secs(30).await;
    assert!(handle.live() && stream.is_settled("g") && !run.is_finished());
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn s1_what_comes_again_from_before_the_beginning_of_an_ownership_does_no_harm() {
    let stream = numbers(20, 1);
    watch_commits(&stream);
    for life in 1..=3u32 {
        stream.inject(Inject::Redeliver(5)); // before the second and the third life has read anything
        let (effects, db) = (Effects::default(), resource("db"));
        let noted = effects.clone();
        let (trigger, shutdown) = Shutdown::by_hand();
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .commit_every(Duration::from_millis(10), 1)
            .pipeline("all", move |flow| {
                let noted = noted.clone();
                flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                    millis(100).await;
                    noted.note(**n);
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let handle = processor.handle();
        let run = tokio::spawn(async move { processor.run(shutdown).await });
        secs(5).await;
        assert!(handle.live() && stream.is_settled("g"), "life {life}");
        assert_eq!(stream.committed("g", 0), Some(Position::from(19)));
        let worked_on = effects.all().into_keys().collect::<Vec<_>>();
        assert_eq!(worked_on, if life == 1 { 0..20 } else { 15..20 }.collect::<Vec<_>>());
        trigger.pull();
        run.await.unwrap().unwrap();
    }
}
