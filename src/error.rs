//! What a handler says went wrong, and what is to be done about it.
//!
//! The error type of handlers is fixed: [`StepError`]. Any `std::error::Error` becomes one by `?`, of
//! class [`Class::Fault`]: the pattern advises to start conservative, to set aside what is not
//! understood, and to retry only what is known to be worth it. What is worth it says so:
//!
//! ```
//! use std::time::Duration;
//! use streambreaker::prelude::*;
//!
//! async fn handler(text: &str) -> Result<u64, StepError> {
//!     let n = text.parse::<u64>()?;                       // an error here is a fault
//!     let body = std::fs::read("/nonexistent").transient_if(streambreaker::error::io_is_transient)?;
//!     Ok(n + body.len() as u64)
//! }
//! # fn main() {}
//! ```
//!
//! [`StepError`] does not implement [`std::error::Error`]: it could not beside the blanket `From`. It
//! converts into a [`BoxError`] instead.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Any error, boxed.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Why a unit of work was not done: on a [`StepError`] what is to be done next, in a fault event what
/// it was faulted for, in logs and metrics a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// It will not go better next time: set aside at once, no retry.
    Fault,
    /// It may go better next time: retried within the budget.
    Transient,
    /// The dependency asks for less: retried, not sooner than it says; does not trip the breaker.
    Throttled,
    /// Unhandled: the lane halts and the unit goes back to the stream.
    Fatal,
    /// User code panicked.
    Panic,
    /// The circuit of its resource was open.
    CircuitOpen,
    /// It was returned more often than its resource allows.
    Returned,
    /// It was delivered again and again without anybody deciding on it: it may kill the process.
    CrashLoop,
    /// User code dropped it undecided, twice.
    Dropped,
    /// An operator skipped it.
    Skipped,
}

impl Class {
    /// Its name in fault events, logs and metrics: `fault`, `circuit_open` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Fault => "fault",
            Class::Transient => "transient",
            Class::Throttled => "throttled",
            Class::Fatal => "fatal",
            Class::Panic => "panic",
            Class::CircuitOpen => "circuit_open",
            Class::Returned => "returned",
            Class::CrashLoop => "crash_loop",
            Class::Dropped => "dropped",
            Class::Skipped => "skipped",
        }
    }

    /// Whether trying again may help.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Class::Transient | Class::Throttled)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of a step: the original error, its class, and where it came from.
///
/// `Debug` and `Display` of it print class and type name, never the error's own text, which may hold
/// secrets; that is in [`message`](StepError::message), for fault events.
pub struct StepError(Box<Inner>);

struct Inner {
    class: Class,
    after: Option<Duration>,
    name: &'static str,
    at: Option<&'static Location<'static>>,
    source: BoxError,
}

impl StepError {
    #[track_caller]
    fn with<E: Into<BoxError>>(class: Class, after: Option<Duration>, error: E) -> Self {
        let at = Location::caller();
        let source: BoxError = error.into();
        match source.downcast::<Carried>() {
            Ok(carried) => {
                // a StepError that is classified again keeps its error and its origin
                let Carried(mut inner) = *carried;
                inner.class = class;
                inner.after = after;
                Self(inner)
            }
            Err(source) => Self(Box::new(Inner {
                class,
                after,
                name: short_name::<E>(),
                at: Some(at),
                source,
            })),
        }
    }

    /// An error of this class. Where a `Result` is at hand, [`ResultExt`] reads better.
    #[track_caller]
    pub fn new<E: Into<BoxError>>(class: Class, error: E) -> Self {
        Self::with(class, None, error)
    }

    /// A dependency that asks to come back after `after`.
    #[track_caller]
    pub fn throttled<E: Into<BoxError>>(after: Duration, error: E) -> Self {
        Self::with(Class::Throttled, Some(after), error)
    }

    /// What is to be done about it.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The same error in another class.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.0.class = class;
        self
    }

    /// The same error with another type name, for errors that are known by something better than
    /// their Rust type (`Timeout`, `DecodeError`).
    #[must_use]
    pub fn with_name(mut self, name: &'static str) -> Self {
        self.0.name = name;
        self
    }

    /// How long the dependency asked to be left alone.
    pub fn after(&self) -> Option<Duration> {
        self.0.after
    }

    /// The error's type, without its path.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The original error.
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0.source
    }

    /// The original error's own text and that of its sources. It may hold what a handler put into
    /// it: for fault events, not for logs.
    pub fn message(&self) -> String {
        let mut text = self.0.source.to_string();
        let mut cause = self.0.source.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }

    /// Where in the source code the error was made a `StepError`: the line of the `?`.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.0.at
    }
}

/// What becomes a [`StepError`] by `?`: every error type that is `Send + Sync + 'static`. Nobody has to name it, or can
/// implement it in another way.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not become a `StepError` by itself",
    label = "no `std::error::Error`: say what is to be done about it, as in `.fault()?` or `.transient()?`"
)]
pub trait Cause: Error + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<E: Error + Send + Sync + 'static> Cause for E {}

impl<E: Cause> From<E> for StepError {
    #[track_caller]
    fn from(error: E) -> Self {
        Self(Box::new(Inner {
            class: Class::Fault,
            after: None,
            name: short_name::<E>(),
            at: Some(Location::caller()),
            source: Box::new(error),
        }))
    }
}

impl From<StepError> for BoxError {
    fn from(error: StepError) -> BoxError {
        Box::new(Carried(error.0))
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepError({}, {})", self.0.class, self.0.name)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.class, self.0.name)
    }
}

/// A `StepError` on its way through a `BoxError`.
struct Carried(Box<Inner>);

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepError({}, {})", self.0.class, self.0.name)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.source, f)
    }
}

impl Error for Carried {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.source()
    }
}

/// `ParseIntError` of `core::num::error::ParseIntError`; the name that a fault event shows. Names that say nothing by
/// themselves keep their module: `io::Error`.
fn short_name<E: ?Sized>() -> &'static str {
    let full = std::any::type_name::<E>();
    let bare = full.split('<').next().unwrap_or(full);
    match bare {
        // how a text is held says nothing about what went wrong; nor does the box around an error
        "&str" | "alloc::string::String" | "alloc::borrow::Cow" => return "Text",
        "alloc::boxed::Box" => return "Boxed",
        _ => {}
    }
    let Some((path, last)) = bare.rsplit_once("::") else { return full };
    if last != "Error" {
        return &full[path.len() + 2..];
    }
    match path.rsplit("::").find(|part| *part != "error") {
        Some(module) => {
            let from = module.as_ptr() as usize - full.as_ptr() as usize;
            &full[from..]
        }
        None => last,
    }
}

/// Says of a failed `Result` what is to be done about it.
///
/// Works on any error that `Box<dyn Error + Send + Sync>` takes: error types, `anyhow::Error`, text, and
/// a [`StepError`], whose class it replaces.
pub trait ResultExt<T, E>: Sized {
    /// Trying again may help: [`Class::Transient`].
    ///
    /// # Errors
    /// The error, classified.
    fn transient(self) -> Result<T, StepError>;

    /// [`Class::Transient`] if `predicate` says so of the original error, else [`Class::Fault`].
    ///
    /// # Errors
    /// The error, classified.
    fn transient_if(self, predicate: impl FnOnce(&E) -> bool) -> Result<T, StepError>;

    /// The dependency asks to come back after `after`: [`Class::Throttled`].
    ///
    /// # Errors
    /// The error, classified.
    fn throttled(self, after: Duration) -> Result<T, StepError>;

    /// Nobody here can handle this: [`Class::Fatal`]; the unit goes back to the stream.
    ///
    /// # Errors
    /// The error, classified.
    fn fatal(self) -> Result<T, StepError>;

    /// Set aside: [`Class::Fault`]. What `?` does by itself for types that implement `Error`; needed
    /// for text and boxed errors, which do not.
    ///
    /// # Errors
    /// The error, classified.
    fn fault(self) -> Result<T, StepError>;
}

impl<T, E: Into<BoxError>> ResultExt<T, E> for Result<T, E> {
    #[track_caller]
    fn transient(self) -> Result<T, StepError> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => Err(StepError::with(Class::Transient, None, e)),
        }
    }

    #[track_caller]
    fn transient_if(self, predicate: impl FnOnce(&E) -> bool) -> Result<T, StepError> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => {
                let class = if predicate(&e) { Class::Transient } else { Class::Fault };
                Err(StepError::with(class, None, e))
            }
        }
    }

    #[track_caller]
    fn throttled(self, after: Duration) -> Result<T, StepError> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => Err(StepError::with(Class::Throttled, Some(after), e)),
        }
    }

    #[track_caller]
    fn fatal(self) -> Result<T, StepError> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => Err(StepError::with(Class::Fatal, None, e)),
        }
    }

    #[track_caller]
    fn fault(self) -> Result<T, StepError> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => Err(StepError::with(Class::Fault, None, e)),
        }
    }
}

/// Whether an I/O error speaks of a connection or of time: worth a retry. A missing file, a refused
/// permission or bad data are not.
pub fn io_is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::BrokenPipe
            | Kind::TimedOut
            | Kind::Interrupted
            | Kind::WouldBlock
            | Kind::UnexpectedEof
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable
    )
}

/// The class of an HTTP status: 429 is throttled; 408, 425 and 5xx are transient, but for 501 and
/// 505, which no retry mends; all else is a fault. (RFC 9110 section 15, RFC 6585 section 4.)
pub const fn http_status_class(status: u16) -> Class {
    match status {
        429 => Class::Throttled,
        501 | 505 => Class::Fault,
        408 | 425 | 500..=599 => Class::Transient,
        _ => Class::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no such customer: {0}")]
    struct Unknown(u32);

    fn step<T>(result: Result<T, StepError>) -> StepError {
        result.err().expect("an error")
    }

    #[test]
    fn any_error_is_a_fault_by_question_mark() {
        fn f() -> Result<(), StepError> {
            Err(Unknown(7))?;
            Ok(())
        }
        let e = step(f());
        assert_eq!((e.class(), e.name()), (Class::Fault, "Unknown"));
        assert_eq!(e.message(), "no such customer: 7");
        assert!(e.location().is_some_and(|l| l.file().ends_with("error.rs")));
        assert_eq!(format!("{e:?} {e}"), "StepError(fault, Unknown) fault (Unknown)");
    }

    #[test]
    fn all_kinds_of_errors_can_be_classified() {
        assert_eq!(step(Err::<(), _>("text").transient()).class(), Class::Transient);
        let boxed: BoxError = Box::new(Unknown(1));
        assert_eq!(step(Err::<(), _>(boxed).fatal()).class(), Class::Fatal);
        let e = step(Err::<(), _>(Unknown(1)).throttled(Duration::from_secs(2)));
        assert_eq!((e.class(), e.after()), (Class::Throttled, Some(Duration::from_secs(2))));
        assert_eq!(step(Err::<(), _>(Unknown(1)).transient_if(|u| u.0 == 2)).class(), Class::Fault);
        assert_eq!(
            step(Err::<(), _>(Unknown(2)).transient_if(|u| u.0 == 2)).class(),
            Class::Transient
        );
    }

    #[test]
    fn classifying_again_replaces_the_class_and_keeps_the_error() {
        let first = Err::<(), _>(Unknown(3)).throttled(Duration::from_secs(1));
        let e = step(first.fault());
        assert_eq!((e.class(), e.name(), e.after()), (Class::Fault, "Unknown", None));
        assert!(e.error().downcast_ref::<Unknown>().is_some());
    }

    #[test]
    fn names_are_short_and_say_something() {
        assert_eq!(
            step(Err::<(), _>(std::io::Error::other("x")).fault()).name(),
            "io::error::Error"
        );
        assert_eq!(step(Err::<(), _>(std::fmt::Error).fault()).name(), "fmt::Error");
        assert_eq!(step("x".parse::<u8>().fault()).name(), "ParseIntError");
        assert_eq!(step(Err::<(), _>("text").fault()).name(), "Text");
        assert_eq!(step(Err::<(), _>(String::from("text")).fault()).name(), "Text");
        let boxed: BoxError = Box::new(Unknown(1));
        assert_eq!(step(Err::<(), _>(boxed).fault()).name(), "Boxed");
    }

    #[test]
    fn statuses_have_classes() {
        assert_eq!(http_status_class(429), Class::Throttled);
        assert_eq!(http_status_class(503), Class::Transient);
        assert_eq!(http_status_class(404), Class::Fault);
        assert_eq!(http_status_class(501), Class::Fault);
    }
}
