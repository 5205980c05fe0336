//! The conformance suites of the testkit, held against the lake: its writer, its faults.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use streambreaker::source::{Change, Read, Reader, Room, Source};
use streambreaker::{BoxError, Delivery, FaultEvent, Position, Record};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, LakeWriter, Selection};
use streambreaker_testkit::suite::sink::{self, SinkHarness};
use streambreaker_testkit::suite::{Harness, fault_sink};
use streambreaker_testkit::{fault_sink_suite, sink_suite};
use support::{Fail, Shaky, TEN};

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
