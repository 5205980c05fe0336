//! Real threads and real time: shards, pipelines and two processors at once, handlers that yield, hang, panic and
//! go to other threads, shards that are taken away, sinks that fail. Nothing is asserted about time; at the end the
//! ledgers must show a fate for every record in every pipeline, and nothing may be left behind.
//!
//! `ROUNDS=200 EVENTS=50000 cargo test --release --test stress` for longer; `SEED=17` for one round. A seed repeats
//! what is injected, not the order in which threads ran.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use streambreaker::clock::Random;
use streambreaker::fault::{FaultEvent, FloodGuard};
use streambreaker::memory::{
    self, Collect, Commit, CommitOutcome, Inject, Response, Stream, Verdict, What,
};
use streambreaker::prelude::*;
use streambreaker::resource::PermitStatus;
use streambreaker::sink::Limits;
use streambreaker::{Processor, ShardId, Shutdown};

const SHARDS: usize = 4;
const PIPELINES: [&str; 4] = ["pool", "keys", "groups", "written"];
/// A hang is a failure; so long that only a hang takes it.
const HANG: Duration = Duration::from_secs(300);

type Place = (ShardId, u64);

fn place(record: &streambreaker::Record) -> Place {
    (record.shard().clone(), record.position().as_u64().expect("a number"))
}

/// What the world outside saw.
#[derive(Default)]
struct Ledger {
    /// By pipeline: records with an effect, kept out by a filter, or in a stored fault.
    fates: BTreeMap<&'static str, BTreeSet<Place>>,
    /// Below, every record of the shard is known to have its fates.
    checked: BTreeMap<ShardId, u64>,
    high: BTreeMap<(ShardId, u64), u64>,
    broken: Vec<String>,
}

struct World {
    random: Random,
    calm: AtomicBool,
    stream: Stream,
    faults: Collect<FaultEvent>,
    index: Collect<Place>,
    db: Resource,
    search: Resource,
    ledger: Mutex<Ledger>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        let resource = |name: &str| {
            Resource::builder(name)
                .timeout(Duration::from_millis(40))
                .retry(
                    Retry::exponential()
                        .max_attempts(3)
                        .base(Duration::from_millis(5))
                        .cap(Duration::from_millis(20)),
                )
                .retry_quota(RetryQuota::unlimited())
                .on_exhausted(streambreaker::OnExhausted::Fault)
                .seed(seed)
        };
        let breaker = Breaker::failure_ratio(0.6)
            .window(Duration::from_millis(50))
            .cool_down(Duration::from_millis(5))
            .on_open(OnOpen::Pause);
        let world = Arc::new(Self {
            random: Random::seeded(seed),
            calm: AtomicBool::new(false),
            stream: Stream::new("numbers", SHARDS),
            faults: memory::faults().with_limits(Limits::items(16)),
            index: Collect::new().with_limits(Limits::items(20)),
            db: resource("db").concurrency(20).breaker(breaker).build().unwrap(),
            search: resource("search").rate(Rate::per_second(5_000)).build().unwrap(),
            ledger: Mutex::default(),
        });
        let watch = Arc::downgrade(&world);
        world.stream.on_commit(move |commit| {
            if let Some(world) = watch.upgrade() {
                world.check(commit);
            }
        });
        let sink = Arc::downgrade(&world);
        world.faults.decide(move |_, event: &FaultEvent| {
            let world = sink.upgrade().expect("it is at work");
            let verdict = world.verdict(20);
            if matches!(verdict, Verdict::Done | Verdict::ReplyLost) {
                let pipeline = PIPELINES.into_iter().find(|name| *name == event.pipeline);
                let records = event.records.iter().map(|fault| place(&fault.record));
                world.note(pipeline.expect("one of ours"), records);
            }
            verdict
        });
        let sink = Arc::downgrade(&world);
        world.index.decide(move |_, place| {
            let world = sink.upgrade().expect("it is at work");
            let verdict = world.verdict(10);
            if matches!(verdict, Verdict::Done | Verdict::ReplyLost) {
                world.note("written", [place.clone()]);
            }
            verdict
        });
        world
    }

    fn dice(&self, sides: u64) -> u64 {
        self.random.next_u64() % sides
    }

    /// Whether something goes wrong now, once in `n`.
    fn bad(&self, n: u64) -> bool {
        self.dice(n) == 0 && !self.calm.load(Ordering::SeqCst)
    }

    fn verdict(&self, n: u64) -> Verdict {
        match self.bad(n).then(|| self.dice(4)) {
            None => Verdict::Done,
            Some(0) => Verdict::Retry,
            Some(1) => Verdict::Silent,
            Some(2) => Verdict::ReplyLost,
            Some(_) => Verdict::Throttled(Duration::from_millis(1)),
        }
    }

    fn note(&self, pipeline: &'static str, places: impl IntoIterator<Item = Place>) {
        self.ledger.lock().unwrap().fates.entry(pipeline).or_default().extend(places);
    }

    /// Rules I1 and I2, on every commit.
    fn check(&self, commit: &Commit) {
        let What::Through(at) = &commit.what else { return };
        if !matches!(commit.outcome, CommitOutcome::Applied | CommitOutcome::ReplyLost) {
            return;
        }
        let at = at.as_u64().expect("a number");
        let mut ledger = self.ledger.lock().unwrap();
        let Ledger { fates, checked, high, broken } = &mut *ledger;
        let before = high.insert((commit.shard.clone(), commit.ownership), at);
        if before.is_some_and(|before| before > at) {
            broken.push(format!("I2: {at} after {before:?}"));
        }
        let checked = checked.entry(commit.shard.clone()).or_default();
        for position in *checked..=at {
            let place = (commit.shard.clone(), position);
            for pipeline in PIPELINES {
                if !fates.get(pipeline).is_some_and(|all| all.contains(&place)) {
                    broken.push(format!("I1: {place:?} has no fate in {pipeline}"));
                }
            }
        }
        *checked = (*checked).max(at + 1);
    }

    /// What a handler does with some records.
    async fn handle(
        &self,
        pipeline: &'static str,
        events: &[&Event<u64>],
    ) -> Result<(), StepError> {
        match self.dice(8) {
            0 => tokio::task::yield_now().await,
            1 => tokio::time::sleep(Duration::from_micros(self.dice(2_000))).await,
            2 => std::thread::yield_now(),
            // it is woken from another thread
            3 => tokio::spawn(tokio::task::yield_now()).await.expect("it does not panic"),
            _ => {}
        }
        if events.iter().any(|event| ***event % 97 == 5) {
            return Err("poison").fault();
        }
        if self.bad(40) {
            match self.dice(12) {
                0 => return Err("broken").fatal(),
                1..=2 => panic!("a handler panics"),
                3..=4 => std::future::pending().await,
                5..=6 => return Err("less").throttled(Duration::from_millis(1)),
                // the effect is applied, and nobody is told
                7 => {
                    self.note(pipeline, events.iter().map(|event| place(event.record())));
                    return Err("the reply was lost").transient();
                }
                _ => return Err("down").transient(),
            }
        }
        self.note(pipeline, events.iter().map(|event| place(event.record())));
        Ok(())
    }

    fn keep_out(&self, pipeline: &'static str, event: &Event<u64>) -> bool {
        let out = **event % 10 == 9;
        if out {
            self.note(pipeline, [place(event.record())]);
        }
        !out
    }

    fn processor(self: &Arc<Self>) -> Processor {
        let me = || self.clone();
        let (pool, keys, groups, written) = (me(), me(), me(), me());
        Processor::builder("p")
            .source(self.stream.consumer("g"))
            .faults(self.faults.clone())
            .flood_guard(FloodGuard::off())
            .in_flight(400, 1 << 20)
            .in_flight_total(1_000, 1 << 20)
            .commit_every(Duration::from_millis(5), 100)
            .commit_timeout(Duration::from_millis(200))
            .fault_timeout(Duration::from_millis(200))
            .drain(Duration::from_secs(1))
            .seed(self.random.next_u64())
            .pipeline("pool", move |flow| {
                let (world, keeps, db) = (pool.clone(), pool.clone(), pool.db.clone());
                flow.json::<u64>().filter(move |n| keeps.keep_out("pool", n)).parallel(
                    16,
                    &db,
                    async move |n: &Event<u64>| world.handle("pool", &[n]).await,
                )
            })
            .pipeline("keys", move |flow| {
                let (world, keeps, db) = (keys.clone(), keys.clone(), keys.db.clone());
                flow.json::<u64>().filter(move |n| keeps.keep_out("keys", n)).parallel_by_key(
                    8,
                    |n| **n % 31,
                    &db,
                    async move |n: &Event<u64>| world.handle("keys", &[n]).await,
                )
            })
            .pipeline("groups", move |flow| {
                let (world, search) = (groups.clone(), groups.search.clone());
                let window = Window::items(6).linger(Duration::from_millis(3));
                flow.json::<u64>().group_by(|n| **n % 7, window).parallel(
                    4,
                    &search,
                    async move |group: &Group<u64, Event<u64>>| {
                        world.handle("groups", &group.items.iter().collect::<Vec<_>>()).await
                    },
                )
            })
            .pipeline("written", move |flow| {
                let (world, search) = (written.clone(), written.search.clone());
                flow.json::<u64>()
                    .through(move |units| {
                        // other threads hold the units meanwhile, and drop some of them
                        units
                            .map(move |unit| {
                                let dropped = world.bad(200);
                                tokio::spawn(async move {
                                    tokio::task::yield_now().await;
                                    (!dropped).then_some(unit)
                                })
                            })
                            .buffer_unordered(8)
                            .filter_map(async |unit| unit.ok().flatten())
                    })
                    .map(|event| place(event.record()))
                    .bulk_write(&search, written.index.clone())
            })
            .build()
            .unwrap()
    }

    /// Something happens outside.
    fn disturb(&self) {
        let shard = self.dice(SHARDS as u64) as usize;
        let grace = Duration::from_millis(self.dice(20));
        match self.dice(16) {
            // few of a kind: failures in a row make whoever meets them wait longer and longer
            0 => self.stream.inject_at(shard, Inject::ReadErrors(1)),
            1 => self.stream.inject_at(shard, Inject::Duplicate(2)),
            2 => self.stream.inject_at(shard, Inject::CommitErrors(1)),
            3 => self.stream.inject_at(shard, Inject::CommitRepliesLost(1)),
            4 => self.stream.inject_at(shard, Inject::CommitsHang(1)),
            5 => self.stream.revoke("g", shard, grace),
            6 => self.stream.lose("g", shard),
            7 => self.stream.fence("g", shard),
            8 => self.faults.respond(1, Response::ReplyLost),
            9 => self.index.respond(1, Response::ReplyLost),
            10 => self.index.respond(1, Response::Hang),
            _ => self.stream.resume(),
        }
        // whoever joined last gets it, also when another has it
        if self.dice(3) > 0 {
            self.stream.assign("g", shard);
        }
    }
}

/// Runs one round; everything in it is over when it returns.
fn round(seed: u64, events: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let world = World::new(seed);
    let producer = std::thread::spawn({
        let stream = world.stream.clone();
        move || {
            for n in 0..events {
                let payload = if n % 501 == 11 { "not a number".into() } else { n.to_string() };
                stream.push_keyed(n.to_string(), payload);
                if n % 64 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            stream.close();
        }
    });
    let report = runtime.block_on(async {
        let run = |processor: Processor| {
            tokio::spawn(async move { processor.run(Shutdown::never()).await })
        };
        let first = run(world.processor());
        let disturb = async |times: u64| {
            for _ in 0..times {
                tokio::time::sleep(Duration::from_millis(world.dice(20))).await;
                world.disturb();
            }
        };
        disturb(20).await;
        // a second one beside it, to which shards go over while work of the first is in flight
        let second = run(world.processor());
        disturb(60).await;
        first.abort();
        let _ = first.await;
        disturb(20).await;

        world.calm.store(true, Ordering::SeqCst);
        let resume = async {
            loop {
                (0..SHARDS).for_each(|shard| {
                    if !world.stream.is_settled("g") {
                        world.stream.assign("g", shard);
                    }
                });
                for _ in 0..100 {
                    world.stream.resume();
                    world.index.resume();
                    world.faults.resume();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        tokio::select! {
            report = tokio::time::timeout(HANG, second) => {
                report.unwrap_or_else(|_| panic!("SEED={seed}: it never comes to rest"))
            }
            () = resume => unreachable!(),
        }
    });
    let report = report.expect("it does not panic").expect("it ends well");
    producer.join().expect("it does not panic");

    let ledger = world.ledger.lock().unwrap();
    assert!(ledger.broken.is_empty(), "SEED={seed}: {:#?}", ledger.broken);
    for record in (0..SHARDS).flat_map(|shard| world.stream.records(shard)) {
        let place = place(&record);
        for pipeline in PIPELINES {
            let known = ledger.fates.get(pipeline).is_some_and(|all| all.contains(&place));
            assert!(known, "SEED={seed}: {place:?} is lost in {pipeline}");
        }
    }
    // I5: nothing was made up
    let records: usize = (0..SHARDS).map(|shard| world.stream.records(shard).len()).sum();
    assert_eq!(records as u64, events);
    for fates in ledger.fates.values() {
        assert_eq!(fates.len() as u64, events, "SEED={seed}");
    }
    drop(ledger);
    assert!(world.stream.is_settled("g"), "SEED={seed}: {report}");
    assert_eq!(report.unsettled(), 0, "SEED={seed}: {report}");
    for (name, p) in &report.pipelines {
        let all = p.done + p.filtered + p.faulted + p.returned + p.open;
        assert_eq!(p.read, all, "SEED={seed}, {name}: {report}");
    }

    // I7: no task, no permit
    let since = std::time::Instant::now();
    while runtime.metrics().num_alive_tasks() > 0 {
        assert!(since.elapsed() < HANG, "SEED={seed}: tasks are alive");
        std::thread::sleep(Duration::from_millis(1));
    }
    let PermitStatus { in_use, .. } = world.db.status().permits.expect("it has a limit");
    assert_eq!(in_use, 0, "SEED={seed}: permits are leaked");
}

#[test]
fn i1_to_i7_hold_on_threads_in_real_time() {
    std::panic::set_hook(Box::new(|info| {
        let on_purpose = info.payload().downcast_ref::<&str>() == Some(&"a handler panics");
        if !on_purpose {
            eprintln!("{info}");
        }
    }));
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let events = number("EVENTS").unwrap_or(4_000);
    if let Some(seed) = number("SEED") {
        return round(seed, events);
    }
    // side by side, for most of a round is waiting
    let (rounds, next) = (number("ROUNDS").unwrap_or(6), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).filter(|n| *n < rounds)
                {
                    round(seed, events);
                }
            });
        }
    });
}
