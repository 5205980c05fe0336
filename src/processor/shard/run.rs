//! The life of a shard, and its end in a fixed order: reader, end of input, flow, publisher, commit, release, all
//! under one limit.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::Shard;
use crate::clock::FAR;
use crate::fault::publish;
use crate::processor::commit::{CommitEnd, commit_loop};
use crate::processor::lane::{LaneEnd, LaneTask};
use crate::record::Record;
use crate::settle::{Fate, Flag};
use crate::source::{Acker, Reader, SourceError};

/// What a shard is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Stop reading, settle, commit, release, within this time.
    Drain(Duration),
    /// It is gone: cancel, commit nothing, fault nothing.
    Lost,
}

/// How a shard ended.
#[derive(Debug, Default)]
pub(crate) struct ShardEnd {
    /// Everything that was read is settled or returned, stored and committed.
    pub(crate) complete: bool,
    /// The processor must end: the class or type of what went wrong.
    pub(crate) fatal: Option<String>,
    /// What the source said, where it was the source.
    pub(crate) cause: Option<SourceError>,
    /// What became of each record, where that was asked for.
    pub(crate) outcomes: Vec<(Record, Fate)>,
    /// The ids of the faults that were stored, where that was asked for.
    pub(crate) faults: Vec<Uuid>,
}

/// Aborts a task when it is dropped.
struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Part of the limit of a drain that is kept for the last commit and the release.
fn reserve(limit: Duration) -> Duration {
    (limit / 5).min(Duration::from_secs(2))
}

/// Runs a shard until it ends or is taken away.
///
/// # Cancel safety
/// Dropping it cancels everything; nothing is committed any more.
pub(crate) async fn run_shard(
    shard: Arc<Shard>,
    tasks: Vec<LaneTask>,
    reader: Box<dyn Reader>,
    acker: Box<dyn Acker>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> ShardEnd {
    let core = shard.core.clone();
    let mut end = ShardEnd::default();
    let mut lanes = JoinSet::new();
    for task in tasks {
        lanes.spawn(task.run());
    }
    let mut publisher = Task(tokio::spawn(publish(shard.faults.clone(), core.desk.clone())));
    let (finish, finishing) = watch::channel(false);
    let mut committing = Box::pin(commit_loop(shard.clone(), acker, finishing));
    let mut reading: Option<BoxFuture<'_, Result<(), SourceError>>> =
        Some(Box::pin(shard.read_loop(reader)));
    let mut limit: Option<(Instant, Duration)> = None;
    let mut publishing = true;
    let mut last: Option<CommitEnd> = None;
    let mut lost = false;
    let mut closed = false;
    let mut told = true;

    while last.is_none() && !lost {
        if reading.is_none() && lanes.is_empty() && !closed {
            closed = true;
            shard.faults.close();
        }
        let drained = limit.map(|(at, _)| at);
        let mut drain = None;
        tokio::select! {
            biased;
            command = commands.recv(), if told => match command {
                Some(Command::Drain(within)) => drain = Some(within),
                Some(Command::Lost) => lost = true,
                None => {
                    told = false;
                    drain = Some(Duration::ZERO);
                }
            },
            () = at(drained) => break,
            commit = &mut committing => last = Some(commit),
            read = async { match reading.as_mut() {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            } } => {
                reading = None;
                shard.close_inputs();
                if let Err(error) = read {
                    core.note_source_error(&shard.stream, Some(&shard.id), &error);
                    end.fatal = Some(error.to_string());
                    end.cause = Some(error);
                    drain = Some(core.drain);
                }
            }
            Some(lane) = lanes.join_next(), if !lanes.is_empty() => match lane {
                Ok(LaneEnd::Ended | LaneEnd::Lost) => {}
                Ok(LaneEnd::Broken) => {
                    end.fatal = Some("the function of a pipeline panicked".to_owned());
                    drain = Some(core.drain);
                }
                Err(panic) => {
                    core.died();
                    tracing::error!(
                        target: "streambreaker::lane",
                        processor = %core.name,
                        messaging.destination.name = %shard.stream,
                        messaging.destination.partition.id = %shard.id,
                        cancelled = panic.is_cancelled(),
                        "the task of a lane died",
                    );
                    end.fatal = Some("the task of a lane died".to_owned());
                    drain = Some(core.drain);
                }
            },
            published = &mut publisher.0, if publishing => {
                publishing = false;
                // it ends only when the list is closed: else nobody would store faults any more
                if published.is_err() || !closed {
                    core.died();
                    end.fatal = Some("the publisher of faults died".to_owned());
                    break;
                }
                let _ = finish.send(true);
            }
        }
        if let Some(within) = drain {
            // what a broker grants may be as good as for ever
            let within = within.min(FAR);
            let until = Instant::now() + within.saturating_sub(reserve(within));
            // a second limit only shortens the first
            if limit.is_none_or(|(at, _)| until < at) {
                limit = Some((until, reserve(within)));
            }
            reading = None;
            shard.raise(Flag::FINAL | Flag::DRAINING);
            shard.close_inputs();
            core.gate.look();
        }
    }
    drop(reading);
    let fenced = matches!(last, Some(CommitEnd::Fenced));
    lost |= fenced;
    shard.raise(if lost { Flag::LOST | Flag::CLOSING } else { Flag::CLOSING | Flag::DRAINING });
    shard.close_inputs();
    let cut = !lanes.is_empty() || publishing;
    lanes.shutdown().await;
    if publishing {
        publisher.0.abort();
        let _ = (&mut publisher.0).await;
    }
    if last.is_none() && !lost {
        // over the limit: what is settled is committed all the same, what is unfinished is not
        let _ = finish.send(true);
        let left = limit.map_or(Duration::ZERO, |(_, reserve)| reserve);
        last = tokio::time::timeout(left, &mut committing).await.ok();
    }
    drop(committing);
    end.complete = !lost && !cut && matches!(last, Some(CommitEnd::Finished { released: true }));
    core.gate.look();
    {
        let mut tracker = shard.tracker();
        tracker.close(&mut shard.history());
        end.outcomes = tracker.take_outcomes();
        end.faults = shard.faults.take_stored();
    }
    core.note_unconfirmed(shard.faults.unconfirmed());
    shard.note_in_flight();
    if fenced {
        tracing::warn!(
            target: "streambreaker::lane",
            processor = %core.name,
            messaging.destination.name = %shard.stream,
            messaging.destination.partition.id = %shard.id,
            "fenced: the shard belongs to another owner; its work is cancelled",
        );
    }
    end
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
