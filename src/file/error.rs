//! What goes wrong with files: always with the path, and with what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::io_is_transient;
use crate::source::SourceError;

/// A file that cannot be used. Its text names the path, what is wrong, and what can be done.
#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {what}")]
pub struct FileError {
    path: PathBuf,
    what: String,
    transient: bool,
    #[source]
    source: Option<io::Error>,
}

impl FileError {
    /// Something that stays wrong until somebody changes it.
    pub(super) fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into(), transient: false, source: None }
    }

    /// An I/O error while doing `what`.
    pub(super) fn io(path: &Path, what: &str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => ": there is no such file; check the path",
            io::ErrorKind::PermissionDenied => ": permission denied; check owner and mode",
            io::ErrorKind::StorageFull => ": the disk is full; make room",
            io::ErrorKind::NotADirectory => ": a part of the path is not a directory",
            io::ErrorKind::ReadOnlyFilesystem => ": the file system is read-only",
            _ => "",
        };
        Self {
            path: path.to_owned(),
            what: format!("cannot {what}{hint}"),
            transient: io_is_transient(&source),
            source: Some(source),
        }
    }

    /// The same, but not worth another try.
    pub(super) fn for_good(mut self) -> Self {
        self.transient = false;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl From<FileError> for SourceError {
    fn from(error: FileError) -> Self {
        if error.transient { Self::transient(error) } else { Self::fatal(error) }
    }
}
