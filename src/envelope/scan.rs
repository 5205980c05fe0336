//! Picks a few members out of the top level of a JSON object, without building the rest.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A member's value as it stands in the payload: valid JSON but for the inside of its strings, which
/// is looked at when it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'r>(&'r str);

impl<'r> Raw<'r> {
    /// The JSON text.
    pub(crate) fn get(self) -> &'r str {
        self.0
    }

    /// The text of a string: borrowed unless it has escapes. `None` for other types, and for
    /// surrogates without a partner.
    pub(crate) fn text(self) -> Option<Cow<'r, str>> {
        if !self.0.starts_with('"') {
            return None;
        }
        struct Text;
        impl<'r> Visitor<'r> for Text {
            type Value = Cow<'r, str>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'r str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        serde_json::Deserializer::from_str(self.0).deserialize_str(Text).ok()
    }

    /// The same, where it is not empty.
    pub(crate) fn filled(self) -> Option<Cow<'r, str>> {
        self.text().filter(|text| !text.is_empty())
    }

    /// The same, or a whole number in its digits: `7` names a thing as well as `"7"`.
    pub(crate) fn name(self) -> Option<Cow<'r, str>> {
        let digits = self.0.strip_prefix('-').unwrap_or(self.0);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            return Some(Cow::Borrowed(self.0));
        }
        self.filled()
    }
}

/// The values of these members of the object that `payload` is, each `None` where there is no such
/// member.
///
/// Reading stops when all have been found; of members that come twice the *first* counts. What comes
/// behind is not looked at, so that an answer does not say that the payload is valid; where it is
/// broken before, what had been found until then is returned. A byte order mark is skipped (RFC 8259
/// section 8.1 allows it), so that an event is not overlooked for it. Nesting costs no stack, whatever
/// its depth.
pub(crate) fn pick<'r, const N: usize>(
    payload: &'r [u8],
    names: [&str; N],
) -> [Option<Raw<'r>>; N] {
    let mut found = [None; N];
    let payload = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
    let mut json = serde_json::Deserializer::from_slice(payload);
    // the visitor leaves early, which the parser takes for an error, as it does a broken payload
    let _ = json.deserialize_map(Members { names, found: &mut found });
    found
}

struct Members<'n, 'f, 'r, const N: usize> {
    names: [&'n str; N],
    found: &'f mut [Option<Raw<'r>>; N],
}

impl<'r, const N: usize> Visitor<'r> for Members<'_, '_, 'r, N> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'r>>(self, mut map: A) -> Result<(), A::Error> {
        let mut missing = N;
        while missing > 0 {
            let Some(member) = map.next_key_seed(Name(&self.names))? else { break };
            match member {
                Some(index) if self.found[index].is_none() => {
                    self.found[index] = Some(Raw(map.next_value::<&'r RawValue>()?.get()));
                    missing -= 1;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Which of the names a member has. Read as bytes: a name with a broken surrogate is none of ours, and
/// no reason to give up.
struct Name<'n>(&'n [&'n str]);

impl<'r> DeserializeSeed<'r> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'r>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted.as_bytes() == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &str) -> Option<String> {
        let [id] = pick(payload.as_bytes(), ["id"]);
        id.map(|raw| raw.get().to_owned())
    }

    #[test]
    fn the_first_of_two_counts_and_the_rest_is_not_read() {
        assert_eq!(text(r#"{"id":1,"id":2}"#).as_deref(), Some("1"));
        assert_eq!(text(r#"{"id":1 and then rubbish"#).as_deref(), Some("1"));
        assert_eq!(text(r#"{"a":rubbish,"id":1}"#), None);
    }

    #[test]
    fn only_the_top_level_counts() {
        assert_eq!(text(r#"{"a":{"id":1},"b":[{"id":2}],"c":"\"id\":3"}"#), None);
        assert_eq!(text(r#"{"\u0069d":4}"#).as_deref(), Some("4"));
        assert_eq!(text(r#"{"\ud800":0,"id":"\ud800"}"#).as_deref(), Some(r#""\ud800""#));
    }

    #[test]
    fn a_borrowed_text_costs_no_allocation() {
        let [id] = pick(br#"{"id":"abc"}"#, ["id"]);
        assert!(matches!(id.and_then(Raw::text), Some(Cow::Borrowed("abc"))));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = 100_000;
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = format!("{}1{}", open.repeat(deep), close.repeat(deep));
            let payload = format!(r#"{{"x":{nested},"id":"found"}}"#);
            assert_eq!(text(&payload).as_deref(), Some("\"found\""));
            assert_eq!(text(&format!(r#"{{"id":{nested}}}"#)).map(|t| t.len()), Some(nested.len()));
            let _ = text(&nested);
            let _ = text(&open.repeat(deep));
        }
    }
}
