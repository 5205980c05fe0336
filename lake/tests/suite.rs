//! The conformance suites of the testkit, held against the lake: its writer, its faults, its replay.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::Mutex;
use std::time::Duration;

use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Change, Read, Reader, Room, Source};
use streambreaker::{BoxError, Delivery, FaultEvent, Position, Record};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, LakeSource, LakeWriter, Selection};
use streambreaker_testkit::suite::sink::{self, SinkHarness};
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};
use streambreaker_testkit::suite::{Harness, fault_sink};
use streambreaker_testkit::{fault_sink_suite, sink_suite, source_suite};
use support::{Fail, Shaky, TEN};
use uuid::Uuid;

/// More failures than any rule waits for.
const DOWN: usize = 1_000;

fn down(store: &Shaky) {
    store.writes(std::iter::repeat_n(Fail::Throttled, DOWN));
}

/// Every record of a stream, as a replay yields it.
async fn replayed(lake: &Lake, stream: &str) -> Result<Vec<Record>, BoxError> {
    let mut source = lake.replay(Selection::of(stream));
    let mut all = Vec::new();
    while let Some(change) = source.next().await? {
        let Change::Assigned { mut reader, .. } = change else { unreachable!("a lake assigns") };
        while let Read::Records { records, .. } =
            reader.read(Room { records: 1_000, bytes: 1 << 30 }).await?
        {
            all.extend(records.into_iter().map(|record| record.with_delivery(Delivery::Live)));
        }
    }
    Ok(all)
}

#[derive(Default)]
struct Writes(Shaky);

impl Harness for Writes {}

impl SinkHarness for Writes {
    type Item = Record;
    type Sink = LakeWriter;

    fn item(&self, n: usize) -> Record {
        support::record("orders", "0", n as u64)
    }

    fn hostile(&self) -> Vec<Record> {
        let at = |n: u64, payload: &'static [u8]| {
            Record::new("orders", "0", Position::from(10_000 + n), payload).with_arrival(TEN)
        };
        vec![
            at(0, b""),
            at(1, b"\xff\x00\n\r"),
            at(2, b"x").with_key("").with_header("", ""),
            at(3, b"x")
                .with_key(&b"\xff\x00"[..])
                .with_header("a", "1")
                .with_header("a", &b"\xfe"[..]),
            at(4, br#"{"id":"a\u0000b","type":"","timestamp":-1}"#),
            Record::new("orders", "a-b/../ä", Position::from(1), "x").with_arrival(TEN),
            Record::new("orders", "", Position::from(1), "x").with_arrival(TEN),
            Record::new("orders", "0", "m-1".parse().unwrap(), "x").with_arrival(TEN),
        ]
    }

    fn too_large(&self) -> Option<Record> {
        Some(Record::new("orders", "0", Position::from(9_999), vec![b'x'; 64 << 20]).with_key("k"))
    }

    fn rejected(&self) -> Option<Record> {
        // of which no folder can be named
        Some(Record::new("orders", "x".repeat(97), Position::from(1), "x"))
    }

    async fn sink(&self) -> Result<LakeWriter, BoxError> {
        Ok(LakeWriter::new(&self.0.lake()).records(1_000))
    }

    async fn stored(&self) -> Result<Vec<Record>, BoxError> {
        replayed(&self.0.lake(), "orders").await
    }

    async fn down(&self) -> Result<(), BoxError> {
        down(&self.0);
        Ok(())
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.writes_as_ever();
        Ok(())
    }
}

sink_suite!(writes: Writes::default());

#[derive(Default)]
struct Faults(Shaky);

impl Faults {
    async fn of(&self, stream: &str) -> Result<Vec<FaultEvent>, BoxError> {
        let found = self.0.lake().faults(&FaultSelection::of(stream)).await?;
        assert!(found.damaged.is_empty(), "{found:?}");
        Ok(found.faults)
    }
}

impl Harness for Faults {}

impl SinkHarness for Faults {
    type Item = FaultEvent;
    type Sink = FaultLake;

    fn cannot(&self) -> Vec<sink::Cannot> {
        // the answer is by time, and the suite's faults have one time
        vec![sink::Cannot::KeepOrder, sink::Cannot::Reject]
    }

    fn item(&self, n: usize) -> FaultEvent {
        fault_sink::fault(n)
    }

    fn too_large(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(3, 24 << 20))
    }

    async fn sink(&self) -> Result<FaultLake, BoxError> {
        Ok(FaultLake::new(&self.0.lake()))
    }

    async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
        let mut all = Vec::new();
        let (streams, foreign) = self.0.lake().streams().await?;
        assert!(foreign.is_empty(), "{foreign:?}");
        for stream in streams {
            all.extend(self.of(&stream).await?);
        }
        Ok(all)
    }

    async fn down(&self) -> Result<(), BoxError> {
        down(&self.0);
        Ok(())
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.writes_as_ever();
        Ok(())
    }
}

fault_sink_suite!(keeps_faults: Faults::default());

/// A replay that is resumed: each message is an object of its own.
struct Replays {
    store: Shaky,
    writer: LakeWriter,
    stored: Mutex<u64>,
}

fn replays() -> Replays {
    let store = Shaky::default();
    let writer = LakeWriter::new(&store.lake());
    Replays { store, writer, stored: Mutex::new(0) }
}

impl Harness for Replays {}

impl SourceHarness for Replays {
    type Source = LakeSource;

    fn cannot(&self) -> Vec<Cannot> {
        use Cannot::*;
        // nobody owns a shard of a lake, and one without records is none
        vec![Follow, Shards, Fence, Revoke, Lose, Reassign, Restart]
    }

    async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
        if shard > 0 {
            return Err("there is one shard only".into());
        }
        let n = {
            let mut stored = self.stored.lock().unwrap();
            *stored += 1;
            *stored
        };
        let mut record = Record::new("orders", "0", Position::from(n), message.payload.clone())
            .with_arrival(TEN.plus(Duration::from_secs(60 * n)));
        if let Some(key) = &message.key {
            record = record.with_key(key.clone());
        }
        for (name, value) in &message.headers {
            record = record.with_header(name.as_str(), value.clone());
        }
        let mut log = OutcomeLog::new(1);
        self.writer.write(&[record], &mut log.outcomes()).await?;
        if log.is_done(0) { Ok(()) } else { Err("it is not stored".into()) }
    }

    async fn consumer(&self) -> Result<LakeSource, BoxError> {
        Ok(self.store.lake().replay(Selection::of("orders")).resumable(Uuid::from_u128(7)))
    }

    async fn close(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// As whoever deletes by age does: folder by folder.
    async fn forget(&self, count: usize) -> Result<(), BoxError> {
        let objects = self.store.created().into_iter().filter(|path| path.ends_with(".parquet"));
        for path in objects.take(count) {
            self.store.remove(&path).await;
        }
        Ok(())
    }

    async fn fail_reads(&self, times: u32) -> Result<(), BoxError> {
        self.store.reads_fail(times as usize);
        Ok(())
    }
}

source_suite!(replays: replays());
