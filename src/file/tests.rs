//! Lines in and out, over kills, hostile files and foreign checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::error::BoxError;
use crate::fault::FaultEvent;
use crate::record::{Position, Record, Timestamp};
use crate::sink::{OutcomeLog, Sink};
use crate::source::{Acker as _, Change, CommitError, Read, Reader as _, Room, Settled};
use crate::source::{Source as _, SourceError, UNREADABLE};

const ROOM: Room = Room { records: 1_000, bytes: 1 << 20 };

/// A directory that is gone after the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "streambreaker-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn with(content: impl AsRef<[u8]>) -> (Self, PathBuf) {
        let dir = Self::new();
        let file = dir.file("in.ndjson", content);
        (dir, file)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Shard = (Reader, Acker);

async fn open(mut source: Source) -> Vec<Shard> {
    let mut shards = Vec::new();
    while let Some(change) = source.next().await.expect("it opens") {
        let Change::Assigned { reader, acker, .. } = change else { panic!("an assignment") };
        shards.push((reader, acker));
    }
    shards
}

async fn one(source: Source) -> Shard {
    open(source).await.remove(0)
}

async fn read(reader: &mut Reader, room: Room) -> Option<Vec<Record>> {
    match reader.read(room).await.expect("a read") {
        Read::Records { records, .. } => Some(records),
        Read::End => None,
        other => panic!("unexpected {other:?}"),
    }
}

async fn all(reader: &mut Reader) -> Vec<Record> {
    let mut all = Vec::new();
    while let Some(records) = read(reader, ROOM).await {
        all.extend(records);
    }
    all
}

fn lines(records: &[Record]) -> Vec<(u64, String)> {
    let line = |r: &Record| {
        let text = String::from_utf8_lossy(r.payload()).into_owned();
        (r.position().as_u64().expect("a number"), text)
    };
    records.iter().map(line).collect()
}

async fn settle(acker: &mut Acker, record: &Record) -> Result<(), CommitError> {
    acker.settle(Settled::Through(record.position())).await
}

/// What is wrong with a source, with all its causes.
async fn refused(mut source: Source) -> String {
    let mut error: BoxError = match source.next().await {
        Err(SourceError::Fatal(error)) => error,
        Ok(Some(Change::Assigned { mut reader, .. })) => loop {
            match reader.read(ROOM).await {
                Err(SourceError::Fatal(error)) => break error,
                Ok(Read::Records { .. }) => {}
                other => panic!("expected a fatal error, got {other:?}"),
            }
        },
        other => panic!("expected a fatal error, got {other:?}"),
    };
    if let Some(file) = error.downcast_ref::<FileError>() {
        assert!(!file.path().as_os_str().is_empty());
        error = file.to_string().into();
    }
    error.to_string()
}

#[tokio::test]
async fn i5_lines_come_byte_for_byte() {
    let content = b"\xef\xbb\xbf{\"a\":1}\r\n\n\r\n\x00\x00\n\xff\xfe\nlast";
    let (_dir, file) = Dir::with(content);
    let (mut reader, _) = one(Source::open(&file)).await;
    let records = all(&mut reader).await;
    let seen: Vec<_> =
        records.iter().map(|r| (r.position().as_u64(), r.payload().to_vec())).collect();
    let expected: [(u64, &[u8]); 4] =
        [(0, b"\xef\xbb\xbf{\"a\":1}\r"), (15, b"\x00\x00"), (18, b"\xff\xfe"), (21, b"last")];
    assert_eq!(seen, expected.map(|(at, line)| (Some(at), line.to_vec())));
    assert!(records.iter().all(|r| r.stream() == "in.ndjson" && r.deliveries() == 1));
}

#[tokio::test]
async fn i8_an_empty_file_ends_at_once() {
    let dir = Dir::new();
    for name in ["in", "in.gz"] {
        let (mut reader, _) =
            one(Source::open(dir.file(name, "")).checkpoint(dir.path("checkpoint-").join(name)))
                .await;
        assert!(read(&mut reader, ROOM).await.is_none());
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_reason() {
    let dir = Dir::new();
    let text = refused(Source::open(dir.path("missing"))).await;
    assert!(text.contains("no such file"), "{text}");
    let text = refused(Source::open(&dir.0)).await;
    assert!(text.contains("is a directory"), "{text}");
    let text = refused(Source::open(dir.file("x.gz", "plain"))).await;
    assert!(text.contains("its first bytes say that it is not"), "{text}");
    let text = refused(Source::open(dir.file("y", "x")).shards(0)).await;
    assert!(text.contains("shards is 0; accepted"), "{text}");
    assert!(!dir.path("checkpoint").exists());
    let missing = Source::open(dir.path("missing")).checkpoint(dir.path("checkpoint"));
    refused(missing).await;
    assert!(!dir.path("checkpoint").exists(), "nothing is written for a file that is not there");
}

#[tokio::test]
async fn f9_a_line_above_the_limit_is_a_record_that_says_so() {
    let (_dir, file) = Dir::with(format!("a\n{}\nb\n{}", "x".repeat(3 << 20), "y".repeat(11)));
    let (mut reader, _) = one(Source::open(&file).max_line(10)).await;
    let records = all(&mut reader).await;
    assert_eq!(
        lines(&records).iter().map(|(at, _)| *at).collect::<Vec<_>>(),
        [0, 2, 3145731, 3145733]
    );
    let why = |n: usize| {
        records[n].header(UNREADABLE).map(|why| String::from_utf8_lossy(why).into_owned())
    };
    assert_eq!(why(1).as_deref(), Some("a line of 3145728 bytes is over the limit of 10 bytes"));
    assert_eq!(why(3).as_deref(), Some("a line of 11 bytes is over the limit of 10 bytes"));
    assert_eq!((why(0), why(2)), (None, None));
    assert!(records[1].payload().is_empty());
}

#[tokio::test]
async fn o7_a_batch_stays_within_its_room_and_its_memory() {
    let line = format!("{}\n", "x".repeat(99));
    let (_dir, file) = Dir::with(line.repeat(1_000));
    let (mut reader, _) = one(Source::open(&file)).await;
    let batch = read(&mut reader, Room { records: 7, bytes: 1 << 20 }).await.expect("records");
    assert_eq!(batch.len(), 7);
    let batch = read(&mut reader, Room { records: 700, bytes: 250 }).await.expect("records");
    assert_eq!(batch.len(), 2);
    let batch = read(&mut reader, Room { records: 700, bytes: 1 }).await.expect("records");
    assert_eq!(lines(&batch)[0].0, 900);
    assert_eq!(all(&mut reader).await.len(), 990);
}

#[tokio::test]
async fn o1_a_key_is_in_one_shard_and_every_line_in_exactly_one() {
    let content: String = (0..500)
        .map(|n| format!("{{\"n\":{n},\"partitionKey\":\"k{}\"}}\n{n}\n", n % 20))
        .collect();
    let (_dir, file) = Dir::with(&content);
    let by_field = || Source::open(&file).shards(4).key_field("partitionKey");
    let (mut shard_of_key, mut seen) = (BTreeMap::<Bytes, usize>::new(), Vec::new());
    for (n, (mut reader, _)) in open(by_field()).await.into_iter().enumerate() {
        let records = all(&mut reader).await;
        assert!(records.len() > 100, "the lines are spread: {}", records.len());
        for key in records.iter().filter_map(Record::key) {
            assert_eq!(*shard_of_key.entry(key.clone()).or_insert(n), n);
        }
        seen.extend(lines(&records));
    }
    seen.sort();
    assert_eq!(shard_of_key.len(), 20);
    let expected: Vec<&str> = content.lines().collect();
    assert_eq!(seen.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(), expected);

    let by_function =
        Source::open(&file).shards(4).key_by(|line| Some(Bytes::copy_from_slice(&line[..1])));
    let mut count = 0;
    for (mut reader, _) in open(by_function).await {
        count += all(&mut reader).await.len();
    }
    assert_eq!(count, 1_000);
}

#[tokio::test]
async fn i3_a_checkpoint_goes_on_where_it_was_settled() {
    let (dir, file) = Dir::with("a\nb\nc\nd");
    let source = || Source::open(&file).checkpoint(dir.path("state/checkpoint"));
    let (mut reader, mut acker) = one(source()).await;
    let records = all(&mut reader).await;
    settle(&mut acker, &records[1]).await.expect("a commit");
    settle(&mut acker, &records[0]).await.expect("a smaller one changes nothing");
    drop((reader, acker));
    let (mut reader, mut acker) = one(source()).await;
    let records = all(&mut reader).await;
    assert_eq!(lines(&records), [(4, "c".into()), (6, "d".into())]);
    settle(&mut acker, &records[1]).await.expect("a commit");
    let (mut reader, _) = one(source()).await;
    assert!(all(&mut reader).await.is_empty());
}

#[tokio::test]
async fn f4_a_record_looks_the_same_in_every_delivery() {
    let (dir, file) = Dir::with("a\n");
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    let (mut reader, _) = one(source()).await;
    let first = all(&mut reader).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::write(&file, "a\nb\n").expect("a longer file");
    let (mut reader, _) = one(source()).await;
    let again = all(&mut reader).await;
    assert_eq!(first[0].clone().with_deliveries(2), again[0]);
    assert_eq!(again.len(), 2);
    let said = Source::open(&file).arrival_by(|line| match line {
        b"a" => Some(Timestamp::from_millis(7)),
        _ => panic!("of the test"),
    });
    let (mut reader, _) = one(said).await;
    let records = all(&mut reader).await;
    assert_eq!(records[0].arrival(), Timestamp::from_millis(7));
    assert!(records[1].arrival() > Timestamp::from_millis(7));
}

#[tokio::test]
async fn i10_a_record_counts_the_lives_that_died_of_it() {
    let (dir, file) = Dir::with("a\nb\nc\n");
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    for life in 1..=4 {
        let (mut reader, _) = one(source()).await;
        let batch = read(&mut reader, Room { records: 2, ..ROOM }).await.expect("records");
        let counts: Vec<_> = batch.iter().map(Record::deliveries).collect();
        // suspects come alone
        assert_eq!(counts, if life == 1 { vec![1, 1] } else { vec![life] });
        if life > 1 {
            let next = read(&mut reader, ROOM).await.expect("records");
            assert_eq!(next[0].deliveries(), life);
        }
    }
    let (mut reader, mut acker) = one(source()).await;
    let records = all(&mut reader).await;
    assert_eq!(records.iter().map(Record::deliveries).collect::<Vec<_>>(), [5, 5, 1]);
    settle(&mut acker, &records[0]).await.expect("a commit");
    Box::new(acker).release().await.expect("it is ours");
    let (mut reader, _) = one(source()).await;
    let records = all(&mut reader).await;
    assert_eq!(
        records.iter().map(Record::deliveries).collect::<Vec<_>>(),
        [5, 1],
        "peace does not count"
    );
}

#[tokio::test]
async fn s3_the_older_owner_of_a_checkpoint_is_fenced() {
    let (dir, file) = Dir::with("a\nb\n");
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    let (mut old_reader, mut old) = one(source()).await;
    let records = all(&mut old_reader).await;
    let (_, mut new) = one(source()).await;
    settle(&mut new, &records[0]).await.expect("the owner commits");
    assert!(matches!(settle(&mut old, &records[1]).await, Err(CommitError::Fenced)));
    let (mut reader, _) = one(source()).await;
    assert_eq!(lines(&all(&mut reader).await), [(2, "b".into())]);
}

#[tokio::test]
async fn i6_a_commit_that_cannot_be_written_is_tried_again() {
    let (dir, file) = Dir::with("a\n");
    let path = dir.path("state/checkpoint");
    let (mut reader, mut acker) = one(Source::open(&file).checkpoint(&path)).await;
    let records = all(&mut reader).await;
    let content = fs::read(&path).expect("a checkpoint");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("in its way");
    assert!(matches!(settle(&mut acker, &records[0]).await, Err(CommitError::Transient(_))));
    fs::remove_dir(&path).expect("mended");
    fs::write(&path, content).expect("mended");
    settle(&mut acker, &records[0]).await.expect("tried again");
    let (mut reader, _) = one(Source::open(&file).checkpoint(&path)).await;
    assert!(all(&mut reader).await.is_empty());
}

#[tokio::test]
async fn a_foreign_checkpoint_is_refused() {
    let (dir, file) = Dir::with("a\nb\n");
    let path = dir.path("checkpoint");
    let source = |file: &Path| Source::open(file).shards(2).key_field("k").checkpoint(&path);
    drop(open(source(&file)).await);
    let text = refused(source(&dir.file("other", "a\nb\n"))).await;
    assert!(text.contains("of another file"), "{text}");
    let text = refused(source(&file).shards(3)).await;
    assert!(text.contains("`.shards(2)`"), "{text}");
    let text = refused(source(&file).key_field("other")).await;
    assert!(text.contains("field other"), "{text}");
    fs::write(&file, "a\n").expect("shorter");
    assert!(refused(source(&file)).await.contains("cut off"));
    fs::write(&file, "x\nb\n").expect("other");
    assert!(refused(source(&file)).await.contains("of another file"));
    fs::write(&file, "a\nb\nc\n").expect("grown");
    drop(open(source(&file)).await);
    for bad in ["", "{}", "{\"format\":\"else\"}", "\u{0}"] {
        fs::write(&path, bad).expect("a file");
        assert!(refused(source(&file)).await.contains("not a checkpoint"), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s9_a_followed_file_says_that_it_is_at_its_end_and_goes_on() {
    use std::io::Write;
    let (_dir, file) = Dir::with("a\nhal");
    let (mut reader, _) = one(Source::open(&file).follow(true)).await;
    assert_eq!(lines(&read(&mut reader, ROOM).await.expect("records")), [(0, "a".into())]);
    match reader.read(ROOM).await {
        Ok(Read::Records { records, behind }) => {
            assert_eq!((records.len(), behind.records), (0, Some(0)));
        }
        other => panic!("expected the end, got {other:?}"),
    }
    let waiting = timeout(Duration::from_secs(5), reader.read(ROOM)).await;
    assert!(waiting.is_err(), "half a line is no record");
    let mut writer = fs::OpenOptions::new().append(true).open(&file).expect("a writer");
    writer.write_all(b"f\nnext\n").expect("written");
    let records = read(&mut reader, ROOM).await.expect("records");
    assert_eq!(lines(&records), [(2, "half".into()), (7, "next".into())]);
    fs::write(&file, "x").expect("cut off");
    let error = reader.read(ROOM).await;
    assert!(matches!(error, Err(SourceError::Fatal(_))), "{error:?}");
}

#[cfg(not(feature = "gzip"))]
#[tokio::test]
async fn a_packed_file_without_its_feature_names_the_feature() {
    let dir = Dir::new();
    let text = refused(Source::open(dir.file("x.gz", b"\x1f\x8b\x08\x00"))).await;
    assert!(text.contains("feature `gzip`"), "{text}");
}

#[cfg(not(feature = "zstd"))]
#[tokio::test]
async fn a_zstd_file_without_its_feature_names_the_feature() {
    let dir = Dir::new();
    let text = refused(Source::open(dir.file("x", b"\x28\xb5\x2f\xfd"))).await;
    assert!(text.contains("feature `zstd`"), "{text}");
}

#[cfg(any(feature = "gzip", feature = "zstd"))]
async fn a_packed_file_is_read_whole(name: &str, pack: fn(&[u8]) -> Vec<u8>) {
    let dir = Dir::new();
    let text: String = (0..5_000).map(|n| format!("line {n}\n")).collect();
    let (first, second) = text.split_at(30_001);
    let mut packed = pack(first.as_bytes());
    packed.extend(pack(second.as_bytes()));
    let file = dir.file(name, &packed);
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    let (mut reader, mut acker) = one(source()).await;
    let records = all(&mut reader).await;
    assert_eq!(records.len(), 5_000);
    settle(&mut acker, &records[4_321]).await.expect("a commit");
    Box::new(acker).release().await.expect("it is ours");
    let (mut reader, _) = one(source()).await;
    let rest = all(&mut reader).await;
    assert_eq!(rest, records[4_322..]);

    assert!(refused(source().follow(true)).await.contains("cannot be followed"));
    let cut = dir.file(&format!("cut-{name}"), &packed[..packed.len() - 9]);
    let text = refused(Source::open(&cut)).await;
    assert!(text.contains("behind offset"), "{text}");
    let mut broken = packed.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0xff);
    let text = refused(Source::open(dir.file(&format!("broken-{name}"), broken))).await;
    assert!(text.contains("behind offset"), "{text}");
}

#[cfg(feature = "gzip")]
#[tokio::test]
async fn l5_gzip_is_read_whole_and_refused_when_broken() {
    use std::io::Write;
    a_packed_file_is_read_whole("in.gz", |bytes| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    })
    .await;
}

#[cfg(feature = "zstd")]
#[tokio::test]
async fn l5_zstd_is_read_whole_and_refused_when_broken() {
    a_packed_file_is_read_whole("in.zst", |bytes| {
        zstd::stream::encode_all(bytes, 1).expect("memory")
    })
    .await;
}

async fn write<T: Sync>(sink: &Lines<T>, items: &[T]) -> (Option<String>, Vec<bool>) {
    let mut log = OutcomeLog::new(items.len());
    let error = sink.write(items, &mut log.outcomes()).await.err().map(|e| e.message());
    (error, (0..items.len()).map(|n| log.is_done(n)).collect())
}

#[tokio::test]
async fn k1_lines_confirm_what_is_written_and_only_that() {
    let dir = Dir::new();
    let path = dir.path("a/b/out");
    let lines = Lines::open(&path, |item: &&str| match *item {
        "bad" => Err(crate::StepError::new(crate::Class::Fault, "of the test")),
        text => Ok(text.as_bytes().to_vec()),
    })
    .expect("it opens");
    assert_eq!(
        write(&lines, &["x", "bad", "two\nlines", "y"]).await,
        (None, vec![true, false, false, true])
    );
    assert_eq!(fs::read_to_string(&path).expect("a file"), "x\ny\n");
    assert_eq!((lines.size(&"four"), lines.size(&"bad")), (5, 0));
    fs::remove_file(&path).expect("removed");
    assert_eq!(write(&lines, &["z"]).await, (None, vec![true]));
    assert_eq!(fs::read_to_string(&path).expect("made again"), "z\n");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("in its way");
    let (error, done) = write(&lines, &["w"]).await;
    assert!(error.is_some_and(|e| e.contains("cannot append")) && !done[0]);
    assert!(Lines::<u8>::json(&path).is_err_and(|e| e.to_string().contains("is a directory")));
}

#[tokio::test]
async fn k1_nothing_is_glued_to_a_line_that_was_cut_off() {
    let dir = Dir::new();
    let path = dir.file("out", "1\n{\"half");
    let lines = Lines::json(&path).expect("it opens");
    assert_eq!(lines.torn(), Some(8));
    assert_eq!(write(&lines, &[2]).await.1, [true]);
    assert_eq!(write(&lines, &[3]).await.1, [true]);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "1\n{\"half\n2\n3\n");
}

#[tokio::test]
async fn k1_writers_that_share_a_file_do_not_mix_their_lines() {
    let dir = Dir::new();
    let path = dir.path("out");
    let lines = Lines::json(&path).expect("it opens");
    let tasks = (0..8).map(|task| {
        let lines = lines.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                assert_eq!(write(&lines, &[(task, n); 20]).await.1, [true; 20]);
            }
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|task| task.expect("no panic"));
    let text = fs::read_to_string(&path).expect("a file");
    assert_eq!(text.lines().count(), 1_600);
    assert!(text.lines().all(|line| serde_json::from_str::<(u8, u8)>(line).is_ok()));
}

fn fault(id: u128) -> FaultEvent {
    let text = format!("{{\"id\":\"{}\",\"processor\":\"p\"}}", uuid::Uuid::from_u128(id));
    FaultEvent::from_json(text.as_bytes()).expect("a fault event")
}

#[tokio::test]
async fn f7_faults_come_back_and_a_torn_one_is_reported() {
    let dir = Dir::new();
    let path = dir.path("faults.ndjson");
    let sink = faults(&path).expect("it opens");
    let events = [fault(1), fault(2)];
    assert_eq!(write(&sink, &events).await.1, [true, true]);
    let read: Result<Vec<_>, _> = read_faults(&path).expect("it opens").collect();
    assert_eq!(read.expect("all of them"), events);

    let mut bytes = fs::read(&path).expect("a file");
    bytes.extend_from_slice(b"\n\r\nnonsense\n");
    bytes.extend_from_slice(&events[0].to_json());
    bytes.extend_from_slice(b"\n{\"id\":");
    fs::write(&path, bytes).expect("a file");
    let read: Vec<_> = read_faults(&path).expect("it opens").collect();
    assert_eq!(read.len(), 5);
    assert!(matches!(read[2], Err(FaultLineError::Parse { line: 5, .. })), "{:?}", read[2]);
    assert!(read[3].as_ref().is_ok_and(|event| *event == events[0]));
    assert!(matches!(read[4], Err(FaultLineError::Torn { line: 7, .. })), "{:?}", read[4]);
    assert!(read_faults(dir.path("missing")).is_err());
}

/// What happens to a source.
#[derive(Clone, Debug)]
enum Step {
    Read { shard: usize, records: usize, bytes: usize },
    Settle { shard: usize, back: usize },
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 1..6usize, 1..60usize)
            .prop_map(|(shard, records, bytes)| Step::Read { shard, records, bytes }),
        2 => (0..4usize, 0..4usize).prop_map(|(shard, back)| Step::Settle { shard, back }),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => "[a-z]{0,12}",
        2 => "\\{\"k\":\"[a-c]\"\\}",
        1 => "\r",
        1 => "[0-9]{16,40}",
    ];
    (proptest::collection::vec(line, 0..40), any::<bool>())
        .prop_map(|(lines, end)| (lines.join("\n") + if end { "\n" } else { "" }).into_bytes())
}

/// A shard as the test sees it: what is open in this life, what is settled, and how often each line was
/// delivered to lives that died.
#[derive(Default)]
struct Model {
    open: Vec<u64>,
    settled: Vec<u64>,
    died: BTreeMap<u64, u32>,
}

async fn run(content: Vec<u8>, shards: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (dir, file) = Dir::with(&content);
    let source = || {
        Source::open(&file)
            .shards(shards)
            .key_field("k")
            .max_line(15)
            .checkpoint(dir.path("checkpoint"))
    };
    let mut models: Vec<Model> = (0..shards).map(|_| Model::default()).collect();
    let mut life = open(source()).await;
    let end = [Step::Kill];
    for step in steps.into_iter().chain(end) {
        match step {
            Step::Read { shard, records, bytes } => {
                let shard = shard % shards;
                let room = Room { records, bytes };
                let Some(batch) = read(&mut life[shard].0, room).await else { continue };
                let size: usize = batch.iter().map(Record::size).sum();
                prop_assert!(batch.len() <= records && (size <= bytes || batch.len() == 1));
                check_batch(&batch, &mut models[shard], &content)?;
            }
            Step::Settle { shard, back } => {
                let shard = shard % shards;
                let model = &mut models[shard];
                let count = model.open.len().saturating_sub(back);
                let Some(last) = count.checked_sub(1) else { continue };
                let position = Position::from(model.open[last]);
                let done = life[shard].1.settle(Settled::Through(&position)).await;
                prop_assert!(done.is_ok());
                model.settled.extend(model.open.drain(..count));
            }
            Step::Kill => {
                for model in &mut models {
                    for offset in model.open.drain(..) {
                        *model.died.entry(offset).or_default() += 1;
                    }
                }
                life = open(source()).await;
            }
            Step::Restart => {
                for (_, acker) in std::mem::take(&mut life) {
                    prop_assert!(Box::new(acker).release().await.is_ok());
                }
                models.iter_mut().for_each(|model| model.open.clear());
                life = open(source()).await;
            }
        }
    }
    let mut seen = Vec::new();
    for ((reader, _), model) in life.iter_mut().zip(&mut models) {
        while let Some(batch) = read(reader, ROOM).await {
            check_batch(&batch, model, &content)?;
        }
        model.settled.append(&mut model.open);
        prop_assert!(model.settled.is_sorted());
        seen.extend_from_slice(&model.settled);
    }
    seen.sort_unstable();
    let mut expected = Vec::new();
    let mut offset = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if !text.is_empty() && text != b"\r" {
            expected.push(offset);
        }
        offset += line.len() as u64;
    }
    prop_assert_eq!(seen, expected);
    Ok(())
}

fn check_batch(batch: &[Record], model: &mut Model, content: &[u8]) -> Result<(), TestCaseError> {
    for record in batch {
        let offset = record.position().as_u64().expect("a number");
        let died = model.died.get(&offset).copied().unwrap_or(0);
        prop_assert_eq!(record.deliveries(), died + 1);
        let text = &content[offset as usize..];
        let line = text.split(|b| *b == b'\n').next().unwrap_or(text);
        match record.header(UNREADABLE) {
            Some(_) => prop_assert!(line.len() > 15 && record.payload().is_empty()),
            None => prop_assert_eq!(&record.payload()[..], line),
        }
        model.open.push(offset);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn s6_every_line_is_settled_exactly_once_over_any_kills(
        content in content(),
        shards in 1..4usize,
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(run(content, shards, steps))?;
    }
}
