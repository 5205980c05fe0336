//! A snapshot of a processor, to be looked at or serialised.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::Core;
use crate::error::Class;
use crate::fault::FloodState;
use crate::record::{Position, ShardId};
use crate::resource::ResourceStatus;
use crate::settle::{Gap, PipelineReport, WaitsFor};

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It does not run; it may process single batches.
    Idle,
    /// It runs, and owns no shard yet.
    Starting,
    /// It runs.
    Running,
    /// It drains.
    Draining,
    /// It has ended.
    Stopped,
}

/// A processor at one moment. Holds names, positions, classes and numbers; never a key, a payload or the text
/// of an error.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The processor.
    pub processor: String,
    /// The release of the component.
    pub release: Option<String>,
    /// This process among others of its kind.
    pub instance: String,
    /// What it is doing.
    pub phase: Phase,
    /// Whether all its own tasks are alive. A sick dependency does not make it false.
    pub live: bool,
    /// Whether it takes events: it runs and does not drain.
    pub ready: bool,
    /// The pipelines by name.
    pub pipelines: BTreeMap<String, PipelineStatus>,
    /// Every lane: one pipeline over one shard.
    pub lanes: Vec<LaneStatus>,
    /// The resources that its pipelines call.
    pub resources: Vec<ResourceStatus>,
    /// Every shard, as its source tells.
    pub sources: Vec<SourceStatus>,
    /// Its faults.
    pub faults: FaultStatus,
    /// What the source had lost before it was read: to be repaired from the lake.
    pub gaps: Vec<Gap>,
    /// Records in flight in all shards.
    pub in_flight_records: usize,
    /// Bytes in flight in all shards.
    pub in_flight_bytes: usize,
}

/// One pipeline at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PipelineStatus {
    /// What became of its records so far.
    #[serde(flatten)]
    pub records: PipelineReport,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Where its flood guard stands: `closed`, `tripped` or `probing`.
    pub flood_guard: &'static str,
}

/// One lane at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// The stream.
    pub stream: String,
    /// The shard.
    pub shard: ShardId,
    /// The pipeline.
    pub pipeline: String,
    /// The last position of the shard's settled prefix.
    pub position: Option<Position>,
    /// The oldest position that is not settled here: what [`Handle::skip`](crate::Handle::skip) takes, where the lane
    /// is stuck.
    pub oldest: Option<Position>,
    /// How long the shard's oldest record that is not settled has waited, in seconds.
    pub iterator_age_seconds: f64,
    /// Records that are not settled here.
    pub in_flight: usize,
    /// How often the lane was built anew.
    pub restarts: u64,
    /// Units that came too late: of a flow that had been dropped.
    pub late: u64,
    /// The class of the last error.
    pub last_class: Option<Class>,
    /// What its oldest unit waits for.
    pub waits_for: WaitsFor,
}

/// One shard, as its source tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SourceStatus {
    /// The stream.
    pub stream: String,
    /// The shard.
    pub shard: ShardId,
    /// Seconds since the last read that was answered.
    pub last_read_seconds: Option<f64>,
    /// Records not yet read, where the transport knows.
    pub lag_records: Option<u64>,
    /// The class of the last error of the source, and seconds since then.
    pub last_error: Option<(&'static str, f64)>,
}

/// The faults of a processor at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FaultStatus {
    /// Stored in this life.
    pub stored: u64,
    /// Not confirmed by the fault sink.
    pub unconfirmed: u64,
    /// How long the oldest of them has waited, in seconds.
    pub oldest_seconds: f64,
}

impl Status {
    pub(crate) fn of(core: &Core) -> Self {
        let now = core.clock.now();
        let instant = tokio::time::Instant::now();
        let shards = core.shards();
        let mut lanes = Vec::new();
        let mut sources = Vec::new();
        let mut unconfirmed = 0;
        let mut oldest_fault = Duration::ZERO;
        for shard in &shards {
            let age = shard.iterator_age(now).as_secs_f64();
            let progress = *shard.progress();
            sources.push(SourceStatus {
                stream: shard.stream.to_string(),
                shard: shard.id.clone(),
                last_read_seconds: progress.last_read.map(|at| at.elapsed().as_secs_f64()),
                lag_records: progress.behind.records,
                last_error: progress.last_error.map(|(c, at)| (c, at.elapsed().as_secs_f64())),
            });
            unconfirmed += shard.faults.unconfirmed();
            if let Some(since) = shard.faults.waiting_since() {
                oldest_fault = oldest_fault.max(since.elapsed());
            }
            for (index, lane) in shard.lanes.iter().enumerate() {
                let waits_for = shard.waits_for(index);
                let tracker = shard.tracker();
                lanes.push(LaneStatus {
                    stream: shard.stream.to_string(),
                    shard: shard.id.clone(),
                    pipeline: lane.state.pipeline.name.clone(),
                    position: tracker.prefix().cloned(),
                    oldest: tracker
                        .oldest_of(index)
                        .map(|(batch, index)| batch.batch.records[index].position().clone()),
                    iterator_age_seconds: age,
                    in_flight: tracker.open_of(index),
                    restarts: lane.state.restarts(),
                    late: lane.state.late(),
                    last_class: lane.state.last_class(),
                    waits_for,
                });
            }
        }
        let report = core.report(Duration::ZERO);
        let pipelines = core
            .pipelines
            .iter()
            .filter_map(|pipeline| {
                let info = &pipeline.info;
                let records = report.pipelines.get(&info.name)?.clone();
                let flood_guard = match info.flood.state(instant) {
                    FloodState::Closed => "closed",
                    FloodState::Tripped { .. } => "tripped",
                    _ => "probing",
                };
                let paused = info.paused.load(std::sync::atomic::Ordering::Acquire);
                Some((info.name.clone(), PipelineStatus { records, paused, flood_guard }))
            })
            .collect();
        let (in_flight_records, in_flight_bytes) = core.in_flight.now();
        Self {
            processor: core.name.clone(),
            release: core.desk.release.clone(),
            instance: core.desk.instance.clone(),
            phase: core.phase(),
            live: !core.is_dead(),
            ready: is_ready(core),
            pipelines,
            lanes,
            resources: core.resources.iter().map(|r| r.status_at(instant)).collect(),
            sources,
            faults: FaultStatus {
                stored: report.faults_stored,
                unconfirmed,
                oldest_seconds: oldest_fault.as_secs_f64(),
            },
            gaps: report.gaps,
            in_flight_records,
            in_flight_bytes,
        }
    }
}

pub(crate) fn is_ready(core: &Core) -> bool {
    core.phase() == Phase::Running && !core.is_dead()
}
