//! The writer over a store that throttles, hangs, loses replies and lists late; killed at any moment.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::{Position, Record, Shutdown};
use streambreaker_lake::{Bounds, Damage, Finding, Lake, LakeError, LakeWriter, Selection};
use support::{Fail, Shaky, record, records, store, storing, stream_of};

/// A writer of small objects.
fn writer(lake: &Lake, records: usize) -> LakeWriter {
    LakeWriter::new(lake).records(records).linger(Duration::from_millis(500))
}

/// Everything that is written to a sink in one request; which of it was confirmed.
async fn write(writer: &LakeWriter, items: &[Record]) -> (Vec<bool>, OutcomeLog) {
    let mut log = OutcomeLog::new(items.len());
    let _ = writer.write(items, &mut log.outcomes()).await;
    ((0..items.len()).map(|at| log.is_done(at)).collect(), log)
}

#[tokio::test(start_paused = true)]
async fn l1_every_record_is_stored_in_objects_that_join() {
    let (shaky, mut all) = (Shaky::default(), records("orders", "0", 0..150));
    all.extend(records("orders", "1", 0..40));
    // no event, and stored all the same
    all.push(Record::new("orders", "1", Position::from(90), &b"\xff not JSON"[..]));
    let stream = stream_of("orders", &all);
    let lake = shaky.lake();
    let report = store(&stream, &writer(&lake, 30)).await;
    assert_eq!(report.pipelines["store"].done, 191);
    assert!(stream.is_settled("lake"));

    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (191, &[][..]), "{report}");
    // an object lies in the hour in which its first record arrived, and ends with it; what arrived before it stays in it
    let paths = shaky.paths().await;
    for path in ["hour=10/0-0-29.parquet", "hour=11/0-60-89.parquet"] {
        let path = format!("stream=orders/date=2013-01-01/{path}");
        assert!(paths.contains(&path), "{paths:#?}");
    }
    assert_eq!(lake.streams().await.unwrap(), (vec!["orders".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_is_stored_in_objects_of_many_hours() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..600);
    let (done, _) = write(&writer(&shaky.lake(), 1_000).hours(24), &all).await;
    assert!(done.iter().all(|done| *done));
    // ten hours from ten on, all of one day
    assert_eq!(shaky.created(), ["stream=orders/date=2013-01-01/hour=10/0-0-599.parquet"]);
    write(&writer(&shaky.lake(), 1_000).hours(6), &records("orders", "1", 0..600)).await;
    assert_eq!(shaky.created().len(), 4, "{:?}", shaky.created());
}

#[tokio::test(start_paused = true)]
async fn objects_close_by_bytes() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..40);
    let each = all.iter().map(Record::size).max().unwrap();
    let small = LakeWriter::new(&shaky.lake()).bytes(10 * each).linger(Duration::from_secs(60));
    store(&stream_of("orders", &all), &small).await;
    let paths = shaky.paths().await;
    assert!((4..=6).contains(&paths.len()), "{paths:?}");
    assert_eq!(shaky.lake().verify("orders").await.unwrap().records, 40);
}

#[tokio::test(start_paused = true)]
async fn objects_close_by_age_when_input_is_quiet() {
    let shaky = Shaky::default();
    let stream = stream_of("orders", &records("orders", "0", 0..3));
    let (processor, _) = storing(&stream, &writer(&shaky.lake(), 1_000));
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(shaky.created().is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shaky.created().len(), 1);
    assert_eq!(stream.committed("lake", 0), Some(Position::from(2)));
    trigger.pull();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn l2_a_checkpoint_passes_a_record_only_when_its_object_is_durable() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..200);
    let stream = stream_of("orders", &all);
    let lake = shaky.lake();
    {
        let shaky = shaky.clone();
        stream.on_commit(move |commit| {
            let upto = commit_position(commit);
            let stored = shaky.created().iter().filter_map(|path| last_of(path)).max();
            assert!(stored >= Some(upto), "{stored:?} is stored, {upto} is committed");
        });
    }
    use Fail::{Hangs, LosesReply, LosesReplyAndHangs, Not, Throttled};
    shaky.writes([
        Throttled,
        Not,
        LosesReply,
        Hangs,
        Not,
        LosesReplyAndHangs,
        Throttled,
        Throttled,
        Throttled,
        Throttled,
        Not,
        LosesReply,
        LosesReply,
        LosesReplyAndHangs,
        Hangs,
        Hangs,
        Hangs,
        Hangs,
    ]);
    store(&stream, &writer(&lake, 20)).await;
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (200, &[][..]), "{report}");
    assert!(stream.is_settled("lake"));
    assert_eq!(shaky.most_running(), 1, "one write in flight a shard");
}

fn commit_position(commit: &streambreaker::memory::Commit) -> u64 {
    match &commit.what {
        streambreaker::memory::What::Through(position) => position.as_u64().unwrap(),
        other => panic!("committed by position, not {other:?}"),
    }
}

fn last_of(path: &str) -> Option<u64> {
    path.strip_suffix(".parquet")?.rsplit('/').next()?.split('-').nth(2)?.parse().ok()
}

#[tokio::test(start_paused = true)]
async fn l2_what_a_verified_object_holds_is_adopted_and_never_written_twice() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..50);
    let (done, _) = write(&writer(&lake, 100), &all[..30]).await;
    assert!(done.iter().all(|done| *done));
    // another life, whose checkpoint stands before that object, and whose requests are cut otherwise
    let second = writer(&lake, 100);
    for request in [&all[10..25], &all[25..45], &all[40..50]] {
        let (done, _) = write(&second, request).await;
        assert!(done.iter().all(|done| *done));
    }
    let names: Vec<String> = shaky.created();
    assert_eq!(names.len(), 3, "{names:?}");
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (50, &[][..]), "{report}");
}

#[tokio::test(start_paused = true)]
async fn l2_the_same_records_make_the_same_object() {
    let (one, two) = (Shaky::default(), Shaky::default());
    let all = records("orders", "0", 0..50);
    for shaky in [&one, &two] {
        write(&writer(&shaky.lake(), 100), &all).await;
    }
    assert_eq!(one.paths().await, two.paths().await);
    for path in one.paths().await {
        assert_eq!(one.bytes_of(&path).await, two.bytes_of(&path).await);
    }
}

#[tokio::test(start_paused = true)]
async fn l2_another_record_at_a_position_that_is_taken_is_an_error_of_that_record() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..10);
    write(&writer(&lake, 100), &all).await;
    let mut other = all.clone();
    other[3] = record("orders", "0", 3).with_header("more", "than before");
    other.push(record("orders", "0", 10));
    let (done, log) = write(&writer(&lake, 100), &other).await;
    let refused: Vec<usize> = (0..done.len()).filter(|at| !done[*at]).collect();
    assert_eq!(refused, [3]);
    let error = log.error(3).unwrap();
    assert_eq!((error.name(), error.class()), ("PositionTaken", streambreaker::Class::Fault));
    // the same within one request
    let twice =
        [record("orders", "0", 20), other[3].clone(), record("orders", "0", 20).with_key("x")];
    let (done, _) = write(&writer(&lake, 100), &twice).await;
    assert_eq!(done, [true, false, false]);
    assert_eq!(lake.verify("orders").await.unwrap().records, 12);
}

#[tokio::test(start_paused = true)]
async fn s1_a_record_that_comes_twice_in_a_request_is_stored_once() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..10);
    let twice: Vec<Record> = all.iter().chain(&all[2..]).cloned().collect();
    let (done, _) = write(&writer(&shaky.lake(), 100), &twice).await;
    assert!(done.iter().all(|done| *done));
    let report = shaky.lake().verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (10, &[][..]));
}

#[tokio::test(start_paused = true)]
async fn l4_a_torn_object_under_the_same_name_is_reported_and_its_records_stored_anew() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..10);
    write(&writer(&lake, 100), &all).await;
    let path = shaky.paths().await.remove(0);
    let whole = shaky.bytes_of(&path).await;
    shaky.put_bytes(&path, whole.slice(..whole.len() / 2)).await;
    let report = lake.verify("orders").await.unwrap();
    assert!(!report.is_sound(), "{report}");

    let (done, _) = write(&writer(&lake, 100), &all).await;
    assert!(done.iter().all(|done| *done));
    let report = lake.verify("orders").await.unwrap();
    assert_eq!(report.records, 10);
    assert!(
        matches!(&report.findings[..], [Finding::Damaged { damage: Damage::Torn(_), .. }]),
        "{report}"
    );
    assert!(shaky.paths().await.iter().any(|path| path.ends_with("0-0-9-1.parquet")));
}

#[tokio::test(start_paused = true)]
async fn l4_foreign_objects_are_named_and_skipped() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    shaky.put_bytes("stream=orders/date=2013-01-01/hour=10/part-0001.parquet", "PAR1").await;
    shaky.put_bytes("stream=orders/readme.txt", "hello").await;
    shaky.put_bytes("stream=orders/date=2013-01-01/hour=10/0-3-4.parquet", "PAR1 PAR1").await;
    write(&writer(&lake, 100), &records("orders", "0", 0..10)).await;
    let report = lake.verify("orders").await.unwrap();
    assert_eq!(report.records, 10);
    let text = report.to_string();
    assert_eq!(
        (text.matches("foreign").count(), text.matches("damaged").count()),
        (2, 1),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn verify_names_what_is_missing() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let sparse: Vec<Record> = (0..60).map(|n| record("orders", "0", n * n)).collect();
    let one = writer(&lake, 100);
    for request in sparse.chunks(20) {
        write(&one, request).await;
    }
    assert!(lake.verify("orders").await.unwrap().findings.is_empty(), "sparse is not missing");
    let manifest = lake.manifest("orders").await.unwrap();
    assert!(manifest.gaps(&"0".into()).is_empty());
    assert_eq!(manifest.covered(&"0".into())[0].records, 60);
    lake.store_manifest(&manifest).await.unwrap();

    let gone: Vec<String> = shaky
        .paths()
        .await
        .into_iter()
        .filter(|path| last_of(path).is_some_and(|last| (400..=1521).contains(&last)))
        .collect();
    assert!(!gone.is_empty());
    for path in &gone {
        shaky.remove(path).await;
    }
    let report = lake.verify("orders").await.unwrap();
    let missing: Vec<_> =
        report.findings.iter().filter(|f| matches!(f, Finding::Missing { .. })).collect();
    assert_eq!(
        missing,
        [&Finding::Missing {
            shard: "0".into(),
            after: (19u64 * 19).into(),
            before: (40u64 * 40).into()
        }]
    );
    let deleted = report.findings.iter().filter(|f| matches!(f, Finding::Deleted { .. })).count();
    assert_eq!(deleted, gone.len());
    assert!(!report.is_sound());
    // deleted on purpose
    let mut manifest = lake.manifest("orders").await.unwrap();
    assert_eq!(manifest.missing.len(), gone.len());
    manifest.forget_missing();
    lake.store_manifest(&manifest).await.unwrap();
    assert!(lake.manifest("orders").await.unwrap().missing.is_empty());
}

/// Seventy objects of a record each, an hour apart.
async fn seventy(shaky: &Shaky) -> Lake {
    let lake = shaky.lake();
    let sparse: Vec<Record> = (0..70).map(|n| record("orders", "0", 60 * n)).collect();
    write(&writer(&lake, 100), &sparse).await;
    lake
}

#[tokio::test(start_paused = true)]
async fn what_many_objects_hold_is_looked_up_once() {
    let shaky = Shaky::default();
    let lake = seventy(&shaky).await;
    shaky.bytes_read();
    let manifest = lake.manifest("orders").await.unwrap();
    let first = shaky.bytes_read();
    assert_eq!(lake.manifest("orders").await.unwrap(), manifest);
    let document = shaky.bytes_of("stream=orders/_manifest.json").await.len() as u64;
    assert_eq!(shaky.bytes_read(), document);
    assert!(first > 4 * document, "{first} bytes of 70 objects, {document} bytes of the manifest");
    // who may only read looks at all of them each time
    shaky.remove("stream=orders/_manifest.json").await;
    for fail in [Fail::Throttled, Fail::Hangs] {
        shaky.writes([fail]);
        assert_eq!(lake.manifest("orders").await.unwrap(), manifest);
    }
    assert!(!shaky.paths().await.contains(&"stream=orders/_manifest.json".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_was_there_at_the_last_verification_is_missed() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let one = writer(&lake, 10);
    for items in [0..10, 10..20, 20..30] {
        write(&one, &records("orders", "0", items)).await;
    }
    assert!(lake.verify("orders").await.unwrap().is_sound());
    // without what was known of it, nobody could tell that the last one is gone
    let objects = lake.manifest("orders").await.unwrap().objects;
    shaky.remove(&objects[2].path).await;
    for _ in 0..2 {
        let report = lake.verify("orders").await.unwrap();
        assert!(!report.is_sound());
        assert!(
            matches!(&report.findings[..], [Finding::Deleted { path, .. }] if *path == objects[2].path),
            "{report}"
        );
    }
    write(&writer(&lake, 10), &records("orders", "0", 20..30)).await;
    let report = lake.verify("orders").await.unwrap();
    assert!(report.is_sound(), "it was stored anew: {report}");
    // who looks for a stream that is not there does not make one
    assert!(lake.verify("ordres").await.unwrap().is_sound());
    assert_eq!(lake.streams().await.unwrap().0, ["orders"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_by_its_age_is_not_missed() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for shard in ["0", "1", "gone"] {
        write(&writer(&lake, 10), &records("orders", shard, 0..10)).await;
    }
    for shard in ["0", "1"] {
        for items in [100..110, 110..120] {
            write(&writer(&lake, 10), &records("orders", shard, items)).await;
        }
    }
    assert!(lake.verify("orders").await.unwrap().is_sound());
    let objects = lake.manifest("orders").await.unwrap().objects;
    assert_eq!(objects.len(), 7);
    let of = |shard: &str, first: u64| {
        let object = objects.iter().find(|object| {
            object.footer.shard == shard && object.footer.first == Position::from(first)
        });
        &object.unwrap().path
    };
    // one after the other, as a rule of the bucket comes to them
    for shard in ["gone", "0"] {
        shaky.remove(of(shard, 0)).await;
    }
    let report = lake.verify("orders").await.unwrap();
    assert!(
        matches!(&report.findings[..], [Finding::Deleted { shard, .. }] if shard.as_str() == "gone"),
        "others of its time are there still: {report}"
    );
    shaky.remove(of("1", 0)).await;
    assert_eq!(lake.verify("orders").await.unwrap().findings, []);
    shaky.remove(of("1", 110)).await;
    let report = lake.verify("orders").await.unwrap();
    assert!(matches!(&report.findings[..], [Finding::Deleted { .. }]), "not the oldest: {report}");
}

#[tokio::test(start_paused = true)]
async fn a_list_of_records_does_not_go_through_faults_and_the_ledger() {
    let shaky = Shaky::default();
    let lake = seventy(&shaky).await;
    for n in 0..50 {
        shaky.put_bytes(&format!("stream=orders/_ledger/{n}.json"), "{}").await;
        shaky.put_bytes(&format!("stream=orders/kind=fault/date=2013-01-01/hour=10/{n}"), "").await;
    }
    for path in ["stream=orders/notes.txt", "stream=orders/mine/notes.txt"] {
        shaky.put_bytes(path, "a note").await;
    }
    shaky.listed();
    let manifest = lake.manifest("orders").await.unwrap();
    assert_eq!((manifest.objects.len(), manifest.foreign.len()), (70, 2), "{:?}", manifest.foreign);
    assert_eq!(shaky.listed(), 71, "and a note in a folder of its own");
}

#[tokio::test(start_paused = true)]
async fn l4_an_object_that_the_manifest_knows_otherwise_is_named_by_both_who_leave_it_out() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for items in [0..10, 10..20] {
        write(&writer(&lake, 10), &records("orders", "0", items)).await;
    }
    let mut manifest = lake.manifest("orders").await.unwrap();
    manifest.objects[1].footer.after = None;
    let path = manifest.objects[1].path.clone();
    lake.store_manifest(&manifest).await.unwrap();

    let named = Damage::Contents("its footer, which the manifest knows otherwise");
    let report = lake.verify("orders").await.unwrap();
    let damaged = Finding::Damaged { path: path.clone(), damage: named.clone() };
    assert_eq!((report.records, &*report.findings), (10, &[damaged][..]), "{report}");
    assert!(!report.is_sound());
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!((counts.records, counts.damaged), (10, vec![(path, named)]));
}

#[tokio::test(start_paused = true)]
async fn l4_a_manifest_that_counts_more_than_there_can_be_ends_nothing() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for items in [0..10, 10..20] {
        write(&writer(&lake, 10), &records("orders", "0", items)).await;
    }
    let mut manifest = lake.manifest("orders").await.unwrap();
    manifest.objects.iter_mut().for_each(|object| object.footer.records = u64::MAX);
    lake.store_manifest(&manifest).await.unwrap();
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!((counts.records, counts.damaged.len()), (0, 2));
    assert_eq!(counts.stored_records, u64::MAX);
    assert_eq!(lake.manifest("orders").await.unwrap().covered(&"0".into())[0].records, u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lags_leads_to_duplicates_that_are_named_and_nothing_worse() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..40);
    shaky.hide_new(1);
    write(&writer(&lake, 100), &all[..20]).await;
    // the next life does not see what the last one wrote
    write(&writer(&lake, 100), &all[10..40]).await;
    shaky.show_all();
    let report = lake.verify("orders").await.unwrap();
    assert_eq!(report.records, 40);
    assert!(report.is_sound(), "{report}");
    assert!(matches!(&report.findings[..], [Finding::Duplicate { records: 10, .. }]), "{report}");
}

#[tokio::test(start_paused = true)]
async fn l4_an_answer_that_is_cut_off_is_no_damage() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..40);
    for chunk in all.chunks(20) {
        write(&writer(&lake, 100), chunk).await;
    }
    let paths = shaky.paths().await;
    shaky.cuts(3);
    let manifest = lake.manifest("orders").await.unwrap();
    assert_eq!((manifest.objects.len(), &*manifest.damaged), (2, &[][..]));
    lake.store_manifest(&manifest).await.unwrap();
    shaky.cuts(3);
    assert_eq!(lake.manifest("orders").await.unwrap().objects.len(), 2);
    shaky.cuts(3);
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (40, &[][..]), "{report}");
    shaky.cuts(3);
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!((counts.records, &*counts.damaged), (40, &[][..]));
    // and nothing is stored anew because of it
    let writer = writer(&lake, 100);
    for _ in 0..3 {
        shaky.cuts(1);
        write(&writer, &all).await;
    }
    assert!(write(&writer, &all).await.0.iter().all(|done| *done));
    let new = shaky.paths().await.into_iter().filter(|path| !path.ends_with(".json"));
    assert_eq!(new.collect::<Vec<_>>(), paths);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_knows_no_ranges_from_the_end_is_a_lake() {
    let shaky = Shaky::default();
    shaky.knows_no_suffix();
    let lake = shaky.lake();
    for items in [0..10, 10..20] {
        write(&writer(&lake, 10), &records("orders", "0", items)).await;
    }
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (20, &[][..]));
    assert_eq!(lake.dry_run(&Selection::of("orders")).await.unwrap().records, 20);
}

#[tokio::test(start_paused = true)]
async fn l4_an_empty_object_is_damage_also_where_a_range_of_it_is_an_error() {
    for knows_suffix in [true, false] {
        let shaky = Shaky::default();
        if !knows_suffix {
            shaky.knows_no_suffix();
        }
        let lake = shaky.lake();
        write(&writer(&lake, 100), &records("orders", "0", 0..10)).await;
        let path = "stream=orders/date=2013-01-01/hour=10/0-20-29.parquet";
        shaky.put_bytes(path, "").await;
        let manifest = lake.manifest("orders").await.unwrap();
        assert_eq!((manifest.objects.len(), manifest.damaged.len()), (1, 1));
        let report = lake.verify("orders").await.unwrap();
        assert_eq!((report.records, report.findings.len()), (10, 1), "{report}");
        let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
        assert_eq!((counts.records, counts.damaged.len()), (10, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn l4_a_list_that_shows_an_object_twice_makes_one_of_it() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for items in [0..10, 10..20] {
        write(&writer(&lake, 10), &records("orders", "0", items)).await;
    }
    shaky.put_bytes("stream=orders/readme.txt", "hello").await;
    shaky.lists_twice();
    let report = lake.verify("orders").await.unwrap();
    let foreign = Finding::Foreign { path: "stream=orders/readme.txt".to_owned() };
    assert_eq!((report.objects, report.records, &*report.findings), (2, 20, &[foreign][..]));
    let manifest = lake.manifest("orders").await.unwrap();
    assert_eq!(manifest.covered(&"0".into())[0].records, 20);
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!((counts.records, counts.objects), (20, 2));
}

#[tokio::test(start_paused = true)]
async fn l2_objects_that_overlap_are_read_once_to_adopt_what_they_hold() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..60);
    write(&writer(&lake, 100), &all[..30]).await;
    // a half of an object over both, as whoever died while writing leaves behind
    let torn = "stream=orders/date=2013-01-01/hour=10/0-0-59.parquet";
    shaky.put_bytes(torn, "PAR1 and then the power failed").await;
    write(&writer(&lake, 100), &all[30..]).await;
    shaky.reads();
    assert!(write(&writer(&lake, 100), &all).await.0.iter().all(|done| *done));
    let (reads, _) = shaky.reads();
    assert!(reads <= 3, "{reads} reads of three objects");
}

#[tokio::test(start_paused = true)]
async fn l12_what_others_wrote_is_printed_without_control_characters() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let hostile = |text: &str| {
        let position = format!("{text}\u{1b}[2J").parse().unwrap();
        Record::new("orders", "0\u{1b}[2J", position, "x").with_arrival(support::TEN)
    };
    // a path has no control characters but those beyond ASCII
    let path = "stream=orders/date=2013-01-01/hour=10/\u{9b}2J.parquet";
    let one = writer(&lake, 100);
    for name in ["a", "b", "c"] {
        write(&one, &[hostile(name)]).await;
    }
    lake.store_manifest(&lake.manifest("orders").await.unwrap()).await.unwrap();
    shaky.put_bytes(path, "x").await;
    let gone = shaky.paths().await.into_iter().find(|path| path.contains("-b%1B")).unwrap();
    shaky.remove(&gone).await;
    let report = lake.verify("orders").await.unwrap();
    assert_eq!(report.findings.len(), 3, "deleted, missing, foreign: {report}");
    let error = LakeError::Damaged { path: path.to_owned(), damage: Damage::Gone };
    for printed in [report.to_string(), error.to_string()] {
        assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn l3_a_stream_of_any_name_is_stored_or_refused() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for stream in ["..", "a/b", "Orders", "\0", "ß %2F"] {
        let all: Vec<Record> = (0..3).map(|n| record(stream, "sh/../ard", n)).collect();
        let (done, _) = write(&writer(&lake, 100), &all).await;
        assert_eq!(done, [true; 3], "{stream:?}");
        assert_eq!(lake.verify(stream).await.unwrap().records, 3);
    }
    let (streams, foreign) = lake.streams().await.unwrap();
    assert_eq!((streams.len(), foreign.len()), (5, 0));
    for stream in [String::new(), "x".repeat(1 << 20)] {
        let (done, log) = write(&writer(&lake, 100), &[record(&stream, "0", 1)]).await;
        assert_eq!(done, [false]);
        assert_eq!(log.error(0).unwrap().class(), streambreaker::Class::Fault);
    }
    // a shard without a name does not keep others from being stored
    let (done, _) = write(&writer(&lake, 100), &[record("s", "", 1), record("s", "0", 1)]).await;
    assert_eq!(done, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn l3_a_position_that_gives_no_name_is_a_fault_of_its_record_alone() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let message = |name: &str| {
        Record::new("orders", "0", name.parse().unwrap(), "x").with_arrival(support::TEN)
    };
    let long = "m".repeat(65);
    for (at, names) in [
        (2, ["a", "b", &*long]),
        (0, [&*long, "n", "o"]),
        // between two others, which name the object
        (1, ["c", &*long, "p"]),
    ] {
        let items = names.map(message);
        let (done, log) = write(&writer(&lake, 100), &items).await;
        let expected: Vec<bool> = (0..3).map(|n| n != at).collect();
        assert_eq!(done, expected, "{names:?}");
        assert_eq!(log.error(at).unwrap().class(), streambreaker::Class::Fault);
    }
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, report.is_sound()), (6, true), "{report}");
}

#[tokio::test(start_paused = true)]
async fn l1_l5_what_could_not_be_read_again_is_not_stored() {
    let shaky = Shaky::default();
    let bounds = Bounds { records: 4, record_bytes: 100, ..Bounds::default() };
    let lake = shaky.lake().with_bounds(bounds);
    let mut all = records("orders", "0", 0..10);
    all[5] =
        Record::new("orders", "0", Position::from(5), vec![b'x'; 101]).with_arrival(support::TEN);
    let stream = stream_of("orders", &all);
    stream.close();
    let (processor, faults) = storing(&stream, &writer(&lake, 1_000));
    processor.run(Shutdown::never()).await.unwrap();
    assert!(stream.is_settled("lake"));
    let faulted: Vec<_> =
        faults.events().iter().map(|f| f.records[0].record.position().clone()).collect();
    assert_eq!(faulted, [Position::from(5)]);
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (9, &[][..]), "{report}");
    assert_eq!(lake.dry_run(&Selection::of("orders")).await.unwrap().records, 9);
}

#[tokio::test]
async fn a_folder_on_disk_is_a_lake() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::local(folder.path()).unwrap();
    let all: Vec<Record> = ["Orders", "a%b"]
        .iter()
        .flat_map(|stream| (0..50).map(|n| record(stream, "shard-0", n)))
        .collect();
    let (done, log) = write(&writer(&lake, 100), &all).await;
    assert!(done.iter().all(|done| *done), "{:?}", log.error(0));
    let (done, _) = write(&writer(&lake, 100), &all).await;
    assert!(done.iter().all(|done| *done), "written again, it is adopted");
    let (streams, foreign) = lake.streams().await.unwrap();
    assert_eq!((streams, foreign), (vec!["Orders".to_owned(), "a%b".to_owned()], vec![]));
    for stream in ["Orders", "a%b"] {
        let report = lake.verify(stream).await.unwrap();
        assert_eq!((report.records, &*report.findings), (50, &[][..]), "{report}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn l4_what_else_lies_in_a_folder_on_disk_is_skipped_or_named() {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    type Plant = fn(&Path);
    let skipped: [Plant; 4] = [
        |hour| fs::create_dir(hour.join("0-50-59.parquet")).unwrap(),
        |hour| symlink("nowhere", hour.join("0-60-69.parquet")).unwrap(),
        |hour| fs::write(hour.join("0-0-9.parquet#1"), "half of one").unwrap(),
        |hour| fs::write(hour.join("to do"), "x").unwrap(),
    ];
    let named: [Plant; 3] = [
        |hour| fs::write(hour.join("new\nline.parquet"), "x").unwrap(),
        |hour| fs::write(hour.join(OsStr::from_bytes(b"\xff.parquet")), "x").unwrap(),
        |hour| fs::create_dir(hour.join("../../da\nte=x")).unwrap(),
    ];
    let all = records("orders", "0", 0..20);
    for (plant, is_skipped) in
        skipped.map(|plant| (plant, true)).into_iter().chain(named.map(|plant| (plant, false)))
    {
        let folder = tempfile::tempdir().unwrap();
        let hour = folder.path().join("stream=orders/date=2013-01-01/hour=10");
        let lake = Lake::local(folder.path()).unwrap();
        write(&writer(&lake, 100), &all[..10]).await;
        plant(&hour);
        let mut log = OutcomeLog::new(20);
        let wrote = writer(&lake, 100).write(&all, &mut log.outcomes()).await;
        if is_skipped {
            wrote.unwrap();
            let report = lake.verify("orders").await.unwrap();
            assert!(report.records == 20 && report.is_sound(), "{report}");
            continue;
        }
        // the store lists nothing: its records stay in the stream, and whoever reads is told what to do
        assert_eq!(wrote.unwrap_err().class(), streambreaker::Class::Transient);
        assert!((0..20).all(|at| !log.is_done(at)));
        let error = lake.verify("orders").await.unwrap_err();
        assert!(matches!(error, LakeError::ForeignName(_)) && !error.is_transient(), "{error}");
        assert!(matches!(lake.manifest("orders").await, Err(LakeError::ForeignName(_))));
    }
}

fn any_fail() -> impl Strategy<Value = Fail> {
    prop_oneof![
        6 => Just(Fail::Not),
        1 => Just(Fail::Throttled),
        1 => Just(Fail::Hangs),
        1 => Just(Fail::LosesReply),
        1 => Just(Fail::LosesReplyAndHangs),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn l2_s6_killed_at_any_moment_nothing_is_lost_and_nothing_is_there_twice(
        fails in proptest::collection::vec(any_fail(), 0..60),
        lives in proptest::collection::vec((0u64..4_000, 5usize..60), 0..8),
        reads_fail in 0usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let shaky = Shaky::default();
            let mut all = records("orders", "0", 0..200);
            all.extend(records("orders", "1", 0..50));
            let stream = stream_of("orders", &all);
            stream.close();
            shaky.writes(fails);
            shaky.reads_fail(reads_fail);
            for (millis, size) in lives {
                let (processor, _) = storing(&stream, &writer(&shaky.lake(), size));
                // dropped where it stands: as good as killed
                let _ = tokio::time::timeout(Duration::from_millis(millis), processor.run(Shutdown::never())).await;
            }
            store(&stream, &writer(&shaky.lake(), 25)).await;
            let report = shaky.lake().verify("orders").await.unwrap();
            assert_eq!((report.records, &*report.findings), (250, &[][..]), "{report}");
            assert!(shaky.most_running() <= 2, "one write in flight a shard");
            assert!(stream.is_settled("lake"));
        });
    }
}
