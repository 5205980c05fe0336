//! Settlement as a state machine, against a model that knows neither words nor batches.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::batch::Trace;
use super::{Batch, Fate, Flag, History, LaneBatch, LaneState, PipelineInfo, Survey, WaitsFor};
use crate::clock::SystemClock;
use crate::envelope::JsonEnvelope;
use crate::error::Class;
use crate::fault::{FaultList, FloodGuard, Floodgate};
use crate::record::{Position, Record, ShardId};

mod machine;
mod model;

/// What the lanes of one shard share, and they themselves: one a pipeline.
pub(crate) struct Shared {
    pub(crate) lanes: Vec<Arc<LaneState>>,
    #[cfg_attr(not(shuttle), expect(dead_code, reason = "for `threads`"))]
    pub(crate) faults: Arc<FaultList>,
    pub(crate) signal: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(lanes: usize) -> Self {
        let faults = Arc::new(FaultList::default());
        let signal = Arc::new(Notify::new());
        let lane = |index| {
            LaneState::new(
                Arc::new(Self::info(index)),
                "s".into(),
                ShardId::new("0"),
                faults.clone(),
                Arc::new(SystemClock),
                signal.clone(),
            )
        };
        Self { lanes: (0..lanes).map(lane).collect(), faults, signal }
    }

    fn info(index: usize) -> PipelineInfo {
        PipelineInfo {
            name: format!("q{index}"),
            index,
            processor: "p".to_owned(),
            formerly: Vec::new(),
            stages: OnceLock::new(),
            flood: Floodgate::new(FloodGuard::off(), "p", "q"),
            restarts: Default::default(),
            paused: Default::default(),
            settings: OnceLock::new(),
            lines: Default::default(),
        }
    }
}

pub(crate) fn batch(from: u64, n: usize) -> Arc<Batch> {
    let records: Vec<_> =
        (from..from + n as u64).map(|at| Record::new("s", "0", Position::from(at), "x")).collect();
    let bytes = Survey::of(&records).bytes;
    Batch::new(records, bytes, Arc::new(JsonEnvelope::new()), None, false)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn flags_are_bits_of_their_own() {
    let all = [
        Flag::HALTED,
        Flag::FATAL,
        Flag::PRESSURE,
        Flag::PAUSED,
        Flag::CLOSING,
        Flag::FINAL,
        Flag::DRAINING,
        Flag::WANTED,
        Flag::LOST,
        Flag::RESTING,
        Flag::SKIPPING,
        Flag::EACH,
        Flag::TIMED,
        Flag::HUNGRY,
    ];
    assert!(all.iter().all(|flag| flag.is_power_of_two()));
    assert_eq!(all.iter().fold(0, |seen, flag| seen | flag).count_ones() as usize, all.len());
}

#[test]
fn o11_a_flag_that_changes_wakes_the_lane_and_one_that_does_not_lets_it_sleep() {
    let lane = Shared::new(1).lanes.remove(0);
    let woken = Arc::new(Woken::default());
    let times = |change: &dyn Fn(&LaneState)| {
        lane.waker.register(&woken.clone().into());
        let before = woken.0.load(Ordering::SeqCst);
        change(&lane);
        woken.0.load(Ordering::SeqCst) - before
    };
    assert_eq!(times(&|lane| lane.raise(Flag::PAUSED)), 1);
    assert_eq!(times(&|lane| lane.raise(Flag::PAUSED)), 0);
    assert_eq!(times(&|lane| lane.raise(Flag::PAUSED | Flag::WANTED)), 1);
    assert_eq!(times(&|lane| lane.lower(Flag::FINAL)), 0);
    assert_eq!(times(&|lane| lane.lower(Flag::PAUSED)), 1);
    assert!(!lane.has(Flag::PAUSED) && lane.has(Flag::WANTED), "the other flag stays");
    assert_eq!(times(&|lane| lane.lower(Flag::PAUSED)), 0);
}

#[test]
fn i9_the_shard_hears_of_a_closed_batch_and_of_every_record_when_it_wants_to() {
    let Shared { lanes, signal, .. } = Shared::new(1);
    let lane = &lanes[0];
    let heard = || {
        let mut heard = std::pin::pin!(signal.notified());
        heard.as_mut().enable()
    };
    let states = LaneBatch::new(batch(0, 5), lane.clone(), None);
    let [first, second, third, fourth, last] =
        [0, 1, 2, 3, 4].map(|n| states.take(n, 0).expect("it is new"));
    first.settle(Fate::Done);
    assert!(!heard(), "its batch is open, and nobody waits");
    lane.went_hungry();
    assert!(!heard(), "still nobody waits");
    lane.was_fed();
    lane.raise(Flag::WANTED);
    second.settle(Fate::Filtered);
    assert!(!heard(), "the lane has more to do");
    lane.went_hungry();
    assert!(heard(), "it has not told of the second");
    lane.went_hungry();
    assert!(!heard());
    third.settle(Fate::Filtered);
    assert!(heard() && lane.is_awaited());
    lane.was_fed();
    fourth.settle(Fate::Filtered);
    assert!(!heard() && !lane.is_awaited());
    lane.lower(Flag::WANTED);
    let woken = Arc::new(Woken::default());
    lane.waker.register(&woken.clone().into());
    assert!(last.done_quietly(), "it is left to the caller");
    assert!(!heard());
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "the lane may wait for no more than this");

    let states = LaneBatch::new(batch(3, 2), lane.clone(), None);
    assert!(!states.take(0, 0).expect("it is new").done_quietly(), "its batch is open");
    states.take(1, 0).expect("it is new").settle(Fate::Returned);
    assert!(heard() && lane.has(Flag::HALTED));
}

#[test]
fn f9_that_a_record_was_dropped_is_remembered_when_it_is_fed_again() {
    let lane = Shared::new(1).lanes.remove(0);
    let states = LaneBatch::new(batch(0, 1), lane.clone(), None);
    let ticket = states.take(0, lane.epoch()).expect("it is new");
    assert!(!ticket.mark_dropped());
    ticket.put_back();
    let again = states.take(0, lane.next_epoch()).expect("it was returned");
    assert!(again.mark_dropped(), "for the second time");
    assert_eq!((lane.epoch(), lane.restarts(), again.returns()), (1, 1, 0));
    assert_eq!((lane.next_epoch(), lane.restarts()), (2, 2));
}

#[test]
fn i10_how_often_a_record_was_returned_before_is_kept_and_nothing_else_of_it_changes() {
    let lane = Shared::new(1).lanes.remove(0);
    let epoch = lane.next_epoch();
    let states = LaneBatch::new(batch(0, 3), lane.clone(), None);
    states.follow(0, Trace::returned(3));
    states.follow(1, Trace::returned(1_000));
    assert_eq!([0, 1, 2].map(|n| states.returns(n)), [3, 255, 0], "more than 255 is 255");
    assert_eq!(states.trace(0), Trace::returned(3));
    let [first, second, third] = [0, 1, 2].map(|n| states.take(n, epoch).expect("it is new"));
    assert!([&first, &second, &third].iter().all(|ticket| !ticket.is_late()));
    first.settle(Fate::Returned);
    second.settle(Fate::Returned);
    third.put_back();
    assert_eq!([0, 1, 2].map(|n| states.returns(n)), [4, 255, 0]);
    assert_eq!([0, 1, 2].map(|n| states.fate(n)), [Some(Fate::Returned); 3]);
}

#[test]
fn a_unit_waits_at_the_place_of_its_record() {
    let lane = Shared::new(1).lanes.remove(0);
    let states = LaneBatch::new(batch(0, 3), lane.clone(), None);
    let other = LaneBatch::new(batch(0, 3), lane, None);
    for n in 0..3 {
        let ticket = states.take(n, 0).expect("it is new");
        assert_eq!(ticket.place(), states.place(n));
        assert_ne!(ticket.place(), other.place(n), "another batch");
        assert_eq!(ticket.record().position(), &Position::from(u64::from(n)));
    }
}

/// As many as are remembered, and one more.
#[test]
fn o6_of_records_that_are_given_back_for_ever_only_so_many_are_remembered() {
    const MANY: u64 = 100_000;
    let record = |at: u64| Record::new("s", "0", Position::from(at), "x");
    let mut history = History::new(1);
    for at in 0..MANY {
        assert_eq!(history.give_back(&Position::from(at), Box::new([Trace::returned(1)])), 1);
    }
    // one that is known needs no room
    assert_eq!(history.give_back(&Position::from(5), Box::new([Trace::returned(2)])), 2);
    let known = |history: &History, at: u64| {
        history.given_back(&[record(at)]).map(|(_, before)| before.traces[0]).next()
    };
    assert_eq!(
        [0, 5, MANY - 1].map(|at| known(&history, at)),
        [1, 2, 1].map(|times| Some(Trace::returned(times)))
    );
    // a new one takes that of the oldest
    assert_eq!(history.give_back(&Position::from(MANY), Box::new([Trace::returned(1)])), 1);
    assert_eq!([0, 1, MANY].map(|at| known(&history, at).is_some()), [false, true, true]);
    history.keep(&Position::from(MANY));
    assert_eq!(known(&history, MANY), None);
}

#[test]
fn a_record_has_so_many_parts_and_no_more() {
    let states = LaneBatch::new(batch(0, 1), Shared::new(1).lanes.remove(0), None);
    let ticket = states.take(0, 0).expect("it is new");
    assert!(!ticket.split(0x1_0000), "there is no room for them");
    assert!(ticket.split(0xffff));
    assert!(!ticket.split(2));
    assert!(ticket.split(1), "that is none more");
    (0..0xffff).for_each(|_| ticket.settle(Fate::Done));
    assert_eq!((states.fate(0), states.open()), (Some(Fate::Done), 0));
}

#[test]
fn a_lane_knows_what_its_units_wait_for() {
    let lane = Shared::new(1).lanes.remove(0);
    let states = LaneBatch::new(batch(0, 3), lane.clone(), None);
    let [first, second, third] = [0, 1, 2].map(|n| states.place(n));
    let waits = [(first, WaitsFor::Rate), (second, WaitsFor::Rate), (third, WaitsFor::Retry)];
    let notes: Vec<_> = waits.iter().map(|(at, what)| lane.waiting(Some(*at), *what)).collect();
    let units = lane.waiting_units();
    assert_eq!((units[&WaitsFor::Rate], units[&WaitsFor::Retry], units.len()), (2, 1, 2));
    assert_eq!(lane.waits_for(third), Some(WaitsFor::Retry));
    drop(notes);
    assert_eq!((lane.waits_for(third), lane.waiting_units().len()), (None, 0));
    let names: std::collections::BTreeSet<_> = WaitsFor::ALL.iter().map(|w| w.as_str()).collect();
    assert_eq!(names.len(), WaitsFor::ALL.len());
    assert!(names.contains("breaker") && !names.contains(""));
    assert_eq!(lane.last_class(), None);
    lane.note_class(Class::Panic);
    assert_eq!(lane.last_class(), Some(Class::Panic));
}

#[tokio::test(start_paused = true)]
async fn a_turn_reads_the_clock_once() {
    let lane = Shared::new(1).lanes.remove(0);
    let ms = std::time::Duration::from_millis;
    tokio::time::advance(ms(1)).await;
    let (start, turn) = (lane.now(), lane.turn());
    tokio::time::advance(ms(7)).await;
    assert_eq!((lane.now(), lane.turn()), (start, turn), "the same turn");
    lane.begin_turn();
    assert_eq!(lane.now(), start + ms(7));
    assert!(lane.instant(lane.turn()) > lane.instant(turn));
    assert_eq!(lane.instant(lane.at(start + ms(9))), start + ms(9));
}

#[test]
fn a_pipeline_answers_to_its_name_and_to_those_it_had() {
    let mut info =
        PipelineInfo { formerly: vec!["old".to_owned(), "older".to_owned()], ..Shared::info(0) };
    assert!(["q0", "old", "older"].iter().all(|name| info.is_called(name)));
    assert!(!info.is_called("q"));
    info.formerly.clear();
    assert!(info.is_called("q0") && !info.is_called("old"));
}

#[test]
fn s5_a_return_that_is_final_is_not_fed_again_and_what_is_undecided_is() {
    let lane = Shared::new(1).lanes.remove(0);
    let states = LaneBatch::new(batch(0, 2), lane.clone(), None);
    let [returned, undecided] = [0, 1].map(|n| states.take(n, 0).expect("it is new"));
    lane.raise(Flag::FINAL);
    returned.settle(Fate::Returned);
    assert!(undecided.split(2));
    undecided.settle(Fate::Returned);
    assert_eq!(states.open(), 1, "a final return closes its record");
    assert!(!lane.has(Flag::HALTED) && !states.is_through());
    let epoch = lane.next_epoch();
    assert!(states.take(0, epoch).is_none());
    assert!(states.take(1, epoch).is_some());
}

#[test]
fn one_look_at_the_records_of_a_read_says_what_has_to_be_known() {
    let at = |position| Record::new("s", "0", Position::from(position), "12345");
    assert_eq!(
        Survey::of(&[]),
        Survey { sorted: true, bytes: 0, headers: false, deliveries: 0 },
        "of none"
    );
    let plain = Survey::of(&[at(1), at(3)]);
    assert_eq!(plain, Survey { sorted: true, bytes: 10, headers: false, deliveries: 1 });
    assert!(!Survey::of(&[at(1), at(3), at(3), at(4)]).sorted, "the same twice");
    assert!(!Survey::of(&[at(1), at(3), at(2)]).sorted, "one that goes back");
    let rich =
        Survey::of(&[at(1).with_key("key").with_deliveries(4), at(2).with_header("a", "bc")]);
    assert_eq!(rich, Survey { sorted: true, bytes: 16, headers: true, deliveries: 4 });
}
