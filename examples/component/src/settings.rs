//! The configuration file: what the component has to be told, and the crate's own [`Config`] under `engine`.
//!
//! Every field has a default, so an empty file is a configuration. Unknown fields are refused, and a mistake is
//! reported with its path and what would be accepted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use streambreaker::Config;
use streambreaker::config::{ConfigError, Span};

use crate::rules::Rules;

/// All that may be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The directory of events, checkpoint, database, faults and what is published; `target/orders` by default.
    pub data: PathBuf,
    /// The database of event store and view; `orders.db` in `data` by default.
    pub database: Option<PathBuf>,
    /// The lake; the directory `lake` in `data` by default.
    pub lake: Option<PathBuf>,
    /// Whether to wait for more at the end of the events; `true` by default.
    pub follow: bool,
    /// When an order is overdue.
    pub rules: RuleSettings,
    /// Logs.
    pub log: Log,
    /// Listeners for probes, Prometheus and operators.
    pub admin: Admin,
    /// What the crate itself may be told: limits, stages, resources.
    pub engine: Config,
}

/// When an order is overdue.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// How long an order may take; `2d` by default.
    pub overdue_after: Span,
    /// How late an event may arrive; `6h` by default.
    pub grace: Span,
    /// How long the events of an order are kept; `30d` by default. More than the two above.
    pub keep: Span,
}

/// Logs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What is logged, by target: `info`, or `warn,streambreaker=info`; `info` by default.
    pub filter: String,
    /// One JSON object a line, for machines; `false` by default.
    pub json: bool,
}

/// Listeners. Both are off by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where probes and Prometheus look: an address and port, from anywhere. It turns no switches.
    pub listen: Option<String>,
    /// A Unix socket for the switches, in the data directory unless it is an absolute path.
    pub socket: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: "target/orders".into(),
            database: None,
            lake: None,
            follow: true,
            rules: RuleSettings::default(),
            log: Log::default(),
            admin: Admin::default(),
            engine: Config::default(),
        }
    }
}

impl Default for RuleSettings {
    fn default() -> Self {
        let hours = |hours: u64| Span::from(Duration::from_secs(hours * 3_600));
        Self { overdue_after: hours(48), grace: hours(6), keep: hours(30 * 24) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), json: false }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("the configuration {path} is no TOML: {error}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        error: String,
    },
    /// A field is unknown, or its value cannot be used.
    #[error("the configuration {path}: {field}: {error}")]
    Field {
        /// The file.
        path: String,
        /// The field, from the top.
        field: String,
        /// What is accepted.
        error: String,
    },
    /// Values that do not go together.
    #[error("the configuration {path}: {error}")]
    Value {
        /// The file.
        path: String,
        /// Which, and what is accepted.
        error: ConfigError,
    },
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// With the path of the field, and what would be accepted.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text),
            Err(source) => Err(SettingsError::Read { path: name, source }),
        }
    }

    /// Reads the text of a file of this name.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(name: &str, text: &str) -> Result<Self, SettingsError> {
        let path = || name.to_owned();
        let syntax = |error: toml::de::Error| SettingsError::Syntax {
            path: path(),
            error: error.to_string().trim_end().to_owned(),
        };
        let toml = toml::Deserializer::parse(text).map_err(syntax)?;
        // serde alone says what is wrong, and not where
        let settings: Self =
            serde_path_to_error::deserialize(toml).map_err(|error| SettingsError::Field {
                path: path(),
                field: error.path().to_string(),
                error: error.inner().message().to_owned(),
            })?;
        let RuleSettings { overdue_after, grace, keep } = settings.rules;
        if keep.get() <= overdue_after.get() + grace.get() {
            let error =
                ConfigError::new("rules.keep", keep, "more than overdue_after and grace together");
            return Err(SettingsError::Value { path: path(), error });
        }
        Ok(settings)
    }

    /// The rules as configured.
    pub fn rules(&self) -> Rules {
        Rules { overdue_after: self.rules.overdue_after.get(), grace: self.rules.grace.get() }
    }

    /// Where the events come from.
    pub fn events(&self) -> PathBuf {
        self.data.join("events.ndjson")
    }

    /// How far they are settled.
    pub fn checkpoint(&self) -> PathBuf {
        self.data.join("orders.checkpoint")
    }

    /// The event store and the view.
    pub fn database(&self) -> PathBuf {
        self.database.clone().unwrap_or_else(|| self.data.join("orders.db"))
    }

    /// The lake.
    pub fn lake(&self) -> PathBuf {
        self.lake.clone().unwrap_or_else(|| self.data.join("lake"))
    }

    /// Where faults go.
    pub fn faults(&self) -> PathBuf {
        self.data.join("faults.ndjson")
    }

    /// Where what is published goes.
    pub fn published(&self) -> PathBuf {
        self.data.join("published.ndjson")
    }

    /// The socket of the switches.
    pub fn socket(&self) -> Option<PathBuf> {
        self.admin.socket.as_ref().map(|socket| self.data.join(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Settings::parse("c.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_file_that_comes_with_it_is_read_and_says_the_defaults() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
        let (read, default) = (Settings::load(&file).unwrap(), Settings::default());
        assert_eq!(read.rules(), default.rules());
        assert_eq!(read.rules.keep, default.rules.keep);
        assert_eq!((read.data, read.follow), (default.data, default.follow));
        assert_eq!((read.log.filter, read.log.json), (default.log.filter, default.log.json));
    }

    #[test]
    fn a_mistake_is_reported_with_its_path_and_what_is_accepted() {
        for (text, parts) in [
            ("[engine.processor]\ndrian = '5s'", &["engine.processor.drian", "`drain`"][..]),
            ("[engine.processor]\ndrain = 5", &["engine.processor.drain", "800ms"]),
            (
                "[engine.resources.store.retry]\nbase = 'x'",
                &["engine.resources.store.retry.base", "800ms"],
            ),
            (
                "[engine.pipelines.rules.stages.evaluate]\nn = 'many'",
                &["stages.evaluate.n", "usize"],
            ),
            ("[rules]\ngrace = '6'", &["rules.grace", "such as \"800ms\""]),
            ("[rules]\nkeep = '1d'", &["rules.keep is 1d", "more than overdue_after"]),
            ("dada = 'x'", &["c.toml: dada", "`data`"]),
            ("data = ", &["no TOML", "line 1"]),
        ] {
            let said = wrong(text);
            assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
        }
    }
}
