//! How far each shard was delivered in this life of the process, so that the next one knows.
//!
//! A record that kills the process is noticed by its being delivered again and again (rule I10). What is
//! written here need only survive the process, not the machine, so there is no `fsync`: one write of 21
//! bytes a batch.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::durable::{Outlives, beside, replace};

const OWNER: u64 = 37;
const ENTRY: u64 = 21;

/// The file beside a checkpoint: the owner's id, then a line a shard, each of fixed width.
pub(super) struct Delivered {
    file: File,
    below: Vec<u64>,
}

pub(super) fn path_of(checkpoint: &Path) -> PathBuf {
    beside(checkpoint, ".delivered")
}

/// Below which offset each shard had been delivered when `owner` died; nothing where it is not its file.
pub(super) fn read(checkpoint: &Path, owner: Uuid) -> io::Result<Vec<u64>> {
    let text = match fs::read_to_string(path_of(checkpoint)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // not text: torn by a crash of the machine, and nobody depends on it
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut lines = text.lines();
    if lines.next() != Some(&owner.to_string()) {
        return Ok(Vec::new());
    }
    Ok(lines.map(|line| line.parse().unwrap_or(0)).collect())
}

impl Delivered {
    /// Begins a life in which nothing has been delivered yet.
    pub(super) fn begin(checkpoint: &Path, owner: Uuid, shards: usize) -> io::Result<Self> {
        let mut text = format!("{owner}\n");
        for _ in 0..shards {
            text.push_str(&format!("{:020}\n", 0));
        }
        let file = replace(&path_of(checkpoint), text.as_bytes(), Outlives::Process)?;
        Ok(Self { file, below: vec![0; shards] })
    }

    /// Notes that all records of a shard below this offset have been delivered.
    pub(super) fn advance(&mut self, shard: usize, below: u64) -> io::Result<()> {
        if self.below[shard] >= below {
            return Ok(());
        }
        self.set(shard, below)
    }

    /// Forgets a shard: it was given back in peace, so none of its records killed anybody.
    pub(super) fn forget(&mut self, shard: usize) -> io::Result<()> {
        self.set(shard, 0)?;
        // nor will one that a read yields which was dropped, and whose thread goes on
        self.below[shard] = u64::MAX;
        Ok(())
    }

    fn set(&mut self, shard: usize, below: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(OWNER + ENTRY * shard as u64))?;
        self.file.write_all(format!("{below:020}\n").as_bytes())?;
        self.below[shard] = below;
        Ok(())
    }
}
