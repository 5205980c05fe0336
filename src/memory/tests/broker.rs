//! What every broker does, and does wrong.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stream_of_payloads_is_one_line() {
    let mut source = crate::memory::stream(["a", "b"]);
    let (mut reader, mut acker) = assigned(&mut source).await;
    assert!(matches!(source.next().await, Ok(None)));
    assert_eq!(positions(&mut reader).await, [0, 1]);
    assert!(matches!(reader.read(ROOM).await, Ok(Read::End)));
    acker.settle(Settled::Through(&at(1))).await.expect("a commit");
}

#[tokio::test(start_paused = true)]
async fn i5_ready_made_records_come_as_they_are() {
    let given = [
        Record::new("orders", "b", at(7), "x").with_key("k").with_header("h", "v"),
        Record::new("orders", "a", Position::pair(1, 2), "y").with_deliveries(1),
        Record::new("orders", "b", at(9), "z").with_arrival(Timestamp::from_millis(5)),
    ];
    let mut source = crate::memory::records(given.clone()).expect("in order");
    assert_eq!(source.caps().stream, "orders");
    let (mut b, _) = assigned(&mut source).await;
    let (mut a, _) = assigned(&mut source).await;
    assert_eq!(records(&mut b).await, [given[0].clone(), given[2].clone()]);
    assert_eq!(records(&mut a).await, [given[1].clone()]);
    assert_eq!(
        crate::memory::records([given[2].clone(), given[0].clone()]).err(),
        Some(PushError::Order)
    );
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "I2: a commit of 0 would go back from 2")]
async fn i2_a_commit_that_goes_back_is_not_taken() {
    let stream = filled(3);
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g")).await;
    records(&mut reader).await;
    acker.settle(Settled::Through(&at(2))).await.expect("a commit");
    let _ = acker.settle(Settled::Through(&at(0))).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "passes what was delivered")]
async fn i2_a_commit_that_passes_what_was_delivered_is_not_taken() {
    let stream = filled(3);
    let (_, mut acker) = assigned(&mut stream.consumer("g")).await;
    let _ = acker.settle(Settled::Through(&at(0))).await;
}

#[tokio::test(start_paused = true)]
async fn s2_what_retention_took_is_a_gap() {
    let stream = filled(5);
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    let room = Room { records: 2, ..ROOM };
    assert!(
        matches!(reader.read(room).await, Ok(Read::Records { records, .. }) if records.len() == 2)
    );
    stream.truncate(0, &at(4));
    match reader.read(ROOM).await {
        Ok(Read::Gap { from, to }) => assert_eq!((from, to), (at(2), at(4))),
        other => panic!("expected a gap, got {other:?}"),
    }
    assert_eq!(positions(&mut reader).await, [4]);
    let (mut late, _) = assigned(&mut stream.consumer("late").each(SECOND)).await;
    assert!(
        matches!(late.read(ROOM).await, Ok(Read::Gap { from, to }) if (&from, &to) == (&at(0), &at(4)))
    );
    assert_eq!(positions(&mut late).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn s2_what_was_delivered_and_is_gone_before_it_comes_again_is_a_gap() {
    let stream = filled(5);
    let each = || stream.consumer("g").each(SECOND);
    let (mut reader, mut acker) = assigned(&mut each()).await;
    assert_eq!(positions(&mut reader).await, [0, 1, 2, 3, 4]);
    stream.truncate(0, &at(3));
    // who has it may settle it
    acker.settle(Settled::Each(&[(at(0), Ack::Done)])).await.expect("a commit");
    assert!(!stream.is_settled("g"));
    let (mut reader, mut acker) = assigned(&mut each()).await;
    assert!(
        matches!(reader.read(ROOM).await, Ok(Read::Gap { from, to }) if (&from, &to) == (&at(1), &at(3)))
    );
    assert_eq!(positions(&mut reader).await, [3, 4]);
    acker.settle(Settled::Each(&[(at(4), Ack::Done), (at(3), Ack::Done)])).await.expect("a commit");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn s1_a_waiting_reader_wakes_for_a_push_and_for_the_end() {
    let stream = Stream::new("s", 1);
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    assert_eq!(positions(&mut reader).await, [0; 0], "it says once that it is at the end");
    let waiting = tokio::spawn(async move {
        let first = positions(&mut reader).await;
        (first, matches!(reader.read(ROOM).await, Ok(Read::End)))
    });
    tokio::time::sleep(SECOND).await;
    stream.push("x");
    tokio::time::sleep(SECOND).await;
    stream.close();
    assert_eq!(waiting.await.expect("no panic"), (vec![0], true));
    assert_eq!(stream.try_push(None, "y"), Err(PushError::Closed));
}

#[tokio::test(start_paused = true)]
async fn s1_every_failure_of_a_read_can_be_had() {
    let stream = filled(3);
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    stream.inject(Inject::ReadErrors(1));
    stream.inject(Inject::EmptyReads(1));
    assert!(matches!(reader.read(ROOM).await, Err(SourceError::Transient(_))));
    assert_eq!(positions(&mut reader).await, [0; 0]);
    stream.inject(Inject::Duplicate(1));
    assert_eq!(positions(&mut reader).await, [0, 0, 1, 2]);
    stream.inject(Inject::Redeliver(2));
    assert_eq!(positions(&mut reader).await, [1, 2]);
    stream.inject(Inject::Redeliver(99));
    assert_eq!(positions(&mut reader).await, [0, 1, 2]);
    stream.inject(Inject::Stall);
    stream.push("3");
    assert!(pending(reader.read(ROOM)).await);
    stream.resume();
    assert_eq!(positions(&mut reader).await, [3]);
    stream.inject_at(0, Inject::ReadFatal);
    assert!(matches!(reader.read(ROOM).await, Err(SourceError::Fatal(_))));
}

#[tokio::test(start_paused = true)]
async fn i6_every_failure_of_a_commit_can_be_had() {
    let stream = filled(3);
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g")).await;
    records(&mut reader).await;
    stream.inject(Inject::CommitErrors(1));
    assert!(acker.settle(Settled::Through(&at(0))).await.is_err());
    assert_eq!(stream.committed("g", 0), None);
    stream.inject(Inject::CommitRepliesLost(1));
    assert!(acker.settle(Settled::Through(&at(0))).await.is_err());
    assert_eq!(stream.committed("g", 0), Some(at(0)));
    acker.settle(Settled::Through(&at(0))).await.expect("the same again");
    stream.inject(Inject::CommitsHang(1));
    assert!(pending(acker.settle(Settled::Through(&at(1)))).await);
    assert_eq!(stream.committed("g", 0), Some(at(0)));
    stream.inject(Inject::CommitsHang(1));
    let resumer = stream.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        resumer.resume();
    });
    acker.settle(Settled::Through(&at(2))).await.expect("it goes on");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn i1_every_commit_can_be_watched() {
    let stream = filled(2);
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g")).await;
    let seen = Collect::new();
    let (log, handle) = (seen.clone(), stream.clone());
    stream.on_commit(move |commit| {
        assert_eq!(handle.committed("g", 0), Some(at(1)), "watched after it took effect");
        log.decide_no_more();
        assert_eq!(commit.what, What::Through(at(1)));
        log.respond(1, Response::Silence);
    });
    records(&mut reader).await;
    acker.settle(Settled::Through(&at(1))).await.expect("a commit");
    let mut outcomes = OutcomeLog::new(1);
    seen.write(&[1], &mut outcomes.outcomes()).await.expect("silence");
    assert!(seen.is_empty(), "the watch was called");
}

#[tokio::test(start_paused = true)]
async fn s1_one_by_one_comes_again_after_the_wait_and_counts() {
    let stream = filled(2);
    let mut consumer = stream.consumer("g").each(SECOND);
    let (mut reader, mut acker) = assigned(&mut consumer).await;
    assert_eq!(positions(&mut reader).await, [0, 1]);
    assert_eq!(stream.unacked("g"), 2);
    acker.settle(Settled::Each(&[(at(1), Ack::Done)])).await.expect("an ack");
    let start = Instant::now();
    let again = records(&mut reader).await;
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!((again[0].position(), again[0].deliveries()), (&at(0), 2));
    acker
        .settle(Settled::Each(&[(at(0), Ack::Again { after: 9 * SECOND })]))
        .await
        .expect("an ack");
    let start = Instant::now();
    assert_eq!(records(&mut reader).await[0].deliveries(), 3);
    assert_eq!(start.elapsed(), 9 * SECOND);
    stream.close();
    acker.settle(Settled::Each(&[(at(0), Ack::Faulted)])).await.expect("an ack");
    assert!(matches!(reader.read(ROOM).await, Ok(Read::End)));
    assert!(matches!(consumer.next().await, Ok(None)));
    assert_eq!(stream.committed("g", 0), Some(at(1)));
}

#[tokio::test(start_paused = true)]
async fn s1_one_by_one_ends_only_when_nothing_is_unacknowledged() {
    let stream = filled(1);
    stream.close();
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g").each(SECOND)).await;
    assert_eq!(positions(&mut reader).await, [0]);
    let ends = tokio::spawn(async move { reader.read(ROOM).await });
    tokio::time::sleep(SECOND / 2).await;
    assert!(!ends.is_finished());
    acker.settle(Settled::Each(&[(at(0), Ack::Done)])).await.expect("an ack");
    assert!(matches!(ends.await, Ok(Ok(Read::End))));
}

#[tokio::test(start_paused = true)]
async fn t5_extending_moves_the_deadline() {
    let stream = filled(1);
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g").each(SECOND)).await;
    records(&mut reader).await;
    for _ in 0..5 {
        tokio::time::advance(SECOND / 2).await;
        acker.extend(&[at(0), at(77)]).await.expect("it is ours");
    }
    let start = Instant::now();
    assert_eq!(positions(&mut reader).await, [0]);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn i10_deliveries_are_counted_over_the_lives_of_consumers() {
    let stream = filled(1);
    for life in 1..=3 {
        let (mut reader, _) = assigned(&mut stream.consumer("g").counting()).await;
        assert_eq!(records(&mut reader).await[0].deliveries(), life);
    }
    for life in 1..=3 {
        let (mut reader, _) = assigned(&mut stream.consumer("each").each(SECOND)).await;
        assert_eq!(records(&mut reader).await[0].deliveries(), life);
    }
}

#[tokio::test(start_paused = true)]
async fn i10_changing_the_way_of_acknowledging_loses_nothing() {
    let stream = filled(3);
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g")).await;
    records(&mut reader).await;
    acker.settle(Settled::Through(&at(0))).await.expect("a commit");
    let (mut reader, mut acker) = assigned(&mut stream.consumer("g").each(SECOND)).await;
    assert_eq!(positions(&mut reader).await, [1, 2]);
    acker.settle(Settled::Each(&[(at(2), Ack::Done)])).await.expect("an ack");
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    assert_eq!(positions(&mut reader).await, [1, 2], "2 again rather than 1 never");
}

#[tokio::test(start_paused = true)]
async fn s9_what_is_behind_has_a_count_and_an_age() {
    let clock = PausedClock::starting_at(Timestamp::from_millis(0));
    let stream = Stream::with_clock("s", [ShardId::from("0")], clock);
    stream.push("a");
    tokio::time::advance(SECOND).await;
    stream.push("b");
    tokio::time::advance(SECOND).await;
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    let one = Room { records: 1, ..ROOM };
    let Ok(Read::Records { behind, .. }) = reader.read(one).await else { panic!("a record") };
    assert_eq!((behind.records, behind.age), (Some(1), Some(SECOND)));
    let Ok(Read::Records { behind, .. }) = reader.read(one).await else { panic!("a record") };
    assert_eq!((behind.records, behind.age), (Some(0), None));
}

#[tokio::test(start_paused = true)]
async fn o7_a_read_stays_within_its_room() {
    let stream = Stream::new("s", 1);
    for size in [10, 10, 10, 500, 10] {
        stream.push(vec![b'x'; size]);
    }
    let (mut reader, _) = assigned(&mut stream.consumer("g")).await;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let room = Room { records: 2, bytes: 100 };
        let Ok(Read::Records { records, .. }) = reader.read(room).await else { panic!("records") };
        sizes.push(records.iter().map(Record::size).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![10, 10], vec![10], vec![500], vec![10]]);
}

#[tokio::test(start_paused = true)]
async fn o1_a_key_stays_in_its_shard() {
    let stream = Stream::new("s", 7);
    for n in 0..100 {
        stream.push_keyed(format!("key-{}", n % 10), format!("{n}"));
    }
    let shards: Vec<Vec<Record>> = (0..7).map(|shard| stream.records(shard)).collect();
    assert_eq!(shards.iter().map(Vec::len).sum::<usize>(), stream.len());
    for key in 0..10 {
        let key = format!("key-{key}");
        let having =
            |shard: &&Vec<Record>| shard.iter().any(|r| r.key().is_some_and(|k| *k == key));
        assert_eq!(shards.iter().filter(having).count(), 1);
    }
}
