//! Orders from a JetStream stream: totals by customer, bad ones set aside.
//!
//! ```text
//! nats-server -js                                            # in another terminal
//! cargo run -p streambreaker-nats --example orders [URL]     # nats://localhost:4222 unless told
//! ```
//!
//! It creates the streams `ORDERS` and `FAULTS` and a consumer where they are missing, publishes twenty orders of which two are
//! bad, and stops when all are settled. Start it again: it publishes the same orders, which the stream knows by their ids,
//! and goes on behind what is settled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use streambreaker::Report;
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::message::PublishMessage;
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::async_nats::jetstream::{self, Context};
use streambreaker_nats::{NatsFaults, NatsSource, async_nats};

#[derive(Deserialize)]
struct Order {
    customer: String,
    cents: u64,
}

impl Order {
    fn check(&self) -> Result<(), &'static str> {
        if self.cents > 0 { Ok(()) } else { Err("an order of nothing") }
    }
}

type Totals = Arc<Mutex<BTreeMap<String, u64>>>;

fn totals(
    flow: Flow<Input>,
    totals: Totals,
    store: &Resource,
) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<Order>().validate(|order| order.check()).parallel(
        8,
        store,
        async move |order: &Event<Order>| {
            let mut totals = totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *totals.entry(order.customer.clone()).or_default() += order.cents;
            Ok(())
        },
    )
}

async fn publish(context: &Context) -> Result<(), async_nats::Error> {
    for n in 0..20 {
        let (customer, cents) =
            (["ada", "bob", "eve"][n % 3], if n % 10 == 9 { 0 } else { n * 100 + 100 });
        let body = format!(r#"{{"id":"order-{n}","customer":"{customer}","cents":{cents}}}"#);
        let message = PublishMessage::build().payload(body.into()).message_id(format!("order-{n}"));
        context.send_publish(format!("orders.{customer}.submitted"), message).await?.await?;
    }
    Ok(())
}

/// Publishes the orders, and runs until they are settled; the report, and the totals.
pub(crate) async fn run(url: &str) -> Result<(Report, BTreeMap<String, u64>), async_nats::Error> {
    let client = async_nats::connect(url).await.map_err(|error| {
        format!("no server at {url} ({error}): start one with `nats-server -js`, or name another")
    })?;
    let context = jetstream::new(client);
    let stream = |name: &str, subjects: &str| StreamConfig {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        ..StreamConfig::default()
    };
    context.get_or_create_stream(stream("FAULTS", "faults.>")).await?;
    let source = NatsSource::builder(context.clone(), "ORDERS", "order-totals")
        .create_stream(stream("ORDERS", "orders.>"))
        .create(ConsumerConfig { max_ack_pending: 1_000, ..ConsumerConfig::default() })
        .open()
        .await?;
    publish(&context).await?;

    let store =
        Resource::builder("store").timeout(Duration::from_secs(1)).retry(Retry::none()).build()?;
    let all = Totals::default();
    let written = all.clone();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = Processor::builder("order-totals")
        .release(env!("CARGO_PKG_VERSION"))
        .source(source)
        .faults(NatsFaults::open(context.clone(), "faults.order-totals").await?)
        .in_flight(1_000, 16 << 20)
        .commit_every(Duration::from_millis(100), 1_000)
        .pipeline("totals", move |flow| totals(flow, written.clone(), &store))
        .build()?;

    // a service would pass `streambreaker::shutdown()`, and run until it is told to stop
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    let stream = context.get_stream("ORDERS").await?;
    loop {
        let consumer: jetstream::consumer::PullConsumer =
            stream.get_consumer("order-totals").await?;
        let info = consumer.cached_info();
        if (info.num_pending, info.num_ack_pending) == (0, 0) || run.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trigger.pull();
    let report = run.await??;
    let totals = all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    Ok((report, totals))
}

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://localhost:4222".to_owned());
    let (report, totals) = run(&url).await?;
    println!("{report}");
    for (customer, cents) in totals {
        println!("{customer}: {}.{:02}", cents / 100, cents % 100);
    }
    Ok(())
}
