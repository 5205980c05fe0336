//! Holding units back until they belong together: the stage behind `group_by` and `compact`.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::Instant;

use super::timer::{Timer, yield_turn};
use super::{Flow, Stage, StageCx, UNITS_A_POLL};
use crate::config::{Size, Span, StageConfig};
use crate::unit::{Lineage, Uow};

/// When units that are held back go on: at so many, at so many bytes, or after so long.
///
/// They also go on at the end of the input, in drain, and when the reader stands at its in-flight limit, the
/// oldest first.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::Window;
///
/// let window = Window::items(100).bytes(1 << 20).linger(Duration::from_millis(50));
/// assert_eq!(window, Window::items(100).bytes(1 << 20).linger(Duration::from_millis(50)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    pub(crate) linger: Duration,
}

impl Window {
    /// At most so many values; at least one. The linger is 100 ms unless told.
    pub const fn items(items: usize) -> Self {
        Self { items, bytes: usize::MAX, linger: Duration::from_millis(100) }
    }

    /// Closes when the records in it have so many bytes or more.
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Waits so long for more, from the first value on; a year at most. Part of the time budget.
    #[must_use]
    pub const fn linger(mut self, linger: Duration) -> Self {
        // so that it can be added to any instant
        const YEAR: u64 = 365 * 86_400;
        self.linger = if linger.as_secs() >= YEAR { Duration::from_secs(YEAR) } else { linger };
        self
    }

    /// What may be configured of it.
    pub(crate) const SETTINGS: &[&str] = &["items", "bytes", "linger"];

    /// What the configuration makes of it.
    pub(crate) fn configured(self, stage: &StageConfig) -> Self {
        Self {
            items: stage.items.unwrap_or(self.items),
            bytes: stage.bytes.map_or(self.bytes, Size::get),
            linger: stage.linger.map_or(self.linger, Span::get),
        }
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let items = (self.items != usize::MAX).then(|| format!("{} items", self.items));
        let bytes = (self.bytes != usize::MAX).then(|| Size::from(self.bytes).to_string());
        let limits: Vec<String> = [items, bytes].into_iter().flatten().collect();
        let upto = if limits.is_empty() { "all".to_owned() } else { limits.join(" or ") };
        format!("up to {upto} in {}", Span::from(self.linger))
    }

    /// Not above these limits, and not nothing.
    pub(crate) fn within(self, limits: Window) -> Self {
        Self {
            items: self.items.clamp(1, limits.items),
            bytes: self.bytes.clamp(1, limits.bytes),
            linger: self.linger,
        }
    }
}

impl<S> Flow<S> {
    /// The window as the configuration has it; a mistake is reported by `build()`.
    pub(crate) fn check_window(&mut self, combinator: &str, window: Window) -> Window {
        let configured = self.configured();
        self.check(window.configured(&configured), combinator)
    }

    pub(crate) fn check(&mut self, window: Window, combinator: &str) -> Window {
        if window.items == 0 {
            self.mistake(&format!("{combinator}: items of the window"), 0, "a number from 1");
        }
        if window.bytes == 0 {
            self.mistake(&format!("{combinator}: bytes of the window"), 0, "a number from 1");
        }
        window
    }
}

/// The key of a value; `None` is a fault. (Not a closure, for the reason that [`Step`](super::inline::Step) is none.)
pub(crate) trait KeyOf<T, K> {
    fn key(&self, value: &T) -> Option<K>;
}

/// A key that every value has.
pub(crate) struct Always<F>(pub(crate) F);

impl<T, K, F: Fn(&T) -> K> KeyOf<T, K> for Always<F> {
    fn key(&self, value: &T) -> Option<K> {
        Some((self.0)(value))
    }
}

/// A key that may be missing.
pub(crate) struct Maybe<F>(pub(crate) F);

impl<T, K, F: Fn(&T) -> Option<K>> KeyOf<T, K> for Maybe<F> {
    fn key(&self, value: &T) -> Option<K> {
        (self.0)(value)
    }
}

/// What values that belong together become.
pub(crate) trait Gathering<K, T>: Sized {
    type Out;
    fn begin(value: T, lineage: &Lineage) -> Self;
    fn add(&mut self, value: T, lineage: &Lineage);
    fn finish(self, key: K) -> Self::Out;
}

struct Open<G> {
    gathering: G,
    lineage: Lineage,
    count: usize,
    bytes: usize,
    serial: u64,
}

/// So many closed groups are never looked for.
const CLOSED: usize = 64;

/// Gathers units by key.
#[pin_project]
#[must_use = "stages do nothing unless they are driven"]
pub(crate) struct Gather<S: Stage, F, K, G> {
    #[pin]
    above: S,
    cx: StageCx,
    key: F,
    window: Window,
    open: HashMap<K, Open<G>>,
    /// When each was begun, in order; those whose serial is gone have been closed since.
    due: VecDeque<(Instant, K, u64)>,
    serial: u64,
    timer: Timer,
    /// Units taken since it was last looked whether a group is due.
    unlooked: u32,
    ended: bool,
}

impl<S: Stage, F, K, G> Gather<S, F, K, G>
where
    K: Hash + Eq + Clone,
    F: KeyOf<S::Out, K>,
    G: Gathering<K, S::Out>,
{
    pub(crate) fn new(above: S, cx: StageCx, key: F, window: Window) -> Self {
        Self {
            above,
            cx,
            key,
            window,
            open: HashMap::new(),
            due: VecDeque::new(),
            serial: 0,
            timer: Timer::default(),
            unlooked: 0,
            ended: false,
        }
    }
}

/// Forgets when groups were due that have been closed since. Looks at all only when most are such: groups that fill up
/// behind one that lingers must not leave anything behind.
fn forget_closed<K: Hash + Eq, G>(
    open: &HashMap<K, Open<G>>,
    due: &mut VecDeque<(Instant, K, u64)>,
) {
    let is_closed = |key: &K, serial: u64| open.get(key).is_none_or(|group| group.serial != serial);
    if due.len() >= 2 * open.len() + CLOSED {
        due.retain(|(_, key, serial)| !is_closed(key, *serial));
    }
    while due.front().is_some_and(|(_, key, serial)| is_closed(key, *serial)) {
        due.pop_front();
    }
}

/// Takes the oldest out, if it is due at `now`; `None` for all.
fn close<K: Hash + Eq + Clone, T, G: Gathering<K, T>>(
    open: &mut HashMap<K, Open<G>>,
    due: &mut VecDeque<(Instant, K, u64)>,
    now: Option<Instant>,
) -> Option<Uow<G::Out>> {
    while let Some((at, key, serial)) = due.front() {
        if open.get(key).is_none_or(|group| group.serial != *serial) {
            due.pop_front();
            continue;
        }
        if now.is_some_and(|now| *at > now) {
            return None;
        }
        let (_, key, _) = due.pop_front()?;
        let group = open.remove(&key)?;
        return Some(group.lineage.with(group.gathering.finish(key)));
    }
    None
}

impl<S, F, K, G> Stage for Gather<S, F, K, G>
where
    S: Stage,
    K: Hash + Eq + Clone,
    F: KeyOf<S::Out, K>,
    G: Gathering<K, S::Out>,
{
    type Out = G::Out;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<G::Out>>> {
        let mut this = self.project();
        let mut left = UNITS_A_POLL;
        while !*this.ended {
            if *this.unlooked >= UNITS_A_POLL {
                // an input that never waits must not keep a group open past its linger
                *this.unlooked = 0;
                let now = Some(Instant::now());
                if let Some(unit) = close::<K, S::Out, G>(this.open, this.due, now) {
                    return Poll::Ready(Some(unit));
                }
            }
            if left == 0 {
                this.above.as_mut().poll_progress(cx);
                yield_turn(cx);
                return Poll::Pending;
            }
            left -= 1;
            *this.unlooked += 1;
            let unit = match this.above.as_mut().poll_next(cx) {
                Poll::Ready(Some(unit)) => unit,
                Poll::Ready(None) => {
                    *this.ended = true;
                    break;
                }
                Poll::Pending => {
                    // the reader cannot go on: what is held must move, the oldest first
                    let now = if this.cx.is_pressed() { None } else { Some(Instant::now()) };
                    if let Some(unit) = close::<K, S::Out, G>(this.open, this.due, now) {
                        return Poll::Ready(Some(unit));
                    }
                    let Some((at, ..)) = this.due.front() else { return Poll::Pending };
                    if this.timer.poll_at(*at, cx).is_ready() {
                        continue;
                    }
                    return Poll::Pending;
                }
            };
            let key = match this.cx.catch(|| this.key.key(unit.value())) {
                Ok(Some(key)) => key,
                Ok(None) => {
                    this.cx.fault(
                        unit,
                        crate::StepError::new(crate::Class::Fault, "the unit has no key")
                            .with_name("NoKey"),
                    );
                    continue;
                }
                Err(panic) => {
                    this.cx.fault(unit, panic);
                    continue;
                }
            };
            let (value, lineage) = unit.into_parts();
            let bytes: usize = lineage.records().map(crate::Record::size).sum();
            let group = match this.open.get_mut(&key) {
                Some(group) => {
                    // to compare two is to run user code, too
                    let added = this.cx.catch(|| group.gathering.add(value, &lineage));
                    if let Err(panic) = added {
                        this.cx.fault(lineage.with(()), panic);
                        continue;
                    }
                    group.lineage.append(lineage);
                    group.count += 1;
                    group.bytes = group.bytes.saturating_add(bytes);
                    group
                }
                None => {
                    let gathering = match this.cx.catch(|| G::begin(value, &lineage)) {
                        Ok(gathering) => gathering,
                        Err(panic) => {
                            this.cx.fault(lineage.with(()), panic);
                            continue;
                        }
                    };
                    *this.serial += 1;
                    let group = Open { gathering, lineage, count: 1, bytes, serial: *this.serial };
                    let at = Instant::now() + this.window.linger;
                    this.due.push_back((at, key.clone(), *this.serial));
                    this.open.entry(key.clone()).or_insert(group)
                }
            };
            // a faulted group comes back whole, however small groups have become since
            let full = group.count >= this.window.items || group.bytes >= this.window.bytes;
            if full && !group.lineage.is_resubmitted() {
                if let Some(group) = this.open.remove(&key) {
                    forget_closed(this.open, this.due);
                    return Poll::Ready(Some(group.lineage.with(group.gathering.finish(key))));
                }
            }
        }
        if planted!("last-group-dropped") {
            this.open.drain().for_each(|(_, group)| group.lineage.decide(crate::Fate::Done));
        }
        Poll::Ready(close::<K, S::Out, G>(this.open, this.due, None))
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        if !*this.ended {
            this.above.poll_progress(cx);
        }
    }
}
