//! A component as a team would write it, complete: it collects what happens to orders, and says which are complete
//! and which are overdue.
//!
//! The README beside `Cargo.toml` walks through it. In the order in which it is best read:
//!
//! | file | what is in it |
//! |---|---|
//! | [`event`] | the events that come in, and what makes one fit to be processed |
//! | [`rules`] | when an order is complete, and when overdue: pure functions |
//! | [`handlers`] | the two pipelines; no word about where events come from |
//! | [`store`] | the event store and the materialised view in SQLite |
//! | [`settings`] | the configuration file |
//! | [`wiring`] | source, sinks, resources and pipelines put together |
//! | `main.rs` | the command line, logs, probes, the graceful stop, exit codes |
//! | [`generate`] | events to try it with |

pub mod event;
pub mod generate;
pub mod handlers;
pub mod rules;
pub mod settings;
pub mod store;
pub mod wiring;
