//! By what records are told apart when they are counted.

use std::sync::Arc;

use uuid::Uuid;

use crate::record::{Delivery, ShardId};

/// What is counted by itself: a replay of a shard reads its records once more, and so does who sends a fault again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reading {
    stream: Arc<str>,
    shard: ShardId,
    /// Finite batches, which come in any order.
    finite: bool,
    cause: Cause,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Live,
    Replay(Uuid),
    Resubmit,
}

impl Reading {
    /// Of records that are delivered for this reason.
    pub(crate) fn new(stream: Arc<str>, shard: ShardId, finite: bool, delivery: &Delivery) -> Self {
        let cause = match delivery {
            Delivery::Live => Cause::Live,
            Delivery::Replay { run } => Cause::Replay(*run),
            Delivery::Resubmit { .. } => Cause::Resubmit,
        };
        Self { stream, shard, finite, cause }
    }

    /// Whether it is neither a replay nor a resubmission.
    pub(crate) fn is_live(&self) -> bool {
        self.cause == Cause::Live
    }
}
