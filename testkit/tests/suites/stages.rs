//! A stage that calls its work, and breaks one point of the contract at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use streambreaker::flow::{BoxedFlow, StageCx};
use streambreaker::prelude::*;
use streambreaker::{Class, Received, StepError};
use streambreaker_testkit::suite::stage::{Above, Shape, StageHarness, Work, rules};
use streambreaker_testkit::suite::{Harness, check};
use tokio::time::error::Elapsed;

use super::fails;

const SLOTS: usize = 3;
const TIMEOUT: Duration = Duration::from_millis(50);

/// How it is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    No,
    FreezesWhatLiesAbove,
    LosesTheLastWakeUp,
    IgnoresProgress,
    KeepsProgressToItself,
    StartsInProgress,
    Hoards,
    NeverYields,
    YieldsWithoutAWakeUp,
    PollsFromTheFirst,
    DropsUnits,
}

use Broken::*;

#[derive(Clone)]
struct Faulty(Broken);

impl Harness for Faulty {}

impl StageHarness for Faulty {
    fn shape(&self) -> Shape {
        Shape::calls(SLOTS, TIMEOUT)
    }

    fn stage(&self, flow: Flow<Above>, work: &Work) -> BoxedFlow<()> {
        let (work, broken) = (work.clone(), self.0);
        let make = move |above, cx| Calls {
            above: Box::pin(above),
            cx,
            work: Some(work),
            running: Vec::new(),
            waiting: VecDeque::new(),
            first: 0,
            over: false,
            broken,
        };
        flow.stage("calls", make).boxed()
    }

    fn swallows(&self, flow: Flow<Above>) -> BoxedFlow<()> {
        let broken = self.0;
        let make = move |above, cx| Calls {
            above: Box::pin(above),
            cx,
            work: None,
            running: Vec::new(),
            waiting: VecDeque::new(),
            first: 0,
            over: false,
            broken,
        };
        flow.stage("swallows", make).boxed()
    }
}

type Unit = streambreaker::Uow<Received>;
type Running = Pin<Box<dyn Future<Output = Result<(), Elapsed>> + Send>>;

/// Works on three units at once; without work it filters each.
struct Calls<S> {
    above: Pin<Box<S>>,
    cx: StageCx,
    work: Option<Work>,
    running: Vec<(Option<Unit>, Running)>,
    waiting: VecDeque<Unit>,
    first: usize,
    over: bool,
    broken: Broken,
}

impl<S: Stage<Out = Received>> Calls<S> {
    /// Polls what runs, from the one after the one that was first; the first that is done.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Option<streambreaker::Uow<()>> {
        let n = self.running.len();
        if self.broken != PollsFromTheFirst && n > 0 {
            self.first = (self.first + 1) % n;
        }
        for turn in 0..n {
            let at = (self.first + turn) % n;
            if let Poll::Ready(result) = self.running[at].1.as_mut().poll(cx) {
                let (unit, _) = self.running.swap_remove(at);
                let unit = unit.unwrap();
                match result {
                    _ if self.broken == DropsUnits => {}
                    Ok(()) => return Some(unit.map(|_| ())),
                    Err(_) => self.cx.fault(unit, StepError::new(Class::Fault, "timeout")),
                }
                // somebody has to look at the others
                cx.waker().wake_by_ref();
                return None;
            }
        }
        None
    }

    fn start(&mut self, unit: Unit) {
        let Some(work) = self.work.clone() else { return self.cx.filtered(unit) };
        let run = tokio::time::timeout(TIMEOUT, async move { work.run().await });
        self.running.push((Some(unit), Box::pin(run)));
    }

    fn has_room(&self) -> bool {
        self.running.len() < SLOTS
    }
}

impl<S: Stage<Out = Received>> Stage for Calls<S> {
    type Out = ();

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<streambreaker::Uow<()>>> {
        let this = &mut *self;
        let mut passed = 0;
        loop {
            // what was started in this call is seen at the next one, if there is one
            if passed == 0 || this.broken != LosesTheLastWakeUp {
                if let Some(unit) = this.poll_running(cx) {
                    return Poll::Ready(Some(unit));
                }
            }
            if passed >= 256 && this.broken != NeverYields {
                this.above.as_mut().poll_progress(cx);
                if this.broken != YieldsWithoutAWakeUp {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            while let Some(unit) = this.has_room().then(|| this.waiting.pop_front()).flatten() {
                this.start(unit);
            }
            let takes = this.has_room() || this.broken == Hoards;
            let next = match this.over || !takes {
                true => Poll::Pending,
                false => this.above.as_mut().poll_next(cx),
            };
            match next {
                Poll::Ready(Some(unit)) => {
                    passed += 1;
                    match this.has_room() {
                        true => this.start(unit),
                        false => this.waiting.push_back(unit),
                    }
                }
                Poll::Ready(None) => this.over = true,
                Poll::Pending => {
                    if !takes && this.broken != FreezesWhatLiesAbove {
                        this.above.as_mut().poll_progress(cx);
                    }
                    if this.over && this.running.is_empty() && this.waiting.is_empty() {
                        return Poll::Ready(None);
                    }
                    // what was started since it was polled last has no waker yet
                    if this.broken != LosesTheLastWakeUp {
                        if let Some(unit) = this.poll_running(cx) {
                            return Poll::Ready(Some(unit));
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = &mut *self;
        if this.broken == StartsInProgress && this.has_room() {
            if let Poll::Ready(Some(unit)) = this.above.as_mut().poll_next(cx) {
                this.start(unit);
            }
        }
        if this.broken != KeepsProgressToItself {
            this.above.as_mut().poll_progress(cx);
        }
        if this.broken == IgnoresProgress {
            return;
        }
        // what is done is kept: the work, not the unit
        for (_, run) in &mut this.running {
            if let Poll::Ready(result) = run.as_mut().poll(cx) {
                *run = Box::pin(std::future::ready(result));
            }
        }
    }
}

/// The rule holds without the break, and fails with it.
macro_rules! caught {
    ($($broken:expr => $rule:ident),* $(,)?) => {$(
        assert!(!fails(|| check(Faulty(No), rules::$rule)), "{} fails a stage that is right", stringify!($rule));
        assert!(fails(|| check(Faulty($broken), rules::$rule)), "{:?} passes {}", $broken, stringify!($rule));
    )*};
}

#[test]
fn what_a_stage_breaks_is_caught_by_the_rule_of_its_point() {
    caught![
        FreezesWhatLiesAbove => p1_whoever_returns_pending_has_polled_what_lies_above_it_in_the_same_call,
        LosesTheLastWakeUp => p2_no_wake_up_is_lost_whatever_the_units_do,
        LosesTheLastWakeUp => o11_a_unit_that_starts_in_a_turn_in_which_its_input_is_pending_meets_its_timeout,
        IgnoresProgress => p2_work_that_only_poll_progress_sees_is_finished_and_kept,
        KeepsProgressToItself => o10_poll_progress_lets_go_on_what_lies_above_too,
        StartsInProgress => p3_poll_progress_starts_nothing_and_takes_nothing,
        Hoards => p3_what_works_on_units_takes_no_more_than_it_can_work_on,
        NeverYields => p5_after_256_units_in_one_poll_it_wakes_itself_and_yields,
        YieldsWithoutAWakeUp => p5_after_256_units_in_one_poll_it_wakes_itself_and_yields,
        PollsFromTheFirst => p6_units_that_use_up_the_budget_do_not_starve_the_others,
        DropsUnits => i3_no_unit_is_dropped_undecided,
    ];
}
