//! A host that gives a processor one batch at a time and waits for the fates of its records, as a function as a
//! service does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streambreaker::source::{Ack, Read, Room};
use streambreaker::{Position, Processor, Record};
use tokio::time::Instant;

use super::checkpoint::SimAcker;
use super::gate::{Act, Sim, Site};
use super::ledger::Item;
use super::plan::Ending;
use super::run::{PATIENCE, calm_down, produce};
use super::source::SimReader;
use super::world::At;

/// A deadline may be late by this much: timers count in milliseconds, and a turn goes by.
const LATE: Duration = Duration::from_millis(3);

/// One life of a host.
pub(crate) async fn go(sim: &Arc<Sim>, ending: Ending, processor: &Processor) {
    for shard in 0..sim.plan.shards {
        sim.world().assign(shard, 0);
    }
    let more = tokio::spawn(produce(sim.clone()));
    let (heals, limit) = match ending {
        Ending::Kill(_) => (None, Duration::from_secs(60)),
        Ending::Drain(at) => (None, at),
        Ending::Heal(at) => (Some(at), at + PATIENCE),
    };
    let healer = async {
        if let Some(at) = heals {
            tokio::time::sleep(at).await;
            calm_down(sim);
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        biased;
        () = serve(sim, processor) => {}
        () = healer => {}
        () = tokio::time::sleep(limit) => {
            let mut world = sim.world();
            world.check("I4", heals.is_none(), "does not come to rest");
            // the batch that is dropped now is dropped by its host
            world.processes[0].draining = true;
        }
    }
    more.abort();
    let _ = more.await;
    nothing_runs_on(sim).await;
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    sim.world().check("I7", alive == 0, format_args!("{alive} tasks are left behind"));
}

/// Gives batch after batch, until all is at rest.
async fn serve(sim: &Arc<Sim>, processor: &Processor) {
    loop {
        let records = {
            let mut world = sim.world();
            if !world.chaos && world.at_rest(true) {
                return;
            }
            let room = Room { records: sim.plan.read_most, bytes: 1 << 20 };
            let mut records = Vec::new();
            for shard in 0..sim.plan.shards {
                let mut reader = SimReader::of(sim, &world, shard);
                if let Some(Read::Records { records: own, .. }) =
                    reader.deliver(&mut world, room, false)
                {
                    records.extend(own);
                }
            }
            records
        };
        if records.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        sim.gate(Site::Read, format!("gives {}", records.len())).await;
        give(sim, processor, records).await;
    }
}

async fn give(sim: &Arc<Sim>, processor: &Processor, records: Vec<Record>) {
    let within = sim.world().rng(Site::Read).millis(50, 20_000);
    let began = Instant::now();
    let given: Vec<Item> = records.iter().filter_map(|record| Item::of(sim, record)).collect();
    let outcome = processor.process(records).within(within).await;
    let took = began.elapsed();
    sim.world().check("T2", took <= within + LATE, format_args!("took {took:?} of {within:?}"));
    nothing_runs_on(sim).await;

    let fates = [
        (&outcome.settled, Ack::Done),
        (&outcome.faulted, Ack::Faulted),
        (&outcome.returned, Ack::Again { after: Duration::from_millis(200) }),
    ];
    let mut acks: BTreeMap<(usize, u64), Vec<(Position, Ack)>> = BTreeMap::new();
    let mut told: Vec<At> = Vec::new();
    for (records, ack) in fates {
        for record in records {
            let Some(item) = Item::of(sim, record) else { return };
            told.push(item.at);
            let own = acks.entry((item.at.0, item.term)).or_default();
            own.push((record.position().clone(), ack));
            if ack == Ack::Faulted {
                let mut world = sim.world();
                let pipes = 0..sim.plan.shapes.len();
                let stored =
                    pipes.into_iter().any(|pipe| world.is_faulted(pipe, item.at, item.term));
                world.check("I1", stored, format_args!("{:?} is faulted, not stored", item.at));
            }
        }
    }
    told.sort_unstable();
    let mut given: Vec<At> = given.iter().map(|item| item.at).collect();
    given.sort_unstable();
    sim.world().check("I3", told == given, format_args!("of {given:?} it tells {told:?}"));

    sim.gate(Site::Commit, "answers".to_owned()).await;
    let act = sim.draw(Site::Commit);
    for ((shard, term), acks) in acks {
        // a host that fails here gives all of them again
        let lost = matches!(act, Act::Fail | Act::Hang);
        let acks = match lost {
            false => acks,
            true => {
                let after = Duration::from_millis(200);
                acks.into_iter().map(|(position, _)| (position, Ack::Again { after })).collect()
            }
        };
        SimAcker { sim: sim.clone(), shard, term }.each(&mut sim.world(), &acks);
    }
    sim.world().sometimes("host answered");
}

/// I7: what was given back, or dropped, leaves nothing behind that works on it.
async fn nothing_runs_on(sim: &Sim) {
    tokio::task::yield_now().await;
    let mut world = sim.world();
    let left = world.attempts.len();
    world.check("I7", left == 0, format_args!("{left} attempts run on"));
}
