//! L12: a secret put into every place from which a text can come reaches the fault event, and nothing else.
//!
//! The standard panic hook prints the messages of panics to the terminal while this runs: `hide_panic_messages`
//! is for that, and has a test of its own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use metrics_util::debugging::DebuggingRecorder;
use serde::{Deserialize, Serialize};
use streambreaker::envelope::Envelope;
use streambreaker::error::BoxError;
use streambreaker::fault::FaultEvent;
use streambreaker::flow::DecodeError;
use streambreaker::prelude::*;
use streambreaker::resource::OnExhausted;
use streambreaker::sink::{Limits, OutcomeLog, Outcomes};
use streambreaker::source::{
    Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled, SourceError,
};
use streambreaker::{
    Config, Headers, Position, Processor, Record, RunError, ShardId, Shutdown, Sink, Source,
    Timestamp,
};

mod heard;

const CANARY: &str = "canary7f3a91";

fn secret(place: &str) -> String {
    format!("{CANARY} in {place}")
}

/// Everything that was printed, with what it was.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<(String, String)>>>);

impl Printed {
    fn keep(&self, what: &str, text: impl Into<String>) {
        self.0.lock().unwrap().push((what.to_owned(), text.into()));
    }

    fn debug(&self, what: &str, value: &(impl fmt::Debug + ?Sized)) {
        self.keep(what, format!("{value:?} {value:#?}"));
    }
}

#[derive(Debug)]
struct Outer(Inner);

#[derive(Debug)]
struct Inner;

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&secret("an error"))
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&secret("the source of an error"))
    }
}

impl std::error::Error for Inner {}

/// Panics with itself.
#[derive(Debug)]
#[allow(dead_code)] // it is there to be printed
struct Payload(String);

// --- a source that fails with secrets wherever it can

struct Leaky {
    records: Option<Vec<Record>>,
    failed: bool,
    fatal: bool,
}

struct LeakyReader {
    records: Option<Vec<Record>>,
    failures: u32,
    fatal: bool,
}

struct LeakyAcker {
    settles: u32,
}

#[async_trait]
impl Source for Leaky {
    type Reader = LeakyReader;
    type Acker = LeakyAcker;

    fn caps(&self) -> Caps {
        Caps::new("memory", "leaks", Acknowledge::Prefix)
            .with_deadline(Duration::from_secs(3), true)
    }

    async fn next(&mut self) -> Result<Option<Change<LeakyReader, LeakyAcker>>, SourceError> {
        if !std::mem::replace(&mut self.failed, true) {
            return Err(SourceError::transient(Outer(Inner)));
        }
        let Some(records) = self.records.take() else { return Ok(None) };
        let reader = LeakyReader { records: Some(records), failures: 0, fatal: self.fatal };
        let acker = LeakyAcker { settles: 0 };
        Ok(Some(Change::Assigned { shard: ShardId::new("0"), reader, acker }))
    }
}

#[async_trait]
impl Reader for LeakyReader {
    async fn read(&mut self, _: Room) -> Result<Read, SourceError> {
        self.failures += 1;
        match (self.failures, self.records.take()) {
            (..=2, records) => {
                self.records = records;
                Err(SourceError::transient(secret("a read")))
            }
            (_, Some(records)) => Ok(Read::Records { records, behind: Behind::records(0) }),
            (4..10, None) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Read::Records { records: Vec::new(), behind: Behind::records(0) })
            }
            (_, None) if self.fatal => Err(SourceError::fatal(secret("a fatal read"))),
            (_, None) => Ok(Read::End),
        }
    }
}

#[async_trait]
impl Acker for LeakyAcker {
    async fn settle(&mut self, _: Settled<'_>) -> Result<(), CommitError> {
        self.settles += 1;
        match self.settles {
            1 => Err(CommitError::transient(Outer(Inner))),
            _ => Ok(()),
        }
    }

    async fn extend(&mut self, _: &[Position]) -> Result<(), CommitError> {
        Err(CommitError::transient(secret("an extension")))
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        Err(CommitError::transient(secret("a release")))
    }
}

// --- sinks that fail with secrets

/// Fails in every way, then keeps what it is given.
#[derive(Clone, Default)]
struct Faults {
    events: Arc<Mutex<Vec<FaultEvent>>>,
    writes: Arc<AtomicU32>,
}

#[async_trait]
impl Sink<FaultEvent> for Faults {
    fn limits(&self) -> Limits {
        Limits::items(10)
    }

    fn size(&self, _: &FaultEvent) -> usize {
        1
    }

    async fn write(
        &self,
        items: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        match self.writes.fetch_add(1, Ordering::Relaxed) {
            0 => return Err(Outer(Inner)).transient(),
            1 => panic!("{}", secret("the fault sink")),
            2 => outcomes.reject(0, secret("the fault sink")),
            3 => outcomes.retry(items.len() + 7, secret("the fault sink")),
            _ => {
                self.events.lock().unwrap().extend_from_slice(items);
                outcomes.all_done();
            }
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Bulk(Arc<AtomicU32>);

#[async_trait]
impl Sink<Event<Order>> for Bulk {
    fn limits(&self) -> Limits {
        Limits::items(100)
    }

    fn size(&self, _: &Event<Order>) -> usize {
        1
    }

    async fn write(
        &self,
        items: &[Event<Order>],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => outcomes.retry(usize::MAX, secret("a stray note")),
            1 => return Err(secret("a bulk call")).transient(),
            _ => {
                outcomes.reject(0, secret("a bulk item"));
                for index in 1..items.len() {
                    outcomes.done(index);
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct PanickingBulk;

#[async_trait]
impl Sink<Event<Order>> for PanickingBulk {
    fn limits(&self) -> Limits {
        Limits::items(100)
    }

    fn size(&self, _: &Event<Order>) -> usize {
        1
    }

    async fn write(&self, _: &[Event<Order>], _: &mut Outcomes<'_>) -> Result<(), StepError> {
        panic!("{}", secret("a bulk panic"))
    }
}

// --- events

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    n: u64,
    secret: String,
}

/// Says a secret for everything it is asked, and panics where the payload says so.
struct Talkative;

impl Envelope for Talkative {
    fn id<'r>(&self, _: &'r Record) -> Option<Cow<'r, str>> {
        Some(secret("an id").into())
    }

    fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        assert!(!record.payload().starts_with(b"panic"), "{}", secret("the envelope"));
        Some(secret("a type").into())
    }

    fn time(&self, _: &Record) -> Option<Timestamp> {
        None
    }
}

fn record(n: u64, payload: String) -> Record {
    Record::new("leaks", "0", Position::from(n), payload).with_key(secret("a key")).with_headers(
        Headers::from_iter([
            (secret("a header name"), secret("a header").into_bytes()),
            ("traceparent".to_owned(), secret("a trace").into_bytes()),
        ]),
    )
}

fn records() -> Vec<Record> {
    let mut records: Vec<Record> = (0..30u64)
        .map(|n| record(n, format!(r#"{{"n": {n}, "secret": "{CANARY} in a payload"}}"#)))
        .collect();
    records.push(record(30, secret("a payload that is no JSON")));
    records.push(record(31, format!(r#"{{"n": "{CANARY} in a field", "secret": ""}}"#)));
    records.push(record(32, format!("panic {CANARY}")));
    records.push(record(33, r#"{"n": 33, "secret": ""}"#.to_owned()).with_headers(
        Headers::from_iter([(
            streambreaker::source::UNREADABLE,
            secret("what could not be read").into_bytes(),
        )]),
    ));
    records
}

fn db(name: &str) -> Resource {
    Resource::builder(name)
        .timeout(Duration::from_secs(1))
        .retry(Retry::exponential().max_attempts(2))
        .on_exhausted(OnExhausted::Fault)
        .breaker(Breaker::failure_ratio(0.9).on_open(OnOpen::Pause))
        .classify(|error| {
            assert!(
                !error.to_string().contains("classifier"),
                "{}",
                secret("a classifier's panic")
            );
            None
        })
        .seed(1)
        .build()
        .unwrap()
}

async fn handler(n: u64, fatals: &AtomicU32) -> Result<(), StepError> {
    match n {
        1 => Err(Outer(Inner).into()),
        2 => Err(secret("a transient error")).transient(),
        3 => Err(secret("a throttled error")).throttled(Duration::from_millis(1)),
        4 if fatals.fetch_add(1, Ordering::Relaxed) < 3 => Err(secret("a fatal error")).fatal(),
        5 => panic!("{}", secret("a panic with a String")),
        6 => std::panic::panic_any("canary7f3a91 in a panic with a str"),
        7 => std::panic::panic_any(Payload(secret("another panic"))),
        8 => Err(secret("what the classifier saw")).fault(),
        9 => std::future::pending().await,
        _ => Ok(()),
    }
}

fn build(source: Leaky, faults: &Faults, printed: &Printed) -> Processor {
    let (db, index, other) = (db("db"), db("index"), db("other"));
    let (bulk, fatals) = (Bulk::default(), Arc::new(AtomicU32::new(0)));
    let printed = printed.clone();
    let returns = Arc::new(AtomicU32::new(0));
    let strict = Resource::builder("strict")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .build()
        .unwrap();
    Processor::builder("p")
        .source(source)
        .faults(faults.clone())
        .envelope(Talkative)
        .flood_guard(streambreaker::fault::FloodGuard::off())
        .seed(1)
        .pipeline("handlers", move |flow| {
            let (fatals, printed) = (fatals.clone(), printed.clone());
            flow.inspect({
                let printed = printed.clone();
                move |received| {
                    printed.debug("Received", received);
                    printed.debug("Record", received.record());
                    printed.debug("Headers", received.record().headers());
                }
            })
            .json::<Order>()
            .through({
                let printed = printed.clone();
                move |units| {
                    units.map(move |unit| {
                        printed.debug("Uow", &unit);
                        unit
                    })
                }
            })
            .parallel(4, &db, async move |order: &Event<Order>| {
                printed.debug("Event", order);
                handler(order.n, &fatals).await
            })
        })
        .pipeline("steps", |flow| {
            flow.of_type(|kind: &str| !kind.is_empty())
                .decode(|received: &Received| -> Result<Order, BoxError> {
                    let order: Order = serde_json::from_slice(&received.data())?;
                    match order.n {
                        10 => Err(secret("a codec error").into()),
                        11 => panic!("{}", secret("a codec panic")),
                        _ => Ok(order),
                    }
                })
                .validate(|order: &Order| match order.n {
                    12 => Err(secret("a validate error")),
                    13 => panic!("{}", secret("a validate panic")),
                    _ => Ok(()),
                })
                .filter(
                    |order| {
                        if order.n == 14 { panic!("{}", secret("a filter panic")) } else { true }
                    },
                )
                .map(
                    |order| if order.n == 15 { panic!("{}", secret("a map panic")) } else { order },
                )
                .try_map(|order| {
                    if order.n == 16 { Err(secret("a try_map error")).fault() } else { Ok(order) }
                })
        })
        .pipeline("groups", {
            let returns = returns.clone();
            move |flow| {
                let returns = returns.clone();
                flow.json::<Order>()
                    .group_by(
                        |order| {
                            assert!(order.n != 17, "{}", secret("a key panic"));
                            format!("{} {CANARY}", order.n % 3)
                        },
                        Window::items(4),
                    )
                    .call(&strict, async move |group: &Group<String, Event<Order>>| {
                        let _ = format!("{group:?}");
                        assert!(!format!("{group:?} {group:#?}").contains(CANARY));
                        match returns.fetch_add(1, Ordering::Relaxed) {
                            0..4 => Err(secret("an error that is returned")).transient(),
                            _ => Ok(()),
                        }
                    })
            }
        })
        .pipeline("bulk", move |flow| flow.json::<Order>().bulk_write(&index, bulk.clone()))
        .pipeline("bulk panics", move |flow| flow.json::<Order>().bulk_write(&other, PanickingBulk))
        .pipeline("dropped", |flow| {
            flow.json::<Order>()
                .through(|units| units.filter(|unit| std::future::ready(unit.value().n != 18)))
        })
        .build()
        .unwrap()
}

/// Runs it, and keeps what its parts print.
async fn run(fatal: bool, faults: &Faults, printed: &Printed) {
    let source = Leaky { records: Some(records()), failed: false, fatal };
    let processor = build(source, faults, printed);
    let handle = processor.handle();
    printed.debug("Processor", &processor);
    printed.debug("Handle", &handle);
    printed.keep("explain", processor.explain().to_string());
    let watched = printed.clone();
    let watching = tokio::spawn(async move {
        loop {
            let status = handle.status();
            watched.debug("Status", &status);
            watched.keep("Status as JSON", serde_json::to_string(&status).unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let ended = processor.run(Shutdown::never()).await;
    watching.abort();
    printed.debug("what run gives", &ended);
    let report = match &ended {
        Ok(report) => report,
        Err(error) => {
            printed.keep("RunError", error.to_string());
            assert!(matches!(error, RunError::Ended { .. }));
            error.report().unwrap()
        }
    };
    assert_eq!(ended.is_err(), fatal, "{report}");
    printed.debug("Report", report);
    printed.keep("Report", report.to_string());
    printed.keep("Report as JSON", serde_json::to_string(report).unwrap());
    assert_eq!(report.unsettled(), 0, "{report}");
    assert!(report.pipelines["handlers"].restarts >= 3, "{report}");

    let batch = [record(5, r#"{"n": 5, "secret": "s"}"#.to_owned())];
    printed.debug("Processed", &processor.process(batch).await);
}

/// What is printed without a run.
fn print_values(printed: &Printed) {
    for error in [
        StepError::from(Outer(Inner)),
        StepError::new(streambreaker::Class::Fatal, secret("text")),
        Err::<(), _>(BoxError::from(StepError::from(Outer(Inner)))).transient().unwrap_err(),
    ] {
        printed.debug("StepError", &error);
        printed.keep("StepError", error.to_string());
        printed.debug("a StepError on its way through a BoxError", &BoxError::from(error));
    }
    for error in [SourceError::transient(Outer(Inner)), SourceError::fatal(secret("text"))] {
        printed.debug("SourceError", &error);
        printed.keep("SourceError", error.to_string());
    }
    for error in [CommitError::transient(Outer(Inner)), CommitError::Fenced] {
        printed.debug("CommitError", &error);
        printed.keep("CommitError", error.to_string());
    }
    let mut log = OutcomeLog::new(2);
    log.outcomes().reject(0, secret("an item"));
    printed.debug("OutcomeLog", &log);
    printed.debug("Read", &Read::Records { records: records(), behind: Behind::unknown() });
    let source: BoxError = secret("a codec").into();
    let decode = Err::<(), _>(source).fault().unwrap_err();
    printed.debug("StepError of a codec", &decode);
    let _: fn(&DecodeError) -> String = |error| format!("{error:?}");
}

fn print_mistakes(printed: &Printed) {
    let mistake = Processor::builder("p")
        .faults(Faults::default())
        .pipeline("all", |flow| {
            if flow_is_built() {
                panic!("{}", secret("the function of a pipeline"));
            }
            flow.json::<Order>()
        })
        .build()
        .unwrap_err();
    printed.debug("BuildError", &mistake);
    printed.keep("BuildError", mistake.to_string());
    // a secret that slipped into the wrong field of a configuration
    let long = format!("postgres://u:{CANARY}@db.example.com/orders");
    let config = serde_json::json!({"processor": {"drain": long}}).to_string();
    let error = serde_json::from_str::<Config>(&config).unwrap_err();
    printed.debug("a configuration error", &error);
    printed.keep("a configuration error", error.to_string());
    assert!(error.to_string().contains("800ms"), "{error}");
}

fn flow_is_built() -> bool {
    true
}

#[test]
fn l12_a_secret_reaches_the_fault_event_and_nothing_else() {
    let heard = heard::Heard::default();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (faults, printed) = (Faults::default(), Printed::default());
    {
        let _listening = heard.listen();
        metrics::with_local_recorder(&recorder, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                run(false, &faults, &printed).await;
                run(
                    true,
                    &Faults { writes: Arc::new(AtomicU32::new(0)), ..faults.clone() },
                    &printed,
                )
                .await;
                print_values(&printed);
                print_mistakes(&printed);
            });
        });
    }
    let events = faults.events.lock().unwrap().clone();
    for event in &events {
        printed.debug("FaultEvent", event);
    }

    // it was there at all
    let texts: String = events
        .iter()
        .map(FaultEvent::to_json)
        .map(|json| String::from_utf8(json.to_vec()).unwrap())
        .collect();
    for place in [
        "an error",
        "the source of an error",
        "a transient error",
        "a throttled error",
        "a panic with a String",
        "a panic with a str",
        "what the classifier saw",
        "a payload",
        "a payload that is no JSON",
        "a field",
        "what could not be read",
        "a codec error",
        "a codec panic",
        "a validate error",
        "a validate panic",
        "a filter panic",
        "a map panic",
        "a try_map error",
        "a key panic",
        "a bulk item",
        "a bulk panic",
        "the envelope",
        "a header",
        "a key",
        "a trace",
    ] {
        assert!(
            texts.contains(&secret(place)) || texts.contains(&format!("{CANARY} in {place}")),
            "no fault tells of {place}"
        );
    }
    let stages: BTreeSet<&str> = events.iter().map(|event| event.pipeline.as_str()).collect();
    assert_eq!(stages.len(), 6, "{stages:?}");

    // and nowhere else
    for (what, text) in printed.0.lock().unwrap().iter() {
        assert!(!text.contains(CANARY), "{what} leaks: {text}");
    }
    let lines = heard.lines();
    for wanted in [
        "faults are set aside",
        "the source failed",
        "a commit did not go through",
        "the fault sink did not confirm",
        "the lane is built anew",
        "fatal error",
        "make no sense",
        "dropped undecided",
    ] {
        assert!(lines.iter().any(|line| line.message().contains(wanted)), "nobody said: {wanted}");
    }
    for line in &lines {
        for (name, value) in &line.fields {
            assert!(!name.contains(CANARY) && !value.contains(CANARY), "the log leaks: {line:?}");
        }
    }
    let series = snapshotter.snapshot().into_vec();
    assert!(series.len() > 30);
    for (key, _, description, _) in series {
        let key = key.key();
        assert!(!format!("{key:?} {description:?}").contains(CANARY), "a metric leaks: {key:?}");
    }
}
