//! A source over the memory transport that breaks one rule at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::BoxError;
use streambreaker::memory::{self, Consumer, Inject, Stream};
use streambreaker::record::{Headers, Position, Record};
use streambreaker::source::{
    Ack, Acker, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled, Source, SourceError,
};
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness, rules};
use streambreaker_testkit::suite::{Harness, check};

use super::fails;

/// How it is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    No,
    LosesRecords,
    Duplicates,
    TrimsPayloads,
    SortsHeaders,
    DropsEmptyKeys,
    MovesPositions,
    IgnoresRoom,
    SplitsNothingOff,
    Spins,
    FailsForGood,
    JumpsGaps,
    SaysTheEndEarly,
    NeverEnds,
    LosesOnCancel,
    LosesChanges,
    ForgetsCommits,
    CommitsAll,
    NeverFenced,
    TakesAcksBackEarly,
    ExtendsNothing,
    CountsNothing,
    Declares(Cannot),
}

use Broken::*;

struct Faulty {
    stream: Stream,
    published: AtomicU64,
    lives: AtomicU64,
    each: bool,
    broken: Broken,
}

fn by_position(broken: Broken) -> Faulty {
    let stream = Stream::new("s", 2);
    Faulty { stream, published: AtomicU64::new(0), lives: AtomicU64::new(0), each: false, broken }
}

fn one_by_one(broken: Broken) -> Faulty {
    Faulty { each: true, ..by_position(broken) }
}

impl Harness for Faulty {}

impl SourceHarness for Faulty {
    type Source = Wrapped;

    fn cannot(&self) -> Vec<Cannot> {
        let mut cannot = vec![Cannot::Restart];
        if let Declares(what) = self.broken {
            cannot.push(what);
        }
        cannot
    }

    async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
        let n = self.published.fetch_add(1, Ordering::Relaxed);
        let mut headers = message.headers.clone();
        if self.broken == SortsHeaders {
            headers.sort();
        }
        let shard = self.stream.shards()[shard].clone();
        let payload = match self.broken {
            TrimsPayloads => message.payload.trim_ascii().to_vec().into(),
            _ => message.payload.clone(),
        };
        let record = Record::new("s", shard, Position::from(n), payload)
            .with_headers(Headers::from_iter(headers));
        let key = message.key.clone().or((self.broken == DropsEmptyKeys).then(Default::default));
        let record = match key {
            Some(key) => record.with_key(key),
            None => record,
        };
        Ok(self.stream.push_record(record)?)
    }

    async fn consumer(&self) -> Result<Wrapped, BoxError> {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let consumer = self.stream.consumer("g");
        let inner = if self.each { consumer.each(Duration::from_secs(30)) } else { consumer };
        Ok(Wrapped { inner, broken: self.broken, life })
    }

    async fn close(&self) -> Result<(), BoxError> {
        self.stream.close();
        Ok(())
    }

    async fn forget(&self, count: usize) -> Result<(), BoxError> {
        self.stream.truncate(0, self.stream.records(0)[count].position());
        Ok(())
    }

    async fn fail_reads(&self, times: u32) -> Result<(), BoxError> {
        self.stream.inject_at(
            0,
            match self.broken {
                FailsForGood => Inject::ReadFatal,
                _ => Inject::ReadErrors(times),
            },
        );
        Ok(())
    }

    async fn revoke(&self) -> Result<(), BoxError> {
        self.stream.revoke("g", 0, Duration::from_secs(10));
        Ok(())
    }

    async fn lose(&self) -> Result<(), BoxError> {
        self.stream.lose("g", 0);
        Ok(())
    }

    async fn reassign(&self) -> Result<(), BoxError> {
        self.stream.assign("g", 0);
        Ok(())
    }
}

struct Wrapped {
    inner: Consumer,
    broken: Broken,
    life: u64,
}

#[async_trait]
impl Source for Wrapped {
    type Reader = WrappedReader;
    type Acker = WrappedAcker;

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn next(&mut self) -> Result<Option<Change<WrappedReader, WrappedAcker>>, SourceError> {
        let (broken, life) = (self.broken, self.life);
        let change = self.inner.next().await?;
        if broken == LosesChanges {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(change.map(|change| match change {
            Change::Assigned { shard, reader, acker } => Change::Assigned {
                shard,
                reader: WrappedReader { inner: reader, broken, life, read: 0 },
                acker: WrappedAcker { inner: acker, broken, last: None },
            },
            Change::Revoking { shard, grace } => Change::Revoking { shard, grace },
            Change::Lost { shard } => Change::Lost { shard },
            other => panic!("{other:?}"),
        }))
    }
}

struct WrappedReader {
    inner: memory::Reader,
    broken: Broken,
    life: u64,
    read: usize,
}

#[async_trait]
impl Reader for WrappedReader {
    async fn read(&mut self, mut room: Room) -> Result<Read, SourceError> {
        match self.broken {
            IgnoresRoom => room = Room { records: 1_000, bytes: 1 << 30 },
            SplitsNothingOff => room.bytes = usize::MAX,
            _ => {}
        }
        if self.broken == Spins && self.read > 0 {
            tokio::task::yield_now().await;
            return Ok(Read::Records { records: Vec::new(), behind: Behind::unknown() });
        }
        let read = self.inner.read(room).await?;
        if self.broken == LosesOnCancel {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match read {
            Read::Records { mut records, mut behind } => {
                self.read += records.len();
                match self.broken {
                    LosesRecords => records.retain(|r| r.position() != &Position::from(5)),
                    Duplicates if !records.is_empty() => records.push(records[0].clone()),
                    MovesPositions => {
                        let moved = |r: &Record| {
                            let at = r.position().as_u64().unwrap() + self.life;
                            Record::new("s", r.shard().clone(), at.into(), r.payload().clone())
                        };
                        records = records.iter().map(moved).collect();
                    }
                    SaysTheEndEarly => behind = Behind::records(0),
                    CountsNothing => {
                        records = records.into_iter().map(|r| r.with_deliveries(1)).collect();
                    }
                    _ => {}
                }
                Ok(Read::Records { records, behind })
            }
            Read::Gap { .. } if self.broken == JumpsGaps => self.inner.read(room).await,
            Read::End if self.broken == NeverEnds => std::future::pending().await,
            other => Ok(other),
        }
    }
}

struct WrappedAcker {
    inner: memory::Acker,
    broken: Broken,
    last: Option<Position>,
}

#[async_trait]
impl Acker for WrappedAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        match (self.broken, settled) {
            (ForgetsCommits, _) => return Ok(()),
            (CommitsAll, Settled::Through(at)) => {
                let next = Position::from(at.as_u64().unwrap() + 1);
                return self.inner.settle(Settled::Through(&next)).await;
            }
            (TakesAcksBackEarly, Settled::Each(acks)) => {
                let now = |ack: Ack| match ack {
                    Ack::Again { .. } => Ack::Again { after: Duration::ZERO },
                    ack => ack,
                };
                let acks: Vec<_> = acks.iter().map(|(at, ack)| (at.clone(), now(*ack))).collect();
                return self.inner.settle(Settled::Each(&acks)).await;
            }
            (_, Settled::Through(at)) => self.last = Some(at.clone()),
            _ => {}
        }
        match self.inner.settle(settled).await {
            Err(CommitError::Fenced) if self.broken == NeverFenced => Ok(()),
            other => other,
        }
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        if self.broken == ExtendsNothing { Ok(()) } else { self.inner.extend(held).await }
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        Box::new(self.inner).release().await
    }
}

/// The rule holds without the break, and fails with it.
macro_rules! caught {
    ($($make:ident($broken:expr): $rule:ident),* $(,)?) => {$(
        assert!(!fails(|| check($make(No), rules::$rule)), "{} fails a source that is right", stringify!($rule));
        assert!(fails(|| check($make($broken), rules::$rule)), "{:?} passes {}", $broken, stringify!($rule));
    )*};
}

#[test]
fn what_a_source_breaks_is_caught_by_the_rule_of_its_name() {
    caught![
        by_position(LosesRecords): s1_every_record_comes_once_in_order,
        by_position(Duplicates): s1_every_record_comes_once_in_order,
        by_position(TrimsPayloads): i5_payloads_come_byte_for_byte,
        by_position(DropsEmptyKeys): i5_keys_come_byte_for_byte,
        by_position(SortsHeaders): i5_headers_come_in_order_with_duplicates,
        by_position(MovesPositions): s1_a_record_looks_the_same_in_every_delivery,
        by_position(IgnoresRoom): o7_room_in_records_is_kept,
        by_position(SplitsNothingOff): o7_room_in_bytes_is_kept_and_a_larger_record_comes_alone,
        by_position(Spins): s1_empty_polls_do_not_spin,
        by_position(FailsForGood): s1_read_errors_pass,
        by_position(JumpsGaps): s2_a_gap_is_reported,
        by_position(SaysTheEndEarly): s9_behind_is_zero_only_at_the_end,
        by_position(NeverEnds): s1_the_end_is_said_and_stays,
        by_position(LosesOnCancel): s1_a_dropped_read_loses_nothing,
        by_position(LosesChanges): s1_a_dropped_next_loses_nothing,
        by_position(ForgetsCommits): s1_redelivery_of_a_suffix,
        by_position(ForgetsCommits): i6_a_settle_is_durable_when_it_returns,
        by_position(ForgetsCommits): i6_a_smaller_settle_never_overwrites,
        by_position(ForgetsCommits): i4_a_processor_settles_all_of_it,
        by_position(ForgetsCommits): s4_assigned_again_every_record_comes,
        by_position(ForgetsCommits): s5_a_revoked_shard_can_be_settled_within_its_grace,
        by_position(CommitsAll): s1_redelivery_of_a_suffix,
        by_position(CommitsAll): i6_settling_again_changes_nothing,
        by_position(CommitsAll): s4_what_is_released_is_read_on_by_the_next_owner,
        by_position(LosesRecords): s5_what_a_drain_leaves_the_next_life_reads,
        by_position(LosesRecords): s6_killed_and_run_again_nothing_is_lost,
        by_position(LosesRecords): s1_shards_are_read_apart,
        by_position(NeverFenced): s3_a_commit_after_the_loss_is_fenced,
        by_position(NeverFenced): s5_a_lost_shard_is_announced,
        one_by_one(TakesAcksBackEarly): s1_given_back_comes_again_not_before_its_delay,
        one_by_one(ForgetsCommits): s1_acknowledged_one_by_one_in_any_order,
        one_by_one(ForgetsCommits): t5_what_is_not_settled_by_its_deadline_comes_again,
        one_by_one(ExtendsNothing): t5_extend_keeps_a_record_past_its_deadline,
        one_by_one(CountsNothing): i10_deliveries_are_counted,
    ];
}

#[test]
fn what_is_declared_and_not_true_is_caught() {
    caught![
        by_position(Declares(Cannot::Keys)): i5_keys_come_byte_for_byte,
        by_position(Declares(Cannot::Headers)): i5_headers_come_in_order_with_duplicates,
        by_position(Declares(Cannot::OrderHeaders)): i5_headers_come_in_order_with_duplicates,
        by_position(Declares(Cannot::EmptyPayloads)): i5_what_cannot_be_carried_is_refused,
        by_position(Declares(Cannot::LineEnds)): i5_what_cannot_be_carried_is_refused,
        by_position(Declares(Cannot::Shards)): s1_shards_are_read_apart,
        by_position(Declares(Cannot::End)): s1_the_end_is_said_and_stays,
        by_position(Declares(Cannot::Gap)): s2_a_gap_is_reported,
        by_position(Declares(Cannot::FailReads)): s1_read_errors_pass,
        by_position(Declares(Cannot::Fence)): s3_a_commit_after_the_loss_is_fenced,
        by_position(Declares(Cannot::Revoke)): s5_a_revoked_shard_can_be_settled_within_its_grace,
        by_position(Declares(Cannot::Lose)): s5_a_lost_shard_is_announced,
        by_position(Declares(Cannot::Reassign)): s4_assigned_again_every_record_comes,
    ];
}
