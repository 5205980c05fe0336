//! What all parts of one processor share: its pipelines, limits and policies, and what is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use metrics::SharedString;

pub(crate) use self::in_flight::{InFlight, InFlightTotal};
use self::notes::Lines;
pub(crate) use self::reading::Reading;
use super::drive::Make;
use super::gate::Gate;
use super::gauges::{Gauges, Told};
use super::shard::Shard;
use super::status::Phase;
use crate::clock::{Clock, Random};
use crate::envelope::Envelope;
use crate::fault::FaultDesk;
use crate::flow::StagePlan;
use crate::labels::Labels;
use crate::record::{Position, ShardId};
use crate::resource::{Resource, Retry};
use crate::settle::{
    FaultKind, Gap, History, PassedBy, PipelineInfo, PipelineReport, Report, Tally,
};

mod in_flight;
mod notes;
mod reading;

/// When to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitPolicy {
    pub(crate) every: Duration,
    pub(crate) records: u64,
    /// Of one call; a later reply counts as none.
    pub(crate) timeout: Duration,
}

/// One pipeline of a processor.
pub(crate) struct Pipeline {
    pub(crate) info: Arc<PipelineInfo>,
    pub(crate) make: Make,
    pub(crate) enabled: bool,
    /// The worst case of a unit: how long a halted flow may go on.
    pub(crate) patience: Duration,
    pub(crate) plan: Vec<StagePlan>,
}

pub(crate) struct Core {
    pub(crate) name: String,
    pub(crate) pipelines: Vec<Pipeline>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) envelope: Arc<dyn Envelope>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) desk: Arc<FaultDesk>,
    pub(crate) faults_in: Option<String>,
    pub(crate) limits: InFlight,
    pub(crate) total_limits: InFlight,
    pub(crate) in_flight: InFlightTotal,
    pub(crate) commit: CommitPolicy,
    pub(crate) drain: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) max_deliveries: u32,
    pub(crate) stall: Duration,
    pub(crate) gate: Arc<Gate>,
    dead: AtomicBool,
    commits: AtomicU64,
    unconfirmed: AtomicU64,
    labels: Arc<Labels>,
    lines: Lines,
    book: Mutex<Book>,
    telling: Mutex<Telling>,
}

/// What is remembered over shards.
#[derive(Default)]
struct Book {
    histories: BTreeMap<Reading, Arc<Mutex<History>>>,
    live: Vec<Weak<Shard>>,
    gaps: Vec<Gap>,
    passed_by: BTreeMap<(Arc<str>, ShardId), (Position, Position)>,
    /// What each run is doing, and how many have begun.
    runs: BTreeMap<u64, Phase>,
    begun: u64,
}

/// What metrics were told the last time.
struct Telling {
    tallies: Vec<Tally>,
    gauges: Told,
}

/// One run of a source.
pub(crate) struct Run {
    core: Arc<Core>,
    serial: u64,
}

impl Run {
    pub(crate) fn enter(&self, phase: Phase) {
        self.core.book().runs.insert(self.serial, phase);
    }
}

impl Drop for Run {
    /// Also where the run itself is dropped.
    fn drop(&mut self) {
        self.core.book().runs.remove(&self.serial);
    }
}

/// What a processor is made of; the counters begin at zero.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) pipelines: Vec<Pipeline>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) envelope: Arc<dyn Envelope>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) desk: Arc<FaultDesk>,
    pub(crate) faults_in: Option<String>,
    pub(crate) limits: InFlight,
    pub(crate) total_limits: InFlight,
    pub(crate) commit: CommitPolicy,
    pub(crate) drain: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) max_deliveries: u32,
    pub(crate) stall: Duration,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let tallies = vec![Tally::default(); parts.pipelines.len()];
        let labels = parts.desk.labels.clone();
        Arc::new(Self {
            name: parts.name,
            pipelines: parts.pipelines,
            resources: parts.resources,
            envelope: parts.envelope,
            clock: parts.clock,
            random: parts.random,
            desk: parts.desk,
            faults_in: parts.faults_in,
            limits: parts.limits,
            total_limits: parts.total_limits,
            in_flight: InFlightTotal::default(),
            commit: parts.commit,
            drain: parts.drain,
            deadline: parts.deadline,
            max_deliveries: parts.max_deliveries,
            stall: parts.stall,
            gate: Arc::default(),
            dead: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            labels,
            lines: Lines::default(),
            book: Mutex::default(),
            telling: Mutex::new(Telling { tallies, gauges: Told::default() }),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What has been seen of a shard in this life.
    pub(crate) fn history(&self, reading: Reading) -> Arc<Mutex<History>> {
        self.book()
            .histories
            .entry(reading)
            .or_insert_with(|| Arc::new(Mutex::new(History::new(self.pipelines.len()))))
            .clone()
    }

    /// A shard has begun: it takes part in status and metrics.
    pub(crate) fn join(&self, shard: &Arc<Shard>) {
        let mut book = self.book();
        book.live.retain(|shard| shard.strong_count() > 0);
        book.live.push(Arc::downgrade(shard));
    }

    /// The shards that this process owns.
    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.book().live.iter().filter_map(Weak::upgrade).collect()
    }

    /// One of our tasks has died.
    pub(crate) fn died(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// A run begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Run {
        let mut book = self.book();
        book.begun += 1;
        let run = Run { core: self.clone(), serial: book.begun };
        book.runs.insert(run.serial, Phase::Starting);
        run
    }

    /// What it is doing: a replay may run beside the stream itself, and its end is not the end of all.
    pub(crate) fn phase(&self) -> Phase {
        let book = self.book();
        let any = |phase| book.runs.values().any(|of_run| *of_run == phase);
        let all = [Phase::Running, Phase::Draining, Phase::Starting];
        all.into_iter().find(|phase| any(*phase)).unwrap_or(match book.begun {
            0 => Phase::Idle,
            _ => Phase::Stopped,
        })
    }

    /// How often metrics are told, and the watchdog looks: as often as is committed, and often enough for an alert.
    pub(crate) fn tick_every(&self) -> Duration {
        let often = self.commit.every.min(self.stall / 4);
        often.clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    pub(crate) fn source_backoff(&self) -> Retry {
        Retry::exponential().max_attempts(u32::MAX).no_quick().cap(Duration::from_secs(10))
    }

    /// How long a returned record is left alone, on a source that takes it back.
    pub(crate) fn return_delay(&self, deliveries: u32) -> Duration {
        let backoff = Retry::exponential()
            .max_attempts(u32::MAX)
            .no_quick()
            .base(Duration::from_millis(100))
            .cap(Duration::from_secs(30));
        backoff.delay(deliveries, &self.random).unwrap_or(Duration::from_secs(30))
    }

    /// The stream as a label of metrics.
    pub(crate) fn stream_label(&self, stream: &str) -> SharedString {
        self.labels.stream.of(stream)
    }

    /// The shard as a label of metrics.
    pub(crate) fn shard_label(&self, shard: &ShardId) -> SharedString {
        self.labels.shard.of(shard.as_str())
    }

    /// How the records of each pipeline stand: of all shards that were ever owned.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        let histories: Vec<_> = self.book().histories.values().cloned().collect();
        let live = self.shards();
        let mut tallies = vec![Tally::default(); self.pipelines.len()];
        // a shard's tracker before its history, as everywhere
        for shard in &live {
            let tracker = shard.tracker();
            for (lane, states) in shard.lanes.iter().enumerate() {
                tallies[states.state.pipeline.index].add(&tracker.tally(lane));
            }
        }
        for history in histories {
            let history = history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (tally, more) in tallies.iter_mut().zip(&history.tallies) {
                tally.add(more);
            }
        }
        tallies
    }

    pub(crate) fn report(&self, elapsed: Duration) -> Report {
        let tallies = self.tallies();
        let restarts = self.restarts();
        let book = self.book();
        let pipelines = self
            .pipelines
            .iter()
            .zip(tallies)
            .map(|(pipeline, tally)| {
                let mut report = PipelineReport::of(&tally);
                report.enabled = pipeline.enabled;
                report.restarts = restarts.get(&pipeline.info.index).copied().unwrap_or(0);
                if !pipeline.enabled {
                    let passed_by = book.passed_by.iter();
                    report.passed_by = passed_by
                        .map(|((stream, shard), (first, last))| {
                            PassedBy::new(stream, shard, first, last)
                        })
                        .collect();
                }
                (pipeline.info.name.clone(), report)
            })
            .collect();
        let mut kinds: Vec<FaultKind> = self
            .desk
            .kinds
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .values()
            .map(|kind| kind.kind.clone())
            .collect();
        kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
        Report {
            processor: self.name.clone(),
            pipelines,
            faults_stored: self.desk.stored.load(Ordering::Relaxed),
            faults_unconfirmed: self.unconfirmed.load(Ordering::Acquire),
            faults_in: self.faults_in.clone(),
            kinds,
            gaps: book.gaps.clone(),
            commits: self.commits.load(Ordering::Relaxed),
            elapsed,
            drained: true,
            stopped: false,
            error: None,
        }
    }

    fn restarts(&self) -> BTreeMap<usize, u64> {
        self.pipelines
            .iter()
            .map(|p| (p.info.index, p.info.restarts.load(Ordering::Relaxed)))
            .collect()
    }

    /// Tells metrics what came since the last time, and warns of what stands still.
    pub(crate) fn tick(&self) {
        let now = self.clock.now();
        // held from before anything is looked at: of two runs that tick at once the later one must not tell what is older
        let mut told = self.telling.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut gauges = Gauges::default();
        for shard in self.shards() {
            super::observe::shard(self, &shard, now, &mut gauges);
        }
        let tallies = self.tallies();
        for (pipeline, tally) in self.pipelines.iter().zip(&tallies) {
            super::observe::records(
                self,
                &pipeline.info.name,
                &told.tallies[pipeline.info.index],
                tally,
            );
        }
        told.tallies = tallies;
        told.gauges.tell(gauges);
        drop(told);
        let instant = tokio::time::Instant::now();
        for resource in &self.resources {
            resource.publish_metrics(instant);
        }
        super::observe::totals(self);
        self.desk.say_what_is_left(self.phase() == Phase::Stopped);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Processor({})", self.name)
    }
}
