//! Settling: what is settled stays so, and nothing else is.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use streambreaker::source::{Acker, Acknowledge, Settled};

use super::harness::{Cannot, SourceHarness, cannot, must};
use super::held::{Held, payloads, payloads_of, publish};

/// A fresh consumer begins behind what is settled, with all that is not.
pub async fn s1_redelivery_of_a_suffix<H: SourceHarness>(harness: &H) {
    publish(harness, 0..30).await;
    // a life that settles nothing, and some that settle a part
    for (from, settles) in [(0, 0), (0, 10), (10, 1), (11, 9), (20, 0), (20, 10)] {
        let mut held = Held::open(harness).await;
        let mut records = held.collect(30 - from).await;
        records.sort_by(|a, b| a.position().cmp(b.position()));
        assert_eq!(
            payloads_of(&records),
            payloads(from..30),
            "{from} records are settled: the next life begins behind them"
        );
        held.settle(&records[..settles]).await;
    }
    Held::open(harness).await.quiet().await;
}

/// No flush, no release, no word: what `settle` confirmed is there for the next life.
pub async fn i6_a_settle_is_durable_when_it_returns<H: SourceHarness>(harness: &H) {
    publish(harness, 0..12).await;
    for n in 0..4 {
        let mut held = Held::open(harness).await;
        let mut records = held.collect(12 - 3 * n).await;
        records.sort_by(|a, b| a.position().cmp(b.position()));
        assert_eq!(payloads_of(&records), payloads(3 * n..12), "I6: a commit was lost");
        held.settle(&records[..3]).await;
    }
    Held::open(harness).await.quiet().await;
}

/// A late, smaller commit takes nothing back. It may be refused in any way, a panic too.
pub async fn i6_a_smaller_settle_never_overwrites<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records[..8]).await;
    if held.acknowledges() == Acknowledge::Prefix {
        let late = held.acker.settle(Settled::Through(records[2].position()));
        let _ = AssertUnwindSafe(late).catch_unwind().await;
    }
    drop(held);
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(2).await);
    seen.sort();
    assert_eq!(seen, payloads(8..10), "I6: a smaller commit has overwritten a larger one");
}

/// A commit whose reply was lost is sent again: that must be no error, and settle nothing more.
pub async fn i6_settling_again_changes_nothing<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records[..4]).await;
    for _ in 0..3 {
        if let Err(error) = held.try_settle(&records[..4]).await {
            panic!("the same commit again is refused: {error}");
        }
    }
    drop(held);
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(6).await);
    seen.sort();
    assert_eq!(seen, payloads(4..10));
}

/// An empty list of acknowledgements, and an empty list to extend.
pub async fn i6_a_settle_of_nothing_is_no_error<H: SourceHarness>(harness: &H) {
    publish(harness, 0..2).await;
    let mut held = Held::open(harness).await;
    if held.acknowledges() == Acknowledge::Each {
        assert!(held.acker.settle(Settled::Each(&[])).await.is_ok(), "nothing can be settled");
    }
    assert!(held.acker.extend(&[]).await.is_ok(), "nothing can be extended");
    let records = held.collect(2).await;
    held.settle(&records).await;
}

/// What is settled is kept where the broker's end does not reach.
pub async fn i6_what_is_settled_outlives_the_broker<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    if cannot(harness, Cannot::Restart) {
        assert!(harness.restart().await.is_err(), "it declares that it cannot be started again");
        return;
    }
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records[..6]).await;
    drop(held);
    must("restart", harness.restart().await);
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(4).await);
    seen.sort();
    assert_eq!(seen, payloads(6..10), "what was settled or published is gone with the broker");
}
