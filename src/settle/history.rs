//! How records count in the report: once a pipeline and process life, by their last fate, over all assignments
//! of their shard, whatever comes again.

use std::collections::BTreeMap;

use super::Fate;
use super::batch::Count;
use super::positions::Positions;
use crate::record::{Position, Record};

/// Returned positions that are remembered to be counted once, a pipeline and shard.
const REMEMBERED: usize = 100_000;

/// How many records a pipeline has seen, by their last fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) read: u64,
    pub(crate) done: u64,
    pub(crate) filtered: u64,
    pub(crate) faulted: u64,
    pub(crate) returned: u64,
    /// Deliveries of records that were settled before: not counted above.
    pub(crate) redelivered: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.read += other.read;
        self.done += other.done;
        self.filtered += other.filtered;
        self.faulted += other.faulted;
        self.returned += other.returned;
        self.redelivered += other.redelivered;
    }

    pub(crate) fn settled(&self) -> u64 {
        self.done + self.filtered + self.faulted
    }

    /// Read, and without a fate.
    pub(crate) fn open(&self) -> u64 {
        self.read.saturating_sub(self.settled() + self.returned)
    }

    pub(super) fn note(&mut self, count: Count, fate: Fate) {
        if count == Count::Not {
            return;
        }
        match fate {
            Fate::Done => self.done += 1,
            Fate::Filtered => self.filtered += 1,
            Fate::Faulted => self.faulted += 1,
            Fate::Returned => self.returned += 1,
        }
    }
}

/// A record that was given back to its source.
#[derive(Debug, Default)]
pub(crate) struct GivenBack {
    /// How often, whatever for.
    times: u32,
    /// How often by each lane of its shard, for a reason of its own: that of a neighbour, or of another pipeline, does
    /// not count against its limit.
    pub(crate) returns: Box<[u32]>,
}

/// What has been seen of a shard in this process life, over all its assignments.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The highest position that a pipeline has read, where positions order the shard.
    high: Vec<Option<Position>>,
    /// A pipeline's records that were given back, and count as returned.
    returned: Vec<Positions>,
    /// A pipeline's records that are settled here and may come again: another pipeline gave them back, or the
    /// source has not confirmed that it heard of it.
    again: Vec<Positions>,
    /// A pipeline's records in flight, where positions do not order the shard: a source may give one again
    /// before it has heard of the first.
    flying: Vec<Positions>,
    unordered: bool,
    /// How often a record was given back in this life, where they are acknowledged one by one: not every such
    /// source counts deliveries, and the wait between two of them must grow all the same.
    given_back: BTreeMap<Position, GivenBack>,
    /// A pipeline's records of assignments that are over, and of retired batches.
    pub(crate) tallies: Vec<Tally>,
}

impl History {
    pub(crate) fn new(pipelines: usize) -> Self {
        Self {
            high: vec![None; pipelines],
            returned: vec![Positions::default(); pipelines],
            again: vec![Positions::default(); pipelines],
            flying: vec![Positions::default(); pipelines],
            unordered: false,
            given_back: BTreeMap::new(),
            tallies: vec![Tally::default(); pipelines],
        }
    }

    /// Counts a read, and says how each record counts in this pipeline; `None` if all are new.
    ///
    /// `sorted` is what the [`Survey`](super::Survey) of the records says.
    pub(crate) fn reading(
        &mut self,
        pipeline: usize,
        records: &[Record],
        ordered: bool,
        sorted: bool,
    ) -> Option<Box<[Count]>> {
        self.unordered = !ordered;
        let back = &mut self.returned[pipeline];
        let again = &mut self.again[pipeline];
        let flying = &mut self.flying[pipeline];
        let tally = &mut self.tallies[pipeline];
        let above = || match (&self.high[pipeline], records.first()) {
            (Some(high), Some(first)) => first.position() > high,
            _ => true,
        };
        if ordered && sorted && back.is_empty() && above() {
            // nothing has to be looked up a record
            tally.read += records.len() as u64;
            if let Some(last) = records.last() {
                self.high[pipeline] = Some(last.position().clone());
            }
            return None;
        }
        let mut high = self.high[pipeline].as_ref().filter(|_| ordered);
        let mut counts: Option<Box<[Count]>> = None;
        for (index, record) in records.iter().enumerate() {
            let position = record.position();
            let count = if !back.is_empty() && back.remove(position) {
                tally.returned -= 1;
                Count::Again
            } else if high.is_some_and(|high| position <= high)
                || (!again.is_empty() && again.remove(position))
                || (!ordered && flying.contains(position))
            {
                tally.redelivered += 1;
                Count::Not
            } else {
                tally.read += 1;
                Count::New
            };
            if !ordered && count != Count::Not {
                flying.insert(position);
            }
            if ordered && high.is_none_or(|high| position > high) {
                high = Some(position);
            }
            if count != Count::New {
                counts.get_or_insert_with(|| vec![Count::New; records.len()].into())[index] = count;
            }
        }
        if let Some(new) = high.filter(|new| self.high[pipeline].as_ref() != Some(*new)) {
            self.high[pipeline] = Some(new.clone());
        }
        counts
    }

    /// Counts a whole batch, whose records all count as new and are done or filtered; false if something has to be
    /// remembered of its records one by one.
    pub(super) fn note_all(&mut self, pipeline: usize, done: u64, filtered: u64) -> bool {
        if self.unordered {
            return false;
        }
        let tally = &mut self.tallies[pipeline];
        tally.done += done;
        tally.filtered += filtered;
        true
    }

    /// The source has heard that this record is settled: it does not come again.
    pub(crate) fn confirmed(&mut self, position: &Position) {
        for again in &mut self.again {
            again.remove(position);
        }
    }

    /// How often these records were given back before; nothing if none was.
    pub(crate) fn given_back<'a>(
        &'a self,
        records: &'a [Record],
    ) -> impl Iterator<Item = (usize, &'a GivenBack)> + 'a {
        let known = if self.given_back.is_empty() { &[] } else { records };
        known.iter().enumerate().filter_map(|(index, record)| {
            self.given_back.get(record.position()).map(|before| (index, before))
        })
    }

    /// A record is given back once more, after so many returns in each lane; how often that makes.
    pub(super) fn give_back(&mut self, position: &Position, returns: Box<[u32]>) -> u32 {
        if self.given_back.len() == REMEMBERED && !self.given_back.contains_key(position) {
            self.given_back.pop_first();
        }
        let before = self.given_back.entry(position.clone()).or_default();
        before.times = before.times.saturating_add(1);
        before.returns = returns;
        before.times
    }

    /// A record is settled: it is not given back any more.
    pub(super) fn keep(&mut self, position: &Position) {
        if !self.given_back.is_empty() {
            self.given_back.remove(position);
        }
    }

    /// Notes what became of a record in one pipeline; `back` if it may come again all the same.
    pub(super) fn note(
        &mut self,
        pipeline: usize,
        count: Count,
        fate: Fate,
        position: &Position,
        back: bool,
    ) {
        let tally = &mut self.tallies[pipeline];
        let settled = fate != Fate::Returned;
        // without an order several copies of a record may be in flight: the first that is settled counts, and
        // while none is, the first that was read
        let counts = match self.unordered {
            true if settled || count != Count::Not => self.flying[pipeline].remove(position),
            true => false,
            false => count != Count::Not,
        };
        if counts {
            tally.note(Count::New, fate);
        } else if settled && count == Count::Not && self.returned[pipeline].remove(position) {
            // another copy of it was given back
            tally.returned -= 1;
            tally.note(Count::New, fate);
        }
        if counts && !settled {
            remember(&mut self.returned[pipeline], position);
        } else if settled && back {
            remember(&mut self.again[pipeline], position);
        }
    }
}

fn remember(positions: &mut Positions, position: &Position) {
    if positions.len() == REMEMBERED {
        positions.pop_first();
    }
    positions.insert(position);
}
