//! What a lane, its units, its shard and its stages share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::task::AtomicWaker;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::StageConfig;
use crate::error::Class;
use crate::fault::{FaultList, Floodgate};
use crate::minutely::Minutely;
use crate::record::ShardId;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// What happens to a lane, as bits of one word, so that a stage asks with one load.
pub(crate) struct Flag;

impl Flag {
    /// A unit was returned: nothing new begins, what runs goes on to its end, then the flow is built anew.
    pub(crate) const HALTED: u32 = 1;
    /// A unit ended in a fatal error: the flow is dropped at once.
    pub(crate) const FATAL: u32 = 1 << 1;
    /// The reader stands at its limit: stages that hold units close their oldest.
    pub(crate) const PRESSURE: u32 = 1 << 2;
    /// An operator paused the pipeline: the input yields nothing.
    pub(crate) const PAUSED: u32 = 1 << 3;
    /// The flow is being dropped: units that go with it were not dropped by user code.
    pub(crate) const CLOSING: u32 = 1 << 4;
    /// A return is final: the source takes it back, or the lane drains.
    pub(crate) const FINAL: u32 = 1 << 5;
    /// The lane drains: what could wait without end is returned instead.
    pub(crate) const DRAINING: u32 = 1 << 6;
    /// The reader stands at its limit: a lane that has nothing more to do tells of every settled record, not
    /// only of settled batches.
    pub(crate) const WANTED: u32 = 1 << 7;
    /// The shard is gone: nothing may be faulted or settled any more.
    pub(crate) const LOST: u32 = 1 << 8;
    /// The lane waits before it is built anew.
    pub(crate) const RESTING: u32 = 1 << 9;
    /// An operator wants a record skipped: the gate is asked of every record.
    pub(crate) const SKIPPING: u32 = 1 << 10;
    /// The source acknowledges one by one: a returned record goes back to it, and the lane goes on.
    pub(crate) const EACH: u32 = 1 << 11;
    /// There was a batch with a deadline: a unit has to be asked for its own.
    pub(crate) const TIMED: u32 = 1 << 12;
    /// All that was read has been fed: the lane has nothing more to do but what it is at.
    pub(crate) const HUNGRY: u32 = 1 << 13;
}

/// One stage of a pipeline, as its builder described it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StageInfo {
    pub(crate) name: String,
    pub(crate) resource: Option<String>,
}

/// What all lanes of one pipeline share.
pub(crate) struct PipelineInfo {
    pub(crate) name: String,
    /// Its place among all pipelines of the processor.
    pub(crate) index: usize,
    pub(crate) processor: String,
    /// Names that it had before: a fault that names one of them is this pipeline's.
    pub(crate) formerly: Vec<String>,
    pub(crate) stages: OnceLock<Vec<StageInfo>>,
    /// What the configuration says of each stage; not yet known while the stages are first named.
    pub(crate) settings: OnceLock<Vec<StageConfig>>,
    pub(crate) flood: Floodgate,
    /// How often a lane of it was built anew.
    pub(crate) restarts: AtomicU64,
    /// Whether an operator paused it: also lanes that begin later yield nothing.
    pub(crate) paused: AtomicBool,
    pub(crate) lines: Lines,
}

/// What a pipeline says in the log, over all its shards, at most once a minute each.
#[derive(Default)]
pub(crate) struct Lines {
    /// A lane is built anew.
    pub(crate) restart: Minutely,
    /// A step ended before its input.
    pub(crate) short: Minutely,
    /// User code panicked outside of any call for a unit.
    pub(crate) panic: Minutely,
    /// A unit ended in a fatal error.
    pub(crate) fatal: Minutely,
    /// A unit was dropped undecided.
    pub(crate) dropped: Minutely,
    /// A fault about a fault about a fault.
    pub(crate) deep: Minutely,
    /// The sink noted what makes no sense.
    pub(crate) strays: Minutely,
}

impl PipelineInfo {
    /// Whether it has this name, or had it.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.formerly.iter().any(|old| old == name)
    }

    pub(crate) fn stage(&self, id: u16) -> StageInfo {
        self.stages
            .get()
            .and_then(|all| all.get(usize::from(id)))
            .cloned()
            .unwrap_or_else(|| StageInfo { name: format!("stage-{id}"), resource: None })
    }
}

/// What a unit waits for, or a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitsFor {
    /// A handler works on it, or it is held by a stage (a group that is not full).
    Handler,
    /// A backoff before the next attempt.
    Retry,
    /// A permit of a resource.
    Permit,
    /// The rate of a resource.
    Rate,
    /// A circuit that is open, and pauses.
    Breaker,
    /// The fault sink.
    Faults,
    /// Another pipeline, which holds the shard at its in-flight limit.
    Pipeline,
    /// The source, which takes no commit: as much is settled and not committed as may be.
    Commit,
    /// The wait before the lane is built anew.
    Restart,
    /// An operator, who paused the pipeline.
    Operator,
    /// The source: there is nothing to do.
    Source,
}

impl WaitsFor {
    /// All of them.
    pub(crate) const ALL: [WaitsFor; 11] = [
        WaitsFor::Handler,
        WaitsFor::Retry,
        WaitsFor::Permit,
        WaitsFor::Rate,
        WaitsFor::Breaker,
        WaitsFor::Faults,
        WaitsFor::Pipeline,
        WaitsFor::Commit,
        WaitsFor::Restart,
        WaitsFor::Operator,
        WaitsFor::Source,
    ];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            WaitsFor::Handler => "handler",
            WaitsFor::Retry => "retry",
            WaitsFor::Permit => "permit",
            WaitsFor::Rate => "rate",
            WaitsFor::Breaker => "breaker",
            WaitsFor::Faults => "faults",
            WaitsFor::Pipeline => "pipeline",
            WaitsFor::Commit => "commit",
            WaitsFor::Restart => "restart",
            WaitsFor::Operator => "operator",
            WaitsFor::Source => "source",
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record of a lane: its batch's address and its index. Only compared, never followed.
pub(crate) type Place = (usize, u32);

/// Notes for as long as it lives that a unit waits.
pub(crate) struct Waiting<'a> {
    lane: &'a LaneState,
    what: Option<(Place, WaitsFor)>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(what) = self.what else { return };
        let mut waits = self.lane.waits();
        if let Some(units) = waits.get_mut(&what) {
            *units -= 1;
            if *units == 0 {
                waits.remove(&what);
            }
        }
    }
}

/// When a turn of a lane began: nanoseconds after the lane itself did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// Shared state of one lane.
pub(crate) struct LaneState {
    pub(crate) pipeline: Arc<PipelineInfo>,
    pub(crate) stream: Arc<str>,
    pub(crate) shard: ShardId,
    pub(crate) faults: Arc<FaultList>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Wakes the lane's task.
    pub(crate) waker: AtomicWaker,
    /// Wakes the shard's task.
    shard_signal: Arc<Notify>,
    flags: AtomicU32,
    epoch: AtomicU32,
    /// Nanoseconds after `origin` at which the present turn of the lane's task began; 0 is not yet known.
    turn: AtomicU64,
    origin: Instant,
    late: AtomicU64,
    restarts: AtomicU64,
    /// When it began to feed again what is not settled, as `turn`.
    fed_again: AtomicU64,
    last_class: Mutex<Option<Class>>,
    /// How many units wait for what, by their first record: several where it was split. Written on slow paths only.
    waits: Mutex<BTreeMap<(Place, WaitsFor), u64>>,
}

impl LaneState {
    pub(crate) fn new(
        pipeline: Arc<PipelineInfo>,
        stream: Arc<str>,
        shard: ShardId,
        faults: Arc<FaultList>,
        clock: Arc<dyn Clock>,
        shard_signal: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            pipeline,
            stream,
            shard,
            faults,
            clock,
            waker: AtomicWaker::new(),
            shard_signal,
            flags: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            turn: AtomicU64::new(0),
            origin: Instant::now(),
            late: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            fed_again: AtomicU64::new(0),
            last_class: Mutex::new(None),
            waits: Mutex::default(),
        })
    }

    /// Whether any of these flags is up.
    #[inline]
    pub(crate) fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }

    pub(crate) fn raise(&self, flags: u32) {
        if self.flags.fetch_or(flags, Ordering::AcqRel) & flags != flags {
            self.waker.wake();
        }
    }

    pub(crate) fn lower(&self, flags: u32) {
        if self.flags.fetch_and(!flags, Ordering::AcqRel) & flags != 0 {
            self.waker.wake();
        }
    }

    /// Whether the shard waits for every single record: its reader stands at its limit, and the lane has nothing
    /// more to do. As long as it has, it tells of settled batches alone: that is soon enough to read on.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        const BOTH: u32 = Flag::WANTED | Flag::HUNGRY;
        self.flags.load(Ordering::Acquire) & BOTH == BOTH
    }

    /// All that was read has been fed.
    pub(crate) fn went_hungry(&self) {
        let before = self.flags.fetch_or(Flag::HUNGRY, Ordering::AcqRel);
        if before & Flag::HUNGRY == 0 && before & Flag::WANTED != 0 {
            // what has been settled until now may not have been told
            self.settled();
        }
    }

    /// There is more to be fed.
    pub(crate) fn was_fed(&self) {
        self.flags.fetch_and(!Flag::HUNGRY, Ordering::AcqRel);
    }

    /// The moment at which the present turn of the lane's task began, or its first use in it: coarse, and
    /// read once a turn.
    pub(crate) fn now(&self) -> Instant {
        self.instant(self.turn())
    }

    /// The same as a number, which is cheaper to keep and to compare.
    #[inline]
    pub(crate) fn turn(&self) -> Turn {
        match self.turn.load(Ordering::Relaxed) {
            0 => self.read_clock(),
            turn => Turn(turn),
        }
    }

    /// The moment at which a turn of this lane began.
    pub(crate) fn instant(&self, turn: Turn) -> Instant {
        self.origin + Duration::from_nanos(turn.0)
    }

    /// A moment as the number of a turn.
    pub(crate) fn at(&self, moment: Instant) -> Turn {
        let nanos = moment.saturating_duration_since(self.origin).as_nanos();
        Turn(u64::try_from(nanos).unwrap_or(u64::MAX).max(1))
    }

    #[cold]
    fn read_clock(&self) -> Turn {
        let turn = self.at(Instant::now());
        self.turn.store(turn.0, Ordering::Relaxed);
        turn
    }

    /// A new turn begins.
    #[inline]
    pub(crate) fn begin_turn(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }

    /// A unit was returned.
    pub(crate) fn halt(&self) {
        self.raise(Flag::HALTED);
        self.shard_signal.notify_one();
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Begins the next epoch: units of the flow before change nothing any more.
    pub(crate) fn next_epoch(&self) -> u32 {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.pipeline.restarts.fetch_add(1, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// What is not settled is fed again from now on.
    pub(crate) fn feeds_again(&self) {
        self.fed_again.store(self.at(Instant::now()).0, Ordering::Release);
    }

    /// When it began to do so last.
    pub(crate) fn fed_again(&self) -> Option<Instant> {
        let at = self.fed_again.load(Ordering::Acquire);
        (at > 0).then(|| self.instant(Turn(at)))
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn note_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Something was settled: the shard may commit, and read on.
    pub(crate) fn settled(&self) {
        self.shard_signal.notify_one();
    }

    pub(crate) fn note_class(&self, class: Class) {
        *self.last_class.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(class);
    }

    fn waits(&self) -> MutexGuard<'_, BTreeMap<(Place, WaitsFor), u64>> {
        self.waits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes what a unit waits for, until the note is dropped.
    pub(crate) fn waiting(&self, place: Option<Place>, what: WaitsFor) -> Waiting<'_> {
        let what = place.map(|place| (place, what));
        if let Some(what) = what {
            *self.waits().entry(what).or_insert(0) += 1;
        }
        Waiting { lane: self, what }
    }

    /// What the unit that begins with this record waits for; one of them, where it was split.
    pub(crate) fn waits_for(&self, place: Place) -> Option<WaitsFor> {
        let waits = self.waits();
        waits
            .range((place, WaitsFor::Handler)..=(place, WaitsFor::Source))
            .next()
            .map(|((_, what), _)| *what)
    }

    /// How many units wait for what.
    pub(crate) fn waiting_units(&self) -> BTreeMap<WaitsFor, u64> {
        let mut counts = BTreeMap::new();
        for ((_, what), units) in &*self.waits() {
            *counts.entry(*what).or_insert(0) += units;
        }
        counts
    }

    pub(crate) fn last_class(&self) -> Option<Class> {
        *self.last_class.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for LaneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({}, {}/{})", self.pipeline.name, self.stream, self.shard)
    }
}
