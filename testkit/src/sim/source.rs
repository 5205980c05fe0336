//! The fake source: shards that are assigned, revoked, lost and stolen, and read with all that can go wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::source::{Behind, Caps, Change, Read, Reader, Room, Source, SourceError};
use streambreaker::{Record, ShardId};

use super::checkpoint::SimAcker;
use super::gate::{Act, Sim, Site};
use super::ledger::{TERM, position, shard_name};
use super::world::{AckState, Order, World};

pub(crate) const STREAM: &str = "sim";

/// The source as one process sees it.
pub(crate) struct SimSource {
    pub(crate) sim: Arc<Sim>,
    pub(crate) process: usize,
}

#[async_trait]
impl Source for SimSource {
    type Reader = SimReader;
    type Acker = SimAcker;

    fn caps(&self) -> Caps {
        let plan = &self.sim.plan;
        let mut caps = Caps::new("simulation", STREAM, plan.acknowledge());
        if plan.each {
            caps = caps.with_deadline(plan.deadline, true);
        }
        if plan.max_deliveries.is_some() {
            caps = caps.with_delivery_counts();
        }
        caps
    }

    async fn next(&mut self) -> Result<Option<Change<SimReader, SimAcker>>, SourceError> {
        let sim = &self.sim;
        loop {
            let news = sim.world().processes[self.process].news.clone();
            let (waiting, closed) = {
                let world = sim.world();
                (!world.processes[self.process].orders.is_empty(), world.closed)
            };
            if waiting {
                sim.quick_gate(Site::Next, format!("p{}", self.process)).await;
                if sim.draw(Site::Next) == Act::Fail {
                    return Err(SourceError::transient("injected"));
                }
                let order = sim.world().processes[self.process].orders.pop_front();
                let Some(order) = order else { continue };
                sim.world().trace(format_args!("p{} is told {order:?}", self.process));
                return Ok(Some(self.change(order)));
            }
            if closed {
                return Ok(None);
            }
            news.notified().await;
        }
    }
}

impl SimSource {
    fn change(&self, order: Order) -> Change<SimReader, SimAcker> {
        match order {
            Order::Assign { shard, term } => {
                let sim = self.sim.clone();
                let reader = SimReader::of(&sim, &sim.world(), shard);
                Change::Assigned {
                    shard: ShardId::new(shard_name(shard)),
                    reader: SimReader { process: self.process, term, ..reader },
                    acker: SimAcker { sim, shard, term },
                }
            }
            Order::Revoke { shard, grace } => {
                Change::Revoking { shard: ShardId::new(shard_name(shard)), grace }
            }
            Order::Lose { shard } => Change::Lost { shard: ShardId::new(shard_name(shard)) },
        }
    }
}

/// Reads one shard for one ownership.
pub(crate) struct SimReader {
    sim: Arc<Sim>,
    process: usize,
    shard: usize,
    term: u64,
    /// The next index, where positions are read in order.
    next: usize,
    /// A suffix came again: what is in flight holds copies.
    again: bool,
}

#[async_trait]
impl Reader for SimReader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let sim = self.sim.clone();
        sim.gate(Site::Read, format!("s{} t{} before", self.shard, self.term)).await;
        match sim.draw(Site::Read) {
            Act::Fail => return Err(SourceError::transient("injected")),
            Act::Empty => {
                // a transport that polls answers at once; a busy loop would be its own fault
                tokio::time::sleep(Duration::from_millis(5)).await;
                return Ok(Read::Records { records: Vec::new(), behind: Behind::unknown() });
            }
            Act::Stall => {
                let stall = sim.world().rng(Site::Read).millis(100, 20_000);
                tokio::time::sleep(stall).await;
            }
            Act::Slow => {
                let slow = sim.world().rng(Site::Read).millis(1, 300);
                tokio::time::sleep(slow).await;
            }
            Act::Again if !sim.plan.each => {
                let mut world = sim.world();
                let start = world.shards[self.shard].start;
                let back = world.rng(Site::Read).between(start as u64, self.next as u64) as usize;
                if back < self.next {
                    world.sometimes("redelivered");
                    self.again = true;
                    self.next = back;
                }
            }
            Act::Gap if !sim.plan.each => {
                if let Some(gap) = self.lose_some(&mut sim.world()) {
                    return Ok(gap);
                }
            }
            Act::Twice => {
                let read = self.take(room, true).await;
                sim.gate(Site::Read, format!("s{} twice", self.shard)).await;
                return Ok(read);
            }
            _ => {}
        }
        let read = self.take(room, false).await;
        sim.gate(Site::Read, format!("s{} after", self.shard)).await;
        Ok(read)
    }
}

impl SimReader {
    /// Reads a shard for the present ownership, from its beginning.
    pub(crate) fn of(sim: &Arc<Sim>, world: &World, shard: usize) -> Self {
        let own = &world.shards[shard];
        let (process, term, next) = (own.owner, own.term, own.start);
        Self { sim: sim.clone(), process, shard, term, next, again: false }
    }

    /// The stream drops records that were not read yet.
    fn lose_some(&mut self, world: &mut World) -> Option<Read> {
        let own = &world.shards[self.shard];
        if own.term != self.term || self.next >= own.entries.len() {
            return None;
        }
        let (from, len) = (self.next, own.entries.len());
        let to = from + 1 + world.rng(Site::Read).index(len - from);
        for entry in &mut world.shards[self.shard].entries[from..to] {
            entry.gone = true;
        }
        self.next = to;
        world.processes[self.process].gaps += 1;
        world.sometimes("gap");
        world.trace(format_args!("s{} lost {from}..{to}", self.shard));
        Some(Read::Gap { from: position(from), to: position(to) })
    }

    /// Waits for records, and delivers some.
    async fn take(&mut self, room: Room, twice: bool) -> Read {
        let sim = self.sim.clone();
        loop {
            let (more, wait) = {
                let mut world = sim.world();
                if let Some(read) = self.deliver(&mut world, room, twice) {
                    return read;
                }
                (world.more.clone(), self.next_due(&world))
            };
            let notified = more.notified();
            match wait {
                None => notified.await,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, notified).await;
                }
            }
            sim.alive().await;
        }
    }

    /// How long until a record comes free by itself.
    fn next_due(&self, world: &World) -> Option<Duration> {
        if !self.sim.plan.each {
            return None;
        }
        let now = world.now();
        let due = world.shards[self.shard].entries.iter().filter_map(|entry| match entry.ack {
            AckState::Free(at) | AckState::Leased { until: at, .. } => Some(at),
            AckState::Acked => None,
        });
        due.min().map(|at| Duration::from_micros(at.saturating_sub(now).max(1_000)))
    }

    pub(crate) fn deliver(&mut self, world: &mut World, room: Room, twice: bool) -> Option<Read> {
        let sim = self.sim.clone();
        let plan = &sim.plan;
        let own = &world.shards[self.shard];
        if own.term != self.term {
            // somebody else reads it by now: this reader hears nothing any more but the end
            return world.closed.then_some(Read::End);
        }
        let all = own.entries.len();
        let now = world.now();
        let candidates: Vec<usize> = match plan.each {
            // what the stream keeps no longer does not come again either
            false => (self.next..all).filter(|index| !own.entries[*index].gone).collect(),
            true => (0..all)
                .filter(|index| match own.entries[*index].ack {
                    AckState::Free(at) => at <= now,
                    AckState::Leased { until, .. } => until <= now,
                    AckState::Acked => false,
                })
                .collect(),
        };
        if candidates.is_empty() {
            let over = match plan.each {
                false => true,
                true => own.entries.iter().all(|entry| entry.ack == AckState::Acked),
            };
            return (world.closed && over).then_some(Read::End);
        }
        let most = world.rng(Site::Read).between(1, plan.read_most as u64) as usize;
        let mut taken = Vec::new();
        let mut bytes = 0;
        for index in candidates {
            let record = self.record(world, index);
            let copies = if twice && taken.is_empty() && room.records > 1 { 2 } else { 1 };
            let size = record.size() * copies;
            let fits = taken.len() + copies <= room.records && bytes + size <= room.bytes;
            if !taken.is_empty() && (!fits || taken.len() >= most) {
                break;
            }
            bytes += size;
            world.shards[self.shard].entries[index].deliveries += 1;
            for _ in 0..copies {
                taken.push(record.clone());
                *world.delivered.entry(((self.shard, index), self.term)).or_default() += 1;
            }
            let seen = world.seen.entry((self.shard, self.term)).or_default();
            *seen = (*seen).max(index + 1);
            let own = &mut world.shards[self.shard];
            if copies == 2 {
                self.again = true;
            }
            self.next = self.next.max(index + 1);
            if plan.each {
                let lease = u64::try_from(plan.deadline.as_micros()).unwrap_or(u64::MAX);
                if matches!(own.entries[index].ack, AckState::Leased { .. }) {
                    world.sometimes("lease ran out");
                }
                world.shards[self.shard].entries[index].ack =
                    AckState::Leased { term: self.term, until: now.saturating_add(lease) };
            }
        }
        world.trace(format_args!("s{} t{} delivers {taken:?}", self.shard, self.term));
        if !plan.each && !self.again {
            let settled = world.settled_prefix(self.shard, self.term, &plan.shapes);
            let kept = |index: &usize| !world.entry((self.shard, *index)).gone;
            let held = (settled..self.next).filter(kept).count();
            let what = format!("{held} in flight, of {}", plan.in_flight);
            world.check("O7", held <= plan.in_flight, what);
        }
        let behind = Behind::records((all - self.next.min(all)) as u64);
        let behind = if plan.each { Behind::unknown() } else { behind };
        Some(Read::Records { records: taken, behind })
    }

    /// A record as it would be delivered now.
    fn record(&self, world: &World, index: usize) -> Record {
        let entry = &world.shards[self.shard].entries[index];
        let record =
            Record::new(STREAM, shard_name(self.shard), position(index), entry.payload.clone())
                .with_key(entry.key.to_string())
                .with_arrival(entry.arrival)
                .with_header(TERM, self.term.to_string());
        match self.sim.plan.max_deliveries {
            Some(_) => record.with_deliveries(entry.deliveries + 1),
            None => record,
        }
    }
}
