//! Somebody at the switches of the handle: pauses and resumes pipelines, holds breakers open and closed.

use std::sync::Arc;

use streambreaker::resource::{BreakerControl, OnOpen};
use streambreaker::{By, Handle};

use super::gate::{Sim, Site};
use super::ledger::pipe_name;

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
