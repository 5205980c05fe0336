//! Takes what is settled of one shard of a file.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::checkpoint::Checkpoint;
use crate::source::{self, CommitError, Settled};

/// The acker of one shard of a [`Source`](super::Source). Without a checkpoint it forgets what it is told.
pub struct Acker {
    checkpoint: Option<Arc<Checkpoint>>,
    shard: usize,
}

impl Acker {
    pub(super) fn new(checkpoint: Option<Arc<Checkpoint>>, shard: usize) -> Self {
        Self { checkpoint, shard }
    }
}

#[async_trait]
impl source::Acker for Acker {
    /// Durable when it returns. A smaller position than the last changes nothing.
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let Some(offset) = (match settled {
            Settled::Through(position) => position.as_u64(),
            Settled::Each(_) => None,
        }) else {
            return Err(CommitError::transient(
                "a file is settled by position, and that is a number",
            ));
        };
        let (Some(checkpoint), shard) = (self.checkpoint.clone(), self.shard) else {
            return Ok(());
        };
        spawn_blocking(move || checkpoint.settle(shard, offset))
            .await
            .map_err(CommitError::transient)?
    }

    /// Says that this life ended in peace, so that what it delivered does not count for it.
    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        let (Some(checkpoint), shard) = (self.checkpoint, self.shard) else { return Ok(()) };
        spawn_blocking(move || checkpoint.release(shard))
            .await
            .map_err(CommitError::transient)?
            .map_err(CommitError::transient)
    }
}
