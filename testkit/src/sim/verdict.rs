//! The last word on a run: the ledger at rest, and the processor's own report.

use std::sync::Arc;

use streambreaker::Report;

use super::gate::Sim;
use super::plan::Shape;
use super::run::faults_good_ones;
use super::world::{Kind, Process, Stored, World};

/// What must hold of every record when all has come to rest.
pub(crate) fn check_ledger(sim: &Arc<Sim>) {
    let plan = &sim.plan;
    let mut world = sim.world();
    world.frozen = false;
    let calm = plan.is_calm() && !faults_good_ones(plan) && plan.flood.is_none();
    for shard in 0..plan.shards {
        for index in 0..world.shards[shard].entries.len() {
            let at = (shard, index);
            let (kind, gone) = (world.entry(at).kind, world.entry(at).gone);
            // every record, part by part; one that goes into no parts is none of a handler's
            let places = plan.shapes.iter().enumerate().flat_map(|(pipe, shape)| {
                let parts = shape.parts(index, kind);
                (0..parts.max(1)).map(move |part| match parts {
                    0 => (pipe, *shape, part, Kind::Skip),
                    _ => (pipe, *shape, part, shape.part_kind(index, part, kind)),
                })
            });
            for (pipe, shape, part, kind) in places.collect::<Vec<_>>() {
                let effects_on = |world: &World, index: usize, part: u32| {
                    world.effects.get(&(pipe, ((shard, index), part))).copied().unwrap_or(0)
                };
                let effects = effects_on(&world, index, part);
                let ids = world.faults_of.get(&(pipe, (at, part)));
                let faults = ids.map_or(0, |ids| ids.len());
                let shares = world.newer(shape, at).any(|newer| effects_on(&world, newer, 0) > 0);
                let grouped = matches!(shape, Shape::Grouped { .. } | Shape::Compact { .. });
                if plan.shapes.len() == 1 && kind == Kind::Skip && kind != world.entry(at).kind {
                    world.sometimes("no parts");
                }
                if shares && effects == 0 && faults == 0 {
                    world.sometimes("compacted");
                }
                let what = |text: &str| {
                    format!(
                        "{at:?} part {part} ({kind:?}) in p{pipe}: {effects} effects, {faults} faults: {text}"
                    )
                };
                match kind {
                    Kind::Skip => {
                        // of several shards an innocent record may be taken for the killer, before any filter
                        // and before any filter a ledger may fail, or an operator skip it
                        let before = |fault: &Stored| match &*fault.class {
                            "crash_loop" => plan.shards > 1,
                            class => class == "skipped" || fault.stage == "dedupe",
                        };
                        let ids = world.faults_of.get(&(pipe, (at, part)));
                        let before = ids.into_iter().flatten().all(|id| before(&world.faults[id]));
                        let none = effects == 0 && before;
                        world.check("I3", none, what("it was to be kept out"));
                    }
                    Kind::Poison | Kind::Garbled | Kind::Killer | Kind::Stuck => {
                        world.check("I4", effects == 0, what("it cannot have an effect"));
                        world.check("I1", gone || faults > 0 || shares, what("it is lost"));
                    }
                    Kind::Good => {
                        let kept = gone || effects > 0 || faults > 0 || shares;
                        world.check("I1", kept, what("it is lost"));
                        if calm {
                            let one = effects == 1 && faults == 0
                                || grouped && effects == 0 && (faults == 1 || shares);
                            world.check("I4", gone || one, what("nothing went wrong"));
                        }
                    }
                }
                if calm && !grouped {
                    world.check("F1", faults <= 1, what("it is faulted twice"));
                }
            }
        }
    }
    if calm {
        world.sometimes("calm");
    }
    if world.faults.values().any(|fault| fault.class == "circuit_open") {
        world.sometimes("circuit open");
    }
    if world.faults.values().any(|fault| fault.class == "panic") {
        world.sometimes("panic");
    }
    if world.faults.values().any(|fault| fault.records.len() > 1) {
        world.sometimes("group faulted");
    }
}

/// What a processor says of itself, held against what the world knows.
pub(crate) fn check_report(sim: &Arc<Sim>, process: usize, report: &Report) {
    let mut world = sim.world();
    for (name, own) in &report.pipelines {
        let sum = own.done + own.filtered + own.faulted + own.returned + own.open;
        let what = format!("the report of {name} does not add up: {own:?}");
        world.check("I3", own.read == sum, what);
    }
    let Process { confirmed_faults: confirmed, moved, .. } = world.processes[process];
    if report.drained {
        let stored = report.faults_stored;
        let what = format!("{stored} faults in the report, {confirmed} confirmed");
        // a shard that was taken away may have been so between the sink's word and its being heard
        let right = stored == confirmed || moved && stored < confirmed;
        world.check("F11", right, what);
    } else {
        world.sometimes("drain cut off");
    }
    let (told, gaps) = (world.processes[process].gaps, report.gaps.len());
    world.check("S2", told == gaps, format_args!("{gaps} gaps in the report, {told} were told"));
    // what was returned and then lost, or settled by the other process or in another copy, stays returned here
    let copies = report.pipelines.values().any(|own| own.redelivered > 0);
    let rest = !world.chaos && told == 0 && sim.plan.processes == 1 && !copies;
    if rest {
        let drained = report.drained && report.unsettled() == 0;
        world.check("S5", drained, format_args!("not drained at rest: {:?}", report.pipelines));
    }
}
