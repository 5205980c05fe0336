//! What an error of a handler means, where the handler did not say.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Class, StepError, io_is_transient};

type Ask = dyn Fn(&(dyn Error + Send + Sync + 'static)) -> Option<Class> + Send + Sync;

/// A classifier of the user, called where a panic of it is caught.
pub(super) struct Classifier(Box<Ask>);

impl Classifier {
    pub(super) fn new(
        ask: impl Fn(&(dyn Error + Send + Sync + 'static)) -> Option<Class> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(ask))
    }

    /// Only errors of class `Fault` are asked about: what a handler has classified stays so.
    pub(super) fn classify(&self, error: StepError) -> StepError {
        if error.class() != Class::Fault {
            return error;
        }
        match catch_unwind(AssertUnwindSafe(|| (self.0)(error.error()))) {
            Ok(Some(class @ (Class::Transient | Class::Throttled | Class::Fatal))) => {
                error.with_class(class)
            }
            // the other classes are decisions that only the machinery makes
            Ok(_) => error,
            Err(_) => error.with_class(Class::Panic),
        }
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Classifier")
    }
}

/// A classifier for [`ResourceBuilder::classify`](super::ResourceBuilder::classify): an error that is,
/// or was caused by, an [`io::Error`] which speaks of a connection or of time is transient. Of all else
/// it knows nothing.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::{Resource, resource::io_errors};
///
/// let files = Resource::builder("files")
///     .timeout(Duration::from_secs(1))
///     .classify(io_errors)
///     .build()?;
/// # Ok::<(), streambreaker::ConfigError>(())
/// ```
pub fn io_errors(error: &(dyn Error + Send + Sync + 'static)) -> Option<Class> {
    let mut at: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = at {
        if error.downcast_ref::<io::Error>().is_some_and(io_is_transient) {
            return Some(Class::Transient);
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> StepError {
        StepError::from(io::Error::from(io::ErrorKind::ConnectionRefused))
    }

    #[test]
    fn io_errors_of_connections_are_transient() {
        let ask = Classifier::new(io_errors);
        assert_eq!(ask.classify(refused()).class(), Class::Transient);
        let missing = StepError::from(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(ask.classify(missing).class(), Class::Fault);

        #[derive(Debug, thiserror::Error)]
        #[error("the client failed")]
        struct Client(#[source] io::Error);
        let nested = StepError::from(Client(io::ErrorKind::TimedOut.into()));
        assert_eq!(ask.classify(nested).class(), Class::Transient);
    }

    #[test]
    fn what_a_handler_said_is_not_asked_about() {
        let ask = Classifier::new(|_| Some(Class::Transient));
        let fatal = StepError::new(Class::Fatal, "no");
        assert_eq!(ask.classify(fatal).class(), Class::Fatal);
        assert_eq!(ask.classify(StepError::new(Class::Fault, "no")).class(), Class::Transient);
    }

    #[test]
    fn f9_a_classifier_that_panics_makes_it_a_panic_of_that_unit() {
        let ask = Classifier::new(|_| panic!("a bug"));
        assert_eq!(ask.classify(refused()).class(), Class::Panic);
        let odd = Classifier::new(|_| Some(Class::CircuitOpen));
        assert_eq!(odd.classify(refused()).class(), Class::Fault);
    }
}
