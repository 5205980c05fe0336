//! Random lives of a processor: sources, handlers and fault sinks that fail, rebalances and kills, and then
//! calm. Whatever came, in the end every record has a fate, every fault is stored, and the checkpoint stands
//! at the end. A failure prints the seed that repeats it: `SEED=17 cargo test --test random`.
//! `SEEDS=10000` tells more stories.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::clock::Random;
use streambreaker::fault::{FaultEvent, FloodGuard};
use streambreaker::memory::{
    self, Collect, Commit, CommitOutcome, Consumer, Inject, Response, Stream, Verdict, What,
};
use streambreaker::prelude::*;
use streambreaker::sink::Limits;
use streambreaker::source::Ack;
use streambreaker::{Position, Processor, ShardId, Shutdown};
use support::*;

const SHARDS: usize = 3;
const PIPELINES: [&str; 2] = ["one", "two"];

type Place = (ShardId, Position);

/// What the world outside saw.
#[derive(Default)]
struct Ledgers {
    /// By pipeline: records whose effect was applied, and those that a filter kept out.
    effects: BTreeMap<&'static str, BTreeSet<Place>>,
    filtered: BTreeMap<&'static str, BTreeSet<Place>>,
    high: BTreeMap<(ShardId, u64), Position>,
    broken: Vec<String>,
}

struct World {
    random: Random,
    calm: AtomicBool,
    stream: Stream,
    faults: Collect<FaultEvent>,
    ledgers: Mutex<Ledgers>,
    each: bool,
}

impl World {
    fn dice(&self, sides: u64) -> u64 {
        self.random.next_u64() % sides
    }

    /// Whether something goes wrong now, once in `n`.
    fn bad(&self, n: u64) -> bool {
        !self.calm.load(Ordering::SeqCst) && self.dice(n) == 0
    }

    fn consumer(&self) -> Consumer {
        let consumer = self.stream.consumer("g");
        match self.each {
            true => consumer.each(Duration::from_secs(40)),
            false => consumer.counting(),
        }
    }

    fn stored(&self) -> BTreeSet<(String, Place)> {
        let mut stored = BTreeSet::new();
        for event in self.faults.events() {
            for fault in &event.records {
                let place = (fault.record.shard().clone(), fault.record.position().clone());
                stored.insert((event.pipeline.clone(), place));
            }
        }
        stored
    }

    /// Rules I1 and I2, on every commit.
    fn check(&self, commit: &Commit) {
        if !matches!(commit.outcome, CommitOutcome::Applied | CommitOutcome::ReplyLost) {
            return;
        }
        let shard = self.stream.shards().iter().position(|id| *id == commit.shard).unwrap();
        let stored = self.stored();
        let mut ledgers = self.ledgers.lock().unwrap();
        let settled: Vec<Position> = match &commit.what {
            What::Through(at) => {
                let key = (commit.shard.clone(), commit.ownership);
                let before = ledgers.high.insert(key, at.clone());
                if before.as_ref().is_some_and(|before| before > at) {
                    ledgers.broken.push(format!("I2: {at} after {before:?}"));
                }
                let records = self.stream.records(shard);
                records.iter().map(|r| r.position().clone()).filter(|p| p <= at).collect()
            }
            What::Each(acks) => acks
                .iter()
                .filter(|(_, ack)| matches!(ack, Ack::Done | Ack::Faulted))
                .map(|(position, _)| position.clone())
                .collect(),
            _ => Vec::new(),
        };
        for position in settled {
            let place = (commit.shard.clone(), position);
            for pipeline in PIPELINES {
                let known = ledgers.effects.get(pipeline).is_some_and(|all| all.contains(&place))
                    || ledgers.filtered.get(pipeline).is_some_and(|all| all.contains(&place))
                    || stored.contains(&(pipeline.to_owned(), place.clone()));
                if !known {
                    ledgers.broken.push(format!("I1: {place:?} has no fate in {pipeline}"));
                }
            }
        }
    }

    /// What a handler does with some records.
    async fn handle(
        &self,
        pipeline: &'static str,
        events: &[&Event<u64>],
    ) -> Result<(), StepError> {
        if self.dice(3) == 0 {
            millis(self.dice(40)).await;
        }
        if events.iter().any(|event| ***event % 23 == 5) {
            return Err("poison").fault();
        }
        if self.bad(12) {
            match self.dice(6) {
                0 => return Err("broken").fatal(),
                1 => panic!("a handler panics"),
                2 => std::future::pending().await,
                3 => return Err("less").throttled(Duration::from_millis(self.dice(300))),
                // the effect is applied, and nobody is told
                4 => {
                    self.apply(pipeline, events);
                    return Err("the reply was lost").transient();
                }
                _ => return Err("down").transient(),
            }
        }
        self.apply(pipeline, events);
        Ok(())
    }

    fn apply(&self, pipeline: &'static str, events: &[&Event<u64>]) {
        let mut ledgers = self.ledgers.lock().unwrap();
        let applied = ledgers.effects.entry(pipeline).or_default();
        for event in events {
            let record = event.record();
            applied.insert((record.shard().clone(), record.position().clone()));
        }
    }

    fn keep_out(&self, pipeline: &'static str, event: &Event<u64>) -> bool {
        let out = **event % 10 == 9;
        if out {
            let place = (event.record().shard().clone(), event.record().position().clone());
            self.ledgers.lock().unwrap().filtered.entry(pipeline).or_default().insert(place);
        }
        !out
    }

    fn processor(self: &Arc<Self>) -> Processor {
        let resource = |name: &str| {
            let retry = Retry::exponential().max_attempts(1 + self.dice(3) as u32);
            let resource = Resource::builder(name)
                .timeout(Duration::from_millis(100 + self.dice(400)))
                .retry(retry)
                .seed(self.random.next_u64());
            let resource = if self.dice(3) == 0 { resource.concurrency(2) } else { resource };
            let resource = match self.dice(4) {
                0 => resource.breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Pause)),
                1 => resource.rate(Rate::per_second(200)),
                _ => resource,
            };
            resource.build().unwrap()
        };
        let (db, index) = (resource("db"), resource("index"));
        let (way, grouped) = (self.dice(3), self.dice(2) == 0);
        let (one, two) = (self.clone(), self.clone());
        Processor::builder("p")
            .source(self.consumer())
            .faults(self.faults.clone())
            .flood_guard(if self.dice(2) == 0 { FloodGuard::off() } else { FloodGuard::default() })
            .in_flight(8 + self.dice(60) as usize, 1 << 20)
            .in_flight_total(40 + self.dice(100) as usize, 1 << 20)
            .commit_every(Duration::from_millis(1 + self.dice(1_000)), 1 + self.dice(50))
            .commit_timeout(Duration::from_secs(2))
            .fault_timeout(Duration::from_secs(2))
            .max_deliveries(if self.dice(2) == 0 { 1_000 } else { 5 + self.dice(6) as u32 })
            .seed(self.random.next_u64())
            .pipeline("one", move |flow| {
                let (keeps, world) = (one.clone(), one.clone());
                let flow = flow.json::<u64>().filter(move |n| keeps.keep_out("one", n));
                let handler = async move |n: &Event<u64>| world.handle("one", &[n]).await;
                match way {
                    0 => flow.call(&db, handler).boxed(),
                    1 => flow.parallel(6, &db, handler).boxed(),
                    _ => flow.parallel_by_key(3, |n| **n % 5, &db, handler).boxed(),
                }
            })
            .pipeline("two", move |flow| {
                let (keeps, world) = (two.clone(), two.clone());
                let flow = flow.json::<u64>().filter(move |n| keeps.keep_out("two", n));
                if grouped {
                    let window = Window::items(4).linger(Duration::from_millis(30));
                    flow.group_by(|n| **n % 4, window)
                        .parallel(3, &index, async move |group: &Group<u64, Event<u64>>| {
                            let events: Vec<_> = group.items.iter().collect();
                            world.handle("two", &events).await
                        })
                        .boxed()
                } else {
                    flow.parallel(5, &index, async move |n: &Event<u64>| {
                        world.handle("two", &[n]).await
                    })
                    .boxed()
                }
            })
            .build()
            .unwrap()
    }

    /// Something happens outside.
    fn disturb(&self) {
        let shard = self.dice(SHARDS as u64) as usize;
        let few = 1 + self.dice(4) as u32;
        match self.dice(16) {
            0 => self.stream.inject_at(shard, Inject::ReadErrors(few)),
            1 => self.stream.inject_at(shard, Inject::EmptyReads(few)),
            2 => self.stream.inject_at(shard, Inject::Duplicate(few)),
            3 => self.stream.inject_at(shard, Inject::CommitErrors(few)),
            4 => self.stream.inject_at(shard, Inject::CommitRepliesLost(few)),
            5 => self.stream.inject_at(shard, Inject::CommitsHang(1)),
            6 => self.stream.inject_at(shard, Inject::Stall),
            7 => self.stream.resume(),
            8 => {
                self.stream.revoke("g", shard, Duration::from_millis(self.dice(300)));
                if self.dice(2) == 0 {
                    self.stream.assign("g", shard);
                }
            }
            9 => {
                self.stream.lose("g", shard);
                self.stream.assign("g", shard);
            }
            10 => {
                self.stream.fence("g", shard);
                self.stream.assign("g", shard);
            }
            11 => self.stream.assign("g", shard),
            12 => self.faults.down(),
            13 => self.faults.up(),
            14 => {
                let response = match self.dice(4) {
                    0 => Response::ReplyLost,
                    1 => Response::Silence,
                    2 => Response::Hang,
                    _ => Response::Throttle(Duration::from_millis(100)),
                };
                self.faults.respond(1, response);
            }
            // by position it may reach below a checkpoint of a life before, of which this one cannot know
            _ if !self.each => {}
            _ => self.stream.inject_at(shard, Inject::Redeliver(few as usize)),
        }
    }
}

async fn story(seed: u64) {
    let random = Random::seeded(seed);
    let each = random.next_u64() % 3 == 0;
    let stream = Stream::new("numbers", SHARDS);
    let total = 40 + random.next_u64() % 120;
    for n in 0..total {
        let payload = if n % 31 == 11 { "not a number".to_owned() } else { n.to_string() };
        stream.push_keyed(n.to_string(), payload);
    }
    let world = Arc::new(World {
        random,
        calm: AtomicBool::new(false),
        stream: stream.clone(),
        faults: memory::faults().with_limits(Limits::items(7)),
        ledgers: Mutex::default(),
        each,
    });
    let watched = Arc::downgrade(&world);
    stream.on_commit(move |commit| {
        if let Some(world) = watched.upgrade() {
            world.check(commit);
        }
    });
    let sink = Arc::downgrade(&world);
    world.faults.decide(move |_, _| match sink.upgrade() {
        Some(world) if world.bad(8) => match world.dice(4) {
            0 => Verdict::Reject,
            1 => Verdict::Silent,
            2 => Verdict::ReplyLost,
            _ => Verdict::Retry,
        },
        _ => Verdict::Done,
    });
    let lives = 1 + world.dice(4);
    for _ in 0..lives {
        let processor = world.processor();
        let (trigger, shutdown) = Shutdown::by_hand();
        let mut run = tokio::spawn(async move { processor.run(shutdown).await });
        for _ in 0..world.dice(30) {
            millis(world.dice(400)).await;
            world.disturb();
        }
        match world.dice(3) {
            0 => {
                trigger.pull();
                millis(world.dice(3_000)).await;
                trigger.pull();
                let drained = tokio::time::timeout(Duration::from_secs(30), &mut run).await;
                let report = drained.expect("a drain ends").unwrap().unwrap();
                account(&report);
            }
            _ => {
                run.abort();
                let _ = run.await;
            }
        }
    }
    // the last life begins in the storm, and has to get over it by itself
    let processor = world.processor();
    let run = processor.run(Shutdown::never());
    let resume = async {
        for _ in 0..world.dice(20) {
            millis(world.dice(400)).await;
            world.disturb();
        }
        world.calm.store(true, Ordering::SeqCst);
        world.faults.up();
        for shard in 0..SHARDS {
            // whoever was revoked last may not have been given it again
            stream.assign("g", shard);
        }
        stream.close();
        loop {
            stream.resume();
            world.faults.resume();
            secs(60).await;
        }
    };
    let report = tokio::select! {
        biased;
        report = tokio::time::timeout(Duration::from_secs(36_000), run) => {
            report.unwrap_or_else(|_| panic!("it never comes to rest; each: {each}")).unwrap()
        }
        () = resume => unreachable!(),
    };
    account(&report);
    assert_eq!(report.unsettled(), 0, "{report}");
    assert!(stream.is_settled("g"), "{report}");
    let stored = world.stored();
    let ledgers = world.ledgers.lock().unwrap();
    assert!(ledgers.broken.is_empty(), "{:?}", ledgers.broken);
    let place =
        |record: &streambreaker::Record| (record.shard().clone(), record.position().clone());
    let mut places = BTreeSet::new();
    for record in (0..SHARDS).flat_map(|shard| stream.records(shard)) {
        let place = place(&record);
        for pipeline in PIPELINES {
            assert!(
                ledgers.effects.get(pipeline).is_some_and(|all| all.contains(&place))
                    || ledgers.filtered.get(pipeline).is_some_and(|all| all.contains(&place))
                    || stored.contains(&(pipeline.to_owned(), place.clone())),
                "{place:?} is lost in {pipeline}"
            );
            if record.payload() == "not a number" {
                assert!(stored.contains(&(pipeline.to_owned(), place.clone())));
            }
        }
        places.insert(place);
    }
    // I5: nothing was made up
    assert!(ledgers.effects.values().flatten().all(|place| places.contains(place)));
    for event in world.faults.events() {
        for fault in &event.records {
            let shard = stream.shards().iter().position(|id| id == fault.record.shard()).unwrap();
            let records = stream.records(shard);
            let original = records.iter().find(|r| r.position() == fault.record.position());
            assert_eq!(original.unwrap().payload(), fault.record.payload());
        }
    }
}

fn account(report: &streambreaker::Report) {
    for (name, p) in &report.pipelines {
        assert_eq!(
            p.read,
            p.done + p.filtered + p.faulted + p.returned + p.open,
            "{name}: {report}"
        );
    }
}

fn tell(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // handlers panic on purpose: only what fails the story is printed, with its seed
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(story(seed));
        let alive = runtime.metrics().num_alive_tasks();
        assert_eq!(alive, 0, "I7: {alive} tasks are alive");
    }));
    if let Err(panic) = told {
        panic!("SEED={seed}: {}", text_of(&*panic));
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[test]
fn i1_to_i7_hold_in_random_lives() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<String>().map_or("", |text| text);
        if text.starts_with("SEED") || std::env::var_os("SEED").is_some() {
            eprintln!("{info}");
        }
    }));
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return tell(seed);
    }
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        tell(seed);
    }
}
