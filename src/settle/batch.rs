//! Batches, and the word of state that each lane keeps a record in them.
//!
//! The word holds, from the low end: parts not yet decided (16 bits; more than one only after `split`), how
//! many of those wait for the fault sink (16), what fates were seen (4), how often the record was returned
//! (8, saturating), and the epoch of the flow that works on it (20). A unit that outlived its flow carries an
//! older epoch, and changes nothing any more.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::lane::Place;
use super::{Fate, Flag, LaneState};
use crate::envelope::Envelope;
use crate::record::{PartPath, Position, Record};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

const PARTS: u64 = 0xffff;
const PENDING_ONE: u64 = 1 << 16;
const PENDING: u64 = 0xffff << 16;
const DONE: u64 = 1 << 32;
const FAULTED: u64 = 1 << 33;
const RETURNED: u64 = 1 << 34;
const DROPPED: u64 = 1 << 35;
const RETURNS_SHIFT: u32 = 36;
const RETURNS_ONE: u64 = 1 << RETURNS_SHIFT;
const RETURNS: u64 = 0xff << RETURNS_SHIFT;
/// What outlives a flow, and a delivery.
const TRACE: u64 = RETURNS | DROPPED;
const EPOCH_SHIFT: u32 = 44;
const EPOCH: u64 = !0 << EPOCH_SHIFT;
const EPOCHS: u32 = 1 << (64 - EPOCH_SHIFT);

/// The records of one read.
pub(crate) struct Batch {
    pub(crate) records: Box<[Record]>,
    pub(crate) envelope: Arc<dyn Envelope>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) bytes: usize,
    /// Whether a record in it is to be looked at before it enters a flow.
    pub(crate) gated: bool,
}

/// By when the records of a read are to be decided: when the source gives them to somebody else, where it does and
/// cannot be asked for more time, or as the processor was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) first: Instant,
    /// How long a lane has that feeds them again, where nobody else does: a record that an outage, or those before it,
    /// kept too long would else never be tried again.
    pub(crate) renewal: Option<Duration>,
}

/// What has to be known of the records of a read before they are handed out, found in one look at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Positions go up from record to record.
    pub(crate) sorted: bool,
    /// What the limits in flight count.
    pub(crate) bytes: usize,
    /// One of them has headers.
    pub(crate) headers: bool,
    /// How often the one was delivered that was delivered most often.
    pub(crate) deliveries: u32,
}

impl Survey {
    // a function of its own: within the long one that asks, what is added up would not stay in registers
    #[inline(never)]
    pub(crate) fn of(records: &[Record]) -> Self {
        let (mut sorted, mut bytes, mut headers, mut deliveries) = (true, 0, false, 0);
        let mut before: Option<&Position> = None;
        for record in records {
            let position = record.position();
            if before.is_some_and(|before| before >= position) {
                sorted = false;
            }
            before = Some(position);
            bytes += record.size();
            if !record.headers().is_empty() {
                headers = true;
            }
            deliveries = deliveries.max(record.deliveries());
        }
        Self { sorted, bytes, headers, deliveries }
    }
}

impl Batch {
    /// `bytes` is what the [`Survey`] of the records says.
    pub(crate) fn new(
        records: Vec<Record>,
        bytes: usize,
        envelope: Arc<dyn Envelope>,
        deadline: Option<Deadline>,
        gated: bool,
    ) -> Arc<Self> {
        Arc::new(Self { records: records.into_boxed_slice(), envelope, deadline, bytes, gated })
    }
}

/// How a record counts in the report: a record is counted once a process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Never seen before.
    New,
    /// Returned before, and here again: it is not read again, only its fate changes.
    Again,
    /// Settled before: not counted any more.
    Not,
}

/// What a lane remembers of a record that comes again: how often it was returned, and whether user code has dropped it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace(u64);

#[cfg(test)]
impl Trace {
    /// Of a record that was returned so often.
    pub(crate) fn returned(times: u32) -> Self {
        Self(u64::from(times).min(RETURNS >> RETURNS_SHIFT) << RETURNS_SHIFT)
    }
}

/// One lane's view of a batch.
pub(crate) struct LaneBatch {
    pub(crate) batch: Arc<Batch>,
    pub(crate) lane: Arc<LaneState>,
    states: Box<[AtomicU64]>,
    /// Records that are not settled.
    open: AtomicU32,
    /// Only where a record does not count as new.
    counts: Option<Box<[Count]>>,
    /// Parts whose fault is stored, of records that are fed again because of another part: one fault a unit and
    /// life.
    faulted: Mutex<BTreeSet<(u32, PartPath, FaultedPart)>>,
}

/// A part of a record that has had its fault. It may have had others, of which it was a part with other records: groups
/// form differently from flow to flow.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FaultedPart {
    pub(crate) fault: Uuid,
    /// Of how many records together it is a part: one, unless a group was split.
    pub(crate) of: usize,
}

/// One record, as a unit of work refers to it.
pub(crate) struct Ticket {
    pub(crate) batch: Arc<LaneBatch>,
    /// The index of the record, and one: the zero that it never is tells a lineage of one record from the
    /// others, so that it takes no more room than this, and travels in registers.
    place: NonZeroU32,
    epoch: u32,
}

impl LaneBatch {
    pub(crate) fn new(
        batch: Arc<Batch>,
        lane: Arc<LaneState>,
        counts: Option<Box<[Count]>>,
    ) -> Arc<Self> {
        let n = batch.records.len();
        let word = fresh(lane.epoch());
        if batch.deadline.is_some() {
            lane.raise(Flag::TIMED);
        }
        Arc::new(Self {
            states: (0..n).map(|_| AtomicU64::new(word)).collect(),
            open: AtomicU32::new(u32::try_from(n).expect("a batch has fewer than 2^32 records")),
            batch,
            lane,
            counts,
            faulted: Mutex::default(),
        })
    }

    /// By when its records are to be decided in this lane.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let Deadline { first, renewal } = self.batch.deadline?;
        let again = renewal.and_then(|span| Some(self.lane.fed_again()? + span));
        Some(again.map_or(first, |again| again.max(first)))
    }

    /// What is to be remembered of record `index`, if it comes again.
    pub(crate) fn trace(&self, index: usize) -> Trace {
        Trace(self.states[index].load(Ordering::Acquire) & TRACE)
    }

    /// Record `index` has come again, and this is remembered of it. To be said before it is fed.
    pub(crate) fn follow(&self, index: usize, trace: Trace) {
        self.states[index].fetch_or(trace.0, Ordering::AcqRel);
    }

    /// How often record `index` was returned, in this lane.
    pub(crate) fn returns(&self, index: usize) -> u32 {
        ((self.states[index].load(Ordering::Acquire) & RETURNS) >> RETURNS_SHIFT) as u32
    }

    fn faulted(&self) -> MutexGuard<'_, BTreeSet<(u32, PartPath, FaultedPart)>> {
        self.faulted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// How many records are not settled.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// To be asked by the shard before it looks at records: whether every one is settled, where that can be told
    /// without looking at each. A return that is final closes a record too, and settles nothing.
    ///
    /// Not a load of the number of open records but a change of it, by nothing. Who closes a record writes its word,
    /// changes this number, and only then asks whether it is waited for ([`LaneState::is_awaited`]); the shard raises its
    /// flag, changes this number, and only then looks at the words. Of two changes of one atomic the later sees all that
    /// came before the earlier: so either the shard sees the word, or the other the flag. With a load neither might, for
    /// acquire and release let a load pass the store before it (x86 never does after a change, ARM may), and the
    /// shard would sleep over a settled record. A fence would do as well, but on both sides: this costs once a batch.
    pub(crate) fn is_through(&self) -> bool {
        let open = self.open.fetch_add(0, Ordering::AcqRel);
        // in this order: who closes a record by a final return has seen the flag before
        open == 0 && !self.lane.has(Flag::FINAL)
    }

    /// How many records are done, if all count as new and every one is done or filtered: then they can be
    /// counted together.
    pub(crate) fn all_passed(&self) -> Option<u64> {
        if self.counts.is_some() {
            return None;
        }
        let mut done = 0;
        for state in &self.states {
            let word = state.load(Ordering::Acquire);
            if word & (PARTS | FAULTED | RETURNED) != 0 {
                return None;
            }
            done += u64::from(word & DONE != 0);
        }
        Some(done)
    }

    pub(crate) fn count(&self, index: usize) -> Count {
        self.counts.as_ref().map_or(Count::New, |counts| counts[index])
    }

    /// Takes record `index` for the flow of the lane's present epoch; `None` if it is settled, or held for
    /// the fault sink. Each record is taken once an epoch.
    #[inline(always)]
    pub(crate) fn take(self: &Arc<Self>, index: u32, epoch: u32) -> Option<Ticket> {
        let word = &self.states[index as usize];
        let now = word.load(Ordering::Acquire);
        if now != fresh(epoch) && !self.rearm(word, now, epoch) {
            return None;
        }
        let place = NonZeroU32::new(index.wrapping_add(1))?;
        Some(Ticket { batch: self.clone(), place, epoch: epoch % EPOCHS })
    }

    #[cold]
    fn rearm(&self, word: &AtomicU64, mut now: u64, epoch: u32) -> bool {
        loop {
            if now & PENDING != 0 {
                // a part of it waits for the fault sink: fed again now, that part would be a fault once more
                // with every restart. It is fed when the sink has it, which halts the lane if need be
                return false;
            }
            let undecided = now & PARTS != 0;
            let returned = now & RETURNED != 0
                && !planted!("returned-lost-on-restart")
                && !(now & PARTS == 0 && self.lane.has(Flag::FINAL));
            if !undecided && !returned {
                return false;
            }
            let next = 1 | (now & TRACE) | epoch_bits(epoch);
            match word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(seen) => now = seen,
            }
        }
    }

    /// The fate of record `index`: `None` while it is open.
    pub(crate) fn fate(&self, index: usize) -> Option<Fate> {
        fate_of(self.states[index].load(Ordering::Acquire))
    }

    /// Whether record `index` is settled: decided, and not to be fed again.
    #[inline]
    pub(crate) fn is_settled(&self, index: usize) -> bool {
        let word = self.states[index].load(Ordering::Acquire);
        word & PARTS == 0 && word & RETURNED == 0
    }

    /// Whether all that is undecided of record `index` waits for the fault sink.
    pub(crate) fn is_held(&self, index: usize) -> bool {
        let word = self.states[index].load(Ordering::Acquire);
        word & PARTS != 0 && word & PARTS == (word & PENDING) >> 16
    }

    /// Names record `index` among all that its lane works on.
    pub(crate) fn place(self: &Arc<Self>, index: u32) -> Place {
        (Arc::as_ptr(self) as usize, index)
    }

    /// The end of the run of settled records from `from` on, at most `end`.
    pub(crate) fn prefix(&self, from: usize, end: usize) -> usize {
        let settled = |state: &AtomicU64| state.load(Ordering::Acquire) & (PARTS | RETURNED) == 0;
        let open = self.states[from..end].iter().position(|state| !settled(state));
        open.map_or(end, |open| from + open)
    }

    /// Whether the shard is to be told.
    #[inline(always)]
    fn close(&self, word: u64) -> bool {
        if word & RETURNED != 0 && !self.lane.has(Flag::FINAL) {
            self.lane.halt();
            return false;
        }
        self.count_out() || self.lane.is_awaited()
    }

    /// A record was closed; whether it was the last of the batch, so that the shard is to be told.
    #[inline(always)]
    fn count_out(&self) -> bool {
        let before = self.open.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a record was settled twice");
        if before == 1 {
            // the lane may wait for no more than this
            self.lane.waker.wake();
        }
        before == 1
    }
}

/// The state of a record that is one part, of which nothing has become yet.
fn fresh(epoch: u32) -> u64 {
    1 | epoch_bits(epoch)
}

fn epoch_bits(epoch: u32) -> u64 {
    u64::from(epoch % EPOCHS) << EPOCH_SHIFT
}

fn fate_of(word: u64) -> Option<Fate> {
    if word & PARTS != 0 {
        return None;
    }
    Some(if word & RETURNED != 0 {
        Fate::Returned
    } else if word & FAULTED != 0 {
        Fate::Faulted
    } else if word & DONE != 0 {
        Fate::Done
    } else {
        Fate::Filtered
    })
}

impl Ticket {
    #[inline]
    fn index(&self) -> usize {
        (self.place.get() - 1) as usize
    }

    /// Names its record among all that its lane works on.
    pub(crate) fn place(&self) -> Place {
        self.batch.place(self.place.get() - 1)
    }

    #[inline]
    pub(crate) fn record(&self) -> &Record {
        &self.batch.batch.records[self.index()]
    }

    #[inline]
    fn word(&self) -> &AtomicU64 {
        &self.batch.states[self.index()]
    }

    /// Changes the word while the unit is of the lane's present epoch; `None` if it came too late.
    #[inline(always)]
    fn update(&self, change: impl Fn(u64) -> u64) -> Option<u64> {
        let word = self.word();
        let mut now = word.load(Ordering::Relaxed);
        loop {
            if now & EPOCH != epoch_bits(self.epoch) || now & PARTS == 0 {
                self.batch.lane.note_late();
                return None;
            }
            let next = change(now);
            match word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(seen) => now = seen,
            }
        }
    }

    /// Decides one part of the record.
    #[inline]
    pub(crate) fn settle(&self, fate: Fate) {
        self.decide(fate, 0, RETURNS_ONE);
    }

    /// Gives one part of the record back for a reason that is not its own: that does not count as a return.
    pub(crate) fn put_back(&self) {
        self.decide(Fate::Returned, 0, 0);
    }

    #[inline]
    fn decide(&self, fate: Fate, pending: u64, returns: u64) {
        if self.decide_quietly(fate, pending, returns) {
            self.batch.lane.settled();
        }
    }

    /// Decides one part of the record, and leaves it to the caller to tell the shard; whether it has to.
    #[inline(always)]
    fn decide_quietly(&self, fate: Fate, pending: u64, returns: u64) -> bool {
        let flag = match fate {
            Fate::Done => DONE,
            Fate::Filtered => 0,
            Fate::Faulted => FAULTED,
            Fate::Returned => RETURNED,
        };
        let changed = self.update(|now| {
            let mut next = (now - pending - 1) | flag;
            if fate == Fate::Returned && next & RETURNS != RETURNS && now & RETURNED == 0 {
                next += returns;
            }
            next
        });
        match changed {
            None => false,
            Some(word) if word & PARTS == 0 => self.batch.close(word),
            Some(_) => {
                if fate == Fate::Returned && !self.batch.lane.has(Flag::FINAL) {
                    // its other parts go on, but nothing behind this one begins
                    self.batch.lane.halt();
                }
                false
            }
        }
    }

    /// The record is done. Leaves it to the caller to tell the shard: whether it has to. Where the lane
    /// [is awaited](LaneState::is_awaited) it has to in any case.
    #[inline(always)]
    pub(crate) fn done_quietly(self) -> bool {
        // nearly always nothing has become of it yet, and it is whole: then one step does
        let (fresh, done) = (fresh(self.epoch), DONE | epoch_bits(self.epoch));
        let (order, word) = (Ordering::AcqRel, self.word());
        match word.compare_exchange(fresh, done, order, Ordering::Relaxed) {
            Ok(_) => self.batch.count_out(),
            Err(_) => self.decide_done(),
        }
    }

    #[cold]
    #[inline(never)]
    fn decide_done(&self) -> bool {
        self.decide_quietly(Fate::Done, 0, 0)
    }

    /// Notes that this part waits for the fault sink: it will not be fed again, and is not settled. False if
    /// it came too late: it is another flow's by now.
    pub(crate) fn hold(&self) -> bool {
        self.update(|now| now + PENDING_ONE).is_some()
    }

    /// The fault sink has it (`Faulted`), or will not get it any more (`Returned`). In one step: in between
    /// the part would look undecided to a lane that is built anew on another thread.
    pub(crate) fn unhold(&self, fate: Fate) {
        self.decide(fate, PENDING_ONE, 0);
    }

    /// The fault of this part of the record is stored: it is not worked on again, if the record is.
    pub(crate) fn note_faulted(&self, part: PartPath, faulted: FaultedPart) {
        self.batch.faulted().insert((self.place.get() - 1, part, faulted));
    }

    /// Which parts of `whole` have had their fault, of those that were made of `of` records together; and which.
    pub(crate) fn faulted_parts(&self, whole: &PartPath, of: usize) -> BTreeSet<(u32, Uuid)> {
        let index = self.place.get() - 1;
        let depth = whole.indices().len();
        self.batch
            .faulted()
            .range((index, whole.clone(), FaultedPart::default())..)
            .take_while(|(at, part, _)| *at == index && part.indices().starts_with(whole.indices()))
            .filter(|(_, part, faulted)| part.indices().len() == depth + 1 && faulted.of == of)
            .map(|(_, part, faulted)| (part.indices()[depth], faulted.fault))
            .collect()
    }

    /// Whether the record is another flow's by now.
    pub(crate) fn is_late(&self) -> bool {
        self.word().load(Ordering::Acquire) & EPOCH != epoch_bits(self.epoch)
    }

    /// Makes this part `n` parts; false if the record has too many already.
    pub(crate) fn split(&self, n: u32) -> bool {
        let word = self.word();
        let room = PARTS - (word.load(Ordering::Relaxed) & PARTS);
        let more = u64::from(n) - 1;
        more <= room && self.update(|now| now + more).is_some()
    }

    /// Marks the record as dropped by user code; whether it was already.
    pub(crate) fn mark_dropped(&self) -> bool {
        self.word().fetch_or(DROPPED, Ordering::AcqRel) & DROPPED != 0
    }

    /// How often the record has been returned: by this lane, or before by a source that counts.
    pub(crate) fn returns(&self) -> u32 {
        self.batch.returns(self.index()).max(self.record().deliveries().saturating_sub(1))
    }

    pub(crate) fn again(&self) -> Ticket {
        Ticket { batch: self.batch.clone(), place: self.place, epoch: self.epoch }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.record(), f)
    }
}
