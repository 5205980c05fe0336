//! What consumers committed, kept for tests to look at.

use crate::record::{Position, ShardId};
use crate::source::{Ack, Settled};

/// One commit as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// The consumer group.
    pub group: String,
    /// The shard.
    pub shard: ShardId,
    /// The ownership that it came from: goes up with every assignment of the shard.
    pub ownership: u64,
    /// What was settled.
    pub what: What,
    /// What became of it.
    pub outcome: CommitOutcome,
}

/// What a commit said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Everything up to and with this position.
    Through(Position),
    /// These records.
    Each(Vec<(Position, Ack)>),
}

impl From<Settled<'_>> for What {
    fn from(settled: Settled<'_>) -> Self {
        match settled {
            Settled::Through(position) => What::Through(position.clone()),
            Settled::Each(acks) => What::Each(acks.to_vec()),
        }
    }
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitOutcome {
    /// It took effect.
    Applied,
    /// It took effect, but its caller was told that it failed.
    ReplyLost,
    /// It was made to fail.
    Failed,
    /// It came from someone who no longer owns the shard.
    Fenced,
}
