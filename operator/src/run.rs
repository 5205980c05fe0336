//! `run`: the component on its stream.

use clap::Args;
use serde_json::json;
use streambreaker::{BoxError, Processor, ProcessorBuilder};

use crate::args::Output;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::replay::{ended_as, note_faults};
use crate::text::escaped_lines;

#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  $0 run                    until a signal comes, or the stream ends
  $0 run --plan             what it would run, with all limits
  $0 run --json > report.json; $0 repair --report report.json

The first SIGTERM or Ctrl-C ends it in peace: nothing more is read, what is in flight goes on. A second one ends it at once.")]
pub(crate) struct Run {
    /// Only this pipeline; may be repeated [default: all]. The others take no part in commits
    #[arg(long, help_heading = "How")]
    pipeline: Vec<String>,
    /// Print the plan that comes of code and configuration, and run nothing
    #[arg(long, help_heading = "How")]
    plan: bool,
    #[command(flatten)]
    output: Output,
}

impl Run {
    pub(crate) fn plan() -> Self {
        Self { plan: true, ..Self::default() }
    }
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn run(&self, run: &Run, console: &mut Console) -> Result<Exit, Failure> {
        if run.plan {
            let plan = self.build(Task::Run, &run.pipeline).await?.explain();
            match run.output.json {
                true => console.json(&json!({ "plan": plan }))?,
                false => console.print(&format!("{}\n", escaped_lines(&plan)))?,
            }
            return Ok(Exit::Done);
        }
        // a recorder of metrics must be there before the first metric
        let binds = match &self.listeners {
            Some(listeners) => listeners()
                .map_err(|error| Failure::because("the admin listeners cannot be set up", error))?,
            None => Vec::new(),
        };
        let processor = self.build(Task::Run, &run.pipeline).await?;
        let mut serving = Vec::with_capacity(binds.len());
        for bind in binds {
            let listener = bind.await.map_err(Failure::failed)?;
            serving.push(listener.spawn(processor.handle()));
        }
        let ended = processor.run(self.shutdown()).await;
        // probes answer until all is over
        for serving in serving {
            serving.stop().await;
        }
        let (report, failed) = ended_as(ended)?;
        match run.output.json {
            true => console.json(&report)?,
            false => console.print(&format!("{report}\n"))?,
        }
        note_faults(&report, console);
        if let Some(failed) = failed {
            return Err(failed);
        }
        Ok(match report.exit_code() {
            0 => Exit::Done,
            3 => Exit::Partly,
            _ => Exit::Failed,
        })
    }

    /// The component, for this task, with these pipelines only, if any are named.
    pub(crate) async fn build(
        &self,
        task: Task,
        pipelines: &[String],
    ) -> Result<Processor, Failure> {
        let unusable = |error: BoxError| {
            let failure = Failure::because("the component cannot be put together", error);
            Failure { exit: Exit::Unusable, ..failure }
        };
        let mut builder = (self.component)(task).await.map_err(unusable)?;
        if !pipelines.is_empty() {
            builder = builder.enable(pipelines);
        }
        let processor = builder.build().map_err(|error| unusable(error.into()))?;
        if processor.name() != self.name {
            return Err(Failure::unusable(format!(
                "the component makes a processor {:?}, but its operator was made for {:?}: faults are found by that name",
                processor.name(),
                self.name
            )));
        }
        Ok(processor)
    }
}
