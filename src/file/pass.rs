//! One shard's pass over the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::error::FileError;
use super::input::Input;
use super::key::{Key, KeyBy};
use super::splitter::{CHUNK, Cut, Line, Splitter};
use crate::record::{Position, Record, ShardId, Timestamp};
use crate::source::{Room, UNREADABLE, shard_of};

/// How many chunks are gone through without finding a line of the shard before the caller may stop.
const STRETCH: usize = 64;

/// When a line arrived, as the line itself says.
pub(super) type ArrivalFn = Arc<dyn Fn(&[u8]) -> Option<Timestamp> + Send + Sync>;

/// What all shards of a source have in common.
#[derive(Clone)]
pub(super) struct Spec {
    pub(super) path: PathBuf,
    pub(super) stream: Arc<str>,
    pub(super) shards: usize,
    pub(super) key: KeyBy,
    pub(super) max_line: usize,
    pub(super) arrival: Timestamp,
    pub(super) arrival_by: Option<ArrivalFn>,
    pub(super) follow: bool,
}

/// A pass over the file for the lines of one shard.
pub(super) struct Pass {
    spec: Arc<Spec>,
    shard: usize,
    id: ShardId,
    /// How far earlier lives had delivered that died of it.
    died_at: Arc<[u64]>,
    input: Input,
    splitter: Splitter,
    /// Whether the line comes that was settled last.
    settled_line: bool,
    ended: bool,
    /// A line that did not fit into the last batch.
    held: Option<Own>,
}

/// A line of this shard.
struct Own {
    offset: u64,
    line: Line,
    key: Key,
    deliveries: u32,
}

impl Own {
    /// As [`Record::size`] will be; about that for a line that is not held.
    fn size(&self) -> usize {
        match &self.line {
            Line::Held(bytes) => bytes.len() + self.key.of(bytes).map_or(0, <[u8]>::len),
            Line::TooLong(_) => 3 * UNREADABLE.len(),
        }
    }

    fn held(&self) -> usize {
        match &self.line {
            Line::Held(bytes) => bytes.len(),
            Line::TooLong(_) => 0,
        }
    }
}

/// What one go gave.
pub(super) enum Filled {
    Batch(Vec<Record>),
    /// No line of the shard in a long stretch; there may be more.
    Nothing,
    /// The end of the file, for now.
    End,
}

impl Pass {
    /// Begins behind the line that starts at `after`, or at the beginning.
    pub(super) fn open(
        spec: Arc<Spec>,
        shard: usize,
        died_at: Arc<[u64]>,
        after: Option<u64>,
    ) -> Result<Self, FileError> {
        let mut input = Input::open(&spec.path)?;
        if spec.follow && input.is_packed() {
            let what = "a compressed file cannot be followed; unpack it, or do not follow";
            return Err(FileError::new(&spec.path, what));
        }
        let start = after.unwrap_or(0);
        let reached = input.skip_to(start).map_err(|e| read_error(&spec, &input, 0, e))?;
        if reached < start {
            return Err(shrunk(&spec, start));
        }
        let splitter = Splitter::new(start, spec.max_line);
        let (id, settled_line) = (ShardId::from(shard.to_string()), after.is_some());
        let (ended, held) = (false, None);
        Ok(Self { spec, shard, id, died_at, input, splitter, settled_line, ended, held })
    }

    /// Fills one batch. Blocks: for a thread that may.
    pub(super) fn fill(&mut self, room: Room) -> Result<Filled, FileError> {
        let (mut batch, mut bytes) = (Vec::<Own>::new(), 0usize);
        for _ in 0..STRETCH {
            while let Some(own) = self.next_own() {
                bytes = bytes.saturating_add(own.size());
                // one that may have killed the process comes alone, so that it can be run alone
                let suspect = own.deliveries > 1;
                let fits = batch.len() < room.records && bytes <= room.bytes && !suspect;
                if !batch.is_empty() && !fits {
                    self.held = Some(own);
                    return Ok(self.finish(batch));
                }
                batch.push(own);
                if suspect {
                    return Ok(self.finish(batch));
                }
            }
            if !batch.is_empty() {
                return Ok(self.finish(batch));
            }
            if self.ended {
                return Ok(Filled::End);
            }
            let read = self.splitter.read_from(&mut self.input);
            let offset = self.splitter.offset();
            if read.map_err(|e| read_error(&self.spec, &self.input, offset, e))? == 0 {
                if self.input.plain_len().is_some_and(|length| length < offset) {
                    return Err(shrunk(&self.spec, offset));
                }
                if self.spec.follow {
                    return Ok(Filled::End);
                }
                self.ended = true;
                self.splitter.close();
            }
        }
        Ok(if batch.is_empty() { Filled::Nothing } else { self.finish(batch) })
    }

    /// The next line of this shard that is at hand.
    fn next_own(&mut self) -> Option<Own> {
        if let Some(own) = self.held.take() {
            return Some(own);
        }
        loop {
            let Cut { offset, line } = self.splitter.next()?;
            if std::mem::take(&mut self.settled_line) {
                continue;
            }
            let (key, shard) = match &line {
                Line::Held(bytes) if bytes.is_empty() || **bytes == *b"\r" => continue,
                Line::Held(bytes) => {
                    let key = self.spec.key.of(bytes);
                    let shard = shard_of(key.of(bytes).unwrap_or(bytes), self.spec.shards);
                    (key, shard)
                }
                // its key is not known, and every shard must come to the same
                Line::TooLong(_) => (Key::None, 0),
            };
            if shard == self.shard {
                let died = self.died_at.iter().filter(|below| offset < **below).count();
                let deliveries = u32::try_from(died).unwrap_or(u32::MAX).saturating_add(1);
                return Some(Own { offset, line, key, deliveries });
            }
        }
    }

    fn finish(&self, mut batch: Vec<Own>) -> Filled {
        let bytes: usize = batch.iter().map(Own::held).sum();
        if self.spec.shards > 1 || bytes < CHUNK / 2 {
            repack(&mut batch, bytes);
        }
        Filled::Batch(batch.into_iter().map(|own| self.record(own)).collect())
    }

    fn record(&self, own: Own) -> Record {
        let position = Position::from(own.offset);
        let (stream, shard) = (self.spec.stream.clone(), self.id.clone());
        let record = match own.line {
            Line::Held(bytes) => {
                let arrival = self.arrival(&bytes);
                let key = own.key.take(&bytes);
                let record = Record::new(stream, shard, position, bytes).with_arrival(arrival);
                match key {
                    Some(key) => record.with_key(key),
                    None => record,
                }
            }
            Line::TooLong(length) => {
                // without the limit: it may be another one when the record comes again, and the record must not
                let why = format!("a line of {length} bytes is over the limit (`max_line`)");
                Record::new(stream, shard, position, Bytes::new())
                    .with_header(UNREADABLE, why)
                    .with_arrival(self.spec.arrival)
            }
        };
        record.with_deliveries(own.deliveries)
    }

    /// As for keys: a function that panics has nothing to say.
    fn arrival(&self, line: &[u8]) -> Timestamp {
        let said =
            self.spec.arrival_by.as_ref().and_then(|arrival| {
                catch_unwind(AssertUnwindSafe(|| arrival(line))).ok().flatten()
            });
        said.unwrap_or(self.spec.arrival)
    }
}

/// Copies the lines of a batch into one buffer of their own: a few lines must not keep the whole chunk in
/// memory that they were read in, and not the lines of other shards.
fn repack(batch: &mut [Own], bytes: usize) {
    let mut buffer = BytesMut::with_capacity(bytes);
    for own in batch {
        if let Line::Held(bytes) = &mut own.line {
            buffer.extend_from_slice(bytes);
            *bytes = buffer.split().freeze();
        }
    }
}

fn read_error(spec: &Spec, input: &Input, offset: u64, error: std::io::Error) -> FileError {
    if input.is_packed() {
        let what = format!("unpack it behind offset {offset} of its content (is it complete?)");
        return FileError::io(&spec.path, &what, error).for_good();
    }
    FileError::io(&spec.path, &format!("read it at offset {offset}"), error)
}

fn shrunk(spec: &Spec, offset: u64) -> FileError {
    let what = format!(
        "it ends before offset {offset}, which has been read already: it was replaced or cut off; \
         read the new file under a checkpoint of its own"
    );
    FileError::new(&spec.path, what)
}
