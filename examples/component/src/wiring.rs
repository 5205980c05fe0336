//! Puts it together: where events come from, where things go, what guards the calls.
//!
//! Code sets what is right for most; what the file says under `engine` wins. Another transport changes the lines of
//! `source` and `publish`, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use streambreaker::flow::Publication;
use streambreaker::prelude::*;
use streambreaker::source::Source;
use streambreaker::{
    BuildError, FaultEvent, ProcessorBuilder, Sink, Timestamp, config::ConfigError, file,
};
use streambreaker_lake::{Lake, LakeError, LakeWriter};

use crate::handlers::{rules, view};
use crate::settings::Settings;
use crate::store::{OpenError, Store};

/// The name of the processor: in metrics, logs, faults and the ids of what is published. To change it is to begin anew.
pub const NAME: &str = "orders";
/// The name of the stream: in the lake and in faults.
pub const STREAM: &str = "order-events";

/// The component cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// A directory or a file cannot be made.
    #[error("{path} cannot be made")]
    Directory {
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The lake cannot be used.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A resource's settings cannot be used.
    #[error("engine.resources")]
    Resource(#[from] ConfigError),
    /// The plan cannot be used: every mistake at once.
    #[error(transparent)]
    Plan(#[from] BuildError),
}

/// What the component reads from and writes to.
pub struct Ends<S, F, P> {
    /// Where events come from.
    pub source: S,
    /// Where faults go.
    pub faults: F,
    /// Where faults are, for the report.
    pub faults_in: String,
    /// Where what is published goes.
    pub published: P,
}

/// The events, as they are read from this checkpoint on.
fn events(settings: &Settings, checkpoint: PathBuf) -> Result<file::Source, WiringError> {
    std::fs::create_dir_all(&settings.data).map_err(|source| WiringError::Directory {
        path: settings.data.display().to_string(),
        source,
    })?;
    Ok(file::Source::open(settings.events())
        .stream(STREAM)
        .shards(4) // each by itself; all events of an order are in one
        .key_field("partitionKey")
        .arrival_by(arrival)
        .checkpoint(checkpoint)
        .follow(settings.follow))
}

/// What stores the events in the lake: a processor of its own, with its own checkpoint.
///
/// # Errors
/// With what is wrong, and what would be accepted.
pub fn lake_writer(settings: &Settings) -> Result<Processor, WiringError> {
    let source = events(settings, settings.data.join("lake.checkpoint"))?;
    let lake = Lake::local(settings.lake())?;
    let store = Resource::builder("lake").timeout(Duration::from_secs(60)).build()?;
    // these events are few an hour: an object each hour would hold next to nothing
    let writer = LakeWriter::new(&lake).hours(24 * 30).linger(Duration::from_secs(10));
    let faults = settings.data.join("lake-faults.ndjson");
    let processor = Processor::builder("orders-lake-writer")
        .release(env!("CARGO_PKG_VERSION"))
        .source(source)
        .faults(file::faults(&faults)?)
        .faults_in(faults.display().to_string())
        .in_flight(60_000, 256 << 20)
        .pipeline("store", writer.pipeline(&store))
        .build()?;
    Ok(processor)
}

/// The component over files, as it runs.
///
/// # Errors
/// With what is wrong, and what would be accepted.
pub fn component(settings: &Settings) -> Result<ProcessorBuilder, WiringError> {
    let source = events(settings, settings.checkpoint())?;
    let store = Store::open(&settings.database(), settings.rules.keep.get())?;
    let published =
        file::Lines::open(settings.published(), |event: &Publication| Ok(event.to_json()?))?;
    let faults = settings.faults();
    let ends = Ends {
        source,
        faults: file::faults(&faults)?,
        faults_in: faults.display().to_string(),
        published,
    };
    builder(settings, store, ends)
}

/// The component over any source and sinks: a test brings its own.
///
/// # Errors
/// With what is wrong, and what would be accepted.
pub fn processor<S, F, P>(
    settings: &Settings,
    store: Store,
    ends: Ends<S, F, P>,
) -> Result<Processor, WiringError>
where
    S: Source,
    F: Sink<FaultEvent> + 'static,
    P: Sink<Publication> + Clone + 'static,
{
    Ok(builder(settings, store, ends)?.build()?)
}

fn builder<S, F, P>(
    settings: &Settings,
    store: Store,
    ends: Ends<S, F, P>,
) -> Result<ProcessorBuilder, WiringError>
where
    S: Source,
    F: Sink<FaultEvent> + 'static,
    P: Sink<Publication> + Clone + 'static,
{
    // A dependency that is away says nothing about the events: they wait until it is well, and so does the stream.
    let guarded = |name: &str, timeout: Duration, at_once: usize| {
        let breaker = Breaker::failure_ratio(0.5).cool_down(Duration::from_secs(5));
        Resource::builder(name)
            .timeout(timeout)
            .retry(Retry::exponential().max_attempts(5))
            .breaker(breaker.on_open(OnOpen::Pause))
            .concurrency(at_once)
            .config(&settings.engine)
            .build()
    };
    // many may wait for the database at once, for all that wait share one transaction
    let database = guarded("store", Duration::from_secs(10), 1_024)?;
    let bus = guarded("bus", Duration::from_secs(5), 4)?;

    let Ends { source, faults, faults_in, published } = ends;
    let when = settings.rules();
    Ok(Processor::builder(NAME)
        .release(env!("CARGO_PKG_VERSION"))
        .source(source)
        .faults(faults)
        .faults_in(faults_in)
        .pipeline("rules", {
            let (store, database) = (store.clone(), database.clone());
            move |flow| {
                rules(flow, store.clone(), when, &database)
                    .publish(&bus, published.clone())
                    .window(Window::items(100).linger(Duration::from_millis(50)))
            }
        })
        .pipeline("view", move |flow| view(flow, store.clone(), &database))
        .config(settings.engine.clone()))
}

/// When a line arrived: as the event says. The id of a fault is made of this too, so it must not depend on the file's age.
fn arrival(line: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Stamp {
        timestamp: i64,
    }
    let stamp: Stamp = serde_json::from_slice(line).ok()?;
    Some(Timestamp::from_millis(stamp.timestamp))
}
