//! The settings of a circuit breaker; the state machine that obeys them is in `circuit`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// What becomes of a unit whose resource has an open circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnOpen {
    /// It is faulted at once, without a call, and counts for the flood guard.
    Fault,
    /// It waits until a probe closes the circuit: back-pressure up to the source.
    Pause,
    /// It is faulted at once and does not count for the flood guard: for a disruption of a whole
    /// region, when events are to be siphoned off and resubmitted later.
    Siphon,
}

impl OnOpen {
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Fault,
            1 => Self::Pause,
            _ => Self::Siphon,
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Fault => 0,
            Self::Pause => 1,
            Self::Siphon => 2,
        }
    }
}

/// A circuit breaker: opens when too many of the last calls failed, and lets a few probes through after
/// a while to find out whether to close again (M. Nygard, *Release It!*, 2007).
///
/// What counts as failed is a transient error, an attempt timeout included. A fault means that the
/// dependency answered, so it counts as good: poison cannot open the circuit. Throttling, fatal errors,
/// panics and cancelled attempts do not count at all.
///
/// The window slides in sixteenths: it covers between 15/16 of its length and the whole of it.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::{Breaker, OnOpen};
///
/// const CAUTIOUS: Breaker =
///     Breaker::failure_ratio(0.3).window(Duration::from_secs(30)).on_open(OnOpen::Pause);
/// assert_ne!(CAUTIOUS, Breaker::failure_ratio(0.3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    pub(super) ratio: f64,
    pub(super) window: Duration,
    pub(super) min_calls: u32,
    pub(super) cool_down: Duration,
    pub(super) half_open: u32,
    pub(super) on_open: Option<OnOpen>,
}

impl Breaker {
    /// Opens when this share of the calls in the window failed: a number above 0, at most 1.
    pub const fn failure_ratio(ratio: f64) -> Self {
        Self {
            ratio,
            window: Duration::from_secs(10),
            min_calls: 20,
            cool_down: Duration::from_secs(30),
            half_open: 3,
            on_open: None,
        }
    }

    /// The same with another ratio.
    pub(crate) const fn with_failure_ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// How far back calls count. Default 10 s; less than 1 ms is refused by `build()`.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// With fewer calls in the window it does not open. Default 20; zero is refused by `build()`.
    #[must_use]
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// How long it stays open before it tries probes. Default 30 s; zero is refused by `build()`.
    #[must_use]
    pub const fn cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    /// How many probes are let through while half-open: all good, and it closes; one bad, and it opens
    /// again. Default 3; zero is refused by `build()`.
    #[must_use]
    pub const fn half_open(mut self, probes: u32) -> Self {
        self.half_open = probes;
        self
    }

    /// What becomes of units while it is open. Must be named where the resource leaves exhausted units
    /// to the stream (the default); else [`OnOpen::Fault`]. Can be changed at run time.
    #[must_use]
    pub const fn on_open(mut self, on_open: OnOpen) -> Self {
        self.on_open = Some(on_open);
        self
    }

    pub(super) fn check(&self, of: &str) -> Result<(), ConfigError> {
        let wrong = |field: &str, found: String, accepted: &str| {
            Err(ConfigError::new(format!("{of}: breaker {field}"), found, accepted))
        };
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return wrong("failure_ratio", self.ratio.to_string(), "a number above 0, at most 1");
        }
        if self.window < Duration::from_millis(1) {
            return wrong("window", format!("{:?}", self.window), "at least 1 ms");
        }
        if self.min_calls == 0 {
            return wrong("min_calls", "0".into(), "a number from 1");
        }
        if self.cool_down.is_zero() {
            return wrong("cool_down", "zero".into(), "a duration above zero");
        }
        if self.half_open == 0 {
            return wrong("half_open", "0".into(), "a number from 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let good = Breaker::failure_ratio(0.5);
        let text = |breaker: Breaker| breaker.check("resource `db`").expect_err("no").to_string();
        for ratio in [0.0, -0.1, 1.01, f64::NAN] {
            assert!(text(Breaker::failure_ratio(ratio)).contains("breaker failure_ratio is"));
        }
        assert!(text(good.window(Duration::ZERO)).contains("breaker window is 0ns"));
        assert!(text(good.min_calls(0)).contains("breaker min_calls is 0"));
        assert!(text(good.cool_down(Duration::ZERO)).contains("breaker cool_down is zero"));
        assert!(text(good.half_open(0)).contains("breaker half_open is 0"));
        assert!(good.window(Duration::from_millis(1)).check("x").is_ok());
        assert!(good.check("x").is_ok() && Breaker::failure_ratio(1.0).check("x").is_ok());
    }

    #[test]
    fn codes_come_back() {
        for on_open in [OnOpen::Fault, OnOpen::Pause, OnOpen::Siphon] {
            assert_eq!(OnOpen::from_code(on_open.code()), on_open);
        }
    }
}
