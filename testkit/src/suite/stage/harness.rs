//! What a stage tells the suite, and the work that its units do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streambreaker::flow::BoxedFlow;
use streambreaker::prelude::*;

use super::rig::Above;
use crate::suite::check::Harness;

/// What kind of stage it is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub(super) calls: bool,
    pub(super) at_once: usize,
    pub(super) takes: usize,
    pub(super) timeout: Duration,
    pub(super) keyed: bool,
}

impl Shape {
    /// It decides about units as they pass, or holds them for a while; it runs no futures.
    pub const fn inline() -> Self {
        Self { calls: false, at_once: 0, takes: usize::MAX, timeout: Duration::ZERO, keyed: false }
    }

    /// It runs [`Work`]: on so many units at once, each with this timeout (below a second), after which its unit is
    /// a fault. It takes as many units as it works on.
    pub const fn calls(at_once: usize, timeout: Duration) -> Self {
        Self { calls: true, at_once, takes: at_once, timeout, keyed: false }
    }

    /// It takes more units than it works on, up to so many.
    #[must_use]
    pub const fn takes(mut self, units: usize) -> Self {
        self.takes = units;
        self
    }

    /// It works on one unit of a key at a time: units of one payload have one key.
    #[must_use]
    pub const fn keyed(mut self) -> Self {
        self.keyed = true;
        self
    }
}

/// What the futures of a stage do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Does {
    Ready,
    Sleep(Duration),
    /// So many sleeps of a millisecond, one after the other.
    Steps(u32),
    Hang,
    /// The first few go on as long as they are let, the others need a little.
    Hog {
        hogs: usize,
    },
}

/// The work of a unit: for a stage that runs futures to await, once a unit.
#[derive(Clone, Debug)]
pub struct Work {
    pub(super) does: Does,
    starts: Arc<AtomicUsize>,
    ended: Arc<Mutex<Vec<usize>>>,
}

impl Work {
    pub(super) fn new(does: Does) -> Self {
        Self { does, starts: Arc::default(), ended: Arc::default() }
    }

    /// How often it was begun.
    pub(super) fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    /// Which ended, in that order, by the order in which they began.
    pub(super) fn ended(&self) -> Vec<usize> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does it: at once, after a while, or never.
    pub async fn run(&self) {
        let n = self.starts.fetch_add(1, Ordering::Relaxed);
        match self.does {
            Does::Ready => {}
            Does::Sleep(span) => tokio::time::sleep(span).await,
            Does::Steps(steps) => {
                for _ in 0..steps {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Does::Hang => std::future::pending().await,
            Does::Hog { hogs } => {
                for _ in 0..if n < hogs { 20_000 } else { 300 } {
                    tokio::task::coop::consume_budget().await;
                }
            }
        }
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(n);
    }
}

/// A stage for one test. Clones are the same.
pub trait StageHarness: Harness + Clone {
    /// What kind of stage it is.
    fn shape(&self) -> Shape;

    /// Adds the stage under test, and what it takes to hand it its units. A stage that runs futures awaits
    /// [`Work::run`] in each; its units end as faults when they run into their timeout. One that holds units back
    /// holds them for less than a second.
    fn stage(&self, flow: Flow<Above>, work: &Work) -> BoxedFlow<()>;

    /// The stage as it hands on nothing: it decides about every unit by itself (filters it, faults it), so that one
    /// poll could go on for ever. By default `stage`, which is right for what always hands on.
    fn swallows(&self, flow: Flow<Above>) -> BoxedFlow<()> {
        self.stage(flow, &Work::new(Does::Ready))
    }

    /// The payload of a unit. Eight different ones by default, JSON with a `type`.
    fn payload(&self, n: usize) -> String {
        format!(r#"{{"type":"t","n":"{}"}}"#, "x".repeat(n % 8))
    }
}
