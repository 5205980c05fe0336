//! A stream in memory: for tests, examples, and hosts that have their records at hand.
//!
//! It behaves as a broker does, not as a `Vec` does: it has shards, positions that outlive the consumer,
//! owners that can be fenced, both ways of acknowledging, and on demand every failure a broker has
//! ([`Inject`]). Code that is right with it has few surprises left with a real one.
//!
//! One line where only the records matter:
//!
//! ```
//! let source = streambreaker::memory::stream([r#"{"id":"a"}"#, r#"{"id":"b"}"#]);
//! # let _ = source;
//! ```
//!
//! A [`Stream`] where more than one life of a processor matters:
//!
//! ```
//! use streambreaker::memory::Stream;
//! use streambreaker::source::{Acker, Change, Read, Reader, Room, Settled, Source};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stream = Stream::new("orders", 1);
//! stream.push("one");
//! stream.push("two");
//!
//! let mut consumer = stream.consumer("totals");
//! let Some(Change::Assigned { mut reader, mut acker, .. }) = consumer.next().await? else {
//!     panic!("one shard is assigned");
//! };
//! let Read::Records { records, .. } = reader.read(Room { records: 10, bytes: 1 << 20 }).await? else {
//!     panic!("there are records");
//! };
//! acker.settle(Settled::Through(records[0].position())).await?;
//!
//! // the position outlives the consumer
//! assert_eq!(stream.committed("totals", 0).as_ref(), Some(records[0].position()));
//! # Ok(())
//! # }
//! ```

use bytes::Bytes;

use crate::fault::FaultEvent;
use crate::record::Record;

pub use self::acker::Acker;
pub use self::collect::{Collect, Response, Verdict};
pub use self::commits::{Commit, CommitOutcome, What};
pub use self::consumer::Consumer;
pub use self::inject::Inject;
pub use self::reader::Reader;
pub use self::stream::{PushError, Stream};

mod acker;
mod collect;
mod commits;
mod consumer;
mod group;
mod inject;
mod log;
mod reader;
mod rebalance;
mod stream;
#[cfg(test)]
mod tests;

/// A source of these payloads and no more: one shard, acknowledged by position, ending after the last.
///
/// The stream is called `memory`, positions count from 0.
pub fn stream<I>(payloads: I) -> Consumer
where
    I: IntoIterator,
    I::Item: Into<Bytes>,
{
    let stream = Stream::new("memory", 1);
    for payload in payloads {
        stream.push(payload);
    }
    stream.close();
    stream.consumer("memory").alone()
}

/// A source of these records and no more, exactly as they are: their shards become its shards, in the
/// order in which they come first.
///
/// # Errors
/// [`PushError::Order`] when the positions of a shard do not go up.
pub fn records(records: impl IntoIterator<Item = Record>) -> Result<Consumer, PushError> {
    let records: Vec<Record> = records.into_iter().collect();
    let name = records.first().map_or("memory", Record::stream).to_owned();
    let mut shards = Vec::new();
    for record in &records {
        if !shards.contains(record.shard()) {
            shards.push(record.shard().clone());
        }
    }
    let stream = Stream::with_shards(name, shards);
    for record in records {
        stream.push_record(record)?;
    }
    stream.close();
    Ok(stream.consumer("memory").alone())
}

/// A fault sink that keeps its events in memory: [`Collect::events`] shows them.
pub fn faults() -> Collect<FaultEvent> {
    Collect::sized(|event: &FaultEvent| event.to_json().len())
}
