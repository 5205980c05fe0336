//! What every [`Sink`](streambreaker::Sink) must keep: rules K1 to K5, as far as a sink can show them.
//!
//! A destination implements [`SinkHarness`]: how to open the sink, what items look like, how to read back what is
//! stored. What it cannot do it declares as [`Cannot`].
//!
//! ```
//! use streambreaker::BoxError;
//! use streambreaker::memory::Collect;
//! use streambreaker_testkit::sink_suite;
//! use streambreaker_testkit::suite::Harness;
//! use streambreaker_testkit::suite::sink::{Cannot, SinkHarness};
//!
//! struct Numbers(Collect<usize>);
//!
//! impl Harness for Numbers {}
//!
//! impl SinkHarness for Numbers {
//!     type Item = usize;
//!     type Sink = Collect<usize>;
//!
//!     fn cannot(&self) -> Vec<Cannot> {
//!         vec![Cannot::Overflow, Cannot::Reject, Cannot::GoDown, Cannot::Deduplicate]
//!     }
//!
//!     fn item(&self, n: usize) -> usize {
//!         n
//!     }
//!
//!     async fn sink(&self) -> Result<Collect<usize>, BoxError> {
//!         Ok(self.0.clone())
//!     }
//!
//!     async fn stored(&self) -> Result<Vec<usize>, BoxError> {
//!         Ok(self.0.items())
//!     }
//! }
//!
//! sink_suite!(numbers: Numbers(Collect::new()));
//! # use streambreaker_testkit::suite::{check, sink::rules};
//! # check(Numbers(Collect::new()), rules::k1_what_is_confirmed_is_stored);
//! ```

mod bulk;
mod harness;
mod outcomes;

pub use self::harness::{Cannot, SinkHarness};
pub(crate) use self::harness::{cannot, must, state, write_all};

/// The rules, each a function of a harness. Each panics where it finds itself broken.
pub mod rules {
    pub use super::bulk::*;
    pub use super::outcomes::*;
}

/// Tests a [`Sink`](streambreaker::Sink): one test for each rule, in a module of the given name (or `sink_suite`). The
/// expression makes a [`SinkHarness`](crate::suite::sink::SinkHarness), anew for each test.
///
/// See [the module](crate::suite::sink) for an example.
#[macro_export]
macro_rules! sink_suite {
    (@ $attrs:tt $name:ident, $harness:expr, $rules:path, [$($more:ident)*]) => {
        $crate::__suite!($attrs $name, $harness, $rules, [
            states_what_it_cannot_do
            k1_every_item_has_its_outcome
            k1_what_is_confirmed_is_stored
            k1_a_rejected_item_leaves_its_neighbours_alone
            k1_hostile_items_are_stored_as_they_are_or_rejected_alone
            k1_while_it_is_down_nothing_is_confirmed
            k1_a_dropped_write_has_stored_what_it_noted
            k1_what_is_written_again_is_confirmed_again
            k2_items_are_stored_in_their_order
            k5_limits_and_sizes_do_not_change
            k5_a_request_at_its_limit_is_taken
            k5_an_item_too_large_has_a_size_above_the_limit
            o8_requests_at_the_same_time_are_all_stored
            s6_what_is_confirmed_outlives_the_sink
            i4_a_processor_writes_all_of_it
            $($more)*
        ]);
    };
    ($(#[$attr:meta])* $name:ident: $harness:expr $(,)?) => {
        $crate::sink_suite!(@ [$(#[$attr])*] $name, $harness, $crate::suite::sink::rules, []);
    };
    ($harness:expr $(,)?) => { $crate::sink_suite!(sink_suite: $harness); };
}
