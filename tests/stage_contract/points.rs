//! A test for each point.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use streambreaker::memory::Stream;
use streambreaker::prelude::*;
use streambreaker::{Shutdown, memory};
use tokio::time::Instant;

use super::rig::{Build, Rig};
use super::stages::{Does, TIMEOUT, all, payloads};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn p1_whoever_returns_pending_has_polled_what_lies_above_it_in_the_same_call() {
    for does in [Does::Ready, Does::Sleep(MS), Does::Hang] {
        for case in all(does) {
            let mut rig = Rig::new(payloads(40), case.build.clone()).await;
            for step in 0..60 {
                if step % 3 == 0 {
                    rig.script.allow(2);
                }
                let before = rig.script.asked();
                if rig.next().is_pending() {
                    assert!(rig.script.asked() > before, "{} ({does:?})", case.name);
                }
                tokio::time::sleep(MS / 2).await;
                rig.turn().await;
            }
            // what is full asks by poll_progress
            if case.calls && does == Does::Hang {
                assert!(rig.script.progresses.load(Ordering::Relaxed) > 0, "{}", case.name);
            }
        }
    }
}

/// Polls only when woken; how long it took to hand on or decide everything.
async fn to_the_end(rig: &mut Rig, limit: Duration) -> Option<Duration> {
    let begin = Instant::now();
    loop {
        match rig.next() {
            Poll::Ready(Some(())) => {}
            Poll::Ready(None) => return Some(begin.elapsed()),
            Poll::Pending => {
                if !rig.wait(limit).await {
                    return None;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p2_no_wake_up_is_lost_whatever_the_units_do() {
    for does in [Does::Ready, Does::Sleep(MS), Does::Sleep(7 * MS), Does::Hang] {
        for case in all(does) {
            let mut rig = Rig::new(payloads(30), case.build.clone()).await;
            let script = rig.script.clone();
            // units come one by one and in threes, and then no more
            let feed = tokio::spawn(async move {
                for step in 0..15 {
                    script.allow(if step % 2 == 0 { 1 } else { 3 });
                    tokio::time::sleep(3 * MS).await;
                }
                script.end();
            });
            let took = to_the_end(&mut rig, Duration::from_secs(60)).await;
            assert!(took.is_some(), "{} ({does:?}) hangs", case.name);
            feed.await.unwrap();
            assert_eq!(rig.script.handed.load(Ordering::Relaxed), 29, "{}", case.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn o11_a_unit_that_starts_in_a_turn_in_which_its_input_is_pending_meets_its_timeout() {
    for case in all(Does::Hang).into_iter().filter(|case| case.calls) {
        let mut rig = Rig::new(payloads(1), case.build.clone()).await;
        rig.script.allow(1);
        // linger first, where the stage has one
        while case.starts.load(Ordering::Relaxed) == 0 {
            assert!(rig.next().is_pending());
            if case.starts.load(Ordering::Relaxed) == 0 {
                assert!(rig.wait(Duration::from_secs(1)).await, "{}", case.name);
            }
        }
        let begin = Instant::now();
        rig.woken();
        // nothing more comes, and nobody polls but when woken
        rig.script.over.store(true, Ordering::Relaxed);
        let took = loop {
            assert!(
                rig.wait(Duration::from_secs(10)).await,
                "{} hangs past its timeout",
                case.name
            );
            if rig.next() == Poll::Ready(None) {
                break begin.elapsed();
            }
        };
        assert!(took >= TIMEOUT && took <= TIMEOUT + 3 * MS, "{}: {took:?}", case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn o11_a_unit_that_follows_another_of_its_key_meets_its_timeout() {
    let keyed = ["parallel_by_key", "bulk_write ordered"];
    for case in all(Does::Hang).into_iter().filter(|case| keyed.contains(&case.name)) {
        // three of one key, one after the other
        let mut rig = Rig::new(vec![payloads(1).remove(0); 3], case.build.clone()).await;
        rig.script.allow(3);
        rig.script.over.store(true, Ordering::Relaxed);
        let took = to_the_end(&mut rig, Duration::from_secs(10)).await;
        let took = took.unwrap_or_else(|| panic!("{} hangs past its timeout", case.name));
        assert_eq!(case.starts.load(Ordering::Relaxed), 3);
        assert!(took >= 3 * TIMEOUT && took <= 3 * TIMEOUT + 12 * MS, "{}: {took:?}", case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn p2_work_that_only_poll_progress_sees_is_finished_and_kept() {
    for case in all(Does::Sleep(5 * MS)).into_iter().filter(|case| case.calls) {
        let mut rig = Rig::new(payloads(4), case.build.clone()).await;
        rig.script.allow(2);
        rig.script.over.store(true, Ordering::Relaxed);
        while case.starts.load(Ordering::Relaxed) == 0 {
            assert!(rig.next().is_pending());
        }
        // a later stage is full for long: only poll_progress, only when woken
        for _ in 0..50 {
            rig.progress();
            if !rig.wait(20 * MS).await {
                break;
            }
        }
        let before = Instant::now();
        // what was running is there at once, nothing timed out
        assert_eq!(rig.next(), Poll::Ready(Some(())), "{}", case.name);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn p3_poll_progress_starts_nothing_and_takes_nothing() {
    for does in [Does::Ready, Does::Sleep(MS), Does::Hang] {
        for case in all(does) {
            let mut rig = Rig::new(payloads(40), case.build.clone()).await;
            rig.script.allow(4);
            let _ = rig.next();
            let _ = rig.next();
            rig.script.allow(30);
            let (taken, starts) =
                (rig.script.nexts.load(Ordering::Relaxed), case.starts.load(Ordering::Relaxed));
            for _ in 0..100 {
                rig.progress();
                tokio::time::sleep(MS).await;
                rig.turn().await;
            }
            let now =
                (rig.script.nexts.load(Ordering::Relaxed), case.starts.load(Ordering::Relaxed));
            assert_eq!(now, (taken, starts), "{} ({does:?})", case.name);
            // and all goes on after it
            rig.script.end();
            let took = to_the_end(&mut rig, Duration::from_secs(60)).await;
            assert!(took.is_some(), "{} ({does:?}) hangs", case.name);
            assert_eq!(rig.script.handed.load(Ordering::Relaxed), 34, "{}", case.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p3_what_works_on_units_takes_no_more_than_it_can_work_on() {
    for case in all(Does::Hang).into_iter().filter(|case| case.calls) {
        let mut rig = Rig::new(payloads(100), case.build.clone()).await;
        rig.script.allow(100);
        for _ in 0..20 {
            assert!(rig.next().is_pending());
        }
        let handed = rig.script.handed.load(Ordering::Relaxed);
        assert!(handed <= case.takes, "{} took {handed}", case.name);
    }
}

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

#[tokio::test(start_paused = true)]
async fn p5_after_256_units_in_one_poll_it_wakes_itself_and_yields() {
    // each decides all units itself, so that one call could go on for ever
    let nothing: Vec<(&str, Build)> = vec![
        ("filter", Arc::new(|flow| flow.filter(|_| false).map(|_| ()).boxed())),
        ("filter_map", Arc::new(|flow| flow.filter_map(|_| None::<()>).boxed())),
        ("try_map", Arc::new(|flow| flow.try_map(|_| Err::<(), _>("no").fault()).boxed())),
        ("of_type", Arc::new(|flow| flow.of_type("none").map(|_| ()).boxed())),
        ("json", Arc::new(|flow| flow.json::<u32>().map(|_| ()).boxed())),
        ("ensure", Arc::new(|flow| flow.ensure(|_| Err("no")).map(|_| ()).boxed())),
        ("split", Arc::new(|flow| flow.split(|_| None::<()>).boxed())),
        (
            "group_by",
            Arc::new(|flow| {
                let window = Window::items(10_000).linger(Duration::from_secs(9));
                flow.group_by(|_| (), window).map(|_| ()).boxed()
            }),
        ),
        (
            "group_by panics",
            Arc::new(|flow| {
                flow.group_by(|_| -> u32 { panic!("key") }, Window::items(2)).map(|_| ()).boxed()
            }),
        ),
        (
            "group_by_some",
            Arc::new(|flow| {
                flow.group_by_some(|_| None::<u32>, Window::items(2)).map(|_| ()).boxed()
            }),
        ),
        (
            "compact",
            Arc::new(|flow| {
                let window = Window::items(10_000).linger(Duration::from_secs(9));
                flow.compact(|_| (), window).map(|_| ()).boxed()
            }),
        ),
        (
            "parallel",
            Arc::new(|flow| {
                let db = Resource::builder("db").timeout(MS).build().unwrap();
                flow.parallel(4, &db, async |_| Err::<(), _>("no").fault()).boxed()
            }),
        ),
        (
            "parallel_by_key",
            Arc::new(|flow| {
                let db = Resource::builder("db").timeout(MS).build().unwrap();
                flow.parallel_by_key(4, |_| 1, &db, async |_| Err::<(), _>("no").fault()).boxed()
            }),
        ),
        (
            "bulk_write",
            Arc::new(|flow| {
                let db = Resource::builder("db").timeout(MS).build().unwrap();
                let sink = memory::Collect::sized(|_| 2)
                    .with_limits(streambreaker::sink::Limits::items(9).with_bytes(1));
                flow.bulk_write(&db, sink).map(|_| ()).boxed()
            }),
        ),
    ];
    std::panic::set_hook(Box::new(|_| {}));
    for (name, build) in nothing {
        let mut rig = Rig::new(payloads(2_000), build).await;
        rig.script.allow(2_000);
        rig.woken();
        assert!(rig.next().is_pending(), "{name}");
        let handed = rig.script.handed.load(Ordering::Relaxed);
        assert!((1..=257).contains(&handed), "{name} took {handed} units in one poll");
        assert!(rig.wait(10 * MS).await, "{name} does not wake itself");
        // a turn that could go on has let what lies above go on
        assert!(rig.script.progresses.load(Ordering::Relaxed) > 0, "{name}");
    }
    let _ = std::panic::take_hook();
}

/// Four units could go on for ever, within what tokio allows a task in one turn; the others need a little.
#[tokio::test(start_paused = true)]
async fn p6_o11_units_that_use_up_the_budget_do_not_starve_the_others() {
    for name in ["parallel", "parallel_by_key", "with", "bulk_write"] {
        let ended: Arc<Mutex<Vec<u32>>> = Arc::default();
        let seen = ended.clone();
        let work: Work = Arc::new(move |n| {
            let seen = seen.clone();
            Box::pin(async move {
                for _ in 0..if n < 4 { 20_000 } else { 300 } {
                    tokio::task::coop::consume_budget().await;
                }
                seen.lock().unwrap().push(n);
            })
        });
        let db = Resource::builder("db").timeout(Duration::from_secs(60)).build().unwrap();
        let processor = Processor::builder("p")
            .source(memory::stream((0..70).map(|n| n.to_string())))
            .faults(memory::faults())
            .pipeline("all", move |flow| {
                let work = work.clone();
                let flow = flow.json::<u32>().map(|n| *n);
                let sink = Each(work.clone());
                let handler = async move |n: &u32| {
                    work(*n).await;
                    Ok(())
                };
                match name {
                    "parallel" => flow.parallel(70, &db, handler).boxed(),
                    "parallel_by_key" => flow.parallel_by_key(70, |n| *n, &db, handler).boxed(),
                    "with" => flow.with(70, &db, handler).map(|_| ()).boxed(),
                    _ => flow.bulk_write(&db, sink).in_flight(70).map(|_| ()).boxed(),
                }
            })
            .build()
            .unwrap();
        processor.run(Shutdown::never()).await.unwrap();
        let ended = ended.lock().unwrap();
        let first = ended.iter().position(|n| *n < 4).unwrap();
        assert!(first >= 60, "{name}: {ended:?}");
    }
}

type Work = Arc<dyn Fn(u32) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// Writes one item a request, and works on it.
struct Each(Work);

#[async_trait::async_trait]
impl streambreaker::Sink<u32> for Each {
    fn limits(&self) -> streambreaker::sink::Limits {
        streambreaker::sink::Limits::items(1)
    }

    fn size(&self, _: &u32) -> usize {
        1
    }

    async fn write(
        &self,
        items: &[u32],
        outcomes: &mut streambreaker::sink::Outcomes<'_>,
    ) -> Result<(), StepError> {
        (self.0)(items[0]).await;
        outcomes.all_done();
        Ok(())
    }
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

/// The rig itself is worth nothing if it cannot fail: a stage that breaks each point is caught.
#[tokio::test(start_paused = true)]
async fn the_rig_sees_a_stage_that_freezes_what_lies_above() {
    use std::pin::Pin;
    use std::task::Context;
    struct Freezes<S> {
        above: Pin<Box<S>>,
        held: bool,
    }
    impl<S: Stage> Stage for Freezes<S> {
        type Out = S::Out;
        fn poll_next(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<streambreaker::Uow<S::Out>>> {
            if self.held {
                return Poll::Pending;
            }
            let next = self.above.as_mut().poll_next(cx);
            self.held = next.is_ready();
            next
        }
        fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}
    }
    let build: Build = Arc::new(|flow| {
        let frozen = flow.stage("freezes", |s, _| Freezes { above: Box::pin(s), held: false });
        frozen.map(|_| ()).boxed()
    });
    let mut rig = Rig::new(payloads(3), build).await;
    rig.script.allow(3);
    assert!(rig.next().is_ready());
    let before = rig.script.asked();
    assert!(rig.next().is_pending());
    assert_eq!(rig.script.asked(), before);
    assert!(!rig.wait(Duration::from_secs(1)).await);
}
