//! The command line of a [`streambreaker`] component.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod args;
mod command;
mod console;
mod failure;
mod faults;
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
