//! Rules O1 to O12, through the processor: what runs beside what, and what memory it may take.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::source::{
    Ack, Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled,
    Source, SourceError,
};
use streambreaker::{Position, Processor, Record, Shutdown};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn o1_first_effects_of_a_key_follow_the_log_through_retries_and_restarts() {
    let stream = numbers(200, 1);
    stream.close();
    let order: Arc<Mutex<BTreeMap<u64, Vec<u64>>>> = Arc::default();
    let running: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let effects = Effects::default();
    let (log, busy, seen) = (order.clone(), running.clone(), effects.clone());
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let (log, busy, seen) = (log.clone(), busy.clone(), seen.clone());
            flow.json::<u64>().parallel_by_key(
                4,
                |n| **n % 7,
                &db,
                async move |n: &Event<u64>| {
                    let key = **n % 7;
                    {
                        let mut busy = busy.lock().unwrap();
                        let now = busy.entry(key).or_default();
                        *now += 1;
                        assert_eq!(*now, 1, "O1: two in flight for a key");
                    }
                    millis(**n % 5).await;
                    *busy.lock().unwrap().entry(key).or_default() -= 1;
                    if **n % 11 == 3 && seen.note(**n) < 3 {
                        return Err("down").transient();
                    }
                    log.lock().unwrap().entry(key).or_default().push(**n);
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 200, "{report}");
    for (key, seen) in &*order.lock().unwrap() {
        assert!(seen.is_sorted(), "key {key}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn o1_in_a_call_nothing_behind_a_returned_part_begins() {
    let stream = numbers(3, 1);
    stream.close();
    let log: Arc<Mutex<Vec<(u64, u32)>>> = Arc::default();
    let seen = log.clone();
    let db = once("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().split(|n| [(*n, 0u32), (*n, 1)]).call(
                &db,
                async move |part: &(u64, u32)| {
                    let first = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(*part);
                        seen.iter().filter(|other| *other == part).count() == 1
                    };
                    if *part == (1, 0) && first { Err("down").transient() } else { Ok(()) }
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 3, "{report}");
    assert_eq!(
        *log.lock().unwrap(),
        [(0, 0), (0, 1), (1, 0), (1, 0), (1, 1), (2, 0), (2, 1)],
        "(1, 1) waits until (1, 0) was tried again"
    );
}

#[tokio::test(start_paused = true)]
async fn o5_a_reader_at_its_limit_closes_groups_that_would_linger_for_an_hour() {
    let stream = numbers(300, 1);
    stream.close();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(30, 1 << 20)
        .pipeline("all", move |flow| {
            flow.json::<u64>().group_by(|n| **n, Window::items(1_000).linger(HOUR)).parallel(
                4,
                &db,
                async |_| Ok(()),
            )
        })
        .build()
        .unwrap();
    let begun = tokio::time::Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 300, "{report}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn o7_a_stuck_record_keeps_the_reader_within_the_limit_of_the_checkpoint() {
    let stream = numbers(10_000, 1);
    let db = Resource::builder("db").timeout(HOUR * 2).retry(Retry::none()).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(100, 1 << 20)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(8, &db, async |n: &Event<u64>| {
                if **n == 500 {
                    tokio::time::sleep(HOUR).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(1_000).await;
    assert_eq!(stream.committed("g", 0), Some(Position::from(499)));
    assert!(stream.unacked("g") <= 100, "{} above the checkpoint", stream.unacked("g"));
    secs(3_000).await;
    assert!(stream.is_settled("g"));
    run.abort();
}

/// Payloads that say how many of them are alive.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A queue that acknowledges one by one, and keeps nothing.
struct Queue {
    given: bool,
    alive: Arc<AtomicUsize>,
    most: u64,
}

struct QueueReader(u64, u64, Arc<AtomicUsize>);

struct QueueAcker;

#[async_trait]
impl Reader for QueueReader {
    async fn read(&mut self, _: Room) -> Result<Read, SourceError> {
        if self.0 == self.1 {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let at = self.0;
        self.0 += 1;
        self.2.fetch_add(1, Ordering::SeqCst);
        let payload = bytes::Bytes::from_owner(Counted(at.to_string().into(), self.2.clone()));
        let record = Record::new("q", "0", Position::from(at), payload);
        Ok(Read::Records { records: vec![record], behind: Behind::unknown() })
    }
}

#[async_trait]
impl Acker for QueueAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let Settled::Each(acks) = settled else { panic!("one by one") };
        assert!(acks.iter().all(|(_, ack)| *ack == Ack::Done));
        Ok(())
    }
}

#[async_trait]
impl Source for Queue {
    type Reader = QueueReader;
    type Acker = QueueAcker;

    fn caps(&self) -> Caps {
        Caps::new("test", "q", Acknowledge::Each)
    }

    async fn next(&mut self) -> Result<Option<Change<QueueReader, QueueAcker>>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            std::future::pending::<()>().await;
        }
        let reader = QueueReader(0, self.most, self.alive.clone());
        Ok(Some(Change::Assigned { shard: "0".into(), reader, acker: QueueAcker }))
    }
}

#[tokio::test(start_paused = true)]
async fn o7_one_by_one_a_stuck_record_does_not_keep_what_is_settled_behind_it_in_memory() {
    let alive = Arc::new(AtomicUsize::new(0));
    let db = Resource::builder("db").timeout(HOUR).retry(Retry::none()).build().unwrap();
    let done = Effects::default();
    let seen = done.clone();
    let processor = Processor::builder("p")
        .source(Queue { given: false, alive: alive.clone(), most: 5_000 })
        .faults(memory::faults())
        .in_flight(200, 1 << 20)
        .commit_every(Duration::from_millis(20), 20)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                if **n == 0 {
                    std::future::pending::<()>().await;
                }
                seen.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(60).await;
    assert_eq!(done.all().len(), 4_999);
    let alive = alive.load(Ordering::SeqCst);
    assert!(alive <= 200, "{alive} payloads are alive");
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn o9_call_parallel_and_by_key_end_with_the_same_effects() {
    let mut all = Vec::new();
    for way in 0..3 {
        let stream = numbers(100, 2);
        stream.close();
        let effects = Effects::default();
        let seen = effects.clone();
        let db = resource("db");
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("all", move |flow| {
                let seen = seen.clone();
                let handler = async move |n: &Event<u64>| {
                    millis(**n % 3).await;
                    if **n % 10 == 0 {
                        return Err("bad").fault();
                    }
                    seen.note(**n);
                    Ok(())
                };
                let flow = flow.json::<u64>();
                match way {
                    0 => flow.call(&db, handler).boxed(),
                    1 => flow.parallel(7, &db, handler).boxed(),
                    _ => flow.parallel_by_key(7, |n| **n % 5, &db, handler).boxed(),
                }
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        assert_eq!(report.pipelines["all"].faulted, 10);
        all.push(effects.all());
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
    assert!(all[0].values().all(|n| *n == 1));
}

#[tokio::test(start_paused = true)]
async fn o7_the_limit_of_the_processor_holds_over_all_shards_but_for_a_batch_each() {
    let stream = Stream::new("numbers", 8);
    for n in 0..8_000u64 {
        stream.push(n.to_string());
    }
    let db = Resource::builder("db").timeout(HOUR).retry(Retry::none()).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(400, 1 << 20)
        .in_flight_total(500, 1 << 30)
        .pipeline("all", move |flow| {
            flow.parallel(1, &db, async |_| {
                std::future::pending::<()>().await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(60).await;
    // a batch is a quarter of the shard's limit; one each, whatever the others have
    assert!((500..=500 + 7 * 100).contains(&stream.unacked("g")), "{}", stream.unacked("g"));
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn o4_a_cold_key_among_hot_ones_starts_within_a_bounded_number_of_dispatches() {
    const SLOTS: usize = 4;
    const HELD: usize = SLOTS + 4 * SLOTS;
    let stream = numbers(3_000, 1);
    stream.close();
    // six hot keys on four slots, and now and then one that comes once
    let is_cold = |n: u64| n % 50 == 25;
    let begun: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (log, db) = (begun.clone(), once("db"));
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let log = log.clone();
            flow.json::<u64>().parallel_by_key(
                SLOTS,
                move |n| if is_cold(**n) { 1_000 + **n } else { **n % 6 },
                &db,
                async move |n: &Event<u64>| {
                    log.lock().unwrap().push(**n);
                    millis(if is_cold(**n) { 1 } else { 10 + **n % 6 * 10 }).await;
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 3_000, "{report}");
    let begun = begun.lock().unwrap();
    for (rank, n) in begun.iter().enumerate().filter(|(_, n)| is_cold(**n)) {
        // it overtakes what waits behind hot keys, and nothing that came after it overtakes it
        let place = *n as usize;
        assert!(rank <= place && rank + HELD >= place, "{n} began as number {rank}");
    }
    // hot keys did wait, or this would say nothing
    assert!(begun.iter().enumerate().any(|(rank, n)| rank > *n as usize));
}

#[tokio::test(start_paused = true)]
async fn o7_bytes_in_flight_stay_within_the_limit_but_for_one_record_alone() {
    const LIMIT: usize = 1_000;
    let stream = Stream::new("texts", 1);
    let sizes = [400, 400, 400, 30, 2_500, 700, 700, 10, 10, 990, 5, 1_200, 1_200, 300];
    for (n, size) in sizes.iter().cycle().take(140).enumerate() {
        stream.push(format!("{n:0>size$}"));
    }
    stream.close();
    let handle: Arc<Mutex<Option<streambreaker::Handle>>> = Arc::default();
    let (asked, db) = (handle.clone(), once("db"));
    let peak = Arc::new(AtomicUsize::new(0));
    let most = peak.clone();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(1_000, LIMIT)
        .pipeline("all", move |flow| {
            let (asked, most) = (asked.clone(), most.clone());
            flow.parallel(8, &db, async move |_: &streambreaker::Received| {
                for _ in 0..3 {
                    let status = asked.lock().unwrap().as_ref().unwrap().status();
                    let (records, bytes) = (status.in_flight_records, status.in_flight_bytes);
                    assert!(bytes <= LIMIT || records == 1, "{bytes} bytes in {records} records");
                    most.fetch_max(bytes, Ordering::SeqCst);
                    millis(3).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    *handle.lock().unwrap() = Some(processor.handle());
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 140, "{report}");
    assert!(peak.load(Ordering::SeqCst) >= 2_500);
}
