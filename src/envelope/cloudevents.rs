//! CloudEvents 1.0 (<https://github.com/cloudevents/spec>), as each transport's binding writes them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::scan::{Raw, pick};
use super::time::rfc3339;
use super::{Envelope, Head, record_key};
use crate::record::{Record, Timestamp};

/// Events by CloudEvents 1.0, in either mode, told apart record by record:
///
/// - **structured**, where the header `content-type` is `application/cloudevents+json`: the payload is
///   the event with its attributes, and [`data`](Envelope::data) is what its `data` or `data_base64`
///   holds;
/// - **binary** otherwise: attributes are headers with the prefix of their binding, `ce_` (Kafka), `ce-`
///   (HTTP, NATS; percent-encoded), `cloudEvents:` or `cloudEvents_` (AMQP), and the payload is the data.
///
/// An event is identified by its `source` and `id` *together*, for ids are unique within a source only:
/// the answer is both, with a space between them (a space in a source, which no URI has, is written
/// `%20`). The key is the extension `partitionkey`, else the record's. What is no CloudEvent has neither id nor type nor
/// time. Batches (`application/cloudevents-batch+json`) are none: they hold several.
///
/// ```
/// use streambreaker::envelope::{CloudEvents, Envelope};
/// use streambreaker::{Position, Record};
///
/// let record = Record::new("orders", "0", Position::from(1), r#"{"total":5}"#)
///     .with_header("ce_specversion", "1.0")
///     .with_header("ce_type", "com.example.order.submitted")
///     .with_header("ce_source", "/shop")
///     .with_header("ce_id", "a-1");
/// let envelope = CloudEvents::new();
/// assert_eq!(envelope.kind(&record).as_deref(), Some("com.example.order.submitted"));
/// assert_eq!(envelope.id(&record).as_deref(), Some("/shop a-1"));
///
/// let payload = r#"{"specversion":"1.0","type":"t","source":"/s","id":"1","data":{"total": 5}}"#;
/// let record = Record::new("orders", "0", Position::from(2), payload)
///     .with_header("content-type", "application/cloudevents+json; charset=utf-8");
/// assert_eq!(&*envelope.data(&record), br#"{"total": 5}"#);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloudEvents {
    structured: bool,
}

const PREFIXES: [&str; 4] = ["ce_", "ce-", "cloudEvents:", "cloudEvents_"];

impl CloudEvents {
    /// Tells the mode by the header `content-type`.
    pub const fn new() -> Self {
        Self { structured: false }
    }

    /// Takes every record that has neither attributes in its headers nor a `content-type` for
    /// structured: for files, and transports without headers.
    pub const fn structured() -> Self {
        Self { structured: true }
    }

    fn is_structured(self, record: &Record) -> bool {
        match record.header("content-type") {
            Some(value) => {
                let media = value.split(|b| *b == b';').next().unwrap_or_default();
                media.trim_ascii().eq_ignore_ascii_case(b"application/cloudevents+json")
            }
            None => self.structured && attribute(record, "specversion").is_none(),
        }
    }

    fn attribute<'r>(self, record: &'r Record, name: &str) -> Option<Cow<'r, str>> {
        if self.is_structured(record) {
            let [raw] = pick(record.payload(), [name]);
            raw.and_then(Raw::filled)
        } else {
            attribute(record, name)
        }
    }
}

/// An attribute in binary mode.
fn attribute<'r>(record: &'r Record, name: &str) -> Option<Cow<'r, str>> {
    let (percent, value) = record.headers().iter().find_map(|(header, value)| {
        let prefix = PREFIXES.iter().find(|prefix| {
            header.len() == prefix.len() + name.len()
                && header.as_bytes()[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes())
                && header.as_bytes()[prefix.len()..].eq_ignore_ascii_case(name.as_bytes())
        })?;
        Some((*prefix == "ce-", value))
    })?;
    let text = std::str::from_utf8(value).ok()?;
    let text = if percent { percent_decoded(text) } else { Cow::Borrowed(text) };
    (!text.is_empty()).then_some(text)
}

/// Header values over HTTP are percent-encoded (HTTP binding, section 3.1.3.2). A value that does not
/// decode to UTF-8 was not encoded: it stays as it is.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn identity(source: &str, id: &str) -> Cow<'static, str> {
    Cow::Owned(if source.contains(' ') {
        format!("{} {id}", source.replace(' ', "%20"))
    } else {
        format!("{source} {id}")
    })
}

/// Whether data of this type stands in the JSON as a JSON value rather than as a string that holds it
/// (JSON format, section 3.1.1).
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = media.split_once('/').map_or("", |(_, subtype)| subtype);
    subtype.eq_ignore_ascii_case("json")
        || subtype.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"))
}

impl Envelope for CloudEvents {
    fn id<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        let (source, id) = if self.is_structured(record) {
            let [source, id] = pick(record.payload(), ["source", "id"]);
            (source?.filled()?, id?.filled()?)
        } else {
            (attribute(record, "source")?, attribute(record, "id")?)
        };
        Some(identity(&source, &id))
    }

    fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        self.attribute(record, "type")
    }

    fn time(&self, record: &Record) -> Option<Timestamp> {
        rfc3339(&self.attribute(record, "time")?)
    }

    fn key<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        self.attribute(record, "partitionkey").or_else(|| record_key(record))
    }

    /// In structured mode what `data` holds, as it stands there, or decoded from `data_base64`; empty
    /// where the event has no data. Where the payload is broken it is the whole payload, so that a
    /// codec refuses it.
    fn data<'r>(&self, record: &'r Record) -> Cow<'r, [u8]> {
        let payload = record.payload();
        if !self.is_structured(record) {
            return Cow::Borrowed(payload);
        }
        let [data, base64, content_type] =
            pick(payload, ["data", "data_base64", "datacontenttype"]);
        if let Some(data) = data {
            let json = content_type.and_then(Raw::text).is_none_or(|media| is_json(&media));
            return match if json { None } else { data.text() } {
                Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
                Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
                None => Cow::Borrowed(data.get().as_bytes()),
            };
        }
        if let Some(base64) = base64 {
            let bytes = base64.text().and_then(|text| {
                let text = text.as_bytes();
                STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()
            });
            return bytes.map_or(Cow::Borrowed(payload), Cow::Owned);
        }
        let whole = serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
        Cow::Borrowed(if whole { &[] } else { payload })
    }

    fn head<'r>(&self, record: &'r Record) -> Head<'r> {
        if !self.is_structured(record) {
            return Head {
                id: self.id(record),
                kind: attribute(record, "type"),
                time: attribute(record, "time").and_then(|time| rfc3339(&time)),
                key: attribute(record, "partitionkey").or_else(|| record_key(record)),
            };
        }
        let names = ["source", "id", "type", "time", "partitionkey"];
        let [source, id, kind, time, key] =
            pick(record.payload(), names).map(|raw| raw.and_then(Raw::filled));
        Head {
            id: source.zip(id).map(|(source, id)| identity(&source, &id)),
            kind,
            time: time.and_then(|time| rfc3339(&time)),
            key: key.or_else(|| record_key(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Position;
    use proptest::prelude::*;

    const EVENT: CloudEvents = CloudEvents::new();

    fn record(payload: impl Into<bytes::Bytes>) -> Record {
        Record::new("s", "0", Position::from(1), payload).with_key("k")
    }

    fn structured(payload: impl Into<bytes::Bytes>) -> Record {
        record(payload).with_header("Content-Type", "Application/CloudEvents+JSON; charset=utf-8")
    }

    fn head(record: &Record) -> Head<'_> {
        let head = EVENT.head(record);
        let single = Head {
            id: EVENT.id(record),
            kind: EVENT.kind(record),
            time: EVENT.time(record),
            key: EVENT.key(record),
        };
        assert!(head == single);
        head
    }

    #[test]
    fn binary_mode_of_every_binding() {
        for prefix in PREFIXES {
            let record = record("data")
                .with_header(format!("{prefix}id"), "1")
                .with_header(format!("{prefix}source"), "/shop")
                .with_header(format!("{prefix}type"), "t")
                .with_header(format!("{prefix}time"), "2013-01-01T10:17:00Z")
                .with_header(format!("{prefix}partitionkey"), "p");
            let head = head(&record);
            assert_eq!(head.id.as_deref(), Some("/shop 1"), "{prefix}");
            assert_eq!((head.kind.as_deref(), head.key.as_deref()), (Some("t"), Some("p")));
            assert_eq!(head.time, Some(Timestamp::from_millis(1_357_035_420_000)));
            assert_eq!(&*EVENT.data(&record), b"data");
        }
    }

    #[test]
    fn headers_over_http_are_percent_encoded() {
        let record = |value: &'static str| record("").with_header("CE-Type", value);
        for (value, kind) in [
            ("a%20b", "a b"),
            ("%E2%82%AC", "€"),
            ("100%", "100%"),
            ("%ff", "%ff"),
            ("%zz%2", "%zz%2"),
        ] {
            assert_eq!(EVENT.kind(&record(value)).as_deref(), Some(kind));
        }
        let kafka = Record::new("s", "0", Position::from(1), "").with_header("ce_type", "a%20b");
        assert_eq!(EVENT.kind(&kafka).as_deref(), Some("a%20b"));
    }

    #[test]
    fn structured_mode() {
        let payload = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"t","time":"2013-01-01T10:17:00Z","data":{"n": 18446744073709551615}}"#;
        let record = structured(payload);
        let head = head(&record);
        assert_eq!((head.id.as_deref(), head.kind.as_deref()), (Some("/shop 1"), Some("t")));
        assert_eq!(head.key.as_deref(), Some("k"));
        assert!(head.time.is_some());
        let data = EVENT.data(&record);
        assert!(matches!(data, Cow::Borrowed(br#"{"n": 18446744073709551615}"#)));
    }

    #[test]
    fn data_of_every_kind() {
        for (payload, data) in [
            (r#"{"data_base64":"/wA="}"#, &b"\xff\x00"[..]),
            (r#"{"data_base64":"/wA"}"#, b"\xff\x00"),
            (r#"{"data":"a\nb","datacontenttype":"text/plain"}"#, b"a\nb"),
            (r#"{"datacontenttype":"application/vnd.x+json; v=1","data":"a"}"#, b"\"a\""),
            (
                r#"{"datacontenttype":"application/xml","data":{"not":"a string"}}"#,
                br#"{"not":"a string"}"#,
            ),
            (r#"{"data":null}"#, b"null"),
            (r#"{"id":"1"}"#, b""),
            (r#"{"data_base64":"?"}"#, br#"{"data_base64":"?"}"#),
            ("rubbish", b"rubbish"),
        ] {
            assert_eq!(&*EVENT.data(&structured(payload)), data, "{payload}");
        }
    }

    #[test]
    fn source_and_id_are_told_apart() {
        let id = |source: &str, id: &str| {
            let payload = serde_json::json!({ "source": source, "id": id }).to_string();
            head(&structured(payload)).id.map(Cow::into_owned)
        };
        assert_ne!(id("/a", "b c"), id("/a b", "c"));
        assert_ne!(id("/a", "1"), id("/b", "1"));
        assert_eq!((id("/a", ""), id("", "1")), (None, None));
    }

    #[test]
    fn what_is_no_cloud_event_has_no_head() {
        let plain = record(r#"{"id":"1","source":"/s","type":"t"}"#);
        let batch = plain.clone().with_header("content-type", "application/cloudevents-batch+json");
        for record in [&plain, &batch] {
            let head = head(record);
            assert_eq!((&head.id, &head.kind, head.key.as_deref()), (&None, &None, Some("k")));
        }
        assert_eq!(CloudEvents::structured().id(&plain).as_deref(), Some("/s 1"));
        assert_eq!(CloudEvents::structured().id(&batch), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_survived(
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            value in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            for record in [structured(payload.clone()), record(payload).with_header("ce-id", value.clone())] {
                let record = record.with_header("ce-source", value.clone()).with_header("ce-time", value.clone());
                let _ = (head(&record), EVENT.data(&record));
            }
        }
    }
}
