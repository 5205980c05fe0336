//! Fault events in a file: one a line.

use std::path::{Path, PathBuf};

use super::error::FileError;
use super::input::Input;
use super::sink::Lines;
use super::splitter::{Cut, Line, Splitter};
use crate::fault::{FaultEvent, FaultParseError};

/// The longest fault event that is read: a group's holds all its records.
const MAX_FAULT: usize = 256 << 20;

/// A fault sink that appends to this file: [`Lines`] of fault events.
///
/// # Errors
/// When the file cannot be made or written to.
pub fn faults(path: impl Into<PathBuf>) -> Result<Lines<FaultEvent>, FileError> {
    Lines::open(path, |event: &FaultEvent| Ok(event.to_json()))
}

/// Reads the fault events of a file, one after the other; also of one that is compressed. Blocks.
///
/// # Errors
/// When the file cannot be opened. What is wrong with a line comes in its place, and the lines behind it
/// after it.
pub fn read_faults(path: impl AsRef<Path>) -> Result<ReadFaults, FileError> {
    let path = path.as_ref().to_owned();
    let input = Input::open(&path)?;
    let splitter = Splitter::new(0, MAX_FAULT);
    Ok(ReadFaults { path, input, splitter, line: 0, ended: false })
}

/// A line that holds no fault event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultLineError {
    /// The last line has no end and is no event: a crash has cut it off. It was never confirmed.
    #[error(
        "line {line}, at offset {offset}, was cut off: it was never confirmed, and its fault comes again; skip it"
    )]
    Torn {
        /// Its number, from 1.
        line: u64,
        /// Where it begins.
        offset: u64,
    },
    /// The line is no fault event.
    #[error("line {line}, at offset {offset}, is no fault event; skip it, or mend the line")]
    Parse {
        /// Its number, from 1.
        line: u64,
        /// Where it begins.
        offset: u64,
        /// Why.
        source: FaultParseError,
    },
    /// The line is longer than 256 MiB.
    #[error(
        "line {line}, at offset {offset}, has {length} bytes, over the limit of 256 MiB; skip it"
    )]
    TooLong {
        /// Its number, from 1.
        line: u64,
        /// Where it begins.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The file cannot be read further.
    #[error("the file cannot be read further; its cause says why")]
    Read(#[source] FileError),
}

/// The fault events of a file: see [`read_faults`].
pub struct ReadFaults {
    path: PathBuf,
    input: Input,
    splitter: Splitter,
    line: u64,
    ended: bool,
}

impl ReadFaults {
    fn parse(&self, Cut { offset, line }: Cut) -> Option<Result<FaultEvent, FaultLineError>> {
        let number = self.line;
        match line {
            Line::Held(bytes) if bytes.is_empty() || *bytes == *b"\r" => None,
            Line::Held(bytes) => Some(FaultEvent::from_json(&bytes).map_err(|source| {
                // only the last line can come after the end, and only where it has none of its own
                match self.ended {
                    true => FaultLineError::Torn { line: number, offset },
                    false => FaultLineError::Parse { line: number, offset, source },
                }
            })),
            Line::TooLong(length) => {
                Some(Err(FaultLineError::TooLong { line: number, offset, length }))
            }
        }
    }
}

impl Iterator for ReadFaults {
    type Item = Result<FaultEvent, FaultLineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(cut) = self.splitter.next() {
                self.line += 1;
                if let Some(result) = self.parse(cut) {
                    return Some(result);
                }
            }
            if self.ended {
                return None;
            }
            match self.splitter.read_from(&mut self.input) {
                Ok(0) => {
                    self.ended = true;
                    self.splitter.close();
                }
                Ok(_) => {}
                Err(e) => {
                    self.ended = true;
                    let what = format!("read it at offset {}", self.splitter.offset());
                    return Some(Err(FaultLineError::Read(FileError::io(&self.path, &what, e))));
                }
            }
        }
    }
}
