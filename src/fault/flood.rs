//! The flood guard: keeps a deployment bug from turning a whole stream into faults.
//!
//! One a pipeline, over all its shards. A good unit costs one atomic addition, and none if a lane adds
//! up its own; the lock is taken by faults alone, which are rare, or else the guard is about to trip.
//! The window is nevertheless exact: between two faults only the *number* of good units matters.
//!
//! Not counted, so never to be asked about: units of a circuit that is open with `Siphon`, skipped ones,
//! `on_exhausted: Fault`, and resubmissions.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use crate::clock::FAR;
use crate::config::{ConfigError, Span};

/// How many faults pass after a cool-down before the guard judges anew.
const PROBES: u32 = 10;

/// When a pipeline has so many faults that something else must be wrong.
///
/// ```
/// use streambreaker::fault::FloodGuard;
///
/// let strict = FloodGuard::ratio(0.1);
/// assert_ne!(strict, FloodGuard::default());
/// assert!(FloodGuard::off().is_off());
/// assert!(FloodGuard::ratio(7.0).check("pipeline `main`").is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodGuard {
    ratio: Option<f64>,
    window: u32,
    min: u32,
    first: Duration,
    longest: Duration,
}

impl FloodGuard {
    /// Trips when more than this share of the decided units, from 0 to 1, are faults. Default 0.5,
    /// over the last 1,000 units and at least 100, with cool-downs from 30 s to 10 min.
    pub const fn ratio(limit: f64) -> Self {
        Self {
            ratio: Some(limit),
            window: 1_000,
            min: 100,
            first: Duration::from_secs(30),
            longest: Duration::from_secs(600),
        }
    }

    /// The same with another ratio.
    pub(crate) const fn with_ratio(mut self, limit: f64) -> Self {
        self.ratio = Some(limit);
        self
    }

    pub(crate) const fn cool_downs(&self) -> (Duration, Duration) {
        (self.first, self.longest)
    }

    /// Never trips.
    pub const fn off() -> Self {
        Self { ratio: None, ..Self::ratio(1.0) }
    }

    /// Over how many decided units the ratio is taken. Default 1,000.
    #[must_use]
    pub const fn window(mut self, units: u32) -> Self {
        self.window = units;
        self
    }

    /// How many units must have been decided before it can trip. Default 100.
    #[must_use]
    pub const fn min(mut self, units: u32) -> Self {
        self.min = units;
        self
    }

    /// How long faults are returned once it has tripped: `first` (default 30 s), twice as long after
    /// each time it trips again at once, up to `longest` (default 10 min).
    #[must_use]
    pub const fn cool_down(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Whether it never trips.
    pub const fn is_off(&self) -> bool {
        self.ratio.is_none()
    }

    /// What it does, to be read.
    pub(crate) fn describe(&self) -> String {
        let span = |duration| Span::from(duration).to_string();
        match self.ratio {
            None => "off".to_owned(),
            Some(ratio) => format!(
                "returns what would be faulted above {} % of the last {} units, from {} on; cools down for {} to {}",
                ratio * 100.0,
                self.window,
                self.min,
                span(self.first),
                span(self.longest)
            ),
        }
    }

    /// Whether it can be used; `owner` is named in the error.
    ///
    /// # Errors
    /// The field that cannot be, and what is accepted.
    pub fn check(&self, owner: &str) -> Result<(), ConfigError> {
        let field = |name: &str| format!("{owner}: flood guard: {name}");
        if let Some(ratio) = self.ratio {
            if !(0.0..=1.0).contains(&ratio) {
                return Err(ConfigError::new(field("ratio"), ratio, "a number from 0 to 1"));
            }
        }
        if self.min == 0 || self.min > self.window {
            let accepted = format!("a number from 1 to the window, {}", self.window);
            return Err(ConfigError::new(field("min"), self.min, accepted));
        }
        if self.first.is_zero() || self.first > self.longest {
            let found = format!("{:?} to {:?}", self.first, self.longest);
            let accepted = "a duration above zero, and a longest one not below it";
            return Err(ConfigError::new(field("cool_down"), found, accepted));
        }
        Ok(())
    }
}

impl Default for FloodGuard {
    /// `FloodGuard::ratio(0.5)`.
    fn default() -> Self {
        Self::ratio(0.5)
    }
}

/// What is to become of a unit that is about to be faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Hand the fault over. It has been counted.
    Pass,
    /// Return the unit to the stream instead. It has not been counted: it is not decided.
    Return,
}

/// Where a [`Floodgate`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FloodState {
    /// Faults pass.
    Closed,
    /// Faults are returned.
    Tripped {
        /// For how much longer.
        remaining: Duration,
    },
    /// The cool-down is over; so many more faults pass before it judges anew.
    Probing {
        /// How many.
        left: u32,
    },
}

/// The flood guard of one pipeline at work, shared by all its shards.
pub(crate) struct Floodgate {
    /// Records that entered since a fault was last judged.
    good: AtomicU64,
    inner: Mutex<Inner>,
    #[cfg(feature = "admin")]
    built: FloodGuard,
    processor: String,
    pipeline: String,
}

struct Inner {
    guard: FloodGuard,
    window: Window,
    phase: Phase,
    /// How long the next cool-down is.
    cool_down: Duration,
    /// Records that were counted as good when they entered, and have been faulted since.
    owed: u64,
}

#[derive(Clone, Copy)]
enum Phase {
    Closed,
    Tripped { until: Instant },
    Probing { left: u32 },
}

impl Floodgate {
    /// A gate for this pipeline of this processor, with nothing decided yet.
    pub(crate) fn new(
        guard: FloodGuard,
        processor: impl Into<String>,
        pipeline: impl Into<String>,
    ) -> Self {
        Self {
            good: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                guard,
                window: Window::default(),
                phase: Phase::Closed,
                cool_down: guard.first,
                owed: 0,
            }),
            #[cfg(feature = "admin")]
            built: guard,
            processor: processor.into(),
            pipeline: pipeline.into(),
        }
    }

    /// So many records have entered the pipeline: they count as good until they are faulted. A lane may add up its
    /// own and report a turn's worth.
    pub(crate) fn record_good(&self, count: u32) {
        self.good.fetch_add(u64::from(count), Ordering::Relaxed);
    }

    /// Decides about a unit of so many records that is about to be faulted, before its fault is handed over. If
    /// it passes, its records count as faults. They were counted as good when they entered the pipeline, so that
    /// what is on its way does not look as if only faults were decided: that is taken back.
    pub(crate) fn judge(&self, now: Instant, records: u32) -> Verdict {
        let mut inner = self.lock();
        let entered = self.good.swap(0, Ordering::Relaxed);
        let owed = inner.owed.saturating_add(u64::from(records));
        inner.owed = owed.saturating_sub(entered).min(u64::from(inner.guard.window));
        self.decide(&mut inner, now, entered.saturating_sub(owed), records)
    }

    fn decide(&self, inner: &mut Inner, now: Instant, good: u64, faults: u32) -> Verdict {
        let guard = inner.guard;
        let Some(limit) = guard.ratio else {
            return Verdict::Pass;
        };
        if let Phase::Tripped { until } = inner.phase {
            if now < until {
                return Verdict::Return;
            }
            // what was decided before, and while every fault was returned, says nothing about now
            inner.window.clear();
            inner.phase = Phase::Probing { left: PROBES };
            self.report("probing", inner, limit);
        } else {
            inner.window.good(good, guard.window);
        }
        match inner.phase {
            Phase::Probing { left: left @ 1.. } => {
                inner.phase = Phase::Probing { left: left - 1 };
            }
            phase => {
                let probed = matches!(phase, Phase::Probing { .. });
                let enough = probed || inner.window.total() + 1 >= u64::from(guard.min);
                if enough && inner.window.ratio_with_one_more(guard.window) > limit {
                    inner.phase = Phase::Tripped { until: now + inner.cool_down.min(FAR) };
                    self.report("tripped", inner, limit);
                    inner.cool_down = inner.cool_down.saturating_mul(2).min(guard.longest);
                    return Verdict::Return;
                }
                if probed {
                    inner.phase = Phase::Closed;
                    inner.cool_down = guard.first;
                    self.report("closed", inner, limit);
                }
            }
        }
        for _ in 0..faults.min(guard.window) {
            inner.window.fault(guard.window);
        }
        Verdict::Pass
    }

    /// Replaces the limits, at run time. A gate that has tripped closes, so that a higher limit, or
    /// none, acts at once; what has been decided stays counted.
    pub(crate) fn set(&self, guard: FloodGuard) {
        let mut inner = self.lock();
        inner.guard = guard;
        inner.cool_down = guard.first;
        inner.phase = Phase::Closed;
        inner.window.trim(guard.window);
        self.report("closed", &inner, guard.ratio.unwrap_or(1.0));
    }

    /// The limits that the pipeline was built with.
    #[cfg(feature = "admin")]
    pub(crate) fn built(&self) -> FloodGuard {
        self.built
    }

    /// The limits that hold now.
    pub(crate) fn guard(&self) -> FloodGuard {
        self.lock().guard
    }

    /// Where it stands.
    pub(crate) fn state(&self, now: Instant) -> FloodState {
        match self.lock().phase {
            Phase::Closed => FloodState::Closed,
            Phase::Tripped { until } if now < until => {
                FloodState::Tripped { remaining: until.duration_since(now) }
            }
            Phase::Tripped { .. } => FloodState::Probing { left: PROBES },
            Phase::Probing { left } => FloodState::Probing { left },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // nothing under the lock can be left half done in a way that matters
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn report(&self, state: &'static str, inner: &Inner, limit: f64) {
        let labels =
            || [("processor", self.processor.clone()), ("pipeline", self.pipeline.clone())];
        let tripped = state == "tripped";
        metrics::gauge!("streambreaker_flood_guard_tripped", &labels()).set(if tripped {
            1.0
        } else {
            0.0
        });
        if !tripped {
            tracing::info!(
                target: "streambreaker::fault",
                processor = %self.processor,
                pipeline = %self.pipeline,
                state,
                "the flood guard lets faults pass"
            );
            return;
        }
        metrics::counter!("streambreaker_flood_guard_trips_total", &labels()).increment(1);
        tracing::error!(
            target: "streambreaker::fault",
            processor = %self.processor,
            pipeline = %self.pipeline,
            state,
            faults = inner.window.faults(),
            decided = inner.window.total(),
            limit,
            cool_down_seconds = inner.cool_down.as_secs_f64(),
            "the flood guard has tripped: what would be faulted is returned to the stream"
        );
    }
}

impl fmt::Debug for Floodgate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floodgate")
            .field("pipeline", &self.pipeline)
            .field("guard", &self.lock().guard)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn gate(guard: FloodGuard) -> Floodgate {
        Floodgate::new(guard, "p", "q")
    }

    fn passes(gate: &Floodgate, faults: usize) -> usize {
        let one = |_: &usize| {
            gate.record_good(1);
            gate.judge(Instant::now(), 1) == Verdict::Pass
        };
        (0..faults).filter(one).count()
    }

    #[tokio::test(start_paused = true)]
    async fn f11_below_the_minimum_every_fault_passes() {
        let gate = gate(FloodGuard::default());
        assert_eq!(passes(&gate, 99), 99);
        assert_eq!(passes(&gate, 500), 0);
        assert!(matches!(gate.state(Instant::now()), FloodState::Tripped { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn f11_a_steady_share_below_the_limit_never_trips() {
        let gate = gate(FloodGuard::default());
        for _ in 0..10_000 {
            gate.record_good(1);
            assert_eq!(passes(&gate, 1), 1);
        }
        gate.record_good(1);
        assert_eq!(passes(&gate, 3), 1, "past one half at the first fault more");
    }

    #[tokio::test(start_paused = true)]
    async fn f11_old_good_units_do_not_excuse_a_flood() {
        let gate = gate(FloodGuard::default());
        gate.record_good(u32::MAX);
        assert_eq!(passes(&gate, 2_000), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn f11_poison_moves_on_ten_at_a_time_with_longer_and_longer_waits() {
        let gate = gate(FloodGuard::default());
        passes(&gate, 200);
        for cool_down in [30, 60, 120, 240, 480, 600, 600] {
            advance(Duration::from_secs(cool_down) - Duration::from_millis(1)).await;
            assert_eq!(passes(&gate, 50), 0);
            advance(Duration::from_millis(1)).await;
            assert_eq!(passes(&gate, 50), PROBES as usize);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f11_good_units_among_the_probes_close_it() {
        let gate = gate(FloodGuard::default());
        passes(&gate, 200);
        gate.record_good(5_000);
        advance(Duration::from_secs(30)).await;
        assert_eq!(passes(&gate, 1), 1);
        assert_eq!(gate.state(Instant::now()), FloodState::Probing { left: 9 });
        gate.record_good(20);
        assert_eq!(passes(&gate, 10), 10);
        assert_eq!(gate.state(Instant::now()), FloodState::Closed);
        passes(&gate, 200);
        advance(Duration::from_secs(30)).await;
        assert_eq!(passes(&gate, 1), 1, "the cool-down starts from its first length again");
    }

    #[tokio::test(start_paused = true)]
    async fn switched_off_it_passes_everything_also_while_tripped() {
        let off = gate(FloodGuard::off());
        assert_eq!(passes(&off, 5_000), 5_000);
        let gate = gate(FloodGuard::ratio(0.0));
        passes(&gate, 200);
        gate.set(FloodGuard::off());
        assert_eq!(passes(&gate, 200), 200);
        assert_eq!(gate.state(Instant::now()), FloodState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cool_down_without_end_is_accepted() {
        let gate = gate(FloodGuard::default().cool_down(Duration::MAX, Duration::MAX));
        assert_eq!(passes(&gate, 200), 99);
        advance(Duration::from_secs(86_400)).await;
        assert_eq!(passes(&gate, 200), 0);
    }

    #[test]
    fn bad_limits_are_named() {
        for (guard, field) in [
            (FloodGuard::ratio(f64::NAN), "ratio"),
            (FloodGuard::ratio(-0.1), "ratio"),
            (FloodGuard::ratio(0.5).min(0), "min"),
            (FloodGuard::ratio(0.5).window(10), "min"),
            (FloodGuard::ratio(0.5).cool_down(Duration::ZERO, Duration::MAX), "cool_down"),
        ] {
            let error = guard.check("pipeline `q`").expect_err("an error");
            assert_eq!(error.field(), format!("pipeline `q`: flood guard: {field}"));
        }
    }
}
