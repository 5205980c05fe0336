//! What the contract asks of a lane, and what it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streambreaker::memory::Stream;
use streambreaker::prelude::*;
use streambreaker::{Shutdown, memory};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

/// Point 4 is the lane's: whatever hangs around it, it goes on driving its flow.
#[tokio::test(start_paused = true)]
async fn p4_a_lane_drives_its_flow_while_faults_and_commits_hang() {
    let stream = Stream::new("s", 1);
    stream.push("bad");
    for n in 0..100 {
        stream.push(n.to_string());
    }
    stream.inject(memory::Inject::CommitsHang(1));
    let faults = memory::faults();
    faults.respond(1, memory::Response::Hang);
    let done = Arc::new(AtomicUsize::new(0));
    let count = done.clone();
    let db = Resource::builder("db").timeout(Duration::from_secs(9)).build().unwrap();
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            let count = count.clone();
            flow.json::<u32>().parallel(4, &db, async move |_| {
                tokio::time::sleep(100 * MS).await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(done.load(Ordering::Relaxed), 100);
    faults.resume();
    stream.resume();
    stream.close();
    assert_eq!(run.await.unwrap().unwrap().pipelines["all"].faulted, 1);
}

/// One connection that two stages of a flow use: whoever holds it must go on, or nobody ever does.
#[tokio::test(start_paused = true)]
async fn o10_two_stages_that_share_a_pool_of_one_connection_do_not_deadlock() {
    let pool = Arc::new(tokio::sync::Semaphore::new(1));
    let read = Resource::builder("read").timeout(Duration::from_secs(60)).build().unwrap();
    let write = Resource::builder("write").timeout(Duration::from_secs(60)).build().unwrap();
    let processor = Processor::builder("p")
        .source(memory::stream((0..50).map(|n| n.to_string())))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let (first, second) = (pool.clone(), pool.clone());
            flow.json::<u32>()
                .with(4, &read, async move |n: &Event<u32>| {
                    let _connection = first.acquire().await?;
                    tokio::time::sleep(MS * (**n % 3)).await;
                    Ok(())
                })
                .call(&write, async move |_| {
                    let _connection = second.acquire().await?;
                    tokio::time::sleep(2 * MS).await;
                    Ok(())
                })
        })
        .build()
        .unwrap();
    let begin = Instant::now();
    let report = processor.run(Shutdown::never()).await.unwrap();
    assert_eq!((report.pipelines["all"].done, report.pipelines["all"].restarts), (50, 0));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
