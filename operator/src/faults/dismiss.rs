//! `faults dismiss`.

use clap::Args;
use serde_json::json;
use streambreaker::{BoxError, ProcessorBuilder};

use super::{Summary, note_skipped};
use crate::args::{FaultArgs, FaultsAt, Output, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::replay::tell;
use crate::text::counted;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 faults dismiss --fingerprint 2f14d8dd50225d17         how many that would be
  $0 faults dismiss --fingerprint 2f14d8dd50225d17 --yes --why \"test orders of the load test\"

A dismissed fault stays where it is, and is not resubmitted. Without --yes nothing is dismissed.")]
pub(crate) struct Dismiss {
    #[command(flatten)]
    which: FaultArgs,
    /// All faults of the component: needed where nothing is selected by
    #[arg(long, help_heading = "Which faults")]
    all: bool,
    /// Dismiss them; without it, only say how many they are
    #[arg(long, help_heading = "How")]
    yes: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    at: FaultsAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn faults_dismiss(
        &self,
        dismiss: &Dismiss,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        if !dismiss.all && !dismiss.which.is_narrowed() {
            return Err(Failure::unusable(
                "which faults? name them by --id, --fingerprint and the like, or say --all",
            ));
        }
        let by = dismiss.yes.then(|| dismiss.who.by()).transpose()?;
        let place = self.places.faults(&dismiss.at)?;
        let mut scan = place.scan(self.pick(&dismiss.which)).await?;
        let mut faults = Vec::new();
        while let Some(fault) = scan.next().await? {
            faults.push(Summary::of(fault));
        }
        let skipped = scan.skipped;
        let states = place.states(faults.iter().map(|fault| (&*fault.stream, fault.whole))).await?;
        let found = faults.len();
        let open: Vec<Summary> = faults
            .into_iter()
            .zip(states)
            .filter_map(|(fault, state)| (!state.is_final()).then_some(fault))
            .collect();
        let settled = (found - open.len()) as u64;
        let mut dismissed = 0u64;
        if let Some(by) = &by {
            let ledger = place.ledger_to_write()?;
            let mut ended = Ok(());
            for fault in &open {
                match ledger.dismiss(&fault.stream, fault.whole, by).await {
                    Ok(done) => dismissed += u64::from(done),
                    Err(error) => {
                        ended = Err(error);
                        break;
                    }
                }
            }
            // also of what ended in an error
            tracing::info!(
                target: "streambreaker::audit", who = by.who(), why = by.why(), processor = self.name,
                dismissed, "faults were dismissed",
            );
            ended?;
        }
        let json = json!({
            "dry_run": by.is_none(),
            "open": open.len(),
            "dismissed": dismissed,
            "settled_before": settled,
            "skipped": skipped,
        });
        let text = match by {
            None => format!(
                "dry run: {} would be dismissed, {settled} settled before\n",
                counted(open.len() as u64, "fault")
            ),
            Some(_) => {
                format!("{} dismissed, {settled} settled before\n", counted(dismissed, "fault"))
            }
        };
        tell(console, dismiss.output, &json, &text)?;
        note_skipped(&skipped, console);
        if by.is_none() {
            console.note("nothing was dismissed; --yes --why \"…\" dismisses them");
        }
        self.all_named(&dismiss.which, found)?;
        Ok(Exit::Done)
    }
}
