//! A lane: the task that drives one pipeline over one shard, and builds its flow anew after a unit was
//! returned.
//!
//! When a unit is returned the lane is halted: the input yields nothing more, and what is inside goes on to
//! its end (dropping it at once would cancel healthy neighbours again and again). Groups that are open close
//! as at the end of input, for the same reason. Then the flow is dropped, the lane waits, and feeds in log
//! order what is undecided or returned.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::drive::{Built, Make};
use crate::clock::Random;
use crate::flow::timer::Timer;
use crate::flow::{Feed, Flow, Input, panicked};
use crate::record::Position;
use crate::resource::Retry;
use crate::settle::{Flag, LaneState};

/// How a lane's task ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// All input has been fed, and what came of it is decided or returned for good.
    Ended,
    /// The shard is gone.
    Lost,
    /// The pipeline's function panicked.
    Broken,
}

/// Waits between two flows of a lane.
fn backoff() -> Retry {
    Retry::exponential()
        .max_attempts(u32::MAX)
        .no_quick()
        .base(Duration::from_millis(100))
        .cap(Duration::from_secs(30))
}

pub(crate) struct LaneTask {
    pub(crate) lane: Arc<LaneState>,
    pub(crate) make: Make,
    pub(crate) feed: Box<Feed>,
    pub(crate) random: Random,
    /// How long what runs may go on in a halted flow: the worst case of a unit.
    pub(crate) patience: Duration,
}

/// How one flow ended.
enum FlowEnd {
    Ended,
    Dropped,
}

impl LaneTask {
    /// Runs until the input ends.
    ///
    /// # Cancel safety
    /// What is undecided when this is dropped is returned.
    pub(crate) async fn run(self) -> LaneEnd {
        let Self { lane, make, mut feed, random, patience } = self;
        let backoff = backoff();
        let mut stuck: Option<Position> = None;
        let mut failures = 0;
        loop {
            let back = Arc::new(Mutex::new(None));
            let input = Input::new(lane.clone(), Some(feed), back.clone());
            let flow = Flow::begin(lane.clone(), input);
            let Built { mut drive, .. } = match catch_unwind(AssertUnwindSafe(|| make(flow))) {
                Ok(built) => built,
                Err(panic) => {
                    let error = panicked(panic);
                    tracing::error!(
                        target: "streambreaker::lane",
                        pipeline = %lane.pipeline.name,
                        messaging.destination.name = %lane.stream,
                        messaging.destination.partition.id = %lane.shard,
                        error.type = error.name(),
                        "the function of the pipeline panicked",
                    );
                    return LaneEnd::Broken;
                }
            };
            let mut end = drive_one(&lane, &mut drive, patience).await;
            lane.raise(Flag::CLOSING);
            // values of the user go with it, and their `drop` may panic
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(drive))) {
                note_panic(&lane, panic);
                end = FlowEnd::Dropped;
            }
            lane.lower(Flag::CLOSING);
            let Some(returned) = take(&back) else {
                // a pipeline's function that drops its input has no records to work on
                return LaneEnd::Broken;
            };
            feed = returned;
            if lane.has(Flag::LOST) {
                return LaneEnd::Lost;
            }
            let halted = lane.has(Flag::HALTED | Flag::FATAL) || matches!(end, FlowEnd::Dropped);
            // a step of the user may end before its input: what is still to come needs another flow
            let restart = halted || !feed.is_over();
            if restart && !halted && !lane.has(Flag::DRAINING) {
                if let Some(count) = lane.pipeline.lines.short.due() {
                    tracing::warn!(
                        target: "streambreaker::lane",
                        pipeline = %lane.pipeline.name,
                        messaging.destination.name = %lane.stream,
                        messaging.destination.partition.id = %lane.shard,
                        count,
                        "a step of the pipeline ended before its input did; the lane is built anew",
                    );
                }
            }
            if !restart && !settled(&lane, &mut feed).await {
                // a fault was not stored after all, or was but another part of its record was returned
                tracing::debug!(
                    target: "streambreaker::lane",
                    pipeline = %lane.pipeline.name,
                    messaging.destination.name = %lane.stream,
                    messaging.destination.partition.id = %lane.shard,
                    "fed again at the end",
                );
            } else if !restart || lane.has(Flag::DRAINING) {
                return LaneEnd::Ended;
            }
            if lane.has(Flag::LOST) {
                return LaneEnd::Lost;
            }
            // only progress at the head resets the wait: a neighbour that settles says nothing of it
            let oldest = feed.oldest();
            failures = if oldest == stuck { failures + 1 } else { 1 };
            stuck = oldest;
            let wait = backoff.delay(failures, &random).unwrap_or(Duration::from_secs(30));
            let epoch = lane.next_epoch();
            if let Some(count) = lane.pipeline.lines.restart.due() {
                tracing::warn!(
                    target: "streambreaker::lane",
                    pipeline = %lane.pipeline.name,
                    messaging.destination.name = %lane.stream,
                    messaging.destination.partition.id = %lane.shard,
                    position = stuck.as_ref().map(tracing::field::display),
                    class = lane.last_class().map(tracing::field::display),
                    restart = failures,
                    wait_ms = wait.as_millis() as u64,
                    count,
                    "a unit was returned; the lane is built anew after a wait",
                );
            }
            lane.raise(Flag::RESTING);
            let on = pause(&lane, wait).await;
            lane.lower(Flag::RESTING);
            if !on {
                return if lane.has(Flag::LOST) { LaneEnd::Lost } else { LaneEnd::Ended };
            }
            lane.lower(Flag::HALTED | Flag::FATAL);
            lane.feeds_again();
            feed.rewind(epoch);
        }
    }
}

/// User code panicked where it cannot be said of which unit: in `Drop`, `Hash` or `Eq`, or in a stage of its
/// own. What unwinding dropped counts as dropped, and is faulted the second time.
#[cold]
fn note_panic(lane: &LaneState, panic: Box<dyn std::any::Any + Send>) {
    let error = panicked(panic);
    lane.note_class(error.class());
    if let Some(count) = lane.pipeline.lines.panic.due() {
        tracing::error!(
            target: "streambreaker::lane",
            pipeline = %lane.pipeline.name,
            messaging.destination.name = %lane.stream,
            messaging.destination.partition.id = %lane.shard,
            error.type = error.name(),
            count,
            "user code panicked outside of any call for a unit; the lane is built anew",
        );
    }
}

/// Waits, behind the end of the input, for the faults that are still to be stored; false if something is to be
/// fed again. Where a return is final there is nothing to wait for.
async fn settled(lane: &LaneState, feed: &mut Feed) -> bool {
    std::future::poll_fn(move |cx| {
        lane.waker.register(cx.waker());
        if lane.has(Flag::FINAL | Flag::DRAINING | Flag::LOST) || feed.is_settled() {
            return Poll::Ready(true);
        }
        if lane.has(Flag::HALTED | Flag::FATAL) {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await
}

fn take(back: &Mutex<Option<Box<Feed>>>) -> Option<Box<Feed>> {
    back.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
}

async fn drive_one(
    lane: &LaneState,
    drive: &mut std::pin::Pin<Box<dyn super::drive::Drive>>,
    patience: Duration,
) -> FlowEnd {
    let mut timer = Timer::default();
    let mut limit = None;
    std::future::poll_fn(|cx| {
        lane.waker.register(cx.waker());
        if lane.has(Flag::FATAL | Flag::LOST) {
            return Poll::Ready(FlowEnd::Dropped);
        }
        // what user code is run under is caught by its stage; this is for the rest, the `drop` of its values
        match catch_unwind(AssertUnwindSafe(|| drive.as_mut().poll_drive(cx))) {
            Ok(Poll::Ready(())) => return Poll::Ready(FlowEnd::Ended),
            Ok(Poll::Pending) => {}
            Err(panic) => {
                note_panic(lane, panic);
                return Poll::Ready(FlowEnd::Dropped);
            }
        }
        if lane.has(Flag::FATAL | Flag::LOST) {
            return Poll::Ready(FlowEnd::Dropped);
        }
        if lane.has(Flag::HALTED) {
            if planted!("neighbour-cancelled") {
                return Poll::Ready(FlowEnd::Dropped);
            }
            let limit = *limit.get_or_insert_with(|| Instant::now() + patience);
            if timer.poll_at(limit, cx).is_ready() {
                return Poll::Ready(FlowEnd::Dropped);
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits; false if the lane has to end meanwhile.
async fn pause(lane: &LaneState, wait: Duration) -> bool {
    let mut sleep = std::pin::pin!(tokio::time::sleep(wait));
    std::future::poll_fn(|cx| {
        lane.waker.register(cx.waker());
        if lane.has(Flag::DRAINING | Flag::LOST) {
            return Poll::Ready(false);
        }
        sleep.as_mut().poll(cx).map(|()| true)
    })
    .await
}
