//! What a processor is made of, checked before anything runs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::Processor;
use super::budget::TimeBudget;
use super::core::{CommitPolicy, Core, InFlight, Parts, Pipeline};
use super::drive::{Make, erase};
use crate::clock::{Clock, Random, SystemClock};
use crate::config::{Config, ConfigError, InFlightConfig, Size, Span, StageConfig};
use crate::envelope::{Envelope, JsonEnvelope};
use crate::fault::{
    FaultDesk, FaultEvent, FaultList, FloodGuard, Floodgate, Hold, Oversize, Scrub, Scrubber,
};
use crate::flow::{Flow, Input, Stage, StagePlan, misplaced, named_stages, panicked};
use crate::minutely::Minutely;
use crate::record::ShardId;
use crate::resource::Resource;
use crate::settle::{LaneState, Lines, PipelineInfo};
use crate::sink::Sink;
use crate::source::{BoxSource, Caps, Source, boxed};

/// A processor that cannot be built: every mistake at once.
#[derive(Debug)]
pub struct BuildError {
    mistakes: Vec<ConfigError>,
    over_budget: Vec<String>,
}

impl BuildError {
    /// The mistakes, each with the field and what would be accepted.
    pub fn mistakes(&self) -> &[ConfigError] {
        &self.mistakes
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for line in
            self.mistakes.iter().map(ToString::to_string).chain(self.over_budget.iter().cloned())
        {
            if !first {
                writeln!(f)?;
            }
            first = false;
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

struct Spec {
    name: String,
    formerly: Vec<String>,
    make: Make,
}

/// Builds a [`Processor`]. Has no type parameters: source and sinks are erased as they come in.
#[must_use = "a builder does nothing until `build`"]
pub struct ProcessorBuilder {
    name: String,
    release: Option<String>,
    instance: Option<String>,
    source: Option<BoxSource>,
    faults: Option<Arc<dyn Sink<FaultEvent>>>,
    faults_in: Option<String>,
    pipelines: Vec<Spec>,
    only: Option<Vec<String>>,
    without: Vec<String>,
    envelope: Arc<dyn Envelope>,
    flood: FloodGuard,
    limits: InFlight,
    total: InFlight,
    commit: CommitPolicy,
    drain: Duration,
    deadline: Option<Duration>,
    max_deliveries: u32,
    stall: Duration,
    fault_timeout: Duration,
    scrubber: Arc<dyn Scrubber>,
    oversize: Arc<dyn Oversize>,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    config: Config,
    mistakes: Vec<ConfigError>,
}

impl ProcessorBuilder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            release: None,
            instance: None,
            source: None,
            faults: None,
            faults_in: None,
            pipelines: Vec::new(),
            only: None,
            without: Vec::new(),
            envelope: Arc::new(JsonEnvelope::new()),
            flood: FloodGuard::ratio(0.5),
            limits: InFlight { records: 10_000, bytes: 64 << 20 },
            total: InFlight { records: 100_000, bytes: 512 << 20 },
            commit: CommitPolicy {
                every: Duration::from_secs(1),
                records: 10_000,
                timeout: Duration::from_secs(10),
            },
            drain: Duration::from_secs(20),
            deadline: None,
            max_deliveries: 10,
            stall: Duration::from_secs(60),
            fault_timeout: Duration::from_secs(10),
            scrubber: Arc::new(Scrub),
            oversize: Arc::new(Hold),
            clock: Arc::new(SystemClock),
            seed: None,
            config: Config::default(),
            mistakes: Vec::new(),
        }
    }

    /// The release of the component: stands in every fault event.
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.release = Some(release.into());
        self
    }

    /// The name of this process among others of its kind; `HOSTNAME` and the process id unless told.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Where records come from. Not needed for [`Processor::process`] and [`Processor::run_from`].
    pub fn source(mut self, source: impl Source) -> Self {
        self.source = Some(boxed(source));
        self
    }

    /// Where faults go. Mandatory: faulted means stored.
    pub fn faults(mut self, sink: impl Sink<FaultEvent> + 'static) -> Self {
        self.faults = Some(Arc::new(sink));
        self
    }

    /// What the report calls the place where the faults are, for example a path or a topic.
    pub fn faults_in(mut self, place: impl Into<String>) -> Self {
        self.faults_in = Some(place.into());
        self
    }

    /// What an event's id, type, time and key are; plain JSON unless told ([`JsonEnvelope`]).
    pub fn envelope(mut self, envelope: impl Envelope) -> Self {
        self.envelope = Arc::new(envelope);
        self
    }

    /// Adds a pipeline: a function from a flow of records to a flow of anything. It is called by
    /// `build()`, to see its stages, then once a lane, and again whenever a lane is built anew.
    ///
    /// All pipelines of a processor see every record and share its checkpoint; a slow one holds the others at
    /// the in-flight limit. Pipelines that must not hold each other are two processors.
    ///
    /// The name stands in fault events and their ids: renaming a pipeline takes a [`formerly`](Self::formerly).
    ///
    /// What `pipeline` captures is cloned or shared, never moved out. A function that builds a flow and takes
    /// references says `use<>` (`-> Flow<impl Stage<Out = ()> + use<>>`), or its flow would borrow them: the
    /// compiler's words for that are *returning this value requires that `'1` must outlive `'2`*.
    pub fn pipeline<F, S>(mut self, name: impl Into<String>, pipeline: F) -> Self
    where
        F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
        // the compiler shows this line to whoever captures what is not `Send`
        S: Stage + Send + 'static, // lanes run on any thread: `Arc` for `Rc`, `Mutex` for `RefCell`
    {
        self.pipelines.push(Spec {
            name: name.into(),
            formerly: Vec::new(),
            make: erase(pipeline),
        });
        self
    }

    /// A name that the pipeline added last had before: faults that name it are this pipeline's.
    pub fn formerly(mut self, name: impl Into<String>) -> Self {
        match self.pipelines.last_mut() {
            Some(last) => last.formerly.push(name.into()),
            None => self.mistakes.push(ConfigError::new(
                "formerly",
                "called before any pipeline",
                "a call after the pipeline that was renamed",
            )),
        }
        self
    }

    /// Runs only these pipelines. The others take no part in commits, and are reported with what went by.
    pub fn enable<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.only = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Runs all pipelines but these. See [`enable`](Self::enable).
    pub fn disable<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.without.extend(names.into_iter().map(Into::into));
        self
    }

    /// How much may be in flight in a shard: everything above its settled prefix, settled or not. 10,000
    /// records and 64 MiB unless told. At the limit the reader stops. One record that is larger than the bytes
    /// is admitted alone.
    pub fn in_flight(mut self, records: usize, bytes: usize) -> Self {
        self.limits = InFlight { records, bytes };
        self
    }

    /// How much may be in flight in all shards together: 100,000 records and 512 MiB unless told. Each shard is
    /// always granted one batch.
    pub fn in_flight_total(mut self, records: usize, bytes: usize) -> Self {
        self.total = InFlight { records, bytes };
        self
    }

    /// When to commit: so long after something was settled, or after so many records, whichever comes first.
    /// One second and 10,000 records unless told.
    pub fn commit_every(mut self, interval: Duration, records: u64) -> Self {
        self.commit.every = interval;
        self.commit.records = records;
        self
    }

    /// How long one commit may take until it counts as not done; 10 s unless told.
    pub fn commit_timeout(mut self, timeout: Duration) -> Self {
        self.commit.timeout = timeout;
        self
    }

    /// How long a drain may take in all; 20 s unless told, below the 30 s that Kubernetes grants.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// By when a record must be decided after it was read; the source's own deadline unless told. `build()`
    /// refuses pipelines whose worst case is longer, and no attempt starts that could not end in time.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// After so many deliveries without a decision a record is faulted as
    /// [`CrashLoop`](crate::Class::CrashLoop), where the source counts deliveries. 10 unless told. From half of
    /// that on such records run one at a time.
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries;
        self
    }

    /// After how long without a settled record, though some are open, the watchdog says so; 60 s unless told.
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.stall = limit;
        self
    }

    /// How long one write to the fault sink may take; 10 s unless told. It is tried again for as long as the
    /// processor runs.
    pub fn fault_timeout(mut self, timeout: Duration) -> Self {
        self.fault_timeout = timeout;
        self
    }

    /// Keeps a deployment bug from turning a stream into faults; half of the last 1,000 units unless told.
    pub fn flood_guard(mut self, guard: FloodGuard) -> Self {
        self.flood = guard;
        self
    }

    /// What is taken out of error texts before they go into a fault event; [`Scrub`] unless told.
    pub fn scrubber(mut self, scrubber: impl Scrubber + 'static) -> Self {
        self.scrubber = Arc::new(scrubber);
        self
    }

    /// What becomes of a fault event that no reduction makes small enough for its sink; it is held, and the
    /// checkpoint waits, unless told.
    pub fn oversize(mut self, oversize: impl Oversize + 'static) -> Self {
        self.oversize = Arc::new(oversize);
        self
    }

    /// The wall clock, for stamps and ages; the system's unless told.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Seeds the jitter of this processor, so that a test repeats; from the operating system unless told.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Takes a configuration. Code sets defaults, configuration wins, whatever is called first. Resources take
    /// theirs by [`ResourceBuilder::config`](crate::resource::ResourceBuilder::config).
    ///
    /// Names of pipelines, stages and resources that do not exist are reported by [`build`](Self::build), with
    /// those that do.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What the configuration changes.
    fn configure(&mut self) {
        let config = &self.config.processor;
        let in_flight = |limit: InFlight, config: &InFlightConfig| InFlight {
            records: config.records.unwrap_or(limit.records),
            bytes: config.bytes.map_or(limit.bytes, Size::get),
        };
        self.limits = in_flight(self.limits, &config.in_flight);
        self.total = in_flight(self.total, &config.in_flight_total);
        self.commit = CommitPolicy {
            every: config.commit.every.map_or(self.commit.every, Span::get),
            records: config.commit.records.unwrap_or(self.commit.records),
            timeout: config.commit.timeout.map_or(self.commit.timeout, Span::get),
        };
        self.drain = config.drain.map_or(self.drain, Span::get);
        self.deadline = config.deadline.map(Span::get).or(self.deadline);
        self.max_deliveries = config.max_deliveries.unwrap_or(self.max_deliveries);
        self.stall = config.stall_after.map_or(self.stall, Span::get);
        self.fault_timeout = config.fault_timeout.map_or(self.fault_timeout, Span::get);
        if let Some(flood) = &config.flood_guard {
            self.flood = flood.apply(self.flood);
        }
    }

    /// What the configuration says of the stages of a pipeline, in their order.
    fn stage_settings(
        &self,
        pipeline: &str,
        plan: &[StagePlan],
        mistakes: &mut Vec<ConfigError>,
    ) -> Vec<StageConfig> {
        let names: Vec<String> = named_stages(plan).into_iter().map(|stage| stage.name).collect();
        let Some(config) = self.config.pipelines.get(pipeline) else { return Vec::new() };
        for name in config.stages.keys().filter(|name| !names.contains(name)) {
            mistakes.push(ConfigError::new(
                format!("pipelines.{pipeline}.stages"),
                format!("`{}`, which is unknown", name.escape_debug()),
                format!("one of {}", names.join(", ")),
            ));
        }
        names.iter().map(|name| config.stages.get(name).copied().unwrap_or_default()).collect()
    }

    /// Names in the configuration that nothing here has.
    fn unknown_names(&self, resources: &[Resource], mistakes: &mut Vec<ConfigError>) {
        let pipelines: Vec<&str> = self.pipelines.iter().map(|spec| &*spec.name).collect();
        let known: Vec<&str> = resources.iter().map(Resource::name).collect();
        let mut check = |field: &str, name: &str, known: &[&str]| {
            if !known.contains(&name) {
                mistakes.push(ConfigError::new(
                    field,
                    format!("`{}`, which is unknown", name.escape_debug()),
                    format!("one of {}", known.join(", ")),
                ));
            }
        };
        for name in self.config.pipelines.keys() {
            check("pipelines", name, &pipelines);
        }
        for name in self.config.resources.keys() {
            check("resources", name, &known);
        }
    }

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
                restarts: AtomicU64::new(0),
                paused: AtomicBool::new(false),
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

    fn check(&self, caps: Option<&Caps>, mistakes: &mut Vec<ConfigError>) {
        let mut refuse = |field: &str, found: String, accepted: &str| {
            let field = format!("processor `{}`: {field}", self.name);
            mistakes.push(ConfigError::new(field, found, accepted));
        };
        if self.name.trim().is_empty() {
            refuse("name", format!("`{}`", self.name.escape_debug()), "a text");
        }
        if cfg!(panic = "abort") {
            refuse(
                "panic strategy",
                "`abort`".to_owned(),
                "`unwind`: a panic in a handler is a fault of its unit, not the end of the process",
            );
        }
        match &self.faults {
            None => refuse(
                "faults",
                "missing".to_owned(),
                "a sink of fault events, for example `file::faults(path)` or `memory::faults()`",
            ),
            Some(sink) => {
                let limits = sink.limits();
                if limits.items == 0 || limits.bytes == 0 {
                    refuse(
                        "limits of the fault sink",
                        format!("{limits:?}"),
                        "at least one of each",
                    );
                }
                if let (Some(to), Some(caps)) = (sink.stream(), caps) {
                    if to == caps.stream {
                        refuse(
                            "faults",
                            format!("the stream `{to}`, which it also reads"),
                            "another stream: a processor that reads its own faults never ends",
                        );
                    }
                }
            }
        }
        if self.pipelines.is_empty() {
            refuse("pipelines", "none".to_owned(), "at least one");
        }
        let mut names = BTreeSet::new();
        for spec in &self.pipelines {
            for name in std::iter::once(&spec.name).chain(&spec.formerly) {
                if name.trim().is_empty() || name.chars().any(char::is_control) {
                    let found = format!("`{}`", name.escape_debug());
                    refuse("name of a pipeline", found, "a text without control characters");
                }
                if !names.insert(name) {
                    let found = format!("`{name}`, twice");
                    refuse("name of a pipeline", found, "a name that no other pipeline has or had");
                }
            }
        }
        for (field, limit) in [("in_flight", self.limits), ("in_flight_total", self.total)] {
            if limit.records == 0 || limit.bytes == 0 {
                let found = format!("{} records, {} bytes", limit.records, limit.bytes);
                refuse(field, found, "at least one of each");
            }
        }
        if let Some(theirs) = caps.and_then(|caps| caps.unsettled) {
            let most = self.limits.records.min(self.total.records) as u64;
            if most > theirs.most {
                refuse(
                    "in_flight",
                    format!("{most} records, of which the source hands out {}", theirs.most),
                    &format!(
                        "at most {}, by `.in_flight(..)`, or a larger `{}` of the source: beyond it nothing more comes, \
                         and a stage that waits for more waits in vain",
                        theirs.most, theirs.setting
                    ),
                );
            }
        }
        for (field, span) in [
            ("commit interval", self.commit.every),
            ("commit_timeout", self.commit.timeout),
            ("drain", self.drain),
            ("stall_after", self.stall),
            ("fault_timeout", self.fault_timeout),
            ("deadline", self.deadline.unwrap_or(Duration::MAX)),
        ] {
            if span.is_zero() {
                refuse(field, "zero".to_owned(), "a span above zero");
            }
        }
        if self.commit.records == 0 {
            refuse("commit records", "0".to_owned(), "a number from 1");
        }
        if self.max_deliveries < 2 {
            refuse("max_deliveries", self.max_deliveries.to_string(), "a number from 2");
        }
    }

    fn enabled(&self, mistakes: &mut Vec<ConfigError>) -> BTreeSet<String> {
        let all: Vec<&str> = self.pipelines.iter().map(|spec| &*spec.name).collect();
        let find = |name: &str| {
            self.pipelines
                .iter()
                .find(|spec| spec.name == name || spec.formerly.iter().any(|old| old == name))
                .map(|spec| spec.name.clone())
        };
        for name in self.only.iter().flatten().chain(&self.without) {
            if find(name).is_none() {
                mistakes.push(ConfigError::new(
                    format!("processor `{}`: enabled or disabled pipeline", self.name),
                    format!("`{}`, which is unknown", name.escape_debug()),
                    format!("one of {}", all.join(", ")),
                ));
            }
        }
        let only: Option<BTreeSet<String>> =
            self.only.as_ref().map(|only| only.iter().filter_map(|name| find(name)).collect());
        let without: BTreeSet<String> = self.without.iter().filter_map(|name| find(name)).collect();
        all.into_iter()
            .filter(|name| {
                let config = self.config.pipelines.get(*name).and_then(|config| config.enabled);
                config.is_none_or(|enabled| enabled)
            })
            .filter(|name| only.as_ref().is_none_or(|only| only.contains(*name)))
            .filter(|name| !without.contains(*name))
            .map(str::to_owned)
            .collect()
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

impl fmt::Debug for ProcessorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorBuilder").field("name", &self.name).finish_non_exhaustive()
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
