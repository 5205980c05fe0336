//! Rule O6: keys that have passed leave nothing behind.
//!
//! A test binary of its own, with one test that counts, as the allocator counts for the whole process.

#![allow(clippy::unwrap_used)] // a test may

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker::source::{
    Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled, SourceError,
};
use streambreaker::{Position, Record, Source};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Numbers without end, each a key of its own; nothing of them is kept here. Told by what is committed and what
/// may be read.
struct Keys {
    given: bool,
    allowed: watch::Receiver<u64>,
    committed: Arc<watch::Sender<u64>>,
}

struct KeyReader(u64, watch::Receiver<u64>);

struct KeyAcker(Arc<watch::Sender<u64>>);

#[async_trait]
impl Reader for KeyReader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let next = self.0;
        let allowed = *self.1.wait_for(|allowed| *allowed > next).await.unwrap();
        let end = allowed.min(next + room.records.min(1_000) as u64);
        let record = |n: u64| Record::new("keys", "0", Position::from(n), n.to_string());
        self.0 = end;
        Ok(Read::Records { records: (next..end).map(record).collect(), behind: Behind::unknown() })
    }
}

#[async_trait]
impl Acker for KeyAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let Settled::Through(position) = settled else { panic!("a prefix") };
        self.0.send_replace(position.as_u64().unwrap() + 1);
        Ok(())
    }
}

#[async_trait]
impl Source for Keys {
    type Reader = KeyReader;
    type Acker = KeyAcker;

    fn caps(&self) -> Caps {
        Caps::new("test", "keys", Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<KeyReader, KeyAcker>>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            std::future::pending::<()>().await;
        }
        let reader = KeyReader(0, self.allowed.clone());
        let acker = KeyAcker(self.committed.clone());
        Ok(Some(Change::Assigned { shard: "0".into(), reader, acker }))
    }
}

#[tokio::test(start_paused = true)]
async fn o6_a_million_distinct_keys_leave_nothing_behind() {
    let (allow, allowed) = watch::channel(0);
    let (committed, mut done) = watch::channel(0);
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).seed(1).build().unwrap();
    let processor = Processor::builder("p")
        .source(Keys { given: false, allowed, committed: Arc::new(committed) })
        .faults(memory::faults())
        .pipeline("keys", move |flow| {
            let number = |record: &streambreaker::Received| -> u64 {
                std::str::from_utf8(record.payload()).unwrap().parse().unwrap()
            };
            let window = Window::items(10).linger(Duration::from_millis(1));
            flow.parallel_by_key(8, number, &db, async |record: &streambreaker::Received| {
                // some wait, so that keys are remembered for a while
                if record.payload().ends_with(b"0") {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(record.position().as_u64().unwrap())
            })
            .group_by(|n| *n, window)
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    let region = Region::new(ALLOCATOR);
    let mut held = Vec::new();
    for keys in [100_000, 1_000_000u64] {
        allow.send_replace(keys);
        done.wait_for(|done| *done == keys).await.unwrap();
        // what is settled is let go of by the lane a turn later
        tokio::time::sleep(Duration::from_secs(5)).await;
        let change = region.change();
        held.push(change.bytes_allocated as i64 - change.bytes_deallocated as i64);
    }
    let more = held[1] - held[0];
    assert!(more < 64 << 10, "{more} bytes are held for 900,000 keys that have passed: {held:?}");
    run.abort();
}
