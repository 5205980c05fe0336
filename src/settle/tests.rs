//! Lanes' words and the tracker against a naive model: parts as a list, records as a list of fates.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use tokio::sync::Notify;

use super::{
    Batch, Fate, Flag, History, LaneBatch, LaneState, PipelineInfo, Tally, Ticket, Tracker,
};
use crate::clock::SystemClock;
use crate::envelope::JsonEnvelope;
use crate::fault::{FaultList, FloodGuard, Floodgate};
use crate::record::{Position, Record, ShardId};

fn lane() -> Arc<LaneState> {
    let info = PipelineInfo {
        name: "q".to_owned(),
        index: 0,
        processor: "p".to_owned(),
        formerly: Vec::new(),
        stages: OnceLock::new(),
        flood: Floodgate::new(FloodGuard::off(), "p", "q"),
        restarts: Default::default(),
        paused: Default::default(),
        settings: OnceLock::new(),
        lines: Default::default(),
    };
    LaneState::new(
        Arc::new(info),
        "s".into(),
        ShardId::new("0"),
        Arc::new(FaultList::default()),
        Arc::new(SystemClock),
        Arc::new(Notify::new()),
    )
}

fn batch(from: u64, n: usize) -> Arc<Batch> {
    let records =
        (from..from + n as u64).map(|at| Record::new("s", "0", Position::from(at), "x")).collect();
    Batch::new(records, Arc::new(JsonEnvelope::new()), None, false)
}

/// What can happen to one record; `n` chooses a part.
#[derive(Clone, Copy, Debug)]
enum Step {
    Settle(usize, Fate),
    PutBack(usize),
    Split(usize, u32),
    Hold(usize),
    Unhold(usize, bool),
    /// The flow is dropped: its undecided parts are put back, and the lane is built anew.
    Restart,
    /// A part of a flow before decides something, late.
    Late(usize, Fate),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Done), Just(Fate::Filtered), Just(Fate::Faulted), Just(Fate::Returned)]
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0usize..6;
    prop_oneof![
        4 => (n(), fate()).prop_map(|(n, fate)| Step::Settle(n, fate)),
        1 => n().prop_map(Step::PutBack),
        2 => (n(), 1u32..4).prop_map(|(n, parts)| Step::Split(n, parts)),
        3 => n().prop_map(Step::Hold),
        3 => (n(), any::<bool>()).prop_map(|(n, stored)| Step::Unhold(n, stored)),
        2 => Just(Step::Restart),
        1 => (n(), fate()).prop_map(|(n, fate)| Step::Late(n, fate)),
    ]
}

/// The model of one record: what was decided, and what is not.
#[derive(Default)]
struct Model {
    decided: Vec<Fate>,
    undecided: usize,
    held: usize,
}

impl Model {
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
}

proptest! {
    /// The word of a record is its parts, through splits, holds, restarts and late units.
    #[test]
    fn a_records_word_is_the_list_of_its_parts(steps in proptest::collection::vec(step(), 0..60)) {
        let lane = lane();
        let states = LaneBatch::new(batch(0, 1), lane.clone(), None);
        let mut epoch = lane.epoch();
        let mut parts: Vec<Ticket> = states.take(0, epoch).into_iter().collect();
        let (mut held, mut late): (Vec<Ticket>, Vec<Ticket>) = Default::default();
        let mut model = Model { undecided: 1, ..Model::default() };
        for step in steps {
            let before = (states.fate(0), states.open(), lane.late());
            match step {
                Step::Settle(n, fate) if n < parts.len() => {
                    parts.swap_remove(n).settle(fate);
                    model.undecided -= 1;
                    model.decided.push(fate);
                }
                Step::PutBack(n) if n < parts.len() => {
                    parts.swap_remove(n).put_back();
                    model.undecided -= 1;
                    model.decided.push(Fate::Returned);
                }
                Step::Split(n, more) if n < parts.len() => {
                    prop_assert!(parts[n].split(more));
                    for _ in 1..more {
                        let again = parts[n].again();
                        parts.push(again);
                    }
                    model.undecided += more as usize - 1;
                }
                Step::Hold(n) if n < parts.len() => {
                    let part = parts.swap_remove(n);
                    prop_assert!(part.hold());
                    held.push(part);
                    model.undecided -= 1;
                    model.held += 1;
                }
                Step::Unhold(n, stored) if n < held.len() => {
                    let fate = if stored { Fate::Faulted } else { Fate::Returned };
                    held.swap_remove(n).unhold(fate);
                    model.held -= 1;
                    model.decided.push(fate);
                }
                Step::Restart => {
                    for part in parts.drain(..) {
                        late.push(part.again());
                        part.put_back();
                        model.undecided -= 1;
                        model.decided.push(Fate::Returned);
                    }
                    let fed = model.fate() == Some(Fate::Returned);
                    epoch = lane.next_epoch();
                    lane.lower(Flag::HALTED);
                    let taken = states.take(0, epoch);
                    prop_assert_eq!(taken.is_some(), fed, "fed again unless settled or held");
                    if let Some(ticket) = taken {
                        parts.push(ticket);
                        model = Model { undecided: 1, ..Model::default() };
                    }
                }
                // the same epoch lives on while the record was not fed again
                Step::Late(n, fate) if n < late.len() && late[n].is_late() => {
                    late[n].settle(fate);
                    prop_assert!(!late[n].split(3));
                    prop_assert!(!late[n].hold());
                    prop_assert_eq!((states.fate(0), states.open()), (before.0, before.1));
                    prop_assert!(lane.late() > before.2);
                }
                _ => {}
            }
            prop_assert_eq!(states.fate(0), model.fate());
            prop_assert_eq!(states.is_settled(0), model.is_settled());
            prop_assert_eq!(states.open(), u32::from(!model.is_settled()));
            if model.fate() == Some(Fate::Returned) {
                prop_assert!(lane.has(Flag::HALTED), "somebody must feed it again");
            }
        }
    }

    /// O7, I2 and the report: in flight is everything above the settled prefix; the prefix passes nothing that
    /// is not settled; every record read has one place in the report.
    #[test]
    fn o7_i2_the_tracker_is_the_list_of_its_records(
        sizes in proptest::collection::vec(1usize..6, 1..12),
        order in proptest::collection::vec((any::<proptest::sample::Index>(), fate()), 0..80),
        give_up in any::<bool>(),
    ) {
        let lane = lane();
        let mut history = History::new(1);
        let mut tracker = Tracker::new(false);
        let mut open: Vec<(u64, Ticket)> = Vec::new();
        let mut fates: VecDeque<Option<Fate>> = VecDeque::new();
        let mut sizes = sizes.into_iter();
        let (mut at, mut read) = (0u64, 0u64);
        for (index, fate) in order {
            if index.index(3) == 0 {
                if let Some(n) = sizes.next() {
                    let batch = batch(at, n);
                    let counts = history.reading(0, &batch.records, true, true);
                    let states = LaneBatch::new(batch.clone(), lane.clone(), counts);
                    tracker.push(batch, vec![states.clone()]);
                    for n in 0..n {
                        open.push((at, states.take(n as u32, 0).expect("it is new")));
                        fates.push_back(None);
                        at += 1;
                        read += 1;
                    }
                }
            }
            if !open.is_empty() {
                let (at, ticket) = open.swap_remove(index.index(open.len()));
                ticket.settle(fate);
                fates[at as usize] = Some(fate);
            }
            tracker.advance(&mut history);
            let settled = |fate: &Option<Fate>| fate.is_some_and(|fate| fate != Fate::Returned);
            let prefix = fates.iter().take_while(|fate| settled(fate)).count();
            prop_assert_eq!(tracker.records_in_flight(), fates.len() - prefix);
            prop_assert_eq!(tracker.settled(), prefix as u64);
            let last = prefix.checked_sub(1).map(|at| Position::from(at as u64));
            prop_assert_eq!(tracker.prefix(), last.as_ref());
            let oldest = (prefix < fates.len()).then(|| Position::from(prefix as u64));
            prop_assert_eq!(tracker.oldest().map(|r| r.position().clone()), oldest);
            prop_assert_eq!(tracker.bytes_in_flight() == 0, tracker.records_in_flight() == 0);
        }
        if give_up {
            drop(open);
            tracker.give_up(&mut history);
            prop_assert_eq!((tracker.records_in_flight(), tracker.bytes_in_flight()), (0, 0));
        }
        let mut tally = Tally::default();
        tally.add(&history.tallies[0]);
        tally.add(&tracker.tally(0));
        let count = |fate| fates.iter().filter(|f| **f == Some(fate)).count() as u64;
        let undecided = fates.iter().filter(|f| f.is_none()).count() as u64;
        prop_assert_eq!(tally.read, read);
        prop_assert_eq!((tally.done, tally.filtered, tally.faulted),
            (count(Fate::Done), count(Fate::Filtered), count(Fate::Faulted)));
        let (returned, open) = if give_up { (undecided, 0) } else { (0, undecided) };
        prop_assert_eq!((tally.returned, tally.open()), (count(Fate::Returned) + returned, open));
    }
}
