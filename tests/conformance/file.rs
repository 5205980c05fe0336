//! The file transport: a file that is followed until it is closed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use streambreaker::{BoxError, file};
use streambreaker_testkit::source_suite;
use streambreaker_testkit::suite::Harness;
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};

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
