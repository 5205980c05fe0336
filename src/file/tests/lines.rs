//! Lines come as they are, each once.

use super::*;

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
    assert_eq!(why(1).as_deref(), Some("a line of 3145728 bytes is over the limit (`max_line`)"));
    assert_eq!(why(3).as_deref(), Some("a line of 11 bytes is over the limit (`max_line`)"));
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
