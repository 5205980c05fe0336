//! Records into the bytes of an object: the same records make the same bytes.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::ColumnPath;
use streambreaker::envelope::Envelope;
use streambreaker::{Position, Record, Timestamp};

use crate::schema::{Digest, FOOTER_KEY, Footer, SCHEMA_VERSION, schema};
use crate::sortable::sortable;

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// With its payload as it is stored: sealed, if it is.
    pub(crate) record: Record,
    pub(crate) sealed_by: Option<Arc<str>>,
    pub(crate) event_id: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) event_time: Option<Timestamp>,
}

impl Stored {
    /// As it is, with what the envelope knows of it.
    pub(crate) fn plain(record: Record, envelope: &dyn Envelope) -> Self {
        let head = envelope.head(&record);
        let (event_id, event_type) = (head.id.map(Into::into), head.kind.map(Into::into));
        let event_time = head.time;
        Self { record, sealed_by: None, event_id, event_type, event_time }
    }
}

/// How large a group of rows may be: what a reader holds decoded, and what a search skips.
pub(crate) const GROUP_ROWS: usize = 10_000;
const GROUP_BYTES: usize = 16 << 20;

/// An object that is not written yet.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    pub(crate) footer: Footer,
}

fn properties(footer: &Footer, rows: usize) -> Result<WriterProperties, ParquetError> {
    let path = |name: &str| ColumnPath::new(name.split('.').map(str::to_owned).collect());
    let text = serde_json::to_string(footer).map_err(|e| ParquetError::External(Box::new(e)))?;
    let mut properties = WriterProperties::builder()
        // not the version of a library: the same records make the same bytes
        .set_created_by("streambreaker-lake".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata(Some(vec![KeyValue::new(FOOTER_KEY.to_owned(), text)]))
        .set_max_row_group_row_count(None)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_bloom_filter_position(BloomFilterPosition::End);
    for name in ["position", "position_sort"] {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_encoding(path(name), Encoding::DELTA_BYTE_ARRAY);
    }
    for name in ["arrival", "event_time"] {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["payload", "event_id"] {
        properties = properties.set_column_dictionary_enabled(path(name), false);
    }
    for name in ["payload", "headers.list.element.value"] {
        // the least and the greatest payload help nobody
        properties = properties.set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    for name in ["event_id", "key", "event_type"] {
        properties = properties
            .set_column_bloom_filter_enabled(path(name), true)
            .set_column_bloom_filter_fpp(path(name), 0.01)
            .set_column_bloom_filter_max_ndv(path(name), rows.max(1) as u64);
    }
    Ok(properties.build())
}

/// Makes an object of these records, which are of one stream and shard, in the order of their positions, and at least one.
pub(crate) fn encode(records: &[Stored], after: Option<Position>) -> Result<Encoded, ParquetError> {
    let (first, last) = match records {
        [first, .., last] => (&first.record, &last.record),
        [only] => (&only.record, &only.record),
        [] => return Err(ParquetError::General("an object without records".to_owned())),
    };
    let mut arrivals = (first.arrival(), first.arrival());
    for stored in records {
        let arrival = stored.record.arrival();
        arrivals = (arrivals.0.min(arrival), arrivals.1.max(arrival));
    }
    let footer = Footer {
        schema: SCHEMA_VERSION,
        stream: first.stream().to_owned(),
        shard: first.shard().as_str().to_owned(),
        first: first.position().clone(),
        last: last.position().clone(),
        records: records.len() as u64,
        after,
        arrival_min: arrivals.0,
        arrival_max: arrivals.1,
        digests: groups(records).map(|group| Digest::of(group).hex()).collect(),
    };
    let properties = properties(&footer, records.len().min(GROUP_ROWS))?;
    let mut writer = SerializedFileWriter::new(Vec::new(), schema(), Arc::new(properties))?;
    for group in groups(records) {
        let mut columns = writer.next_row_group()?;
        write_group(&mut columns, group)?;
        columns.close()?;
    }
    writer.finish()?;
    Ok(Encoded { bytes: std::mem::take(writer.inner_mut()).into(), footer })
}

fn groups(records: &[Stored]) -> impl Iterator<Item = &[Stored]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let full = rest.iter().take(GROUP_ROWS).position(|stored| {
            bytes += stored.record.size();
            bytes >= GROUP_BYTES
        });
        let len = full.map_or(rest.len().min(GROUP_ROWS), |full| full + 1);
        let (group, more) = rest.split_at(len);
        rest = more;
        (!group.is_empty()).then_some(group)
    })
}

/// Values of a column, and where there are none.
#[derive(Default)]
struct Optional<T> {
    values: Vec<T>,
    levels: Vec<i16>,
}

impl<T> FromIterator<Option<T>> for Optional<T> {
    fn from_iter<I: IntoIterator<Item = Option<T>>>(values: I) -> Self {
        let mut column = Self { values: Vec::new(), levels: Vec::new() };
        for value in values {
            column.levels.push(i16::from(value.is_some()));
            column.values.extend(value);
        }
        column
    }
}

type Group<'a, 'b> = &'a mut SerializedRowGroupWriter<'b, Vec<u8>>;

/// Writes the next column, of bytes.
fn bytes(
    group: Group<'_, '_>,
    values: &[ByteArray],
    levels: Option<&[i16]>,
    repeats: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has as many columns");
    column.typed::<ByteArrayType>().write_batch(values, levels, repeats)?;
    column.close()
}

/// Writes the next column, of numbers.
fn numbers(
    group: Group<'_, '_>,
    values: &[i64],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has as many columns");
    column.typed::<Int64Type>().write_batch(values, levels, None)?;
    column.close()
}

fn write_group(group: Group<'_, '_>, records: &[Stored]) -> Result<(), ParquetError> {
    let all = |value: &dyn Fn(&Record) -> ByteArray| -> Vec<ByteArray> {
        records.iter().map(|stored| value(&stored.record)).collect()
    };
    let text = |text: &str| ByteArray::from(Bytes::copy_from_slice(text.as_bytes()));
    let owned = |text: String| ByteArray::from(text.into_bytes());
    // in the order of `schema::column`
    bytes(group, &all(&|record| text(record.stream())), None, None)?;
    bytes(group, &all(&|record| text(record.shard().as_str())), None, None)?;
    bytes(group, &all(&|record| owned(record.position().to_string())), None, None)?;
    bytes(group, &all(&|record| owned(sortable(record.position()))), None, None)?;
    let keys: Optional<ByteArray> =
        records.iter().map(|stored| stored.record.key().cloned().map(ByteArray::from)).collect();
    bytes(group, &keys.values, Some(&keys.levels), None)?;
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let (mut levels, mut repeats) = (Vec::new(), Vec::new());
    for stored in records {
        let headers = stored.record.headers();
        for (nth, (name, value)) in headers.iter().enumerate() {
            names.push(text(name));
            values.push(ByteArray::from(value.clone()));
            levels.push(1);
            repeats.push(i16::from(nth > 0));
        }
        if headers.is_empty() {
            levels.push(0);
            repeats.push(0);
        }
    }
    bytes(group, &names, Some(&levels), Some(&repeats))?;
    bytes(group, &values, Some(&levels), Some(&repeats))?;
    let arrivals: Vec<i64> =
        records.iter().map(|stored| stored.record.arrival().as_micros()).collect();
    numbers(group, &arrivals, None)?;
    bytes(group, &all(&|record| ByteArray::from(record.payload().clone())), None, None)?;
    let sealed: Optional<ByteArray> =
        records.iter().map(|stored| stored.sealed_by.as_deref().map(text)).collect();
    bytes(group, &sealed.values, Some(&sealed.levels), None)?;
    let ids: Optional<ByteArray> =
        records.iter().map(|stored| stored.event_id.as_deref().map(text)).collect();
    bytes(group, &ids.values, Some(&ids.levels), None)?;
    let kinds: Optional<ByteArray> =
        records.iter().map(|stored| stored.event_type.as_deref().map(text)).collect();
    bytes(group, &kinds.values, Some(&kinds.levels), None)?;
    let times: Optional<i64> =
        records.iter().map(|stored| stored.event_time.map(Timestamp::as_micros)).collect();
    numbers(group, &times.values, Some(&times.levels))
}
