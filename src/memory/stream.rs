//! The stream itself: what producers and tests hold.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::commits::Commit;
use super::consumer::Consumer;
use super::group::{Group, GroupName, Holding};
use super::inject::{Inject, Injected};
use super::log::Log;
use crate::clock::{Clock, SystemClock};
use crate::record::{Position, Record, ShardId};
use crate::source::shard_of;

/// How many commits [`Stream::commits`] remembers.
const COMMITS_KEPT: usize = 1 << 16;

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The stream has been closed.
    #[error("the stream is closed: push before `close`")]
    Closed,
    /// The record names a shard that the stream does not have.
    #[error("the stream has no shard of this name: name the shards in `Stream::with_shards`")]
    UnknownShard,
    /// The record's position is not above that of the shard's last record.
    #[error(
        "the position is not above that of the shard's last record; push in the order of positions"
    )]
    Order,
}

/// A stream in memory. A handle: clones are the same stream.
///
/// It keeps every record until [`truncate`](Stream::truncate), as brokers do; settled ones too.
///
/// ```
/// use streambreaker::Position;
/// use streambreaker::memory::Stream;
///
/// let stream = Stream::new("orders", 4);
/// stream.push_keyed("customer-7", r#"{"id":"a"}"#);
/// stream.push_keyed("customer-7", r#"{"id":"b"}"#);
/// let shard = (0..4).find(|n| !stream.records(*n).is_empty()).unwrap();
/// assert_eq!(stream.records(shard).len(), 2);
/// assert_eq!(stream.records(shard)[1].position(), &Position::from(1));
/// ```
#[derive(Clone)]
pub struct Stream(pub(super) Arc<Shared>);

pub(super) type Watch = Arc<dyn Fn(&Commit) + Send + Sync>;

pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) shards: Vec<ShardId>,
    pub(super) clock: Box<dyn Clock>,
    /// Told of every change, so that nobody has to look twice a second.
    pub(super) changed: Notify,
    state: Mutex<State>,
}

/// What changes. A test that panics while it looks must not stop the rest: the lock ignores poison, and
/// nothing is left half changed at a panic.
pub(super) struct State {
    pub(super) logs: Vec<Log>,
    pub(super) injected: Vec<Injected>,
    pub(super) groups: BTreeMap<GroupName, Group>,
    pub(super) closed: bool,
    pub(super) resumes: u64,
    pub(super) members: u64,
    pub(super) watch: Option<Watch>,
    commits: VecDeque<Commit>,
    round_robin: usize,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The group of this name, made when it is first asked for.
    pub(super) fn group(&mut self, name: &GroupName) -> &mut Group {
        let shards = self.logs.len();
        self.groups.entry(name.clone()).or_insert_with(|| Group {
            shards: (0..shards).map(|_| Holding::default()).collect(),
            ..Group::default()
        })
    }

    pub(super) fn note(&mut self, commit: Commit) {
        if self.commits.len() == COMMITS_KEPT {
            self.commits.pop_front();
        }
        self.commits.push_back(commit);
    }
}

impl Stream {
    /// An empty stream with shards `0` to `shards - 1`; with one shard where zero are asked for.
    pub fn new(name: impl Into<Arc<str>>, shards: usize) -> Self {
        Self::with_shards(name, (0..shards.max(1)).map(|n| ShardId::from(n.to_string())))
    }

    /// An empty stream with shards of these names; with one, named `0`, where there are none.
    pub fn with_shards(
        name: impl Into<Arc<str>>,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> Self {
        Self::with_clock(name, shards, SystemClock)
    }

    /// The same with another clock for arrival times and ages; mostly a
    /// [`PausedClock`](crate::clock::PausedClock).
    pub fn with_clock(
        name: impl Into<Arc<str>>,
        shards: impl IntoIterator<Item = ShardId>,
        clock: impl Clock,
    ) -> Self {
        let mut shards: Vec<ShardId> = shards.into_iter().collect();
        if shards.is_empty() {
            shards.push(ShardId::from("0"));
        }
        let state = State {
            logs: shards.iter().map(|_| Log::default()).collect(),
            injected: shards.iter().map(|_| Injected::default()).collect(),
            groups: BTreeMap::new(),
            closed: false,
            resumes: 0,
            members: 0,
            watch: None,
            commits: VecDeque::new(),
            round_robin: 0,
        };
        Self(Arc::new(Shared {
            name: name.into(),
            shards,
            clock: Box::new(clock),
            changed: Notify::new(),
            state: Mutex::new(state),
        }))
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.0.lock());
        self.0.changed.notify_waiters();
        result
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The names of its shards, in order: where a method takes a shard, it takes the index in here.
    pub fn shards(&self) -> &[ShardId] {
        &self.0.shards
    }

    /// Appends a payload to the next shard in turn, and says at which position.
    ///
    /// # Panics
    /// When the stream is closed; [`try_push`](Stream::try_push) does not.
    pub fn push(&self, payload: impl Into<Bytes>) -> Position {
        self.try_push(None, payload).expect("pushed into a closed stream")
    }

    /// Appends a payload to the shard of its key ([`shard_of`]), and says at which position.
    ///
    /// # Panics
    /// When the stream is closed; [`try_push`](Stream::try_push) does not.
    pub fn push_keyed(&self, key: impl Into<Bytes>, payload: impl Into<Bytes>) -> Position {
        self.try_push(Some(key.into()), payload).expect("pushed into a closed stream")
    }

    /// Appends a payload to the shard of its key, or to the next in turn.
    ///
    /// # Errors
    /// [`PushError::Closed`].
    pub fn try_push(
        &self,
        key: Option<Bytes>,
        payload: impl Into<Bytes>,
    ) -> Result<Position, PushError> {
        let arrival = self.0.clock.now();
        self.change(|state| {
            if state.closed {
                return Err(PushError::Closed);
            }
            let shard = match &key {
                Some(key) => shard_of(key, state.logs.len()),
                None => {
                    let turn = state.round_robin;
                    state.round_robin = (turn + 1) % state.logs.len();
                    turn
                }
            };
            let position = state.logs[shard].next();
            let mut record = Record::new(
                self.0.name.clone(),
                self.0.shards[shard].clone(),
                position.clone(),
                payload,
            )
            .with_arrival(arrival);
            if let Some(key) = key {
                record = record.with_key(key);
            }
            if state.logs[shard].push(record) { Ok(position) } else { Err(PushError::Order) }
        })
    }

    /// Appends a record exactly as it is, to the shard that it names. Positions may leave gaps.
    ///
    /// # Errors
    /// Any [`PushError`].
    pub fn push_record(&self, record: Record) -> Result<(), PushError> {
        let shard = self.0.shards.iter().position(|id| id == record.shard());
        let shard = shard.ok_or(PushError::UnknownShard)?;
        self.change(|state| match state {
            State { closed: true, .. } => Err(PushError::Closed),
            _ if state.logs[shard].push(record) => Ok(()),
            _ => Err(PushError::Order),
        })
    }

    /// Says that no more will come: readers end after the last record.
    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// How many records there are in all shards, settled or not.
    pub fn len(&self) -> usize {
        self.0.lock().logs.iter().map(|log| log.records().len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The records of a shard, in order. None of a shard that there is not.
    pub fn records(&self, shard: usize) -> Vec<Record> {
        let state = self.0.lock();
        state.logs.get(shard).map_or_else(Vec::new, |log| log.records().iter().cloned().collect())
    }

    /// Forgets the records of a shard before a position, as retention does. A consumer that has not
    /// read them, or is to be given them again, is told of a [`Read::Gap`](crate::source::Read::Gap).
    pub fn truncate(&self, shard: usize, before: &Position) {
        self.change(|state| {
            if let Some(log) = state.logs.get_mut(shard) {
                log.truncate(before);
                for group in state.groups.values_mut() {
                    group.shards[shard].truncate(before);
                }
            }
        });
    }

    /// A consumer in this group. It owns nothing before its first
    /// [`next`](crate::source::Source::next).
    pub fn consumer(&self, group: impl Into<Arc<str>>) -> Consumer {
        Consumer::new(self.0.clone(), group.into())
    }

    fn look<T>(&self, group: &str, look: impl FnOnce(&[Log], &[Holding]) -> T) -> Option<T> {
        let state = self.0.lock();
        state.groups.get(group).map(|group| look(&state.logs, &group.shards))
    }

    /// Up to and with which position a group has settled a shard. Where it acknowledges one by one: below
    /// the first record that is open.
    pub fn committed(&self, group: &str, shard: usize) -> Option<Position> {
        self.look(group, |_, shards| shards.get(shard).and_then(|s| s.committed().cloned()))?
    }

    /// How many records have been delivered to a group and are not settled.
    pub fn unacked(&self, group: &str) -> usize {
        let count = |logs: &[Log], shards: &[Holding]| {
            logs.iter().zip(shards).map(|(log, shard)| shard.unacked(log)).sum()
        };
        self.look(group, count).unwrap_or(0)
    }

    /// Whether a group has settled every record that there is.
    pub fn is_settled(&self, group: &str) -> bool {
        let all = |logs: &[Log], shards: &[Holding]| {
            logs.iter().zip(shards).all(|(log, shard)| shard.finished(log))
        };
        self.look(group, all).unwrap_or_else(|| self.is_empty())
    }

    /// Waits until [`is_settled`](Stream::is_settled).
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn settled(&self, group: &str) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_settled(group) {
                return;
            }
            changed.await;
        }
    }

    /// The commits that arrived, oldest first, with what became of them: the last 65,536.
    pub fn commits(&self) -> Vec<Commit> {
        self.0.lock().commits.iter().cloned().collect()
    }

    /// Calls `watch` with every commit from now on, before its consumer has the answer: the place to
    /// check a rule on every commit. Replaces an earlier one.
    pub fn on_commit(&self, watch: impl Fn(&Commit) + Send + Sync + 'static) {
        self.change(|state| state.watch = Some(Arc::new(watch)));
    }

    /// Injects a failure into every shard.
    pub fn inject(&self, inject: Inject) {
        self.change(|state| state.injected.iter_mut().for_each(|shard| shard.add(inject)));
    }

    /// Injects a failure into one shard; into none where there is no such shard.
    pub fn inject_at(&self, shard: usize, inject: Inject) {
        self.change(|state| state.injected.get_mut(shard).into_iter().for_each(|s| s.add(inject)));
    }

    /// Lets everything go on that hangs: [`Inject::Stall`] and [`Inject::CommitsHang`].
    pub fn resume(&self) {
        self.change(|state| {
            state.resumes += 1;
            for shard in &mut state.injected {
                shard.stalled = false;
                shard.commits_hang = 0;
            }
        });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({}, {} shards, {} records)", self.0.name, self.0.shards.len(), self.len())
    }
}
