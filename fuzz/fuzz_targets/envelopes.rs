//! Envelopes and the JSON codec on hostile payloads: what they say of a payload that is valid is what serde_json
//! says of the whole of it, and nothing makes them panic.

#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use streambreaker::envelope::{CloudEvents, Envelope, JsonEnvelope};
use streambreaker::{Position, Record};

/// All members of an object, in their order, also those that come twice.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Members {
    fn text(&self, name: &str) -> Option<String> {
        let (_, raw) = self.0.iter().find(|(key, _)| key == name)?;
        serde_json::from_str(raw.get()).ok().filter(|text: &String| !text.is_empty())
    }

    /// A string, or a whole number as it is written.
    fn name(&self, name: &str) -> Option<String> {
        let (_, raw) = self.0.iter().find(|(key, _)| key == name)?;
        // of any length: a number that nothing could calculate with is a name all the same
        let whole = raw.get().starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
            && !raw.get().contains(['.', 'e', 'E']);
        if whole { Some(raw.get().to_owned()) } else { self.text(name) }
    }
}

fn all(
    envelope: &dyn Envelope,
    record: &Record,
) -> (Option<String>, Option<String>, Option<String>) {
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    let (id, kind) = (owned(envelope.id(record)), owned(envelope.kind(record)));
    let (time, key) = (envelope.time(record), owned(envelope.key(record)));
    let _ = envelope.data(record);
    let head = envelope.head(record);
    if std::str::from_utf8(record.payload()).is_err() {
        // together they stop at the first that is broken
        return (id, kind, key);
    }
    // asked for one by one or together: the same
    assert_eq!(owned(head.id), id);
    assert_eq!(owned(head.kind), kind);
    assert_eq!(head.time, time);
    assert_eq!(owned(head.key), key);
    (id, kind, key)
}

fuzz_target!(|data: &[u8]| {
    let record = || Record::new("s", "0", Position::from(1), data.to_vec());
    let (id, kind, key) = all(&JsonEnvelope::new(), &record());
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    if let Ok(members) = serde_json::from_slice::<Members>(text) {
        assert_eq!(id, members.name("id"));
        assert_eq!(kind, members.text("type"));
        assert_eq!(key, members.name("partitionKey"));
    }
    all(&CloudEvents::structured(), &record());
    all(&CloudEvents::new(), &record().with_header("content-type", "application/cloudevents+json"));
    // the bytes as attributes of the binary mode
    let (name, value) = data.split_at(data.len() / 3);
    let name = format!("ce_{}", String::from_utf8_lossy(name));
    let record = record().with_header(name, value.to_vec()).with_header("ce-id", data.to_vec());
    all(&CloudEvents::new(), &record.with_header("ce-source", value.to_vec()));
});
