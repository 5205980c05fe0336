//! The progress bar: how far into the file the farthest shard is.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use streambreaker::Received;

#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    farthest: Arc<AtomicU64>,
}

impl Progress {
    /// A bar on standard error, if that is a terminal.
    pub(crate) fn new(file: &Path, quiet: bool) -> Self {
        let packed = matches!(file.extension().and_then(|e| e.to_str()), Some("gz" | "zst"));
        // positions are those of the unpacked file, whose length only its end knows
        let length = if packed { None } else { fs::metadata(file).map(|meta| meta.len()).ok() };
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "{wide_bar} {bytes}/{total_bytes} {eta}",
            None => "{spinner} {bytes} read, {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, farthest: Arc::default() }
    }

    pub(crate) fn saw(&self, record: &Received) {
        let Some(offset) = record.position().as_u64() else { return };
        let end = offset + record.payload().len() as u64;
        if self.farthest.fetch_max(end, Ordering::Relaxed) < end {
            self.bar.set_position(end);
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
