//! Takes what one consumer has settled of one shard, and holds it to the rules.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::commits::{Commit, CommitOutcome};
use super::consumer::Way;
use super::group::GroupName;
use super::inject::take;
use super::stream::{Shared, State};
use crate::record::Position;
use crate::source::{self, CommitError, Settled};

/// The acker of one shard of a [`Stream`](super::Stream).
///
/// # Panics
/// `settle` panics when the present owner breaks a rule that no caller may break: a position that goes
/// back behind its last one, that passes what was delivered, or that is acknowledged in the other way.
/// Nothing has changed then. A position below what an earlier owner has committed is no such mistake, and
/// changes nothing either.
pub struct Acker {
    shared: Arc<Shared>,
    group: GroupName,
    shard: usize,
    epoch: u64,
    way: Way,
}

impl Acker {
    pub(super) fn new(
        (shared, group, shard): (Arc<Shared>, GroupName, usize),
        epoch: u64,
        way: Way,
    ) -> Self {
        Self { shared, group, shard, epoch, way }
    }

    /// Applies a commit, or says which rule it breaks.
    fn apply(&self, state: &mut State, settled: Settled<'_>) -> Result<CommitOutcome, String> {
        let now = Instant::now();
        state.group(&self.group);
        let State { logs, groups, injected, .. } = state;
        let (log, injected) = (&logs[self.shard], &mut injected[self.shard]);
        let Some(group) = groups.get_mut(&self.group) else { return Ok(CommitOutcome::Fenced) };
        let holding = &mut group.shards[self.shard];
        if !holding.owned_in(self.epoch, now) {
            return Ok(CommitOutcome::Fenced);
        }
        if take(&mut injected.commit_errors) {
            return Ok(CommitOutcome::Failed);
        }
        match (settled, self.way) {
            (Settled::Through(position), Way::Prefix { .. }) => holding.settle_through(position)?,
            (Settled::Each(acks), Way::Each { .. }) => holding.settle_each(log, acks, now)?,
            _ => return Err("the acknowledgement is not of the kind that `caps` names".to_owned()),
        }
        let lost = take(&mut injected.replies_lost);
        Ok(if lost { CommitOutcome::ReplyLost } else { CommitOutcome::Applied })
    }

    fn commit(&self, settled: Settled<'_>) -> CommitOutcome {
        let mut state = self.shared.lock();
        let result = self.apply(&mut state, settled);
        let (commit, watch) = match result {
            Ok(outcome) => {
                let commit = Commit {
                    group: self.group.to_string(),
                    shard: self.shared.shards[self.shard].clone(),
                    ownership: self.epoch,
                    what: settled.into(),
                    outcome,
                };
                state.note(commit.clone());
                (commit, state.watch.clone())
            }
            Err(rule) => {
                drop(state);
                panic!("shard {} of stream {}: {rule}", self.shard, self.shared.name);
            }
        };
        drop(state);
        self.shared.changed.notify_waiters();
        if let Some(watch) = watch {
            watch(&commit);
        }
        commit.outcome
    }

    /// Hangs where that is injected.
    async fn hang(&self) {
        let before = {
            let mut state = self.shared.lock();
            if !take(&mut state.injected[self.shard].commits_hang) {
                return;
            }
            state.resumes
        };
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.lock().resumes != before {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl source::Acker for Acker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        self.hang().await;
        match self.commit(settled) {
            CommitOutcome::Applied => Ok(()),
            CommitOutcome::Fenced => Err(CommitError::Fenced),
            CommitOutcome::Failed => Err(CommitError::transient("injected: a commit that fails")),
            CommitOutcome::ReplyLost => {
                Err(CommitError::transient("injected: a commit whose reply is lost"))
            }
        }
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        let Way::Each { wait } = self.way else { return Ok(()) };
        let now = Instant::now();
        let mut state = self.shared.lock();
        let holding = &mut state.group(&self.group).shards[self.shard];
        if !holding.owned_in(self.epoch, now) {
            return Err(CommitError::Fenced);
        }
        holding.extend(held, wait, now);
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        let now = Instant::now();
        let released = {
            let mut state = self.shared.lock();
            let holding = &mut state.group(&self.group).shards[self.shard];
            let owned = holding.owned_in(self.epoch, now);
            if owned {
                holding.take_away();
            }
            owned
        };
        self.shared.changed.notify_waiters();
        if released { Ok(()) } else { Err(CommitError::Fenced) }
    }
}
