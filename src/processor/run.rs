//! Runs a source to its end, or until told to stop.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::commit::release;
use super::core::Core;
use super::shard::{Command, Committed, Shard, ShardEnd, run_shard};
use super::shutdown::Shutdown;
use super::status::Phase;
use crate::record::ShardId;
use crate::settle::Report;
use crate::source::{BoxChange, BoxSource, Change, Source, SourceError};

/// A shard that this process owns, or is giving up.
struct Owned {
    id: ShardId,
    shard: Weak<Shard>,
    commands: mpsc::UnboundedSender<Command>,
}

/// Drives the source; the report says why it ended.
pub(crate) async fn run_source(
    core: Arc<Core>,
    mut source: BoxSource,
    mut shutdown: Shutdown,
) -> (Report, Option<SourceError>) {
    let began = Instant::now();
    let run = core.begin();
    let caps = source.caps();
    let backoff = core.source_backoff();
    let mut owned: BTreeMap<u64, Owned> = BTreeMap::new();
    let mut committed: BTreeMap<ShardId, Committed> = BTreeMap::new();
    let mut tasks: JoinSet<(u64, ShardEnd)> = JoinSet::new();
    let mut serial = 0;
    let mut changes = true;
    let mut draining = false;
    let mut ends = began;
    let (over, _) = watch::channel(false);
    let mut signalled = false;
    let mut complete = true;
    let mut error: Option<String> = None;
    let mut cause: Option<SourceError> = None;
    let mut failures = 0;
    let mut wait: Option<Instant> = None;
    let mut tick = tokio::time::interval(core.tick_every());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);

    while !(tasks.is_empty() && (draining || !changes)) {
        let mut drain: Option<Duration> = None;
        tokio::select! {
            biased;
            () = shutdown.next() => {
                // the first signal ends no drain, be it one that an error began
                if std::mem::replace(&mut signalled, true) {
                    tracing::warn!(target: "streambreaker::drain", processor = %core.name, "the drain is ended");
                    for shard in owned.values() {
                        let _ = shard.commands.send(Command::Drain(Duration::ZERO));
                    }
                    over.send_replace(true);
                } else {
                    tracing::info!(target: "streambreaker::drain", processor = %core.name, "the drain begins");
                    drain = Some(core.drain);
                }
            }
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                Ok((id, end)) => {
                    owned.remove(&id);
                    complete &= end.complete || !draining;
                    if let Some(fatal) = end.fatal {
                        if error.is_none() {
                            error = Some(fatal);
                            cause = end.cause;
                        }
                        drain = Some(core.drain);
                    }
                }
                Err(panic) => {
                    core.died();
                    tracing::error!(
                        target: "streambreaker::lane", processor = %core.name, cancelled = panic.is_cancelled(),
                        "the task of a shard died",
                    );
                    error.get_or_insert_with(|| "the task of a shard died".to_owned());
                    complete = false;
                    drain = Some(core.drain);
                }
            },
            change = next(&mut source, wait), if changes => match change {
                Ok(None) => {
                    changes = false;
                    if !draining {
                        run.enter(Phase::Running);
                    }
                }
                Ok(Some(Change::Assigned { shard: id, reader, acker })) => {
                    failures = 0;
                    wait = None;
                    // given anew without having been taken: what ran before is not ours any more
                    for old in owned.values().filter(|old| old.id == id) {
                        let _ = old.commands.send(Command::Lost);
                        if let Some(old) = old.shard.upgrade() {
                            old.disown();
                        }
                    }
                    serial += 1;
                    if draining {
                        // among the others, so that it does not outlive the run, nor the limit of the drain
                        let left = ends.saturating_duration_since(Instant::now());
                        let (serial, limit) = (serial, core.commit.timeout.min(left));
                        let mut over = over.subscribe();
                        tasks.spawn(async move {
                            tokio::select! {
                                biased;
                                _ = release(acker, limit) => {}
                                _ = over.wait_for(|over| *over) => {}
                            }
                            (serial, ShardEnd { complete: true, ..ShardEnd::default() })
                        });
                        continue;
                    }
                    let id_of_task = serial;
                    let (commands, told) = mpsc::unbounded_channel();
                    let (shard, lanes) = Shard::new(
                        &core,
                        caps.clone(),
                        id.clone(),
                        None,
                        None,
                        committed.entry(id.clone()).or_default().clone(),
                    );
                    core.join(&shard);
                    run.enter(Phase::Running);
                    tracing::info!(
                        target: "streambreaker::lane",
                        processor = %core.name,
                        messaging.system = caps.system,
                        messaging.destination.name = %caps.stream,
                        messaging.destination.partition.id = %id,
                        "a shard is assigned",
                    );
                    owned.insert(serial, Owned { id, shard: Arc::downgrade(&shard), commands });
                    tasks.spawn(async move {
                        (id_of_task, run_shard(shard, lanes, reader, acker, told).await)
                    });
                }
                Ok(Some(Change::Revoking { shard: id, grace })) => {
                    tracing::info!(
                        target: "streambreaker::lane",
                        processor = %core.name,
                        messaging.destination.name = %caps.stream,
                        messaging.destination.partition.id = %id,
                        ?grace,
                        "a shard is revoked",
                    );
                    for shard in owned.values().filter(|shard| shard.id == id) {
                        let _ = shard.commands.send(Command::Drain(grace));
                    }
                }
                Ok(Some(Change::Lost { shard: id })) => {
                    tracing::warn!(
                        target: "streambreaker::lane",
                        processor = %core.name,
                        messaging.destination.name = %caps.stream,
                        messaging.destination.partition.id = %id,
                        "a shard is lost",
                    );
                    for shard in owned.values().filter(|shard| shard.id == id) {
                        let _ = shard.commands.send(Command::Lost);
                    }
                }
                Err(e @ SourceError::Fatal(_)) => {
                    core.note_source_error(&caps.stream, None, &e);
                    if error.is_none() {
                        error = Some(e.to_string());
                        cause = Some(e);
                    }
                    changes = false;
                    drain = Some(core.drain);
                }
                Err(e) => {
                    core.note_source_error(&caps.stream, None, &e);
                    failures += 1;
                    let delay = backoff.delay(failures, &core.random).unwrap_or_default();
                    wait = Some(Instant::now() + delay.max(Duration::from_millis(1)));
                }
            },
            _ = tick.tick() => core.tick(),
        }
        if let Some(limit) = drain {
            if !draining {
                draining = true;
                ends = Instant::now() + limit;
                run.enter(Phase::Draining);
                for shard in owned.values() {
                    let _ = shard.commands.send(Command::Drain(limit));
                }
            }
        }
    }
    drop(run);
    core.tick();
    let mut report = core.report(began.elapsed());
    report.drained = complete;
    report.stopped = signalled;
    report.error = error;
    (report, cause)
}

/// The next change, not before `wait`.
async fn next(
    source: &mut BoxSource,
    wait: Option<Instant>,
) -> Result<Option<BoxChange>, SourceError> {
    if let Some(wait) = wait {
        tokio::time::sleep_until(wait).await;
    }
    source.next().await
}
