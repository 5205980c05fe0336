//! Appends items to a file, a line each, confirmed when the disk has them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::durable::{parent, sync_dir};
use super::error::FileError;
use crate::error::{ResultExt, StepError};
use crate::sink::{Limits, Outcomes, Sink};

type Encode<T> = Box<dyn Fn(&T) -> Result<Vec<u8>, StepError> + Send + Sync>;

/// Appends one item a line. A [`Sink`] that confirms items only when they are on the disk (`fsync`, once a
/// request). Clones write to the same file, one after the other.
///
/// The file is opened anew for every request: one that was moved away or deleted meanwhile is made again,
/// and no item goes to a file that nobody can find. It is only ever appended to: a line that a crash has
/// cut off stays where it is, and the next item begins on a line of its own.
///
/// ```
/// use streambreaker::Sink;
/// use streambreaker::file::Lines;
/// use streambreaker::sink::OutcomeLog;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let dir = std::env::temp_dir().join(format!("streambreaker-lines-{}", std::process::id()));
/// let lines = Lines::json(dir.join("numbers.ndjson"))?;
/// lines.write(&[1, 2], &mut OutcomeLog::new(2).outcomes()).await?;
/// assert_eq!(std::fs::read_to_string(dir.join("numbers.ndjson"))?, "1\n2\n");
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok(())
/// # }
/// ```
pub struct Lines<T>(Arc<Inner<T>>);

struct Inner<T> {
    path: PathBuf,
    encode: Encode<T>,
    limits: Limits,
    torn: Option<u64>,
    one_at_a_time: Arc<Mutex<()>>,
}

impl<T> Lines<T> {
    /// Appends to this file what `encode` makes of each item: one line, without its end. Makes the file and
    /// its directories where there are none. Blocks for a moment.
    ///
    /// An item that cannot be encoded, or whose bytes hold a line end, fails by itself.
    ///
    /// # Errors
    /// When the file cannot be made or written to.
    pub fn open(
        path: impl Into<PathBuf>,
        encode: impl Fn(&T) -> Result<Vec<u8>, StepError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let path = path.into();
        let error = |e| FileError::io(&path, "open it for appending", e);
        if path.is_dir() {
            return Err(FileError::new(&path, "it is a directory; name a file in it"));
        }
        let mut file = append_to(&path).map_err(error)?;
        let torn = torn_at(&mut file).map_err(error)?;
        if let Some(offset) = torn {
            tracing::warn!(
                target: "streambreaker::file",
                file = ?path,
                offset,
                "the last line is cut off; it stays, and what follows begins on a new line"
            );
        }
        let limits = Limits::items(1_000).with_bytes(8 << 20);
        let (encode, one_at_a_time) = (Box::new(encode), Arc::default());
        Ok(Self(Arc::new(Inner { path, encode, limits, torn, one_at_a_time })))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Up to which offset the file reached when it was opened, if its last line had no end then: it had
    /// been cut off.
    pub fn torn(&self) -> Option<u64> {
        self.0.torn
    }
}

impl<T: Serialize> Lines<T> {
    /// Appends each item as JSON.
    ///
    /// # Errors
    /// When the file cannot be made or written to.
    pub fn json(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open(path, |item| serde_json::to_vec(item).fault())
    }
}

/// Opens a file for appending and reading back. A new one's name is durable before anything is in it.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let dir = parent(path);
            fs::create_dir_all(dir)?;
            let file = options.create(true).open(path)?;
            sync_dir(dir)?;
            Ok(file)
        }
        file => file,
    }
}

/// The length of a file whose last line has no end.
fn torn_at(file: &mut File) -> io::Result<Option<u64>> {
    let end = file.seek(SeekFrom::End(0))?;
    if end == 0 {
        return Ok(None);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(end - 1))?;
    file.read_exact(&mut last)?;
    Ok((last != *b"\n").then_some(end))
}

fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = append_to(path)?;
    if torn_at(&mut file)?.is_some() {
        let mut apart = Vec::with_capacity(lines.len() + 1);
        apart.push(b'\n');
        apart.extend_from_slice(lines);
        file.write_all(&apart)?;
    } else {
        file.write_all(lines)?;
    }
    file.sync_data()
}

#[async_trait]
impl<T: Sync> Sink<T> for Lines<T> {
    /// 1,000 items and 8 MiB a request.
    fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The length of its line; 0 for an item that cannot be encoded, which `write` says then.
    fn size(&self, item: &T) -> usize {
        (self.0.encode)(item).map_or(0, |line| line.len() + 1)
    }

    /// Dropped while it waits for the disk, the write goes on, and its items may be in the file twice.
    async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        let (mut lines, mut written) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            match (self.0.encode)(item) {
                Ok(line) if line.contains(&b'\n') => {
                    outcomes
                        .reject(index, "the item has a line end in it, and it must be one line");
                }
                Ok(line) => {
                    lines.extend_from_slice(&line);
                    lines.push(b'\n');
                    written.push(index);
                }
                Err(error) => outcomes.failed(index, error),
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        let (path, one_at_a_time) = (self.0.path.clone(), self.0.one_at_a_time.clone());
        let job = move || {
            let _turn = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
            append(&path, &lines).map_err(|e| FileError::io(&path, "append to it", e))
        };
        // a full disk or a wrong mode is mended by somebody, and then it goes on
        spawn_blocking(job).await.transient()?.transient()?;
        written.into_iter().for_each(|index| outcomes.done(index));
        Ok(())
    }
}

impl<T> Clone for Lines<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({:?})", self.0.path)
    }
}
