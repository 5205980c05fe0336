//! Settlement: how it is known what became of every record.
//!
//! A batch is what one read yielded; it is shared by all lanes of its shard. Each lane keeps one word of
//! state a record beside it, which only that lane's units write, so pipelines share no cache line and
//! tracking an event allocates nothing. A unit of work points into the batch; deciding it writes the word;
//! dropping it undecided writes *returned*. The commit position is the least of the lanes' settled prefixes.

pub(crate) use self::batch::{Batch, Count, FaultedPart, LaneBatch, Survey, Ticket};
pub use self::fate::Fate;
pub(crate) use self::history::{History, Tally};
pub use self::lane::WaitsFor;
pub(crate) use self::lane::{Flag, LaneState, Lines, PipelineInfo, Place, StageInfo, Turn};
pub(crate) use self::report::printable;
pub use self::report::{FaultKind, Gap, PassedBy, PipelineReport, Report};
pub(crate) use self::tracker::{Standing, Tracker};

mod batch;
mod fate;
#[cfg(all(test, loom))]
mod handover;
mod history;
mod lane;
mod positions;
mod report;
mod tracker;

#[cfg(test)]
pub(crate) mod tests;
