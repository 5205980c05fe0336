//! What a combinator is, and what it may ask its lane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{Class, StepError};
use crate::fault::Refusal;
use crate::settle::{Fate, Flag, LaneState};
use crate::unit::{Lineage, Uow};

/// How many units a stage may pass in one poll before it yields.
pub const UNITS_A_POLL: u32 = 256;

/// One step of a pipeline: units come in from the stage above, other units go out below.
///
/// A stage is polled from both directions. `poll_next` is asked for a unit; `poll_progress` only lets what
/// runs go on. That is how a stage's work goes on while a later stage is full: a chain of `Stream`s freezes
/// there, and deadlocks where both steps want the same connection pool (known as *futurelock*).
///
/// # Contract
///
/// 1. Whoever returns `Pending` from `poll_next` has, in the same call, polled what lies above it: by
///    `poll_next` if it could take a unit, else by `poll_progress`.
/// 2. After the last future it started in a call, it has polled its own set again with the present waker;
///    else the future's wake-up is lost, and it hangs for ever, past its timeouts.
/// 3. `poll_progress` starts nothing new and hands nothing on.
/// 4. Whoever owns a flow awaits nothing else while it owns it.
/// 5. After 256 units in one poll it lets what lies above go on (`poll_progress`), wakes itself and yields.
/// 6. A set of futures is polled round robin, beginning after the one polled first last time.
///
/// After it returned `None` it is not polled again. Panics of user code are caught by the stage
/// ([`StageCx::catch`]) and become faults of the unit.
pub trait Stage {
    /// The value of the units that go out.
    type Out;

    /// The next unit, or `None` after the last.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<Self::Out>>>;

    /// Lets what runs here and above go on.
    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>);
}

impl<S: Stage + ?Sized> Stage for Pin<Box<S>> {
    type Out = S::Out;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        self.get_mut().as_mut().poll_next(cx)
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.get_mut().as_mut().poll_progress(cx);
    }
}

/// What a stage may ask its lane, and how it decides units.
#[derive(Clone, Debug)]
pub struct StageCx {
    pub(crate) lane: Arc<LaneState>,
    pub(crate) id: u16,
}

impl StageCx {
    /// Sets the unit aside as a fault, or returns it, as the error's class says
    /// ([`Class::Fatal`] and retryable classes return; a stage that retries does so before it comes here).
    pub fn fault<T>(&self, unit: Uow<T>, error: StepError) {
        let (value, lineage) = unit.into_parts();
        drop(value);
        match error.class() {
            Class::Fatal => self.fatal(lineage, &error),
            Class::Transient | Class::Throttled => self.give_back(lineage, error.class()),
            _ => {
                self.refuse(lineage, Refusal::new(error));
            }
        }
    }

    /// Keeps the unit out of the pipeline on purpose.
    pub fn filtered<T>(&self, unit: Uow<T>) {
        unit.lineage.decide(Fate::Filtered);
    }

    /// Gives the unit back to the stream.
    pub fn returned<T>(&self, unit: Uow<T>) {
        let (value, lineage) = unit.into_parts();
        drop(value);
        self.give_back(lineage, Class::Returned);
    }

    /// Whether the lane is to be built anew: units that must keep their order do not begin any more. They
    /// are dropped through [`returned`](Self::returned), and fed again.
    #[inline]
    pub fn is_halted(&self) -> bool {
        self.lane.has(Flag::HALTED | Flag::FATAL)
    }

    /// Whether what is returned comes again to this same flow, as on sources that acknowledge one by one: then
    /// a returned unit must not stop its key for ever.
    pub fn comes_again(&self) -> bool {
        self.lane.has(Flag::EACH)
    }

    /// Whether the lane drains: what would wait without end is returned instead.
    pub fn is_draining(&self) -> bool {
        self.lane.has(Flag::DRAINING)
    }

    /// Whether the reader stands at its limit: a stage that holds units closes its oldest.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.lane.has(Flag::PRESSURE | Flag::HALTED)
    }

    /// Whether a unit that was returned is fed again before those behind it. A source that acknowledges one by
    /// one gives it again when it pleases, and those behind it do not wait.
    pub(crate) fn keeps_order(&self) -> bool {
        !self.comes_again()
    }

    /// Runs user code, and makes a panic in it an error of class [`Class::Panic`].
    ///
    /// # Errors
    /// The panic, with its message.
    #[inline]
    pub fn catch<R>(&self, user: impl FnOnce() -> R) -> Result<R, StepError> {
        catch_unwind(AssertUnwindSafe(user)).map_err(panicked)
    }

    pub(crate) fn give_back(&self, lineage: Lineage, class: Class) {
        self.lane.note_class(class);
        lineage.decide(Fate::Returned);
    }

    /// Gives a unit back that never began, because of another one before it.
    pub(crate) fn put_back<T>(&self, unit: Uow<T>) {
        let (value, lineage) = unit.into_parts();
        drop(value);
        lineage.put_back();
    }

    pub(crate) fn fatal(&self, lineage: Lineage, error: &StepError) {
        self.lane.note_class(Class::Fatal);
        if let Some(count) = self.lane.pipeline.lines.fatal.due() {
            tracing::error!(
                target: "streambreaker::lane",
                pipeline = %self.lane.pipeline.name,
                messaging.destination.name = %self.lane.stream,
                messaging.destination.partition.id = %self.lane.shard,
                stage = %self.lane.pipeline.stage(self.id).name,
                error.type = error.name(),
                count,
                "a unit ended in a fatal error; the lane halts and feeds it again after a backoff",
            );
        }
        self.lane.raise(Flag::FATAL);
        lineage.decide(Fate::Returned);
    }

    /// Hands a fault over; whether it was taken, and not returned (by the flood guard, for one). Never waits.
    pub(crate) fn refuse(&self, lineage: Lineage, refusal: Refusal) -> bool {
        self.lane.note_class(refusal.error.class());
        crate::fault::hand_over(&self.lane, Some(self.id), lineage, refusal)
    }
}

/// The error that a caught panic becomes.
#[cold]
pub(crate) fn panicked(payload: Box<dyn std::any::Any + Send>) -> StepError {
    let text = match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "panicked with a value that is not text".to_owned(),
        },
    };
    StepError::new(Class::Panic, text).with_name("Panic")
}
