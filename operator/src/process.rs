//! What is asked of, and told to, a component that runs: over its admin listener.

mod client;
mod metrics;
mod status;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder};

pub(crate) use self::client::Url;
use self::client::segment;
pub(crate) use self::metrics::MetricsArgs;
pub(crate) use self::status::StatusArgs;
use crate::args::{Output, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::escaped;

/// Where the component listens.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Where {
    /// Its admin listener: http://127.0.0.1:9464, or unix:/run/orders/admin.sock [default: the component's own]
    #[arg(long, help_heading = "Where")]
    url: Option<Url>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 pause totals --why \"the table is being moved\"
  $0 resume totals --why \"it has moved\"")]
pub(crate) struct PipelineArgs {
    /// The pipeline
    pipeline: String,
    #[command(flatten)]
    turn: Turn,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 breaker orders-table open --why \"the database is being moved\"
  $0 breaker orders-table auto --why \"it has moved\"")]
pub(crate) struct BreakerArgs {
    /// The resource that it guards
    resource: String,
    /// Hold it open, hold it closed, or leave it to itself again
    control: Control,
    #[command(flatten)]
    turn: Turn,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Control {
    Open,
    Close,
    Auto,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 status                                     which record is stuck: OLDEST
  $0 skip --shard 0 --position 4711 --why \"row 1 is locked; ticket 12\"

It becomes a fault of the class `skipped`, with everything that is in it, and can be resubmitted. It ends with 4 where the
record is settled already.")]
pub(crate) struct SkipArgs {
    /// The shard, as `status` names it
    #[arg(long)]
    shard: String,
    /// The position, as `status` names it
    #[arg(long)]
    position: String,
    #[command(flatten)]
    turn: Turn,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Siphon {
    /// Set every unit that would call the resource aside at once, without a call
    On(SiphonArgs),
    /// Call the resource again; its breaker decides by itself
    Off(SiphonArgs),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 siphon on orders-table --why \"region eu-1 is down\"
  $0 siphon off orders-table --why \"it is back\"
  $0 resubmit --class circuit_open --resource orders-table")]
pub(crate) struct SiphonArgs {
    /// The resource
    resource: String,
    #[command(flatten)]
    turn: Turn,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum FloodGuard {
    /// Let every fault pass: all of them are poison, and to be set aside
    Off(FloodGuardArgs),
    /// Watch again, as the pipeline was built; a guard that has tripped begins anew
    On(FloodGuardArgs),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 status                                     whose guard has tripped: STATE
  $0 flood-guard off rules --why \"the producer sent 1,500 of them; ticket 4712\"
  $0 flood-guard on rules --why \"they are set aside\"")]
pub(crate) struct FloodGuardArgs {
    /// The pipeline
    pipeline: String,
    #[command(flatten)]
    turn: Turn,
}

#[derive(Clone, Debug, Args)]
struct Turn {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn pause(
        &self,
        args: &PipelineArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        self.set_paused(args, "pause", "paused", console).await
    }

    pub(crate) async fn resume(
        &self,
        args: &PipelineArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        self.set_paused(args, "resume", "goes on", console).await
    }

    async fn set_paused(
        &self,
        PipelineArgs { pipeline, turn }: &PipelineArgs,
        word: &str,
        done: &str,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let path = format!("/pipelines/{}/{word}", segment(pipeline));
        let done = |_: &Value| format!("{pipeline}: {done}");
        self.turn(&path, json!({}), turn, done, console).await
    }

    pub(crate) async fn breaker(
        &self,
        args: &BreakerArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let BreakerArgs { resource, control, turn } = args;
        let (word, done) = match control {
            Control::Open => ("open", "its breaker is held open"),
            Control::Close => ("close", "its breaker is held closed"),
            Control::Auto => ("auto", "its breaker decides by itself"),
        };
        let path = format!("/resources/{}/breaker", segment(resource));
        let done = |_: &Value| format!("{resource}: {done}");
        self.turn(&path, json!({ "control": word }), turn, done, console).await
    }

    pub(crate) async fn skip(
        &self,
        args: &SkipArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let SkipArgs { shard, position, turn } = args;
        let body = json!({ "shard": shard, "position": position });
        let done = |answer: &Value| {
            let pipelines = answer["pipelines"].as_array().into_iter().flatten();
            let pipelines: Vec<&str> = pipelines.filter_map(Value::as_str).collect();
            match pipelines.is_empty() {
                true => format!("{shard} @ {position}: not in flight now; set aside if it comes"),
                false => format!("{shard} @ {position}: set aside in {}", pipelines.join(", ")),
            }
        };
        self.turn("/skip", body, turn, done, console).await
    }

    pub(crate) async fn siphon(
        &self,
        siphon: &Siphon,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let (SiphonArgs { resource, turn }, on) = match siphon {
            Siphon::On(args) => (args, true),
            Siphon::Off(args) => (args, false),
        };
        let path = format!("/resources/{}/siphon", segment(resource));
        let done = |_: &Value| match on {
            true => format!("{resource}: not called; what would call it is set aside"),
            false => format!("{resource}: called again"),
        };
        self.turn(&path, json!({ "on": on }), turn, done, console).await
    }

    pub(crate) async fn flood_guard(
        &self,
        guard: &FloodGuard,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let (FloodGuardArgs { pipeline, turn }, on) = match guard {
            FloodGuard::Off(args) => (args, false),
            FloodGuard::On(args) => (args, true),
        };
        let path = format!("/pipelines/{}/flood_guard", segment(pipeline));
        let done = |_: &Value| match on {
            true => format!("{pipeline}: a flood of faults is stopped again"),
            false => format!("{pipeline}: every fault passes, however many they are"),
        };
        self.turn(&path, json!({ "enabled": on }), turn, done, console).await
    }

    /// Turns a switch of the process that runs; `done` says so, by what it answered.
    async fn turn(
        &self,
        path: &str,
        mut body: Value,
        turn: &Turn,
        done: impl FnOnce(&Value) -> String,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let by = turn.who.by()?;
        body["who"] = by.who().into();
        body["why"] = by.why().into();
        let answer = self.url(&turn.at)?.post(path, &body).await?;
        match turn.output.json {
            true => console.json(&answer)?,
            false => console.print(&format!("{}\n", escaped(&done(&answer))))?,
        }
        Ok(Exit::Done)
    }

    pub(crate) fn url(&self, at: &Where) -> Result<Url, Failure> {
        at.url.clone().or_else(|| self.admin.clone()).ok_or_else(|| {
            Failure::unusable("where does the component listen? --url http://127.0.0.1:9464, or --url unix:/run/orders/admin.sock")
        })
    }
}
