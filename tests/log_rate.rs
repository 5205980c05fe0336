//! What can happen again and again is one line a minute, with a count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use streambreaker::fault::{FaultEvent, FloodGuard};
use streambreaker::memory::{self, Inject, Stream};
use streambreaker::prelude::*;
use streambreaker::{Processor, ProcessorBuilder};
use tokio::time::sleep;

mod heard;
use heard::{Heard, Line};

fn count(line: &Line) -> u64 {
    line.field("count").parse().unwrap()
}

fn total(lines: &[Line]) -> u64 {
    lines.iter().map(count).sum()
}

fn builder(stream: &Stream, faults: memory::Collect<FaultEvent>) -> ProcessorBuilder {
    Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults)
        .flood_guard(FloodGuard::off())
        .seed(1)
}

#[tokio::test(start_paused = true)]
async fn faults_are_one_line_a_fingerprint_a_minute_and_the_first_says_it_is_new() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let stream = Stream::new("numbers", 2);
    let processor = builder(&stream, memory::faults())
        .pipeline("all", |flow| {
            flow.json::<u64>().try_map(|n| match *n {
                0..100 => Err("odd one").fault(),
                100 => Err("another").fault(),
                _ => Ok(n),
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await.unwrap() });
    // a burst, and then nothing of the kind: what was kept back is said all the same
    for n in 0..50u64 {
        stream.push(n.to_string());
    }
    sleep(Duration::from_secs(30)).await;
    let lines = heard.with("faults are set aside");
    assert_eq!((lines.len(), count(&lines[0]), lines[0].field("new")), (1, 1, "true"));
    sleep(Duration::from_secs(60)).await;
    let lines = heard.with("faults are set aside");
    assert_eq!((lines.len(), count(&lines[1]), lines[1].field("new")), (2, 49, "false"));

    stream.push("100");
    for n in 50..100u64 {
        stream.push(n.to_string());
        sleep(Duration::from_secs(4)).await;
    }
    trigger.pull();
    let report = run.await.unwrap();
    assert_eq!(report.faults_stored, 101);
    let lines = heard.with("faults are set aside");
    let (first, second): (Vec<Line>, Vec<Line>) = lines
        .into_iter()
        .partition(|line| line.field("fingerprint") == report.kinds[0].fingerprint);
    assert_eq!((total(&first), total(&second)), (100, 1), "every fault is in one line's count");
    assert!(first.len() <= 7, "{} lines in five minutes", first.len());
    assert_eq!(second[0].field("new"), "true");
}

#[tokio::test(start_paused = true)]
async fn restarts_of_all_lanes_are_one_line_a_minute() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let stream = Stream::new("numbers", 10);
    for n in 0..40u64 {
        stream.push_keyed(n.to_string(), n.to_string());
    }
    let restarts = Arc::new(AtomicU32::new(0));
    let down = Resource::builder("down")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .build()
        .unwrap();
    let processor = builder(&stream, memory::faults())
        .pipeline("returned", {
            let down = down.clone();
            let restarts = restarts.clone();
            move |flow| {
                restarts.fetch_add(1, Ordering::Relaxed);
                flow.call(&down, async |_| Err::<(), _>("down").transient())
            }
        })
        .pipeline("fatal", move |flow| {
            flow.call(&down, async |_| Err::<(), _>("no credentials").fatal())
        })
        .pipeline("dropped", |flow| {
            flow.json::<u64>().through(|units| {
                use futures::StreamExt;
                units.filter(|_| std::future::ready(false))
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    sleep(Duration::from_secs(599)).await;
    run.abort();
    assert!(restarts.load(Ordering::Relaxed) > 150);
    let lines = heard.lines();
    assert!(lines.len() < 70, "{} lines in ten minutes", lines.len());
    let again = heard.with("built anew");
    let of = |pipeline: &str| -> Vec<Line> {
        again.iter().filter(|line| line.field("pipeline") == pipeline).cloned().collect()
    };
    for pipeline in ["returned", "fatal"] {
        assert_eq!(of(pipeline).len(), 10, "{pipeline}");
        assert!(total(&of(pipeline)) > 150, "{pipeline}");
    }
    assert_eq!(heard.with("fatal error").len(), 10);
    assert!((1..=10).contains(&heard.with("dropped undecided").len()));
    assert!((9..=10).contains(&heard.with("nothing has been settled").len()));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_for_many_shards_is_one_line_a_minute() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let stream = Stream::new("numbers", 20);
    for n in 0..200u64 {
        stream.push_keyed(n.to_string(), n.to_string());
    }
    stream.inject(Inject::CommitErrors(100));
    let processor = builder(&stream, memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    sleep(Duration::from_secs(299)).await;
    stream.inject(Inject::ReadErrors(1_000));
    stream.push("1");
    sleep(Duration::from_secs(300)).await;
    run.abort();
    let (commits, reads) = (heard.with("a commit did not go through"), heard.with("source failed"));
    assert!((5..=10).contains(&commits.len()), "{}", commits.len());
    assert!(total(&commits) > 200);
    assert!((1..=6).contains(&reads.len()), "{}", reads.len());
}

#[tokio::test(start_paused = true)]
async fn a_fault_sink_that_is_down_for_many_shards_is_one_line_a_minute() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let stream = Stream::new("numbers", 20);
    for n in 0..200u64 {
        stream.push_keyed(n.to_string(), "bad");
    }
    let faults = memory::faults();
    faults.down();
    let processor =
        builder(&stream, faults).pipeline("all", |flow| flow.json::<u64>()).build().unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    sleep(Duration::from_secs(299)).await;
    run.abort();
    let lines = heard.with("did not confirm");
    assert_eq!(lines.len(), 5);
    let requests: u64 =
        lines.iter().map(|line| line.field("requests").parse::<u64>().unwrap()).sum();
    assert!(requests > 100, "{requests}");
}
