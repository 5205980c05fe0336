//! Lines in and out, over kills, hostile files and foreign checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::error::BoxError;
use crate::fault::FaultEvent;
use crate::record::{Position, Record, Timestamp};
use crate::sink::{OutcomeLog, Sink};
use crate::source::{Acker as _, Change, CommitError, Read, Reader as _, Room, Settled};
use crate::source::{Source as _, SourceError, UNREADABLE, shard_of};

mod appending;
mod checkpoint;
mod kills;
mod lines;

const ROOM: Room = Room { records: 1_000, bytes: 1 << 20 };

/// A directory that is gone after the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "streambreaker-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn with(content: impl AsRef<[u8]>) -> (Self, PathBuf) {
        let dir = Self::new();
        let file = dir.file("in.ndjson", content);
        (dir, file)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Shard = (Reader, Acker);

async fn open(mut source: Source) -> Vec<Shard> {
    let mut shards = Vec::new();
    while let Some(change) = source.next().await.expect("it opens") {
        let Change::Assigned { reader, acker, .. } = change else { panic!("an assignment") };
        shards.push((reader, acker));
    }
    shards
}

async fn one(source: Source) -> Shard {
    open(source).await.remove(0)
}

async fn read(reader: &mut Reader, room: Room) -> Option<Vec<Record>> {
    match reader.read(room).await.expect("a read") {
        Read::Records { records, .. } => Some(records),
        Read::End => None,
        other => panic!("unexpected {other:?}"),
    }
}

async fn all(reader: &mut Reader) -> Vec<Record> {
    let mut all = Vec::new();
    while let Some(records) = read(reader, ROOM).await {
        all.extend(records);
    }
    all
}

fn lines(records: &[Record]) -> Vec<(u64, String)> {
    let line = |r: &Record| {
        let text = String::from_utf8_lossy(r.payload()).into_owned();
        (r.position().as_u64().expect("a number"), text)
    };
    records.iter().map(line).collect()
}

async fn settle(acker: &mut Acker, record: &Record) -> Result<(), CommitError> {
    acker.settle(Settled::Through(record.position())).await
}

/// What is wrong with a source, with all its causes.
async fn refused(mut source: Source) -> String {
    let mut error: BoxError = match source.next().await {
        Err(SourceError::Fatal(error)) => error,
        Ok(Some(Change::Assigned { mut reader, .. })) => loop {
            match reader.read(ROOM).await {
                Err(SourceError::Fatal(error)) => break error,
                Ok(Read::Records { .. }) => {}
                other => panic!("expected a fatal error, got {other:?}"),
            }
        },
        other => panic!("expected a fatal error, got {other:?}"),
    };
    if let Some(file) = error.downcast_ref::<FileError>() {
        assert!(!file.path().as_os_str().is_empty());
        error = file.to_string().into();
    }
    error.to_string()
}
