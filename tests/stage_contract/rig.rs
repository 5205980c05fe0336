//! A stage in the hands of a test.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use streambreaker::fault::FloodGuard;
use streambreaker::flow::BoxedFlow;
use streambreaker::prelude::*;
use streambreaker::{Position, Received, Record, memory};

pub(crate) type Stages = Pin<Box<dyn Stage<Out = ()> + Send>>;

/// How the stage above the one under test is asked, and how far it may go.
#[derive(Default)]
pub(crate) struct Script {
    /// Units that it may still hand on.
    pub(crate) allowed: AtomicUsize,
    pub(crate) nexts: AtomicUsize,
    pub(crate) progresses: AtomicUsize,
    pub(crate) handed: AtomicUsize,
    pub(crate) over: AtomicBool,
    waker: AtomicWaker,
}

impl Script {
    pub(crate) fn asked(&self) -> usize {
        self.nexts.load(Ordering::Relaxed) + self.progresses.load(Ordering::Relaxed)
    }

    /// Lets it hand on `n` more units, and wakes who asked last.
    pub(crate) fn allow(&self, n: usize) {
        self.allowed.fetch_add(n, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Ends the input after what was allowed.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

/// The stage above.
pub(crate) struct Scripted {
    input: Input,
    script: Arc<Script>,
}

impl Stage for Scripted {
    type Out = Received;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<streambreaker::Uow<Received>>> {
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

/// What stands below: waits until the test is over.
struct Nothing(Arc<Turns>);

#[derive(Default)]
struct Turns {
    waker: AtomicWaker,
}

impl Stage for Nothing {
    type Out = ();

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<streambreaker::Uow<()>>> {
        self.0.waker.register(cx.waker());
        Poll::Pending
    }

    fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}
}

/// A stage, taken out of its pipeline.
pub(crate) struct Rig {
    stage: Stages,
    pub(crate) script: Arc<Script>,
    count: Arc<Count>,
    waker: Waker,
    turns: Arc<Turns>,
    run: tokio::task::JoinHandle<streambreaker::Outcome>,
}

/// A stage under test, above `Scripted`; its values do not matter.
pub(crate) type Build = Arc<dyn Fn(Flow<Scripted>) -> BoxedFlow<()> + Send + Sync>;

impl Rig {
    /// A lane with these payloads before it.
    pub(crate) async fn new(payloads: impl IntoIterator<Item = String>, build: Build) -> Self {
        let taken: Arc<Mutex<Option<Stages>>> = Arc::default();
        let (script, turns) = (Arc::new(Script::default()), Arc::new(Turns::default()));
        let (slot, asked, end) = (taken.clone(), script.clone(), turns.clone());
        let processor = Processor::builder("p")
            .faults(memory::faults())
            .flood_guard(FloodGuard::off())
            .pipeline("all", move |flow| {
                let (slot, script) = (slot.clone(), asked.clone());
                let scripted = flow.stage("script", |input, _| Scripted { input, script });
                build(scripted).stage("taken", |stage, _| {
                    *slot.lock().unwrap() = Some(stage);
                    Nothing(end.clone())
                })
            })
            .build()
            .unwrap();
        // the one that `build()` made to see the plan
        taken.lock().unwrap().take();
        let records: Vec<Record> = (0..)
            .zip(payloads)
            .map(|(n, payload)| Record::new("s", "0", Position::from(n), payload))
            .collect();
        let run = tokio::spawn(async move { processor.process(records).await });
        let stage = loop {
            tokio::task::yield_now().await;
            if let Some(stage) = taken.lock().unwrap().take() {
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
    pub(crate) fn next(&mut self) -> Poll<Option<()>> {
        let stage = self.stage.as_mut();
        match stage.poll_next(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(Some(unit)) => {
                drop(unit);
                Poll::Ready(Some(()))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets it go on once.
    pub(crate) fn progress(&mut self) {
        let stage = self.stage.as_mut();
        stage.poll_progress(&mut Context::from_waker(&self.waker));
    }

    /// How often it was woken since this was asked last.
    pub(crate) fn woken(&self) -> usize {
        self.count.0.swap(0, Ordering::Relaxed)
    }

    /// A new turn of the lane's task: the coarse clock of the lane goes on.
    pub(crate) async fn turn(&self) {
        self.turns.waker.wake();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }

    /// Waits for a wake-up; false if none came within `limit`.
    pub(crate) async fn wait(&self, limit: Duration) -> bool {
        let begin = tokio::time::Instant::now();
        while self.count.0.load(Ordering::Relaxed) == 0 {
            if begin.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.count.0.store(0, Ordering::Relaxed);
        self.turn().await;
        true
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run.abort();
    }
}
