//! What runs beside the stream on one processor: faults are sent again while it runs, is paused, has its breaker open,
//! drains and begins anew. Each part of a record has its effect, and, where no record was given back, one.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Collect, Stream};
use streambreaker::prelude::*;
use streambreaker::resource::{BreakerControl, OnExhausted};
use streambreaker::{By, Delivery, FaultEvent, Record};
use support::*;
use uuid::Uuid;

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

const RECORDS: u64 = 40;
const PARTS: u64 = 3;

/// How often each part of each record had its effect, in each pipeline.
type Effects = Arc<Mutex<BTreeMap<(&'static str, u64, u64), u32>>>;

#[derive(Clone)]
struct World {
    effects: Effects,
    db: Resource,
    /// Whether poison is none any more, and the dependency is up.
    mended: Arc<AtomicBool>,
    seed: u64,
}

impl World {
    /// One call for these parts of a pipeline: some are poison, and at times all fails.
    async fn write(
        &self,
        pipeline: &'static str,
        parts: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), StepError> {
        let parts: Vec<_> = parts.into_iter().collect();
        millis(7).await;
        if !self.mended.load(Ordering::Relaxed) {
            if parts.iter().any(|(n, part)| (n * PARTS + part + self.seed) % 7 == 3) {
                return Err("poison").fault();
            }
            if (parts[0].0 + self.seed) % 5 == 0 {
                return Err("down").transient();
            }
        }
        let mut effects = self.effects.lock().unwrap();
        for (n, part) in parts {
            *effects.entry((pipeline, n, part)).or_default() += 1;
        }
        Ok(())
    }
}

fn parts(n: u64) -> Vec<(u64, u64)> {
    (0..PARTS).map(|part| (n, part)).collect()
}

fn processor(world: &World, faults: &Collect<FaultEvent>) -> Processor {
    let (single, grouped) = (world.clone(), world.clone());
    Processor::builder("p")
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .commit_every(Duration::from_millis(20), 10)
        .in_flight(12, 1 << 20)
        .seed(world.seed)
        .pipeline("single", move |flow| {
            let (world, db) = (single.clone(), single.db.clone());
            let write = async move |part: &(u64, u64)| world.write("single", [*part]).await;
            flow.json::<u64>().split(|n| parts(*n)).parallel(3, &db, write)
        })
        .pipeline("grouped", move |flow| {
            let (world, db) = (grouped.clone(), grouped.db.clone());
            let window = Window::items(4).linger(Duration::from_millis(30));
            let write = async move |group: &Group<u64, (u64, u64)>| {
                world.write("grouped", group.items.iter().copied()).await
            };
            let parts = flow.json::<u64>().split(|n| parts(*n));
            parts.group_by(|(n, part)| (n + part) % 2, window).parallel(3, &db, write)
        })
        .build()
        .unwrap()
}

/// The records of a fault, as they are sent again.
fn again(fault: &FaultEvent) -> Vec<Record> {
    let records = fault.records.iter();
    records
        .map(|record| {
            let part = record.part.clone();
            let attempt = fault.resubmits + 1;
            record.record.clone().with_delivery(Delivery::Resubmit {
                fault: fault.id,
                attempt,
                part,
                run: None,
            })
        })
        .collect()
}

/// Sends each fault again, once it is there, until there is none that was not; gives up a call now and then.
async fn send_again(
    processor: Processor,
    faults: Collect<FaultEvent>,
    over: Arc<AtomicBool>,
    gives_up: bool,
    mut rng: Dice,
) -> BTreeSet<Uuid> {
    let (mut sent, mut told) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let last = over.load(Ordering::SeqCst);
        // the same one may have been stored twice
        let all = faults.events().into_iter().map(|fault| (fault.id, fault));
        let mut open: BTreeMap<_, _> = all.collect();
        open.retain(|id, _| !sent.contains(id));
        if open.is_empty() && last {
            return told;
        }
        for fault in open.into_values() {
            // not each of them at once, or there are thousands of faults before all is mended
            if !last && !rng.percent(10) {
                continue;
            }
            let records = again(&fault);
            let count = records.len();
            let call = processor.process(records).only(&fault.pipeline);
            let limit = Duration::from_millis(rng.below(3_000));
            let call = if last || rng.percent(50) { call } else { call.within(limit) };
            let outcome = match (last || !gives_up, rng.percent(80)) {
                // whoever gives up sends it once more
                (false, false) => match tokio::time::timeout(limit, call.into_future()).await {
                    Ok(outcome) => outcome,
                    Err(_) => continue,
                },
                _ => call.await,
            };
            let sum = outcome.settled.len() + outcome.faulted.len() + outcome.returned.len();
            assert_eq!(sum, count, "a record has one outcome");
            told.extend(outcome.faults);
            assert!(!last || outcome.returned.is_empty(), "in the end nothing is given back");
            if outcome.returned.is_empty() {
                sent.insert(fault.id);
            }
        }
        // in the end longer than a breaker cools down: each call would be a fault till then
        millis(if last { 60_000 } else { 1 + rng.below(200) }).await;
    }
}

/// Turns the switches at random, and puts them back.
async fn operate(processor: Processor, pauses: bool, over: Arc<AtomicBool>, mut rng: Dice) {
    let (handle, by) = (processor.handle(), By::new("ada", "a test"));
    while !over.load(Ordering::SeqCst) {
        millis(1 + rng.below(400)).await;
        let pipeline = if rng.percent(50) { "single" } else { "grouped" };
        match rng.below(5) {
            0 if pauses => handle.pause(pipeline, &by).unwrap(),
            0..3 => handle.resume(pipeline, &by).unwrap(),
            3 => handle.breaker("db", BreakerControl::HeldOpen, &by).unwrap(),
            _ => handle.breaker("db", BreakerControl::Auto, &by).unwrap(),
        }
    }
    for pipeline in ["single", "grouped"] {
        handle.resume(pipeline, &by).unwrap();
    }
    handle.breaker("db", BreakerControl::Auto, &by).unwrap();
}

/// Whether each part had its effect once.
async fn run(seed: u64) -> bool {
    let mut rng = Dice(seed);
    let on_open = [OnOpen::Fault, OnOpen::Siphon, OnOpen::Pause][rng.below(3) as usize];
    let returns = rng.percent(30);
    let (each, gives_up) = (rng.percent(50), rng.percent(30));
    let db = Resource::builder("db")
        .timeout(Duration::from_millis(50))
        .retry(Retry::exponential().max_attempts(2).base(Duration::from_millis(5)))
        .retry_quota(RetryQuota::unlimited())
        .breaker(Breaker::failure_ratio(0.5).on_open(on_open))
        .on_exhausted(if returns { OnExhausted::Return } else { OnExhausted::Fault })
        .seed(seed)
        .build()
        .unwrap();
    let world = World { effects: Effects::default(), db, mended: Arc::default(), seed };
    let (stream, faults) = (Stream::new("numbers", 2), memory::faults());
    let processor = processor(&world, &faults);
    let over = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_again(
        processor.clone(),
        faults.clone(),
        over.clone(),
        gives_up,
        Dice(rng.next()),
    ));
    let calm = Arc::new(AtomicBool::new(false));
    let operator =
        tokio::spawn(operate(processor.clone(), rng.percent(50), calm.clone(), Dice(rng.next())));

    // lives of the source, some ended by a drain, while records come
    let mut left = (0..RECORDS).collect::<Vec<_>>();
    let mut all_settled = true;
    while !left.is_empty() {
        let consumer = stream.consumer("g");
        let consumer = if each { consumer.each(Duration::from_secs(60)) } else { consumer };
        let (trigger, shutdown) = Shutdown::by_hand();
        let live = processor.clone();
        let run = tokio::spawn(async move { live.run_from(consumer, shutdown).await });
        let some = 1 + rng.below(left.len() as u64) as usize;
        for n in left.drain(..some) {
            stream.push_keyed(n.to_string(), n.to_string());
            millis(rng.below(30)).await;
        }
        millis(rng.below(500)).await;
        trigger.pull();
        all_settled &= run.await.unwrap().unwrap().unsettled() == 0;
    }
    // all is well again, and all comes to its end
    calm.store(true, Ordering::SeqCst);
    operator.await.unwrap();
    world.mended.store(true, Ordering::SeqCst);
    stream.close();
    let consumer = stream.consumer("g");
    let consumer = if each { consumer.each(Duration::from_secs(60)) } else { consumer };
    let live = processor.clone();
    let end = tokio::spawn(async move { live.run_from(consumer, Shutdown::never()).await });
    let hour = Duration::from_secs(3_600);
    let Ok(report) = tokio::time::timeout(hour, end).await else {
        panic!("seed {seed}: it stands still: {:#?}", processor.handle().status())
    };
    let report = report.unwrap().unwrap();
    over.store(true, Ordering::SeqCst);
    let Ok(sent) = tokio::time::timeout(hour, sender).await else {
        panic!("seed {seed}: the faults are not sent: {:#?}", processor.handle().status())
    };
    let told = sent.unwrap();

    assert!(stream.is_settled("g") && stream.unacked("g") == 0, "seed {seed}");
    assert_eq!(report.error, None, "seed {seed}: {report}");
    // nothing was given back, and whoever sent a fault again waited for it
    let once = all_settled && !gives_up && report.pipelines.values().all(|p| p.restarts == 0);
    let effects = world.effects.lock().unwrap();
    for pipeline in ["single", "grouped"] {
        for (n, part) in (0..RECORDS).flat_map(parts) {
            let times = effects.get(&(pipeline, n, part)).copied().unwrap_or(0);
            assert!(times > 0, "seed {seed}: {pipeline}: part {part} of {n} is lost");
            assert!(!once || times == 1, "seed {seed}: {pipeline}: part {part} of {n}: {times}");
        }
    }
    let ids: BTreeSet<_> = faults.events().iter().map(|fault| fault.id).collect();
    assert!(ids.is_superset(&told), "seed {seed}: a fault is told that is not stored");
    let status = processor.handle().status();
    assert_eq!((status.in_flight_records, status.in_flight_bytes), (0, 0), "seed {seed}");
    for (name, pipeline) in &status.pipelines {
        let p = &pipeline.records;
        assert_eq!(p.open, 0, "seed {seed}: {name}: {p:?}");
    }
    once
}

#[test]
fn l8_l9_what_is_sent_again_beside_the_stream_is_neither_lost_nor_stuck() {
    let seeds: u64 = std::env::var("BESIDE_SEEDS").map_or(40, |n| n.parse().unwrap());
    let from: u64 = std::env::var("BESIDE_FROM").map_or(0, |n| n.parse().unwrap());
    let mut once = 0;
    for seed in from..from + seeds {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        once += u64::from(runtime.block_on(run(seed)));
    }
    assert!(once > 0, "there was always something that came again");
}
