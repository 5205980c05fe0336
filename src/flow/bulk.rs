//! The bulk engine's arithmetic: what a response means for each item of a request.
//!
//! A sink notes outcomes one by one; what it confirmed is settled at once and never sent again, what it
//! rejected is decided at once, and what is unknown counts as not confirmed: the next request holds exactly
//! what is left, in the original order. It knows neither timers nor flows, so that a pipeline's bulk write
//! and the publisher of faults share it.

use std::time::Duration;

use crate::error::{Class, StepError};
use crate::sink::OutcomeLog;

/// What became of the items of one request.
pub(crate) struct Sorted<I> {
    /// Confirmed.
    pub(crate) done: Vec<I>,
    /// Not confirmed; with the error of each, in their order.
    pub(crate) failed: Vec<(I, StepError)>,
    /// The longest that an item, or the whole request, asked to be left alone.
    pub(crate) after: Option<Duration>,
}

/// How the call ended as a whole.
pub(crate) enum Call {
    Returned(Result<(), StepError>),
    /// Timed out, or panicked: what was noted stays.
    Broken(StepError),
}

/// Sorts the items of a request by what was noted of them.
pub(crate) fn sort<I>(items: Vec<I>, mut log: OutcomeLog, call: Call) -> Sorted<I> {
    let whole = match call {
        Call::Returned(Ok(())) => None,
        Call::Returned(Err(error)) | Call::Broken(error) => Some(error),
    };
    let mut sorted = Sorted {
        done: Vec::new(),
        failed: Vec::new(),
        after: whole.as_ref().and_then(StepError::after),
    };
    for (index, item) in items.into_iter().enumerate() {
        match log.take(index) {
            Some(Ok(())) if planted!("accepted-sent-again") && whole.is_some() => {
                sorted.failed.push((item, StepError::new(Class::Transient, "planted")));
            }
            Some(Ok(())) => sorted.done.push(item),
            Some(Err(error)) => {
                sorted.after = sorted.after.max(error.after());
                sorted.failed.push((item, error));
            }
            None => {
                let error = match &whole {
                    Some(error) => alike(error),
                    None => StepError::new(Class::Transient, "the sink said nothing of this item")
                        .with_name("UnknownOutcome"),
                };
                sorted.failed.push((item, error));
            }
        }
    }
    sorted
}

/// The error of a whole call, once for each item it stands for: class, type and text; the original error
/// cannot be shared out.
pub(crate) fn alike(error: &StepError) -> StepError {
    let text = error.message();
    match error.after() {
        Some(after) => StepError::throttled(after, text),
        None => StepError::new(error.class(), text),
    }
    .with_name(error.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Note {
        Done(usize),
        Retry(usize),
        Reject(usize),
        Throttled(usize),
    }

    fn note() -> impl Strategy<Value = Note> {
        (0usize..12, 0..4).prop_map(|(index, kind)| match kind {
            0 => Note::Done(index),
            1 => Note::Retry(index),
            2 => Note::Reject(index),
            _ => Note::Throttled(index),
        })
    }

    proptest! {
        #[test]
        fn k1_any_response_loses_no_item_and_keeps_the_order(
            n in 1usize..10,
            notes in proptest::collection::vec(note(), 0..30),
            whole in 0..4,
        ) {
            let mut log = OutcomeLog::new(n);
            let mut outcomes = log.outcomes();
            for note in &notes {
                match *note {
                    Note::Done(i) => outcomes.done(i),
                    Note::Retry(i) => outcomes.retry(i, "again"),
                    Note::Reject(i) => outcomes.reject(i, "never"),
                    Note::Throttled(i) => outcomes.throttled(i, Duration::from_secs(1), "slow"),
                }
            }
            let call = match whole {
                0 => Call::Returned(Ok(())),
                1 => Call::Returned(Err(StepError::new(Class::Fault, "whole"))),
                2 => Call::Returned(Err(StepError::throttled(Duration::from_secs(2), "whole"))),
                _ => Call::Broken(StepError::new(Class::Transient, "timeout")),
            };
            let sorted = sort((0..n).collect(), log, call);
            let mut all: Vec<usize> = sorted.done.clone();
            all.extend(sorted.failed.iter().map(|(i, _)| *i));
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
            prop_assert!(sorted.done.is_sorted());
            prop_assert!(sorted.failed.iter().map(|(i, _)| *i).is_sorted());
            for item in &sorted.done {
                let of_item = |note: &&Note| match **note {
                    Note::Done(i) | Note::Retry(i) | Note::Reject(i) | Note::Throttled(i) => i == *item,
                };
                prop_assert!(notes.iter().any(|note| of_item(&note)));
                prop_assert!(notes.iter().filter(of_item).all(|note| matches!(note, Note::Done(_))));
            }
        }
    }
}
