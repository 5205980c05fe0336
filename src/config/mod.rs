//! Configuration: what a file may set, and mistakes in it.
//!
//! Code sets defaults, configuration wins. Any format that serde reads will do; see [`Config`].

use std::fmt;

pub use self::settings::{
    BreakerConfig, CommitConfig, Config, FloodConfig, InFlightConfig, PipelineConfig,
    ProcessorConfig, QuotaConfig, RateConfig, ResourceConfig, RetryConfig, StageConfig,
};
pub use self::units::{Size, Span, UnitError};

mod apply;
mod settings;
mod units;

/// A configuration that cannot be used.
///
/// ```
/// use streambreaker::ConfigError;
///
/// let error = ConfigError::new("resource `db`: concurrency", "0", "a number from 1");
/// assert_eq!(error.to_string(), "resource `db`: concurrency is 0; accepted: a number from 1");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    found: String,
    accepted: String,
}

impl ConfigError {
    /// `field` holds `found`, but only `accepted` is.
    pub fn new(
        field: impl Into<String>,
        found: impl fmt::Display,
        accepted: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), found: found.to_string(), accepted: accepted.into() }
    }

    /// The field, with what it belongs to.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What would have been accepted.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; accepted: {}", self.field, self.found, self.accepted)
    }
}

/// As [`Display`](fmt::Display): it is what `main` and `unwrap` print, and it is written for people.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}
