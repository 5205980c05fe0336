//! The fake ledger of what has been done, which outlives every process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::idempotence::Ledger;
use streambreaker::{Class, Position, Processor, Record, Resource, ShardId, StepError, memory};
use uuid::Uuid;

use super::gate::{Act, Site};
use super::handlers::{Caller, error, injected_panic};
use super::ledger::pipe_name;
use super::source::STREAM;
use super::world::At;

/// The processor's name, which its ids depend on.
pub(crate) const PROCESSOR: &str = "sim";

/// The ledger as one pipeline of one process sees it.
#[derive(Clone)]
pub(crate) struct SimLedger(pub(crate) Arc<Caller>);

impl SimLedger {
    /// What these ids are of. One that is of no record breaks a rule.
    fn places(&self, ids: &[Uuid]) -> Vec<At> {
        let Caller { sim, pipe, .. } = &*self.0;
        let mut world = sim.world();
        let known: Option<Vec<At>> = ids
            .iter()
            .map(|id| world.in_ledger.get(id).filter(|(of, _)| of == pipe).map(|(_, at)| *at))
            .collect();
        known.unwrap_or_else(|| {
            world.fail("I5", format_args!("{ids:?} are of no records of the log"));
            Vec::new()
        })
    }

    /// Passes a gate, and fails where it is to; what goes wrong later comes back.
    async fn begin(&self, what: &str) -> Result<Act, StepError> {
        let Caller { sim, pipe, .. } = &*self.0;
        sim.gate(Site::Ledger, format!("p{pipe} {what}")).await;
        let act = sim.draw(Site::Ledger);
        match act {
            Act::Fail => return Err(error(Class::Transient)),
            Act::Throttle => {
                return Err(StepError::throttled(Duration::from_millis(500), "injected"));
            }
            Act::Hang => std::future::pending().await,
            Act::Panic => injected_panic(),
            Act::Slow => {
                let slow = sim.world().rng(Site::Ledger).millis(1, 300);
                tokio::time::sleep(slow).await;
                sim.alive().await;
            }
            _ => {}
        }
        Ok(act)
    }

    async fn end(&self, act: Act) -> Result<(), StepError> {
        let Caller { sim, pipe, .. } = &*self.0;
        sim.gate(Site::Ledger, format!("p{pipe} after")).await;
        match act {
            Act::Lost => Err(error(Class::Transient)),
            Act::HangAfter => std::future::pending().await,
            Act::PanicAfter => injected_panic(),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Ledger for SimLedger {
    async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
        let places = self.places(ids);
        let act = self.begin("looks").await?;
        let all = {
            let mut world = self.0.sim.world();
            let all = places.iter().all(|at| world.recorded.contains_key(&(self.0.pipe, *at)));
            if all {
                world.sometimes("left out");
                world.trace(format_args!("left out {places:?}"));
            }
            all
        };
        self.end(act).await?;
        Ok(all)
    }

    async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError> {
        let places = self.places(ids);
        let act = self.begin("records").await?;
        {
            let Caller { sim, pipe, .. } = &*self.0;
            let mut world = sim.world();
            for at in places {
                let term = world.shards[at.0].term;
                let done = (0..=term).any(|term| world.answers(*pipe, (at, 0), term).done > 0);
                world.check("I3", done, format_args!("{at:?} is recorded, and was not done"));
                world.recorded.entry((*pipe, at)).or_insert(term);
                world.trace(format_args!("recorded {at:?}"));
            }
        }
        self.end(act).await
    }
}

/// What the ledger calls the record of this place, in a pipeline: an opaque id, so a small processor is asked
/// for it.
pub(crate) fn id_of(pipe: usize, shard: ShardId, position: Position) -> Option<Uuid> {
    #[derive(Clone, Default)]
    struct Listens(Arc<Mutex<Option<Uuid>>>);

    #[async_trait]
    impl Ledger for Listens {
        async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ids.first().copied();
            Ok(true)
        }

        async fn record_done(&self, _: &[Uuid]) -> Result<(), StepError> {
            Ok(())
        }
    }

    let listens = Listens::default();
    let ledger = listens.clone();
    // a runtime must not be entered from within another
    let asked = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let db = Resource::builder("ledger").timeout(Duration::from_secs(1)).build().ok()?;
        let processor = Processor::builder(PROCESSOR)
            .faults(memory::faults())
            .pipeline(pipe_name(pipe), move |flow| {
                flow.dedupe(1, &db, ledger.clone()).record_done(1, &db, ledger.clone())
            })
            .build()
            .ok()?;
        let record = Record::new(STREAM, shard, position, "");
        runtime.ok()?.block_on(async { processor.process([record]).await });
        Some(())
    });
    asked.join().ok()??;
    *listens.0.lock().unwrap_or_else(PoisonError::into_inner)
}
