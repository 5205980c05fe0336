//! The sink and the fault sink, on a real server.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::memory::Stream;
use streambreaker::prelude::*;
use streambreaker::sink::OutcomeLog;
use streambreaker::{Class, FaultEvent, Sink};
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::{NatsFaults, NatsSink, OpenError, Publication};
use support::*;

async fn messages(
    context: &streambreaker_nats::async_nats::jetstream::Context,
    stream: &str,
) -> u64 {
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let server = Server::start();
    let context = server.context().await;
    let error = NatsSink::open(context.clone(), "ORDERS").await.unwrap_err();
    assert!(matches!(error, OpenError::NoStream { .. }), "{error}");
    let error = NatsFaults::open(context, "faults.orders").await.unwrap_err();
    assert!(error.to_string().contains("no stream takes the subject `faults.orders`"), "{error}");
}

#[tokio::test]
async fn k1_each_item_has_an_outcome_of_its_own() {
    let server = Server::start();
    let context = server.context().await;
    let config = StreamConfig { max_message_size: 1_000, ..stream("ORDERS") };
    context.create_stream(config).await.unwrap();
    let sink = NatsSink::open(context.clone(), "ORDERS").await.unwrap();
    assert_eq!((sink.limits().bytes, sink.limits().items), (1_000, 500));
    let items = [
        Publication::new("orders.1", "a", "one"),
        Publication::new("orders.1", "b", "x".repeat(2_000)),
        Publication::new("others.1", "c", "no stream takes it"),
        Publication::new("orders. 1", "d", "no subject"),
        Publication::new("orders.1", "a", "one, again"),
        Publication::without_id("orders.1", "by no id").with_header("Trace", "t"),
    ];
    let mut log = OutcomeLog::new(items.len());
    sink.write(&items, &mut log.outcomes()).await.unwrap();
    let class = |n: usize| log.error(n).map(StepError::class);
    assert!(log.is_done(0) && log.is_done(4) && log.is_done(5));
    assert_eq!(class(1), Some(Class::Fault), "too large for the stream, now and later");
    assert_eq!(class(2), Some(Class::Transient), "a stream may be there again");
    assert_eq!(class(3), Some(Class::Fault));
    assert_eq!(messages(&context, "ORDERS").await, 2, "the stream knows the second by its id");
}

#[tokio::test]
async fn k5_what_it_says_of_sizes_is_what_the_server_counts() {
    let server = Server::start();
    let context = server.context().await;
    let config = StreamConfig { max_message_size: 1_000, ..stream("ORDERS") };
    context.create_stream(config).await.unwrap();
    let sink = NatsSink::open(context.clone(), "ORDERS").await.unwrap();
    let sized = |bytes: usize| {
        let empty = sink.size(&Publication::new("orders.1", format!("id-{bytes}"), ""));
        Publication::new("orders.1", format!("id-{bytes}"), "x".repeat(bytes - empty))
    };
    for (bytes, taken) in [(1_000, true), (1_001, false)] {
        let item = sized(bytes);
        assert_eq!(sink.size(&item), bytes);
        let mut log = OutcomeLog::new(1);
        sink.write(&[item], &mut log.outcomes()).await.unwrap();
        assert_eq!(log.is_done(0), taken, "{bytes} bytes: {:?}", log.error(0));
    }
}

#[tokio::test]
async fn all_messages_of_a_request_are_in_flight_at_once() {
    let server = Server::start();
    let context = server.context().await;
    // a stream that stores, and never answers: whoever waits for one before the next sends no second
    let config = StreamConfig { no_ack: true, ..stream("ORDERS") };
    context.create_stream(config).await.unwrap();
    let sink = NatsSink::open(context.clone(), "ORDERS").await.unwrap();
    let items: Vec<_> = (0..50).map(|n| Publication::new("orders.1", n.to_string(), "x")).collect();
    let mut log = OutcomeLog::new(items.len());
    {
        let mut outcomes = log.outcomes();
        let write = sink.write(&items, &mut outcomes);
        tokio::select! {
            biased;
            _ = write => panic!("nothing was answered"),
            () = until("all are there", async || messages(&context, "ORDERS").await == 50) => {}
        }
    }
    assert!((0..items.len()).all(|n| log.is_unknown(n)), "and none counts as done");
}

#[tokio::test]
async fn k2_a_write_that_is_dropped_keeps_what_was_confirmed() {
    let server = Server::start();
    let proxy = streambreaker_testkit::net::Proxy::start(server.address()).await.unwrap();
    let own = server.context().await;
    own.create_stream(stream("ORDERS")).await.unwrap();
    let sink = NatsSink::open(context(proxy.address()).await, "ORDERS").await.unwrap();
    let items: Vec<_> =
        (0..200).map(|n| Publication::new("orders.1", n.to_string(), "x".repeat(2_000))).collect();
    proxy.delay(Duration::from_millis(20));
    let mut log = OutcomeLog::new(items.len());
    {
        let mut outcomes = log.outcomes();
        let write = sink.write(&items, &mut outcomes);
        let some = until("some are there", async || messages(&own, "ORDERS").await > 20);
        tokio::select! {
            biased;
            _ = write => panic!("all are written already"),
            () = async { some.await; proxy.stall(); tokio::time::sleep(Duration::from_millis(200)).await } => {}
        }
    }
    let there = messages(&own, "ORDERS").await as usize;
    let done = (0..items.len()).filter(|n| log.is_done(*n)).count();
    assert!(done <= there, "{done} confirmed, {there} there");
    assert!((0..items.len()).all(|n| log.is_done(n) || log.is_unknown(n)));
    // the rest again, with what may be there already: it is there once
    proxy.heal();
    proxy.drop_connections();
    let mut again = OutcomeLog::new(items.len());
    until("all are done", async || {
        sink.write(&items, &mut again.outcomes()).await.unwrap();
        let all = (0..items.len()).all(|n| again.is_done(n));
        if !all {
            again = OutcomeLog::new(items.len());
        }
        all
    })
    .await;
    assert_eq!(messages(&own, "ORDERS").await, 200);
}

#[tokio::test]
async fn f6_a_fault_larger_than_the_stream_takes_is_reduced_and_not_cut() {
    let server = Server::start();
    let context = server.context().await;
    let config = StreamConfig { max_message_size: 6_000, ..stream("FAULTS") };
    context.create_stream(config).await.unwrap();
    let faults = NatsFaults::open(context.clone(), "faults.orders").await.unwrap();
    let input = Stream::new("numbers", 1);
    for n in 0..4 {
        input.push(format!("\"{n}{}\"", "x".repeat(1_000)));
    }
    input.close();
    let db = db();
    let processor = Processor::builder("orders")
        .source(input.consumer("g"))
        .faults(faults)
        .flood_guard(FloodGuard::off())
        .pipeline("all", move |flow| {
            flow.json::<String>().group_by(|_| 0, Window::items(4)).parallel(
                1,
                &db,
                async |_: &Group<i32, Event<String>>| -> Result<(), StepError> {
                    // text that goes first
                    Err("y".repeat(5_000)).fault()
                },
            )
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].faulted, report.unsettled()), (4, 0), "{report}");
    let stored = context.get_stream("FAULTS").await.unwrap();
    let mut payloads = Vec::new();
    for sequence in 1..=messages(&context, "FAULTS").await {
        let message = stored.get_raw_message(sequence).await.unwrap();
        let event = FaultEvent::from_json(&message.payload).unwrap();
        payloads.extend(event.records.iter().map(|r| r.record.payload().len()));
    }
    assert_eq!(payloads, [1_003; 4], "every record, whole");
}
