//! The simulator: a processor in a world where everything goes wrong that can, by a seed.
//!
//! One seed decides the log, the shape of the processor, what goes wrong, and the interleaving. A run has one
//! thread and paused time, so the same case gives the same trace in every process, and an hour of outage takes
//! milliseconds. A process is killed by dropping its runtime at an await; the next life begins with what was
//! durable. At the end nothing goes wrong any more: all must come to rest, and a fresh event must pass.
//!
//! The oracle is outside the code under test: in the fake checkpoint store, which holds every commit against
//! the ledger, in the fake handlers and sinks, and in the ledger at rest.
//!
//! ```
//! use streambreaker_testkit::sim::{Case, Scenario, run};
//!
//! let outcome = run(&Case::new(Scenario::Plain, 1));
//! assert_eq!(outcome.failure, None);
//! ```

mod case;
mod checkpoint;
mod done;
mod gate;
mod gates;
mod handlers;
mod host;
mod ledger;
mod operator;
mod plan;
mod rng;
mod run;
mod scenario;
mod shrink;
mod sinks;
mod source;
mod verdict;
mod world;

pub use case::{Case, ParseCaseError};
pub use gates::{Gates, Life};
pub use run::{Outcome, run};
pub use scenario::Scenario;
pub use shrink::shrink;
pub use world::Failure;
