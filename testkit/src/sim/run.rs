//! Runs a case: life after life, each in a runtime of its own, until the world is at rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::resource::{Breaker, OnExhausted, OnOpen, Rate, Resource, Retry, RetryQuota};
use streambreaker::{Handle, Processor, Report, RunError, Shutdown, Trigger};
use tokio::task::JoinHandle;

use super::case::Case;
use super::done::PROCESSOR;
use super::gate::{Act, Sim, SimClock, Site};
use super::handlers::add_pipeline;
use super::host;
use super::ledger::{over_time, shard_name};
use super::operator;
use super::plan::{Ending, Plan};
use super::sinks::FaultSink;
use super::source::SimSource;
use super::verdict::{check_ledger, check_report};
use super::world::{Failure, Kind, Order};

/// How long, in virtual time, a world in which nothing goes wrong may take to come to rest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3 * 3600);
/// Lives that a record may kill before it must have been given up.
const MOST_LIVES: usize = 40;

/// How a run ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The first rule that did not hold.
    pub failure: Option<Failure>,
    /// Of all that happened, in order: the same in every run of a case.
    pub trace: u64,
    /// The last lines of the trace.
    pub lines: Vec<String>,
    /// How often each of the things happened that some run should have seen.
    pub sometimes: BTreeMap<&'static str, u64>,
    /// How many awaits each life passed: the points at which it could have been killed.
    pub awaits: Vec<u64>,
    /// What could go wrong in it, by name: the parts of a case's `off`.
    pub acts: Vec<String>,
    /// Records in the log.
    pub records: usize,
    /// Shards of the log.
    pub shards: usize,
    /// Kill points of the plan, where they are fixed beforehand.
    pub kills: Vec<u64>,
}

/// Runs a case to its end.
pub fn run(case: &Case) -> Outcome {
    let plan = Plan::draw(case);
    let acts = plan.acts().into_iter().collect();
    let (records, shards) = (plan.log.len(), plan.shards);
    let kills = plan.lives.iter().filter_map(|ending| match ending {
        Ending::Kill(at) => Some(*at),
        _ => None,
    });
    let kills = kills.collect();
    let sim = Sim::new(plan);
    let mut awaits = Vec::new();
    let mut lives = sim.plan.lives.clone().into_iter();
    let mut ending = lives.next();
    let mut count = 0;
    while let Some(now) = ending {
        let last = lives.len() == 0;
        count += 1;
        live(&sim, now, count);
        let mut world = sim.world();
        awaits.push(world.awaits);
        if world.failure.is_some() {
            break;
        }
        let again = last && world.killed_by.is_some();
        if again && count >= MOST_LIVES {
            world.frozen = false;
            world.fail("I10", format_args!("a record has killed {count} processes, and goes on"));
            break;
        }
        drop(world);
        if !again {
            ending = lives.next();
        }
    }
    if sim.world().failure.is_none() {
        check_ledger(&sim);
    }
    let mut world = sim.world();
    Outcome {
        failure: world.failure.take(),
        trace: world.hash(),
        lines: world.lines.iter().cloned().collect(),
        sometimes: std::mem::take(&mut world.sometimes),
        awaits,
        acts,
        records,
        shards,
        kills,
    }
}

/// A process while it lives.
struct Process {
    handle: Handle,
    trigger: Trigger,
    run: Option<JoinHandle<Result<Report, RunError>>>,
}

/// One life of all processes.
fn live(sim: &Arc<Sim>, ending: Ending, life: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(async {
        let kill_at = match ending {
            Ending::Kill(at) => Some(at),
            _ => None,
        };
        let stop = {
            let mut world = sim.world();
            world.begin_life(kill_at);
            world.chaos = ending != Ending::Heal(Duration::ZERO);
            world.trace(format_args!("LIFE {life} {ending:?}"));
            world.stop.clone()
        };
        let main = go(sim, ending, life);
        tokio::select! {
            biased;
            () = stop.notified() => {}
            () = main => {}
        }
        let mut world = sim.world();
        // what is dropped from here on is dropped by the death of the process
        world.frozen = true;
        world.end_life();
    });
    drop(runtime);
}

async fn go(sim: &Arc<Sim>, ending: Ending, life: usize) {
    if life == 1 {
        let mut world = sim.world();
        for (shard, key, kind) in &sim.plan.log[..sim.plan.at_once] {
            world.append(*shard, *key, *kind);
        }
    }
    if sim.plan.host {
        return match build(sim, 0, life) {
            Ok(processor) => host::go(sim, ending, &processor).await,
            Err(error) => sim.world().fail("build", error),
        };
    }
    let mut processes = Vec::new();
    for process in 0..sim.plan.processes {
        match build(sim, process, life) {
            Ok(processor) => {
                let (trigger, shutdown) = Shutdown::by_hand();
                let handle = processor.handle();
                let run = tokio::spawn(async move { processor.run(shutdown).await });
                processes.push(Process { handle, trigger, run: Some(run) });
            }
            Err(error) => return sim.world().fail("build", error),
        }
    }
    for shard in 0..sim.plan.shards {
        let mut world = sim.world();
        let to = world.rng(Site::Owner).index(sim.plan.processes);
        world.assign(shard, to);
    }
    let handles: Vec<Handle> = processes.iter().map(|p| p.handle.clone()).collect();
    let mut aside = vec![
        tokio::spawn(produce(sim.clone())),
        tokio::spawn(coordinate(sim.clone())),
        tokio::spawn(watch(sim.clone(), handles.clone())),
    ];
    if sim.plan.switches {
        aside.push(tokio::spawn(operator::operate(sim.clone(), handles.clone())));
    }
    if sim.plan.skips {
        aside.push(tokio::spawn(operator::skip(sim.clone(), handles)));
    }
    match ending {
        Ending::Kill(_) => {
            // fewer awaits than that: it dies where it stands
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Ending::Drain(at) => {
            tokio::time::sleep(at).await;
            let grace = sim.plan.drain + Duration::from_secs(3);
            stop(sim, &mut processes, true, grace, "S5").await;
        }
        Ending::Heal(at) => {
            tokio::time::sleep(at).await;
            heal(sim, &processes).await;
            for task in &aside {
                task.abort();
            }
            let signal = sim.plan.ends_by_signal;
            sim.world().close(!signal);
            stop(sim, &mut processes, signal, Duration::from_secs(60), "S5").await;
            // the tasks that were aborted, and what the runtime has not yet swept
            for task in aside {
                let _ = task.await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            sim.world().check("I7", alive == 0, format_args!("{alive} tasks are left behind"));
        }
    }
}

/// From now on nothing goes wrong; everything must come to rest, and a fresh event must pass.
async fn heal(sim: &Arc<Sim>, processes: &[Process]) {
    calm_down(sim);
    if sim.plan.switches {
        processes.iter().for_each(|process| operator::restore(sim, &process.handle));
    }
    let begun = sim.world().now();
    let patience = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
    loop {
        let (rest, now) = {
            let world = sim.world();
            (world.at_rest(sim.plan.each), world.now())
        };
        if rest {
            break;
        }
        if now - begun > patience {
            let lanes: Vec<String> = processes
                .iter()
                .flat_map(|process| process.handle.status().lanes)
                .map(|lane| {
                    format!(
                        "{}/{} at {:?}, oldest {:?}, {} in flight, {} restarts, waits for {}",
                        lane.shard,
                        lane.pipeline,
                        lane.position,
                        lane.oldest,
                        lane.in_flight,
                        lane.restarts,
                        lane.waits_for
                    )
                })
                .collect();
            let left = lanes.join("; ");
            return sim.world().fail("I4", format_args!("does not come to rest: {left}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // the processor hears of its last commit, and readers of the end; a copy of what is settled by now may
    // wait for the fault sink as long as the publisher's longest backoff
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        if processes.iter().all(|process| process.handle.status().in_flight_records == 0) {
            break;
        }
    }
    for (index, process) in processes.iter().enumerate() {
        let status = process.handle.status();
        let mut world = sim.world();
        let left = status.in_flight_records;
        world.check("O7", left == 0, format_args!("{left} in flight, and all is committed"));
        let waits = status.faults.unconfirmed;
        world.check("F11", waits == 0, format_args!("{waits} faults unconfirmed at rest"));
        let taken =
            status.resources.iter().filter_map(|r| r.permits).map(|p| p.in_use).sum::<usize>();
        world.check("I7", taken == 0, format_args!("{taken} permits taken at rest"));
        for lane in &status.lanes {
            let age = lane.iterator_age_seconds;
            let what = format_args!("the iterator age of {} is {age} at rest", lane.shard);
            // a source that acknowledges one by one does not know its end, nor does one whose shard was stolen
            let stolen = (0..sim.plan.shards).any(|shard| {
                lane.shard.as_str() == shard_name(shard) && world.shards[shard].owner != index
            });
            world.check("S9", age == 0.0 || sim.plan.each || stolen, what);
        }
    }
}

/// From now on nothing goes wrong, and all of the log is there, with a fresh record in each shard.
pub(crate) fn calm_down(sim: &Sim) {
    let mut world = sim.world();
    world.chaos = false;
    world.trace(format_args!("HEAL"));
    let produced: usize = world.shards.iter().map(|shard| shard.entries.len()).sum();
    for (shard, key, kind) in sim.plan.log.iter().skip(produced) {
        world.append(*shard, *key, *kind);
    }
    for shard in 0..sim.plan.shards {
        world.append(shard, 0, Kind::Good);
    }
}

/// Ends all processes, by a signal or because the source has ended.
async fn stop(
    sim: &Arc<Sim>,
    processes: &mut [Process],
    signal: bool,
    within: Duration,
    rule: &'static str,
) {
    if signal {
        for (index, process) in processes.iter().enumerate() {
            sim.world().processes[index].draining = true;
            process.trigger.pull();
        }
    }
    let until = tokio::time::Instant::now() + within;
    for (index, process) in processes.iter_mut().enumerate() {
        let Some(run) = process.run.take() else { continue };
        match tokio::time::timeout_at(until, run).await {
            Err(_) => {
                sim.world().fail(rule, format_args!("p{index} does not end within {within:?}"));
            }
            Ok(Err(panic)) => {
                sim.world().fail("S6", format_args!("p{index} panicked: {panic}"));
            }
            Ok(Ok(Err(error))) => {
                sim.world().fail("S6", format_args!("p{index} ended: {error}"));
            }
            Ok(Ok(Ok(report))) => check_report(sim, index, &report),
        }
    }
}

/// The records that are not there from the beginning.
pub(crate) async fn produce(sim: Arc<Sim>) {
    loop {
        let wait = sim.world().rng(Site::Owner).millis(1, 2_000);
        tokio::time::sleep(wait).await;
        let mut world = sim.world();
        if world.frozen || !world.chaos {
            return;
        }
        let produced: usize = world.shards.iter().map(|shard| shard.entries.len()).sum();
        let Some((shard, key, kind)) = sim.plan.log.get(produced) else { return };
        world.append(*shard, *key, *kind);
    }
}

/// Moves shards about.
async fn coordinate(sim: Arc<Sim>) {
    loop {
        let wait = sim.world().rng(Site::Owner).millis(50, 3_000);
        tokio::time::sleep(wait).await;
        {
            let world = sim.world();
            if world.frozen || !world.chaos {
                return;
            }
        }
        let act = sim.draw(Site::Owner);
        let (shard, to, term, owner) = {
            let mut world = sim.world();
            let shard = world.rng(Site::Owner).index(sim.plan.shards);
            let to = world.rng(Site::Owner).index(sim.plan.processes);
            let own = &world.shards[shard];
            (shard, to, own.term, own.owner)
        };
        match act {
            Act::Revoke => {
                let grace = sim.world().rng(Site::Owner).millis(0, 8_000);
                revoke(&sim, shard, term, owner, grace).await;
                let mut world = sim.world();
                if world.is_current(shard, term) {
                    if !world.shards[shard].released {
                        tell(&mut world, owner, Order::Lose { shard });
                    }
                    world.sometimes("revoked");
                    world.assign(shard, to);
                }
            }
            Act::Lose => {
                let mut world = sim.world();
                tell(&mut world, owner, Order::Lose { shard });
                world.sometimes("lost");
                world.assign(shard, to);
            }
            Act::Steal => {
                let mut world = sim.world();
                world.sometimes("stolen");
                world.assign(shard, to);
            }
            _ => {}
        }
    }
}

fn tell(world: &mut super::world::World, process: usize, order: Order) {
    world.processes[process].orders.push_back(order);
    world.processes[process].news.notify_one();
}

/// Asks for a shard, and waits until it is given or the grace is over.
async fn revoke(sim: &Arc<Sim>, shard: usize, term: u64, owner: usize, grace: Duration) {
    {
        let mut world = sim.world();
        world.shards[shard].revoking = true;
        tell(&mut world, owner, Order::Revoke { shard, grace });
    }
    let until = tokio::time::Instant::now() + grace;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let world = sim.world();
        if world.shards[shard].released || !world.is_current(shard, term) {
            return;
        }
    }
}

/// Looks at the processors now and then, as an operator does.
async fn watch(sim: Arc<Sim>, handles: Vec<Handle>) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        for handle in &handles {
            let status = handle.status();
            let mut world = sim.world();
            over_time(&mut world, sim.plan.guards.timeout);
            world.check("S6", status.live, "a task of the processor has died");
            if status.pipelines.values().any(|pipeline| pipeline.flood_guard == "tripped") {
                world.sometimes("flood guard tripped");
            }
            if status.lanes.iter().any(|lane| lane.restarts > 0) {
                world.sometimes("restart");
            }
            if status.resources.iter().filter_map(|r| r.breaker.as_ref()).any(|b| b.opened > 0) {
                world.sometimes("breaker opened");
            }
        }
    }
}

fn build(sim: &Arc<Sim>, process: usize, life: usize) -> Result<Processor, String> {
    let plan = &sim.plan;
    let seed = plan.seed.wrapping_mul(1_000).wrapping_add((life * 2 + process) as u64);
    let guards = &plan.guards;
    let mut dependency = Resource::builder("dependency")
        .timeout(guards.timeout)
        .retry(
            Retry::exponential()
                .max_attempts(guards.attempts)
                .base(Duration::from_millis(50))
                .cap(Duration::from_secs(1)),
        )
        .retry_quota(RetryQuota::unlimited())
        .seed(seed);
    if let Some((n, per, burst)) = guards.rate {
        dependency = dependency.rate(Rate::per(n, per).burst(burst));
    }
    if let Some(permits) = guards.concurrency {
        dependency = dependency.concurrency(permits);
    }
    if let Some(on_open) = guards.breaker {
        let breaker = Breaker::failure_ratio(0.5)
            .min_calls(4)
            .window(Duration::from_secs(10))
            .cool_down(Duration::from_secs(5));
        dependency = dependency.breaker(breaker.on_open(on_open));
    }
    if guards.fault_when_exhausted {
        dependency = dependency.on_exhausted(OnExhausted::Fault);
    }
    if let Some(limit) = guards.return_limit {
        dependency = dependency.return_limit(limit);
    }
    let dependency = dependency.build().map_err(|error| error.to_string())?;
    let flood = match plan.flood {
        None => FloodGuard::off(),
        Some((ratio, min)) => FloodGuard::ratio(ratio)
            .window(50)
            .min(min)
            .cool_down(Duration::from_secs(5), Duration::from_secs(60)),
    };
    let mut builder = Processor::builder(PROCESSOR)
        .instance("sim")
        .source(SimSource { sim: sim.clone(), process })
        .faults(FaultSink { sim: sim.clone(), process })
        .clock(SimClock(sim.clone()))
        .seed(seed)
        .flood_guard(flood)
        .in_flight(plan.in_flight, 1 << 20)
        .commit_every(plan.commit_every, plan.commit_records)
        .drain(plan.drain);
    if let Some(most) = plan.max_deliveries {
        builder = builder.max_deliveries(most);
    }
    for pipe in 0..plan.shapes.len() {
        builder = add_pipeline(builder, sim, process, pipe, &dependency);
    }
    builder.build().map_err(|error| error.to_string())
}

/// A breaker that faults what it does not let through makes faults that nobody refused.
pub(crate) fn faults_good_ones(plan: &Plan) -> bool {
    matches!(plan.guards.breaker, Some(OnOpen::Fault | OnOpen::Siphon))
}
