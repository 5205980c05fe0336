//! Rules S5, T5 and I7 clause by clause: how a drain goes, that leases are kept meanwhile, and what is left of it.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::memory::{self, Consumer};
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::source::{
    Ack, Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled,
    Source, SourceError,
};
use streambreaker::{By, FaultEvent, Position, Record, Report, Sink};
use support::*;
use tokio::sync::Notify;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

/// What happened, in order. A handle: clones are the same journal.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Where a shard hangs.
#[derive(Clone, Copy, PartialEq)]
enum Hangs {
    Nowhere,
    InCommit,
    InRelease,
}

/// Hands out shards of some numbers each; if not all at once, those behind the first only when it is told to.
struct Shards {
    shards: VecDeque<(&'static str, u64, Hangs)>,
    at_once: bool,
    rest: Arc<Notify>,
    journal: Journal,
}

struct Numbers {
    shard: &'static str,
    next: u64,
    end: u64,
    journal: Journal,
}

struct Keeps {
    hangs: Hangs,
    journal: Journal,
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.journal.note("reader");
    }
}

#[async_trait]
impl Reader for Numbers {
    async fn read(&mut self, _: Room) -> Result<Read, SourceError> {
        if self.next == self.end {
            std::future::pending::<()>().await;
        }
        let records: Vec<Record> = (self.next..self.end)
            .map(|n| Record::new("s", self.shard, Position::from(n), n.to_string()))
            .collect();
        self.next = self.end;
        Ok(Read::Records { records, behind: Behind::records(0) })
    }
}

#[async_trait]
impl Acker for Keeps {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        if self.hangs == Hangs::InCommit {
            std::future::pending::<()>().await;
        }
        if let Settled::Through(position) = settled {
            self.journal.note(format!("commit {position}"));
        }
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        if self.hangs == Hangs::InRelease {
            std::future::pending::<()>().await;
        }
        self.journal.note("release");
        Ok(())
    }
}

impl Shards {
    fn of(shards: impl IntoIterator<Item = (&'static str, u64, Hangs)>, journal: &Journal) -> Self {
        let rest = Arc::new(Notify::new());
        let shards = shards.into_iter().collect();
        Self { shards, at_once: true, rest, journal: journal.clone() }
    }
}

#[async_trait]
impl Source for Shards {
    type Reader = Numbers;
    type Acker = Keeps;

    fn caps(&self) -> Caps {
        Caps::new("test", "s", Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<Numbers, Keeps>>, SourceError> {
        if !self.at_once {
            self.rest.notified().await;
        }
        let Some((shard, end, hangs)) = self.shards.pop_front() else {
            return std::future::pending().await;
        };
        Ok(Some(Change::Assigned {
            shard: shard.into(),
            reader: Numbers { shard, next: 0, end, journal: self.journal.clone() },
            acker: Keeps { hangs, journal: self.journal.clone() },
        }))
    }
}

/// Stores faults after a while, and says so; those of one shard never.
struct Stores(Journal);

#[async_trait]
impl Sink<FaultEvent> for Stores {
    fn limits(&self) -> Limits {
        Limits::items(1)
    }

    fn size(&self, _: &FaultEvent) -> usize {
        1
    }

    async fn write(
        &self,
        events: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        if events[0].records[0].record.shard().as_str() == "fault sink" {
            std::future::pending::<()>().await;
        }
        millis(300).await;
        self.0.note("stored");
        outcomes.all_done();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn s5_a_drain_goes_reader_groups_flow_publisher_commit_release() {
    let journal = Journal::default();
    let source = Shards::of([("0", 6, Hangs::Nowhere)], &journal);
    let db = resource("db");
    let seen = journal.clone();
    let processor = Processor::builder("p")
        .source(source)
        .faults(Stores(journal.clone()))
        .commit_every(HOUR, 1_000_000)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().group_by(|_| 0, Window::items(1_000).linger(HOUR)).call(
                &db,
                async move |group: &Group<i32, Event<u64>>| {
                    seen.note(format!("a group of {}", group.items.len()));
                    millis(500).await;
                    Err::<(), _>("bad").fault()
                },
            )
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(60).await;
    assert!(journal.all().is_empty(), "{:?}", journal.all());
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(journal.all(), ["reader", "a group of 6", "stored", "commit 5", "release"]);
    assert!(report.drained && report.pipelines["all"].faulted == 6, "{report}");
}

/// Runs shards of ten numbers each, that hang where their name says, and drains after a second; how long that took.
async fn drained(source: Shards, limit: Duration) -> (Report, Duration) {
    let db = Resource::builder("db").timeout(2 * HOUR).build().unwrap();
    let rest = source.rest.clone();
    let processor = Processor::builder("p")
        .source(source)
        .faults(Stores(Journal::default()))
        .drain(limit)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| {
                match (n.record().shard().as_str(), **n) {
                    ("handler", 4) => std::future::pending().await,
                    ("fault sink", 4) => Err("bad").fault(),
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(1).await;
    let begun = Instant::now();
    trigger.pull();
    secs(1).await;
    rest.notify_one();
    let report = run.await.unwrap().unwrap();
    (report, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn s5_one_limit_stands_for_flow_publisher_commit_and_release_together() {
    let journal = Journal::default();
    let shards = [
        ("handler", 10, Hangs::Nowhere),
        ("fault sink", 10, Hangs::Nowhere),
        ("commit", 10, Hangs::InCommit),
        ("release", 10, Hangs::InRelease),
        ("well", 10, Hangs::Nowhere),
    ];
    let (report, took) = drained(Shards::of(shards, &journal), Duration::from_secs(6)).await;
    assert!(took <= Duration::from_secs(6), "{took:?}");
    assert!(!report.drained && report.to_string().contains("the drain ran into its limit"));
    // one hangs in its handler, one for its fault; of the others all is done, be it committed or not
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].returned),
        (48, 2),
        "{report}"
    );
    let committed = journal.all().into_iter().filter(|line| line.starts_with("commit")).fold(
        BTreeMap::new(),
        |mut all, line| {
            *all.entry(line).or_insert(0) += 1;
            all
        },
    );
    // those that hang are committed up to the record that hangs, the two others to their end
    assert_eq!(committed, BTreeMap::from([("commit 3".into(), 2), ("commit 9".into(), 2)]));
}

#[tokio::test(start_paused = true)]
async fn s5_what_is_assigned_in_a_drain_is_given_back_within_its_limit() {
    let journal = Journal::default();
    let shards = [("handler", 10, Hangs::Nowhere), ("late", 10, Hangs::InRelease)];
    let source = Shards { at_once: false, ..Shards::of(shards, &journal) };
    source.rest.notify_one();
    let (_, took) = drained(source, Duration::from_secs(5)).await;
    assert!(took <= Duration::from_secs(5), "{took:?}");
    assert!(journal.all().iter().all(|line| line != "commit 9"), "nothing of it is read");
}

#[tokio::test(start_paused = true)]
async fn s5_a_second_signal_ends_also_the_release_of_what_was_assigned_in_the_drain() {
    let shards = [("handler", 1, Hangs::Nowhere), ("late", 10, Hangs::InRelease)];
    let source = Shards { at_once: false, ..Shards::of(shards, &Journal::default()) };
    let rest = source.rest.clone();
    rest.notify_one();
    let db = Resource::builder("db").timeout(2 * HOUR).build().unwrap();
    let processor = Processor::builder("p")
        .source(source)
        .faults(memory::faults())
        .drain(HOUR)
        .commit_timeout(HOUR)
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |_: &Event<u64>| {
                secs(7_000).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(1).await;
    trigger.pull();
    secs(1).await;
    rest.notify_one();
    secs(1).await;
    let begun = Instant::now();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!report.drained, "{report}");
}

#[tokio::test(start_paused = true)]
async fn s5_revoked_during_a_restart_backoff_the_wait_ends_at_once() {
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
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    // by then the backoff is half a minute at most, and some seconds at least
    secs(300).await;
    assert_eq!(handle.status().lanes[0].waits_for, streambreaker::WaitsFor::Restart);
    stream.revoke("g", 0, Duration::from_secs(20));
    millis(1).await;
    assert!(handle.status().lanes.is_empty(), "{:?}", handle.status().lanes);
    assert_eq!(stream.committed("g", 0), Some(Position::from(2)));
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn s5_lost_cancels_at_once_and_commits_not_even_what_is_settled() {
    struct Cut(Arc<AtomicUsize>);
    impl Drop for Cut {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let stream = numbers(10, 1);
    let faults = memory::faults();
    let cut = Arc::new(AtomicUsize::new(0));
    let told = cut.clone();
    let db = Resource::builder("db").timeout(HOUR).retry(Retry::none()).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .commit_every(HOUR, 1_000_000)
        .pipeline("all", move |flow| {
            let told = told.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                if **n < 6 {
                    return Ok(());
                }
                let _cut = Cut(told.clone());
                secs(60).await;
                Err("bad").fault()
            })
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(30).await;
    assert_eq!((handle.status().pipelines["all"].records.done, cut.load(Ordering::SeqCst)), (6, 0));
    stream.lose("g", 0);
    millis(1).await;
    assert_eq!(cut.load(Ordering::SeqCst), 4, "what runs is cancelled");
    secs(120).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(faults.events().is_empty());
    assert!(stream.commits().is_empty(), "{:?}", stream.commits());
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].returned),
        (6, 4),
        "{report}"
    );
}

/// A consumer of which it is noted what it is asked to extend, and told to be settled.
struct Watched {
    consumer: Consumer,
    extends: bool,
    /// What a settlement takes.
    takes: Duration,
    /// Whether it does not answer when it is asked to extend.
    mute: bool,
    asked: Asked,
    journal: Journal,
}

type Asked = Arc<Mutex<Vec<(Instant, Vec<Position>)>>>;

struct WatchedAcker {
    acker: <Consumer as Source>::Acker,
    takes: Duration,
    mute: bool,
    asked: Asked,
    journal: Journal,
}

#[async_trait]
impl Acker for WatchedAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        if let Settled::Each(acks) = settled {
            let count = |ack| acks.iter().filter(|(_, other)| *other == ack).count();
            let (done, again) = (count(Ack::Done), count(Ack::Again { after: Duration::ZERO }));
            self.journal.note(format!("{done} done, {again} again at once"));
        }
        tokio::time::sleep(self.takes).await;
        self.acker.settle(settled).await
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        self.asked.lock().unwrap().push((Instant::now(), held.to_vec()));
        if self.mute {
            std::future::pending().await
        }
        self.acker.extend(held).await
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        self.journal.note("release");
        Box::new(self.acker).release().await
    }
}

#[async_trait]
impl Source for Watched {
    type Reader = <Consumer as Source>::Reader;
    type Acker = WatchedAcker;

    fn caps(&self) -> Caps {
        let mut caps = self.consumer.caps();
        caps.extends = self.extends;
        caps
    }

    async fn next(&mut self) -> Result<Option<Change<Self::Reader, WatchedAcker>>, SourceError> {
        Ok(self.consumer.next().await?.map(|change| match change {
            Change::Assigned { shard, reader, acker } => {
                let (asked, journal) = (self.asked.clone(), self.journal.clone());
                let (takes, mute) = (self.takes, self.mute);
                let acker = WatchedAcker { acker, takes, mute, asked, journal };
                Change::Assigned { shard, reader, acker }
            }
            Change::Revoking { shard, grace } => Change::Revoking { shard, grace },
            Change::Lost { shard } => Change::Lost { shard },
            other => unreachable!("{other:?}"),
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn t5_leases_are_extended_in_drain() {
    let stream = numbers(3, 1);
    let (asked, faults) = (Asked::default(), memory::faults());
    faults.down();
    let lease = Duration::from_secs(3);
    let consumer = stream.consumer("g").each(lease);
    let source = Watched {
        consumer,
        extends: true,
        asked: asked.clone(),
        takes: Duration::ZERO,
        mute: false,
        journal: Journal::default(),
    };
    let processor = Processor::builder("p")
        .source(source)
        .faults(faults.clone())
        .drain(Duration::from_secs(20))
        .pipeline("all", |flow| {
            flow.json::<u64>().validate(|n: &u64| if *n == 1 { Err("bad") } else { Ok(()) })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let begun = Instant::now();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(1).await;
    trigger.pull();
    secs(14).await;
    faults.up();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert!(report.drained && (all.done, all.faulted) == (2, 1), "{report}");
    let asked = asked.lock().unwrap();
    let mut last = begun;
    for (at, _) in asked.iter().filter(|(_, held)| held.contains(&Position::from(1))) {
        assert!(*at - last <= lease / 3 + Duration::from_millis(5), "{:?}", *at - last);
        last = *at;
    }
    assert!(last - begun > Duration::from_secs(13), "to its end: {:?}", last - begun);
}

#[tokio::test(start_paused = true)]
async fn t5_the_lease_of_a_record_that_waits_for_room_is_extended() {
    let stream = memory::Stream::new("numbers", 1);
    stream.push("bad");
    stream.push(format!("{:>500}", 1));
    stream.close();
    let (effects, faults) = (Effects::default(), memory::faults());
    faults.down();
    let seen = effects.clone();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(Duration::from_secs(30)))
        .faults(faults.clone())
        .in_flight(100, 200)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                seen.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    secs(100).await;
    assert_eq!(effects.of(1), 0, "it waits for the first");
    faults.up();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done, all.faulted, all.redelivered), (2, 1, 1, 0), "{report}");
    assert_eq!(effects.of(1), 1);
}

#[tokio::test(start_paused = true)]
async fn t5_what_is_settled_and_not_yet_acknowledged_keeps_its_lease() {
    for extends in [true, false] {
        let stream = numbers(5, 1);
        let (effects, asked) = (Effects::default(), Asked::default());
        let seen = effects.clone();
        let db = resource("db");
        let consumer = stream.consumer("g").each(Duration::from_secs(6));
        let processor = Processor::builder("p")
            .source(Watched {
                consumer,
                extends,
                asked,
                takes: Duration::ZERO,
                mute: false,
                journal: Journal::default(),
            })
            .faults(memory::faults())
            .commit_every(HOUR, 1_000_000)
            .pipeline("all", move |flow| {
                let seen = seen.clone();
                flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                    seen.note(**n);
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let (trigger, shutdown) = Shutdown::by_hand();
        let run = tokio::spawn(async move { processor.run(shutdown).await });
        secs(60).await;
        trigger.pull();
        let report = run.await.unwrap().unwrap();
        assert_eq!(report.pipelines["all"].redelivered, 0, "extends: {extends}: {report}");
        assert!(effects.all().values().all(|tries| *tries == 1), "extends: {extends}");
        assert!(stream.is_settled("g"));
    }
}

#[tokio::test(start_paused = true)]
async fn t5_leases_are_extended_although_there_is_always_something_to_acknowledge() {
    let stream = numbers(6_000, 1);
    stream.close();
    let (effects, asked) = (Effects::default(), Asked::default());
    let (seen, takes) = (effects.clone(), Duration::from_millis(100));
    let db = Resource::builder("db").timeout(Duration::from_secs(25)).retry(Retry::none());
    let db = db.build().unwrap();
    let consumer = stream.consumer("g").each(Duration::from_secs(30));
    let processor = Processor::builder("p")
        .source(Watched {
            consumer,
            extends: true,
            takes,
            mute: false,
            asked,
            journal: Journal::default(),
        })
        .faults(memory::faults())
        .in_flight(8, 1 << 20)
        .commit_every(Duration::from_millis(1), 1)
        .pipeline("all", move |flow| {
            let seen = seen.clone();
            // the first four wait for each other, and are held for 80 s; the others go by
            let key = |n: &Event<u64>| if **n < 4 { 0 } else { **n };
            flow.json::<u64>().parallel_by_key(2, key, &db, async move |n: &Event<u64>| {
                seen.note(**n);
                if **n < 4 {
                    secs(20).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.redelivered), (6_000, 0), "{report}");
    assert!(effects.all().values().all(|tries| *tries == 1));
}

#[tokio::test(start_paused = true)]
async fn i9_what_is_settled_is_acknowledged_although_no_call_to_extend_is_answered() {
    let stream = memory::Stream::new("numbers", 1);
    let db = Resource::builder("db").timeout(Duration::from_secs(25)).retry(Retry::none());
    let db = db.build().unwrap();
    let source = Watched {
        consumer: stream.consumer("g").each(Duration::from_secs(30)),
        extends: true,
        takes: Duration::ZERO,
        mute: true,
        asked: Asked::default(),
        journal: Journal::default(),
    };
    let processor = Processor::builder("p")
        .source(source)
        .faults(memory::faults())
        .commit_every(Duration::from_millis(1), 1)
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &db, async |n: &Event<u64>| {
                // there is always one that is held
                if **n % 10 == 0 {
                    secs(20).await;
                }
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    for n in 0..200u64 {
        stream.push(n.to_string());
        secs(1).await;
        // a call that is not answered is given up after 10 s
        assert!(stream.unacked("g") <= 20, "{} after {n} s", stream.unacked("g"));
    }
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn s5_a_drain_gives_back_what_a_paused_pipeline_was_never_fed() {
    let stream = numbers(10, 1);
    let (journal, effects, db) = (Journal::default(), Effects::default(), resource("db"));
    let consumer = stream.consumer("g").each(HOUR);
    let source = Watched {
        consumer,
        extends: true,
        asked: Asked::default(),
        takes: Duration::ZERO,
        mute: false,
        journal: journal.clone(),
    };
    let seen = effects.clone();
    let processor = Processor::builder("p")
        .source(source)
        .faults(memory::faults())
        .commit_every(HOUR, 1_000_000)
        .pipeline("works", move |flow| {
            let seen = seen.clone();
            flow.json::<u64>().parallel(4, &db, async move |n: &Event<u64>| {
                seen.note(**n);
                Ok(())
            })
        })
        .pipeline("rests", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    processor.handle().pause("rests", &By::new("ada", "a test")).unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(5).await;
    assert_eq!(effects.all().len(), 10, "one of the two had them all");
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let (works, rests) = (&report.pipelines["works"], &report.pipelines["rests"]);
    assert_eq!((works.done, rests.done, report.unsettled()), (10, 0, 10), "{report}");
    // before the release, by name and without a delay: nobody has to wait an hour for the lease of a record
    assert_eq!(journal.all(), ["0 done, 10 again at once", "release"]);
}

/// Runs in a runtime of its own; how long that took, and how often its thread went to sleep in the hour after it. Who
/// is asleep for an hour is woken by every timer that is left.
fn parks_after(scenario: impl AsyncFnOnce()) -> (Duration, usize) {
    let parks = Arc::new(AtomicUsize::new(0));
    let count = parks.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .build()
        .unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        scenario().await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!(alive, 0, "tasks are left");
        let (took, before) = (begun.elapsed(), parks.load(Ordering::SeqCst));
        tokio::time::sleep(HOUR).await;
        (took, parks.load(Ordering::SeqCst) - before)
    })
}

/// The same where nothing is left, at the same time: how the timers of tokio go depends on it.
fn parks_after_nothing(took: Duration) -> usize {
    parks_after(async || tokio::time::advance(took).await).1
}

#[test]
fn i7_after_stop_kill_and_drop_no_task_no_permit_and_no_timer_is_left() {
    // what a timer that is left looks like
    let (took, parks) = parks_after(async || {
        secs(7).await;
        let mut sleep = Box::pin(tokio::time::sleep(Duration::from_secs(60)));
        assert!(futures::poll!(&mut sleep).is_pending());
        std::mem::forget(sleep);
    });
    assert!(parks > parks_after_nothing(took), "this test would not see it");

    for end in ["ended", "stopped", "over the limit", "dropped", "before it began"] {
        let db = Resource::builder("db")
            .timeout(Duration::from_secs(20))
            .retry(Retry::exponential().max_attempts(3).base(Duration::from_secs(5)))
            .breaker(Breaker::failure_ratio(0.9).on_open(OnOpen::Pause))
            .rate(Rate::per_second(50))
            .concurrency(6)
            .on_exhausted(OnExhausted::Fault)
            .seed(1)
            .build()
            .unwrap();
        let guarded = db.clone();
        let (took, parks) = parks_after(async move || {
            let stream = numbers(100, 3);
            if end == "ended" {
                stream.close();
            }
            let faults = memory::faults();
            let hangs = end == "over the limit";
            let processor = Processor::builder("p")
                .source(stream.consumer("g").each(Duration::from_secs(600)))
                .faults(faults.clone())
                .drain(Duration::from_secs(if hangs { 5 } else { 600 }))
                .pipeline("all", move |flow| {
                    flow.json::<u64>()
                        .group_by(|n| **n / 2, Window::items(2).linger(Duration::from_secs(1)))
                        .parallel(16, &guarded, async move |group: &Group<u64, Event<u64>>| {
                            match group.key % 7 {
                                1 => Err("down").transient(),
                                2 => std::future::pending().await,
                                _ => Ok(()),
                            }
                        })
                })
                .build()
                .unwrap();
            if end == "dropped" {
                faults.down();
            }
            if end == "before it began" {
                drop(processor.run(Shutdown::never()));
                return;
            }
            let (trigger, shutdown) = Shutdown::by_hand();
            if matches!(end, "stopped" | "over the limit") {
                tokio::spawn(async move {
                    secs(10).await;
                    trigger.pull();
                });
            }
            let run = processor.run(shutdown);
            match end {
                "dropped" => {
                    let _ = tokio::time::timeout(Duration::from_secs(12), run).await;
                }
                _ => {
                    let report = run.await.unwrap();
                    assert_eq!(report.drained, !hangs, "{end}: {report}");
                }
            }
        });
        assert_eq!(parks, parks_after_nothing(took), "{end}: timers are left");
        let permits = db.status().permits.unwrap();
        assert_eq!(permits.in_use, 0, "{end}: permits are left");
    }
}
