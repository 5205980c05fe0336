//! A year of flights from New York through three pipelines: the crate's main job on real input.
//!
//! ```text
//! cargo run --release --example flights [FILE] [--out DIR] [--json] [--help]
//! ```
//!
//! - `delays`: how late the flights of a day were, by airport. Flights of a day are one unit of work.
//! - `aircraft`: where each aircraft was last seen, by an inverse optimistic lock.
//! - `cancellations`: cancelled flights in a search index that misbehaves as real ones do.
//!
//! Kill it at any moment and start it again: it goes on behind what is settled, and ends with the same tables,
//! because both writes stand being repeated and reordered. A run that came to its end removes its checkpoint, so
//! the next one reads everything anew, and still changes nothing.

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use streambreaker::prelude::*;
use streambreaker::{BoxError, Report, RunError, Timestamp, file, shutdown};

#[path = "flights/args.rs"]
mod args;
#[path = "flights/event.rs"]
mod event;
#[path = "flights/index.rs"]
mod index;
#[path = "flights/progress.rs"]
mod progress;
#[path = "flights/store.rs"]
mod store;

use args::{Args, Asked};
use event::{Cancelled, Flight};
use index::SearchIndex;
use progress::Progress;
use store::Store;

/// Each shard is read and processed by itself; all flights of an aircraft are in one.
const SHARDS: usize = 4;

/// Flights by airport and day, added up: a group is one transaction.
fn delays(
    flow: Flow<Input>,
    store: Store,
    database: &Resource,
) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.of_type("flight-departed")
        .json::<Flight>()
        .validate(Flight::has_arrived)
        .group_by(
            |flight| (flight.origin().to_owned(), flight.day().to_owned()),
            Window::items(500).linger(Duration::from_millis(200)),
        )
        .parallel(16, database, async move |group: &Group<(String, String), Event<Flight>>| {
            store.add_delays(group).await
        })
}

/// Where each aircraft was last seen. Whatever the order of the events, the latest wins.
fn aircraft(
    flow: Flow<Input>,
    store: Store,
    database: &Resource,
) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.of_type("flight-departed").json::<Flight>().validate(Flight::has_aircraft).parallel(
        128,
        database,
        async move |flight: &Event<Flight>| store.saw_aircraft(flight).await,
    )
}

/// Cancelled flights, for people who search for theirs.
fn cancellations(
    flow: Flow<Input>,
    progress: Progress,
    index: SearchIndex,
    search: &Resource,
) -> Flow<impl Stage + use<>> {
    flow.inspect(move |record| progress.saw(record))
        .of_type("flight-cancelled")
        .json::<Flight>()
        .validate(Flight::has_aircraft)
        .map(Cancelled::from)
        .bulk_write(search, index)
        .window(Window::items(100).linger(Duration::from_millis(100)))
}

/// When an event arrived: as it says. A fault's id is made of this too, so it must not depend on the file's age.
fn arrival(line: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Stamp {
        timestamp: i64,
    }
    let stamp: Stamp = serde_json::from_slice(line).ok()?;
    Some(Timestamp::from_millis(stamp.timestamp))
}

async fn run(args: &Args) -> Result<Report, BoxError> {
    fs::create_dir_all(&args.out)
        .map_err(|e| format!("the directory {} cannot be made: {e}", args.out.display()))?;
    let checkpoint = args.out.join("flights.checkpoint");
    let faults = args.out.join("faults.ndjson");
    let (store, writer) = Store::open(&args.out.join("flights.db"))?;
    let progress = Progress::new(&args.file, args.json);

    // One connection writes, and takes what waits into one transaction, so many may wait at once. A database that
    // is locked or a disk that is full says nothing about the events: they wait for it.
    let database = Resource::builder("database")
        .timeout(Duration::from_secs(10))
        .retry(Retry::exponential().max_attempts(5))
        .breaker(
            Breaker::failure_ratio(0.5).cool_down(Duration::from_secs(5)).on_open(OnOpen::Pause),
        )
        .concurrency(1_024)
        .build()?;
    // A request takes milliseconds when all is well, so one that takes half a second never comes. The breaker is
    // shy of a few hanging requests, and opens when every second one fails.
    let search = Resource::builder("search-index")
        .timeout(Duration::from_millis(500))
        .retry(Retry::exponential().max_attempts(6).cap(Duration::from_secs(2)))
        .breaker(
            Breaker::failure_ratio(0.5).cool_down(Duration::from_secs(2)).on_open(OnOpen::Pause),
        )
        .rate(Rate::per_second(200))
        .concurrency(8)
        .build()?;

    let processor = Processor::builder("flights")
        .release(env!("CARGO_PKG_VERSION"))
        .source(
            file::Source::open(&args.file)
                .stream("flights")
                .shards(SHARDS)
                .key_field("partitionKey")
                .arrival_by(arrival)
                .checkpoint(&checkpoint),
        )
        .faults(file::faults(&faults)?)
        .faults_in(faults.display().to_string())
        .commit_every(Duration::from_millis(250), 10_000)
        // whoever kills this process does so on purpose, and again and again: no record is to blame for it
        .max_deliveries(10_000)
        .pipeline("delays", {
            let (store, database) = (store.clone(), database.clone());
            move |flow| delays(flow, store.clone(), &database)
        })
        .pipeline("aircraft", {
            let (store, database) = (store.clone(), database.clone());
            move |flow| aircraft(flow, store.clone(), &database)
        })
        .pipeline("cancellations", {
            let (progress, index) = (progress.clone(), SearchIndex::new(2013));
            move |flow| cancellations(flow, progress.clone(), index.clone(), &search)
        })
        .build()?;

    let report = match processor.run(shutdown()).await {
        Ok(report) => report,
        // it has drained, and accounts for what it did before; the cause says what to do
        Err(RunError::Ended { report, source: Some(cause), .. }) => {
            progress.finish();
            complain(&cause);
            *report
        }
        Err(e) => return Err(e.into()),
    };
    progress.finish();
    drop((processor, store));
    writer.close()?;
    if !report.stopped && report.exit_code() == 0 {
        file::forget(&checkpoint)?;
    }
    Ok(report)
}

/// Says on standard error what went wrong, with its causes.
fn complain(error: &(dyn Error + 'static)) {
    eprint!("flights: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Asked::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Run(args)) => args,
        Ok(Asked::Help(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("flights: {mistake}");
            return ExitCode::from(2);
        }
    };
    match run(&args).await {
        Ok(report) => {
            if args.json {
                println!("{}", serde_json::to_string(&report).unwrap());
            } else {
                println!("{report}\ntables in {}", args.out.join("flights.db").display());
            }
            ExitCode::from(report.exit_code())
        }
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}
