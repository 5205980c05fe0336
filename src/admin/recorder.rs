//! The recorder of metrics whose content `/metrics` shows.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::AdminError;

/// Holds what the process tells the `metrics` facade, and prints it in the text format of Prometheus. Cheap to
/// clone. Made by [`recorder`].
#[derive(Clone)]
pub struct Recorder(PrometheusHandle);

impl Recorder {
    /// All metrics, in the text format of Prometheus.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Puts histograms in order, so that they do not grow between two scrapes.
    pub(super) fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

static INSTALLED: Mutex<Option<Recorder>> = Mutex::new(None);

/// Installs a recorder for the metrics of the whole process: those of this crate, each with the question it answers
/// as its `HELP`, and whatever else the component tells the `metrics` facade. The second call gives the same
/// recorder. To be called before the processor runs: what was told before it is lost.
///
/// A component that has a recorder of its own gives its text to [`Bind::metrics_by`](super::Bind::metrics_by).
///
/// # Errors
/// [`AdminError::Recorder`] if another recorder has been installed.
pub fn recorder() -> Result<Recorder, AdminError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(recorder) = &*installed {
        return Ok(recorder.clone());
    }
    let prometheus = PrometheusBuilder::new().build_recorder();
    let recorder = Recorder(prometheus.handle());
    metrics::set_global_recorder(prometheus).map_err(|_| AdminError::Recorder)?;
    describe(include_str!("../../docs/metrics.md"));
    *installed = Some(recorder.clone());
    Ok(recorder)
}

/// Tells the recorder what the table in `document` says of each metric.
fn describe(document: &'static str) {
    for (name, kind, question) in rows(document) {
        match kind {
            "counter" => metrics::describe_counter!(name, question),
            _ => metrics::describe_gauge!(name, question),
        }
    }
}

/// Name, kind and question of each metric in the table.
fn rows(
    document: &'static str,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.trim_end_matches('|').splitn(5, '|');
        let name = cells.next()?.trim().strip_suffix('`')?;
        let kind = cells.next()?.trim();
        let question = cells.nth(2)?.trim();
        // other tables have other columns
        matches!(kind, "counter" | "gauge").then_some((name, kind, question))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_document_is_described() {
        let document = include_str!("../../docs/metrics.md");
        let rows: Vec<_> = rows(document).collect();
        assert_eq!(rows.len(), document.matches("\n| `streambreaker_").count());
        assert!(rows.len() > 20);
        for (name, _, question) in rows {
            assert!(question.contains(['?', '.']), "{name}: {question}");
        }
    }
}
