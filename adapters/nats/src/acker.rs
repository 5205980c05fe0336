//! Acknowledges what one lane has settled.
//!
//! One decision shaped it: acknowledgements go out one by one without waiting, and the last one of a call asks for an
//! answer. A server takes what comes on a connection in order, and a consumer its acknowledgements too; so the answer to
//! the last confirms them all, if it was one connection all the while. If it was not, or no answer comes, the commit
//! counts as not done. (A consumer that moves to another server of a cluster in between may forget some that were
//! confirmed so: their records come again, none is lost.)

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::AckKind;
use async_nats::{Request, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use streambreaker::Position;
use streambreaker::source::{self, Ack, CommitError, Settled};
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::error::Trouble;
use crate::lane::Lane;
use crate::pull::Shared;

/// How long a source that is given up waits for what is on its way to it.
const LAST: Duration = Duration::from_secs(1);

/// The acker of one lane of a [`NatsSource`](crate::NatsSource).
pub struct NatsAcker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: usize,
}

impl NatsAcker {
    fn lane(&self) -> &Lane {
        &self.shared.lanes[self.lane]
    }

    /// Sends all of them, and waits until the server has taken the last.
    async fn send(&self, mut acks: Vec<(Subject, Bytes)>) -> Result<(), CommitError> {
        let shared = &*self.shared;
        let Some((last, kind)) = acks.pop() else { return Ok(()) };
        // in this order: a connection that is lost after the first look is seen by the last one
        let connects = shared.connects();
        if shared.client.connection_state() != State::Connected {
            return Err(CommitError::transient(Trouble::Disconnected));
        }
        // as many as there are to be sent, and the client takes: not as many as the runtime's budget for a turn, of which
        // the reader needs its part
        unconstrained(async {
            for (reply, kind) in acks {
                shared.client.publish(reply, kind).await.map_err(CommitError::transient)?;
            }
            Ok::<_, CommitError>(())
        })
        .await?;
        let request = Request::new().payload(kind);
        shared.client.send_request(last, request).await.map_err(CommitError::transient)?;
        if shared.connects() != connects {
            return Err(CommitError::transient(Trouble::Reconnected));
        }
        Ok(())
    }
}

fn kind_of(ack: Ack) -> Bytes {
    match ack {
        Ack::Faulted => AckKind::Term.into(),
        Ack::Again { after } => AckKind::Nak(Some(after)).into(),
        // `Done`, and what later versions may tell apart: it is settled
        _ => AckKind::Ack.into(),
    }
}

#[async_trait]
impl source::Acker for NatsAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let Settled::Each(settled) = settled else {
            return Err(CommitError::transient("JetStream acknowledges one by one"));
        };
        let lane = self.lane();
        let acks = lane.replies(settled.iter().map(|(position, ack)| (position, kind_of(*ack))));
        self.send(acks).await?;
        lane.close(settled.iter().map(|(position, _)| position));
        Ok(())
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        // what was delivered and cannot be read for want of room is held as well
        if let Ok(mut pump) = self.shared.pump.try_lock() {
            pump.take_in_what_is_there(&self.shared);
            pump.tell(&self.shared);
        }
        let lane = self.lane();
        let progress = Bytes::from(AckKind::Progress);
        let mut acks = lane.replies(held.iter().map(|position| (position, progress.clone())));
        acks.extend(lane.unread().into_iter().map(|reply| (reply, progress.clone())));
        self.send(acks).await
    }

    /// Gives back what was delivered and not settled, so that whoever shares the consumer has it at once.
    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        if self.shared.client.connection_state() == State::Connected {
            let stop = async { self.shared.pump.lock().await.stop(&self.shared).await };
            let _ = timeout(LAST, stop).await;
        }
        let open = self.lane().give_up();
        self.send(open.into_iter().map(|reply| (reply, AckKind::Nak(None).into())).collect()).await
    }
}

impl fmt::Debug for NatsAcker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsAcker({:?})", self.lane())
    }
}
