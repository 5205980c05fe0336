//! What threads share, under a scheduler that tries interleavings: the words of records, the waking of slots and
//! lanes, the fault list; a resource's state has its own file. Run by `scripts/threads`.
//!
//! A wake-up that is lost is a deadlock here, and fails. What is not ours (`AtomicWaker`, `Notify`) is taken as one step.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures::task::AtomicWaker;
use shuttle::Runner;
use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread::spawn;

use crate::error::{Class, StepError};
use crate::fault::{FaultList, Refusal, hand_over};
use crate::flow::slots::{Deadlines, Slots};
use crate::settle::tests::{Shared, batch};
use crate::settle::{Fate, Flag, History, LaneBatch, Tracker};
use crate::unit::Lineage;

/// Tries so many interleavings of `story`, half of them at random and half with few switches at chosen places.
pub(crate) fn explore(story: impl Fn() + Send + Sync + 'static) {
    let set = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (times, seed) = (set("INTERLEAVINGS").unwrap_or(2_000) as usize, set("SEED").unwrap_or(1));
    let story = Arc::new(story);
    let again = story.clone();
    let random = RandomScheduler::new_from_seed(seed, times / 2);
    Runner::new(random, Default::default()).run(move || again());
    let few_switches = PctScheduler::new_from_seed(seed, 3, times / 2);
    Runner::new(few_switches, Default::default()).run(move || story());
}

#[test]
fn o11_no_wake_up_of_a_slot_is_lost() {
    /// How often it has been woken.
    #[derive(Default)]
    struct Bell(AtomicU32, AtomicWaker);

    explore(|| {
        const ROUNDS: u32 = 2;
        let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
        let deadlines = Deadlines::new(bells.len());
        let mut slots = Slots::new(bells.len(), deadlines);
        for bell in &bells {
            let (slot, bell) = (slots.next_free(), bell.clone());
            let waits = poll_fn(move |cx| {
                bell.1.register(cx.waker());
                if bell.0.load(Ordering::SeqCst) == ROUNDS {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            assert!(slots.start(slot, waits).is_none());
        }
        let ringing: Vec<_> = bells
            .into_iter()
            .map(|bell| {
                spawn(move || {
                    for _ in 0..ROUNDS {
                        bell.0.fetch_add(1, Ordering::SeqCst);
                        bell.1.wake();
                    }
                })
            })
            .collect();
        let mut done = 0;
        block_on(poll_fn(|cx| {
            slots.poll(cx, |_, ()| done += 1);
            if slots.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        }));
        assert_eq!(done, 3);
        ringing.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
}

#[test]
fn i2_the_prefix_passes_only_what_is_settled_and_the_shard_hears_of_it() {
    explore(|| {
        let Shared { lanes, signal, .. } = Shared::new(2);
        let batch = batch(0, 2);
        let mut history = History::new(2);
        let states: Vec<_> = lanes
            .iter()
            .enumerate()
            .map(|(index, lane)| {
                let counts = history.reading(index, &batch.records, true, true);
                LaneBatch::new(batch.clone(), lane.clone(), counts)
            })
            .collect();
        let mut tracker = Tracker::new(false);
        tracker.push(batch, states.clone());
        // what has been decided, as those who decide know it: noted before
        let decided: Arc<[AtomicU32; 2]> = Arc::default();
        let first_seen = Arc::new(AtomicBool::new(false));
        let bell: Arc<tokio::sync::Notify> = Arc::default();
        let mut threads = Vec::new();
        for states in &states {
            let [first, second] = [0, 1].map(|n| states.take(n, 0).expect("it is new"));
            let (decided, first_seen, bell) = (decided.clone(), first_seen.clone(), bell.clone());
            let lane = states.lane.clone();
            threads.push(spawn(move || {
                decided[0].fetch_add(1, Ordering::SeqCst);
                first.settle(Fate::Done);
                // as a lane does at the end of a turn that leaves it nothing to do
                lane.went_hungry();
                // the second waits until the shard has seen the first: it must hear of it, though its batch is open
                block_on(async {
                    while !first_seen.load(Ordering::SeqCst) {
                        let rung = bell.notified();
                        if first_seen.load(Ordering::SeqCst) {
                            break;
                        }
                        rung.await;
                    }
                });
                assert!(second.hold());
                decided[1].fetch_add(1, Ordering::SeqCst);
                second.unhold(Fate::Faulted);
            }));
        }
        // the reader comes to its limit meanwhile
        let (full, told) = (lanes.clone(), signal.clone());
        threads.push(spawn(move || {
            full.iter().for_each(|lane| lane.raise(Flag::WANTED));
            told.notify_one();
        }));
        block_on(async {
            loop {
                tracker.advance(&mut history);
                let settled = tracker.settled();
                for (n, decided) in decided.iter().enumerate().take(settled as usize) {
                    assert_eq!(decided.load(Ordering::SeqCst), 2, "I2: record {n} is not decided");
                }
                if settled >= 1 && !first_seen.swap(true, Ordering::SeqCst) {
                    bell.notify_waiters();
                }
                if settled == 2 {
                    break;
                }
                signal.notified().await;
            }
        });
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        assert_eq!((tracker.records_in_flight(), tracker.bytes_in_flight()), (0, 0));
        assert_eq!((history.tallies[0].done, history.tallies[0].faulted), (1, 1));
    });
}

#[test]
fn t6_a_late_unit_and_the_flow_that_feeds_its_record_again_decide_it_once() {
    explore(|| {
        let lane = Shared::new(1).lanes.remove(0);
        let states = LaneBatch::new(batch(0, 1), lane.clone(), None);
        let late = states.take(0, lane.epoch()).expect("it is new");
        let by_fault = late.again();
        let foreign = spawn(move || {
            // it is cut in two, and its parts end on another thread
            if late.split(2) {
                late.settle(Fate::Done);
                if by_fault.hold() {
                    by_fault.unhold(Fate::Faulted);
                }
            }
        });
        let epoch = lane.next_epoch();
        let mut fed = 0;
        loop {
            if let Some(again) = states.take(0, epoch) {
                fed += 1;
                again.settle(Fate::Done);
            }
            // a part that waits for the fault sink is fed when that has answered
            if states.is_settled(0) {
                break;
            }
            shuttle::thread::yield_now();
        }
        foreign.join().expect("it does not panic");
        assert!(fed <= 1);
        assert_eq!(states.open(), 0, "it is settled once");
        let fate = states.fate(0).expect("it is decided");
        assert_eq!(fate, if fed == 1 { Fate::Done } else { Fate::Faulted });
    });
}

#[test]
fn i1_units_that_are_dropped_on_foreign_threads_are_returned_and_their_lane_hears_of_it() {
    explore(|| {
        let lane = Shared::new(1).lanes.remove(0);
        let states = LaneBatch::new(batch(0, 2), lane.clone(), None);
        let threads: Vec<_> = (0..2)
            .map(|n| {
                let unit = Lineage::one(states.take(n, 0).expect("it is new"));
                spawn(move || drop(unit))
            })
            .collect();
        block_on(poll_fn(|cx| {
            lane.waker.register(cx.waker());
            if lane.has(Flag::HALTED) { Poll::Ready(()) } else { Poll::Pending }
        }));
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        assert_eq!([states.fate(0), states.fate(1)], [Some(Fate::Returned); 2]);
        assert_eq!(states.open(), 2, "nothing is settled by a drop");
    });
}

#[test]
fn f1_every_fault_is_taken_stored_and_settles_its_record() {
    explore(|| {
        let Shared { lanes, faults, .. } = Shared::new(1);
        let states = LaneBatch::new(batch(0, 3), lanes[0].clone(), None);
        let list: Arc<FaultList> = faults.clone();
        let publisher = spawn(move || {
            block_on(async {
                let mut stored = 0;
                while let Some(drafts) = list.take(2, false).await {
                    for draft in drafts {
                        assert!(list.unconfirmed() > 0);
                        list.confirm(draft.held, uuid::Uuid::nil());
                        stored += 1;
                    }
                }
                stored
            })
        });
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let unit = Lineage::one(states.take(n, 0).expect("it is new"));
                let lane = lanes[0].clone();
                spawn(move || {
                    let refusal = Refusal::new(StepError::new(Class::Fault, "poison"));
                    assert!(hand_over(&lane, None, unit, refusal));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        faults.close();
        assert_eq!(publisher.join().expect("it does not panic"), 3);
        assert_eq!((faults.unconfirmed(), faults.waiting_since()), (0, None));
        assert!((0..3).all(|n| states.fate(n) == Some(Fate::Faulted)));
        assert_eq!(states.open(), 0);
    });
}
