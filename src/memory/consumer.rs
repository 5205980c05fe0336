//! A consumer: the [`Source`] of a group's member.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::acker::Acker;
use super::group::{GroupName, Note};
use super::reader::Reader;
use super::stream::{Shared, State};
use crate::source::{Acknowledge, Caps, Change, Source, SourceError};

/// A member of a consumer group of a [`Stream`](super::Stream): a [`Source`].
///
/// By default it acknowledges by position and owns every shard. It joins at its first `next`: from then
/// on it is the owner, and commits of whoever was before are refused as `Fenced`. The one before is not
/// told; like a process that slept through a rebalance, it finds out at its next commit.
///
/// A closed stream ends: readers yield `End` after the last record (one by one: when also nothing is left
/// unacknowledged), and `next` yields `None` when all is settled that this consumer could still own.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::memory::Stream;
/// use streambreaker::source::{Acknowledge, Source};
///
/// let stream = Stream::new("jobs", 1);
/// let consumer = stream.consumer("workers").each(Duration::from_secs(30));
/// assert_eq!(consumer.caps().acknowledge, Acknowledge::Each);
/// assert_eq!(consumer.caps().deadline, Some(Duration::from_secs(30)));
/// ```
#[must_use = "a consumer does nothing unless it is read from"]
pub struct Consumer {
    shared: Arc<Shared>,
    group: GroupName,
    way: Way,
    only: Option<Vec<usize>>,
    alone: bool,
    member: Option<u64>,
}

/// How a consumer acknowledges.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Prefix { count: bool },
    Each { wait: Duration },
}

impl Way {
    pub(super) fn is_each(self) -> bool {
        matches!(self, Way::Each { .. })
    }
}

impl Consumer {
    pub(super) fn new(shared: Arc<Shared>, group: GroupName) -> Self {
        let way = Way::Prefix { count: false };
        Self { shared, group, way, only: None, alone: false, member: None }
    }

    /// Acknowledges record by record. What is not acknowledged within `ack_wait` is delivered again; so is
    /// what is given back, after its delay. Deliveries are counted, over the lives of consumers.
    pub fn each(mut self, ack_wait: Duration) -> Self {
        self.way = Way::Each { wait: ack_wait };
        self
    }

    /// Acknowledges by position, but counts deliveries over the lives of consumers, which few brokers
    /// of that kind do.
    pub fn counting(mut self) -> Self {
        self.way = Way::Prefix { count: true };
        self
    }

    /// Owns these shards only, for several consumers in one group. An index that the stream does not
    /// have is ignored.
    pub fn only(mut self, shards: impl IntoIterator<Item = usize>) -> Self {
        self.only = Some(shards.into_iter().collect());
        self
    }

    /// Owns nothing until [`Stream::assign`](super::Stream::assign).
    pub fn by_hand(self) -> Self {
        self.only([])
    }

    /// For a stream that nobody else has a handle of: nothing can be assigned later.
    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Whether nothing will be assigned any more that is worth waiting for.
    fn over(&self, state: &mut State, member: u64) -> bool {
        if self.alone {
            return true;
        }
        let State { logs, groups, closed, .. } = state;
        let Some(group) = groups.get(&self.group) else { return *closed };
        *closed
            && logs.iter().zip(&group.shards).all(|(log, shard)| {
                shard.owner.is_some_and(|owner| owner != member) || shard.finished(log)
            })
    }
}

#[async_trait]
impl Source for Consumer {
    type Reader = Reader;
    type Acker = Acker;

    fn caps(&self) -> Caps {
        let acknowledge = match self.way {
            Way::Prefix { .. } => Acknowledge::Prefix,
            Way::Each { .. } => Acknowledge::Each,
        };
        let caps = Caps::new("memory", &*self.shared.name, acknowledge);
        match self.way {
            Way::Prefix { count: false } => caps,
            Way::Prefix { count: true } => caps.with_delivery_counts(),
            Way::Each { wait } => caps.with_deadline(wait, true).with_delivery_counts(),
        }
    }

    async fn next(&mut self) -> Result<Option<Change<Reader, Acker>>, SourceError> {
        let shared = self.shared.clone();
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = shared.lock();
                let member = *self.member.get_or_insert_with(|| {
                    state.join(&self.group, self.only.as_deref(), self.way.is_each())
                });
                let group = state.group(&self.group);
                match group.notes.get_mut(&member).and_then(|notes| notes.pop_front()) {
                    Some(Note::Assigned { shard, epoch }) => {
                        let committed = group.shards[shard].committed().cloned();
                        let end = (shared.clone(), self.group.clone(), shard);
                        return Ok(Some(Change::Assigned {
                            shard: shared.shards[shard].clone(),
                            reader: Reader::new(end.clone(), epoch, self.way, committed),
                            acker: Acker::new(end, epoch, self.way),
                        }));
                    }
                    Some(Note::Revoking { shard, grace }) => {
                        let shard = shared.shards[shard].clone();
                        return Ok(Some(Change::Revoking { shard, grace }));
                    }
                    Some(Note::Lost { shard }) => {
                        return Ok(Some(Change::Lost { shard: shared.shards[shard].clone() }));
                    }
                    None if self.over(&mut state, member) => return Ok(None),
                    None => {}
                }
            }
            changed.await;
        }
    }
}

impl Drop for Consumer {
    /// As when its process dies: nothing is given back, but nobody waits for it either.
    fn drop(&mut self) {
        if let Some(member) = self.member {
            let mut state = self.shared.lock();
            let group = state.group(&self.group);
            group.notes.remove(&member);
            group.ways.remove(&member);
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} of {})", self.group, self.shared.name)
    }
}
