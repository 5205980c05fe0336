//! Opens a file for reading, unpacked if it is packed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::error::FileError;

/// The bytes of a file, unpacked.
pub(super) enum Input {
    Plain(File),
    #[cfg_attr(not(any(feature = "gzip", feature = "zstd")), allow(dead_code))]
    Packed(Box<dyn Read + Send>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

/// How a file is packed: by its first bytes. A name that promises what the bytes do not keep is refused,
/// for it would be read as text.
fn packing(path: &Path, head: &[u8]) -> Result<Packing, FileError> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Packing::Gzip);
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Packing::Zstd);
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "zst") if !head.is_empty() => Err(FileError::new(
            path,
            "its name says that it is compressed, its first bytes say that it is not; \
             rename it, or repair it",
        )),
        _ => Ok(Packing::None),
    }
}

#[cfg_attr(all(feature = "gzip", feature = "zstd"), allow(dead_code))]
fn missing(path: &Path, kind: &str, feature: &str) -> FileError {
    let what = format!(
        "it is compressed with {kind}; build streambreaker with the feature `{feature}`, or unpack it"
    );
    FileError::new(path, what)
}

impl Input {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let error = |e| FileError::io(path, "open it for reading", e);
        let mut file = File::open(path).map_err(error)?;
        let kind = file.metadata().map_err(error)?.file_type();
        if kind.is_dir() {
            return Err(FileError::new(path, "it is a directory; give a file in it"));
        }
        if !kind.is_file() {
            return Err(FileError::new(
                path,
                "it is not a regular file, so no position in it lasts",
            ));
        }
        let mut head = Vec::with_capacity(4);
        (&mut file).take(4).read_to_end(&mut head).map_err(error)?;
        file.rewind().map_err(error)?;
        match packing(path, &head)? {
            Packing::None => Ok(Self::Plain(file)),
            #[cfg(feature = "gzip")]
            Packing::Gzip => {
                // files that were appended to have several members; all of them count
                Ok(Self::Packed(Box::new(flate2::bufread::MultiGzDecoder::new(
                    io::BufReader::with_capacity(1 << 16, file),
                ))))
            }
            #[cfg(not(feature = "gzip"))]
            Packing::Gzip => Err(missing(path, "gzip", "gzip")),
            #[cfg(feature = "zstd")]
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(file).map_err(error)?;
                Ok(Self::Packed(Box::new(decoder)))
            }
            #[cfg(not(feature = "zstd"))]
            Packing::Zstd => Err(missing(path, "zstd", "zstd")),
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// The length, where it can be told without reading.
    pub(super) fn plain_len(&self) -> Option<u64> {
        match self {
            Self::Plain(file) => file.metadata().ok().map(|metadata| metadata.len()),
            Self::Packed(_) => None,
        }
    }

    /// Goes to an offset of the unpacked bytes, from the beginning. Says how far it came.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<u64> {
        match self {
            Self::Plain(file) => {
                let end = file.metadata()?.len();
                file.seek(SeekFrom::Start(offset.min(end)))
            }
            Self::Packed(read) => io::copy(&mut read.take(offset), &mut io::sink()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Packed(read) => read.read(buffer),
        }
    }
}
