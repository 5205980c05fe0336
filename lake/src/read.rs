//! Reads the records of a shard in the order of their positions, out of objects that may overlap.
//!
//! One object, and of it one group of rows, is open at a time where objects do not overlap, which is the rule. Where they do
//! (two owners of a shard wrote at once), they are merged, and a record that lies in both is yielded once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};
use object_store::path::Path;
use streambreaker::{Position, Record};

use crate::decode::Opened;
use crate::encode::Stored;
use crate::error::{Damage, LakeError};
use crate::lake::{AT_ONCE, Lake, blocking, waits};
use crate::manifest::{ManifestEntry, OTHER_FOOTER};
use crate::parts::Parts;
use crate::schema::Footer;
use crate::seal::Opener;
use crate::select::{Selection, behind};

/// Counts an object, or a part of one, that could not be read and was skipped.
pub(crate) fn count_damaged() {
    metrics::counter!("streambreaker_lake_damaged_total").increment(1);
}

/// Among so many of the latest, damage that comes again is told once.
const SIDE_BY_SIDE: usize = 16;

/// So many objects of a shard are looked at before their turn, where all of them are read.
const AHEAD: usize = 4;

/// How far something that reads the lake has come. A handle: clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Counts>>);

/// What a [`Progress`] shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Objects that may hold what is selected.
    pub objects: u64,
    /// Their bytes in the store.
    pub stored_bytes: u64,
    /// Their records, selected or not.
    pub stored_records: u64,
    /// Objects that are done with.
    pub objects_read: u64,
    /// Their bytes in the store.
    pub stored_bytes_read: u64,
    /// Records that it is past, selected or not: beside `stored_records`, how far it is.
    pub stored_records_read: u64,
    /// Records that were yielded.
    pub records: u64,
    /// Bytes of their payloads, keys and headers.
    pub bytes: u64,
    /// What could not be read, and was skipped, by path.
    pub damaged: Vec<(String, Damage)>,
}

impl Progress {
    /// How far it is now.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew: an attempt to open everything failed halfway.
    pub(crate) fn reset(&self) {
        *self.lock() = Counts::default();
    }

    pub(crate) fn note_objects(&self, objects: &[ManifestEntry]) {
        let mut counts = self.lock();
        counts.objects += objects.len() as u64;
        for object in objects {
            counts.stored_bytes += object.size;
            // which a manifest says, and nobody has counted
            counts.stored_records = counts.stored_records.saturating_add(object.footer.records);
        }
    }

    pub(crate) fn note_damaged(&self, path: String, damage: Damage) {
        {
            let mut counts = self.lock();
            // of an object that is sealed by a key that is forgotten each record is, and several may be read side by side
            let mut latest = counts.damaged.iter().rev().take(SIDE_BY_SIDE);
            if latest.any(|(at, what)| (at, what) == (&path, &damage)) {
                return;
            }
            counts.damaged.push((path.clone(), damage.clone()));
        }
        // not under the lock: whoever listens may ask how far it is
        tracing::warn!(
            target: "streambreaker::lake", object = %path.escape_debug(), %damage,
            "an object of the lake cannot be read, in part or as a whole; that is skipped",
        );
        count_damaged();
    }

    /// An object is done with, of which so many records had not been passed one by one.
    fn note_read(&self, size: u64, left: u64) {
        let mut counts = self.lock();
        counts.objects_read += 1;
        counts.stored_bytes_read += size;
        counts.stored_records_read = counts.stored_records_read.saturating_add(left);
    }

    /// It is past a record, and has yielded it, or not.
    fn note_passed(&self, yielded: Option<&Record>) {
        let mut counts = self.lock();
        counts.stored_records_read = counts.stored_records_read.saturating_add(1);
        if let Some(record) = yielded {
            counts.records += 1;
            counts.bytes += record.size() as u64;
        }
    }
}

/// What was found of an object: it may be read, or it is damaged.
type Look = Result<(Path, Opened, Parts), (String, Damage)>;

/// An object that is being read.
struct Open {
    path: Path,
    size: u64,
    opened: Opened,
    end: Parts,
    /// The next group of rows to be read.
    next: usize,
    /// The least position that it may hold.
    from: Position,
    /// From where on nothing could be read; none where the last group was.
    lost: Option<Position>,
    rows: VecDeque<Stored>,
    /// How many of its records it is not past.
    left: u64,
}

/// The selected records of one shard.
pub(crate) struct ShardRecords {
    lake: Lake,
    selection: Arc<Selection>,
    progress: Progress,
    waiting: VecDeque<ManifestEntry>,
    /// The first of these, looked at before their turn; none where the store failed at it.
    ahead: VecDeque<Option<Look>>,
    open: Vec<Open>,
    /// What was seen last, selected or not.
    last: Option<Position>,
    /// What could not be read of what is meant: the first position, and the first behind it.
    lost: Vec<(Position, Position)>,
    opener: Opener,
}

impl ShardRecords {
    /// Of these objects of a shard, by first position, what is selected and lies behind `after`.
    pub(crate) fn new(
        lake: Lake,
        selection: Arc<Selection>,
        progress: Progress,
        objects: Vec<ManifestEntry>,
        after: Option<Position>,
    ) -> Self {
        let behind =
            |object: &ManifestEntry| after.as_ref().is_none_or(|after| object.footer.last > *after);
        let (waiting, passed): (Vec<_>, Vec<_>) = objects.into_iter().partition(behind);
        for object in passed {
            progress.note_read(object.size, object.footer.records);
        }
        Self {
            lake,
            selection,
            progress,
            waiting: waiting.into(),
            ahead: VecDeque::new(),
            open: Vec::new(),
            last: after,
            lost: Vec::new(),
            opener: Opener::default(),
        }
    }

    /// The next record; none at the end. What was taken is not read again if this fails and is called anew.
    ///
    /// Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, LakeError> {
        loop {
            self.fill().await?;
            let Some(least) = self.least() else { return Ok(None) };
            let Some(stored) = self.open[least].rows.front() else { continue };
            let position = stored.record.position().clone();
            // in another object too, or behind the cursor
            let seen = self.last.as_ref().is_some_and(|last| position <= *last);
            let opened = match !seen && self.selection.takes(stored) {
                true => {
                    let opened = self.opener.open(self.lake.keys.as_ref(), stored).await;
                    Some(opened.map_err(|e| e.in_object(self.open[least].path.as_ref()))?)
                }
                false => None,
            };
            let open = &mut self.open[least];
            open.rows.pop_front();
            open.left = open.left.saturating_sub(1);
            // one that does not open may lie in another object too, and open there
            if !seen && !matches!(opened, Some(Err(_))) {
                self.last = Some(position);
            }
            match opened {
                None => self.progress.note_passed(None),
                Some(Ok(record)) => {
                    self.progress.note_passed(Some(&record));
                    return Ok(Some(record));
                }
                Some(Err(damage)) => {
                    self.progress.note_passed(None);
                    self.progress.note_damaged(open.path.to_string(), damage);
                }
            }
        }
    }

    /// As [`next`](Self::next), with patience for a store that fails for the moment.
    pub(crate) async fn next_patiently(&mut self) -> Result<Option<Record>, LakeError> {
        for wait in waits() {
            match self.next().await {
                Err(error) if error.is_transient() => tokio::time::sleep(wait).await,
                next => return next,
            }
        }
        self.next().await
    }

    /// Where records that are meant could not be read, since it was asked last.
    pub(crate) fn take_lost(&mut self) -> Vec<(Position, Position)> {
        std::mem::take(&mut self.lost)
    }

    /// What lies from here up to there, which is not part of it, cannot be read.
    fn note_lost(&mut self, from: Position, to: Position) {
        let from = self.last.as_ref().map(behind).into_iter().fold(from, Ord::max);
        self.lost.extend(self.selection.part_of(from, to));
    }

    /// An object cannot be read.
    fn note_lost_object(&mut self, object: &ManifestEntry) {
        let Footer { first, last, .. } = &object.footer;
        let holds = |other: &Footer| other.first <= *first && *last <= other.last;
        // it may have been stored anew, under another name
        let elsewhere = self.open.iter().any(|open| holds(&open.opened.footer))
            || self.waiting.iter().any(|other| other.path != object.path && holds(&other.footer));
        if !elsewhere {
            self.note_lost(first.clone(), behind(last));
        }
    }

    /// Whether there is a record at hand, so that `next` need not wait.
    pub(crate) fn has_more_at_hand(&self) -> bool {
        !self.open.is_empty()
            && self.open.iter().all(|open| !open.rows.is_empty())
            && !self.has_to_open()
    }

    /// Whether the next object may hold the next record.
    fn has_to_open(&self) -> bool {
        let head = self.least().and_then(|at| self.open[at].rows.front());
        match (self.waiting.front(), head) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(object), Some(head)) => object.footer.first <= *head.record.position(),
        }
    }

    fn least(&self) -> Option<usize> {
        let heads = self.open.iter().enumerate();
        let heads = heads.filter_map(|(at, open)| Some((open.rows.front()?.record.position(), at)));
        heads.min().map(|(_, at)| at)
    }

    /// Opens every object that may hold the next record, and reads on where an open one has no rows at hand.
    async fn fill(&mut self) -> Result<(), LakeError> {
        loop {
            let mut at = 0;
            while at < self.open.len() {
                if self.read_on(at).await? {
                    at += 1;
                } else {
                    let done = self.open.swap_remove(at);
                    self.progress.note_read(done.size, done.left);
                }
            }
            if !self.has_to_open() {
                return Ok(());
            }
            self.open_next().await?;
        }
    }

    async fn open_next(&mut self) -> Result<(), LakeError> {
        if !matches!(self.ahead.front(), Some(Some(_))) {
            self.look_ahead().await?;
        }
        let Some((Some(look), object)) = self.ahead.pop_front().zip(self.waiting.pop_front())
        else {
            return Ok(());
        };
        match look {
            Ok((path, opened, end)) if opened.footer == object.footer => {
                let (size, left) = (object.size, object.footer.records);
                let (from, rows) = (object.footer.first, VecDeque::new());
                let (next, lost) = (0, None);
                self.open.push(Open { path, size, opened, end, next, from, lost, rows, left });
                return Ok(());
            }
            Ok((path, ..)) => self.progress.note_damaged(path.to_string(), OTHER_FOOTER),
            Err((path, damage)) => self.progress.note_damaged(path, damage),
        }
        self.progress.note_read(object.size, object.footer.records);
        self.note_lost_object(&object);
        Ok(())
    }

    /// Looks at the next objects side by side: at most of those that may hold an id there is nothing but to wait for the store.
    async fn look_ahead(&mut self) -> Result<(), LakeError> {
        let most = if self.selection.is_narrow() { AT_ONCE } else { AHEAD };
        let most = self.ahead.len().max(most.min(self.waiting.len()));
        self.ahead.resize_with(most, || None);
        let places: Vec<usize> = (0..most).filter(|at| self.ahead[*at].is_none()).collect();
        let paths = places.iter().map(|at| self.waiting[*at].path.clone());
        let looks: Vec<_> = paths.map(|path| look(self.lake.clone(), path)).collect();
        let looks: Vec<_> = stream::iter(looks).buffered(most.max(1)).collect().await;
        let mut failed = Ok(());
        for (at, look) in places.into_iter().zip(looks) {
            self.ahead[at] = match look {
                Ok(look) => Some(Ok(look)),
                Err(LakeError::Damaged { path, damage }) => Some(Err((path, damage))),
                // the others are looked at anew when it is their turn
                Err(error) if at == 0 => {
                    failed = Err(error);
                    None
                }
                Err(_) => None,
            };
        }
        failed
    }

    /// Sees to it that an open object has rows at hand; `false` when it has no more.
    async fn read_on(&mut self, at: usize) -> Result<bool, LakeError> {
        let Self { lake, selection, progress, open, .. } = self;
        let open = &mut open[at];
        if !open.rows.is_empty() {
            return Ok(true);
        }
        while open.rows.is_empty() && open.next < open.opened.groups() {
            let group = open.next;
            match read_group(lake, selection, open, group).await {
                Ok(rows) => open.rows = rows.into(),
                Err(LakeError::Damaged { path, damage }) => {
                    // of the other groups nothing is known to be wrong
                    progress.note_damaged(path, damage);
                    open.lost.get_or_insert(open.from.clone());
                }
                Err(error) => return Err(error),
            }
            open.next = group + 1;
        }
        let to = match (open.rows.front(), open.rows.back()) {
            (Some(first), Some(last)) => {
                open.from = behind(last.record.position());
                first.record.position().clone()
            }
            _ => behind(&open.opened.footer.last),
        };
        let (lost, has_rows) = (open.lost.take(), !open.rows.is_empty());
        if let Some(from) = lost {
            self.note_lost(from, to);
        }
        Ok(has_rows)
    }
}

/// Opens an object.
async fn look(lake: Lake, path: String) -> Result<(Path, Opened, Parts), LakeError> {
    let path = Path::parse(path).map_err(|source| {
        LakeError::store("name an object")(object_store::Error::InvalidPath { source })
    })?;
    let (opened, end) = lake.open(&path).await?;
    Ok((path, opened, end))
}

/// The records of a group; none, where it cannot hold what is selected.
async fn read_group(
    lake: &Lake,
    selection: &Selection,
    open: &Open,
    group: usize,
) -> Result<Vec<Stored>, LakeError> {
    let damaged = |damage| LakeError::Damaged { path: open.path.to_string(), damage };
    if !open.opened.may_hold(&open.end, group, selection).map_err(damaged)? {
        return Ok(Vec::new());
    }
    let range = open.opened.group_range(&open.end, group).map_err(damaged)?;
    let mut parts = open.end.clone();
    let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if !parts.has(&range) {
        let start = range.start;
        parts.add(start, lake.fetch_range(&open.path, range).await?);
    }
    let (opened, parts) = (open.opened.clone(), Arc::new(parts));
    blocking(bytes, move || opened.group(&parts, group)).await.map_err(damaged)
}
