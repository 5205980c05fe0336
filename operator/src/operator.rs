//! What a component hands over, and how a command is carried out.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use streambreaker::admin::Bind;
use streambreaker::clock::{Clock, SystemClock};
use streambreaker::{BoxError, ProcessorBuilder, Shutdown, Timestamp};
use streambreaker_lake::{KeyProvider, Lake};

use crate::command::{Action, Command};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::places::{LakePlace, Places};
use crate::process::Url;

/// What a component is built for: [`Operator::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// To run on its stream.
    Run,
    /// For records of the lake that it has seen already. Its source is not read.
    Replay,
    /// For records of the lake that it has never seen, because its stream had lost them: what is published of them is news.
    /// Its source is not read.
    Repair,
    /// For faults that are sent again. Its source is not read.
    Resubmit,
}

/// A component's command line.
///
/// The component is a function that makes its [`ProcessorBuilder`], anew for every command that processes something;
/// commands that only look at things make none. A dry run makes one too, to see whether the command fits: so make
/// connections in it, and leave what changes anything to the pipelines.
#[must_use = "an operator does nothing until it is given a command"]
pub struct Operator<F> {
    pub(crate) name: String,
    pub(crate) component: F,
    pub(crate) places: Places,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admin: Option<Url>,
    pub(crate) listeners: Option<Box<Listeners>>,
    stop: Box<dyn Fn() -> Shutdown + Send + Sync>,
}

type Listeners = dyn Fn() -> Result<Vec<Bind>, BoxError> + Send + Sync;

impl<F> fmt::Debug for Operator<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("name", &self.name).finish_non_exhaustive()
    }
}

// the command line of a component that has no words of its own
#[derive(Debug, Parser)]
#[command(
    arg_required_else_help = true,
    about = "Run the component, see what it does and what it set aside, and send to it again",
    after_help = "\
What sends is a dry run unless it says --send; what changes something asks --why. Each command has --help, with examples.

Exit codes: 0 done, 1 it could not be done, 2 the command cannot be used, 3 done in part, 4 done and the answer is no."
)]
struct Own {
    #[command(subcommand)]
    command: Command,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    /// Of the processor of this name, which `component` makes.
    pub fn new(name: impl Into<String>, component: F) -> Self {
        Self {
            name: name.into(),
            component,
            places: Places::default(),
            clock: Arc::new(SystemClock),
            admin: None,
            listeners: None,
            stop: Box::new(streambreaker::shutdown),
        }
    }

    /// The lake, in any store.
    pub fn lake(mut self, lake: Lake) -> Self {
        self.places.lake = Some(LakePlace::Given(lake));
        self
    }

    /// The lake, in a directory, which is opened when a command needs it, and never made.
    pub fn lake_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.places.lake = Some(LakePlace::Folder(folder.into()));
        self
    }

    /// The keys of the lake in [`lake_in`](Self::lake_in), and of one that a command names by `--lake`: without them what is sealed
    /// cannot be read. A lake that is handed over as it is ([`lake`](Self::lake)) has its own.
    pub fn keys(mut self, keys: impl KeyProvider) -> Self {
        self.places.keys = Some(Arc::new(keys));
        self
    }

    /// The faults, in a file, one a line ([`streambreaker::file::faults`]); in the lake unless told.
    ///
    /// What becomes of them is noted in the lake's ledger, or, where there is no lake, in a directory beside the file, whose
    /// name is the file's with `.ledger` behind it.
    pub fn faults_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.places.faults = Some(file.into());
        self
    }

    /// The stream that replays are of, unless the command says otherwise.
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.places.stream = Some(stream.into());
        self
    }

    /// Where the component listens when it runs, for those who look and turn switches: `http://127.0.0.1:9464` or
    /// `unix:/run/orders/admin.sock`.
    ///
    /// # Panics
    /// When it is neither.
    pub fn admin(mut self, url: &str) -> Self {
        self.admin = Some(
            url.parse().unwrap_or_else(|error| panic!("{url:?} is no admin listener; {error}")),
        );
        self
    }

    /// The admin listeners of `run`: for probes, Prometheus and switches. Asked before the component is built, so that a
    /// recorder of metrics made there sees everything.
    ///
    /// ```no_run
    /// # async fn component(_: streambreaker_operator::Task)
    /// #     -> Result<streambreaker::ProcessorBuilder, streambreaker::BoxError> { unimplemented!() }
    /// use streambreaker::admin::{self, Listener};
    /// use streambreaker_operator::Operator;
    ///
    /// let operator = Operator::new("orders", component).admin("unix:/run/orders/admin.sock").listeners(|| {
    ///     let recorder = admin::recorder()?;
    ///     let all = Listener::bind("0.0.0.0:9464").read_only().allow_any_address().metrics(recorder);
    ///     Ok(vec![all, Listener::bind_unix("/run/orders/admin.sock")])
    /// });
    /// ```
    pub fn listeners(
        mut self,
        listeners: impl Fn() -> Result<Vec<Bind>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.listeners = Some(Box::new(listeners));
        self
    }

    /// When `run`, `replay`, `repair` and `resubmit` are to stop; at SIGTERM or SIGINT ([`streambreaker::shutdown`]) unless told.
    pub fn stop(mut self, stop: impl Fn() -> Shutdown + Send + Sync + 'static) -> Self {
        self.stop = Box::new(stop);
        self
    }

    /// The wall clock, for `--since 2h` and stamps; the system's unless told.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn shutdown(&self) -> Shutdown {
        (self.stop)()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes the command from the process's arguments, carries it out, and says what the process should end with.
    ///
    /// Makes a tokio runtime of several threads for it. Where the arguments make no command, it prints why and ends the process
    /// with 2; after `--help` with 0.
    ///
    /// # Errors
    /// None; a runtime that cannot be made is a failed command.
    pub fn main(self) -> ExitCode {
        let Own { command } = crate::parse();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.execute(command)).into(),
            Err(error) => {
                let failure = Failure::because("there is no runtime", error);
                self.tell(&mut Console::of_process(), failure).into()
            }
        }
    }

    /// Carries a command out, on the process's standard output and error.
    ///
    /// # Cancel safety
    /// As for what it does: a replay or a run is cut off, and nothing that is not settled is committed.
    pub async fn execute(&self, command: Command) -> Exit {
        self.execute_on(command, &mut Console::of_process()).await
    }

    /// The same on another console: for tests.
    pub async fn execute_on(&self, command: Command, console: &mut Console) -> Exit {
        let done = match *command.0 {
            Action::Run(run) => self.run(&run, console).await,
            Action::Replay(replay) => self.replay(&replay, console).await,
            Action::Repair(repair) => self.repair(&repair, console).await,
            Action::Resubmit(resubmit) => self.resubmit(&resubmit, console).await,
            Action::Faults(faults) => self.faults(faults, console).await,
            Action::Lake(word) => self.lake_word(word, console).await,
            Action::Status(args) => self.status(&args, console).await,
            Action::Metrics(args) => self.metrics(&args, console).await,
            Action::Pause(args) => self.pause(&args, console).await,
            Action::Resume(args) => self.resume(&args, console).await,
            Action::Breaker(args) => self.breaker(&args, console).await,
            Action::Skip(args) => self.skip(&args, console).await,
            Action::Siphon(siphon) => self.siphon(&siphon, console).await,
            Action::FloodGuard(guard) => self.flood_guard(&guard, console).await,
        };
        console.undraw();
        match done {
            Ok(exit) => exit,
            Err(failure) => self.tell(console, failure),
        }
    }

    fn tell(&self, console: &mut Console, failure: Failure) -> Exit {
        // of a pipe that was closed nobody wants to hear
        if failure.exit != Exit::Done {
            console.note(&format!("{}: {failure}", self.name));
        }
        failure.exit
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn help_speaks_of_the_component() {
        let help = Own::command().render_help().to_string();
        assert!(
            help.starts_with("Run the component") && help.contains("Exit codes: 0 done"),
            "{help}"
        );
    }
}
