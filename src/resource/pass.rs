//! One call that a breaker admitted.

use tokio::time::Instant;

use super::circuit::Circuit;
use super::state::BreakerState;

#[derive(Clone, Copy)]
pub(super) enum ProbeEnd {
    Good,
    Bad(Instant),
    Ignored,
}

/// The right to make one call, and the duty to say how it ended. Dropped without a word it counts as
/// ignored, and a probe gives its place back (rule B2).
#[must_use = "a call that says nothing of its end does not count"]
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    circuit: Option<&'a Circuit>,
    /// The circuit's word at the admission: only a probe is admitted while it is half-open.
    word: u64,
}

impl<'a> Pass<'a> {
    #[inline]
    pub(super) const fn new(circuit: &'a Circuit, word: u64) -> Self {
        Self { circuit: Some(circuit), word }
    }

    /// The pass of a resource without a breaker.
    #[inline]
    pub(super) const fn free() -> Self {
        Self { circuit: None, word: 0 }
    }

    /// Whether it is one of the few calls that a half-open circuit lets through.
    #[inline]
    pub(super) const fn is_probe(&self) -> bool {
        self.circuit.is_some() && matches!(BreakerState::of(self.word), BreakerState::HalfOpen)
    }

    /// The call went well. `now` may be as coarse as the caller's turn.
    pub(crate) fn success(mut self, now: Instant) {
        let Some(circuit) = self.circuit else { return };
        if self.end_probe(ProbeEnd::Good) {
            return;
        }
        circuit.good(self.word, 1, now);
    }

    /// The call failed in a way that speaks of the dependency.
    pub(crate) fn failure(mut self, now: Instant) {
        let Some(circuit) = self.circuit else { return };
        if self.end_probe(ProbeEnd::Bad(now)) {
            return;
        }
        circuit.result(self.word, now, false);
    }

    /// The call ended in a way that says nothing of the dependency. The same as dropping it.
    pub(crate) fn ignored(self) {}

    #[inline]
    fn end_probe(&mut self, end: ProbeEnd) -> bool {
        if !self.is_probe() {
            return false;
        }
        if let Some(circuit) = self.circuit.take() {
            circuit.probe_ended(self.word, end);
        }
        true
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.end_probe(ProbeEnd::Ignored);
    }
}
