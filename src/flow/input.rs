//! The head of every flow: yields the records of its lane's batches, each once an epoch.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Flow, Stage};
use crate::record::Position;
use crate::settle::{Flag, LaneBatch, LaneState};
use crate::unit::{Lineage, Received, Uow};

/// What outlives a flow: the batches that are not settled, and where new ones come from.
pub(crate) struct Feed {
    batches: VecDeque<Arc<LaneBatch>>,
    /// The batch that is fed at present, and the next record in it: at hand, so that a record costs no look
    /// into the queue.
    present: Option<Arc<LaneBatch>>,
    index: u32,
    /// Up to where the records of the present batch need no gate: all of them, or none.
    open: u32,
    /// The next batch to be fed.
    next: usize,
    more: UnboundedReceiver<Arc<LaneBatch>>,
    ended: bool,
    epoch: u32,
    gate: Gate,
    thin_at: usize,
}

/// So many batches are never looked through.
const THIN_FROM: usize = 16;

/// What is asked before a record of a gated batch enters the flow: batch, index and epoch, and whether the flow takes
/// what could not be read.
pub(crate) type Gate =
    Box<dyn FnMut(&Arc<LaneBatch>, u32, u32, bool, &mut Context<'_>) -> Entry + Send>;

/// What a gate says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It enters.
    Open,
    /// Not yet; the waker is registered.
    Wait,
    /// The gate has decided it.
    Taken,
}

impl Feed {
    pub(crate) fn new(more: UnboundedReceiver<Arc<LaneBatch>>, gate: Gate) -> Box<Self> {
        Box::new(Self {
            batches: VecDeque::new(),
            present: None,
            index: 0,
            open: 0,
            next: 0,
            more,
            ended: false,
            epoch: 0,
            gate,
            thin_at: THIN_FROM,
        })
    }

    /// Begins a new epoch: everything that is not settled is fed again, in log order.
    pub(crate) fn rewind(&mut self, epoch: u32) {
        self.batches.retain(|batch| batch.open() > 0);
        self.present = None;
        self.open = 0;
        self.next = 0;
        self.epoch = epoch;
    }

    /// Where the oldest record lies that is not settled.
    pub(crate) fn oldest(&self) -> Option<Position> {
        let batch = self.batches.iter().find(|batch| batch.open() > 0)?;
        let index = (0..batch.len()).find(|index| !batch.is_settled(*index))?;
        Some(batch.batch.records[index].position().clone())
    }

    /// Whether nothing of what has been fed is open.
    pub(crate) fn is_settled(&self) -> bool {
        self.batches.iter().all(|batch| batch.open() == 0)
    }

    /// Whether everything has been fed, and nothing more will come.
    pub(crate) fn is_over(&mut self) -> bool {
        self.ended
            && self.next == self.batches.len()
            && self.present.as_ref().is_none_or(|batch| self.index as usize == batch.len())
    }

    /// Lets go of what is settled although something before it is not: where records are acknowledged one by
    /// one, what comes behind a stuck one knows no limit but its own. Looks at all only when they have doubled.
    fn thin(&mut self) {
        if self.batches.len() < self.thin_at {
            return;
        }
        let fed = self.next;
        let (mut index, mut gone) = (0, 0);
        self.batches.retain(|batch| {
            let keep = index >= fed || batch.open() > 0;
            gone += usize::from(!keep);
            index += 1;
            keep
        });
        self.next -= gone;
        self.thin_at = (self.batches.len() * 2).max(THIN_FROM);
    }

    /// Looks whether the next record enters the flow, where that cannot be told at a glance.
    #[cold]
    #[inline(never)]
    fn look(&mut self, lane: &LaneState, unreadable: bool, cx: &mut Context<'_>) -> Look {
        if lane.has(STOPS) {
            // halted: the flow drains, and is built anew. Paused: the lane wakes when it goes on, or drains
            let over = Flag::HALTED | Flag::FATAL | Flag::LOST | Flag::DRAINING;
            return if lane.has(over) { Look::Ends } else { Look::Waits };
        }
        let Some(batch) = self.present.as_ref().filter(|batch| (self.index as usize) < batch.len())
        else {
            return match self.turn_over(cx) {
                Poll::Ready(true) => {
                    lane.was_fed();
                    Look::Again
                }
                Poll::Ready(false) => {
                    lane.went_hungry();
                    Look::Ends
                }
                Poll::Pending => {
                    lane.went_hungry();
                    Look::Waits
                }
            };
        };
        if batch.batch.gated || lane.has(Flag::SKIPPING) {
            match (self.gate)(batch, self.index, self.epoch, unreadable, cx) {
                Entry::Open => {}
                Entry::Wait => return Look::Waits,
                Entry::Taken => {
                    self.index += 1;
                    return Look::Again;
                }
            }
        }
        Look::Goes
    }

    /// Goes on to the next batch; whether there is one.
    fn turn_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.present = None;
        self.open = 0;
        while self.next > 0 && self.batches.front().is_some_and(|batch| batch.open() == 0) {
            self.batches.pop_front();
            self.next -= 1;
        }
        while self.next == self.batches.len() && !self.ended {
            match self.more.poll_recv(cx) {
                Poll::Ready(Some(batch)) => {
                    self.batches.push_back(batch);
                    self.thin();
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        let Some(batch) = self.batches.get(self.next) else { return Poll::Ready(false) };
        self.index = 0;
        self.open = if batch.batch.gated { 0 } else { u32::try_from(batch.len()).unwrap_or(0) };
        self.present = Some(batch.clone());
        self.next += 1;
        Poll::Ready(true)
    }
}

/// What keeps the input from yielding.
const STOPS: u32 = Flag::HALTED | Flag::FATAL | Flag::LOST | Flag::PAUSED;

/// What a closer look at the next record says.
enum Look {
    /// It enters.
    Goes,
    /// Look at the one behind it, or at the next batch.
    Again,
    /// The waker is registered.
    Waits,
    /// No more enters.
    Ends,
}

/// The head of a flow: units of one [`Received`] record each.
#[must_use = "stages do nothing unless they are driven"]
pub struct Input {
    lane: Arc<LaneState>,
    feed: Option<Box<Feed>>,
    back: Arc<std::sync::Mutex<Option<Box<Feed>>>>,
    /// Whether records enter that their transport could not read.
    unreadable: bool,
}

impl Input {
    pub(crate) fn new(
        lane: Arc<LaneState>,
        feed: Option<Box<Feed>>,
        back: Arc<std::sync::Mutex<Option<Box<Feed>>>>,
    ) -> Self {
        Self { lane, feed, back, unreadable: false }
    }
}

impl Flow<Input> {
    /// Takes records, too, that their transport could not read. Without it such a record is a fault of the pipeline
    /// before its first stage; with it, it enters as it is: without payload, under the header
    /// [`UNREADABLE`](crate::source::UNREADABLE), which says why. For a pipeline that keeps whatever comes, as that of a data
    /// lake does.
    ///
    /// ```
    /// use streambreaker::prelude::*;
    /// use streambreaker::source::UNREADABLE;
    /// use streambreaker::{Position, Record, Shutdown, memory};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lost = Record::new("orders", "0", Position::from(1), "").with_header(UNREADABLE, "9 GB in one line");
    /// let processor = Processor::builder("keeper")
    ///     .faults(memory::faults())
    ///     .pipeline("keep", |flow| flow.with_unreadable().map(|received| received.record().clone()))
    ///     .pipeline("read", |flow| flow.json::<serde_json::Value>())
    ///     .build()?;
    /// let report = processor.run_from(memory::records([lost])?, Shutdown::never()).await?;
    /// assert_eq!(report.pipelines["keep"].done, 1);
    /// assert_eq!(report.pipelines["read"].faulted, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_unreadable(mut self) -> Self {
        self.stage.unreadable = true;
        self
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // the lane takes it from there for the next flow
        *self.back.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.feed.take();
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({:?})", self.lane)
    }
}

impl Stage for Input {
    type Out = Received;

    #[inline(always)]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<Received>>> {
        let this = &mut *self;
        let Some(feed) = this.feed.as_deref_mut() else { return Poll::Ready(None) };
        loop {
            // nearly always there is nothing to be asked but for the next record
            if feed.index >= feed.open || this.lane.has(STOPS | Flag::SKIPPING) {
                match feed.look(&this.lane, this.unreadable, cx) {
                    Look::Goes => {}
                    Look::Again => continue,
                    Look::Waits => return Poll::Pending,
                    Look::Ends => return Poll::Ready(None),
                }
            }
            let Some(batch) = &feed.present else { continue };
            let index = feed.index;
            feed.index += 1;
            if let Some(ticket) = batch.take(index, feed.epoch) {
                // the flood guard counts records as they enter
                this.lane.pipeline.flood.record_good(1);
                let value = Received::new(batch.batch.clone(), index);
                return Poll::Ready(Some(Uow::new(value, Lineage::one(ticket))));
            }
        }
    }

    fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}
}
