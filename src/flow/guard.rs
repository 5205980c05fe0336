//! The guards around every call of a handler, in their fixed order: wait for the breaker (`Pause` only),
//! concurrency permit, rate, breaker admission, the attempt under its timeout, classification, accounting.
//! All is given back before a backoff.
//!
//! The state machines are the resource's; this drives them. What is rare is boxed, so that the future of an
//! attempt stays small: it is copied into its slot for every unit.

use std::ops::AsyncFn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use tokio::time::Instant;

use super::calls::Rest;
use super::slots::{Deadlines, Elapsed, SlotId, Span};
use super::{Answer, StageCx, panicked};
use crate::error::{Class, StepError};
use crate::fault::{Attempt, Refusal};
use crate::record::Timestamp;
use crate::resource::{Count, GiveUp, OnExhausted, OnOpen, Pass, RateState, Resource};
use crate::settle::{Flag, Place, Turn, WaitsFor};
use crate::unit::{Lineage, Uow};

/// A handler, its guards, and where it stands.
pub(crate) struct Guarded<F> {
    pub(crate) handler: F,
    pub(crate) guard: Guard,
}

/// The guards of one stage.
pub(crate) struct Guard {
    pub(crate) cx: StageCx,
    pub(crate) resource: Resource,
    pub(crate) deadlines: Arc<Deadlines>,
    /// The timeout of an attempt, as the slots want it.
    pub(crate) timeout: Span,
    tally: Tally,
}

/// Successes that the resource does not know of yet: it is told once a turn, not for each, and before it is
/// told of anything else. Only the task of the lane reads and writes them; the atomics are for `Sync`.
#[derive(Default)]
struct Tally {
    /// What the breaker said when it admitted them.
    word: AtomicU64,
    good: AtomicU32,
}

/// How the work on a unit ended.
pub(crate) enum Ended<V> {
    /// It goes on.
    Out(Uow<V>),
    /// It was set aside.
    Faulted,
    /// It was returned.
    Returned,
}

impl<F> Guarded<F> {
    pub(crate) fn new(
        cx: StageCx,
        resource: Resource,
        deadlines: Arc<Deadlines>,
        handler: F,
    ) -> Self {
        Self { handler, guard: Guard::new(cx, resource, deadlines) }
    }
}

/// A handler that is ready to work on units, and how it starts: `start` is a function, not a closure, for the
/// reason that [`Step`](super::inline::Step) is none.
pub(crate) struct Handling<F, C, M> {
    shared: Arc<Guarded<F>>,
    keep: C,
    start: M,
}

impl<F, C: Copy, M> Handling<F, C, M> {
    pub(crate) fn new(shared: Guarded<F>, keep: C, start: M) -> Self {
        Self { shared: Arc::new(shared), keep, start }
    }

    /// The future that works on one unit in slot `slot`.
    #[inline]
    pub(crate) fn start<T, W>(&self, unit: Uow<T>, slot: SlotId) -> W
    where
        M: Fn(Arc<Guarded<F>>, Rest<T>, C) -> W,
    {
        (self.start)(self.shared.clone(), Rest { unit, slot, tried: None }, self.keep)
    }
}

/// Keeps what the handler returned.
pub(crate) fn new_only<T, U>(_: T, new: U) -> U {
    new
}

/// Keeps both.
pub(crate) fn both<T, U>(old: T, new: U) -> (T, U) {
    (old, new)
}

/// Works on one unit until it is decided.
///
/// One block that uses what it was given in place: an `async fn` would hold each argument twice, and a chain
/// of them the unit once a link; all of it is copied into the slot for every unit.
#[allow(clippy::manual_async_fn)]
pub(crate) fn guarded<T, R, V, F, C>(
    this: Arc<Guarded<F>>,
    rest: Rest<T>,
    keep: C,
) -> impl Future<Output = Ended<V>>
where
    F: AsyncFn(&T) -> R,
    R: Answer,
    C: Fn(T, R::Ok) -> V,
{
    let Rest { unit, slot, tried } = rest;
    async move {
        let guard = &this.guard;
        let mut trail: Option<Box<Trail>> = None;
        if let Some((before, delay)) = tried {
            trail = Some(before);
            guard.back_off(slot, unit.lineage.place(), delay).await;
        }
        loop {
            // matched in two steps: what a `match` looks at is kept over an await in one of its arms
            let mut admitted = guard.try_admit(&unit.lineage).ok();
            if admitted.is_none() {
                match Box::pin(guard.admit(slot, &unit.lineage, &mut trail)).await {
                    Ok(late) => admitted = Some(late),
                    Err(verdict) => return guard.end(unit.lineage, verdict, trail.as_deref()),
                }
            }
            let Some(admitted) = admitted else { continue };
            // the call itself may panic, not only what it returns: so it is made inside
            let call = AssertUnwindSafe(async { (this.handler)(&unit.value).await.into_result() })
                .catch_unwind();
            let error = match guard.deadlines.limit(slot, guard.timeout, call).await {
                Ok(Ok(Ok(new))) => {
                    admitted.succeeded(guard);
                    return Ended::Out(unit.lineage.with(keep(unit.value, new)));
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(panic)) => panicked(panic),
                Err(Elapsed) => timed_out(guard.resource.timeout()),
            };
            match guard.failed(admitted, &unit.lineage, error, &mut trail) {
                Verdict::Again(delay) => {
                    guard.back_off(slot, unit.lineage.place(), delay).await;
                }
                verdict => return guard.end(unit.lineage, verdict, trail.as_deref()),
            }
        }
    }
}

/// The error of an attempt that ran into its timeout.
#[cold]
pub(crate) fn timed_out(limit: Duration) -> StepError {
    StepError::new(Class::Transient, format!("no answer within {limit:?}")).with_name("Timeout")
}

/// What has been tried so far; only a unit that failed once has one.
pub(crate) struct Trail {
    first: Instant,
    attempts: Vec<Attempt>,
    backoff: Option<Class>,
}

impl Trail {
    pub(crate) fn new(first: Instant) -> Box<Self> {
        Box::new(Trail { first, attempts: Vec::new(), backoff: None })
    }

    pub(crate) fn note(&mut self, clock: Timestamp, begun: Instant, now: Instant, class: Class) {
        let duration = now.saturating_duration_since(begun);
        let ago = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let at = Timestamp::from_micros(clock.as_micros().saturating_sub(ago));
        self.attempts.push(Attempt { at, class, duration });
        self.backoff = Some(class);
    }

    pub(crate) fn made(&self) -> u32 {
        u32::try_from(self.attempts.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn first(&self) -> Instant {
        self.first
    }

    pub(crate) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

/// The fast way in is closed.
pub(crate) struct NotNow;

/// What becomes of a unit.
pub(crate) enum Verdict {
    /// Tried again after a backoff.
    Again(Duration),
    /// Set aside; whether it counts for the flood guard.
    Fault { error: StepError, counts: bool },
    /// Given back to the stream.
    Return(Class),
    /// Given back because of another unit, and not counted against its limit of returns.
    PutBack,
    /// Unhandled.
    Fatal(StepError),
}

/// The right to make one attempt.
pub(crate) struct Admitted<'a> {
    pub(crate) pass: Pass<'a>,
    pub(crate) permit: Option<SemaphorePermit<'a>>,
    pub(crate) begun: Turn,
}

/// The right to make one attempt that nothing held back. Borrows nothing, so that it can be kept beside a
/// slot; it is never a probe of the breaker's, so dropping it takes nothing from anybody.
#[derive(Clone, Copy)]
pub(crate) struct AtOnce {
    /// What the breaker said.
    pub(crate) word: u64,
    begun: Turn,
}

impl AtOnce {
    /// In the form that can be told of a failure.
    pub(crate) fn of(self, guard: &Guard) -> Admitted<'_> {
        Admitted { pass: guard.resource.pass(self.word), permit: None, begun: self.begun }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.book();
    }
}

impl Admitted<'_> {
    pub(crate) fn succeeded(self, guard: &Guard) {
        guard.resource.succeeded(self.pass, guard.cx.lane.now());
        drop(self.permit);
    }
}

impl Guard {
    pub(crate) fn new(cx: StageCx, resource: Resource, deadlines: Arc<Deadlines>) -> Self {
        let timeout = Span::of(resource.timeout());
        Self { cx, resource, deadlines, timeout, tally: Tally::default() }
    }

    /// Of an attempt that began in this turn, and was admitted under this word of the breaker's.
    #[inline]
    pub(crate) fn admitted(&self, word: u64) -> AtOnce {
        AtOnce { word, begun: self.cx.lane.turn() }
    }

    /// An attempt went well that was admitted at once, under this word of the breaker's.
    #[inline(always)]
    pub(crate) fn went_well(&self, word: u64) {
        let Tally { word: present, good } = &self.tally;
        if present.load(Ordering::Relaxed) == word && !self.resource.is_near() {
            good.store(good.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            self.went_well_under(word);
        }
    }

    #[cold]
    #[inline(never)]
    fn went_well_under(&self, word: u64) {
        self.book();
        self.tally.word.store(word, Ordering::Relaxed);
        self.tally.good.store(1, Ordering::Relaxed);
        if self.resource.is_near() {
            self.book();
        }
    }

    /// Tells the resource of the successes that it does not know of: at the end of a turn, and before it is told
    /// of a failure.
    pub(crate) fn book(&self) {
        let good = self.tally.good.swap(0, Ordering::Relaxed);
        if good > 0 {
            let word = self.tally.word.load(Ordering::Relaxed);
            self.resource.went_well(word, good, self.cx.lane.now());
        }
    }

    /// Lets an attempt through if there is nothing that could hold it back, and the circuit is closed; what the
    /// breaker said.
    #[inline(always)]
    pub(crate) fn admit_at_once(&self) -> Option<u64> {
        if self.cx.lane.has(Flag::TIMED) { None } else { self.resource.admit_at_once() }
    }

    /// Lets an attempt through if nothing has to be waited for, and the circuit is closed.
    #[inline(never)]
    pub(crate) fn admit_limited(
        &self,
        lineage: &Lineage,
    ) -> Option<(u64, Option<OwnedSemaphorePermit>)> {
        let resource = &self.resource;
        let now = self.cx.lane.now();
        if lineage.deadline().is_some_and(|deadline| now + resource.timeout() > deadline) {
            return None;
        }
        let word = match resource.circuit() {
            None => 0,
            // a probe must be given back where it is dropped: that is for the slow way
            Some(circuit) => circuit.admit_closed()?,
        };
        let permit = match resource.permits() {
            None => None,
            Some(permits) => Some(permits.clone().try_acquire_owned().ok()?),
        };
        if let Some(rate) = resource.rate() {
            let _turn = rate.turnstile.try_acquire().ok()?;
            rate.admit(now).ok()?;
        }
        Some((word, permit))
    }

    /// Lets an attempt through if nothing has to be waited for, without a future.
    pub(crate) fn try_admit(&self, lineage: &Lineage) -> Result<Admitted<'_>, NotNow> {
        let begun = self.cx.lane.turn();
        let now = self.cx.lane.instant(begun);
        let resource = &self.resource;
        if let Some(deadline) = lineage.deadline() {
            if now + resource.timeout() > deadline {
                return Err(NotNow);
            }
        }
        let permit = match resource.permits() {
            None => None,
            Some(permits) => Some(permits.try_acquire().map_err(|_| NotNow)?),
        };
        // the breaker may refuse what the rate has admitted: asked first where it costs nothing
        if resource.circuit().is_some_and(|circuit| circuit.gate(now).is_err()) {
            return Err(NotNow);
        }
        if let Some(rate) = resource.rate() {
            let _turn = rate.turnstile.try_acquire().map_err(|_| NotNow)?;
            rate.admit(now).map_err(|_| NotNow)?;
        }
        let pass = resource.admit(now).map_err(|_| NotNow)?;
        Ok(Admitted { pass, permit, begun })
    }

    /// Waits for whatever has to be waited for, in order.
    ///
    /// # Errors
    /// What becomes of the unit instead.
    pub(crate) async fn admit(
        &self,
        slot: SlotId,
        lineage: &Lineage,
        trail: &mut Option<Box<Trail>>,
    ) -> Result<Admitted<'_>, Verdict> {
        let resource = &self.resource;
        let deadline = lineage.deadline();
        let place = lineage.place();
        loop {
            let latest = match deadline {
                // an attempt starts only if its whole timeout fits
                Some(deadline) => match deadline.checked_sub(resource.timeout()) {
                    Some(latest) if latest >= Instant::now() => Some(latest),
                    _ => return Err(self.too_late(trail)),
                },
                None => None,
            };
            self.wait_for_breaker(slot, place, latest).await?;
            // a pause has no end of its own: the wait for permit and rate begins behind it
            let latest = latest.unwrap_or_else(|| Instant::now() + resource.max_wait());
            let permit = match resource.permits() {
                None => None,
                Some(permits) => match permits.try_acquire() {
                    Ok(permit) => Some(permit),
                    Err(_) => {
                        resource.count(Count::WaitedForPermit);
                        let _waits = self.cx.lane.waiting(place, WaitsFor::Permit);
                        match self.until(slot, latest, permits.acquire()).await {
                            Some(Ok(permit)) => Some(permit),
                            _ => return Err(self.too_late(trail)),
                        }
                    }
                },
            };
            if let Some(rate) = resource.rate() {
                let _waits = self.cx.lane.waiting(place, WaitsFor::Rate);
                if self.until(slot, latest, self.wait_for_rate(rate)).await.is_none() {
                    return Err(self.too_late(trail));
                }
            }
            let now = Instant::now();
            match resource.admit(now) {
                Ok(pass) => return Ok(Admitted { pass, permit, begun: self.cx.lane.at(now) }),
                Err(refused) => match refused.on_open {
                    OnOpen::Pause => continue,
                    on_open => {
                        let error = StepError::new(
                            Class::CircuitOpen,
                            format!("the circuit of `{}` is open", resource.name()),
                        );
                        return Err(Verdict::Fault {
                            error: error.with_name("CircuitOpen"),
                            counts: on_open != OnOpen::Siphon,
                        });
                    }
                },
            }
        }
    }

    /// Waits before the next attempt.
    pub(crate) async fn back_off(&self, slot: SlotId, place: Option<Place>, delay: Duration) {
        let _waits = self.cx.lane.waiting(place, WaitsFor::Retry);
        self.deadlines.pause(slot, delay).await;
    }

    /// Runs `wait` until `latest` at most.
    async fn until<F: Future>(&self, slot: SlotId, latest: Instant, wait: F) -> Option<F::Output> {
        let left = latest.saturating_duration_since(Instant::now());
        self.deadlines.limit(slot, Span::of(left), wait).await.ok()
    }

    async fn wait_for_breaker(
        &self,
        slot: SlotId,
        place: Option<Place>,
        latest: Option<Instant>,
    ) -> Result<(), Verdict> {
        let Some(circuit) = self.resource.circuit() else { return Ok(()) };
        let mut waited = None;
        loop {
            let changed = circuit.changed();
            let now = Instant::now();
            let until = match circuit.gate(now) {
                Err(refused) if refused.on_open == OnOpen::Pause => refused.until,
                _ => return Ok(()),
            };
            // a pause has no end of its own: in drain, and before a restart, it counts as a return
            if self.cx.is_halted() {
                return Err(Verdict::PutBack);
            }
            if self.cx.is_draining() || latest.is_some_and(|latest| latest <= now) {
                return Err(Verdict::Return(Class::CircuitOpen));
            }
            if waited.is_none() {
                waited = Some(self.cx.lane.waiting(place, WaitsFor::Breaker));
                self.resource.count(Count::WaitedForBreaker);
            }
            // wakes now and then all the same, to see whether the lane drains
            let look = now + Duration::from_millis(100);
            let wake = until.map_or(look, |until| until.min(look));
            let wake = latest.map_or(wake, |latest| latest.min(wake));
            let _ = self.until(slot, wake.max(now + Duration::from_millis(1)), changed).await;
        }
    }

    async fn wait_for_rate(&self, rate: &RateState) {
        // first come, first served: who waits for a token holds the turnstile
        let Ok(_turn) = rate.turnstile.acquire().await else { return };
        let mut waited = false;
        while let Err(wait) = rate.admit(Instant::now()) {
            if !waited {
                waited = true;
                self.resource.count(Count::WaitedForRate);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Neither rate, permit nor breaker came in time: the unit had no chance, and is never faulted for it.
    fn too_late(&self, trail: &mut Option<Box<Trail>>) -> Verdict {
        Verdict::Return(trail.as_ref().and_then(|trail| trail.backoff).unwrap_or(Class::Returned))
    }

    /// An attempt failed: everything is given back, and what happens next is decided.
    #[cold]
    pub(crate) fn failed(
        &self,
        admitted: Admitted<'_>,
        lineage: &Lineage,
        error: StepError,
        trail: &mut Option<Box<Trail>>,
    ) -> Verdict {
        let resource = &self.resource;
        let now = Instant::now();
        let Admitted { pass, permit, begun } = admitted;
        let begun = self.cx.lane.instant(begun);
        let error = resource.classify(error);
        self.book();
        resource.failed(pass, &error, now);
        if planted!("permit-leaked-on-cancel") && error.name() == "Timeout" {
            std::mem::forget(permit);
        } else {
            drop(permit);
        }
        let trail = trail.get_or_insert_with(|| Trail::new(begun));
        trail.note(self.cx.lane.clock.now(), begun, now, error.class());
        self.cx.lane.note_class(error.class());
        match error.class() {
            Class::Fatal => Verdict::Fatal(error),
            Class::Transient | Class::Throttled => self.again(trail, lineage, error, now),
            _ => Verdict::Fault { error, counts: true },
        }
    }

    fn again(
        &self,
        trail: &mut Trail,
        lineage: &Lineage,
        error: StepError,
        now: Instant,
    ) -> Verdict {
        match self.resource.next_retry(trail.made(), trail.first, now, &error, lineage.deadline()) {
            Ok(delay) => Verdict::Again(delay),
            Err(why) => self.gave_up(why, lineage, error),
        }
    }

    /// What becomes of a unit that is not tried again.
    pub(crate) fn gave_up(&self, why: GiveUp, lineage: &Lineage, error: StepError) -> Verdict {
        match why {
            GiveUp::Deadline => Verdict::Return(error.class()),
            GiveUp::NotRetryable => Verdict::Fault { error, counts: true },
            _ => match self.resource.on_exhausted() {
                OnExhausted::Fault => Verdict::Fault { error, counts: false },
                OnExhausted::Return => match self.resource.return_limit() {
                    Some(limit) if lineage.returns() >= limit => {
                        Verdict::Fault { error: error.with_class(Class::Returned), counts: true }
                    }
                    _ => Verdict::Return(error.class()),
                },
            },
        }
    }

    /// Carries a verdict out.
    #[cold]
    pub(crate) fn end<V>(
        &self,
        lineage: Lineage,
        verdict: Verdict,
        trail: Option<&Trail>,
    ) -> Ended<V> {
        match verdict {
            Verdict::Fault { error, counts } => {
                let attempts = trail.map(|trail| trail.attempts().to_vec()).unwrap_or_default();
                match self.cx.refuse(lineage, Refusal { error, attempts, counts }) {
                    true => Ended::Faulted,
                    // what is behind it waits for it as for any that was returned
                    false => Ended::Returned,
                }
            }
            Verdict::Fatal(error) => {
                self.cx.fatal(lineage, &error);
                Ended::Returned
            }
            Verdict::Return(_) if planted!("exhausted-is-done") => {
                lineage.decide(crate::Fate::Done);
                Ended::Returned
            }
            Verdict::Return(class) => {
                self.cx.give_back(lineage, class);
                Ended::Returned
            }
            Verdict::PutBack => {
                self.cx.put_back(lineage.with(()));
                Ended::Returned
            }
            Verdict::Again(_) => {
                self.cx.give_back(lineage, Class::Returned);
                Ended::Returned
            }
        }
    }
}
