//! `bulk_write`: write to a bulk API whose items fail one by one.
//!
//! Each item stays a unit of its own: the requests that carry it are the stage's affair. What waits for one is in
//! `buffer`, what becomes of one in `request`.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;

use self::buffer::{Buffer, Item};
use self::request::{Writer, request};
use super::guard::Guard;
use super::plan::StagePlan;
use super::slots::{Deadlines, Slots};
use super::timer::{Timer, yield_turn};
use super::{Flow, Stage, StageCx, UNITS_A_POLL, Window};
use crate::error::{Class, StepError};
use crate::resource::Resource;
use crate::sink::{Limits, Sink};
use crate::unit::Uow;

mod buffer;
mod request;

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
    buffer: Buffer<S::Out>,
    running: Slots<Request>,
    ready: VecDeque<Uow<S::Out>>,
    timer: Timer,
    ended: bool,
}

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

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
        let ordered = this.buffer.ordered;
        let mut left = UNITS_A_POLL;
        loop {
            if let Some(unit) = this.ready.pop_front() {
                return Poll::Ready(Some(unit));
            }
            let mut waits = false;
            while !*this.ended && this.buffer.has_room(*this.window) {
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
                        if let Err(lineage) = this.buffer.push(item) {
                            this.writer.guard.cx.put_back(lineage.with(()));
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
                for lineage in this.buffer.drain() {
                    lane.put_back(lineage.with(()));
                }
            }
            let mut started = false;
            while !this.running.is_full() && !this.buffer.is_empty() {
                let hurry = *this.ended || (waits && lane.is_pressed());
                let Some((values, origins)) = this.buffer.take_request(*this.window, hurry) else {
                    break;
                };
                let slot = this.running.next_free();
                let future = request(this.writer.clone(), values, origins, slot);
                this.running.start(slot, Box::pin(future));
                started = true;
            }
            if !waits && !*this.ended && !started {
                this.above.as_mut().poll_progress(cx);
            }
            this.running.poll(cx, |_, ()| {});
            if collect(this.writer, this.ready, this.buffer) {
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
                if let Some(due) = this.buffer.due(*this.window) {
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
        collect(this.writer, this.ready, this.buffer);
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}

/// Takes over what the requests have decided, and gives back what waits behind a returned item of its key;
/// whether anything was decided.
fn collect<T, K>(
    writer: &Writer<T, K>,
    ready: &mut VecDeque<Uow<T>>,
    buffer: &mut Buffer<T>,
) -> bool {
    let stage = &writer.guard.cx;
    let mut decided = writer.decided();
    if decided.keys.is_empty() {
        return false;
    }
    ready.extend(decided.done.drain(..));
    for (key, returned) in decided.keys.drain(..) {
        buffer.decided(key, returned && stage.keeps_order());
    }
    drop(decided);
    for lineage in buffer.take_stopped() {
        stage.put_back(lineage.with(()));
    }
    true
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
            StagePlan::new("bulk_write")
                .calls(resource, requests)
                .gathers(window)
                .takes(&["n", "items", "bytes", "linger"]),
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
        Self {
            above,
            writer: Arc::new(Writer::new(guard, sink)),
            window,
            limits,
            key: None,
            mute_replay: false,
            buffer: Buffer::new(),
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
        let window = window.within(self.stage.limits);
        self.stage.window = window;
        if let Some(plan) = self.cx.plan.last_mut() {
            plan.window = Some(window);
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
        self.stage.buffer.ordered = true;
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
