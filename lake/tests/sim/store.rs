//! An object store in which anything may go wrong, with a gate before and after each effect.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use streambreaker_lake::Lake;
use streambreaker_testkit::sim::Gates;

/// How long a client waits before it calls a request that has no answer a failure.
const CLIENT: Duration = Duration::from_secs(30);

/// What is told of every object that becomes durable.
pub(crate) type Watch = Box<dyn Fn(&Path, &Bytes) + Send>;

/// The store. A handle; it outlives every process.
#[derive(Clone)]
pub(crate) struct Hostile(Arc<Inner>);

struct Inner {
    gates: Gates,
    store: InMemory,
    /// Objects that lists do not show, for so many lists more.
    hidden: Mutex<BTreeMap<Path, u64>>,
    /// Those that no list shows.
    unseen: Mutex<Vec<Path>>,
    watch: Mutex<Option<Watch>>,
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hostile")
    }
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hostile")
    }
}

fn broken(source: &'static str) -> Error {
    Error::Generic { store: "hostile", source: source.into() }
}

impl Hostile {
    pub(crate) fn new(gates: &Gates) -> Self {
        Self(Arc::new(Inner {
            gates: gates.clone(),
            store: InMemory::new(),
            hidden: Mutex::default(),
            unseen: Mutex::default(),
            watch: Mutex::default(),
        }))
    }

    pub(crate) fn lake(&self) -> Lake {
        Lake::new(Arc::new(self.clone()))
    }

    /// Tells this of every object that becomes durable.
    pub(crate) fn watch(&self, watch: impl Fn(&Path, &Bytes) + Send + 'static) {
        *self.0.watch.lock().unwrap() = Some(Box::new(watch));
    }

    /// What is there by now is shown by none of the next lists.
    pub(crate) async fn hide_all(&self) {
        let paths = self.paths().await;
        *self.0.unseen.lock().unwrap() = paths.iter().map(|p| Path::parse(p).unwrap()).collect();
    }

    /// Puts something there that nobody of us wrote.
    pub(crate) async fn intrude(&self, path: &str, bytes: impl Into<Bytes>) {
        let path = Path::parse(path).unwrap();
        self.0.store.put(&path, PutPayload::from_bytes(bytes.into())).await.unwrap();
    }

    pub(crate) async fn paths(&self) -> Vec<String> {
        let all = self.0.store.list(None).map_ok(|meta| meta.location.to_string());
        let mut paths: Vec<String> = all.try_collect().await.unwrap();
        paths.sort();
        paths
    }

    pub(crate) async fn bytes_of(&self, path: &str) -> Bytes {
        self.0.store.get(&Path::parse(path).unwrap()).await.unwrap().bytes().await.unwrap()
    }

    /// Before an effect: it takes a while, or is refused, or has no answer.
    async fn before(&self, what: &str) -> object_store::Result<()> {
        let gates = &self.0.gates;
        gates.pass(what).await;
        if gates.happens("slow", 0.2) {
            let slow = gates.below(200);
            tokio::time::sleep(Duration::from_millis(slow)).await;
        }
        if gates.happens("throttled", 0.15) {
            return Err(broken("503 slow down"));
        }
        if gates.happens("timed out", 0.03) {
            tokio::time::sleep(CLIENT).await;
            return Err(broken("timed out"));
        }
        Ok(())
    }

    /// Every object that a list does not show yet.
    fn not_shown(&self) -> Vec<Path> {
        let mut hidden = self.0.hidden.lock().unwrap();
        let mut not_shown = self.0.unseen.lock().unwrap().clone();
        if !hidden.is_empty() && self.0.gates.happens("listed late", 1.0) {
            hidden.values_mut().for_each(|lists| *lists -= 1);
            not_shown.extend(hidden.keys().cloned());
            hidden.retain(|_, lists| *lists > 0);
        }
        not_shown
    }
}

#[async_trait]
impl ObjectStore for Hostile {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let Inner { gates, store, hidden, watch, .. } = &*self.0;
        self.before(&format!("put {location}")).await?;
        let bytes = Bytes::from(payload.clone());
        let put = store.put_opts(location, payload, opts).await?;
        if let Some(watch) = &*watch.lock().unwrap() {
            watch(location, &bytes);
        }
        if gates.happens("hidden", 0.2) {
            hidden.lock().unwrap().insert(location.clone(), 1 + gates.below(3));
        }
        gates.pass(&format!("put {location}: stored")).await;
        if gates.happens("reply lost", 0.1) {
            return Err(broken("connection reset"));
        }
        if gates.happens("reply lost late", 0.03) {
            tokio::time::sleep(CLIENT).await;
            return Err(broken("timed out"));
        }
        Ok(put)
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
        self.before(&format!("get {location}")).await?;
        let found = self.0.store.get_opts(location, options).await?;
        if !self.0.gates.happens("cut off", 0.05) {
            return Ok(found);
        }
        // it ends in the middle, as if that were all
        let half = (found.range.end - found.range.start) / 2;
        let whole = self.0.store.get_range(location, found.range.clone()).await?;
        let part = whole.slice(..half as usize);
        let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(part) }).boxed());
        Ok(GetResult { payload, ..found })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            this.before("list").await?;
            let hidden = this.not_shown();
            let times = if this.0.gates.happens("listed twice", 0.1) { 2 } else { 1 };
            let all = this.0.store.list(prefix.as_ref());
            let shown = all.try_filter(move |meta| {
                let shown = !hidden.contains(&meta.location);
                futures::future::ready(shown)
            });
            let each = shown.map_ok(move |meta| futures::stream::iter(vec![meta; times]).map(Ok));
            Ok::<_, Error>(each.try_flatten())
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.before("list folders").await?;
        self.0.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.before(&format!("copy {from}")).await?;
        self.0.store.copy_opts(from, to, options).await
    }
}
