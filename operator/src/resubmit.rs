//! `resubmit`: faults, sent again to the pipeline that refused them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, json};
use streambreaker::config::Span;
use streambreaker::{BoxError, By, FaultEvent, Processor, ProcessorBuilder, file};
use streambreaker_lake::{FaultSelection, Lake, Refused, Resubmission, ResubmitReport};
use tokio::time::Instant;
use uuid::Uuid;

use crate::args::{FaultArgs, FaultsAt, Output, Pace, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::faults::note_skipped;
use crate::operator::{Operator, Task};
use crate::places::FaultPlace;
use crate::progress::{Step, watched};
use crate::replay::tell;
use crate::text::{counted, escaped, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults group                                          which kinds there are
  $0 resubmit --fingerprint 2f14d8dd50225d17               what would be sent, and what is refused and why
  $0 resubmit --fingerprint 2f14d8dd50225d17 --send --why \"the mapping has the new field\"
  $0 resubmit --resource orders-table --since 2026-11-26 --rate 50 --send --why \"the region is back\"

Each fault goes to the pipeline that refused it, and only there; the same fault twice has one effect. It ends when half of
what was sent has failed again. Without --send nothing is sent.")]
pub(crate) struct Resubmit {
    #[command(flatten)]
    which: FaultArgs,
    /// At most so many faults are sent
    #[arg(long, value_name = "N", default_value = "1000", help_heading = "How")]
    max: usize,
    #[command(flatten)]
    pace: Pace,
    /// A unit is sent so often at most, over all the faults that it became
    #[arg(long, value_name = "N", default_value = "3", help_heading = "How")]
    attempts: u32,
    /// End when more than this part of what was sent has failed again, from the tenth on
    #[arg(long, value_name = "RATIO", default_value = "0.5", value_parser = ratio, help_heading = "How")]
    stop_at: f64,
    /// How long one fault may take; what is not decided by then stays pending
    #[arg(long, value_name = "SPAN", default_value = "60s", help_heading = "How")]
    within: Span,
    /// Also faults whose id or records were changed: somebody mended them by hand
    #[arg(long, help_heading = "How")]
    trusted: bool,
    /// Also faults that were sent before by somebody who died, which may be a second time
    #[arg(long, help_heading = "How")]
    unfinished: bool,
    /// Send them; without it, only say what would be sent
    #[arg(long, visible_alias = "yes", help_heading = "How")]
    send: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "accepted: a number from 0 to 1".to_owned())
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn resubmit(
        &self,
        resubmit: &Resubmit,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        resubmit.which.check(self.now())?;
        let by = resubmit.send.then(|| resubmit.who.by()).transpose()?;
        let place = self.places.faults(&resubmit.at)?;
        let processor = self.build(Task::Resubmit, &[]).await?;
        let (batches, skipped) = self.batches(&place, resubmit).await?;
        let (mut streams, mut text, mut exit) = (Map::new(), String::new(), Exit::Done);
        let (mut left, mut considered) = (resubmit.max, 0);
        let mut ways = BTreeSet::new();
        // of the last one that was sent: a rate holds over all streams
        let mut due: Option<Instant> = None;
        let mut batches = batches.into_iter();
        while left > 0 || streams.is_empty() {
            if let Some(due) = due.take().filter(|_| batches.len() > 0) {
                if tokio::time::timeout_at(due, self.shutdown().signalled()).await.is_ok() {
                    exit = exit.worse(Exit::Partly);
                    text.push_str("ended before the end, as it was told\n");
                    break;
                }
            }
            let Some(batch) = batches.next() else { break };
            let stream = batch.stream.clone();
            let report = match &by {
                None => {
                    let lake = place.ledger_to_read()?;
                    // who and why are not noted in a dry run
                    let again = batch.faults(&lake, By::new("", ""))?;
                    resubmit.limits(again, left).dry_run(&processor).await?
                }
                Some(by) => {
                    let lake = place.ledger_to_write()?;
                    let all = if console.is_live() {
                        let again = batch.faults(&lake, by.clone())?;
                        resubmit.limits(again, left).dry_run(&processor).await?.sent
                    } else {
                        0
                    };
                    let again = resubmit.limits(batch.faults(&lake, by.clone())?, left);
                    self.resubmit_watched(again, &processor, all, console).await?
                }
            };
            left = left.saturating_sub(usize::try_from(report.sent).unwrap_or(usize::MAX));
            if let (Some(rate), true) = (resubmit.pace.rate, by.is_some() && report.sent > 0) {
                due = Some(Instant::now() + Duration::from_secs(1) / rate.get());
            }
            considered += report.considered;
            ways.extend(report.refused.values().filter_map(way_out));
            exit = exit.worse(judged(&report));
            let told = match &by {
                None => dry_text(&report),
                Some(_) => report.to_string(),
            };
            text.push_str(&format!("{}: {told}\n", escaped(&stream)));
            let ends = report.interrupted || report.stopped;
            streams.insert(stream, json!(report));
            if ends {
                break;
            }
        }
        if streams.is_empty() {
            text.push_str("no faults\n");
        }
        let rest: Vec<String> = batches.map(|batch| batch.stream).collect();
        if !rest.is_empty() {
            text.push_str(&format!("not looked at: {}\n", escaped(&rest.join(", "))));
        }
        let json = json!({
            "dry_run": by.is_none(), "streams": streams, "not_looked_at": rest, "skipped": skipped,
        });
        tell(console, resubmit.output, &json, &text)?;
        note_skipped(&skipped, console);
        for way in ways {
            console.note(way);
        }
        match by {
            None => console.note_nothing_sent(),
            Some(_) => console.note(
                "`faults ls` shows what became of each, `faults lessons` what there is to learn",
            ),
        }
        // parts of one fault are one: so it is not told which of several ids there is not
        if considered == 0 {
            self.all_named(&resubmit.which, 0)?;
        }
        Ok(exit)
    }

    /// What is to be sent, by stream; and what could not be read.
    async fn batches(
        &self,
        place: &FaultPlace,
        resubmit: &Resubmit,
    ) -> Result<(Vec<Batch>, Vec<String>), Failure> {
        let pick = self.pick(&resubmit.which);
        let Some(file) = place.file() else {
            let lake = place.ledger_to_read()?;
            let streams = self.places.streams(&lake, resubmit.which.stream.as_deref()).await?;
            let batch = |stream: String| {
                let selection = resubmit.which.selection(&stream, pick.processor, pick.now);
                Batch { stream, from: From::Lake(selection) }
            };
            return Ok((streams.into_iter().map(batch).collect(), Vec::new()));
        };
        // what fails again is appended to the same file: so those that are there now are chosen first
        let mut streams: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
        let mut scan = place.scan(pick).await?;
        while let Some(fault) = scan.next().await? {
            streams.entry(fault.stream().to_owned()).or_default().insert(fault.id);
        }
        let batch = |(stream, ids)| Batch { stream, from: From::File(file.to_owned(), ids) };
        Ok((streams.into_iter().map(batch).collect(), scan.skipped))
    }

    async fn resubmit_watched(
        &self,
        again: Resubmission,
        processor: &Processor,
        all: u64,
        console: &mut Console,
    ) -> Result<ResubmitReport, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let again = again
            .stop_on(self.shutdown().signalled())
            .each(move |report| count.store(report.sent, Ordering::Relaxed));
        let step = || {
            let count = sent.load(Ordering::Relaxed);
            Step { part: count as f64 / all as f64, count }
        };
        Ok(watched(console, "faults", step, again.run(processor)).await?)
    }
}

impl Resubmit {
    fn limits(&self, again: Resubmission, most: usize) -> Resubmission {
        let mut again = again
            .most(most)
            .attempts(self.attempts)
            .stop_at(self.stop_at)
            .within(self.within.get());
        if let Some(rate) = self.pace.rate {
            again = again.rate(rate);
        }
        if self.trusted {
            again = again.trusted();
        }
        if self.unfinished {
            again = again.unfinished();
        }
        again
    }
}

/// Faults of one stream.
struct Batch {
    stream: String,
    from: From,
}

enum From {
    Lake(FaultSelection),
    File(PathBuf, BTreeSet<Uuid>),
}

impl Batch {
    fn faults(&self, lake: &Lake, by: By) -> Result<Resubmission, Failure> {
        match &self.from {
            From::Lake(selection) => Ok(lake.resubmit(selection.clone(), by)),
            From::File(file, ids) => {
                let ids = ids.clone();
                // what is no fault was told when they were chosen
                let faults =
                    file::read_faults(file).map_err(Failure::failed)?.filter_map(Result::ok);
                let faults = faults.filter(move |fault: &FaultEvent| ids.contains(&fault.id));
                Ok(lake.resubmit(FaultSelection::of(&*self.stream), by).faults(faults))
            }
        }
    }
}

/// How it went.
fn judged(report: &ResubmitReport) -> Exit {
    if report.stopped || !report.failed_again.is_empty() || !report.refused.is_empty() {
        Exit::No
    } else if report.interrupted || !report.returned.is_empty() || report.damaged > 0 {
        Exit::Partly
    } else {
        Exit::Done
    }
}

/// What the command takes to send it all the same.
fn way_out(refused: &Refused) -> Option<&'static str> {
    match refused {
        Refused::Unfinished => {
            Some("--unfinished sends what somebody sent and died over, which may be a second time")
        }
        Refused::TooOften { .. } => Some("--attempts N sends what was sent as often as is allowed"),
        Refused::OtherId | Refused::OtherRecord { .. } => {
            Some("--trusted sends what somebody changed, if it was mended by hand")
        }
        _ => None,
    }
}

fn dry_text(report: &ResubmitReport) -> String {
    let mut text = format!(
        "dry run: {} ({}) would be sent, {} settled before, {} refused",
        counted(report.sent, "fault"),
        counted(report.records, "record"),
        thousands(report.settled_before),
        report.refused.len(),
    );
    for (id, why) in &report.refused {
        text.push_str(&format!("\n  {id}: {why}"));
    }
    if report.damaged > 0 {
        text.push_str(&format!(
            "\n{} of faults could not be read in full",
            counted(report.damaged, "object")
        ));
    }
    if report.more {
        text.push_str("\nthere are more: --max");
    }
    text
}
