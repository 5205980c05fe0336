//! A network between processor and server that stalls, cuts and heals.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::time::Duration;

use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::consumer::PullConsumer;
use streambreaker_nats::{NatsSink, Publication};
use streambreaker_testkit::net::Proxy;
use support::*;

/// Reads numbers through one proxy, and writes each to another stream through another.
#[tokio::test]
async fn s1_whatever_the_network_does_each_number_arrives() {
    const ALL: u64 = 3_000;
    let server = Server::start();
    let own = server.context().await;
    own.create_stream(stream("COPIES")).await.unwrap();
    let (to_source, to_sink) = (
        Proxy::start(server.address()).await.unwrap(),
        Proxy::start(server.address()).await.unwrap(),
    );
    let reads = context(to_source.address()).await;
    let writes = context(to_sink.address()).await;
    let source = orders(&reads, Duration::from_secs(3)).open().await.unwrap();
    let sink = NatsSink::open(writes, "COPIES").await.unwrap().in_flight(64);
    let copies = Resource::builder("copies")
        .timeout(Duration::from_secs(2))
        .retry(Retry::exponential().max_attempts(2))
        .concurrency(4)
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, memory::faults())
        .deadline(Duration::from_secs(30))
        .pipeline("copy", move |flow| {
            flow.json::<u64>()
                .map(|n| Publication::new("copies.n", n.to_string(), n.to_string()))
                .bulk_write(&copies, sink.clone())
                .window(Window::items(64).linger(Duration::from_millis(5)))
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    publish(&own, 0..ALL).await;

    let copied = async || own.get_stream("COPIES").await.unwrap().cached_info().state.messages;
    let moment = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
    for turn in 0..3u64 {
        let before = copied().await;
        // it must be at work before it is disturbed, and go on after it
        until("it goes on", async || copied().await > before || copied().await == ALL).await;
        to_source.cut_after(3_000 + 777 * turn);
        moment(100).await;
        to_sink.cut_after(5_000 + 333 * turn);
        moment(100).await;
        to_source.stall();
        moment(700).await;
        to_source.heal();
        to_sink.delay(Duration::from_millis(5));
        moment(200).await;
        to_sink.cut();
        moment(400).await;
        to_sink.heal();
    }
    until("all is copied and settled", async || {
        copied().await == ALL && left(&own).await == (0, 0)
    })
    .await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let copy = &report.pipelines["copy"];
    println!("{} and {} connections\n{report}", to_source.connections(), to_sink.connections());
    assert!(to_source.connections() > 1 && to_sink.connections() > 3, "it was disturbed");
    assert_eq!((copy.faulted, report.unsettled()), (0, 0), "{report}");
    // one whose acknowledgement was lost with a connection may come once more
    assert!(copy.done >= ALL && copy.done == copy.read, "{report}");
    // and no delivery is reported that the server did not make; some of its own never came
    let consumer: PullConsumer = own.get_consumer_from_stream("totals", "ORDERS").await.unwrap();
    let made = consumer.cached_info().delivered.consumer_sequence;
    assert!(copy.read + copy.redelivered <= made, "{made} deliveries: {report}");
    // the stream knows each by its id: however often it was sent, it is there once
    assert_eq!(copied().await, ALL);
}
