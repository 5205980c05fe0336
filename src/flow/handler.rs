//! What a handler must be, as traits whose only work is to say so when it is not.
//!
//! The bounds that let a closure be inferred (`AsyncFn(&T) -> Result<U, StepError>`) produce errors that talk of
//! projections. These traits stand beside them, are implemented for all that is right, and carry the words.

use std::ops::AsyncFn;

use crate::error::StepError;

/// An async function of `&T` that answers `Result<_, StepError>`: what [`call`](super::Flow::call),
/// [`parallel`](super::Flow::parallel), [`parallel_by_key`](super::Flow::parallel_by_key) and
/// [`with`](super::Flow::with) take. Implemented for all that are; nobody has to name it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of `{T}`",
    label = "not an async function that takes `&{T}`",
    note = "a handler is an async closure or function that borrows what comes out of the step before: \
            `async |value: &{T}| Ok(…)`"
)]
pub trait Handler<T: ?Sized> {}

impl<F, T: ?Sized, R> Handler<T> for F
where
    F: AsyncFn(&T) -> R,
    R: Answer,
{
}

/// What a handler returns: `Result<_, StepError>`.
#[diagnostic::on_unimplemented(
    message = "a handler returns `Result<_, StepError>`, not `{Self}`",
    label = "this handler returns `{Self}`",
    note = "an error of your own becomes a `StepError` by `?`: `async |x: &T| Ok(work(x).await?)`; one that deserves \
            a retry says so: `work(x).await.transient()`",
    note = "a handler that has nothing to return ends with `Ok(())`"
)]
pub trait Answer {}

impl<U> Answer for Result<U, StepError> {}
