//! A small component, a lake on disk and a file of faults for it, and commands given to it.
#![allow(dead_code)] // not every test file uses all of it

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use serde_json::Value;
use streambreaker::clock::Clock;
use streambreaker::prelude::*;
use streambreaker::{BoxError, OnExhausted, ProcessorBuilder, Record, Timestamp, file};
use streambreaker_lake::{FaultLake, Lake, LakeWriter};
use streambreaker_operator::{Command, Console, Exit, Operator, Task};
use tempfile::TempDir;
use tokio::sync::Notify;

#[derive(Clone, Deserialize)]
struct Order {
    id: String,
    n: u64,
}

/// Shows what it is told.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<AtomicI64>);

impl Hands {
    pub(crate) fn set(&self, time: &str) {
        self.0.store(time.parse::<Timestamp>().unwrap().as_micros(), Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Where the component keeps its faults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Keeps {
    Lake,
    File,
    /// And there is no lake.
    FileAlone,
}

#[derive(Clone)]
pub(crate) struct World {
    folder: Arc<TempDir>,
    pub(crate) keeps: Keeps,
    pub(crate) clock: Hands,
    /// A release later: round numbers are taken.
    pub(crate) mended: Arc<AtomicBool>,
    /// The index takes everything again.
    pub(crate) index_up: Arc<AtomicBool>,
    /// The index answers nothing, and says here that it was asked.
    pub(crate) index_hangs: Arc<AtomicBool>,
    pub(crate) index_asked: Arc<Notify>,
    /// What the pipelines did, in order: `totals:7`.
    pub(crate) done: Arc<Mutex<Vec<String>>>,
    pub(crate) tasks: Arc<Mutex<Vec<Task>>>,
}

#[derive(Parser)]
#[command(name = "orders")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// What stands on standard output, which is nothing but JSON: a document a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.exit, Exit::Done, "{}", self.err);
        self.document()
    }

    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{}\n{}", self.out, self.err);
        lines.remove(0)
    }

    /// That it ended so, and said all of this on standard error.
    #[track_caller]
    pub(crate) fn says(&self, exit: Exit, parts: &[&str]) {
        assert_eq!(self.exit, exit, "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} in {}", self.err);
        }
    }
}

pub(crate) const RECORDS: u64 = 40;

/// Order `n`; number 13 is none, and would clear a terminal.
pub(crate) fn record(n: u64) -> Record {
    let payload = match n {
        13 => "{\"id\":\"13\u{1b}[2J\u{9b}1m\"".to_owned(),
        n => format!(
            r#"{{"id":"{n}","type":"order-{}","n":{n}}}"#,
            if n % 2 == 0 { "even" } else { "odd" }
        ),
    };
    let arrival: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    Record::new("orders", (n % 2).to_string(), n.into(), payload)
        .with_key(format!("customer-{}", n % 5))
        .with_arrival(arrival.plus(Duration::from_secs(3_600 * n)))
}

pub(crate) fn records() -> Vec<Record> {
    (0..RECORDS).map(record).collect()
}

impl World {
    pub(crate) fn new(keeps: Keeps) -> Self {
        let world = Self {
            folder: Arc::new(tempfile::tempdir().unwrap()),
            keeps,
            clock: Hands::default(),
            mended: Arc::default(),
            index_up: Arc::default(),
            index_hangs: Arc::default(),
            index_asked: Arc::default(),
            done: Arc::default(),
            tasks: Arc::default(),
        };
        world.clock.set("2026-11-26T12:00:00Z");
        world
    }

    /// With the records in the lake, and their faults where they are kept.
    pub(crate) async fn with_faults(keeps: Keeps) -> Self {
        Self::faulted(keeps, RECORDS).await
    }

    /// The same of so many records, of which the first are in the lake.
    pub(crate) async fn faulted(keeps: Keeps, records: u64) -> Self {
        let world = Self::new(keeps);
        if keeps != Keeps::FileAlone {
            world.store().await;
        }
        world.clock.set("2026-11-26T08:00:00Z");
        let component = world.component(Task::Run).unwrap().build().unwrap();
        let outcome = component.process((0..records).map(record)).await;
        // 13 in both; every tenth in one; 33 in the other
        assert_eq!(outcome.faults.len() as u64, 2 + records / 10 + 1);
        world.clock.set("2026-11-26T12:00:00Z");
        world.take_done();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn lake(&self) -> Lake {
        Lake::local(self.path("lake")).unwrap()
    }

    pub(crate) fn faults_file(&self) -> PathBuf {
        self.path("faults.ndjson")
    }

    /// What the pipelines did since the last time, sorted.
    pub(crate) fn take_done(&self) -> Vec<String> {
        let mut done = std::mem::take(&mut *self.done.lock().unwrap());
        done.sort();
        done
    }

    /// Everything that lies in its folder: path and bytes.
    pub(crate) fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    found.insert(path.clone(), Vec::new());
                    walk(&path, found);
                } else {
                    found.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.folder.path(), &mut found);
        found
    }

    /// Stores all records in the lake.
    pub(crate) async fn store(&self) {
        self.store_all(records()).await;
    }

    pub(crate) async fn store_all(&self, records: Vec<Record>) {
        self.store_in(&self.lake(), records).await;
    }

    pub(crate) async fn store_in(&self, lake: &Lake, records: Vec<Record>) {
        let store = Resource::builder("lake").timeout(Duration::from_secs(30)).build().unwrap();
        let writer = LakeWriter::new(lake).hours(12);
        let processor = Processor::builder("lake-writer")
            .faults(streambreaker::memory::faults())
            .pipeline("store", writer.pipeline(&store))
            .build()
            .unwrap();
        let count = records.len();
        assert_eq!(processor.process(records).await.settled.len(), count);
    }

    pub(crate) fn component(&self, task: Task) -> Result<ProcessorBuilder, BoxError> {
        self.tasks.lock().unwrap().push(task);
        let index = Resource::builder("index")
            .timeout(Duration::from_secs(1))
            .retry(Retry::none())
            .on_exhausted(OnExhausted::Fault)
            .breaker(Breaker::failure_ratio(0.9).on_open(OnOpen::Pause))
            .build()?;
        let mended = self.mended.load(Ordering::SeqCst);
        let index_up = self.index_up.load(Ordering::SeqCst);
        let index_hangs = self.index_hangs.load(Ordering::SeqCst);
        let index_asked = self.index_asked.clone();
        let builder = Processor::builder("orders")
            .release(if mended { "1.4.3" } else { "1.4.2" })
            .clock(self.clock.clone());
        let builder = match self.keeps {
            Keeps::Lake => builder.faults(FaultLake::new(&self.lake())),
            _ => builder.faults(file::faults(self.faults_file())?),
        };
        let (totals, search) = (self.done.clone(), self.done.clone());
        Ok(builder
            .pipeline("totals", move |flow| {
                let done = totals.clone();
                flow.json::<Order>()
                    .validate(move |order: &Order| match mended || order.n % 10 != 0 {
                        true => Ok(()),
                        false => Err("a round number"),
                    })
                    .inspect(move |order| done.lock().unwrap().push(format!("totals:{}", order.n)))
            })
            .pipeline("search", move |flow| {
                let (done, asked) = (search.clone(), index_asked.clone());
                flow.json::<Order>().call(&index, async move |order: &Event<Order>| {
                    if index_hangs {
                        asked.notify_one();
                        std::future::pending::<()>().await;
                    }
                    if order.n == 33 && !index_up {
                        return Err("the index is full").transient();
                    }
                    done.lock().unwrap().push(format!("search:{}", order.n));
                    Ok(())
                })
            }))
    }

    pub(crate) fn operator(
        &self,
    ) -> Operator<impl AsyncFn(Task) -> Result<ProcessorBuilder, BoxError> + use<>> {
        let world = self.clone();
        let operator = Operator::new("orders", async move |task| world.component(task))
            .clock(self.clock.clone());
        let operator = match self.keeps {
            Keeps::FileAlone => operator,
            _ => operator.lake_in(self.path("lake")),
        };
        match self.keeps {
            Keeps::Lake => operator,
            _ => operator.faults_in(self.faults_file()),
        }
    }

    pub(crate) fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn raise_index(&self) {
        self.index_up.store(true, Ordering::SeqCst);
        self.index_hangs.store(false, Ordering::SeqCst);
    }

    pub(crate) fn hang_index(&self) {
        self.index_hangs.store(true, Ordering::SeqCst);
    }

    /// Gives it a command, word by word.
    pub(crate) async fn ask(&self, words: &[&str]) -> Ran {
        given(&self.operator(), words).await
    }
}

pub(crate) async fn given<F>(operator: &Operator<F>, words: &[&str]) -> Ran
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    let line = Line::try_parse_from(std::iter::once(&"orders").chain(words));
    let command = match line {
        Ok(Line { command }) => command,
        // as `parse` ends a process
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Unusable } else { Exit::Done };
            let text = error.to_string();
            return match exit {
                Exit::Done => Ran { exit, out: text, err: String::new() },
                _ => Ran { exit, out: String::new(), err: text },
            };
        }
    };
    let (mut console, out, err) = Console::captured();
    let exit = operator.execute_on(command, &mut console).await;
    Ran { exit, out: out.text(), err: err.text() }
}

/// The ids in a list.
pub(crate) fn ids(list: &Value) -> Vec<String> {
    let of = |fault: &Value| fault["id"].as_str().unwrap().to_owned();
    list["faults"].as_array().unwrap().iter().map(of).collect()
}
