//! skeleton

pub mod clock;
mod config;
pub mod envelope;
pub mod error;
pub mod fault;
pub mod record;
pub mod resource;
pub mod sink;
pub mod source;

#[doc(inline)]
pub use config::ConfigError;
#[doc(inline)]
pub use error::{BoxError, Class, ResultExt, StepError};
#[doc(inline)]
pub use record::{Delivery, Headers, PartPath, Position, Record, ShardId, Timestamp};
#[doc(inline)]
pub use resource::{
    Breaker, OnExhausted, OnOpen, Rate, Resource, ResourceBuilder, Retry, RetryQuota,
};
#[doc(inline)]
pub use sink::Sink;
#[doc(inline)]
pub use source::Source;

/// What most components import.
pub mod prelude {
    pub use crate::error::{ResultExt, StepError};
    pub use crate::resource::{Breaker, OnExhausted, OnOpen, Rate, Resource, Retry, RetryQuota};
}
