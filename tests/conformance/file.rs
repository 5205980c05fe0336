//! The file transport: a file that is followed until it is closed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use streambreaker::file::{self, Lines};
use streambreaker::{BoxError, FaultEvent, ResultExt, StepError};
use streambreaker_testkit::suite::sink::{self, SinkHarness};
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};
use streambreaker_testkit::suite::{Harness, fault_sink};
use streambreaker_testkit::{fault_sink_suite, sink_suite, source_suite};

/// A directory of one test.
fn directory() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("streambreaker-suite-{}-{n}", std::process::id()))
}

struct File {
    dir: PathBuf,
    closed: AtomicBool,
}

fn source() -> File {
    File { dir: directory(), closed: AtomicBool::new(false) }
}

impl Harness for File {
    async fn setup(&mut self) -> Result<(), BoxError> {
        std::fs::create_dir_all(&self.dir)?;
        std::fs::write(self.dir.join("events.ndjson"), "")?;
        Ok(())
    }

    async fn teardown(&mut self) -> Result<(), BoxError> {
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }
}

impl SourceHarness for File {
    type Source = file::Source;

    fn cannot(&self) -> Vec<Cannot> {
        use Cannot::*;
        // a line is all there is of an event
        let line = [Keys, LargeKeys, Headers, EmptyPayloads, LineEnds, Shards];
        let broker = [Gap, FailReads, Revoke, Lose, Reassign, Restart];
        line.into_iter().chain(broker).collect()
    }

    async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
        let plain = message.key.is_none() && message.headers.is_empty() && shard == 0;
        if !plain || message.payload.is_empty() || message.payload.contains(&b'\n') {
            return Err("a line without key and headers, in one file".into());
        }
        let mut file = OpenOptions::new().append(true).open(self.dir.join("events.ndjson"))?;
        Ok(file.write_all(&[&message.payload, &b"\n"[..]].concat())?)
    }

    async fn consumer(&self) -> Result<file::Source, BoxError> {
        Ok(file::Source::open(self.dir.join("events.ndjson"))
            .checkpoint(self.dir.join("checkpoint"))
            .follow(!self.closed.load(Ordering::Relaxed)))
    }

    async fn close(&self) -> Result<(), BoxError> {
        self.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

source_suite!(lines: source());

/// A file that is appended to, in a directory of its own.
struct Appended<T> {
    dir: PathBuf,
    open: fn(PathBuf) -> Result<Lines<T>, BoxError>,
    read: fn(PathBuf) -> Result<Vec<T>, BoxError>,
}

impl<T> Appended<T> {
    fn path(&self) -> PathBuf {
        self.dir.join("out.ndjson")
    }

    /// A directory in its place: nothing can be appended to that.
    fn block(&self) -> Result<(), BoxError> {
        std::fs::rename(self.path(), self.dir.join("away"))?;
        Ok(std::fs::create_dir(self.path())?)
    }

    fn unblock(&self) -> Result<(), BoxError> {
        std::fs::remove_dir(self.path())?;
        Ok(std::fs::rename(self.dir.join("away"), self.path())?)
    }
}

impl<T: 'static> Harness for Appended<T> {
    async fn setup(&mut self) -> Result<(), BoxError> {
        Ok(std::fs::create_dir_all(&self.dir)?)
    }

    async fn teardown(&mut self) -> Result<(), BoxError> {
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }
}

/// A line as it is, unless it is unfit.
fn encode(item: &str) -> Result<Vec<u8>, StepError> {
    match item.contains("unfit") {
        true => Err("it is unfit").fault(),
        false => Ok(item.as_bytes().to_vec()),
    }
}

fn appended() -> Appended<String> {
    Appended {
        dir: directory(),
        open: |path| Ok(Lines::open(path, |item: &String| encode(item))?),
        read: |path| Ok(std::fs::read_to_string(path)?.lines().map(str::to_owned).collect()),
    }
}

fn faults() -> Appended<FaultEvent> {
    Appended {
        dir: directory(),
        open: |path| Ok(file::faults(path)?),
        read: |path| file::read_faults(path)?.map(|fault| Ok(fault?)).collect(),
    }
}

impl SinkHarness for Appended<String> {
    type Item = String;
    type Sink = Lines<String>;

    fn cannot(&self) -> Vec<sink::Cannot> {
        vec![sink::Cannot::Deduplicate]
    }

    fn item(&self, n: usize) -> String {
        format!("item {n}")
    }

    fn hostile(&self) -> Vec<String> {
        vec!["two\nlines".into(), "\u{0}\u{feff}".into(), "unfit".into(), "x".repeat(1 << 20)]
    }

    async fn sink(&self) -> Result<Lines<String>, BoxError> {
        (self.open)(self.path())
    }

    async fn stored(&self) -> Result<Vec<String>, BoxError> {
        (self.read)(self.path())
    }

    fn too_large(&self) -> Option<String> {
        Some("x".repeat(8 << 20))
    }

    fn rejected(&self) -> Option<String> {
        Some("unfit".into())
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.block()
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.unblock()
    }
}

impl SinkHarness for Appended<FaultEvent> {
    type Item = FaultEvent;
    type Sink = Lines<FaultEvent>;

    fn cannot(&self) -> Vec<sink::Cannot> {
        vec![sink::Cannot::Deduplicate, sink::Cannot::Reject]
    }

    fn item(&self, n: usize) -> FaultEvent {
        fault_sink::fault(n)
    }

    async fn sink(&self) -> Result<Lines<FaultEvent>, BoxError> {
        (self.open)(self.path())
    }

    async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
        (self.read)(self.path())
    }

    fn too_large(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(5, 2 << 20))
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.block()
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.unblock()
    }
}

sink_suite!(appended_lines: appended());
fault_sink_suite!(appended_faults: faults());
