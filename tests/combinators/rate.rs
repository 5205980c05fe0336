//! `rate_limit`.

use streambreaker::resource::Rate;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn r1_rate_limit_lets_no_more_through_in_any_window() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..200, move |flow| {
        let note = note.clone();
        flow.rate_limit(Rate::per_second(20).burst(5)).inspect(move |_| note.push(Instant::now()))
    })
    .await;
    assert_eq!(ran.fates(), (200, 0, 0));
    let times = seen.all();
    for (first, from) in times.iter().enumerate() {
        let within = times[first..].iter().filter(|at| **at - *from < Duration::from_secs(1));
        assert!(within.count() <= 25);
    }
    // and it reaches its rate
    assert!(times[199] - times[0] <= Duration::from_millis(10_300));
}

#[tokio::test(start_paused = true)]
async fn rate_limit_refuses_a_rate_of_nothing() {
    let text = refused(|flow| flow.rate_limit(Rate::per_second(0)));
    assert!(text.contains("rate_limit: rate n") && text.contains("from 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn r1_a_lane_that_is_built_anew_again_and_again_lets_no_more_through() {
    let (begin, passed) = (Instant::now(), Seen::new());
    let (note, db) = (passed.clone(), once("db"));
    let ran = run(0..2, move |flow| {
        let note = note.clone();
        let rate = Rate::per(1, Duration::from_secs(20)).burst(1);
        flow.json::<u32>().rate_limit(rate).inspect(move |_| note.push(begin.elapsed())).call(
            &db,
            async move |_| match begin.elapsed().as_secs() {
                0..100 => Err("down").transient(),
                _ => Ok(()),
            },
        )
    })
    .await;
    assert_eq!(ran.fates(), (2, 0, 0));
    let passed = passed.all();
    assert!(ran.report.restarts >= 3 && passed.len() >= 6, "{passed:?}");
    for pair in passed.windows(3) {
        assert!(pair[2] - pair[0] >= Duration::from_secs(20), "{passed:?}");
    }
}
