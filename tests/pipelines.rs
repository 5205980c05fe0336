//! Pipelines by name: renamed, disabled, unknown; and what `build()` says of a mistake.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::config::Config;
use streambreaker::memory::{self, Inject};
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{
    By, Delivery, FaultEvent, PartPath, Position, ProcessorBuilder, Record, RunError, Sink,
};
use support::*;

#[tokio::test(start_paused = true)]
async fn a_disabled_pipeline_holds_no_commit_and_is_reported_with_what_went_by() {
    let stream = numbers(40, 2);
    stream.close();
    let db = Resource::builder("db").timeout(Duration::from_secs(1_000)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("totals", |flow| flow.json::<u64>())
        .pipeline("search", move |flow| {
            flow.call(&db, async |_| std::future::pending::<Result<(), StepError>>().await)
        })
        .disable(["search"])
        .build()
        .unwrap();
    assert!(processor.has_pipeline("totals") && !processor.has_pipeline("search"));
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert!(stream.is_settled("g"), "it takes no part in commits");
    let (totals, search) = (&report.pipelines["totals"], &report.pipelines["search"]);
    assert!(totals.enabled && totals.done == 40 && totals.passed_by.is_empty(), "{report}");
    assert!(!search.enabled, "{report}");
    assert_eq!((search.read, search.done, search.returned, search.open), (0, 0, 0, 0), "{report}");
    for (shard, id) in stream.shards().iter().enumerate() {
        let records = stream.records(shard);
        let ends = [&records[0], records.last().unwrap()].map(|r| r.position().to_string());
        let by = &search.passed_by[shard];
        assert_eq!((&*by.stream, &*by.shard), ("numbers", id.as_str()));
        assert_eq!([&by.first, &by.last], [&ends[0], &ends[1]]);
    }
    let text = report.to_string();
    assert!(text.contains("disabled"), "{text}");
    assert_eq!(text.matches("went by without it").count(), 2, "{text}");
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_does_not_move_what_went_by() {
    let stream = numbers(40, 1);
    stream.close();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("totals", |flow| flow.json::<u64>())
        .pipeline("search", |flow| flow.json::<u64>())
        .enable(["totals"])
        .build()
        .unwrap();
    processor.run(Shutdown::never()).await.unwrap();
    // some of the middle once more
    let some = memory::Stream::new("numbers", 1);
    for record in &stream.records(0)[10..15] {
        some.push_record(record.clone()).unwrap();
    }
    some.close();
    let report = processor.run_from(some.consumer("g"), Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["totals"].redelivered, 5, "{report}");
    let [passed_by] = &report.pipelines["search"].passed_by[..] else { panic!("{report}") };
    assert_eq!((&*passed_by.first, &*passed_by.last), ("0", "39"));

    // another stream has shards of the same names
    let other = memory::Stream::new("others", 1);
    other.push("1");
    other.close();
    let report = processor.run_from(other.consumer("g"), Shutdown::never()).await.unwrap();
    let passed_by = &report.pipelines["search"].passed_by;
    let of = |n: usize| (&*passed_by[n].stream, &*passed_by[n].first, &*passed_by[n].last);
    assert_eq!((passed_by.len(), of(0), of(1)), (2, ("numbers", "0", "39"), ("others", "0", "0")));

    // a replay was not meant for it
    let run = uuid::Uuid::from_u128(7);
    let replay = memory::Stream::new("replayed", 1);
    let record = stream.records(0)[3].clone().with_delivery(Delivery::Replay { run });
    replay.push_record(record).unwrap();
    replay.close();
    let report = processor.run_from(replay.consumer("g"), Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["totals"].done, 42, "{report}");
    assert_eq!(report.pipelines["search"].passed_by.len(), 2, "{report}");
}

#[tokio::test(start_paused = true)]
async fn what_goes_by_in_any_order_is_told_from_its_lowest_position_to_its_highest() {
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", |flow| flow.json::<u64>())
        .pipeline("search", |flow| flow.json::<u64>())
        .disable(["search"])
        .build()
        .unwrap();
    let record = |n: u64| Record::new("s", "0", Position::from(n), n.to_string());
    let sent = Delivery::Resubmit {
        fault: uuid::Uuid::from_u128(8),
        attempt: 1,
        part: PartPath::whole(),
        run: None,
    };
    // what is sent again was not meant for it
    let first = [1, 12].map(|n| record(n).with_delivery(sent.clone()));
    let records = first.into_iter().chain([7, 3, 9, 5].map(record));
    assert_eq!(processor.process(records).await.settled.len(), 6);
    let search = processor.handle().status().pipelines["search"].records.clone();
    let [passed_by] = &search.passed_by[..] else { panic!("{search:?}") };
    assert_eq!((&*passed_by.first, &*passed_by.last), ("3", "9"));
}

#[tokio::test(start_paused = true)]
async fn l6_what_stands_behind_not_in_replay_happens_once() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let mail = Resource::builder("mail").timeout(Duration::from_secs(1)).build().unwrap();
    let mails = sent.clone();
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("mails", move |flow| {
            let sent = mails.clone();
            flow.json::<u64>().map(|n| *n).not_in_replay().parallel(
                2,
                &mail,
                async move |n: &u64| {
                    sent.lock().unwrap().push(*n);
                    Ok(())
                },
            )
        })
        .build()
        .unwrap();
    let run = uuid::Uuid::from_u128(7);
    let sent_again = |run| Delivery::Resubmit {
        fault: uuid::Uuid::from_u128(8),
        attempt: 1,
        part: PartPath::whole(),
        run,
    };
    // what a replay faulted may have happened before
    let deliveries =
        [Delivery::Live, Delivery::Replay { run }, sent_again(None), sent_again(Some(run))];
    let stream = memory::Stream::new("numbers", 1);
    for (n, delivery) in (0..).zip(deliveries) {
        let record = Record::new("numbers", "0", Position::from(n), n.to_string());
        stream.push_record(record.with_delivery(delivery)).unwrap();
    }
    stream.close();
    let report = processor.run_from(stream.consumer("g"), Shutdown::never()).await.unwrap();
    let mails = &report.pipelines["mails"];
    assert_eq!((mails.done, mails.filtered), (2, 2), "{report}");
    assert_eq!(*sent.lock().unwrap(), [0, 2]);
}

fn renamed() -> ProcessorBuilder {
    Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", |flow| flow.json::<u64>())
        .formerly("sums")
        .formerly("added")
        .pipeline("search", |flow| flow.json::<u64>())
}

fn one() -> Vec<Record> {
    vec![Record::new("s", "0", Position::from(0), "1")]
}

#[tokio::test(start_paused = true)]
async fn a_renamed_pipeline_answers_to_its_former_names() {
    let processor = renamed().build().unwrap();
    for name in ["totals", "sums", "added"] {
        assert!(processor.has_pipeline(name), "{name}");
        assert_eq!(processor.process(one()).only(name).await.settled.len(), 1, "{name}");
        processor.handle().pause(name, &By::new("ada", "a test")).unwrap();
        assert!(processor.handle().status().pipelines["totals"].paused, "{name}");
        processor.handle().resume(name, &By::new("ada", "a test")).unwrap();
    }
    let report = processor.run_from(memory::stream(["2"]), Shutdown::never()).await.unwrap();
    let names: Vec<_> = report.pipelines.keys().map(String::as_str).collect();
    assert_eq!(names, ["search", "totals"], "only the present names are reported");
    assert_eq!(report.pipelines["totals"].done, 4, "{report}");
    // enabled and disabled by them, too
    let processor = renamed().enable(["sums"]).build().unwrap();
    assert!(processor.has_pipeline("added") && !processor.has_pipeline("search"));
    let processor = renamed().disable(["added"]).build().unwrap();
    assert!(!processor.has_pipeline("totals") && processor.has_pipeline("search"));
    // what it is not, and was not, gives all back
    let outcome = processor.process(one()).only("total").await;
    assert_eq!((outcome.settled.len(), outcome.returned.len()), (0, 1));
}

/// What `build()` says.
fn mistake(builder: ProcessorBuilder) -> String {
    builder.build().unwrap_err().to_string()
}

#[test]
fn an_unknown_name_lists_the_names_there_are() {
    for builder in [renamed().enable(["totls"]), renamed().disable(["totls"])] {
        let said = mistake(builder);
        assert!(
            said.contains("`totls`, which is unknown; accepted: one of totals, search"),
            "{said}"
        );
    }
}

/// A sink of faults that is a stream of this name.
struct Topic(&'static str);

#[async_trait]
impl Sink<FaultEvent> for Topic {
    fn limits(&self) -> Limits {
        Limits::items(1)
    }

    fn size(&self, _: &FaultEvent) -> usize {
        1
    }

    async fn write(&self, _: &[FaultEvent], _: &mut Outcomes<'_>) -> Result<(), StepError> {
        Ok(())
    }

    fn stream(&self) -> Option<&str> {
        Some(self.0)
    }
}

#[test]
fn one_stream_as_both_source_and_fault_sink_is_refused() {
    let stream = numbers(1, 1);
    let build = |topic| {
        Processor::builder("p")
            .source(stream.consumer("g"))
            .faults(Topic(topic))
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
    };
    assert!(build("faults").is_ok());
    let said = build("numbers").unwrap_err().to_string();
    assert!(said.contains("faults is the stream `numbers`, which it also reads"), "{said}");
    assert!(said.contains("accepted: another stream"), "{said}");
}

#[test]
fn build_names_every_field_that_is_wrong_and_what_would_be_accepted() {
    let zero = Duration::ZERO;
    let all = || renamed().pipeline("more", |flow| flow.json::<u64>());
    let wrong: [(ProcessorBuilder, &str); 15] = [
        (Processor::builder(" ").faults(memory::faults()), "name is ` `; accepted: a text"),
        (Processor::builder("p"), "faults is missing; accepted: a sink of fault events"),
        (Processor::builder("p"), "pipelines is none; accepted: at least one"),
        (all().pipeline("search", |flow| flow), "`search`, twice; accepted: a name that no other"),
        (all().pipeline("sums", |flow| flow), "`sums`, twice; accepted: a name that no other"),
        (all().pipeline("a\nb", |flow| flow), r"`a\nb`; accepted: a text without control"),
        (
            Processor::builder("p").formerly("x"),
            "formerly is called before any pipeline; accepted:",
        ),
        (all().in_flight(0, 1), "in_flight is 0 records, 1 bytes; accepted: at least one of each"),
        (all().in_flight_total(1, 0), "in_flight_total is 1 records, 0 bytes; accepted:"),
        (all().commit_every(zero, 1), "commit interval is zero; accepted: a span above zero"),
        (
            all().commit_every(Duration::from_secs(1), 0),
            "commit records is 0; accepted: a number from 1",
        ),
        (all().drain(zero), "drain is zero; accepted: a span above zero"),
        (all().stall_after(zero), "stall_after is zero; accepted: a span above zero"),
        (all().max_deliveries(1), "max_deliveries is 1; accepted: a number from 2"),
        (
            all().disable(["totals", "search", "more"]),
            "enabled pipelines is none; accepted: at least one of totals, search, more",
        ),
    ];
    for (builder, expected) in wrong {
        let said = mistake(builder);
        assert!(said.contains(expected), "{expected} in\n{said}");
    }
    // all at once
    let error = all().drain(zero).in_flight(0, 0).enable(["x"]).build().unwrap_err();
    assert_eq!(error.mistakes().len(), 4, "{error}");
    // also where the configuration says so
    let none = r#"{"pipelines": {"totals": {"enabled": false}, "search": {"enabled": false}}}"#;
    let config: Config = serde_json::from_str(none).unwrap();
    assert!(mistake(renamed().config(config)).contains("enabled pipelines is none"));
}

#[test]
fn two_resources_of_a_name_are_refused() {
    let [one, two] = [resource("db"), resource("db")];
    let said = mistake(
        renamed()
            .pipeline("a", move |flow| flow.call(&one, async |_| Ok(())))
            .pipeline("b", move |flow| flow.call(&two, async |_| Ok(()))),
    );
    assert!(
        said.contains("resource `db` is built twice; accepted: one resource of a name"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn spans_without_end_are_accepted() {
    let without_end = Duration::MAX;
    let stream = numbers(20, 1);
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .commit_every(without_end, 5)
        .commit_timeout(without_end)
        .drain(without_end)
        .deadline(without_end)
        .stall_after(without_end)
        .fault_timeout(without_end)
        .pipeline("all", move |flow| {
            flow.json::<u64>()
                .validate(|n: &u64| if *n == 7 { Err("bad") } else { Ok(()) })
                .parallel(4, &db, async |_| Ok(()))
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let again = processor.clone();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    secs(60).await;
    assert!(again.handle().live());
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert!(report.drained && report.faults_stored == 1, "{report}");
    assert!(stream.is_settled("g"));
    assert_eq!(again.process(one()).within(without_end).await.settled.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_run_cannot_do_it_says_with_what_to_do() {
    let processor = renamed().build().unwrap();
    let error = processor.run(Shutdown::never()).await.unwrap_err();
    assert!(matches!(error, RunError::NoSource) && error.report().is_none());
    assert!(error.to_string().contains("give one to the builder, once a run, or use `run_from`"));

    let stream = numbers(10, 1);
    stream.inject(Inject::ReadFatal);
    let error = processor.run_from(stream.consumer("g"), Shutdown::never()).await.unwrap_err();
    assert_eq!(error.report().map(streambreaker::Report::exit_code), Some(1));
    let said = error.to_string();
    assert!(said.contains("the processor ended") && said.contains("its cause says why"), "{said}");
    let cause = std::error::Error::source(&error).and_then(|source| source.source());
    assert!(cause.unwrap().to_string().contains("injected"), "{cause:?}");

    let db = Resource::builder("db").timeout(Duration::from_secs(20)).build().unwrap();
    let slow = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("slow", move |flow| flow.call(&db, async |_| Ok(())))
        .build()
        .unwrap();
    let source = numbers(1, 1).consumer("g").each(Duration::from_secs(30));
    let said = slow.run_from(source, Shutdown::never()).await.unwrap_err().to_string();
    for part in ["the deadline is 30s", "shorter timeouts", "pipeline `slow`", "4 x 20.0 s"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}
