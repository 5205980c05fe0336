//! A record: one event as the stream delivered it, with its whole wrapper.
//!
//! Nothing here interprets the payload. What an event's id, type or time is, is the business of an
//! [`Envelope`](crate::envelope::Envelope); what it means is the business of the handler.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::time::rfc3339;

pub use self::headers::Headers;
pub use self::position::{ParsePositionError, Position};

mod headers;
mod position;

/// The name of an ordered part of a stream that one reader reads: a Kafka partition, a Kinesis
/// shard, a NATS consumer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// A shard of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardId({:?})", &*self.0)
    }
}

impl From<&str> for ShardId {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for ShardId {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// A moment in UTC, in microseconds since 1970.
///
/// Microseconds, because that is what stores and brokers keep; signed, because events from before
/// 1970 exist. Arithmetic saturates: a producer whose clock stands in the year 99,999 is its
/// problem, not a panic of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since 1970, saturating at the ends of what microseconds can hold.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// How long `earlier` lies before this moment; zero if it does not (a clock that jumped back).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment plus `by`, saturating.
    pub fn plus(self, by: Duration) -> Timestamp {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |m| -m))
            }
        }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds, for example `2013-01-01T10:17:00.000000Z`. Years outside
    /// 0 to 9999 are printed with a sign, and with as many digits as they need, four at least.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, micros) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        let (days, sec) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (h, m, s) = (sec / 3600, sec / 60 % 60, sec % 60);
        if (0..=9999).contains(&year) {
            write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{micros:06}Z")
        } else {
            write!(f, "{year:+05}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{micros:06}Z")
        }
    }
}

/// A time that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time; accepted: a date and time with its zone by RFC 3339, such as 2013-01-01T10:17:00Z"
)]
pub struct ParseTimestampError(());

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads a date and time by RFC 3339, and whatever `Display` prints. Digits below a microsecond are cut off.
    ///
    /// ```
    /// use streambreaker::Timestamp;
    ///
    /// let time: Timestamp = "2013-01-01T05:17:00-05:00".parse()?;
    /// assert_eq!(time.to_string(), "2013-01-01T10:17:00.000000Z");
    /// assert!("2013-01-01".parse::<Timestamp>().is_err());
    /// # Ok::<(), streambreaker::record::ParseTimestampError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        rfc3339(text).ok_or(ParseTimestampError(()))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Year, month and day of a day number counted from 1970-01-01, in the proleptic Gregorian
/// calendar (the era arithmetic of H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Which part of a record a unit is, where it came through `split`: the index in each split on the
/// way, outermost first. Empty for a whole record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartPath(Option<Arc<Vec<u32>>>); // a thin pointer: it is in every record

impl PartPath {
    /// The path of a whole record.
    pub const fn whole() -> Self {
        Self(None)
    }

    /// The path with these indices.
    pub fn new(indices: &[u32]) -> Self {
        Self(if indices.is_empty() { None } else { Some(Arc::new(indices.to_vec())) })
    }

    /// The indices, outermost first.
    pub fn indices(&self) -> &[u32] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether this is a whole record.
    pub fn is_whole(&self) -> bool {
        self.0.is_none()
    }

    /// The path of part `index` of what this path names.
    pub fn part(&self, index: u32) -> Self {
        let mut all = Vec::with_capacity(self.indices().len() + 1);
        all.extend_from_slice(self.indices());
        all.push(index);
        Self(Some(Arc::new(all)))
    }
}

impl fmt::Debug for PartPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.indices()).finish()
    }
}

/// Why a record is here: it just came, or somebody sent it again on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Delivery {
    /// From the stream.
    #[default]
    Live,
    /// From the data lake, to one consumer.
    Replay {
        /// The replay that sent it. A fault in one replay is another fault than in the next.
        run: Uuid,
    },
    /// A faulted unit of work, sent again to the pipeline that refused it.
    Resubmit {
        /// The fault that held it.
        fault: Uuid,
        /// How often this fault has been resubmitted, this time included.
        attempt: u32,
        /// The part of the record that faulted; only this part passes a `split`.
        part: PartPath,
        /// The replay that made the fault; none where it came from the stream. What is muted in a replay is muted for it, too.
        run: Option<Uuid>,
    },
}

impl Delivery {
    /// Whether this is [`Delivery::Live`].
    pub fn is_live(&self) -> bool {
        matches!(self, Delivery::Live)
    }

    /// Whether this is from a replay: [`Delivery::Replay`], or a fault that one made, which is sent again.
    pub fn is_replay(&self) -> bool {
        self.run().is_some()
    }

    /// The replay that this is from, also where a fault that it made is sent again.
    pub fn run(&self) -> Option<Uuid> {
        match self {
            Delivery::Live => None,
            Delivery::Replay { run } => Some(*run),
            Delivery::Resubmit { run, .. } => *run,
        }
    }
}

/// One event as its transport delivered it: the full stream wrapper and the payload bytes.
///
/// Cloning is cheap: names, key and payload are shared. `Debug` prints names, positions and sizes,
/// never a key, a header or the payload.
///
/// ```
/// use streambreaker::{Position, Record};
///
/// let record = Record::new("orders", "0", Position::from(42), r#"{"id":"a"}"#)
///     .with_key("customer-7")
///     .with_header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert_eq!(record.position().to_string(), "42");
/// assert_eq!(record.payload(), r#"{"id":"a"}"#);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    stream: Arc<str>,
    shard: ShardId,
    position: Position,
    key: Option<Bytes>,
    headers: Headers,
    arrival: Timestamp,
    payload: Bytes,
    delivery: Delivery,
    deliveries: u32,
}

impl Record {
    /// A live record without key or headers, arrived at the epoch, delivered for the first time.
    pub fn new(
        stream: impl Into<Arc<str>>,
        shard: impl Into<ShardId>,
        position: Position,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            stream: stream.into(),
            shard: shard.into(),
            position,
            key: None,
            headers: Headers::new(),
            arrival: Timestamp::default(),
            payload: payload.into(),
            delivery: Delivery::Live,
            deliveries: 1,
        }
    }

    /// The same record with this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record with one header more.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<Box<str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// The same record with these headers instead of its own.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// The same record, arrived in the stream at `arrival`.
    #[must_use]
    pub fn with_arrival(mut self, arrival: impl Into<Timestamp>) -> Self {
        self.arrival = arrival.into();
        self
    }

    /// The same record, delivered for this reason.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The same record, delivered for the `count`-th time; 1 is the first. Zero is taken as 1.
    #[must_use]
    pub fn with_deliveries(mut self, count: u32) -> Self {
        self.deliveries = count.max(1);
        self
    }

    /// The stream it came from.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The shard of the stream.
    pub fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// Where in the shard it lies: the same in every delivery.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The transport's key, if it has one.
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The transport's headers, in their order, with duplicates.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.get(name)
    }

    /// When it arrived in the stream.
    pub fn arrival(&self) -> Timestamp {
        self.arrival
    }

    /// The event itself, byte for byte.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Why it is here.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// How often it has been delivered, this time included; 1 where the source does not count.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// The bytes that the limits in flight count: payload, key and headers.
    #[inline]
    pub fn size(&self) -> usize {
        let mut size = self.payload.len();
        if let Some(key) = &self.key {
            size += key.len();
        }
        if !self.headers.is_empty() {
            size += self.headers.size();
        }
        size
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record({}/{}@{}, {} bytes, {} headers)",
            self.stream,
            self.shard,
            self.position,
            self.payload.len(),
            self.headers.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_in_utc() {
        assert_eq!(
            Timestamp::from_millis(1_357_035_420_000).to_string(),
            "2013-01-01T10:17:00.000000Z"
        );
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            Timestamp::from_millis(951_782_400_000).to_string(),
            "2000-02-29T00:00:00.000000Z"
        );
        // the year 99,999 is printed, not refused
        assert!(Timestamp::from_millis(3_093_527_980_799_000).to_string().starts_with("+99999-"));
    }

    #[test]
    fn a_timestamp_is_read_as_it_is_printed() {
        for micros in [i64::MIN, -1, 0, 1_357_035_420_123_456, 3_093_527_980_799_000_000, i64::MAX]
        {
            let time = Timestamp::from_micros(micros);
            assert_eq!(time.to_string().parse(), Ok(time), "{time}");
        }
        for bad in ["", "now", "2013-01-01", "2013-01-01T10:17:00", "2013-02-30T00:00:00Z"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timestamp_saturates() {
        let last = Timestamp::from_micros(i64::MAX);
        assert_eq!(last.plus(Duration::MAX), last);
        assert_eq!(Timestamp::from_millis(i64::MAX), last);
        assert_eq!(Timestamp::from_micros(5).since(last), Duration::ZERO);
        let _ = last.to_string();
        let _ = Timestamp::from_micros(i64::MIN).to_string();
    }

    #[test]
    fn debug_of_a_record_shows_no_content() {
        let record = Record::new("s", "0", Position::from(1), "secret-payload")
            .with_key("secret-key")
            .with_header("secret-name", "secret-value");
        let text = format!("{record:?}");
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("s/0@1"), "{text}");
    }

    #[test]
    fn a_part_path_grows_and_prints() {
        let part = PartPath::whole().part(3).part(0);
        assert_eq!(part.indices(), [3, 0]);
        assert_eq!(format!("{part:?}"), "[3, 0]");
        assert_eq!(PartPath::new(&[]), PartPath::whole());
    }
}
