//! The lake: a folder of an object store, and what lies in it.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};

use crate::decode::{Bounds, METADATA_BYTES, Opened, longer_than_itself, within};
use crate::encode::Stored;
use crate::error::{Damage, LakeError};
use crate::name::{ObjectName, stream_folder, stream_of_folder};
use crate::parts::{Parts, metadata_len};
use crate::seal::{KeyProvider, Sealer};

/// A data lake in a folder of an object store. Cheap to clone; the clones are one lake.
///
/// ```
/// use streambreaker_lake::Lake;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path().join("lake");
/// let lake = Lake::local(&folder)?; // or `Lake::new(store)` for S3 and the like
/// assert_eq!(format!("{lake:?}"), "Lake");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lake {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) bounds: Bounds,
    pub(crate) keys: Option<Arc<dyn KeyProvider>>,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a store prints its buckets and hosts
        f.write_str("Lake")
    }
}

/// What lies in a stream's folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// By name: shard, first and last position.
    pub(crate) objects: Vec<Listed>,
    /// What has no name of this crate's.
    pub(crate) foreign: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub(crate) name: ObjectName,
    pub(crate) path: Path,
    pub(crate) size: u64,
}

/// How many requests about many objects are under way at once.
pub(crate) const AT_ONCE: usize = 16;

/// How long to wait before each further look at one of many objects, before all of them have to be looked at anew.
pub(crate) fn waits() -> impl Iterator<Item = Duration> {
    [100, 300, 900, 2_700].into_iter().map(Duration::from_millis)
}

/// Looks at one of many objects again where the store fails at it for the moment. A walk through all of them that
/// ended at the first failure, to begin anew, would never come to its end in a lake that is large enough.
// no `AsyncFn`: of one that borrows the compiler does not see that it may go to another thread
pub(crate) async fn patiently<T, F>(look: impl Fn() -> F) -> Result<T, LakeError>
where
    F: Future<Output = Result<T, LakeError>>,
{
    for wait in waits() {
        match look().await {
            Err(error) if error.is_transient() => tokio::time::sleep(wait).await,
            looked => return looked,
        }
    }
    look().await
}

impl Lake {
    /// A lake in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`LakeError::Folder`].
    pub fn local(folder: impl AsRef<FilePath>) -> Result<Self, LakeError> {
        std::fs::create_dir_all(&folder).map_err(|e| LakeError::Folder(Box::new(e)))?;
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|e| LakeError::Folder(Box::new(e)))?
            // what was said to be durable is
            .with_fsync(true);
        Ok(Self::new(Arc::new(store)))
    }

    /// The lake in this directory, which must be there: for those who read, and should not make an empty one of a
    /// mistyped path.
    ///
    /// # Errors
    /// [`LakeError::Absent`], [`LakeError::Folder`].
    pub fn existing(folder: impl AsRef<FilePath>) -> Result<Self, LakeError> {
        if !folder.as_ref().is_dir() {
            return Err(LakeError::Absent(folder.as_ref().display().to_string()));
        }
        Self::local(folder)
    }

    /// A lake in any store that creates an object only where there is none yet
    /// ([`PutMode::Create`]): the crate `object_store` has them for S3, Google, Azure and others.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, root: Path::default(), bounds: Bounds::default(), keys: None }
    }

    /// The same in a folder of the store.
    #[must_use]
    pub fn in_folder(mut self, folder: &str) -> Self {
        self.root = Path::from(folder);
        self
    }

    /// The same with other bounds on what is read.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// The same, sealed: payloads of records, and faults, are written so that they cannot be read without a key, and are
    /// opened where they are read. What was written without keys stays readable, as does what older keys have sealed.
    ///
    /// Keys of records, headers, and an event's id, type and time stay in the open: they are what is searched by.
    #[must_use]
    pub fn with_keys(mut self, keys: impl KeyProvider) -> Self {
        self.keys = Some(Arc::new(keys));
        self
    }

    /// What seals the records of this stream now; nothing, in a lake without keys.
    pub(crate) async fn sealer(&self, stream: &str) -> Result<Option<Sealer>, LakeError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        let (id, key) = keys.present(stream).await?;
        Ok(Some(Sealer::new(&id, &key)))
    }

    /// The streams that it holds, by name, and the folders that are none of this crate's.
    ///
    /// # Errors
    /// [`LakeError::Store`].
    pub async fn streams(&self) -> Result<(Vec<String>, Vec<String>), LakeError> {
        let list = self
            .store
            .list_with_delimiter(Some(&self.root))
            .await
            .map_err(LakeError::store("list the streams"))?;
        let (mut streams, mut foreign) = (Vec::new(), Vec::new());
        for folder in list.common_prefixes {
            let last = folder.parts().next_back().map(|part| part.as_ref().to_owned());
            match last.as_deref().and_then(stream_of_folder) {
                Some(stream) => streams.push(stream),
                None => foreign.push(folder.to_string()),
            }
        }
        streams.sort();
        foreign.sort();
        Ok((streams, foreign))
    }

    /// The folder of a stream.
    pub(crate) fn folder(&self, stream: &str) -> Result<Path, LakeError> {
        Ok(self.root.clone().join(
            object_store::path::PathPart::parse(&stream_folder(stream)?)
                .expect("an encoded name is a segment"),
        ))
    }

    /// What lies in a stream's folder, but for faults and what this crate notes for itself. Each of its lists is asked for
    /// with patience.
    pub(crate) async fn list(&self, stream: &str) -> Result<Listing, LakeError> {
        let folder = self.folder(stream)?;
        let failed = || LakeError::store("list the objects");
        let ours = |path: &Path| {
            let part = path.prefix_match(&folder).and_then(|mut below| below.next());
            part.is_some_and(|part| part.as_ref().starts_with('_') || part.as_ref() == "kind=fault")
        };
        // day by day, so that nobody has to go through all that there is of faults and of the ledger
        let top =
            || async { self.store.list_with_delimiter(Some(&folder)).await.map_err(failed()) };
        let top = patiently(top).await?;
        let days = top.common_prefixes.into_iter().filter(|day| !ours(day));
        let days = days.map(|day| async move {
            let list =
                || async { self.store.list(Some(&day)).try_collect().await.map_err(failed()) };
            patiently(list).await
        });
        let mut days = stream::iter(days).buffered(AT_ONCE);
        let mut listing = Listing::default();
        let mut found: Vec<ObjectMeta> = top.objects;
        found.retain(|meta| !ours(&meta.location));
        loop {
            for meta in found {
                let below = meta.location.prefix_match(&folder).into_iter().flatten();
                let parts: Vec<String> = below.map(|part| part.as_ref().to_owned()).collect();
                let name = match &parts[..] {
                    [date, hour, file]
                        if date.starts_with("date=") && hour.starts_with("hour=") =>
                    {
                        ObjectName::parse(file)
                    }
                    _ => None,
                };
                match name {
                    Some(name) => {
                        listing.objects.push(Listed { name, path: meta.location, size: meta.size })
                    }
                    None => listing.foreign.push(meta.location.to_string()),
                }
            }
            match days.try_next().await? {
                Some(day) => found = day,
                None => break,
            }
        }
        drop(days);
        listing.objects.sort();
        listing.foreign.sort();
        // a list that is written to while it is read may show one twice
        listing.objects.dedup_by(|a, b| a.path == b.path);
        listing.foreign.dedup();
        Ok(listing)
    }

    fn damaged(path: &Path, damage: Damage) -> LakeError {
        LakeError::Damaged { path: path.to_string(), damage }
    }

    fn missing(path: &Path, error: object_store::Error, what: &'static str) -> LakeError {
        match error {
            object_store::Error::NotFound { .. } => Self::damaged(path, Damage::Gone),
            other => LakeError::store(what)(other),
        }
    }

    /// A whole object, if it is not too large.
    pub(crate) async fn fetch(&self, path: &Path, most: u64) -> Result<Bytes, LakeError> {
        let what = "read an object";
        let found = self.store.get(path).await.map_err(|e| Self::missing(path, e, what))?;
        if found.meta.size > most {
            let damage = Damage::TooLarge { what: "bytes", found: found.meta.size, max: most };
            return Err(Self::damaged(path, damage));
        }
        Self::all_of(found, path, what).await
    }

    /// All bytes that an answer says it has. One that is cut off is the store's failure, and no damage of the object.
    async fn all_of(found: GetResult, path: &Path, what: &'static str) -> Result<Bytes, LakeError> {
        let len = found.range.end.saturating_sub(found.range.start);
        let bytes = found.bytes().await.map_err(|e| Self::missing(path, e, what))?;
        if bytes.len() as u64 == len {
            return Ok(bytes);
        }
        let source = format!("{} bytes of {len} came", bytes.len()).into();
        Err(LakeError::store(what)(object_store::Error::Generic { store: "lake", source }))
    }

    /// A part of an object.
    pub(crate) async fn fetch_range(
        &self,
        path: &Path,
        range: Range<u64>,
    ) -> Result<Bytes, LakeError> {
        let what = "read a part of an object";
        let end = range.end;
        match self.get_range(path, GetRange::Bounded(range)).await {
            Ok(found) => Self::all_of(found, path, what).await,
            Err(error) => {
                // to ask for what lies beyond its end is an error like any other
                let known = self.store.head(path).await;
                if known.is_ok_and(|meta| meta.size < end) {
                    let why = "it is shorter than it was".to_owned();
                    return Err(Self::damaged(path, Damage::Torn(why)));
                }
                Err(Self::missing(path, error, what))
            }
        }
    }

    async fn get_range(&self, path: &Path, range: GetRange) -> object_store::Result<GetResult> {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        self.store.get_opts(path, options).await
    }

    /// The length of an object, and the last bytes of it.
    async fn tail(&self, path: &Path) -> Result<(u64, Bytes), LakeError> {
        // bloom filters and metadata of an object of usual size
        const TAIL: u64 = 128 << 10;
        let what = "read the end of an object";
        let found = match self.get_range(path, GetRange::Suffix(TAIL)).await {
            Ok(found) => found,
            Err(error @ object_store::Error::NotFound { .. }) => {
                return Err(Self::missing(path, error, what));
            }
            // Azure knows no ranges from the end, and S3 none of what is empty
            Err(error) => {
                let failed = |e| Self::missing(path, e, what);
                let Ok(ObjectMeta { size, .. }) = self.store.head(path).await else {
                    return Err(failed(error));
                };
                if size == 0 {
                    return Err(Self::damaged(path, Damage::Torn("it is empty".to_owned())));
                }
                let range = GetRange::Bounded(size.saturating_sub(TAIL)..size);
                self.get_range(path, range).await.map_err(failed)?
            }
        };
        let len = found.meta.size;
        Ok((len, Self::all_of(found, path, what).await?))
    }

    /// The metadata of an object, without its records; and what was read for it.
    pub(crate) async fn open(&self, path: &Path) -> Result<(Opened, Parts), LakeError> {
        let (len, tail) = self.tail(path).await?;
        let needed = metadata_len(&tail).map_err(|damage| Self::damaged(path, damage))?;
        let mut parts = Parts::tail(len, tail);
        let start = len.saturating_sub(needed);
        within("bytes of metadata", needed, METADATA_BYTES)
            .map_err(|damage| Self::damaged(path, damage))?;
        if needed > len {
            return Err(Self::damaged(path, longer_than_itself()));
        }
        if !parts.has(&(start..len)) {
            parts.add(start, self.fetch_range(path, start..len).await?);
        }
        let opened =
            Opened::open(&parts, self.bounds).map_err(|damage| Self::damaged(path, damage))?;
        Ok((opened, parts))
    }

    /// All records of an object, checked against its name and its footer.
    pub(crate) async fn verified(
        &self,
        object: &Listed,
    ) -> Result<(Opened, Vec<Stored>), LakeError> {
        let bytes = self.fetch(&object.path, self.bounds.object_bytes).await?;
        let bounds = self.bounds;
        let decoded = blocking(bytes.len(), move || {
            let parts = Arc::new(Parts::whole(bytes));
            let opened = Opened::open(&parts, bounds)?;
            let records = opened.verified(&parts)?;
            Ok((opened, records))
        })
        .await;
        let (opened, records) = decoded.map_err(|damage| Self::damaged(&object.path, damage))?;
        let footer = &opened.footer;
        if footer.first != object.name.first
            || footer.last != object.name.last
            || footer.shard != object.name.shard.as_str()
        {
            return Err(Self::damaged(&object.path, Damage::Contents("its name")));
        }
        Ok((opened, records))
    }

    /// Creates an object where there is none; whether there was none.
    pub(crate) async fn create(&self, path: &Path, bytes: Bytes) -> Result<bool, LakeError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(LakeError::store("create an object")(error)),
        }
    }

    /// A document of JSON, if it is there.
    pub(crate) async fn document(&self, path: &Path) -> Result<Option<Bytes>, LakeError> {
        match self.fetch(path, self.bounds.object_bytes).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(LakeError::Damaged { damage: Damage::Gone, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a document of JSON, whatever was there.
    pub(crate) async fn replace(&self, path: &Path, bytes: Bytes) -> Result<(), LakeError> {
        self.store
            .put(path, PutPayload::from_bytes(bytes))
            .await
            .map(|_| ())
            .map_err(LakeError::store("write a document"))
    }
}

/// Runs work that takes the processor for long where nobody waits for it; short work here.
pub(crate) async fn blocking<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes < 128 << 10 {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
