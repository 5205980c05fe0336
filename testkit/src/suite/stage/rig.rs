//! A stage in the hands of a rule.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use streambreaker::fault::FloodGuard;
use streambreaker::flow::BoxedFlow;
use streambreaker::prelude::*;
use streambreaker::{Position, Processed, Received, Record, Uow, memory};

type Taken = Pin<Box<dyn Stage<Out = ()> + Send>>;

/// How the stage above the one under test is asked, and how far it may go.
#[derive(Default)]
pub(super) struct Script {
    /// Units that it may still hand on.
    allowed: AtomicUsize,
    nexts: AtomicUsize,
    progresses: AtomicUsize,
    handed: AtomicUsize,
    over: AtomicBool,
    waker: AtomicWaker,
}

impl Script {
    /// How often it was asked, in whichever way.
    pub(super) fn asked(&self) -> usize {
        self.nexts() + self.progresses()
    }

    /// How often it was asked for a unit.
    pub(super) fn nexts(&self) -> usize {
        self.nexts.load(Ordering::Relaxed)
    }

    /// How often it was let go on.
    pub(super) fn progresses(&self) -> usize {
        self.progresses.load(Ordering::Relaxed)
    }

    /// How many units it has handed on.
    pub(super) fn handed(&self) -> usize {
        self.handed.load(Ordering::Relaxed)
    }

    /// Lets it hand on `n` more units, and wakes who asked last.
    pub(super) fn allow(&self, n: usize) {
        self.allowed.fetch_add(n, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Ends the input after what was allowed, without waking anybody.
    pub(super) fn end_quietly(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Ends the input after what was allowed.
    pub(super) fn end(&self) {
        self.end_quietly();
        self.waker.wake();
    }
}

/// The stage above the one under test: it hands on as many records as a rule lets it.
pub struct Above {
    input: Input,
    script: Arc<Script>,
}

impl Stage for Above {
    type Out = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<Received>>> {
        let this = &mut *self;
        let script = &this.script;
        script.nexts.fetch_add(1, Ordering::Relaxed);
        script.waker.register(cx.waker());
        if script.allowed.load(Ordering::Relaxed) == 0 {
            let over = script.over.load(Ordering::Relaxed);
            return if over { Poll::Ready(None) } else { Poll::Pending };
        }
        let next = Pin::new(&mut this.input).poll_next(cx);
        if matches!(next, Poll::Ready(Some(_))) {
            script.allowed.fetch_sub(1, Ordering::Relaxed);
            script.handed.fetch_add(1, Ordering::Relaxed);
        }
        next
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.script.progresses.fetch_add(1, Ordering::Relaxed);
        self.script.waker.register(cx.waker());
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What stands below: waits until the rule is done.
struct Nothing(Arc<AtomicWaker>);

impl Stage for Nothing {
    type Out = ();

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<()>>> {
        self.0.register(cx.waker());
        Poll::Pending
    }

    fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}
}

/// A stage, taken out of its pipeline.
pub(super) struct Rig {
    stage: Taken,
    pub(super) script: Arc<Script>,
    count: Arc<Count>,
    waker: Waker,
    turns: Arc<AtomicWaker>,
    run: tokio::task::JoinHandle<Processed>,
}

fn records(payloads: Vec<String>) -> impl Iterator<Item = Record> {
    let record = |(n, payload)| Record::new("s", "0", Position::from(n), payload);
    (0..).zip(payloads).map(record)
}

/// Runs the stage in a pipeline, with nothing to hold it back: what became of the records.
pub(super) async fn process(
    payloads: Vec<String>,
    build: impl Fn(Flow<Above>) -> BoxedFlow<()> + Send + Sync + 'static,
) -> Processed {
    let processor = Processor::builder("suite")
        .faults(memory::faults())
        .flood_guard(FloodGuard::off())
        .pipeline("all", move |flow| {
            let script = Arc::new(Script::default());
            script.allow(usize::MAX / 2);
            build(flow.stage("above", |input, _| Above { input, script }))
        })
        .build()
        .unwrap_or_else(|error| panic!("the suite's processor: {error}"));
    processor.process(records(payloads)).await
}

impl Rig {
    /// A lane with these payloads before it.
    pub(super) async fn new(
        payloads: Vec<String>,
        build: impl Fn(Flow<Above>) -> BoxedFlow<()> + Send + Sync + 'static,
    ) -> Self {
        let taken: Arc<Mutex<Option<Taken>>> = Arc::default();
        let take = |taken: &Mutex<Option<Taken>>| {
            taken.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let (script, turns) = (Arc::new(Script::default()), Arc::new(AtomicWaker::new()));
        let (slot, asked, end) = (taken.clone(), script.clone(), turns.clone());
        let processor = Processor::builder("suite")
            .faults(memory::faults())
            .flood_guard(FloodGuard::off())
            .pipeline("all", move |flow| {
                let (slot, script) = (slot.clone(), asked.clone());
                build(flow.stage("above", |input, _| Above { input, script })).stage(
                    "taken",
                    |stage, _| {
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stage);
                        Nothing(end.clone())
                    },
                )
            })
            .build()
            .unwrap_or_else(|error| panic!("the suite's processor: {error}"));
        // the one that `build()` made to see the plan
        drop(take(&taken));
        let run = tokio::spawn(async move { processor.process(records(payloads)).await });
        let stage = loop {
            tokio::task::yield_now().await;
            if let Some(stage) = take(&taken) {
                break stage;
            }
        };
        // the lane's reader fills the input
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        Self { stage, script, count, waker, turns, run }
    }

    /// Asks for a unit once.
    pub(super) fn next(&mut self) -> Poll<Option<()>> {
        let stage = self.stage.as_mut();
        stage.poll_next(&mut Context::from_waker(&self.waker)).map(|unit| unit.map(drop))
    }

    /// Lets it go on once.
    pub(super) fn progress(&mut self) {
        let stage = self.stage.as_mut();
        stage.poll_progress(&mut Context::from_waker(&self.waker));
    }

    /// Forgets that it was woken.
    pub(super) fn forget_wakes(&self) {
        self.count.0.store(0, Ordering::Relaxed);
    }

    /// A new turn of the lane's task: the coarse clock of the lane goes on.
    pub(super) async fn turn(&self) {
        self.turns.wake();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }

    /// Waits for a wake-up; false if none came within `limit`.
    pub(super) async fn wait(&self, limit: Duration) -> bool {
        let begin = tokio::time::Instant::now();
        // what has used up the scheduler's budget is woken at the end of a turn, in no time
        tokio::task::yield_now().await;
        while self.count.0.load(Ordering::Relaxed) == 0 {
            if begin.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.forget_wakes();
        self.turn().await;
        true
    }

    /// Polls only when woken; how long it took to hand on or decide everything.
    pub(super) async fn drive(&mut self, limit: Duration) -> Option<Duration> {
        let begin = tokio::time::Instant::now();
        loop {
            match self.next() {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Some(begin.elapsed()),
                Poll::Pending => {
                    if !self.wait(limit).await {
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run.abort();
    }
}
