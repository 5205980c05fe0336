//! Rebalancing by hand: what a broker's coordinator does, at the moment that a test chooses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::group::{Group, GroupName, Note};
use super::stream::{State, Stream};

impl Group {
    pub(super) fn tell(&mut self, member: u64, note: Note) {
        // a member that is gone has no queue, and must not get one again
        if let Some(notes) = self.notes.get_mut(&member) {
            notes.push_back(note);
        }
    }

    /// Gives a shard to a member, and tells it.
    pub(super) fn assign(&mut self, shard: usize, member: u64, each: bool) {
        let epoch = self.shards[shard].give(member, each);
        self.tell(member, Note::Assigned { shard, epoch });
    }
}

impl State {
    /// A new member of a group, which owns these shards from now on.
    pub(super) fn join(&mut self, name: &GroupName, only: Option<&[usize]>, each: bool) -> u64 {
        self.members += 1;
        let (member, shards) = (self.members, self.logs.len());
        let group = self.group(name);
        group.notes.insert(member, Default::default());
        group.latest = Some(member);
        group.ways.insert(member, each);
        match only {
            None => (0..shards).for_each(|shard| group.assign(shard, member, each)),
            Some(only) => {
                let known = only.iter().filter(|shard| **shard < shards);
                known.for_each(|shard| group.assign(*shard, member, each));
            }
        }
        member
    }
}

impl Stream {
    fn with_group(&self, group: &str, shard: usize, change: impl FnOnce(&mut Group)) {
        let name: Arc<str> = group.into();
        self.change(|state| {
            if shard < state.logs.len() {
                change(state.group(&name));
            }
        });
    }

    /// Announces to the owner of a shard that it must give it up within `grace`. Its commits count until
    /// then, or until the shard is assigned again.
    ///
    /// Nothing happens where nobody owns the shard.
    pub fn revoke(&self, group: &str, shard: usize, grace: Duration) {
        let now = Instant::now();
        self.with_group(group, shard, |group| {
            if let Some(owner) = group.shards[shard].owner {
                group.shards[shard].until = now.checked_add(grace);
                group.tell(owner, Note::Revoking { shard, grace });
            }
        });
    }

    /// Takes a shard from its owner at once: it is told, and its commits are fenced.
    ///
    /// Nothing happens where nobody owns the shard.
    pub fn lose(&self, group: &str, shard: usize) {
        self.with_group(group, shard, |group| {
            if let Some(owner) = group.shards[shard].take_away() {
                group.tell(owner, Note::Lost { shard });
            }
        });
    }

    /// Takes a shard from its owner at once without a word: it finds out at its next commit, as a process
    /// does that slept through a rebalance.
    pub fn fence(&self, group: &str, shard: usize) {
        self.with_group(group, shard, |group| {
            group.shards[shard].take_away();
        });
    }

    /// Assigns a shard to the consumer that joined the group last, as a new ownership: also when it has
    /// the shard already. It reads on from what is committed.
    ///
    /// Nothing happens in a group that nobody has joined.
    pub fn assign(&self, group: &str, shard: usize) {
        self.with_group(group, shard, |group| {
            if let Some(member) = group.latest.filter(|member| group.notes.contains_key(member)) {
                let each = group.ways.get(&member).copied().unwrap_or(false);
                group.assign(shard, member, each);
            }
        });
    }
}
