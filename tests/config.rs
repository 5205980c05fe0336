//! Configuration: code sets defaults, configuration wins, mistakes name the field and what is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streambreaker::config::Config;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::source::{Acknowledge, Caps, Change, Source, SourceError};
use streambreaker::{BuildError, Processor};

fn config(json: &str) -> Config {
    serde_json::from_str(json).unwrap()
}

fn build(config: Config) -> Result<Processor, BuildError> {
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .config(&config)
        .build()
        .unwrap();
    Processor::builder("p")
        .faults(memory::faults())
        .config(config)
        .pipeline("totals", move |flow| {
            flow.json::<u64>()
                .group_by(|n| **n % 2, Window::items(10))
                .parallel(4, &db, async |_| Ok(()))
                .named("write")
        })
        .pipeline("other", |flow| flow.json::<u64>())
        .build()
}

#[test]
fn an_empty_configuration_changes_nothing() {
    let text = build(Config::default()).unwrap().explain();
    assert!(text.contains("10000 records and 64MiB a shard"), "{text}");
    assert!(text.contains("write (4 at once, `db`)"), "{text}");
    assert!(text.contains("drains within 20s"), "{text}");
    let guard = "above 50 % of the last 1000 units, from 100 on; cools down for 30s to 10m";
    assert_eq!(text.matches(guard).count(), 2, "{text}");
    assert!(text.contains("attempt: within 1s; waits up to 30s for its turn"), "{text}");
    // nothing of a resource is printed as Rust would: it is read by people
    assert!(!text.contains("Some("), "{text}");
}

#[test]
fn configuration_wins_over_code() {
    let text = build(config(
        r#"{
            "processor": {"in_flight": {"records": 500}, "drain": "25s", "commit": {"every": "250ms"}},
            "pipelines": {
                "totals": {"stages": {"write": {"n": 32}, "group_by": {"linger": "2s"}}},
                "other": {"enabled": false, "flood_guard": {"enabled": false}}
            },
            "resources": {"db": {"timeout": "3s", "retry": {"max_attempts": 2}}}
        }"#,
    ))
    .unwrap()
    .explain();
    for part in [
        "500 records and 64MiB a shard",
        "commits every 250ms",
        "drains within 25s",
        "write (32 at once, `db`)",
        "2 x 3000 ms",
        "2000 ms",
        "`other` (disabled)",
        "flood guard: off",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_width_of_a_stage_is_what_the_configuration_says() {
    let stream = Stream::new("numbers", 1);
    for n in 0..50u64 {
        stream.push(n.to_string());
    }
    stream.close();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (now.clone(), most.clone());
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .config(config(r#"{"pipelines": {"all": {"stages": {"parallel": {"n": 7}}}}}"#))
        .pipeline("all", move |flow| {
            let (now, most) = (inside.clone(), peak.clone());
            flow.json::<u64>().parallel(2, &db, async move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        })
        .build()
        .unwrap();
    processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_stage_is_what_the_configuration_says() {
    let began = tokio::time::Instant::now();
    let processor = Processor::builder("p")
        .source(memory::stream((0..21u64).map(|n| n.to_string())))
        .faults(memory::faults())
        .config(config(
            r#"{"pipelines": {"all": {"stages": {"rate_limit": {"rate": {"n": 10, "burst": 1}}}}}}"#,
        ))
        .pipeline("all", |flow| flow.json::<u64>().rate_limit(Rate::per_second(100_000)))
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 21);
    // 21 at ten a second, less the two that a burst of one lets go at once
    assert_eq!(began.elapsed().as_millis(), 1_901);
}

#[test]
fn mistakes_name_the_field_and_what_is_accepted() {
    let error = build(config(
        r#"{
            "processor": {"in_flight": {"records": 0}, "max_deliveries": 1},
            "pipelines": {
                "totls": {},
                "totals": {"stages": {"parallel": {"n": 4}}, "flood_guard": {"ratio": 7}},
                "other": {"stages": {}}
            },
            "resources": {"bd": {"timeout": "1s"}}
        }"#,
    ))
    .unwrap_err()
    .to_string();
    for part in [
        "in_flight is 0 records",
        "max_deliveries is 1; accepted: a number from 2",
        "pipelines is `totls`, which is unknown; accepted: one of totals, other",
        "pipelines.totals.stages is `parallel`, which is unknown; accepted: one of json, group_by, write",
        "flood guard: ratio is 7",
        "resources is `bd`, which is unknown; accepted: one of db",
    ] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
    let error = build(config(r#"{"pipelines": {"totals": {"stages": {"write": {"n": 0}}}}}"#));
    assert!(
        error.unwrap_err().to_string().contains("units at once is 0; accepted: a number from 1")
    );
}

#[test]
fn unknown_fields_and_bare_numbers_are_refused() {
    for (json, part) in [
        (r#"{"processor": {"drain": 20}}"#, "800ms"),
        (r#"{"processor": {"drain": "20"}}"#, "`20` is not a duration"),
        (r#"{"processor": {"in_flight": {"bytes": "1mb"}}}"#, "1MiB"),
        (r#"{"resources": {"db": {"time_out": "1s"}}}"#, "unknown field `time_out`"),
        (r#"{"resources": {"db": {"on_exhausted": "panic"}}}"#, "`return`"),
    ] {
        let error = serde_json::from_str::<Config>(json).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_breaker_in_the_configuration_needs_a_ratio_where_the_code_has_none() {
    let settings = config(r#"{"resources": {"db": {"breaker": {"min_calls": 5}}}}"#);
    let error = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .config(&settings)
        .build()
        .unwrap_err()
        .to_string();
    assert!(error.contains("ratio"), "{error}");
    let settings =
        config(r#"{"resources": {"db": {"breaker": {"ratio": 0.5, "on_open": "pause"}}}}"#);
    assert!(
        Resource::builder("db").timeout(Duration::from_secs(1)).config(&settings).build().is_ok()
    );
}

#[test]
fn what_is_written_is_read_back() {
    let settings = config(
        r#"{"processor": {"drain": "25s"}, "resources": {"db": {"rate": {"n": 5, "per": "1m"}}}}"#,
    );
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), settings);
}

#[test]
fn t2_a_plan_above_the_deadline_is_refused_with_a_table() {
    let db = Resource::builder("db").timeout(Duration::from_secs(5)).build().unwrap();
    let error = Processor::builder("p")
        .faults(memory::faults())
        .deadline(Duration::from_secs(10))
        .pipeline("slow", move |flow| flow.json::<u64>().call(&db, async |_| Ok(())))
        .build()
        .unwrap_err()
        .to_string();
    for part in ["the deadline is 10s", "pipeline `slow`", "call", "db", "4 x 5000 ms"] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
}

/// A source that hands out ten records, and no more before one is settled.
struct Ten;

#[async_trait::async_trait]
impl Source for Ten {
    type Reader = memory::Reader;
    type Acker = memory::Acker;

    fn caps(&self) -> Caps {
        Caps::new("ten", "ten", Acknowledge::Each).with_most_unsettled(10, "prefetch")
    }

    async fn next(&mut self) -> Result<Option<Change<memory::Reader, memory::Acker>>, SourceError> {
        Ok(None)
    }
}

#[test]
fn more_in_flight_than_the_source_hands_out_is_refused_by_the_name_of_its_setting() {
    let build = |records| {
        Processor::builder("p")
            .source(Ten)
            .faults(memory::faults())
            .in_flight(records, 1 << 20)
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
    };
    assert!(build(10).is_ok());
    let text = build(11).unwrap_err().to_string();
    assert!(text.contains("in_flight is 11 records, of which the source hands out 10"), "{text}");
    assert!(text.contains("a larger `prefetch`"), "{text}");
}

#[test]
fn a_setting_that_a_stage_does_not_have_is_refused_by_its_path() {
    let error = build(config(
        r#"{"pipelines": {"totals": {"stages": {
            "json": {"n": 3}, "write": {"linger": "1s", "n": 5}, "group_by": {"rate": {"n": 1}}
        }}}}"#,
    ))
    .unwrap_err()
    .to_string();
    for part in [
        "pipelines.totals.stages.json is `n`, which a `json` does not have; accepted: no settings",
        "pipelines.totals.stages.write is `linger`, which a `parallel` does not have; accepted: n",
        "pipelines.totals.stages.group_by is `rate`, which a `group_by` does not have; accepted: items, bytes, linger",
    ] {
        assert!(error.contains(part), "{part} in\n{error}");
    }
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[tokio::test(start_paused = true)]
async fn every_other_stage_takes_what_it_has() {
    let settings = config(
        r#"{"pipelines": {"all": {"stages": {
            "with": {"n": 3},
            "parallel_by_key": {"n": 5},
            "compact": {"items": 7, "bytes": "1KiB", "linger": "3ms"},
            "bulk_write": {"n": 2, "items": 9, "bytes": "2KiB", "linger": "4ms"}
        }}}}"#,
    );
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let sink = memory::Collect::new();
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .config(settings)
        .pipeline("all", move |flow| {
            flow.json::<u64>()
                .compact(|n| **n, Window::items(10))
                .with(8, &db, async |_| Ok(()))
                .map(|(n, ())| *n)
                .parallel_by_key(8, |n| *n, &db, async |n: &u64| Ok(*n))
                .bulk_write(&db, sink.clone())
                .in_flight(8)
                .window(Window::items(80))
        })
        .build()
        .unwrap();
    let plan = processor.explain();
    for part in [
        "compact (up to 7 items or 1KiB in 3ms)",
        "with (3 at once, `db`)",
        "parallel_by_key (5 at once, `db`)",
        "bulk_write (2 at once, up to 9 items or 2KiB in 4ms, `db`)",
    ] {
        assert!(plan.contains(part), "{part} in\n{plan}");
    }
}

#[test]
fn no_configuration_makes_a_call_run_beside_another() {
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let error = Processor::builder("p")
        .faults(memory::faults())
        .config(config(r#"{"pipelines": {"all": {"stages": {"call": {"n": 8}}}}}"#))
        .pipeline("all", move |flow| flow.json::<u64>().call(&db, async |_| Ok(())))
        .build()
        .unwrap_err()
        .to_string();
    let said =
        "pipelines.all.stages.call is `n`, which a `call` does not have; accepted: no settings";
    assert_eq!(error, said);
}

#[test]
fn a_resource_that_was_not_given_its_configuration_is_refused() {
    let settings = config(r#"{"resources": {"db": {"timeout": "3s"}}}"#);
    let build = |resource: Resource| {
        Processor::builder("p")
            .faults(memory::faults())
            .config(settings.clone())
            .pipeline("all", move |flow| flow.json::<u64>().call(&resource, async |_| Ok(())))
            .build()
    };
    let db = || Resource::builder("db").timeout(Duration::from_secs(1));
    assert!(build(db().config(&settings).build().unwrap()).is_ok());
    let other = config(r#"{"resources": {"db": {"timeout": "4s"}}}"#);
    for resource in [db().build(), db().config(&other).build()] {
        let error = build(resource.unwrap()).unwrap_err().to_string();
        let said =
            "resources.db is not what the resource was built with; accepted: `.config(&config)`";
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn what_main_prints_of_an_error_is_written_for_people() {
    // `fn main() -> Result<…>` and `unwrap` print `Debug`
    let error = Processor::builder("p").build().unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(error.to_string().contains("faults is missing; accepted: a sink of fault events"));
    let error = Resource::builder("db").build().unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
}
