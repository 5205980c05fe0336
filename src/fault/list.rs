//! The fault list of a shard: what has been refused, and is not yet stored.
//!
//! Handing a fault over never waits. Its records count as in flight until the fault sink has confirmed the
//! event, so a dead fault sink is back-pressure, not loss.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::flood::Verdict;
use super::{Attempt, fault_depth};
use crate::error::{Class, StepError};
use crate::record::Timestamp;
use crate::settle::{Fate, Flag, LaneState, StageInfo};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::unit::{Held, Lineage};

/// A fault about a fault about a fault is returned instead: somebody reads his own faults.
const DEEPEST: u8 = 2;

/// Why a unit is refused.
pub(crate) struct Refusal {
    pub(crate) error: StepError,
    pub(crate) attempts: Vec<Attempt>,
    /// Whether the flood guard counts it.
    pub(crate) counts: bool,
}

impl Refusal {
    pub(crate) fn new(error: StepError) -> Self {
        Self { error, attempts: Vec::new(), counts: true }
    }
}

/// A refused unit on its way to the fault sink.
pub(crate) struct Draft {
    pub(crate) stage: StageInfo,
    pub(crate) held: Held,
    pub(crate) error: StepError,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) at: Timestamp,
}

/// The refused units of one shard.
#[derive(Default)]
pub(crate) struct FaultList {
    queue: Mutex<Queue>,
    more: Notify,
    unconfirmed: AtomicU64,
    /// The ids of what was stored, where somebody wants to know: of a finite batch.
    stored: Option<Mutex<Vec<Uuid>>>,
}

#[derive(Default)]
struct Queue {
    drafts: VecDeque<Draft>,
    closed: bool,
    /// Since when there has been something unconfirmed.
    since: Option<Instant>,
}

impl FaultList {
    /// A list that remembers the ids of what was stored, if `remembers`.
    pub(crate) fn new(remembers: bool) -> Self {
        Self { stored: remembers.then(Mutex::default), ..Self::default() }
    }

    /// The ids of what was stored, in that order.
    pub(crate) fn take_stored(&self) -> Vec<Uuid> {
        let stored = self.stored.as_ref().map(|stored| {
            std::mem::take(&mut *stored.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
        });
        stored.unwrap_or_default()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn push(&self, draft: Draft) {
        let mut queue = self.queue();
        queue.drafts.push_back(draft);
        self.unconfirmed.fetch_add(1, Ordering::AcqRel);
        queue.since.get_or_insert_with(Instant::now);
        drop(queue);
        self.more.notify_one();
    }

    /// There will be no more: the publisher ends when all is stored.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.more.notify_one();
    }

    /// Takes up to `most` drafts; waits for one unless `now`. `None` when closed and empty.
    ///
    /// Cancel-safe.
    pub(crate) async fn take(&self, most: usize, now: bool) -> Option<Vec<Draft>> {
        loop {
            let more = self.more.notified();
            {
                let mut queue = self.queue();
                if !queue.drafts.is_empty() {
                    let count = queue.drafts.len().min(most);
                    return Some(queue.drafts.drain(..count).collect());
                }
                if queue.closed {
                    return None;
                }
                if now {
                    return Some(Vec::new());
                }
            }
            more.await;
        }
    }

    /// A fault was stored: its records are settled.
    pub(crate) fn confirm(&self, held: Held, id: Uuid) {
        if let Some(stored) = &self.stored {
            stored.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(id);
        }
        held.confirm(id);
        if self.unconfirmed.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut queue = self.queue();
            if queue.drafts.is_empty() {
                queue.since = None;
            }
        }
    }

    /// Faults that are not yet stored.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Acquire)
    }

    /// Since when there has been a fault that is not stored.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        if self.unconfirmed() == 0 { None } else { self.queue().since }
    }
}

/// Hands a refused unit to its shard's fault list, or returns it where it must not be faulted; whether it was
/// handed over.
pub(crate) fn hand_over(
    lane: &Arc<LaneState>,
    stage: Option<u16>,
    lineage: Lineage,
    refusal: Refusal,
) -> bool {
    if lineage.is_empty() {
        // nobody's: there is nothing to be stored, nor to wait for
        return true;
    }
    if lane.has(Flag::LOST) {
        // the shard is someone else's by now, and so is the fault
        lineage.put_back();
        return false;
    }
    if lineage.is_late() {
        // user code kept it longer than its flow lived: the records are worked on anew
        lineage.put_back();
        return false;
    }
    let Refusal { error, attempts, counts } = refusal;
    let stage = match stage {
        Some(id) => lane.pipeline.stage(id),
        None => StageInfo { name: "input".to_owned(), resource: None },
    };
    if lineage.records().any(|record| fault_depth(record) >= DEEPEST) {
        if let Some(count) = lane.pipeline.lines.deep.due() {
            tracing::error!(
                target: "streambreaker::fault",
                pipeline = %lane.pipeline.name,
                messaging.destination.name = %lane.stream,
                messaging.destination.partition.id = %lane.shard,
                stage = %stage.name,
                count,
                "a fault about a fault about a fault: the unit is returned instead; does this processor \
                 read its own faults?",
            );
        }
        lineage.decide(Fate::Returned);
        return false;
    }
    let counts = counts && !lineage.is_resubmitted() && error.class() != Class::Skipped;
    let records = u32::try_from(lineage.len()).unwrap_or(u32::MAX);
    if counts && lane.pipeline.flood.judge(Instant::now(), records) == Verdict::Return {
        metrics::counter!(
            "streambreaker_flood_returned_total",
            "processor" => lane.pipeline.processor.clone(),
            "pipeline" => lane.pipeline.name.clone(),
        )
        .increment(1);
        lineage.decide(Fate::Returned);
        return false;
    }
    let held = lineage.hold();
    lane.faults.push(Draft { stage, held, error, attempts, at: lane.clock.now() });
    true
}

/// User code dropped a unit undecided for the second time.
pub(crate) fn dropped_twice(lane: &Arc<LaneState>, lineage: Lineage) {
    let error = StepError::new(Class::Dropped, "user code dropped the unit undecided, twice");
    hand_over(lane, None, lineage, Refusal::new(error.with_name("Dropped")));
}

/// User code panicked with the unit in its hands: in an adapter of `through`, or in the `drop` of a value.
pub(crate) fn dropped_in_panic(lane: &Arc<LaneState>, lineage: Lineage) {
    let error = StepError::new(Class::Panic, "user code panicked while it held the unit");
    hand_over(lane, None, lineage, Refusal::new(error.with_name("Panic")));
}
