//! A year of flights through a stream, twice: the tables are those of a computation that shares nothing with it.
//!
//! The sample of 5,000, unless `FLIGHTS` names another file, also a packed one:
//!
//! ```text
//! FLIGHTS=$PWD/flights-2013.ndjson.gz cargo test --release -p streambreaker-nats --test flights -- --nocapture
//! ```

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use streambreaker::fault::FloodGuard;
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::Context;
use streambreaker_nats::async_nats::jetstream::message::PublishMessage;
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::{LaneBy, NatsFaults, NatsSource};
use support::*;

#[derive(Deserialize)]
struct Flight {
    id: String,
    timestamp: i64,
    flight: Details,
}

#[derive(Deserialize)]
struct Details {
    tailnum: Option<String>,
    origin: String,
    dest: String,
    scheduled: String,
    arr_delay: Option<i64>,
}

impl Flight {
    fn has_arrived(&self) -> Result<(), &'static str> {
        self.flight.arr_delay.map(drop).ok_or("it has no arrival delay")
    }

    fn has_aircraft(&self) -> Result<(), &'static str> {
        let named = self.flight.tailnum.as_deref().is_some_and(|tailnum| !tailnum.is_empty());
        if named { Ok(()) } else { Err("it has no tail number") }
    }
}

/// Flights, and how late they were together, by airport and day; where an aircraft was last seen, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables {
    seen: BTreeSet<String>,
    delays: BTreeMap<(String, String), (u64, i64)>,
    aircraft: BTreeMap<String, (i64, String)>,
}

fn day(scheduled: &str) -> String {
    scheduled[..10].to_owned()
}

/// By hand, from the file: and how many are no good, for either table.
fn by_hand(text: &str) -> (Tables, u64) {
    let (mut tables, mut bad) = (Tables::default(), 0);
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["type"] != "flight-departed" {
            continue;
        }
        let (flight, string) =
            (&event["flight"], |value: &Value| value.as_str().unwrap().to_owned());
        match flight["arr_delay"].as_i64() {
            None => bad += 1,
            Some(late) => {
                let airport =
                    (string(&flight["origin"]), day(flight["scheduled"].as_str().unwrap()));
                let sums = tables.delays.entry(airport).or_default();
                *sums = (sums.0 + 1, sums.1 + late);
                tables.seen.insert(string(&event["id"]));
            }
        }
        match flight["tailnum"].as_str().unwrap_or_default() {
            "" => bad += 1,
            tailnum => {
                let last = (event["timestamp"].as_i64().unwrap(), string(&flight["dest"]));
                let known =
                    tables.aircraft.entry(tailnum.to_owned()).or_insert_with(|| last.clone());
                *known = last.max(known.clone());
            }
        }
    }
    (tables, bad)
}

fn pipelines(
    tables: &Arc<Mutex<Tables>>,
    source: NatsSource,
    faults: NatsFaults,
) -> streambreaker::ProcessorBuilder {
    let database = Resource::builder("database")
        .timeout(Duration::from_secs(5))
        .retry(Retry::none())
        .concurrency(256)
        .build()
        .unwrap();
    let (delays, aircraft, other) = (tables.clone(), tables.clone(), database.clone());
    Processor::builder("flights")
        .source(source)
        .faults(faults)
        .flood_guard(FloodGuard::off())
        .in_flight(2_000, 16 << 20)
        .commit_every(Duration::from_millis(100), 500)
        .pipeline("delays", move |flow| {
            let tables = delays.clone();
            flow.of_type("flight-departed")
                .json::<Flight>()
                .validate(|flight| flight.has_arrived())
                .group_by(
                    |f| (f.flight.origin.clone(), day(&f.flight.scheduled)),
                    Window::items(100).linger(Duration::from_millis(100)),
                )
                .parallel(
                    16,
                    &database,
                    async move |group: &Group<(String, String), Event<Flight>>| {
                        let mut tables = tables.lock().unwrap();
                        for flight in &group.items {
                            // an event that comes again changes nothing
                            if tables.seen.insert(flight.id.clone()) {
                                let sums = tables.delays.entry(group.key.clone()).or_default();
                                *sums = (sums.0 + 1, sums.1 + flight.flight.arr_delay.unwrap());
                            }
                        }
                        Ok(())
                    },
                )
        })
        .pipeline("aircraft", move |flow| {
            let tables = aircraft.clone();
            flow.of_type("flight-departed")
                .json::<Flight>()
                .validate(|flight| flight.has_aircraft())
                .parallel(64, &other, async move |flight: &Event<Flight>| {
                    let tailnum = flight.flight.tailnum.clone().unwrap();
                    let last = (flight.timestamp, flight.flight.dest.clone());
                    let mut tables = tables.lock().unwrap();
                    let known = tables.aircraft.entry(tailnum).or_insert_with(|| last.clone());
                    *known = last.max(known.clone());
                    Ok(())
                })
        })
}

/// Runs a consumer of all flights to the end of the stream; the report.
async fn run(context: &Context, name: &str, tables: &Arc<Mutex<Tables>>) -> streambreaker::Report {
    let source = NatsSource::builder(context.clone(), "FLIGHTS", name)
        .create(streambreaker_nats::async_nats::jetstream::consumer::pull::Config {
            max_ack_pending: 8_000,
            ..consumer(Duration::from_secs(60))
        })
        .lanes(4, LaneBy::Subject)
        .open()
        .await
        .unwrap();
    let faults = NatsFaults::open(context.clone(), "faults.flights").await.unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = pipelines(tables, source, faults).build().unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    let began = std::time::Instant::now();
    loop {
        let consumer: streambreaker_nats::async_nats::jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream(name, "FLIGHTS").await.unwrap();
        let info = consumer.cached_info();
        if (info.num_pending, info.num_ack_pending) == (0, 0) {
            break;
        }
        assert!(began.elapsed() < PATIENCE * 10 && !run.is_finished(), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trigger.pull();
    run.await.unwrap().unwrap()
}

/// All events, one a line.
fn events() -> String {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/flights.ndjson");
    let file = std::env::var("FLIGHTS").unwrap_or_else(|_| sample.to_owned());
    let mut text = String::new();
    let mut opened = std::fs::File::open(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    if file.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(opened).read_to_string(&mut text).unwrap();
    } else {
        opened.read_to_string(&mut text).unwrap();
    }
    text
}

#[tokio::test]
async fn the_year_ends_with_the_same_tables_also_the_second_time() {
    let text = events();
    let (expected, bad) = by_hand(&text);
    assert!(bad > 0, "there is poison among them");

    let server = Server::start();
    let context = server.context().await;
    context.create_stream(stream("FLIGHTS")).await.unwrap();
    // it is to know them for as long as both take, and not for its two minutes
    let duplicate_window = Duration::from_secs(6 * 3_600);
    context.create_stream(StreamConfig { duplicate_window, ..stream("FAULTS") }).await.unwrap();
    let mut acks = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        // a subject for each aircraft: its flights are in one lane, in order
        let aircraft =
            event["partitionKey"].as_str().filter(|key| !key.is_empty()).unwrap_or("none");
        let message = PublishMessage::build()
            .payload(line.to_owned().into())
            .message_id(event["id"].as_str().unwrap());
        let subject = format!("flights.{}", aircraft.replace(['.', ' '], "-"));
        acks.push(context.send_publish(subject, message).await.unwrap());
        if acks.len() == 1_000 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let events = context.get_stream("FLIGHTS").await.unwrap().cached_info().state.messages;

    let tables = Arc::new(Mutex::new(Tables::default()));
    for time in ["first", "second"] {
        let began = std::time::Instant::now();
        let report = run(&context, time, &tables).await;
        println!("the {time} time, {:.1} s: {report}", began.elapsed().as_secs_f64());
        assert_eq!(report.unsettled(), 0, "{report}");
        let read: u64 = report.pipelines.values().map(|pipeline| pipeline.read).sum();
        let faulted: u64 = report.pipelines.values().map(|pipeline| pipeline.faulted).sum();
        assert_eq!((read, faulted), (2 * events, bad), "the {time} time: {report}");
        assert!(*tables.lock().unwrap() == expected, "the tables are others the {time} time");
    }
    let stored = context.get_stream("FAULTS").await.unwrap().cached_info().state.messages;
    assert_eq!(stored, bad, "the same faults both times: the stream knows them by their ids");
}
