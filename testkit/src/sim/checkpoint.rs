//! The fake checkpoint store: the place where the oracle sits.
//!
//! Every commit is held against the ledger before it is stored: whatever it passes must have a fate in every
//! pipeline, and the fate of a faulted record must be durable.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::Position;
use streambreaker::source::{Ack, Acker, CommitError, Settled};

use super::gate::{Act, Sim, Site};
use super::ledger::index;
use super::world::{AckState, World};

/// Takes the commits of one ownership of one shard.
pub(crate) struct SimAcker {
    pub(crate) sim: Arc<Sim>,
    pub(crate) shard: usize,
    pub(crate) term: u64,
}

/// A commit that is under way.
struct UnderWay(Arc<Sim>, usize, u64);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.world().shards[self.1].committing.remove(&self.2);
    }
}

fn failed() -> CommitError {
    CommitError::transient("injected")
}

#[async_trait]
impl Acker for SimAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let sim = self.sim.clone();
        let alone = sim.world().shards[self.shard].committing.insert(self.term);
        sim.world().check("I6", alone, "two commits of a shard at once");
        let _under_way = UnderWay(sim.clone(), self.shard, self.term);
        sim.gate(Site::Commit, format!("s{} t{} before", self.shard, self.term)).await;
        let act = sim.draw(Site::Commit);
        match act {
            Act::Fail => return Err(failed()),
            Act::Hang => return std::future::pending().await,
            Act::Slow => {
                let slow = sim.world().rng(Site::Commit).millis(1, 2_000);
                tokio::time::sleep(slow).await;
                sim.alive().await;
            }
            Act::Fence => {
                let mut world = sim.world();
                if world.is_current(self.shard, self.term) && !world.closed {
                    let to = world.rng(Site::Owner).index(sim.plan.processes);
                    world.assign(self.shard, to);
                }
            }
            _ => {}
        }
        {
            let mut world = sim.world();
            if !world.is_current(self.shard, self.term) {
                world.sometimes("fenced");
                return Err(CommitError::Fenced);
            }
            match settled {
                Settled::Through(position) => self.through(&mut world, position),
                Settled::Each(acks) => self.each(&mut world, acks),
                _ => world.fail("I2", "a way to commit that the simulator does not know"),
            }
        }
        sim.gate(Site::Commit, format!("s{} t{} after", self.shard, self.term)).await;
        match act {
            Act::Lost => {
                sim.world().sometimes("commit lost");
                Err(failed())
            }
            Act::HangAfter => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn extend(&mut self, held: &[Position]) -> Result<(), CommitError> {
        let sim = self.sim.clone();
        sim.gate(Site::Extend, format!("s{} {}", self.shard, held.len())).await;
        match sim.draw(Site::Extend) {
            Act::Fail => return Err(failed()),
            Act::Hang => return std::future::pending().await,
            _ => {}
        }
        let mut world = sim.world();
        if !world.is_current(self.shard, self.term) {
            return Err(CommitError::Fenced);
        }
        let lease = u64::try_from(sim.plan.deadline.as_micros()).unwrap_or(u64::MAX);
        let later = world.now().saturating_add(lease);
        for index in held.iter().filter_map(index) {
            let Some(entry) = world.shards[self.shard].entries.get_mut(index) else { continue };
            if let AckState::Leased { term, until } = &mut entry.ack {
                if *term == self.term {
                    *until = later;
                }
            }
        }
        world.sometimes("extended");
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), CommitError> {
        let sim = self.sim.clone();
        sim.gate(Site::Release, format!("s{} t{}", self.shard, self.term)).await;
        match sim.draw(Site::Release) {
            Act::Fail => return Err(failed()),
            Act::Hang => return std::future::pending().await,
            _ => {}
        }
        let mut world = sim.world();
        if world.is_current(self.shard, self.term) {
            world.shards[self.shard].released = true;
            world.more.notify_waiters();
        }
        Ok(())
    }
}

impl SimAcker {
    fn through(&self, world: &mut World, through: &Position) {
        let Some(last) = index(through) else {
            return world.fail("I2", format_args!("{through} is no position of the log"));
        };
        let own = &world.shards[self.shard];
        let (from, start) = (own.committed, own.start);
        if last + 1 < from {
            return world.fail("I2", format_args!("back from {from} to {}", last + 1));
        }
        if world.delivered((self.shard, last), self.term) == 0 {
            return world.fail("I2", format_args!("{last} was not delivered to this owner"));
        }
        for index in start..=last {
            self.must_be_settled(world, index);
        }
        world.shards[self.shard].committed = last + 1;
        world.trace(format_args!("s{} t{} commits through {last}", self.shard, self.term));
        world.more.notify_waiters();
    }

    pub(crate) fn each(&self, world: &mut World, acks: &[(Position, Ack)]) {
        let now = world.now();
        for (position, ack) in acks {
            let Some(index) =
                index(position).filter(|i| *i < world.shards[self.shard].entries.len())
            else {
                return world.fail("I2", format_args!("{position} is no position of the log"));
            };
            if world.delivered((self.shard, index), self.term) == 0 {
                return world.fail("I2", format_args!("{index} was not delivered to this owner"));
            }
            let held = match world.shards[self.shard].entries[index].ack {
                AckState::Leased { term, .. } => term == self.term,
                _ => false,
            };
            let state = match ack {
                Ack::Done | Ack::Faulted => {
                    self.must_be_settled(world, index);
                    AckState::Acked
                }
                Ack::Again { after } => {
                    world.shards[self.shard].entries[index].given_back.0 = true;
                    AckState::Free(now.saturating_add(micros(*after)))
                }
                _ => return world.fail("I2", "an acknowledgement that nobody knows"),
            };
            // a late word about a copy does not take back that the record is settled
            if held || state == AckState::Acked {
                world.shards[self.shard].entries[index].ack = state;
            }
            world.trace(format_args!("s{} t{} acks {index} {ack:?}", self.shard, self.term));
        }
        world.more.notify_waiters();
    }

    /// I1: what is passed has a fate in every pipeline, told in this ownership; a faulted one is durable.
    fn must_be_settled(&self, world: &mut World, index: usize) {
        let at = (self.shard, index);
        if let Some(pipe) = world.undecided(at, self.term, &self.sim.plan.shapes) {
            world.fail("I1", format_args!("{at:?} is passed, undecided in p{pipe}"));
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
