//! Which key a line has, found without decoding the line.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

type KeyFn = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// How keys are found.
#[derive(Clone)]
pub(super) enum KeyBy {
    None,
    Field(Arc<str>),
    Function(KeyFn),
}

/// The key of a line: mostly a piece of it, which costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    None,
    Within(Range<usize>),
    Own(Bytes),
}

impl KeyBy {
    /// The key of a line. A function that panics has found none: whether the event is any good is for
    /// a pipeline to say.
    pub(super) fn of(&self, line: &[u8]) -> Key {
        match self {
            Self::None => Key::None,
            Self::Field(field) => field_of(line, field),
            Self::Function(key) => match catch_unwind(AssertUnwindSafe(|| key(line))) {
                Ok(Some(key)) => Key::Own(key),
                Ok(None) | Err(_) => Key::None,
            },
        }
    }

    /// What a checkpoint remembers, so that lines do not change their shards unseen.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Field(field) => format!("field {field}"),
            Self::Function(_) => "function".to_owned(),
        }
    }
}

impl Key {
    /// The key's bytes, given its line.
    pub(super) fn of<'l>(&'l self, line: &'l [u8]) -> Option<&'l [u8]> {
        match self {
            Self::None => None,
            Self::Within(range) => line.get(range.clone()),
            Self::Own(bytes) => Some(bytes),
        }
    }

    /// The key as a shared piece of its line.
    pub(super) fn take(self, line: &Bytes) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Within(range) => Some(line.slice(range)),
            Self::Own(bytes) => Some(bytes),
        }
    }
}

/// The value of a top-level field: text that is not empty, or a number as it is written.
fn field_of(line: &[u8], field: &str) -> Key {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(line);
    // stops at the field, so the rest of the line is not looked at and may be an error
    let _ = json.deserialize_map(Find { field, found: &mut found });
    let Some(text) = found.map(RawValue::get) else { return Key::None };
    // `text` is a piece of `line`: serde_json borrows raw values
    let start = (text.as_ptr() as usize).wrapping_sub(line.as_ptr() as usize);
    match text.as_bytes() {
        [b'"', b'"'] => Key::None,
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            Key::Within(start + 1..start + 1 + inner.len())
        }
        [b'"', ..] => match serde_json::from_str::<String>(text) {
            Ok(key) => Key::Own(key.into()),
            Err(_) => Key::None,
        },
        [b'-' | b'0'..=b'9', ..] => Key::Within(start..start + text.len()),
        _ => Key::None,
    }
}

struct Find<'f, 'o, 'de> {
    field: &'f str,
    found: &'o mut Option<&'de RawValue>,
}

impl<'de> Visitor<'de> for Find<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_it) = map.next_key_seed(Is(self.field))? {
            if is_it {
                *self.found = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

struct Is<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(line: &str) -> Option<String> {
        let line = line.as_bytes();
        field_of(line, "k").of(line).map(|key| String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn a_field_is_found_at_the_top_only() {
        assert_eq!(key(r#"{"a":{"k":"deep"},"k":"top","k":"later"}"#).as_deref(), Some("top"));
        assert_eq!(key(r#"{"k":"a\nb\u00e9"}"#).as_deref(), Some("a\nbé"));
        assert_eq!(
            key(r#"{"\u006b":18446744073709551616}"#).as_deref(),
            Some("18446744073709551616")
        );
        assert_eq!(key(r#"{"k" : -1.50 , broken"#).as_deref(), Some("-1.50"));
        for none in
            [r#"{"k":null}"#, r#"{"k":""}"#, r#"{"k":{}}"#, "[1]", "", "{", "\u{feff}{}", "7"]
        {
            assert_eq!(key(none), None, "{none}");
        }
        assert_eq!(key(&"[".repeat(100_000)), None);
        assert_eq!(key(&format!("{{\"a\":{}", "[".repeat(100_000))), None);
    }

    #[test]
    fn f9_a_key_function_that_panics_has_found_none() {
        let by = KeyBy::Function(Arc::new(|_| panic!("of the test")));
        assert_eq!(by.of(b"x"), Key::None);
    }

    proptest! {
        #[test]
        fn any_text_can_be_a_key(text in "\\PC{1,20}|[\\x00-\\x7f]{1,9}", lead in any::<u32>()) {
            let line = serde_json::json!({"a": lead, "k": text}).to_string();
            prop_assert_eq!(key(&line), Some(text));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = field_of(&bytes, "k").of(&bytes);
        }
    }
}
