//! Why a processor cannot be built.

use std::fmt;

use crate::config::ConfigError;

/// A processor that cannot be built: every mistake at once.
pub struct BuildError {
    pub(super) mistakes: Vec<ConfigError>,
    pub(super) over_budget: Vec<String>,
}

impl BuildError {
    /// The mistakes, each with the field and what would be accepted.
    pub fn mistakes(&self) -> &[ConfigError] {
        &self.mistakes
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for line in
            self.mistakes.iter().map(ToString::to_string).chain(self.over_budget.iter().cloned())
        {
            if !first {
                writeln!(f)?;
            }
            first = false;
            f.write_str(&line)?;
        }
        Ok(())
    }
}

/// As [`Display`](fmt::Display): it is what `main` and `unwrap` print, and it is written for people.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for BuildError {}
