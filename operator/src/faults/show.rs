//! `faults show`.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use streambreaker::{BoxError, FaultEvent, ProcessorBuilder};
use streambreaker_lake::{FaultState, LedgerEntry};
use uuid::Uuid;

use super::note_skipped;
use crate::args::{FaultArgs, FaultsAt, Output};
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::key::key_shown;
use crate::operator::{Operator, Task};
use crate::places::ledger_id;
use crate::text::{bytes_counted, bytes_shown, counted, escaped, escaped_lines, second, shortened};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults show 6b3f6c1e-0f0a-5b52-9d0c-0d6f3f2a7e11
  $0 faults show 6b3f6c1e-0f0a-5b52-9d0c-0d6f3f2a7e11 --json | jq .fault

With --json there is a line for each fault, with the whole fault event and its ledger.")]
pub(crate) struct Show {
    /// The faults, as `faults ls` names them
    #[arg(required = true, value_name = "UUID")]
    ids: Vec<Uuid>,
    /// Payloads and error in full
    #[arg(long, help_heading = "Output")]
    full: bool,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

/// How much of a payload is shown.
const PAYLOAD: usize = 400;
/// How many records of a group are shown.
const RECORDS: usize = 10;

#[derive(Serialize)]
struct Shown {
    fault: Box<RawValue>,
    ledger: Vec<LedgerEntry>,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults_show(
        &self,
        show: &Show,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let place = self.places.faults(&show.at)?;
        let which = FaultArgs { id: show.ids.clone(), ..FaultArgs::default() };
        let mut found: Vec<FaultEvent> = Vec::new();
        let mut scan = place.scan(self.pick(&which)).await?;
        while found.len() < show.ids.len() {
            let Some(fault) = scan.next().await? else { break };
            found.push(fault);
        }
        let skipped = scan.skipped;
        let ledger = place.ledger_to_read()?;
        for fault in &found {
            let entries = ledger.ledger_of(fault.stream(), ledger_id(fault)).await?;
            if show.output.json {
                let json = String::from_utf8(fault.to_json()).map_err(Failure::failed)?;
                let fault = RawValue::from_string(json).map_err(Failure::failed)?;
                console.json(&Shown { fault, ledger: entries })?;
            } else {
                let text = text(fault, &entries, show.full, console);
                console.print(&text)?;
            }
        }
        note_skipped(&skipped, console);
        let missing: Vec<String> = show
            .ids
            .iter()
            .filter(|id| found.iter().all(|fault| fault.id != **id))
            .map(Uuid::to_string)
            .collect();
        match missing.is_empty() {
            true => Ok(Exit::Done),
            false => Err(Failure::no(format!(
                "no such fault of {} in {place}: {}; `faults ls` lists them",
                self.name,
                missing.join(", ")
            ))),
        }
    }
}

fn text(fault: &FaultEvent, ledger: &[LedgerEntry], full: bool, console: &Console) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{}{}", console.toned(Tone::Quiet, &format!("{name:<13}")), value);
    };
    let one = |text: &str| escaped(text);
    let most = if full { usize::MAX } else { PAYLOAD };
    field("fault", &console.toned(Tone::Head, &fault.id.to_string()));
    field("when", &second(fault.timestamp));
    field("class", fault.class.as_str());
    field("pipeline", &one(&format!("{}/{}", fault.processor, fault.pipeline)));
    field("stage", &one(&fault.stage));
    if let Some(resource) = &fault.resource {
        field("resource", &one(resource));
    }
    field("release", &one(fault.release.as_deref().unwrap_or("-")));
    field("instance", &one(&fault.instance));
    field("fingerprint", &one(&fault.fingerprint));
    field("error", &one(&format!("{}: {}", fault.err.name, shortened(&fault.err.message, most))));
    if full && !fault.err.stack.is_empty() {
        field("from", &escaped_lines(&fault.err.stack).replace('\n', "\n             "));
    }
    for attempt in &fault.attempts {
        let took = attempt.duration.as_secs_f64();
        field("attempt", &format!("{} {} after {took:.3} s", second(attempt.at), attempt.class));
    }
    if let Some(parent) = fault.parent {
        field("parent", &format!("{parent}, attempt {}", fault.resubmits));
    }
    if let Some(part) = &fault.part {
        field("part of", &format!("{} (from record {} of {})", part.of, part.first, part.total));
    }
    if let Some(trace) = &fault.trace {
        field("trace", &one(trace));
    }
    if let Some(derived) = fault.derived.as_ref().filter(|_| full) {
        field("value", &one(derived));
    }
    let records = if full { usize::MAX } else { RECORDS };
    for kept in fault.records.iter().take(records) {
        let record = &kept.record;
        let place = format!("{}/{} @ {}", record.stream(), record.shard(), record.position());
        field("record", &one(&format!("{place}, arrived {}", second(record.arrival()))));
        if let Some(key) = record.key() {
            field("  key", &shortened(&key_shown(key), most));
        }
        if full {
            for (name, value) in record.headers().iter() {
                field("  header", &format!("{}: {}", one(name), bytes_shown(value)));
            }
        }
        match &kept.claim {
            Some(claim) => {
                let size = bytes_counted(claim.size);
                field("  payload", &format!("{size}, kept at {}", one(&claim.uri)));
            }
            None => field("  payload", &shortened(&bytes_shown(record.payload()), most)),
        }
    }
    if fault.records.len() > records {
        let more = u64::try_from(fault.records.len() - records).unwrap_or(u64::MAX);
        field("", &format!("and {} more: --full", counted(more, "record")));
    }
    for entry in ledger {
        let LedgerEntry { state, at, who, why, .. } = entry;
        field("ledger", &format!("{} {state} by {}: {}", second(*at), one(who), one(why)));
        if let FaultState::FailedAgain { faults } = state {
            faults.iter().for_each(|new| field("  became", &new.to_string()));
        }
    }
    if ledger.is_empty() {
        field("ledger", "pending");
    }
    text.push('\n');
    text
}
