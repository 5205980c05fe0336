//! The replay: what it yields is what the stream yielded.

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use streambreaker::flow::{NewEvent, OnReplay};
use streambreaker::memory::Collect;
use streambreaker::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Acker, Change, Read, Reader, Room, Settled, UNREADABLE};
use streambreaker::{Delivery, Position, Record, Report, RunError, Source, file, memory};
use streambreaker_lake::{Damage, Key, Keys, Lake, LakeWriter, Selection};
use support::{Shaky, TEN, record, records, store, stream_of};
use uuid::Uuid;

async fn write(lake: &Lake, items: &[Record]) {
    let mut log = OutcomeLog::new(items.len());
    LakeWriter::new(lake).write(items, &mut log.outcomes()).await.unwrap();
    assert!((0..items.len()).all(|at| log.is_done(at)));
}

/// A processor that collects the events it gets.
fn collecting() -> (Processor, Collect<Record>) {
    collecting_from(|flow| flow)
}

/// A processor that collects the records it gets, also those that are no events.
fn collecting_all() -> (Processor, Collect<Record>) {
    collecting_from(Flow::with_unreadable)
}

fn collecting_from(
    input: impl Fn(Flow<Input>) -> Flow<Input> + Send + Sync + 'static,
) -> (Processor, Collect<Record>) {
    let found = Collect::new();
    let target = found.clone();
    let collect = Resource::builder("collect").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("replayed")
        .faults(memory::faults())
        .pipeline("collect", move |flow| {
            input(flow)
                .map(|received: Received| received.record().clone())
                .bulk_write(&collect, target.clone())
                .in_flight(1)
                .window(Window::items(50).linger(Duration::from_millis(5)))
        })
        .build()
        .unwrap();
    (processor, found)
}

async fn run(source: impl Source) -> (Report, Vec<Record>) {
    let (processor, found) = collecting();
    let report = processor.run_from(source, Shutdown::never()).await.unwrap();
    (report, found.items())
}

/// As the stream had it.
fn live(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().map(|record| record.with_delivery(Delivery::Live)).collect()
}

fn by_shard(mut records: Vec<Record>) -> Vec<Record> {
    // stable: the order within a shard is what is compared
    records.sort_by(|a, b| a.shard().cmp(b.shard()));
    records
}

#[tokio::test(start_paused = true)]
async fn l1_a_replay_yields_what_the_stream_yielded() {
    let shaky = Shaky::default();
    let mut all = records("orders", "0", 0..150);
    all.extend(records("orders", "1", 0..40));
    all.push(Record::new("orders", "1", Position::from(90), &b"\xff not JSON"[..]));
    let stream = stream_of("orders", &all);
    let lake = shaky.lake();
    store(&stream, &LakeWriter::new(&lake).records(30).linger(Duration::from_millis(500))).await;
    let before = (stream.committed("lake", 0), stream.committed("lake", 1));

    let source = lake.replay(Selection::of("orders"));
    let (run_id, progress) = (source.run_id(), source.progress());
    let (report, found) = run(source).await;
    assert_eq!(report.pipelines["collect"].done, 191);
    assert!(found.iter().all(|record| *record.delivery() == Delivery::Replay { run: run_id }));
    assert_eq!(by_shard(live(found)), all);
    // the live checkpoint is where it was
    assert_eq!((stream.committed("lake", 0), stream.committed("lake", 1)), before);
    let counts = progress.counts();
    assert_eq!(
        (counts.records, counts.objects, counts.damaged.len()),
        (191, counts.objects_read, 0)
    );
    assert_eq!(counts.stored_bytes, counts.stored_bytes_read);
    assert_eq!((counts.stored_records, counts.stored_records_read), (191, 191));
}

#[tokio::test(start_paused = true)]
async fn how_far_a_replay_is_moves_on_within_an_object_and_comes_to_the_end() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(&lake, &records("orders", "0", 0..100)).await;
    for selection in [Selection::of("orders"), Selection::of("orders").kind("started")] {
        let mut source = lake.replay(selection);
        let progress = source.progress();
        let Some(Change::Assigned { mut reader, .. }) = source.next().await.unwrap() else {
            panic!("there is a shard");
        };
        let mut seen = Vec::new();
        let room = Room { records: 10, bytes: 1 << 20 };
        while !matches!(reader.read(room).await.unwrap(), Read::End) {
            seen.push(progress.counts().stored_records_read);
        }
        assert!(seen.len() >= 3 && seen.is_sorted() && seen[0] < 50, "{seen:?}");
        let counts = progress.counts();
        assert_eq!((counts.stored_records_read, counts.objects_read), (100, counts.objects));
    }
}

#[tokio::test(start_paused = true)]
async fn s2_a_gap_between_positions_that_are_text_begins_behind_the_last_that_is_there() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let writer = LakeWriter::new(&lake);
    let message =
        |name: &str| Record::new("orders", "0", name.parse().unwrap(), "x").with_arrival(TEN);
    for name in ["m-1", "m-2", "m-3"] {
        let mut log = OutcomeLog::new(1);
        writer.write(&[message(name)], &mut log.outcomes()).await.unwrap();
    }
    let middle = shaky.paths().await.remove(1);
    shaky.put_bytes(&middle, "not Parquet any more").await;
    let (report, found) = run(lake.replay(Selection::of("orders"))).await;
    assert_eq!(live(found), [message("m-1"), message("m-3")]);
    let from: Position = report.gaps[0].from.parse().unwrap();
    assert!(*message("m-1").position() < from && from < *message("m-2").position(), "{from:?}");
    assert_eq!(report.gaps[0].to, "m-3");
}

#[tokio::test]
async fn l1_what_the_transport_could_not_read_is_stored_and_replayed_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.ndjson");
    let long = "x".repeat(200);
    std::fs::write(&path, format!("{{\"id\":\"1\"}}\n{long}\n{{\"id\":\"2\"}}\n")).unwrap();
    let source = || file::Source::open(&path).stream("orders").max_line(100);
    let (processor, as_it_came) = collecting_all();
    processor.run_from(source(), Shutdown::never()).await.unwrap();
    let as_it_came = as_it_came.items();
    let lost: Vec<_> = as_it_came.iter().filter(|r| r.header(UNREADABLE).is_some()).collect();
    assert_eq!((as_it_came.len(), lost.len()), (3, 1));

    // the writer's component has nothing to fault
    let lake = Lake::local(folder.path().join("lake")).unwrap();
    let faults = memory::faults();
    let storing = || {
        Processor::builder("lake-writer")
            .faults(faults.clone())
            .pipeline("store", LakeWriter::new(&lake).pipeline(&support::store_resource()))
            .build()
            .unwrap()
    };
    let report = storing().run_from(source(), Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["store"].done, faults.events().len()), (3, 0));
    // where it comes again it is adopted as any other
    let report = storing().run_from(source(), Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["store"].done, faults.events().len()), (3, 0));
    let verified = lake.verify("orders").await.unwrap();
    assert_eq!((verified.records, &*verified.findings), (3, &[][..]));

    // what the replay yields is what the stream yielded, and a pipeline that reads events faults it as it did there
    let (processor, replayed) = collecting_all();
    processor.run_from(lake.replay(Selection::of("orders")), Shutdown::never()).await.unwrap();
    assert_eq!(live(replayed.items()), as_it_came);
    let (report, events) = run(lake.replay(Selection::of("orders"))).await;
    assert_eq!((report.pipelines["collect"].faulted, events.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn l6_what_arrived_out_of_order_is_found_by_its_time() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let minute = |n: u64| TEN.plus(Duration::from_secs(60 * n));
    let mut all = records("orders", "0", 0..40);
    // it arrived two hours before its neighbours, and lies in their object, in their hour
    all[39] = all[39].clone().with_arrival(minute(30));
    for record in &mut all[..39] {
        *record = record.clone().with_arrival(record.arrival().plus(Duration::from_secs(9_000)));
    }
    write(&lake, &all).await;
    let paths = shaky.paths().await;
    assert!(paths.iter().all(|path| !path.contains("hour=10")), "{paths:?}");
    let first_hour = Selection::of("orders").from(TEN).until(minute(60));
    let (_, found) = run(lake.replay(first_hour)).await;
    assert_eq!(live(found), all[39..]);
    // and with a manifest that was stored
    let manifest = lake.manifest("orders").await.unwrap();
    lake.store_manifest(&manifest).await.unwrap();
    let before = Selection::of("orders").until(minute(31));
    assert_eq!(lake.dry_run(&before).await.unwrap().records, 1);
}

#[tokio::test(start_paused = true)]
async fn a_search_by_id_key_or_type_reads_only_what_may_hold_it() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let id = |n: u64| Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()).to_string();
    let all: Vec<Record> = (0..25_000u64)
        .map(|n| {
            let kind = if n < 20_000 { "usual" } else { "late" };
            let payload = format!(r#"{{"id":"{}","type":"{kind}"}}"#, id(n));
            Record::new("orders", "0", Position::from(n), payload)
                .with_key(format!("k{n}"))
                .with_arrival(TEN)
        })
        .collect();
    write(&lake, &all).await;
    let manifest = lake.manifest("orders").await.unwrap();
    assert_eq!((manifest.objects.len(), manifest.objects[0].footer.digests.len()), (1, 3));
    lake.store_manifest(&manifest).await.unwrap();
    shaky.bytes_read();
    let read = async |selection: Selection| {
        let records = lake.dry_run(&selection).await.unwrap().records;
        (records, shaky.bytes_read())
    };
    let all = || Selection::of("orders");
    let (records, whole) = read(all()).await;
    assert_eq!(records, 25_000);
    for (selection, expected) in [
        (all().id(id(12_345)), 1),
        (all().key("k12345"), 1),
        (all().kind("late"), 5_000),
        (all().id("none"), 0),
        (all().kind("none"), 0),
    ] {
        let text = format!("{selection:?}");
        let (records, some) = read(selection).await;
        assert_eq!(records, expected, "{text}");
        // the end of the object, and one group of three at most
        assert!(some < whole * 3 / 5, "{some} of {whole} bytes are read for {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_waits_for_many_objects_at_once() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for n in 0..64 {
        write(&lake, &records("orders", "0", n..n + 1)).await;
    }
    lake.store_manifest(&lake.manifest("orders").await.unwrap()).await.unwrap();
    shaky.reads_take(Duration::from_millis(50));
    let took = async |selection: Selection| {
        let began = tokio::time::Instant::now();
        let found = lake.dry_run(&selection).await.unwrap();
        assert_eq!((found.objects, found.damaged.len()), (64, 0));
        (found.records, began.elapsed())
    };
    // the manifest, and four rounds of sixteen; sixteen of four, where all is read
    let one = Selection::of("orders").id("0-63");
    assert_eq!(took(one).await, (1, Duration::from_millis(50 + 4 * 50)));
    let all = Selection::of("orders");
    assert_eq!(took(all.clone()).await, (64, Duration::from_millis(50 + 16 * 50)));
    // one that fails in between is looked at anew
    shaky.reads_take(Duration::ZERO);
    shaky.fails_every(5);
    assert_eq!(lake.dry_run(&all).await.unwrap().records, 64);
}

#[tokio::test(start_paused = true)]
async fn l6_a_replay_goes_into_one_pipeline_where_it_is_told_to() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(&lake, &records("orders", "0", 0..30)).await;
    let (one, other) = (Collect::<()>::new(), Collect::<()>::new());
    let collect = Resource::builder("collect").timeout(Duration::from_secs(1)).build().unwrap();
    let into = |target: &Collect<()>| {
        let (target, collect) = (target.clone(), collect.clone());
        move |flow: Flow<Input>| flow.map(|_| ()).bulk_write(&collect, target.clone()).boxed()
    };
    let processor = Processor::builder("replayed")
        .faults(memory::faults())
        .pipeline("one", into(&one))
        .pipeline("other", into(&other))
        .enable(["one"])
        .build()
        .unwrap();
    let report =
        processor.run_from(lake.replay(Selection::of("orders")), Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["one"].done, one.len(), other.len()), (30, 30, 0));
}

#[tokio::test(start_paused = true)]
async fn l6_a_dry_run_counts_and_changes_nothing() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(&lake, &records("orders", "0", 0..100)).await;
    let before = shaky.paths().await;
    let selection =
        Selection::of("orders").kind("started").from(TEN.plus(Duration::from_secs(3_600)));
    let found = lake.dry_run(&selection).await.unwrap();
    assert_eq!(shaky.paths().await, before);
    let (_, replayed) = run(lake.replay(selection)).await;
    assert_eq!(found.records, replayed.len() as u64);
    assert_eq!(found.bytes, replayed.iter().map(|record| record.size() as u64).sum::<u64>());
    assert_eq!(found.records, (60..100).filter(|n| n % 3 == 0).count() as u64);
    assert_eq!(lake.dry_run(&Selection::of("nothing")).await.unwrap().records, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn l6_a_selection_takes_what_a_look_through_all_takes(
        shard in proptest::option::of(0u64..2),
        from in proptest::option::of(0u64..150),
        until in proptest::option::of(0u64..150),
        positions in proptest::option::of((0u64..150, 0u64..60)),
        kind in proptest::option::of("started|ended|other"),
        key in proptest::option::of(0u64..8),
        id in proptest::option::of((0u64..2, 0u64..150)),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let shaky = Shaky::default();
            let lake = shaky.lake();
            let mut all = Vec::new();
            for shard in ["0", "1"] {
                for chunk in records("orders", shard, 0..120).chunks(50) {
                    write(&lake, chunk).await;
                    all.extend_from_slice(chunk);
                }
            }
            let minute = |n: u64| TEN.plus(Duration::from_secs(60 * n));
            let mut selection = Selection::of("orders");
            let mut expected = all;
            if let Some(shard) = shard {
                selection = selection.shard(shard.to_string());
                expected.retain(|r| r.shard().as_str() == shard.to_string());
            }
            if let Some(from) = from {
                selection = selection.from(minute(from));
                expected.retain(|r| r.arrival() >= minute(from));
            }
            if let Some(until) = until {
                selection = selection.until(minute(until));
                expected.retain(|r| r.arrival() < minute(until));
            }
            if let Some((first, len)) = positions {
                selection = selection.positions(first.into(), (first + len).into());
                expected.retain(|r| (first..=first + len).contains(&r.position().as_u64().unwrap()));
            }
            if let Some(kind) = kind {
                let wanted = format!("\"{kind}\"");
                selection = selection.kind(kind);
                expected.retain(|r| std::str::from_utf8(r.payload()).unwrap().contains(&wanted));
            }
            if let Some(key) = key {
                selection = selection.key(format!("k{key}"));
                expected.retain(|r| r.key().unwrap() == format!("k{key}").as_bytes());
            }
            if let Some((shard, n)) = id {
                let id = format!("{shard}-{n}");
                let wanted = format!("\"{id}\"");
                selection = selection.id(id);
                expected.retain(|r| std::str::from_utf8(r.payload()).unwrap().contains(&wanted));
            }
            let (_, found) = run(lake.replay(selection)).await;
            assert_eq!(by_shard(live(found)), by_shard(expected));
        });
    }

    #[test]
    fn l6_a_resumable_run_that_is_killed_goes_on_where_it_was(lives in proptest::collection::vec(1u64..2_500, 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let shaky = Shaky::default();
            let lake = shaky.lake();
            let all = records("orders", "0", 0..400);
            for chunk in all.chunks(60) {
                write(&lake, chunk).await;
            }
            let name = Uuid::from_u128(7);
            let replay = || {
                let rate = NonZeroU32::new(100).unwrap();
                lake.replay(Selection::of("orders")).resumable(name).rate(rate)
            };
            let mut found: Vec<Record> = Vec::new();
            for millis in lives {
                let (processor, some) = collecting();
                let _ = tokio::time::timeout(Duration::from_millis(millis), processor.run_from(replay(), Shutdown::never())).await;
                found.extend(some.items());
            }
            found.extend(run(replay()).await.1);
            // what was not settled comes again, and nothing is left out
            let mut positions: Vec<u64> = found.iter().map(|r| r.position().as_u64().unwrap()).collect();
            positions.sort_unstable();
            positions.dedup();
            assert_eq!(positions.len(), 400);
            assert!(found.iter().all(|r| *r.delivery() == Delivery::Replay { run: name }));
            // at its end there is nothing left of it
            assert_eq!(run(replay()).await.1.len(), 0);
            let other = lake.replay(Selection::of("orders").kind("started")).resumable(name);
            let (processor, _) = collecting();
            let refused = processor.run_from(other, Shutdown::never()).await;
            assert!(matches!(refused, Err(RunError::Ended { .. })), "another selection under the same id");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn l6_a_rate_holds_over_all_shards() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for shard in ["0", "1", "2"] {
        write(&lake, &records("orders", shard, 0..200)).await;
    }
    let began = tokio::time::Instant::now();
    let source = lake.replay(Selection::of("orders")).rate(NonZeroU32::new(50).unwrap());
    let (_, found) = run(source).await;
    assert_eq!(found.len(), 600);
    let took = began.elapsed().as_secs_f64();
    assert!((11.5..13.5).contains(&took), "600 records at 50 a second took {took} s");
}

#[tokio::test(start_paused = true)]
async fn l6_l7_nothing_is_published_and_marked_steps_are_muted() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(&lake, &records("orders", "0", 0..20)).await;
    let (published, kept, muted) = (Collect::new(), Collect::new(), Collect::new());
    let targets = (published.clone(), kept.clone(), muted.clone());
    let guard = Resource::builder("effects").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("effects")
        .faults(memory::faults())
        .pipeline("effects", move |flow| {
            let (published, kept, muted) = targets.clone();
            flow.map(|received: Received| received.payload().clone())
                .bulk_write(&guard, kept)
                .bulk_write(&guard, muted)
                .on_replay(OnReplay::Mute)
                .try_map(|_| NewEvent::json("copied", &1))
                .publish(&guard, published)
        })
        .build()
        .unwrap();
    let report =
        processor.run_from(lake.replay(Selection::of("orders")), Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["effects"].done, 20);
    assert_eq!((kept.len(), muted.len(), published.len()), (20, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn l4_what_cannot_be_read_is_skipped_told_and_a_gap_in_the_report() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..90);
    // one writer, so that its objects join
    let writer = LakeWriter::new(&lake);
    for chunk in all.chunks(30) {
        let mut log = OutcomeLog::new(chunk.len());
        writer.write(chunk, &mut log.outcomes()).await.unwrap();
    }
    let middle =
        shaky.paths().await.into_iter().find(|path| path.ends_with("0-30-59.parquet")).unwrap();
    shaky.put_bytes(&middle, "not Parquet any more").await;
    let source = lake.replay(Selection::of("orders"));
    let progress = source.progress();
    let (report, found) = run(source).await;
    assert_eq!(found.len(), 60);
    let gap = report.gaps.first().expect("a gap");
    assert_eq!((&gap.from, &gap.to), (&"30".to_owned(), &"60".to_owned()));
    let damaged = progress.counts().damaged;
    assert!(matches!(&damaged[..], [(path, Damage::Torn(_))] if *path == middle), "{damaged:?}");
}

/// A lake of ninety records in three objects that join, and the paths of these.
async fn of_three_objects(shaky: &Shaky) -> Vec<String> {
    let writer = LakeWriter::new(&shaky.lake());
    for chunk in records("orders", "0", 0..90).chunks(30) {
        let mut log = OutcomeLog::new(chunk.len());
        writer.write(chunk, &mut log.outcomes()).await.unwrap();
    }
    let manifest = shaky.lake().manifest("orders").await.unwrap();
    manifest.objects.into_iter().map(|object| object.path).collect()
}

/// How many records there are of a selection, and what the report says is missing of it.
async fn found_and_missing(lake: &Lake, selection: Selection) -> (usize, Vec<(String, String)>) {
    let (report, found) = run(lake.replay(selection)).await;
    (found.len(), report.gaps.into_iter().map(|gap| (gap.from, gap.to)).collect())
}

fn gap(from: &str, to: &str) -> Vec<(String, String)> {
    vec![(from.to_owned(), to.to_owned())]
}

#[tokio::test(start_paused = true)]
async fn s2_what_is_missing_of_a_selection_is_a_gap_wherever_it_lies_in_it() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let paths = of_three_objects(&shaky).await;
    shaky.remove(&paths[1]).await;
    let all = || Selection::of("orders");
    let at = |first: u64, last: u64| all().positions(first.into(), last.into());
    for (selection, found, missing) in [
        (all(), 60, gap("30", "60")),
        // at its end, at its beginning, all of it, and not in it at all
        (at(20, 40), 10, gap("30", "41")),
        (at(40, 69), 10, gap("40", "60")),
        (at(31, 58), 0, gap("31", "59")),
        (at(0, 29), 30, vec![]),
        (at(60, 99), 30, vec![]),
        (all().shard("1"), 0, vec![]),
        // of what is there nothing that is meant lies behind it
        (all().id("0-7"), 1, gap("30", "60")),
        (all().id("none"), 0, gap("30", "60")),
        // in a time: where it lies between two objects
        (all().until(TEN.plus(Duration::from_secs(60 * 70))), 40, gap("30", "60")),
        (all().until(TEN.plus(Duration::from_secs(60 * 20))), 20, vec![]),
    ] {
        let shown = format!("{selection:?}");
        assert_eq!(found_and_missing(&lake, selection).await, (found, missing), "{shown}");
    }
    // so that whoever repairs from this lake hears that it has not all of it either
    let report = Selection::missing(&streambreaker::Gap::new(
        "orders",
        "0",
        Position::from(10),
        Position::from(50),
    ));
    let repaired = found_and_missing(&lake, report.unwrap()).await;
    assert_eq!(repaired, (20, gap("30", "50")));
}

#[tokio::test(start_paused = true)]
async fn s2_what_was_deleted_by_its_age_is_a_gap_of_whoever_asks_for_it_by_position() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let paths = of_three_objects(&shaky).await;
    shaky.remove(&paths[0]).await;
    let all = || Selection::of("orders");
    for (selection, found, missing) in [
        (all().positions(10.into(), 40.into()), 11, gap("10", "30")),
        (all().positions(10.into(), 20.into()), 0, gap("10", "21")),
        (all().first(29.into()), 60, gap("29", "30")),
        (all().first(30.into()), 60, vec![]),
        // it was deleted on purpose
        (all(), 60, vec![]),
        (all().last(40.into()), 11, vec![]),
    ] {
        let shown = format!("{selection:?}");
        assert_eq!(found_and_missing(&lake, selection).await, (found, missing), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn s2_what_a_manifest_knows_to_be_gone_from_the_end_is_a_gap() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let paths = of_three_objects(&shaky).await;
    write(&lake, &records("orders", "1", 0..10)).await;
    // which writes down what is there
    assert!(lake.verify("orders").await.unwrap().is_sound());
    let all = || Selection::of("orders");
    assert_eq!(found_and_missing(&lake, all()).await, (100, vec![]));
    shaky.remove(&paths[1]).await;
    shaky.remove(&paths[2]).await;
    let minute = |n: u64| TEN.plus(Duration::from_secs(60 * n));
    for (selection, found, missing) in [
        (all().shard("0"), 30, [gap("30", "60"), gap("60", "90")].concat()),
        (
            all().shard("0").positions(20.into(), 70.into()),
            10,
            [gap("30", "60"), gap("60", "71")].concat(),
        ),
        (all().shard("0").from(minute(65)), 0, gap("60", "90")),
        (all().shard("0").until(minute(25)), 25, vec![]),
        (all().shard("1"), 10, vec![]),
    ] {
        let shown = format!("{selection:?}");
        assert_eq!(found_and_missing(&lake, selection).await, (found, missing), "{shown}");
    }
    // and where a shard is gone as a whole
    for path in shaky.paths().await.iter().filter(|path| path.ends_with("/1-0-9.parquet")) {
        shaky.remove(path).await;
    }
    assert_eq!(found_and_missing(&lake, all().shard("1")).await, (0, gap("0", "10")));
    let mut manifest = lake.manifest("orders").await.unwrap();
    manifest.forget_missing();
    lake.store_manifest(&manifest).await.unwrap();
    assert_eq!(found_and_missing(&lake, all()).await, (30, vec![]));
}

#[tokio::test(start_paused = true)]
async fn s2_what_cannot_be_read_is_a_gap_also_where_a_manifest_knows_it() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let paths = of_three_objects(&shaky).await;
    lake.store_manifest(&lake.manifest("orders").await.unwrap()).await.unwrap();
    for (path, missing) in
        [(&paths[1], gap("30", "60")), (&paths[0], gap("0", "30")), (&paths[2], gap("60", "90"))]
    {
        let whole = shaky.bytes_of(path).await;
        // of the same size, as the manifest has it
        shaky.put_bytes(path, vec![0; whole.len()]).await;
        assert_eq!(found_and_missing(&lake, Selection::of("orders")).await, (60, missing));
        shaky.put_bytes(path, whole).await;
    }
    assert_eq!(found_and_missing(&lake, Selection::of("orders")).await, (90, vec![]));
}

#[tokio::test(start_paused = true)]
async fn s2_what_is_gone_when_a_replay_is_resumed_is_a_gap() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let writer = LakeWriter::new(&lake);
    for chunk in records("orders", "0", 0..90).chunks(30) {
        let mut log = OutcomeLog::new(chunk.len());
        writer.write(chunk, &mut log.outcomes()).await.unwrap();
    }
    let replay = || lake.replay(Selection::of("orders")).resumable(Uuid::from_u128(1));
    let mut first = replay();
    let Some(Change::Assigned { mut acker, .. }) = first.next().await.unwrap() else {
        panic!("a shard")
    };
    acker.settle(Settled::Through(&Position::from(9))).await.unwrap();
    for object in ["0-0-29.parquet", "0-30-59.parquet"] {
        let path = shaky.paths().await.into_iter().find(|path| path.ends_with(object)).unwrap();
        shaky.put_bytes(&path, "").await;
    }
    let (report, found) = run(replay()).await;
    assert_eq!(live(found), records("orders", "0", 60..90));
    let gap = report.gaps.first().expect("a gap");
    assert_eq!((&gap.from, &gap.to), (&"10".to_owned(), &"60".to_owned()));
    // it names what is missing, and no more: another copy of the lake has exactly that of it
    let copy = Shaky::default();
    write(&copy.lake(), &records("orders", "0", 0..90)).await;
    let (_, repaired) = run(copy.lake().replay(Selection::missing(gap).unwrap())).await;
    assert_eq!(live(repaired), records("orders", "0", 10..60));
    // and none where everything that was not settled is there
    let (report, _) = run(replay()).await;
    assert!(report.gaps.is_empty(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn l4_an_object_that_is_cut_off_while_it_is_read_is_damage_and_has_an_end() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all: Vec<Record> = (0..25_000u64)
        .map(|n| {
            let noise = Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()).to_string();
            Record::new("orders", "0", Position::from(n), noise).with_arrival(TEN)
        })
        .collect();
    write(&lake, &all).await;
    let path = shaky.paths().await.remove(0);
    let whole = shaky.bytes_of(&path).await;
    let mut source = lake.replay(Selection::of("orders"));
    let progress = source.progress();
    let Some(Change::Assigned { mut reader, .. }) = source.next().await.unwrap() else {
        panic!("there is a shard");
    };
    let (mut found, mut gaps) = (0, Vec::new());
    loop {
        match reader.read(Room { records: 1_000, bytes: 1 << 20 }).await.unwrap() {
            Read::Records { records, .. } => found += records.len(),
            Read::Gap { from, to } => gaps.push((from, to)),
            _ => break,
        }
        shaky.put_bytes(&path, whole.slice(..1_000)).await;
    }
    // what was at hand is yielded: the first group, and the last, which came with the end of the object
    assert_eq!((found, gaps), (15_000, vec![(10_000.into(), 20_000.into())]));
    assert_eq!(
        progress.counts().damaged,
        [(path, Damage::Torn("it is shorter than it was".into()))]
    );
}

#[tokio::test(start_paused = true)]
async fn l4_a_group_whose_bytes_changed_is_never_yielded() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(&lake, &records("orders", "0", 0..60)).await;
    let path = shaky.paths().await.remove(0);
    let whole = shaky.bytes_of(&path).await;
    for at in (4..whole.len()).step_by(97) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        shaky.put_bytes(&path, bytes).await;
        let (_, found) = run(lake.replay(Selection::of("orders"))).await;
        assert!(found.is_empty() || live(found) == records("orders", "0", 0..60), "byte {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_lie_in_two_objects_are_yielded_once_and_in_order() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..100);
    shaky.hide_new(100);
    for range in [0..40usize, 20..60, 30..35, 50..100, 0..5] {
        write(&lake, &all[range]).await;
    }
    shaky.show_all();
    let (_, found) = run(lake.replay(Selection::of("orders"))).await;
    assert_eq!(live(found), all);
}

#[tokio::test(start_paused = true)]
async fn l1_a_read_that_fails_halfway_loses_nothing_that_was_taken() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..100);
    shaky.hide_new(100);
    // an object that overlaps has to be opened in the middle of another one
    for range in [0..40usize, 20..60, 50..100] {
        write(&lake, &all[range]).await;
    }
    shaky.show_all();
    shaky.fails_every(2);
    let (_, found) = run(lake.replay(Selection::of("orders"))).await;
    assert_eq!(live(found), all);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_waited_for() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for chunk in records("orders", "0", 0..100).chunks(20) {
        write(&lake, chunk).await;
    }
    shaky.reads_fail(7);
    let source = lake.replay(Selection::of("orders"));
    let progress = source.progress();
    let (_, found) = run(source).await;
    assert_eq!(live(found), records("orders", "0", 0..100));
    assert_eq!((progress.counts().objects, progress.counts().objects_read), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_not_ended_by_a_store_that_fails_now_and_then() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for chunk in records("orders", "0", 0..60).chunks(3) {
        write(&lake, chunk).await;
    }
    shaky.fails_every(3);
    assert_eq!(lake.dry_run(&Selection::of("orders")).await.unwrap().records, 60);
}

#[tokio::test(start_paused = true)]
async fn l4_l11_what_is_forgotten_of_two_objects_side_by_side_is_told_once_of_each() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..40);
    let (even, odd): (Vec<Record>, Vec<Record>) =
        all.into_iter().partition(|record| record.position().as_u64().unwrap() % 2 == 0);
    let keys = Keys::new("2025", Key::new([1; 32]));
    shaky.hide_new(1);
    write(&shaky.lake().with_keys(keys.clone()), &even).await;
    write(&shaky.lake().with_keys(keys.clone()), &odd).await;
    shaky.show_all();
    let keys = keys.and("2026", Key::new([2; 32])).forgotten("2025");
    let lake = shaky.lake().with_keys(keys);
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!((counts.records, counts.damaged.len()), (0, 2), "{:?}", counts.damaged);
}

#[tokio::test(start_paused = true)]
async fn l9_a_replay_faults_as_the_stream_does_and_the_same_run_makes_the_same_fault() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    write(
        &lake,
        &[
            record("orders", "0", 1),
            Record::new("orders", "0", Position::from(2), "poison").with_arrival(TEN),
        ],
    )
    .await;
    let mut ids = Vec::new();
    for run in [1, 1, 2] {
        let faults = memory::faults();
        let processor = Processor::builder("numbers")
            .faults(faults.clone())
            .pipeline("json", |flow| flow.json::<serde_json::Value>())
            .build()
            .unwrap();
        let source = lake.replay(Selection::of("orders"));
        // a run of its own each time, but under a chosen name
        let source = source.resumable(Uuid::from_u128(run));
        processor.run_from(source, Shutdown::never()).await.unwrap();
        ids.extend(faults.events().iter().map(|fault| fault.id));
        for path in shaky.paths().await.iter().filter(|path| path.contains("_replays")) {
            shaky.remove(path).await;
        }
    }
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
}

#[tokio::test(start_paused = true)]
async fn s2_what_the_stream_forgot_is_read_from_the_lake_into_the_component() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..100);
    for chunk in all.chunks(30) {
        write(&lake, chunk).await;
    }
    let stream = stream_of("orders", &all);
    stream.close();
    stream.truncate(0, &Position::from(40));
    let (processor, found) = collecting();
    let report = processor.run_from(stream.consumer("view"), Shutdown::never()).await.unwrap();
    assert_eq!(found.len(), 60);
    assert_eq!(report.gaps.len(), 1);
    let repair = lake.replay(Selection::missing(&report.gaps[0]).unwrap());
    processor.run_from(repair, Shutdown::never()).await.unwrap();
    let mut positions: Vec<u64> =
        found.items().iter().map(|record| record.position().as_u64().unwrap()).collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..100).collect::<Vec<_>>(), "each of them once");
}

#[tokio::test(start_paused = true)]
async fn l6_a_replay_whose_objects_take_long_to_look_at_begins_all_the_same() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let all = records("orders", "0", 0..300);
    for chunk in all.chunks(3) {
        write(&lake, chunk).await;
    }
    // a hundred objects, sixteen at once, half a second each: the processor looks up from it many times
    shaky.reads_take(Duration::from_millis(500));
    let found =
        tokio::time::timeout(Duration::from_secs(600), run(lake.replay(Selection::of("orders"))));
    let (_, found) = found.await.expect("it has an end");
    assert_eq!(live(found), all);
}

#[tokio::test(start_paused = true)]
async fn l4_of_many_objects_one_that_the_store_fails_at_does_not_end_the_look_at_all() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for chunk in records("orders", "0", 0..60).chunks(3) {
        write(&lake, chunk).await;
    }
    shaky.fails_every(5);
    let report = lake.verify("orders").await.unwrap();
    assert_eq!((report.records, report.findings.len()), (60, 0), "{report}");
    assert_eq!(lake.manifest("orders").await.unwrap().objects.len(), 20);
}
