//! `group_by`, `group_by_some`, `compact`, `compact_by`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use streambreaker::memory::Stream;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn group_by_closes_on_count_and_at_the_end_of_input() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..7, move |flow| {
        let note = note.clone();
        let hour = Window::items(2).linger(Duration::from_secs(3600));
        flow.json::<u32>().group_by(|n| **n % 2, hour).inspect(move |group| {
            note.push((group.key, group.items.iter().map(|n| **n).collect::<Vec<_>>()));
        })
    })
    .await;
    assert_eq!(ran.fates(), (7, 0, 0));
    assert_eq!(seen.all(), [(0, vec![0, 2]), (1, vec![1, 3]), (0, vec![4, 6]), (1, vec![5])]);
}

#[tokio::test(start_paused = true)]
async fn group_by_closes_on_bytes_and_on_linger() {
    let stream = Stream::new("s", 1);
    let seen = Seen::new();
    let note = seen.clone();
    let begin = Instant::now();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let note = note.clone();
            let window = Window::items(100).bytes(1_000).linger(Duration::from_millis(300));
            flow.group_by(|_| (), window)
                .inspect(move |group| note.push((group.items.len(), begin.elapsed().as_millis())))
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    for _ in 0..3 {
        stream.push("x".repeat(400));
    }
    stream.push("x");
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.push("x");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = seen.all();
    assert_eq!((all[0].0, all[1].0, all.len()), (3, 2, 2), "{all:?}");
    assert!(all[0].1 < 100 && (300..=302).contains(&all[1].1), "{all:?}");
    stream.close();
    assert_eq!(run.await.unwrap().unwrap().pipelines["all"].done, 5);
}

#[tokio::test(start_paused = true)]
async fn o5_a_group_closes_when_the_reader_stands_at_its_limit() {
    let stream = Stream::new("s", 1);
    for n in 0..300 {
        stream.push(n.to_string());
    }
    stream.close();
    let begin = Instant::now();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(30, 1 << 20)
        .pipeline("all", |flow| {
            let hour = Window::items(100).linger(Duration::from_secs(3600));
            flow.json::<u32>().group_by(|n| **n, hour)
        })
        .build()
        .unwrap();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.pipelines["all"].done, 300);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// An input that never waits: what is pushed while the flow is polled.
#[tokio::test(start_paused = true)]
async fn o5_linger_is_kept_while_the_input_never_waits() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..5_000, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            // key 0 has one member; the clock moves on while the others flow
            .group_by(|n| u32::from(**n != 0), Window::items(10).linger(Duration::ZERO))
            .inspect(move |group| note.push((group.key, *group.items[0])))
    })
    .await;
    assert_eq!(ran.fates(), (5_000, 0, 0));
    let at = seen.all().iter().position(|(key, _)| *key == 0).unwrap();
    assert!(at <= 30, "the group of one waited for {at} groups of others");
}

#[tokio::test(start_paused = true)]
async fn group_by_refuses_a_key_that_may_be_missing_and_empty_windows() {
    let text = refused(|flow| flow.json::<u32>().group_by(|n| Some(**n), Window::items(2)));
    assert!(text.contains("group_by_some"), "{text}");
    let text = refused(|flow| flow.json::<u32>().group_by(|n| **n, Window::items(0)));
    assert!(text.contains("items of the window"), "{text}");
    let text = refused(|flow| flow.json::<u32>().compact(|n| **n, Window::items(2).bytes(0)));
    assert!(text.contains("compact: bytes of the window"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn group_by_stands_a_linger_without_end() {
    let window = Window::items(3).linger(Duration::MAX);
    let ran = run(0..7, move |flow| flow.json::<u32>().group_by(|_| (), window)).await;
    assert_eq!(ran.fates(), (7, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn group_by_some_faults_what_has_no_key_and_panics_of_the_key() {
    let ran = run(0..600, |flow| {
        flow.json::<u32>().group_by_some(
            |n| match **n {
                599 => panic!("last"),
                n => (n < 10).then_some(n % 2),
            },
            Window::items(5),
        )
    })
    .await;
    assert_eq!(ran.fates(), (10, 0, 590));
    assert_eq!(ran.names().iter().filter(|name| **name == "NoKey").count(), 589);
    assert_eq!(ran.classes().iter().filter(|class| **class == Class::Panic).count(), 1);
}

/// A key that panics where no call of ours for a unit is around it.
#[derive(Clone, PartialEq, Eq)]
struct Hostile(u32);

impl std::hash::Hash for Hostile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert_ne!(self.0, 3, "a hash that panics");
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_in_the_hash_of_a_key_faults_its_unit_and_everything_else_goes_on() {
    let grouped =
        run(0..20, |flow| flow.json::<u32>().group_by(|n| Hostile(**n % 10), Window::items(2)))
            .await;
    assert_eq!((grouped.fates(), grouped.classes()), ((18, 0, 2), vec![Class::Panic; 2]));
    let db = resource("db");
    let keyed = run(0..20, move |flow| {
        flow.json::<u32>().parallel_by_key(
            4,
            |n| Hostile(**n % 10),
            &db,
            async |_| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            },
        )
    })
    .await;
    assert_eq!((keyed.fates(), keyed.classes()), ((18, 0, 2), vec![Class::Panic; 2]));
}

/// A value that panics when it is dropped.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 == 3 && !std::thread::panicking() {
            panic!("a drop that panics");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_in_drop_faults_its_unit_and_everything_else_goes_on() {
    let ran = run(0..10, |flow| flow.json::<u32>().map(|n| Bomb(*n))).await;
    assert_eq!((ran.fates(), ran.classes()), ((9, 0, 1), vec![Class::Panic]));
}

fn event(id: u32, timestamp: i64, entity: &str) -> String {
    format!(r#"{{"id":"{id}","type":"t","timestamp":{timestamp},"entity":"{entity}","n":{id}}}"#)
}

#[derive(serde::Deserialize)]
struct Change {
    entity: String,
    n: u32,
}

#[tokio::test(start_paused = true)]
async fn compact_keeps_the_newest_by_time_then_position_and_joins_the_others_to_its_fate() {
    let seen = Seen::new();
    let note = seen.clone();
    let payloads = [
        event(0, 50, "a"),
        event(1, 70, "a"),
        event(2, 60, "a"),
        event(3, 10, "b"),
        event(4, 10, "b"),
        // no time: older than any with one
        r#"{"id":"5","type":"t","entity":"b","n":5}"#.to_owned(),
    ];
    let ran = run(payloads, move |flow| {
        let note = note.clone();
        flow.json::<Change>()
            .compact(|change| change.entity.clone(), Window::items(3))
            .inspect(move |change| note.push(change.n))
            .try_map(|change| if change.n == 4 { Err("no").fault() } else { Ok(()) })
    })
    .await;
    assert_eq!((seen.all(), ran.fates()), (vec![1, 4], (3, 0, 3)));
    // the fault holds the whole lineage, in the original order
    assert_eq!(ran.faults.len(), 1);
    let ids: Vec<_> =
        ran.faults[0].records.iter().map(|r| r.record.position().to_string()).collect();
    assert_eq!(ids, ["3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn compact_by_takes_the_greatest_version_the_later_of_equals_and_faults_a_panic() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run([5, 12, 30, 22, 99], move |flow| {
        let note = note.clone();
        // the version is the digit of tens
        flow.json::<u32>()
            .compact_by(
                |_| (),
                |n| if **n == 99 { panic!("version") } else { (**n / 10).min(2) },
                Window::items(10),
            )
            .inspect(move |n| note.push(**n))
    })
    .await;
    assert_eq!((seen.all(), ran.fates()), (vec![22], (4, 0, 1)));
    assert_eq!(ran.classes(), [Class::Panic]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn o5_each_record_is_in_exactly_one_group_and_groups_keep_the_order(
        keys in proptest::collection::vec(0u32..6, 0..400),
        items in 1usize..9,
        bytes in 1usize..40,
        linger in 0u64..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let seen = Seen::new();
        let note = seen.clone();
        let all = keys.clone();
        let ran = runtime.block_on(run(0..keys.len(), move |flow| {
            let (note, keys) = (note.clone(), all.clone());
            let window = Window::items(items).bytes(bytes).linger(Duration::from_millis(linger));
            flow.json::<usize>().group_by(move |n| keys[**n], window).inspect(move |group| {
                note.push((group.key, group.items.iter().map(|n| **n).collect::<Vec<_>>()));
            })
        }));
        prop_assert_eq!(ran.fates(), (keys.len() as u64, 0, 0));
        let mut of_key: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (key, group) in seen.all() {
            prop_assert!(!group.is_empty() && group.len() <= items);
            // over the limit in bytes only by its last member
            let size = |n: &usize| n.to_string().len();
            prop_assert!(group[..group.len() - 1].iter().map(size).sum::<usize>() < bytes);
            of_key.entry(key).or_default().extend(group);
        }
        // in order within a key, and together exactly the input
        for (key, got) in of_key {
            let want: Vec<usize> = (0..keys.len()).filter(|n| keys[*n] == key).collect();
            prop_assert_eq!(got, want);
        }
    }
}

/// A key that is counted while it lives.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key(u32, Arc<()>);

#[tokio::test(start_paused = true)]
async fn o6_groups_that_fill_up_behind_one_that_lingers_leave_nothing_behind() {
    let stream = Stream::new("s", 1);
    stream.push("0"); // nothing joins it for an hour
    for n in 1..10_000u32 {
        stream.push(n.to_string());
        stream.push(n.to_string());
    }
    let keys = Arc::new(());
    let living = keys.clone();
    let hours = Duration::from_secs(2 * 3600);
    let processor = Processor::builder("p")
        .source(stream.consumer("g").each(hours)) // where nothing stands still for one record
        .faults(memory::faults())
        .in_flight(1_000, 1 << 20)
        .pipeline("all", move |flow| {
            let keys = keys.clone();
            let hour = Window::items(2).linger(Duration::from_secs(3600));
            flow.json::<u32>().group_by(move |n| Key(**n, keys.clone()), hour)
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stream.unacked("g"), 1);
    let living = Arc::strong_count(&living);
    assert!(living < 1_000, "{living} keys of 10,000 live on");
    run.abort();
}

/// A version that cannot be compared with every other.
#[derive(PartialEq, Eq)]
struct Picky(u32);

impl Ord for Picky {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        assert!(self.0 != 3 && other.0 != 3, "three");
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Picky {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_in_the_comparison_of_two_units_is_a_fault_of_the_one_that_came() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..6, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            .compact_by(|_| (), |n| Picky(**n), Window::items(100))
            .inspect(move |n| note.push(**n))
    })
    .await;
    assert_eq!((ran.fates(), ran.classes()), ((5, 0, 1), vec![Class::Panic]));
    assert_eq!((ran.payloads(), seen.all()), (vec![vec!["3".to_owned()]], vec![5]));
    assert_eq!(ran.report.restarts, 0, "the others have not begun anew");
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_of_the_envelope_in_compact_is_a_fault_of_the_unit_that_came() {
    for begins in [false, true] {
        let seen = Seen::new();
        let note = seen.clone();
        let ran = run_under_a_brittle_envelope(move |flow| {
            let note = note.clone();
            // 3 is compared with those before it, or begins a key of its own
            flow.json::<u32>()
                .compact(move |n| begins && **n == 3, Window::items(100))
                .inspect(move |n| note.push(**n))
        })
        .await;
        assert_eq!((ran.fates(), ran.classes()), ((5, 0, 1), vec![Class::Panic]));
        assert_eq!((ran.payloads(), seen.all()), (vec![vec!["3".to_owned()]], vec![5]));
        assert_eq!(ran.report.restarts, 0, "the others have not begun anew");
    }
}
