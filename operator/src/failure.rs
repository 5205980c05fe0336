//! How a command ends.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

use streambreaker::BoxError;
use streambreaker_lake::LakeError;

/// How a command ended: what the process should end with.
///
/// | code | meaning |
/// |---|---|
/// | 0 | done as asked; in a dry run: looked at as asked |
/// | 1 | it could not be done: a store, a source or the running process failed, or is not there |
/// | 2 | the command cannot be used: an option, a name, a missing lake; it says what is accepted |
/// | 3 | done in part: records or faults are left for the next time, or it was stopped |
/// | 4 | done, and the answer is no: nothing found, the lake is not sound, faults failed again or were refused |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Exit {
    /// Done as asked.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The command cannot be used.
    Unusable = 2,
    /// Done in part.
    Partly = 3,
    /// Done, and the answer is no.
    No = 4,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Of two, the one that says more: failed, then no, then partly.
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Exit::Done => 0,
            Exit::Partly => 1,
            Exit::No => 2,
            Exit::Unusable => 3,
            Exit::Failed => 4,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command was not done. Prints with its causes.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) source: Option<BoxError>,
}

impl Failure {
    /// The command cannot be used as it is.
    pub(crate) fn unusable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unusable, message: message.into(), source: None }
    }

    /// It could not be done.
    pub(crate) fn failed(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        Self { exit: Exit::Failed, message: error.to_string(), source: causes(&*error) }
    }

    /// A source could not be read: as the lake says it, where it was the lake.
    pub(crate) fn of_source(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(at) = cause {
            if let Some(lake) = at.downcast_ref::<LakeError>() {
                let (exit, message) = (exit_of(lake), lake.to_string());
                return Self { exit, message, source: causes(lake) };
            }
            cause = at.source();
        }
        Self::failed(error)
    }

    /// It could not be done, as `message` says.
    pub(crate) fn because(message: impl Into<String>, error: impl Into<BoxError>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), source: Some(error.into()) }
    }

    /// Nothing was found.
    pub(crate) fn no(message: impl Into<String>) -> Self {
        Self { exit: Exit::No, message: message.into(), source: None }
    }

    /// Standard output could not be written to. Whoever closed it has read enough.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Self { exit: Exit::Done, message: String::new(), source: None }
            }
            _ => Self::because("standard output cannot be written to", error),
        }
    }
}

/// The causes of an error whose own text is said already, as an error that can be kept.
fn causes(error: &dyn Error) -> Option<BoxError> {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    (!text.is_empty()).then(|| text.into())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut cause = self.source.as_deref().map(|error| error as &dyn Error);
        while let Some(error) = cause {
            let text = error.to_string();
            // errors that are transparent say what their causes say
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// How a command ends that the lake ended.
fn exit_of(error: &LakeError) -> Exit {
    match error {
        LakeError::Absent(_) | LakeError::Name(_) | LakeError::OtherSelection(_) => Exit::Unusable,
        _ => Exit::Failed,
    }
}

impl From<LakeError> for Failure {
    fn from(error: LakeError) -> Self {
        Self { exit: exit_of(&error), ..Self::failed(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_its_causes_once() {
        let inner = io::Error::other("connection refused");
        let failure = Failure::because("nobody answers", inner);
        assert_eq!(failure.to_string(), "nobody answers: connection refused");
        let absent = Failure::from(LakeError::Absent("x".into()));
        assert_eq!(absent.exit, Exit::Unusable);
        assert_eq!(Failure::output(io::ErrorKind::BrokenPipe.into()).exit, Exit::Done);
    }
}
