//! Files: lines in, lines out, for everything that needs no broker.
//!
//! [`Source`] reads a file of one event a line (NDJSON, or whatever has a line an event), optionally
//! `.gz` or `.zst`, in shards by key, and goes on after a restart where its checkpoint says. [`Lines`]
//! appends one item a line and confirms nothing before `fsync`; [`faults`] is that for fault events,
//! [`read_faults`] reads them back.
//!
//! The decision that shaped this module: each shard makes its own pass over the file and skips the lines
//! of the others. One pass that feeds all shards would stand still as soon as one shard is at its limit,
//! and a shard that waits for a key behind it would wait for ever. Reading is cheap; for a compressed
//! file, every shard also unpacks it anew, and a restart unpacks up to the checkpoint.
//!
//! ```
//! use streambreaker::file;
//! use streambreaker::source::{Change, Read, Reader, Room, Source};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = std::env::temp_dir().join(format!("streambreaker-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! # let path = dir.join("orders.ndjson");
//! std::fs::write(&path, "{\"id\":\"a\",\"partitionKey\":\"k\"}\n{\"id\":\"b\"}\n")?;
//!
//! let mut source = file::Source::open(&path)
//!     .key_field("partitionKey")
//!     .checkpoint(dir.join("orders.checkpoint"));
//! let Some(Change::Assigned { mut reader, .. }) = source.next().await? else {
//!     panic!("one shard is assigned");
//! };
//! let Read::Records { records, .. } = reader.read(Room { records: 10, bytes: 1 << 20 }).await? else {
//!     panic!("there are records");
//! };
//! assert_eq!(records[0].key().map(|k| &k[..]), Some(&b"k"[..]));
//! assert_eq!(records[1].position().to_string(), "30");
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```

pub use self::acker::Acker;
pub use self::checkpoint::forget;
pub use self::error::FileError;
pub use self::faults::{FaultLineError, ReadFaults, faults, read_faults};
pub use self::reader::Reader;
pub use self::sink::Lines;
pub use self::source::Source;

mod acker;
mod checkpoint;
mod delivered;
mod durable;
mod error;
mod faults;
mod input;
mod key;
mod pass;
mod reader;
mod sink;
mod source;
mod splitter;
#[cfg(test)]
mod tests;
