//! Conformance suites: what a transport or a stage must keep, as tests with names.
//!
//! | suite | for |
//! |---|---|
//! | [`source_suite!`](crate::source_suite) | a [`Source`](streambreaker::Source), with its readers and ackers |
//! | [`sink_suite!`](crate::sink_suite) | a [`Sink`](streambreaker::Sink) of anything |
//! | [`fault_sink_suite!`](crate::fault_sink_suite) | a sink of fault events |
//! | [`stage_suite!`](crate::stage_suite) | a [`Stage`](streambreaker::Stage): a combinator of one's own |
//!
//! Each takes a *harness*: what makes a stream, a destination or a flow for one test, and tells the suite what
//! there is to know about it. A suite makes a module with one test for each rule, so that a run reads
//! `orders::s1_redelivery_of_a_suffix … ok`; each test begins with a fresh harness.
//!
//! One decision shaped them: what a transport cannot do is *stated*, never skipped. The harness names it
//! ([`source::Cannot`], [`sink::Cannot`]), the test of that rule prints `states: cannot …` and checks that it is
//! true, as far as that can be seen. Who declares nothing is held to everything.
//!
//! The rules are public async functions too, for a transport whose tests are not made by a macro.

mod check;
pub mod fault_sink;
pub mod sink;
pub mod source;
pub mod stage;

pub use self::check::{Harness, Time, check};

/// The tests of a suite, one for each rule. Not for use by hand.
#[doc(hidden)]
#[macro_export]
macro_rules! __suite {
    ($attrs:tt $name:ident, $harness:expr, $rules:path, [$($rule:ident)*]) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $rules as rules;
            $($crate::__rule!($attrs $rule, $harness);)*
        }
    };
}

/// One of them.
#[doc(hidden)]
#[macro_export]
macro_rules! __rule {
    ([$($attr:tt)*] $rule:ident, $harness:expr) => {
        #[test]
        $($attr)*
        fn $rule() {
            $crate::suite::check($harness, rules::$rule);
        }
    };
}
