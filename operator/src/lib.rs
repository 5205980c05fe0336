//! The command line of a [`streambreaker`] component: run it, replay records into it, resubmit its faults, look at its lake,
//! and turn the switches of the process that runs.
//!
//! ```
//! use clap::Parser;
//! use streambreaker::prelude::*;
//! use streambreaker::{BoxError, file, memory};
//! use streambreaker_operator::{Command, Console, Exit, Operator};
//!
//! #[derive(Parser)]
//! struct Line {
//!     #[command(subcommand)]
//!     command: Command,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let faults = folder.path().join("faults.ndjson");
//! # let file_of_faults = faults.clone();
//! let operator = Operator::new("numbers", async move |_task| {
//!     Ok(Processor::builder("numbers")
//!         .source(memory::stream(["1", "two", "3"]))
//!         .faults(file::faults(&faults)?)
//!         .pipeline("all", |flow| flow.json::<u64>()))
//! })
//! .faults_in(file_of_faults);
//!
//! // what `operator.main()` does with the words of the process
//! let words = |line: &'static str| Line::try_parse_from(line.split(' ')).map(|line| line.command);
//! assert_eq!(operator.execute(words("numbers run")?).await, Exit::Done);
//!
//! let (mut console, out, _err) = Console::captured();
//! operator.execute_on(words("numbers faults group")?, &mut console).await;
//! assert!(out.text().contains("1 fault of 1 kind"));
//! # Ok(())
//! # }
//! ```
//!
//! The README says which commands there are, and what holds for all of them.
//!
//! # Decisions
//!
//! **The builder is handed over, not the processor.** A command chooses pipelines (`--pipeline`) and source; so a component is
//! a function that makes its [`ProcessorBuilder`](streambreaker::ProcessorBuilder), called once a command that processes
//! something, with the [`Task`] at hand: a replay may want another table than the live run.
//!
//! **One document of JSON a command.** Scripts want one thing to parse. Where there may be more than memory holds, it is a
//! line each.
//!
//! **A dry run unless told.** What sends is looked at first (so does `aws-lambda-stream-cli`); what merely turns a switch that can be turned back is
//! not, but needs a reason.
//!
//! **HTTP by hand.** The client asks one thing of the listener of this workspace, over the loopback or a Unix socket. A client library would be the
//! largest dependency of this crate.
//!
//! Types of `clap` are in the public API, by intent: [`Command`] stands beside a component's own words.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod args;
mod command;
mod console;
mod failure;
mod faults;
mod key;
mod lake;
mod operator;
mod places;
mod process;
mod progress;
mod repair;
mod replay;
mod resubmit;
mod run;
mod text;
mod time;

pub use self::command::{Command, parse};
pub use self::console::{Console, Printed};
pub use self::failure::Exit;
pub use self::operator::{Operator, Task};

/// The code of the README, so that it is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeProgram;
