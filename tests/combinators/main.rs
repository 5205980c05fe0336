//! Every combinator's promise, with the edge cases that its documentation states.

mod call;
mod decode;
mod flow;
mod gather;
mod rate;
mod split;
mod transform;
mod write;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::envelope::Envelope;
use streambreaker::fault::{FaultEvent, FloodGuard};
use streambreaker::prelude::*;
use streambreaker::{
    Class, PipelineReport, Position, Processed, Record, Shutdown, Timestamp, memory,
};

/// What a pipeline did with the payloads of a stream that ends.
struct Ran {
    report: PipelineReport,
    faults: Vec<FaultEvent>,
}

impl Ran {
    /// Done, filtered, faulted.
    fn fates(&self) -> (u64, u64, u64) {
        let PipelineReport { read, done, filtered, faulted, returned, open, .. } = self.report;
        assert_eq!(read, done + filtered + faulted, "{returned} returned, {open} open");
        (done, filtered, faulted)
    }

    fn classes(&self) -> Vec<Class> {
        self.faults.iter().map(|fault| fault.class).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.faults.iter().map(|fault| &*fault.err.name).collect()
    }

    /// The payloads of each fault's records.
    fn payloads(&self) -> Vec<Vec<String>> {
        self.faults.iter().map(payloads).collect()
    }
}

fn payloads(fault: &FaultEvent) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.payload().to_vec()).unwrap();
    fault.records.iter().map(|record| text(&record.record)).collect()
}

/// Runs a pipeline over a stream of these payloads, to its end.
async fn run<S, F>(payloads: impl IntoIterator<Item = impl ToString>, pipeline: F) -> Ran
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .source(memory::stream(payloads.into_iter().map(|payload| payload.to_string())))
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .seed(1)
        .pipeline("all", pipeline)
        .build()
        .unwrap();
    let mut report = processor.run(Shutdown::never()).await.unwrap();
    Ran { report: report.pipelines.remove("all").unwrap(), faults: faults.events() }
}

/// Says nothing but times, and panics where the payload is 3.
struct Brittle;

impl Envelope for Brittle {
    fn id<'r>(&self, _: &'r Record) -> Option<Cow<'r, str>> {
        None
    }

    fn kind<'r>(&self, _: &'r Record) -> Option<Cow<'r, str>> {
        None
    }

    fn time(&self, record: &Record) -> Option<Timestamp> {
        assert!(record.payload() != "3", "three");
        None
    }
}

/// Runs a pipeline over a stream of the numbers below six, under an envelope that panics at 3.
async fn run_under_a_brittle_envelope<S, F>(pipeline: F) -> Ran
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .source(memory::stream((0..6).map(|n| n.to_string())))
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .envelope(Brittle)
        .seed(1)
        .pipeline("all", pipeline)
        .build()
        .unwrap();
    let mut report = processor.run(Shutdown::never()).await.unwrap();
    Ran { report: report.pipelines.remove("all").unwrap(), faults: faults.events() }
}

/// Gives these records to a pipeline as one batch.
async fn process<S, F>(
    records: impl IntoIterator<Item = Record>,
    pipeline: F,
) -> (Processed, Vec<FaultEvent>)
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    let faults = memory::faults();
    let processor = Processor::builder("p")
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .seed(1)
        .pipeline("all", pipeline)
        .build()
        .unwrap();
    let outcome = processor.process(records).await;
    (outcome, faults.events())
}

/// Why a pipeline cannot be built.
fn refused<S, F>(pipeline: F) -> String
where
    F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
    S: Stage + Send + 'static,
{
    let builder = Processor::builder("p").faults(memory::faults()).pipeline("all", pipeline);
    builder.build().unwrap_err().to_string()
}

fn record(position: u64, payload: impl ToString) -> Record {
    Record::new("s", "0", Position::from(position), payload.to_string())
}

fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().unwrap()
}

/// A resource that tries once.
fn once(name: &str) -> Resource {
    let builder = Resource::builder(name).timeout(Duration::from_secs(1));
    builder.retry(Retry::none()).seed(1).build().unwrap()
}

/// What went by, in order.
struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Seen<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn push(&self, value: T) {
        self.0.lock().unwrap().push(value);
    }

    fn all(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.0.lock().unwrap().clone()
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
