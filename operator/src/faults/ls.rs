//! `faults ls`.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streambreaker::{BoxError, ProcessorBuilder};
use streambreaker_lake::FaultState;

use super::{ERROR, Summary, note_skipped};
use crate::args::{FaultArgs, FaultsAt, Output};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, counted, second, shortened};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults ls                                  the newest hundred
  $0 faults ls --since 2h --class transient     of the last two hours, those that ran out of retries
  $0 faults ls --open --json | jq -r '.faults[].id'")]
pub(crate) struct Ls {
    #[command(flatten)]
    which: FaultArgs,
    /// Only those that nobody has settled: neither processed since nor dismissed
    #[arg(long, help_heading = "Which faults")]
    open: bool,
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value = "100", help_heading = "Output")]
    limit: NonZeroUsize,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults_ls(&self, ls: &Ls, console: &mut Console) -> Result<Exit, Failure> {
        let place = self.places.faults(&ls.at)?;
        let limit = ls.limit.get();
        let (mut newest, mut total) = (VecDeque::new(), 0u64);
        let mut scan = place.scan(self.pick(&ls.which)).await?;
        while let Some(fault) = scan.next().await? {
            total += 1;
            // which of them are open is known only when they have been looked up
            if newest.len() == limit && !ls.open {
                newest.pop_front();
            }
            newest.push_back(Summary::of(fault));
        }
        let skipped = scan.skipped;
        let mut faults = Vec::from(newest);
        faults.sort_by_key(|fault| (fault.timestamp, fault.id));
        let states = place.states(faults.iter().map(|fault| (&*fault.stream, fault.whole))).await?;
        let mut listed: Vec<Listed> = faults
            .into_iter()
            .zip(states)
            .map(|(fault, ledger)| Listed { fault, ledger })
            .collect();
        if ls.open {
            listed.retain(|listed| !listed.ledger.is_final());
            total = u64::try_from(listed.len()).unwrap_or(u64::MAX);
            listed.drain(..listed.len().saturating_sub(limit));
        }
        if ls.output.json {
            console.json(&json!({ "total": total, "faults": listed, "skipped": skipped }))?;
        } else {
            print(&listed, total, console)?;
        }
        note_skipped(&skipped, console);
        Ok(Exit::Done)
    }
}

/// A fault, and what became of it.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    fault: Summary,
    ledger: FaultState,
}

fn print(listed: &[Listed], total: u64, console: &mut Console) -> Result<(), Failure> {
    if listed.is_empty() {
        return console.print("no faults\n");
    }
    let columns = ["TIME", "ID", "CLASS", "WHERE", "FINGERPRINT", "LEDGER", "ERROR"];
    let mut table = Table::new(columns.map(|name| (name, Align::Left)))
        .shortens(&["ERROR"])
        .leaves_out(&["FINGERPRINT", "CLASS", "TIME"]);
    for Listed { fault, ledger } in listed {
        table.row([
            second(fault.timestamp),
            fault.id.to_string(),
            fault.class.to_string(),
            fault.place(),
            fault.fingerprint.clone(),
            ledger.to_string(),
            shortened(&format!("{}: {}", fault.error.name, fault.error.message), ERROR),
        ]);
    }
    let mut text = console.table(&table);
    let shown = u64::try_from(listed.len()).unwrap_or(u64::MAX);
    if shown < total {
        text.push_str(&format!("the newest {shown} of {}: --limit\n", counted(total, "fault")));
    } else {
        text.push_str(&format!("{}\n", counted(total, "fault")));
    }
    console.print(&text)
}
