//! A set of futures that one task polls: reused pinned slots, a waker a slot, and deadlines with one timer
//! for all of them.
//!
//! What shaped it: a future that is made in a box that is there already costs no allocation, and a waker a slot
//! means that only what was woken is polled. Polling goes round robin, beginning after the slot that was first
//! last time: from 0 up, slots that use up tokio's cooperative budget would starve those behind them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::deadlines::{ASK, EXPIRED, NONE, waker};
pub(crate) use super::deadlines::{Deadlines, Elapsed, SlotId, Span};
use super::timer::Timer;
use super::turns::Turns;
use crate::sync::atomic::Ordering;

/// The set.
pub(crate) struct Slots<F> {
    places: Vec<Place<F>>,
    free: Vec<u32>,
    capacity: u32,
    deadlines: Arc<Deadlines>,
    timer: Timer,
    /// The moment the timer is set to; `u64::MAX` is none.
    armed: u64,
    /// Slots that asked for a deadline in this turn.
    asked: Vec<u32>,
    turns: Turns,
    /// The limit of what was [kept](Empty::keep) in this turn; zero if nothing was.
    kept: u64,
    /// The limit of what is kept.
    limit: u64,
    first: u32,
}

struct Place<F> {
    future: Pin<Box<Option<F>>>,
    waker: Waker,
    /// The turn in which what is kept there began; zero if it has timers of its own, or is out of time.
    turn: u64,
}

/// A free slot that is filled.
pub(crate) struct Empty<'a, F> {
    future: Pin<&'a mut Option<F>>,
    waker: &'a Waker,
    free: &'a mut Vec<u32>,
    turn: &'a mut u64,
    turns: &'a Turns,
    kept: &'a mut u64,
}

impl<'a, F> Empty<'a, F> {
    #[inline(always)]
    pub(crate) fn fill(&mut self, future: F) {
        self.future.set(Some(future));
    }

    #[inline(always)]
    pub(crate) fn poll<O>(
        &mut self,
        poll: impl FnOnce(Pin<&mut F>, &mut Context<'_>) -> Poll<O>,
    ) -> Poll<O> {
        match self.future.as_mut().as_pin_mut() {
            Some(future) => poll(future, &mut Context::from_waker(self.waker)),
            None => Poll::Pending,
        }
    }

    /// What is there is done.
    #[inline(always)]
    pub(crate) fn end(mut self) {
        self.future.set(None);
    }

    /// What is there was not ready. It sets no timer itself: it is polled once more when `limit` is over, for it
    /// to end itself. `limit` is the same for all of a set.
    #[inline(always)]
    pub(crate) fn keep(self, limit: Span) -> Option<Pin<&'a mut F>> {
        self.free.pop();
        *self.turn = self.turns.present();
        *self.kept = limit.0;
        self.future.as_pin_mut()
    }
}

impl<F> Slots<F> {
    /// A set of `n` slots, allocated on first use; `deadlines` must be made for as many.
    pub(crate) fn new(n: usize, deadlines: Arc<Deadlines>) -> Self {
        assert_eq!(n, deadlines.at.len(), "the deadlines are those of another set");
        Self {
            places: Vec::new(),
            free: Vec::new(),
            capacity: u32::try_from(n).expect("fewer than 2^32 slots"),
            deadlines,
            timer: Timer::default(),
            armed: u64::MAX,
            asked: Vec::new(),
            turns: Turns::new(),
            kept: 0,
            limit: 0,
            first: 0,
        }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.places.len() == self.capacity as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
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

    #[cold]
    fn grow(&mut self) -> SlotId {
        assert!(self.places.len() < self.capacity as usize, "no slot is free");
        let slot = self.places.len() as u32;
        let waker = waker(slot, &self.deadlines);
        self.places.push(Place { future: Box::pin(None), waker, turn: 0 });
        self.free.push(slot);
        SlotId(slot)
    }

    /// Starts a future in the slot that `next_free` named, and polls it once.
    pub(crate) fn start(&mut self, slot: SlotId, future: F) -> Option<F::Output>
    where
        F: Future,
    {
        let mut output = None;
        self.start_by(slot, future, |future, cx| future.poll(cx).map(|new| output = Some(new)));
        output
    }

    /// As [`start`](Self::start), for one who polls by itself and keeps what comes out.
    pub(crate) fn start_by<P>(&mut self, slot: SlotId, future: F, mut poll: P)
    where
        P: FnMut(Pin<&mut F>, &mut Context<'_>) -> Poll<()>,
    {
        debug_assert_eq!(self.free.last(), Some(&slot.0));
        let place = &mut self.places[slot.index()];
        place.future.as_mut().set(Some(future));
        place.turn = 0;
        self.free.pop();
        self.poll_slot(slot, &mut |_, future, cx| poll(future, cx));
    }

    /// The slot that `next_free` named, for one who polls by itself what it puts there.
    #[inline(always)]
    pub(crate) fn empty(&mut self, slot: SlotId) -> Empty<'_, F> {
        debug_assert_eq!(self.free.last(), Some(&slot.0));
        let Place { future, waker, turn } = &mut self.places[slot.index()];
        let mut future = future.as_mut();
        // it is empty, and nothing is dropped: but from here on the compiler knows that, and makes what is put
        // there in its place
        future.set(None);
        let (free, turns, kept) = (&mut self.free, &self.turns, &mut self.kept);
        Empty { future, waker, free, turn, turns, kept }
    }

    /// Polls the future in a slot, if there is one, and empties the slot when it is done.
    #[inline(always)]
    fn poll_slot<P>(&mut self, slot: SlotId, poll: &mut P)
    where
        P: FnMut(SlotId, Pin<&mut F>, &mut Context<'_>) -> Poll<()>,
    {
        let Place { future, waker, turn } = &mut self.places[slot.index()];
        let mut future = future.as_mut();
        // none: woken once more after it was done
        let Some(now) = future.as_mut().as_pin_mut() else { return };
        let done = poll(slot, now, &mut Context::from_waker(waker)).is_ready();
        if done {
            future.set(None);
            self.free.push(slot.0);
        }
        if *turn == 0 {
            self.note_timer(slot, done);
        }
    }

    /// A future was polled that may set timers of its own.
    fn note_timer(&mut self, slot: SlotId, done: bool) {
        let at = &self.deadlines.at[slot.index()];
        let now = at.load(Ordering::Relaxed);
        if done {
            at.store(NONE, Ordering::Relaxed);
        } else if now & ASK != 0 && now != EXPIRED {
            self.asked.push(slot.0);
        }
    }

    /// Polls what was woken, and what has run into its deadline. Registers the waker first, so no wake-up
    /// is lost that comes while it polls.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut out: impl FnMut(SlotId, F::Output))
    where
        F: Future,
    {
        self.poll_by(cx, |slot, future, cx| future.poll(cx).map(|output| out(slot, output)));
    }

    /// As [`poll`](Self::poll), for one who polls by itself and keeps what comes out: that need not be handed on.
    #[inline(always)]
    pub(crate) fn poll_by<P>(&mut self, cx: &mut Context<'_>, mut poll: P)
    where
        P: FnMut(SlotId, Pin<&mut F>, &mut Context<'_>) -> Poll<()>,
    {
        if self.is_empty() {
            return;
        }
        self.deadlines.parent.register(cx.waker());
        loop {
            self.poll_woken(cx, &mut poll);
            let untimed = self.kept == 0 && self.asked.is_empty() && self.armed == u64::MAX;
            if untimed || !self.keep_time(cx) {
                return;
            }
        }
    }

    #[inline(always)]
    fn poll_woken<P>(&mut self, cx: &mut Context<'_>, poll: &mut P)
    where
        P: FnMut(SlotId, Pin<&mut F>, &mut Context<'_>) -> Poll<()>,
    {
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
            let slot = |bits: u64| word as u32 * 64 + bits.trailing_zeros();
            if !polled {
                polled = true;
                self.first = (slot(bits) + 1) % self.capacity;
            }
            while bits != 0 {
                self.poll_slot(SlotId(slot(bits)), poll);
                bits &= bits - 1;
            }
        }
        // the first word is visited twice: a slot of it that was woken in between, while bits of the second
        // visit were still up, has told nobody
        if self.deadlines.ready[start].load(Ordering::Acquire) & (u64::MAX << offset) != 0 {
            cx.waker().wake_by_ref();
        }
    }

    /// Makes those ready that have run into their deadline; whether there are any.
    #[inline(never)]
    fn keep_time(&mut self, cx: &mut Context<'_>) -> bool {
        let mut expired = false;
        while !expired {
            if self.kept != 0 || !self.asked.is_empty() {
                self.stamp();
                if planted!("lost-wake-up") {
                    return false;
                }
            }
            if self.armed == u64::MAX {
                return false;
            }
            let at = self.deadlines.start + Duration::from_micros(self.armed);
            if self.timer.poll_at(at, cx).is_pending() {
                return false;
            }
            let now = self.deadlines.now();
            let mut next = u64::MAX;
            for (slot, place) in self.places.iter_mut().enumerate() {
                let at = match place.turn {
                    0 => self.deadlines.at[slot].load(Ordering::Relaxed),
                    _ if place.future.is_none() => continue,
                    turn => self.turns.end_of(turn).map_or(NONE, |end| end + self.limit),
                };
                if at == NONE || at & ASK != 0 {
                    continue;
                }
                if at <= now {
                    expired = true;
                    self.deadlines.at[slot].store(EXPIRED, Ordering::Relaxed);
                    place.turn = 0;
                    let (word, bit) = (slot / 64, slot % 64);
                    self.deadlines.ready[word].fetch_or(1 << bit, Ordering::AcqRel);
                } else {
                    next = next.min(at);
                }
            }
            self.armed = next;
        }
        true
    }

    /// Makes moments of the spans that were asked for: one clock read a turn, after the polls that asked,
    /// so a deadline is never early.
    fn stamp(&mut self) {
        let now = self.deadlines.now() + 1;
        let mut next = u64::MAX;
        if self.kept != 0 {
            self.limit = std::mem::take(&mut self.kept);
            next = now + self.limit;
            let running = self.places.iter().filter(|place| place.future.is_some());
            self.turns.end(now, || running.map(|place| place.turn));
        }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Wake;

    use tokio::time::Instant;

    use super::*;
    use crate::sync::atomic::AtomicU64;

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
        assert_eq!(slots.places.len(), 1);
        assert!(slots.is_empty() && !slots.is_full());
    }
}
