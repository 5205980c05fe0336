//! One rule, in a runtime of its own.

use std::fmt;
use std::future::Future;
use std::ops::AsyncFnOnce;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use streambreaker::BoxError;

/// The time that a harness lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Tokio's paused time: for all that is in this process, or blocks in `spawn_blocking` only. An hour of
    /// waiting takes none.
    Paused,
    /// Real time: for brokers.
    Real {
        /// How long to wait for what must happen, a redelivery after a deadline included.
        patience: Duration,
        /// How long nothing must come, to conclude that nothing will.
        quiet: Duration,
    },
}

impl Time {
    /// How long to wait for what must happen: an hour in paused time.
    pub fn patience(self) -> Duration {
        match self {
            Time::Paused => Duration::from_secs(3600),
            Time::Real { patience, .. } => patience,
        }
    }

    /// How long to wait for what must not happen: five minutes in paused time.
    pub fn quiet(self) -> Duration {
        match self {
            Time::Paused => Duration::from_secs(300),
            Time::Real { quiet, .. } => quiet,
        }
    }
}

/// What every harness has.
pub trait Harness: Send + Sync + 'static {
    /// The time it lives in.
    fn time(&self) -> Time {
        Time::Paused
    }

    /// Makes what it tests, fresh and empty, under a name that no other test uses: tests run side by side.
    fn setup(&mut self) -> impl Future<Output = Result<(), BoxError>> {
        async { Ok(()) }
    }

    /// Clears it away, also after a rule that was broken.
    fn teardown(&mut self) -> impl Future<Output = Result<(), BoxError>> {
        async { Ok(()) }
    }
}

/// States something that a test cannot hold against anybody, for whoever looks at its output.
pub(crate) fn state(what: impl fmt::Display) {
    println!("states: {what}");
}

/// Whether this is declared, which is then stated.
pub(crate) fn declared<C: fmt::Display + PartialEq>(cannot: &[C], what: C) -> bool {
    let declared = cannot.contains(&what);
    if declared {
        state(what);
    }
    declared
}

/// What the harness was asked for.
pub(crate) fn must<T>(what: &str, result: Result<T, BoxError>) -> T {
    result.unwrap_or_else(|error| panic!("the harness fails to {what}: {error}"))
}

/// Runs one rule against a harness: sets it up, holds the rule against it, and clears away.
///
/// # Panics
/// When the rule is broken, takes far longer than the harness has patience, or the harness cannot be set up.
pub fn check<H: Harness>(mut harness: H, rule: impl AsyncFnOnce(&H)) {
    let time = harness.time();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(time == Time::Paused);
    let runtime = runtime.build().expect("a runtime for the test");
    runtime.block_on(async {
        if let Err(error) = harness.setup().await {
            panic!("the harness cannot be set up: {error}");
        }
        let limit = time.patience().saturating_mul(24);
        let rule = async { tokio::time::timeout(limit, rule(&harness)).await };
        let result = AssertUnwindSafe(rule).catch_unwind().await;
        let cleared = harness.teardown().await;
        match result {
            Err(broken) => resume_unwind(broken),
            Ok(Err(_)) => panic!("the rule hangs: not done after {limit:?}"),
            Ok(Ok(())) => {}
        }
        if let Err(error) = cleared {
            panic!("the harness cannot be cleared away: {error}");
        }
    });
}
