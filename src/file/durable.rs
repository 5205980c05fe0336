//! Writing so that it is still there after the power fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `path` with `suffix` behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the names in a directory durable. Only Unix can, and only there it is needed.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Whether a replaced file must outlive the machine, or only this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlives {
    Machine,
    Process,
}

/// Replaces a file as a whole: whoever looks sees the old or the new one. Yields the new one.
pub(super) fn replace(path: &Path, content: &[u8], outlives: Outlives) -> io::Result<File> {
    let dir = parent(path);
    fs::create_dir_all(dir)?;
    let temporary = beside(path, ".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    if outlives == Outlives::Machine {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if outlives == Outlives::Machine {
        sync_dir(dir)?;
    }
    Ok(file)
}
