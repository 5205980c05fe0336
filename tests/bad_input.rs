//! Bad input: each of the list at the end of the rules is a fault or a validated success, and nothing else.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::time::Duration;

use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Position, Processor, Record, Shutdown, Timestamp};
use support::*;

fn payloads() -> Vec<Vec<u8>> {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep_in = format!(r#"{{"id":"a","type":"t","x":{deep}}}"#);
    let huge = format!(r#"{{"id":"a","type":"t","x":"{}"}}"#, "x".repeat(64 << 20));
    let mut all: Vec<Vec<u8>> = [
        "",
        " ",
        "{",
        "null",
        "[]",
        "[1,2]",
        "17",
        "\"text\"",
        "\u{feff}{\"id\":\"a\",\"type\":\"t\"}",
        r#"{"type":"t"}"#,
        r#"{"id":"","type":"t"}"#,
        r#"{"id":"a","id":"b","type":"t"}"#,
        r#"{"id":7,"type":"t"}"#,
        r#"{"id":null,"type":null}"#,
        r#"{"id":"a","type":"t","type":"u"}"#,
        r#"{"id":"\ud800","type":"\udfff"}"#,
        r#"{"id":"a","type":"t","timestamp":-62135596800001}"#,
        r#"{"id":"a","type":"t","timestamp":3093527980800000}"#,
        r#"{"id":"a","type":"t","timestamp":1e400}"#,
        r#"{"id":"a","type":"t","timestamp":"99999-01-01T00:00:00Z"}"#,
        r#"{"id":"a","type":"t","n":18446744073709551616}"#,
        "{\"id\":\"a\u{0}\",\"type\":\"t\"}",
        r#"{"id":"a","type":"t"} trailing"#,
    ]
    .into_iter()
    .map(Into::into)
    .collect();
    all.push(b"{\"id\":\"\xff\xfe\",\"type\":\"t\"}".to_vec());
    all.push(vec![0xff; 1000]);
    all.push(deep.into_bytes());
    all.push(deep_in.into_bytes());
    all.push(huge.into_bytes());
    all
}

#[tokio::test(start_paused = true)]
async fn bad_input_ends_as_a_fault_or_a_validated_success() {
    let stream = Stream::new("numbers", 1);
    let record =
        |at: u64, payload: Vec<u8>| Record::new("numbers", "0", Position::from(at), payload);
    let payloads = payloads();
    let mut at = 0;
    for payload in payloads {
        stream.push_record(record(at, payload)).unwrap();
        at += 1;
    }
    let good = br#"{"id":"a","type":"t"}"#.to_vec();
    stream.push_record(record(at, good.clone()).with_key(vec![b'k'; 1 << 20])).unwrap();
    let mut headers = record(at + 1, good.clone());
    for n in 0..5_000 {
        headers = headers.with_header(format!("h{}", n % 2_500), vec![0xff; 8]);
    }
    stream.push_record(headers).unwrap();
    for (n, micros) in [i64::MIN, -1, i64::MAX].into_iter().enumerate() {
        let arrived = record(at + 2 + n as u64, good.clone());
        stream.push_record(arrived.with_arrival(Timestamp::from_micros(micros))).unwrap();
    }
    let total = at + 5;
    stream.close();
    let faults = memory::faults();
    let db = resource("db");
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .flood_guard(FloodGuard::off())
        .pipeline("typed", |flow| flow.of_type(["t"]).json::<serde_json::Value>())
        .pipeline("grouped", move |flow| {
            flow.json::<serde_json::Value>()
                .validate(
                    |event: &serde_json::Value| {
                        if event["id"].is_string() { Ok(()) } else { Err("no id") }
                    },
                )
                .group_by_some(
                    |event| event.id().map(|id| id.into_owned()),
                    Window::items(4).linger(Duration::from_millis(10)),
                )
                .parallel(2, &db, async |_| Ok(()))
        })
        .pipeline("compact", |flow| {
            flow.json::<serde_json::Value>()
                .compact(|event| event.key().map(|key| key.into_owned()), Window::items(5))
        })
        .pipeline("raw", |flow| flow.map(|received| received.idempotency_key()))
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    for (name, p) in &report.pipelines {
        assert_eq!(p.read, total, "{name}");
        assert_eq!(p.done + p.filtered + p.faulted, total, "{name}: {report}");
    }
    assert!(report.pipelines["grouped"].faulted >= 12, "{report}");
    assert_eq!(report.pipelines["raw"].done, total);
    assert!(stream.is_settled("g"));
    // what was refused is all there, byte for byte
    let records = stream.records(0);
    for event in faults.events() {
        for fault in &event.records {
            let original = records.iter().find(|r| r.position() == fault.record.position());
            assert_eq!(original.unwrap().payload(), fault.record.payload());
        }
    }
}
