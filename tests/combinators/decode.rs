//! `of_type`, `json`, `decode`, `validate`, `ensure`.

use serde::Deserialize;
use streambreaker::{BoxError, Received};

use super::*;

const TYPES: [&str; 5] = [
    r#"{"id":"1","type":"order-submitted"}"#,
    r#"{"id":"2","type":"order-changed"}"#,
    r#"{"id":"3","type":"invoice"}"#,
    r#"{"id":"4"}"#,
    "not json",
];

#[tokio::test(start_paused = true)]
async fn of_type_takes_names_globs_and_functions_and_faults_what_has_no_type() {
    let names = run(TYPES, |flow| flow.of_type(["order-submitted", "invoice"])).await;
    assert_eq!((names.fates(), names.names()), ((2, 1, 2), vec!["NoType", "NoType"]));
    let glob = run(TYPES, |flow| flow.of_type("order-*")).await;
    assert_eq!(glob.fates(), (2, 1, 2));
    let function = run(TYPES, |flow| flow.of_type(|kind: &str| kind.len() == 7)).await;
    assert_eq!(function.fates(), (1, 2, 2));
    let owned = run(TYPES, |flow| flow.of_type(vec!["inv*".to_owned()])).await;
    assert_eq!(owned.fates(), (1, 2, 2));
    let panics = run(TYPES, |flow| flow.of_type(|_: &str| -> bool { panic!("filter") })).await;
    assert_eq!(panics.fates(), (0, 0, 5));
}

#[derive(Deserialize)]
struct Order {
    id: String,
    amount: i64,
}

impl Order {
    fn check(&self) -> Result<(), String> {
        match self.amount {
            0 => panic!("zero"),
            amount if amount < 0 => Err(format!("an amount of {amount}")),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn json_faults_what_is_not_json_or_not_the_type() {
    let deep = "[".repeat(100_000);
    let payloads = [
        r#"{"id":"a","amount":1}"#,
        "",
        "null",
        "[]",
        r#"{"id":"a"}"#,
        "\u{feff}{}",
        r#"{"id":"\ud800","amount":1}"#,
        &deep,
    ];
    let ran = run(payloads, |flow| flow.json::<Order>().filter(|order| order.id == "a")).await;
    assert_eq!(ran.fates(), (1, 0, 7));
    assert!(ran.names().iter().all(|name| *name == "DecodeError"), "{:?}", ran.names());
}

#[tokio::test(start_paused = true)]
async fn decode_takes_a_codec_that_brings_old_forms_up_to_date() {
    // version 1 called it `total`, in whole units
    #[derive(Deserialize)]
    struct Old {
        id: String,
        total: i64,
    }
    fn upcast(received: &Received) -> Result<Order, BoxError> {
        match received.header("version").map(|version| &version[..]) {
            Some(b"2") => Ok(serde_json::from_slice(received.payload())?),
            Some(b"1") => {
                let Old { id, total } = serde_json::from_slice(received.payload())?;
                Ok(Order { id, amount: total * 100 })
            }
            Some(b"0") => panic!("never seen"),
            _ => Err("a version that nobody knows".into()),
        }
    }
    let seen = Seen::new();
    let note = seen.clone();
    let versions = ["1", "2", "0", "9"];
    let payload = r#"{"id":"a","total":3,"amount":4}"#;
    let records = (0..).zip(versions).map(|(n, v)| record(n, payload).with_header("version", v));
    let (outcome, faults) = process(records, move |flow| {
        let note = note.clone();
        flow.decode(upcast).inspect(move |order| note.push((order.id.clone(), order.amount)))
    })
    .await;
    assert_eq!(seen.all(), [("a".to_owned(), 300), ("a".to_owned(), 4)]);
    assert_eq!((outcome.settled.len(), outcome.faulted.len()), (2, 2));
    let classes: Vec<Class> = faults.iter().map(|fault| fault.class).collect();
    assert_eq!(classes, [Class::Panic, Class::Fault]);
}

#[tokio::test(start_paused = true)]
async fn validate_checks_the_event_and_faults_errors_and_panics() {
    let payloads =
        [r#"{"id":"a","amount":1}"#, r#"{"id":"b","amount":-1}"#, r#"{"id":"c","amount":0}"#];
    let ran = run(payloads, |flow| flow.json::<Order>().validate(Order::check)).await;
    assert_eq!((ran.fates(), ran.classes()), ((1, 0, 2), vec![Class::Fault, Class::Panic]));
    assert_eq!(ran.faults[0].err.message, "an amount of -1");
}

#[tokio::test(start_paused = true)]
async fn ensure_checks_any_value_and_keeps_the_class_that_an_error_carries() {
    let records = (0..4).map(|n| record(n, n));
    let (outcome, faults) = process(records, |flow| {
        flow.json::<u32>().map(|n| *n).ensure(|n| match n {
            1 => Err(BoxError::from("one")),
            2 => Err(StepError::new(Class::Transient, "busy").into()),
            3 => panic!("three"),
            _ => Ok(()),
        })
    })
    .await;
    assert_eq!((outcome.settled.len(), outcome.faulted.len(), outcome.returned.len()), (1, 3, 0));
    // a check has no second chance: whatever it says is a fault
    let classes: Vec<Class> = faults.iter().map(|fault| fault.class).collect();
    assert_eq!(classes, [Class::Fault, Class::Fault, Class::Panic]);
}
