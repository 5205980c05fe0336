//! What a lane decides and its shard waits for, under a model of memory: whatever order the two threads see each
//! other's stores in, the shard sees the record or is told of it. Run by `scripts/threads`.
//!
//! `threads` tries interleavings of whole steps; what is tried here are the orderings of the atomics.

use futures::FutureExt;
use loom::model;
use loom::thread::spawn;

use super::tests::{Shared, batch};
use super::{Fate, Flag, LaneBatch};

/// Lets a thread decide the first of two records, so that their batch stays open, by `decide`, while the shard comes to
/// its limit.
fn decided_while_the_reader_comes_to_its_limit(
    hungry: bool,
    decide: impl Fn(&LaneBatch, super::Ticket) + Clone + Send + Sync + 'static,
) {
    model(move || {
        let Shared { lanes, signal, .. } = Shared::new(1);
        let lane = lanes[0].clone();
        let states = LaneBatch::new(batch(0, 2), lane.clone(), None);
        let record = states.take(0, 0).expect("it is new");
        if hungry {
            lane.went_hungry();
        }
        let (decide, theirs) = (decide.clone(), states.clone());
        let worker = spawn(move || decide(&theirs, record));
        lane.raise(Flag::WANTED);
        states.is_through();
        let seen = states.is_settled(0);
        worker.join().expect("it does not panic");
        let told = signal.notified().now_or_never().is_some();
        assert!(seen || told, "the shard sleeps over a settled record");
    });
}

#[test]
fn i9_of_a_record_that_the_lane_is_done_with() {
    decided_while_the_reader_comes_to_its_limit(true, |states, record| {
        // as at the end of a lane's turn
        if record.done_quietly() || states.lane.is_awaited() {
            states.lane.settled();
        }
    });
}

#[test]
fn i9_of_a_record_that_is_decided_on_a_foreign_thread() {
    decided_while_the_reader_comes_to_its_limit(true, |_, record| record.settle(Fate::Filtered));
}

#[test]
fn i9_of_a_lane_that_runs_out_of_work_meanwhile() {
    decided_while_the_reader_comes_to_its_limit(false, |states, record| {
        record.settle(Fate::Filtered);
        states.lane.went_hungry();
    });
}
