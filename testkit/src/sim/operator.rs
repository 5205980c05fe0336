//! Somebody at the switches of the handle: pauses and resumes pipelines, holds breakers open and closed.

use std::sync::Arc;
use std::time::Duration;

use streambreaker::resource::{BreakerControl, OnOpen};
use streambreaker::{By, Handle, ShardId};

use super::gate::{Sim, Site};
use super::ledger::{pipe_name, position, shard_name};
use super::world::{At, Kind};

const DEPENDENCY: &str = "dependency";

/// Plays with the switches for as long as things go wrong.
pub(crate) async fn operate(sim: Arc<Sim>, handles: Vec<Handle>) {
    let by = By::new("simulator", "to see what happens");
    loop {
        let wait = sim.world().rng(Site::Owner).millis(10, 3_000);
        tokio::time::sleep(wait).await;
        let (handle, pipe, what) = {
            let mut world = sim.world();
            if world.frozen || !world.chaos {
                return;
            }
            let rng = world.rng(Site::Owner);
            let choice = (rng.index(handles.len()), rng.index(sim.plan.shapes.len()), rng.below(7));
            world.trace(format_args!("switch {choice:?}"));
            choice
        };
        let (handle, pipe) = (&handles[handle], pipe_name(pipe));
        let switched = match what {
            0 | 1 => {
                sim.world().sometimes("paused");
                handle.pause(&pipe, &by)
            }
            2 => handle.resume(&pipe, &by),
            _ if sim.plan.guards.breaker.is_none() => Ok(()),
            3 => handle.breaker(DEPENDENCY, BreakerControl::HeldOpen, &by),
            4 => handle.breaker(DEPENDENCY, BreakerControl::HeldClosed, &by),
            5 => handle.on_open(DEPENDENCY, OnOpen::Pause, &by),
            _ => handle.on_open(DEPENDENCY, OnOpen::Fault, &by),
        };
        if let Err(error) = switched {
            sim.world().fail("handle", error);
        }
    }
}

/// Has records skipped: those that never end, some time after they were delivered, and now and then another one.
pub(crate) async fn skip(sim: Arc<Sim>, handles: Vec<Handle>) {
    loop {
        let wait = {
            let mut world = sim.world();
            if world.frozen || world.closed {
                return;
            }
            // when all is well again it has to be done with in time
            if world.chaos {
                world.rng(Site::Owner).millis(500, 20_000)
            } else {
                Duration::from_secs(30)
            }
        };
        tokio::time::sleep(wait).await;
        let asked: Vec<(usize, At)> = {
            let mut world = sim.world();
            let chaos = world.chaos;
            let mut asked = Vec::new();
            for shard in 0..sim.plan.shards {
                let (owner, term) = (world.shards[shard].owner, world.shards[shard].term);
                for index in 0..world.shards[shard].entries.len() {
                    let at = (shard, index);
                    let kind = world.entry(at).kind;
                    let here = world.delivered(at, term) > 0;
                    let wanted = here
                        && match kind {
                            Kind::Stuck => true,
                            Kind::Good => chaos && world.rng(Site::Owner).chance(0.01),
                            _ => false,
                        };
                    if wanted && world.skipped.0.insert((owner, at)) {
                        world.skipped.1.insert(at);
                        world.trace(format_args!("skip {at:?}"));
                        asked.push((owner, at));
                    }
                }
            }
            asked
        };
        let by = By::new("simulator", "it is returned again and again");
        for (process, at) in asked {
            let shard = ShardId::new(shard_name(at.0));
            if handles[process].skip(&shard, &position(at.1), &by).is_err() {
                // not its shard yet, or no more: it is asked again
                sim.world().skipped.0.remove(&(process, at));
            }
        }
    }
}

/// Puts all switches back.
pub(crate) fn restore(sim: &Sim, handle: &Handle) {
    let by = By::new("simulator", "it is over");
    let pipes = (0..sim.plan.shapes.len()).map(pipe_name);
    let mut switched: Vec<_> = pipes.map(|pipe| handle.resume(&pipe, &by)).collect();
    if sim.plan.guards.breaker.is_some() {
        switched.push(handle.breaker(DEPENDENCY, BreakerControl::Auto, &by));
    }
    for error in switched.into_iter().filter_map(Result::err) {
        sim.world().fail("handle", error);
    }
}
