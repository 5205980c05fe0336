//! The writer: a sink that makes objects of the records it is given.
//!
//! One decision shaped this module: **a request is one or more whole objects.** When an object closes is decided by the bulk
//! engine (its count, its bytes, its linger), which decides that for every sink; here a request is only cut where the hour
//! of arrival changes. So a record is confirmed when its object is durable, by the return of the very write that was told to
//! write it; nothing is held back between two requests, a timeout leaves nothing half open, and an object is never larger
//! than a request.
//!
//! The price is that after a crash the same records may come in other requests, thus in objects of other names. Hence the
//! rule of adoption: before its first write to a shard a writer lists what is stored of it, and what a verified object holds
//! already is confirmed without being written again. And an object whose write ended in no answer is finished first, with
//! the same bytes under the same name, before anything else is written to its shard.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::path::Path;
use streambreaker::envelope::{Envelope, JsonEnvelope};
use streambreaker::flow::BoxedFlow;
use streambreaker::sink::{Limits, Outcomes, Sink};
use streambreaker::{
    Class, Flow, Input, Position, Received, Record, Resource, ShardId, StepError, Window,
};
use tokio::time::Instant;

use crate::encode::{Encoded, Stored, encode};
use crate::error::LakeError;
use crate::index::Index;
use crate::lake::{Lake, Listed, blocking};
use crate::name::{ObjectName, TURNS, hour_number, position_name};
use crate::read::count_damaged;
use crate::seal::{LONGER, Opener};

/// Stores records: a [`Sink`] of [`Record`]s that is run by an ordinary processor with no logic but storing.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::prelude::*;
/// use streambreaker::{Processor, Shutdown, memory};
/// use streambreaker_lake::{Lake, LakeWriter};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let lake = Lake::local(&folder)?;
/// let store = Resource::builder("lake").timeout(Duration::from_secs(30)).build()?;
/// let processor = Processor::builder("lake-writer")
///     .source(memory::stream(["one", "two", "not even JSON"]))
///     .faults(memory::faults())
///     .pipeline("store", LakeWriter::new(&lake).linger(Duration::from_secs(5)).pipeline(&store))
///     .build()?;
///
/// processor.run(Shutdown::never()).await?;
/// let report = lake.verify("memory").await?;
/// assert!(report.is_sound());
/// assert_eq!((report.objects, report.records), (1, 3));
/// # Ok(())
/// # }
/// ```
///
/// # Objects
/// An object is closed after [`records`](Self::records), [`bytes`](Self::bytes) or [`linger`](Self::linger), whichever comes
/// first, where the hour of arrival goes on ([`hours`](Self::hours)), at the end of the input, in a drain, and when the reader stands at its in-flight
/// limit: whoever wants objects of more than 10,000 records raises `ProcessorBuilder::in_flight`.
///
/// # Clones
/// A clone knows nothing of what is stored: it lists before its first write to a shard. So a pipeline gives every lane a
/// clone of its own, as [`pipeline`](Self::pipeline) does: another process may have owned the shard in between.
///
/// # Errors
/// What the store fails at is transient: retried within the resource's budget, then left to the stream. A record that
/// cannot be stored at all is a fault of that record: its stream, shard or position gives no name, its position is taken by a
/// record of other content, or it is larger than the lake's [`Bounds`](crate::Bounds) let anybody read again.
pub struct LakeWriter {
    lake: Lake,
    envelope: Arc<dyn Envelope>,
    limits: Limits,
    linger: Duration,
    hours: i64,
    shards: Shards,
}

type Shards = Mutex<BTreeMap<(String, ShardId), Arc<tokio::sync::Mutex<Shard>>>>;

/// What is known of a shard.
#[derive(Default)]
struct Shard {
    /// None until it was listed.
    index: Option<Index>,
    /// An object whose write was begun, and is not known to have ended.
    pending: Option<Pending>,
    /// The objects that were looked into, and the next record may lie in.
    open: Vec<(Listed, Arc<Contents>)>,
}

struct Pending {
    object: Listed,
    encoded: Encoded,
}

impl Pending {
    /// Counts what is stored now.
    fn count(&self, took: Duration) {
        let labels = [metrics::Label::new("stream", self.encoded.footer.stream.clone())];
        metrics::counter!("streambreaker_lake_objects_total", labels.iter()).increment(1);
        metrics::counter!("streambreaker_lake_records_total", labels.iter())
            .increment(self.encoded.footer.records);
        metrics::counter!("streambreaker_lake_bytes_total", labels.iter())
            .increment(self.object.size);
        metrics::histogram!("streambreaker_lake_write_seconds", labels.iter()).record(took);
    }
}

/// The records of an object; none where it cannot be read.
type Contents = Option<BTreeMap<Position, Record>>;

impl Clone for LakeWriter {
    fn clone(&self) -> Self {
        Self {
            lake: self.lake.clone(),
            envelope: self.envelope.clone(),
            limits: self.limits,
            linger: self.linger,
            hours: self.hours,
            shards: Shards::default(),
        }
    }
}

impl fmt::Debug for LakeWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeWriter")
            .field("limits", &self.limits)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}

impl LakeWriter {
    /// Writes to this lake objects of at most 50,000 records and 64 MiB, after a minute at the latest.
    pub fn new(lake: &Lake) -> Self {
        Self {
            lake: lake.clone(),
            envelope: Arc::new(JsonEnvelope::new()),
            limits: Limits::items(50_000).with_bytes(64 << 20),
            linger: Duration::from_secs(60),
            hours: 1,
            shards: Shards::default(),
        }
    }

    /// Closes an object at so many records.
    #[must_use]
    pub fn records(mut self, records: usize) -> Self {
        self.limits.items = records;
        self
    }

    /// Closes an object at so many bytes of payloads, keys and headers. One record of more is a fault.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Closes an object when its first record has waited so long. Part of the pipeline's time budget.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Closes an object where so many hours of arrival are over, counted from 1970, instead of each hour: for the backfill of a
    /// slow stream, a year of which would be 8,760 objects a shard. At least one.
    #[must_use]
    pub fn hours(mut self, hours: u32) -> Self {
        self.hours = i64::from(hours.max(1));
        self
    }

    /// What an event's id, type and time are; plain JSON unless told. What it does not say is not indexed; stored is every
    /// record.
    #[must_use]
    pub fn envelope(mut self, envelope: impl Envelope) -> Self {
        self.envelope = Arc::new(envelope);
        self
    }

    /// A pipeline that stores every record, also one that its transport could not read, through the guards of `store`: one
    /// object a shard at a time.
    pub fn pipeline(
        &self,
        store: &Resource,
    ) -> impl Fn(Flow<Input>) -> BoxedFlow<Record> + Send + Sync + 'static + use<> {
        let (writer, store) = (self.clone(), store.clone());
        move |flow| {
            let Limits { items, bytes } = writer.limits();
            flow.with_unreadable()
                .map(|received: Received| received.record().clone())
                .bulk_write(&store, writer.clone())
                .in_flight(1)
                .window(Window::items(items).bytes(bytes).linger(writer.linger))
                .boxed()
        }
    }

    fn shard(&self, stream: &str, shard: &ShardId) -> Arc<tokio::sync::Mutex<Shard>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.entry((stream.to_owned(), shard.clone())).or_default().clone()
    }

    /// Stores the records of one shard.
    async fn store(
        &self,
        shard: &mut Shard,
        items: &[Record],
        mut left: Vec<usize>,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), LakeError> {
        let first = &items[left[0]];
        let folder = self.lake.folder(first.stream())?;
        self.finish(shard).await?;
        if shard.index.is_none() {
            let listing = self.lake.list(first.stream()).await?;
            shard.index = Some(Index::of(listing.objects, first.shard()));
        }
        left.sort_by(|a, b| items[*a].position().cmp(items[*b].position()));
        let mut waiting = VecDeque::from([left]);
        while let Some(batch) = waiting.pop_front() {
            let mut batch = self.adopt(shard, items, batch, outcomes).await?;
            batch.retain(|at| match self.unfit(&items[*at]) {
                Some(error) => {
                    outcomes.failed(*at, error);
                    false
                }
                None => true,
            });
            for run in runs(items, batch, shard.known(), self.hours) {
                if let Some(again) = self.write_run(shard, &folder, items, run, outcomes).await? {
                    waiting.push_back(again);
                }
            }
        }
        // what was looked into is behind us, mostly for good
        shard.open.clear();
        Ok(())
    }

    /// Why a record cannot be stored: it must not take its neighbours along.
    fn unfit(&self, record: &Record) -> Option<StepError> {
        let most = self.lake.bounds.record_bytes;
        let sealed = if self.lake.keys.is_some() { LONGER } else { 0 };
        if (record.size() + sealed) as u64 > most {
            let text =
                format!("{} bytes; the lake's bounds let none above {most} be read", record.size());
            return Some(StepError::new(Class::Fault, text).with_name("RecordTooLarge"));
        }
        // any of them may come to name an object; a number of 64 bits always can
        let position = record.position();
        let error = position.as_u64().is_none().then(|| position_name(position).err());
        error.flatten().map(|error| StepError::new(Class::Fault, error).with_name("NameError"))
    }

    /// Finishes the object whose write is not known to have ended.
    async fn finish(&self, shard: &mut Shard) -> Result<(), LakeError> {
        if let Some(pending) = &shard.pending {
            let began = Instant::now();
            self.lake.create(&pending.object.path, pending.encoded.bytes.clone()).await?;
            let Some(pending) = shard.pending.take() else { return Ok(()) };
            // one that is there already is that of the attempt before
            pending.count(began.elapsed());
            shard.add(pending.object);
        }
        Ok(())
    }

    /// Confirms what is stored already; what is left is not.
    async fn adopt(
        &self,
        shard: &mut Shard,
        items: &[Record],
        batch: Vec<usize>,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<Vec<usize>, LakeError> {
        let mut left = Vec::with_capacity(batch.len());
        'records: for at in batch {
            let record = &items[at];
            shard.open.retain(|(object, _)| object.name.last >= *record.position());
            for object in shard.known().covering(record.position()) {
                let contents = self.contents(shard, &object).await?;
                let Some(found) = contents.as_ref().as_ref().and_then(|c| c.get(record.position()))
                else {
                    continue;
                };
                if same(found, record) {
                    outcomes.done(at);
                } else {
                    outcomes.failed(at, taken());
                }
                continue 'records;
            }
            left.push(at);
        }
        Ok(left)
    }

    /// The records of an object that is stored, if it can be read; one that cannot is reported, once.
    async fn contents(
        &self,
        shard: &mut Shard,
        object: &Listed,
    ) -> Result<Arc<Contents>, LakeError> {
        if let Some((_, contents)) = shard.open.iter().find(|(open, _)| open.path == object.path) {
            return Ok(contents.clone());
        }
        let contents = match self.lake.verified(object).await {
            Ok((_, records)) => {
                let (mut opener, mut found) = (Opener::default(), BTreeMap::new());
                for stored in records {
                    // one whose seal was broken is stored anew, as if it were not there
                    let opened = opener.open(self.lake.keys.as_ref(), &stored).await;
                    if let Ok(record) = opened.map_err(|e| e.in_object(object.path.as_ref()))? {
                        found.insert(record.position().clone(), record);
                    }
                }
                Some(found)
            }
            Err(error @ LakeError::Damaged { .. }) => {
                tracing::warn!(
                    target: "streambreaker::lake", %error,
                    "an object of the lake cannot be read; its records are stored anew as they come",
                );
                count_damaged();
                None
            }
            Err(error) => return Err(error),
        };
        let contents = Arc::new(contents);
        shard.open.push((object.clone(), contents.clone()));
        Ok(contents)
    }

    /// Writes one object. Where one of its name is there already, the records are given back, to be looked for in it.
    async fn write_run(
        &self,
        shard: &mut Shard,
        folder: &Path,
        items: &[Record],
        run: Vec<usize>,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<Option<Vec<usize>>, LakeError> {
        // of a record that comes twice in a request, the first one is written
        let mut records: Vec<Stored> = Vec::with_capacity(run.len());
        let mut written: Vec<usize> = Vec::with_capacity(run.len());
        for at in run {
            let record = &items[at];
            match records.last().filter(|last| last.record.position() == record.position()) {
                Some(last) if !same(&last.record, record) => outcomes.failed(at, taken()),
                Some(_) => written.push(at),
                None => {
                    records.push(Stored::plain(record.clone(), &*self.envelope));
                    written.push(at);
                }
            }
        }
        let [first, ..] = &records[..] else { return Ok(None) };
        let last = records.last().map_or(first, |last| last);
        let arrival = first.record.arrival();
        let mut name = ObjectName {
            shard: first.record.shard().clone(),
            first: first.record.position().clone(),
            last: last.record.position().clone(),
            turn: 0,
        };
        while shard.known().has(&name) {
            name.turn += 1;
            if name.turn == TURNS {
                return Err(LakeError::NameTaken(TURNS));
            }
        }
        let path = match name.path(folder, arrival) {
            Ok(path) => path,
            Err(error) => {
                for at in written {
                    outcomes.reject(at, error.clone());
                }
                return Ok(None);
            }
        };
        if let Some(sealer) = self.lake.sealer(first.record.stream()).await? {
            records = records.into_iter().map(|stored| sealer.seal(stored)).collect();
        }
        let after = shard.known().before(&name.first);
        let bytes = records.iter().map(|stored| stored.record.size()).sum();
        let encoded = blocking(bytes, move || encode(&records, after)).await;
        let encoded = encoded.map_err(LakeError::Encode)?;
        let object = Listed { name, path, size: encoded.bytes.len() as u64 };
        // from here on it may be stored, whatever becomes of this call
        let pending = shard.pending.insert(Pending { object, encoded });
        let began = Instant::now();
        let created = self.lake.create(&pending.object.path, pending.encoded.bytes.clone()).await?;
        let Some(pending) = shard.pending.take() else { return Ok(None) };
        if created {
            pending.count(began.elapsed());
        }
        let Pending { object, encoded } = pending;
        tracing::debug!(
            target: "streambreaker::lake", object = %object.path, records = encoded.footer.records,
            bytes = object.size, created, "an object is stored",
        );
        shard.add(object);
        if !created {
            return Ok(Some(written));
        }
        for at in written {
            outcomes.done(at);
        }
        Ok(None)
    }
}

impl Shard {
    fn known(&self) -> &Index {
        self.index.as_ref().expect("a shard is listed before it is written to")
    }

    fn add(&mut self, object: Listed) {
        if let Some(index) = &mut self.index {
            index.add(object);
        }
    }
}

/// Cuts records, which are in order, where the hours of arrival go on, and where something is stored in between.
fn runs(items: &[Record], batch: Vec<usize>, stored: &Index, hours: i64) -> Vec<Vec<usize>> {
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut hour = i64::MIN;
    for at in batch {
        let record = &items[at];
        let present = hour_number(record.arrival()).div_euclid(hours);
        let fits = |run: &&mut Vec<usize>| {
            let last = run.last().map(|last| items[*last].position());
            present <= hour
                && last.is_none_or(|last| !stored.begins_between(last, record.position()))
        };
        match runs.last_mut().filter(fits) {
            Some(run) => run.push(at),
            None => {
                hour = present;
                runs.push(vec![at]);
            }
        }
    }
    runs
}

/// Whether two records are the same, however they were delivered.
pub(crate) fn same(a: &Record, b: &Record) -> bool {
    a.stream() == b.stream()
        && a.shard() == b.shard()
        && a.position() == b.position()
        && a.arrival() == b.arrival()
        && a.key() == b.key()
        && a.headers() == b.headers()
        && a.payload() == b.payload()
}

fn taken() -> StepError {
    let text = "the lake holds another record at this position; was the stream made anew under the same name?";
    StepError::new(Class::Fault, text).with_name("PositionTaken")
}

#[async_trait]
impl Sink<Record> for LakeWriter {
    fn limits(&self) -> Limits {
        // an object of more could not be read again
        let most = usize::try_from(self.lake.bounds.records).unwrap_or(usize::MAX);
        Limits { items: self.limits.items.min(most), ..self.limits }
    }

    fn size(&self, record: &Record) -> usize {
        record.size()
    }

    async fn write(&self, items: &[Record], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        let mut shards: BTreeMap<(&str, &ShardId), Vec<usize>> = BTreeMap::new();
        for (at, record) in items.iter().enumerate() {
            shards.entry((record.stream(), record.shard())).or_default().push(at);
        }
        let mut failed = None;
        for ((stream, id), indices) in shards {
            let shard = self.shard(stream, id);
            let mut shard = shard.lock().await;
            match self.store(&mut shard, items, indices.clone(), outcomes).await {
                Ok(()) => {}
                Err(LakeError::Name(error)) => {
                    for at in indices {
                        outcomes.reject(at, error.clone());
                    }
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into_step()))
    }
}
