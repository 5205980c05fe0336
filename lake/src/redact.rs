//! Redaction where an event is produced: what must not be seen is taken out, or sealed, before it is in any stream.
//!
//! A stream is copied by whoever reads it: views, search indexes, lakes, faults. What is in an event is everywhere, so the one
//! place to take something out is its producer. (The advice of the *stream circuit breaker* and *data lake* patterns.)

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::LakeError;
use crate::seal::{Key, KeyProvider, Opener, Sealer};

/// What becomes of a field.
enum How {
    Remove,
    Mask,
    Seal(Box<Sealer>),
}

/// Takes fields out of what is about to be published, or seals them.
///
/// Fields are named by JSON pointers (RFC 6901), in which `*` stands for every item of a list or member of an object.
/// What is not there is left alone.
///
/// ```
/// use streambreaker::flow::NewEvent;
/// use streambreaker::prelude::*;
/// use streambreaker::{Processor, Shutdown, memory};
/// use streambreaker_lake::{Key, Redact};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order {
///     id: u64,
///     email: String,
///     card: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Resource::builder("bus").timeout(std::time::Duration::from_secs(1)).build()?;
/// let (out, target) = { let out = memory::Collect::new(); (out.clone(), out) };
/// let processor = Processor::builder("orders")
///     .source(memory::stream([r#"{"id":7,"email":"ann@example.com","card":"4111"}"#]))
///     .faults(memory::faults())
///     .pipeline("publish", move |flow| {
///         let redact = Redact::new().mask("/card").seal("/email", "2026", &Key::new([7; 32]));
///         flow.json::<Order>()
///             .try_map(move |order| NewEvent::json("order-submitted", &redact.json(&*order)?))
///             .publish(&bus, target.clone())
///     })
///     .build()?;
/// processor.run(Shutdown::never()).await?;
///
/// let body = String::from_utf8(out.items()[0].body.to_vec())?;
/// assert!(body.contains(r#""card":"***""#) && !body.contains("ann@example.com"));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "it redacts nothing by itself"]
pub struct Redact(Vec<(Vec<String>, How)>);

impl fmt::Debug for Redact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(pointer, _)| pointer.join("/"))).finish()
    }
}

/// The segments of a pointer.
fn segments(pointer: &str) -> Vec<String> {
    pointer
        .strip_prefix('/')
        .unwrap_or(pointer)
        .split('/')
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect()
}

impl Redact {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this field out.
    pub fn remove(mut self, pointer: &str) -> Self {
        self.0.push((segments(pointer), How::Remove));
        self
    }

    /// Puts `***` in its place: consumers see that there was something.
    pub fn mask(mut self, pointer: &str) -> Self {
        self.0.push((segments(pointer), How::Mask));
        self
    }

    /// Seals it: whoever has the key reads it again ([`unseal`]). Equal values of a field look equal when sealed, so that
    /// they can still be counted and joined by.
    pub fn seal(mut self, pointer: &str, key_id: &str, key: &Key) -> Self {
        self.0.push((segments(pointer), How::Seal(Box::new(Sealer::new(key_id, key)))));
        self
    }

    /// The value as JSON, redacted.
    ///
    /// # Errors
    /// When it does not serialise.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(value)?;
        self.apply(&mut value);
        Ok(value)
    }

    /// Redacts this value.
    pub fn apply(&self, value: &mut Value) {
        for (pointer, how) in &self.0 {
            redact(value, pointer, how, pointer);
        }
    }
}

fn redact(value: &mut Value, rest: &[String], how: &How, whole: &[String]) {
    let Some((segment, rest)) = rest.split_first() else { return };
    let last = rest.is_empty();
    let each = segment == "*";
    match value {
        Value::Object(members) => {
            if last && matches!(how, How::Remove) {
                members.retain(|name, _| !each && name != segment);
                return;
            }
            for (_, member) in members.iter_mut().filter(|(name, _)| each || *name == segment) {
                if last { cover(member, how, whole) } else { redact(member, rest, how, whole) }
            }
        }
        Value::Array(items) => {
            let wanted = |at: usize| each || segment.parse() == Ok(at);
            if last && matches!(how, How::Remove) {
                let mut at = 0;
                items.retain(|_| {
                    at += 1;
                    !wanted(at - 1)
                });
                return;
            }
            for (_, item) in items.iter_mut().enumerate().filter(|(at, _)| wanted(*at)) {
                if last { cover(item, how, whole) } else { redact(item, rest, how, whole) }
            }
        }
        _ => {}
    }
}

const SEALED_BY: &str = "sealedBy";
const SEALED: &str = "sealed";

/// What is authenticated with a sealed field: a value that is moved to another field does not open.
fn place(pointer: &[String]) -> Vec<u8> {
    // with their lengths: a name may have a slash in it
    let segments = pointer.iter().map(|segment| format!("{}/{segment}", segment.len()));
    segments.collect::<String>().into_bytes()
}

fn cover(value: &mut Value, how: &How, pointer: &[String]) {
    *value = match how {
        How::Remove => Value::Null,
        How::Mask => Value::from("***"),
        How::Seal(sealer) => {
            let sealed = sealer.seal_bytes(&place(pointer), value.to_string().as_bytes());
            let mut members = Map::new();
            members.insert(SEALED_BY.to_owned(), sealer.sealed_by().into());
            members.insert(SEALED.to_owned(), BASE64.encode(sealed).into());
            members.into()
        }
    };
}

/// The value of a field that [`Redact::seal`] has sealed under this pointer; what was not sealed, as it is. None where it was
/// changed, or sealed in another field. A provider that is no `Clone` goes in an `Arc`.
///
/// ```
/// use serde_json::json;
/// use streambreaker_lake::{Key, Keys, Redact, unseal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redact = Redact::new().seal("/people/*/email", "2026", &Key::new([7; 32]));
/// let event = redact.json(&json!({"people": [{"email": "ann@example.com"}]}))?;
///
/// let keys = Keys::new("2026", Key::new([7; 32]));
/// let email = unseal(&event["people"][0]["email"], "/people/*/email", &keys).await?;
/// assert_eq!(email, Some(json!("ann@example.com")));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`LakeError::Key`].
pub async fn unseal<K: KeyProvider + Clone>(
    value: &Value,
    pointer: &str,
    keys: &K,
) -> Result<Option<Value>, LakeError> {
    let text = |name| value.get(name).and_then(Value::as_str);
    let (Some(sealed_by), Some(sealed)) = (text(SEALED_BY), text(SEALED)) else {
        return Ok(Some(value.clone()));
    };
    let sealed = BASE64.decode(sealed).unwrap_or_default();
    let place = place(&segments(pointer));
    let keys: Arc<dyn KeyProvider> = Arc::new(keys.clone());
    let opened = Opener::default().open_bytes(Some(&keys), sealed_by, &place, &sealed).await?;
    Ok(opened.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Keys;
    use serde_json::json;

    #[test]
    fn fields_are_removed_and_masked_wherever_they_are() {
        let mut value = json!({
            "id": 1, "card": {"number": "4111", "owner": "ann"}, "a/b": 2, "none": null,
            "items": [{"name": "x", "price": 1}, {"name": "y"}], "tags": ["a", "b", "c"],
        });
        Redact::new()
            .remove("/card/owner")
            .mask("/card/number")
            .mask("/a~1b")
            .remove("/items/*/name")
            .remove("/tags/1")
            .mask("/not/there")
            .apply(&mut value);
        let expected = json!({
            "id": 1, "card": {"number": "***"}, "a/b": "***", "none": null,
            "items": [{"price": 1}, {}], "tags": ["a", "c"],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn l11_fields_whose_names_look_alike_are_not_one_another() {
        let key = Key::new([7; 32]);
        let redact = Redact::new().seal("/a~1b", "a", &key).seal("/a/b", "a", &key);
        let sealed = redact.json(&json!({"a/b": "one", "a": {"b": "two"}})).expect("it serialises");
        let keys = Keys::new("a", key);
        let open = |value, pointer| {
            futures::executor::block_on(unseal(value, pointer, &keys)).expect("the key is there")
        };
        assert_eq!(open(&sealed["a/b"], "/a~1b"), Some(json!("one")));
        assert_eq!(open(&sealed["a"]["b"], "/a/b"), Some(json!("two")));
        assert_eq!((open(&sealed["a/b"], "/a/b"), open(&sealed["a"]["b"], "/a~1b")), (None, None));
    }

    #[test]
    fn l11_a_sealed_field_is_read_with_its_key_and_only_there() {
        let key = Key::new([7; 32]);
        let redact = Redact::new().seal("/people/*/ssn", "a", &key);
        let people = json!({"people": [{"ssn": {"n": 1}}, {"ssn": "two"}, {"ssn": "two"}]});
        let sealed = redact.json(&people).expect("it serialises");
        assert!(!sealed.to_string().contains("two"));
        let field = |at: usize| &sealed["people"][at]["ssn"];
        assert_eq!(field(1), field(2), "equal values look equal");
        let keys: Arc<dyn KeyProvider> = Arc::new(Keys::new("a", key));
        let others: Arc<dyn KeyProvider> = Arc::new(Keys::new("b", Key::new([8; 32])));
        futures::executor::block_on(async {
            let open = async |value: &Value, pointer: &str| {
                unseal(value, pointer, &keys).await.expect("a key")
            };
            assert_eq!(open(field(0), "/people/*/ssn").await, Some(json!({"n": 1})));
            assert_eq!(open(field(1), "/people/*/ssn").await, Some(json!("two")));
            assert_eq!(open(field(1), "/people/*/name").await, None, "moved");
            assert_eq!(open(&json!("plain"), "/x").await, Some(json!("plain")));
            assert!(unseal(field(0), "/people/*/ssn", &others).await.is_err());
        });
    }

    #[test]
    fn hostile_pointers_and_values_do_no_harm() {
        for pointer in ["", "/", "//", "~", "*", "/*/*/*", "/18446744073709551616", "ß"] {
            for value in
                [json!(null), json!(1), json!([]), json!({}), json!([[[1]]]), json!({"": {"": 1}})]
            {
                Redact::new().remove(pointer).mask(pointer).apply(&mut value.clone());
            }
        }
    }
}
