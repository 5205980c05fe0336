//! The schema of an object: what its columns are, and what its footer says of it.
//!
//! The document `schema/v1.message` *is* the schema: it is what the writer is built from, and what people read.

use std::hash::Hasher;
use std::sync::{Arc, OnceLock};

use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use serde::{Deserialize, Serialize};
use streambreaker::{Position, Record, Timestamp};
use twox_hash::XxHash64;

use crate::encode::Stored;
use crate::error::Damage;

/// The version of the schema that this crate writes, and the only one it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The schema as a Parquet message.
pub const SCHEMA: &str = include_str!("../schema/v1.message");

/// The key of the footer's own entry in the object's metadata.
pub(crate) const FOOTER_KEY: &str = "streambreaker.lake";

/// The leaves of the schema, by their place.
pub(crate) mod column {
    pub(crate) const STREAM: usize = 0;
    pub(crate) const SHARD: usize = 1;
    pub(crate) const POSITION: usize = 2;
    pub(crate) const POSITION_SORT: usize = 3;
    pub(crate) const KEY: usize = 4;
    pub(crate) const HEADER_NAME: usize = 5;
    pub(crate) const HEADER_VALUE: usize = 6;
    pub(crate) const ARRIVAL: usize = 7;
    pub(crate) const PAYLOAD: usize = 8;
    pub(crate) const SEALED_BY: usize = 9;
    pub(crate) const EVENT_ID: usize = 10;
    pub(crate) const EVENT_TYPE: usize = 11;
    pub(crate) const EVENT_TIME: usize = 12;
    pub(crate) const COUNT: usize = 13;
}

pub(crate) fn schema() -> Arc<Type> {
    static PARSED: OnceLock<Arc<Type>> = OnceLock::new();
    PARSED
        .get_or_init(|| Arc::new(parse_message_type(SCHEMA).expect("the document is a schema")))
        .clone()
}

/// What an object says of itself, in its footer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Footer {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// The stream of all its records.
    pub stream: String,
    /// Their shard.
    pub shard: String,
    /// The position of its first record.
    pub first: Position,
    /// That of its last.
    pub last: Position,
    /// How many records it holds.
    pub records: u64,
    /// The last position that was stored before its first when it was written; none where nothing was. Positions may be
    /// sparse, so this, and not arithmetic, tells that nothing is missing between two objects.
    pub after: Option<Position>,
    /// The earliest arrival of its records.
    pub arrival_min: Timestamp,
    /// The latest.
    pub arrival_max: Timestamp,
    /// XXH64 of the records of each of its groups of rows, and of what was extracted of them, as hex.
    pub digests: Vec<String>,
}

impl Footer {
    /// Reads a footer; an unknown version is told from what is no footer at all.
    pub(crate) fn parse(text: &str) -> Result<Self, Damage> {
        #[derive(Deserialize)]
        struct Version {
            schema: serde_json::Value,
        }
        let version: Version =
            serde_json::from_str(text).map_err(|_| Damage::Contents("the footer"))?;
        if version.schema != SCHEMA_VERSION {
            let found: String = version.schema.to_string().chars().take(40).collect();
            return Err(Damage::Version(found));
        }
        serde_json::from_str(text).map_err(|_| Damage::Contents("the footer"))
    }
}

/// The checksum of a group of records: over every field behind its length, in their order, as they are stored (sealed
/// payloads sealed), so that it can be checked without a key. It finds what disks and networks do, not what an enemy does.
/// The form of a position that sorts is not in it: it follows from the position, and only `verify` reads it.
pub(crate) struct Digest(XxHash64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(XxHash64::with_seed(0))
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.0.write(&[u8::from(bytes.is_some())]);
        self.field(bytes.unwrap_or_default());
    }

    /// Takes in a record, which is the same wherever it is stored.
    pub(crate) fn add(&mut self, record: &Record, sealed_by: Option<&str>) {
        self.field(record.stream().as_bytes());
        self.field(record.shard().as_str().as_bytes());
        self.field(record.position().to_string().as_bytes());
        self.optional(record.key().map(|key| &key[..]));
        self.0.write(&(record.headers().len() as u64).to_le_bytes());
        for (name, value) in record.headers().iter() {
            self.field(name.as_bytes());
            self.field(value);
        }
        self.0.write(&record.arrival().as_micros().to_le_bytes());
        self.field(record.payload());
        self.optional(sealed_by.map(str::as_bytes));
    }

    /// Of records and what was extracted of them, by which they are found.
    pub(crate) fn of(records: &[Stored]) -> Self {
        let mut digest = Self::new();
        for stored in records {
            digest.add(&stored.record, stored.sealed_by.as_deref());
            digest.optional(stored.event_id.as_deref().map(str::as_bytes));
            digest.optional(stored.event_type.as_deref().map(str::as_bytes));
            let time = stored.event_time.map(|time| time.as_micros().to_le_bytes());
            digest.optional(time.as_ref().map(|time| &time[..]));
        }
        digest
    }

    pub(crate) fn hex(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::schema::types::SchemaDescriptor;

    #[test]
    fn the_document_prints_as_it_is_written() {
        let mut printed = Vec::new();
        parquet::schema::printer::print_schema(&mut printed, &schema());
        assert_eq!(String::from_utf8(printed).expect("text").trim(), SCHEMA.trim());
    }

    #[test]
    fn columns_are_where_they_are_said_to_be() {
        let leaves = SchemaDescriptor::new(schema());
        let names: Vec<String> = leaves.columns().iter().map(|leaf| leaf.path().string()).collect();
        assert_eq!(names.len(), column::COUNT);
        for (place, name) in [
            (column::STREAM, "stream"),
            (column::SHARD, "shard"),
            (column::POSITION, "position"),
            (column::POSITION_SORT, "position_sort"),
            (column::KEY, "key"),
            (column::HEADER_NAME, "headers.list.element.name"),
            (column::HEADER_VALUE, "headers.list.element.value"),
            (column::ARRIVAL, "arrival"),
            (column::PAYLOAD, "payload"),
            (column::SEALED_BY, "sealed_by"),
            (column::EVENT_ID, "event_id"),
            (column::EVENT_TYPE, "event_type"),
            (column::EVENT_TIME, "event_time"),
        ] {
            assert_eq!(names[place], name);
        }
    }

    #[test]
    fn l4_an_unknown_version_is_told_from_no_footer() {
        assert_eq!(Footer::parse(r#"{"schema":2}"#), Err(Damage::Version("2".into())));
        assert_eq!(Footer::parse(r#"{"schema":1}"#), Err(Damage::Contents("the footer")));
        assert_eq!(Footer::parse("["), Err(Damage::Contents("the footer")));
    }

    #[test]
    fn fields_that_run_together_differ() {
        let digest = |key: Option<&str>, payload: &str| {
            let record = Record::new("s", "0", Position::from(1), payload.to_owned());
            let record = match key {
                Some(key) => record.with_key(key.to_owned()),
                None => record,
            };
            let mut digest = Digest::new();
            digest.add(&record, None);
            digest.hex()
        };
        assert_ne!(digest(Some("ab"), "c"), digest(Some("a"), "bc"));
        assert_ne!(digest(None, "x"), digest(Some(""), "x"));
        assert_eq!(digest(Some("a"), "x"), digest(Some("a"), "x"));
    }
}
