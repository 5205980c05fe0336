//! The watchdog: it says that a shard stands still, when it has done so for long enough, and once each time.

#![allow(clippy::unwrap_used)] // a test may

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use tokio::time::sleep;

mod heard;
use heard::Heard;

/// How often the counter has been told of a stall since this was asked last.
fn stalls(snapshotter: &Snapshotter) -> u64 {
    let all = snapshotter.snapshot().into_vec();
    all.into_iter()
        .filter(|(key, ..)| key.key().name() == "streambreaker_stalls_total")
        .map(|(.., value)| if let DebugValue::Counter(n) = value { n } else { 0 })
        .sum()
}

#[test]
fn a_shard_that_stands_still_is_reported_once_in_the_time_it_is_given() {
    let (heard, recorder) = (Heard::default(), DebuggingRecorder::new());
    let snapshotter = recorder.snapshotter();
    let _listening = heard.listen();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let stream = Stream::new("numbers", 1);
            let stuck = Arc::new(AtomicBool::new(true));
            let told = stuck.clone();
            let db = Resource::builder("db")
                .timeout(Duration::from_secs(1))
                .retry(Retry::none())
                .build()
                .unwrap();
            let processor = Processor::builder("p")
                .source(stream.consumer("g"))
                .faults(memory::faults())
                // however rarely it commits
                .commit_every(Duration::from_secs(3600), 1)
                .stall_after(Duration::from_secs(120))
                .pipeline("well", |flow| flow.json::<u64>())
                .pipeline("sick", move |flow| {
                    let told = told.clone();
                    flow.json::<u64>().call(&db, async move |n: &Event<u64>| {
                        match **n == 3 && told.load(Ordering::SeqCst) {
                            true => Err("down").transient(),
                            false => Ok(()),
                        }
                    })
                })
                .build()
                .unwrap();
            let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
            // nothing is open: it does not stand still
            sleep(Duration::from_secs(1_000)).await;
            assert_eq!(stalls(&snapshotter), 0);
            for n in 0..10u64 {
                stream.push(n.to_string());
            }
            sleep(Duration::from_secs(119)).await;
            assert_eq!(
                (stalls(&snapshotter), heard.with("nothing has been settled").len()),
                (0, 0)
            );
            sleep(Duration::from_secs(22)).await;
            assert_eq!(stalls(&snapshotter), 1);
            let lines = heard.with("nothing has been settled");
            assert_eq!(lines.len(), 1);
            let line = &lines[0];
            assert_eq!((line.field("processor"), line.field("oldest")), ("p", "3"));
            assert_eq!((line.field("in_flight"), line.field("pipelines")), ("7", "[\"sick\"]"));
            // once each time, not with every look
            sleep(Duration::from_secs(90)).await;
            assert_eq!(stalls(&snapshotter), 0);
            sleep(Duration::from_secs(50)).await;
            assert_eq!(stalls(&snapshotter), 1);
            // it goes on, and stands still no more
            stuck.store(false, Ordering::SeqCst);
            sleep(Duration::from_secs(60)).await;
            assert!(stream.is_settled("g"));
            for n in 10..40u64 {
                stream.push(n.to_string());
                sleep(Duration::from_secs(30)).await;
            }
            assert_eq!(stalls(&snapshotter), 0);
            stream.close();
            run.await.unwrap().unwrap();
        });
    });
}
