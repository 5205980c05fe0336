//! `faults lessons`: what there is to learn.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;
use streambreaker::{BoxError, Class, FaultEvent, ProcessorBuilder};
use streambreaker_lake::Lesson;

use super::note_skipped;
use crate::args::{FaultArgs, FaultsAt, Output};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, shortened, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults lessons --since 30d
  $0 faults lessons --json | jq '.lessons[] | select(.deserves_a_retry)'

What succeeds unchanged, with the very release that had refused it, was mended by time alone: such an error should say
`.transient()`, and would have been retried.")]
pub(crate) struct Lessons {
    #[command(flatten)]
    which: FaultArgs,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults_lessons(
        &self,
        lessons: &Lessons,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let place = self.places.faults(&lessons.at)?;
        let mut scan = place.scan(self.pick(&lessons.which)).await?;
        let mut streams: BTreeMap<String, Vec<FaultEvent>> = BTreeMap::new();
        while let Some(mut fault) = scan.next().await? {
            let stream = fault.stream().to_owned();
            // only heads are looked at
            fault.records = Vec::new();
            fault.derived = None;
            fault.err.stack = String::new();
            streams.entry(stream).or_default().push(fault);
        }
        let skipped = scan.skipped;
        let ledger = place.ledger_to_read()?;
        let mut learned: Vec<(String, Lesson)> = Vec::new();
        for (stream, faults) in &streams {
            let lessons = ledger.lessons_of(stream, faults).await?;
            learned.extend(lessons.into_iter().map(|lesson| (stream.clone(), lesson)));
        }
        learned.sort_by_key(|(_, lesson)| std::cmp::Reverse(lesson.faults));
        if lessons.output.json {
            let lessons: Vec<_> = learned
                .iter()
                .map(|(stream, lesson)| {
                    let mut json = json!(lesson);
                    json["stream"] = json!(stream);
                    json["time_alone_mended"] = json!(lesson.time_alone_mended());
                    json["deserves_a_retry"] = json!(lesson.deserves_a_retry());
                    json
                })
                .collect();
            console.json(&json!({ "lessons": lessons, "skipped": skipped }))?;
        } else {
            print(&learned, console)?;
        }
        note_skipped(&skipped, console);
        Ok(Exit::Done)
    }
}

fn print(learned: &[(String, Lesson)], console: &mut Console) -> Result<(), Failure> {
    if learned.is_empty() {
        return console.print("no faults\n");
    }
    let mut table = Table::new([
        ("FAULTS", Align::Right),
        ("OPEN", Align::Right),
        ("SUCCEEDED", Align::Right),
        ("UNCHANGED", Align::Right),
        ("FAILED AGAIN", Align::Right),
        ("DISMISSED", Align::Right),
        ("FINGERPRINT", Align::Left),
        ("WHERE", Align::Left),
        ("ERROR", Align::Left),
        ("RELEASES", Align::Left),
        ("LESSON", Align::Left),
    ])
    .shortens(&["LESSON"])
    .leaves_out(&["RELEASES", "ERROR", "DISMISSED", "FAILED AGAIN", "WHERE"]);
    for (_, lesson) in learned {
        let counts = [
            lesson.faults,
            lesson.open,
            lesson.succeeded,
            lesson.unchanged,
            lesson.failed_again,
            lesson.dismissed,
        ];
        let releases: Vec<String> = lesson
            .releases
            .iter()
            .map(|(release, count)| {
                let release = if release.is_empty() { "-" } else { release };
                format!("{release}: {count}")
            })
            .collect();
        let advice = match lesson.class {
            _ if lesson.deserves_a_retry() => "time alone mended them: `.transient()`",
            Class::Transient | Class::Throttled if lesson.time_alone_mended() => {
                "time alone mended them: longer retries, or give them back"
            }
            _ => "",
        };
        table.row(counts.map(thousands).into_iter().chain([
            lesson.fingerprint.clone(),
            format!("{}/{}", lesson.pipeline, lesson.stage),
            lesson.error.clone(),
            shortened(&releases.join(", "), 40),
            advice.to_owned(),
        ]));
    }
    let text = console.table(&table);
    console.print(&text)
}
