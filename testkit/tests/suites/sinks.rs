//! A fault sink over `Collect` that breaks one rule at a time.

use async_trait::async_trait;
use streambreaker::error::Class;
use streambreaker::memory::{self, Collect};
use streambreaker::sink::{Limits, OutcomeLog, Outcomes};
use streambreaker::{BoxError, FaultEvent, ResultExt, Sink, StepError};
use streambreaker_testkit::suite::fault_sink::{self, rules};
use streambreaker_testkit::suite::sink::{Cannot, SinkHarness};
use streambreaker_testkit::suite::{Harness, check};

use super::fails;

/// How it is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    No,
    ConfirmsWithoutStoring,
    SwallowsTheLast,
    CountsFromOne,
    FailsWholeRequests,
    ConfirmsEarly,
    ConfirmsWhileDown,
    IsDownForGood,
    Reverses,
    GrowsItems,
    TakesTen,
    SaysNoSize,
    CutsPayloads,
    KeepsGroupsByHalf,
    MakesUpIds,
    Declares(Cannot),
}

use Broken::*;

struct Faulty(Collect<FaultEvent>, Broken);

fn faults(broken: Broken) -> Faulty {
    let limits = Limits::items(200).with_bytes(2 << 20);
    Faulty(memory::faults().with_limits(limits), broken)
}

impl Harness for Faulty {}

impl SinkHarness for Faulty {
    type Item = FaultEvent;
    type Sink = Wrapped;

    fn cannot(&self) -> Vec<Cannot> {
        let mut cannot = vec![Cannot::Deduplicate];
        if let Declares(what) = self.1 {
            cannot.push(what);
        }
        cannot
    }

    fn item(&self, n: usize) -> FaultEvent {
        fault_sink::fault(n)
    }

    fn rejected(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(2, 7))
    }

    fn too_large(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(3, 1 << 20))
    }

    async fn sink(&self) -> Result<Wrapped, BoxError> {
        Ok(Wrapped(self.0.clone(), self.1, Default::default()))
    }

    async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
        Ok(self.0.events())
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.0.down();
        Ok(())
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.up();
        Ok(())
    }
}

struct Wrapped(Collect<FaultEvent>, Broken, std::sync::atomic::AtomicUsize);

#[async_trait]
impl Sink<FaultEvent> for Wrapped {
    fn limits(&self) -> Limits {
        Sink::limits(&self.0)
    }

    fn size(&self, item: &FaultEvent) -> usize {
        let grown = self.2.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.1 {
            GrowsItems => grown,
            SaysNoSize => 0,
            _ => self.0.size(item),
        }
    }

    async fn write(
        &self,
        items: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        let bad = |item: &FaultEvent| item.grouped && item.record_bytes() == 14;
        if self.1 == FailsWholeRequests && items.iter().any(bad) {
            return Err("a bad request").fault();
        }
        let mut write: Vec<FaultEvent> = items.iter().filter(|item| !bad(item)).cloned().collect();
        match self.1 {
            ConfirmsWithoutStoring => write.clear(),
            ConfirmsEarly => {
                outcomes.all_done();
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
            TakesTen if write.len() > 10 => return Err("too many").transient(),
            Reverses => write.reverse(),
            CutsPayloads => write.iter_mut().for_each(|fault| {
                for record in &mut fault.records {
                    let r = &record.record;
                    let cut = r.payload().slice(..r.payload().len().min(1_000));
                    record.record = streambreaker::Record::new(
                        r.stream(),
                        r.shard().clone(),
                        r.position().clone(),
                        cut,
                    );
                }
            }),
            KeepsGroupsByHalf => write.iter_mut().for_each(|fault| {
                let half = fault.records.len().div_ceil(2);
                fault.records.truncate(half);
            }),
            MakesUpIds => write.iter_mut().for_each(|fault| {
                fault.id = uuid::Uuid::new_v5(&fault.id, b"again");
            }),
            _ => {}
        }
        let mut log = OutcomeLog::new(write.len());
        let result = self.0.write(&write, &mut log.outcomes()).await;
        if let Err(error) = result {
            return match self.1 {
                ConfirmsWhileDown => {
                    outcomes.all_done();
                    Ok(())
                }
                IsDownForGood => Err(StepError::new(Class::Fault, "down")),
                _ => Err(error),
            };
        }
        for (index, item) in items.iter().enumerate() {
            match self.1 {
                SwallowsTheLast if index + 1 == items.len() && index > 0 => {}
                CountsFromOne => outcomes.done(index + 1),
                _ if bad(item) => outcomes.reject(index, "bad"),
                _ => outcomes.done(index),
            }
        }
        Ok(())
    }
}

/// The rule holds without the break, and fails with it.
macro_rules! caught {
    ($($broken:expr => $rule:ident),* $(,)?) => {$(
        assert!(!fails(|| check(faults(No), rules::$rule)), "{} fails a sink that is right", stringify!($rule));
        assert!(fails(|| check(faults($broken), rules::$rule)), "{:?} passes {}", $broken, stringify!($rule));
    )*};
}

#[test]
fn what_a_sink_breaks_is_caught_by_the_rule_of_its_name() {
    caught![
        SwallowsTheLast => k1_every_item_has_its_outcome,
        CountsFromOne => k1_every_item_has_its_outcome,
        ConfirmsWithoutStoring => k1_what_is_confirmed_is_stored,
        ConfirmsWithoutStoring => s6_what_is_confirmed_outlives_the_sink,
        ConfirmsWithoutStoring => i4_a_processor_writes_all_of_it,
        ConfirmsWithoutStoring => o8_requests_at_the_same_time_are_all_stored,
        FailsWholeRequests => k1_a_rejected_item_leaves_its_neighbours_alone,
        ConfirmsEarly => k1_a_dropped_write_has_stored_what_it_noted,
        ConfirmsWhileDown => k1_while_it_is_down_nothing_is_confirmed,
        IsDownForGood => k1_while_it_is_down_nothing_is_confirmed,
        Reverses => k2_items_are_stored_in_their_order,
        GrowsItems => k5_limits_and_sizes_do_not_change,
        TakesTen => k5_a_request_at_its_limit_is_taken,
        SaysNoSize => k5_an_item_too_large_has_a_size_above_the_limit,
        SaysNoSize => f6_a_size_counts_all_that_the_records_hold,
        SaysNoSize => f6_a_fault_too_large_is_stored_in_parts,
        KeepsGroupsByHalf => f6_a_fault_too_large_is_stored_in_parts,
        CutsPayloads => f7_a_fault_is_read_back_as_it_was_written,
        ConfirmsWithoutStoring => f1_a_processor_stores_each_fault,
        MakesUpIds => f4_a_fault_that_is_written_again_has_one_id,
        ConfirmsWhileDown => f5_while_it_is_down_no_checkpoint_passes,
    ];
}

#[test]
fn what_is_declared_and_not_true_is_caught() {
    caught![
        Declares(Cannot::GoDown) => k1_while_it_is_down_nothing_is_confirmed,
        Declares(Cannot::Reject) => k1_a_rejected_item_leaves_its_neighbours_alone,
        Declares(Cannot::Overflow) => k5_an_item_too_large_has_a_size_above_the_limit,
        Declares(Cannot::ReadBack) => states_what_it_cannot_do,
    ];
}
