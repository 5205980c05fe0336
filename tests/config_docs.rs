//! `docs/configuration.md` says of every field what it is by default, and so does its doc comment: both are compared with
//! the code here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use streambreaker::config::{
    BreakerConfig, CommitConfig, Config, FloodConfig, InFlightConfig, PipelineConfig,
    ProcessorConfig, QuotaConfig, RateConfig, ResourceConfig, RetryConfig, Size, Span, StageConfig,
};
use streambreaker::prelude::*;
use streambreaker::{BuildError, memory};
use toml::{Table, Value};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The file in the chapter.
fn documented() -> String {
    let chapter = read("docs/configuration.md");
    let (_, file) = chapter.split_once("```toml\n").expect("a file");
    assert!(!file.contains("```toml"), "which of them?");
    file.split_once("```").expect("an end").0.to_owned()
}

/// The same with the fields that have no default.
fn uncommented(file: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("# ") {
        Some(field) if field.contains(" = ") => format!("{field}\n"),
        _ => format!("{line}\n"),
    };
    file.lines().map(line).collect()
}

/// Each value by its path.
fn fields(text: &str) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: Value, all: &mut BTreeMap<String, Value>) {
        match value {
            Value::Table(table) => table.into_iter().for_each(|(key, value)| {
                walk(&format!("{path}{}{key}", if path.is_empty() { "" } else { "/" }), value, all)
            }),
            value => drop(all.insert(path.to_owned(), value)),
        }
    }
    let mut all = BTreeMap::new();
    walk("", Value::Table(text.parse::<Table>().unwrap()), &mut all);
    all
}

/// These fields as a configuration.
fn config(fields: &BTreeMap<String, Value>) -> Config {
    let mut root = Table::new();
    for (path, value) in fields {
        let (above, last) = path.rsplit_once('/').unwrap();
        let mut table = &mut root;
        for key in above.split('/') {
            let next = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            table = next.as_table_mut().unwrap();
        }
        table.insert(last.to_owned(), value.clone());
    }
    Config::deserialize(root).unwrap()
}

/// The plan of a component that says nothing but what it has to, with what is configured.
fn plan(config: &Config) -> Result<String, BuildError> {
    let orders = Resource::builder("orders-table")
        .timeout(Duration::from_secs(1))
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
        .config(config)
        .build()
        .unwrap();
    let processor = Processor::builder("order-totals")
        .faults(memory::faults())
        .pipeline("totals", move |flow| {
            flow.json::<u64>()
                .rate_limit(Rate::per_second(1_000))
                .group_by(|n| **n % 2, Window::items(100))
                .parallel(16, &orders, async |_| Ok(()))
        })
        // so that the other one may be switched off
        .pipeline("other", |flow| flow.json::<u64>())
        .config(config.clone())
        .build()?;
    Ok(processor.explain())
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let defaults = fields(&documented());
    assert!(defaults.len() > 30, "{defaults:?}");
    assert_eq!(plan(&config(&defaults)).unwrap(), plan(&Config::default()).unwrap());
}

/// Another value of the same kind.
fn other(path: &str, value: &Value) -> Value {
    match value {
        Value::Boolean(on) => Value::Boolean(!on),
        Value::Integer(n) => Value::Integer(n + 1),
        Value::Float(share) => Value::Float(share / 2.0),
        Value::String(text) => Value::String(match (text.parse::<Span>(), text.parse::<Size>()) {
            (Ok(span), _) => Span::from(span.get() * 2).to_string(),
            (_, Ok(size)) => Size::from(size.get() * 2).to_string(),
            _ if text == "return" => "fault".to_owned(),
            _ => panic!("{path}: what else than {text}?"),
        }),
        value => panic!("{path}: {value:?}"),
    }
}

#[test]
fn each_field_changes_the_plan() {
    let file = documented();
    let (defaults, all) = (fields(&file), fields(&uncommented(&file)));
    let unchanged = plan(&Config::default()).unwrap();
    for (path, value) in &all {
        let (mut without, mut with) = (BTreeMap::new(), BTreeMap::new());
        // the others of a rate need one that there is
        if let Some((of, "per" | "burst")) = path.rsplit_once("/rate/") {
            let n = format!("{of}/rate/n");
            without.insert(n.clone(), all[&n].clone());
            with.insert(n.clone(), all[&n].clone());
        }
        let changed = if defaults.contains_key(path) { other(path, value) } else { value.clone() };
        with.insert(path.clone(), changed.clone());
        let without = match without.is_empty() {
            true => unchanged.clone(),
            false => plan(&config(&without)).unwrap(),
        };
        let with =
            plan(&config(&with)).unwrap_or_else(|error| panic!("{path} = {changed:?}: {error}"));
        assert_ne!(with, without, "{path} = {changed:?} changes nothing in the plan");
    }
}

/// A configuration that says everything: a field that is added has to be added here.
fn everything() -> Config {
    let span = Some(Span::from(Duration::from_secs(1)));
    let in_flight = InFlightConfig { records: Some(1), bytes: Some(Size::from(1)) };
    let flood_guard = FloodConfig {
        enabled: Some(true),
        ratio: Some(0.5),
        window: Some(1),
        min: Some(1),
        cool_down: span,
        longest: span,
    };
    let rate = Some(RateConfig { n: 1, per: span, burst: Some(1) });
    let stage =
        StageConfig { n: Some(1), rate, items: Some(1), bytes: Some(Size::from(1)), linger: span };
    let pipeline = PipelineConfig {
        enabled: Some(true),
        flood_guard: Some(flood_guard),
        stages: [("stage".to_owned(), stage)].into(),
    };
    let resource = ResourceConfig {
        timeout: span,
        retry: RetryConfig {
            max_attempts: Some(1),
            base: span,
            cap: span,
            quick: span,
            elapsed: span,
        },
        retry_quota: QuotaConfig {
            enabled: Some(true),
            ratio: Some(0.5),
            floor: Some(1),
            reserve: Some(1),
        },
        breaker: BreakerConfig {
            enabled: Some(true),
            ratio: Some(0.5),
            window: span,
            min_calls: Some(1),
            cool_down: span,
            half_open: Some(1),
            on_open: Some(OnOpen::Pause),
        },
        rate,
        concurrency: Some(1),
        on_exhausted: Some(OnExhausted::Fault),
        return_limit: Some(1),
        max_wait: span,
    };
    Config {
        processor: ProcessorConfig {
            in_flight,
            in_flight_total: in_flight,
            commit: CommitConfig { every: span, records: Some(1), timeout: span },
            drain: span,
            deadline: span,
            max_deliveries: Some(2),
            stall_after: span,
            fault_timeout: span,
            flood_guard: Some(flood_guard),
        },
        pipelines: [("pipeline".to_owned(), pipeline)].into(),
        resources: [("resource".to_owned(), resource)].into(),
    }
}

/// A path without the names that the component gives.
fn general(path: &str) -> String {
    let keys: Vec<&str> = path.split('/').collect();
    match keys[..] {
        ["pipelines", _, "stages", _, ref field @ ..] => format!("stages/{}", field.join("/")),
        ["pipelines", _, ref field @ ..] => format!("pipelines/{}", field.join("/")),
        ["resources", _, ref field @ ..] => format!("resources/{}", field.join("/")),
        _ => path.to_owned(),
    }
}

#[test]
fn the_document_has_every_field_and_no_other() {
    fn walk(path: &str, value: &Json, all: &mut BTreeSet<String>) {
        match value {
            Json::Object(map) => {
                map.iter().for_each(|(key, value)| walk(&format!("{path}/{key}"), value, all))
            }
            _ => drop(all.insert(general(path.trim_start_matches('/')))),
        }
    }
    let mut known = BTreeSet::new();
    walk("", &serde_json::to_value(everything()).unwrap(), &mut known);
    // of a pipeline's own guard the fields are those of the processor's
    known.retain(|path| !path.starts_with("pipelines/flood_guard/"));
    let mut documented: BTreeSet<String> =
        fields(&uncommented(&documented())).keys().map(|path| general(path)).collect();
    assert!(documented.remove("pipelines/flood_guard/ratio"));
    assert_eq!(documented, known);
}

/// `Struct` and `field` with the doc comment, of the source of the configuration.
fn comments() -> BTreeMap<(String, String), String> {
    let (mut all, mut of, mut comment) = (BTreeMap::new(), String::new(), String::new());
    for line in read("src/config/settings.rs").lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment = format!("{comment} {text}");
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            of = rest.split(' ').next().unwrap().to_owned();
            comment.clear();
        } else if let Some((field, _)) =
            line.strip_prefix("pub ").and_then(|rest| rest.split_once(':'))
        {
            all.insert((of.clone(), field.to_owned()), std::mem::take(&mut comment));
        }
    }
    all
}

#[test]
fn doc_comments_say_the_same_defaults() {
    let comments = comments();
    let of = |path: &str| {
        let (above, field) = path.rsplit_once('/').unwrap();
        let last = above.rsplit('/').next().unwrap();
        let name = match (above, last) {
            (_, "in_flight" | "in_flight_total") => "InFlightConfig",
            (_, "commit") => "CommitConfig",
            (_, "flood_guard") => "FloodConfig",
            (_, "retry") => "RetryConfig",
            (_, "retry_quota") => "QuotaConfig",
            (_, "breaker") => "BreakerConfig",
            (_, "rate") => "RateConfig",
            ("processor", _) => "ProcessorConfig",
            ("pipelines", _) => "PipelineConfig",
            ("resources", _) => "ResourceConfig",
            ("stages", _) => "StageConfig",
            other => panic!("{other:?}"),
        };
        (name.to_owned(), field.to_owned())
    };
    let (file, mut said) = (documented(), BTreeSet::new());
    for (path, value) in fields(&file) {
        let field = of(&general(&path));
        let value = match value {
            Value::String(text) => text,
            Value::Integer(n) => n.to_string(),
            Value::Float(share) => share.to_string(),
            Value::Boolean(on) => on.to_string(),
            other => panic!("{path}: {other:?}"),
        };
        let comment = &comments[&field];
        assert!(
            comment.contains(&format!("`{value}`")) && comment.contains("by default"),
            "{path} is {value} by default:{comment}"
        );
        said.insert(field);
    }
    for path in fields(&uncommented(&file)).keys() {
        let field = of(&general(path));
        // `per` is optional in a rate, which is optional itself
        if !said.contains(&field) && field.1 != "per" {
            let comment = &comments[&field];
            assert!(!comment.contains("` by default"), "{path} has no default:{comment}");
        }
    }
}
