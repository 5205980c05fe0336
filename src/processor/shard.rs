//! One shard while this process owns it: its reader, its lanes, its publisher, its commits.
//!
//! Reader and acker work side by side, so a commit never interrupts a read. What they share is here; `read` fills
//! it, `run` sees to its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

pub(crate) use self::run::{Command, ShardEnd, run_shard};
use super::core::{Core, InFlight, Reading};
use super::gate::GateKeeper;
use super::lane::LaneTask;
use crate::clock::FAR;
use crate::fault::FaultList;
use crate::flow::Feed;
use crate::record::{Delivery, Position, Record, ShardId, Timestamp};
use crate::settle::{Flag, History, LaneBatch, LaneState, Standing, Tracker, WaitsFor};
use crate::source::{Ack, Acknowledge, Behind, Caps};

mod read;
mod run;

/// Records that are remembered as given back.
const MOST_GIVEN_BACK: usize = 100_000;

/// A shard that is one finite batch: what became of each record is kept, and a return is final.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finite {
    /// By when it must be over.
    pub(crate) until: Option<Instant>,
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
    /// Settled records that the source has not confirmed to have heard of.
    unheard: AtomicU64,
    /// A record that was read and waits until there is room for it.
    held_back: Mutex<Option<Position>>,
    /// Records that were given back to a source that acknowledges one by one, and have not come again: when they
    /// arrived, and, once the source has heard of it, until when they are waited for. Somebody else may get them.
    given_back: Mutex<BTreeMap<Position, (Timestamp, Option<Instant>)>>,
    tracker: Mutex<Tracker>,
    /// Known with the first records, which say what they are delivered for.
    history: OnceLock<(Reading, Arc<Mutex<History>>)>,
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
    /// When the shard was assigned.
    began: Instant,
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
                finite: finite.is_some(),
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
                    Box::new(move |batch, index, epoch, unreadable, cx| {
                        asked.ask(batch, index, epoch, unreadable, cx)
                    }),
                ),
                random: core.random.clone(),
                patience: pipeline.patience,
            });
            lanes.push(ShardLane { state, feed: Mutex::new(Some(feed)), keeper });
        }
        let shard = Arc::new(Self {
            history: OnceLock::new(),
            core: core.clone(),
            caps,
            id,
            stream,
            lanes,
            faults,
            limits: finite.is_none().then_some(core.limits),
            signal,
            room: Notify::new(),
            unheard: AtomicU64::new(0),
            held_back: Mutex::default(),
            given_back: Mutex::default(),
            tracker: Mutex::new(Tracker::new(finite.is_some())),
            progress: Mutex::new(Progress {
                behind: Behind::unknown(),
                began: Instant::now(),
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

    /// Where the record of this position stands.
    pub(crate) fn standing(&self, position: &Position) -> Standing {
        let in_order = self.caps.acknowledge == Acknowledge::Prefix;
        self.tracker().standing(position, in_order)
    }

    /// What has been seen of this shard before. Not to be asked for before there are records: nothing is to be
    /// noted until then, and it would count them as live ones.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history_of(&Delivery::Live)
    }

    /// The same, when the first records come.
    fn history_of(&self, delivery: &Delivery) -> MutexGuard<'_, History> {
        let (_, history) = self.history.get_or_init(|| {
            let reading = self.reading_of(delivery);
            (reading.clone(), self.core.history(reading))
        });
        lock(history)
    }

    fn reading_of(&self, delivery: &Delivery) -> Reading {
        Reading::new(self.stream.clone(), self.id.clone(), self.limits.is_none(), delivery)
    }

    /// As what its records are counted; before there are any, as live ones.
    pub(crate) fn reading(&self) -> Reading {
        let known = self.history.get().map(|(reading, _)| reading.clone());
        known.unwrap_or_else(|| self.reading_of(&Delivery::Live))
    }

    pub(crate) fn committed(&self) -> MutexGuard<'_, Option<Position>> {
        lock(&self.committed)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// How long the oldest record that is not settled has waited, read or not (rule S9).
    pub(crate) fn iterator_age(&self, now: Timestamp) -> Duration {
        let since = |arrival| now.since(arrival);
        let (open, settled) = {
            let tracker = self.tracker();
            (tracker.oldest_arrival().map(since), tracker.prefix_arrival().map(since))
        };
        let open = open.max(self.given_back_arrival().map(since));
        let Progress { behind, last_read, failing, began, .. } = *self.progress();
        let unread = match behind {
            Behind { records: Some(0), .. } if !failing => Some(Duration::ZERO),
            Behind { age: Some(age), .. } => {
                Some(age.saturating_add(last_read.map_or(Duration::ZERO, |at| at.elapsed())))
            }
            _ => None,
        };
        match (open, unread) {
            // what was given back is not read, and older than what was read since
            (Some(open), Some(unread)) if self.caps.acknowledge == Acknowledge::Each => {
                open.max(unread)
            }
            (Some(open), _) => open,
            (None, Some(unread)) => unread,
            // nothing is known of what is left: it is no older than what was settled last; and where nothing was, a
            // shard that cannot be read has waited for as long as we have
            (None, None) if failing => settled.unwrap_or_else(|| began.elapsed()),
            (None, None) => settled.unwrap_or_default(),
        }
    }

    /// A record is to be given back.
    pub(crate) fn note_given_back(&self, record: &Record) {
        let mut given_back = lock(&self.given_back);
        if given_back.len() < MOST_GIVEN_BACK {
            given_back.insert(record.position().clone(), (record.arrival(), None));
        }
    }

    /// The source has heard of what was given back: it comes again after its delay.
    pub(crate) fn note_taken_back(&self, acks: &[(Position, Ack)]) {
        let mut given_back = lock(&self.given_back);
        if given_back.is_empty() {
            return;
        }
        let lease = self.caps.deadline.unwrap_or(Duration::from_secs(60));
        let now = Instant::now();
        for (position, ack) in acks {
            if let (Ack::Again { after }, Some((_, until))) = (ack, given_back.get_mut(position)) {
                *until = Some(now + after.saturating_add(lease).min(FAR));
            }
        }
    }

    /// These came again, or another copy of them was settled: they are not waited for, if they were given back.
    pub(crate) fn note_come_again<'a>(&self, positions: impl Iterator<Item = &'a Position>) {
        let mut given_back = lock(&self.given_back);
        if !given_back.is_empty() {
            for position in positions {
                given_back.remove(position);
            }
        }
    }

    /// When the oldest of those arrived that were given back and will come again.
    fn given_back_arrival(&self) -> Option<Timestamp> {
        let now = Instant::now();
        let mut given_back = lock(&self.given_back);
        given_back.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        given_back.values().map(|(arrival, _)| *arrival).min()
    }

    /// What the source must not give to anybody else meanwhile: what is in flight, and what waits to be.
    pub(crate) fn held(&self) -> Vec<Position> {
        let mut held = self.tracker().held();
        held.extend(lock(&self.held_back).clone());
        held
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

    /// So many settled records are still to be committed, or are on their way.
    pub(crate) fn note_unheard(&self, records: u64) {
        if records < self.unheard.swap(records, Ordering::AcqRel) {
            self.room.notify_one();
        }
    }

    /// Whether nothing more is read before the source has heard of what is settled. Acknowledged one by one each of them
    /// is kept in memory, and all of them are repeated if the process dies: while commits fail, neither must grow without
    /// a bound.
    fn is_unheard(&self, in_flight: usize, limits: InFlight) -> bool {
        let unheard = self.unheard.load(Ordering::Acquire);
        let most = self.core.commit.records.saturating_add(limits.records as u64);
        unheard >= most || (unheard > 0 && self.is_handed_out(in_flight))
    }

    /// Whether the source has handed out all that it does before it hears of some, where it has such a limit.
    pub(crate) fn is_handed_out(&self, in_flight: usize) -> bool {
        let out = self.unheard.load(Ordering::Acquire).saturating_add(in_flight as u64);
        self.caps.unsettled.is_some_and(|theirs| out >= theirs.most)
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
            None if self.progress().full_since.is_none() => WaitsFor::Source,
            None => match self.limits {
                Some(limits) if self.is_unheard(tracker.records_in_flight(), limits) => {
                    WaitsFor::Commit
                }
                _ => WaitsFor::Pipeline,
            },
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
}

impl Drop for Shard {
    /// The run may be dropped at any moment: what it had in flight must not count for ever.
    fn drop(&mut self) {
        self.tracker().give_up(&mut self.history());
        self.note_in_flight();
    }
}
