//! A set of futures that one task polls: reused pinned slots, a waker a slot, and deadlines with one timer
//! for all of them.
//!
//! What shaped it: a future that is set into a box that is there already costs no allocation; a waker a slot
//! means that only what was woken is polled; and a deadline kept beside the slot instead of a timer inside
//! each future means that an attempt which is ready at once never reads the clock. Polling goes round
//! robin, beginning after the slot that was first last time: from 0 up, slots that use up tokio's
//! cooperative budget would starve those behind them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use pin_project::pin_project;
use tokio::time::Instant;

use super::timer::Timer;
use crate::sync::atomic::{AtomicU64, Ordering};

/// No deadline.
const NONE: u64 = 0;
/// A span was asked for, and is not yet a moment.
const ASK: u64 = 1 << 63;
/// The moment has come.
const EXPIRED: u64 = u64::MAX;
const LONGEST: u64 = 1 << 61;

/// What the slots, their wakers and the futures in them share.
pub(crate) struct Deadlines {
    ready: Box<[AtomicU64]>,
    /// Microseconds after `start`.
    at: Box<[AtomicU64]>,
    parent: AtomicWaker,
    start: Instant,
}

impl Deadlines {
    /// For a set of `n` slots.
    pub(crate) fn new(n: usize) -> Arc<Self> {
        Arc::new(Self {
            ready: (0..n.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
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

    /// Whether what [`Slots::ask`] asked for in slot `slot` has passed.
    #[inline]
    pub(crate) fn is_expired(&self, slot: SlotId) -> bool {
        self.at[slot.index()].load(Ordering::Relaxed) == EXPIRED
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(LONGEST).min(LONGEST)
    }
}

struct SlotWaker {
    slot: u32,
    deadlines: Arc<Deadlines>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (word, bit) = (self.slot as usize / 64, self.slot % 64);
        if self.deadlines.ready[word].fetch_or(1 << bit, Ordering::AcqRel) == 0 {
            self.deadlines.parent.wake();
        }
    }
}

/// How long something may take, in microseconds rounded up: never early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(u64);

impl Span {
    pub(crate) fn of(span: Duration) -> Self {
        let micros = u64::from(span.subsec_nanos().div_ceil(1_000));
        Self(span.as_secs().saturating_mul(1_000_000).saturating_add(micros).min(LONGEST))
    }
}

/// Names a slot of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(u32);

impl SlotId {
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The set.
pub(crate) struct Slots<F> {
    futures: Vec<Pin<Box<Option<F>>>>,
    wakers: Vec<Waker>,
    free: Vec<u32>,
    /// A bit a slot that has a future to be polled. One that is done stays where it is until the next is set
    /// into its slot: that spares every unit a second visit of the slot.
    busy: Box<[u64]>,
    capacity: u32,
    deadlines: Arc<Deadlines>,
    timer: Timer,
    /// The moment the timer is set to; `u64::MAX` is none.
    armed: u64,
    /// Slots that asked for a deadline in this turn.
    asked: Vec<u32>,
    first: u32,
}

impl<F: Future> Slots<F> {
    /// A set of `n` slots, allocated on first use; `deadlines` must be made for as many.
    pub(crate) fn new(n: usize, deadlines: Arc<Deadlines>) -> Self {
        assert_eq!(n, deadlines.at.len(), "the deadlines are those of another set");
        Self {
            futures: Vec::new(),
            wakers: Vec::new(),
            free: Vec::new(),
            busy: vec![0; n.div_ceil(64)].into(),
            capacity: u32::try_from(n).expect("fewer than 2^32 slots"),
            deadlines,
            timer: Timer::default(),
            armed: u64::MAX,
            asked: Vec::new(),
            first: 0,
        }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.futures.len() == self.capacity as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.futures.len()
    }

    /// The slot that `start` will use.
    ///
    /// # Panics
    /// If the set is full.
    #[inline]
    pub(crate) fn next_free(&mut self) -> SlotId {
        match self.free.last() {
            Some(slot) => SlotId(*slot),
            None => self.grow(),
        }
    }

    /// Makes a free slot the one that is used next: work that ended goes on in it.
    pub(crate) fn claim(&mut self, slot: SlotId) {
        let place = self.free.iter().rposition(|free| *free == slot.0);
        let place = place.expect("only a free slot is claimed");
        let last = self.free.len() - 1;
        self.free.swap(place, last);
    }

    /// Polls the future in slot `slot` once more when this span is over, for it to end itself. To be called
    /// right after `start` has begun it.
    #[inline]
    pub(crate) fn ask(&mut self, slot: SlotId, span: Span) {
        let at = &self.deadlines.at[slot.index()];
        // a timer of its own goes first: it is asked for already
        if at.load(Ordering::Relaxed) == NONE {
            at.store(ASK | span.0, Ordering::Relaxed);
            self.asked.push(slot.0);
        }
    }

    #[cold]
    fn grow(&mut self) -> SlotId {
        assert!(self.futures.len() < self.capacity as usize, "no slot is free");
        let slot = self.futures.len() as u32;
        self.futures.push(Box::pin(None));
        self.wakers
            .push(Waker::from(Arc::new(SlotWaker { slot, deadlines: self.deadlines.clone() })));
        self.free.push(slot);
        SlotId(slot)
    }

    /// Starts a future in the slot that `next_free` named, and polls it once.
    #[inline(always)]
    pub(crate) fn start(&mut self, slot: SlotId, future: F) -> Option<F::Output> {
        debug_assert_eq!(self.free.last(), Some(&slot.0));
        let index = slot.index();
        // before the poll and not after it: what comes out of it is large, and is handed on untouched
        let at = &self.deadlines.at[index];
        if at.load(Ordering::Relaxed) != NONE {
            at.store(NONE, Ordering::Relaxed);
        }
        let place = &mut self.futures[index];
        place.as_mut().set(Some(future));
        let future = place.as_mut().as_pin_mut()?;
        if let Poll::Ready(output) = future.poll(&mut Context::from_waker(&self.wakers[index])) {
            return Some(output);
        }
        self.free.pop();
        self.busy[index / 64] |= 1 << (slot.0 % 64);
        self.note_asked(slot.0);
        None
    }

    #[inline(always)]
    fn poll_slot(&mut self, slot: u32) -> Option<F::Output> {
        let index = slot as usize;
        let future = self.futures[index].as_mut().as_pin_mut()?;
        match future.poll(&mut Context::from_waker(&self.wakers[index])) {
            Poll::Ready(output) => {
                let at = &self.deadlines.at[index];
                if at.load(Ordering::Relaxed) != NONE {
                    at.store(NONE, Ordering::Relaxed);
                }
                Some(output)
            }
            Poll::Pending => {
                self.note_asked(slot);
                None
            }
        }
    }

    #[inline]
    fn note_asked(&mut self, slot: u32) {
        let at = self.deadlines.at[slot as usize].load(Ordering::Relaxed);
        if at & ASK != 0 && at != EXPIRED {
            self.asked.push(slot);
        }
    }

    #[inline(never)]
    fn poll_and_free(&mut self, slot: u32, out: &mut impl FnMut(SlotId, F::Output)) {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        // woken once more after it was done
        if self.busy[word] & bit == 0 {
            return;
        }
        if let Some(output) = self.poll_slot(slot) {
            self.busy[word] &= !bit;
            self.free.push(slot);
            out(SlotId(slot), output);
        }
    }

    /// Polls what was woken, and what has run into its deadline. Registers the waker first, so no wake-up
    /// is lost that comes while it polls.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut out: impl FnMut(SlotId, F::Output)) {
        if self.is_empty() {
            return;
        }
        self.deadlines.parent.register(cx.waker());
        let (start, offset) = ((self.first / 64) as usize, self.first % 64);
        let words = self.deadlines.ready.len();
        let mut polled = false;
        // from `first` up to the end, then from 0 up to `first`: its word is visited twice
        for step in 0..=words {
            let word = (start + step) % words;
            let mask = match step {
                0 => u64::MAX << offset,
                _ if step == words => !(u64::MAX << offset),
                _ => u64::MAX,
            };
            if self.deadlines.ready[word].load(Ordering::Acquire) & mask == 0 {
                continue;
            }
            let mut bits = self.deadlines.ready[word].fetch_and(!mask, Ordering::AcqRel) & mask;
            while bits != 0 {
                let slot = word as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                if !polled {
                    polled = true;
                    self.first = (slot + 1) % self.capacity;
                }
                self.poll_and_free(slot, &mut out);
            }
        }
        // the first word is visited twice: a slot of it that was woken in between, while bits of the second
        // visit were still up, has told nobody
        if self.deadlines.ready[start].load(Ordering::Acquire) & (u64::MAX << offset) != 0 {
            cx.waker().wake_by_ref();
        }
        if !self.asked.is_empty() || self.armed != u64::MAX {
            self.keep_time(cx, &mut out);
        }
    }

    #[inline(never)]
    fn keep_time(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(SlotId, F::Output)) {
        loop {
            if !self.asked.is_empty() {
                self.stamp();
                if planted!("lost-wake-up") {
                    return;
                }
            }
            if self.armed == u64::MAX {
                return;
            }
            let at = self.deadlines.start + Duration::from_micros(self.armed);
            if self.timer.poll_at(at, cx).is_pending() {
                return;
            }
            let now = self.deadlines.now();
            let mut next = u64::MAX;
            for slot in 0..self.futures.len() as u32 {
                let at = self.deadlines.at[slot as usize].load(Ordering::Relaxed);
                if at == NONE || at & ASK != 0 {
                    continue;
                }
                if at <= now {
                    self.deadlines.at[slot as usize].store(EXPIRED, Ordering::Relaxed);
                    self.poll_and_free(slot, out);
                } else {
                    next = next.min(at);
                }
            }
            self.armed = next;
        }
    }

    /// Makes moments of the spans that were asked for: one clock read a turn, after the polls that asked,
    /// so a deadline is never early.
    fn stamp(&mut self) {
        let now = self.deadlines.now() + 1;
        let mut next = u64::MAX;
        while let Some(slot) = self.asked.pop() {
            let word = &self.deadlines.at[slot as usize];
            let at = word.load(Ordering::Relaxed);
            if at & ASK != 0 && at != EXPIRED {
                let moment = now + (at & !ASK);
                word.store(moment, Ordering::Relaxed);
                next = next.min(moment);
            }
        }
        self.armed = self.armed.min(next);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn drain<F: Future>(slots: &mut Slots<F>) -> Vec<F::Output> {
        let mut all = Vec::new();
        poll_fn(|cx| {
            slots.poll(cx, |_, output| all.push(output));
            if slots.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        all
    }

    #[tokio::test(start_paused = true)]
    async fn t3_a_deadline_is_never_early_and_at_most_a_millisecond_late() {
        let deadlines = Deadlines::new(3);
        let mut slots = Slots::new(3, deadlines.clone());
        let begin = Instant::now();
        for micros in [1_500u64, 10_000, 700_001] {
            let slot = slots.next_free();
            let deadlines = deadlines.clone();
            let future = async move {
                let limit = Duration::from_micros(micros);
                let out =
                    deadlines.limit(slot, Span::of(limit), std::future::pending::<()>()).await;
                assert_eq!(out, Err(Elapsed));
                let took = begin.elapsed();
                assert!(took >= limit, "early: {took:?} of {limit:?}");
                assert!(took <= limit + Duration::from_millis(2), "late: {took:?} of {limit:?}");
            };
            assert!(slots.start(slot, future).is_none());
        }
        assert_eq!(drain(&mut slots).await.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn t3_a_result_in_the_instant_of_the_deadline_counts() {
        let deadlines = Deadlines::new(1);
        let mut slots = Slots::new(1, deadlines.clone());
        let slot = slots.next_free();
        let d = deadlines.clone();
        slots.start(slot, async move {
            let limit = Duration::from_millis(5);
            d.limit(slot, Span::of(limit), tokio::time::sleep(limit)).await
        });
        assert_eq!(drain(&mut slots).await, [Ok(())]);
    }

    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn o11_a_slot_that_wakes_itself_while_its_word_is_half_visited_is_polled_again() {
        let mut slots = Slots::new(20, Deadlines::new(20));
        let wakers: Arc<std::sync::Mutex<Vec<Waker>>> = Arc::default();
        for n in 0..20 {
            let slot = slots.next_free();
            let (wakers, mut polls) = (wakers.clone(), 0);
            slots.start(
                slot,
                poll_fn(move |cx| {
                    wakers.lock().expect("not poisoned").push(cx.waker().clone());
                    polls += 1;
                    if n == 12 && polls == 2 {
                        cx.waker().wake_by_ref();
                    }
                    if n == 12 && polls == 3 { Poll::Ready(()) } else { Poll::Pending }
                }),
            );
        }
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let wakers: Vec<Waker> = wakers.lock().expect("not poisoned").clone();
        // the next round begins in the middle of the word
        wakers[9].wake_by_ref();
        slots.poll(cx, |_, ()| {});
        wakers[3].wake_by_ref();
        wakers[12].wake_by_ref();
        woken.0.store(0, Ordering::Relaxed);
        let mut done = 0;
        slots.poll(cx, |_, ()| done += 1);
        assert_eq!((done, woken.0.load(Ordering::Relaxed)), (0, 1), "its wake-up was lost");
        slots.poll(cx, |_, ()| done += 1);
        assert_eq!(done, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn o11_a_deadline_is_kept_beside_a_slot_that_eats_the_budget_of_every_turn() {
        let deadlines = Deadlines::new(2);
        let mut slots = Slots::new(2, deadlines.clone());
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for n in 0..2 {
            let slot = slots.next_free();
            let (deadlines, over) = (deadlines.clone(), over.clone());
            slots.start(slot, async move {
                if n == 0 {
                    let limit = Duration::from_millis(10);
                    let _ =
                        deadlines.limit(slot, Span::of(limit), std::future::pending::<()>()).await;
                    over.store(true, Ordering::Relaxed);
                    return;
                }
                for round in 0..100_000 {
                    tokio::task::coop::consume_budget().await;
                    if round == 1_000 {
                        tokio::time::advance(Duration::from_millis(20)).await;
                    }
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
                panic!("the deadline of the other slot never came");
            });
        }
        drain(&mut slots).await;
        assert!(over.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn o11_slots_that_eat_the_budget_do_not_starve_the_others() {
        // 70 slots: more than a word; two of them could go on for ever in each turn
        let mut slots = Slots::new(70, Deadlines::new(70));
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        for n in 0..70u32 {
            let slot = slots.next_free();
            let order = order.clone();
            slots.start(slot, async move {
                let steps = if n < 2 { 20_000 } else { 300 };
                for _ in 0..steps {
                    tokio::task::coop::consume_budget().await;
                }
                order.lock().expect("not poisoned").push(n);
            });
        }
        drain(&mut slots).await;
        let order = order.lock().expect("not poisoned");
        assert!(order.iter().position(|n| *n < 2).expect("finished") >= 68, "{order:?}");
    }

    #[tokio::test]
    async fn slots_are_allocated_on_first_use_and_used_again() {
        let mut slots = Slots::new(1_000, Deadlines::new(1_000));
        for _ in 0..10 {
            let slot = slots.next_free();
            assert!(slots.start(slot, async {}).is_some());
        }
        assert_eq!(slots.futures.len(), 1);
        assert!(slots.is_empty() && !slots.is_full());
    }
}
