//! The handlers on the testkit's bed, which is the memory transport in paused time: idempotent, order-agnostic, and right
//! about what is overdue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orders_component::event::{OrderEvent, What};
use orders_component::generate::Generator;
use orders_component::handlers::{Part, rules, view};
use streambreaker::Fate::{Done, Faulted, Filtered};
use streambreaker::flow::Publication;
use streambreaker::idempotence::{Collected, EventStore, MemoryEvents, MemoryVersions};
use streambreaker::memory::{self, Collect, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::{Class, FaultEvent, Sink, Timestamp};
use streambreaker_testkit::bed::{
    Flaky, Message, Ran, TestBed, same_however_fed, same_however_late,
};

mod support;
use support::{RULES, Row, Said, expected, faulted};

const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().unwrap()
}

/// What the component leaves behind: its stores, and what it has published.
struct World {
    facts: MemoryEvents<OrderEvent>,
    view: MemoryVersions<Part, What>,
    published: Collect<Publication>,
}

impl World {
    fn new() -> Self {
        Self {
            facts: MemoryEvents::new(Duration::from_secs(30 * 86_400)),
            view: MemoryVersions::new(),
            published: Collect::new(),
        }
    }

    /// What is fed to the bed, through the component, to the end.
    async fn run(&self, bed: TestBed) -> Ran {
        self.run_with(bed, self.facts.clone(), self.published.clone()).await
    }

    /// The same with another way to its event store, and to what it publishes.
    async fn run_with<E, P>(&self, bed: TestBed, facts: E, published: P) -> Ran
    where
        E: EventStore<OrderEvent> + Clone + 'static,
        P: Sink<Publication> + Clone + 'static,
    {
        let (store, bus, shown) = (resource("store"), resource("bus"), self.view.clone());
        let database = store.clone();
        bed.shards(2)
            .pipeline("rules", move |flow| {
                rules(flow, facts.clone(), RULES, &store).publish(&bus, published.clone())
            })
            .pipeline("view", move |flow| view(flow, shown.clone(), &database))
            .run()
            .await
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

/// A line as it is sent: under its order, so that all events of an order are in one shard.
fn message(line: impl AsRef<str>) -> Message {
    let line = line.as_ref();
    Message::new(line.to_owned()).with_key(order(line))
}

/// The order of a line, also of one that is torn.
fn order(line: &str) -> String {
    let from = line.find("o-").unwrap_or(0);
    let end =
        line[from + 2..].find(|c: char| !c.is_ascii_digit()).map_or(line.len(), |n| from + 2 + n);
    line[from..end].to_owned()
}

fn bed(lines: &[String]) -> TestBed {
    TestBed::new().feed(lines.iter().map(message))
}

fn generated(seed: u64) -> Vec<String> {
    Generator { seed, orders: 200, poison: 0.05, doubled: 0.2 }.lines(RULES)
}

#[tokio::test(start_paused = true)]
async fn i4_what_is_said_and_shown_is_that_of_an_independent_computation() {
    let lines = generated(3);
    let world = World::new();
    let ran = world.run(bed(&lines)).await;
    let expected = expected(&lines, RULES);
    assert_eq!(world.said(), expected.said);
    assert_eq!(world.rows(), expected.view);
    for kind in ["order-completed", "order-overdue"] {
        assert!(expected.said.iter().filter(|(said, _)| said == kind).count() > 20, "{kind}");
    }
    assert_eq!(world.ids().len(), expected.said.len(), "each is said under one id");
    assert_eq!(ran.report().pipelines["rules"].read, lines.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn f1_poison_is_faulted_with_the_whole_record_and_holds_nothing_up() {
    let lines = generated(4);
    let ran = World::new().run(bed(&lines)).await;
    let (faults, expected) = (ran.faults(), expected(&lines, RULES));
    for pipeline in ["rules", "view"] {
        assert!(expected.poison[pipeline].len() > 20, "{pipeline}");
        assert_eq!(faulted(faults, pipeline), expected.poison[pipeline], "{pipeline}");
    }
    assert!(faults.iter().all(|fault| fault.class == Class::Fault && fault.records.len() == 1));
    let messages: BTreeSet<_> = faults.iter().map(|fault| fault.err.message.as_str()).collect();
    assert!(messages.contains("a payment is worth something"), "{messages:?}");
    assert!(messages.contains("the event belongs to no order"), "{messages:?}");
}

/// When a line happened. A torn one does not say; it may come at any time.
fn happened(line: &Message) -> Timestamp {
    let event = serde_json::from_slice::<OrderEvent>(&line.payload);
    Timestamp::from_millis(event.map_or(0, |event| event.timestamp))
}

#[tokio::test(start_paused = true)]
async fn l10_however_late_within_the_grace_and_however_often_it_ends_alike() {
    // the timer waits for the grace, so up to it the events may come as they like
    let lines = generated(5);
    same_however_late(lines.iter().map(message), RULES.grace, happened, async |bed: TestBed| {
        let world = World::new();
        world.run(bed).await;
        (world.ids(), world.rows())
    })
    .await;
    // and a copy at any time: all of them once more, days later
    let (once, twice) = (World::new(), World::new());
    once.run(bed(&lines)).await;
    twice.run(bed(&lines).twice()).await;
    assert_eq!((once.ids(), once.rows()), (twice.ids(), twice.rows()));
}

#[tokio::test(start_paused = true)]
async fn l10_without_the_timer_any_order_at_all_ends_alike() {
    // complete is a matter of what is known, and the order does not matter at all
    let mut lines: Vec<String> = generated(6);
    lines.retain(|line| !line.contains("order-due"));
    same_however_fed(lines.iter().map(message), async |bed: TestBed| {
        let world = World::new();
        world.run(bed).await;
        let mut said = world.said();
        said.retain(|(kind, _)| kind == "order-completed");
        assert!(said.len() > 100);
        (said, world.rows())
    })
    .await;
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
    world.run(bed(lines)).await.assert_no_faults();
    (world.said().into_iter().map(|(kind, _)| kind).collect(), world)
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_each_event() {
    let unpriced = line("x", 0, r#""type":"payment-received","cents":0"#);
    let lines = [submitted(), unpriced, paid(DAY), shipped(DAY), due()];
    let ran = World::new().run(bed(&lines)).await;
    // who has nothing to say is filtered; the timer leads to the same news once more
    ran.assert_fates("rules", [Filtered, Faulted, Filtered, Done, Done]);
    ran.assert_fates("view", [Done, Faulted, Done, Done, Filtered]);
    assert_eq!(ran.fault_of("view", 1).err.message, "a payment is worth something");
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
    let flaky = Flaky::new(world.published.clone(), 1).loses_replies(1.0).at_most(2);
    let ran = world.run_with(bed(&lines), world.facts.clone(), flaky.clone()).await;
    ran.assert_no_faults();
    assert_eq!(flaky.troubles().replies_lost, 2);
    assert!(world.published.len() > undisturbed.published.len());
    assert_eq!(world.ids(), undisturbed.ids());
}

/// An event store that is in trouble.
#[derive(Clone)]
struct Troubled(Flaky<MemoryEvents<OrderEvent>>);

#[async_trait::async_trait]
impl EventStore<OrderEvent> for Troubled {
    async fn put(&self, event: &Collected<OrderEvent>) -> Result<(), StepError> {
        self.0.call(self.0.inner().put(event)).await
    }

    async fn correlated(&self, key: &str) -> Result<Vec<Collected<OrderEvent>>, StepError> {
        self.0.call(self.0.inner().correlated(key)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StepError> {
        self.0.call(self.0.inner().delete(key)).await
    }
}

#[tokio::test(start_paused = true)]
async fn f8_a_database_that_is_away_makes_no_fault_and_changes_nothing() {
    let lines: Vec<String> =
        Generator { orders: 30, poison: 0.0, ..Generator::default() }.lines(RULES);
    let (undisturbed, world) = (World::new(), World::new());
    undisturbed.run(bed(&lines)).await;
    // away for the first 400 calls, of which some have an effect all the same
    let away = Flaky::new(world.facts.clone(), 1).loses_replies(0.3).fails(0.7).at_most(400);
    let ran = world.run_with(bed(&lines), Troubled(away), world.published.clone()).await;
    ran.assert_no_faults();
    let report = ran.report();
    assert!(report.pipelines["rules"].restarts > 0, "away for longer than the retries\n{report}");
    assert_eq!(world.ids(), undisturbed.ids());
    assert_eq!(world.rows(), undisturbed.rows());
}

/// A kill is a run that is dropped, over a stream that outlives it. The bed runs to the end, so this is done by hand.
#[tokio::test(start_paused = true)]
async fn s6_killed_again_and_again_and_run_again_it_ends_alike() {
    let lines = generated(7);
    let stream = || {
        let stream = Stream::new("order-events", 2);
        for line in &lines {
            stream.push_keyed(order(line), line.clone());
        }
        stream.close();
        stream
    };
    let processor = |world: &World, faults: &Collect<FaultEvent>, stream: &Stream| {
        let (facts, shown, published) =
            (world.facts.clone(), world.view.clone(), world.published.clone());
        let (store, bus) = (resource("store"), resource("bus"));
        let database = store.clone();
        Processor::builder("orders")
            .source(stream.consumer("orders"))
            .faults(faults.clone())
            .seed(1)
            .pipeline("rules", move |flow| {
                rules(flow, facts.clone(), RULES, &store).publish(&bus, published.clone())
            })
            .pipeline("view", move |flow| view(flow, shown.clone(), &database))
            .build()
            .unwrap()
    };
    let (world, faults, interrupted) = (World::new(), memory::faults(), stream());
    interrupted.inject(Inject::Redeliver(40));
    interrupted.inject(Inject::CommitRepliesLost(1));
    let mut kills = 0;
    for so_far in (0..400).step_by(37) {
        let processor = processor(&world, &faults, &interrupted);
        tokio::select! {
            biased;
            () = world.published.filled(so_far) => kills += 1,
            report = processor.run(Shutdown::never()) => drop(report.unwrap()),
        }
    }
    assert!(kills > 3, "{kills}");
    // the rest, and then all of it once more over what is there
    for stream in [interrupted, stream()] {
        processor(&world, &faults, &stream).run(Shutdown::never()).await.unwrap();
        assert!(stream.is_settled("orders"));
    }
    let (undisturbed, all) = (World::new(), memory::faults());
    processor(&undisturbed, &all, &stream()).run(Shutdown::never()).await.unwrap();
    assert_eq!(world.ids(), undisturbed.ids());
    assert_eq!(world.rows(), undisturbed.rows());
    for pipeline in ["rules", "view"] {
        assert_eq!(faulted(&faults.events(), pipeline), faulted(&all.events(), pipeline));
    }
}
