//! What idempotent, order-agnostic handlers end in, whatever the stream does to their events (L10).

#![allow(clippy::unwrap_used)] // a test that cannot go on is a test that failed

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streambreaker::flow::{NewEvent, Publication};
use streambreaker::idempotence::{
    Collected, EventStore, MemoryEvents, MemoryVersions, Version, VersionedStore,
};
use streambreaker::memory::{self, Collect, Inject, Stream};
use streambreaker::prelude::*;
use uuid::Uuid;

mod dedupe;
mod dedupe_units;
mod ledgers;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Serialize, Deserialize)]
struct Step {
    id: String,
    timestamp: i64,
    order: u32,
    what: String,
}

impl Step {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

fn step(order: u32, what: &str, timestamp: i64) -> Step {
    Step { id: format!("{order}-{what}-{timestamp}"), timestamp, order, what: what.to_owned() }
}

fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().unwrap()
}

/// Puts `items` into an order that `seed` decides (Fisher and Yates).
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        items.swap(i, (seed >> 33) as usize % (i + 1));
    }
}

/// The steps twice each, in an order that `seed` decides, in a stream that delivers some again.
fn hostile(steps: &[Step], seed: u64, shards: usize) -> Stream {
    let mut all: Vec<&Step> = steps.iter().chain(steps).collect();
    shuffle(&mut all, seed);
    let stream = Stream::new("steps", shards);
    for step in all {
        // without a key: the events of an order are spread over the shards
        stream.push(step.json());
    }
    stream.close();
    stream.inject(Inject::Redeliver(7));
    stream.inject(Inject::Duplicate(2));
    stream.inject(Inject::CommitRepliesLost(1));
    stream
}

#[tokio::test(start_paused = true)]
async fn l10_a_view_ends_in_the_highest_versions_in_any_order() {
    let whats = ["ordered", "paid", "shipped", "returned"];
    let mut steps = Vec::new();
    for order in 0..20u32 {
        for (n, what) in whats.iter().enumerate().take(1 + order as usize % 4) {
            // some orders have all their steps in one moment: the ids decide
            steps.push(step(order, what, if order % 5 == 0 { 9 } else { n as i64 }));
        }
    }
    let mut expected: BTreeMap<u32, (i64, String, String)> = BTreeMap::new();
    for step in &steps {
        let new = (step.timestamp, step.id.clone(), step.what.clone());
        let newest = expected.entry(step.order).or_insert_with(|| new.clone());
        *newest = newest.clone().max(new);
    }
    for seed in 0..20 {
        let stream = hostile(&steps, seed, 3);
        let view = MemoryVersions::<u32, String>::new();
        let (db, store) = (resource("db"), view.clone());
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("view", move |flow| {
                let store = store.clone();
                flow.json::<Step>().parallel(4, &db, async move |step: &Event<Step>| {
                    tokio::time::sleep(Duration::from_millis(step.order as u64 % 3)).await;
                    let version = Version::of(step.received());
                    store.put_if_newer(&step.order, &version, &step.what).await?;
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        let all = &report.pipelines["view"];
        assert_eq!((all.faulted, all.returned, all.open), (0, 0, 0), "seed {seed}: {report}");
        assert!(all.done >= 2 * steps.len() as u64, "stale input is not an error: {report}");
        let got: BTreeMap<u32, String> =
            view.all().into_iter().map(|(order, stored)| (order, stored.value)).collect();
        let want: BTreeMap<u32, String> =
            expected.iter().map(|(order, (_, _, what))| (*order, what.clone())).collect();
        assert_eq!(got, want, "seed {seed}");
    }
}

/// An order is complete when it was paid and then shipped: the order of happening matters, that of coming not.
fn completed(steps: &[Collected<Step>]) -> bool {
    let mut whats = steps.iter().map(|step| &*step.event.what);
    whats.any(|what| what == "paid") && whats.any(|what| what == "shipped")
}

#[tokio::test(start_paused = true)]
async fn l10_collect_correlate_evaluate_publishes_the_same_in_any_order() {
    let mut steps = Vec::new();
    for order in 0..30u32 {
        match order % 3 {
            0 => steps.extend([step(order, "paid", 1), step(order, "shipped", 2)]),
            1 => steps.extend([step(order, "shipped", 1), step(order, "paid", 2)]),
            _ => steps.push(step(order, "paid", 1)),
        }
    }
    let mut first = None;
    for seed in 0..20 {
        let stream = hostile(&steps, seed, 3);
        let published = Collect::<Publication>::new();
        let events = MemoryEvents::new(DAY);
        let (db, out, sink) = (resource("db"), resource("out"), published.clone());
        let processor = Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(memory::faults())
            .pipeline("rules", move |flow| {
                let events = events.clone();
                flow.json::<Step>()
                    .parallel(4, &db, async move |step: &Event<Step>| {
                        let order = step.order.to_string();
                        let steps = events.collect(&Collected::of(step, &order)).await?;
                        if !completed(&steps) {
                            return Ok(None);
                        }
                        let new = NewEvent::json("order-completed", &order)?;
                        Ok(Some(new.with_key(&order).with_identity(order)))
                    })
                    .filter_map(|new| new)
                    .publish(&out, sink.clone())
            })
            .build()
            .unwrap();
        let report = processor.run(Shutdown::never()).await.unwrap();
        assert_eq!(report.pipelines["rules"].faulted, 0, "seed {seed}: {report}");
        // a consumer that leaves out the ids it has seen sees each completion once
        let seen: BTreeMap<Uuid, Option<String>> =
            published.items().into_iter().map(|new| (new.id, new.key)).collect();
        let mut orders: Vec<u32> =
            seen.values().flatten().map(|order| order.parse().unwrap()).collect();
        orders.sort_unstable();
        assert_eq!(orders, (0..30).step_by(3).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen, "seed {seed}: other ids");
    }
}
