//! What is told to metrics on every tick, and the watchdog that says what stands still.
//!
//! Nothing here is done an event: the differences are told on the commit interval.

use std::time::Duration;

use metrics::Label;

use super::core::Core;
use super::gauges::Gauges;
use super::shard::Shard;
use crate::record::Timestamp;
use crate::settle::{Fate, LaneState, Tally, WaitsFor};

/// Records by fate.
pub(crate) fn records(core: &Core, pipeline: &str, told: &Tally, now: &Tally) {
    let tell = |fate: Fate, before: u64, after: u64| {
        if after > before {
            metrics::counter!(
                "streambreaker_records_total",
                "processor" => core.name.clone(),
                "pipeline" => pipeline.to_owned(),
                "fate" => fate.as_str(),
            )
            .increment(after - before);
        }
    };
    tell(Fate::Done, told.done, now.done);
    tell(Fate::Filtered, told.filtered, now.filtered);
    tell(Fate::Faulted, told.faulted, now.faulted);
    tell(Fate::Returned, told.returned, now.returned);
    if now.redelivered > told.redelivered {
        metrics::counter!(
            "streambreaker_redelivered_total",
            "processor" => core.name.clone(),
            "pipeline" => pipeline.to_owned(),
        )
        .increment(now.redelivered - told.redelivered);
    }
}

/// Age, lag, what is in flight, and what waits for the fault sink.
pub(crate) fn shard(core: &Core, shard: &Shard, now: Timestamp, gauges: &mut Gauges) {
    let age = shard.iterator_age(now);
    let progress = *shard.progress();
    let (records, bytes) = {
        let tracker = shard.tracker();
        (tracker.records_in_flight(), tracker.bytes_in_flight())
    };
    let unconfirmed = shard.faults.unconfirmed();
    let waited = shard.faults.waiting_since().map_or(Duration::ZERO, |since| since.elapsed());
    let full = if progress.full_since.is_some() { 1.0 } else { 0.0 };
    let labels = || {
        vec![
            Label::new("processor", core.name.clone()),
            Label::new("stream", core.stream_label(&shard.stream)),
            Label::new("shard", core.shard_label(&shard.id)),
        ]
    };
    gauges.most("streambreaker_iterator_age_seconds", labels(), age.as_secs_f64());
    if let Some(behind) = progress.behind.records {
        gauges.sum("streambreaker_lag_records", labels(), behind as f64);
    }
    gauges.sum("streambreaker_in_flight_records", labels(), records as f64);
    gauges.sum("streambreaker_in_flight_bytes", labels(), bytes as f64);
    gauges.sum("streambreaker_faults_unconfirmed", labels(), unconfirmed as f64);
    gauges.most("streambreaker_faults_unconfirmed_age_seconds", labels(), waited.as_secs_f64());
    gauges.most("streambreaker_source_waiting", labels(), full);
    for (index, lane) in shard.lanes.iter().enumerate() {
        waiting(shard, index, &lane.state, labels(), gauges);
    }
    stalled(core, shard, age);
}

/// Units by what they wait for: those that wait at a guard, and the lane itself where it stands still.
fn waiting(
    shard: &Shard,
    index: usize,
    lane: &LaneState,
    mut labels: Vec<Label>,
    gauges: &mut Gauges,
) {
    let mut units = lane.waiting_units();
    let whole = shard.waits_for(index);
    if matches!(
        whole,
        WaitsFor::Faults
            | WaitsFor::Pipeline
            | WaitsFor::Commit
            | WaitsFor::Restart
            | WaitsFor::Operator
    ) {
        let open = shard.tracker().open_of(index) as u64;
        units.insert(whole, open.max(1));
    }
    labels.push(Label::new("pipeline", lane.pipeline.name.clone()));
    for what in WaitsFor::ALL {
        if matches!(what, WaitsFor::Handler | WaitsFor::Source) {
            continue;
        }
        let mut labels = labels.clone();
        labels.push(Label::from_static_parts("for", what.as_str()));
        let units = units.get(&what).copied().unwrap_or(0) as f64;
        gauges.sum("streambreaker_waiting", labels, units);
    }
}

/// Says, once a stall, that a shard with something in flight has not settled anything for long.
fn stalled(core: &Core, shard: &Shard, age: Duration) {
    let (settled, open, oldest) = {
        let tracker = shard.tracker();
        let oldest = tracker.oldest().map(|record| record.position().clone());
        (tracker.settled(), tracker.records_in_flight(), oldest)
    };
    if !shard.watch(settled, open > 0, core.stall) {
        return;
    }
    let lanes: Vec<String> = {
        let tracker = shard.tracker();
        shard
            .lanes
            .iter()
            .enumerate()
            .filter(|(index, _)| tracker.oldest_of(*index).is_some())
            .map(|(_, lane)| lane.state.pipeline.name.clone())
            .collect()
    };
    metrics::counter!(
        "streambreaker_stalls_total",
        "processor" => core.name.clone(), "stream" => core.stream_label(&shard.stream)
    )
    .increment(1);
    let Some(count) = core.stall_is_due() else { return };
    tracing::error!(
        target: "streambreaker::lane",
        processor = %core.name,
        messaging.destination.name = %shard.stream,
        messaging.destination.partition.id = %shard.id,
        oldest = oldest.as_ref().map(tracing::field::display),
        in_flight = open,
        iterator_age_s = age.as_secs(),
        unconfirmed_faults = shard.faults.unconfirmed(),
        pipelines = ?lanes,
        count,
        "nothing has been settled for long although there is something to do",
    );
}

/// What concerns the processor as a whole.
pub(crate) fn totals(core: &Core) {
    let (records, bytes) = core.in_flight.now();
    let labels = [("processor", core.name.clone())];
    metrics::gauge!("streambreaker_processor_in_flight_records", &labels).set(records as f64);
    metrics::gauge!("streambreaker_processor_in_flight_bytes", &labels).set(bytes as f64);
    for pipeline in &core.pipelines {
        let restarts = pipeline.info.restarts.load(std::sync::atomic::Ordering::Relaxed);
        metrics::counter!(
            "streambreaker_restarts_total",
            "processor" => core.name.clone(),
            "pipeline" => pipeline.info.name.clone(),
        )
        .absolute(restarts);
    }
}
