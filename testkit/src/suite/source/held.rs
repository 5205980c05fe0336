//! A consumer in the hands of a rule, driven as a processor drives one.

use std::collections::VecDeque;

use bytes::Bytes;
use streambreaker::record::{Position, Record, ShardId};
use streambreaker::source::{
    Ack, Acker, Acknowledge, Behind, Change, CommitError, Read, Reader, Room, Settled, Source,
    SourceError,
};
use tokio::time::{Instant, sleep, timeout};

use super::harness::{Cannot, Message, SourceHarness, must};
use crate::suite::check::Time;

/// Room for everything a rule publishes.
pub(super) const ROOM: Room = Room { records: 10_000, bytes: 64 << 20 };

type OwnReader<H> = <<H as SourceHarness>::Source as Source>::Reader;
type OwnAcker<H> = <<H as SourceHarness>::Source as Source>::Acker;
/// A shard that was assigned.
pub(super) type Taken<H> = (ShardId, OwnReader<H>, OwnAcker<H>);
type OwnChange<H> = Change<OwnReader<H>, OwnAcker<H>>;

/// A consumer that has shard 0, and reads from it alone.
pub(super) struct Held<H: SourceHarness> {
    time: Time,
    pub(super) source: H::Source,
    pub(super) shard: ShardId,
    pub(super) reader: OwnReader<H>,
    pub(super) acker: OwnAcker<H>,
    /// The other shards, which nobody reads.
    _others: Vec<Taken<H>>,
    changes: VecDeque<OwnChange<H>>,
    over: bool,
}

/// What `n` numbered messages hold: JSON, as a file has.
pub(super) fn message(n: usize) -> Message {
    Message::new(format!(r#"{{"n":{n}}}"#))
}

/// Publishes so many numbered messages to shard 0.
pub(super) async fn publish<H: SourceHarness>(harness: &H, numbers: std::ops::Range<usize>) {
    for n in numbers {
        must("publish", harness.publish(0, &message(n)).await);
    }
}

/// The payloads of so many numbered messages.
pub(super) fn payloads(numbers: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
    numbers.into_iter().map(|n| message(n).payload).collect()
}

pub(super) fn payloads_of(records: &[Record]) -> Vec<Bytes> {
    records.iter().map(|record| record.payload().clone()).collect()
}

/// Takes every shard that is assigned within patience, until there are `n`.
pub(super) async fn take<H: SourceHarness>(
    time: Time,
    source: &mut H::Source,
    n: usize,
) -> Vec<Taken<H>> {
    let mut shards = Vec::new();
    let began = Instant::now();
    while shards.len() < n {
        match timeout(time.patience(), source.next()).await {
            Err(_) => panic!("{} of {n} shards are assigned, and no more come", shards.len()),
            Ok(Ok(Some(Change::Assigned { shard, reader, acker }))) => {
                shards.push((shard, reader, acker));
            }
            Ok(Ok(Some(other))) => panic!("a shard is to be assigned, not {other:?}"),
            Ok(Ok(None)) => panic!("{} of {n} shards are assigned, and then none", shards.len()),
            Ok(Err(error)) => pardon(began, time, error).await,
        }
    }
    shards
}

/// How many shards there are.
pub(super) fn shards<H: SourceHarness>(harness: &H) -> usize {
    if harness.cannot().contains(&Cannot::Shards) { 1 } else { 2 }
}

fn names<R, A>(shards: &[(ShardId, R, A)]) -> String {
    let names: Vec<_> = shards.iter().map(|(shard, ..)| shard.as_str()).collect();
    names.join(", ")
}

/// An error that a processor would wait out.
async fn pardon(began: Instant, time: Time, error: SourceError) {
    match error {
        SourceError::Transient(_) if began.elapsed() < time.patience() => {
            sleep(std::time::Duration::from_millis(100)).await;
        }
        error => panic!(
            "{error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, |e| e.to_string())
        ),
    }
}

impl<H: SourceHarness> Held<H> {
    /// A consumer of the harness, when it has all its shards.
    pub(super) async fn open(harness: &H) -> Self {
        let mut source = must("make a consumer", harness.consumer().await);
        let time = harness.time();
        let mut others = take::<H>(time, &mut source, shards(harness)).await;
        let (first, names) = (harness.shard(0), names(&others));
        let Some(own) = others.iter().position(|(shard, ..)| *shard == first) else {
            panic!(
                "shard {first} is not assigned, but {names}: say in the harness what it is called"
            );
        };
        let (shard, reader, acker) = others.swap_remove(own);
        let (changes, over) = (VecDeque::new(), false);
        Self { time, source, shard, reader, acker, _others: others, changes, over }
    }

    pub(super) fn acknowledges(&self) -> Acknowledge {
        self.source.caps().acknowledge
    }

    /// One read, while changes of ownership are listened to. `None` when nothing comes within patience.
    pub(super) async fn read_within(
        &mut self,
        room: Room,
        limit: std::time::Duration,
    ) -> Option<Result<Read, SourceError>> {
        let Self { source, reader, changes, over, .. } = self;
        let read = timeout(limit, reader.read(room));
        tokio::pin!(read);
        loop {
            tokio::select! {
                biased;
                change = source.next(), if !*over => match change {
                    Ok(Some(change)) => changes.push_back(change),
                    Ok(None) => *over = true,
                    Err(SourceError::Fatal(error)) => panic!("the source fails for good: {error}"),
                    Err(_) => sleep(std::time::Duration::from_millis(100)).await,
                },
                read = &mut read => return read.ok(),
            }
        }
    }

    /// One read that must yield records.
    pub(super) async fn read(&mut self, room: Room) -> (Vec<Record>, Behind) {
        let began = Instant::now();
        loop {
            match self.read_within(room, self.time.patience()).await {
                None => panic!("a read yields nothing within {:?}", self.time.patience()),
                Some(Ok(Read::Records { records, behind })) if !records.is_empty() => {
                    return (records, behind);
                }
                Some(Ok(Read::Records { .. })) => {
                    assert!(
                        began.elapsed() < self.time.patience(),
                        "reads yield nothing, again and again, although there are records"
                    );
                    tokio::task::yield_now().await;
                }
                Some(Ok(other)) => panic!("a read is to yield records, not {other:?}"),
                Some(Err(error)) => pardon(began, self.time, error).await,
            }
        }
    }

    /// Reads until there are `n` records.
    pub(super) async fn collect(&mut self, n: usize) -> Vec<Record> {
        let mut all = Vec::new();
        while all.len() < n {
            let (records, _) = self.read(ROOM).await;
            all.extend(records);
        }
        assert_eq!(all.len(), n, "more records came than there are: {:?}", positions(&all));
        all
    }

    /// Holds it against it that nothing more comes.
    pub(super) async fn quiet(&mut self) {
        let until = Instant::now() + self.time.quiet();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            match self.read_within(ROOM, left).await {
                None => return,
                Some(Ok(Read::Records { records, .. })) if records.is_empty() => {
                    sleep(std::time::Duration::from_millis(10)).await;
                }
                Some(Ok(Read::End)) => return,
                Some(Ok(Read::Records { records, .. })) => {
                    panic!("nothing is left to come, but there is {:?}", positions(&records))
                }
                Some(Ok(other)) => panic!("nothing is left to come, but there is {other:?}"),
                Some(Err(error)) => panic!("a read that has nothing to yield fails: {error}"),
            }
        }
    }

    /// The next change of ownership, also one that came during a read.
    pub(super) async fn change(&mut self) -> Option<OwnChange<H>> {
        if let Some(change) = self.changes.pop_front() {
            return Some(change);
        }
        match timeout(self.time.patience(), self.source.next()).await {
            Err(_) => panic!("no change of ownership comes within {:?}", self.time.patience()),
            Ok(Err(error)) => panic!("the next change of ownership: {error}"),
            Ok(Ok(change)) => change,
        }
    }

    /// Settles the first records of what was read, in the way of the source.
    pub(super) async fn try_settle(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let Some(last) = records.last() else { return Ok(()) };
        match self.acknowledges() {
            Acknowledge::Prefix => self.acker.settle(Settled::Through(last.position())).await,
            Acknowledge::Each => {
                let acks: Vec<(Position, Ack)> =
                    records.iter().map(|r| (r.position().clone(), Ack::Done)).collect();
                self.acker.settle(Settled::Each(&acks)).await
            }
        }
    }

    /// Settles the first records of what was read; tries again as the processor does.
    pub(super) async fn settle(&mut self, records: &[Record]) {
        for _ in 0..20 {
            match self.try_settle(records).await {
                Ok(()) => return,
                Err(CommitError::Fenced) => panic!("the owner of a shard is fenced"),
                Err(_) => sleep(std::time::Duration::from_millis(100)).await,
            }
        }
        panic!("a commit fails again and again");
    }

    pub(super) async fn release(self) {
        if let Err(error) = Box::new(self.acker).release().await {
            panic!("the owner cannot release its shard: {error}");
        }
    }
}

pub(super) fn positions(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.position().to_string()).collect()
}

impl<H: SourceHarness> Held<H> {
    /// The payloads of the next `n` records, in whatever batches.
    pub(super) async fn collect_within(&mut self, n: usize) -> Vec<Bytes> {
        let mut seen = Vec::new();
        while seen.len() < n {
            seen.extend(payloads_of(&self.read(ROOM).await.0));
        }
        seen
    }

    /// Holds it against it that none of these comes, whatever else does.
    pub(super) async fn quiet_of(&mut self, gone: &[Bytes]) {
        let until = Instant::now() + self.time.quiet();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            let Some(read) = self.read_within(ROOM, left).await else { return };
            if let Ok(Read::Records { records, .. }) = read {
                let came = records.iter().find(|record| gone.contains(record.payload()));
                assert!(came.is_none(), "what was settled comes again: {came:?}");
            }
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
