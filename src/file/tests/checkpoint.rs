//! What a checkpoint keeps, counts and refuses.

use super::*;

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
async fn s3_what_nobody_waits_for_any_more_takes_no_checkpoint_from_the_next_life() {
    let (dir, file) = Dir::with("a\nb\nc\n");
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    let (mut reader, mut last) = one(source()).await;
    let records = all(&mut reader).await;
    for _ in 0..40 {
        // a commit and an opening that are dropped, and go on in their threads
        let _ = futures::poll!(std::pin::pin!(settle(&mut last, &records[0])));
        let mut dropped = source();
        let _ = futures::poll!(std::pin::pin!(dropped.next()));
        drop(dropped);
        let (_, mut acker) = one(source()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        settle(&mut acker, &records[1]).await.expect("it owns the checkpoint");
        last = acker;
    }
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
async fn f4_a_line_above_the_limit_looks_the_same_under_another_limit() {
    let (dir, file) = Dir::with(format!("{}\n", "x".repeat(100)));
    let mut lives = Vec::new();
    for max in [10, 99, 50] {
        let source = Source::open(&file).checkpoint(dir.path("checkpoint")).max_line(max);
        let (mut reader, acker) = one(source).await;
        let records = all(&mut reader).await;
        Box::new(acker).release().await.expect("it is ours");
        assert!(records[0].header(UNREADABLE).is_some());
        lives.push(records);
    }
    assert_eq!(lives[0], lives[1]);
    assert_eq!(lives[0], lives[2]);
}

#[tokio::test]
async fn i3_a_limit_under_which_a_line_would_change_its_shard_is_refused() {
    // a long line that is in shard 1, once it is held
    let line = (0..).map(|n| format!("{n:0>20}")).find(|l| shard_of(l.as_bytes(), 2) == 1);
    let (dir, file) = Dir::with(format!("{}\n", line.expect("there is one")));
    let path = dir.path("checkpoint");
    let source = |max| Source::open(&file).shards(2).checkpoint(&path).max_line(max);
    let mut read = Vec::new();
    for (mut reader, _) in open(source(10)).await {
        read.push(all(&mut reader).await.len());
    }
    assert_eq!(read, [1, 0], "where it is not held it is in shard 0");
    let text = refused(source(100)).await;
    assert!(text.contains("at most 10 bytes") && text.contains("`.max_line(10)`"), "{text}");
    // one shard has them all
    let single = |max| Source::open(&file).checkpoint(dir.path("single")).max_line(max);
    drop(open(single(10)).await);
    drop(open(single(100)).await);
    // a checkpoint of before this was said
    let mut old: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("a checkpoint")).expect("JSON");
    old.as_object_mut().expect("an object").remove("max_line");
    fs::write(&path, old.to_string()).expect("written");
    drop(open(source(100)).await);
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
async fn i10_a_read_that_ends_behind_the_release_of_its_shard_does_not_count() {
    let (dir, file) = Dir::with("a\nb\n");
    let source = || Source::open(&file).checkpoint(dir.path("checkpoint"));
    for _ in 0..3 {
        let (mut reader, acker) = one(source()).await;
        Box::new(acker).release().await.expect("it is ours");
        // as its thread goes on, when a drain has dropped a read
        let records = all(&mut reader).await;
        assert_eq!(records.iter().map(Record::deliveries).collect::<Vec<_>>(), [1, 1]);
    }
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

#[tokio::test]
async fn a_file_whose_checkpoint_is_forgotten_is_read_from_its_start() {
    let (dir, file) = Dir::with("a\nb\n");
    let path = dir.path("state/checkpoint");
    let source = |file: &Path| Source::open(file).checkpoint(&path);
    forget(&path).expect("there is none, nor a place for it");
    for _ in 0..2 {
        let (mut reader, mut acker) = one(source(&file)).await;
        let records = all(&mut reader).await;
        // of no earlier life that died: that is forgotten, too
        assert_eq!(lines(&records), [(0, "a".into()), (2, "b".into())]);
        assert!(records.iter().all(|record| record.deliveries() == 1));
        settle(&mut acker, &records[1]).await.expect("a commit");
        drop((reader, acker));
        let (mut reader, _) = one(source(&file)).await;
        assert!(all(&mut reader).await.is_empty(), "it is settled to its end");
        drop(reader);
        forget(&path).expect("forgotten");
        assert_eq!(fs::read_dir(dir.path("state")).expect("a directory").count(), 0);
    }
    // and so is one that is of another file by now
    drop(open(source(&file)).await);
    fs::write(&file, "other\n").expect("written");
    assert!(refused(source(&file)).await.contains("`file::forget` this one"));
    forget(&path).expect("forgotten");
    let (mut reader, _) = one(source(&file)).await;
    assert_eq!(lines(&all(&mut reader).await), [(0, "other".into())]);
}

#[test]
fn a_checkpoint_that_cannot_be_forgotten_is_an_error_with_its_path() {
    let dir = Dir::new();
    let path = dir.path("checkpoint");
    fs::create_dir(&path).expect("in its place");
    let error = forget(&path).expect_err("a directory is no checkpoint");
    assert_eq!(error.path(), path);
    assert!(error.to_string().contains("cannot remove the checkpoint"), "{error}");
}
