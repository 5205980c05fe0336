//! From what the builder was told to a processor.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::{BuildError, ProcessorBuilder};
use crate::clock::Random;
use crate::config::ConfigError;
use crate::fault::{FaultDesk, FaultList, Floodgate};
use crate::flow::{Flow, Input, StagePlan, misplaced, named_stages, panicked};
use crate::minutely::Minutely;
use crate::processor::Processor;
use crate::processor::budget::TimeBudget;
use crate::processor::core::{Core, Parts, Pipeline};
use crate::processor::drive::Make;
use crate::record::ShardId;
use crate::resource::Resource;
use crate::settle::{LaneState, Lines, PipelineInfo};
use crate::source::Source;

impl ProcessorBuilder {
    /// Checks everything, and builds.
    ///
    /// # Errors
    /// Every mistake at once: each with its field and what would be accepted; and a table of the time budget of
    /// each pipeline whose worst case is above the deadline.
    pub fn build(mut self) -> Result<Processor, BuildError> {
        let mut mistakes = std::mem::take(&mut self.mistakes);
        self.configure();
        let caps = self.source.as_ref().map(Source::caps);
        self.check(caps.as_ref(), &mut mistakes);
        let enabled = self.enabled(&mut mistakes);
        let random = self.seed.map_or_else(Random::from_entropy, Random::seeded);
        let mut pipelines = Vec::new();
        let mut budgets = Vec::new();
        let mut resources: Vec<Resource> = Vec::new();
        for (index, spec) in self.pipelines.iter().enumerate() {
            let config = self.config.pipelines.get(&spec.name);
            let flood = config
                .and_then(|config| config.flood_guard.as_ref())
                .map_or(self.flood, |flood| flood.apply(self.flood));
            if let Err(error) = flood.check(&format!("pipeline `{}`", spec.name)) {
                mistakes.push(error);
            }
            let info = Arc::new(PipelineInfo {
                name: spec.name.clone(),
                index,
                processor: self.name.clone(),
                formerly: spec.formerly.clone(),
                stages: OnceLock::new(),
                settings: OnceLock::new(),
                flood: Floodgate::new(flood, &*self.name, &*spec.name),
                restarts: Default::default(),
                paused: Default::default(),
                lines: Lines::default(),
            });
            // once to learn the names of the stages, and once more with what is configured for them
            let plan = self.dry_run(&info, &spec.make, &mut Vec::new());
            let settings = self.stage_settings(&spec.name, &plan, &mut mistakes);
            let _ = info.settings.set(settings);
            let plan = self.dry_run(&info, &spec.make, &mut mistakes);
            mistakes.extend(misplaced(&spec.name, &plan));
            for resource in plan.iter().filter_map(|stage| stage.resource.as_ref()) {
                if !resources.iter().any(|known| known.is(resource)) {
                    resources.push(resource.clone());
                }
            }
            let budget = TimeBudget::of(&spec.name, &plan);
            let _ = info.stages.set(named_stages(&plan));
            pipelines.push(Pipeline {
                info,
                make: spec.make.clone(),
                enabled: enabled.contains(&spec.name),
                patience: budget.total.saturating_add(PATIENCE).min(LONGEST),
                plan,
            });
            budgets.push(budget);
        }
        self.unknown_names(&resources, &mut mistakes);
        for (index, resource) in resources.iter().enumerate() {
            if resources[..index].iter().any(|other| other.name() == resource.name()) {
                mistakes.push(ConfigError::new(
                    format!("resource `{}`", resource.name()),
                    "built twice",
                    "one resource of a name, built once and cloned: it is guarded for the whole process",
                ));
            }
        }
        let deadline = self.deadline.or_else(|| caps.as_ref().and_then(|caps| caps.deadline));
        let over_budget = over_budget(&budgets, deadline);
        let Some(sink) = self.faults else {
            return Err(BuildError { mistakes, over_budget });
        };
        if !mistakes.is_empty() || !over_budget.is_empty() {
            return Err(BuildError { mistakes, over_budget });
        }
        let desk = Arc::new(FaultDesk {
            processor: self.name.clone(),
            release: self.release,
            instance: self.instance.unwrap_or_else(instance),
            sink,
            scrubber: self.scrubber,
            oversize: self.oversize,
            timeout: self.fault_timeout,
            random: random.clone(),
            stored: AtomicU64::new(0),
            kinds: Mutex::default(),
            labels: Arc::default(),
            unwritten: Minutely::default(),
            held: Minutely::default(),
        });
        let core = Core::new(Parts {
            name: self.name,
            pipelines,
            resources,
            envelope: self.envelope,
            clock: self.clock,
            random,
            desk,
            faults_in: self.faults_in,
            limits: self.limits,
            total_limits: self.total,
            commit: self.commit,
            drain: self.drain,
            deadline: self.deadline,
            max_deliveries: self.max_deliveries,
            stall: self.stall,
        });
        Ok(Processor::new(core, self.source, budgets))
    }

    /// Builds a flow that is never driven, to see its stages.
    fn dry_run(
        &self,
        info: &Arc<PipelineInfo>,
        make: &Make,
        mistakes: &mut Vec<ConfigError>,
    ) -> Vec<StagePlan> {
        let lane = LaneState::new(
            info.clone(),
            "".into(),
            ShardId::new(""),
            Arc::new(FaultList::default()),
            self.clock.clone(),
            Arc::new(Notify::new()),
        );
        let input = Input::new(lane.clone(), None, Arc::default());
        let flow = Flow::begin(lane, input);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(flow))) {
            Ok(built) => {
                mistakes.extend(built.mistakes);
                built.plan
            }
            Err(panic) => {
                mistakes.push(ConfigError::new(
                    format!("pipeline `{}`", info.name),
                    format!("a function that panics ({})", panicked(panic).name()),
                    "a function that only builds a flow",
                ));
                Vec::new()
            }
        }
    }
}

/// What a halted flow is granted above the worst case of a unit: waits for permits and rates.
const PATIENCE: Duration = Duration::from_secs(35);
/// And no flow is granted more than this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The tables of the pipelines whose worst case is above the deadline.
pub(crate) fn over_budget(budgets: &[TimeBudget], deadline: Option<Duration>) -> Vec<String> {
    let Some(deadline) = deadline else { return Vec::new() };
    budgets
        .iter()
        .filter(|budget| budget.total >= deadline)
        .map(|budget| {
            format!(
                "the time budget does not fit: the deadline is {deadline:?}; accepted: shorter timeouts, \
                 fewer attempts, less backoff or linger, or a longer deadline\n{budget}"
            )
        })
        .collect()
}

fn instance() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    format!("{host}/{}", std::process::id())
}
