//! Names of metrics are an interface: `docs/lake.md` lists what the lake emits, and nothing else.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker_lake::{LakeWriter, Selection};
use support::{Fail, Shaky, records};

/// Name to kind and labels, as the chapter has them.
fn documented() -> BTreeMap<String, (String, String)> {
    let lines = include_str!("../../docs/lake.md").lines();
    lines
        .filter(|line| line.starts_with("| `streambreaker_lake_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), cells[4].to_owned()))
        })
        .collect()
}

#[test]
fn what_the_lake_emits_is_as_documented() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(run());
    });
    let (mut kinds, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<&str> = key.key().labels().map(|label| label.key()).collect();
        let (kind, count) = match value {
            DebugValue::Counter(n) => ("counter", n),
            DebugValue::Histogram(all) => ("histogram", all.len() as u64),
            DebugValue::Gauge(_) => ("gauge", 0),
        };
        let name = key.key().name().to_owned();
        kinds.insert(name.clone(), (kind.to_owned(), labels.join(", ")));
        counts.insert(name, count);
    }
    assert_eq!(kinds, documented());
    // one whose reply was lost is counted once
    assert_eq!(counts["streambreaker_lake_objects_total"], 2);
    assert_eq!(counts["streambreaker_lake_records_total"], 30);
    assert_eq!(counts["streambreaker_lake_write_seconds"], 2);
    assert!(counts["streambreaker_lake_bytes_total"] > 3_000);
    assert_eq!(counts["streambreaker_lake_damaged_total"], 1);
}

async fn run() {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    let writer = LakeWriter::new(&lake);
    let all = records("orders", "0", 0..30);
    shaky.writes([Fail::Not, Fail::LosesReply]);
    for part in [&all[..10], &all[10..], &all[10..]] {
        let mut log = OutcomeLog::new(part.len());
        let _ = writer.write(part, &mut log.outcomes()).await;
    }
    let first = shaky.paths().await.remove(0);
    shaky.put_bytes(&first, "not Parquet any more").await;
    assert_eq!(lake.dry_run(&Selection::of("orders")).await.unwrap().records, 20);
}
