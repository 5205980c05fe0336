//! `bulk_write`: write to a bulk API whose items fail one by one.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use pin_project::pin_project;
use tokio::time::Instant;

use super::bulk::{Call, Sorted, alike, sort};
use super::guard::{Ended, Guard, NotNow, Trail, Verdict, timed_out};
use super::plan::StagePlan;
use super::slots::{Deadlines, Elapsed, SlotId, Slots, Span};
use super::timer::{Timer, yield_turn};
use super::{Flow, Stage, StageCx, UNITS_A_POLL, Window, panicked};
use crate::error::{Class, StepError};
use crate::resource::Resource;
use crate::sink::{Limits, OutcomeLog, Sink};
use crate::unit::{Lineage, Uow};

const REQUESTS: usize = 4;
const LINGER: Duration = Duration::from_millis(20);

type KeyOf<T> = Box<dyn Fn(&T) -> u64 + Send + Sync>;

/// The stage of [`Flow::bulk_write`]; its settings are methods of the flow.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub struct BulkWrite<S: Stage, K> {
    #[pin]
    above: S,
    writer: Arc<Writer<S::Out, K>>,
    window: Window,
    /// The sink's own.
    limits: Window,
    key: Option<KeyOf<S::Out>>,
    mute_replay: bool,
    buffer: VecDeque<Item<S::Out>>,
    /// Their bytes; wide enough for any sizes that a sink may report.
    buffered: u128,
    busy: HashSet<u64>,
    /// Keys of which an item was returned: nothing behind it is written any more.
    stopped: HashSet<u64>,
    running: Slots<Request>,
    ready: VecDeque<Uow<S::Out>>,
    timer: Timer,
    ended: bool,
}

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Item<T> {
    value: T,
    lineage: Lineage,
    size: usize,
    key: u64,
    since: Instant,
}

/// What the requests in flight share.
struct Writer<T, K> {
    guard: Guard,
    sink: K,
    decided: Mutex<Decided<T>>,
}

/// What has been decided since the stage looked last.
struct Decided<T> {
    done: Vec<Uow<T>>,
    /// The key of every item that was decided, and whether it was returned.
    keys: Vec<(u64, bool)>,
}

impl<T, K> Writer<T, K> {
    fn decided(&self) -> MutexGuard<'_, Decided<T>> {
        self.decided.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An item of a request: where it came from, and what it is ordered by.
type Origin = (Lineage, u64);

/// Writes until every item is decided.
async fn request<T, K>(
    writer: Arc<Writer<T, K>>,
    mut values: Vec<T>,
    mut origins: Vec<Origin>,
    slot: SlotId,
) where
    T: Send + Sync + 'static,
    K: Sink<T> + 'static,
{
    let guard = &writer.guard;
    let resource = &guard.resource;
    let mut trail: Option<Box<Trail>> = None;
    loop {
        let strictest = strictest(&origins);
        let admitted = match guard.try_admit(strictest) {
            Ok(admitted) => admitted,
            Err(NotNow) => match guard.admit(slot, strictest, &mut trail).await {
                Ok(admitted) => admitted,
                Err(verdict) => {
                    writer.end_all(origins, verdict, trail.as_deref());
                    return;
                }
            },
        };
        let mut log = OutcomeLog::new(values.len());
        let call = {
            let mut outcomes = log.outcomes();
            // the call itself may panic, not only what it returns
            let write = async { writer.sink.write(&values, &mut outcomes).await };
            let write = AssertUnwindSafe(write).catch_unwind();
            match guard.deadlines.limit(slot, Span::of(resource.timeout()), write).await {
                Ok(Ok(result)) => Call::Returned(result),
                Ok(Err(panic)) => Call::Broken(panicked(panic)),
                Err(Elapsed) => Call::Broken(timed_out(resource.timeout())),
            }
        };
        if log.strays() > 0 {
            if let Some(requests) = guard.cx.lane.pipeline.lines.strays.due() {
                tracing::warn!(
                    target: "streambreaker::sink",
                    resource = resource.name(),
                    notes = log.strays(),
                    requests,
                    "the sink noted outcomes that make no sense; those items count as not confirmed",
                );
            }
        }
        let now = Instant::now();
        let items = values.into_iter().zip(origins).collect();
        let Sorted { done, failed, after } = sort(items, log, call);
        // what the request says of the dependency: one answer for the breaker and the rate
        let failed: Vec<_> =
            failed.into_iter().map(|(item, error)| (item, resource.classify(error))).collect();
        let verdict = telling(&failed, done.is_empty(), after);
        match &verdict {
            Some(error) => resource.failed(admitted.pass, error, now),
            None => resource.succeeded(admitted.pass, now),
        }
        drop(admitted.permit);
        writer.confirm(done);
        if failed.is_empty() {
            return;
        }
        let begun = guard.cx.lane.instant(admitted.begun);
        let noted = trail.get_or_insert_with(|| Trail::new(begun));
        let class = verdict.as_ref().map_or_else(|| failed[0].1.class(), StepError::class);
        noted.note(guard.cx.lane.clock.now(), begun, now, class);
        let (left, last): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(_, error)| error.class().is_retryable());
        for ((_, origin), error) in last {
            let verdict = match error.class() {
                Class::Fatal => Verdict::Fatal(error),
                _ => Verdict::Fault { error, counts: true },
            };
            writer.end_one(origin, verdict, trail.as_deref());
        }
        let Some((_, first)) = left.first() else { return };
        let asked = after.map(|after| StepError::throttled(after, first.message()));
        let (made, began) = match &trail {
            Some(trail) => (trail.made(), trail.first()),
            None => return,
        };
        let deadline = left.iter().filter_map(|((_, origin), _)| origin.0.deadline()).min();
        match resource.next_retry(made, began, now, asked.as_ref().unwrap_or(first), deadline) {
            Ok(delay) => {
                (values, origins) =
                    left.into_iter().map(|((value, origin), _)| (value, origin)).unzip();
                let place = origins.first().and_then(|(lineage, _)| lineage.place());
                guard.back_off(slot, place, delay).await;
            }
            Err(why) => {
                for ((_, origin), error) in left {
                    let verdict = guard.gave_up(why, &origin.0, error);
                    writer.end_one(origin, verdict, trail.as_deref());
                }
                return;
            }
        }
    }
}

/// The lineage with the earliest deadline: the request must be done by then.
fn strictest(origins: &[Origin]) -> &Lineage {
    &origins
        .iter()
        .min_by_key(|(lineage, _)| {
            // no deadline is later than any
            lineage.deadline().map_or((1, None), |deadline| (0, Some(deadline)))
        })
        .expect("a request has items")
        .0
}

/// What a request says of its dependency, if it does not speak well of it: a throttle where any item was
/// throttled, a failure where nothing went through that could have.
fn telling<I>(
    failed: &[(I, StepError)],
    none_done: bool,
    after: Option<Duration>,
) -> Option<StepError> {
    let of = |class| failed.iter().find(|(_, error)| error.class() == class);
    if let Some((_, error)) = of(Class::Throttled) {
        return Some(StepError::throttled(after.unwrap_or_default(), error.message()));
    }
    let (_, error) = of(Class::Transient)
        .or_else(|| failed.iter().find(|(_, error)| error.class() != Class::Fault))?;
    none_done.then(|| alike(error))
}

impl<T, K> Writer<T, K> {
    fn confirm(&self, done: Vec<(T, Origin)>) {
        if done.is_empty() {
            return;
        }
        let mut decided = self.decided();
        for (value, (lineage, key)) in done {
            decided.done.push(lineage.with(value));
            decided.keys.push((key, false));
        }
    }

    fn end_one(&self, (lineage, key): Origin, verdict: Verdict, trail: Option<&Trail>) {
        let ended: Ended<()> = self.guard.end(lineage, verdict, trail);
        self.decided().keys.push((key, matches!(ended, Ended::Returned)));
    }

    /// No request could be made: all items end alike.
    fn end_all(&self, origins: Vec<Origin>, verdict: Verdict, trail: Option<&Trail>) {
        for origin in origins {
            let verdict = match &verdict {
                Verdict::Fault { error, counts } => {
                    Verdict::Fault { error: alike(error), counts: *counts }
                }
                Verdict::Fatal(error) => Verdict::Fatal(alike(error)),
                Verdict::Return(class) => Verdict::Return(*class),
                Verdict::Again(_) => Verdict::Return(Class::Returned),
            };
            self.end_one(origin, verdict, trail);
        }
    }
}

impl<S, K> BulkWrite<S, K>
where
    S: Stage,
    S::Out: Send + Sync + 'static,
    K: Sink<S::Out> + 'static,
{
    /// Takes one unit into the buffer, or decides it.
    fn take(
        unit: Uow<S::Out>,
        writer: &Writer<S::Out, K>,
        key: Option<&KeyOf<S::Out>>,
        most: usize,
    ) -> Option<Item<S::Out>> {
        let cx = &writer.guard.cx;
        let measured =
            cx.catch(|| (writer.sink.size(unit.value()), key.map_or(0, |key| key(unit.value()))));
        let (size, key) = match measured {
            Ok(measured) => measured,
            Err(panic) => {
                cx.fault(unit, panic);
                return None;
            }
        };
        if size > most {
            let text = format!("the item has {size} bytes; a request takes {most}");
            cx.fault(unit, StepError::new(Class::Fault, text).with_name("ItemTooLarge"));
            return None;
        }
        let (value, lineage) = unit.into_parts();
        Some(Item { value, lineage, size, key, since: cx.lane.now() })
    }
}

impl<S, K> Stage for BulkWrite<S, K>
where
    S: Stage,
    S::Out: Send + Sync + 'static,
    K: Sink<S::Out> + 'static,
{
    type Out = S::Out;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        let mut this = self.project();
        let ordered = this.key.is_some();
        // an item may wait behind its key without keeping others from filling the request
        let room = if ordered { this.window.items.saturating_mul(4) } else { this.window.items };
        let mut left = UNITS_A_POLL;
        loop {
            if let Some(unit) = this.ready.pop_front() {
                return Poll::Ready(Some(unit));
            }
            let mut waits = false;
            while !*this.ended
                && this.buffer.len() < room
                && (ordered || *this.buffered < this.window.bytes as u128)
            {
                if left == 0 {
                    this.above.as_mut().poll_progress(cx);
                    yield_turn(cx);
                    waits = true;
                    break;
                }
                left -= 1;
                match this.above.as_mut().poll_next(cx) {
                    Poll::Ready(Some(unit)) => {
                        if *this.mute_replay && unit.lineage.is_replay() {
                            this.ready.push_back(unit);
                            break;
                        }
                        let item =
                            Self::take(unit, this.writer, this.key.as_ref(), this.window.bytes);
                        let Some(item) = item else { continue };
                        if this.stopped.contains(&item.key) {
                            this.writer.guard.cx.returned(item.lineage.with(()));
                        } else {
                            *this.buffered += item.size as u128;
                            this.buffer.push_back(item);
                        }
                    }
                    Poll::Ready(None) => *this.ended = true,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if !this.ready.is_empty() {
                continue;
            }
            let lane = &this.writer.guard.cx;
            if ordered && lane.is_halted() {
                // an item behind a returned one of its key must not be written
                for item in this.buffer.drain(..) {
                    lane.put_back(item.lineage.with(()));
                }
                *this.buffered = 0;
            }
            let mut started = false;
            while !this.running.is_full() && !this.buffer.is_empty() {
                let hurry = *this.ended || (waits && lane.is_pressed());
                let picked = pick(this.buffer, this.busy, *this.window, ordered, hurry);
                let Some(picked) = picked else { break };
                let mut values = Vec::with_capacity(picked.len());
                let mut origins = Vec::with_capacity(picked.len());
                for item in picked {
                    *this.buffered -= item.size as u128;
                    if ordered {
                        this.busy.insert(item.key);
                    }
                    values.push(item.value);
                    origins.push((item.lineage, item.key));
                }
                let slot = this.running.next_free();
                let future = request(this.writer.clone(), values, origins, slot);
                this.running.start(slot, Box::pin(future));
                started = true;
            }
            if !waits && !*this.ended && !started {
                this.above.as_mut().poll_progress(cx);
            }
            this.running.poll(cx, |_, ()| {});
            if collect(this.writer, this.ready, this.busy, this.stopped) {
                give_back(this.buffer, this.buffered, this.stopped, &this.writer.guard.cx);
                // room, or a key, came free
                continue;
            }
            if *this.ended && this.running.is_empty() && this.buffer.is_empty() {
                return Poll::Ready(None);
            }
            if started && !waits && !*this.ended {
                continue;
            }
            if !this.running.is_full() {
                if let Some(due) = due(this.buffer, this.busy, *this.window, ordered) {
                    if this.timer.poll_at(due, cx).is_ready() {
                        continue;
                    }
                }
            }
            return Poll::Pending;
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        this.running.poll(cx, |_, ()| {});
        if collect(this.writer, this.ready, this.busy, this.stopped) {
            give_back(this.buffer, this.buffered, this.stopped, &this.writer.guard.cx);
        }
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}

/// Takes over what the requests have decided; whether there was any.
fn collect<T, K>(
    writer: &Writer<T, K>,
    ready: &mut VecDeque<Uow<T>>,
    busy: &mut HashSet<u64>,
    stopped: &mut HashSet<u64>,
) -> bool {
    let mut decided = writer.decided();
    let any = !decided.keys.is_empty();
    ready.extend(decided.done.drain(..));
    for (key, returned) in decided.keys.drain(..) {
        // only what is ordered has keys, and waits behind what was returned
        let ordered = busy.remove(&key);
        if ordered && returned && writer.guard.cx.keeps_order() {
            stopped.insert(key);
        }
    }
    any
}

/// Gives back what waits behind a returned item of its key.
fn give_back<T>(
    buffer: &mut VecDeque<Item<T>>,
    buffered: &mut u128,
    stopped: &HashSet<u64>,
    stage: &StageCx,
) {
    if stopped.is_empty() || !buffer.iter().any(|item| stopped.contains(&item.key)) {
        return;
    }
    for item in std::mem::take(buffer) {
        if stopped.contains(&item.key) {
            *buffered -= item.size as u128;
            stage.returned(item.lineage.with(()));
        } else {
            buffer.push_back(item);
        }
    }
}

/// Which items would go into the next request, as indices, and whether the request is full.
fn eligible<T>(
    buffer: &VecDeque<Item<T>>,
    busy: &HashSet<u64>,
    window: Window,
    ordered: bool,
) -> (Vec<usize>, bool) {
    let mut picked = Vec::new();
    let (mut bytes, most) = (0, window.bytes as u128);
    let mut keys = HashSet::new();
    for (index, item) in buffer.iter().enumerate() {
        if ordered && (busy.contains(&item.key) || !keys.insert(item.key)) {
            continue;
        }
        let size = item.size as u128;
        if bytes + size > most {
            return (picked, true);
        }
        bytes += size;
        picked.push(index);
        if picked.len() == window.items {
            return (picked, true);
        }
    }
    (picked, bytes >= most)
}

/// Takes the items of the next request out, if it is due.
fn pick<T>(
    buffer: &mut VecDeque<Item<T>>,
    busy: &HashSet<u64>,
    window: Window,
    ordered: bool,
    hurry: bool,
) -> Option<Vec<Item<T>>> {
    let (picked, full) = eligible(buffer, busy, window, ordered);
    let first = *picked.first()?;
    let due = || buffer[first].since + window.linger <= Instant::now();
    if !full && !hurry && !due() {
        return None;
    }
    if picked.last() == Some(&(picked.len() - 1)) {
        return Some(buffer.drain(..picked.len()).collect());
    }
    let mut rest = VecDeque::with_capacity(buffer.len() - picked.len());
    let mut taken = Vec::with_capacity(picked.len());
    let mut picked = picked.into_iter().peekable();
    for (index, item) in buffer.drain(..).enumerate() {
        if picked.next_if_eq(&index).is_some() { taken.push(item) } else { rest.push_back(item) }
    }
    *buffer = rest;
    Some(taken)
}

/// When the oldest item that could be written has lingered enough.
fn due<T>(
    buffer: &VecDeque<Item<T>>,
    busy: &HashSet<u64>,
    window: Window,
    ordered: bool,
) -> Option<Instant> {
    buffer
        .iter()
        .find(|item| !ordered || !busy.contains(&item.key))
        .map(|item| item.since + window.linger)
}

impl<S: Stage> Flow<S>
where
    S::Out: Send + Sync + 'static,
{
    /// Writes the values to a bulk API, several requests in flight, through the guards of `resource`; what is
    /// confirmed goes on.
    ///
    /// Each item is a unit of its own. What the sink confirmed is never sent again; the next request holds
    /// exactly what is left, in the original order; only items that ran out, or were rejected, are faulted. A
    /// timeout keeps what was noted until then; what is unknown counts as not confirmed. An item that is too
    /// large for any request is a fault by itself.
    ///
    /// A request goes off when it is full by the sink's [`limits`](Sink::limits), or after a linger of 20 ms;
    /// four are in flight at once. The methods of the flow that this returns change that:
    /// [`in_flight`](Flow::in_flight), [`window`](Flow::window), [`ordered_by`](Flow::ordered_by).
    ///
    /// Retries wait inside their request's place: while the dependency is down, at most so many requests hang
    /// on it, and the stage takes no more than one request more.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (search, index) = (resource("search"), Collect::new());
    /// let target = index.clone();
    /// let report = run(["1", "2", "3"], move |flow| {
    ///     flow.json::<u64>().map(|n| format!("document {}", *n)).bulk_write(&search, target.clone())
    /// })
    /// .await;
    /// assert_eq!((report.done, index.len()), (3, 3));
    /// # }
    /// ```
    pub fn bulk_write<K>(mut self, resource: &Resource, sink: K) -> Flow<BulkWrite<S, K>>
    where
        K: Sink<S::Out> + 'static,
    {
        let Limits { items, bytes } = sink.limits();
        if items == 0 || bytes == 0 {
            self.mistake(
                "bulk_write: limits of the sink",
                format!("{items} items, {bytes} bytes"),
                "at least one of each",
            );
        }
        // the sink's limits bound whatever else is told
        let limits = Window { items: items.max(1), bytes: bytes.max(1), linger: LINGER };
        let window = self.check_window("bulk_write", limits).within(limits);
        let requests = self.configured().n.unwrap_or(REQUESTS);
        let requests = self.check_width("bulk_write: requests in flight", requests);
        self.add(
            StagePlan::new("bulk_write").calls(resource, requests).lingers(window.linger),
            |above, cx| BulkWrite::new(above, cx, resource, sink, window, limits, requests),
        )
    }
}

impl<S: Stage, K> BulkWrite<S, K> {
    fn new(
        above: S,
        cx: StageCx,
        resource: &Resource,
        sink: K,
        window: Window,
        limits: Window,
        requests: usize,
    ) -> Self {
        let deadlines = Deadlines::new(requests);
        let guard = Guard::new(cx, resource.clone(), deadlines.clone());
        let decided = Mutex::new(Decided { done: Vec::new(), keys: Vec::new() });
        Self {
            above,
            writer: Arc::new(Writer { guard, sink, decided }),
            window,
            limits,
            key: None,
            mute_replay: false,
            buffer: VecDeque::new(),
            buffered: 0,
            busy: HashSet::new(),
            stopped: HashSet::new(),
            running: Slots::new(requests, deadlines),
            ready: VecDeque::new(),
            timer: Timer::default(),
            ended: false,
        }
    }
}

impl<S: Stage, K> Flow<BulkWrite<S, K>> {
    /// How many requests are in flight at once; 4 unless told. Each is one attempt at the resource.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (search, index) = (resource("search"), Collect::<u64>::new());
    /// let report = run(["1", "2"], move |flow| {
    ///     flow.json::<u64>().map(|n| *n).bulk_write(&search, index.clone()).in_flight(1)
    /// })
    /// .await;
    /// assert_eq!(report.done, 2);
    /// # }
    /// ```
    pub fn in_flight(mut self, requests: usize) -> Self {
        // configuration wins, and has been heard already
        let requests = self.configured_last().n.unwrap_or(requests);
        let requests = self.check_width("bulk_write: requests in flight", requests);
        let deadlines = Deadlines::new(requests);
        self.stage.running = Slots::new(requests, deadlines.clone());
        if let Some(writer) = Arc::get_mut(&mut self.stage.writer) {
            writer.guard.deadlines = deadlines;
        }
        if let Some(plan) = self.cx.plan.last_mut() {
            plan.width = Some(requests);
        }
        self
    }

    /// Smaller requests than the sink's limits, and another linger than 20 ms.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (search, index) = (resource("search"), Collect::<u64>::new());
    /// let target = index.clone();
    /// run(["1", "2", "3"], move |flow| {
    ///     let two = Window::items(2).linger(Duration::from_millis(5));
    ///     flow.json::<u64>().map(|n| *n).bulk_write(&search, target.clone()).window(two)
    /// })
    /// .await;
    /// assert_eq!(index.requests(), [vec![1, 2], vec![3]]);
    /// # }
    /// ```
    pub fn window(mut self, window: Window) -> Self {
        let configured = self.configured_last();
        let window = self.check(window.configured(&configured), "bulk_write");
        self.stage.window = window.within(self.stage.limits);
        if let Some(plan) = self.cx.plan.last_mut() {
            plan.linger = window.linger;
        }
        self
    }

    /// Keeps items of one key in order: one of them in a request, and the key's next waits until it is
    /// decided. After one of them was faulted, later ones go on. A panic of `key` is a fault of that item.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (search, index) = (resource("search"), Collect::<u64>::new());
    /// let target = index.clone();
    /// run(["1", "2", "3"], move |flow| {
    ///     flow.json::<u64>().map(|n| *n).bulk_write(&search, target.clone()).ordered_by(|n| n % 2)
    /// })
    /// .await;
    /// // 3 waits for 1: they share a key
    /// assert_eq!(index.requests(), [vec![1, 2], vec![3]]);
    /// # }
    /// ```
    pub fn ordered_by<F, Q>(mut self, key: F) -> Self
    where
        F: Fn(&S::Out) -> Q + Send + Sync + 'static,
        Q: Hash,
    {
        // keys that collide only wait for each other
        self.stage.key = Some(Box::new(move |value| {
            let mut hasher = DefaultHasher::new();
            key(value).hash(&mut hasher);
            hasher.finish()
        }));
        self
    }

    pub(super) fn mute_replay(mut self, mute: bool) -> Self {
        self.stage.mute_replay = mute;
        self
    }
}

impl<S: Stage, K> std::fmt::Debug for BulkWrite<S, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkWrite").field("window", &self.window).finish_non_exhaustive()
    }
}
