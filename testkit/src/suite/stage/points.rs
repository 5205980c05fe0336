//! A rule for each point.

use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::harness::{Does, StageHarness, Work};
use super::rig::{Rig, process};
use crate::suite::check::state;

const MS: Duration = Duration::from_millis(1);

fn payloads<H: StageHarness>(harness: &H, n: usize) -> Vec<String> {
    (0..n).map(|n| harness.payload(n)).collect()
}

async fn rig_of<H: StageHarness>(harness: &H, payloads: Vec<String>, work: &Work) -> Rig {
    let (own, work) = (harness.clone(), work.clone());
    Rig::new(payloads, move |flow| own.stage(flow, &work)).await
}

async fn rig<H: StageHarness>(harness: &H, n: usize, work: &Work) -> Rig {
    rig_of(harness, payloads(harness, n), work).await
}

/// Whether it runs futures; stated where it does not.
fn calls<H: StageHarness>(harness: &H) -> bool {
    let calls = harness.shape().calls;
    if !calls {
        state("runs no futures");
    }
    calls
}

/// What lies above must go on although the stage cannot take anything from it.
pub async fn p1_whoever_returns_pending_has_polled_what_lies_above_it_in_the_same_call<
    H: StageHarness,
>(
    harness: &H,
) {
    for does in [Does::Ready, Does::Sleep(MS), Does::Hang] {
        let mut rig = rig(harness, 40, &Work::new(does)).await;
        for step in 0..60 {
            if step % 3 == 0 {
                rig.script.allow(2);
            }
            let before = rig.script.asked();
            if rig.next().is_pending() {
                let asked = rig.script.asked() > before;
                assert!(asked, "point 1: it is pending, and has not asked above (units {does:?})");
            }
            tokio::time::sleep(MS / 2).await;
            rig.turn().await;
        }
        // what is full asks by poll_progress
        if harness.shape().takes < 40 && does == Does::Hang {
            assert!(
                rig.script.progresses() > 0,
                "point 1: full, it does not let go on what lies above"
            );
        }
    }
}

/// Polled only when it was woken, it comes to its end.
pub async fn p2_no_wake_up_is_lost_whatever_the_units_do<H: StageHarness>(harness: &H) {
    let units = [Does::Ready, Does::Sleep(MS), Does::Sleep(7 * MS), Does::Hang];
    // the end comes by itself, or in the same turn as the last unit
    for (does, apart) in units.into_iter().flat_map(|does| [(does, true), (does, false)]) {
        let mut rig = rig(harness, 30, &Work::new(does)).await;
        let script = rig.script.clone();
        // units come one by one and in threes, and then no more
        let feed = tokio::spawn(async move {
            for step in 0..15 {
                if step == 14 && !apart {
                    script.end_quietly();
                }
                script.allow(if step % 2 == 0 { 1 } else { 3 });
                tokio::time::sleep(3 * MS).await;
            }
            if apart {
                script.end();
            }
        });
        let took = rig.drive(Duration::from_secs(60)).await;
        assert!(took.is_some(), "point 2: a wake-up is lost, and it hangs (units {does:?})");
        assert!(feed.await.is_ok());
        assert_eq!(rig.script.handed(), 29, "it ended before its input did");
    }
}

/// A later stage is full for long: what runs goes on by `poll_progress` alone, and its unit is kept.
pub async fn p2_work_that_only_poll_progress_sees_is_finished_and_kept<H: StageHarness>(
    harness: &H,
) {
    if !calls(harness) {
        return;
    }
    let work = Work::new(Does::Steps(5));
    let mut rig = rig(harness, 4, &work).await;
    rig.script.allow(2);
    rig.script.end_quietly();
    begin(&mut rig, &work).await;
    for _ in 0..50 {
        rig.progress();
        if !rig.wait(20 * MS).await {
            break;
        }
    }
    assert!(!work.ended().is_empty(), "point 2: what runs does not go on by `poll_progress`");
    let before = Instant::now();
    let next = rig.next();
    assert_eq!(next, Poll::Ready(Some(())), "point 2: what was running is not there");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// Asks until work has begun; what lingers is waited for.
async fn begin(rig: &mut Rig, work: &Work) {
    while work.starts() == 0 {
        assert!(rig.next().is_pending(), "it hands on what it has not worked on");
        if work.starts() == 0 {
            assert!(rig.wait(Duration::from_secs(1)).await, "it does not begin its work");
        }
    }
}

/// A later stage is full: not only the stage before it goes on, but each that lies above.
pub async fn o10_poll_progress_lets_go_on_what_lies_above_too<H: StageHarness>(harness: &H) {
    for does in [Does::Ready, Does::Hang] {
        let mut rig = rig(harness, 40, &Work::new(does)).await;
        rig.script.allow(4);
        for _ in 0..3 {
            let _ = rig.next();
            let before = rig.script.progresses();
            rig.progress();
            let more = rig.script.progresses() > before;
            assert!(more, "`poll_progress` does not let go on what lies above (units {does:?})");
        }
    }
}

/// `poll_progress` only lets go on what runs.
pub async fn p3_poll_progress_starts_nothing_and_takes_nothing<H: StageHarness>(harness: &H) {
    for does in [Does::Ready, Does::Sleep(MS), Does::Hang] {
        let work = Work::new(does);
        let mut rig = rig(harness, 40, &work).await;
        rig.script.allow(4);
        let _ = rig.next();
        let _ = rig.next();
        rig.script.allow(30);
        let before = (rig.script.nexts(), work.starts());
        for _ in 0..100 {
            rig.progress();
            tokio::time::sleep(MS).await;
            rig.turn().await;
        }
        let (asked, started) = (rig.script.nexts() - before.0, work.starts() - before.1);
        assert_eq!(
            (asked, started),
            (0, 0),
            "point 3: `poll_progress` asked for {asked} units and started {started} (units {does:?})"
        );
        // and all goes on after it
        rig.script.end();
        let took = rig.drive(Duration::from_secs(60)).await;
        assert!(took.is_some(), "point 2: after `poll_progress` it hangs (units {does:?})");
        assert_eq!(rig.script.handed(), 34);
    }
}

/// Nobody hoards units: what is taken counts as in flight, and waits behind what hangs.
pub async fn p3_what_works_on_units_takes_no_more_than_it_can_work_on<H: StageHarness>(
    harness: &H,
) {
    if !calls(harness) {
        return;
    }
    let mut rig = rig(harness, 100, &Work::new(Does::Hang)).await;
    rig.script.allow(100);
    for _ in 0..20 {
        assert!(rig.next().is_pending());
    }
    let (handed, takes) = (rig.script.handed(), harness.shape().takes);
    assert!(handed <= takes, "it says that it takes {takes} units, and has taken {handed}");
}

/// What could go on for ever in one poll stops after 256 units, wakes itself, and has let go on what lies above.
pub async fn p5_after_256_units_in_one_poll_it_wakes_itself_and_yields<H: StageHarness>(
    harness: &H,
) {
    let own = harness.clone();
    let build = move |flow| own.swallows(flow);
    let mut rig = Rig::new(payloads(harness, 2_000), build).await;
    rig.script.allow(2_000);
    rig.forget_wakes();
    if rig.next().is_ready() {
        return state("hands on what it takes");
    }
    let handed = rig.script.handed();
    assert!((1..=257).contains(&handed), "point 5: it took {handed} units in one poll");
    assert!(rig.wait(10 * MS).await, "point 5: it yields, and does not wake itself");
    let above = rig.script.progresses() > 0;
    assert!(above, "point 5: it yields, and does not let go on what lies above");
}

/// Units that use up what a task may do in a turn do not keep the others from it.
pub async fn p6_units_that_use_up_the_budget_do_not_starve_the_others<H: StageHarness>(
    harness: &H,
) {
    let n = harness.shape().at_once;
    if !calls(harness) || n < 2 {
        return state("works on one unit at a time");
    }
    let hogs = (n / 16).max(1);
    let work = Work::new(Does::Hog { hogs });
    // twice as many units as it works on at once, each of a key of its own
    let payloads = (0..2 * n).map(|n| format!(r#"{{"type":"t","n":"{n}"}}"#)).collect();
    let mut rig = rig_of(harness, payloads, &work).await;
    rig.script.allow(2 * n);
    rig.script.end_quietly();
    let took = rig.drive(Duration::from_secs(60)).await;
    assert!(took.is_some(), "point 2: it hangs when the scheduler's budget is used up");
    let ended = work.ended();
    let first = ended.iter().position(|n| *n < hogs).unwrap_or(ended.len());
    let others = work.starts() - hogs;
    assert!(
        others > 0 && first + first / 8 >= others,
        "point 6: {first} of {others} ended before one that uses up the budget: {ended:?}"
    );
}

/// The wake-up of the last future that it started is not lost.
pub async fn o11_a_unit_that_starts_in_a_turn_in_which_its_input_is_pending_meets_its_timeout<
    H: StageHarness,
>(
    harness: &H,
) {
    if !calls(harness) {
        return;
    }
    let work = Work::new(Does::Hang);
    let mut rig = rig(harness, 1, &work).await;
    rig.script.allow(1);
    // linger first, where the stage has one
    begin(&mut rig, &work).await;
    let begun = Instant::now();
    rig.forget_wakes();
    // nothing more comes, and nobody polls but when woken
    rig.script.end_quietly();
    let took = loop {
        let woken = rig.wait(Duration::from_secs(10)).await;
        assert!(woken, "point 2: a unit hangs past its timeout");
        if rig.next() == Poll::Ready(None) {
            break begun.elapsed();
        }
    };
    in_time(took, harness.shape().timeout, 1);
}

/// Nor that of one which begins when another of its key has ended.
pub async fn o11_a_unit_that_follows_another_of_its_key_meets_its_timeout<H: StageHarness>(
    harness: &H,
) {
    if !harness.shape().keyed {
        return state("knows no keys");
    }
    let work = Work::new(Does::Hang);
    // three of one key, one after the other
    let mut rig = rig_of(harness, vec![harness.payload(0); 3], &work).await;
    rig.script.allow(3);
    rig.script.end_quietly();
    let took = rig.drive(Duration::from_secs(10)).await;
    let Some(took) = took else { panic!("point 2: a unit behind one of its key hangs") };
    assert_eq!(work.starts(), 3);
    in_time(took, harness.shape().timeout, 3);
}

fn in_time(took: Duration, timeout: Duration, times: u32) {
    let (least, most) = (timeout * times, (timeout + 4 * MS) * times);
    assert!(
        took >= least && took <= most,
        "T3: {times} timeouts of {timeout:?} took {took:?}: never early, late by a turn at most"
    );
}

/// Every unit is handed on or decided: one that is dropped goes back to the stream.
pub async fn i3_no_unit_is_dropped_undecided<H: StageHarness>(harness: &H) {
    for does in [Does::Ready, Does::Sleep(MS)] {
        let (own, work) = (harness.clone(), Work::new(does));
        let outcome = process(payloads(harness, 700), move |flow| own.stage(flow, &work)).await;
        assert!(
            outcome.is_complete(),
            "{} of 700 units were dropped or returned, the first at {}",
            outcome.returned.len(),
            outcome.returned[0].position()
        );
    }
}
