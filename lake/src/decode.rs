//! The bytes of an object into records, whatever those bytes are.
//!
//! What lies in a bucket for years, where others write too, is hostile until it is read: sizes are checked before
//! anything is unpacked, each size again while it is, and a panic of the Parquet library is one object's damage.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedRowGroupReader;
use streambreaker::record::Headers;
use streambreaker::{Record, ShardId, Timestamp};

use crate::encode::Stored;
use crate::error::Damage;
use crate::pages::{self, Columns};
use crate::parts::{Parts, TRAILER, metadata_len};
use crate::schema::{Digest, FOOTER_KEY, Footer, column, schema};
use crate::select::Selection;

/// How much an object, and what it unpacks to, may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of an object as it is stored; 512 MiB by default.
    pub object_bytes: u64,
    /// Bytes of one group of rows, unpacked; 256 MiB by default.
    pub group_bytes: u64,
    /// Records of an object; 4 million by default.
    pub records: u64,
    /// Bytes of one record (payload, key and headers); 64 MiB by default.
    pub record_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            object_bytes: 512 << 20,
            group_bytes: 256 << 20,
            records: 4_000_000,
            record_bytes: 64 << 20,
        }
    }
}

/// What the metadata of an object may take: they unpack to some hundred times of it, and those of 4 million records take a
/// fourth.
pub(crate) const METADATA_BYTES: u64 = 4 << 20;

pub(crate) fn longer_than_itself() -> Damage {
    Damage::Torn("its metadata would be longer than itself".to_owned())
}

pub(crate) fn within(what: &'static str, found: u64, max: u64) -> Result<(), Damage> {
    if found > max { Err(Damage::TooLarge { what, found, max }) } else { Ok(()) }
}

/// Runs what the Parquet library does with bytes that nobody vouches for.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Damage>) -> Result<T, Damage> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Damage::Torn("the decoder gave up on it".to_owned())))
}

/// An object whose metadata have been read and believed.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) footer: Footer,
    pub(crate) metadata: Arc<ParquetMetaData>,
    pub(crate) bounds: Bounds,
}

impl Opened {
    pub(crate) fn open(parts: &Parts, bounds: Bounds) -> Result<Self, Damage> {
        within("bytes", parts.len(), bounds.object_bytes)?;
        guarded(|| {
            let end = parts.len().saturating_sub(TRAILER);
            let needed = metadata_len(&parts.get_bytes(end, TRAILER as usize)?)?;
            within("bytes of metadata", needed, METADATA_BYTES)?;
            let start = parts.len().checked_sub(needed).ok_or_else(longer_than_itself)?;
            let bytes = parts.get_bytes(start, (needed - TRAILER) as usize)?;
            pages::metadata(&bytes)
                .ok_or_else(|| Damage::Torn("its metadata claim more than they hold".to_owned()))?;
            let metadata = ParquetMetaDataReader::new().parse_and_finish(parts)?;
            let footer = metadata
                .file_metadata()
                .key_value_metadata()
                .and_then(|pairs| pairs.iter().find(|pair| pair.key == FOOTER_KEY))
                .and_then(|pair| pair.value.as_deref())
                .ok_or(Damage::Foreign("footer of a lake"))?;
            let footer = Footer::parse(footer)?;
            if metadata.file_metadata().schema() != &*schema() {
                return Err(Damage::Foreign("schema of its version"));
            }
            within("records", footer.records, bounds.records)?;
            let mut rows = 0u64;
            for group in metadata.row_groups() {
                if group.num_columns() != column::COUNT {
                    return Err(Damage::Foreign("column of its version"));
                }
                rows = rows.saturating_add(u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
                let unpacked: u64 = group
                    .columns()
                    .iter()
                    .map(|c| u64::try_from(c.uncompressed_size()).unwrap_or(u64::MAX))
                    .fold(0, u64::saturating_add);
                within("unpacked bytes", unpacked, bounds.group_bytes)?;
            }
            if footer.digests.len() != metadata.num_row_groups() {
                return Err(Damage::Contents("its checksums"));
            }
            if rows != footer.records {
                return Err(Damage::Contents("its number of records"));
            }
            Ok(Self { footer, metadata: Arc::new(metadata), bounds })
        })
    }

    pub(crate) fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// Where the columns of a group lie.
    pub(crate) fn group_range(&self, parts: &Parts, group: usize) -> Result<Range<u64>, Damage> {
        guarded(|| {
            let ranges = self.metadata.row_group(group).columns().iter().map(|c| c.byte_range());
            let (start, end) = ranges.fold((u64::MAX, 0u64), |(start, end), (offset, len)| {
                (start.min(offset), end.max(offset.saturating_add(len)))
            });
            // a store that is asked for what is not there fails, as if it might do better the next time
            if start >= end || end > parts.len() {
                return Err(Damage::Contents("its offsets"));
            }
            Ok(start..end)
        })
    }

    /// Whether a group may hold what is selected, as its statistics and bloom filters say. What is not at hand is not asked.
    pub(crate) fn may_hold(
        &self,
        parts: &Parts,
        group: usize,
        selection: &Selection,
    ) -> Result<bool, Damage> {
        if !selection.is_narrow() {
            return Ok(true);
        }
        guarded(|| {
            for (place, wanted) in selection.wanted() {
                if wanted.is_empty() {
                    continue;
                }
                let filter = self.filter(parts, group, place)?;
                let any = |filter: Sbbf| wanted.iter().any(|value| filter.check(*value));
                if !filter.is_none_or(any) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// The bloom filter of a column of a group, if it is at hand.
    pub(crate) fn filter(
        &self,
        parts: &Parts,
        group: usize,
        place: usize,
    ) -> Result<Option<Sbbf>, Damage> {
        let chunk = self.metadata.row_group(group).column(place);
        let at_hand = chunk.bloom_filter_offset().zip(chunk.bloom_filter_length()).and_then(
            |(offset, len)| {
                let (start, len) = (u64::try_from(offset).ok()?, u64::try_from(len).ok()?);
                Some(parts.has(&(start..start.checked_add(len)?)))
            },
        );
        if at_hand != Some(true) {
            return Ok(None);
        }
        Ok(Sbbf::read_from_column_chunk(chunk, parts)?)
    }

    /// The records of one group of rows, in their order, checked against their checksum.
    pub(crate) fn group(&self, parts: &Arc<Parts>, group: usize) -> Result<Vec<Stored>, Damage> {
        guarded(|| {
            let metadata = self.metadata.row_group(group);
            let mut claimed = 0u64;
            for chunk in metadata.columns() {
                let (start, len) = chunk.byte_range();
                let len = usize::try_from(len).map_err(|_| Damage::Contents("its offsets"))?;
                let pages = pages::unpacked(&parts.get_bytes(start, len)?)
                    .ok_or_else(|| Damage::Torn("a page without a header".to_owned()))?;
                claimed = claimed.saturating_add(pages);
            }
            within("unpacked bytes", claimed, self.bounds.group_bytes)?;
            let reader = reader(parts, metadata)?;
            let columns = Columns { group: &reader, bytes: self.bounds.group_bytes };
            let records = self.rows(&columns, metadata)?;
            if self.footer.digests.get(group) != Some(&Digest::of(&records).hex()) {
                return Err(Damage::Contents("its checksum"));
            }
            Ok(records)
        })
    }

    fn rows(
        &self,
        reader: &Columns<'_>,
        metadata: &RowGroupMetaData,
    ) -> Result<Vec<Stored>, Damage> {
        let rows = usize::try_from(metadata.num_rows())
            .map_err(|_| Damage::Contents("its number of records"))?;
        let most = self.bounds.group_bytes;
        let (stream, shard) = (&*self.footer.stream, &*self.footer.shard);
        for (place, name) in [(column::STREAM, stream), (column::SHARD, shard)] {
            let all = Column::bytes(reader, place, rows)?.required(rows)?;
            if all.iter().any(|value| value.data() != name.as_bytes()) {
                return Err(Damage::Contents("a stream or shard of its own"));
            }
        }
        let stream: Arc<str> = stream.into();
        let shard = ShardId::from(shard);
        let positions = Column::bytes(reader, column::POSITION, rows)?.required(rows)?;
        let mut keys = Column::bytes(reader, column::KEY, rows)?.optional(rows)?;
        let mut headers = headers(reader, rows)?;
        let arrivals = Column::numbers(reader, column::ARRIVAL, rows)?.required(rows)?;
        let payloads = Column::bytes(reader, column::PAYLOAD, rows)?.required(rows)?;
        let mut sealed = Column::bytes(reader, column::SEALED_BY, rows)?.optional(rows)?;
        let mut ids = Column::bytes(reader, column::EVENT_ID, rows)?.optional(rows)?;
        let mut kinds = Column::bytes(reader, column::EVENT_TYPE, rows)?.optional(rows)?;
        let mut times = Column::numbers(reader, column::EVENT_TIME, rows)?.optional(rows)?;
        let mut unpacked = 0u64;
        let mut records: Vec<Stored> = Vec::with_capacity(rows.min(1 << 16));
        for (row, (position, payload)) in positions.iter().zip(&payloads).enumerate() {
            let position =
                text(position)?.parse().map_err(|_| Damage::Contents("a position that is none"))?;
            let mut record = Record::new(stream.clone(), shard.clone(), position, copied(payload))
                .with_arrival(Timestamp::from_micros(arrivals[row]));
            if let Some(key) = keys[row].take() {
                record = record.with_key(copied(&key));
            }
            let pairs = std::mem::take(&mut headers[row]);
            if !pairs.is_empty() {
                record = record.with_headers(pairs);
            }
            let size = record.size() as u64;
            within("bytes of a record", size, self.bounds.record_bytes)?;
            unpacked = unpacked.saturating_add(size);
            // a dictionary of one value can stand for any number of them
            within("unpacked bytes", unpacked, most)?;
            let owned = |value: Option<ByteArray>| value.map(|v| text(&v).map(str::to_owned));
            records.push(Stored {
                record,
                sealed_by: sealed[row].take().map(|v| text(&v).map(Arc::from)).transpose()?,
                event_id: owned(ids[row].take()).transpose()?,
                event_type: owned(kinds[row].take()).transpose()?,
                event_time: times[row].take().map(Timestamp::from_micros),
            });
        }
        if !records.is_sorted_by(|a, b| a.record.position() < b.record.position()) {
            return Err(Damage::Contents("the order of its positions"));
        }
        Ok(records)
    }

    /// All records, checked against what the footer says of them.
    pub(crate) fn verified(&self, parts: &Arc<Parts>) -> Result<Vec<Stored>, Damage> {
        let mut all: Vec<Stored> = Vec::new();
        let mut unpacked = 0u64;
        for group in 0..self.groups() {
            let records = self.group(parts, group)?;
            self.filters_hold(parts, group, &records)?;
            self.tools_see(parts, group, &records)?;
            unpacked += records.iter().map(|stored| stored.record.size() as u64).sum::<u64>();
            within("unpacked bytes", unpacked, self.bounds.object_bytes.saturating_mul(4))?;
            all.extend(records);
        }
        let ends = (all.first(), all.last());
        let (Some(first), Some(last)) = ends else {
            return Err(Damage::Contents("no records"));
        };
        if first.record.position() != &self.footer.first
            || last.record.position() != &self.footer.last
            || !all.is_sorted_by(|a, b| a.record.position() < b.record.position())
        {
            return Err(Damage::Contents("its positions"));
        }
        // by which a selection of a time passes the whole object over
        let arrivals = || all.iter().map(|stored| stored.record.arrival());
        if arrivals().min() != Some(self.footer.arrival_min)
            || arrivals().max() != Some(self.footer.arrival_max)
        {
            return Err(Damage::Contents("its times of arrival"));
        }
        Ok(all)
    }
}

/// What reads a group of rows.
pub(crate) fn reader<'a>(
    parts: &Arc<Parts>,
    metadata: &'a RowGroupMetaData,
) -> Result<SerializedRowGroupReader<'a, Parts>, Damage> {
    let properties = Arc::new(ReaderProperties::builder().build());
    Ok(SerializedRowGroupReader::new(parts.clone(), metadata, None, properties)?)
}

/// A column of a group, with what its levels say.
pub(crate) struct Column<V> {
    values: Vec<V>,
    levels: Vec<i16>,
    repeats: Vec<i16>,
}

fn read<T: DataType>(
    reader: &mut parquet::column::reader::ColumnReaderImpl<T>,
    rows: usize,
) -> Result<Column<T::T>, Damage> {
    let mut column = Column { values: Vec::new(), levels: Vec::new(), repeats: Vec::new() };
    let mut left = rows;
    while left > 0 {
        let (records, _, _) = reader.read_records(
            left.min(1 << 16),
            Some(&mut column.levels),
            Some(&mut column.repeats),
            &mut column.values,
        )?;
        if records == 0 {
            return Err(Damage::Torn("a column ends early".to_owned()));
        }
        left = left.saturating_sub(records);
    }
    Ok(column)
}

impl Column<ByteArray> {
    pub(crate) fn bytes(reader: &Columns<'_>, place: usize, rows: usize) -> Result<Self, Damage> {
        match reader.column(place)? {
            ColumnReader::ByteArrayColumnReader(mut column) => {
                read::<ByteArrayType>(&mut column, rows)
            }
            _ => Err(Damage::Foreign("column of bytes where there has to be one")),
        }
    }
}

impl Column<i64> {
    fn numbers(reader: &Columns<'_>, place: usize, rows: usize) -> Result<Self, Damage> {
        match reader.column(place)? {
            ColumnReader::Int64ColumnReader(mut column) => read::<Int64Type>(&mut column, rows),
            _ => Err(Damage::Foreign("column of numbers where there has to be one")),
        }
    }
}

impl<V> Column<V> {
    pub(crate) fn required(self, rows: usize) -> Result<Vec<V>, Damage> {
        if self.values.len() == rows {
            Ok(self.values)
        } else {
            Err(Damage::Contents("the length of a column"))
        }
    }

    fn optional(self, rows: usize) -> Result<Vec<Option<V>>, Damage> {
        let mut values = self.values.into_iter();
        let all: Vec<Option<V>> =
            self.levels.iter().map(|level| if *level > 0 { values.next() } else { None }).collect();
        if all.len() == rows { Ok(all) } else { Err(Damage::Contents("the length of a column")) }
    }
}

/// The headers of each row.
fn headers(reader: &Columns<'_>, rows: usize) -> Result<Vec<Headers>, Damage> {
    let names = Column::bytes(reader, column::HEADER_NAME, rows)?;
    let values = Column::bytes(reader, column::HEADER_VALUE, rows)?;
    if names.levels != values.levels
        || names.repeats != values.repeats
        || names.values.len() != values.values.len()
        || names.levels.len() != names.repeats.len()
    {
        return Err(Damage::Contents("headers whose names and values do not match"));
    }
    let mut all: Vec<Headers> = Vec::with_capacity(rows.min(1 << 16));
    let mut pairs = names.values.iter().zip(&values.values);
    for (level, repeat) in names.levels.iter().zip(&names.repeats) {
        if *repeat == 0 {
            all.push(Headers::new());
        }
        if *level > 0 {
            let (Some(last), Some((name, value))) = (all.last_mut(), pairs.next()) else {
                return Err(Damage::Contents("headers of no record"));
            };
            last.push(text(name)?, copied(value));
        }
    }
    if all.len() == rows { Ok(all) } else { Err(Damage::Contents("the length of a column")) }
}

/// A copy, so that a record that is kept does not keep a whole page.
fn copied(value: &ByteArray) -> Bytes {
    Bytes::copy_from_slice(value.data())
}

fn text(value: &ByteArray) -> Result<&str, Damage> {
    std::str::from_utf8(value.data()).map_err(|_| Damage::Contents("text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::encode;
    use proptest::prelude::*;
    use streambreaker::Position;
    use streambreaker::envelope::JsonEnvelope;

    fn stored(records: impl IntoIterator<Item = Record>) -> Vec<Stored> {
        let envelope = JsonEnvelope::new();
        records.into_iter().map(|record| Stored::plain(record, &envelope)).collect()
    }

    fn decode(bytes: Bytes) -> Result<(Footer, Vec<Stored>), Damage> {
        let parts = Arc::new(Parts::whole(bytes));
        let opened = Opened::open(&parts, Bounds::default())?;
        let records = opened.verified(&parts)?;
        Ok((opened.footer, records))
    }

    fn sample(n: u64) -> Vec<Stored> {
        stored((0..n).map(|i| {
            Record::new(
                "orders",
                "0",
                Position::from(i * 7),
                format!(r#"{{"id":"{i}","type":"t"}}"#),
            )
            .with_key(format!("k{}", i % 5))
            .with_header("a", "1")
            .with_header("a", format!("{i}"))
            .with_arrival(Timestamp::from_micros(i64::try_from(i).unwrap() * 1_000))
        }))
    }

    fn any_record(position: u64) -> impl Strategy<Value = Record> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        (
            bytes(),
            proptest::option::of(bytes()),
            proptest::collection::vec(("[a-zA-Z-]{0,5}", bytes()), 0..4),
            any::<i64>(),
        )
            .prop_map(move |(payload, key, headers, arrival)| {
                let mut record = Record::new("s", "0", Position::from(position), payload)
                    .with_headers(headers.into_iter().collect())
                    .with_arrival(Timestamp::from_micros(arrival));
                if let Some(key) = key {
                    record = record.with_key(key);
                }
                record
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn l1_what_is_stored_is_read_back(records in (1u64..30).prop_flat_map(|n| (0..n).map(any_record).collect::<Vec<_>>())) {
            let records = stored(records);
            let encoded = encode(&records, None).unwrap();
            let (footer, back) = decode(encoded.bytes.clone()).unwrap();
            prop_assert_eq!(&back, &records);
            prop_assert_eq!(footer, encoded.footer);
            prop_assert_eq!(encode(&records, None).unwrap().bytes, encoded.bytes);
        }

        #[test]
        fn l4_any_change_of_bytes_is_found_or_harmless(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let records = sample(50);
            let whole = encode(&records, None).unwrap().bytes;
            let mut bytes = whole.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok((_, back)) = decode(bytes.into()) {
                // statistics and filters are not what records are made of
                prop_assert_eq!(back, records);
            }
        }

        #[test]
        fn l4_what_is_cut_off_is_torn(at in any::<proptest::sample::Index>()) {
            let whole = encode(&sample(50), None).unwrap().bytes;
            let at = at.index(whole.len());
            prop_assert!(decode(whole.slice(..at)).is_err());
        }

        #[test]
        fn l4_noise_is_no_object(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode(bytes.into()).is_err());
        }
    }

    /// What the golden object holds: each kind of position, keys and headers of any bytes, no event and two of them.
    fn golden() -> Vec<Stored> {
        let positions =
            ["7", "49590338271490256608559692538361571095921575989136588898", "1700-9", "m-1"];
        let mut records: Vec<Record> = positions
            .iter()
            .map(|position| {
                let position: Position = position.parse().expect("a position");
                Record::new(
                    "Orders/2",
                    "shard 0",
                    position,
                    r#"{"id":"a","type":"t","timestamp":1357035420000}"#,
                )
                .with_arrival(Timestamp::from_micros(1_357_035_420_000_001))
            })
            .collect();
        records[1] = records[1]
            .clone()
            .with_key(&b"\xff\x00"[..])
            .with_header("B", "1")
            .with_header("a", "")
            .with_header("B", &b"\xfe"[..]);
        records[2] = records[2].clone().with_key("").with_arrival(Timestamp::from_micros(-1));
        stored(records)
    }

    #[test]
    fn an_object_of_version_1_is_read_for_ever() {
        const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/v1.parquet");
        if std::env::var_os("WRITE_GOLDEN_OBJECT").is_some() {
            let encoded = encode(&golden(), Some(Position::from(6))).expect("encoded");
            std::fs::write(FILE, encoded.bytes).expect("written");
        }
        let (footer, records) = decode(std::fs::read(FILE).expect("read").into()).expect("decoded");
        assert_eq!(records, golden());
        assert_eq!(footer, encode(&golden(), Some(Position::from(6))).expect("encoded").footer);
        assert_eq!(footer.digests, ["88e93ca821dca870"]);
    }

    #[test]
    fn many_groups_are_one_object() {
        let records = sample(25_000);
        let encoded = encode(&records, Some(Position::from(0))).expect("encoded");
        let (footer, back) = decode(encoded.bytes.clone()).expect("decoded");
        assert_eq!(back, records);
        assert_eq!(footer.after, Some(Position::from(0)));
        let parts = Parts::whole(encoded.bytes);
        assert_eq!(Opened::open(&parts, Bounds::default()).expect("opened").groups(), 3);
    }

    #[test]
    fn l5_what_is_too_large_is_not_unpacked() {
        let bomb = stored([Record::new("s", "0", Position::from(1), vec![0u8; 8 << 20])]);
        let bytes = encode(&bomb, None).expect("encoded").bytes;
        assert!(bytes.len() < 64 << 10, "it is packed well: {}", bytes.len());
        let open = |bounds: Bounds| {
            let parts = Arc::new(Parts::whole(bytes.clone()));
            Opened::open(&parts, bounds).and_then(|opened| opened.verified(&parts))
        };
        assert_eq!(open(Bounds::default()).map(|records| records.len()), Ok(1));
        let too_large = |found: Result<Vec<Stored>, Damage>, what| matches!(found, Err(Damage::TooLarge { what: w, .. }) if w == what);
        let bounds = Bounds::default();
        assert!(too_large(open(Bounds { group_bytes: 1 << 20, ..bounds }), "unpacked bytes"));
        assert!(too_large(open(Bounds { record_bytes: 1 << 20, ..bounds }), "bytes of a record"));
        assert!(too_large(open(Bounds { object_bytes: 100, ..bounds }), "bytes"));
        assert!(too_large(open(Bounds { records: 0, ..bounds }), "records"));
    }

    #[test]
    fn l5_a_page_that_claims_more_than_the_metadata_is_not_unpacked() {
        let records = stored([Record::new("s", "0", Position::from(1), vec![7u8; 8 << 20])]);
        let bytes = encode(&records, None).expect("encoded").bytes;
        let bounds = Bounds { group_bytes: 64 << 20, ..Bounds::default() };
        let read = |bytes: Bytes| {
            let parts = Arc::new(Parts::whole(bytes));
            Opened::open(&parts, bounds).and_then(|opened| opened.group(&parts, 0))
        };
        assert_eq!(read(bytes.clone()).map(|records| records.len()), Ok(1));
        // the size in the header of the payload's page, as four bytes; the largest number that four bytes hold
        let unpacked = (8u32 << 20) + 4;
        let zigzag = unpacked << 1;
        let written: Vec<u8> = (0..4u32)
            .map(|n| ((zigzag >> (7 * n)) & 0x7f) as u8 | if n < 3 { 0x80 } else { 0 })
            .collect();
        let at = bytes.windows(4).position(|window| window == written).expect("it is there");
        let mut hostile = bytes.to_vec();
        hostile[at..at + 4].copy_from_slice(&[0xfe, 0xff, 0xff, 0x7f]);
        assert!(matches!(
            read(hostile.into()),
            Err(Damage::TooLarge { what: "unpacked bytes", found, .. }) if found > 64 << 20
        ));
    }

    #[test]
    fn l5_metadata_that_claim_groups_without_end_are_refused_before_any_is_reserved() {
        let bytes = encode(&sample(2), None).expect("encoded").bytes;
        // two rows; a list of one group
        let list = [0x16, 4, 0x19, 0x1c];
        let at = bytes.windows(4).rposition(|window| window == list).expect("it is there") + 3;
        let (end, len) = (
            bytes.len() - 8,
            u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().expect("four")),
        );
        // two billion of them: what could not be reserved ended the process
        let hostile = [&bytes[..at], &[0xfc, 0xff, 0xff, 0xff, 0xff, 0x07], &bytes[at + 1..end]];
        let hostile = [&hostile.concat(), &(len + 5).to_le_bytes()[..], b"PAR1"].concat();
        let claim = Damage::Torn("its metadata claim more than they hold".to_owned());
        assert_eq!(decode(hostile.into()), Err(claim));
    }

    #[test]
    fn l4_columns_that_lie_beyond_the_object_are_damage_and_not_asked_for() {
        let bytes = encode(&sample(2), None).expect("encoded").bytes;
        let parts = Parts::whole(bytes.clone());
        let opened = Opened::open(&parts, Bounds::default()).expect("opened");
        let range = opened.group_range(&parts, 0).expect("it is there");
        let shorter = Parts::whole(bytes.slice(..range.end as usize - 1));
        assert_eq!(opened.group_range(&shorter, 0), Err(Damage::Contents("its offsets")));
    }

    #[test]
    fn l4_what_a_selection_would_pass_over_is_damage() {
        let records = sample(50);
        let bytes = encode(&records, None).expect("encoded").bytes;
        let opened = Opened::open(&Parts::whole(bytes.clone()), Bounds::default()).expect("opened");
        for place in [column::KEY, column::EVENT_ID, column::EVENT_TYPE] {
            let chunk = opened.metadata.row_group(0).column(place);
            let start = chunk.bloom_filter_offset().expect("a filter") as usize;
            let end = start + chunk.bloom_filter_length().expect("its length") as usize;
            let mut bytes = bytes.to_vec();
            // the header stays
            bytes[end - 32..end].fill(0);
            bytes[start + 32..end].fill(0);
            assert_eq!(decode(bytes.into()), Err(Damage::Contents("its bloom filters")));
        }
        // from 0 to 49 ms
        let said = br#""arrival_max":49000"#;
        let at = bytes.windows(said.len()).position(|window| window == said).expect("it is there");
        let mut bytes = bytes.to_vec();
        bytes[at + said.len() - 5] = b'1';
        assert_eq!(decode(bytes.into()), Err(Damage::Contents("its times of arrival")));
    }

    #[test]
    fn l4_parquet_of_others_is_foreign() {
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer =
            SerializedFileWriter::new(Vec::new(), schema(), properties).expect("a writer");
        writer.finish().expect("finished");
        let bytes = std::mem::take(writer.inner_mut());
        assert_eq!(decode(bytes.into()), Err(Damage::Foreign("footer of a lake")));
    }
}
