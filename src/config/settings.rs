//! The settings of a component as a configuration file holds them.
//!
//! Code sets defaults, configuration wins: every field is optional, and what is not named stays as the code
//! has it. Unknown fields are refused; names of pipelines, stages and resources that do not exist are refused by
//! `build()`, with those that do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::units::{Size, Span};
use crate::resource::{OnExhausted, OnOpen};

/// The configuration of a processor and its resources, for any format that serde reads. The chapter
/// [configuration](crate::guide::configuration) has all of it in one file.
///
/// ```
/// use streambreaker::config::Config;
///
/// let config: Config = serde_json::from_str(
///     r#"{
///         "processor": { "in_flight": { "records": 5000, "bytes": "32MiB" }, "drain": "25s" },
///         "pipelines": { "totals": { "stages": { "parallel": { "n": 32 } } } },
///         "resources": { "orders-table": { "timeout": "500ms", "concurrency": 16 } }
///     }"#,
/// )?;
/// assert_eq!(config.processor.drain.map(|span| span.to_string()), Some("25s".to_owned()));
///
/// let error = serde_json::from_str::<Config>(r#"{"processor": {"drian": "25s"}}"#).unwrap_err();
/// assert!(error.to_string().contains("unknown field `drian`"));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// serde says what is wrong and what is accepted, and not where in the file. The crate `serde_path_to_error` adds the
/// path, whatever the format:
///
/// ```
/// use streambreaker::Config;
///
/// let json = r#"{"resources": {"db": {"retry": {"cap": "5 seconds"}}}}"#;
/// let mut json = serde_json::Deserializer::from_str(json);
/// let error = serde_path_to_error::deserialize::<_, Config>(&mut json).unwrap_err();
/// assert_eq!(error.path().to_string(), "resources.db.retry.cap");
/// assert!(error.to_string().contains(r#"such as "800ms""#));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The processor's own settings.
    pub processor: ProcessorConfig,
    /// Settings of pipelines, by name.
    pub pipelines: BTreeMap<String, PipelineConfig>,
    /// Settings of resources, by name. A resource takes them by
    /// [`ResourceBuilder::config`](crate::resource::ResourceBuilder::config).
    pub resources: BTreeMap<String, ResourceConfig>,
}

/// Settings of a processor. Without a value, a field is what the builder was told, or its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessorConfig {
    /// In flight in a shard.
    pub in_flight: InFlightConfig,
    /// In flight in all shards together.
    pub in_flight_total: InFlightConfig,
    /// When to commit.
    pub commit: CommitConfig,
    /// The limit of a drain; `20s` by default.
    pub drain: Option<Span>,
    /// By when a record must be decided; the source's own by default.
    pub deadline: Option<Span>,
    /// Deliveries after which a record is given up; `10` by default.
    pub max_deliveries: Option<u32>,
    /// When the watchdog speaks: nothing was settled for so long although something is open; `1m` by default.
    pub stall_after: Option<Span>,
    /// The limit of one write to the fault sink; `10s` by default.
    pub fault_timeout: Option<Span>,
    /// The flood guard of all pipelines.
    pub flood_guard: Option<FloodConfig>,
}

/// A limit of what is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InFlightConfig {
    /// Records; `10000` a shard and `100000` in all by default.
    pub records: Option<usize>,
    /// Bytes; `64MiB` a shard and `512MiB` in all by default.
    pub bytes: Option<Size>,
}

/// When to commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitConfig {
    /// So long after something was settled; `1s` by default.
    pub every: Option<Span>,
    /// After so many records; `10000` by default.
    pub records: Option<u64>,
    /// The limit of one commit; `10s` by default.
    pub timeout: Option<Span>,
}

/// A flood guard. See [`FloodGuard`](crate::fault::FloodGuard).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FloodConfig {
    /// `false` switches it off; `true` by default.
    pub enabled: Option<bool>,
    /// The share of faults above which units are returned; `0.5` by default.
    pub ratio: Option<f64>,
    /// Over how many units; `1000` by default.
    pub window: Option<u32>,
    /// Not before so many; `100` by default.
    pub min: Option<u32>,
    /// The first cool-down; `30s` by default.
    pub cool_down: Option<Span>,
    /// The longest cool-down; `10m` by default.
    pub longest: Option<Span>,
}

/// Settings of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// `false` disables it: it takes no part in commits; `true` by default.
    pub enabled: Option<bool>,
    /// Its flood guard; the processor's by default.
    pub flood_guard: Option<FloodConfig>,
    /// Settings of its stages, by name.
    pub stages: BTreeMap<String, StageConfig>,
}

/// Settings of one stage. By default each is what the code says of the stage; `build()` refuses one that the stage does
/// not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageConfig {
    /// Units at once of a `parallel`, `parallel_by_key` or `with`; requests in flight of a `bulk_write` or `publish`.
    pub n: Option<usize>,
    /// Of a `rate_limit`.
    pub rate: Option<RateConfig>,
    /// Items of a window (`group_by`, `compact`) or of a request (`bulk_write`, `publish`).
    pub items: Option<usize>,
    /// Bytes of a window or of a request.
    pub bytes: Option<Size>,
    /// How long a window waits for more.
    pub linger: Option<Span>,
}

/// A rate: so many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// So many.
    pub n: u32,
    /// In so long; `1s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Span>,
    /// How many at once after a pause; 10 ms worth by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Settings of a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceConfig {
    /// Of one attempt. It has no default: the code or the configuration says it.
    pub timeout: Option<Span>,
    /// When an attempt is tried again.
    pub retry: RetryConfig,
    /// A budget of retries for all units together.
    pub retry_quota: QuotaConfig,
    /// A breaker; only for a resource to which the code gives one, or where `ratio` and `on_open` are named.
    pub breaker: BreakerConfig,
    /// A rate for the whole process; none by default.
    pub rate: Option<RateConfig>,
    /// Attempts at once, in the whole process; no limit by default.
    pub concurrency: Option<usize>,
    /// What becomes of a unit whose retries are used up, `return` or `fault`; `return` by default.
    pub on_exhausted: Option<OnExhausted>,
    /// After so many returns a unit is faulted; never by default.
    pub return_limit: Option<u32>,
    /// How long a unit may wait for permit or rate; `30s` by default.
    pub max_wait: Option<Span>,
}

/// When an attempt is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts in all, the first one included; `4` by default.
    pub max_attempts: Option<u32>,
    /// The second retry's ceiling, which doubles from there; `100ms` by default.
    pub base: Option<Span>,
    /// The highest ceiling; `5s` by default.
    pub cap: Option<Span>,
    /// The first retry's ceiling; `50ms` by default.
    pub quick: Option<Span>,
    /// No attempt starts later than this after the first; no limit by default.
    pub elapsed: Option<Span>,
}

/// A budget of retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaConfig {
    /// `false` switches it off; `true` by default.
    pub enabled: Option<bool>,
    /// Retries as a share of successes; `0.2` by default.
    pub ratio: Option<f64>,
    /// So many a second in any case; `10` by default.
    pub floor: Option<u32>,
    /// So many can be saved up; `100` by default.
    pub reserve: Option<u32>,
}

/// A breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// `false` takes the breaker away that the code gave; `true` by default.
    pub enabled: Option<bool>,
    /// The share of failed calls at which it opens. It has no default: the code or the configuration says it.
    pub ratio: Option<f64>,
    /// How far back calls count; `10s` by default.
    pub window: Option<Span>,
    /// Not before so many calls; `20` by default.
    pub min_calls: Option<u32>,
    /// How long it stays open; `30s` by default.
    pub cool_down: Option<Span>,
    /// Probes when half-open; `3` by default.
    pub half_open: Option<u32>,
    /// What becomes of units while it is open: `fault`, `pause` or `siphon`. It must be said where units are returned.
    pub on_open: Option<OnOpen>,
}
