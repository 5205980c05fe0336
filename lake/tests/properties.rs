//! Whatever records a stream has, under whatever names, and whoever dies while they are stored: they are in the lake or in a
//! fault, byte for byte, and a replay of any selection of them yields what a look through all of them does.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use streambreaker::clock::PausedClock;
use streambreaker::memory::{Collect, Stream};
use streambreaker::prelude::*;
use streambreaker::{Delivery, FaultEvent, Position, Record, RunError, ShardId, Timestamp, memory};
use streambreaker_lake::{Finding, Key, Keys, Lake, LakeWriter, Selection};
use support::{Fail, Shaky, TEN, store_resource};
use uuid::Uuid;

/// Names that file systems, stores and people trip over.
const ODD: [&str; 18] = [
    "0",
    "..",
    ".",
    ".hidden",
    "a/b",
    "/",
    "a%2Fb",
    "%",
    "%%41",
    "Orders",
    "orders",
    "\u{e9}",
    "e\u{301}",
    "a\\b",
    "\0",
    "-",
    "kind=fault",
    "_ledger",
];

/// Whether a name that is spelt with this many bytes at most can be one of a folder or file.
fn fits(name: &str, keep_dash: bool, most: usize) -> bool {
    let bytes = name.bytes().enumerate().map(|(at, byte)| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'_' => 1,
        b'.' if at > 0 => 1,
        b'-' if keep_dash => 1,
        _ => 3,
    });
    !name.is_empty() && bytes.sum::<usize>() <= most
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(&ODD[..]).prop_map(str::to_owned),
        3 => ".{1,12}",
        1 => (1usize..300).prop_map(|len| "x".repeat(len)),
        1 => (1usize..120).prop_map(|len| "\u{df}".repeat(len)),
    ]
}

/// Positions of a shard, in their order.
fn positions(most: usize) -> impl Strategy<Value = Vec<Position>> {
    let some = 1..most;
    let parsed = |texts: Vec<String>| texts.iter().map(|text| text.parse().unwrap()).collect();
    let texts = move |pattern: &'static str| proptest::collection::vec(pattern, some.clone());
    prop_oneof![
        4 => proptest::collection::vec(0u64..200, 1..most).prop_map(|all| all.into_iter().map(Position::from).collect::<Vec<_>>()),
        1 => proptest::collection::vec(any::<u64>(), 1..most).prop_map(|all| all.into_iter().map(Position::from).collect()),
        1 => proptest::collection::vec((0u64..5, any::<u64>()), 1..most).prop_map(|all| all.into_iter().map(|(a, b)| Position::pair(a, b)).collect()),
        1 => texts("[1-9][0-9]{15,60}").prop_map(parsed),
        1 => texts("[0-9a-zA-Z-]{1,9}").prop_map(parsed),
        // some of them too long for a name
        1 => texts("[a-z]{55,75}|.{1,3}").prop_map(parsed),
    ]
    .prop_map(|mut all: Vec<Position>| {
        all.sort();
        all.dedup();
        all
    })
}

fn arrival() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        8 => (0i64..600).prop_map(|minute| Timestamp::from_micros(TEN.as_micros() + minute * 60_000_000)),
        1 => any::<i64>().prop_map(Timestamp::from_micros),
        1 => select(&["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z"][..])
            .prop_map(|text| text.parse().unwrap()),
        1 => select(&[i64::MIN, i64::MAX, 0, -1][..]).prop_map(Timestamp::from_micros),
    ]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        40 => (0u8..4, 0u32..1_000).prop_map(|(kind, id)| format!(r#"{{"id":"{id}","type":"t{kind}"}}"#).into_bytes()),
        20 => bytes(40),
        10 => Just(Vec::new()),
        1 => any::<u8>().prop_map(|byte| vec![byte; 1 << 20]),
    ]
}

/// A record without its place.
#[derive(Clone, Debug)]
struct Body {
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    arrival: Timestamp,
    payload: Vec<u8>,
}

fn body() -> impl Strategy<Value = Body> {
    let header = ("a|b|[^a]{0,3}", bytes(5));
    (proptest::option::of(bytes(3)), proptest::collection::vec(header, 0..4), arrival(), payload())
        .prop_map(|(key, headers, arrival, payload)| Body { key, headers, arrival, payload })
}

/// The records of a stream, and its name.
#[derive(Clone, Debug)]
struct World {
    stream: String,
    records: Vec<Record>,
}

fn world(most: usize) -> impl Strategy<Value = World> {
    let shard = (name(), positions(most), proptest::collection::vec(body(), most));
    (name(), proptest::collection::vec(shard, 1..4)).prop_map(|(stream, shards)| {
        let shards: BTreeMap<String, _> =
            shards.into_iter().map(|(name, at, of)| (name, (at, of))).collect();
        let mut records = Vec::new();
        for (shard, (positions, bodies)) in shards {
            for (position, Body { key, headers, arrival, payload }) in
                positions.into_iter().zip(bodies)
            {
                let mut record = Record::new(&*stream, &*shard, position, payload)
                    .with_headers(headers.into_iter().collect())
                    .with_arrival(arrival);
                if let Some(key) = key {
                    record = record.with_key(key);
                }
                records.push(record);
            }
        }
        World { stream, records }
    })
}

impl World {
    fn stream(&self) -> Stream {
        let shards: BTreeSet<ShardId> = self.records.iter().map(|r| r.shard().clone()).collect();
        let stream = Stream::with_clock(&*self.stream, shards, PausedClock::starting_at(TEN));
        for record in &self.records {
            stream.push_record(record.clone()).unwrap();
        }
        stream.close();
        stream
    }

    /// The records that can be stored.
    fn storable(&self) -> Vec<Record> {
        let can = |record: &&Record| {
            fits(&self.stream, true, 200)
                && fits(record.shard().as_str(), false, 96)
                && fits(&record.position().to_string(), false, 64)
        };
        self.records.iter().filter(can).cloned().collect()
    }
}

/// How a writer closes its objects.
fn writer() -> impl Strategy<Value = (usize, usize, u64, u32)> {
    (
        select(&[1, 2, 7, 50_000][..]),
        select(&[2 << 20, 64 << 20][..]),
        select(&[1, 500, 60_000][..]),
        select(&[1, 24, u32::MAX][..]),
    )
}

fn processor(
    name: &str,
    stream: &Stream,
    lake: &Lake,
    (records, bytes, linger, hours): (usize, usize, u64, u32),
) -> (Processor, Collect<FaultEvent>) {
    let writer = LakeWriter::new(lake)
        .records(records)
        .bytes(bytes)
        .linger(Duration::from_millis(linger))
        .hours(hours);
    let faults = memory::faults();
    let processor = Processor::builder(name)
        .source(stream.consumer(name))
        .faults(faults.clone())
        .pipeline("store", writer.pipeline(&store_resource()))
        .flood_guard(streambreaker::fault::FloodGuard::off())
        .seed(7)
        .build()
        .unwrap();
    (processor, faults)
}

fn collecting() -> (Processor, Collect<Record>) {
    let found = Collect::new();
    let target = found.clone();
    let collect = Resource::builder("collect").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("replayed")
        .faults(memory::faults())
        .commit_every(Duration::from_millis(1), 5)
        .pipeline("collect", move |flow| {
            flow.map(|received: Received| received.record().clone())
                .bulk_write(&collect, target.clone())
                .in_flight(1)
                .window(Window::items(20).linger(Duration::from_millis(5)))
        })
        .build()
        .unwrap();
    (processor, found)
}

fn in_order(records: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut records: Vec<Record> = records
        .into_iter()
        .map(|record| record.with_delivery(Delivery::Live).with_deliveries(1))
        .collect();
    records.sort_by(|a, b| (a.shard(), a.position()).cmp(&(b.shard(), b.position())));
    records
}

async fn replayed(lake: &Lake, selection: Selection) -> Vec<Record> {
    let (processor, found) = collecting();
    let report = processor.run_from(lake.replay(selection), Shutdown::never()).await.unwrap();
    assert!(report.gaps.is_empty(), "{report}");
    in_order(found.items())
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(work)
}

fn any_fail() -> impl Strategy<Value = Fail> {
    prop_oneof![
        8 => Just(Fail::Not),
        1 => Just(Fail::Throttled),
        1 => Just(Fail::Hangs),
        1 => Just(Fail::LosesReply),
        1 => Just(Fail::LosesReplyAndHangs),
    ]
}

/// What a selection says, with places in all records from which its values are taken.
#[derive(Clone, Debug)]
struct Wanted {
    shard: Option<Index>,
    from: Option<Index>,
    until: Option<Index>,
    first: Option<Index>,
    last: Option<Index>,
    kinds: BTreeSet<u8>,
    key: Option<Index>,
    ids: BTreeSet<u32>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let place = || proptest::option::weighted(0.25, any::<Index>());
    let kinds =
        prop_oneof![2 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(0u8..5, 1..3)];
    let ids = prop_oneof![4 => Just(BTreeSet::new()), 1 => proptest::collection::btree_set(0u32..1_000, 1..300)];
    (place(), place(), place(), place(), place(), kinds, place(), ids).prop_map(
        |(shard, from, until, first, last, kinds, key, ids)| Wanted {
            shard,
            from,
            until,
            first,
            last,
            kinds,
            key,
            ids,
        },
    )
}

impl Wanted {
    /// The selection, and what it takes of these by a look at each.
    fn of(&self, world: &World, all: &[Record]) -> (Selection, Vec<Record>) {
        let (mut selection, mut expected) = (Selection::of(&*world.stream), all.to_vec());
        if all.is_empty() {
            return (selection, expected);
        }
        let at = |place: &Option<Index>| place.map(|place| place.get(all).clone());
        let field = |record: &Record, name: &str| -> Option<String> {
            let event: serde_json::Value = serde_json::from_slice(record.payload()).ok()?;
            Some(event.get(name)?.as_str()?.to_owned())
        };
        if let Some(record) = at(&self.shard) {
            selection = selection.shard(record.shard().clone());
            expected.retain(|r| r.shard() == record.shard());
        }
        if let Some(record) = at(&self.from) {
            selection = selection.from(record.arrival());
            expected.retain(|r| r.arrival() >= record.arrival());
        }
        if let Some(record) = at(&self.until) {
            selection = selection.until(record.arrival());
            expected.retain(|r| r.arrival() < record.arrival());
        }
        if let Some(record) = at(&self.first) {
            selection = selection.first(record.position().clone());
            expected.retain(|r| r.position() >= record.position());
        }
        if let Some(record) = at(&self.last) {
            selection = selection.last(record.position().clone());
            expected.retain(|r| r.position() <= record.position());
        }
        if let Some(key) = at(&self.key).and_then(|record| record.key().cloned()) {
            selection = selection.key(key.clone());
            expected.retain(|r| r.key() == Some(&key));
        }
        let kinds: BTreeSet<String> = self.kinds.iter().map(|kind| format!("t{kind}")).collect();
        for kind in &kinds {
            selection = selection.kind(kind);
        }
        expected.retain(|r| {
            kinds.is_empty() || field(r, "type").is_some_and(|kind| kinds.contains(&kind))
        });
        let ids: BTreeSet<String> = self.ids.iter().map(u32::to_string).collect();
        for id in &ids {
            selection = selection.id(id);
        }
        expected.retain(|r| ids.is_empty() || field(r, "id").is_some_and(|id| ids.contains(&id)));
        (selection, expected)
    }
}

/// More of them are told by `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// L1, L2, L3: two owners at once, too.
    #[test]
    fn l1_l2_l3_whatever_it_is_it_is_in_the_lake_or_in_a_fault(
        world in world(25),
        how in writer(),
        fails in proptest::collection::vec(any_fail(), 0..30),
        lives in proptest::collection::vec(0u64..4_000, 0..4),
        two in any::<bool>(),
        sealed in any::<bool>(),
    ) {
        run(async {
            let shaky = Shaky::default();
            let mut lake = shaky.lake();
            if sealed {
                lake = lake.with_keys(Keys::new("k", Key::new([3; 32])));
            }
            let stream = world.stream();
            shaky.writes(fails);
            let names = if two { &["one", "other"][..] } else { &["one"] };
            let mut faulted = Vec::new();
            for millis in lives.into_iter().map(Some).chain([None]) {
                let writers: Vec<_> = names.iter().map(|name| processor(name, &stream, &lake, how)).collect();
                let runs = futures::future::join_all(writers.iter().map(|(one, _)| one.run(Shutdown::never())));
                match millis {
                    // dropped where it stands: as good as killed
                    Some(millis) => drop(tokio::time::timeout(Duration::from_millis(millis), runs).await),
                    None => runs.await.into_iter().for_each(|report| drop(report.unwrap())),
                }
                for (_, faults) in &writers {
                    faulted.extend(faults.events().into_iter().flat_map(|fault| fault.records));
                }
            }
            for name in names {
                assert!(stream.is_settled(name), "all of it is passed");
            }
            let storable = world.storable();
            let refused: BTreeSet<_> =
                faulted.iter().map(|f| (f.record.shard().clone(), f.record.position().clone())).collect();
            let expected: BTreeSet<_> = world
                .records
                .iter()
                .filter(|record| !storable.contains(record))
                .map(|r| (r.shard().clone(), r.position().clone()))
                .collect();
            assert_eq!(refused, expected, "L3: what has no name is a fault, and nothing else");
            if !fits(&world.stream, true, 200) {
                assert!(shaky.paths().await.is_empty());
                return;
            }
            let report = lake.verify(&world.stream).await.unwrap();
            assert_eq!(report.records, storable.len() as u64, "{report}");
            let unexpected = report.findings.iter().find(|found| match found {
                Finding::Duplicate { .. } | Finding::Unproven { .. } => !two,
                _ => true,
            });
            assert!(unexpected.is_none(), "{report}");
            assert_eq!(replayed(&lake, Selection::of(&*world.stream)).await, in_order(storable), "L1");
        });
    }

    /// L6: and dry runs say so before.
    #[test]
    fn l6_any_selection_broken_off_anywhere_is_sent_whole(
        world in world(60),
        how in writer(),
        wanted in proptest::collection::vec(wanted(), 1..5),
        lives in proptest::collection::vec(1u64..60, 0..5),
        manifest in any::<bool>(),
        fails in proptest::collection::vec(0usize..12, 0..20),
    ) {
        run(async {
            let shaky = Shaky::default();
            let lake = shaky.lake();
            let stream = world.stream();
            // two owners at once: objects overlap
            let ((one, _), (other, _)) = (
                processor("one", &stream, &lake, how),
                processor("other", &stream, &lake, (5, 2 << 20, 60_000, 1)),
            );
            let both = (one.run(Shutdown::never()), other.run(Shutdown::never()));
            futures::future::try_join(both.0, both.1).await.unwrap();
            if !fits(&world.stream, true, 200) {
                return;
            }
            if manifest {
                lake.store_manifest(&lake.manifest(&world.stream).await.unwrap()).await.unwrap();
            }
            let all = world.storable();
            shaky.reads_take(Duration::from_millis(3));
            for (nth, wanted) in wanted.iter().enumerate() {
                let (selection, expected) = wanted.of(&world, &all);
                let expected = in_order(expected);
                shaky.fails_after([]);
                let dry = lake.dry_run(&selection).await.unwrap();
                let sizes = expected.iter().map(|record| record.size() as u64).sum::<u64>();
                assert_eq!((dry.records, dry.bytes, &*dry.damaged), (expected.len() as u64, sizes, &[][..]));
                // who sends them waits for as long as it takes
                shaky.fails_after(fails.clone());
                assert_eq!(replayed(&lake, selection.clone()).await, expected);

                let name = Uuid::from_u128(nth as u128);
                let source = || lake.replay(selection.clone()).resumable(name).target("collect");
                let mut found = Vec::new();
                for millis in lives.iter().copied().map(Some).chain([None]) {
                    let (processor, some) = collecting();
                    let run = processor.run_from(source(), Shutdown::never());
                    match millis {
                        Some(millis) => drop(tokio::time::timeout(Duration::from_millis(millis), run).await),
                        None => drop(run.await.unwrap()),
                    }
                    found.extend(some.items());
                }
                let mut found = in_order(found);
                found.dedup();
                assert_eq!(found, expected, "broken off, it goes on until all are sent");
                let (processor, again) = collecting();
                processor.run_from(source(), Shutdown::never()).await.unwrap();
                assert!(again.items().is_empty(), "what is done is done");
                if expected.is_empty() {
                    continue;
                }
                let others = [
                    lake.replay(selection.clone().id("another")).resumable(name).target("collect"),
                    lake.replay(selection.clone()).resumable(name).target("another"),
                ];
                for other in others {
                    let refused = processor.run_from(other, Shutdown::never()).await;
                    assert!(matches!(refused, Err(RunError::Ended { .. })), "of another selection, for another target");
                }
            }
        });
    }
}
