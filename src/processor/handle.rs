//! Looking at a processor that runs, and turning its switches.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, Pipeline};
use super::status::{Status, is_ready};
use crate::config::ConfigError;
use crate::fault::FloodGuard;
use crate::record::{Position, ShardId};
use crate::resource::{BreakerControl, OnOpen, Resource};
use crate::settle::{Flag, Standing, printable};

/// Who turns a switch, and why: stands in the audit line.
///
/// ```
/// use streambreaker::By;
///
/// let by = By::new("ada", "the index is being rebuilt");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    who: String,
    why: String,
}

impl By {
    /// Who, and why.
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Self {
        Self { who: who.into(), why: why.into() }
    }

    /// Who.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// Why.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// A switch that could not be turned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// There is nothing of this name.
    #[error("no {what} is called `{name}`; there is {known}")]
    Unknown {
        /// A pipeline, a resource or a shard.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The value cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is nothing to skip: every pipeline is through with the record.
    #[error("record {position} of shard `{shard}` is settled already: there is nothing to skip")]
    Settled {
        /// The shard.
        shard: ShardId,
        /// The position.
        position: Position,
    },
}

/// What a [`Handle::skip`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// The record is in flight, and is set aside in these pipelines: in them it was not settled.
    Now {
        /// Their names, in their order in the processor.
        pipelines: Vec<String>,
    },
    /// The record is not in flight: it is set aside if it comes, or comes again.
    WhenItComes,
}

/// Looks at a processor and turns its switches, from anywhere, while it runs. Every switch is logged with who
/// and why (target `streambreaker::audit`). Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Core>);

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self(core)
    }

    /// A snapshot. Reads the clock of `tokio::time`; walks what is in flight, so not for every event.
    pub fn status(&self) -> Status {
        Status::of(&self.0)
    }

    /// False only when one of the processor's own tasks has died: then the process should be restarted. A sick
    /// dependency never makes it false.
    pub fn live(&self) -> bool {
        !self.0.is_dead()
    }

    /// Whether it takes events: it runs, owns what it will own, and does not drain.
    pub fn ready(&self) -> bool {
        is_ready(&self.0)
    }

    /// Stops a pipeline from taking more; what is in it goes on. Its shards stand still at the in-flight limit
    /// meanwhile, for the other pipelines as well.
    ///
    /// # Errors
    /// An unknown name, with those there are.
    pub fn pause(&self, pipeline: &str, by: &By) -> Result<(), SwitchError> {
        self.set_paused(pipeline, true, by)
    }

    /// Lets a paused pipeline go on.
    ///
    /// # Errors
    /// An unknown name, with those there are.
    pub fn resume(&self, pipeline: &str, by: &By) -> Result<(), SwitchError> {
        self.set_paused(pipeline, false, by)
    }

    fn set_paused(&self, name: &str, paused: bool, by: &By) -> Result<(), SwitchError> {
        let pipeline = self.pipeline(name)?;
        pipeline.info.paused.store(paused, Ordering::Release);
        for shard in self.0.shards() {
            for lane in &shard.lanes {
                if lane.state.pipeline.index != pipeline.info.index {
                    continue;
                }
                if paused {
                    lane.state.raise(Flag::PAUSED);
                } else {
                    lane.state.lower(Flag::PAUSED);
                }
            }
        }
        self.audit(if paused { "pause" } else { "resume" }, name, "", by);
        Ok(())
    }

    /// Holds a breaker open or closed, or leaves it to itself again.
    ///
    /// # Errors
    /// An unknown resource, or one without a breaker.
    pub fn breaker(
        &self,
        resource: &str,
        control: BreakerControl,
        by: &By,
    ) -> Result<(), SwitchError> {
        let circuit = self.with_breaker(resource)?;
        let circuit = circuit.circuit().ok_or_else(|| self.no_breaker(resource))?;
        match control {
            BreakerControl::HeldOpen => circuit.open(),
            BreakerControl::HeldClosed => circuit.close(),
            BreakerControl::Auto => circuit.auto(),
        }
        self.audit("breaker", resource, &format!("{control:?}"), by);
        Ok(())
    }

    /// What becomes of units while a breaker is open: `Siphon` in a regional disruption.
    ///
    /// # Errors
    /// An unknown resource, or one without a breaker.
    pub fn on_open(&self, resource: &str, on_open: OnOpen, by: &By) -> Result<(), SwitchError> {
        let found = self.with_breaker(resource)?;
        found.circuit().ok_or_else(|| self.no_breaker(resource))?.set_on_open(on_open);
        self.audit("on_open", resource, &format!("{on_open:?}"), by);
        Ok(())
    }

    /// Sets every unit that would call this resource aside at once, without a call, and lets the stream go on: for a
    /// regional disruption. Off again, the breaker decides by itself, and what becomes of units while it is open is as
    /// the resource was built.
    ///
    /// It is `on_open` and `breaker` in one, which leaves one audit line.
    ///
    /// # Errors
    /// An unknown resource, or one without a breaker.
    pub fn siphon(&self, resource: &str, on: bool, by: &By) -> Result<(), SwitchError> {
        let found = self.with_breaker(resource)?;
        let circuit = found.circuit().ok_or_else(|| self.no_breaker(resource))?;
        if on {
            circuit.set_on_open(OnOpen::Siphon);
            circuit.open();
        } else {
            circuit.auto();
            circuit.set_on_open(circuit.built_on_open());
        }
        self.audit("siphon", resource, if on { "on" } else { "off" }, by);
        Ok(())
    }

    /// Another flood guard for a pipeline, or none; one that has tripped closes.
    ///
    /// # Errors
    /// An unknown pipeline, or limits that make no sense.
    pub fn flood_guard(
        &self,
        pipeline: &str,
        guard: FloodGuard,
        by: &By,
    ) -> Result<(), SwitchError> {
        let found = self.pipeline(pipeline)?;
        guard.check(&format!("pipeline `{pipeline}`"))?;
        found.info.flood.set(guard);
        self.audit("flood_guard", pipeline, &guard.describe(), by);
        Ok(())
    }

    /// The guard that holds now, or, while there is none, the one that the pipeline was built with: so that one that is
    /// switched on again is what it was.
    #[cfg(feature = "admin")]
    pub(crate) fn flood_guard_of(&self, pipeline: &str) -> Result<FloodGuard, SwitchError> {
        let flood = &self.pipeline(pipeline)?.info.flood;
        let now = flood.guard();
        Ok(if now.is_off() { flood.built() } else { now })
    }

    /// Sets one record aside as a fault of class [`Skipped`](crate::Class::Skipped), in every pipeline in which
    /// it is not settled: for a record that is returned again and again. Its lanes are built anew for it. Where the
    /// record comes for another reason, in a replay or from its fault, it is worked on as any. (In a process that only
    /// replays it is skipped in the replay.)
    ///
    /// # Errors
    /// A shard that this process does not own; a record that is settled, where that can be told: a source that acknowledges one by
    /// one may bring any record again.
    pub fn skip(&self, shard: &ShardId, position: &Position, by: &By) -> Result<Skip, SwitchError> {
        let shards = self.0.shards();
        let mut owned: Vec<_> = shards.iter().filter(|owned| owned.id == *shard).collect();
        // what is replayed or sent again beside the stream is worked on as any
        if owned.iter().any(|owned| owned.reading().is_live()) {
            owned.retain(|owned| owned.reading().is_live());
        }
        if owned.is_empty() {
            return Err(SwitchError::Unknown {
                what: "shard of this process",
                name: shard.to_string(),
                known: list(shards.iter().map(|shard| shard.id.as_str())),
            });
        }
        let (mut pipelines, mut settled) = (Vec::new(), 0);
        for owned in &owned {
            // first, so that a record that is read just now is stopped at the gate, or found in flight
            self.0.gate.skip(owned.reading(), position.clone());
            match owned.standing(position) {
                Standing::Settled => {
                    self.0.gate.forget_skip(&owned.reading(), position);
                    settled += 1;
                }
                Standing::Open(lanes) => {
                    for lane in lanes {
                        let state = &owned.lanes[lane].state;
                        pipelines.push(state.pipeline.name.clone());
                        state.raise(Flag::SKIPPING);
                        state.halt();
                    }
                }
                Standing::Elsewhere => {}
            }
        }
        if settled == owned.len() {
            return Err(SwitchError::Settled { shard: shard.clone(), position: position.clone() });
        }
        self.audit("skip", shard.as_str(), &position.to_string(), by);
        Ok(match pipelines.is_empty() {
            true => Skip::WhenItComes,
            false => Skip::Now { pipelines },
        })
    }

    fn pipeline(&self, name: &str) -> Result<&Pipeline, SwitchError> {
        self.0.pipelines.iter().find(|p| p.info.is_called(name)).ok_or_else(|| {
            SwitchError::Unknown {
                what: "pipeline",
                name: name.to_owned(),
                known: list(self.0.pipelines.iter().map(|p| &*p.info.name)),
            }
        })
    }

    fn with_breaker(&self, name: &str) -> Result<&Resource, SwitchError> {
        self.0
            .resources
            .iter()
            .find(|resource| resource.name() == name && resource.circuit().is_some())
            .ok_or_else(|| self.no_breaker(name))
    }

    fn no_breaker(&self, name: &str) -> SwitchError {
        let known = self.0.resources.iter().filter(|r| r.circuit().is_some()).map(Resource::name);
        SwitchError::Unknown {
            what: "resource with a breaker",
            name: name.to_owned(),
            known: list(known),
        }
    }

    fn audit(&self, switch: &str, target: &str, value: &str, by: &By) {
        tracing::info!(
            target: "streambreaker::audit",
            processor = %self.0.name,
            switch,
            on = target,
            value,
            who = %printable(&by.who),
            why = %printable(&by.why),
            "a switch was turned",
        );
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.0.name)
    }
}
