//! The JSON form of a fault event.
//!
//! It is a superset of what `aws-lambda-stream` publishes, so that its monitors and tools read ours.
//! Bytes (payloads, keys, header values) are strings where they are UTF-8 and base64 where not, with
//! the encoding named; they never pass through a JSON value, which would change numbers above 2^53
//! and duplicate keys. What is written here is read back to an equal value (rule F7).
//! `docs/fault-event.schema.json` describes the fields.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use super::event::{Attempt, FaultError, FaultEvent, FaultPart};
use super::wire::{
    Wire, WireAttempt, WireDelivery, WireError, WireItem, WireLineage, WirePart, WireRecord,
    WireUow,
};
use crate::error::Class;
use crate::record::Timestamp;

/// The name of the form, as it stands in the field `schema`.
pub const SCHEMA: &str = "streambreaker.fault/1";

const NANOS: u128 = 1_000_000_000;

/// Why bytes are not a fault event. It names places and fields, never what was found there, which may
/// be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultParseError {
    /// Not JSON, or nested too deeply.
    #[error("not valid JSON at line {line} column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the start of a line.
        column: usize,
    },
    /// A value of another JSON type, or out of range, or a field that came twice.
    #[error("an unexpected value before line {line} column {column}; see the schema `{SCHEMA}`")]
    Shape {
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the start of a line.
        column: usize,
    },
    /// A mandatory field is missing.
    #[error("the mandatory field `{field}` is missing; see the schema `{SCHEMA}`")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A field holds a value that it cannot have.
    #[error("the field `{field}` holds a value that is not accepted; see the schema `{SCHEMA}`")]
    Invalid {
        /// Which.
        field: &'static str,
    },
    /// The event is of another schema, or of a later version of this one.
    #[error(
        "the schema is not `{SCHEMA}`: it is no fault event of this crate's, or one of a later release"
    )]
    Schema,
}

impl FaultParseError {
    fn new(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        if error.classify() != serde_json::error::Category::Data {
            return Self::Syntax { line, column };
        }
        // serde has no other way to tell a missing field; the name is taken from our list, so that
        // nothing of the input can get into the message
        let text = error.to_string();
        let field = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        match field.and_then(|name| MANDATORY.iter().find(|have| **have == name)) {
            Some(field) => Self::Missing { field },
            None => Self::Shape { line, column },
        }
    }
}

const MANDATORY: &[&str] = &[
    "schema",
    "id",
    "type",
    "timestamp",
    "processor",
    "pipeline",
    "stage",
    "class",
    "err",
    "name",
    "message",
    "uow",
    "record",
    "stream",
    "shard",
    "position",
    "payload",
    "at",
    "of",
    "first",
    "total",
    "uri",
    "kind",
];

fn class(text: &str) -> Result<Class, FaultParseError> {
    use serde::de::value::{Error, StrDeserializer};
    Class::deserialize(StrDeserializer::<Error>::new(text))
        .map_err(|_| FaultParseError::Invalid { field: "class" })
}

impl FaultEvent {
    /// Its JSON form, without line breaks.
    ///
    /// The bytes are the same on every call. For its fields see `docs/fault-event.schema.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut records = self.records.iter().map(|r| WireRecord::of(r, &self.delivery));
        let uow = if self.grouped || self.records.len() != 1 {
            let batch = records.map(|record| WireItem { record }).collect();
            WireUow { record: None, batch: Some(batch) }
        } else {
            WireUow { record: records.next(), batch: None }
        };
        let wire = Wire {
            schema: SCHEMA.into(),
            id: self.id,
            kind: "fault".into(),
            depth: self.depth,
            timestamp: self.timestamp.as_millis(),
            timestamp_micros: Some(self.timestamp.as_micros()),
            partition_key: (&*self.partition_key).into(),
            tags: Cow::Borrowed(&self.tags),
            processor: (&*self.processor).into(),
            pipeline: (&*self.pipeline).into(),
            stage: (&*self.stage).into(),
            resource: self.resource.as_deref().map(Cow::Borrowed),
            class: self.class.as_str().into(),
            release: self.release.as_deref().map(Cow::Borrowed),
            instance: (&*self.instance).into(),
            delivery: WireDelivery::of(&self.delivery),
            attempts: (self.attempts.iter())
                .map(|attempt| WireAttempt {
                    at: attempt.at.as_micros(),
                    class: attempt.class.as_str().into(),
                    duration_nanos: attempt.duration.as_nanos(),
                })
                .collect(),
            err: WireError {
                name: (&*self.err.name).into(),
                message: (&*self.err.message).into(),
                stack: (&*self.err.stack).into(),
            },
            parent: self.parent,
            resubmits: self.resubmits,
            trace: self.trace.as_deref().map(Cow::Borrowed),
            part: self.part.map(|p| WirePart { of: p.of, first: p.first, total: p.total }),
            fingerprint: (&*self.fingerprint).into(),
            grouped: self.grouped,
            derived: self.derived.as_deref().map(Cow::Borrowed),
            lineage: (self.records.iter())
                .map(|fault| WireLineage {
                    stream: fault.record.stream().into(),
                    shard: fault.record.shard().as_str().into(),
                    position: fault.record.position().to_string().into(),
                    arrival: fault.record.arrival().as_micros(),
                    part: fault.part.clone(),
                })
                .collect(),
            uow,
        };
        serde_json::to_vec(&wire).expect("all map keys are strings and a Vec takes any write")
    }

    /// Reads what [`to_json`](Self::to_json) writes. Fields that it does not know are skipped.
    ///
    /// It takes linear time, and memory in proportion to the input, whatever the input is.
    ///
    /// # Errors
    /// [`FaultParseError`], which names the place, never what was found there.
    pub fn from_json(json: &[u8]) -> Result<FaultEvent, FaultParseError> {
        let wire: Wire<'_> =
            serde_json::from_slice(json).map_err(|error| FaultParseError::new(&error))?;
        if wire.schema != SCHEMA {
            return Err(FaultParseError::Schema);
        }
        if wire.kind != "fault" {
            return Err(FaultParseError::Invalid { field: "type" });
        }
        let delivery = wire.delivery.read()?;
        let records = match (wire.uow.record, wire.uow.batch) {
            (Some(record), None) => vec![record.read(&delivery)?],
            (None, Some(batch)) => batch
                .into_iter()
                .map(|item| item.record.read(&delivery))
                .collect::<Result<_, _>>()?,
            (None, None) => return Err(FaultParseError::Missing { field: "record" }),
            (Some(_), Some(_)) => return Err(FaultParseError::Invalid { field: "uow" }),
        };
        let attempts = wire
            .attempts
            .into_iter()
            .map(|attempt| {
                let secs = u64::try_from(attempt.duration_nanos / NANOS)
                    .map_err(|_| FaultParseError::Invalid { field: "durationNanos" })?;
                let nanos = (attempt.duration_nanos % NANOS) as u32;
                Ok(Attempt {
                    at: Timestamp::from_micros(attempt.at),
                    class: class(&attempt.class)?,
                    duration: Duration::new(secs, nanos),
                })
            })
            .collect::<Result<_, FaultParseError>>()?;
        Ok(FaultEvent {
            id: wire.id,
            timestamp: wire
                .timestamp_micros
                .map_or(Timestamp::from_millis(wire.timestamp), Timestamp::from_micros),
            partition_key: wire.partition_key.into_owned(),
            processor: wire.processor.into_owned(),
            pipeline: wire.pipeline.into_owned(),
            stage: wire.stage.into_owned(),
            resource: wire.resource.map(Cow::into_owned),
            class: class(&wire.class)?,
            release: wire.release.map(Cow::into_owned),
            instance: wire.instance.into_owned(),
            delivery,
            err: FaultError {
                name: wire.err.name.into_owned(),
                message: wire.err.message.into_owned(),
                stack: wire.err.stack.into_owned(),
            },
            attempts,
            records,
            grouped: wire.grouped,
            derived: wire.derived.map(Cow::into_owned),
            parent: wire.parent,
            resubmits: wire.resubmits,
            trace: wire.trace.map(Cow::into_owned),
            depth: wire.depth,
            part: wire.part.map(|p| FaultPart { of: p.of, first: p.first, total: p.total }),
            tags: wire.tags.into_owned(),
            fingerprint: wire.fingerprint.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultRecord;
    use crate::record::{Delivery, PartPath, Position, Record};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "\\PC{0,20}".prop_map(String::into_bytes),
            "[\u{0}-\u{1f}\"\\\\/\u{7f}\u{2028}\u{ffff}\u{10ffff}]{0,12}"
                .prop_map(String::into_bytes),
            Just(br#"{"n":18446744073709551615,"n":1.0,"t":"\ud800"}"#.to_vec()),
            Just(Vec::new()),
        ]
    }

    fn delivery() -> impl Strategy<Value = Delivery> {
        prop_oneof![
            Just(Delivery::Live),
            any::<u128>().prop_map(|run| Delivery::Replay { run: Uuid::from_u128(run) }),
            (
                any::<u128>(),
                any::<u32>(),
                proptest::collection::vec(any::<u32>(), 0..3),
                any::<Option<u128>>()
            )
                .prop_map(|(fault, attempt, part, run)| Delivery::Resubmit {
                    fault: Uuid::from_u128(fault),
                    attempt,
                    part: PartPath::new(&part),
                    run: run.map(Uuid::from_u128),
                }),
        ]
    }

    fn position() -> impl Strategy<Value = Position> {
        prop_oneof![
            any::<u64>().prop_map(Position::from),
            (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Position::pair(a, b)),
            "[0-9]{1,60}|\\PC{1,20}".prop_map(|text| text.parse().expect("a position")),
        ]
    }

    fn record() -> impl Strategy<Value = FaultRecord> {
        (
            ("\\PC{0,8}", "\\PC{0,8}", position(), bytes()),
            proptest::option::of(bytes()),
            proptest::collection::vec(("\\PC{0,6}", bytes()), 0..4),
            any::<i64>(),
            delivery(),
            any::<u32>(),
            proptest::collection::vec(any::<u32>(), 0..3),
            proptest::option::of("\\PC{0,9}"),
        )
            .prop_map(
                |(base, key, headers, arrival, delivery, deliveries, part, claim)| {
                    let (stream, shard, position, payload) = base;
                    let mut record = Record::new(stream, shard, position, payload)
                        .with_headers(headers.into_iter().collect())
                        .with_arrival(Timestamp::from_micros(arrival))
                        .with_delivery(delivery)
                        .with_deliveries(deliveries);
                    if let Some(key) = key {
                        record = record.with_key(key);
                    }
                    let record = FaultRecord::part(record, PartPath::new(&part));
                    claim.map_or(record.clone(), |uri| record.claimed(uri))
                },
            )
    }

    fn fault() -> impl Strategy<Value = FaultEvent> {
        let texts = proptest::collection::vec("\\PC{0,9}|[\u{0}-\u{1f}\"\\\\]{0,4}", 16);
        let class = prop_oneof![
            Just(Class::Fault),
            Just(Class::CircuitOpen),
            Just(Class::CrashLoop),
            Just(Class::Skipped),
        ];
        (
            texts,
            class,
            proptest::collection::vec(record(), 0..4),
            delivery(),
            (any::<u128>(), any::<i64>(), any::<i64>(), any::<u64>(), 0u32..1_000_000_000),
            any::<[bool; 7]>(),
            (any::<u32>(), any::<u32>(), any::<u8>()),
        )
            .prop_map(|(mut t, class, records, delivery, numbers, some, (n, m, depth))| {
                let (id, timestamp, at, secs, nanos) = numbers;
                let mut text = || t.pop().expect("enough texts");
                let mut fault = FaultEvent::new(text(), text(), text(), class, records);
                fault.id = Uuid::from_u128(id);
                fault.timestamp = Timestamp::from_micros(timestamp);
                fault.delivery = delivery;
                fault.partition_key = text();
                fault.instance = text();
                fault.err = FaultError { name: text(), message: text(), stack: text() };
                fault.resource = some[0].then(&mut text);
                fault.release = some[1].then(&mut text);
                fault.derived = some[2].then(&mut text);
                fault.trace = some[3].then(&mut text);
                fault.parent = some[4].then_some(Uuid::from_u128(!id));
                fault.grouped = some[5];
                fault.part =
                    some[6].then_some(FaultPart { of: Uuid::from_u128(id), first: n, total: m });
                fault.tags.insert(text(), text());
                fault.fingerprint = text();
                fault.resubmits = m;
                fault.depth = depth;
                let duration = Duration::new(secs, nanos);
                fault.attempts = vec![Attempt { at: Timestamp::from_micros(at), class, duration }];
                fault
            })
    }

    fn sample() -> String {
        let record = Record::new("s", "0", Position::from(1), "hunter2").with_key("k");
        let fault = FaultEvent::new("p", "q", "r", Class::Fault, vec![FaultRecord::whole(record)]);
        String::from_utf8(fault.to_json()).expect("UTF-8")
    }

    fn error(json: &str) -> FaultParseError {
        FaultEvent::from_json(json.as_bytes()).expect_err("an error")
    }

    proptest! {
        #[test]
        fn f7_what_is_written_is_read_back(fault in fault()) {
            let json = fault.to_json();
            prop_assert_eq!(FaultEvent::from_json(&json), Ok(fault.clone()));
            prop_assert_eq!(fault.to_json(), json);
        }

        #[test]
        fn a_damaged_event_never_panics(fault in fault(), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut json = fault.to_json();
            let at = at % json.len();
            if cut { json.truncate(at) } else { json[at] = byte }
            let _ = FaultEvent::from_json(&json);
        }
    }

    #[test]
    fn f7_every_class_is_read_back() {
        for name in [
            "fault",
            "transient",
            "throttled",
            "fatal",
            "panic",
            "circuit_open",
            "returned",
            "crash_loop",
            "dropped",
            "skipped",
        ] {
            assert_eq!(class(name).map(Class::as_str), Ok(name));
        }
    }

    #[test]
    fn unknown_fields_are_skipped_whatever_they_hold() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let extra = format!("{{\"new\":{deep},\"newer\":\"\\ud800\",");
        let json = sample().replacen('{', &extra, 1);
        assert!(FaultEvent::from_json(json.as_bytes()).is_ok());
    }

    #[test]
    fn errors_are_clear() {
        // the position stands in the lineage too, which is not read
        let without = |from: &str| error(&sample().replace(from, ""));
        assert_eq!(
            without("\"processor\":\"p\","),
            FaultParseError::Missing { field: "processor" }
        );
        assert_eq!(without("\"position\":\"1\","), FaultParseError::Missing { field: "position" });
        let with = |from: &str, to: &str| error(&sample().replacen(from, to, 1));
        assert_eq!(with("fault/1", "fault/2"), FaultParseError::Schema);
        assert_eq!(
            with("\"type\":\"fault\"", "\"type\":\"x\""),
            FaultParseError::Invalid { field: "type" }
        );
        assert_eq!(
            with("\"class\":\"fault\"", "\"class\":\"x\""),
            FaultParseError::Invalid { field: "class" }
        );
        assert_eq!(
            with("\"encoding\":\"utf8\"", "\"encoding\":\"base64\""),
            FaultParseError::Invalid { field: "payload" }
        );
        assert!(matches!(with("\"hunter2\"", "[1]"), FaultParseError::Shape { line: 1, .. }));
    }

    #[test]
    fn hostile_input_is_an_error() {
        for json in ["", "null", "[]", "{}", "7", "\u{feff}{}", "{\"schema\":"] {
            let _ = error(json);
        }
        for (open, close) in [("[", "]"), ("{\"uow\":", "}"), ("{\"uow\":{\"batch\":[", "]}}")] {
            let _ = error(&(open.repeat(100_000) + &close.repeat(100_000)));
        }
        let _ = error(&sample().replacen("hunter2", "\\ud800", 1));
        let _ = error(&"x".repeat(64 << 20));
        let _ = error(&sample().replacen("\"hunter2\"", &"[".repeat(1 << 20), 1));
    }

    #[test]
    fn l12_an_error_does_not_quote_the_input() {
        for (from, to) in [
            ("\"depth\":0", "\"depth\":\"hunter2\""),
            ("\"kind\":\"live\"", "\"kind\":\"hunter2\""),
            ("\"class\":\"fault\"", "\"class\":\"hunter2\""),
            ("\"position\":\"1\"", "\"position\":{\"hunter2\":1}"),
            ("\"id\":\"", "\"id\":\"hunter2"),
        ] {
            let error = error(&sample().replace(from, to));
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
