//! Names of metrics are an interface: `docs/metrics.md` lists what the code emits, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use streambreaker::memory::{self, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{FaultEvent, Sink};
use uuid::Uuid;

/// Name to kind and labels, as the document has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    include_str!("../docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `streambreaker_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let labels = cells[4].split(',').map(|l| l.trim().to_owned()).collect();
            (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
        })
        .collect()
}

fn names_in(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("\"streambreaker_").skip(1) {
                let name: String =
                    part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                names.insert(format!("streambreaker_{name}"));
            }
        }
    }
}

#[test]
fn the_document_lists_what_the_code_emits_and_nothing_else() {
    let mut code = BTreeSet::new();
    names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let documented: BTreeSet<String> = documented().into_keys().collect();
    assert_eq!(code, documented);
}

#[test]
fn what_a_run_emits_is_as_documented() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run());
    });
    let documented = documented();
    let mut seen: BTreeMap<String, f64> = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let name = key.key().name().to_owned();
        let labels: BTreeSet<String> =
            key.key().labels().map(|label| label.key().to_owned()).collect();
        let (kind, expected) = documented.get(&name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(&labels, expected, "{name}");
        let (found, value) = match value {
            DebugValue::Counter(n) => ("counter", n as f64),
            DebugValue::Gauge(n) => ("gauge", n.into_inner()),
            DebugValue::Histogram(_) => ("histogram", 0.0),
        };
        assert_eq!(kind, found, "{name}");
        let fate = key.key().labels().find(|l| l.key() == "fate").map(|l| l.value().to_owned());
        let name = fate.map_or(name.clone(), |fate| format!("{name}/{fate}"));
        *seen.entry(name).or_default() += value;
    }
    let total = |name: &str| seen.get(&format!("streambreaker_{name}")).copied();
    assert_eq!(total("records_total/done"), Some(80.0), "{seen:?}");
    assert_eq!(total("records_total/filtered"), Some(10.0));
    assert_eq!(total("records_total/faulted"), Some(10.0));
    assert_eq!(total("faults_total"), Some(10.0));
    assert_eq!(total("attempts_total"), Some(91.0));
    assert_eq!(total("retries_total"), Some(1.0));
    assert_eq!(total("faults_unconfirmed"), Some(0.0));
    assert!(total("commits_total").is_some_and(|n| n >= 1.0));
    assert!(total("iterator_age_seconds").is_some());
}

async fn run() {
    let stream = Stream::new("numbers", 2);
    for i in 0..100u64 {
        stream.push_keyed(i.to_string(), i.to_string());
    }
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .rate(Rate::per_second(10_000))
        .concurrency(50)
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
        .build()
        .unwrap();
    let failed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let failed = failed.clone();
            flow.json::<u64>().filter(|n| **n % 10 != 0).parallel(
                4,
                &db,
                async move |n: &Event<u64>| {
                    if !failed.swap(true, std::sync::atomic::Ordering::Relaxed) {
                        return Err("once").transient();
                    }
                    if **n % 10 == 1 { Err("bad").fault() } else { Ok(()) }
                },
            )
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        trigger.pull();
    };
    let (report, ()) = tokio::join!(processor.run(shutdown), stop);
    assert_eq!(report.unwrap().pipelines["all"].faulted, 10);
}

#[test]
fn over_two_hundred_shards_the_rest_is_other_and_shows_the_worst_of_them() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let gauges = |wanted: &str| -> BTreeMap<String, f64> {
        let mut gauges = BTreeMap::new();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let shard =
                key.key().labels().find(|l| l.key() == "shard").map(|l| l.value().to_owned());
            if let (Some(shard), DebugValue::Gauge(n), true) =
                (shard, value, key.key().name() == wanted)
            {
                gauges.insert(shard, n.into_inner());
            }
        }
        gauges
    };
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let stream = Stream::new("numbers", 300);
            for n in 0..3_000u64 {
                stream.push_keyed(n.to_string(), n.to_string());
            }
            let processor = Processor::builder("p")
                .source(stream.consumer("g"))
                .faults(memory::faults())
                .pipeline("all", |flow| flow.json::<u64>())
                .build()
                .unwrap();
            let by = streambreaker::By::new("ada", "a test");
            processor.handle().pause("all", &by).unwrap();
            let (trigger, shutdown) = Shutdown::by_hand();
            let running = tokio::spawn(async move { processor.run(shutdown).await });
            tokio::time::sleep(Duration::from_secs(10)).await;
            let in_flight = gauges("streambreaker_in_flight_records");
            assert_eq!(in_flight.len(), 201);
            assert_eq!(in_flight.values().sum::<f64>(), 3_000.0, "nothing is painted over");
            assert!(in_flight["other"] > 500.0, "{}", in_flight["other"]);
            trigger.pull();
            running.await.unwrap().unwrap();
            let left = gauges("streambreaker_in_flight_records");
            assert_eq!(left.values().sum::<f64>(), 0.0, "what was given up says zero");
        });
    });
}

#[test]
fn while_commits_fail_the_reader_waits_for_a_commit_and_no_more_when_they_go_through() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let waits = || -> BTreeMap<String, f64> {
        let all = snapshotter.snapshot().into_vec().into_iter();
        all.filter_map(|(key, _, _, value)| {
            let key = key.key();
            let name = match key.labels().find(|label| label.key() == "for") {
                Some(what) => what.value().to_owned(),
                None if key.name() == "streambreaker_source_waiting" => "source".to_owned(),
                None => return None,
            };
            let DebugValue::Gauge(n) = value else { return None };
            (n.into_inner() > 0.0).then(|| (name, n.into_inner()))
        })
        .collect()
    };
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let stream = Stream::new("numbers", 1);
            for n in 0..1_000u64 {
                stream.push(n.to_string());
            }
            stream.inject(Inject::CommitErrors(20));
            let processor = Processor::builder("p")
                .source(stream.consumer("g"))
                .faults(memory::faults())
                .in_flight(10, 1 << 20)
                .commit_every(Duration::from_secs(1), 10)
                .pipeline("all", |flow| flow.json::<u64>())
                .build()
                .unwrap();
            let running = tokio::spawn(async move { processor.run(Shutdown::never()).await });
            tokio::time::sleep(Duration::from_secs(10)).await;
            let commit = ["commit", "source"].map(|name| (name.to_owned(), 1.0));
            assert_eq!(waits(), BTreeMap::from(commit));
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            assert_eq!(waits(), BTreeMap::new());
            assert!(stream.is_settled("g"));
            running.abort();
        });
    });
}

/// Stores what it is given; the answer of every third request is lost.
#[derive(Clone, Default)]
struct Forgetful(Arc<Mutex<(u32, BTreeSet<Uuid>)>>);

#[async_trait]
impl Sink<FaultEvent> for Forgetful {
    fn limits(&self) -> Limits {
        Limits::items(7)
    }

    fn size(&self, _: &FaultEvent) -> usize {
        1
    }

    async fn write(
        &self,
        events: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        let mut stored = self.0.lock().unwrap();
        stored.0 += 1;
        stored.1.extend(events.iter().map(|event| event.id));
        if stored.0 % 3 == 0 {
            return Err("the answer was lost").transient();
        }
        outcomes.all_done();
        Ok(())
    }
}

#[test]
fn f11_over_flood_trips_on_four_shards_the_fault_counter_is_what_is_stored() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let stored = Forgetful::default();
    let sink = stored.clone();
    let report = metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async move {
            let stream = Stream::new("numbers", 4);
            for n in 0..2_000u64 {
                stream.push_keyed(n.to_string(), n.to_string());
            }
            stream.close();
            let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
            let began = tokio::time::Instant::now();
            let processor = Processor::builder("p")
                .source(stream.consumer("g"))
                .faults(sink)
                .pipeline("all", move |flow| {
                    flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                        // a bug that a release mends, and poison
                        let broken = began.elapsed() < Duration::from_secs(100);
                        if broken || **n % 10 == 3 { Err("bad").fault() } else { Ok(()) }
                    })
                })
                .build()
                .unwrap();
            processor.run(Shutdown::never()).await.unwrap()
        })
    });
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        if let DebugValue::Counter(n) = value {
            *counted.entry(key.key().name().to_owned()).or_default() += n;
        }
    }
    let all = &report.pipelines["all"];
    assert_eq!((all.read, all.done + all.faulted, all.returned), (2_000, 2_000, 0), "{report}");
    assert!(counted["streambreaker_flood_guard_trips_total"] >= 2, "{counted:?}");
    assert!(counted["streambreaker_flood_returned_total"] >= 1, "{counted:?}");
    let durable = stored.0.lock().unwrap().1.len() as u64;
    assert_eq!(
        (all.faulted, report.faults_stored, counted["streambreaker_faults_total"]),
        (durable, durable, durable),
    );
}
