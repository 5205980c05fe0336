//! Time in a busy task: the one timer of a stage, and how a turn ends.
//!
//! A `Sleep` asks tokio's cooperative budget before it looks at the time. A stage polls its timer after its
//! work; where the work uses up the budget in every turn, the timer would never be asked, and what hangs would
//! hang past its timeout.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// Ends a turn that could go on: the task is woken again after the runtime has looked at its timers and sockets.
/// A task that wakes itself comes first again, and tokio looks only every 61 turns.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// Waits for one moment after another; allocated on first use.
#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready if `at` has come, else wakes then.
    pub(crate) fn poll_at(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = match &mut self.0 {
            Some(sleep) => {
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                sleep
            }
            None => self.0.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        let asked = poll_fn(|cx| sleep.as_mut().poll(cx));
        pin!(tokio::task::unconstrained(asked)).poll(cx)
    }
}
