//! The source: its settings, and how it opens.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use super::acker::Acker;
use super::checkpoint::Checkpoint;
use super::error::FileError;
use super::input::Input;
use super::key::KeyBy;
use super::pass::Spec;
use super::reader::{Reader, join_error};
use crate::config::ConfigError;
use crate::record::{ShardId, Timestamp};
use crate::source::{self, Acknowledge, Caps, Change, SourceError};

/// A file with an event a line, as a [`Source`](source::Source).
///
/// # Lines
/// A line ends with `\n`, or with the file; all other bytes belong to it as they are, also `\r`, NUL and a
/// byte order mark. Empty lines, with or without `\r`, are no events. In a file that is followed, a line
/// without `\n` is not complete yet; in one that is not, what there is of the last line is taken as a line, so a file that is
/// still written to has to be followed, or the rest of that line never comes. A line above [`max_line`](Source::max_line) is not held; a record
/// without payload stands for it that carries the header [`UNREADABLE`](source::UNREADABLE), in shard 0.
///
/// # Positions and arrival
/// A record's position is the offset at which its line begins, in the unpacked file. It arrived when the
/// file was last modified (with a checkpoint: as of its first opening, because a record must look
/// the same in every delivery), or when [`arrival_by`](Source::arrival_by) says.
///
/// # Checkpoint
/// With [`checkpoint`](Source::checkpoint), a restart goes on behind what is settled. Records that were
/// delivered to a life that died without settling them count one delivery for each; a life that gave its
/// shards back does not count. Those records come one a batch, so that they can be tried alone.
///
/// # Errors
/// Nothing is looked at before the first `next`, which fails with `Fatal` where the file is missing, a
/// directory, or compressed without the feature for it, and where the checkpoint is of another file or
/// another sharding. The error's source is a [`FileError`] that says what to do.
#[must_use = "a source does nothing unless it is read from"]
pub struct Source {
    path: PathBuf,
    stream: Option<Arc<str>>,
    shards: usize,
    key: KeyBy,
    checkpoint: Option<PathBuf>,
    max_line: usize,
    arrival_by: Option<super::pass::ArrivalFn>,
    follow: bool,
    poll_every: Duration,
    state: State,
}

enum State {
    Closed,
    /// Kept here, so that a dropped `next` loses nothing.
    Opening {
        job: JoinHandle<Result<(Spec, Option<Checkpoint>), FileError>>,
        _unwanted: Unwanted,
    },
    Open(VecDeque<(Reader, Acker, ShardId)>),
}

/// Says when it is dropped that nobody wants any more what is being opened. A thread that blocks cannot be
/// stopped, and must not take the checkpoint from whoever opens it next.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Source {
    /// Reads this file: one shard, no key, no checkpoint, to its end.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            stream: None,
            shards: 1,
            key: KeyBy::None,
            checkpoint: None,
            max_line: 16 << 20,
            arrival_by: None,
            follow: false,
            poll_every: Duration::from_millis(250),
            state: State::Closed,
        }
    }

    /// The stream's name in records and metrics; default: the file's name, without directories.
    pub fn stream(mut self, name: impl Into<Arc<str>>) -> Self {
        self.stream = Some(name.into());
        self
    }

    /// How many shards; default 1. Lines of a key are in one shard; those without a key are spread. Each
    /// shard reads the whole file.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Takes the key from this field of a line that is a JSON object: text that is not empty, or a number
    /// as it is written. Default: no key.
    pub fn key_field(mut self, field: impl Into<Arc<str>>) -> Self {
        self.key = KeyBy::Field(field.into());
        self
    }

    /// Takes the key that this function finds in a line. It must find the same in every run; one that
    /// panics has found none.
    pub fn key_by(mut self, key: impl Fn(&[u8]) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        self.key = KeyBy::Function(Arc::new(key));
        self
    }

    /// Keeps what is settled in this file, and goes on from there. Beside it is a second file,
    /// `.delivered`. Default: none, so that every run begins at the start. A file that has been read to its end has
    /// nothing more to give; [`forget`](super::forget) its checkpoint to read it again.
    pub fn checkpoint(mut self, path: impl Into<PathBuf>) -> Self {
        self.checkpoint = Some(path.into());
        self
    }

    /// The longest line that is held, in bytes; default 16 MiB. With a checkpoint of several shards it must stay the same:
    /// a line that is not held is in shard 0, whatever its key.
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// When the event in a line arrived, as the line itself says. It must say the same in every run;
    /// `None` or a panic stands for the default.
    pub fn arrival_by(
        mut self,
        arrival: impl Fn(&[u8]) -> Option<Timestamp> + Send + Sync + 'static,
    ) -> Self {
        self.arrival_by = Some(Arc::new(arrival));
        self
    }

    /// Waits at the end of the file for more, instead of ending there; default `false`. Not for compressed
    /// files. A file that becomes shorter is an error.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// How often a file that is followed is looked at; default 250 ms.
    pub fn poll_every(mut self, every: Duration) -> Self {
        self.poll_every = every.max(Duration::from_millis(1));
        self
    }

    fn name(&self) -> Arc<str> {
        self.stream.clone().unwrap_or_else(|| file_name(&self.path))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let field = |name| format!("file source {:?}: {name}", self.path);
        if self.shards == 0 || self.shards > 4096 {
            return Err(ConfigError::new(field("shards"), self.shards, "a number from 1 to 4096"));
        }
        if self.max_line == 0 {
            return Err(ConfigError::new(field("max_line"), 0, "a number of bytes from 1"));
        }
        Ok(())
    }

    fn start(&self) -> State {
        let mut spec = Spec {
            path: self.path.clone(),
            stream: self.name(),
            shards: self.shards,
            key: self.key.clone(),
            max_line: self.max_line,
            arrival: Timestamp::default(),
            arrival_by: self.arrival_by.clone(),
            follow: self.follow,
        };
        let checkpoint = self.checkpoint.clone();
        let unwanted = Unwanted(Arc::default());
        let dropped = unwanted.0.clone();
        let job = spawn_blocking(move || {
            // before anything is written: a file that cannot be read gets no checkpoint
            Input::open(&spec.path)?;
            spec.arrival = std::fs::metadata(&spec.path)
                .and_then(|metadata| metadata.modified())
                .map_err(|e| FileError::io(&spec.path, "look at the file", e))?
                .into();
            let open = |path: PathBuf| Checkpoint::open(&path, &spec, &dropped);
            let checkpoint = checkpoint.map(open).transpose()?;
            if let Some(checkpoint) = &checkpoint {
                spec.arrival = checkpoint.arrival();
            }
            Ok((spec, checkpoint))
        });
        State::Opening { job, _unwanted: unwanted }
    }

    fn opened(&self, spec: Spec, checkpoint: Option<Checkpoint>) -> State {
        let (spec, checkpoint) = (Arc::new(spec), checkpoint.map(Arc::new));
        let shard = |n: usize| {
            let reader = Reader::new(spec.clone(), n, checkpoint.clone(), self.poll_every);
            (reader, Acker::new(checkpoint.clone(), n), ShardId::from(n.to_string()))
        };
        State::Open((0..spec.shards).map(shard).collect())
    }
}

fn file_name(path: &Path) -> Arc<str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into()
}

#[async_trait]
impl source::Source for Source {
    type Reader = Reader;
    type Acker = Acker;

    fn caps(&self) -> Caps {
        let caps = Caps::new("file", &*self.name(), Acknowledge::Prefix);
        if self.checkpoint.is_some() { caps.with_delivery_counts() } else { caps }
    }

    async fn next(&mut self) -> Result<Option<Change<Reader, Acker>>, SourceError> {
        loop {
            match &mut self.state {
                State::Closed => {
                    self.check().map_err(SourceError::fatal)?;
                    self.state = self.start();
                }
                State::Opening { job, .. } => {
                    let result = job.await;
                    // whatever came of it, a finished handle must not be awaited again
                    self.state = State::Closed;
                    let (spec, checkpoint) = result.map_err(join_error)??;
                    self.state = self.opened(spec, checkpoint);
                }
                State::Open(shards) => {
                    let change = shards.pop_front();
                    return Ok(change.map(|(reader, acker, shard)| Change::Assigned {
                        shard,
                        reader,
                        acker,
                    }));
                }
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?}, {} shards)", self.path, self.shards)
    }
}
