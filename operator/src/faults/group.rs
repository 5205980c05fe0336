//! `faults group`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streambreaker::{BoxError, Class, ProcessorBuilder, Timestamp};
use uuid::Uuid;

use super::{ERROR, Summary, note_skipped, printed};
use crate::args::{FaultArgs, FaultsAt, Output};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, counted, second, shortened, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults group                               which kinds there are
  $0 faults group --open                        which of them nobody has settled
  $0 faults group --since 2026-11-26 --release 1.4.2
  $0 faults ls --fingerprint 2f14d8dd50225d17   then those of one kind")]
pub(crate) struct Group {
    #[command(flatten)]
    which: FaultArgs,
    /// Only those that nobody has settled: neither processed since nor dismissed
    #[arg(long, help_heading = "Which faults")]
    open: bool,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

/// Faults that are looked up in the ledger together.
const AHEAD: usize = 1_000;

/// Faults of one kind.
#[derive(Serialize)]
struct Kind {
    fingerprint: String,
    count: u64,
    records: u64,
    class: Class,
    pipeline: String,
    stage: String,
    resource: Option<String>,
    error: String,
    /// The text of the newest; others may differ in numbers and names.
    message: String,
    #[serde(serialize_with = "printed")]
    first: Timestamp,
    #[serde(serialize_with = "printed")]
    last: Timestamp,
    /// How many of which release.
    releases: BTreeMap<String, u64>,
    /// One to look at: the newest.
    sample: Uuid,
}

impl Kind {
    fn of(fault: &Summary) -> Self {
        Self {
            fingerprint: fault.fingerprint.clone(),
            count: 0,
            records: 0,
            class: fault.class,
            pipeline: fault.pipeline.clone(),
            stage: fault.stage.clone(),
            resource: fault.resource.clone(),
            error: fault.error.name.clone(),
            message: String::new(),
            first: fault.timestamp,
            last: fault.timestamp,
            releases: BTreeMap::new(),
            sample: fault.id,
        }
    }

    fn add(&mut self, fault: Summary) {
        self.count += 1;
        self.records += u64::try_from(fault.records).unwrap_or(u64::MAX);
        *self.releases.entry(fault.release.unwrap_or_default()).or_default() += 1;
        self.first = self.first.min(fault.timestamp);
        if self.count == 1 || fault.timestamp >= self.last {
            self.last = fault.timestamp;
            self.sample = fault.id;
            self.message = fault.error.message;
        }
    }
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults_group(
        &self,
        group: &Group,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let place = self.places.faults(&group.at)?;
        let mut kinds: BTreeMap<(String, String), Kind> = BTreeMap::new();
        let mut scan = place.scan(self.pick(&group.which)).await?;
        loop {
            let mut faults = Vec::with_capacity(AHEAD);
            while faults.len() < AHEAD {
                let Some(fault) = scan.next().await? else { break };
                faults.push(Summary::of(fault));
            }
            if faults.is_empty() {
                break;
            }
            if group.open {
                let ids = faults.iter().map(|fault| (&*fault.stream, fault.whole));
                let states = place.states(ids).await?;
                let mut is_open = states.iter().map(|state| !state.is_final());
                faults.retain(|_| is_open.next().unwrap_or(true));
            }
            for fault in faults {
                // a fingerprint is of a stage, whose name two pipelines may use
                let name = (fault.fingerprint.clone(), fault.pipeline.clone());
                kinds.entry(name).or_insert_with(|| Kind::of(&fault)).add(fault);
            }
        }
        let skipped = scan.skipped;
        let mut kinds: Vec<Kind> = kinds.into_values().collect();
        kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
        if group.output.json {
            console.json(&json!({ "kinds": kinds, "skipped": skipped }))?;
        } else {
            print(&kinds, console)?;
        }
        note_skipped(&skipped, console);
        Ok(Exit::Done)
    }
}

fn print(kinds: &[Kind], console: &mut Console) -> Result<(), Failure> {
    if kinds.is_empty() {
        return console.print("no faults\n");
    }
    let mut table = Table::new([
        ("FAULTS", Align::Right),
        ("FINGERPRINT", Align::Left),
        ("CLASS", Align::Left),
        ("WHERE", Align::Left),
        ("FIRST", Align::Left),
        ("LAST", Align::Left),
        ("RELEASES", Align::Left),
        ("ERROR", Align::Left),
    ])
    .shortens(&["ERROR"])
    .leaves_out(&["FIRST", "LAST", "RELEASES", "CLASS"]);
    for kind in kinds {
        let releases: Vec<&str> = kind
            .releases
            .keys()
            .map(|release| if release.is_empty() { "-" } else { release.as_str() })
            .collect();
        table.row([
            thousands(kind.count),
            kind.fingerprint.clone(),
            kind.class.to_string(),
            format!("{}/{}", kind.pipeline, kind.stage),
            second(kind.first),
            second(kind.last),
            shortened(&releases.join(" "), 30),
            shortened(&format!("{}: {}", kind.error, kind.message), ERROR),
        ]);
    }
    let total = kinds.iter().map(|kind| kind.count).sum();
    let mut text = console.table(&table);
    let kinds = u64::try_from(kinds.len()).unwrap_or(u64::MAX);
    text.push_str(&format!("{} of {}\n", counted(total, "fault"), counted(kinds, "kind")));
    console.print(&text)
}
