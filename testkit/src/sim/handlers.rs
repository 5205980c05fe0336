//! Fake handlers, and the pipelines that are made of them.

use std::panic::panic_any;
use std::sync::{Arc, Once};
use std::time::Duration;

use serde_json::value::RawValue;
use streambreaker::flow::NewEvent;
use streambreaker::{
    Class, Event, Flow, Group, ProcessorBuilder, Received, Resource, Stage, StepError, Window,
};

use super::done::SimLedger;
use super::gate::{Act, Sim, Site};
use super::ledger::{Body, Ended, Item, Running, TERM, pipe_name};
use super::plan::{Shape, rank};
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
    /// A call about whole events.
    async fn call<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Event<Body>>,
    ) -> Result<(), StepError> {
        self.call_about(events.into_iter().map(|event| Item::of(&self.sim, event.record()))).await
    }

    /// A call about a part of an event.
    async fn call_part(&self, part: &PartOf) -> Result<(), StepError> {
        let item = Item::of(&self.sim, part.event.record());
        let shape = self.sim.plan.shapes[self.pipe];
        self.call_about([item.map(|item| item.part(part.part, shape))]).await
    }

    async fn call_about(
        &self,
        items: impl IntoIterator<Item = Option<Item>>,
    ) -> Result<(), StepError> {
        let sim = &self.sim;
        let items: Option<Vec<Item>> = items.into_iter().collect();
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
        if running.items().iter().any(|item| item.kind == Kind::Stuck) {
            running.end(Ended::Retryable);
            return Err(error(Class::Transient));
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

/// One part of an event.
struct PartOf {
    event: Arc<Event<Body>>,
    part: u32,
}

/// What is published for an event: all that it was made of.
fn publication(event: &Event<Body>) -> Result<NewEvent, StepError> {
    let record = event.record();
    let body: Box<RawValue> = serde_json::from_slice(record.payload())?;
    let term =
        record.header(TERM).and_then(|term| std::str::from_utf8(term).ok()).unwrap_or_default();
    Ok(NewEvent::json("said", &body)?
        .with_key(event.key.to_string())
        .with_tag("shard", record.shard().as_str().trim_start_matches('s'))
        .with_tag("n", event.n.to_string())
        .with_tag(TERM, term))
}

fn events<S>(flow: Flow<S>) -> Flow<impl Stage<Out = Event<Body>> + use<S>>
where
    S: Stage<Out = Received>,
{
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
        shape @ Shape::Split { width } => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            let parts = move |event: Event<Body>| {
                let kind =
                    if event.kind == Kind::Poison.as_str() { Kind::Poison } else { Kind::Good };
                let (parts, event) = (shape.parts(event.n, kind), Arc::new(event));
                (0..parts).map(move |part| PartOf { event: event.clone(), part })
            };
            events(flow).split(parts).parallel(width, &dependency, async move |part: &PartOf| {
                caller.call_part(part).await
            })
        }),
        Shape::Compact { items, width, by_rank: false } => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            let window = Window::items(items).linger(Duration::from_millis(50));
            events(flow).compact(|body| body.key, window).parallel(
                width,
                &dependency,
                async move |event: &Event<Body>| caller.call([event]).await,
            )
        }),
        Shape::Compact { items, width, by_rank: true } => builder.pipeline(name, move |flow| {
            let caller = caller.clone();
            let window = Window::items(items).linger(Duration::from_millis(50));
            events(flow)
                .compact_by(|body| body.key, |body| (rank(body.n), body.n), window)
                .parallel(width, &dependency, async move |event: &Event<Body>| {
                    caller.call([event]).await
                })
        }),
        Shape::Publish { items, requests } => builder.pipeline(name, move |flow| {
            let sink = BulkSink { caller: caller.clone(), items };
            events(flow)
                .try_map(|event| publication(&event))
                .publish(&dependency, sink)
                .in_flight(requests)
        }),
        Shape::Dedupe { width } => builder.pipeline(name, move |flow| {
            let (caller, ledger) = (caller.clone(), SimLedger(caller.clone()));
            events(flow.dedupe(width, &dependency, ledger.clone()))
                .parallel(width, &dependency, async move |event: &Event<Body>| {
                    caller.call([event]).await
                })
                .record_done(width, &dependency, ledger)
        }),
    }
}
