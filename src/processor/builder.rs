//! What a processor is made of.
//!
//! Setters only note what they are told: everything is checked together by `build`, so that whoever made three
//! mistakes hears of all three.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::build::over_budget;
pub use self::error::BuildError;
use super::core::{CommitPolicy, InFlight};
use super::drive::{Make, erase};
use crate::clock::{Clock, FAR, SystemClock};
use crate::config::{Config, ConfigError, InFlightConfig, Size, Span};
use crate::envelope::{Envelope, JsonEnvelope};
use crate::fault::{FaultEvent, FloodGuard, Hold, Oversize, Scrub, Scrubber};
use crate::flow::{Flow, Input, Stage};
use crate::sink::Sink;
use crate::source::{BoxSource, Source, boxed};

mod build;
mod check;
mod error;

struct Spec {
    name: String,
    formerly: Vec<String>,
    make: Make,
}

/// Builds a [`Processor`](super::Processor). Has no type parameters: source and sinks are erased as they come in.
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

    /// Where records come from. Not needed for [`process`](super::Processor::process) and [`run_from`](super::Processor::run_from).
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

    /// Runs only these pipelines. The others take no part in commits: what goes by them is committed, and does not come
    /// again when they are enabled. It is told from where to where, by the status, and by the report of the run; where
    /// it begins is also logged, once a shard, for a process that is killed before it reports. Send it from the lake.
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
    ///
    /// While commits fail or hang, a shard reads on until that many records and its limit in flight together are settled
    /// and not committed: a crash repeats no more than that, and what was in flight.
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
    /// refuses pipelines whose worst case is longer, and no attempt starts that could not end in time: the record is returned.
    /// Where its lane feeds it again, because the source acknowledges by position, it has as long once more.
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

    /// After how long in which the settled prefix of a shard did not move, though records are in flight, the watchdog
    /// says so, and again after as long: in the log, and by the counter `streambreaker_stalls_total`. 60 s unless told.
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
        // so that they can be added to any instant
        for span in [
            &mut self.commit.every,
            &mut self.commit.timeout,
            &mut self.drain,
            &mut self.stall,
            &mut self.fault_timeout,
        ] {
            *span = (*span).min(FAR);
        }
        self.deadline = self.deadline.map(|deadline| deadline.min(FAR));
    }
}

impl fmt::Debug for ProcessorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
