//! The handlers on the memory transport, in paused time: idempotent, order-agnostic, and right about what is overdue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orders_component::event::{OrderEvent, What};
use orders_component::generate::Generator;
use orders_component::handlers::{Part, rules, view};
use streambreaker::clock::Random;
use streambreaker::flow::Publication;
use streambreaker::idempotence::{Collected, EventStore, MemoryEvents, MemoryVersions};
use streambreaker::memory::{self, Collect, Inject, Response, Stream};
use streambreaker::prelude::*;
use streambreaker::{Class, FaultEvent, Report};

mod support;
use support::{RULES, Row, Said, expected, faulted};

const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

/// What outlives a life of the component: stores and sinks.
#[derive(Clone)]
struct World {
    facts: MemoryEvents<OrderEvent>,
    view: MemoryVersions<Part, What>,
    published: Collect<Publication>,
    faults: Collect<FaultEvent>,
}

impl World {
    fn new() -> Self {
        Self {
            facts: MemoryEvents::new(Duration::from_secs(30 * 86_400)),
            view: MemoryVersions::new(),
            published: Collect::new(),
            faults: memory::faults(),
        }
    }

    fn processor<E>(&self, stream: &Stream, facts: E) -> Processor
    where
        E: EventStore<OrderEvent> + Clone + 'static,
    {
        let resource = |name| {
            let built = Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build();
            built.unwrap()
        };
        let (store, bus) = (resource("store"), resource("bus"));
        let (shown, published, database) =
            (self.view.clone(), self.published.clone(), store.clone());
        Processor::builder("orders")
            .source(stream.consumer("orders"))
            .faults(self.faults.clone())
            .seed(1)
            .pipeline("rules", move |flow| {
                rules(flow, facts.clone(), RULES, &store).publish(&bus, published.clone())
            })
            .pipeline("view", move |flow| view(flow, shown.clone(), &database))
            .build()
            .unwrap()
    }

    async fn run(&self, stream: &Stream) -> Report {
        let processor = self.processor(stream, self.facts.clone());
        let report = processor.run(Shutdown::never()).await.unwrap();
        assert_eq!(report.exit_code(), 0, "{report}");
        assert!(stream.is_settled("orders"));
        report
    }

    fn ids(&self) -> BTreeSet<String> {
        self.published.items().iter().map(|event| event.id.to_string()).collect()
    }

    fn said(&self) -> Said {
        let of = |event: &Publication| (event.kind.clone(), event.key.clone().unwrap());
        self.published.items().iter().map(of).collect()
    }

    /// The view as the database's `order_status` would show it.
    fn rows(&self) -> BTreeMap<String, Row> {
        let mut rows = BTreeMap::new();
        let all = self.view.all();
        for (part, stored) in &all {
            let (Part::Order(order), What::Submitted(o) | What::Changed(o)) = (part, &stored.value)
            else {
                continue;
            };
            let paid = all.iter().filter_map(|(part, stored)| match (part, &stored.value) {
                (Part::Payment { order: of, .. }, What::Paid { cents }) if of == order => {
                    Some(*cents)
                }
                _ => None,
            });
            let paid: i64 = paid.sum();
            let carrier =
                all.get(&Part::Shipment(order.clone())).map(|stored| match &stored.value {
                    What::Shipped { carrier } => carrier.clone(),
                    other => panic!("{other:?} is no shipment"),
                });
            let status = match (paid >= o.cents, carrier.is_some()) {
                (true, true) => "complete",
                (true, false) => "paid",
                (false, true) => "shipped",
                (false, false) => "open",
            };
            let (address, status) = (o.address.clone(), status.into());
            rows.insert(order.clone(), Row { address, cents: o.cents, paid, carrier, status });
        }
        rows
    }
}

/// A stream of two shards with all events of an order in one of them.
fn stream(lines: &[String]) -> Stream {
    let stream = Stream::new("order-events", 2);
    for line in lines {
        stream.push_keyed(order(line), line.clone());
    }
    stream.close();
    stream
}

/// The order of a line, also of one that is torn.
fn order(line: &str) -> String {
    let from = line.find("o-").unwrap_or(0);
    let end =
        line[from + 2..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |n| from + 2 + n);
    line[from..end].to_owned()
}

fn generated(seed: u64) -> Vec<String> {
    Generator { seed, orders: 200, poison: 0.05, doubled: 0.2 }.lines(RULES)
}

#[tokio::test(start_paused = true)]
async fn i4_what_is_said_and_shown_is_that_of_an_independent_computation() {
    let lines = generated(3);
    let world = World::new();
    let report = world.run(&stream(&lines)).await;
    let expected = expected(&lines, RULES);
    assert_eq!(world.said(), expected.said);
    assert_eq!(world.rows(), expected.view);
    for kind in ["order-completed", "order-overdue"] {
        assert!(expected.said.iter().filter(|(said, _)| said == kind).count() > 20, "{kind}");
    }
    assert_eq!(world.ids().len(), expected.said.len(), "each is said under one id");
    assert_eq!(report.pipelines["rules"].read, lines.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn f1_poison_is_faulted_with_the_whole_record_and_holds_nothing_up() {
    let lines = generated(4);
    let world = World::new();
    world.run(&stream(&lines)).await;
    let (faults, expected) = (world.faults.events(), expected(&lines, RULES));
    for pipeline in ["rules", "view"] {
        assert!(expected.poison[pipeline].len() > 20, "{pipeline}");
        assert_eq!(faulted(&faults, pipeline), expected.poison[pipeline], "{pipeline}");
    }
    assert!(faults.iter().all(|fault| fault.class == Class::Fault && fault.records.len() == 1));
    let messages: BTreeSet<_> = faults.iter().map(|fault| fault.err.message.as_str()).collect();
    assert!(messages.contains("a payment is worth something"), "{messages:?}");
    assert!(messages.contains("the event belongs to no order"), "{messages:?}");
}

/// Another order in which the same lines may arrive: within the grace anything goes, and the timer waits for it.
fn shuffled(lines: &[String], seed: u64) -> Vec<String> {
    let random = Random::seeded(seed);
    let mut arriving: Vec<(i64, usize, &String)> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let event = serde_json::from_str::<OrderEvent>(line).ok();
        let happened = event.map_or(0, |event| event.timestamp);
        let late = |share: f64| (share * RULES.grace.as_millis() as f64) as i64;
        // and some come again, at any time later
        arriving.push((happened + late(random.next_f64()), n, line));
        if random.next_f64() < 0.3 {
            arriving.push((happened + late(20.0 * random.next_f64()), n, line));
        }
    }
    arriving.sort();
    arriving.into_iter().map(|(_, _, line)| line.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn l10_any_order_and_any_repetition_ends_alike() {
    let lines = generated(5);
    let first = World::new();
    first.run(&stream(&lines)).await;
    for seed in 0..8 {
        let world = World::new();
        let other = shuffled(&lines, seed);
        assert_ne!(other, lines);
        let stream = stream(&other);
        stream.inject(Inject::Redeliver(40));
        stream.inject(Inject::CommitRepliesLost(1));
        world.run(&stream).await;
        assert_eq!(world.ids(), first.ids(), "seed {seed}");
        assert_eq!(world.rows(), first.rows(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn l10_without_the_timer_any_order_at_all_ends_alike() {
    // complete is a matter of what is known, and the order does not matter at all
    let mut lines: Vec<String> = generated(6);
    lines.retain(|line| !line.contains("order-due"));
    let completed = |world: &World| -> Said {
        world.said().into_iter().filter(|(kind, _)| kind == "order-completed").collect()
    };
    let mut ends = Vec::new();
    for turn in 0..4 {
        match turn {
            0 => {}
            1 => lines.reverse(),
            _ => {
                let random = Random::seeded(turn);
                lines.sort_by_cached_key(|_| random.next_u64());
            }
        }
        let world = World::new();
        world.run(&stream(&lines)).await;
        ends.push((completed(&world), world.rows()));
    }
    assert!(ends[0].0.len() > 100);
    assert!(ends.iter().all(|end| *end == ends[0]));
}

#[tokio::test(start_paused = true)]
async fn s6_killed_again_and_again_and_run_again_it_ends_alike() {
    let lines = generated(7);
    let undisturbed = World::new();
    undisturbed.run(&stream(&lines)).await;

    let (world, stream) = (World::new(), stream(&lines));
    let mut kills = 0;
    for so_far in (0..400).step_by(37) {
        let processor = world.processor(&stream, world.facts.clone());
        tokio::select! {
            biased;
            () = world.published.filled(so_far) => kills += 1,
            report = processor.run(Shutdown::never()) => drop(report.unwrap()),
        }
    }
    assert!(kills > 3, "{kills}");
    // all of it once more, from the beginning, over what is there
    world.run(&stream).await;
    world.run(&self::stream(&lines)).await;
    assert_eq!(world.ids(), undisturbed.ids());
    assert_eq!(world.rows(), undisturbed.rows());
    for pipeline in ["rules", "view"] {
        let of = |world: &World| faulted(&world.faults.events(), pipeline);
        assert_eq!(of(&world), of(&undisturbed), "{pipeline}");
    }
}

/// One event of an order that is called `o-1`.
fn line(id: &str, timestamp: i64, rest: &str) -> String {
    format!(r#"{{"id":"{id}","timestamp":{timestamp},"order":"o-1",{rest}}}"#)
}

fn submitted() -> String {
    line("s", 0, r#""type":"order-submitted","customer":"ada","address":"home","cents":100"#)
}

fn paid(at: i64) -> String {
    line("p", at, r#""type":"payment-received","cents":100"#)
}

fn shipped(at: i64) -> String {
    line("d", at, r#""type":"shipment-sent","carrier":"post""#)
}

fn due() -> String {
    line("t", 2 * DAY + 6 * HOUR, r#""type":"order-due""#)
}

/// What is said of it, without the order.
async fn said(lines: &[String]) -> (Vec<String>, World) {
    let world = World::new();
    world.run(&stream(lines)).await;
    (world.said().into_iter().map(|(kind, _)| kind).collect(), world)
}

#[tokio::test(start_paused = true)]
async fn an_order_in_time_is_completed_and_one_that_is_not_is_overdue() {
    let (in_time, _) = said(&[submitted(), shipped(DAY), paid(2 * DAY), due()]).await;
    assert_eq!(in_time, ["order-completed"]);
    let (unpaid, world) = said(&[submitted(), shipped(DAY), due()]).await;
    assert_eq!(unpaid, ["order-overdue"]);
    assert_eq!(world.rows()["o-1"].status, "shipped");
    let (silent, _) = said(&[submitted(), shipped(DAY)]).await;
    assert_eq!(silent, [""; 0], "nothing shows that the time is over");
}

#[tokio::test(start_paused = true)]
async fn a_payment_after_an_order_was_overdue_completes_it_late() {
    let late = [submitted(), shipped(DAY), due(), paid(3 * DAY)];
    let (kinds, world) = said(&late).await;
    assert_eq!(kinds, ["order-completed", "order-overdue"]);
    assert_eq!(world.rows()["o-1"].status, "complete");
    let completed = world.published.items().into_iter().find(|e| e.kind == "order-completed");
    let body: serde_json::Value = serde_json::from_slice(&completed.unwrap().body).unwrap();
    assert_eq!((&body["late"], &body["completed_at"]), (&true.into(), &(3 * DAY).into()));
    // and the same where the late payment comes before the timer
    let (other, again) = said(&[submitted(), shipped(DAY), paid(3 * DAY), due()]).await;
    assert_eq!(other, kinds);
    assert_eq!(again.ids(), world.ids());
}

#[tokio::test(start_paused = true)]
async fn what_is_later_than_the_grace_cannot_take_back_what_was_said_but_the_view_shows_the_truth()
{
    // in time by its own clock, and a day too late on its way
    let (kinds, world) = said(&[submitted(), shipped(DAY), due(), paid(DAY)]).await;
    assert_eq!(kinds, ["order-completed", "order-overdue"]);
    let completed = world.published.items().into_iter().find(|e| e.kind == "order-completed");
    let body: serde_json::Value = serde_json::from_slice(&completed.unwrap().body).unwrap();
    assert_eq!(body["late"], false);
    assert_eq!(world.rows()["o-1"].status, "complete");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_lost_repeats_what_was_said_under_the_same_id() {
    let lines = [submitted(), shipped(DAY), paid(DAY), due()];
    let (_, undisturbed) = said(&lines).await;
    let world = World::new();
    world.published.respond(2, Response::ReplyLost);
    world.run(&stream(&lines)).await;
    assert!(world.published.len() > undisturbed.published.len());
    assert_eq!(world.ids(), undisturbed.ids());
    assert_eq!(world.faults.len(), 0);
}

/// An event store that is away for the first few calls.
#[derive(Clone)]
struct Away(MemoryEvents<OrderEvent>, Arc<AtomicU32>);

#[async_trait::async_trait]
impl EventStore<OrderEvent> for Away {
    async fn put(&self, event: &Collected<OrderEvent>) -> Result<(), StepError> {
        match self.1.fetch_add(1, Ordering::Relaxed) {
            // put, and the reply lost
            n if n % 3 == 0 && n < 400 => {
                self.0.put(event).await?;
                Err("the database went away").transient()?
            }
            n if n < 400 => Err("the database is away").transient()?,
            _ => self.0.put(event).await,
        }
    }

    async fn correlated(&self, key: &str) -> Result<Vec<Collected<OrderEvent>>, StepError> {
        self.0.correlated(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), StepError> {
        self.0.delete(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn f8_a_database_that_is_away_makes_no_fault_and_changes_nothing() {
    let lines: Vec<String> =
        Generator { orders: 30, poison: 0.0, ..Generator::default() }.lines(RULES);
    let undisturbed = World::new();
    undisturbed.run(&stream(&lines)).await;
    let world = World::new();
    let stream = stream(&lines);
    let away = Away(world.facts.clone(), Arc::default());
    let report = world.processor(&stream, away).run(Shutdown::never()).await.unwrap();
    assert!(
        report.pipelines["rules"].restarts > 0,
        "it was away for longer than the retries\n{report}"
    );
    assert_eq!(world.faults.len(), 0);
    assert_eq!(world.ids(), undisturbed.ids());
    assert_eq!(world.rows(), undisturbed.rows());
}
