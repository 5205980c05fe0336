//! What a sink of fault events must keep, beyond what every sink must: nothing of a fault is lost or changed.
//!
//! The harness is a [`SinkHarness`](super::sink::SinkHarness) whose items are fault events; [`fault`] makes them. Its
//! `hostile` and `rejected` may say nothing: the suite brings its own hostile faults.
//!
//! ```
//! use streambreaker::{BoxError, FaultEvent};
//! use streambreaker::memory::{self, Collect};
//! use streambreaker_testkit::fault_sink_suite;
//! use streambreaker_testkit::suite::{Harness, fault_sink};
//! use streambreaker_testkit::suite::sink::{Cannot, SinkHarness};
//!
//! struct Faults(Collect<FaultEvent>);
//!
//! impl Harness for Faults {}
//!
//! impl SinkHarness for Faults {
//!     type Item = FaultEvent;
//!     type Sink = Collect<FaultEvent>;
//!
//!     fn cannot(&self) -> Vec<Cannot> {
//!         vec![Cannot::Overflow, Cannot::Reject, Cannot::GoDown, Cannot::Deduplicate]
//!     }
//!
//!     fn item(&self, n: usize) -> FaultEvent {
//!         fault_sink::fault(n)
//!     }
//!
//!     async fn sink(&self) -> Result<Collect<FaultEvent>, BoxError> {
//!         Ok(self.0.clone())
//!     }
//!
//!     async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
//!         Ok(self.0.events())
//!     }
//! }
//!
//! fault_sink_suite!(faults: Faults(memory::faults()));
//! # use streambreaker_testkit::suite::{check, fault_sink::rules};
//! # check(Faults(memory::faults()), rules::f7_a_fault_is_read_back_as_it_was_written);
//! ```

mod examples;
mod keeping;

pub use self::examples::{fault, group, hostile};

/// The rules: those of every sink, and those of a fault sink.
pub mod rules {
    pub use super::keeping::*;
    pub use crate::suite::sink::rules::*;
}

/// Tests a sink of fault events: the rules of [`sink_suite!`](crate::sink_suite), and its own. One test for each, in a
/// module of the given name (or `fault_sink_suite`).
///
/// See [the module](crate::suite::fault_sink) for an example.
#[macro_export]
macro_rules! fault_sink_suite {
    ($(#[$attr:meta])* $name:ident: $harness:expr $(,)?) => {
        $crate::sink_suite!(@ [$(#[$attr])*] $name, $harness, $crate::suite::fault_sink::rules, [
            f1_a_processor_stores_each_fault
            f4_a_fault_that_is_written_again_has_one_id
            f5_while_it_is_down_no_checkpoint_passes
            f6_a_size_counts_all_that_the_records_hold
            f6_a_fault_too_large_is_stored_in_parts
            f7_a_fault_is_read_back_as_it_was_written
        ]);
    };
    ($harness:expr $(,)?) => { $crate::fault_sink_suite!(fault_sink_suite: $harness); };
}
