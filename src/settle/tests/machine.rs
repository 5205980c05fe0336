//! The words of the lanes, the tracker and the history, driven side by side with the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest_state_machine::{StateMachineTest, prop_state_machine};

use super::model::{Mode, Model, Step};
use super::{Shared, batch};
use crate::record::{Position, Record};
use crate::settle::{Fate, Flag, History, LaneBatch, LaneState, Survey, Tally, Ticket, Tracker};
use crate::source::Ack;

struct Settlement {
    lanes: Vec<Arc<LaneState>>,
    batches: Vec<Vec<Arc<LaneBatch>>>,
    history: History,
    tracker: Tracker,
    parts: Vec<Ticket>,
    held: Vec<Ticket>,
    late: Vec<Ticket>,
    /// What is given to the source and to whoever asked for a finite batch, as the model's places.
    acks: Vec<(u64, Ack)>,
    outcomes: Vec<(Record, Fate)>,
}

impl Settlement {
    fn read(&mut self, model: &Model) {
        let n = *model.batches.last().expect("just read");
        let from = model.entries[model.entries.len() - n].position;
        let batch = batch(from, n);
        let sorted = Survey::of(&batch.records).sorted;
        let states: Vec<_> = self
            .lanes
            .iter()
            .enumerate()
            .map(|(index, lane)| {
                let ordered = model.mode != Mode::Each;
                let counts = self.history.reading(index, &batch.records, ordered, sorted);
                LaneBatch::new(batch.clone(), lane.clone(), counts)
            })
            .collect();
        self.tracker.push(batch, states.clone());
        for index in 0..n as u32 {
            for (lane, states) in self.lanes.iter().zip(&states) {
                self.parts.push(states.take(index, lane.epoch()).expect("it is new"));
            }
        }
        self.batches.push(states);
    }

    fn restart(&mut self, lane: usize) {
        let state = &self.lanes[lane];
        let ours = |part: &Ticket| Arc::ptr_eq(&part.batch.lane, state);
        let (gone, kept) = std::mem::take(&mut self.parts).into_iter().partition(ours);
        self.parts = kept;
        let gone: Vec<Ticket> = gone;
        for part in &gone {
            part.put_back();
        }
        self.late.extend(gone);
        let epoch = state.next_epoch();
        state.lower(Flag::HALTED);
        for states in &self.batches {
            let states = &states[lane];
            self.parts.extend((0..states.len() as u32).filter_map(|n| states.take(n, epoch)));
        }
    }

    fn advance(&mut self, model: &Model) {
        let before = self.tracker.settled();
        match model.mode {
            Mode::Prefix | Mode::Finite => {
                let moved = self.tracker.advance(&mut self.history);
                assert_eq!(moved, self.tracker.settled() > before);
            }
            Mode::Each => {
                let after = std::time::Duration::from_secs(7);
                let acks = self.tracker.collect(&mut self.history, |_, _| after);
                let number = |at: &Position| at.as_u64().expect("a number");
                self.acks.extend(acks.into_iter().map(|(at, ack)| (number(&at), ack)));
            }
        }
    }
}

impl StateMachineTest for Settlement {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        let Shared { lanes, .. } = Shared::new(model.lanes);
        if model.mode != Mode::Prefix {
            lanes.iter().for_each(|lane| lane.raise(Flag::FINAL));
        }
        Self {
            batches: Vec::new(),
            history: History::new(model.lanes),
            tracker: Tracker::new(model.mode == Mode::Finite),
            parts: Vec::new(),
            held: Vec::new(),
            late: Vec::new(),
            acks: Vec::new(),
            outcomes: Vec::new(),
            lanes,
        }
    }

    fn apply(mut real: Self, model: &Model, step: Step) -> Self {
        match step {
            Step::Read { .. } => real.read(model),
            Step::Settle(n, fate) => real.parts.swap_remove(n).settle(fate),
            Step::PutBack(n) => real.parts.swap_remove(n).put_back(),
            Step::Split(n, parts) => {
                assert!(real.parts[n].split(parts));
                for _ in 1..parts {
                    let again = real.parts[n].again();
                    real.parts.push(again);
                }
            }
            Step::Hold(n) => {
                let part = real.parts.swap_remove(n);
                assert!(part.hold());
                real.held.push(part);
            }
            Step::Unhold(n, stored) => {
                let fate = if stored { Fate::Faulted } else { Fate::Returned };
                real.held.swap_remove(n).unhold(fate);
            }
            Step::Restart(lane) => real.restart(lane),
            Step::Late(n, fate) => {
                let part = &real.late[n];
                let lane = part.batch.lane.clone();
                let before = lane.late();
                assert!(part.is_late());
                part.settle(fate);
                assert!(!part.split(3) && !part.hold());
                assert_eq!(lane.late(), before + 3);
            }
            Step::Advance => real.advance(model),
            Step::Reassign => {
                // a new assignment has new lanes; what is left of the old ones is nobody's
                real.tracker.close(&mut real.history);
                assert!(real.tracker.is_closed());
                let in_flight = (real.tracker.records_in_flight(), real.tracker.bytes_in_flight());
                assert_eq!(in_flight, (0, 0));
                real.tracker = Tracker::new(false);
                real.lanes = Shared::new(model.lanes).lanes;
                real.batches.clear();
                for list in [&mut real.parts, &mut real.held, &mut real.late] {
                    list.clear();
                }
            }
        }
        real
    }

    fn check_invariants(real: &Self, model: &Model) {
        // each record's word is the list of its parts
        let mut first = 0;
        for states in &real.batches {
            let n = states[0].len();
            for (lane, states) in states.iter().enumerate() {
                for index in 0..n {
                    let entry = &model.entries[first + index];
                    assert_eq!(states.fate(index), entry.fate(lane), "lane {lane} of {entry:?}");
                    assert_eq!(states.is_held(index), entry.is_held(lane));
                }
                assert_eq!(states.open() as usize, model.open(lane, first..first + n));
                assert_eq!(states.is_through(), model.mode == Mode::Prefix && states.open() == 0);
            }
            for index in 0..n {
                let open = real.tracker.is_open(&states[0].batch, index);
                assert_eq!(open, !model.entries[first + index].left);
            }
            first += n;
        }

        // somebody must feed again what was returned
        for (lane, halted) in real.lanes.iter().zip(&model.halted) {
            assert_eq!(lane.has(Flag::HALTED), *halted);
        }
        let mut places = BTreeMap::new();
        let both = real.parts.iter().zip(&model.parts).chain(real.held.iter().zip(&model.held));
        for (ticket, part) in both {
            assert!(!ticket.is_late());
            let entry = &model.entries[part.record];
            assert_eq!(ticket.record().position(), &Position::from(entry.position));
            assert_eq!(ticket.returns(), entry.returns(part.lane));
            let of_record = (part.lane, part.record);
            let here = places.entry(ticket.place()).or_insert(of_record);
            assert_eq!(*here, of_record, "one place a record");
        }
        for (ticket, part) in real.late.iter().zip(&model.late) {
            assert_eq!(ticket.is_late(), model.is_late(*part));
        }

        // O7: in flight is everything above the settled prefix, settled or not
        let tracker = &real.tracker;
        assert_eq!(tracker.records_in_flight(), model.in_flight());
        assert_eq!(tracker.bytes_in_flight() == 0, model.in_flight() == 0);
        let held = model.entries.iter().filter(|e| !e.left).map(|e| Position::from(e.position));
        assert_eq!(tracker.held(), held.collect::<Vec<_>>());

        // I2: the prefix passes nothing that is not settled
        assert_eq!(tracker.settled(), model.settled);
        assert_eq!(tracker.prefix(), model.prefix.map(Position::from).as_ref());
        assert_eq!(tracker.prefix_arrival().is_some(), model.prefix.is_some());
        let oldest = tracker.oldest().map(|record| record.position().clone());
        assert_eq!(oldest, model.oldest().map(Position::from));
        for lane in 0..model.lanes {
            assert_eq!(tracker.open_of(lane), model.open(lane, 0..model.entries.len()));
            let oldest =
                tracker.oldest_of(lane).map(|(states, n)| states.batch.records[n].position());
            let open = |e: &&super::model::Entry| {
                !e.left && e.fate(lane).is_none_or(|fate| fate == Fate::Returned)
            };
            let expected = match model.mode {
                // where a return is final, nobody asks
                Mode::Prefix => model.entries.iter().find(open).map(|e| e.position),
                _ => continue,
            };
            assert_eq!(oldest, expected.map(Position::from).as_ref());
        }

        // S1, and the report: whatever comes again, a record counts once a pipeline, by its last fate
        for lane in 0..model.lanes {
            let mut tally = Tally::default();
            tally.add(&real.history.tallies[lane]);
            tally.add(&tracker.tally(lane));
            let count = |fate| model.count(lane, Some(fate));
            let expected = Tally {
                read: count(Fate::Done)
                    + count(Fate::Filtered)
                    + count(Fate::Faulted)
                    + count(Fate::Returned)
                    + model.count(lane, None),
                done: count(Fate::Done),
                filtered: count(Fate::Filtered),
                faulted: count(Fate::Faulted),
                returned: count(Fate::Returned),
                redelivered: model.redelivered[lane],
            };
            assert_eq!(tally, expected, "lane {lane}");
            assert_eq!(tally.open(), model.count(lane, None));
        }

        if model.mode == Mode::Each {
            let mut acks = real.acks.clone();
            acks.sort_by_key(|(at, _)| *at);
            let expected: Vec<_> = model
                .entries
                .iter()
                .filter(|entry| entry.left)
                .map(|entry| (entry.position, entry.worst().expect("it was decided")))
                .collect();
            assert_eq!(acks.len(), expected.len(), "one answer a record");
            for ((at, ack), (position, fate)) in acks.iter().zip(&expected) {
                assert_eq!(at, position);
                assert!(
                    match fate {
                        Fate::Returned => matches!(ack, Ack::Again { .. }),
                        Fate::Faulted => matches!(ack, Ack::Faulted),
                        Fate::Done | Fate::Filtered => matches!(ack, Ack::Done),
                    },
                    "{ack:?} for {fate:?}"
                );
            }
        }
    }

    fn teardown(mut real: Self, model: Model) {
        if model.mode == Mode::Finite {
            real.tracker.give_up(&mut real.history);
            real.outcomes = real.tracker.take_outcomes();
            let found =
                real.outcomes.iter().map(|(record, fate)| (record.position().clone(), *fate));
            let expected = model.entries.iter().map(|entry| {
                let undecided = (0..model.lanes).any(|lane| entry.fate(lane).is_none());
                let fate = if undecided { Fate::Returned } else { entry.worst().expect("all are") };
                (Position::from(entry.position), fate)
            });
            assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}

prop_state_machine! {
    /// Through splits, holds, restarts, late units, redelivery and new assignments.
    #[test]
    fn i2_i3_o7_s1_settlement_is_the_list_of_its_records(sequential 1..120 => Settlement);
}
