//! A message of JetStream as a record.
//!
//! Nothing is added: the subject is the key, the headers are the headers, the sequence of the stream is the position.

use std::sync::Arc;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use streambreaker::{Headers, Position, Record, ShardId, Timestamp};

/// What the server says of a delivery, in the subject that it is to be acknowledged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Its sequence in the stream: the same in every delivery.
    pub(crate) sequence: u64,
    /// Counts what the consumer was given, redeliveries included.
    pub(crate) consumer_sequence: u64,
    /// How often it was delivered, this time included.
    pub(crate) deliveries: u32,
    /// What waited behind it then, of what the consumer filters for.
    pub(crate) pending: u64,
    pub(crate) arrival: Timestamp,
}

impl Delivered {
    /// Reads the subject that a message is to be acknowledged on; `None` for what is not a message of a consumer.
    ///
    /// Read here and not by the client, whose type of time depends on a feature that somebody else may turn on. By bytes,
    /// as it is done for every message: to split the text costs three times as much.
    pub(crate) fn of(reply: &Subject) -> Option<Self> {
        let text = reply.as_bytes().strip_prefix(b"$JS.ACK.")?;
        // where each token ends
        let mut ends = [0; 12];
        let mut count = 0;
        for (at, byte) in text.iter().enumerate() {
            if *byte == b'.' {
                if let Some(end) = ends.get_mut(count) {
                    *end = at;
                }
                count += 1;
            }
        }
        if let Some(end) = ends.get_mut(count) {
            *end = text.len();
        }
        // newer servers put domain and account in front: domain, account, stream, consumer, then the numbers
        let first = match count + 1 {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let number = |n: usize| decimal(text.get(ends[first + n - 1] + 1..ends[first + n])?);
        Some(Self {
            deliveries: u32::try_from(number(0)?.max(1)).unwrap_or(u32::MAX),
            sequence: number(1)?,
            consumer_sequence: number(2)?,
            arrival: Timestamp::from_micros(i64::try_from(number(3)? / 1_000).ok()?),
            pending: number(4)?,
        })
    }

    /// The record of this delivery.
    pub(crate) fn record(&self, stream: &Arc<str>, shard: &ShardId, message: Message) -> Record {
        let mut record = Record::new(
            stream.clone(),
            shard.clone(),
            Position::from(self.sequence),
            message.payload,
        )
        .with_key(message.subject.into_string())
        .with_arrival(self.arrival)
        .with_deliveries(self.deliveries);
        if let Some(headers) = &message.headers {
            record = record.with_headers(headers_of(headers));
        }
        record
    }
}

/// A number of digits alone, of 64 bits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(u64::from(digit))).flatten()
    })
}

/// The headers by name, the values of a name in their order. The client keeps no order between names.
pub(crate) fn headers_of(map: &HeaderMap) -> Headers {
    let mut all: Vec<(&str, _)> =
        map.iter().map(|(name, values)| (name.as_ref(), values)).collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    all.into_iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        .map(|(name, value)| (name, Bytes::copy_from_slice(value.as_str().as_bytes())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_acknowledgement_are_read() {
        let old = Subject::from("$JS.ACK.ORDERS.totals.3.17.21.1700000000123456789.5");
        let new = Subject::from("$JS.ACK._.hash.ORDERS.totals.3.17.21.1700000000123456789.5.token");
        for reply in [old, new] {
            let delivered = Delivered::of(&reply).unwrap();
            assert_eq!((delivered.deliveries, delivered.sequence), (3, 17));
            assert_eq!((delivered.consumer_sequence, delivered.pending), (21, 5));
            assert_eq!(delivered.arrival.as_micros(), 1_700_000_000_123_456);
        }
        let others = [
            "$JS.ACK.ORDERS",
            "_INBOX.a.b",
            "$JS.ACK.",
            "$JS.ACK.a.b.x.1.1.1.1",
            "$JS.ACK.a.b.1.1.1..1",
            "$JS.ACK.a.b.1.1.1.1.18446744073709551616",
            "$JS.ACK.a.b.1.1.1.1.+1",
            "$JS.ACK.a.b.1.1.1.1.1.1",
        ];
        for other in others {
            assert_eq!(Delivered::of(&Subject::from(other)), None);
        }
    }

    #[test]
    fn headers_come_by_name_and_values_in_order() {
        let mut map = HeaderMap::new();
        map.append("z", "1");
        map.append("a", "2");
        map.append("z", "3");
        let headers = headers_of(&map);
        let all: Vec<_> = headers.iter().map(|(name, value)| (name, &value[..])).collect();
        assert_eq!(all, [("a", &b"2"[..]), ("z", b"1"), ("z", b"3")]);
    }
}
