//! What a broker does and what it does wrong, one rule a test.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::PausedClock;
use crate::record::{Position, ShardId, Timestamp};
use crate::sink::{OutcomeLog, Sink};
use crate::source::{Ack, Acker as _, Change, CommitError, Read, Reader as _, Room, Settled};
use crate::source::{Source, SourceError};

mod anything;
mod broker;
mod collecting;
mod owners;

const ROOM: Room = Room { records: 100, bytes: 1 << 20 };
const SECOND: Duration = Duration::from_secs(1);

async fn assigned(consumer: &mut Consumer) -> (Reader, Acker) {
    match consumer.next().await {
        Ok(Some(Change::Assigned { reader, acker, .. })) => (reader, acker),
        other => panic!("expected an assignment, got {other:?}"),
    }
}

async fn records(reader: &mut Reader) -> Vec<Record> {
    match reader.read(ROOM).await {
        Ok(Read::Records { records, .. }) => records,
        other => panic!("expected records, got {other:?}"),
    }
}

async fn positions(reader: &mut Reader) -> Vec<u64> {
    records(reader).await.iter().map(|r| r.position().as_u64().expect("a number")).collect()
}

fn at(n: u64) -> Position {
    Position::from(n)
}

fn filled(records: usize) -> Stream {
    let stream = Stream::new("s", 1);
    for n in 0..records {
        stream.push(format!("{n}"));
    }
    stream
}

async fn pending<T>(future: impl Future<Output = T>) -> bool {
    timeout(Duration::from_secs(3_600), future).await.is_err()
}
