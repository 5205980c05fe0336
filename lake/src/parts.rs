//! Objects of which only parts are at hand: their ends, mostly.

use std::ops::Range;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::Damage;

/// An object of which some parts are at hand: its end, or all of it.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    len: u64,
    /// Each with its offset.
    at_hand: Vec<(u64, Bytes)>,
}

impl Parts {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { len: bytes.len() as u64, at_hand: vec![(0, bytes)] }
    }

    /// The last bytes of an object of `len` bytes.
    pub(crate) fn tail(len: u64, bytes: Bytes) -> Self {
        Self { len, at_hand: vec![(len.saturating_sub(bytes.len() as u64), bytes)] }
    }

    pub(crate) fn add(&mut self, offset: u64, bytes: Bytes) {
        self.at_hand.push((offset, bytes));
    }

    /// Whether these bytes are at hand.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.at_hand.iter().any(|(offset, bytes)| {
            *offset <= range.start && range.end <= offset.saturating_add(bytes.len() as u64)
        })
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Parts {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let found = self.at_hand.iter().find_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        });
        found.map(Buf::reader).ok_or_else(|| ParquetError::EOF("beyond what was read".to_owned()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let found = self.at_hand.iter().find_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            let end = skip.checked_add(length)?;
            (end <= bytes.len()).then(|| bytes.slice(skip..end))
        });
        found.ok_or_else(|| ParquetError::EOF("beyond what was read".to_owned()))
    }
}

/// How many bytes at an object's end say how long its metadata is.
pub(crate) const TRAILER: u64 = 8;

/// How many bytes from the end the metadata begins, as the last bytes of an object say.
pub(crate) fn metadata_len(tail: &[u8]) -> Result<u64, Damage> {
    let trailer = tail
        .len()
        .checked_sub(TRAILER as usize)
        .map(|start| &tail[start..])
        .ok_or_else(|| Damage::Torn("it is shorter than any Parquet".to_owned()))?;
    if &trailer[4..] != b"PAR1" {
        return Err(Damage::Torn("its end is none of Parquet".to_owned()));
    }
    let len = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
    Ok(u64::from(len) + TRAILER)
}
