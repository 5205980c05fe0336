//! What every [`Stage`](streambreaker::Stage) must keep: the six points of its contract, as far as they are the
//! stage's (the fourth is its lane's).
//!
//! The stage is taken out of a pipeline and driven by hand: above it stands [`Above`], which hands on as many units
//! as it is let and counts how it is asked; below it nothing. It is polled when it was woken, and only then, so that
//! a wake-up that is lost is seen.
//!
//! ```
//! use std::pin::Pin;
//! use std::task::{Context, Poll, ready};
//!
//! use streambreaker::Uow;
//! use streambreaker::flow::{BoxedFlow, StageCx};
//! use streambreaker::prelude::*;
//! use streambreaker_testkit::stage_suite;
//! use streambreaker_testkit::suite::Harness;
//! use streambreaker_testkit::suite::stage::{Above, Shape, StageHarness, Work};
//!
//! /// Filters every second unit out.
//! struct EverySecond<S> {
//!     above: Pin<Box<S>>,
//!     cx: StageCx,
//!     odd: bool,
//! }
//!
//! impl<S: Stage> Stage for EverySecond<S> {
//!     type Out = S::Out;
//!
//!     fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
//!         while let Some(unit) = ready!(self.above.as_mut().poll_next(cx)) {
//!             self.odd = !self.odd;
//!             if self.odd {
//!                 return Poll::Ready(Some(unit));
//!             }
//!             self.cx.filtered(unit);
//!         }
//!         Poll::Ready(None)
//!     }
//!
//!     fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
//!         self.above.as_mut().poll_progress(cx);
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Second;
//!
//! impl Harness for Second {}
//!
//! impl StageHarness for Second {
//!     fn shape(&self) -> Shape {
//!         Shape::inline()
//!     }
//!
//!     fn stage(&self, flow: Flow<Above>, _: &Work) -> BoxedFlow<()> {
//!         flow.stage("every_second", |above, cx| EverySecond { above: Box::pin(above), cx, odd: false })
//!             .map(|_| ())
//!             .boxed()
//!     }
//! }
//!
//! stage_suite!(every_second: Second);
//! # use streambreaker_testkit::suite::{check, stage::rules};
//! # check(Second, rules::p2_no_wake_up_is_lost_whatever_the_units_do);
//! ```

mod harness;
mod points;
mod rig;

pub use self::harness::{Shape, StageHarness, Work};
pub use self::rig::Above;

/// The rules, each a function of a harness. Each panics where it finds itself broken.
pub mod rules {
    pub use super::points::*;
}

/// Tests a [`Stage`](streambreaker::Stage): one test for each rule, in a module of the given name (or `stage_suite`). The
/// expression makes a [`StageHarness`](crate::suite::stage::StageHarness), anew for each test.
///
/// See [the module](crate::suite::stage) for an example.
#[macro_export]
macro_rules! stage_suite {
    ($(#[$attr:meta])* $name:ident: $harness:expr $(,)?) => {
        $crate::__suite!([$(#[$attr])*] $name, $harness, $crate::suite::stage::rules, [
            p1_whoever_returns_pending_has_polled_what_lies_above_it_in_the_same_call
            p2_no_wake_up_is_lost_whatever_the_units_do
            p2_work_that_only_poll_progress_sees_is_finished_and_kept
            o10_poll_progress_lets_go_on_what_lies_above_too
            p3_poll_progress_starts_nothing_and_takes_nothing
            p3_what_works_on_units_takes_no_more_than_it_can_work_on
            p5_after_256_units_in_one_poll_it_wakes_itself_and_yields
            p6_units_that_use_up_the_budget_do_not_starve_the_others
            o11_a_unit_that_starts_in_a_turn_in_which_its_input_is_pending_meets_its_timeout
            o11_a_unit_that_follows_another_of_its_key_meets_its_timeout
            i3_no_unit_is_dropped_undecided
        ]);
    };
    ($harness:expr $(,)?) => { $crate::stage_suite!(stage_suite: $harness); };
}
