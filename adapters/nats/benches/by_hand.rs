//! Throughput of source and sink beside `async-nats` doing the same work by hand, in one run, as a ratio.
//!
//! ```text
//! cargo bench -p streambreaker-nats --bench by_hand
//! ```
//!
//! Starts a server of its own. By hand a source is: a stream of messages, each looked at and acknowledged, the last
//! acknowledgement confirmed. By hand a sink is: publish, and wait for each acknowledgement, so many in flight. Both in
//! turn, several times; the best of each is compared, as what disturbs a run only ever makes it slower.

#![allow(clippy::unwrap_used)] // a bench may

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::Context;
use streambreaker_nats::async_nats::jetstream::consumer::PullConsumer;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::message::PublishMessage;
use streambreaker_nats::async_nats::jetstream::stream::StorageType;
use streambreaker_nats::{NatsSink, NatsSource, Publication, async_nats};
use support::{Server, stream};

const MESSAGES: u64 = 50_000;
const ROUNDS: usize = 5;
const BODY: usize = 200;
const IN_FLIGHT: usize = 500;
const PENDING: usize = 2_000;

fn body() -> bytes::Bytes {
    bytes::Bytes::from(vec![b'x'; BODY])
}

async fn create_stream(context: &Context, name: &str) {
    let config =
        async_nats::jetstream::stream::Config { storage: StorageType::Memory, ..stream(name) };
    context.create_stream(config).await.unwrap();
}

async fn consumer(context: &Context, name: &str) -> PullConsumer {
    let config = ConsumerConfig {
        durable_name: Some(name.to_owned()),
        max_ack_pending: PENDING as i64,
        ..ConsumerConfig::default()
    };
    context.create_consumer_on_stream(config, "ORDERS").await.unwrap()
}

async fn source_by_hand(context: &Context, name: &str) -> Duration {
    let consumer = consumer(context, name).await;
    let began = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(PENDING).messages().await.unwrap();
    let mut bytes = 0;
    for n in 1..=MESSAGES {
        let message = messages.next().await.unwrap().unwrap();
        bytes += message.payload.len();
        match n {
            MESSAGES => message.double_ack().await.unwrap(),
            _ => message.ack().await.unwrap(),
        }
    }
    assert_eq!(bytes as u64, MESSAGES * BODY as u64);
    began.elapsed()
}

async fn source_of_ours(context: &Context, name: &str) -> Duration {
    consumer(context, name).await;
    let source = NatsSource::builder(context.clone(), "ORDERS", name).open().await.unwrap();
    let bytes = Arc::new(AtomicU64::new(0));
    let (seen, (trigger, shutdown)) = (bytes.clone(), Shutdown::by_hand());
    let trigger = Arc::new(trigger);
    let processor = Processor::builder("bench")
        .source(source)
        .faults(memory::faults())
        .in_flight(PENDING, 64 << 20)
        .commit_every(Duration::from_millis(20), PENDING as u64 / 4)
        .pipeline("all", move |flow| {
            let (seen, trigger) = (seen.clone(), trigger.clone());
            flow.inspect(move |record| {
                let size = record.payload().len() as u64;
                if seen.fetch_add(size, Ordering::Relaxed) + size == MESSAGES * BODY as u64 {
                    trigger.pull();
                }
            })
        })
        .build()
        .unwrap();
    let began = Instant::now();
    // to the end of the drain: with the last acknowledgement confirmed
    let report = processor.run(shutdown).await.unwrap();
    let took = began.elapsed();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (MESSAGES, 0), "{report}");
    took
}

async fn sink_by_hand(context: &Context) -> Duration {
    let began = Instant::now();
    let mut acks = FuturesUnordered::new();
    for _ in 0..MESSAGES {
        if acks.len() == IN_FLIGHT {
            let ack: Result<_, async_nats::jetstream::context::PublishError> =
                acks.next().await.unwrap();
            ack.unwrap();
        }
        let message = PublishMessage::build().payload(body());
        let ack = context.send_publish("copies.n", message).await.unwrap();
        acks.push(std::future::IntoFuture::into_future(ack));
    }
    while let Some(ack) = acks.next().await {
        ack.unwrap();
    }
    began.elapsed()
}

async fn sink_of_ours(context: &Context) -> Duration {
    let sink = NatsSink::open(context.clone(), "COPIES").await.unwrap().in_flight(IN_FLIGHT / 2);
    let input = memory::Stream::new("numbers", 1);
    for _ in 0..MESSAGES {
        input.push(body());
    }
    input.close();
    let copies = Resource::builder("copies")
        .timeout(Duration::from_secs(10))
        .retry(Retry::none())
        .concurrency(2)
        .build()
        .unwrap();
    let processor = Processor::builder("bench")
        .source(input.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.map(|record| Publication::without_id("copies.n", record.payload().clone()))
                .bulk_write(&copies, sink.clone())
                .window(Window::items(IN_FLIGHT / 2).linger(Duration::from_millis(5)))
                .in_flight(2)
        })
        .build()
        .unwrap();
    let began = Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let took = began.elapsed();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (MESSAGES, 0), "{report}");
    took
}

fn say(what: &str, hand: &[Duration], ours: &[Duration]) {
    let rate = |all: &[Duration]| MESSAGES as f64 / all.iter().min().unwrap().as_secs_f64();
    let (hand, ours) = (rate(hand), rate(ours));
    println!(
        "{what}: by hand {hand:.0}/s, with streambreaker {ours:.0}/s, ratio {:.2}",
        ours / hand
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return; // `cargo test --benches` asks only whether it builds
    }
    let server = Server::start();
    let context = server.context().await;
    create_stream(&context, "ORDERS").await;
    create_stream(&context, "COPIES").await;
    let mut acks = FuturesUnordered::new();
    for _ in 0..MESSAGES {
        acks.push(std::future::IntoFuture::into_future(
            context.publish("orders.n", body()).await.unwrap(),
        ));
        if acks.len() == 1_000 {
            acks.next().await.unwrap().unwrap();
        }
    }
    while let Some(ack) = acks.next().await {
        ack.unwrap();
    }
    let (mut hand, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        hand.push(source_by_hand(&context, &format!("hand-{round}")).await);
        ours.push(source_of_ours(&context, &format!("ours-{round}")).await);
    }
    say("source", &hand, &ours);
    let (mut hand, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        hand.push(sink_by_hand(&context).await);
        ours.push(sink_of_ours(&context).await);
    }
    say("sink", &hand, &ours);
}
