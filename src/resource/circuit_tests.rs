use super::*;

fn circuit(settings: Breaker, now: Instant) -> Circuit {
    Circuit::new(Arc::from("db"), settings.on_open(OnOpen::Fault), now)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn fail(circuit: &Circuit, n: u32, now: Instant) {
    for _ in 0..n {
        circuit.admit(now).expect("admitted").failure(now);
    }
}

#[test]
fn b1_it_opens_on_the_ratio_with_a_minimum_of_calls() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5), start);
    fail(&breaker, 19, start);
    assert_eq!(breaker.state(), BreakerState::Closed, "too few calls");
    breaker.admit(start).expect("closed").success(start);
    assert_eq!(breaker.state(), BreakerState::Open, "the twentieth call, though good, is enough");
    let refused = breaker.admit(start + secs(29)).expect_err("open");
    assert_eq!(refused, Refused { on_open: OnOpen::Fault, until: Some(start + secs(30)) });
}

#[test]
fn b1_old_results_leave_the_window() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5), start);
    fail(&breaker, 19, start);
    fail(&breaker, 1, start + secs(11));
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(breaker.status(start + secs(11)).calls, 1);
    assert_eq!(breaker.status(start + secs(60)).calls, 0);

    let exact = circuit(Breaker::failure_ratio(0.5).window(secs(16)), start);
    fail(&exact, 1, start);
    assert_eq!(exact.status(start + secs(15)).calls, 1);
    assert_eq!(exact.status(start + secs(16)).calls, 0, "the sixteenth slot has gone");
}

#[test]
fn b1_half_open_one_bad_opens_with_a_new_cool_down_and_all_good_close() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5), start);
    fail(&breaker, 20, start);
    let later = start + secs(30);
    let (good, bad) = (breaker.admit(later).expect("a probe"), breaker.admit(later).expect("two"));
    good.success(later);
    bad.failure(later + secs(1));
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.admit(later + secs(30)).is_err(), "the cool-down began anew");
    let again = later + secs(31);
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(again).expect("a probe")).collect();
    assert!(breaker.admit(again).is_err());
    probes.into_iter().for_each(|probe| probe.success(again));
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(breaker.status(again).calls, 0, "it begins with a clean window");
}

#[test]
fn b2_a_dropped_probe_gives_its_place_back() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5).half_open(1), start);
    fail(&breaker, 20, start);
    let later = start + secs(30);
    for _ in 0..100 {
        let probe = breaker.admit(later).expect("never stuck");
        assert!(breaker.admit(later).is_err());
        drop(probe);
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _probe = breaker.admit(later).expect("a probe");
        panic!("in the handler");
    }));
    assert!(panicked.is_err());
    breaker.admit(later).expect("a probe").success(later);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn b3_results_of_an_earlier_state_do_not_count() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5).half_open(1), start);
    let late: Vec<_> = (0..100).map(|_| breaker.admit(start).expect("closed")).collect();
    fail(&breaker, 20, start);
    let later = start + secs(30);
    let old_probe = breaker.admit(later).expect("a probe");
    for pass in late {
        pass.failure(later);
    }
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker.close();
    breaker.auto();
    old_probe.failure(later);
    assert_eq!((breaker.state(), breaker.status(later).calls), (BreakerState::Closed, 0));
}

#[test]
fn b3_a_late_good_result_does_not_count_in_an_open_circuit() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5).min_calls(2), start);
    let late = breaker.admit(start).expect("closed");
    breaker.admit(start).expect("closed").success(start);
    fail(&breaker, 1, start);
    assert_eq!(breaker.state(), BreakerState::Open);
    late.success(start);
    let status = breaker.status(start);
    assert_eq!((status.calls, status.failures), (2, 1), "it ended in another state than it began");
}

#[test]
fn an_operator_overrules_the_results() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5).min_calls(1), start);
    breaker.close();
    fail(&breaker, 100, start);
    assert_eq!(breaker.state(), BreakerState::Closed);
    breaker.auto();
    fail(&breaker, 1, start);
    assert_eq!(breaker.state(), BreakerState::Open, "what was seen meanwhile is judged");
    breaker.open();
    let refused = breaker.admit(start + secs(3_600)).expect_err("held open");
    assert_eq!(refused.until, None);
    assert_eq!(breaker.status(start).control, BreakerControl::HeldOpen);
    breaker.auto();
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "it asks by probes first");
}

#[tokio::test(start_paused = true)]
async fn those_who_pause_hear_of_every_chance() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(0.5).half_open(1), start);
    fail(&breaker, 20, start);
    let later = start + secs(30);
    let probe = breaker.admit(later).expect("a probe");
    let changed = breaker.changed();
    assert_eq!(breaker.gate(later).expect_err("all probes out").until, None);
    drop(probe);
    changed.await;
    assert!(breaker.gate(later).is_ok());
    let changed = breaker.changed();
    breaker.admit(later).expect("a probe").success(later);
    changed.await;
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn no_good_result_is_lost_between_threads() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(1.0).window(secs(1_000)), start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..10_000 {
                    // the slots turn while others write to them
                    let now = start + Duration::from_millis(n * 20);
                    breaker.admit(now).expect("closed").success(now);
                }
            });
        }
    });
    assert_eq!(breaker.status(start + secs(200)).calls, 40_000);
}

#[test]
fn extreme_settings_do_not_overflow() {
    let start = Instant::now();
    let settings = Breaker::failure_ratio(1.0)
        .window(Duration::MAX)
        .cool_down(Duration::MAX)
        .half_open(u32::MAX)
        .min_calls(1);
    let breaker = circuit(settings, start);
    fail(&breaker, 1, start);
    assert!(breaker.admit(start + secs(1_000_000)).is_err());
    breaker.open();
    breaker.auto();
    drop(breaker.admit(start).expect("a probe"));
}

#[test]
fn b1_good_results_told_together_count_as_if_told_one_by_one() {
    let start = Instant::now();
    let settings = Breaker::failure_ratio(0.4).min_calls(20).window(secs(16));
    let (single, together) = (circuit(settings, start), circuit(settings, start));
    let tell = |good: u32, at: Instant| {
        let word = single.admit_closed().expect("closed");
        (0..good).for_each(|_| single.good(word, 1, at));
        together.good(together.admit_closed().expect("closed"), good, at);
    };
    let same = |at: Instant| {
        let (a, b) = (single.status(at), together.status(at));
        assert_eq!((a.state, a.calls, a.failures), (b.state, b.calls, b.failures));
        a
    };
    // a slot of the window that nobody has counted in, then one that somebody has
    tell(5, start);
    tell(6, start);
    assert_eq!(same(start).calls, 11);
    // over many slots, some of which are used again
    for second in 1..40 {
        tell(second as u32 % 7, start + secs(second));
        same(start + secs(second));
    }
    // too few calls are all that keeps it closed: the one that makes them enough opens it, and not the last,
    // after which the failures would be too small a share
    let late = start + secs(100);
    fail(&single, 10, late);
    fail(&together, 10, late);
    assert!(single.is_near() && together.is_near());
    tell(100, late);
    assert_eq!(same(late).state, BreakerState::Open);
}

#[test]
fn good_results_told_together_take_one_step_and_those_that_a_slot_cannot_hold_count_no_more() {
    let start = Instant::now();
    let breaker = circuit(Breaker::failure_ratio(1.0).window(secs(16)), start);
    let word = breaker.admit_closed().expect("closed");
    let calls = |at: Instant| breaker.status(at).calls;
    let most = u64::from(u32::MAX);
    // one by one they would take minutes
    breaker.good(word, u32::MAX, start);
    assert_eq!(calls(start), most);
    breaker.good(word, 1, start);
    breaker.good(word, 7, start);
    assert_eq!(
        calls(start),
        most,
        "no more than it holds, and what tells slots apart is as it was"
    );
    let next = start + secs(1);
    breaker.good(word, 5, next);
    breaker.good(word, u32::MAX - 5, next);
    fail(&breaker, 1, next);
    assert_eq!((calls(next), breaker.status(next).failures), (2 * most + 1, 1));
    assert_eq!(calls(start + secs(16)), most + 1);
}
