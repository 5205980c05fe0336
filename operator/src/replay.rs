//! `replay`, and what it shares with `repair`.

use clap::Args;
use serde_json::json;
use streambreaker::{BoxError, By, Processor, ProcessorBuilder, Report, RunError};
use streambreaker_lake::{DryRun, LakeSource};
use uuid::Uuid;

use crate::args::{LakeAt, Output, Pace, RecordArgs, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::progress::{Step, watched};
use crate::text::{bytes_counted, counted, escaped, escaped_lines};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 replay --since 2026-03-01 --until 2026-04-01          how much that would be
  $0 replay --type order-submitted --pipeline totals --send --why \"a fresh table\"
  $0 replay --id ca44a2f0-5e30-5a7f-87ee-8ce9515cdc8d      one event
  $0 replay --rate 500 --resume 018e8c5e-0000-7000-8000-000000000001 --send --why \"goes on\"

The records go through the component's own pipelines and guards, marked as replayed. Its checkpoint stays where it is, and
nothing is published unless a step says so. Without --send nothing is sent.")]
pub(crate) struct Replay {
    #[command(flatten)]
    which: RecordArgs,
    /// Into this pipeline only; may be repeated [default: all]
    #[arg(long, help_heading = "How")]
    pipeline: Vec<String>,
    #[command(flatten)]
    pace: Pace,
    /// Go on with a run that was broken off, behind what it has settled
    #[arg(long, value_name = "RUN", help_heading = "How")]
    resume: Option<Uuid>,
    /// Send them; without it, only say how many they are
    #[arg(long, visible_alias = "yes", help_heading = "How")]
    send: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    output: Output,
}

/// Records of the lake that are to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) source: LakeSource,
    pub(crate) stream: &'a str,
    pub(crate) processor: &'a Processor,
    pub(crate) pace: Pace,
    pub(crate) by: &'a By,
}

/// What became of the records that were sent.
pub(crate) struct Sent {
    pub(crate) run: Uuid,
    pub(crate) counts: DryRun,
    pub(crate) report: Report,
    pub(crate) exit: Exit,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn replay(
        &self,
        replay: &Replay,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let by = replay.send.then(|| replay.who.by()).transpose()?;
        let lake = self.places.lake(&replay.lake)?;
        let stream = self.places.stream(&lake, replay.which.stream.as_deref()).await?;
        let now = self.now();
        let selection = replay.which.selection(&stream, now)?;
        let processor = self.build(Task::Replay, &replay.pipeline).await?;
        let Some(by) = by else {
            let counts = lake.dry_run(&selection).await?;
            let json = json!({
                "dry_run": true,
                "stream": stream,
                "pipelines": names(&processor),
                "records": counts.records,
                "bytes": counts.bytes,
                "objects": counts.objects,
                "skipped": skipped(&counts),
            });
            let text = format!(
                "dry run: {} of {} ({}) would go into {}\n",
                counted(counts.records, "record"),
                escaped(&stream),
                bytes_counted(counts.bytes),
                escaped(&names(&processor).join(", ")),
            );
            tell(console, replay.output, &json, &text)?;
            note_damaged(&counts, console);
            if replay.resume.is_some() {
                console.note("what the run has settled already is counted, too");
            }
            console.note_nothing_sent();
            return Ok(looked_at(&counts));
        };
        let mut source = lake.replay(selection);
        let run = replay.resume.unwrap_or(source.run_id());
        source = source.resumable(run).target(names(&processor).join("\n"));
        let again = format!(
            "the same command goes on with --resume {run}{}",
            replay.which.at_fixed_times(now)
        );
        console.note(&format!("run {run}; should it be broken off, {again}"));
        let pace = replay.pace;
        let what = Sending { source, stream: &stream, processor: &processor, pace, by: &by };
        let sent = self.send(what, console).await?;
        let json = json!({
            "dry_run": false,
            "stream": stream,
            "run": sent.run,
            "records": sent.counts.records,
            "bytes": sent.counts.bytes,
            "skipped": skipped(&sent.counts),
            "report": sent.report,
        });
        tell(console, replay.output, &json, &format!("{}\n", sent.report))?;
        note_damaged(&sent.counts, console);
        note_faults(&sent.report, console);
        // what could not be read is left, and would be again
        if sent.report.stopped || sent.report.exit_code() == 3 {
            console.note(&format!("it was not finished: {again}"));
        }
        Ok(sent.exit)
    }

    /// Sends records of the lake into the component.
    pub(crate) async fn send(
        &self,
        what: Sending<'_>,
        console: &mut Console,
    ) -> Result<Sent, Failure> {
        let Sending { mut source, stream, processor, pace, by } = what;
        if let Some(rate) = pace.rate {
            source = source.rate(rate);
        }
        let (run, progress) = (source.run_id(), source.progress());
        let step = || {
            let counts = progress.counts();
            let part = counts.stored_records_read as f64 / counts.stored_records as f64;
            Step { part, count: counts.records }
        };
        let work = processor.run_from(source, self.shutdown());
        let ended = watched(console, "records", step, work).await;
        let counts = progress.counts();
        tracing::info!(
            target: "streambreaker::audit", who = by.who(), why = by.why(), processor = processor.name(),
            stream, %run, records = counts.records, "records were replayed",
        );
        let (report, failed) = ended_as(ended)?;
        if let Some(failed) = &failed {
            console.note(&format!("{}: {failed}", self.name));
        }
        let exit = match (&failed, report.exit_code()) {
            (Some(failed), _) => failed.exit,
            (None, 1) => Exit::Failed,
            (None, 0) if !report.stopped && counts.damaged.is_empty() && report.gaps.is_empty() => {
                Exit::Done
            }
            _ => Exit::Partly,
        };
        Ok(Sent { run, counts, report, exit })
    }
}

/// The report of a run, and why it ended, where it was not in order.
pub(crate) fn ended_as(
    ended: Result<Report, RunError>,
) -> Result<(Report, Option<Failure>), Failure> {
    match ended {
        Ok(report) => Ok((report, None)),
        // it has drained all the same, and accounts for it; the cause says what to do
        Err(RunError::Ended { report, source: Some(cause), .. }) => {
            Ok((*report, Some(Failure::of_source(cause))))
        }
        Err(RunError::Ended { report, error, .. }) => {
            Ok((*report, Some(Failure::failed(format!("the processor ended: {error}")))))
        }
        Err(error @ RunError::OverBudget(_)) => {
            Err(Failure { exit: Exit::Unusable, ..Failure::failed(error) })
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

/// The pipelines that take part.
pub(crate) fn names(processor: &Processor) -> Vec<String> {
    let status = processor.handle().status();
    let enabled = status.pipelines.into_iter().filter(|(_, pipeline)| pipeline.records.enabled);
    enabled.map(|(name, _)| name).collect()
}

/// How a dry run ends: what could not be read is not in its counts.
pub(crate) fn looked_at(counts: &DryRun) -> Exit {
    if counts.damaged.is_empty() { Exit::Done } else { Exit::Partly }
}

pub(crate) fn skipped(counts: &DryRun) -> Vec<String> {
    counts.damaged.iter().map(|(path, damage)| format!("{path}: {damage}")).collect()
}

/// How what was set aside is looked at.
pub(crate) fn note_faults(report: &Report, console: &mut Console) {
    if report.faults_stored > 0 {
        console.note("`faults group --open` says what was set aside, `resubmit` sends it again");
    }
}

pub(crate) fn note_damaged(counts: &DryRun, console: &mut Console) {
    for place in skipped(counts) {
        console.note(&format!("skipped, as it cannot be read: {place}"));
    }
}

/// A result, as it was asked for. The text is escaped where others have written it.
pub(crate) fn tell(
    console: &mut Console,
    output: Output,
    json: &serde_json::Value,
    text: &str,
) -> Result<(), Failure> {
    match output.json {
        true => console.json(json),
        false => console.print(&escaped_lines(text)),
    }
}
