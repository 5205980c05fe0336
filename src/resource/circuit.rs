//! The state machine of a circuit breaker.
//!
//! State and generation are one atomic word, which changes under the lock only. While the circuit is
//! closed, admission is one load of that word, and a good result one compare-and-swap of a slot of the
//! window that carries generation and time in its tag: if either has moved on, the swap fails, so that
//! a late result cannot count where it does not belong (rule B3). All else is rare and takes the lock.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::breaker::{Breaker, OnOpen};
use super::pass::{Pass, ProbeEnd};
use super::state::{BreakerControl, BreakerState, BreakerStatus};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The circuit did not let a call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What becomes of the unit.
    pub(crate) on_open: OnOpen,
    /// When asking again is worth it; without it, when the circuit [changed](Circuit::changed).
    pub(crate) until: Option<Instant>,
}

/// Slots of the window.
const SLOTS: usize = 16;
/// Low half of a slot's word: good results. High half: the tag.
const COUNT: u64 = 0xFFFF_FFFF;

pub(crate) struct Circuit {
    name: Arc<str>,
    settings: Breaker,
    origin: Instant,
    slot_nanos: u64,
    on_open: AtomicU8,
    /// Generation × 4 + state.
    word: AtomicU64,
    goods: [AtomicU64; SLOTS],
    /// Good results must take the lock: too few calls are all that keeps the circuit closed.
    near: AtomicBool,
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    control: BreakerControl,
    /// Which stretch of time each slot holds.
    ticks: [Option<u64>; SLOTS],
    bads: [u64; SLOTS],
    newest: u64,
    /// Nanoseconds after `origin` at which an open circuit tries probes.
    probes_at: u64,
    probes_out: u32,
    probes_good: u32,
    opened: u64,
}

impl Circuit {
    pub(super) fn new(name: Arc<str>, settings: Breaker, now: Instant) -> Self {
        let slot = settings.window.as_nanos() / SLOTS as u128;
        let on_open = settings.on_open.unwrap_or(OnOpen::Fault);
        Self {
            name,
            settings,
            origin: now,
            slot_nanos: u64::try_from(slot).unwrap_or(u64::MAX).max(1),
            on_open: AtomicU8::new(on_open.code()),
            word: AtomicU64::new(0),
            goods: std::array::from_fn(|i| AtomicU64::new(vacant(i))),
            near: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                control: BreakerControl::Auto,
                ticks: [None; SLOTS],
                bads: [0; SLOTS],
                newest: 0,
                probes_at: 0,
                probes_out: 0,
                probes_good: 0,
                opened: 0,
            }),
            changed: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        BreakerState::of(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn on_open(&self) -> OnOpen {
        OnOpen::from_code(self.on_open.load(Ordering::Relaxed))
    }

    /// Changes what becomes of units while it is open; those that pause now look again.
    pub(crate) fn set_on_open(&self, on_open: OnOpen) {
        self.on_open.store(on_open.code(), Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// What becomes of units while it is open, as it was built.
    pub(crate) fn built_on_open(&self) -> OnOpen {
        self.settings.on_open.unwrap_or(OnOpen::Fault)
    }

    /// Resolves when the circuit may admit more than before. Make it *before* asking
    /// [`gate`](Circuit::gate) and await it after, or a change in between is missed.
    ///
    /// Cancel-safe.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Whether a call would be admitted now, without taking anything: for those who pause.
    ///
    /// # Errors
    /// What to wait for.
    #[inline]
    pub(crate) fn gate(&self, now: Instant) -> Result<(), Refused> {
        if self.state() == BreakerState::Closed { Ok(()) } else { self.gate_slow(now) }
    }

    #[cold]
    fn gate_slow(&self, now: Instant) -> Result<(), Refused> {
        let inner = self.lock();
        match self.state() {
            BreakerState::Closed => Ok(()),
            BreakerState::HalfOpen if self.has_room(&inner) => Ok(()),
            BreakerState::Open if self.may_probe(&inner, now) => Ok(()),
            _ => Err(self.refused(&inner)),
        }
    }

    /// Admits a call if the circuit is closed, which needs no clock: the word to book its end under.
    #[inline]
    pub(crate) fn admit_closed(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        (BreakerState::of(word) == BreakerState::Closed).then_some(word)
    }

    /// Admits a call, or refuses it; final, never waits.
    ///
    /// # Errors
    /// The circuit is open, or half-open with all its probes out.
    #[inline]
    pub(crate) fn admit(&self, now: Instant) -> Result<Pass<'_>, Refused> {
        match self.admit_closed() {
            Some(word) => Ok(Pass::new(self, word)),
            None => self.admit_slow(now),
        }
    }

    #[cold]
    fn admit_slow(&self, now: Instant) -> Result<Pass<'_>, Refused> {
        let mut inner = self.lock();
        let mut became = None;
        if self.state() == BreakerState::Open && self.may_probe(&inner, now) {
            became = Some(self.turn(&mut inner, BreakerState::HalfOpen));
        }
        let admitted = match self.state() {
            BreakerState::Closed => Ok(()),
            BreakerState::HalfOpen if self.has_room(&inner) => {
                inner.probes_out += 1;
                Ok(())
            }
            _ => Err(self.refused(&inner)),
        };
        let word = self.word.load(Ordering::Relaxed);
        drop(inner);
        self.announce(became);
        admitted.map(|()| Pass::new(self, word))
    }

    /// Holds it open, without probes, until [`auto`](Circuit::auto) or [`close`](Circuit::close).
    pub(crate) fn open(&self) {
        self.control(BreakerControl::HeldOpen, BreakerState::Open);
    }

    /// Holds it closed, whatever the results.
    pub(crate) fn close(&self) {
        self.control(BreakerControl::HeldClosed, BreakerState::Closed);
    }

    /// Leaves it to the results again: one that was held open begins with probes at once.
    pub(crate) fn auto(&self) {
        let mut inner = self.lock();
        let was = std::mem::replace(&mut inner.control, BreakerControl::Auto);
        let became = match was {
            BreakerControl::HeldOpen => Some(self.turn(&mut inner, BreakerState::HalfOpen)),
            _ => None,
        };
        // what was seen while it was held closed is judged at the next result
        self.near.store(true, Ordering::Relaxed);
        drop(inner);
        self.announce(became);
    }

    fn control(&self, control: BreakerControl, state: BreakerState) {
        let mut inner = self.lock();
        inner.control = control;
        let became = (self.state() != state).then(|| self.turn(&mut inner, state));
        drop(inner);
        self.announce(became);
    }

    pub(crate) fn status(&self, now: Instant) -> BreakerStatus {
        let mut inner = self.lock();
        let state = self.state();
        let (calls, failures) = match state {
            BreakerState::HalfOpen => (u64::from(inner.probes_out + inner.probes_good), 0),
            _ => {
                inner.newest = inner.newest.max(self.tick(now));
                self.counts(&inner)
            }
        };
        let waits = state == BreakerState::Open && inner.control == BreakerControl::Auto;
        let left = inner.probes_at.saturating_sub(self.offset(now));
        BreakerStatus {
            state,
            control: inner.control,
            on_open: self.on_open(),
            calls,
            failures,
            opened: inner.opened,
            probes_in_seconds: waits.then(|| Duration::from_nanos(left).as_secs_f64()),
        }
    }

    /// Whether too few calls are all that keeps the circuit closed: then the next good result may open it.
    #[inline(always)]
    pub(super) fn is_near(&self) -> bool {
        self.near.load(Ordering::Relaxed)
    }

    /// So many good results, of calls that were admitted under this word. Whoever adds some up before it tells
    /// of them does so neither over a bad one nor while [`is_near`](Self::is_near).
    pub(super) fn good(&self, word: u64, results: u32, now: Instant) {
        let tick = self.tick(now);
        let slot = &self.goods[tick as usize % SLOTS];
        let tag = tag(word, tick);
        let mut left = u64::from(results);
        while left > 0 {
            let seen = slot.load(Ordering::Relaxed);
            if seen & !COUNT != tag || (seen & COUNT) + left > COUNT || self.is_near() {
                // one by one: each may be the one that opens the circuit, after which the others do not count
                self.result(word, now, true);
                left -= 1;
            } else {
                let (order, all) = (Ordering::Relaxed, seen + left);
                left = slot.compare_exchange(seen, all, order, order).map_or(left, |_| 0);
            }
        }
    }

    /// A result that cannot be booked by a compare-and-swap alone.
    #[cold]
    pub(super) fn result(&self, word: u64, now: Instant, good: bool) {
        let mut inner = self.lock();
        if self.word.load(Ordering::Relaxed) != word {
            return;
        }
        let tick = self.tick(now);
        inner.newest = inner.newest.max(tick);
        let index = tick as usize % SLOTS;
        if inner.ticks[index].is_none_or(|held| held < tick) {
            inner.ticks[index] = Some(tick);
            inner.bads[index] = 0;
            self.goods[index].store(tag(word, tick), Ordering::Relaxed);
        }
        // a caller whose clock is a whole window behind has nothing to add
        if inner.ticks[index] == Some(tick) {
            if good {
                let full = |seen: u64| (seen & COUNT != COUNT).then(|| seen + 1);
                let _ = self.goods[index].fetch_update(Ordering::Relaxed, Ordering::Relaxed, full);
            } else {
                inner.bads[index] += 1;
            }
        }
        let became = self.judge(&mut inner, now);
        drop(inner);
        self.announce(became);
    }

    fn judge(&self, inner: &mut Inner, now: Instant) -> Option<BreakerState> {
        let (calls, failures) = self.counts(inner);
        // divided, not multiplied: 7 of 100 is 0.07 in floating point too
        let bad = failures > 0 && failures as f64 / calls as f64 >= self.settings.ratio;
        let trips = bad
            && calls >= u64::from(self.settings.min_calls)
            && inner.control == BreakerControl::Auto;
        self.near.store(bad && !trips, Ordering::Relaxed);
        trips.then(|| self.trip(inner, now))
    }

    fn trip(&self, inner: &mut Inner, now: Instant) -> BreakerState {
        let cool_down = u64::try_from(self.settings.cool_down.as_nanos()).unwrap_or(u64::MAX);
        inner.probes_at = self.offset(now).saturating_add(cool_down);
        self.turn(inner, BreakerState::Open)
    }

    /// Calls and failures in the window, which ends with the newest slot seen.
    fn counts(&self, inner: &Inner) -> (u64, u64) {
        let mut goods = 0;
        let mut bads = 0;
        for (index, tick) in inner.ticks.iter().enumerate() {
            if tick.is_some_and(|tick| inner.newest.saturating_sub(tick) < SLOTS as u64) {
                goods += self.goods[index].load(Ordering::Relaxed) & COUNT;
                bads += inner.bads[index];
            }
        }
        (goods + bads, bads)
    }

    #[cold]
    pub(super) fn probe_ended(&self, word: u64, end: ProbeEnd) {
        let mut inner = self.lock();
        if self.word.load(Ordering::Relaxed) != word {
            return;
        }
        assert!(inner.probes_out > 0, "a probe that was never admitted has ended");
        inner.probes_out -= 1;
        let became = match end {
            ProbeEnd::Good => {
                inner.probes_good += 1;
                let enough = inner.probes_good >= self.settings.half_open;
                enough.then(|| self.turn(&mut inner, BreakerState::Closed))
            }
            ProbeEnd::Bad(now) => Some(self.trip(&mut inner, now)),
            ProbeEnd::Ignored => None,
        };
        drop(inner);
        if matches!(end, ProbeEnd::Ignored) {
            // its place is free
            self.changed.notify_waiters();
        }
        self.announce(became);
    }

    /// The one place where the state changes: a new generation, with nothing carried over.
    fn turn(&self, inner: &mut Inner, to: BreakerState) -> BreakerState {
        let word = self.word.load(Ordering::Relaxed);
        let generation = (word >> 2).wrapping_add(1);
        inner.probes_out = 0;
        inner.probes_good = 0;
        match to {
            BreakerState::Open => {
                inner.opened += 1;
                // what has been counted is still shown, and late results find another tag
                for slot in &self.goods {
                    let kept = slot.load(Ordering::Relaxed) & !tag(u64::MAX, 0);
                    slot.store(kept | tag(generation << 2, 0), Ordering::Relaxed);
                }
            }
            BreakerState::HalfOpen => {}
            BreakerState::Closed => {
                inner.ticks = [None; SLOTS];
                inner.bads = [0; SLOTS];
                for (index, slot) in self.goods.iter().enumerate() {
                    slot.store(vacant(index), Ordering::Relaxed);
                }
            }
        }
        self.near.store(false, Ordering::Relaxed);
        self.word.store((generation << 2) | to.code(), Ordering::Release);
        to
    }

    /// Outside the lock: subscribers and recorders are foreign code.
    fn announce(&self, became: Option<BreakerState>) {
        let Some(state) = became else { return };
        self.changed.notify_waiters();
        match state {
            BreakerState::Open => tracing::warn!(
                target: "streambreaker::breaker", resource = &*self.name, state = state.as_str(),
                "the circuit opened"
            ),
            _ => tracing::info!(
                target: "streambreaker::breaker", resource = &*self.name, state = state.as_str(),
                "the circuit changed its state"
            ),
        }
        let resource = metrics::SharedString::from(Arc::clone(&self.name));
        metrics::counter!(
            "streambreaker_breaker_transitions_total",
            "resource" => resource, "state" => state.as_str()
        )
        .increment(1);
        self.publish_state();
    }

    pub(super) fn publish_state(&self) {
        let resource = metrics::SharedString::from(Arc::clone(&self.name));
        metrics::gauge!("streambreaker_breaker_state", "resource" => resource)
            .set(self.state().code() as f64);
    }

    fn has_room(&self, inner: &Inner) -> bool {
        // summed in 64 bits: the setting may be u32::MAX
        let taken = u64::from(inner.probes_out) + u64::from(inner.probes_good);
        assert!(taken <= u64::from(self.settings.half_open), "more probes out than were allowed");
        taken < u64::from(self.settings.half_open)
    }

    fn may_probe(&self, inner: &Inner, now: Instant) -> bool {
        inner.control == BreakerControl::Auto && self.offset(now) >= inner.probes_at
    }

    fn refused(&self, inner: &Inner) -> Refused {
        let timed = self.state() == BreakerState::Open && inner.control == BreakerControl::Auto;
        let until =
            timed.then(|| self.origin.checked_add(Duration::from_nanos(inner.probes_at))).flatten();
        Refused { on_open: self.on_open(), until }
    }

    #[inline]
    fn offset(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin);
        since.as_secs().saturating_mul(1_000_000_000).saturating_add(since.subsec_nanos().into())
    }

    /// Which stretch of time a moment lies in: what a result is booked under.
    fn tick(&self, now: Instant) -> u64 {
        self.offset(now) / self.slot_nanos
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Twelve bits of the generation, twenty of the time. A wrap of either leads at worst to good results
/// in a slot that the lock knows to be out of the window: it keeps the whole number.
#[inline]
const fn tag(word: u64, tick: u64) -> u64 {
    ((word >> 2) & 0xFFF) << 52 | (tick & 0xF_FFFF) << 32
}

/// A tag that no result ever has at this place: its time belongs to the next slot.
const fn vacant(index: usize) -> u64 {
    tag(0, index as u64 + 1)
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
