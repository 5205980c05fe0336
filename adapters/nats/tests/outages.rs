//! A processor on a real server while things fail: nothing is lost, duplicates are counted, the report is right.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker::{Class, FaultEvent};
use streambreaker_nats::async_nats::jetstream::consumer::PullConsumer;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::{NatsFaults, NatsSource};
use support::*;

/// A pipeline that notes each number, after a moment.
fn noting(
    ledger: &Ledger,
    db: &Resource,
    moment: Duration,
) -> impl Fn(Flow<Input>) -> streambreaker::flow::BoxedFlow<()> + Clone + use<> {
    let (ledger, db) = (ledger.clone(), db.clone());
    move |flow| {
        let ledger = ledger.clone();
        flow.json::<u64>()
            .parallel(32, &db, async move |n: &Event<u64>| {
                tokio::time::sleep(moment).await;
                ledger.note(**n);
                Ok(())
            })
            .boxed()
    }
}

#[tokio::test]
async fn s6_a_server_that_is_killed_under_load_loses_nothing() {
    let mut server = Server::start();
    let context = server.context().await;
    let source = orders(&context, Duration::from_secs(2)).open().await.unwrap();
    let (ledger, db) = (Ledger::default(), db());
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, memory::faults())
        .pipeline("all", noting(&ledger, &db, Duration::from_millis(1)))
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });

    let own = server.context().await;
    let mut published = 0;
    for _ in 0..4 {
        publish(&own, published..published + 1_500).await;
        published += 1_500;
        let half = (published - 700) as usize;
        until("half of it is done", async || ledger.len() > half).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_again();
    }
    until("all is settled", async || ledger.len() == 6_000 && settled(&own).await).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let twice = ledger.holds(0..6_000);
    println!("{twice} of 6000 had their effect more than once\n{report}");
    let all = &report.pipelines["all"];
    assert_eq!((all.faulted, report.unsettled()), (0, 0), "{report}");
    // a server that is killed forgets what it confirmed last: it writes the state of a consumer behind. Such records come
    // again as if nobody had settled them, and count again
    assert_eq!(all.read, all.done, "{report}");
    let again = all.read - 6_000 + all.redelivered;
    assert!(twice as u64 <= again, "{twice} had their effect twice, and {again} came again");
    assert_eq!(ledger.effects(), all.done + all.redelivered, "each delivery has one effect");
}

async fn settled(context: &streambreaker_nats::async_nats::jetstream::Context) -> bool {
    let consumer: Result<PullConsumer, _> =
        context.get_consumer_from_stream("totals", "ORDERS").await;
    consumer.is_ok_and(|consumer| {
        let info = consumer.cached_info();
        (info.num_ack_pending, info.num_pending) == (0, 0)
    })
}

#[tokio::test]
async fn f1_poison_is_stored_in_a_stream_of_its_own_and_the_rest_goes_on() {
    let server = Server::start();
    let context = server.context().await;
    context.create_stream(stream("FAULTS")).await.unwrap();
    let source = orders(&context, Duration::from_secs(10)).open().await.unwrap();
    let faults = NatsFaults::open(context.clone(), "faults.numbers").await.unwrap();
    publish(&context, 0..300).await;
    let (ledger, db) = (Ledger::default(), db());
    let effects = ledger.clone();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, faults)
        .flood_guard(FloodGuard::off())
        .pipeline("all", move |flow| {
            let effects = effects.clone();
            flow.json::<u64>().parallel(16, &db, async move |n: &Event<u64>| {
                if **n % 10 == 7 {
                    return Err("sevens are bad").fault();
                }
                effects.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all is settled", async || ledger.len() == 270 && settled(&context).await).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].faulted),
        (270, 30),
        "{report}"
    );
    assert_eq!(report.unsettled(), 0, "{report}");

    let stored = stored_faults(&context).await;
    let mut numbers: Vec<u64> = stored
        .iter()
        .map(|event| String::from_utf8_lossy(event.records[0].record.payload()).parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).map(|n| n * 10 + 7).collect::<Vec<_>>());
    let record = &stored[0].records[0].record;
    assert_eq!((record.stream(), &record.key().unwrap()[..]), ("ORDERS", &b"orders.7"[..]));
    assert_eq!(record.header("Nats-Msg-Id"), Some(record.payload()), "with its headers");
}

/// All fault events in the stream `FAULTS`, in order.
async fn stored_faults(
    context: &streambreaker_nats::async_nats::jetstream::Context,
) -> Vec<FaultEvent> {
    let stream = context.get_stream("FAULTS").await.unwrap();
    let mut all = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let event = FaultEvent::from_json(&message.payload).unwrap();
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), event.id.to_string());
        all.push(event);
    }
    all
}

#[tokio::test]
async fn an_outage_longer_than_the_ack_wait_faults_nothing() {
    let server = Server::start();
    let context = server.context().await;
    let wait = Duration::from_secs(1);
    let source = orders(&context, wait).open().await.unwrap();
    publish(&context, 0..200).await;
    let (ledger, db, faults) = (Ledger::default(), db(), memory::faults());
    let up = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let (effects, well, called) = (ledger.clone(), up.clone(), calls.clone());
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, faults.clone())
        // it is given back far more often than that
        .max_deliveries(3)
        .pipeline("all", move |flow| {
            let (effects, up, calls) = (effects.clone(), up.clone(), calls.clone());
            flow.json::<u64>().parallel(16, &db, async move |n: &Event<u64>| {
                calls.fetch_add(1, Ordering::Relaxed);
                if !up.load(Ordering::Relaxed) {
                    return Err("the database is down").transient();
                }
                effects.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("each was given back several times", async || called.load(Ordering::Relaxed) > 200 * 4)
        .await;
    tokio::time::sleep(wait * 2).await;
    well.store(true, Ordering::Relaxed);
    until("all is settled", async || ledger.len() == 200 && settled(&context).await).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].faulted),
        (200, 0),
        "{report}"
    );
    assert!(faults.events().is_empty());
    assert_eq!(ledger.holds(0..200), 0, "nothing had its effect twice");
}

#[tokio::test]
async fn f5_while_the_fault_sink_is_out_nothing_is_settled_and_nothing_lost() {
    let server = Server::start();
    let mut other = Server::start();
    let context = server.context().await;
    let theirs = other.context().await;
    theirs.create_stream(stream("FAULTS")).await.unwrap();
    let wait = Duration::from_secs(2);
    let source = orders(&context, wait).open().await.unwrap();
    let faults = NatsFaults::open(theirs.clone(), "faults.numbers").await.unwrap();
    other.kill();
    publish(&context, 0..100).await;
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let db = db();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, faults)
        .flood_guard(FloodGuard::off())
        .fault_timeout(Duration::from_secs(1))
        .pipeline("all", move |flow| {
            let calls = calls.clone();
            flow.json::<u64>().parallel(
                16,
                &db,
                async move |_: &Event<u64>| -> Result<(), StepError> {
                    calls.fetch_add(1, Ordering::Relaxed);
                    Err("all are bad").fault()
                },
            )
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all were refused", async || counted.load(Ordering::Relaxed) >= 100).await;
    // longer than the ack wait: they are held all the same
    tokio::time::sleep(wait * 2).await;
    assert_eq!(left(&context).await.0, 100, "none is acknowledged before its fault is stored");
    other.start_again();
    until("all is settled", async || settled(&context).await).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.pipelines["all"].faulted, report.unsettled()), (100, 0), "{report}");
    assert_eq!(counted.load(Ordering::Relaxed), 100, "held, not given away: each was refused once");
    let stored = stored_faults(&theirs).await;
    assert_eq!(stored.len(), 100, "each is there once, however often it was sent");
    assert!(stored.iter().all(|event| event.class == Class::Fault));
}

#[tokio::test]
async fn t5_a_handler_slower_than_the_ack_wait_keeps_its_records() {
    let server = Server::start();
    let context = server.context().await;
    let wait = Duration::from_secs(1);
    let source = orders(&context, wait).open().await.unwrap();
    publish(&context, 0..40).await;
    let ledger = Ledger::default();
    let slow = Resource::builder("slow")
        .timeout(Duration::from_secs(20))
        .retry(Retry::none())
        .concurrency(40)
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let refused = numbers(orders(&context, wait).open().await.unwrap(), memory::faults())
        .pipeline("all", noting(&ledger, &slow, wait * 3))
        .build();
    assert!(
        refused.unwrap_err().to_string().contains("the deadline is 1s"),
        "a plan above the ack wait"
    );
    let processor = numbers(source, memory::faults())
        .deadline(Duration::from_secs(30))
        .pipeline("all", noting(&ledger, &slow, wait * 3))
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all is settled", async || ledger.len() == 40 && settled(&context).await).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(
        (report.pipelines["all"].done, report.pipelines["all"].redelivered),
        (40, 0),
        "{report}"
    );
    assert_eq!(ledger.holds(0..40), 0, "none was given to anybody else");
}

#[tokio::test]
async fn s5_a_drain_under_load_gives_back_what_it_did_not_settle() {
    let server = Server::start();
    let context = server.context().await;
    publish_all(&context, 3_000).await;
    let ledger = Ledger::default();
    let db = db();
    let mut done = 0;
    // what was on its way to a life that ended comes again after the ack wait
    for life in 0..6 {
        let source = NatsSource::builder(context.clone(), "ORDERS", "totals")
            .create(ConsumerConfig { ack_wait: Duration::from_secs(3), ..consumer(Duration::ZERO) })
            .open()
            .await
            .unwrap();
        let (trigger, shutdown) = Shutdown::by_hand();
        let processor = numbers(source, memory::faults())
            .pipeline("all", noting(&ledger, &db, Duration::from_millis(2)))
            .build()
            .unwrap();
        let run = tokio::spawn(async move { processor.run(shutdown).await });
        if life < 5 {
            let enough = (ledger.len() + 400).min(3_000);
            until("some are done", async || ledger.len() >= enough).await;
        } else {
            until("all are done", async || ledger.len() == 3_000).await;
        }
        trigger.pull();
        let report = run.await.unwrap().unwrap();
        done += report.pipelines["all"].done;
        assert_eq!(report.unsettled(), 0, "{report}");
    }
    assert_eq!((done, ledger.holds(0..3_000)), (3_000, 0), "each once, over all lives");
    assert_eq!(left(&context).await, (0, 0));
}

async fn publish_all(context: &streambreaker_nats::async_nats::jetstream::Context, count: u64) {
    context.create_stream(stream("ORDERS")).await.unwrap();
    publish(context, 0..count).await;
}
