//! The time budget: what one unit may take from its first start to its decision, stage by stage, beside the
//! deadline of its source.

use std::fmt;
use std::time::Duration;

use crate::flow::{StagePlan, named_stages, saturating_sum};

/// The share of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    stage: String,
    resource: Option<String>,
    linger: Duration,
    attempts: u32,
    timeout: Duration,
    backoffs: Duration,
    rate: Duration,
    total: Duration,
}

/// The worst case of one unit in one pipeline. Queueing for permits, a paused breaker and the fault sink are
/// no part of it: they are handled at run time, by extending leases or by not starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeBudget {
    pub(crate) pipeline: String,
    rows: Vec<Row>,
    pub(crate) total: Duration,
}

impl TimeBudget {
    pub(crate) fn of(pipeline: &str, plan: &[StagePlan]) -> Self {
        let rows: Vec<Row> = named_stages(plan)
            .into_iter()
            .zip(plan)
            .map(|(info, stage)| {
                let mut row = Row {
                    stage: info.name,
                    resource: info.resource,
                    linger: stage.linger(),
                    attempts: 0,
                    timeout: Duration::ZERO,
                    backoffs: Duration::ZERO,
                    rate: Duration::ZERO,
                    total: stage.linger(),
                };
                if let Some(resource) = &stage.resource {
                    let budget = resource.budget(stage.width.unwrap_or(1));
                    row.attempts = budget.attempts;
                    row.timeout = budget.timeout;
                    row.backoffs = budget.backoffs;
                    row.rate = budget.rate;
                    row.total = row.linger.saturating_add(budget.total);
                }
                row
            })
            .collect();
        let total = saturating_sum(rows.iter().map(|row| row.total));
        Self { pipeline: pipeline.to_owned(), rows, total }
    }
}

struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.pad("-");
        }
        let text = if self.0 < Duration::from_secs(10) {
            format!("{} ms", self.0.as_millis())
        } else {
            format!("{:.1} s", self.0.as_secs_f64())
        };
        f.pad(&text)
    }
}

impl fmt::Display for TimeBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |header: &str, all: &mut dyn Iterator<Item = usize>| {
            all.max().unwrap_or(0).max(header.len())
        };
        let stage = width("stage", &mut self.rows.iter().map(|row| row.stage.len()));
        let resource = width(
            "resource",
            &mut self.rows.iter().map(|row| row.resource.as_ref().map_or(1, String::len)),
        );
        writeln!(f, "pipeline `{}`: one unit may take {}", self.pipeline, Span(self.total))?;
        write!(
            f,
            "  {:<stage$}  {:<resource$} {:>10} {:>14} {:>10} {:>10} {:>10}",
            "stage", "resource", "linger", "attempts", "backoffs", "rate", "total"
        )?;
        for row in self.rows.iter().filter(|row| !row.total.is_zero()) {
            let attempts = if row.attempts == 0 {
                "-".to_owned()
            } else {
                format!("{} x {}", row.attempts, Span(row.timeout))
            };
            write!(
                f,
                "\n  {:<stage$}  {:<resource$} {:>10} {:>14} {:>10} {:>10} {:>10}",
                row.stage,
                row.resource.as_deref().unwrap_or("-"),
                Span(row.linger),
                attempts,
                Span(row.backoffs),
                Span(row.rate),
                Span(row.total)
            )?;
        }
        Ok(())
    }
}
