//! What is counted by itself on one processor: the stream, each replay of it, what is sent again from faults, and what a
//! host gives as a batch. And what the processor says of itself while several of them run.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Delivery, PartPath, Phase, PipelineReport, Position, Record};
use support::*;
use uuid::Uuid;

/// The records of a stream once more, as a replay yields them.
fn replay(of: &Stream, run: u128) -> Stream {
    let again = Stream::new(of.name().to_owned(), of.shards().len());
    let delivery = Delivery::Replay { run: Uuid::from_u128(run) };
    for shard in 0..of.shards().len() {
        for record in of.records(shard) {
            again.push_record(record.with_delivery(delivery.clone())).unwrap();
        }
    }
    again.close();
    again
}

/// A pipeline that sets every tenth number aside.
fn processor() -> Processor {
    Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", |flow| {
            flow.json::<u64>().validate(|n: &u64| if n % 10 == 7 { Err("seven") } else { Ok(()) })
        })
        .build()
        .unwrap()
}

fn counts(all: &PipelineReport) -> [u64; 6] {
    [all.read, all.done, all.faulted, all.returned, all.open, all.redelivered]
}

#[tokio::test(start_paused = true)]
async fn a_replay_on_the_processor_of_its_live_run_is_read_and_not_redelivered() {
    let stream = numbers(100, 2);
    stream.close();
    let processor = processor();
    let run = async |source| {
        let report = processor.run_from(source, Shutdown::never()).await.unwrap();
        counts(&report.pipelines["all"])
    };
    assert_eq!(run(stream.consumer("g")).await, [100, 90, 10, 0, 0, 0]);
    assert_eq!(run(replay(&stream, 1).consumer("g")).await, [200, 180, 20, 0, 0, 0]);
    // another run of a replay is another reading; the same one again has had its records
    assert_eq!(run(replay(&stream, 2).consumer("g")).await, [300, 270, 30, 0, 0, 0]);
    assert_eq!(run(replay(&stream, 2).consumer("g")).await, [300, 270, 30, 0, 0, 100]);
    // and so has the stream itself
    assert_eq!(run(stream.consumer("h")).await, [300, 270, 30, 0, 0, 200]);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_and_what_a_host_gives_is_counted_beside_the_stream_it_came_from() {
    let stream = Stream::new("numbers", 1);
    let slow = Resource::builder("slow").timeout(Duration::from_secs(60)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().parallel(4, &slow, async |_| {
                secs(10).await;
                Ok(())
            })
        })
        .build()
        .unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn({
        let processor = processor.clone();
        async move { processor.run(shutdown).await }
    });
    for n in 0..4u64 {
        stream.push(n.to_string());
    }
    secs(1).await;
    // in any order, and while those of the stream are in flight
    let given = |n: u64| Record::new("numbers", "0", Position::from(n), n.to_string());
    let sent =
        Delivery::Resubmit { fault: Uuid::nil(), attempt: 1, part: PartPath::whole(), run: None };
    let batches = [
        vec![given(2), given(0)],
        vec![given(3).with_delivery(sent.clone()), given(1).with_delivery(sent)],
    ];
    for batch in batches {
        assert_eq!(processor.process(batch).await.settled.len(), 2);
    }
    secs(60).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    assert_eq!(counts(&report.pipelines["all"]), [8, 8, 0, 0, 0, 0], "{report}");
    assert!(stream.is_settled("g"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_replay_is_not_the_end_of_the_stream_that_runs_beside_it() {
    let stream = numbers(20, 1);
    let processor = processor();
    let handle = processor.handle();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn({
        let (processor, source) = (processor.clone(), stream.consumer("g"));
        async move { processor.run_from(source, shutdown).await }
    });
    secs(5).await;
    assert!(handle.ready());
    processor.run_from(replay(&stream, 1).consumer("g"), Shutdown::never()).await.unwrap();
    assert_eq!((handle.status().phase, handle.ready()), (Phase::Running, true));
    trigger.pull();
    run.await.unwrap().unwrap();
    assert_eq!((handle.status().phase, handle.ready()), (Phase::Stopped, false));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_is_over() {
    let stream = numbers(20, 1);
    let processor = processor();
    let handle = processor.handle();
    let ran = Arc::new(AtomicBool::new(false));
    let told = ran.clone();
    let run = tokio::spawn(async move {
        let run = processor.run_from(stream.consumer("g"), Shutdown::never());
        told.store(true, Ordering::SeqCst);
        run.await
    });
    secs(5).await;
    assert!(ran.load(Ordering::SeqCst) && handle.ready());
    run.abort();
    secs(1).await;
    assert_eq!((handle.status().phase, handle.ready()), (Phase::Stopped, false));
}
