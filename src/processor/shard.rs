//! One shard while this process owns it: its reader, its lanes, its publisher, its commits.
//!
//! Reader and acker work side by side, so a commit never interrupts a read. Ending goes in a fixed order:
//! reader, end of input, flow, publisher, commit, release, all under one limit.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::commit::{CommitEnd, commit_loop};
use super::core::{Core, InFlight};
use super::gate::GateKeeper;
use super::lane::{LaneEnd, LaneTask};
use crate::fault::{FaultList, publish};
use crate::flow::Feed;
use crate::record::{Position, Record, ShardId, Timestamp};
use crate::settle::{
    Batch, Fate, Flag, History, LaneBatch, LaneState, Tracker, WaitsFor, are_sorted,
};
use crate::source::{Acker, Acknowledge, Behind, Caps, Read, Reader, Room, SourceError};

/// What a shard is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Stop reading, settle, commit, release, within this time.
    Drain(Duration),
    /// It is gone: cancel, commit nothing, fault nothing.
    Lost,
}

/// A shard that is one finite batch: what became of each record is kept, and a return is final.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finite {
    /// By when it must be over.
    pub(crate) until: Option<Instant>,
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

/// One lane, as its shard sees it.
pub(crate) struct ShardLane {
    pub(crate) state: Arc<LaneState>,
    feed: Mutex<Option<mpsc::UnboundedSender<Arc<LaneBatch>>>>,
    keeper: GateKeeper,
}

/// What the parts of a shard share.
pub(crate) struct Shard {
    pub(crate) core: Arc<Core>,
    pub(crate) caps: Caps,
    pub(crate) id: ShardId,
    pub(crate) stream: Arc<str>,
    pub(crate) lanes: Vec<ShardLane>,
    pub(crate) faults: Arc<FaultList>,
    /// Where there is no limit, the records are all in memory already: a finite batch.
    limits: Option<InFlight>,
    /// Something was settled.
    pub(crate) signal: Arc<Notify>,
    /// Something left the tracker.
    room: Notify,
    tracker: Mutex<Tracker>,
    history: Arc<Mutex<History>>,
    progress: Mutex<Progress>,
    /// Up to where this source was committed, in all assignments of this run.
    committed: Committed,
    /// By when all must be over, where whoever gave the records said so: no attempt starts that could not end.
    until: Option<Instant>,
}

/// The highest position that a source's shard was committed to: a checkpoint never goes back, whatever comes
/// again after a rebalance. One a run: a replay of the same stream has a checkpoint of its own.
pub(crate) type Committed = Arc<Mutex<Option<Position>>>;

/// What was last heard of the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) behind: Behind,
    pub(crate) last_read: Option<Instant>,
    pub(crate) failing: bool,
    /// The class of the last error, `transient` or `fatal`, and when it was.
    pub(crate) last_error: Option<(&'static str, Instant)>,
    pub(crate) full_since: Option<Instant>,
    /// A record that may kill the process is in flight: nothing is read ahead of its decision.
    suspect: bool,
    /// What the processor's totals know of this shard.
    counted: (usize, usize),
    /// What was settled when the watchdog last saw progress, and when that was.
    watched: Option<(u64, Instant)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shard {
    /// A shard with a lane for every enabled pipeline, and the tasks of those lanes.
    pub(crate) fn new(
        core: &Arc<Core>,
        caps: Caps,
        id: ShardId,
        only: Option<&str>,
        finite: Option<Finite>,
        committed: Committed,
    ) -> (Arc<Self>, Vec<LaneTask>) {
        let stream: Arc<str> = caps.stream.as_str().into();
        let faults = Arc::new(FaultList::new(finite.is_some()));
        let signal = Arc::new(Notify::new());
        let mut lanes = Vec::new();
        let mut tasks = Vec::new();
        let enabled = core
            .pipelines
            .iter()
            .filter(|p| p.enabled && only.is_none_or(|only| p.info.is_called(only)));
        for pipeline in enabled {
            let state = LaneState::new(
                pipeline.info.clone(),
                stream.clone(),
                id.clone(),
                faults.clone(),
                core.clock.clone(),
                signal.clone(),
            );
            if caps.acknowledge == Acknowledge::Each {
                state.raise(Flag::FINAL | Flag::EACH);
            }
            if pipeline.info.paused.load(Ordering::Acquire) {
                state.raise(Flag::PAUSED);
            }
            let keeper = GateKeeper {
                gate: core.gate.clone(),
                max_deliveries: caps.counts_deliveries.then_some(core.max_deliveries),
                gave_up: false,
            };
            let (feed, more) = mpsc::unbounded_channel();
            let mut asked = keeper.clone();
            tasks.push(LaneTask {
                lane: state.clone(),
                make: pipeline.make.clone(),
                feed: Feed::new(
                    more,
                    Box::new(move |batch, index, epoch, cx| asked.ask(batch, index, epoch, cx)),
                ),
                random: core.random.clone(),
                patience: pipeline.patience,
            });
            lanes.push(ShardLane { state, feed: Mutex::new(Some(feed)), keeper });
        }
        let shard = Arc::new(Self {
            history: core.history(&stream, &id),
            core: core.clone(),
            caps,
            id,
            stream,
            lanes,
            faults,
            limits: finite.is_none().then_some(core.limits),
            signal,
            room: Notify::new(),
            tracker: Mutex::new(Tracker::new(finite.is_some())),
            progress: Mutex::new(Progress {
                behind: Behind::unknown(),
                last_read: None,
                failing: false,
                last_error: None,
                full_since: None,
                suspect: false,
                counted: (0, 0),
                watched: None,
            }),
            committed,
            until: finite.and_then(|finite| finite.until),
        });
        (shard, tasks)
    }

    pub(crate) fn tracker(&self) -> MutexGuard<'_, Tracker> {
        lock(&self.tracker)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(crate) fn committed(&self) -> MutexGuard<'_, Option<Position>> {
        lock(&self.committed)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// How long the oldest record that is not settled has waited, read or not (rule S9).
    pub(crate) fn iterator_age(&self, now: Timestamp) -> Duration {
        let (oldest, settled) = {
            let tracker = self.tracker();
            (tracker.oldest().map(Record::arrival), tracker.prefix_arrival())
        };
        if let Some(arrival) = oldest {
            return now.since(arrival);
        }
        let progress = *self.progress();
        match progress.behind {
            Behind { records: Some(0), .. } if !progress.failing => Duration::ZERO,
            Behind { age: Some(age), .. } => {
                age + progress.last_read.map_or(Duration::ZERO, |at| at.elapsed())
            }
            _ => settled.map_or(Duration::ZERO, |arrival| now.since(arrival)),
        }
    }

    /// Tells the processor's totals, and readers that wait for room, how much is in flight now.
    pub(crate) fn note_in_flight(&self) {
        let now = {
            let tracker = self.tracker();
            (tracker.records_in_flight(), tracker.bytes_in_flight())
        };
        let before = std::mem::replace(&mut self.progress().counted, now);
        self.core.in_flight.change(before, now);
        if now.0 < before.0 || now.1 < before.1 {
            self.room.notify_one();
        }
    }

    /// What the oldest unit of lane `lane` waits for.
    pub(crate) fn waits_for(&self, lane: usize) -> WaitsFor {
        let state = &self.lanes[lane].state;
        if state.has(Flag::RESTING) {
            return WaitsFor::Restart;
        }
        let tracker = self.tracker();
        match tracker.oldest_of(lane) {
            Some((batch, index)) if batch.is_held(index) => WaitsFor::Faults,
            Some((batch, index)) => {
                let place = batch.place(u32::try_from(index).unwrap_or(u32::MAX));
                match state.waits_for(place) {
                    Some(what) => what,
                    None if state.has(Flag::PAUSED) => WaitsFor::Operator,
                    None => WaitsFor::Handler,
                }
            }
            None if self.progress().full_since.is_some() => WaitsFor::Pipeline,
            None => WaitsFor::Source,
        }
    }

    /// The watchdog: whether nothing was settled for `limit` although something is open. Says so once a stall.
    pub(crate) fn watch(&self, settled: u64, open: bool, limit: Duration) -> bool {
        let mut progress = self.progress();
        let now = Instant::now();
        match progress.watched {
            Some((seen, since)) if open && seen == settled => {
                let stalled = now.duration_since(since) >= limit;
                if stalled {
                    // again only after as long once more
                    progress.watched = Some((settled, now));
                }
                stalled
            }
            _ => {
                progress.watched = Some((settled, now));
                false
            }
        }
    }

    /// The shard is somebody else's, or a later assignment's: from this moment on nothing is faulted any more,
    /// and what is in flight counts as returned, before the next owner reads it.
    pub(crate) fn disown(&self) {
        self.raise(Flag::LOST | Flag::CLOSING);
        self.tracker().close(&mut self.history());
        self.note_in_flight();
    }

    fn close_inputs(&self) {
        for lane in &self.lanes {
            lock(&lane.feed).take();
        }
    }

    fn raise(&self, flags: u32) {
        for lane in &self.lanes {
            lane.state.raise(flags);
        }
    }

    /// Waits until there is room for at least one record.
    async fn room(&self) -> Room {
        let Some(limits) = self.limits else {
            return Room { records: usize::MAX, bytes: usize::MAX };
        };
        let mut waited = false;
        loop {
            let own = self.room.notified();
            let all = self.core.in_flight.freed();
            let (records, bytes) = {
                let tracker = self.tracker();
                (tracker.records_in_flight(), tracker.bytes_in_flight())
            };
            let mut free =
                (limits.records.saturating_sub(records), limits.bytes.saturating_sub(bytes));
            if self.progress().suspect {
                if records > 0 {
                    free = (0, 0);
                } else {
                    self.progress().suspect = false;
                }
            }
            // each shard is always granted one batch, or a busy one would starve the others
            if records > 0 {
                let total = self.core.in_flight.free(self.core.total_limits);
                free = (free.0.min(total.0), free.1.min(total.1));
            }
            // reads of a record or two cost as much as large ones: so it waits for some room
            let bound = limits.records.min(self.core.total_limits.records);
            let least = if records > 0 { (bound / 16).max(1) } else { 1 };
            if free.0 >= least && free.1 > 0 {
                if waited {
                    for lane in &self.lanes {
                        lane.state.lower(Flag::PRESSURE | Flag::WANTED);
                    }
                    self.progress().full_since = None;
                }
                // smaller than the limit, so that reading and working overlap
                let most = (limits.records / 4).max(1);
                return Room { records: free.0.min(most), bytes: free.1 };
            }
            if !waited {
                waited = true;
                self.progress().full_since = Some(Instant::now());
                self.raise(Flag::PRESSURE | Flag::WANTED);
                self.signal.notify_one();
            }
            tokio::select! {
                biased;
                () = own => {}
                () = all => {}
            }
        }
    }

    /// Reads until the shard ends; `Err` when it cannot be read any more.
    async fn read_loop(&self, mut reader: Box<dyn Reader>) -> Result<(), SourceError> {
        let backoff = self.core.source_backoff();
        let mut failures = 0;
        loop {
            let room = self.room().await;
            match reader.read(room).await {
                Ok(Read::Records { records, behind }) => {
                    failures = 0;
                    {
                        let mut progress = self.progress();
                        progress.behind = behind;
                        progress.last_read = Some(Instant::now());
                        progress.failing = false;
                    }
                    if records.is_empty() {
                        // a source that answers at once with nothing must not keep the thread
                        tokio::task::yield_now().await;
                    } else {
                        self.ingest(records);
                    }
                }
                Ok(Read::Gap { from, to }) => {
                    self.core.note_gap(self, &from, &to);
                }
                Ok(Read::End) => {
                    let mut progress = self.progress();
                    progress.behind = Behind::records(0);
                    progress.failing = false;
                    return Ok(());
                }
                Err(error @ SourceError::Fatal(_)) => return Err(error),
                Err(error) => {
                    failures += 1;
                    {
                        let mut progress = self.progress();
                        progress.failing = true;
                        progress.last_error = Some(("transient", Instant::now()));
                    }
                    self.core.note_source_error(&self.stream, Some(&self.id), &error);
                    let wait = backoff.delay(failures, &self.core.random).unwrap_or_default();
                    tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
                }
            }
        }
    }

    /// Hands a batch to all lanes.
    fn ingest(&self, records: Vec<Record>) {
        let own = match (self.core.deadline, self.caps.deadline, self.caps.extends) {
            (Some(own), _, _) => Some(Instant::now() + own),
            (None, Some(theirs), false) => Some(Instant::now() + theirs),
            _ => None,
        };
        let deadline = own.into_iter().chain(self.until).min();
        self.core.note_passed_by(&self.id, &records);
        // a finite batch says nothing of what its host gave before
        let ordered = self.caps.acknowledge == Acknowledge::Prefix && self.limits.is_some();
        let (lanes, suspect) = {
            let mut tracker = self.tracker();
            if tracker.is_closed() {
                return;
            }
            let mut history = self.history();
            let sorted = are_sorted(&records);
            let counts: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| history.reading(lane.state.pipeline.index, &records, ordered, sorted))
                .collect();
            let (gated, suspect) = self
                .lanes
                .first()
                .map_or((false, false), |lane| lane.keeper.concerns(&records, &counts));
            let batch = Batch::new(records, self.core.envelope.clone(), deadline, gated);
            let lanes: Vec<_> = self
                .lanes
                .iter()
                .zip(counts)
                .map(|(lane, counts)| {
                    let own = LaneBatch::new(batch.clone(), lane.state.clone(), counts);
                    for (index, times) in history.given_back(&batch.records) {
                        own.returned_before(index, times);
                    }
                    own
                })
                .collect();
            tracker.push(batch, lanes.clone());
            (lanes, suspect)
        };
        if suspect {
            self.progress().suspect = true;
        }
        self.note_in_flight();
        // from now on somebody has to look in time, and without lanes at once
        self.signal.notify_one();
        for (lane, batch) in self.lanes.iter().zip(lanes) {
            if let Some(feed) = &*lock(&lane.feed) {
                // the lane is gone only if the shard is on its way out
                let _ = feed.send(batch);
            }
        }
    }
}

impl Drop for Shard {
    /// The run may be dropped at any moment: what it had in flight must not count for ever.
    fn drop(&mut self) {
        self.tracker().give_up(&mut self.history());
        self.note_in_flight();
    }
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
                        stream = %shard.stream, shard = %shard.id, cancelled = panic.is_cancelled(),
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
            // a second limit only shortens the first
            let until = Instant::now() + within.saturating_sub(reserve(within));
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
            stream = %shard.stream, shard = %shard.id,
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
