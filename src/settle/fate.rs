//! How a record ends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a record ends in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It went through to the end.
    Done,
    /// A filter kept it out.
    Filtered,
    /// It was set aside, and its fault event is stored.
    Faulted,
    /// It goes back to the stream: its checkpoint does not pass.
    Returned,
}

impl Fate {
    /// Its name in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fate::Done => "done",
            Fate::Filtered => "filtered",
            Fate::Faulted => "faulted",
            Fate::Returned => "returned",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
