//! Where records come from: the trait a transport implements to be read.
//!
//! A [`Source`] tells which shards this process owns; each shard comes with a [`Reader`], which yields
//! its records in order, and an [`Acker`], which takes what has been settled. The two are apart because
//! they work at the same time: a commit never interrupts a read.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::BoxError;
use crate::record::{Position, Record, ShardId};

/// The header of a record that its transport could not read: a line that is too long to be held, a
/// message whose body was lost. Its value says why, in words; its payload is empty, its position that
/// of the record that could not be read.
///
/// Such a record is no event: every pipeline faults it before its first stage, so that it is recorded
/// and passed like any other bad one; but for one that says
/// [`with_unreadable`](crate::Flow::with_unreadable). A transport sets this header only for that.
pub const UNREADABLE: &str = "streambreaker-unreadable";

/// Which of `shards` parts a key belongs to, for transports that distribute by key themselves.
///
/// The same for ever: checkpoints depend on it. FNV-1a of 64 bits (Fowler, Noll, Vo), folded so that
/// the high bits count, modulo `shards`. Zero shards are taken as one.
pub fn shard_of(key: &[u8], shards: usize) -> usize {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let folded = hash ^ (hash >> 32);
    usize::try_from(folded % (shards.max(1) as u64)).unwrap_or(0)
}

/// How a transport acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// By a position: everything up to and with it. What is returned stays, and is fed again by the
    /// lane (Kafka, Kinesis, files).
    Prefix,
    /// Record by record: what one pipeline returns is given back with a delay, and comes again to all of them (SQS, NATS,
    /// RabbitMQ).
    Each,
}

/// What a transport is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// How it acknowledges.
    pub acknowledge: Acknowledge,
    /// How long it waits for a record to be settled before it gives it to somebody else.
    pub deadline: Option<Duration>,
    /// Whether [`Acker::extend`] extends that deadline.
    pub extends: bool,
    /// Whether [`Record::deliveries`] counts, over the lives of processes.
    pub counts_deliveries: bool,
    /// How many records of a shard it hands out before one of them is settled, where it has such a limit.
    pub unsettled: Option<Unsettled>,
    /// The stream's name, as in [`Record::stream`].
    pub stream: String,
    /// The messaging system, as OpenTelemetry's `messaging.system` names it: `kafka`, `aws_sqs`, `memory`.
    pub system: &'static str,
}

/// A transport's own limit of what is handed out and not settled.
///
/// A processor that may hold more in flight than that would wait for records that never come: a group that is not
/// full, a limit that is not reached. So `build()` refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsettled {
    /// So many records of a shard, for this process.
    pub most: u64,
    /// What the transport calls it: `max_ack_pending`, `prefetch_count`.
    pub setting: &'static str,
}

impl Caps {
    /// A source with neither deadline nor delivery counts.
    pub fn new(system: &'static str, stream: impl Into<String>, acknowledge: Acknowledge) -> Self {
        Self {
            acknowledge,
            deadline: None,
            extends: false,
            counts_deliveries: false,
            unsettled: None,
            stream: stream.into(),
            system,
        }
    }

    /// With a deadline for settling, and whether `extend` moves it.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration, extends: bool) -> Self {
        self.deadline = Some(deadline);
        self.extends = extends;
        self
    }

    /// With delivery counts that outlive a process.
    #[must_use]
    pub fn with_delivery_counts(mut self) -> Self {
        self.counts_deliveries = true;
        self
    }

    /// With a limit of its own for what is handed out and not settled, for a shard of this process; `setting` is
    /// the transport's word for it.
    #[must_use]
    pub fn with_most_unsettled(mut self, most: u64, setting: &'static str) -> Self {
        self.unsettled = Some(Unsettled { most, setting });
        self
    }
}

/// Why a source could not be read.
///
/// `Debug` and `Display` leave out the error of the transport, which may hold secrets (an address with a
/// password): it is the [`source`](std::error::Error::source).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It may go better next time: tried again after a backoff, for as long as the processor runs.
    #[error("the source cannot be read just now; it is tried again")]
    Transient(#[source] BoxError),
    /// It will not go better: the processor drains and ends with this error.
    #[error("the source cannot be read, and trying again will not help; its cause says why")]
    Fatal(#[source] BoxError),
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceError::Transient(_) => "SourceError::Transient",
            SourceError::Fatal(_) => "SourceError::Fatal",
        })
    }
}

impl SourceError {
    /// [`SourceError::Transient`] of any error.
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self::Transient(error.into())
    }

    /// [`SourceError::Fatal`] of any error.
    pub fn fatal(error: impl Into<BoxError>) -> Self {
        Self::Fatal(error.into())
    }
}

/// Why a commit did not happen. Whatever it is, the commit counts as not done.
///
/// `Debug` and `Display` leave out the error of the transport, as those of [`SourceError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Tried again, with what is settled by then.
    #[error("the commit did not go through; it is made again")]
    Transient(#[source] BoxError),
    /// The shard belongs to someone else by now: it is given up at once.
    #[error("the shard belongs to another owner by now; it is given up")]
    Fenced,
}

impl fmt::Debug for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommitError::Transient(_) => "CommitError::Transient",
            CommitError::Fenced => "CommitError::Fenced",
        })
    }
}

impl CommitError {
    /// [`CommitError::Transient`] of any error.
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self::Transient(error.into())
    }
}

/// How much a reader may yield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Records; never zero.
    pub records: usize,
    /// Bytes of payload, key and headers. One record that is larger by itself may be yielded alone: the processor
    /// holds it back until there is room for it, or nothing else is in flight.
    pub bytes: usize,
}

/// How far what was read lies behind the end of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Behind {
    /// Records not yet read; `Some(0)` says that the end was reached.
    pub records: Option<u64>,
    /// The age of the oldest record not yet read, as the transport knows it.
    pub age: Option<Duration>,
}

impl Behind {
    /// The transport does not know.
    pub const fn unknown() -> Self {
        Self { records: None, age: None }
    }

    /// So many records are still to be read.
    pub const fn records(records: u64) -> Self {
        Self { records: Some(records), age: None }
    }
}

/// What a read yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum Read {
    /// Records in the order of their positions; none is an answer too ("nothing new").
    Records {
        /// The records.
        records: Vec<Record>,
        /// What is left behind them.
        behind: Behind,
    },
    /// Records that were never read are gone: the transport keeps them no longer.
    Gap {
        /// The first position that is missing.
        from: Position,
        /// The first position that is there again.
        to: Position,
    },
    /// There will be no more.
    End,
}

/// A change of what this process owns.
#[non_exhaustive]
pub enum Change<R, A> {
    /// A shard is this process's now.
    Assigned {
        /// Which.
        shard: ShardId,
        /// Reads it, from its checkpoint.
        reader: R,
        /// Takes what is settled.
        acker: A,
    },
    /// A shard goes to someone else: stop reading, settle, commit and release within `grace`.
    Revoking {
        /// Which.
        shard: ShardId,
        /// How long there is for it.
        grace: Duration,
    },
    /// A shard is gone already: cancel, commit nothing, fault nothing.
    Lost {
        /// Which.
        shard: ShardId,
    },
}

impl<R, A> fmt::Debug for Change<R, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Assigned { shard, .. } => write!(f, "Assigned({shard})"),
            Change::Revoking { shard, grace } => write!(f, "Revoking({shard}, {grace:?})"),
            Change::Lost { shard } => write!(f, "Lost({shard})"),
        }
    }
}

/// A transport to read from.
#[async_trait]
pub trait Source: Send + 'static {
    /// Reads a shard.
    type Reader: Reader;
    /// Acknowledges a shard's records.
    type Acker: Acker;

    /// What the transport is and can do. Asked before anything is read; must not change.
    fn caps(&self) -> Caps;

    /// The next change of ownership; `None` when there will be no more: the processor ends when all
    /// shards it owns have ended. Polled all the time, also in drain.
    ///
    /// # Errors
    /// `Transient`: called again after a backoff. `Fatal`: the processor drains and ends.
    ///
    /// # Cancel safety
    /// Must be cancel-safe: no change may be lost when the future is dropped. It is dropped whenever the processor has
    /// something else to do, ten times a second perhaps: work that takes longer than that has to be kept in the source and
    /// gone on with, or it never ends.
    async fn next(&mut self) -> Result<Option<Change<Self::Reader, Self::Acker>>, SourceError>;
}

/// Reads one shard in order.
#[async_trait]
pub trait Reader: Send + 'static {
    /// Waits for records and yields them, at most as many as there is room for.
    ///
    /// Positions go up from read to read, but for redeliveries.
    ///
    /// # Errors
    /// `Transient`: called again after a backoff. `Fatal`: the processor drains and ends.
    ///
    /// # Cancel safety
    /// Need not be cancel-safe: the future is dropped only when the shard is given up, never for a
    /// commit.
    async fn read(&mut self, room: Room) -> Result<Read, SourceError>;
}

/// What becomes of one record of a source that acknowledges one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ack {
    /// Settled: not to be delivered again.
    Done,
    /// Settled for good although it failed: its fault event is stored. As `Done`, for transports that
    /// tell the two apart.
    Faulted,
    /// Given back: to be delivered again, not sooner than `after`.
    Again {
        /// The delay.
        after: Duration,
    },
}

impl Ack {
    /// Whether the record is not to come again.
    pub(crate) fn settles(&self) -> bool {
        !matches!(self, Ack::Again { .. })
    }
}

/// What has been settled since the last call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Settled<'a> {
    /// Everything up to and with this position ([`Acknowledge::Prefix`]).
    Through(&'a Position),
    /// These records ([`Acknowledge::Each`]).
    Each(&'a [(Position, Ack)]),
}

/// Acknowledges the records of one shard. One call at a time.
#[async_trait]
pub trait Acker: Send + 'static {
    /// Makes durable that these are settled.
    ///
    /// # Errors
    /// `Transient`: tried again later, with what is settled by then. `Fenced`: the shard is given up.
    ///
    /// # Cancel safety
    /// When it is dropped, the commit counts as not done, whatever became of it.
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError>;

    /// Extends the deadline of these records. Called at a third of it, where [`Caps::extends`].
    ///
    /// # Errors
    /// As for `settle`.
    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        let _ = held;
        Ok(())
    }

    /// Gives the shard back, after the last `settle`.
    ///
    /// # Errors
    /// Reported, and otherwise without consequence.
    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        Ok(())
    }
}

#[async_trait]
impl Reader for Box<dyn Reader> {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        (**self).read(room).await
    }
}

#[async_trait]
impl Acker for Box<dyn Acker> {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        (**self).settle(settled).await
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        (**self).extend(held).await
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        (*self).release().await
    }
}

/// A source whose type has been erased, as the processor holds it.
pub type BoxSource = Box<dyn Source<Reader = Box<dyn Reader>, Acker = Box<dyn Acker>>>;

/// What a [`BoxSource`] tells of its ownership.
pub(crate) type BoxChange = Change<Box<dyn Reader>, Box<dyn Acker>>;

#[async_trait]
impl Source for BoxSource {
    type Reader = Box<dyn Reader>;
    type Acker = Box<dyn Acker>;

    fn caps(&self) -> Caps {
        (**self).caps()
    }

    async fn next(
        &mut self,
    ) -> Result<Option<Change<Box<dyn Reader>, Box<dyn Acker>>>, SourceError> {
        (**self).next().await
    }
}

struct Erased<S>(S);

#[async_trait]
impl<S: Source> Source for Erased<S> {
    type Reader = Box<dyn Reader>;
    type Acker = Box<dyn Acker>;

    fn caps(&self) -> Caps {
        self.0.caps()
    }

    async fn next(
        &mut self,
    ) -> Result<Option<Change<Box<dyn Reader>, Box<dyn Acker>>>, SourceError> {
        Ok(self.0.next().await?.map(|change| match change {
            Change::Assigned { shard, reader, acker } => Change::Assigned {
                shard,
                reader: Box::new(reader) as _,
                acker: Box::new(acker) as _,
            },
            Change::Revoking { shard, grace } => Change::Revoking { shard, grace },
            Change::Lost { shard } => Change::Lost { shard },
        }))
    }
}

/// Erases the type of a source.
pub fn boxed(source: impl Source) -> BoxSource {
    Box::new(Erased(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_shard_over_releases() {
        let shards: Vec<_> =
            ["", "a", "customer-7"].iter().map(|k| shard_of(k.as_bytes(), 16)).collect();
        // computed apart from this code
        assert_eq!(shards, [1, 0, 10]);
        assert_eq!(shard_of(b"any", 0), 0);
    }
}
