//! What is asked of a record before it enters a flow: can it be read at all, is it to be skipped, has it
//! killed the process before.
//!
//! A record that was delivered again and again without anybody deciding on it may be what kills the process.
//! A broker that counts deliveries counts those too after which it was given back on purpose, in an outage say; so
//! a record that this life of the process has had before is none: it outlived it.
//! From half of the allowed deliveries on, such records run one at a time in the whole process, each
//! committed before the next begins, so that only the guilty one goes on to be counted; and one life of a
//! process faults at most one of them a shard, the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};

use super::core::Reading;
use crate::error::{Class, StepError};
use crate::fault::{FaultList, Refusal, hand_over};
use crate::flow::Entry;
use crate::record::{Position, Record};
use crate::settle::{Batch, Count, Fate, Flag, LaneBatch, Survey};
use crate::source::UNREADABLE;
use crate::unit::Lineage;

/// The gate of one processor.
#[derive(Default)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    running: Option<Suspect>,
    waiting: Vec<Waker>,
    /// What an operator wants skipped, and where: not also in a replay, or where it is sent again from its fault.
    /// By position first: one that is to be skipped stays known, in case it comes again, and few others share its position.
    skips: BTreeMap<Position, BTreeSet<Reading>>,
}

/// The suspect that runs now: one record, in all pipelines of its shard.
struct Suspect {
    batch: Arc<Batch>,
    index: u32,
    /// The lanes that it has entered.
    lanes: Vec<Arc<LaneBatch>>,
}

impl Suspect {
    fn is(&self, batch: &Arc<LaneBatch>, index: u32) -> bool {
        Arc::ptr_eq(&self.batch, &batch.batch) && self.index == index
    }

    fn fates(&self) -> impl Iterator<Item = Option<Fate>> {
        self.lanes.iter().map(|lane| lane.fate(self.index as usize))
    }

    /// Nobody works on it, and nobody will before it is fed again.
    fn rests(&self) -> bool {
        self.lanes.iter().any(|batch| batch.lane.has(Flag::LOST | Flag::DRAINING))
            || (self.fates().all(|fate| fate.is_some())
                && self.fates().any(|fate| fate == Some(Fate::Returned)))
    }

    fn is_of(&self, faults: &Arc<FaultList>) -> bool {
        self.lanes.iter().all(|batch| Arc::ptr_eq(&batch.lane.faults, faults))
    }
}

/// What a lane's gate needs to know.
#[derive(Clone)]
pub(crate) struct GateKeeper {
    pub(crate) gate: Arc<Gate>,
    /// Whether its shard is a finite batch.
    pub(crate) finite: bool,
    /// Deliveries at which a record is given up; none where the source does not count.
    pub(crate) max_deliveries: Option<u32>,
    /// Whether this life has given one up already, in this shard and pipeline.
    pub(crate) gave_up: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn skip(&self, reading: Reading, position: Position) {
        self.lock().skips.entry(position).or_default().insert(reading);
    }

    /// Nothing is to be skipped there after all.
    pub(crate) fn forget_skip(&self, reading: &Reading, position: &Position) {
        let mut inner = self.lock();
        if let Some(readings) = inner.skips.get_mut(position) {
            readings.remove(reading);
            if readings.is_empty() {
                inner.skips.remove(position);
            }
        }
    }

    fn is_skipped(&self, record: &Record, finite: bool) -> bool {
        self.lock().skips.get(record.position()).is_some_and(|readings| {
            let (stream, shard) = (record.stream().into(), record.shard().clone());
            readings.contains(&Reading::new(stream, shard, finite, record.delivery()))
        })
    }

    fn skips_any(&self) -> bool {
        !self.lock().skips.is_empty()
    }

    /// Whether a suspect runs; its shard commits as soon as it is settled.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().running.is_some()
    }

    fn enter(&self, batch: &Arc<LaneBatch>, index: u32, waker: &Waker) -> bool {
        let mut inner = self.lock();
        match &mut inner.running {
            Some(suspect) if suspect.is(batch, index) => {
                // every pipeline of the shard has to decide on it before it can be committed
                if !suspect.lanes.iter().any(|lane| Arc::ptr_eq(lane, batch)) {
                    suspect.lanes.push(batch.clone());
                }
                true
            }
            Some(_) => {
                if !inner.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
                    inner.waiting.push(waker.clone());
                }
                false
            }
            None => {
                let (lanes, batch) = (vec![batch.clone()], batch.batch.clone());
                inner.running = Some(Suspect { batch, index, lanes });
                true
            }
        }
    }

    /// To be called after a commit of the shard with these faults: lets the next suspect in if the running one
    /// is that shard's, and settled in all its pipelines, as `settled` knows.
    pub(crate) fn committed(
        &self,
        faults: &Arc<FaultList>,
        settled: impl FnOnce(&Arc<Batch>, u32) -> bool,
    ) {
        self.leave(|suspect| suspect.is_of(faults) && settled(&suspect.batch, suspect.index));
    }

    /// To be called whenever something may have come to rest: lets the next suspect in if nobody works on the
    /// running one.
    pub(crate) fn look(&self) {
        self.leave(Suspect::rests);
    }

    fn leave(&self, over: impl FnOnce(&Suspect) -> bool) {
        let mut inner = self.lock();
        if inner.running.as_ref().is_some_and(over) {
            inner.running = None;
            for waker in inner.waiting.drain(..) {
                waker.wake();
            }
        }
    }
}

impl GateKeeper {
    /// Whether a batch of these records has to be gated, and whether one of them may be what kills the process.
    pub(crate) fn concerns(
        &self,
        records: &[Record],
        survey: Survey,
        counts: &[Option<Box<[Count]>>],
    ) -> (bool, bool) {
        // the lock once a batch, not a record: hardly ever is there anything to skip
        let skips = self.gate.skips_any();
        if !skips && !survey.headers && !self.suspects(survey.deliveries) {
            return (false, false);
        }
        let is_new = |index: usize| {
            counts.iter().any(|lane| lane.as_ref().is_none_or(|counts| counts[index] == Count::New))
        };
        let (mut gated, mut suspect) = (false, false);
        for (index, record) in records.iter().enumerate() {
            let suspected = self.suspects(record.deliveries()) && is_new(index);
            suspect |= suspected;
            gated |= suspected
                || record.header(UNREADABLE).is_some()
                || (skips && self.gate.is_skipped(record, self.finite));
        }
        (gated, suspect)
    }

    /// Whether a record that was delivered so often may be what kills the process.
    fn suspects(&self, deliveries: u32) -> bool {
        self.max_deliveries.is_some_and(|most| deliveries >= suspect_from(most))
    }

    /// Decides on one record; `unreadable` says whether the flow takes what could not be read.
    pub(crate) fn ask(
        &mut self,
        batch: &Arc<LaneBatch>,
        index: u32,
        epoch: u32,
        unreadable: bool,
        cx: &mut Context<'_>,
    ) -> Entry {
        if batch.is_settled(index as usize) {
            return Entry::Open; // it is not taken again
        }
        let record = &batch.batch.records[index as usize];
        let refusal = if let Some(reason) = record.header(UNREADABLE).filter(|_| !unreadable) {
            let text =
                format!("the transport could not read it: {}", String::from_utf8_lossy(reason));
            Some(StepError::new(Class::Fault, text).with_name("Unreadable"))
        } else if self.gate.is_skipped(record, self.finite) {
            let error = StepError::new(Class::Skipped, "skipped by an operator");
            Some(error.with_name("Skipped"))
        } else {
            // what this life has seen before did not kill it: its deliveries were decisions, to give it back
            let seen = batch.count(index as usize) != Count::New;
            match self.max_deliveries {
                _ if seen => None,
                Some(most) if self.suspects(record.deliveries()) => {
                    // one that is given up takes its turn too: were it not committed when the next one kills, each
                    // life would give up the same again, and the next one never
                    if !self.gate.enter(batch, index, cx.waker()) {
                        return Entry::Wait;
                    }
                    (record.deliveries() >= most && !self.gave_up).then(|| {
                        self.gave_up = true;
                        let text = format!(
                            "delivered {} times without a decision: it may kill the process",
                            record.deliveries()
                        );
                        StepError::new(Class::CrashLoop, text).with_name("CrashLoop")
                    })
                }
                _ => None,
            }
        };
        match refusal {
            None => Entry::Open,
            Some(error) => {
                if let Some(ticket) = batch.take(index, epoch) {
                    hand_over(&batch.lane, None, Lineage::one(ticket), Refusal::new(error));
                }
                Entry::Taken
            }
        }
    }
}

/// From half of the allowed deliveries on, and never for a first delivery.
fn suspect_from(most: u32) -> u32 {
    most.div_ceil(2).max(2)
}
