//! The command line: the words that every component has, and a few of its own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use orders_component::generate::Generator;

/// Says which orders are complete and which are overdue.
#[derive(Debug, Parser)]
#[command(
    name = "orders",
    version,
    arg_required_else_help = true,
    after_help = "\
The first SIGTERM or Ctrl-C ends a run in peace, a second one at once. Exit codes: 0 done, all is settled; 1 it failed; 2 command
line or configuration cannot be used; 3 something is left to the next time; 4 done, and the answer is no."
)]
pub(crate) struct Line {
    /// The configuration; what it does not say has its default [env: ORDERS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is, instead of `data` in the configuration
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The database, instead of `orders.db` in there: a replay into a fresh one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) word: Word,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Word {
    #[command(flatten)]
    Operate(streambreaker_operator::Command),
    /// Store the events in the lake, until a signal comes
    Store {
        /// End at the end of the events
        #[arg(long)]
        once: bool,
    },
    /// Print the plan that comes of the configuration, or what is wrong with it
    Check,
    /// Write events to try it with
    Generate(Made),
    /// Generate, then run to the end of the events
    Demo(Made),
}

/// Which events are made.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Made {
    /// The same seed makes the same events
    #[arg(long, value_name = "N", default_value_t = Generator::default().seed)]
    seed: u64,
    /// How many orders
    #[arg(long, value_name = "N", default_value_t = Generator::default().orders)]
    orders: u32,
    /// The share of events that cannot be processed
    #[arg(long, value_name = "SHARE", default_value_t = Generator::default().poison, value_parser = share)]
    poison: f64,
}

impl Made {
    pub(crate) fn generator(self) -> Generator {
        let Self { seed, orders, poison } = self;
        Generator { seed, orders, poison, ..Generator::default() }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "accepted: a share from 0 to 1".to_owned())
}
