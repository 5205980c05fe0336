//! Where items are written in bulk: the trait a transport or a bulk API implements to be written to.
//!
//! The items of a bulk request fail one by one. A sink therefore does not return one result; it *notes*
//! each item's outcome, as soon as it knows it, in an [`Outcomes`]. What was noted stays when the write
//! runs into its timeout and is dropped, so that a confirmed item is never sent again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Class, ResultExt, StepError};

/// What one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items; never zero.
    pub items: usize,
    /// Bytes, by [`Sink::size`].
    pub bytes: usize,
}

impl Limits {
    /// At most so many items, of any size.
    pub const fn items(items: usize) -> Self {
        Self { items: if items == 0 { 1 } else { items }, bytes: usize::MAX }
    }

    /// The same with a limit in bytes.
    #[must_use]
    pub const fn with_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

/// What became of one item.
#[derive(Debug)]
enum Outcome {
    Unknown,
    Done,
    Failed(StepError),
}

/// The outcomes of one request, owned. The engine makes one a request; a test of a sink makes its own.
///
/// ```
/// use streambreaker::sink::OutcomeLog;
///
/// let mut log = OutcomeLog::new(2);
/// log.outcomes().done(0);
/// assert!(log.is_done(0) && !log.is_done(1));
/// ```
#[derive(Debug)]
pub struct OutcomeLog {
    items: Vec<Outcome>,
    strays: u32,
}

impl OutcomeLog {
    /// A log for a request of `items` items, nothing known of any.
    pub fn new(items: usize) -> Self {
        Self { items: (0..items).map(|_| Outcome::Unknown).collect(), strays: 0 }
    }

    /// The view that a sink writes to.
    pub fn outcomes(&mut self) -> Outcomes<'_> {
        Outcomes(self)
    }

    /// Whether item `index` was confirmed, once and without contradiction.
    pub fn is_done(&self, index: usize) -> bool {
        matches!(self.items.get(index), Some(Outcome::Done))
    }

    /// Whether nothing is known of item `index`.
    pub fn is_unknown(&self, index: usize) -> bool {
        matches!(self.items.get(index), Some(Outcome::Unknown))
    }

    /// The error that was noted of item `index`.
    pub fn error(&self, index: usize) -> Option<&StepError> {
        match self.items.get(index) {
            Some(Outcome::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// How many notes made no sense: for an item that is not in the request, or against an earlier one.
    pub fn strays(&self) -> u32 {
        self.strays
    }

    /// Takes item `index` out: `Some(Ok)` confirmed, `Some(Err)` failed, `None` unknown.
    pub(crate) fn take(&mut self, index: usize) -> Option<Result<(), StepError>> {
        match std::mem::replace(&mut self.items[index], Outcome::Unknown) {
            Outcome::Unknown => None,
            Outcome::Done => Some(Ok(())),
            Outcome::Failed(error) => Some(Err(error)),
        }
    }
}

/// Where a sink notes what became of each item.
///
/// A note for an item that is not in the request is counted and otherwise ignored. Two notes that
/// contradict each other leave the item unknown, thus not confirmed: it is sent again.
#[derive(Debug)]
pub struct Outcomes<'a>(&'a mut OutcomeLog);

impl Outcomes<'_> {
    /// How many items the request has.
    pub fn len(&self) -> usize {
        self.0.items.len()
    }

    /// Whether the request has none; it never has.
    pub fn is_empty(&self) -> bool {
        self.0.items.is_empty()
    }

    fn note(&mut self, index: usize, new: Outcome) {
        let Some(slot) = self.0.items.get_mut(index) else {
            self.0.strays = self.0.strays.saturating_add(1);
            return;
        };
        *slot = match (std::mem::replace(slot, Outcome::Unknown), new) {
            (Outcome::Unknown, new) => new,
            (Outcome::Done, Outcome::Done) => Outcome::Done,
            (Outcome::Failed(_), Outcome::Failed(error)) => Outcome::Failed(error),
            (_, _) => {
                self.0.strays = self.0.strays.saturating_add(1);
                Outcome::Failed(
                    StepError::new(
                        Class::Transient,
                        "the sink contradicted itself about this item",
                    )
                    .with_name("ContradictoryOutcome"),
                )
            }
        };
    }

    /// The item is written.
    pub fn done(&mut self, index: usize) {
        self.note(index, Outcome::Done);
    }

    /// All items are written that nothing was noted of.
    pub fn all_done(&mut self) {
        for index in 0..self.len() {
            if self.0.is_unknown(index) {
                self.done(index);
            }
        }
    }

    /// The item was not written, for this error; its class says what happens next.
    pub fn failed(&mut self, index: usize, error: StepError) {
        self.note(index, Outcome::Failed(error));
    }

    /// The item was not written; trying again may help.
    pub fn retry<E: Into<crate::error::BoxError>>(&mut self, index: usize, error: E) {
        if let Err(error) = Err::<(), E>(error).transient() {
            self.failed(index, error);
        }
    }

    /// The item was not written; not again sooner than `after`.
    pub fn throttled<E: Into<crate::error::BoxError>>(
        &mut self,
        index: usize,
        after: Duration,
        error: E,
    ) {
        self.failed(index, StepError::throttled(after, error));
    }

    /// The item will never be written: a fault of this item alone.
    pub fn reject<E: Into<crate::error::BoxError>>(&mut self, index: usize, error: E) {
        if let Err(error) = Err::<(), E>(error).fault() {
            self.failed(index, error);
        }
    }
}

/// Something that takes items in bulk, with one outcome an item.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not write items of type `{T}`",
    label = "not a `Sink<{T}>`",
    note = "a sink is given the values that come out of the step before: `map` them to what it takes, or choose a \
            sink that takes `{T}`"
)]
#[async_trait]
pub trait Sink<T>: Send + Sync {
    /// What one request may hold. Asked once, when the pipeline is built.
    fn limits(&self) -> Limits;

    /// The bytes that an item takes in a request.
    fn size(&self, item: &T) -> usize;

    /// The stream that it writes to, where a source could read it: a processor refuses to read its own
    /// faults.
    fn stream(&self) -> Option<&str> {
        None
    }

    /// Writes the items, and notes each one's outcome as soon as it is known.
    ///
    /// `items` is never empty and never over the limits.
    ///
    /// # Errors
    /// The error stands for all items of which nothing was noted. `Ok` notes nothing by itself: items
    /// that were not noted are unknown, thus not confirmed, and are sent again.
    ///
    /// # Cancel safety
    /// Dropped at its timeout. What was noted stays; the rest counts as not confirmed.
    async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError>;
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        #[async_trait]
        impl<T: Sync, S: Sink<T> + ?Sized> Sink<T> for $type {
            fn limits(&self) -> Limits {
                (**self).limits()
            }

            fn size(&self, item: &T) -> usize {
                (**self).size(item)
            }

            fn stream(&self) -> Option<&str> {
                (**self).stream()
            }

            async fn write(&self, items: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
                (**self).write(items, outcomes).await
            }
        }
    )*};
}
forward!(&S, Arc<S>, Box<S>);

impl<T> fmt::Debug for dyn Sink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({:?})", self.limits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_contradictory_notes_confirm_nothing() {
        let mut log = OutcomeLog::new(3);
        let mut outcomes = log.outcomes();
        outcomes.done(0);
        outcomes.retry(0, "no, it was not");
        outcomes.done(1);
        outcomes.done(1);
        outcomes.done(9);
        assert!(!log.is_done(0) && log.is_done(1) && log.is_unknown(2));
        assert_eq!(log.strays(), 2);
    }

    #[test]
    fn all_done_leaves_what_was_noted() {
        let mut log = OutcomeLog::new(2);
        log.outcomes().reject(0, "bad");
        log.outcomes().all_done();
        assert!(!log.is_done(0) && log.is_done(1));
        assert_eq!(log.error(0).map(StepError::class), Some(Class::Fault));
    }
}
