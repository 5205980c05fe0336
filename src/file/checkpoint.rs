//! The checkpoint of a file: what is settled of each shard, and which lives died before they settled more.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::delivered::{self, Delivered};
use super::durable::{Outlives, parent, replace, sync_dir, turn};
use super::error::FileError;
use super::pass::Spec;
use crate::record::Timestamp;
use crate::source::CommitError;

const FORMAT: &str = "streambreaker.file-checkpoint/1";
/// How much of a file's beginning tells it from others.
const HEAD: u64 = 4096;
/// How many deaths are remembered a shard.
const LIVES: usize = 255;

/// What the checkpoint file holds, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Document {
    format: String,
    file: Identity,
    /// The life that owns it: another one's commits are fenced.
    owner: Uuid,
    /// How lines come to shards.
    key: String,
    /// Above how many bytes a line is not held, and then in shard 0. Older checkpoints do not say.
    #[serde(default)]
    max_line: Option<usize>,
    /// When lines arrived that do not say so, in microseconds since 1970; the same in every delivery.
    arrival: Timestamp,
    shards: Vec<Shard>,
}

/// What tells a file from another.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    name: String,
    size: u64,
    /// How many bytes `digest` is over.
    head: u64,
    digest: Uuid,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Shard {
    /// Where the last settled line begins.
    settled: Option<u64>,
    /// Below which offset each life had delivered that died since.
    died_at: Vec<u64>,
}

impl Shard {
    fn settle(&mut self, offset: u64) {
        self.settled = self.settled.max(Some(offset));
        self.forget_settled();
    }

    fn died(&mut self, below: u64) {
        self.died_at.push(below);
        self.forget_settled();
        let surplus = self.died_at.len().saturating_sub(LIVES);
        self.died_at.drain(..surplus);
    }

    fn forget_settled(&mut self) {
        let settled = self.settled.map_or(0, |offset| offset.saturating_add(1));
        self.died_at.retain(|below| *below > settled);
    }
}

/// An open checkpoint, shared by the shards of one source.
pub(super) struct Checkpoint {
    path: PathBuf,
    state: Mutex<State>,
    /// Held from the look at the owner to the write: an opening that nobody waits for any more, or a commit of
    /// a life that was killed, must not take it from the next life in the same process.
    turn: Arc<Mutex<()>>,
    /// Which generation is durable; held while one writes, so that commits of several shards become
    /// one write.
    durable: Mutex<u64>,
    delivered: Mutex<Delivered>,
}

struct State {
    document: Document,
    generation: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn digest(path: &Path, head: u64) -> io::Result<(u64, Uuid)> {
    let mut bytes = Vec::new();
    File::open(path)?.take(head).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64, Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes)))
}

fn read_document(path: &Path) -> Result<Option<Document>, FileError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FileError::io(path, "read the checkpoint", e)),
    };
    match serde_json::from_slice::<Document>(&bytes) {
        Ok(document) if document.format == FORMAT => Ok(Some(document)),
        _ => Err(FileError::new(
            path,
            format!(
                "it is not a checkpoint of the format {FORMAT}; name another file, or move this one away"
            ),
        )),
    }
}

impl Checkpoint {
    /// Opens a checkpoint and takes it over, or begins one, unless nobody wants it any more. Blocks.
    pub(super) fn open(path: &Path, spec: &Spec, unwanted: &AtomicBool) -> Result<Self, FileError> {
        let turn = turn(path);
        let held = lock(&turn);
        if unwanted.load(Ordering::Acquire) {
            return Err(FileError::new(path, "the source was dropped before it was open"));
        }
        let file = |e| FileError::io(&spec.path, "look at the file", e);
        let name = spec.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = fs::metadata(&spec.path).map_err(file)?.len();
        let owner = Uuid::new_v4();
        let mut document = match read_document(path)? {
            Some(mut found) => {
                let same_head = digest(&spec.path, found.file.head).map_err(file)?;
                let same = found.file.name == name
                    && found.file.size <= size
                    && same_head == (found.file.head, found.file.digest);
                check(path, &found, spec, same)?;
                let died = delivered::read(path, found.owner)
                    .map_err(|e| FileError::io(path, "read what was delivered", e))?;
                for (shard, below) in found.shards.iter_mut().zip(died) {
                    shard.died(below);
                }
                found.owner = owner;
                found.max_line = Some(spec.max_line);
                found
            }
            None => Document {
                format: FORMAT.to_owned(),
                file: Identity { name, size, head: 0, digest: owner },
                owner,
                key: spec.key.describe(),
                max_line: Some(spec.max_line),
                arrival: spec.arrival,
                shards: vec![Shard::default(); spec.shards],
            },
        };
        (document.file.head, document.file.digest) = digest(&spec.path, HEAD).map_err(file)?;
        document.file.size = size;
        let write = |e| FileError::io(path, "write the checkpoint", e);
        // the deaths go into the checkpoint before the file that tells of them is replaced
        write_document(path, &document).map_err(write)?;
        let delivered = Delivered::begin(path, owner, spec.shards).map_err(write)?;
        drop(held);
        Ok(Self {
            path: path.to_owned(),
            turn,
            state: Mutex::new(State { document, generation: 0 }),
            durable: Mutex::new(0),
            delivered: Mutex::new(delivered),
        })
    }

    /// When lines arrived that do not say so.
    pub(super) fn arrival(&self) -> Timestamp {
        lock(&self.state).document.arrival
    }

    /// Where the last settled line of a shard begins.
    pub(super) fn settled(&self, shard: usize) -> Option<u64> {
        lock(&self.state).document.shards[shard].settled
    }

    /// Below which offset each life had delivered that died before it settled it.
    pub(super) fn died_at(&self, shard: usize) -> Vec<u64> {
        lock(&self.state).document.shards[shard].died_at.clone()
    }

    /// Notes that the lines of a shard below this offset are being delivered. Blocks.
    pub(super) fn delivered(&self, shard: usize, below: u64) -> Result<(), FileError> {
        lock(&self.delivered)
            .advance(shard, below)
            .map_err(|e| FileError::io(&self.path, "note what is delivered", e))
    }

    /// Notes that a shard was given back in peace. Blocks.
    pub(super) fn release(&self, shard: usize) -> io::Result<()> {
        lock(&self.delivered).forget(shard)
    }

    /// Makes durable that a shard is settled up to and with the line at `offset`. Blocks.
    pub(super) fn settle(&self, shard: usize, offset: u64) -> Result<(), CommitError> {
        let wanted = {
            let mut state = lock(&self.state);
            state.document.shards[shard].settle(offset);
            state.generation += 1;
            state.generation
        };
        let mut durable = lock(&self.durable);
        if *durable >= wanted {
            return Ok(());
        }
        let (document, generation) = {
            let state = lock(&self.state);
            (state.document.clone(), state.generation)
        };
        let _turn = lock(&self.turn);
        // not atomic with the write between processes: two on one checkpoint are a mistake that is noticed, not
        // a way to share a file
        let now = read_document(&self.path).map_err(CommitError::transient)?;
        if now.is_some_and(|now| now.owner != document.owner) {
            return Err(CommitError::Fenced);
        }
        write_document(&self.path, &document).map_err(|e| {
            CommitError::transient(FileError::io(&self.path, "write the checkpoint", e))
        })?;
        *durable = generation;
        Ok(())
    }
}

/// Forgets what a checkpoint says, so that whoever reads the file next with it begins at the start. Where there is none,
/// there is nothing to do.
///
/// For a file that has been read to its end and is to be read again, or that another one took the place of. Removes
/// the checkpoint and the file `.delivered` beside it. Not while a source has it open: its next commit would write it anew.
///
/// # Errors
/// What there is cannot be removed. Then the checkpoint stands as it was.
///
/// ```
/// use streambreaker::prelude::*;
/// use streambreaker::{file, memory};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = std::env::temp_dir().join(format!("streambreaker-forget-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// let (orders, checkpoint) = (dir.join("orders.ndjson"), dir.join("orders.checkpoint"));
/// std::fs::write(&orders, "1\n2\n3\n")?;
/// let run = async || {
///     let processor = Processor::builder("orders")
///         .source(file::Source::open(&orders).checkpoint(&checkpoint))
///         .faults(memory::faults())
///         .pipeline("all", |flow| flow.json::<u64>())
///         .build()?;
///     let report = processor.run(Shutdown::never()).await?;
///     Ok::<u64, Box<dyn std::error::Error>>(report.pipelines["all"].read)
/// };
/// assert_eq!(run().await?, 3);
/// assert_eq!(run().await?, 0); // all of it is settled
/// file::forget(&checkpoint)?;
/// assert_eq!(run().await?, 3);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok(())
/// # }
/// ```
pub fn forget(checkpoint: impl AsRef<Path>) -> Result<(), FileError> {
    let path = checkpoint.as_ref();
    let turn = turn(path);
    let _held = lock(&turn);
    let error = |e| FileError::io(path, "remove the checkpoint", e);
    // in this order: without the first, the second is nobody's
    for path in [path, &delivered::path_of(path)] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
            _ => {}
        }
    }
    match sync_dir(parent(path)) {
        // nothing was there, not even a place for it
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(error),
    }
}

fn write_document(path: &Path, document: &Document) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    replace(path, &text, Outlives::Machine).map(drop)
}

/// Refuses a checkpoint that would make lines come twice or not at all.
fn check(path: &Path, found: &Document, spec: &Spec, same_file: bool) -> Result<(), FileError> {
    let (key, shards) = (spec.key.describe(), spec.shards);
    let what = if !same_file {
        format!(
            "this checkpoint is of another file than {:?} is now (it was called {:?}, of {} bytes): the \
             file was replaced, cut off or renamed; name another checkpoint, or begin at the start: \
             `file::forget` this one",
            spec.path, found.file.name, found.file.size
        )
    } else if found.shards.len() != shards {
        format!(
            "this checkpoint has {} shards, the source {shards}, and lines would change their shard; set \
             `.shards({})`, or begin at the start: `file::forget` it",
            found.shards.len(),
            found.shards.len()
        )
    } else if found.key != key && shards > 1 {
        format!(
            "this checkpoint was written with the key by {:?}, the source has {key:?}, and lines would \
             change their shard; set the former, or begin at the start: `file::forget` it",
            found.key
        )
    } else if let Some(max) = found.max_line.filter(|max| *max != spec.max_line && shards > 1) {
        format!(
            "this checkpoint was written with lines of at most {max} bytes, the source takes {}, and lines between \
             the two would change their shard; set `.max_line({max})`, or begin at the start: `file::forget` it",
            spec.max_line
        )
    } else {
        return Ok(());
    };
    Err(FileError::new(path, what))
}
