//! What an event's id, type, time and key are: asked of an envelope, so that no pipeline knows a
//! transport's habits.
//!
//! Looking at the outside must not cost a decode of the inside: `of_type` asks every record of a
//! stream for its type, and most pipelines want few of them. The built-in envelopes read the top level
//! of the JSON once, skip values without building them, and stop at the last field that was asked for.

use std::borrow::Cow;

use crate::record::{Record, Timestamp};

mod cloudevents;
mod json;
mod scan;
pub(crate) mod time;

pub use self::cloudevents::CloudEvents;
pub use self::json::JsonEnvelope;
pub(crate) use self::scan::pick;

/// Reads the outside of an event without decoding its inside.
///
/// Every method answers `None` where the event does not say; none may panic on hostile input, and
/// none takes more than linear time.
///
/// An envelope is asked often and by several pipelines: it holds no state. For an event format of
/// one's own:
///
/// ```
/// use std::borrow::Cow;
/// use streambreaker::envelope::Envelope;
/// use streambreaker::{Position, Record, Timestamp};
///
/// /// The type is the stream's name, the id is a header.
/// struct ByStream;
///
/// impl Envelope for ByStream {
///     fn id<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
///         std::str::from_utf8(record.header("id")?).ok().map(Cow::Borrowed)
///     }
///     fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
///         Some(Cow::Borrowed(record.stream()))
///     }
///     fn time(&self, record: &Record) -> Option<Timestamp> {
///         Some(record.arrival())
///     }
/// }
///
/// let record = Record::new("orders", "0", Position::from(1), "").with_header("id", "a").with_key("k");
/// assert_eq!(ByStream.head(&record).id.as_deref(), Some("a"));
/// assert_eq!(ByStream.key(&record).as_deref(), Some("k"));
/// ```
pub trait Envelope: Send + Sync + 'static {
    /// What identifies the event, over all its deliveries. Never empty.
    fn id<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>>;

    /// Its type, for example `order-submitted`. Never empty. Asked of every record that a pipeline
    /// filters by type, so it has to be cheap.
    fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>>;

    /// When it happened, as its producer says.
    fn time(&self, record: &Record) -> Option<Timestamp>;

    /// What events that belong together share. The transport's key, if it is UTF-8, unless said
    /// otherwise.
    fn key<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>> {
        record_key(record)
    }

    /// The bytes of the event proper: what a codec decodes. The whole payload unless said otherwise.
    fn data<'r>(&self, record: &'r Record) -> Cow<'r, [u8]> {
        Cow::Borrowed(record.payload())
    }

    /// All at once: cheaper than one by one where the payload has to be read for it. Of a payload that is not UTF-8
    /// it may say less than they do.
    fn head<'r>(&self, record: &'r Record) -> Head<'r> {
        Head {
            id: self.id(record),
            kind: self.kind(record),
            time: self.time(record),
            key: self.key(record),
        }
    }
}

/// The outside of an event, read in one go.
///
/// `Debug` prints what is there, not what it says (rule L12).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Head<'r> {
    /// As [`Envelope::id`].
    pub id: Option<Cow<'r, str>>,
    /// As [`Envelope::kind`].
    pub kind: Option<Cow<'r, str>>,
    /// As [`Envelope::time`].
    pub time: Option<Timestamp>,
    /// As [`Envelope::key`].
    pub key: Option<Cow<'r, str>>,
}

impl std::fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head")
            .field("id", &self.id.is_some())
            .field("kind", &self.kind.is_some())
            .field("time", &self.time)
            .field("key", &self.key.is_some())
            .finish()
    }
}

/// The transport's key as text. A key that is not UTF-8 is none, rather than one that others would
/// be mistaken for.
fn record_key(record: &Record) -> Option<Cow<'_, str>> {
    let key = std::str::from_utf8(record.key()?).ok()?;
    (!key.is_empty()).then_some(Cow::Borrowed(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Position;

    #[test]
    fn an_envelope_is_object_safe() {
        let envelope: Box<dyn Envelope> = Box::new(JsonEnvelope::new());
        let record = Record::new("s", "0", Position::from(1), r#"{"id":"a","type":"b"}"#);
        assert_eq!(envelope.head(&record).kind.as_deref(), Some("b"));
    }

    #[test]
    fn l12_debug_of_a_head_tells_no_secrets() {
        let record = Record::new("s", "0", Position::from(1), r#"{"id":"hunter2"}"#);
        let printed = format!("{:?}", JsonEnvelope::new().head(&record.with_key("hunter2")));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
