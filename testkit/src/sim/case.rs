//! A case: a seed, a scenario, and what was taken away from them while shrinking.

use std::fmt;
use std::str::FromStr;

use super::scenario::Scenario;

/// Names one run, for ever: the same case gives the same trace in every process.
///
/// Prints as `seed=7 scenario=keyed records=3 off=hang,panic kills=12`, and is read from that again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Case {
    /// Decides the log, the faults and the interleaving.
    pub seed: u64,
    /// What kind of processor runs, and what it goes through.
    pub scenario: Scenario,
    /// At most so many records.
    pub records: Option<usize>,
    /// At most so many shards.
    pub shards: Option<usize>,
    /// Where the process dies, an await for each life but the last; instead of what the seed says.
    pub lives: Option<Vec<u64>>,
    /// What does not go wrong.
    pub off: Vec<String>,
    /// Nothing goes wrong but the kills.
    pub calm: bool,
}

impl Case {
    /// A case as the seed has it.
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        Self {
            seed,
            scenario,
            records: None,
            shards: None,
            lives: None,
            off: Vec::new(),
            calm: false,
        }
    }

    /// The same, where nothing goes wrong but kills.
    #[must_use]
    pub fn calm(mut self) -> Self {
        self.calm = true;
        self
    }

    /// The same, where the process dies at these awaits, a life each; the last life is not killed.
    #[must_use]
    pub fn killed_at(mut self, awaits: impl IntoIterator<Item = u64>) -> Self {
        self.lives = Some(awaits.into_iter().collect());
        self
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} scenario={}", self.seed, self.scenario.name())?;
        if let Some(records) = self.records {
            write!(f, " records={records}")?;
        }
        if let Some(shards) = self.shards {
            write!(f, " shards={shards}")?;
        }
        if let Some(lives) = &self.lives {
            let lives: Vec<String> = lives.iter().map(u64::to_string).collect();
            write!(f, " kills={}", lives.join(","))?;
        }
        if !self.off.is_empty() {
            write!(f, " off={}", self.off.join(","))?;
        }
        if self.calm {
            write!(f, " calm=1")?;
        }
        Ok(())
    }
}

/// A text that names no case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseCaseError(String);

impl fmt::Display for ParseCaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no part of a case; a case is like `seed=7 scenario=plain`", self.0)
    }
}

impl std::error::Error for ParseCaseError {}

impl FromStr for Case {
    type Err = ParseCaseError;

    fn from_str(text: &str) -> Result<Self, ParseCaseError> {
        let mut case = Case::new(Scenario::Plain, 0);
        for word in text.split_whitespace() {
            let wrong = || ParseCaseError(word.to_owned());
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            match name {
                "seed" => case.seed = value.parse().map_err(|_| wrong())?,
                "scenario" => case.scenario = Scenario::named(value).ok_or_else(wrong)?,
                "records" => case.records = Some(value.parse().map_err(|_| wrong())?),
                "shards" => case.shards = Some(value.parse().map_err(|_| wrong())?),
                "kills" => {
                    let lives = value.split(',').filter(|at| !at.is_empty()).map(str::parse);
                    case.lives = Some(lives.collect::<Result<_, _>>().map_err(|_| wrong())?);
                }
                "off" => case.off = value.split(',').map(str::to_owned).collect(),
                "calm" => case.calm = value == "1",
                _ => return Err(wrong()),
            }
        }
        Ok(case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_as_it_is_printed() {
        let mut case = Case::new(Scenario::Bulk, 99);
        case.records = Some(3);
        case.shards = Some(1);
        case.lives = Some(vec![4, 5]);
        case.off = vec!["hang".into(), "lost".into()];
        case.calm = true;
        let text = case.to_string();
        assert_eq!(text.parse::<Case>(), Ok(case), "{text}");
        let none = Case { lives: Some(Vec::new()), ..Case::new(Scenario::Plain, 1) };
        assert_eq!(none.to_string().parse::<Case>(), Ok(none));
        assert!("seed=x".parse::<Case>().is_err());
    }
}
