//! The replay: a source that yields what the stream yielded.
//!
//! One decision shaped this module: a replay is an ordinary source of an ordinary processor. So a replayed record goes
//! through the very same pipelines and guards as a live one (rule L9), and a component needs no code for it. It has a
//! cursor of its own, in the lake, and never sees the live checkpoint.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use streambreaker::source::{
    Acker, Acknowledge, Behind, Caps, Change, CommitError, Read, Reader, Room, Settled, Source,
    SourceError,
};
use streambreaker::{Delivery, Position, ShardId};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::LakeError;
use crate::lake::Lake;
use crate::manifest::{Manifest, ManifestEntry};
use crate::name::shard_folder;
use crate::read::{Counts, Progress, ShardRecords};
use crate::schema::Footer;
use crate::select::{Selection, behind};

/// What a dry run found: nothing was sent anywhere, and nothing written.
pub type DryRun = Counts;

/// Records of the lake as a [`Source`]: the original ones, byte for byte, in the order of their positions in each shard,
/// marked [`Delivery::Replay`].
///
/// ```
/// use streambreaker::prelude::*;
/// use streambreaker::{Processor, Shutdown, memory};
/// use streambreaker_lake::{Lake, LakeWriter, Selection};
/// # use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let lake = Lake::local(&folder)?;
/// # let store = Resource::builder("lake").timeout(Duration::from_secs(30)).build()?;
/// # Processor::builder("lake-writer")
/// #     .source(memory::stream([r#"{"type":"order","n":1}"#, r#"{"type":"invoice","n":2}"#, r#"{"type":"order","n":3}"#]))
/// #     .faults(memory::faults())
/// #     .pipeline("store", LakeWriter::new(&lake).pipeline(&store))
/// #     .build()?
/// #     .run(Shutdown::never()).await?;
/// #[derive(serde::Deserialize)]
/// struct Order {
///     n: u64,
/// }
///
/// let processor = Processor::builder("totals")
///     .faults(memory::faults())
///     .pipeline("orders", |flow| flow.of_type("order").json::<Order>().filter(|order| order.n > 0))
///     .build()?;
///
/// let orders = Selection::of("memory").kind("order");
/// assert_eq!(lake.dry_run(&orders).await?.records, 2); // look before you send
/// let report = processor.run_from(lake.replay(orders), Shutdown::never()).await?;
/// assert_eq!(report.pipelines["orders"].done, 2);
/// # Ok(())
/// # }
/// ```
///
/// # One pipeline
/// A processor that is to replay into some of its pipelines only is built with
/// [`enable`](streambreaker::ProcessorBuilder::enable).
///
/// # Effects
/// `publish` is muted in a replay, and every `bulk_write` that says `on_replay(OnReplay::Mute)`; a step of another kind
/// that must not happen again stands behind a [`not_in_replay`](streambreaker::Flow::not_in_replay).
///
/// # What cannot be read
/// It is skipped and reported: in a warning, in [`Progress`], and, where it is known that there were records, as a gap in the
/// report of the run. So is what is missing of the selection, as far as its neighbours or a stored manifest tell.
#[must_use = "a source does nothing unless it is read from"]
pub struct LakeSource {
    replay: Replay,
    /// It is kept, because whoever asks for a change may stop asking, again and again: a look at many objects that began
    /// anew each time would never end.
    opening: Option<BoxFuture<'static, Result<Shards, LakeError>>>,
    shards: Option<Shards>,
}

type Shards = VecDeque<(ShardId, LakeReader, LakeAcker)>;

/// What is replayed, and how.
#[derive(Clone)]
struct Replay {
    lake: Lake,
    selection: Arc<Selection>,
    run: Uuid,
    resumable: bool,
    target: String,
    pace: Arc<Pace>,
    progress: Progress,
}

impl fmt::Debug for LakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeSource")
            .field("selection", &self.replay.selection)
            .field("run", &self.replay.run)
            .finish_non_exhaustive()
    }
}

impl Lake {
    /// Replays what is selected, at full speed, from the beginning.
    pub fn replay(&self, selection: Selection) -> LakeSource {
        let replay = Replay {
            lake: self.clone(),
            selection: Arc::new(selection),
            run: Uuid::new_v4(),
            resumable: false,
            target: String::new(),
            pace: Arc::default(),
            progress: Progress::default(),
        };
        LakeSource { replay, opening: None, shards: None }
    }

    /// Reads what is selected, and says how much it is.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn dry_run(&self, selection: &Selection) -> Result<DryRun, LakeError> {
        let selection = Arc::new(selection.clone());
        let progress = Progress::default();
        for (_, objects) in self.selected(&selection, &progress).await? {
            let (selection, progress) = (selection.clone(), progress.clone());
            let mut records =
                ShardRecords::new(self.clone(), selection, progress, objects.entries, None);
            while records.next_patiently().await?.is_some() {}
        }
        Ok(progress.counts())
    }

    /// The objects that may hold what is selected, by shard.
    pub(crate) async fn selected(
        &self,
        selection: &Selection,
        progress: &Progress,
    ) -> Result<BTreeMap<ShardId, Selected>, LakeError> {
        let mut manifest = self.manifest(selection.stream()).await?;
        for (path, damage) in manifest.damaged.clone() {
            progress.note_damaged(path, damage);
        }
        let mut shards: BTreeMap<ShardId, Selected> = BTreeMap::new();
        for shard in manifest.shards().into_iter().filter(|shard| selection.takes_shard(shard)) {
            let selected = Selected::of(&manifest, &shard, selection);
            shards.insert(shard, selected);
        }
        let mut ends: BTreeMap<ShardId, Position> = BTreeMap::new();
        for object in &manifest.objects {
            let end = ends.entry(ShardId::from(&*object.footer.shard)).or_insert(0.into());
            *end = object.footer.last.clone().max(end.clone());
        }
        for entry in manifest.objects {
            if selection.may_be_in(&entry.footer) {
                if let Some(shard) = shards.get_mut(&ShardId::from(entry.footer.shard.as_str())) {
                    shard.entries.push(entry);
                }
            }
        }
        for selected in shards.values_mut() {
            progress.note_objects(&selected.entries);
            if selection.is_of_a_time() {
                selected.leave_out_what_may_be_of_another_time();
            }
        }
        // what is gone from the end nothing that is there tells of
        manifest.missing.sort_by(|a, b| a.footer.first.cmp(&b.footer.first));
        for gone in manifest.missing.iter().filter(|gone| selection.may_be_in(&gone.footer)) {
            let shard = ShardId::from(gone.footer.shard.as_str());
            let Footer { first, last, .. } = &gone.footer;
            if ends.get(&shard).is_none_or(|end| end < first) {
                let gaps = &mut shards.entry(shard).or_default().gaps;
                gaps.extend(selection.part_of(first.clone(), behind(last)));
            }
        }
        shards.retain(|_, selected| !(selected.entries.is_empty() && selected.gaps.is_empty()));
        Ok(shards)
    }
}

/// What is selected of a shard.
#[derive(Default)]
pub(crate) struct Selected {
    pub(crate) entries: Vec<ManifestEntry>,
    /// Where records are missing that are meant: the first position, and the first behind them.
    gaps: VecDeque<(Position, Position)>,
    /// The last position that was stored before all that is there, and the first that is there.
    begins: Option<(Position, Position)>,
}

impl Selected {
    /// What is known to be missing of a shard; without its objects.
    fn of(manifest: &Manifest, shard: &ShardId, selection: &Selection) -> Self {
        let gaps = manifest.gaps(shard).into_iter().filter(|gap| gap.proven);
        let gaps = gaps.filter_map(|gap| selection.part_of(behind(&gap.after), gap.before));
        let mut gaps: VecDeque<_> = gaps.collect();
        let oldest = manifest.footers(shard).next();
        let mut begins =
            oldest.and_then(|oldest| Some((oldest.after.clone()?, oldest.first.clone())));
        // what was deleted by its age nobody misses but whoever asks for it
        let asked = begins.take_if(|(stored, _)| selection.begins_before(stored));
        if let Some((_, first)) = asked {
            // from where it is asked for
            if let Some(gap) = selection.part_of(Position::from(0), first) {
                gaps.push_front(gap);
            }
        }
        Self { entries: Vec::new(), gaps, begins }
    }

    /// Between two objects of a time what is missing is of that time; when the rest arrived nobody knows.
    fn leave_out_what_may_be_of_another_time(&mut self) {
        let ends = self.entries.first().zip(self.entries.last());
        let ends = ends.map(|(first, last)| (&first.footer.first, &last.footer.last));
        let between = |from: &Position, to: &Position| {
            ends.is_some_and(|(first, last)| first <= from && to <= last)
        };
        self.gaps.retain(|(from, to)| between(from, to));
    }
}

impl LakeSource {
    /// A run that can go on: it has this id, and what is settled is noted in the lake under it. Calling it again with the
    /// same id and selection goes on behind that. Without it a run that is broken off begins anew.
    ///
    /// The id is also part of the ids of faults: what faults again in the same run is the same fault.
    pub fn resumable(mut self, run: Uuid) -> Self {
        self.replay.run = run;
        self.replay.resumable = true;
        self
    }

    /// What the run is for: the names of the pipelines that it drives, say. A run that is resumed for something else is refused,
    /// as with another selection: what it has settled was settled for that.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.replay.target = target.into();
        self
    }

    /// At most so many records a second, over all shards.
    pub fn rate(mut self, per_second: NonZeroU32) -> Self {
        self.replay.pace = Arc::new(Pace { per_second: Some(per_second), next: Mutex::new(None) });
        self
    }

    /// The id of this run.
    pub fn run_id(&self) -> Uuid {
        self.replay.run
    }

    /// How far it is: to be asked while it runs.
    pub fn progress(&self) -> Progress {
        self.replay.progress.clone()
    }
}

impl Replay {
    async fn open(self) -> Result<Shards, LakeError> {
        let mut shards = VecDeque::new();
        self.progress.reset();
        for (shard, selected) in self.lake.selected(&self.selection, &self.progress).await? {
            let cursor = match self.resumable {
                true => Some(Cursor::open(&self, &shard).await?),
                false => None,
            };
            let after = cursor.as_ref().and_then(|cursor| cursor.settled.clone());
            let mut gaps = selected.gaps;
            if let Some(after) = &after {
                gaps.retain(|(_, to)| to > after);
                // what it would have gone on with is gone, and all behind that up to the oldest object
                if let Some((_, first)) = selected.begins.filter(|(stored, _)| stored > after) {
                    if let Some(gap) = self.selection.part_of(behind(after), first) {
                        gaps.push_front(gap);
                    }
                }
            }
            let records = ShardRecords::new(
                self.lake.clone(),
                self.selection.clone(),
                self.progress.clone(),
                selected.entries,
                after,
            );
            let reader = LakeReader {
                records,
                run: self.run,
                pace: self.pace.clone(),
                gaps,
                ahead: None,
                ended: false,
            };
            shards.push_back((shard, reader, LakeAcker { lake: self.lake.clone(), cursor }));
        }
        Ok(shards)
    }
}

fn source_error(error: LakeError) -> SourceError {
    if error.is_transient() { SourceError::transient(error) } else { SourceError::fatal(error) }
}

#[async_trait]
impl Source for LakeSource {
    type Reader = LakeReader;
    type Acker = LakeAcker;

    fn caps(&self) -> Caps {
        Caps::new("lake", self.replay.selection.stream(), Acknowledge::Prefix)
    }

    async fn next(&mut self) -> Result<Option<Change<LakeReader, LakeAcker>>, SourceError> {
        if self.shards.is_none() {
            let Self { replay, opening, .. } = self;
            let opened = opening.get_or_insert_with(|| replay.clone().open().boxed()).await;
            self.opening = None;
            self.shards = Some(opened.map_err(source_error)?);
        }
        let next = self.shards.as_mut().and_then(VecDeque::pop_front);
        Ok(next.map(|(shard, reader, acker)| Change::Assigned { shard, reader, acker }))
    }
}

/// Spreads records over time.
#[derive(Debug, Default)]
struct Pace {
    per_second: Option<NonZeroU32>,
    /// When the next record may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// How many records may be taken at once: a tenth of a second's.
    fn most(&self) -> usize {
        self.per_second.map_or(usize::MAX, |rate| (rate.get() / 10).max(1) as usize)
    }

    /// When `records` may go, which nobody else gets then.
    fn turn(&self, records: usize) -> Option<Instant> {
        let rate = self.per_second?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        let span = Duration::from_secs_f64(records as f64 / f64::from(rate.get()));
        *next = Some(turn + span);
        Some(turn)
    }
}

/// Reads one shard of a replay.
pub struct LakeReader {
    records: ShardRecords,
    run: Uuid,
    pace: Arc<Pace>,
    /// Which are not told yet, in their order: the first position that is missing, and the first behind.
    gaps: VecDeque<(Position, Position)>,
    /// A record that was read, but lies behind a gap that has to be told first.
    ahead: Option<streambreaker::Record>,
    ended: bool,
}

impl fmt::Debug for LakeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeReader").field("run", &self.run).finish_non_exhaustive()
    }
}

impl LakeReader {
    async fn next(&mut self) -> Result<Option<streambreaker::Record>, LakeError> {
        if let Some(record) = self.ahead.take() {
            return Ok(Some(record));
        }
        let record = self.records.next().await?;
        for gap in self.records.take_lost() {
            let at = self.gaps.partition_point(|(_, to)| *to <= gap.1);
            self.gaps.insert(at, gap);
        }
        Ok(record.map(|record| record.with_delivery(Delivery::Replay { run: self.run })))
    }

    fn is_behind_gap(&self, record: &streambreaker::Record) -> bool {
        self.gaps.front().is_some_and(|(_, to)| record.position() >= to)
    }
}

#[async_trait]
impl Reader for LakeReader {
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let most = room.records.min(self.pace.most());
        let (mut batch, mut bytes) = (Vec::new(), 0usize);
        while batch.len() < most && bytes < room.bytes && !self.ended {
            // what is at hand goes at once; only an empty batch waits for the store
            if !batch.is_empty() && self.ahead.is_none() && !self.records.has_more_at_hand() {
                break;
            }
            let record = match self.next().await {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                // it comes again with the next read; what was taken until here does not
                Err(_) if !batch.is_empty() => break,
                Err(error) => return Err(source_error(error)),
            };
            if self.is_behind_gap(&record) {
                self.ahead = Some(record);
                if !batch.is_empty() {
                    break;
                }
                if let Some((from, to)) = self.gaps.pop_front() {
                    return Ok(Read::Gap { from, to });
                }
            } else if !batch.is_empty() && bytes.saturating_add(record.size()) > room.bytes {
                self.ahead = Some(record);
                break;
            } else {
                bytes = bytes.saturating_add(record.size());
                batch.push(record);
            }
        }
        if batch.is_empty() && self.ended {
            // behind the last one that is meant something may be missing, too
            return Ok(match self.gaps.pop_front() {
                Some((from, to)) => Read::Gap { from, to },
                None => Read::End,
            });
        }
        if let Some(turn) = self.pace.turn(batch.len()) {
            tokio::time::sleep_until(turn).await;
        }
        Ok(Read::Records { records: batch, behind: Behind::unknown() })
    }
}

/// How far a shard of a run has come, as it is noted in the lake.
#[derive(Serialize, Deserialize)]
struct CursorDocument {
    selection: Uuid,
    settled: Position,
}

struct Cursor {
    path: Path,
    selection: Uuid,
    settled: Option<Position>,
}

impl Cursor {
    async fn open(replay: &Replay, shard: &ShardId) -> Result<Self, LakeError> {
        let Replay { lake, selection, run, target, .. } = replay;
        let folder = lake.folder(selection.stream())?;
        let file = format!("{folder}/_replays/{run}/{}.json", shard_folder(shard)?);
        let path = Path::parse(&file).expect("encoded names have no segment that a path refuses");
        let mut fingerprint = selection.fingerprint();
        if !target.is_empty() {
            fingerprint = Uuid::new_v5(&fingerprint, target.as_bytes());
        }
        let mut cursor = Self { path, selection: fingerprint, settled: None };
        if let Some(bytes) = lake.document(&cursor.path).await? {
            let document: CursorDocument = serde_json::from_slice(&bytes)
                .map_err(|source| LakeError::Document { path: file, source })?;
            if document.selection != cursor.selection {
                return Err(LakeError::OtherSelection(*run));
            }
            cursor.settled = Some(document.settled);
        }
        Ok(cursor)
    }
}

/// Notes how far a shard of a replay is settled, where the run can be resumed.
pub struct LakeAcker {
    lake: Lake,
    cursor: Option<Cursor>,
}

impl fmt::Debug for LakeAcker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LakeAcker(resumable: {})", self.cursor.is_some())
    }
}

#[async_trait]
impl Acker for LakeAcker {
    async fn settle(&mut self, settled: Settled<'_>) -> Result<(), CommitError> {
        let (Some(cursor), Settled::Through(position)) = (&mut self.cursor, settled) else {
            return Ok(());
        };
        // a commit that comes late takes nothing back
        if cursor.settled.as_ref().is_some_and(|settled| settled >= position) {
            return Ok(());
        }
        let document = CursorDocument { selection: cursor.selection, settled: position.clone() };
        let bytes = serde_json::to_vec(&document).map_err(CommitError::transient)?;
        self.lake
            .replace(&cursor.path, Bytes::from(bytes))
            .await
            .map_err(CommitError::transient)?;
        cursor.settled = Some(position.clone());
        Ok(())
    }
}
