//! What an event allocates, and how large it is: both grow unnoticed otherwise.
//!
//! A test binary of its own, with one test that counts, as the allocator counts for the whole process.

#[path = "../benches/chain/mod.rs"]
mod chain;

use std::alloc::System;

use chain::{BATCH, Handler};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use streambreaker::{Lineage, Received, Record, Uow};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a read, its batch, its lane and its commit may allocate together.
const A_BATCH: usize = 30;

fn allocations(events: u64, handler: Handler) -> usize {
    let runtime = chain::runtime();
    let (processor, _) = chain::processor(events, handler);
    let region = Region::new(ALLOCATOR);
    let report = chain::measured_run(&runtime, &processor);
    let change = region.change();
    assert_eq!(report.pipelines["all"].done, events, "{report}");
    change.allocations + change.reallocations
}

#[test]
fn an_event_in_steady_state_allocates_nothing() {
    // the difference of two runs: what starting and ending allocate cancels out
    const MORE: u64 = 100 * BATCH;
    for handler in [Handler::Ready, Handler::Yields] {
        let (few, many) = (allocations(MORE, handler), allocations(2 * MORE, handler));
        let batches = (MORE / BATCH) as usize;
        let more = many.saturating_sub(few);
        assert!(
            more <= batches * A_BATCH,
            "{handler:?}: {more} allocations more for {MORE} events more in {batches} batches",
        );
    }
}

#[test]
fn what_is_moved_for_every_event_stays_small() {
    assert!(size_of::<Lineage>() <= 16, "{}", size_of::<Lineage>());
    assert!(size_of::<Uow<()>>() <= 16, "{}", size_of::<Uow<()>>());
    assert!(size_of::<Uow<Received>>() <= 32, "{}", size_of::<Uow<Received>>());
    assert!(size_of::<Record>() <= 192, "{}", size_of::<Record>());
}
