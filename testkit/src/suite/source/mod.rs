//! What every [`Source`](streambreaker::Source) must keep, with its readers and ackers.
//!
//! A transport implements [`SourceHarness`]: how to publish into a fresh stream, and how to consume it. What it
//! cannot do it declares as [`Cannot`]; what [`Caps`](streambreaker::source::Caps) says of it is taken from there.
//! The suite drives the source as a processor does: `next` is polled while `read` runs, a reader is asked again
//! after an empty answer, one settle at a time.
//!
//! ```
//! use streambreaker::BoxError;
//! use streambreaker::memory::{Consumer, Stream};
//! use streambreaker_testkit::source_suite;
//! use streambreaker_testkit::suite::Harness;
//! use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};
//!
//! struct Orders(Stream);
//!
//! impl Harness for Orders {}
//!
//! impl SourceHarness for Orders {
//!     type Source = Consumer;
//!
//!     fn cannot(&self) -> Vec<Cannot> {
//!         use Cannot::*;
//!         vec![Keys, LargeKeys, Headers, Shards, Gap, FailReads, Fence, Revoke, Lose, Reassign, Restart]
//!     }
//!
//!     async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
//!         if shard > 0 {
//!             return Err("there is one shard only".into());
//!         }
//!         self.0.push(message.payload.clone());
//!         Ok(())
//!     }
//!
//!     async fn consumer(&self) -> Result<Consumer, BoxError> {
//!         Ok(self.0.consumer("suite")) // the same group each time
//!     }
//!
//!     async fn close(&self) -> Result<(), BoxError> {
//!         self.0.close();
//!         Ok(())
//!     }
//! }
//!
//! // in a file of tests: one test for each rule, in a module `orders`
//! source_suite!(orders: Orders(Stream::new("orders", 1)));
//! # use streambreaker_testkit::suite::{check, source::rules};
//! # check(Orders(Stream::new("orders", 1)), rules::s1_every_record_comes_once_in_order);
//! ```
//!
//! For a broker the harness says [`Time::Real`](super::Time), makes a stream with a name of its own in `setup`, and
//! deletes it in `teardown`; `source_suite!(#[ignore = "needs a broker"] orders: …)` puts an attribute on each test.

mod carrying;
mod each;
mod harness;
mod held;
mod owning;
mod reading;
mod settling;
mod whole;

pub use self::harness::{Cannot, Message, SourceHarness, unable};

/// The rules, each a function of a harness. Each panics where it finds itself broken.
pub mod rules {
    pub use super::carrying::*;
    pub use super::each::*;
    pub use super::owning::*;
    pub use super::reading::*;
    pub use super::settling::*;
    pub use super::whole::*;
}

/// Tests a [`Source`](streambreaker::Source): one test for each rule, in a module of the given name (or
/// `source_suite`). The expression makes a [`SourceHarness`](crate::suite::source::SourceHarness), anew for each test.
///
/// See [the module](crate::suite::source) for an example.
#[macro_export]
macro_rules! source_suite {
    ($(#[$attr:meta])* $name:ident: $harness:expr $(,)?) => {
        $crate::__suite!([$(#[$attr])*] $name, $harness, $crate::suite::source::rules, [
            states_what_it_cannot_do
            i5_payloads_come_byte_for_byte
            i5_keys_come_byte_for_byte
            i5_headers_come_in_order_with_duplicates
            i5_what_cannot_be_carried_is_refused
            i5_records_name_their_stream_and_shard
            s1_every_record_comes_once_in_order
            s1_positions_go_up_and_what_they_print_parses_back
            s1_a_record_looks_the_same_in_every_delivery
            s1_what_is_published_later_comes_too
            s1_shards_are_read_apart
            s1_empty_polls_do_not_spin
            s1_read_errors_pass
            s1_the_end_is_said_and_stays
            s1_a_dropped_read_loses_nothing
            s1_a_dropped_next_loses_nothing
            s2_a_gap_is_reported
            s9_behind_is_zero_only_at_the_end
            o7_room_in_records_is_kept
            o7_room_in_bytes_is_kept_and_a_larger_record_comes_alone
            s1_redelivery_of_a_suffix
            i6_a_settle_is_durable_when_it_returns
            i6_a_smaller_settle_never_overwrites
            i6_settling_again_changes_nothing
            i6_a_settle_of_nothing_is_no_error
            i6_what_is_settled_outlives_the_broker
            s1_given_back_comes_again_not_before_its_delay
            s1_acknowledged_one_by_one_in_any_order
            i10_deliveries_are_counted
            t5_what_is_not_settled_by_its_deadline_comes_again
            t5_extend_keeps_a_record_past_its_deadline
            s3_a_commit_after_the_loss_is_fenced
            s4_what_is_released_is_read_on_by_the_next_owner
            s4_assigned_again_every_record_comes
            s5_a_revoked_shard_can_be_settled_within_its_grace
            s5_a_lost_shard_is_announced
            i4_a_processor_settles_all_of_it
            s5_what_a_drain_leaves_the_next_life_reads
            s6_killed_and_run_again_nothing_is_lost
        ]);
    };
    ($harness:expr $(,)?) => { $crate::source_suite!(source_suite: $harness); };
}
