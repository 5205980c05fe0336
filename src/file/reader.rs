//! Reads one shard of a file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::{JoinError, spawn_blocking};

use super::checkpoint::Checkpoint;
use super::error::FileError;
use super::pass::{Filled, Pass, Spec};
use crate::source::{self, Behind, Read, Room, SourceError};

/// The reader of one shard of a [`Source`](super::Source). It reads on threads that may block.
pub struct Reader {
    spec: Arc<Spec>,
    shard: usize,
    checkpoint: Option<Arc<Checkpoint>>,
    died_at: Arc<[u64]>,
    /// Where the line begins that was yielded last.
    after: Option<u64>,
    /// Missing before the first read, and after one that failed or was dropped.
    pass: Option<Box<Pass>>,
    poll_every: Duration,
    told_end: bool,
}

impl Reader {
    pub(super) fn new(
        spec: Arc<Spec>,
        shard: usize,
        checkpoint: Option<Arc<Checkpoint>>,
        poll_every: Duration,
    ) -> Self {
        let died_at = checkpoint.as_ref().map_or_else(Vec::new, |c| c.died_at(shard)).into();
        let after = checkpoint.as_ref().and_then(|c| c.settled(shard));
        let (pass, told_end) = (None, false);
        Self { spec, shard, checkpoint, died_at, after, pass, poll_every, told_end }
    }

    async fn fill(&mut self, room: Room) -> Result<Filled, SourceError> {
        let pass = self.pass.take();
        let (spec, shard, after) = (self.spec.clone(), self.shard, self.after);
        let (died_at, checkpoint) = (self.died_at.clone(), self.checkpoint.clone());
        let job = move || -> Result<(Box<Pass>, Filled), FileError> {
            let mut pass = match pass {
                Some(pass) => pass,
                None => Box::new(Pass::open(spec, shard, died_at, after)?),
            };
            let filled = pass.fill(room)?;
            if let (Some(checkpoint), Filled::Batch(records)) = (checkpoint, &filled) {
                let last = records.last().and_then(|record| record.position().as_u64());
                checkpoint.delivered(shard, last.map_or(0, |last| last.saturating_add(1)))?;
            }
            Ok((pass, filled))
        };
        let (pass, filled) = spawn_blocking(job).await.map_err(join_error)??;
        self.pass = Some(pass);
        Ok(filled)
    }
}

pub(super) fn join_error(error: JoinError) -> SourceError {
    // a panic would come again; cancelled is only what a runtime had no time for at its end
    if error.is_panic() { SourceError::fatal(error) } else { SourceError::transient(error) }
}

#[async_trait]
impl source::Reader for Reader {
    /// At the end of a file that is followed it says so once, with an empty batch, then looks for more
    /// now and then.
    ///
    /// # Cancel safety
    /// Cancel-safe: the next read begins behind the last record that was yielded.
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        loop {
            match self.fill(room).await? {
                Filled::Batch(records) => {
                    self.told_end = false;
                    self.after = records.last().and_then(|r| r.position().as_u64()).or(self.after);
                    return Ok(Read::Records { records, behind: Behind::unknown() });
                }
                Filled::Nothing => {}
                Filled::End if !self.spec.follow => return Ok(Read::End),
                Filled::End if !self.told_end => {
                    self.told_end = true;
                    return Ok(Read::Records { records: Vec::new(), behind: Behind::records(0) });
                }
                Filled::End => tokio::time::sleep(self.poll_every).await,
            }
        }
    }
}
