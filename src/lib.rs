//! skeleton

pub mod clock;
mod config;
pub mod envelope;
pub mod error;
pub mod fault;
pub mod file;
pub mod memory;
pub mod record;
pub mod sink;
pub mod source;

#[doc(inline)]
pub use config::ConfigError;
#[doc(inline)]
pub use error::{BoxError, Class, ResultExt, StepError};
#[doc(inline)]
pub use record::{Delivery, Headers, PartPath, Position, Record, ShardId, Timestamp};
#[doc(inline)]
pub use sink::Sink;
#[doc(inline)]
pub use source::Source;

/// What most components import.
pub mod prelude {
    pub use crate::error::{ResultExt, StepError};
}
