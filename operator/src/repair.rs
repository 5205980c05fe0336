//! `repair`: what the component never saw, read from the lake.
//!
//! Two things leave a range of records behind: the stream had lost it before it was read (a *gap*, rule S2), or a pipeline was
//! disabled while it went by. Both stand in the report of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use streambreaker::{BoxError, Gap, PassedBy, Position, ProcessorBuilder, ShardId};
use streambreaker_lake::{Lake, Selection};

use crate::args::{LakeAt, Output, Pace, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::process::Where;
use crate::replay::{Sending, looked_at, names, note_damaged, skipped, tell};
use crate::text::{bytes_counted, counted, escaped};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 repair                                                what the process that runs has missed, and the lake has of it
  $0 repair --send --why \"the gap of last night\"
  $0 run --json > report.json                              its `gaps` say what the stream had lost
  $0 repair --report report.json --send --why \"the gap of last night\"
  $0 repair --stream orders --shard 0 --from 4711 --to 4800

Nobody has seen these events yet: the component is built for a repair, so that what it publishes of them can be let through.")]
pub(crate) struct Repair {
    /// The JSON report of a run: its gaps, and what went by a disabled pipeline [default: what the process that runs says of them]
    #[arg(long, value_name = "FILE", help_heading = "Which records", conflicts_with_all = ["from", "to", "shard"])]
    report: Option<PathBuf>,
    /// The stream [default: the component's, or the only one that there is]
    #[arg(long, help_heading = "Which records")]
    stream: Option<String>,
    /// The shard
    #[arg(long, help_heading = "Which records", requires_all = ["from", "to"])]
    shard: Option<String>,
    /// The first position that is missing
    #[arg(long, value_name = "POSITION", help_heading = "Which records", requires_all = ["shard", "to"])]
    from: Option<Position>,
    /// The first position that is there again
    #[arg(long, value_name = "POSITION", help_heading = "Which records", requires_all = ["shard", "from"])]
    to: Option<Position>,
    /// Into this pipeline only; may be repeated [default: those that missed them]
    #[arg(long, help_heading = "How")]
    pipeline: Vec<String>,
    #[command(flatten)]
    pace: Pace,
    /// Send them; without it, only say what the lake has of them
    #[arg(long, visible_alias = "yes", help_heading = "How")]
    send: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    output: Output,
}

/// What is read of a report, or of a status.
#[derive(Deserialize)]
struct Missed {
    gaps: Vec<Gap>,
    #[serde(default)]
    pipelines: BTreeMap<String, OfPipeline>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OfPipeline {
    passed_by: Vec<PassedBy>,
}

fn position(stream: &str, shard: &str, text: &str) -> Result<Position, Failure> {
    text.parse::<Position>().map_err(|error| no_position(stream, shard, error))
}

fn no_position(stream: &str, shard: &str, error: impl Into<BoxError>) -> Failure {
    let message = format!("the positions of what {stream}/{shard} missed are none");
    Failure { exit: Exit::Unusable, ..Failure::because(message, error) }
}

/// A range of records that somebody has missed.
struct Range {
    selection: Selection,
    shard: ShardId,
    /// The first that is missing, and the last; or the first behind it, where `open`.
    from: Position,
    to: Position,
    open: bool,
    /// The pipelines that missed it; all, if none is named.
    pipelines: Vec<String>,
}

impl Range {
    fn of(gap: &Gap, pipelines: &[String]) -> Result<Self, Failure> {
        let Gap { stream, shard, from, to, .. } = gap;
        Ok(Self {
            selection: Selection::missing(gap)
                .map_err(|error| no_position(stream, shard, error))?,
            shard: shard.as_str().into(),
            from: position(stream, shard, from)?,
            to: position(stream, shard, to)?,
            open: true,
            pipelines: pipelines.to_vec(),
        })
    }

    fn passed(by: &PassedBy, pipeline: &str) -> Result<Self, Failure> {
        let PassedBy { stream, shard, first, last, .. } = by;
        let (from, to) = (position(stream, shard, first)?, position(stream, shard, last)?);
        let shard = ShardId::from(shard.as_str());
        let selection =
            Selection::of(stream).shard(shard.clone()).positions(from.clone(), to.clone());
        let pipelines = vec![pipeline.to_owned()];
        Ok(Self { selection, shard, from, to, open: false, pipelines })
    }

    fn shown(&self) -> String {
        let up_to = if self.open { "up to" } else { "to" };
        let shard = self.shard.as_str();
        format!("{}/{shard}: {} {up_to} {}", self.selection.stream(), self.from, self.to)
    }

    /// Whether the lake has all of it: its objects join over the whole range.
    async fn is_covered(&self, lake: &Lake) -> Result<bool, Failure> {
        let manifest = lake.manifest(self.selection.stream()).await?;
        let covered = manifest.covered(&self.shard);
        Ok(covered.iter().any(|range| range.first <= self.from && range.last >= self.to))
    }
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn repair(
        &self,
        repair: &Repair,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let by = repair.send.then(|| repair.who.by()).transpose()?;
        let lake = self.places.lake(&repair.lake)?;
        let ranges = self.missed(repair, &lake).await?;
        if ranges.is_empty() {
            let json = json!({ "dry_run": by.is_none(), "ranges": [] });
            tell(console, repair.output, &json, "nothing is missing\n")?;
            return Ok(Exit::Done);
        }
        let (mut exit, mut stopped) = (Exit::Done, false);
        let (mut done, mut text) = (Vec::new(), String::new());
        for range in ranges {
            let pipelines =
                if repair.pipeline.is_empty() { &range.pipelines } else { &repair.pipeline };
            let processor = self.build(Task::Repair, pipelines).await?;
            let covered = range.is_covered(&lake).await?;
            if !covered {
                exit = Exit::Partly;
            }
            let shown = range.shown();
            let mut row = json!({
                "stream": range.selection.stream(),
                "shard": range.shard,
                "from": range.from,
                "to": range.to,
                "covered": covered,
                "pipelines": names(&processor),
            });
            let counts = match &by {
                None => {
                    let counts = lake.dry_run(&range.selection).await?;
                    exit = exit.worse(looked_at(&counts));
                    counts
                }
                Some(by) => {
                    let what = Sending {
                        source: lake.replay(range.selection.clone()),
                        stream: range.selection.stream(),
                        processor: &processor,
                        pace: repair.pace,
                        by,
                    };
                    let sent = self.send(what, console).await?;
                    exit = exit.worse(sent.exit);
                    stopped = sent.report.stopped;
                    row["run"] = json!(sent.run);
                    row["report"] = json!(sent.report);
                    sent.counts
                }
            };
            row["records"] = counts.records.into();
            row["bytes"] = counts.bytes.into();
            row["skipped"] = json!(skipped(&counts));
            let (dry, verb) = match by {
                None => ("dry run: ", "would go"),
                Some(_) => ("", "went"),
            };
            text.push_str(&format!(
                "{dry}{}: {} ({}) {verb} into {}\n",
                escaped(&shown),
                counted(counts.records, "record"),
                bytes_counted(counts.bytes),
                escaped(&names(&processor).join(", "))
            ));
            note_damaged(&counts, console);
            if !covered {
                console.note(&format!("{shown}: the lake does not have all of it, or cannot tell"));
            }
            done.push(row);
            if stopped {
                console.note("it was not finished: say it again, and all of it is sent again");
                break;
            }
        }
        let json = json!({ "dry_run": by.is_none(), "ranges": Value::Array(done) });
        tell(console, repair.output, &json, &text)?;
        if by.is_none() {
            console.note_nothing_sent();
        }
        Ok(exit)
    }

    /// What was missed, as the command says it.
    async fn missed(&self, repair: &Repair, lake: &Lake) -> Result<Vec<Range>, Failure> {
        let stream = || self.places.stream(lake, repair.stream.as_deref());
        if let (Some(shard), Some(from), Some(to)) = (&repair.shard, &repair.from, &repair.to) {
            if from >= to {
                return Err(Failure::unusable(
                    "--from is not before --to, which is the first position that is there again",
                ));
            }
            let gap = Gap::new(stream().await?, shard, from, to);
            return Ok(vec![Range::of(&gap, &[])?]);
        }
        let missed = match &repair.report {
            Some(file) => reported(file)?,
            None => self.told(&repair.at).await?,
        };
        let mut ranges = Vec::new();
        let named = repair.stream.as_ref();
        for gap in missed.gaps.iter().filter(|gap| named.is_none_or(|named| *named == gap.stream)) {
            ranges.push(Range::of(gap, &[])?);
        }
        for (pipeline, OfPipeline { passed_by }) in &missed.pipelines {
            for by in passed_by.iter().filter(|by| named.is_none_or(|named| *named == by.stream)) {
                ranges.push(Range::passed(by, pipeline)?);
            }
        }
        Ok(ranges)
    }

    /// What the process that runs has missed so far.
    async fn told(&self, at: &Where) -> Result<Missed, Failure> {
        let url = self.url(at).map_err(|_| {
            Failure::unusable(
                "what was missed? --report FILE, of `run --json`; --url of the process that runs; or --shard, --from and --to",
            )
        })?;
        let status = url.get("/status").await.map_err(|mut failure| {
            failure.message.push_str("; of one that has ended, --report FILE says what it missed");
            failure
        })?;
        serde_json::from_value(status)
            .map_err(|error| Failure::because(format!("{url} does not say what it missed"), error))
    }
}

/// What a run has missed, as its report says.
fn reported(file: &Path) -> Result<Missed, Failure> {
    let name = file.display();
    let unusable = |message: String, error: BoxError| Failure {
        exit: Exit::Unusable,
        ..Failure::because(message, error)
    };
    let bytes = std::fs::read(file)
        .map_err(|error| unusable(format!("the report {name} cannot be read"), error.into()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| unusable(format!("{name} is no report of `run --json`"), error.into()))
}
