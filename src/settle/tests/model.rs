//! The rules as they read: a record is, in each pipeline, the list of what was decided of its parts, and a count
//! of those that are not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::settle::Fate;

/// How the shard is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// By the prefix; what is returned is fed again, what is read may come again.
    Prefix,
    /// By the prefix, of a finite batch: a return is final.
    Finite,
    /// One by one: a return is final here, and goes back to the source.
    Each,
}

/// What can happen; a number chooses among the parts that are there.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// So many records come, the first so many below the highest seen.
    Read {
        back: u64,
        n: usize,
    },
    Settle(usize, Fate),
    PutBack(usize),
    Split(usize, u32),
    Hold(usize),
    Unhold(usize, bool),
    /// The flow of a lane is dropped, and with it its parts; the lane feeds its records again.
    Restart(usize),
    /// A part of an earlier flow decides something.
    Late(usize, Fate),
    /// The shard looks how far it has come.
    Advance,
    /// The assignment ends, and another begins.
    Reassign,
}

/// A part of a record in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) lane: usize,
    pub(super) record: usize,
    /// How often the record had been fed when this part began.
    fed: u32,
}

/// A record in one pipeline.
#[derive(Clone, Debug, Default)]
struct Cell {
    undecided: u32,
    held: u32,
    decided: Vec<Fate>,
    fed: u32,
    /// It counts in the report: it was not settled before.
    counts: bool,
    /// How often it was returned by a decision of its own, and not put back.
    returns: u32,
}

impl Cell {
    fn decide(&mut self, fate: Fate, counts: bool) {
        self.undecided -= 1;
        // several parts that are returned are one return of their record
        if fate == Fate::Returned && counts && !self.decided.contains(&Fate::Returned) {
            self.returns += 1;
        }
        self.decided.push(fate);
    }

    fn fate(&self) -> Option<Fate> {
        let has = |fate| self.decided.contains(&fate);
        match self.undecided + self.held {
            0 if has(Fate::Returned) => Some(Fate::Returned),
            0 if has(Fate::Faulted) => Some(Fate::Faulted),
            0 if has(Fate::Done) => Some(Fate::Done),
            0 => Some(Fate::Filtered),
            _ => None,
        }
    }

    fn is_settled(&self) -> bool {
        self.fate().is_some_and(|fate| fate != Fate::Returned)
    }

    fn feed(&mut self) {
        let Self { fed, counts, returns, .. } = *self;
        *self = Self { undecided: 1, fed: fed + 1, counts, returns, ..Self::default() };
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) position: u64,
    cells: Vec<Cell>,
    /// It has left the tracker: below the prefix, or acknowledged.
    pub(super) left: bool,
}

impl Entry {
    pub(super) fn fate(&self, lane: usize) -> Option<Fate> {
        self.cells[lane].fate()
    }

    /// Whether the fault sink is all that it waits for.
    pub(super) fn is_held(&self, lane: usize) -> bool {
        self.cells[lane].undecided == 0 && self.cells[lane].held > 0
    }

    pub(super) fn returns(&self, lane: usize) -> u32 {
        self.cells[lane].returns
    }

    fn is_settled(&self) -> bool {
        self.cells.iter().all(Cell::is_settled)
    }

    /// What became of it over all pipelines: the worst, once all have decided.
    pub(super) fn worst(&self) -> Option<Fate> {
        let order = [Fate::Returned, Fate::Faulted, Fate::Done];
        let fates: Option<Vec<Fate>> = self.cells.iter().map(Cell::fate).collect();
        let fates = fates?;
        Some(order.into_iter().find(|fate| fates.contains(fate)).unwrap_or(Fate::Filtered))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) mode: Mode,
    pub(super) lanes: usize,
    pub(super) entries: Vec<Entry>,
    /// Sizes of the batches.
    pub(super) batches: Vec<usize>,
    pub(super) parts: Vec<Part>,
    pub(super) held: Vec<Part>,
    pub(super) late: Vec<Part>,
    /// Lanes in which nothing new begins, for something was returned since they began.
    pub(super) halted: Vec<bool>,
    /// Records of this assignment that were settled, as the shard knows.
    pub(super) settled: u64,
    pub(super) prefix: Option<u64>,
    pub(super) next: u64,
    /// A pipeline's last fates of records that are over in this life, and how many came again after that.
    pub(super) fates: Vec<BTreeMap<u64, Fate>>,
    pub(super) redelivered: Vec<u64>,
}

impl Model {
    fn cell(&mut self, part: Part) -> &mut Cell {
        &mut self.entries[part.record].cells[part.lane]
    }

    pub(super) fn is_late(&self, part: Part) -> bool {
        self.entries[part.record].cells[part.lane].fed != part.fed
    }

    /// Whether the record is fed when the lane begins anew.
    pub(super) fn is_fed(&self, lane: usize, record: usize) -> bool {
        self.entries[record].fate(lane) == Some(Fate::Returned)
    }

    /// Records of a lane that are not settled there, as it counts them.
    pub(super) fn open(&self, lane: usize, records: std::ops::Range<usize>) -> usize {
        let open = |entry: &&Entry| match entry.fate(lane) {
            None => true,
            Some(fate) => fate == Fate::Returned && self.mode == Mode::Prefix,
        };
        self.entries[records].iter().filter(open).count()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.left).count()
    }

    /// The oldest record that is not settled.
    pub(super) fn oldest(&self) -> Option<u64> {
        let open = |entry: &&Entry| !entry.left && !entry.is_settled();
        self.entries.iter().find(open).map(|entry| entry.position)
    }

    /// A part of a record was decided so.
    fn note(&mut self, part: Part, fate: Fate) {
        let returned = fate == Fate::Returned || self.cell(part).fate() == Some(Fate::Returned);
        self.halted[part.lane] |= returned && self.mode == Mode::Prefix;
    }

    fn restart(&mut self, lane: usize) {
        self.halted[lane] = false;
        let (gone, kept) = self.parts.iter().partition(|part| part.lane == lane);
        self.parts = kept;
        for part in &gone {
            self.cell(*part).decide(Fate::Returned, false);
        }
        self.late.extend::<Vec<Part>>(gone);
        for record in 0..self.entries.len() {
            if self.is_fed(lane, record) {
                let cell = &mut self.entries[record].cells[lane];
                cell.feed();
                self.parts.push(Part { lane, record, fed: cell.fed });
            }
        }
    }

    fn read(&mut self, back: u64, n: usize) {
        let from = self.next - back;
        for position in from..from + n as u64 {
            let counts = |lane: usize| {
                let flying = |e: &Entry| e.position == position && e.cells[lane].counts;
                match self.fates[lane].get(&position) {
                    Some(fate) => *fate == Fate::Returned,
                    None => !self.entries.iter().any(flying),
                }
            };
            let mut cells: Vec<Cell> = (0..self.lanes)
                .map(|lane| Cell { counts: counts(lane), ..Cell::default() })
                .collect();
            for (lane, cell) in cells.iter_mut().enumerate() {
                cell.feed();
                self.parts.push(Part { lane, record: self.entries.len(), fed: cell.fed });
                if cell.counts {
                    self.fates[lane].remove(&position);
                } else {
                    self.redelivered[lane] += 1;
                }
            }
            self.entries.push(Entry { position, cells, left: false });
        }
        self.next = self.next.max(from + n as u64);
        self.batches.push(n);
    }

    fn advance(&mut self) {
        match self.mode {
            Mode::Prefix | Mode::Finite => {
                let finite = self.mode == Mode::Finite;
                let passes = |e: &&mut Entry| e.is_settled() || finite && e.worst().is_some();
                for entry in self.entries.iter_mut().take_while(passes) {
                    if !entry.left {
                        entry.left = true;
                        self.settled += 1;
                        self.prefix = self.prefix.max(Some(entry.position));
                    }
                }
            }
            Mode::Each => {
                for entry in self.entries.iter_mut().filter(|e| !e.left) {
                    if let Some(fate) = entry.worst() {
                        entry.left = true;
                        if fate != Fate::Returned {
                            self.settled += 1;
                            self.prefix = Some(entry.position);
                        }
                    }
                }
            }
        }
    }

    fn reassign(&mut self) {
        for entry in std::mem::take(&mut self.entries) {
            for (lane, cell) in entry.cells.iter().enumerate().filter(|(_, cell)| cell.counts) {
                let fate = cell.fate().unwrap_or(Fate::Returned);
                self.fates[lane].insert(entry.position, fate);
            }
            // a copy that was settled counts for one that was given back
            for (lane, cell) in entry.cells.iter().enumerate().filter(|(_, cell)| !cell.counts) {
                let known = self.fates[lane].get_mut(&entry.position);
                if let (Some(known), true) = (known, cell.is_settled()) {
                    if *known == Fate::Returned {
                        *known = cell.fate().expect("it is settled");
                    }
                }
            }
        }
        for list in [&mut self.parts, &mut self.held, &mut self.late] {
            list.clear();
        }
        self.batches.clear();
        self.halted.fill(false);
        (self.settled, self.prefix) = (0, None);
    }

    /// How many records of a pipeline have this fate by now, or none.
    pub(super) fn count(&self, lane: usize, fate: Option<Fate>) -> u64 {
        let over = self.fates[lane].values().filter(|now| Some(**now) == fate).count();
        let flying = |entry: &&Entry| {
            let cell = &entry.cells[lane];
            cell.counts && cell.fate() == fate
        };
        (over + self.entries.iter().filter(flying).count()) as u64
    }
}

pub(super) fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Done), Just(Fate::Filtered), Just(Fate::Faulted), Just(Fate::Returned)]
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let mode =
            prop_oneof![3 => Just(Mode::Prefix), 1 => Just(Mode::Finite), 1 => Just(Mode::Each)];
        (mode, 1usize..4)
            .prop_map(|(mode, lanes)| Self {
                mode,
                lanes,
                entries: Vec::new(),
                batches: Vec::new(),
                parts: Vec::new(),
                held: Vec::new(),
                late: Vec::new(),
                halted: vec![false; lanes],
                settled: 0,
                prefix: None,
                next: 0,
                fates: vec![BTreeMap::new(); lanes],
                redelivered: vec![0; lanes],
            })
            .boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let (parts, held, late) = (model.parts.len(), model.held.len(), model.late.len());
        let back = if model.mode == Mode::Prefix { model.next.min(6) } else { 0 };
        let read = (prop_oneof![3 => Just(0), 1 => 0..=back], 1usize..6);
        let mut steps = vec![
            (3, read.prop_map(|(back, n)| Step::Read { back, n }).boxed()),
            (6, Just(Step::Advance).boxed()),
        ];
        if parts > 0 {
            let settle = (0..parts, fate()).prop_map(|(n, fate)| Step::Settle(n, fate));
            let split = (0..parts, 1u32..4).prop_map(|(n, parts)| Step::Split(n, parts));
            steps.push((12, settle.boxed()));
            steps.push((2, (0..parts).prop_map(Step::PutBack).boxed()));
            steps.push((3, split.boxed()));
            steps.push((4, (0..parts).prop_map(Step::Hold).boxed()));
        }
        if held > 0 {
            let unhold = (0..held, any::<bool>()).prop_map(|(n, stored)| Step::Unhold(n, stored));
            steps.push((4, unhold.boxed()));
        }
        if model.mode == Mode::Prefix {
            steps.push((2, (0..model.lanes).prop_map(Step::Restart).boxed()));
            steps.push((1, Just(Step::Reassign).boxed()));
        }
        if late > 0 {
            steps.push((2, (0..late, fate()).prop_map(|(n, fate)| Step::Late(n, fate)).boxed()));
        }
        proptest::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        match *step {
            Step::Read { back, .. } => {
                back <= model.next && (back == 0 || model.mode == Mode::Prefix)
            }
            Step::Settle(n, _) | Step::PutBack(n) | Step::Split(n, _) | Step::Hold(n) => {
                n < model.parts.len()
            }
            Step::Unhold(n, _) => n < model.held.len(),
            // the same epoch lives on while the record was not fed again
            Step::Late(n, _) => model.late.get(n).is_some_and(|part| model.is_late(*part)),
            Step::Restart(_) | Step::Reassign => model.mode == Mode::Prefix,
            Step::Advance => true,
        }
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        match *step {
            Step::Read { back, n } => model.read(back, n),
            Step::Settle(n, fate) => {
                let part = model.parts.swap_remove(n);
                model.cell(part).decide(fate, true);
                model.note(part, fate);
            }
            Step::PutBack(n) => {
                let part = model.parts.swap_remove(n);
                model.cell(part).decide(Fate::Returned, false);
                model.note(part, Fate::Returned);
            }
            Step::Split(n, parts) => {
                let part = model.parts[n];
                model.cell(part).undecided += parts - 1;
                model.parts.extend((1..parts).map(|_| part));
            }
            Step::Hold(n) => {
                let part = model.parts.swap_remove(n);
                let cell = model.cell(part);
                cell.undecided -= 1;
                cell.held += 1;
                model.held.push(part);
            }
            Step::Unhold(n, stored) => {
                let part = model.held.swap_remove(n);
                let cell = model.cell(part);
                cell.held -= 1;
                let fate = if stored { Fate::Faulted } else { Fate::Returned };
                cell.decided.push(fate);
                model.note(part, fate);
            }
            Step::Restart(lane) => model.restart(lane),
            Step::Late(..) => {}
            Step::Advance => model.advance(),
            Step::Reassign => model.reassign(),
        }
        model
    }
}
