//! Fake sinks: the bulk API that a pipeline writes to, and the sink of faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::fault::FaultEvent;
use streambreaker::flow::Publication;
use streambreaker::sink::{Limits, Outcomes, Sink};
use streambreaker::{Class, Event, StepError};

use super::gate::{Act, Sim, Site};
use super::handlers::{Caller, error, injected_panic};
use super::ledger::{Body, Item, Running};
use super::plan::Shape;
use super::world::{At, Kind, Part, Stored};

/// How one item of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// Written, and not a word about it.
    Silent,
    /// Neither written nor a word.
    Missing,
    Retry,
    /// Written; the answer says the contrary.
    Lost,
    Reject,
    Throttle,
    /// Written, and two answers that contradict each other.
    Contradict,
    Twice,
}

impl Fate {
    const ALL: [Fate; 9] = [
        Fate::Done,
        Fate::Silent,
        Fate::Missing,
        Fate::Retry,
        Fate::Lost,
        Fate::Reject,
        Fate::Throttle,
        Fate::Contradict,
        Fate::Twice,
    ];

    fn draw(sim: &Sim, site: Site) -> Self {
        let mut world = sim.world();
        let rng = world.rng(site);
        if rng.chance(0.5) { Fate::Done } else { rng.pick(&Fate::ALL) }
    }

    const fn is_written(self) -> bool {
        matches!(self, Fate::Done | Fate::Silent | Fate::Lost | Fate::Contradict | Fate::Twice)
    }

    fn note(self, index: usize, outcomes: &mut Outcomes<'_>) {
        match self {
            Fate::Done => outcomes.done(index),
            Fate::Silent | Fate::Missing => {}
            Fate::Retry | Fate::Lost => outcomes.retry(index, "injected"),
            Fate::Reject => outcomes.reject(index, "injected"),
            Fate::Throttle => outcomes.throttled(index, Duration::from_millis(700), "injected"),
            Fate::Contradict => {
                outcomes.done(index);
                outcomes.retry(index, "injected");
            }
            Fate::Twice => {
                outcomes.done(index);
                outcomes.done(index);
            }
        }
    }
}

/// What a request of a pipeline may consist of.
pub(crate) trait Written: Send + Sync {
    /// The record that it is about.
    fn item(&self, sim: &Sim, pipe: usize) -> Option<Item>;
    fn size(&self) -> usize;
}

impl Written for Event<Body> {
    fn item(&self, sim: &Sim, _: usize) -> Option<Item> {
        Item::of(sim, self.record())
    }

    fn size(&self) -> usize {
        self.record().payload().len()
    }
}

impl Written for Publication {
    fn item(&self, sim: &Sim, pipe: usize) -> Option<Item> {
        Item::of_published(sim, pipe, self)
    }

    fn size(&self) -> usize {
        self.body.len()
    }
}

/// The fake bulk API.
pub(crate) struct BulkSink {
    pub(crate) caller: Arc<Caller>,
    pub(crate) items: usize,
}

#[async_trait]
impl<T: Written> Sink<T> for BulkSink {
    fn limits(&self) -> Limits {
        Limits::items(self.items)
    }

    fn size(&self, event: &T) -> usize {
        event.size()
    }

    async fn write(&self, events: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        let Caller { sim, process, pipe } = &*self.caller;
        let items: Option<Vec<Item>> = events.iter().map(|event| event.item(sim, *pipe)).collect();
        let Some(items) = items else { return std::future::pending().await };
        {
            let fits = !items.is_empty() && items.len() <= self.items;
            let what = format!("{} items in a request of {}", items.len(), self.items);
            sim.world().check("K5", fits, what);
        }
        let running = Running::begin(sim, *process, *pipe, items);
        sim.gate(Site::Bulk, format!("p{pipe} before")).await;
        let act = sim.draw(Site::Bulk);
        match act {
            Act::Fail => {
                running.over();
                return Err(error(Class::Transient));
            }
            Act::Throttle => {
                running.over();
                return Err(StepError::throttled(Duration::from_millis(900), "injected"));
            }
            Act::Fatal => {
                running.note_fatal();
                running.over();
                return Err(error(Class::Fatal));
            }
            Act::Panic => {
                running.refuse(running.items());
                running.over();
                injected_panic();
            }
            Act::Hang => return std::future::pending().await,
            _ => {}
        }
        let fates: Vec<Fate> = running
            .items()
            .iter()
            .map(|item| match (item.kind, act) {
                (Kind::Poison, _) => Fate::Reject,
                (Kind::Stuck, _) => Fate::Retry,
                (_, Act::Mixed) => Fate::draw(sim, Site::Bulk),
                (_, Act::Silent | Act::Lost) => Fate::Silent,
                _ => Fate::Done,
            })
            .collect();
        let of = |wanted: fn(Fate) -> bool| -> Vec<Item> {
            let pairs = running.items().iter().zip(&fates);
            pairs.filter(|(_, fate)| wanted(**fate)).map(|(item, _)| *item).collect()
        };
        running.apply(&of(Fate::is_written));
        sim.gate(Site::Bulk, format!("p{pipe} written")).await;
        for (index, fate) in fates.iter().enumerate() {
            fate.note(index, outcomes);
        }
        running.confirm(&of(|fate| matches!(fate, Fate::Done | Fate::Twice)));
        running.refuse(&of(|fate| fate == Fate::Reject));
        if fates.iter().any(|fate| *fate != fates[0]) {
            sim.world().sometimes("partial bulk");
        }
        if act == Act::Mixed {
            // an answer about an item that nobody sent
            outcomes.done(events.len() + 3);
        }
        // what was noted stays, whatever becomes of the call from here on
        sim.gate(Site::Bulk, format!("p{pipe} noted")).await;
        match act {
            Act::HangAfter => std::future::pending().await,
            Act::PanicAfter => {
                running.refuse(&of(|fate| matches!(fate, Fate::Silent | Fate::Missing)));
                running.over();
                injected_panic();
            }
            Act::Lost => {
                running.over();
                Err(error(Class::Transient))
            }
            _ => {
                running.over();
                Ok(())
            }
        }
    }
}

/// The parts that a fault is about: all of a record, where it names none.
fn places<'a>(
    shape: Shape,
    items: &'a [Item],
    paths: &'a [Vec<u32>],
) -> impl Iterator<Item = Part> + 'a {
    items.iter().zip(paths).flat_map(move |(item, path)| {
        let parts = match path[..] {
            [part, ..] => part..part + 1,
            [] => 0..shape.parts(item.at.1, item.kind).max(1),
        };
        parts.map(|part| (item.at, part))
    })
}

/// The fake sink of faults.
pub(crate) struct FaultSink {
    pub(crate) sim: Arc<Sim>,
    pub(crate) process: usize,
}

impl FaultSink {
    /// Stores an event durably. Checks what must hold of it.
    fn store(&self, event: &FaultEvent) {
        let sim = &self.sim;
        let items: Vec<Item> =
            event.records.iter().filter_map(|record| Item::of(sim, &record.record)).collect();
        let mut world = sim.world();
        if items.is_empty() {
            return world.fail("F1", "a fault without records");
        }
        let again = FaultEvent::from_json(&event.to_json()).is_ok_and(|parsed| parsed == *event);
        world.check("F7", again, "the event does not survive its own JSON");
        let pipe = event.pipeline.strip_prefix('p').and_then(|pipe| pipe.parse::<usize>().ok());
        let pipe = pipe.filter(|pipe| *pipe < sim.plan.shapes.len());
        let Some(pipe) = pipe else { return world.fail("F1", "a fault of no pipeline") };
        let records: Vec<At> = items.iter().map(|item| item.at).collect();
        let term = items[0].term;
        let shape = sim.plan.shapes[pipe];
        let called = !matches!(event.class, Class::CircuitOpen | Class::CrashLoop | Class::Skipped)
            && !matches!(event.stage.as_str(), "json" | "filter" | "input");
        if called {
            let whole = match shape {
                Shape::Grouped { .. } => world.units.contains(&(pipe, term, records.clone())),
                Shape::Compact { .. } => {
                    let of_one_key = items.iter().all(|item| item.key == items[0].key);
                    let goes_on = |new: &&At| {
                        records.iter().all(|old| old == *new || shape.supersedes(new.1, old.1))
                    };
                    let newest = records.iter().find(goes_on);
                    let unit = newest.map(|newest| (pipe, term, vec![*newest]));
                    of_one_key && unit.is_some_and(|unit| world.units.contains(&unit))
                }
                _ => records.len() == 1,
            };
            world.check("F2", whole, format_args!("a fault of {records:?}, which is no unit"));
        }
        if matches!(shape, Shape::Compact { .. }) && records.len() > 1 {
            world.sometimes("compacted unit faulted");
        }
        let paths: Vec<Vec<u32>> =
            event.records.iter().map(|record| record.part.indices().to_vec()).collect();
        let fits = items.iter().zip(&paths).all(|(item, path)| match path[..] {
            [] => true,
            [part] => part < shape.parts(item.at.1, item.kind),
            _ => false,
        });
        world.check("F2", fits, format_args!("a fault of the parts {paths:?} of {records:?}"));
        if paths.iter().any(|path| !path.is_empty()) {
            world.sometimes("part faulted");
        }
        if event.class == Class::Skipped {
            world.sometimes("skipped");
            let asked = records.iter().all(|at| world.skipped.1.contains(at));
            world.check("F1", asked, format_args!("{records:?} skipped, and nobody asked for it"));
        }
        if event.class == Class::CrashLoop {
            world.sometimes("crash loop");
            // a record of another shard may wait its turn for as many deliveries as the guilty one runs; nobody
            // remembers what an earlier life gave back, or what came again in spite of being decided
            let excused = |item: &Item| {
                let answers = world.answers(pipe, item.place(), item.term);
                world.entry(item.at).given_back.1 || answers.done + answers.faulted > 0
            };
            let guilty = sim.plan.shards > 1
                || items.iter().all(|item| item.kind == Kind::Killer || excused(item));
            world.check("I10", guilty, format_args!("{records:?} did not kill anything"));
        }
        let stored = Stored {
            pipe,
            stage: event.stage.clone(),
            class: event.class.as_str().to_owned(),
            records: records.clone(),
            paths: paths.clone(),
        };
        world.trace(format_args!("stored {} p{pipe} {records:?} {}", event.id, event.class));
        let same = world.faults.iter().find(|(_, known)| {
            (known.pipe, &known.stage, &known.records, &known.paths)
                == (stored.pipe, &stored.stage, &stored.records, &stored.paths)
        });
        let id_of_same = same.map(|(id, _)| *id);
        let what = format_args!("{records:?} has two fault ids in p{pipe}");
        world.check("F4", id_of_same.is_none_or(|id| id == event.id), what);
        if let Some(known) = world.faults.get(&event.id) {
            let alike = (known.pipe, &known.records, &known.paths)
                == (stored.pipe, &stored.records, &stored.paths);
            world.check("F4", alike, format_args!("{} names two faults", event.id));
        }
        for place in places(shape, &items, &paths) {
            world.faults_of.entry((pipe, place)).or_default().insert(event.id);
        }
        world.faults.insert(event.id, stored);
    }

    /// The processor has been told that the event is stored.
    fn confirm(&self, event: &FaultEvent) {
        let sim = &self.sim;
        let items: Vec<Item> =
            event.records.iter().filter_map(|record| Item::of(sim, &record.record)).collect();
        let pipe = event.pipeline.strip_prefix('p').and_then(|pipe| pipe.parse::<usize>().ok());
        let mut world = sim.world();
        world.processes[self.process].confirmed_faults += 1;
        // what is no pipeline was told when it was stored
        let Some(pipe) = pipe.filter(|pipe| *pipe < sim.plan.shapes.len()) else { return };
        let shape = sim.plan.shapes[pipe];
        let paths: Vec<Vec<u32>> =
            event.records.iter().map(|record| record.part.indices().to_vec()).collect();
        let term = items.first().map_or(0, |item| item.term);
        let kinds: BTreeMap<At, Kind> = items.iter().map(|item| (item.at, item.kind)).collect();
        // what was done, and could not be recorded, may be faulted for that
        let dedupes = matches!(shape, Shape::Dedupe { .. });
        for (at, part) in places(shape, &items, &paths) {
            let once = world.delivered(at, term) == 1;
            let answers = world.answer(pipe, (at, part), term);
            answers.faulted += 1;
            // a part that is done again, for another one that was returned, may end otherwise
            let alone = shape.parts(at.1, kinds[&at]) == 1;
            let twice = answers.done > 0 && alone && !dedupes;
            if once && twice {
                world.fail("I3", format_args!("{at:?} is faulted, and was done"));
            }
        }
    }
}

#[async_trait]
impl Sink<FaultEvent> for FaultSink {
    fn limits(&self) -> Limits {
        Limits::items(7)
    }

    fn size(&self, event: &FaultEvent) -> usize {
        event.to_json().len()
    }

    async fn write(
        &self,
        events: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        let sim = &self.sim;
        {
            let fits = !events.is_empty() && events.len() <= 7;
            sim.world().check("K5", fits, "a request of faults over its limit, or empty");
        }
        sim.gate(Site::Faults, format!("{} before", events.len())).await;
        let act = sim.draw(Site::Faults);
        match act {
            Act::Fail => return Err(error(Class::Transient)),
            Act::Reject => return Err(error(Class::Fault)),
            Act::Throttle => {
                return Err(StepError::throttled(Duration::from_millis(900), "injected"));
            }
            Act::Panic => injected_panic(),
            Act::Hang => return std::future::pending().await,
            _ => {}
        }
        let fates: Vec<Fate> = events
            .iter()
            .map(|_| match act {
                Act::Mixed => Fate::draw(sim, Site::Faults),
                Act::Silent | Act::Lost => Fate::Silent,
                _ => Fate::Done,
            })
            .collect();
        for (event, fate) in events.iter().zip(&fates) {
            if fate.is_written() {
                self.store(event);
            }
        }
        sim.gate(Site::Faults, "stored".to_owned()).await;
        for (index, (event, fate)) in events.iter().zip(&fates).enumerate() {
            fate.note(index, outcomes);
            if matches!(fate, Fate::Done | Fate::Twice) {
                self.confirm(event);
            }
        }
        if act != Act::Ok {
            sim.world().sometimes("fault sink failed");
        }
        sim.gate(Site::Faults, "noted".to_owned()).await;
        match act {
            Act::Lost => Err(error(Class::Transient)),
            Act::HangAfter => std::future::pending().await,
            Act::PanicAfter => injected_panic(),
            _ => Ok(()),
        }
    }
}
