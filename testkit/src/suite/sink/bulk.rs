//! Requests: their limits, their order, many at a time, and a whole processor over them.

use std::time::Duration;

use futures::future::join_all;
use streambreaker::Sink;
use streambreaker::memory;
use streambreaker::prelude::*;

use super::harness::{Cannot, SinkHarness, cannot, must, write, write_all};
use super::outcomes::{items, open, stored};

/// The order of a request is the order in the destination.
pub async fn k2_items_are_stored_in_their_order<H: SinkHarness>(harness: &H) {
    let reads = !cannot(harness, Cannot::ReadBack);
    if cannot(harness, Cannot::KeepOrder) || !reads {
        return;
    }
    let sink = open(harness).await;
    let items = items(harness, 0..60);
    write_all(&sink, &items).await;
    let all = must("read back", harness.stored().await);
    let at: Vec<_> =
        items.iter().map(|item| all.iter().position(|stored| stored == item)).collect();
    assert!(at.is_sorted(), "K2: items 0 to 59 are stored at {at:?}");
}

/// Limits and sizes are asked for once: they must not change.
pub async fn k5_limits_and_sizes_do_not_change<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let (limits, stream) = (sink.limits(), sink.stream().map(str::to_owned));
    assert!(limits.items > 0 && limits.bytes > 0, "no request can be made within {limits:?}");
    let items = items(harness, 0..20);
    let sizes: Vec<usize> = items.iter().map(|item| sink.size(item)).collect();
    assert!(
        sizes.iter().all(|size| *size <= limits.bytes / 100),
        "ordinary items of {sizes:?} bytes: a hundred do not fit into {limits:?}"
    );
    write_all(&sink, &items).await;
    let again: Vec<usize> = items.iter().map(|item| sink.size(item)).collect();
    assert_eq!(sizes, again, "the size of an item has changed");
    assert_eq!(
        (sink.limits(), sink.stream()),
        (limits, stream.as_deref()),
        "limits or stream have changed"
    );
    drop(sink);
    assert_eq!(
        open(harness).await.limits(),
        limits,
        "the limits are others when it is opened again"
    );
}

/// A request that is as large as the limits allow is no error.
pub async fn k5_a_request_at_its_limit_is_taken<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let limits = sink.limits();
    // of an unlimited sink, what anybody would send
    let (most, mut bytes) = (limits.items.min(10_000), 0usize);
    let items: Vec<H::Item> = (0..most)
        .map(|n| harness.item(n))
        .take_while(|item| {
            bytes = bytes.saturating_add(sink.size(item));
            bytes <= limits.bytes
        })
        .collect();
    let (log, error) = write(&sink, &items).await;
    let done = (0..items.len()).filter(|index| log.is_done(*index)).count();
    let why = error.as_ref().or(log.error(0)).map(|error| error.message());
    assert_eq!(done, items.len(), "K5: of a request within {limits:?} not all are taken: {why:?}");
    stored(harness, &items[items.len() - 1..]).await;
}

/// Too large is said by the size: then the engine sets the item aside before it is sent, and a fault is reduced.
pub async fn k5_an_item_too_large_has_a_size_above_the_limit<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let Some(large) = harness.too_large() else {
        assert!(
            cannot(harness, Cannot::Overflow),
            "implement `too_large`, or declare `Cannot::Overflow`"
        );
        return;
    };
    assert!(!harness.cannot().contains(&Cannot::Overflow), "it declares that no item is too large");
    let (size, limits) = (sink.size(&large), sink.limits());
    assert!(size > limits.bytes, "an item that is too large has {size} bytes, within {limits:?}");
}

/// Several requests are on their way at once.
pub async fn o8_requests_at_the_same_time_are_all_stored<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let parts: Vec<_> = (0..6).map(|n| items(harness, 10 * n..10 * n + 10)).collect();
    join_all(parts.iter().map(|part| write_all(&sink, part))).await;
    stored(harness, &parts.concat()).await;
}

/// What is confirmed is there for whoever opens the destination next, and what comes next is beside it.
pub async fn s6_what_is_confirmed_outlives_the_sink<H: SinkHarness>(harness: &H) {
    for n in 0..3 {
        let sink = open(harness).await;
        write_all(&sink, &items(harness, 10 * n..10 * n + 10)).await;
        drop(sink);
        stored(harness, &items(harness, 0..10 * n + 10)).await;
    }
}

/// With nothing injected: a processor that writes there is done with every record, and each item is there.
pub async fn i4_a_processor_writes_all_of_it<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let all = items(harness, 0..300);
    let given = all.clone();
    let res = Resource::builder("sink").timeout(Duration::from_secs(60)).build();
    let (res, sink) = (res.expect("a resource with a timeout is valid"), std::sync::Arc::new(sink));
    let processor = Processor::builder("suite")
        .source(memory::stream((0..300).map(|n| n.to_string())))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let given = given.clone();
            flow.json::<usize>()
                .map(move |n| given[*n].clone())
                .bulk_write(&res, sink.clone())
                .in_flight(3)
        })
        .build()
        .unwrap_or_else(|error| panic!("the suite's processor: {error}"));
    let run =
        tokio::time::timeout(harness.time().patience(), processor.run(Shutdown::never())).await;
    let report = run
        .unwrap_or_else(|_| panic!("the processor does not get through all of it"))
        .unwrap_or_else(|error| panic!("the processor ends with {error}"));
    assert_eq!(report.pipelines["all"].done, 300, "{report}");
    stored(harness, &all).await;
    if !harness.cannot().contains(&Cannot::ReadBack) {
        let n = must("read back", harness.stored().await).len();
        assert_eq!(n, 300, "I4: nothing went wrong, and {n} of 300 items are stored");
    }
}
