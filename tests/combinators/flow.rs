//! `through`, `stage`, `boxed`, `named`.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use futures::StreamExt;
use streambreaker::flow::{BoxedFlow, Units};
use streambreaker::{Received, Uow};

use super::*;

#[tokio::test(start_paused = true)]
async fn through_takes_any_adapter_of_streams() {
    let seen = Seen::new();
    let note = seen.clone();
    let ran = run(0..10, move |flow| {
        let note = note.clone();
        flow.json::<u32>()
            .through(|units| {
                let doubled = units.map(|unit| unit.map(|n| *n * 2));
                doubled.ready_chunks(3).map(futures::stream::iter).flatten()
            })
            .inspect(move |n| note.push(*n))
    })
    .await;
    assert_eq!((ran.fates(), seen.all()), ((10, 0, 0), (0..10).map(|n| n * 2).collect()));
}

#[tokio::test(start_paused = true)]
async fn through_returns_what_is_dropped_in_there_and_faults_it_the_second_time() {
    let ran = run(0..10, |flow| {
        flow.json::<u32>()
            .through(|units| units.filter(|unit| std::future::ready(**unit.value() != 4)))
    })
    .await;
    assert_eq!((ran.fates(), ran.classes()), ((9, 0, 1), vec![Class::Dropped]));
}

#[tokio::test(start_paused = true)]
async fn through_stands_a_panic_of_the_adapter() {
    let ran = run(0..10, |flow| {
        flow.json::<u32>().through(|units| {
            units.map(|unit| {
                assert_ne!(**unit.value(), 4, "four");
                unit
            })
        })
    })
    .await;
    assert_eq!((ran.fates(), ran.classes()), ((9, 0, 1), vec![Class::Panic]));
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_ends_early_is_built_anew_and_loses_nothing() {
    let ran = run(0..10, |flow| flow.json::<u32>().through(|units| units.take(4))).await;
    assert_eq!((ran.fates(), ran.report.restarts), ((10, 0, 0), 2));
}

#[tokio::test(start_paused = true)]
async fn units_that_outlive_their_flow_yield_nothing_and_hold_nothing() {
    static KEPT: OnceLock<Mutex<Vec<Units<Received>>>> = OnceLock::new();
    let ran = run(0..10, |flow| {
        flow.through(|units| {
            KEPT.get_or_init(Mutex::default).lock().unwrap().push(units);
            futures::stream::poll_fn(|cx| {
                let mut kept = KEPT.get().unwrap().lock().unwrap();
                kept.last_mut().unwrap().poll_next_unpin(cx)
            })
            .take(4)
        })
    })
    .await;
    assert_eq!(ran.fates(), (10, 0, 0));
    let mut kept = std::mem::take(&mut *KEPT.get().unwrap().lock().unwrap());
    for units in &mut kept {
        assert!(units.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn o10_work_above_a_through_goes_on_while_it_waits() {
    let db = resource("db");
    let ran = run(0..3, move |flow| {
        flow.json::<u32>()
            .parallel(2, &db, async |n| {
                tokio::time::sleep(Duration::from_millis(700)).await;
                Ok(**n)
            })
            .through(|units| {
                // waits longer than an attempt above may take
                units.then(|unit| async move {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    unit
                })
            })
    })
    .await;
    assert_eq!((ran.fates(), ran.report.restarts), ((3, 0, 0), 0));
}

/// Every second unit only.
struct Second<S> {
    above: Pin<Box<S>>,
    cx: streambreaker::flow::StageCx,
    odd: bool,
}

impl<S: Stage> Stage for Second<S> {
    type Out = S::Out;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Uow<S::Out>>> {
        loop {
            let Some(unit) = std::task::ready!(self.above.as_mut().poll_next(cx)) else {
                return Poll::Ready(None);
            };
            self.odd = !self.odd;
            if self.odd {
                self.cx.filtered(unit);
            } else {
                return Poll::Ready(Some(unit));
            }
        }
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        self.above.as_mut().poll_progress(cx);
    }
}

#[tokio::test(start_paused = true)]
async fn stage_adds_a_step_of_ones_own_under_its_name() {
    let ran = run(0..10, |flow| {
        flow.json::<u32>()
            .stage("second", |above, cx| Second { above: Box::pin(above), cx, odd: false })
            .try_map(|n| if *n == 5 { Err("five").fault() } else { Ok(()) })
    })
    .await;
    assert_eq!(ran.fates(), (4, 5, 1));
}

fn either(flow: Flow<Input>, even: bool) -> BoxedFlow<u32> {
    let numbers = flow.json::<u32>();
    if even {
        numbers.filter(|n| **n % 2 == 0).map(|n| *n).boxed()
    } else {
        numbers.map(|n| *n).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn boxed_gives_flows_of_different_types_one_type() {
    assert_eq!(run(0..10, |flow| either(flow, true)).await.fates(), (5, 5, 0));
    assert_eq!(run(0..10, |flow| either(flow, false)).await.fates(), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn named_names_the_stage_in_faults_and_others_are_numbered() {
    let ran = run(0..3, |flow| {
        let bad = |n: u32, at: u32| if n == at { Err("bad").fault() } else { Ok(n) };
        flow.json::<u32>()
            .map(|n| *n)
            .try_map(move |n| bad(n, 0))
            .try_map(move |n| bad(n, 1))
            .named("second look")
            .try_map(move |n| bad(n, 2))
    })
    .await;
    let stages: Vec<&str> = ran.faults.iter().map(|fault| &*fault.stage).collect();
    assert_eq!(stages, ["try_map", "second look", "try_map#3"]);
    let text = refused(|flow| flow.named("first"));
    assert!(text.contains("a call after a combinator"), "{text}");
    let text = refused(|flow| {
        flow.filter(|_| true)
            .named("same")
            .filter(|_| true)
            .named("same")
            .filter(|_| true)
            .named("")
    });
    assert!(text.contains("`same`") && text.contains("``"), "{text}");
}
