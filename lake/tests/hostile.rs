//! Objects that are Parquet of the right schema and still lie: each check of the reader, by an object that this crate did not
//! write. What is wrong is named by `verify`, skipped by a replay, and ends neither (rule L4).

mod support;

use std::hash::Hasher;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Change, Read, Reader, Room, Source};
use streambreaker::{Position, Record};
use streambreaker_lake::{Damage, Finding, LakeWriter, SCHEMA, Selection};
use support::{Shaky, TEN};
use twox_hash::XxHash64;

/// A record, as it is stored.
#[derive(Clone)]
struct Row {
    stream: &'static [u8],
    shard: &'static [u8],
    position: &'static [u8],
    /// How the position is written so that it sorts, where that is not as it should be.
    sorts_as: Option<&'static [u8]>,
    header_names: Vec<&'static [u8]>,
    header_values: Vec<&'static [u8]>,
    sealed_by: Option<&'static [u8]>,
    payload: &'static [u8],
}

fn row(position: &'static str) -> Row {
    Row {
        stream: b"orders",
        shard: b"0",
        position: position.as_bytes(),
        sorts_as: None,
        header_names: vec![],
        header_values: vec![],
        sealed_by: None,
        payload: b"{}",
    }
}

/// The checksum of a group: computed apart from the crate.
fn digest(rows: &[Row]) -> String {
    let mut hash = XxHash64::with_seed(0);
    fn field(hash: &mut XxHash64, bytes: &[u8]) {
        hash.write(&(bytes.len() as u64).to_le_bytes());
        hash.write(bytes);
    }
    for row in rows {
        for bytes in [row.stream, row.shard, row.position] {
            field(&mut hash, bytes);
        }
        hash.write(&[0]);
        field(&mut hash, b"");
        hash.write(&(row.header_names.len() as u64).to_le_bytes());
        for (name, value) in row.header_names.iter().zip(&row.header_values) {
            field(&mut hash, name);
            field(&mut hash, value);
        }
        hash.write(&TEN.as_micros().to_le_bytes());
        field(&mut hash, row.payload);
        hash.write(&[u8::from(row.sealed_by.is_some())]);
        field(&mut hash, row.sealed_by.unwrap_or_default());
        // neither id nor type nor time
        for _ in 0..3 {
            hash.write(&[0]);
            field(&mut hash, b"");
        }
    }
    format!("{:016x}", hash.finish())
}

/// What an object says of these groups of rows.
fn footer(groups: &[Vec<Row>]) -> Value {
    let all: Vec<&Row> = groups.iter().flatten().collect();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "schema": 1,
        "stream": "orders",
        "shard": "0",
        "first": all.first().map_or_else(|| "1".to_owned(), |row| text(row.position)),
        "last": all.last().map_or_else(|| "1".to_owned(), |row| text(row.position)),
        "records": all.len(),
        "after": null,
        "arrival_min": TEN.as_micros(),
        "arrival_max": TEN.as_micros(),
        "digests": groups.iter().map(|group| digest(group)).collect::<Vec<_>>(),
    })
}

fn object(groups: &[Vec<Row>], footer: &Value, schema: &str) -> Vec<u8> {
    let pair = KeyValue::new("streambreaker.lake".to_owned(), footer.to_string());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![pair])).build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut bytes = |values: &[ByteArray], levels: Option<&[i16]>, repeats: Option<&[i16]>| {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(values, levels, repeats).unwrap();
            column.close().unwrap();
        };
        let all = |of: fn(&Row) -> &'static [u8]| -> Vec<ByteArray> {
            rows.iter().map(|row| ByteArray::from(of(row).to_vec())).collect()
        };
        let none = vec![0i16; rows.len()];
        bytes(&all(|row| row.stream), None, None);
        bytes(&all(|row| row.shard), None, None);
        bytes(&all(|row| row.position), None, None);
        let forms = rows.iter().map(|row| match row.sorts_as {
            Some(form) => form.to_vec().into(),
            None => {
                let text = String::from_utf8_lossy(row.position);
                format!("n{:04}:{text}", text.len()).into_bytes().into()
            }
        });
        bytes(&forms.collect::<Vec<ByteArray>>(), None, None);
        bytes(&[], Some(&none), None);
        for column in [|row: &Row| row.header_names.clone(), |row: &Row| row.header_values.clone()]
        {
            let (mut values, mut levels, mut repeats) = (vec![], vec![], vec![]);
            for row in rows {
                let of_row = column(row);
                if of_row.is_empty() {
                    levels.push(0);
                    repeats.push(0);
                }
                for (nth, value) in of_row.into_iter().enumerate() {
                    values.push(ByteArray::from(value.to_vec()));
                    levels.push(1);
                    repeats.push(i16::from(nth > 0));
                }
            }
            bytes(&values, Some(&levels), Some(&repeats));
        }
        let mut numbers = |values: &[i64], levels: Option<&[i16]>| {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(values, levels, None).unwrap();
            column.close().unwrap();
        };
        numbers(&vec![TEN.as_micros(); rows.len()], None);
        let mut bytes = |values: &[ByteArray], levels: Option<&[i16]>| {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(values, levels, None).unwrap();
            column.close().unwrap();
        };
        bytes(&all(|row| row.payload), None);
        let sealed: Vec<_> =
            rows.iter().filter_map(|row| row.sealed_by).map(|s| s.to_vec().into()).collect();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.sealed_by.is_some())).collect();
        bytes(&sealed, Some(&levels));
        bytes(&[], Some(&none));
        bytes(&[], Some(&none));
        let mut numbers = |values: &[i64], levels: Option<&[i16]>| {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(values, levels, None).unwrap();
            column.close().unwrap();
        };
        numbers(&[], Some(&none));
        group.close().unwrap();
    }
    writer.finish().unwrap();
    std::mem::take(writer.inner_mut())
}

/// What `verify` says of an object of this name, and how many records a replay yields of it. A sound object lies beside it,
/// which both read, whatever is wrong with the other one.
async fn judged(name: &str, bytes: Vec<u8>) -> (Option<Damage>, u64) {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let sound = Record::new("orders", "1", Position::from(1), "{}").with_arrival(TEN);
    let mut log = OutcomeLog::new(1);
    LakeWriter::new(&lake).write(&[sound], &mut log.outcomes()).await.unwrap();
    let path = format!("stream=orders/date=2013-01-01/hour=10/{name}.parquet");
    shaky.put_bytes(&path, bytes).await;
    let verified = lake.verify("orders").await.unwrap();
    let damage = verified.findings.iter().find_map(|finding| match finding {
        Finding::Damaged { path: at, damage } if *at == path => Some(damage.clone()),
        _ => None,
    });
    assert_eq!(verified.is_sound(), damage.is_none(), "{verified}");
    assert!(verified.records >= 1, "the sound one is read: {verified}");
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert!(counts.records >= 1, "the sound one is replayed: {counts:?}");
    (damage, counts.records - 1)
}

/// Of an object that says of itself what it holds.
async fn honest(name: &str, groups: &[Vec<Row>]) -> (Option<Damage>, u64) {
    judged(name, object(groups, &footer(groups), SCHEMA)).await
}

/// Of an object of two records in two groups that says this of itself.
async fn saying(field: &str, value: Value) -> (Option<Damage>, u64) {
    let groups = [vec![row("1")], vec![row("2")]];
    let mut footer = footer(&groups);
    footer[field] = value;
    judged("0-1-2", object(&groups, &footer, SCHEMA)).await
}

fn contents(what: &'static str) -> Option<Damage> {
    Some(Damage::Contents(what))
}

#[tokio::test(start_paused = true)]
async fn an_object_that_somebody_else_wrote_right_is_read() {
    let second =
        Row { header_names: vec![b"a", b"a"], header_values: vec![b"1", b"\xff"], ..row("2") };
    assert_eq!(honest("0-1-2", &[vec![row("1"), second]]).await, (None, 2));
    assert_eq!(honest("0-1-3", &[vec![row("1")], vec![row("2"), row("3")]]).await, (None, 3));
}

#[tokio::test(start_paused = true)]
async fn l4_records_of_another_stream_or_shard_are_damage() {
    let own = "a stream or shard of its own";
    let stream = Row { stream: b"invoices", ..row("1") };
    assert_eq!(honest("0-1-1", &[vec![stream]]).await, (contents(own), 0));
    let shard = Row { shard: b"7", ..row("1") };
    assert_eq!(honest("0-1-1", &[vec![shard]]).await, (contents(own), 0));
}

#[tokio::test(start_paused = true)]
async fn l4_positions_that_are_none_or_out_of_order_or_twice_are_damage() {
    assert_eq!(
        honest("0-1-2", &[vec![row("1"), row(""), row("2")]]).await,
        (contents("a position that is none"), 0)
    );
    let broken = Row { position: b"1\xff", ..row("1") };
    assert_eq!(
        honest("0-1-2", &[vec![row("1"), broken, row("2")]]).await,
        (contents("text that is not UTF-8"), 0)
    );
    let order = "the order of its positions";
    assert_eq!(honest("0-1-3", &[vec![row("1"), row("4"), row("3")]]).await, (contents(order), 0));
    assert_eq!(honest("0-1-2", &[vec![row("1"), row("1"), row("2")]]).await, (contents(order), 0));
    // each group is in order by itself: a replay yields what goes on, and `verify` names it
    let groups = [vec![row("1"), row("5")], vec![row("3"), row("6")]];
    let (damage, _) = honest("0-1-6", &groups).await;
    assert_eq!(damage, contents("its positions"));
}

#[tokio::test(start_paused = true)]
async fn l4_a_position_that_sorts_elsewhere_for_other_tools_is_named_and_harms_no_replay() {
    let sorts = contents("the form of its positions that sorts");
    for form in [&b"n0001:3"[..], b"", b"2", b"\xff", b"t2"] {
        let row = Row { sorts_as: Some(form), ..row("2") };
        let (damage, found) = honest("0-1-2", &[vec![self::row("1"), row]]).await;
        assert_eq!((damage, found), (sorts.clone(), 2), "{form:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn l4_text_that_is_not_utf_8_is_damage_of_its_group_alone() {
    let names = Row { header_names: vec![b"\xff"], header_values: vec![b"1"], ..row("1") };
    let not = contents("text that is not UTF-8");
    assert_eq!(honest("0-1-2", &[vec![names], vec![row("2")]]).await, (not.clone(), 1));
    let sealed = Row { sealed_by: Some(b"\xff"), ..row("1") };
    assert_eq!(honest("0-1-2", &[vec![sealed], vec![row("2")]]).await, (not, 1));
}

#[tokio::test(start_paused = true)]
async fn l4_headers_whose_names_and_values_do_not_match_are_damage() {
    let more = Row { header_names: vec![b"a", b"b"], header_values: vec![b"1"], ..row("1") };
    let (damage, found) = honest("0-1-1", &[vec![more]]).await;
    assert_eq!((damage, found), (contents("headers whose names and values do not match"), 0));
}

#[tokio::test(start_paused = true)]
async fn l4_a_footer_that_says_something_else_than_is_there_is_damage() {
    let digest = |row: &Row| digest(std::slice::from_ref(row));
    let (one, two) = (digest(&row("1")), digest(&row("2")));
    // as it is, it is sound
    assert_eq!(saying("digests", json!([one, two])).await, (None, 2));
    assert_eq!(saying("digests", json!([one])).await, (contents("its checksums"), 0));
    // the other group is yielded: nothing is known to be wrong with it
    assert_eq!(saying("digests", json!([one, one])).await, (contents("its checksum"), 1));
    assert_eq!(saying("records", json!(3)).await, (contents("its number of records"), 0));
    assert_eq!(saying("first", json!("0")).await, (contents("its positions"), 0));
    assert_eq!(saying("last", json!("9")).await, (contents("its positions"), 0));
    let own = "a stream or shard of its own";
    assert_eq!(saying("shard", json!("7")).await, (contents(own), 0));
    assert_eq!(saying("stream", json!("invoices")).await, (contents(own), 0));
    assert_eq!(saying("first", json!(7)).await, (contents("the footer"), 0));
    assert_eq!(saying("schema", json!(2)).await, (Some(Damage::Version("2".to_owned())), 0));
    let huge = saying("records", json!(u64::MAX)).await;
    assert!(matches!(huge, (Some(Damage::TooLarge { what: "records", .. }), 0)), "{huge:?}");
}

#[tokio::test(start_paused = true)]
async fn s2_of_groups_that_cannot_be_read_a_replay_names_the_records() {
    let groups = ["1", "3", "5", "7", "9"].map(|position| vec![row(position)]);
    for (wrong, missing) in [
        (&[1, 2][..], &[("2", "7")][..]),
        (&[0], &[("1", "3")]),
        (&[4], &[("8", "10")]),
        (&[1, 3], &[("2", "5"), ("6", "9")]),
        (&[0, 1, 2, 3, 4], &[("1", "10")]),
    ] {
        let mut footer = footer(&groups);
        for at in wrong {
            footer["digests"][*at] = json!("0000000000000000");
        }
        let shaky = Shaky::default();
        let path = "stream=orders/date=2013-01-01/hour=10/0-1-9.parquet";
        shaky.put_bytes(path, object(&groups, &footer, SCHEMA)).await;
        let mut source = shaky.lake().replay(Selection::of("orders"));
        let Some(Change::Assigned { mut reader, .. }) = source.next().await.unwrap() else {
            panic!("there is a shard");
        };
        let (mut found, mut gaps) = (0, Vec::new());
        loop {
            match reader.read(Room { records: 100, bytes: 1 << 20 }).await.unwrap() {
                Read::Records { records, .. } => found += records.len(),
                Read::Gap { from, to } => gaps.push((from.to_string(), to.to_string())),
                _ => break,
            }
        }
        let missing: Vec<_> =
            missing.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
        assert_eq!((found, gaps), (5 - wrong.len(), missing), "{wrong:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn l4_an_object_of_another_name_or_without_records_is_damage() {
    assert_eq!(honest("0-1-3", &[vec![row("1"), row("2")]]).await, (contents("its name"), 0));
    assert_eq!(honest("0-1-1", &[]).await, (contents("no records"), 0));
}

#[tokio::test(start_paused = true)]
async fn l4_a_schema_that_differs_is_foreign() {
    let groups = [vec![row("1")]];
    let other = SCHEMA.replace("BYTE_ARRAY payload", "BYTE_ARRAY body");
    let (damage, found) = judged("0-1-1", object(&groups, &footer(&groups), &other)).await;
    assert_eq!((damage, found), (Some(Damage::Foreign("schema of its version")), 0));
}

#[tokio::test(start_paused = true)]
async fn l5_metadata_without_end_are_refused_before_they_are_read() {
    let groups = [vec![row("1")]];
    let mut footer = footer(&groups);
    footer["note"] = json!("x".repeat(5 << 20));
    let (damage, found) = judged("0-1-1", object(&groups, &footer, SCHEMA)).await;
    assert!(
        matches!(damage, Some(Damage::TooLarge { what: "bytes of metadata", .. })) && found == 0,
        "{damage:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn l4_an_object_that_was_changed_behind_the_manifest_is_told_and_skipped() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let put = |payload: &'static [u8]| {
        let groups = [vec![Row { payload, ..row("1") }]];
        object(&groups, &footer(&groups), SCHEMA)
    };
    let (before, after) = (put(b"ab"), put(b"ba"));
    assert_eq!(before.len(), after.len(), "the manifest cannot tell them apart by size");
    let path = "stream=orders/date=2013-01-01/hour=10/0-1-1.parquet";
    shaky.put_bytes(path, before).await;
    let manifest = lake.manifest("orders").await.unwrap();
    lake.store_manifest(&manifest).await.unwrap();
    shaky.put_bytes(path, after).await;
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    let changed = Damage::Contents("its footer, which the manifest knows otherwise");
    assert_eq!((counts.records, counts.damaged), (0, vec![(path.to_owned(), changed)]));
}
