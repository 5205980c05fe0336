//! Plain JSON events.

use std::borrow::Cow;

use super::scan::{Raw, pick};
use super::time::millis_or_rfc3339;
use super::{Envelope, Head, record_key};
use crate::record::{Record, Timestamp};

/// Events that are JSON objects and say who they are at their top level: by default in the members
/// `id`, `type`, `timestamp` and `partitionKey`, as in `aws-lambda-stream`.
///
/// - The id, and the key, is a string that is not empty, or a whole number in its digits.
/// - The type is a string that is not empty.
/// - The time is a number of milliseconds since 1970, or a string by RFC 3339.
/// - Without a `partitionKey` the transport's key counts.
///
/// Of a member that comes twice the *first* counts, and what comes behind the last member that was
/// asked for is not read: that an envelope answers does not say that the payload is valid. What is not
/// an object, or not UTF-8 or not JSON before the member in question, has no id, type and time. A byte
/// order mark is skipped.
///
/// ```
/// use streambreaker::envelope::{Envelope, JsonEnvelope};
/// use streambreaker::{Position, Record, Timestamp};
///
/// let payload = r#"{"id":"7","type":"order-submitted","timestamp":1357035420000,"items":[1,2]}"#;
/// let record = Record::new("orders", "0", Position::from(1), payload);
/// assert_eq!(JsonEnvelope::new().kind(&record).as_deref(), Some("order-submitted"));
/// assert_eq!(JsonEnvelope::new().time(&record), Some(Timestamp::from_millis(1_357_035_420_000)));
///
/// let other = Record::new("orders", "0", Position::from(1), r#"{"eventId":7}"#);
/// assert_eq!(JsonEnvelope::new().id_in("eventId").id(&other).as_deref(), Some("7"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonEnvelope {
    id: Cow<'static, str>,
    kind: Cow<'static, str>,
    time: Cow<'static, str>,
    key: Cow<'static, str>,
}

impl JsonEnvelope {
    /// With the members `id`, `type`, `timestamp` and `partitionKey`.
    pub const fn new() -> Self {
        Self {
            id: Cow::Borrowed("id"),
            kind: Cow::Borrowed("type"),
            time: Cow::Borrowed("timestamp"),
            key: Cow::Borrowed("partitionKey"),
        }
    }

    /// The id is in this member of the top level.
    #[must_use]
    pub fn id_in(mut self, member: impl Into<Cow<'static, str>>) -> Self {
        self.id = member.into();
        self
    }

    /// The type is in this member of the top level.
    #[must_use]
    pub fn kind_in(mut self, member: impl Into<Cow<'static, str>>) -> Self {
        self.kind = member.into();
        self
    }

    /// The time is in this member of the top level.
    #[must_use]
    pub fn time_in(mut self, member: impl Into<Cow<'static, str>>) -> Self {
        self.time = member.into();
        self
    }

    /// The key is in this member of the top level.
    #[must_use]
    pub fn key_in(mut self, member: impl Into<Cow<'static, str>>) -> Self {
        self.key = member.into();
        self
    }
}

impl Default for JsonEnvelope {
    fn default() -> Self {
        Self::new()
    }
}

impl Envelope for JsonEnvelope {
    fn id<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        let [id] = pick(record.payload(), [&self.id]);
        id.and_then(Raw::name)
    }

    fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        let [kind] = pick(record.payload(), [&self.kind]);
        kind.and_then(Raw::filled)
    }

    fn time(&self, record: &Record) -> Option<Timestamp> {
        let [time] = pick(record.payload(), [&self.time]);
        time.and_then(millis_or_rfc3339)
    }

    fn key<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        let [key] = pick(record.payload(), [&self.key]);
        key.and_then(Raw::name).or_else(|| record_key(record))
    }

    fn head<'r>(&self, record: &'r Record) -> Head<'r> {
        // two roles may share a member, which `pick` would give to the first of them only
        let names: [&str; 4] = [&self.id, &self.kind, &self.time, &self.key];
        let found = pick(record.payload(), names);
        let raw = |role: usize| {
            let first = names.iter().position(|name| *name == names[role]);
            first.and_then(|first| found[first])
        };
        Head {
            id: raw(0).and_then(Raw::name),
            kind: raw(1).and_then(Raw::filled),
            time: raw(2).and_then(millis_or_rfc3339),
            key: raw(3).and_then(Raw::name).or_else(|| record_key(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Position;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn record(payload: impl Into<bytes::Bytes>) -> Record {
        Record::new("s", "0", Position::from(1), payload)
    }

    fn one_by_one(record: &Record) -> Head<'_> {
        let envelope = JsonEnvelope::new();
        Head {
            id: envelope.id(record),
            kind: envelope.kind(record),
            time: envelope.time(record),
            key: envelope.key(record),
        }
    }

    #[test]
    fn bad_input_has_no_head_and_never_panics() {
        let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
        for payload in [
            "",
            "null",
            "[]",
            "7",
            "\"id\"",
            "[{\"id\":\"a\"}]",
            "{",
            "{\"id\"",
            r#"{"id":""}"#,
            r#"{"id":null}"#,
            r#"{"id":1.5}"#,
            r#"{"id":true}"#,
            r#"{"id":["a"]}"#,
            r#"{"id":"\ud800"}"#,
            r#"{"id":{"id":"a"}}"#,
            "\u{feff}",
            "{'id':'a'}",
            &deep,
        ] {
            let record = record(payload.to_owned());
            assert!(JsonEnvelope::new().head(&record) == Head::default(), "{payload:.40}");
            assert!(one_by_one(&record) == Head::default(), "{payload:.40}");
        }
        assert_eq!(JsonEnvelope::new().id(&record(&b"{\"id\":\"\xff\"}"[..])), None);
    }

    #[test]
    fn a_byte_order_mark_does_not_hide_an_event() {
        let record = record("\u{feff}{\"type\":\"a\"}");
        assert_eq!(JsonEnvelope::new().kind(&record).as_deref(), Some("a"));
    }

    #[test]
    fn times_of_all_kinds() {
        for (json, micros) in [
            ("1357035420000", Some(1_357_035_420_000_000)),
            ("-1", Some(-1_000)),
            ("0.5", Some(500)),
            ("1.357035420e12", Some(1_357_035_420_000_000)),
            ("3093527980799000", Some(3_093_527_980_799_000_000)),
            ("18446744073709551615", Some(i64::MAX)),
            ("1e300", Some(i64::MAX)),
            ("1e999", None),
            ("\"2013-01-01T10:17:00Z\"", Some(1_357_035_420_000_000)),
            ("\"1357035420000\"", None),
            ("null", None),
        ] {
            let record = record(format!(r#"{{"timestamp":{json}}}"#));
            let time = JsonEnvelope::new().time(&record);
            assert_eq!(time.map(Timestamp::as_micros), micros, "{json}");
        }
    }

    #[test]
    fn without_a_key_of_its_own_it_has_the_records() {
        let keyed = |payload: &'static str| record(payload).with_key("k");
        let key = |record: &Record| JsonEnvelope::new().key(record).map(Cow::into_owned);
        assert_eq!(key(&keyed(r#"{"partitionKey":"p"}"#)).as_deref(), Some("p"));
        assert_eq!(key(&keyed(r#"{"partitionKey":""}"#)).as_deref(), Some("k"));
        assert_eq!(key(&keyed("rubbish")).as_deref(), Some("k"));
        assert_eq!(key(&record("{}").with_key(&b"\xff"[..])), None);
    }

    #[test]
    fn two_roles_may_share_a_member() {
        let envelope = JsonEnvelope::new().key_in("id");
        let record = record(r#"{"id":"a"}"#);
        let head = envelope.head(&record);
        assert_eq!((head.id.as_deref(), head.key.as_deref()), (Some("a"), Some("a")));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e15f64..1e15).prop_map(Value::from),
            "\\PC{0,12}|[\u{0}-\u{1f}\"\\\\]{0,4}".prop_map(Value::from),
            (0i64..4_000_000_000_000_000)
                .prop_map(|micros| Value::from(Timestamp::from_micros(micros).to_string())),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{0,4}|id|type", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// The same answers, from a full decode.
    fn reference(value: &Value) -> Head<'static> {
        let text = |name: &str| {
            value
                .get(name)?
                .as_str()
                .filter(|text| !text.is_empty())
                .map(|t| Cow::Owned(t.to_owned()))
        };
        let named = |name: &str| match value.get(name)? {
            Value::Number(n) if n.is_i64() || n.is_u64() => Some(Cow::Owned(n.to_string())),
            _ => text(name),
        };
        let time = match value.get("timestamp") {
            Some(Value::Number(n)) => Some(match n.as_i64() {
                Some(millis) => Timestamp::from_millis(millis),
                None => Timestamp::from_micros((n.as_f64().unwrap_or(0.0) * 1e3).round() as i64),
            }),
            Some(Value::String(text)) => super::super::time::rfc3339(text),
            _ => None,
        };
        Head { id: named("id"), kind: text("type"), time, key: named("partitionKey") }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_full_decode(
            members in proptest::collection::btree_map(
                "id|type|timestamp|partitionKey|[a-z]{0,6}", value(), 0..8,
            ),
            pretty in any::<bool>(),
        ) {
            let value = json!(members);
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let record = record(text);
            prop_assert!(JsonEnvelope::new().head(&record) == reference(&value), "{}", value);
            prop_assert!(one_by_one(&record) == reference(&value), "{}", value);
        }

        #[test]
        fn arbitrary_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            like in "\\{(\"(id|type|timestamp)\":(\"[a\\\\u\"]{0,6}|[0-9eE.-]{0,6}|[\\[\\]{}:,]{0,3}),?){0,4}\\}?",
        ) {
            for payload in [bytes, like.into_bytes()] {
                let record = record(payload);
                let _ = (JsonEnvelope::new().head(&record), one_by_one(&record));
            }
        }
    }
}
