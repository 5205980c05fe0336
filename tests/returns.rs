//! What is returned on a source that acknowledges one by one, and does not count deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use streambreaker::memory::{self, Consumer, Stream};
use streambreaker::prelude::*;
use streambreaker::source::{Caps, Change, Read, Reader, Room, Source, SourceError};
use streambreaker::{Class, Processor, Shutdown};

/// A consumer that acknowledges one by one, and tells every delivery as the first, as brokers do that do not
/// count.
struct Uncounted(Consumer);

struct UncountedReader(<Consumer as Source>::Reader);

#[async_trait]
impl Source for Uncounted {
    type Reader = UncountedReader;
    type Acker = <Consumer as Source>::Acker;

    fn caps(&self) -> Caps {
        let mut caps = self.0.caps();
        caps.counts_deliveries = false;
        caps
    }

    async fn next(&mut self) -> Result<Option<Change<UncountedReader, Self::Acker>>, SourceError> {
        Ok(self.0.next().await?.map(|change| match change {
            Change::Assigned { shard, reader, acker } => {
                Change::Assigned { shard, reader: UncountedReader(reader), acker }
            }
            Change::Revoking { shard, grace } => Change::Revoking { shard, grace },
            Change::Lost { shard } => Change::Lost { shard },
            other => unreachable!("{other:?}"),
        }))
    }
}

#[async_trait]
impl Reader for UncountedReader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        Ok(match self.0.read(room).await? {
            Read::Records { records, behind } => {
                let records = records.into_iter().map(|record| record.with_deliveries(1)).collect();
                Read::Records { records, behind }
            }
            other => other,
        })
    }
}

fn resource(name: &str) -> streambreaker::resource::ResourceBuilder {
    Resource::builder(name).timeout(Duration::from_secs(1)).retry(Retry::none()).seed(1)
}

#[tokio::test(start_paused = true)]
async fn t1_what_is_given_back_waits_longer_each_time_though_nobody_counts_deliveries() {
    let stream = Stream::new("numbers", 1);
    stream.push("1");
    stream.close();
    let tries = Arc::new(AtomicU32::new(0));
    let db = resource("db").build().unwrap();
    let seen = tries.clone();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = Processor::builder("p")
        .source(Uncounted(stream.consumer("g").each(Duration::from_secs(3600))))
        .faults(memory::faults())
        .seed(1)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().call(&db, async move |_: &Event<u64>| {
                seen.fetch_add(1, Ordering::Relaxed);
                Err::<(), _>("down").transient()
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    trigger.pull();
    run.await.unwrap().unwrap();
    // with a wait of 30 s at most and 15 s on average; at the first step of it there would be thousands
    let tries = tries.load(Ordering::Relaxed);
    assert!((100..500).contains(&tries), "{tries} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_returns_holds_though_nobody_counts_deliveries() {
    let stream = Stream::new("numbers", 1);
    stream.push("1");
    stream.push("2");
    stream.close();
    let faults = memory::faults();
    let db = resource("db").return_limit(3).build().unwrap();
    let processor = Processor::builder("p")
        .source(Uncounted(stream.consumer("g").each(Duration::from_secs(3600))))
        .faults(faults.clone())
        .seed(1)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| match **n {
                1 => Err("down").transient(),
                _ => Ok(()),
            })
        })
        .build()
        .unwrap();
    let report = tokio::time::timeout(Duration::from_secs(600), processor.run(Shutdown::never()))
        .await
        .expect("the limit ends it")
        .unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.faulted, all.returned), (2, 1, 1, 0), "{report}");
    assert_eq!(faults.events()[0].class, Class::Returned);
}

#[tokio::test(start_paused = true)]
async fn f8_only_its_own_returns_count_against_a_units_limit_though_nobody_counts_deliveries() {
    let stream = Stream::new("numbers", 1);
    stream.push("0");
    stream.push("1");
    stream.close();
    let faults = memory::faults();
    let db = resource("db").timeout(Duration::from_secs(60)).return_limit(3).build().unwrap();
    let tries = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let seen = tries.clone();
    let processor = Processor::builder("p")
        .source(Uncounted(stream.consumer("g").each(Duration::from_secs(3600))))
        .faults(faults.clone())
        .seed(1)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                tokio::time::sleep(Duration::from_secs(**n * 40)).await;
                match (**n, seen[**n as usize].fetch_add(1, Ordering::Relaxed)) {
                    // the one beside it is cancelled each time, which is not its doing
                    (0, 0..5) => Err("broken").fatal(),
                    (1, 0) => Err("down").transient(),
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.faulted), (2, 2, 0), "{report} {:?}", faults.events());
    let tries = [&tries[0], &tries[1]].map(|tries| tries.load(Ordering::Relaxed));
    assert_eq!(tries, [6, 2]);
}

#[tokio::test(start_paused = true)]
async fn f9_what_user_code_drops_is_a_fault_the_second_time_though_it_was_given_back_in_between() {
    let stream = Stream::new("numbers", 1);
    (0..5).for_each(|n| drop(stream.push(n.to_string())));
    stream.close();
    let faults = memory::faults();
    let seen = Arc::new(AtomicU32::new(0));
    let dropped = seen.clone();
    let processor = Processor::builder("p")
        .source(Uncounted(stream.consumer("g").each(Duration::from_secs(60))))
        .faults(faults.clone())
        .seed(1)
        .pipeline("all", move |flow| {
            let dropped = dropped.clone();
            flow.json::<u64>().through(move |units| {
                units.filter(move |unit| {
                    let keep = **unit.value() != 3;
                    dropped.fetch_add(u32::from(!keep), Ordering::Relaxed);
                    std::future::ready(keep)
                })
            })
        })
        .build()
        .unwrap();
    let report = tokio::time::timeout(Duration::from_secs(600), processor.run(Shutdown::never()))
        .await
        .expect("a fault ends it")
        .unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.faulted, all.returned), (5, 4, 1, 0), "{report}");
    assert_eq!(faults.events()[0].class, Class::Dropped);
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}
