//! Writing so that it is still there after the power fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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

/// What is held while a file is looked at and then replaced: by nobody else in this process. Another process is
/// not kept out.
pub(super) fn turn(path: &Path) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<PathBuf, Weak<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = turns.get(path).and_then(Weak::upgrade) {
        return turn;
    }
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::default();
    turns.insert(path.to_owned(), Arc::downgrade(&turn));
    turn
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
