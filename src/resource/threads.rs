//! A resource's breaker, rate and quota, under a scheduler that tries interleavings. Run by `scripts/threads`.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread::spawn;
use tokio::time::Instant;

use super::quota::QuotaState;
use super::{Breaker, BreakerState, Circuit, OnOpen, Rate, RateState, RetryQuota};
use crate::threads::explore;

fn circuit(half_open: u32, now: Instant) -> Arc<Circuit> {
    let settings = Breaker::failure_ratio(0.5).min_calls(2).half_open(half_open);
    Arc::new(Circuit::new(Arc::from("db"), settings.on_open(OnOpen::Pause), now))
}

#[test]
fn b1_b2_probes_are_counted_and_whoever_waits_for_one_hears_of_it() {
    explore(|| {
        let start = Instant::now();
        let circuit = circuit(2, start);
        (0..2).for_each(|_| circuit.admit(start).expect("closed").failure(start));
        let later = start + Duration::from_secs(30);
        let out = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let (circuit, out) = (circuit.clone(), out.clone());
                spawn(move || {
                    block_on(async {
                        loop {
                            let changed = circuit.changed();
                            let Ok(pass) = circuit.admit(later) else {
                                changed.await;
                                continue;
                            };
                            assert!(
                                out.fetch_add(1, Ordering::SeqCst) < 2,
                                "B1: two probes at most"
                            );
                            shuttle::thread::yield_now();
                            out.fetch_sub(1, Ordering::SeqCst);
                            // two are cancelled, and give their places back; the third is good
                            if n < 2 {
                                drop(pass)
                            } else {
                                pass.success(later)
                            }
                            break;
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        assert_eq!(circuit.state(), BreakerState::HalfOpen);
        circuit.admit(later).expect("B2: it is never stuck").success(later);
        assert_eq!(circuit.state(), BreakerState::Closed);
    });
}

#[test]
fn b3_no_result_counts_in_a_state_in_which_it_did_not_begin() {
    explore(|| {
        let start = Instant::now();
        let circuit = circuit(1, start);
        // all begin before anything happens
        let begun = [true, true, false, false].map(|good| (good, circuit.admit_closed()));
        let threads: Vec<_> = begun
            .into_iter()
            .map(|(good, word)| {
                let (circuit, word) = (circuit.clone(), word.expect("closed"));
                spawn(move || {
                    if good {
                        circuit.good(word, circuit.tick(start), || start);
                    } else {
                        circuit.result(word, start, false);
                    }
                })
            })
            .collect();
        // an operator, meanwhile
        circuit.open();
        circuit.close();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        let status = circuit.status(start);
        assert_eq!((status.state, status.calls, status.failures), (BreakerState::Closed, 0, 0));
    });
}

#[test]
fn r1_a_hold_that_comes_while_another_ends_is_kept() {
    explore(|| {
        let start = Instant::now();
        let rate = Arc::new(RateState::new(Some(Rate::per_second(1).burst(2)), start));
        rate.throttled(start, Duration::from_millis(5));
        let over = start + Duration::from_millis(5);
        let (asks, throttles) = (rate.clone(), rate.clone());
        let asks = spawn(move || asks.admit(over).is_ok());
        let throttles = spawn(move || throttles.throttled(over, Duration::from_millis(7)));
        asks.join().expect("it does not panic");
        throttles.join().expect("it does not panic");
        assert_eq!(rate.admit(over).expect_err("held"), Duration::from_millis(7));
    });
}

#[test]
fn a_token_of_the_quota_is_spent_once() {
    explore(|| {
        let start = Instant::now();
        let quota = RetryQuota::ratio(1.0).floor(0).reserve(1);
        let quota = Arc::new(QuotaState::new(quota, start));
        let spent = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let (quota, spent) = (quota.clone(), spent.clone());
                spawn(move || {
                    if n == 2 {
                        quota.refund();
                    } else {
                        spent.fetch_add(quota.try_spend(start).into(), Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        let spent = spent.load(Ordering::SeqCst);
        let left = quota.left().expect("it has a limit");
        // the refund of a full bucket is lost
        assert!(
            (1..=2).contains(&spent) && left <= 1 && u64::from(spent) + left <= 2,
            "{spent}, {left}"
        );
        assert!(quota.left() != Some(0) || spent >= 1);
    });
}
