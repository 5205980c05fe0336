//! A pipeline that is disabled for one life of a process and enabled in the next: what it has not seen is told.

#![allow(clippy::unwrap_used)] // a test may

mod heard;
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use heard::Heard;
use streambreaker::prelude::*;
use streambreaker::{Position, Processor, Record, file, memory};
use support::*;

const LINES: u64 = 30;

/// A directory that is gone after the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let name = format!("streambreaker-disabled-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn position(n: u64) -> Position {
    Position::from(n * 3)
}

/// One life over the file. `search` is down from 10 on, or not at all; `totals` hangs at 20, or not at all.
fn life(dir: &Path, disabled: &[&str], down: bool, hangs: bool, seen: &[Effects; 2]) -> Processor {
    let (totals, search) = (once("totals"), once("search"));
    let [seen_by_totals, seen_by_search] = seen.clone();
    Processor::builder("p")
        .source(file::Source::open(dir.join("lines")).checkpoint(dir.join("checkpoint")))
        .faults(memory::faults())
        .in_flight(4, 1 << 20)
        .commit_every(Duration::from_millis(10), 1)
        .seed(1)
        .pipeline("totals", move |flow| {
            let seen = seen_by_totals.clone();
            flow.json::<u64>().map(|line| *line - 10).call(&totals, async move |n: &u64| {
                if hangs && *n == 20 {
                    std::future::pending::<()>().await;
                }
                seen.note(*n);
                Ok(())
            })
        })
        .pipeline("search", move |flow| {
            let seen = seen_by_search.clone();
            flow.json::<u64>().map(|line| *line - 10).call(&search, async move |n: &u64| {
                if down && *n >= 10 {
                    return Err("down").transient();
                }
                seen.note(*n);
                Ok(())
            })
        })
        .disable(disabled.iter().copied())
        .build()
        .unwrap()
}

/// The line of a number: of two digits, whatever the number.
fn line(n: u64) -> String {
    (10 + n).to_string()
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if so() {
            return;
        }
        millis(10).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn i3_over_three_lives_what_a_disabled_pipeline_has_not_seen_is_told() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let dir = Dir::new();
    let lines: String = (0..LINES).map(|n| format!("{}\n", line(n))).collect();
    std::fs::write(dir.0.join("lines"), lines).unwrap();
    let seen = [Effects::default(), Effects::default()];

    // both; search gives back what it cannot take, and nothing is committed past it
    let first = life(&dir.0, &[], true, false, &seen);
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { first.run(shutdown).await });
    until("totals is at its limit", || seen[0].of(13) > 0).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.pipelines["search"].done, seen[0].all().len()), (10, 14), "{report}");
    assert!(heard.with("pipelines that are disabled").is_empty());

    // without search; killed, so that there is no report
    let second = life(&dir.0, &["search"], false, true, &seen);
    let handle = second.handle();
    let run = tokio::spawn(async move { second.run(Shutdown::never()).await });
    until("totals hangs", || {
        let status = handle.status();
        let [lane] = &status.lanes[..] else { return false };
        lane.oldest == Some(position(20)) && lane.in_flight == 4
    })
    .await;
    millis(100).await; // the commit
    let told = handle.status().pipelines["search"].records.passed_by.clone();
    run.abort();
    let _ = run.await;

    // both again
    let third = life(&dir.0, &[], false, false, &seen);
    let report = third.run(Shutdown::never()).await.unwrap();
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(report.pipelines["search"].passed_by.is_empty(), "{report}");
    assert!((0..LINES).all(|n| seen[0].of(n) > 0), "totals has all");

    // what search has not seen are those that life two has committed, and they are told
    let missed: Vec<u64> = (0..LINES).filter(|n| seen[1].of(*n) == 0).collect();
    assert_eq!(missed, (10..20).collect::<Vec<_>>());
    let [by] = &told[..] else { panic!("{told:?}") };
    let ends = (position(10).to_string(), position(23).to_string());
    assert_eq!((&by.first, &by.last), (&ends.0, &ends.1));
    // also to whoever has only the log: from there to where the next life begins
    let said = heard.with("pipelines that are disabled");
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].field("from"), said[0].field("pipelines")), (&*ends.0, "[\"search\"]"));

    // and so they are sent
    let again = life(&dir.0, &[], false, false, &seen);
    let records = missed.iter().map(|n| Record::new("lines", "0", position(*n), line(*n)));
    assert!(again.process(records).only("search").await.is_complete());
    assert!((0..LINES).all(|n| seen[1].of(n) > 0));
}
