//! What a broker does and what it does wrong, one rule a test.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::PausedClock;
use crate::record::{Position, ShardId, Timestamp};
use crate::sink::{OutcomeLog, Sink};
use crate::source::{Ack, Acker as _, Change, CommitError, Read, Reader as _, Room, Settled};
use crate::source::{Source, SourceError};

const ROOM: Room = Room { records: 100, bytes: 1 << 20 };
const SECOND: Duration = Duration::from_secs(1);

async fn assigned(consumer: &mut Consumer) -> (Reader, Acker) {
    match consumer.next().await {
        Ok(Some(Change::Assigned { reader, acker, .. })) => (reader, acker),
        other => panic!("expected an assignment, got {other:?}"),
    }
}

async fn records(reader: &mut Reader) -> Vec<Record> {
    match reader.read(ROOM).await {
        Ok(Read::Records { records, .. }) => records,
        other => panic!("expected records, got {other:?}"),
    }
}

async fn positions(reader: &mut Reader) -> Vec<u64> {
    records(reader).await.iter().map(|r| r.position().as_u64().expect("a number")).collect()
}

fn at(n: u64) -> Position {
    Position::from(n)
}

fn filled(records: usize) -> Stream {
    let stream = Stream::new("s", 1);
    for n in 0..records {
        stream.push(format!("{n}"));
    }
    stream
}

async fn pending<T>(future: impl Future<Output = T>) -> bool {
    timeout(Duration::from_secs(3_600), future).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_payloads_is_one_line() {
    let mut source = super::stream(["a", "b"]);
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
    let mut source = super::records(given.clone()).expect("in order");
    assert_eq!(source.caps().stream, "orders");
    let (mut b, _) = assigned(&mut source).await;
    let (mut a, _) = assigned(&mut source).await;
    assert_eq!(records(&mut b).await, [given[0].clone(), given[2].clone()]);
    assert_eq!(records(&mut a).await, [given[1].clone()]);
    assert_eq!(super::records([given[2].clone(), given[0].clone()]).err(), Some(PushError::Order));
}

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

#[tokio::test(start_paused = true)]
async fn k1_a_sink_answers_as_it_is_told() {
    let sink = Collect::new();
    let write = async |items: &[u32]| {
        let mut log = OutcomeLog::new(items.len());
        let result = timeout(SECOND, sink.write(items, &mut log.outcomes())).await;
        let done: Vec<bool> = (0..items.len()).map(|n| log.is_done(n)).collect();
        (result.map(|r| r.map_err(|e| e.class()).err()), done)
    };
    use crate::error::Class;
    sink.down();
    assert_eq!(write(&[1]).await, (Ok(Some(Class::Transient)), vec![false]));
    sink.up();
    sink.respond(1, Response::Throttle(SECOND));
    assert_eq!(write(&[1]).await, (Ok(Some(Class::Throttled)), vec![false]));
    sink.respond(1, Response::Hang);
    assert!(write(&[1]).await.0.is_err());
    assert!(sink.is_empty());
    sink.respond(1, Response::ReplyLost);
    assert_eq!(write(&[1]).await.1, [false]);
    sink.respond(1, Response::ApplyThenHang);
    assert!(write(&[2]).await.0.is_err());
    assert_eq!(sink.items(), [1, 2]);
    sink.decide(|_, item| match item {
        3 => Verdict::Done,
        4 => Verdict::Reject,
        5 => Verdict::ReplyLost,
        6 => Verdict::Throttled(SECOND),
        7 => Verdict::Retry,
        _ => Verdict::Silent,
    });
    assert_eq!(write(&[3, 4, 5, 6, 7, 8]).await.1, [true, false, false, false, false, false]);
    assert_eq!(sink.items(), [1, 2, 3, 5]);
    sink.decide_no_more();
    assert_eq!(write(&[9]).await, (Ok(None), vec![true]));
    assert_eq!(sink.requests().len(), 7);
}

#[tokio::test]
async fn l12_debug_shows_no_content() {
    let stream = Stream::new("s", 1);
    stream.push_keyed("secret", "secret");
    let sink = Collect::<&str>::new();
    sink.write(&["secret"], &mut OutcomeLog::new(1).outcomes()).await.expect("written");
    let text = format!("{stream:?} {sink:?} {:?}", stream.consumer("g"));
    assert_eq!(text, "Stream(s, 1 shards, 1 records) Collect(1 items) Consumer(g of s)");
}

/// What a consumer may do next.
#[derive(Clone, Debug)]
enum Step {
    Push,
    Read(usize),
    Settle(usize),
    GiveBack(usize),
    Advance(u64),
    Restart,
    Inject(Inject),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Push),
        Just(Step::Push),
        (1..4usize).prop_map(Step::Read),
        (0..5usize).prop_map(Step::Settle),
        (0..5usize).prop_map(Step::GiveBack),
        (0..2_000u64).prop_map(Step::Advance),
        Just(Step::Restart),
        (1..3usize).prop_map(|n| Step::Inject(Inject::Redeliver(n))),
        Just(Step::Inject(Inject::Duplicate(1))),
        Just(Step::Inject(Inject::CommitErrors(1))),
        Just(Step::Inject(Inject::CommitRepliesLost(1))),
    ]
}

/// Runs steps against a stream, then reads and settles to the end; yields what was ever delivered.
async fn drive(steps: Vec<Step>, each: bool) -> (Stream, std::collections::BTreeSet<u64>) {
    let stream = Stream::new("s", 1);
    let consumer = |stream: &Stream| {
        let consumer = stream.consumer("g");
        if each { consumer.each(SECOND) } else { consumer }
    };
    let mut source = consumer(&stream);
    let (mut reader, mut acker) = assigned(&mut source).await;
    let (mut open, mut seen) = (Vec::<Position>::new(), std::collections::BTreeSet::new());
    for step in steps {
        match step {
            Step::Push => drop(stream.push("x")),
            Step::Inject(inject) => stream.inject(inject),
            Step::Advance(millis) => tokio::time::advance(Duration::from_millis(millis)).await,
            Step::Restart => {
                source = consumer(&stream);
                (reader, acker) = assigned(&mut source).await;
                open.clear();
            }
            Step::Read(n) => {
                let room = Room { records: n, ..ROOM };
                let read = timeout(Duration::from_millis(1), reader.read(room)).await;
                if let Ok(Ok(Read::Records { records, .. })) = read {
                    seen.extend(records.iter().filter_map(|r| r.position().as_u64()));
                    open.extend(records.iter().map(|r| r.position().clone()));
                    open.sort();
                }
            }
            Step::Settle(n) if !open.is_empty() => {
                let position = open[n % open.len()].clone();
                let acks = [(position.clone(), Ack::Done)];
                let above = stream.committed("g", 0).is_none_or(|c| c <= position);
                let _ = match each {
                    true => acker.settle(Settled::Each(&acks)).await,
                    false if above => acker.settle(Settled::Through(&position)).await,
                    false => Ok(()),
                };
            }
            Step::GiveBack(n) if each && !open.is_empty() => {
                let acks = [(open[n % open.len()].clone(), Ack::Again { after: SECOND })];
                let _ = acker.settle(Settled::Each(&acks)).await;
            }
            Step::Settle(_) | Step::GiveBack(_) => {}
        }
    }
    stream.close();
    if !each {
        source = consumer(&stream);
        (reader, acker) = assigned(&mut source).await;
    }
    while let Read::Records { records, .. } = reader.read(ROOM).await.expect("a read") {
        let positions: Vec<Position> = records.iter().map(|r| r.position().clone()).collect();
        seen.extend(positions.iter().filter_map(Position::as_u64));
        let acks: Vec<_> = positions.iter().map(|p| (p.clone(), Ack::Done)).collect();
        let committed = stream.committed("g", 0);
        let Some(last) = positions.into_iter().max().max(committed) else { continue };
        let settled = if each { Settled::Each(&acks) } else { Settled::Through(&last) };
        while acker.settle(settled).await.is_err() {}
    }
    (stream, seen)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn i3_no_record_is_lost_whatever_happens(
        steps in proptest::collection::vec(step(), 0..60),
        each in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().expect("a runtime");
        let (stream, seen) = runtime.block_on(drive(steps, each));
        prop_assert_eq!(seen.len(), stream.len());
        prop_assert!(stream.is_settled("g"));
        prop_assert_eq!(stream.unacked("g"), 0);
    }
}
