//! What a breaker shows of itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::breaker::OnOpen;

/// Whether calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// All do.
    Closed,
    /// A few probes do.
    HalfOpen,
    /// None does.
    Open,
}

impl BreakerState {
    /// Its name in logs and metrics: `closed`, `half_open`, `open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }

    /// What the gauge `streambreaker_breaker_state` shows.
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }

    /// The low two bits of a circuit's word.
    pub(super) const fn of(word: u64) -> Self {
        match word & 3 {
            0 => Self::Closed,
            1 => Self::HalfOpen,
            _ => Self::Open,
        }
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who decides on the state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerControl {
    /// The results of the calls.
    Auto,
    /// An operator: it stays open, without probes.
    HeldOpen,
    /// An operator: it stays closed, whatever the results.
    HeldClosed,
}

/// A breaker at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Whether calls go through.
    pub state: BreakerState,
    /// Who decides on that.
    pub control: BreakerControl,
    /// What becomes of units while it is open.
    pub on_open: OnOpen,
    /// Calls that count in the window; while half-open the probes that are out or were good.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// How often it has opened, in the life of this process.
    pub opened: u64,
    /// Seconds until it lets probes through, where that is known.
    pub probes_in_seconds: Option<f64>,
}
