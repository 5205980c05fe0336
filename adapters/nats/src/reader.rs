//! Reads one lane.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use streambreaker::source::{self, Read, Room, SourceError};

use crate::pull::Shared;

/// The reader of one lane of a [`NatsSource`](crate::NatsSource).
pub struct NatsReader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: usize,
}

#[async_trait]
impl source::Reader for NatsReader {
    /// Waits for records of its lane; for all lanes, while nobody else does.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let shared = &*self.shared;
        let lane = &shared.lanes[self.lane];
        loop {
            if let Some(read) = lane.take(room, shared.lanes.len()) {
                return Ok(read);
            }
            let goes_on = tokio::select! {
                biased;
                () = lane.news.notified() => true,
                turn = async { shared.pump.lock().await.turn(shared, room).await } => turn?,
            };
            if !goes_on {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for NatsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsReader({:?})", self.shared.lanes[self.lane])
    }
}
