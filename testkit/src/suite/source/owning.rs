//! Owning a shard: fenced, revoked, lost, released, assigned again.

use streambreaker::source::{Change, CommitError};

use super::harness::{Cannot, SourceHarness, cannot, must};
use super::held::{Held, payloads, payloads_of, publish};

/// Who has lost a shard, knowing it or not, cannot commit for its next owner.
pub async fn s3_a_commit_after_the_loss_is_fenced<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut old = Held::open(harness).await;
    let records = old.collect(10).await;
    old.settle(&records[..2]).await;
    let mut new = Held::open(harness).await;
    let late = old.try_settle(&records).await;
    if cannot(harness, Cannot::Fence) {
        let fenced = matches!(late, Err(CommitError::Fenced));
        assert!(!fenced, "it declares that it cannot fence, and does");
        return;
    }
    assert!(
        matches!(late, Err(CommitError::Fenced)),
        "S3: a commit of a former owner is to be `Fenced`, and was {late:?}"
    );
    let mut seen = payloads_of(&new.collect(8).await);
    seen.sort();
    assert_eq!(seen, payloads(2..10), "a late commit has reached the new owner");
    drop(new);
    let mut third = Held::open(harness).await;
    let mut seen = payloads_of(&third.collect(8).await);
    seen.sort();
    assert_eq!(seen, payloads(2..10), "a late commit was kept");
}

/// A shard that is given back goes on with the next owner, where the one before has settled.
pub async fn s4_what_is_released_is_read_on_by_the_next_owner<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records[..7]).await;
    held.release().await;
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(3).await);
    seen.sort();
    assert_eq!(seen, payloads(7..10));
}

/// The same shard anew, to the same consumer: a new reader and acker, which begin behind what is settled.
pub async fn s4_assigned_again_every_record_comes<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records[..4]).await;
    if cannot(harness, Cannot::Reassign) {
        assert!(harness.reassign().await.is_err(), "it declares that it cannot assign anew");
        return;
    }
    must("assign anew", harness.reassign().await);
    loop {
        match held.change().await {
            Some(Change::Assigned { shard, reader, acker }) => {
                assert_eq!(shard, held.shard, "the same shard comes again");
                (held.reader, held.acker) = (reader, acker);
                break;
            }
            Some(Change::Revoking { .. } | Change::Lost { .. }) => {}
            other => panic!("a shard is to be assigned anew, not {other:?}"),
        }
    }
    let mut again = held.collect(6).await;
    again.sort_by(|a, b| a.position().cmp(b.position()));
    assert_eq!(
        payloads_of(&again),
        payloads(4..10),
        "S4: what was in flight comes to the new reader"
    );
    held.settle(&again).await;
    held.quiet().await;
}

/// Between the word and the loss there is time to settle.
pub async fn s5_a_revoked_shard_can_be_settled_within_its_grace<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    if cannot(harness, Cannot::Revoke) {
        assert!(harness.revoke().await.is_err(), "it declares that it cannot revoke");
        return;
    }
    must("revoke", harness.revoke().await);
    match held.change().await {
        Some(Change::Revoking { shard, grace }) => {
            assert_eq!(shard, held.shard);
            assert!(!grace.is_zero(), "there is no time to settle");
        }
        other => panic!("a revocation is to be announced, not {other:?}"),
    }
    held.settle(&records[..6]).await;
    held.release().await;
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(4).await);
    seen.sort();
    assert_eq!(seen, payloads(6..10), "S5: what was settled within the grace is settled");
}

/// A shard that is gone is said to be gone, and cannot be settled.
pub async fn s5_a_lost_shard_is_announced<H: SourceHarness>(harness: &H) {
    publish(harness, 0..4).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(4).await;
    if cannot(harness, Cannot::Lose) {
        assert!(harness.lose().await.is_err(), "it declares that it cannot lose a shard");
        return;
    }
    must("lose the shard", harness.lose().await);
    match held.change().await {
        Some(Change::Lost { shard }) => assert_eq!(shard, held.shard),
        other => panic!("a loss is to be announced, not {other:?}"),
    }
    if !cannot(harness, Cannot::Fence) {
        let late = held.try_settle(&records).await;
        let fenced = matches!(late, Err(CommitError::Fenced));
        assert!(fenced, "a commit after the loss is to be `Fenced`, and was {late:?}");
    }
}
