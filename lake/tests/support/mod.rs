//! An object store that fails as real ones do, and what the tests of the lake share.
#![allow(dead_code)] // not every test file uses all of it

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use streambreaker::clock::PausedClock;
use streambreaker::memory::Stream;
use streambreaker::prelude::*;
use streambreaker::{Position, Record, Report, Timestamp, memory};
use streambreaker_lake::{Lake, LakeWriter};

/// What the next write does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fail {
    /// Nothing is wrong.
    Not,
    /// Refused: nothing is stored.
    Throttled,
    /// It never ends, and nothing is stored.
    Hangs,
    /// It is stored, but its answer is an error.
    LosesReply,
    /// It is stored, but its answer never comes.
    LosesReplyAndHangs,
}

/// An object store in memory that can be told to fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shaky(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store: InMemory,
    /// What the next writes do, in turn; afterwards nothing is wrong.
    writes: Mutex<VecDeque<Fail>>,
    /// How many of the next reads and lists fail.
    reads_fail: AtomicUsize,
    reads_take: Mutex<Duration>,
    /// Every so many reads of an object one fails; 0 is none.
    fails_every: AtomicUsize,
    gets: AtomicUsize,
    /// Which of the next reads of an object fail: after so many others.
    fails_after: Mutex<VecDeque<usize>>,
    reads: AtomicUsize,
    reading: AtomicUsize,
    most_reading: AtomicUsize,
    /// How many of the next reads of an object are cut off in the middle.
    cut: AtomicUsize,
    /// Whether lists show each object twice.
    lists_twice: AtomicBool,
    knows_no_suffix: AtomicBool,
    bytes_read: AtomicU64,
    listed: Arc<AtomicUsize>,
    /// Objects that lists do not show yet.
    hidden: Mutex<Vec<Path>>,
    hide_new: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    created: Mutex<Vec<Path>>,
}

impl fmt::Display for Shaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shaky")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "shaky", source: "503 slow down".into() }
}

impl Shaky {
    pub(crate) fn lake(&self) -> Lake {
        Lake::new(Arc::new(self.clone()))
    }

    pub(crate) fn writes(&self, fail: impl IntoIterator<Item = Fail>) {
        self.0.writes.lock().unwrap().extend(fail);
    }

    /// Forgets what is left of `writes`.
    pub(crate) fn writes_as_ever(&self) {
        self.0.writes.lock().unwrap().clear();
    }

    pub(crate) fn reads_fail(&self, times: usize) {
        self.0.reads_fail.store(times, Ordering::SeqCst);
    }

    /// Of so many reads of parquet objects one fails.
    pub(crate) fn fails_every(&self, reads: usize) {
        self.0.fails_every.store(reads, Ordering::SeqCst);
    }

    /// After so many reads of an object one fails, and after so many more the next.
    pub(crate) fn fails_after(&self, reads: impl IntoIterator<Item = usize>) {
        *self.0.fails_after.lock().unwrap() = reads.into_iter().collect();
    }

    fn fails_now(&self) -> bool {
        let mut fails_after = self.0.fails_after.lock().unwrap();
        match fails_after.front_mut() {
            None => return false,
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return false;
            }
        }
        fails_after.pop_front();
        true
    }

    /// Of the next reads of an object so many end in the middle, as if that were all.
    pub(crate) fn cuts(&self, reads: usize) {
        self.0.cut.store(reads, Ordering::SeqCst);
    }

    /// It knows no ranges from the end, as Azure does not.
    pub(crate) fn knows_no_suffix(&self) {
        self.0.knows_no_suffix.store(true, Ordering::SeqCst);
    }

    /// Lists show each object twice.
    pub(crate) fn lists_twice(&self) {
        self.0.lists_twice.store(true, Ordering::SeqCst);
    }

    /// How many reads of objects there were since it was asked last, and how many ran at once, at most.
    pub(crate) fn reads(&self) -> (usize, usize) {
        (self.0.reads.swap(0, Ordering::SeqCst), self.0.most_reading.swap(0, Ordering::SeqCst))
    }

    /// Every read of an object takes so long.
    pub(crate) fn reads_take(&self, time: Duration) {
        *self.0.reads_take.lock().unwrap() = time;
    }

    /// Lists do not show the next `objects` that are written, until `show_all`.
    pub(crate) fn hide_new(&self, objects: usize) {
        self.0.hide_new.store(objects, Ordering::SeqCst);
    }

    pub(crate) fn show_all(&self) {
        self.0.hidden.lock().unwrap().clear();
    }

    /// How many writes ran at once, at most.
    pub(crate) fn most_running(&self) -> usize {
        self.0.most_running.load(Ordering::SeqCst)
    }

    /// How many bytes of objects were read since it was asked last.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.0.bytes_read.swap(0, Ordering::SeqCst)
    }

    /// How many objects were listed since it was asked last, but for those beside folders.
    pub(crate) fn listed(&self) -> usize {
        self.0.listed.swap(0, Ordering::SeqCst)
    }

    /// The objects that were created, in order.
    pub(crate) fn created(&self) -> Vec<String> {
        self.0.created.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    pub(crate) async fn put_bytes(&self, path: &str, bytes: impl Into<Bytes>) {
        let path = Path::parse(path).unwrap();
        self.0.store.put(&path, PutPayload::from_bytes(bytes.into())).await.unwrap();
    }

    pub(crate) async fn bytes_of(&self, path: &str) -> Bytes {
        self.0.store.get(&Path::parse(path).unwrap()).await.unwrap().bytes().await.unwrap()
    }

    pub(crate) async fn remove(&self, path: &str) {
        self.0.store.delete(&Path::parse(path).unwrap()).await.unwrap();
    }

    /// All objects, by path.
    pub(crate) async fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self
            .0
            .store
            .list(None)
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap();
        paths.sort();
        paths
    }

    fn read(&self) -> object_store::Result<()> {
        if takes_one(&self.0.reads_fail) { Err(broken()) } else { Ok(()) }
    }
}

/// Counts itself among what runs at once.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn among(running: &'a AtomicUsize, most: &AtomicUsize) -> Self {
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn takes_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl ObjectStore for Shaky {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let inner = &*self.0;
        let _running = Running::among(&inner.running, &inner.most_running);
        let fail = inner.writes.lock().unwrap().pop_front().unwrap_or(Fail::Not);
        // every write takes a while, so that something can happen in it
        tokio::time::sleep(Duration::from_millis(20)).await;
        match fail {
            Fail::Throttled => return Err(broken()),
            Fail::Hangs => std::future::pending().await,
            Fail::Not | Fail::LosesReply | Fail::LosesReplyAndHangs => {}
        }
        let put = inner.store.put_opts(location, payload, opts).await?;
        inner.created.lock().unwrap().push(location.clone());
        if takes_one(&inner.hide_new) {
            inner.hidden.lock().unwrap().push(location.clone());
        }
        match fail {
            Fail::LosesReply => Err(broken()),
            Fail::LosesReplyAndHangs => std::future::pending().await,
            _ => Ok(put),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let _reading = Running::among(&self.0.reading, &self.0.most_reading);
        let takes = *self.0.reads_take.lock().unwrap();
        tokio::time::sleep(takes).await;
        let every = self.0.fails_every.load(Ordering::SeqCst);
        let counts = every > 0 && location.as_ref().ends_with(".parquet");
        if counts && self.0.gets.fetch_add(1, Ordering::SeqCst) % every == every - 1 {
            return Err(broken());
        }
        if self.fails_now() {
            return Err(broken());
        }
        self.read()?;
        if let Some(GetRange::Suffix(_)) = options.range {
            if self.0.knows_no_suffix.load(Ordering::SeqCst) {
                let source = "no ranges from the end".into();
                return Err(object_store::Error::NotSupported { source });
            }
            // as of S3: 416 Range Not Satisfiable
            if self.0.store.head(location).await?.size == 0 {
                return Err(broken());
            }
        }
        let found = self.0.store.get_opts(location, options).await?;
        self.0.bytes_read.fetch_add(found.range.end - found.range.start, Ordering::SeqCst);
        if takes_one(&self.0.cut) {
            let half = (found.range.end - found.range.start) / 2;
            let whole = self.0.store.get_range(location, found.range.clone()).await?;
            let part = whole.slice(..half as usize);
            let payload =
                GetResultPayload::Stream(futures::stream::once(async { Ok(part) }).boxed());
            return Ok(GetResult { payload, ..found });
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if let Err(error) = self.read() {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        let hidden = self.0.hidden.lock().unwrap().clone();
        let listed = self.0.listed.clone();
        let times = if self.0.lists_twice.load(Ordering::SeqCst) { 2 } else { 1 };
        self.0
            .store
            .list(prefix)
            .inspect_ok(move |_| {
                listed.fetch_add(1, Ordering::SeqCst);
            })
            .try_filter(move |meta| {
                let shown = !hidden.contains(&meta.location);
                async move { shown }
            })
            .map_ok(move |meta| futures::stream::iter(vec![meta; times]).map(Ok))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.read()?;
        self.0.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.0.store.copy_opts(from, to, options).await
    }
}

/// 2013-01-01T10:00:00Z.
pub(crate) const TEN: Timestamp = Timestamp::from_millis(1_357_034_400_000);

/// Record `n` of a shard: an event a minute.
pub(crate) fn record(stream: &str, shard: &str, n: u64) -> Record {
    let kind = if n % 3 == 0 { "started" } else { "ended" };
    Record::new(
        stream,
        shard,
        Position::from(n),
        format!(
            r#"{{"id":"{shard}-{n}","type":"{kind}","timestamp":{}}}"#,
            1_357_034_400_000 + n * 60_000
        ),
    )
    .with_key(format!("k{}", n % 7))
    .with_header("n", n.to_string())
    .with_arrival(TEN.plus(Duration::from_secs(60 * n)))
}

pub(crate) fn records(stream: &str, shard: &str, range: std::ops::Range<u64>) -> Vec<Record> {
    range.map(|n| record(stream, shard, n)).collect()
}

/// A stream of these records. It ends after them.
pub(crate) fn stream_of(name: &str, records: &[Record]) -> Stream {
    let mut shards: Vec<_> = records.iter().map(|r| r.shard().clone()).collect();
    shards.sort();
    shards.dedup();
    let stream = Stream::with_clock(name, shards, PausedClock::starting_at(TEN));
    for record in records {
        stream.push_record(record.clone()).unwrap();
    }
    stream
}

pub(crate) fn store_resource() -> Resource {
    Resource::builder("lake")
        .timeout(Duration::from_secs(2))
        .retry(Retry::exponential().max_attempts(3))
        .build()
        .unwrap()
}

/// A processor that stores a stream.
pub(crate) fn storing(
    stream: &Stream,
    writer: &LakeWriter,
) -> (Processor, memory::Collect<streambreaker::FaultEvent>) {
    let faults = memory::faults();
    let processor = Processor::builder("lake-writer")
        .source(stream.consumer("lake"))
        .faults(faults.clone())
        .pipeline("store", writer.pipeline(&store_resource()))
        .seed(7)
        .build()
        .unwrap();
    (processor, faults)
}

/// Stores a stream to its end.
pub(crate) async fn store(stream: &Stream, writer: &LakeWriter) -> Report {
    stream.close();
    let (processor, faults) = storing(stream, writer);
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert!(faults.events().is_empty(), "nothing is faulted");
    report
}
