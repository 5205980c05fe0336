//! The data lake of [`streambreaker`]: every event stored with its whole wrapper, organised by stream; verified,
//! read with anybody's tools, replayed; and
//! what was set aside is sent again.
//!
//! ```
//! use std::time::Duration;
//! use streambreaker::prelude::*;
//! use streambreaker::{Processor, Shutdown, memory};
//! use streambreaker_lake::{Lake, LakeWriter};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let lake = Lake::local(&folder)?;
//! let store = Resource::builder("lake").timeout(Duration::from_secs(30)).build()?;
//! let processor = Processor::builder("lake-writer")
//!     .source(memory::stream([r#"{"id":"1","type":"order"}"#, "not even JSON"]))
//!     .faults(memory::faults())
//!     .pipeline("store", LakeWriter::new(&lake).pipeline(&store))
//!     .build()?;
//! processor.run(Shutdown::never()).await?;
//!
//! assert_eq!(lake.verify("memory").await?.records, 2);
//! # Ok(())
//! # }
//! ```
//!
//! | | |
//! |---|---|
//! | [`Lake`], [`Bounds`] | where it is, and how much of it is read at once |
//! | [`LakeWriter`] | stores: a [`Sink`](streambreaker::Sink) of records, run by an ordinary processor |
//! | [`Lake::verify`], [`Verification`], [`Finding`] | reads everything, and says what is wrong or missing |
//! | [`Lake::manifest`], [`Manifest`] | what is covered, by a look at the ends of the objects |
//! | [`Lake::replay`], [`LakeSource`], [`Selection`] | a [`Source`](streambreaker::Source) that yields what the stream yielded |
//! | [`Lake::dry_run`], [`Progress`] | how much that would be, and how far it is |
//! | [`FaultLake`], [`Lake::faults`] | where faults are kept, and found again |
//! | [`Lake::resubmit`], [`Resubmission`], [`Lake::lessons`] | sends faults to the pipeline that refused them, once; what there is to learn from them |
//! | [`Lake::with_keys`], [`KeyProvider`], [`Keys`] | seals payloads and faults |
//! | [`Redact`], [`unseal`] | takes fields out of events, or seals them, where they are produced |
//! | [`SCHEMA`], [`Footer`] | what an object looks like, for other tools |
//!
//! # When a record is confirmed
//!
//! An object holds thousands of records and closes seconds or minutes after the first of them; a sink confirms what it is
//! given, within a timeout. The two meet in the simplest way: a bulk request *is* one or more whole objects. The bulk
//! engine, which already decides for every sink when a request goes off (count, bytes, linger, the end of the input, a
//! drain, a reader at its limit), thereby decides when an object closes, and this crate only cuts a request where the hour
//! of arrival goes on. So nothing is held between two requests: a record is confirmed by the very write that it was given
//! to, a timeout leaves nothing half open, and the limits in flight bound what an object takes in memory.
//!
//! One request is in flight a shard, so objects of a shard are written in order. After a crash the same records may come
//! in other requests, thus in objects of other names; so before its first write to a shard a writer lists what is stored,
//! reads and verifies the object that covers a record that comes, and *adopts*: what is held byte for byte is confirmed, not
//! written again. Within a life, a write that ended in no answer is finished first, with the same bytes under the same
//! name. Names are made of shard, first and last position, and objects are created only where there is none, so a write
//! whose reply was lost finds its own object, and knows it by what is in it.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod assemble;
mod decode;
mod encode;
mod error;
mod faults;
mod format;
mod hints;
mod index;
mod lake;
mod ledger;
mod lessons;
mod manifest;
mod name;
mod pages;
mod parts;
mod read;
mod redact;
mod replay;
mod resubmit;
mod resubmit_report;
mod schema;
mod seal;
mod select;
mod sortable;
mod thrift;
mod verify;
mod writer;

pub use object_store;

pub use self::decode::Bounds;
pub use self::error::{Damage, LakeError};
pub use self::faults::{FaultLake, FaultScan, FaultSelection, FoundFaults};
pub use self::lake::Lake;
pub use self::ledger::{FaultState, LedgerEntry};
pub use self::lessons::Lesson;
pub use self::manifest::{Break, CoveredRange, Manifest, ManifestEntry};
pub use self::name::NameError;
pub use self::read::{Counts, Progress};
pub use self::redact::{Redact, unseal};
pub use self::replay::{DryRun, LakeAcker, LakeReader, LakeSource};
pub use self::resubmit::Resubmission;
pub use self::resubmit_report::{Refused, ResubmitReport};
pub use self::schema::{Footer, SCHEMA, SCHEMA_VERSION};
pub use self::seal::{Key, KeyError, KeyProvider, Keys};
pub use self::select::Selection;
pub use self::verify::{Finding, Verification};
pub use self::writer::LakeWriter;

/// The code of the README and of the chapter, so that it is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeProgram;

/// The code of the chapter.
#[cfg(doctest)]
#[doc = include_str!("../../docs/lake.md")]
pub struct Chapter;
