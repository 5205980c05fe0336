//! Deadlines that are kept beside slots, and the wakers of slots.
//!
//! What shaped it: a deadline beside the slot, instead of a timer inside each future, means that an attempt which is
//! ready at once never reads the clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use pin_project::pin_project;
use tokio::time::Instant;

use crate::sync::atomic::{AtomicU64, Ordering};

/// No deadline.
pub(super) const NONE: u64 = 0;
/// A span was asked for, and is not yet a moment.
pub(super) const ASK: u64 = 1 << 63;
/// The moment has come.
pub(super) const EXPIRED: u64 = u64::MAX;
const LONGEST: u64 = 1 << 61;

/// What the slots, their wakers and the futures in them share.
pub(crate) struct Deadlines {
    /// A bit for each slot that was woken; each word by itself, for a waker to have it at hand.
    pub(super) ready: Box<[Arc<AtomicU64>]>,
    /// Microseconds after `start`.
    pub(super) at: Box<[AtomicU64]>,
    pub(super) parent: AtomicWaker,
    pub(super) start: Instant,
}

impl Deadlines {
    /// For a set of `n` slots.
    pub(crate) fn new(n: usize) -> Arc<Self> {
        Arc::new(Self {
            ready: (0..n.div_ceil(64)).map(|_| Arc::default()).collect(),
            at: (0..n).map(|_| AtomicU64::new(NONE)).collect(),
            parent: AtomicWaker::new(),
            start: Instant::now(),
        })
    }

    /// Runs `future` for at most `limit`, in slot `slot`. At most one at a time in a slot.
    #[inline]
    pub(crate) fn limit<F: Future>(&self, slot: SlotId, limit: Span, future: F) -> Limited<'_, F> {
        Limited { future, deadlines: self, slot, limit, asked: false }
    }

    /// Waits in slot `slot`.
    pub(crate) async fn pause(&self, slot: SlotId, span: Duration) {
        if !span.is_zero() {
            let _ = self.limit(slot, Span::of(span), std::future::pending::<()>()).await;
        }
    }

    /// Whether what [`keep`](super::slots::Empty::keep) asked for in slot `slot` has passed.
    #[inline]
    pub(crate) fn is_expired(&self, slot: SlotId) -> bool {
        self.at[slot.index()].load(Ordering::Relaxed) == EXPIRED
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(LONGEST).min(LONGEST)
    }
}

struct SlotWaker {
    word: Arc<AtomicU64>,
    bit: u64,
    deadlines: Arc<Deadlines>,
}

/// The waker of one slot.
pub(super) fn waker(slot: u32, deadlines: &Arc<Deadlines>) -> Waker {
    let (word, bit) = (deadlines.ready[slot as usize / 64].clone(), 1 << (slot % 64));
    Waker::from(Arc::new(SlotWaker { word, bit, deadlines: deadlines.clone() }))
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.word.fetch_or(self.bit, Ordering::AcqRel) == 0 {
            self.deadlines.parent.wake();
        }
    }
}

/// How long something may take, in microseconds rounded up: never early, and never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(super) u64);

impl Span {
    pub(crate) fn of(span: Duration) -> Self {
        let micros = u64::from(span.subsec_nanos().div_ceil(1_000));
        Self(span.as_secs().saturating_mul(1_000_000).saturating_add(micros).clamp(1, LONGEST))
    }
}

/// Names a slot of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(pub(super) u32);

impl SlotId {
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A future under the deadline of its slot: it needs no timer of its own.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Limited<'a, F> {
    #[pin]
    future: F,
    deadlines: &'a Deadlines,
    slot: SlotId,
    limit: Span,
    asked: bool,
}

/// The deadline came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl<F: Future> Future for Limited<'_, F> {
    type Output = Result<F::Output, Elapsed>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let at = &this.deadlines.at[this.slot.index()];
        // a result that comes in the same instant as the deadline counts
        if let Poll::Ready(output) = this.future.poll(cx) {
            if *this.asked {
                at.store(NONE, Ordering::Relaxed);
            }
            return Poll::Ready(Ok(output));
        }
        if !*this.asked {
            *this.asked = true;
            at.store(ASK | this.limit.0, Ordering::Relaxed);
        } else if at.load(Ordering::Relaxed) == EXPIRED && !planted!("no-timeout") {
            at.store(NONE, Ordering::Relaxed);
            return Poll::Ready(Err(Elapsed));
        }
        Poll::Pending
    }
}
