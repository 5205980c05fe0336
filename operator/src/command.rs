//! The command line: what is accepted, and its help.

use clap::{ArgMatches, FromArgMatches, Parser, Subcommand};

use crate::faults::Faults;
use crate::lake::LakeWord;
use crate::operator::Task;
use crate::process::{
    BreakerArgs, FloodGuard, MetricsArgs, PipelineArgs, Siphon, SkipArgs, StatusArgs,
};
use crate::repair::Repair;
use crate::replay::Replay;
use crate::resubmit::Resubmit;
use crate::run::Run;

/// A command of an operator.
///
/// It is a set of subcommands of `clap`, to stand beside a component's own:
///
/// ```
/// use clap::{Parser, Subcommand};
///
/// #[derive(Parser)]
/// struct Orders {
///     #[arg(long, global = true)]
///     config: Option<std::path::PathBuf>,
///     #[command(subcommand)]
///     command: Word,
/// }
///
/// #[derive(Subcommand)]
/// enum Word {
///     /// Print the plan
///     Check,
///     #[command(flatten)]
///     Operate(streambreaker_operator::Command),
/// }
///
/// let orders = Orders::try_parse_from(["orders", "faults", "ls", "--since", "2h"])?;
/// assert!(matches!(orders.command, Word::Operate(_)));
/// # Ok::<(), clap::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Command(pub(crate) Box<Action>);

impl Command {
    /// `run`, without options.
    pub fn run() -> Self {
        Self(Box::new(Action::Run(Run::default())))
    }

    /// `run --plan`: prints what would run.
    pub fn plan() -> Self {
        Self(Box::new(Action::Run(Run::plan())))
    }

    /// What a component is built for by it, if at all.
    pub fn task(&self) -> Option<Task> {
        match &*self.0 {
            Action::Run(_) => Some(Task::Run),
            Action::Replay(_) => Some(Task::Replay),
            Action::Repair(_) => Some(Task::Repair),
            Action::Resubmit(_) => Some(Task::Resubmit),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Run the component on its stream
    Run(Run),
    /// Send records of the lake into the component again
    Replay(Replay),
    /// Send what the component has missed: records that its stream had lost, or that went by a disabled pipeline
    Repair(Repair),
    /// Send faults to the pipeline that refused them
    Resubmit(Resubmit),
    /// Look at what was set aside, and dismiss it
    #[command(subcommand)]
    Faults(Faults),
    /// Look at what is stored, and prove that it is whole
    #[command(subcommand)]
    Lake(LakeWord),
    /// Show what a component that runs is doing
    Status(StatusArgs),
    /// Show what a component that runs counts and measures
    Metrics(MetricsArgs),
    /// Stop a pipeline of a component that runs from taking more
    Pause(PipelineArgs),
    /// Let a paused pipeline go on
    Resume(PipelineArgs),
    /// Hold a breaker of a component that runs, or leave it to itself
    Breaker(BreakerArgs),
    /// Set one record aside that a component that runs is stuck at
    Skip(SkipArgs),
    /// Set aside what would call a resource that is down
    #[command(subcommand)]
    Siphon(Siphon),
    /// Let a flood of faults pass, or stop it again
    #[command(subcommand)]
    FloodGuard(FloodGuard),
}

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Action::from_arg_matches(matches).map(|action| Self(Box::new(action)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for Command {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        Action::augment_subcommands(command)
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Action::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Action::has_subcommand(name)
    }
}

/// Puts the program's name where the examples of a help say `$0`.
fn with_name(command: clap::Command, name: &str) -> clap::Command {
    let named = |help: Option<&clap::builder::StyledStr>| {
        help.map(|help| help.to_string().replace("$0", name))
    };
    let after = named(command.get_after_help());
    let names: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = match after {
        Some(after) => command.after_help(after),
        None => command,
    };
    names
        .iter()
        .fold(command, |command, sub| command.mut_subcommand(sub, |sub| with_name(sub, name)))
}

/// Parses the process's arguments, with the program's name in the examples of the help. In everything else it is
/// `Parser::parse`: what cannot be parsed ends the process with 2, `--help` with 0.
pub fn parse<C: Parser>() -> C {
    let mut args = std::env::args_os().peekable();
    let name = args.peek().map(std::path::PathBuf::from);
    let name = name.as_deref().and_then(|path| path.file_name()?.to_str()).unwrap_or("$0");
    let command = with_name(C::command(), name);
    let matches = command.clone().get_matches_from(args);
    match C::from_arg_matches(&matches) {
        Ok(parsed) => parsed,
        Err(error) => error.format(&mut command.clone()).exit(),
    }
}
