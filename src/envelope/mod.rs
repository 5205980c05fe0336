//! What an event's id, type, time and key are: asked of an envelope, so that no pipeline knows a
//! transport's habits.

use std::borrow::Cow;

use crate::record::{Record, Timestamp};

/// Reads the outside of an event without decoding its inside.
///
/// Every method answers `None` where the event does not say; none may panic on hostile input.
pub trait Envelope: Send + Sync + 'static {
    /// What identifies the event, over all its deliveries.
    fn id<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>>;
    /// Its type, for example `order-submitted`.
    fn kind<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>>;
    /// When it happened, as its producer says.
    fn time(&self, record: &Record) -> Option<Timestamp>;
    /// What events that belong together share.
    fn key<'r>(&self, record: &'r Record) -> Option<Cow<'r, str>>;
    /// The bytes of the event proper: what a codec decodes. The whole payload unless said otherwise.
    fn data<'r>(&self, record: &'r Record) -> Cow<'r, [u8]> {
        Cow::Borrowed(record.payload())
    }
}
