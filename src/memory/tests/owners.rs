//! Who owns a shard, and who no longer does.

use super::*;

#[tokio::test(start_paused = true)]
async fn i2_positions_survive_the_consumer() {
    let stream = filled(3);
    let mut first = stream.consumer("g");
    let (mut reader, mut acker) = assigned(&mut first).await;
    assert_eq!(positions(&mut reader).await, [0, 1, 2]);
    acker.settle(Settled::Through(&at(0))).await.expect("a commit");
    drop((first, reader, acker));

    let mut second = stream.consumer("g");
    let (mut reader, _) = assigned(&mut second).await;
    assert_eq!(positions(&mut reader).await, [1, 2]);
    assert_eq!(stream.committed("other", 0), None);
}

#[tokio::test(start_paused = true)]
async fn s3_the_older_owner_is_fenced() {
    let stream = filled(3);
    let mut old = stream.consumer("g");
    let (mut old_reader, mut old_acker) = assigned(&mut old).await;
    records(&mut old_reader).await;
    let mut new = stream.consumer("g");
    let (mut reader, mut acker) = assigned(&mut new).await;

    let refused = old_acker.settle(Settled::Through(&at(2))).await;
    assert!(matches!(refused, Err(CommitError::Fenced)));
    assert_eq!(stream.committed("g", 0), None);
    assert_eq!(positions(&mut reader).await, [0, 1, 2]);
    acker.settle(Settled::Through(&at(1))).await.expect("the owner commits");
    assert!(matches!(Box::new(old_acker).release().await, Err(CommitError::Fenced)));
    let outcomes: Vec<_> = stream.commits().iter().map(|c| (c.ownership, c.outcome)).collect();
    assert_eq!(outcomes, [(1, CommitOutcome::Fenced), (2, CommitOutcome::Applied)]);
}

#[tokio::test(start_paused = true)]
async fn s3_a_stale_owner_takes_no_records_of_one_by_one() {
    let stream = filled(2);
    let mut old = stream.consumer("g").each(SECOND);
    let (mut old_reader, _) = assigned(&mut old).await;
    let mut new = stream.consumer("g").each(SECOND);
    let (mut reader, _) = assigned(&mut new).await;
    assert!(pending(old_reader.read(ROOM)).await);
    assert_eq!(positions(&mut reader).await, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn s4_revoked_and_assigned_again_to_the_same_consumer() {
    let stream = filled(2);
    let mut consumer = stream.consumer("g");
    let (mut reader, mut before) = assigned(&mut consumer).await;
    records(&mut reader).await;
    stream.revoke("g", 0, SECOND);
    assert!(matches!(consumer.next().await, Ok(Some(Change::Revoking { grace: SECOND, .. }))));
    before.settle(Settled::Through(&at(0))).await.expect("within the grace");
    stream.assign("g", 0);
    let (mut reader, mut after) = assigned(&mut consumer).await;
    assert!(matches!(before.settle(Settled::Through(&at(1))).await, Err(CommitError::Fenced)));
    assert_eq!(positions(&mut reader).await, [1]);
    after.settle(Settled::Through(&at(1))).await.expect("the owner commits");
}

#[tokio::test(start_paused = true)]
async fn s5_commits_end_with_the_grace_and_with_the_loss() {
    let stream = filled(2);
    let mut consumer = stream.consumer("g");
    let (mut reader, mut acker) = assigned(&mut consumer).await;
    records(&mut reader).await;
    stream.revoke("g", 0, SECOND);
    tokio::time::advance(SECOND + Duration::from_millis(1)).await;
    assert!(matches!(acker.settle(Settled::Through(&at(0))).await, Err(CommitError::Fenced)));
    stream.lose("g", 0);
    consumer.next().await.expect("revoking");
    assert!(matches!(consumer.next().await, Ok(Some(Change::Lost { .. }))));
    stream.assign("g", 0);
    let (_, acker) = assigned(&mut consumer).await;
    Box::new(acker).release().await.expect("it is ours");
    stream.lose("g", 0);
    assert!(pending(consumer.next()).await, "nobody owned it");
}

#[tokio::test(start_paused = true)]
async fn s3_consumers_share_a_group_by_hand() {
    let stream = Stream::new("s", 2);
    let mut left = stream.consumer("g").only([0]);
    let mut right = stream.consumer("g").only([1, 99]);
    let mut idle = stream.consumer("g").by_hand();
    assert!(
        matches!(left.next().await, Ok(Some(Change::Assigned { shard, .. })) if shard == "0".into())
    );
    assert!(
        matches!(right.next().await, Ok(Some(Change::Assigned { shard, .. })) if shard == "1".into())
    );
    assert!(pending(idle.next()).await);
    stream.assign("g", 1);
    assert!(
        matches!(idle.next().await, Ok(Some(Change::Assigned { shard, .. })) if shard == "1".into())
    );
}
