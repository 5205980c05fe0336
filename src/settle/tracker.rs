//! The tracker of a shard: which records are in flight, how far the settled prefix reaches, and what to
//! acknowledge.
//!
//! In flight is everything above the settled prefix, settled or not. A count of unsettled records would let
//! the reader run away while one record is stuck.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Batch, Fate, History, LaneBatch, Tally};
use crate::record::{Position, Record, Timestamp};
use crate::source::Ack;

struct Entry {
    batch: Arc<Batch>,
    lanes: Vec<Arc<LaneBatch>>,
    /// Records below are settled (`Prefix`).
    next: usize,
    /// Which records have been acknowledged or noted to be (`Each`), and how many.
    acked: Vec<bool>,
    acks: usize,
}

impl Entry {
    fn len(&self) -> usize {
        self.batch.records.len()
    }

    fn settled(&self, index: usize) -> bool {
        self.lanes.iter().all(|lane| lane.is_settled(index))
    }

    /// Whether all lanes are through with it. Asked before any record of it is looked at, and of every lane: see
    /// [`LaneBatch::is_through`].
    fn is_through(&self) -> bool {
        self.lanes.iter().filter(|lane| !lane.is_through()).count() == 0
    }

    /// Whether every lane has come to an end with the record, be it a return.
    fn decided(&self, index: usize) -> bool {
        self.lanes.iter().all(|lane| lane.fate(index).is_some())
    }

    fn retire(&self, history: &mut History, outcomes: Option<&mut Vec<(Record, Fate)>>) {
        if let Some(outcomes) = outcomes {
            outcomes.extend(self.batch.records.iter().enumerate().map(|(index, record)| {
                // a record that no pipeline takes is kept out
                let fates = self.lanes.iter().map(|l| l.fate(index).unwrap_or(Fate::Returned));
                (record.clone(), fates.fold(Fate::Filtered, worse))
            }));
        }
        for states in &self.lanes {
            let pipeline = states.lane.pipeline.index;
            // most often nothing has to be remembered of any record
            if let Some(done) = states.all_passed().filter(|_| self.acks == 0) {
                if history.note_all(pipeline, done, states.len() as u64 - done) {
                    continue;
                }
            }
            for index in (0..self.len()).filter(|index| !self.acked[*index]) {
                self.note_in(states, index, history, false);
            }
        }
    }

    /// Counts what became of a record; once, when it leaves the tracker. `back` if it may come again whatever
    /// became of it in this pipeline or that.
    fn note(&self, index: usize, history: &mut History, back: bool) {
        for states in &self.lanes {
            self.note_in(states, index, history, back);
        }
    }

    fn note_in(&self, states: &LaneBatch, index: usize, history: &mut History, back: bool) {
        let fate = states.fate(index).unwrap_or(Fate::Returned);
        let position = self.batch.records[index].position();
        history.note(states.lane.pipeline.index, states.count(index), fate, position, back);
    }
}

/// Where a record stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In flight, and not settled in these lanes.
    Open(Vec<usize>),
    /// All lanes are through with it.
    Settled,
    /// It is not in flight: not read yet, given back, or settled where that cannot be told.
    Elsewhere,
}

/// The records of one shard that are in flight.
#[derive(Default)]
pub(crate) struct Tracker {
    entries: VecDeque<Entry>,
    records: usize,
    bytes: usize,
    /// The last position of the settled prefix, and the arrival of the record there.
    prefix: Option<(Position, Timestamp)>,
    settled: u64,
    /// What became of each record, where that was asked for: for a finite batch, of which nothing is fed twice.
    outcomes: Option<Vec<(Record, Fate)>>,
    closed: bool,
}

impl Tracker {
    /// A tracker that keeps what became of each record, if `collect`.
    pub(crate) fn new(collect: bool) -> Self {
        Self { outcomes: collect.then(Vec::new), ..Self::default() }
    }

    /// What became of each record that has left the tracker.
    pub(crate) fn take_outcomes(&mut self) -> Vec<(Record, Fate)> {
        self.outcomes.take().unwrap_or_default()
    }

    /// The shard is not ours any more: what is in flight counts as returned, and nothing comes in.
    pub(crate) fn close(&mut self, history: &mut History) {
        self.give_up(history);
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn push(&mut self, batch: Arc<Batch>, lanes: Vec<Arc<LaneBatch>>) {
        debug_assert!(lanes.iter().all(|lane| lane.len() == batch.records.len()));
        self.records += batch.records.len();
        self.bytes += batch.bytes;
        let acked = vec![false; batch.records.len()];
        self.entries.push_back(Entry { batch, lanes, next: 0, acked, acks: 0 });
    }

    /// Everything above the settled prefix, settled or not.
    pub(crate) fn records_in_flight(&self) -> usize {
        if planted!("settled-not-in-flight") {
            let open = |e: &Entry| (e.next..e.len()).filter(|i| !e.settled(*i)).count();
            return self.entries.iter().map(open).sum();
        }
        self.records
    }

    /// Bytes of the batches that are still held.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bytes
    }

    /// Whether a record is in flight and not yet passed: not settled in all lanes, or behind one that is not.
    pub(crate) fn is_open(&self, batch: &Arc<Batch>, index: usize) -> bool {
        self.entries.iter().any(|entry| {
            Arc::ptr_eq(&entry.batch, batch) && index >= entry.next && !entry.acked[index]
        })
    }

    /// Where the record of this position stands. `in_order` where everything below the settled prefix is settled.
    pub(crate) fn standing(&self, position: &Position, in_order: bool) -> Standing {
        let mut settled = in_order && self.prefix().is_some_and(|prefix| position <= prefix);
        for entry in &self.entries {
            let records = entry.batch.records.iter().enumerate();
            for (index, _) in records.filter(|(_, record)| record.position() == position) {
                if entry.acked[index] {
                    continue;
                }
                let lanes = entry.lanes.iter().enumerate();
                let open = lanes.filter(|(_, lane)| !lane.is_settled(index)).map(|(at, _)| at);
                let open: Vec<usize> = open.collect();
                if !open.is_empty() {
                    return Standing::Open(open);
                }
                settled = true;
            }
        }
        if settled { Standing::Settled } else { Standing::Elsewhere }
    }

    /// How many records have been settled in this assignment.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// The last position of the settled prefix.
    pub(crate) fn prefix(&self) -> Option<&Position> {
        self.prefix.as_ref().map(|(position, _)| position)
    }

    /// When the last record of the settled prefix arrived.
    pub(crate) fn prefix_arrival(&self) -> Option<Timestamp> {
        self.prefix.as_ref().map(|(_, arrival)| *arrival)
    }

    /// The oldest record that is not settled.
    pub(crate) fn oldest(&self) -> Option<&Record> {
        self.entries.iter().find_map(|entry| {
            (entry.next..entry.len())
                .find(|index| !entry.acked[*index] && !entry.settled(*index))
                .map(|index| &entry.batch.records[index])
        })
    }

    /// When the oldest record that is not settled arrived. Where records are acknowledged one by one that need not
    /// be the first: one that was given back comes again behind younger ones.
    pub(crate) fn oldest_arrival(&self) -> Option<Timestamp> {
        let open = self.entries.iter().flat_map(|entry| {
            (entry.next..entry.len())
                .filter(|index| !entry.acked[*index] && !entry.settled(*index))
                .map(|index| entry.batch.records[index].arrival())
        });
        open.min()
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The oldest record of lane `lane` that is not settled there: its batch and index.
    pub(crate) fn oldest_of(&self, lane: usize) -> Option<(&Arc<LaneBatch>, usize)> {
        self.entries.iter().find_map(|entry| {
            let states = &entry.lanes[lane];
            if states.open() == 0 {
                return None;
            }
            (entry.next..entry.len())
                .find(|index| !entry.acked[*index] && !states.is_settled(*index))
                .map(|index| (states, index))
        })
    }

    /// How many records of lane `lane` are not settled there.
    pub(crate) fn open_of(&self, lane: usize) -> usize {
        self.entries.iter().map(|entry| entry.lanes[lane].open() as usize).sum()
    }

    /// Moves the settled prefix on; whether it moved.
    pub(crate) fn advance(&mut self, history: &mut History) -> bool {
        let before = self.settled;
        while let Some(entry) = self.entries.front_mut() {
            let from = entry.next;
            let through = entry.is_through();
            // where every return is final nobody feeds the record again: it must not hold those behind it
            if self.outcomes.is_some() {
                while entry.next < entry.len()
                    && (entry.settled(entry.next) || entry.decided(entry.next))
                {
                    entry.next += 1;
                }
            } else if through || planted!("commit-before-done") {
                // most often the lanes are through with it: then no record is looked at
                entry.next = entry.len();
            }
            entry.next =
                entry.lanes.iter().fold(entry.len(), |end, lane| lane.prefix(entry.next, end));
            let moved = entry.next - from;
            self.records -= moved;
            self.settled += moved as u64;
            if moved > 0 {
                let record = &entry.batch.records[entry.next - 1];
                // a redelivery of what is settled already does not move it back
                if self.prefix.as_ref().is_none_or(|(at, _)| record.position() > at) {
                    self.prefix = Some((record.position().clone(), record.arrival()));
                }
            }
            if entry.next < entry.len() {
                break;
            }
            self.bytes -= entry.batch.bytes;
            entry.retire(history, self.outcomes.as_mut());
            self.entries.pop_front();
        }
        self.settled > before
    }

    /// Collects what can be acknowledged one by one. `again` gives the delay of a returned record, by how often it
    /// has been returned in this life. With `last` nobody decides any more, and what is open is given back without a
    /// delay: somebody else may have it, and need not wait until its lease is over.
    pub(crate) fn collect(
        &mut self,
        history: &mut History,
        last: bool,
        mut again: impl FnMut(&Record, u32) -> Duration,
    ) -> Vec<(Position, Ack)> {
        let mut acks = Vec::new();
        let mut position = 0;
        while position < self.entries.len() {
            let entry = &mut self.entries[position];
            // for what it does to the order of memory: whoever closes a record after this tells the shard
            entry.is_through();
            if entry.lanes.iter().all(|lane| lane.open() == 0) {
                acks.reserve(entry.len() - entry.acks);
            }
            for index in 0..entry.len() {
                if entry.acked[index] {
                    continue;
                }
                let mut worst = Some(Fate::Filtered);
                for lane in &entry.lanes {
                    worst = match (worst, lane.fate(index)) {
                        (Some(worst), Some(fate)) => Some(worse(worst, fate)),
                        _ => None,
                    };
                }
                let Some(fate) = worst.or(last.then_some(Fate::Returned)) else { continue };
                let record = &entry.batch.records[index];
                let ack = match fate {
                    Fate::Returned => {
                        let returns = entry.lanes.iter().map(|lane| lane.returns(index)).collect();
                        let times = history.give_back(record.position(), returns);
                        let after = again(record, times);
                        Ack::Again { after: if worst.is_some() { after } else { Duration::ZERO } }
                    }
                    Fate::Faulted => Ack::Faulted,
                    Fate::Done | Fate::Filtered => Ack::Done,
                };
                if fate != Fate::Returned {
                    history.keep(record.position());
                    self.settled += 1;
                    self.prefix = Some((record.position().clone(), record.arrival()));
                }
                acks.push((record.position().clone(), ack));
                // now, and not with its batch: it may come again before that is over
                entry.note(index, history, true);
                entry.acked[index] = true;
                entry.acks += 1;
                self.records -= 1;
            }
            if entry.acks == entry.len() {
                self.bytes -= entry.batch.bytes;
                entry.retire(history, self.outcomes.as_mut());
                self.entries.remove(position);
            } else {
                position += 1;
            }
        }
        acks
    }

    /// Positions that are held and neither acknowledged nor noted to be.
    pub(crate) fn held(&self) -> Vec<Position> {
        self.entries
            .iter()
            .flat_map(|entry| {
                (entry.next..entry.len())
                    .filter(|index| !entry.acked[*index])
                    .map(|index| entry.batch.records[index].position().clone())
            })
            .collect()
    }

    /// How the records in flight stand, a pipeline.
    pub(crate) fn tally(&self, lane: usize) -> Tally {
        let mut tally = Tally::default();
        for entry in &self.entries {
            let states = &entry.lanes[lane];
            for index in (0..entry.len()).filter(|index| !entry.acked[*index]) {
                if let Some(fate) = states.fate(index) {
                    tally.note(states.count(index), fate);
                }
            }
        }
        tally
    }

    /// Ends an assignment: what is not settled counts as returned, and can come again.
    pub(crate) fn give_up(&mut self, history: &mut History) {
        for entry in self.entries.drain(..) {
            entry.retire(history, self.outcomes.as_mut());
        }
        self.records = 0;
        self.bytes = 0;
    }
}

fn worse(a: Fate, b: Fate) -> Fate {
    let rank = |fate| match fate {
        Fate::Filtered => 0,
        Fate::Done => 1,
        Fate::Faulted => 2,
        Fate::Returned => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}
