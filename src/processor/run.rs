//! Runs a source to its end, or until told to stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::core::Core;
use super::shard::{Command, Shard, ShardEnd, run_shard};
use super::shutdown::Shutdown;
use crate::record::ShardId;
use crate::settle::Report;
use crate::source::{BoxSource, Change, Source, SourceError};

/// A shard that this process owns, or is giving up.
struct Owned {
    shard: ShardId,
    commands: mpsc::UnboundedSender<Command>,
}

/// Drives the source; the report says why it ended.
pub(crate) async fn run_source(
    core: Arc<Core>,
    mut source: BoxSource,
    mut shutdown: Shutdown,
) -> (Report, Option<SourceError>) {
    let began = Instant::now();
    let caps = source.caps();
    let backoff = core.source_backoff();
    let mut owned: BTreeMap<u64, Owned> = BTreeMap::new();
    let mut tasks: JoinSet<(u64, ShardEnd)> = JoinSet::new();
    let mut serial = 0;
    let mut changes = true;
    let mut draining = false;
    let mut complete = true;
    let mut error: Option<String> = None;
    let mut cause: Option<SourceError> = None;
    let mut stopped = false;
    let mut failures = 0;
    let mut wait: Option<Instant> = None;
    let mut tick = tokio::time::interval(core.commit.every.max(Duration::from_millis(100)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);

    while !(tasks.is_empty() && (draining || !changes)) {
        let mut drain: Option<Duration> = None;
        tokio::select! {
            biased;
            () = shutdown.next() => {
                stopped = true;
                if draining {
                    tracing::warn!(target: "streambreaker::drain", processor = %core.name, "the drain is ended");
                    for shard in owned.values() {
                        let _ = shard.commands.send(Command::Drain(Duration::ZERO));
                    }
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
                Ok(None) => changes = false,
                Ok(Some(Change::Assigned { shard: id, reader, acker })) => {
                    failures = 0;
                    wait = None;
                    // given anew without having been taken: what ran before is not ours any more
                    for old in owned.values().filter(|old| old.shard == id) {
                        let _ = old.commands.send(Command::Lost);
                    }
                    if draining {
                        tokio::spawn(async move { acker.release().await });
                        continue;
                    }
                    serial += 1;
                    let id_of_task = serial;
                    let (commands, told) = mpsc::unbounded_channel();
                    let (shard, lanes) = Shard::new(&core, caps.clone(), id.clone(), None, false);
                    core.join(&shard);
                    tracing::info!(
                        target: "streambreaker::lane", processor = %core.name, stream = %caps.stream, shard = %id,
                        "a shard is assigned",
                    );
                    owned.insert(serial, Owned { shard: id, commands });
                    tasks.spawn(async move {
                        (id_of_task, run_shard(shard, lanes, reader, acker, told).await)
                    });
                }
                Ok(Some(Change::Revoking { shard: id, grace })) => {
                    tracing::info!(
                        target: "streambreaker::lane", processor = %core.name, shard = %id, ?grace,
                        "a shard is revoked",
                    );
                    for shard in owned.values().filter(|shard| shard.shard == id) {
                        let _ = shard.commands.send(Command::Drain(grace));
                    }
                }
                Ok(Some(Change::Lost { shard: id })) => {
                    tracing::warn!(
                        target: "streambreaker::lane", processor = %core.name, shard = %id,
                        "a shard is lost",
                    );
                    for shard in owned.values().filter(|shard| shard.shard == id) {
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
                for shard in owned.values() {
                    let _ = shard.commands.send(Command::Drain(limit));
                }
            }
        }
    }
    core.tick();
    let mut report = core.report(began.elapsed());
    report.drained = complete;
    report.stopped = stopped;
    report.error = error;
    (report, cause)
}

/// The next change, not before `wait`.
fn next(
    source: &mut BoxSource,
    wait: Option<Instant>,
) -> impl Future<
    Output = Result<
        Option<Change<Box<dyn crate::source::Reader>, Box<dyn crate::source::Acker>>>,
        SourceError,
    >,
> {
    async move {
        if let Some(wait) = wait {
            tokio::time::sleep_until(wait).await;
        }
        source.next().await
    }
}
