//! What a handler answers, as a trait that says so when it answers something else.
//!
//! What shaped it: were the bound `AsyncFn(&T) -> Result<U, StepError>`, the body of a closure would be checked against
//! that type, and a mistake in it be shown in words that are not ours. So the bound is `AsyncFn(&T) -> R` with
//! `R: Answer`. As this is implemented for one kind of `Result` alone, the compiler still finds the error type that a `?`
//! in a closure is to make by itself: nothing has to be annotated.

use crate::error::StepError;

/// What a handler answers: `Result<_, StepError>`, and nothing else. What [`call`](super::Flow::call),
/// [`parallel`](super::Flow::parallel), [`parallel_by_key`](super::Flow::parallel_by_key) and
/// [`with`](super::Flow::with) ask of the async closure or function that they are given; nobody has to name it.
#[diagnostic::on_unimplemented(
    message = "a handler returns `Result<_, StepError>`, not `{Self}`",
    label = "this handler returns `{Self}`",
    note = "an error of your own becomes a `StepError` by `?`: `async |x: &T| Ok(work(x).await?)`; one that deserves \
            a retry says so: `work(x).await.transient()`",
    note = "a handler that has nothing to return ends with `Ok(())`"
)]
pub trait Answer {
    /// What goes on.
    type Ok;

    /// The answer itself.
    ///
    /// # Errors
    /// The handler's.
    fn into_result(self) -> Result<Self::Ok, StepError>;
}

impl<U> Answer for Result<U, StepError> {
    type Ok = U;

    #[inline(always)]
    fn into_result(self) -> Result<U, StepError> {
        self
    }
}
