//! What `build` refuses: each mistake with its field and what would be accepted.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ProcessorBuilder;
use crate::config::{ConfigError, StageConfig};
use crate::flow::{StagePlan, named_stages};
use crate::resource::Resource;
use crate::source::Caps;

impl ProcessorBuilder {
    pub(super) fn check(&self, caps: Option<&Caps>, mistakes: &mut Vec<ConfigError>) {
        let mut refuse = |field: &str, found: String, accepted: &str| {
            let field = format!("processor `{}`: {field}", self.name);
            mistakes.push(ConfigError::new(field, found, accepted));
        };
        if self.name.trim().is_empty() {
            refuse("name", format!("`{}`", self.name.escape_debug()), "a text that is not empty");
        }
        if cfg!(panic = "abort") {
            refuse(
                "panic strategy",
                "`abort`".to_owned(),
                "`unwind`: a panic in a handler is a fault of its unit, not the end of the process",
            );
        }
        match &self.faults {
            None => refuse(
                "faults",
                "missing".to_owned(),
                "a sink of fault events, for example `file::faults(path)` or `memory::faults()`",
            ),
            Some(sink) => {
                let limits = sink.limits();
                if limits.items == 0 || limits.bytes == 0 {
                    refuse(
                        "limits of the fault sink",
                        format!("{limits:?}"),
                        "at least one of each",
                    );
                }
                if let (Some(to), Some(caps)) = (sink.stream(), caps) {
                    if to == caps.stream {
                        refuse(
                            "faults",
                            format!("the stream `{to}`, which it also reads"),
                            "another stream: a processor that reads its own faults never ends",
                        );
                    }
                }
            }
        }
        if self.pipelines.is_empty() {
            refuse("pipelines", "none".to_owned(), "at least one");
        }
        let mut names = BTreeSet::new();
        for spec in &self.pipelines {
            for name in std::iter::once(&spec.name).chain(&spec.formerly) {
                if name.trim().is_empty() || name.chars().any(char::is_control) {
                    let found = format!("`{}`", name.escape_debug());
                    refuse("name of a pipeline", found, "a text without control characters");
                }
                if !names.insert(name) {
                    let found = format!("`{name}`, twice");
                    refuse("name of a pipeline", found, "a name that no other pipeline has or had");
                }
            }
        }
        for (field, limit) in [("in_flight", self.limits), ("in_flight_total", self.total)] {
            if limit.records == 0 || limit.bytes == 0 {
                let found = format!("{} records, {} bytes", limit.records, limit.bytes);
                refuse(field, found, "at least one of each");
            }
        }
        if let Some(theirs) = caps.and_then(|caps| caps.unsettled) {
            let most = self.limits.records.min(self.total.records) as u64;
            if most > theirs.most {
                refuse(
                    "in_flight",
                    format!("{most} records, of which the source hands out {}", theirs.most),
                    &format!(
                        "at most {}, by `.in_flight(..)`, or a larger `{}` of the source: beyond it nothing more comes, \
                         and a stage that waits for more waits in vain",
                        theirs.most, theirs.setting
                    ),
                );
            }
        }
        for (field, span) in [
            ("commit interval", self.commit.every),
            ("commit_timeout", self.commit.timeout),
            ("drain", self.drain),
            ("stall_after", self.stall),
            ("fault_timeout", self.fault_timeout),
            ("deadline", self.deadline.unwrap_or(Duration::MAX)),
        ] {
            if span.is_zero() {
                refuse(field, "zero".to_owned(), "a span above zero");
            }
        }
        if self.commit.records == 0 {
            refuse("commit records", "0".to_owned(), "a number from 1");
        }
        if self.max_deliveries < 2 {
            refuse("max_deliveries", self.max_deliveries.to_string(), "a number from 2");
        }
    }

    pub(super) fn enabled(&self, mistakes: &mut Vec<ConfigError>) -> BTreeSet<String> {
        let all: Vec<&str> = self.pipelines.iter().map(|spec| &*spec.name).collect();
        let find = |name: &str| {
            self.pipelines
                .iter()
                .find(|spec| spec.name == name || spec.formerly.iter().any(|old| old == name))
                .map(|spec| spec.name.clone())
        };
        for name in self.only.iter().flatten().chain(&self.without) {
            if find(name).is_none() {
                mistakes.push(ConfigError::new(
                    format!("processor `{}`: enabled or disabled pipeline", self.name),
                    format!("`{}`, which is unknown", name.escape_debug()),
                    format!("one of {}", all.join(", ")),
                ));
            }
        }
        let only: Option<BTreeSet<String>> =
            self.only.as_ref().map(|only| only.iter().filter_map(|name| find(name)).collect());
        let without: BTreeSet<String> = self.without.iter().filter_map(|name| find(name)).collect();
        let enabled: BTreeSet<String> = all
            .iter()
            .copied()
            .filter(|name| {
                let config = self.config.pipelines.get(*name).and_then(|config| config.enabled);
                config.is_none_or(|enabled| enabled)
            })
            .filter(|name| only.as_ref().is_none_or(|only| only.contains(*name)))
            .filter(|name| !without.contains(*name))
            .map(str::to_owned)
            .collect();
        if enabled.is_empty() && !all.is_empty() {
            // every record would be passed by, and committed
            mistakes.push(ConfigError::new(
                format!("processor `{}`: enabled pipelines", self.name),
                "none",
                format!("at least one of {}; to stop all, do not run it", all.join(", ")),
            ));
        }
        enabled
    }

    /// What the configuration says of the stages of a pipeline, in their order.
    pub(super) fn stage_settings(
        &self,
        pipeline: &str,
        plan: &[StagePlan],
        mistakes: &mut Vec<ConfigError>,
    ) -> Vec<StageConfig> {
        let names: Vec<String> = named_stages(plan).into_iter().map(|stage| stage.name).collect();
        let Some(config) = self.config.pipelines.get(pipeline) else { return Vec::new() };
        for name in config.stages.keys().filter(|name| !names.contains(name)) {
            mistakes.push(ConfigError::new(
                format!("pipelines.{pipeline}.stages"),
                format!("`{}`, which is unknown", name.escape_debug()),
                format!("one of {}", names.join(", ")),
            ));
        }
        for (name, stage) in names.iter().zip(plan) {
            let set = config.stages.get(name).map(StageConfig::named).unwrap_or_default();
            for field in set.into_iter().filter(|field| !stage.settings.contains(field)) {
                mistakes.push(ConfigError::new(
                    format!("pipelines.{pipeline}.stages.{name}"),
                    format!("`{field}`, which a `{}` does not have", stage.combinator),
                    match stage.settings {
                        [] => "no settings".to_owned(),
                        has => has.join(", "),
                    },
                ));
            }
        }
        names.iter().map(|name| config.stages.get(name).copied().unwrap_or_default()).collect()
    }

    /// Names in the configuration that nothing here has.
    pub(super) fn unknown_names(&self, resources: &[Resource], mistakes: &mut Vec<ConfigError>) {
        let pipelines: Vec<&str> = self.pipelines.iter().map(|spec| &*spec.name).collect();
        let known: Vec<&str> = resources.iter().map(Resource::name).collect();
        let mut check = |field: &str, name: &str, known: &[&str]| {
            if !known.contains(&name) {
                mistakes.push(ConfigError::new(
                    field,
                    format!("`{}`, which is unknown", name.escape_debug()),
                    format!("one of {}", known.join(", ")),
                ));
            }
        };
        for name in self.config.pipelines.keys() {
            check("pipelines", name, &pipelines);
        }
        for name in self.config.resources.keys() {
            check("resources", name, &known);
        }
        for (name, given) in &self.config.resources {
            // it stands in the file, and nothing would come of it
            if resources.iter().any(|found| found.name() == name && !found.has_taken(given)) {
                mistakes.push(ConfigError::new(
                    format!("resources.{name}"),
                    "not what the resource was built with",
                    "`.config(&config)` as the last call of its builder, with the same configuration",
                ));
            }
        }
    }
}
