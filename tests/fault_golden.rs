//! The JSON form of fault events, pinned byte for byte.
//!
//! `STREAMBREAKER_BLESS=1 cargo test --test fault_golden` writes the files under `tests/golden/fault`
//! anew; without it they are compared. A file that changes is a change of an interface: the changelog
//! says so, and a field that changes its meaning makes a new schema.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use streambreaker::fault::{Attempt, FaultEvent, FaultPart, FaultRecord, Scrub};
use streambreaker::{Class, Delivery, PartPath, Position, Record, Timestamp};
use uuid::Uuid;

fn path(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn record(position: u64, payload: &'static [u8]) -> Record {
    Record::new("orders", "3", Position::from(position), payload)
        .with_key("customer-7")
        .with_arrival(Timestamp::from_micros(1_357_035_420_000_001))
}

fn fault(stage: &str, class: Class, records: Vec<FaultRecord>) -> FaultEvent {
    let mut fault = FaultEvent::new("order-totals", "totals", stage, class, records);
    fault.timestamp = Timestamp::from_micros(1_357_035_421_234_567);
    fault.instance = "order-totals-0".into();
    fault.err.name = "UnknownCustomer".into();
    fault.err.message = "no such customer: 7 (https://app:hunter2@db/customers)".into();
    fault.err.stack = "UnknownCustomer: no such customer: 7\n    at src/totals.rs:42:9".into();
    fault.finish(&Scrub)
}

fn cases() -> Vec<(&'static str, FaultEvent)> {
    let single = fault(
        "call",
        Class::Fault,
        vec![FaultRecord::whole(
            record(42, b"{\"id\":\"a\",\"n\":18446744073709551615,\"n\":2, \"t\":\"\\ud83d\"}")
                .with_header(
                    "traceparent",
                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                )
                .with_header("tag", "one")
                .with_header("tag", &b"\xff\x00"[..])
                .with_deliveries(3),
        )],
    );

    let mut group = fault(
        "group_by#2",
        Class::Transient,
        vec![
            FaultRecord::whole(record(42, b"")),
            FaultRecord::whole(record(43, b"\xff\xfe").with_key(&b"\x80"[..])),
        ],
    );
    group.grouped = true;
    group.resource = Some("orders-table".into());
    group.release = Some("1.4.0".into());
    group.derived = Some("{\"total\":5}".into());
    for n in 0..2 {
        group.attempts.push(Attempt {
            at: Timestamp::from_micros(1_357_035_420_500_000 + n * 100_000),
            class: if n == 0 { Class::Throttled } else { Class::Transient },
            duration: Duration::new(0, 80_000_001),
        });
    }

    let part = PartPath::new(&[1, 0]);
    let resubmit =
        Delivery::Resubmit { fault: Uuid::from_u128(7), attempt: 2, part: part.clone(), run: None };
    let resubmit = fault(
        "json",
        Class::Panic,
        vec![FaultRecord::part(
            record(42, b"\x01\t\"\\/\xe2\x80\xa8").with_delivery(resubmit),
            part,
        )],
    );

    let replay = Delivery::Replay { run: Uuid::from_u128(8) };
    let mut replay = fault(
        "validate",
        Class::Fault,
        vec![FaultRecord::whole(record(42, b"{}").with_delivery(replay))],
    );
    replay.depth = 1;

    // as it is when the whole is too large for its sink: the derived value goes first
    let mut part = group.clone();
    part.part = Some(FaultPart { of: group.id, first: 1, total: group.records.len() as u32 });
    part.records = vec![group.records[1].clone()];
    part.derived = None;
    part.id = part.computed_id();
    part.partition_key = part.id.to_string();
    let mut claimed = single.clone();
    claimed.records[0] = claimed.records[0].claimed("s3://lake/orders/3/42");

    vec![
        ("single", single),
        ("group", group),
        ("resubmit", resubmit),
        ("replay", replay),
        ("part", part),
        ("claim_check", claimed),
    ]
}

#[test]
fn f7_golden_files_are_written_and_read_as_ever() {
    for (name, fault) in cases() {
        let file = path(&format!("tests/golden/fault/{name}.json"));
        let mut json = fault.to_json();
        json.push(b'\n');
        if std::env::var_os("STREAMBREAKER_BLESS").is_some() {
            fs::write(&file, &json).expect("the golden file can be written");
        }
        let golden = fs::read(&file).expect("the golden file; see the head of this file");
        assert!(golden == json, "{name} differs:\n{}", String::from_utf8_lossy(&json));
        assert_eq!(FaultEvent::from_json(&golden).expect("a fault event"), fault, "{name}");
        assert_eq!(fault.computed_id(), fault.id, "{name}");
    }
}

/// As much of JSON Schema as ours uses; an unknown keyword is a failure, so that none is overlooked.
fn check(schema: &Value, root: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let keywords = schema.as_object().expect("a schema is an object");
    for (keyword, rule) in keywords {
        let fine = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" | "format"
            | "contentEncoding" => true,
            "$ref" => {
                let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).expect("a local ref");
                let target = root.pointer(pointer).expect("a definition");
                check(target, root, value, at, wrong);
                true
            }
            "type" => match rule.as_str() {
                Some("object") => value.is_object(),
                Some("array") => value.is_array(),
                Some("string") => value.is_string(),
                Some("boolean") => value.is_boolean(),
                Some("integer") => value.is_i64() || value.is_u64(),
                _ => panic!("an unknown type at {at}"),
            },
            "const" => rule == value,
            "enum" => rule.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            "minLength" => {
                value.as_str().is_none_or(|s| s.len() as u64 >= rule.as_u64().unwrap_or(0))
            }
            "required" => rule.as_array().into_iter().flatten().all(|name| {
                let there = name.as_str().is_some_and(|name| value.get(name).is_some());
                if !there {
                    wrong.push(format!("{at} lacks {name}"));
                }
                true
            }),
            "properties" => {
                for (name, rule) in rule.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(name) {
                        check(rule, root, value, &format!("{at}/{name}"), wrong);
                    }
                }
                // ours is checked for completeness too: every field that is written is described
                for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
                    if rule.get(name).is_none() {
                        wrong.push(format!("{at}/{name} is not described"));
                    }
                }
                true
            }
            "additionalProperties" => {
                if rule.is_object() {
                    for value in value.as_object().into_iter().flatten().map(|(_, value)| value) {
                        check(rule, root, value, at, wrong);
                    }
                }
                true
            }
            "items" => {
                for (n, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, root, value, &format!("{at}/{n}"), wrong);
                }
                true
            }
            "oneOf" => {
                let hits = rule.as_array().into_iter().flatten().filter(|rule| {
                    let mut wrong = Vec::new();
                    check(rule, root, value, at, &mut wrong);
                    wrong.is_empty()
                });
                hits.count() == 1
            }
            other => panic!("the keyword {other} is not known here"),
        };
        if !fine {
            wrong.push(format!("{at}: {keyword}"));
        }
    }
}

fn violations(value: &Value) -> Vec<String> {
    let schema = fs::read(path("docs/fault-event.schema.json")).expect("the schema");
    let schema: Value = serde_json::from_slice(&schema).expect("JSON");
    let mut wrong = Vec::new();
    check(&schema, &schema, value, "", &mut wrong);
    wrong
}

#[test]
fn f7_the_schema_describes_every_field() {
    for (name, fault) in cases() {
        let value: Value = serde_json::from_slice(&fault.to_json()).expect("JSON");
        assert_eq!(violations(&value), [""; 0], "{name}");
    }
}

#[test]
fn the_schema_and_the_parser_refuse_alike() {
    let (_, fault) = cases().remove(0);
    let good: Value = serde_json::from_slice(&fault.to_json()).expect("JSON");
    let changes: [(&str, Option<Value>); 12] = [
        ("/id", None),
        ("/processor", None),
        ("/uow", None),
        ("/err", None),
        ("/uow/record", None),
        ("/uow/record/payload", None),
        ("/schema", Some("streambreaker.fault/2".into())),
        ("/type", Some("order".into())),
        ("/class", Some("unheard-of".into())),
        ("/depth", Some((-1).into())),
        ("/uow/record/position", Some(42.into())),
        ("/uow/record/encoding", Some("hex".into())),
    ];
    for (pointer, new) in changes {
        let mut bad = good.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = bad.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        match new {
            Some(value) => drop(parent.insert(name.to_owned(), value)),
            None => drop(parent.remove(name)),
        }
        assert!(!violations(&bad).is_empty(), "the schema takes {pointer}");
        let parsed = FaultEvent::from_json(&serde_json::to_vec(&bad).expect("JSON"));
        assert!(parsed.is_err(), "the parser takes {pointer}");
    }
}
