//! The version that most events have without being asked: when they happened, and who they are.

use std::fmt;

use crate::record::Timestamp;
use crate::unit::Received;

/// When an event happened, then its id.
///
/// The id decides between events of the same moment. Which of them wins means nothing, but it is the same one in
/// every order in which they come; decided by arrival, two consumers would end in different states. Where the
/// producer counts (a sequence number, a revision), that is the better version: anything that is [`Ord`] is one.
///
/// `Debug` shows the moment, not the id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    // the order of the fields is the order of versions
    time: Timestamp,
    id: String,
}

impl Version {
    /// The version of what happened at `time` in the event `id`.
    pub fn new(time: Timestamp, id: impl Into<String>) -> Self {
        Self { time, id: id.into() }
    }

    /// The version of this event: its time, or its arrival in the stream where it does not say; its id, or its
    /// [`idempotency_key`](Received::idempotency_key) where it has none. The same in every delivery.
    ///
    /// Of a decoded event: `Version::of(event.received())`.
    pub fn of(event: &Received) -> Self {
        Self { time: super::moment(event), id: super::identity(event) }
    }

    /// When it happened.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The id of the event.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A text that sorts as versions do, byte by byte: for stores that compare one value only.
    ///
    /// ```
    /// use streambreaker::Timestamp;
    /// use streambreaker::idempotence::Version;
    ///
    /// let old = Version::new(Timestamp::from_millis(-5), "b");
    /// let new = Version::new(Timestamp::from_millis(1_700_000_000_000), "a");
    /// assert!(old < new && old.sort_key() < new.sort_key());
    /// assert_eq!(new.sort_key(), "09225072036854775808/a");
    /// ```
    pub fn sort_key(&self) -> String {
        // moments before 1970 are negative, and must sort before the others: shifted to start at zero
        let shifted = (self.time.as_micros() as u64) ^ (1 << 63);
        format!("{shifted:020}/{}", self.id)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_version() -> impl Strategy<Value = Version> {
        let time = prop_oneof![any::<i64>(), -3i64..3, Just(i64::MIN), Just(i64::MAX)];
        (time, "[a-c/\u{e9}\u{10348}]{0,3}")
            .prop_map(|(time, id)| Version::new(Timestamp::from_micros(time), id))
    }

    proptest! {
        #[test]
        fn l10_sort_keys_order_as_versions_do(a in any_version(), b in any_version()) {
            prop_assert_eq!(a.cmp(&b), a.sort_key().cmp(&b.sort_key()));
        }
    }

    #[test]
    fn l12_debug_of_a_version_does_not_show_the_id() {
        let printed = format!("{:?}", Version::new(Timestamp::from_millis(0), "hunter2"));
        assert!(printed.contains("1970") && !printed.contains("hunter2"), "{printed}");
    }
}
