//! Fake handlers, and the pipelines that are made of them.

use std::panic::panic_any;
use std::sync::{Arc, Once};
use std::time::Duration;

use streambreaker::{
    Class, Event, Flow, Group, Input, ProcessorBuilder, Resource, Stage, StepError, Window,
};

use super::gate::{Act, Sim, Site};
use super::ledger::{Body, Ended, Item, Running, pipe_name};
use super::plan::Shape;
use super::sinks::BulkSink;
use super::world::Kind;

/// What an injected panic carries.
struct Injected;

/// Panics as an injected fault: without a line on the terminal.
pub(crate) fn injected_panic() -> ! {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Injected>() {
                others(info);
            }
        }));
    });
    panic_any(Injected)
}

pub(crate) fn error(class: Class) -> StepError {
    StepError::new(class, "injected")
}

/// Calls the fake dependency for one pipeline of one process.
pub(crate) struct Caller {
    pub(crate) sim: Arc<Sim>,
    pub(crate) process: usize,
    pub(crate) pipe: usize,
}

impl Caller {
    async fn call<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Event<Body>>,
    ) -> Result<(), StepError> {
        let sim = &self.sim;
        let items: Option<Vec<Item>> =
            events.into_iter().map(|event| Item::of(sim, event.record())).collect();
        let Some(items) = items else { return std::future::pending().await };
        let running = Running::begin(sim, self.process, self.pipe, items);
        sim.gate(Site::Handler, format!("p{} before", self.pipe)).await;
        let act = sim.draw(Site::Handler);
        if let Some(killer) = running.items().iter().find(|item| item.kind == Kind::Killer) {
            let at = killer.at;
            let mut world = sim.world();
            world.trace(format_args!("KILLED by {at:?}"));
            world.killed_by = Some(at);
            world.frozen = true;
            world.stop.notify_one();
        }
        sim.alive().await;
        match act {
            Act::Fail => {
                running.end(Ended::Retryable);
                return Err(error(Class::Transient));
            }
            Act::Hang => return std::future::pending().await,
            Act::Panic => {
                running.end(Ended::Refused);
                injected_panic();
            }
            Act::Throttle => {
                let after = sim.world().rng(Site::Handler).millis(0, 3_000);
                running.end(Ended::Retryable);
                return Err(StepError::throttled(after, "injected"));
            }
            Act::Reject => {
                running.end(Ended::Refused);
                return Err(error(Class::Fault));
            }
            Act::Fatal => {
                running.end(Ended::Fatal);
                return Err(error(Class::Fatal));
            }
            Act::Slow => {
                let most = u64::try_from(sim.plan.guards.timeout.as_millis()).unwrap_or(0);
                let wait = sim.world().rng(Site::Handler).between(0, most);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                sim.alive().await;
            }
            _ => {}
        }
        if running.items().iter().any(|item| item.kind == Kind::Poison) {
            running.end(Ended::Refused);
            return Err(error(Class::Fault));
        }
        running.apply(running.items());
        sim.gate(Site::Handler, format!("p{} after", self.pipe)).await;
        match act {
            Act::Lost => {
                running.end(Ended::Retryable);
                Err(error(Class::Transient))
            }
            Act::HangAfter => std::future::pending().await,
            Act::PanicAfter => {
                running.end(Ended::Refused);
                injected_panic();
            }
            _ => {
                running.end(Ended::Done);
                Ok(())
            }
        }
    }
}

fn events(flow: Flow<Input>) -> Flow<impl Stage<Out = Event<Body>> + use<>> {
    flow.json::<Body>().filter(|body| body.kind != Kind::Skip.as_str())
}

/// Adds pipeline `pipe` of the plan.
pub(crate) fn add_pipeline(
    builder: ProcessorBuilder,
    sim: &Arc<Sim>,
    process: usize,
    pipe: usize,
    dependency: &Resource,
) -> ProcessorBuilder {
    let caller = Arc::new(Caller { sim: sim.clone(), process, pipe });
    let dependency = dependency.clone();
    let name = pipe_name(pipe);
    match sim.plan.shapes[pipe] {
        Shape::Call => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            events(flow)
                .call(&dependency, async move |event: &Event<Body>| caller.call([event]).await)
        }),
        Shape::Parallel(n) => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            events(flow).parallel(n, &dependency, async move |event: &Event<Body>| {
                caller.call([event]).await
            })
        }),
        Shape::ByKey(n) => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            events(flow).parallel_by_key(
                n,
                |body| body.key,
                &dependency,
                async move |event: &Event<Body>| caller.call([event]).await,
            )
        }),
        Shape::Grouped { items, width } => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            let window = Window::items(items).linger(Duration::from_millis(50));
            events(flow).group_by(|body| body.key, window).parallel(
                width,
                &dependency,
                async move |group: &Group<u64, Event<Body>>| caller.call(&group.items).await,
            )
        }),
        Shape::Bulk { items, requests, ordered } => builder.pipeline(name, move |flow| {
            let sink = BulkSink { caller: caller.clone(), items };
            let flow = events(flow).bulk_write(&dependency, sink).in_flight(requests);
            if ordered { flow.ordered_by(|body| body.key) } else { flow }
        }),
    }
}
