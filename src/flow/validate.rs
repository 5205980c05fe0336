//! `validate` and `ensure`: check values as the events flow, not up front.

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{Flow, Stage, StageCx};
use crate::error::{BoxError, ResultExt, StepError};
use crate::unit::{Event, Uow};

fn checked<T, E: Into<BoxError>>(
    cx: &StageCx,
    unit: Uow<T>,
    check: impl FnOnce(&T) -> Result<(), E>,
) -> Option<Uow<T>> {
    // a text is as good an error as a type; what carries a class already keeps it
    let result = cx.catch(|| check(unit.value())).and_then(|result| {
        result.map_err(|error| match Err::<(), E>(error).fault() {
            Err(error) => error,
            Ok(()) => unreachable!("an error stays an error"),
        })
    });
    match result {
        Ok(()) => Some(unit),
        Err(error) => {
            let error: StepError = error;
            cx.fault(unit, error);
            None
        }
    }
}

struct Ensure<F>(F);

impl<T, E: Into<BoxError>, F: Fn(&T) -> Result<(), E>> Step<T> for Ensure<F> {
    type Out = T;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<T>) -> Option<Uow<T>> {
        checked(cx, unit, &self.0)
    }
}

struct Validate<F>(F);

impl<V, E: Into<BoxError>, F: Fn(&V) -> Result<(), E>> Step<Event<V>> for Validate<F> {
    type Out = Event<V>;

    #[inline]
    fn step(&mut self, cx: &StageCx, unit: Uow<Event<V>>) -> Option<Uow<Event<V>>> {
        checked(cx, unit, |event: &Event<V>| (self.0)(event))
    }
}

impl<S: Stage> Flow<S> {
    /// Checks each value; an error is a fault of that unit. For flows of events,
    /// [`validate`](Self::validate) checks the event itself.
    ///
    /// `check` may fail with any error, or with text. A panic of it is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let report = run(["1", "2", "3"], |flow| {
    ///     flow.json::<u64>()
    ///         .group_by(|n| **n % 2, Window::items(10))
    ///         .ensure(|group| if group.items.len() > 1 { Ok(()) } else { Err("an order of one line") })
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (2, 1));
    /// # }
    /// ```
    pub fn ensure<F, E>(self, check: F) -> Flow<impl Stage<Out = S::Out> + use<S, F, E>>
    where
        F: Fn(&S::Out) -> Result<(), E>,
        E: Into<BoxError>,
    {
        self.add(StagePlan::new("ensure"), |above, cx| Inline::new(above, cx, Ensure(check)))
    }

    /// Checks each event; an error is a fault of that unit.
    ///
    /// `check` gets the event itself, so that it can be a method of it: `.validate(Order::check)`. It may
    /// fail with any error, or with text. A panic of it is a fault of that unit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// #[derive(serde::Deserialize)]
    /// struct Order {
    ///     amount: i64,
    /// }
    ///
    /// impl Order {
    ///     fn check(&self) -> Result<(), String> {
    ///         if self.amount > 0 { Ok(()) } else { Err(format!("an amount of {}", self.amount)) }
    ///     }
    /// }
    ///
    /// let report = run([r#"{"amount":1}"#, r#"{"amount":-1}"#], |flow| {
    ///     flow.json::<Order>().validate(Order::check)
    /// })
    /// .await;
    /// assert_eq!((report.done, report.faulted), (1, 1));
    /// # }
    /// ```
    pub fn validate<V, F, E>(self, check: F) -> Flow<impl Stage<Out = Event<V>> + use<S, V, F, E>>
    where
        S: Stage<Out = Event<V>>,
        F: Fn(&V) -> Result<(), E>,
        E: Into<BoxError>,
    {
        self.add(StagePlan::new("validate"), |above, cx| Inline::new(above, cx, Validate(check)))
    }
}
