//! The fields of the JSON form, as serde reads and writes them, and how bytes stand in strings.
//!
//! Texts borrow on both ways, so that a payload is copied once.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::FaultParseError;
use super::event::{ClaimCheck, FaultRecord};
use crate::record::{Delivery, Headers, PartPath, Record, ShardId, Timestamp};

// The heads that filters and monitors read come first, so that a reader that stops early can.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire<'a> {
    #[serde(borrow)]
    pub(super) schema: Cow<'a, str>,
    pub(super) id: Uuid,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(default)]
    pub(super) depth: u8,
    pub(super) timestamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timestamp_micros: Option<i64>,
    #[serde(default, borrow)]
    pub(super) partition_key: Cow<'a, str>,
    #[serde(default)]
    pub(super) tags: Cow<'a, BTreeMap<String, String>>,
    #[serde(borrow)]
    pub(super) processor: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) pipeline: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) stage: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) class: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) release: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) instance: Cow<'a, str>,
    #[serde(default)]
    pub(super) delivery: WireDelivery,
    #[serde(default)]
    pub(super) attempts: Vec<WireAttempt<'a>>,
    #[serde(borrow)]
    pub(super) err: WireError<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Uuid>,
    #[serde(default)]
    pub(super) resubmits: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) part: Option<WirePart>,
    #[serde(default, borrow)]
    pub(super) fingerprint: Cow<'a, str>,
    #[serde(default)]
    pub(super) grouped: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) derived: Option<Cow<'a, str>>,
    // written for readers that want no payloads; the records say the same, and more
    #[serde(skip_deserializing)]
    pub(super) lineage: Vec<WireLineage<'a>>,
    #[serde(borrow)]
    pub(super) uow: WireUow<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireError<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(super) stack: Cow<'a, str>,
}

#[derive(Serialize, Deserialize, Default)]
pub(super) struct WireDelivery {
    pub(super) kind: DeliveryKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "PartPath::is_whole")]
    pub(super) part: PartPath,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryKind {
    #[default]
    Live,
    Replay,
    Resubmit,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireAttempt<'a> {
    pub(super) at: i64,
    #[serde(borrow)]
    pub(super) class: Cow<'a, str>,
    #[serde(default)]
    pub(super) duration_nanos: u128,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WirePart {
    pub(super) of: Uuid,
    pub(super) first: u32,
    pub(super) total: u32,
}

#[derive(Serialize, Deserialize, Default)]
pub(super) struct WireLineage<'a> {
    pub(super) stream: Cow<'a, str>,
    pub(super) shard: Cow<'a, str>,
    pub(super) position: Cow<'a, str>,
    pub(super) arrival: i64,
    #[serde(default, skip_serializing_if = "PartPath::is_whole")]
    pub(super) part: PartPath,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireUow<'a> {
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) record: Option<WireRecord<'a>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<Vec<WireItem<'a>>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireItem<'a> {
    #[serde(borrow)]
    pub(super) record: WireRecord<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireRecord<'a> {
    #[serde(borrow)]
    pub(super) stream: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) shard: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) position: Cow<'a, str>,
    #[serde(default)]
    pub(super) arrival: i64,
    #[serde(default, skip_serializing_if = "PartPath::is_whole")]
    pub(super) part: PartPath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) delivery: Option<WireDelivery>,
    #[serde(default = "one")]
    pub(super) deliveries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_encoding: Option<Encoding>,
    #[serde(default)]
    pub(super) headers: Vec<WireHeader<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<WireClaim<'a>>,
    pub(super) encoding: Encoding,
    #[serde(borrow)]
    pub(super) payload: Cow<'a, str>,
}

const fn one() -> u32 {
    1
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireHeader<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(default)]
    pub(super) encoding: Encoding,
    #[serde(borrow)]
    pub(super) value: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireClaim<'a> {
    #[serde(borrow)]
    pub(super) uri: Cow<'a, str>,
    #[serde(default)]
    pub(super) size: u64,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    #[default]
    Utf8,
    Base64,
}

fn encode(bytes: &[u8]) -> (Encoding, Cow<'_, str>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Encoding::Utf8, Cow::Borrowed(text)),
        Err(_) => (Encoding::Base64, Cow::Owned(STANDARD.encode(bytes))),
    }
}

fn decode(
    encoding: Encoding,
    text: Cow<'_, str>,
    field: &'static str,
) -> Result<Bytes, FaultParseError> {
    match encoding {
        Encoding::Utf8 => Ok(text.into_owned().into()),
        Encoding::Base64 => match STANDARD.decode(&*text) {
            Ok(bytes) => Ok(bytes.into()),
            Err(_) => Err(FaultParseError::Invalid { field }),
        },
    }
}

/// An empty list, which we do not write, is the same as none.
fn normal(part: &PartPath) -> PartPath {
    PartPath::new(part.indices())
}

impl WireDelivery {
    pub(super) fn of(delivery: &Delivery) -> Self {
        match delivery {
            Delivery::Live => Self::default(),
            Delivery::Replay { run } => {
                Self { kind: DeliveryKind::Replay, run: Some(*run), ..Self::default() }
            }
            Delivery::Resubmit { fault, attempt, part, run } => Self {
                kind: DeliveryKind::Resubmit,
                fault: Some(*fault),
                attempt: Some(*attempt),
                part: part.clone(),
                run: *run,
            },
        }
    }

    pub(super) fn read(self) -> Result<Delivery, FaultParseError> {
        match self.kind {
            DeliveryKind::Live => Ok(Delivery::Live),
            DeliveryKind::Replay => {
                let run = self.run.ok_or(FaultParseError::Missing { field: "run" })?;
                Ok(Delivery::Replay { run })
            }
            DeliveryKind::Resubmit => {
                let fault = self.fault.ok_or(FaultParseError::Missing { field: "fault" })?;
                let attempt = self.attempt.ok_or(FaultParseError::Missing { field: "attempt" })?;
                Ok(Delivery::Resubmit { fault, attempt, part: normal(&self.part), run: self.run })
            }
        }
    }
}

impl<'a> WireRecord<'a> {
    pub(super) fn of(fault: &'a FaultRecord, delivery: &Delivery) -> Self {
        let record = &fault.record;
        let key = record.key().map(|key| encode(key));
        let (encoding, payload) = encode(record.payload());
        Self {
            stream: record.stream().into(),
            shard: record.shard().as_str().into(),
            position: record.position().to_string().into(),
            arrival: record.arrival().as_micros(),
            part: fault.part.clone(),
            // that of the event, unless a unit was put together from several
            delivery: (record.delivery() != delivery).then(|| WireDelivery::of(record.delivery())),
            deliveries: record.deliveries(),
            key_encoding: key.as_ref().map(|(encoding, _)| *encoding),
            key: key.map(|(_, key)| key),
            headers: (record.headers().iter())
                .map(|(name, value)| {
                    let (encoding, value) = encode(value);
                    WireHeader { name: name.into(), encoding, value }
                })
                .collect(),
            claim: (fault.claim.as_ref())
                .map(|claim| WireClaim { uri: (&*claim.uri).into(), size: claim.size }),
            encoding,
            payload,
        }
    }

    pub(super) fn read(self, delivery: &Delivery) -> Result<FaultRecord, FaultParseError> {
        let position =
            self.position.parse().map_err(|_| FaultParseError::Invalid { field: "position" })?;
        let mut headers = Headers::new();
        for header in self.headers {
            let value = decode(header.encoding, header.value, "headers")?;
            headers.push(header.name.into_owned(), value);
        }
        let delivery = match self.delivery {
            Some(own) => own.read()?,
            None => delivery.clone(),
        };
        let payload = decode(self.encoding, self.payload, "payload")?;
        let shard = ShardId::from(self.shard.into_owned());
        let mut record = Record::new(self.stream, shard, position, payload)
            .with_headers(headers)
            .with_arrival(Timestamp::from_micros(self.arrival))
            .with_delivery(delivery)
            .with_deliveries(self.deliveries);
        if let Some(key) = self.key {
            record = record.with_key(decode(self.key_encoding.unwrap_or_default(), key, "key")?);
        }
        let claim =
            self.claim.map(|claim| ClaimCheck { uri: claim.uri.into_owned(), size: claim.size });
        Ok(FaultRecord { record, part: normal(&self.part), claim })
    }
}
