//! The effective plan of a processor, in words: after code and configuration have both been heard.

use std::fmt::Write;

use super::budget::TimeBudget;
use super::core::Core;
use crate::config::{Size, Span};
use crate::flow::named_stages;

pub(crate) fn explain(core: &Core, budgets: &[TimeBudget]) -> String {
    let mut text = String::new();
    // writing to a String cannot fail
    let _ = write_all(&mut text, core, budgets);
    text
}

fn write_all(text: &mut String, core: &Core, budgets: &[TimeBudget]) -> std::fmt::Result {
    let span = |duration| Span::from(duration).to_string();
    writeln!(text, "processor `{}`", core.name)?;
    writeln!(
        text,
        "  in flight: {} records and {} a shard, {} records and {} in all",
        core.limits.records,
        Size::from(core.limits.bytes),
        core.total_limits.records,
        Size::from(core.total_limits.bytes)
    )?;
    writeln!(
        text,
        "  commits every {} or {} records, each within {}; drains within {}; gives a record up after {} deliveries",
        span(core.commit.every),
        core.commit.records,
        span(core.commit.timeout),
        span(core.drain),
        core.max_deliveries
    )?;
    writeln!(
        text,
        "  a write to the fault sink: within {}; speaks up when nothing is settled for {}",
        span(core.desk.timeout),
        span(core.stall)
    )?;
    match core.deadline {
        Some(deadline) => writeln!(text, "  deadline of a record: {}", span(deadline))?,
        None => writeln!(text, "  deadline of a record: the source's")?,
    }
    for resource in &core.resources {
        writeln!(text, "{}", resource.describe())?;
    }
    for (pipeline, budget) in core.pipelines.iter().zip(budgets) {
        let stages: Vec<String> = named_stages(&pipeline.plan)
            .into_iter()
            .zip(&pipeline.plan)
            .map(|(info, stage)| stage.describe(&info.name))
            .collect();
        writeln!(
            text,
            "pipeline `{}`{}: {}",
            pipeline.info.name,
            if pipeline.enabled { "" } else { " (disabled)" },
            if stages.is_empty() { "no stages".to_owned() } else { stages.join(" -> ") }
        )?;
        writeln!(text, "  flood guard: {}", pipeline.info.flood.guard().describe())?;
        if !budget.total.is_zero() {
            writeln!(text, "{budget}")?;
        }
    }
    Ok(())
}
