//! A message of JetStream as a record.
//!
//! Nothing is added: the subject is the key, the headers are the headers, the sequence of the stream is the position.

use std::sync::Arc;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use streambreaker::{Headers, Position, Record, ShardId, Timestamp};

/// What the server says of a delivery, in the subject that it is to be acknowledged on.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Where it is to be acknowledged.
    pub(crate) reply: Subject,
}

/// A message, read.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) record: Record,
    pub(crate) delivered: Delivered,
}

impl Delivered {
    /// Reads the subject that a message is to be acknowledged on; `None` for what is not a message of a consumer.
    ///
    /// Read here and not by the client, whose type of time depends on a feature that somebody else may turn on.
    pub(crate) fn of(reply: &Subject) -> Option<Self> {
        let mut tokens = [""; 12];
        let mut count = 0;
        for (token, place) in reply.strip_prefix("$JS.ACK.")?.split('.').zip(&mut tokens) {
            *place = token;
            count += 1;
        }
        // newer servers put domain and account in front: domain, account, stream, consumer, then the numbers
        let numbers = match count {
            7 => &tokens[2..7],
            9.. => &tokens[4..9],
            _ => return None,
        };
        let number = |n: usize| numbers[n].parse::<u64>().ok();
        let nanos: i64 = numbers[3].parse().ok()?;
        Some(Self {
            deliveries: u32::try_from(number(0)?.max(1)).unwrap_or(u32::MAX),
            sequence: number(1)?,
            consumer_sequence: number(2)?,
            arrival: Timestamp::from_micros(nanos.div_euclid(1_000)),
            pending: number(4)?,
            reply: reply.clone(),
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
        for other in ["$JS.ACK.ORDERS", "_INBOX.a.b", "$JS.ACK.a.b.x.1.1.1.1"] {
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
