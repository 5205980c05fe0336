//! What the source promises beyond the suite: settings, subjects, lanes, gaps, a consumer that is taken away.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker::source::{Ack, Acker, Change, Read, Reader, Room, Settled, Source, SourceError};
use streambreaker::{Record, RunError};
use streambreaker_nats::async_nats::HeaderMap;
use streambreaker_nats::async_nats::jetstream::consumer::AckPolicy;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::{LaneBy, NatsAcker, NatsReader, NatsSource, OpenError};
use support::*;

const WAIT: Duration = Duration::from_secs(30);
const ROOM: Room = Room { records: 100, bytes: 1 << 20 };

async fn assigned(source: &mut NatsSource) -> (NatsReader, NatsAcker) {
    match source.next().await.unwrap() {
        Some(Change::Assigned { reader, acker, .. }) => (reader, acker),
        other => panic!("a lane is to be assigned, not {other:?}"),
    }
}

async fn read(reader: &mut NatsReader, count: usize) -> Vec<Record> {
    let mut all = Vec::new();
    while all.len() < count {
        match reader.read(ROOM).await {
            Ok(Read::Records { records, .. }) => all.extend(records),
            Ok(other) => panic!("records are to be read, not {other:?}"),
            Err(error) => {
                panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
            }
        }
    }
    all
}

fn cause(error: &SourceError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn nothing_is_created_unless_asked_and_what_is_missing_is_named() {
    let server = Server::start();
    let context = server.context().await;
    let open = || NatsSource::builder(context.clone(), "ORDERS", "totals");

    let text = open().open().await.unwrap_err().to_string();
    assert!(
        text.contains("there is no stream `ORDERS`") && text.contains("nats stream add"),
        "{text}"
    );
    let text = open().create(consumer(WAIT)).open().await.unwrap_err().to_string();
    assert!(text.contains("there is no stream `ORDERS`"), "{text}");

    let error = open().create_stream(stream("ORDERS")).open().await.unwrap_err();
    assert!(matches!(error, OpenError::NoConsumer { .. }), "{error}");
    assert!(error.to_string().contains("nats consumer add ORDERS totals --pull"), "{error}");
    assert!(context.get_stream("ORDERS").await.is_ok(), "what was asked for is there");

    let caps = open().create(consumer(WAIT)).open().await.unwrap().caps();
    assert_eq!((caps.system, &*caps.stream, caps.deadline), ("nats", "ORDERS", Some(WAIT)));
    assert!(caps.extends && caps.counts_deliveries);
    // now that it is there nobody need ask
    assert_eq!(open().open().await.unwrap().caps(), caps);
}

#[tokio::test]
async fn a_setting_that_breaks_a_promise_is_refused_by_its_name() {
    let server = Server::start();
    let context = server.context().await;
    let stream = context.create_stream(stream("ORDERS")).await.unwrap();
    let base = ConsumerConfig { ack_policy: AckPolicy::Explicit, ..consumer(WAIT) };
    let cases = [
        ("max_deliver", ConsumerConfig { max_deliver: 5, ..base.clone() }),
        ("ack_policy", ConsumerConfig { ack_policy: AckPolicy::All, ..base.clone() }),
        ("headers_only", ConsumerConfig { headers_only: true, ..base.clone() }),
        ("inactive_threshold", ConsumerConfig { inactive_threshold: WAIT, ..base.clone() }),
    ];
    for (setting, config) in cases {
        let config = ConsumerConfig { durable_name: Some(setting.to_owned()), ..config };
        stream.create_consumer(config).await.unwrap();
        let opened = NatsSource::builder(context.clone(), "ORDERS", setting).open().await;
        let text = opened.unwrap_err().to_string();
        assert!(text.starts_with(&format!("`{setting}` of `{setting}` is ")), "{text}");
        assert!(text.contains("accepted: "), "{text}");
    }
    // four lanes, each for three processes: 83 of the 1,000 for each
    let open = || orders(&context, WAIT).lanes(4, LaneBy::Subject).shared_by(3);
    let built = |records| async move {
        Processor::builder("p")
            .source(open().open().await.unwrap())
            .faults(memory::faults())
            .in_flight(records, 1 << 20)
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
    };
    let text = built(84).await.unwrap_err().to_string();
    assert!(text.contains("hands out 83") && text.contains("`max_ack_pending`"), "{text}");
    assert!(built(83).await.is_ok());
    let text = orders(&context, WAIT).shared_by(2_000).open().await.unwrap_err().to_string();
    assert!(text.starts_with("`max_ack_pending` of `totals` is 1000"), "{text}");
}

#[tokio::test]
async fn a_server_without_jetstream_is_named_as_that() {
    let mut server = Server::without_jetstream();
    let context = server.context().await;
    let text = orders(&context, WAIT).open().await.unwrap_err().to_string();
    assert!(text.contains("start the server with `-js`"), "{text}");
    server.kill();
}

#[tokio::test]
async fn i5_subject_headers_and_arrival_are_those_of_the_message() {
    let server = Server::start();
    let context = server.context().await;
    let mut source = orders(&context, WAIT).open().await.unwrap();
    let mut headers = HeaderMap::new();
    headers.append("Trace", "one");
    headers.append("Trace", "two");
    headers.append("Nats-Msg-Id", "id-1");
    let payload = bytes::Bytes::from_static(b"\0\xff\r\n not JSON");
    let before = std::time::SystemTime::now();
    let subject = "orders.eu.42.changed";
    context.publish_with_headers(subject, headers, payload.clone()).await.unwrap().await.unwrap();
    let (mut reader, _acker) = assigned(&mut source).await;
    let record = read(&mut reader, 1).await.remove(0);
    assert_eq!(record.payload(), &payload);
    assert_eq!(record.key().unwrap(), subject);
    let headers: Vec<_> = record.headers().iter().map(|(name, value)| (name, &value[..])).collect();
    assert_eq!(headers, [("Nats-Msg-Id", &b"id-1"[..]), ("Trace", b"one"), ("Trace", b"two")]);
    assert_eq!((record.position().as_u64(), record.deliveries()), (Some(1), 1));
    let age = record.arrival().since(before.into());
    assert!(age < PATIENCE && record.arrival() > streambreaker::Timestamp::from_millis(0));
}

#[tokio::test]
async fn a_filter_with_wildcards_reads_what_it_names() {
    let server = Server::start();
    let context = server.context().await;
    let config = ConsumerConfig { filter_subject: "orders.*.changed".to_owned(), ..consumer(WAIT) };
    let mut source = NatsSource::builder(context.clone(), "ORDERS", "totals")
        .create_stream(stream("ORDERS"))
        .create(config)
        .open()
        .await
        .unwrap();
    // by core NATS: who publishes need not know that there is a stream
    let client = client(server.address()).await;
    for subject in ["orders.1.changed", "orders.1.seen", "orders.2.changed", "orders.2.eu.changed"]
    {
        client.publish(subject, "".into()).await.unwrap();
    }
    until("the stream has them", async || {
        context.get_stream("ORDERS").await.unwrap().cached_info().state.messages == 4
    })
    .await;
    let (mut reader, _acker) = assigned(&mut source).await;
    let one = Room { records: 1, bytes: 1 << 20 };
    for (key, left) in [("orders.1.changed", 1), ("orders.2.changed", 0)] {
        let Read::Records { records, behind } = reader.read(one).await.unwrap() else { panic!() };
        assert_eq!(records[0].key().unwrap(), key);
        assert_eq!(behind.records, Some(left), "what it does not name is not behind");
    }
}

#[tokio::test]
async fn o1_each_lane_has_its_keys_in_order() {
    let server = Server::start();
    let context = server.context().await;
    publish_empty(&context).await;
    publish(&context, 0..2_000).await;
    let source = orders(&context, WAIT).lanes(4, LaneBy::SubjectToken(1)).open().await.unwrap();
    let seen: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let db = db();
    let (trigger, shutdown) = Shutdown::by_hand();
    let log = seen.clone();
    let processor = numbers(source, memory::faults())
        .in_flight(100, 1 << 20)
        .pipeline("all", move |flow| {
            let log = log.clone();
            flow.json::<u64>().parallel_by_key(
                8,
                |n| **n % 10,
                &db,
                async move |n: &Event<u64>| {
                    log.lock().unwrap().push((n.record().shard().to_string(), **n));
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all are seen", async || seen.lock().unwrap().len() == 2_000).await;
    let lanes: Vec<_> = handle.status().lanes.iter().map(|lane| lane.shard.to_string()).collect();
    assert_eq!(lanes.len(), 4, "{lanes:?}");
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.unsettled(), report.pipelines["all"].done), (0, 2_000), "{report}");
    for digit in 0..10 {
        let seen = seen.lock().unwrap();
        let of: Vec<_> = seen.iter().filter(|(_, n)| n % 10 == digit).collect();
        assert!(of.iter().all(|(lane, _)| lane == &of[0].0), "a key is in one lane");
        assert!(of.is_sorted_by(|a, b| a.1 < b.1), "and in order there");
    }
    assert_eq!(left(&context).await, (0, 0));
}

async fn publish_empty(context: &streambreaker_nats::async_nats::jetstream::Context) {
    context.create_stream(stream("ORDERS")).await.unwrap();
}

#[tokio::test]
async fn s2_what_retention_took_is_reported_and_not_passed_over() {
    let mut server = Server::start();
    let context = server.context().await;
    let config = StreamConfig { max_messages: 50, ..stream("ORDERS") };
    context.create_stream(config).await.unwrap();
    let mut source = orders(&context, WAIT).open().await.unwrap();
    publish(&context, 0..10).await;
    let (mut reader, mut acker) = assigned(&mut source).await;
    let first = read(&mut reader, 10).await;
    let acks: Vec<_> = first.iter().map(|r| (r.position().clone(), Ack::Done)).collect();
    acker.settle(Settled::Each(&acks)).await.unwrap();
    // it dies, and so does the server: what that still gave to it would be forgotten when retention takes it, and no
    // gap be seen. Of these 200 the last 50 stay
    drop((reader, acker, source));
    server.start_again();
    let context = server.context().await;
    publish(&context, 10..210).await;
    let mut source = orders(&context, WAIT).open().await.unwrap();
    let (mut reader, _acker) = assigned(&mut source).await;
    let Read::Gap { from, to } = reader.read(ROOM).await.unwrap() else {
        panic!("a gap comes first")
    };
    // a server that is killed may forget its latest acknowledgements
    let (from, to) = (from.as_u64().unwrap(), to.as_u64().unwrap());
    assert!((1..=11).contains(&from) && to == 161, "{from} to {to}");
    let records = read(&mut reader, 50).await;
    assert_eq!(records[0].position().as_u64(), Some(161));
}

#[tokio::test]
async fn a_consumer_that_is_deleted_ends_the_processor_and_says_so() {
    let server = Server::start();
    let context = server.context().await;
    let source = orders(&context, WAIT).open().await.unwrap();
    publish(&context, 0..10).await;
    let ledger = Ledger::default();
    let effects = ledger.clone();
    let db = db();
    let processor = numbers(source, memory::faults())
        .pipeline("all", move |flow| {
            let effects = effects.clone();
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                effects.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    until("all are seen", async || ledger.len() == 10).await;
    context.delete_consumer_from_stream("totals", "ORDERS").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap().unwrap_err();
    let RunError::Ended { .. } = &ended else { panic!("{ended}") };
    let text = chain(&ended);
    assert!(text.contains("the consumer `totals` of stream `ORDERS` is gone"), "{text}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn o7_a_record_larger_than_the_room_comes_alone() {
    let server = Server::start();
    let context = server.context().await;
    let mut source = orders(&context, WAIT).open().await.unwrap();
    for size in [10, 200_000, 10, 100_000, 10] {
        context.publish("orders.1", vec![b'x'; size].into()).await.unwrap().await.unwrap();
    }
    let (mut reader, _acker) = assigned(&mut source).await;
    let room = Room { records: 100, bytes: 50_000 };
    let mut sizes = Vec::new();
    while sizes.iter().flatten().count() < 5 {
        if let Read::Records { records, .. } = reader.read(room).await.unwrap()
            && !records.is_empty()
        {
            sizes.push(records.iter().map(|r| r.payload().len()).collect::<Vec<_>>());
        }
    }
    assert_eq!(sizes, [vec![10], vec![200_000], vec![10], vec![100_000], vec![10]]);
}

#[tokio::test]
async fn a_request_whose_bytes_are_used_up_to_the_last_one_is_made_again() {
    let server = Server::start();
    let context = server.context().await;
    context.create_stream(stream("ORDERS")).await.unwrap();
    for _ in 0..9 {
        context.publish("orders.1", vec![b'x'; 1_000].into()).await.unwrap().await.unwrap();
    }
    // subject, reply and payload; a few more or less, as servers count differently
    for size in (1_040..1_080).chain(1_000..1_010) {
        let name = format!("of-{size}");
        let mut source = NatsSource::builder(context.clone(), "ORDERS", &*name)
            .create(consumer(WAIT))
            .open()
            .await
            .unwrap();
        let (mut reader, _acker) = assigned(&mut source).await;
        let room = Room { records: 100, bytes: 6 * size };
        let mut count = 0;
        while count < 9 {
            match reader.read(room).await {
                Ok(Read::Records { records, .. }) => count += records.len(),
                other => panic!("{size}: {}", other.err().map(|e| cause(&e)).unwrap_or_default()),
            }
        }
        context.delete_consumer_from_stream(&name, "ORDERS").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_delivered_and_finds_no_room_is_held_too() {
    let server = Server::start();
    let context = server.context().await;
    let wait = Duration::from_secs(1);
    let mut source = orders(&context, wait).open().await.unwrap();
    publish(&context, 0..20).await;
    let (mut reader, mut acker) = assigned(&mut source).await;
    // it asks for a hundred, and takes two: the others wait in this process
    let room = Room { records: 100, bytes: 16 };
    let Read::Records { records, .. } = reader.read(room).await.unwrap() else { panic!() };
    assert!(!records.is_empty());
    let held: Vec<_> = records.iter().map(|r| r.position().clone()).collect();
    for _ in 0..9 {
        tokio::time::sleep(wait / 3).await;
        acker.extend(&held).await.unwrap();
    }
    let rest = read(&mut reader, 20 - records.len()).await;
    assert!(rest.iter().all(|record| record.deliveries() == 1), "none was given away meanwhile");
}

#[tokio::test]
async fn a_closed_client_is_no_reason_to_wait() {
    let server = Server::start();
    let context = server.context().await;
    let mut source = orders(&context, WAIT).open().await.unwrap();
    let (mut reader, _acker) = assigned(&mut source).await;
    let Ok(Read::Records { .. }) = reader.read(ROOM).await else { panic!("it is at its end") };
    context.client().drain().await.unwrap();
    let error = loop {
        match tokio::time::timeout(PATIENCE, reader.read(ROOM)).await.unwrap() {
            Err(error @ SourceError::Fatal(_)) => break error,
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert!(cause(&error).contains("closed"), "{}", cause(&error));
}
