//! Throughput of source and sink beside `async-nats` doing the same work by hand, in one run, as a ratio.
//!
//! ```text
//! cargo bench -p streambreaker-nats --bench by_hand
//! ```
//!
//! Starts a server of its own. By hand a source is: a stream of messages, each looked at and acknowledged. By hand a sink
//! is: publish, each known by its id, and wait for each acknowledgement, so many in flight. Both sides pull as many at
//! once, may have as many open, and are done when the server says that all is acknowledged, or stored. They take turns,
//! first the one and then the other first; of each turn the ratio is taken, and of the ratios the median, as what
//! disturbs a machine disturbs both.

#![allow(clippy::unwrap_used)] // a bench may

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use streambreaker::prelude::*;
use streambreaker::{Record, memory};
use streambreaker_nats::async_nats::jetstream::Context;
use streambreaker_nats::async_nats::jetstream::consumer::PullConsumer;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::message::PublishMessage;
use streambreaker_nats::async_nats::jetstream::stream::StorageType;
use streambreaker_nats::{NatsSink, NatsSource, Publication, async_nats};
use support::{Server, stream};

const ROUNDS: usize = 9;
const BODY: usize = 200;
const IN_FLIGHT: usize = 500;
/// Messages in a pull.
const PULL: usize = 2_000;
/// Messages delivered and not acknowledged.
const PENDING: usize = 4 * PULL;

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().expect("a number"))
}

static MESSAGES: LazyLock<u64> = LazyLock::new(|| number("MESSAGES", 300_000) as u64);

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

/// Waits until the server says that all of it is delivered and acknowledged.
async fn settled(consumer: &mut PullConsumer) {
    loop {
        let info = consumer.info().await.unwrap();
        if (info.num_pending, info.num_ack_pending) == (0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn source_by_hand(context: &Context, name: &str) -> Duration {
    let mut consumer = consumer(context, name).await;
    let began = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(PULL).messages().await.unwrap();
    let mut bytes = 0;
    for _ in 0..*MESSAGES {
        let message = messages.next().await.unwrap().unwrap();
        bytes += message.payload.len();
        message.ack().await.unwrap();
    }
    assert_eq!(bytes as u64, *MESSAGES * BODY as u64);
    settled(&mut consumer).await;
    began.elapsed()
}

async fn source_of_ours(context: &Context, name: &str) -> Duration {
    let mut consumer = consumer(context, name).await;
    let source = NatsSource::builder(context.clone(), "ORDERS", name).open().await.unwrap();
    let bytes = Arc::new(AtomicU64::new(0));
    let seen = bytes.clone();
    let (trigger, shutdown) = Shutdown::by_hand();
    let all = Arc::new(tokio::sync::Notify::new());
    let ready = all.clone();
    let processor = Processor::builder("bench")
        .source(source)
        .faults(memory::faults())
        .in_flight(PENDING, 64 << 20)
        .commit_every(Duration::from_millis(20), 500)
        .pipeline("all", move |flow| {
            let (seen, ready) = (seen.clone(), ready.clone());
            flow.inspect(move |record| {
                let size = record.payload().len() as u64;
                if seen.fetch_add(size, Ordering::Relaxed) + size == *MESSAGES * BODY as u64 {
                    ready.notify_one();
                }
            })
        })
        .build()
        .unwrap();
    let began = Instant::now();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    all.notified().await;
    settled(&mut consumer).await;
    let took = began.elapsed();
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (*MESSAGES, 0), "{report}");
    took
}

async fn sink_by_hand(context: &Context, name: &str) -> Duration {
    let began = Instant::now();
    let mut acks = FuturesUnordered::new();
    for n in 0..*MESSAGES {
        if acks.len() == IN_FLIGHT {
            let ack: Result<_, async_nats::jetstream::context::PublishError> =
                acks.next().await.unwrap();
            ack.unwrap();
        }
        let message = PublishMessage::build().payload(body()).message_id(format!("{name}-{n}"));
        let ack = context.send_publish("copies.n", message).await.unwrap();
        acks.push(std::future::IntoFuture::into_future(ack));
    }
    while let Some(ack) = acks.next().await {
        ack.unwrap();
    }
    began.elapsed()
}

async fn sink_of_ours(context: &Context, name: &str) -> Duration {
    let sink = NatsSink::open(context.clone(), "COPIES").await.unwrap().in_flight(IN_FLIGHT / 2);
    let input = memory::Stream::new("numbers", 1);
    for _ in 0..*MESSAGES {
        input.push(body());
    }
    input.close();
    let copies = Resource::builder("copies")
        .timeout(Duration::from_secs(10))
        .retry(Retry::none())
        .concurrency(2)
        .build()
        .unwrap();
    let name = name.to_owned();
    let processor = Processor::builder("bench")
        .source(input.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let name = name.clone();
            let publication = move |record: &Record| {
                let n = record.position().as_u64().unwrap();
                Publication::new("copies.n", format!("{name}-{n}"), record.payload().clone())
            };
            flow.map(move |record| publication(&record))
                .bulk_write(&copies, sink.clone())
                .window(Window::items(IN_FLIGHT / 2).linger(Duration::from_millis(5)))
                .in_flight(2)
        })
        .build()
        .unwrap();
    let began = Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    let took = began.elapsed();
    assert_eq!((report.pipelines["all"].done, report.unsettled()), (*MESSAGES, 0), "{report}");
    took
}

/// Who did it, in which order, for how long.
#[derive(Default)]
struct Rounds {
    hand: Vec<f64>,
    ours: Vec<f64>,
}

impl Rounds {
    fn say(&self, what: &str) {
        let median = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            let at = |part: usize| values[(values.len() - 1) * part / 4];
            (at(1), at(2), at(3))
        };
        let rate = |seconds: &[f64]| *MESSAGES as f64 / median(seconds).1;
        let ratios: Vec<f64> =
            self.hand.iter().zip(&self.ours).map(|(hand, ours)| hand / ours).collect();
        let (low, middle, high) = median(&ratios);
        println!(
            "{what}: by hand {:.0}/s, with streambreaker {:.0}/s, ratio {middle:.2} (quartiles {low:.2}, {high:.2})",
            rate(&self.hand),
            rate(&self.ours),
        );
    }
}

/// The time of processors that this process has had, without the server's; 0 where nothing tells.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // behind the name, which may hold anything: the 12th and 13th, in hundredths of a second
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// One side, once: for a tool that counts instructions.
async fn once(context: &Context, only: &str) {
    let before = cpu();
    let took = match only {
        // what the others do as well, before they begin
        "fill" => Duration::ZERO,
        "source-by-hand" => source_by_hand(context, "once").await,
        "source" => source_of_ours(context, "once").await,
        "sink-by-hand" => sink_by_hand(context, "once").await,
        "sink" => sink_of_ours(context, "once").await,
        _ => panic!("ONLY is fill, source, source-by-hand, sink or sink-by-hand"),
    };
    println!("{only}: {} messages in {took:?}, own {:?}", *MESSAGES, cpu() - before);
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
    for _ in 0..*MESSAGES {
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
    if let Ok(only) = std::env::var("ONLY") {
        return once(&context, &only).await;
    }
    let rounds = number("ROUNDS", ROUNDS);
    let mut source = Rounds::default();
    for round in 0..rounds {
        for turn in [round, round + 1] {
            let name = format!("{round}-{turn}");
            match turn % 2 {
                0 => source.hand.push(source_by_hand(&context, &name).await.as_secs_f64()),
                _ => source.ours.push(source_of_ours(&context, &name).await.as_secs_f64()),
            }
            context.delete_consumer_from_stream(&name, "ORDERS").await.unwrap();
        }
    }
    source.say("source");
    let mut sink = Rounds::default();
    let copies = context.get_stream("COPIES").await.unwrap();
    for round in 0..rounds {
        for turn in [round, round + 1] {
            let name = format!("{round}-{turn}");
            match turn % 2 {
                0 => sink.hand.push(sink_by_hand(&context, &name).await.as_secs_f64()),
                _ => sink.ours.push(sink_of_ours(&context, &name).await.as_secs_f64()),
            }
            assert_eq!(copies.get_info().await.unwrap().state.messages, *MESSAGES);
            copies.purge().await.unwrap();
        }
    }
    sink.say("sink");
}
