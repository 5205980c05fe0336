//! `parallel_by_key`: side by side, but each key in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::ops::AsyncFn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::calls::Rest;
use super::guard::{Ended, Guarded, Handling, guarded, new_only};
use super::plan::StagePlan;
use super::slots::{Deadlines, SlotId, Slots};
use super::timer::yield_turn;
use super::{Answer, Flow, Stage, StageCx, UNITS_A_POLL};
use crate::resource::Resource;
use crate::unit::Uow;

/// Units that wait behind busy keys, for each slot.
const WAITING_A_SLOT: usize = 4;

#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
struct ByKey<S: Stage, KF, K, M, F, U> {
    #[pin]
    above: S,
    work: Work<S::Out, KF, K, M, F, U>,
    ended: bool,
}

/// Everything but the stage above.
struct Work<T, KF, K, M, F, U> {
    cx: StageCx,
    key: KF,
    make: M,
    running: Slots<F>,
    /// The key that each slot works on.
    keys: Vec<Option<K>>,
    /// Keys with a unit running, and what waits behind it.
    busy: HashMap<K, VecDeque<Uow<T>>>,
    /// Keys of which a unit was returned: nothing behind it begins any more.
    stopped: HashSet<K>,
    waiting: usize,
    most_waiting: usize,
    ready: VecDeque<Uow<U>>,
    finished: Vec<(SlotId, Ended<U>)>,
}

impl<T, KF, K, H, C, M, F, U> Work<T, KF, K, Handling<H, C, M>, F, U>
where
    KF: Fn(&T) -> K,
    K: Hash + Eq + Clone,
    C: Copy,
    M: Fn(Arc<Guarded<H>>, Rest<T>, C) -> F,
    F: Future<Output = Ended<U>>,
{
    fn has_room(&self) -> bool {
        !self.running.is_full() && self.waiting < self.most_waiting
    }

    /// Takes a unit in: starts it, or lets it wait behind its key.
    fn take(&mut self, unit: Uow<T>) {
        // looked up under the guard as well: `Hash` and `Eq` are user code, and once the unit runs nobody could say
        // whose key it was. An empty map would not hash.
        let looked_up = self.cx.catch(|| {
            let key = (self.key)(unit.value());
            if self.busy.is_empty() {
                self.busy.hasher().hash_one(&key);
            }
            let stopped = !self.stopped.is_empty() && self.stopped.contains(&key);
            (stopped, self.busy.contains_key(&key), key)
        });
        let (stopped, busy, key) = match looked_up {
            Ok(found) => found,
            Err(panic) => return self.cx.fault(unit, panic),
        };
        if stopped {
            return self.cx.put_back(unit);
        }
        let retries = || self.cx.lane.waiting_units().contains_key(&crate::WaitsFor::Retry);
        if busy && !(planted!("key-released-during-retry") && retries()) {
            if let Some(queue) = self.busy.get_mut(&key) {
                queue.push_back(unit);
                self.waiting += 1;
                return;
            }
        }
        let slot = self.running.next_free();
        match self.running.start(slot, self.make.start(unit, slot)) {
            Some(Ended::Out(unit)) => self.ready.push_back(unit),
            Some(Ended::Faulted) => {}
            Some(Ended::Returned) => {
                if self.cx.keeps_order() {
                    self.stop(key);
                }
            }
            None => {
                self.busy.insert(key.clone(), VecDeque::new());
                self.keep(slot, key);
            }
        }
    }

    /// Polls what was woken.
    fn progress(&mut self, cx: &mut Context<'_>) {
        let finished = &mut self.finished;
        self.running.poll(cx, |slot, ended| finished.push((slot, ended)));
    }

    /// Starts the next unit of each key that finished. Only where units may begin: not in `poll_progress`.
    /// Whether any was started that is not done yet.
    fn follow(&mut self) -> bool {
        let mut started = false;
        while let Some((slot, ended)) = self.finished.pop() {
            let key = self.keys[slot.index()].take().expect("a running slot has a key");
            let returned = matches!(ended, Ended::Returned) && self.cx.keeps_order();
            if let Ended::Out(unit) = ended {
                self.ready.push_back(unit);
            }
            if returned {
                self.stop(key);
                continue;
            }
            let next = self.busy.get_mut(&key).and_then(VecDeque::pop_front);
            let Some(unit) = next else {
                self.busy.remove(&key);
                continue;
            };
            self.waiting -= 1;
            let slot = self.running.next_free();
            match self.running.start(slot, self.make.start(unit, slot)) {
                Some(ended) => {
                    self.keep(slot, key);
                    self.finished.push((slot, ended));
                }
                None => {
                    self.keep(slot, key);
                    started = true;
                }
            }
        }
        started
    }

    fn keep(&mut self, slot: SlotId, key: K) {
        if self.keys.len() <= slot.index() {
            self.keys.resize_with(slot.index() + 1, || None);
        }
        self.keys[slot.index()] = Some(key);
    }

    /// What waits behind a returned unit goes back as well, and is fed again in order.
    fn stop(&mut self, key: K) {
        for unit in self.busy.remove(&key).into_iter().flatten() {
            self.waiting -= 1;
            self.cx.put_back(unit);
        }
        // where it comes again to this flow, and behind later ones at that, its key goes on
        if !self.cx.comes_again() {
            self.stopped.insert(key);
        }
    }
}

impl<S, KF, K, H, C, M, F, U> Stage for ByKey<S, KF, K, Handling<H, C, M>, F, U>
where
    S: Stage,
    KF: Fn(&S::Out) -> K,
    K: Hash + Eq + Clone,
    C: Copy,
    M: Fn(Arc<Guarded<H>>, Rest<S::Out>, C) -> F,
    F: Future<Output = Ended<U>>,
{
    type Out = U;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<U>>> {
        let mut this = self.project();
        let work = this.work;
        let mut left = UNITS_A_POLL;
        // what finished in `poll_progress` still owns its slot's key
        work.follow();
        loop {
            if let Some(unit) = work.ready.pop_front() {
                return Poll::Ready(Some(unit));
            }
            let mut waits = false;
            while !*this.ended && work.has_room() && work.ready.is_empty() {
                if left == 0 {
                    this.above.as_mut().poll_progress(cx);
                    yield_turn(cx);
                    waits = true;
                    break;
                }
                left -= 1;
                match this.above.as_mut().poll_next(cx) {
                    Poll::Ready(Some(unit)) => work.take(unit),
                    Poll::Ready(None) => *this.ended = true,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if !waits && !*this.ended && work.ready.is_empty() {
                this.above.as_mut().poll_progress(cx);
            }
            loop {
                work.progress(cx);
                if !work.follow() {
                    break;
                }
            }
            if !work.ready.is_empty() {
                continue;
            }
            if *this.ended && work.running.is_empty() {
                return Poll::Ready(None);
            }
            // room came while the set was polled: take more
            if waits || *this.ended || !work.has_room() {
                return Poll::Pending;
            }
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        this.work.progress(cx);
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}

impl<S: Stage> Flow<S>
where
    S::Out: Send + Sync + 'static,
{
    /// Calls `handler` for up to `n` keys at once, and for the units of one key in log order, through retries:
    /// what comes behind a retrying unit of its key waits, while other keys go on.
    ///
    /// Up to `4 * n` units wait behind busy keys; then no more is taken until one of them begins. After a unit
    /// was faulted, later ones of its key go on: a handler of events that come at least once and out of order
    /// must be able to stand that. After one was returned, those behind it are returned as well.
    ///
    /// A panic of `key` is a fault of that unit; errors, panics and cancel safety of `handler` are those of
    /// [`call`](Self::call).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let db = resource("db");
    /// let report = run(["1", "2", "3", "4"], move |flow| {
    ///     // odd and even numbers side by side, each in order
    ///     flow.json::<u64>().parallel_by_key(16, |n| **n % 2, &db, async |_| Ok(()))
    /// })
    /// .await;
    /// assert_eq!(report.done, 4);
    /// # }
    /// ```
    pub fn parallel_by_key<KF, K, F, R>(
        self,
        n: usize,
        key: KF,
        resource: &Resource,
        handler: F,
    ) -> Flow<impl Stage<Out = R::Ok> + use<S, KF, K, F, R>>
    where
        KF: Fn(&S::Out) -> K,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        R::Ok: Send + Sync + 'static,
    {
        self.by_key("parallel_by_key", n, key, resource, handler, new_only)
    }

    pub(super) fn by_key<KF, K, F, R, V, C>(
        mut self,
        name: &'static str,
        n: usize,
        key: KF,
        resource: &Resource,
        handler: F,
        keep: C,
    ) -> Flow<impl Stage<Out = V> + use<S, KF, K, F, R, V, C>>
    where
        KF: Fn(&S::Out) -> K,
        K: Hash + Eq + Clone + Send + Sync + 'static,
        F: AsyncFn(&S::Out) -> R,
        R: Answer,
        C: Fn(S::Out, R::Ok) -> V + Copy,
    {
        let n = self.configured().n.unwrap_or(n);
        let n = self.check_width(name, n);
        self.add(StagePlan::new(name).calls(resource, n).takes(&["n"]), |above, cx| {
            let deadlines = Deadlines::new(n);
            let shared = Guarded::new(cx.clone(), resource.clone(), deadlines.clone(), handler);
            let make = Handling::new(shared, keep, guarded::<S::Out, R, V, F, C>);
            ByKey {
                above,
                work: Work {
                    cx,
                    key,
                    make,
                    running: Slots::new(n, deadlines),
                    keys: Vec::new(),
                    busy: HashMap::new(),
                    stopped: HashSet::new(),
                    waiting: 0,
                    most_waiting: n.saturating_mul(WAITING_A_SLOT),
                    ready: VecDeque::new(),
                    finished: Vec::new(),
                },
                ended: false,
            }
        })
    }
}
